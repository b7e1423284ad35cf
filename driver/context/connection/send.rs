// SPDX-License-Identifier: GPL-2.0-only

//! The sending half of a connection: messages that wait, and work requests that are posted.
//!
//! Two queues wait: what is ordered (messages, and RDMA writes, which the messages behind them
//! follow on the wire), and RDMA reads, for which nothing waits. What is posted stands in one ring
//! in the order of the send queue; a completion retires everything up to its own entry.

use super::link::{Capacity, WorkRequestId, SEND_SGE};
use super::outgoing::Outgoing;
use super::ranges::{Progress, Registration};
use super::transfer::Transfer;
use super::{Connection, Event, Later, Phase, Reason, State, Status, Time};
use crate::context::event_queue::SlotOf;
use crate::context::ring::Ring;
use crate::trace;
use crate::verbs::{Chain, Device, Direction, DmaBuffer, Fabric, Sge, WorkStatus};
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
    Write(KBox<Transfer>),
}

/// What a posted work request was for.
pub(super) enum Posted {
    /// A PDU that no message ends with.
    Pdu,
    /// The last PDU of a message.
    Message(KBox<Outgoing>),
    /// Part of a transfer, not the last.
    Part,
    /// The last part of a transfer.
    Transfer(KBox<Transfer>),
    /// A registration of a buffer of the area.
    Registration(Registration),
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
    /// Headers that do not stand before their payload, one for each entry of `posted`. Gone when
    /// nothing is posted any more.
    headers: Option<DmaBuffer>,
    send_slots: u16,
    pub(super) rdma_slots: u16,
    /// Work requests since the last one that asked for a completion, their bytes, and whether a
    /// command ends with one of them whose event somebody awaits.
    unsignalled: u16,
    unsignalled_bytes: u32,
    awaited: bool,
    /// What failed first; it tells about the next command that is retired.
    failure: Option<Status>,
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
            headers: Some(DmaBuffer::allocate(
                device,
                entries.saturating_mul(LONGEST_HEADER),
                Direction::ToDevice,
            )?),
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
        self.headers.take()
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
            Err(Item::Write(_)) => Ok(()),
        }
    }

    /// Bytes of memory that an idle connection has here.
    pub(super) fn memory(&self) -> usize {
        let headers = self.headers.as_ref().map_or(0, DmaBuffer::len);
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

    /// Adds a PDU to the chain. False if it could not be built, which no input of a peer or a
    /// user can bring about.
    fn push_pdu(&mut self, transmit: &Transmit) -> bool {
        let ends = transmit.ends_message;
        let mut sges = [Sge::default(); SEND_SGE];
        let (filled, awaited) = if transmit.payload_length > 0 {
            let awaited = ends && !self.head_is_quiet();
            (self.payload(transmit, &mut sges), awaited)
        } else {
            // Few and far between; their completions are what a failure response waits for.
            (self.header(transmit, &mut sges), true)
        };
        let Some(sges) = filled.and_then(|count| sges.get(..count)) else {
            return false;
        };
        let bytes = transmit.payload_length;
        let (wr_id, signalled) = self.number(awaited, bytes);
        if self
            .chain
            .push_send(wr_id, sges, signalled, transmit.invalidate)
            .is_err()
        {
            return false;
        }
        let posted = match if ends { self.ordered.pop() } else { None } {
            Some(Item::Message(message)) => Posted::Message(message),
            _ => Posted::Pdu,
        };
        self.send_slots = self.send_slots.saturating_sub(1);
        self.remember(posted).is_ok()
    }

    /// Whether nobody awaits the event of the message at the head of the ordered queue.
    fn head_is_quiet(&self) -> bool {
        match self.ordered.front() {
            Some(Item::Message(message)) => message.command().is_none_or(|(_, quiet)| quiet),
            _ => false,
        }
    }

    /// Where a PDU with data stands: entries filled.
    fn payload(&mut self, transmit: &Transmit, sges: &mut [Sge]) -> Option<usize> {
        let apart = matches!(
            self.ordered.front(),
            Some(Item::Message(message)) if message.has_ranges()
        );
        let headers = if apart {
            self.header(transmit, sges)?
        } else {
            0
        };
        let Some(Item::Message(message)) = self.ordered.front_mut() else {
            return None;
        };
        let most = self.payload_sge.max(1);
        let places = sges.get_mut(headers..)?;
        let places = places.get_mut(..most.min(places.len()))?;
        Some(headers.saturating_add(message.fill(transmit, places)?))
    }

    /// Writes a PDU's header into the place of its entry: entries filled.
    fn header(&mut self, transmit: &Transmit, sges: &mut [Sge]) -> Option<usize> {
        let length = transmit.header_length as usize;
        let entry = (self.next % self.posted.capacity().max(1) as u64) as usize;
        let start = entry.checked_mul(LONGEST_HEADER)?;
        let headers = self.headers.as_mut()?;
        headers
            .as_mut_slice()
            .get_mut(start..start.checked_add(length)?)?
            .copy_from_slice(transmit.header.get(..length)?);
        headers.sync_for_device(start.saturating_add(length));
        *sges.first_mut()? = Sge {
            address: headers.address().checked_add(start as u64)?,
            length: transmit.header_length,
            lkey: headers.lkey(),
        };
        Some(1)
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
                Some(Item::Write(_)) => {
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
                    if !state.send.push_pdu(&transmit) {
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

    /// A signalled work request completed, or any failed: it and all before it are done.
    pub(super) fn complete_send(
        self: &Arc<Self>,
        state: &mut State,
        sequence: u64,
        status: WorkStatus,
        now: Time,
        later: &mut Later,
    ) {
        // What siw says of a send that its stream ended under, be all of it with the peer: the CM tells
        // of that end, and says whose it is (siw_qp_tx.c, siw_qp_sq_process()).
        let status = match status {
            WorkStatus::LocalOperation if self.fabric == Fabric::Iwarp => WorkStatus::Flushed,
            other => other,
        };
        match status {
            WorkStatus::Success | WorkStatus::Flushed => {}
            WorkStatus::RemoteAccess => {
                self.warn(fmt!("the peer's key does not allow an RDMA access"));
                state.send.failure.get_or_insert(Status::RemoteAccess);
                state.cause.get_or_insert(Reason::RemoteAccess);
            }
            _ => {
                self.warn(fmt!("a work request failed: {}", status.name()));
                state.send.failure.get_or_insert(Status::Provider);
                state.cause.get_or_insert(Reason::Provider);
            }
        }
        // Unsignalled ones before it went well: a failed one always completes itself.
        let end = sequence.saturating_add((status == WorkStatus::Success).into());
        if state.send.oldest <= sequence {
            self.publish_completed(state, end.saturating_sub(state.send.oldest));
        }
        while state.send.oldest <= sequence {
            if state.send.transfer_is_next(end) {
                self.transfers_done(state, end, later);
                continue;
            }
            let Some(posted) = state.send.posted.pop() else {
                break;
            };
            let success = state.send.oldest < end;
            state.send.oldest = state.send.oldest.wrapping_add(1);
            self.retire(state, posted, success, now, later);
        }
        if !matches!(status, WorkStatus::Success | WorkStatus::Flushed) {
            state
                .engine
                .handle_provider_error(engine::Reason::ProviderError, now);
        }
    }

    /// Tells on the status page of the messages among the oldest `count` work requests, which are
    /// about to be retired: once for all, and before anybody can read of one by its event.
    fn publish_completed(&self, state: &State, count: u64) {
        let oldest = state.send.posted.iter().take(count as usize);
        let bytes = oldest.fold(0u64, |sum, posted| match posted {
            Posted::Message(message) if message.command().is_some() => {
                sum.saturating_add(message.length().into())
            }
            _ => sum,
        });
        if bytes > 0 {
            state.publish(self.number, |page| {
                page.bytes_completed = page.bytes_completed.get().wrapping_add(bytes).into();
            });
        }
    }

    fn retire(
        self: &Arc<Self>,
        state: &mut State,
        posted: Posted,
        success: bool,
        now: Time,
        later: &mut Later,
    ) {
        match posted {
            Posted::Pdu => {
                state.send.send_slots = state.send.send_slots.saturating_add(1);
                if success {
                    state.engine.handle_sent(now);
                }
            }
            Posted::Message(message) => {
                state.send.send_slots = state.send.send_slots.saturating_add(1);
                if success {
                    state.engine.handle_sent(now);
                }
                self.end_message(state, message, success, later);
            }
            Posted::Part => state.send.rdma_slots = state.send.rdma_slots.saturating_add(1),
            Posted::Transfer(transfer) => {
                state.send.rdma_slots = state.send.rdma_slots.saturating_add(1);
                self.end_transfer(state, transfer, success, later);
            }
            Posted::Registration(registration) => {
                state.send.rdma_slots = state.send.rdma_slots.saturating_add(1);
                registration.complete(success);
            }
        }
    }

    fn end_message(
        self: &Arc<Self>,
        state: &mut State,
        message: KBox<Outgoing>,
        success: bool,
        later: &mut Later,
    ) {
        state.send.bytes = state.send.bytes.saturating_sub(message.copied());
        if success {
            state.counters.messages_sent(1);
            state.counters.message_bytes_sent(message.length());
            state
                .counters
                .remote_invalidations(message.invalidates().into());
        }
        let Some((user_data, quiet)) = message.command() else {
            return self.make_room(state, later);
        };
        if let Some(owner) = &state.owner {
            owner.release_command_bytes(message.command_bytes());
        }
        let status = state.status(success);
        let event = Event::PduSent {
            user_data,
            connection: self.number,
            status,
        };
        state.complete_command(event, quiet && success, later);
        if let Some(ranges) = Outgoing::into_ranges(message) {
            later.done.push(ranges);
        }
        self.make_room(state, later);
    }

    /// Tells those who wait for room in the send queue.
    #[inline]
    pub(super) fn make_room(self: &Arc<Self>, state: &mut State, later: &mut Later) {
        later.room = true;
        if state.send_ready_wanted {
            self.tell_send_ready(state, later);
        }
    }

    #[cold]
    fn tell_send_ready(self: &Arc<Self>, state: &mut State, later: &mut Later) {
        if !state.send_ready_queued && state.send.has_room(0) {
            state.send_ready_wanted = false;
            state.send_ready_queued = true;
            state.post(
                Event::SendReady {
                    connection: self.clone(),
                },
                later,
            );
        }
    }

    /// The end: whatever waits or was never completed fails.
    pub(super) fn fail_queued(self: &Arc<Self>, state: &mut State, later: &mut Later) {
        let now = super::timer::now();
        while let Some(posted) = state.send.posted.pop() {
            self.retire(state, posted, false, now, later);
        }
        while let Some(item) = state.send.ordered.pop() {
            match item {
                Item::Message(message) => self.end_message(state, message, false, later),
                Item::Write(transfer) => self.end_transfer(state, transfer, false, later),
            }
        }
        while let Some(transfer) = state.send.reads.pop() {
            self.end_transfer(state, transfer, false, later);
        }
    }
}

impl State {
    /// Outcome of a command that is retired.
    pub(super) fn status(&mut self, success: bool) -> Status {
        if success {
            Status::Ok
        } else {
            self.send.failure.take().unwrap_or(Status::Disconnected)
        }
    }

    /// Queues the event of a command that took effect, or gives its slot back if nobody wants it.
    pub(super) fn complete_command(&mut self, event: Event, unwanted: bool, later: &mut Later) {
        if !unwanted {
            return self.post(event, later);
        }
        if let Some(owner) = &self.owner {
            owner.queue().release(1, SlotOf::Command);
        }
    }
}
