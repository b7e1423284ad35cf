// SPDX-License-Identifier: GPL-2.0-only

//! Safe wrappers of the shim over rdma-core: an endpoint, its memory, its completions.

mod ffi;

use crate::error::{End, Error, Result};
use ffi::*;
use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::time::Duration;

/// One completion; twin of the shim's `struct peer_completion`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Completion {
    pub id: u64,
    pub status: u32,
    pub length: u32,
    invalidated: u32,
    with_invalidate: u32,
}

impl Completion {
    /// Our key that the other side invalidated with this message.
    pub fn invalidated(&self) -> Option<u32> {
        (self.with_invalidate != 0).then_some(self.invalidated)
    }
}

/// Work requests that a queue pair has room for; twin of `struct peer_sizes`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct QueueSizes {
    pub sends: u32,
    pub receives: u32,
}

/// The shim's mark for "another event came".
const OTHER_EVENT: c_int = -4096;
/// rdma_cm's event numbers, which are ABI.
const EVENT_REJECTED: c_int = 8;
const EVENT_DISCONNECTED: c_int = 10;
const EVENT_DEVICE_REMOVAL: c_int = 11;

fn milliseconds(time: Duration) -> c_int {
    c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
}

fn name_of(text: *const c_char) -> String {
    // SAFETY: the shim returns NUL-terminated strings that live as long as the device or program.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// The name of a completion status.
pub fn status_name(status: u32) -> String {
    // SAFETY: takes any number.
    name_of(unsafe { peer_status_name(status as c_int) })
}

fn address_of(host: &str) -> Result<CString> {
    CString::new(host).map_err(|_| Error::Different(format!("not an address: {host:?}")))
}

/// Owns the shim's `struct peer`.
///
/// # Invariants
///
/// The pointer is valid until drop, with a cm id and an event channel behind it.
struct Handle(*mut RawPeer);

// SAFETY: rdma-core's objects are not tied to a thread, and librdmacm and libibverbs lock for
// themselves; regions on other threads only keep the handle alive and deregister.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: by the type invariant; nobody else has the pointer any more.
        unsafe { peer_close(self.0) };
    }
}

impl Handle {
    /// Judges what a call returned.
    fn check(&self, step: &'static str, ret: c_int) -> Result<()> {
        if ret == OTHER_EVENT {
            let mut status = 0;
            // SAFETY: by the type invariant.
            let event = unsafe { peer_event(self.0, &mut status) };
            // SAFETY: takes any number.
            let event = name_of(unsafe { peer_event_name(event) });
            return Err(Error::Event {
                step,
                event,
                status,
            });
        }
        check(step, ret)
    }
}

fn check(step: &'static str, ret: c_int) -> Result<()> {
    if ret < 0 {
        return Err(Error::Call { step, errno: -ret });
    }
    Ok(())
}

/// One side of an RDMA connection.
pub struct Endpoint {
    handle: Arc<Handle>,
}

impl Endpoint {
    /// Resolves `host`, and with it the device that reaches it.
    pub fn open(host: &str, port: u16, source: Option<&str>, time: Duration) -> Result<Self> {
        let to = address_of(host)?;
        let from = source.map(address_of).transpose()?;
        let from = from.as_ref().map_or(null(), |from| from.as_ptr());
        let mut raw = null_mut();
        // SAFETY: the strings live through the call, and `raw` can be written.
        let ret = unsafe { peer_open(to.as_ptr(), port, from, milliseconds(time), &mut raw) };
        if raw.is_null() {
            return Err(Error::Call {
                step: "allocate",
                errno: -ret,
            });
        }
        // INVARIANT: the shim made it. Half-made ones are good for check() and drop alone.
        let handle = Handle(raw);
        handle.check("resolve the address and route", ret)?;
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    fn raw(&self) -> *mut RawPeer {
        self.handle.0
    }

    pub fn create_queue_pair(&self, sizes: QueueSizes) -> Result<()> {
        // SAFETY: by Handle's invariant; `sizes` lives through the call.
        check("create the queue pair", unsafe {
            peer_create_queue_pair(self.raw(), &sizes)
        })
    }

    pub fn connect(&self, private_data: &[u8], time: Duration) -> Result<()> {
        let length = u8::try_from(private_data.len()).unwrap_or(0);
        let data = private_data.as_ptr().cast();
        // SAFETY: by Handle's invariant; `data` has `length` bytes.
        let ret = unsafe { peer_connect(self.raw(), data, length, milliseconds(time)) };
        self.handle.check("connect", ret)
    }

    pub fn accept(&self, private_data: &[u8], time: Duration) -> Result<()> {
        let length = u8::try_from(private_data.len()).unwrap_or(0);
        let data = private_data.as_ptr().cast();
        // SAFETY: by Handle's invariant; `data` has `length` bytes.
        let ret = unsafe { peer_accept(self.raw(), data, length, milliseconds(time)) };
        self.handle.check("accept", ret)
    }

    /// RDMA READs of each side for the connect or accept to come, in the place of cifs.ko's.
    pub fn set_depths(&self, responder_resources: u8, initiator_depth: u8) {
        // SAFETY: by Handle's invariant.
        unsafe { peer_set_depths(self.raw(), responder_resources, initiator_depth) };
    }

    /// Private data that came with the other side's request or answer; on RoCE with zeroes behind it.
    pub fn private_data(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(u8::MAX)];
        // SAFETY: by Handle's invariant; there is room for so many bytes.
        let length = unsafe { peer_private_data(self.raw(), bytes.as_mut_ptr().cast(), u8::MAX) };
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        bytes
    }

    pub fn disconnect(&self) -> Result<()> {
        // SAFETY: by Handle's invariant.
        check("disconnect", unsafe { peer_disconnect(self.raw()) })
    }

    /// Ends the queue pair without telling the other side.
    pub fn break_queue_pair(&self) -> Result<()> {
        // SAFETY: by Handle's invariant.
        check("break the queue pair", unsafe {
            peer_break_queue_pair(self.raw())
        })
    }

    pub fn is_iwarp(&self) -> bool {
        // SAFETY: by Handle's invariant; a device is there after open().
        unsafe { peer_is_iwarp(self.raw()) != 0 }
    }

    /// RDMA READs that we let the other side have outstanding.
    pub fn responder_resources(&self) -> u32 {
        // SAFETY: as above.
        unsafe { peer_responder_resources(self.raw()) }
    }

    /// Completions; none if time is over or an event of the connection waits.
    pub fn poll(&self, time: Duration) -> Result<Vec<Completion>> {
        let mut found = vec![Completion::default(); 64];
        // SAFETY: by Handle's invariant; `found` has room for 64.
        let count = unsafe { peer_poll(self.raw(), found.as_mut_ptr(), 64, milliseconds(time)) };
        check("poll for completions", count)?;
        found.truncate(count as usize);
        Ok(found)
    }

    /// What the connection manager says about the connection's end, if anything.
    pub fn ended(&self) -> Option<End> {
        // SAFETY: by Handle's invariant.
        match unsafe { peer_take_event(self.raw()) } {
            // The CM of the other side refuses what has to end before our last word came there,
            // "ready to use"; here the connection stands already.
            EVENT_DISCONNECTED | EVENT_REJECTED => Some(End::Disconnect),
            EVENT_DEVICE_REMOVAL => Some(End::DeviceRemoved),
            _ => None,
        }
    }

    pub fn post_receive(&self, id: u64, region: &Region, at: usize, length: usize) -> Result<()> {
        let start = region.pointer(at, length);
        // SAFETY: by Handle's invariant; the range is inside the region, and the device reaches
        // memory only while the region is registered.
        let ret =
            unsafe { peer_post_receive(self.raw(), id, start, length as u32, region.local_key()) };
        check("post a receive", ret)
    }

    pub fn post_send(
        &self,
        id: u64,
        region: &Region,
        at: usize,
        length: usize,
        invalidate: Option<u32>,
    ) -> Result<()> {
        let start = region.pointer(at, length);
        let token = invalidate
            .as_ref()
            .map_or(null(), |token| token as *const u32);
        // SAFETY: as in post_receive(); `token` lives through the call.
        let ret = unsafe {
            peer_post_send(
                self.raw(),
                id,
                start,
                length as u32,
                region.local_key(),
                token,
            )
        };
        check("post a send", ret)
    }

    /// Registers new zeroed memory; `remote`: for the other side to read and write, too.
    pub fn register(&self, length: usize, remote: bool) -> Result<Region> {
        // Page by page of its own: what lies beside it must not move with it.
        let memory: Box<[UnsafeCell<u8>]> = (0..length).map(|_| UnsafeCell::new(0)).collect();
        let start = memory.as_ptr().cast_mut().cast();
        let mut raw = null_mut();
        // SAFETY: by Handle's invariant; the memory lives until Region is dropped.
        let ret =
            unsafe { peer_register(self.raw(), start, length, c_int::from(remote), &mut raw) };
        check("register memory", ret)?;
        Ok(Region {
            raw,
            memory,
            _handle: self.handle.clone(),
        })
    }

    /// Makes a window of a region, with a key of its own that the other side can invalidate. The
    /// queue pair completes it with `id`.
    pub fn window(&self, id: u64, region: &Region, at: usize, length: usize) -> Result<Window> {
        let mut raw = null_mut();
        // SAFETY: by Handle's invariant.
        check("allocate a memory window", unsafe {
            peer_window_allocate(self.raw(), &mut raw)
        })?;
        let mut window = Window {
            raw,
            key: 0,
            _handle: self.handle.clone(),
        };
        let start = region.pointer(at, length);
        // SAFETY: by Handle's invariant; window and region are live, and the range is inside.
        let ret = unsafe {
            peer_window_bind(
                self.raw(),
                raw,
                region.raw,
                start,
                length,
                id,
                &mut window.key,
            )
        };
        check("bind a memory window", ret)?;
        Ok(window)
    }
}

/// Registered memory.
///
/// # Invariants
///
/// `raw` is a registration of `memory`, or null after [`Region::deregister`].
pub struct Region {
    raw: *mut RawRegion,
    memory: Box<[UnsafeCell<u8>]>,
    _handle: Arc<Handle>,
}

impl Region {
    fn pointer(&self, at: usize, length: usize) -> *mut c_void {
        self.memory[at..at + length].as_ptr().cast_mut().cast()
    }

    fn local_key(&self) -> u32 {
        // SAFETY: by the type invariant; callers post only while it is registered.
        unsafe { peer_local_key(self.raw) }
    }

    /// The key for the other side.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: by the type invariant.
        unsafe { peer_remote_key(self.raw) }
    }

    /// The address of a byte, as the other side names it.
    pub fn address(&self, at: usize) -> u64 {
        self.pointer(at, 0) as u64
    }

    pub fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.pointer(at, bytes.len());
        // SAFETY: the range is inside `memory`, whose cells may change under a shared reference;
        // the device may write at the same time, and then what is there is not defined but valid.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len()) };
    }

    pub fn read(&self, at: usize, length: usize) -> Vec<u8> {
        let from = self.pointer(at, length).cast::<u8>();
        let mut bytes = vec![0; length];
        // SAFETY: as in write().
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from, length) };
        bytes
    }

    /// Ends the registration; the memory stays.
    pub fn deregister(&mut self) -> Result<()> {
        let raw = std::mem::replace(&mut self.raw, null_mut());
        // SAFETY: by the type invariant; it is forgotten here.
        check("deregister memory", unsafe { peer_deregister(raw) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if !self.raw.is_null() && self.deregister().is_err() {
            // The device may still reach it: better lost than given to somebody else.
            std::mem::forget(std::mem::take(&mut self.memory));
        }
    }
}

/// A memory window over a [`Region`]; to be dropped before it.
///
/// # Invariants
///
/// `raw` is a window of the handle's protection domain.
pub struct Window {
    raw: *mut RawWindow,
    key: u32,
    _handle: Arc<Handle>,
}

impl Window {
    /// The key for the other side.
    pub fn remote_key(&self) -> u32 {
        self.key
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: by the type invariant; nobody else has the pointer.
        unsafe { peer_window_free(self.raw) };
    }
}

/// Waits for connections, for the peer's own little server.
///
/// # Invariants
///
/// The pointer is valid until drop.
pub struct Listener(*mut RawListener);

impl Listener {
    pub fn new(host: &str, port: u16) -> Result<Self> {
        let address = address_of(host)?;
        let mut raw = null_mut();
        // SAFETY: the string lives through the call, and `raw` can be written.
        let ret = unsafe { peer_listen(address.as_ptr(), port, &mut raw) };
        // INVARIANT: the shim made it, or it is null, which its close takes as well.
        let listener = Self(raw);
        check("listen", ret)?;
        Ok(listener)
    }

    /// The next connection, not yet accepted; none if time is over.
    pub fn next(&self, time: Duration) -> Result<Option<Endpoint>> {
        let mut raw = null_mut();
        // SAFETY: by the type invariant.
        let ret = unsafe { peer_next_request(self.0, milliseconds(time), &mut raw) };
        if raw.is_null() {
            return match -ret {
                libc_errno::ETIMEDOUT | libc_errno::EAGAIN => Ok(None),
                _ => check("await a connection", ret).map(|()| None),
            };
        }
        // INVARIANT: the shim made it.
        let handle = Handle(raw);
        handle.check("take a connection", ret)?;
        Ok(Some(Endpoint {
            handle: Arc::new(handle),
        }))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // SAFETY: by the type invariant.
        unsafe { peer_listener_close(self.0) };
    }
}

/// The two error numbers that are not failures.
mod libc_errno {
    pub const EAGAIN: i32 = 11;
    pub const ETIMEDOUT: i32 = 110;
}
