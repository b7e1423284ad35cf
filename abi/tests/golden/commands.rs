// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Commands of connections, listeners and memory.

use super::{command, ipv6, CONNECTION, IPV6, TICKET};
use usmbd_abi::command::Command;
use usmbd_abi::memory::{BufferDescriptorV1, MemoryRange};
use zerocopy::IntoBytes;

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
fn send_pdu_from_ranges() {
    let golden = "
        40000000            # length: 64
        4000                # opcode: SEND_PDU
        0400                # flags: RANGES
        0900000000000000    # user_data: 9
        0807060504030201    # connection
        07000000            # payload_length: 7
        00000000            # invalidate_token
        02000000            # range 0: buffer 2
        00000000            #          offset 0
        04000000            #          length 4
        00000000            #          reserved
        00000080            # range 1: buffer, a handle
        10000000            #          offset 16
        03000000            #          length 3
        00000000            #          reserved";
    let ranges = [
        MemoryRange {
            buffer: 2.into(),
            length: 4.into(),
            ..Default::default()
        },
        MemoryRange {
            buffer: 0x8000_0000.into(),
            offset: 16.into(),
            length: 3.into(),
            ..Default::default()
        },
    ];
    let body = command::SendPdu {
        connection: CONNECTION.into(),
        payload_length: 7.into(),
        invalidate_token: 0.into(),
    };
    let decoded = command(golden, command::RANGES, 9, body, ranges.as_bytes());
    assert!(matches!(decoded, Command::SendPdu(b) if b.payload_length.get() == 7));
}

#[test]
fn register_memory() {
    let golden = "
        20000000            # length: 32
        2100                # opcode: REGISTER_MEMORY
        0000                # flags
        0b00000000000000    # user_data: 11
        01c0ab89677f0000    # address: 0x7f6789abc001
        0100200000000000    # length: 2 MiB + 1";
    let body = command::RegisterMemory {
        address: 0x7f67_89ab_c001.into(),
        length: 0x20_0001.into(),
    };
    let decoded = command(golden, 0, 11, body, &[]);
    assert!(matches!(decoded, Command::RegisterMemory(b) if b.length.get() == 0x20_0001));
}

#[test]
fn unregister_memory() {
    let golden = "
        18000000            # length: 24
        2200                # opcode: UNREGISTER_MEMORY
        0000                # flags
        0c00000000000000    # user_data: 12
        00000080            # handle
        00000000            # reserved";
    let body = command::UnregisterMemory {
        handle: 0x8000_0000.into(),
        reserved: 0.into(),
    };
    let decoded = command(golden, 0, 12, body, &[]);
    assert!(matches!(decoded, Command::UnregisterMemory(b) if b.handle.get() == 0x8000_0000));
}
