// SPDX-License-Identifier: GPL-2.0-only

//! The PDUs as valid meaning: what fails here never reaches the state machine.

use crate::{
    parameters::{LEAST_FRAGMENTED_SIZE, LEAST_RECEIVE_SIZE},
    wire, Reason,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Room for the largest thing that precedes payload: a Negotiate Response.
pub(crate) const HEADER_SIZE: usize = 32;

/// A header as it goes out, and how many of its bytes do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) bytes: [u8; HEADER_SIZE],
    pub(crate) length: u32,
}

impl Header {
    fn new(layout: &(impl IntoBytes + Immutable), length: u32) -> Header {
        let mut bytes = [0; HEADER_SIZE];
        // Cannot fail: no layout is larger, as the assertions beside each say.
        let _ = layout.write_to_prefix(&mut bytes);
        Header { bytes, length }
    }
}

/// Negotiate Request, [MS-SMBD] 2.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NegotiateRequest {
    pub(crate) credits_requested: u16,
    pub(crate) preferred_send_size: u32,
    pub(crate) max_receive_size: u32,
    pub(crate) max_fragmented_size: u32,
}

impl NegotiateRequest {
    /// Checks a request in the order of [MS-SMBD] 3.1.5.6.
    ///
    /// # Errors
    ///
    /// Rows P3 to P7. Only [`Reason::RequestVersion`] is answered.
    pub(crate) fn parse(pdu: &[u8]) -> Result<Self, Reason> {
        let (layout, _) =
            wire::NegotiateRequest::ref_from_prefix(pdu).map_err(|_| Reason::RequestTooShort)?;
        let request = NegotiateRequest {
            credits_requested: layout.credits_requested.get(),
            preferred_send_size: layout.preferred_send_size.get(),
            max_receive_size: layout.max_receive_size.get(),
            max_fragmented_size: layout.max_fragmented_size.get(),
        };
        if layout.min_version.get() > wire::VERSION || layout.max_version.get() < wire::VERSION {
            Err(Reason::RequestVersion)
        } else if request.credits_requested == 0 {
            Err(Reason::RequestCredits)
        } else if request.max_receive_size < LEAST_RECEIVE_SIZE {
            Err(Reason::RequestReceiveSize)
        } else if request.max_fragmented_size < LEAST_FRAGMENTED_SIZE {
            Err(Reason::RequestFragmentedSize)
        } else {
            Ok(request)
        }
    }

    pub(crate) fn emit(&self) -> Header {
        let layout = wire::NegotiateRequest {
            min_version: wire::VERSION.into(),
            max_version: wire::VERSION.into(),
            reserved: 0.into(),
            credits_requested: self.credits_requested.into(),
            preferred_send_size: self.preferred_send_size.into(),
            max_receive_size: self.max_receive_size.into(),
            max_fragmented_size: self.max_fragmented_size.into(),
        };
        Header::new(&layout, wire::NEGOTIATE_REQUEST_LENGTH)
    }
}

/// Negotiate Response with success, [MS-SMBD] 2.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NegotiateResponse {
    pub(crate) credits_requested: u16,
    pub(crate) credits_granted: u16,
    pub(crate) max_read_write_size: u32,
    pub(crate) preferred_send_size: u32,
    pub(crate) max_receive_size: u32,
    pub(crate) max_fragmented_size: u32,
}

impl NegotiateResponse {
    /// Checks a response by [MS-SMBD] 3.1.5.7; `max_receive_size` is what the
    /// request offered.
    ///
    /// # Errors
    ///
    /// Rows A2 to A7.
    pub(crate) fn parse(pdu: &[u8], max_receive_size: u32) -> Result<Self, Reason> {
        let (layout, _) =
            wire::NegotiateResponse::ref_from_prefix(pdu).map_err(|_| Reason::ResponseTooShort)?;
        let response = NegotiateResponse {
            credits_requested: layout.credits_requested.get(),
            credits_granted: layout.credits_granted.get(),
            max_read_write_size: layout.max_read_write_size.get(),
            preferred_send_size: layout.preferred_send_size.get(),
            max_receive_size: layout.max_receive_size.get(),
            max_fragmented_size: layout.max_fragmented_size.get(),
        };
        if layout.negotiated_version.get() != wire::VERSION {
            Err(Reason::ResponseVersion)
        } else if layout.status.get() != wire::STATUS_SUCCESS {
            Err(Reason::ResponseStatus)
        } else if response.credits_granted == 0 || response.credits_requested == 0 {
            Err(Reason::ResponseCredits)
        } else if response.max_receive_size < LEAST_RECEIVE_SIZE
            || response.max_fragmented_size < LEAST_FRAGMENTED_SIZE
        {
            Err(Reason::ResponseSizes)
        } else if response.preferred_send_size > max_receive_size {
            Err(Reason::ResponsePreferredSendSize)
        } else {
            Ok(response)
        }
    }

    pub(crate) fn emit(&self) -> Header {
        let layout = wire::NegotiateResponse {
            min_version: wire::VERSION.into(),
            max_version: wire::VERSION.into(),
            negotiated_version: wire::VERSION.into(),
            reserved: 0.into(),
            credits_requested: self.credits_requested.into(),
            credits_granted: self.credits_granted.into(),
            status: wire::STATUS_SUCCESS.into(),
            max_read_write_size: self.max_read_write_size.into(),
            preferred_send_size: self.preferred_send_size.into(),
            max_receive_size: self.max_receive_size.into(),
            max_fragmented_size: self.max_fragmented_size.into(),
        };
        Header::new(&layout, wire::NEGOTIATE_RESPONSE_LENGTH)
    }

    /// A response that says no: all but the versions and the status is zero.
    pub(crate) fn emit_failure(status: u32) -> Header {
        let layout = wire::NegotiateResponse {
            min_version: wire::VERSION.into(),
            max_version: wire::VERSION.into(),
            negotiated_version: 0.into(),
            reserved: 0.into(),
            credits_requested: 0.into(),
            credits_granted: 0.into(),
            status: status.into(),
            max_read_write_size: 0.into(),
            preferred_send_size: 0.into(),
            max_receive_size: 0.into(),
            max_fragmented_size: 0.into(),
        };
        Header::new(&layout, wire::NEGOTIATE_RESPONSE_LENGTH)
    }
}

/// Data transfer, [MS-SMBD] 2.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataTransfer {
    pub(crate) credits_requested: u16,
    pub(crate) credits_granted: u16,
    pub(crate) response_requested: bool,
    pub(crate) remaining_data_length: u32,
    pub(crate) data_offset: u32,
    pub(crate) data_length: u32,
}

impl DataTransfer {
    /// Checks one PDU by [MS-SMBD] 3.1.5.8, as far as it stands alone.
    ///
    /// # Errors
    ///
    /// Rows D1 to D5, and data that begins inside the header.
    pub(crate) fn parse(pdu: &[u8], max_fragmented_recv_size: u32) -> Result<Self, Reason> {
        let (layout, _) =
            wire::DataTransfer::ref_from_prefix(pdu).map_err(|_| Reason::TransferTooShort)?;
        let transfer = DataTransfer {
            credits_requested: layout.credits_requested.get(),
            credits_granted: layout.credits_granted.get(),
            response_requested: layout.flags.get() & wire::FLAG_RESPONSE_REQUESTED != 0,
            remaining_data_length: layout.remaining_data_length.get(),
            data_offset: layout.data_offset.get(),
            data_length: layout.data_length.get(),
        };
        let end = u64::from(transfer.data_offset).saturating_add(u64::from(transfer.data_length));
        let to_come = u64::from(transfer.data_length)
            .saturating_add(u64::from(transfer.remaining_data_length));
        if transfer.credits_requested == 0 {
            Err(Reason::TransferCredits)
        } else if transfer.data_offset % 8 != 0 {
            Err(Reason::TransferAlignment)
        } else if end > u64::try_from(pdu.len()).unwrap_or(u64::MAX) {
            Err(Reason::TransferBounds)
        } else if to_come > u64::from(max_fragmented_recv_size) {
            Err(Reason::TransferMessageSize)
        } else if transfer.data_length > 0 && transfer.data_offset < wire::DATA_TRANSFER_LENGTH {
            Err(Reason::DataInHeader)
        } else {
            Ok(transfer)
        }
    }

    /// The header that precedes `data_length` bytes: with them it ends in the
    /// padding up to where they begin.
    pub(crate) fn emit(&self) -> Header {
        let layout = wire::DataTransfer {
            credits_requested: self.credits_requested.into(),
            credits_granted: self.credits_granted.into(),
            flags: if self.response_requested {
                wire::FLAG_RESPONSE_REQUESTED.into()
            } else {
                0.into()
            },
            reserved: 0.into(),
            remaining_data_length: self.remaining_data_length.into(),
            data_offset: self.data_offset.into(),
            data_length: self.data_length.into(),
        };
        let length = self.data_offset.max(wire::DATA_TRANSFER_LENGTH);
        Header::new(&layout, length)
    }
}
