// SPDX-License-Identifier: GPL-2.0-only

//! The bytes of [MS-SMBD], written down a second time on purpose.

use crate::error::{Error, Result};

/// The only version there is.
pub const VERSION: u16 = 0x0100;
/// Bytes of a Negotiate Request, [MS-SMBD] 2.2.1.
pub const REQUEST_LENGTH: usize = 20;
/// Bytes of a Negotiate Response, [MS-SMBD] 2.2.2.
pub const RESPONSE_LENGTH: usize = 32;
/// Bytes of a Data Transfer header, and of a whole empty message; [MS-SMBD] 2.2.3.
pub const HEADER_LENGTH: usize = 20;
/// Where we put the payload.
pub const DATA_OFFSET: usize = 24;
/// Flag: the receiver has to send something soon.
pub const RESPONSE_REQUESTED: u16 = 0x0001;
/// Least MaxReceiveSize.
pub const LEAST_RECEIVE_SIZE: u32 = 128;
/// Least MaxFragmentedSize.
pub const LEAST_FRAGMENTED_SIZE: u32 = 131072;

/// Reads little-endian numbers one after another.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (first, rest) = self.0.split_at(N);
        self.0 = rest;
        first.try_into().expect("split_at gave N bytes")
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

fn reader<'a>(bytes: &'a [u8], length: usize, what: &str) -> Result<Reader<'a>> {
    if bytes.len() < length {
        return Error::protocol(format!("{what} of {} bytes, needs {length}", bytes.len()));
    }
    Ok(Reader(bytes))
}

/// Negotiate Request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NegotiateRequest {
    pub credits_requested: u16,
    pub preferred_send_size: u32,
    pub max_receive_size: u32,
    pub max_fragmented_size: u32,
}

impl NegotiateRequest {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REQUEST_LENGTH);
        for half in [VERSION, VERSION, 0, self.credits_requested] {
            bytes.extend(half.to_le_bytes());
        }
        for word in [
            self.preferred_send_size,
            self.max_receive_size,
            self.max_fragmented_size,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = reader(bytes, REQUEST_LENGTH, "negotiate request")?;
        let (least, most, _) = (reader.u16(), reader.u16(), reader.u16());
        let request = Self {
            credits_requested: reader.u16(),
            preferred_send_size: reader.u32(),
            max_receive_size: reader.u32(),
            max_fragmented_size: reader.u32(),
        };
        if !(least..=most).contains(&VERSION)
            || request.credits_requested == 0
            || request.max_receive_size < LEAST_RECEIVE_SIZE
            || request.max_fragmented_size < LEAST_FRAGMENTED_SIZE
        {
            return Error::protocol(format!(
                "negotiate request {least:#x}-{most:#x} {request:?}"
            ));
        }
        Ok(request)
    }
}

/// Negotiate Response of success.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NegotiateResponse {
    pub credits_requested: u16,
    pub credits_granted: u16,
    pub max_read_write_size: u32,
    pub preferred_send_size: u32,
    pub max_receive_size: u32,
    pub max_fragmented_size: u32,
}

impl NegotiateResponse {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RESPONSE_LENGTH);
        let halves = [
            VERSION,
            VERSION,
            VERSION,
            0,
            self.credits_requested,
            self.credits_granted,
        ];
        for half in halves {
            bytes.extend(half.to_le_bytes());
        }
        for word in [
            0,
            self.max_read_write_size,
            self.preferred_send_size,
            self.max_receive_size,
            self.max_fragmented_size,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    /// Decodes and checks all that the initiator has to, [MS-SMBD] 3.1.5.7.
    pub fn decode(bytes: &[u8], own_max_receive_size: u32) -> Result<Self> {
        let mut reader = reader(bytes, RESPONSE_LENGTH, "negotiate response")?;
        let (_, _, version, _) = (reader.u16(), reader.u16(), reader.u16(), reader.u16());
        let (credits_requested, credits_granted) = (reader.u16(), reader.u16());
        let status = reader.u32();
        let response = Self {
            credits_requested,
            credits_granted,
            max_read_write_size: reader.u32(),
            preferred_send_size: reader.u32(),
            max_receive_size: reader.u32(),
            max_fragmented_size: reader.u32(),
        };
        let wrong = if status != 0 {
            "status"
        } else if version != VERSION {
            "version"
        } else if credits_requested == 0 || credits_granted == 0 {
            "credits"
        } else if response.max_receive_size < LEAST_RECEIVE_SIZE
            || response.max_fragmented_size < LEAST_FRAGMENTED_SIZE
            || response.preferred_send_size > own_max_receive_size
        {
            "sizes"
        } else {
            return Ok(response);
        };
        Error::protocol(format!(
            "{wrong} of the negotiate response: version {version:#x}, status {status:#010x}, \
             {response:?}"
        ))
    }
}

/// Header of a Data Transfer message.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DataHeader {
    pub credits_requested: u16,
    pub credits_granted: u16,
    pub flags: u16,
    pub remaining: u32,
    pub length: u32,
}

impl DataHeader {
    /// The message with this header and payload; `length` is taken from the payload.
    pub fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DATA_OFFSET + payload.len());
        for half in [self.credits_requested, self.credits_granted, self.flags, 0] {
            bytes.extend(half.to_le_bytes());
        }
        let empty = payload.is_empty();
        let offset = if empty { 0 } else { DATA_OFFSET as u32 };
        for word in [self.remaining, offset, payload.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        if !empty {
            bytes.extend([0; DATA_OFFSET - HEADER_LENGTH]);
            bytes.extend(payload);
        }
        bytes
    }

    /// Decodes and checks what [MS-SMBD] 3.1.5.8 says about one message alone, and what a sender
    /// SHOULD do besides. The payload stands beside the header.
    pub fn decode(bytes: &[u8], max_fragmented_size: u32) -> Result<(Self, &[u8])> {
        let mut reader = reader(bytes, HEADER_LENGTH, "data transfer")?;
        let (credits_requested, credits_granted, flags, _) =
            (reader.u16(), reader.u16(), reader.u16(), reader.u16());
        let (remaining, offset, length) = (reader.u32(), reader.u32(), reader.u32());
        let header = Self {
            credits_requested,
            credits_granted,
            flags,
            remaining,
            length,
        };
        let end = u64::from(offset) + u64::from(length);
        let wrong = if credits_requested == 0 {
            "requests no credits"
        } else if offset % 8 != 0 || (length > 0 && offset < DATA_OFFSET as u32) {
            "has a wrong data offset"
        } else if end > bytes.len() as u64 {
            "has data past its end"
        } else if u64::from(length) + u64::from(remaining) > u64::from(max_fragmented_size) {
            "announces too long a message"
        } else if length == 0 && (offset != 0 || bytes.len() != HEADER_LENGTH) && remaining == 0 {
            "is empty but not of the empty form"
        } else if length > 0 && end != bytes.len() as u64 {
            "has bytes behind its data"
        } else if flags & !RESPONSE_REQUESTED != 0 {
            "has unknown flags"
        } else {
            return Ok((header, &bytes[offset as usize..end as usize]));
        };
        Error::protocol(format!(
            "data transfer {wrong}: offset {offset}, {header:?}"
        ))
    }
}

/// Buffer Descriptor V1, [MS-SMBD] 2.2.3.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BufferDescriptor {
    pub offset: u64,
    pub token: u32,
    pub length: u32,
}

impl BufferDescriptor {
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.token.to_le_bytes());
        bytes[12..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests;
