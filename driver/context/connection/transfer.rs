// SPDX-License-Identifier: GPL-2.0-only

//! RDMA reads and writes between the registration area and the peer's memory.
//!
//! A transfer is cut into work requests where a remote descriptor ends, where a key of ours ends,
//! and where the device takes no more scatter/gather entries. It is posted in portions, as slots
//! come free, and completes with its last work request.

use super::ranges::{fetch_list, Linked, Progress, Ranges};
use super::send::{Item, Kind, Posted, SendQueue};
use super::{Connection, Later, State};
use crate::compat;
use crate::context::plug::Plug;
use crate::context::Context;
use crate::few::Few;
use crate::memory::Caller;
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
    ranges: Ranges,
    descriptors: Few<BufferDescriptorV1>,
    /// Whole descriptors that are posted, and bytes of the next.
    descriptor: usize,
    descriptor_posted: u32,
    /// The next one in a [`List`](super::ranges::List).
    next: Option<KBox<Transfer>>,
}

impl Linked for Transfer {
    fn next(&mut self) -> &mut Option<KBox<Self>> {
        &mut self.next
    }
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
    /// Fetches the lists, and checks them. Each of its parts is made where it stays.
    fn fetch(
        connection: &Connection,
        context: &Context,
        caller: &mut Caller,
        request: &TransferRequest,
        max_read_write_size: u32,
        source: &mut IovIterSource<'_>,
    ) -> Result<KBox<Self>> {
        let sink = !request.write;
        let place = KBox::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let mut transfer = KBox::write(
            place,
            Self {
                user_data: request.user_data,
                quiet: request.quiet,
                write: request.write,
                command_bytes: request.list_bytes(),
                ranges: Ranges::new(connection, sink),
                descriptors: Few::new(),
                descriptor: 0,
                descriptor_posted: 0,
                next: None,
            },
        );
        let mut named = Few::new();
        fetch_list::<MemoryRange>(source, request.range_count, &mut named)?;
        let Self {
            ranges,
            descriptors,
            ..
        } = &mut *transfer;
        fetch_list::<BufferDescriptorV1>(source, request.descriptor_count, descriptors)?;
        let (first, others) = descriptors.parts().ok_or(EINVAL)?;
        let mut described = u64::from(first.length.get());
        if let Some(others) = others {
            for descriptor in others {
                described = described.saturating_add(descriptor.length.get().into());
            }
        }
        ranges.resolve(connection, context, caller, &named, sink, |total| {
            if total > max_read_write_size {
                Err(EMSGSIZE)
            } else if described < total.into() {
                Err(EINVAL)
            } else {
                Ok(())
            }
        })?;
        Ok(transfer)
    }

    /// The next work request, which fills at most these entries.
    #[inline(always)]
    fn next_part(&mut self, sges: &mut [Sge]) -> Option<Part> {
        match self.only_part(sges) {
            None => self.some_part(sges),
            only => only,
        }
    }

    /// The only work request of a transfer of one range under one key to or from one descriptor.
    #[inline]
    fn only_part(&mut self, sges: &mut [Sge]) -> Option<Part> {
        let (descriptor, _) = self.descriptors.parts()?;
        if descriptor.length.get() < self.ranges.length() {
            return None;
        }
        let place = sges.first_mut()?;
        *place = self.ranges.take_whole()?;
        Some(Part {
            count: 1,
            length: place.length,
            address: descriptor.offset.get(),
            token: descriptor.token.get(),
        })
    }

    /// As [`Self::next_part`], of any transfer.
    #[inline(never)]
    fn some_part(&mut self, sges: &mut [Sge]) -> Option<Part> {
        // Descriptors without bytes are allowed and skipped.
        let (descriptor, room) = loop {
            let descriptor = self.descriptors.get(self.descriptor)?;
            let length = descriptor.length.get();
            let room = length.saturating_sub(self.descriptor_posted);
            if room > 0 {
                break (descriptor, room);
            }
            self.descriptor = self.descriptor.saturating_add(1);
            self.descriptor_posted = 0;
        };
        let address = descriptor.offset.get();
        let address = address.wrapping_add(self.descriptor_posted.into());
        let token = descriptor.token.get();
        let (count, length) = self.ranges.take(room, sges)?;
        self.descriptor_posted = self.descriptor_posted.saturating_add(length);
        Some(Part {
            count,
            length,
            address,
            token,
        })
    }

    pub(super) fn is_write(&self) -> bool {
        self.write
    }

    pub(super) fn kind(&self) -> Kind {
        if self.write {
            Kind::Write
        } else {
            Kind::Read
        }
    }

    /// Bytes.
    pub(super) fn length(&self) -> u32 {
        self.ranges.length()
    }

    pub(super) fn command_bytes(&self) -> usize {
        self.command_bytes
    }

    pub(super) fn user_data(&self) -> u64 {
        self.user_data
    }

    /// Whether nobody awaits an event if it goes well.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether nothing is left to post.
    fn is_posted(&self) -> bool {
        self.ranges.left() == 0 && !self.ranges.has_keys()
    }
}

impl TransferRequest {
    /// Bytes of its lists.
    fn list_bytes(&self) -> usize {
        Ranges::list_bytes(self.range_count)
            .saturating_add(Ranges::list_bytes(self.descriptor_count))
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
        // Its lists are counted already; to wait with them is no more than to wait for room.
        let most = match self.negotiated.as_ref() {
            Some(negotiated) if self.role == Role::Passive => negotiated.max_read_write_size,
            _ => self.wait_for_place(request.write, nowait, plug)?,
        };
        let caller = &mut plug.caller;
        let transfer = Transfer::fetch(self, context, caller, request, most, source)
            .map_err(|error| self.refusal(error))?;
        if let Some(transfer) = self.queue_transfer(transfer)? {
            self.wait_to_queue(transfer, nowait, plug)?;
        }
        plug.hold(self);
        Ok(())
    }

    /// Queues a transfer for which another writer took the room.
    #[cold]
    fn wait_to_queue(
        self: &Arc<Self>,
        transfer: KBox<Transfer>,
        nowait: bool,
        plug: &mut Plug,
    ) -> Result {
        let mut transfer = transfer;
        loop {
            self.wait_for_place(transfer.write, nowait, plug)?;
            match self.queue_transfer(transfer)? {
                None => return Ok(()),
                Some(again) => transfer = again,
            }
        }
    }

    /// Queues a transfer; gives it back if there is no room.
    #[inline(always)]
    fn queue_transfer(&self, transfer: KBox<Transfer>) -> Result<Option<KBox<Transfer>>> {
        let mut state = self.state.lock();
        if !state.is_serving() {
            return Err(compat::ENOTCONN);
        }
        Ok(state.send.queue_transfer(transfer).err())
    }

    /// Sleeps until a transfer can be queued; says how long it may be.
    fn wait_for_place(self: &Arc<Self>, write: bool, nowait: bool, plug: &mut Plug) -> Result<u32> {
        self.wait_until(nowait, plug, |state| {
            if self.role == Role::Active {
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
        let Some(Item::Transfer(mut transfer)) = state.send.ordered.pop() else {
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
                let _ = state.send.ordered.push_front(Item::Transfer(transfer));
                self.hold(state, progress);
                false
            }
        }
    }

    /// Remembers a transfer with its last work request, which was added just now.
    #[inline(always)]
    fn posted(self: &Arc<Self>, state: &mut State, transfer: KBox<Transfer>, later: &mut Later) {
        if let Err(Posted::Transfer(transfer)) = state.send.remember(Posted::Transfer(transfer)) {
            self.fail_one(state, Item::Transfer(transfer), later);
        }
    }

    /// Adds what fits of a transfer to the chain. The last work request is not yet remembered.
    fn push_parts(&self, send: &mut SendQueue, transfer: &mut Transfer) -> Progress {
        if !transfer.ranges.is_registered() {
            let kind = transfer.kind();
            match transfer.ranges.register(self.number, kind, send) {
                Progress::Posted => {}
                progress => return progress,
            }
        }
        loop {
            if !send.can_post() || send.rdma_slots == 0 {
                return Progress::Full;
            }
            let Some(ends) = push_one(send, transfer) else {
                return Progress::Failed;
            };
            send.rdma_slots = send.rdma_slots.saturating_sub(1);
            if ends {
                return Progress::Posted;
            }
            if send.remember(Posted::Part(transfer.kind())).is_err() {
                return Progress::Failed;
            }
        }
    }
}

/// Adds the next work request of a transfer to the chain. Says whether it is the last.
fn push_one(send: &mut SendQueue, transfer: &mut Transfer) -> Option<bool> {
    if transfer.ranges.left() == 0 {
        return push_invalidation(send, transfer);
    }
    let most = send.rdma_sge(transfer.write);
    let part = transfer.next_part(send.chain.entries(most)?)?;
    let ends = transfer.is_posted();
    let (wr_id, signalled) = send.number(ends && !transfer.quiet, part.length);
    send.chain
        .push_rdma(
            transfer.write,
            wr_id,
            part.count,
            part.address,
            part.token,
            signalled,
        )
        .ok()?;
    Some(ends)
}

/// Adds the invalidation of the next key of one use, when all is posted; as [`push_one`].
#[cold]
fn push_invalidation(send: &mut SendQueue, transfer: &mut Transfer) -> Option<bool> {
    let key = transfer.ranges.next_key()?;
    let ends = transfer.is_posted();
    let (wr_id, signalled) = send.number(ends && !transfer.quiet, 0);
    send.chain.push_invalidate(key, wr_id, signalled).ok()?;
    Some(ends)
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
        match self.ordered.push(Item::Transfer(transfer)) {
            Ok(()) => Ok(()),
            Err(Item::Transfer(transfer)) => Err(transfer),
            Err(Item::Message(_)) => Ok(()),
        }
    }

    /// Scatter/gather entries of one RDMA read or write.
    fn rdma_sge(&self, write: bool) -> usize {
        if write {
            self.write_sge
        } else {
            self.read_sge
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
