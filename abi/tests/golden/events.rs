// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Events of connections, listeners and memory, the batch header and the status page.

use super::{event, hex, ipv4, ipv6, negotiated, CONNECTION, IPV4, IPV6, NEGOTIATED, TICKET};
use usmbd_abi::event::Event;
use usmbd_abi::memory::StatusPage;
use usmbd_abi::record::BatchHeader;
use zerocopy::IntoBytes;

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
        a0000000                            # length: 160
        3380                                # opcode: CONNECTION_READY
        0000                                # flags
        0000000000000000                    # user_data
        05000000                            # listener: 5
        02000000                            # fabric: RoCE
        0807060504030201                    # connection
        000102030405060708090a0b0c0d0e0f    # ticket
        {IPV4}
        {IPV6}
        00000000 00000000 00000000          # negotiated: not yet
        00000000 00000000 0000 0000
        00000000000000000000000000000000    # client_guid: not known
        0000000000000000                    # session_id: not known"
    ));
    let body = event::ConnectionReady {
        listener: 5.into(),
        fabric: usmbd_abi::record::FABRIC_ROCE.into(),
        connection: CONNECTION.into(),
        ticket: TICKET,
        local: ipv4(),
        peer: ipv6(),
        ..Default::default()
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

#[test]
fn memory_registered_and_unregistered() {
    let golden = hex("
        20000000            # length: 32
        2180                # opcode: MEMORY_REGISTERED
        0000                # flags
        0b00000000000000    # user_data: 11
        00000080            # handle
        00000000            # reserved
        0100200000000000    # length: 2 MiB + 1");
    let body = event::MemoryRegistered {
        handle: 0x8000_0000.into(),
        reserved: 0.into(),
        length: 0x20_0001.into(),
    };
    assert!(matches!(
        event(&golden, 0, 11, body, &[]),
        Event::MemoryRegistered(..)
    ));

    let golden = hex("
        18000000            # length: 24
        2280                # opcode: MEMORY_UNREGISTERED
        0000                # flags
        0c00000000000000    # user_data: 12
        00000080            # handle
        00000000            # reserved");
    let body = event::MemoryUnregistered {
        handle: 0x8000_0000.into(),
        reserved: 0.into(),
    };
    assert!(matches!(
        event(&golden, 0, 12, body, &[]),
        Event::MemoryUnregistered(..)
    ));
}

#[test]
fn listener_changed() {
    let golden = hex("
        18000000            # length: 24
        3280                # opcode: LISTENER_CHANGED
        0000                # flags
        0000000000000000    # user_data
        05000000            # listener: 5
        0200                # infiniband_devices: 2
        0100                # iwarp_devices: 1");
    let body = event::ListenerChanged {
        listener: 5.into(),
        infiniband_devices: 2.into(),
        iwarp_devices: 1.into(),
    };
    assert!(matches!(
        event(&golden, 0, 0, body, &[]),
        Event::ListenerChanged(..)
    ));
}
