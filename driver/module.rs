// SPDX-License-Identifier: GPL-2.0-only

//! The module itself, as the kernel counts its users.

use kernel::bindings;
use kernel::types::Opaque;

extern "C" {
    // The kernel's `struct module` of this module; modpost defines it. `THIS_MODULE` of the kernel
    // crate is a static in 7.2 and an associated const in 7.3.
    #[expect(improper_ctypes)]
    static __this_module: Opaque<bindings::module>;
}

/// For `owner` fields.
pub(crate) fn this_module() -> *mut bindings::module {
    // Only the address is taken.
    (&raw const __this_module).cast_mut().cast()
}

/// Keeps the module loaded.
///
/// # Invariants
///
/// Holds one reference on the module.
pub(crate) struct Reference(());

impl Reference {
    /// One more; none if the module is being unloaded.
    pub(crate) fn get() -> Option<Self> {
        // SAFETY: This code runs, so the module is there.
        let got = unsafe { bindings::try_module_get(this_module()) };
        // INVARIANT: Got just now.
        got.then_some(Self(()))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariants. The code that still runs here is
        // waited for by the workqueue's end, or is under an open file.
        unsafe { bindings::module_put(this_module()) };
    }
}
