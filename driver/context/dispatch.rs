// SPDX-License-Identifier: GPL-2.0-only

//! Commands to methods, events to records: the one place where ABI types and the driver's own are
//! converted into each other.

use super::connection::{Connection, SendRequest, TransferRequest};
use super::event_queue::{Event, SlotOf};
use super::listener::ListenRequest;
use super::plug::Plug;
use super::Context;
use crate::verbs::{Fabric, SocketAddr};
use kernel::iov::IovIterSource;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::command::{self, Command};
use usmbd_abi::event;
use usmbd_abi::memory as layout;
use usmbd_abi::record::{self, Header, SocketAddress};
use usmbd_abi::status::Reason;
use usmbd_engine as engine;
use usmbd_engine::Parameters;
use zerocopy::IntoBytes;

/// Ports that SMB Direct has by default ([MS-SMBD] 1.9).
const DEFAULT_PORT: u16 = 445;
const DEFAULT_IWARP_PORT: u16 = 5445;
const DEFAULT_BACKLOG: u16 = 64;
/// Limits of a connection's credits: what one queue pair is made for.
const MAX_CREDITS: u32 = 255;

/// Carries out one command. What is left of its record, its tail, is read from `tail`. What it
/// queues on a connection is posted when `plug` is pulled.
///
/// # Errors
///
/// The errno of the write() if this is its first record; nothing has happened then.
pub(crate) fn command(
    context: &Arc<Context>,
    header: &Header,
    command: &Command,
    tail: &mut IovIterSource<'_>,
    nowait: bool,
    plug: &mut Plug,
) -> Result {
    let user_data = header.user_data.get();
    let quiet = header.flags.get() & command::QUIET != 0;
    match command {
        Command::Hello(body) => {
            context.queue().reserve(1, SlotOf::Answer)?;
            let features = body.features.get() & command::FEATURE_AT_MOST_ONE;
            context.set_at_most_one(features & command::FEATURE_AT_MOST_ONE != 0);
            context.post(Event::HelloDone {
                user_data,
                version: body.version.get().min(usmbd_abi::VERSION),
                features,
            });
            Ok(())
        }
        Command::Nop(_) => {
            context.queue().reserve(1, SlotOf::Command)?;
            context.post(Event::NopDone { user_data });
            Ok(())
        }
        Command::SetParameters(body) => {
            context.set_parameters(parameters(&context.parameters(), body)?);
            Ok(())
        }
        Command::GetMemoryParameters(_) => {
            context.queue().reserve(1, SlotOf::Answer)?;
            context.post(Event::MemoryParameters { user_data });
            Ok(())
        }
        Command::Listen(body) => context.listen(ListenRequest {
            user_data,
            address: address(&body.address),
            port: or_default(body.address.port.get(), DEFAULT_PORT),
            iwarp_port: or_default(body.iwarp_port.get(), DEFAULT_IWARP_PORT),
            backlog: or_default(body.backlog.get(), DEFAULT_BACKLOG),
        }),
        Command::CloseListener(body) => {
            context.queue().reserve(1, SlotOf::Command)?;
            match context.take_listener(body.listener.get()) {
                Some(listener) => {
                    listener.close();
                    let listener = listener.number();
                    context.post(Event::ListenerClosed {
                        user_data,
                        listener,
                    });
                    Ok(())
                }
                None => {
                    context.queue().release(1, SlotOf::Command);
                    Err(ENOENT)
                }
            }
        }
        Command::Accept(body) => Connection::accept(context, &body.ticket, user_data),
        Command::Reject(body) => Connection::reject(&body.ticket),
        Command::SendPdu(body) => {
            let connection = context.connection(body.connection.get()).ok_or(ENOENT)?;
            let length = body.payload_length.get();
            let request = SendRequest {
                user_data,
                quiet,
                invalidate: (header.flags.get() & command::INVALIDATE != 0)
                    .then(|| body.invalidate_token.get()),
                length,
            };
            context.queue().reserve(1, SlotOf::Command)?;
            let padding = record::padded(length)
                .unwrap_or(length)
                .saturating_sub(length);
            let result = connection.send(&request, tail, padding, nowait, plug);
            if result.is_err() {
                context.queue().release(1, SlotOf::Command);
            }
            result
        }
        Command::RdmaRead(command::RdmaRead { transfer }) => {
            let request = transfer_request(false, user_data, quiet, transfer);
            transfer_command(context, &request, transfer, tail, nowait, plug)
        }
        Command::RdmaWrite(command::RdmaWrite { transfer }) => {
            let request = transfer_request(true, user_data, quiet, transfer);
            transfer_command(context, &request, transfer, tail, nowait, plug)
        }
        Command::Disconnect(body) => {
            let connection = context.connection(body.connection.get()).ok_or(ENOENT)?;
            // What was written in front of it takes effect in front of it.
            plug.pull();
            connection.disconnect_by_command(user_data)
        }
    }
}

fn transfer_request(
    write: bool,
    user_data: u64,
    quiet: bool,
    body: &command::Transfer,
) -> TransferRequest {
    TransferRequest {
        user_data,
        quiet,
        write,
        range_count: body.range_count.get(),
        descriptor_count: body.descriptor_count.get(),
    }
}

fn transfer_command(
    context: &Arc<Context>,
    request: &TransferRequest,
    body: &command::Transfer,
    tail: &mut IovIterSource<'_>,
    nowait: bool,
    plug: &mut Plug,
) -> Result {
    let connection = context.connection(body.connection.get()).ok_or(ENOENT)?;
    context.queue().reserve(1, SlotOf::Command)?;
    let result = connection.transfer(context, request, tail, nowait, plug);
    if result.is_err() {
        context.queue().release(1, SlotOf::Command);
    }
    result
}

fn or_default(value: u16, default: u16) -> u16 {
    if value == 0 {
        default
    } else {
        value
    }
}

/// The parameters after SET_PARAMETERS.
fn parameters(old: &Parameters, body: &command::SetParameters) -> Result<Parameters> {
    let changed = |new: u32, old: u32| if new == 0 { old } else { new };
    let credits = |new: u32, old: u16| match new {
        0 => Ok(old),
        1..=MAX_CREDITS => u16::try_from(new).map_err(|_| EINVAL),
        _ => Err(EINVAL),
    };
    let parameters = Parameters {
        receive_credit_max: credits(body.receive_credit_max.get(), old.receive_credit_max)?,
        send_credit_target: credits(body.send_credit_target.get(), old.send_credit_target)?,
        max_send_size: changed(body.max_send_size.get(), old.max_send_size),
        max_receive_size: changed(body.max_receive_size.get(), old.max_receive_size),
        max_fragmented_recv_size: changed(
            body.max_fragmented_recv_size.get(),
            old.max_fragmented_recv_size,
        ),
        max_read_write_size: changed(body.max_read_write_size.get(), old.max_read_write_size),
        keepalive_interval_ms: changed(body.keepalive_interval.get(), old.keepalive_interval_ms),
    };
    let page = kernel::page::PAGE_SIZE as u32;
    // A PDU stands in one page, so that it is one entry of a work request.
    if parameters.max_send_size > page
        || parameters.max_receive_size > page
        || parameters.keepalive_interval_ms > 3_600_000
        || parameters.validate().is_err()
    {
        return Err(EINVAL);
    }
    Ok(parameters)
}

fn address(address: &SocketAddress) -> Option<SocketAddr> {
    match address.family.get() {
        SocketAddress::IPV4 => {
            let [a, b, c, d, ..] = address.address;
            Some(SocketAddr::v4([a, b, c, d], 0))
        }
        SocketAddress::IPV6 => Some(SocketAddr::v6(
            address.address,
            0,
            address.flow.get(),
            address.scope.get(),
        )),
        _ => None,
    }
}

fn socket_address(address: &SocketAddr) -> SocketAddress {
    SocketAddress {
        family: address.family().into(),
        port: address.port().into(),
        flow: address.flow().into(),
        scope: address.scope().into(),
        reserved: 0.into(),
        address: *address.address(),
    }
}

fn fabric(fabric: Fabric) -> u32 {
    match fabric {
        Fabric::InfiniBand => record::FABRIC_INFINIBAND,
        Fabric::Roce => record::FABRIC_ROCE,
        Fabric::Iwarp => record::FABRIC_IWARP,
    }
}

fn negotiated(negotiated: Option<&engine::Negotiated>) -> layout::Negotiated {
    negotiated.map_or_else(layout::Negotiated::default, |values| layout::Negotiated {
        max_send_size: values.max_send_size.into(),
        max_receive_size: values.max_receive_size.into(),
        max_fragmented_send_size: values.max_fragmented_send_size.into(),
        max_fragmented_recv_size: values.max_fragmented_recv_size.into(),
        max_read_write_size: values.max_read_write_size.into(),
        receive_credit_max: values.receive_credit_target.into(),
        send_credit_target: values.send_credit_target.into(),
    })
}

/// Fills in what the status page says of a connection that does not change any more.
pub(crate) fn describe(
    page: &mut layout::StatusPage,
    connection: &Connection,
    values: Option<&engine::Negotiated>,
) {
    page.connection = connection.number().into();
    page.fabric = fabric(connection.fabric()).into();
    page.local = socket_address(connection.local());
    page.peer = socket_address(connection.peer());
    page.negotiated = negotiated(values);
}

/// An engine's reason, as the ABI says it.
pub(crate) fn reason(reason: engine::Reason) -> Reason {
    use engine::Reason as R;
    match reason {
        R::LocalDisconnect | R::Rejected | R::InvalidMessage => Reason::Local,
        R::PeerDisconnected => Reason::Peer,
        R::DeviceRemoved => Reason::DeviceRemoved,
        R::PassiveNoReceive | R::PassiveNoCredits | R::ActiveNoCredits => Reason::NoMemory,
        R::PassiveTimeout | R::ActiveTimeout => Reason::NegotiationTimeout,
        R::RequestTooShort | R::ResponseTooShort => Reason::NegotiateLength,
        R::RequestVersion | R::ResponseVersion => Reason::NegotiateVersion,
        R::RequestCredits | R::ResponseCredits => Reason::NegotiateCredits,
        R::RequestReceiveSize
        | R::RequestFragmentedSize
        | R::ResponseSizes
        | R::ResponsePreferredSendSize => Reason::NegotiateSizes,
        R::ResponseStatus => Reason::NegotiateStatus,
        R::TransferTooShort => Reason::DataLength,
        R::TransferCredits => Reason::DataCredits,
        R::TransferAlignment | R::DataInHeader => Reason::DataOffset,
        R::TransferBounds => Reason::DataBounds,
        R::TransferMessageSize | R::ReassemblyTooLong => Reason::MessageTooLong,
        R::TransferMessageCutShort | R::FragmentTooLong | R::ReassemblyRestarted => {
            Reason::Fragments
        }
        R::KeepaliveTimeout => Reason::KeepaliveTimeout,
        R::ProviderError => Reason::Provider,
        R::ReceiveTooLong => Reason::ReceiveLength,
        R::NoReceiveCredit => Reason::CreditOverrun,
    }
}

/// Whether a reason says that the peer broke the protocol, or fell silent where it may not.
pub(crate) fn is_protocol_error(reason: Reason) -> bool {
    reason == Reason::ReceiveLength || reason.number() >= Reason::NegotiationTimeout.number()
}

/// An event's record: header and body. A piece's payload follows it and stands elsewhere.
pub(crate) struct Record {
    bytes: [u8; Self::MAX],
    length: usize,
    pub(crate) header: Header,
}

impl Record {
    const MAX: usize = 128;

    fn new<B: event::Body>(flags: u16, user_data: u64, body: &B, tail_length: u32) -> Option<Self> {
        let header = event::header::<B>(flags, user_data, tail_length)?;
        let mut bytes = [0; Self::MAX];
        let mut length = 0usize;
        for part in [header.as_bytes(), body.as_bytes()] {
            let end = length.checked_add(part.len())?;
            bytes.get_mut(length..end)?.copy_from_slice(part);
            length = end;
        }
        Some(Self {
            bytes,
            length,
            header,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Bytes of a PDU_RECEIVED before its payload.
pub(crate) const PIECE_OVERHEAD: usize = size_of::<Header>() + size_of::<event::PduReceived>();

/// Encodes a piece of a message, of which `payload_length` bytes follow, and whose last fragment
/// invalidated this token. None if the record would be longer than a record can be.
pub(crate) fn encode_piece(
    connection: u64,
    piece: &engine::Piece,
    payload_length: u32,
    invalidated: Option<u32>,
) -> Option<Record> {
    let flags = if invalidated.is_some() {
        event::INVALIDATED
    } else {
        0
    };
    let body = event::PduReceived {
        connection: connection.into(),
        total: piece.message_total.into(),
        offset: piece.message_offset.into(),
        payload_length: payload_length.into(),
        invalidated_token: invalidated.unwrap_or(0).into(),
    };
    Record::new(flags, 0, &body, payload_length)
}

/// Bytes of the record of an event other than a piece.
pub(crate) fn length(event: &Event) -> Option<u32> {
    encode(event).map(|record| record.header.length.get())
}

/// Encodes an event other than a piece.
pub(crate) fn encode(event: &Event) -> Option<Record> {
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
            Record::new(0, *user_data, &body, 0)
        }
        Event::NopDone { user_data } => Record::new(0, *user_data, &event::NopDone {}, 0),
        Event::MemoryParameters { user_data } => {
            let body = event::MemoryParameters {
                area_offset: layout::AREA_OFFSET.into(),
                status_page_offset: layout::STATUS_PAGE_OFFSET.into(),
                buffer_count: crate::memory::BUFFER_COUNT.into(),
                buffer_size: layout::BUFFER_SIZE.into(),
                status_page_length: layout::STATUS_PAGE_LENGTH.into(),
                reserved: 0.into(),
            };
            Record::new(0, *user_data, &body, 0)
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
            Record::new(0, *user_data, &body, 0)
        }
        Event::ListenerClosed {
            user_data,
            listener,
        } => {
            let body = event::ListenerClosed {
                listener: (*listener).into(),
                reserved: 0.into(),
            };
            Record::new(0, *user_data, &body, 0)
        }
        Event::ConnectionReady {
            connection,
            listener,
            ticket,
        } => {
            let body = event::ConnectionReady {
                listener: (*listener).into(),
                fabric: fabric(connection.fabric()).into(),
                connection: connection.number().into(),
                ticket: *ticket,
                local: socket_address(connection.local()),
                peer: socket_address(connection.peer()),
            };
            Record::new(0, 0, &body, 0)
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
            Record::new(0, *user_data, &body, 0)
        }
        // Its payload does not stand in the event; see `encode_piece`.
        Event::Piece { .. } => None,
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
            Record::new(0, *user_data, &body, 0)
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
            Record::new(0, *user_data, &body, 0)
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
            Record::new(0, *user_data, &body, 0)
        }
        Event::SendReady { connection } => {
            let body = event::SendReady {
                connection: connection.number().into(),
            };
            Record::new(0, 0, &body, 0)
        }
    }
}
