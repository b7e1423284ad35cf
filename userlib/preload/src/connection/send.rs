// SPDX-License-Identifier: MIT OR Apache-2.0

//! What smbd writes.

use super::{errno, from_device, Connection, Side, MAX_QUIET_ENTRIES, PREFIX};
use crate::device::Device;
use crate::log;
use crate::rewrite::{Gather, Reply, Segment};
use std::io;
use usmbd::{Batch, Error, Interest, Lease, SendOptions, State, Token};

/// The room of one RDMA write that was given to the device.
pub(super) struct Flight {
    user_data: u64,
    lease: Lease,
    /// In its lists.
    entries: usize,
    /// Nothing will tell of its completion but the message behind it.
    pub(super) is_quiet: bool,
    /// When so many bytes of messages are acknowledged, this write is long done.
    done_at: u64,
}

/// Records, and the room that they name.
pub(super) struct Unsent {
    batch: Batch<'static>,
    flights: Vec<Flight>,
    length: usize,
}

impl Unsent {
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

/// What became of a message.
enum Sent {
    Yes,
    /// Try again when the device says so.
    NotYet,
}

impl<D: Device> Connection<D> {
    /// Takes smbd's stream, at most up to the end of the first message in it; returns how many
    /// bytes. A message that comes in one call is taken whole or not at all.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if it would have to wait and `wait` is false, `EMSGSIZE` if the peer takes no
    /// message that long, `EPIPE` after the end.
    pub fn send(&mut self, parts: &[&[u8]], wait: bool) -> io::Result<usize> {
        if self.ended.is_some() || self.is_ending {
            return Err(errno(libc::EPIPE));
        }
        let stream = Gather::new(parts.iter().copied());
        if self.partial.is_empty() && stream.len() >= PREFIX {
            let prefix = stream.at::<[u8; PREFIX]>(0).unwrap_or_default();
            let end = PREFIX + length_of(&prefix);
            if stream.len() >= end {
                self.send_record(&stream, end, wait)?;
                return Ok(end);
            }
        }
        self.send_partial(&stream, wait)
    }

    /// A message that comes in several calls is put together first.
    fn send_partial(&mut self, stream: &Gather<'_>, wait: bool) -> io::Result<usize> {
        let before = self.partial.len();
        let prefix = PREFIX.saturating_sub(before).min(stream.len());
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend(stream.copy(0..prefix));
        let mut taken = prefix;
        if partial.len() >= PREFIX {
            let missing = PREFIX + length_of(&partial) - partial.len();
            let more = missing.min(stream.len() - prefix);
            partial.extend(stream.copy(prefix..prefix + more));
            taken += more;
            if more == missing {
                let record = Gather::new([&partial[..]]);
                let result = self.send_record(&record, record.len(), wait);
                if result.is_err() {
                    partial.truncate(before);
                    self.partial = partial;
                }
                return result.map(|()| taken);
            }
        }
        self.partial = partial;
        Ok(taken)
    }

    /// The record that ends at `end`, with its prefix.
    fn send_record(&mut self, stream: &Gather<'_>, end: usize, wait: bool) -> io::Result<()> {
        if stream.parts(0..1).any(|first| first[0] != 0) {
            // A session response or keepalive of NetBIOS: SMB Direct has none of these.
            return Ok(());
        }
        let message = Gather::new(stream.parts(PREFIX..end));
        if message.is_empty() {
            return Ok(());
        }
        let is_client = self.side() == Side::Client;
        // What tells a client to try again would look like something to recv().
        let wait = wait || is_client;
        loop {
            match self.send_message(&message)? {
                Sent::Yes if is_client => {
                    self.pump_all()?;
                    return Ok(());
                }
                Sent::Yes => return Ok(()),
                // The device is readable all the while, and may have room without being read.
                Sent::NotYet if wait && self.is_ahead() => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Sent::NotYet if wait => {
                    // Whatever it waits for shows as an event, or as room for records.
                    self.device
                        .wait(
                            Interest::Readable,
                            Some(std::time::Duration::from_millis(100)),
                        )
                        .map_err(|error| from_device(&error))?;
                    self.pump_all()?;
                    if self.ended.is_some() {
                        return Err(errno(libc::EPIPE));
                    }
                }
                Sent::NotYet => {
                    self.block();
                    return Err(errno(libc::EAGAIN));
                }
            }
        }
    }

    /// Gives a message to the device, whole or not at all.
    fn send_message(&mut self, message: &Gather<'_>) -> io::Result<Sent> {
        self.lacks_room = false;
        self.flush();
        if self.unsent.is_some() {
            return Ok(Sent::NotYet);
        }
        let reply = match &mut self.rewriter {
            Some(rewriter) => match rewriter.reply(message) {
                Ok(reply) => reply,
                Err(refused) => {
                    self.fail(refused);
                    return Err(errno(libc::EPIPE));
                }
            },
            None => Reply::original(message.len()),
        };
        if reply.length > self.max_message {
            let hint = match self.side() {
                Side::Server => {
                    "encrypted or signed reads? mount with a smaller rsize=, or set `smb2 max read`"
                }
                Side::Client => "set the server's `smb2 max write`",
            };
            log::error(format_args!(
                "{}: a message of {} bytes is longer than the {} that the peer takes ({hint})",
                self.name(),
                reply.length,
                self.max_message
            ));
            return Err(errno(libc::EMSGSIZE));
        }
        let sent = if reply.is_original() {
            self.send_inline(message, &reply)?
        } else {
            self.send_placed(message, &reply)?
        };
        if let Sent::Yes = sent {
            self.counters.messages_out += 1;
            if let Some(rewriter) = &mut self.rewriter {
                rewriter.answered(&reply);
            }
        }
        Ok(sent)
    }

    fn send_inline(&mut self, message: &Gather<'_>, reply: &Reply) -> io::Result<Sent> {
        let mut owned = Vec::new();
        for segment in &reply.segments {
            match segment {
                Segment::Bytes(bytes) => owned.push(bytes.as_slice()),
                Segment::Original(range) => owned.extend(message.parts(range.clone())),
                Segment::Data(_) | Segment::Zeros(_) => (),
            }
        }
        for _ in 0..2 {
            let mut batch = Batch::new();
            let user_data = self.next();
            batch
                .send_with(self.id, user_data, options(reply), &owned)
                .map_err(|error| from_device(&error))?;
            match self.device.submit(&mut batch) {
                Ok(_) => return Ok(Sent::Yes),
                Err(Error::WouldBlock) => (),
                Err(error) => return Err(self.send_failed(&error)),
            }
            // Events that wait to be read may be what is in the way.
            self.pump_all()?;
        }
        Ok(Sent::NotYet)
    }

    /// Data by RDMA, and the message behind it, in one write().
    fn send_placed(&mut self, message: &Gather<'_>, reply: &Reply) -> io::Result<Sent> {
        let mut leases = Vec::with_capacity(reply.placements.len());
        for placement in &reply.placements {
            match self.lease(placement.data.len()) {
                Ok(Some(lease)) => leases.push(lease),
                // smbd may not read before it has sent, so it would not hear of the end.
                Ok(None) if self.is_over() => return Err(errno(libc::EPIPE)),
                Ok(None) => {
                    self.lacks_room = true;
                    return Ok(Sent::NotYet);
                }
                Err(error) => {
                    self.fail("a READ by RDMA, and no memory for it");
                    return Err(error);
                }
            }
        }
        let mut batch = Batch::new();
        let mut flights = Vec::with_capacity(reply.placements.len());
        let area = self.device.area().ok();
        for (placement, lease) in reply.placements.iter().zip(leases) {
            let mut at = 0;
            for part in message.parts(placement.data.clone()) {
                lease.write(at, part);
                at += part.len();
            }
            let user_data = self.next();
            let ranges = lease.ranges(lease.len());
            let entries = ranges.len() + placement.descriptors.len();
            // Where the device has no room for lists, only a completion tells of it: one will come.
            let is_quiet = self.is_roomy(area.as_ref(), lease.len())
                && self.listed + entries <= MAX_QUIET_ENTRIES;
            batch
                .rdma_write(
                    self.id,
                    user_data,
                    is_quiet,
                    &ranges,
                    &placement.descriptors,
                )
                .map_err(|error| self.send_failed(&error))?;
            self.leased += lease.len();
            self.listed += entries;
            self.counters.reads += 1;
            self.counters.bytes_written += lease.len() as u64;
            log::debug(format_args!(
                "READ {}: {} bytes by RDMA WRITE to {} descriptors{}",
                placement.message_id,
                lease.len(),
                placement.descriptors.len(),
                if reply.invalidate.is_some() {
                    ", invalidated"
                } else {
                    ""
                }
            ));
            flights.push(Flight {
                user_data,
                lease,
                entries,
                is_quiet,
                done_at: u64::MAX,
            });
        }
        let mut rest = Vec::with_capacity(reply.length);
        for segment in &reply.segments {
            match segment {
                Segment::Bytes(bytes) => rest.extend_from_slice(bytes),
                Segment::Original(range) => message
                    .parts(range.clone())
                    .for_each(|part| rest.extend_from_slice(part)),
                Segment::Data(_) | Segment::Zeros(_) => (),
            }
        }
        let length = rest.len();
        let user_data = self.next();
        batch
            .send_owned(self.id, user_data, options(reply), rest)
            .map_err(|error| self.send_failed(&error))?;
        self.unsent = Some(Unsent {
            batch,
            flights,
            length,
        });
        // The data is copied already: from here on the message counts as sent.
        self.flush();
        Ok(Sent::Yes)
    }

    /// Offers the device what it did not take yet.
    pub(super) fn flush(&mut self) {
        let Some(mut unsent) = self.unsent.take() else {
            return;
        };
        while !unsent.batch.is_empty() {
            match self.device.submit(&mut unsent.batch) {
                Ok(_) => (),
                Err(Error::WouldBlock) => {
                    self.unsent = Some(unsent);
                    return;
                }
                Err(error) => {
                    // What was taken before may still be under way.
                    self.flights.extend(unsent.flights);
                    // smbd thinks the message sent, so its client would wait for good.
                    if self.send_failed(&error).raw_os_error() != Some(libc::EPIPE) {
                        self.fail("a message that smbd thinks sent was refused");
                    }
                    return;
                }
            }
        }
        if unsent.flights.is_empty() {
            return;
        }
        let done_at = self
            .device
            .bytes()
            .map_or(u64::MAX, |(accepted, _)| accepted);
        for mut flight in unsent.flights {
            flight.done_at = done_at;
            self.flights.push_back(flight);
        }
    }

    /// Takes back room whose message the peer has acknowledged.
    pub(super) fn reclaim(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let Ok((_, completed)) = self.device.bytes() else {
            return;
        };
        let (leased, listed) = (&mut self.leased, &mut self.listed);
        self.flights.retain(|flight| {
            let is_over = flight.done_at <= completed;
            if is_over {
                *leased -= flight.lease.len();
                *listed -= flight.entries;
            }
            !is_over
        });
    }

    pub(super) fn finish_flight(&mut self, user_data: u64) {
        if let Some(index) = self.flights.iter().position(|f| f.user_data == user_data) {
            if let Some(flight) = self.flights.remove(index) {
                self.leased -= flight.lease.len();
                self.listed -= flight.entries;
            }
        }
    }

    /// smbd is about to be told EAGAIN.
    fn block(&mut self) {
        let writable = self
            .device
            .wait(Interest::Writable, Some(std::time::Duration::ZERO))
            .is_ok_and(|ready| ready.writable);
        // Where the device itself is not writable, its POLLOUT says when it is.
        self.is_blocked = writable;
        if writable && self.lacks_room && !self.expects_event() {
            // Room in the area will be free without an event: come back soon.
            std::thread::sleep(std::time::Duration::from_millis(1));
            self.wake();
        }
    }

    /// Whether the connection has ended, although DISCONNECTED may still be unread.
    fn is_over(&self) -> bool {
        let status = self.status();
        status.is_ok_and(|status| status.state == State::Disconnected)
    }

    fn send_failed(&mut self, error: &Error) -> io::Error {
        if self.ended.is_none() {
            log::info(format_args!("{}: sending: {error}", self.name()));
        }
        match error.errno() {
            libc::ENOENT | libc::ENOTCONN => errno(libc::EPIPE),
            other => errno(other),
        }
    }
}

/// The length that a prefix of four bytes tells.
fn length_of(prefix: &[u8]) -> usize {
    match prefix {
        [_, a, b, c, ..] => u32::from_be_bytes([0, *a, *b, *c]) as usize,
        _ => 0,
    }
}

fn options(reply: &Reply) -> SendOptions {
    SendOptions {
        quiet: true,
        invalidate: reply.invalidate.map(Token),
    }
}
