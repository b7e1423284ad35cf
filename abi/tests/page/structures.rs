// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! What the crate's structs look like, by the heading under which the page describes them.

use usmbd_abi::record::{BatchHeader, Header, SocketAddress};
use usmbd_abi::{command, event, memory};
use zerocopy::FromZeros;

/// A struct that the page describes.
pub struct Structure {
    /// The section that has its table.
    pub heading: &'static str,
    /// What offsets in that table count from: where the struct starts in a record.
    pub base: usize,
    /// Bytes of the struct.
    pub size: usize,
    /// Name, offset and size of each field.
    pub fields: Vec<(&'static str, usize, usize)>,
}

/// Where the fields of a record's body start.
const BODY: usize = 16;

macro_rules! structures {
    ($($heading:literal at $base:tt: $rust:ty { $($field:ident),* })*) => {
        vec![$({
            let _value = <$rust>::new_zeroed();
            Structure {
                heading: $heading,
                base: $base,
                size: size_of::<$rust>(),
                fields: vec![$((
                    stringify!($field),
                    std::mem::offset_of!($rust, $field),
                    size_of_val(&_value.$field),
                )),*],
            }
        }),*]
    };
}

/// All of them.
pub fn structures() -> Vec<Structure> {
    structures! {
        "Records" at 0: Header { length, opcode, flags, user_data }
        "Reading events" at 0: BatchHeader { count, bytes, still_queued, next_length }
        "Address" at 0: SocketAddress { family, port, flow, scope, reserved, address }
        "Negotiated" at 0: memory::Negotiated {
            max_send_size, max_receive_size, max_fragmented_send_size,
            max_fragmented_recv_size, max_read_write_size, receive_credit_max,
            send_credit_target
        }
        "Presumption" at 0: command::Presumption { context_type, id, reserved }
        "Range" at 0: memory::MemoryRange { buffer, offset, length, reserved }
        "Descriptor" at 0: memory::BufferDescriptorV1 { offset, token, length }
        "Counters" at 0: event::Counters {
            pdus_sent, pdus_received, messages_sent, messages_received,
            message_bytes_sent, message_bytes_received, rdma_reads, rdma_read_bytes,
            rdma_writes, rdma_write_bytes, remote_invalidations
        }
        "Connection info" at 0: event::ConnectionInfo {
            connection, phase, fabric, local, peer, device, uid, send_credits,
            receive_credits, memory, counters
        }
        "Status page" at 0: memory::StatusPage {
            abi_version, sequence, connections, state, reason, fabric, connection,
            local, peer, negotiated, bytes_accepted, bytes_completed
        }
        "HELLO" at BODY: command::Hello { version, reserved, features }
        "SET_PARAMETERS" at BODY: command::SetParameters {
            receive_credit_max, send_credit_target, max_send_size, max_receive_size,
            max_fragmented_recv_size, max_read_write_size, keepalive_interval,
            reserved
        }
        "SET_NEGOTIATE_TEMPLATE" at BODY: command::SetNegotiateTemplate {
            template, response_length, presumption_count, reserved
        }
        "SET_SESSION_ID" at BODY: command::SetSessionId { session_id }
        "CLEAR_SESSION_ID" at BODY: command::ClearSessionId { session_id }
        "SET_CLIENT_GUID" at BODY: command::SetClientGuid { client_guid }
        "CLEAR_CLIENT_GUID" at BODY: command::ClearClientGuid { client_guid }
        "REGISTER_MEMORY" at BODY: command::RegisterMemory { address, length }
        "UNREGISTER_MEMORY" at BODY: command::UnregisterMemory { handle, reserved }
        "LISTEN" at BODY: command::Listen { address, iwarp_port, mode, backlog, reserved }
        "CLOSE_LISTENER" at BODY: command::CloseListener { listener, reserved }
        "ACCEPT" at BODY: command::Accept { ticket }
        "REJECT" at BODY: command::Reject { ticket }
        "CONNECT" at BODY: command::Connect { peer, local, reserved }
        "SEND_PDU" at BODY: command::SendPdu { connection, payload_length, invalidate_token }
        "RDMA_READ and RDMA_WRITE" at BODY: command::Transfer {
            connection, range_count, descriptor_count, reserved
        }
        "DISCONNECT" at BODY: command::Disconnect { connection }
        "QUERY_STATISTICS" at BODY: command::QueryStatistics { connection }
        "LIST_CONNECTIONS" at BODY: command::ListConnections { after }
        "DROP" at BODY: command::Drop { connection }
        "HELLO_DONE" at BODY: event::HelloDone { version, reserved, features }
        "MEMORY_PARAMETERS" at BODY: event::MemoryParameters {
            area_offset, status_page_offset, buffer_count, buffer_size,
            status_page_length, reserved
        }
        "MEMORY_REGISTERED" at BODY: event::MemoryRegistered { handle, reserved, length }
        "MEMORY_UNREGISTERED" at BODY: event::MemoryUnregistered { handle, reserved }
        "LISTENING" at BODY: event::Listening { status, listener }
        "LISTENER_CLOSED" at BODY: event::ListenerClosed { listener, reserved }
        "LISTENER_CHANGED" at BODY: event::ListenerChanged {
            listener, infiniband_devices, iwarp_devices
        }
        "CONNECTION_READY" at BODY: event::ConnectionReady {
            listener, fabric, connection, ticket, local, peer, negotiated,
            client_guid, session_id
        }
        "ACCEPTED" at BODY: event::Accepted { connection, status, fabric, negotiated, local, peer }
        "CONNECTED" at BODY: event::Connected {
            connection, status, fabric, negotiated, local, peer
        }
        "CONNECTION_ROUTED" at BODY: event::ConnectionRouted {
            connection, claim, fabric, negotiated, local, peer, client_guid,
            session_id
        }
        "NEGOTIATE_ANSWERED" at BODY: event::NegotiateAnswered {
            connection, payload_length, template
        }
        "PDU_RECEIVED" at BODY: event::PduReceived {
            connection, total, offset, payload_length, invalidated_token
        }
        "PDU_SENT" at BODY: event::PduSent { connection, status, reserved }
        "RDMA_COMPLETE" at BODY: event::RdmaComplete { connection, status, length }
        "DISCONNECTED" at BODY: event::Disconnected { connection, reason, reserved }
        "SEND_READY" at BODY: event::SendReady { connection }
        "STATISTICS" at BODY: event::Statistics { connection, counters }
        "CONNECTIONS" at BODY: event::Connections { count, left }
    }
}
