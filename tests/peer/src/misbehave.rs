// SPDX-License-Identifier: GPL-2.0-only

//! `misbehave`: a peer for fuzzing. What becomes of a connection is not checked: it is up to both
//! sides.

use crate::connection::Connection;
use crate::content::digest;
use crate::error::Result;
use crate::target::{open, private_data, Parameters, Target};
use crate::verbs::{QueueSizes, Region};
use crate::wire::{BufferDescriptor, DataHeader, NegotiateRequest};
use std::time::{Duration, Instant};

/// What a message with descriptors of our memory begins with; twin of the fuzzer's in
/// tests/fuzz/device.
const KEYS: &[u8] = b"KEYS";
/// Clients and sessions that the other side may have claimed, from 1 on; twin of the fuzzer's.
const IDENTITIES: u32 = 40;
/// Bytes of memory that the other side may read and write.
const MEMORY: usize = 1 << 20;

/// Dice that follow from a seed.
struct Dice {
    seed: u32,
    rolled: u32,
    left: Vec<u8>,
}

impl Dice {
    fn byte(&mut self) -> u8 {
        if self.left.is_empty() {
            self.rolled += 1;
            let input = [self.seed.to_le_bytes(), self.rolled.to_le_bytes()].concat();
            self.left = digest(&input).to_vec();
        }
        self.left.pop().unwrap_or(0)
    }

    fn below(&mut self, end: u32) -> u32 {
        let number = [self.byte(), self.byte(), self.byte(), self.byte()];
        u32::from_le_bytes(number) % end
    }

    fn pause(&mut self, milliseconds: u32) {
        std::thread::sleep(Duration::from_millis(self.below(milliseconds).into()));
    }
}

/// How to misbehave.
#[derive(Clone, Copy)]
pub struct Manners {
    pub seed: u32,
    pub end: Instant,
    /// Begin as an SMB client does.
    pub smb: bool,
}

/// Connects until the end; how many connections were negotiated, and how many were tried.
pub fn run(target: &Target, timeout: Duration, manners: Manners) -> (u32, u32) {
    let Manners { seed, end, .. } = manners;
    let mut dice = Dice {
        seed,
        rolled: 0,
        left: Vec::new(),
    };
    let (mut made, mut tried) = (0, 0);
    while Instant::now() < end {
        tried += 1;
        match dice.below(10) {
            0 => drop(half_open(target, timeout, &mut dice)),
            _ => made += u32::from(live(target, timeout, &mut dice, manners).is_ok()),
        }
    }
    (made, tried)
}

/// A queue pair on which no good negotiation comes.
fn half_open(target: &Target, timeout: Duration, dice: &mut Dice) -> Result<()> {
    let endpoint = open(target, timeout)?;
    endpoint.create_queue_pair(QueueSizes {
        sends: 4,
        receives: 4,
    })?;
    let memory = endpoint.register(4096, false)?;
    endpoint.post_receive(0, &memory, 2048, 2048)?;
    endpoint.connect(&private_data(&endpoint), timeout)?;
    if dice.below(2) == 0 {
        let mut request = NegotiateRequest {
            credits_requested: 255,
            preferred_send_size: 1364,
            max_receive_size: 1364,
            max_fragmented_size: 1 << 20,
        }
        .encode();
        let at = dice.below(request.len() as u32) as usize;
        request[at] = dice.byte();
        memory.write(0, &request);
        let length = 1 + dice.below(request.len() as u32) as usize;
        endpoint.post_send(1, &memory, 0, length, None)?;
    }
    dice.pause(300);
    match dice.below(3) {
        0 => endpoint.disconnect(),
        1 => endpoint.break_queue_pair(),
        _ => Ok(()),
    }
}

/// A connection that is negotiated, and what it does with its life.
fn live(target: &Target, timeout: Duration, dice: &mut Dice, manners: Manners) -> Result<()> {
    let parameters = Parameters {
        credits: [1, 2, 16, 64, 255][dice.below(5) as usize],
        max_send_size: [128, 1364, 4096][dice.below(3) as usize],
        max_receive_size: [128, 1364, 4096][dice.below(3) as usize],
        max_fragmented_size: [131072, 1 << 20][dice.below(2) as usize],
        timeout,
    };
    let mut connection = Connection::connect(target, parameters)?;
    let memory = connection.endpoint.register(MEMORY, true)?;
    // From here on an error is a life's end like another.
    let _ = begin(&mut connection, dice, &memory, manners.smb)
        .and_then(|()| act(&mut connection, dice, manners.end));
    match dice.below(4) {
        0 => connection.endpoint.break_queue_pair(),
        1 => {
            // The key goes with transfers under way.
            drop(memory);
            connection.disconnect()
        }
        2 => connection.disconnect(),
        _ => Ok(()),
    }
}

/// The first messages.
fn begin(connection: &mut Connection, dice: &mut Dice, memory: &Region, smb: bool) -> Result<()> {
    if smb {
        let client = 1 + dice.below(IDENTITIES) as u8;
        let mut negotiate = negotiate(client, dice.below(2) == 0);
        if dice.below(8) == 0 {
            let at = dice.below(negotiate.len() as u32) as usize;
            negotiate[at] = dice.byte();
        }
        connection.send(negotiate)?;
        // Mostly the answer comes meanwhile, if one comes.
        connection.idle(Duration::from_millis(dice.below(200).into()))?;
        if dice.below(4) != 0 {
            connection.send(session_setup((1 + dice.below(IDENTITIES)).into()))?;
        }
        // Whoever gets the connection has to accept it first.
        connection.idle(Duration::from_millis(dice.below(300).into()))?;
    }
    connection.send(keys(memory))
}

/// A header, [MS-SMB2] 2.2.1.2.
fn smb2(command: u16, session: u64) -> Vec<u8> {
    let mut bytes = b"\xfeSMB".to_vec();
    bytes.extend([64, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(command.to_le_bytes());
    bytes.extend([1, 0]);
    bytes.extend([0; 8]);
    bytes.extend(u64::from(command).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(session.to_le_bytes());
    bytes.extend([0; 16]);
    bytes
}

/// NEGOTIATE, [MS-SMB2] 2.2.3: for 3.0, or for 3.1.1 too, with one context.
fn negotiate(client: u8, newest: bool) -> Vec<u8> {
    let mut bytes = smb2(0, 0);
    bytes.extend([36, 0, 1 + u8::from(newest), 0, 1, 0, 0, 0, 0x44, 0, 0, 0]);
    bytes.extend([client; 16]);
    if newest {
        // Behind the header, this, and both dialects.
        bytes.extend([64 + 36 + 4, 0, 0, 0, 1, 0, 0, 0]);
        bytes.extend([0x00, 0x03, 0x11, 0x03]);
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0]);
    } else {
        bytes.extend([0; 8]);
        bytes.extend([0x00, 0x03]);
    }
    bytes
}

/// SESSION_SETUP, [MS-SMB2] 2.2.5.
fn session_setup(session: u64) -> Vec<u8> {
    let mut bytes = smb2(1, session);
    bytes.extend([25, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 88, 0, 4, 0]);
    bytes.extend([0; 8]);
    bytes.extend(b"blob");
    bytes
}

fn keys(memory: &Region) -> Vec<u8> {
    let mut message = KEYS.to_vec();
    for at in [0, MEMORY / 2] {
        let descriptor = BufferDescriptor {
            offset: memory.address(at),
            token: memory.remote_key(),
            length: (MEMORY / 2) as u32,
        };
        message.extend(descriptor.encode());
    }
    message
}

fn act(connection: &mut Connection, dice: &mut Dice, end: Instant) -> Result<()> {
    while Instant::now() < end && dice.below(12) != 0 {
        match dice.below(8) {
            0 => {
                // Takes nothing, answers nothing.
                dice.pause(500);
            }
            1 => {
                let size = 1 + dice.below(connection.max_fragmented_send_size.min(200_000));
                connection.send(vec![dice.byte(); size as usize])?;
            }
            2 if dice.below(4) == 0 => {
                let header = DataHeader {
                    credits_requested: dice.below(300) as u16,
                    credits_granted: dice.below(300) as u16,
                    flags: dice.below(4) as u16,
                    remaining: dice.below(3000),
                    ..DataHeader::default()
                };
                let mut bytes = header.encode(&[0; 40]);
                if dice.below(2) == 0 {
                    let at = dice.below(20) as usize;
                    bytes[at] = dice.byte();
                }
                connection.send_raw(&bytes)?;
            }
            _ => {
                let size = 1 + dice.below(2000);
                connection.send(vec![dice.byte(); size as usize])?;
                connection.idle(Duration::from_millis(dice.below(100).into()))?;
            }
        }
    }
    Ok(())
}
