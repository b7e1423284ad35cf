// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! What every record has in common: header, alignment, addresses.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Records start and end on multiples of this many bytes.
pub const ALIGNMENT: u32 = 8;

/// Starts every record, command or event.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Bytes of the whole record, header and padding included; a multiple of 8.
    pub length: U32,
    /// Which record this is: `OPCODE` of a [`command`](crate::command) or an
    /// [`event`](crate::event).
    pub opcode: U16,
    /// Flags that this opcode knows; the others are zero.
    pub flags: U16,
    /// The command's own number, echoed in the event that completes it; zero in other events.
    pub user_data: U64,
}

/// Bytes of a [`Header`].
pub const HEADER_LENGTH: u32 = 16;
const _: () = assert!(size_of::<Header>() == 16);

/// Starts what one `read()` returns.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    /// Events that follow.
    pub count: U32,
    /// Bytes returned, this header included.
    pub bytes: U32,
    /// Events that were still queued when this batch was taken.
    pub still_queued: U32,
    /// Bytes of the next event's record, zero when none is queued. A received message's next piece
    /// may be longer by the time it is read, if more of it arrives.
    pub next_length: U32,
}
/// Bytes of a [`BatchHeader`].
pub const BATCH_HEADER_LENGTH: u32 = 16;
const _: () = assert!(size_of::<BatchHeader>() == 16);

/// `length` rounded up to a record's alignment; `None` past 32 bits.
#[inline]
pub const fn padded(length: u32) -> Option<u32> {
    // checked_next_multiple_of() takes twice the instructions.
    match length.checked_add(ALIGNMENT - 1) {
        Some(end) => Some(end & !(ALIGNMENT - 1)),
        None => None,
    }
}

/// An IP address and port. All zero means "any" where a command allows that.
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
pub struct SocketAddress {
    /// [`SocketAddress::IPV4`], [`SocketAddress::IPV6`], or zero.
    pub family: U16,
    /// The port, as a little-endian number.
    pub port: U16,
    /// IPv6 flow information, else zero.
    pub flow: U32,
    /// IPv6 scope (interface index of a link-local address), else zero.
    pub scope: U32,
    /// Zero.
    pub reserved: U32,
    /// The address in network order; IPv4 stands in the first four bytes, the rest is zero.
    pub address: [u8; 16],
}
const _: () = assert!(size_of::<SocketAddress>() == 32);

impl SocketAddress {
    /// `family` of an IPv4 address (Linux' `AF_INET`).
    pub const IPV4: u16 = 2;
    /// `family` of an IPv6 address (Linux' `AF_INET6`).
    pub const IPV6: u16 = 10;

    /// Whether the family is known and what the family does not use is zero.
    pub fn is_valid(&self) -> bool {
        let unused: &[u8] = match self.family.get() {
            0 => &self.address,
            Self::IPV4 => self.address.get(4..).unwrap_or_default(),
            Self::IPV6 => &[],
            _ => return false,
        };
        let flow_ok =
            self.family.get() == Self::IPV6 || (self.flow == U32::ZERO && self.scope == U32::ZERO);
        self.reserved == U32::ZERO && flow_ok && unused.iter().all(|byte| *byte == 0)
    }
}

/// Fabric of a connection: InfiniBand.
pub const FABRIC_INFINIBAND: u32 = 1;
/// Fabric of a connection: RoCE.
pub const FABRIC_ROCE: u32 = 2;
/// Fabric of a connection: iWARP.
pub const FABRIC_IWARP: u32 = 3;
