// SPDX-License-Identifier: MIT OR Apache-2.0

//! Listeners, and connections that wait to be accepted.

use crate::abi::command;
use crate::abi::event;
use crate::abi::record::{BatchHeader, Header, SocketAddress};
use crate::connection::{ConnectionId, Fabric};
use crate::routing::Unclaimed;
use crate::{address, Batch, Context, Error, Event, Events, Failure, Result};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// A listener of a context; the number has a meaning only there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ListenerId(pub(crate) u32);

impl ListenerId {
    /// From the number in a record.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// As it stands in a record.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// The right to take one connection, once, within 30 seconds, into any context. Whoever knows it
/// can: treat it as a secret.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Ticket(pub(crate) [u8; 16]);

impl Ticket {
    /// From the bytes in a record.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As it stands in a record.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(..)")
    }
}

/// How a listener hands over connections.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// By ticket, before their negotiation is answered.
    #[default]
    Ticket,
    /// To the context that has claimed their client or session, which the driver learns from their
    /// first SMB2 messages; those that nobody has claimed, by ticket.
    Route,
}

/// Where and how to listen. The default is every address, port 445 (5445 on iWARP), by ticket,
/// backlog 64.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ListenOptions {
    /// Address to listen on, `None` for all of both families. For a link-local address the scope
    /// must be set.
    pub address: Option<IpAddr>,
    /// Interface index of a link-local `address`, else zero.
    pub scope: u32,
    /// Port on InfiniBand and RoCE; zero for 445.
    pub port: u16,
    /// Port on iWARP; zero for 5445.
    pub iwarp_port: u16,
    /// How connections are handed over.
    pub mode: Mode,
    /// Connections that wait to be accepted at most, up to 4096; zero for 64.
    pub backlog: u16,
}

impl ListenOptions {
    /// Listens on this address and, on InfiniBand and RoCE, on this port.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address: Some(address.ip()),
            scope: match address {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(address) => address.scope_id(),
            },
            port: address.port(),
            ..Self::default()
        }
    }

    pub(crate) fn to_record(self) -> command::Listen {
        let address = match self.address {
            None => SocketAddress {
                port: self.port.into(),
                ..SocketAddress::default()
            },
            Some(IpAddr::V4(ip)) => address::to_record((ip, self.port).into()),
            Some(IpAddr::V6(ip)) => {
                address::to_record(SocketAddrV6::new(ip, self.port, 0, self.scope).into())
            }
        };
        command::Listen {
            address,
            iwarp_port: self.iwarp_port.into(),
            mode: match self.mode {
                Mode::Ticket => command::MODE_TICKET,
                Mode::Route => command::MODE_ROUTE,
            }
            .into(),
            backlog: self.backlog.into(),
            ..Default::default()
        }
    }
}

/// A peer has connected and sent a valid Negotiate Request. It gets its answer when it is accepted,
/// or has got it already from a listener in [`Mode::Route`].
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Whose.
    pub listener: ListenerId,
    /// The connection's number, which it keeps.
    pub connection: ConnectionId,
    /// For [`Batch::accept`] or [`Batch::reject`].
    pub ticket: Ticket,
    /// What it runs on.
    pub fabric: Fabric,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// In [`Mode::Route`]: what its first messages say. They follow
    /// [`Accepted`](crate::Event::Accepted).
    pub unclaimed: Option<Unclaimed>,
}

impl Ready {
    pub(crate) fn from_record(record: &event::ConnectionReady) -> Self {
        Self {
            listener: ListenerId(record.listener.get()),
            connection: ConnectionId::new(record.connection.get()),
            ticket: Ticket(record.ticket),
            fabric: Fabric::from_number(record.fabric.get()),
            local: address::from_record(&record.local),
            peer: address::from_record(&record.peer),
            unclaimed: Unclaimed::from_record(record),
        }
    }
}

/// Bytes of one read() that returns one CONNECTION_READY.
const READY_ROOM: usize =
    size_of::<BatchHeader>() + size_of::<Header>() + size_of::<event::ConnectionReady>();

/// A listener that is alone in its context: the simple way to listen.
///
/// Servers that keep listeners and connections in one context use [`Batch::listen`] and their event
/// loop instead.
#[derive(Debug)]
pub struct Listener {
    context: Context,
    id: ListenerId,
}

impl Listener {
    /// Listens in `context`, which must be fresh: no other listener, connection or reader; waits for the
    /// outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] (address in use, or not of this host: then the text points to `rdma link`), [`Error::Call`] with
    /// `EACCES` for a port below 1024.
    pub fn open(context: Context, options: &ListenOptions) -> Result<Self> {
        let mut batch = Batch::new();
        batch.listen(options, 0)?;
        context.submit_all(&mut batch)?;
        let (_, listening) = context.answer::<event::Listening>()?;
        let id = Failure::check(listening.status.get(), listening.listener.get())
            .map(ListenerId)
            .map_err(|failure| Error::Failed {
                what: "LISTEN",
                failure,
            })?;
        Ok(Self { context, id })
    }

    /// Its number.
    pub fn id(&self) -> ListenerId {
        self.id
    }

    /// Its context: poll it, read its events.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Waits for a connection; the descriptor decides whether it waits at all.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] if the descriptor is `O_NONBLOCK` and none is there.
    pub fn next(&self, wait: crate::Wait) -> Result<Ready> {
        loop {
            // Room for this event and nothing besides, which would be lost.
            let mut room = [0; READY_ROOM];
            let length = self.context.read(&mut room, wait)?;
            for event in Events::parse(&room[..length])? {
                match event {
                    Event::ConnectionReady(ready) => return Ok(ready),
                    Event::ListenerChanged { .. } => (),
                    _ => return Err(Error::Malformed("an event that no listener has")),
                }
            }
        }
    }
}
