// SPDX-License-Identifier: GPL-2.0-only

//! One thread's life: batches, reads, and everything that a process can do to a descriptor.

use crate::context::{Common, Context, Registration, Ticket, CHILD};
use crate::random::Random;
use crate::record::{Record, Source};
use crate::sum::Sum;
use crate::sys::{self, Manner, Mapping};
use std::collections::HashSet;
use std::io::{ErrorKind, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use usmbd_abi::command::{self, Body, Disconnect, COMMANDS};
use usmbd_abi::memory::{BUFFER_SIZE, STATUS_PAGE_LENGTH, STATUS_PAGE_OFFSET};
use usmbd_abi::record::Header;
use zerocopy::{FromBytes, IntoBytes};

/// Contexts that are open at a time.
const CONTEXTS: usize = 10;
/// Tickets that are kept; the oldest ones are left to run out.
const TICKETS: usize = 256;

/// Bytes of memory for registrations.
const ARENA: usize = 4 << 20;

/// Where what is not of one context alone is kept.
struct Keep<'a>(&'a World);

impl Common for Keep<'_> {
    fn ticket(&mut self, ticket: Ticket) {
        let mut tickets = self.0.tickets.lock().unwrap();
        if tickets.len() == TICKETS {
            tickets.remove(0);
        }
        tickets.push(ticket);
    }

    fn registered(&mut self, registration: Registration) {
        self.0.registrations.lock().unwrap().push(registration);
    }
}

/// What the threads share.
pub struct World {
    pub contexts: Mutex<Vec<Arc<Context>>>,
    pub tickets: Mutex<Vec<Ticket>>,
    registrations: Mutex<Vec<Registration>>,
    arena: Mapping,
    next_number: AtomicU64,
    pub sum: Sum,
    pub stop: AtomicBool,
    /// What the driver did wrong.
    pub faults: Mutex<Vec<String>>,
    /// Batches that may still be begun.
    pub left: AtomicU64,
    pub seed: u64,
    pub log: Option<PathBuf>,
    /// How long an event may take.
    pub patience: Duration,
}

impl World {
    /// # Errors
    ///
    /// No memory.
    pub fn new(
        seed: u64,
        batches: u64,
        log: Option<PathBuf>,
        patience: Duration,
    ) -> std::io::Result<Self> {
        Ok(Self {
            contexts: Mutex::default(),
            tickets: Mutex::default(),
            registrations: Mutex::default(),
            arena: Mapping::anonymous(ARENA)?,
            next_number: AtomicU64::new(1),
            sum: Sum::default(),
            stop: AtomicBool::new(false),
            faults: Mutex::default(),
            left: AtomicU64::new(batches),
            seed,
            log,
            patience,
        })
    }

    pub fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Reads once from a context.
    pub fn read(&self, context: &Context, buffer: &mut [u8], nowait: bool, fault: bool) -> bool {
        match context.read(buffer, nowait, fault, &mut Keep(self), &self.sum) {
            Ok(Some(Err(what))) => {
                self.fault(format!("context {}: {what}", context.number));
                false
            }
            Ok(Some(Ok(()))) => true,
            Ok(None) => false,
            Err(error) => {
                self.sum.add(&format!("read refused {:?}", error.kind()), 1);
                false
            }
        }
    }

    /// Ends a context's connections, and reads until each command has had its event.
    pub fn settle(&self, context: &Context) {
        let end = Instant::now() + self.patience;
        let mut buffer = vec![0; 2 << 20];
        loop {
            // A connection that was accepted meanwhile ends as well.
            let connections = context.state.lock().unwrap().connections.clone();
            for connection in connections {
                let header = Header {
                    length: 24.into(),
                    opcode: Disconnect::OPCODE.into(),
                    flags: 0.into(),
                    user_data: self.number().into(),
                };
                let body = Disconnect {
                    connection: connection.into(),
                };
                context.expect(&header);
                let parts = [
                    IoSlice::new(header.as_bytes()),
                    IoSlice::new(body.as_bytes()),
                ];
                let manner = Manner {
                    nowait: true,
                    fault: false,
                };
                if sys::write(context.fd(), &parts, manner).is_err() {
                    context.forget(&header);
                }
            }
            let _ = sys::poll(context.fd(), libc::POLLIN, 100);
            while self.read(context, &mut buffer, true, false) {}
            let due = context.due();
            if due.is_empty() && context.state.lock().unwrap().connections.is_empty() {
                return self.sum.add("contexts settled", 1);
            }
            if self.stop.load(Ordering::Relaxed) && !self.faults.lock().unwrap().is_empty() {
                return;
            }
            if Instant::now() > end {
                let left = context.state.lock().unwrap().connections.len();
                return self.fault(format!(
                    "context {}: lost events of {due:x?}, {left} connections do not end",
                    context.number
                ));
            }
        }
    }
}

/// The headers of a batch, and what is behind each, up to the first one that cannot be taken for its
/// length.
fn headers(mut bytes: &[u8]) -> Vec<(Header, &[u8])> {
    let mut headers = Vec::new();
    while let Ok((header, rest)) = Header::read_from_prefix(bytes) {
        headers.push((header, rest));
        let length = header.length.get() as usize;
        if length < 16 || length > bytes.len() {
            break;
        }
        bytes = &bytes[length..];
    }
    headers
}

pub struct Worker {
    world: Arc<World>,
    thread: u64,
    random: Random,
    batches: u64,
}

impl Worker {
    pub fn new(world: Arc<World>, thread: u64) -> Self {
        let random = Random::new(world.seed, thread);
        Self {
            world,
            thread,
            random,
            batches: 0,
        }
    }

    pub fn run(mut self) {
        while !self.world.stop.load(Ordering::Relaxed) {
            let Some(context) = self.context() else {
                continue;
            };
            match self.random.below(100) {
                0..60 => self.batch(&context),
                60..84 => self.read(&context),
                84..88 => {
                    let _ = sys::poll(context.fd(), self.random.next() as i16, 1);
                }
                88..93 => self.map(&context),
                93..95 => self.unmap(&context),
                95..97 => self.share(&context),
                97 => self.fork(&context),
                98 => self.status_page(&context),
                _ => self.close(&context),
            }
        }
    }

    /// Any context; opens one if there are few.
    fn context(&mut self) -> Option<Arc<Context>> {
        let mut contexts = self.world.contexts.lock().unwrap();
        let few = contexts.len() < CONTEXTS;
        if contexts.is_empty() || few && self.random.percent(10) {
            let nonblocking = self.random.percent(70);
            match Context::open(self.world.number(), nonblocking) {
                Ok(context) => {
                    self.world.sum.add("opened", 1);
                    contexts.push(Arc::new(context));
                }
                Err(error) => self
                    .world
                    .sum
                    .add(&format!("open refused {:?}", error.kind()), 1),
            }
        }
        let at = self.random.below(contexts.len());
        contexts.get(at).cloned()
    }

    /// A context goes: at once, or after it was seen that no event is missing.
    fn close(&mut self, context: &Arc<Context>) {
        let mut contexts = self.world.contexts.lock().unwrap();
        contexts.retain(|other| !Arc::ptr_eq(other, context));
        drop(contexts);
        self.world.sum.add("closed", 1);
        if self.random.percent(30) {
            self.world.settle(context);
        }
    }

    fn records(&mut self, context: &Context, all_valid: bool) -> Vec<Record> {
        let mut records = Vec::new();
        let state = context.state.lock().unwrap();
        let mut tickets = self.world.tickets.lock().unwrap();
        let mut registrations = self.world.registrations.lock().unwrap();
        let count = 1 + self.random.below(16);
        let wrong = if !all_valid && self.random.percent(40) {
            self.random.below(count)
        } else {
            count
        };
        let mut source = Source {
            random: &mut self.random,
            state: &state,
            tickets: &mut tickets,
            registrations: &mut registrations,
            arena: (self.world.arena.address(), self.world.arena.length()),
        };
        for at in 0..count {
            let user_data = self.world.next_number.fetch_add(1, Ordering::Relaxed);
            let record = if at != wrong {
                source.valid(user_data)
            } else if source.random.percent(70) {
                source.nearly_valid(user_data)
            } else {
                Some(source.wild(user_data))
            };
            records.extend(record);
        }
        records
    }

    fn batch(&mut self, context: &Context) {
        let left = &self.world.left;
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_err()
        {
            return self.world.stop.store(true, Ordering::Relaxed);
        }
        let records = self.records(context, false);
        self.batches += 1;
        self.world.sum.add("batches", 1);
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|record| record.bytes.iter().copied())
            .collect();
        if let Some(folder) = &self.world.log {
            // The last batch of each thread, for when the guest does not survive it.
            let text = format!("batch {} context {}\n", self.batches, context.number);
            let path = folder.join(format!("thread-{}", self.thread));
            let _ = std::fs::write(path, [text.as_bytes(), &bytes].concat());
        }
        // As the driver sees them: where one is cut short, what follows belongs to it.
        let headers = headers(&bytes);
        let ours: HashSet<u64> = records.iter().map(|r| r.header().user_data.get()).collect();
        for (header, _) in &headers {
            if ours.contains(&header.user_data.get()) {
                context.expect(header);
            } else {
                context.tolerate(header.user_data.get());
            }
        }
        let manner = Manner {
            nowait: self.random.percent(30),
            fault: self.random.percent(1),
        };
        // One iovec for each record, cut once more anywhere.
        let mut parts = Vec::new();
        for record in &records {
            let cut = if self.random.percent(20) {
                self.random.below(record.bytes.len())
            } else {
                0
            };
            let (first, rest) = record.bytes.split_at(cut);
            parts.push(IoSlice::new(first));
            parts.push(IoSlice::new(rest));
        }
        let result = sys::write(context.fd(), &parts, manner);
        let mut taken = *result.as_ref().unwrap_or(&0);
        if let Err(error) = &result {
            let name = error.raw_os_error().unwrap_or(0);
            self.world
                .sum
                .add(&format!("write refused errno {name}"), 1);
        }
        let mut accepted = HashSet::new();
        for (header, rest) in &headers {
            self.world.sum.add("offered", 1);
            let length = header.length.get() as usize;
            if taken == 0 || taken < length {
                break;
            }
            taken -= length;
            accepted.insert(header.user_data.get());
            self.accepted(header);
            context.accepted(header, rest);
        }
        if taken > 0 {
            self.world
                .fault(format!("{result:?} is not a number of whole records"));
        }
        for (header, _) in headers.iter().skip(accepted.len()) {
            context.forget(header);
        }
        let errno = result.err().and_then(|error| error.raw_os_error());
        let mut refused = records
            .iter()
            .filter(|record| !accepted.contains(&record.header().user_data.get()));
        if let Some(first) = refused.next() {
            // What it named may be gone.
            let lost = matches!(errno, Some(libc::ENOENT | libc::EFAULT)) && !manner.fault;
            self.give_back(first, lost);
        }
        refused.for_each(|record| self.give_back(record, false));
    }

    /// A record was not accepted.
    fn give_back(&self, record: &Record, lost: bool) {
        self.world.tickets.lock().unwrap().extend(record.ticket);
        if let Some(registration) = record.registration {
            let mut registrations = self.world.registrations.lock().unwrap();
            registrations.retain(|other| *other != registration);
            registrations.extend((!lost).then_some(registration));
        }
    }

    fn accepted(&self, header: &Header) {
        let sum = &self.world.sum;
        sum.add("accepted", 1);
        match COMMANDS
            .iter()
            .find(|entry| entry.opcode == header.opcode.get())
        {
            Some(entry) => sum.add(&format!("accepted {}", entry.name), 1),
            None => self.world.fault(format!("accepted: {header:?}")),
        }
    }

    fn read(&mut self, context: &Context) {
        let size = self
            .random
            .pick(&[0, 15, 16, 40, 200, 1400, 4096, 65536, 1 << 20])
            .unwrap_or(0);
        let mut buffer = vec![0; size];
        // On a blocking descriptor a signal ends it.
        let nowait = self.random.percent(50);
        self.world
            .read(context, &mut buffer, nowait, self.random.percent(1));
    }

    fn map(&mut self, context: &Context) {
        if self.random.percent(10) {
            // What was registered stays registered; the process has other pages there then.
            let at = 4096 * self.random.below(ARENA / 4096);
            let pages = 4096 * self.random.below(16);
            let _ = self.world.arena.advise(at, pages, self.random.percent(50));
        }
        let buffer = BUFFER_SIZE as usize;
        let mut state = context.state.lock().unwrap();
        if state.mappings.len() < 3 {
            let (offset, length) = match self.random.below(10) {
                0 => (self.random.odd_number() & !4095, 4096),
                1 => (0, 4096 * (1 + self.random.below(65 * 256))),
                2 => (4096, buffer),
                _ => (0, buffer * (1 + self.random.below(6))),
            };
            match Mapping::new(context.fd(), offset, length, true) {
                Ok(mapping) => state.mappings.push(mapping),
                Err(_) => return self.world.sum.add("mmap refused", 1),
            }
            self.world.sum.add("mapped", 1);
        }
        let Some(mapping) = state.mappings.last() else {
            return;
        };
        let index = self.random.below(mapping.length() / buffer + 1);
        let populate = self.random.percent(80);
        let pages = 4096 * (1 + self.random.below(256));
        let done = mapping.advise(index * buffer, pages, populate);
        if done.is_ok() && populate && !state.touched.contains(&(index as u32)) {
            state.touched.push(index as u32);
        }
    }

    fn unmap(&mut self, context: &Context) {
        let mut state = context.state.lock().unwrap();
        let at = self.random.below(state.mappings.len());
        if self.random.percent(30) {
            let length = 4096 * self.random.below(2048);
            if let Some(mapping) = state.mappings.get_mut(at) {
                mapping.cut(length);
            }
        } else if at < state.mappings.len() {
            state.mappings.swap_remove(at);
        }
        if state.mappings.is_empty() {
            state.touched.clear();
        }
    }

    /// One descriptor more, by dup() or over a socket, or one less.
    fn share(&mut self, context: &Context) {
        let more = match self.random.below(4) {
            0 => context.fd().try_clone_to_owned().ok(),
            1 => sys::pass(context.fd(), true).ok().flatten(),
            2 => sys::pass(context.fd(), false).ok().flatten(),
            _ => None,
        };
        let mut state = context.state.lock().unwrap();
        match more {
            Some(fd) if state.more.len() < 8 => state.more.push(fd),
            _ => drop(state.more.pop()),
        }
    }

    fn fork(&mut self, context: &Context) {
        let records = self.records(context, true);
        let mut batch = Vec::new();
        for record in &records {
            // Whether it is taken, nobody here learns: nothing that would be missed.
            let opcode = record.header().opcode.get();
            if ![command::Accept::OPCODE, command::Reject::OPCODE].contains(&opcode) {
                let start = batch.len();
                batch.extend(&record.bytes);
                if record.bytes.len() >= 16 {
                    let marked = record.header().user_data.get() | CHILD;
                    batch[start + 8..start + 16].copy_from_slice(&marked.to_le_bytes());
                }
            }
            self.give_back(record, false);
        }
        match sys::fork_and_write(context.fd(), &batch) {
            Ok(()) => self.world.sum.add("forked", 1),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.world.fault(format!("fork: {error}")),
        }
    }

    fn status_page(&mut self, context: &Context) {
        let writable = self.random.percent(20);
        let length = STATUS_PAGE_LENGTH as usize;
        let mapped = Mapping::new(context.fd(), STATUS_PAGE_OFFSET, length, writable);
        if mapped.is_ok() && writable {
            self.world
                .fault("the status page can be mapped for writing".into());
        }
    }
}
