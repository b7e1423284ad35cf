// SPDX-License-Identifier: GPL-2.0-only

//! An active and a passive side back to back, on a wire and a clock of the
//! test's own.

use crate::side::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use usmbd_engine::{Event, Parameters, Received, Role, Time};

/// What reaches a side.
enum Arrival {
    Established,
    Pdu(Vec<u8>, Option<u32>),
    /// Its oldest PDU on the wire has completed.
    Completion,
    /// The upper layer accepts the connection.
    Accept,
    /// The upper layer takes one piece.
    Read,
    /// The upper layer sends a message.
    Send(Vec<u8>, Option<u32>),
}

/// What a wire and an upper layer take their time for, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Delays {
    wire: u64,
    completion: u64,
    read: u64,
}

/// What a listener on the wire knows of one direction.
#[derive(Default)]
struct Direction {
    /// Credits of the sender, counted from the grants that reached it.
    credits: i64,
    /// Bytes to come of the message under way.
    remaining: u32,
    /// The last arrival: PDUs do not overtake each other.
    arrival: u64,
    completion: u64,
    data: usize,
    empty: usize,
    /// Messages and tokens that must arrive, in order.
    expected: Vec<(Vec<u8>, Option<u32>)>,
}

/// Side 0 is active, side 1 passive; direction n is what side n sends.
struct Pair {
    sides: [Side; 2],
    directions: [Direction; 2],
    parameters: [Parameters; 2],
    agenda: BTreeMap<(u64, u64), (usize, Arrival)>,
    entries: u64,
    delays: [Delays; 2],
    random: u64,
}

impl Pair {
    fn new(parameters: [Parameters; 2], delays: [Delays; 2], slots: [u32; 2], seed: u64) -> Pair {
        let side = |role, index: usize| {
            let mut side = Side::new(role, &parameters[index]);
            side.completes = false;
            side.reads = false;
            side.slots = slots[index];
            side
        };
        let mut pair = Pair {
            sides: [side(Role::Active, 0), side(Role::Passive, 1)],
            directions: Default::default(),
            parameters,
            agenda: BTreeMap::new(),
            entries: 0,
            delays,
            random: seed | 1,
        };
        let now = pair.sides[0].now.0;
        for side in 0..2 {
            let at = now + pair.roll(pair.delays[side].wire);
            pair.schedule(at, side, Arrival::Established);
        }
        pair
    }

    /// Up to `most`, by xorshift.
    fn roll(&mut self, most: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % (most + 1)
    }

    fn schedule(&mut self, at: u64, side: usize, arrival: Arrival) {
        self.entries += 1;
        self.agenda.insert((at, self.entries), (side, arrival));
    }

    /// A message that is to go out `after` milliseconds from now.
    fn send(&mut self, side: usize, after: u64, message: Vec<u8>, token: Option<u32>) {
        let at = self.now() + after;
        self.schedule(at, side, Arrival::Send(message, token));
    }

    fn now(&self) -> u64 {
        self.sides[0].now.0
    }

    /// Takes one thing from the agenda; false when there is none.
    fn step(&mut self) -> bool {
        let Some(((at, _), (index, arrival))) = self.agenda.pop_first() else {
            return false;
        };
        for side in &mut self.sides {
            side.now = side.now.max(Time(at));
        }
        let side = &mut self.sides[index];
        match arrival {
            Arrival::Established => side.connection.handle_established(side.now),
            Arrival::Pdu(pdu, token) => self.arrive(index, &pdu, token),
            Arrival::Completion => {
                side.slots += 1;
                side.connection.handle_sent(side.now);
            }
            Arrival::Accept => {
                side.connection
                    .accept(&self.parameters[index], side.now)
                    .expect("still there to accept");
            }
            Arrival::Read => side.read(1),
            Arrival::Send(message, token) => {
                if side.connection.negotiated().is_none() {
                    // Not before it is established.
                    self.schedule(at + 1, index, Arrival::Send(message, token));
                    return true;
                }
                assert_eq!(side.connection.check_message(message.len() as u32), Ok(()));
                self.directions[index]
                    .expected
                    .push((message.clone(), token));
                side.queue.push_back((message, token));
            }
        }
        self.settle(index);
        true
    }

    fn arrive(&mut self, index: usize, pdu: &[u8], token: Option<u32>) {
        // What the peer sent here grants us credits.
        let held = self.sides[index].held;
        let received = self.sides[index].receive_invalidating(pdu, token);
        match pdu.len() {
            20 if pdu[..4] == [0, 1, 0, 1] && received == Received::Ignore => {}
            32 if pdu[..6] == [0, 1, 0, 1, 0, 1] && received == Received::Ignore => {
                self.directions[index].credits += i64::from(u16_at(pdu, 10));
            }
            _ => self.directions[index].credits += i64::from(u16_at(pdu, 2)),
        }
        if self.sides[index].held > held {
            let at = self.now() + self.roll(self.delays[index].read);
            self.schedule(at, index, Arrival::Read);
        }
    }

    /// Puts on the wire what a side has sent.
    fn settle(&mut self, index: usize) {
        self.sides[index].drive();
        if self.sides[index].events.last() == Some(&Event::NegotiateReceived) {
            self.sides[index].events.pop();
            let at = self.now() + self.roll(100);
            self.schedule(at, index, Arrival::Accept);
        }
        let sent = std::mem::take(&mut self.sides[index].sent);
        for (pdu, token) in sent {
            self.listen(index, &pdu);
            let now = self.now();
            let arrival = now + self.roll(self.delays[index].wire);
            let arrival = arrival.max(self.directions[index].arrival);
            self.directions[index].arrival = arrival;
            // The sender hears of it after it arrived, or long after.
            let completion = arrival + self.roll(self.delays[index].completion);
            let completion = completion.max(self.directions[index].completion);
            self.directions[index].completion = completion;
            self.schedule(arrival, 1 - index, Arrival::Pdu(pdu, token));
            self.schedule(completion, index, Arrival::Completion);
        }
        let side = &self.sides[index];
        assert_eq!(side.connection.end(), None, "side {index} ended");
    }

    /// The rules that show on the wire.
    fn listen(&mut self, index: usize, pdu: &[u8]) {
        let direction = &mut self.directions[index];
        let side = &self.sides[index];
        let Some(negotiated) = side.connection.negotiated() else {
            assert_eq!((index, pdu.len()), (0, 20), "not a Negotiate Request");
            return;
        };
        if index == 1 && direction.credits == 0 && pdu.len() == 32 {
            return;
        }
        let granted = u16_at(pdu, 2);
        let remaining = u32_at(pdu, 8);
        let offset = u32_at(pdu, 12);
        let length = u32_at(pdu, 16);
        assert!(pdu.len() as u32 <= negotiated.max_send_size);
        assert_eq!(
            u16_at(pdu, 0),
            negotiated.send_credit_target,
            "CreditsRequested"
        );
        assert_eq!(pdu.len() as u32, offset.max(20) + length);
        assert_eq!(u16_at(pdu, 4), 0, "no timer runs, so no probe");
        direction.credits -= 1;
        assert!(direction.credits >= 0, "sent without a credit");
        assert!(
            direction.credits > 0 || granted > 0,
            "the last credit went without a grant"
        );
        if length == 0 {
            assert_eq!(direction.remaining, 0, "an empty PDU between fragments");
            assert_eq!((remaining, offset, pdu.len()), (0, 0, 20));
            direction.empty += 1;
        } else {
            assert_eq!(offset, 24);
            assert_eq!(pdu[20..24], [0; 4], "padding");
            if direction.remaining > 0 {
                assert_eq!(
                    direction.remaining,
                    length + remaining,
                    "another message between"
                );
            }
            direction.remaining = remaining;
            direction.data += 1;
        }
    }

    /// Runs until nothing is under way.
    fn run(&mut self) {
        for _ in 0..300_000 {
            if !self.step() {
                self.assert_rest();
                return;
            }
        }
        panic!("does not come to rest");
    }

    fn assert_rest(&mut self) {
        for index in 0..2 {
            let side = &self.sides[index];
            let direction = &self.directions[index];
            assert_eq!(side.queue.len(), 0, "side {index} is stuck with messages");
            assert!(side.connection.is_send_idle(), "side {index}");
            assert_eq!(side.held, 0);
            assert_eq!(side.connection.reassembly_remaining(), 0);
            assert_eq!(i64::from(side.connection.send_credits()), direction.credits);
            let peer = &self.sides[1 - index];
            assert_eq!(
                u32::from(side.connection.send_credits()),
                peer.connection.receive_credits(),
                "the two sides count differently"
            );
            // What goes without data pays for what comes with it. The last term
            // is for the turns that it takes to come to rest.
            let other = &self.directions[1 - index];
            let most = 2 * (direction.data + other.data) + 4;
            assert!(direction.empty <= most, "{} empty PDUs", direction.empty);
            assert_eq!(
                peer.messages.len(),
                direction.expected.len(),
                "messages of side {index}"
            );
            for (got, sent) in peer.messages.iter().zip(&direction.expected) {
                assert!(got == sent, "a message of side {index} came changed");
            }
        }
    }

    /// At rest, each side can still send, alone, in turn, and both together.
    fn assert_live(&mut self) {
        for senders in [&[0][..], &[1], &[1], &[0], &[0, 1], &[0, 1]] {
            for side in senders {
                self.send(*side, 0, pattern(5, *side), None);
            }
            self.run();
        }
    }
}

const CALM: Delays = Delays {
    wire: 1,
    completion: 1,
    read: 1,
};

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
    let start = pair.now();
    let mut probes = 0;
    loop {
        // The agenda first, then whoever's timer is next.
        while let Some((&(at, _), _)) = pair.agenda.first_key_value() {
            let next = [0, 1].map(|side| pair.sides[side].connection.poll_timeout().unwrap().0);
            if at > next[0].min(next[1]) {
                break;
            }
            let (side, pdu) = match &pair.agenda.first_key_value().unwrap().1 {
                (side, Arrival::Pdu(pdu, _)) => (*side, pdu.clone()),
                _ => (0, Vec::new()),
            };
            if pdu.is_empty() {
                pair.step();
            } else {
                pair.agenda.pop_first();
                pair.sides.iter_mut().for_each(|side| side.now = Time(at));
                pair.sides[side].receive(&pdu);
                probes += u32::from(u16_at(&pdu, 4));
            }
            send_all(&mut pair);
        }
        let due = [0, 1].map(|side| pair.sides[side].connection.poll_timeout().unwrap());
        let (side, at) = if due[0] <= due[1] {
            (0, due[0])
        } else {
            (1, due[1])
        };
        if at.0 > start + 3_600_000 {
            break;
        }
        pair.sides
            .iter_mut()
            .for_each(|side| side.now = side.now.max(at));
        pair.sides[side].connection.handle_timeout(at);
        pair.sides[side].drive();
        send_all(&mut pair);
    }
    for side in &pair.sides {
        side.assert_alive("after an hour");
    }
    assert!((29..=60).contains(&probes), "{probes} probes in an hour");
}

/// Puts on the wire what both sides sent, without the rules that hold while no
/// timer runs.
fn send_all(pair: &mut Pair) {
    for index in 0..2 {
        for (pdu, _) in std::mem::take(&mut pair.sides[index].sent) {
            assert_eq!(pdu.len(), 20);
            let at = pair.now() + 1;
            pair.schedule(at, 1 - index, Arrival::Pdu(pdu, None));
            pair.sides[index].slots += 1;
            let now = pair.sides[index].now;
            pair.sides[index].connection.handle_sent(now);
        }
    }
}

fn any_parameters() -> impl Strategy<Value = Parameters> {
    let credits = || prop_oneof![1..=4u16, 1..=64u16, Just(255u16)];
    let size = || prop_oneof![Just(128u32), 128..=8192u32, Just(1364u32)];
    (credits(), credits(), size(), size(), 131_072..=300_000u32).prop_map(
        |(receive_credit_max, send_credit_target, max_send_size, max_receive_size, fragmented)| {
            Parameters {
                receive_credit_max,
                send_credit_target,
                max_send_size,
                max_receive_size,
                max_fragmented_recv_size: fragmented,
                ..Parameters::default()
            }
        },
    )
}

fn any_delays() -> impl Strategy<Value = Delays> {
    (0..20u64, 0..40u64, prop_oneof![0..5u64, 0..1000u64]).prop_map(|(wire, completion, read)| {
        Delays {
            wire,
            completion,
            read,
        }
    })
}

/// Sender, when, length, token.
type Planned = (usize, u64, usize, Option<u32>);

fn any_message() -> impl Strategy<Value = Planned> {
    let length = prop_oneof![4 => 1..=300usize, 3 => 1..=20_000usize, 1 => 100_000..=131_072usize];
    (0..2usize, 0..500u64, length, any::<Option<u32>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_two_sides_exchange_any_messages(
        active in any_parameters(),
        passive in any_parameters(),
        delays in [any_delays(), any_delays()],
        slots in [1..=9u32, 1..=9u32],
        messages in prop::collection::vec(any_message(), 0..12),
        seed in any::<u64>(),
    ) {
        let mut pair = Pair::new([active, passive], delays, slots, seed);
        for (index, (side, after, length, token)) in messages.into_iter().enumerate() {
            pair.send(side, after, pattern(length, index), token);
        }
        pair.run();
        pair.assert_live();
    }
}
