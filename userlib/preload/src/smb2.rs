// SPDX-License-Identifier: MIT OR Apache-2.0

//! Layouts of the few SMB2 messages that the preload library looks into, [MS-SMB2] 2.2.
//!
//! What the driver looks into, too, stands in the ABI's crate. All types are unaligned and
//! little-endian, so that reading one can only fail on size.

pub use usmbd::abi::smb2::{
    Header, FLAG_ASYNC, FLAG_RESPONSE, FLAG_SIGNED, NEGOTIATE, PROTOCOL_ID, STATUS_PENDING,
};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::FromBytes;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of [`Header`].
pub const HEADER_LENGTH: usize = size_of::<Header>();
/// Bytes of a READ or WRITE request up to its buffer.
pub const REQUEST_LENGTH: usize = 112;
/// Bytes of a READ response up to its data, which is all of it when the data went by RDMA.
pub const READ_RESPONSE_LENGTH: usize = 80;
/// Bytes of a buffer descriptor V1.
pub const DESCRIPTOR_LENGTH: usize = 16;

/// [`Header::command`]: READ.
pub const READ: u16 = 8;
/// [`Header::command`]: WRITE.
pub const WRITE: u16 = 9;

/// Channel of a READ or WRITE: none, the data goes inline.
pub const CHANNEL_NONE: u32 = 0;
/// Channel of a READ or WRITE: buffer descriptors V1.
pub const CHANNEL_V1: u32 = 1;
/// As [`CHANNEL_V1`], and the final response invalidates the first descriptor's token.
pub const CHANNEL_V1_INVALIDATE: u32 = 2;

/// First dialect that knows [`CHANNEL_V1_INVALIDATE`].
pub const DIALECT_302: u16 = 0x0302;

/// Most bytes of one message behind its NBT prefix.
pub const MAX_MESSAGE_LENGTH: usize = 0xFF_FFFF;

/// READ request behind the header, 2.2.19.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReadRequest {
    pub structure_size: U16,
    pub padding: u8,
    pub flags: u8,
    pub length: U32,
    pub offset: U64,
    pub file_id: [u8; 16],
    pub minimum_count: U32,
    pub channel: U32,
    pub remaining_bytes: U32,
    pub channel_info_offset: U16,
    pub channel_info_length: U16,
}
const _: () = assert!(size_of::<ReadRequest>() == REQUEST_LENGTH - HEADER_LENGTH);

/// WRITE request behind the header, 2.2.21.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WriteRequest {
    pub structure_size: U16,
    pub data_offset: U16,
    pub length: U32,
    pub offset: U64,
    pub file_id: [u8; 16],
    pub channel: U32,
    pub remaining_bytes: U32,
    pub channel_info_offset: U16,
    pub channel_info_length: U16,
    pub flags: U32,
}
const _: () = assert!(size_of::<WriteRequest>() == REQUEST_LENGTH - HEADER_LENGTH);

/// READ response behind the header, 2.2.20.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReadResponse {
    pub structure_size: U16,
    pub data_offset: u8,
    pub reserved: u8,
    pub data_length: U32,
    pub data_remaining: U32,
    pub flags: U32,
}
const _: () = assert!(size_of::<ReadResponse>() == READ_RESPONSE_LENGTH - HEADER_LENGTH);

/// `StructureSize` of a READ response that carries data; an error response has 9.
pub const READ_RESPONSE_SIZE: u16 = 17;

/// The structure at `offset` of `bytes`.
pub fn at<T: FromBytes>(bytes: &[u8], offset: usize) -> Option<T> {
    let end = offset.checked_add(size_of::<T>())?;
    T::read_from_bytes(bytes.get(offset..end)?).ok()
}

/// Puts `value` at `offset` of `bytes`; nothing if there is no room for it.
pub fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    bytes: &mut [u8],
    offset: usize,
    value: &T,
) {
    let end = offset.saturating_add(size_of::<T>());
    if let Some(room) = bytes.get_mut(offset..end) {
        room.copy_from_slice(value.as_bytes());
    }
}
