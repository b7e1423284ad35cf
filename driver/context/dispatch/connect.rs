// SPDX-License-Identifier: GPL-2.0-only

//! CONNECT and CONNECTED.

use super::{address, fabric, negotiated, socket_address, DEFAULT_IWARP_PORT, DEFAULT_PORT};
use crate::context::connection::Connection;
use crate::context::connector::{ConnectRequest, Way};
use crate::verbs::{NodeKind, SocketAddr};
use kernel::prelude::*;
use usmbd_abi::command;
use usmbd_abi::event;
use usmbd_abi::status::Status;

/// Port zero is the usual one of each kind of device; with another one any device will do.
pub(super) fn request(user_data: u64, body: &command::Connect) -> Result<ConnectRequest> {
    let way = |kind, port| Some(Way { kind, port });
    let port = body.peer.port.get();
    Ok(ConnectRequest {
        user_data,
        peer: address(&body.peer).ok_or(EINVAL)?.with_port(port),
        local: address(&body.local),
        ways: match port {
            0 => [
                way(Some(NodeKind::InfiniBandOrRoce), DEFAULT_PORT),
                way(Some(NodeKind::Iwarp), DEFAULT_IWARP_PORT),
            ],
            port => [way(None, port), None],
        },
    })
}

pub(super) fn connected(connection: &Connection) -> event::Connected {
    event::Connected {
        connection: connection.number().into(),
        status: Status::Ok.number().into(),
        fabric: fabric(connection.fabric()).into(),
        negotiated: negotiated(connection.negotiated().as_ref()),
        local: socket_address(connection.local()),
        peer: socket_address(connection.peer()),
    }
}

pub(super) fn failed(status: Status, peer: &SocketAddr) -> event::Connected {
    event::Connected {
        status: status.number().into(),
        peer: socket_address(peer),
        ..Default::default()
    }
}
