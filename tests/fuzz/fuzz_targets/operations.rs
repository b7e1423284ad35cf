// SPDX-License-Identifier: GPL-2.0-only

//! Any sequence of inputs: a peer that sends what it likes, a connection manager
//! and a clock that come when they like, an upper layer that does anything it
//! can do. A ledger beside the engine keeps count of credits, receives, slots
//! and fragments.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;
use usmbd_engine::{
    Action, Connection, Event, Message, Outlook, Parameters, Reason, Received, Role, State, Time,
    Transmit,
};

#[derive(Arbitrary, Debug)]
struct Input {
    active: bool,
    parameters: Limits,
    slots: u8,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Limits {
    receive_credit_max: u16,
    send_credit_target: u16,
    max_send_size: u16,
    max_receive_size: u16,
    max_fragmented_recv_size: u32,
    keepalive_interval_ms: u32,
}

impl From<Limits> for Parameters {
    fn from(limits: Limits) -> Parameters {
        Parameters {
            receive_credit_max: limits.receive_credit_max,
            send_credit_target: limits.send_credit_target,
            max_send_size: limits.max_send_size.into(),
            max_receive_size: limits.max_receive_size.into(),
            max_fragmented_recv_size: limits.max_fragmented_recv_size,
            max_read_write_size: 1 << 20,
            keepalive_interval_ms: limits.keepalive_interval_ms,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Established,
    /// A well-formed Negotiate Request with these values.
    Request(u16, u32, u32, u32),
    /// A well-formed Negotiate Response with these values.
    Response(u16, u16, u32, u32, u32),
    /// A data transfer, as the peer pleases.
    Transfer {
        requested: u16,
        granted: u16,
        flags: u16,
        remaining: u32,
        offset: u8,
        length: u16,
        room: u16,
        invalidated: Option<u32>,
    },
    /// The data transfer that a sane peer would send next.
    Fragment {
        granted: u8,
        probe: bool,
        length: u8,
        remaining: u16,
    },
    Pdu(Vec<u8>),
    /// The upper layer takes so many pieces.
    Read(u8),
    /// How many receives can still be posted.
    Scarce(u8),
    Completion,
    Pass(u32),
    Timeout,
    Send(u32, Option<u32>),
    Accept(Limits),
    Reject,
    Disconnect,
    PeerDisconnected,
    ProviderError(u8),
    ReceiveCreditMax(u16),
    PostFailed,
}

fuzz_target!(|input: Input| {
    let mut ledger = Ledger::new(&input);
    for operation in &input.operations {
        ledger.apply(operation);
        ledger.drive();
    }
    ledger.close();
});

struct Ledger {
    connection: Connection,
    now: Time,
    /// The most receives that it may want posted.
    most: u32,
    /// `SendCredits` by the grants that arrived and the PDUs that left.
    send: i64,
    /// Receives posted and not granted, granted and not used, with the reader.
    available: i64,
    granted: i64,
    held: i64,
    scarce: u32,
    slots: u32,
    in_flight: u32,
    queue: VecDeque<Message>,
    /// Bytes of the head message that went out.
    sent: u32,
    /// Total and offset of the message that comes in.
    incoming: Option<(u32, u32)>,
    events: Vec<Event>,
    disconnects: Vec<Reason>,
}

impl Ledger {
    fn new(input: &Input) -> Ledger {
        let role = if input.active {
            Role::Active
        } else {
            Role::Passive
        };
        let now = Time(1);
        Ledger {
            connection: Connection::new(role, &input.parameters.into(), now),
            now,
            most: u32::from(input.parameters.receive_credit_max.max(1)) + 1,
            send: 0,
            available: 0,
            granted: 0,
            held: 0,
            scarce: u32::MAX,
            slots: u32::from(input.slots),
            in_flight: 0,
            queue: VecDeque::new(),
            sent: 0,
            incoming: None,
            events: Vec::new(),
            disconnects: Vec::new(),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        let now = self.now;
        match *operation {
            Operation::Established => self.connection.handle_established(now),
            Operation::Request(credits, preferred, receive, fragmented) => {
                let mut pdu = vec![0, 1, 0, 1, 0, 0];
                pdu.extend(credits.to_le_bytes());
                for size in [preferred, receive, fragmented] {
                    pdu.extend(size.to_le_bytes());
                }
                self.receive(&pdu, None);
            }
            Operation::Response(requested, granted, preferred, receive, fragmented) => {
                let mut pdu = vec![0, 1, 0, 1, 0, 1, 0, 0];
                pdu.extend(requested.to_le_bytes());
                pdu.extend(granted.to_le_bytes());
                for size in [0, 1 << 20, preferred, receive, fragmented] {
                    pdu.extend(size.to_le_bytes());
                }
                self.receive(&pdu, None);
            }
            Operation::Transfer {
                requested,
                granted,
                flags,
                remaining,
                offset,
                length,
                room,
                invalidated,
            } => {
                let pdu = transfer(
                    [requested, granted, flags],
                    [remaining, offset.into(), length.into()],
                    usize::from(room) % 9000,
                );
                self.receive(&pdu, invalidated);
            }
            Operation::Fragment {
                granted,
                probe,
                length,
                remaining,
            } => {
                let left = self.connection.reassembly_remaining();
                let length = u32::from(length % 100);
                let (length, remaining) = if left > 0 {
                    (length.min(left), left - length.min(left))
                } else {
                    (length, u32::from(remaining))
                };
                let pdu = transfer(
                    [10, granted.into(), probe.into()],
                    [remaining, 24, length],
                    24 + length as usize,
                );
                self.receive(&pdu, None);
            }
            Operation::Pdu(ref pdu) => self.receive(pdu, None),
            Operation::Read(count) => {
                let count = self.held.min(count.into());
                self.held -= count;
                self.post(count as u16);
            }
            Operation::Scarce(receives) => self.scarce = receives.into(),
            Operation::Completion => {
                if self.in_flight > 0 {
                    self.in_flight -= 1;
                    self.slots += 1;
                    self.connection.handle_sent(1, now);
                }
            }
            Operation::Pass(milliseconds) => self.now = now.after(milliseconds.into()),
            Operation::Timeout => {
                if let Some(due) = self.connection.poll_timeout() {
                    self.now = self.now.max(due);
                }
                self.connection.handle_timeout(self.now);
                let due = self.connection.poll_timeout();
                assert!(due.is_none_or(|due| due > self.now), "a timeout stays");
            }
            Operation::Send(length, invalidate) => {
                if self.connection.check_message(length).is_ok() {
                    self.queue.push_back(Message {
                        length,
                        invalidate,
                        payload_limit: u32::MAX,
                    });
                }
            }
            Operation::Accept(limits) => {
                if self.connection.accept(&limits.into(), now).is_ok() {
                    self.most = u32::from(limits.receive_credit_max.max(1)) + 1;
                }
            }
            Operation::Reject => self.connection.reject(now),
            Operation::Disconnect => self.connection.disconnect(now),
            Operation::PeerDisconnected => self.connection.handle_disconnected(now),
            Operation::ProviderError(kind) => {
                let reason = match kind % 3 {
                    0 => Reason::ProviderError,
                    1 => Reason::ReceiveTooLong,
                    _ => Reason::DeviceRemoved,
                };
                self.connection.handle_provider_error(reason, now);
            }
            Operation::ReceiveCreditMax(maximum) => {
                self.connection.set_receive_credit_max(maximum);
                self.most = self.most.max(u32::from(maximum.max(1)) + 1);
            }
            Operation::PostFailed => self.connection.handle_post_receives_failed(now),
        }
    }

    fn post(&mut self, count: u16) {
        self.available += i64::from(count);
        self.connection.handle_receives_posted(count, self.now);
    }

    fn receive(&mut self, pdu: &[u8], invalidated: Option<u32>) {
        let established = self.connection.state() == State::Established;
        let negotiating = self.connection.state() == State::Negotiating;
        let received = self.connection.handle_receive(pdu, invalidated, self.now);
        if self.connection.end().is_some() {
            assert_eq!(received, Received::Ignore);
            return;
        }
        match received {
            Received::Ignore => {
                assert!(!established);
                if negotiating && self.connection.role() == Role::Active {
                    self.send = u16::from_le_bytes([pdu[10], pdu[11]]).into();
                }
                return;
            }
            Received::Repost => {}
            Received::Piece(piece) => {
                let end = piece.payload_offset as usize + piece.payload_length as usize;
                assert!(piece.payload_length > 0 && end <= pdu.len());
                let (total, offset) = self.incoming.unwrap_or((piece.message_total, 0));
                assert_eq!((piece.message_total, piece.message_offset), (total, offset));
                let offset = offset + piece.payload_length;
                assert_eq!(piece.last, offset == total);
                assert!(offset <= total);
                self.incoming = (!piece.last).then_some((total, offset));
                assert!(piece.last || piece.invalidated.is_none());
            }
        }
        assert!(established, "nothing comes before it is established");
        self.granted -= 1;
        assert!(self.granted >= 0, "the peer had no credit");
        let grant = i64::from(u16::from_le_bytes([pdu[2], pdu[3]]));
        self.send = (self.send + grant).min(65_535);
        if matches!(received, Received::Piece(_)) {
            self.held += 1;
        } else {
            self.post(1);
        }
    }

    fn drive(&mut self) {
        loop {
            let outlook = Outlook {
                head: self.queue.front().copied(),
                send_slot: self.slots > 0,
            };
            match self.connection.poll_action(&outlook) {
                None => break,
                Some(Action::PostReceives { count, size }) => {
                    assert!(count > 0 && (128..=8192).contains(&size));
                    let all = self.available + self.granted + self.held + i64::from(count);
                    assert!(all <= i64::from(self.most), "{all} receives");
                    match u32::from(count).min(self.scarce) as u16 {
                        0 => self.connection.handle_post_receives_failed(self.now),
                        count => self.post(count),
                    }
                }
                Some(Action::Transmit(transmit)) => self.transmit(&transmit),
                Some(Action::Disconnect(reason)) => self.disconnects.push(reason),
            }
        }
        while let Some(event) = self.connection.poll_event() {
            self.events.push(event);
        }
        if self.connection.end().is_none() {
            assert_eq!(i64::from(self.connection.send_credits()), self.send);
            assert_eq!(i64::from(self.connection.receive_credits()), self.granted);
        }
    }

    fn transmit(&mut self, transmit: &Transmit) {
        assert!(self.slots > 0, "no slot");
        self.slots -= 1;
        self.in_flight += 1;
        let field = |at: usize| u16::from_le_bytes([transmit.header[at], transmit.header[at + 1]]);
        let word = |at: usize| u32::from(field(at)) | u32::from(field(at + 2)) << 16;
        if self.connection.negotiated().is_none() || self.connection.state() == State::Rejecting {
            assert!(matches!(transmit.header_length, 20 | 32));
            return;
        }
        if transmit.header_length == 32 {
            self.grant(field(10));
            return;
        }
        assert!(self.send > 0, "no send credit");
        self.send -= 1;
        let grant = field(2);
        assert!(
            self.send > 0 || grant > 0,
            "the last credit without a grant"
        );
        self.grant(grant);
        assert!(field(0) > 0, "CreditsRequested");
        assert_eq!((field(4) & !1, field(6)), (0, 0), "Flags, Reserved");
        let negotiated = self.connection.negotiated().expect("checked above");
        let size = transmit.header_length + transmit.payload_length;
        assert!(size <= negotiated.max_send_size);
        if transmit.payload_length == 0 {
            assert_eq!(self.sent, 0, "an empty PDU between fragments");
            assert_eq!(transmit.header_length, 20);
            assert_eq!(transmit.header[8..20], [0; 12]);
            assert!(!transmit.ends_message && transmit.invalidate.is_none());
            return;
        }
        let message = *self.queue.front().expect("a message");
        assert_eq!(transmit.payload_offset, self.sent);
        self.sent += transmit.payload_length;
        assert_eq!(transmit.header_length, 24);
        assert_eq!(word(8), message.length - self.sent);
        assert_eq!((word(12), word(16)), (24, transmit.payload_length));
        assert_eq!(word(20), 0, "padding");
        assert_eq!(transmit.ends_message, self.sent == message.length);
        let token = message.invalidate.filter(|_| transmit.ends_message);
        assert_eq!(transmit.invalidate, token);
        if transmit.ends_message {
            self.queue.pop_front();
            self.sent = 0;
        }
    }

    fn grant(&mut self, count: u16) {
        self.available -= i64::from(count);
        self.granted += i64::from(count);
        assert!(self.available >= 0, "granted what is not posted");
    }

    /// Ends it, if nothing else did, and looks at what was told.
    fn close(mut self) {
        self.connection.disconnect(self.now);
        self.drive();
        let end = self.connection.end().expect("it has ended");
        assert_eq!(self.connection.poll_timeout(), None);
        assert_eq!(self.events.pop(), Some(Event::Disconnected(end)));
        let told = |wanted: fn(&Event) -> bool| self.events.iter().filter(|e| wanted(e)).count();
        assert!(told(|event| matches!(event, Event::NegotiateReceived)) <= 1);
        assert!(told(|event| matches!(event, Event::Established(_))) <= 1);
        assert_eq!(told(|event| matches!(event, Event::Disconnected(_))), 0);
        if end == Reason::DeviceRemoved {
            assert_eq!(self.disconnects, []);
        } else {
            assert!(self.disconnects.iter().all(|reason| *reason == end));
            assert!(self.disconnects.len() <= 1);
        }
    }
}

/// A data transfer of `room` bytes at least, with any header.
fn transfer(halves: [u16; 3], words: [u32; 3], room: usize) -> Vec<u8> {
    let mut pdu = Vec::new();
    for half in halves {
        pdu.extend(half.to_le_bytes());
    }
    pdu.extend([0; 2]);
    for word in words {
        pdu.extend(word.to_le_bytes());
    }
    pdu.resize(room.max(20), 0);
    pdu
}
