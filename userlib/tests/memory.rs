// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registration area and the status page, on a memory file that stands for the device.

use std::io::{Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;
use usmbd::abi::memory::{StatusPage as Record, STATE_DISCONNECTED, STATUS_PAGE_OFFSET};
use usmbd::{Area, Context, Lease, MemoryParameters, State, StatusPage};
use zerocopy::IntoBytes;

const MIB: usize = 1 << 20;

fn file() -> std::fs::File {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"usmbd".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: memfd_create() has just made it.
    unsafe { std::fs::File::from_raw_fd(fd) }
}

fn parameters(buffer_count: u32) -> MemoryParameters {
    MemoryParameters {
        area_offset: 0,
        status_page_offset: STATUS_PAGE_OFFSET,
        buffer_count,
        buffer_size: MIB as u32,
        status_page_length: 4096,
    }
}

fn area(buffers: u32) -> Area {
    let file = file();
    file.set_len(u64::from(buffers) * MIB as u64).unwrap();
    let context = Context::from(OwnedFd::from(file));
    Area::map(&context, &parameters(buffers)).unwrap()
}

/// Where a lease lies: buffer, offset, length.
fn places(lease: &Lease) -> Vec<(u32, u32, u32)> {
    lease
        .ranges(lease.len())
        .iter()
        .map(|range| {
            assert_eq!(range.reserved.get(), 0);
            (range.buffer.get(), range.offset.get(), range.length.get())
        })
        .collect()
}

#[test]
fn small_leases_share_the_first_buffer() {
    let area = area(4);
    let first = area.lease(1).unwrap();
    let second = area.lease(4097).unwrap();
    let third = area.lease(8192).unwrap();
    assert_eq!(places(&first), [(0, 0, 1)]);
    assert_eq!(places(&second), [(0, 4096, 4097)]);
    assert_eq!(places(&third), [(0, 12288, 8192)]);
    drop(second);
    assert_eq!(places(&area.lease(8192).unwrap()), [(0, 4096, 8192)]);
    assert!(area.lease(0).is_none());
}

#[test]
fn a_megabyte_lies_in_one_buffer_and_more_in_several() {
    let area = area(8);
    let small = area.lease(1).unwrap();
    assert_eq!(places(&area.lease(MIB).unwrap()), [(1, 0, MIB as u32)]);
    let large = area.lease(3 * MIB + 5000).unwrap();
    let mib = MIB as u32;
    assert_eq!(
        places(&large),
        [(1, 0, mib), (2, 0, mib), (3, 0, mib), (0, 4096, 5000)]
    );
    let start = large.ranges(MIB + 1);
    assert_eq!((start.len(), start[1].length.get()), (2, 1));
    drop(small);
}

#[test]
fn when_there_is_no_room_there_is_none_and_it_comes_back() {
    let area = area(2);
    assert!(area.lease(2 * MIB + 1).is_none());
    let all = area.lease(2 * MIB).unwrap();
    assert!(area.lease(1).is_none());
    drop(all);
    // In crumbs: every other unit is free.
    let mut units: Vec<Lease> = (0..512).map(|_| area.lease(1).unwrap()).collect();
    assert!(area.lease(1).is_none());
    let mut index = 0;
    units.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    let pieces = area.lease(64 * 4096).unwrap();
    assert_eq!(places(&pieces).len(), 64);
    // A transfer has 64 ranges at most.
    drop(pieces);
    assert!(area.lease(65 * 4096).is_none());
    assert!(area.lease(64 * 4096).is_some());
}

#[test]
fn data_goes_in_and_out_across_pieces() {
    let area = area(3);
    let lease = area.lease(2 * MIB + 100).unwrap();
    let data: Vec<u8> = (0..lease.len()).map(|n| (n / 7) as u8).collect();
    lease.write(0, &data);
    let mut back = vec![0; data.len()];
    lease.read(0, &mut back);
    assert_eq!(back, data);
    let mut some = [0; 20];
    lease.read(MIB - 10, &mut some);
    assert_eq!(some, data[MIB - 10..MIB + 10]);
    lease.write(MIB - 1, &[1, 2]);
    lease.read(MIB - 2, &mut some[..4]);
    assert_eq!(some[..4], [data[MIB - 2], 1, 2, data[MIB + 1]]);
    let lengths: Vec<usize> = lease.pointers().iter().map(|piece| piece.1).collect();
    assert_eq!(lengths, [MIB, MIB, 100]);
}

#[test]
#[should_panic(expected = "reach past a lease of 10 bytes")]
fn nothing_is_written_past_the_end() {
    area(1).lease(10).unwrap().write(5, &[0; 6]);
}

#[test]
fn idle_buffers_are_let_go_once() {
    let area = area(3);
    let kept = area.lease(1).unwrap();
    drop(area.lease(2 * MIB).unwrap());
    assert_eq!(area.trim(Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(area.trim(Duration::ZERO).unwrap(), 2);
    assert_eq!(area.trim(Duration::ZERO).unwrap(), 0);
    drop(area.lease(MIB).unwrap());
    assert_eq!(area.trim(Duration::ZERO).unwrap(), 1);
    kept.write(0, &[1]);
    drop(kept);
    assert_eq!(area.trim(Duration::ZERO).unwrap(), 1);
}

#[test]
fn without_memory_there_is_no_lease_and_no_signal() {
    // A file shorter than its mapping: a touch would be a SIGBUS, as at a limit of the driver.
    let file = file();
    file.set_len(MIB as u64).unwrap();
    let context = Context::from(OwnedFd::from(file));
    let area = Area::map(&context, &parameters(2)).unwrap();
    assert!(area.lease(2 * MIB).is_none());
    assert!(area.lease(MIB).is_some());
    assert_eq!(area.trim(Duration::ZERO).unwrap(), 1);
}

#[test]
fn the_status_page_is_read_at_rest() {
    let mut file = file();
    let context = Context::from(OwnedFd::from(file.try_clone().unwrap()));
    let mut record = Record {
        abi_version: usmbd::abi::VERSION.into(),
        sequence: 6.into(),
        connections: 1.into(),
        state: STATE_DISCONNECTED.into(),
        reason: 2.into(),
        fabric: 2.into(),
        connection: 9.into(),
        local: Default::default(),
        peer: Default::default(),
        negotiated: Default::default(),
        bytes_accepted: 100.into(),
        bytes_completed: 40.into(),
    };
    let mut put = |record: &Record| {
        file.seek(std::io::SeekFrom::Start(STATUS_PAGE_OFFSET))
            .unwrap();
        file.write_all(record.as_bytes()).unwrap();
        file.set_len(STATUS_PAGE_OFFSET + 4096).unwrap();
    };
    put(&record);
    let page = StatusPage::map(&context).unwrap();
    let connection = page.snapshot().unwrap().connection.unwrap();
    assert_eq!(connection.id.number(), 9);
    assert_eq!(connection.state, State::Disconnected);
    assert!(connection.reason.unwrap().is_orderly());
    assert_eq!(connection.bytes_unsent(), 60);
    assert_eq!(connection.peer, None);
    assert_eq!(page.bytes().unwrap(), (100, 40));

    record.sequence = 7.into();
    put(&record);
    let changing = "it is being changed and never comes to rest";
    assert!(page.snapshot().is_err(), "{changing}");
    assert!(page.bytes().is_err(), "{changing}");
    record.sequence = 8.into();
    record.state = 0.into();
    put(&record);
    assert!(page.snapshot().unwrap().connection.is_none());
}
