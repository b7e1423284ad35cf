// SPDX-License-Identifier: GPL-2.0-only

//! What the ioctl variant takes: numbers and argument structures, in the one place that driver
//! and benchmark share. Not part of the ABI.
//!
//! An operation has the fields of the command that `write()` takes for it, save that what a record
//! has behind its body stands in memory of the caller's, padded as there, and `memory` points to
//! it.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the longest body that a directive has.
pub(crate) const BODY_LENGTH: usize = 16;
/// Directives of one [`BATCH`] at most, as many as one `write()` takes records.
pub(crate) const MAX_DIRECTIVES: u32 = 4096;

/// One operation. `memory` points to the message of a SEND_PDU, or to the ranges and then the
/// descriptors of an RDMA transfer.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Directive {
    /// The command's opcode.
    pub(crate) opcode: U16,
    /// The command's flags.
    pub(crate) flags: U16,
    /// Bytes at `memory`, padding included.
    pub(crate) memory_length: U32,
    /// The command's own number.
    pub(crate) user_data: U64,
    /// The command's body; what it does not use is zero.
    pub(crate) body: [u8; BODY_LENGTH],
    /// Address of what stands behind the body.
    pub(crate) memory: U64,
}
const _: () = assert!(size_of::<Directive>() == 40);

/// Argument of [`BATCH`].
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Batch {
    /// Address of the first [`Directive`].
    pub(crate) directives: U64,
    /// How many there are, at most [`MAX_DIRECTIVES`].
    pub(crate) count: U32,
    /// Zero.
    pub(crate) reserved: U32,
}
const _: () = assert!(size_of::<Batch>() == 16);

/// Argument of [`GET_EVENTS`].
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Events {
    /// Where they go, as `read()` would return them.
    pub(crate) address: U64,
    /// Room there, in bytes.
    pub(crate) length: U64,
}
const _: () = assert!(size_of::<Events>() == 16);

/// `_IOC(direction, 'u', number, length)` of <asm-generic/ioctl.h>.
const fn number(direction: u32, number: u32, length: usize) -> u32 {
    direction << 30 | (length as u32) << 16 | (b'u' as u32) << 8 | number
}

const TO_KERNEL: u32 = 1;
const TO_USER: u32 = 2;

/// SET_SMBD_PARAMETERS; the argument is the body of SET_PARAMETERS.
pub(crate) const SET_PARAMETERS: u32 = number(TO_KERNEL, 1, PARAMETERS_LENGTH);
/// Bytes of the argument of [`SET_PARAMETERS`].
pub(crate) const PARAMETERS_LENGTH: usize = 32;
/// SET_SMBD_SESSION_ID.
pub(crate) const SET_SESSION_ID: u32 = number(TO_KERNEL, 2, size_of::<Directive>());
/// GET_MEM_PARAMS; the argument gets the body of MEMORY_PARAMETERS.
pub(crate) const GET_MEMORY_PARAMETERS: u32 = number(TO_USER, 3, MEMORY_PARAMETERS_LENGTH);
/// Bytes of what [`GET_MEMORY_PARAMETERS`] returns.
pub(crate) const MEMORY_PARAMETERS_LENGTH: usize = 32;
/// GET_SMBD_EVENT; returns the bytes.
pub(crate) const GET_EVENTS: u32 = number(TO_KERNEL, 4, size_of::<Events>());
/// SEND_PDU.
pub(crate) const SEND_PDU: u32 = number(TO_KERNEL, 5, size_of::<Directive>());
/// RDMA_READ_WRITE.
pub(crate) const RDMA_READ_WRITE: u32 = number(TO_KERNEL, 6, size_of::<Directive>());
/// SET_SMBD_DISCONNECT.
pub(crate) const DISCONNECT: u32 = number(TO_KERNEL, 7, size_of::<Directive>());
/// Any directives, in order; returns how many were taken, as `write()` returns its bytes.
pub(crate) const BATCH: u32 = number(TO_KERNEL, 8, size_of::<Batch>());
/// Nothing but the event that NOP has.
pub(crate) const NOP: u32 = number(TO_KERNEL, 9, size_of::<Directive>());
