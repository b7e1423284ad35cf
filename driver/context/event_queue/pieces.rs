// SPDX-License-Identifier: GPL-2.0-only

//! Pieces of messages on their way from the queue to a reader.
//!
//! They stay queued until they are delivered, so a reader to whom they cannot be copied loses none.
//! The queue is locked once to tell the reader of many of them, and once to take these out.

use super::{Event, EventQueue};
use crate::context::connection::{Connection, Held, ReceiveMemory};
use crate::context::ring::Ring;
use kernel::sync::Arc;
use usmbd_engine::Piece;

/// Pieces told at a time, on the reader's stack.
const AT_ONCE: usize = 16;

/// A queued piece of a message.
#[derive(Clone, Copy)]
pub(crate) struct Queued {
    /// It stands in this receive of its connection; else in what is held of the first messages.
    receive: Option<u16>,
    pub(crate) piece: Piece,
}

impl Queued {
    const NOTHING: Self = Self {
        receive: None,
        piece: Piece {
            payload_offset: 0,
            payload_length: 0,
            message_total: 0,
            message_offset: 0,
            last: false,
            invalidated: None,
        },
    };
}

/// What a reader was told of the pieces at the queue's head, all of one connection.
pub(crate) struct Window {
    connection: Option<Arc<Connection>>,
    /// There is only one of a connection.
    held: Option<Arc<Held>>,
    /// The first `count` are told of.
    pieces: [Queued; AT_ONCE],
    count: usize,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self {
            connection: None,
            held: None,
            pieces: const { [Queued::NOTHING; AT_ONCE] },
            count: 0,
        }
    }

    /// Whose pieces they are.
    pub(crate) fn connection(&self) -> Option<&Arc<Connection>> {
        self.connection.as_ref()
    }

    /// The pieces, in order.
    pub(crate) fn told(&self) -> &[Queued] {
        self.pieces.get(..self.count).unwrap_or_default()
    }

    /// The bytes of a piece that was told; `memory` is its connection's.
    pub(crate) fn bytes<'a>(
        &'a self,
        memory: &'a ReceiveMemory,
        queued: &Queued,
    ) -> Option<&'a [u8]> {
        let piece = &queued.piece;
        match queued.receive {
            Some(receive) => memory.bytes(receive, piece.payload_offset, piece.payload_length),
            None => self.held.as_ref()?.bytes(piece),
        }
    }

    /// Goes over to another connection, or to none. Drops what may be the last reference, so not
    /// while the queue is locked.
    pub(crate) fn change(&mut self, connection: Option<Arc<Connection>>) {
        self.connection = connection;
        self.held = None;
        self.count = 0;
    }

    pub(super) fn is_of(&self, connection: u64) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|own| own.number() == connection)
    }

    /// Tells of the pieces from the position `start` on, which are of the window's connection. They
    /// are copied to where they stay, and are not moved on the way.
    pub(super) fn fill(&mut self, ring: &Ring<Event>, start: usize) {
        // No connection has the number zero.
        let own = self.connection.as_ref().map_or(0, |own| own.number());
        let mut count = 0usize;
        for (place, event) in self.pieces.iter_mut().zip(ring.run_from(start)) {
            match event {
                Some(Event::Piece {
                    connection,
                    receive,
                    piece,
                }) if *connection == own => {
                    place.receive = Some(*receive);
                    place.piece = *piece;
                }
                Some(Event::HeldPiece {
                    connection,
                    held,
                    piece,
                }) if *connection == own => {
                    self.held.get_or_insert_with(|| held.clone());
                    place.receive = None;
                    place.piece = *piece;
                }
                _ => break,
            }
            count = count.wrapping_add(1);
        }
        self.count = count;
    }
}

/// Neighbouring pieces of one message, which are delivered as one event.
pub(crate) struct Stretch {
    pub(crate) pieces: usize,
    pub(crate) bytes: u32,
    pub(crate) invalidated: Option<u32>,
}

impl Stretch {
    /// Of one piece.
    pub(crate) fn one(piece: &Piece) -> Self {
        Self {
            pieces: 1,
            bytes: piece.payload_length,
            invalidated: piece.invalidated,
        }
    }

    /// The longest from the head on that has `room` bytes at most, but of one piece at least; none
    /// if the head is no piece.
    pub(super) fn of(ring: &Ring<Event>, room: u32) -> Option<Self> {
        let mut events = ring.iter().map_while(Event::piece);
        let (connection, first) = events.next()?;
        let mut stretch = Self::one(first);
        let mut last = first.last;
        while !last {
            let Some((next, piece)) = events.next() else {
                break;
            };
            let Some(bytes) = stretch.bytes.checked_add(piece.payload_length) else {
                break;
            };
            if connection != next || bytes > room {
                break;
            }
            stretch.pieces = stretch.pieces.saturating_add(1);
            stretch.bytes = bytes;
            stretch.invalidated = piece.invalidated;
            last = piece.last;
        }
        Some(stretch)
    }
}

impl EventQueue {
    /// Tells of the pieces from the position `start` on, of the window's connection.
    pub(crate) fn tell_pieces(&self, window: &mut Window, start: usize) {
        window.fill(&self.inner.lock().ring, start);
    }

    /// The stretch at the head of the pieces; see [`Stretch::of`].
    pub(crate) fn stretch(&self, room: u32) -> Option<Stretch> {
        Stretch::of(&self.inner.lock().ring, room)
    }

    /// Takes so many pieces out, which were delivered; tells of each in which receive it stood, if
    /// it stood in one. Their slots stay committed. Nobody but the reader takes events out, so they
    /// are the oldest still.
    pub(crate) fn pop_pieces(&self, count: usize, mut popped: impl FnMut(Option<u16>)) {
        self.inner.lock().ring.drain(count, |event| match event {
            Some(Event::Piece { receive, .. }) => {
                popped(Some(*receive));
                // It has nothing to drop, which to find out takes longer than all else here.
                core::mem::forget(event.take());
            }
            // The window has what it is held in, so that is not dropped where the queue is
            // locked.
            _ => popped(None),
        });
    }
}
