// SPDX-License-Identifier: GPL-2.0-only

//! What becomes of commands when their work requests are done, or never will be.
//!
//! What completes in a row is settled in one pass: its events are queued with one lock, and what it
//! had is given back in front of that, so that who reads an event finds room for the next command.
//! Nothing is freed there.

use super::outgoing::Outgoing;
use super::ranges::Registration;
use super::send::{Item, Kind, Posted, SendQueue};
use super::transfer::Transfer;
use super::{Connection, Counters, Event, Later, Reason, SlotOf, State, Status, Time};
use crate::trace;
use crate::verbs::{Fabric, WorkStatus};
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_engine as engine;

/// Commands, and bytes in them: of one connection's slots, so that 32 bits hold it.
#[derive(Default)]
struct Sum {
    count: u32,
    bytes: u32,
}

impl Sum {
    fn add(&mut self, bytes: u32) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What was settled in one pass.
#[derive(Default)]
struct Settled {
    messages: Sum,
    invalidations: u32,
    reads: Sum,
    writes: Sum,
    /// Bytes of messages, as the status page counts them: without the driver's own.
    bytes_completed: u64,
    /// Bytes of lists.
    command_bytes: usize,
    /// Commands without an event, and whether there was one with.
    quiet: usize,
    told: bool,
}

impl Settled {
    fn message(&mut self, message: &Outgoing) {
        self.messages.add(message.length());
        self.invalidations = self
            .invalidations
            .saturating_add(message.invalidates().into());
        self.command_bytes = self.command_bytes.saturating_add(message.command_bytes());
        if message.command().is_some() {
            let bytes = u64::from(message.length());
            self.bytes_completed = self.bytes_completed.saturating_add(bytes);
        }
    }

    fn transfer(&mut self, transfer: &Transfer, length: u32) {
        let sum = if transfer.is_write() {
            &mut self.writes
        } else {
            &mut self.reads
        };
        sum.add(length);
        self.command_bytes = self.command_bytes.saturating_add(transfer.command_bytes());
    }

    /// Whether a command has an event; counts it either way.
    fn tells(&mut self, quiet: bool, success: bool) -> bool {
        let tells = !(quiet && success);
        self.told |= tells;
        self.quiet = self.quiet.saturating_add((!tells).into());
        tells
    }

    /// Counts what succeeded; a counter costs an atomic operation.
    fn count(&self, counters: &mut Counters) {
        if self.messages.count > 0 {
            counters.messages_sent(self.messages.count);
            counters.message_bytes_sent(self.messages.bytes);
        }
        if self.invalidations > 0 {
            counters.remote_invalidations(self.invalidations);
        }
        if self.writes.count > 0 {
            counters.rdma_writes(self.writes.count);
            counters.rdma_write_bytes(self.writes.bytes);
        }
        if self.reads.count > 0 {
            counters.rdma_reads(self.reads.count);
            counters.rdma_read_bytes(self.reads.bytes);
        }
    }
}

impl SendQueue {
    /// Takes the next command whose last work request stands in front of that numbered `end`, and
    /// all work requests before it; counts the PDUs among these. None also where a registration is
    /// next.
    fn next_done(&mut self, end: u64, pdus: &mut u32) -> Option<Item> {
        while self.oldest < end {
            if matches!(self.posted.front(), Some(Posted::Registration(..))) {
                return None;
            }
            let posted = self.posted.pop()?;
            self.oldest = self.oldest.wrapping_add(1);
            match posted {
                Posted::Pdu => self.pdu_done(pdus),
                Posted::Message(message) => {
                    self.pdu_done(pdus);
                    return Some(Item::Message(message));
                }
                Posted::Part(_) => self.rdma_slots = self.rdma_slots.saturating_add(1),
                Posted::Transfer(transfer) => {
                    self.rdma_slots = self.rdma_slots.saturating_add(1);
                    return Some(Item::Transfer(transfer));
                }
                // Looked for above.
                Posted::Registration(registration, _) => registration.complete(false),
            }
        }
        None
    }

    /// The registration that is next in front of that work request.
    fn next_registration(&mut self, end: u64) -> Option<Registration> {
        if self.oldest >= end || !matches!(self.posted.front(), Some(Posted::Registration(..))) {
            return None;
        }
        let Some(Posted::Registration(registration, _)) = self.posted.pop() else {
            return None;
        };
        self.oldest = self.oldest.wrapping_add(1);
        self.rdma_slots = self.rdma_slots.saturating_add(1);
        Some(registration)
    }

    /// The work request with this number, the oldest one that is posted, has failed like this.
    fn fail(&mut self, sequence: u64, status: Status) {
        let kind = match self.posted.front() {
            _ if sequence != self.oldest => None,
            Some(Posted::Pdu | Posted::Message(_)) => Some(Kind::Message),
            Some(Posted::Transfer(transfer)) => Some(transfer.kind()),
            Some(Posted::Part(kind) | Posted::Registration(_, kind)) => Some(*kind),
            None => None,
        };
        self.failure.get_or_insert((status, kind));
    }

    /// Outcome of the next command that is settled, which is of this kind.
    fn outcome(&mut self, success: bool, kind: Kind) -> Status {
        if success {
            return Status::Ok;
        }
        let own = |(_, of): &mut (Status, Option<Kind>)| of.is_none_or(|of| of == kind);
        let failure = self.failure.take_if(own);
        failure.map_or(Status::Disconnected, |(status, _)| status)
    }

    fn pdu_done(&mut self, pdus: &mut u32) {
        self.send_slots = self.send_slots.saturating_add(1);
        *pdus = pdus.saturating_add(1);
    }

    /// Takes the next command that waits, to be settled without having been posted.
    fn next_waiting(&mut self) -> Option<Item> {
        let ordered = self.ordered.pop();
        ordered.or_else(|| self.reads.pop().map(Item::Transfer))
    }
}

impl Connection {
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
        // Unsignalled ones before it went well: a failed one always completes itself.
        let succeeded = status == WorkStatus::Success;
        let end = sequence.saturating_add(succeeded.into());
        self.settle_posted(state, end, true, now, later);
        match status {
            WorkStatus::Success | WorkStatus::Flushed => {}
            WorkStatus::RemoteAccess => {
                self.warn(fmt!("the peer's key does not allow an RDMA access"));
                state.send.fail(sequence, Status::RemoteAccess);
                state.cause.get_or_insert(Reason::RemoteAccess);
            }
            _ => {
                self.warn(fmt!("a work request failed: {}", status.name()));
                state.send.fail(sequence, Status::Provider);
                state.cause.get_or_insert(Reason::Provider);
            }
        }
        if !succeeded {
            self.settle_posted(state, end.saturating_add(1), false, now, later);
        }
        if !matches!(status, WorkStatus::Success | WorkStatus::Flushed) {
            state
                .engine
                .handle_provider_error(engine::Reason::ProviderError, now);
        }
    }

    /// The end: whatever waits or was never completed fails.
    pub(super) fn fail_queued(self: &Arc<Self>, state: &mut State, now: Time, later: &mut Later) {
        self.settle_posted(state, u64::MAX, false, now, later);
        self.settle_commands(state, false, SendQueue::next_waiting, later);
    }

    /// The work requests in front of that numbered `end` are done.
    fn settle_posted(
        self: &Arc<Self>,
        state: &mut State,
        end: u64,
        success: bool,
        now: Time,
        later: &mut Later,
    ) {
        while state.send.oldest < end {
            let mut pdus = 0;
            self.settle_commands(state, success, |send| send.next_done(end, &mut pdus), later);
            if success && pdus > 0 {
                state.engine.handle_sent(pdus, now);
            }
            match state.send.next_registration(end) {
                Some(registration) => registration.complete(success),
                None => return,
            }
        }
    }

    /// A command will not be posted: it could not be remembered.
    pub(super) fn fail_one(self: &Arc<Self>, state: &mut State, item: Item, later: &mut Later) {
        let mut item = Some(item);
        self.settle_commands(state, false, |_| item.take(), later);
    }

    /// Commands are done, or never will be; `next` tells them in their order.
    fn settle_commands(
        self: &Arc<Self>,
        state: &mut State,
        success: bool,
        mut next: impl FnMut(&mut SendQueue) -> Option<Item>,
        later: &mut Later,
    ) {
        let State {
            send,
            owner,
            counters,
            bytes_completed,
            ..
        } = state;
        let owner = owner.as_ref();
        let mut queue = owner.map(|owner| owner.queue().fill());
        let mut sum = Settled::default();
        // Events are made where they are queued: they are large.
        while let Some(item) = next(send) {
            match item {
                Item::Message(message) => {
                    send.give_back(message.copied());
                    sum.message(&message);
                    let command = message
                        .command()
                        .filter(|(_, quiet)| sum.tells(*quiet, success));
                    if let (Some((user_data, _)), Some(queue)) = (command, &mut queue) {
                        queue.push(Event::PduSent {
                            user_data,
                            connection: self.number,
                            status: send.outcome(success, Kind::Message),
                        });
                    }
                    later.messages.push(message);
                }
                Item::Transfer(transfer) => {
                    let length = if success { transfer.length() } else { 0 };
                    let status = send.outcome(success, transfer.kind());
                    trace::rdma(self.number, transfer.is_write(), length, status.number());
                    sum.transfer(&transfer, length);
                    if sum.tells(transfer.is_quiet(), success) {
                        if let Some(queue) = &mut queue {
                            queue.push(Event::RdmaComplete {
                                user_data: transfer.user_data(),
                                connection: self.number,
                                status,
                                length,
                            });
                        }
                    }
                    later.transfers.push(transfer);
                }
            }
        }
        if success {
            sum.count(counters);
        }
        if let Some(owner) = owner {
            if success && sum.bytes_completed > 0 {
                *bytes_completed = bytes_completed.wrapping_add(sum.bytes_completed);
                // Before anybody can read of it by the event.
                owner.publish(self.number, |page| {
                    page.bytes_completed = (*bytes_completed).into();
                });
            }
            owner.release_command_bytes(sum.command_bytes);
        }
        drop(queue);
        if let Some(owner) = owner {
            if sum.quiet > 0 {
                owner.queue().release(sum.quiet, SlotOf::Command);
            }
            if sum.told {
                later.wake.get_or_insert_with(|| owner.clone());
            }
        }
        if sum.messages.count > 0 {
            self.make_room(state, later);
        }
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
}
