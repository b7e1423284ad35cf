// SPDX-License-Identifier: GPL-2.0-only

//! All connections that have resources on a device, for the device's removal and for operators.

use super::connection::Connection;
use super::listener::Listener;
use crate::verbs::{Device, Net};
use core::fmt;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{global_lock, Arc, GlobalGuard};
use kernel::time::delay::fsleep;
use kernel::time::Delta;

type Table = RBTree<u64, Arc<Connection>>;

global_lock! {
    // SAFETY: Initialised in `init`, before any listener can exist.
    unsafe(uninit) static CONNECTIONS: Mutex<Option<Table>> = None;
}

static NEXT_NUMBER: Atomic<i64> = Atomic::new(1);

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise this is the only call.
    unsafe { CONNECTIONS.init() };
}

/// A number that no connection had before.
pub(crate) fn next_number() -> u64 {
    NEXT_NUMBER.fetch_add(1, Relaxed).unsigned_abs()
}

/// Adds a connection.
///
/// # Errors
///
/// `ENOMEM`; `ENODEV` if its device is going away.
pub(crate) fn insert(connection: &Arc<Connection>) -> Result {
    let node = RBTreeNode::new(connection.number(), connection.clone(), GFP_KERNEL)?;
    let mut connections = CONNECTIONS.lock();
    // Under the lock: a removal looks at the table after it has marked the device.
    if connection.device().removing() {
        drop(connections);
        drop(node);
        return Err(ENODEV);
    }
    connections.get_or_insert_with(RBTree::new).insert(node);
    Ok(())
}

/// Removes a connection that has nothing on its device any more.
pub(crate) fn remove(number: u64) {
    let removed = CONNECTIONS
        .lock()
        .as_mut()
        .and_then(|connections| connections.remove_node(&number));
    drop(removed);
}

/// Ends all connections on `device`, and sleeps until they are gone from it.
pub(crate) fn remove_device(device: &Arc<Device>) {
    loop {
        let mut left = false;
        for connection in CONNECTIONS.lock().iter().flat_map(RBTree::values) {
            if Arc::ptr_eq(connection.device(), device) {
                left = true;
                connection.device_removed();
            }
        }
        if !left {
            return;
        }
        fsleep(Delta::from_millis(2));
    }
}

/// Calls `each` with the connections of a network namespace whose numbers are greater than `after`,
/// in the order of these, until it says that it wants no more. Returns how many there are besides.
///
/// # Errors
///
/// What `each` says; `EAGAIN` if somebody else is at the table and `nowait` is set.
pub(crate) fn list(
    net: &Net,
    after: u64,
    nowait: bool,
    mut each: impl FnMut(&Arc<Connection>) -> Result<bool>,
) -> Result<u32> {
    let connections = lock(nowait)?;
    let mut left = 0u32;
    let mut wanted = true;
    let Some(table) = connections.as_ref() else {
        return Ok(0);
    };
    for (number, connection) in table.iter() {
        if *number <= after || !connection.is_in(net) {
            continue;
        }
        wanted = wanted && each(connection)?;
        left = left.saturating_add(u32::from(!wanted));
    }
    Ok(left)
}

/// The connection with this number, if it came in in this network namespace.
///
/// # Errors
///
/// `ENOENT`; `EAGAIN` if somebody else is at the table and `nowait` is set.
pub(crate) fn find(net: &Net, number: u64, nowait: bool) -> Result<Arc<Connection>> {
    let connections = lock(nowait)?;
    let found = connections.as_ref().and_then(|table| table.get(&number));
    match found {
        Some(connection) if connection.is_in(net) => Ok(connection.clone()),
        _ => Err(ENOENT),
    }
}

fn lock(nowait: bool) -> Result<GlobalGuard<CONNECTIONS>> {
    if nowait {
        CONNECTIONS.try_lock().ok_or(EAGAIN)
    } else {
        Ok(CONNECTIONS.lock())
    }
}

/// Ends all connections that came to `listener` and that nobody has accepted.
pub(crate) fn abandon(listener: &Arc<Listener>) {
    for connection in CONNECTIONS.lock().iter().flat_map(RBTree::values) {
        if connection.is_of(listener) {
            connection.abandon();
        }
    }
}

/// The table in debugfs: one line for each connection.
pub(crate) fn show(_: &(), out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for connection in CONNECTIONS.lock().iter().flat_map(RBTree::values) {
        connection.show(out)?;
    }
    Ok(())
}
