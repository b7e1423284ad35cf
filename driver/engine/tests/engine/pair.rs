// SPDX-License-Identifier: GPL-2.0-only

//! An active and a passive side back to back, on a wire and a clock of the
//! test's own.

use crate::side::*;
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
pub struct Delays {
    pub wire: u64,
    /// From sending until it has completed, before or after it arrived.
    pub completion: u64,
    /// From a piece until it is read; without, it is read when nothing else is
    /// left to happen.
    pub read: Option<u64>,
}

/// Delays that change nothing.
pub const CALM: Delays = Delays {
    wire: 1,
    completion: 1,
    read: Some(1),
};

impl Arrival {
    /// PDUs of the least size that it makes.
    fn pdus(&self) -> usize {
        match self {
            Arrival::Send(message, _) => message.len().div_ceil(104),
            _ => 1,
        }
    }
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
    probes: usize,
    /// Messages and tokens that must arrive, in order.
    expected: Vec<(Vec<u8>, Option<u32>)>,
}

/// Side 0 is active, side 1 passive; direction n is what side n sends.
pub struct Pair {
    pub sides: [Side; 2],
    directions: [Direction; 2],
    parameters: [Parameters; 2],
    agenda: BTreeMap<(u64, u64), (usize, Arrival)>,
    entries: u64,
    delays: [Delays; 2],
    random: u64,
    /// Whether time reaches the sides' timers.
    pub timers: bool,
}

impl Pair {
    pub fn new(
        parameters: [Parameters; 2],
        delays: [Delays; 2],
        slots: [u32; 2],
        seed: u64,
    ) -> Pair {
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
            timers: true,
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
    pub fn send(&mut self, side: usize, after: u64, message: Vec<u8>, token: Option<u32>) {
        let at = self.now() + after;
        self.schedule(at, side, Arrival::Send(message, token));
    }

    pub fn now(&self) -> u64 {
        self.sides[0].now.0
    }

    /// The side whose timer expires before anything that is to come, and before
    /// `end`.
    fn due(&self, end: u64) -> Option<(usize, Time)> {
        let next = self.agenda.first_key_value();
        let next = next.map_or(end, |(&(at, _), _)| at.min(end));
        [0, 1]
            .into_iter()
            .filter_map(|side| Some((side, self.sides[side].connection.poll_timeout()?)))
            .filter(|(_, due)| self.timers && due.0 < next)
            .min_by_key(|(_, due)| *due)
    }

    fn advance(&mut self, now: Time) {
        for side in &mut self.sides {
            side.now = side.now.max(now);
        }
    }

    /// Lets happen what is next, up to `end`; false when nothing is.
    fn step(&mut self, end: u64) -> bool {
        if let Some((index, due)) = self.due(end) {
            self.advance(due);
            let side = &mut self.sides[index];
            side.connection.handle_timeout(side.now);
            self.settle(index);
            return true;
        }
        let Some(entry) = self
            .agenda
            .first_entry()
            .filter(|entry| entry.key().0 <= end)
        else {
            return self.read_what_is_left();
        };
        let ((at, _), (index, arrival)) = entry.remove_entry();
        self.advance(Time(at));
        let side = &mut self.sides[index];
        match arrival {
            Arrival::Established => side.connection.handle_established(side.now),
            Arrival::Pdu(pdu, token) => self.arrive(index, &pdu, token),
            Arrival::Completion => {
                side.slots += 1;
                side.connection.handle_sent(1, side.now);
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
        if let Some(read) = self.delays[index]
            .read
            .filter(|_| self.sides[index].held > held)
        {
            let at = self.now() + self.roll(read);
            self.schedule(at, index, Arrival::Read);
        }
    }

    /// One piece of those that are read last of all.
    fn read_what_is_left(&mut self) -> bool {
        let first = usize::from(self.roll(1) == 1);
        for index in [first, 1 - first] {
            if self.delays[index].read.is_none() && self.sides[index].held > 0 {
                self.sides[index].read(1);
                self.settle(index);
                return true;
            }
        }
        false
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
            let completion = now + self.roll(self.delays[index].completion);
            let completion = completion.max(self.directions[index].completion);
            self.directions[index].completion = completion;
            self.schedule(arrival, 1 - index, Arrival::Pdu(pdu, token));
            self.schedule(completion, index, Arrival::Completion);
        }
        let side = &self.sides[index];
        assert_eq!(side.connection.end(), None, "side {index} ended");
        self.assert_bounds(index);
    }

    /// Whatever comes, a side has no more receives than its peer's target and
    /// the spare one; until it is established, that for the negotiation too.
    fn assert_bounds(&self, index: usize) {
        let side = &self.sides[index];
        let target = side
            .connection
            .negotiated()
            .map_or(0, |negotiated| negotiated.receive_credit_target);
        let most = u32::from(target) + 1;
        let receives = side.posted + side.held;
        assert!(receives <= most, "{receives} receives of {most}");
        assert!(side.connection.receive_credits() <= side.posted);
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
        let flags = u16_at(pdu, 4);
        assert!(flags == 0 || (flags == 1 && self.timers), "Flags {flags}");
        direction.probes += usize::from(flags);
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
    pub fn run(&mut self) {
        // A PDU with data is sent, arrives, completes and is read, and pays for
        // the same of two without.
        let planned: usize = self
            .agenda
            .values()
            .map(|(_, arrival)| arrival.pdus())
            .sum();
        let mut left = 20_000 + 16 * planned;
        while self.step(u64::MAX) {
            left -= 1;
            assert!(left > 0, "does not come to rest");
            if self.agenda.is_empty() && !self.is_reading() {
                break;
            }
        }
        self.assert_rest();
    }

    /// Lets `milliseconds` pass.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now() + milliseconds;
        while self.step(end) {}
        self.advance(Time(end));
    }

    /// Probes that both sides have sent.
    pub fn probes(&self) -> usize {
        self.directions
            .iter()
            .map(|direction| direction.probes)
            .sum()
    }

    fn is_reading(&self) -> bool {
        self.sides.iter().any(|side| side.held > 0)
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
            let probes = direction.probes + other.probes;
            let most = 2 * (direction.data + other.data + probes) + 4;
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
    pub fn assert_live(&mut self) {
        for senders in [&[0][..], &[1], &[1], &[0], &[0, 1], &[0, 1]] {
            for side in senders {
                self.send(*side, 0, pattern(5, *side), None);
            }
            self.run();
        }
    }
}
