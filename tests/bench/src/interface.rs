// SPDX-License-Identifier: GPL-2.0-only

//! `interface`: what one record costs, by each way in which it can be handed over. One line of JSON for each
//! window that the plugin counts (marks.rs); analyse.py joins the two.

use crate::calls::{record, Call, Way};
use crate::directive;
use crate::equality;
use crate::marks::window;
use crate::session::{Peers, Result, Session};
use serde_json::{json, Value};
use std::os::fd::AsRawFd;
use std::path::Path;
use usmbd::{Area, BufferDescriptorV1, SendOptions, Wait};

/// What is handed over.
struct Kind {
    name: &'static str,
    record: Vec<u8>,
    /// Operation of a single ioctl.
    number: u32,
    /// Records of one window.
    records: usize,
    /// Windows of each way.
    windows: u32,
    /// Records a call.
    sizes: &'static [usize],
    /// The window ends when all that follows from the records has happened.
    settles: bool,
}

const SIZES: &[usize] = &[1, 2, 4, 8, 16, 32, 64, 128];

/// Where windows get their numbers, and tell what they were.
#[derive(Default)]
pub struct Report {
    windows: u32,
}

impl Report {
    /// Counts what `work` does under a fresh number; `what` says what that was.
    pub fn count(&mut self, what: Value, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.windows += 1;
        window(self.windows, work)?;
        let mut line = what;
        line["window"] = self.windows.into();
        println!("{line}");
        Ok(())
    }
}

/// Every way, and all events.
pub fn run(node: &Path, peers: &Peers, quick: bool) -> Result<()> {
    let mut report = Report::default();
    let mut session = Session::with_peers(node, peers)?;
    let area = session.area()?;
    // Whoever touches a buffer gives it memory.
    drop(area.lease(4096));
    equality::check(&mut session)?;
    bare_calls(&mut report, &session, quick)?;
    for kind in kinds(&session, &area, quick)? {
        for way in ways(&kind) {
            hand_over(&mut report, &mut session, &kind, way)?;
        }
    }
    events(&mut report, &mut session, quick)
}

/// What a call costs that does nothing.
fn bare_calls(report: &mut Report, session: &Session, quick: bool) -> Result<()> {
    const CALLS: usize = 1000;
    let fd = session.context.as_raw_fd();
    for _ in 0..rounds(quick) {
        let what = |name| json!({"kind": "bare", "way": name, "calls": CALLS, "records": CALLS});
        report.count(what("getppid()"), || {
            for _ in 0..CALLS {
                // SAFETY: It takes nothing. Not libc's function, which may remember.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
            Ok(())
        })?;
        report.count(what("empty write()"), || {
            for _ in 0..CALLS {
                // SAFETY: No byte is read.
                if unsafe { libc::write(fd, [0u8; 1].as_ptr().cast(), 0) } != 0 {
                    return Err("an empty write() that does not return 0".into());
                }
            }
            Ok(())
        })?;
        report.count(what("empty ioctl()"), || {
            for _ in 0..CALLS {
                // SAFETY: The driver knows no such operation.
                if unsafe { libc::ioctl(fd, 0, 0) } != -1 {
                    return Err("an unknown ioctl() that succeeds".into());
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn rounds(quick: bool) -> u32 {
    if quick {
        2
    } else {
        5
    }
}

fn kinds(session: &Session, area: &Area, quick: bool) -> Result<Vec<Kind>> {
    let remote = session.remotes.first().ok_or("no peer")?;
    let lease = area.lease(65536).ok_or("no room in the area")?;
    lease.write(0, &[0x5a; 65536]);
    let ranges = lease.ranges(65536);
    let descriptor = BufferDescriptorV1 {
        length: 65536.into(),
        ..remote.memory
    };
    let (small, large) = ([0x5a; 64], [0x5a; 1024]);
    let message = |bytes: &[u8]| {
        record(|batch| batch.send_owned(remote.id, 1, SendOptions::default(), bytes.to_vec()))
    };
    let windows = rounds(quick);
    let kind = Kind {
        name: "NOP",
        record: record(|batch| batch.nop(1))?,
        number: directive::NOP,
        records: 1024,
        windows,
        sizes: SIZES,
        settles: false,
    };
    Ok(vec![
        Kind {
            name: "SEND_PDU 64 B",
            record: message(&small)?,
            number: directive::SEND_PDU,
            records: 128,
            settles: true,
            ..kind
        },
        Kind {
            name: "SEND_PDU 1 KiB",
            record: message(&large)?,
            number: directive::SEND_PDU,
            records: 128,
            settles: true,
            ..kind
        },
        Kind {
            name: "RDMA_WRITE 64 KiB",
            record: record(|batch| batch.rdma_write(remote.id, 1, false, &ranges, &[descriptor]))?,
            number: directive::RDMA_READ_WRITE,
            records: 32,
            windows: windows.min(3),
            sizes: &[1, 8, 32],
            settles: true,
        },
        kind,
    ])
}

fn ways(kind: &Kind) -> Vec<Way> {
    let mut ways = vec![Way::Ioctl];
    ways.extend(kind.sizes.iter().map(|records| Way::Write(*records)));
    ways.extend(kind.sizes.iter().map(|records| Way::IoctlBatch(*records)));
    ways.extend([
        Way::Uring {
            writes: 1,
            records: 1,
        },
        Way::Uring {
            writes: 32,
            records: 1,
        },
        Way::Uring {
            writes: 1,
            records: 32,
        },
    ]);
    ways
}

fn hand_over(report: &mut Report, session: &mut Session, kind: &Kind, way: Way) -> Result<()> {
    let calls = kind.records / way.records();
    let mut call = Call::new(&session.context, way, &kind.record, kind.number)?;
    // Once for nothing: what is made at first use is there then.
    for number in 0..=kind.windows {
        let what = json!({
            "kind": kind.name, "way": way.name(), "records_per_call": way.records(),
            "records_per_write": way.records_per_write(), "calls": calls, "records": kind.records,
            "settled": kind.settles,
        });
        let mut work = || {
            for _ in 0..calls {
                call.run()?;
            }
            if kind.settles {
                session.settle();
            }
            Ok(())
        };
        if number == 0 {
            work()?;
        } else {
            report.count(what, work)?;
        }
        session.drain(kind.records)?;
    }
    Ok(())
}

/// What it costs to take events, so many with one call.
fn events(report: &mut Report, session: &mut Session, quick: bool) -> Result<()> {
    let remote = session.remotes.first().ok_or("no peer")?.id;
    let nop = record(|batch| batch.nop(1))?;
    let sent = record(|batch| batch.send_owned(remote, 1, SendOptions::default(), vec![0x5a; 64]))?;
    let mut buffer = vec![0u8; 1 << 20];
    for count in [1, 8, 32, 64] {
        let mut asked = b"SEND".to_vec();
        asked.extend((count as u32).to_le_bytes());
        asked.extend(1024u32.to_le_bytes());
        let asked = record(|batch| {
            let options = SendOptions {
                quiet: true,
                ..SendOptions::default()
            };
            batch.send_owned(remote, 1, options, asked)
        })?;
        let causes = [
            ("NOP_DONE", nop.repeat(count)),
            ("PDU_SENT", sent.repeat(count)),
            ("PDU_RECEIVED 1 KiB", asked),
        ];
        for (name, bytes) in causes {
            for by_ioctl in [false, true] {
                for _ in 0..rounds(quick) {
                    let way = if by_ioctl { "ioctl" } else { "read" };
                    let what = json!({
                        "kind": format!("event {name}"), "way": way, "records_per_call": count,
                        "calls": 1, "records": count,
                    });
                    cause(session, &bytes)?;
                    if by_ioctl {
                        let mut call = Call::get_events(&session.context, vec![0; 1 << 20].into());
                        report.count(what, || call.run())?;
                    } else {
                        report.count(what, || {
                            session.context.read(&mut buffer, Wait::No)?;
                            Ok(())
                        })?;
                    }
                    session.none_left()?;
                }
            }
        }
    }
    Ok(())
}

/// Writes records, and waits until all that follows has happened.
fn cause(session: &Session, bytes: &[u8]) -> Result<()> {
    // SAFETY: The kernel reads these bytes.
    let written = unsafe {
        libc::write(
            session.context.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
        )
    };
    if written != bytes.len() as isize {
        return Err("a batch that was not taken whole".into());
    }
    for _ in 0..10 {
        session.settle();
    }
    Ok(())
}
