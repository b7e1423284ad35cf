// SPDX-License-Identifier: GPL-2.0-only

//! Every difference between the kernels supported, and nothing else.
//!
//! The rest of the driver uses the names here and never asks for a version. Kbuild passes the
//! kernel as `--cfg usmbd_kernel_7_2` or `--cfg usmbd_kernel_7_3`.

/// Error codes that 7.2's kernel crate lacks.
#[cfg(usmbd_kernel_7_2)]
macro_rules! errors {
    ($($name:ident)*) => {$(
        pub(crate) const $name: kernel::error::Error = {
            #[allow(clippy::as_conversions)]
            let number = -(kernel::bindings::$name as i32);
            // SAFETY: `Error` is one `NonZeroI32` (so the sizes agree, which `transmute` checks),
            // whose invariant is to be a negative errno; this is one.
            unsafe { core::mem::transmute::<i32, kernel::error::Error>(number) }
        };
    )*};
}

/// Error codes that 7.2's kernel crate lacks.
#[cfg(not(usmbd_kernel_7_2))]
macro_rules! errors {
    ($($name:ident)*) => {
        pub(crate) use kernel::error::code::{$($name),*};
    };
}

errors! {
    EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT ECONNREFUSED EHOSTUNREACH ENETUNREACH ENOTCONN EOPNOTSUPP
    ETIMEDOUT
}

/// That a mapping was asked for as a shared one. 7.2's `flags::MAYSHARE` is VM_MAYEXEC, by a slip of its
/// rust/bindings/bindings_helper.h.
pub(crate) const VM_MAYSHARE: kernel::mm::virt::vm_flags_t =
    1 << kernel::bindings::VMA_MAYSHARE_BIT;

/// Flags of files, reads and writes, and poll, which the kernel crate's bindings lack.
pub(crate) use crate::verbs::ffi::{
    USMBD_EPOLLERR as EPOLLERR, USMBD_EPOLLHUP as EPOLLHUP, USMBD_EPOLLIN as EPOLLIN,
    USMBD_EPOLLOUT as EPOLLOUT, USMBD_EPOLLRDHUP as EPOLLRDHUP, USMBD_EPOLLRDNORM as EPOLLRDNORM,
    USMBD_EPOLLWRNORM as EPOLLWRNORM, USMBD_FMODE_NOWAIT as FMODE_NOWAIT,
    USMBD_IOCB_NOWAIT as IOCB_NOWAIT,
};

/// The value of a module parameter.
pub(crate) fn parameter(parameter: &kernel::module_param::ModuleParamAccess<u32>) -> u32 {
    #[cfg(usmbd_kernel_7_2)]
    return *parameter.value();
    #[cfg(not(usmbd_kernel_7_2))]
    return parameter.value();
}

/// Readers and pollers of one context wait here.
///
/// 7.3 frees it by RCU; in 7.2 its drop waits for a grace period.
#[cfg(usmbd_kernel_7_2)]
pub(crate) struct PollWait(core::pin::Pin<kernel::alloc::KBox<kernel::sync::poll::PollCondVar>>);

/// Readers and pollers of one context wait here.
///
/// 7.3 frees it by RCU; in 7.2 its drop waits for a grace period.
#[cfg(not(usmbd_kernel_7_2))]
pub(crate) struct PollWait(kernel::sync::poll::PollCondVarBox);

impl PollWait {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> kernel::error::Result<Self> {
        #[cfg(usmbd_kernel_7_2)]
        return Ok(Self(
            <kernel::alloc::KBox<_> as kernel::prelude::InPlaceInit<_>>::pin_init(
                kernel::sync::poll::PollCondVar::new(
                    kernel::optional_name!("usmbd_poll"),
                    kernel::static_lock_class!(),
                ),
                kernel::alloc::flags::GFP_KERNEL_ACCOUNT,
            )?,
        ));
        #[cfg(not(usmbd_kernel_7_2))]
        return Ok(Self(kernel::sync::poll::PollCondVarBox::new(
            kernel::optional_name!("usmbd_poll"),
            kernel::static_lock_class!(),
        )?));
    }
}

impl core::ops::Deref for PollWait {
    type Target = kernel::sync::poll::PollCondVar;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
