// SPDX-License-Identifier: GPL-2.0-only

//! From the first input to the last event, and what the caller may do when.

use crate::side::*;
use usmbd_engine::{
    Action, Event, Message, NotReady, Outlook, ParameterError, Parameters, Reason, Received, Role,
    State,
};

#[test]
fn trap_9_request_may_come_before_established() {
    let mut side = Side::new(Role::Passive, &linux_server());
    assert_eq!(side.receive(&hex(LINUX_REQUEST)), Received::Ignore);
    assert_eq!(side.events, []);
    assert_eq!(side.connection.state(), State::Connecting);
    side.connection.handle_established(side.now);
    side.drive();
    assert_eq!(side.events, [Event::NegotiateReceived]);
}

#[test]
fn trap_9_bad_request_may_come_before_established() {
    let mut side = Side::new(Role::Passive, &linux_server());
    let mut request = hex(LINUX_REQUEST);
    request[2..4].fill(0);
    side.receive(&request);
    assert_eq!(side.sent, []);
    side.assert_alive("not processed yet");
    side.connection.handle_established(side.now);
    side.drive();
    assert_eq!(side.take_sent(), [hex(REFUSAL)]);
    side.assert_ended("", Reason::RequestVersion);
}

#[test]
fn accept_under_other_parameters() {
    let mut side = Side::passive(&linux_server());
    side.receive(&hex(LINUX_REQUEST));
    let parameters = Parameters {
        receive_credit_max: 4,
        send_credit_target: 9,
        max_send_size: 1000,
        max_receive_size: 500,
        max_fragmented_recv_size: 200_000,
        max_read_write_size: 65536,
        keepalive_interval_ms: 10_000,
    };
    let negotiated = side.connection.accept(&parameters, side.now).unwrap();
    side.drive();
    let response = hex("00 01 00 01 00 01 00 00 09 00 04 00 00 00 00 00 \
         00 00 01 00 E8 03 00 00 F4 01 00 00 40 0D 03 00");
    assert_eq!(side.take_sent(), [response]);
    assert_eq!(negotiated.receive_credit_target, 4);
    assert_eq!(side.connection.negotiated(), Some(negotiated));
    let again = side.connection.accept(&parameters, side.now);
    assert_eq!(again, Err(NotReady), "accepted twice");
}

#[test]
fn accept_needs_a_request() {
    let mut side = Side::passive(&linux_server());
    assert_eq!(
        side.connection.accept(&linux_server(), side.now),
        Err(NotReady)
    );
    side.receive(&hex(LINUX_REQUEST));
    side.connection.handle_disconnected(side.now);
    side.drive();
    assert_eq!(
        side.connection.accept(&linux_server(), side.now),
        Err(NotReady)
    );
    side.assert_ended("", Reason::PeerDisconnected);
}

#[test]
fn posting_rule_asks_once_for_the_target_and_one_to_spare() {
    let mut side = Side::passive(&linux_server());
    side.receive(&hex(LINUX_REQUEST));
    side.connection.accept(&linux_server(), side.now).unwrap();
    let outlook = Outlook {
        head: None,
        send_slot: true,
    };
    let expected = Action::PostReceives {
        count: 256,
        size: 1364,
    };
    assert_eq!(side.connection.poll_action(&outlook), Some(expected));
    assert_eq!(
        side.connection.poll_action(&outlook),
        None,
        "nothing before they are posted"
    );
    side.connection.handle_receives_posted(256, side.now);
    side.drive();
    assert_eq!(u16_at(&side.take_sent()[0], 10), 255, "CreditsGranted");
    assert_eq!(side.connection.receive_credits(), 255);
}

#[test]
fn posting_rule_follows_a_target_that_rises() {
    let mut request = hex(LINUX_REQUEST);
    request[6] = 2;
    let mut side = Side::accepted(&linux_server(), &request);
    assert_eq!(side.posted, 3);
    side.receive(&transfer(100, 10, 0, 0, &[]));
    assert_eq!(side.posted, 101);
    assert_eq!(side.connection.receive_credits(), 100);
    // Less, and more again: they are still there.
    side.receive(&transfer(5, 10, 0, 0, &[]));
    side.receive(&transfer(100, 10, 0, 0, &[]));
    assert_eq!(side.posted, 101);
}

#[test]
fn posting_rule_adds_none_above_the_target() {
    let mut side = Side::established();
    for _ in 0..100 {
        side.receive(&transfer(50, 10, 1, 0, &[]));
    }
    let granted: u32 = side
        .take_sent()
        .iter()
        .map(|pdu| u32::from(u16_at(pdu, 2)))
        .sum();
    assert_eq!(granted, 0);
    assert_eq!(side.connection.receive_credits(), 155);
}

#[test]
fn send_rule_3_last_credit_may_go_beyond_the_target() {
    let mut side = Side::established();
    side.receive(&transfer(1, 1, 0, 0, &[]));
    assert_eq!(
        side.connection.receive_credits(),
        254,
        "far more than the one it wants"
    );
    side.send(pattern(10, 0));
    let sent = side.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(u16_at(&sent[0], 2), 1, "CreditsGranted");
}

#[test]
fn posting_rule_follows_a_maximum_that_rises() {
    let routed = Parameters {
        receive_credit_max: 4,
        ..linux_server()
    };
    let mut side = Side::accepted(&routed, &hex(LINUX_REQUEST));
    assert_eq!(side.connection.receive_credits(), 4);
    side.receive(&transfer(255, 10, 0, 0, &[1; 8]));
    side.connection.set_receive_credit_max(255);
    let negotiated = side.connection.negotiated().unwrap();
    assert_eq!(negotiated.receive_credit_target, 255);
    side.send(pattern(10, 0));
    assert_eq!(side.posted, 256);
    assert_eq!(side.connection.receive_credits(), 255);
}

#[test]
fn posting_rule_failure_leaves_an_established_connection() {
    let mut request = hex(LINUX_REQUEST);
    request[6] = 2;
    let mut side = Side::accepted(&linux_server(), &request);
    side.receives = 0;
    side.receive(&transfer(100, 10, 1, 0, &[]));
    side.assert_alive("no receives to add");
    assert_eq!(
        side.connection.receive_credits(),
        3,
        "what there is, the spare one too"
    );
}

#[test]
fn reject_answers_with_an_error() {
    let mut side = Side::passive(&linux_server());
    side.receive(&hex(LINUX_REQUEST));
    side.connection.reject(side.now);
    side.drive();
    let mut refusal = hex(REFUSAL);
    refusal[12..16].copy_from_slice(&0xC000_009Au32.to_le_bytes());
    assert_eq!(side.take_sent(), [refusal]);
    side.assert_ended("", Reason::Rejected);
}

#[test]
fn reject_without_a_request_just_ends() {
    let mut side = Side::passive(&linux_server());
    side.connection.reject(side.now);
    side.drive();
    assert_eq!(side.sent, []);
    side.assert_ended("", Reason::Rejected);
}

#[test]
fn disconnect_is_at_once_and_final() {
    let mut side = Side::established();
    side.connection.disconnect(side.now);
    side.drive();
    side.assert_ended("", Reason::LocalDisconnect);
    assert_eq!(side.connection.state(), State::Disconnecting);
    assert_eq!(
        side.receive(&transfer(255, 1, 0, 0, &[1; 8])),
        Received::Ignore
    );
    side.connection
        .handle_provider_error(Reason::ProviderError, side.now);
    side.connection.handle_receives_posted(3, side.now);
    side.connection.handle_timeout(side.now.after(1_000_000));
    side.connection.handle_disconnected(side.now);
    side.send(pattern(10, 0));
    assert_eq!(side.connection.state(), State::Disconnected);
    assert_eq!(side.sent, []);
    side.assert_ended("the first reason stays", Reason::LocalDisconnect);
}

#[test]
fn peer_disconnects() {
    let mut side = Side::established();
    side.connection.handle_disconnected(side.now);
    side.drive();
    assert_eq!(side.connection.state(), State::Disconnected);
    side.assert_ended("", Reason::PeerDisconnected);
}

#[test]
fn removed_device_is_not_disconnected() {
    let mut side = Side::established();
    side.connection
        .handle_provider_error(Reason::DeviceRemoved, side.now);
    side.drive();
    assert_eq!(side.disconnects, []);
    assert_eq!(side.events, [Event::Disconnected(Reason::DeviceRemoved)]);
    assert_eq!(side.connection.state(), State::Disconnected);
}

#[test]
fn receive_rule_9_invalidated_token_comes_with_the_last_piece() {
    let mut side = Side::established();
    side.receive(&transfer(255, 1, 0, 10, &[1; 10]));
    side.receive_invalidating(&transfer(255, 1, 0, 0, &[1; 10]), Some(77));
    side.receive(&transfer(255, 1, 0, 0, &[1; 10]));
    // Linux peers put it on the first fragment.
    side.receive_invalidating(&transfer(255, 1, 0, 10, &[1; 10]), Some(78));
    side.receive(&transfer(255, 1, 0, 0, &[1; 10]));
    let tokens: Vec<_> = side.messages.iter().map(|(_, token)| *token).collect();
    assert_eq!(tokens, [Some(77), None, Some(78)]);
}

#[test]
fn nothing_is_sent_without_a_slot() {
    let mut side = Side::established();
    side.slots = 1;
    side.completes = false;
    side.receive(&transfer(255, 100, 1, 0, &[]));
    assert_eq!(side.take_sent().len(), 1);
    assert!(!side.connection.is_send_idle());
    side.send(pattern(3000, 0));
    assert_eq!(side.sent, []);
    for _ in 0..3 {
        side.slots += 1;
        side.connection.handle_sent(1, side.now);
        side.drive();
        assert_eq!(side.take_sent().len(), 1);
        assert!(!side.connection.is_send_idle());
    }
    side.slots += 1;
    side.connection.handle_sent(1, side.now);
    side.drive();
    assert_eq!(side.sent, []);
    assert!(side.connection.is_send_idle());
}

#[test]
fn trap_1_nothing_comes_between_fragments() {
    let mut side = Side::established();
    side.receive(&transfer(255, 4, 0, 0, &[]));
    // A caller that loses sight of its message in the middle of it.
    let outlook = |head| Outlook {
        head,
        send_slot: true,
    };
    let message = Message {
        length: 10_000,
        invalidate: None,
        payload_limit: 10_000,
    };
    let first = side.connection.poll_action(&outlook(Some(message)));
    assert!(matches!(first, Some(Action::Transmit(_))));
    side.connection
        .handle_receive(&transfer(255, 0, 1, 0, &[]), None, side.now);
    assert_eq!(side.connection.poll_action(&outlook(None)), None);
    // The answer rides on the next fragment.
    let Some(Action::Transmit(next)) = side.connection.poll_action(&outlook(Some(message))) else {
        panic!("no fragment");
    };
    assert_eq!(next.payload_offset, 1340);
}

#[test]
fn fragments_are_cut_where_the_caller_says() {
    let mut side = Side::established();
    side.receive(&transfer(255, 20, 0, 0, &[]));
    side.payload_limit = 1000;
    let message = pattern(3_500, 0);
    side.send(message.clone());
    let sent = side.take_sent();
    let lengths: Vec<u32> = sent.iter().map(|pdu| u32_at(pdu, 16)).collect();
    assert_eq!(lengths, [1000, 1000, 1000, 500]);
    let remaining: Vec<u32> = sent.iter().map(|pdu| u32_at(pdu, 8)).collect();
    assert_eq!(remaining, [2500, 1500, 500, 0]);
    let payload: Vec<u8> = sent.iter().flat_map(|pdu| pdu[24..].to_vec()).collect();
    assert_eq!(payload, message);
    // Never more than a PDU holds, and never nothing.
    side.payload_limit = 0;
    side.send(vec![1, 2]);
    let sent = side.take_sent();
    let lengths: Vec<u32> = sent.iter().map(|pdu| u32_at(pdu, 16)).collect();
    assert_eq!(lengths, [1, 1]);
}

#[test]
fn send_rule_1_fragments_stop_for_want_of_credits() {
    let mut side = Side::established();
    side.receive(&transfer(255, 3, 0, 0, &[]));
    side.send(pattern(10_000, 0));
    assert_eq!(side.sent.len(), 3, "the spare receive pays for the last");
    side.receive(&transfer(255, 2, 0, 0, &[]));
    assert_eq!(side.sent.len(), 5);
    side.receive(&transfer(255, 20, 0, 0, &[]));
    assert_eq!(side.sent.len(), 8);
}

#[test]
fn active_never_prefers_what_windows_refuses() {
    let parameters = Parameters {
        max_send_size: 8192,
        ..Parameters::default()
    };
    let mut side = Side::active(&parameters);
    assert_eq!(u32_at(&side.take_sent()[0], 8), 8136);
}

#[test]
fn parameters_have_limits() {
    use ParameterError::*;
    let valid = Parameters::default();
    assert_eq!(valid.validate(), Ok(()));
    for valid in [windows(), linux_server(), linux_client()] {
        assert_eq!(valid.validate(), Ok(()));
    }
    type Set = fn(&mut Parameters, u32);
    let tables: [(Set, &[u32], &[u32], ParameterError); 7] = [
        (
            |p, v| p.receive_credit_max = v as u16,
            &[1, 65535],
            &[0],
            ReceiveCreditMax,
        ),
        (
            |p, v| p.send_credit_target = v as u16,
            &[1, 65535],
            &[0],
            SendCreditTarget,
        ),
        (
            |p, v| p.max_send_size = v,
            &[128, 8192],
            &[0, 127, 8193],
            MaxSendSize,
        ),
        (
            |p, v| p.max_receive_size = v,
            &[128, 8192],
            &[0, 127, 8193, u32::MAX],
            MaxReceiveSize,
        ),
        (
            |p, v| p.max_fragmented_recv_size = v,
            &[131_072, 16_777_216],
            &[0, 131_071, 16_777_217],
            MaxFragmentedRecvSize,
        ),
        (
            |p, v| p.max_read_write_size = v,
            &[4096, 16_777_216],
            &[0, 4095, 16_777_217],
            MaxReadWriteSize,
        ),
        (
            |p, v| p.keepalive_interval_ms = v,
            &[1000, u32::MAX],
            &[0, 999],
            KeepaliveInterval,
        ),
    ];
    for (set, good, bad, error) in tables {
        for value in good {
            let mut parameters = valid;
            set(&mut parameters, *value);
            assert_eq!(parameters.validate(), Ok(()), "{error:?} {value}");
        }
        for value in bad {
            let mut parameters = valid;
            set(&mut parameters, *value);
            assert_eq!(parameters.validate(), Err(error), "{value}");
        }
    }
}

#[test]
fn trap_35_most_credits_there_can_be() {
    let parameters = Parameters {
        receive_credit_max: 65535,
        send_credit_target: 65535,
        ..Parameters::default()
    };
    let mut request = hex(LINUX_REQUEST);
    request[6..8].fill(0xFF);
    let side = Side::accepted(&parameters, &request);
    assert_eq!(side.connection.receive_credits(), 65535);
}
