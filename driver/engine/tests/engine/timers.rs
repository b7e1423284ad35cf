// SPDX-License-Identifier: GPL-2.0-only

//! The negotiation timer and the idle timer, [MS-SMBD] 3.1.2 and 3.1.6.

use crate::side::*;
use usmbd_engine::{Parameters, Reason, Role, State};

/// An established side with some credits, and nothing sent.
fn with_credits(credits: u16) -> Side {
    let mut side = Side::established();
    side.receive(&transfer(255, credits, 0, 0, &[]));
    side.sent.clear();
    side
}

#[test]
fn timer_negotiation_differs_by_role() {
    let side = Side::new(Role::Passive, &linux_server());
    assert_eq!(side.connection.poll_timeout(), Some(side.now.after(5_000)));
    let side = Side::new(Role::Active, &linux_server());
    assert_eq!(
        side.connection.poll_timeout(),
        Some(side.now.after(120_000))
    );
}

#[test]
fn timer_trap_10_negotiation_runs_from_the_connect_request() {
    let mut side = Side::new(Role::Passive, &linux_server());
    side.pass(4_000);
    side.connection.handle_established(side.now);
    side.pass(1_000);
    side.assert_ended("", Reason::PassiveTimeout);
}

#[test]
fn timer_request_ends_the_passive_wait() {
    let mut side = Side::passive(&linux_server());
    side.receive(&hex(LINUX_REQUEST));
    assert_eq!(
        side.connection.poll_timeout(),
        None,
        "the upper layer's time"
    );
    side.pass(30_000);
    side.connection.accept(&linux_server(), side.now).unwrap();
    side.drive();
    side.assert_alive("accepted after half a minute");
    assert_eq!(
        side.connection.poll_timeout(),
        Some(side.now.after(120_000))
    );
}

#[test]
fn timer_failure_response_that_never_completes() {
    let mut side = Side::passive(&linux_server());
    side.completes = false;
    side.receive(&hex(LINUX_REQUEST));
    side.connection.reject(side.now);
    side.drive();
    side.pass(4_999);
    assert_eq!(side.connection.state(), State::Rejecting);
    side.pass(1);
    side.assert_ended("", Reason::Rejected);
}

#[test]
fn timer_keepalive_interval_is_the_accepting_side_s() {
    let parameters = Parameters {
        keepalive_interval_ms: 2_000,
        ..linux_server()
    };
    let mut side = Side::accepted(&parameters, &hex(LINUX_REQUEST));
    side.receive(&transfer(255, 5, 0, 0, &[]));
    side.pass(1_999);
    assert_eq!(side.sent, []);
    side.pass(1);
    assert_eq!(u16_at(&side.take_sent()[0], 4), 1, "Flags");
}

#[test]
fn timer_idle_restarts_at_every_receive() {
    let mut side = with_credits(5);
    let pdus = [
        transfer(255, 0, 0, 0, &[]),
        transfer(255, 0, 0, 10, &[1; 10]),
        transfer(255, 0, 0, 0, &[1; 10]),
    ];
    for pdu in pdus {
        side.pass(119_000);
        side.receive(&pdu);
        assert_eq!(
            side.connection.poll_timeout(),
            Some(side.now.after(120_000))
        );
    }
    assert_eq!(side.sent, []);
}

#[test]
fn timer_idle_does_not_restart_at_sending() {
    let mut side = with_credits(5);
    let due = side.connection.poll_timeout();
    side.pass(100_000);
    side.send(pattern(10, 0));
    assert_eq!(side.sent.len(), 1);
    assert_eq!(side.connection.poll_timeout(), due);
    side.pass(20_000);
    assert_eq!(side.sent.len(), 2, "the probe");
}

#[test]
fn timer_idle_does_not_restart_at_reading() {
    let mut side = Side::established();
    side.reads = false;
    side.receive(&transfer(255, 5, 0, 0, &[1; 8]));
    let due = side.connection.poll_timeout();
    side.pass(100_000);
    side.read(1);
    assert_eq!(side.connection.poll_timeout(), due);
}

#[test]
fn timer_early_timeout_is_harmless() {
    let mut side = with_credits(5);
    let due = side.connection.poll_timeout();
    side.connection.handle_timeout(side.now);
    side.drive();
    assert_eq!(side.sent, []);
    assert_eq!(side.connection.poll_timeout(), due);
}

#[test]
fn timer_probe_without_credits_ends_the_same_way() {
    // A peer that never grants: two minutes and five seconds.
    let mut side = Side::established();
    side.pass(124_999);
    side.assert_alive("");
    assert_eq!(side.sent, []);
    side.pass(1);
    side.assert_ended("", Reason::KeepaliveTimeout);
}

#[test]
fn timer_probe_rides_on_a_message() {
    // No slot is free when the timer expires, and then a message waits.
    let mut side = with_credits(50);
    side.slots = 0;
    side.pass(120_000);
    assert_eq!(side.sent, []);
    side.queue.push_back((pattern(3000, 0), None));
    side.slots = 64;
    side.drive();
    let flags: Vec<_> = side.take_sent().iter().map(|pdu| u16_at(pdu, 4)).collect();
    assert_eq!(flags, [1, 0, 0]);
}

#[test]
fn timer_late_probe_gets_its_five_seconds() {
    let mut side = with_credits(50);
    side.completes = false;
    side.slots = 1;
    side.send(pattern(10, 0));
    side.sent.clear();
    side.pass(123_000);
    assert_eq!(side.sent, [], "no slot");
    side.slots += 1;
    side.connection.handle_sent(1, side.now);
    side.drive();
    assert_eq!(side.take_sent().len(), 1);
    side.pass(4_999);
    side.assert_alive("the probe left at 123 s");
    side.pass(1);
    side.assert_ended("", Reason::KeepaliveTimeout);
}

#[test]
fn timer_anything_answers_a_probe() {
    let mut side = with_credits(50);
    side.pass(120_000);
    side.pass(4_000);
    side.receive(&transfer(255, 0, 0, 0, &[1; 8]));
    side.pass(119_999);
    side.assert_alive("");
}

#[test]
fn timer_trap_6_answer_to_a_probe_asks_for_nothing_while_a_probe_is_out() {
    // Both sides' timers expire together.
    let mut side = with_credits(50);
    side.pass(120_000);
    assert_eq!(u16_at(&side.take_sent()[0], 4), 1);
    side.receive(&transfer(255, 1, 1, 0, &[]));
    let answers = side.take_sent();
    assert_eq!(answers.len(), 1);
    assert_eq!(u16_at(&answers[0], 4), 0);
}

#[test]
fn timer_stopped_reader_is_not_the_peer_s_fault() {
    let mut side = Side::established();
    side.reads = false;
    while side.connection.receive_credits() > 0 {
        side.receive(&transfer(255, 1, 0, 0, &[1; 8]));
    }
    assert_eq!(side.posted, 0);
    side.sent.clear();
    side.pass(600_000);
    side.assert_alive("ten minutes later");
    assert_eq!(side.sent, [], "a probe that cannot be answered");

    // It reads again: the peer is granted credits, and has two minutes and five
    // seconds at most to show that it lives.
    side.read(side.held);
    assert!(side.connection.receive_credits() > 0);
    let due = side.connection.poll_timeout().unwrap();
    side.sent.clear();
    side.pass(due.0 - side.now.0);
    assert_eq!(u16_at(&side.take_sent()[0], 4), 1);
    side.pass(5_000);
    side.assert_ended("", Reason::KeepaliveTimeout);
}

#[test]
fn timer_slow_reader_s_peer_that_still_holds_credits_is_probed() {
    let mut side = Side::established();
    side.reads = false;
    while side.connection.receive_credits() > 1 {
        side.receive(&transfer(255, 1, 0, 0, &[1; 8]));
    }
    side.sent.clear();
    side.pass(120_000);
    assert_eq!(side.sent.len(), 1);
    side.pass(5_000);
    side.assert_ended("", Reason::KeepaliveTimeout);
}

#[test]
fn timer_peer_that_cut_itself_off_is_not_waited_for() {
    // It spent its last credit without granting one: we have receives for it and
    // no credit to tell it so.
    let mut side = Side::established();
    while side.connection.receive_credits() > 0 {
        side.receive(&transfer(255, 0, 0, 0, &[1; 8]));
    }
    assert_eq!(side.posted, 256);
    side.pass(125_000);
    side.assert_ended("", Reason::KeepaliveTimeout);
}
