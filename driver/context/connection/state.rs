// SPDX-License-Identifier: GPL-2.0-only

//! What a connection's lock guards, and what is left to do when it is free.

use super::active::Connecting;
use super::link::{self, Link};
use super::outgoing::Outgoing;
use super::ranges;
use super::receive::Receives;
use super::routing::{Client, Held, Routing};
use super::send::SendQueue;
use super::transfer::Transfer;
use super::{timer, Context, Event, Reason, SlotOf, Time};
use crate::context::connector::Connector;
use crate::context::listener::Listener;
use crate::context::pending::Ticket;
use crate::context::stats::Counters;
use crate::verbs::{CmFailure, Device};
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::memory::STATE_NONE;
use usmbd_engine as engine;
use usmbd_engine::read_depth::ReadDepths;
use usmbd_engine::Role;

/// How far a connection has come, beyond what its engine knows.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// Until a valid Negotiate Request is there.
    Negotiating,
    /// A context has asked for it, and the peer has not agreed yet.
    Connecting,
    /// The driver reads its first messages.
    Routing,
    /// A ticket is out.
    Offered,
    /// A context has it.
    Serving,
    /// Its context was closed; what was accepted is still sent.
    Lingering,
    /// The queue pair is flushed.
    Draining,
    /// Nothing is left of it but this.
    Gone,
}

/// What the connection manager said since the work item last looked.
#[derive(Default)]
pub(super) struct CmNews {
    pub(super) established: bool,
    pub(super) disconnected: bool,
    pub(super) failed: Option<CmFailure>,
    pub(super) device_removed: bool,
    /// Not the manager's: the listener was closed.
    pub(super) abandoned: bool,
}

pub(super) struct State {
    pub(super) engine: engine::Connection,
    pub(super) phase: Phase,
    pub(super) news: CmNews,
    /// Where it came from, until it is accepted or gone.
    pub(super) listener: Option<Arc<Listener>>,
    /// While its first messages are read.
    pub(super) routing: Option<KBox<Routing>>,
    /// These messages, until somebody takes them.
    pub(super) held: Option<Arc<Held>>,
    /// What they told.
    pub(super) client: Client,
    /// While we connect.
    pub(super) connecting: Option<Connecting>,
    /// RDMA reads at a time, as both sides have agreed.
    pub(super) depths: Option<ReadDepths>,
    /// The context that has it.
    pub(super) owner: Option<Arc<Context>>,
    /// The RDMA side; none before the CM handler is done and after the end.
    pub(super) link: Option<Arc<Link>>,
    pub(super) receives: Receives,
    pub(super) send: SendQueue,
    pub(super) ticket: Option<Ticket>,
    pub(super) accept_user_data: u64,
    /// ACCEPTED was queued.
    pub(super) accepted: bool,
    /// It lives on without a context, and is counted so.
    pub(super) lingers: bool,
    pub(super) disconnect_user_data: u64,
    /// Why it ended, where the engine cannot know.
    pub(super) cause: Option<Reason>,
    /// When the routing, the ticket, or the linger runs out.
    pub(super) give_up_at: Option<Time>,
    /// When a transfer that waits for another connection's registration looks again.
    pub(super) retry_at: Option<Time>,
    /// When the deadline will fire.
    pub(super) armed_for: Option<Time>,
    /// Slots in the owner's event queue that are reserved and not in use.
    pub(super) slots: usize,
    /// SEND_READY was promised to a writer.
    pub(super) send_ready_wanted: bool,
    /// SEND_READY is queued.
    pub(super) send_ready_queued: bool,
    /// Completions of the drain that are still to come.
    pub(super) draining: u8,
    /// Bytes of messages that were taken, what of that the status page tells, and bytes of those that
    /// were sent.
    pub(super) bytes_accepted: u64,
    pub(super) bytes_published: u64,
    pub(super) bytes_completed: u64,
    /// State of the connection as the status page tells it.
    pub(super) page_state: u32,
    pub(super) counters: Counters,
}

/// What has to be done once the connection's lock is free.
#[derive(Default)]
pub(crate) struct Later {
    /// Its queue has new events.
    pub(super) wake: Option<Arc<Context>>,
    /// A valid Negotiate Request is there.
    pub(super) requested: bool,
    /// A piece came that routing wants.
    pub(super) route: bool,
    /// CONNECTED is told.
    pub(super) connected: Option<Arc<Connector>>,
    /// End the RDMA connection and drain it.
    pub(super) drain: Option<Arc<Link>>,
    /// Drained: free everything.
    pub(super) finish: bool,
    /// Writers may find room.
    pub(super) room: bool,
    /// Another turn of the work item is due.
    pub(super) again: bool,
    /// It is the work item's turn, which may start the drain.
    pub(super) turn: bool,
    /// Messages that are done.
    pub(super) messages: ranges::List<Outgoing>,
    /// Transfers that are done.
    pub(super) transfers: ranges::List<Transfer>,
}

impl State {
    /// At the beginning: nobody's, and nothing but the handshake's receive to post.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(
        role: Role,
        parameters: &engine::Parameters,
        device: &Arc<Device>,
        capacity: &link::Capacity,
    ) -> Result<Self> {
        Ok(Self {
            engine: engine::Connection::new(role, parameters, timer::now()),
            phase: Phase::Negotiating,
            news: CmNews::default(),
            listener: None,
            routing: None,
            held: None,
            client: Client::default(),
            connecting: None,
            depths: None,
            owner: None,
            link: None,
            receives: Receives::for_handshake(device, capacity.receives)?,
            send: SendQueue::new(device, capacity)?,
            ticket: None,
            accept_user_data: 0,
            accepted: false,
            lingers: false,
            disconnect_user_data: 0,
            cause: None,
            give_up_at: None,
            retry_at: None,
            armed_for: None,
            slots: 0,
            send_ready_wanted: false,
            send_ready_queued: false,
            draining: 0,
            bytes_accepted: 0,
            bytes_published: 0,
            bytes_completed: 0,
            page_state: STATE_NONE,
            counters: Counters::default(),
        })
    }

    pub(super) fn take_news(&mut self, now: Time) {
        if core::mem::take(&mut self.news.established) {
            self.engine.handle_established(now);
        }
        // Kept: the drain must not ask the CM for a disconnect.
        if self.news.device_removed {
            self.engine
                .handle_provider_error(engine::Reason::DeviceRemoved, now);
        }
        if core::mem::take(&mut self.news.abandoned) && self.listener.is_some() {
            self.engine.disconnect(now);
        }
    }

    /// What the CM said of the connection's end. After the completions: what the peer sent in front
    /// of its end is there by then, and the engine takes nothing behind it.
    pub(super) fn take_end(&mut self, now: Time) {
        if let Some(failure) = self.news.failed.take() {
            if let Some(connecting) = &mut self.connecting {
                connecting.failed(failure);
            }
            self.cause.get_or_insert(Reason::ConnectionLost);
            self.engine.handle_disconnected(now);
        }
        if core::mem::take(&mut self.news.disconnected) {
            self.engine.handle_disconnected(now);
        }
    }

    pub(super) fn take_time(&mut self, now: Time) {
        self.engine.handle_timeout(now);
        if self.retry_at.is_some_and(|at| at.0 <= now.0) {
            self.retry_at = None;
        }
        if self.give_up_at.is_some_and(|at| at.0 <= now.0) {
            self.give_up_at = None;
            let cause = match self.phase {
                Phase::Routing => Some(Reason::NotRoutable),
                Phase::Offered => Some(Reason::NotAccepted),
                _ => None,
            };
            self.cause = self.cause.or(cause);
            self.engine.disconnect(now);
        }
    }

    /// Queues an event of this connection; its slot is one of the connection's.
    pub(super) fn post(&mut self, event: Event, later: &mut Later) {
        if let Some(owner) = &self.owner {
            if event.slot_of() == SlotOf::Connection {
                self.slots = self.slots.saturating_sub(1);
            }
            owner.queue().push(event);
            later.wake.get_or_insert_with(|| owner.clone());
        }
    }

    /// Changes the owner's status page, if this is its only connection.
    pub(super) fn publish(
        &self,
        number: u64,
        change: impl FnOnce(&mut usmbd_abi::memory::StatusPage),
    ) {
        if let Some(owner) = &self.owner {
            owner.publish(number, change);
        }
    }
}
