// SPDX-License-Identifier: GPL-2.0-only

//! A CONNECT under way: finds the device that leads to the peer, and makes the connection there.
//!
//! Until the route is known there is no connection, since there is no device to make it on; the
//! connector owns the CM id. Then the id is handed over ([`Connection::connect`]), and CONNECTED is
//! the connection's to tell.

use super::connection::Connection;
use super::event_queue::{Event, SlotOf};
use super::Context;
use crate::verbs::{CmEvent, CmOwner, Id, NodeKind, Resolved, SocketAddr};
use crate::{compat, module, workqueue};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, ArcBorrow, Mutex};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};
use usmbd_abi::status::Status;
use usmbd_engine::Parameters;

/// Connects of one context that may be under way.
pub(super) const MAX_CONNECTORS: usize = 64;
/// Milliseconds for the peer's address, and again for the route.
const RESOLVE: usize = 5_000;

/// What CONNECT asks for.
pub(crate) struct ConnectRequest {
    pub(crate) user_data: u64,
    pub(crate) peer: SocketAddr,
    /// Our address, if it matters which.
    pub(crate) local: Option<SocketAddr>,
    /// Tried one after the other, as long as there is no such device.
    pub(crate) ways: [Option<Way>; 2],
}

/// Devices to connect by, and the peer's port on them.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// None for all.
    pub(crate) kind: Option<NodeKind>,
    pub(crate) port: u16,
}

/// See the module's documentation.
#[pin_data]
pub(crate) struct Connector {
    context: Arc<Context>,
    request: ConnectRequest,
    /// Those of the context, when CONNECT was written.
    parameters: Parameters,
    /// Event slots that were reserved for the connection.
    slots: usize,
    #[pin]
    state: Mutex<State>,
    #[pin]
    work: Work<Connector>,
    /// The module stays as long as the connector has work to do.
    _module: module::Reference,
}

struct State {
    progress: Progress,
    /// The context is closed: nobody waits any more.
    cancelled: bool,
}

enum Progress {
    /// The way with this number is next.
    Due(usize),
    /// It is being tried.
    Resolving(usize, Id<Connector>),
    /// It led nowhere. The id is to be destroyed, which cannot be done in its handler.
    Failed(usize, Option<Id<Connector>>, Error),
    /// The id is this connection's, which CONNECTED has not told of yet.
    HandedOver(Arc<Connection>),
    /// CONNECTED is told, or nobody waits for it.
    Over,
}

impl_has_work! {
    impl HasWork<Self> for Connector { self.work }
}

impl WorkItem for Connector {
    type Pointer = Arc<Connector>;

    fn run(this: Arc<Connector>) {
        while this.step() {}
    }
}

impl Context {
    /// Connects; CONNECTED tells how it went.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if too many connects are under way, or no event slots are free; `ENOMEM`.
    pub(crate) fn connect(self: &Arc<Self>, request: ConnectRequest) -> Result {
        let parameters = self.parameters();
        let slots = Connection::slots(&parameters);
        self.queue.reserve(slots, SlotOf::Connection)?;
        let added = Connector::new(self, request, parameters, slots).and_then(|connector| {
            let connectors = &mut self.inner.lock().connectors;
            match connectors.push_within_capacity(connector.clone()) {
                Ok(()) => Ok(connector),
                Err(_) => Err(EAGAIN),
            }
        });
        match added {
            Ok(connector) => {
                connector.start();
                Ok(())
            }
            Err(error) => {
                self.queue.release(slots, SlotOf::Connection);
                Err(error)
            }
        }
    }

    /// The connector is not under way any more.
    fn forget_connector(&self, connector: &Connector) {
        let removed = {
            let connectors = &mut self.inner.lock().connectors;
            let at = connectors
                .iter()
                .position(|other| core::ptr::eq(&**other, connector));
            at.and_then(|at| connectors.remove(at).ok())
        };
        // Unlocked: it may be the last reference.
        drop(removed);
    }
}

impl Connector {
    fn new(
        context: &Arc<Context>,
        request: ConnectRequest,
        parameters: Parameters,
        slots: usize,
    ) -> Result<Arc<Self>> {
        let module = module::Reference::get().ok_or(ENODEV)?;
        let state = State {
            progress: Progress::Due(0),
            cancelled: false,
        };
        Arc::pin_init(
            pin_init!(Self {
                context: context.clone(),
                request,
                parameters,
                slots,
                state <- new_mutex!(state, "usmbd_connector"),
                work <- new_work!("usmbd_connector"),
                _module: module,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    pub(crate) fn user_data(&self) -> u64 {
        self.request.user_data
    }

    /// Has a work item go on.
    fn start(self: &Arc<Self>) {
        // If it waits already, that run will see what we saw.
        let _ = workqueue::enqueue(self.clone());
    }

    /// One step; whether another one is due.
    fn step(self: &Arc<Self>) -> bool {
        let Some((number, id, error)) = self.attempt() else {
            return false;
        };
        // Waits for its handler.
        drop(id);

        let mut state = self.state.lock();
        if state.cancelled {
            return false;
        }
        let next = number.saturating_add(1);
        if error == ENODEV && self.way(next).is_some() {
            state.progress = Progress::Due(next);
            return true;
        }
        drop(state);
        self.tell_failure(status_of(error));
        false
    }

    /// Tries the way that is due. Returns the one that leads nowhere, this one or that which was
    /// tried before: its number, the id to be destroyed without the lock, which the id's handler
    /// takes, and why.
    fn attempt(self: &Arc<Self>) -> Option<(usize, Option<Id<Self>>, Error)> {
        let mut state = self.state.lock();
        let number = match core::mem::replace(&mut state.progress, Progress::Over) {
            Progress::Due(_) if state.cancelled => return None,
            Progress::Due(number) => number,
            Progress::Failed(number, id, error) => return Some((number, id, error)),
            progress => {
                state.progress = progress;
                return None;
            }
        };
        drop(state);
        let (id, way) = match self.open(number) {
            Ok(opened) => opened,
            Err(error) => return Some((number, None, error)),
        };

        // Until the id stands in its place, the handler waits for the lock.
        let mut state = self.state.lock();
        if state.cancelled {
            // Unlocked before the id, which was there first, is destroyed.
            return None;
        }
        let peer = self.request.peer.with_port(way.port);
        match id.resolve(&peer, self.request.local.as_ref(), RESOLVE) {
            Ok(()) => {
                state.progress = Progress::Resolving(number, id);
                None
            }
            Err(error) => Some((number, Some(id), error)),
        }
    }

    fn way(&self, number: usize) -> Option<Way> {
        self.request.ways.get(number).copied().flatten()
    }

    fn open(self: &Arc<Self>, number: usize) -> Result<(Id<Self>, Way)> {
        let way = self.way(number).ok_or(EINVAL)?;
        let id = Id::open(self.context.net(), self.clone(), way.kind)?;
        Ok((id, way))
    }

    /// The way that is being tried leads nowhere. In the id's handler, or anywhere else.
    fn fail(self: &Arc<Self>, error: Error) {
        let mut state = self.state.lock();
        match core::mem::replace(&mut state.progress, Progress::Over) {
            Progress::Resolving(number, id) => {
                state.progress = Progress::Failed(number, Some(id), error);
                self.start();
            }
            progress => state.progress = progress,
        }
    }

    /// The route is known: goes on as a connection.
    fn hand_over(self: &Arc<Self>, resolved: Resolved<'_>) {
        let taken = {
            let mut state = self.state.lock();
            match core::mem::replace(&mut state.progress, Progress::Over) {
                Progress::Resolving(number, id) => Some((number, id)),
                progress => {
                    state.progress = progress;
                    None
                }
            }
        };
        let Some((number, id)) = taken else { return };
        match Connection::connect(self, resolved, id) {
            Ok(connection) => {
                let mut state = self.state.lock();
                if state.cancelled {
                    drop(state);
                    connection.cancel();
                } else if connection.is_connecting() {
                    state.progress = Progress::HandedOver(connection);
                }
            }
            Err((error, id)) => {
                self.state.lock().progress = Progress::Failed(number, Some(id), error);
                self.start();
            }
        }
    }

    /// The connection has told CONNECTED, or is about to; another CONNECT may take its place.
    pub(crate) fn finish(&self) {
        let progress = core::mem::replace(&mut self.state.lock().progress, Progress::Over);
        // Unlocked: it may be the last reference.
        drop(progress);
        self.context.forget_connector(self);
    }

    /// There is no connection, and will not be.
    fn tell_failure(&self, status: Status) {
        self.finish();
        let unused = self.slots.saturating_sub(1);
        self.context.queue().release(unused, SlotOf::Connection);
        self.context.post(Event::ConnectFailed {
            user_data: self.request.user_data,
            status,
            peer: self.request.peer,
        });
    }

    /// The context is being closed. Does not wait for a handler that runs.
    pub(super) fn cancel(self: &Arc<Self>) {
        let connection = {
            let mut state = self.state.lock();
            state.cancelled = true;
            match &state.progress {
                Progress::HandedOver(connection) => Some(connection.clone()),
                _ => None,
            }
        };
        match connection {
            Some(connection) => connection.cancel(),
            None => self.fail(EINTR),
        }
    }
}

impl CmOwner for Connector {
    fn cm_event(this: ArcBorrow<'_, Self>, event: CmEvent<'_>) -> Result {
        let connector = Arc::from(this);
        match event {
            CmEvent::AddressResolved(resolved) => {
                if let Err(error) = resolved.resolve_route(RESOLVE) {
                    connector.fail(error);
                }
            }
            CmEvent::RouteResolved(resolved) => connector.hand_over(resolved),
            CmEvent::NotResolved(error) => connector.fail(error),
            CmEvent::DeviceRemoval => connector.fail(EIO),
            _ => {}
        }
        Ok(())
    }
}

fn status_of(error: Error) -> Status {
    if error == ENODEV || error == compat::EADDRNOTAVAIL || error == compat::EAFNOSUPPORT {
        Status::AddressNotAvailable
    } else if error == compat::ETIMEDOUT
        || error == compat::EHOSTUNREACH
        || error == compat::ENETUNREACH
    {
        Status::Unreachable
    } else if error == ENOMEM {
        Status::NoMemory
    } else if error == compat::EOPNOTSUPP {
        Status::NotSupported
    } else {
        Status::Provider
    }
}
