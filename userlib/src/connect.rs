// SPDX-License-Identifier: MIT OR Apache-2.0

//! The side that connects.

use crate::abi::event;
use crate::abi::{command, record::SocketAddress};
use crate::connection::ConnectionId;
use crate::{address, Batch, Connection, Context, Error, Established, Failure, Result};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Where to connect to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectOptions {
    /// The peer; port zero is 445 on InfiniBand and RoCE, and 5445 on iWARP.
    pub peer: SocketAddr,
    /// Our address, `None` to leave the choice to the routes. A link-local one has the peer's
    /// scope.
    pub local: Option<IpAddr>,
}

impl ConnectOptions {
    /// Connects to this address, from whichever of ours leads there.
    pub fn to(peer: SocketAddr) -> Self {
        Self { peer, local: None }
    }

    fn to_record(self) -> command::Connect {
        let scope = match self.peer {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(peer) => peer.scope_id(),
        };
        let local = match self.local {
            None => SocketAddress::default(),
            Some(IpAddr::V4(ip)) => address::to_record((ip, 0).into()),
            Some(IpAddr::V6(ip)) => address::to_record(SocketAddrV6::new(ip, 0, 0, scope).into()),
        };
        command::Connect {
            peer: address::to_record(self.peer),
            local,
            ..Default::default()
        }
    }
}

impl Batch<'_> {
    /// Connects to a peer, under the context's parameters. Completed by
    /// [`Connected`](crate::Event::Connected). Fails with `EAGAIN` while too many connects of the
    /// context are under way.
    pub fn connect(&mut self, options: &ConnectOptions, user_data: u64) -> Result<()> {
        self.record("CONNECT", user_data, options.to_record())
    }
}

impl<'c> Connection<'c> {
    /// Connects in `context`, which must be fresh: no listener, connection or reader; waits for the
    /// outcome. The events of the connection that follow stay queued.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is no connection: nobody listens there, or the peer is not one.
    pub fn connect(context: &'c Context, options: &ConnectOptions) -> Result<(Self, Established)> {
        let mut batch = Batch::new();
        batch.connect(options, 0)?;
        context.submit_all(&mut batch)?;
        let (_, connected) = context.answer::<event::Connected>()?;
        let connection = Self::new(context, ConnectionId::new(connected.connection.get()));
        Failure::check(connected.status.get(), ())
            .map(|()| (connection, from_record(&connected)))
            .map_err(|failure| Error::Failed {
                what: "CONNECT",
                failure,
            })
    }
}

pub(crate) fn from_record(record: &event::Connected) -> Established {
    Established::new(
        record.fabric.get(),
        record.negotiated,
        &record.local,
        &record.peer,
    )
}
