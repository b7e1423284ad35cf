// SPDX-License-Identifier: GPL-2.0-only

//! The events of one context, in the order in which they happened.
//!
//! No event is ever lost and none needs memory when it happens: whoever may cause one reserves its
//! slot first. A slot is *committed* from its reservation until the event was read (or the cause
//! went away without one).

mod pieces;

use super::connection::{Connection, Held};
use super::limits;
use super::listener::Listener;
use super::ring::Ring;
use super::stats::Counters;
use crate::compat::PollWait;
use crate::verbs::SocketAddr;
use kernel::prelude::*;
use kernel::sync::{new_condvar, new_spinlock, Arc, CondVar, SpinLock, SpinLockGuard};
use usmbd_abi::status::{Reason, Status};
use usmbd_engine::Piece;

pub(crate) use pieces::{Queued, Stretch, Window};

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
        connection: u64,
        receive: u16,
        piece: Piece,
    },
    ConnectionRouted {
        connection: Arc<Connection>,
    },
    /// A piece of a message that was read for routing; it stands in `held`.
    HeldPiece {
        connection: u64,
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
    pub(crate) fn piece(&self) -> Option<(u64, &Piece)> {
        match self {
            Event::Piece {
                connection, piece, ..
            }
            | Event::HeldPiece {
                connection, piece, ..
            } => Some((*connection, piece)),
            _ => None,
        }
    }
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

/// What [`EventQueue::next`] finds.
pub(crate) enum Next {
    Nothing,
    /// Pieces of messages, which stay; the window tells of them.
    Pieces,
    /// The head is a piece of this connection, which is not the window's.
    PiecesOf(u64),
    /// It was taken.
    Event,
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
    #[inline]
    pub(crate) fn reserve(&self, count: usize, of: SlotOf) -> Result {
        let taken = self.inner.lock().reserve(count, of);
        match taken? {
            Reserved::Yes => Ok(()),
            Reserved::NeedsSlots(needed) => self.reserve_in_larger(count, of, needed),
        }
    }

    /// As [`Self::reserve`], once the ring was found to have fewer than `needed` slots.
    #[cold]
    fn reserve_in_larger(&self, count: usize, of: SlotOf, needed: usize) -> Result {
        let mut needed = needed;
        let most = limits::events().saturating_add(limits::commands());
        loop {
            let capacity = needed.checked_next_power_of_two().ok_or(ENOMEM)?;
            let mut larger = Ring::with_capacity(capacity.max(32).min(most))?;
            let mut inner = self.inner.lock();
            if inner.ring.capacity() < larger.capacity() {
                inner.ring.grow_into(&mut larger);
            }
            let taken = inner.reserve(count, of);
            drop(inner);
            match taken? {
                Reserved::Yes => return Ok(()),
                // Somebody else was faster.
                Reserved::NeedsSlots(more) => needed = more,
            }
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
        let refused = self.inner.lock().push(event);
        // Dropped unlocked: it may hold the last reference of its connection.
        drop(refused);
    }

    /// Locks the queue, for events that come in a row; else as [`Self::push`].
    pub(crate) fn fill(&self) -> Filling<'_> {
        Filling(self.inner.lock())
    }

    /// Reserves a slot for the event of a command that is done already, and adds the event; as
    /// [`Self::push`] else.
    ///
    /// # Errors
    ///
    /// As [`Self::reserve`].
    pub(crate) fn add(&self, event: Event) -> Result {
        let mut inner = self.inner.lock();
        match inner.reserve(1, SlotOf::Command)? {
            Reserved::Yes => {
                let refused = inner.push(event);
                drop(inner);
                // As in `push`.
                drop(refused);
            }
            Reserved::NeedsSlots(needed) => {
                drop(inner);
                self.reserve_in_larger(1, SlotOf::Command, needed)?;
                self.push(event);
            }
        }
        Ok(())
    }

    /// Tells readers and pollers that the state changed.
    pub(crate) fn wake(&self) {
        self.wait.notify_all();
    }

    /// Takes the oldest event to `place`; its slot stays committed: [`Self::release`] it, or
    /// [`Self::put_back`] the event. If it is a piece of a message, it stays, and `window` tells of
    /// it and those behind it: [`Self::pop_pieces`] when they were delivered.
    pub(crate) fn next(&self, place: &mut Option<Event>, window: &mut Window) -> Next {
        let mut inner = self.inner.lock();
        if inner.answers.pop_into(place, |_| true)
            || inner.ring.pop_into(place, |head| head.piece().is_none())
        {
            return Next::Event;
        }
        match inner.ring.front().and_then(Event::piece) {
            None => Next::Nothing,
            Some((connection, _)) if window.is_of(connection) => {
                window.fill(&inner.ring, 0);
                Next::Pieces
            }
            Some((connection, _)) => Next::PiecesOf(connection),
        }
    }

    /// Puts back an event that could not be delivered. Who polled meanwhile found nothing, and is
    /// told.
    pub(crate) fn put_back(&self, event: Event) {
        let refused = {
            let mut inner = self.inner.lock();
            // Its slot is still committed, so there is room.
            inner.ring_of(&event).push_front(event).err()
        };
        drop(refused);
        self.wake();
    }

    /// Looks at the queued events, under the queue's lock: `look` must be short and take no other
    /// lock. None if there are none.
    pub(crate) fn look<R>(&self, look: impl FnOnce(View<'_>) -> R) -> Option<R> {
        let inner = self.inner.lock();
        inner.front()?;
        Some(look(View(&inner)))
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.lock().len()
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

/// A queue that is locked to add events.
pub(crate) struct Filling<'a>(SpinLockGuard<'a, Inner>);

impl Filling<'_> {
    /// Adds an event whose slot was reserved. It holds nothing but numbers: if nobody will read it,
    /// it is dropped under the lock.
    #[inline]
    pub(crate) fn push(&mut self, event: Event) {
        drop(self.0.push(event));
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

    /// The stretch that [`Self::head`] begins, if that is a piece; see [`Stretch::of`].
    pub(crate) fn stretch(self, room: u32) -> Option<Stretch> {
        Stretch::of(&self.0.ring, room)
    }

    pub(crate) fn len(self) -> usize {
        self.0.len()
    }
}

/// Whether slots were reserved.
enum Reserved {
    Yes,
    /// The ring must have so many.
    NeedsSlots(usize),
}

impl Inner {
    /// Reserves slots that are there already.
    fn reserve(&mut self, count: usize, of: SlotOf) -> Result<Reserved> {
        if of == SlotOf::Answer {
            let needed = self.committed_answers.saturating_add(count);
            if needed > self.answers.capacity() {
                return Err(EAGAIN);
            }
            self.committed_answers = needed;
            return Ok(Reserved::Yes);
        }
        // Neither takes the other's: with all connections there, commands are what one wants.
        let (used, limit) = match of {
            SlotOf::Command => (self.commands, limits::commands()),
            _ => (
                self.committed.saturating_sub(self.commands),
                limits::events(),
            ),
        };
        if used.saturating_add(count) > limit {
            return Err(EAGAIN);
        }
        let needed = self.committed.saturating_add(count);
        if needed > self.ring.capacity() {
            return Ok(Reserved::NeedsSlots(needed));
        }
        // INVARIANT: Compared with the capacity just now.
        self.committed = needed;
        if of == SlotOf::Command {
            self.commands = self.commands.saturating_add(count);
        }
        Ok(Reserved::Yes)
    }

    /// Adds an event whose slot was reserved; gives it back if nobody will read it.
    fn push(&mut self, event: Event) -> Option<Event> {
        if self.closed {
            return Some(event);
        }
        // By the queue's invariant a reserved slot is there.
        self.ring_of(&event).push(event).err()
    }

    fn has_room(&self) -> bool {
        limits::has_room(self.commands, limits::commands())
            && limits::has_room(self.committed_answers, MAX_ANSWERS)
    }

    fn len(&self) -> usize {
        self.answers.len().saturating_add(self.ring.len())
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
