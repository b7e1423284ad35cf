// SPDX-License-Identifier: GPL-2.0-only

//! Memory on one device: its mappings, and their registrations.

use super::PAGES;
use crate::verbs::{Access, Chain, Device, Mapping, MemoryRegion, PageList, Sge};
use crate::workqueue;
use core::ops::Range;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::{new_spinlock, Arc, SetOnce, SpinLock};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

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
    /// The only key, once it is registered: it stays so, and nobody has to ask under the lock.
    key: SetOnce<Key>,
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
    let mut regions = KVec::with_capacity(mappings.len(), GFP_KERNEL_ACCOUNT)?;
    for mapping in mappings {
        regions.push(
            MemoryRegion::allocate(mapping.clone(), access)?,
            GFP_KERNEL_ACCOUNT,
        )?;
    }
    Ok(regions)
}

impl DeviceBuffer {
    /// `span` counts from the first page on.
    ///
    /// # Errors
    ///
    /// `EIO` if the device cannot reach it coherently, `ENODEV`, `ENOMEM`.
    pub(super) fn new(
        device: &Arc<Device>,
        pages: &Arc<PageList>,
        span: Range<usize>,
        access: Access,
    ) -> Result<Arc<Self>> {
        // Whole pages per region, from the first byte's page on.
        let base = span.start & !(PAGE_SIZE - 1);
        let step = device.region_pages(PAGES).saturating_mul(PAGE_SIZE);
        let mut mappings = KVec::new();
        let (mut from, mut end) = (span.start, base);
        while end < span.end {
            end = end.saturating_add(step).min(span.end);
            let mapping = Mapping::new(device, pages.clone(), from, end.saturating_sub(from))?;
            mappings.push(Arc::new(mapping, GFP_KERNEL_ACCOUNT)?, GFP_KERNEL_ACCOUNT)?;
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
                key: SetOnce::new(),
                state <- new_spinlock!(State {
                    registration: Registration::None,
                    regions,
                }, "usmbd_registration"),
                renew <- new_work!("usmbd_registration"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(super) fn is_on(&self, device: &Arc<Device>) -> bool {
        Arc::ptr_eq(&self.device, device)
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
        let mut state = self.state.lock();
        if !success {
            state.registration = Registration::Failed;
            return;
        }
        state.registration = Registration::Done;
        if let [region] = &*state.regions {
            self.key.populate(Key::of(region));
        }
    }

    /// Whether it is registered. If not, [`Self::claim`] it.
    #[inline]
    pub(crate) fn is_registered(&self) -> bool {
        self.key.as_ref().is_some()
    }

    /// The scatter/gather entry for at most `length` bytes from `offset` on: as many as one key
    /// covers.
    #[inline(always)]
    pub(crate) fn sge(&self, offset: u32, length: u32) -> Option<Sge> {
        match self.key.as_ref() {
            Some(key) => key.sge((offset as usize).checked_sub(self.start)?, length),
            None => self.sge_of_region(offset as usize, length),
        }
    }

    #[cold]
    fn sge_of_region(&self, offset: usize, length: u32) -> Option<Sge> {
        let index = offset
            .checked_sub(self.base)?
            .checked_div(self.region_length)?;
        let region_start = self
            .base
            .checked_add(index.checked_mul(self.region_length)?)?;
        let within = offset.checked_sub(region_start.max(self.start))?;
        let state = self.state.lock();
        Key::of(state.regions.get(index)?).sge(within, length)
    }
}

/// A region, for those who use it.
struct Key {
    address: u64,
    length: usize,
    lkey: u32,
}

impl Key {
    fn of(region: &MemoryRegion) -> Self {
        Self {
            address: region.base(),
            length: region.length(),
            lkey: region.lkey(),
        }
    }

    /// The entry for `length` bytes from its byte `within` on, if there are so many.
    #[inline(always)]
    fn sge(&self, within: usize, length: u32) -> Option<Sge> {
        let left = self.length.checked_sub(within)?;
        Some(Sge {
            address: self.address.checked_add(within as u64)?,
            length: length.min(u32::try_from(left).ok()?),
            lkey: self.lkey,
        })
    }
}
