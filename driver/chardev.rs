// SPDX-License-Identifier: GPL-2.0-only

//! The device node: `/dev/usmbd`.
//!
//! The kernel crate's `MiscDevice` has no poll, and in 7.2 no owner, so the file operations are our
//! own. They only move bytes: records are decoded here, and carried out by
//! [`dispatch`](crate::context::dispatch).

pub(crate) mod read;
mod write;

use crate::compat::{
    self, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLRDNORM, EPOLLWRNORM,
};
use crate::context::Context;
use kernel::bindings;
use kernel::error::to_result;
use kernel::fs::File;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::mm::virt::VmaNew;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::str::CStrExt;
use kernel::sync::poll::PollTable;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;
use usmbd_abi::memory::STATUS_PAGE_OFFSET;

/// A handler of ioctls; only the node of the ioctl variant has one.
type Ioctl = unsafe extern "C" fn(*mut bindings::file, c_uint, c_ulong) -> c_long;

/// The registered node; dropping it takes the node away.
///
/// # Invariants
///
/// `device` is registered, and its `fops` point to `operations`; neither moves.
pub(crate) struct CharDevice {
    device: KBox<bindings::miscdevice>,
    _operations: KBox<bindings::file_operations>,
}

// SAFETY: A misc device may be deregistered by any thread, and nothing else is done with it.
unsafe impl Send for CharDevice {}
// SAFETY: There is nothing to do with a `&CharDevice`.
unsafe impl Sync for CharDevice {}

impl CharDevice {
    /// Makes the node. It can be opened at once.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EEXIST`.
    pub(crate) fn register() -> Result<Self> {
        Self::register_as(c"usmbd", None)
    }

    /// As [`Self::register`], under another name, and with ioctls.
    pub(crate) fn register_as(name: &'static CStr, ioctl: Option<Ioctl>) -> Result<Self> {
        // SAFETY: All zeroes is a valid value: a table of no operations.
        let mut operations: bindings::file_operations = unsafe { core::mem::zeroed() };
        operations.owner = crate::module::this_module();
        operations.open = Some(open);
        operations.release = Some(release);
        operations.read_iter = Some(read_iter);
        operations.write_iter = Some(write_iter);
        operations.poll = Some(poll);
        operations.mmap = Some(mmap);
        operations.show_fdinfo = Some(show_fdinfo);
        operations.unlocked_ioctl = ioctl;
        let operations = KBox::new(operations, GFP_KERNEL)?;
        // SAFETY: All zeroes is a valid value: a device that was never registered.
        let mut device: bindings::miscdevice = unsafe { core::mem::zeroed() };
        device.minor = bindings::MISC_DYNAMIC_MINOR as i32;
        device.name = name.as_char_ptr();
        device.fops = &*operations;
        let mut device = KBox::new(device, GFP_KERNEL)?;
        // SAFETY: The device and its operations stay where they are until they are deregistered,
        // which `drop` does first.
        to_result(unsafe { bindings::misc_register(&mut *device) })?;
        // INVARIANT: Registered just now.
        Ok(Self {
            device,
            _operations: operations,
        })
    }
}

impl Drop for CharDevice {
    fn drop(&mut self) {
        // SAFETY: Registered by the type invariants.
        unsafe { bindings::misc_deregister(&mut *self.device) };
    }
}

/// The context of an open file.
///
/// # Safety
///
/// `file` must be a file of ours between the end of `open` and the beginning of `release`; the
/// borrow must not outlive that.
pub(crate) unsafe fn context<'a>(file: *mut bindings::file) -> ArcBorrow<'a, Context> {
    // SAFETY: `open` stored an `Arc<Context>` here, and `release` has not taken it.
    unsafe { <Arc<Context> as ForeignOwnable>::borrow((*file).private_data) }
}

/// # Safety
///
/// Called by the VFS with a file that is being opened.
unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: Both are valid during open. No position: reads and writes exclude neither each other
    // nor themselves.
    unsafe { bindings::stream_open(inode, file) };
    // SAFETY: The file is being opened, nobody else knows it yet.
    let result = Context::open(unsafe { File::from_raw_file(file) });
    match result {
        Ok(context) => {
            // SAFETY: As above.
            unsafe {
                (*file).f_mode |= compat::FMODE_NOWAIT;
                (*file).private_data = context.into_foreign();
            }
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by the VFS once, with a file that `open` was called for.
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open` stored it, and this is the only taker.
    let context = unsafe { <Arc<Context> as ForeignOwnable>::from_foreign((*file).private_data) };
    context.close();
    0
}

/// Whether a call may not sleep: O_NONBLOCK, RWF_NOWAIT, or io_uring's first try.
///
/// # Safety
///
/// `kiocb` and its file must be valid.
unsafe fn is_nowait(kiocb: *mut bindings::kiocb) -> bool {
    // SAFETY: Valid by the caller's promise.
    let (flags, file_flags) = unsafe { ((*kiocb).ki_flags, (*(*kiocb).ki_filp).f_flags) };
    flags & compat::IOCB_NOWAIT != 0 || file_flags & bindings::O_NONBLOCK != 0
}

fn count(result: Result<usize>) -> isize {
    match result {
        Ok(bytes) => isize::try_from(bytes).unwrap_or(isize::MAX),
        Err(error) => error.to_errno() as isize,
    }
}

/// # Safety
///
/// Called by the VFS with a valid kiocb of an open file of ours and a destination iterator.
unsafe extern "C" fn read_iter(
    kiocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: The VFS passes a valid kiocb, whose file is open.
    let (context, nowait) = unsafe { (context((*kiocb).ki_filp), is_nowait(kiocb)) };
    // SAFETY: The VFS passes a valid iterator that is a destination. The copy is used only for the
    // first bytes of the same call.
    let mut start = unsafe { core::ptr::read(iter) };
    // SAFETY: As above.
    let (start, dest) = unsafe {
        (
            IovIterDest::from_raw(&mut start),
            IovIterDest::from_raw(iter),
        )
    };
    count(read::batch(context, start, dest, nowait))
}

/// # Safety
///
/// Called by the VFS with a valid kiocb of an open file of ours and a source iterator.
unsafe extern "C" fn write_iter(
    kiocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: The VFS passes a valid kiocb, whose file is open.
    let (context, nowait) = unsafe { (context((*kiocb).ki_filp), is_nowait(kiocb)) };
    // SAFETY: The VFS passes a valid iterator that is a source.
    let source = unsafe { IovIterSource::from_raw(iter) };
    count(write::batch(&Arc::from(context), source, nowait))
}

/// # Safety
///
/// Called by the VFS with an open file of ours and a valid poll table or null.
unsafe extern "C" fn poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table,
) -> bindings::__poll_t {
    // SAFETY: The file is open.
    let context = unsafe { context(file) };
    // SAFETY: The VFS passes a valid table, or null.
    let table = unsafe { PollTable::from_raw(table) };
    // SAFETY: The file is valid during the call.
    let file = unsafe { File::from_raw_file(file) };
    table.register_wait(file, context.queue().poll_wait());
    let ready = context.readiness();
    let mut mask = 0;
    if ready.readable {
        mask |= EPOLLIN | EPOLLRDNORM;
    }
    if ready.writable {
        mask |= EPOLLOUT | EPOLLWRNORM;
    }
    if ready.peer_gone {
        mask |= EPOLLRDHUP;
    }
    if let Some(reason) = ready.ended {
        mask |= EPOLLIN | EPOLLRDHUP | EPOLLHUP;
        if !reason.is_orderly() {
            mask |= EPOLLERR;
        }
    }
    mask as bindings::__poll_t
}

/// # Safety
///
/// Called by the VFS with an open file of ours and a mapping that is being made.
unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: The file is open.
    let context = unsafe { context(file) };
    // SAFETY: The mapping is being made, so it is valid and ours alone.
    let (vma, page) = unsafe { (VmaNew::from_raw(vma), (*vma).vm_pgoff) };
    let result = if page as u64 == STATUS_PAGE_OFFSET >> kernel::page::PAGE_SHIFT {
        context.status_page.map(vma)
    } else {
        context.area.map(vma)
    };
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Text goes into a seq_file, which asks again with more room if it did not fit.
struct Text<'a>(&'a SeqFile);

impl core::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.call_printf(fmt!("{text}"));
        Ok(())
    }
}

/// # Safety
///
/// Called by the VFS with an open file of ours and a seq_file that is being filled.
unsafe extern "C" fn show_fdinfo(out: *mut bindings::seq_file, file: *mut bindings::file) {
    // SAFETY: The file is open, and nobody else has the seq_file meanwhile.
    let (context, out) = unsafe { (context(file), SeqFile::from_raw(out)) };
    // What could not be had is missing.
    let _ = context.show(&mut Text(out));
}
