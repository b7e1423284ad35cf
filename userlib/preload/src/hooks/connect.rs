// SPDX-License-Identifier: MIT OR Apache-2.0

//! connect().

use super::data::hook;
use super::{active, answer};
use crate::table::{self, Kind};
use crate::{address, connector, real};
use libc::{c_int, sockaddr, socklen_t};
use std::io;

/// What connect() says of a descriptor that is ours already; `None` if it may begin (again).
fn state(fd: c_int) -> io::Result<Option<c_int>> {
    table::with(fd, |entry| match entry.kind {
        Kind::Connecting(_) => match entry.decide(fd, false) {
            Ok(true) => Ok(Some(0)),
            Ok(false) => Err(io::Error::from_raw_os_error(libc::EALREADY)),
            Err(error) => Err(error),
        },
        Kind::Failed => Ok(None),
        _ => Err(io::Error::from_raw_os_error(libc::EISCONN)),
    })
}

hook! { connect(fd: c_int, to: *const sockaddr, length: socklen_t) -> c_int {
    let Some(config) = active() else {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::connect(fd, to, length) };
    };
    // SAFETY: as libc's function of this name asks of its caller.
    match unsafe { address::read(to, length) } {
        Some(to) if config.is_connected_to(to) => answer(|| {
            if table::is_ours(fd, false) {
                if let Some(result) = state(fd)? {
                    return Ok(result);
                }
            }
            match connector::connect(config, fd, to)? {
                true => Ok(0),
                false => Err(io::Error::from_raw_os_error(libc::EINPROGRESS)),
            }
        }),
        // SAFETY: the caller's own arguments, handed on as they came.
        _ => unsafe { real::connect(fd, to, length) },
    }
} }
