// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Every record byte by byte: what stands here is the ABI, whatever the structs say. Each line of
//! hex is a field.

use usmbd_abi::command::{self, Command, Layout};
use usmbd_abi::event::{self, Event};
use usmbd_abi::memory::{BufferDescriptorV1, MemoryRange, Negotiated, StatusPage};
use usmbd_abi::record::{BatchHeader, Header, SocketAddress};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes from hex; `#` starts a comment.
fn hex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().chars())
        .filter(|c| !c.is_whitespace())
        .collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Encodes the command and compares; decodes the bytes and gives the command back.
fn command<B: command::Body>(
    golden: &str,
    flags: u16,
    user_data: u64,
    body: B,
    tail: &[u8],
) -> Command {
    let golden = hex(golden);
    let header = command::header::<B>(flags, user_data, tail.len() as u32).unwrap();
    let mut bytes = [header.as_bytes(), body.as_bytes(), tail].concat();
    bytes.resize(header.length.get() as usize, 0);
    assert_eq!(bytes, golden);

    let (header, rest) = Header::read_from_prefix(&golden).unwrap();
    assert_eq!(header.length.get() as usize, golden.len());
    let layout = Layout::of(&header).unwrap();
    assert_eq!(layout.body_length + layout.tail_length as usize, rest.len());
    Command::decode(&header, &rest[..layout.body_length]).unwrap()
}

/// As [`command`], for an event.
fn event<'a, B: event::Body>(
    golden: &'a [u8],
    flags: u16,
    user_data: u64,
    body: B,
    tail: &[u8],
) -> Event<'a> {
    let header = event::header::<B>(flags, user_data, tail.len() as u32).unwrap();
    let mut bytes = [header.as_bytes(), body.as_bytes(), tail].concat();
    bytes.resize(header.length.get() as usize, 0);
    assert_eq!(bytes, golden);

    let (header, rest) = Header::read_from_prefix(golden).unwrap();
    assert_eq!(header.length.get() as usize, golden.len());
    Event::decode(&header, rest).unwrap()
}

fn ipv4() -> SocketAddress {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 9, 0, 1]);
    SocketAddress {
        family: 2.into(),
        port: 445.into(),
        address,
        ..Default::default()
    }
}

const IPV4: &str = "
    0200                                # family: IPv4
    bd01                                # port: 445
    00000000                            # flow
    00000000                            # scope
    00000000                            # reserved
    0a090001 000000000000000000000000   # address: 10.9.0.1";

fn ipv6() -> SocketAddress {
    let mut address = [0; 16];
    address[0] = 0xfe;
    address[1] = 0x80;
    address[15] = 2;
    SocketAddress {
        family: 10.into(),
        port: 0x1234.into(),
        flow: 5.into(),
        scope: 3.into(),
        reserved: 0.into(),
        address,
    }
}

const IPV6: &str = "
    0a00                                # family: IPv6
    3412                                # port: 0x1234
    05000000                            # flow
    03000000                            # scope
    00000000                            # reserved
    fe800000000000000000000000000002    # address: fe80::2";

fn negotiated() -> Negotiated {
    Negotiated {
        max_send_size: 1364.into(),
        max_receive_size: 8192.into(),
        max_fragmented_send_size: 0x10_0000.into(),
        max_fragmented_recv_size: 0x10_0001.into(),
        max_read_write_size: 0x80_0000.into(),
        receive_credit_max: 64.into(),
        send_credit_target: 255.into(),
    }
}

const NEGOTIATED: &str = "
    54050000    # max_send_size: 1364
    00200000    # max_receive_size: 8192
    00001000    # max_fragmented_send_size: 1 MiB
    01001000    # max_fragmented_recv_size: 1 MiB + 1
    00008000    # max_read_write_size: 8 MiB
    4000        # receive_credit_max: 64
    ff00        # send_credit_target: 255";

const TICKET: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const CONNECTION: u64 = 0x0102_0304_0506_0708;

#[test]
fn hello() {
    let golden = "
        20000000            # length: 32
        0100                # opcode: HELLO
        0000                # flags
        2a00000000000000    # user_data: 42
        00000100            # version: 1.0
        00000000            # reserved
        0100000000000000    # features: AT_MOST_ONE";
    let body = command::Hello {
        version: usmbd_abi::VERSION.into(),
        reserved: 0.into(),
        features: command::FEATURE_AT_MOST_ONE.into(),
    };
    assert!(
        matches!(command(golden, 0, 42, body, &[]), Command::Hello(b) if b.features.get() == 1)
    );
}

#[test]
fn nop() {
    let golden = "
        10000000            # length: 16
        0200                # opcode: NOP
        0000                # flags
        efcdab8967452301    # user_data";
    let body = command::Nop {};
    assert!(matches!(
        command(golden, 0, 0x0123_4567_89ab_cdef, body, &[]),
        Command::Nop(_)
    ));
}

#[test]
fn set_parameters() {
    let golden = "
        30000000            # length: 48
        1000                # opcode: SET_PARAMETERS
        0000                # flags
        0000000000000000    # user_data
        40000000            # receive_credit_max: 64
        ff000000            # send_credit_target: 255
        54050000            # max_send_size: 1364
        00100000            # max_receive_size: 4096
        00001000            # max_fragmented_recv_size: 1 MiB
        00008000            # max_read_write_size: 8 MiB
        c0d40100            # keepalive_interval: 120 s
        00000000            # reserved";
    let body = command::SetParameters {
        receive_credit_max: 64.into(),
        send_credit_target: 255.into(),
        max_send_size: 1364.into(),
        max_receive_size: 4096.into(),
        max_fragmented_recv_size: (1 << 20).into(),
        max_read_write_size: (8 << 20).into(),
        keepalive_interval: 120_000.into(),
        reserved: 0.into(),
    };
    assert!(matches!(
        command(golden, 0, 0, body, &[]),
        Command::SetParameters(_)
    ));
}

#[test]
fn get_memory_parameters() {
    let golden = "
        10000000            # length: 16
        2000                # opcode: GET_MEMORY_PARAMETERS
        0000                # flags
        0700000000000000    # user_data: 7";
    let body = command::GetMemoryParameters {};
    assert!(matches!(
        command(golden, 0, 7, body, &[]),
        Command::GetMemoryParameters(_)
    ));
}

#[test]
fn listen() {
    let golden = format!(
        "
        38000000            # length: 56
        3000                # opcode: LISTEN
        0000                # flags
        0100000000000000    # user_data: 1
        {IPV6}
        4515                # iwarp_port: 5445
        0000                # mode: TICKET
        4000                # backlog: 64
        0000                # reserved"
    );
    let body = command::Listen {
        address: ipv6(),
        iwarp_port: 5445.into(),
        mode: command::MODE_TICKET.into(),
        backlog: 64.into(),
        reserved: 0.into(),
    };
    let decoded = command(&golden, 0, 1, body, &[]);
    assert!(matches!(decoded, Command::Listen(b) if b.address == ipv6()));
}

#[test]
fn close_listener() {
    let golden = "
        18000000            # length: 24
        3100                # opcode: CLOSE_LISTENER
        0000                # flags
        0000000000000000    # user_data
        05000000            # listener: 5
        00000000            # reserved";
    let body = command::CloseListener {
        listener: 5.into(),
        reserved: 0.into(),
    };
    assert!(matches!(
        command(golden, 0, 0, body, &[]),
        Command::CloseListener(_)
    ));
}

#[test]
fn accept_and_reject() {
    let golden = |opcode: &str| {
        format!(
            "
            20000000                            # length: 32
            {opcode}                            # opcode
            0000                                # flags
            0300000000000000                    # user_data: 3
            000102030405060708090a0b0c0d0e0f    # ticket"
        )
    };
    let accept = command::Accept { ticket: TICKET };
    let reject = command::Reject { ticket: TICKET };
    assert!(matches!(
        command(&golden("3200"), 0, 3, accept, &[]),
        Command::Accept(_)
    ));
    assert!(matches!(
        command(&golden("3300"), 0, 3, reject, &[]),
        Command::Reject(_)
    ));
}

#[test]
fn send_pdu() {
    let golden = "
        28000000            # length: 40
        4000                # opcode: SEND_PDU
        0300                # flags: QUIET, INVALIDATE
        0900000000000000    # user_data: 9
        0807060504030201    # connection
        05000000            # payload_length: 5
        78563412            # invalidate_token
        68656c6c6f          # payload: hello
        000000              # padding";
    let body = command::SendPdu {
        connection: CONNECTION.into(),
        payload_length: 5.into(),
        invalidate_token: 0x1234_5678.into(),
    };
    let flags = command::QUIET | command::INVALIDATE;
    let decoded = command(golden, flags, 9, body, b"hello");
    assert!(matches!(decoded, Command::SendPdu(b) if b.connection.get() == CONNECTION));
}

#[test]
fn rdma_read_and_write() {
    let golden = |opcode: &str| {
        format!(
            "
            50000000            # length: 80
            {opcode}            # opcode
            0100                # flags: QUIET
            0a00000000000000    # user_data: 10
            0807060504030201    # connection
            0200                # range_count: 2
            0100                # descriptor_count: 1
            00000000            # reserved
            3f000000            # range 0: buffer 63
            00100000            #          offset 4096
            00f00f00            #          length 1044480
            00000000            #          reserved
            00000000            # range 1: buffer 0
            00000000            #          offset 0
            01000000            #          length 1
            00000000            #          reserved
            8877665544332211    # descriptor 0: offset
            dec0ad0b            #               token
            01f00f00            #               length 1044481"
        )
    };
    let ranges = [
        MemoryRange {
            buffer: 63.into(),
            offset: 4096.into(),
            length: 1_044_480.into(),
            reserved: 0.into(),
        },
        MemoryRange {
            length: 1.into(),
            ..Default::default()
        },
    ];
    let descriptor = BufferDescriptorV1 {
        offset: 0x1122_3344_5566_7788.into(),
        token: 0x0bad_c0de.into(),
        length: 1_044_481.into(),
    };
    let tail = [ranges.as_bytes(), descriptor.as_bytes()].concat();
    let transfer = command::Transfer {
        connection: CONNECTION.into(),
        range_count: 2.into(),
        descriptor_count: 1.into(),
        reserved: 0.into(),
    };
    let read = command::RdmaRead { transfer };
    let write = command::RdmaWrite { transfer };
    let quiet = command::QUIET;
    assert!(matches!(
        command(&golden("4100"), quiet, 10, read, &tail),
        Command::RdmaRead(_)
    ));
    assert!(matches!(
        command(&golden("4200"), quiet, 10, write, &tail),
        Command::RdmaWrite(_)
    ));
}

#[test]
fn disconnect() {
    let golden = "
        18000000            # length: 24
        4300                # opcode: DISCONNECT
        0000                # flags
        0000000000000000    # user_data
        0807060504030201    # connection";
    let body = command::Disconnect {
        connection: CONNECTION.into(),
    };
    assert!(matches!(
        command(golden, 0, 0, body, &[]),
        Command::Disconnect(_)
    ));
}

#[test]
fn batch_header() {
    let golden = hex("
        02000000    # count: 2
        58000000    # bytes: 88
        07000000    # still_queued: 7
        30000000    # next_length: 48");
    let header = BatchHeader {
        count: 2.into(),
        bytes: 88.into(),
        still_queued: 7.into(),
        next_length: 48.into(),
    };
    assert_eq!(header.as_bytes(), golden);
}

#[test]
fn events_without_addresses() {
    let golden = hex("
        20000000            # length: 32
        0180                # opcode: HELLO_DONE
        0000                # flags
        2a00000000000000    # user_data: 42
        00000100            # version: 1.0
        00000000            # reserved
        0100000000000000    # features: AT_MOST_ONE");
    let body = event::HelloDone {
        version: usmbd_abi::VERSION.into(),
        reserved: 0.into(),
        features: 1.into(),
    };
    assert!(matches!(
        event(&golden, 0, 42, body, &[]),
        Event::HelloDone(..)
    ));

    let golden = hex("
        10000000            # length: 16
        0280                # opcode: NOP_DONE
        0000                # flags
        0100000000000000    # user_data: 1");
    assert!(matches!(
        event(&golden, 0, 1, event::NopDone {}, &[]),
        Event::NopDone(..)
    ));

    let golden = hex("
        30000000            # length: 48
        2080                # opcode: MEMORY_PARAMETERS
        0000                # flags
        0700000000000000    # user_data: 7
        0000000000000000    # area_offset
        0000000000010000    # status_page_offset: 1 << 40
        40000000            # buffer_count: 64
        00001000            # buffer_size: 1 MiB
        00100000            # status_page_length: 4096
        00000000            # reserved");
    let body = event::MemoryParameters {
        area_offset: usmbd_abi::memory::AREA_OFFSET.into(),
        status_page_offset: usmbd_abi::memory::STATUS_PAGE_OFFSET.into(),
        buffer_count: 64.into(),
        buffer_size: usmbd_abi::memory::BUFFER_SIZE.into(),
        status_page_length: usmbd_abi::memory::STATUS_PAGE_LENGTH.into(),
        reserved: 0.into(),
    };
    assert!(matches!(
        event(&golden, 0, 7, body, &[]),
        Event::MemoryParameters(..)
    ));

    let golden = hex("
        18000000            # length: 24
        3080                # opcode: LISTENING
        0000                # flags
        0100000000000000    # user_data: 1
        04000000            # status: address in use
        00000000            # listener: none");
    let body = event::Listening {
        status: 4.into(),
        listener: 0.into(),
    };
    assert!(matches!(
        event(&golden, 0, 1, body, &[]),
        Event::Listening(..)
    ));

    let golden = hex("
        18000000            # length: 24
        3180                # opcode: LISTENER_CLOSED
        0000                # flags
        0000000000000000    # user_data
        05000000            # listener: 5
        00000000            # reserved");
    let body = event::ListenerClosed {
        listener: 5.into(),
        reserved: 0.into(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &[]),
        Event::ListenerClosed(..)
    ));

    let golden = hex("
        30000000            # length: 48
        4080                # opcode: PDU_RECEIVED
        0100                # flags: INVALIDATED
        0000000000000000    # user_data
        0807060504030201    # connection
        00001000            # total: 1 MiB
        fbff0f00            # offset: 1 MiB - 5
        05000000            # payload_length: 5
        78563412            # invalidated_token
        68656c6c6f          # payload: hello
        000000              # padding");
    let body = event::PduReceived {
        connection: CONNECTION.into(),
        total: (1 << 20).into(),
        offset: ((1 << 20) - 5).into(),
        payload_length: 5.into(),
        invalidated_token: 0x1234_5678.into(),
    };
    let decoded = event(&golden, event::INVALIDATED, 0, body, b"hello");
    assert!(matches!(decoded, Event::PduReceived(_, tail) if tail == b"hello\0\0\0"));

    let golden = hex("
        20000000            # length: 32
        4180                # opcode: PDU_SENT
        0000                # flags
        0900000000000000    # user_data: 9
        0807060504030201    # connection
        01000000            # status: disconnected
        00000000            # reserved");
    let body = event::PduSent {
        connection: CONNECTION.into(),
        status: 1.into(),
        reserved: 0.into(),
    };
    assert!(matches!(
        event(&golden, 0, 9, body, &[]),
        Event::PduSent(..)
    ));

    let golden = hex("
        20000000            # length: 32
        4280                # opcode: RDMA_COMPLETE
        0000                # flags
        0a00000000000000    # user_data: 10
        0807060504030201    # connection
        00000000            # status: done
        00008000            # length: 8 MiB");
    let body = event::RdmaComplete {
        connection: CONNECTION.into(),
        status: 0.into(),
        length: (8 << 20).into(),
    };
    assert!(matches!(
        event(&golden, 0, 10, body, &[]),
        Event::RdmaComplete(..)
    ));

    let golden = hex("
        20000000            # length: 32
        4380                # opcode: DISCONNECTED
        0000                # flags
        0000000000000000    # user_data
        0807060504030201    # connection
        1d000000            # reason: credit overrun
        00000000            # reserved");
    let body = event::Disconnected {
        connection: CONNECTION.into(),
        reason: usmbd_abi::status::Reason::CreditOverrun.number().into(),
        reserved: 0.into(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &[]),
        Event::Disconnected(..)
    ));

    let golden = hex("
        18000000            # length: 24
        4480                # opcode: SEND_READY
        0000                # flags
        0000000000000000    # user_data
        0807060504030201    # connection");
    let body = event::SendReady {
        connection: CONNECTION.into(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &[]),
        Event::SendReady(..)
    ));
}

#[test]
fn events_with_addresses() {
    let golden = hex(&format!(
        "
        70000000                            # length: 112
        3380                                # opcode: CONNECTION_READY
        0000                                # flags
        0000000000000000                    # user_data
        05000000                            # listener: 5
        02000000                            # fabric: RoCE
        0807060504030201                    # connection
        000102030405060708090a0b0c0d0e0f    # ticket
        {IPV4}
        {IPV6}"
    ));
    let body = event::ConnectionReady {
        listener: 5.into(),
        fabric: usmbd_abi::record::FABRIC_ROCE.into(),
        connection: CONNECTION.into(),
        ticket: TICKET,
        local: ipv4(),
        peer: ipv6(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &[]),
        Event::ConnectionReady(..)
    ));

    let golden = hex(&format!(
        "
        78000000            # length: 120
        3480                # opcode: ACCEPTED
        0000                # flags
        0300000000000000    # user_data: 3
        0807060504030201    # connection
        00000000            # status: done
        03000000            # fabric: iWARP
        {NEGOTIATED}
        {IPV4}
        {IPV6}"
    ));
    let body = event::Accepted {
        connection: CONNECTION.into(),
        status: 0.into(),
        fabric: usmbd_abi::record::FABRIC_IWARP.into(),
        negotiated: negotiated(),
        local: ipv4(),
        peer: ipv6(),
    };
    assert!(matches!(
        event(&golden, 0, 3, body, &[]),
        Event::Accepted(..)
    ));
}

#[test]
fn status_page() {
    let golden = hex(&format!(
        "
        00000100            # abi_version: 1.0
        04000000            # sequence: 4, at rest
        01000000            # connections: 1
        03000000            # state: disconnected
        02000000            # reason: by the peer
        01000000            # fabric: InfiniBand
        0807060504030201    # connection
        {IPV4}
        {IPV6}
        {NEGOTIATED}
        0002000000000000    # bytes_accepted: 512
        ff01000000000000    # bytes_completed: 511"
    ));
    let page = StatusPage {
        abi_version: usmbd_abi::VERSION.into(),
        sequence: 4.into(),
        connections: 1.into(),
        state: usmbd_abi::memory::STATE_DISCONNECTED.into(),
        reason: usmbd_abi::status::Reason::Peer.number().into(),
        fabric: usmbd_abi::record::FABRIC_INFINIBAND.into(),
        connection: CONNECTION.into(),
        local: ipv4(),
        peer: ipv6(),
        negotiated: negotiated(),
        bytes_accepted: 512.into(),
        bytes_completed: 511.into(),
    };
    assert_eq!(page.as_bytes(), golden);
}

/// The examples of `docs/abi.md` are records that decode, one of each kind.
#[test]
fn the_examples_of_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/abi.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut opcodes = Vec::new();
    // Fenced blocks; the one with arrows is a dialogue.
    for block in text
        .split("```")
        .skip(1)
        .step_by(2)
        .filter(|b| !b.contains('>'))
    {
        // What is said about the bytes follows after two spaces.
        let digits: String = block
            .lines()
            .filter_map(|line| line.split("  ").next())
            .collect();
        let bytes = hex(&digits);
        let (header, rest) = Header::read_from_prefix(&bytes).unwrap();
        assert_eq!(header.length.get() as usize, bytes.len(), "{block}");
        let opcode = header.opcode.get();
        if opcode & 0x8000 == 0 {
            let body = &rest[..Layout::of(&header).unwrap().body_length];
            assert!(Command::decode(&header, body).is_ok(), "{block}");
        } else {
            assert!(
                !matches!(Event::decode(&header, rest).unwrap(), Event::Unknown),
                "{block}"
            );
        }
        opcodes.push(opcode);
    }
    opcodes.sort_unstable();
    opcodes.dedup();
    // RDMA_READ is RDMA_WRITE with another opcode.
    assert_eq!(opcodes.len(), 23);
}
