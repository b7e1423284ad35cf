// SPDX-License-Identifier: GPL-2.0-only

//! The events of one context, in the order in which they happened.
//!
//! No event is ever lost and none needs memory when it happens: whoever may cause one reserves its
//! slot first. A slot is *committed* from its reservation until the event was read (or the cause
//! went away without one).

use super::connection::{Connection, Held};
use super::limits;
use super::listener::Listener;
use super::ring::Ring;
use super::stats::Counters;
use crate::compat::PollWait;
use crate::verbs::SocketAddr;
use kernel::prelude::*;
use kernel::sync::{new_condvar, new_spinlock, Arc, CondVar, SpinLock};
use usmbd_abi::status::{Reason, Status};
use usmbd_engine::Piece;

/// One thing that happened. `dispatch` turns it into a record.
pub(crate) enum Event {
    HelloDone {
        user_data: u64,
        version: u32,
        features: u64,
    },
    NopDone {
        user_data: u64,
    },
    MemoryParameters {
        user_data: u64,
    },
    MemoryRegistered {
        user_data: u64,
        handle: u32,
        length: u64,
    },
    MemoryUnregistered {
        user_data: u64,
        handle: u32,
    },
    Listening {
        user_data: u64,
        status: Status,
        listener: u32,
    },
    ListenerClosed {
        user_data: u64,
        listener: u32,
    },
    /// The devices that the listener serves, as they are when it is read.
    ListenerChanged {
        listener: Arc<Listener>,
    },
    ConnectionReady {
        connection: Arc<Connection>,
        listener: u32,
        ticket: [u8; 16],
    },
    Accepted {
        user_data: u64,
        connection: Arc<Connection>,
        status: Status,
    },
    Connected {
        user_data: u64,
        connection: Arc<Connection>,
    },
    /// CONNECTED too.
    ConnectFailed {
        user_data: u64,
        status: Status,
        peer: SocketAddr,
    },
    /// A piece of a message; it stands in `receive` of the connection's receive buffers.
    Piece {
        connection: Arc<Connection>,
        receive: u16,
        piece: Piece,
    },
    ConnectionRouted {
        connection: Arc<Connection>,
    },
    /// A piece of a message that was read for routing; it stands in `held`.
    HeldPiece {
        connection: Arc<Connection>,
        held: Arc<Held>,
        piece: Piece,
    },
    /// The answer stands in `held`.
    NegotiateAnswered {
        connection: u64,
        held: Arc<Held>,
    },
    PduSent {
        user_data: u64,
        connection: u64,
        status: Status,
    },
    RdmaComplete {
        user_data: u64,
        connection: u64,
        status: Status,
        length: u32,
    },
    Disconnected {
        user_data: u64,
        connection: Arc<Connection>,
        reason: Reason,
    },
    SendReady {
        connection: Arc<Connection>,
    },
    Statistics {
        user_data: u64,
        connection: u64,
        counters: KBox<Counters>,
    },
    Connections {
        user_data: u64,
        count: u32,
        left: u32,
        /// As they stand in the record.
        entries: KVec<u8>,
    },
}

impl Event {
    /// Whom the event's slot was reserved for.
    pub(crate) fn slot_of(&self) -> SlotOf {
        match self {
            Event::HelloDone { .. }
            | Event::MemoryParameters { .. }
            | Event::Statistics { .. }
            | Event::Connections { .. } => SlotOf::Answer,
            Event::NopDone { .. }
            | Event::MemoryRegistered { .. }
            | Event::MemoryUnregistered { .. }
            | Event::Listening { .. }
            | Event::ListenerClosed { .. }
            | Event::PduSent { .. }
            | Event::RdmaComplete { .. } => SlotOf::Command,
            Event::ListenerChanged { .. }
            | Event::ConnectionReady { .. }
            | Event::ConnectionRouted { .. }
            | Event::Accepted { .. }
            | Event::Connected { .. }
            | Event::ConnectFailed { .. }
            | Event::Piece { .. }
            | Event::HeldPiece { .. }
            | Event::NegotiateAnswered { .. }
            | Event::Disconnected { .. }
            | Event::SendReady { .. } => SlotOf::Connection,
        }
    }

    fn is_answer(&self) -> bool {
        self.slot_of() == SlotOf::Answer
    }

    /// If it is a piece of a message: of which connection, and which.
    pub(crate) fn piece(&self) -> Option<(&Arc<Connection>, &Piece)> {
        match self {
            Event::Piece {
                connection, piece, ..
            }
            | Event::HeldPiece {
                connection, piece, ..
            } => Some((connection, piece)),
            _ => None,
        }
    }
}

/// Where the bytes of a queued piece stand.
pub(crate) enum Place {
    /// In this receive of its connection.
    Receive(u16),
    /// In kernel memory.
    Held(Arc<Held>),
}

/// Answers that can wait to be read.
const MAX_ANSWERS: usize = 16;

struct Inner {
    /// Answers to questions about the context itself; read before everything else.
    answers: Ring<Event>,
    /// Reserved or queued answers.
    committed_answers: usize,
    /// All other events.
    ring: Ring<Event>,
    /// Reserved or queued events of `ring`.
    committed: usize,
    /// Of these, reserved by commands.
    commands: usize,
    /// Somebody copies events out.
    reading: bool,
    /// The context is gone; what is pushed now is dropped.
    closed: bool,
}

/// See the module's documentation.
///
/// # Invariants
///
/// `committed` is at least the ring's length, and at most its capacity; the same holds for
/// `committed_answers` and `answers`.
#[pin_data]
pub(crate) struct EventQueue {
    #[pin]
    inner: SpinLock<Inner>,
    /// Readers of an empty queue, and pollers.
    wait: PollWait,
    /// Readers while another one copies.
    #[pin]
    turn: CondVar,
}

/// Who a slot is for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum SlotOf {
    /// A command that completes later.
    Command,
    /// A question that is answered at once.
    Answer,
    /// What happens to a connection by itself.
    Connection,
}

impl EventQueue {
    pub(crate) fn new() -> Result<impl PinInit<Self>> {
        let wait = PollWait::new()?;
        let answers = Ring::with_capacity(MAX_ANSWERS)?;
        Ok(pin_init!(Self {
            inner <- new_spinlock!(Inner {
                answers,
                committed_answers: 0,
                ring: Ring::empty(),
                committed: 0,
                commands: 0,
                reading: false,
                closed: false,
            }, "usmbd_event_queue"),
            wait,
            turn <- new_condvar!("usmbd_reading"),
        }))
    }

    /// Reserves slots for `count` events to come. May sleep.
    ///
    /// # Errors
    ///
    /// `EAGAIN` at the limit: somebody has to read events first. `ENOMEM`.
    pub(crate) fn reserve(&self, count: usize, of: SlotOf) -> Result {
        let mut larger = Ring::empty();
        loop {
            let needed = {
                let mut inner = self.inner.lock();
                if of == SlotOf::Answer {
                    let needed = inner.committed_answers.saturating_add(count);
                    if needed > inner.answers.capacity() {
                        return Err(EAGAIN);
                    }
                    inner.committed_answers = needed;
                    return Ok(());
                }
                let needed = inner.committed.saturating_add(count);
                let commands = inner.commands.saturating_add(count);
                if needed > limits::events()
                    || (of == SlotOf::Command && commands > limits::commands())
                {
                    return Err(EAGAIN);
                }
                if needed > inner.ring.capacity() && needed <= larger.capacity() {
                    inner.ring.grow_into(&mut larger);
                }
                if needed <= inner.ring.capacity() {
                    // INVARIANT: Compared with the capacity just now.
                    inner.committed = needed;
                    if of == SlotOf::Command {
                        inner.commands = commands;
                    }
                    return Ok(());
                }
                needed
            };
            let capacity = needed.checked_next_power_of_two().ok_or(ENOMEM)?;
            larger = Ring::with_capacity(capacity.max(32))?;
        }
    }

    /// Gives back the slots of `count` events that will not happen or that were read. Wakes those
    /// who wait for room, once there is some.
    pub(crate) fn release(&self, count: usize, of: SlotOf) {
        let has_room_now = {
            let mut inner = self.inner.lock();
            let had_room = inner.has_room();
            match of {
                SlotOf::Answer => {
                    inner.committed_answers = inner.committed_answers.saturating_sub(count);
                }
                SlotOf::Command => {
                    inner.committed = inner.committed.saturating_sub(count);
                    inner.commands = inner.commands.saturating_sub(count);
                }
                SlotOf::Connection => inner.committed = inner.committed.saturating_sub(count),
            }
            !had_room && inner.has_room()
        };
        if has_room_now {
            self.wake();
        }
    }

    /// Adds an event whose slot was reserved. The caller calls [`Self::wake`] afterwards, once for
    /// all that it adds.
    pub(crate) fn push(&self, event: Event) {
        let refused = {
            let mut inner = self.inner.lock();
            if inner.closed {
                Some(event)
            } else {
                // By the type invariant a reserved slot is there.
                inner.ring_of(&event).push(event).err()
            }
        };
        // A refused event is dropped here, unlocked: it may hold the last reference of its
        // connection.
        drop(refused);
    }

    /// Tells readers and pollers that the state changed.
    pub(crate) fn wake(&self) {
        self.wait.notify_all();
    }

    /// Takes the oldest event. Its slot stays committed: [`Self::release`] it, or
    /// [`Self::put_back`] the event.
    pub(crate) fn pop(&self) -> Option<Event> {
        let mut inner = self.inner.lock();
        match inner.answers.pop() {
            Some(answer) => Some(answer),
            None => inner.ring.pop(),
        }
    }

    /// The piece at `position`, counted from the oldest event that is no answer.
    pub(crate) fn piece(&self, position: usize) -> Option<(Place, Piece)> {
        match self.inner.lock().ring.get(position)? {
            Event::Piece { receive, piece, .. } => Some((Place::Receive(*receive), *piece)),
            Event::HeldPiece { held, piece, .. } => Some((Place::Held(held.clone()), *piece)),
            _ => None,
        }
    }

    /// Takes the oldest event that is no answer, if it is a piece; as [`Self::pop`] else.
    pub(crate) fn pop_piece(&self) -> Option<Event> {
        let mut inner = self.inner.lock();
        inner.ring.front()?.piece()?;
        inner.ring.pop()
    }

    /// Puts back an event that could not be delivered.
    pub(crate) fn put_back(&self, event: Event) {
        let refused = {
            let mut inner = self.inner.lock();
            // Its slot is still committed, so there is room.
            inner.ring_of(&event).push_front(event).err()
        };
        drop(refused);
    }

    /// Looks at the queued events, under the queue's lock: `look` must be short and take no other
    /// lock. None if there are none.
    pub(crate) fn look<R>(&self, look: impl FnOnce(View<'_>) -> R) -> Option<R> {
        let inner = self.inner.lock();
        inner.front()?;
        Some(look(View(&inner)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        let inner = self.inner.lock();
        inner.answers.len().saturating_add(inner.ring.len())
    }

    /// Whether a quarter of the slots for commands, and for answers, is free.
    pub(crate) fn has_room(&self) -> bool {
        self.inner.lock().has_room()
    }

    /// Slots that are reserved or in use: for everything but answers, and of these for commands.
    pub(crate) fn committed(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.committed, inner.commands)
    }

    /// Sleeps until an event is queued and nobody else copies any. Until the result is dropped,
    /// nobody else does, so that the events of a connection stay in order.
    ///
    /// # Errors
    ///
    /// `EAGAIN` in the place of sleeping, with `nowait`; `ERESTARTSYS` on a signal.
    pub(crate) fn begin_reading(&self, nowait: bool) -> Result<Reading<'_>> {
        let mut inner = self.inner.lock();
        loop {
            let wait: &CondVar = if inner.reading {
                &self.turn
            } else if inner.front().is_none() {
                &self.wait
            } else {
                inner.reading = true;
                return Ok(Reading(self));
            };
            if nowait {
                return Err(EAGAIN);
            }
            if wait.wait_interruptible(&mut inner) {
                return Err(ERESTARTSYS);
            }
        }
    }

    pub(crate) fn poll_wait(&self) -> &PollWait {
        &self.wait
    }

    /// No event comes any more. Hands out what is queued, for the caller to undo.
    pub(crate) fn close(&self) -> Ring<Event> {
        let mut inner = self.inner.lock();
        inner.closed = true;
        core::mem::replace(&mut inner.ring, Ring::empty())
    }
}

/// The right to take events out of a queue.
pub(crate) struct Reading<'a>(&'a EventQueue);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().reading = false;
        self.0.turn.notify_all();
    }
}

/// The queued events of a queue that is locked.
#[derive(Clone, Copy)]
pub(crate) struct View<'a>(&'a Inner);

impl<'a> View<'a> {
    /// The event that is read next.
    pub(crate) fn head(self) -> Option<&'a Event> {
        self.0.front()
    }

    /// The event at `position` from the head on; none while answers are read first.
    pub(crate) fn get(self, position: usize) -> Option<&'a Event> {
        if self.0.answers.is_empty() {
            self.0.ring.get(position)
        } else {
            None
        }
    }
}

impl Inner {
    fn has_room(&self) -> bool {
        limits::has_room(self.commands, limits::commands())
            && limits::has_room(self.committed_answers, MAX_ANSWERS)
    }

    fn front(&self) -> Option<&Event> {
        self.answers.front().or(self.ring.front())
    }

    fn ring_of(&mut self, event: &Event) -> &mut Ring<Event> {
        if event.is_answer() {
            &mut self.answers
        } else {
            &mut self.ring
        }
    }
}
