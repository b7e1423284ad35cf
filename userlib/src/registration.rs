// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory of one's own, registered so that transfers can name it beside the area.
//!
//! [`OwnMemory`] is safe: nobody has a reference into it. Memory that Rust objects live in goes
//! through [`Batch::register_raw`], whose caller answers for what the device does there.

use crate::abi::command;
use crate::abi::event;
use crate::abi::memory::MemoryRange;
use crate::sys::Mapping;
use crate::{Batch, Error, Result};
use std::ptr::NonNull;

/// Registered memory. In ranges it stands in the place of a buffer's number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MemoryHandle(u32);

impl MemoryHandle {
    /// From the number in a record.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// As it stands in a record.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Bytes of it, for a transfer or a message. The driver checks them.
    pub fn range(self, offset: u32, length: u32) -> MemoryRange {
        MemoryRange {
            buffer: self.0.into(),
            offset: offset.into(),
            length: length.into(),
            ..Default::default()
        }
    }
}

/// Memory was registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Registered {
    /// Names it from now on.
    pub handle: MemoryHandle,
    /// Bytes.
    pub length: u64,
}

impl Registered {
    pub(crate) fn from_record(record: &event::MemoryRegistered) -> Self {
        Self {
            handle: MemoryHandle(record.handle.get()),
            length: record.length.get(),
        }
    }
}

/// Zeroed memory of this process that can be registered, and that is only copied from and to.
///
/// It may be dropped at any time: a transfer under way keeps the pages, which nobody else gets
/// before it is done. A child made by fork() does not have it, and dropping it there does nothing.
pub struct OwnMemory {
    mapping: Mapping,
}

impl OwnMemory {
    /// `length` bytes, at most 1 GiB.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for no bytes or too many, [`Error::Call`] without memory.
    pub fn new(length: usize) -> Result<Self> {
        if length == 0 || length as u64 > command::MAX_REGISTRATION_LENGTH {
            return Err(Error::Refused("registered memory has 1 byte to 1 GiB"));
        }
        Mapping::anonymous(length)
            .and_then(Mapping::kept_from_children)
            .map(|mapping| Self { mapping })
            .map_err(|error| Error::call("mmap", error))
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.mapping.length()
    }

    /// Never: there is none without bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    ///
    /// If they reach past the end.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.mapping.copy_in(offset, bytes);
    }

    /// Copies from `offset` into all of `bytes`.
    ///
    /// # Panics
    ///
    /// If they reach past the end.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.mapping.copy_out(offset, bytes);
    }

    /// Where it lies, for instance to readv() a file into it. Good as long as `self`; the device
    /// may write there during RDMA reads.
    pub fn pointer(&self) -> NonNull<u8> {
        self.mapping.pointer(0, self.len())
    }
}

impl std::fmt::Debug for OwnMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnMemory")
            .field("length", &self.len())
            .finish_non_exhaustive()
    }
}

impl<'p> Batch<'p> {
    /// Registers `memory`, which stays at least until this was submitted. Completed by
    /// [`MemoryRegistered`](crate::Event::MemoryRegistered). Taken only from a process that has mapped the
    /// [`Area`](crate::Area) through this context.
    ///
    /// Fails with `EFAULT` without that mapping and with `ENOMEM` beyond RLIMIT_MEMLOCK.
    pub fn register_memory(&mut self, memory: &'p OwnMemory, user_data: u64) -> Result<()> {
        let start = memory.pointer();
        // SAFETY: no Rust object lives there, and nobody has a reference into it: it is copied from
        // and to only. It is there when this is submitted, since the batch borrows it; should it be
        // unmapped later, the driver keeps the pages.
        unsafe { self.register_raw(start, memory.len(), user_data) }
    }

    /// Registers any memory of this process; else as [`register_memory`](Self::register_memory).
    ///
    /// # Safety
    ///
    /// From the submit until [`MemoryUnregistered`](crate::Event::MemoryUnregistered) was read (or the
    /// context's last descriptor is closed and its connections have ended), the device writes these
    /// `length` bytes whenever an RDMA read names them, and reads them when an RDMA write or a
    /// message does. While such a command is under way, no reference into the bytes that a read
    /// names may be used, and the bytes that a write names may not change. The memory must stay
    /// allocated, or its allocator would give bytes that the device still writes to somebody else.
    pub unsafe fn register_raw(
        &mut self,
        start: NonNull<u8>,
        length: usize,
        user_data: u64,
    ) -> Result<()> {
        if length == 0 || length as u64 > command::MAX_REGISTRATION_LENGTH {
            return Err(Error::Refused("registered memory has 1 byte to 1 GiB"));
        }
        let body = command::RegisterMemory {
            address: (start.as_ptr().expose_provenance() as u64).into(),
            length: (length as u64).into(),
        };
        self.record("REGISTER_MEMORY", user_data, body)
    }

    /// Gives registered memory up. Completed by
    /// [`MemoryUnregistered`](crate::Event::MemoryUnregistered) when no transfer uses it any more.
    /// Fails with `EFAULT` if this process has no such handle, or has not mapped the area through this
    /// context.
    pub fn unregister_memory(&mut self, handle: MemoryHandle, user_data: u64) -> Result<()> {
        let body = command::UnregisterMemory {
            handle: handle.number().into(),
            ..Default::default()
        };
        self.record("UNREGISTER_MEMORY", user_data, body)
    }
}
