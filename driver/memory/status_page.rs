// SPDX-License-Identifier: GPL-2.0-only

//! The status page: what a process can know about its connection without a call.

use crate::compat;
use core::mem::offset_of;
use core::sync::atomic::{fence, Ordering};
use kernel::mm::virt::VmaNew;
use kernel::page::{Page, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::{new_spinlock, SpinLock};
use usmbd_abi::memory::StatusPage as Layout;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// One page that user space may map to read.
#[pin_data]
pub(crate) struct StatusPage {
    page: Page,
    /// What stands on the page.
    #[pin]
    contents: SpinLock<Layout>,
}

impl StatusPage {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<impl PinInit<Self>> {
        let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        let mut contents = Layout::new_zeroed();
        contents.abi_version = usmbd_abi::VERSION.into();
        write(&page, contents.as_bytes());
        Ok(pin_init!(Self {
            page,
            contents <- new_spinlock!(contents, "usmbd_status_page"),
        }))
    }

    /// Changes the page; readers see all of the change or nothing. In any context but interrupts.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Layout)) {
        let mut contents = self.contents.lock();
        let sequence = contents.sequence.get();
        contents.sequence = sequence.wrapping_add(1).into();
        self.write_sequence(&contents);
        fence(Ordering::Release);
        change(&mut contents);
        write(&self.page, contents.as_bytes());
        fence(Ordering::Release);
        contents.sequence = sequence.wrapping_add(2).into();
        self.write_sequence(&contents);
    }

    /// Writes the contents up to the sequence number; what stands before it never changes.
    fn write_sequence(&self, contents: &Layout) {
        const LENGTH: usize = offset_of!(Layout, sequence) + size_of::<U32>();
        write(
            &self.page,
            contents.as_bytes().get(..LENGTH).unwrap_or_default(),
        );
    }

    /// Maps the page, to read.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a mapping that is longer than the page, `EPERM` for one that is private or may
    /// write.
    pub(crate) fn map(&self, vma: &VmaNew) -> Result {
        let length = vma.end().saturating_sub(vma.start());
        if length != PAGE_SIZE {
            return Err(EINVAL);
        }
        // Of a descriptor that cannot write, a shared mapping is not SHARED either.
        if vma.flags() & compat::VM_MAYSHARE == 0 {
            return Err(EPERM);
        }
        vma.try_clear_maywrite().map_err(|_| EPERM)?;
        vma.try_clear_mayexec()?;
        vma.set_dontexpand();
        vma.set_mixedmap().vm_insert_page(vma.start(), &self.page)
    }
}

/// Writes what the page begins with.
fn write(page: &Page, bytes: &[u8]) {
    // SAFETY: The bytes are valid for reading. Those who map the page may read it meanwhile, which
    // the sequence number is for; in the kernel only this function touches it, under its lock. It
    // is far smaller than the page, so this cannot fail.
    let _ = unsafe { page.write_raw(bytes.as_ptr(), 0, bytes.len()) };
}
