// SPDX-License-Identifier: GPL-2.0-only

//! What one side brings to the negotiation, and what comes out of it,
//! [MS-SMBD] 3.1.1.1.

use crate::repr::{NegotiateRequest, NegotiateResponse};

/// Least size of a PDU that a side must be able to receive, [MS-SMBD] 3.1.5.6.
pub(crate) const LEAST_RECEIVE_SIZE: u32 = 128;

/// Least size of a message that a side must be able to reassemble,
/// [MS-SMBD] 3.1.5.6.
pub(crate) const LEAST_FRAGMENTED_SIZE: u32 = 131_072;

const MOST_PDU_SIZE: u32 = 8192;
const MOST_FRAGMENTED_SIZE: u32 = 16 * 1024 * 1024;
const LEAST_READ_WRITE_SIZE: u32 = 4096;
const MOST_READ_WRITE_SIZE: u32 = 16 * 1024 * 1024;
const LEAST_KEEPALIVE_INTERVAL: u32 = 1000;

/// Windows refuses a Negotiate Request that prefers more, [MS-SMBD] appendix B.
const MOST_PREFERRED_SEND_SIZE: u32 = 8136;

/// What one side brings to the negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `ReceiveCreditMax`: most credits the peer may hold. 1 to 65535.
    pub receive_credit_max: u16,
    /// `SendCreditTarget`: credits we ask the peer for. 1 to 65535.
    pub send_credit_target: u16,
    /// Largest PDU we send, header included. 128 to 8192.
    pub max_send_size: u32,
    /// Largest PDU we receive, header included. 128 to 8192.
    pub max_receive_size: u32,
    /// Largest message we take. 131072 to 16 MiB.
    pub max_fragmented_recv_size: u32,
    /// Most bytes in one RDMA read or write. 4096 to 16 MiB.
    pub max_read_write_size: u32,
    /// Silence after which the peer is asked for a sign of life. At least a
    /// second.
    pub keepalive_interval_ms: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            receive_credit_max: 64,
            send_credit_target: 64,
            max_send_size: 1364,
            max_receive_size: 1364,
            max_fragmented_recv_size: 1_048_576,
            max_read_write_size: 8_388_608,
            keepalive_interval_ms: 120_000,
        }
    }
}

/// Which of the [`Parameters`] is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterError {
    /// `receive_credit_max`.
    ReceiveCreditMax,
    /// `send_credit_target`.
    SendCreditTarget,
    /// `max_send_size`.
    MaxSendSize,
    /// `max_receive_size`.
    MaxReceiveSize,
    /// `max_fragmented_recv_size`.
    MaxFragmentedRecvSize,
    /// `max_read_write_size`.
    MaxReadWriteSize,
    /// `keepalive_interval_ms`.
    KeepaliveInterval,
}

impl Parameters {
    /// Checks every value against the range that its field names.
    ///
    /// # Errors
    ///
    /// The first value out of its range, in the order of the fields.
    pub fn validate(&self) -> Result<(), ParameterError> {
        let inside = self.clamped();
        if self.receive_credit_max != inside.receive_credit_max {
            Err(ParameterError::ReceiveCreditMax)
        } else if self.send_credit_target != inside.send_credit_target {
            Err(ParameterError::SendCreditTarget)
        } else if self.max_send_size != inside.max_send_size {
            Err(ParameterError::MaxSendSize)
        } else if self.max_receive_size != inside.max_receive_size {
            Err(ParameterError::MaxReceiveSize)
        } else if self.max_fragmented_recv_size != inside.max_fragmented_recv_size {
            Err(ParameterError::MaxFragmentedRecvSize)
        } else if self.max_read_write_size != inside.max_read_write_size {
            Err(ParameterError::MaxReadWriteSize)
        } else if self.keepalive_interval_ms != inside.keepalive_interval_ms {
            Err(ParameterError::KeepaliveInterval)
        } else {
            Ok(())
        }
    }

    /// Each value moved to the nearest one in its range, so that the state
    /// machine can rely on the ranges.
    pub(crate) fn clamped(&self) -> Parameters {
        // `max` and `min` and not `clamp`: that one can panic.
        let within = |value: u32, least: u32, most: u32| value.max(least).min(most);
        Parameters {
            receive_credit_max: self.receive_credit_max.max(1),
            send_credit_target: self.send_credit_target.max(1),
            max_send_size: within(self.max_send_size, LEAST_RECEIVE_SIZE, MOST_PDU_SIZE),
            max_receive_size: within(self.max_receive_size, LEAST_RECEIVE_SIZE, MOST_PDU_SIZE),
            max_fragmented_recv_size: within(
                self.max_fragmented_recv_size,
                LEAST_FRAGMENTED_SIZE,
                MOST_FRAGMENTED_SIZE,
            ),
            max_read_write_size: within(
                self.max_read_write_size,
                LEAST_READ_WRITE_SIZE,
                MOST_READ_WRITE_SIZE,
            ),
            keepalive_interval_ms: self.keepalive_interval_ms.max(LEAST_KEEPALIVE_INTERVAL),
        }
    }

    /// The Negotiate Request of these parameters, [MS-SMBD] 3.1.5.2.
    pub(crate) fn request(&self) -> NegotiateRequest {
        NegotiateRequest {
            credits_requested: self.send_credit_target,
            preferred_send_size: self.preferred_send_size(),
            max_receive_size: self.max_receive_size,
            max_fragmented_size: self.max_fragmented_recv_size,
        }
    }

    /// What the passive side makes of the peer's request, [MS-SMBD] 3.1.5.6.
    pub(crate) fn accept(&self, request: &NegotiateRequest) -> Negotiated {
        Negotiated {
            max_send_size: self.max_send_size.min(request.max_receive_size),
            max_receive_size: self.receive_size(request.preferred_send_size),
            max_fragmented_send_size: request.max_fragmented_size,
            max_fragmented_recv_size: self.max_fragmented_recv_size,
            max_read_write_size: self.max_read_write_size,
            send_credit_target: self.send_credit_target,
            receive_credit_target: request.credits_requested.min(self.receive_credit_max),
            keepalive_interval_ms: self.keepalive_interval_ms,
        }
    }

    /// What the active side makes of the peer's response, [MS-SMBD] 3.1.5.7.
    pub(crate) fn conclude(&self, response: &NegotiateResponse) -> Negotiated {
        Negotiated {
            // Never more than the request preferred, whatever the peer takes.
            max_send_size: self.preferred_send_size().min(response.max_receive_size),
            max_receive_size: self.receive_size(response.preferred_send_size),
            max_fragmented_send_size: response.max_fragmented_size,
            max_fragmented_recv_size: self.max_fragmented_recv_size,
            max_read_write_size: self.max_read_write_size.min(response.max_read_write_size),
            send_credit_target: self.send_credit_target,
            receive_credit_target: response.credits_requested.min(self.receive_credit_max),
            keepalive_interval_ms: self.keepalive_interval_ms,
        }
    }

    /// What an active side prefers to send.
    fn preferred_send_size(&self) -> u32 {
        self.max_send_size.min(MOST_PREFERRED_SEND_SIZE)
    }

    /// The peer may prefer to send less than the least size, even nothing.
    fn receive_size(&self, preferred_send_size: u32) -> u32 {
        self.max_receive_size
            .min(preferred_send_size)
            .max(LEAST_RECEIVE_SIZE)
    }
}

/// What came out of the negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Largest PDU we may send, header included.
    pub max_send_size: u32,
    /// Largest PDU the peer may send; the size of every receive.
    pub max_receive_size: u32,
    /// Largest message the peer takes.
    pub max_fragmented_send_size: u32,
    /// Largest message we take.
    pub max_fragmented_recv_size: u32,
    /// Most bytes in one RDMA read or write.
    pub max_read_write_size: u32,
    /// Credits we ask the peer for.
    pub send_credit_target: u16,
    /// Credits the peer asked for, at most `receive_credit_max`.
    pub receive_credit_target: u16,
    /// Silence after which the peer is asked for a sign of life.
    pub keepalive_interval_ms: u32,
}

impl Negotiated {
    /// The Negotiate Response of these values, [MS-SMBD] 3.1.5.3.
    pub(crate) fn response(&self, credits_granted: u16) -> NegotiateResponse {
        NegotiateResponse {
            credits_requested: self.send_credit_target,
            credits_granted,
            max_read_write_size: self.max_read_write_size,
            preferred_send_size: self.max_send_size,
            max_receive_size: self.max_receive_size,
            max_fragmented_size: self.max_fragmented_recv_size,
        }
    }
}
