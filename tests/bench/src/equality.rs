// SPDX-License-Identifier: GPL-2.0-only

//! That both ways refuse the same: what is compared has to do the same work.

use crate::calls::{directive_of, record};
use crate::directive::{self, Directive};
use crate::session::{Result, Session};
use std::os::fd::AsRawFd;
use usmbd::{BufferDescriptorV1, ConnectionId, MemoryRange, SendOptions};
use zerocopy::IntoBytes;

/// What `write()` says to a record: the errno, or zero.
fn written(session: &Session, record: &[u8]) -> i32 {
    // SAFETY: The kernel reads these bytes.
    let taken = unsafe {
        libc::write(
            session.context.as_raw_fd(),
            record.as_ptr().cast(),
            record.len(),
        )
    };
    outcome(taken == record.len() as isize)
}

/// What the ioctl says to a directive, alone in a batch.
fn directed(session: &Session, directive: &Directive) -> i32 {
    let mut batch = directive::Batch {
        directives: (directive.as_bytes().as_ptr() as u64).into(),
        count: 1.into(),
        ..Default::default()
    };
    let argument = batch.as_mut_bytes().as_mut_ptr();
    // SAFETY: The argument is of the operation's type, and the directive lives.
    let taken = unsafe {
        libc::ioctl(
            session.context.as_raw_fd(),
            directive::BATCH.into(),
            argument,
        )
    };
    outcome(taken == 1)
}

fn outcome(taken: bool) -> i32 {
    if taken {
        0
    } else {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
    }
}

/// A record and what is done to it; both ways must say the same. What is taken makes one event.
pub fn check(session: &mut Session) -> Result<()> {
    let remote = session.remotes.first().ok_or("no peer")?;
    let (id, memory) = (remote.id, remote.memory);
    let options = SendOptions::default();
    let range = |buffer: u32, offset: u32, length: u32| MemoryRange {
        buffer: buffer.into(),
        offset: offset.into(),
        length: length.into(),
        ..MemoryRange::default()
    };
    let transfer = |range: MemoryRange, described: u32| {
        record(|batch| {
            let descriptor = BufferDescriptorV1 {
                length: described.into(),
                ..memory
            };
            batch.rdma_write(id, 1, false, &[range], &[descriptor])
        })
    };
    let nop = record(|batch| batch.nop(1))?;
    let message = record(|batch| batch.send_owned(id, 1, options, vec![1; 9]))?;
    let nobody = ConnectionId::new(u64::MAX);
    let mut cases = vec![
        ("NOP", nop.clone()),
        ("a message", message.clone()),
        (
            "a message too long",
            record(|batch| batch.send_owned(id, 1, options, vec![1; 4 << 20]))?,
        ),
        (
            "nobody's connection",
            record(|batch| batch.send_owned(nobody, 1, options, vec![1; 9]))?,
        ),
        ("a transfer", transfer(range(0, 0, 4096), 4096)?),
        (
            "a range outside",
            transfer(range(0, (1 << 20) - 1, 4096), 4096)?,
        ),
        ("no such buffer", transfer(range(9999, 0, 4096), 4096)?),
        ("descriptors too short", transfer(range(0, 0, 4096), 4095)?),
    ];
    let mut changed = |name, from: &[u8], at: usize, value: u8| {
        let mut record = from.to_vec();
        record[at] = value;
        cases.push((name, record));
    };
    changed("an unknown flag of NOP", &nop, 6, 1);
    changed("an unknown flag of a message", &message, 7, 0x80);
    changed("a message of no bytes", &message, 24, 0);
    changed("a payload of other length", &message, 24, 32);
    changed("a token without its flag", &message, 28, 1);
    changed("padding that is not zero", &message, 47, 1);
    for (name, record) in cases {
        let mut keep = Vec::new();
        let directive = directive_of(&record, &mut keep)?;
        let (one, other) = (written(session, &record), directed(session, &directive));
        if one != other {
            return Err(format!("{name}: errno {one} by write(), {other} by ioctl()").into());
        }
        if one == 0 {
            session.drain(2)?;
        }
        eprintln!("both ways: {name}: errno {one}");
    }
    Ok(())
}
