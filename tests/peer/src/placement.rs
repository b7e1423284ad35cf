// SPDX-License-Identifier: GPL-2.0-only

//! `placement`: our registered memory is read and written by the server, and checked.

use crate::connection::{Connection, Message, BIND};
use crate::content::{difference, digest, pattern};
use crate::error::{End, Error, Result};
use crate::target::{Parameters, Target};
use crate::verbs::{Region, Window};
use crate::wire::BufferDescriptor;
use std::time::Duration;

/// Which way the data go, as the server does it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Operation {
    /// The server writes our memory (RDMA_WRITE).
    Write,
    /// The server reads our memory (RDMA_READ).
    Read,
}

/// What we do wrong on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Fault {
    /// A descriptor's key is none of ours: the connection has to end.
    WrongKey,
    /// A descriptor reaches past its registration: the connection has to end.
    OutOfBounds,
    /// The memory was deregistered before: the connection has to end.
    Deregistered,
    /// Descriptors for one byte less: the server answers with EINVAL and goes on.
    ShortDescriptors,
    /// The process ends with a transfer under way.
    Vanish,
    /// The queue pair ends with a transfer under way, without a word.
    Abrupt,
    /// We disconnect in order with a transfer under way.
    Disconnect,
}

/// Flags of a request.
const INVALIDATE: u8 = 1 << 0;
const QUIET: u8 = 1 << 1;
const SEPARATE: u8 = 1 << 2;
/// Bytes between two descriptors' memory, which nobody may touch.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xee;
/// `EINVAL`, as the server answers it.
const EINVAL: u32 = 22;

/// What to move.
#[derive(Clone, Debug)]
pub struct Placement {
    pub operations: Vec<Operation>,
    pub sizes: Vec<u32>,
    pub descriptors: Vec<u32>,
    pub ranges: Vec<u32>,
    pub count: u32,
    pub regions: u32,
    pub quiet: bool,
    pub separate: bool,
    pub seed: u32,
}

/// One transfer.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    operation: Operation,
    flags: u8,
    length: u32,
    descriptors: u32,
    ranges: u32,
    regions: u32,
    seed: u32,
}

/// A transfer's memory, in pieces that the descriptors name.
struct Memory {
    regions: Vec<Region>,
    /// Region, offset and length of each descriptor.
    pieces: Vec<(usize, usize, usize)>,
}

/// Cuts `length` into `count` parts of unequal size, none empty.
fn split(length: usize, count: usize, seed: u32) -> Vec<usize> {
    let spare = length - count;
    let dice = pattern(seed ^ 0x5eed, 2 * count);
    let weights: Vec<u64> = dice
        .chunks(2)
        .map(|two| u64::from(two[0]) * 256 + u64::from(two[1]) + 1)
        .collect();
    let sum: u64 = weights.iter().sum();
    let mut parts: Vec<usize> = weights
        .iter()
        .map(|weight| 1 + (spare as u64 * weight / sum) as usize)
        .collect();
    let given: usize = parts.iter().sum();
    parts[count / 2] += length - given;
    parts
}

impl Memory {
    fn new(connection: &Connection, transfer: &Transfer) -> Result<Self> {
        let length = transfer.length as usize;
        let count = (transfer.descriptors as usize).clamp(1, length);
        let region_count = (transfer.regions as usize).clamp(1, count);
        let mut ends = vec![GUARD; region_count];
        let mut pieces = Vec::with_capacity(count);
        for (index, part) in split(length, count, transfer.seed).into_iter().enumerate() {
            let region = index % region_count;
            pieces.push((region, ends[region], part));
            ends[region] += part + GUARD;
        }
        let regions: Result<Vec<_>> = ends
            .iter()
            .map(|end| connection.endpoint.register(*end, true))
            .collect();
        let this = Self {
            regions: regions?,
            pieces,
        };
        for (region, end) in this.regions.iter().zip(ends) {
            region.write(0, &vec![GUARD_BYTE; end]);
        }
        Ok(this)
    }

    fn descriptors(&self) -> Vec<BufferDescriptor> {
        let descriptor = |&(region, at, length): &(usize, usize, usize)| BufferDescriptor {
            offset: self.regions[region].address(at),
            token: self.regions[region].remote_key(),
            length: length as u32,
        };
        self.pieces.iter().map(descriptor).collect()
    }

    fn fill(&self, bytes: &[u8]) {
        let mut from = 0;
        for &(region, at, length) in &self.pieces {
            self.regions[region].write(at, &bytes[from..from + length]);
            from += length;
        }
    }

    fn content(&self) -> Vec<u8> {
        let pieces = self.pieces.iter();
        pieces
            .flat_map(|&(region, at, length)| self.regions[region].read(at, length))
            .collect()
    }

    fn check_guards(&self) -> Result<()> {
        let around = self
            .pieces
            .iter()
            .flat_map(|&(region, at, length)| [(region, at - GUARD), (region, at + length)]);
        for (region, at) in around {
            if self.regions[region].read(at, GUARD) != [GUARD_BYTE; GUARD] {
                return Error::different(format!("bytes beside a descriptor changed, near {at}"));
            }
        }
        Ok(())
    }
}

fn request(transfer: &Transfer, descriptors: &[BufferDescriptor]) -> Vec<u8> {
    let letter = match transfer.operation {
        Operation::Write => b'W',
        Operation::Read => b'R',
    };
    let mut bytes = vec![letter, transfer.flags];
    bytes.extend((descriptors.len() as u16).to_le_bytes());
    bytes.extend(transfer.length.to_le_bytes());
    bytes.extend(transfer.seed.to_le_bytes());
    bytes.extend(transfer.ranges.to_le_bytes());
    bytes.extend(descriptors.iter().flat_map(BufferDescriptor::encode));
    bytes
}

/// The answer of a server that did what it should.
fn check_answer(transfer: &Transfer, memory: &Memory, answer: &Message) -> Result<()> {
    let content = pattern(transfer.seed, transfer.length as usize);
    let expected = match transfer.operation {
        Operation::Write => [&b"w"[..], &transfer.seed.to_le_bytes()].concat(),
        Operation::Read => [&b"r"[..], &digest(&content)].concat(),
    };
    if answer.bytes != expected {
        return Error::different(format!(
            "{transfer:?}: answer {:02x?}, expected {expected:02x?}",
            answer.bytes
        ));
    }
    if let Some(text) = difference(&content, &memory.content()) {
        return Error::different(format!("{transfer:?}: memory: {text}"));
    }
    memory.check_guards()
}

fn one(connection: &mut Connection, transfer: &Transfer) -> Result<()> {
    let memory = Memory::new(connection, transfer)?;
    if transfer.operation == Operation::Read {
        memory.fill(&pattern(transfer.seed, transfer.length as usize));
    }
    let answer = connection.ask(request(transfer, &memory.descriptors()))?;
    if let Some(key) = answer.invalidated {
        return Error::different(format!("{transfer:?}: key {key:#x} came invalidated"));
    }
    check_answer(transfer, &memory, &answer)
}

/// What to transfer, round after round; a byte cannot be split.
fn combinations(placement: &Placement) -> Vec<(u32, u32, u32, Operation)> {
    let mut all = Vec::new();
    for &length in &placement.sizes {
        for &descriptors in &placement.descriptors {
            for &ranges in &placement.ranges {
                for &operation in &placement.operations {
                    all.push((
                        length,
                        descriptors.min(length),
                        ranges.min(length),
                        operation,
                    ));
                }
            }
        }
    }
    all.repeat(placement.count as usize)
}

/// Every combination of `placement`, over one connection; returns how many.
pub fn run(target: &Target, parameters: Parameters, placement: &Placement) -> Result<u32> {
    let mut connection = Connection::connect(target, parameters)?;
    let flags =
        if placement.quiet { QUIET } else { 0 } | if placement.separate { SEPARATE } else { 0 };
    let mut count = 0;
    for (length, descriptors, ranges, operation) in combinations(placement) {
        let seed = placement.seed.wrapping_add(count);
        let regions = placement.regions;
        one(
            &mut connection,
            &Transfer {
                operation,
                flags,
                length,
                descriptors,
                ranges,
                regions,
                seed,
            },
        )?;
        count += 1;
    }
    connection.disconnect()?;
    Ok(count)
}

/// Memory with a key that can be invalidated from afar: a window, or on iWARP a plain region.
struct Invalidatable {
    window: Option<Window>,
    memory: Memory,
}

impl Invalidatable {
    fn new(connection: &mut Connection, transfer: &Transfer) -> Result<Self> {
        let memory = Memory::new(connection, transfer)?;
        let window = if connection.endpoint.is_iwarp() {
            None
        } else {
            let (region, at, length) = memory.pieces[0];
            let window = connection
                .endpoint
                .window(BIND, &memory.regions[region], at, length)?;
            connection.await_bind()?;
            Some(window)
        };
        Ok(Self { window, memory })
    }

    fn descriptors(&self) -> Vec<BufferDescriptor> {
        let mut descriptors = self.memory.descriptors();
        if let Some(window) = &self.window {
            descriptors[0].token = window.remote_key();
        }
        descriptors
    }
}

/// Remote invalidation: the answer carries it, the other descriptors stay good, and the key is
/// dead afterwards.
pub fn invalidation(target: &Target, parameters: Parameters, placement: &Placement) -> Result<u32> {
    let mut connection = Connection::connect(target, parameters)?;
    // Enough for two descriptors.
    let length = *placement
        .sizes
        .iter()
        .find(|size| **size >= 4096)
        .unwrap_or(&65536);
    let transfer = |operation, seed| Transfer {
        operation,
        flags: INVALIDATE,
        length,
        descriptors: 2,
        ranges: 1,
        regions: 2,
        seed,
    };
    let mut count = 0;
    for &operation in &placement.operations {
        let transfer = transfer(operation, placement.seed.wrapping_add(count));
        let memory = Invalidatable::new(&mut connection, &transfer)?;
        if operation == Operation::Read {
            memory.memory.fill(&pattern(transfer.seed, length as usize));
        }
        let descriptors = memory.descriptors();
        let answer = connection.ask(request(&transfer, &descriptors))?;
        check_answer(&transfer, &memory.memory, &answer)?;
        // siw does not tell user space which key it was.
        if !connection.endpoint.is_iwarp() && answer.invalidated != Some(descriptors[0].token) {
            return Error::different(format!(
                "{operation:?}: invalidated {:x?}, expected {:#x}",
                answer.invalidated, descriptors[0].token
            ));
        }
        count += 1;
        let second = Transfer {
            flags: 0,
            length: descriptors[1].length,
            ..transfer
        };
        connection.send(request(&second, &descriptors[1..]))?;
        let answer = connection.receive()?;
        if answer.bytes[0] != request(&second, &[])[0].to_ascii_lowercase() {
            return Error::different("the second descriptor died with the first");
        }
        if Some(&operation) == placement.operations.last() {
            connection.send(request(
                &Transfer {
                    flags: 0,
                    ..transfer
                },
                &descriptors,
            ))?;
            expect_end(&mut connection, "use of an invalidated key")?;
        }
    }
    Ok(count)
}

fn expect_end(connection: &mut Connection, what: &str) -> Result<End> {
    match connection.receive() {
        Err(Error::Ended(end)) => Ok(end),
        Err(other) => Err(other),
        Ok(message) => Error::different(format!("{what}: answered with {:02x?}", message.bytes)),
    }
}

/// Does one thing wrong, and checks how that ends; says it in words.
pub fn fault(
    target: &Target,
    parameters: Parameters,
    placement: &Placement,
    fault: Fault,
) -> Result<String> {
    let mut connection = Connection::connect(target, parameters)?;
    let transfer = Transfer {
        operation: *placement.operations.first().unwrap_or(&Operation::Write),
        flags: 0,
        length: *placement.sizes.first().unwrap_or(&65536),
        descriptors: *placement.descriptors.first().unwrap_or(&1),
        ranges: 1,
        regions: 1,
        seed: placement.seed,
    };
    let mut memory = Memory::new(&connection, &transfer)?;
    let mut descriptors = memory.descriptors();
    let last = descriptors.len() - 1;
    match fault {
        Fault::WrongKey => descriptors[last].token ^= 0x55,
        Fault::OutOfBounds => descriptors[last].offset += GUARD as u64 + 1,
        Fault::Deregistered => memory.regions[0].deregister()?,
        Fault::ShortDescriptors => descriptors[last].length -= 1,
        Fault::Vanish | Fault::Abrupt | Fault::Disconnect => {}
    }
    connection.send(request(&transfer, &descriptors))?;
    match fault {
        Fault::WrongKey | Fault::OutOfBounds | Fault::Deregistered => {
            expect_end(&mut connection, "a bad key").map(|end| end.to_string())
        }
        Fault::ShortDescriptors => {
            let answer = connection.receive()?.bytes;
            if answer != [&b"!"[..], &EINVAL.to_le_bytes()].concat() {
                return Error::different(format!("answered with {answer:02x?}"));
            }
            memory.check_guards()?;
            one(&mut connection, &transfer)?;
            connection.disconnect()?;
            Ok("refused, and the connection goes on".into())
        }
        Fault::Vanish => {
            connection.flush()?;
            println!("vanish: the request was sent, and now this process ends");
            std::process::exit(0);
        }
        Fault::Abrupt => {
            connection.flush()?;
            connection.endpoint.break_queue_pair()?;
            std::thread::sleep(Duration::from_secs(1));
            Ok("the queue pair was ended".into())
        }
        Fault::Disconnect => {
            connection.flush()?;
            connection.disconnect()?;
            Ok("disconnected under a transfer".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_makes_parts_that_add_up() {
        for (length, count) in [(1, 1), (7, 7), (8, 3), (65536, 16), (1 << 20, 4095)] {
            let parts = split(length, count, 3);
            assert_eq!(parts.len(), count);
            assert_eq!(parts.iter().sum::<usize>(), length);
            assert!(parts.iter().all(|part| *part > 0));
        }
        let parts = split(65536, 4, 3);
        assert!(parts.iter().any(|part| *part != parts[0]), "{parts:?}");
    }

    #[test]
    fn request_has_the_bytes_that_the_server_reads() {
        let transfer = Transfer {
            operation: Operation::Write,
            flags: INVALIDATE,
            length: 0x1000,
            descriptors: 1,
            ranges: 3,
            regions: 1,
            seed: 7,
        };
        let descriptor = BufferDescriptor {
            offset: 0x0102,
            token: 0x0304,
            length: 0x1000,
        };
        let bytes = request(&transfer, &[descriptor]);
        assert_eq!(
            bytes[..16],
            [b'W', 1, 1, 0, 0, 0x10, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0]
        );
        assert_eq!(
            bytes[16..],
            [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0x10, 0, 0]
        );
    }
}
