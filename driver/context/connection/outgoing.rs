// SPDX-License-Identifier: GPL-2.0-only

//! A message on its way out: copied into buffers of our own, or standing in ranges of the process.

use super::ranges::{Progress, Ranges};
use super::send::SendQueue;
use crate::context::fetch;
use crate::verbs::{Device, Direction, DmaBuffer, Sge};
use core::num::NonZeroUsize;
use kernel::iov::IovIterSource;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_engine as engine;
use usmbd_engine::Transmit;

/// Header of a PDU with data: DataOffset is a multiple of 8 ([MS-SMBD] 2.2.3).
const DATA_HEADER: usize = 24;

/// What SEND_PDU says, besides the payload.
pub(crate) struct SendRequest {
    pub(crate) user_data: u64,
    pub(crate) quiet: bool,
    pub(crate) invalidate: Option<u32>,
    pub(crate) length: u32,
    /// How many ranges the message stands in; none if it stands in the record.
    pub(crate) ranges: Option<u16>,
}

/// See the module's documentation.
pub(super) struct Outgoing {
    /// `user_data` of its command, and whether it is QUIET; none for a message of the driver's own.
    command: Option<(u64, bool)>,
    invalidate: Option<u32>,
    length: u32,
    /// Bytes of lists that it has of the context's command memory.
    command_bytes: usize,
    body: Body,
}

enum Body {
    Copied(Copied),
    Ranges(KBox<Ranges>),
}

/// Segment by segment as the PDUs will be, each with room for its header, none across two chunks.
struct Copied {
    /// Payload of one segment, save the last.
    payload: NonZeroUsize,
    per_chunk: NonZeroUsize,
    /// Most messages have no more than this.
    first: DmaBuffer,
    others: KVec<DmaBuffer>,
}

impl SendRequest {
    /// Bytes of kernel memory that its payload takes.
    pub(super) fn copied(&self) -> usize {
        match self.ranges {
            Some(_) => 0,
            None => self.length as usize,
        }
    }

    /// Bytes of its lists.
    pub(super) fn list_bytes(&self) -> usize {
        Ranges::list_bytes(self.ranges.unwrap_or(0).into())
    }

    fn message(&self, body: Body) -> Result<KBox<Outgoing>> {
        Ok(KBox::new(
            Outgoing {
                command: Some((self.user_data, self.quiet)),
                invalidate: self.invalidate,
                length: self.length,
                command_bytes: self.list_bytes(),
                body,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }
}

impl Copied {
    /// `length` bytes, with which `fill` fills the segments in their order.
    fn filled(
        length: usize,
        max_send_size: u32,
        device: &Arc<Device>,
        mut fill: impl FnMut(&mut [u8]) -> Result,
    ) -> Result<Self> {
        let segment = NonZeroUsize::new(max_send_size as usize).ok_or(EINVAL)?;
        let payload = segment
            .get()
            .checked_sub(DATA_HEADER)
            .and_then(NonZeroUsize::new)
            .ok_or(EINVAL)?;
        let per_chunk = NonZeroUsize::new(PAGE_SIZE / segment).ok_or(EINVAL)?;
        let mut left = length;
        let mut chunk = || {
            let here = left.div_ceil(payload.get()).min(per_chunk.get());
            // The last segment of a chunk may be short; a small message takes little memory.
            let last = left
                .saturating_sub(payload.get().saturating_mul(here.saturating_sub(1)))
                .min(payload.get());
            let bytes = segment
                .get()
                .saturating_mul(here.saturating_sub(1))
                .saturating_add(DATA_HEADER)
                .saturating_add(last);
            let mut chunk = DmaBuffer::allocate(device, bytes, Direction::ToDevice)?;
            for part in chunk.as_mut_slice().chunks_mut(segment.get()) {
                let Some(place) = part.get_mut(DATA_HEADER..) else {
                    continue;
                };
                fill(place)?;
                left = left.saturating_sub(place.len());
            }
            chunk.sync_for_device(bytes);
            Ok::<_, Error>(chunk)
        };
        let first = chunk()?;
        let mut others = KVec::new();
        let chunks = length.div_ceil(payload.get()).div_ceil(per_chunk.get());
        if chunks > 1 {
            others.reserve(chunks.saturating_sub(1), GFP_KERNEL_ACCOUNT)?;
            for _ in 1..chunks {
                others.push(chunk()?, GFP_KERNEL_ACCOUNT)?;
            }
        }
        Ok(Self {
            payload,
            per_chunk,
            first,
            others,
        })
    }

    /// Writes a PDU's header before its payload, and says where both stand.
    fn segment(&mut self, transmit: &Transmit) -> Option<Sge> {
        let number = transmit.payload_offset as usize / self.payload;
        let chunk = match (number / self.per_chunk).checked_sub(1) {
            None => &mut self.first,
            Some(other) => self.others.get_mut(other)?,
        };
        let within = number % self.per_chunk;
        let start = within.checked_mul(self.payload.get().checked_add(DATA_HEADER)?)?;
        let header = transmit.header.get(..DATA_HEADER)?;
        chunk
            .as_mut_slice()
            .get_mut(start..start.checked_add(DATA_HEADER)?)?
            .copy_from_slice(header);
        chunk.sync_for_device(start.saturating_add(DATA_HEADER));
        Some(Sge {
            address: chunk.address().checked_add(start as u64)?,
            length: transmit.payload_length.checked_add(DATA_HEADER as u32)?,
            lkey: chunk.lkey(),
        })
    }
}

impl Outgoing {
    /// Copies a message from the caller into buffers for PDUs of `max_send_size` bytes.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the caller's memory ends early, `ENOMEM`.
    pub(super) fn copied_from(
        request: &SendRequest,
        max_send_size: u32,
        device: &Arc<Device>,
        source: &mut IovIterSource<'_>,
    ) -> Result<KBox<Self>> {
        let length = request.length as usize;
        let copied = Copied::filled(length, max_send_size, device, |place| {
            fetch::exact(source, place)
        })?;
        request.message(Body::Copied(copied))
    }

    /// A message of the driver's own: no command completes with it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn own(
        bytes: &[u8],
        max_send_size: u32,
        device: &Arc<Device>,
    ) -> Result<KBox<Self>> {
        let mut rest = bytes;
        let copied = Copied::filled(bytes.len(), max_send_size, device, |place| {
            let (here, behind) = rest.split_at_checked(place.len()).ok_or(EINVAL)?;
            place.copy_from_slice(here);
            rest = behind;
            Ok(())
        })?;
        Ok(KBox::new(
            Self {
                command: None,
                invalidate: None,
                length: u32::try_from(bytes.len())?,
                command_bytes: 0,
                body: Body::Copied(copied),
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// A message that stands in `ranges`, and is not copied.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn in_ranges(request: &SendRequest, ranges: KBox<Ranges>) -> Result<KBox<Self>> {
        request.message(Body::Ranges(ranges))
    }

    /// Where the payload of `transmit` stands, with the header before it if it was copied: entries
    /// filled.
    pub(super) fn fill(&mut self, transmit: &Transmit, sges: &mut [Sge]) -> Option<usize> {
        match &mut self.body {
            Body::Copied(copied) => {
                *sges.first_mut()? = copied.segment(transmit)?;
                Some(1)
            }
            Body::Ranges(ranges) => {
                let (count, bytes) = ranges.take(transmit.payload_length, sges)?;
                (bytes == transmit.payload_length).then_some(count)
            }
        }
    }

    /// What the engine has to know of it; `entries` is how many scatter/gather entries a PDU has
    /// for what stands in ranges.
    pub(super) fn for_engine(&self, entries: usize) -> Option<engine::Message> {
        let payload_limit = match &self.body {
            Body::Copied(_) => self.length,
            Body::Ranges(ranges) => ranges.reach(PAGE_SIZE as u32, entries)?,
        };
        Some(engine::Message {
            length: self.length,
            invalidate: self.invalidate,
            payload_limit,
        })
    }

    /// Whether nothing has to be registered before it is sent.
    pub(super) fn is_registered(&self) -> bool {
        match &self.body {
            Body::Copied(_) => true,
            Body::Ranges(ranges) => ranges.is_registered(),
        }
    }

    /// Sees to it that the ranges in which it stands are registered.
    pub(super) fn register(&mut self, number: u64, send: &mut SendQueue) -> Progress {
        match &mut self.body {
            Body::Copied(_) => Progress::Posted,
            Body::Ranges(ranges) => ranges.register(number, send),
        }
    }

    /// `user_data` of its command, and whether it is QUIET; none for a message of the driver's own.
    pub(super) fn command(&self) -> Option<(u64, bool)> {
        self.command
    }

    /// Bytes.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Bytes of kernel memory that its payload takes.
    pub(super) fn copied(&self) -> usize {
        match &self.body {
            Body::Copied(_) => self.length as usize,
            Body::Ranges(_) => 0,
        }
    }

    pub(super) fn command_bytes(&self) -> usize {
        self.command_bytes
    }

    /// Whether it invalidates a key of the peer.
    pub(super) fn invalidates(&self) -> bool {
        self.invalidate.is_some()
    }

    /// Whether it stands in ranges.
    pub(super) fn has_ranges(&self) -> bool {
        matches!(self.body, Body::Ranges(_))
    }

    /// What must not be dropped under a lock.
    pub(super) fn into_ranges(this: KBox<Self>) -> Option<KBox<Ranges>> {
        if !this.has_ranges() {
            return None;
        }
        match KBox::into_inner(this).body {
            Body::Copied(_) => None,
            Body::Ranges(ranges) => Some(ranges),
        }
    }
}
