// SPDX-License-Identifier: GPL-2.0-only

//! What bindgen made of `bindings.h`: the RDMA headers and our shim.
//!
//! Types that the kernel crate has too are its own, by the glob import. Only the files of
//! `driver/verbs/`, and `compat.rs` for constants, import from here.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    clippy::all,
    clippy::as_ptr_cast_mut,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

pub(crate) use kernel::{bindings::*, ffi};

include!(env!("USMBD_BINDINGS"));
