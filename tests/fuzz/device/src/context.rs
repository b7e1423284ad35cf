// SPDX-License-Identifier: GPL-2.0-only

//! One open device, what is known of what is behind it, and what its events have to be.

use crate::sum::Sum;
use crate::sys::{self, Mapping};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use usmbd_abi::command::{self, Body};
use usmbd_abi::event::{ConnectionInfo, Event};
use usmbd_abi::memory::BufferDescriptorV1;
use usmbd_abi::record::{BatchHeader, Header};
use zerocopy::FromBytes;

/// What stands before descriptors in a message of `usmbd-peer misbehave`.
const KEYS: &[u8] = b"KEYS";
/// Set in the `user_data` of a forked child's commands, whose fate nobody here learns.
pub const CHILD: u64 = 1 << 63;

/// A ticket, and whether somebody used it already is the driver's to know.
pub type Ticket = [u8; 16];

/// Memory of the process's own that is registered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Registration {
    pub handle: u32,
    pub length: u64,
}

/// What is not of one context alone, and who keeps it.
pub trait Common {
    fn ticket(&mut self, ticket: Ticket);
    fn registered(&mut self, registration: Registration);
}

/// What may be used for commands.
#[derive(Default)]
pub struct State {
    pub more: Vec<OwnedFd>,
    pub connections: Vec<u64>,
    pub listeners: Vec<u32>,
    /// Memory that peers of this context's connections offered.
    pub keys: Vec<(u64, BufferDescriptorV1)>,
    pub mappings: Vec<Mapping>,
    /// Buffers that have memory.
    pub touched: Vec<u32>,
    /// What the context has claimed.
    pub sessions: Vec<u64>,
    pub guids: Vec<[u8; 16]>,
    /// Listeners whose LISTENER_CLOSED was read.
    closed: HashSet<u32>,
    /// `user_data` of commands that were accepted, or are being written, and whose event is due.
    due: HashMap<u64, u16>,
    /// Of those that need not have an event.
    optional: HashSet<u64>,
    /// Of headers that are not ours: see [`Context::tolerate`].
    misread: HashSet<u64>,
    /// Where a message of a connection stands: its length, and bytes so far.
    messages: HashMap<u64, (u32, u32)>,
    /// Connections whose DISCONNECTED was read.
    ended: HashSet<u64>,
}

pub struct Context {
    pub number: u64,
    file: OwnedFd,
    pub state: Mutex<State>,
    /// Held for a read and what follows from it: with one reader, events are in order.
    reading: Mutex<()>,
}

impl Context {
    pub fn open(number: u64, nonblocking: bool) -> io::Result<Self> {
        Ok(Self {
            number,
            file: sys::open_device(nonblocking)?,
            state: Mutex::default(),
            reading: Mutex::default(),
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether each accepted command of this kind has one event, unless it is quiet.
    fn completes(opcode: u16) -> bool {
        [
            command::Hello::OPCODE,
            command::Nop::OPCODE,
            command::GetMemoryParameters::OPCODE,
            command::RegisterMemory::OPCODE,
            command::UnregisterMemory::OPCODE,
            command::QueryStatistics::OPCODE,
            command::ListConnections::OPCODE,
            command::Listen::OPCODE,
            command::CloseListener::OPCODE,
            command::Connect::OPCODE,
            command::Accept::OPCODE,
            command::SendPdu::OPCODE,
            command::RdmaRead::OPCODE,
            command::RdmaWrite::OPCODE,
            command::Disconnect::OPCODE,
        ]
        .contains(&opcode)
    }

    /// A command is about to be written.
    pub fn expect(&self, header: &Header) {
        let (opcode, user_data) = (header.opcode.get(), header.user_data.get());
        let quiet = matches!(
            opcode,
            command::SendPdu::OPCODE | command::RdmaRead::OPCODE | command::RdmaWrite::OPCODE
        ) && header.flags.get() & command::QUIET != 0;
        let mut state = self.state.lock().unwrap();
        if Self::completes(opcode) && !quiet {
            state.due.insert(user_data, opcode);
        } else {
            state.optional.insert(user_data);
        }
    }

    /// Where a record is cut short, the driver reads a header that begins in it and ends in the next
    /// one. It may be valid: of a NOP cut in its middle before another NOP it is, and each time with
    /// the same `user_data`.
    pub fn tolerate(&self, user_data: u64) {
        self.state.lock().unwrap().misread.insert(user_data);
    }

    /// It was not accepted.
    pub fn forget(&self, header: &Header) {
        let mut state = self.state.lock().unwrap();
        let user_data = header.user_data.get();
        state.due.remove(&user_data);
        state.optional.remove(&user_data);
    }

    /// It was accepted, with this behind its header.
    pub fn accepted(&self, header: &Header, rest: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let session = rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let guid = rest.first_chunk().copied();
        match header.opcode.get() {
            command::SetSessionId::OPCODE => state.sessions.extend(session),
            command::ClearSessionId::OPCODE => state.sessions.retain(|one| Some(*one) != session),
            command::SetClientGuid::OPCODE => state.guids.extend(guid),
            command::ClearClientGuid::OPCODE => state.guids.retain(|one| Some(*one) != guid),
            _ => {}
        }
    }

    /// Commands whose event is still due.
    pub fn due(&self) -> Vec<(u64, u16)> {
        let state = self.state.lock().unwrap();
        state
            .due
            .iter()
            .map(|(user_data, opcode)| (*user_data, *opcode))
            .collect()
    }

    /// Reads once, and looks at what came. `Ok(None)`: somebody else reads.
    pub fn read(
        &self,
        buffer: &mut [u8],
        nowait: bool,
        fault: bool,
        common: &mut dyn Common,
        sum: &Sum,
    ) -> io::Result<Option<Result<(), String>>> {
        let Ok(_reading) = self.reading.try_lock() else {
            return Ok(None);
        };
        let length = sys::read(self.fd(), buffer, nowait, fault)?;
        if buffer.is_empty() && length == 0 {
            return Ok(None);
        }
        Ok(Some(self.batch(&buffer[..length], common, sum)))
    }

    fn batch(&self, bytes: &[u8], common: &mut dyn Common, sum: &Sum) -> Result<(), String> {
        let (batch, mut rest) =
            BatchHeader::read_from_prefix(bytes).map_err(|_| "no batch header".to_string())?;
        if batch.bytes.get() as usize != bytes.len() || batch.count.get() == 0 {
            return Err(format!("{batch:?} for {} bytes", bytes.len()));
        }
        sum.add("events", batch.count.get().into());
        for _ in 0..batch.count.get() {
            let (header, _) =
                Header::read_from_prefix(rest).map_err(|_| format!("cut short: {batch:?}"))?;
            let length = header.length.get() as usize;
            if length < 16 || length % 8 != 0 || length > rest.len() {
                return Err(format!("{header:?} with {} bytes left", rest.len()));
            }
            let event = Event::decode(&header, &rest[16..length])
                .ok_or_else(|| format!("{header:?} has no body"))?;
            self.event(&header, &event, common)?;
            rest = &rest[length..];
        }
        match rest {
            [] => Ok(()),
            rest => Err(format!("{} bytes behind the last event", rest.len())),
        }
    }

    fn event(
        &self,
        header: &Header,
        event: &Event<'_>,
        common: &mut dyn Common,
    ) -> Result<(), String> {
        let user_data = header.user_data.get();
        let mut state = self.state.lock().unwrap();
        // A wild record of ours may look like a child's.
        let known = state.due.remove(&user_data).is_some()
            || state.optional.remove(&user_data)
            || state.misread.contains(&user_data);
        if !known && user_data != 0 && user_data & CHILD == 0 {
            return Err(format!(
                "an event of no command, or its second one: {header:?} {event:?}"
            ));
        }
        let about = match event {
            Event::ConnectionReady(body, _) => {
                common.ticket(body.ticket);
                None
            }
            Event::MemoryRegistered(body, _) => {
                common.registered(Registration {
                    handle: body.handle.get(),
                    length: body.length.get(),
                });
                None
            }
            Event::ListenerChanged(body, _) if state.closed.contains(&body.listener.get()) => {
                return Err(format!("an event behind the listener's last: {event:?}"));
            }
            Event::Connections(body, tail)
                if tail.len() != body.count.get() as usize * size_of::<ConnectionInfo>() =>
            {
                return Err(format!("{body:?} with {} bytes", tail.len()));
            }
            Event::Listening(body, _) => {
                if body.status.get() == 0 {
                    state.listeners.push(body.listener.get());
                }
                None
            }
            Event::ListenerClosed(body, _) => {
                state
                    .listeners
                    .retain(|listener| *listener != body.listener.get());
                state.closed.insert(body.listener.get());
                None
            }
            Event::Accepted(body, _) => {
                state.connections.push(body.connection.get());
                Some(body.connection)
            }
            Event::Connected(body, _) if body.status.get() != 0 => None,
            Event::Connected(body, _) => {
                state.connections.push(body.connection.get());
                Some(body.connection)
            }
            Event::ConnectionRouted(body, _) => {
                state.connections.push(body.connection.get());
                Some(body.connection)
            }
            Event::NegotiateAnswered(body, _) => Some(body.connection),
            Event::PduReceived(body, tail) => {
                let payload = &tail[..tail.len().min(body.payload_length.get() as usize)];
                state.piece(body.connection.get(), body, payload)?;
                Some(body.connection)
            }
            Event::PduSent(body, _) => Some(body.connection),
            Event::RdmaComplete(body, _) => Some(body.connection),
            Event::SendReady(body, _) => Some(body.connection),
            Event::Disconnected(body, _) => Some(body.connection),
            _ => None,
        };
        if let Some(connection) = about {
            if state.ended.contains(&connection.get()) {
                return Err(format!(
                    "an event behind the connection's last: {header:?} {event:?}"
                ));
            }
        }
        if let Event::Disconnected(body, _) = event {
            let ended = body.connection.get();
            state.ended.insert(ended);
            state.connections.retain(|connection| *connection != ended);
            state.keys.retain(|(connection, _)| *connection != ended);
            state.messages.remove(&ended);
        }
        Ok(())
    }
}

impl State {
    fn piece(
        &mut self,
        connection: u64,
        body: &usmbd_abi::event::PduReceived,
        payload: &[u8],
    ) -> Result<(), String> {
        let (total, offset) = (body.total.get(), body.offset.get());
        let length = body.payload_length.get();
        if payload.len() != length as usize {
            return Err(format!("a piece of {} bytes says {body:?}", payload.len()));
        }
        let (of, so_far) = self.messages.remove(&connection).unwrap_or((total, 0));
        let end = offset.checked_add(length).filter(|end| *end <= total);
        if of != total || so_far != offset || end.is_none() {
            return Err(format!(
                "{so_far} of {of} bytes are there, and then comes {body:?}"
            ));
        }
        if offset + length < total {
            self.messages.insert(connection, (total, offset + length));
        }
        if let Some(list) = payload
            .strip_prefix(KEYS)
            .filter(|_| offset == 0 && length == total)
        {
            for bytes in list.chunks_exact(16) {
                if let Ok(descriptor) = BufferDescriptorV1::read_from_bytes(bytes) {
                    self.keys.push((connection, descriptor));
                }
            }
        }
        Ok(())
    }
}
