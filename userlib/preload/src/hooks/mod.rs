// SPDX-License-Identifier: MIT OR Apache-2.0

//! The functions of the C library that this library stands in front of.
//!
//! Each looks whether the descriptor is ours, and else passes the call on as it is. A call on one of
//! ours never panics into C: what must not happen becomes EIO.
//!
//! Not there in unit tests, whose own calls they would answer.

mod connect;
mod control;
mod data;

use crate::{config, log};
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::OnceLock;

/// The settings, in a process that is meant; never set in any other.
static CONFIG: OnceLock<config::Config> = OnceLock::new();

/// The settings, if this process is meant.
fn active() -> Option<&'static config::Config> {
    CONFIG.get()
}

fn set_errno(code: i32) {
    // SAFETY: the address of errno is always valid in its thread.
    unsafe { *libc::__errno_location() = code };
}

/// What C gets of the outcome of a call on one of ours: -1 and errno, or the value and errno as it
/// was.
fn answer<T: From<i8>>(act: impl FnOnce() -> io::Result<T>) -> T {
    // SAFETY: the address of errno is always valid in its thread.
    let before = unsafe { *libc::__errno_location() };
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => {
            set_errno(before);
            value
        }
        Ok(Err(error)) => {
            set_errno(error.raw_os_error().unwrap_or(libc::EIO));
            T::from(-1)
        }
        Err(_) => {
            log::error(format_args!(
                "a mistake in this library (please report it); the call fails with EIO"
            ));
            set_errno(libc::EIO);
            T::from(-1)
        }
    }
}

/// Runs when the library is loaded, in every process that inherits LD_PRELOAD: looks only whether
/// this one is meant.
extern "C" fn initialise() {
    use std::ffi::{CStr, OsStr};
    use std::os::unix::ffi::OsStrExt;

    extern "C" {
        static program_invocation_short_name: *const libc::c_char;
    }
    // SAFETY: the C library sets it before constructors run, and nothing else runs now.
    let name = unsafe { program_invocation_short_name };
    if name.is_null() {
        return;
    }
    // SAFETY: a C string for the life of the process.
    let name = OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes());
    let outcome = catch_unwind(|| {
        let config = config::Config::read(|name| std::env::var_os(name));
        if config.is_meant(name) {
            crate::real::resolve();
            crate::process::initialise();
            log::initialise(&config);
            let _ = CONFIG.set(config);
        }
    });
    // A panic has said why; the process just stays as it is.
    drop(outcome);
}

#[used]
#[link_section = ".init_array"]
static INITIALISE: extern "C" fn() = initialise;
