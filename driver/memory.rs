// SPDX-License-Identifier: GPL-2.0-only

//! The registration area of a process, and the status page of a context.
//!
//! An area is address space for [`BUFFER_COUNT`] buffers of 1 MiB; a buffer gets memory when it is
//! first touched, and keeps it while anybody uses it. The area belongs to a process (its mm), and
//! all contexts that the process maps share it.
//!
//! **When a buffer's memory is given back:** when no page table has any of its pages (the process
//! has unmapped it, or said `madvise(MADV_DONTNEED)`), no transfer moves it, and a minute has
//! passed. What a process has mapped never vanishes under it.
//!
//! There is one protection domain per device, owned by the driver, so the wall between processes
//! is the range check in [`AreaSlot::resolve`].

mod area;
mod buffer;
mod limits;
mod status_page;

use crate::verbs::Device;
use area::Area;
use buffer::Pinned;
use kernel::mm::virt::{flags, VmaNew};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use usmbd_abi::memory::{MemoryRange, BUFFER_SIZE};

pub(crate) use area::remove_device;
pub(crate) use buffer::{Claim, DeviceBuffer};
pub(crate) use status_page::StatusPage;

/// Buffers that an area has room for.
pub(crate) const BUFFER_COUNT: u32 = 64;

/// Prepares the tables.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise this is the only call.
    unsafe {
        area::init();
        limits::init();
    }
}

/// The areas that processes have mapped through one context.
#[pin_data]
pub(crate) struct AreaSlot {
    #[pin]
    areas: Mutex<KVec<Arc<Area>>>,
    /// Who opened the context: whose memory it is.
    uid: u32,
}

/// A part of a buffer, on a device.
pub(crate) struct Range {
    pub(crate) buffer: Arc<DeviceBuffer>,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    _memory: Pinned,
}

impl AreaSlot {
    pub(crate) fn new(uid: u32) -> impl PinInit<Self> {
        pin_init!(Self {
            areas <- new_mutex!(KVec::new(), "usmbd_area_slot"),
            uid,
        })
    }

    /// Maps the area of the calling process.
    ///
    /// # Errors
    ///
    /// `EINVAL` unless the mapping is shared, starts at the area's start, and is at most as long as
    /// the area; `ENOMEM`.
    pub(crate) fn map(&self, vma: &VmaNew) -> Result {
        let length = vma.end().saturating_sub(vma.start());
        let most = (BUFFER_COUNT as usize).saturating_mul(BUFFER_SIZE as usize);
        if vma.flags() & flags::SHARED == 0 || length > most || area::first_page(vma) != 0 {
            return Err(EINVAL);
        }
        vma.try_clear_mayexec()?;
        vma.set_dontexpand();
        vma.set_dontcopy();
        vma.set_dontdump();
        let mut areas = self.areas.lock();
        areas.retain(|area| area.is_mapped());
        // Before there is an area: nothing may fail between its making and its mapping.
        areas.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let area = Area::of_current(self.uid)?;
        area::attach(vma, area.clone());
        if !areas.iter().any(|other| Arc::ptr_eq(other, &area)) {
            let _ = areas.push_within_capacity(area);
        }
        Ok(())
    }

    /// Buffers that have memory, of all areas mapped through this context.
    pub(crate) fn buffers(&self) -> usize {
        let areas = self.areas.lock();
        areas
            .iter()
            .fold(0, |sum, area| sum.saturating_add(area.buffers()))
    }

    /// **The range check**: the wall between processes. Only a process that has mapped its area
    /// through this context may name ranges, and only of its own buffers. What is returned stays,
    /// whatever the process does, until it is dropped.
    ///
    /// # Errors
    ///
    /// `EFAULT` for a range that is not the caller's: no area, no such buffer, never touched,
    /// reaching past the buffer, or empty. `EINVAL` if a reserved field is not zero. `EMSGSIZE` if
    /// all together are more than 32 bits count. `ENOMEM`, `ENODEV`.
    ///
    /// `sink` is whether an RDMA read fills the ranges: where that sends their key over the wire,
    /// they get keys of their own.
    pub(crate) fn resolve(
        &self,
        device: &Arc<Device>,
        ranges: &[MemoryRange],
        sink: bool,
    ) -> Result<(KVec<Range>, u32)> {
        let area = {
            let areas = self.areas.lock();
            let own = areas
                .iter()
                .find(|area| area.is_current() && area.is_mapped());
            own.ok_or(EFAULT)?.clone()
        };
        let mut resolved = KVec::with_capacity(ranges.len(), GFP_KERNEL_ACCOUNT)?;
        let mut total = 0u32;
        for range in ranges {
            if range.reserved.get() != 0 {
                return Err(EINVAL);
            }
            let (offset, length) = (range.offset.get(), range.length.get());
            let end = offset.checked_add(length).ok_or(EFAULT)?;
            if length == 0 || end > BUFFER_SIZE {
                return Err(EFAULT);
            }
            let memory = area.buffer(range.buffer.get()).ok_or(EFAULT)?;
            total = total.checked_add(length).ok_or(EMSGSIZE)?;
            let buffer = if sink && device.reads_need_remote_write() {
                memory.sink(device, offset, length)?
            } else {
                memory.on(device)?
            };
            resolved.push(
                Range {
                    buffer,
                    offset,
                    length,
                    _memory: memory,
                },
                GFP_KERNEL_ACCOUNT,
            )?;
        }
        Ok((resolved, total))
    }
}
