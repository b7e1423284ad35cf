// SPDX-License-Identifier: GPL-2.0-only

//! RDMA reads and writes between the registration area and the peer's memory.
//!
//! A transfer is cut into work requests where a remote descriptor ends, where a key of ours ends,
//! and where the device takes no more scatter/gather entries. It is posted in portions, as slots
//! come free, and completes with its last work request.

use super::send::{Item, Posted, SendQueue};
use super::{timer, Connection, Event, Later, Phase, State, Status};
use crate::compat;
use crate::context::plug::Plug;
use crate::context::Context;
use crate::memory::{Claim, DeviceBuffer, Range};
use crate::trace;
use crate::verbs::Sge;
use kernel::iov::IovIterSource;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::memory::{BufferDescriptorV1, MemoryRange};
use usmbd_engine::Role;
use zerocopy::{FromZeros, IntoBytes};

/// Milliseconds after which a buffer is looked at again that another connection registers.
const REGISTRATION_RETRY: u64 = 1;
/// Most scatter/gather entries of a work request.
const MAX_SGE: usize = 4;

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
    length: u32,
    /// Bytes of lists that it has of the context's command memory.
    command_bytes: usize,
    ranges: KVec<Range>,
    descriptors: KVec<BufferDescriptorV1>,
    /// What is posted: whole ranges and bytes of the next, whole descriptors and bytes of the next.
    range: usize,
    range_posted: u32,
    descriptor: usize,
    descriptor_posted: u32,
    posted: u32,
    /// Keys of one use that are invalidated: of whole ranges, and regions of the next.
    range_invalidated: usize,
    region_invalidated: usize,
    /// The next one in a [`List`].
    next: Option<KBox<Transfer>>,
}

/// Transfers that are done, to be dropped where that may sleep.
#[derive(Default)]
pub(crate) struct List(Option<KBox<Transfer>>);

impl List {
    fn push(&mut self, mut transfer: KBox<Transfer>) {
        transfer.next = self.0.take();
        self.0 = Some(transfer);
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // One by one: a chain of drops would use the stack.
        while let Some(mut transfer) = self.0.take() {
            self.0 = transfer.next.take();
        }
    }
}

/// A posted registration of a buffer: its last work request.
pub(super) struct Registration(Arc<DeviceBuffer>);

impl Registration {
    pub(super) fn complete(self, success: bool) {
        self.0.registered(success);
    }
}

/// One work request's worth of a transfer.
struct Part {
    sges: [Sge; MAX_SGE],
    count: usize,
    address: u64,
    token: u32,
    length: u32,
}

impl Transfer {
    /// Fetches the lists, and checks them.
    fn fetch(
        connection: &Connection,
        context: &Context,
        request: &TransferRequest,
        source: &mut IovIterSource<'_>,
    ) -> Result<KBox<Self>> {
        let ranges = fetch_list::<MemoryRange>(source, request.range_count)?;
        let descriptors = fetch_list::<BufferDescriptorV1>(source, request.descriptor_count)?;
        let (ranges, length) =
            context
                .area
                .resolve(connection.device(), &ranges, !request.write)?;
        let most = connection
            .negotiated()
            .ok_or(compat::ENOTCONN)?
            .max_read_write_size;
        if length > most {
            return Err(EMSGSIZE);
        }
        let described = descriptors.iter().fold(0u64, |sum, descriptor| {
            sum.saturating_add(descriptor.length.get().into())
        });
        if described < length.into() {
            return Err(EINVAL);
        }
        Ok(KBox::new(
            Self {
                user_data: request.user_data,
                quiet: request.quiet,
                write: request.write,
                length,
                command_bytes: request.list_bytes(),
                ranges,
                descriptors,
                range: 0,
                range_posted: 0,
                descriptor: 0,
                descriptor_posted: 0,
                posted: 0,
                range_invalidated: 0,
                region_invalidated: 0,
                next: None,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// The next work request, of at most `max_sge` entries.
    fn next_part(&mut self, max_sge: usize) -> Option<Part> {
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
        let mut part = Part {
            sges: [Sge {
                address: 0,
                length: 0,
                lkey: 0,
            }; MAX_SGE],
            count: 0,
            address: descriptor
                .offset
                .get()
                .wrapping_add(self.descriptor_posted.into()),
            token: descriptor.token.get(),
            length: 0,
        };
        for place in part.sges.iter_mut().take(max_sge) {
            let Some(range) = self.ranges.get(self.range) else {
                break;
            };
            let left = range.length.saturating_sub(self.range_posted);
            let wanted = left.min(room.saturating_sub(part.length));
            if wanted == 0 {
                break;
            }
            let sge = range
                .buffer
                .sge(range.offset.saturating_add(self.range_posted), wanted)?;
            *place = sge;
            part.count = part.count.saturating_add(1);
            part.length = part.length.saturating_add(sge.length);
            self.range_posted = self.range_posted.saturating_add(sge.length);
            if self.range_posted == range.length {
                self.range = self.range.saturating_add(1);
                self.range_posted = 0;
            }
        }
        self.descriptor_posted = self.descriptor_posted.saturating_add(part.length);
        self.posted = self.posted.saturating_add(part.length);
        (part.count > 0).then_some(part)
    }

    /// The next key of one use that has to be invalidated, when all is posted.
    fn next_key(&mut self) -> Option<u32> {
        while let Some(range) = self.ranges.get(self.range_invalidated) {
            if let Some(key) = range.buffer.one_use_key(self.region_invalidated) {
                self.region_invalidated = self.region_invalidated.saturating_add(1);
                return Some(key);
            }
            self.range_invalidated = self.range_invalidated.saturating_add(1);
            self.region_invalidated = 0;
        }
        None
    }

    /// Keys of one use that are still to be invalidated.
    fn has_keys(&self) -> bool {
        self.ranges
            .get(self.range_invalidated..)
            .unwrap_or_default()
            .iter()
            .enumerate()
            .any(|(at, range)| {
                let region = if at == 0 { self.region_invalidated } else { 0 };
                range.buffer.one_use_key(region).is_some()
            })
    }

    /// Whether nothing is left to post.
    fn is_posted(&self) -> bool {
        self.posted == self.length && !self.has_keys()
    }
}

impl TransferRequest {
    /// Bytes of its lists.
    fn list_bytes(&self) -> usize {
        usize::from(self.range_count)
            .saturating_add(self.descriptor_count.into())
            .saturating_mul(size_of::<MemoryRange>())
    }
}

/// Fetches `count` entries; the ABI bounds the count.
fn fetch_list<T: FromZeros + IntoBytes + zerocopy::FromBytes + Copy>(
    source: &mut IovIterSource<'_>,
    count: u16,
) -> Result<KVec<T>> {
    let mut list = KVec::with_capacity(count.into(), GFP_KERNEL_ACCOUNT)?;
    for _ in 0..count {
        let mut entry = T::new_zeroed();
        let bytes = entry.as_mut_bytes();
        if source.copy_from_iter(bytes) != bytes.len() {
            return Err(EFAULT);
        }
        list.push(entry, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(list)
}

/// What became of an attempt to post a transfer.
enum Progress {
    /// All of it is in the chain.
    Posted,
    /// No slot is free, or no room in the chain.
    Full,
    /// Another connection registers one of its buffers.
    Wait,
    /// A work request could not be built, which no input can bring about.
    Failed,
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
        self.wait_for_place(request.write, nowait, plug)?;
        let mut transfer = Transfer::fetch(self, context, request, source)?;
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

    fn wait_for_place(self: &Arc<Self>, write: bool, nowait: bool, plug: &mut Plug) -> Result {
        self.wait_until(nowait, plug, |state| match state.engine.role() {
            Role::Passive => Ok(!state.send.is_full(write)),
            Role::Active => Err(compat::EOPNOTSUPP),
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

    fn hold(self: &Arc<Self>, state: &mut State, progress: Progress) {
        match progress {
            Progress::Posted | Progress::Full => {}
            Progress::Wait => {
                state.retry_at = Some(timer::after(timer::now(), REGISTRATION_RETRY));
            }
            Progress::Failed => {
                let reason = usmbd_engine::Reason::ProviderError;
                state.engine.handle_provider_error(reason, timer::now());
            }
        }
    }

    /// Adds what fits of a transfer to the chain. The last work request is not yet remembered.
    fn push_parts(&self, send: &mut SendQueue, transfer: &mut Transfer) -> Progress {
        if transfer.posted == 0 {
            match self.register(send, transfer) {
                Progress::Posted => {}
                progress => return progress,
            }
        }
        let max_sge = self
            .device
            .max_rdma_sge(transfer.write)
            .min(send.max_sge())
            .min(MAX_SGE);
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

    /// Sees to it that all buffers of a transfer are registered, in front of it if need be.
    fn register(&self, send: &mut SendQueue, transfer: &Transfer) -> Progress {
        for range in &transfer.ranges {
            let regions = range.buffer.region_count();
            if send.room() < regions.saturating_add(1) {
                return Progress::Full;
            }
            match range.buffer.claim(self.number) {
                Claim::Ready => continue,
                Claim::Wait => return Progress::Wait,
                Claim::Yours => {}
            }
            for index in 0..regions {
                let last = index.saturating_add(1) == regions;
                let (wr_id, signalled) = send.number(last);
                let pushed =
                    range
                        .buffer
                        .push_registration(index, &mut send.chain, wr_id, signalled);
                let posted = if last {
                    Posted::Registration(Registration(range.buffer.clone()))
                } else {
                    Posted::Part
                };
                if pushed.is_err() || send.remember(posted).is_err() {
                    range.buffer.registered(false);
                    return Progress::Failed;
                }
                send.rdma_slots = send.rdma_slots.saturating_sub(1);
            }
        }
        Progress::Posted
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
        let length = if success { transfer.length } else { 0 };
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
        later.done.push(transfer);
    }
}

/// Adds the next work request of a transfer to the chain.
fn push_one(send: &mut SendQueue, transfer: &mut Transfer, max_sge: usize) -> Option<()> {
    if transfer.posted == transfer.length {
        let key = transfer.next_key()?;
        let (wr_id, signalled) = send.number(transfer.is_posted() && !transfer.quiet);
        return send.chain.push_invalidate(key, wr_id, signalled).ok();
    }
    let part = transfer.next_part(max_sge)?;
    let (wr_id, signalled) = send.number(transfer.is_posted() && !transfer.quiet);
    let sges = part.sges.get(..part.count)?;
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
    fn room(&self) -> usize {
        self.chain
            .room()
            .min(self.posted_room())
            .min(self.rdma_slots.into())
    }
}
