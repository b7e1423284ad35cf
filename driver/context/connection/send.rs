// SPDX-License-Identifier: GPL-2.0-only

//! The sending half of a connection: messages that wait, and work requests that are posted.
//!
//! Two queues wait: what is ordered (messages, and RDMA writes, which the messages behind them
//! follow on the wire), and RDMA reads, for which nothing waits. What is posted stands in one ring
//! in the order of the send queue; a completion retires everything up to its own entry.

use super::link::{Capacity, WorkRequestId};
use super::outgoing::Outgoing;
use super::ranges::{Progress, Registration};
use super::transfer::Transfer;
use super::{Connection, Later, Phase, State, Status, Time};
use crate::context::ring::Ring;
use crate::trace;
use crate::verbs::{Chain, Device, Direction, DmaBuffer, Sge};
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_engine as engine;
use usmbd_engine::{Action, Outlook, Transmit};

/// Bytes of copied messages that wait or are posted, for one connection; one message may always
/// wait, however long it is.
const QUEUE_BYTES: usize = 1 << 20;
/// Messages and RDMA writes that wait, for one connection.
const QUEUE_LENGTH: usize = 256;
/// Work requests of one chain, thus of one doorbell.
const CHAIN_LENGTH: usize = 32;
/// Longest header of a PDU: the Negotiate Response.
const LONGEST_HEADER: usize = 32;
/// Work requests after which one asks for a completion even inside a chain, so that slots come back
/// while the rest of it is on its way. The last of a chain always does.
const SIGNAL_EVERY: u16 = 16;
/// Bytes after which one does so if somebody awaits the event of a command before it.
const SIGNAL_BYTES: u32 = 256 << 10;

/// What waits in order.
pub(super) enum Item {
    Message(KBox<Outgoing>),
    /// An RDMA write; of what is done, also a read.
    Transfer(KBox<Transfer>),
}

/// Which commands a work request is for, and where its failure is told.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Message,
    Write,
    Read,
}

/// What a posted work request was for.
pub(super) enum Posted {
    /// A PDU that no message ends with.
    Pdu,
    /// The last PDU of a message.
    Message(KBox<Outgoing>),
    /// Part of a transfer, or of a registration, not the last.
    Part(Kind),
    /// The last part of a transfer.
    Transfer(KBox<Transfer>),
    /// A registration of a buffer of the area.
    Registration(Registration, Kind),
}

/// See the module's documentation.
pub(super) struct SendQueue {
    pub(super) ordered: Ring<Item>,
    pub(super) reads: Ring<KBox<Transfer>>,
    /// Bytes of copied messages that wait or are posted.
    bytes: usize,
    pub(super) posted: Ring<Posted>,
    /// Number of the oldest posted work request, and of the next one.
    pub(super) oldest: u64,
    next: u64,
    pub(super) chain: Chain,
    /// Entries of an RDMA write, and of an RDMA read.
    pub(super) write_sge: usize,
    pub(super) read_sge: usize,
    /// Entries for the payload of a PDU whose message stands in ranges.
    payload_sge: usize,
    headers: Headers,
    pub(super) send_slots: u16,
    pub(super) rdma_slots: u16,
    /// Work requests since the last one that asked for a completion, their bytes, and whether a
    /// command ends with one of them whose event somebody awaits.
    unsignalled: u16,
    unsignalled_bytes: u32,
    awaited: bool,
    /// What failed first; it tells about the next command of its kind that is settled, since each kind
    /// keeps its order, or about the next one.
    pub(super) failure: Option<(Status, Option<Kind>)>,
}

impl SendQueue {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(device: &Arc<Device>, capacity: &Capacity) -> Result<Self> {
        let entries = capacity.send_queue() as usize;
        let max_sge = capacity.send_sge as usize;
        Ok(Self {
            ordered: Ring::with_capacity(QUEUE_LENGTH)?,
            reads: Ring::with_capacity(QUEUE_LENGTH)?,
            bytes: 0,
            posted: Ring::with_capacity(entries)?,
            oldest: 0,
            next: 0,
            chain: Chain::new(CHAIN_LENGTH, max_sge)?,
            write_sge: device.max_rdma_sge(true).min(max_sge),
            read_sge: device.max_rdma_sge(false).min(max_sge),
            // The header takes one, of memory that needs no region.
            payload_sge: device.max_rdma_sge(true).min(max_sge.saturating_sub(1)),
            headers: Headers::new(device, entries)?,
            send_slots: capacity.sends,
            rdma_slots: capacity.rdma,
            unsignalled: 0,
            unsignalled_bytes: 0,
            awaited: false,
            failure: None,
        })
    }

    /// Nothing is posted any more: gives the mapping up, to be dropped. The device may go then,
    /// while an event that nobody reads still holds the connection.
    pub(super) fn retire(&mut self) -> Option<DmaBuffer> {
        self.headers.memory.take()
    }

    /// Whether nothing waits and nothing is posted.
    pub(super) fn is_idle(&self) -> bool {
        self.ordered.is_empty() && self.reads.is_empty() && self.posted.is_empty()
    }

    /// Whether a message of which `copied` bytes are copied may be queued.
    pub(super) fn has_room(&self, copied: usize) -> bool {
        let wanted = self.bytes.saturating_add(copied);
        !self.ordered.is_full() && (self.bytes == 0 || wanted <= QUEUE_BYTES)
    }

    /// Queues a message; [`Self::has_room`] said yes.
    pub(super) fn queue(&mut self, message: KBox<Outgoing>) -> Result<(), KBox<Outgoing>> {
        let copied = message.copied();
        match self.ordered.push(Item::Message(message)) {
            Ok(()) => {
                self.bytes = self.bytes.saturating_add(copied);
                Ok(())
            }
            Err(Item::Message(message)) => Err(message),
            Err(Item::Transfer(_)) => Ok(()),
        }
    }

    /// A message is done of which so many bytes were copied.
    pub(super) fn give_back(&mut self, copied: usize) {
        self.bytes = self.bytes.saturating_sub(copied);
    }

    /// Bytes of memory that an idle connection has here.
    pub(super) fn memory(&self) -> usize {
        let headers = self.headers.memory.as_ref().map_or(0, DmaBuffer::len);
        self.ordered
            .memory()
            .saturating_add(self.reads.memory())
            .saturating_add(self.posted.memory())
            .saturating_add(headers)
            .saturating_add(self.chain.memory())
    }

    /// Number and signal for the next work request, of so many bytes. `awaited` is whether a command
    /// completes with it whose event somebody awaits: it need not wait for long ones behind it.
    pub(super) fn number(&mut self, awaited: bool, bytes: u32) -> (u64, bool) {
        self.awaited |= awaited;
        self.unsignalled_bytes = self.unsignalled_bytes.saturating_add(bytes);
        let due = self.awaited && self.unsignalled_bytes >= SIGNAL_BYTES;
        let signalled = due || self.unsignalled >= SIGNAL_EVERY;
        if signalled {
            self.signalled();
        } else {
            self.unsignalled = self.unsignalled.saturating_add(1);
        }
        (WorkRequestId::Send(self.next).into(), signalled)
    }

    /// A completion comes for all so far.
    fn signalled(&mut self) {
        self.unsignalled = 0;
        self.unsignalled_bytes = 0;
        self.awaited = false;
    }

    /// Has the chain's last work request ask for a completion: everything before it is done then.
    fn signal_last(&mut self) {
        if self.unsignalled > 0 {
            self.signalled();
            self.chain.signal_last();
        }
    }

    /// Remembers what was added to the chain just now.
    #[inline]
    pub(super) fn remember(&mut self, posted: Posted) -> Result<(), Posted> {
        self.posted.push(posted)?;
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    pub(super) fn can_post(&self) -> bool {
        !self.posted.is_full() && !self.chain.is_full()
    }

    /// Work requests that can be posted until one completes.
    pub(super) fn posted_room(&self) -> usize {
        self.posted.capacity().saturating_sub(self.posted.len())
    }

    /// Adds a PDU to the chain. None if it could not be built, which no input of a peer or a user can
    /// bring about.
    fn push_pdu(&mut self, transmit: &Transmit) -> Option<()> {
        let ends = transmit.ends_message;
        let Self {
            ordered,
            chain,
            headers,
            ..
        } = self;
        // One for a header, and the payload's.
        let entries = chain.entries(self.payload_sge.saturating_add(1))?;
        let (count, awaited) = match ordered.front_mut() {
            // Few and far between; their completions are what a failure response waits for.
            _ if transmit.payload_length == 0 => {
                *entries.first_mut()? = headers.write(self.next, transmit)?;
                (1, true)
            }
            Some(Item::Message(message)) => {
                let awaited = ends && !message.is_quiet();
                if !message.has_ranges() {
                    *entries.first_mut()? = message.segment(transmit)?;
                    (1, awaited)
                } else {
                    let (header, payload) = entries.split_first_mut()?;
                    *header = headers.write(self.next, transmit)?;
                    let count = message.take(transmit, payload)?;
                    (count.saturating_add(1), awaited)
                }
            }
            _ => return None,
        };
        let (wr_id, signalled) = self.number(awaited, transmit.payload_length);
        self.chain
            .push_send(wr_id, count, signalled, transmit.invalidate)
            .ok()?;
        let posted = match if ends { self.ordered.pop() } else { None } {
            Some(Item::Message(message)) => Posted::Message(message),
            _ => Posted::Pdu,
        };
        self.send_slots = self.send_slots.saturating_sub(1);
        self.remember(posted).ok()
    }
}

/// Headers that do not stand before their payload, one for each entry of the ring of what is posted.
struct Headers {
    /// Gone when nothing is posted any more.
    memory: Option<DmaBuffer>,
    count: u64,
}

impl Headers {
    fn new(device: &Arc<Device>, count: usize) -> Result<Self> {
        let bytes = count.saturating_mul(LONGEST_HEADER);
        let memory = DmaBuffer::allocate(device, bytes, Direction::ToDevice)?;
        Ok(Self {
            memory: Some(memory),
            count: count as u64,
        })
    }

    /// Writes the header of the PDU that is work request `number`; where it stands.
    fn write(&mut self, number: u64, transmit: &Transmit) -> Option<Sge> {
        let length = transmit.header_length as usize;
        let place = number.checked_rem(self.count)? as usize;
        let start = place.checked_mul(LONGEST_HEADER)?;
        let memory = self.memory.as_mut()?;
        memory
            .as_mut_slice()
            .get_mut(start..start.checked_add(length)?)?
            .copy_from_slice(transmit.header.get(..length)?);
        memory.sync_for_device(start.saturating_add(length));
        Some(Sge {
            address: memory.address().checked_add(start as u64)?,
            length: transmit.header_length,
            lkey: memory.lkey(),
        })
    }
}

impl Connection {
    /// Posts what can be posted, in chains of one doorbell each.
    pub(super) fn pump(self: &Arc<Self>, state: &mut State, now: Time, later: &mut Later) {
        loop {
            let Some(link) = state.link.clone() else {
                return;
            };
            if matches!(state.phase, Phase::Draining | Phase::Gone) {
                return;
            }
            state.send.chain.clear();
            self.fill_chain(state, now, later);
            if state.send.chain.is_empty() {
                return;
            }
            state.send.signal_last();
            let full = state.send.chain.is_full();
            let (requests, signalled) = state.send.chain.counts();
            trace::post(self.number, requests, signalled);
            if link.post(&mut state.send.chain).is_err() {
                state
                    .engine
                    .handle_provider_error(engine::Reason::ProviderError, now);
                return;
            }
            if !full {
                return;
            }
        }
    }

    fn fill_chain(self: &Arc<Self>, state: &mut State, now: Time, later: &mut Later) {
        self.push_reads(state, later);
        while state.send.can_post() {
            // What is behind a head that waits, waits too; credits and keepalives do not.
            let head = match state.send.ordered.front() {
                Some(Item::Transfer(_)) => {
                    if self.push_write(state, later) {
                        continue;
                    }
                    None
                }
                Some(Item::Message(_)) => self.next_message(state),
                None => None,
            };
            if !state.send.can_post() {
                return;
            }
            let outlook = Outlook {
                head,
                send_slot: state.send.send_slots > 0,
            };
            match state.engine.poll_action(&outlook) {
                Some(Action::PostReceives { count, .. }) => state.post_receives(count, now),
                Some(Action::Transmit(transmit)) => {
                    state.counters.pdus_sent(1);
                    trace::pdu(
                        self.number,
                        true,
                        transmit
                            .header_length
                            .saturating_add(transmit.payload_length),
                        transmit.payload_length,
                        u32::from(state.engine.send_credits()),
                        state.engine.receive_credits(),
                    );
                    if state.send.push_pdu(&transmit).is_none() {
                        state
                            .engine
                            .handle_provider_error(engine::Reason::ProviderError, now);
                        return;
                    }
                }
                // The caller sees the engine's end.
                Some(Action::Disconnect(_)) | None => return,
            }
        }
    }

    /// The message at the head of the ordered queue, for the engine; none if it has to wait. Its
    /// ranges are registered, in front of it if need be.
    fn next_message(&self, state: &mut State) -> Option<engine::Message> {
        let entries = state.send.payload_sge;
        match state.send.ordered.front()? {
            Item::Message(message) if message.is_registered() => {
                return message.for_engine(entries)
            }
            _ => {}
        }
        let Some(Item::Message(mut message)) = state.send.ordered.pop() else {
            return None;
        };
        let progress = message.register(self.number, &mut state.send);
        let next = message.for_engine(entries);
        // It came from the front just now, so there is room.
        let _ = state.send.ordered.push_front(Item::Message(message));
        match progress {
            Progress::Posted => next,
            progress => {
                self.hold(state, progress);
                None
            }
        }
    }
}
