// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Commands: what `write()` takes.
//!
//! A command is decoded in two steps, so that the driver can fetch each byte once: [`Layout::of`]
//! reads the header and says how long the fixed body is; [`Command::decode`] takes header and body
//! and checks every value that can be checked without knowing the device. What remains of the
//! record is its tail.

use crate::record::{padded, Header, SocketAddress, ALIGNMENT, HEADER_LENGTH};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Flag of commands that take effect later: make an event only if it failed.
pub const QUIET: u16 = 1 << 0;
/// Flag of [`SendPdu`]: send with invalidate of `invalidate_token`.
pub const INVALIDATE: u16 = 1 << 1;

/// Most bytes that a fixed body has.
pub const MAX_BODY_LENGTH: usize = 96;
/// Most bytes of a record's payload.
pub const MAX_PAYLOAD_LENGTH: u32 = 16 << 20;
/// Most local ranges of one RDMA command.
pub const MAX_RANGES: u16 = 64;
/// Most remote descriptors of one RDMA command: what one SMB2 request can carry.
pub const MAX_DESCRIPTORS: u16 = 4095;

/// A command's fixed body.
pub trait Body: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// Opcode in the header.
    const OPCODE: u16;
    /// Flags that may be set in the header.
    const FLAGS: u16 = 0;
}

/// Says which version and features the caller knows, and learns which are used. May be repeated.
/// Answered by [`HelloDone`](crate::event::HelloDone).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Hello {
    /// Newest version that the caller knows.
    pub version: U32,
    /// Zero.
    pub reserved: U32,
    /// `FEATURE_*` that the caller wants; unknown ones are left out of the answer, not refused.
    pub features: U64,
}
/// Feature: `read()` returns one event at most.
pub const FEATURE_AT_MOST_ONE: u64 = 1 << 0;

/// Answered by [`NopDone`](crate::event::NopDone), in queue order.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Nop {}

/// Sets the parameters of connections that this context accepts from now on. A zero leaves that
/// parameter as it is. Takes effect at once; no event.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetParameters {
    /// Receives posted for the peer at most, 1..=255 (ReceiveCreditMax).
    pub receive_credit_max: U32,
    /// Credits we ask the peer for, 1..=255 (SendCreditTarget).
    pub send_credit_target: U32,
    /// Largest PDU to send, 128..=4096 bytes (MaxSendSize).
    pub max_send_size: U32,
    /// Largest PDU to receive, 128..=4096 bytes (MaxReceiveSize).
    pub max_receive_size: U32,
    /// Largest message to receive, 131072..=16777216 bytes (MaxFragmentedRecvSize).
    pub max_fragmented_recv_size: U32,
    /// Most bytes of one RDMA transfer, 4096..=16777216 (MaxReadWriteSize).
    pub max_read_write_size: U32,
    /// Milliseconds without a PDU after which the peer is probed, 1000..=3600000
    /// (KeepaliveInterval).
    pub keepalive_interval: U32,
    /// Zero.
    pub reserved: U32,
}

/// Answered by [`MemoryParameters`](crate::event::MemoryParameters).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct GetMemoryParameters {}

/// Listens for SMB Direct connections. Answered by [`Listening`](crate::event::Listening).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Listen {
    /// Address to listen on; family zero is every address of both families. `port` is the port on
    /// InfiniBand and RoCE, zero for 445.
    pub address: SocketAddress,
    /// Port on iWARP, zero for 5445.
    pub iwarp_port: U16,
    /// One of `MODE_*`.
    pub mode: U16,
    /// Connections that wait for ACCEPT at most, 1..=4096; zero for 64.
    pub backlog: U16,
    /// Zero.
    pub reserved: U16,
}
/// [`Listen::mode`]: a connection is handed over by ticket.
pub const MODE_TICKET: u16 = 0;

/// Ends a listener. Connections that were not accepted are dropped. Answered by
/// [`ListenerClosed`](crate::event::ListenerClosed).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CloseListener {
    /// Number from [`Listening`](crate::event::Listening).
    pub listener: U32,
    /// Zero.
    pub reserved: U32,
}

/// Takes the connection that has this ticket into this context, under this context's parameters.
/// Answered by [`Accepted`](crate::event::Accepted).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Accept {
    /// From [`ConnectionReady`](crate::event::ConnectionReady); good once, for 30 s.
    pub ticket: [u8; 16],
}

/// Refuses the connection that has this ticket: the peer gets a failure response. No event.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Reject {
    /// From [`ConnectionReady`](crate::event::ConnectionReady).
    pub ticket: [u8; 16],
}

/// Sends one message; the tail is its payload. Answered by [`PduSent`](crate::event::PduSent).
/// Flags: [`QUIET`], [`INVALIDATE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SendPdu {
    /// The connection.
    pub connection: U64,
    /// Bytes of the message, at least 1.
    pub payload_length: U32,
    /// With flag [`INVALIDATE`]: the peer's key to invalidate. Else zero.
    pub invalidate_token: U32,
}

/// Reads the peer's memory into ours (serves an SMB2 WRITE). The tail is the ranges, then the
/// descriptors. Answered by [`RdmaComplete`](crate::event::RdmaComplete). Flag: [`QUIET`].
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RdmaRead {
    /// What to move.
    pub transfer: Transfer,
}

/// Writes our memory into the peer's (serves an SMB2 READ). As [`RdmaRead`] else. A SEND_PDU that
/// is written after it on the same connection arrives after its data.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RdmaWrite {
    /// What to move.
    pub transfer: Transfer,
}

/// Body of both RDMA commands. As many bytes move as the ranges have; the descriptors must describe
/// at least that many, and the last ones are trimmed.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Transfer {
    /// The connection.
    pub connection: U64,
    /// [`MemoryRange`](crate::memory::MemoryRange)s in the tail, 1..=[`MAX_RANGES`].
    pub range_count: U16,
    /// [`BufferDescriptorV1`](crate::memory::BufferDescriptorV1)s behind them,
    /// 1..=[`MAX_DESCRIPTORS`].
    pub descriptor_count: U16,
    /// Zero.
    pub reserved: U32,
}

/// Disconnects. Messages not yet sent are dropped. Its event is
/// [`Disconnected`](crate::event::Disconnected), with this command's `user_data`.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Disconnect {
    /// The connection.
    pub connection: U64,
}

/// What the table of commands says of one; for those who go through all of them.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The command's name here.
    pub name: &'static str,
    /// Opcode in the header.
    pub opcode: u16,
    /// Bytes of the fixed body.
    pub body_length: usize,
    /// Flags that may be set in the header.
    pub flags: u16,
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $opcode:literal, length $length:literal, flags $flags:expr;)*) => {
        $(
            impl Body for $name {
                const OPCODE: u16 = $opcode;
                const FLAGS: u16 = $flags;
            }
            const _: () = assert!(size_of::<$name>() == $length && size_of::<$name>() <= MAX_BODY_LENGTH);
        )*

        /// All commands, in the order of their opcodes.
        pub const COMMANDS: &[Entry] = &[
            $(Entry { name: stringify!($name), opcode: $opcode, body_length: $length, flags: $flags },)*
        ];

        /// A decoded command; its tail, if any, is still to be fetched.
        #[derive(Clone, Copy, Debug)]
        pub enum Command {
            $(#[doc = concat!("See [`", stringify!($name), "`](struct@", stringify!($name), ").")] $name($name),)*
        }

        /// What a header promises.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub struct Layout {
            /// Bytes of the fixed body.
            pub body_length: usize,
            /// Bytes behind the fixed body, padding included.
            pub tail_length: u32,
        }

        impl Layout {
            /// Checks the header alone: opcode known, flags known, length a multiple of 8 and not
            /// shorter than the opcode's fixed body.
            ///
            /// # Errors
            ///
            /// [`Invalid`], where the driver answers `EINVAL`.
            pub fn of(header: &Header) -> Result<Self, Invalid> {
                let (body_length, known) = match header.opcode.get() {
                    $($opcode => ($length, $flags),)*
                    _ => return Err(Invalid),
                };
                let fixed = HEADER_LENGTH.checked_add(body_length).ok_or(Invalid)?;
                let length = header.length.get();
                if header.flags.get() & !known != 0 || length % ALIGNMENT != 0 {
                    return Err(Invalid);
                }
                Ok(Self {
                    body_length: usize::try_from(body_length).map_err(|_| Invalid)?,
                    tail_length: length.checked_sub(fixed).ok_or(Invalid)?,
                })
            }
        }

        impl Command {
            /// Decodes a fixed body, and checks it with the header: reserved fields, counts, and the
            /// record's length.
            ///
            /// # Errors
            ///
            /// [`Invalid`], where the driver answers `EINVAL`.
            pub fn decode(header: &Header, body: &[u8]) -> Result<Self, Invalid> {
                let layout = Layout::of(header)?;
                let command = match header.opcode.get() {
                    $($opcode => Self::$name($name::read_from_bytes(body).map_err(|_| Invalid)?),)*
                    _ => return Err(Invalid),
                };
                command.check(header)?;
                if command.tail_length()? != layout.tail_length {
                    return Err(Invalid);
                }
                Ok(command)
            }
        }
    };
}

commands! {
    Hello = 0x0001, length 16, flags 0;
    Nop = 0x0002, length 0, flags 0;
    SetParameters = 0x0010, length 32, flags 0;
    GetMemoryParameters = 0x0020, length 0, flags 0;
    Listen = 0x0030, length 40, flags 0;
    CloseListener = 0x0031, length 8, flags 0;
    Accept = 0x0032, length 16, flags 0;
    Reject = 0x0033, length 16, flags 0;
    SendPdu = 0x0040, length 16, flags QUIET | INVALIDATE;
    RdmaRead = 0x0041, length 16, flags QUIET;
    RdmaWrite = 0x0042, length 16, flags QUIET;
    Disconnect = 0x0043, length 8, flags 0;
}

/// A record that the ABI does not allow; `EINVAL`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Invalid;

impl Command {
    /// Bytes of the tail that the body asks for, padding included.
    fn tail_length(&self) -> Result<u32, Invalid> {
        match self {
            Self::SendPdu(body) => padded(body.payload_length.get()).ok_or(Invalid),
            Self::RdmaRead(RdmaRead { transfer }) | Self::RdmaWrite(RdmaWrite { transfer }) => {
                Ok(transfer.tail_length())
            }
            _ => Ok(0),
        }
    }

    /// Checks the values that need no knowledge of the device.
    fn check(&self, header: &Header) -> Result<(), Invalid> {
        let valid = match self {
            Self::Hello(body) => body.reserved == U32::ZERO && body.version != U32::ZERO,
            Self::SetParameters(body) => body.reserved == U32::ZERO,
            Self::Listen(body) => {
                body.address.is_valid()
                    && body.mode.get() == MODE_TICKET
                    && body.backlog.get() <= MAX_BACKLOG
                    && body.reserved == U16::ZERO
            }
            Self::CloseListener(body) => body.reserved == U32::ZERO,
            Self::SendPdu(body) => {
                (1..=MAX_PAYLOAD_LENGTH).contains(&body.payload_length.get())
                    && (header.flags.get() & INVALIDATE != 0 || body.invalidate_token == U32::ZERO)
            }
            Self::RdmaRead(RdmaRead { transfer }) | Self::RdmaWrite(RdmaWrite { transfer }) => {
                transfer.is_valid()
            }
            Self::Nop(_)
            | Self::GetMemoryParameters(_)
            | Self::Accept(_)
            | Self::Reject(_)
            | Self::Disconnect(_) => true,
        };
        valid.then_some(()).ok_or(Invalid)
    }
}

/// Longest backlog of a listener.
pub const MAX_BACKLOG: u16 = 4096;

impl Transfer {
    fn is_valid(&self) -> bool {
        (1..=MAX_RANGES).contains(&self.range_count.get())
            && (1..=MAX_DESCRIPTORS).contains(&self.descriptor_count.get())
            && self.reserved == U32::ZERO
    }

    /// Bytes of ranges and descriptors; both have 16 bytes each.
    fn tail_length(&self) -> u32 {
        let entries =
            u32::from(self.range_count.get()).wrapping_add(u32::from(self.descriptor_count.get()));
        // At most 2 * 65535 * 16 bytes: never wraps.
        entries.wrapping_mul(16)
    }
}

/// The header of a command with this body and a tail of `tail_length` bytes before padding.
///
/// # Errors
///
/// [`Invalid`] if the record would be longer than a `u32` says.
pub fn header<B: Body>(flags: u16, user_data: u64, tail_length: u32) -> Result<Header, Invalid> {
    let body_length = u32::try_from(size_of::<B>()).map_err(|_| Invalid)?;
    let length = HEADER_LENGTH
        .checked_add(body_length)
        .and_then(|fixed| fixed.checked_add(padded(tail_length)?))
        .ok_or(Invalid)?;
    Ok(Header {
        length: U32::new(length),
        opcode: U16::new(B::OPCODE),
        flags: U16::new(flags),
        user_data: U64::new(user_data),
    })
}
