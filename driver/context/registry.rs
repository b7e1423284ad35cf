// SPDX-License-Identifier: GPL-2.0-only

//! All connections that have resources on a device, for the device's removal and for operators.

use super::connection::Connection;
use super::listener::Listener;
use crate::verbs::Device;
use core::fmt;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{global_lock, Arc};
use kernel::time::delay::fsleep;
use kernel::time::Delta;

global_lock! {
    // SAFETY: Initialised in `init`, before any listener can exist.
    unsafe(uninit) static CONNECTIONS: Mutex<KVec<Arc<Connection>>> = KVec::new();
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
    let mut connections = CONNECTIONS.lock();
    // Under the lock: a removal looks at the table after it has marked the device.
    if connection.device().removing() {
        return Err(ENODEV);
    }
    connections.push(connection.clone(), GFP_KERNEL)?;
    Ok(())
}

/// Removes a connection that has nothing on its device any more.
pub(crate) fn remove(number: u64) {
    let removed = {
        let mut connections = CONNECTIONS.lock();
        let at = connections
            .iter()
            .position(|connection| connection.number() == number);
        let removed = at.and_then(|at| connections.remove(at).ok());
        if connections.is_empty() {
            // A static is never dropped: its memory goes here, or leaks with the module.
            *connections = KVec::new();
        }
        removed
    };
    drop(removed);
}

/// Ends all connections on `device`, and sleeps until they are gone from it.
pub(crate) fn remove_device(device: &Arc<Device>) {
    loop {
        let mut left = false;
        for connection in CONNECTIONS.lock().iter() {
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

/// Ends all connections that came to `listener` and that nobody has accepted.
pub(crate) fn abandon(listener: &Arc<Listener>) {
    for connection in CONNECTIONS.lock().iter() {
        if connection.is_of(listener) {
            connection.abandon();
        }
    }
}

/// The table in debugfs: one line for each connection.
pub(crate) fn show(_: &(), out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for connection in CONNECTIONS.lock().iter() {
        connection.show(out)?;
    }
    Ok(())
}
