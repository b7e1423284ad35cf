// SPDX-License-Identifier: GPL-2.0-only

//! One read(): a batch of events.

use crate::context::connection::{Connection, ReceiveMemory};
use crate::context::dispatch::{self, PieceRecord, Record, PIECE_OVERHEAD};
use crate::context::event_queue::{Event, EventQueue, Next, Queued, SlotOf, Stretch, Window};
use crate::context::Context;
use crate::trace;
use kernel::iov::IovIterDest;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use usmbd_abi::record::{padded, BatchHeader, Header, ALIGNMENT, BATCH_HEADER_LENGTH};
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
        tally: Tally {
            count: 0,
            bytes: BATCH_HEADER_LENGTH,
        },
        event: None,
        record: Record::new(),
        window: Window::new(),
        returns: Returns::default(),
        slots: Slots::default(),
    };
    let mut failure = None;
    while batch.tally.count < most {
        let delivered = match queue.next(&mut batch.event, &mut batch.window) {
            Next::Nothing => break,
            Next::Event => single(context, dest, &mut batch),
            Next::Pieces => messages(queue, dest, &mut batch, most),
            Next::PiecesOf(connection) => {
                batch.change_connection(queue, context.connection(connection))
            }
        };
        if let Err(error) = delivered {
            failure = Some(error);
            break;
        }
    }
    batch.give_back(queue);
    batch.slots.release(queue);
    if batch.tally.count == 0 {
        return Err(failure.unwrap_or(EAGAIN));
    }
    let (still_queued, next_length) = outlook(queue);
    let header = BatchHeader {
        count: batch.tally.count.into(),
        bytes: batch.tally.bytes.into(),
        still_queued: still_queued.into(),
        next_length: next_length.into(),
    };
    // Fails only if another thread took the memory away since it was written above: his loss.
    copy(start, header.as_bytes())?;
    Ok(batch.tally.bytes as usize)
}

/// What there is of a batch so far.
struct Tally {
    /// Events.
    count: u32,
    /// Not what the place says: an event of which only a part could be copied stays queued.
    bytes: u32,
}

impl Tally {
    /// The event with this header is copied.
    fn add(&mut self, header: &Header) {
        trace::event(header);
        // Neither wraps: a read() has less than 2 GiB.
        self.count = self.count.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(header.length.get());
    }
}

/// A batch in the making, and what that needs besides its place.
struct Batch {
    tally: Tally,
    /// The event that is under way, if it is no piece.
    event: Option<Event>,
    record: Record,
    window: Window,
    returns: Returns,
    slots: Slots,
}

impl Batch {
    /// So many pieces at the head of the queue were delivered.
    fn leave_pieces(&mut self, queue: &EventQueue, count: usize) {
        let Self {
            window,
            returns,
            slots,
            ..
        } = self;
        let mut left = count;
        while left > 0 {
            if returns.room() == 0 {
                returns.flush(queue, window.connection());
            }
            let now = left.min(returns.room());
            queue.pop_pieces(now, |receive| match receive {
                Some(receive) => returns.add(receive),
                None => slots.add(SlotOf::Connection),
            });
            left = left.saturating_sub(now);
        }
    }

    /// The pieces at the head are of another connection, which is the context's until its end was
    /// read.
    fn change_connection(
        &mut self,
        queue: &EventQueue,
        connection: Option<Arc<Connection>>,
    ) -> Result {
        self.give_back(queue);
        let found = connection.is_some();
        self.window.change(connection);
        found.then_some(()).ok_or(EIO)
    }

    /// Gives back the receives of what was delivered.
    fn give_back(&mut self, queue: &EventQueue) {
        self.returns.flush(queue, self.window.connection());
    }
}

/// How many events are left, and the length of the next one's record.
fn outlook(queue: &EventQueue) -> (u32, u32) {
    let next = queue.look(|view| {
        let head = view.head()?;
        let length = match head {
            Event::Piece { .. } | Event::HeldPiece { .. } => {
                let overhead = u32::try_from(PIECE_OVERHEAD).unwrap_or(u32::MAX);
                view.stretch(u32::MAX)
                    .and_then(|stretch| padded(stretch.bytes)?.checked_add(overhead))
            }
            other => dispatch::length(other),
        };
        let left = u32::try_from(view.len()).unwrap_or(u32::MAX);
        let is_end = matches!(head, Event::Disconnected { .. });
        Some((left, length.unwrap_or(0), is_end))
    });
    let (left, length, is_end) = next.flatten().unwrap_or((0, 0, false));
    if is_end {
        // It was not the head when it was queued, and poll() answers otherwise now.
        queue.wake();
    }
    (left, length)
}

/// Delivers the event that was taken; puts it back if it cannot be delivered.
fn single(context: &Context, dest: &mut IovIterDest<'_>, batch: &mut Batch) -> Result {
    let Some(event) = &batch.event else {
        return Err(EIO);
    };
    let copied = copy_record(dest, event, &mut batch.record);
    if copied.is_ok() {
        delivered(context, event, &mut batch.slots);
        batch.event = None;
        batch.tally.add(&batch.record.header);
    } else if let Some(event) = batch.event.take() {
        context.queue().put_back(event);
    }
    copied
}

/// Copies a record that stands alone, and what stands behind it.
fn copy_record(dest: &mut IovIterDest<'_>, event: &Event, record: &mut Record) -> Result {
    dispatch::encode(record, event).ok_or(EMSGSIZE)?;
    if record.header.length.get() as usize > dest.len() {
        return Err(EMSGSIZE);
    }
    let tail = dispatch::tail(event);
    copy(dest, record.bytes())?;
    if !tail.is_empty() {
        copy(dest, tail)?;
        copy_padding(dest, tail.len())?;
    }
    Ok(())
}

/// Delivers the messages whose pieces the window tells of, or what is there of the first one: `most`
/// events at most are in the batch then. What was delivered leaves the queue.
fn messages(
    queue: &EventQueue,
    dest: &mut IovIterDest<'_>,
    batch: &mut Batch,
    most: u32,
) -> Result {
    let Batch { window, tally, .. } = batch;
    let connection = window.connection().ok_or(EIO)?;
    let memory = connection.receive_memory().ok_or(EIO)?;
    let mut record = PieceRecord::of(connection.number()).ok_or(EIO)?;
    let mut pieces = 0usize;
    let mut result = Ok(());
    // With the last piece of a message none is joined, so these stand alone.
    let alone = |queued: &&Queued| queued.piece.last;
    for queued in window.told().iter().take_while(alone) {
        if tally.count >= most {
            break;
        }
        result = message(dest, tally, &mut record, window, &memory, queued);
        if result.is_err() {
            break;
        }
        pieces = pieces.wrapping_add(1);
    }
    if pieces == 0 && result.is_ok() {
        match joined(queue, dest, tally, &mut record, window, &memory) {
            Ok(joined) => pieces = joined,
            Err(error) => result = Err(error),
        }
    }
    batch.leave_pieces(queue, pieces);
    result
}

/// Copies a piece that is not joined with others: its payload once, from where it stands to the
/// reader.
#[inline]
fn message(
    dest: &mut IovIterDest<'_>,
    tally: &mut Tally,
    record: &mut PieceRecord,
    window: &Window,
    memory: &ReceiveMemory,
    queued: &Queued,
) -> Result {
    let payload = window.bytes(memory, queued).ok_or(EIO)?;
    begin(dest, record, &queued.piece, &Stretch::one(&queued.piece))?;
    copy(dest, payload)?;
    copy_padding(dest, payload.len())?;
    tally.add(&record.header);
    Ok(())
}

/// Copies the pieces at the head that are of one message and fit, as one event; says how many.
fn joined(
    queue: &EventQueue,
    dest: &mut IovIterDest<'_>,
    tally: &mut Tally,
    record: &mut PieceRecord,
    window: &mut Window,
    memory: &ReceiveMemory,
) -> Result<usize> {
    let room = dest.len().saturating_sub(PIECE_OVERHEAD) & !7;
    let room = u32::try_from(room).unwrap_or(u32::MAX & !7);
    let stretch = queue.stretch(room).ok_or(EIO)?;
    let first = window.told().first().ok_or(EIO)?;
    begin(dest, record, &first.piece, &stretch)?;
    let mut copied = 0usize;
    loop {
        let left = stretch.pieces.saturating_sub(copied);
        for queued in window.told().iter().take(left) {
            copy(dest, window.bytes(memory, queued).ok_or(EIO)?)?;
            copied = copied.saturating_add(1);
        }
        if copied >= stretch.pieces {
            break;
        }
        queue.tell_pieces(window, copied);
        if window.told().is_empty() {
            // Which is not so: they do not leave the queue before they are copied.
            return Err(EIO);
        }
    }
    copy_padding(dest, stretch.bytes as usize)?;
    tally.add(&record.header);
    Ok(copied)
}

/// Copies the record of a PDU_RECEIVED up to its payload, if the whole of it fits.
#[inline]
fn begin(
    dest: &mut IovIterDest<'_>,
    record: &mut PieceRecord,
    first: &Piece,
    stretch: &Stretch,
) -> Result {
    record
        .set(first, stretch.bytes, stretch.invalidated)
        .ok_or(EMSGSIZE)?;
    if record.header.length.get() as usize > dest.len() {
        return Err(EMSGSIZE);
    }
    copy(dest, record.as_bytes())
}

/// Receives whose pieces were read, all of one connection; they are posted again together.
#[derive(Default)]
struct Returns {
    receives: [u16; Self::MOST],
    count: usize,
}

impl Returns {
    /// Half of the credits that a peer has by default, so that it can go on with the other half.
    const MOST: usize = 32;

    fn room(&self) -> usize {
        Self::MOST.saturating_sub(self.count)
    }

    /// There is [`Self::room`].
    fn add(&mut self, receive: u16) {
        if let Some(place) = self.receives.get_mut(self.count) {
            *place = receive;
            self.count = self.count.wrapping_add(1);
        }
    }

    /// Gives them back to their connection.
    fn flush(&mut self, queue: &EventQueue, connection: Option<&Arc<Connection>>) {
        let count = core::mem::take(&mut self.count);
        let receives = self.receives.get(..count).unwrap_or_default();
        let Some(connection) = connection.filter(|_| !receives.is_empty()) else {
            return;
        };
        if !connection.return_receives(receives) {
            queue.release(count, SlotOf::Connection);
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
    if padding == 0 {
        return Ok(());
    }
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
