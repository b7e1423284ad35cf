// SPDX-License-Identifier: GPL-2.0-only

//! From the connection manager to [`State::Established`], [MS-SMBD] 3.1.5.2,
//! 3.1.5.3, 3.1.5.6 and 3.1.5.7.

use super::{Connection, Failure, NotReady, Role, State};
use crate::{
    credits::Credits,
    parameters::{Negotiated, Parameters},
    repr::{NegotiateRequest, NegotiateResponse},
    timer::{Time, Timer, FAILURE_RESPONSE},
    wire, Reason,
};

impl Connection {
    /// The connection manager has established the connection. A Negotiate
    /// Request may have come before this; it is processed now.
    pub fn handle_established(&mut self, now: Time) {
        self.now = now;
        if self.state != State::Connecting {
            return;
        }
        match self.role {
            Role::Active => self.state = State::Requesting,
            Role::Passive => {
                self.state = State::Negotiating;
                self.consider_request();
            }
        }
    }

    /// Passive: the upper layer takes the connection, under `parameters`, which
    /// need not be those it began with. Wants receives posted; then the
    /// response goes out.
    ///
    /// # Errors
    ///
    /// There is nothing to accept, because the connection has ended or was
    /// accepted before.
    pub fn accept(&mut self, parameters: &Parameters, now: Time) -> Result<Negotiated, NotReady> {
        let (State::Offered, Some(Ok(request))) = (self.state, self.request) else {
            return Err(NotReady);
        };
        self.now = now;
        self.parameters = parameters.clamped();
        self.credits = Credits::new(self.parameters.receive_credit_max);
        self.credits.set_requested(request.credits_requested);
        let negotiated = self.parameters.accept(&request);
        self.negotiated = Some(negotiated);
        self.state = State::Posting;
        Ok(negotiated)
    }

    /// Passive: the upper layer does not take the connection. A peer that waits
    /// for a response gets one with an error status; then, or at once, the
    /// connection ends.
    pub fn reject(&mut self, now: Time) {
        self.now = now;
        match self.state {
            State::Offered | State::Posting if self.role == Role::Passive => {
                self.fail_negotiation(Reason::Rejected);
            }
            State::Rejecting => {}
            _ => self.terminate(Reason::Rejected),
        }
    }

    pub(super) fn receive_request(&mut self, pdu: &[u8]) {
        self.request = Some(NegotiateRequest::parse(pdu));
        self.consider_request();
    }

    /// Processes the request once both it and the establishment are there: a
    /// completion may overtake the connection manager's event.
    fn consider_request(&mut self) {
        if self.state != State::Negotiating {
            return;
        }
        match self.request {
            None => {}
            Some(Ok(_)) => {
                // From here on the wait is the upper layer's, and its limit too.
                self.timers.cancel();
                self.state = State::Offered;
                self.offered_due = true;
            }
            Some(Err(Reason::RequestVersion)) => self.fail_negotiation(Reason::RequestVersion),
            Some(Err(reason)) => self.terminate(reason),
        }
    }

    pub(super) fn receive_response(&mut self, pdu: &[u8]) {
        match NegotiateResponse::parse(pdu, self.parameters.max_receive_size) {
            Ok(response) => {
                self.negotiated = Some(self.parameters.conclude(&response));
                self.credits.set_requested(response.credits_requested);
                self.credits.granted(response.credits_granted);
                self.state = State::Posting;
            }
            Err(reason) => self.terminate(reason),
        }
    }

    /// The receives for the peer's credits are posted.
    pub(super) fn finish_negotiation(&mut self) {
        self.arm_idle();
        match self.role {
            Role::Active => {
                self.state = State::Established;
                self.established_due = true;
            }
            Role::Passive => self.state = State::Responding,
        }
    }

    /// Passive: answers with an error, and ends when that has been sent.
    pub(super) fn fail_negotiation(&mut self, reason: Reason) {
        let status = match reason {
            Reason::RequestVersion => wire::STATUS_NOT_SUPPORTED,
            _ => wire::STATUS_INSUFFICIENT_RESOURCES,
        };
        self.failure = Some(Failure {
            status,
            reason,
            sent: false,
        });
        self.state = State::Rejecting;
        self.timers
            .arm(Timer::FailureResponse, self.now.after(FAILURE_RESPONSE));
    }
}
