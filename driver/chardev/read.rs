// SPDX-License-Identifier: GPL-2.0-only

//! One read(): a batch of events.

use crate::context::connection::Connection;
use crate::context::dispatch::{self, Record, PIECE_OVERHEAD};
use crate::context::event_queue::{Event, EventQueue, Next, Place, SlotOf, View};
use crate::context::Context;
use crate::trace;
use kernel::iov::IovIterDest;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use usmbd_abi::record::{padded, BatchHeader, ALIGNMENT, BATCH_HEADER_LENGTH};
use usmbd_engine::Piece;
use zerocopy::IntoBytes;

/// Returns whole events behind a batch header, as many as `dest` holds. `start` is where `dest`
/// starts, for the header, which is known last.
///
/// # Errors
///
/// `EAGAIN` if there is none and `nowait` is set; `EMSGSIZE` if the first is longer than `dest`;
/// `EFAULT`; `ERESTARTSYS`. Nothing is lost then.
pub(crate) fn batch(
    context: ArcBorrow<'_, Context>,
    start: &mut IovIterDest<'_>,
    dest: &mut IovIterDest<'_>,
    nowait: bool,
) -> Result<usize> {
    let room = dest.len();
    if room < BATCH_HEADER_LENGTH as usize {
        return Err(EMSGSIZE);
    }
    let _reading = context.queue().begin_reading(nowait)?;
    take(&context, start, dest)
}

fn take(
    context: &Context,
    start: &mut IovIterDest<'_>,
    dest: &mut IovIterDest<'_>,
) -> Result<usize> {
    let queue = context.queue();
    let most = if context.at_most_one() { 1 } else { u32::MAX };
    // The header is known last, but its place is written first: where that is not possible, no
    // event has left the queue yet.
    copy(dest, BatchHeader::default().as_bytes())?;
    let mut batch = Batch {
        event: None,
        record: Record::new(),
        returns: Returns::default(),
        slots: Slots::default(),
    };
    let mut count = 0u32;
    // Not what `dest` says: an event of which only a part could be copied stays queued.
    let mut bytes = BATCH_HEADER_LENGTH;
    let mut failure = None;
    while count < most {
        match one(context, dest, &mut batch) {
            Ok(Some(length)) => {
                // Neither wraps: a read() has less than 2 GiB.
                count = count.wrapping_add(1);
                bytes = bytes.wrapping_add(length);
            }
            Ok(None) => break,
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    batch.returns.flush(queue);
    batch.slots.release(queue);
    if count == 0 {
        return Err(failure.unwrap_or(EAGAIN));
    }
    let (still_queued, next_length) = outlook(queue);
    let header = BatchHeader {
        count: count.into(),
        bytes: bytes.into(),
        still_queued: still_queued.into(),
        next_length: next_length.into(),
    };
    // Fails only if another thread took the memory away since it was written above: his loss.
    copy(start, header.as_bytes())?;
    Ok(bytes as usize)
}

/// What a batch in the making needs besides its place.
struct Batch {
    /// The event that is under way.
    event: Option<Event>,
    record: Record,
    returns: Returns,
    slots: Slots,
}

/// How many events are left, and the length of the next one's record.
fn outlook(queue: &EventQueue) -> (u32, u32) {
    let left = u32::try_from(queue.len()).unwrap_or(u32::MAX);
    let next = queue.look(|view| {
        let head = view.head()?;
        let length = match head {
            Event::Piece { .. } | Event::HeldPiece { .. } => {
                let overhead = u32::try_from(PIECE_OVERHEAD).unwrap_or(u32::MAX);
                let stretch = Stretch::of(view, u32::MAX)?;
                padded(stretch.bytes)?.checked_add(overhead)
            }
            other => dispatch::length(other),
        };
        Some((length?, matches!(head, Event::Disconnected { .. })))
    });
    let (length, is_end) = next.flatten().unwrap_or((0, false));
    if is_end {
        // It was not the head when it was queued, and poll() answers otherwise now.
        queue.wake();
    }
    (left, length)
}

/// Neighbouring pieces of one message, which are delivered as one.
struct Stretch {
    connection: Arc<Connection>,
    first: Piece,
    pieces: usize,
    bytes: u32,
    invalidated: Option<u32>,
}

impl Stretch {
    /// The longest stretch from the head on that has `room` bytes at most; none if the head alone
    /// has more, or is no piece.
    fn of(view: View<'_>, room: u32) -> Option<Self> {
        let (connection, first) = view.head()?.piece()?;
        if first.payload_length > room {
            return None;
        }
        let mut stretch = Self {
            connection: connection.clone(),
            first: *first,
            pieces: 1,
            bytes: first.payload_length,
            invalidated: first.invalidated,
        };
        let mut last = first.last;
        while !last {
            let Some((next, piece)) = view.get(stretch.pieces).and_then(Event::piece) else {
                break;
            };
            let Some(bytes) = stretch.bytes.checked_add(piece.payload_length) else {
                break;
            };
            if !Arc::ptr_eq(connection, next) || bytes > room {
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

/// Delivers the oldest event; bytes of its record, none if there is no event. It stays queued if it
/// cannot be delivered.
fn one(context: &Context, dest: &mut IovIterDest<'_>, batch: &mut Batch) -> Result<Option<u32>> {
    let queue = context.queue();
    loop {
        match queue.next(&mut batch.event) {
            Next::Nothing => return Ok(None),
            Next::Event => break,
            Next::Pieces => {}
        }
        let payload_room = dest.len().saturating_sub(PIECE_OVERHEAD) & !7;
        let payload_room = u32::try_from(payload_room).unwrap_or(u32::MAX & !7);
        let stretch = queue.look(|view| {
            let is_piece = view.head().is_some_and(|head| head.piece().is_some());
            is_piece.then(|| Stretch::of(view, payload_room))
        });
        match stretch.flatten() {
            Some(Some(stretch)) => {
                return deliver_pieces(queue, &stretch, dest, batch).map(Some);
            }
            Some(None) => return Err(EMSGSIZE),
            // An answer has just come, and goes first.
            None => {}
        }
    }
    let Some(event) = &batch.event else {
        return Ok(None);
    };
    let copied = copy_record(dest, event, &mut batch.record);
    if copied.is_ok() {
        delivered(context, event, &mut batch.slots);
        batch.event = None;
    } else if let Some(event) = batch.event.take() {
        queue.put_back(event);
    }
    copied.map(Some)
}

/// Copies a record that stands alone, and what stands behind it.
fn copy_record(dest: &mut IovIterDest<'_>, event: &Event, record: &mut Record) -> Result<u32> {
    dispatch::encode(record, event).ok_or(EMSGSIZE)?;
    let length = record.header.length.get();
    if length as usize > dest.len() {
        return Err(EMSGSIZE);
    }
    let tail = dispatch::tail(event);
    copy(dest, record.bytes())?;
    if !tail.is_empty() {
        copy(dest, tail)?;
        copy_padding(dest, tail.len())?;
    }
    trace::event(&record.header);
    Ok(length)
}

/// Copies the payload of neighbouring pieces, once, from where they stand to the reader. They leave
/// the queue when all is copied.
fn deliver_pieces(
    queue: &EventQueue,
    stretch: &Stretch,
    dest: &mut IovIterDest<'_>,
    batch: &mut Batch,
) -> Result<u32> {
    let Batch {
        record, returns, ..
    } = batch;
    let connection = &stretch.connection;
    let buffers = connection.receive_memory().ok_or(EIO)?;
    dispatch::encode_piece(
        record,
        connection.number(),
        &stretch.first,
        stretch.bytes,
        stretch.invalidated,
    )
    .ok_or(EMSGSIZE)?;
    copy(dest, record.bytes())?;
    for position in 0..stretch.pieces {
        let (place, piece) = queue.piece(position).ok_or(EIO)?;
        let bytes = match &place {
            Place::Receive(receive) => {
                buffers.bytes(*receive, piece.payload_offset, piece.payload_length)
            }
            Place::Held(held) => held.bytes(&piece),
        };
        copy(dest, bytes.ok_or(EIO)?)?;
    }
    copy_padding(dest, stretch.bytes as usize)?;
    trace::event(&record.header);
    for _ in 0..stretch.pieces {
        match queue.pop_piece() {
            Some(Event::Piece { receive, .. }) => returns.add(queue, connection, receive),
            Some(event) => queue.release(1, event.slot_of()),
            None => {}
        }
    }
    Ok(record.header.length.get())
}

/// Receives whose pieces were read; they are posted again together.
#[derive(Default)]
struct Returns {
    connection: Option<Arc<Connection>>,
    receives: [u16; Self::MOST],
    count: usize,
}

impl Returns {
    const MOST: usize = 16;

    fn add(&mut self, queue: &EventQueue, connection: &Arc<Connection>, receive: u16) {
        let same = matches!(&self.connection, Some(own) if Arc::ptr_eq(own, connection));
        if !same || self.count == Self::MOST {
            self.flush(queue);
            self.connection = Some(connection.clone());
        }
        if let Some(place) = self.receives.get_mut(self.count) {
            *place = receive;
            self.count = self.count.saturating_add(1);
        }
    }

    fn flush(&mut self, queue: &EventQueue) {
        let count = core::mem::take(&mut self.count);
        if let Some(connection) = self.connection.take() {
            let receives = self.receives.get(..count).unwrap_or_default();
            if !connection.return_receives(receives) {
                queue.release(count, SlotOf::Connection);
            }
        }
    }
}

fn copy(dest: &mut IovIterDest<'_>, bytes: &[u8]) -> Result {
    if dest.copy_to_iter(bytes) == bytes.len() {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Copies the zeroes behind `length` bytes of payload.
fn copy_padding(dest: &mut IovIterDest<'_>, length: usize) -> Result {
    let padding = length.wrapping_neg() % ALIGNMENT as usize;
    copy(
        dest,
        [0u8; ALIGNMENT as usize].get(..padding).unwrap_or_default(),
    )
}

/// What follows from an event's delivery.
fn delivered(context: &Context, event: &Event, slots: &mut Slots) {
    let slot_of = event.slot_of();
    // From a command's event nothing else follows.
    if slot_of == SlotOf::Connection && keeps_slot(context, event) {
        return;
    }
    slots.add(slot_of);
}

/// What follows for the connection or listener; whether it keeps the event's slot for the next one.
fn keeps_slot(context: &Context, event: &Event) -> bool {
    match event {
        Event::SendReady { connection } => connection.send_ready_read(),
        Event::ListenerChanged { listener } => listener.notice_read(),
        Event::Disconnected {
            connection, reason, ..
        } => {
            context.forget(connection, Some(*reason));
            // poll() answers otherwise now.
            context.queue().wake();
            false
        }
        _ => false,
    }
}

/// Slots of events that were read; they are given back together.
#[derive(Default)]
struct Slots {
    commands: usize,
    answers: usize,
    connections: usize,
}

impl Slots {
    fn add(&mut self, of: SlotOf) {
        let count = match of {
            SlotOf::Command => &mut self.commands,
            SlotOf::Answer => &mut self.answers,
            SlotOf::Connection => &mut self.connections,
        };
        *count = count.wrapping_add(1);
    }

    fn release(&self, queue: &EventQueue) {
        let counts = [
            (self.commands, SlotOf::Command),
            (self.answers, SlotOf::Answer),
            (self.connections, SlotOf::Connection),
        ];
        for (count, of) in counts {
            if count > 0 {
                queue.release(count, of);
            }
        }
    }
}
