// SPDX-License-Identifier: MIT OR Apache-2.0

//! Turns what an SMB Direct client sends into what an smbd without SMB Direct understands, and
//! smbd's answers back. Pure: bytes in, plans out; who moves the data is `connection`.
//!
//! - A READ with a channel stays as it is; its descriptors are remembered by MessageId. smbd's
//!   answer with the data inline becomes an RDMA write and an answer of 80 bytes.
//! - A WRITE with a channel becomes an RDMA read and a WRITE with the data inline.
//! - What is signed, encrypted or compressed passes untouched: changing it would break it. Clients
//!   do not ask for RDMA in such messages.
//! - A request whose channel is wrong gets an invalid StructureSize, so that smbd itself answers
//!   STATUS_INVALID_PARAMETER.

mod reply;
mod request;
#[cfg(test)]
mod tests;

use crate::smb2;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use usmbd::BufferDescriptorV1;

pub use reply::{Gather, Placement, Reply};
pub use request::{Fetch, Request};

/// Most requests with a channel that may wait for their answer: as many as smbd gives credits
/// (`smb2 max credits`, 8192 by default), and room.
const MAX_PENDING: usize = 32 << 10;
/// Most descriptors that these requests may have together: 8 MiB of memory.
const MAX_PENDING_DESCRIPTORS: usize = 512 << 10;

/// Room in the registration area is given out in units of this many bytes.
const UNIT: usize = 4096;
/// Most room that the data of one message may take: half of the area, which has 64 MiB.
const MAX_ROOM: usize = 32 << 20;

/// A part of a rewritten message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Segment {
    /// Bytes of the original message.
    Original(Range<usize>),
    /// Other bytes.
    Bytes(Vec<u8>),
    /// The data of this [`Request::fetches`] entry.
    Data(usize),
    /// So many zeros.
    Zeros(usize),
}

/// Why a message cannot go on, and the connection has to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// A signed READ asks for its data by RDMA: the answer may neither be changed nor be right.
    SignedRead,
    /// The answer to a READ with a channel is signed.
    SignedReply,
    /// The answer to a READ does not have the form that it must have.
    MalformedReply,
    /// More requests with a channel wait for their answers than can be.
    TooManyRequests,
    /// With its data in place, the message is longer than smbd can take.
    TooLong,
    /// Its data would take more than half of the registration area.
    TooManyWrites,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SignedRead => {
                "the client asked for RDMA in a signed READ, which smbd cannot answer"
            }
            Self::SignedReply => "smbd signed its answer to a READ that asked for RDMA",
            Self::MalformedReply => "smbd's answer to a READ has an unknown form",
            Self::TooManyRequests => "the client has too many requests with a channel under way",
            Self::TooLong => "a compound with its data in place is longer than 16 MiB",
            Self::TooManyWrites => "a compound has more WRITEs than there is room for their data",
        })
    }
}

/// A request with a channel that has no final answer yet.
#[derive(Clone, Debug)]
struct Pending {
    command: u16,
    /// What the final answer has to invalidate.
    token: Option<u32>,
    /// Of a READ: where its data goes.
    target: Option<Target>,
}

#[derive(Clone, Debug)]
struct Target {
    descriptors: Arc<[BufferDescriptorV1]>,
    length: u32,
}

impl Pending {
    fn descriptors(&self) -> usize {
        self.target
            .as_ref()
            .map_or(0, |target| target.descriptors.len())
    }
}

/// What one connection's rewriting has to know from message to message.
#[derive(Debug)]
pub struct Rewriter {
    pending: HashMap<u64, Pending>,
    /// Descriptors in `pending`.
    descriptors: usize,
    /// From the NEGOTIATE response; zero until it was seen.
    dialect: u16,
    /// Most bytes that one request may move.
    max_transfer: u32,
}

impl Rewriter {
    /// For a connection whose requests may move up to `max_transfer` bytes each.
    pub fn new(max_transfer: u32) -> Self {
        Self {
            pending: HashMap::new(),
            descriptors: 0,
            dialect: 0,
            max_transfer,
        }
    }

    /// Requests with a channel that wait for their answer.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The dialect that smbd chose, zero if it was not seen.
    pub fn dialect(&self) -> u16 {
        self.dialect
    }

    fn insert(&mut self, message_id: u64, pending: Pending) -> Result<(), Refused> {
        let descriptors = pending.descriptors();
        if self.pending.len() >= MAX_PENDING
            || self.descriptors + descriptors > MAX_PENDING_DESCRIPTORS
        {
            return Err(Refused::TooManyRequests);
        }
        self.descriptors += descriptors;
        if let Some(replaced) = self.pending.insert(message_id, pending) {
            self.descriptors -= replaced.descriptors();
        }
        Ok(())
    }

    fn remove(&mut self, message_id: u64) {
        if let Some(pending) = self.pending.remove(&message_id) {
            self.descriptors -= pending.descriptors();
        }
    }

    /// Whether a channel may be used under the dialect that was negotiated.
    fn allows(&self, channel: u32) -> bool {
        match channel {
            smb2::CHANNEL_V1 => true,
            smb2::CHANNEL_V1_INVALIDATE => self.dialect == 0 || self.dialect >= smb2::DIALECT_302,
            _ => false,
        }
    }
}
