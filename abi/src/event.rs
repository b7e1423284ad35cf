// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Events: what `read()` returns behind a [`BatchHeader`](crate::record::BatchHeader).

use crate::memory::Negotiated;
use crate::record::{padded, Header, SocketAddress, HEADER_LENGTH};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Flag of [`PduReceived`]: the peer invalidated `invalidated_token` with this message.
pub const INVALIDATED: u16 = 1 << 0;

/// An event's fixed body.
pub trait Body: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// Opcode in the header.
    const OPCODE: u16;
}

/// Answers HELLO.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HelloDone {
    /// Version in use: the older of the two sides'.
    pub version: U32,
    /// Zero.
    pub reserved: U32,
    /// Features in use.
    pub features: U64,
}

/// Answers NOP.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct NopDone {}

/// Answers GET_MEMORY_PARAMETERS.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MemoryParameters {
    /// Offset to map the registration area at.
    pub area_offset: U64,
    /// Offset to map the status page at.
    pub status_page_offset: U64,
    /// Buffers that the area has room for.
    pub buffer_count: U32,
    /// Bytes of one buffer.
    pub buffer_size: U32,
    /// Bytes of the status page.
    pub status_page_length: U32,
    /// Zero.
    pub reserved: U32,
}

/// Answers LISTEN.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Listening {
    /// [`Status`](crate::status::Status).
    pub status: U32,
    /// The listener's number in this context; zero if it failed.
    pub listener: U32,
}

/// Answers CLOSE_LISTENER; the last event of that listener.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListenerClosed {
    /// The listener.
    pub listener: U32,
    /// Zero.
    pub reserved: U32,
}

/// A peer connected to a listener and sent a valid Negotiate Request. ACCEPT the ticket, in any
/// context, within 30 s.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectionReady {
    /// The listener.
    pub listener: U32,
    /// One of `FABRIC_*`.
    pub fabric: U32,
    /// The connection's number: never used twice while the module is loaded.
    pub connection: U64,
    /// For ACCEPT or REJECT.
    pub ticket: [u8; 16],
    /// Our address.
    pub local: SocketAddress,
    /// The peer's address.
    pub peer: SocketAddress,
}

/// Answers ACCEPT: the connection is this context's.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Accepted {
    /// The connection.
    pub connection: U64,
    /// [`Status`](crate::status::Status). If not zero, DISCONNECTED follows.
    pub status: U32,
    /// One of `FABRIC_*`.
    pub fabric: U32,
    /// What negotiation made of the parameters.
    pub negotiated: Negotiated,
    /// Our address.
    pub local: SocketAddress,
    /// The peer's address.
    pub peer: SocketAddress,
}

/// A piece of a message; the tail is its payload. Pieces of a message come in order, and no other
/// message's between them on the same connection. The message is whole when `offset` plus
/// `payload_length` is `total`.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PduReceived {
    /// The connection.
    pub connection: U64,
    /// Bytes of the whole message.
    pub total: U32,
    /// Where in the message this piece starts.
    pub offset: U32,
    /// Bytes of this piece.
    pub payload_length: U32,
    /// With flag [`INVALIDATED`]: our key that the peer invalidated; else zero.
    pub invalidated_token: U32,
}

/// Completes SEND_PDU: the message was sent, its buffers are free.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PduSent {
    /// The connection.
    pub connection: U64,
    /// [`Status`](crate::status::Status).
    pub status: U32,
    /// Zero.
    pub reserved: U32,
}

/// Completes RDMA_READ or RDMA_WRITE.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RdmaComplete {
    /// The connection.
    pub connection: U64,
    /// [`Status`](crate::status::Status). If not zero, how much moved is not known.
    pub status: U32,
    /// Bytes that moved, zero if it failed.
    pub length: U32,
}

/// The connection ended; its last event. `user_data` is that of the DISCONNECT, if one was asked.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Disconnected {
    /// The connection.
    pub connection: U64,
    /// [`Reason`](crate::status::Reason).
    pub reason: U32,
    /// Zero.
    pub reserved: U32,
}

/// A command that got `EAGAIN` for want of room in this connection's send queue may be written
/// again.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SendReady {
    /// The connection.
    pub connection: U64,
}

macro_rules! events {
    ($($name:ident = $opcode:literal, length $length:literal;)*) => {
        $(
            impl Body for $name {
                const OPCODE: u16 = $opcode;
            }
            const _: () = assert!(size_of::<$name>() == $length);
        )*

        /// A decoded event; for [`PduReceived`] with its payload.
        #[derive(Clone, Copy, Debug)]
        pub enum Event<'a> {
            $(#[doc = concat!("See [`", stringify!($name), "`](struct@", stringify!($name), ").")] $name($name, &'a [u8]),)*
            /// An event of a newer driver; skip it.
            Unknown,
        }

        impl<'a> Event<'a> {
            /// Decodes what stands behind an event's header, up to the record's end. `None` if the
            /// record is shorter than its opcode says.
            pub fn decode(header: &Header, rest: &'a [u8]) -> Option<Self> {
                Some(match header.opcode.get() {
                    $($opcode => {
                        let (body, tail) = $name::read_from_prefix(rest).ok()?;
                        Self::$name(body, tail)
                    })*
                    _ => Self::Unknown,
                })
            }
        }
    };
}

events! {
    HelloDone = 0x8001, length 16;
    NopDone = 0x8002, length 0;
    MemoryParameters = 0x8020, length 32;
    Listening = 0x8030, length 8;
    ListenerClosed = 0x8031, length 8;
    ConnectionReady = 0x8033, length 96;
    Accepted = 0x8034, length 104;
    PduReceived = 0x8040, length 24;
    PduSent = 0x8041, length 16;
    RdmaComplete = 0x8042, length 16;
    Disconnected = 0x8043, length 16;
    SendReady = 0x8044, length 8;
}

/// The header of an event with this body and a tail of `tail_length` bytes before padding; `None`
/// past 32 bits.
pub fn header<B: Body>(flags: u16, user_data: u64, tail_length: u32) -> Option<Header> {
    let body_length = u32::try_from(size_of::<B>()).ok()?;
    let length = HEADER_LENGTH
        .checked_add(body_length)?
        .checked_add(padded(tail_length)?)?;
    Some(Header {
        length: U32::new(length),
        opcode: U16::new(B::OPCODE),
        flags: U16::new(flags),
        user_data: U64::new(user_data),
    })
}
