// SPDX-License-Identifier: GPL-2.0-only

//! How a connection of a listener comes to be.

use super::depths::depths_of;
use super::link::{self, Link};
use super::{registry, Connection, State, RETRY_COUNT, STATISTICS};
use crate::context::limits::Place;
use crate::context::listener::Listener;
use crate::verbs::{ConnParam, Incoming};
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_engine::read_depth::{NoReads, ReadDepths};
use usmbd_engine::Role;

/// RDMA reads that we post on the wire at once, at most; the peer and the device may allow fewer.
const INITIATOR_DEPTH: u8 = 16;

impl Connection {
    /// Takes a connect request: resources, one posted receive, accept. Runs in the CM handler.
    ///
    /// # Errors
    ///
    /// The CM refuses the peer: `ENOMEM`, `ENODEV`, `EINVAL` for private data that makes no sense, or
    /// what the device says.
    pub(crate) fn incoming(listener: &Arc<Listener>, incoming: Incoming<'_>) -> Result {
        let place = Place::of(listener)?;
        let bound = incoming.bound();
        let device = bound.device().ok_or(ENODEV)?;
        let parameters = listener.context().parameters();
        let capacity = link::Capacity::for_device(&device, &parameters)?;
        let mut state = State::new(Role::Passive, &parameters, &device, &capacity)?;
        state.listener = Some(listener.clone());
        let net = listener.context().net();
        let connection = Self::with_state_at(bound, net, device, state, Some(place))?;
        let own = ReadDepths {
            initiator_depth: INITIATOR_DEPTH,
            // The peer never reads our memory; some providers refuse zero.
            responder_resources: 1,
        };
        let param = incoming.param();
        let accepted = connection
            .read_depths(own)
            .accept(depths_of(param), connection.kind(), param.private_data())
            .map_err(|NoReads| EINVAL)?;
        connection.state.lock().depths = Some(accepted.depths);
        let conn_param = ConnParam {
            responder_resources: accepted.depths.responder_resources,
            initiator_depth: accepted.depths.initiator_depth,
            retry_count: RETRY_COUNT,
            rnr_retry_count: 0,
            private_data: accepted.private_data.as_ref().map_or(&[], |data| &data[..]),
        };
        let link = Link::accept(&connection, incoming, &capacity, &conn_param)
            .and_then(|link| registry::insert(&connection).map(|()| link))
            .inspect_err(|_| connection.discard())?;
        STATISTICS.connections.add(1);
        connection.state.lock().link = Some(link);
        // Completions that came before the link stood in its place wait for this turn.
        connection.enqueue();
        Ok(())
    }
}
