// SPDX-License-Identifier: GPL-2.0-only

//! The RDMA side of a connection: CM id, queue pair and completion queue, and how work requests
//! are numbered on them.

use super::Connection;
use crate::compat;
use crate::memory::PAGES;
use crate::verbs::{
    Capacity as QueuePairCapacity, Chain, CmOwner, CompletionQueue, ConnParam, Device, Id,
    Incoming, Polled, QueuePair, ReceiveTable, WorkCompletion,
};
use core::mem::MaybeUninit;
use kernel::prelude::*;
use kernel::sync::{Arc, UniqueArc};
use usmbd_engine::Parameters;

/// Completions that end a drain: one of each queue.
pub(super) const DRAIN_COMPLETIONS: u8 = 2;

/// PDUs that are posted and not completed at most.
const SEND_SLOTS: u16 = 64;
/// RDMA work requests (and registrations) that are posted and not completed at most; apart from the
/// send slots, so that a transfer never stops credits or keepalives.
const RDMA_SLOTS: u16 = 32;
/// Receives beyond ReceiveCreditMax, for the engine's last-credit rule.
pub(super) const SPARE_RECEIVES: u16 = 1;
/// Scatter/gather entries of a work request of the send queue, at most.
pub(super) const SEND_SGE: usize = 4;
/// Of these, what a PDU takes whose message stands in ranges: one for its header, and one more.
const LEAST_SGE: u32 = 2;

/// Room in the queues of a connection.
#[derive(Clone, Copy)]
pub(super) struct Capacity {
    pub(super) receives: u16,
    pub(super) sends: u16,
    pub(super) rdma: u16,
    pub(super) send_sge: u32,
}

impl Capacity {
    /// What the device and the listener's parameters allow.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the device's queues, work requests or memory regions are too small for any
    /// use.
    pub(super) fn for_device(device: &Device, parameters: &Parameters) -> Result<Self> {
        let limits = device.limits();
        let capacity = Self {
            receives: parameters.receive_credit_max.saturating_add(SPARE_RECEIVES),
            sends: SEND_SLOTS,
            rdma: RDMA_SLOTS,
            send_sge: limits.max_send_sge.min(u32::try_from(SEND_SGE)?),
        };
        // Work requests that register a buffer, which have to fit in the slots with one behind them.
        let region = device.region_pages(PAGES);
        let regions = PAGES
            .checked_next_multiple_of(region)
            .and_then(|pages| pages.checked_div(region))
            .ok_or(EINVAL)?;
        // One more for the drain on each queue.
        if capacity.send_queue() >= limits.max_qp_wr
            || capacity.receive_queue() >= limits.max_qp_wr
            || capacity.completions() > limits.max_cqe
            || capacity.send_sge < LEAST_SGE
            || regions >= capacity.rdma.into()
        {
            return Err(compat::EOPNOTSUPP);
        }
        Ok(capacity)
    }

    /// Work requests that the send queue takes.
    pub(super) fn send_queue(&self) -> u32 {
        u32::from(self.sends).saturating_add(self.rdma.into())
    }

    /// Receives, and the one for the handshake.
    fn receive_queue(&self) -> u32 {
        u32::from(self.receives).saturating_add(1)
    }

    fn completions(&self) -> u32 {
        self.send_queue()
            .saturating_add(self.receive_queue())
            .saturating_add(DRAIN_COMPLETIONS.into())
    }
}

/// What a work request was for, as its number says.
#[derive(Clone, Copy)]
pub(super) enum WorkRequestId {
    /// The receive with this index.
    Receive(u16),
    /// The receive for the Negotiate Request.
    Handshake,
    /// The work request with this sequence number on the send queue.
    Send(u64),
    /// The last one of its queue.
    Drain,
}

impl WorkRequestId {
    const KIND: u32 = 56;
}

impl From<WorkRequestId> for u64 {
    fn from(id: WorkRequestId) -> u64 {
        match id {
            WorkRequestId::Receive(index) => u64::from(index),
            WorkRequestId::Handshake => 1 << WorkRequestId::KIND,
            // 2^56 work requests are never reached.
            WorkRequestId::Send(sequence) => 2 << WorkRequestId::KIND | sequence,
            WorkRequestId::Drain => 3 << WorkRequestId::KIND,
        }
    }
}

impl From<u64> for WorkRequestId {
    fn from(number: u64) -> Self {
        let value = number & ((1 << Self::KIND) - 1);
        match number >> Self::KIND {
            0 => Self::Receive(value as u16),
            1 => Self::Handshake,
            2 => Self::Send(value),
            _ => Self::Drain,
        }
    }
}

/// CM id, queue pair and completion queue of one connection. Dropping it sleeps.
pub(crate) struct Link {
    // In the order in which they must go.
    queue_pair: QueuePair,
    completions: CompletionQueue,
    id: Id<Connection>,
}

/// A link whose id is not the connection's yet.
pub(super) struct Unjoined {
    queue_pair: QueuePair,
    completions: CompletionQueue,
    place: UniqueArc<MaybeUninit<Link>>,
}

impl Unjoined {
    /// `id` is the one that it was made on.
    pub(super) fn join(self, id: Id<Connection>) -> Arc<Link> {
        let link = Link {
            queue_pair: self.queue_pair,
            completions: self.completions,
            id,
        };
        self.place.write(link).into()
    }
}

impl Link {
    /// Makes the queues, posts the receive for the Negotiate Request, and accepts.
    ///
    /// # Errors
    ///
    /// As the device and the CM say; then nothing is left, and the CM handler has to return the
    /// error.
    pub(super) fn accept(
        connection: &Arc<Connection>,
        incoming: Incoming<'_>,
        capacity: &Capacity,
        param: &ConnParam<'_>,
    ) -> Result<Arc<Self>> {
        // Dropped on an error, the id is left to the core, which destroys it.
        let id = incoming.adopt(connection.clone())?;
        let link = Self::prepare(connection, &id, capacity)?;
        id.accept(param)?;
        Ok(link.join(id))
    }

    /// Makes the queues and posts the receive for the peer's Negotiate PDU.
    ///
    /// # Errors
    ///
    /// As the device says.
    pub(super) fn prepare<T: CmOwner>(
        connection: &Arc<Connection>,
        id: &Id<T>,
        capacity: &Capacity,
    ) -> Result<Unjoined> {
        let place = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let device = connection.device();
        let completions =
            CompletionQueue::create(device, capacity.completions(), connection.clone())?;
        let queue_pair = QueuePair::create(
            id,
            device,
            &completions,
            &QueuePairCapacity {
                send: capacity.send_queue(),
                recv: capacity.receive_queue(),
                send_sge: capacity.send_sge,
                recv_sge: 1,
            },
        )?;
        // Before we connect or accept: the peer may send as soon as it has our answer, and there
        // are no retries for want of a receive.
        let handshake = connection.state.lock().receives.handshake_receive();
        let mut table = ReceiveTable::new(1)?;
        table.set(0, &handshake.ok_or(EINVAL)?);
        queue_pair
            .post_receives(&mut table, 0..1)
            .map_err(|failure| failure.error)?;
        completions.arm();
        Ok(Unjoined {
            queue_pair,
            completions,
            place,
        })
    }

    /// Connects; in the id's handler.
    ///
    /// # Errors
    ///
    /// As the CM says.
    pub(super) fn connect(&self, param: &ConnParam<'_>) -> Result {
        self.id.connect(param)
    }

    /// Hands some completions to `each`.
    pub(super) fn poll(&self, each: impl FnMut(&WorkCompletion)) -> Polled {
        self.completions.poll(each)
    }

    /// Asks for a notification; true if completions may have come meanwhile.
    pub(super) fn arm(&self) -> bool {
        self.completions.arm()
    }

    /// Posts a chain with one doorbell.
    pub(super) fn post(&self, chain: &mut Chain) -> Result {
        self.queue_pair.post(chain).map_err(|failure| failure.error)
    }

    /// Posts receives in order; on an error, says how many were posted before it.
    pub(super) fn post_receives(
        &self,
        table: &mut ReceiveTable,
        indices: impl DoubleEndedIterator<Item = u16> + Clone,
    ) -> Result<(), u16> {
        self.queue_pair
            .post_receives(table, indices)
            .map_err(|failure| u16::try_from(failure.posted).unwrap_or(u16::MAX))
    }

    /// Disconnects, and has everything posted flushed; a completion with
    /// [`WorkRequestId::Drain`] comes from each queue when it is empty. Returns how many of these
    /// will not come, because the device does not take them any more. Sleeps.
    pub(super) fn disconnect_and_drain(&self, device_removed: bool) -> u8 {
        if !device_removed {
            // An error means that the connection is down already.
            let _ = self.id.disconnect();
        }
        let drain = u64::from(WorkRequestId::Drain);
        let markers = self.queue_pair.post_drain(drain, drain);
        u8::from(!markers.send).saturating_add(u8::from(!markers.recv))
    }
}
