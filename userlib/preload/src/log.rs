// SPDX-License-Identifier: MIT OR Apache-2.0

//! One line per thing to say, where the operator finds it.

use crate::config::{Config, Destination, Level};
use std::ffi::CString;
use std::fmt::Arguments;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

static LEVEL: AtomicU8 = AtomicU8::new(Level::Off as u8);
/// Where lines go: a descriptor, or [`SYSLOG`].
static TO: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);
const SYSLOG: RawFd = -1;

/// Takes the settings. A file is opened now: later the process has other rights.
pub fn initialise(config: &Config) {
    let to = match &config.destination {
        Destination::Automatic => match stderr_leads_anywhere() {
            true => libc::STDERR_FILENO,
            false => SYSLOG,
        },
        Destination::Stderr => libc::STDERR_FILENO,
        Destination::Syslog => SYSLOG,
        Destination::File(path) => open(path.as_os_str().as_bytes()).unwrap_or(SYSLOG),
    };
    TO.store(to, Ordering::Relaxed);
    LEVEL.store(config.level as u8, Ordering::Relaxed);
    for complaint in &config.complaints {
        error(format_args!("{complaint}"));
    }
}

fn stderr_leads_anywhere() -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: valid for writes of a `struct stat`.
    let result = unsafe { libc::fstat(libc::STDERR_FILENO, stat.as_mut_ptr()) };
    // SAFETY: all-zero is a valid `struct stat`, whether or not the call filled it.
    let stat = unsafe { stat.assume_init() };
    result == 0 && stat.st_rdev != libc::makedev(1, 3)
}

fn open(path: &[u8]) -> Option<RawFd> {
    let path = CString::new(path).ok()?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: a C string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    if fd < 0 {
        return None;
    }
    // Out of the way of programs that close the first descriptors when they start.
    // SAFETY: no memory is passed; the first descriptor is ours.
    unsafe {
        let high = libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 512);
        if high < 0 {
            return Some(fd);
        }
        libc::syscall(libc::SYS_close, fd);
        RawFd::try_from(high).ok()
    }
}

/// Whether lines of this level are logged.
pub fn is_on(level: Level) -> bool {
    LEVEL.load(Ordering::Relaxed) >= level as u8
}

/// Something that the operator has to do something about.
pub fn error(line: Arguments<'_>) {
    log(Level::Error, line);
}

/// Something that the operator may want to know.
pub fn info(line: Arguments<'_>) {
    log(Level::Info, line);
}

/// Something for somebody who looks for a mistake.
pub fn debug(line: Arguments<'_>) {
    log(Level::Debug, line);
}

fn log(level: Level, line: Arguments<'_>) {
    if !is_on(level) {
        return;
    }
    let to = TO.load(Ordering::Relaxed);
    if to == SYSLOG {
        let priority = libc::LOG_DAEMON
            | match level {
                Level::Off | Level::Error => libc::LOG_ERR,
                Level::Info => libc::LOG_INFO,
                Level::Debug => libc::LOG_DEBUG,
            };
        let text = CString::new(format!("usmbd preload: {line}")).unwrap_or_default();
        // SAFETY: a format that takes one string, and that string.
        unsafe { libc::syslog(priority, c"%s".as_ptr(), text.as_ptr()) };
        return;
    }
    let text = format!("usmbd preload[{}]: {line}\n", std::process::id());
    // One write, so that the lines of several processes do not mix. If it fails there is nobody to
    // tell.
    // SAFETY: valid for reads of its length.
    unsafe { libc::syscall(libc::SYS_write, to, text.as_ptr(), text.len()) };
}
