// SPDX-License-Identifier: GPL-2.0-only

//! Where each fragment belongs in its message, [MS-SMBD] 3.1.5.8.
//!
//! No buffer: a fragment is handed up as a [`Piece`] the moment it comes.

use crate::{repr::DataTransfer, Reason};

/// A stretch of one message, and where it stands in the PDU that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the piece begins in this PDU.
    pub payload_offset: u32,
    /// Bytes in the piece; never zero.
    pub payload_length: u32,
    /// Bytes in the whole message; the same in all its pieces.
    pub message_total: u32,
    /// Where the piece belongs in the message: the pieces come in order and
    /// without gaps.
    pub message_offset: u32,
    /// Whether the message is whole with this piece.
    pub last: bool,
    /// The local token that the peer invalidated with this message; told with
    /// the last piece.
    pub invalidated: Option<u32>,
}

/// The message that is coming in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reassembly {
    /// `FragmentReassemblyRemaining`; zero between messages.
    remaining: u32,
    /// Length of the message, from its first fragment.
    total: u32,
    /// `InvalidatedToken`.
    invalidated: Option<u32>,
}

impl Reassembly {
    pub(crate) const fn new() -> Self {
        Reassembly {
            remaining: 0,
            total: 0,
            invalidated: None,
        }
    }

    /// Takes one fragment; `None` when there is nothing in it to hand up.
    ///
    /// # Errors
    ///
    /// Rows D6, X2 and X4, and a message longer than it said.
    pub(crate) fn take(
        &mut self,
        transfer: &DataTransfer,
        invalidated: Option<u32>,
        max_fragmented_recv_size: u32,
    ) -> Result<Option<Piece>, Reason> {
        let DataTransfer {
            data_length,
            remaining_data_length,
            ..
        } = *transfer;
        self.invalidated = invalidated.or(self.invalidated);
        if data_length == 0 && remaining_data_length == 0 {
            // Credits or a keepalive. Read literally [MS-SMBD] 3.1.5.8 would
            // end the connection if it came between two fragments; Linux
            // peers have sent it there.
            return Ok(None);
        }

        let message_offset;
        if self.remaining == 0 {
            message_offset = 0;
            // Cannot wrap: row D5 has bounded the sum.
            self.total = data_length.saturating_add(remaining_data_length);
            self.remaining = remaining_data_length;
        } else {
            message_offset = self.total.saturating_sub(self.remaining);
            let end = u64::from(message_offset)
                .saturating_add(u64::from(data_length))
                .saturating_add(u64::from(remaining_data_length));
            self.remaining = self
                .remaining
                .checked_sub(data_length)
                .ok_or(Reason::FragmentTooLong)?;
            if end > u64::from(max_fragmented_recv_size) {
                return Err(Reason::ReassemblyTooLong);
            }
            if remaining_data_length == 0 && self.remaining > 0 {
                return Err(Reason::TransferMessageCutShort);
            }
            if remaining_data_length > 0 && self.remaining == 0 {
                return Err(Reason::ReassemblyRestarted);
            }
        }

        if data_length == 0 {
            return Ok(None);
        }
        let last = self.remaining == 0;
        Ok(Some(Piece {
            payload_offset: transfer.data_offset,
            payload_length: data_length,
            message_total: self.total,
            message_offset,
            last,
            invalidated: if last { self.invalidated.take() } else { None },
        }))
    }

    /// `FragmentReassemblyRemaining`.
    pub(crate) fn remaining(&self) -> u32 {
        self.remaining
    }
}
