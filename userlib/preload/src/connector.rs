// SPDX-License-Identifier: MIT OR Apache-2.0

//! connect() by SMB Direct, and what there is to know until that has worked or failed.

use crate::config::Config;
use crate::log;
use crate::table::{self, Kind};
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use usmbd::{
    Batch, ConnectOptions, Context, Device, Error, Event, Events, Features, Interest, Parameters,
    Wait,
};

/// Largest message that a server may send: the answer to a READ of smbd's largest size, which it
/// sends inline, as nothing is asked for by RDMA.
const MAX_FRAGMENTED_RECV_SIZE: u32 = (8 << 20) + (64 << 10);

fn errno(error: &Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Puts a context that connects in the place of the program's socket. Whether it is connected
/// already; else the descriptor becomes writable when that is decided.
///
/// # Errors
///
/// What connect() shall say; it was logged.
pub fn connect(config: &Config, fd: RawFd, to: SocketAddr) -> io::Result<bool> {
    let failed = |error: Error| {
        log::error(format_args!("no SMB Direct to {to}: {error}"));
        errno(&error)
    };
    let context = begin(config, to).map_err(failed)?;
    let number = Device::number_of(context.as_fd()).unwrap_or(0);
    let is_nonblocking = replace(fd, &context)?;
    drop(context);
    table::engage(number);
    if !table::insert(fd, Kind::Connecting(Attempt { to })) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    table::with(fd, |entry| entry.decide(fd, !is_nonblocking))
}

/// A context of its own, in which connecting is under way.
fn begin(config: &Config, to: SocketAddr) -> usmbd::Result<Context> {
    let context = Device::open_path(&config.device)?;
    let mut peer = to;
    // SMB Direct has its own, which depends on the device.
    peer.set_port(0);
    let mut batch = Batch::new();
    batch.hello(Features::AT_MOST_ONE, 0)?;
    batch.set_parameters(&Parameters {
        max_fragmented_recv_size: MAX_FRAGMENTED_RECV_SIZE,
        ..Parameters::default()
    })?;
    batch.connect(&ConnectOptions::to(peer), 0)?;
    while !batch.is_empty() {
        context.submit(&mut batch, Wait::No)?;
    }
    Ok(context)
}

/// The descriptor becomes the context's, with the flags that it had. Whether it is nonblocking.
fn replace(fd: RawFd, context: &Context) -> io::Result<bool> {
    let checked = |result: libc::c_long| match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    };
    let device = context.as_raw_fd();
    // SAFETY, of all four: no memory is passed; the program's socket, whose place is taken, gives
    // way.
    let status = checked(unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFL) })?;
    // SAFETY: as above.
    let own = checked(unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFD) })?;
    let nonblocking = status & libc::c_long::from(libc::O_NONBLOCK);
    if nonblocking != 0 {
        let status = libc::O_RDWR | libc::O_NONBLOCK;
        // SAFETY: as above.
        checked(unsafe { libc::syscall(libc::SYS_fcntl, device, libc::F_SETFL, status) })?;
    }
    let close_on_exec = match own & libc::c_long::from(libc::FD_CLOEXEC) {
        0 => 0,
        _ => libc::O_CLOEXEC,
    };
    // SAFETY: as above.
    checked(unsafe { libc::syscall(libc::SYS_dup3, device, fd, close_on_exec) })?;
    Ok(nonblocking != 0)
}

/// A connect that is under way.
#[derive(Clone)]
pub struct Attempt {
    to: SocketAddr,
}

/// What became of an [`Attempt`].
pub enum Decision {
    /// Nothing yet.
    Pending,
    /// There is a connection.
    Connected,
    /// There is none, and will be none: an errno.
    Failed(i32),
}

impl Attempt {
    /// Reads events until it is decided, or until there are none and it is not to wait.
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal came.
    pub fn decide(&self, fd: RawFd, wait: bool) -> io::Result<Decision> {
        // SAFETY: the program's descriptor, open during this call; `ManuallyDrop` keeps it open.
        let context = ManuallyDrop::new(Context::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        let mut buffer = [0; 512];
        loop {
            let length = match context.read(&mut buffer, Wait::No) {
                Ok(length) => length,
                Err(Error::WouldBlock) if !wait => return Ok(Decision::Pending),
                Err(Error::WouldBlock) => {
                    context
                        .poll(Interest::Readable, None)
                        .map_err(|error| errno(&error))?;
                    continue;
                }
                Err(error) => return Err(errno(&error)),
            };
            for event in Events::parse(&buffer[..length]).map_err(|error| errno(&error))? {
                let Event::Connected { outcome, .. } = event else {
                    // The answer to HELLO.
                    continue;
                };
                return Ok(match outcome {
                    Ok((connection, established)) => {
                        log::info(format_args!(
                            "connection {} to {}: SMB Direct in the place of TCP port {}",
                            connection.number(),
                            established.peer.unwrap_or(self.to),
                            self.to.port()
                        ));
                        Decision::Connected
                    }
                    Err(failure) => {
                        log::error(format_args!("no SMB Direct to {}: {failure}", self.to));
                        Decision::Failed(failure.errno())
                    }
                });
            }
        }
    }
}
