// SPDX-License-Identifier: GPL-2.0-only

//! Layouts of the three SMB Direct PDUs, [MS-SMBD] 2.2.
//!
//! Bytes only: what the fields mean, and which values are allowed, stands in
//! `repr`.

use zerocopy::little_endian::{U16, U32};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only version of the protocol, [MS-SMBD] 2.2.1.
pub const VERSION: u16 = 0x0100;

/// Flag of a data transfer: the peer wants a prompt answer, [MS-SMBD] 2.2.3.
pub const FLAG_RESPONSE_REQUESTED: u16 = 0x0001;

/// Least size of the receive that takes a Negotiate PDU, [MS-SMBD] 3.1.4.1.
pub const NEGOTIATE_RECEIVE_SIZE: u32 = 512;

/// Length of a Negotiate Request, [MS-SMBD] 2.2.1.
pub const NEGOTIATE_REQUEST_LENGTH: u32 = 20;

/// Length of a Negotiate Response, [MS-SMBD] 2.2.2.
pub const NEGOTIATE_RESPONSE_LENGTH: u32 = 32;

/// Length of a data transfer without data, [MS-SMBD] 2.2.3.
pub const DATA_TRANSFER_LENGTH: u32 = 20;

/// Where the data stands in the data transfers we send: the first multiple of
/// eight behind the header, [MS-SMBD] 2.2.3.
pub const DATA_OFFSET: u32 = 24;

/// NTSTATUS in a Negotiate Response: success.
pub const STATUS_SUCCESS: u32 = 0;

/// NTSTATUS in a Negotiate Response: no common version.
pub const STATUS_NOT_SUPPORTED: u32 = 0xC000_00BB;

/// NTSTATUS in a Negotiate Response: nobody can serve the connection.
pub const STATUS_INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;

/// Negotiate Request, [MS-SMBD] 2.2.1: active to passive, the first PDU.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NegotiateRequest {
    /// Lowest version that the sender speaks.
    pub min_version: U16,
    /// Highest version that the sender speaks.
    pub max_version: U16,
    /// Zero; ignored.
    pub reserved: U16,
    /// Credits that the sender wants to hold.
    pub credits_requested: U16,
    /// Largest PDU that the sender would like to send.
    pub preferred_send_size: U32,
    /// Largest PDU that the sender can receive.
    pub max_receive_size: U32,
    /// Largest message that the sender can reassemble.
    pub max_fragmented_size: U32,
}
const _: () = assert!(size_of::<NegotiateRequest>() == 20);

/// Negotiate Response, [MS-SMBD] 2.2.2: passive to active, the second PDU.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NegotiateResponse {
    /// Lowest version that the sender speaks.
    pub min_version: U16,
    /// Highest version that the sender speaks.
    pub max_version: U16,
    /// The version used from here on.
    pub negotiated_version: U16,
    /// Zero; ignored.
    pub reserved: U16,
    /// Credits that the sender wants to hold.
    pub credits_requested: U16,
    /// Credits that the receiver gets.
    pub credits_granted: U16,
    /// NTSTATUS of the negotiation.
    pub status: U32,
    /// Most bytes in one RDMA read or write.
    pub max_read_write_size: U32,
    /// Largest PDU that the sender is going to send.
    pub preferred_send_size: U32,
    /// Largest PDU that the sender can receive.
    pub max_receive_size: U32,
    /// Largest message that the sender can reassemble.
    pub max_fragmented_size: U32,
}
const _: () = assert!(size_of::<NegotiateResponse>() == 32);

/// Header of a data transfer, [MS-SMBD] 2.2.3: every later PDU.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DataTransfer {
    /// Credits that the sender wants to hold in all.
    pub credits_requested: U16,
    /// Credits that the receiver gets on top of those it has.
    pub credits_granted: U16,
    /// [`FLAG_RESPONSE_REQUESTED`] or nothing; other bits are ignored.
    pub flags: U16,
    /// Zero; ignored.
    pub reserved: U16,
    /// Bytes of the message that come after this fragment.
    pub remaining_data_length: U32,
    /// Where the data begins, from the start of the PDU.
    pub data_offset: U32,
    /// Bytes of data in this PDU.
    pub data_length: U32,
}
const _: () = assert!(size_of::<DataTransfer>() == 20);
