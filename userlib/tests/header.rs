// SPDX-License-Identifier: MIT OR Apache-2.0

//! `include/usmbd.h` against the crates: every struct, field and constant, and that a C program
//! works with libusmbd.so. Needs `cc`, as building the driver does.

use std::fmt::Write;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;
use usmbd::abi::command::{self, Body as _};
use usmbd::abi::event::{self, Body as _};
use usmbd::abi::{memory, record};

/// Asserts a struct's size and its fields' places; all fields have to be named, as the last one
/// has to end with the struct.
macro_rules! structs {
    ($($c:ident = $rust:ty { $($field:ident),* })*) => {{
        let mut text = String::new();
        $(
            let name = stringify!($c);
            writeln!(text, "CHECK(sizeof(struct {name}) == {});", size_of::<$rust>()).unwrap();
            let mut fields = String::from("0");
            $(
                let field = stringify!($field);
                let offset = offset_of!($rust, $field);
                writeln!(text, "CHECK(offsetof(struct {name}, {field}) == {offset});").unwrap();
                write!(fields, " + sizeof(((struct {name} *)0)->{field})").unwrap();
            )*
            writeln!(text, "CHECK({fields} == sizeof(struct {name}));").unwrap();
        )*
        text
    }};
}

fn layouts() -> String {
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
        usmbd_status_page = memory::StatusPage {
            abi_version, sequence, connections, state, reason, fabric, connection, local, peer,
            negotiated, bytes_accepted, bytes_completed
        }
        usmbd_cmd_hello = command::Hello { version, reserved, features }
        usmbd_cmd_set_parameters = command::SetParameters {
            receive_credit_max, send_credit_target, max_send_size, max_receive_size,
            max_fragmented_recv_size, max_read_write_size, keepalive_interval, reserved
        }
        usmbd_cmd_listen = command::Listen { address, iwarp_port, mode, backlog, reserved }
        usmbd_cmd_close_listener = command::CloseListener { listener, reserved }
        usmbd_cmd_accept = command::Accept { ticket }
        usmbd_cmd_accept = command::Reject { ticket }
        usmbd_cmd_send_pdu = command::SendPdu { connection, payload_length, invalidate_token }
        usmbd_cmd_transfer = command::Transfer {
            connection, range_count, descriptor_count, reserved
        }
        usmbd_cmd_disconnect = command::Disconnect { connection }
        usmbd_ev_hello_done = event::HelloDone { version, reserved, features }
        usmbd_ev_memory_parameters = event::MemoryParameters {
            area_offset, status_page_offset, buffer_count, buffer_size, status_page_length,
            reserved
        }
        usmbd_ev_listening = event::Listening { status, listener }
        usmbd_ev_listener_closed = event::ListenerClosed { listener, reserved }
        usmbd_ev_connection_ready = event::ConnectionReady {
            listener, fabric, connection, ticket, local, peer
        }
        usmbd_ev_accepted = event::Accepted {
            connection, status, fabric, negotiated, local, peer
        }
        usmbd_ev_pdu_received = event::PduReceived {
            connection, total, offset, payload_length, invalidated_token
        }
        usmbd_ev_pdu_sent = event::PduSent { connection, status, reserved }
        usmbd_ev_rdma_complete = event::RdmaComplete { connection, status, length }
        usmbd_ev_disconnected = event::Disconnected { connection, reason, reserved }
        usmbd_ev_send_ready = event::SendReady { connection }
    }
}

fn constants() -> String {
    let constants: &[(&str, u64)] = &[
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
        ("USMBD_CMD_HELLO", command::Hello::OPCODE.into()),
        ("USMBD_CMD_NOP", command::Nop::OPCODE.into()),
        (
            "USMBD_CMD_SET_PARAMETERS",
            command::SetParameters::OPCODE.into(),
        ),
        (
            "USMBD_CMD_GET_MEMORY_PARAMETERS",
            command::GetMemoryParameters::OPCODE.into(),
        ),
        ("USMBD_CMD_LISTEN", command::Listen::OPCODE.into()),
        (
            "USMBD_CMD_CLOSE_LISTENER",
            command::CloseListener::OPCODE.into(),
        ),
        ("USMBD_CMD_ACCEPT", command::Accept::OPCODE.into()),
        ("USMBD_CMD_REJECT", command::Reject::OPCODE.into()),
        ("USMBD_CMD_SEND_PDU", command::SendPdu::OPCODE.into()),
        ("USMBD_CMD_RDMA_READ", command::RdmaRead::OPCODE.into()),
        ("USMBD_CMD_RDMA_WRITE", command::RdmaWrite::OPCODE.into()),
        ("USMBD_CMD_DISCONNECT", command::Disconnect::OPCODE.into()),
        ("USMBD_EV_HELLO_DONE", event::HelloDone::OPCODE.into()),
        ("USMBD_EV_NOP_DONE", event::NopDone::OPCODE.into()),
        (
            "USMBD_EV_MEMORY_PARAMETERS",
            event::MemoryParameters::OPCODE.into(),
        ),
        ("USMBD_EV_LISTENING", event::Listening::OPCODE.into()),
        (
            "USMBD_EV_LISTENER_CLOSED",
            event::ListenerClosed::OPCODE.into(),
        ),
        (
            "USMBD_EV_CONNECTION_READY",
            event::ConnectionReady::OPCODE.into(),
        ),
        ("USMBD_EV_ACCEPTED", event::Accepted::OPCODE.into()),
        ("USMBD_EV_PDU_RECEIVED", event::PduReceived::OPCODE.into()),
        ("USMBD_EV_PDU_SENT", event::PduSent::OPCODE.into()),
        ("USMBD_EV_RDMA_COMPLETE", event::RdmaComplete::OPCODE.into()),
        ("USMBD_EV_DISCONNECTED", event::Disconnected::OPCODE.into()),
        ("USMBD_EV_SEND_READY", event::SendReady::OPCODE.into()),
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
    ];
    let header = std::fs::read_to_string(include_path().join("usmbd.h")).unwrap();
    let defined = header
        .lines()
        .filter(|line| line.starts_with("#define USMBD_") && !line.ends_with("_H"))
        .count();
    assert_eq!(
        defined,
        constants.len(),
        "every constant of the header is compared"
    );
    constants
        .iter()
        .fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "CHECK({name} == {value}ull);").unwrap();
            text
        })
}

fn include_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// A directory of this test run's own.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn cc(directory: &Path, source: &str, arguments: &[&str]) {
    let path = directory.join("test.c");
    std::fs::write(&path, source).unwrap();
    let output = Command::new("cc")
        .args([
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-I",
        ])
        .arg(include_path())
        .arg(&path)
        .args(arguments)
        .output()
        .expect("cc runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn structs_and_constants_are_those_of_the_crate() {
    let source = format!(
        "#include <usmbd.h>\n\
         #define CHECK(x) _Static_assert(x, #x)\n{}{}",
        layouts(),
        constants()
    );
    cc(&scratch("layouts"), &source, &["-fsyntax-only"]);
}

#[test]
fn every_function_is_declared_and_exported() {
    let names = |text: &str, mark: &str| {
        let mut names: Vec<String> = text
            .match_indices(mark)
            .map(|(at, _)| &text[at + mark.len() - "usmbd_".len()..])
            .filter_map(|rest| rest.split_once('(').map(|(name, _)| name.to_owned()))
            .filter(|name| name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()))
            .collect();
        names.sort();
        names
    };
    let exported = names(include_str!("../src/capi.rs"), "extern \"C\" fn usmbd_");
    let header: String = include_str!("../include/usmbd.h")
        .lines()
        .filter(|line| line.contains('(') && !line.starts_with([' ', '\t', '/', '#']))
        .map(|line| line.replacen(" *usmbd_", " usmbd_", 1) + "\n")
        .collect();
    assert_eq!(names(&header, " usmbd_").len(), exported.len());
    for name in &exported {
        assert!(
            header.contains(&format!(" {name}(")),
            "{name} is not declared"
        );
    }
}

const PROGRAM: &str = r#"
#include <usmbd.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPECT(x) do { if (!(x)) { fprintf(stderr, "line %d: %s: %s\n", __LINE__, #x, \
	usmbd_error()); return 1; } } while (0)

int main(void)
{
	struct {
		struct usmbd_batch_header batch;
		struct usmbd_header header;
		struct usmbd_header other;
		struct usmbd_ev_pdu_sent sent;
	} events = {
		.batch = { .count = 2, .bytes = 64 },
		.header = { .length = 16, .opcode = USMBD_EV_NOP_DONE, .user_data = 5 },
		.other = { .length = 32, .opcode = USMBD_EV_PDU_SENT, .user_data = 6 },
		.sent = { .connection = 7, .status = 1 },
	};
	struct {
		struct usmbd_header header;
		struct usmbd_cmd_send_pdu send;
		char payload[64];
	} written;
	const struct usmbd_header *event;
	struct iovec parts[3] = { { "he", 2 }, { 0, 0 }, { "llo", 3 } };
	struct usmbd_cmd_listen listen = { .backlog = 3 };
	struct usmbd *usmbd;
	int fds[2];

	EXPECT(!usmbd_from_fd(-1) && errno == EBADF);
	EXPECT(strstr(usmbd_error(), "Bad file descriptor"));
	EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) == 0);
	usmbd = usmbd_from_fd(fds[0]);
	EXPECT(usmbd && usmbd_fd(usmbd) == fds[0]);

	EXPECT(usmbd_send(usmbd, 7, 6, USMBD_INVALIDATE, 9, parts, 3) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 40);
	EXPECT(written.header.opcode == USMBD_CMD_SEND_PDU && written.header.length == 40);
	EXPECT(written.send.payload_length == 5 && written.send.invalidate_token == 9);
	EXPECT(memcmp(written.payload, "hello\0\0\0", 8) == 0);
	EXPECT(usmbd_send(usmbd, 7, 6, 0x80, 0, parts, 3) == -EINVAL);
	EXPECT(usmbd_send(usmbd, 7, 6, 0, 0, parts, 0) == -EINVAL);
	EXPECT(strstr(usmbd_error(), "at least one byte"));

	EXPECT(usmbd_listen(usmbd, &listen, 1) == 0);
	EXPECT(read(fds[1], &written, sizeof(written)) == 56);

	EXPECT(usmbd_next_event(usmbd, 0, &event) == -EAGAIN);
	EXPECT(write(fds[1], &events, 64) == 64);
	EXPECT(usmbd_next_event(usmbd, 1, &event) == 0);
	EXPECT(event->opcode == USMBD_EV_NOP_DONE && event->user_data == 5);
	EXPECT(usmbd_events_at_hand(usmbd) == 1);
	EXPECT(usmbd_next_event(usmbd, 1, &event) == 0);
	EXPECT(((const struct usmbd_ev_pdu_sent *)(event + 1))->connection == 7);
	EXPECT(usmbd_events_at_hand(usmbd) == 0);
	EXPECT(!strcmp(usmbd_status_text(1), "the connection ended first"));
	EXPECT(!strcmp(usmbd_reason_text(999), "a reason of a newer driver"));
	usmbd_close(usmbd);
	usmbd_close(NULL);
	EXPECT(read(fds[1], &written, sizeof(written)) == 0);
	return 0;
}
"#;

#[test]
fn a_c_program_works_with_the_shared_library() {
    let directory = scratch("program");
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libusmbd.so");
    let link = directory.join("libusmbd.so.1");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&library, &link).unwrap();
    let program = directory.join("program");
    cc(
        &directory,
        PROGRAM,
        &[library.to_str().unwrap(), "-o", program.to_str().unwrap()],
    );
    // It asks for libusmbd.so.1, which is the soname, and finds nothing else here.
    let output = Command::new(program)
        .env("LD_LIBRARY_PATH", &directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
