// SPDX-License-Identifier: GPL-2.0-only

//! The receiving half of a connection: posted receives, and the pieces of messages in them.
//!
//! A piece stays in its receive buffer until the reader has copied it; then the buffer is posted
//! again and its credit granted. So a connection's memory is its posted receives, and a reader that
//! stops costs the peer its credits.

use super::{Connection, Event, Later, Phase, Reason, State, Time};
use crate::context::connection::link::WorkRequestId;
use crate::context::timer;
use crate::trace;
use crate::verbs::{
    Device, Direction, DmaBuffer, Receive, ReceiveTable, Sge, SharedBuffer, SharedMemory,
    WorkCompletion, WorkStatus,
};
use core::num::NonZero;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_engine as engine;
use usmbd_engine::Received;

/// Bytes of the receive for the Negotiate Request; [MS-SMBD] 3.1.7.2 asks for 512 at least.
const HANDSHAKE_SIZE: usize = 512;

/// Memory of a connection's receives, as readers of pieces see it.
pub(crate) struct ReceiveMemory {
    chunks: KVec<Arc<SharedMemory>>,
    /// Receives in one chunk.
    per_chunk: NonZero<u32>,
    /// Bytes of one receive.
    size: u32,
}

impl ReceiveMemory {
    /// Room for the memory of `count` receives of `size` bytes each.
    fn with_capacity(count: u16, size: u32) -> Result<Self> {
        let per_chunk = u32::try_from(PAGE_SIZE)?.checked_div(size);
        let mut memory = Self {
            chunks: KVec::new(),
            per_chunk: per_chunk.and_then(NonZero::new).ok_or(EINVAL)?,
            size,
        };
        let needed = memory.chunks_for(count)?;
        memory.chunks.reserve(needed, GFP_KERNEL_ACCOUNT)?;
        Ok(memory)
    }

    /// Chunks in which `count` receives stand.
    fn chunks_for(&self, count: u16) -> Result<usize> {
        Ok(u32::from(count).div_ceil(self.per_chunk.get()) as usize)
    }

    /// The chunk in which receive `index` stands, and where it begins there.
    fn place(&self, index: u16) -> (usize, u32) {
        let index = u32::from(index);
        let (chunk, within) = (index / self.per_chunk, index % self.per_chunk);
        // As many as `per_chunk` are not longer than a page.
        (chunk as usize, within.wrapping_mul(self.size))
    }

    /// `length` bytes from `offset` on of receive `index`, which is not posted.
    pub(crate) fn bytes(&self, index: u16, offset: u32, length: u32) -> Option<&[u8]> {
        // None of these sums wraps: they are of numbers of 32 bits.
        let (offset, length) = (offset as usize, length as usize);
        if offset.wrapping_add(length) > self.size as usize {
            return None;
        }
        let (chunk, start) = self.place(index);
        let first = (start as usize).wrapping_add(offset);
        self.chunks
            .get(chunk)?
            .as_slice()
            .get(first..first.wrapping_add(length))
    }
}

/// Memory of a connection's receives, as the device sees it.
pub(super) struct ReceiveBuffers {
    /// From the last one to the first, so that what comes in front is pushed.
    chunks: KVec<SharedBuffer>,
    memory: Arc<ReceiveMemory>,
    /// The work requests that post them.
    table: ReceiveTable,
    count: u16,
}

impl ReceiveBuffers {
    /// Memory for `count` receives of `size` bytes each.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for a size that no chunk holds.
    pub(super) fn new(device: &Arc<Device>, count: u16, size: u32) -> Result<Self> {
        let memory = ReceiveMemory::with_capacity(count, size)?;
        Self::complete(device, count, memory)
    }

    /// Memory for `count` receives, of which the first are those of `old`, from which
    /// [`Self::take_over`] takes the mappings; the other ones are new.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn larger(
        device: &Arc<Device>,
        count: u16,
        old: &Arc<ReceiveMemory>,
    ) -> Result<Self> {
        let mut memory = ReceiveMemory::with_capacity(count, old.size)?;
        for chunk in &old.chunks {
            memory.chunks.push(chunk.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        Self::complete(device, count, memory)
    }

    /// Adds the chunks that `memory` still lacks.
    fn complete(device: &Arc<Device>, count: u16, mut memory: ReceiveMemory) -> Result<Self> {
        let needed = memory.chunks_for(count)?;
        let mut chunks = KVec::with_capacity(needed, GFP_KERNEL_ACCOUNT)?;
        for _ in memory.chunks.len()..needed {
            let chunk = SharedBuffer::allocate(device, PAGE_SIZE)?;
            chunks.push(chunk, GFP_KERNEL_ACCOUNT)?;
        }
        for chunk in chunks.iter().rev() {
            memory
                .chunks
                .push(chunk.memory().clone(), GFP_KERNEL_ACCOUNT)?;
        }
        let mut buffers = Self {
            chunks,
            memory: Arc::new(memory, GFP_KERNEL_ACCOUNT)?,
            table: ReceiveTable::new(count.into())?,
            count,
        };
        buffers.fill_table(count);
        Ok(buffers)
    }

    /// Makes the work requests of the first `count` receives, those whose mapping is here.
    fn fill_table(&mut self, count: u16) {
        for index in 0..count {
            if let Some(receive) = self.receive(index) {
                self.table.set(index, &receive);
            }
        }
    }

    /// Puts the mappings of the first receives before the new ones'; neither moves. Needs no
    /// memory.
    fn take_over(&mut self, old: Self) {
        let per_chunk = self.memory.per_chunk.get() as usize;
        let taken = old.chunks.len().saturating_mul(per_chunk);
        for chunk in old.chunks {
            // There is room for all of them, see `complete`.
            let _ = self.chunks.push_within_capacity(chunk);
        }
        self.fill_table(u16::try_from(taken).unwrap_or(u16::MAX).min(self.count));
    }

    /// None for a mapping that is still to be taken over.
    fn place(&self, index: u16) -> Option<(&SharedBuffer, u32)> {
        let (chunk, start) = self.memory.place(index);
        let behind = chunk.checked_add(1)?;
        let at = self.memory.chunks.len().checked_sub(behind)?;
        Some((self.chunks.get(at)?, start))
    }

    /// The work request that posts receive `index`.
    fn receive(&self, index: u16) -> Option<Receive> {
        let (chunk, start) = self.place(index)?;
        Some(Receive {
            wr_id: WorkRequestId::Receive(index).into(),
            sge: Sge {
                address: chunk.address().checked_add(start.into())?,
                length: self.memory.size,
                lkey: chunk.lkey(),
            },
        })
    }

    fn sync_for_cpu(&self, index: u16) {
        if let Some((chunk, start)) = self.place(index) {
            chunk.sync_for_cpu(start.saturating_add(self.memory.size) as usize);
        }
    }
}

/// Where a connection's receives stand.
pub(super) struct Receives {
    handshake: Option<DmaBuffer>,
    /// Gone when nothing is posted any more.
    buffers: Option<ReceiveBuffers>,
    /// Stays for those who read what came before the end.
    pub(super) memory: Option<Arc<ReceiveMemory>>,
    /// Receives that the queue pair takes.
    capacity: u16,
    /// Index of the first receive that was never posted.
    fresh: u16,
}

impl Receives {
    /// For the Negotiate Request only.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn for_handshake(device: &Arc<Device>, capacity: u16) -> Result<Self> {
        Ok(Self {
            handshake: Some(DmaBuffer::allocate(
                device,
                HANDSHAKE_SIZE,
                Direction::FromDevice,
            )?),
            buffers: None,
            memory: None,
            capacity,
            fresh: 0,
        })
    }

    pub(super) fn capacity(&self) -> u16 {
        self.capacity
    }

    pub(super) fn handshake_receive(&self) -> Option<Receive> {
        let buffer = self.handshake.as_ref()?;
        Some(Receive {
            wr_id: WorkRequestId::Handshake.into(),
            sge: Sge {
                address: buffer.address(),
                length: HANDSHAKE_SIZE as u32,
                lkey: buffer.lkey(),
            },
        })
    }

    pub(super) fn set_buffers(&mut self, buffers: ReceiveBuffers) {
        self.memory = Some(buffers.memory.clone());
        self.buffers = Some(buffers);
    }

    /// From now on there are more: see [`ReceiveBuffers::larger`].
    pub(super) fn grow(&mut self, mut larger: ReceiveBuffers) {
        if let Some(old) = self.buffers.take() {
            larger.take_over(old);
        }
        self.set_buffers(larger);
    }

    /// Receives that there is memory for.
    pub(super) fn count(&self) -> u16 {
        self.buffers.as_ref().map_or(0, |buffers| buffers.count)
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let handshake = if self.handshake.is_some() {
            HANDSHAKE_SIZE
        } else {
            0
        };
        let buffers = self.buffers.as_ref().map_or(0, |buffers| {
            let chunks = buffers.chunks.len().saturating_mul(PAGE_SIZE);
            chunks.saturating_add(buffers.table.memory())
        });
        handshake.saturating_add(buffers)
    }

    /// Nothing is posted any more: gives the mappings up, to be dropped.
    pub(super) fn retire(&mut self) -> (Option<DmaBuffer>, Option<ReceiveBuffers>) {
        (self.handshake.take(), self.buffers.take())
    }
}

impl Connection {
    /// The connection's receive memory, for the reader of a piece.
    pub(crate) fn receive_memory(&self) -> Option<Arc<ReceiveMemory>> {
        self.state.lock().receives.memory.clone()
    }

    pub(super) fn complete_handshake(
        &self,
        state: &mut State,
        completion: &WorkCompletion,
        now: Time,
    ) {
        let Some(buffer) = state.receives.handshake.take() else {
            return;
        };
        if completion.status != WorkStatus::Success {
            return state.fail_receive(completion.status, now);
        }
        buffer.sync_for_cpu(HANDSHAKE_SIZE);
        let pdu = buffer
            .as_slice()
            .get(..completion.byte_len as usize)
            .unwrap_or_default();
        state.counters.pdus_received(1);
        state.engine.handle_receive(pdu, None, now);
    }

    pub(super) fn complete_receive(
        self: &Arc<Self>,
        state: &mut State,
        index: u16,
        completion: &WorkCompletion,
        now: Time,
        later: &mut Later,
    ) {
        if completion.status != WorkStatus::Success {
            return state.fail_receive(completion.status, now);
        }
        let (Some(buffers), Some(memory)) = (&state.receives.buffers, &state.receives.memory)
        else {
            return;
        };
        buffers.sync_for_cpu(index);
        let pdu = memory
            .bytes(index, 0, completion.byte_len)
            .unwrap_or_default();
        state.counters.pdus_received(1);
        let received = state
            .engine
            .handle_receive(pdu, completion.invalidated, now);
        let payload_length = match &received {
            Received::Piece(piece) => piece.payload_length,
            _ => 0,
        };
        trace::pdu(
            self.number,
            false,
            completion.byte_len,
            payload_length,
            u32::from(state.engine.send_credits()),
            state.engine.receive_credits(),
        );
        match received {
            Received::Piece(piece) if state.phase == Phase::Serving => {
                state.counters.message_bytes_received(piece.payload_length);
                state.counters.messages_received(piece.last.into());
                let event = Event::Piece {
                    connection: self.number,
                    receive: index,
                    piece,
                };
                state.post(event, later);
            }
            Received::Piece(piece) if state.phase == Phase::Routing => {
                state.counters.message_bytes_received(piece.payload_length);
                state.counters.messages_received(piece.last.into());
                self.arrived_for_routing(state, index, piece, now, later);
            }
            Received::Piece(_) if state.phase == Phase::Offered => {
                // Until somebody is there to answer, there is nothing more to say.
                state.stop(Reason::NotRoutable, now);
            }
            // Nobody reads any more.
            Received::Piece(_) | Received::Repost => {
                // What follows from it is carried out with all else of this turn.
                state.post_receives_again(&[index], now);
            }
            Received::Ignore => {}
        }
    }

    /// The reader has copied pieces (or never will): their receives are posted again. Whether the
    /// pieces' event slots stay the connection's; else they are to be released.
    pub(crate) fn return_receives(self: &Arc<Self>, indices: &[u16]) -> bool {
        let (keeps_slots, is_due) = {
            let mut state = self.state.lock();
            let keeps_slots = state.owner.is_some();
            if keeps_slots {
                state.slots = state.slots.saturating_add(indices.len());
            }
            (
                keeps_slots,
                state.post_receives_again(indices, timer::now()),
            )
        };
        if is_due {
            self.post_queued();
        }
        keeps_slots
    }
}

impl State {
    /// Posts receives that the engine counts as new ones.
    pub(super) fn post_receives(&mut self, count: u16, now: Time) {
        let fresh = self.receives.fresh;
        let most = self.receives.count().saturating_sub(fresh).min(count);
        let posted = self.post_each(fresh..fresh.saturating_add(most));
        self.receives.fresh = fresh.saturating_add(posted);
        if posted == 0 {
            self.engine.handle_post_receives_failed(now);
        } else {
            self.engine.handle_receives_posted(posted, now);
        }
    }

    /// Posts receives that were used; whether the engine may have something to do then. Counted only
    /// after they are posted, or the peer could be granted a credit whose receive is not there yet.
    fn post_receives_again(&mut self, indices: &[u16], now: Time) -> bool {
        if self.link.is_none()
            || self.receives.buffers.is_none()
            || matches!(self.phase, Phase::Draining | Phase::Gone)
        {
            return false;
        }
        let posted = self.post_each(indices.iter().copied());
        if usize::from(posted) < indices.len() {
            self.engine
                .handle_provider_error(engine::Reason::ProviderError, now);
            return true;
        }
        self.engine.handle_receives_posted(posted, now)
    }

    /// Posts the receives with these indices, with one doorbell; how many, up to the first that
    /// fails.
    fn post_each(
        &mut self,
        indices: impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + Clone,
    ) -> u16 {
        let (Some(link), Some(buffers)) = (&self.link, &mut self.receives.buffers) else {
            return 0;
        };
        let count = u16::try_from(indices.len()).unwrap_or(u16::MAX);
        match link.post_receives(&mut buffers.table, indices) {
            Ok(()) => count,
            Err(before) => before,
        }
    }

    fn fail_receive(&mut self, status: WorkStatus, now: Time) {
        match status {
            // The queue pair ended, and says why elsewhere.
            WorkStatus::Success | WorkStatus::Flushed => {}
            WorkStatus::LocalLength | WorkStatus::InvalidRequest | WorkStatus::LocalOperation => {
                self.engine
                    .handle_provider_error(engine::Reason::ReceiveTooLong, now);
            }
            _ => {
                self.cause.get_or_insert(Reason::Provider);
                self.engine
                    .handle_provider_error(engine::Reason::ProviderError, now);
            }
        }
    }
}
