// SPDX-License-Identifier: GPL-2.0-only

//! One SMB Direct connection: the engine, the queue pair under it, and the context it belongs to.
//!
//! Everything that happens to a connection goes the same way: an input to the engine under the
//! connection's lock, then [`Connection::advance`], which carries out what the engine asks for, and
//! then, unlocked, [`Later`]: what may sleep. Completions, CM events and timers only enqueue the
//! connection's one work item, so they are never concurrent with each other.

mod active;
mod depths;
mod end;
mod link;
mod operate;
mod outgoing;
mod passive;
mod ranges;
mod receive;
mod routing;
mod send;
mod serve;
mod settle;
mod state;
mod transfer;

use super::event_queue::{Event, SlotOf};
use super::limits::Place;
use super::listener::Listener;
use super::pending;
use super::stats::{Counters, STATISTICS};
use super::{dispatch, registry, timer, Context};
use crate::verbs::{
    Bound, CmEvent, CmOwner, CompletionOwner, Device, Fabric, Net, SocketAddr, WorkCompletion,
};
use crate::{module, workqueue};
use kernel::prelude::*;
use kernel::sync::{new_condvar, new_spinlock, Arc, ArcBorrow, CondVar, SetOnce, SpinLock};
use kernel::time::msecs_to_jiffies;
use kernel::workqueue::{
    impl_has_delayed_work, impl_has_work, new_delayed_work, new_work, DelayedWork, Work, WorkItem,
};
use link::WorkRequestId;
use state::{Later, Phase, State};
use usmbd_abi::status::{Reason, Status};
use usmbd_engine as engine;
use usmbd_engine::read_depth::ReadDepths;
use usmbd_engine::{Role, Time};

pub(crate) use operate::PhaseShown;
pub(crate) use outgoing::SendRequest;
pub(crate) use receive::ReceiveMemory;
pub(crate) use routing::{Client, Held};
pub(crate) use transfer::TransferRequest;

/// Milliseconds for which a ticket is good.
const TICKET_LIFE: u64 = 30_000;
/// Milliseconds that a connection without a context may take to send what was accepted.
const LINGER: u64 = 5_000;
/// Completions that one connection may have handled before the others have their turn.
const BUDGET: usize = 64;
/// Event slots of a connection besides its receives: ACCEPTED, CONNECTION_ROUTED or CONNECTED;
/// SEND_READY; DISCONNECTED.
const OWN_SLOTS: usize = 3;
/// How often the fabric tries again.
const RETRY_COUNT: u8 = 6;

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
    role: Role,
    /// What negotiation made of the parameters, once a context has it. But for `receive_credit_target`
    /// that does not change.
    negotiated: SetOnce<engine::Negotiated>,
    #[pin]
    state: SpinLock<State>,
    /// Writers that wait for room in the send queue.
    #[pin]
    room: CondVar,
    #[pin]
    work: Work<Connection>,
    #[pin]
    deadline: DelayedWork<Connection, 1>,
    /// What its listener has of it, if it came to one.
    _place: Option<Place>,
    /// The module stays as long as the connection has work to do.
    _module: module::Reference,
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
                CmEvent::Established(param) => {
                    state.news.established = true;
                    this.agree(&mut state, param);
                }
                CmEvent::Disconnected => state.news.disconnected = true,
                CmEvent::Failed(failure) => state.news.failed = Some(failure),
                CmEvent::DeviceRemoval => state.news.device_removed = true,
                _ => return Ok(()),
            }
        }
        Arc::from(this).enqueue();
        Ok(())
    }
}

impl Connection {
    /// A connection without a link, where an id is.
    fn with_state_at(
        bound: &Bound<'_>,
        net: &Net,
        device: Arc<Device>,
        state: State,
        place: Option<Place>,
    ) -> Result<Arc<Self>> {
        let module = module::Reference::get().ok_or(ENODEV)?;
        let (local, peer) = (bound.local(), bound.peer());
        Arc::pin_init(
            pin_init!(Self {
                number: registry::next_number(),
                net: net.clone(),
                fabric: device.fabric(bound.port()),
                local,
                peer,
                device,
                role: state.engine.role(),
                negotiated: SetOnce::new(),
                state <- new_spinlock!(state, "usmbd_connection"),
                room <- new_condvar!("usmbd_send_room"),
                work <- new_work!("usmbd_connection"),
                deadline <- new_delayed_work!("usmbd_deadline"),
                _place: place,
                _module: module,
            }),
            GFP_KERNEL_ACCOUNT,
        )
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
            let more = self.take_completions(&mut state, now, &mut later);
            if !more {
                state.take_end(now);
            }
            later.again |= more;
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
        let mut handled = 0usize;
        loop {
            let polled = link.poll(|completion| self.complete(state, completion, now, later));
            handled = handled.saturating_add(polled.count);
            if handled >= BUDGET {
                break true;
            }
            // Arming tells whether something came between the poll and it.
            if polled.all && !link.arm() {
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
                engine::Event::Established(_) if self.role == Role::Active => {
                    self.tell_connected(state, now, later);
                }
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
        if let Some(connector) = later.connected.take() {
            connector.finish();
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
}
