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

/// Answers REGISTER_MEMORY.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MemoryRegistered {
    /// What stands in ranges in the place of a buffer's number; never the number of a buffer.
    pub handle: U32,
    /// Zero.
    pub reserved: U32,
    /// Bytes registered.
    pub length: U64,
}

/// Answers UNREGISTER_MEMORY: nothing of the driver's uses the memory any more.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MemoryUnregistered {
    /// The handle; it may be given out again.
    pub handle: U32,
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

/// The RDMA devices that a listener serves have changed. Comes once after LISTENING, then whenever
/// a device came or went, but not again before it was read: it tells how things are, not what
/// happened.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListenerChanged {
    /// The listener.
    pub listener: U32,
    /// InfiniBand and RoCE devices that it serves.
    pub infiniband_devices: U16,
    /// iWARP devices that it serves.
    pub iwarp_devices: U16,
}

/// A peer connected to a listener, and nobody has claimed the connection. ACCEPT the ticket, in any
/// context, within 30 s.
///
/// In [`MODE_TICKET`](crate::command::MODE_TICKET) its Negotiate Request is valid and not answered
/// yet; everything from `negotiated` on is zero. In [`MODE_ROUTE`](crate::command::MODE_ROUTE) it is
/// answered, and the messages that the driver read follow ACCEPTED in the context that takes the
/// ticket, as [`PduReceived`] and [`NegotiateAnswered`].
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
    /// What negotiation made of the parameters.
    pub negotiated: Negotiated,
    /// ClientGuid of the NEGOTIATE request.
    pub client_guid: [u8; 16],
    /// SessionId of the SESSION_SETUP request, if NEGOTIATE was answered by a template; else zero.
    pub session_id: U64,
}

/// A connection that this context has claimed is its own now. The messages that the driver read
/// follow: the NEGOTIATE request as [`PduReceived`], and if a template answered it,
/// [`NegotiateAnswered`] and the SESSION_SETUP request as [`PduReceived`].
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectionRouted {
    /// The connection's number: never used twice while the module is loaded.
    pub connection: U64,
    /// One of `CLAIM_*`: what matched.
    pub claim: U32,
    /// One of `FABRIC_*`.
    pub fabric: U32,
    /// What negotiation made of the parameters.
    pub negotiated: Negotiated,
    /// Our address.
    pub local: SocketAddress,
    /// The peer's address.
    pub peer: SocketAddress,
    /// ClientGuid of the NEGOTIATE request.
    pub client_guid: [u8; 16],
    /// SessionId of the SESSION_SETUP request; zero if the ClientGuid matched.
    pub session_id: U64,
}
/// [`ConnectionRouted::claim`]: the ClientGuid; NEGOTIATE is not answered.
pub const CLAIM_CLIENT_GUID: u32 = 1;
/// [`ConnectionRouted::claim`]: the session id; NEGOTIATE was answered from a template.
pub const CLAIM_SESSION_ID: u32 = 2;

/// The driver answered the NEGOTIATE request before it from a template; the tail is the response,
/// byte by byte as it was sent (SMB 3.1.1 hashes it).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NegotiateAnswered {
    /// The connection.
    pub connection: U64,
    /// Bytes of the response.
    pub payload_length: U32,
    /// Which template.
    pub template: U32,
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

/// Answers CONNECT: the connection is this context's, or there is none.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Connected {
    /// The connection; zero if it failed.
    pub connection: U64,
    /// [`Status`](crate::status::Status). If not zero, the connection never was in this context: no
    /// DISCONNECTED follows.
    pub status: U32,
    /// One of `FABRIC_*`; zero if it failed.
    pub fabric: U32,
    /// What negotiation made of the parameters; zero if it failed.
    pub negotiated: Negotiated,
    /// Our address; none if it failed.
    pub local: SocketAddress,
    /// The peer's address; if it failed, as CONNECT had it.
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

/// Answers QUERY_STATISTICS.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Statistics {
    /// The connection, or zero for the context.
    pub connection: U64,
    /// The counters.
    pub counters: Counters,
}

/// What happened on a connection, or on all of a context.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Counters {
    /// PDUs sent, without content or with.
    pub pdus_sent: U64,
    /// PDUs received.
    pub pdus_received: U64,
    /// Messages sent whole.
    pub messages_sent: U64,
    /// Messages received whole.
    pub messages_received: U64,
    /// Bytes of messages sent.
    pub message_bytes_sent: U64,
    /// Bytes of messages received.
    pub message_bytes_received: U64,
    /// RDMA_READ commands completed.
    pub rdma_reads: U64,
    /// Bytes of these.
    pub rdma_read_bytes: U64,
    /// RDMA_WRITE commands completed.
    pub rdma_writes: U64,
    /// Bytes of these.
    pub rdma_write_bytes: U64,
    /// Messages sent that invalidated a key of the peer.
    pub remote_invalidations: U64,
}
const _: () = assert!(size_of::<Counters>() == 88);

/// Answers LIST_CONNECTIONS; the tail is `count` [`ConnectionInfo`]s.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Connections {
    /// Entries in the tail, at most [`MAX_LISTED`].
    pub count: U32,
    /// Connections with greater numbers that did not fit; ask again after the last one's number.
    pub left: U32,
}
/// Most entries of one CONNECTIONS event.
pub const MAX_LISTED: u32 = 32;

/// A connection, as an operator sees it.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectionInfo {
    /// Its number.
    pub connection: U64,
    /// One of `PHASE_*`.
    pub phase: U32,
    /// One of `FABRIC_*`.
    pub fabric: U32,
    /// Our address.
    pub local: SocketAddress,
    /// The peer's address.
    pub peer: SocketAddress,
    /// Name of the RDMA device, filled up with zeros.
    pub device: [u8; 32],
    /// User id of the opener of the context that has it, in the asker's user namespace; the
    /// overflow id if nobody has it.
    pub uid: U32,
    /// PDUs that we may send.
    pub send_credits: U16,
    /// PDUs that the peer may send.
    pub receive_credits: U16,
    /// Bytes of kernel memory of its own.
    pub memory: U64,
    /// The counters.
    pub counters: Counters,
}
const _: () = assert!(size_of::<ConnectionInfo>() == 216);
/// [`ConnectionInfo::phase`]: no valid Negotiate Request yet.
pub const PHASE_NEGOTIATING: u32 = 1;
/// [`ConnectionInfo::phase`]: the driver reads its first messages.
pub const PHASE_ROUTING: u32 = 2;
/// [`ConnectionInfo::phase`]: a ticket is out.
pub const PHASE_OFFERED: u32 = 3;
/// [`ConnectionInfo::phase`]: a context has it.
pub const PHASE_SERVING: u32 = 4;
/// [`ConnectionInfo::phase`]: its context was closed; what was accepted is still sent.
pub const PHASE_LINGERING: u32 = 5;
/// [`ConnectionInfo::phase`]: it is being taken down.
pub const PHASE_DRAINING: u32 = 6;
/// [`ConnectionInfo::phase`]: a context asked for it, and the peer has not agreed yet.
pub const PHASE_CONNECTING: u32 = 7;

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
    MemoryRegistered = 0x8021, length 16;
    MemoryUnregistered = 0x8022, length 8;
    Listening = 0x8030, length 8;
    ListenerClosed = 0x8031, length 8;
    ListenerChanged = 0x8032, length 8;
    ConnectionReady = 0x8033, length 144;
    Accepted = 0x8034, length 104;
    ConnectionRouted = 0x8035, length 128;
    NegotiateAnswered = 0x8036, length 16;
    Connected = 0x8037, length 104;
    PduReceived = 0x8040, length 24;
    PduSent = 0x8041, length 16;
    RdmaComplete = 0x8042, length 16;
    Disconnected = 0x8043, length 16;
    SendReady = 0x8044, length 8;
    Statistics = 0x8050, length 96;
    Connections = 0x8051, length 8;
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
