// SPDX-License-Identifier: MIT OR Apache-2.0

//! bind() to the port that stands for SMB Direct, and accept() on what became of it.

use crate::config::Config;
use crate::connection::Side;
use crate::log;
use crate::table::{self, Kind};
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use usmbd::{
    Batch, Context, Device, Error, Event, Events, Features, Interest, ListenOptions, Listener,
    Parameters, Ready, Wait,
};

/// Largest message that a client may send: a signed or encrypted WRITE of smbd's largest sensible
/// size, with headers. The driver keeps none of it; smbd's process does while it is read.
const MAX_FRAGMENTED_RECV_SIZE: u32 = (4 << 20) + (64 << 10);
/// As Windows and ksmbd, and as smbd's `smb2 max read` and `smb2 max write`.
const MAX_READ_WRITE_SIZE: u32 = 8 << 20;
/// How long accept() may wait for the driver's word that the connection is taken over.
const ACCEPT_LIMIT: Duration = Duration::from_millis(200);

fn errno(error: &Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Puts a listening context in the place of smbd's socket.
///
/// # Errors
///
/// What bind() shall say; it was logged with what to do about it.
pub fn bind(config: &Config, fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let context = open(config, address)?;
    let options = ListenOptions {
        address: Some(address.ip()),
        scope: match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        },
        port: config.rdma_port,
        iwarp_port: config.iwarp_port,
        ..ListenOptions::default()
    };
    let listener = Listener::open(context, &options).map_err(|error| {
        log::error(format_args!(
            "no SMB Direct on {} (smb.conf has port {}): {error}",
            address.ip(),
            config.port
        ));
        errno(&error)
    })?;
    let device = listener.context().as_raw_fd();
    let number = Device::number_of(usmbd_fd(&listener)).unwrap_or(0);
    // smbd's listeners have no FD_CLOEXEC, so neither has this one.
    // SAFETY: no memory is passed; smbd's socket, which nothing was done with, gives way.
    if unsafe { libc::syscall(libc::SYS_dup3, device, fd, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    table::engage(number);
    table::insert(fd, Kind::Listener);
    log::info(format_args!(
        "SMB Direct on {}, port {} (iWARP {}), in the place of TCP port {}; RDMA devices: {}",
        address.ip(),
        config.rdma_port,
        config.iwarp_port,
        config.port,
        match Device::rdma_devices() {
            devices if devices.is_empty() =>
                "none yet: `rdma link` shows them, and a new one is taken up by itself".to_owned(),
            devices => devices.join(", "),
        }
    ));
    Ok(())
}

fn usmbd_fd(listener: &Listener) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(listener.context())
}

fn open(config: &Config, address: SocketAddr) -> io::Result<Context> {
    Device::open_path(&config.device).map_err(|error| {
        log::error(format_args!("no SMB Direct on {}: {error}", address.ip()));
        errno(&error)
    })
}

/// Takes the next connection of a listener; its descriptor and the peer's address.
///
/// # Errors
///
/// `EAGAIN` if there is none (and the listener is not to wait), and what accept() may say.
pub fn accept(config: &Config, fd: RawFd, wait: bool) -> io::Result<(RawFd, Option<SocketAddr>)> {
    // SAFETY: smbd's descriptor, open during this call; `ManuallyDrop` keeps it open.
    let listener = ManuallyDrop::new(Context::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    loop {
        match next(&listener) {
            Ok(Some(ready)) => return take(config, &listener, &ready),
            // Something else: a listener whose devices changed.
            Ok(None) => (),
            Err(Error::WouldBlock) if wait => {
                listener
                    .poll(Interest::Readable, None)
                    .map_err(|error| errno(&error))?;
            }
            Err(error) => return Err(errno(&error)),
        }
    }
}

fn next(listener: &Context) -> usmbd::Result<Option<Ready>> {
    let mut buffer = [0; 512];
    let length = listener.read(&mut buffer, Wait::No)?;
    Ok(
        Events::parse(&buffer[..length])?.find_map(|event| match event {
            Event::ConnectionReady(ready) => Some(ready),
            _ => None,
        }),
    )
}

fn take(
    config: &Config,
    listener: &Context,
    ready: &Ready,
) -> io::Result<(RawFd, Option<SocketAddr>)> {
    let result = Device::open_path(&config.device).and_then(|context| {
        let mut batch = Batch::new();
        batch.hello(Features::AT_MOST_ONE, 0)?;
        batch.set_parameters(&Parameters {
            max_fragmented_recv_size: MAX_FRAGMENTED_RECV_SIZE,
            max_read_write_size: MAX_READ_WRITE_SIZE,
            ..Parameters::default()
        })?;
        batch.accept(ready.ticket, 0)?;
        while !batch.is_empty() {
            context.submit(&mut batch, Wait::No)?;
        }
        wait_for_accepted(&context)?;
        Ok(context)
    });
    let context = result.map_err(|error| {
        let mut batch = Batch::new();
        let rejected = batch
            .reject(ready.ticket)
            .and_then(|()| listener.submit(&mut batch, Wait::No));
        log::error(format_args!(
            "connection {} cannot be accepted{}: {error}",
            ready.connection.number(),
            if rejected.is_ok() {
                ", and was refused"
            } else {
                ""
            },
        ));
        match error.errno() {
            // accept() shall not say that the listener is wrong.
            libc::ENOENT | libc::EINVAL | libc::EPROTO => {
                io::Error::from_raw_os_error(libc::ECONNABORTED)
            }
            other => io::Error::from_raw_os_error(other),
        }
    })?;
    let fd = context.into_raw_fd();
    if !table::insert(fd, Kind::New(Side::Server)) {
        // SAFETY: ours alone, and not used any more.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok((fd, ready.peer))
}

/// Reads what comes before the first message, so that the descriptor is readable when that is there.
/// If it takes longer, whoever reads messages will skip it.
fn wait_for_accepted(context: &Context) -> usmbd::Result<()> {
    let end = Instant::now() + ACCEPT_LIMIT;
    let mut buffer = [0; 512];
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        if !context.poll(Interest::Readable, Some(rest))?.readable {
            return Ok(());
        }
        let length = context.read(&mut buffer, Wait::No)?;
        for event in Events::parse(&buffer[..length])? {
            if let Event::Accepted { outcome, .. } = event {
                return outcome.map(|_| ()).map_err(|failure| Error::Failed {
                    what: "ACCEPT",
                    failure,
                });
            }
        }
    }
}
