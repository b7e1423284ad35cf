// SPDX-License-Identifier: GPL-2.0-only

//! System calls, and all that is unsafe.

use std::io::{Error, IoSlice, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

/// A result of a system call that says -1 and errno.
fn check(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

fn owned(fd: RawFd) -> Result<OwnedFd> {
    check(fd as isize)?;
    // SAFETY: a system call has just made it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn open_device(nonblocking: bool) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_CLOEXEC | if nonblocking { libc::O_NONBLOCK } else { 0 };
    // SAFETY: a C string.
    owned(unsafe { libc::open(c"/dev/usmbd".as_ptr(), flags) })
}

/// How a write() is made.
#[derive(Clone, Copy)]
pub struct Manner {
    pub nowait: bool,
    /// The last part is memory that cannot be read.
    pub fault: bool,
}

/// Writes `parts` with one call.
pub fn write(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>], manner: Manner) -> Result<usize> {
    let mut vector: Vec<libc::iovec> = parts
        .iter()
        .map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        })
        .collect();
    if manner.fault {
        if let Some(last) = vector.last_mut() {
            last.iov_base = 8 as *mut libc::c_void;
        }
    }
    let flags = if manner.nowait { libc::RWF_NOWAIT } else { 0 };
    // SAFETY: each part is valid for reads, or an address that the kernel refuses.
    check(unsafe {
        libc::pwritev2(
            fd.as_raw_fd(),
            vector.as_ptr(),
            vector.len() as i32,
            -1,
            flags,
        )
    })
}

/// Reads once. With `fault`, what is behind the first 64 bytes cannot be written.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8], nowait: bool, fault: bool) -> Result<usize> {
    let (first, rest) = buffer.split_at_mut(buffer.len().min(64));
    let mut vector = [first, rest].map(|part| libc::iovec {
        iov_base: part.as_mut_ptr().cast(),
        iov_len: part.len(),
    });
    if fault {
        vector[1].iov_base = 8 as *mut libc::c_void;
    }
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    // SAFETY: both parts are valid for writes, or an address that the kernel refuses.
    check(unsafe { libc::preadv2(fd.as_raw_fd(), vector.as_ptr(), 2, -1, flags) })
}

/// Waits at most so long for any of `events`; those that are there.
pub fn poll(fd: BorrowedFd<'_>, events: i16, milliseconds: i32) -> Result<i16> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call.
    check(unsafe { libc::poll(&raw mut entry, 1, milliseconds) } as isize)?;
    Ok(entry.revents)
}

/// A mapping of the device; unmapped when dropped. Nothing here reads or writes through it, so it
/// may go at any time.
pub struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: an address range, which any thread may unmap.
unsafe impl Send for Mapping {}
// SAFETY: with a shared reference, only system calls are made on it.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn new(fd: BorrowedFd<'_>, offset: u64, length: usize, writable: bool) -> Result<Self> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh mapping, at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self { start, length })
    }

    /// Memory that has nothing to do with the device.
    pub fn anonymous(length: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping, at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self { start, length })
    }

    pub fn address(&self) -> u64 {
        self.start as u64
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// Touches pages for writing, or lets go of them.
    pub fn advise(&self, offset: usize, length: usize, populate: bool) -> Result<()> {
        let length = length.min(self.length.saturating_sub(offset));
        let advice = if populate {
            libc::MADV_POPULATE_WRITE
        } else {
            libc::MADV_DONTNEED
        };
        // SAFETY: inside the mapping, whose contents nobody here relies on.
        check(unsafe { libc::madvise(self.start.byte_add(offset), length, advice) } as isize)?;
        Ok(())
    }

    /// Unmaps the end, from `length` on: the mapping is split.
    pub fn cut(&mut self, length: usize) {
        if length > 0 && length < self.length {
            // SAFETY: inside the mapping, which nobody here looks into.
            unsafe { libc::munmap(self.start.byte_add(length), self.length - length) };
            self.length = length;
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody looks into it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// A child writes `batch` to `fd`, maps it, and ends; waits for it.
pub fn fork_and_write(fd: BorrowedFd<'_>, batch: &[u8]) -> Result<()> {
    let raw = fd.as_raw_fd();
    let vector = libc::iovec {
        iov_base: batch.as_ptr().cast_mut().cast(),
        iov_len: batch.len(),
    };
    let (protection, anywhere) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
    // SAFETY: the child only makes system calls on memory that it has, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::pwritev2(raw, &raw const vector, 1, -1, libc::RWF_NOWAIT);
            let area = libc::mmap(anywhere, 1 << 20, protection, libc::MAP_SHARED, raw, 0);
            libc::madvise(area, 8192, libc::MADV_POPULATE_WRITE);
            libc::_exit(0)
        }
    }
    check(child as isize)?;
    let mut status = 0;
    // SAFETY: `status` lives through the call. Signals come, and do not matter.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0
        && Error::last_os_error().raw_os_error() == Some(libc::EINTR)
    {}
    Ok(())
}

/// Sends a descriptor to ourselves by SCM_RIGHTS; without `receive`, the socket is closed with the
/// descriptor in it.
pub fn pass(fd: BorrowedFd<'_>, receive: bool) -> Result<Option<OwnedFd>> {
    let mut ends = [0; 2];
    // SAFETY: two numbers to be written.
    check(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
            ends.as_mut_ptr(),
        )
    } as isize)?;
    let [left, right] = [owned(ends[0])?, owned(ends[1])?];
    let mut byte = [0u8; 1];
    let mut vector = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // Aligned as control messages have to be.
    let mut control = [0u64; 4];
    // SAFETY: all zeroes is a valid, empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = 24;
    // SAFETY: the control buffer has room for one header and one descriptor.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(fd.as_raw_fd());
    }
    // SAFETY: the message and what it points to live through the call.
    check(unsafe { libc::sendmsg(left.as_raw_fd(), &raw const message, 0) })?;
    if !receive {
        return Ok(None);
    }
    // SAFETY: as above.
    check(unsafe { libc::recvmsg(right.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel wrote a header and a descriptor, or none.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() {
            return Ok(None);
        }
        owned(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()).map(Some)
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// From now on SIGUSR1 interrupts system calls, and does nothing else.
pub fn let_signals_interrupt() {
    // SAFETY: the handler does nothing; all zeroes is a valid, empty mask and no flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
}

/// Interrupts a thread's system call.
pub fn interrupt<T>(thread: &JoinHandle<T>) {
    // SAFETY: a thread that was not joined has a valid id.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
}
