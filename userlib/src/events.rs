// SPDX-License-Identifier: MIT OR Apache-2.0

//! Events on their way to the server.

use crate::abi::event::{self, Counters, Event as Record};
use crate::abi::record::{BatchHeader, Header};
use crate::connection::{ConnectionId, Established, Token};
use crate::listener::{ListenerId, Ready};
use crate::registration::{MemoryHandle, Registered};
use crate::routing::{Answered, Routed};
use crate::statistics::ConnectionList;
use crate::{connect, Context, EndReason, Error, Failure, Features, Result, Wait};
use zerocopy::FromBytes;

/// What happened. `user_data` is that of the command that the event completes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Completes HELLO.
    HelloDone {
        /// Of the command.
        user_data: u64,
        /// Version in use, major in the upper 16 bits.
        version: u32,
        /// Features in use.
        features: Features,
    },
    /// Completes NOP.
    NopDone {
        /// Of the command.
        user_data: u64,
    },
    /// Completes GET_MEMORY_PARAMETERS.
    MemoryParameters {
        /// Of the command.
        user_data: u64,
        /// What may be mapped.
        parameters: MemoryParameters,
    },
    /// Completes REGISTER_MEMORY.
    MemoryRegistered {
        /// Of the command.
        user_data: u64,
        /// What names it.
        registered: Registered,
    },
    /// Completes UNREGISTER_MEMORY: the memory is the caller's alone again.
    MemoryUnregistered {
        /// Of the command.
        user_data: u64,
        /// Which; the number may be given out again.
        handle: MemoryHandle,
    },
    /// Completes LISTEN.
    Listening {
        /// Of the command.
        user_data: u64,
        /// The listener, if there is one.
        outcome: std::result::Result<ListenerId, Failure>,
    },
    /// Completes CLOSE_LISTENER; that listener's last event.
    ListenerClosed {
        /// Of the command; zero if the listener ended of itself.
        user_data: u64,
        /// Which.
        listener: ListenerId,
    },
    /// The RDMA devices of a listener: comes once after [`Listening`](Self::Listening), then
    /// whenever one came or went.
    ListenerChanged {
        /// Which.
        listener: ListenerId,
        /// InfiniBand and RoCE devices that it serves now.
        infiniband_devices: u16,
        /// iWARP devices that it serves now.
        iwarp_devices: u16,
    },
    /// A connection waits to be accepted.
    ConnectionReady(Ready),
    /// A connection that this context has claimed is its own now.
    ConnectionRouted(Routed),
    /// The driver answered the NEGOTIATE request before this event from a template.
    NegotiateAnswered(Answered<'a>),
    /// Completes ACCEPT.
    Accepted {
        /// Of the command.
        user_data: u64,
        /// Which.
        connection: ConnectionId,
        /// If it failed, [`Disconnected`](Self::Disconnected) follows.
        outcome: std::result::Result<Established, Failure>,
    },
    /// Completes CONNECT.
    Connected {
        /// Of the command.
        user_data: u64,
        /// Which, and what is known of it; if it failed, there is none.
        outcome: std::result::Result<(ConnectionId, Established), Failure>,
    },
    /// A message, or a piece of one, came.
    PduReceived(Piece<'a>),
    /// Completes SEND_PDU.
    PduSent {
        /// Of the command.
        user_data: u64,
        /// Which.
        connection: ConnectionId,
        /// Whether the peer's device took it.
        outcome: std::result::Result<(), Failure>,
    },
    /// Completes RDMA_READ or RDMA_WRITE: the ranges are the caller's again.
    RdmaComplete {
        /// Of the command.
        user_data: u64,
        /// Which.
        connection: ConnectionId,
        /// Bytes that moved; after a failure, how many did is not known.
        outcome: std::result::Result<u32, Failure>,
    },
    /// The connection ended; its last event.
    Disconnected {
        /// Of the DISCONNECT, if that was the cause.
        user_data: u64,
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: EndReason,
    },
    /// A command for this connection that got [`Error::WouldBlock`] may be tried again.
    SendReady {
        /// Which.
        connection: ConnectionId,
    },
    /// Completes QUERY_STATISTICS.
    Statistics {
        /// Of the command.
        user_data: u64,
        /// Which; `None` for the whole context.
        connection: Option<ConnectionId>,
        /// What happened on it.
        counters: Counters,
    },
    /// Completes LIST_CONNECTIONS.
    Connections {
        /// Of the command.
        user_data: u64,
        /// Some of the connections.
        list: ConnectionList<'a>,
    },
}

/// What may be mapped, and where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryParameters {
    /// Where in the device the registration area starts.
    pub area_offset: u64,
    /// Where in the device the status page starts.
    pub status_page_offset: u64,
    /// Buffers that the area has room for.
    pub buffer_count: u32,
    /// Bytes of one.
    pub buffer_size: u32,
    /// Bytes of the status page.
    pub status_page_length: u32,
}

impl MemoryParameters {
    pub(crate) fn from_record(record: &event::MemoryParameters) -> Self {
        Self {
            area_offset: record.area_offset.get(),
            status_page_offset: record.status_page_offset.get(),
            buffer_count: record.buffer_count.get(),
            buffer_size: record.buffer_size.get(),
            status_page_length: record.status_page_length.get(),
        }
    }
}

/// A piece of a message. Pieces come in order, with no other message's between them on the same
/// connection.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Which.
    pub connection: ConnectionId,
    /// Bytes of the whole message.
    pub total: u32,
    /// Where in the message this piece starts.
    pub offset: u32,
    /// The piece.
    pub payload: &'a [u8],
    /// Key of ours that the peer invalidated with this message.
    pub invalidated: Option<Token>,
}

impl Piece<'_> {
    /// Whether the message ends here.
    pub fn is_last(&self) -> bool {
        self.offset as usize + self.payload.len() >= self.total as usize
    }

    /// Whether it is the whole message.
    pub fn is_whole(&self) -> bool {
        self.offset == 0 && self.is_last()
    }
}

impl<'a> Event<'a> {
    /// Decodes a record without its header. `None` for a kind that this library does not know.
    fn decode(header: &Header, rest: &'a [u8]) -> Result<Option<Self>> {
        let user_data = header.user_data.get();
        let record = Record::decode(header, rest)
            .ok_or(Error::Malformed("an event shorter than its body"))?;
        Ok(Some(match record {
            Record::HelloDone(body, _) => Self::HelloDone {
                user_data,
                version: body.version.get(),
                features: Features::from_bits(body.features.get()),
            },
            Record::NopDone(..) => Self::NopDone { user_data },
            Record::MemoryParameters(body, _) => Self::MemoryParameters {
                user_data,
                parameters: MemoryParameters::from_record(&body),
            },
            Record::MemoryRegistered(body, _) => Self::MemoryRegistered {
                user_data,
                registered: Registered::from_record(&body),
            },
            Record::MemoryUnregistered(body, _) => Self::MemoryUnregistered {
                user_data,
                handle: MemoryHandle::new(body.handle.get()),
            },
            Record::Listening(body, _) => Self::Listening {
                user_data,
                outcome: Failure::check(body.status.get(), ListenerId(body.listener.get())),
            },
            Record::ListenerClosed(body, _) => Self::ListenerClosed {
                user_data,
                listener: ListenerId(body.listener.get()),
            },
            Record::ListenerChanged(body, _) => Self::ListenerChanged {
                listener: ListenerId(body.listener.get()),
                infiniband_devices: body.infiniband_devices.get(),
                iwarp_devices: body.iwarp_devices.get(),
            },
            Record::ConnectionReady(body, _) => Self::ConnectionReady(Ready::from_record(&body)),
            Record::ConnectionRouted(body, _) => Self::ConnectionRouted(Routed::from_record(&body)),
            Record::NegotiateAnswered(body, tail) => {
                Self::NegotiateAnswered(Answered::from_record(&body, tail)?)
            }
            Record::Accepted(body, _) => Self::Accepted {
                user_data,
                connection: ConnectionId::new(body.connection.get()),
                outcome: Failure::check(body.status.get(), Established::from_record(&body)),
            },
            Record::Connected(body, _) => Self::Connected {
                user_data,
                outcome: Failure::check(
                    body.status.get(),
                    (
                        ConnectionId::new(body.connection.get()),
                        connect::from_record(&body),
                    ),
                ),
            },
            Record::PduReceived(body, tail) => {
                let payload = tail
                    .get(..body.payload_length.get() as usize)
                    .ok_or(Error::Malformed("a piece shorter than it says"))?;
                let end = body.offset.get().checked_add(body.payload_length.get());
                if end.is_none_or(|end| end > body.total.get()) {
                    return Err(Error::Malformed("a piece that reaches past its message"));
                }
                let invalidated = header.flags.get() & event::INVALIDATED != 0;
                Self::PduReceived(Piece {
                    connection: ConnectionId::new(body.connection.get()),
                    total: body.total.get(),
                    offset: body.offset.get(),
                    payload,
                    invalidated: invalidated.then(|| Token(body.invalidated_token.get())),
                })
            }
            Record::PduSent(body, _) => Self::PduSent {
                user_data,
                connection: ConnectionId::new(body.connection.get()),
                outcome: Failure::check(body.status.get(), ()),
            },
            Record::RdmaComplete(body, _) => Self::RdmaComplete {
                user_data,
                connection: ConnectionId::new(body.connection.get()),
                outcome: Failure::check(body.status.get(), body.length.get()),
            },
            Record::Disconnected(body, _) => Self::Disconnected {
                user_data,
                connection: ConnectionId::new(body.connection.get()),
                reason: EndReason::new(body.reason.get()),
            },
            Record::SendReady(body, _) => Self::SendReady {
                connection: ConnectionId::new(body.connection.get()),
            },
            Record::Statistics(body, _) => Self::Statistics {
                user_data,
                connection: Some(body.connection.get())
                    .filter(|number| *number != 0)
                    .map(ConnectionId::new),
                counters: body.counters,
            },
            Record::Connections(body, tail) => Self::Connections {
                user_data,
                list: ConnectionList::from_record(&body, tail)?,
            },
            Record::Unknown => return Ok(None),
        }))
    }
}

/// Room for batches of events, used again and again.
#[derive(Debug)]
pub struct EventBuffer {
    bytes: Vec<u8>,
}

/// Enough for a piece of 256 KiB, or some thousand completions.
const DEFAULT_CAPACITY: usize = 256 << 10;
/// Enough for every event without payload, and for a piece of the size of a PDU.
const LEAST_CAPACITY: usize = 8 << 10;

impl Default for EventBuffer {
    /// 256 KiB.
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl EventBuffer {
    /// Room for this many bytes, but at least 8 KiB. The larger, the fewer pieces a long message
    /// comes in: 1 MiB and 4 KiB takes a message of 1 MiB whole, if it has arrived.
    pub fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity.max(LEAST_CAPACITY)],
        }
    }

    /// Reads what is queued, as much as there is room for.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] if nothing is queued and waiting is not allowed; [`Error::Malformed`]
    /// if the driver broke its own rules.
    pub fn read(&mut self, context: &Context, wait: Wait) -> Result<Events<'_>> {
        let length = match context.read(&mut self.bytes, wait) {
            Err(error) if error.errno() == libc::EMSGSIZE => {
                let room = self.bytes.len().saturating_mul(2);
                self.bytes.resize(room, 0);
                context.read(&mut self.bytes, wait)?
            }
            other => other?,
        };
        Events::parse(&self.bytes[..length])
    }
}

/// The events of one read(), in order. Kinds that this library does not know are skipped.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    header: BatchHeader,
    rest: &'a [u8],
}

impl<'a> Events<'a> {
    /// Parses what [`Context::read`] returned, and checks that it is whole.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let (header, records) = BatchHeader::read_from_prefix(bytes)
            .map_err(|_| Error::Malformed("a read shorter than its header"))?;
        if header.bytes.get() as usize != bytes.len() {
            return Err(Error::Malformed("a batch that is not as long as it says"));
        }
        let mut count = 0;
        let mut rest = records;
        while !rest.is_empty() {
            let (header, body, next) = split(rest)?;
            Event::decode(&header, body)?;
            count += 1;
            rest = next;
        }
        if count != header.count.get() {
            return Err(Error::Malformed("a batch with other events than it says"));
        }
        Ok(Self {
            header,
            rest: records,
        })
    }

    /// Events of the whole batch, those of unknown kinds included.
    pub(crate) fn count_all(&self) -> u32 {
        self.header.count.get()
    }

    /// Events that were still queued when these were read.
    pub fn still_queued(&self) -> u32 {
        self.header.still_queued.get()
    }

    /// Bytes that the next one of those needs (its batch header not included); zero if there is none. More
    /// may be there by the time it is read.
    pub fn next_length(&self) -> u32 {
        self.header.next_length.get()
    }
}

/// Header, what follows it in the record, and what follows the record.
fn split(bytes: &[u8]) -> Result<(Header, &[u8], &[u8])> {
    let (header, _) = Header::read_from_prefix(bytes)
        .map_err(|_| Error::Malformed("a record shorter than its header"))?;
    let length = header.length.get() as usize;
    let (record, next) = bytes
        .split_at_checked(length)
        .ok_or(Error::Malformed("a record that reaches past its batch"))?;
    let body = record
        .get(size_of::<Header>()..)
        .ok_or(Error::Malformed("a record shorter than its header"))?;
    Ok((header, body, next))
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        while !self.rest.is_empty() {
            // Parsed once already, so neither fails.
            let (header, body, next) = split(self.rest).ok()?;
            self.rest = next;
            if let Some(event) = Event::decode(&header, body).ok()? {
                return Some(event);
            }
        }
        None
    }
}
