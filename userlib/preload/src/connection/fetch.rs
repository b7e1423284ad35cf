// SPDX-License-Identifier: MIT OR Apache-2.0

//! Messages from the client that wait for smbd, and for their data.

use super::{Connection, PREFIX};
use crate::device::{Device, SharedArea};
use crate::log;
use crate::rewrite::{Fetch, Request, Segment};
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use usmbd::{Batch, Error, Lease, MemoryRange, Piece};

/// A message for smbd.
pub(super) struct Incoming {
    /// As the client sent it.
    bytes: Vec<u8>,
    /// How it looks to smbd; empty if that is the same.
    segments: Vec<Segment>,
    /// Bytes for smbd, without the prefix.
    length: usize,
    /// What the prefix tells; none for what is not the first of a message.
    prefix: Option<u32>,
    fetches: Vec<State>,
}

enum State {
    /// For room in the area, or in the device's queue.
    Waiting(Fetch),
    Moving {
        user_data: u64,
        fetch: Fetch,
        room: Room,
    },
    Done(Room),
    /// The data will not come; the connection is ending.
    Failed,
}

/// Room for the data of a WRITE.
struct Room {
    lease: Lease,
    _share: Share,
}

/// Bytes that are counted as for the data of WRITEs.
struct Share {
    bytes: usize,
    fetched: Arc<AtomicUsize>,
}

impl Share {
    fn new(bytes: usize, fetched: Arc<AtomicUsize>) -> Self {
        fetched.fetch_add(bytes, Relaxed);
        Self { bytes, fetched }
    }

    /// Whether the area has half of its bytes left for answers, or there is nothing but this.
    fn is_fair(&self, area: &SharedArea) -> bool {
        let all = self.fetched.load(Relaxed);
        all == self.bytes || 2 * all <= area.size()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.fetched.fetch_sub(self.bytes, Relaxed);
    }
}

impl Incoming {
    fn new(bytes: Vec<u8>, request: Request) -> Self {
        Self {
            bytes,
            segments: request.segments,
            length: request.length,
            // At most 24 bits: the rewriter saw to it.
            prefix: Some(request.length as u32),
            fetches: request.fetches.into_iter().map(State::Waiting).collect(),
        }
    }

    /// A piece of a message, for a client.
    pub(super) fn piece(piece: &Piece<'_>) -> Self {
        Self {
            bytes: piece.payload.to_vec(),
            segments: Vec::new(),
            length: piece.payload.len(),
            prefix: (piece.offset == 0).then_some(piece.total),
            fetches: Vec::new(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.fetches
            .iter()
            .all(|state| matches!(state, State::Done(_)))
    }

    pub(super) fn is_moving(&self) -> bool {
        self.fetches
            .iter()
            .any(|state| matches!(state, State::Moving { .. }))
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.fetches
            .iter()
            .any(|state| matches!(state, State::Waiting(_)))
    }

    /// Bytes that smbd gets of it, the prefix included.
    pub(super) fn stream_length(&self) -> usize {
        self.prefix.map_or(0, |_| PREFIX) + self.length
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Copies from `offset` of what smbd gets of it into `to`; returns how many bytes.
    pub(super) fn copy(&self, offset: usize, to: &mut [IoSliceMut<'_>]) -> usize {
        let mut sink = Sink {
            skip: offset,
            to,
            copied: 0,
            filled: 0,
        };
        if let Some(length) = self.prefix {
            sink.bytes(&length.to_be_bytes());
        }
        if self.segments.is_empty() {
            sink.bytes(&self.bytes);
        }
        for segment in &self.segments {
            match segment {
                Segment::Original(range) => sink.bytes(&self.bytes[range.clone()]),
                Segment::Bytes(bytes) => sink.bytes(bytes),
                Segment::Zeros(count) => sink.push(*count, |_, room| room.fill(0)),
                Segment::Data(index) => {
                    if let Some(State::Done(Room { lease, .. })) = self.fetches.get(*index) {
                        sink.push(lease.len(), |at, room| lease.read(at, room));
                    }
                }
            }
        }
        sink.copied
    }
}

/// Where a message goes, piece by piece.
struct Sink<'s, 'b> {
    /// Bytes of the message still to be left out.
    skip: usize,
    to: &'s mut [IoSliceMut<'b>],
    copied: usize,
    /// Bytes of the first of `to` that are there.
    filled: usize,
}

impl Sink<'_, '_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.push(bytes.len(), |at, room| {
            room.copy_from_slice(&bytes[at..at + room.len()])
        });
    }

    /// Takes a piece of `length` bytes, of which `copy` copies those at an offset.
    fn push(&mut self, length: usize, copy: impl Fn(usize, &mut [u8])) {
        let mut at = self.skip.min(length);
        self.skip -= at;
        while at < length {
            let Some(first) = self.to.first_mut() else {
                return;
            };
            let room = &mut first[self.filled..];
            let count = room.len().min(length - at);
            copy(at, &mut room[..count]);
            at += count;
            self.copied += count;
            self.filled += count;
            if self.filled == first.len() {
                let to = std::mem::take(&mut self.to);
                self.to = &mut to[1..];
                self.filled = 0;
            }
        }
    }
}

impl<D: Device> Connection<D> {
    /// A whole message has come.
    pub(super) fn take_message(&mut self, mut bytes: Vec<u8>) {
        self.counters.messages_in += 1;
        let Some(rewriter) = &mut self.rewriter else {
            return;
        };
        let request = match rewriter.request(&mut bytes) {
            Ok(request) => request,
            Err(refused) => return self.fail(refused),
        };
        if request.invalid != 0 {
            log::info(format_args!(
                "{}: {} requests whose channel is wrong",
                self.name(),
                request.invalid
            ));
        }
        self.hold(Incoming::new(bytes, request));
        self.start_fetches();
    }

    pub(super) fn hold(&mut self, message: Incoming) {
        self.held += message.size();
        if self.held > super::MAX_HELD {
            return self.fail("too many messages that cannot go on yet");
        }
        self.incoming.push_back(message);
    }

    /// Starts RDMA reads in order of arrival, as far as there is room.
    pub(super) fn start_fetches(&mut self) {
        let mut incoming = std::mem::take(&mut self.incoming);
        'all: for message in &mut incoming {
            let mut has_begun = false;
            for state in &mut message.fetches {
                if let State::Waiting(fetch) = state {
                    match self.start(fetch, has_begun) {
                        Some(next) => *state = next,
                        None => break 'all,
                    }
                }
                has_begun = true;
            }
        }
        self.incoming = incoming;
    }

    /// What a waiting fetch becomes; `None` if it has to go on waiting. `has_begun`: its message has
    /// room for other data already.
    fn start(&mut self, fetch: &Fetch, has_begun: bool) -> Option<State> {
        if self.is_ending || self.ended.is_some() {
            return None;
        }
        let length = fetch.length as usize;
        let room = match self.room(fetch, has_begun) {
            Ok(room) => room?,
            Err(_) => {
                self.fail("a WRITE by RDMA, and no memory for it");
                return Some(State::Failed);
            }
        };
        let user_data = self.next();
        let mut batch = Batch::new();
        let ranges = room.lease.ranges(length);
        touch(&room.lease, &ranges);
        let result = batch
            .rdma_read(self.id, user_data, false, &ranges, &fetch.descriptors)
            .and_then(|()| self.device.submit(&mut batch));
        match result {
            Ok(_) => {
                self.leased += length;
                Some(State::Moving {
                    user_data,
                    fetch: fetch.clone(),
                    room,
                })
            }
            Err(Error::WouldBlock) => None,
            Err(error) => {
                self.fail(format_args!("RDMA_READ of {length} bytes: {error}"));
                Some(State::Failed)
            }
        }
    }

    /// Room for data of a WRITE; `None` if there is none just now.
    ///
    /// smbd does not read while many answers of its wait to be sent. If what it has not read took all
    /// of the area, they would wait for good. A message that has begun goes on even so: two of them
    /// could wait for each other.
    fn room(&mut self, fetch: &Fetch, has_begun: bool) -> io::Result<Option<Room>> {
        let shared = self.area()?;
        let share = Share::new(fetch.room(), shared.fetched.clone());
        if !has_begun && !share.is_fair(&shared) {
            return Ok(None);
        }
        let lease = self.lease(fetch.length as usize)?;
        Ok(lease.map(|lease| Room {
            lease,
            _share: share,
        }))
    }

    pub(super) fn finish_fetch(&mut self, user_data: u64, is_good: bool) {
        let mut states = self
            .incoming
            .iter_mut()
            .flat_map(|message| &mut message.fetches);
        let Some(state) = states.find(
            |state| matches!(state, State::Moving { user_data: mine, .. } if *mine == user_data),
        ) else {
            return;
        };
        if let State::Moving { fetch, room, .. } = std::mem::replace(state, State::Failed) {
            self.leased -= room.lease.len();
            if is_good {
                self.counters.writes += 1;
                self.counters.bytes_read += u64::from(fetch.length);
                log::debug(format_args!(
                    "WRITE {}: {} bytes by RDMA READ from {} descriptors",
                    fetch.message_id,
                    fetch.length,
                    fetch.descriptors.len()
                ));
                *state = State::Done(room);
            }
        }
    }
}

/// A buffer has memory once it was touched; the driver takes no other one.
fn touch(lease: &Lease, ranges: &[MemoryRange]) {
    let mut offset = 0;
    for range in ranges {
        lease.read(offset, &mut [0]);
        offset += range.length.get() as usize;
    }
}
