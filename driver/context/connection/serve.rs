// SPDX-License-Identifier: GPL-2.0-only

//! What a context does with a connection: takes it by its ticket, sends on it, lets it go.

use super::link::SPARE_RECEIVES;
use super::outgoing::{Outgoing, SendRequest};
use super::ranges::{fetch_list, Ranges};
use super::receive::ReceiveBuffers;
use super::{
    pending, timer, Connection, Event, Later, Phase, Reason, SlotOf, State, Time, LINGER,
    OWN_SLOTS, STATISTICS, TICKET_LIFE,
};
use crate::compat;
use crate::context::listener::Listener;
use crate::context::pending::Ticket;
use crate::context::plug::Plug;
use crate::context::Context;
use crate::few::Few;
use crate::memory::Caller;
use kernel::iov::IovIterSource;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::memory::{
    MemoryRange, StatusPage, STATE_ACCEPTING, STATE_DISCONNECTED, STATE_ESTABLISHED,
};
use usmbd_engine::{MessageError, Parameters};

impl Connection {
    /// A valid Negotiate Request is there.
    pub(super) fn requested(self: &Arc<Self>) {
        let listener = self.state.lock().listener.clone();
        let Some(listener) = listener else { return };
        if listener.routes() {
            self.begin_routing(&listener);
        } else {
            self.offer(&listener);
        }
    }

    /// Mints a ticket and tells the listener's context.
    pub(super) fn offer(self: &Arc<Self>, listener: &Arc<Listener>) {
        let context = listener.context();
        let reserved = pending::Reservation::new(self).and_then(|made| {
            context.queue().reserve(1, SlotOf::Connection)?;
            Ok(made)
        });
        let Ok((reservation, ticket)) = reserved else {
            return self.refuse();
        };
        {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Negotiating | Phase::Routing) {
                drop(state);
                context.queue().release(1, SlotOf::Connection);
                return;
            }
            let now = timer::now();
            state.phase = Phase::Offered;
            state.ticket = Some(ticket);
            // For routing the time runs already.
            let until = timer::after(now, TICKET_LIFE);
            state.give_up_at.get_or_insert(until);
            self.arm(&mut state, now);
        }
        // A listener that is being closed ends its connections itself.
        let offered = listener.while_open(|| {
            reservation.offer();
            context.post(Event::ConnectionReady {
                connection: self.clone(),
                listener: listener.number(),
                ticket,
            });
        });
        if !offered {
            context.queue().release(1, SlotOf::Connection);
        }
    }

    /// Answers the Negotiate Request with a failure.
    pub(crate) fn refuse(self: &Arc<Self>) {
        self.with_state(|_, state, now, _| state.engine.reject(now));
    }

    /// Runs an input to the engine, and all that follows from it.
    pub(super) fn with_state<R>(
        self: &Arc<Self>,
        input: impl FnOnce(&Arc<Self>, &mut State, Time, &mut Later) -> R,
    ) -> R {
        let mut later = Later::default();
        let result = {
            let mut state = self.state.lock();
            let now = timer::now();
            let result = input(self, &mut state, now, &mut later);
            self.advance(&mut state, now, &mut later);
            result
        };
        self.carry_out(later);
        result
    }

    /// Takes the connection that has this ticket into `context`, under its parameters.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the ticket is not good (any more); `EAGAIN` if no event slots are free;
    /// `ENOMEM`. The ticket stays good then, save for the first.
    pub(crate) fn accept(context: &Arc<Context>, ticket: &Ticket, user_data: u64) -> Result {
        let (connection, entry) = pending::take(ticket).ok_or(ENOENT)?;
        let result = connection.accept_into(context, user_data);
        if result.is_err() {
            entry.offer();
            if connection.state.lock().phase != Phase::Offered {
                // It may have ended before the entry was back, and did not find it.
                drop(pending::take(ticket));
            }
        }
        // With the device goes the connection.
        result.map_err(|error| if error == ENODEV { ENOENT } else { error })
    }

    fn accept_into(self: &Arc<Self>, context: &Arc<Context>, user_data: u64) -> Result {
        let held = self.state.lock().held.clone();
        if let Some(held) = held {
            return self.enter(context, &held, Some(user_data));
        }
        let mut parameters = context.parameters();
        parameters.receive_credit_max = self.credit_limit(&parameters);
        let count = parameters.receive_credit_max.saturating_add(SPARE_RECEIVES);
        let buffers = ReceiveBuffers::new(&self.device, count, parameters.max_receive_size)?;
        let slots = usize::from(count).saturating_add(OWN_SLOTS);
        self.find_room(context, slots)?;
        let listener = self.with_state(|this, state, now, _| {
            if state.phase != Phase::Offered || state.link.is_none() {
                return Err(ENOENT);
            }
            state.phase = Phase::Serving;
            state.give_up_at = None;
            state.ticket = None;
            state.owner = Some(context.clone());
            state.accept_user_data = user_data;
            state.slots = slots;
            state.receives.set_buffers(buffers);
            this.publish_state(state, STATE_ACCEPTING);
            match state.engine.accept(&parameters, now) {
                Ok(_) => {}
                Err(_) => state.engine.disconnect(now),
            }
            Ok(state.listener.take())
        });
        self.came_in(context, slots, listener)
    }

    /// Makes room for the connection in a context: so many event slots, and its place in the table.
    pub(super) fn find_room(self: &Arc<Self>, context: &Context, slots: usize) -> Result {
        context.queue().reserve(slots, SlotOf::Connection)?;
        context
            .adopt(self)
            .inspect_err(|_| context.queue().release(slots, SlotOf::Connection))
    }

    /// The connection is the context's, and leaves this listener; or it could not be, and gives up
    /// what [`Self::find_room`] made.
    pub(super) fn came_in(
        &self,
        context: &Context,
        slots: usize,
        listener: Result<Option<Arc<Listener>>>,
    ) -> Result {
        match listener {
            Ok(listener) => {
                if let Some(listener) = listener {
                    listener.release();
                }
                Ok(())
            }
            Err(error) => {
                context.forget(self, None);
                context.queue().release(slots, SlotOf::Connection);
                Err(error)
            }
        }
    }

    /// The peer's credits at most, in a context with these parameters: the queue pair was made under
    /// the listener's.
    pub(super) fn credit_limit(&self, parameters: &Parameters) -> u16 {
        let capacity = self.state.lock().receives.capacity();
        let most = capacity.saturating_sub(SPARE_RECEIVES).max(1);
        parameters.receive_credit_max.min(most)
    }

    /// Refuses the connection that has this ticket.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the ticket is not good (any more).
    pub(crate) fn reject(ticket: &Ticket) -> Result {
        pending::take(ticket).ok_or(ENOENT)?.0.refuse();
        Ok(())
    }

    /// Ends the connection now; what was not sent is dropped.
    pub(crate) fn disconnect(self: &Arc<Self>) {
        self.with_state(|_, state, now, _| state.engine.disconnect(now));
    }

    /// Its context was closed. What was accepted is sent within [`LINGER`], then it ends.
    pub(crate) fn detach(self: &Arc<Self>) {
        let owner = self.with_state(|_, state, now, _| {
            let owner = state.owner.take();
            match state.phase {
                Phase::Serving => {
                    state.phase = Phase::Lingering;
                    state.lingers = true;
                    STATISTICS.lingering.add(1);
                    state.give_up_at = Some(timer::after(now, LINGER));
                }
                // Nobody has accepted anything for sending.
                Phase::Connecting => state.engine.disconnect(now),
                _ => {}
            }
            owner
        });
        drop(owner);
    }

    /// SEND_READY was read. Whether its slot stays the connection's; else it is to be released.
    pub(crate) fn send_ready_read(&self) -> bool {
        let mut state = self.state.lock();
        state.send_ready_queued = false;
        let keeps_slot = state.owner.is_some();
        if keeps_slot {
            state.slots = state.slots.saturating_add(1);
        }
        keeps_slot
    }

    /// As [`Self::disconnect`], for the command.
    ///
    /// # Errors
    ///
    /// `ENOTCONN` if the connection has ended; `ENOENT` if `context` is only about to have it, and
    /// would not get its end.
    pub(crate) fn disconnect_by_command(
        self: &Arc<Self>,
        context: &Arc<Context>,
        user_data: u64,
    ) -> Result {
        self.with_state(|_, state, now, _| {
            // One of two writers gets the event.
            if state.engine.end().is_some() {
                return Err(compat::ENOTCONN);
            }
            let owner = state.owner.as_ref();
            if owner.is_none_or(|owner| !Arc::ptr_eq(owner, context)) {
                return Err(ENOENT);
            }
            state.disconnect_user_data = user_data;
            state.engine.disconnect(now);
            Ok(())
        })
    }

    /// Takes a message. It is sent when the messages and RDMA writes before it are; PDU_SENT tells
    /// when it was.
    ///
    /// # Errors
    ///
    /// `ENOTCONN` if the connection is not established or has ended; `EMSGSIZE` if the peer takes
    /// no message that long; `EAGAIN` if it would have to wait and `nowait` is set (SEND_READY
    /// follows when there is room); `ERESTARTSYS`; `EFAULT`, also for ranges that are not the
    /// caller's; `EINVAL` for padding that is not zero, or ranges that are not as long as the
    /// message; `ENOMEM`.
    pub(crate) fn send(
        self: &Arc<Self>,
        context: &Arc<Context>,
        request: &SendRequest,
        source: &mut IovIterSource<'_>,
        nowait: bool,
        plug: &mut Plug,
    ) -> Result {
        context.reserve_command_bytes(request.list_bytes())?;
        let result = self.take_message(context, request, source, nowait, plug);
        if result.is_err() {
            context.release_command_bytes(request.list_bytes());
        }
        result
    }

    /// The message of a SEND_PDU.
    fn fetch_message(
        &self,
        context: &Context,
        request: &SendRequest,
        max_send_size: u32,
        caller: &mut Caller,
        source: &mut IovIterSource<'_>,
    ) -> Result<KBox<Outgoing>> {
        let Some(count) = request.ranges else {
            return Outgoing::copied_from(request, max_send_size, &self.device, source);
        };
        let mut named = Few::new();
        fetch_list::<MemoryRange>(source, count, &mut named)?;
        let mut ranges = KBox::new(Ranges::new(self, false), GFP_KERNEL_ACCOUNT)?;
        ranges.resolve(self, context, caller, &named, false, |total| {
            (total == request.length).then_some(()).ok_or(EINVAL)
        })?;
        Outgoing::in_ranges(request, ranges)
    }

    fn take_message(
        self: &Arc<Self>,
        context: &Context,
        request: &SendRequest,
        source: &mut IovIterSource<'_>,
        nowait: bool,
        plug: &mut Plug,
    ) -> Result {
        // A long one is not fetched before there is room, or a writer that waits would cost a message.
        let max_send_size = match self.negotiated.as_ref() {
            Some(negotiated) if request.is_one_pdu(negotiated.max_send_size) => {
                negotiated.max_send_size
            }
            _ => self.wait_for_room(request, nowait, plug)?,
        };
        let caller = &mut plug.caller;
        let mut message = self
            .fetch_message(context, request, max_send_size, caller, source)
            .map_err(|error| self.refusal(error))?;
        while let Some(refused) = self.queue_message(message, request)? {
            message = refused;
            self.wait_for_room(request, nowait, plug)?;
        }
        plug.hold(self);
        Ok(())
    }

    /// Why a command is refused that was fetched without the lock, and found bad: that the
    /// connection has ended comes before anything that is wrong with the command, and so does that
    /// its device goes away, with which it ends.
    #[cold]
    pub(super) fn refusal(&self, error: Error) -> Error {
        if error != ENODEV && self.state.lock().is_serving() {
            error
        } else {
            compat::ENOTCONN
        }
    }

    /// Queues the message of a request; gives it back if there is no room.
    fn queue_message(
        &self,
        message: KBox<Outgoing>,
        request: &SendRequest,
    ) -> Result<Option<KBox<Outgoing>>> {
        let mut state = self.state.lock();
        if !state.may_queue(request)? {
            return Ok(Some(message));
        }
        let refused = state.send.queue(message).err();
        if refused.is_none() {
            let length = u64::from(request.length);
            state.bytes_accepted = state.bytes_accepted.wrapping_add(length);
        }
        Ok(refused)
    }

    /// Posts what commands have queued.
    pub(crate) fn post_queued(self: &Arc<Self>) {
        self.with_state(|_, _, _, _| ());
    }

    /// Sleeps until a message can be queued; says how large a PDU may be.
    fn wait_for_room(
        self: &Arc<Self>,
        request: &SendRequest,
        nowait: bool,
        plug: &mut Plug,
    ) -> Result<u32> {
        self.wait_until(nowait, plug, |state| {
            if !state.may_queue(request)? {
                return Ok(None);
            }
            let negotiated = state.engine.negotiated().ok_or(compat::ENOTCONN)?;
            Ok(Some(negotiated.max_send_size))
        })
    }

    /// Sleeps until a command can be queued, which is when `ready` returns something. With `nowait`,
    /// `EAGAIN` at once, and SEND_READY later.
    pub(super) fn wait_until<R>(
        self: &Arc<Self>,
        nowait: bool,
        plug: &mut Plug,
        ready: impl Fn(&State) -> Result<Option<R>>,
    ) -> Result<R> {
        let mut state = self.state.lock();
        loop {
            if !state.is_serving() {
                return Err(compat::ENOTCONN);
            }
            if let Some(room) = ready(&state)? {
                return Ok(room);
            }
            if plug.holds(self) {
                // What this batch has queued may be in the way.
                drop(state);
                plug.pull();
                state = self.state.lock();
                continue;
            }
            if nowait {
                state.send_ready_wanted = true;
                return Err(EAGAIN);
            }
            if self.room.wait_interruptible(&mut state) {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// Has the status page tell this state of it.
    pub(super) fn publish_state(&self, state: &mut State, number: u32) {
        if let Some(negotiated) = state.engine.negotiated() {
            self.negotiated.populate(negotiated);
        }
        state.page_state = number;
        state.publish(self.number, |page| self.describe(state, page));
    }

    /// The other connections of `context` are gone: its status page is about this one now.
    pub(crate) fn publish_alone(&self, context: &Context) {
        let state = self.state.lock();
        context.publish(self.number, |page| self.describe(&state, page));
    }

    /// Fills the status page's connection fields.
    fn describe(&self, state: &State, page: &mut StatusPage) {
        crate::context::dispatch::describe(page, self, self.negotiated.as_ref());
        page.state = state.page_state.into();
        let ended = state.page_state == STATE_DISCONNECTED;
        let reason = if ended {
            state.cause.unwrap_or(Reason::Local).number()
        } else {
            0
        };
        page.reason = reason.into();
        page.bytes_accepted = state.bytes_accepted.into();
        page.bytes_completed = state.bytes_completed.into();
    }

    /// Its context can send and receive from now on.
    pub(super) fn begin_serving(&self, state: &mut State) {
        self.publish_state(state, STATE_ESTABLISHED);
        STATISTICS.connections_accepted.add(1);
    }
}

impl State {
    /// Whether the connection is established, and nothing has ended it.
    pub(super) fn is_serving(&self) -> bool {
        self.phase == Phase::Serving && self.engine.end().is_none()
    }

    /// Whether there is room for the message of a request.
    ///
    /// # Errors
    ///
    /// `ENOTCONN`, `EINVAL`, `EMSGSIZE`; see [`Connection::send`].
    fn may_queue(&self, request: &SendRequest) -> Result<bool> {
        if self.phase != Phase::Serving {
            return Err(compat::ENOTCONN);
        }
        match self.engine.check_message(request.length) {
            Ok(()) => Ok(self.send.has_room(request.copied())),
            Err(MessageError::Empty) => Err(EINVAL),
            Err(MessageError::TooLong) => Err(EMSGSIZE),
            Err(MessageError::NotEstablished) => Err(compat::ENOTCONN),
        }
    }
}
