// SPDX-License-Identifier: MIT OR Apache-2.0

//! connect().

use super::data::hook;
use super::{active, answer};
use crate::config::Config;
use crate::table::{self, Kind};
use crate::{address, connector, real};
use libc::{c_int, sockaddr, socklen_t};
use std::io;
use std::net::SocketAddr;

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

/// Whether this connect() is to be by SMB Direct. Not on a datagram socket: that only asks for the
/// way there.
fn is_meant(config: &Config, fd: c_int, to: SocketAddr) -> bool {
    config.is_connected_to(to) && (table::is_ours(fd, false) || is_stream(fd))
}

pub(super) fn is_stream(fd: c_int) -> bool {
    let mut kind: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // SAFETY: both pointers are to variables of the right size.
    let result = unsafe {
        real::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    result == 0 && kind == libc::SOCK_STREAM
}

hook! { connect(fd: c_int, to: *const sockaddr, length: socklen_t) -> c_int {
    let Some(config) = active() else {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::connect(fd, to, length) };
    };
    // SAFETY: as libc's function of this name asks of its caller.
    match unsafe { address::read(to, length) } {
        Some(to) if is_meant(config, fd, to) => answer(|| {
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
