// SPDX-License-Identifier: GPL-2.0-only

//! A connection that finds its context by its first messages; the rule is
//! [`route`](crate::context::route)'s.
//!
//! The driver is the reader of these messages: it copies a piece, and then the piece's receive is
//! posted again. It does so in the work item, unlocked, where memory can be had; nobody else touches
//! what is being routed. What it read is held until the reader of the context that gets the
//! connection has read it.

use super::link::SPARE_RECEIVES;
use super::outgoing::Outgoing;
use super::receive::ReceiveBuffers;
use super::{timer, Connection, Event, Later, Phase, Reason, State, Status, Time};
use super::{OWN_SLOTS, TICKET_LIFE};
use crate::context::listener::Listener;
use crate::context::ring::Ring;
use crate::context::route::{self, Route, Stop};
use crate::context::Context;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_engine as engine;
use usmbd_engine::Piece;

/// Credits of a peer whose connection is nobody's yet.
const ROUTING_CREDITS: u16 = 4;
/// Bytes of first messages that are held for one connection.
const MOST_HELD: usize = 64 << 10;
/// Bytes of a PDU before its payload, as most peers make them; so held pieces are no longer than
/// others.
const DATA_HEADER: u32 = 24;

/// What a peer's first messages told of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Client {
    pub(crate) guid: [u8; 16],
    /// Zero if it was not asked for.
    pub(crate) session_id: u64,
    pub(crate) negotiated: Option<engine::Negotiated>,
}

/// The first messages of a connection, and what the driver answered.
pub(crate) struct Held {
    /// NEGOTIATE, and behind it SESSION_SETUP if there was one.
    bytes: KVVec<u8>,
    /// Bytes of NEGOTIATE.
    negotiate_length: usize,
    /// The template, and the response to NEGOTIATE.
    answer: Option<(u32, KVec<u8>)>,
}

impl Held {
    /// The bytes of a piece of these messages.
    pub(crate) fn bytes(&self, piece: &Piece) -> Option<&[u8]> {
        let start = piece.payload_offset as usize;
        let end = start.checked_add(piece.payload_length as usize)?;
        self.bytes.get(start..end)
    }

    /// The response to NEGOTIATE as it was sent, if the driver answered.
    pub(crate) fn response(&self) -> &[u8] {
        self.answer.as_ref().map_or(&[], |(_, response)| response)
    }

    /// Bytes of memory.
    fn memory(&self) -> usize {
        self.bytes.len().saturating_add(self.response().len())
    }

    /// The number of the template that answered.
    pub(crate) fn template(&self) -> u32 {
        self.answer.as_ref().map_or(0, |(number, _)| *number)
    }

    /// The pieces of the message that stands from `start` to `end`, none longer than `most`.
    fn pieces(start: usize, end: usize, most: u32) -> impl Iterator<Item = Piece> {
        let total = u32::try_from(end.saturating_sub(start)).unwrap_or(0);
        let start = u32::try_from(start).unwrap_or(0);
        let most = most.max(1);
        let next = move |offset: &u32| offset.checked_add(most).filter(|next| *next < total);
        core::iter::successors((total > 0).then_some(0), next).map(move |offset| {
            let length = total.saturating_sub(offset).min(most);
            Piece {
                payload_offset: start.saturating_add(offset),
                payload_length: length,
                message_total: total,
                message_offset: offset,
                last: offset.saturating_add(length) == total,
                invalidated: None,
            }
        })
    }

    fn negotiate(&self, most: u32) -> impl Iterator<Item = Piece> {
        Self::pieces(0, self.negotiate_length, most)
    }

    fn session_setup(&self, most: u32) -> impl Iterator<Item = Piece> {
        Self::pieces(self.negotiate_length, self.bytes.len(), most)
    }

    /// Events that tell of it.
    fn events(&self, most: u32) -> usize {
        self.negotiate(most)
            .count()
            .saturating_add(self.session_setup(most).count())
            .saturating_add(usize::from(self.answer.is_some()))
    }
}

/// A connection's state while its first messages come in.
pub(super) struct Routing {
    listener: Arc<Listener>,
    /// Pieces in receives that are not posted.
    arrived: Ring<(u16, Piece)>,
    held: Held,
    client: Client,
}

impl Routing {
    fn new(listener: &Arc<Listener>, receives: u16) -> Result<KBox<Self>> {
        let routing = Self {
            listener: listener.clone(),
            arrived: Ring::with_capacity(receives.into())?,
            held: Held {
                bytes: KVVec::new(),
                negotiate_length: 0,
                answer: None,
            },
            client: Client::default(),
        };
        Ok(KBox::new(routing, GFP_KERNEL)?)
    }

    /// Adds a piece. Memory is asked for as bytes come, not as they are announced.
    fn add(&mut self, piece: &Piece, bytes: &[u8]) -> Result<(), Stop> {
        let total = self
            .held
            .negotiate_length
            .saturating_add(piece.message_total as usize);
        if total > MOST_HELD {
            return Err(Stop::NotRoutable);
        }
        self.held
            .bytes
            .extend_from_slice(bytes, GFP_KERNEL)
            .map_err(|_| Stop::NoMemory)
    }

    /// A message is whole: what to do.
    fn next(&mut self) -> Result<Route, Stop> {
        let context = self.listener.context();
        let bytes = &self.held.bytes;
        if self.held.answer.is_none() {
            let (guid, route) = route::negotiate(context, bytes)?;
            self.held.negotiate_length = bytes.len();
            self.client.guid = guid;
            return Ok(route);
        }
        let message = bytes.get(self.held.negotiate_length..).unwrap_or_default();
        let (session_id, route) = route::session_setup(context, message)?;
        self.client.session_id = session_id;
        Ok(route)
    }
}

impl Connection {
    /// A valid Negotiate Request came to a listener that routes: answers it.
    pub(super) fn begin_routing(self: &Arc<Self>, listener: &Arc<Listener>) {
        let mut parameters = listener.context().parameters();
        parameters.receive_credit_max = self.credit_limit(&parameters).min(ROUTING_CREDITS);
        let count = parameters.receive_credit_max.saturating_add(SPARE_RECEIVES);
        let made = Routing::new(listener, count).and_then(|routing| {
            let buffers = ReceiveBuffers::new(&self.device, count, parameters.max_receive_size)?;
            Ok((routing, buffers))
        });
        let Ok((routing, buffers)) = made else {
            return self.refuse();
        };
        self.with_state(|_, state, now, _| {
            if state.engine.accept(&parameters, now).is_ok() {
                state.phase = Phase::Routing;
                state.give_up_at = Some(timer::after(now, TICKET_LIFE));
                state.receives.set_buffers(buffers);
                state.routing = Some(routing);
            }
        });
    }

    /// A piece came while the connection is being routed.
    pub(super) fn arrived_for_routing(
        &self,
        state: &mut State,
        receive: u16,
        piece: Piece,
        now: Time,
        later: &mut Later,
    ) {
        let arrived = state
            .routing
            .as_mut()
            .is_some_and(|routing| routing.arrived.push((receive, piece)).is_ok());
        if arrived {
            later.route = true;
        } else {
            state.stop(Reason::NotRoutable, now);
        }
    }

    /// Takes what arrived. Only in the work item's turn.
    pub(super) fn route(self: &Arc<Self>) {
        let (routing, memory) = {
            let mut state = self.state.lock();
            (state.routing.take(), state.receives.memory.clone())
        };
        let (Some(mut routing), Some(memory)) = (routing, memory) else {
            return;
        };
        while let Some((receive, piece)) = routing.arrived.pop() {
            let bytes = memory.bytes(receive, piece.payload_offset, piece.payload_length);
            let added = routing.add(&piece, bytes.unwrap_or_default());
            self.return_receives(&[receive]);
            let route = match added {
                Ok(()) if !piece.last => continue,
                Ok(()) => routing.next(),
                Err(stop) => Err(stop),
            };
            let followed = match route {
                // Nothing may come until the peer has its answer.
                Ok(_) if !routing.arrived.is_empty() => Err(Stop::NotRoutable),
                Ok(Route::Answer(number, response)) => {
                    if let Err(stop) = self.answer(&mut routing, number, response) {
                        return self.stop(stop);
                    }
                    continue;
                }
                Ok(Route::Claimed(context)) => self.settle(routing, Some(&context)),
                Ok(Route::Ticket) => self.settle(routing, None),
                Err(stop) => Err(stop),
            };
            return match followed {
                Ok(()) => {}
                Err(stop) => self.stop(stop),
            };
        }
        self.state.lock().routing = Some(routing);
    }

    /// Answers NEGOTIATE.
    fn answer(
        self: &Arc<Self>,
        routing: &mut Routing,
        number: u32,
        response: KVec<u8>,
    ) -> Result<(), Stop> {
        let negotiated = self.negotiated().ok_or(Stop::NotRoutable)?;
        let message = Outgoing::own(&response, negotiated.max_send_size, &self.device)
            .map_err(|_| Stop::NoMemory)?;
        routing.held.answer = Some((number, response));
        // It is the first message that we send, so there is room.
        let refused = self.with_state(|_, state, _, _| state.send.queue(message).err());
        drop(refused);
        Ok(())
    }

    /// All is read that is to be read: hands the connection over, or offers it.
    fn settle(
        self: &Arc<Self>,
        routing: KBox<Routing>,
        context: Option<&Arc<Context>>,
    ) -> Result<(), Stop> {
        let routing = KBox::into_inner(routing);
        let held = Arc::new(routing.held, GFP_KERNEL).map_err(|_| Stop::NoMemory)?;
        {
            let mut state = self.state.lock();
            state.client = routing.client;
            state.client.negotiated = state.engine.negotiated();
        }
        let entered = context.is_some_and(|context| self.enter(context, &held, None).is_ok());
        if !entered {
            // No claim, or its context has no room or is going.
            self.state.lock().held = Some(held);
            self.offer(&routing.listener);
        }
        Ok(())
    }

    /// Hands the connection, with all that was read of it, to a context: by its claim, or by the
    /// ACCEPT with this `user_data`.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the connection, or the context, is at its end; `EAGAIN` if no event slots are
    /// free; `EBADF`; `ENOMEM`. Nothing has happened then.
    pub(super) fn enter(
        self: &Arc<Self>,
        context: &Arc<Context>,
        held: &Arc<Held>,
        accept: Option<u64>,
    ) -> Result {
        let maximum = self.credit_limit(&context.parameters());
        let (memory, posted, negotiated) = {
            let state = self.state.lock();
            (
                state.receives.memory.clone().ok_or(ENOENT)?,
                state.receives.count(),
                state.engine.negotiated().ok_or(ENOENT)?,
            )
        };
        let count = maximum.saturating_add(SPARE_RECEIVES).max(posted);
        let larger = ReceiveBuffers::larger(&self.device, count, &memory)?;
        let most = negotiated.max_receive_size.saturating_sub(DATA_HEADER);
        let slots = usize::from(count)
            .saturating_add(OWN_SLOTS)
            .saturating_add(held.events(most));
        self.find_room(context, slots)?;
        let expected = match accept {
            Some(_) => Phase::Offered,
            None => Phase::Routing,
        };
        let entered = self.with_state(|this, state, _, later| {
            // The context may have been closed since it took the connection in.
            if state.phase != expected
                || state.link.is_none()
                || state.engine.end().is_some()
                || context.connection(this.number).is_none()
            {
                return Err(ENOENT);
            }
            state.phase = Phase::Serving;
            state.give_up_at = None;
            state.ticket = None;
            state.owner = Some(context.clone());
            state.slots = slots;
            state.receives.grow(larger);
            state.engine.set_receive_credit_max(maximum);
            state.client.negotiated = state.engine.negotiated();
            match accept {
                Some(user_data) => {
                    state.accept_user_data = user_data;
                    this.tell_accepted(state, Status::Ok, later);
                }
                None => {
                    state.accepted = true;
                    this.begin_serving(state);
                    let connection = this.clone();
                    state.post(Event::ConnectionRouted { connection }, later);
                }
            }
            this.post_held(state, held, most, later);
            Ok((state.listener.take(), state.held.take()))
        });
        // What was held is dropped here, unlocked, if it was read meanwhile.
        self.came_in(context, slots, entered.map(|(listener, _)| listener))
    }

    fn post_held(
        self: &Arc<Self>,
        state: &mut State,
        held: &Arc<Held>,
        most: u32,
        later: &mut Later,
    ) {
        let event = |piece| Event::HeldPiece {
            connection: self.number,
            held: held.clone(),
            piece,
        };
        for piece in held.negotiate(most) {
            state.post(event(piece), later);
        }
        if held.answer.is_some() {
            let answered = Event::NegotiateAnswered {
                connection: self.number,
                held: held.clone(),
            };
            state.post(answered, later);
        }
        for piece in held.session_setup(most) {
            state.post(event(piece), later);
        }
    }

    fn stop(self: &Arc<Self>, stop: Stop) {
        let reason = match stop {
            Stop::NotRoutable => Reason::NotRoutable,
            Stop::NoMemory => Reason::NoMemory,
        };
        self.with_state(|_, state, now, _| state.stop(reason, now));
    }
}

impl State {
    /// Bytes of memory that its first messages have, until somebody takes it.
    pub(super) fn held_memory(&self) -> usize {
        let routing = self.routing.as_ref().map(|routing| &routing.held);
        let held = routing.or(self.held.as_deref());
        held.map_or(0, Held::memory)
    }

    /// Ends the connection for this reason.
    pub(super) fn stop(&mut self, reason: Reason, now: Time) {
        self.cause.get_or_insert(reason);
        self.engine.disconnect(now);
    }
}
