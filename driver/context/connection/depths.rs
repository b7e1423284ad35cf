// SPDX-License-Identifier: GPL-2.0-only

//! How many RDMA reads at a time both sides agree on; what an agreement is, the engine knows.

use super::{active, Connection, State};
use crate::verbs::{Fabric, PeerParam};
use usmbd_engine::read_depth::{self, ReadDepths};

impl Connection {
    /// The fabric, as far as read depths depend on it.
    pub(super) fn kind(&self) -> read_depth::Fabric {
        match self.fabric {
            Fabric::InfiniBand | Fabric::Roce => read_depth::Fabric::InfiniBandOrRoce,
            Fabric::Iwarp => read_depth::Fabric::Iwarp,
        }
    }

    /// What of `own` the device can do.
    pub(super) fn read_depths(&self, own: ReadDepths) -> ReadDepths {
        let most = self.device.limits().max_qp_init_rd_atom;
        ReadDepths {
            initiator_depth: own
                .initiator_depth
                .min(u8::try_from(most).unwrap_or(u8::MAX)),
            ..own
        }
    }

    /// Both sides have agreed; what on, the side that connected learns only now.
    pub(super) fn agree(&self, state: &mut State, param: PeerParam<'_>) {
        if state.connecting.is_some() {
            let asked = self.read_depths(active::NO_READS);
            let agreed = asked.conclude(depths_of(param), self.kind(), param.private_data());
            state.depths = Some(agreed);
        }
    }
}

pub(super) fn depths_of(param: PeerParam<'_>) -> ReadDepths {
    ReadDepths {
        initiator_depth: param.initiator_depth(),
        responder_resources: param.responder_resources(),
    }
}
