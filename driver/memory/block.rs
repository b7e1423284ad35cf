// SPDX-License-Identifier: GPL-2.0-only

//! Up to 1 MiB of memory, and what it is on each device where it was named.

use super::device_buffer::DeviceBuffer;
use super::BLOCK;
use crate::verbs::{Access, Device, PageList};
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

/// See the module's documentation.
#[pin_data]
pub(super) struct Block {
    pages: Arc<PageList>,
    /// Bytes of the pages that are meant.
    span: Range<usize>,
    #[pin]
    devices: Mutex<Devices>,
}

/// What devices have of a block, to be found again.
struct Devices {
    known: KVec<Arc<DeviceBuffer>>,
    /// Nobody can name the block any more: there is nobody to find anything, and nobody who would
    /// give it up.
    retired: bool,
}

impl Block {
    /// `span` counts from the first page on, and is at most [`BLOCK`] bytes.
    pub(super) fn new(pages: PageList, span: Range<usize>) -> Result<impl PinInit<Self>> {
        if span.end > BLOCK {
            return Err(EINVAL);
        }
        let pages = Arc::new(pages, GFP_KERNEL_ACCOUNT)?;
        Ok(pin_init!(Self {
            pages,
            span,
            devices <- new_mutex!(Devices {
                known: KVec::new(),
                retired: false,
            }, "usmbd_block"),
        }))
    }

    pub(super) fn pages(&self) -> &PageList {
        &self.pages
    }

    /// The block on `device`, mapped for it.
    ///
    /// # Errors
    ///
    /// `EIO` if the device cannot reach it coherently, `ENODEV`, `ENOMEM`.
    #[inline(always)]
    pub(super) fn on(&self, device: &Arc<Device>) -> Result<Arc<DeviceBuffer>> {
        let mut devices = self.devices.lock();
        match devices.known.iter().find(|known| known.is_on(device)) {
            Some(known) => Ok(known.clone()),
            None => self.make(device, &mut devices),
        }
    }

    /// As [`Self::on`], where it was not named yet.
    #[cold]
    fn make(&self, device: &Arc<Device>, devices: &mut Devices) -> Result<Arc<DeviceBuffer>> {
        let made = DeviceBuffer::new(device, &self.pages, self.span.clone(), Access::Local)?;
        // A command that named it in time has it to itself.
        if !devices.retired {
            devices.known.push(made.clone(), GFP_KERNEL_ACCOUNT)?;
        }
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
        // Not a byte more: what stands beside it on the page is not the peer's to write.
        let end = (offset as usize).saturating_add(length as usize);
        let span = offset as usize..end;
        DeviceBuffer::new(device, &self.pages, span, Access::RemoteWrite)
    }

    /// The device goes away: gives up what it has of the block.
    pub(super) fn remove_device(&self, device: &Arc<Device>) {
        let mut devices = self.devices.lock();
        devices.known.retain(|known| !known.is_on(device));
    }

    /// Nobody can name it any more: gives up what all devices have of it, but for what transfers
    /// under way use. A device that goes away must not wait for transfers on another.
    pub(super) fn retire(&self) {
        let mut devices = self.devices.lock();
        devices.retired = true;
        let known = core::mem::take(&mut devices.known);
        drop(devices);
        drop(known);
    }
}
