// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! The records of `/dev/usmbd`.
//!
//! A `write()` carries *commands*, a `read()` returns *events*; both are *records*: a
//! [`Header`](record::Header) of 16 bytes, a body of fixed layout, and for some a tail (payload, or
//! lists). Everything is little-endian and unaligned-safe, so decoding can only fail on size and on
//! values. This crate is compiled unchanged into the kernel module and into user space.
//!
//! The prose twin of this crate is `docs/abi.md`.

#![cfg_attr(not(kernel), no_std)]
#![forbid(unsafe_code)]
#![deny(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::multiple_unsafe_ops_per_block,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used
)]

pub mod command;
pub mod event;
pub mod memory;
pub mod record;
pub mod smb2;
pub mod status;

/// The ABI's version: major in the upper half, minor in the lower.
///
/// A minor version adds records, flags and trailing status page fields; a major one would change
/// what exists. History: 1.0 is the first.
pub const VERSION: u32 = 0x0001_0000;
