// SPDX-License-Identifier: GPL-2.0-only

//! Two sides with few credits, and every order in which things can happen to
//! them: each PDU may arrive, each piece may be read, each send may complete, each
//! message may be queued and each idle timer may expire before or after anything
//! else. No order may end in a standstill, and none may go on for ever.

use crate::side::{pattern, Side};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use usmbd_engine::{
    Action, Connection, Message, Outlook, Parameters, Received, Role, State, Transmit,
};

/// One end, without what is the same in all states.
#[derive(Clone, Debug)]
struct End {
    connection: Connection,
    /// Lengths of the messages in the send queue, and of those still to come.
    queue: VecDeque<u32>,
    to_come: VecDeque<u32>,
    /// How often its idle timer still expires.
    probes: u8,
    /// Free send slots; without, each send completes at once.
    slots: Option<u8>,
    /// Sends that have not completed.
    in_flight: u8,
    posted: u32,
    /// Receives that hold a piece nobody has read.
    held: u32,
    /// Bytes of whole messages that came, and of the one that is coming.
    whole: u32,
    part: u32,
    /// PDUs on the way to the other end: header and length of the payload.
    wire: VecDeque<(Vec<u8>, u32)>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A message is queued.
    Queue(usize),
    /// The other end's oldest PDU arrives.
    Arrive(usize),
    Read(usize),
    Complete(usize),
    /// The idle timer expires.
    Probe(usize),
}

#[derive(Clone, Debug)]
struct World {
    ends: [End; 2],
}

impl World {
    /// Established; `credits[n]` is what end n lets the other have.
    fn new(credits: [u16; 2], messages: [&[u32]; 2], slots: Option<u8>, probes: u8) -> World {
        let end = |index: usize, role| {
            let parameters = Parameters {
                receive_credit_max: credits[index],
                send_credit_target: credits[1 - index],
                max_send_size: 128,
                max_receive_size: 128,
                ..Parameters::default()
            };
            (Side::new(role, &parameters), parameters)
        };
        let (mut active, _) = end(0, Role::Active);
        let (mut passive, parameters) = end(1, Role::Passive);
        for side in [&mut active, &mut passive] {
            side.connection.handle_established(side.now);
            side.drive();
        }
        passive.receive(&active.take_sent()[0]);
        passive.connection.accept(&parameters, passive.now).unwrap();
        passive.drive();
        let response = passive.take_sent().remove(0);
        active
            .connection
            .handle_receive(&response, None, active.now);
        let mut world = World {
            ends: [(active, 0), (passive, 1)].map(|(side, index): (Side, usize)| End {
                connection: side.connection,
                queue: VecDeque::new(),
                to_come: messages[index].iter().copied().collect(),
                probes,
                slots,
                in_flight: 0,
                posted: if index == 0 { 0 } else { side.posted },
                held: 0,
                whole: 0,
                part: 0,
                wire: VecDeque::new(),
            }),
        };
        world.settle(0);
        world.settle(1);
        for end in &world.ends {
            assert_eq!(end.connection.state(), State::Established);
        }
        world
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, end) in self.ends.iter().enumerate() {
            if !end.to_come.is_empty() {
                steps.push(Step::Queue(index));
            }
            if !self.ends[1 - index].wire.is_empty() {
                steps.push(Step::Arrive(index));
            }
            if end.held > 0 {
                steps.push(Step::Read(index));
            }
            if end.in_flight > 0 {
                steps.push(Step::Complete(index));
            }
            if end.probes > 0 {
                steps.push(Step::Probe(index));
            }
        }
        steps
    }

    fn take(&mut self, step: Step) {
        let now = Side::START;
        let (Step::Queue(index)
        | Step::Arrive(index)
        | Step::Read(index)
        | Step::Complete(index)
        | Step::Probe(index)) = step;
        match step {
            Step::Queue(_) => {
                let end = &mut self.ends[index];
                end.queue.extend(end.to_come.pop_front());
            }
            Step::Arrive(_) => {
                let (mut pdu, payload) = self.ends[1 - index].wire.pop_front().unwrap();
                pdu.extend(pattern(payload as usize, 0));
                let end = &mut self.ends[index];
                assert!(end.posted > 0, "a PDU without a receive");
                end.posted -= 1;
                match end.connection.handle_receive(&pdu, None, now) {
                    Received::Ignore => panic!("ended: {:?}", end.connection.end()),
                    Received::Repost => {
                        end.posted += 1;
                        end.connection.handle_receives_posted(1, now);
                    }
                    Received::Piece(piece) => {
                        end.held += 1;
                        assert_eq!(piece.message_offset, end.part, "in order");
                        end.part += piece.payload_length;
                        assert_eq!(piece.last, end.part == piece.message_total);
                        if piece.last {
                            end.whole += std::mem::take(&mut end.part);
                        }
                    }
                }
            }
            Step::Read(_) => {
                let end = &mut self.ends[index];
                end.held -= 1;
                end.posted += 1;
                if !end.connection.handle_receives_posted(1, now) {
                    // Nobody looks then, and it must not come to a standstill for that.
                    return;
                }
            }
            Step::Complete(_) => {
                let end = &mut self.ends[index];
                end.in_flight -= 1;
                end.slots = end.slots.map(|slots| slots + 1);
                end.connection.handle_sent(1, now);
            }
            Step::Probe(_) => {
                let end = &mut self.ends[index];
                end.probes -= 1;
                // A second expiry, with the probe unanswered, would be the end.
                let due = end.connection.poll_timeout().unwrap();
                if due == now.after(120_000) {
                    end.connection.handle_timeout(due);
                }
            }
        }
        self.settle(index);
    }

    fn settle(&mut self, index: usize) {
        let end = &mut self.ends[index];
        loop {
            let outlook = Outlook {
                head: end.queue.front().map(|length| Message {
                    length: *length,
                    invalidate: None,
                    payload_limit: u32::MAX,
                }),
                send_slot: end.slots != Some(0),
            };
            match end.connection.poll_action(&outlook) {
                None => break,
                Some(Action::PostReceives { count, .. }) => {
                    end.posted += u32::from(count);
                    end.connection.handle_receives_posted(count, Side::START);
                }
                Some(Action::Transmit(transmit)) => {
                    end.transmit(&transmit);
                    match &mut end.slots {
                        None => end.connection.handle_sent(1, Side::START),
                        Some(slots) => {
                            *slots -= 1;
                            end.in_flight += 1;
                        }
                    }
                }
                Some(Action::Disconnect(reason)) => panic!("ended: {reason:?}"),
            }
        }
        while end.connection.poll_event().is_some() {}
    }

    /// Nothing more can happen: then nothing may be left.
    fn assert_done(&self, messages: [u32; 2]) {
        for (index, end) in self.ends.iter().enumerate() {
            assert!(end.queue.is_empty(), "end {index} is stuck: {self:#?}");
            assert!(end.connection.is_send_idle());
            assert_eq!((end.whole, end.part), (messages[1 - index], 0));
            let credits = u32::from(end.connection.send_credits());
            assert_eq!(credits, self.ends[1 - index].connection.receive_credits());
        }
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{self:?}").hash(&mut hasher);
        hasher.finish()
    }

    /// Goes every way there is; returns how many states it met.
    fn search(self) -> usize {
        let messages = [0, 1].map(|index: usize| self.ends[index].to_come.iter().sum::<u32>());
        // Whether a state is on the way to the one that is looked at.
        let mut seen = HashMap::from([(self.key(), true)]);
        let steps = self.steps();
        let mut path = vec![(self.key(), self, steps)];
        while let Some((key, world, steps)) = path.last_mut() {
            let Some(step) = steps.pop() else {
                seen.insert(*key, false);
                path.pop();
                continue;
            };
            let mut next = world.clone();
            next.take(step);
            let key = next.key();
            match seen.get(&key) {
                Some(true) => panic!("goes on for ever after {step:?}: {next:#?}"),
                Some(false) => continue,
                None => seen.insert(key, true),
            };
            let steps = next.steps();
            if steps.is_empty() {
                next.assert_done(messages);
            }
            path.push((key, next, steps));
        }
        seen.len()
    }
}

impl End {
    fn transmit(&mut self, transmit: &Transmit) {
        let header = transmit.header[..transmit.header_length as usize].to_vec();
        self.wire.push_back((header, transmit.payload_length));
        if transmit.ends_message {
            self.queue.pop_front();
        }
    }
}

/// A message of two fragments, and one of one.
const MESSAGES: &[u32] = &[200, 5];

/// Every combination of credits from 1 to `most`.
fn search_all(most: u16, messages: [&[u32]; 2], slots: Option<u8>, probes: u8) {
    for active in 1..=most {
        for passive in 1..=most {
            let states = World::new([active, passive], messages, slots, probes).search();
            assert!(states > 50, "{active} {passive}: {states} states");
        }
    }
}

#[test]
fn trap_2_every_order_of_messages_both_ways() {
    search_all(3, [MESSAGES, MESSAGES], None, 0);
}

#[test]
fn trap_2_every_order_of_a_large_message_one_way() {
    search_all(4, [&[900, 5], &[]], None, 0);
    search_all(4, [&[], &[900, 5]], None, 0);
}

#[test]
fn trap_2_every_order_of_completions_too() {
    search_all(2, [&[200], &[200]], Some(1), 0);
    search_all(2, [MESSAGES, &[5]], Some(2), 0);
}

#[test]
fn trap_6_every_order_of_keepalives_too() {
    search_all(2, [&[200], &[5]], None, 1);
    search_all(2, [&[5], &[200]], None, 1);
}
