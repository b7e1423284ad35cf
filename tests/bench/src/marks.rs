// SPDX-License-Identifier: GPL-2.0-only

//! Marks for the plugin that counts instructions (count/count.c): NOPs, so that they cost nothing where
//! nobody counts.

use std::arch::asm;

/// A NOP of seven bytes with this number in its displacement, on 0x75736d00.
macro_rules! mark {
    ($number:literal) => {
        // SAFETY: A NOP changes nothing and touches no memory.
        unsafe {
            asm!(
                concat!(".byte 0x0f, 0x1f, 0x80; .long 0x75736d00 + ", $number),
                options(nostack, preserves_flags)
            )
        }
    };
}

/// Tells the plugin what to call the window that follows.
#[inline(never)]
fn shift_in(number: u32) {
    for bit in (0..u64::BITS).rev() {
        if u64::from(number) >> bit & 1 == 0 {
            mark!(0);
        } else {
            mark!(1);
        }
    }
}

/// Has the instructions counted that `work` and the rest of the guest run meanwhile.
#[inline(never)]
pub fn window<R>(number: u32, work: impl FnOnce() -> R) -> R {
    shift_in(number);
    mark!(2);
    let result = work();
    mark!(3);
    result
}
