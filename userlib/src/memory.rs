// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registration area, room in it, and the status page.

use crate::abi::memory::{
    self, MemoryRange, Negotiated, StatusPage as Record, BUFFER_SIZE, STATUS_PAGE_LENGTH,
    STATUS_PAGE_OFFSET,
};
use crate::connection::{ConnectionId, Fabric};
use crate::events::MemoryParameters;
use crate::sys::Mapping;
use crate::{address, Context, EndReason, Error, Result};
use std::borrow::Cow;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// Room is given out in units of this many bytes.
const UNIT: usize = 4096;
/// Units of one buffer.
const UNITS: usize = BUFFER_SIZE as usize / UNIT;

/// The registration area of this process: memory that RDMA transfers move data from and to.
///
/// Buffers of 1 MiB, by default 64 of them, of which each gets memory at its first use. The driver
/// gives one process one area, so map it once and use it with all contexts of the process (each
/// of which must have mapped it too: [`Area::attach`]). Clones are the same area.
///
/// # Fork
///
/// A child made by fork() does not have the mapping. It must not touch the leases it inherited, and
/// maps its own area.
#[derive(Clone)]
pub struct Area {
    shared: Arc<Shared>,
}

struct Shared {
    mapping: Mapping,
    buffers: Mutex<Vec<Buffer>>,
}

/// What is in use of one buffer.
#[derive(Clone)]
struct Buffer {
    used: [u64; UNITS / 64],
    /// When the last lease in it ended; `None` in use, or without memory.
    idle_since: Option<Instant>,
    /// Whether its pages were mapped since it was trimmed. The driver takes ranges only of buffers
    /// that the process has touched.
    has_memory: bool,
}

impl Buffer {
    fn is_used(&self, unit: usize) -> bool {
        self.used[unit / 64] >> (unit % 64) & 1 != 0
    }

    fn is_idle(&self) -> bool {
        self.used.iter().all(|word| *word == 0)
    }

    fn set(&mut self, run: &Run, used: bool) {
        for (index, word) in self.used.iter_mut().enumerate() {
            let start = index * 64;
            let first = run.first.clamp(start, start + 64) - start;
            let count = (run.first + run.units).clamp(start, start + 64) - start - first;
            let bits = match count {
                0 => continue,
                _ => (u64::MAX >> (64 - count)) << first,
            };
            if used {
                *word |= bits;
            } else {
                *word &= !bits;
            }
        }
    }

    /// The first free run of `wanted` units, or else the longest free one.
    fn find(&self, wanted: usize) -> Option<(usize, usize)> {
        if self.is_idle() {
            return Some((0, wanted.min(UNITS)));
        }
        let mut longest = (0, 0);
        let mut unit = 0;
        while unit < UNITS {
            if self.is_used(unit) {
                unit += 1;
                continue;
            }
            let first = unit;
            while unit < UNITS && unit - first < wanted && !self.is_used(unit) {
                unit += 1;
            }
            if unit - first > longest.1 {
                longest = (first, unit - first);
            }
            if longest.1 == wanted {
                break;
            }
        }
        (longest.1 != 0).then_some(longest)
    }
}

/// Units of one buffer that belong together.
#[derive(Clone, Copy, Debug)]
struct Run {
    buffer: usize,
    first: usize,
    units: usize,
}

impl Area {
    /// Maps the area of this process through `context`, whose transfers may use it from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Call`] with `ENOMEM` where a limit is reached.
    pub fn map(context: &Context, parameters: &MemoryParameters) -> Result<Self> {
        if parameters.buffer_size != BUFFER_SIZE || parameters.buffer_count == 0 {
            return Err(Error::Malformed("buffers that are not of 1 MiB"));
        }
        let count = parameters.buffer_count as usize;
        let mapping = map(context, parameters)?;
        let idle = Buffer {
            used: [0; UNITS / 64],
            idle_since: None,
            has_memory: false,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                mapping,
                buffers: Mutex::new(vec![idle; count]),
            }),
        })
    }

    /// Lets the transfers of another context of this process use the area: the driver accepts
    /// ranges only of a context that was mapped by the process that names them. What is returned
    /// must live as long as the context transfers.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn attach(&self, context: &Context, parameters: &MemoryParameters) -> Result<Attached> {
        Ok(Attached {
            _mapping: map(context, parameters)?,
        })
    }

    /// Buffers that there is room for.
    pub fn buffer_count(&self) -> usize {
        self.shared.mapping.length() / BUFFER_SIZE as usize
    }

    /// Room for `length` bytes, of undefined contents; `None` if there is not enough just now, or
    /// the driver has reached a limit of memory.
    ///
    /// Up to 1 MiB lies in one buffer if at all possible. The buffers with the lowest numbers are
    /// used first, so that the others can stay without memory.
    pub fn lease(&self, length: usize) -> Option<Lease> {
        if length == 0 || length > self.shared.mapping.length() {
            return None;
        }
        let units = length.div_ceil(UNIT);
        let mut buffers = self.shared.lock();
        let mut runs = find_runs(&buffers, units)?;
        if !self.shared.populate(&mut buffers, &runs) {
            // Then what has memory must do.
            let mut others = buffers.clone();
            for buffer in others.iter_mut().filter(|buffer| !buffer.has_memory) {
                buffer.used = [u64::MAX; UNITS / 64];
            }
            runs = find_runs(&others, units)?;
        }
        for run in &runs {
            let buffer = &mut buffers[run.buffer];
            buffer.set(run, true);
            buffer.idle_since = None;
        }
        drop(buffers);
        Some(Lease {
            shared: self.shared.clone(),
            runs,
            length,
        })
    }

    /// Lets go of the memory of buffers that nobody has leased for `idle`; the driver frees it when
    /// no process has it mapped and it was unused for a minute. Returns how many buffers. Call it
    /// now and then, as from a timer: some seconds are a good `idle`.
    ///
    /// # Errors
    ///
    /// [`Error::Call`].
    pub fn trim(&self, idle: Duration) -> Result<usize> {
        let mut trimmed = 0;
        let mut buffers = self.shared.lock();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            if buffer
                .idle_since
                .is_some_and(|since| since.elapsed() >= idle)
            {
                let size = BUFFER_SIZE as usize;
                self.shared
                    .mapping
                    .release(index * size, size)
                    .map_err(|error| Error::call("madvise", error))?;
                buffer.idle_since = None;
                buffer.has_memory = false;
                trimmed += 1;
            }
        }
        Ok(trimmed)
    }
}

impl std::fmt::Debug for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let buffers = self.shared.lock();
        f.debug_struct("Area")
            .field("buffers", &buffers.len())
            .field("idle", &buffers.iter().filter(|b| b.is_idle()).count())
            .finish()
    }
}

fn map(context: &Context, parameters: &MemoryParameters) -> Result<Mapping> {
    let length = parameters.buffer_count as usize * parameters.buffer_size as usize;
    Mapping::new(context.as_fd(), parameters.area_offset, length, true)
        .and_then(Mapping::kept_from_children)
        .map_err(|error| Error::call("mmap of the registration area", error))
}

impl Shared {
    /// Gives memory to the buffers that have none; `false` at a limit.
    fn populate(&self, buffers: &mut [Buffer], runs: &[Run]) -> bool {
        runs.iter().all(|run| {
            let buffer = &mut buffers[run.buffer];
            if !buffer.has_memory {
                // Asked for, not just touched: at a limit that would be a SIGBUS.
                let size = BUFFER_SIZE as usize;
                if self.mapping.populate(run.buffer * size, size).is_err() {
                    return false;
                }
                buffer.has_memory = true;
                buffer.idle_since = Some(Instant::now());
            }
            true
        })
    }

    /// A panic elsewhere leaves no lease half made, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Vec<Buffer>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First fit of portions of at most a buffer; where a portion fits nowhere whole, pieces of it.
fn find_runs(buffers: &[Buffer], units: usize) -> Option<Vec<Run>> {
    // Copied only if more than one run is needed: mostly the first fits whole.
    let mut buffers = Cow::Borrowed(buffers);
    let mut runs = Vec::new();
    let mut missing = units;
    while missing != 0 {
        let wanted = missing.min(UNITS);
        let mut best: Option<Run> = None;
        for (index, buffer) in buffers.iter().enumerate() {
            if let Some((first, units)) = buffer.find(wanted) {
                if best.is_none_or(|best| units > best.units) {
                    best = Some(Run {
                        buffer: index,
                        first,
                        units,
                    });
                }
                if units == wanted {
                    break;
                }
            }
        }
        let run = best?;
        missing -= run.units;
        if missing != 0 {
            buffers.to_mut()[run.buffer].set(&run, true);
        }
        runs.push(run);
        if runs.len() > usize::from(crate::abi::command::MAX_RANGES) {
            return None;
        }
    }
    Some(runs)
}

/// A context's right to use this process's area; see [`Area::attach`].
pub struct Attached {
    _mapping: Mapping,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attached")
    }
}

/// Room in an [`Area`]; given back when dropped.
///
/// Keep it until the [`RdmaComplete`](crate::Event::RdmaComplete) of each transfer that names it or, with
/// `quiet`, of a later transfer of the same kind on the same connection. (The completion of another
/// kind says nothing: RDMA reads pass what waits for credits.) Dropped earlier, the room may go to
/// somebody else while the device still moves data there. Nothing worse happens, neither to other
/// processes nor to memory outside the area.
pub struct Lease {
    shared: Arc<Shared>,
    runs: Vec<Run>,
    length: usize,
}

impl Lease {
    /// Bytes asked for.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never: there are no leases of nothing.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where it lies, as transfers name it: the first `length` bytes of it.
    ///
    /// # Panics
    ///
    /// If it has fewer bytes.
    pub fn ranges(&self, length: usize) -> Vec<MemoryRange> {
        self.pieces(0, length)
            .map(|(run, offset, length)| MemoryRange {
                // All three are below 2^32: they are inside one area.
                buffer: (run.buffer as u32).into(),
                offset: ((run.first * UNIT + offset) as u32).into(),
                length: (length as u32).into(),
                ..Default::default()
            })
            .collect()
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    ///
    /// If they reach past the end.
    pub fn write(&self, offset: usize, mut bytes: &[u8]) {
        for (run, start, length) in self.pieces(offset, bytes.len()) {
            let (now, later) = bytes.split_at(length);
            self.shared.mapping.copy_in(place(run, start), now);
            bytes = later;
        }
    }

    /// Copies from `offset` into all of `bytes`.
    ///
    /// # Panics
    ///
    /// If they reach past the end.
    pub fn read(&self, offset: usize, mut bytes: &mut [u8]) {
        for (run, start, length) in self.pieces(offset, bytes.len()) {
            let (now, later) = bytes.split_at_mut(length);
            self.shared.mapping.copy_out(place(run, start), now);
            bytes = later;
        }
    }

    /// Where it lies in memory, piece by piece, for instance to readv() a file into it. The
    /// pointers are good as long as the lease lives; the device may write there during RDMA reads.
    pub fn pointers(&self) -> Vec<(NonNull<u8>, usize)> {
        self.pieces(0, self.length)
            .map(|(run, start, length)| {
                let pointer = self.shared.mapping.pointer(place(run, start), length);
                (pointer, length)
            })
            .collect()
    }

    /// Runs of `length` bytes at `offset`: run, offset in it, bytes of it.
    fn pieces(&self, offset: usize, length: usize) -> impl Iterator<Item = (&Run, usize, usize)> {
        let end = offset.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.length),
            "{length} bytes at {offset} reach past a lease of {} bytes",
            self.length
        );
        let (mut skip, mut missing) = (offset, length);
        self.runs.iter().filter_map(move |run| {
            let size = run.units * UNIT;
            let start = skip.min(size);
            skip -= start;
            let taken = missing.min(size - start);
            missing -= taken;
            (taken != 0).then_some((run, start, taken))
        })
    }
}

/// Where in the mapping.
fn place(run: &Run, offset: usize) -> usize {
    run.buffer * BUFFER_SIZE as usize + run.first * UNIT + offset
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut buffers = self.shared.lock();
        for run in &self.runs {
            let buffer = &mut buffers[run.buffer];
            buffer.set(run, false);
            if buffer.is_idle() {
                buffer.idle_since = Some(Instant::now());
            }
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("length", &self.length)
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

/// The status page of a context: what is known at any time, without reading events.
///
/// It goes on living when the context's descriptor is closed.
pub struct StatusPage {
    mapping: Mapping,
}

/// State of the one connection of a context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum State {
    /// Accepted, the answer to its negotiation is on its way.
    Accepting,
    /// Messages flow.
    Established,
    /// It ended.
    Disconnected,
    /// Not known to this library.
    Unknown(u32),
}

/// A consistent copy of a status page.
#[derive(Clone, Copy, Debug)]
pub struct StatusSnapshot {
    /// Version of the driver, major in the upper 16 bits.
    pub abi_version: u32,
    /// Connections in the context.
    pub connections: u32,
    /// The connection, if the context has exactly one, or none any more.
    pub connection: Option<ConnectionStatus>,
}

/// The one connection of a context.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionStatus {
    /// Its number.
    pub id: ConnectionId,
    /// How it is.
    pub state: State,
    /// Why it ended, if it did.
    pub reason: Option<EndReason>,
    /// What it runs on.
    pub fabric: Fabric,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// What negotiation made of both sides' parameters.
    pub negotiated: Negotiated,
    /// Bytes of messages that were taken for sending since the connection was accepted.
    pub bytes_accepted: u64,
    /// Bytes of those whose sending completed.
    pub bytes_completed: u64,
}

impl ConnectionStatus {
    /// Bytes that were taken for sending and are still on their way, as TIOCOUTQ tells of a socket.
    pub fn bytes_unsent(&self) -> u64 {
        self.bytes_accepted.saturating_sub(self.bytes_completed)
    }
}

impl StatusPage {
    /// Maps the status page of `context`.
    ///
    /// # Errors
    ///
    /// [`Error::Call`].
    pub fn map(context: &Context) -> Result<Self> {
        let length = STATUS_PAGE_LENGTH as usize;
        Mapping::new(context.as_fd(), STATUS_PAGE_OFFSET, length, false)
            .map(|mapping| Self { mapping })
            .map_err(|error| Error::call("mmap of the status page", error))
    }

    /// A consistent copy.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the driver does not finish changing the page.
    pub fn snapshot(&self) -> Result<StatusSnapshot> {
        self.record()
            .map(|record| StatusSnapshot::from_record(&record))
    }

    /// Of the one connection of the context: bytes of messages that were taken for sending, and bytes
    /// of those whose sending completed. What [`snapshot`](Self::snapshot) says of them, for who
    /// asks with each message.
    ///
    /// # Errors
    ///
    /// As of [`snapshot`](Self::snapshot).
    pub fn bytes(&self) -> Result<(u64, u64)> {
        const START: usize = offset_of!(Record, bytes_accepted);
        const { assert!(offset_of!(Record, bytes_completed) == START + 8 && START % 8 == 0) };
        let [accepted, completed] = self.at_rest(START)?.map(u64::from_le_bytes);
        Ok((accepted, completed))
    }

    /// As it stands there.
    pub(crate) fn record(&self) -> Result<Record> {
        const WORDS: usize = size_of::<Record>() / 8;
        const { assert!(size_of::<Record>() % 8 == 0) };
        let words: [_; WORDS] = self.at_rest(0)?;
        Record::read_from_bytes(words.as_flattened())
            .map_err(|_| Error::Malformed("a status page of another size"))
    }

    /// Words from `start` on, none of them from the midst of a change.
    fn at_rest<const N: usize>(&self, start: usize) -> Result<[[u8; 8]; N]> {
        let mut words = [[0; 8]; N];
        let sequence = offset_of!(Record, sequence);
        if self.mapping.copy_at_rest(sequence, start, &mut words) {
            Ok(words)
        } else {
            Err(Error::Malformed("a status page that does not come to rest"))
        }
    }
}

impl std::fmt::Debug for StatusPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StatusPage").field(&self.snapshot()).finish()
    }
}

impl StatusSnapshot {
    fn from_record(record: &Record) -> Self {
        let state = match record.state.get() {
            memory::STATE_NONE => None,
            memory::STATE_ACCEPTING => Some(State::Accepting),
            memory::STATE_ESTABLISHED => Some(State::Established),
            memory::STATE_DISCONNECTED => Some(State::Disconnected),
            other => Some(State::Unknown(other)),
        };
        let reason = record.reason.get();
        Self {
            abi_version: record.abi_version.get(),
            connections: record.connections.get(),
            // With several, the page may be about any of them.
            connection: state
                .filter(|_| record.connections.get() <= 1)
                .map(|state| ConnectionStatus {
                    id: ConnectionId::new(record.connection.get()),
                    state,
                    reason: (reason != 0).then(|| EndReason::new(reason)),
                    fabric: Fabric::from_number(record.fabric.get()),
                    local: address::from_record(&record.local),
                    peer: address::from_record(&record.peer),
                    negotiated: record.negotiated,
                    bytes_accepted: record.bytes_accepted.get(),
                    bytes_completed: record.bytes_completed.get(),
                }),
        }
    }
}
