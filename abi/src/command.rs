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
/// Flag of [`SendPdu`]: the tail is [`MemoryRange`](crate::memory::MemoryRange)s in which the
/// message stands, instead of the message itself.
pub const RANGES: u16 = 1 << 2;

/// Most bytes that a fixed body has.
pub const MAX_BODY_LENGTH: usize = 72;
/// Most bytes of a record's payload.
pub const MAX_PAYLOAD_LENGTH: u32 = 16 << 20;
/// Most local ranges of one RDMA command.
pub const MAX_RANGES: u16 = 64;
/// Most remote descriptors of one RDMA command: what one SMB2 request can carry.
pub const MAX_DESCRIPTORS: u16 = 4095;
/// Negotiate templates that a context can have.
pub const MAX_TEMPLATES: u32 = 4;
/// Longest response of a negotiate template, bytes.
pub const MAX_TEMPLATE_LENGTH: u32 = 4096;
/// Shortest response of a negotiate template: SMB2 header and fixed body, [MS-SMB2] 2.2.4.
pub const MIN_TEMPLATE_LENGTH: u32 = 128;
/// Most request contexts that a template presumes.
pub const MAX_PRESUMPTIONS: u16 = 32;
/// Longest memory that one REGISTER_MEMORY takes, bytes.
pub const MAX_REGISTRATION_LENGTH: u64 = 1 << 30;

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

/// Sets one of the context's negotiate templates, or clears it. Takes effect at once, for messages
/// that come from now on; no event. The tail is the [`Presumption`]s, then the response, padded.
///
/// A template is a whole SMB2 NEGOTIATE response ([MS-SMB2] 2.2.4) for one dialect, with which the
/// listeners of this context in [`MODE_ROUTE`] answer a client whose ClientGuid nobody has claimed.
/// The driver patches MessageId, credits and SystemTime, nothing else. It is used only if the
/// request offers the response's dialect and fulfils every presumption; the lowest number that
/// fits is taken.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetNegotiateTemplate {
    /// Which template, below [`MAX_TEMPLATES`].
    pub template: U32,
    /// Bytes of the response, [`MIN_TEMPLATE_LENGTH`]..=[`MAX_TEMPLATE_LENGTH`]; zero clears the
    /// template, and then there are no presumptions.
    pub response_length: U32,
    /// [`Presumption`]s in the tail, at most [`MAX_PRESUMPTIONS`].
    pub presumption_count: U16,
    /// Zero.
    pub reserved: [U16; 3],
}

/// A negotiate context that a request must have for a template to fit; [MS-SMB2] 2.2.3.1.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Presumption {
    /// ContextType: 1 preauthentication integrity, 2 encryption, 3 compression, 8 signing, and so
    /// on.
    pub context_type: U16,
    /// A number that the context must list: a hash, cipher, compression or signing algorithm. With
    /// [`ANY_ID`] it is enough that the context is there.
    pub id: U16,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<Presumption>() == 8);
/// [`Presumption::id`]: whatever the context lists.
pub const ANY_ID: u16 = 0xffff;

/// Claims connections of listeners in [`MODE_ROUTE`] whose SESSION_SETUP names this SMB session.
/// Takes effect at once; no event.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetSessionId {
    /// SessionId of the SMB2 header, not zero.
    pub session_id: U64,
}

/// Ends a claim of this context. Takes effect at once; no event.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ClearSessionId {
    /// As it was set.
    pub session_id: U64,
}

/// Claims connections of listeners in [`MODE_ROUTE`] whose NEGOTIATE has this ClientGuid. Takes
/// effect at once; no event.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetClientGuid {
    /// The 16 bytes as they stand in the NEGOTIATE request; not all zero.
    pub client_guid: [u8; 16],
}

/// Ends a claim of this context. Takes effect at once; no event.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ClearClientGuid {
    /// As it was set.
    pub client_guid: [u8; 16],
}

/// Registers the caller's own memory, so that ranges can name it. Answered by
/// [`MemoryRegistered`](crate::event::MemoryRegistered). The only record that carries a pointer, and
/// so it is taken only from a process that has mapped the area through this context.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegisterMemory {
    /// First byte; need not be aligned.
    pub address: U64,
    /// Bytes, 1..=[`MAX_REGISTRATION_LENGTH`].
    pub length: U64,
}

/// Gives registered memory up. Answered by
/// [`MemoryUnregistered`](crate::event::MemoryUnregistered) when no transfer uses it any more.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UnregisterMemory {
    /// From [`MemoryRegistered`](crate::event::MemoryRegistered).
    pub handle: U32,
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
/// [`Listen::mode`]: the driver answers the SMB Direct negotiation at once and reads the first SMB2
/// messages, to hand the connection to the context that has claimed its ClientGuid or session.
pub const MODE_ROUTE: u16 = 1;

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

/// Connects to a peer, which becomes a connection of this context under its parameters. Answered by
/// [`Connected`](crate::event::Connected).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Connect {
    /// The peer, of a family and not "any". Port zero is 445 on InfiniBand and RoCE, and 5445 on
    /// iWARP.
    pub peer: SocketAddress,
    /// Our address, with port zero; family zero leaves the choice to the routes.
    pub local: SocketAddress,
    /// Zero.
    pub reserved: U64,
}

/// Sends one message; the tail is its payload, or with flag [`RANGES`] the local ranges in which it
/// stands, 1..=[`MAX_RANGES`], as many as the record's length has room for. Answered by
/// [`PduSent`](crate::event::PduSent). Flags: [`QUIET`], [`INVALIDATE`], [`RANGES`].
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SendPdu {
    /// The connection.
    pub connection: U64,
    /// Bytes of the message, at least 1; with flag [`RANGES`] the sum of the ranges' lengths.
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

/// Asks for a context's or a connection's counters. Answered by
/// [`Statistics`](crate::event::Statistics).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct QueryStatistics {
    /// A connection of this context, or zero for the context: the sums over the connections that
    /// it has and had.
    pub connection: U64,
}

/// Asks for the connections of the context's network namespace, whoever has them, in the order of
/// their numbers. Only for an opener with CAP_NET_ADMIN. Answered by
/// [`Connections`](crate::event::Connections).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListConnections {
    /// Only connections whose number is greater: zero to begin with, then the last one's.
    pub after: U64,
}

/// Disconnects a connection of the context's network namespace, whoever has it. Only for an opener
/// with CAP_NET_ADMIN. Takes effect at once; no event here. Its owner's DISCONNECTED has the
/// reason [`Dropped`](crate::status::Reason::Dropped).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Drop {
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

        /// Length and flags of each opcode, by the opcode: every record is looked up, and comparing
        /// takes longer.
        static LAYOUTS: [Option<(u8, u16)>; OPCODES] = {
            let mut layouts = [None; OPCODES];
            $(layouts[$opcode] = Some(($length, $flags));)*
            layouts
        };

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
            #[inline]
            pub fn of(header: &Header) -> Result<Self, Invalid> {
                let opcode = usize::from(header.opcode.get());
                let (body_length, known) = LAYOUTS.get(opcode).copied().flatten().ok_or(Invalid)?;
                let body_length = u32::from(body_length);
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
                Self::decode_body(header, &Layout::of(header)?, body)
            }

            /// As [`Command::decode`], where [`Layout::of`] has told this `layout` of the header.
            ///
            /// # Errors
            ///
            /// As [`Command::decode`].
            pub fn decode_body(
                header: &Header,
                layout: &Layout,
                body: &[u8],
            ) -> Result<Self, Invalid> {
                // Each opcode is checked in its own arm, where the compiler knows which it is.
                match header.opcode.get() {
                    $($opcode => Self::$name($name::read_from_bytes(body).map_err(|_| Invalid)?)
                        .checked(header, layout.tail_length),)*
                    _ => Err(Invalid),
                }
            }
        }
    };
}

/// One more than the highest opcode.
const OPCODES: usize = 0x53;

commands! {
    Hello = 0x0001, length 16, flags 0;
    Nop = 0x0002, length 0, flags 0;
    SetParameters = 0x0010, length 32, flags 0;
    SetNegotiateTemplate = 0x0011, length 16, flags 0;
    SetSessionId = 0x0012, length 8, flags 0;
    ClearSessionId = 0x0013, length 8, flags 0;
    SetClientGuid = 0x0014, length 16, flags 0;
    ClearClientGuid = 0x0015, length 16, flags 0;
    GetMemoryParameters = 0x0020, length 0, flags 0;
    RegisterMemory = 0x0021, length 16, flags 0;
    UnregisterMemory = 0x0022, length 8, flags 0;
    Listen = 0x0030, length 40, flags 0;
    CloseListener = 0x0031, length 8, flags 0;
    Accept = 0x0032, length 16, flags 0;
    Reject = 0x0033, length 16, flags 0;
    Connect = 0x0034, length 72, flags 0;
    SendPdu = 0x0040, length 16, flags QUIET | INVALIDATE | RANGES;
    RdmaRead = 0x0041, length 16, flags QUIET;
    RdmaWrite = 0x0042, length 16, flags QUIET;
    Disconnect = 0x0043, length 8, flags 0;
    QueryStatistics = 0x0050, length 8, flags 0;
    ListConnections = 0x0051, length 8, flags 0;
    Drop = 0x0052, length 8, flags 0;
}

/// A record that the ABI does not allow; `EINVAL`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Invalid;

impl Command {
    /// This command, if its body fits the header and asks for a tail of `tail_length` bytes.
    #[inline(always)]
    fn checked(self, header: &Header, tail_length: u32) -> Result<Self, Invalid> {
        self.check(header)?;
        if self.takes_tail(header.flags.get(), tail_length)? {
            Ok(self)
        } else {
            Err(Invalid)
        }
    }

    /// Whether the body asks for a tail of `length` bytes, padding included.
    #[inline(always)]
    fn takes_tail(&self, flags: u16, length: u32) -> Result<bool, Invalid> {
        let wanted = match self {
            Self::SendPdu(_) if flags & RANGES != 0 => {
                let most = u32::from(MAX_RANGES).wrapping_mul(RANGE_LENGTH);
                return Ok(length % RANGE_LENGTH == 0 && (RANGE_LENGTH..=most).contains(&length));
            }
            Self::SendPdu(body) => padded(body.payload_length.get()).ok_or(Invalid)?,
            Self::RdmaRead(RdmaRead { transfer }) | Self::RdmaWrite(RdmaWrite { transfer }) => {
                transfer.tail_length()
            }
            Self::SetNegotiateTemplate(body) => body.tail_length().ok_or(Invalid)?,
            _ => 0,
        };
        Ok(length == wanted)
    }

    /// Checks the values that need no knowledge of the device.
    #[inline(always)]
    fn check(&self, header: &Header) -> Result<(), Invalid> {
        let valid = match self {
            Self::Hello(body) => body.reserved == U32::ZERO && body.version != U32::ZERO,
            Self::SetParameters(body) => body.reserved == U32::ZERO,
            Self::Listen(body) => {
                body.address.is_valid()
                    && matches!(body.mode.get(), MODE_TICKET | MODE_ROUTE)
                    && body.backlog.get() <= MAX_BACKLOG
                    && body.reserved == U16::ZERO
            }
            Self::CloseListener(body) => body.reserved == U32::ZERO,
            Self::Connect(body) => body.is_valid(),
            Self::SetNegotiateTemplate(body) => body.is_valid(),
            Self::SetSessionId(body) => body.session_id != U64::ZERO,
            Self::ClearSessionId(body) => body.session_id != U64::ZERO,
            Self::SetClientGuid(body) => body.client_guid != [0; 16],
            Self::ClearClientGuid(body) => body.client_guid != [0; 16],
            Self::RegisterMemory(body) => body.is_valid(),
            Self::UnregisterMemory(body) => body.reserved == U32::ZERO,
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
            | Self::Disconnect(_)
            | Self::QueryStatistics(_)
            | Self::ListConnections(_)
            | Self::Drop(_) => true,
        };
        valid.then_some(()).ok_or(Invalid)
    }
}

/// Longest backlog of a listener.
pub const MAX_BACKLOG: u16 = 4096;

/// Bytes of a [`MemoryRange`](crate::memory::MemoryRange) in a tail.
const RANGE_LENGTH: u32 = 16;

impl SetNegotiateTemplate {
    fn is_valid(&self) -> bool {
        let length = self.response_length.get();
        let count = self.presumption_count.get();
        let lengths_fit = if length == 0 {
            count == 0
        } else {
            (MIN_TEMPLATE_LENGTH..=MAX_TEMPLATE_LENGTH).contains(&length)
                && count <= MAX_PRESUMPTIONS
        };
        lengths_fit && self.template.get() < MAX_TEMPLATES && self.reserved == [U16::ZERO; 3]
    }

    /// Bytes of presumptions and response, padding included.
    fn tail_length(&self) -> Option<u32> {
        let presumptions = u32::from(self.presumption_count.get()).checked_mul(8)?;
        padded(self.response_length.get())?.checked_add(presumptions)
    }
}

impl Connect {
    fn is_valid(&self) -> bool {
        let (peer, local) = (&self.peer, &self.local);
        let is_same_family = local.family == U16::ZERO || local.family == peer.family;
        peer.is_valid()
            && peer.family != U16::ZERO
            && peer.address != [0; 16]
            && local.is_valid()
            && is_same_family
            && local.port == U16::ZERO
            && self.reserved == U64::ZERO
    }
}

impl RegisterMemory {
    fn is_valid(&self) -> bool {
        (1..=MAX_REGISTRATION_LENGTH).contains(&self.length.get())
            && self.address.get().checked_add(self.length.get()).is_some()
    }
}

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
