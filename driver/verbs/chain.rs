// SPDX-License-Identifier: GPL-2.0-only

//! Chains of work requests for the send queue, built without allocating and posted with one doorbell.

use super::{ffi, Access, MemoryRegion};
use core::{
    mem::{align_of, offset_of, size_of, ManuallyDrop},
    ptr,
};
use kernel::prelude::*;

/// Local memory of a work request: an `ib_sge`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Sge {
    /// DMA address, or base address of a memory region plus offset.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// The key that goes with the address.
    pub(crate) lkey: u32,
}
const _: () = {
    assert!(size_of::<Sge>() == size_of::<ffi::ib_sge>());
    assert!(align_of::<Sge>() == align_of::<ffi::ib_sge>());
    assert!(offset_of!(Sge, address) == offset_of!(ffi::ib_sge, addr));
    assert!(offset_of!(Sge, length) == offset_of!(ffi::ib_sge, length));
    assert!(offset_of!(Sge, lkey) == offset_of!(ffi::ib_sge, lkey));
};

impl Sge {
    pub(super) fn to_raw(self) -> ffi::ib_sge {
        ffi::ib_sge {
            addr: self.address,
            length: self.length,
            lkey: self.lkey,
        }
    }
}

/// Any work request: all begin with `ib_send_wr`. Integers and pointers, so that it is valid as
/// every variant once all of its bytes are written.
#[repr(C)]
union Request {
    send: ManuallyDrop<ffi::ib_send_wr>,
    rdma: ManuallyDrop<ffi::ib_rdma_wr>,
    register: ManuallyDrop<ffi::ib_reg_wr>,
}

/// Work requests to be posted together, in order. They are filled in where they stand: all that
/// does not depend on what is posted is written once, when the chain is made.
///
/// # Invariants
///
/// - The vectors' buffers were allocated for good and do not move.
/// - All bytes of all `requests` are written. `next` of each is the one behind it, and null for the
///   last; `sg_list` is its own part of `sges`, of `sges_per_request` entries.
/// - The first `count` of them are in use, in the variant that their opcode says, with at most
///   `sges_per_request` entries.
pub(crate) struct Chain {
    requests: KVec<Request>,
    sges: KVec<Sge>,
    sges_per_request: usize,
    count: usize,
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
            sges.push(Sge::default(), GFP_KERNEL)?;
        }
        let mut requests: KVec<Request> = KVec::with_capacity(capacity, GFP_KERNEL | __GFP_ZERO)?;
        // SAFETY: There is room for `capacity`, and the allocator has zeroed it, which is valid for
        // integers and pointers.
        unsafe { requests.inc_len(capacity) };
        let mut own = sges.as_mut_ptr();
        let mut next: *mut Request = requests.as_mut_ptr();
        for request in &mut requests {
            next = next.wrapping_add(1);
            // SAFETY: All of it is written.
            let send = unsafe { &mut request.send };
            send.next = next.cast();
            send.sg_list = own.cast();
            own = own.wrapping_add(sges_per_request);
        }
        // INVARIANT: Both buffers have their final size, and the requests were linked just now.
        let mut chain = Self {
            requests,
            sges,
            sges_per_request,
            count: 0,
            signalled: 0,
        };
        chain.set_next(capacity, ptr::null_mut());
        Ok(chain)
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        let requests = self.requests.len().saturating_mul(size_of::<Request>());
        requests.saturating_add(self.sges.len().saturating_mul(size_of::<Sge>()))
    }

    /// Forgets all requests.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.signalled = 0;
    }

    /// Requests in it, and how many of them ask for a completion.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let requests = u32::try_from(self.count).unwrap_or(u32::MAX);
        (requests, self.signalled)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= self.requests.len()
    }

    /// Requests that fit still.
    pub(crate) fn room(&self) -> usize {
        self.requests.len().saturating_sub(self.count)
    }

    /// The first `most` scatter/gather entries of the request that is appended next, to be filled.
    /// None if it has not so many, or the chain is full.
    pub(crate) fn entries(&mut self, most: usize) -> Option<&mut [Sge]> {
        if most > self.sges_per_request {
            return None;
        }
        let first = self.count.wrapping_mul(self.sges_per_request);
        self.sges.get_mut(first..first.wrapping_add(most))
    }

    /// Appends a SEND of the first `count` of the [`Self::entries`], which invalidates the peer's key
    /// `invalidate` on its way.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when the chain is full, `E2BIG` with too many SGEs; likewise below.
    pub(crate) fn push_send(
        &mut self,
        wr_id: u64,
        count: usize,
        signalled: bool,
        invalidate: Option<u32>,
    ) -> Result {
        let opcode = match invalidate {
            Some(_) => ffi::ib_wr_opcode_IB_WR_SEND_WITH_INV,
            None => ffi::ib_wr_opcode_IB_WR_SEND,
        };
        let request = self.append(wr_id, opcode, count, signalled)?;
        // SAFETY: All of it is written, by the type invariants.
        let send = unsafe { &mut request.send };
        send.ex.invalidate_rkey = ManuallyDrop::new(invalidate.unwrap_or(0));
        Ok(())
    }

    /// Appends an RDMA write (`write`) from the first `count` of the [`Self::entries`], or an RDMA
    /// read to them.
    pub(crate) fn push_rdma(
        &mut self,
        write: bool,
        wr_id: u64,
        count: usize,
        remote_addr: u64,
        rkey: u32,
        signalled: bool,
    ) -> Result {
        let opcode = match write {
            true => ffi::ib_wr_opcode_IB_WR_RDMA_WRITE,
            false => ffi::ib_wr_opcode_IB_WR_RDMA_READ,
        };
        let request = self.append(wr_id, opcode, count, signalled)?;
        // SAFETY: All of it is written, by the type invariants.
        let rdma = unsafe { &mut request.rdma };
        rdma.remote_addr = remote_addr;
        rdma.rkey = rkey;
        Ok(())
    }

    /// Appends the registration of `region` under its present key. Requests behind it in the chain
    /// may use the key; other queue pairs only after it completed.
    pub(crate) fn push_register(
        &mut self,
        region: &MemoryRegion,
        wr_id: u64,
        signalled: bool,
    ) -> Result {
        let local = ffi::ib_access_flags_IB_ACCESS_LOCAL_WRITE;
        let access = i32::try_from(match region.access() {
            Access::Local => local,
            Access::RemoteWrite => local | ffi::ib_access_flags_IB_ACCESS_REMOTE_WRITE,
        })?;
        let request = self.append(wr_id, ffi::ib_wr_opcode_IB_WR_REG_MR, 0, signalled)?;
        // SAFETY: All of it is written, by the type invariants.
        let register = unsafe { &mut request.register };
        register.mr = region.as_ptr();
        register.key = region.key();
        register.access = access;
        Ok(())
    }

    /// Appends the invalidation of our own `key`, after the requests before it have completed.
    pub(crate) fn push_invalidate(&mut self, key: u32, wr_id: u64, signalled: bool) -> Result {
        let request = self.append(wr_id, ffi::ib_wr_opcode_IB_WR_LOCAL_INV, 0, signalled)?;
        // SAFETY: All of it is written, by the type invariants.
        let send = unsafe { &mut request.send };
        send.send_flags |= ffi::ib_send_flags_IB_SEND_FENCE;
        send.ex.invalidate_rkey = ManuallyDrop::new(key);
        Ok(())
    }

    /// Takes the next request into use, and fills in what all have. Its SGEs are in place.
    fn append(
        &mut self,
        wr_id: u64,
        opcode: ffi::ib_wr_opcode,
        sges: usize,
        signalled: bool,
    ) -> Result<&mut Request> {
        if sges > self.sges_per_request {
            return Err(E2BIG);
        }
        let request = self.requests.get_mut(self.count).ok_or(ENOSPC)?;
        // SAFETY: All of it is written, by the type invariants.
        let send = unsafe { &mut request.send };
        send.__bindgen_anon_1.wr_id = ManuallyDrop::new(wr_id);
        // At most `sges_per_request`, which the caller had from an `i32` of the device.
        send.num_sge = sges as i32;
        send.opcode = opcode;
        send.send_flags = 0;
        if signalled {
            send.send_flags = ffi::ib_send_flags_IB_SEND_SIGNALED;
            self.signalled = self.signalled.saturating_add(1);
        }
        // INVARIANT: The callers fill the variant of the opcode. It cannot wrap: there is such a
        // request.
        self.count = self.count.wrapping_add(1);
        Ok(request)
    }

    /// Has the last request, which does not do so yet, ask for a completion.
    pub(crate) fn signal_last(&mut self) {
        let last = self.count.wrapping_sub(1);
        if let Some(last) = self.requests.get_mut(last) {
            // SAFETY: All of it is written, by the type invariants.
            let last = unsafe { &mut last.send };
            last.send_flags |= ffi::ib_send_flags_IB_SEND_SIGNALED;
            self.signalled = self.signalled.saturating_add(1);
        }
    }

    /// Hands the linked requests to `post`; nothing if there is none.
    pub(super) fn linked<R>(
        &mut self,
        post: impl FnOnce(*const ffi::ib_send_wr) -> R,
    ) -> Option<R> {
        if self.is_empty() {
            return None;
        }
        let behind = self.set_next(self.count, ptr::null_mut());
        let result = post(self.requests.as_ptr().cast());
        // INVARIANT: As it was before.
        self.set_next(self.count, behind);
        Some(result)
    }

    /// Changes what comes behind the `number`th request; returns what did.
    fn set_next(&mut self, number: usize, next: *mut ffi::ib_send_wr) -> *mut ffi::ib_send_wr {
        let Some(request) = self.requests.get_mut(number.wrapping_sub(1)) else {
            return next;
        };
        // SAFETY: All of it is written, by the type invariants.
        let send = unsafe { &mut request.send };
        core::mem::replace(&mut send.next, next)
    }

    /// How many requests stand before `request`, which is null or one of the chain's.
    pub(super) fn position(&self, request: *const ffi::ib_send_wr) -> usize {
        let start = self.requests.as_ptr().addr();
        let offset = request.addr().saturating_sub(start);
        (offset / size_of::<Request>()).min(self.count)
    }
}
