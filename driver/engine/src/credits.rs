// SPDX-License-Identifier: GPL-2.0-only

//! Credits in both directions, [MS-SMBD] 3.1.5.1 and 3.1.5.9.
//!
//! A PDU costs its sender one credit, and a credit stands for one posted
//! receive. Three rules keep the two sides from running dry together, or from
//! answering each other's empty PDUs for ever:
//!
//! - Only receives that are posted already are granted.
//! - The last send credit goes only into a PDU that grants at least one, even
//!   if that is one more than the peer asked for. One receive more than the
//!   target is posted for this.
//! - A PDU without data goes out for credits only when the peer has used half
//!   of its target and two or more can be granted, or when it has none left.
//! - A peer that is sending data and is down to its last credit gets one, too:
//!   by the second rule it may be unable to use that last one. Not for our own
//!   last send credit, which an answer may need: Linux, on a target of two,
//!   grants nothing for a while after two PDUs that took one receive each.
//! - A peer that sent no data does not get back the one credit that its PDU took.
//!   Two sides whose upper layers have not read the rest would hand each other
//!   that one for ever. It waits until a second receive is free: then each empty
//!   PDU brings more credits than it costs, and there is an end.

use crate::Reason;

/// Receives posted beyond the credit target, for the last send credit.
const SPARE: u32 = 1;

/// Both sides' credits on one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credits {
    /// `SendCredits`: PDUs we may still send.
    send: u16,
    /// `ReceiveCredits`: credits the peer holds.
    receive: u32,
    /// Receives that are posted and not granted.
    available: u32,
    /// Credits the peer wants to hold, as it said.
    requested: u16,
    /// `ReceiveCreditMax`.
    maximum: u16,
    /// Receives the caller was ever asked to post and keep posted.
    asked: u32,
    /// Data came since the last PDU went out, or none has gone out yet.
    fed: bool,
}

impl Credits {
    pub(crate) const fn new(maximum: u16) -> Self {
        Credits {
            send: 0,
            receive: 0,
            available: 0,
            requested: 0,
            maximum,
            asked: 0,
            fed: true,
        }
    }

    /// `SendCredits`.
    pub(crate) fn send(&self) -> u16 {
        self.send
    }

    /// `ReceiveCredits`.
    pub(crate) fn receive(&self) -> u32 {
        self.receive
    }

    /// Whether the peer can send nothing because no receive is posted for it.
    pub(crate) fn is_peer_cut_off(&self) -> bool {
        self.receive == 0 && self.available == 0
    }

    /// `ReceiveCreditTarget`: what the peer wants, as far as we let it.
    pub(crate) fn target(&self) -> u16 {
        self.requested.min(self.maximum)
    }

    pub(crate) fn set_maximum(&mut self, maximum: u16) {
        self.maximum = maximum;
    }

    pub(crate) fn set_requested(&mut self, requested: u16) {
        self.requested = requested;
    }

    /// How many receives to post on top of those asked for before.
    pub(crate) fn missing_receives(&self) -> u16 {
        let wanted = match self.target() {
            0 => 0,
            target => u32::from(target).saturating_add(SPARE),
        };
        u16::try_from(wanted.saturating_sub(self.asked)).unwrap_or(u16::MAX)
    }

    /// The caller was asked for `count` receives more.
    pub(crate) fn asked_for_receives(&mut self, count: u16) {
        self.asked = self.asked.saturating_add(u32::from(count));
    }

    /// `count` receives are posted.
    pub(crate) fn posted(&mut self, count: u16) {
        self.available = self.available.saturating_add(u32::from(count));
    }

    /// The peer has sent a PDU, with data or without.
    ///
    /// # Errors
    ///
    /// Row X1: it held no credit.
    pub(crate) fn received(&mut self, data: bool) -> Result<(), Reason> {
        self.receive = self.receive.checked_sub(1).ok_or(Reason::NoReceiveCredit)?;
        self.fed |= data;
        Ok(())
    }

    /// The peer has granted `count` credits.
    pub(crate) fn granted(&mut self, count: u16) {
        // Row X3: more than this nobody can use.
        self.send = self.send.saturating_add(count);
    }

    /// Grants what a Negotiate Response can, which costs no credit.
    pub(crate) fn grant_in_response(&mut self) -> u16 {
        let grant = self.grantable(self.target().into());
        self.hand_out(grant);
        grant
    }

    /// What the next PDU would grant; `None` while none may be sent.
    pub(crate) fn next_grant(&self) -> Option<u16> {
        match self.send {
            0 => None,
            1 => {
                let grant = self.grantable(u32::from(self.target()).saturating_add(SPARE));
                if grant > 0 {
                    Some(grant)
                } else {
                    // The peer has all it wants and more, after it wanted less
                    // than before.
                    (self.available > 0).then_some(1)
                }
            }
            _ => Some(self.grantable(self.target().into())),
        }
    }

    /// A PDU goes out with the `grant` that [`Self::next_grant`] told.
    pub(crate) fn spend(&mut self, grant: u16) {
        self.send = self.send.saturating_sub(1);
        self.fed = false;
        self.hand_out(grant);
    }

    /// Whether the peer should get credits although there is nothing to send.
    pub(crate) fn is_grant_due(&self) -> bool {
        let target = u32::from(self.target());
        let grant = self.grantable(target);
        match self.receive {
            0 => grant >= 1 && (self.fed || self.available >= 2),
            1 if self.fed && self.send > 1 => grant >= 1,
            held => grant >= 2 && held <= target / 2,
        }
    }

    /// Whether receives that were posted just now may be what a PDU waited for:
    /// one that grants, or one with the last send credit.
    pub(crate) fn may_let_pdu_go(&self) -> bool {
        self.send == 1 || self.is_grant_due()
    }

    /// What can be granted so that the peer holds at most `limit` credits.
    fn grantable(&self, limit: u32) -> u16 {
        let grant = self.available.min(limit.saturating_sub(self.receive));
        u16::try_from(grant).unwrap_or(u16::MAX)
    }

    fn hand_out(&mut self, grant: u16) {
        self.available = self.available.saturating_sub(u32::from(grant));
        self.receive = self.receive.saturating_add(u32::from(grant));
    }
}
