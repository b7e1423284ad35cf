// SPDX-License-Identifier: GPL-2.0-only

//! The area of one process, and its mapping.

use super::buffer::{Buffer, Pinned, PAGES};
use super::BUFFER_COUNT;
use crate::verbs::{get_page, Device};
use crate::workqueue;
use kernel::bindings;
use kernel::mm::virt::VmaNew;
use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{global_lock, new_mutex, Arc, ArcBorrow, Mutex};
use kernel::time::msecs_to_jiffies;
use kernel::types::ForeignOwnable;
use kernel::workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

/// Milliseconds between two looks for buffers to give back.
const LOOK_EVERY: u32 = 15_000;

global_lock! {
    // SAFETY: Initialised in `init`, before any mapping can exist.
    unsafe(uninit) static AREAS: Mutex<KVec<Arc<Area>>> = KVec::new();
}

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(super) unsafe fn init() {
    // SAFETY: By the caller's promise this is the only call.
    unsafe { AREAS.init() };
}

struct Inner {
    buffers: [Option<Arc<Buffer>>; BUFFER_COUNT as usize],
    /// Mappings of it.
    mappings: usize,
}

/// See the module's documentation.
#[pin_data]
pub(super) struct Area {
    /// Whose it is. The reference keeps the pointer from being another process's.
    mm: ARef<Mm>,
    uid: u32,
    #[pin]
    inner: Mutex<Inner>,
    #[pin]
    look: DelayedWork<Area>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Area { self.look }
}

impl WorkItem for Area {
    type Pointer = Arc<Area>;

    fn run(this: Arc<Area>) {
        this.give_back();
        if this.is_mapped() {
            workqueue::rearm::<_, 0>(this, msecs_to_jiffies(LOOK_EVERY));
        }
    }
}

/// The mm of the calling task.
fn current_mm() -> Option<ARef<Mm>> {
    let task = kernel::current!();
    task.mm().map(|mm| ARef::from(&**mm))
}

impl Area {
    /// The area of the calling process; a new one if it has none. The caller maps it: what is not
    /// mapped is never taken out of the table again.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a kernel thread, `ENOMEM`.
    pub(super) fn of_current(uid: u32) -> Result<Arc<Self>> {
        let mm = current_mm().ok_or(EINVAL)?;
        let mut areas = AREAS.lock();
        if let Some(own) = areas.iter().find(|area| area.is_of(&mm)) {
            return Ok(own.clone());
        }
        let area = Arc::pin_init(
            pin_init!(Self {
                mm,
                uid,
                inner <- new_mutex!(Inner {
                    buffers: [const { None }; BUFFER_COUNT as usize],
                    mappings: 0,
                }, "usmbd_area"),
                look <- new_delayed_work!("usmbd_area"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        areas.push(area.clone(), GFP_KERNEL)?;
        Ok(area)
    }

    fn is_of(&self, mm: &ARef<Mm>) -> bool {
        core::ptr::eq(&*self.mm, &**mm)
    }

    /// Whether it is the calling process's.
    pub(super) fn is_current(&self) -> bool {
        current_mm().is_some_and(|mm| self.is_of(&mm))
    }

    /// Whether a process has it mapped.
    pub(super) fn is_mapped(&self) -> bool {
        self.inner.lock().mappings > 0
    }

    /// Buffers that have memory.
    pub(super) fn buffers(&self) -> usize {
        self.inner.lock().buffers.iter().flatten().count()
    }

    /// The buffer with this index, if it has memory.
    pub(super) fn buffer(&self, index: u32) -> Option<Pinned> {
        let inner = self.inner.lock();
        inner.buffers.get(index as usize)?.clone().map(Pinned::new)
    }

    /// The buffer with this index; gets memory if it has none.
    fn touch(&self, index: usize) -> Result<Arc<Buffer>> {
        let mut inner = self.inner.lock();
        let place = inner.buffers.get_mut(index).ok_or(EFAULT)?;
        if let Some(buffer) = place {
            buffer.touch();
            return Ok(buffer.clone());
        }
        let buffer = Buffer::allocate(self.uid)?;
        *place = Some(buffer.clone());
        Ok(buffer)
    }

    fn give_back(&self) {
        for index in 0..BUFFER_COUNT as usize {
            let idle = {
                let mut inner = self.inner.lock();
                match inner.buffers.get_mut(index) {
                    Some(place) if place.as_ref().is_some_and(|buffer| buffer.is_idle()) => {
                        place.take()
                    }
                    _ => None,
                }
            };
            // Unlocked: it may have to be deregistered.
            drop(idle);
        }
    }

    fn mapped(self: &Arc<Self>) {
        let first = {
            let mut inner = self.inner.lock();
            inner.mappings = inner.mappings.saturating_add(1);
            inner.mappings == 1
        };
        if first {
            workqueue::rearm::<_, 0>(self.clone(), msecs_to_jiffies(LOOK_EVERY));
        }
    }

    /// A mapping went; with the last one all memory goes, but what transfers still move.
    fn unmapped(self: &Arc<Self>) {
        let last = {
            let mut inner = self.inner.lock();
            inner.mappings = inner.mappings.saturating_sub(1);
            inner.mappings == 0
        };
        if !last {
            return;
        }
        workqueue::cancel_sync::<_, 0>(self);
        {
            let mut areas = AREAS.lock();
            areas.retain(|area| !Arc::ptr_eq(area, self));
            if areas.is_empty() {
                // A static is never dropped: its memory goes here, or leaks with the module.
                *areas = KVec::new();
            }
        }
        for index in 0..BUFFER_COUNT as usize {
            let buffer = self
                .inner
                .lock()
                .buffers
                .get_mut(index)
                .and_then(Option::take);
            drop(buffer);
        }
    }
}

/// Gives up what all areas have on `device`.
pub(crate) fn remove_device(device: &Arc<Device>) {
    let areas = AREAS.lock();
    for area in areas.iter() {
        for index in 0..BUFFER_COUNT {
            if let Some(buffer) = area.buffer(index) {
                buffer.remove_device(device);
            }
        }
    }
}

/// Page of the file at which a mapping starts.
pub(super) fn first_page(vma: &VmaNew) -> usize {
    // SAFETY: The mapping is being made and valid.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// A table of functions, which never changes.
struct Operations(bindings::vm_operations_struct);

// SAFETY: Nothing writes to the table, and it points to nothing but functions.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::vm_operations_struct {
    open: Some(open),
    close: Some(close),
    fault: Some(fault),
    // SAFETY: All zeroes is a valid value: a table of no operations.
    ..unsafe { core::mem::zeroed() }
});

/// Gives a mapping that is being made its area.
pub(super) fn attach(vma: &VmaNew, area: Arc<Area>) {
    area.mapped();
    // SAFETY: The mapping is being made, and nobody else changes it.
    unsafe {
        (*vma.as_ptr()).vm_private_data = area.into_foreign();
        (*vma.as_ptr()).vm_ops = &OPERATIONS.0;
    }
}

/// # Safety
///
/// `vma` is a mapping that `attach` was called for, or a copy of one.
unsafe fn area_of<'a>(vma: *mut bindings::vm_area_struct) -> ArcBorrow<'a, Area> {
    // SAFETY: `attach` stored an `Arc<Area>`, and `close` has not taken it.
    unsafe { <Arc<Area> as ForeignOwnable>::borrow((*vma).vm_private_data) }
}

/// The mapping was split: both halves hold the area.
///
/// # Safety
///
/// Called by the memory management with a copy of a mapping of ours.
unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
    // SAFETY: By the safety requirements.
    let area = Arc::from(unsafe { area_of(vma) });
    area.mapped();
    // SAFETY: The copy is not in use yet.
    unsafe { (*vma).vm_private_data = area.into_foreign() };
}

/// # Safety
///
/// Called by the memory management, last, with a mapping of ours.
unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
    // SAFETY: By the safety requirements; this is the only taker.
    let area = unsafe { <Arc<Area> as ForeignOwnable>::from_foreign((*vma).vm_private_data) };
    area.unmapped();
}

/// # Safety
///
/// Called by the memory management with a fault in a mapping of ours.
unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the safety requirements.
    let (vma, page) = unsafe { ((*vmf).__bindgen_anon_1.vma, (*vmf).__bindgen_anon_1.pgoff) };
    // SAFETY: As above.
    let area = unsafe { area_of(vma) };
    let (index, within) = (page / PAGES, page % PAGES);
    // Not VM_FAULT_OOM: at a limit of ours nobody else has to be killed.
    let Ok(buffer) = area.touch(index) else {
        return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
    };
    let Some(page) = buffer.pages().pages().get(within) else {
        return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
    };
    get_page(page);
    // SAFETY: The fault is ours to fill in; the reference goes with it.
    unsafe { (*vmf).page = page.as_ptr() };
    0
}
