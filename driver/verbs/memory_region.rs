// SPDX-License-Identifier: GPL-2.0-only

//! Memory regions: pages under one key.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{ffi, Mapping};
use core::ptr::{self, NonNull};
use kernel::{error::from_err_ptr, page::PAGE_SIZE, prelude::*, sync::Arc};

/// Who may do what with a region's key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only we, with the local key: the region has no remote key.
    Local,
    /// The peer may write by the key too: iWARP wants that for the sink of an RDMA read. Only for
    /// a region of one read, invalidated (or dropped) when the read completed.
    RemoteWrite,
}

/// A memory region on the driver's protection domain, for fast registration.
///
/// The key works once a [`Chain::push_register`](super::Chain::push_register) of it has completed
/// (on the posting queue pair: for requests behind it), and until the region is dropped or the key
/// invalidated. It outlives the queue pair that registered it. A region is registered once: whether
/// a failed registration took effect cannot be told, so the next attempt takes a new region.
///
/// # Invariants
///
/// `mr` is valid, ours to free, and describes all of `mapping`.
pub(crate) struct MemoryRegion {
    mr: NonNull<ffi::ib_mr>,
    access: Access,
    mapping: Arc<Mapping>,
}

// SAFETY: Functions on memory regions may be called from any thread.
unsafe impl Send for MemoryRegion {}
// SAFETY: As above; a shared region does not change.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Allocates a region for all pages of `mapping`.
    ///
    /// # Errors
    ///
    /// `E2BIG` when the device cannot take so many pages in one region, `ENOMEM` when it has no region
    /// left, `EIO` when it cannot take these pages. Each provider has numbers of its own for that.
    pub(crate) fn allocate(mapping: Arc<Mapping>, access: Access) -> Result<Self> {
        let pages = u32::try_from(mapping.pages())?;
        if pages > mapping.device().device().limits().max_fast_reg_pages {
            return Err(E2BIG);
        }
        let pd = mapping.device().pd();
        // SAFETY: The protection domain is valid.
        let mr = from_err_ptr(unsafe {
            ffi::ib_alloc_mr(pd, ffi::ib_mr_type_IB_MR_TYPE_MEM_REG, pages)
        })
        .map_err(|_| ENOMEM)?;
        let mr = NonNull::new(mr).ok_or(ENOMEM)?;

        let (table, mapped) = mapping.table();
        // SAFETY: The table has `mapped` mapped entries and is only read.
        let taken = unsafe {
            let page_size = u32::try_from(PAGE_SIZE).unwrap_or(4096);
            ffi::ib_map_mr_sg(mr.as_ptr(), table, mapped, ptr::null_mut(), page_size)
        };
        // INVARIANT: Valid and ours; if it does not describe everything, it is dropped at once.
        let region = Self {
            mr,
            access,
            mapping,
        };
        if taken != mapped {
            return Err(if taken < 0 { EIO } else { E2BIG });
        }
        Ok(region)
    }

    /// The local key.
    pub(crate) fn lkey(&self) -> u32 {
        // SAFETY: Valid by the type invariants.
        unsafe { (*self.mr.as_ptr()).lkey }
    }

    /// The key to register and invalidate by.
    pub(crate) fn key(&self) -> u32 {
        // SAFETY: Valid by the type invariants.
        unsafe { (*self.mr.as_ptr()).rkey }
    }

    /// The address of its first byte, to go with the key.
    pub(crate) fn base(&self) -> u64 {
        // SAFETY: Valid by the type invariants.
        unsafe { (*self.mr.as_ptr()).iova }
    }

    /// Bytes.
    pub(crate) fn length(&self) -> usize {
        self.mapping.length()
    }

    /// Who may do what.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::ib_mr {
        self.mr.as_ptr()
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: Ours to free, by the type invariants. Afterwards the mapping, and then the pages.
        let error = unsafe { ffi::ib_dereg_mr_user(self.as_ptr(), ptr::null_mut()) };
        if error != 0 {
            pr_warn!("memory region cannot be freed: {error}\n");
            // The device may still reach the pages: keep them.
            core::mem::forget(self.mapping.clone());
        }
    }
}
