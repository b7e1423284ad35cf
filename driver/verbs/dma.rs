// SPDX-License-Identifier: GPL-2.0-only

//! Memory that a device reaches: buffers of our own, and pages shared with user space.

use super::{ffi, Device, DeviceUse, UserPages};
use kernel::{
    bindings,
    page::{Page, PAGE_SIZE},
    prelude::*,
    sync::Arc,
};

/// Which way data goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
}

impl Direction {
    /// `enum dma_data_direction`, the same numbers in all kernels.
    fn raw(self) -> i32 {
        match self {
            Self::ToDevice => 1,
            Self::FromDevice => 2,
        }
    }
}

/// One physically contiguous buffer, mapped for one device.
///
/// The device's accesses are no business of the borrow checker: look at the bytes only while no
/// work request that names the buffer is posted, and after [`DmaBuffer::sync_for_cpu`].
pub(crate) struct DmaBuffer {
    bytes: KVec<u8>,
    address: u64,
    direction: Direction,
    device: DeviceUse,
}

impl DmaBuffer {
    /// The largest buffer.
    pub(crate) const MAX: usize = 8192;

    /// Allocates and maps a zeroed buffer of `length` bytes, at most [`DmaBuffer::MAX`].
    pub(crate) fn allocate(
        device: &Arc<Device>,
        length: usize,
        direction: Direction,
    ) -> Result<Self> {
        Self::map(device, Self::memory(length)?, direction)
    }

    /// `length` zeroes, at most [`DmaBuffer::MAX`], to be filled and then mapped. To fill them may
    /// take as long as it likes, while a device that goes away waits for what is mapped.
    #[inline(always)]
    pub(crate) fn memory(length: usize) -> Result<KVec<u8>> {
        if length == 0 || length > Self::MAX {
            return Err(EINVAL);
        }
        zeroed(length, GFP_KERNEL)
    }

    /// Maps memory from [`Self::memory`].
    // Each message has one; to return it by way of memory took two dozen instructions.
    #[inline(always)]
    pub(crate) fn map(device: &Arc<Device>, bytes: KVec<u8>, direction: Direction) -> Result<Self> {
        let device = device.hold()?;
        let (length, mut bytes) = (bytes.len(), bytes);
        let memory = bytes.as_mut_ptr().cast();
        // SAFETY: The device is valid, and the memory `length` bytes from kmalloc that stay mapped
        // until `drop` unmaps them.
        let address =
            unsafe { ffi::usmbd_dma_map_single(device.ib(), memory, length, direction.raw()) };
        // SAFETY: As above.
        if unsafe { ffi::usmbd_dma_mapping_error(device.ib(), address) } != 0 {
            return Err(ENOMEM);
        }
        Ok(Self {
            bytes,
            address,
            direction,
            device,
        })
    }

    /// Where the device finds it.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// The key to go with the address.
    pub(crate) fn lkey(&self) -> u32 {
        self.device.device().local_dma_lkey()
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What is in it.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// To fill it.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Lets the CPU see what the device wrote in the first `length` bytes.
    pub(crate) fn sync_for_cpu(&self, length: usize) {
        let (ib, length) = (self.device.ib(), length.min(self.len()));
        // SAFETY: Device and mapping are valid.
        unsafe { ffi::usmbd_dma_sync_for_cpu(ib, self.address, length, self.direction.raw()) };
    }

    /// Lets the device see what the CPU wrote in the first `length` bytes, or write them.
    pub(crate) fn sync_for_device(&self, length: usize) {
        let (ib, length) = (self.device.ib(), length.min(self.len()));
        // SAFETY: Device and mapping are valid.
        unsafe { ffi::usmbd_dma_sync_for_device(ib, self.address, length, self.direction.raw()) };
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        let (ib, length) = (self.device.ib(), self.len());
        // SAFETY: Mapped with these parameters, once; the owner waited for the work requests.
        unsafe { ffi::usmbd_dma_unmap_single(ib, self.address, length, self.direction.raw()) };
    }
}

/// `length` zeroes. The allocator makes them: `KVec::from_elem` writes byte by byte.
fn zeroed(length: usize, flags: kernel::alloc::Flags) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(length, flags | __GFP_ZERO)?;
    // SAFETY: There is room for `length`, and the allocator has zeroed it.
    unsafe { bytes.inc_len(length) };
    Ok(bytes)
}

/// Memory that stays readable when its mapping is gone: what was received before its device went
/// away can still be read.
pub(crate) struct SharedMemory(KVec<u8>);

impl SharedMemory {
    /// What is in it; see [`DmaBuffer`].
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// One physically contiguous buffer that the device writes and that readers share.
pub(crate) struct SharedBuffer {
    memory: Arc<SharedMemory>,
    address: u64,
    device: DeviceUse,
}

impl SharedBuffer {
    /// Allocates and maps a zeroed buffer of `length` bytes, at most [`DmaBuffer::MAX`].
    pub(crate) fn allocate(device: &Arc<Device>, length: usize) -> Result<Self> {
        if length == 0 || length > DmaBuffer::MAX {
            return Err(EINVAL);
        }
        let device = device.hold()?;
        let bytes = zeroed(length, GFP_KERNEL_ACCOUNT)?;
        let memory = Arc::new(SharedMemory(bytes), GFP_KERNEL_ACCOUNT)?;
        let start = memory.0.as_ptr().cast_mut().cast();
        let direction = Direction::FromDevice.raw();
        // SAFETY: The device is valid, and the memory `length` bytes from kmalloc that stay mapped
        // until `drop` unmaps them.
        let address = unsafe { ffi::usmbd_dma_map_single(device.ib(), start, length, direction) };
        // SAFETY: As above.
        if unsafe { ffi::usmbd_dma_mapping_error(device.ib(), address) } != 0 {
            return Err(ENOMEM);
        }
        Ok(Self {
            memory,
            address,
            device,
        })
    }

    /// The memory, to be read when nothing is posted on it.
    pub(crate) fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Where the device finds it.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// The key to go with the address.
    pub(crate) fn lkey(&self) -> u32 {
        self.device.device().local_dma_lkey()
    }

    /// Lets the CPU see what the device wrote in the first `length` bytes.
    pub(crate) fn sync_for_cpu(&self, length: usize) {
        let (ib, length) = (self.device.ib(), length.min(self.memory.0.len()));
        let direction = Direction::FromDevice.raw();
        // SAFETY: Device and mapping are valid.
        unsafe { ffi::usmbd_dma_sync_for_cpu(ib, self.address, length, direction) };
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        let (ib, length) = (self.device.ib(), self.memory.0.len());
        let direction = Direction::FromDevice.raw();
        // SAFETY: Mapped with these parameters, once; the owner waited for the work requests.
        unsafe { ffi::usmbd_dma_unmap_single(ib, self.address, length, direction) };
    }
}

/// Pages that are kept together: up to 1 MiB that is registered as one.
pub(crate) enum PageList {
    /// Pages of our own.
    Own(KVec<Page>),
    /// Pages of a process.
    User(UserPages),
}

impl PageList {
    /// Allocates `count` zeroed pages, charged to the calling task's memory cgroup.
    pub(crate) fn allocate(count: usize) -> Result<Self> {
        let mut pages = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
            pages.push(page, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self::Own(pages))
    }

    /// One of the pages, valid as long as the list.
    fn get(&self, index: usize) -> Option<*mut bindings::page> {
        match self {
            Self::Own(pages) => pages.get(index).map(Page::as_ptr),
            Self::User(pages) => pages.get(index),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Own(pages) => pages.len(),
            Self::User(pages) => pages.count(),
        }
    }

    /// One of the pages, with a reference that the caller has to give away: to a page table.
    pub(crate) fn reference(&self, index: usize) -> Option<*mut bindings::page> {
        let page = self.get(index)?;
        // SAFETY: The page is valid.
        unsafe { ffi::usmbd_get_page(page) };
        Some(page)
    }

    /// Whether nobody but this list refers to any of the pages: no page table, no pin.
    pub(crate) fn is_unshared(&self) -> bool {
        match self {
            Self::Own(pages) => pages.iter().all(|page| {
                // SAFETY: The page is ours.
                unsafe { ffi::usmbd_page_count(page.as_ptr()) == 1 }
            }),
            Self::User(_) => false,
        }
    }
}

/// Bytes of a [`PageList`] mapped for a device, in both directions and coherently: user space works
/// on them with no call in between.
///
/// # Invariants
///
/// `table` describes pages of `_pages`, and is mapped for `device`.
pub(crate) struct Mapping {
    table: KVec<ffi::scatterlist>,
    mapped: i32,
    length: usize,
    device: DeviceUse,
    _pages: Arc<PageList>,
}

// SAFETY: The table is only handed to functions that may be called from any thread.
unsafe impl Send for Mapping {}
// SAFETY: As above; it does not change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes from `offset` on; not zero.
    ///
    /// # Errors
    ///
    /// `EIO` when the device cannot reach the pages coherently.
    pub(crate) fn new(
        device: &Arc<Device>,
        pages: Arc<PageList>,
        offset: usize,
        length: usize,
    ) -> Result<Self> {
        let end = offset.checked_add(length).ok_or(EINVAL)?;
        let (first, last) = (offset / PAGE_SIZE, end.div_ceil(PAGE_SIZE));
        if length == 0 || last > pages.count() {
            return Err(EINVAL);
        }
        let device = device.hold()?;
        let count = last.saturating_sub(first);
        let mut table = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            table.push(ffi::scatterlist::default(), GFP_KERNEL_ACCOUNT)?;
        }
        // SAFETY: The table has `count` entries.
        unsafe { ffi::usmbd_sg_init_table(table.as_mut_ptr(), u32::try_from(count)?) };
        let mut start = offset % PAGE_SIZE;
        let mut left = length;
        for (entry, index) in table.iter_mut().zip(first..) {
            let page = pages.get(index).ok_or(EINVAL)?;
            let bytes = PAGE_SIZE.saturating_sub(start).min(left);
            let (length, offset) = (u32::try_from(bytes)?, u32::try_from(start)?);
            // SAFETY: The entry is initialized; the page stays as long as the mapping.
            unsafe { ffi::usmbd_sg_set_page(entry, page, length, offset) };
            start = 0;
            left = left.saturating_sub(bytes);
        }
        let entries = i32::try_from(count)?;
        // SAFETY: The device is valid and the table complete.
        let mapped = unsafe { ffi::usmbd_dma_map_sg(device.ib(), table.as_mut_ptr(), entries) };
        if mapped <= 0 {
            return Err(EIO);
        }
        // INVARIANT: Mapped just now.
        Ok(Self {
            table,
            mapped,
            length,
            device,
            _pages: pages,
        })
    }

    /// The table, for functions that only read it, and how many entries are mapped.
    pub(super) fn table(&self) -> (*mut ffi::scatterlist, i32) {
        (self.table.as_ptr().cast_mut(), self.mapped)
    }

    /// Pages mapped, whole or in part.
    pub(crate) fn pages(&self) -> usize {
        self.table.len()
    }

    /// Bytes mapped.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The device it is mapped for.
    pub(crate) fn device(&self) -> &DeviceUse {
        &self.device
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let Ok(count) = i32::try_from(self.table.len()) else {
            return;
        };
        // SAFETY: Mapped with as many entries, once, by the type invariants; memory regions on it
        // hold it.
        unsafe { ffi::usmbd_dma_unmap_sg(self.device.ib(), self.table.as_mut_ptr(), count) };
    }
}

/// Pages of memory that the machine has.
pub(crate) fn total_pages() -> usize {
    // SAFETY: Reads a number.
    unsafe { ffi::usmbd_total_pages() }
}
