// SPDX-License-Identifier: GPL-2.0-only

//! One SMB Direct connection: negotiation, credits, fragmentation, reassembly.
//!
//! Stricter than [MS-SMBD] asks of a receiver: what a sender SHOULD do, it must do here.

use crate::error::{End, Error, Result};
use crate::target::{open, private_data, Parameters, Target};
use crate::verbs::{status_name, Completion, Endpoint, QueueSizes, Region};
use crate::wire::{self, DataHeader, NegotiateRequest, NegotiateResponse};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Set in the work request ids of sends; the rest is the slot.
const SEND: u64 = 1 << 32;
/// Work request id of a memory window's bind.
pub const BIND: u64 = 1 << 33;
/// ibverbs' number of the status of work requests that were flushed.
const FLUSHED: u32 = 5;
/// A Negotiate message fits, whatever MaxReceiveSize says.
const LEAST_BUFFER: usize = 512;

/// A whole message.
#[derive(Debug, Eq, PartialEq)]
pub struct Message {
    pub bytes: Vec<u8>,
    /// Our key that came invalidated with it.
    pub invalidated: Option<u32>,
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

/// One connection.
pub struct Connection {
    receives: Region,
    sends: Region,
    parameters: Parameters,
    buffer_size: usize,
    /// What negotiation made of the sizes.
    pub max_send_size: u32,
    pub max_fragmented_send_size: u32,
    pub max_read_write_size: u32,

    send_credits: u32,
    /// Receives that the other side knows of and has not used.
    receive_credits: u32,
    /// Receives that are posted and not granted yet.
    ungranted: u32,
    receive_target: u32,
    answer_requested: bool,
    free_slots: Vec<usize>,
    queue: VecDeque<Outgoing>,

    handshake: Option<Vec<u8>>,
    established: bool,
    reassembly: Vec<u8>,
    remaining: u32,
    invalidated: Option<u32>,
    ready: VecDeque<Message>,
    bound: bool,
    end: Option<End>,
    /// Last, so that the regions go first.
    pub endpoint: Endpoint,
}

impl Connection {
    /// Connects, and negotiates.
    pub fn connect(target: &Target, parameters: Parameters) -> Result<Self> {
        let endpoint = open(target, parameters.timeout)?;
        let mut this = Self::prepare(endpoint, parameters)?;
        this.endpoint
            .connect(&private_data(&this.endpoint), parameters.timeout)?;
        let request = NegotiateRequest {
            credits_requested: parameters.credits,
            preferred_send_size: parameters.max_send_size,
            max_receive_size: parameters.max_receive_size,
            max_fragmented_size: parameters.max_fragmented_size,
        };
        this.post(&request.encode(), None)?;
        let bytes = this.await_handshake("negotiate response")?;
        let response = NegotiateResponse::decode(&bytes, parameters.max_receive_size)?;
        this.establish(
            response.max_receive_size,
            response.max_fragmented_size,
            response.credits_requested,
        )?;
        this.send_credits = response.credits_granted.into();
        this.max_read_write_size = response.max_read_write_size;
        Ok(this)
    }

    /// Accepts, and answers the negotiation.
    pub fn accept(endpoint: Endpoint, parameters: Parameters) -> Result<Self> {
        let mut this = Self::prepare(endpoint, parameters)?;
        this.endpoint.accept(&[], parameters.timeout)?;
        let request = NegotiateRequest::decode(&this.await_handshake("negotiate request")?)?;
        let receive_size = parameters
            .max_receive_size
            .min(request.preferred_send_size)
            .max(wire::LEAST_RECEIVE_SIZE);
        this.establish(
            request.max_receive_size,
            request.max_fragmented_size,
            request.credits_requested,
        )?;
        let granted = this.grantable();
        this.ungranted -= granted;
        this.receive_credits += granted;
        let response = NegotiateResponse {
            credits_requested: parameters.credits,
            credits_granted: granted as u16,
            max_read_write_size: 8 << 20,
            preferred_send_size: this.max_send_size,
            max_receive_size: receive_size,
            max_fragmented_size: parameters.max_fragmented_size,
        };
        this.post(&response.encode(), None)?;
        Ok(this)
    }

    /// A queue pair with its buffers, and one receive for the Negotiate message.
    fn prepare(endpoint: Endpoint, parameters: Parameters) -> Result<Self> {
        let credits = usize::from(parameters.credits);
        let largest = parameters.max_receive_size.max(parameters.max_send_size) as usize;
        let buffer_size = largest.max(LEAST_BUFFER);
        // Sends: the Negotiate message too. Receives: one to grant with the last credit.
        let slots = credits + 1;
        let count = u32::from(parameters.credits) + 2;
        endpoint.create_queue_pair(QueueSizes {
            sends: count,
            receives: count,
        })?;
        let this = Self {
            receives: endpoint.register(buffer_size * slots, false)?,
            sends: endpoint.register(buffer_size * slots, false)?,
            parameters,
            buffer_size,
            max_send_size: parameters.max_send_size,
            max_fragmented_send_size: 0,
            max_read_write_size: 0,
            send_credits: 0,
            receive_credits: 0,
            ungranted: 0,
            receive_target: 0,
            answer_requested: false,
            free_slots: (0..slots).collect(),
            queue: VecDeque::new(),
            handshake: None,
            established: false,
            reassembly: Vec::new(),
            remaining: 0,
            invalidated: None,
            ready: VecDeque::new(),
            bound: false,
            end: None,
            endpoint,
        };
        this.post_receive(0)?;
        Ok(this)
    }

    fn post_receive(&self, slot: usize) -> Result<()> {
        let length = if self.established {
            self.parameters.max_receive_size as usize
        } else {
            LEAST_BUFFER
        };
        self.endpoint
            .post_receive(slot as u64, &self.receives, slot * self.buffer_size, length)
    }

    /// Takes the other side's sizes, and posts all receives.
    fn establish(&mut self, peer_receive: u32, peer_fragmented: u32, wanted: u16) -> Result<()> {
        self.max_send_size = self.max_send_size.min(peer_receive);
        self.max_fragmented_send_size = peer_fragmented;
        self.receive_target = wanted.into();
        self.established = true;
        for slot in 0..=usize::from(self.parameters.credits) {
            self.post_receive(slot)?;
            self.ungranted += 1;
        }
        Ok(())
    }

    fn await_handshake(&mut self, what: &str) -> Result<Vec<u8>> {
        let end = Instant::now() + self.parameters.timeout;
        loop {
            if let Some(bytes) = self.handshake.take() {
                return Ok(bytes);
            }
            self.pump(end, what)?;
        }
    }

    /// Credits that may be granted now: at most to the other side's target, but one at least with
    /// our last credit, [MS-SMBD] 3.1.5.9.
    fn grantable(&self) -> u32 {
        let target = self.receive_target.min(self.parameters.credits.into());
        let least = u32::from(self.send_credits == 1 && !self.queue.is_empty());
        self.ungranted
            .min(target.saturating_sub(self.receive_credits).max(least))
    }

    /// Puts one PDU into a send slot and posts it.
    fn post(&mut self, bytes: &[u8], invalidate: Option<u32>) -> Result<()> {
        let Some(slot) = self.free_slots.pop() else {
            return Error::different("no send slot is free");
        };
        let at = slot * self.buffer_size;
        self.sends.write(at, bytes);
        self.endpoint
            .post_send(SEND | slot as u64, &self.sends, at, bytes.len(), invalidate)
    }

    /// Posts what credits and slots allow.
    fn transmit(&mut self) -> Result<()> {
        while self.established && self.end.is_none() && !self.free_slots.is_empty() {
            let grantable = self.grantable();
            // The last credit may go only on a message that grants some.
            if self.send_credits == 0 || (self.send_credits == 1 && grantable == 0) {
                return Ok(());
            }
            let (payload, remaining) = match self.queue.front_mut() {
                Some(message) => {
                    let room = self.max_send_size as usize - wire::DATA_OFFSET;
                    let end = message.bytes.len().min(message.sent + room);
                    let payload = message.bytes[message.sent..end].to_vec();
                    message.sent = end;
                    (payload, message.bytes.len() - end)
                }
                None => {
                    let due = grantable > 0 && self.receive_credits == 0;
                    if !self.answer_requested
                        && !due
                        && grantable < (self.receive_target / 4).max(2)
                    {
                        return Ok(());
                    }
                    (Vec::new(), 0)
                }
            };
            if remaining == 0 && !payload.is_empty() {
                self.queue.pop_front();
            }
            self.ungranted -= grantable;
            self.receive_credits += grantable;
            let header = DataHeader {
                credits_requested: self.parameters.credits,
                credits_granted: grantable as u16,
                remaining: remaining as u32,
                ..DataHeader::default()
            };
            self.answer_requested = false;
            self.send_credits -= 1;
            self.post(&header.encode(&payload), None)?;
        }
        Ok(())
    }

    /// One round: post, wait for something to happen at most until `end`, take it.
    fn pump(&mut self, end: Instant, what: &str) -> Result<()> {
        self.transmit()?;
        let left = end.saturating_duration_since(Instant::now());
        let mut completions = Vec::new();
        if self.end.is_none() {
            completions = self.endpoint.poll(left)?;
            self.complete(&completions)?;
        }
        if completions.is_empty() && self.end.is_none() {
            self.end = self.endpoint.ended();
            // What came before the end may have come after the look at it.
            if self.end.is_some() {
                let last = self.endpoint.poll(Duration::ZERO)?;
                self.complete(&last)?;
            }
        }
        self.transmit()?;
        if let Some(end) = &self.end {
            return Err(Error::Ended(end.clone()));
        }
        if completions.is_empty() && Instant::now() >= end {
            return Err(Error::Timeout(format!("{what} ({})", self.describe())));
        }
        Ok(())
    }

    fn complete(&mut self, completions: &[Completion]) -> Result<()> {
        completions
            .iter()
            .try_for_each(|completion| self.complete_one(completion))
    }

    fn complete_one(&mut self, completion: &Completion) -> Result<()> {
        match completion.status {
            0 => {}
            _ if self.end.is_some() => return Ok(()),
            // A flush tells nothing; the event or the request that failed does.
            FLUSHED => {
                self.end = Some(self.end_after_flush()?);
                return Ok(());
            }
            status => {
                self.end = Some(End::QueuePair(status_name(status)));
                return Ok(());
            }
        }
        if completion.id == BIND {
            self.bound = true;
        } else if completion.id & SEND != 0 {
            self.free_slots.push((completion.id & !SEND) as usize);
        } else {
            let slot = completion.id as usize;
            let length = completion.length as usize;
            let bytes = self.receives.read(slot * self.buffer_size, length);
            self.receive_pdu(slot, &bytes, completion.invalidated())?;
        }
        Ok(())
    }

    /// Flushed by a disconnect, or by an error that some other request will show?
    fn end_after_flush(&self) -> Result<End> {
        let limit = Instant::now() + Duration::from_secs(3);
        while Instant::now() < limit {
            if let Some(end) = self.endpoint.ended() {
                return Ok(end);
            }
            for completion in self.endpoint.poll(Duration::from_millis(50))? {
                if completion.status != 0 && completion.status != FLUSHED {
                    return Ok(End::QueuePair(status_name(completion.status)));
                }
            }
        }
        Ok(End::QueuePair(status_name(FLUSHED)))
    }

    fn receive_pdu(&mut self, slot: usize, bytes: &[u8], invalidated: Option<u32>) -> Result<()> {
        if !self.established {
            self.handshake = Some(bytes.to_vec());
            return Ok(());
        }
        let (header, payload) = DataHeader::decode(bytes, self.parameters.max_fragmented_size)?;
        if self.receive_credits == 0 {
            return Error::protocol("a message came without a credit");
        }
        self.receive_credits -= 1;
        // Behind the end there is nothing more to receive.
        if self.end.is_none() {
            self.post_receive(slot)?;
        }
        self.ungranted += 1;
        self.receive_target = header.credits_requested.into();
        self.send_credits += u32::from(header.credits_granted);
        self.answer_requested |= header.flags & wire::RESPONSE_REQUESTED != 0;
        if invalidated.is_some() && self.invalidated.is_some() {
            return Error::protocol("two segments of one message invalidate a key");
        }
        self.invalidated = self.invalidated.or(invalidated);
        self.reassemble(&header, payload)
    }

    fn reassemble(&mut self, header: &DataHeader, payload: &[u8]) -> Result<()> {
        let started = self.remaining > 0;
        if started && header.length + header.remaining != self.remaining {
            return Error::protocol(format!(
                "{} bytes were to come, but a segment has {} and {} behind it",
                self.remaining, header.length, header.remaining
            ));
        }
        if !started && payload.is_empty() && header.remaining == 0 {
            return Ok(());
        }
        self.reassembly.extend(payload);
        self.remaining = header.remaining;
        if self.remaining == 0 {
            self.ready.push_back(Message {
                bytes: std::mem::take(&mut self.reassembly),
                invalidated: self.invalidated.take(),
            });
        }
        Ok(())
    }

    /// Queues a message; it leaves as credits allow, while something is awaited.
    pub fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        if bytes.is_empty() || bytes.len() > self.max_fragmented_send_size as usize {
            return Error::different(format!(
                "cannot send {} bytes, the other side takes {}",
                bytes.len(),
                self.max_fragmented_send_size
            ));
        }
        self.queue.push_back(Outgoing { bytes, sent: 0 });
        self.transmit()
    }

    /// Posts bytes as they are: a PDU that breaks rules. It takes no credit of ours.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.post(bytes, None)
    }

    /// Asks for an answer as often as credits allow, for a while.
    pub fn keep_asking(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let grantable = self.grantable();
            if self.send_credits > 1 && !self.free_slots.is_empty() {
                self.ungranted -= grantable;
                self.receive_credits += grantable;
                self.send_credits -= 1;
                let header = DataHeader {
                    credits_requested: self.parameters.credits,
                    credits_granted: grantable as u16,
                    flags: wire::RESPONSE_REQUESTED,
                    ..DataHeader::default()
                };
                self.post(&header.encode(&[]), None)?;
            }
            let moment = Instant::now() + Duration::from_micros(50);
            match self.pump(moment.min(end), "an answer") {
                Ok(()) | Err(Error::Timeout(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// The next message.
    pub fn receive(&mut self) -> Result<Message> {
        let end = Instant::now() + self.parameters.timeout;
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            match self.pump(end, "the next message") {
                Err(Error::Ended(_)) if !self.ready.is_empty() => {}
                other => other?,
            }
        }
    }

    /// Sends `bytes`, and takes the next message as its answer.
    pub fn ask(&mut self, bytes: Vec<u8>) -> Result<Message> {
        self.send(bytes)?;
        self.receive()
    }

    /// Waits until what was queued is sent and completed.
    pub fn flush(&mut self) -> Result<()> {
        let end = Instant::now() + self.parameters.timeout;
        let slots = usize::from(self.parameters.credits) + 1;
        while !self.queue.is_empty() || self.free_slots.len() < slots {
            self.pump(end, "sends to complete")?;
        }
        Ok(())
    }

    /// Waits until a memory window that was posted is bound.
    pub fn await_bind(&mut self) -> Result<()> {
        let end = Instant::now() + self.parameters.timeout;
        while !std::mem::take(&mut self.bound) {
            self.pump(end, "a memory window to be bound")?;
        }
        Ok(())
    }

    /// Waits until the other side or the fabric ends the connection; messages still count.
    pub fn await_end(&mut self) -> Result<End> {
        let end = Instant::now() + self.parameters.timeout;
        loop {
            match self.pump(end, "the connection's end") {
                Err(Error::Ended(end)) => return Ok(end),
                other => other?,
            }
        }
    }

    /// Keeps the connection alive for a while; an end is an error.
    pub fn idle(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            match self.pump(end, "nothing") {
                Ok(()) | Err(Error::Timeout(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Disconnects in order.
    pub fn disconnect(mut self) -> Result<()> {
        self.endpoint.disconnect()?;
        self.await_end().map(|_| ())
    }

    /// State in words, for failures.
    pub fn describe(&self) -> String {
        format!(
            "send credits {}, receive credits {} and {} ungranted, {} messages queued, {} send \
             slots free, {} of {} bytes reassembled",
            self.send_credits,
            self.receive_credits,
            self.ungranted,
            self.queue.len(),
            self.free_slots.len(),
            self.reassembly.len(),
            self.reassembly.len() as u64 + u64::from(self.remaining),
        )
    }
}
