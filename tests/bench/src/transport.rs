// SPDX-License-Identifier: GPL-2.0-only

//! `transport`: how much goes over one connection in a time, with so many operations under way at once, as
//! perftest measures it.

use crate::calls::record;
use crate::session::{Peers, Result, Session};
use serde_json::json;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};
use usmbd::{BufferDescriptorV1, SendOptions};

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub enum Operation {
    /// Messages to the peer.
    Send,
    /// RDMA writes into the peer's memory.
    Write,
    /// RDMA reads of the peer's memory.
    Read,
}

/// Keeps `depth` operations of `size` bytes under way for `time`; prints how many ended.
pub fn run(
    node: &Path,
    peers: &Peers,
    operation: Operation,
    size: usize,
    depth: usize,
    time: Duration,
) -> Result<()> {
    let peers = Peers {
        memory: size.max(4096),
        ..peers.clone()
    };
    let mut session = Session::with_peers(node, &peers)?;
    let remote = session.remotes.first().ok_or("no peer")?;
    let (id, descriptor) = (
        remote.id,
        BufferDescriptorV1 {
            length: (size as u32).into(),
            ..remote.memory
        },
    );
    let area = session.area()?;
    let lease = area.lease(size.max(4096)).ok_or("no room in the area")?;
    let ranges = lease.ranges(size);
    let record = match operation {
        Operation::Send => {
            record(|batch| batch.send_owned(id, 1, SendOptions::default(), vec![0x5a; size]))?
        }
        Operation::Write => record(|batch| batch.rdma_write(id, 1, false, &ranges, &[descriptor]))?,
        Operation::Read => record(|batch| batch.rdma_read(id, 1, false, &ranges, &[descriptor]))?,
    };
    let all = record.repeat(depth);
    let fd = session.context.as_raw_fd();
    let mut under_way = 0;
    let mut begin = Instant::now();
    // The first part does not count: paths and caches are cold.
    let mut ended = 0u64;
    let mut warm = false;
    loop {
        let bytes = &all[..(depth - under_way) * record.len()];
        if !bytes.is_empty() {
            // SAFETY: The kernel reads these bytes.
            let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
            if written <= 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            under_way += written as usize / record.len();
        }
        let done = session.take_completions()?;
        under_way -= done;
        ended += done as u64;
        if !warm && begin.elapsed() > time / 4 {
            (begin, ended, warm) = (Instant::now(), 0, true);
        } else if begin.elapsed() > time {
            break;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    session.drain(under_way)?;
    println!(
        "{}",
        json!({
            "operation": format!("{operation:?}").to_lowercase(), "size": size, "depth": depth,
            "who": "usmbd", "per_second": ended as f64 / seconds,
        })
    );
    Ok(())
}
