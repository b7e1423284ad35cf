// SPDX-License-Identifier: GPL-2.0-only

//! `ksmbd`: an SMB2 NEGOTIATE over our own SMB Direct, as an oracle's check of this very peer.

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::target::{Parameters, Target};

/// Bytes of an SMB2 header.
const HEADER: usize = 64;

/// NEGOTIATE of dialects 2.0.2, 2.1, 3.0 and 3.0.2; [MS-SMB2] 2.2.3.
fn negotiate() -> Vec<u8> {
    let dialects: [u16; 4] = [0x0202, 0x0210, 0x0300, 0x0302];
    let mut bytes = b"\xfeSMB".to_vec();
    bytes.extend(64u16.to_le_bytes());
    bytes.resize(14, 0);
    bytes.extend(1u16.to_le_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend(36u16.to_le_bytes());
    bytes.extend((dialects.len() as u16).to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.resize(HEADER + 12, 0);
    bytes.extend(b"usmbd-peer guid!");
    bytes.resize(HEADER + 36, 0);
    bytes.extend(dialects.iter().flat_map(|dialect| dialect.to_le_bytes()));
    bytes
}

/// Negotiates, and says which dialect the server took.
pub fn run(target: &Target, parameters: Parameters) -> Result<String> {
    let mut connection = Connection::connect(target, parameters)?;
    let sizes = format!(
        "max_send_size {}, max_fragmented_send_size {}, max_read_write_size {}",
        connection.max_send_size,
        connection.max_fragmented_send_size,
        connection.max_read_write_size
    );
    let answer = connection.ask(negotiate())?.bytes;
    connection.disconnect()?;
    if answer.len() < HEADER + 64 || !answer.starts_with(b"\xfeSMB") {
        return Error::different(format!("not an SMB2 NEGOTIATE response: {answer:02x?}"));
    }
    let status = &answer[8..12];
    let command = &answer[12..14];
    let dialect = &answer[HEADER + 4..HEADER + 6];
    if status != [0; 4] || command != [0; 2] || dialect != [0x02, 0x03] {
        return Error::different(format!(
            "status {status:02x?}, command {command:02x?}, dialect {dialect:02x?}"
        ));
    }
    Ok(format!("ksmbd: dialect 3.0.2, {sizes}"))
}
