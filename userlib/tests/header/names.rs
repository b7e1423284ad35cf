// SPDX-License-Identifier: MIT OR Apache-2.0

//! Every struct, field and constant of the header beside its twin in the crates.

use std::fmt::Write;
use std::mem::offset_of;
use usmbd::abi::command::{self, Body as _};
use usmbd::abi::event::{self, Body as _};
use usmbd::abi::{memory, record};

/// Asserts a struct's size and its fields' places; all fields have to be named, as the last one
/// has to end with the struct. A field may have another name in C++'s sight.
macro_rules! structs {
    ($($c:ident = $rust:ty { $($field:ident $(as $c_field:ident)?),* })*) => {{
        let mut text = String::new();
        $(
            let name = stringify!($c);
            writeln!(text, "CHECK(sizeof(struct {name}) == {});", size_of::<$rust>()).unwrap();
            let mut fields = String::from("0");
            $(
                let field = stringify!($field);
                $(let field = { let _ = field; stringify!($c_field) };)?
                let offset = offset_of!($rust, $field);
                writeln!(text, "CHECK(offsetof(struct {name}, {field}) == {offset});").unwrap();
                write!(fields, " + sizeof(((struct {name} *)0)->{field})").unwrap();
            )*
            writeln!(text, "CHECK({fields} == sizeof(struct {name}));").unwrap();
        )*
        text
    }};
}

/// Assertions in C of each struct's size and its fields' places.
pub fn layouts() -> String {
    structs! {
        usmbd_header = record::Header { length, opcode, flags, user_data }
        usmbd_batch_header = record::BatchHeader { count, bytes, still_queued, next_length }
        usmbd_address = record::SocketAddress { family, port, flow, scope, reserved, address }
        usmbd_negotiated = memory::Negotiated {
            max_send_size, max_receive_size, max_fragmented_send_size, max_fragmented_recv_size,
            max_read_write_size, receive_credit_max, send_credit_target
        }
        usmbd_range = memory::MemoryRange { buffer, offset, length, reserved }
        usmbd_descriptor = memory::BufferDescriptorV1 { offset, token, length }
        usmbd_presumption = command::Presumption { context_type, id, reserved }
        usmbd_counters = event::Counters {
            pdus_sent, pdus_received, messages_sent, messages_received, message_bytes_sent,
            message_bytes_received, rdma_reads, rdma_read_bytes, rdma_writes, rdma_write_bytes,
            remote_invalidations
        }
        usmbd_connection_info = event::ConnectionInfo {
            connection, phase, fabric, local, peer, device, uid, send_credits, receive_credits,
            memory, counters
        }
        usmbd_status_page = memory::StatusPage {
            abi_version, sequence, connections, state, reason, fabric, connection, local, peer,
            negotiated, bytes_accepted, bytes_completed
        }
        usmbd_cmd_hello = command::Hello { version, reserved, features }
        usmbd_cmd_set_parameters = command::SetParameters {
            receive_credit_max, send_credit_target, max_send_size, max_receive_size,
            max_fragmented_recv_size, max_read_write_size, keepalive_interval, reserved
        }
        usmbd_cmd_set_negotiate_template = command::SetNegotiateTemplate {
            template as template_number, response_length, presumption_count, reserved
        }
        usmbd_cmd_session_id = command::SetSessionId { session_id }
        usmbd_cmd_session_id = command::ClearSessionId { session_id }
        usmbd_cmd_client_guid = command::SetClientGuid { client_guid }
        usmbd_cmd_client_guid = command::ClearClientGuid { client_guid }
        usmbd_cmd_register_memory = command::RegisterMemory { address, length }
        usmbd_cmd_unregister_memory = command::UnregisterMemory { handle, reserved }
        usmbd_cmd_listen = command::Listen { address, iwarp_port, mode, backlog, reserved }
        usmbd_cmd_close_listener = command::CloseListener { listener, reserved }
        usmbd_cmd_accept = command::Accept { ticket }
        usmbd_cmd_accept = command::Reject { ticket }
        usmbd_cmd_connect = command::Connect { peer, local, reserved }
        usmbd_cmd_send_pdu = command::SendPdu { connection, payload_length, invalidate_token }
        usmbd_cmd_transfer = command::Transfer {
            connection, range_count, descriptor_count, reserved
        }
        usmbd_cmd_disconnect = command::Disconnect { connection }
        usmbd_cmd_query_statistics = command::QueryStatistics { connection }
        usmbd_cmd_list_connections = command::ListConnections { after }
        usmbd_cmd_drop = command::Drop { connection }
        usmbd_ev_hello_done = event::HelloDone { version, reserved, features }
        usmbd_ev_memory_parameters = event::MemoryParameters {
            area_offset, status_page_offset, buffer_count, buffer_size, status_page_length,
            reserved
        }
        usmbd_ev_memory_registered = event::MemoryRegistered { handle, reserved, length }
        usmbd_ev_memory_unregistered = event::MemoryUnregistered { handle, reserved }
        usmbd_ev_listening = event::Listening { status, listener }
        usmbd_ev_listener_closed = event::ListenerClosed { listener, reserved }
        usmbd_ev_listener_changed = event::ListenerChanged {
            listener, infiniband_devices, iwarp_devices
        }
        usmbd_ev_connection_ready = event::ConnectionReady {
            listener, fabric, connection, ticket, local, peer, negotiated, client_guid, session_id
        }
        usmbd_ev_accepted = event::Accepted {
            connection, status, fabric, negotiated, local, peer
        }
        usmbd_ev_connected = event::Connected {
            connection, status, fabric, negotiated, local, peer
        }
        usmbd_ev_connection_routed = event::ConnectionRouted {
            connection, claim, fabric, negotiated, local, peer, client_guid, session_id
        }
        usmbd_ev_negotiate_answered = event::NegotiateAnswered {
            connection, payload_length, template as template_number
        }
        usmbd_ev_pdu_received = event::PduReceived {
            connection, total, offset, payload_length, invalidated_token
        }
        usmbd_ev_pdu_sent = event::PduSent { connection, status, reserved }
        usmbd_ev_rdma_complete = event::RdmaComplete { connection, status, length }
        usmbd_ev_disconnected = event::Disconnected { connection, reason, reserved }
        usmbd_ev_send_ready = event::SendReady { connection }
        usmbd_ev_statistics = event::Statistics { connection, counters }
        usmbd_ev_connections = event::Connections { count, left }
    }
}

/// Name and value of each opcode.
fn opcodes() -> Vec<(&'static str, u64)> {
    macro_rules! opcodes {
        ($($name:literal = $rust:ty;)*) => {
            vec![$(($name, <$rust>::OPCODE.into())),*]
        };
    }
    opcodes! {
        "USMBD_CMD_HELLO" = command::Hello;
        "USMBD_CMD_NOP" = command::Nop;
        "USMBD_CMD_SET_PARAMETERS" = command::SetParameters;
        "USMBD_CMD_SET_NEGOTIATE_TEMPLATE" = command::SetNegotiateTemplate;
        "USMBD_CMD_SET_SESSION_ID" = command::SetSessionId;
        "USMBD_CMD_CLEAR_SESSION_ID" = command::ClearSessionId;
        "USMBD_CMD_SET_CLIENT_GUID" = command::SetClientGuid;
        "USMBD_CMD_CLEAR_CLIENT_GUID" = command::ClearClientGuid;
        "USMBD_CMD_GET_MEMORY_PARAMETERS" = command::GetMemoryParameters;
        "USMBD_CMD_REGISTER_MEMORY" = command::RegisterMemory;
        "USMBD_CMD_UNREGISTER_MEMORY" = command::UnregisterMemory;
        "USMBD_CMD_LISTEN" = command::Listen;
        "USMBD_CMD_CLOSE_LISTENER" = command::CloseListener;
        "USMBD_CMD_ACCEPT" = command::Accept;
        "USMBD_CMD_REJECT" = command::Reject;
        "USMBD_CMD_CONNECT" = command::Connect;
        "USMBD_CMD_SEND_PDU" = command::SendPdu;
        "USMBD_CMD_RDMA_READ" = command::RdmaRead;
        "USMBD_CMD_RDMA_WRITE" = command::RdmaWrite;
        "USMBD_CMD_DISCONNECT" = command::Disconnect;
        "USMBD_CMD_QUERY_STATISTICS" = command::QueryStatistics;
        "USMBD_CMD_LIST_CONNECTIONS" = command::ListConnections;
        "USMBD_CMD_DROP" = command::Drop;
        "USMBD_EV_HELLO_DONE" = event::HelloDone;
        "USMBD_EV_NOP_DONE" = event::NopDone;
        "USMBD_EV_MEMORY_PARAMETERS" = event::MemoryParameters;
        "USMBD_EV_MEMORY_REGISTERED" = event::MemoryRegistered;
        "USMBD_EV_MEMORY_UNREGISTERED" = event::MemoryUnregistered;
        "USMBD_EV_LISTENING" = event::Listening;
        "USMBD_EV_LISTENER_CLOSED" = event::ListenerClosed;
        "USMBD_EV_LISTENER_CHANGED" = event::ListenerChanged;
        "USMBD_EV_CONNECTION_READY" = event::ConnectionReady;
        "USMBD_EV_ACCEPTED" = event::Accepted;
        "USMBD_EV_CONNECTED" = event::Connected;
        "USMBD_EV_CONNECTION_ROUTED" = event::ConnectionRouted;
        "USMBD_EV_NEGOTIATE_ANSWERED" = event::NegotiateAnswered;
        "USMBD_EV_PDU_RECEIVED" = event::PduReceived;
        "USMBD_EV_PDU_SENT" = event::PduSent;
        "USMBD_EV_RDMA_COMPLETE" = event::RdmaComplete;
        "USMBD_EV_DISCONNECTED" = event::Disconnected;
        "USMBD_EV_SEND_READY" = event::SendReady;
        "USMBD_EV_STATISTICS" = event::Statistics;
        "USMBD_EV_CONNECTIONS" = event::Connections;
    }
}

/// Name and value of each constant.
pub fn constants() -> Vec<(&'static str, u64)> {
    let mut constants = opcodes();
    constants.extend([
        ("USMBD_ABI_VERSION", usmbd::abi::VERSION.into()),
        ("USMBD_IPV4", record::SocketAddress::IPV4.into()),
        ("USMBD_IPV6", record::SocketAddress::IPV6.into()),
        ("USMBD_FABRIC_INFINIBAND", record::FABRIC_INFINIBAND.into()),
        ("USMBD_FABRIC_ROCE", record::FABRIC_ROCE.into()),
        ("USMBD_FABRIC_IWARP", record::FABRIC_IWARP.into()),
        ("USMBD_QUIET", command::QUIET.into()),
        ("USMBD_INVALIDATE", command::INVALIDATE.into()),
        ("USMBD_INVALIDATED", event::INVALIDATED.into()),
        ("USMBD_FEATURE_AT_MOST_ONE", command::FEATURE_AT_MOST_ONE),
        ("USMBD_AREA_OFFSET", memory::AREA_OFFSET),
        ("USMBD_BUFFER_SIZE", memory::BUFFER_SIZE.into()),
        ("USMBD_STATUS_PAGE_OFFSET", memory::STATUS_PAGE_OFFSET),
        (
            "USMBD_STATUS_PAGE_LENGTH",
            memory::STATUS_PAGE_LENGTH.into(),
        ),
        ("USMBD_STATE_NONE", memory::STATE_NONE.into()),
        ("USMBD_STATE_ACCEPTING", memory::STATE_ACCEPTING.into()),
        ("USMBD_STATE_ESTABLISHED", memory::STATE_ESTABLISHED.into()),
        (
            "USMBD_STATE_DISCONNECTED",
            memory::STATE_DISCONNECTED.into(),
        ),
        ("USMBD_RANGES", command::RANGES.into()),
        ("USMBD_ANY_ID", command::ANY_ID.into()),
        ("USMBD_MODE_TICKET", command::MODE_TICKET.into()),
        ("USMBD_MODE_ROUTE", command::MODE_ROUTE.into()),
        ("USMBD_MAX_RANGES", command::MAX_RANGES.into()),
        ("USMBD_MAX_DESCRIPTORS", command::MAX_DESCRIPTORS.into()),
        (
            "USMBD_MAX_PAYLOAD_LENGTH",
            command::MAX_PAYLOAD_LENGTH.into(),
        ),
        ("USMBD_MAX_TEMPLATES", command::MAX_TEMPLATES.into()),
        (
            "USMBD_MIN_TEMPLATE_LENGTH",
            command::MIN_TEMPLATE_LENGTH.into(),
        ),
        (
            "USMBD_MAX_TEMPLATE_LENGTH",
            command::MAX_TEMPLATE_LENGTH.into(),
        ),
        ("USMBD_MAX_PRESUMPTIONS", command::MAX_PRESUMPTIONS.into()),
        (
            "USMBD_MAX_REGISTRATION_LENGTH",
            command::MAX_REGISTRATION_LENGTH,
        ),
        ("USMBD_MAX_BACKLOG", command::MAX_BACKLOG.into()),
        ("USMBD_MAX_LISTED", event::MAX_LISTED.into()),
        ("USMBD_CLAIM_CLIENT_GUID", event::CLAIM_CLIENT_GUID.into()),
        ("USMBD_CLAIM_SESSION_ID", event::CLAIM_SESSION_ID.into()),
        ("USMBD_PHASE_NEGOTIATING", event::PHASE_NEGOTIATING.into()),
        ("USMBD_PHASE_ROUTING", event::PHASE_ROUTING.into()),
        ("USMBD_PHASE_OFFERED", event::PHASE_OFFERED.into()),
        ("USMBD_PHASE_SERVING", event::PHASE_SERVING.into()),
        ("USMBD_PHASE_LINGERING", event::PHASE_LINGERING.into()),
        ("USMBD_PHASE_DRAINING", event::PHASE_DRAINING.into()),
        ("USMBD_PHASE_CONNECTING", event::PHASE_CONNECTING.into()),
    ]);
    constants
}
