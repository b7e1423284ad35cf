// SPDX-License-Identifier: GPL-2.0-only

//! What the ranges of a command name.

use super::block::Block;
use super::buffer::Pinned;
use super::device_buffer::DeviceBuffer;
use super::registration::Registered;
use super::BLOCK;
use crate::few::Few;
use crate::verbs::Device;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Bytes of a block.
const BLOCK_LENGTH: u32 = BLOCK as u32;

/// Memory that a range can name. It stays as long as this does, whatever the process does.
#[derive(Clone)]
pub(super) enum Memory {
    /// A buffer of the area.
    Buffer(Pinned),
    /// Memory that the process registered.
    Registered(Arc<Registered>),
}

/// A part of a block, on a device.
pub(crate) struct Range {
    pub(crate) buffer: Arc<DeviceBuffer>,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    _memory: Memory,
}

impl Memory {
    /// Bytes that ranges can name.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Buffer(_) => BLOCK as u64,
            Self::Registered(registered) => registered.length(),
        }
    }

    /// Where offset zero stands in the first block.
    fn origin(&self) -> u32 {
        match self {
            Self::Buffer(_) => 0,
            Self::Registered(registered) => registered.origin(),
        }
    }

    fn block(&self, index: usize) -> Option<&Block> {
        match self {
            Self::Buffer(buffer) => (index == 0).then(|| buffer.block()),
            Self::Registered(registered) => registered.block(index).map(|block| &**block),
        }
    }

    /// Appends what `length` bytes from `offset` on are on `device`: one range in each block that
    /// they touch. They have been checked to be inside, and not to be none. `sink` as in
    /// [`AreaSlot::resolve`](super::AreaSlot::resolve).
    #[inline(always)]
    pub(super) fn resolve(
        self,
        device: &Arc<Device>,
        offset: u32,
        length: u32,
        sink: bool,
        out: &mut Few<Range>,
    ) -> Result {
        let mut at = self.origin().checked_add(offset).ok_or(EFAULT)?;
        let mut left = length;
        if left > behind(at) {
            self.resolve_blocks(device, &mut at, &mut left, sink, out)?;
        }
        let buffer = self.on(device, at, left, sink)?;
        out.push(|| Range {
            buffer,
            offset: at % BLOCK_LENGTH,
            length: left,
            _memory: self,
        })
    }

    /// As [`Self::resolve`], of `left` bytes from `at` on, up to the last block that they touch.
    #[cold]
    fn resolve_blocks(
        &self,
        device: &Arc<Device>,
        at: &mut u32,
        left: &mut u32,
        sink: bool,
        out: &mut Few<Range>,
    ) -> Result {
        while *left > behind(*at) {
            let length = behind(*at);
            let buffer = self.on(device, *at, length, sink)?;
            let memory = self.clone();
            out.push(|| Range {
                buffer,
                offset: *at % BLOCK_LENGTH,
                length,
                _memory: memory,
            })?;
            *at = at.saturating_add(length);
            *left = left.saturating_sub(length);
        }
        Ok(())
    }

    /// The block with byte `at`, counted from the first block on, on `device`; `length` bytes of it
    /// are meant.
    #[inline(always)]
    fn on(
        &self,
        device: &Arc<Device>,
        at: u32,
        length: u32,
        sink: bool,
    ) -> Result<Arc<DeviceBuffer>> {
        let block = self.block((at / BLOCK_LENGTH) as usize).ok_or(EFAULT)?;
        if sink && device.reads_need_remote_write() {
            block.sink(device, at % BLOCK_LENGTH, length)
        } else {
            block.on(device)
        }
    }
}

/// Bytes of a block from its byte `at` on, which counts from the first block on.
fn behind(at: u32) -> u32 {
    BLOCK_LENGTH.saturating_sub(at % BLOCK_LENGTH)
}
