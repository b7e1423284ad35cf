// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections.

use crate::abi::command;
use crate::abi::event;
use crate::abi::memory::{BufferDescriptorV1, MemoryRange, Negotiated};
use crate::abi::record::{self, SocketAddress};
use crate::{address, Batch, Context, Error, Failure, Result, SendOptions, Ticket, Wait};
use std::net::SocketAddr;

/// A connection. The number is never used twice while the module is loaded.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// From the number in a record.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// As it stands in a record.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A key (rkey, STag) for the peer's memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Token(pub u32);

/// What a connection runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fabric {
    /// InfiniBand.
    InfiniBand,
    /// RDMA over Ethernet.
    RoCE,
    /// RDMA over TCP.
    IWarp,
    /// Not known to this library.
    Unknown(u32),
}

impl Fabric {
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            record::FABRIC_INFINIBAND => Self::InfiniBand,
            record::FABRIC_ROCE => Self::RoCE,
            record::FABRIC_IWARP => Self::IWarp,
            other => Self::Unknown(other),
        }
    }
}

/// Parameters of connections, for [`Batch::set_parameters`]; sizes in bytes. Zero leaves a parameter
/// as it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Parameters {
    /// Receives posted for the peer at most, 1..=255 (ReceiveCreditMax).
    pub receive_credit_max: u32,
    /// Credits we ask the peer for, 1..=255 (SendCreditTarget).
    pub send_credit_target: u32,
    /// Largest PDU to send, 128..=4096 (MaxSendSize).
    pub max_send_size: u32,
    /// Largest PDU to receive, 128..=4096 (MaxReceiveSize).
    pub max_receive_size: u32,
    /// Largest message to receive, 131072..=16777216 (MaxFragmentedRecvSize).
    pub max_fragmented_recv_size: u32,
    /// Most bytes of one RDMA transfer, 4096..=16777216 (MaxReadWriteSize).
    pub max_read_write_size: u32,
    /// Milliseconds of silence after which the peer is probed, 1000..=3600000 (KeepaliveInterval).
    pub keepalive_interval: u32,
}

impl Parameters {
    pub(crate) fn to_record(self) -> command::SetParameters {
        command::SetParameters {
            receive_credit_max: self.receive_credit_max.into(),
            send_credit_target: self.send_credit_target.into(),
            max_send_size: self.max_send_size.into(),
            max_receive_size: self.max_receive_size.into(),
            max_fragmented_recv_size: self.max_fragmented_recv_size.into(),
            max_read_write_size: self.max_read_write_size.into(),
            keepalive_interval: self.keepalive_interval.into(),
            ..Default::default()
        }
    }
}

/// What is known of a connection once it was made or accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Established {
    /// What it runs on.
    pub fabric: Fabric,
    /// What negotiation made of both sides' parameters.
    pub negotiated: Negotiated,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
}

impl Established {
    pub(crate) fn from_record(record: &event::Accepted) -> Self {
        Self::new(
            record.fabric.get(),
            record.negotiated,
            &record.local,
            &record.peer,
        )
    }

    pub(crate) fn new(
        fabric: u32,
        negotiated: Negotiated,
        local: &SocketAddress,
        peer: &SocketAddress,
    ) -> Self {
        Self {
            fabric: Fabric::from_number(fabric),
            negotiated,
            local: address::from_record(local),
            peer: address::from_record(peer),
        }
    }
}

/// One connection of a context; commands one at a time. ([`Batch`] takes many in one call.)
///
/// Every method hands over one command at once. [`Error::WouldBlock`]: nothing was taken, and it is to
/// be tried again when [`SendReady`](crate::Event::SendReady) comes, which says so if the
/// connection's send queue was full, or when the context is [writable](crate::Readiness) again, if it
/// was that it has no room for more commands. Other errors are those of [`Context::submit`].
#[derive(Clone, Copy, Debug)]
pub struct Connection<'c> {
    context: &'c Context,
    id: ConnectionId,
}

impl<'c> Connection<'c> {
    /// The connection `id` of `context`.
    pub fn new(context: &'c Context, id: ConnectionId) -> Self {
        Self { context, id }
    }

    /// Accepts into `context`, which must be fresh: no listener, connection or reader; waits for
    /// the outcome. The events of the connection that follow stay queued.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if the connection ended meanwhile; [`Error::Call`] with `ENOENT` for a ticket
    /// that is not good any more.
    pub fn accept(context: &'c Context, ticket: Ticket) -> Result<(Self, Established)> {
        let mut batch = Batch::new();
        batch.accept(ticket, 0)?;
        context.submit_all(&mut batch)?;
        let (_, accepted) = context.answer::<event::Accepted>()?;
        let connection = Self::new(context, ConnectionId::new(accepted.connection.get()));
        Failure::check(accepted.status.get(), ())
            .map(|()| (connection, Established::from_record(&accepted)))
            .map_err(|failure| Error::Failed {
                what: "ACCEPT",
                failure,
            })
    }

    /// Its number.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// See [`Batch::send_with`].
    ///
    /// # Errors
    ///
    /// See [`Connection`].
    pub fn send(
        &self,
        user_data: u64,
        options: SendOptions,
        parts: &[&[u8]],
        wait: Wait,
    ) -> Result<()> {
        self.one(wait, |batch| {
            batch.send_with(self.id, user_data, options, parts)
        })
    }

    /// See [`Batch::send_ranges`].
    ///
    /// # Errors
    ///
    /// See [`Connection`].
    pub fn send_ranges(
        &self,
        user_data: u64,
        options: SendOptions,
        ranges: &[MemoryRange],
        wait: Wait,
    ) -> Result<()> {
        self.one(wait, |batch| {
            batch.send_ranges(self.id, user_data, options, ranges)
        })
    }

    /// See [`Batch::rdma_read`].
    ///
    /// # Errors
    ///
    /// See [`Connection`].
    pub fn rdma_read(
        &self,
        user_data: u64,
        ranges: &[MemoryRange],
        descriptors: &[BufferDescriptorV1],
        wait: Wait,
    ) -> Result<()> {
        self.one(wait, |batch| {
            batch.rdma_read(self.id, user_data, false, ranges, descriptors)
        })
    }

    /// See [`Batch::rdma_write`].
    ///
    /// # Errors
    ///
    /// See [`Connection`].
    pub fn rdma_write(
        &self,
        user_data: u64,
        ranges: &[MemoryRange],
        descriptors: &[BufferDescriptorV1],
        wait: Wait,
    ) -> Result<()> {
        self.one(wait, |batch| {
            batch.rdma_write(self.id, user_data, false, ranges, descriptors)
        })
    }

    /// See [`Batch::disconnect`].
    ///
    /// # Errors
    ///
    /// See [`Connection`].
    pub fn disconnect(&self, user_data: u64) -> Result<()> {
        self.one(Wait::No, |batch| batch.disconnect(self.id, user_data))
    }

    fn one<'p>(&self, wait: Wait, fill: impl FnOnce(&mut Batch<'p>) -> Result<()>) -> Result<()> {
        let mut batch = Batch::new();
        fill(&mut batch)?;
        self.context.submit(&mut batch, wait)?;
        Ok(())
    }
}
