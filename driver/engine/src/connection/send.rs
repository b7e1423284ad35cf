// SPDX-License-Identifier: GPL-2.0-only

//! What goes out, [MS-SMBD] 3.1.5.1, 3.1.5.4 and 3.1.5.9.

use super::{Action, Connection, Message, Outlook, State, Transmit};
use crate::{
    parameters::Negotiated,
    repr::{DataTransfer, Header, NegotiateResponse},
    timer::{Keepalive, KEEPALIVE_ANSWER},
    wire, Reason,
};

impl Connection {
    /// The next thing to do. Each [`Transmit`] takes the send slot that
    /// `outlook` offers, and the message that it ends leaves the queue.
    pub fn poll_action(&mut self, outlook: &Outlook) -> Option<Action> {
        match (self.state, self.negotiated) {
            (State::Requesting, _) if outlook.send_slot => {
                self.state = State::Negotiating;
                let header = self.parameters.request().emit();
                Some(self.transmit_header(header))
            }
            (State::Posting, Some(negotiated)) => match self.credits.missing_receives() {
                0 => None,
                count => Some(self.post_receives(&negotiated, count)),
            },
            (State::Responding, Some(negotiated)) if outlook.send_slot => {
                self.state = State::Established;
                self.established_due = true;
                let credits_granted = self.credits.grant_in_response();
                let header = negotiated.response(credits_granted).emit();
                Some(self.transmit_header(header))
            }
            (State::Rejecting, _) if outlook.send_slot => self.transmit_failure(),
            // An action is large: each way makes its own where it is returned.
            (State::Established, Some(negotiated)) => match self.credits.missing_receives() {
                0 => self.transmit_transfer(&negotiated, outlook),
                count => Some(self.post_receives(&negotiated, count)),
            },
            _ => self.take_disconnect(),
        }
    }

    fn take_disconnect(&mut self) -> Option<Action> {
        if core::mem::take(&mut self.disconnect_due) {
            self.end.map(Action::Disconnect)
        } else {
            None
        }
    }

    /// At the end of the negotiation, and again when the peer asks for more.
    fn post_receives(&mut self, negotiated: &Negotiated, count: u16) -> Action {
        self.credits.asked_for_receives(count);
        Action::PostReceives {
            count,
            size: negotiated.max_receive_size,
        }
    }

    fn transmit_failure(&mut self) -> Option<Action> {
        let failure = self.failure.as_mut()?;
        if core::mem::replace(&mut failure.sent, true) {
            return None;
        }
        let header = NegotiateResponse::emit_failure(failure.status);
        Some(self.transmit_header(header))
    }

    /// The next fragment of the head message, or an empty PDU if there is no
    /// message and a reason for one.
    fn transmit_transfer(&mut self, negotiated: &Negotiated, outlook: &Outlook) -> Option<Action> {
        if !outlook.send_slot {
            return None;
        }
        match (outlook.head, self.sending) {
            (Some(message), sent) => {
                if self.check_message(message.length).is_err() {
                    self.terminate(Reason::InvalidMessage);
                    return self.take_disconnect();
                }
                let credits_granted = self.credits.next_grant()?;
                Some(self.transmit_fragment(negotiated, message, sent, credits_granted))
            }
            // Nothing may come between the fragments of a message.
            (None, Some(_)) => None,
            (None, None) => {
                if !self.send_immediate
                    && self.keepalive != Keepalive::Pending
                    && !self.credits.is_grant_due()
                {
                    return None;
                }
                let credits_granted = self.credits.next_grant()?;
                let header = self.transfer_header(negotiated, credits_granted, 0, 0);
                Some(self.transmit_header(header))
            }
        }
    }

    fn transmit_fragment(
        &mut self,
        negotiated: &Negotiated,
        message: Message,
        sent: Option<u32>,
        credits_granted: u16,
    ) -> Action {
        let payload_offset = sent.unwrap_or(0);
        let left = message.length.saturating_sub(payload_offset);
        let room = negotiated.max_send_size.saturating_sub(wire::DATA_OFFSET);
        let payload_length = left.min(room).min(message.payload_limit.max(1));
        let remaining = left.saturating_sub(payload_length);
        let ends_message = remaining == 0;
        self.sending = if ends_message {
            None
        } else {
            Some(payload_offset.saturating_add(payload_length))
        };

        let header = self.transfer_header(negotiated, credits_granted, remaining, payload_length);
        self.in_flight = self.in_flight.saturating_add(1);
        Action::Transmit(Transmit {
            header: header.bytes,
            header_length: header.length,
            payload_offset,
            payload_length,
            ends_message,
            invalidate: if ends_message {
                message.invalidate
            } else {
                None
            },
        })
    }

    /// The header of the next data transfer, with all that goes with sending
    /// one: the credit, the keepalive, the answer that the peer waits for.
    fn transfer_header(
        &mut self,
        negotiated: &Negotiated,
        credits_granted: u16,
        remaining_data_length: u32,
        data_length: u32,
    ) -> Header {
        self.credits.spend(credits_granted);
        self.send_immediate = false;
        // Only a probe of ours has the flag. [MS-SMBD] 3.1.5.5, read literally,
        // would put it in the answer to a probe too, and that would be answered.
        let response_requested = self.keepalive == Keepalive::Pending;
        if response_requested {
            self.keepalive = Keepalive::Sent;
            self.timers.extend(self.now.after(KEEPALIVE_ANSWER));
        }
        DataTransfer {
            credits_requested: negotiated.send_credit_target,
            credits_granted,
            response_requested,
            remaining_data_length,
            data_offset: if data_length == 0 {
                0
            } else {
                wire::DATA_OFFSET
            },
            data_length,
        }
        .emit()
    }

    fn transmit_header(&mut self, header: Header) -> Action {
        self.in_flight = self.in_flight.saturating_add(1);
        Action::Transmit(Transmit {
            header: header.bytes,
            header_length: header.length,
            payload_offset: 0,
            payload_length: 0,
            ends_message: false,
            invalidate: None,
        })
    }
}
