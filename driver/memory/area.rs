// SPDX-License-Identifier: GPL-2.0-only

//! The area of one process, and its mappings.

use super::buffer::{Buffer, Pinned};
use super::limits::Account;
use super::range::Memory;
use super::registration::{Registered, Unregistered, FIRST_HANDLE, MAX_REGISTRATIONS};
use super::{BUFFER_COUNT, PAGES};
use crate::verbs::Device;
use crate::workqueue;
use core::mem::MaybeUninit;
use kernel::bindings;
use kernel::mm::virt::VmaNew;
use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{global_lock, new_mutex, Arc, ArcBorrow, Mutex, UniqueArc};
use kernel::task::Kuid;
use kernel::time::{msecs_to_jiffies, Jiffies};
use kernel::types::ForeignOwnable;
use kernel::workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

/// Most seconds between two looks for buffers to give back.
const LOOK_EVERY: u32 = 15;

/// Seconds without use after which an unmapped buffer is given back. Set in [`init`].
static IDLE_SECONDS: Atomic<u32> = Atomic::new(0);

global_lock! {
    // SAFETY: Initialised in `init`, before any mapping can exist.
    unsafe(uninit) static AREAS: Mutex<KVec<Arc<Area>>> = KVec::new();
}

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(super) unsafe fn init(idle_seconds: u32) {
    IDLE_SECONDS.store(idle_seconds, Relaxed);
    // SAFETY: By the caller's promise this is the only call.
    unsafe { AREAS.init() };
}

/// Until the next look.
fn look_after() -> Jiffies {
    let seconds = (IDLE_SECONDS.load(Relaxed) / 4).clamp(1, LOOK_EVERY);
    msecs_to_jiffies(seconds.saturating_mul(1000))
}

struct Inner {
    buffers: [Option<Arc<Buffer>>; BUFFER_COUNT as usize],
    /// By their handles.
    registrations: RBTree<u32, Arc<Registered>>,
    /// How many.
    registered: usize,
    /// Where the search for the next handle begins: one that was given back is not given out again
    /// soon.
    next_handle: u32,
    /// Mappings of it.
    mappings: usize,
}

/// See the module's documentation.
#[pin_data]
pub(super) struct Area {
    /// Whose it is. The reference keeps the pointer from being another process's.
    mm: ARef<Mm>,
    account: Arc<Account>,
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
        // Armed and cancelled under the lock: whoever unmaps last leaves nothing that is armed, and
        // need not wait for this.
        let inner = this.inner.lock();
        if inner.mappings > 0 {
            workqueue::rearm::<_, 0>(this.clone(), look_after());
        }
    }
}

/// The mm of the calling task: of its process, or for a worker of io_uring that of whoever submitted
/// the call, and for the polling thread of a ring that of whoever made it.
fn current_mm() -> Option<ARef<Mm>> {
    let task = kernel::current!();
    task.mm().map(|mm| ARef::from(&**mm))
}

impl Area {
    /// The area of the calling process; a new one if it has none. The caller maps it: what is not
    /// mapped is never taken out of the table again. It holds the lock of the process's mappings,
    /// so that the last mapping of the area does not go meanwhile.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a kernel thread, `ENOMEM`.
    fn of_current(uid: Kuid) -> Result<Arc<Self>> {
        let mm = current_mm().ok_or(EINVAL)?;
        let mut areas = AREAS.lock();
        if let Some(own) = areas.iter().find(|area| area.is_of(&mm)) {
            return Ok(own.clone());
        }
        let account = Account::new(uid)?;
        let area = Arc::pin_init(
            pin_init!(Self {
                mm,
                account,
                inner <- new_mutex!(Inner {
                    buffers: [const { None }; BUFFER_COUNT as usize],
                    registrations: RBTree::new(),
                    registered: 0,
                    next_handle: FIRST_HANDLE,
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

    /// Buffers that have memory.
    pub(super) fn buffers(&self) -> usize {
        self.inner.lock().buffers.iter().flatten().count()
    }

    /// The memory of the buffer with this number, if it has any, or of the registration with this
    /// handle.
    #[inline]
    pub(super) fn memory(&self, number: u32) -> Option<Memory> {
        let inner = self.inner.lock();
        if number >= FIRST_HANDLE {
            let registered = inner.registrations.get(&number)?;
            return Some(Memory::Registered(registered.clone()));
        }
        let buffer = inner.buffers.get(number as usize)?.clone()?;
        Some(Memory::Buffer(Pinned::new(buffer)))
    }

    /// The buffer with this index; gets memory if it has none.
    fn touch(&self, index: usize) -> Result<Pinned> {
        let mut inner = self.inner.lock();
        let place = inner.buffers.get_mut(index).ok_or(EFAULT)?;
        let buffer = match place {
            Some(buffer) => buffer.clone(),
            None => place.insert(Buffer::allocate(&self.account)?).clone(),
        };
        Ok(Pinned::new(buffer))
    }

    /// Registers memory of the calling process, whose area it is; returns the handle.
    ///
    /// # Errors
    ///
    /// As [`Registered::pin`]; `ENOMEM` if there are too many; `EFAULT` if the process has unmapped
    /// the area meanwhile.
    pub(super) fn register(&self, address: u64, length: u64, exempt: bool) -> Result<u32> {
        if self.inner.lock().registered >= MAX_REGISTRATIONS {
            return Err(ENOMEM);
        }
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let registered = Registered::pin(self.mm.clone(), &self.account, address, length, exempt)?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if inner.mappings == 0 {
            return Err(EFAULT);
        }
        if inner.registered >= MAX_REGISTRATIONS {
            return Err(ENOMEM);
        }
        // There are far more handles than registrations.
        while inner.registrations.get(&inner.next_handle).is_some() {
            inner.next_handle = after(inner.next_handle);
        }
        let handle = inner.next_handle;
        inner.next_handle = after(handle);
        inner.registered = inner.registered.saturating_add(1);
        inner
            .registrations
            .insert(reservation.into_node(handle, registered));
        Ok(handle)
    }

    /// Gives a registration up. `wanted` is told when nothing uses it any more.
    ///
    /// # Errors
    ///
    /// `EFAULT` if there is no such handle; then nobody is told.
    pub(super) fn unregister(&self, handle: u32, wanted: KBox<dyn Unregistered>) -> Result {
        let node = {
            let mut inner = self.inner.lock();
            let node = inner.registrations.remove_node(&handle).ok_or(EFAULT)?;
            inner.registered = inner.registered.saturating_sub(1);
            node
        };
        let (_, registered) = node.to_key_value();
        registered.tell(wanted);
        registered.retire();
        Ok(())
    }

    fn give_back(&self) {
        let seconds = IDLE_SECONDS.load(Relaxed).into();
        for index in 0..BUFFER_COUNT as usize {
            let idle = {
                let mut inner = self.inner.lock();
                match inner.buffers.get_mut(index) {
                    Some(place) if place.as_ref().is_some_and(|buffer| buffer.is_idle(seconds)) => {
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
        let mut inner = self.inner.lock();
        inner.mappings = inner.mappings.saturating_add(1);
        if inner.mappings == 1 {
            workqueue::rearm::<_, 0>(self.clone(), look_after());
        }
    }

    /// A mapping went; with the last one all memory goes, but what transfers still move.
    ///
    /// The caller holds the lock of the process's mappings, or the process is gone: no mapping
    /// begins meanwhile.
    fn unmapped(self: &Arc<Self>) {
        {
            let mut inner = self.inner.lock();
            inner.mappings = inner.mappings.saturating_sub(1);
            if inner.mappings > 0 {
                return;
            }
            // Not waited for: other items of the queue wait for locks of devices, under which
            // others again fault, for which they need the lock that the caller holds.
            workqueue::cancel::<_, 0>(self);
        }
        {
            let mut areas = AREAS.lock();
            areas.retain(|area| !Arc::ptr_eq(area, self));
            if areas.is_empty() {
                // A static is never dropped: its memory goes here, or leaks with the module.
                *areas = KVec::new();
            }
        }
        // One by one, and dropped unlocked: it takes a while to deregister and to unpin.
        for index in 0..BUFFER_COUNT as usize {
            let buffer = self
                .inner
                .lock()
                .buffers
                .get_mut(index)
                .and_then(Option::take);
            if let Some(buffer) = buffer {
                buffer.block().retire();
            }
        }
        while let Some(registered) = self.take_registration() {
            registered.retire();
        }
    }

    fn take_registration(&self) -> Option<Arc<Registered>> {
        let mut inner = self.inner.lock();
        let handle = *inner.registrations.cursor_front()?.current().0;
        inner.registered = inner.registered.saturating_sub(1);
        inner.registrations.remove(&handle)
    }

    /// Gives up what it has on `device`.
    fn remove_device(&self, device: &Arc<Device>) {
        for index in 0..BUFFER_COUNT {
            if let Some(Memory::Buffer(buffer)) = self.memory(index) {
                buffer.block().remove_device(device);
            }
        }
        let mut from = FIRST_HANDLE;
        loop {
            let next = {
                let inner = self.inner.lock();
                let cursor = inner.registrations.cursor_lower_bound(&from);
                cursor.map(|cursor| (*cursor.current().0, cursor.current().1.clone()))
            };
            let Some((handle, registered)) = next else {
                return;
            };
            registered.remove_device(device);
            match handle.checked_add(1) {
                Some(next) => from = next,
                None => return,
            }
        }
    }
}

/// The handle behind this one.
fn after(handle: u32) -> u32 {
    handle.wrapping_add(1).max(FIRST_HANDLE)
}

/// The area of one process as one context has it mapped.
pub(super) struct View {
    area: Arc<Area>,
    /// Mappings made through the context.
    mappings: Atomic<usize>,
}

impl View {
    /// The view of the calling process among a context's, or a new one; the caller attaches it to
    /// a mapping at once.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a kernel thread, `ENOMEM`.
    pub(super) fn of_current(views: &mut KVec<Arc<Self>>, uid: Kuid) -> Result<Arc<Self>> {
        views.retain(|view| view.is_mapped());
        // Before there is an area: nothing may fail between its making and its mapping.
        views.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let place: UniqueArc<MaybeUninit<Self>> = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let area = Area::of_current(uid)?;
        if let Some(known) = views.iter().find(|view| Arc::ptr_eq(&view.area, &area)) {
            return Ok(known.clone());
        }
        let mappings = Atomic::new(0);
        let view: Arc<Self> = place.write(Self { area, mappings }).into();
        let _ = views.push_within_capacity(view.clone());
        Ok(view)
    }

    /// The area, if it is the calling process's and mapped through the context.
    pub(super) fn current(&self) -> Option<&Arc<Area>> {
        (self.is_mapped() && self.area.is_current()).then_some(&self.area)
    }

    fn is_mapped(&self) -> bool {
        self.mappings.load(Relaxed) > 0
    }

    /// Buffers of the area that have memory; none if it is not mapped.
    pub(super) fn buffers(&self) -> usize {
        if self.is_mapped() {
            self.area.buffers()
        } else {
            0
        }
    }

    /// Gives a mapping that is being made its area.
    pub(super) fn attach(self: Arc<Self>, vma: &VmaNew) {
        self.opened();
        // SAFETY: The mapping is being made, and nobody else changes it.
        unsafe {
            (*vma.as_ptr()).vm_private_data = self.into_foreign();
            (*vma.as_ptr()).vm_ops = &OPERATIONS.0;
        }
    }

    fn opened(&self) {
        self.mappings.fetch_add(1, Relaxed);
        self.area.mapped();
    }

    fn closed(&self) {
        self.mappings.fetch_sub(1, Relaxed);
        self.area.unmapped();
    }
}

/// Gives up what all areas have on `device`.
pub(crate) fn remove_device(device: &Arc<Device>) {
    let areas = AREAS.lock();
    for area in areas.iter() {
        area.remove_device(device);
    }
}

/// How many areas there are, and registrations in them.
pub(super) fn count() -> (usize, usize) {
    let areas = AREAS.lock();
    let registered = |sum: usize, area: &Arc<Area>| {
        let registered = area.inner.lock().registered;
        sum.saturating_add(registered)
    };
    (areas.len(), areas.iter().fold(0, registered))
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

/// # Safety
///
/// `vma` is a mapping that [`View::attach`] was called for, or a copy of one.
unsafe fn view_of<'a>(vma: *mut bindings::vm_area_struct) -> ArcBorrow<'a, View> {
    // SAFETY: `attach` stored an `Arc<View>`, and `close` has not taken it.
    unsafe { <Arc<View> as ForeignOwnable>::borrow((*vma).vm_private_data) }
}

/// The mapping was split or moved: both hold the view.
///
/// # Safety
///
/// Called by the memory management with a copy of a mapping of ours.
unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
    // SAFETY: By the safety requirements.
    let view = Arc::from(unsafe { view_of(vma) });
    view.opened();
    // SAFETY: The copy is not in use yet.
    unsafe { (*vma).vm_private_data = view.into_foreign() };
}

/// # Safety
///
/// Called by the memory management, last, with a mapping of ours.
unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
    // SAFETY: By the safety requirements; this is the only taker.
    let view = unsafe { <Arc<View> as ForeignOwnable>::from_foreign((*vma).vm_private_data) };
    view.closed();
}

/// # Safety
///
/// Called by the memory management with a fault in a mapping of ours.
unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the safety requirements.
    let (vma, page) = unsafe { ((*vmf).__bindgen_anon_1.vma, (*vmf).__bindgen_anon_1.pgoff) };
    // SAFETY: As above.
    let view = unsafe { view_of(vma) };
    let (index, within) = (page / PAGES, page % PAGES);
    // Pinned until the page has its reference: it must not be given back in between.
    let buffer = view.area.touch(index);
    let page = buffer
        .as_ref()
        .ok()
        .and_then(|buffer| buffer.block().pages().reference(within));
    // Not VM_FAULT_OOM: at a limit of ours nobody else has to be killed.
    let Some(page) = page else {
        return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
    };
    // SAFETY: The fault is ours to fill in; the reference goes with it.
    unsafe { (*vmf).page = page };
    0
}
