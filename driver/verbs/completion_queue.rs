// SPDX-License-Identifier: GPL-2.0-only

//! Completion queues.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{ffi, Device, DeviceUse};
use core::{mem::MaybeUninit, ptr::NonNull};
use kernel::{
    error::from_err_ptr,
    ffi::c_void,
    prelude::*,
    str::CStrExt,
    sync::{Arc, ArcBorrow, UniqueArc},
    types::ForeignOwnable,
};

/// Who is told that a completion queue has something.
pub(crate) trait CompletionOwner: Send + Sync + 'static {
    /// Completions came after [`CompletionQueue::arm`]. May run in any context, interrupts
    /// included: enqueue work that polls, and nothing else.
    fn completions(this: ArcBorrow<'_, Self>);
}

/// How a work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkStatus {
    /// It was done.
    Success,
    /// It was not started, or not finished, before the queue pair went to the error state.
    Flushed,
    /// The peer's memory may not be accessed like this: wrong key, address, length or right.
    RemoteAccess,
    /// The message does not fit the receive.
    LocalLength,
    /// A request was not valid where it arrived. On a receive: the peer's message does not fit
    /// (rxe's word for it, do_class_ac_error() in drivers/infiniband/sw/rxe/rxe_resp.c).
    InvalidRequest,
    /// The queue pair could not do it. On a receive: the peer's message of several packets does
    /// not fit (rxe's word for it, where copy_data() finds no more room).
    LocalOperation,
    /// Our own memory may not be accessed like this.
    LocalProtection,
    /// The peer posted no receive in time.
    RnrRetry,
    /// The peer does not answer.
    Retry,
    /// Something else: an `enum ib_wc_status`.
    Other(u32),
}

impl WorkStatus {
    fn from_raw(raw: ffi::ib_wc_status) -> Self {
        match raw {
            ffi::ib_wc_status_IB_WC_SUCCESS => Self::Success,
            ffi::ib_wc_status_IB_WC_WR_FLUSH_ERR => Self::Flushed,
            ffi::ib_wc_status_IB_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            ffi::ib_wc_status_IB_WC_LOC_LEN_ERR => Self::LocalLength,
            ffi::ib_wc_status_IB_WC_REM_INV_REQ_ERR => Self::InvalidRequest,
            ffi::ib_wc_status_IB_WC_LOC_QP_OP_ERR => Self::LocalOperation,
            ffi::ib_wc_status_IB_WC_LOC_PROT_ERR => Self::LocalProtection,
            ffi::ib_wc_status_IB_WC_RNR_RETRY_EXC_ERR => Self::RnrRetry,
            ffi::ib_wc_status_IB_WC_RETRY_EXC_ERR => Self::Retry,
            other => Self::Other(other),
        }
    }

    /// The `enum ib_wc_status`.
    pub(crate) fn raw(self) -> u32 {
        match self {
            Self::Success => ffi::ib_wc_status_IB_WC_SUCCESS,
            Self::Flushed => ffi::ib_wc_status_IB_WC_WR_FLUSH_ERR,
            Self::RemoteAccess => ffi::ib_wc_status_IB_WC_REM_ACCESS_ERR,
            Self::LocalLength => ffi::ib_wc_status_IB_WC_LOC_LEN_ERR,
            Self::InvalidRequest => ffi::ib_wc_status_IB_WC_REM_INV_REQ_ERR,
            Self::LocalOperation => ffi::ib_wc_status_IB_WC_LOC_QP_OP_ERR,
            Self::LocalProtection => ffi::ib_wc_status_IB_WC_LOC_PROT_ERR,
            Self::RnrRetry => ffi::ib_wc_status_IB_WC_RNR_RETRY_EXC_ERR,
            Self::Retry => ffi::ib_wc_status_IB_WC_RETRY_EXC_ERR,
            Self::Other(raw) => raw,
        }
    }

    /// In the RDMA core's own words.
    pub(crate) fn name(self) -> &'static CStr {
        // SAFETY: The function takes any number, and returns a static string.
        unsafe { CStr::from_char_ptr(ffi::ib_wc_status_msg(self.raw())) }
    }
}

/// A work request that ended.
#[derive(Clone, Copy)]
pub(crate) struct WorkCompletion {
    /// Whatever the work request said.
    pub(crate) wr_id: u64,
    /// How it ended. Unless [`WorkStatus::Success`], the fields below are zero.
    pub(crate) status: WorkStatus,
    /// Bytes received.
    pub(crate) byte_len: u32,
    /// The key of ours that the peer's message invalidated.
    pub(crate) invalidated: Option<u32>,
}

impl WorkCompletion {
    fn from_raw(raw: &ffi::ib_wc) -> Self {
        let status = WorkStatus::from_raw(raw.status);
        let success = status == WorkStatus::Success;
        let flags = u32::try_from(raw.wc_flags).unwrap_or(0);
        let invalidated = success && flags & ffi::ib_wc_flags_IB_WC_WITH_INVALIDATE != 0;
        Self {
            // SAFETY: A completion was written here.
            wr_id: unsafe { ffi::usmbd_wc_wr_id(raw) },
            status,
            byte_len: if success { raw.byte_len } else { 0 },
            invalidated: match invalidated {
                // SAFETY: As above, and the flag says that the key was written.
                true => Some(unsafe { ffi::usmbd_wc_invalidated(raw) }),
                false => None,
            },
        }
    }
}

/// The queue itself, shared by [`CompletionQueue`] and the queue pairs that report to it.
///
/// # Invariants
///
/// - `cq` is valid and ours to destroy.
/// - `owner` is an `Arc<T>`'s foreign form and one reference; `drop_owner` is for the same `T`. It
///   is the queue's context.
pub(super) struct RawQueue {
    cq: NonNull<ffi::ib_cq>,
    owner: *mut c_void,
    drop_owner: unsafe fn(*mut c_void),
    _device: DeviceUse,
}

// SAFETY: Functions on completion queues may be called from any thread; the owner is `Send + Sync`.
unsafe impl Send for RawQueue {}
// SAFETY: As above.
unsafe impl Sync for RawQueue {}

impl RawQueue {
    pub(super) fn as_ptr(&self) -> *mut ffi::ib_cq {
        self.cq.as_ptr()
    }
}

impl Drop for RawQueue {
    fn drop(&mut self) {
        // SAFETY: Ours to destroy, by the type invariants; queue pairs on it would hold a reference
        // to `self`.
        let error = unsafe { ffi::ib_destroy_cq_user(self.as_ptr(), core::ptr::null_mut()) };
        if error != 0 {
            // It may still call us: better to keep the owner for ever.
            pr_warn!("completion queue cannot be destroyed: {error}\n");
            return;
        }
        // SAFETY: The reference is ours, by the type invariants, and the handler is not called any
        // more.
        unsafe { (self.drop_owner)(self.owner) };
    }
}

/// A completion queue, with one reference to its owner.
pub(crate) struct CompletionQueue {
    raw: Arc<RawQueue>,
}

/// Completions fetched from the device at a time, on the stack.
const AT_ONCE: usize = 8;

/// What a poll found.
pub(crate) struct Polled {
    /// Completions.
    pub(crate) count: usize,
    /// Whether no more were there.
    pub(crate) all: bool,
}

impl CompletionQueue {
    /// Makes a queue of `entries`, not armed.
    pub(crate) fn create<T: CompletionOwner>(
        device: &Arc<Device>,
        entries: u32,
        owner: Arc<T>,
    ) -> Result<Self> {
        let device = device.hold()?;
        let slot = UniqueArc::new_uninit(GFP_KERNEL)?;
        let attributes = ffi::ib_cq_init_attr {
            cqe: entries,
            ..Default::default()
        };
        let owner = owner.into_foreign();
        // SAFETY: The device is valid; the context is what `completions::<T>` expects, and its
        // reference lives as long as the queue.
        let cq = from_err_ptr(unsafe {
            ffi::__ib_create_cq(
                device.ib(),
                Some(completions::<T>),
                None,
                owner,
                &attributes,
                c"usmbd".as_char_ptr(),
            )
        });
        match cq.and_then(|cq| NonNull::new(cq).ok_or(ENOMEM)) {
            // INVARIANT: The queue is new, and `owner` its context.
            Ok(cq) => Ok(Self {
                raw: slot
                    .write(RawQueue {
                        cq,
                        owner,
                        drop_owner: drop_owner::<T>,
                        _device: device,
                    })
                    .into(),
            }),
            Err(error) => {
                // SAFETY: No queue was made, so the reference is still ours alone.
                unsafe { drop_owner::<T>(owner) };
                Err(error)
            }
        }
    }

    pub(super) fn raw(&self) -> &Arc<RawQueue> {
        &self.raw
    }

    /// Takes completions out, a few at most, and hands them to `each`. Callers take turns: two at a
    /// time would mix up the order.
    pub(crate) fn poll(&self, mut each: impl FnMut(&WorkCompletion)) -> Polled {
        let mut raw = [const { MaybeUninit::<ffi::ib_wc>::uninit() }; AT_ONCE];
        // SAFETY: The queue is valid, and `raw` has room for so many.
        let got = unsafe {
            ffi::usmbd_poll_cq(self.raw.as_ptr(), AT_ONCE as i32, raw.as_mut_ptr().cast())
        };
        let count = usize::try_from(got).unwrap_or(0);
        for completion in raw.iter().take(count) {
            // SAFETY: The device wrote the first `count`.
            each(&WorkCompletion::from_raw(unsafe {
                completion.assume_init_ref()
            }));
        }
        Polled {
            count,
            all: count < AT_ONCE,
        }
    }

    /// Asks to be told of the next completion, once. True: there may be some already that nobody
    /// will be told of, so poll again.
    pub(crate) fn arm(&self) -> bool {
        // SAFETY: The queue is valid.
        unsafe { ffi::usmbd_req_notify_cq(self.raw.as_ptr()) > 0 }
    }
}

/// # Safety
///
/// `owner` came from `Arc::<T>::into_foreign` and is not used afterwards.
unsafe fn drop_owner<T: CompletionOwner>(owner: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(owner) });
}

/// # Safety
///
/// Called by the device's driver with the context of a completion queue made for `T`.
unsafe extern "C" fn completions<T: CompletionOwner>(_cq: *mut ffi::ib_cq, owner: *mut c_void) {
    // SAFETY: The reference lives until the queue was destroyed, after which no call comes.
    T::completions(unsafe { <Arc<T> as ForeignOwnable>::borrow(owner) });
}
