// SPDX-License-Identifier: GPL-2.0-only

//! Records: valid ones, nearly valid ones, wild ones.
//!
//! Which commands there are, and how long they are, comes from the table in usmbd-abi. A command
//! that has no generator of its own here gets bodies of numbers that mean something, and a tail as
//! long as its decoder wants it.

mod extra;

pub use extra::template;

use crate::context::{Registration, State, Ticket};
use crate::random::Random;
use usmbd_abi::command::{
    self, Accept, Body, CloseListener, Command, Connect, Disconnect, Entry, Hello, Listen,
    RdmaRead, RdmaWrite, Reject, SendPdu, SetParameters, Transfer, COMMANDS,
};
use usmbd_abi::memory::BufferDescriptorV1;
use usmbd_abi::record::{Header, SocketAddress, HEADER_LENGTH};
use zerocopy::{FromBytes, IntoBytes};

/// One record, and what was taken for it.
pub struct Record {
    pub bytes: Vec<u8>,
    pub ticket: Option<Ticket>,
    /// Memory that it names; one that is to be given up is not in the list any more.
    pub registration: Option<Registration>,
}

impl Record {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ticket: None,
            registration: None,
        }
    }

    pub fn header(&self) -> Header {
        Header::read_from_prefix(&self.bytes)
            .map_or_else(|_| Header::default(), |(header, _)| header)
    }
}

/// Where records come from.
pub struct Source<'a> {
    pub random: &'a mut Random,
    pub state: &'a State,
    pub tickets: &'a mut Vec<Ticket>,
    /// The process's own memory, as far as it is registered.
    pub registrations: &'a mut Vec<Registration>,
    /// Memory to register: where it starts, and its length.
    pub arena: (u64, usize),
}

/// Flags, body and tail.
type Parts = (u16, Vec<u8>, Vec<u8>);

/// How often a command is tried, and whether a generator here knows it.
fn weight(opcode: u16) -> usize {
    match opcode {
        SendPdu::OPCODE => 20,
        RdmaRead::OPCODE | RdmaWrite::OPCODE => 12,
        Accept::OPCODE => 10,
        command::Nop::OPCODE => 5,
        Connect::OPCODE | Listen::OPCODE | command::SetParameters::OPCODE => 1,
        command::Drop::OPCODE | Disconnect::OPCODE | Reject::OPCODE => 2,
        _ => 3,
    }
}

fn v4(address: [u8; 4]) -> (u16, [u8; 16]) {
    let mut full = [0; 16];
    full[..4].copy_from_slice(&address);
    (SocketAddress::IPV4, full)
}

fn encode(opcode: u16, flags: u16, user_data: u64, body: &[u8], tail: &[u8]) -> Vec<u8> {
    let length = (16 + body.len() + tail.len()).next_multiple_of(8);
    let header = Header {
        length: (length as u32).into(),
        opcode: opcode.into(),
        flags: flags.into(),
        user_data: user_data.into(),
    };
    let mut bytes = [header.as_bytes(), body, tail].concat();
    bytes.resize(length, 0);
    bytes
}

impl Source<'_> {
    /// A record that the driver should take, if nothing changes meanwhile; none if what it needs is
    /// not there.
    pub fn valid(&mut self, user_data: u64) -> Option<Record> {
        let all: usize = COMMANDS.iter().map(|entry| weight(entry.opcode)).sum();
        let mut at = self.random.below(all);
        let entry = COMMANDS.iter().find(|entry| {
            let here = at < weight(entry.opcode);
            at = at.saturating_sub(weight(entry.opcode));
            here
        })?;
        self.of(entry, user_data)
    }

    fn of(&mut self, entry: &Entry, user_data: u64) -> Option<Record> {
        let (mut ticket, mut registration) = (None, None);
        let (flags, body, tail) = match entry.opcode {
            Hello::OPCODE => {
                let body = Hello {
                    version: (1 + self.random.next() as u32 / 2).into(),
                    features: if self.random.percent(90) {
                        0
                    } else {
                        self.random.next()
                    }
                    .into(),
                    ..Hello::default()
                };
                (0, body.as_bytes().to_vec(), Vec::new())
            }
            SetParameters::OPCODE => (0, self.parameters().as_bytes().to_vec(), Vec::new()),
            Listen::OPCODE => (0, self.listen().as_bytes().to_vec(), Vec::new()),
            Connect::OPCODE => (0, self.connect().as_bytes().to_vec(), Vec::new()),
            CloseListener::OPCODE => {
                let listener = self.random.pick(&self.state.listeners)?;
                let body = CloseListener {
                    listener: listener.into(),
                    ..CloseListener::default()
                };
                (0, body.as_bytes().to_vec(), Vec::new())
            }
            Accept::OPCODE | Reject::OPCODE => {
                let at = self.random.below(self.tickets.len());
                ticket = (!self.tickets.is_empty()).then(|| self.tickets.swap_remove(at));
                (0, ticket?.to_vec(), Vec::new())
            }
            SendPdu::OPCODE => self.send(&mut registration)?,
            RdmaRead::OPCODE | RdmaWrite::OPCODE => self.transfer(&mut registration)?,
            Disconnect::OPCODE | command::Drop::OPCODE => {
                let connection = self.random.pick(&self.state.connections)?;
                (0, connection.to_le_bytes().to_vec(), Vec::new())
            }
            command::UnregisterMemory::OPCODE => {
                let at = self.random.below(self.registrations.len());
                let known = !self.registrations.is_empty() && !self.state.mappings.is_empty();
                registration = known.then(|| self.registrations.swap_remove(at));
                let handle = registration?.handle;
                (0, [handle, 0].map(u32::to_le_bytes).concat(), Vec::new())
            }
            opcode => match self.extra(opcode) {
                Some(parts) => parts?,
                None => return self.by_table(entry, user_data),
            },
        };
        let bytes = encode(entry.opcode, flags, user_data, &body, &tail);
        Some(Record {
            bytes,
            ticket,
            registration,
        })
    }

    /// A command that only the table knows.
    fn by_table(&mut self, entry: &Entry, user_data: u64) -> Option<Record> {
        for _ in 0..16 {
            let mut body = Vec::new();
            while body.len() < entry.body_length {
                match self.random.below(8) {
                    0 => body.extend(self.random.pick(&self.state.connections)?.to_le_bytes()),
                    1 => body.extend(self.random.next().to_le_bytes()),
                    2 => body.extend(self.random.odd_number().to_le_bytes()),
                    3 => body.extend((self.random.next() as u32 % 64).to_le_bytes()),
                    _ => body.extend(0u32.to_le_bytes()),
                }
            }
            body.truncate(entry.body_length);
            let flags = self.random.next() as u16 & self.random.next() as u16 & entry.flags;
            // As much behind it as it says; what that means, its decoder alone knows.
            for tail in (0..4096).step_by(8) {
                let tail = vec![0; tail];
                let bytes = encode(entry.opcode, flags, user_data, &body, &tail);
                let (header, _) = Header::read_from_prefix(&bytes).ok()?;
                if Command::decode(&header, &body).is_ok() {
                    return Some(Record::of(bytes));
                }
            }
        }
        None
    }

    fn parameters(&mut self) -> SetParameters {
        let random = &mut *self.random;
        let mut one_of = |values: &[u32]| random.pick(values).unwrap_or(0).into();
        SetParameters {
            receive_credit_max: one_of(&[0, 1, 2, 3, 8, 64, 255]),
            send_credit_target: one_of(&[0, 1, 2, 64, 255]),
            max_send_size: one_of(&[0, 128, 512, 1364, 4096]),
            max_receive_size: one_of(&[0, 128, 512, 1364, 4096]),
            max_fragmented_recv_size: one_of(&[0, 131072, 1 << 20, 16 << 20]),
            max_read_write_size: one_of(&[0, 4096, 1 << 20, 16 << 20]),
            keepalive_interval: one_of(&[0, 1000, 5000, 120_000]),
            ..SetParameters::default()
        }
    }

    /// Our own listeners, the client's host where nobody listens, and nowhere.
    fn connect(&mut self) -> Connect {
        let addresses = [[10, 9, 0, 1], [10, 9, 1, 1], [10, 9, 0, 2], [192, 0, 2, 1]];
        let (family, address) = v4(addresses[self.random.below(addresses.len())]);
        Connect {
            peer: SocketAddress {
                family: family.into(),
                port: (20_000 + self.random.next() as u16 % 128).into(),
                address,
                ..SocketAddress::default()
            },
            ..Connect::default()
        }
    }

    fn listen(&mut self) -> Listen {
        let (family, address) = match self.random.below(6) {
            0 => (0, [0; 16]),
            1 => v4([10, 9, 0, 1]),
            2 => v4([10, 9, 1, 1]),
            3 => v4([192, 0, 2, 1]),
            4 => (SocketAddress::IPV6, [0; 16]),
            _ => v4([127, 0, 0, 1]),
        };
        let port = 20_000 + self.random.next() as u16 % 64;
        Listen {
            address: SocketAddress {
                family: family.into(),
                port: port.into(),
                address,
                ..SocketAddress::default()
            },
            iwarp_port: (port + 64).into(),
            mode: (self.random.next() as u16 % 2).into(),
            backlog: (self.random.next() as u16 % 8).into(),
            ..Listen::default()
        }
    }

    fn send(&mut self, registration: &mut Option<Registration>) -> Option<Parts> {
        let connection = self.random.pick(&self.state.connections)?;
        let length = match self.random.below(100) {
            0 => 1 << 20,
            1..10 => 1 + self.random.below(100_000),
            _ => 1 + self.random.below(3000),
        };
        let invalidate = self.random.percent(2);
        let mut flags = if invalidate { command::INVALIDATE } else { 0 };
        let mut tail = vec![self.random.next() as u8; length];
        let mut length = length as u32;
        let memory = self.memory().filter(|_| self.random.percent(25));
        if let Some(memory) = memory {
            *registration = memory.registered();
            flags |= command::RANGES;
            let ranges = self.ranges(&memory, length);
            length = ranges.iter().map(|range| range.length.get()).sum();
            tail = ranges.as_bytes().to_vec();
        }
        let body = SendPdu {
            connection: connection.into(),
            payload_length: length.into(),
            invalidate_token: if invalidate {
                self.random.next() as u32
            } else {
                0
            }
            .into(),
        };
        Some((flags | self.quiet(), body.as_bytes().to_vec(), tail))
    }

    fn quiet(&mut self) -> u16 {
        if self.random.percent(50) {
            command::QUIET
        } else {
            0
        }
    }

    fn transfer(&mut self, registration: &mut Option<Registration>) -> Option<Parts> {
        let (connection, good) = match self.random.pick(&self.state.keys) {
            Some((connection, key)) if !self.random.percent(2) => (connection, key),
            // The peer's device refuses it, and the connection ends.
            _ => {
                let key = BufferDescriptorV1 {
                    offset: self.random.odd_number().into(),
                    token: (self.random.next() as u32).into(),
                    length: u32::MAX.into(),
                };
                (self.random.pick(&self.state.connections)?, key)
            }
        };
        let memory = self.memory()?;
        *registration = memory.registered();
        let ranges = self.ranges(&memory, good.length.get().min(1 << 20));
        let (descriptors, extra) = ([good], self.random.below(3));
        let empty = BufferDescriptorV1::default();
        let body = Transfer {
            connection: connection.into(),
            range_count: (ranges.len() as u16).into(),
            descriptor_count: (1 + extra as u16).into(),
            ..Transfer::default()
        };
        let mut tail = ranges.as_bytes().to_vec();
        for _ in 0..extra {
            tail.extend(empty.as_bytes());
        }
        tail.extend(descriptors.as_bytes());
        Some((self.quiet(), body.as_bytes().to_vec(), tail))
    }

    /// A valid record with something wrong in it.
    pub fn nearly_valid(&mut self, user_data: u64) -> Option<Record> {
        let mut record = self.valid(user_data)?;
        // Its ticket is not used up by this.
        self.tickets.extend(record.ticket.take());
        let bytes = &mut record.bytes;
        let random = &mut *self.random;
        match random.below(7) {
            0 => bytes[6 + random.below(2)] ^= 1 << random.below(8),
            1 => {
                let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let wrong = match random.below(4) {
                    0 => length + 8,
                    1 => length - 8,
                    2 => length + 4,
                    _ => random.odd_number() as u32,
                };
                bytes[..4].copy_from_slice(&wrong.to_le_bytes());
            }
            2 => bytes[4] ^= 1 << random.below(8),
            3 => {
                let end = bytes.len() - 1;
                bytes[end] ^= 1 << random.below(8);
            }
            4 => {
                let less = bytes.len() - 1 - random.below(bytes.len() - 1);
                bytes.truncate(less);
            }
            _ => {
                // A number in the body.
                let places = bytes.len().min(64).saturating_sub(16) / 4;
                let at = 16 + 4 * random.below(places);
                let number = (random.odd_number() as u32).to_le_bytes();
                if let Some(place) = bytes.get_mut(at..at + 4) {
                    place.copy_from_slice(&number);
                }
            }
        }
        Some(record)
    }

    /// Bytes that look a little like a record.
    pub fn wild(&mut self, user_data: u64) -> Record {
        let random = &mut *self.random;
        let length = random.below(40) * 8;
        let header = Header {
            length: match random.below(4) {
                0 => random.odd_number() as u32,
                _ => (length as u32).max(HEADER_LENGTH),
            }
            .into(),
            opcode: match random.pick(COMMANDS) {
                Some(entry) if random.percent(80) => entry.opcode,
                _ => random.next() as u16,
            }
            .into(),
            flags: (random.next() as u16 & random.next() as u16 & random.next() as u16).into(),
            user_data: user_data.into(),
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(random.bytes(length.saturating_sub(16)));
        Record::of(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Mapping;

    fn decodes(record: &Record, entry: &Entry) -> bool {
        let header = record.header();
        let body = record.bytes.get(16..16 + entry.body_length);
        header.length.get() as usize == record.bytes.len()
            && body.is_some_and(|body| Command::decode(&header, body).is_ok())
    }

    #[test]
    fn valid_records_are_valid_and_every_command_has_one() {
        let mut random = Random::new(1, 0);
        let mut state = State::default();
        state.connections.push(7);
        state.listeners.push(1);
        state.touched.push(3);
        state.sessions.push(5);
        state.guids.push([6; 16]);
        state.mappings.push(Mapping::anonymous(4096).unwrap());
        for entry in COMMANDS {
            for round in 0..40 {
                let mut tickets = vec![[round as u8; 16]];
                let mut registrations = vec![Registration {
                    handle: 1 << 31,
                    length: 5000,
                }];
                let mut source = Source {
                    random: &mut random,
                    state: &state,
                    tickets: &mut tickets,
                    registrations: &mut registrations,
                    arena: (4096, 1 << 20),
                };
                let record = source.of(entry, 9).expect(entry.name);
                assert!(decodes(&record, entry), "{}", entry.name);
                // As a command would be that only the table knows.
                if let Some(record) = source.by_table(entry, 9) {
                    assert!(decodes(&record, entry), "{}", entry.name);
                }
            }
        }
    }
}
