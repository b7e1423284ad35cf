// SPDX-License-Identifier: GPL-2.0-only

//! Queue pairs.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    cm::{CmOwner, Id, RawId},
    completion_queue::RawQueue,
    ffi, Chain, CompletionQueue, Device, DeviceUse, Sge,
};
use core::{mem::ManuallyDrop, ptr, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::Arc};

/// Room of a queue pair.
#[derive(Clone, Copy)]
pub(crate) struct Capacity {
    /// Work requests of the send queue.
    pub(crate) send: u32,
    /// Receives.
    pub(crate) recv: u32,
    /// SGEs of one work request of the send queue.
    pub(crate) send_sge: u32,
    /// SGEs of one receive.
    pub(crate) recv_sge: u32,
}

/// A receive to post: one piece of memory.
#[derive(Clone, Copy)]
pub(crate) struct Receive {
    /// Comes back in the completion.
    pub(crate) wr_id: u64,
    /// Where the message goes.
    pub(crate) sge: Sge,
}

/// A receive as the provider reads it.
#[derive(Default)]
struct RawReceive {
    request: ffi::ib_recv_wr,
    sge: ffi::ib_sge,
}

/// Receives that are posted again and again, each into the same memory: made once, so that posting
/// has only to link them.
///
/// # Invariants
///
/// `receives` has its final length, so that its buffer does not move; the `sg_list` of each request
/// points to the `sge` beside it. `next` is set by posting.
pub(crate) struct ReceiveTable {
    receives: KVec<RawReceive>,
}

// SAFETY: The pointers inside the requests point into the table itself.
unsafe impl Send for ReceiveTable {}

impl ReceiveTable {
    /// Makes a table of `count` receives, into no memory yet.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let mut receives = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            receives.push(RawReceive::default(), GFP_KERNEL_ACCOUNT)?;
        }
        for receive in receives.iter_mut() {
            receive.request.sg_list = &raw mut receive.sge;
            receive.request.num_sge = 1;
        }
        // INVARIANT: All are there, and were linked with their memory just now.
        Ok(Self { receives })
    }

    /// Says what one of them receives into. It is not posted.
    pub(crate) fn set(&mut self, index: u16, receive: &Receive) {
        if let Some(place) = self.receives.get_mut(usize::from(index)) {
            place.request.__bindgen_anon_1.wr_id = ManuallyDrop::new(receive.wr_id);
            place.sge = receive.sge.to_raw();
        }
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.receives.len().saturating_mul(size_of::<RawReceive>())
    }

    /// Links receives, and returns the first; null when there is none. It is good until the table
    /// changes.
    fn link(
        &mut self,
        indices: impl DoubleEndedIterator<Item = u16>,
    ) -> Result<*const ffi::ib_recv_wr> {
        let mut next: *mut ffi::ib_recv_wr = ptr::null_mut();
        for index in indices.rev() {
            let receive = self.receives.get_mut(usize::from(index)).ok_or(EINVAL)?;
            receive.request.next = next;
            next = &raw mut receive.request;
        }
        Ok(next)
    }

    /// The index of `request`, which is one of the table's, or null.
    fn index(&self, request: *const ffi::ib_recv_wr) -> Option<usize> {
        let start = self.receives.as_ptr().addr();
        Some(request.addr().checked_sub(start)? / size_of::<RawReceive>())
    }
}

/// Posting failed: the first `posted` are posted, and the others are not.
#[derive(Clone, Copy)]
pub(crate) struct PostError {
    /// How many were posted.
    pub(crate) posted: usize,
    /// Why the next was not.
    pub(crate) error: Error,
}

/// Which markers of [`QueuePair::post_drain`] will complete.
#[derive(Clone, Copy)]
pub(crate) struct Markers {
    /// The send queue's.
    pub(crate) send: bool,
    /// The receive queue's.
    pub(crate) recv: bool,
}

/// A reliable connected queue pair of a CM id.
///
/// # Invariants
///
/// `qp` is valid, is the id's, and reports to `_cq`.
pub(crate) struct QueuePair {
    qp: NonNull<ffi::ib_qp>,
    // Dropped in this order, after the queue pair.
    _cq: Arc<RawQueue>,
    _device: DeviceUse,
    id: Arc<RawId>,
}

// SAFETY: Functions on queue pairs may be called from any thread.
unsafe impl Send for QueuePair {}
// SAFETY: As above; drivers lock each queue.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// Makes the queue pair of `id`, which must be on `device`. One more of each queue is made than
    /// `capacity` says, for [`QueuePair::post_drain`].
    pub(crate) fn create<T: CmOwner>(
        id: &Id<T>,
        device: &Arc<Device>,
        cq: &CompletionQueue,
        capacity: &Capacity,
    ) -> Result<Self> {
        let device = device.hold()?;
        let mut attributes = ffi::ib_qp_init_attr {
            send_cq: cq.raw().as_ptr(),
            recv_cq: cq.raw().as_ptr(),
            cap: ffi::ib_qp_cap {
                max_send_wr: capacity.send.checked_add(1).ok_or(EINVAL)?,
                max_recv_wr: capacity.recv.checked_add(1).ok_or(EINVAL)?,
                max_send_sge: capacity.send_sge,
                max_recv_sge: capacity.recv_sge,
                ..Default::default()
            },
            sq_sig_type: ffi::ib_sig_type_IB_SIGNAL_REQ_WR,
            qp_type: ffi::ib_qp_type_IB_QPT_RC,
            ..Default::default()
        };
        let raw = id.raw();
        // SAFETY: Id, protection domain and completion queue are valid; the CM checks that they are
        // of one device.
        to_result(unsafe { ffi::rdma_create_qp(raw.as_ptr(), device.pd(), &mut attributes) })?;
        // SAFETY: The id is valid, and only `drop` takes the queue pair away.
        let qp = NonNull::new(unsafe { (*raw.as_ptr()).qp }).ok_or(ENODEV)?;
        // INVARIANT: Made just now for this id, with this completion queue.
        Ok(Self {
            qp,
            _cq: cq.raw().clone(),
            _device: device,
            id: raw.clone(),
        })
    }

    /// Posts all requests of the chain, in order. The chain may be used again at once, the memory
    /// that it names only after completion.
    ///
    /// # Errors
    ///
    /// Of the requests in front of the failed one, those that were posted will complete.
    pub(crate) fn post(&self, chain: &mut Chain) -> Result<(), PostError> {
        let mut bad = ptr::null();
        let posted = chain.linked(|first| {
            // SAFETY: The queue pair is valid, and the chain is linked and initialized; the driver
            // copies it.
            to_result(unsafe { ffi::usmbd_post_send(self.qp.as_ptr(), first, &mut bad) })
        });
        match posted {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(PostError {
                posted: chain.position(bad),
                error,
            }),
        }
    }

    /// Posts receives of the table, in order and with one doorbell. None of them is posted already,
    /// and each is named once.
    ///
    /// # Errors
    ///
    /// Those in front of the failed one are posted.
    pub(crate) fn post_receives(
        &self,
        table: &mut ReceiveTable,
        indices: impl DoubleEndedIterator<Item = u16> + Clone,
    ) -> Result<(), PostError> {
        let first = table
            .link(indices.clone())
            .map_err(|error| PostError { posted: 0, error })?;
        if first.is_null() {
            return Ok(());
        }
        let mut bad: *const ffi::ib_recv_wr = ptr::null();
        // SAFETY: The queue pair is valid and the list initialized; the driver copies it. Should one
        // be named twice, the list has no end, but the queue has.
        match to_result(unsafe { ffi::usmbd_post_recv(self.qp.as_ptr(), first, &mut bad) }) {
            Ok(()) => Ok(()),
            Err(error) => {
                let failed = table.index(bad);
                let mut indices = indices;
                Err(PostError {
                    posted: indices
                        .position(|index| failed == Some(usize::from(index)))
                        .unwrap_or(0),
                    error,
                })
            }
        }
    }

    /// Goes to the error state: what is posted is flushed.
    pub(crate) fn set_error(&self) -> Result {
        // SAFETY: The queue pair is valid.
        to_result(unsafe { ffi::usmbd_modify_qp_to_error(self.qp.as_ptr()) })
    }

    /// Goes to the error state and posts one marker on each queue: when a marker completes, so has
    /// everything before it on that queue. Tells which markers were posted; a queue that took none
    /// (a device in trouble) can only be emptied by dropping the queue pair.
    pub(crate) fn post_drain(&self, wr_id_send: u64, wr_id_recv: u64) -> Markers {
        // On an error the device is in trouble, and what is posted is flushed or never completes.
        let _ = self.set_error();

        let mut marker = ffi::ib_rdma_wr::default();
        marker.wr.__bindgen_anon_1.wr_id = ManuallyDrop::new(wr_id_send);
        marker.wr.opcode = ffi::ib_wr_opcode_IB_WR_RDMA_WRITE;
        marker.wr.send_flags = ffi::ib_send_flags_IB_SEND_SIGNALED;
        let mut bad = ptr::null();
        // SAFETY: The queue pair is valid and the request initialized, of its opcode's type.
        let send = unsafe {
            ffi::usmbd_post_send(self.qp.as_ptr(), (&raw const marker).cast(), &mut bad) == 0
        };

        let mut marker = ffi::ib_recv_wr::default();
        marker.__bindgen_anon_1.wr_id = ManuallyDrop::new(wr_id_recv);
        let mut bad = ptr::null();
        // SAFETY: The queue pair is valid and the request initialized.
        let recv = unsafe { ffi::usmbd_post_recv(self.qp.as_ptr(), &marker, &mut bad) == 0 };
        Markers { send, recv }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the queue pair is the id's, and valid.
        unsafe { ffi::rdma_destroy_qp(self.id.as_ptr()) };
    }
}
