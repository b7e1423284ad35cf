// SPDX-License-Identifier: GPL-2.0-only

//! The module's own workqueue: everything that the driver does outside a system call runs here.
//!
//! Items are the kernel crate's `Work` and `DelayedWork`. A pending item keeps an `Arc` of its
//! object; the queue is emptied before the module goes, so no code is missed.

use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering},
};
use kernel::{
    bindings, container_of,
    prelude::*,
    str::CStrExt,
    sync::Arc,
    time::Jiffies,
    workqueue::{HasDelayedWork, Queue, RawDelayedWorkItem, RawWorkItem, Work},
};

/// The one queue; null before the module's init and after its exit.
static QUEUE: AtomicPtr<bindings::workqueue_struct> = AtomicPtr::new(ptr::null_mut());

/// Owns the module's workqueue. Made first and dropped last: dropping it waits for all items that
/// are enqueued, and those that they enqueue; items that wait for a time must have been cancelled.
///
/// # Invariants
///
/// The queue is valid, and [`QUEUE`] points to it.
pub(crate) struct Workqueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A workqueue may be destroyed by any thread.
unsafe impl Send for Workqueue {}
// SAFETY: There is nothing to do with a `&Workqueue`.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// Makes the queue, unbound: its items may run on any CPU, and side by side.
    pub(crate) fn create() -> Result<Self> {
        let flags = bindings::wq_flags_WQ_UNBOUND | bindings::wq_flags_WQ_MEM_RECLAIM;
        // SAFETY: The format takes one string.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(c"%s".as_char_ptr(), flags, 0, c"usmbd".as_char_ptr())
        };
        let queue = NonNull::new(queue).ok_or(ENOMEM)?;
        QUEUE.store(queue.as_ptr(), Ordering::Release);
        // INVARIANT: Made and stored just now.
        Ok(Self(queue))
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        // SAFETY: Valid by the type invariants. It is drained first: items that enqueue others find
        // it still in `QUEUE`.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
        QUEUE.store(ptr::null_mut(), Ordering::Release);
    }
}

fn raw() -> *mut bindings::workqueue_struct {
    let queue = QUEUE.load(Ordering::Acquire);
    if queue.is_null() {
        // Before init and after exit there is nothing to enqueue; should there be, the system's
        // queue is better than none.
        // SAFETY: The system's queues are set at boot.
        return unsafe { bindings::system_unbound_wq };
    }
    queue
}

/// Enqueues an item on the module's queue; see [`Queue::enqueue`]. In any context.
pub(crate) fn enqueue<W, const ID: u64>(item: W) -> W::EnqueueOutput
where
    W: RawWorkItem<ID> + Send + 'static,
{
    // SAFETY: The queue is valid as long as the module runs.
    unsafe { Queue::from_raw(raw()) }.enqueue(item)
}

/// (Re)arms the `DelayedWork` `ID` of `item`: it runs once, `delay` from now, whether or not it was
/// waiting already. In any context.
pub(crate) fn rearm<T, const ID: u64>(item: Arc<T>, delay: Jiffies)
where
    Arc<T>: RawDelayedWorkItem<ID> + RawWorkItem<ID, EnqueueOutput = Result<(), Arc<T>>>,
    T: Send + Sync,
{
    let enqueue = |work: *mut bindings::work_struct| {
        // SAFETY: A `RawDelayedWorkItem`'s work stands in a `delayed_work`.
        let delayed = unsafe { container_of!(work, bindings::delayed_work, work) };
        // SAFETY: The item is initialized, and stays until its function was called, since
        // `__enqueue` leaks a reference if we return true.
        let waited = unsafe { bindings::mod_delayed_work_on(ANY_CPU, raw(), delayed, delay) };
        // If it waited already, it has a reference already, and this one is given back.
        !waited
    };
    // SAFETY: False is returned only if the item waits already.
    let _ = unsafe { item.__enqueue(enqueue) };
}

/// The `delayed_work` of the `DelayedWork` `ID` of `item`.
fn delayed_of<T, const ID: u64>(item: &Arc<T>) -> *mut bindings::delayed_work
where
    T: HasDelayedWork<T, ID>,
{
    // SAFETY: The object is valid; a field's address is computed, nothing more.
    let work = unsafe { Work::raw_get(T::raw_get_work(Arc::as_ptr(item).cast_mut())) };
    // SAFETY: A `HasDelayedWork`'s work stands in a `delayed_work`.
    unsafe { container_of!(work, bindings::delayed_work, work) }
}

/// Cancels the `DelayedWork` `ID` of `item`. It may be running, and may be armed again. In any
/// context.
pub(crate) fn cancel<T, const ID: u64>(item: &Arc<T>)
where
    T: HasDelayedWork<T, ID>,
{
    // SAFETY: The item is initialized.
    if unsafe { bindings::cancel_delayed_work(delayed_of(item)) } {
        // SAFETY: It waited, with one reference, which its function will not take back now.
        drop(unsafe { Arc::from_raw(Arc::as_ptr(item)) });
    }
}

/// Cancels the `DelayedWork` `ID` of `item` and waits until it does not run; not in a work item of
/// this queue, whose only worker may be the one that would have to run it. An item that arms itself
/// is cancelled for good, unless somebody else arms it meanwhile.
///
/// Not `cancel_delayed_work_sync()`: that disables the item for a moment, and [`rearm`] cannot tell
/// that a disabled item did not take its reference.
pub(crate) fn cancel_sync<T, const ID: u64>(item: &Arc<T>)
where
    T: HasDelayedWork<T, ID>,
{
    let delayed = delayed_of(item);
    loop {
        cancel::<T, ID>(item);
        // SAFETY: The item is initialized. It tells whether there was something to wait for: that
        // may have armed the item again.
        if !unsafe { bindings::flush_work(&raw mut (*delayed).work) } {
            return;
        }
    }
}

/// `WORK_CPU_UNBOUND`.
#[allow(clippy::as_conversions)]
const ANY_CPU: i32 = bindings::wq_misc_consts_WORK_CPU_UNBOUND as i32;
