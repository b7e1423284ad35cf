// SPDX-License-Identifier: GPL-2.0-only

//! The registration area of a process, memory that it registered, and the status page of a context.
//!
//! An area is address space for [`BUFFER_COUNT`] buffers of 1 MiB; a buffer gets memory when it is
//! first touched, and keeps it while anybody uses it. The area belongs to a process (its mm), and
//! all contexts that the process maps share it. So do registrations: memory of the process's own,
//! which is pinned as long as it is registered, or a transfer moves it. They end with the process's
//! last mapping of the area.
//!
//! **When a buffer's memory is given back:** when no page table has any of its pages (the process
//! has unmapped it, or said `madvise(MADV_DONTNEED)`), no transfer moves it, and a minute has
//! passed. What a process has mapped never vanishes under it.
//!
//! There is one protection domain per device, owned by the driver, so the wall between processes
//! is the range check in [`AreaSlot::resolve`].

mod area;
mod block;
mod buffer;
mod device_buffer;
mod limits;
mod range;
mod registration;
mod status_page;

use crate::few::Few;
use crate::verbs::Device;
use area::{Area, View};
use core::fmt;
use kernel::mm::virt::{flags, VmaNew};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::task::Kuid;
use range::Memory;
use usmbd_abi::memory::{MemoryRange, BUFFER_SIZE};

pub(crate) use area::remove_device;
pub(crate) use device_buffer::{Claim, DeviceBuffer};
pub(crate) use limits::Settings as Limits;
pub(crate) use range::Range;
pub(crate) use registration::Unregistered;
pub(crate) use status_page::StatusPage;

/// Buffers that an area has room for.
pub(crate) const BUFFER_COUNT: u32 = 64;
/// Bytes that are registered as one: those of a buffer.
const BLOCK: usize = BUFFER_SIZE as usize;
/// Pages of these.
pub(crate) const PAGES: usize = BLOCK / PAGE_SIZE;

/// What an operator can set.
pub(crate) struct Settings {
    /// Seconds without use after which an unmapped buffer is given back.
    pub(crate) idle_seconds: u32,
    pub(crate) limits: Limits,
}

/// Prepares the tables.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(crate) unsafe fn init(settings: &Settings) {
    // SAFETY: By the caller's promise this is the only call.
    unsafe {
        area::init(settings.idle_seconds);
        limits::init(&settings.limits);
    }
}

/// Writes what areas and registrations have; `memory` in debugfs.
pub(crate) fn show(_: &(), out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (areas, registrations) = area::count();
    writeln!(out, "areas {areas}")?;
    writeln!(out, "registrations {registrations}")?;
    limits::show(out)
}

/// The areas that processes have mapped through one context.
#[pin_data]
pub(crate) struct AreaSlot {
    #[pin]
    views: Mutex<KVec<Arc<View>>>,
    /// Who opened the context: whose memory it is.
    uid: Kuid,
    /// Whether RLIMIT_MEMLOCK does not bind those who register memory.
    may_lock_memory: bool,
}

impl AreaSlot {
    /// For a context whose opener is `uid`, and may pin memory beyond RLIMIT_MEMLOCK or not.
    pub(crate) fn new(uid: Kuid, may_lock_memory: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            views <- new_mutex!(KVec::new(), "usmbd_area_slot"),
            uid,
            may_lock_memory,
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
        let most = (BUFFER_COUNT as usize).saturating_mul(BLOCK);
        if vma.flags() & flags::SHARED == 0 || length > most || area::first_page(vma) != 0 {
            return Err(EINVAL);
        }
        vma.try_clear_mayexec()?;
        vma.set_dontexpand();
        vma.set_dontcopy();
        vma.set_dontdump();
        View::of_current(&mut self.views.lock(), self.uid)?.attach(vma);
        Ok(())
    }

    /// Buffers that have memory, of all areas mapped through this context.
    pub(crate) fn buffers(&self) -> usize {
        let views = self.views.lock();
        views
            .iter()
            .fold(0, |sum, view| sum.saturating_add(view.buffers()))
    }

    /// The area of the calling process, if it has mapped it through this context.
    ///
    /// # Errors
    ///
    /// `EFAULT` else.
    fn own(&self) -> Result<Arc<Area>> {
        let views = self.views.lock();
        let own = views.iter().find_map(|view| view.current());
        own.cloned().ok_or(EFAULT)
    }

    /// **The range check**: the wall between processes. Only a process that has mapped its area
    /// through this context may name ranges, and only of its own buffers and registrations. What is
    /// appended to `out` stays, whatever the process does, until it is dropped.
    ///
    /// `fits` judges the sum of the ranges' lengths, which is returned, before anything is done for
    /// them. `sink` is whether an RDMA read fills the ranges: where that sends their key over the
    /// wire, they get keys of their own. On an error some of them may be in `out`.
    ///
    /// # Errors
    ///
    /// `EFAULT` for a range that is not the caller's: no area, no such buffer or handle, never
    /// touched, reaching past its end, or empty. `EINVAL` if a reserved field is not zero.
    /// `EMSGSIZE` if all together are more than 32 bits count. What `fits` says. `EIO` if the
    /// device cannot reach the memory coherently; `ENOMEM`, `ENODEV`.
    #[inline]
    pub(crate) fn resolve(
        &self,
        caller: &mut Caller,
        device: &Arc<Device>,
        ranges: &Few<MemoryRange>,
        sink: bool,
        fits: impl FnOnce(u32) -> Result,
        out: &mut Few<Range>,
    ) -> Result<u32> {
        let area = caller.area(self)?;
        let (first, others) = ranges.parts().ok_or(EINVAL)?;
        let first = Named::by(area, first)?;
        let mut total = first.length;
        // Most commands have one range: no list is needed.
        let others = match others {
            None => None,
            Some(others) => Some(Named::all(area, others, &mut total)?),
        };
        fits(total)?;
        first.resolve(device, sink, out)?;
        if let Some(others) = others {
            for named in others {
                named.resolve(device, sink, out)?;
            }
        }
        Ok(total)
    }

    /// Registers memory of the calling process; returns the handle, which is the process's, whatever
    /// context it uses.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the process has not mapped its area through this context, or if some of the
    /// memory is not mapped, may not be written or cannot be pinned; `ENOMEM`, also at a limit;
    /// `EINTR` if the process is being killed. Nothing stays pinned then.
    pub(crate) fn register(&self, address: u64, length: u64) -> Result<u32> {
        let area = self.own()?;
        area.register(address, length, self.may_lock_memory)
    }

    /// Gives registered memory up; `wanted` is told when nothing uses it any more.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the process has not mapped its area through this context, or has no such handle;
    /// nobody is told then.
    pub(crate) fn unregister(&self, handle: u32, wanted: KBox<dyn Unregistered>) -> Result {
        self.own()?.unregister(handle, wanted)
    }
}

/// The area of the process that makes a call, once the call has named some of it. A call is one
/// process's from beginning to end, so one look serves all commands of it: it is as if they had
/// been there when the first of them looked.
#[derive(Default)]
pub(crate) struct Caller(Option<Arc<Area>>);

impl Caller {
    /// The area that was mapped through the context with this slot; always the same context's.
    fn area(&mut self, slot: &AreaSlot) -> Result<&Area> {
        if self.0.is_none() {
            self.0 = Some(slot.own()?);
        }
        self.0.as_deref().ok_or(EFAULT)
    }
}

/// What a range names: checked, and kept.
struct Named {
    memory: Memory,
    offset: u32,
    length: u32,
}

impl Named {
    /// See [`AreaSlot::resolve`].
    #[inline(always)]
    fn by(area: &Area, range: &MemoryRange) -> Result<Self> {
        if range.reserved.get() != 0 {
            return Err(EINVAL);
        }
        let memory = area.memory(range.buffer.get()).ok_or(EFAULT)?;
        let (offset, length) = (range.offset.get(), range.length.get());
        let end = u64::from(offset).saturating_add(length.into());
        if length == 0 || end > memory.length() {
            return Err(EFAULT);
        }
        Ok(Self {
            memory,
            offset,
            length,
        })
    }

    /// What all of these name; `total` counts their bytes.
    #[cold]
    fn all(area: &Area, ranges: &[MemoryRange], total: &mut u32) -> Result<KVec<Self>> {
        let mut all = KVec::with_capacity(ranges.len(), GFP_KERNEL_ACCOUNT)?;
        for range in ranges {
            let named = Self::by(area, range)?;
            *total = total.checked_add(named.length).ok_or(EMSGSIZE)?;
            // There is room for all of them.
            all.push_within_capacity(named).map_err(|_| ENOMEM)?;
        }
        Ok(all)
    }

    #[inline(always)]
    fn resolve(self, device: &Arc<Device>, sink: bool, out: &mut Few<Range>) -> Result {
        self.memory
            .resolve(device, self.offset, self.length, sink, out)
    }
}
