// SPDX-License-Identifier: GPL-2.0-only

//! Credit and timer cases: the vectors C01 to C14, the posting rule of [MS-SMBD]
//! 3.1.5.9 and the send rule of 3.1.5.1.

use crate::side::*;
use usmbd_engine::{Event, MessageError, Parameters, Reason, Received};

#[test]
fn c01_acceptor_waits_for_its_first_credit() {
    let mut side = Side::established();
    side.send(pattern(10, 0));
    assert_eq!(side.sent, []);
    assert_eq!(side.connection.send_credits(), 0);
    side.receive(&transfer(255, 1, 0, 0, &[]));
    assert_eq!(side.sent.len(), 1);
}

#[test]
fn c02_last_credit_is_kept_without_a_grant() {
    let mut side = Side::established();
    side.reads = false;
    // The peer spends all it holds on a message that nobody reads; with its
    // last credit it grants one, as it must.
    drain_peer(&mut side);
    assert_eq!(side.connection.send_credits(), 1);
    side.sent.clear();
    side.send(pattern(10, 0));
    assert_eq!(side.sent, []);
    assert_eq!(side.connection.send_credits(), 1);

    // C03: and goes out with the next receives that are posted.
    side.read(3);
    let sent = side.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(u16_at(&sent[0], 2), 3, "CreditsGranted");
    assert_eq!(side.connection.send_credits(), 0);
}

/// The peer sends until it holds no credit: unread data, one credit to us with
/// the last.
fn drain_peer(side: &mut Side) {
    while side.connection.receive_credits() > 0 {
        let last = side.connection.receive_credits() == 1;
        side.receive(&transfer(255, u16::from(last), 0, 0, &[1; 8]));
        side.assert_alive("drained");
    }
}

#[test]
fn c03_last_credit_goes_with_a_grant() {
    let mut side = Side::established();
    side.reads = false;
    drain_peer(&mut side);
    side.sent.clear();
    side.read(3);
    let sent = side.take_sent();
    assert_eq!(
        sent,
        [transfer(255, 3, 0, 0, &[])],
        "an empty PDU, nothing is queued"
    );
    assert_eq!(side.connection.send_credits(), 0);
    assert_eq!(side.connection.receive_credits(), 3);
}

#[test]
fn c04_peer_does_not_run_dry() {
    let request = hex("00 01 00 01 00 00 0A 00 54 05 00 00 54 05 00 00 56 A7 02 00");
    let mut side = Side::accepted(&linux_server(), &request);
    assert_eq!(side.connection.receive_credits(), 10);
    for sent in 1..=10 {
        side.receive(&transfer(10, 1, 0, 0, &[1; 8]));
        assert!(side.connection.receive_credits() > 0, "dry after {sent}");
    }
    let granted: u16 = side
        .take_sent()
        .iter()
        .map(|pdu| {
            assert_eq!(pdu.len(), 20);
            u16_at(pdu, 2)
        })
        .sum();
    assert!(granted >= 1);
}

#[test]
fn c04_a_peer_on_its_last_credit_of_two_can_go_on() {
    // It may not spend the last one without granting, and has granted all it has.
    let request = hex("00 01 00 01 00 00 02 00 54 05 00 00 54 05 00 00 56 A7 02 00");
    let mut side = Side::accepted(&linux_server(), &request);
    assert_eq!(side.connection.receive_credits(), 2);
    side.receive(&transfer(2, 2, 0, 0, &[1; 8]));
    let sent = side.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(u16_at(&sent[0], 2), 1);
    // Its empty answer is no reason for another.
    side.receive(&transfer(2, 1, 0, 0, &[]));
    assert!(side.take_sent().is_empty());
}

#[test]
fn c04_our_last_credit_waits_for_an_answer_while_the_peer_has_one() {
    let request = hex("00 01 00 01 00 00 02 00 54 05 00 00 54 05 00 00 56 A7 02 00");
    let mut side = Side::accepted(&linux_server(), &request);
    side.receive(&transfer(2, 1, 0, 0, &[1; 8]));
    assert_eq!(side.connection.send_credits(), 1);
    assert_eq!(side.connection.receive_credits(), 1);
    assert!(side.take_sent().is_empty());
    side.send(vec![2; 8]);
    let sent = side.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        u16_at(&sent[0], 2),
        2,
        "the answer brings the peer its credits"
    );
}

#[test]
fn c07_credits_requested_are_capped() {
    let mut side = Side::established();
    side.receive(&transfer(65535, 20, 0, 0, &[]));
    side.assert_alive("C07");
    for _ in 0..20 {
        side.receive(&transfer(65535, 1, 1, 0, &[]));
        assert!(side.connection.receive_credits() <= 255);
    }
}

#[test]
fn c08_receive_without_a_credit() {
    let mut side = Side::established();
    side.reads = false;
    drain_peer(&mut side);
    assert_eq!(side.connection.receive_credits(), 0);
    // Something is posted after all.
    side.posted = 1;
    side.receive(&transfer(255, 1, 0, 0, &[]));
    side.assert_ended("C08", Reason::NoReceiveCredit);
}

#[test]
fn c09_idle_for_two_minutes() {
    idle_for_two_minutes(Side::established());
}

#[test]
fn c09_idle_for_two_minutes_in_the_active_role() {
    idle_for_two_minutes(Side::connected());
}

fn idle_for_two_minutes(mut side: Side) {
    side.receive(&transfer(255, 5, 0, 0, &[]));
    side.pass(119_999);
    assert_eq!(side.sent, []);
    side.pass(1);
    let probe = side.take_sent();
    assert_eq!(probe.len(), 1);
    // It grants what the peer used, where it does not hold more than it wants.
    let granted = u16_at(&probe[0], 2);
    assert_eq!(probe, [transfer(255, granted, 1, 0, &[])]);
    // Answered: two minutes again.
    side.pass(4_999);
    side.receive(&transfer(255, 1, 0, 0, &[]));
    side.pass(119_999);
    assert_eq!(side.sent, []);
    side.pass(1);
    assert_eq!(side.take_sent().len(), 1);
    // Not answered: five seconds.
    side.pass(4_999);
    side.assert_alive("C09");
    side.pass(1);
    side.assert_ended("C09", Reason::KeepaliveTimeout);
}

#[test]
fn c10_trap_6_keepalive_is_answered() {
    keepalive_is_answered(Side::established());
}

#[test]
fn c10_trap_6_keepalive_is_answered_in_the_active_role() {
    keepalive_is_answered(Side::connected());
}

fn keepalive_is_answered(mut side: Side) {
    side.receive(&transfer(255, 5, 0, 0, &[]));
    side.receive(&hex(PROBE));
    let answer = side.take_sent();
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0].len(), 20);
    assert_eq!(u16_at(&answer[0], 4), 0, "Flags");
    assert!(u16_at(&answer[0], 2) >= 1, "CreditsGranted");
    assert_eq!(answer[0][8..], [0; 12]);
}

#[test]
fn c10_keepalive_is_answered_with_a_grant_before_the_receive_is_back() {
    // The caller may ask for actions before it has posted the receive again.
    let mut side = Side::established();
    side.receive(&transfer(255, 5, 0, 0, &[]));
    let received = side.connection.handle_receive(&hex(PROBE), None, side.now);
    assert_eq!(received, Received::Repost);
    side.drive();
    assert!(u16_at(&side.take_sent()[0], 2) >= 1);
}

#[test]
fn c11_silence_after_connecting() {
    let mut side = Side::passive(&linux_server());
    side.pass(4_999);
    side.assert_alive("C11");
    side.pass(1);
    side.assert_ended("C11", Reason::PassiveTimeout);

    let mut side = Side::passive(&linux_server());
    side.pass(4_000);
    side.receive(&hex(LINUX_REQUEST));
    assert_eq!(side.events, [Event::NegotiateReceived]);
}

#[test]
fn c13_answer_larger_than_the_peer_takes() {
    let request = hex("00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 00 00 02 00");
    let mut side = Side::accepted(&Parameters::default(), &request);
    side.receive(&transfer(255, 255, 0, 0, &[]));
    assert_eq!(side.connection.check_message(131_072), Ok(()));
    assert_eq!(
        side.connection.check_message(131_073),
        Err(MessageError::TooLong)
    );
    assert_eq!(
        side.connection.check_message(200_000),
        Err(MessageError::TooLong)
    );
    assert_eq!(side.connection.check_message(0), Err(MessageError::Empty));
    side.assert_alive("C13");
    // A caller that queues it all the same sends nothing of it.
    side.sent.clear();
    side.send(pattern(200_000, 0));
    assert_eq!(side.sent, []);
    side.assert_ended("C13", Reason::InvalidMessage);
}

#[test]
fn c14_fragments_of_an_answer() {
    let mut side = Side::established();
    side.receive(&transfer(255, 100, 0, 0, &[]));
    let message = pattern(10_000, 3);
    side.send_invalidating(message.clone(), Some(0xABCD));
    let expected = [
        (8660, 1340),
        (7320, 1340),
        (5980, 1340),
        (4640, 1340),
        (3300, 1340),
        (1960, 1340),
        (620, 1340),
        (0, 620),
    ];
    assert_eq!(side.sent.len(), expected.len());
    let mut at = 0;
    for ((pdu, invalidate), (remaining, length)) in side.sent.iter().zip(expected) {
        let payload = &message[at..at + length];
        let granted = u16_at(pdu, 2);
        assert_eq!(*pdu, transfer(255, granted, 0, remaining, payload));
        // The token on exactly one fragment, the last.
        assert_eq!(*invalidate, (remaining == 0).then_some(0xABCD));
        at += length;
    }
}

#[test]
fn c_peer_that_asks_for_less_keeps_what_it_holds() {
    let mut side = Side::established();
    side.receive(&transfer(1, 2, 1, 0, &[]));
    side.assert_alive("a target of one while it holds 254");
    assert_eq!(side.connection.receive_credits(), 254);
    // It gets none until it holds less than that one.
    while side.connection.receive_credits() > 1 {
        side.receive(&transfer(1, 0, 0, 0, &[1; 8]));
    }
    let granted = |side: &mut Side| -> Vec<u16> {
        side.take_sent().iter().map(|pdu| u16_at(pdu, 2)).collect()
    };
    assert_eq!(granted(&mut side), [0]);
    side.receive(&transfer(1, 1, 0, 0, &[1; 8]));
    assert!(side.connection.receive_credits() > 0);
}

#[test]
fn c_active_side_asks_for_an_answer_before_the_acceptor_runs_dry() {
    // The other direction of C04: its only credits come with our data.
    let mut side = Side::connected();
    for sent in 1..=600 {
        side.receive(&transfer(255, 2, 0, 0, &[1; 8]));
        assert!(side.connection.receive_credits() > 0, "dry after {sent}");
    }
    let sent = side.take_sent();
    assert!(sent.iter().all(|pdu| pdu.len() == 20));
    assert!(sent.len() < 600 / 64, "{} empty PDUs", sent.len());
}

#[test]
fn posting_rule_asks_for_no_more_than_the_maximum() {
    for (maximum, requested, expected) in [(10, 255, 11), (10, 10, 11), (10, 3, 4), (1, 1, 2)] {
        let parameters = Parameters {
            receive_credit_max: maximum,
            ..linux_server()
        };
        let mut request = hex(LINUX_REQUEST);
        request[6] = requested;
        let side = Side::accepted(&parameters, &request);
        // The receive of the negotiation is used, and not posted again.
        assert_eq!(side.posted, expected, "{maximum} {requested}");
        let granted = u16::from(requested).min(maximum);
        assert_eq!(side.connection.receive_credits(), granted.into());
    }
}

#[test]
fn posting_rule_result_is_granted_with_the_next_pdu() {
    let mut side = Side::established();
    side.receive(&transfer(255, 10, 0, 0, &[]));
    for _ in 0..6 {
        side.receive(&transfer(255, 0, 0, 0, &[1; 8]));
    }
    assert_eq!(side.sent, []);
    side.send(pattern(10, 0));
    assert_eq!(u16_at(&side.take_sent()[0], 2), 7, "CreditsGranted");
    assert_eq!(side.connection.receive_credits(), 255);
}

#[test]
fn posting_rule_grants_when_the_peer_holds_none() {
    // One receive is back, and one is enough.
    let mut side = Side::established();
    side.reads = false;
    drain_peer(&mut side);
    side.receives = 0;
    side.sent.clear();
    side.read(1);
    assert_eq!(side.take_sent(), [transfer(255, 1, 0, 0, &[])]);
}

#[test]
fn send_rule_1_nothing_goes_without_a_credit() {
    for established in [Side::established, Side::connected] {
        let mut side = established();
        side.send(pattern(10, 0));
        side.receive(&hex(PROBE));
        side.pass(121_000);
        assert_eq!(side.sent, [], "message, answer or probe");
    }
}

#[test]
fn send_rule_2_grants_go_with_every_fragment() {
    let mut side = Side::established();
    side.receive(&transfer(255, 2, 0, 0, &[]));
    side.send(pattern(3000, 0));
    assert_eq!(side.take_sent().len(), 2);
    side.receive(&transfer(255, 1, 0, 0, &[1; 8]));
    let sent = side.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(u16_at(&sent[0], 2), 1, "CreditsGranted");
}

#[test]
fn send_rule_4_header_of_what_goes_out() {
    let parameters = Parameters {
        send_credit_target: 99,
        ..linux_server()
    };
    let mut side = Side::accepted(&parameters, &hex(LINUX_REQUEST));
    side.receive(&transfer(255, 5, 0, 0, &[]));
    side.send(pattern(10, 4));
    assert_eq!(
        side.take_sent(),
        [transfer(99, 1, 0, 0, &pattern(10, 4))],
        "the target in all, not the difference; no flag"
    );
    assert_eq!(side.connection.send_credits(), 4);
}

#[test]
fn send_rule_5_token_goes_with_one_fragment() {
    let mut side = Side::established();
    side.receive(&transfer(255, 50, 0, 0, &[]));
    for (length, fragments) in [(1, 1), (1340, 1), (1341, 2), (5000, 4)] {
        side.send_invalidating(pattern(length, 0), Some(7));
        let tokens: Vec<_> = side.sent.drain(..).map(|(_, token)| token).collect();
        let mut expected = vec![None; fragments];
        expected[fragments - 1] = Some(7);
        assert_eq!(tokens, expected, "{length}");
    }
}

#[test]
fn send_rule_6_answer_is_given_once() {
    let mut side = Side::established();
    side.receive(&transfer(255, 5, 0, 0, &[]));
    side.receive(&hex(PROBE));
    assert_eq!(side.take_sent().len(), 1);
    side.send(pattern(10, 0));
    side.drive();
    assert_eq!(side.take_sent().len(), 1, "the message alone");

    // A message on its way is the answer.
    side.queue.push_back((pattern(10, 0), None));
    side.receive(&hex(PROBE));
    assert_eq!(side.take_sent().len(), 1);
}

#[test]
fn fragmentation_at_the_edges() {
    let mut side = Side::established();
    for (length, expected) in [
        (1, &[1][..]),
        (1339, &[1339]),
        (1340, &[1340]),
        (1341, &[1340, 1]),
        (2680, &[1340, 1340]),
        (2681, &[1340, 1340, 1]),
    ] {
        side.receive(&transfer(255, 20, 0, 0, &[]));
        side.sent.clear();
        side.send(pattern(length, 0));
        let mut left = length;
        for (pdu, length) in side.take_sent().iter().zip(expected) {
            left -= length;
            assert_eq!(pdu.len(), 24 + length);
            assert_eq!(u32_at(pdu, 8) as usize, left, "RemainingDataLength");
            assert_eq!(u32_at(pdu, 12), 24, "DataOffset");
            assert_eq!(u32_at(pdu, 16) as usize, *length, "DataLength");
            assert_eq!(pdu[20..24], [0; 4], "padding");
        }
        assert_eq!(left, 0);
    }
}

#[test]
fn fragmentation_of_the_largest_message() {
    let mut request = hex(LINUX_REQUEST);
    request[12] = 128;
    request[13] = 0;
    request[16..20].copy_from_slice(&131_072u32.to_le_bytes());
    let mut side = Side::accepted(&linux_server(), &request);
    side.receive(&transfer(255, 2000, 0, 0, &[]));
    side.send(pattern(131_072, 0));
    let sent = side.take_sent();
    assert_eq!(sent.len(), 1261);
    assert!(sent.iter().all(|pdu| pdu.len() <= 128));
}
