// SPDX-License-Identifier: GPL-2.0-only

//! Memory of a process that is pinned for a device, and how much of it a process may have.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::ffi;
use kernel::{
    bindings,
    error::to_result,
    mm::Mm,
    page::PAGE_SIZE,
    prelude::*,
    sync::{aref::ARef, Arc},
};

/// What has to outlive pages: it is dropped when they are unpinned.
pub(crate) trait Hold: Send + Sync {}

/// Pages of a process, pinned for good: they stay where they are, whatever the process does.
///
/// # Invariants
///
/// Each of `pages` is pinned once, by `FOLL_PIN`.
pub(crate) struct UserPages {
    pages: KVec<*mut bindings::page>,
    _hold: Arc<dyn Hold>,
}

// SAFETY: Pages may be unpinned by any task.
unsafe impl Send for UserPages {}
// SAFETY: As above; the list does not change.
unsafe impl Sync for UserPages {}

impl UserPages {
    /// Pins the `count` pages from `address` on, which is the start of a page, of the calling
    /// process, for reading and writing. Sleeps, and takes `count` pointers' memory at once: call
    /// it in steps.
    ///
    /// # Errors
    ///
    /// `EFAULT` if one is not mapped, may not be written, or cannot stay where it is for long;
    /// `ENOMEM`; `EINTR` if the process is being killed. Nothing is pinned then.
    pub(crate) fn pin(address: u64, count: usize, hold: Arc<dyn Hold>) -> Result<Self> {
        let list = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        // INVARIANT: There is none yet. An error drops those that there are by then.
        let mut pinned = Self {
            pages: list,
            _hold: hold,
        };
        while pinned.pages.len() < count {
            pinned.pin_more(address, count)?;
        }
        Ok(pinned)
    }

    fn pin_more(&mut self, address: u64, count: usize) -> Result {
        // SAFETY: Both may be called by any task that may sleep.
        let killed = unsafe {
            ffi::usmbd_cond_resched();
            ffi::usmbd_fatal_signal_pending()
        };
        if killed {
            return Err(EINTR);
        }
        let done = self.pages.len();
        let start = done
            .checked_mul(PAGE_SIZE)
            .and_then(|bytes| address.checked_add(bytes as u64))
            .and_then(|start| usize::try_from(start).ok())
            .ok_or(EFAULT)?;
        let room = self.pages.spare_capacity_mut();
        let wanted = count.saturating_sub(done).min(room.len());
        let place = room.as_mut_ptr().cast();
        // SAFETY: There is room for `wanted` pointers at `place`; the caller is a process in a
        // system call.
        let pinned = unsafe {
            let flags = bindings::FOLL_WRITE | bindings::FOLL_LONGTERM;
            bindings::pin_user_pages_fast(start, i32::try_from(wanted)?, flags, place)
        };
        match to_result(pinned.min(0)) {
            Ok(()) => {}
            Err(error) if error == ENOMEM || error == EINTR => return Err(error),
            Err(_) => return Err(EFAULT),
        }
        let pinned = usize::try_from(pinned).unwrap_or(0).min(wanted);
        if pinned == 0 {
            return Err(EFAULT);
        }
        // SAFETY: The first `pinned` of the spare places were filled just now.
        // INVARIANT: And these pages pinned.
        unsafe { self.pages.inc_len(pinned) };
        Ok(())
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.pages.len()
    }

    /// One of them, valid as long as they are pinned.
    pub(super) fn get(&self, index: usize) -> Option<*mut bindings::page> {
        self.pages.get(index).copied()
    }
}

impl Drop for UserPages {
    fn drop(&mut self) {
        let count = self.pages.len();
        // SAFETY: All are pinned, by the type invariants, and no device reaches them any more. They
        // may have been written.
        unsafe {
            bindings::unpin_user_pages_dirty_lock(self.pages.as_mut_ptr(), count, true);
        }
    }
}

/// Pages that are counted as pinned by a process, as the RDMA core counts those of user-space RDMA:
/// in `mm->pinned_vm`, against RLIMIT_MEMLOCK. Dropping it gives them back.
///
/// # Invariants
///
/// `pages` are counted in `mm`.
pub(crate) struct PinnedCount {
    mm: ARef<Mm>,
    pages: i64,
}

impl PinnedCount {
    /// Counts `pages` more for `mm`, which is the calling process's.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if that is more than RLIMIT_MEMLOCK of the calling process allows, unless it is
    /// `exempt`.
    pub(crate) fn new(mm: ARef<Mm>, pages: usize, exempt: bool) -> Result<Self> {
        let pages = i64::try_from(pages).map_err(|_| ENOMEM)?;
        // SAFETY: The mm is valid as long as it is referenced.
        let all = unsafe { ffi::usmbd_pinned_pages_add(mm.as_raw(), pages) };
        // INVARIANT: Counted just now.
        let counted = Self { mm, pages };
        // SAFETY: Reads a number of the calling process.
        let limit = unsafe { ffi::usmbd_memlock_limit() };
        if !exempt && u64::try_from(all).map_err(|_| ENOMEM)? > limit as u64 {
            return Err(ENOMEM);
        }
        Ok(counted)
    }
}

impl Drop for PinnedCount {
    fn drop(&mut self) {
        // SAFETY: The mm is valid as long as it is referenced; counted by the type invariants.
        unsafe { ffi::usmbd_pinned_pages_add(self.mm.as_raw(), self.pages.saturating_neg()) };
    }
}

/// Whether the opener of `file` may pin memory beyond RLIMIT_MEMLOCK: has CAP_IPC_LOCK in the
/// initial user namespace. The caller's own credentials play no part.
pub(crate) fn opener_may_lock_memory(file: &kernel::fs::File) -> bool {
    let Ok(capability) = i32::try_from(ffi::CAP_IPC_LOCK) else {
        return false;
    };
    // SAFETY: The file is valid.
    unsafe { ffi::usmbd_file_capable(file.as_ptr(), capability) }
}
