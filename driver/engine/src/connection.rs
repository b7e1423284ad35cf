// SPDX-License-Identifier: GPL-2.0-only

//! One SMB Direct connection, [MS-SMBD] 3.1.1.1.
//!
//! The caller's order, after every input:
//!
//! 1. [`Connection::poll_action`] until `None`, doing each action;
//! 2. [`Connection::poll_event`] until `None`;
//! 3. set its timer to [`Connection::poll_timeout`].
//!
//! A new message, a receive posted again and a send slot that came free are
//! inputs too: they call for 1 again. Receives posted again do so only if
//! [`Connection::handle_receives_posted`] says so.

mod negotiate;
mod receive;
mod send;

use crate::{
    credits::Credits,
    parameters::{Negotiated, Parameters},
    reassembly::{Piece, Reassembly},
    repr::NegotiateRequest,
    timer::{
        Keepalive, Time, Timer, Timers, ACTIVE_NEGOTIATION, KEEPALIVE_ANSWER, PASSIVE_NEGOTIATION,
    },
    Reason,
};

/// Which side opened the connection, [MS-SMBD] 3.1.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This side connected.
    Active,
    /// This side accepted.
    Passive,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The connection manager has not established it yet.
    Connecting,
    /// Active: the Negotiate Request waits for a send slot.
    Requesting,
    /// The peer's Negotiate PDU has not come yet.
    Negotiating,
    /// Passive: a valid Negotiate Request waits to be accepted.
    Offered,
    /// Waiting for receives to be posted for the peer's credits.
    Posting,
    /// Passive: the Negotiate Response waits for a send slot.
    Responding,
    /// Passive: a failure response goes out before the end.
    Rejecting,
    /// Data transfers go both ways.
    Established,
    /// Over for us; the connection manager has not confirmed it.
    Disconnecting,
    /// Over.
    Disconnected,
}

impl State {
    /// The printable name of this state.
    pub const fn name(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Requesting => "requesting",
            State::Negotiating => "negotiating",
            State::Offered => "offered",
            State::Posting => "posting",
            State::Responding => "responding",
            State::Rejecting => "rejecting",
            State::Established => "established",
            State::Disconnecting => "disconnecting",
            State::Disconnected => "disconnected",
        }
    }

    /// Whether the connection has ended for the upper layer.
    const fn is_over(self) -> bool {
        matches!(self, State::Disconnecting | State::Disconnected)
    }
}

/// The upper-layer message at the head of the caller's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its length; [`Connection::check_message`] has allowed it.
    pub length: u32,
    /// The peer's token to invalidate with it.
    pub invalidate: Option<u32>,
    /// Bytes of it that its next PDU can carry at most, not zero: a caller that gathers the payload
    /// from many places may reach less than a PDU holds.
    pub payload_limit: u32,
}

/// What the caller has when it asks for actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Head of the `SendQueue`; the same message until a [`Transmit`] ends it.
    pub head: Option<Message>,
    /// Whether a local send slot is free now.
    pub send_slot: bool,
}

/// What [`Connection::handle_receive`] made of a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing in it for the upper layer: the receive is to be posted again,
    /// and counted by [`Connection::handle_receives_posted`] once it is.
    Repost,
    /// A piece of a message. The receive is to be posted again and counted when
    /// the upper layer has taken the piece.
    Piece(Piece),
    /// A Negotiate PDU, or the connection is over: the receive is not to be
    /// posted again.
    Ignore,
}

/// What the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Post `count` receives more and keep that many more posted: in all at most
    /// one more than `receive_credit_max`, which serves the last send credit.
    /// Without that one, targets below four can come to a standstill. Then
    /// [`Connection::handle_receives_posted`] with the number that worked, or
    /// [`Connection::handle_post_receives_failed`] if none did.
    PostReceives {
        /// Receives to add.
        count: u16,
        /// Size of each, at least.
        size: u32,
    },
    /// Send a PDU; [`Connection::handle_sent`] when it has completed.
    Transmit(Transmit),
    /// End the RDMA connection. Comes once, whoever ended it, save after
    /// [`Reason::DeviceRemoved`], where there is nothing left to disconnect.
    Disconnect(Reason),
}

/// One PDU to send: `header`, then a stretch of the head message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The first bytes of the PDU, padding included.
    pub header: [u8; 32],
    /// How many bytes of `header` go out: 20, 24 with data, 32 for a Negotiate
    /// Response.
    pub header_length: u32,
    /// Where the payload begins in the head message.
    pub payload_offset: u32,
    /// Bytes of payload.
    pub payload_length: u32,
    /// Whether the head message is done with this PDU and leaves the queue.
    pub ends_message: bool,
    /// The token to send with invalidate: the head message's, on its last
    /// fragment only.
    pub invalidate: Option<u32>,
}

/// What the upper layer is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Passive: a valid Negotiate Request is there and waits for
    /// [`Connection::accept`] or [`Connection::reject`].
    NegotiateReceived,
    /// Messages can be sent and will come.
    Established(Negotiated),
    /// The connection ended. Comes exactly once and last.
    Disconnected(Reason),
}

/// There is no Negotiate Request to accept, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReady;

/// Why a message cannot be sent, [MS-SMBD] 3.1.5.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// A message without bytes cannot be told from an empty PDU.
    Empty,
    /// Longer than the peer's `MaxFragmentedSize`.
    TooLong,
    /// The connection is not established.
    NotEstablished,
}

/// One SMB Direct connection.
///
/// # Invariants
///
/// - `parameters` are inside their ranges.
/// - `negotiated` is there from [`State::Posting`] through
///   [`State::Established`].
/// - `end` is there exactly from [`State::Disconnecting`] on.
#[derive(Clone, Debug)]
pub struct Connection {
    role: Role,
    state: State,
    parameters: Parameters,
    negotiated: Option<Negotiated>,
    credits: Credits,
    timers: Timers,
    keepalive: Keepalive,
    /// Time of the last input that told one.
    now: Time,
    /// Passive: the peer's request, checked; processed once established.
    request: Option<Result<NegotiateRequest, Reason>>,
    /// The failure response to send, or sent.
    failure: Option<Failure>,
    reassembly: Reassembly,
    /// Bytes of the head message that went out, once any did.
    sending: Option<u32>,
    /// `SendImmediate`: the peer waits for a PDU.
    send_immediate: bool,
    /// Transmits that have not completed.
    in_flight: u32,
    end: Option<Reason>,
    disconnect_due: bool,
    offered_due: bool,
    established_due: bool,
    disconnected_due: bool,
}

/// A negotiation that the passive side answers with an error.
#[derive(Clone, Copy, Debug)]
struct Failure {
    status: u32,
    reason: Reason,
    sent: bool,
}

impl Connection {
    /// A connection that the connection manager is about to establish. Arms the
    /// negotiation timer. Values outside their range are moved into it.
    ///
    /// The caller has posted one receive of at least
    /// [`wire::NEGOTIATE_RECEIVE_SIZE`](crate::wire::NEGOTIATE_RECEIVE_SIZE)
    /// bytes, or says [`Connection::handle_post_receives_failed`].
    pub fn new(role: Role, parameters: &Parameters, now: Time) -> Self {
        let wait = match role {
            Role::Active => ACTIVE_NEGOTIATION,
            Role::Passive => PASSIVE_NEGOTIATION,
        };
        let parameters = parameters.clamped();
        Connection {
            role,
            state: State::Connecting,
            parameters,
            negotiated: None,
            credits: Credits::new(parameters.receive_credit_max),
            timers: Timers::new(Timer::Negotiation, now.after(wait)),
            keepalive: Keepalive::None,
            now,
            request: None,
            failure: None,
            reassembly: Reassembly::new(),
            sending: None,
            send_immediate: false,
            in_flight: 0,
            end: None,
            disconnect_due: false,
            offered_due: false,
            established_due: false,
            disconnected_due: false,
        }
    }

    /// A PDU has come in, and with it the local token that the peer
    /// invalidated, if it did.
    pub fn handle_receive(&mut self, pdu: &[u8], invalidated: Option<u32>, now: Time) -> Received {
        self.now = now;
        match (self.state, self.role) {
            (State::Established, _) => return self.receive_transfer(pdu, invalidated),
            (State::Connecting | State::Negotiating, Role::Passive) if self.request.is_none() => {
                self.receive_request(pdu);
            }
            (State::Negotiating, Role::Active) => self.receive_response(pdu),
            (State::Rejecting | State::Disconnecting | State::Disconnected, _) => {}
            // A second PDU before we granted anything.
            _ => self.terminate(Reason::NoReceiveCredit),
        }
        Received::Ignore
    }

    /// `count` receives are posted, whether asked for by
    /// [`Action::PostReceives`] or posted again after use. They may be granted
    /// from now on. Says whether there may be something to do now: receives
    /// come back all the time, and few of them call for actions.
    pub fn handle_receives_posted(&mut self, count: u16, now: Time) -> bool {
        self.now = now;
        self.credits.posted(count);
        if self.state == State::Posting {
            if count == 0 {
                self.handle_post_receives_failed(now);
            } else {
                self.finish_negotiation();
            }
            return true;
        }
        self.state != State::Established || self.credits.may_let_pdu_go()
    }

    /// The receive for the negotiation, or all of those that
    /// [`Action::PostReceives`] asked for, could not be posted. An established
    /// connection lives on with what it has.
    pub fn handle_post_receives_failed(&mut self, now: Time) {
        self.now = now;
        match (self.state, self.role) {
            (State::Posting, Role::Passive) => {
                self.fail_negotiation(Reason::PassiveNoCredits);
            }
            (State::Connecting | State::Negotiating, Role::Passive) => {
                self.terminate(Reason::PassiveNoReceive);
            }
            (
                State::Connecting | State::Requesting | State::Negotiating | State::Posting,
                Role::Active,
            ) => self.terminate(Reason::ActiveNoCredits),
            _ => {}
        }
    }

    /// `count` [`Transmit`]s have completed; they do in order.
    pub fn handle_sent(&mut self, count: u32, now: Time) {
        self.now = now;
        self.in_flight = self.in_flight.saturating_sub(count);
        if let (State::Rejecting, Some(failure)) = (self.state, self.failure) {
            if failure.sent {
                self.terminate(failure.reason);
            }
        }
    }

    /// The RDMA provider is done with this connection: `reason` is
    /// [`Reason::ProviderError`], [`Reason::ReceiveTooLong`] or
    /// [`Reason::DeviceRemoved`].
    pub fn handle_provider_error(&mut self, reason: Reason, now: Time) {
        self.now = now;
        self.terminate(reason);
        if reason == Reason::DeviceRemoved {
            self.disconnect_due = false;
            self.state = State::Disconnected;
        }
    }

    /// The connection manager says that the connection is gone.
    pub fn handle_disconnected(&mut self, now: Time) {
        self.now = now;
        self.terminate(Reason::PeerDisconnected);
        self.state = State::Disconnected;
    }

    /// Time has come to [`Connection::poll_timeout`], or not quite.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        match (self.timers.expire(now), self.role) {
            (None, _) => {}
            (Some(Timer::Negotiation), Role::Passive) => self.terminate(Reason::PassiveTimeout),
            (Some(Timer::Negotiation), Role::Active) => self.terminate(Reason::ActiveTimeout),
            (Some(Timer::FailureResponse), _) => self.terminate(Reason::Rejected),
            (Some(Timer::Idle), _) => self.idle_expired(),
        }
    }

    /// The upper layer wants an end, now.
    pub fn disconnect(&mut self, now: Time) {
        self.now = now;
        self.terminate(Reason::LocalDisconnect);
    }

    /// The next thing to tell the upper layer.
    pub fn poll_event(&mut self) -> Option<Event> {
        if core::mem::take(&mut self.offered_due) {
            return Some(Event::NegotiateReceived);
        }
        if core::mem::take(&mut self.established_due) {
            if let Some(negotiated) = self.negotiated {
                return Some(Event::Established(negotiated));
            }
        }
        if core::mem::take(&mut self.disconnected_due) {
            return self.end.map(Event::Disconnected);
        }
        None
    }

    /// When [`Connection::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.deadline()
    }

    /// Lets the peer hold up to `maximum` credits from now on: for a connection
    /// that changes hands after it was established.
    pub fn set_receive_credit_max(&mut self, maximum: u16) {
        self.parameters.receive_credit_max = maximum.max(1);
        self.credits.set_maximum(self.parameters.receive_credit_max);
        if let Some(negotiated) = &mut self.negotiated {
            negotiated.receive_credit_target = self.credits.target();
        }
    }

    /// Whether a message of `length` bytes can be queued.
    ///
    /// # Errors
    ///
    /// Says why it cannot; nothing is sent and the connection is as before.
    pub fn check_message(&self, length: u32) -> Result<(), MessageError> {
        match (self.state, self.negotiated) {
            (State::Established, Some(negotiated)) => {
                if length == 0 {
                    Err(MessageError::Empty)
                } else if length > negotiated.max_fragmented_send_size {
                    Err(MessageError::TooLong)
                } else {
                    Ok(())
                }
            }
            _ => Err(MessageError::NotEstablished),
        }
    }

    /// How far the connection has come.
    pub fn state(&self) -> State {
        self.state
    }

    /// Which side opened the connection.
    #[inline]
    pub fn role(&self) -> Role {
        self.role
    }

    /// What was negotiated, once it was.
    #[inline]
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated
    }

    /// Why the connection ended, once it has.
    #[inline]
    pub fn end(&self) -> Option<Reason> {
        self.end
    }

    /// PDUs we may still send.
    pub fn send_credits(&self) -> u16 {
        self.credits.send()
    }

    /// Credits that the peer holds: granted and not used.
    pub fn receive_credits(&self) -> u32 {
        self.credits.receive()
    }

    /// Bytes still to come of the message that is coming in.
    pub fn reassembly_remaining(&self) -> u32 {
        self.reassembly.remaining()
    }

    /// Whether no message has gone out in part and every transmit has
    /// completed.
    pub fn is_send_idle(&self) -> bool {
        self.sending.is_none() && self.in_flight == 0
    }

    /// The end, for the first reason given.
    fn terminate(&mut self, reason: Reason) {
        if self.state.is_over() {
            return;
        }
        // A failure response is already the end, whatever comes before its
        // completion does.
        let reason = self.failure.map_or(reason, |failure| failure.reason);
        self.state = State::Disconnecting;
        self.end = Some(reason);
        self.disconnect_due = true;
        self.disconnected_due = true;
        self.timers.cancel();
    }

    fn arm_idle(&mut self) {
        let interval = u64::from(self.parameters.keepalive_interval_ms);
        self.timers.arm(Timer::Idle, self.now.after(interval));
    }

    /// [MS-SMBD] 3.1.6.2.
    fn idle_expired(&mut self) {
        if self.credits.is_peer_cut_off() {
            // It cannot answer, through no fault of its own: our upper layer
            // has not taken what came.
            self.keepalive = Keepalive::None;
            self.arm_idle();
        } else if self.keepalive != Keepalive::None {
            self.terminate(Reason::KeepaliveTimeout);
        } else {
            // Armed here and not when the probe leaves, so that a probe which
            // cannot be sent for want of credits is found out too.
            self.keepalive = Keepalive::Pending;
            self.timers
                .arm(Timer::Idle, self.now.after(KEEPALIVE_ANSWER));
        }
    }
}
