// SPDX-License-Identifier: GPL-2.0-only

//! Events to records.

use super::{connect, fabric, negotiated, operators, socket_address};
use crate::context::event_queue::Event;
use kernel::prelude::*;
use usmbd_abi::event;
use usmbd_abi::memory as layout;
use usmbd_abi::record::{padded, Header};
use usmbd_engine as engine;
use zerocopy_derive::{Immutable, IntoBytes};

/// Room for the record of an event, header and body, and what was encoded into it last. Its tail
/// follows: [`tail`], or a piece's payload, which stands elsewhere.
pub(crate) struct Record {
    bytes: [u8; Self::MAX],
    /// So short that it is inside of `bytes`, as the compiler sees.
    length: u8,
    pub(crate) header: Header,
}

impl Record {
    const MAX: usize = u8::MAX as usize;

    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; Self::MAX],
            length: 0,
            header: Header::default(),
        }
    }

    /// None if the record would be longer than a record can be.
    #[inline]
    fn set<B: event::Body>(
        &mut self,
        flags: u16,
        user_data: u64,
        body: &B,
        tail_length: u32,
    ) -> Option<()> {
        let header = event::header::<B>(flags, user_data, tail_length)?;
        let end = size_of::<Header>().checked_add(size_of::<B>())?;
        let (start, rest) = self
            .bytes
            .get_mut(..end)?
            .split_at_mut_checked(size_of::<Header>())?;
        start.copy_from_slice(header.as_bytes());
        rest.copy_from_slice(body.as_bytes());
        self.header = header;
        self.length = u8::try_from(end).ok()?;
        Some(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }
}

/// Bytes of a PDU_RECEIVED before its payload.
pub(crate) const PIECE_OVERHEAD: usize = size_of::<PieceRecord>();

/// The record of a PDU_RECEIVED, up to its payload.
#[derive(Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct PieceRecord {
    pub(crate) header: Header,
    body: event::PduReceived,
}

impl PieceRecord {
    /// A record for pieces of this connection, of which [`Self::set`] tells.
    pub(crate) fn of(connection: u64) -> Option<Self> {
        Some(Self {
            header: event::header::<event::PduReceived>(0, 0, 0)?,
            body: event::PduReceived {
                connection: connection.into(),
                ..Default::default()
            },
        })
    }

    /// Tells of a piece of a message, of which `payload_length` bytes follow, and whose last
    /// fragment invalidated this token. None if the record would be longer than a record can be.
    #[inline]
    pub(crate) fn set(
        &mut self,
        piece: &engine::Piece,
        payload_length: u32,
        invalidated: Option<u32>,
    ) -> Option<()> {
        let overhead = u32::try_from(PIECE_OVERHEAD).ok()?;
        self.header.length = padded(payload_length)?.checked_add(overhead)?.into();
        self.header.flags = match invalidated {
            Some(_) => event::INVALIDATED,
            None => 0,
        }
        .into();
        self.body.total = piece.message_total.into();
        self.body.offset = piece.message_offset.into();
        self.body.payload_length = payload_length.into();
        self.body.invalidated_token = invalidated.unwrap_or(0).into();
        Some(())
    }
}

/// Bytes of the record of an event other than a piece. Takes no lock: the event may stand in a
/// queue that is locked.
pub(crate) fn length(event: &Event) -> Option<u32> {
    let body = match event {
        Event::HelloDone { .. } => size_of::<event::HelloDone>(),
        Event::NopDone { .. } => size_of::<event::NopDone>(),
        Event::MemoryParameters { .. } => size_of::<event::MemoryParameters>(),
        Event::MemoryRegistered { .. } => size_of::<event::MemoryRegistered>(),
        Event::MemoryUnregistered { .. } => size_of::<event::MemoryUnregistered>(),
        Event::Listening { .. } => size_of::<event::Listening>(),
        Event::ListenerClosed { .. } => size_of::<event::ListenerClosed>(),
        Event::ListenerChanged { .. } => size_of::<event::ListenerChanged>(),
        Event::ConnectionReady { .. } => size_of::<event::ConnectionReady>(),
        Event::ConnectionRouted { .. } => size_of::<event::ConnectionRouted>(),
        Event::Accepted { .. } => size_of::<event::Accepted>(),
        Event::Connected { .. } | Event::ConnectFailed { .. } => size_of::<event::Connected>(),
        Event::Piece { .. } | Event::HeldPiece { .. } => return None,
        Event::NegotiateAnswered { .. } => size_of::<event::NegotiateAnswered>(),
        Event::PduSent { .. } => size_of::<event::PduSent>(),
        Event::RdmaComplete { .. } => size_of::<event::RdmaComplete>(),
        Event::Disconnected { .. } => size_of::<event::Disconnected>(),
        Event::SendReady { .. } => size_of::<event::SendReady>(),
        Event::Statistics { .. } => size_of::<event::Statistics>(),
        Event::Connections { .. } => size_of::<event::Connections>(),
    };
    let fixed = size_of::<Header>().checked_add(body)?;
    let tail = tail(event).len().checked_next_multiple_of(8)?;
    u32::try_from(fixed.checked_add(tail)?).ok()
}

/// What stands behind an event's fixed body, without padding; of pieces, nothing.
pub(crate) fn tail(event: &Event) -> &[u8] {
    match event {
        Event::NegotiateAnswered { held, .. } => held.response(),
        Event::Connections { entries, .. } => entries,
        _ => &[],
    }
}

/// Encodes an event other than a piece, up to where its tail begins.
pub(crate) fn encode(record: &mut Record, event: &Event) -> Option<()> {
    match event {
        Event::HelloDone {
            user_data,
            version,
            features,
        } => {
            let body = event::HelloDone {
                version: (*version).into(),
                reserved: 0.into(),
                features: (*features).into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::NopDone { user_data } => record.set(0, *user_data, &event::NopDone {}, 0),
        Event::MemoryParameters { user_data } => {
            let body = event::MemoryParameters {
                area_offset: layout::AREA_OFFSET.into(),
                status_page_offset: layout::STATUS_PAGE_OFFSET.into(),
                buffer_count: crate::memory::BUFFER_COUNT.into(),
                buffer_size: layout::BUFFER_SIZE.into(),
                status_page_length: layout::STATUS_PAGE_LENGTH.into(),
                reserved: 0.into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::MemoryRegistered {
            user_data,
            handle,
            length,
        } => {
            let body = event::MemoryRegistered {
                handle: (*handle).into(),
                reserved: 0.into(),
                length: (*length).into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::MemoryUnregistered { user_data, handle } => {
            let body = event::MemoryUnregistered {
                handle: (*handle).into(),
                reserved: 0.into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::Listening {
            user_data,
            status,
            listener,
        } => {
            let body = event::Listening {
                status: status.number().into(),
                listener: (*listener).into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::ListenerClosed {
            user_data,
            listener,
        } => {
            let body = event::ListenerClosed {
                listener: (*listener).into(),
                reserved: 0.into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::ListenerChanged { listener } => {
            let devices = listener.devices();
            let body = event::ListenerChanged {
                listener: listener.number().into(),
                infiniband_devices: devices.infiniband.into(),
                iwarp_devices: devices.iwarp.into(),
            };
            record.set(0, 0, &body, 0)
        }
        Event::ConnectionReady {
            connection,
            listener,
            ticket,
        } => {
            let client = connection.client();
            let body = event::ConnectionReady {
                listener: (*listener).into(),
                fabric: fabric(connection.fabric()).into(),
                connection: connection.number().into(),
                ticket: *ticket,
                local: socket_address(connection.local()),
                peer: socket_address(connection.peer()),
                negotiated: negotiated(client.negotiated.as_ref()),
                client_guid: client.guid,
                session_id: client.session_id.into(),
            };
            record.set(0, 0, &body, 0)
        }
        Event::ConnectionRouted { connection } => {
            let client = connection.client();
            let body = event::ConnectionRouted {
                connection: connection.number().into(),
                // A session that was claimed is not zero, and is not known where the guid was.
                claim: match client.session_id {
                    0 => event::CLAIM_CLIENT_GUID,
                    _ => event::CLAIM_SESSION_ID,
                }
                .into(),
                fabric: fabric(connection.fabric()).into(),
                negotiated: negotiated(client.negotiated.as_ref()),
                local: socket_address(connection.local()),
                peer: socket_address(connection.peer()),
                client_guid: client.guid,
                session_id: client.session_id.into(),
            };
            record.set(0, 0, &body, 0)
        }
        Event::Accepted {
            user_data,
            connection,
            status,
        } => {
            let body = event::Accepted {
                connection: connection.number().into(),
                status: status.number().into(),
                fabric: fabric(connection.fabric()).into(),
                negotiated: negotiated(connection.negotiated().as_ref()),
                local: socket_address(connection.local()),
                peer: socket_address(connection.peer()),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::Connected {
            user_data,
            connection,
        } => record.set(0, *user_data, &connect::connected(connection), 0),
        Event::ConnectFailed {
            user_data,
            status,
            peer,
        } => record.set(0, *user_data, &connect::failed(*status, peer), 0),
        // Its payload does not stand in the event; see `encode_piece`.
        Event::Piece { .. } | Event::HeldPiece { .. } => None,
        Event::NegotiateAnswered { connection, held } => {
            let length = u32::try_from(held.response().len()).ok()?;
            let body = event::NegotiateAnswered {
                connection: (*connection).into(),
                payload_length: length.into(),
                template: held.template().into(),
            };
            record.set(0, 0, &body, length)
        }
        Event::PduSent {
            user_data,
            connection,
            status,
        } => {
            let body = event::PduSent {
                connection: (*connection).into(),
                status: status.number().into(),
                reserved: 0.into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::RdmaComplete {
            user_data,
            connection,
            status,
            length,
        } => {
            let body = event::RdmaComplete {
                connection: (*connection).into(),
                status: status.number().into(),
                length: (*length).into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::Disconnected {
            user_data,
            connection,
            reason,
        } => {
            let body = event::Disconnected {
                connection: connection.number().into(),
                reason: reason.number().into(),
                reserved: 0.into(),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::SendReady { connection } => {
            let body = event::SendReady {
                connection: connection.number().into(),
            };
            record.set(0, 0, &body, 0)
        }
        Event::Statistics {
            user_data,
            connection,
            counters,
        } => {
            let body = event::Statistics {
                connection: (*connection).into(),
                counters: operators::counters(counters),
            };
            record.set(0, *user_data, &body, 0)
        }
        Event::Connections {
            user_data,
            count,
            left,
            ..
        } => {
            let body = event::Connections {
                count: (*count).into(),
                left: (*left).into(),
            };
            let tail_length = u32::try_from(tail(event).len()).ok()?;
            record.set(0, *user_data, &body, tail_length)
        }
    }
}
