// SPDX-License-Identifier: GPL-2.0-only

//! The negotiation timer and the idle timer, [MS-SMBD] 3.1.2.

/// Milliseconds of a monotonic clock that the caller owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The time `milliseconds` later.
    pub const fn after(self, milliseconds: u64) -> Time {
        Time(self.0.saturating_add(milliseconds))
    }
}

/// How long the passive side waits for the Negotiate Request,
/// [MS-SMBD] 3.1.7.2.
pub(crate) const PASSIVE_NEGOTIATION: u64 = 5_000;

/// How long the active side waits to be established, [MS-SMBD] 3.1.4.1.
pub(crate) const ACTIVE_NEGOTIATION: u64 = 120_000;

/// How long the answer to a keepalive may take, [MS-SMBD] 3.1.5.1.
pub(crate) const KEEPALIVE_ANSWER: u64 = 5_000;

/// How long a failure response may take to complete.
pub(crate) const FAILURE_RESPONSE: u64 = 5_000;

/// `KeepaliveRequested`, [MS-SMBD] 3.1.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keepalive {
    None,
    /// The next PDU asks for a response.
    Pending,
    /// A PDU asked for a response.
    Sent,
}

/// What an armed timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Negotiation,
    FailureResponse,
    Idle,
}

/// The timers of one connection: at most one is armed at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    armed: Option<(Timer, Time)>,
}

impl Timers {
    pub(crate) const fn new(timer: Timer, deadline: Time) -> Self {
        Timers {
            armed: Some((timer, deadline)),
        }
    }

    pub(crate) fn arm(&mut self, timer: Timer, deadline: Time) {
        self.armed = Some((timer, deadline));
    }

    /// Moves the deadline of the armed timer to `deadline`, never back.
    pub(crate) fn extend(&mut self, deadline: Time) {
        if let Some((_, armed)) = &mut self.armed {
            *armed = deadline.max(*armed);
        }
    }

    pub(crate) fn cancel(&mut self) {
        self.armed = None;
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.armed.map(|(_, deadline)| deadline)
    }

    /// Takes the timer that has expired at `now`, if one has.
    pub(crate) fn expire(&mut self, now: Time) -> Option<Timer> {
        let (timer, deadline) = self.armed?;
        if now < deadline {
            return None;
        }
        self.armed = None;
        Some(timer)
    }
}
