// SPDX-License-Identifier: GPL-2.0-only

//! The ways in which records can be handed to the driver, prepared so that a measured call does nothing
//! besides.

use crate::directive::{self, Directive};
use crate::session::Result;
use io_uring::{opcode, types, IoUring};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use usmbd::abi::command::Layout;
use usmbd::abi::record::Header;
use usmbd::{Batch, Context};
use zerocopy::{FromBytes, IntoBytes};

/// How records are handed over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// One write() of so many records.
    Write(usize),
    /// One ioctl() of one directive.
    Ioctl,
    /// One ioctl() of so many directives.
    IoctlBatch(usize),
    /// One io_uring_enter() of so many writes of so many records each.
    Uring { writes: usize, records: usize },
}

impl Way {
    /// Records of one call.
    pub fn records(self) -> usize {
        match self {
            Self::Write(records) | Self::IoctlBatch(records) => records,
            Self::Ioctl => 1,
            Self::Uring { writes, records } => writes * records,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Ioctl => "ioctl",
            Self::IoctlBatch(_) => "ioctl batch",
            Self::Uring { .. } => "io_uring",
        }
    }

    /// Records of one entry of the ring.
    pub fn records_per_write(self) -> Option<usize> {
        match self {
            Self::Uring { records, .. } => Some(records),
            _ => None,
        }
    }
}

/// A call that hands over a fixed number of records, again and again.
pub enum Call {
    Write {
        fd: RawFd,
        bytes: Vec<u8>,
    },
    Ioctl {
        fd: RawFd,
        number: u32,
        argument: Box<[u8]>,
        /// What the call returns when all was taken.
        whole: i32,
        /// What `argument` points to.
        _keep: Vec<Box<[u8]>>,
    },
    Uring {
        fd: RawFd,
        ring: Box<IoUring>,
        bytes: Vec<u8>,
        writes: usize,
    },
}

/// A record that stands alone, from a batch of one.
pub fn record(fill: impl FnOnce(&mut Batch<'_>) -> usmbd::Result<()>) -> Result<Vec<u8>> {
    let mut batch = Batch::new();
    fill(&mut batch)?;
    Ok(batch.to_bytes())
}

/// The directive that says what `record` says.
pub fn directive_of(record: &[u8], keep: &mut Vec<Box<[u8]>>) -> Result<Directive> {
    let (header, rest) = Header::read_from_prefix(record).map_err(|_| "a short record")?;
    // A flag that is not known changes nothing in how long the body is.
    let known = Header {
        flags: 0.into(),
        ..header
    };
    let layout = Layout::of(&known).map_err(|_| "not a record")?;
    let (body, tail) = rest.split_at(layout.body_length);
    let mut directive = Directive {
        opcode: header.opcode,
        flags: header.flags,
        memory_length: (tail.len() as u32).into(),
        user_data: header.user_data,
        ..Directive::default()
    };
    directive.body[..body.len()].copy_from_slice(body);
    let tail: Box<[u8]> = tail.into();
    directive.memory = (tail.as_ptr() as u64).into();
    keep.push(tail);
    Ok(directive)
}

impl Call {
    /// `record`, as often as the way says, on `context`. `number` is the operation of a single ioctl.
    pub fn new(context: &Context, way: Way, record: &[u8], number: u32) -> Result<Self> {
        let fd = context.as_raw_fd();
        let mut keep = Vec::new();
        Ok(match way {
            Way::Write(records) => Self::Write {
                fd,
                bytes: record.repeat(records),
            },
            Way::Ioctl => Self::Ioctl {
                fd,
                number,
                argument: directive_of(record, &mut keep)?.as_bytes().into(),
                whole: 0,
                _keep: keep,
            },
            Way::IoctlBatch(records) => {
                let mut all = Vec::new();
                for _ in 0..records {
                    all.extend(directive_of(record, &mut keep)?.as_bytes());
                }
                let all: Box<[u8]> = all.into();
                let batch = directive::Batch {
                    directives: (all.as_ptr() as u64).into(),
                    count: (records as u32).into(),
                    ..Default::default()
                };
                keep.push(all);
                Self::Ioctl {
                    fd,
                    number: directive::BATCH,
                    argument: batch.as_bytes().into(),
                    whole: records as i32,
                    _keep: keep,
                }
            }
            Way::Uring { writes, records } => Self::Uring {
                fd,
                ring: Box::new(IoUring::new(256)?),
                bytes: record.repeat(records),
                writes,
            },
        })
    }

    /// GET_EVENTS into `buffer`.
    pub fn get_events(context: &Context, buffer: Box<[u8]>) -> Self {
        let events = directive::Events {
            address: (buffer.as_ptr() as u64).into(),
            length: (buffer.len() as u64).into(),
        };
        Self::Ioctl {
            fd: context.as_raw_fd(),
            number: directive::GET_EVENTS,
            argument: events.as_bytes().into(),
            whole: -1,
            _keep: vec![buffer],
        }
    }

    /// Does it once. All records have to be taken.
    pub fn run(&mut self) -> Result<()> {
        match self {
            Self::Write { fd, bytes } => {
                // SAFETY: The kernel reads these bytes.
                let written = unsafe { libc::write(*fd, bytes.as_ptr().cast(), bytes.len()) };
                if written != bytes.len() as isize {
                    return Err(short("write()", written as i64));
                }
            }
            Self::Ioctl {
                fd,
                number,
                argument,
                whole,
                ..
            } => {
                // SAFETY: The argument is of the operation's type, and what it points to is kept.
                let returned = unsafe { libc::ioctl(*fd, (*number).into(), argument.as_mut_ptr()) };
                if returned != *whole && (*whole >= 0 || returned < 0) {
                    return Err(short("ioctl()", returned.into()));
                }
            }
            Self::Uring {
                fd,
                ring,
                bytes,
                writes,
            } => {
                let write =
                    opcode::Write::new(types::Fd(*fd), bytes.as_ptr(), bytes.len() as u32).build();
                for _ in 0..*writes {
                    // SAFETY: The bytes live until the completions below are taken.
                    unsafe { ring.submission().push(&write) }?;
                }
                ring.submit_and_wait(*writes)?;
                let mut done = 0;
                for completion in ring.completion() {
                    if completion.result() != bytes.len() as i32 {
                        return Err(short("a write of io_uring", completion.result().into()));
                    }
                    done += 1;
                }
                if done != *writes {
                    return Err("writes of io_uring that do not complete".into());
                }
            }
        }
        Ok(())
    }
}

fn short(what: &str, returned: i64) -> Box<dyn std::error::Error> {
    format!("{what} returned {returned}: {}", io::Error::last_os_error()).into()
}
