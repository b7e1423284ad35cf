// SPDX-License-Identifier: GPL-2.0-only

//! Plays the steps of a [`script`](crate::script) over one connection, and judges what comes back
//! by what this side of the wire shows: bytes, completions, events of the connection manager, time.

mod expect;

use crate::error::{End, Error, Result};
use crate::script::{Ending, Part, Step};
use crate::target::{open, private_data, Target};
use crate::verbs::{self, status_name, Completion, Endpoint, Listener, QueueSizes, Region};
use crate::wire::{DataHeader, NegotiateRequest, NegotiateResponse};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SLOTS: usize = 256;
const SLOT_SIZE: usize = 8192;
const SEND: u64 = 1 << 32;
const BIND: u64 = 1 << 33;
const FLUSHED: u32 = 5;
/// `IB_WC_LOC_QP_OP_ERR`.
const LOCAL_OPERATION: u32 = 2;
/// MaxReceiveSize and MaxSendSize of cifs.ko, which `negotiate` says.
const SIZE: u32 = 1364;
const MAX_FRAGMENTED_SIZE: u32 = 1 << 20;
/// What messages are filled with.
const FILLER: u8 = 0x41;
/// Bytes of the message that `alive` sends.
const ALIVE: usize = 64;

/// Memory that the other side can reach.
struct Memory {
    window: Option<verbs::Window>,
    region: Region,
    length: usize,
}

/// What came next.
enum Next {
    Message(Vec<u8>),
    End(End),
    Nothing,
}

/// Which side the script is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Ours connects.
    Initiator,
    /// Ours listens on the target's address, and accepts.
    Acceptor,
}

/// One connection, and how far its script is.
pub struct Player {
    side: Side,
    /// None until the connection is made, which the first step but for those about it does.
    private: Option<Vec<u8>>,
    receives: Region,
    sends: Region,
    sent: usize,
    messages: VecDeque<(Vec<u8>, Option<u32>)>,
    /// Our key that came invalidated with the message that was looked at last.
    invalidated: Option<u32>,
    memory: Option<Memory>,
    bound: bool,
    granted: u32,
    end: Option<End>,
    flushed: bool,
    /// Bound of every single wait.
    timeout: Duration,
    /// Bound of what has to come at once.
    promptly: Duration,
    /// By how much this machine is slower than what windows of time are meant for.
    slowness: u32,
    /// When ours last did something that the other side answers.
    since: Instant,
    notes: Vec<String>,
    endpoint: Endpoint,
}

/// The next connection that comes.
fn next(listener: &Listener, timeout: Duration) -> Result<Endpoint> {
    let limit = Instant::now() + timeout;
    while Instant::now() < limit {
        if let Some(endpoint) = listener.next(limit.saturating_duration_since(Instant::now()))? {
            return Ok(endpoint);
        }
    }
    Err(Error::Timeout("no connection came".into()))
}

impl Memory {
    fn key(&self) -> u32 {
        match &self.window {
            Some(window) => window.remote_key(),
            None => self.region.remote_key(),
        }
    }
}

fn hex_of(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .take(64)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "{text}{} ({} bytes)",
        if bytes.len() > 64 { "..." } else { "" },
        bytes.len()
    )
}

impl Player {
    /// With a listener, takes its next connection; else opens one to the target.
    pub fn open(target: &Target, listener: Option<&Listener>, timeout: Duration) -> Result<Self> {
        let (side, endpoint) = match listener {
            None => (Side::Initiator, open(target, timeout)?),
            Some(listener) => (Side::Acceptor, next(listener, timeout)?),
        };
        endpoint.create_queue_pair(QueueSizes {
            sends: 2 * SLOTS as u32,
            receives: 2 * SLOTS as u32,
        })?;
        let private = match side {
            Side::Initiator => private_data(&endpoint),
            Side::Acceptor => Vec::new(),
        };
        let player = Self {
            side,
            private: Some(private),
            receives: endpoint.register(SLOTS * SLOT_SIZE, false)?,
            sends: endpoint.register(SLOTS * SLOT_SIZE, false)?,
            sent: 0,
            messages: VecDeque::new(),
            invalidated: None,
            memory: None,
            bound: false,
            granted: 0,
            end: None,
            flushed: false,
            timeout,
            promptly: timeout,
            slowness: 1,
            since: Instant::now(),
            notes: Vec::new(),
            endpoint,
        };
        for slot in 0..SLOTS {
            player.post_receive(slot)?;
        }
        Ok(player)
    }

    /// What has to come at once has so long, on a machine that is so many times slower.
    pub fn promptly(mut self, promptly: Duration, slowness: u32) -> Self {
        self.promptly = promptly * slowness;
        self.slowness = slowness;
        self
    }

    pub fn is_iwarp(&self) -> bool {
        self.endpoint.is_iwarp()
    }

    /// What was seen.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Connects or accepts, if that is not done yet.
    pub fn establish(&mut self) -> Result<()> {
        let Some(private) = self.private.take() else {
            return Ok(());
        };
        self.since = Instant::now();
        match self.side {
            Side::Initiator => self.endpoint.connect(&private, self.timeout)?,
            Side::Acceptor => self.endpoint.accept(&private, self.timeout)?,
        }
        self.since = Instant::now();
        Ok(())
    }

    /// Waits for a first message, which stays.
    pub fn has_message(&mut self, time: Duration) -> Result<bool> {
        self.establish()?;
        match self.next(Instant::now() + time)? {
            Next::Message(bytes) => {
                self.messages.push_front((bytes, self.invalidated));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether a step is about how the connection is made, and so comes before it.
    pub fn is_about_connecting(&self, step: &Step) -> bool {
        match step {
            Step::Private(_) | Step::Depths(..) | Step::Refused => true,
            // An acceptor has the other side's before it answers.
            Step::PrivateData(_) => self.side == Side::Acceptor,
            _ => false,
        }
    }

    /// Plays one step.
    pub fn step(&mut self, step: &Step) -> Result<()> {
        if !self.is_about_connecting(step) {
            self.establish()?;
        }
        match step {
            Step::Private(bytes) => self.private = Some(bytes.clone()),
            Step::Depths(responder, initiator) => self.endpoint.set_depths(*responder, *initiator),
            Step::Send { times, bytes } => (0..*times).try_for_each(|_| self.send(bytes))?,
            Step::Negotiate => self.negotiate()?,
            Step::Credit(credits) => self.credit(*credits)?,
            Step::Alive => self.alive()?,
            Step::Disconnect => self.endpoint.disconnect()?,
            Step::Break => self.endpoint.break_queue_pair()?,
            Step::Leave => {
                self.endpoint.disconnect()?;
                self.expect_end(Ending::Any, None, true)?;
            }
            Step::Wait(time) => std::thread::sleep(*time),
            Step::Memory { length, content } => self.offer_memory(*length, *content)?,
            Step::Smb2(parts) => self.send_request(parts)?,
            Step::Smb2Answer { bytes, invalidates } => self.expect_smb2(bytes, *invalidates)?,
            Step::Placed(length) => self.expect_placed(*length)?,
            Step::Expect(pattern) => self.expect(pattern)?,
            Step::ExpectPayload(pattern) => self.expect_payload(pattern)?,
            Step::ExpectMessages(count) => {
                (0..*count).try_for_each(|_| self.message().map(|_| ()))?
            }
            Step::Message(length) => {
                let fragments = self.whole_message()?;
                let sum: usize = fragments.iter().map(|(length, _)| *length as usize).sum();
                if sum != *length {
                    return Error::different(format!("a message of {sum} bytes"));
                }
                self.note(format!("{length} bytes delivered"));
            }
            Step::Fragments(wanted) => {
                let fragments = self.whole_message()?;
                if fragments != *wanted {
                    return Error::different(format!("fragments {fragments:?}"));
                }
                self.note(format!("{} fragments", fragments.len()));
            }
            Step::Answer => self.expect_answer()?,
            Step::Granted(credits) => self.expect_granted(*credits)?,
            Step::Probe(window) => self.expect_probe(*window)?,
            Step::Silence(time) => self.expect_silence(*time)?,
            Step::End(ending, window) => self.expect_end(*ending, *window, false)?,
            Step::Refused => self.expect_refusal()?,
            Step::Show => self.show()?,
            Step::PrivateData(bytes) => self.expect_private_data(bytes)?,
        }
        Ok(())
    }

    fn post_receive(&self, slot: usize) -> Result<()> {
        self.endpoint
            .post_receive(slot as u64, &self.receives, slot * SLOT_SIZE, SLOT_SIZE)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let slot = self.sent % SLOTS;
        self.sent += 1;
        self.sends.write(slot * SLOT_SIZE, bytes);
        self.since = Instant::now();
        self.endpoint
            .post_send(SEND, &self.sends, slot * SLOT_SIZE, bytes.len(), None)
    }

    fn send_data(&mut self, credits_granted: u16, payload: &[u8]) -> Result<()> {
        let header = DataHeader {
            credits_requested: 255,
            credits_granted,
            ..DataHeader::default()
        };
        self.send(&header.encode(payload))
    }

    fn credit(&mut self, credits: u16) -> Result<()> {
        self.send_data(credits, &[])
    }

    fn alive(&mut self) -> Result<()> {
        // Two credits: a grant without data may go first.
        self.send_data(2, &[FILLER; ALIVE])?;
        let fragments = self.whole_message()?;
        if fragments != [(ALIVE as u32, 0)] {
            return Error::different(format!("fragments {fragments:?} came back"));
        }
        self.note("served");
        Ok(())
    }

    fn offer_memory(&mut self, length: usize, content: u8) -> Result<()> {
        let region = self.endpoint.register(length, true)?;
        region.write(0, &vec![content; length]);
        // siw knows no windows, but has a region's key invalidated.
        let window = match self.endpoint.is_iwarp() {
            true => None,
            false => Some(self.endpoint.window(BIND, &region, 0, length)?),
        };
        self.bound = window.is_none();
        let limit = Instant::now() + self.timeout;
        while !self.bound && Instant::now() < limit {
            self.poll(limit)?;
        }
        self.memory = Some(Memory {
            window,
            region,
            length,
        });
        Ok(())
    }

    fn offered(&self) -> Result<&Memory> {
        let memory = self.memory.as_ref();
        memory.ok_or_else(|| Error::Different("there is no memory".into()))
    }

    fn send_request(&mut self, parts: &[Part]) -> Result<()> {
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(more) => bytes.extend(more),
                Part::Offset => bytes.extend(self.offered()?.region.address(0).to_le_bytes()),
                Part::Token => bytes.extend(self.offered()?.key().to_le_bytes()),
            }
        }
        self.send_data(1, &bytes)
    }

    fn negotiate(&mut self) -> Result<()> {
        match self.side {
            Side::Initiator => {
                let request = NegotiateRequest {
                    credits_requested: 255,
                    preferred_send_size: SIZE,
                    max_receive_size: SIZE,
                    max_fragmented_size: MAX_FRAGMENTED_SIZE,
                };
                self.send(&request.encode())?;
                NegotiateResponse::decode(&self.message()?, SIZE).map(|_| ())
            }
            Side::Acceptor => {
                let request = NegotiateRequest::decode(&self.message()?)?;
                let response = NegotiateResponse {
                    credits_requested: 255,
                    credits_granted: 255,
                    max_read_write_size: 8 << 20,
                    preferred_send_size: SIZE.min(request.max_receive_size),
                    max_receive_size: SIZE.min(request.preferred_send_size),
                    max_fragmented_size: MAX_FRAGMENTED_SIZE,
                };
                self.send(&response.encode())?;
                // An acceptor has no credit before the initiator's first data transfer, which stays
                // for whoever asks for it.
                let first = self.message()?;
                self.messages.push_front((first, self.invalidated));
                Ok(())
            }
        }
    }

    /// What comes next, at most until `end`.
    fn next(&mut self, end: Instant) -> Result<Next> {
        loop {
            if let Some((message, invalidated)) = self.messages.pop_front() {
                self.invalidated = invalidated;
                return Ok(Next::Message(message));
            }
            if let Some(end) = &self.end {
                return Ok(Next::End(end.clone()));
            }
            if Instant::now() >= end {
                return Ok(Next::Nothing);
            }
            self.poll(end)?;
        }
    }

    fn poll(&mut self, end: Instant) -> Result<()> {
        // After a flush, only the event is of interest; completions would not let us sleep.
        let left = end.saturating_duration_since(Instant::now());
        let completions = self.endpoint.poll(left)?;
        self.complete(&completions)?;
        if completions.is_empty() {
            self.end = self.end.take().or_else(|| self.endpoint.ended());
            if self.end.is_some() {
                // What came before the end may have come after the look at it.
                let last = self.endpoint.poll(Duration::ZERO)?;
                self.complete(&last)?;
            } else if self.flushed && Instant::now() >= end {
                self.end = Some(End::QueuePair(status_name(FLUSHED)));
            }
        }
        Ok(())
    }

    fn complete(&mut self, completions: &[Completion]) -> Result<()> {
        for completion in completions {
            match completion.status {
                0 if completion.id == BIND => self.bound = true,
                0 if completion.id & SEND != 0 => {}
                0 => {
                    let slot = completion.id as usize;
                    let bytes = self
                        .receives
                        .read(slot * SLOT_SIZE, completion.length as usize);
                    // Of a Negotiate message this is nonsense, and nobody looks.
                    if let Ok((header, _)) = DataHeader::decode(&bytes, u32::MAX) {
                        self.granted += u32::from(header.credits_granted);
                    }
                    self.messages.push_back((bytes, completion.invalidated()));
                    if self.end.is_none() {
                        self.post_receive(slot)?;
                    }
                }
                FLUSHED => self.flushed = true,
                // siw_qp_sq_proc_tx() (drivers/infiniband/sw/siw/siw_qp_tx.c) fails a send that is all
                // on its way when the other side's end came meanwhile; the event tells what it was.
                LOCAL_OPERATION if completion.id & SEND != 0 && self.endpoint.is_iwarp() => {
                    self.flushed = true;
                }
                status => self.end = Some(End::QueuePair(status_name(status))),
            }
        }
        Ok(())
    }

    fn message(&mut self) -> Result<Vec<u8>> {
        match self.next(Instant::now() + self.timeout)? {
            Next::Message(bytes) => Ok(bytes),
            Next::End(end) => Err(Error::Ended(end)),
            Next::Nothing => Err(Error::Timeout("a message".into())),
        }
    }

    /// The next message that has a header and data, and is as a sender has to make it.
    fn data(&mut self) -> Result<(DataHeader, Vec<u8>)> {
        let bytes = self.message()?;
        let (header, payload) = DataHeader::decode(&bytes, MAX_FRAGMENTED_SIZE)?;
        let payload = payload.to_vec();
        Ok((header, payload))
    }
}
