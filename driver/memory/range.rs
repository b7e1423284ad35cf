// SPDX-License-Identifier: GPL-2.0-only

//! What the ranges of a command name.

use super::block::Block;
use super::buffer::Pinned;
use super::device_buffer::DeviceBuffer;
use super::registration::Registered;
use super::BLOCK;
use crate::verbs::Device;
use kernel::prelude::*;
use kernel::sync::Arc;

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
    /// [`AreaSlot::resolve`](super::AreaSlot::resolve). `out` has room for
    /// [`Self::most_ranges`].
    pub(super) fn resolve(
        self,
        device: &Arc<Device>,
        offset: u32,
        length: u32,
        sink: bool,
        out: &mut KVec<Range>,
    ) -> Result {
        let block_length = u32::try_from(BLOCK)?;
        let mut at = self.origin().checked_add(offset).ok_or(EFAULT)?;
        let mut left = length;
        loop {
            let block = self.block((at / block_length) as usize).ok_or(EFAULT)?;
            let offset = at % block_length;
            let length = left.min(block_length.saturating_sub(offset));
            let buffer = if sink && device.reads_need_remote_write() {
                block.sink(device, offset, length)?
            } else {
                block.on(device)?
            };
            let range = |memory| Range {
                buffer,
                offset,
                length,
                _memory: memory,
            };
            at = at.saturating_add(length);
            left = left.saturating_sub(length);
            if left == 0 {
                return out.push_within_capacity(range(self)).map_err(|_| EFAULT);
            }
            out.push_within_capacity(range(self.clone()))
                .map_err(|_| EFAULT)?;
        }
    }

    /// How many ranges [`Self::resolve`] makes at most.
    pub(super) fn most_ranges(length: u32) -> usize {
        (length as usize / BLOCK).saturating_add(2)
    }
}
