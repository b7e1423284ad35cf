// SPDX-License-Identifier: MIT OR Apache-2.0

//! Calls that make, end and ask about descriptors.

use super::connect::is_stream;
use super::data::hook;
use super::{active, answer};
use crate::connection::Side;
use crate::table::{self, Kind};
use crate::{address, listener, real};
use libc::{c_int, c_long, c_ulong, c_void, epoll_event, sockaddr, socklen_t, TIOCOUTQ};
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

/// The retransmission timeout that TCP_INFO tells, in microseconds: smbd waits that long for the
/// answer to a break before it tries another channel.
const RETRANSMISSION_TIMEOUT: u32 = 200_000;
/// The local port that getsockname() tells: with another than 139, smbd offers large requests.
const LOCAL_PORT: u16 = 445;

// SAFETY, of all below: ours read and write exactly the memory that the C library's would, by the
// same contract with the caller, and all others are passed on as they came.

hook! { bind(fd: c_int, to: *const sockaddr, length: socklen_t) -> c_int {
    let Some(config) = active() else {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::bind(fd, to, length) };
    };
    // SAFETY: as libc's function of this name asks of its caller.
    match unsafe { address::read(to, length) } {
        // A datagram socket of that port is not SMB's.
        Some(to) if config.is_bound_to(to) && is_stream(fd) => {
            answer(|| listener::bind(config, fd, to).map(|()| 0))
        }
        // SAFETY: the caller's own arguments, handed on as they came.
        _ => unsafe { real::bind(fd, to, length) },
    }
} }

hook! { listen(fd: c_int, backlog: c_int) -> c_int {
    if table::is_ours(fd, false) {
        return 0;
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::listen(fd, backlog) }
} }

fn take_next(fd: RawFd, to: *mut sockaddr, length: *mut socklen_t) -> io::Result<c_int> {
    let config = active().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    table::with(fd, |entry| match entry.kind {
        Kind::Listener => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    })?;
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFL) };
    let wait = flags & c_long::from(libc::O_NONBLOCK) == 0;
    let (connection, peer) = listener::accept(config, fd, wait)?;
    if let Some(peer) = peer {
        // SAFETY: by accept()'s contract with the caller.
        unsafe { address::write(peer, to, length) };
    }
    Ok(connection)
}

hook! { accept(fd: c_int, to: *mut sockaddr, length: *mut socklen_t) -> c_int {
    if table::is_ours(fd, false) {
        return answer(|| take_next(fd, to, length));
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::accept(fd, to, length) }
} }

hook! { accept4(fd: c_int, to: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int {
    if table::is_ours(fd, false) {
        // The descriptor has FD_CLOEXEC in any case; whoever wants O_NONBLOCK is no smbd.
        return answer(|| take_next(fd, to, length));
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::accept4(fd, to, length, flags) }
} }

hook! { close(fd: c_int) -> c_int {
    if table::is_listed(fd) && table::is_ours(fd, false) {
        let _: c_int = answer(|| {
            table::with(fd, |entry| {
                // In a child that never used it there is nothing to wait for.
                if let Kind::Connection(connection) = &mut entry.kind {
                    connection.close();
                }
                Ok(())
            })?;
            table::remove(fd);
            Ok(0)
        });
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::close(fd) }
} }

/// After a descriptor was made a copy of another one.
fn copied(from: c_int, to: c_int) -> c_int {
    if to >= 0 && from != to && table::is_engaged() {
        let _: c_int = answer(|| {
            table::copied(from, to);
            Ok(0)
        });
    }
    to
}

hook! { dup(fd: c_int) -> c_int {
    // SAFETY: the caller's own arguments, handed on as they came.
    copied(fd, unsafe { real::dup(fd) })
} }

hook! { dup2(fd: c_int, to: c_int) -> c_int {
    // SAFETY: the caller's own arguments, handed on as they came.
    copied(fd, unsafe { real::dup2(fd, to) })
} }

hook! { dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    // SAFETY: the caller's own arguments, handed on as they came.
    copied(fd, unsafe { real::dup3(fd, to, flags) })
} }

fn after_fcntl(fd: c_int, command: c_int, result: c_int) -> c_int {
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => copied(fd, result),
        _ => result,
    }
}

// The third argument may be absent; what stands in its register then nobody looks at.
hook! { fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: the caller's own arguments, handed on as they came.
    after_fcntl(fd, command, unsafe { real::fcntl(fd, command, argument) })
} }

hook! { fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: the caller's own arguments, handed on as they came.
    after_fcntl(fd, command, unsafe { real::fcntl64(fd, command, argument) })
} }

hook! { epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    if !table::is_ours(fd, false) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::epoll_ctl(epoll, operation, fd, event) };
    }
    let registered = if operation == libc::EPOLL_CTL_DEL || event.is_null() {
        None
    } else {
        // SAFETY: as libc's function of this name asks of its caller.
        Some(unsafe { ((*event).events, (*event).u64) })
    };
    let mut wanted = None;
    let outcome: c_int = answer(|| {
        table::with(fd, |entry| {
            wanted = entry.register(epoll, registered);
            Ok(0)
        })
    });
    match (outcome, wanted, registered) {
        (0, Some(events), Some((_, data))) => {
            let mut event = epoll_event { events, u64: data };
            // SAFETY: the caller's own arguments, handed on as they came.
            unsafe { real::epoll_ctl(epoll, operation, fd, &raw mut event) }
        }
        // SAFETY: the caller's own arguments, handed on as they came.
        _ => unsafe { real::epoll_ctl(epoll, operation, fd, event) },
    }
} }

fn address_of(fd: c_int, is_peer: bool) -> io::Result<SocketAddr> {
    let not_connected = || io::Error::from_raw_os_error(libc::ENOTCONN);
    let known = table::with_connection(fd, |connection| {
        Ok((connection.status()?, connection.side()))
    });
    let (status, side) = known.map_err(|_| not_connected())?;
    if is_peer {
        return status.peer.ok_or_else(not_connected);
    }
    let mut local = status.local.ok_or_else(not_connected)?;
    if side == Side::Server {
        local.set_port(LOCAL_PORT);
    }
    Ok(local)
}

fn name(fd: c_int, is_peer: bool, to: *mut sockaddr, length: *mut socklen_t) -> c_int {
    answer(|| {
        let found = address_of(fd, is_peer)?;
        // SAFETY: by the contract of getpeername() and getsockname() with the caller.
        unsafe { address::write(found, to, length) };
        Ok(0)
    })
}

hook! { getpeername(fd: c_int, to: *mut sockaddr, length: *mut socklen_t) -> c_int {
    if table::is_ours(fd, true) {
        return name(fd, true, to, length);
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::getpeername(fd, to, length) }
} }

hook! { getsockname(fd: c_int, to: *mut sockaddr, length: *mut socklen_t) -> c_int {
    if table::is_ours(fd, true) {
        return name(fd, false, to, length);
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::getsockname(fd, to, length) }
} }

/// Puts `value` where getsockopt() shall put it, cut at the room there is.
///
/// # Safety
///
/// If neither is null, `length` is valid for reads and writes, and `to` for writes of as many bytes.
unsafe fn put(value: &[u8], to: *mut c_void, length: *mut socklen_t) {
    if to.is_null() || length.is_null() {
        return;
    }
    // SAFETY: by the contract.
    unsafe {
        let room = (*length as usize).min(value.len());
        std::ptr::copy_nonoverlapping(value.as_ptr(), to.cast(), room);
        *length = room as socklen_t;
    }
}

/// SO_ERROR: why a connect failed, once; or how the connection ended, if not in order.
fn error_of(fd: c_int) -> c_int {
    match table::with_connection(fd, |connection| Ok(connection.error())) {
        Ok(error) => error,
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOTCONN) | None => 0,
            Some(code) => code,
        },
    }
}

hook! { getsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    to: *mut c_void,
    length: *mut socklen_t
) -> c_int {
    if !table::is_ours(fd, true) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::getsockopt(fd, level, option, to, length) };
    }
    answer(|| {
        if (level, option) == (libc::IPPROTO_TCP, libc::TCP_INFO) {
            // struct tcp_info: eight bytes, then tcpi_rto; the rest smbd does not look at.
            let mut info = [0; 104];
            info[8..12].copy_from_slice(&RETRANSMISSION_TIMEOUT.to_ne_bytes());
            // SAFETY: as libc's function of this name asks of its caller.
            unsafe { put(&info, to, length) };
            return Ok(0);
        }
        let value = match (level, option) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => {
                error_of(fd)
            }
            (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
            _ => 0,
        };
        // SAFETY: as libc's function of this name asks of its caller.
        unsafe { put(&value.to_ne_bytes(), to, length) };
        Ok(0)
    })
} }

hook! { setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    length: socklen_t
) -> c_int {
    if table::is_ours(fd, true) {
        return 0;
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::setsockopt(fd, level, option, value, length) }
} }

hook! { ioctl(fd: c_int, request: c_ulong, argument: c_long) -> c_int {
    if request != TIOCOUTQ as c_ulong || !table::is_ours(fd, true) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::ioctl(fd, request, argument) };
    }
    answer(|| {
        let unsent = table::with_connection(fd, |connection| Ok(connection.bytes_unsent()))?;
        let to = argument as *mut c_int;
        if !to.is_null() {
            // SAFETY: as libc's function of this name asks of its caller.
            unsafe { *to = c_int::try_from(unsent).unwrap_or(c_int::MAX) };
        }
        Ok(0)
    })
} }

hook! { shutdown(fd: c_int, how: c_int) -> c_int {
    if table::is_ours(fd, false) {
        return 0;
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::shutdown(fd, how) }
} }
