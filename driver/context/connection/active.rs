// SPDX-License-Identifier: GPL-2.0-only

//! The connections that a context asked for: made when the route to the peer is known, and the
//! context's once the peer has agreed.

use super::link::{Capacity, Link, SPARE_RECEIVES};
use super::receive::ReceiveBuffers;
use super::{
    Connection, Event, Later, Phase, ReadDepths, Role, State, Time, OWN_SLOTS, STATISTICS,
};
use crate::compat;
use crate::context::connector::Connector;
use crate::context::{registry, Place};
use crate::verbs::{Bound, CmFailure, ConnParam, Id, Resolved};
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::memory::STATE_ESTABLISHED;
use usmbd_abi::status::{Reason, Status};
use usmbd_engine::Parameters;

/// The peer places data and we do not, so neither reads; some providers refuse zero.
pub(super) const NO_READS: ReadDepths = ReadDepths {
    initiator_depth: 1,
    responder_resources: 1,
};

/// How far connecting has come.
pub(super) struct Connecting {
    connector: Arc<Connector>,
    /// Where the context will have it.
    place: Place,
    /// What the connection manager said, if it said no.
    failure: Option<CmFailure>,
}

impl Connection {
    /// Event slots of a connection under these parameters.
    pub(crate) fn slots(parameters: &Parameters) -> usize {
        usize::from(parameters.receive_credit_max)
            .saturating_add(SPARE_RECEIVES.into())
            .saturating_add(OWN_SLOTS)
    }

    /// Makes a connection on the device that leads to the peer, takes the id over, and connects.
    /// Runs in the id's handler.
    ///
    /// # Errors
    ///
    /// The id comes back, and nothing is left of the connection: `ENOMEM`, `ENODEV` if the device
    /// goes away, or what the device says.
    pub(crate) fn connect(
        connector: &Arc<Connector>,
        resolved: Resolved<'_>,
        id: Id<Connector>,
    ) -> Result<Arc<Self>, (Error, Id<Connector>)> {
        let (connection, link) = match Self::prepare(connector, resolved.bound(), &id) {
            Ok(prepared) => prepared,
            Err(error) => return Err((error, id)),
        };
        if let Err(error) = registry::insert(&connection) {
            drop(link);
            connection.discard();
            return Err((error, id));
        }
        let id = match resolved.hand_over(id, connection.clone()) {
            Ok(id) => id,
            Err(id) => {
                registry::remove(connection.number);
                drop(link);
                connection.discard();
                return Err((EINVAL, id));
            }
        };
        let depths = connection.read_depths(NO_READS);
        let private_data = depths.request(connection.kind());
        let param = ConnParam {
            responder_resources: depths.responder_resources,
            initiator_depth: depths.initiator_depth,
            retry_count: super::RETRY_COUNT,
            rnr_retry_count: 0,
            private_data: private_data.as_ref().map_or(&[], |data| &data[..]),
        };
        STATISTICS.connections.add(1);
        let link = link.join(id);
        if let Err(error) = link.connect(&param) {
            // siw connects in the call itself, and no event tells of a failure.
            connection.state.lock().news.failed = Some(failure_of(error));
        }
        // Given away, not cloned: the last reference destroys the id, which waits for this handler.
        connection.state.lock().link = Some(link);
        // Completions that came before the link stood in its place wait for this turn.
        connection.enqueue();
        Ok(connection)
    }

    /// All that can fail before the id is handed over.
    fn prepare(
        connector: &Arc<Connector>,
        bound: &Bound<'_>,
        id: &Id<Connector>,
    ) -> Result<(Arc<Self>, super::link::Unjoined)> {
        let device = bound.device().ok_or(ENODEV)?;
        let parameters = connector.parameters();
        let capacity = Capacity::for_device(&device, parameters)?;
        let count = parameters.receive_credit_max.saturating_add(SPARE_RECEIVES);
        let mut state = State::new(Role::Active, parameters, &device, &capacity)?;
        state.receives.set_buffers(ReceiveBuffers::new(
            &device,
            count,
            parameters.max_receive_size,
        )?);
        state.phase = Phase::Connecting;
        state.owner = Some(connector.context().clone());
        state.accept_user_data = connector.user_data();
        state.slots = connector.slots();
        state.connecting = Some(Connecting {
            connector: connector.clone(),
            place: Place::new(GFP_KERNEL_ACCOUNT)?,
            failure: None,
        });
        let net = connector.context().net();
        let connection = Self::with_state_at(bound, net, device, state, None)?;
        let link =
            Link::prepare(&connection, id, &capacity).inspect_err(|_| connection.discard())?;
        Ok((connection, link))
    }

    /// The peer has agreed: the context gets the connection, and CONNECTED.
    pub(super) fn tell_connected(
        self: &Arc<Self>,
        state: &mut State,
        now: Time,
        later: &mut Later,
    ) {
        let (Some(connecting), Some(owner)) = (state.connecting.take(), state.owner.clone()) else {
            return;
        };
        later.connected = Some(connecting.connector);
        if owner.adopt_in(connecting.place, self).is_err() {
            return state.engine.disconnect(now);
        }
        state.accepted = true;
        state.phase = Phase::Serving;
        self.publish_state(state, STATE_ESTABLISHED);
        STATISTICS.connections_made.add(1);
        let event = Event::Connected {
            user_data: state.accept_user_data,
            connection: self.clone(),
        };
        state.post(event, later);
    }

    /// It ended before the peer had agreed: the context never had it.
    pub(super) fn tell_not_connected(self: &Arc<Self>) {
        let (connecting, status) = {
            let mut state = self.state.lock();
            let status = state.connect_status();
            (state.connecting.take(), status)
        };
        let Some(connecting) = connecting else { return };
        // First: when CONNECTED is read, another CONNECT may take its place.
        connecting.connector.finish();
        let mut later = Later::default();
        {
            let mut state = self.state.lock();
            let event = Event::ConnectFailed {
                user_data: state.accept_user_data,
                status,
                peer: self.peer,
            };
            state.post(event, &mut later);
        }
        self.carry_out(later);
    }

    /// The context is being closed, and does not have the connection yet.
    pub(crate) fn cancel(self: &Arc<Self>) {
        if self.is_connecting() {
            self.detach();
        }
    }

    /// Whether CONNECTED is still to be told.
    pub(crate) fn is_connecting(&self) -> bool {
        self.state.lock().connecting.is_some()
    }
}

impl Connecting {
    pub(super) fn failed(&mut self, failure: CmFailure) {
        self.failure.get_or_insert(failure);
    }
}

impl State {
    /// Whether a context asked for it, and never got it.
    pub(super) fn was_never_connected(&self) -> bool {
        self.engine.role() == Role::Active && !self.accepted
    }

    /// What CONNECTED says of a connection that has ended.
    fn connect_status(&self) -> Status {
        let failure = self.connecting.as_ref().and_then(|own| own.failure);
        match (failure, self.cause.unwrap_or(Reason::Local)) {
            (Some(CmFailure::Rejected), _) => Status::Refused,
            (Some(CmFailure::Unreachable), _) => Status::Unreachable,
            (Some(CmFailure::Error), _) => Status::Provider,
            // The connection manager did not come to an end, one way or the other.
            (None, Reason::NegotiationTimeout) if self.depths.is_none() => Status::Unreachable,
            (None, Reason::Local | Reason::Peer) => Status::Disconnected,
            (None, Reason::NoMemory) => Status::NoMemory,
            (None, Reason::DeviceRemoved | Reason::Provider | Reason::ConnectionLost) => {
                Status::Provider
            }
            (None, _) => Status::Negotiation,
        }
    }
}

fn failure_of(error: Error) -> CmFailure {
    if error == compat::ECONNREFUSED {
        CmFailure::Rejected
    } else if error == compat::ETIMEDOUT
        || error == compat::EHOSTUNREACH
        || error == compat::ENETUNREACH
    {
        CmFailure::Unreachable
    } else {
        CmFailure::Error
    }
}
