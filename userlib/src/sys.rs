// SPDX-License-Identifier: MIT OR Apache-2.0

//! System calls, and with `capi.rs` all that is unsafe.
//!
//! Calls on the device go through `syscall()`, not through libc's `read()` and the like: a library
//! that interposes those (our preload library does) can then use this crate without calling itself.

use crate::Context;
use std::ffi::CString;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

/// Calls until it was not interrupted by a signal.
fn retry(mut call: impl FnMut() -> libc::c_long) -> Result<usize> {
    loop {
        if let Ok(value) = usize::try_from(call()) {
            return Ok(value);
        }
        let error = Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = retry(|| {
        // SAFETY: `path` is a C string that outlives the call; the call writes no memory.
        unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::O_RDWR | libc::O_CLOEXEC,
                0,
            )
        }
    })?;
    owned(fd)
}

/// Owns a descriptor number that a system call has just returned.
fn owned(fd: usize) -> Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: a system call has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl FromRawFd for Context {
    // SAFETY: the contract is that of the trait: the caller owns `fd` and hands it over.
    unsafe fn from_raw_fd(fd: RawFd) -> Self {
        // SAFETY: by this function's contract, the caller owns `fd` and hands it over.
        Self::from(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    owned(retry(|| unsafe {
        libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0)
    })?)
}

pub(crate) fn is_nonblocking(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(file_flags(fd)? & libc::O_NONBLOCK != 0)
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let flags = file_flags(fd)?;
    let wanted = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: no memory is passed.
    retry(|| unsafe { libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), libc::F_SETFL, wanted) })?;
    Ok(())
}

fn file_flags(fd: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: no memory is passed.
    let flags = retry(|| unsafe { libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), libc::F_GETFL) })?;
    i32::try_from(flags).map_err(|_| Error::from_raw_os_error(libc::EINVAL))
}

/// The device number of a character device; `None` for everything else.
pub(crate) fn character_device(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `stat` is valid for writes of a `struct stat`.
    let result = unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) };
    // SAFETY: all-zero is a valid `struct stat`, whether or not the call filled it.
    let stat = unsafe { stat.assume_init() };
    (result == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFCHR).then_some(stat.st_rdev)
}

/// Reads once. With `nowait`, EAGAIN takes the place of waiting also on a blocking descriptor.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8], nowait: bool) -> Result<usize> {
    let iovec = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    retry(|| {
        // SAFETY: `iovec` describes `buffer`, which is valid for writes and not used meanwhile.
        unsafe {
            libc::syscall(
                libc::SYS_preadv2,
                fd.as_raw_fd(),
                &raw const iovec,
                1usize,
                POSITION,
                POSITION,
                no_wait_flag(nowait),
            )
        }
    })
}

/// Writes once, gathering `parts`, of which there are at most IOV_MAX. `nowait` as in [`read`].
pub(crate) fn write(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>], nowait: bool) -> Result<usize> {
    retry(|| {
        // SAFETY: `IoSlice` has the layout of `struct iovec`, and each is valid for reads.
        unsafe {
            libc::syscall(
                libc::SYS_pwritev2,
                fd.as_raw_fd(),
                parts.as_ptr(),
                parts.len(),
                POSITION,
                POSITION,
                no_wait_flag(nowait),
            )
        }
    })
}

/// The offset -1 of preadv2() and pwritev2() is "as read() and write() do".
const POSITION: libc::c_long = -1;

fn no_wait_flag(nowait: bool) -> libc::c_long {
    if nowait {
        libc::c_long::from(libc::RWF_NOWAIT)
    } else {
        0
    }
}

/// Waits until one of `events` is there; `None` waits for ever. Returns what is there.
///
/// A signal ends the wait with [`ErrorKind::Interrupted`]: here the caller may want to look at what
/// the signal asked for.
pub(crate) fn poll(
    fd: BorrowedFd<'_>,
    events: i16,
    timeout: Option<std::time::Duration>,
) -> Result<i16> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    let mut timespec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let limit: *mut libc::timespec = match timeout {
        Some(timeout) => {
            timespec.tv_sec = timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX);
            timespec.tv_nsec = timeout.subsec_nanos().into();
            &raw mut timespec
        }
        None => ptr::null_mut(),
    };
    // SAFETY: one pollfd and, unless null, one timespec are valid for reads and writes; a null
    // signal mask changes nothing.
    let count = unsafe {
        libc::syscall(
            libc::SYS_ppoll,
            &raw mut poll,
            1usize,
            limit,
            ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    match count {
        ..0 => Err(Error::last_os_error()),
        _ => Ok(poll.revents),
    }
}

/// A mapping of the device, or of memory for it.
///
/// # Invariants
///
/// `start` is the first of `length` mapped bytes, which stay mapped as long as this lives: in the process
/// `maker`, or if that is not said also in children that inherit them.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    maker: Option<u32>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: all access is by copying or by atomics; see the methods.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new(fd: BorrowedFd<'_>, offset: u64, length: usize, write: bool) -> Result<Self> {
        let offset =
            libc::off_t::try_from(offset).map_err(|_| Error::from_raw_os_error(libc::EOVERFLOW))?;
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        // SAFETY: a null address makes a new mapping, so none is replaced.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        Self::of(start, length)
    }

    /// Zeroed memory of this process alone.
    pub(crate) fn anonymous(length: usize) -> Result<Self> {
        // SAFETY: a null address makes a new mapping, so none is replaced.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        Self::of(start, length)
    }

    /// Owns what mmap() returned for `length` bytes.
    fn of(start: *mut libc::c_void, length: usize) -> Result<Self> {
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(Error::from_raw_os_error(libc::ENOMEM))?;
        // INVARIANT: mmap() has just mapped `length` bytes there.
        Ok(Self {
            start,
            length,
            maker: None,
        })
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The address of a byte.
    ///
    /// # Panics
    ///
    /// If the bytes are not all inside the mapping.
    pub(crate) fn pointer(&self, offset: usize, length: usize) -> NonNull<u8> {
        let end = offset.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.length),
            "{length} bytes at {offset} are not inside a mapping of {} bytes",
            self.length
        );
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.start.add(offset) }
    }

    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let from = self.pointer(offset, to.len());
        // SAFETY: both are valid for as many bytes, and a mapping made here is no Rust object, so
        // they do not overlap. Should the device write meanwhile, the bytes are torn, no more.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) }
    }

    pub(crate) fn copy_in(&self, offset: usize, from: &[u8]) {
        let to = self.pointer(offset, from.len());
        // SAFETY: as in `copy_out`; only the area and memory of our own are written, which are
        // mapped for writing.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) }
    }

    /// Copies from `start` into `to` between two equal even values of the word at `sequence` (byte
    /// offsets, multiples of 8 and 4). `false` if the page does not come to rest.
    pub(crate) fn copy_at_rest(&self, sequence: usize, start: usize, to: &mut [[u8; 8]]) -> bool {
        let sequence = self.pointer(sequence, 4).cast::<AtomicU32>();
        // SAFETY: mapped as long as `self` lives; pages are aligned. Loads do not write.
        let sequence = unsafe { sequence.as_ref() };
        let words = self.pointer(start, size_of_val(to)).cast::<AtomicU64>();
        assert!(words.is_aligned(), "{start} is no multiple of 8");
        // SAFETY: as above; so many words are inside.
        let words = unsafe { NonNull::slice_from_raw_parts(words, to.len()).as_ref() };
        for attempt in 0..100_000 {
            let before = sequence.load(Ordering::Acquire);
            if u32::from_le(before) % 2 == 0 {
                for (to, word) in to.iter_mut().zip(words) {
                    *to = word.load(Ordering::Relaxed).to_ne_bytes();
                }
                fence(Ordering::Acquire);
                if sequence.load(Ordering::Relaxed) == before {
                    return true;
                }
            }
            if attempt > 100 {
                std::thread::yield_now();
            }
        }
        false
    }

    /// Lets go of pages: the driver may free them when nobody has them mapped.
    pub(crate) fn release(&self, offset: usize, length: usize) -> Result<()> {
        self.advise(offset, length, libc::MADV_DONTNEED)
    }

    /// Gives pages memory, or says why that is not possible.
    pub(crate) fn populate(&self, offset: usize, length: usize) -> Result<()> {
        self.advise(offset, length, libc::MADV_POPULATE_WRITE)
    }

    /// Leaves the mapping out of children made by fork(). What stands at its addresses in a child is
    /// the child's, and left alone.
    pub(crate) fn kept_from_children(self) -> Result<Self> {
        self.advise(0, self.length, libc::MADV_DONTFORK)?;
        let mut own = self;
        own.maker = Some(std::process::id());
        Ok(own)
    }

    /// Whether the calling process has it: it is not a child that it was kept from.
    fn is_here(&self) -> bool {
        self.maker.is_none_or(|maker| maker == std::process::id())
    }

    fn advise(&self, offset: usize, length: usize, advice: i32) -> Result<()> {
        if !self.is_here() {
            return Err(Error::from_raw_os_error(libc::EFAULT));
        }
        let start = self.pointer(offset, length);
        // SAFETY: inside our own mapping. No advice frees what Rust objects live in.
        let result = unsafe { libc::madvise(start.as_ptr().cast(), length, advice) };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::last_os_error())
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: by the type invariant; nothing can use it any more. It cannot fail.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}

/// The RDMA devices of this host, by name.
pub(crate) fn rdma_devices() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/class/infiniband") else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The node that the kernel has registered under this name, as a device number.
pub(crate) fn registered_number(class_path: &str) -> Option<u64> {
    let text = std::fs::read_to_string(class_path).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}
