// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! What `mmap()` shows: the registration area and the status page.

use crate::record::SocketAddress;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of the registration area, for a shared mapping that may read and write.
pub const AREA_OFFSET: u64 = 0;
/// Bytes of one buffer of the area.
pub const BUFFER_SIZE: u32 = 1 << 20;
/// Offset of the status page, for a mapping that only reads.
pub const STATUS_PAGE_OFFSET: u64 = 1 << 40;
/// Bytes of the status page.
pub const STATUS_PAGE_LENGTH: u32 = 4096;

/// Local memory of an RDMA command: bytes of one buffer of the area.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MemoryRange {
    /// Index of the buffer in the area.
    pub buffer: U32,
    /// First byte in the buffer.
    pub offset: U32,
    /// Bytes; not zero, and all inside the buffer.
    pub length: U32,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<MemoryRange>() == 16);

/// Remote memory: Buffer Descriptor V1 as it came from the wire, [MS-SMBD] 2.2.3.1.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BufferDescriptorV1 {
    /// The peer's address of the first byte.
    pub offset: U64,
    /// The peer's key (rkey, STag) for it.
    pub token: U32,
    /// Bytes described.
    pub length: U32,
}
const _: () = assert!(size_of::<BufferDescriptorV1>() == 16);

/// The status page of a context: at any time, without a `read()`.
///
/// The writer makes `sequence` odd, changes fields, and makes it even again: read `sequence`, copy
/// the page, read `sequence` again, and start over if it was odd or changed. On a context with
/// several connections the connection fields stay zero.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StatusPage {
    /// [`VERSION`](crate::VERSION) of the driver.
    pub abi_version: U32,
    /// Odd while the page is being changed.
    pub sequence: U32,
    /// Connections in the context.
    pub connections: U32,
    /// Of the one connection: one of `STATE_*`.
    pub state: U32,
    /// Of the one connection: why it ended, a [`Reason`](crate::status::Reason); zero until then.
    pub reason: U32,
    /// Of the one connection: one of `FABRIC_*`.
    pub fabric: U32,
    /// Of the one connection: its number.
    pub connection: U64,
    /// Of the one connection: our address.
    pub local: SocketAddress,
    /// Of the one connection: the peer's address.
    pub peer: SocketAddress,
    /// Of the one connection: what negotiation made of the parameters.
    pub negotiated: Negotiated,
    /// Of the one connection: message bytes that SEND_PDU took since it was accepted.
    pub bytes_accepted: U64,
    /// Of the one connection: of these, the bytes the peer has acknowledged (their sends completed).
    pub bytes_completed: U64,
}
const _: () = assert!(size_of::<StatusPage>() == 136);

/// [`StatusPage::state`]: no connection yet.
pub const STATE_NONE: u32 = 0;
/// [`StatusPage::state`]: accepted, the response is on its way.
pub const STATE_ACCEPTING: u32 = 1;
/// [`StatusPage::state`]: messages flow.
pub const STATE_ESTABLISHED: u32 = 2;
/// [`StatusPage::state`]: ended; the reason stands beside.
pub const STATE_DISCONNECTED: u32 = 3;

/// What negotiation made of both sides' parameters; [MS-SMBD] 3.1.1.1.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    PartialEq,
    Unaligned,
)]
#[repr(C)]
pub struct Negotiated {
    /// Largest PDU we send, bytes.
    pub max_send_size: U32,
    /// Largest PDU the peer may send, bytes.
    pub max_receive_size: U32,
    /// Largest message SEND_PDU takes, bytes.
    pub max_fragmented_send_size: U32,
    /// Largest message the peer may send, bytes.
    pub max_fragmented_recv_size: U32,
    /// Most bytes of one RDMA transfer.
    pub max_read_write_size: U32,
    /// Most receives that are posted for the peer.
    pub receive_credit_max: U16,
    /// Send credits that we ask the peer for.
    pub send_credit_target: U16,
}
const _: () = assert!(size_of::<Negotiated>() == 24);
