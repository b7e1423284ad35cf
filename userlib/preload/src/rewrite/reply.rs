// SPDX-License-Identifier: MIT OR Apache-2.0

//! From smbd to the client.

use super::{Pending, Refused, Rewriter, Segment};
use crate::smb2::{self, Header, ReadResponse};
use std::ops::Range;
use std::sync::Arc;
use usmbd::BufferDescriptorV1;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

/// A message that lies in pieces: what sendmsg() was given, without copying it together.
#[derive(Debug)]
pub struct Gather<'a> {
    parts: Vec<&'a [u8]>,
    length: usize,
}

impl<'a> Gather<'a> {
    /// From pieces in order; empty ones are allowed.
    pub fn new(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let parts = parts.into_iter();
        let mut gather = Self {
            parts: Vec::with_capacity(parts.size_hint().1.unwrap_or_default()),
            length: 0,
        };
        for part in parts.filter(|part| !part.is_empty()) {
            gather.length += part.len();
            gather.parts.push(part);
        }
        gather
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces of a part of it, cut at what there is.
    pub fn parts(&self, range: Range<usize>) -> impl Iterator<Item = &'a [u8]> + '_ {
        let mut start = 0;
        self.parts.iter().filter_map(move |part| {
            let from = range.start.clamp(start, start + part.len()) - start;
            let to = range.end.clamp(start, start + part.len()) - start;
            start += part.len();
            part.get(from..to).filter(|piece| !piece.is_empty())
        })
    }

    /// A part of it, copied together.
    pub fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        self.parts(range)
            .for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// A value that stands at `offset`; `None` if it is not all there.
    pub fn at<T: FromBytes + IntoBytes>(&self, offset: usize) -> Option<T> {
        let mut value = T::new_zeroed();
        let mut room = value.as_mut_bytes();
        let end = offset
            .checked_add(room.len())
            .filter(|end| *end <= self.length)?;
        for part in self.parts(offset..end) {
            let (now, later) = room.split_at_mut(part.len());
            now.copy_from_slice(part);
            room = later;
        }
        Some(value)
    }
}

/// What becomes of a message of smbd's.
#[derive(Debug, Default)]
pub struct Reply {
    /// The message for the client, in order.
    pub segments: Vec<Segment>,
    /// Bytes of it.
    pub length: usize,
    /// Data that goes ahead of it.
    pub placements: Vec<Placement>,
    /// What the message has to invalidate.
    pub invalidate: Option<u32>,
    /// Requests that it answers for good.
    answered: Vec<u64>,
}

/// Data to be written to the client's memory.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Of the READ.
    pub message_id: u64,
    /// Where in the original message the data lies.
    pub data: Range<usize>,
    /// Where it goes.
    pub descriptors: Arc<[BufferDescriptorV1]>,
}

impl Reply {
    /// A message of `length` bytes as it is.
    pub fn original(length: usize) -> Self {
        Self {
            segments: vec![Segment::Original(0..length)],
            length,
            ..Self::default()
        }
    }

    /// Whether the client gets the very bytes that smbd sent.
    pub fn is_original(&self) -> bool {
        self.placements.is_empty()
    }
}

impl Rewriter {
    /// Plans what goes to the client for this message of smbd's. May be called again for the same
    /// message; once it has gone, tell so by [`Rewriter::answered`].
    ///
    /// # Errors
    ///
    /// [`Refused`]: the connection cannot go on.
    pub fn reply(&mut self, message: &Gather<'_>) -> Result<Reply, Refused> {
        let mut reply = Reply::original(message.len());
        if self.dialect == 0 {
            self.learn_dialect(message);
        }
        if self.pending.is_empty() {
            return Ok(reply);
        }
        let Some(elements) = elements(message) else {
            return Ok(reply);
        };
        let is_signed = elements.iter().any(|(_, header)| header.is_signed());
        let mut segments = Vec::with_capacity(elements.len());
        let mut length = 0;
        for (range, header) in &elements {
            let mut push = |segment, bytes: usize| {
                segments.push(segment);
                length += bytes;
            };
            if let Some(pending) = self.answers(header) {
                reply.answered.push(header.message_id.get());
                reply.invalidate = reply.invalidate.or(pending.token);
                if let Some(placed) = place(message, range, header, pending)? {
                    if is_signed {
                        return Err(Refused::SignedReply);
                    }
                    push(Segment::Bytes(placed.response), smb2::READ_RESPONSE_LENGTH);
                    // A success without data: nothing to write, but the form is the same.
                    reply.placements.extend(placed.placement);
                    continue;
                }
            }
            push(Segment::Original(range.clone()), range.len());
        }
        if !reply.placements.is_empty() || length != reply.length {
            reply.segments = segments;
            reply.length = length;
        }
        Ok(reply)
    }

    /// The message of this plan has gone.
    pub fn answered(&mut self, reply: &Reply) {
        for message_id in &reply.answered {
            self.remove(*message_id);
        }
    }

    fn answers(&self, header: &Header) -> Option<&Pending> {
        if header.is_interim() || header.flags.get() & smb2::FLAG_RESPONSE == 0 {
            return None;
        }
        self.pending
            .get(&header.message_id.get())
            .filter(|pending| pending.command == header.command.get())
    }

    /// Reads the dialect from a NEGOTIATE response.
    fn learn_dialect(&mut self, message: &Gather<'_>) {
        const DIALECT_OFFSET: usize = smb2::HEADER_LENGTH + 4;
        let Some(header) = message.at::<Header>(0) else {
            return;
        };
        let is_response = header.protocol_id == smb2::PROTOCOL_ID
            && header.command.get() == smb2::NEGOTIATE
            && header.flags.get() & smb2::FLAG_RESPONSE != 0
            && header.status == U32::ZERO;
        if let Some(dialect) = message.at::<[u8; 2]>(DIALECT_OFFSET) {
            // 0x02FF means that a second NEGOTIATE follows.
            let dialect = u16::from_le_bytes(dialect);
            if is_response && dialect != 0x02FF {
                self.dialect = dialect;
            }
        }
    }
}

/// A READ response without its data, and where the data goes.
struct Placed {
    response: Vec<u8>,
    placement: Option<Placement>,
}

/// What becomes of the answer to a READ; `None` if it carries no data: an error.
fn place(
    message: &Gather<'_>,
    range: &Range<usize>,
    header: &Header,
    pending: &Pending,
) -> Result<Option<Placed>, Refused> {
    let Some(target) = &pending.target else {
        return Ok(None);
    };
    let body_offset = range.start + smb2::HEADER_LENGTH;
    let Some(mut body) = message.at::<ReadResponse>(body_offset) else {
        // Error responses have 9 bytes.
        return Ok(None);
    };
    if body.structure_size.get() != smb2::READ_RESPONSE_SIZE {
        return Ok(None);
    }
    let length = body.data_length.get();
    let start = range.start + usize::from(body.data_offset);
    let end = start
        .checked_add(length as usize)
        .filter(|end| *end <= range.end)
        .ok_or(Refused::MalformedReply)?;
    if length > target.length || (length != 0 && start < body_offset + size_of::<ReadResponse>()) {
        return Err(Refused::MalformedReply);
    }
    // READ_RESPONSE_LENGTH is below 256, and a multiple of 8: no padding.
    body.data_offset = smb2::READ_RESPONSE_LENGTH as u8;
    body.data_length = U32::ZERO;
    body.data_remaining = U32::new(length);
    let mut header = *header;
    if header.next_command != U32::ZERO {
        header.next_command = U32::new(smb2::READ_RESPONSE_LENGTH as u32);
    }
    let response = [header.as_bytes(), body.as_bytes()].concat();
    let placement = (length != 0).then(|| Placement {
        message_id: header.message_id.get(),
        data: start..end,
        descriptors: target.descriptors.clone(),
    });
    Ok(Some(Placed {
        response,
        placement,
    }))
}

/// The elements of a message of smbd's; `None` if it is not made of SMB2 responses.
fn elements(message: &Gather<'_>) -> Option<Vec<(Range<usize>, Header)>> {
    let mut elements = Vec::with_capacity(1);
    let mut start = 0;
    loop {
        let header = message.at::<Header>(start)?;
        if header.protocol_id != smb2::PROTOCOL_ID {
            return None;
        }
        let next = header.next_command.get() as usize;
        if next != 0 && (next < smb2::HEADER_LENGTH || next % 8 != 0) {
            return None;
        }
        let end = if next == 0 {
            message.len()
        } else {
            start.checked_add(next).filter(|end| *end < message.len())?
        };
        elements.push((start..end, header));
        if next == 0 {
            return Some(elements);
        }
        start = end;
    }
}
