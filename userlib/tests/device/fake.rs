// SPDX-License-Identifier: MIT OR Apache-2.0

//! The other end of the socket pair: what the device would write and read.

use std::os::fd::OwnedFd;
use usmbd::abi::record::{BatchHeader, Header, HEADER_LENGTH};
use usmbd::abi::{command, event};
use usmbd::{ConnectionId, Context, Wait};
use zerocopy::{FromBytes, IntoBytes};

pub const ID: ConnectionId = ConnectionId::new(7);

/// The context under test, and the other end.
pub fn pair() -> (Context, Context) {
    let mut fds = [0; 2];
    // SAFETY: `fds` is valid for writes of two descriptors.
    let result =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
    assert_eq!(result, 0);
    fds.map(|fd| {
        // SAFETY: socketpair() has just made it.
        let fd: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
        Context::from(fd)
    })
    .into()
}

/// What the device writes: raw bytes, as one read.
pub fn put(device: &Context, bytes: &[u8]) {
    use std::io::Write;
    let fd: OwnedFd = device.try_clone().unwrap().into();
    assert_eq!(std::fs::File::from(fd).write(bytes).unwrap(), bytes.len());
}

/// What the device reads: one write.
pub fn get(device: &Context) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 18];
    let length = device.read(&mut bytes, Wait::No).unwrap();
    bytes.truncate(length);
    bytes
}

pub fn record<B: event::Body>(flags: u16, user_data: u64, body: B, tail: &[u8]) -> Vec<u8> {
    let header = event::header::<B>(flags, user_data, tail.len() as u32).unwrap();
    let mut bytes = [header.as_bytes(), body.as_bytes(), tail].concat();
    bytes.resize(header.length.get() as usize, 0);
    bytes
}

pub fn batch(records: &[Vec<u8>]) -> Vec<u8> {
    let records_length: usize = records.iter().map(Vec::len).sum();
    let header = BatchHeader {
        count: (records.len() as u32).into(),
        bytes: (16 + records_length as u32).into(),
        still_queued: 3.into(),
        next_length: 40.into(),
    };
    [header.as_bytes(), &records.concat()].concat()
}

pub fn piece(total: u32, offset: u32, payload: &[u8]) -> Vec<u8> {
    let body = event::PduReceived {
        connection: ID.number().into(),
        total: total.into(),
        offset: offset.into(),
        payload_length: (payload.len() as u32).into(),
        ..Default::default()
    };
    record(0, 0, body, payload)
}

/// An event of a driver newer than this library.
pub fn unknown() -> Vec<u8> {
    let header = Header {
        length: 24.into(),
        opcode: 0xfff0.into(),
        ..Default::default()
    };
    [header.as_bytes(), &[0xff; 8]].concat()
}

pub fn commands(mut bytes: &[u8]) -> Vec<(command::Command, Header, Vec<u8>)> {
    let mut commands = Vec::new();
    while !bytes.is_empty() {
        let (header, _) = Header::read_from_prefix(bytes).unwrap();
        let layout = command::Layout::of(&header).unwrap();
        let (whole, rest) = bytes.split_at(header.length.get() as usize);
        let (body, tail) = whole[HEADER_LENGTH as usize..].split_at(layout.body_length);
        let command = command::Command::decode(&header, body).unwrap();
        commands.push((command, header, tail.to_vec()));
        bytes = rest;
    }
    commands
}
