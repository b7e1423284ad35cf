// SPDX-License-Identifier: MIT OR Apache-2.0

//! Every command and event beyond messages and transfers: routing, memory of one's own, counters.

use crate::fake::{batch, commands, get, pair, put, record, ID};
use std::ptr::NonNull;
use usmbd::abi::command::{self, Command};
use usmbd::abi::event;
use usmbd::abi::memory::Negotiated as NegotiatedRecord;
use usmbd::{
    Batch, Claim, ClientGuid, ConnectionId, Error, Event, Events, ListenOptions, Listener,
    ListenerId, MemoryHandle, MemoryRange, Mode, OwnMemory, Phase, Presumption, SendOptions,
    SessionId, TemplateId, Token, Wait, ANY_ID,
};
use zerocopy::{FromZeros, IntoBytes};

/// What one submit of this batch writes: one record.
fn written<'p>(fill: impl FnOnce(&mut Batch<'p>)) -> (Command, u16, u64, Vec<u8>) {
    let mut batch = Batch::new();
    fill(&mut batch);
    let mut all = commands(&batch.to_bytes());
    let (command, header, tail) = all.pop().unwrap();
    assert!(all.is_empty());
    (command, header.flags.get(), header.user_data.get(), tail)
}

fn session() -> SessionId {
    SessionId::new(0xfedc_ba09).unwrap()
}

fn client() -> ClientGuid {
    ClientGuid::new([7; 16]).unwrap()
}

#[test]
fn a_template_is_presumptions_and_response() {
    let response = vec![9; 129];
    let presumptions = [
        Presumption {
            context_type: 1.into(),
            id: 1.into(),
            ..Default::default()
        },
        Presumption {
            context_type: 2.into(),
            id: ANY_ID.into(),
            ..Default::default()
        },
    ];
    let mut batch = Batch::new();
    let template = TemplateId::new(3).unwrap();
    batch
        .set_negotiate_template(template, &presumptions, &response)
        .unwrap();
    batch.clear_negotiate_template(template).unwrap();
    let records = commands(&batch.to_bytes());
    let Command::SetNegotiateTemplate(set) = records[0].0 else {
        panic!()
    };
    assert_eq!((set.template.get(), set.response_length.get()), (3, 129));
    let tail = &records[0].2;
    assert_eq!(tail[..16], *presumptions.as_bytes());
    assert_eq!(tail[16..16 + 129], response);
    assert_eq!(tail[16 + 129..], [0; 7]);
    let Command::SetNegotiateTemplate(clear) = records[1].0 else {
        panic!()
    };
    assert_eq!((clear.template.get(), clear.response_length.get()), (3, 0));
    assert!(records[1].2.is_empty());
}

#[test]
fn claims_name_sessions_and_clients() {
    let mut batch = Batch::new();
    batch.set_session_id(session()).unwrap();
    batch.clear_session_id(session()).unwrap();
    batch.set_client_guid(client()).unwrap();
    batch.clear_client_guid(client()).unwrap();
    let records = commands(&batch.to_bytes());
    assert!(matches!(records[0].0, Command::SetSessionId(c) if c.session_id.get() == 0xfedc_ba09));
    assert!(
        matches!(records[1].0, Command::ClearSessionId(c) if c.session_id.get() == 0xfedc_ba09)
    );
    assert!(matches!(records[2].0, Command::SetClientGuid(c) if c.client_guid == [7; 16]));
    assert!(matches!(records[3].0, Command::ClearClientGuid(c) if c.client_guid == [7; 16]));
}

#[test]
fn names_that_no_record_can_have_do_not_exist() {
    assert!(SessionId::new(0).is_none());
    assert!(ClientGuid::new([0; 16]).is_none());
    assert!(TemplateId::new(4).is_none());
    assert!(OwnMemory::new(0).is_err());
    assert!(OwnMemory::new((1 << 30) + 1).is_err());
}

#[test]
fn a_listener_can_route() {
    let options = ListenOptions {
        mode: Mode::Route,
        ..Default::default()
    };
    let (listen, ..) = written(|batch| batch.listen(&options, 0).unwrap());
    assert!(matches!(listen, Command::Listen(l) if l.mode.get() == command::MODE_ROUTE));
    let (listen, ..) = written(|batch| batch.listen(&Default::default(), 0).unwrap());
    assert!(matches!(listen, Command::Listen(l) if l.mode.get() == command::MODE_TICKET));
}

#[test]
fn a_message_can_stand_in_ranges() {
    let ranges = [
        MemoryRange {
            length: 4.into(),
            ..Default::default()
        },
        MemoryHandle::new(0x8000_0000).range(16, 3),
    ];
    let options = SendOptions {
        quiet: true,
        invalidate: Some(Token(9)),
    };
    let (send, flags, user_data, tail) =
        written(|batch| batch.send_ranges(ID, 5, options, &ranges).unwrap());
    let Command::SendPdu(send) = send else {
        panic!()
    };
    let wanted = command::QUIET | command::INVALIDATE | command::RANGES;
    assert_eq!((flags, user_data), (wanted, 5));
    assert_eq!(send.payload_length.get(), 7);
    assert_eq!(tail, ranges.as_bytes());

    let mut batch = Batch::new();
    let too_long = [MemoryHandle::new(1).range(0, 16 << 20); 2];
    for wrong in [
        &[][..],
        &[MemoryRange::default()],
        &[ranges[0]; 65],
        &too_long,
    ] {
        let result = batch.send_ranges(ID, 0, SendOptions::default(), wrong);
        assert!(matches!(result, Err(Error::Refused(_))));
    }
    assert!(batch.is_empty());
}

#[test]
fn own_memory_is_zeroed_and_registered_where_it_lies() {
    let memory = OwnMemory::new(5000).unwrap();
    let mut bytes = [1; 5000];
    memory.read(0, &mut bytes);
    assert_eq!(bytes, [0; 5000]);
    memory.write(4990, b"0123456789");
    memory.read(4995, &mut bytes[..5]);
    assert_eq!(bytes[..5], *b"56789");
    let (register, _, user_data, _) = written(|batch| batch.register_memory(&memory, 6).unwrap());
    let Command::RegisterMemory(register) = register else {
        panic!()
    };
    let address = memory.pointer().as_ptr() as u64;
    assert_eq!(user_data, 6);
    assert_eq!(
        (register.address.get(), register.length.get()),
        (address, 5000)
    );

    let bytes = [3u8; 10];
    let start = NonNull::from(&bytes).cast();
    let (register, ..) = written(|batch| {
        // SAFETY: nothing is submitted.
        unsafe { batch.register_raw(start, bytes.len(), 0) }.unwrap();
    });
    assert!(matches!(register, Command::RegisterMemory(r) if r.length.get() == 10));
    let mut batch = Batch::new();
    // SAFETY: as above.
    assert!(unsafe { batch.register_raw(start, 0, 0) }.is_err());

    let handle = MemoryHandle::new(0x8000_0001);
    let (unregister, ..) = written(|batch| batch.unregister_memory(handle, 0).unwrap());
    assert!(matches!(unregister, Command::UnregisterMemory(u) if u.handle.get() == 0x8000_0001));
}

#[test]
fn a_child_leaves_alone_what_it_has_where_its_parent_has_memory() {
    const LENGTH: usize = 1 << 20;
    let memory = OwnMemory::new(LENGTH).unwrap();
    let start = memory.pointer().as_ptr();
    // SAFETY: the child makes system calls and ends; no lock is taken there.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the parent's memory is not here, and nothing else is replaced.
        let there = unsafe {
            libc::mmap(
                start.cast(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        drop(memory);
        // SAFETY: where nothing is mapped, it fails.
        let stays = unsafe { libc::madvise(there, LENGTH, libc::MADV_POPULATE_READ) } == 0;
        // SAFETY: ends the child.
        unsafe { libc::_exit(if there == start.cast() && stays { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: `status` is ours.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((ended, status), (child, 0));
}

#[test]
fn questions_and_drop() {
    let (query, ..) = written(|batch| batch.query_statistics(Some(ID), 1).unwrap());
    assert!(matches!(query, Command::QueryStatistics(q) if q.connection.get() == 7));
    let (query, ..) = written(|batch| batch.query_statistics(None, 1).unwrap());
    assert!(matches!(query, Command::QueryStatistics(q) if q.connection.get() == 0));
    let (list, ..) = written(|batch| batch.list_connections(Some(ID), 1).unwrap());
    assert!(matches!(list, Command::ListConnections(l) if l.after.get() == 7));
    let (drop, ..) = written(|batch| batch.drop_connection(ID).unwrap());
    assert!(matches!(drop, Command::Drop(d) if d.connection.get() == 7));
}

fn negotiated() -> NegotiatedRecord {
    NegotiatedRecord {
        max_send_size: 1364.into(),
        ..Default::default()
    }
}

/// The only event of a read().
fn only(bytes: &[u8]) -> Event<'_> {
    let mut events = Events::parse(bytes).unwrap();
    let event = events.next().unwrap();
    assert!(events.next().is_none());
    event
}

#[test]
fn a_routed_connection_says_what_matched_and_what_was_answered() {
    let body = event::ConnectionRouted {
        connection: 7.into(),
        claim: event::CLAIM_SESSION_ID.into(),
        fabric: 2.into(),
        negotiated: negotiated(),
        client_guid: [7; 16],
        session_id: 0xfedc_ba09.into(),
        ..Default::default()
    };
    let bytes = batch(&[record(0, 0, body, &[])]);
    let Event::ConnectionRouted(routed) = only(&bytes) else {
        panic!()
    };
    assert_eq!((routed.connection, routed.claim), (ID, Claim::Session));
    assert_eq!(routed.client_guid, Some(client()));
    assert_eq!(routed.session_id, Some(session()));
    assert_eq!(routed.established.negotiated, negotiated());

    let response = [5; 130];
    let mut body = event::NegotiateAnswered {
        connection: 7.into(),
        payload_length: 130.into(),
        template: 2.into(),
    };
    let bytes = batch(&[record(0, 0, body, &response)]);
    let Event::NegotiateAnswered(answered) = only(&bytes) else {
        panic!()
    };
    assert_eq!((answered.connection, answered.template), (ID, 2));
    assert_eq!(answered.response, response);
    body.payload_length = 137.into();
    let short = batch(&[record(0, 0, body, &response)]);
    assert!(matches!(Events::parse(&short), Err(Error::Malformed(_))));
}

#[test]
fn a_ready_connection_says_what_is_known_of_it() {
    let mut body = event::ConnectionReady {
        connection: 7.into(),
        ..Default::default()
    };
    let bytes = batch(&[record(0, 0, body, &[])]);
    assert!(matches!(only(&bytes), Event::ConnectionReady(ready) if ready.unclaimed.is_none()));
    body.negotiated = negotiated();
    body.client_guid = [7; 16];
    let bytes = batch(&[record(0, 0, body, &[])]);
    let Event::ConnectionReady(ready) = only(&bytes) else {
        panic!()
    };
    let unclaimed = ready.unclaimed.unwrap();
    assert_eq!(unclaimed.client_guid, Some(client()));
    assert_eq!(unclaimed.session_id, None);
}

#[test]
fn a_listener_passes_over_its_devices() {
    let (context, device) = pair();
    let listening = event::Listening {
        listener: 4.into(),
        ..Default::default()
    };
    let changed = event::ListenerChanged {
        listener: 4.into(),
        infiniband_devices: 2.into(),
        iwarp_devices: 1.into(),
    };
    let ready = event::ConnectionReady {
        listener: 4.into(),
        connection: 7.into(),
        ..Default::default()
    };
    put(&device, &batch(&[record(0, 0, listening, &[])]));
    let listener = Listener::open(context, &ListenOptions::default()).unwrap();
    let bytes = batch(&[record(0, 0, changed, &[])]);
    put(&device, &bytes);
    put(&device, &batch(&[record(0, 0, ready, &[])]));
    assert_eq!(listener.next(Wait::No).unwrap().connection, ID);
    let Event::ListenerChanged {
        listener,
        infiniband_devices,
        iwarp_devices,
    } = only(&bytes)
    else {
        panic!()
    };
    assert_eq!(listener, ListenerId::new(4));
    assert_eq!((infiniband_devices, iwarp_devices), (2, 1));
}

#[test]
fn registered_and_unregistered_memory() {
    let registered = event::MemoryRegistered {
        handle: 0x8000_0000.into(),
        length: 5000.into(),
        ..Default::default()
    };
    let bytes = batch(&[record(0, 6, registered, &[])]);
    let Event::MemoryRegistered {
        user_data: 6,
        registered,
    } = only(&bytes)
    else {
        panic!()
    };
    assert_eq!(registered.length, 5000);
    assert_eq!(registered.handle.number(), 0x8000_0000);
    let unregistered = event::MemoryUnregistered {
        handle: 0x8000_0000.into(),
        ..Default::default()
    };
    let bytes = batch(&[record(0, 8, unregistered, &[])]);
    assert!(matches!(
        only(&bytes),
        Event::MemoryUnregistered { user_data: 8, handle } if handle == registered.handle
    ));
}

fn info(number: u64) -> event::ConnectionInfo {
    let mut info = event::ConnectionInfo::new_zeroed();
    info.connection = number.into();
    info.phase = event::PHASE_SERVING.into();
    info.device[..4].copy_from_slice(b"rxe0");
    info.uid = 1000.into();
    info.counters.pdus_sent = (number * 10).into();
    info
}

#[test]
fn statistics_wait_for_their_answer() {
    let (context, device) = pair();
    let mut body = event::Statistics::new_zeroed();
    body.connection = 7.into();
    body.counters.rdma_writes = 3.into();
    put(&device, &batch(&[record(0, 0, body, &[])]));
    assert_eq!(context.statistics(Some(ID)).unwrap().rdma_writes.get(), 3);
    assert!(matches!(
        commands(&get(&device))[0].0,
        Command::QueryStatistics(_)
    ));
}

#[test]
fn the_list_of_connections_is_asked_for_until_it_is_whole() {
    let (context, device) = pair();
    let listed = |numbers: &[u64], left: u32| {
        let entries: Vec<_> = numbers.iter().copied().map(info).collect();
        let body = event::Connections {
            count: (numbers.len() as u32).into(),
            left: left.into(),
        };
        batch(&[record(0, 0, body, entries.as_bytes())])
    };
    put(&device, &listed(&[3, 5], 1));
    put(&device, &listed(&[9], 0));
    let connections = context.connections().unwrap();
    let numbers: Vec<u64> = connections.iter().map(|c| c.connection.number()).collect();
    assert_eq!(numbers, [3, 5, 9]);
    assert_eq!(connections[0].device, "rxe0");
    assert_eq!(connections[0].phase, Phase::Serving);
    assert_eq!((connections[0].uid, connections[0].local), (1000, None));
    assert_eq!(connections[2].counters.pdus_sent.get(), 90);
    for after in [0, 5] {
        let sent = commands(&get(&device));
        assert!(matches!(sent[0].0, Command::ListConnections(l) if l.after.get() == after));
    }

    let bytes = listed(&[3, 5], 7);
    let Event::Connections { list, .. } = only(&bytes) else {
        panic!()
    };
    assert_eq!((list.iter().count(), list.left()), (2, 7));
    assert_eq!(list.iter().next().unwrap().connection, ConnectionId::new(3));
    let mut short = bytes;
    short[16 + 16] = 3;
    assert!(matches!(Events::parse(&short), Err(Error::Malformed(_))));
}
