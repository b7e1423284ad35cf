// SPDX-License-Identifier: MIT OR Apache-2.0

//! One SMB Direct connection as smbd sees it: a stream of messages with a prefix of four bytes each.
//!
//! What an event brings is taken in by [`Connection::pump`], from whatever call of smbd's comes
//! along. Between two calls nothing runs, so the device itself has to make smbd come: where this
//! holds something that smbd should take and the device is silent, a NOP makes it readable.

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod fake;
mod fetch;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use crate::device::Device;
use crate::log;
use crate::rewrite::Rewriter;
use fetch::Incoming;
use send::{Flight, Unsent};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use usmbd::{
    Area, Batch, ConnectionId, ConnectionStatus, EndReason, Error, Event, Events, Interest, Lease,
};

/// The prefix of every message in smbd's stream: zero, then the length in 24 bits.
const PREFIX: usize = 4;
/// Most bytes of one request's data: smbd's largest `smb2 max read` and `smb2 max write` are below.
const MAX_TRANSFER: u32 = 16 << 20;
/// Most bytes of messages held back while the data of an earlier one is on its way.
const MAX_HELD: usize = 64 << 20;
/// How long a close() may wait for what is under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Which side of the connection the program is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// It accepted, and is an smbd: its clients may want data by RDMA. It asks its epoll before
    /// the first bytes of a message and not before the rest, and takes EAGAIN for an answer.
    Server,
    /// It connected, by Samba's client library: nothing is rewritten. It asks its epoll before
    /// every recv(), which then must give bytes: any error but EINTR ends the connection.
    Client,
}

/// What one connection did, for the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub messages_in: u64,
    pub messages_out: u64,
    pub reads: u64,
    pub bytes_written: u64,
    pub writes: u64,
    pub bytes_read: u64,
}

/// A connection.
pub struct Connection<D: Device> {
    device: D,
    id: ConnectionId,
    peer: Option<SocketAddr>,
    max_message: usize,
    /// None on the client's side.
    rewriter: Option<Rewriter>,
    /// Room for what a read() returns.
    events: Vec<u8>,
    sequence: u64,
    /// The message that comes in piece by piece.
    assembling: Vec<u8>,
    /// Messages for smbd, in order of arrival.
    incoming: VecDeque<Incoming>,
    held: usize,
    /// Bytes of the first of them, its prefix included, that smbd has taken.
    delivered: usize,
    /// A NOP is under way or its event unread: the device is or will be readable.
    woken: bool,
    /// The beginning of a message that smbd sends in several calls.
    partial: Vec<u8>,
    /// Records that the device did not take yet, of a message that smbd thinks sent.
    unsent: Option<Unsent>,
    /// Room that RDMA writes may still read from.
    flights: VecDeque<Flight>,
    leased: usize,
    /// smbd was told EAGAIN, and an event will say when to try again.
    is_blocked: bool,
    /// That was for want of room in the area.
    lacks_room: bool,
    /// Why there will be nothing more.
    ended: Option<EndReason>,
    /// It was ended from here, and DISCONNECTED has still to come.
    is_ending: bool,
    counters: Counters,
}

/// What [`Connection::pump`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pumped {
    /// An event; `more` if others are queued.
    Event { more: bool },
    /// None.
    Nothing,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn from_device(error: &Error) -> io::Error {
    errno(error.errno())
}

impl<D: Device> Connection<D> {
    /// For a context that has a connection, in whichever process that was made.
    ///
    /// # Errors
    ///
    /// `ENOTCONN` if there is none.
    pub fn new(device: D, side: Side) -> io::Result<Self> {
        let status = status_of(&device)?;
        Ok(Self {
            device,
            id: status.id,
            peer: status.peer,
            max_message: status.negotiated.max_fragmented_send_size.get() as usize,
            rewriter: match side {
                Side::Server => Some(Rewriter::new(MAX_TRANSFER)),
                Side::Client => None,
            },
            events: vec![0; 64 << 10],
            sequence: 0,
            assembling: Vec::new(),
            incoming: VecDeque::new(),
            held: 0,
            delivered: 0,
            woken: false,
            partial: Vec::new(),
            unsent: None,
            flights: VecDeque::new(),
            leased: 0,
            is_blocked: false,
            lacks_room: false,
            ended: None,
            is_ending: false,
            counters: Counters::default(),
        })
    }

    /// Which side the program is.
    pub fn side(&self) -> Side {
        match self.rewriter {
            Some(_) => Side::Server,
            None => Side::Client,
        }
    }

    /// What the status page says.
    ///
    /// # Errors
    ///
    /// `ENOTCONN` if there is no connection.
    pub fn status(&self) -> io::Result<ConnectionStatus> {
        status_of(&self.device)
    }

    /// Bytes that smbd sent and the peer has not acknowledged: TIOCOUTQ.
    pub fn bytes_unsent(&self) -> u64 {
        let waiting = self.unsent.as_ref().map_or(0, Unsent::length) as u64;
        let sent = self.device.bytes();
        sent.map_or(0, |(accepted, completed)| {
            accepted.saturating_sub(completed)
        }) + waiting
    }

    /// The error that SO_ERROR tells; zero while there is none.
    pub fn error(&self) -> i32 {
        let reason = self.ended.or_else(|| self.status().ok()?.reason);
        match reason {
            Some(reason) if !reason.is_orderly() => libc::ECONNRESET,
            _ => 0,
        }
    }

    /// Whether smbd would be told EAGAIN again, although the device may be writable.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Reads one event and takes it in.
    fn pump(&mut self) -> io::Result<Pumped> {
        if self.ended.is_some() {
            return Ok(Pumped::Nothing);
        }
        // The buffer is lent to the event, so it is not part of `self` meanwhile.
        let mut buffer = std::mem::take(&mut self.events);
        let result = self.pump_into(&mut buffer);
        self.events = buffer;
        result
    }

    fn pump_into(&mut self, buffer: &mut [u8]) -> io::Result<Pumped> {
        let read = self.device.read(buffer);
        let events = match read.and_then(|length| Events::parse(&buffer[..length])) {
            Ok(events) => events,
            Err(Error::WouldBlock) => return Ok(Pumped::Nothing),
            Err(error) => {
                self.fail(format_args!("reading events: {error}"));
                return Err(from_device(&error));
            }
        };
        let more = events.still_queued() != 0;
        for event in events {
            self.take(event);
        }
        Ok(Pumped::Event { more })
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::PduReceived(piece) => self.take_piece(&piece),
            Event::RdmaComplete {
                user_data, outcome, ..
            } => self.take_completion(user_data, outcome),
            Event::PduSent {
                outcome: Err(failure),
                ..
            } => log::debug(format_args!("a message was not sent: {failure}")),
            Event::SendReady { .. } => {
                self.is_blocked = false;
                self.flush();
            }
            Event::NopDone { .. } => {
                self.woken = false;
                self.is_blocked = false;
                self.flush();
                self.start_fetches();
            }
            Event::Accepted {
                outcome: Ok(established),
                ..
            } => {
                self.peer = established.peer;
                self.max_message = established.negotiated.max_fragmented_send_size.get() as usize;
            }
            Event::Disconnected { reason, .. } => self.end(reason),
            // Answers to what accept() asked for, and whatever a newer driver tells.
            _ => (),
        }
    }

    fn take_completion(
        &mut self,
        user_data: u64,
        outcome: std::result::Result<u32, usmbd::Failure>,
    ) {
        if let Err(failure) = &outcome {
            log::info(format_args!(
                "{}: an RDMA transfer failed: {failure}",
                self.name()
            ));
        }
        self.finish_fetch(user_data, outcome.is_ok());
        self.finish_flight(user_data);
        self.is_blocked = false;
        self.flush();
        self.start_fetches();
    }

    /// The device is done with this connection, and with all the memory that it used.
    fn end(&mut self, reason: EndReason) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(reason);
        self.is_blocked = false;
        self.unsent = None;
        self.flights.clear();
        // What is whole smbd may still have; what waits for data will never be.
        let whole = self
            .incoming
            .iter()
            .take_while(|message| message.is_ready())
            .count();
        self.incoming.truncate(whole);
        log::info(format_args!("{}: ended: {reason}", self.name()));
    }

    fn tell_counters(&self) {
        let counters = self.counters;
        log::info(format_args!(
            "{}: closed; {} messages in, {} out; READs by RDMA {} ({} bytes), WRITEs by RDMA {} \
             ({} bytes)",
            self.name(),
            counters.messages_in,
            counters.messages_out,
            counters.reads,
            counters.bytes_written,
            counters.writes,
            counters.bytes_read,
        ));
    }

    /// Ends the connection from here, because of something that must not be.
    fn fail(&mut self, why: impl Display) {
        if self.is_ending || self.ended.is_some() {
            return;
        }
        log::error(format_args!("{}: disconnecting: {why}", self.name()));
        self.disconnect();
    }

    fn disconnect(&mut self) {
        self.is_ending = true;
        let mut batch = Batch::new();
        let id = self.id;
        let user_data = self.next();
        let result = batch
            .disconnect(id, user_data)
            .and_then(|()| self.device.submit(&mut batch).map(|_| ()));
        if let Err(error) = result {
            log::debug(format_args!("{}: DISCONNECT: {error}", self.name()));
        }
    }

    /// Waits until everything that smbd sent has gone, and lets the device be done with our memory.
    /// To be called before the descriptor is closed.
    pub fn close(&mut self) {
        self.tell_counters();
        let end = Instant::now() + CLOSE_LIMIT;
        while self.unsent.is_some() && self.wait_until(end) {
            self.flush();
        }
        if self.ended.is_some() {
            return;
        }
        self.reclaim();
        let is_moving = !self.flights.is_empty() || self.incoming.iter().any(Incoming::is_moving);
        if !is_moving && !self.device.is_pinned() {
            // The driver sends what it has, and disconnects.
            return;
        }
        let end = Instant::now() + CLOSE_LIMIT;
        while self.bytes_unsent() != 0 && self.wait_until(end) {}
        self.disconnect();
        let end = Instant::now() + CLOSE_LIMIT;
        while self.ended.is_none() && self.wait_until(end) {}
        if self.ended.is_none() {
            // The device may still be moving data there: better lost than used twice.
            std::mem::forget(std::mem::take(&mut self.flights));
            std::mem::forget(std::mem::take(&mut self.incoming));
        }
    }

    /// Takes in what comes, for a moment; `false` when the time is over.
    fn wait_until(&mut self, end: Instant) -> bool {
        const STEP: Duration = Duration::from_millis(10);
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() || self.ended.is_some() {
            return false;
        }
        if self
            .device
            .wait(Interest::Readable, Some(rest.min(STEP)))
            .is_err()
        {
            return false;
        }
        while let Ok(Pumped::Event { .. }) = self.pump() {}
        true
    }

    /// Makes the device readable, so that smbd comes back.
    fn wake(&mut self) {
        if self.woken || self.ended.is_some() {
            return;
        }
        let mut batch = Batch::new();
        let user_data = self.next();
        let result = batch
            .nop(user_data)
            .and_then(|()| self.device.submit(&mut batch));
        // Without room for an event there are events, and the device is readable.
        self.woken = result.is_ok();
    }

    /// To be called at the end of each of smbd's calls: whatever is left must wake it.
    pub fn settle(&mut self) {
        if self.side() == Side::Client {
            return self.settle_client();
        }
        let is_ready = self.delivered == 0 && self.incoming.front().is_some_and(Incoming::is_ready);
        let is_starving = self.incoming.iter().any(Incoming::is_waiting) && !self.expects_event();
        if is_starving {
            // Another connection of this process has the room. It will not be long.
            std::thread::sleep(Duration::from_millis(1));
        }
        if is_ready || is_starving {
            self.wake();
        }
    }

    /// On the client's side the device is readable exactly while recv() gives bytes.
    fn settle_client(&mut self) {
        if !self.incoming.is_empty() {
            return self.wake();
        }
        // A NOP that made it readable would do so again.
        while self.woken && self.incoming.is_empty() {
            if !matches!(self.pump(), Ok(Pumped::Event { .. })) {
                return;
            }
        }
    }

    /// Whether an event will come without anybody else's doing.
    fn expects_event(&self) -> bool {
        self.incoming.iter().any(Incoming::is_moving)
            || self.flights.iter().any(|flight| !flight.is_quiet)
    }

    /// Room of the area; `None` if there is none just now.
    ///
    /// # Errors
    ///
    /// If there is no area at all.
    fn lease(&mut self, length: usize) -> io::Result<Option<Lease>> {
        let area = self.device.area().map_err(|error| {
            log::error(format_args!("{}: no memory for RDMA: {error}", self.name()));
            from_device(&error)
        })?;
        self.reclaim();
        Ok(area.lease(length))
    }

    /// Whether half of the area is enough for what is in use, and `length` more.
    fn is_roomy(&mut self, area: Option<&Area>, length: usize) -> bool {
        area.is_some_and(|area| {
            2 * (self.leased + length)
                <= area.buffer_count() * usmbd::abi::memory::BUFFER_SIZE as usize
        })
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn name(&self) -> String {
        match self.peer {
            Some(peer) => format!("connection {} of {peer}", self.id.number()),
            None => format!("connection {}", self.id.number()),
        }
    }
}

fn status_of(device: &impl Device) -> io::Result<ConnectionStatus> {
    match device.status() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err(errno(libc::ENOTCONN)),
        Err(error) => Err(from_device(&error)),
    }
}
