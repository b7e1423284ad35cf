// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which descriptors are ours, and what is known of them in this process.
//!
//! A slot is empty for every descriptor that is not ours, so the test costs one load. A slot that is
//! filled is checked by fstat() before it is believed: programs can close descriptors past us. Only
//! what is left of a message that is being read is handed out without that. It is emptied whenever
//! a new descriptor of that number may come to be: by accept(), by a message that passes one, by
//! dup(). What belongs to another process (the parent) is never touched.
//!
//! No lock of it can be held by another thread at a fork(): each belongs to one descriptor, and only
//! the thread that serves a connection uses its descriptor.

use crate::connection::{Connection, Side};
use crate::connector::{Attempt, Decision};
use crate::device::Descriptor;
use crate::process;
use crate::real;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use usmbd::Device;

/// Descriptors from here on are left alone; smbd keeps far below.
const SLOTS: usize = 1 << 16;

static TABLE: [AtomicPtr<Slot>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];
/// The device's number; zero while no device is open.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What a descriptor is.
pub enum Kind {
    /// Listens.
    Listener,
    /// Connects.
    Connecting(Attempt),
    /// Could not connect.
    Failed,
    /// A connection, not looked at in this process yet.
    New(Side),
    /// A connection in use.
    Connection(Box<Connection<Descriptor>>),
}

impl Kind {
    /// The same in another process, or of a copy of the descriptor.
    fn copy(&self) -> Self {
        match self {
            Self::Listener => Self::Listener,
            Self::Connecting(attempt) => Self::Connecting(attempt.clone()),
            Self::Failed => Self::Failed,
            Self::New(side) => Self::New(*side),
            Self::Connection(connection) => Self::New(connection.side()),
        }
    }
}

/// What is known of a descriptor.
pub struct Entry {
    pub kind: Kind,
    /// As smbd registered it with epoll.
    epoll: Option<Registration>,
}

#[derive(Clone, Copy)]
struct Registration {
    epoll: RawFd,
    wanted: u32,
    applied: u32,
    data: u64,
}

struct Slot {
    process: u32,
    /// Whether the program has read part of a message and not the rest.
    inside: AtomicBool,
    entry: Mutex<Entry>,
}

/// From now on there are descriptors of ours: the device has this number.
pub fn engage(number: u64) {
    NUMBER.store(number, Ordering::Release);
}

/// Whether a descriptor of ours can exist in this process.
pub fn is_engaged() -> bool {
    NUMBER.load(Ordering::Acquire) != 0
}

fn slot(fd: RawFd) -> Option<&'static AtomicPtr<Slot>> {
    TABLE.get(usize::try_from(fd).ok()?)
}

fn is_device(fd: RawFd) -> bool {
    // SAFETY: only used for one fstat(), which says EBADF for what is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Device::number_of(fd) == Some(NUMBER.load(Ordering::Acquire))
}

/// Whether it may be ours, by the table alone.
pub fn is_listed(fd: RawFd) -> bool {
    slot(fd).is_some_and(|slot| !slot.load(Ordering::Acquire).is_null())
}

/// Remembers a descriptor that is new, or forgets what its number meant.
pub fn insert(fd: RawFd, kind: Kind) -> bool {
    let Some(place) = slot(fd) else {
        return false;
    };
    let entry = Entry { kind, epoll: None };
    let new = Box::new(Slot {
        process: process::id(),
        inside: AtomicBool::new(false),
        entry: Mutex::new(entry),
    });
    discard(place.swap(Box::into_raw(new), Ordering::AcqRel));
    true
}

/// Takes a descriptor in that came to be without our doing, if it is the device's.
pub fn adopt(fd: RawFd) -> bool {
    if !is_engaged() || fd < 0 {
        return false;
    }
    if is_device(fd) {
        return insert(fd, Kind::New(Side::Server));
    }
    remove(fd);
    false
}

/// Forgets a descriptor.
pub fn remove(fd: RawFd) {
    if let Some(place) = slot(fd) {
        if !place.load(Ordering::Acquire).is_null() {
            discard(place.swap(ptr::null_mut(), Ordering::AcqRel));
        }
    }
}

fn discard(slot: *mut Slot) {
    if slot.is_null() {
        return;
    }
    // SAFETY: it came from a box, and whoever swapped it out of the table owns it.
    let slot = unsafe { Box::from_raw(slot) };
    if slot.process != process::id() {
        // The parent's: its mappings are not here, and something else may be in their place.
        std::mem::forget(slot);
    }
}

/// Whether it is ours. `search`: also if it came to be without our doing.
pub fn is_ours(fd: RawFd, search: bool) -> bool {
    if is_listed(fd) {
        if is_device(fd) {
            return true;
        }
        remove(fd);
        return false;
    }
    search && adopt(fd)
}

/// Whether it is ours, for a call that reads. Who reads the length of a message and then its rest, as
/// smbd does, pays for one fstat().
pub fn is_ours_to_read(fd: RawFd) -> bool {
    let found = slot(fd).map_or(ptr::null_mut(), |slot| slot.load(Ordering::Acquire));
    if found.is_null() {
        return false;
    }
    // SAFETY: what is in the table lives, and nobody closes a descriptor while using it.
    let slot = unsafe { &*found };
    let is_inside = slot.inside.load(Ordering::Relaxed) && slot.process == process::id();
    is_inside || is_ours(fd, false)
}

/// Does something with what is known of a descriptor of ours.
pub fn with<R>(fd: RawFd, act: impl FnOnce(&mut Entry) -> io::Result<R>) -> io::Result<R> {
    let bad = || io::Error::from_raw_os_error(libc::EBADF);
    let place = slot(fd).ok_or_else(bad)?;
    let mut found = place.load(Ordering::Acquire);
    if found.is_null() {
        return Err(bad());
    }
    // SAFETY: what is in the table lives, and nobody closes a descriptor while using it.
    let mut slot = unsafe { &*found };
    if slot.process != process::id() {
        // Inherited by fork(). No other thread of this process can have it locked.
        let kind = slot
            .entry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .kind
            .copy();
        insert(fd, kind);
        found = place.load(Ordering::Acquire);
        // SAFETY: as above; it was just put there.
        slot = unsafe { &*found };
    }
    let mut entry = slot.entry.lock().unwrap_or_else(PoisonError::into_inner);
    let result = act(&mut entry);
    entry.sync(fd);
    slot.inside.store(entry.is_inside(), Ordering::Relaxed);
    result
}

/// After a descriptor was made a copy of another one.
pub fn copied(from: RawFd, to: RawFd) {
    let kind = match is_ours(from, false) {
        true => with(from, |entry| Ok(entry.kind.copy())).ok(),
        false => None,
    };
    if adopt(to) {
        if let Some(kind) = kind {
            insert(to, kind);
        }
    }
}

/// Does something with a connection. `EAGAIN` while it is only being made.
pub fn with_connection<R>(
    fd: RawFd,
    act: impl FnOnce(&mut Connection<Descriptor>) -> io::Result<R>,
) -> io::Result<R> {
    with(fd, |entry| {
        if matches!(entry.kind, Kind::Connecting(_)) && !entry.decide(fd, false)? {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        if let Kind::New(side) = entry.kind {
            // SAFETY: the program closes it by our close(), which forgets the connection first.
            let device = unsafe { Descriptor::new(fd) };
            let device = device.map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
            entry.kind = Kind::Connection(Box::new(Connection::new(device, side)?));
        }
        match &mut entry.kind {
            Kind::Connection(connection) => {
                let result = act(connection);
                connection.settle();
                result
            }
            _ => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        }
    })
}

impl Entry {
    /// Of a connect under way: whether there is a connection now. The outcome is told once.
    ///
    /// # Errors
    ///
    /// Why there is none and will be none; `EINTR` if a signal came.
    pub fn decide(&mut self, fd: RawFd, wait: bool) -> io::Result<bool> {
        let Kind::Connecting(attempt) = &self.kind else {
            return Ok(true);
        };
        match attempt.decide(fd, wait)? {
            Decision::Pending => Ok(false),
            Decision::Connected => {
                self.kind = Kind::New(Side::Client);
                Ok(true)
            }
            Decision::Failed(code) => {
                self.kind = Kind::Failed;
                Err(io::Error::from_raw_os_error(code))
            }
        }
    }

    /// smbd's epoll_ctl() on this descriptor. Returns the events to ask for instead.
    pub fn register(&mut self, epoll: RawFd, event: Option<(u32, u64)>) -> Option<u32> {
        let Some((wanted, data)) = event else {
            self.epoll = None;
            return None;
        };
        let applied = self.mask(wanted);
        self.epoll = Some(Registration {
            epoll,
            wanted,
            applied,
            data,
        });
        Some(applied)
    }

    /// Without POLLOUT while an event has to come first: the device may be writable, and smbd would
    /// try again and again. If smbd does not read either, better that than nobody coming.
    fn mask(&self, wanted: u32) -> u32 {
        let is_blocked = match &self.kind {
            Kind::Connection(connection) => connection.is_blocked(),
            _ => false,
        };
        let reads = wanted & libc::EPOLLIN as u32 != 0;
        if is_blocked && reads {
            wanted & !(libc::EPOLLOUT as u32)
        } else {
            wanted
        }
    }

    /// Whether part of a message was read, and not the rest.
    fn is_inside(&self) -> bool {
        match &self.kind {
            Kind::Connection(connection) => connection.is_inside(),
            _ => false,
        }
    }

    /// Has epoll ask for what the state of the connection needs now.
    fn sync(&mut self, fd: RawFd) {
        let Some(registration) = self.epoll else {
            return;
        };
        let events = self.mask(registration.wanted);
        if events == registration.applied {
            return;
        }
        let mut event = libc::epoll_event {
            events,
            u64: registration.data,
        };
        // SAFETY: `event` is valid for reads. If the registration is gone, so is the need for it.
        let result =
            unsafe { real::epoll_ctl(registration.epoll, libc::EPOLL_CTL_MOD, fd, &raw mut event) };
        self.epoll = (result == 0).then_some(Registration {
            applied: events,
            ..registration
        });
    }
}
