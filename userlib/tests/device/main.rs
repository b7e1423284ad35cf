// SPDX-License-Identifier: MIT OR Apache-2.0

//! The library against a socket pair that stands for the device: a SOCK_SEQPACKET socket keeps
//! the boundaries of writes and reads as the device does.

mod fake;
mod interface;

use fake::{batch, commands, get, pair, piece, put, record, unknown, ID};
use std::time::Duration;
use usmbd::abi::status::{Reason, Status};
use usmbd::abi::{command, event};
use usmbd::{
    Assembler, Batch, BufferDescriptorV1, Connection, Device, Error, Event, EventBuffer, Features,
    Interest, ListenOptions, Listener, MemoryRange, SendOptions, Ticket, Token, Wait,
};

#[test]
fn a_batch_is_one_write_and_gathers_payload() {
    let (context, device) = pair();
    let mut batch = Batch::new();
    batch.nop(1).unwrap();
    batch.send(ID, 2, &[b"he", b"", b"llo"]).unwrap();
    let options = SendOptions {
        quiet: true,
        invalidate: Some(Token(9)),
    };
    batch.send_owned(ID, 3, options, vec![1; 8]).unwrap();
    let ranges = [MemoryRange {
        length: 5.into(),
        ..Default::default()
    }];
    let descriptors = [BufferDescriptorV1::default(); 4095];
    batch
        .rdma_write(ID, 4, false, &ranges, &descriptors)
        .unwrap();
    let bytes = batch.to_bytes();
    assert_eq!(context.submit(&mut batch, Wait::Yes).unwrap(), 4);
    assert!(batch.is_empty());
    assert_eq!(context.submit(&mut batch, Wait::Yes).unwrap(), 0);

    let written = get(&device);
    assert_eq!(written, bytes);
    let commands = commands(&written);
    assert!(matches!(commands[0].0, command::Command::Nop(_)));
    assert_eq!(commands[1].2, b"hello\0\0\0");
    assert_eq!(commands[1].1.user_data.get(), 2);
    let command::Command::SendPdu(send) = commands[2].0 else {
        panic!()
    };
    assert_eq!(send.invalidate_token.get(), 9);
    assert_eq!(
        commands[2].1.flags.get(),
        command::QUIET | command::INVALIDATE
    );
    assert_eq!(commands[3].2.len(), 16 * 4096);
}

#[test]
fn more_parts_than_an_iovec_has_are_joined() {
    let (context, device) = pair();
    let bytes: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    let parts: Vec<&[u8]> = bytes.chunks(1).collect();
    let mut batch = Batch::new();
    batch.send(ID, 0, &parts).unwrap();
    context.submit_all(&mut batch).unwrap();
    assert_eq!(commands(&get(&device))[0].2, bytes);
}

#[test]
fn more_records_than_an_iovec_has_take_two_writes() {
    let (context, device) = pair();
    let mut batch = Batch::new();
    for user_data in 0..1500 {
        batch.nop(user_data).unwrap();
    }
    assert_eq!(context.submit(&mut batch, Wait::No).unwrap(), 1024);
    assert_eq!(batch.len(), 476);
    context.submit_all(&mut batch).unwrap();
    let all = [get(&device), get(&device)].concat();
    let numbers: Vec<u64> = commands(&all).iter().map(|c| c.1.user_data.get()).collect();
    assert_eq!(numbers, (0..1500).collect::<Vec<_>>());
}

#[test]
fn what_no_record_can_say_is_refused_and_not_added() {
    let mut batch = Batch::new();
    let range = MemoryRange::default();
    let descriptor = BufferDescriptorV1::default();
    let refused = [
        batch.send(ID, 0, &[]),
        batch.send(ID, 0, &[b"", b""]),
        batch.send_owned(ID, 0, SendOptions::default(), vec![0; (16 << 20) + 1]),
        batch.rdma_read(ID, 0, false, &[], &[descriptor]),
        batch.rdma_read(ID, 0, false, &[range], &[]),
        batch.rdma_read(ID, 0, false, &[range; 65], &[descriptor]),
        batch.rdma_write(ID, 0, false, &[range], &[descriptor; 4096]),
        batch.listen(
            &ListenOptions {
                backlog: 4097,
                ..Default::default()
            },
            0,
        ),
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Refused(_))));
    }
    assert!(batch.is_empty());
}

#[test]
fn a_full_device_keeps_the_batch() {
    let (context, device) = pair();
    let payload = [5; 30_000];
    let mut batch = Batch::new();
    let mut written = 0;
    let error = loop {
        batch.send(ID, written, &[&payload]).unwrap();
        match context.submit(&mut batch, Wait::No) {
            Ok(count) => assert_eq!(count, 1),
            Err(error) => break error,
        }
        written += 1;
        assert!(written < 1000);
    };
    assert!(error.would_block());
    assert_eq!(batch.len(), 1);
    assert!(
        !context
            .poll(Interest::Writable, Some(Duration::ZERO))
            .unwrap()
            .writable
    );
    get(&device);
    context.submit_all(&mut batch).unwrap();
    for number in 1..=written {
        assert_eq!(commands(&get(&device))[0].1.user_data.get(), number);
    }
}

#[test]
fn an_error_keeps_the_first_record_until_it_is_dropped() {
    let (context, device) = pair();
    drop(device);
    // SAFETY: a closed socket must not end the test by a signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let mut batch = Batch::new();
    batch.nop(1).unwrap();
    let error = context.submit(&mut batch, Wait::Yes).unwrap_err();
    assert_eq!(error.errno(), libc::EPIPE);
    assert_eq!(error.to_string(), "NOP: Broken pipe (os error 32)");
    assert_eq!(batch.len(), 1);
    assert!(batch.drop_first());
    assert!(!batch.drop_first());
}

#[test]
fn events_come_in_order_and_unknown_ones_are_skipped() {
    let (context, device) = pair();
    let failed = event::RdmaComplete {
        connection: 7.into(),
        status: Status::RemoteAccess.number().into(),
        ..Default::default()
    };
    let newer = event::PduSent {
        connection: 7.into(),
        status: 999.into(),
        ..Default::default()
    };
    let end = event::Disconnected {
        connection: 7.into(),
        reason: Reason::CreditOverrun.number().into(),
        ..Default::default()
    };
    put(
        &device,
        &batch(&[
            unknown(),
            record(0, 11, event::NopDone {}, &[]),
            piece(5, 0, b"hello"),
            unknown(),
            record(0, 12, failed, &[]),
            record(0, 13, newer, &[]),
            record(0, 0, end, &[]),
            unknown(),
        ]),
    );
    let mut buffer = EventBuffer::default();
    let events = buffer.read(&context, Wait::Yes).unwrap();
    assert_eq!((events.still_queued(), events.next_length()), (3, 40));
    let events: Vec<Event> = events.collect();
    assert_eq!(events.len(), 5);
    assert!(matches!(events[0], Event::NopDone { user_data: 11 }));
    let Event::PduReceived(piece) = events[1] else {
        panic!()
    };
    assert!(piece.is_whole() && piece.payload == b"hello" && piece.invalidated.is_none());
    let Event::RdmaComplete {
        user_data: 12,
        outcome,
        ..
    } = events[2]
    else {
        panic!()
    };
    assert_eq!(outcome.unwrap_err().status(), Some(Status::RemoteAccess));
    let Event::PduSent { outcome, .. } = events[3] else {
        panic!()
    };
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "status 999 of a newer driver"
    );
    let Event::Disconnected { reason, .. } = events[4] else {
        panic!()
    };
    assert!(!reason.is_orderly() && reason.reason() == Some(Reason::CreditOverrun));

    assert!(buffer.read(&context, Wait::No).unwrap_err().would_block());
    assert!(
        !context
            .poll(Interest::Both, Some(Duration::ZERO))
            .unwrap()
            .readable
    );
}

#[test]
fn malformed_batches_are_errors_and_never_panics() {
    let good = batch(&[
        piece(20, 4, b"0123456"),
        record(0, 1, event::NopDone {}, &[]),
    ]);
    assert!(usmbd::Events::parse(&good).is_ok());
    for length in 0..good.len() {
        assert!(
            usmbd::Events::parse(&good[..length]).is_err(),
            "cut at {length}"
        );
    }
    for index in 0..good.len() {
        for value in [0, 1, 7, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[index] = value;
            if let Ok(events) = usmbd::Events::parse(&bad) {
                assert!(events.count() <= 2);
            }
        }
    }
    let past_its_message = batch(&[piece(10, 4, b"0123456")]);
    assert!(matches!(
        usmbd::Events::parse(&past_its_message),
        Err(Error::Malformed(_))
    ));
}

#[test]
fn pieces_become_messages() {
    let mut assembler = Assembler::new();
    let bytes = batch(&[
        piece(7, 0, b"abc"),
        piece(7, 3, b"defg"),
        piece(2, 0, b"hi"),
    ]);
    let mut messages = Vec::new();
    for event in usmbd::Events::parse(&bytes).unwrap() {
        let Event::PduReceived(piece) = event else {
            panic!()
        };
        messages.extend(assembler.push(&piece).unwrap());
    }
    let payloads: Vec<&[u8]> = messages.iter().map(|message| &*message.payload).collect();
    assert_eq!(payloads, [&b"abcdefg"[..], b"hi"]);

    // A gap, and after it a new start.
    let bytes = batch(&[piece(9, 0, b"abc"), piece(9, 4, b"e"), piece(1, 0, b"x")]);
    let results: Vec<_> = usmbd::Events::parse(&bytes)
        .unwrap()
        .map(|event| match event {
            Event::PduReceived(piece) => assembler.push(&piece).map(|m| m.is_some()),
            _ => panic!(),
        })
        .collect();
    assert!(matches!(
        results[..],
        [Ok(false), Err(Error::Malformed(_)), Ok(true)]
    ));
}

#[test]
fn hello_waits_for_its_answer_alone() {
    let (context, device) = pair();
    let answer = event::HelloDone {
        version: usmbd::abi::VERSION.into(),
        features: 1.into(),
        ..Default::default()
    };
    put(&device, &batch(&[record(0, 0, answer, &[])]));
    let (version, features) = context.hello(Features::AT_MOST_ONE).unwrap();
    assert_eq!(
        (version, features),
        (usmbd::abi::VERSION, Features::AT_MOST_ONE)
    );
    let sent = commands(&get(&device));
    assert!(matches!(sent[0].0, command::Command::Hello(hello) if hello.features.get() == 1));

    let other = event::HelloDone {
        version: 0x0002_0000.into(),
        ..Default::default()
    };
    put(&device, &batch(&[record(0, 0, other, &[])]));
    assert!(matches!(
        context.hello(Features::default()),
        Err(Error::Malformed(_))
    ));
}

#[test]
fn listen_and_accept_tell_what_went_wrong() {
    let (context, device) = pair();
    let no = event::Listening {
        status: Status::AddressInUse.number().into(),
        ..Default::default()
    };
    put(&device, &batch(&[record(0, 0, no, &[])]));
    let error = Listener::open(context.try_clone().unwrap(), &ListenOptions::default());
    let error = error.unwrap_err();
    assert_eq!(error.errno(), libc::EADDRINUSE);
    assert_eq!(error.to_string(), "LISTEN: the address or port is in use");

    let no = event::Listening {
        status: Status::AddressNotAvailable.number().into(),
        ..Default::default()
    };
    put(&device, &batch(&[record(0, 0, no, &[])]));
    let error = Listener::open(context.try_clone().unwrap(), &ListenOptions::default());
    assert!(error.unwrap_err().to_string().contains("`rdma link`"));

    let gone = event::Accepted {
        status: Status::Disconnected.number().into(),
        ..Default::default()
    };
    put(&device, &batch(&[record(0, 0, gone, &[])]));
    let error = Connection::accept(&context, Ticket::new([3; 16])).unwrap_err();
    assert_eq!(error.errno(), libc::ECONNRESET);
}

#[test]
fn opening_says_what_to_do() {
    let path = std::path::Path::new("/nonexistent/usmbd");
    let error = Device::open_path(path).unwrap_err();
    assert!(error.to_string().contains("`modprobe usmbd`"), "{error}");
    let error = Error::NoPermission {
        path: path.to_owned(),
    };
    assert!(error.to_string().contains("group"), "{error}");
    let null = Device::open_path(std::path::Path::new("/dev/null")).unwrap();
    use std::os::fd::AsFd;
    assert!(Device::number_of(null.as_fd()).is_some());
    assert!(Device::number_of(pair().0.as_fd()).is_none());
}
