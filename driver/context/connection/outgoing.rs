// SPDX-License-Identifier: GPL-2.0-only

//! A message on its way out: copied into buffers of our own, or standing in ranges of the process.

use super::ranges::{Linked, Progress, Ranges};
use super::send::{Kind, SendQueue};
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
    /// The next one in a [`List`](super::ranges::List).
    next: Option<KBox<Outgoing>>,
}

impl Linked for Outgoing {
    fn next(&mut self) -> &mut Option<KBox<Self>> {
        &mut self.next
    }
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

    /// Whether it is copied, and into one PDU of at most `max_send_size` bytes.
    pub(super) fn is_one_pdu(&self, max_send_size: u32) -> bool {
        let payload = (max_send_size as usize).saturating_sub(DATA_HEADER);
        self.ranges.is_none() && self.length as usize <= payload
    }

    /// Bytes of its lists.
    pub(super) fn list_bytes(&self) -> usize {
        Ranges::list_bytes(self.ranges.unwrap_or(0))
    }

    fn message(&self, body: Body) -> Outgoing {
        Outgoing {
            command: Some((self.user_data, self.quiet)),
            invalidate: self.invalidate,
            length: self.length,
            command_bytes: self.list_bytes(),
            body,
            next: None,
        }
    }
}

impl Copied {
    /// `length` bytes, with which `fill` fills the segments in their order. Nothing is mapped before
    /// all is filled: the caller's memory may not come, and a device that goes does not wait for that.
    #[inline(always)]
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
        let one_chunk = payload.saturating_mul(per_chunk);
        let here = length.min(one_chunk.get());
        let first = Self::chunk(here, segment, payload, &mut fill)?;
        let mut left = length.saturating_sub(here);
        let mut others = KVec::new();
        if left > 0 {
            let mut filled = KVec::with_capacity(parts(left, one_chunk), GFP_KERNEL_ACCOUNT)?;
            while left > 0 {
                let here = left.min(one_chunk.get());
                let chunk = Self::chunk(here, segment, payload, &mut fill)?;
                filled.push(chunk, GFP_KERNEL_ACCOUNT)?;
                left = left.saturating_sub(here);
            }
            others = KVec::with_capacity(filled.len(), GFP_KERNEL_ACCOUNT)?;
            for chunk in filled {
                let chunk = DmaBuffer::map(device, chunk, Direction::ToDevice)?;
                others.push(chunk, GFP_KERNEL_ACCOUNT)?;
            }
        }
        Ok(Self {
            payload,
            per_chunk,
            first: DmaBuffer::map(device, first, Direction::ToDevice)?,
            others,
        })
    }

    /// Memory for `length` bytes, filled. The last segment may be short: a small message takes little
    /// memory.
    #[inline(always)]
    fn chunk(
        length: usize,
        segment: NonZeroUsize,
        payload: NonZeroUsize,
        fill: &mut impl FnMut(&mut [u8]) -> Result,
    ) -> Result<KVec<u8>> {
        let segments = parts(length, payload);
        let bytes = length.saturating_add(segments.saturating_mul(DATA_HEADER));
        let mut chunk = DmaBuffer::memory(bytes)?;
        for part in chunk.chunks_mut(segment.get()) {
            fill(part.get_mut(DATA_HEADER..).ok_or(EINVAL)?)?;
        }
        Ok(chunk)
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
        let length = transmit.payload_length.checked_add(DATA_HEADER as u32)?;
        chunk.sync_for_device(start.saturating_add(length as usize));
        Some(Sge {
            address: chunk.address().checked_add(start as u64)?,
            length,
            lkey: chunk.lkey(),
        })
    }
}

/// How many parts of `each` bytes at most `length` bytes make.
fn parts(length: usize, each: NonZeroUsize) -> usize {
    length.saturating_add(each.get().saturating_sub(1)) / each
}

impl Outgoing {
    /// Copies a message from the caller, and the padding behind it, into buffers for PDUs of
    /// `max_send_size` bytes.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the caller's memory ends early, `EINVAL` for padding that is not zero, `ENOMEM`,
    /// `ENODEV`.
    pub(super) fn copied_from(
        request: &SendRequest,
        max_send_size: u32,
        device: &Arc<Device>,
        source: &mut IovIterSource<'_>,
    ) -> Result<KBox<Self>> {
        // Its place first: it is made where it stays.
        let place = KBox::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let length = request.length as usize;
        let mut left = length;
        let copied = Copied::filled(length, max_send_size, device, |place| {
            fetch::exact(source, place)?;
            left = left.saturating_sub(place.len());
            if left == 0 {
                fetch::padding(source, request.length)?;
            }
            Ok(())
        })?;
        Ok(KBox::write(place, request.message(Body::Copied(copied))))
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
                next: None,
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
        let message = request.message(Body::Ranges(ranges));
        Ok(KBox::new(message, GFP_KERNEL_ACCOUNT)?)
    }

    /// Where a PDU of a message stands that was copied: the header is written in front of its payload.
    #[inline(always)]
    pub(super) fn segment(&mut self, transmit: &Transmit) -> Option<Sge> {
        match &mut self.body {
            Body::Copied(copied) => copied.segment(transmit),
            Body::Ranges(_) => None,
        }
    }

    /// Where the payload of a PDU stands whose message stands in ranges: entries filled.
    pub(super) fn take(&mut self, transmit: &Transmit, sges: &mut [Sge]) -> Option<usize> {
        match &mut self.body {
            Body::Copied(_) => None,
            Body::Ranges(ranges) => {
                let (count, bytes) = ranges.take(transmit.payload_length, sges)?;
                (bytes == transmit.payload_length).then_some(count)
            }
        }
    }

    /// What the engine has to know of it; `entries` is how many scatter/gather entries a PDU has
    /// for what stands in ranges.
    #[inline]
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
            Body::Ranges(ranges) => ranges.register(number, Kind::Message, send),
        }
    }

    /// Whether nobody awaits an event when it was sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.command.is_none_or(|(_, quiet)| quiet)
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
}
