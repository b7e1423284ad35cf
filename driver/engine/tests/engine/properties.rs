// SPDX-License-Identifier: GPL-2.0-only

//! Any two sides exchange any messages: whole, in order, with nothing between
//! their fragments, and never to a standstill. `PROPTEST_CASES=n` for more cases.

use crate::pair::{Delays, Pair};
use crate::side::pattern;
use proptest::prelude::*;
use usmbd_engine::Parameters;

/// Largest message of these tests, and what a side may say that it takes.
const LARGEST: u32 = 8 << 20;

fn any_credits() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => Just(1),
        3 => 2..=4u16,
        2 => 5..=64u16,
        1 => Just(255u16),
        1 => 1..=65_535u16,
    ]
}

fn any_parameters() -> impl Strategy<Value = Parameters> {
    let size = || prop_oneof![Just(128u32), 128..=8192u32, Just(1364u32)];
    let fragmented = prop_oneof![Just(131_072), 131_072..=LARGEST, Just(LARGEST)];
    (
        any_credits(),
        any_credits(),
        size(),
        size(),
        fragmented,
        5_000..=200_000u32,
    )
        .prop_map(
            |(
                receive_credit_max,
                send_credit_target,
                max_send_size,
                max_receive_size,
                max_fragmented_recv_size,
                keepalive_interval_ms,
            )| Parameters {
                receive_credit_max,
                send_credit_target,
                max_send_size,
                max_receive_size,
                max_fragmented_recv_size,
                keepalive_interval_ms,
                ..Parameters::default()
            },
        )
}

fn any_delays() -> impl Strategy<Value = Delays> {
    let read = prop_oneof![
        3 => (0..5u64).prop_map(Some),
        3 => (0..1000u64).prop_map(Some),
        2 => Just(None),
    ];
    (0..20u64, 0..40u64, read).prop_map(|(wire, completion, read)| Delays {
        wire,
        completion,
        read,
    })
}

/// Sender, when, length, token.
type Planned = (usize, u64, u32, Option<u32>);

fn any_message(length: impl Strategy<Value = u32>) -> impl Strategy<Value = Planned> {
    (0..2usize, 0..500u64, length, any::<Option<u32>>())
}

/// Runs it; a message that the peer does not take is cut to what it does.
fn exchange(
    parameters: [Parameters; 2],
    delays: [Delays; 2],
    slots: [u32; 2],
    messages: Vec<Planned>,
    seed: u64,
) {
    let mut pair = Pair::new(parameters, delays, slots, seed);
    // A reader that waits for everything else would wait for the timers too.
    pair.timers = delays.iter().all(|delays| delays.read.is_some());
    for (index, (side, after, length, token)) in messages.into_iter().enumerate() {
        let length = length.min(parameters[1 - side].max_fragmented_recv_size);
        pair.send(side, after, pattern(length as usize, index), token);
    }
    pair.run();
    pair.assert_live();
    if pair.timers {
        pair.pass(1_000_000);
        pair.assert_live();
    }
}

fn few(max_shrink_iters: u32, share: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: config.cases.div_ceil(share),
        failure_persistence: None,
        max_shrink_iters,
        ..config
    }
}

proptest! {
    #![proptest_config(few(200, 1))]

    #[test]
    fn any_two_sides_exchange_any_messages(
        parameters in [any_parameters(), any_parameters()],
        delays in [any_delays(), any_delays()],
        slots in [1..=9u32, 1..=9u32],
        messages in prop::collection::vec(
            any_message(prop_oneof![4 => 1..=300u32, 3 => 1..=20_000u32, 1 => 100_000..=131_072u32]),
            0..12,
        ),
        seed in any::<u64>(),
    ) {
        exchange(parameters, delays, slots, messages, seed);
    }
}

proptest! {
    #![proptest_config(few(20, 16))]

    #[test]
    fn any_two_sides_exchange_large_messages_at_once(
        parameters in [any_parameters(), any_parameters()],
        delays in [any_delays(), any_delays()],
        slots in [1..=9u32, 1..=9u32],
        lengths in [131_072..=LARGEST, 131_072..=LARGEST],
        seed in any::<u64>(),
    ) {
        let messages = vec![(0, 0, lengths[0], Some(1)), (1, 0, lengths[1], None)];
        exchange(parameters, delays, slots, messages, seed);
    }
}
