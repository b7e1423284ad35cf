// SPDX-License-Identifier: GPL-2.0-only

//! How much memory all areas may take: of one user, and altogether.

use crate::verbs::total_pages;
use kernel::prelude::*;
use kernel::sync::global_lock;

/// Part of the machine's memory that all areas together may take: one in so many.
const DRIVER_SHARE: usize = 8;
/// Part of that which the areas of one user may take.
const USER_SHARE: usize = 2;

global_lock! {
    // SAFETY: Initialised in `init`, before any area can exist.
    unsafe(uninit) static USERS: Mutex<KVec<(u32, usize)>> = KVec::new();
}

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(super) unsafe fn init() {
    // SAFETY: By the caller's promise this is the only call.
    unsafe { USERS.init() };
}

/// Pages that are counted for a user; dropping it gives them back.
pub(super) struct Charge {
    uid: u32,
    pages: usize,
}

impl Charge {
    /// Counts `pages` more for `uid`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` at either limit.
    pub(super) fn new(uid: u32, pages: usize) -> Result<Self> {
        let driver_limit = total_pages() / DRIVER_SHARE;
        let mut users = USERS.lock();
        let all = users
            .iter()
            .fold(0usize, |sum, (_, pages)| sum.saturating_add(*pages));
        let own = users.iter().position(|(user, _)| *user == uid);
        let has = own
            .and_then(|at| users.get(at))
            .map_or(0, |(_, pages)| *pages);
        let has = has.saturating_add(pages);
        if all.saturating_add(pages) > driver_limit || has > driver_limit / USER_SHARE {
            return Err(ENOMEM);
        }
        match own.and_then(|at| users.get_mut(at)) {
            Some(entry) => entry.1 = has,
            None => users.push((uid, has), GFP_KERNEL)?,
        }
        Ok(Self { uid, pages })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut users = USERS.lock();
        for entry in users.iter_mut() {
            if entry.0 == self.uid {
                entry.1 = entry.1.saturating_sub(self.pages);
            }
        }
        users.retain(|(_, pages)| *pages > 0);
        if users.is_empty() {
            // A static is never dropped: its memory goes here, or leaks with the module.
            *users = KVec::new();
        }
    }
}
