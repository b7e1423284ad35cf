// SPDX-License-Identifier: GPL-2.0-only

//! One buffer of an area.

use super::block::Block;
use super::limits::{Account, Charge};
use super::{BLOCK, PAGES};
use crate::verbs::PageList;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::Arc;

/// Memory of one buffer.
#[pin_data]
pub(super) struct Buffer {
    #[pin]
    block: Block,
    /// [`Pinned`]s. The first begins under the area's lock only.
    pins: Atomic<i64>,
    /// When it was last used, as [`seconds`] counts.
    last_used: Atomic<i64>,
    _charge: Charge,
}

/// Seconds since boot.
fn seconds() -> i64 {
    // SAFETY: Reading the monotonic clock has no preconditions.
    unsafe { bindings::ktime_get_seconds() }
}

impl Buffer {
    /// Zeroed memory, charged to the calling task's cgroup and counted in `account`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn allocate(account: &Arc<Account>) -> Result<Arc<Self>> {
        let charge = Charge::new(account, PAGES)?;
        let block = Block::new(PageList::allocate(PAGES)?, 0..BLOCK)?;
        Arc::pin_init(
            pin_init!(Self {
                block <- block,
                pins: Atomic::new(0),
                last_used: Atomic::new(seconds()),
                _charge: charge,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(super) fn block(&self) -> &Block {
        &self.block
    }

    /// Somebody uses it now.
    fn touch(&self) {
        self.last_used.store(seconds(), Relaxed);
    }

    /// Whether its memory may be given back, after so many seconds without use; see the module's
    /// documentation. Under the area's lock, so that no pin begins.
    pub(super) fn is_idle(&self, idle_seconds: i64) -> bool {
        if self.pins.load(Acquire) != 0 || !self.block.pages().is_unshared() {
            self.touch();
            return false;
        }
        seconds().saturating_sub(self.last_used.load(Relaxed)) >= idle_seconds
    }
}

/// Keeps a buffer in its area: a transfer moves it, and the process must find the data there.
///
/// # Invariants
///
/// Counted in the buffer's `pins`.
pub(super) struct Pinned(Arc<Buffer>);

impl Pinned {
    /// The caller holds the lock of the area that the buffer is in.
    pub(super) fn new(buffer: Arc<Buffer>) -> Self {
        // Used until it is dropped: no need to look at the clock now.
        buffer.pins.fetch_add(1, Relaxed);
        // INVARIANT: Counted just now.
        Self(buffer)
    }
}

impl Clone for Pinned {
    fn clone(&self) -> Self {
        // It is pinned already, so no lock is needed.
        Self::new(self.0.clone())
    }
}

impl core::ops::Deref for Pinned {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        &self.0
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.touch();
        self.0.pins.fetch_sub(1, Release);
    }
}
