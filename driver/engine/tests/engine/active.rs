// SPDX-License-Identifier: GPL-2.0-only

//! The active role: from the Negotiate Request to the same connection as the
//! other role's, [MS-SMBD] 3.1.4.1, 3.1.5.2 and 3.1.5.7.

use crate::side::*;
use usmbd_engine::{Event, Parameters, Reason, Received, Role, State};

#[test]
fn active_request_is_that_of_the_parameters() {
    let mut side = Side::active(&Parameters::default());
    let request = hex("00 01 00 01 00 00 40 00 54 05 00 00 54 05 00 00 00 00 10 00");
    assert_eq!(side.take_sent(), [request]);
    assert_eq!(side.connection.state(), State::Negotiating);

    // Windows' own, as it stands in its Negotiate Requests.
    let mut side = Side::active(&windows());
    let request = hex("00 01 00 01 00 00 FF 00 54 05 00 00 00 20 00 00 00 00 10 00");
    assert_eq!(side.take_sent(), [request]);
}

#[test]
fn active_says_nothing_before_it_is_established() {
    let mut side = Side::new(Role::Active, &linux_client());
    side.drive();
    assert_eq!(side.sent, []);
    side.slots = 0;
    side.connection.handle_established(side.now);
    side.drive();
    assert_eq!(side.sent, [], "no slot");
    assert_eq!(side.connection.state(), State::Requesting);
    side.slots = 1;
    side.drive();
    assert_eq!(side.sent.len(), 1);
    side.drive();
    assert_eq!(side.sent.len(), 1, "one request");
}

#[test]
fn active_checks_come_in_order() {
    // Everything is wrong with it at first; then one thing less each time.
    let mut pdu = vec![0; 31];
    pdu[20..24].fill(0xFF);
    pdu[12] = 1;
    let mut check = |change: fn(&mut Vec<u8>), reason| {
        let mut side = Side::active(&linux_client());
        side.sent.clear();
        side.receive(&pdu);
        side.assert_ended("", reason);
        assert_eq!(side.sent, []);
        change(&mut pdu);
    };
    check(|pdu| pdu.push(0), Reason::ResponseTooShort);
    check(|pdu| pdu[5] = 1, Reason::ResponseVersion);
    check(|pdu| pdu[12] = 0, Reason::ResponseStatus);
    check(|pdu| pdu[8] = 1, Reason::ResponseCredits);
    check(|pdu| pdu[10] = 1, Reason::ResponseCredits);
    check(|pdu| pdu[24] = 128, Reason::ResponseSizes);
    check(|pdu| pdu[30] = 2, Reason::ResponseSizes);
    check(|pdu| pdu[20..24].fill(0), Reason::ResponsePreferredSendSize);
    let mut side = Side::active(&linux_client());
    side.receive(&pdu);
    side.assert_alive("nothing is wrong with it");
}

#[test]
fn active_takes_the_smaller_of_both_sides() {
    let parameters = Parameters {
        max_send_size: 2000,
        max_receive_size: 3000,
        max_read_write_size: 1 << 20,
        max_fragmented_recv_size: 300_000,
        ..linux_client()
    };
    let response = hex("00 01 00 01 00 01 00 00 FF 00 0A 00 00 00 00 00 \
         00 00 80 00 54 05 00 00 E8 03 00 00 56 A7 02 00");
    let mut side = Side::active(&parameters);
    side.receive(&response);
    let negotiated = side.connection.negotiated().unwrap();
    assert_eq!(negotiated.max_send_size, 1000, "the peer's MaxReceiveSize");
    assert_eq!(negotiated.max_receive_size, 1364, "its PreferredSendSize");
    assert_eq!(negotiated.max_read_write_size, 1 << 20, "ours");
    assert_eq!(negotiated.max_fragmented_send_size, 173_910, "the peer's");
    assert_eq!(negotiated.max_fragmented_recv_size, 300_000, "ours");
    assert_eq!(negotiated.receive_credit_target, 255);
    assert_eq!(side.events, [Event::Established(negotiated)]);
}

#[test]
fn active_never_sends_more_than_it_preferred() {
    let parameters = Parameters {
        max_send_size: 8192,
        ..linux_client()
    };
    let mut response = hex(LINUX_RESPONSE);
    response[24..28].copy_from_slice(&8192u32.to_le_bytes());
    let mut side = Side::active(&parameters);
    assert_eq!(u32_at(&side.take_sent()[0], 8), 8136);
    side.receive(&response);
    assert_eq!(side.connection.negotiated().unwrap().max_send_size, 8136);
    side.send(pattern(20_000, 0));
    assert!(side.take_sent().iter().all(|pdu| pdu.len() <= 8136));
}

#[test]
fn active_grants_with_its_first_data_transfer() {
    // With a message or without, with all its receives or with one.
    for receives in [1, 2, 255, 1000] {
        for message in [None, Some((pattern(3000, 1), None))] {
            let mut side = Side::active(&linux_client());
            side.sent.clear();
            side.receives = receives;
            side.queue.extend(message);
            side.receive(&hex(LINUX_RESPONSE));
            side.assert_alive("established");
            let first = &side.take_sent()[0];
            assert_eq!(
                u32::from(u16_at(first, 2)),
                receives.min(255),
                "CreditsGranted"
            );
        }
    }
}

#[test]
fn active_grants_with_its_first_data_transfer_of_one_credit() {
    for (message, empty) in [(None, true), (Some((pattern(64, 1), None)), false)] {
        let mut response = hex(LINUX_RESPONSE);
        response[8..12].copy_from_slice(&[1, 0, 1, 0]);
        let mut side = Side::active(&linux_client());
        side.sent.clear();
        side.queue.extend(message);
        side.receive(&response);
        let sent = side.take_sent();
        assert_eq!(sent.len(), 1);
        assert!(u16_at(&sent[0], 2) > 0, "CreditsGranted");
        assert_eq!(sent[0].len() == 20, empty);
    }
}

#[test]
fn active_is_not_established_before_its_receives_are_posted() {
    let mut side = Side::active(&linux_client());
    side.connection
        .handle_receive(&hex(LINUX_RESPONSE), None, side.now);
    assert_eq!(side.connection.state(), State::Posting);
    assert_eq!(side.connection.poll_event(), None);
    // Nothing was granted yet, so nothing can come.
    side.receive(&transfer(255, 1, 0, 0, &[1; 8]));
    side.assert_ended("", Reason::NoReceiveCredit);
}

#[test]
fn active_second_response_is_no_data_transfer() {
    let mut side = Side::active(&linux_client());
    side.receive(&hex(LINUX_RESPONSE));
    // As a data transfer it would have 8 MiB of data.
    assert_eq!(side.receive(&hex(LINUX_RESPONSE)), Received::Ignore);
    side.assert_ended("", Reason::TransferBounds);
}

#[test]
fn active_response_at_the_last_moment() {
    let mut side = Side::active(&linux_client());
    side.pass(119_999);
    side.receive(&hex(LINUX_RESPONSE));
    side.assert_alive("in time");
    assert_eq!(
        side.connection.poll_timeout(),
        Some(side.now.after(120_000)),
        "the idle timer instead"
    );
    side.pass(119_999);
    side.assert_alive("idle");
}

#[test]
fn active_connection_that_the_peer_ends() {
    // Refused by the connection manager, or dropped without a response.
    for established in [false, true] {
        let mut side = Side::new(Role::Active, &linux_client());
        if established {
            side.connection.handle_established(side.now);
            side.drive();
        }
        side.connection.handle_disconnected(side.now);
        side.drive();
        side.assert_ended("", Reason::PeerDisconnected);
    }
}

#[test]
fn active_can_not_accept_or_reject() {
    let mut side = Side::active(&linux_client());
    let accepted = side.connection.accept(&linux_client(), side.now);
    assert!(accepted.is_err());
    side.sent.clear();
    side.connection.reject(side.now);
    side.drive();
    assert_eq!(side.sent, [], "there is no response to send");
    side.assert_ended("", Reason::Rejected);
}
