// SPDX-License-Identifier: GPL-2.0-only

//! Data transfers that come in, [MS-SMBD] 3.1.5.5 and 3.1.5.8.

use super::{Connection, Received};
use crate::{
    parameters::Negotiated, reassembly::Piece, repr::DataTransfer, timer::Keepalive, Reason,
};

impl Connection {
    pub(super) fn receive_transfer(&mut self, pdu: &[u8], invalidated: Option<u32>) -> Received {
        // Whatever it is, the peer lives.
        self.keepalive = Keepalive::None;
        self.arm_idle();
        let Some(negotiated) = self.negotiated else {
            return Received::Ignore;
        };
        match self.take_transfer(&negotiated, pdu, invalidated) {
            Ok(Some(piece)) => Received::Piece(piece),
            Ok(None) => Received::Repost,
            Err(reason) => {
                self.terminate(reason);
                Received::Ignore
            }
        }
    }

    fn take_transfer(
        &mut self,
        negotiated: &Negotiated,
        pdu: &[u8],
        invalidated: Option<u32>,
    ) -> Result<Option<Piece>, Reason> {
        // The provider finds this out, unless receives are larger than asked.
        if u32::try_from(pdu.len()).unwrap_or(u32::MAX) > negotiated.max_receive_size {
            return Err(Reason::ReceiveTooLong);
        }
        let transfer = DataTransfer::parse(pdu, negotiated.max_fragmented_recv_size)?;
        self.credits.received(transfer.data_length > 0)?;
        self.credits.set_requested(transfer.credits_requested);
        self.credits.granted(transfer.credits_granted);
        if transfer.response_requested {
            self.send_immediate = true;
        }
        self.reassembly
            .take(&transfer, invalidated, negotiated.max_fragmented_recv_size)
    }
}
