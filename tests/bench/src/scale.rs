// SPDX-License-Identifier: GPL-2.0-only

//! `scale`: what a message costs among many connections, and what an idle connection has of memory.

use crate::interface::Report;
use crate::session::{Peers, Result, Session};
use serde_json::json;
use std::os::fd::AsRawFd;
use std::path::Path;
use usmbd::Batch;

/// Messages of one window.
const MESSAGES: usize = 512;
/// Messages of one write().
const AT_ONCE: usize = 32;
const SIZE: usize = 1024;

/// Messages in turn on all of the connections, `AT_ONCE` a call.
pub fn run(node: &Path, peers: &Peers, quick: bool) -> Result<()> {
    let mut report = Report::default();
    let counts: &[u32] = if quick {
        &[1, 16, 256]
    } else {
        &[1, 4, 16, 64, 256]
    };
    for connections in counts {
        let peers = Peers {
            connections: *connections,
            ..peers.clone()
        };
        let mut session = Session::with_peers(node, &peers)?;
        session.settle();
        let (memory, seen) = memory_of_connections()?;
        let message = vec![0x5a; SIZE];
        let mut calls = Vec::new();
        let mut targets = session.remotes.iter().cycle();
        for _ in 0..MESSAGES / AT_ONCE {
            let mut batch = Batch::new();
            for remote in targets.by_ref().take(AT_ONCE) {
                batch.send(remote.id, 1, &[&message])?;
            }
            calls.push(batch.to_bytes());
        }
        let fd = session.context.as_raw_fd();
        for number in 0..4 {
            let what = json!({
                "connections": connections, "records": MESSAGES, "records_per_call": AT_ONCE,
                "memory": memory / seen.max(1), "credits": peers.credits,
            });
            let work = || {
                for bytes in &calls {
                    // SAFETY: The kernel reads these bytes.
                    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
                    if written != bytes.len() as isize {
                        return Err("a batch that was not taken whole".into());
                    }
                    session.settle();
                }
                Ok(())
            };
            if number == 0 {
                work()?;
            } else {
                report.count(what, work)?;
            }
            session.drain(MESSAGES)?;
        }
    }
    Ok(())
}

/// Bytes that all connections have by themselves, as the driver counts them, and how many there are.
fn memory_of_connections() -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for line in std::fs::read_to_string("/sys/kernel/debug/usmbd/connections")?.lines() {
        let memory = line
            .split(' ')
            .find_map(|word| word.strip_prefix("memory="));
        if let Some(memory) = memory {
            sum.0 += memory.parse::<u64>()?;
            sum.1 += 1;
        }
    }
    Ok(sum)
}
