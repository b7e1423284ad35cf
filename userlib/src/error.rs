// SPDX-License-Identifier: MIT OR Apache-2.0

//! Errors of calls, and outcomes that events carry.

use crate::abi::status::{Reason, Status};
use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no device node.
    NoDevice {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The node may not be opened by this process.
    NoPermission {
        /// The node.
        path: PathBuf,
    },
    /// It would have to wait (`EAGAIN`). If a connection's send queue is full, a
    /// [`SendReady`](crate::Event::SendReady) event follows; if the context has no room for more
    /// commands, read events, and wait until it is [writable](crate::Readiness); for a read, wait
    /// until it is [readable](crate::Readiness).
    WouldBlock,
    /// Answer to a command that takes effect later; see [`Failure`].
    Failed {
        /// What was asked.
        what: &'static str,
        /// What came of it.
        failure: Failure,
    },
    /// The caller asked for something that no record can say: the library refused it itself.
    Refused(&'static str),
    /// The device answered against its own rules.
    Malformed(&'static str),
    /// A system call failed.
    Call {
        /// Which, for people.
        what: &'static str,
        /// How.
        error: io::Error,
    },
}

impl Error {
    /// Who waits for an event waits in vain.
    pub(crate) fn no_more_events() -> Self {
        Self::call(
            "no event comes any more, since the context's connection has ended",
            io::Error::from_raw_os_error(libc::ENOTCONN),
        )
    }

    /// The error of a system call on a context.
    pub(crate) fn call(what: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::WouldBlock,
            _ => Self::Call { what, error },
        }
    }

    /// The errno that comes nearest.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NoDevice { .. } => libc::ENOENT,
            Self::NoPermission { .. } => libc::EACCES,
            Self::WouldBlock => libc::EAGAIN,
            Self::Failed { failure, .. } => failure.errno(),
            Self::Refused(_) => libc::EINVAL,
            Self::Malformed(_) => libc::EPROTO,
            Self::Call { error, .. } => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// Whether the caller should wait and try again.
    pub fn would_block(&self) -> bool {
        matches!(self, Self::WouldBlock)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice { path } => write!(
                f,
                "{} does not exist: load the kernel module with `modprobe usmbd`",
                path.display()
            ),
            Self::NoPermission { path } => write!(
                f,
                "{} may not be opened: be root, or a member of the node's group with read and \
                 write permission (`ls -l {}` shows both)",
                path.display(),
                path.display()
            ),
            Self::WouldBlock => f.write_str("it would have to wait"),
            Self::Failed { what, failure } => {
                write!(f, "{what}: {failure}")?;
                if failure.is_about_devices() {
                    let devices = crate::Device::rdma_devices();
                    if devices.is_empty() {
                        f.write_str(
                            "; this host has no RDMA device, so `rdma link` shows none: bring up \
                             the adapter's driver, or add a software one with \
                             `rdma link add rxe0 type rxe netdev eth0`",
                        )?;
                    } else {
                        write!(
                            f,
                            "; `rdma link` shows which network interfaces the RDMA devices here \
                             ({}) belong to",
                            devices.join(", ")
                        )?;
                    }
                }
                Ok(())
            }
            Self::Refused(why) => f.write_str(why),
            Self::Malformed(why) => write!(f, "the device broke its own rules: {why}"),
            Self::Call { what, error } => {
                write!(f, "{what}: {error}")?;
                match (*what, error.raw_os_error()) {
                    ("LISTEN", Some(libc::EACCES | libc::EPERM)) => f.write_str(
                        "; ports below 1024 need CAP_NET_BIND_SERVICE in the process that opened \
                         the device",
                    ),
                    (_, Some(libc::ENODEV)) => {
                        f.write_str("; `rdma link` shows the RDMA devices of this host")
                    }
                    (_, Some(libc::EOPNOTSUPP)) => {
                        f.write_str("; is this descriptor one of /dev/usmbd?")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Call { error, .. } => Some(error),
            Self::Failed { failure, .. } => Some(failure),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno())
    }
}

/// What the peer or the fabric made of a command, if it failed: a number of
/// [`Status`], which may be one that a newer driver made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure(u32);

impl Failure {
    /// `Ok` for the number of [`Status::Ok`].
    pub(crate) fn check<T>(number: u32, value: T) -> std::result::Result<T, Self> {
        if number == Status::Ok.number() {
            Ok(value)
        } else {
            Err(Self(number))
        }
    }

    /// As it stands in the event.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Which it is; `None` if a newer driver made it.
    pub fn status(self) -> Option<Status> {
        Status::from_number(self.0)
    }

    /// The errno that comes nearest.
    pub fn errno(self) -> i32 {
        match self.status() {
            Some(Status::Disconnected) => libc::ECONNRESET,
            Some(Status::RemoteAccess) => libc::EREMOTEIO,
            Some(Status::AddressInUse) => libc::EADDRINUSE,
            Some(Status::AddressNotAvailable) => libc::EADDRNOTAVAIL,
            Some(Status::NoMemory) => libc::ENOMEM,
            Some(Status::NotSupported) => libc::EOPNOTSUPP,
            Some(Status::Refused) => libc::ECONNREFUSED,
            Some(Status::Unreachable) => libc::EHOSTUNREACH,
            Some(Status::Negotiation) => libc::EPROTO,
            _ => libc::EIO,
        }
    }

    fn is_about_devices(self) -> bool {
        matches!(
            self.status(),
            Some(Status::AddressNotAvailable | Status::NotSupported | Status::Provider)
        )
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.status() {
            Some(status) => f.write_str(status.text()),
            None => write!(f, "status {} of a newer driver", self.0),
        }
    }
}

impl std::error::Error for Failure {}

/// Why a connection ended: a number of [`Reason`], which may be one that a newer driver made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EndReason(u32);

impl EndReason {
    pub(crate) fn new(number: u32) -> Self {
        Self(number)
    }

    /// As it stands in the event.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Which it is; `None` if a newer driver made it.
    pub fn reason(self) -> Option<Reason> {
        Reason::from_number(self.0)
    }

    /// Whether one of the two sides disconnected on purpose.
    pub fn is_orderly(self) -> bool {
        self.reason().is_some_and(Reason::is_orderly)
    }
}

impl Display for EndReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => f.write_str(reason.text()),
            None => write!(f, "reason {} of a newer driver", self.0),
        }
    }
}
