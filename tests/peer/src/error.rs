// SPDX-License-Identifier: GPL-2.0-only

//! What can go wrong, in words that say what differed.

use std::fmt;

/// How a connection ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// The other side disconnected in order.
    Disconnect,
    /// A work request failed, with this completion status.
    QueuePair(String),
    /// The local RDMA device went away.
    DeviceRemoved,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnect => write!(f, "disconnected by the other side"),
            Self::QueuePair(status) => write!(f, "queue pair error: {status}"),
            Self::DeviceRemoved => write!(f, "the local RDMA device went away"),
        }
    }
}

/// Why something did not work.
#[derive(Debug)]
pub enum Error {
    /// A call into rdma-core failed.
    Call { step: &'static str, errno: i32 },
    /// Another rdma_cm event than the awaited one.
    Event {
        step: &'static str,
        event: String,
        status: i32,
    },
    /// The connection ended.
    Ended(End),
    /// Nothing happened in time.
    Timeout(String),
    /// The other side broke the protocol.
    Protocol(String),
    /// What came is not what should have come.
    Different(String),
}

/// A result with our [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Different`].
    pub fn different<T>(text: impl Into<String>) -> Result<T> {
        Err(Self::Different(text.into()))
    }

    /// A [`Error::Protocol`].
    pub fn protocol<T>(text: impl Into<String>) -> Result<T> {
        Err(Self::Protocol(text.into()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { step, errno } => {
                write!(f, "{step}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Event {
                step,
                event,
                status,
            } => write!(f, "{step}: {event}, status {status}"),
            Self::Ended(end) => write!(f, "connection ended: {end}"),
            Self::Timeout(what) => write!(f, "timed out: {what}"),
            Self::Protocol(text) => write!(f, "protocol: {text}"),
            Self::Different(text) => write!(f, "{text}"),
        }
    }
}

impl std::error::Error for Error {}
