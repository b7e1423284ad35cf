// SPDX-License-Identifier: GPL-2.0-only

//! RDMA reads and writes between the registration area and the peer's memory.
//!
//! A transfer is cut into work requests where a remote descriptor ends, where a key of ours ends,
//! and where the device takes no more scatter/gather entries. It is posted in portions, as slots
//! come free, and completes with its last work request.

use super::link::SEND_SGE;
use super::ranges::{fetch_list, Progress, Ranges};
use super::send::{Item, Posted, SendQueue};
use super::{Connection, Event, Later, Phase, State, Status};
use crate::compat;
use crate::context::plug::Plug;
use crate::context::Context;
use crate::trace;
use crate::verbs::Sge;
use kernel::iov::IovIterSource;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::memory::{BufferDescriptorV1, MemoryRange};
use usmbd_engine::Role;

/// What RDMA_READ or RDMA_WRITE says, besides its lists.
pub(crate) struct TransferRequest {
    pub(crate) user_data: u64,
    pub(crate) quiet: bool,
    pub(crate) write: bool,
    pub(crate) range_count: u16,
    pub(crate) descriptor_count: u16,
}

/// A transfer that waits or is under way.
pub(crate) struct Transfer {
    user_data: u64,
    quiet: bool,
    write: bool,
    /// Bytes of lists that it has of the context's command memory.
    command_bytes: usize,
    ranges: KBox<Ranges>,
    descriptors: KVec<BufferDescriptorV1>,
    /// Whole descriptors that are posted, and bytes of the next.
    descriptor: usize,
    descriptor_posted: u32,
}

/// One work request's worth of a transfer.
struct Part {
    /// Entries filled.
    count: usize,
    length: u32,
    address: u64,
    token: u32,
}

impl Transfer {
    /// Fetches the lists, and checks them.
    fn fetch(
        connection: &Connection,
        context: &Context,
        request: &TransferRequest,
        max_read_write_size: u32,
        source: &mut IovIterSource<'_>,
    ) -> Result<KBox<Self>> {
        let named = fetch_list::<MemoryRange>(source, request.range_count)?;
        let descriptors = fetch_list::<BufferDescriptorV1>(source, request.descriptor_count)?;
        let described = descriptors.iter().fold(0u64, |sum, descriptor| {
            sum.saturating_add(descriptor.length.get().into())
        });
        let sink = !request.write;
        let ranges = Ranges::resolve(connection, context, &named, sink, |total| {
            if total > max_read_write_size {
                Err(EMSGSIZE)
            } else if described < total.into() {
                Err(EINVAL)
            } else {
                Ok(())
            }
        })?;
        Ok(KBox::new(
            Self {
                user_data: request.user_data,
                quiet: request.quiet,
                write: request.write,
                command_bytes: request.list_bytes(),
                ranges,
                descriptors,
                descriptor: 0,
                descriptor_posted: 0,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// The next work request, which fills at most these entries.
    fn next_part(&mut self, sges: &mut [Sge]) -> Option<Part> {
        // Descriptors without bytes are allowed and skipped.
        let (descriptor, room) = loop {
            let descriptor = *self.descriptors.get(self.descriptor)?;
            let room = descriptor
                .length
                .get()
                .saturating_sub(self.descriptor_posted);
            if room > 0 {
                break (descriptor, room);
            }
            self.descriptor = self.descriptor.saturating_add(1);
            self.descriptor_posted = 0;
        };
        let address = descriptor.offset.get();
        let address = address.wrapping_add(self.descriptor_posted.into());
        let (count, length) = self.ranges.take(room, sges)?;
        self.descriptor_posted = self.descriptor_posted.saturating_add(length);
        Some(Part {
            count,
            length,
            address,
            token: descriptor.token.get(),
        })
    }

    /// Whether nothing is left to post.
    fn is_posted(&self) -> bool {
        self.ranges.left() == 0 && !self.ranges.has_keys()
    }
}

impl TransferRequest {
    /// Bytes of its lists.
    fn list_bytes(&self) -> usize {
        Ranges::list_bytes(
            usize::from(self.range_count).saturating_add(self.descriptor_count.into()),
        )
    }
}

impl Connection {
    /// Takes an RDMA read or write. RDMA_COMPLETE tells when it is done.
    ///
    /// # Errors
    ///
    /// `ENOTCONN` if the connection is not established or has ended; `EFAULT` for ranges that are
    /// not the caller's; `EINVAL` for descriptors that describe less than the ranges; `EMSGSIZE`
    /// for more than MaxReadWriteSize; `EAGAIN` if it would have to wait and `nowait` is set;
    /// `ERESTARTSYS`; `ENOMEM`.
    pub(crate) fn transfer(
        self: &Arc<Self>,
        context: &Arc<Context>,
        request: &TransferRequest,
        source: &mut IovIterSource<'_>,
        nowait: bool,
        plug: &mut Plug,
    ) -> Result {
        context.reserve_command_bytes(request.list_bytes())?;
        let result = self.take_transfer(context, request, source, nowait, plug);
        if result.is_err() {
            context.release_command_bytes(request.list_bytes());
        }
        result
    }

    fn take_transfer(
        self: &Arc<Self>,
        context: &Arc<Context>,
        request: &TransferRequest,
        source: &mut IovIterSource<'_>,
        nowait: bool,
        plug: &mut Plug,
    ) -> Result {
        let most = self.wait_for_place(request.write, nowait, plug)?;
        let mut transfer = Transfer::fetch(self, context, request, most, source)?;
        loop {
            match self.queue_transfer(transfer)? {
                None => {
                    plug.hold(self);
                    return Ok(());
                }
                Some(again) => transfer = again,
            }
            self.wait_for_place(request.write, nowait, plug)?;
        }
    }

    /// Queues a transfer; gives it back if there is no room.
    fn queue_transfer(&self, transfer: KBox<Transfer>) -> Result<Option<KBox<Transfer>>> {
        let mut state = self.state.lock();
        if state.phase != Phase::Serving {
            return Err(compat::ENOTCONN);
        }
        Ok(state.send.queue_transfer(transfer).err())
    }

    /// Sleeps until a transfer can be queued; says how long it may be.
    fn wait_for_place(self: &Arc<Self>, write: bool, nowait: bool, plug: &mut Plug) -> Result<u32> {
        self.wait_until(nowait, plug, |state| {
            if state.engine.role() == Role::Active {
                return Err(compat::EOPNOTSUPP);
            }
            let negotiated = state.engine.negotiated().ok_or(compat::ENOTCONN)?;
            Ok((!state.send.is_full(write)).then_some(negotiated.max_read_write_size))
        })
    }

    /// Adds waiting RDMA reads to the chain, as far as slots go.
    pub(super) fn push_reads(self: &Arc<Self>, state: &mut State, later: &mut Later) {
        while let Some(mut transfer) = state.send.reads.pop() {
            match self.push_parts(&mut state.send, &mut transfer) {
                Progress::Posted => {
                    self.posted(state, transfer, later);
                    self.make_room(state, later);
                }
                progress => {
                    // It came from the front just now, so there is room.
                    let _ = state.send.reads.push_front(transfer);
                    return self.hold(state, progress);
                }
            }
        }
    }

    /// Adds the RDMA write at the head of the ordered queue to the chain; whether it is done with.
    pub(super) fn push_write(self: &Arc<Self>, state: &mut State, later: &mut Later) -> bool {
        let Some(Item::Write(mut transfer)) = state.send.ordered.pop() else {
            return false;
        };
        match self.push_parts(&mut state.send, &mut transfer) {
            Progress::Posted => {
                self.posted(state, transfer, later);
                self.make_room(state, later);
                true
            }
            progress => {
                // It came from the front just now, so there is room.
                let _ = state.send.ordered.push_front(Item::Write(transfer));
                self.hold(state, progress);
                false
            }
        }
    }

    /// Remembers a transfer with its last work request, which was added just now.
    fn posted(self: &Arc<Self>, state: &mut State, transfer: KBox<Transfer>, later: &mut Later) {
        if let Err(Posted::Transfer(transfer)) = state.send.remember(Posted::Transfer(transfer)) {
            self.end_transfer(state, transfer, false, later);
        }
    }

    /// Adds what fits of a transfer to the chain. The last work request is not yet remembered.
    fn push_parts(&self, send: &mut SendQueue, transfer: &mut Transfer) -> Progress {
        match transfer.ranges.register(self.number, send) {
            Progress::Posted => {}
            progress => return progress,
        }
        let max_sge = self.device.max_rdma_sge(transfer.write).min(send.max_sge());
        loop {
            if !send.can_post() || send.rdma_slots == 0 {
                return Progress::Full;
            }
            if push_one(send, transfer, max_sge).is_none() {
                return Progress::Failed;
            }
            send.rdma_slots = send.rdma_slots.saturating_sub(1);
            if transfer.is_posted() {
                return Progress::Posted;
            }
            if send.remember(Posted::Part).is_err() {
                return Progress::Failed;
            }
        }
    }

    /// A transfer is done, or never will be.
    pub(super) fn end_transfer(
        self: &Arc<Self>,
        state: &mut State,
        transfer: KBox<Transfer>,
        success: bool,
        later: &mut Later,
    ) {
        let status = state.status(success);
        let length = if success { transfer.ranges.length() } else { 0 };
        trace::rdma(self.number, transfer.write, length, status.number());
        if status == Status::Ok {
            if transfer.write {
                state.counters.rdma_writes(1);
                state.counters.rdma_write_bytes(length);
            } else {
                state.counters.rdma_reads(1);
                state.counters.rdma_read_bytes(length);
            }
        }
        if let Some(owner) = &state.owner {
            owner.release_command_bytes(transfer.command_bytes);
        }
        let event = Event::RdmaComplete {
            user_data: transfer.user_data,
            connection: self.number,
            status,
            length,
        };
        state.complete_command(event, transfer.quiet && success, later);
        let Transfer { ranges, .. } = KBox::into_inner(transfer);
        later.done.push(ranges);
    }
}

/// Adds the next work request of a transfer to the chain.
fn push_one(send: &mut SendQueue, transfer: &mut Transfer, max_sge: usize) -> Option<()> {
    if transfer.ranges.left() == 0 {
        let key = transfer.ranges.next_key()?;
        let (wr_id, signalled) = send.number(transfer.is_posted() && !transfer.quiet, 0);
        return send.chain.push_invalidate(key, wr_id, signalled).ok();
    }
    let mut sges = [Sge::default(); SEND_SGE];
    let part = transfer.next_part(sges.get_mut(..max_sge)?)?;
    let awaited = transfer.is_posted() && !transfer.quiet;
    let (wr_id, signalled) = send.number(awaited, part.length);
    let sges = sges.get(..part.count)?;
    send.chain
        .push_rdma(
            transfer.write,
            wr_id,
            sges,
            part.address,
            part.token,
            signalled,
        )
        .ok()
}

impl SendQueue {
    /// Whether no transfer can be queued.
    fn is_full(&self, write: bool) -> bool {
        if write {
            self.ordered.is_full()
        } else {
            self.reads.is_full()
        }
    }

    fn queue_transfer(&mut self, transfer: KBox<Transfer>) -> Result<(), KBox<Transfer>> {
        if !transfer.write {
            return self.reads.push(transfer);
        }
        match self.ordered.push(Item::Write(transfer)) {
            Ok(()) => Ok(()),
            Err(Item::Write(transfer)) => Err(transfer),
            Err(Item::Message(_)) => Ok(()),
        }
    }

    /// RDMA work requests that can be added to the chain now.
    pub(super) fn room(&self) -> usize {
        self.chain
            .room()
            .min(self.posted_room())
            .min(self.rdma_slots.into())
    }
}
