// SPDX-License-Identifier: GPL-2.0-only

//! `requests`: reads and writes of one file on the mounted share, one SMB2 request each, in windows that the
//! plugin counts and that stand in the trace.

use crate::marks::window;
use crate::session::Result;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Requests of one window.
const COUNT: u32 = 16;
const SIZES: [usize; 3] = [4096, 65536, 1 << 20];

/// Memory that O_DIRECT takes.
#[repr(align(4096))]
struct Aligned([u8; 1 << 20]);

/// Notes in the kernel's trace where a window begins and ends.
fn note(marker: &mut Option<File>, text: &str) -> Result<()> {
    if let Some(marker) = marker {
        marker.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// `COUNT` requests of each size, both ways; the first window has the number `first`.
pub fn run(file: &Path, server: &str, first: u32) -> Result<()> {
    let mut memory = Box::new(Aligned([0x5a; 1 << 20]));
    let mut marker = OpenOptions::new()
        .write(true)
        .open("/sys/kernel/tracing/trace_marker")
        .ok();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)?;
    let mut number = first;
    for size in SIZES {
        let bytes = &mut memory.0[..size];
        for write in [false, true] {
            let mut requests = |count: u32| -> Result<()> {
                file.seek(SeekFrom::Start(0))?;
                for _ in 0..count {
                    if write {
                        file.write_all(bytes)?;
                    } else {
                        file.read_exact(bytes)?;
                    }
                }
                Ok(())
            };
            // What is made at first use is there afterwards.
            requests(4)?;
            note(&mut marker, &format!("usmbd-bench begin {number}\n"))?;
            window(number, || requests(COUNT))?;
            note(&mut marker, &format!("usmbd-bench end {number}\n"))?;
            let operation = if write { "WRITE" } else { "READ" };
            println!(
                "{}",
                json!({
                    "window": number, "server": server, "operation": operation, "size": size,
                    "records": COUNT,
                })
            );
            number += 1;
        }
    }
    Ok(())
}
