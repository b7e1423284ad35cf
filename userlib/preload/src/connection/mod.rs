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

use crate::device::{Device, SharedArea};
use crate::log;
use crate::rewrite::Rewriter;
use fetch::Incoming;
use send::{Flight, Unsent};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use usmbd::abi::command;
use usmbd::{
    Batch, ConnectionId, ConnectionStatus, EndReason, Error, Event, Events, Interest, Lease,
    MemoryRange,
};

/// The prefix of every message in smbd's stream: zero, then the length in 24 bits.
const PREFIX: usize = 4;
/// Most bytes of one request's data: smbd's largest `smb2 max read` and `smb2 max write` are below.
const MAX_TRANSFER: u32 = 16 << 20;
/// Most bytes of messages held back while the data of an earlier one is on its way.
const MAX_HELD: usize = 64 << 20;
/// Bytes of messages beyond which no more are taken in for smbd while it sends.
const MAX_AHEAD: usize = 1 << 20;
/// Most entries in the lists of RDMA writes under way for another one to be quiet. Together with the
/// longest lists that a command can have, that is less than the least room that the driver may have
/// for a context's lists: 128 KiB.
const MAX_QUIET_ENTRIES: usize = 3500;
const _: () = {
    let most = command::MAX_DESCRIPTORS as usize + command::MAX_RANGES as usize;
    assert!((MAX_QUIET_ENTRIES + most) * size_of::<MemoryRange>() < 128 << 10);
};
/// Memory of the area that is unused for so long goes back to the driver, which is looked for as
/// often. Tests do not wait.
const TRIM_AFTER: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });
/// How long there may be no room at all in the area before that is logged, and before the connection
/// ends. It may be a limit of memory that other processes are at: what they leave unused the driver
/// takes back after a minute.
const NO_ROOM_LOGGED: Duration = Duration::from_secs(5);
const NO_ROOM_LIMIT: Duration = Duration::from_secs(90);
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
    /// Entries in the lists of these RDMA writes.
    listed: usize,
    /// When to look for unused memory of the area; none before it was used.
    trim_at: Option<Instant>,
    /// Since when there was no room in it, and whether that was logged.
    no_room: Option<(Instant, bool)>,
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
            listed: 0,
            trim_at: None,
            no_room: None,
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

    /// Takes in what is there, but while smbd has enough to read: what it does not take in time is
    /// better left to the device, which holds up the client.
    fn pump_all(&mut self) -> io::Result<()> {
        while !self.is_ahead() {
            if let Pumped::Nothing = self.pump()? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there are many messages for smbd to read, and nothing that the first of them waits for.
    fn is_ahead(&self) -> bool {
        self.side() == Side::Server
            && self.held > MAX_AHEAD
            && self.incoming.front().is_some_and(Incoming::is_ready)
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
        self.trim();
        let is_ready = self.incoming.front().is_some_and(Incoming::is_ready);
        // What waits behind a message that is ready goes on when smbd has taken that.
        let is_starving =
            !is_ready && self.incoming.iter().any(Incoming::is_waiting) && !self.expects_event();
        if is_starving {
            // Another connection of this process has the room. It will not be long.
            std::thread::sleep(Duration::from_millis(1));
        }
        if (is_ready && self.delivered == 0) || is_starving {
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

    /// The area.
    ///
    /// # Errors
    ///
    /// If there is none at all.
    fn area(&mut self) -> io::Result<SharedArea> {
        self.device.area().map_err(|error| {
            log::error(format_args!("{}: no memory for RDMA: {error}", self.name()));
            from_device(&error)
        })
    }

    /// Room of the area; `None` if there is none just now.
    ///
    /// # Errors
    ///
    /// If there is no area at all.
    fn lease(&mut self, length: usize) -> io::Result<Option<Lease>> {
        let shared = self.area()?;
        self.trim_at
            .get_or_insert_with(|| Instant::now() + TRIM_AFTER);
        self.reclaim();
        let lease = shared.area.lease(length);
        match &lease {
            Some(_) => self.no_room = None,
            None => self.miss_room(length),
        }
        Ok(lease)
    }

    /// There was no room just now. It will not be long, unless a limit of memory is reached.
    fn miss_room(&mut self, length: usize) {
        let (since, is_logged) = self.no_room.get_or_insert_with(|| (Instant::now(), false));
        let passed = since.elapsed();
        if passed >= NO_ROOM_LIMIT {
            self.fail(format_args!(
                "no memory for {length} bytes by RDMA for {} s",
                passed.as_secs()
            ));
        } else if passed >= NO_ROOM_LOGGED && !std::mem::replace(is_logged, true) {
            log::error(format_args!(
                "{}: waiting for memory for {length} bytes by RDMA: is a limit reached \
                 (user_memory_mib, memory_mib)?",
                self.name()
            ));
        }
    }

    /// Gives unused memory of the area back: all processes of smbd have one limit together.
    fn trim(&mut self) {
        if self.trim_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.trim_at = Some(Instant::now() + TRIM_AFTER);
        self.reclaim();
        let Ok(shared) = self.device.area() else {
            return;
        };
        if let Err(error) = shared.area.trim(TRIM_AFTER) {
            log::debug(format_args!("{}: giving memory back: {error}", self.name()));
        }
    }

    /// Whether half of the area is enough for what is in use, and `length` more.
    fn is_roomy(&mut self, area: Option<&SharedArea>, length: usize) -> bool {
        area.is_some_and(|area| 2 * (self.leased + length) <= area.size())
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
