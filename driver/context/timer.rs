// SPDX-License-Identifier: GPL-2.0-only

//! The driver's clock: milliseconds since boot, as the engine counts them.

use kernel::bindings;
use usmbd_engine::Time;

/// Now.
pub(crate) fn now() -> Time {
    // SAFETY: Reading the monotonic clock has no preconditions.
    let nanoseconds = unsafe { bindings::ktime_get() };
    Time((nanoseconds / 1_000_000).unsigned_abs())
}

/// `milliseconds` after `time`.
pub(crate) fn after(time: Time, milliseconds: u64) -> Time {
    Time(time.0.saturating_add(milliseconds))
}
