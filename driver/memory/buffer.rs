// SPDX-License-Identifier: GPL-2.0-only

//! One buffer of an area: its pages, and its registrations on devices.

use super::limits::Charge;
use crate::verbs::{Access, Chain, Device, Mapping, MemoryRegion, PageList, Sge};
use crate::workqueue;
use kernel::bindings;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::{new_mutex, new_spinlock, Arc, Mutex, SpinLock};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};
use usmbd_abi::memory::BUFFER_SIZE;

/// Bytes of a buffer.
const SIZE: usize = BUFFER_SIZE as usize;
/// Pages of a buffer.
pub(super) const PAGES: usize = SIZE / PAGE_SIZE;
/// Seconds without use after which an unmapped buffer is given back.
const IDLE_SECONDS: i64 = 60;

/// Memory of one buffer.
#[pin_data]
pub(crate) struct Buffer {
    pages: Arc<PageList>,
    /// The buffer on each device where it was named.
    #[pin]
    devices: Mutex<KVec<Arc<DeviceBuffer>>>,
    /// [`Pinned`]s. They begin under the area's lock only.
    pins: Atomic<i64>,
    /// When it was last used, as [`seconds`] counts.
    last_used: Atomic<i64>,
    _charge: Charge,
}

/// Seconds since boot.
fn seconds() -> i64 {
    // SAFETY: Reading the monotonic clock has no preconditions.
    unsafe { bindings::ktime_get_seconds() }
}

impl Buffer {
    /// Zeroed memory, charged to the calling task's cgroup and counted for `uid`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn allocate(uid: u32) -> Result<Arc<Self>> {
        let charge = Charge::new(uid, PAGES)?;
        let pages = Arc::new(PageList::allocate(PAGES)?, GFP_KERNEL_ACCOUNT)?;
        Arc::pin_init(
            pin_init!(Self {
                pages,
                devices <- new_mutex!(KVec::new(), "usmbd_buffer"),
                pins: Atomic::new(0),
                last_used: Atomic::new(seconds()),
                _charge: charge,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(super) fn pages(&self) -> &PageList {
        &self.pages
    }

    /// Somebody uses it now.
    pub(super) fn touch(&self) {
        self.last_used.store(seconds(), Relaxed);
    }

    /// Whether its memory may be given back; see the module's documentation. Under the area's lock,
    /// so that no pin begins.
    pub(super) fn is_idle(&self) -> bool {
        if self.pins.load(Acquire) != 0 || !self.pages.is_unshared() {
            self.touch();
            return false;
        }
        seconds().saturating_sub(self.last_used.load(Relaxed)) >= IDLE_SECONDS
    }

    /// The buffer on `device`, mapped for it.
    ///
    /// # Errors
    ///
    /// `EIO` if the device cannot reach it coherently, `ENODEV`, `ENOMEM`.
    pub(super) fn on(&self, device: &Arc<Device>) -> Result<Arc<DeviceBuffer>> {
        self.touch();
        let mut devices = self.devices.lock();
        let known = devices
            .iter()
            .find(|known| Arc::ptr_eq(&known.device, device));
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let made = DeviceBuffer::new(device, &self.pages, 0..SIZE, Access::Local)?;
        devices.push(made.clone(), GFP_KERNEL_ACCOUNT)?;
        Ok(made)
    }

    /// The sink of one RDMA read, where its key goes over the wire: `length` bytes from `offset`
    /// on, under keys of their own that the peer may write by.
    ///
    /// # Errors
    ///
    /// As [`Self::on`].
    pub(super) fn sink(
        &self,
        device: &Arc<Device>,
        offset: u32,
        length: u32,
    ) -> Result<Arc<DeviceBuffer>> {
        self.touch();
        // Not a byte more: what stands beside it on the page is not the peer's to write.
        let end = (offset as usize).saturating_add(length as usize);
        DeviceBuffer::new(
            device,
            &self.pages,
            offset as usize..end,
            Access::RemoteWrite,
        )
    }

    /// The device goes away: gives up what it has of the buffer.
    pub(super) fn remove_device(&self, device: &Arc<Device>) {
        let mut devices = self.devices.lock();
        devices.retain(|known| !Arc::ptr_eq(&known.device, device));
    }
}

/// Keeps a buffer in its area: a transfer moves it, and the process must find the data there.
///
/// # Invariants
///
/// Counted in the buffer's `pins`.
pub(crate) struct Pinned(Arc<Buffer>);

impl Pinned {
    /// The caller holds the lock of the area that the buffer is in.
    pub(super) fn new(buffer: Arc<Buffer>) -> Self {
        buffer.pins.fetch_add(1, Relaxed);
        // INVARIANT: Counted just now.
        Self(buffer)
    }
}

impl core::ops::Deref for Pinned {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        &self.0
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.touch();
        self.0.pins.fetch_sub(1, Release);
    }
}

/// How far the registration on a device is.
#[derive(Clone, Copy, PartialEq)]
enum Registration {
    None,
    /// A connection, by its number, has posted it.
    Posted(u64),
    Done,
    /// It failed. Whether the device took it cannot be told (a flushed work request may have been
    /// carried out), and a region must not be registered twice: there have to be new ones.
    Failed,
    /// They are being made.
    Renewing,
}

/// A buffer, or some of its bytes, on a device: one key, or several where the device takes fewer
/// pages in one.
#[pin_data]
pub(crate) struct DeviceBuffer {
    device: Arc<Device>,
    /// Where in the buffer it starts.
    start: usize,
    /// Where its first page starts.
    base: usize,
    /// What the regions are about.
    mappings: KVec<Arc<Mapping>>,
    access: Access,
    /// Bytes of a region; those of the first count from `base`, and the last may have fewer.
    region_length: usize,
    #[pin]
    state: SpinLock<State>,
    #[pin]
    renew: Work<DeviceBuffer>,
}

struct State {
    registration: Registration,
    regions: KVec<MemoryRegion>,
}

/// What a connection has to do before it uses a buffer.
pub(crate) enum Claim {
    /// Nothing: it is registered, or this connection's own queue pair has it posted in front.
    Ready,
    /// Post the registration now, and say [`DeviceBuffer::registered`] when it completes.
    Yours,
    /// Try again soon: another connection has posted it, or one has failed to.
    Wait,
}

impl_has_work! {
    impl HasWork<Self> for DeviceBuffer { self.renew }
}

impl WorkItem for DeviceBuffer {
    type Pointer = Arc<DeviceBuffer>;

    fn run(this: Arc<DeviceBuffer>) {
        let regions = allocate_regions(&this.mappings, this.access);
        let old = {
            let mut state = this.state.lock();
            match regions {
                Ok(regions) => {
                    state.registration = Registration::None;
                    core::mem::replace(&mut state.regions, regions)
                }
                Err(_) => {
                    // The next claim tries again.
                    state.registration = Registration::Failed;
                    KVec::new()
                }
            }
        };
        drop(old);
    }
}

fn allocate_regions(mappings: &[Arc<Mapping>], access: Access) -> Result<KVec<MemoryRegion>> {
    let mut regions = KVec::with_capacity(mappings.len(), GFP_KERNEL)?;
    for mapping in mappings {
        regions.push(MemoryRegion::allocate(mapping.clone(), access)?, GFP_KERNEL)?;
    }
    Ok(regions)
}

impl DeviceBuffer {
    fn new(
        device: &Arc<Device>,
        pages: &Arc<PageList>,
        span: core::ops::Range<usize>,
        access: Access,
    ) -> Result<Arc<Self>> {
        // Whole pages per region, from the first byte's page on.
        let base = span.start & !(PAGE_SIZE - 1);
        let most = device.limits().max_fast_reg_pages.clamp(1, PAGES as u32) as usize;
        let step = most.saturating_mul(PAGE_SIZE);
        let mut mappings = KVec::new();
        let (mut from, mut end) = (span.start, base);
        while end < span.end {
            end = end.saturating_add(step).min(span.end);
            let mapping = Mapping::new(device, pages.clone(), from, end.saturating_sub(from))?;
            mappings.push(Arc::new(mapping, GFP_KERNEL)?, GFP_KERNEL)?;
            from = end;
        }
        let regions = allocate_regions(&mappings, access)?;
        Arc::pin_init(
            pin_init!(Self {
                device: device.clone(),
                start: span.start,
                base,
                mappings,
                access,
                region_length: step,
                state <- new_spinlock!(State {
                    registration: Registration::None,
                    regions,
                }, "usmbd_registration"),
                renew <- new_work!("usmbd_registration"),
            }),
            GFP_KERNEL,
        )
    }

    /// Work requests of its registration.
    pub(crate) fn region_count(&self) -> usize {
        self.mappings.len()
    }

    /// Asks for the buffer, for connection `number`.
    pub(crate) fn claim(self: &Arc<Self>, number: u64) -> Claim {
        let mut state = self.state.lock();
        match state.registration {
            Registration::Done => Claim::Ready,
            Registration::Posted(by) if by == number => Claim::Ready,
            Registration::Posted(_) | Registration::Renewing => Claim::Wait,
            Registration::None => {
                state.registration = Registration::Posted(number);
                Claim::Yours
            }
            Registration::Failed => {
                state.registration = Registration::Renewing;
                drop(state);
                // It does not wait: whoever enqueued it before has come back here to Failed.
                let _ = workqueue::enqueue::<_, 0>(self.clone());
                Claim::Wait
            }
        }
    }

    /// Adds region `index`'s registration to a chain.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the chain is full.
    pub(crate) fn push_registration(
        &self,
        index: usize,
        chain: &mut Chain,
        wr_id: u64,
        signalled: bool,
    ) -> Result {
        let state = self.state.lock();
        let region = state.regions.get(index).ok_or(EINVAL)?;
        chain.push_register(region, wr_id, signalled)
    }

    /// The key of region `index`, if it is to be invalidated after its one use.
    pub(crate) fn one_use_key(&self, index: usize) -> Option<u32> {
        let state = self.state.lock();
        let region = state.regions.get(index)?;
        (region.access() == Access::RemoteWrite).then(|| region.key())
    }

    /// The posted registration completed, or its queue pair died before.
    pub(crate) fn registered(&self, success: bool) {
        let registration = if success {
            Registration::Done
        } else {
            Registration::Failed
        };
        self.state.lock().registration = registration;
    }

    /// The scatter/gather entry for at most `length` bytes from `offset` on: as many as one key
    /// covers.
    pub(crate) fn sge(&self, offset: u32, length: u32) -> Option<Sge> {
        let offset = offset as usize;
        let index = offset
            .checked_sub(self.base)?
            .checked_div(self.region_length)?;
        let region_start = self
            .base
            .checked_add(index.checked_mul(self.region_length)?)?;
        let within = offset.checked_sub(region_start.max(self.start))?;
        let state = self.state.lock();
        let region = state.regions.get(index)?;
        let left = region.length().checked_sub(within)?;
        Some(Sge {
            address: region.base().checked_add(within as u64)?,
            length: length.min(u32::try_from(left).ok()?),
            lkey: region.lkey(),
        })
    }
}
