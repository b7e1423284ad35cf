// SPDX-License-Identifier: GPL-2.0-only

//! Chains of work requests for the send queue, built without allocating and posted with one doorbell.

use super::{ffi, Access, MemoryRegion};
use core::{
    mem::{size_of, ManuallyDrop},
    ptr,
};
use kernel::prelude::*;

/// Local memory of a work request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sge {
    /// DMA address, or base address of a memory region plus offset.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// The key that goes with the address.
    pub(crate) lkey: u32,
}

impl Sge {
    pub(super) fn to_raw(self) -> ffi::ib_sge {
        ffi::ib_sge {
            addr: self.address,
            length: self.length,
            lkey: self.lkey,
        }
    }
}

/// Any work request: all begin with `ib_send_wr`.
#[repr(C)]
union Request {
    send: ManuallyDrop<ffi::ib_send_wr>,
    rdma: ManuallyDrop<ffi::ib_rdma_wr>,
    register: ManuallyDrop<ffi::ib_reg_wr>,
}

/// Work requests to be posted together, in order.
///
/// # Invariants
///
/// - The vectors' buffers were allocated for good and do not move.
/// - Each request of `requests` is initialized in the variant that its opcode says, and its
///   `sg_list` points to that many entries of its own part of `sges`. `next` is set by posting.
pub(crate) struct Chain {
    requests: KVec<Request>,
    capacity: usize,
    sges: KVec<ffi::ib_sge>,
    sges_per_request: usize,
    /// Requests that ask for a completion.
    signalled: u32,
}

// SAFETY: The pointers inside the requests point into the chain itself or to memory regions, which
// any thread may post.
unsafe impl Send for Chain {}

impl Chain {
    /// Makes an empty chain for up to `capacity` requests of up to `sges_per_request` SGEs.
    pub(crate) fn new(capacity: usize, sges_per_request: usize) -> Result<Self> {
        let entries = capacity.checked_mul(sges_per_request).ok_or(EOVERFLOW)?;
        let mut sges = KVec::with_capacity(entries, GFP_KERNEL)?;
        for _ in 0..entries {
            sges.push(ffi::ib_sge::default(), GFP_KERNEL)?;
        }
        // INVARIANT: Empty; both buffers have their final size.
        Ok(Self {
            requests: KVec::with_capacity(capacity, GFP_KERNEL)?,
            capacity,
            sges,
            sges_per_request,
            signalled: 0,
        })
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        let requests = self.capacity.saturating_mul(size_of::<Request>());
        requests.saturating_add(self.sges.len().saturating_mul(size_of::<ffi::ib_sge>()))
    }

    /// Forgets all requests.
    pub(crate) fn clear(&mut self) {
        self.requests.clear();
        self.signalled = 0;
    }

    /// Requests in it, and how many of them ask for a completion.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let requests = u32::try_from(self.requests.len()).unwrap_or(u32::MAX);
        (requests, self.signalled)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether no more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.requests.len() >= self.capacity
    }

    /// Requests that fit still.
    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.requests.len())
    }

    /// Appends a SEND, which invalidates the peer's key `invalidate` on its way.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when the chain is full, `E2BIG` with too many SGEs; likewise below.
    pub(crate) fn push_send(
        &mut self,
        wr_id: u64,
        sges: &[Sge],
        signalled: bool,
        invalidate: Option<u32>,
    ) -> Result {
        let opcode = match invalidate {
            Some(_) => ffi::ib_wr_opcode_IB_WR_SEND_WITH_INV,
            None => ffi::ib_wr_opcode_IB_WR_SEND,
        };
        let mut send = self.request(wr_id, opcode, sges, signalled)?;
        send.ex.invalidate_rkey = ManuallyDrop::new(invalidate.unwrap_or(0));
        self.append(Request {
            send: ManuallyDrop::new(send),
        })
    }

    /// Appends an RDMA write (`write`) from the SGEs, or an RDMA read to them.
    pub(crate) fn push_rdma(
        &mut self,
        write: bool,
        wr_id: u64,
        sges: &[Sge],
        remote_addr: u64,
        rkey: u32,
        signalled: bool,
    ) -> Result {
        let opcode = match write {
            true => ffi::ib_wr_opcode_IB_WR_RDMA_WRITE,
            false => ffi::ib_wr_opcode_IB_WR_RDMA_READ,
        };
        let wr = self.request(wr_id, opcode, sges, signalled)?;
        self.append(Request {
            rdma: ManuallyDrop::new(ffi::ib_rdma_wr {
                wr,
                remote_addr,
                rkey,
            }),
        })
    }

    /// Appends the registration of `region` under its present key. Requests behind it in the chain
    /// may use the key; other queue pairs only after it completed.
    pub(crate) fn push_register(
        &mut self,
        region: &MemoryRegion,
        wr_id: u64,
        signalled: bool,
    ) -> Result {
        let opcode = ffi::ib_wr_opcode_IB_WR_REG_MR;
        let wr = self.request(wr_id, opcode, &[], signalled)?;
        let local = ffi::ib_access_flags_IB_ACCESS_LOCAL_WRITE;
        let access = match region.access() {
            Access::Local => local,
            Access::RemoteWrite => local | ffi::ib_access_flags_IB_ACCESS_REMOTE_WRITE,
        };
        self.append(Request {
            register: ManuallyDrop::new(ffi::ib_reg_wr {
                wr,
                mr: region.as_ptr(),
                key: region.key(),
                access: i32::try_from(access)?,
            }),
        })
    }

    /// Appends the invalidation of our own `key`, after the requests before it have completed.
    pub(crate) fn push_invalidate(&mut self, key: u32, wr_id: u64, signalled: bool) -> Result {
        let opcode = ffi::ib_wr_opcode_IB_WR_LOCAL_INV;
        let mut send = self.request(wr_id, opcode, &[], signalled)?;
        send.send_flags |= ffi::ib_send_flags_IB_SEND_FENCE;
        send.ex.invalidate_rkey = ManuallyDrop::new(key);
        self.append(Request {
            send: ManuallyDrop::new(send),
        })
    }

    /// The common part of the next request; its SGEs are in place when this returns.
    fn request(
        &mut self,
        wr_id: u64,
        opcode: ffi::ib_wr_opcode,
        sges: &[Sge],
        signalled: bool,
    ) -> Result<ffi::ib_send_wr> {
        if self.is_full() {
            return Err(ENOSPC);
        }
        if sges.len() > self.sges_per_request {
            return Err(E2BIG);
        }
        let first = self.requests.len().saturating_mul(self.sges_per_request);
        let own = self.sges.get_mut(first..).ok_or(ENOSPC)?;
        for (to, from) in own.iter_mut().zip(sges) {
            *to = from.to_raw();
        }
        let mut request = ffi::ib_send_wr {
            sg_list: own.as_mut_ptr(),
            num_sge: i32::try_from(sges.len())?,
            opcode,
            ..Default::default()
        };
        request.__bindgen_anon_1.wr_id = ManuallyDrop::new(wr_id);
        if signalled {
            request.send_flags = ffi::ib_send_flags_IB_SEND_SIGNALED;
            self.signalled = self.signalled.saturating_add(1);
        }
        Ok(request)
    }

    fn append(&mut self, request: Request) -> Result {
        // INVARIANT: The callers fill the variant of the opcode.
        self.requests
            .push_within_capacity(request)
            .map_err(|_| ENOSPC)
    }

    /// Has the last request, which does not do so yet, ask for a completion.
    pub(crate) fn signal_last(&mut self) {
        if let Some(last) = self.requests.last_mut() {
            let last: *mut ffi::ib_send_wr = (&raw mut *last).cast();
            // SAFETY: Every variant begins with an initialized `ib_send_wr`.
            unsafe { (*last).send_flags |= ffi::ib_send_flags_IB_SEND_SIGNALED };
            self.signalled = self.signalled.saturating_add(1);
        }
    }

    /// Links the requests, and returns the first; null when there is none. It is good until the
    /// chain changes.
    pub(super) fn link(&mut self) -> *mut ffi::ib_send_wr {
        let mut next: *mut ffi::ib_send_wr = ptr::null_mut();
        for request in self.requests.iter_mut().rev() {
            let this: *mut ffi::ib_send_wr = (&raw mut *request).cast();
            // SAFETY: Every variant begins with an initialized `ib_send_wr`.
            unsafe { (*this).next = next };
            next = this;
        }
        next
    }

    /// How many requests stand before `request`, which is null or one of the chain's.
    pub(super) fn position(&self, request: *const ffi::ib_send_wr) -> usize {
        let start = self.requests.as_ptr().addr();
        let offset = request.addr().saturating_sub(start);
        (offset / size_of::<Request>()).min(self.requests.len())
    }
}
