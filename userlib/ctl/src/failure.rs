// SPDX-License-Identifier: MIT OR Apache-2.0

//! What went wrong, and what to do about it.

use std::fmt::{self, Display, Formatter};
use std::io;
use usmbd::Error;

/// `errno` values that the driver answers operators' commands with.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;

pub(crate) enum Failure {
    /// As the library says it.
    Device(Error),
    /// The driver forbids this.
    Forbidden(&'static str),
    /// There is no connection with this number.
    NoConnection(u64),
    /// The driver does not know the command.
    Unknown(&'static str),
    /// Standard output.
    Output(io::Error),
}

impl Failure {
    /// What became of a command that only operators may use.
    pub(crate) fn of_operator(what: &'static str, error: Error) -> Self {
        match &error {
            Error::Call { .. } if error.errno() == EPERM => Self::Forbidden(what),
            Error::Call { .. } if error.errno() == EINVAL => Self::Unknown(what),
            _ => Self::Device(error),
        }
    }

    /// What became of a drop.
    pub(crate) fn of_drop(number: u64, error: Error) -> Self {
        match &error {
            Error::Call { .. } if error.errno() == ENOENT => Self::NoConnection(number),
            _ => Self::of_operator("drop a connection", error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Device(error)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "{error}"),
            Self::Forbidden(what) => write!(
                f,
                "not allowed to {what}: this takes CAP_NET_ADMIN in the user namespace that owns \
                 this network namespace; be root there"
            ),
            Self::NoConnection(number) => write!(
                f,
                "no connection {number} in this network namespace: `usmbdctl list` shows those \
                 that there are, and `ip netns exec` goes to another one"
            ),
            Self::Unknown(what) => write!(
                f,
                "the module that is loaded cannot {what}: it is older than this program; \
                 `usmbdctl limits` shows its version"
            ),
            Self::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}
