// SPDX-License-Identifier: GPL-2.0-only

//! Memory of its own that a process registered: pinned, and named by a handle.
//!
//! It is cut into blocks like the buffers of an area, so that no step of pinning, mapping or
//! registering depends on how much a process asks for.

use super::block::Block;
use super::limits::{Account, Charge};
use super::{BLOCK, PAGES};
use crate::verbs::{Hold, PageList, PinnedCount, UserPages};
use kernel::mm::Mm;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, SetOnce};

/// The first handle; the numbers below are buffers'.
pub(super) const FIRST_HANDLE: u32 = 1 << 31;
/// Registrations that one process can have.
pub(super) const MAX_REGISTRATIONS: usize = 1024;

/// Who is told that nothing uses a registration any more. In a context that may sleep.
pub(crate) trait Unregistered: Send + Sync {
    /// Its pages are unpinned.
    fn unregistered(&self);
}

/// Tells it in the end, if somebody wants to know.
struct Notice(SetOnce<KBox<dyn Unregistered>>);

impl Drop for Notice {
    fn drop(&mut self) {
        if let Some(wanted) = self.0.as_ref() {
            wanted.unregistered();
        }
    }
}

/// What a registration takes from its process as long as any of its pages is pinned.
struct Lease {
    // In the order in which they go.
    _charge: Charge,
    _count: PinnedCount,
    notice: Notice,
}

impl Hold for Lease {}

/// See the module's documentation.
pub(super) struct Registered {
    blocks: KVec<Arc<Block>>,
    /// Where in its first page it begins.
    origin: u32,
    length: u64,
    lease: Arc<Lease>,
}

impl Registered {
    /// Pins `length` bytes, at least one, from `address` on, of the calling process, whose `mm` it
    /// is.
    ///
    /// # Errors
    ///
    /// `EFAULT` if some of it is not mapped, may not be written or cannot be pinned; `ENOMEM`, also
    /// at a limit, of which RLIMIT_MEMLOCK is one unless the caller is `exempt`; `EINTR` if the
    /// process is being killed.
    pub(super) fn pin(
        mm: ARef<Mm>,
        account: &Arc<Account>,
        address: u64,
        length: u64,
        exempt: bool,
    ) -> Result<Arc<Self>> {
        let page = PAGE_SIZE as u64;
        let origin = address % page;
        let bytes = usize::try_from(origin.checked_add(length).ok_or(EFAULT)?)?;
        let pages = bytes.div_ceil(PAGE_SIZE);
        let lease = Arc::new(
            Lease {
                _charge: Charge::new(account, pages)?,
                _count: PinnedCount::new(mm, pages, exempt)?,
                notice: Notice(SetOnce::new()),
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let count = pages.div_ceil(PAGES);
        let mut blocks = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        let mut from = address.saturating_sub(origin);
        let mut start = usize::try_from(origin)?;
        let mut left = bytes;
        while left > 0 {
            let end = left.min(BLOCK);
            let pinned = UserPages::pin(from, end.div_ceil(PAGE_SIZE), lease.clone())?;
            let block = Block::new(PageList::User(pinned), start..end)?;
            blocks.push(
                Arc::pin_init(block, GFP_KERNEL_ACCOUNT)?,
                GFP_KERNEL_ACCOUNT,
            )?;
            from = from.checked_add(BLOCK as u64).ok_or(EFAULT)?;
            start = 0;
            left = left.saturating_sub(end);
        }
        Ok(Arc::new(
            Self {
                blocks,
                origin: u32::try_from(origin)?,
                length,
                lease,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// Bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Where its first byte stands in its first block.
    pub(super) fn origin(&self) -> u32 {
        self.origin
    }

    /// One of its blocks; all but the last are whole.
    pub(super) fn block(&self, index: usize) -> Option<&Arc<Block>> {
        self.blocks.get(index)
    }

    /// Has somebody told when nothing uses it any more. Only the first one is.
    pub(super) fn tell(&self, wanted: KBox<dyn Unregistered>) {
        self.lease.notice.0.populate(wanted);
    }

    pub(super) fn remove_device(&self, device: &Arc<crate::verbs::Device>) {
        for block in &self.blocks {
            block.remove_device(device);
        }
    }

    /// Nobody can name it any more.
    pub(super) fn retire(&self) {
        for block in &self.blocks {
            block.retire();
        }
    }
}
