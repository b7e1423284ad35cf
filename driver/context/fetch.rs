// SPDX-License-Identifier: GPL-2.0-only

//! Bytes of a command from where its writer has them.

use kernel::iov::IovIterSource;
use kernel::prelude::*;
use usmbd_abi::record::{padded, ALIGNMENT};

/// Fills `out`.
///
/// # Errors
///
/// `EFAULT` if not all of it can be read.
pub(crate) fn exact(source: &mut IovIterSource<'_>, out: &mut [u8]) -> Result {
    // Most commands of the shortest kind have no body.
    if out.is_empty() || source.copy_from_iter(out) == out.len() {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Takes what stands behind a payload of `length` bytes: zeros up to the record's end.
///
/// # Errors
///
/// `EINVAL` if something else stands there; `EFAULT`.
pub(crate) fn padding(source: &mut IovIterSource<'_>, length: u32) -> Result {
    let behind = padded(length).ok_or(EINVAL)?.saturating_sub(length);
    if behind == 0 {
        return Ok(());
    }
    let mut zeros = [0u8; ALIGNMENT as usize];
    let zeros = zeros.get_mut(..behind as usize).ok_or(EINVAL)?;
    exact(source, zeros)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(EINVAL);
    }
    Ok(())
}
