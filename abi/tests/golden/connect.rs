// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! CONNECT and CONNECTED.

use super::{command, event, hex, ipv4, ipv6, negotiated, CONNECTION, IPV4, IPV6, NEGOTIATED};
use usmbd_abi::command::{Command, Connect};
use usmbd_abi::event::{Connected, Event};
use usmbd_abi::record::{Header, SocketAddress};
use zerocopy::IntoBytes;

#[test]
fn connect() {
    let golden = format!(
        "
        58000000            # length: 88
        3400                # opcode: CONNECT
        0000                # flags
        0300000000000000    # user_data: 3
        {IPV6}              # peer
        00000000000000000000000000000000
        00000000000000000000000000000000    # local: any
        0000000000000000    # reserved"
    );
    let body = Connect {
        peer: ipv6(),
        ..Default::default()
    };
    let decoded = command(&golden, 0, 3, body, &[]);
    assert!(matches!(decoded, Command::Connect(b) if b.peer == ipv6()));
}

#[test]
fn connected() {
    let golden = format!(
        "
        78000000            # length: 120
        3780                # opcode: CONNECTED
        0000                # flags
        0300000000000000    # user_data: 3
        0807060504030201    # connection
        00000000            # status: done
        03000000            # fabric: iWARP
        {NEGOTIATED}        # negotiated
        {IPV4}              # local
        {IPV6}              # peer"
    );
    let body = Connected {
        connection: CONNECTION.into(),
        status: 0.into(),
        fabric: 3.into(),
        negotiated: negotiated(),
        local: ipv4(),
        peer: ipv6(),
    };
    assert!(matches!(
        event(&hex(&golden), 0, 3, body, &[]),
        Event::Connected(..)
    ));
}

#[test]
fn only_a_peer_that_is_one_can_be_connected_to() {
    let is_valid = |change: &dyn Fn(&mut Connect)| {
        let mut body = Connect {
            peer: ipv4(),
            ..Default::default()
        };
        change(&mut body);
        let header: Header = usmbd_abi::command::header::<Connect>(0, 0, 0).unwrap();
        Command::decode(&header, body.as_bytes()).is_ok()
    };
    let port_zero = |mut address: SocketAddress| {
        address.port = 0.into();
        address
    };
    assert!(is_valid(&|_| ()));
    assert!(is_valid(&|body| body.peer.port = 0.into()));
    assert!(is_valid(&|body| body.local = port_zero(ipv4())));
    assert!(!is_valid(&|body| body.local = ipv4()), "a port of ours");
    assert!(!is_valid(&|body| body.local = port_zero(ipv6())));
    assert!(!is_valid(&|body| body.peer = SocketAddress::default()));
    assert!(!is_valid(&|body| body.peer.address = [0; 16]));
    assert!(!is_valid(&|body| body.peer.family = 7.into()));
    assert!(!is_valid(&|body| body.peer.reserved = 1.into()));
    assert!(!is_valid(&|body| body.reserved = 1.into()));
}
