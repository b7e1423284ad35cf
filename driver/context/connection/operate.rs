// SPDX-License-Identifier: GPL-2.0-only

//! What operators see of a connection, and the one thing that they do to it.

use super::{Connection, Counters, Event, Phase, ReadDepths, Role};
use crate::verbs::Net;
use kernel::cred::Credential;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use usmbd_abi::status::Reason;

/// How far a connection has come.
#[derive(Clone, Copy)]
pub(crate) enum PhaseShown {
    Negotiating,
    Routing,
    Offered,
    Serving,
    Lingering,
    Draining,
    Connecting,
}

/// A connection at one moment, beyond what never changes.
pub(crate) struct Snapshot {
    pub(crate) phase: PhaseShown,
    /// Who opened the context that has it.
    pub(crate) opener: Option<ARef<Credential>>,
    /// PDUs that we may send.
    pub(crate) send_credits: u16,
    /// PDUs that the peer may send.
    pub(crate) receive_credits: u32,
    /// Bytes of memory of its own.
    pub(crate) memory: usize,
    pub(crate) counters: Counters,
    /// The engine's word for its state.
    pub(crate) state: &'static str,
    pub(crate) role: Role,
    /// RDMA reads at a time, ours and the peer's, once that is agreed.
    pub(crate) depths: Option<ReadDepths>,
}

impl PhaseShown {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Negotiating => "negotiating",
            Self::Routing => "routing",
            Self::Offered => "offered",
            Self::Serving => "serving",
            Self::Lingering => "lingering",
            Self::Draining => "draining",
            Self::Connecting => "connecting",
        }
    }
}

impl Connection {
    /// Whether it came in in this network namespace.
    pub(crate) fn is_in(&self, net: &Net) -> bool {
        self.net == *net
    }

    pub(crate) fn counters(&self) -> Counters {
        self.state.lock().counters
    }

    /// What can be seen of it now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let slots = state.slots.saturating_mul(size_of::<Option<Event>>());
        let memory = state
            .send
            .memory()
            .saturating_add(state.receives.memory())
            .saturating_add(state.held_memory())
            .saturating_add(slots)
            .saturating_add(size_of::<Self>());
        Snapshot {
            phase: match state.phase {
                Phase::Negotiating => PhaseShown::Negotiating,
                Phase::Routing => PhaseShown::Routing,
                Phase::Offered => PhaseShown::Offered,
                Phase::Serving => PhaseShown::Serving,
                Phase::Lingering => PhaseShown::Lingering,
                Phase::Draining | Phase::Gone => PhaseShown::Draining,
                Phase::Connecting => PhaseShown::Connecting,
            },
            opener: state.owner.as_ref().map(|owner| owner.opener().clone()),
            send_credits: state.engine.send_credits(),
            receive_credits: state.engine.receive_credits(),
            memory,
            counters: state.counters,
            state: state.engine.state().name(),
            role: self.role,
            depths: state.depths,
        }
    }

    /// Ends it on an operator's word, however far it has come; what was not sent is dropped. Of one
    /// that has ended already the reason stays.
    pub(crate) fn drop_by_operator(self: &Arc<Self>) {
        self.with_state(|_, state, now, _| {
            if state.engine.end().is_none() {
                state.cause.get_or_insert(Reason::Dropped);
                state.engine.disconnect(now);
            }
        });
    }

    /// One line for debugfs and fdinfo.
    pub(crate) fn show(&self, out: &mut impl core::fmt::Write) -> core::fmt::Result {
        let now = self.snapshot();
        let (initiator_depth, responder_resources) = now.depths.map_or((0, 0), |depths| {
            (depths.initiator_depth, depths.responder_resources)
        });
        out.write_fmt(fmt!(
            "{} {} {} {} {} phase={} role={} reads={}/{} send_credits={} receive_credits={} memory={}",
            self.number,
            self.local,
            self.peer,
            self.device.name().to_str().unwrap_or("?"),
            now.state,
            now.phase.name(),
            match now.role {
                Role::Active => "active",
                Role::Passive => "passive",
            },
            initiator_depth,
            responder_resources,
            now.send_credits,
            now.receive_credits,
            now.memory,
        ))?;
        now.counters.show(out)?;
        out.write_str("\n")
    }
}
