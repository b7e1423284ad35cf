// SPDX-License-Identifier: GPL-2.0-only

//! The end of a connection: its queue pair is flushed, what the device has of it is freed, and its
//! context is told why.

use super::{
    dispatch, link, pending, registry, timer, Connection, Event, Later, Phase, Reason, SlotOf,
    State, Status, STATISTICS,
};
use crate::{trace, workqueue};
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::memory::STATE_DISCONNECTED;

impl Connection {
    /// Says in the kernel log that a peer broke the protocol.
    pub(super) fn log_end(&self, reason: Reason) {
        if dispatch::is_protocol_error(reason) {
            STATISTICS.protocol_errors.add(1);
            self.warn(fmt!("{}", reason.text()));
        }
    }

    /// One line in the kernel log, rate-limited.
    pub(super) fn warn(&self, what: fmt::Arguments<'_>) {
        if trace::may_log() {
            pr_warn!("connection {} with {}: {}\n", self.number, self.peer, what);
        }
    }

    pub(super) fn start_draining(self: &Arc<Self>, state: &mut State, later: &mut Later) {
        if matches!(state.phase, Phase::Draining | Phase::Gone) {
            return;
        }
        let Some(link) = state.link.clone() else {
            return;
        };
        state.phase = Phase::Draining;
        state.give_up_at = None;
        state.draining = link::DRAIN_COMPLETIONS;
        later.room = true;
        later.drain = Some(link);
    }

    /// Drained: frees all that the device has of it, then tells the end.
    pub(super) fn finish(self: &Arc<Self>) {
        let (link, memory, listener, ticket, messages) = {
            let mut state = self.state.lock();
            let memory = (state.receives.retire(), state.send.retire());
            (
                state.link.take(),
                memory,
                state.listener.take(),
                state.ticket.take(),
                (state.routing.take(), state.held.take()),
            )
        };
        if let Some(ticket) = ticket {
            drop(pending::take(&ticket));
        }
        if let Some(listener) = listener {
            listener.release();
        }
        // Nobody arms it again; if it runs, it finds nothing to do.
        workqueue::cancel::<_, 1>(self);
        // Waits for handlers that run; afterwards neither CM nor device knows us.
        drop(link);
        drop(memory);
        drop(messages);
        registry::remove(self.number);
        let never_connected = self.state.lock().was_never_connected();
        if never_connected {
            self.tell_not_connected();
        }
        let mut later = Later::default();
        let owner = {
            let mut state = self.state.lock();
            self.fail_queued(&mut state, timer::now(), &mut later);
            if state.owner.is_some() && !never_connected {
                self.tell_accepted(&mut state, Status::Disconnected, &mut later);
                let reason = state.cause.unwrap_or(Reason::Local);
                let event = Event::Disconnected {
                    user_data: state.disconnect_user_data,
                    connection: self.clone(),
                    reason,
                };
                self.publish_state(&mut state, STATE_DISCONNECTED);
                state.post(event, &mut later);
            }
            if state.phase == Phase::Draining {
                state.phase = Phase::Gone;
            }
            if state.lingers {
                STATISTICS.lingering.add(-1);
            }
            let unused = core::mem::take(&mut state.slots);
            state.owner.take().map(|owner| (owner, unused))
        };
        if let Some((owner, unused)) = owner {
            owner.queue().release(unused, SlotOf::Connection);
        }
        STATISTICS.connections.add(-1);
        later.room = true;
        self.carry_out(later);
    }

    /// There is no link for it. What a queue pair said before it went must not keep it.
    pub(super) fn discard(self: &Arc<Self>) {
        self.state.lock().phase = Phase::Gone;
        workqueue::cancel_sync::<_, 1>(self);
    }
}
