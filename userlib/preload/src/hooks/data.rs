// SPDX-License-Identifier: MIT OR Apache-2.0

//! Calls that move data.

use super::answer;
use crate::real;
use crate::table;
use libc::{
    c_int, c_void, iovec, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, MSG_DONTWAIT,
};
use std::io::{self, IoSliceMut};
use std::os::fd::RawFd;

/// Whether a call without MSG_DONTWAIT has to wait: as the descriptor says.
fn is_blocking(fd: RawFd) -> bool {
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::c_long::from(libc::O_NONBLOCK) == 0
}

fn waits(fd: RawFd, flags: c_int) -> bool {
    flags & MSG_DONTWAIT == 0 && is_blocking(fd)
}

fn count(bytes: usize) -> ssize_t {
    ssize_t::try_from(bytes).unwrap_or(ssize_t::MAX)
}

/// The buffers that an array of `struct iovec` describes.
///
/// # Safety
///
/// `parts` is valid for reads of `count` entries, each of which is valid for reads of its length.
unsafe fn buffers<'a>(parts: *const iovec, count: usize) -> Vec<&'a [u8]> {
    if parts.is_null() {
        return Vec::new();
    }
    // SAFETY: by the contract.
    let parts = unsafe { std::slice::from_raw_parts(parts, count) };
    parts
        .iter()
        .filter(|part| !part.iov_base.is_null() && part.iov_len != 0)
        // SAFETY: by the contract; not null.
        .map(|part| unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) })
        .collect()
}

/// As [`buffers`], for writing.
///
/// # Safety
///
/// As of [`buffers`], and all are valid for writes and do not overlap.
unsafe fn buffers_mut<'a>(parts: *const iovec, count: usize) -> Vec<IoSliceMut<'a>> {
    if parts.is_null() {
        return Vec::new();
    }
    // SAFETY: by the contract.
    let parts = unsafe { std::slice::from_raw_parts(parts, count) };
    parts
        .iter()
        .filter(|part| !part.iov_base.is_null() && part.iov_len != 0)
        .map(|part| {
            // SAFETY: by the contract; not null.
            IoSliceMut::new(unsafe {
                std::slice::from_raw_parts_mut(part.iov_base.cast(), part.iov_len)
            })
        })
        .collect()
}

/// # Safety
///
/// As of [`buffers_mut`].
unsafe fn receive(fd: RawFd, parts: *const iovec, length: usize, flags: c_int) -> ssize_t {
    answer(|| {
        // SAFETY: by the contract.
        let mut parts = unsafe { buffers_mut(parts, length) };
        let wait = waits(fd, flags);
        table::with_connection(fd, |connection| connection.receive(&mut parts, wait)).map(count)
    })
}

/// # Safety
///
/// As of [`buffers`].
unsafe fn transmit(fd: RawFd, parts: *const iovec, length: usize, flags: c_int) -> ssize_t {
    answer(|| {
        // SAFETY: by the contract.
        let parts = unsafe { buffers(parts, length) };
        let wait = waits(fd, flags);
        table::with_connection(fd, |connection| connection.send(&parts, wait)).map(count)
    })
}

fn one(buffer: *const c_void, count: size_t) -> iovec {
    iovec {
        iov_base: buffer.cast_mut(),
        iov_len: count,
    }
}

fn parts_of(count: c_int) -> usize {
    usize::try_from(count).unwrap_or(0)
}

/// Looks for descriptors that a message brought.
///
/// # Safety
///
/// `message` is one that recvmsg() has filled.
unsafe fn adopt_passed(message: *mut msghdr) {
    // SAFETY: by the contract, throughout.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let (level, kind) = ((*header).cmsg_level, (*header).cmsg_type);
            if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<c_int>();
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / size_of::<c_int>() {
                    table::adopt(data.add(index).read_unaligned());
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

macro_rules! hook {
    ($name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block) => {
        /// Stands in front of the C library's function of that name.
        ///
        /// # Safety
        ///
        /// As of that function.
        #[no_mangle]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result $body
    };
}
pub(super) use hook;

// SAFETY, of all below: ours read and write exactly the memory that the C library's would, by the
// same contract with the caller, and all others are passed on as they came.

hook! { read(fd: c_int, buffer: *mut c_void, count: size_t) -> ssize_t {
    if !table::is_ours_to_read(fd) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::read(fd, buffer, count) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { receive(fd, &one(buffer, count), 1, 0) }
} }

hook! { readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    if !table::is_ours_to_read(fd) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::readv(fd, parts, count) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { receive(fd, parts, parts_of(count), 0) }
} }

hook! { recv(fd: c_int, buffer: *mut c_void, count: size_t, flags: c_int) -> ssize_t {
    if !table::is_ours_to_read(fd) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::recv(fd, buffer, count, flags) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { receive(fd, &one(buffer, count), 1, flags) }
} }

hook! { recvfrom(
    fd: c_int,
    buffer: *mut c_void,
    count: size_t,
    flags: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t
) -> ssize_t {
    if !table::is_ours_to_read(fd) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::recvfrom(fd, buffer, count, flags, address, length) };
    }
    if !length.is_null() {
        // SAFETY: as libc's function of this name asks of its caller.
        unsafe { *length = 0 };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { receive(fd, &one(buffer, count), 1, flags) }
} }

hook! { recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    if message.is_null() || !table::is_ours_to_read(fd) {
        // SAFETY: the caller's own arguments, handed on as they came.
        let result = unsafe { real::recvmsg(fd, message, flags) };
        if result >= 0 && table::is_engaged() && unsafe { (*message).msg_controllen } != 0 {
            // SAFETY: as libc's function of this name asks of its caller.
            unsafe { adopt_passed(message) };
        }
        return result;
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe {
        (*message).msg_namelen = 0;
        (*message).msg_controllen = 0;
        (*message).msg_flags = 0;
        receive(fd, (*message).msg_iov, (*message).msg_iovlen, flags)
    }
} }

hook! { write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    if !table::is_ours(fd, false) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::write(fd, buffer, count) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { transmit(fd, &one(buffer, count), 1, 0) }
} }

hook! { writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    if !table::is_ours(fd, false) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::writev(fd, parts, count) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { transmit(fd, parts, parts_of(count), 0) }
} }

hook! { send(fd: c_int, buffer: *const c_void, count: size_t, flags: c_int) -> ssize_t {
    if !table::is_ours(fd, false) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::send(fd, buffer, count, flags) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { transmit(fd, &one(buffer, count), 1, flags) }
} }

hook! { sendto(
    fd: c_int,
    buffer: *const c_void,
    count: size_t,
    flags: c_int,
    address: *const sockaddr,
    length: socklen_t
) -> ssize_t {
    if !table::is_ours(fd, false) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::sendto(fd, buffer, count, flags, address, length) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { transmit(fd, &one(buffer, count), 1, flags) }
} }

hook! { sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    if message.is_null() || !table::is_ours(fd, false) {
        // SAFETY: the caller's own arguments, handed on as they came.
        return unsafe { real::sendmsg(fd, message, flags) };
    }
    // SAFETY: as libc's function of this name asks of its caller.
    unsafe { transmit(fd, (*message).msg_iov, (*message).msg_iovlen, flags) }
} }

/// smbd goes on with read() and writev() when the kernel cannot do this.
fn cannot() -> ssize_t {
    answer(|| Err(io::Error::from_raw_os_error(libc::EINVAL)))
}

hook! { sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    if table::is_ours(to, false) {
        return cannot();
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::sendfile(to, from, offset, count) }
} }

hook! { sendfile64(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    if table::is_ours(to, false) {
        return cannot();
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::sendfile64(to, from, offset, count) }
} }

hook! { splice(
    from: c_int,
    from_offset: *mut off_t,
    to: c_int,
    to_offset: *mut off_t,
    count: size_t,
    flags: libc::c_uint
) -> ssize_t {
    if table::is_ours(to, false) || table::is_ours(from, false) {
        return cannot();
    }
    // SAFETY: the caller's own arguments, handed on as they came.
    unsafe { real::splice(from, from_offset, to, to_offset, count, flags as c_int) }
} }
