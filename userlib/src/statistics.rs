// SPDX-License-Identifier: MIT OR Apache-2.0

//! Counters, and what operators ask.

use crate::abi::command;
use crate::abi::event::{self, Counters};
use crate::connection::{ConnectionId, Fabric};
use crate::{address, Batch, Context, Error, Event, Events, Result};
use std::net::SocketAddr;
use zerocopy::FromBytes;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// No valid Negotiate Request yet.
    Negotiating,
    /// The driver reads its first messages.
    Routing,
    /// A ticket is out.
    Offered,
    /// A context has it.
    Serving,
    /// Its context was closed; what was accepted is still sent.
    Lingering,
    /// It is being taken down.
    Draining,
    /// A context asked for it, and the peer has not agreed yet.
    Connecting,
    /// Not known to this library.
    Unknown(u32),
}

impl Phase {
    fn from_number(number: u32) -> Self {
        match number {
            event::PHASE_NEGOTIATING => Self::Negotiating,
            event::PHASE_ROUTING => Self::Routing,
            event::PHASE_OFFERED => Self::Offered,
            event::PHASE_SERVING => Self::Serving,
            event::PHASE_LINGERING => Self::Lingering,
            event::PHASE_DRAINING => Self::Draining,
            event::PHASE_CONNECTING => Self::Connecting,
            other => Self::Unknown(other),
        }
    }
}

/// A connection, as an operator sees it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its number.
    pub connection: ConnectionId,
    /// How far it has come.
    pub phase: Phase,
    /// What it runs on.
    pub fabric: Fabric,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// Name of the RDMA device.
    pub device: String,
    /// User id of the opener of the context that has it, in the asker's user namespace; the
    /// overflow id if nobody has it.
    pub uid: u32,
    /// PDUs that we may send.
    pub send_credits: u16,
    /// PDUs that the peer may send.
    pub receive_credits: u16,
    /// Bytes of kernel memory of its own.
    pub memory: u64,
    /// What happened on it.
    pub counters: Counters,
}

impl ConnectionInfo {
    fn from_record(record: &event::ConnectionInfo) -> Self {
        let name = record.device.split(|byte| *byte == 0).next();
        Self {
            connection: ConnectionId::new(record.connection.get()),
            phase: Phase::from_number(record.phase.get()),
            fabric: Fabric::from_number(record.fabric.get()),
            local: address::from_record(&record.local),
            peer: address::from_record(&record.peer),
            device: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
            uid: record.uid.get(),
            send_credits: record.send_credits.get(),
            receive_credits: record.receive_credits.get(),
            memory: record.memory.get(),
            counters: record.counters,
        }
    }
}

/// Some of the connections that there are, in the order of their numbers.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionList<'a> {
    entries: &'a [event::ConnectionInfo],
    left: u32,
}

impl<'a> ConnectionList<'a> {
    pub(crate) fn from_record(record: &event::Connections, tail: &'a [u8]) -> Result<Self> {
        let count = record.count.get() as usize;
        let (entries, _) = <[event::ConnectionInfo]>::ref_from_prefix_with_elems(tail, count)
            .map_err(|_| Error::Malformed("fewer connections than it says"))?;
        Ok(Self {
            entries,
            left: record.left.get(),
        })
    }

    /// The connections.
    pub fn iter(&self) -> impl Iterator<Item = ConnectionInfo> + 'a {
        self.entries.iter().map(ConnectionInfo::from_record)
    }

    /// Connections with greater numbers that did not fit: ask again after the last one's.
    pub fn left(&self) -> u32 {
        self.left
    }
}

impl Batch<'_> {
    /// Asks for counters: a connection's, or with `None` those of the whole context. Completed by
    /// [`Statistics`](crate::Event::Statistics). Fails with `ENOENT` if the context has no such
    /// connection.
    pub fn query_statistics(
        &mut self,
        connection: Option<ConnectionId>,
        user_data: u64,
    ) -> Result<()> {
        let connection = connection.map_or(0, ConnectionId::number).into();
        let body = command::QueryStatistics { connection };
        self.record("QUERY_STATISTICS", user_data, body)
    }

    /// Asks for the connections of the context's network namespace, whoever has them, of which the
    /// number is greater than that of `after`. Completed by
    /// [`Connections`](crate::Event::Connections). Fails with `EPERM` unless the opener had
    /// CAP_NET_ADMIN.
    pub fn list_connections(&mut self, after: Option<ConnectionId>, user_data: u64) -> Result<()> {
        let after = after.map_or(0, ConnectionId::number).into();
        let body = command::ListConnections { after };
        self.record("LIST_CONNECTIONS", user_data, body)
    }

    /// Disconnects a connection of the context's network namespace, whoever has it. No event. Fails
    /// with `EPERM` unless the opener had CAP_NET_ADMIN, and with `ENOENT`.
    pub fn drop_connection(&mut self, connection: ConnectionId) -> Result<()> {
        let connection = connection.number().into();
        self.record("DROP", 0, command::Drop { connection })
    }
}

/// Bytes of one read() that returns as many connections as one event can list.
const LIST_ROOM: usize = 40 + event::MAX_LISTED as usize * size_of::<event::ConnectionInfo>();

impl Context {
    /// A connection's counters, or with `None` those of the context; waits for the answer, as
    /// [`hello`](Self::hello) does.
    ///
    /// # Errors
    ///
    /// As [`hello`](Self::hello); [`Error::Call`] with `ENOENT`.
    pub fn statistics(&self, connection: Option<ConnectionId>) -> Result<Counters> {
        let mut batch = Batch::new();
        batch.query_statistics(connection, 0)?;
        self.submit_all(&mut batch)?;
        let (_, statistics) = self.answer::<event::Statistics>()?;
        Ok(statistics.counters)
    }

    /// All connections of the context's network namespace; waits for the answers. The context must
    /// be fresh: no listener, connection or reader.
    ///
    /// # Errors
    ///
    /// As [`hello`](Self::hello); [`Error::Call`] with `EPERM` unless the opener had CAP_NET_ADMIN.
    pub fn connections(&self) -> Result<Vec<ConnectionInfo>> {
        let mut all: Vec<ConnectionInfo> = Vec::new();
        loop {
            let mut batch = Batch::new();
            batch.list_connections(all.last().map(|info| info.connection), 0)?;
            self.submit_all(&mut batch)?;
            let mut room = vec![0; LIST_ROOM];
            let length = self.read_waiting(&mut room)?;
            let mut events = Events::parse(&room[..length])?;
            let Some(Event::Connections { list, .. }) = events.next() else {
                return Err(Error::Malformed("another event came before the answer"));
            };
            let before = all.len();
            all.extend(list.iter());
            if list.left() == 0 || all.len() == before {
                return Ok(all);
            }
        }
    }
}
