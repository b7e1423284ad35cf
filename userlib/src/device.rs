// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device node, and the context behind each descriptor of it.

use crate::abi::event::{self, Body};
use crate::abi::record::{BatchHeader, Header};
use crate::abi::{self, command};
use crate::events::MemoryParameters;
use crate::sys;
use crate::{Batch, Error, Result};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;
use zerocopy::FromBytes;

/// Where the device node stands.
pub const DEVICE_PATH: &str = "/dev/usmbd";
/// Where the kernel tells the node's device number.
const NUMBER_PATH: &str = "/sys/class/misc/usmbd/dev";

/// The device node.
#[derive(Clone, Copy, Debug)]
pub struct Device;

impl Device {
    /// Opens the device: a new, empty context in the network namespace of the caller. What the
    /// context may do is fixed by the credentials of this call, whoever uses it later.
    ///
    /// The descriptor is blocking, and closed on exec.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] without the module, [`Error::NoPermission`], or the errno of open().
    pub fn open() -> Result<Context> {
        Self::open_path(Path::new(DEVICE_PATH))
    }

    /// As [`open`](Self::open), for a node elsewhere.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_path(path: &Path) -> Result<Context> {
        match sys::open(path) {
            Ok(fd) => Ok(Context { fd }),
            Err(error) => Err(match error.raw_os_error() {
                // ENXIO and ENODEV: a node that a removed module left behind.
                Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Error::NoDevice {
                    path: path.to_owned(),
                },
                Some(libc::EACCES | libc::EPERM) => Error::NoPermission {
                    path: path.to_owned(),
                },
                _ => Error::call("open", error),
            }),
        }
    }

    /// The device number (`st_rdev`) that the kernel gave the node; `None` without the module.
    /// It stays the same while the module is loaded.
    pub fn number() -> Option<u64> {
        sys::registered_number(NUMBER_PATH)
    }

    /// The device number if `fd` is a character device, to compare with [`number`](Self::number):
    /// tells whether a descriptor of unknown origin is a context. One fstat().
    pub fn number_of(fd: BorrowedFd<'_>) -> Option<u64> {
        sys::character_device(fd)
    }

    /// Names of this host's RDMA devices, sorted; empty if it has none. (`rdma link` shows more.)
    pub fn rdma_devices() -> Vec<String> {
        sys::rdma_devices()
    }
}

/// Whether a call may wait.
///
/// The device's descriptor may be `O_NONBLOCK` besides; then nothing waits whatever stands here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The call waits for room or for an event.
    Yes,
    /// [`Error::WouldBlock`] takes the place of waiting, for this call only.
    No,
}

/// Everything behind one descriptor of the device: listeners, connections, a queue of events.
///
/// Dropping it closes the descriptor. With the last descriptor of a context its listeners end, and
/// its connections too, after what was accepted for sending is sent (or some seconds are over).
///
/// A descriptor that came by SCM_RIGHTS or fork() becomes a context by `From<OwnedFd>` or
/// [`FromRawFd`](std::os::fd::FromRawFd); it is the same context as the sender's.
///
/// Closing goes through libc's `close()`, unlike all other calls: code that interposes it will see
/// it, and may want to [`into_raw_fd`](IntoRawFd::into_raw_fd).
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
}

impl From<OwnedFd> for Context {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Context> for OwnedFd {
    fn from(context: Context) -> Self {
        context.fd
    }
}

impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Context {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl IntoRawFd for Context {
    fn into_raw_fd(self) -> RawFd {
        self.fd.into_raw_fd()
    }
}

/// Optional behaviour of a context.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Features(u64);

impl Features {
    /// `read()` returns one event at most.
    pub const AT_MOST_ONE: Self = Self(command::FEATURE_AT_MOST_ONE);

    /// From the bits as they stand in a record; unknown ones are kept.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As they stand in a record.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interest {
    /// An event to read.
    Readable,
    /// Room for commands.
    Writable,
    /// Either.
    Both,
}

/// What is there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Readiness {
    /// An event waits to be read.
    pub readable: bool,
    /// A quarter of the context's event slots and command bytes is free. A SEND_PDU may still want
    /// for room in its connection's queue; only a [`SendReady`](crate::Event::SendReady) event
    /// tells about that.
    pub writable: bool,
    /// On a context with one connection: its end is the next event.
    pub read_hangup: bool,
    /// On a context with one connection: its end was read.
    pub hangup: bool,
    /// With `hangup`: the end was not orderly.
    pub error: bool,
}

impl Context {
    /// Hands a batch to the driver, as far as it takes it. Returns how many records were taken;
    /// these are gone from `batch`, and the rest stays for the next call, in order.
    ///
    /// Fewer than all are taken where the next one would have to wait, or is refused: submit again
    /// to learn which. Zero only for an empty batch.
    ///
    /// With [`Wait::Yes`], the first record waits for room in its connection's send queue.
    ///
    /// # Errors
    ///
    /// Of the first record, which stays in the batch ([`Batch::drop_first`] gets rid of it):
    /// [`Error::WouldBlock`], or [`Error::Call`] with `EINVAL` (malformed), `EMSGSIZE` (more than
    /// the peer takes), `ENOENT` (connection or ticket not known), `ENOTCONN` (connection ended),
    /// `EFAULT` (range outside the area), `EACCES` (port below 1024).
    pub fn submit(&self, batch: &mut Batch<'_>, wait: Wait) -> Result<usize> {
        batch.submit(|what, parts| {
            sys::write(self.as_fd(), parts, wait == Wait::No)
                .map_err(|error| Error::call(what, error))
        })
    }

    /// Submits until the batch is empty. On a descriptor that is not `O_NONBLOCK` it waits for room
    /// in connections' send queues.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit), of the record that is then first in the batch. Records before it were taken.
    pub fn submit_all(&self, batch: &mut Batch<'_>) -> Result<()> {
        while !batch.is_empty() {
            self.submit(batch, Wait::Yes)?;
        }
        Ok(())
    }

    /// Reads one batch of raw event bytes: [`BatchHeader`], then whole records. Most callers want
    /// [`EventBuffer`](crate::EventBuffer).
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] if no event waits and `wait` or the descriptor forbids waiting;
    /// [`Error::Call`] with `EMSGSIZE` if `buffer` cannot hold the first event, which stays.
    pub fn read(&self, buffer: &mut [u8], wait: Wait) -> Result<usize> {
        sys::read(self.as_fd(), buffer, wait == Wait::No)
            .map_err(|error| Error::call("read", error))
    }

    /// Waits for readiness, for ever if there is no `timeout`. Returns what is there; nothing if
    /// the time is over.
    ///
    /// # Errors
    ///
    /// [`Error::Call`]; with `EINTR` if a signal handler ran, so that the caller can look at what it
    /// asked for.
    pub fn poll(&self, interest: Interest, timeout: Option<Duration>) -> Result<Readiness> {
        let events = match interest {
            Interest::Readable => libc::POLLIN,
            Interest::Writable => libc::POLLOUT,
            Interest::Both => libc::POLLIN | libc::POLLOUT,
        };
        let there = sys::poll(self.as_fd(), events | libc::POLLRDHUP, timeout)
            .map_err(|error| Error::call("poll", error))?;
        if there & libc::POLLNVAL != 0 {
            let error = io::Error::from_raw_os_error(libc::EBADF);
            return Err(Error::call("poll", error));
        }
        Ok(Readiness {
            readable: there & libc::POLLIN != 0,
            writable: there & libc::POLLOUT != 0,
            read_hangup: there & libc::POLLRDHUP != 0,
            hangup: there & libc::POLLHUP != 0,
            error: there & libc::POLLERR != 0,
        })
    }

    /// Another descriptor of the same context (closed on exec).
    ///
    /// # Errors
    ///
    /// [`Error::Call`] when out of descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        sys::duplicate(self.as_fd())
            .map(Self::from)
            .map_err(|error| Error::call("dup", error))
    }

    /// Sets or clears `O_NONBLOCK`, which all descriptors of this context share.
    ///
    /// # Errors
    ///
    /// [`Error::Call`].
    pub fn set_nonblocking(&self, on: bool) -> Result<()> {
        sys::set_nonblocking(self.as_fd(), on).map_err(|error| Error::call("fcntl", error))
    }

    /// Whether `O_NONBLOCK` is set.
    ///
    /// # Errors
    ///
    /// [`Error::Call`].
    pub fn is_nonblocking(&self) -> Result<bool> {
        sys::is_nonblocking(self.as_fd()).map_err(|error| Error::call("fcntl", error))
    }

    /// Agrees with the driver on a version and features; waits for the answer. May be repeated, for
    /// instance on a descriptor that came from elsewhere. Returns the version (major in the upper 16 bits) and
    /// the features in use.
    ///
    /// Nobody else may read events meanwhile, and no query of one's own may be unanswered; other
    /// events stay queued.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit); [`Error::Malformed`] if something else was read.
    pub fn hello(&self, features: Features) -> Result<(u32, Features)> {
        let mut batch = Batch::new();
        batch.hello(features, 0)?;
        self.submit_all(&mut batch)?;
        let (_, done) = self.answer::<event::HelloDone>()?;
        if done.version.get() >> 16 != abi::VERSION >> 16 {
            return Err(Error::Malformed(
                "it speaks another major version of the ABI",
            ));
        }
        Ok((done.version.get(), Features::from_bits(done.features.get())))
    }

    /// Asks where and how large the registration area is; waits for the answer, as
    /// [`hello`](Self::hello) does.
    ///
    /// # Errors
    ///
    /// As [`hello`](Self::hello).
    pub fn memory_parameters(&self) -> Result<MemoryParameters> {
        let mut batch = Batch::new();
        batch.get_memory_parameters(0)?;
        self.submit_all(&mut batch)?;
        let (_, parameters) = self.answer::<event::MemoryParameters>()?;
        Ok(MemoryParameters::from_record(&parameters))
    }

    /// As [`read`](Self::read), and waits even if the descriptor is `O_NONBLOCK`.
    pub(crate) fn read_waiting(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut is_over = false;
        loop {
            match self.read(buffer, Wait::Yes) {
                Err(Error::WouldBlock) if is_over => return Err(Error::no_more_events()),
                Err(Error::WouldBlock) => match self.poll(Interest::Readable, None) {
                    Err(error) if error.errno() != libc::EINTR => return Err(error),
                    readiness => is_over = readiness.is_ok_and(|readiness| readiness.hangup),
                },
                other => return other,
            }
        }
    }

    /// Reads one event of a kind that has no tail, and waits for it even if the descriptor is
    /// `O_NONBLOCK`. The buffer has room for exactly that, so no other event can come with it and
    /// be lost.
    pub(crate) fn answer<B: Body>(&self) -> Result<(Header, B)> {
        const PREFIX: usize = size_of::<BatchHeader>() + size_of::<Header>();
        const ROOM: usize = 256;
        let length = const {
            assert!(PREFIX + size_of::<B>() <= ROOM);
            PREFIX + size_of::<B>()
        };
        let mut room = [0; ROOM];
        let buffer = &mut room[..length];
        let count = self.read_waiting(buffer)?;
        let record = buffer
            .get(size_of::<BatchHeader>()..count)
            .ok_or(Error::Malformed("a read shorter than its header"))?;
        let (header, rest) = Header::read_from_prefix(record)
            .map_err(|_| Error::Malformed("a record shorter than its header"))?;
        if header.opcode.get() != B::OPCODE {
            return Err(Error::Malformed("another event came before the answer"));
        }
        let (body, _) = B::read_from_prefix(rest)
            .map_err(|_| Error::Malformed("a record shorter than its body"))?;
        Ok((header, body))
    }
}
