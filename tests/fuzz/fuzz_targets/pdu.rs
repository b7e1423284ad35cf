// SPDX-License-Identifier: GPL-2.0-only

//! Any bytes as a PDU, in each state that takes one. What the engine makes of
//! them is compared with the rules of [MS-SMBD] written down a second time, in
//! wide numbers and in the order of the specification.

#![no_main]

use libfuzzer_sys::fuzz_target;
use usmbd_engine::{
    Action, Connection, Outlook, Parameters, Piece, Reason, Received, Role, State, Time, Transmit,
};

const NOW: Time = Time(1_000);
const IDLE: Outlook = Outlook {
    head: None,
    send_slot: true,
};
/// What a message has to come in the state "in the middle of a message".
const TO_COME: u64 = 1_000;
const REQUEST: [u8; 20] = [
    0, 1, 0, 1, 0, 0, 255, 0, 0x54, 5, 0, 0, 0x54, 5, 0, 0, 0, 0, 2, 0,
];
const FIRST: [u8; 25] = [
    255, 0, 1, 0, 0, 0, 0, 0, 0xE8, 3, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7,
];

fuzz_target!(|pdu: &[u8]| {
    request(pdu);
    response(pdu);
    transfer(pdu, false);
    transfer(pdu, true);
});

fn parameters() -> Parameters {
    Parameters {
        max_fragmented_recv_size: 131_072,
        ..Parameters::default()
    }
}

fn number(pdu: &[u8], at: usize, bytes: usize) -> u64 {
    pdu[at..at + bytes]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn transmit(connection: &mut Connection) -> Transmit {
    match connection.poll_action(&IDLE) {
        Some(Action::Transmit(transmit)) => transmit,
        other => panic!("{other:?}"),
    }
}

fn post(connection: &mut Connection) {
    match connection.poll_action(&IDLE) {
        Some(Action::PostReceives { count, .. }) => {
            connection.handle_receives_posted(count, NOW);
        }
        other => panic!("{other:?}"),
    }
}

fn passive() -> Connection {
    let mut connection = Connection::new(Role::Passive, &parameters(), NOW);
    connection.handle_established(NOW);
    connection
}

/// [MS-SMBD] 3.1.5.6.
fn request(pdu: &[u8]) {
    let expected = if pdu.len() < 20 {
        Err(Reason::RequestTooShort)
    } else if number(pdu, 0, 2) > 0x100 || number(pdu, 2, 2) < 0x100 {
        Err(Reason::RequestVersion)
    } else if number(pdu, 6, 2) < 1 {
        Err(Reason::RequestCredits)
    } else if number(pdu, 12, 4) < 128 {
        Err(Reason::RequestReceiveSize)
    } else if number(pdu, 16, 4) < 131_072 {
        Err(Reason::RequestFragmentedSize)
    } else {
        Ok(())
    };
    let mut connection = passive();
    assert_eq!(connection.handle_receive(pdu, None, NOW), Received::Ignore);
    match expected {
        Ok(()) => {
            let negotiated = connection.accept(&parameters(), NOW).expect("an offer");
            assert!((128..=1364).contains(&negotiated.max_receive_size));
            assert!((128..=1364).contains(&negotiated.max_send_size));
            post(&mut connection);
            let response = transmit(&mut connection);
            assert_eq!(response.header_length, 32);
            assert_eq!(
                number(&response.header, 10, 2),
                number(pdu, 6, 2).min(64),
                "CreditsGranted"
            );
            assert_eq!(connection.state(), State::Established);
        }
        Err(Reason::RequestVersion) => {
            let refusal = transmit(&mut connection);
            assert_eq!(number(&refusal.header, 12, 4), 0xC000_00BB);
            connection.handle_sent(1, NOW);
            assert_eq!(connection.end(), Some(Reason::RequestVersion));
        }
        Err(reason) => {
            assert_eq!(connection.end(), Some(reason));
            assert_eq!(
                connection.poll_action(&IDLE),
                Some(Action::Disconnect(reason))
            );
        }
    }
}

/// [MS-SMBD] 3.1.5.7.
fn response(pdu: &[u8]) {
    let expected = if pdu.len() < 32 {
        Err(Reason::ResponseTooShort)
    } else if number(pdu, 4, 2) != 0x100 {
        Err(Reason::ResponseVersion)
    } else if number(pdu, 12, 4) != 0 {
        Err(Reason::ResponseStatus)
    } else if number(pdu, 8, 2) == 0 || number(pdu, 10, 2) == 0 {
        Err(Reason::ResponseCredits)
    } else if number(pdu, 24, 4) < 128 || number(pdu, 28, 4) < 131_072 {
        Err(Reason::ResponseSizes)
    } else if number(pdu, 20, 4) > 1364 {
        Err(Reason::ResponsePreferredSendSize)
    } else {
        Ok(number(pdu, 10, 2))
    };
    let mut connection = Connection::new(Role::Active, &parameters(), NOW);
    connection.handle_established(NOW);
    assert_eq!(transmit(&mut connection).header_length, 20);
    assert_eq!(connection.handle_receive(pdu, None, NOW), Received::Ignore);
    match expected {
        Ok(credits) => {
            assert_eq!(u64::from(connection.send_credits()), credits);
            post(&mut connection);
            // The acceptor has no credit before this one.
            let first = transmit(&mut connection);
            assert!(number(&first.header, 2, 2) > 0, "CreditsGranted");
            assert_eq!(connection.state(), State::Established);
        }
        Err(reason) => assert_eq!(connection.end(), Some(reason)),
    }
}

/// [MS-SMBD] 3.1.5.8, with the rows that are stricter than it.
fn transfer(pdu: &[u8], midway: bool) {
    let frr = if midway { TO_COME } else { 0 };
    let expected = transfer_verdict(pdu, frr);
    let mut connection = passive();
    connection.handle_receive(&REQUEST, None, NOW);
    connection.accept(&parameters(), NOW).expect("an offer");
    post(&mut connection);
    transmit(&mut connection);
    if midway {
        let first = connection.handle_receive(&FIRST, None, NOW);
        assert!(matches!(first, Received::Piece(_)));
    }
    assert_eq!(u64::from(connection.reassembly_remaining()), frr);

    let received = connection.handle_receive(pdu, Some(5), NOW);
    match expected {
        Ok(None) => {
            assert_eq!(received, Received::Repost);
            assert_eq!(connection.end(), None);
        }
        Ok(Some(piece)) => {
            assert_eq!(received, Received::Piece(piece));
            assert_eq!(connection.end(), None);
        }
        Err(reason) => {
            assert_eq!(received, Received::Ignore);
            assert_eq!(connection.end(), Some(reason));
        }
    }
}

fn transfer_verdict(pdu: &[u8], frr: u64) -> Result<Option<Piece>, Reason> {
    if pdu.len() > 1364 {
        return Err(Reason::ReceiveTooLong);
    }
    if pdu.len() < 20 {
        return Err(Reason::TransferTooShort);
    }
    let (remaining, offset, length) = (number(pdu, 8, 4), number(pdu, 12, 4), number(pdu, 16, 4));
    if number(pdu, 0, 2) == 0 {
        return Err(Reason::TransferCredits);
    }
    if offset % 8 != 0 {
        return Err(Reason::TransferAlignment);
    }
    if offset + length > pdu.len() as u64 {
        return Err(Reason::TransferBounds);
    }
    if length + remaining > 131_072 {
        return Err(Reason::TransferMessageSize);
    }
    if length > 0 && offset < 20 {
        return Err(Reason::DataInHeader);
    }
    if length == 0 && remaining == 0 {
        return Ok(None);
    }
    let (before, total, left) = if frr == 0 {
        (0, length + remaining, remaining)
    } else {
        if length > frr {
            return Err(Reason::FragmentTooLong);
        }
        let left = frr - length;
        if 1 + length + remaining > 131_072 {
            return Err(Reason::ReassemblyTooLong);
        }
        if remaining == 0 && left > 0 {
            return Err(Reason::TransferMessageCutShort);
        }
        if remaining > 0 && left == 0 {
            return Err(Reason::ReassemblyRestarted);
        }
        (1, 1 + frr, left)
    };
    if length == 0 {
        return Ok(None);
    }
    let narrow = |value: u64| u32::try_from(value).expect("bounded above");
    Ok(Some(Piece {
        payload_offset: narrow(offset),
        payload_length: narrow(length),
        message_total: narrow(total),
        message_offset: narrow(before),
        last: left == 0,
        invalidated: (left == 0).then_some(5),
    }))
}
