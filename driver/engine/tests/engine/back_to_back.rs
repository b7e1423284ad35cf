// SPDX-License-Identifier: GPL-2.0-only

//! Known pairs of peers, and the edges of what can be negotiated.

use crate::pair::{Delays, Pair, CALM};
use crate::side::*;
use usmbd_engine::{Event, Parameters};

fn established(parameters: [Parameters; 2]) -> Pair {
    let mut pair = Pair::new(parameters, [CALM; 2], [16; 2], 1);
    pair.run();
    for side in &pair.sides {
        assert!(matches!(side.events[..], [Event::Established(_)]));
    }
    pair
}

/// Traffic as SMB has it: requests, large answers, large writes.
fn exchange(pair: &mut Pair, largest: usize) {
    for round in 0..30 {
        let size = |of: usize| (of * (round + 1) / 30).clamp(80, largest);
        pair.send(0, 10 * round as u64, pattern(size(largest), round), None);
        pair.send(
            1,
            10 * round as u64 + 5,
            pattern(size(largest / 2), round),
            Some(round as u32),
        );
    }
    pair.run();
    pair.assert_live();
}

#[test]
fn linux_client_and_linux_server() {
    let mut pair = established([linux_client(), linux_server()]);
    let negotiated = pair.sides[0].connection.negotiated().unwrap();
    assert_eq!(negotiated.max_send_size, 1364);
    assert_eq!(negotiated.max_fragmented_send_size, 173_910);
    exchange(&mut pair, 173_910);
}

#[test]
fn windows_client_and_this_driver() {
    let mut pair = established([windows(), Parameters::default()]);
    let negotiated = pair.sides[1].connection.negotiated().unwrap();
    assert_eq!(negotiated.max_send_size, 1364);
    assert_eq!(negotiated.receive_credit_target, 64);
    exchange(&mut pair, 1_048_576);
}

#[test]
fn this_driver_and_windows_server() {
    let mut pair = established([Parameters::default(), windows()]);
    exchange(&mut pair, 1_048_576);
}

#[test]
fn windows_client_and_linux_server() {
    let mut pair = established([windows(), linux_server()]);
    exchange(&mut pair, 173_910);
}

#[test]
fn least_of_everything() {
    let least = Parameters {
        receive_credit_max: 1,
        send_credit_target: 1,
        max_send_size: 128,
        max_receive_size: 128,
        max_fragmented_recv_size: 131_072,
        ..Parameters::default()
    };
    let mut pair = established([least, least]);
    exchange(&mut pair, 20_000);
}

#[test]
fn trap_2_every_small_credit_target_against_every_other() {
    for active in 1..=9 {
        for passive in 1..=9 {
            let parameters = |receive_credit_max, send_credit_target| Parameters {
                receive_credit_max,
                send_credit_target,
                ..Parameters::default()
            };
            for (first, second) in [(9, 9), (active, passive)] {
                let mut pair =
                    established([parameters(first, passive), parameters(second, active)]);
                pair.assert_live();
                exchange(&mut pair, 30_000);
            }
        }
    }
}

#[test]
fn spare_receive_can_be_missing_unless_targets_are_tiny() {
    for active in [4, 5, 8, 64, 255] {
        for passive in [4, 5, 8, 64, 255] {
            let parameters = |receive_credit_max, send_credit_target| Parameters {
                receive_credit_max,
                send_credit_target,
                ..Parameters::default()
            };
            let parameters = [parameters(active, passive), parameters(passive, active)];
            let mut pair = Pair::new(parameters, [CALM; 2], [16; 2], 1);
            pair.sides[0].receives = active.into();
            pair.sides[1].receives = passive.into();
            pair.run();
            pair.assert_live();
            exchange(&mut pair, 30_000);
        }
    }
}

#[test]
fn timer_idle_pair_lives_on_probes_alone() {
    let mut pair = established([linux_client(), windows()]);
    pair.pass(3_600_000);
    for side in &pair.sides {
        side.assert_alive("after an hour");
    }
    let probes = pair.probes();
    assert!((29..=60).contains(&probes), "{probes} probes in an hour");
    pair.assert_live();
}

#[test]
fn trap_5_nobody_reads_and_nothing_happens() {
    // Both upper layers hold all that comes; with few credits and with many.
    for credits in [1, 2, 3, 16] {
        let parameters = Parameters {
            receive_credit_max: credits,
            send_credit_target: credits,
            ..Parameters::default()
        };
        let delays = Delays { read: None, ..CALM };
        let mut pair = Pair::new([parameters; 2], [delays; 2], [16; 2], 1);
        pair.timers = false;
        for message in 0..40 {
            pair.send(message % 2, 0, pattern(10, message), None);
        }
        pair.run();
        pair.assert_live();
    }
}
