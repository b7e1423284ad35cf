// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Counters, and what operators ask.

use super::{command, event, hex, ipv4, ipv6, CONNECTION, IPV4, IPV6};
use usmbd_abi::command::Command;
use usmbd_abi::event::{ConnectionInfo, Counters, Event};
use zerocopy::IntoBytes;

const COUNTERS: &str = "
    6400000000000000    # pdus_sent: 100
    6500000000000000    # pdus_received: 101
    0a00000000000000    # messages_sent: 10
    0b00000000000000    # messages_received: 11
    e803000000000000    # message_bytes_sent: 1000
    4c04000000000000    # message_bytes_received: 1100
    0200000000000000    # rdma_reads: 2
    0000200000000000    # rdma_read_bytes: 2 MiB
    0300000000000000    # rdma_writes: 3
    0000300000000000    # rdma_write_bytes: 3 MiB
    0400000000000000    # remote_invalidations: 4";

fn counters() -> Counters {
    Counters {
        pdus_sent: 100.into(),
        pdus_received: 101.into(),
        messages_sent: 10.into(),
        messages_received: 11.into(),
        message_bytes_sent: 1000.into(),
        message_bytes_received: 1100.into(),
        rdma_reads: 2.into(),
        rdma_read_bytes: (2 << 20).into(),
        rdma_writes: 3.into(),
        rdma_write_bytes: (3 << 20).into(),
        remote_invalidations: 4.into(),
    }
}

#[test]
fn query_statistics() {
    let golden = "
        18000000            # length: 24
        5000                # opcode: QUERY_STATISTICS
        0000                # flags
        0d00000000000000    # user_data: 13
        0807060504030201    # connection";
    let connection = CONNECTION.into();
    let body = command::QueryStatistics { connection };
    let decoded = command(golden, 0, 13, body, &[]);
    assert!(matches!(decoded, Command::QueryStatistics(b) if b.connection.get() == CONNECTION));
}

#[test]
fn list_connections() {
    let golden = "
        18000000            # length: 24
        5100                # opcode: LIST_CONNECTIONS
        0000                # flags
        0e00000000000000    # user_data: 14
        0807060504030201    # after";
    let after = CONNECTION.into();
    let body = command::ListConnections { after };
    let decoded = command(golden, 0, 14, body, &[]);
    assert!(matches!(decoded, Command::ListConnections(b) if b.after.get() == CONNECTION));
}

#[test]
fn drop_one() {
    let golden = "
        18000000            # length: 24
        5200                # opcode: DROP
        0000                # flags
        0000000000000000    # user_data
        0807060504030201    # connection";
    let connection = CONNECTION.into();
    let decoded = command(golden, 0, 0, command::Drop { connection }, &[]);
    assert!(matches!(decoded, Command::Drop(b) if b.connection.get() == CONNECTION));
}

#[test]
fn statistics() {
    let golden = hex(&format!(
        "
        70000000            # length: 112
        5080                # opcode: STATISTICS
        0000                # flags
        0d00000000000000    # user_data: 13
        0807060504030201    # connection
        {COUNTERS}"
    ));
    let body = event::Statistics {
        connection: CONNECTION.into(),
        counters: counters(),
    };
    assert!(matches!(
        event(&golden, 0, 13, body, &[]),
        Event::Statistics(b, _) if b.counters.rdma_writes.get() == 3
    ));
}

#[test]
fn connections() {
    let golden = hex(&format!(
        "
        f0000000            # length: 240
        5180                # opcode: CONNECTIONS
        0000                # flags
        0e00000000000000    # user_data: 14
        01000000            # count: 1
        02000000            # left: 2
        0807060504030201    # connection
        04000000            # phase: serving
        02000000            # fabric: RoCE
        {IPV4}
        {IPV6}
        72786530000000000000000000000000    # device: rxe0
        00000000000000000000000000000000
        e8030000            # uid: 1000
        1000                # send_credits: 16
        3f00                # receive_credits: 63
        00b8010000000000    # memory: 110 KiB
        {COUNTERS}"
    ));
    let mut device = [0; 32];
    device[..4].copy_from_slice(b"rxe0");
    let info = ConnectionInfo {
        connection: CONNECTION.into(),
        phase: event::PHASE_SERVING.into(),
        fabric: usmbd_abi::record::FABRIC_ROCE.into(),
        local: ipv4(),
        peer: ipv6(),
        device,
        uid: 1000.into(),
        send_credits: 16.into(),
        receive_credits: 63.into(),
        memory: (110 << 10).into(),
        counters: counters(),
    };
    let body = event::Connections {
        count: 1.into(),
        left: 2.into(),
    };
    assert!(matches!(
        event(&golden, 0, 14, body, info.as_bytes()),
        Event::Connections(b, tail) if b.left.get() == 2 && tail.len() == 216
    ));
}
