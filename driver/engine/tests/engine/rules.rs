// SPDX-License-Identifier: GPL-2.0-only

//! One test per rule that ends a connection; its row begins the name.

use crate::side::*;
use usmbd_engine::{Reason, Received, Role, State};

/// A passive side that gets this request.
fn requested(change: impl FnOnce(&mut Vec<u8>)) -> Side {
    let mut request = hex(LINUX_REQUEST);
    change(&mut request);
    let mut side = Side::passive(&linux_server());
    side.receive(&request);
    side
}

/// An active side that gets this response.
fn responded(change: impl FnOnce(&mut Vec<u8>)) -> Side {
    let mut response = hex(LINUX_RESPONSE);
    change(&mut response);
    let mut side = Side::active(&linux_client());
    side.sent.clear();
    side.receive(&response);
    side
}

/// An established side that gets this data transfer of 64 bytes.
fn transferred(change: impl FnOnce(&mut Vec<u8>)) -> Side {
    let mut pdu = transfer(255, 1, 0, 0, &[7; 64]);
    change(&mut pdu);
    let mut side = Side::established();
    side.receive(&pdu);
    side
}

#[track_caller]
fn ends_unanswered(mut side: Side, reason: Reason) {
    side.assert_ended("", reason);
    assert_eq!(side.sent, []);
}

#[test]
fn p1_no_receive_for_the_request() {
    let mut side = Side::new(Role::Passive, &linux_server());
    side.connection.handle_post_receives_failed(side.now);
    side.drive();
    ends_unanswered(side, Reason::PassiveNoReceive);
}

#[test]
fn p2_no_request_in_time() {
    let mut side = Side::passive(&linux_server());
    side.pass(5_000);
    ends_unanswered(side, Reason::PassiveTimeout);
}

#[test]
fn p2_a_request_but_never_established() {
    let mut side = Side::new(Role::Passive, &linux_server());
    side.receive(&hex(LINUX_REQUEST));
    side.pass(5_000);
    ends_unanswered(side, Reason::PassiveTimeout);
}

#[test]
fn p3_request_too_short() {
    ends_unanswered(requested(|pdu| pdu.truncate(19)), Reason::RequestTooShort);
    ends_unanswered(requested(Vec::clear), Reason::RequestTooShort);
}

#[test]
fn p4_version_is_answered_before_the_end() {
    let mut side = Side::passive(&linux_server());
    side.completes = false;
    let mut request = hex(LINUX_REQUEST);
    request[..4].copy_from_slice(&[1, 1, 0, 2]);
    side.receive(&request);
    assert_eq!(side.take_sent(), [hex(REFUSAL)]);
    // The end waits for the answer to be out.
    side.assert_alive("P4");
    assert_eq!(side.connection.state(), State::Rejecting);
    side.connection.handle_sent(1, side.now);
    side.drive();
    ends_unanswered(side, Reason::RequestVersion);
}

#[test]
fn p4_comes_before_the_other_checks() {
    // Version, credits and sizes are all wrong: the version is answered.
    let mut side = requested(|pdu| {
        pdu[0..2].copy_from_slice(&[0, 2]);
        pdu[6..].fill(0);
    });
    assert_eq!(side.take_sent(), [hex(REFUSAL)]);
    ends_unanswered(side, Reason::RequestVersion);
}

#[test]
fn p4_peer_that_disconnects_first() {
    let mut side = Side::passive(&linux_server());
    side.completes = false;
    let mut request = hex(LINUX_REQUEST);
    request[2..4].fill(0);
    side.receive(&request);
    side.connection.handle_disconnected(side.now);
    side.drive();
    side.assert_ended("", Reason::RequestVersion);
}

#[test]
fn p5_trap_34_no_credits_requested() {
    ends_unanswered(requested(|pdu| pdu[6..8].fill(0)), Reason::RequestCredits);
    // Checked before P6 and P7.
    ends_unanswered(requested(|pdu| pdu[6..].fill(0)), Reason::RequestCredits);
}

#[test]
fn p6_receive_size_too_small() {
    let size = |size: u32| requested(|pdu| pdu[12..16].copy_from_slice(&size.to_le_bytes()));
    ends_unanswered(size(127), Reason::RequestReceiveSize);
    size(128).assert_alive("128");
    ends_unanswered(
        requested(|pdu| pdu[12..].fill(0)),
        Reason::RequestReceiveSize,
    );
}

#[test]
fn p7_fragmented_size_too_small() {
    let size = |size: u32| requested(|pdu| pdu[16..20].copy_from_slice(&size.to_le_bytes()));
    ends_unanswered(size(131_071), Reason::RequestFragmentedSize);
    size(131_072).assert_alive("131072");
}

#[test]
fn p8_no_receive_for_credits() {
    let mut side = requested(|_| ());
    side.receives = 0;
    side.connection.accept(&linux_server(), side.now).unwrap();
    side.drive();
    let mut refusal = hex(REFUSAL);
    refusal[12..16].copy_from_slice(&0xC000_009Au32.to_le_bytes());
    assert_eq!(side.take_sent(), [refusal]);
    ends_unanswered(side, Reason::PassiveNoCredits);
}

#[test]
fn p8_some_receives_are_enough() {
    let mut side = requested(|_| ());
    side.receives = 3;
    side.connection.accept(&linux_server(), side.now).unwrap();
    side.drive();
    side.assert_alive("3 receives");
    assert_eq!(u16_at(&side.take_sent()[0], 10), 3, "CreditsGranted");
}

#[test]
fn a1_not_established_in_time() {
    let mut side = Side::active(&linux_client());
    side.sent.clear();
    side.pass(119_999);
    side.assert_alive("A1");
    side.pass(1);
    ends_unanswered(side, Reason::ActiveTimeout);
}

#[test]
fn a1_connection_manager_is_silent() {
    let mut side = Side::new(Role::Active, &linux_client());
    side.pass(120_000);
    ends_unanswered(side, Reason::ActiveTimeout);
}

#[test]
fn a2_response_too_short() {
    ends_unanswered(responded(|pdu| pdu.truncate(31)), Reason::ResponseTooShort);
    ends_unanswered(responded(Vec::clear), Reason::ResponseTooShort);
}

#[test]
fn a3_response_version() {
    ends_unanswered(responded(|pdu| pdu[5] = 2), Reason::ResponseVersion);
}

#[test]
fn a4_response_status() {
    ends_unanswered(responded(|pdu| pdu[15] = 0xC0), Reason::ResponseStatus);
    // Any status but success.
    ends_unanswered(responded(|pdu| pdu[12] = 1), Reason::ResponseStatus);
}

#[test]
fn a5_trap_34_response_credits() {
    ends_unanswered(responded(|pdu| pdu[8..10].fill(0)), Reason::ResponseCredits);
    ends_unanswered(
        responded(|pdu| pdu[10..12].fill(0)),
        Reason::ResponseCredits,
    );
}

#[test]
fn a6_response_sizes() {
    let size = |at: usize, size: u32| {
        responded(move |pdu| pdu[at..at + 4].copy_from_slice(&size.to_le_bytes()))
    };
    ends_unanswered(size(24, 127), Reason::ResponseSizes);
    size(24, 128).assert_alive("128");
    ends_unanswered(size(28, 131_071), Reason::ResponseSizes);
    size(28, 131_072).assert_alive("131072");
}

#[test]
fn a7_response_prefers_to_send_too_much() {
    let size = |size: u32| responded(|pdu| pdu[20..24].copy_from_slice(&size.to_le_bytes()));
    ends_unanswered(size(1365), Reason::ResponsePreferredSendSize);
    size(1364).assert_alive("1364");
}

#[test]
fn a8_no_receive_for_credits() {
    let mut side = Side::active(&linux_client());
    side.sent.clear();
    side.receives = 0;
    side.receive(&hex(LINUX_RESPONSE));
    ends_unanswered(side, Reason::ActiveNoCredits);
}

#[test]
fn a8_no_receive_for_the_response() {
    let mut side = Side::new(Role::Active, &linux_client());
    side.connection.handle_post_receives_failed(side.now);
    side.drive();
    ends_unanswered(side, Reason::ActiveNoCredits);
}

#[test]
fn d1_transfer_too_short() {
    ends_unanswered(
        transferred(|pdu| pdu.truncate(19)),
        Reason::TransferTooShort,
    );
    ends_unanswered(transferred(Vec::clear), Reason::TransferTooShort);
}

#[test]
fn d2_trap_34_no_credits_requested() {
    ends_unanswered(
        transferred(|pdu| pdu[0..2].fill(0)),
        Reason::TransferCredits,
    );
}

#[test]
fn d3_data_not_aligned() {
    for offset in (25..32).chain(1..8).chain(17..24) {
        ends_unanswered(
            transferred(|pdu| pdu[12] = offset),
            Reason::TransferAlignment,
        );
    }
    // Without data too.
    let empty = |pdu: &mut Vec<u8>| {
        pdu[12] = 25;
        pdu[16] = 0;
    };
    ends_unanswered(transferred(empty), Reason::TransferAlignment);
}

#[test]
fn d4_trap_36_data_beyond_the_pdu() {
    ends_unanswered(transferred(|pdu| pdu[16] = 65), Reason::TransferBounds);
    ends_unanswered(transferred(|pdu| pdu[12] = 32), Reason::TransferBounds);
    // Sums that wrap in 32 bits.
    ends_unanswered(
        transferred(|pdu| pdu[16..20].fill(0xFF)),
        Reason::TransferBounds,
    );
    let wrap = |pdu: &mut Vec<u8>| pdu[12..16].copy_from_slice(&0xFFFF_FFF8u32.to_le_bytes());
    ends_unanswered(transferred(wrap), Reason::TransferBounds);
    // Without data too.
    let empty = |pdu: &mut Vec<u8>| {
        pdu[12] = 96;
        pdu[16] = 0;
    };
    ends_unanswered(transferred(empty), Reason::TransferBounds);
}

#[test]
fn d5_trap_36_message_too_large() {
    let remaining =
        |bytes: u32| transferred(move |pdu| pdu[8..12].copy_from_slice(&bytes.to_le_bytes()));
    ends_unanswered(remaining(1_048_576 - 63), Reason::TransferMessageSize);
    remaining(1_048_576 - 64).assert_alive("at the limit");
    // Sums that wrap in 32 bits.
    ends_unanswered(remaining(u32::MAX), Reason::TransferMessageSize);
    ends_unanswered(remaining(u32::MAX - 63), Reason::TransferMessageSize);
}

#[test]
fn d6_message_cut_short() {
    let mut side = Side::established();
    side.receive(&transfer(255, 0, 0, 100, &[1; 8]));
    side.receive(&transfer(255, 0, 0, 0, &[1; 99]));
    ends_unanswered(side, Reason::TransferMessageCutShort);
}

#[test]
fn d7_keepalive_is_not_answered() {
    let mut side = Side::established();
    side.receive(&transfer(255, 5, 0, 0, &[]));
    side.pass(124_999);
    side.assert_alive("D7");
    side.sent.clear();
    side.pass(1);
    ends_unanswered(side, Reason::KeepaliveTimeout);
}

#[test]
fn d8_provider_error() {
    let mut side = Side::established();
    side.connection
        .handle_provider_error(Reason::ProviderError, side.now);
    side.drive();
    ends_unanswered(side, Reason::ProviderError);
}

#[test]
fn d9_longer_than_the_receive() {
    let mut side = Side::established();
    side.connection
        .handle_provider_error(Reason::ReceiveTooLong, side.now);
    side.drive();
    ends_unanswered(side, Reason::ReceiveTooLong);

    // Found by us if the receive was larger than it had to be.
    ends_unanswered(
        transferred(|pdu| pdu.resize(1365, 0)),
        Reason::ReceiveTooLong,
    );
    transferred(|pdu| pdu.resize(1364, 0)).assert_alive("1364");
}

#[test]
fn x1_no_receive_credit() {
    // One credit, and two PDUs.
    let mut request = hex(LINUX_REQUEST);
    request[6] = 1;
    let mut side = Side::accepted(&linux_server(), &request);
    side.reads = false;
    side.posted = 2;
    side.receive(&transfer(1, 0, 0, 0, &[1; 8]));
    side.assert_alive("first");
    let again = side.receive(&transfer(1, 0, 0, 0, &[2; 8]));
    assert_eq!(again, Received::Ignore);
    ends_unanswered(side, Reason::NoReceiveCredit);
}

#[test]
fn x1_data_before_the_response() {
    let mut side = requested(|_| ());
    side.posted = 1;
    side.receive(&transfer(255, 1, 0, 0, &[1; 8]));
    ends_unanswered(side, Reason::NoReceiveCredit);

    let mut side = requested(|_| ());
    side.slots = 0;
    side.connection.accept(&linux_server(), side.now).unwrap();
    side.drive();
    assert_eq!(side.connection.state(), State::Responding);
    side.receive(&transfer(255, 1, 0, 0, &[1; 8]));
    ends_unanswered(side, Reason::NoReceiveCredit);
}

#[test]
fn x2_fragment_too_long() {
    let mut side = Side::established();
    side.receive(&transfer(255, 0, 0, 100, &[1; 8]));
    side.receive(&transfer(255, 0, 0, 0, &[1; 101]));
    ends_unanswered(side, Reason::FragmentTooLong);
}

#[test]
fn x3_send_credits_saturate() {
    let mut side = Side::established();
    side.receive(&transfer(255, 65535, 0, 0, &[]));
    side.receive(&transfer(255, 65535, 0, 0, &[]));
    side.assert_alive("X3");
    assert_eq!(side.connection.send_credits(), 65535);
}

#[test]
fn x4_fragments_add_up_to_too_much() {
    // Each is allowed alone; the second begins the count again.
    let mut side = Side::established();
    side.receive(&transfer(255, 0, 0, 1_048_576 - 8, &[1; 8]));
    side.receive(&transfer(255, 0, 0, 1_048_576 - 8, &[1; 8]));
    ends_unanswered(side, Reason::ReassemblyTooLong);
}

#[test]
fn x4_a_message_does_not_grow() {
    // All of it came, but it is said to go on, within the limit.
    let mut side = Side::established();
    side.receive(&transfer(255, 0, 0, 100, &[1; 8]));
    side.receive(&transfer(255, 0, 0, 1, &[1; 100]));
    ends_unanswered(side, Reason::ReassemblyRestarted);
}

#[test]
fn every_reason_has_its_own_code_and_name() {
    for (at, reason) in Reason::ALL.iter().enumerate() {
        for other in &Reason::ALL[at + 1..] {
            assert_ne!(reason.code(), other.code(), "{}", reason.name());
            assert_ne!(reason.name(), other.name());
        }
        assert_ne!(reason.code(), 0, "zero says that there is none");
        let orderly = matches!(reason, Reason::LocalDisconnect | Reason::PeerDisconnected);
        assert_eq!(reason.is_orderly(), orderly, "{}", reason.name());
    }
}

#[test]
fn reason_codes_follow_the_rows() {
    let codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    let rows = (1..=5)
        .chain(101..=108)
        .chain(201..=208)
        .chain(301..=309)
        .chain([401, 402, 404, 405, 406]);
    assert_eq!(codes, rows.collect::<Vec<_>>());
}
