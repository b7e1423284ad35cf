// SPDX-License-Identifier: MIT OR Apache-2.0

//! A connection whose device is a script.

use super::fake::{self, receive, Script, Seen, BUFFERS};
use super::*;
use crate::smb2::{self, Header, ReadResponse};
use std::os::unix::fs::FileExt;
use usmbd::abi::event;
use zerocopy::{FromZeros, IntoBytes};

fn pair() -> (Script, Connection<Script>) {
    fake::pair(Side::Server)
}

/// As smbd does: the prefix, then as many bytes as it says.
fn receive_message(connection: &mut Connection<Script>) -> io::Result<Vec<u8>> {
    let prefix = receive(connection, 4)?;
    let length = u32::from_be_bytes(prefix.try_into().unwrap()) as usize;
    receive(connection, length)
}

fn send(connection: &mut Connection<Script>, message: &[u8]) -> io::Result<usize> {
    let prefix = (message.len() as u32).to_be_bytes();
    let result = connection.send(&[&prefix, &[], message], false);
    connection.settle();
    result
}

fn is_again<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
}

fn request(command: u16, id: u64, length: u32) -> Vec<u8> {
    let mut header = Header::new_zeroed();
    header.protocol_id = smb2::PROTOCOL_ID;
    header.command = command.into();
    header.message_id = id.into();
    let mut message = [header.as_bytes(), &[0; 64]].concat();
    message[64] = 49;
    let (channel, remaining, info) = match command {
        smb2::READ => (100, 68, 108),
        _ => (96, 100, 104),
    };
    message[channel] = 2;
    message[remaining..remaining + 4].copy_from_slice(&length.to_le_bytes());
    message[info] = 112;
    message[info + 2] = 16;
    message[120..124].copy_from_slice(&(100 + id as u32).to_le_bytes());
    message[124..128].copy_from_slice(&length.to_le_bytes());
    message
}

fn read_reply(id: u64, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_zeroed();
    header.protocol_id = smb2::PROTOCOL_ID;
    header.command = smb2::READ.into();
    header.flags = smb2::FLAG_RESPONSE.into();
    header.message_id = id.into();
    let mut body = ReadResponse::new_zeroed();
    body.structure_size = 17.into();
    body.data_offset = 80;
    body.data_length = (data.len() as u32).into();
    [header.as_bytes(), body.as_bytes(), data].concat()
}

#[test]
fn pieces_become_a_message_with_a_prefix() {
    let (script, mut connection) = pair();
    let message: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    script.message(&message, 1340);
    script.message(b"next", 1340);
    assert_eq!(receive_message(&mut connection).unwrap(), message);
    // The next one is still in the device: nothing was read ahead, so nothing has to wake smbd.
    assert_eq!(script.0.events.borrow().len(), 1);
    assert_eq!(script.seen(), []);
    // In small bites, as a program may read.
    let mut got = Vec::new();
    while got.len() < 8 {
        got.extend(receive(&mut connection, 3).unwrap());
    }
    assert_eq!(got, b"\0\0\0\x04next");
    assert!(is_again(receive(&mut connection, 4)));
}

#[test]
fn a_write_waits_for_its_data_and_later_ones_are_fetched_meanwhile() {
    let (script, mut connection) = pair();
    script.message(&request(smb2::WRITE, 1, 5000), 4096);
    script.message(&request(smb2::WRITE, 2, 70_000), 4096);
    script.message(b"plain", 4096);
    assert!(is_again(receive(&mut connection, 4)));
    let reads = script.seen();
    let [Seen::Read {
        place: first,
        user_data: one,
    }, Seen::Read {
        place: second,
        user_data: two,
    }] = &reads[..]
    else {
        panic!("{reads:?}");
    };
    // The later one is there first.
    for (place, byte) in [(second, 2u8), (first, 1)] {
        for (offset, length) in place {
            script
                .0
                .memory
                .write_all_at(&vec![byte; *length], *offset)
                .unwrap();
        }
    }
    script.complete(*two);
    assert!(is_again(receive(&mut connection, 4)));
    script.complete(*one);
    let message = receive_message(&mut connection).unwrap();
    assert_eq!(message.len(), 112 + 5000);
    assert!(message[112..].iter().all(|byte| *byte == 1));
    // The second is ready, and the device has nothing to say: it is made to.
    assert_eq!(script.seen(), [Seen::Nop]);
    let message = receive_message(&mut connection).unwrap();
    assert_eq!(message.len(), 112 + 70_000);
    assert!(message[112..].iter().all(|byte| *byte == 2));
    assert_eq!(receive_message(&mut connection).unwrap(), b"plain");
    assert_eq!(script.seen(), []);
    assert!(is_again(receive(&mut connection, 4)));
}

#[test]
fn a_read_reply_goes_by_rdma_in_one_write() {
    let (script, mut connection) = pair();
    script.message(&request(smb2::READ, 3, 100_000), 4096);
    receive_message(&mut connection).unwrap();
    let data = vec![9; 90_000];
    let reply = read_reply(3, &data);
    assert_eq!(send(&mut connection, &reply).unwrap(), reply.len() + 4);
    let seen = script.seen();
    let [Seen::Write {
        data: written,
        quiet: true,
        ..
    }, Seen::Send {
        message,
        invalidate: 103,
    }] = &seen[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(written, &data);
    assert_eq!(message.len(), 80);
    // The room is taken back when the message is acknowledged, without an event.
    assert_eq!(connection.flights.len(), 1);
    script.0.completed.set(80);
    connection.reclaim();
    assert_eq!(connection.flights.len(), 0);
}

#[test]
fn without_room_smbd_waits_and_is_woken() {
    let (script, mut connection) = pair();
    for id in 0..8 {
        script.message(&request(smb2::READ, id, 1 << 20), 4096);
        receive_message(&mut connection).unwrap();
    }
    let mut loud = None;
    for id in 0..u64::from(BUFFERS) {
        send(&mut connection, &read_reply(id, &vec![id as u8; 1 << 20])).unwrap();
        if let Some(Seen::Write {
            quiet: false,
            user_data,
            ..
        }) = script.seen().first()
        {
            loud = Some(*user_data);
        }
    }
    let reply = read_reply(4, &vec![4; 1 << 20]);
    assert!(is_again(send(&mut connection, &reply)));
    assert!(connection.is_blocked());
    // When the area fills up, completions are told, so one will come.
    script.complete(loud.expect("no RDMA write tells of its completion"));
    assert!(is_again(receive(&mut connection, 4)));
    assert!(!connection.is_blocked());
    assert_eq!(send(&mut connection, &reply).unwrap(), reply.len() + 4);
    let seen = script.seen();
    assert!(matches!(&seen[..], [Seen::Write { data, .. }, Seen::Send { .. }] if data[0] == 4));
}

/// Of the RDMA reads that were seen, and nothing else was.
fn fetches(script: &Script) -> Vec<u64> {
    let number = |seen| match seen {
        Seen::Read { user_data, .. } => user_data,
        other => panic!("{other:?}"),
    };
    script.seen().into_iter().map(number).collect()
}

#[test]
fn data_that_smbd_does_not_take_leaves_room_for_its_answers() {
    let (script, mut connection) = pair();
    script.message(&request(smb2::READ, 0, 1 << 20), 4096);
    receive_message(&mut connection).unwrap();
    for id in 1..=u64::from(BUFFERS) {
        script.message(&request(smb2::WRITE, id, 1 << 20), 4096);
    }
    assert!(is_again(receive(&mut connection, 4)));
    let first = fetches(&script);
    assert_eq!(first.len(), BUFFERS as usize / 2);
    first
        .iter()
        .for_each(|user_data| script.complete(*user_data));
    // smbd reads nothing, and has something to send.
    script.message(b"behind", 4096);
    while let Pumped::Event { .. } = connection.pump().unwrap() {}
    assert_eq!(script.seen(), []);
    send(&mut connection, &read_reply(0, &vec![7; 1 << 20])).unwrap();
    let seen = script.seen();
    assert!(
        matches!(
            &seen[..],
            [Seen::Write { .. }, Seen::Send { .. }, Seen::Nop]
        ),
        "{seen:?}"
    );
    // Where it takes what is there, the others follow.
    receive_message(&mut connection).unwrap();
    assert_eq!(fetches(&script).len(), 1);
}

#[test]
fn connections_of_a_process_share_the_room_for_data() {
    let (script, mut connection) = pair();
    let mut other = Connection::new(script.clone(), Side::Server).unwrap();
    // More than the share of both, and it is alone.
    let mut compound = request(smb2::WRITE, 1, 2 << 20);
    compound[20] = 128;
    compound.extend(request(smb2::WRITE, 2, 1 << 20));
    script.message(&compound, 4096);
    assert!(is_again(receive(&mut connection, 4)));
    let numbers = fetches(&script);
    assert_eq!(numbers.len(), 2);
    script.message(&request(smb2::WRITE, 3, 4096), 4096);
    assert!(is_again(receive(&mut other, 4)));
    // It looks again soon.
    assert_eq!(script.seen(), [Seen::Nop]);
    assert!(is_again(receive(&mut other, 4)));
    assert_eq!(script.seen(), [Seen::Nop]);
    script.0.events.take();
    numbers
        .iter()
        .for_each(|user_data| script.complete(*user_data));
    receive_message(&mut connection).unwrap();
    script.seen();
    script.0.events.take();
    other.start_fetches();
    assert_eq!(fetches(&script).len(), 1);
}

#[test]
fn unused_memory_is_given_back() {
    let (script, mut connection) = pair();
    script.message(&request(smb2::READ, 1, 3 << 20), 4096);
    receive_message(&mut connection).unwrap();
    send(&mut connection, &read_reply(1, &vec![1; 3 << 20])).unwrap();
    script.0.completed.set(script.0.accepted.get());
    assert!(is_again(receive(&mut connection, 4)));
    assert_eq!(connection.flights.len(), 0);
    // There is nothing left to do.
    assert_eq!(script.0.area.area.trim(Duration::ZERO).unwrap(), 0);
}

#[test]
fn at_a_limit_of_memory_pieces_of_what_there_is_must_do() {
    let (script, _) = pair();
    let area = &script.0.area.area;
    script.0.memory.set_len(2 << 20).unwrap();
    let first = area.lease(1 << 20).unwrap();
    let second = area.lease(4096).unwrap();
    drop(first);
    let third = area.lease(4096).unwrap();
    // Neither buffer has all of it, and there are no others.
    assert_eq!(area.lease(1 << 20).unwrap().ranges(1 << 20).len(), 2);
    assert!(area.lease(2 << 20).is_none());
    drop((second, third));
}

/// The answer to a READ, for whose data there is no memory.
fn answer_without_memory() -> (Script, Connection<Script>, Vec<u8>) {
    let (script, mut connection) = pair();
    script.0.memory.set_len(0).unwrap();
    script.message(&request(smb2::READ, 1, 4096), 4096);
    receive_message(&mut connection).unwrap();
    let reply = read_reply(1, &[1; 4096]);
    assert!(is_again(send(&mut connection, &reply)));
    (script, connection, reply)
}

#[test]
fn a_limit_of_memory_that_lasts_ends_the_connection() {
    let long_ago = Instant::now().checked_sub(NO_ROOM_LIMIT).unwrap();
    // A WRITE.
    let (script, mut connection) = pair();
    script.0.memory.set_len(0).unwrap();
    script.message(&request(smb2::WRITE, 1, 4096), 4096);
    assert!(is_again(receive(&mut connection, 4)));
    assert_eq!(script.seen(), [Seen::Nop]);
    connection.no_room = Some((long_ago, true));
    assert!(is_again(receive(&mut connection, 4)));
    assert_eq!(script.seen()[0], Seen::Disconnect);
    // The answer to a READ.
    let (script, mut connection, reply) = answer_without_memory();
    connection.no_room = Some((long_ago, true));
    assert!(is_again(send(&mut connection, &reply)));
    assert!(script.seen().contains(&Seen::Disconnect));
    let error = send(&mut connection, &reply).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
}

#[test]
fn a_limit_of_memory_that_does_not_last_is_forgotten() {
    let (script, mut connection, reply) = answer_without_memory();
    assert!(connection.no_room.is_some());
    script.0.memory.set_len(1 << 20).unwrap();
    send(&mut connection, &reply).unwrap();
    assert_eq!(connection.no_room, None);
}

#[test]
fn without_room_smbd_hears_of_the_end() {
    let (script, mut connection) = pair();
    for id in 0..=u64::from(BUFFERS) {
        script.message(&request(smb2::READ, id, 1 << 20), 4096);
        receive_message(&mut connection).unwrap();
    }
    for id in 0..u64::from(BUFFERS) {
        send(&mut connection, &read_reply(id, &vec![1; 1 << 20])).unwrap();
    }
    let reply = read_reply(u64::from(BUFFERS), &vec![1; 1 << 20]);
    assert!(is_again(send(&mut connection, &reply)));
    script.0.state.set(usmbd::State::Disconnected);
    let error = send(&mut connection, &reply).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
}

#[test]
fn where_lists_fill_the_device_a_completion_will_tell() {
    let (script, mut connection) = pair();
    let read = |connection: &mut Connection<Script>, id, descriptors: u16| {
        let mut message = request(smb2::READ, id, 4096);
        message[110..112].copy_from_slice(&(16 * descriptors).to_le_bytes());
        let descriptor = message[112..].to_vec();
        message.extend(descriptor.repeat(usize::from(descriptors) - 1));
        script.message(&message, 4096);
        receive_message(connection).unwrap();
        send(connection, &read_reply(id, &[6; 4096])).unwrap();
        match script.seen()[..] {
            [Seen::Write {
                quiet, user_data, ..
            }, Seen::Send { .. }] => (quiet, user_data),
            ref seen => panic!("{seen:?}"),
        }
    };
    assert!(read(&mut connection, 1, 2000).0);
    let (is_quiet, loud) = read(&mut connection, 2, 2000);
    assert!(!is_quiet);
    script.complete(loud);
    assert!(is_again(receive(&mut connection, 4)));
    assert!(read(&mut connection, 3, 1000).0);
    // What is acknowledged has no lists any more.
    assert!(!read(&mut connection, 4, 1000).0);
    script.0.completed.set(script.0.accepted.get());
    assert!(read(&mut connection, 5, 3000).0);
}

#[test]
fn who_cannot_send_takes_in_no_more_than_it_reads_soon() {
    let (script, mut connection) = pair();
    let count = 2 * MAX_HELD / 60_000;
    let message = vec![8; 60_000];
    (0..count).for_each(|_| script.message(&message, 60_000));
    script.event(0, event::SendReady::default(), &[]);
    script.0.room.set(0);
    for _ in 0..3 {
        assert!(is_again(send(&mut connection, b"later")));
        assert!(connection.held <= MAX_AHEAD + message.len());
    }
    // smbd reads on, and what tells of room comes behind.
    for _ in 0..count {
        assert_eq!(receive_message(&mut connection).unwrap(), message);
    }
    assert!(is_again(receive(&mut connection, 4)));
    send(&mut connection, b"later").unwrap();
    assert!(matches!(&script.seen()[..], [.., Seen::Send { message, .. }] if message == b"later"));
}

/// The RDMA write of a READ's answer was taken, its message not: smbd need not know.
fn half_taken() -> (Script, Connection<Script>) {
    let (script, mut connection) = pair();
    script.message(&request(smb2::READ, 1, 4096), 4096);
    receive_message(&mut connection).unwrap();
    script.0.room.set(1);
    let reply = read_reply(1, &[5; 4096]);
    assert_eq!(send(&mut connection, &reply).unwrap(), reply.len() + 4);
    assert_eq!(script.seen().len(), 1);
    (script, connection)
}

#[test]
fn what_was_half_taken_is_finished_first() {
    let (script, mut connection) = half_taken();
    assert!(is_again(send(&mut connection, b"later")));
    assert!(connection.is_blocked());
    script.0.room.set(usize::MAX);
    script.event(0, event::SendReady::default(), &[]);
    assert!(is_again(receive(&mut connection, 4)));
    assert!(!connection.is_blocked());
    send(&mut connection, b"later").unwrap();
    let seen = script.seen();
    assert!(
        matches!(&seen[..], [Seen::Send { message: first, .. }, Seen::Send { message, .. }]
        if first.len() == 80 && message == b"later")
    );
}

#[test]
fn a_reply_that_is_lost_ends_the_connection() {
    let (script, mut connection) = half_taken();
    // smbd thinks it sent, and the device does not take the rest of it.
    script.0.refusal.set(Some(libc::ENOMEM));
    script.event(0, event::SendReady::default(), &[]);
    assert!(is_again(receive(&mut connection, 4)));
    assert_eq!(script.seen(), [Seen::Disconnect]);
    let error = send(&mut connection, b"later").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
}

#[test]
fn messages_in_several_calls_are_put_together() {
    let (script, mut connection) = pair();
    let stream = [&[0, 0, 0, 5][..], b"hello", &[0, 0, 0, 3], b"two"].concat();
    let mut rest = &stream[..];
    for step in [2, 3, 1, 100, 100] {
        let (now, _) = rest.split_at(step.min(rest.len()));
        let taken = connection.send(&[now], false).unwrap();
        rest = &rest[taken..];
    }
    assert!(rest.is_empty());
    let seen = script.seen();
    assert!(
        matches!(&seen[..], [Seen::Send { message: a, .. }, Seen::Send { message: b, .. }]
        if a == b"hello" && b == b"two")
    );
    // NetBIOS' own messages are swallowed, a negative session response here.
    assert_eq!(
        connection.send(&[&[0x83, 0, 0, 1, 0x81]], false).unwrap(),
        5
    );
    assert_eq!(script.seen(), []);
}

#[test]
fn too_long_a_message_is_refused_and_a_placed_one_is_not() {
    let (script, mut connection) = pair();
    let error = send(&mut connection, &vec![0; 173_911]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    script.message(&request(smb2::READ, 1, 1 << 20), 4096);
    receive_message(&mut connection).unwrap();
    send(&mut connection, &read_reply(1, &vec![1; 1 << 20])).unwrap();
}

#[test]
fn the_end_is_zero_bytes_and_a_broken_pipe() {
    let (script, mut connection) = pair();
    script.message(b"last", 4096);
    let body = event::Disconnected {
        reason: 2.into(),
        ..Default::default()
    };
    script.event(0, body, &[]);
    assert_eq!(receive_message(&mut connection).unwrap(), b"last");
    assert_eq!(receive(&mut connection, 4).unwrap(), b"");
    let error = send(&mut connection, b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
}

#[test]
fn a_signed_read_with_a_channel_ends_the_connection() {
    let (script, mut connection) = pair();
    let mut message = request(smb2::READ, 1, 4096);
    message[16] |= smb2::FLAG_SIGNED as u8;
    script.message(&message, 4096);
    assert!(is_again(receive(&mut connection, 4)));
    assert_eq!(script.seen(), [Seen::Disconnect]);
}
