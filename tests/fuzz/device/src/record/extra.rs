// SPDX-License-Identifier: GPL-2.0-only

//! Records for routing, for the process's own memory, and for operators.

use super::{Parts, Source};
use crate::context::Registration;
use usmbd_abi::command::{
    Body, ClearClientGuid, ClearSessionId, ListConnections, Presumption, QueryStatistics,
    RegisterMemory, SetClientGuid, SetNegotiateTemplate, SetSessionId, ANY_ID, MAX_TEMPLATES,
};
use usmbd_abi::memory::{MemoryRange, BUFFER_SIZE};
use usmbd_abi::smb2::{Header, NegotiateResponseBody, DIALECT_300, FLAG_RESPONSE, PROTOCOL_ID};
use zerocopy::IntoBytes;

/// Sessions and clients that are claimed, from 1 on; twin of the peer's in tests/peer.
const IDENTITIES: usize = 40;
/// Claims that a context has at most: some identities have to be nobody's.
const CLAIMS: usize = 4;

/// What ranges may name.
pub enum Memory {
    Buffer(u32),
    Own(Registration),
}

impl Memory {
    pub fn registered(&self) -> Option<Registration> {
        match self {
            Self::Buffer(_) => None,
            Self::Own(registration) => Some(*registration),
        }
    }
}

/// A response that is good for a template of this dialect.
pub fn template(dialect: u16) -> Vec<u8> {
    let header = Header {
        protocol_id: PROTOCOL_ID,
        structure_size: 64.into(),
        credits: 1.into(),
        flags: FLAG_RESPONSE.into(),
        ..Header::default()
    };
    let body = NegotiateResponseBody {
        structure_size: 65.into(),
        dialect: dialect.into(),
        ..NegotiateResponseBody::default()
    };
    [header.as_bytes(), body.as_bytes()].concat()
}

impl Source<'_> {
    /// The parts of a command that has a generator here, none if what it needs is not there.
    pub(super) fn extra(&mut self, opcode: u16) -> Option<Option<Parts>> {
        let parts = match opcode {
            SetNegotiateTemplate::OPCODE => Some(self.set_template()),
            SetSessionId::OPCODE => self
                .fresh(self.state.sessions.len())
                .map(|number| just(&u64::from(number).to_le_bytes())),
            ClearSessionId::OPCODE => self
                .random
                .pick(&self.state.sessions)
                .map(|session| just(&session.to_le_bytes())),
            SetClientGuid::OPCODE => self
                .fresh(self.state.guids.len())
                .map(|number| just(&[number; 16])),
            ClearClientGuid::OPCODE => self.random.pick(&self.state.guids).map(|guid| just(&guid)),
            RegisterMemory::OPCODE => self.register(),
            QueryStatistics::OPCODE => {
                let one = self.random.pick(&self.state.connections);
                let connection = one.filter(|_| self.random.percent(70)).unwrap_or(0);
                Some(just(&connection.to_le_bytes()))
            }
            ListConnections::OPCODE => {
                let after = match self.random.pick(&self.state.connections) {
                    Some(connection) if self.random.percent(50) => connection,
                    _ => 0,
                };
                Some(just(&after.to_le_bytes()))
            }
            _ => return None,
        };
        Some(parts)
    }

    /// Somebody to claim, for a context that has so many claims of this kind.
    fn fresh(&mut self, claims: usize) -> Option<u8> {
        (claims < CLAIMS).then(|| 1 + self.random.below(IDENTITIES) as u8)
    }

    fn set_template(&mut self) -> Parts {
        let number = self.random.next() as u32 % MAX_TEMPLATES;
        let response = match self.random.below(3) {
            0 => Vec::new(),
            other => template(DIALECT_300 + 2 * other as u16),
        };
        let count = match response.len() {
            0 => 0,
            _ => self.random.below(3),
        };
        let mut presumptions = Vec::new();
        for _ in 0..count {
            presumptions.push(Presumption {
                context_type: (1 + self.random.next() as u16 % 8).into(),
                id: match self.random.below(2) {
                    0 => ANY_ID,
                    _ => self.random.next() as u16 % 4,
                }
                .into(),
                ..Presumption::default()
            });
        }
        let body = SetNegotiateTemplate {
            template: number.into(),
            response_length: (response.len() as u32).into(),
            presumption_count: (count as u16).into(),
            ..SetNegotiateTemplate::default()
        };
        let tail = [presumptions.as_bytes(), &response].concat();
        (0, body.as_bytes().to_vec(), tail)
    }

    fn register(&mut self) -> Option<Parts> {
        if self.state.mappings.is_empty() {
            return None;
        }
        let (start, whole) = self.arena;
        let length = 1 + self.random.below(100_000.min(whole));
        let body = RegisterMemory {
            address: (start + self.random.below(whole - length + 1) as u64).into(),
            length: (length as u64).into(),
        };
        Some(just(body.as_bytes()))
    }

    /// Memory that this context's commands may name.
    pub(super) fn memory(&mut self) -> Option<Memory> {
        let own = self.random.pick(self.registrations);
        let own = own.filter(|_| !self.state.mappings.is_empty() && self.random.percent(30));
        match own {
            Some(registration) => Some(Memory::Own(registration)),
            None => self.random.pick(&self.state.touched).map(Memory::Buffer),
        }
    }

    /// A few ranges of `memory`, of `most` bytes altogether.
    pub(super) fn ranges(&mut self, memory: &Memory, most: u32) -> Vec<MemoryRange> {
        let (number, size) = match memory {
            Memory::Buffer(number) => (*number, BUFFER_SIZE),
            Memory::Own(registration) => (registration.handle, registration.length as u32),
        };
        let (mut ranges, mut left) = (Vec::new(), most);
        for _ in 0..1 + self.random.below(4) {
            let length = 1 + self.random.next() as u32 % left.clamp(1, 70_000).min(size);
            let range = MemoryRange {
                buffer: number.into(),
                offset: (self.random.next() as u32 % (size - length + 1)).into(),
                length: length.into(),
                ..MemoryRange::default()
            };
            ranges.push(range);
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
        ranges
    }
}

/// A body alone.
fn just(body: &[u8]) -> Parts {
    (0, body.to_vec(), Vec::new())
}
