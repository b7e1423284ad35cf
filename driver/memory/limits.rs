// SPDX-License-Identifier: GPL-2.0-only

//! How much memory areas and registrations may take: of one process, of one user, and altogether.

use crate::verbs::total_pages;
use core::fmt::{self, Write};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{global_lock, Arc};
use kernel::task::Kuid;

/// Part of the machine's memory that all together may take: one in so many.
const DRIVER_SHARE: usize = 8;
/// Part of that which one user may take.
const USER_SHARE: usize = 2;

/// What the operator set, in MiB; zero for the default.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Of all processes; by default an eighth of the machine's memory.
    pub(crate) driver: u32,
    /// Of all processes of one user; by default half of the driver's.
    pub(crate) user: u32,
    /// Of one process; by default as the user's.
    pub(crate) process: u32,
}

/// In pages.
#[derive(Clone, Copy)]
struct Limits {
    driver: usize,
    user: usize,
    process: usize,
}

struct Table {
    limits: Limits,
    /// Pages of each user that has any.
    users: KVec<(Kuid, usize)>,
}

global_lock! {
    // SAFETY: Initialised in `init`, before any area can exist.
    unsafe(uninit) static TABLE: Mutex<Table> = Table {
        limits: Limits { driver: 0, user: 0, process: 0 },
        users: KVec::new(),
    };
}

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(super) unsafe fn init(settings: &Settings) {
    // SAFETY: By the caller's promise this is the only call.
    unsafe { TABLE.init() };
    let pages = |mib: u32, default: usize| match mib {
        0 => default,
        _ => (mib as usize).saturating_mul((1 << 20) / PAGE_SIZE),
    };
    let driver = pages(settings.driver, total_pages() / DRIVER_SHARE);
    let user = pages(settings.user, driver / USER_SHARE);
    TABLE.lock().limits = Limits {
        driver,
        user,
        process: pages(settings.process, user),
    };
}

/// Whose pages are counted: those of one process, for a user.
pub(super) struct Account {
    uid: Kuid,
    /// Changes under the table's lock only.
    pages: Atomic<usize>,
}

impl Account {
    pub(super) fn new(uid: Kuid) -> Result<Arc<Self>> {
        let pages = Atomic::new(0);
        Ok(Arc::new(Self { uid, pages }, GFP_KERNEL_ACCOUNT)?)
    }
}

/// Pages that are counted; dropping it gives them back.
pub(super) struct Charge {
    account: Arc<Account>,
    pages: usize,
}

impl Charge {
    /// Counts `pages` more.
    ///
    /// # Errors
    ///
    /// `ENOMEM` at a limit.
    pub(super) fn new(account: &Arc<Account>, pages: usize) -> Result<Self> {
        let mut table = TABLE.lock();
        let Table { limits, users } = &mut *table;
        let all = users
            .iter()
            .fold(pages, |sum, (_, pages)| sum.saturating_add(*pages));
        let entry = users.iter_mut().find(|(uid, _)| *uid == account.uid);
        let user = entry.as_ref().map_or(0, |entry| entry.1);
        let user = user.saturating_add(pages);
        let process = account.pages.load(Relaxed).saturating_add(pages);
        if all > limits.driver || user > limits.user || process > limits.process {
            return Err(ENOMEM);
        }
        match entry {
            Some(entry) => entry.1 = user,
            None => users.push((account.uid, user), GFP_KERNEL)?,
        }
        account.pages.store(process, Relaxed);
        Ok(Self {
            account: account.clone(),
            pages,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        let own = &self.account.pages;
        own.store(own.load(Relaxed).saturating_sub(self.pages), Relaxed);
        let users = &mut table.users;
        for entry in users.iter_mut() {
            if entry.0 == self.account.uid {
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

/// Writes the limits and what is used of them, in pages.
pub(super) fn show(out: &mut impl Write) -> fmt::Result {
    let table = TABLE.lock();
    let Limits {
        driver,
        user,
        process,
    } = table.limits;
    let all = table
        .users
        .iter()
        .fold(0usize, |sum, (_, pages)| sum.saturating_add(*pages));
    writeln!(out, "driver_limit {driver}")?;
    writeln!(out, "user_limit {user}")?;
    writeln!(out, "process_limit {process}")?;
    writeln!(out, "pages {all}")?;
    for (uid, pages) in table.users.iter() {
        writeln!(out, "user_{} {pages}", uid.into_uid_in_current_ns())?;
    }
    Ok(())
}
