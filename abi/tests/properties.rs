// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! What holds for all records.

use proptest::prelude::*;
use usmbd_abi::command::{self, Body, Command, Invalid, Layout};
use usmbd_abi::event::{self, Event};
use usmbd_abi::record::{padded, Header, SocketAddress};
use usmbd_abi::status::{Reason, Status};
use zerocopy::{FromBytes, IntoBytes};

/// Opcode, bytes of the body, flags of every command.
const COMMANDS: [(u16, usize, u16); 23] = [
    (0x01, 16, 0),
    (0x02, 0, 0),
    (0x10, 32, 0),
    (0x11, 16, 0),
    (0x12, 8, 0),
    (0x13, 8, 0),
    (0x14, 16, 0),
    (0x15, 16, 0),
    (0x20, 0, 0),
    (0x21, 16, 0),
    (0x22, 8, 0),
    (0x30, 40, 0),
    (0x31, 8, 0),
    (0x32, 16, 0),
    (0x33, 16, 0),
    (0x34, 72, 0),
    (0x40, 16, 7),
    (0x41, 16, 1),
    (0x42, 16, 1),
    (0x43, 8, 0),
    (0x50, 8, 0),
    (0x51, 8, 0),
    (0x52, 8, 0),
];

/// Opcode and bytes of the body of every event.
const EVENTS: [(u16, usize); 20] = [
    (0x8001, 16),
    (0x8002, 0),
    (0x8020, 32),
    (0x8021, 16),
    (0x8022, 8),
    (0x8030, 8),
    (0x8031, 8),
    (0x8032, 8),
    (0x8033, 144),
    (0x8034, 104),
    (0x8035, 128),
    (0x8036, 16),
    (0x8037, 104),
    (0x8040, 24),
    (0x8041, 16),
    (0x8042, 16),
    (0x8043, 16),
    (0x8044, 8),
    (0x8050, 96),
    (0x8051, 8),
];

fn header(length: u32, opcode: u16, flags: u16) -> Header {
    Header {
        length: length.into(),
        opcode: opcode.into(),
        flags: flags.into(),
        user_data: 77.into(),
    }
}

/// Decodes header and body as the driver does. The command does not compare, so its text stands for
/// it.
fn decode(header: &Header, body: &[u8]) -> Result<String, Invalid> {
    let layout = Layout::of(header)?;
    assert_eq!(layout.body_length, body.len());
    Command::decode(header, body).map(|command| format!("{command:?}"))
}

/// A valid record of each command: header and body.
fn valid() -> Vec<(Header, Vec<u8>)> {
    fn one<B: Body>(flags: u16, body: B, tail: u32) -> (Header, Vec<u8>) {
        let header = command::header::<B>(flags, 77, tail).unwrap();
        (header, body.as_bytes().to_vec())
    }
    let transfer = command::Transfer {
        connection: 1.into(),
        range_count: 2.into(),
        descriptor_count: 3.into(),
        reserved: 0.into(),
    };
    let ipv4 = SocketAddress {
        family: 2.into(),
        ..Default::default()
    };
    vec![
        one(
            0,
            command::Hello {
                version: 1.into(),
                ..Default::default()
            },
            0,
        ),
        one(0, command::Nop {}, 0),
        one(0, command::SetParameters::default(), 0),
        one(
            0,
            command::SetNegotiateTemplate {
                template: 1.into(),
                response_length: 130.into(),
                presumption_count: 2.into(),
                ..Default::default()
            },
            2 * 8 + 130,
        ),
        one(0, command::SetNegotiateTemplate::default(), 0),
        one(
            0,
            command::SetSessionId {
                session_id: 6.into(),
            },
            0,
        ),
        one(
            0,
            command::ClearSessionId {
                session_id: 6.into(),
            },
            0,
        ),
        one(
            0,
            command::SetClientGuid {
                client_guid: [6; 16],
            },
            0,
        ),
        one(
            0,
            command::ClearClientGuid {
                client_guid: [6; 16],
            },
            0,
        ),
        one(0, command::GetMemoryParameters {}, 0),
        one(
            0,
            command::RegisterMemory {
                address: 0x1001.into(),
                length: 6.into(),
            },
            0,
        ),
        one(0, command::UnregisterMemory::default(), 0),
        one(
            0,
            command::Listen {
                address: ipv4,
                ..Default::default()
            },
            0,
        ),
        one(0, command::CloseListener::default(), 0),
        one(0, command::Accept::default(), 0),
        one(0, command::Reject::default(), 0),
        one(
            0,
            command::SendPdu {
                payload_length: 13.into(),
                ..Default::default()
            },
            13,
        ),
        one(0, command::RdmaRead { transfer }, 5 * 16),
        one(0, command::RdmaWrite { transfer }, 5 * 16),
        one(
            command::RANGES,
            command::SendPdu {
                payload_length: 13.into(),
                ..Default::default()
            },
            2 * 16,
        ),
        one(
            0,
            command::Connect {
                peer: SocketAddress {
                    address: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                    ..ipv4
                },
                ..Default::default()
            },
            0,
        ),
        one(0, command::Disconnect::default(), 0),
        one(0, command::QueryStatistics::default(), 0),
        one(0, command::ListConnections::default(), 0),
        one(0, command::Drop::default(), 0),
    ]
}

#[test]
fn the_tables_are_complete() {
    for opcode in 0..=u16::MAX {
        let known = COMMANDS.iter().find(|row| row.0 == opcode);
        let layout = Layout::of(&header(1 << 12, opcode, 0));
        assert_eq!(
            layout.ok().map(|layout| layout.body_length),
            known.map(|row| row.1)
        );
        let event = Event::decode(&header(1 << 12, opcode, 0), &[0; 144]).unwrap();
        let known = EVENTS.iter().any(|row| row.0 == opcode);
        assert_eq!(matches!(event, Event::Unknown), !known, "{opcode:#x}");
    }
}

#[test]
fn valid_records_are_valid() {
    for (header, body) in valid() {
        decode(&header, &body).unwrap();
    }
}

#[test]
fn a_length_off_by_anything_is_invalid() {
    for (good, body) in valid() {
        let length = good.length.get();
        let others = [0, 1, 15, 16, u32::MAX, u32::MAX - 7, 1 << 31];
        let near = (1..=16).flat_map(|by| [length.wrapping_sub(by), length + by]);
        // A message in ranges has as many as the record has room for.
        let ranges = good.flags.get() & command::RANGES != 0;
        let is_other = |other: &u32| *other != length && !(ranges && other.abs_diff(length) == 16);
        for other in near.chain(others).filter(is_other) {
            let bad = header(other, good.opcode.get(), good.flags.get());
            assert!(
                decode(&bad, &body).is_err(),
                "{:#x}, length {other}",
                good.opcode.get()
            );
        }
    }
}

#[test]
fn a_body_of_another_length_is_invalid() {
    for (header, body) in valid() {
        let longer = [&body[..], &[0]].concat();
        assert!(Command::decode(&header, &longer).is_err());
        if let Some((_, shorter)) = body.split_last() {
            assert!(Command::decode(&header, shorter).is_err());
        }
    }
}

#[test]
fn flags_of_no_meaning_are_invalid() {
    for (good, body) in valid() {
        let row = COMMANDS
            .iter()
            .find(|row| row.0 == good.opcode.get())
            .unwrap();
        for bit in 0..16 {
            let flag = 1 << bit;
            // RANGES says what the tail is, so with another tail it is wrong.
            if row.2 & flag & command::RANGES == 0 {
                let flags = good.flags.get() ^ flag;
                let result = decode(&header(good.length.get(), good.opcode.get(), flags), &body);
                let is_known = row.2 & flag != 0;
                assert_eq!(result.is_ok(), is_known, "{:#x}, flag {flag:#x}", row.0);
            }
        }
    }
}

/// Bytes of bodies that have to be zero: opcode, first, end.
const RESERVED: [(u16, usize, usize); 11] = [
    (0x01, 4, 8),   // HELLO: reserved
    (0x10, 28, 32), // SET_PARAMETERS: reserved
    (0x11, 10, 16), // SET_NEGOTIATE_TEMPLATE: reserved
    (0x22, 4, 8),   // UNREGISTER_MEMORY: reserved
    (0x30, 4, 16),  // LISTEN on IPv4: flow, scope, reserved
    (0x30, 20, 32), // LISTEN on IPv4: the rest of the address
    (0x30, 38, 40), // LISTEN: reserved
    (0x31, 4, 8),   // CLOSE_LISTENER: reserved
    (0x40, 12, 16), // SEND_PDU without INVALIDATE: token
    (0x41, 12, 16), // RDMA_READ: reserved
    (0x42, 12, 16), // RDMA_WRITE: reserved
];

#[test]
fn every_reserved_bit_is_invalid_and_every_other_bit_is_seen() {
    for (header, body) in valid() {
        let good = decode(&header, &body).unwrap();
        for bit in 0..body.len() * 8 {
            let mut other = body.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let result = decode(&header, &other);
            let opcode = header.opcode.get();
            let is_reserved = RESERVED
                .iter()
                .any(|row| row.0 == opcode && (row.1..row.2).contains(&(bit / 8)));
            if is_reserved {
                assert!(result.is_err(), "{opcode:#x}, bit {bit}");
            }
            assert_ne!(
                result.as_ref(),
                Ok(&good),
                "{opcode:#x}, bit {bit} is not looked at"
            );
        }
    }
}

#[test]
fn values_at_their_limits() {
    let listen = |backlog: u16, mode: u16, family: u16| {
        let body = command::Listen {
            address: SocketAddress {
                family: family.into(),
                ..Default::default()
            },
            backlog: backlog.into(),
            mode: mode.into(),
            ..Default::default()
        };
        decode(
            &command::header::<command::Listen>(0, 0, 0).unwrap(),
            body.as_bytes(),
        )
        .is_ok()
    };
    assert!(listen(4096, 0, 0) && listen(0, 1, 2) && listen(1, 0, 10));
    assert!(!listen(4097, 0, 0) && !listen(0, 2, 0) && !listen(0, 0, 1) && !listen(0, 0, 11));

    let send = |payload_length: u32| {
        let body = command::SendPdu {
            payload_length: payload_length.into(),
            ..Default::default()
        };
        let header = command::header::<command::SendPdu>(0, 0, payload_length).unwrap();
        decode(&header, body.as_bytes()).is_ok()
    };
    assert!(send(1) && send(7) && send(8) && send(9) && send(16 << 20));
    assert!(!send(0) && !send((16 << 20) + 1));

    let send_ranges = |ranges: u32, payload_length: u32| {
        let body = command::SendPdu {
            payload_length: payload_length.into(),
            ..Default::default()
        };
        let flags = command::RANGES;
        let header = command::header::<command::SendPdu>(flags, 0, ranges * 16).unwrap();
        decode(&header, body.as_bytes()).is_ok()
    };
    assert!(send_ranges(1, 1) && send_ranges(64, 16 << 20));
    assert!(!send_ranges(0, 1) && !send_ranges(65, 1) && !send_ranges(1, 0));
    assert!(!send_ranges(1, (16 << 20) + 1));

    let template = |template: u32, response_length: u32, presumption_count: u16| {
        let body = command::SetNegotiateTemplate {
            template: template.into(),
            response_length: response_length.into(),
            presumption_count: presumption_count.into(),
            ..Default::default()
        };
        let tail = response_length + u32::from(presumption_count) * 8;
        let header = command::header::<command::SetNegotiateTemplate>(0, 0, tail).unwrap();
        decode(&header, body.as_bytes()).is_ok()
    };
    assert!(template(0, 128, 0) && template(3, 4096, 32) && template(3, 0, 0));
    assert!(!template(4, 128, 0) && !template(0, 127, 0) && !template(0, 4097, 0));
    assert!(!template(0, 128, 33) && !template(0, 0, 1) && !template(0, 1, 0));

    let register = |address: u64, length: u64| {
        let body = command::RegisterMemory {
            address: address.into(),
            length: length.into(),
        };
        let header = command::header::<command::RegisterMemory>(0, 0, 0).unwrap();
        decode(&header, body.as_bytes()).is_ok()
    };
    assert!(register(0, 1) && register(u64::MAX - 1, 1) && register(4096, 1 << 30));
    assert!(!register(0, 0) && !register(0, (1 << 30) + 1) && !register(u64::MAX, 1));

    for id in [0, 1, u64::MAX] {
        let set = command::SetSessionId {
            session_id: id.into(),
        };
        let header = command::header::<command::SetSessionId>(0, 0, 0).unwrap();
        assert_eq!(decode(&header, set.as_bytes()).is_ok(), id != 0);
    }
    for place in 0..=16 {
        let mut client_guid = [0; 16];
        if let Some(byte) = client_guid.get_mut(place) {
            *byte = 1;
        }
        let set = command::SetClientGuid { client_guid };
        let header = command::header::<command::SetClientGuid>(0, 0, 0).unwrap();
        assert_eq!(decode(&header, set.as_bytes()).is_ok(), place != 16);
    }

    let transfer = |ranges: u16, descriptors: u16| {
        let transfer = command::Transfer {
            range_count: ranges.into(),
            descriptor_count: descriptors.into(),
            ..Default::default()
        };
        let tail = (u32::from(ranges) + u32::from(descriptors)) * 16;
        let body = command::RdmaRead { transfer };
        let header = command::header::<command::RdmaRead>(0, 0, tail).unwrap();
        decode(&header, body.as_bytes()).is_ok()
    };
    assert!(transfer(1, 1) && transfer(64, 4095));
    assert!(!transfer(0, 1) && !transfer(1, 0) && !transfer(65, 1) && !transfer(1, 4096));
    assert!(!transfer(u16::MAX, u16::MAX));

    let hello = command::Hello::default();
    let header = command::header::<command::Hello>(0, 0, 0).unwrap();
    assert!(
        decode(&header, hello.as_bytes()).is_err(),
        "there is no version 0"
    );
    assert!(command::header::<command::Hello>(0, 0, u32::MAX).is_err());
    assert!(event::header::<event::NopDone>(0, 0, u32::MAX - 16).is_none());
}

#[test]
fn numbers_of_statuses_and_reasons_come_back() {
    for number in 0..1000 {
        if let Some(status) = Status::from_number(number) {
            assert_eq!(status.number(), number);
            assert!(!status.text().is_empty());
        }
        if let Some(reason) = Reason::from_number(number) {
            assert_eq!(reason.number(), number);
            assert!(!reason.text().is_empty());
        }
    }
    assert_eq!(Status::from_number(11), None);
    assert_eq!(
        Reason::from_number(0),
        None,
        "zero means that it has not ended"
    );
    assert_eq!(Reason::from_number(30), None);
    assert!(Reason::Peer.is_orderly() && Reason::Local.is_orderly());
    assert!(!Reason::ConnectionLost.is_orderly());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_a_command_never_panics(
        length in prop_oneof![any::<u32>(), (0..64u32).prop_map(|n| n * 8)],
        row in 0..COMMANDS.len(),
        flags in prop_oneof![Just(0), 0..8u16, any::<u16>()],
        body in proptest::collection::vec(any::<u8>(), 0..=command::MAX_BODY_LENGTH),
    ) {
        let header = header(length, COMMANDS[row].0, flags);
        let _ = Command::decode(&header, &body);
        if let Some(body) = body.get(..COMMANDS[row].1) {
            let _ = Command::decode(&header, body);
        }
    }

    #[test]
    fn decoding_an_event_never_panics(
        row in 0..EVENTS.len(),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let (opcode, length) = EVENTS[row];
        let decoded = Event::decode(&header(0, opcode, 0), &rest);
        prop_assert_eq!(decoded.is_some(), rest.len() >= length);
    }

    #[test]
    fn a_decoded_command_encodes_to_the_same_bytes(
        connection: u64,
        payload_length in 1..=command::MAX_PAYLOAD_LENGTH,
        token: u32,
        flags in 0..4u16,
        user_data: u64,
    ) {
        let invalidates = flags & command::INVALIDATE != 0;
        let body = command::SendPdu {
            connection: connection.into(),
            payload_length: payload_length.into(),
            invalidate_token: (if invalidates { token } else { 0 }).into(),
        };
        let header = command::header::<command::SendPdu>(flags, user_data, payload_length).unwrap();
        let parsed = Header::read_from_bytes(header.as_bytes()).unwrap();
        let Ok(Command::SendPdu(decoded)) = Command::decode(&parsed, body.as_bytes()) else {
            return Err(TestCaseError::fail("not decoded"));
        };
        prop_assert_eq!(decoded.as_bytes(), body.as_bytes());
        prop_assert_eq!(parsed.user_data.get(), user_data);
        prop_assert_eq!(parsed.length.get(), 32 + padded(payload_length).unwrap());
    }

    #[test]
    fn what_is_decoded_was_canonical(
        row in 0..COMMANDS.len(),
        flags in 0..8u16,
        body in proptest::array::uniform32(prop_oneof![3 => Just(0u8), 1 => any::<u8>()]),
        tail in 0..64u32,
    ) {
        let (opcode, length, known) = COMMANDS[row];
        let Some(body) = body.get(..length) else { return Ok(()) };
        let header = header(16 + length as u32 + tail * 8, opcode, flags);
        if Command::decode(&header, body).is_ok() {
            prop_assert_eq!(flags & !known, 0);
            for (_, first, end) in RESERVED.iter().filter(|row| row.0 == opcode) {
                let is_token = opcode == 0x40 && flags & command::INVALIDATE != 0;
                prop_assert!(is_token || body[*first..*end].iter().all(|byte| *byte == 0));
            }
        }
    }
}
