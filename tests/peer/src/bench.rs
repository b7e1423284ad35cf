// SPDX-License-Identifier: GPL-2.0-only

//! `bench-target`: the far side of measurements (tests/bench).
//!
//! Its first message is one descriptor of memory that the server may read and write. Then it discards
//! what comes, save for requests, which have 12 bytes: `SEND`, how many, and of which size; it sends
//! so many messages. Ends when the server disconnects.

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::target::{Parameters, Target};
use crate::wire::BufferDescriptor;

const REQUEST: &[u8; 4] = b"SEND";

/// Messages to send, and their size, if that is what `message` asks for.
fn request(message: &[u8]) -> Option<(u32, u32)> {
    let numbers = message.strip_prefix(REQUEST)?;
    let (count, size) = numbers.split_first_chunk::<4>()?;
    let size: &[u8; 4] = size.try_into().ok()?;
    Some((u32::from_le_bytes(*count), u32::from_le_bytes(*size)))
}

/// Returns how many messages came.
pub fn run(target: &Target, parameters: Parameters, memory: usize) -> Result<u64> {
    let mut connection = Connection::connect(target, parameters)?;
    let region = connection.endpoint.register(memory, true)?;
    let descriptor = BufferDescriptor {
        offset: region.address(0),
        token: region.remote_key(),
        length: memory as u32,
    };
    connection.send(descriptor.encode().to_vec())?;
    let mut count = 0;
    loop {
        let message = match connection.receive() {
            Err(Error::Ended(_)) => return Ok(count),
            other => other?.bytes,
        };
        count += 1;
        if let Some((messages, size)) = request(&message) {
            let bytes = vec![0x5a; size as usize];
            for _ in 0..messages {
                connection.send(bytes.clone())?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_first_word_and_its_length() {
        assert_eq!(request(b"SEND\x02\0\0\0\0\x04\0\0"), Some((2, 1024)));
        assert_eq!(request(b"SEND\x02\0\0\0\0\x04\0\0\0"), None);
        assert_eq!(request(b"SEND"), None);
        assert_eq!(request(b"DATA\x02\0\0\0\0\x04\0\0"), None);
    }
}
