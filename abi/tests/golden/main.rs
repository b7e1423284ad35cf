// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! Every record byte by byte, written from `docs/abi.md`: what stands here is the ABI, whatever the
//! structs say. Each line of hex is a field.

mod commands;
mod connect;
mod events;
mod queries;
mod routing;

use usmbd_abi::command::{self, Command, Layout};
use usmbd_abi::event::{self, Event};
use usmbd_abi::memory::Negotiated;
use usmbd_abi::record::{Header, SocketAddress};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes from hex; `#` starts a comment.
pub fn hex(text: &str) -> Vec<u8> {
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
pub fn command<B: command::Body>(
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
pub fn event<'a, B: event::Body>(
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

pub fn ipv4() -> SocketAddress {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 9, 0, 1]);
    SocketAddress {
        family: 2.into(),
        port: 445.into(),
        address,
        ..Default::default()
    }
}

pub const IPV4: &str = "
    0200                                # family: IPv4
    bd01                                # port: 445
    00000000                            # flow
    00000000                            # scope
    00000000                            # reserved
    0a090001 000000000000000000000000   # address: 10.9.0.1";

pub fn ipv6() -> SocketAddress {
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

pub const IPV6: &str = "
    0a00                                # family: IPv6
    3412                                # port: 0x1234
    05000000                            # flow
    03000000                            # scope
    00000000                            # reserved
    fe800000000000000000000000000002    # address: fe80::2";

pub fn negotiated() -> Negotiated {
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

pub const NEGOTIATED: &str = "
    54050000    # max_send_size: 1364
    00200000    # max_receive_size: 8192
    00001000    # max_fragmented_send_size: 1 MiB
    01001000    # max_fragmented_recv_size: 1 MiB + 1
    00008000    # max_read_write_size: 8 MiB
    4000        # receive_credit_max: 64
    ff00        # send_credit_target: 255";

pub const TICKET: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
pub const CONNECTION: u64 = 0x0102_0304_0506_0708;

pub const CLIENT_GUID: [u8; 16] = [
    0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf,
];
pub const SESSION: u64 = 0xfedc_ba09_8765_4321;
