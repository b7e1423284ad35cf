// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the client to smbd.

use super::{Pending, Refused, Rewriter, Segment, Target, MAX_ROOM, UNIT};
use crate::smb2::{self, at, put, Header, ReadRequest, WriteRequest};
use std::ops::Range;
use std::sync::Arc;
use usmbd::BufferDescriptorV1;
use zerocopy::byteorder::little_endian::{U16, U32};

/// What becomes of a message.
#[derive(Debug, Default)]
pub struct Request {
    /// The message for smbd, in order; empty when it is the original one.
    pub segments: Vec<Segment>,
    /// Bytes of it.
    pub length: usize,
    /// Data that has to be there first.
    pub fetches: Vec<Fetch>,
    /// Requests in it that were given a wrong StructureSize: their channel is wrong.
    pub invalid: usize,
    /// READs in it whose answer will go by RDMA.
    pub reads: usize,
}

/// Data to be read from the client's memory.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Of the WRITE.
    pub message_id: u64,
    /// Bytes.
    pub length: u32,
    /// Where it lies; at least as many bytes.
    pub descriptors: Vec<BufferDescriptorV1>,
}

impl Fetch {
    /// Bytes of the area that it takes.
    pub fn room(&self) -> usize {
        (self.length as usize).next_multiple_of(UNIT)
    }
}

/// One element of a compound; of an ordinary message the only one.
struct Element {
    range: Range<usize>,
    header: Header,
}

impl Rewriter {
    /// Takes a message from the client, and changes it where fields of fixed size have to change.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the connection cannot go on.
    pub fn request(&mut self, message: &mut [u8]) -> Result<Request, Refused> {
        let unchanged = Request::original(message.len());
        let Some(elements) = elements(message) else {
            return Ok(unchanged);
        };
        if !elements.iter().any(|element| has_channel(message, element)) {
            return Ok(unchanged);
        }
        if elements.iter().any(|element| element.header.is_signed()) {
            // smbd answers a signed WRITE of this kind with an error of its own. A READ it would
            // answer with data that the client does not look for.
            let reads = elements.iter().any(|element| {
                element.header.command.get() == smb2::READ && has_channel(message, element)
            });
            return if reads {
                Err(Refused::SignedRead)
            } else {
                Ok(unchanged)
            };
        }
        let mut request = Request::default();
        for element in &elements {
            let done = match element.header.command.get() {
                smb2::READ => self.read(message, element, &mut request)?,
                smb2::WRITE => self.write(message, element, &mut request)?,
                _ => false,
            };
            if !done {
                request.push(
                    Segment::Original(element.range.clone()),
                    element.range.len(),
                );
            }
        }
        if request.length > smb2::MAX_MESSAGE_LENGTH {
            return Err(Refused::TooLong);
        }
        if request.fetches.iter().map(Fetch::room).sum::<usize>() > MAX_ROOM {
            return Err(Refused::TooManyWrites);
        }
        Ok(request)
    }

    fn read(
        &mut self,
        message: &mut [u8],
        element: &Element,
        request: &mut Request,
    ) -> Result<bool, Refused> {
        let body_offset = element.range.start + smb2::HEADER_LENGTH;
        let Some(mut body) = at::<ReadRequest>(message, body_offset) else {
            return Ok(false);
        };
        let channel = body.channel.get();
        if channel == smb2::CHANNEL_NONE {
            return Ok(false);
        }
        let descriptors = descriptors(
            &message[element.range.clone()],
            body.channel_info_offset,
            body.channel_info_length,
        );
        let length = body.length.get();
        let valid = self.allows(channel) && self.is_described(length, &descriptors);
        if valid {
            request.reads += 1;
        } else {
            request.invalid += 1;
            body.structure_size = U16::ZERO;
            put(message, body_offset, &body);
        }
        self.remember(element, channel, &descriptors, valid.then_some(length))?;
        Ok(false)
    }

    fn write(
        &mut self,
        message: &mut [u8],
        element: &Element,
        request: &mut Request,
    ) -> Result<bool, Refused> {
        let range = &element.range;
        let body_offset = range.start + smb2::HEADER_LENGTH;
        let Some(mut body) = at::<WriteRequest>(message, body_offset) else {
            return Ok(false);
        };
        let channel = body.channel.get();
        if channel == smb2::CHANNEL_NONE {
            return Ok(false);
        }
        let descriptors = descriptors(
            &message[range.clone()],
            body.channel_info_offset,
            body.channel_info_length,
        );
        let length = body.remaining_bytes.get();
        let valid = self.allows(channel)
            && body.data_offset == U16::ZERO
            && body.length == U32::ZERO
            && self.is_described(length, &descriptors);
        self.remember(element, channel, &descriptors, None)?;
        if !valid {
            request.invalid += 1;
            body.structure_size = U16::ZERO;
            put(message, body_offset, &body);
            return Ok(false);
        }

        // REQUEST_LENGTH is below 2^16.
        body.data_offset = U16::new(smb2::REQUEST_LENGTH as u16);
        body.length = U32::new(length);
        body.channel = U32::new(smb2::CHANNEL_NONE);
        body.remaining_bytes = U32::ZERO;
        body.channel_info_offset = U16::ZERO;
        body.channel_info_length = U16::ZERO;
        put(message, body_offset, &body);
        let mut header = element.header;
        // A WRITE is at most 16 MiB and its request short, so this does not overflow.
        let end = smb2::REQUEST_LENGTH + length as usize;
        let is_last = header.next_command == U32::ZERO;
        let padding = if is_last {
            0
        } else {
            end.next_multiple_of(8) - end
        };
        if !is_last {
            header.next_command = U32::new((end + padding) as u32);
            put(message, range.start, &header);
        }
        let kept = range.start..range.start + smb2::REQUEST_LENGTH;
        request.push(Segment::Original(kept), smb2::REQUEST_LENGTH);
        request.push(Segment::Data(request.fetches.len()), length as usize);
        if padding != 0 {
            request.push(Segment::Zeros(padding), padding);
        }
        request.fetches.push(Fetch {
            message_id: header.message_id.get(),
            length,
            descriptors,
        });
        Ok(true)
    }

    /// Whether `length` is a sane number of bytes, and the descriptors describe at least as many.
    fn is_described(&self, length: u32, descriptors: &[BufferDescriptorV1]) -> bool {
        let described: u64 = descriptors.iter().map(|d| u64::from(d.length.get())).sum();
        length != 0
            && length <= self.max_transfer
            && descriptors.iter().all(|d| d.length != U32::ZERO)
            && described >= u64::from(length)
    }

    /// `length`: of a READ that will be answered by RDMA.
    fn remember(
        &mut self,
        element: &Element,
        channel: u32,
        descriptors: &[BufferDescriptorV1],
        length: Option<u32>,
    ) -> Result<(), Refused> {
        let token = (channel == smb2::CHANNEL_V1_INVALIDATE && self.allows(channel))
            .then(|| descriptors.first().map(|first| first.token.get()))
            .flatten();
        let target = length.map(|length| Target {
            descriptors: Arc::from(descriptors),
            length,
        });
        let message_id = element.header.message_id.get();
        if token.is_none() && target.is_none() {
            self.remove(message_id);
            return Ok(());
        }
        let command = element.header.command.get();
        let pending = Pending {
            command,
            token,
            target,
        };
        self.insert(message_id, pending)
    }
}

impl Request {
    /// A message of `length` bytes as it is.
    pub fn original(length: usize) -> Self {
        Self {
            length,
            ..Self::default()
        }
    }

    /// Whether smbd gets the very bytes that the client sent (but for fields changed in place).
    pub fn is_original(&self) -> bool {
        self.fetches.is_empty()
    }

    fn push(&mut self, segment: Segment, length: usize) {
        self.length += length;
        self.segments.push(segment);
    }
}

/// The elements of a message; `None` if it is not made of whole SMB2 requests: then smbd knows what
/// to say about it.
fn elements(message: &[u8]) -> Option<Vec<Element>> {
    let mut elements = Vec::with_capacity(1);
    let mut start = 0;
    loop {
        let header = at::<Header>(message, start)?;
        if header.protocol_id != smb2::PROTOCOL_ID || header.flags.get() & smb2::FLAG_RESPONSE != 0
        {
            return None;
        }
        let next = usize::try_from(header.next_command.get()).ok()?;
        if next != 0 && (next < smb2::HEADER_LENGTH || next % 8 != 0) {
            return None;
        }
        let end = if next == 0 {
            message.len()
        } else {
            start.checked_add(next).filter(|end| *end < message.len())?
        };
        elements.push(Element {
            range: start..end,
            header,
        });
        if next == 0 {
            return Some(elements);
        }
        start = end;
    }
}

fn has_channel(message: &[u8], element: &Element) -> bool {
    let Some(bytes) = message.get(element.range.clone()) else {
        return false;
    };
    let channel = match element.header.command.get() {
        smb2::READ => at::<ReadRequest>(bytes, smb2::HEADER_LENGTH).map(|body| body.channel),
        smb2::WRITE => at::<WriteRequest>(bytes, smb2::HEADER_LENGTH).map(|body| body.channel),
        _ => None,
    };
    channel.is_some_and(|channel| channel.get() != smb2::CHANNEL_NONE)
}

/// The descriptors that a request names; none if they are not where it says.
fn descriptors(element: &[u8], offset: U16, length: U16) -> Vec<BufferDescriptorV1> {
    let (offset, length) = (usize::from(offset.get()), usize::from(length.get()));
    if offset < smb2::REQUEST_LENGTH || length % smb2::DESCRIPTOR_LENGTH != 0 {
        return Vec::new();
    }
    element
        .get(offset..offset + length)
        .unwrap_or_default()
        .chunks_exact(smb2::DESCRIPTOR_LENGTH)
        .filter_map(|bytes| at(bytes, 0))
        .collect()
}
