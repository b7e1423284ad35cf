// SPDX-License-Identifier: MIT OR Apache-2.0

//! Routing: listeners that answer the first messages themselves, and claims on what they find
//! there.
//!
//! A server of several processes listens in [`Mode::Route`](crate::Mode::Route) in one of them. The
//! others claim, each in a context of its own, the sessions and clients that are theirs, and get
//! their connections as [`ConnectionRouted`](crate::Event::ConnectionRouted) without anybody
//! handing over a descriptor.

use crate::abi::command::{self, Presumption};
use crate::abi::event;
use crate::abi::memory::Negotiated;
use crate::connection::{ConnectionId, Established, Fabric};
use crate::{address, Batch, Error, Result};
use zerocopy::IntoBytes;

/// What names a client: the ClientGuid of its SMB2 NEGOTIATE request.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientGuid([u8; 16]);

impl ClientGuid {
    /// From the bytes as they stand in the NEGOTIATE request; `None` if they are all zero, which no
    /// claim can name.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// As it stands in the request and in a record.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

/// An SMB session: SessionId of the SMB2 header.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(u64);

impl SessionId {
    /// From the number; `None` for zero, which is no session.
    pub fn new(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// As it stands in an SMB2 header and in a record.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// One of a context's four negotiate templates.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TemplateId(u32);

impl TemplateId {
    /// From a number, 0 to 3; of the templates that fit, the lowest number is used.
    pub fn new(number: u32) -> Option<Self> {
        (number < command::MAX_TEMPLATES).then_some(Self(number))
    }

    /// As it stands in a record.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What of a connection the context has claimed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Claim {
    /// Its client: NEGOTIATE is not answered.
    Client,
    /// Its session: NEGOTIATE was answered from a template.
    Session,
    /// Not known to this library.
    Unknown(u32),
}

/// A connection that came to this context because of a claim. The messages that the driver read
/// follow.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    /// The connection's number.
    pub connection: ConnectionId,
    /// What matched.
    pub claim: Claim,
    /// What it runs on, the addresses, and what negotiation made of both sides' parameters.
    pub established: Established,
    /// ClientGuid of its NEGOTIATE request.
    pub client_guid: Option<ClientGuid>,
    /// Session of its SESSION_SETUP request, if that matched.
    pub session_id: Option<SessionId>,
}

impl Routed {
    pub(crate) fn from_record(record: &event::ConnectionRouted) -> Self {
        Self {
            connection: ConnectionId::new(record.connection.get()),
            claim: match record.claim.get() {
                event::CLAIM_CLIENT_GUID => Claim::Client,
                event::CLAIM_SESSION_ID => Claim::Session,
                other => Claim::Unknown(other),
            },
            established: Established {
                fabric: Fabric::from_number(record.fabric.get()),
                negotiated: record.negotiated,
                local: address::from_record(&record.local),
                peer: address::from_record(&record.peer),
            },
            client_guid: ClientGuid::new(record.client_guid),
            session_id: SessionId::new(record.session_id.get()),
        }
    }
}

/// What is known of a connection that nobody has claimed.
#[derive(Clone, Copy, Debug)]
pub struct Unclaimed {
    /// What negotiation made of both sides' parameters.
    pub negotiated: Negotiated,
    /// ClientGuid of its NEGOTIATE request.
    pub client_guid: Option<ClientGuid>,
    /// Session of its SESSION_SETUP request, if NEGOTIATE was answered from a template.
    pub session_id: Option<SessionId>,
}

impl Unclaimed {
    /// `None` if the listener reads no messages.
    pub(crate) fn from_record(record: &event::ConnectionReady) -> Option<Self> {
        (record.negotiated != Negotiated::default()).then(|| Self {
            negotiated: record.negotiated,
            client_guid: ClientGuid::new(record.client_guid),
            session_id: SessionId::new(record.session_id.get()),
        })
    }
}

/// A NEGOTIATE request was answered from a template.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// Which connection.
    pub connection: ConnectionId,
    /// Which template.
    pub template: u32,
    /// The response, byte by byte as it was sent (SMB 3.1.1 hashes it).
    pub response: &'a [u8],
}

impl<'a> Answered<'a> {
    pub(crate) fn from_record(record: &event::NegotiateAnswered, tail: &'a [u8]) -> Result<Self> {
        Ok(Self {
            connection: ConnectionId::new(record.connection.get()),
            template: record.template.get(),
            response: tail
                .get(..record.payload_length.get() as usize)
                .ok_or(Error::Malformed("a response shorter than it says"))?,
        })
    }
}

/// Routing. No command here has an event.
impl<'p> Batch<'p> {
    /// Sets a template: the whole SMB2 NEGOTIATE response for one dialect, from 128 to 4096 bytes,
    /// with which listeners of this context in [`Mode::Route`](crate::Mode::Route) answer clients
    /// that offer that dialect and fulfil `presumptions`, of which there are at most 32.
    pub fn set_negotiate_template(
        &mut self,
        template: TemplateId,
        presumptions: &[Presumption],
        response: &'p [u8],
    ) -> Result<()> {
        let length = u32::try_from(response.len())
            .ok()
            .filter(|n| (command::MIN_TEMPLATE_LENGTH..=command::MAX_TEMPLATE_LENGTH).contains(n))
            .ok_or(Error::Refused("a template has 128 to 4096 bytes"))?;
        let count = u16::try_from(presumptions.len())
            .ok()
            .filter(|count| *count <= command::MAX_PRESUMPTIONS)
            .ok_or(Error::Refused("a template has at most 32 presumptions"))?;
        let body = command::SetNegotiateTemplate {
            template: template.number().into(),
            response_length: length.into(),
            presumption_count: count.into(),
            ..Default::default()
        };
        let list = presumptions.as_bytes();
        self.push_with_tail("SET_NEGOTIATE_TEMPLATE", 0, 0, body, &[list], response)
    }

    /// Removes a template; there need not be one.
    pub fn clear_negotiate_template(&mut self, template: TemplateId) -> Result<()> {
        let body = command::SetNegotiateTemplate {
            template: template.number().into(),
            ..Default::default()
        };
        self.record("SET_NEGOTIATE_TEMPLATE", 0, body)
    }

    /// Claims connections whose SESSION_SETUP names this session. Fails with `EEXIST` if another
    /// context has claimed it.
    pub fn set_session_id(&mut self, session: SessionId) -> Result<()> {
        let session_id = session.number().into();
        self.record("SET_SESSION_ID", 0, command::SetSessionId { session_id })
    }

    /// Ends that claim. Fails with `ENOENT` if this context has none.
    pub fn clear_session_id(&mut self, session: SessionId) -> Result<()> {
        let session_id = session.number().into();
        let body = command::ClearSessionId { session_id };
        self.record("CLEAR_SESSION_ID", 0, body)
    }

    /// Claims connections whose NEGOTIATE names this client. Fails with `EEXIST` if another context
    /// has claimed it.
    pub fn set_client_guid(&mut self, client: ClientGuid) -> Result<()> {
        let client_guid = client.bytes();
        self.record("SET_CLIENT_GUID", 0, command::SetClientGuid { client_guid })
    }

    /// Ends that claim. Fails with `ENOENT` if this context has none.
    pub fn clear_client_guid(&mut self, client: ClientGuid) -> Result<()> {
        let client_guid = client.bytes();
        let body = command::ClearClientGuid { client_guid };
        self.record("CLEAR_CLIENT_GUID", 0, body)
    }
}
