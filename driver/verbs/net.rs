// SPDX-License-Identifier: GPL-2.0-only

//! Network namespaces.

use super::ffi;
use core::ptr::NonNull;
use kernel::{cred::Credential, fs::File, prelude::*};

/// A counted reference to a network namespace.
///
/// # Invariants
///
/// Points to a namespace on which one reference is ours.
pub(crate) struct Net(NonNull<ffi::net>);

// SAFETY: A namespace's reference may be held and dropped by any thread.
unsafe impl Send for Net {}
// SAFETY: All that is done by `&Net` may be done by any thread.
unsafe impl Sync for Net {}

impl Net {
    /// The namespace of the calling process; not for kernel threads on their way out.
    pub(crate) fn of_current() -> Result<Self> {
        // SAFETY: Called by a process in a system call, so it has namespaces.
        let net = unsafe { ffi::usmbd_current_net() };
        // INVARIANT: The shim took a reference.
        Ok(Self(NonNull::new(net).ok_or(ENODEV)?))
    }

    /// Whether the opener of `file` may listen on a port below 1024: has CAP_NET_BIND_SERVICE in the
    /// user namespace that owns this network namespace. The caller's own credentials play no part.
    pub(crate) fn opener_may_bind_low_port(&self, file: &File) -> bool {
        self.opener_can(file, ffi::CAP_NET_BIND_SERVICE)
    }

    /// As [`Self::opener_may_bind_low_port`], for CAP_NET_ADMIN: whether the opener may see and end
    /// other people's connections, and claim them.
    pub(crate) fn opener_is_admin(&self, file: &File) -> bool {
        self.opener_can(file, ffi::CAP_NET_ADMIN)
    }

    fn opener_can(&self, file: &File, capability: u32) -> bool {
        let Ok(capability) = i32::try_from(capability) else {
            return false;
        };
        // SAFETY: The file and, by the type invariants, the namespace are valid.
        unsafe { ffi::usmbd_file_ns_capable(file.as_ptr(), self.as_ptr(), capability) }
    }

    /// A number that no other namespace has for as long as this one is held.
    pub(crate) fn number(&self) -> usize {
        self.0.as_ptr().addr()
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::net {
        self.0.as_ptr()
    }
}

impl Clone for Net {
    fn clone(&self) -> Self {
        // SAFETY: Valid by the type invariants.
        unsafe { ffi::usmbd_net_get(self.as_ptr()) };
        // INVARIANT: The reference was taken just now.
        Self(self.0)
    }
}

impl PartialEq for Net {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // SAFETY: The reference is ours, by the type invariants.
        unsafe { ffi::usmbd_net_put(self.as_ptr()) };
    }
}

/// Effective user id of `who`, as `asker`'s user namespace says it; that namespace's overflow id for
/// nobody, or who is not known there.
pub(crate) fn uid_as_seen_by(asker: &Credential, who: Option<&Credential>) -> u32 {
    let who = who.map_or(core::ptr::null(), Credential::as_ptr);
    // SAFETY: The credentials are valid; the shim knows null.
    unsafe { ffi::usmbd_uid_as_seen_by(asker.as_ptr(), who) }
}

/// Effective user id of the opener of `file`, the same number in whatever user namespace.
pub(crate) fn opener_uid(file: &File) -> u32 {
    // SAFETY: The file is valid.
    unsafe { ffi::usmbd_file_euid(file.as_ptr()) }
}
