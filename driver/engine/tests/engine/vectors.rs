// SPDX-License-Identifier: GPL-2.0-only

//! Golden bytes: single PDUs and short sequences with what they must do. Their
//! names are those of the tables they come from.

use crate::side::*;
use usmbd_engine::{Event, Reason, Received, State};

/// What an acceptor makes of a Negotiate Request.
enum Answer {
    /// MaxReceiveSize, PreferredSendSize and CreditsGranted of the response.
    Accept(u32, u32, u16),
    Refuse,
    Terminate(Reason),
}

#[rustfmt::skip]
const REQUESTS: &[(&str, &str, usize, Answer)] = &[
    ("N01 cifs.ko", LINUX_REQUEST, 0, Answer::Accept(1364, 1364, 255)),
    ("N02 Windows", "00 01 00 01 00 00 FF 00 54 05 00 00 00 20 00 00 00 00 10 00", 0, Answer::Accept(1364, 1364, 255)),
    ("N03 example 4.1", "00 01 00 01 00 00 0A 00 00 04 00 00 00 04 00 00 00 00 02 00", 0, Answer::Accept(1024, 1024, 10)),
    ("N04 PreferredSendSize 0", "00 01 00 01 00 00 FF 00 00 00 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Accept(128, 1364, 255)),
    ("N05 PreferredSendSize 127", "00 01 00 01 00 00 FF 00 7F 00 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Accept(128, 1364, 255)),
    ("N06 minima", "00 01 00 01 00 00 01 00 80 00 00 00 80 00 00 00 00 00 02 00", 0, Answer::Accept(128, 128, 1)),
    ("N07 maxima", "00 01 00 01 00 00 FF FF FF FF FF FF FF FF FF FF FF FF FF FF", 0, Answer::Accept(1364, 1364, 255)),
    ("N08 padded to 512", LINUX_REQUEST, 492, Answer::Accept(1364, 1364, 255)),
    ("N09 Reserved", "00 01 00 01 FF FF FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Accept(1364, 1364, 255)),
    ("N11 a range of versions", "00 01 00 02 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Accept(1364, 1364, 255)),
    ("N12 too new", "00 02 00 03 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Refuse),
    ("N13 too old", "00 00 FF 00 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Refuse),
    ("N16 19 bytes", "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02", 0, Answer::Terminate(Reason::RequestTooShort)),
    ("N17 no credits", "00 01 00 01 00 00 00 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Terminate(Reason::RequestCredits)),
    ("N18 MaxReceiveSize 127", "00 01 00 01 00 00 FF 00 54 05 00 00 7F 00 00 00 56 A7 02 00", 0, Answer::Terminate(Reason::RequestReceiveSize)),
    ("N19 MaxFragmentedSize 131071", "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 FF FF 01 00", 0, Answer::Terminate(Reason::RequestFragmentedSize)),
    // More of the kind.
    ("every version", "00 00 FF FF 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Accept(1364, 1364, 255)),
    ("up to version 1.0", "00 00 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Accept(1364, 1364, 255)),
    ("version 1.1 alone", "01 01 01 01 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Refuse),
    ("version 0.255 alone", "FF 00 FF 00 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Refuse),
    ("MinVersion above MaxVersion", "00 02 00 00 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Refuse),
    ("wrong version, padded", "00 02 00 03 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", 492, Answer::Refuse),
    ("more than Windows takes", "00 01 00 01 00 00 FF 00 C9 1F 00 00 54 05 00 00 56 A7 02 00", 0, Answer::Accept(1364, 1364, 255)),
    ("least sizes, most credits", "00 01 00 01 00 00 FF FF 00 00 00 00 80 00 00 00 00 00 02 00", 0, Answer::Accept(128, 128, 255)),
    ("one byte more than there is", "00 01 00 01 00 00 FE 00 54 05 00 00 54 05 00 00 56 A7 02 00", 1, Answer::Accept(1364, 1364, 254)),
    ("nothing", "", 0, Answer::Terminate(Reason::RequestTooShort)),
    ("too short and wrong version", "00 02 00 03", 0, Answer::Terminate(Reason::RequestTooShort)),
    ("MaxReceiveSize 0", "00 01 00 01 00 00 FF 00 54 05 00 00 00 00 00 00 56 A7 02 00", 0, Answer::Terminate(Reason::RequestReceiveSize)),
    ("MaxFragmentedSize 0", "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 00 00 00 00", 0, Answer::Terminate(Reason::RequestFragmentedSize)),
];

#[test]
fn n01_to_n19_negotiate_requests() {
    for (name, bytes, padding, answer) in REQUESTS {
        let mut pdu = hex(bytes);
        pdu.resize(pdu.len() + padding, 0xAA);
        let mut side = Side::passive(&linux_server());
        assert_eq!(side.receive(&pdu), Received::Ignore, "{name}");
        match *answer {
            Answer::Accept(max_receive_size, preferred_send_size, credits_granted) => {
                assert_eq!(side.events, [Event::NegotiateReceived], "{name}");
                assert_eq!(side.sent, [], "{name}: sent before accept");
                let negotiated = side.connection.accept(&linux_server(), side.now).unwrap();
                side.drive();
                assert_eq!(side.connection.state(), State::Established, "{name}");
                assert_eq!(side.events[1..], [Event::Established(negotiated)], "{name}");
                let sent = side.take_sent();
                assert_eq!(sent.len(), 1, "{name}");
                let mut response = hex(LINUX_RESPONSE);
                response[10..12].copy_from_slice(&credits_granted.to_le_bytes());
                response[20..24].copy_from_slice(&preferred_send_size.to_le_bytes());
                response[24..28].copy_from_slice(&max_receive_size.to_le_bytes());
                assert_eq!(sent[0], response, "{name}");
                assert_eq!(negotiated.max_receive_size, max_receive_size, "{name}");
                assert_eq!(negotiated.max_send_size, preferred_send_size, "{name}");
                assert_eq!(
                    negotiated.max_fragmented_send_size,
                    u32_at(&pdu, 16),
                    "{name}"
                );
                assert_eq!(side.connection.send_credits(), 0, "{name}");
                assert_eq!(
                    side.connection.receive_credits(),
                    credits_granted.into(),
                    "{name}"
                );
            }
            Answer::Refuse => {
                assert_eq!(side.take_sent(), [hex(REFUSAL)], "{name}");
                side.assert_ended(name, Reason::RequestVersion);
            }
            Answer::Terminate(reason) => {
                assert_eq!(side.sent, [], "{name}: answered");
                side.assert_ended(name, reason);
            }
        }
    }
}

#[test]
fn n01_is_what_an_initiator_with_these_parameters_sends() {
    let mut side = Side::active(&linux_client());
    assert_eq!(side.take_sent(), [hex(LINUX_REQUEST)]);
}

/// MaxSendSize, MaxReceiveSize and SendCredits, or the end.
type Outcome = Result<(u32, u32, u16), Reason>;

#[rustfmt::skip]
const RESPONSES: &[(&str, &str, Outcome)] = &[
    ("R01 ksmbd", LINUX_RESPONSE, Ok((1364, 1364, 255))),
    ("R02 NOT_SUPPORTED", REFUSAL, Err(Reason::ResponseVersion)),
    ("R03 example 4.1", "00 01 00 01 00 01 00 00 0A 00 0A 00 00 00 00 00 00 00 10 00 00 04 00 00 00 04 00 00 00 00 02 00", Ok((1024, 1024, 10))),
    ("R04 PreferredSendSize 0", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 00 00 00 00 80 00 00 00 00 00 02 00", Ok((128, 128, 255))),
    ("R06 31 bytes", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02", Err(Reason::ResponseTooShort)),
    ("R07 NegotiatedVersion 0", "00 01 00 01 00 00 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponseVersion)),
    ("R08 INSUFFICIENT_RESOURCES", "00 01 00 01 00 01 00 00 FF 00 FF 00 9A 00 00 C0 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponseStatus)),
    ("R09 CreditsGranted 0", "00 01 00 01 00 01 00 00 FF 00 00 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponseCredits)),
    ("R10 CreditsRequested 0", "00 01 00 01 00 01 00 00 00 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponseCredits)),
    ("R11 MaxReceiveSize 127", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 7F 00 00 00 56 A7 02 00", Err(Reason::ResponseSizes)),
    ("R12 MaxFragmentedSize 131071", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 FF FF 01 00", Err(Reason::ResponseSizes)),
    // More of the kind.
    ("PreferredSendSize 1365", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 55 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponsePreferredSendSize)),
    ("PreferredSendSize 0xFFFFFFFF", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 FF FF FF FF 54 05 00 00 56 A7 02 00", Err(Reason::ResponsePreferredSendSize)),
    ("PreferredSendSize 127", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 7F 00 00 00 54 05 00 00 56 A7 02 00", Ok((1364, 128, 255))),
    ("MaxReceiveSize 8192", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 00 20 00 00 00 00 10 00", Ok((1364, 1364, 255))),
    ("one credit each", "00 01 00 01 00 01 00 00 01 00 01 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Ok((1364, 1364, 1))),
    ("all the credits there are", "00 01 00 01 00 01 00 00 FF FF FF FF 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Ok((1364, 1364, 65535))),
    ("versions and Reserved are not looked at", "00 00 00 00 00 01 FF FF FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Ok((1364, 1364, 255))),
    ("bytes behind it", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00 AA AA AA", Ok((1364, 1364, 255))),
    ("MaxReadWriteSize 0", "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 00 00 54 05 00 00 54 05 00 00 56 A7 02 00", Ok((1364, 1364, 255))),
    ("NegotiatedVersion 2.0", "00 01 00 01 00 02 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponseVersion)),
    ("a warning as Status", "00 01 00 01 00 01 00 00 FF 00 FF 00 05 00 00 80 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponseStatus)),
    ("a request instead", "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00", Err(Reason::ResponseTooShort)),
    ("nothing", "", Err(Reason::ResponseTooShort)),
];

#[test]
fn r01_to_r12_negotiate_responses() {
    for (name, bytes, outcome) in RESPONSES {
        let mut side = Side::active(&linux_client());
        side.sent.clear();
        // A message that waits, so that the first data transfer is not empty.
        side.queue.push_back((pattern(100, 1), None));
        assert_eq!(side.receive(&hex(bytes)), Received::Ignore, "{name}");
        match *outcome {
            Ok((max_send_size, max_receive_size, send_credits)) => {
                side.assert_alive(name);
                let negotiated = side.connection.negotiated().unwrap();
                assert_eq!(side.events, [Event::Established(negotiated)], "{name}");
                assert_eq!(negotiated.max_send_size, max_send_size, "{name}");
                assert_eq!(negotiated.max_receive_size, max_receive_size, "{name}");
                // One of them has gone into the message.
                assert_eq!(side.connection.send_credits(), send_credits - 1, "{name}");
                let sent = side.take_sent();
                assert_eq!(sent.len(), 1, "{name}");
                assert!(
                    u16_at(&sent[0], 2) > 0,
                    "{name}: the acceptor can never answer"
                );
            }
            Err(reason) => {
                side.assert_ended(name, reason);
                assert_eq!(side.sent, [], "{name}");
            }
        }
    }
}

/// What one data transfer does.
enum Verdict {
    /// Credits granted; nothing handed up.
    Empty(u16),
    /// Credits granted; a whole message of so many bytes from this offset.
    Deliver(u16, usize, usize),
    /// FragmentReassemblyRemaining after the first 1340 bytes.
    First(u32),
    Terminate(Reason),
}

#[rustfmt::skip]
const TRANSFERS: &[(&str, &str, usize, Verdict)] = &[
    ("D01 empty, grants 10", "FF 00 0A 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Empty(10)),
    ("D02 keepalive", PROBE, 0, Verdict::Empty(0)),
    ("D03 keepalive answer", "FF 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Empty(1)),
    ("D04 padded to 24", "FF 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Empty(1)),
    ("D05 64 bytes", "FF 00 01 00 00 00 00 00 00 00 00 00 18 00 00 00 40 00 00 00 00 00 00 00", 64, Verdict::Deliver(1, 24, 64)),
    ("D06 DataOffset 32", "FF 00 01 00 00 00 00 00 00 00 00 00 20 00 00 00 40 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 64, Verdict::Deliver(1, 32, 64)),
    ("D07 bytes after the data", "FF 00 01 00 00 00 00 00 00 00 00 00 18 00 00 00 40 00 00 00 00 00 00 00", 80, Verdict::Deliver(1, 24, 64)),
    ("D08 unknown Flags", "FF 00 01 00 FE FF FF FF 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Empty(1)),
    ("D09 exactly MaxReceiveSize", "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 3C 05 00 00 00 00 00 00", 1340, Verdict::Deliver(0, 24, 1340)),
    ("D10 first of 100000", "FF 00 01 00 00 00 00 00 64 81 01 00 18 00 00 00 3C 05 00 00 00 00 00 00", 1340, Verdict::First(98660)),
    ("D11 sum at the limit", "FF 00 01 00 00 00 00 00 C4 FA 0F 00 18 00 00 00 3C 05 00 00 00 00 00 00", 1340, Verdict::First(1047236)),
    ("D13 CreditsRequested 65535", "FF FF 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Empty(1)),
    ("D15 19 bytes", "FF 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Terminate(Reason::TransferTooShort)),
    ("D16 CreditsRequested 0", "00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Terminate(Reason::TransferCredits)),
    ("D17 DataOffset 23", "FF 00 00 00 00 00 00 00 00 00 00 00 17 00 00 00 40 00 00 00 00 00 00 00", 64, Verdict::Terminate(Reason::TransferAlignment)),
    ("D18 DataOffset 25", "FF 00 00 00 00 00 00 00 00 00 00 00 19 00 00 00 40 00 00 00 00 00 00 00 00", 64, Verdict::Terminate(Reason::TransferAlignment)),
    ("D19 DataOffset 20", "FF 00 00 00 00 00 00 00 00 00 00 00 14 00 00 00 40 00 00 00", 64, Verdict::Terminate(Reason::TransferAlignment)),
    ("D20 DataOffset 32 in 88 bytes", "FF 00 00 00 00 00 00 00 00 00 00 00 20 00 00 00 40 00 00 00 00 00 00 00", 64, Verdict::Terminate(Reason::TransferBounds)),
    ("D21 empty with DataOffset 24", "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 00 00 00 00", 0, Verdict::Terminate(Reason::TransferBounds)),
    ("D22 DataLength one too large", "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 41 00 00 00 00 00 00 00", 64, Verdict::Terminate(Reason::TransferBounds)),
    ("D23 DataLength 0xFFFFFFFF", "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 FF FF FF FF 00 00 00 00", 64, Verdict::Terminate(Reason::TransferBounds)),
    ("D25 sum beyond the limit", "FF 00 00 00 00 00 00 00 C5 FA 0F 00 18 00 00 00 3C 05 00 00 00 00 00 00", 1340, Verdict::Terminate(Reason::TransferMessageSize)),
    ("D27 DataOffset 0 with data", "FF 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 40 00 00 00", 64, Verdict::Terminate(Reason::DataInHeader)),
    ("D28 DataOffset 16 with data", "FF 00 00 00 00 00 00 00 00 00 00 00 10 00 00 00 40 00 00 00", 64, Verdict::Terminate(Reason::DataInHeader)),
    // More of the kind.
    ("empty with DataOffset 8", "FF 00 01 00 00 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00", 0, Verdict::Empty(1)),
    ("empty with DataOffset 24 in 24 bytes", "FF 00 01 00 00 00 00 00 00 00 00 00 18 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Empty(1)),
    ("empty, as large as can be", "FF 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 1344, Verdict::Empty(1)),
    ("all Flags, a probe among them", "FF 00 00 00 FF FF FF FF 00 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Empty(0)),
    ("one byte", "01 00 01 00 00 00 00 00 00 00 00 00 18 00 00 00 01 00 00 00 00 00 00 00", 1, Verdict::Deliver(1, 24, 1)),
    ("one byte, at the end of the PDU", "FF 00 01 00 00 00 00 00 00 00 00 00 50 05 00 00 01 00 00 00", 1341, Verdict::Deliver(1, 1360, 1)),
    ("padding is not looked at", "FF 00 01 00 00 00 00 00 00 00 00 00 18 00 00 00 04 00 00 00 FF FF FF FF", 4, Verdict::Deliver(1, 24, 4)),
    ("data and a probe", "FF 00 00 00 01 00 00 00 00 00 00 00 18 00 00 00 04 00 00 00 00 00 00 00", 4, Verdict::Deliver(0, 24, 4)),
    ("nothing", "", 0, Verdict::Terminate(Reason::TransferTooShort)),
    ("one byte too many", "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 3C 05 00 00 00 00 00 00", 1341, Verdict::Terminate(Reason::ReceiveTooLong)),
    ("DataOffset 8 with data", "FF 00 00 00 00 00 00 00 00 00 00 00 08 00 00 00 08 00 00 00", 64, Verdict::Terminate(Reason::DataInHeader)),
    ("DataOffset 0xFFFFFFF8", "FF 00 00 00 00 00 00 00 00 00 00 00 F8 FF FF FF 08 00 00 00 00 00 00 00", 64, Verdict::Terminate(Reason::TransferBounds)),
    ("offset and length wrap to 24", "FF 00 00 00 00 00 00 00 00 00 00 00 F8 FF FF FF 20 00 00 00 00 00 00 00", 64, Verdict::Terminate(Reason::TransferBounds)),
    ("Remaining 0xFFFFFFFF without data", "FF 00 00 00 00 00 00 00 FF FF FF FF 18 00 00 00 00 00 00 00 00 00 00 00", 0, Verdict::Terminate(Reason::TransferMessageSize)),
    ("length and Remaining wrap to 0", "FF 00 00 00 00 00 00 00 C0 FF FF FF 18 00 00 00 40 00 00 00 00 00 00 00", 64, Verdict::Terminate(Reason::TransferMessageSize)),
    ("CreditsRequested 0 comes first", "00 00 00 00 00 00 00 00 FF FF FF FF 17 00 00 00 FF FF FF FF 00 00 00 00", 64, Verdict::Terminate(Reason::TransferCredits)),
    ("alignment comes before bounds", "FF 00 00 00 00 00 00 00 FF FF FF FF 17 00 00 00 FF FF FF FF 00 00 00 00", 64, Verdict::Terminate(Reason::TransferAlignment)),
    ("bounds come before the message's size", "FF 00 00 00 00 00 00 00 FF FF FF FF 18 00 00 00 FF FF FF FF 00 00 00 00", 64, Verdict::Terminate(Reason::TransferBounds)),
];

type Established = fn() -> Side;

/// An established side of each role without a send credit.
const ROLES: [(&str, Established); 2] =
    [("passive", Side::established), ("active", Side::connected)];

#[test]
fn d01_to_d28_data_transfers() {
    for ((role, established), (name, bytes, payload_length, verdict)) in ROLES
        .into_iter()
        .flat_map(|role| TRANSFERS.iter().map(move |vector| (role, vector)))
    {
        let name = &format!("{role}: {name}");
        let mut side = established();
        let mut pdu = hex(bytes);
        pdu.extend(pattern(*payload_length, 5));
        side.receive(&pdu);
        match *verdict {
            Verdict::Empty(granted) => {
                side.assert_alive(name);
                assert_eq!(side.connection.send_credits(), granted, "{name}");
                assert_eq!(side.pieces, [], "{name}");
                assert_eq!(side.sent, [], "{name}");
            }
            Verdict::Deliver(granted, offset, length) => {
                side.assert_alive(name);
                assert_eq!(side.connection.send_credits(), granted, "{name}");
                let message = pdu[offset..offset + length].to_vec();
                assert_eq!(side.messages, [(message, None)], "{name}");
                assert_eq!(side.connection.reassembly_remaining(), 0, "{name}");
            }
            Verdict::First(remaining) => {
                side.assert_alive(name);
                assert_eq!(side.connection.reassembly_remaining(), remaining, "{name}");
                let (piece, bytes) = &side.pieces[0];
                assert_eq!(bytes, &pdu[24..], "{name}");
                assert_eq!(piece.message_total, remaining + 1340, "{name}");
                assert_eq!(side.messages, [], "{name}");
            }
            Verdict::Terminate(reason) => {
                side.assert_ended(name, reason);
                assert_eq!(side.pieces, [], "{name}");
            }
        }
    }
}

#[test]
fn d02_is_answered_once_there_is_a_credit() {
    let mut side = Side::established();
    side.receive(&hex(PROBE));
    assert_eq!(side.sent, [], "no credit to answer with");
    side.receive(&transfer(255, 2, 0, 0, &[]));
    let sent = side.take_sent();
    // Two receives were used and are posted again, the spare one besides.
    let answer = hex("FF 00 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00");
    assert_eq!(sent, [answer]);
}

#[test]
fn d13_caps_the_target() {
    let mut side = Side::established();
    let posted = side.posted;
    side.receive(&hex(
        "FF FF 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
    ));
    assert_eq!(side.posted, posted, "no receive beyond ReceiveCreditMax");
    side.receive(&transfer(65535, 2, 1, 0, &[]));
    assert_eq!(side.connection.receive_credits(), 255);
}

#[test]
fn d29_send_credits_saturate() {
    let mut side = Side::established();
    side.receive(&transfer(255, 7, 0, 0, &[]));
    side.receive(&hex(
        "FF 00 FF FF 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
    ));
    side.assert_alive("D29");
    assert_eq!(side.connection.send_credits(), 65535);
}

/// Remaining, DataLength of consecutive transfers; what is handed up, or the
/// end.
type Sequence = (
    &'static str,
    &'static [(u32, usize)],
    Result<&'static [usize], Reason>,
);

#[rustfmt::skip]
const SEQUENCES: &[Sequence] = &[
    ("Q01", &[(1000, 1000), (0, 1000)], Ok(&[2000])),
    ("Q02", &[(2000, 1000), (1000, 1000), (0, 1000)], Ok(&[3000])),
    ("Q03", &[(0, 100), (0, 200)], Ok(&[100, 200])),
    ("Q04 empty leading fragment", &[(2000, 0), (1000, 1000), (0, 1000)], Ok(&[2000])),
    ("Q06 cut short", &[(2000, 1000), (0, 1000)], Err(Reason::TransferMessageCutShort)),
    ("Q08 interleaved", &[(2000, 1000), (0, 500)], Err(Reason::TransferMessageCutShort)),
    ("Q10 empty PDU between", &[(2000, 1000), (0, 0), (1000, 1000), (0, 1000)], Ok(&[3000])),
    ("Q11 more than announced", &[(1000, 1000), (0, 1001)], Err(Reason::FragmentTooLong)),
    ("empty middle fragment", &[(2000, 1000), (2000, 0), (1000, 1000), (0, 1000)], Ok(&[3000])),
    ("empty PDU at first", &[(0, 0), (0, 300)], Ok(&[300])),
    ("middle fragment with another Remaining", &[(2000, 1000), (1500, 1000), (0, 1000)], Ok(&[3000])),
    ("cut short by an empty last fragment that has data to come", &[(1000, 1000), (7, 1000)], Err(Reason::ReassemblyRestarted)),
    ("all of it came, and it goes on", &[(1000, 1000), (1000, 1000)], Err(Reason::ReassemblyRestarted)),
    ("more to come than we reassemble", &[(1000, 1000), (1_048_000, 10)], Err(Reason::ReassemblyTooLong)),
    ("as much to come as we reassemble", &[(1000, 1000), (1_047_566, 10), (0, 990)], Ok(&[2000])),
    ("more to come than anybody reassembles", &[(1000, 1000), (1_048_576, 1)], Err(Reason::TransferMessageSize)),
    ("a byte at a time", &[(3, 1), (2, 1), (1, 1), (0, 1)], Ok(&[4])),
    ("an empty fragment of an empty start", &[(2, 0), (2, 0), (0, 2)], Ok(&[2])),
    ("empty PDUs around a message", &[(0, 0), (5, 5), (0, 0), (0, 0), (0, 5), (0, 0)], Ok(&[10])),
    ("first too long after an empty start", &[(2, 0), (0, 3)], Err(Reason::FragmentTooLong)),
    ("a message behind one", &[(5, 5), (0, 5), (7, 3), (0, 7)], Ok(&[10, 10])),
];

#[test]
fn q01_to_q11_sequences() {
    for ((role, established), (name, transfers, outcome)) in ROLES
        .into_iter()
        .flat_map(|role| SEQUENCES.iter().map(move |vector| (role, vector)))
    {
        let name = &format!("{role}: {name}");
        let mut side = established();
        let mut bytes = Vec::new();
        for (index, (remaining, length)) in transfers.iter().enumerate() {
            assert!(side.disconnects.is_empty(), "{name}: ended early");
            let payload = pattern(*length, index);
            // Q04 and its like have DataOffset 24 and no data.
            let mut pdu = transfer(255, 1, 0, *remaining, &payload);
            if *length == 0 && *remaining > 0 {
                pdu[12] = 24;
                pdu.extend([0; 4]);
            }
            side.receive(&pdu);
            bytes.extend(payload);
        }
        match *outcome {
            Ok(lengths) => {
                side.assert_alive(name);
                let got: Vec<_> = side.messages.iter().map(|(bytes, _)| bytes.len()).collect();
                assert_eq!(got, lengths, "{name}");
                let got: Vec<_> = side
                    .messages
                    .iter()
                    .flat_map(|(bytes, _)| bytes.clone())
                    .collect();
                assert_eq!(got, bytes, "{name}");
                assert_eq!(side.connection.reassembly_remaining(), 0, "{name}");
            }
            Err(reason) => {
                side.assert_ended(name, reason);
                assert_eq!(side.messages, [], "{name}");
            }
        }
    }
}
