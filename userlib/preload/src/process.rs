// SPDX-License-Identifier: MIT OR Apache-2.0

//! The number of this process, which tells what a fork() inherited: asked for at every call of the
//! program's, so a system call for each would be dear.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The number, in memory that is zero again in a child; null if there is no such memory.
static KEPT: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Gets that memory. Once, before there are other threads.
pub fn initialise() {
    let length = size_of::<AtomicU32>();
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return;
    }
    // SAFETY: our own mapping, which nobody knows yet. Old kernels refuse it.
    if unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) } == 0 {
        KEPT.store(page.cast(), Ordering::Release);
    }
}

/// What getpid() says.
pub fn id() -> u32 {
    // SAFETY: null, or a mapping that stays as long as the process; zero is a valid value.
    let Some(kept) = (unsafe { KEPT.load(Ordering::Acquire).as_ref() }) else {
        return std::process::id();
    };
    match kept.load(Ordering::Relaxed) {
        0 => {
            let id = std::process::id();
            kept.store(id, Ordering::Relaxed);
            id
        }
        id => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_a_number_of_its_own() {
        initialise();
        assert_eq!(id(), std::process::id());
        // SAFETY: the child only compares two numbers and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let is_right = id() == std::process::id();
            // SAFETY: ends the process, and runs nothing of it.
            unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: valid for writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(id(), std::process::id());
    }
}
