// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a connection needs of the device: a trait, so that tests can be the device.

use crate::process;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use usmbd::abi::memory::BUFFER_SIZE;
use usmbd::{
    Area, Attached, Batch, ConnectionStatus, Context, Error, Interest, Readiness, Result,
    StatusPage, Wait,
};

/// One context with one connection in it. No call waits but [`Device::wait`].
pub trait Device {
    /// Writes the batch; taken records leave it.
    fn submit(&self, batch: &mut Batch<'_>) -> Result<usize>;
    /// Reads one event.
    fn read(&self, buffer: &mut [u8]) -> Result<usize>;
    /// Waits until it is readable or writable.
    fn wait(&self, interest: Interest, timeout: Option<Duration>) -> Result<Readiness>;
    /// The status page's view of the connection.
    fn status(&self) -> Result<Option<ConnectionStatus>>;
    /// Of the connection: bytes of messages taken for sending, and of those sent.
    fn bytes(&self) -> Result<(u64, u64)>;
    /// The registration area, mapped at the first call.
    fn area(&mut self) -> Result<SharedArea>;
    /// Whether the area keeps this context alive beyond its descriptor.
    fn is_pinned(&self) -> bool;
}

/// The registration area as all connections of this process use it.
#[derive(Clone)]
pub struct SharedArea {
    pub area: Area,
    /// Bytes of it for the data of WRITEs.
    pub fetched: Arc<AtomicUsize>,
}

impl SharedArea {
    pub fn new(area: Area) -> Self {
        Self {
            area,
            fetched: Arc::default(),
        }
    }

    /// Bytes that there is room for.
    pub fn size(&self) -> usize {
        self.area.buffer_count() * BUFFER_SIZE as usize
    }
}

/// A descriptor of the device that belongs to the program: never closed here.
pub struct Descriptor {
    context: ManuallyDrop<Context>,
    status: StatusPage,
    attached: Option<Attachment>,
}

enum Attachment {
    /// The area came to be through this context.
    Owner(SharedArea),
    Guest {
        area: SharedArea,
        _attached: Attached,
    },
}

/// The area of this process, and how many connections use it.
static AREA: Mutex<Option<Shared>> = Mutex::new(None);

struct Shared {
    process: u32,
    area: SharedArea,
    users: usize,
}

impl Descriptor {
    /// Looks at a descriptor that somebody else owns.
    ///
    /// # Errors
    ///
    /// Those of mapping its status page.
    ///
    /// # Safety
    ///
    /// `fd` must stay open as long as this lives.
    pub unsafe fn new(fd: RawFd) -> Result<Self> {
        // SAFETY: by the contract it is open; `ManuallyDrop` keeps it from being closed.
        let context = ManuallyDrop::new(Context::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        let status = StatusPage::map(&context)?;
        Ok(Self {
            context,
            status,
            attached: None,
        })
    }
}

impl Device for Descriptor {
    fn submit(&self, batch: &mut Batch<'_>) -> Result<usize> {
        self.context.submit(batch, Wait::No)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        self.context.read(buffer, Wait::No)
    }

    fn wait(&self, interest: Interest, timeout: Option<Duration>) -> Result<Readiness> {
        self.context.poll(interest, timeout)
    }

    fn status(&self) -> Result<Option<ConnectionStatus>> {
        Ok(self.status.snapshot()?.connection)
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        self.status.bytes()
    }

    fn area(&mut self) -> Result<SharedArea> {
        match &self.attached {
            Some(Attachment::Owner(area) | Attachment::Guest { area, .. }) => {
                return Ok(area.clone())
            }
            None => (),
        }
        let parameters = self.context.memory_parameters()?;
        let process = process::id();
        let mut shared = AREA.lock().unwrap_or_else(PoisonError::into_inner);
        if shared
            .as_ref()
            .is_some_and(|shared| shared.process != process)
        {
            // The parent's: not mapped here, so there is nothing to unmap either.
            std::mem::forget(shared.take());
        }
        if let Some(shared) = shared.as_mut() {
            let attached = shared.area.area.attach(&self.context, &parameters)?;
            shared.users += 1;
            let area = shared.area.clone();
            self.attached = Some(Attachment::Guest {
                area: area.clone(),
                _attached: attached,
            });
            return Ok(area);
        }
        let area = SharedArea::new(Area::map(&self.context, &parameters)?);
        *shared = Some(Shared {
            process,
            area: area.clone(),
            users: 1,
        });
        self.attached = Some(Attachment::Owner(area.clone()));
        Ok(area)
    }

    fn is_pinned(&self) -> bool {
        let shared = AREA.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(self.attached, Some(Attachment::Owner(_)))
            && shared.as_ref().is_some_and(|shared| shared.users > 1)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.attached.is_none() {
            return;
        }
        let mut shared = AREA.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = shared.as_mut() {
            shared.users = shared.users.saturating_sub(1);
        }
        shared.take_if(|shared| shared.users == 0);
    }
}

/// An error that tests and mistakes of ours have in common.
pub fn gone() -> Error {
    Error::Call {
        what: "connection",
        error: std::io::Error::from_raw_os_error(libc::ENOTCONN),
    }
}
