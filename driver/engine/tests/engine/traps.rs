// SPDX-License-Identifier: GPL-2.0-only

//! What other implementations ran into. Those that a rule, a vector or a timer
//! has a test for anyway carry their number in that test's name.

use crate::side::*;
use usmbd_engine::{Parameters, Reason};

#[test]
fn trap_1_grants_ride_in_fragments() {
    for established in [Side::established, Side::connected] {
        let mut side = established();
        // Enough for five of the message's eight fragments.
        side.receive(&transfer(255, 5, 0, 0, &[]));
        side.queue.push_back((pattern(10_000, 0), None));
        side.drive();
        let first = side.take_sent().len();
        // The peer wants an answer and uses up its credits, in the middle of it.
        for _ in 0..200 {
            side.receive(&transfer(255, 0, 1, 0, &[1; 8]));
        }
        assert_eq!(side.sent, [], "no credit for a fragment, none for anything");
        side.receive(&transfer(255, 50, 0, 0, &[]));
        let sent = side.take_sent();
        assert_eq!(first + sent.len(), 8, "fragments only");
        assert!(u16_at(&sent[0], 2) >= 200, "the grants go with the first");
        assert!(sent.iter().all(|pdu| u32_at(pdu, 16) > 0));
    }
}

#[test]
fn trap_3_only_posted_receives_are_granted() {
    for established in [Side::established, Side::connected] {
        let mut side = established();
        side.reads = false;
        side.receive(&transfer(255, 100, 0, 0, &[1; 8]));
        let before = side.connection.receive_credits();
        for _ in 0..20 {
            side.receive(&transfer(255, 0, 1, 0, &[1; 8]));
        }
        // Each was asked to be answered, and nothing was posted again: there was
        // the spare receive to grant.
        let granted: u32 = side
            .take_sent()
            .iter()
            .map(|pdu| u32::from(u16_at(pdu, 2)))
            .sum();
        assert!(granted <= 1, "{granted} granted");
        assert!(side.connection.receive_credits() <= side.posted);
        assert!(before - side.connection.receive_credits() >= 19);
    }
}

#[test]
fn trap_4_peer_grants_in_large_batches() {
    let mut side = Side::established();
    side.receive(&transfer(255, 191, 0, 0, &[]));
    for message in 0..150 {
        side.send(pattern(100, message));
    }
    assert_eq!(side.sent.len(), 150, "one grant is enough for all");
    side.receive(&transfer(255, 150, 0, 0, &[]));
    assert_eq!(side.connection.send_credits(), 191);
}

#[test]
fn trap_5_plain_grants_are_not_answered() {
    for established in [Side::established, Side::connected] {
        let mut side = established();
        for _ in 0..100 {
            side.receive(&transfer(255, 1, 0, 0, &[]));
        }
        assert_eq!(side.sent, []);
        // Half of what it wants is used: one PDU for all of them.
        for _ in 0..100 {
            side.receive(&transfer(255, 1, 0, 0, &[]));
        }
        assert_eq!(side.take_sent().len(), 1);
    }
}

#[test]
fn trap_5_one_missing_credit_is_no_reason_to_grant() {
    let mut request = hex(LINUX_REQUEST);
    request[6] = 4;
    let mut side = Side::accepted(&linux_server(), &request);
    side.receive(&transfer(4, 5, 0, 0, &[1; 8]));
    assert_eq!(side.sent, []);
}

#[test]
fn trap_7_peer_that_prefers_to_send_nothing() {
    for preferred in [0, 1, 127, 128] {
        let mut request = hex(LINUX_REQUEST);
        request[8..12].copy_from_slice(&u32::to_le_bytes(preferred));
        let mut side = Side::accepted(&linux_server(), &request);
        let negotiated = side.connection.negotiated().unwrap();
        assert_eq!(negotiated.max_receive_size, 128);
        side.receive(&transfer(255, 1, 0, 0, &[1; 104]));
        assert_eq!(side.messages.len(), 1);
    }
}

#[test]
fn trap_8_fragmented_size_does_not_follow_the_receives() {
    let parameters = Parameters {
        receive_credit_max: 1,
        max_receive_size: 128,
        max_fragmented_recv_size: 131_072,
        ..linux_server()
    };
    let mut side = Side::passive(&parameters);
    side.receive(&hex(LINUX_REQUEST));
    side.connection.accept(&parameters, side.now).unwrap();
    side.drive();
    assert_eq!(u32_at(&side.take_sent()[0], 28), 131_072);
    // And it means it: with one credit at a time.
    let message = pattern(131_072, 3);
    for (at, piece) in message.chunks(104).enumerate() {
        let left = message.len() - at * 104 - piece.len();
        side.receive(&transfer(255, 2, 0, left as u32, piece));
        side.assert_alive("on the way");
        assert!(side.connection.receive_credits() > 0, "the peer is stuck");
        assert!(side.posted <= 2);
    }
    assert!(side.messages == [(message, None)]);
}

#[test]
fn trap_26_large_messages_go_inline() {
    let mut side = Side::accepted(&Parameters::default(), &hex(LINUX_REQUEST));
    assert_eq!(side.posted, 65, "64 and the spare one");
    let message = pattern(1_048_576, 9);
    for (at, piece) in message.chunks(1340).enumerate() {
        let left = message.len() - at * 1340 - piece.len();
        side.receive(&transfer(255, 1, 0, left as u32, piece));
        side.assert_alive("on the way");
    }
    assert!(side.messages == [(message, None)]);
}

#[test]
fn trap_30_default_read_write_size_is_windows_own() {
    let mut side = Side::passive(&Parameters::default());
    side.receive(&hex(LINUX_REQUEST));
    side.connection
        .accept(&Parameters::default(), side.now)
        .unwrap();
    side.drive();
    assert_eq!(u32_at(&side.take_sent()[0], 16), 8_388_608);
}

#[test]
fn trap_36_no_sum_wraps() {
    let halves = [0u32, 8, 24, 0x7FFF_FFF8, 0x8000_0000, 0xFFFF_FFF8];
    let lengths = [0u32, 1, 8, 64, 0x7FFF_FFFF, 0x8000_0008, 0xFFFF_FFFF];
    for offset in halves {
        for length in lengths {
            for remaining in lengths {
                let mut pdu = transfer(255, 1, 0, remaining, &[7; 64]);
                pdu[12..16].copy_from_slice(&offset.to_le_bytes());
                pdu[16..20].copy_from_slice(&length.to_le_bytes());
                let mut side = Side::established();
                side.receive(&pdu);
                let (offset, length) = (u64::from(offset), u64::from(length));
                let good = offset + length <= 88
                    && length + u64::from(remaining) <= 1_048_576
                    && (length == 0 || offset >= 20);
                let what = format!("{offset} {length} {remaining}");
                assert_eq!(side.connection.end().is_none(), good, "{what}");
            }
        }
    }
}

#[test]
fn trap_37_what_is_reserved_is_ignored_in_every_pdu() {
    let mut request = hex(LINUX_REQUEST);
    request[4..6].fill(0xFF);
    request.resize(512, 0xFF);
    let mut side = Side::accepted(&linux_server(), &request);
    let mut pdu = transfer(255, 1, 0xFFFE, 0, &[1; 8]);
    pdu[6..8].fill(0xFF);
    pdu.resize(1364, 0xFF);
    side.receive(&pdu);
    assert_eq!(side.messages, [(vec![1; 8], None)]);
    assert_eq!(side.sent, [], "nothing asked for an answer");

    let mut response = hex(LINUX_RESPONSE);
    response[6..8].fill(0xFF);
    response.resize(512, 0xFF);
    let mut side = Side::active(&linux_client());
    side.receive(&response);
    side.assert_alive("the response");
}

#[test]
fn trap_34_no_pdu_may_ask_for_no_credits() {
    let mut side = Side::connected();
    side.receive(&transfer(0, 1, 0, 0, &[1; 8]));
    side.assert_ended("", Reason::TransferCredits);
}
