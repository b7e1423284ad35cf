// SPDX-License-Identifier: GPL-2.0-only

//! The driver's clock: milliseconds since boot, as the engine counts them.

use kernel::bindings;
use kernel::time::{ClockSource, RealTime};
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

/// Now, by the calendar, as SMB counts it: units of 100 ns since 1601.
pub(crate) fn file_time() -> u64 {
    const UNIX_EPOCH: u64 = 11_644_473_600 * 10_000_000;
    let nanoseconds = <RealTime as ClockSource>::ktime_get();
    (nanoseconds / 100).unsigned_abs().wrapping_add(UNIX_EPOCH)
}
