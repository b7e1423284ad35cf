// SPDX-License-Identifier: MIT OR Apache-2.0

//! Commands on their way to the driver.

use crate::abi::command::{self, Body};
use crate::abi::memory::{BufferDescriptorV1, MemoryRange};
use crate::abi::record::ALIGNMENT;
use crate::connection::{ConnectionId, Parameters, Token};
use crate::listener::{ListenOptions, ListenerId, Ticket};
use crate::{Error, Features, Result};
use std::collections::VecDeque;
use std::io::IoSlice;
use zerocopy::IntoBytes;

/// Most pieces that one message is gathered from without a copy. More are joined first.
pub const MAX_PARTS: usize = 1000;
/// Most entries of one writev(): IOV_MAX, a constant of the kernel.
const MAX_ENTRIES: usize = 1024;

/// Records to be written together: commands in the order in which they take effect.
///
/// Payloads are not copied: the batch borrows them, and writev() gathers them from where they are.
/// Once a record was taken ([`Context::submit`](crate::Context::submit)), the driver has its own copy
/// and the payload may change.
///
/// `user_data` is the caller's own number and comes back in the event that completes the command.
/// Methods fail only with [`Error::Refused`], for what no record can say; then nothing was added.
#[derive(Debug, Default)]
pub struct Batch<'p> {
    records: VecDeque<Record<'p>>,
}

/// One record: what was encoded, then the payload, then zeros up to the alignment.
#[derive(Debug)]
struct Record<'p> {
    name: &'static str,
    fixed: Fixed,
    payload: Payload<'p>,
    padding: usize,
    length: usize,
}

/// Encoded header, body and lists; the usual ones without an allocation.
#[derive(Debug)]
enum Fixed {
    Short { bytes: [u8; SHORT], length: usize },
    Long(Vec<u8>),
}

/// Enough for every record without a list, and for a transfer of one range and one descriptor.
const SHORT: usize = 64;

impl Fixed {
    fn new() -> Self {
        Self::Short {
            bytes: [0; SHORT],
            length: 0,
        }
    }

    fn push(&mut self, more: &[u8]) {
        match self {
            Self::Short { bytes, length } => {
                let end = *length + more.len();
                if let Some(room) = bytes.get_mut(*length..end) {
                    room.copy_from_slice(more);
                    *length = end;
                } else {
                    let mut long = Vec::with_capacity(end);
                    long.extend_from_slice(&bytes[..*length]);
                    long.extend_from_slice(more);
                    *self = Self::Long(long);
                }
            }
            Self::Long(bytes) => bytes.extend_from_slice(more),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { bytes, length } => &bytes[..*length],
            Self::Long(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
enum Payload<'p> {
    None,
    One(&'p [u8]),
    Many(Vec<&'p [u8]>),
    Owned(Vec<u8>),
}

impl Record<'_> {
    /// Calls `each` with the record's bytes, part by part; no part is empty.
    fn for_each_part<'r>(&'r self, mut each: impl FnMut(&'r [u8])) {
        each(self.fixed.bytes());
        match &self.payload {
            Payload::None => (),
            Payload::One(bytes) => each(bytes),
            Payload::Many(parts) => parts.iter().for_each(|part| each(part)),
            Payload::Owned(bytes) => each(bytes),
        }
        if self.padding != 0 {
            each(&ZEROS[..self.padding]);
        }
    }

    fn part_count(&self) -> usize {
        let payload = match &self.payload {
            Payload::None => 0,
            Payload::One(_) | Payload::Owned(_) => 1,
            Payload::Many(parts) => parts.len(),
        };
        1 + payload + usize::from(self.padding != 0)
    }
}

static ZEROS: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];

/// How a message is sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SendOptions {
    /// Make an event only if it failed.
    pub quiet: bool,
    /// Invalidate this key of the peer's with the message.
    pub invalidate: Option<Token>,
}

impl SendOptions {
    /// Flags and body of a SEND_PDU.
    fn to_record(self, connection: ConnectionId, payload_length: u32) -> (u16, command::SendPdu) {
        let mut flags = quiet(self.quiet);
        let mut invalidate_token = 0;
        if let Some(Token(token)) = self.invalidate {
            flags |= command::INVALIDATE;
            invalidate_token = token;
        }
        let body = command::SendPdu {
            connection: connection.number().into(),
            payload_length: payload_length.into(),
            invalidate_token: invalidate_token.into(),
        };
        (flags, body)
    }
}

impl<'p> Batch<'p> {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Removes the first record: the one that a failed submit was about. `false` if there is none.
    pub fn drop_first(&mut self) -> bool {
        self.records.pop_front().is_some()
    }

    /// Removes all records.
    pub fn clear(&mut self) {
        self.records.clear();
    }

    /// The records as one string of bytes, as write() would see them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in &self.records {
            record.for_each_part(|part| bytes.extend_from_slice(part));
        }
        bytes
    }

    /// Asks for `features`, and tells which version of the ABI this library knows. Completed by
    /// [`HelloDone`](crate::Event::HelloDone).
    pub fn hello(&mut self, features: Features, user_data: u64) -> Result<()> {
        let body = command::Hello {
            version: crate::abi::VERSION.into(),
            features: features.bits().into(),
            ..Default::default()
        };
        self.push("HELLO", 0, user_data, body)
    }

    /// Does nothing but make a [`NopDone`](crate::Event::NopDone): wakes whoever waits for events.
    pub fn nop(&mut self, user_data: u64) -> Result<()> {
        self.push("NOP", 0, user_data, command::Nop {})
    }

    /// Sets the parameters of connections that this context accepts from now on. No event.
    pub fn set_parameters(&mut self, parameters: &Parameters) -> Result<()> {
        self.push("SET_PARAMETERS", 0, 0, parameters.to_record())
    }

    /// Completed by [`MemoryParameters`](crate::Event::MemoryParameters).
    pub fn get_memory_parameters(&mut self, user_data: u64) -> Result<()> {
        let body = command::GetMemoryParameters {};
        self.push("GET_MEMORY_PARAMETERS", 0, user_data, body)
    }

    /// Listens. Completed by [`Listening`](crate::Event::Listening).
    pub fn listen(&mut self, options: &ListenOptions, user_data: u64) -> Result<()> {
        if options.backlog > command::MAX_BACKLOG {
            return Err(Error::Refused("a backlog is at most 4096"));
        }
        self.push("LISTEN", 0, user_data, options.to_record())
    }

    /// Ends a listener; its connections that were not accepted are dropped. Completed by
    /// [`ListenerClosed`](crate::Event::ListenerClosed).
    pub fn close_listener(&mut self, listener: ListenerId, user_data: u64) -> Result<()> {
        let body = command::CloseListener {
            listener: listener.number().into(),
            ..Default::default()
        };
        self.push("CLOSE_LISTENER", 0, user_data, body)
    }

    /// Takes a connection into the context that the batch is submitted to, whichever context's
    /// listener it came to. Completed by [`Accepted`](crate::Event::Accepted). Fails with `ENOENT`
    /// if the ticket was used, or is older than 30 seconds, or its peer has gone.
    pub fn accept(&mut self, ticket: Ticket, user_data: u64) -> Result<()> {
        let ticket = ticket.bytes();
        self.push("ACCEPT", 0, user_data, command::Accept { ticket })
    }

    /// Refuses a connection; no event. Fails as [`accept`](Self::accept) does.
    pub fn reject(&mut self, ticket: Ticket) -> Result<()> {
        let ticket = ticket.bytes();
        self.push("REJECT", 0, 0, command::Reject { ticket })
    }

    /// Sends a message, gathered from `parts`; empty ones are allowed, an empty message is not.
    /// Completed by [`PduSent`](crate::Event::PduSent).
    ///
    /// More than [`MAX_PARTS`] parts are copied into one first.
    pub fn send(
        &mut self,
        connection: ConnectionId,
        user_data: u64,
        parts: &[&'p [u8]],
    ) -> Result<()> {
        self.send_with(connection, user_data, SendOptions::default(), parts)
    }

    /// As [`send`](Self::send), with options.
    pub fn send_with(
        &mut self,
        connection: ConnectionId,
        user_data: u64,
        options: SendOptions,
        parts: &[&'p [u8]],
    ) -> Result<()> {
        let length = parts.iter().map(|part| part.len()).sum();
        let filled = || parts.iter().copied().filter(|part| !part.is_empty());
        let payload = match filled().count() {
            1 => filled().next().map_or(Payload::None, Payload::One),
            0..=MAX_PARTS => Payload::Many(filled().collect()),
            _ => Payload::Owned(parts.concat()),
        };
        self.push_send(connection, user_data, options, payload, length)
    }

    /// As [`send_with`](Self::send_with), for a message that the batch shall own: it may outlive
    /// the buffers that it came from.
    pub fn send_owned(
        &mut self,
        connection: ConnectionId,
        user_data: u64,
        options: SendOptions,
        message: Vec<u8>,
    ) -> Result<()> {
        let length = message.len();
        let payload = Payload::Owned(message);
        self.push_send(connection, user_data, options, payload, length)
    }

    fn push_send(
        &mut self,
        connection: ConnectionId,
        user_data: u64,
        options: SendOptions,
        payload: Payload<'p>,
        length: usize,
    ) -> Result<()> {
        if length == 0 {
            return Err(Error::Refused("a message has at least one byte"));
        }
        let payload_length = u32::try_from(length)
            .ok()
            .filter(|length| *length <= command::MAX_PAYLOAD_LENGTH)
            .ok_or(Error::Refused("a message has at most 16 MiB"))?;
        let (flags, body) = options.to_record(connection, payload_length);
        let record = self.encode("SEND_PDU", flags, user_data, body, payload_length)?;
        self.records.push_back(Record { payload, ..record });
        Ok(())
    }

    /// As [`send_with`](Self::send_with), for a message that stands in the area or in registered
    /// memory: `ranges`, of which there are at most 64, one behind the other.
    ///
    /// They must stay as they are until [`PduSent`](crate::Event::PduSent).
    pub fn send_ranges(
        &mut self,
        connection: ConnectionId,
        user_data: u64,
        options: SendOptions,
        ranges: &[MemoryRange],
    ) -> Result<()> {
        if !(1..=usize::from(command::MAX_RANGES)).contains(&ranges.len()) {
            return Err(Error::Refused("a message has 1 to 64 ranges"));
        }
        let length: u64 = ranges
            .iter()
            .map(|range| u64::from(range.length.get()))
            .sum();
        let payload_length = u32::try_from(length)
            .ok()
            .filter(|length| (1..=command::MAX_PAYLOAD_LENGTH).contains(length))
            .ok_or(Error::Refused("a message has 1 byte to 16 MiB"))?;
        let (flags, body) = options.to_record(connection, payload_length);
        let flags = flags | command::RANGES;
        self.push_with_tail(
            "SEND_PDU",
            flags,
            user_data,
            body,
            &[ranges.as_bytes()],
            &[],
        )
    }

    /// Reads the peer's memory (`descriptors`) into ours (`ranges`), as many bytes as the ranges
    /// have; the descriptors must have at least as many, and the rest of them stays untouched.
    /// Completed by [`RdmaComplete`](crate::Event::RdmaComplete), with `quiet` only if it failed.
    ///
    /// The ranges must stay as they are until then; nothing waits for an RDMA read, so a reply that
    /// depends on it is sent after that event.
    pub fn rdma_read(
        &mut self,
        connection: ConnectionId,
        user_data: u64,
        is_quiet: bool,
        ranges: &[MemoryRange],
        descriptors: &[BufferDescriptorV1],
    ) -> Result<()> {
        let transfer = transfer(connection, ranges, descriptors)?;
        let body = command::RdmaRead { transfer };
        self.push_transfer("RDMA_READ", is_quiet, user_data, body, ranges, descriptors)
    }

    /// Writes our memory (`ranges`) into the peer's (`descriptors`). Else as
    /// [`rdma_read`](Self::rdma_read). A message for the same connection that stands later in this
    /// or in a later batch arrives after the data.
    pub fn rdma_write(
        &mut self,
        connection: ConnectionId,
        user_data: u64,
        is_quiet: bool,
        ranges: &[MemoryRange],
        descriptors: &[BufferDescriptorV1],
    ) -> Result<()> {
        let transfer = transfer(connection, ranges, descriptors)?;
        let body = command::RdmaWrite { transfer };
        self.push_transfer("RDMA_WRITE", is_quiet, user_data, body, ranges, descriptors)
    }

    fn push_transfer<B: Body>(
        &mut self,
        name: &'static str,
        is_quiet: bool,
        user_data: u64,
        body: B,
        ranges: &[MemoryRange],
        descriptors: &[BufferDescriptorV1],
    ) -> Result<()> {
        let lists = [ranges.as_bytes(), descriptors.as_bytes()];
        self.push_with_tail(name, quiet(is_quiet), user_data, body, &lists, &[])
    }

    /// Disconnects; messages not yet sent are dropped. Completed by
    /// [`Disconnected`](crate::Event::Disconnected).
    pub fn disconnect(&mut self, connection: ConnectionId, user_data: u64) -> Result<()> {
        let connection = connection.number().into();
        let body = command::Disconnect { connection };
        self.push("DISCONNECT", 0, user_data, body)
    }

    /// A record with `lists` and `payload` behind its body.
    pub(crate) fn push_with_tail<B: Body>(
        &mut self,
        name: &'static str,
        flags: u16,
        user_data: u64,
        body: B,
        lists: &[&[u8]],
        payload: &'p [u8],
    ) -> Result<()> {
        let listed: usize = lists.iter().map(|list| list.len()).sum();
        let tail = u32::try_from(listed + payload.len())
            .map_err(|_| Error::Refused("a record that is too long"))?;
        let mut record = self.encode(name, flags, user_data, body, tail)?;
        lists.iter().for_each(|list| record.fixed.push(list));
        if !payload.is_empty() {
            record.payload = Payload::One(payload);
        }
        self.records.push_back(record);
        Ok(())
    }

    /// A record without tail that the caller has filled in; the driver checks it.
    pub(crate) fn record<B: Body>(
        &mut self,
        name: &'static str,
        user_data: u64,
        body: B,
    ) -> Result<()> {
        self.push(name, 0, user_data, body)
    }

    fn push<B: Body>(
        &mut self,
        name: &'static str,
        flags: u16,
        user_data: u64,
        body: B,
    ) -> Result<()> {
        let record = self.encode(name, flags, user_data, body, 0)?;
        self.records.push_back(record);
        Ok(())
    }

    /// Encodes header and body of a record whose tail, still to be added, has `tail` bytes.
    fn encode<B: Body>(
        &self,
        name: &'static str,
        flags: u16,
        user_data: u64,
        body: B,
        tail: u32,
    ) -> Result<Record<'p>> {
        let header = command::header::<B>(flags, user_data, tail)
            .map_err(|_| Error::Refused("a record that is too long"))?;
        let mut fixed = Fixed::new();
        fixed.push(header.as_bytes());
        fixed.push(body.as_bytes());
        let length = header.length.get() as usize;
        Ok(Record {
            name,
            padding: length - fixed.bytes().len() - tail as usize,
            fixed,
            payload: Payload::None,
            length,
        })
    }

    /// Submits by `write`, which gets the first record's name and the parts to be gathered, and
    /// returns how many bytes were taken.
    pub(crate) fn submit(
        &mut self,
        write: impl FnOnce(&'static str, &[IoSlice<'_>]) -> Result<usize>,
    ) -> Result<usize> {
        let Some(first) = self.records.front() else {
            return Ok(0);
        };
        // One entry per part is enough as parts are long; records without payload are short, and a
        // batch of more of them than there are entries just takes two calls.
        let mut entries = Vec::with_capacity(MAX_ENTRIES.min(3 * self.records.len()));
        for record in &self.records {
            if entries.len() + record.part_count() > MAX_ENTRIES {
                break;
            }
            record.for_each_part(|part| entries.push(IoSlice::new(part)));
        }
        let mut taken = write(first.name, &entries)?;
        let mut count = 0;
        while let Some(record) = self.records.front() {
            let Some(rest) = taken.checked_sub(record.length) else {
                break;
            };
            taken = rest;
            count += 1;
            self.records.pop_front();
        }
        if taken != 0 || count == 0 {
            return Err(Error::Malformed("a write took a part of a record"));
        }
        Ok(count)
    }
}

fn quiet(is_quiet: bool) -> u16 {
    if is_quiet {
        command::QUIET
    } else {
        0
    }
}

fn transfer(
    connection: ConnectionId,
    ranges: &[MemoryRange],
    descriptors: &[BufferDescriptorV1],
) -> Result<command::Transfer> {
    let count = |length: usize, most: u16| {
        u16::try_from(length)
            .ok()
            .filter(|count| (1..=most).contains(count))
    };
    Ok(command::Transfer {
        connection: connection.number().into(),
        range_count: count(ranges.len(), command::MAX_RANGES)
            .ok_or(Error::Refused("a transfer has 1 to 64 ranges"))?
            .into(),
        descriptor_count: count(descriptors.len(), command::MAX_DESCRIPTORS)
            .ok_or(Error::Refused("a transfer has 1 to 4095 descriptors"))?
            .into(),
        ..Default::default()
    })
}
