// SPDX-License-Identifier: GPL-2.0-only

//! One SMB Direct connection: the engine, the queue pair under it, and the context it belongs to.
//!
//! Everything that happens to a connection goes the same way: an input to the engine under the
//! connection's lock, then [`Connection::advance`], which carries out what the engine asks for, and
//! then, unlocked, [`Later`]: what may sleep. Completions, CM events and timers only enqueue the
//! connection's one work item, so they are never concurrent with each other.

mod link;
mod operate;
mod outgoing;
mod ranges;
mod receive;
mod routing;
mod send;
mod serve;
mod transfer;

use super::event_queue::{Event, SlotOf};
use super::listener::Listener;
use super::pending::{self, Ticket};
use super::stats::{Counters, STATISTICS};
use super::{dispatch, registry, timer, Context};
use crate::verbs::{
    CmEvent, CmOwner, CompletionOwner, ConnParam, Device, Fabric, Incoming, Net, SocketAddr,
    WorkCompletion,
};
use crate::{module, workqueue};
use kernel::bindings;
use kernel::fmt;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::sync::{new_condvar, new_spinlock, Arc, ArcBorrow, CondVar, SpinLock};
use kernel::time::msecs_to_jiffies;
use kernel::workqueue::{
    impl_has_delayed_work, impl_has_work, new_delayed_work, new_work, DelayedWork, Work, WorkItem,
};
use link::{Link, WorkRequestId};
use receive::Receives;
use routing::Routing;
use send::SendQueue;
use usmbd_abi::status::{Reason, Status};
use usmbd_engine as engine;
use usmbd_engine::read_depth::{self, NoReads, ReadDepths};
use usmbd_engine::{Role, Time};

pub(crate) use operate::PhaseShown;
pub(crate) use outgoing::SendRequest;
pub(crate) use routing::{Client, Held};
pub(crate) use transfer::TransferRequest;

/// Milliseconds for which a ticket is good.
const TICKET_LIFE: u64 = 30_000;
/// Milliseconds that a connection without a context may take to send what was accepted.
const LINGER: u64 = 5_000;
/// Completions that one connection may have handled before the others have their turn.
const BUDGET: usize = 64;
/// Event slots of a connection besides its receives: ACCEPTED or CONNECTION_ROUTED, SEND_READY,
/// DISCONNECTED.
const OWN_SLOTS: usize = 3;
/// RDMA reads that we post on the wire at once, at most; the peer and the device may allow fewer.
const INITIATOR_DEPTH: u8 = 16;

/// See the module's documentation.
#[pin_data]
pub(crate) struct Connection {
    number: u64,
    /// Where it came in.
    net: Net,
    device: Arc<Device>,
    fabric: Fabric,
    local: SocketAddr,
    peer: SocketAddr,
    #[pin]
    state: SpinLock<State>,
    /// Writers that wait for room in the send queue.
    #[pin]
    room: CondVar,
    #[pin]
    work: Work<Connection>,
    #[pin]
    deadline: DelayedWork<Connection, 1>,
    /// The module stays as long as the connection has work to do.
    _module: module::Reference,
}

/// How far a connection has come, beyond what its engine knows.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Until a valid Negotiate Request is there.
    Negotiating,
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
struct CmNews {
    established: bool,
    disconnected: bool,
    failed: bool,
    device_removed: bool,
    /// Not the manager's: the listener was closed.
    abandoned: bool,
}

struct State {
    engine: engine::Connection,
    phase: Phase,
    news: CmNews,
    /// Where it came from, until it is accepted or gone.
    listener: Option<Arc<Listener>>,
    /// While its first messages are read.
    routing: Option<KBox<Routing>>,
    /// These messages, until somebody takes them.
    held: Option<Arc<Held>>,
    /// What they told.
    client: Client,
    /// The context that has it.
    owner: Option<Arc<Context>>,
    /// The RDMA side; none before the CM handler is done and after the end.
    link: Option<Arc<Link>>,
    receives: Receives,
    send: SendQueue,
    ticket: Option<Ticket>,
    accept_user_data: u64,
    /// ACCEPTED was queued.
    accepted: bool,
    /// It lives on without a context, and is counted so.
    lingers: bool,
    disconnect_user_data: u64,
    /// Why it ended, where the engine cannot know.
    cause: Option<Reason>,
    /// When the routing, the ticket, or the linger runs out.
    give_up_at: Option<Time>,
    /// When a transfer that waits for another connection's registration looks again.
    retry_at: Option<Time>,
    /// When the deadline will fire.
    armed_for: Option<Time>,
    /// Slots in the owner's event queue that are reserved and not in use.
    slots: usize,
    /// SEND_READY was promised to a writer.
    send_ready_wanted: bool,
    /// SEND_READY is queued.
    send_ready_queued: bool,
    /// Completions of the drain that are still to come.
    draining: u8,
    /// Bytes of messages that were taken, and what of that the status page tells.
    bytes_accepted: u64,
    bytes_published: u64,
    counters: Counters,
}

/// What has to be done once the connection's lock is free.
#[derive(Default)]
pub(crate) struct Later {
    /// Its queue has new events.
    wake: Option<Arc<Context>>,
    /// A valid Negotiate Request is there.
    requested: bool,
    /// A piece came that routing wants.
    route: bool,
    /// End the RDMA connection and drain it.
    drain: Option<Arc<Link>>,
    /// Drained: free everything.
    finish: bool,
    /// Writers may find room.
    room: bool,
    /// Another turn of the work item is due.
    again: bool,
    /// It is the work item's turn, which may start the drain.
    turn: bool,
    /// What commands that are done had of the process's memory.
    done: ranges::List,
}

impl_has_work! {
    impl HasWork<Self> for Connection { self.work }
}

impl WorkItem for Connection {
    type Pointer = Arc<Connection>;

    fn run(this: Arc<Connection>) {
        this.turn();
    }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Connection { self.deadline }
}

impl WorkItem<1> for Connection {
    type Pointer = Arc<Connection>;

    fn run(this: Arc<Connection>) {
        this.state.lock().armed_for = None;
        this.enqueue();
    }
}

impl CompletionOwner for Connection {
    fn completions(this: ArcBorrow<'_, Self>) {
        Arc::from(this).enqueue();
    }
}

impl CmOwner for Connection {
    fn cm_event(this: ArcBorrow<'_, Self>, event: CmEvent<'_>) -> Result {
        {
            let mut state = this.state.lock();
            match event {
                CmEvent::Established => state.news.established = true,
                CmEvent::Disconnected => state.news.disconnected = true,
                CmEvent::Failed => state.news.failed = true,
                CmEvent::DeviceRemoval => state.news.device_removed = true,
                _ => return Ok(()),
            }
        }
        Arc::from(this).enqueue();
        Ok(())
    }
}

impl Connection {
    /// Takes a connect request: resources, one posted receive, accept. Runs in the CM handler.
    ///
    /// # Errors
    ///
    /// The CM refuses the peer: `ENOMEM`, `ENODEV`, `EINVAL` for private data that makes no sense, or
    /// what the device says.
    pub(crate) fn incoming(listener: &Arc<Listener>, incoming: Incoming<'_>) -> Result {
        let module = module::Reference::get().ok_or(ENODEV)?;
        let device = incoming.device().ok_or(ENODEV)?;
        let parameters = listener.context().parameters();
        let capacity = link::Capacity::for_device(&device, &parameters)?;
        let fabric = device.fabric(incoming.port());
        let kind = match fabric {
            Fabric::InfiniBand | Fabric::Roce => read_depth::Fabric::InfiniBandOrRoce,
            Fabric::Iwarp => read_depth::Fabric::Iwarp,
        };
        let own = ReadDepths {
            initiator_depth: INITIATOR_DEPTH
                .min(u8::try_from(device.limits().max_qp_init_rd_atom).unwrap_or(u8::MAX)),
            // The peer never reads our memory; some providers refuse zero.
            responder_resources: 1,
        };
        let event = ReadDepths {
            initiator_depth: incoming.initiator_depth(),
            responder_resources: incoming.responder_resources(),
        };
        let accepted = own
            .accept(event, kind, incoming.private_data())
            .map_err(|NoReads| EINVAL)?;
        let conn_param = ConnParam {
            responder_resources: accepted.depths.responder_resources,
            initiator_depth: accepted.depths.initiator_depth,
            retry_count: 6,
            rnr_retry_count: 0,
            private_data: accepted.private_data.as_ref().map_or(&[], |data| &data[..]),
        };
        let send = SendQueue::new(&device, &capacity)?;
        let state = State {
            engine: engine::Connection::new(Role::Passive, &parameters, timer::now()),
            phase: Phase::Negotiating,
            news: CmNews::default(),
            listener: Some(listener.clone()),
            routing: None,
            held: None,
            client: Client::default(),
            owner: None,
            link: None,
            receives: Receives::for_handshake(&device, capacity.receives)?,
            send,
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
            counters: Counters::default(),
        };
        let (local, peer) = (incoming.local(), incoming.peer());
        let connection = Arc::pin_init(
            pin_init!(Self {
                number: registry::next_number(),
                net: listener.context().net().clone(),
                fabric,
                local,
                peer,
                device,
                state <- new_spinlock!(state, "usmbd_connection"),
                room <- new_condvar!("usmbd_send_room"),
                work <- new_work!("usmbd_connection"),
                deadline <- new_delayed_work!("usmbd_deadline"),
                _module: module,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let link = Link::establish(&connection, incoming, &capacity, &conn_param)?;
        let link = Arc::new(link, GFP_KERNEL_ACCOUNT)?;
        registry::insert(&connection)?;
        STATISTICS.connections.add(1);
        connection.state.lock().link = Some(link);
        // Completions that came before the link stood in its place wait for this turn.
        connection.enqueue();
        Ok(())
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(crate) fn fabric(&self) -> Fabric {
        self.fabric
    }

    pub(crate) fn local(&self) -> &SocketAddr {
        &self.local
    }

    pub(crate) fn peer(&self) -> &SocketAddr {
        &self.peer
    }

    /// What negotiation made of the parameters; none before it is done.
    pub(crate) fn negotiated(&self) -> Option<engine::Negotiated> {
        self.state.lock().engine.negotiated()
    }

    /// What its first messages told, if the driver read them.
    pub(crate) fn client(&self) -> Client {
        self.state.lock().client
    }

    /// Whether it came to this listener, and nobody has accepted it.
    pub(crate) fn is_of(&self, listener: &Arc<Listener>) -> bool {
        let state = self.state.lock();
        matches!(&state.listener, Some(own) if Arc::ptr_eq(own, listener))
    }

    /// The device goes away: end it, whatever state it is in.
    pub(crate) fn device_removed(self: &Arc<Self>) {
        self.state.lock().news.device_removed = true;
        self.enqueue();
    }

    /// Its listener was closed: ends it, unless it is accepted by then.
    pub(crate) fn abandon(self: &Arc<Self>) {
        self.state.lock().news.abandoned = true;
        self.enqueue();
    }

    /// Has the work item take a turn soon. In any context.
    fn enqueue(self: &Arc<Self>) {
        // If it waits already, that turn will see what we saw.
        let _ = workqueue::enqueue::<_, 0>(self.clone());
    }

    /// One turn of the work item: what the CM said, completions, timers.
    fn turn(self: Arc<Self>) {
        let mut later = Later {
            turn: true,
            ..Later::default()
        };
        {
            let mut state = self.state.lock();
            let now = timer::now();
            state.take_news(now);
            later.again |= self.take_completions(&mut state, now, &mut later);
            state.take_time(now);
            self.advance(&mut state, now, &mut later);
        }
        self.carry_out(later);
    }

    /// Polls the completion queue, up to the budget; whether another turn is due.
    fn take_completions(self: &Arc<Self>, state: &mut State, now: Time, later: &mut Later) -> bool {
        let Some(link) = state.link.clone() else {
            return false;
        };
        let mut batch = [WorkCompletion::default(); 16];
        let mut handled = 0usize;
        loop {
            let count = link.poll(&mut batch);
            for completion in batch.iter().take(count) {
                self.complete(state, completion, now, later);
            }
            handled = handled.saturating_add(count);
            if handled >= BUDGET {
                break true;
            }
            // Arming tells whether something came between the poll and it.
            if count == 0 && !link.arm() {
                break false;
            }
        }
    }

    fn complete(
        self: &Arc<Self>,
        state: &mut State,
        completion: &WorkCompletion,
        now: Time,
        later: &mut Later,
    ) {
        match WorkRequestId::from(completion.wr_id) {
            WorkRequestId::Receive(index) => {
                self.complete_receive(state, index, completion, now, later)
            }
            WorkRequestId::Handshake => self.complete_handshake(state, completion, now),
            WorkRequestId::Send(sequence) => {
                self.complete_send(state, sequence, completion.status, now, later)
            }
            WorkRequestId::Drain => {
                state.draining = state.draining.saturating_sub(1);
                later.finish = state.draining == 0 && state.phase == Phase::Draining;
            }
        }
    }

    /// Carries out what the engine asks for, until it asks for nothing.
    fn advance(self: &Arc<Self>, state: &mut State, now: Time, later: &mut Later) {
        loop {
            self.pump(state, now, later);
            let Some(event) = state.engine.poll_event() else {
                break;
            };
            match event {
                engine::Event::NegotiateReceived => later.requested = true,
                // Nobody has it yet.
                engine::Event::Established(_) if state.phase == Phase::Routing => {}
                engine::Event::Established(_) => self.tell_accepted(state, Status::Ok, later),
                engine::Event::Disconnected(reason) => {
                    let cause = *state.cause.get_or_insert(dispatch::reason(reason));
                    self.log_end(cause);
                }
            }
        }
        if state.engine.end().is_some() {
            // Only the work item's own turn drains: it is the one that sees the markers complete, and
            // so two threads never both find that the drain is done. And draining sleeps, while a
            // caller may have asked not to.
            if later.turn {
                self.start_draining(state, later);
            } else if !matches!(state.phase, Phase::Draining | Phase::Gone) {
                later.again = true;
            }
        } else if state.phase == Phase::Lingering
            && state.send.is_idle()
            && state.engine.is_send_idle()
        {
            state.engine.disconnect(now);
            return self.advance(state, now, later);
        }
        if state.bytes_published != state.bytes_accepted {
            state.bytes_published = state.bytes_accepted;
            state.publish(self.number, |page| {
                page.bytes_accepted = state.bytes_accepted.into()
            });
        }
        self.arm(state, now);
    }

    /// Says in the kernel log that a peer broke the protocol.
    fn log_end(&self, reason: Reason) {
        if dispatch::is_protocol_error(reason) {
            STATISTICS.protocol_errors.add(1);
            self.warn(fmt!("{}", reason.text()));
        }
    }

    /// One line in the kernel log, rate-limited.
    fn warn(&self, what: fmt::Arguments<'_>) {
        // SAFETY: Any string will do; it names who is limited.
        if unsafe { bindings::__printk_ratelimit(c"usmbd".as_char_ptr()) } != 0 {
            pr_warn!("connection {} with {}: {}\n", self.number, self.peer, what);
        }
    }

    fn start_draining(self: &Arc<Self>, state: &mut State, later: &mut Later) {
        if matches!(state.phase, Phase::Draining | Phase::Gone) {
            return;
        }
        let Some(link) = state.link.clone() else {
            return;
        };
        state.phase = Phase::Draining;
        state.give_up_at = None;
        state.draining = link::DRAIN_COMPLETIONS;
        later.room = true;
        later.drain = Some(link);
    }

    /// Lets the deadline fire when the engine or the driver has something to do by the clock. It is
    /// left alone while it fires early enough: a connection that is busy costs no timer.
    fn arm(self: &Arc<Self>, state: &mut State, now: Time) {
        if matches!(state.phase, Phase::Draining | Phase::Gone) {
            return;
        }
        let deadlines = [
            state.engine.poll_timeout(),
            state.give_up_at,
            state.retry_at,
        ];
        let Some(due) = deadlines.into_iter().flatten().min_by_key(|due| due.0) else {
            return;
        };
        if state.armed_for.is_none_or(|armed| due.0 < armed.0) {
            state.armed_for = Some(due);
            let wait = u32::try_from(due.0.saturating_sub(now.0)).unwrap_or(u32::MAX);
            workqueue::rearm::<_, 1>(self.clone(), msecs_to_jiffies(wait));
        }
    }

    /// Queues ACCEPTED, once.
    fn tell_accepted(self: &Arc<Self>, state: &mut State, status: Status, later: &mut Later) {
        if state.accepted {
            return;
        }
        state.accepted = true;
        if status == Status::Ok {
            self.begin_serving(state);
        }
        let event = Event::Accepted {
            user_data: state.accept_user_data,
            connection: self.clone(),
            status,
        };
        state.post(event, later);
    }

    /// What may sleep, or take other locks.
    fn carry_out(self: &Arc<Self>, mut later: Later) {
        if later.room {
            self.room.notify_all();
        }
        if let Some(context) = later.wake.take() {
            context.queue().wake();
        }
        if later.requested {
            self.requested();
        }
        if later.route {
            self.route();
        }
        if let Some(link) = later.drain.take() {
            let removed = self.state.lock().news.device_removed;
            let missing = link.disconnect_and_drain(removed);
            let mut state = self.state.lock();
            state.draining = state.draining.saturating_sub(missing);
            later.finish |= state.draining == 0;
        }
        if later.finish {
            self.finish();
        } else if later.again {
            self.enqueue();
        }
    }

    /// Drained: frees all that the device has of it, then tells the end.
    fn finish(self: &Arc<Self>) {
        let (link, memory, listener, ticket, messages) = {
            let mut state = self.state.lock();
            let memory = (state.receives.retire(), state.send.retire());
            (
                state.link.take(),
                memory,
                state.listener.take(),
                state.ticket.take(),
                (state.routing.take(), state.held.take()),
            )
        };
        if let Some(ticket) = ticket {
            drop(pending::take(&ticket));
        }
        if let Some(listener) = listener {
            listener.release();
        }
        // Nobody arms it again; if it runs, it finds nothing to do.
        workqueue::cancel::<_, 1>(self);
        // Waits for handlers that run; afterwards neither CM nor device knows us.
        drop(link);
        drop(memory);
        drop(messages);
        registry::remove(self.number);
        let mut later = Later::default();
        let owner = {
            let mut state = self.state.lock();
            self.fail_queued(&mut state, &mut later);
            if state.owner.is_some() {
                self.tell_accepted(&mut state, Status::Disconnected, &mut later);
                let reason = state.cause.unwrap_or(Reason::Local);
                let event = Event::Disconnected {
                    user_data: state.disconnect_user_data,
                    connection: self.clone(),
                    reason,
                };
                state.publish(self.number, |page| {
                    page.state = usmbd_abi::memory::STATE_DISCONNECTED.into();
                    page.reason = reason.number().into();
                });
                state.post(event, &mut later);
            }
            if state.phase == Phase::Draining {
                state.phase = Phase::Gone;
            }
            if state.lingers {
                STATISTICS.lingering.add(-1);
            }
            let unused = core::mem::take(&mut state.slots);
            state.owner.take().map(|owner| (owner, unused))
        };
        if let Some((owner, unused)) = owner {
            owner.queue().release(unused, SlotOf::Connection);
        }
        STATISTICS.connections.add(-1);
        later.room = true;
        self.carry_out(later);
    }
}

impl State {
    fn take_news(&mut self, now: Time) {
        let news = core::mem::take(&mut self.news);
        if news.established {
            self.engine.handle_established(now);
        }
        if news.device_removed {
            // Kept: the drain must not ask the CM for a disconnect.
            self.news.device_removed = true;
            self.engine
                .handle_provider_error(engine::Reason::DeviceRemoved, now);
        }
        if news.abandoned && self.listener.is_some() {
            self.engine.disconnect(now);
        }
        if news.failed {
            self.cause.get_or_insert(Reason::ConnectionLost);
            self.engine.handle_disconnected(now);
        }
        if news.disconnected {
            self.engine.handle_disconnected(now);
        }
    }

    fn take_time(&mut self, now: Time) {
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
    fn post(&mut self, event: Event, later: &mut Later) {
        if let Some(owner) = &self.owner {
            if event.slot_of() == SlotOf::Connection {
                self.slots = self.slots.saturating_sub(1);
            }
            owner.queue().push(event);
            later.wake.get_or_insert_with(|| owner.clone());
        }
    }

    /// Changes the owner's status page, if this is its only connection.
    fn publish(&self, number: u64, change: impl FnOnce(&mut usmbd_abi::memory::StatusPage)) {
        if let Some(owner) = &self.owner {
            if owner.is_only(number) {
                owner.status_page.update(change);
            }
        }
    }
}
