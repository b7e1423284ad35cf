// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! As much of [MS-SMB2] as it takes to find out whose a new connection is: the header, NEGOTIATE,
//! and the beginning of SESSION_SETUP.
//!
//! Offsets in messages count from the first byte of the header. Nothing here looks past what it was
//! given, and every loop is bounded by that.

use crate::command::{Presumption, ANY_ID};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::FromBytes;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Starts every message, [MS-SMB2] 2.2.1.2.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`PROTOCOL_ID`]; encrypted messages begin with 0xFD, compressed ones with 0xFC.
    pub protocol_id: [u8; 4],
    /// 64.
    pub structure_size: U16,
    /// CreditCharge.
    pub credit_charge: U16,
    /// Status of a response; ChannelSequence of a request.
    pub status: U32,
    /// [`NEGOTIATE`], [`SESSION_SETUP`], and so on.
    pub command: U16,
    /// CreditRequest of a request, CreditResponse of a response.
    pub credits: U16,
    /// `FLAG_*`.
    pub flags: U32,
    /// Where the next message of a compound starts, zero in the last.
    pub next_command: U32,
    /// MessageId.
    pub message_id: U64,
    /// Reserved, or the process id of old.
    pub reserved: U32,
    /// TreeId.
    pub tree_id: U32,
    /// SessionId.
    pub session_id: U64,
    /// Signature.
    pub signature: [u8; 16],
}
const _: () = assert!(size_of::<Header>() == 64);

/// [`Header::protocol_id`].
pub const PROTOCOL_ID: [u8; 4] = *b"\xfeSMB";
/// [`Header::command`].
pub const NEGOTIATE: u16 = 0;
/// [`Header::command`].
pub const SESSION_SETUP: u16 = 1;
/// [`Header::flags`]: a response.
pub const FLAG_RESPONSE: u32 = 1 << 0;
/// [`Header::flags`]: an AsyncId stands in the place of the TreeId.
pub const FLAG_ASYNC: u32 = 1 << 1;
/// [`Header::flags`]: the message is signed, so no byte of it may change.
pub const FLAG_SIGNED: u32 = 1 << 3;
/// [`Header::status`]: the final response comes later.
pub const STATUS_PENDING: u32 = 0x0000_0103;
/// Dialect 3.0, the first that may run over RDMA ([MS-SMB2] 2.1).
pub const DIALECT_300: u16 = 0x0300;
/// Dialect 3.1.1, the first whose NEGOTIATE has contexts.
pub const DIALECT_311: u16 = 0x0311;

/// Behind the header of a NEGOTIATE request, [MS-SMB2] 2.2.3; the dialects follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NegotiateRequestBody {
    /// 36.
    pub structure_size: U16,
    /// Dialects that follow.
    pub dialect_count: U16,
    /// SecurityMode.
    pub security_mode: U16,
    /// Reserved.
    pub reserved: U16,
    /// Capabilities.
    pub capabilities: U32,
    /// ClientGuid.
    pub client_guid: [u8; 16],
    /// Dialect 3.1.1: where the contexts start. Else part of ClientStartTime, as what follows.
    pub context_offset: U32,
    /// Dialect 3.1.1: contexts.
    pub context_count: U16,
    /// Reserved.
    pub reserved2: U16,
}
const _: () = assert!(size_of::<NegotiateRequestBody>() == 36);

/// Behind the header of a NEGOTIATE response, [MS-SMB2] 2.2.4; security buffer and contexts follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NegotiateResponseBody {
    /// 65.
    pub structure_size: U16,
    /// SecurityMode.
    pub security_mode: U16,
    /// DialectRevision.
    pub dialect: U16,
    /// Dialect 3.1.1: contexts.
    pub context_count: U16,
    /// ServerGuid.
    pub server_guid: [u8; 16],
    /// Capabilities.
    pub capabilities: U32,
    /// MaxTransactSize.
    pub max_transact_size: U32,
    /// MaxReadSize.
    pub max_read_size: U32,
    /// MaxWriteSize.
    pub max_write_size: U32,
    /// SystemTime: units of 100 ns since 1601.
    pub system_time: U64,
    /// ServerStartTime, in the same units.
    pub server_start_time: U64,
    /// Where the security buffer starts.
    pub security_buffer_offset: U16,
    /// Its bytes.
    pub security_buffer_length: U16,
    /// Dialect 3.1.1: where the contexts start.
    pub context_offset: U32,
}
const _: () = assert!(size_of::<NegotiateResponseBody>() == 64);

/// Starts a negotiate context, [MS-SMB2] 2.2.3.1; each begins on a multiple of 8.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ContextHeader {
    /// ContextType.
    pub context_type: U16,
    /// DataLength: bytes behind this header.
    pub data_length: U16,
    /// Reserved.
    pub reserved: U32,
}
const _: () = assert!(size_of::<ContextHeader>() == 8);

/// Behind the header of a SESSION_SETUP request, [MS-SMB2] 2.2.5; the security buffer follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SessionSetupRequestBody {
    /// 25.
    pub structure_size: U16,
    /// 1 to bind the connection to a session that exists.
    pub flags: u8,
    /// SecurityMode.
    pub security_mode: u8,
    /// Capabilities.
    pub capabilities: U32,
    /// Channel.
    pub channel: U32,
    /// Where the security buffer starts.
    pub security_buffer_offset: U16,
    /// Its bytes.
    pub security_buffer_length: U16,
    /// PreviousSessionId.
    pub previous_session_id: U64,
}
const _: () = assert!(size_of::<SessionSetupRequestBody>() == 24);

/// Not the message that it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

impl Header {
    /// Whether it is signed.
    pub fn is_signed(&self) -> bool {
        self.flags.get() & FLAG_SIGNED != 0
    }

    /// Whether this is an interim response: the final one has the same MessageId.
    pub fn is_interim(&self) -> bool {
        self.status.get() == STATUS_PENDING && self.flags.get() & FLAG_ASYNC != 0
    }

    /// Whether it starts a single message of this command, on its own.
    fn is(&self, command: u16, response: bool) -> bool {
        let flags = self.flags.get();
        self.protocol_id == PROTOCOL_ID
            && self.structure_size.get() == 64
            && self.command.get() == command
            && (flags & FLAG_RESPONSE != 0) == response
            && flags & FLAG_ASYNC == 0
            && self.next_command == U32::ZERO
    }
}

/// A NEGOTIATE request that is well formed.
#[derive(Clone, Copy, Debug)]
pub struct NegotiateRequest<'a> {
    /// The header.
    pub header: &'a Header,
    /// What has a fixed layout behind it.
    pub body: &'a NegotiateRequestBody,
    /// The dialects offered; at least one.
    pub dialects: &'a [U16],
    /// The contexts, from the first one's header on; empty unless dialect 3.1.1 is offered.
    contexts: &'a [u8],
    context_count: u16,
}

impl<'a> NegotiateRequest<'a> {
    /// Reads a whole message.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if it is another message, or anything that it names lies outside of it, or
    /// dialect 3.1.1 is offered without contexts.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = Header::ref_from_prefix(message).map_err(|_| Malformed)?;
        let (body, rest) = NegotiateRequestBody::ref_from_prefix(rest).map_err(|_| Malformed)?;
        let count = usize::from(body.dialect_count.get());
        if !header.is(NEGOTIATE, false) || body.structure_size.get() != 36 || count == 0 {
            return Err(Malformed);
        }
        let (dialects, rest) =
            <[U16]>::ref_from_prefix_with_elems(rest, count).map_err(|_| Malformed)?;
        let mut request = Self {
            header,
            body,
            dialects,
            contexts: &[],
            context_count: 0,
        };
        if request.offers(DIALECT_311) {
            let start = usize::try_from(body.context_offset.get()).map_err(|_| Malformed)?;
            let fixed = message.len().checked_sub(rest.len()).ok_or(Malformed)?;
            if start % 8 != 0 || start < fixed || body.context_count == U16::ZERO {
                return Err(Malformed);
            }
            request.contexts = message.get(start..).ok_or(Malformed)?;
            request.context_count = body.context_count.get();
            if request.contexts().any(|context| context.is_err()) {
                return Err(Malformed);
            }
        }
        Ok(request)
    }

    /// Whether the client speaks this dialect.
    pub fn offers(&self, dialect: u16) -> bool {
        self.dialects.iter().any(|offered| offered.get() == dialect)
    }

    /// Whether one of the contexts is what is presumed.
    pub fn fulfils(&self, presumption: &Presumption) -> bool {
        self.contexts()
            .flatten()
            .any(|context| context.fulfils(presumption))
    }

    fn contexts(&self) -> Contexts<'a> {
        Contexts {
            rest: self.contexts,
            left: self.context_count,
        }
    }
}

/// One negotiate context.
#[derive(Clone, Copy, Debug)]
struct Context<'a> {
    context_type: u16,
    data: &'a [u8],
}

impl Context<'_> {
    fn fulfils(&self, presumption: &Presumption) -> bool {
        let id = presumption.id.get();
        self.context_type == presumption.context_type.get()
            && (id == ANY_ID || self.ids().iter().any(|listed| listed.get() == id))
    }

    /// The algorithms that it lists; none where a context of this type lists none, or says that it
    /// has more than fit.
    fn ids(&self) -> &[U16] {
        // Bytes between the count and the list: SaltLength; padding and flags; two reserved
        // fields; [MS-SMB2] 2.2.3.1.1 to 2.2.3.1.7.
        let between = match self.context_type {
            1 => 2,
            2 | 8 => 0,
            3 | 7 => 6,
            _ => return &[],
        };
        let list = || {
            let (count, rest) = U16::read_from_prefix(self.data).ok()?;
            let rest = rest.get(between..)?;
            let count = usize::from(count.get());
            let (ids, _) = <[U16]>::ref_from_prefix_with_elems(rest, count).ok()?;
            Some(ids)
        };
        list().unwrap_or_default()
    }
}

/// Goes through negotiate contexts; ends behind the first that does not fit.
struct Contexts<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Contexts<'a> {
    fn take(&mut self) -> Option<Context<'a>> {
        let (header, rest) = ContextHeader::ref_from_prefix(self.rest).ok()?;
        let length = usize::from(header.data_length.get());
        let data = rest.get(..length)?;
        // The last one need not be padded.
        let next = length.checked_next_multiple_of(8)?;
        self.rest = rest.get(next..).unwrap_or_default();
        Some(Context {
            context_type: header.context_type.get(),
            data,
        })
    }
}

impl<'a> Iterator for Contexts<'a> {
    type Item = Result<Context<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let context = self.take().ok_or(Malformed);
        if context.is_err() {
            self.left = 0;
        }
        Some(context)
    }
}

/// The SessionId of a SESSION_SETUP request.
///
/// # Errors
///
/// [`Malformed`] if it is another message, or its security buffer lies outside of it.
pub fn session_id(message: &[u8]) -> Result<u64, Malformed> {
    let (header, rest) = Header::ref_from_prefix(message).map_err(|_| Malformed)?;
    let (body, _) = SessionSetupRequestBody::ref_from_prefix(rest).map_err(|_| Malformed)?;
    let start = usize::from(body.security_buffer_offset.get());
    let length = usize::from(body.security_buffer_length.get());
    let end = start.checked_add(length).ok_or(Malformed)?;
    if !header.is(SESSION_SETUP, false)
        || body.structure_size.get() != 25
        || (length > 0 && message.get(start..end).is_none())
    {
        return Err(Malformed);
    }
    Ok(header.session_id.get())
}

/// The dialect of a NEGOTIATE response that can be a template: of success, on its own, and of a
/// dialect that may run over RDMA.
///
/// # Errors
///
/// [`Malformed`] if it is anything else.
pub fn template_dialect(response: &[u8]) -> Result<u16, Malformed> {
    let (header, rest) = Header::ref_from_prefix(response).map_err(|_| Malformed)?;
    let (body, _) = NegotiateResponseBody::ref_from_prefix(rest).map_err(|_| Malformed)?;
    let dialect = body.dialect.get();
    if !header.is(NEGOTIATE, true)
        || header.status != U32::ZERO
        || body.structure_size.get() != 65
        || dialect < DIALECT_300
    {
        return Err(Malformed);
    }
    Ok(dialect)
}

/// Makes a template the response to this request: its MessageId, as many credits as it asks for
/// (at least one, at most the template's), and the SystemTime, in units of 100 ns since 1601.
///
/// # Errors
///
/// [`Malformed`] if `response` is too short for a NEGOTIATE response.
pub fn answer(
    response: &mut [u8],
    request: &NegotiateRequest<'_>,
    system_time: u64,
) -> Result<(), Malformed> {
    let (header, rest) = Header::mut_from_prefix(response).map_err(|_| Malformed)?;
    let (body, _) = NegotiateResponseBody::mut_from_prefix(rest).map_err(|_| Malformed)?;
    let most = header.credits.get();
    header.credits = request.header.credits.get().min(most).max(1).into();
    header.message_id = request.header.message_id;
    body.system_time = system_time.into();
    Ok(())
}
