// SPDX-License-Identifier: GPL-2.0-only

//! One side of a connection as a driver would run it: a [`Connection`] with a
//! send queue, send slots and posted receives around it.

use std::collections::VecDeque;
use usmbd_engine::{
    Action, Connection, Event, Message, Outlook, Parameters, Piece, Reason, Received, Role, Time,
};

/// Turns "FF 00 0A" into bytes.
pub fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits"))
        .collect()
}

/// The nth byte of a message, so that a misplaced piece shows.
pub fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at.wrapping_mul(31) ^ (at >> 8)).wrapping_add(seed * 7)) as u8)
        .collect()
}

/// What ksmbd 7.2 negotiates.
pub fn linux_server() -> Parameters {
    Parameters {
        receive_credit_max: 255,
        send_credit_target: 255,
        max_send_size: 1364,
        max_receive_size: 1364,
        max_fragmented_recv_size: 173_910,
        max_read_write_size: 8_388_608,
        keepalive_interval_ms: 120_000,
    }
}

/// What cifs.ko 7.2 negotiates.
pub fn linux_client() -> Parameters {
    linux_server()
}

/// What Windows negotiates, in both roles.
pub fn windows() -> Parameters {
    Parameters {
        max_receive_size: 8192,
        max_fragmented_recv_size: 1_048_576,
        ..linux_server()
    }
}

/// A little-endian field of a PDU.
pub fn u16_at(pdu: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(pdu[at..at + 2].try_into().unwrap())
}

/// A little-endian field of a PDU.
pub fn u32_at(pdu: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(pdu[at..at + 4].try_into().unwrap())
}

/// A data transfer with `payload` behind 24 bytes, or empty.
pub fn transfer(
    requested: u16,
    granted: u16,
    flags: u16,
    remaining: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut pdu = Vec::new();
    pdu.extend(requested.to_le_bytes());
    pdu.extend(granted.to_le_bytes());
    pdu.extend(flags.to_le_bytes());
    pdu.extend([0; 2]);
    pdu.extend(remaining.to_le_bytes());
    if payload.is_empty() {
        pdu.extend([0; 8]);
    } else {
        pdu.extend(24u32.to_le_bytes());
        pdu.extend((payload.len() as u32).to_le_bytes());
        pdu.extend([0; 4]);
        pdu.extend(payload);
    }
    pdu
}

/// cifs.ko's Negotiate Request (N01).
pub const LINUX_REQUEST: &str = "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00";

/// ksmbd's Negotiate Response (R01).
pub const LINUX_RESPONSE: &str = "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 \
     00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00";

/// The refusal of a version (R02).
pub const REFUSAL: &str = "00 01 00 01 00 00 00 00 00 00 00 00 BB 00 00 C0 \
     00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00";

/// A keepalive (D02).
pub const PROBE: &str = "FF 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00";

/// A driver around one [`Connection`], without a wire.
pub struct Side {
    pub connection: Connection,
    pub now: Time,
    /// Upper-layer messages that wait to go out, with the token to invalidate.
    pub queue: VecDeque<(Vec<u8>, Option<u32>)>,
    /// Free send slots.
    pub slots: u32,
    /// Bytes of payload that one PDU can carry at most.
    pub payload_limit: u32,
    /// Whether a PDU completes as soon as it is sent.
    pub completes: bool,
    /// How many more receives can be posted.
    pub receives: u32,
    /// Receives that are posted now.
    pub posted: u32,
    /// Whether a receive is posted again as soon as it was used.
    pub reads: bool,
    /// PDUs that went out, with the token they invalidate.
    pub sent: Vec<(Vec<u8>, Option<u32>)>,
    /// Pieces that came, and their bytes.
    pub pieces: Vec<(Piece, Vec<u8>)>,
    /// Whole messages that came, with the invalidated token.
    pub messages: Vec<(Vec<u8>, Option<u32>)>,
    reassembly: Vec<u8>,
    /// Receives whose piece was not taken.
    pub held: u32,
    pub events: Vec<Event>,
    pub disconnects: Vec<Reason>,
}

impl Side {
    /// When it begins.
    pub const START: Time = Time(1_000_000);

    pub fn new(role: Role, parameters: &Parameters) -> Side {
        let now = Side::START;
        Side {
            connection: Connection::new(role, parameters, now),
            now,
            queue: VecDeque::new(),
            slots: 64,
            payload_limit: u32::MAX,
            completes: true,
            receives: u32::MAX,
            posted: 1,
            reads: true,
            sent: Vec::new(),
            pieces: Vec::new(),
            messages: Vec::new(),
            reassembly: Vec::new(),
            held: 0,
            events: Vec::new(),
            disconnects: Vec::new(),
        }
    }

    /// A passive side that waits for a Negotiate Request.
    pub fn passive(parameters: &Parameters) -> Side {
        let mut side = Side::new(Role::Passive, parameters);
        side.connection.handle_established(side.now);
        side.drive();
        side
    }

    /// An active side whose Negotiate Request went out.
    pub fn active(parameters: &Parameters) -> Side {
        let mut side = Side::new(Role::Active, parameters);
        side.connection.handle_established(side.now);
        side.drive();
        side
    }

    /// A passive side that accepted `request` and has sent its response.
    pub fn accepted(parameters: &Parameters, request: &[u8]) -> Side {
        let mut side = Side::passive(parameters);
        side.receive(request);
        side.connection
            .accept(parameters, side.now)
            .expect("a request to accept");
        side.drive();
        assert!(matches!(side.events.last(), Some(Event::Established(_))));
        side.sent.clear();
        side.events.clear();
        side
    }

    /// A passive side as the vectors of single data transfers presume:
    /// established with 1364-byte PDUs, messages up to 1 MiB and 255 credits.
    pub fn established() -> Side {
        let parameters = Parameters {
            max_fragmented_recv_size: 1_048_576,
            ..linux_server()
        };
        Side::accepted(&parameters, &hex(LINUX_REQUEST))
    }

    /// The same from the other role: an active side whose only send credit went
    /// into the PDU that grants the peer its first.
    pub fn connected() -> Side {
        let parameters = Parameters {
            max_fragmented_recv_size: 1_048_576,
            ..linux_client()
        };
        let mut response = hex(LINUX_RESPONSE);
        response[10..12].copy_from_slice(&[1, 0]);
        let mut side = Side::active(&parameters);
        side.receive(&response);
        assert!(matches!(side.events[..], [Event::Established(_)]));
        assert_eq!(side.connection.send_credits(), 0);
        side.sent.clear();
        side.events.clear();
        side
    }

    /// Does everything the connection wants done.
    pub fn drive(&mut self) {
        loop {
            let outlook = Outlook {
                head: self.queue.front().map(|(bytes, invalidate)| Message {
                    length: bytes.len() as u32,
                    invalidate: *invalidate,
                    payload_limit: self.payload_limit,
                }),
                send_slot: self.slots > 0,
            };
            match self.connection.poll_action(&outlook) {
                None => break,
                Some(Action::PostReceives { count, .. }) => {
                    let count = u32::from(count).min(self.receives);
                    self.receives -= count;
                    self.posted += count;
                    match u16::try_from(count).unwrap() {
                        0 => self.connection.handle_post_receives_failed(self.now),
                        count => {
                            self.connection.handle_receives_posted(count, self.now);
                        }
                    }
                }
                Some(Action::Transmit(transmit)) => {
                    assert!(self.slots > 0, "a transmit without a slot");
                    self.slots -= 1;
                    let mut pdu = transmit.header[..transmit.header_length as usize].to_vec();
                    if transmit.payload_length > 0 {
                        let (message, _) = self.queue.front().unwrap();
                        let from = transmit.payload_offset as usize;
                        pdu.extend(&message[from..from + transmit.payload_length as usize]);
                    }
                    if transmit.ends_message {
                        self.queue.pop_front().unwrap();
                    }
                    self.sent.push((pdu, transmit.invalidate));
                    if self.completes {
                        self.slots += 1;
                        self.connection.handle_sent(1, self.now);
                    }
                }
                Some(Action::Disconnect(reason)) => self.disconnects.push(reason),
            }
        }
        while let Some(event) = self.connection.poll_event() {
            self.events.push(event);
        }
    }

    /// One PDU comes in.
    pub fn receive(&mut self, pdu: &[u8]) -> Received {
        self.receive_invalidating(pdu, None)
    }

    /// One PDU comes in, and with it a token that the peer invalidated.
    pub fn receive_invalidating(&mut self, pdu: &[u8], invalidated: Option<u32>) -> Received {
        assert!(self.posted > 0, "a PDU without a receive posted");
        self.posted -= 1;
        let received = self.connection.handle_receive(pdu, invalidated, self.now);
        match received {
            Received::Ignore => {}
            Received::Repost => {
                self.repost(1);
            }
            Received::Piece(piece) => {
                self.take(piece, pdu);
                if self.reads {
                    self.repost(1);
                } else {
                    self.held += 1;
                }
            }
        }
        self.drive();
        received
    }

    fn take(&mut self, piece: Piece, pdu: &[u8]) {
        let from = piece.payload_offset as usize;
        let bytes = pdu[from..from + piece.payload_length as usize].to_vec();
        assert!(!bytes.is_empty(), "an empty piece");
        assert_eq!(
            piece.message_offset as usize,
            self.reassembly.len(),
            "a gap between pieces"
        );
        self.reassembly.extend(&bytes);
        self.pieces.push((piece, bytes));
        let whole = piece.message_total as usize == self.reassembly.len();
        assert_eq!(piece.last, whole, "last piece and total disagree");
        if whole {
            let message = std::mem::take(&mut self.reassembly);
            self.messages.push((message, piece.invalidated));
        } else {
            assert_eq!(piece.invalidated, None);
        }
    }

    /// Whether there may be something to do then.
    fn repost(&mut self, count: u32) -> bool {
        self.posted += count;
        self.connection
            .handle_receives_posted(u16::try_from(count).unwrap(), self.now)
    }

    /// The upper layer takes `count` of the pieces that it left lying.
    pub fn read(&mut self, count: u32) {
        self.held -= count;
        if self.repost(count) {
            self.drive();
        }
    }

    pub fn send(&mut self, message: Vec<u8>) {
        self.send_invalidating(message, None);
    }

    pub fn send_invalidating(&mut self, message: Vec<u8>, invalidate: Option<u32>) {
        self.queue.push_back((message, invalidate));
        self.drive();
    }

    /// Lets time pass, with the timeouts that fall due.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now.after(milliseconds);
        while let Some(due) = self.connection.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.connection.handle_timeout(self.now);
            self.drive();
            assert_ne!(
                self.connection.poll_timeout(),
                Some(due),
                "a timeout that does not go away"
            );
        }
        self.now = end;
        // A caller's timer may be early or late; this one must be harmless.
        self.connection.handle_timeout(self.now);
        self.drive();
    }

    /// The PDUs sent since the last call, without their tokens.
    pub fn take_sent(&mut self) -> Vec<Vec<u8>> {
        self.sent.drain(..).map(|(pdu, _)| pdu).collect()
    }

    /// Asserts that the connection ended for `reason`, told once, and that
    /// nothing more happens.
    #[track_caller]
    pub fn assert_ended(&mut self, what: &str, reason: Reason) {
        assert_eq!(self.disconnects, [reason], "{what}: Disconnect actions");
        let ends: Vec<_> = self
            .events
            .iter()
            .filter(|event| matches!(event, Event::Disconnected(_)))
            .collect();
        assert_eq!(
            ends,
            [&Event::Disconnected(reason)],
            "{what}: Disconnected events"
        );
        assert_eq!(
            self.events.last(),
            Some(&Event::Disconnected(reason)),
            "{what}: last event"
        );
        assert_eq!(self.connection.end(), Some(reason), "{what}");
        assert_eq!(
            self.connection.poll_timeout(),
            None,
            "{what}: a timer is left"
        );
    }

    #[track_caller]
    pub fn assert_alive(&self, what: &str) {
        assert_eq!(self.connection.end(), None, "{what}: ended");
        assert_eq!(self.disconnects, [], "{what}: Disconnect action");
    }
}
