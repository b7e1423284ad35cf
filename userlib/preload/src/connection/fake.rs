// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device that is a script: events to read, and a record of what was written.

use super::{Connection, Side};
use crate::device::{Device, SharedArea};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;
use usmbd::abi::command::{self, Command};
use usmbd::abi::event::{self, Body};
use usmbd::abi::record::{BatchHeader, Header as RecordHeader};
use usmbd::{
    Area, Batch, ConnectionId, ConnectionStatus, Context, Error, Interest, MemoryParameters,
    Readiness, Result, State,
};
use zerocopy::{FromBytes, IntoBytes};

pub const BUFFERS: u32 = 4;
const BUFFER: usize = 1 << 20;

/// A connection on this side, and the script that its device is.
pub fn pair(side: Side) -> (Script, Connection<Script>) {
    let script = Script::new();
    let connection = Connection::new(script.clone(), side).unwrap();
    (script, connection)
}

/// One recv(), as after an epoll_wait() that said that there is something.
pub fn receive(connection: &mut Connection<Script>, room: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; room];
    let result = connection.receive(&mut [IoSliceMut::new(&mut bytes)], false);
    connection.settle();
    bytes.truncate(result?);
    Ok(bytes)
}

/// What was written, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Nop,
    Send {
        message: Vec<u8>,
        invalidate: u32,
    },
    Write {
        data: Vec<u8>,
        quiet: bool,
        user_data: u64,
    },
    Read {
        place: Vec<(u64, usize)>,
        user_data: u64,
    },
    Disconnect,
}

/// The script's state, shared with the test.
pub struct Fake {
    pub events: RefCell<VecDeque<Vec<u8>>>,
    seen: RefCell<Vec<Seen>>,
    /// Records taken until EAGAIN.
    pub room: Cell<usize>,
    /// The errno of the next batch.
    pub refusal: Cell<Option<i32>>,
    pub accepted: Cell<u64>,
    pub completed: Cell<u64>,
    pub memory: File,
    pub area: SharedArea,
    pub state: Cell<State>,
    _context: Context,
}

#[derive(Clone)]
pub struct Script(pub Rc<Fake>);

impl Script {
    pub fn new() -> Self {
        // SAFETY: a C string; the descriptor is new.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"area".as_ptr(), 0)) };
        let memory = File::from(fd.try_clone().unwrap());
        memory.set_len(u64::from(BUFFERS) << 20).unwrap();
        let context = Context::from(fd);
        let parameters = MemoryParameters {
            area_offset: 0,
            status_page_offset: 1 << 40,
            buffer_count: BUFFERS,
            buffer_size: BUFFER as u32,
            status_page_length: 4096,
        };
        let area = SharedArea::new(Area::map(&context, &parameters).unwrap());
        Self(Rc::new(Fake {
            events: RefCell::default(),
            seen: RefCell::default(),
            room: Cell::new(usize::MAX),
            refusal: Cell::new(None),
            accepted: Cell::new(0),
            completed: Cell::new(0),
            memory,
            area,
            state: Cell::new(State::Established),
            _context: context,
        }))
    }

    pub fn event<B: Body>(&self, user_data: u64, body: B, tail: &[u8]) {
        let length = tail.len() as u32;
        let header = event::header::<B>(0, user_data, length).unwrap();
        let mut record = [header.as_bytes(), body.as_bytes(), tail].concat();
        record.resize(header.length.get() as usize, 0);
        self.0.events.borrow_mut().push_back(record);
    }

    /// The peer sends a message in pieces of at most `piece`.
    pub fn message(&self, message: &[u8], piece: usize) {
        for (index, part) in message.chunks(piece).enumerate() {
            let body = event::PduReceived {
                connection: 7.into(),
                total: (message.len() as u32).into(),
                offset: ((index * piece) as u32).into(),
                payload_length: (part.len() as u32).into(),
                ..Default::default()
            };
            self.event(0, body, part);
        }
    }

    pub fn complete(&self, user_data: u64) {
        self.event(user_data, event::RdmaComplete::default(), &[]);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.take()
    }

    fn take(&self, bytes: &[u8]) {
        let (header, rest) = RecordHeader::read_from_prefix(bytes).unwrap();
        let layout = command::Layout::of(&header).unwrap();
        let (body, tail) = rest.split_at(layout.body_length);
        let quiet = header.flags.get() & command::QUIET != 0;
        let user_data = header.user_data.get();
        let seen = match Command::decode(&header, body).unwrap() {
            Command::Nop(_) => {
                self.event(user_data, event::NopDone {}, &[]);
                Seen::Nop
            }
            Command::SendPdu(body) => {
                let message = tail[..body.payload_length.get() as usize].to_vec();
                self.0
                    .accepted
                    .set(self.0.accepted.get() + message.len() as u64);
                Seen::Send {
                    message,
                    invalidate: body.invalidate_token.get(),
                }
            }
            Command::RdmaWrite(body) => {
                let mut data = Vec::new();
                for (offset, length) in ranges(tail, body.transfer.range_count.get()) {
                    let mut part = vec![0; length];
                    self.0.memory.read_exact_at(&mut part, offset).unwrap();
                    data.extend(part);
                }
                Seen::Write {
                    data,
                    quiet,
                    user_data,
                }
            }
            Command::RdmaRead(body) => Seen::Read {
                place: ranges(tail, body.transfer.range_count.get()),
                user_data,
            },
            Command::Disconnect(_) => Seen::Disconnect,
            other => panic!("{other:?}"),
        };
        self.0.seen.borrow_mut().push(seen);
    }
}

fn ranges(tail: &[u8], count: u16) -> Vec<(u64, usize)> {
    tail.chunks(16)
        .take(usize::from(count))
        .map(|bytes| usmbd::MemoryRange::read_from_bytes(bytes).unwrap())
        .map(|range| {
            let offset = u64::from(range.buffer.get()) << 20 | u64::from(range.offset.get());
            (offset, range.length.get() as usize)
        })
        .collect()
}

impl Device for Script {
    fn submit(&self, batch: &mut Batch<'_>) -> Result<usize> {
        if let Some(code) = self.0.refusal.take() {
            return Err(Error::Call {
                what: "write",
                error: io::Error::from_raw_os_error(code),
            });
        }
        let mut count = 0;
        let bytes = batch.to_bytes();
        let mut rest = &bytes[..];
        while !rest.is_empty() && self.0.room.get() != 0 {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            self.take(&rest[..length]);
            self.0.room.set(self.0.room.get() - 1);
            rest = &rest[length..];
            batch.drop_first();
            count += 1;
        }
        if count == 0 {
            return Err(Error::WouldBlock);
        }
        Ok(count)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut events = self.0.events.borrow_mut();
        let record = events.pop_front().ok_or(Error::WouldBlock)?;
        if record[4..6] == event::SendReady::OPCODE.to_le_bytes() {
            self.0.room.set(usize::MAX);
        }
        let bytes = 16 + record.len();
        let header = BatchHeader {
            count: 1.into(),
            bytes: (bytes as u32).into(),
            still_queued: (events.len() as u32).into(),
            ..Default::default()
        };
        buffer[..16].copy_from_slice(header.as_bytes());
        buffer[16..bytes].copy_from_slice(&record);
        Ok(bytes)
    }

    fn wait(&self, _: Interest, _: Option<Duration>) -> Result<Readiness> {
        Ok(Readiness {
            readable: !self.0.events.borrow().is_empty(),
            writable: true,
            ..Default::default()
        })
    }

    fn status(&self) -> Result<Option<ConnectionStatus>> {
        let negotiated = usmbd::Negotiated {
            max_fragmented_send_size: 173_910.into(),
            ..Default::default()
        };
        Ok(Some(ConnectionStatus {
            id: ConnectionId::new(7),
            state: self.0.state.get(),
            reason: None,
            fabric: usmbd::Fabric::RoCE,
            local: None,
            peer: None,
            negotiated,
            bytes_accepted: self.0.accepted.get(),
            bytes_completed: self.0.completed.get(),
        }))
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        Ok((self.0.accepted.get(), self.0.completed.get()))
    }

    fn area(&mut self) -> Result<SharedArea> {
        Ok(self.0.area.clone())
    }

    fn is_pinned(&self) -> bool {
        false
    }
}
