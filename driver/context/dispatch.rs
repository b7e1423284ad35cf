// SPDX-License-Identifier: GPL-2.0-only

//! Commands to methods, events to records: the one place where ABI types and the driver's own are
//! converted into each other.

mod connect;
mod operators;
mod records;

use super::connection::{Connection, SendRequest, TransferRequest};
use super::event_queue::{Event, SlotOf};
use super::fetch;
use super::listener::ListenRequest;
use super::plug::Plug;
use super::route::{Identity, Template};
use super::Context;
use crate::memory::Unregistered;
use crate::verbs::{Fabric, SocketAddr};
use kernel::iov::IovIterSource;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::command::{self, Command};
use usmbd_abi::memory as layout;
use usmbd_abi::record::{self, Header, SocketAddress};
use usmbd_abi::status::Reason;
use usmbd_engine as engine;
use usmbd_engine::Parameters;
use zerocopy::IntoBytes;

pub(crate) use records::{encode, length, tail, PieceRecord, Record, PIECE_OVERHEAD};

/// Ports that SMB Direct has by default ([MS-SMBD] 1.9).
const DEFAULT_PORT: u16 = 445;
const DEFAULT_IWARP_PORT: u16 = 5445;
const DEFAULT_BACKLOG: u16 = 64;
/// Limits of a connection's credits: what one queue pair is made for.
const MAX_CREDITS: u32 = 255;

#[cfg(usmbd_disable)]
unsafe extern "C" {
    /// A build for tests takes one command away; see tests/raw/disable.c.
    safe fn usmbd_is_disabled(opcode: u16) -> bool;
}

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
    #[cfg(usmbd_disable)]
    if usmbd_is_disabled(header.opcode.get()) {
        return Err(crate::compat::EOPNOTSUPP);
    }
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
            context.queue().add(Event::NopDone { user_data })?;
            plug.announce(context);
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
            routes: body.mode.get() == command::MODE_ROUTE,
            backlog: or_default(body.backlog.get(), DEFAULT_BACKLOG),
        }),
        Command::CloseListener(body) => {
            context.queue().reserve(1, SlotOf::Command)?;
            match context.take_listener(body.listener.get()) {
                Some(listener) => {
                    listener.end(user_data);
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
        Command::Connect(body) => context.connect(connect::request(user_data, body)?),
        Command::SendPdu(body) => {
            let connection = connection(context, body.connection.get(), plug)?;
            let request = SendRequest {
                user_data,
                quiet,
                invalidate: (header.flags.get() & command::INVALIDATE != 0)
                    .then(|| body.invalidate_token.get()),
                length: body.payload_length.get(),
                ranges: (header.flags.get() & command::RANGES != 0)
                    .then(|| range_count(header))
                    .transpose()?,
            };
            context.queue().reserve(1, SlotOf::Command)?;
            let result = connection.send(context, &request, tail, nowait, plug);
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
            connection.disconnect_by_command(context, user_data)
        }
        Command::SetNegotiateTemplate(body) => {
            context.set_template(body.template.get(), template(body, tail)?);
            Ok(())
        }
        Command::RegisterMemory(body) => {
            context.queue().reserve(1, SlotOf::Command)?;
            let length = body.length.get();
            match context.area.register(body.address.get(), length) {
                Ok(handle) => {
                    context.post(Event::MemoryRegistered {
                        user_data,
                        handle,
                        length,
                    });
                    Ok(())
                }
                Err(error) => {
                    context.queue().release(1, SlotOf::Command);
                    Err(error)
                }
            }
        }
        Command::UnregisterMemory(body) => {
            let handle = body.handle.get();
            let wanted = UnregisterRequest {
                context: context.clone(),
                user_data,
                handle,
            };
            let wanted = KBox::new(wanted, GFP_KERNEL_ACCOUNT)?;
            context.queue().reserve(1, SlotOf::Command)?;
            let result = context.area.unregister(handle, wanted);
            if result.is_err() {
                context.queue().release(1, SlotOf::Command);
            }
            result
        }
        Command::SetSessionId(body) => context.claim(Identity::SessionId(body.session_id.get())),
        Command::ClearSessionId(body) => {
            context.disclaim(Identity::SessionId(body.session_id.get()))
        }
        Command::SetClientGuid(body) => context.claim(Identity::ClientGuid(body.client_guid)),
        Command::ClearClientGuid(body) => context.disclaim(Identity::ClientGuid(body.client_guid)),
        Command::QueryStatistics(body) => operators::query_statistics(context, body, user_data),
        Command::ListConnections(body) => {
            operators::list_connections(context, body, user_data, nowait)
        }
        Command::Drop(body) => operators::drop_connection(context, body, nowait),
    }
}

/// The connection that a command names. A batch mostly names the same one again, and that one need not be
/// looked up.
#[inline(always)]
fn connection(context: &Context, number: u64, plug: &Plug) -> Result<Arc<Connection>> {
    plug.held(number)
        .or_else(|| context.connection(number))
        .ok_or(ENOENT)
}

/// An UNREGISTER_MEMORY that waits until nothing uses the memory any more.
struct UnregisterRequest {
    context: Arc<Context>,
    user_data: u64,
    handle: u32,
}

impl Unregistered for UnregisterRequest {
    fn unregistered(&self) {
        self.context.post(Event::MemoryUnregistered {
            user_data: self.user_data,
            handle: self.handle,
        });
    }
}

/// Ranges that the tail of a SEND_PDU with flag RANGES has; the ABI bounds them.
fn range_count(header: &Header) -> Result<u16> {
    let tail = command::Layout::of(header).map_err(|_| EINVAL)?.tail_length;
    let count = tail as usize / size_of::<layout::MemoryRange>();
    Ok(u16::try_from(count)?)
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
    let connection = connection(context, body.connection.get(), plug)?;
    context.queue().reserve(1, SlotOf::Command)?;
    let result = connection.transfer(context, request, tail, nowait, plug);
    if result.is_err() {
        context.queue().release(1, SlotOf::Command);
    }
    result
}

/// Reads the tail of SET_NEGOTIATE_TEMPLATE; none if it clears.
fn template(
    body: &command::SetNegotiateTemplate,
    tail: &mut IovIterSource<'_>,
) -> Result<Option<Arc<Template>>> {
    let length = body.response_length.get();
    if length == 0 {
        return Ok(None);
    }
    let mut presumptions = KVec::with_capacity(
        usize::from(body.presumption_count.get()),
        GFP_KERNEL_ACCOUNT,
    )?;
    for _ in 0..body.presumption_count.get() {
        let mut presumption = command::Presumption::default();
        fetch::exact(tail, presumption.as_mut_bytes())?;
        if presumption.reserved.get() != 0 {
            return Err(EINVAL);
        }
        presumptions.push(presumption, GFP_KERNEL_ACCOUNT)?;
    }
    let mut response = KVec::from_elem(0u8, length as usize, GFP_KERNEL_ACCOUNT)?;
    fetch::exact(tail, &mut response)?;
    fetch::padding(tail, length)?;
    Template::new(response, presumptions).map(Some)
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
    matches!(reason, Reason::ReceiveLength | Reason::NotRoutable)
        || reason.number() >= Reason::NegotiationTimeout.number()
}
