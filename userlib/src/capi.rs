// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C API, declared in `include/usmbd.h`, which documents it.

mod commands;

use crate::abi::memory::StatusPage as StatusRecord;
use crate::abi::record::{BatchHeader, Header};
use crate::abi::status::{Reason, Status};
use crate::events::MemoryParameters;
use crate::sys::Mapping;
use crate::{Batch, Context, Device, Error, Features, Interest, Result, StatusPage, Wait};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void, CString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};
use zerocopy::{FromBytes, IntoBytes};

/// `struct usmbd`: a context and what was read from it.
pub struct Handle {
    context: Context,
    /// A batch of events, on 8 byte boundaries for the C structs.
    buffer: Vec<u64>,
    /// Bytes of it that are events not yet given out.
    from: usize,
    to: usize,
    at_hand: u32,
    area: Option<Mapping>,
    status: Option<StatusPage>,
}

/// Room for a message of 1 MiB in one piece.
const WORDS: usize = ((1 << 20) + 4096) / 8;

impl Handle {
    fn new(context: Context) -> Self {
        Self {
            context,
            buffer: Vec::new(),
            from: 0,
            to: 0,
            at_hand: 0,
            area: None,
            status: None,
        }
    }

    fn submit<'p>(&self, fill: impl FnOnce(&mut Batch<'p>) -> Result<()>) -> Result<()> {
        let mut batch = Batch::new();
        fill(&mut batch)?;
        self.context.submit_all(&mut batch)
    }

    /// Where in the buffer the next event is.
    fn next(&mut self, wait: Wait) -> Result<usize> {
        if self.from == self.to {
            self.buffer.resize(WORDS, 0);
            let bytes = self.buffer.as_mut_bytes();
            let length = self.context.read(bytes, wait)?;
            let events = crate::Events::parse(&bytes[..length])?;
            self.at_hand = events.count_all();
            self.from = size_of::<BatchHeader>();
            self.to = length;
        }
        let at = self.from;
        let (header, _) = Header::read_from_prefix(&self.buffer.as_bytes()[at..])
            .map_err(|_| Error::Malformed("a record shorter than its header"))?;
        self.from += header.length.get() as usize;
        self.at_hand -= 1;
        Ok(at)
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Remembers the error for `usmbd_error()`.
fn remember(error: &Error) -> c_int {
    let text = CString::new(error.to_string()).unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = text);
    error.errno()
}

/// What C gets. No panic crosses the border.
fn answer(call: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => -remember(&error),
        Err(_) => -remember(&Error::Malformed("a panic in the library")),
    }
}

fn boxed(context: Result<Context>) -> *mut Handle {
    match context {
        Ok(context) => Box::into_raw(Box::new(Handle::new(context))),
        Err(error) => {
            let errno = remember(&error);
            // SAFETY: the address of this thread's errno, which is always valid.
            let place = unsafe { libc::__errno_location() };
            // SAFETY: as above.
            unsafe { *place = errno };
            std::ptr::null_mut()
        }
    }
}

/// `count` values at `start`; null is allowed if there are none.
///
/// # Safety
///
/// They must be valid for reads, and stay unchanged, as long as the slice is used.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: by the contract.
    unsafe { std::slice::from_raw_parts(start, count) }
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_open() -> *mut Handle {
    boxed(Device::open())
}

/// See `usmbd.h`.
///
/// # Safety
///
/// `fd` must be owned by the caller, who gives it away if this succeeds.
#[no_mangle]
pub unsafe extern "C" fn usmbd_from_fd(fd: c_int) -> *mut Handle {
    if fd < 0 {
        let error = std::io::Error::from_raw_os_error(libc::EBADF);
        return boxed(Err(Error::call("usmbd_from_fd", error)));
    }
    // SAFETY: by the contract.
    boxed(Ok(unsafe { Context::from_raw_fd(fd) }))
}

/// See `usmbd.h`.
///
/// # Safety
///
/// `usmbd` must be null, or come from this library and not be used any more.
#[no_mangle]
pub unsafe extern "C" fn usmbd_close(usmbd: *mut Handle) {
    if !usmbd.is_null() {
        // SAFETY: made by `Box::into_raw`, and given back once by the contract.
        drop(unsafe { Box::from_raw(usmbd) });
    }
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_fd(usmbd: &Handle) -> c_int {
    usmbd.context.as_raw_fd()
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// A text with the zero that C wants, made once: good as long as the process.
fn for_c(text: &'static str) -> *const c_char {
    // None is ever taken out, and they do not move with the map's nodes.
    static MADE: Mutex<BTreeMap<&'static str, CString>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(text)
        .or_insert_with(|| CString::new(text).unwrap_or_default())
        .as_ptr()
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_status_text(status: u32) -> *const c_char {
    for_c(Status::from_number(status).map_or("a status of a newer driver", Status::text))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_reason_text(reason: u32) -> *const c_char {
    for_c(Reason::from_number(reason).map_or("a reason of a newer driver", Reason::text))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_hello(
    usmbd: &mut Handle,
    features: u64,
    version: Option<&mut u32>,
    used: Option<&mut u64>,
) -> c_int {
    answer(|| {
        let (number, bits) = usmbd.context.hello(Features::from_bits(features))?;
        if let Some(version) = version {
            *version = number;
        }
        if let Some(used) = used {
            *used = bits.bits();
        }
        Ok(())
    })
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_next_event(
    usmbd: &mut Handle,
    wait: c_int,
    event: &mut *const c_void,
) -> c_int {
    answer(|| {
        let wait = if wait != 0 { Wait::Yes } else { Wait::No };
        let mut is_over = false;
        let at = loop {
            match usmbd.next(wait) {
                // An O_NONBLOCK descriptor: wait otherwise.
                Err(Error::WouldBlock) if wait == Wait::Yes && !is_over => {
                    is_over = usmbd.context.poll(Interest::Readable, None)?.hangup;
                }
                Err(Error::WouldBlock) if is_over => return Err(Error::no_more_events()),
                other => break other?,
            }
        };
        *event = usmbd.buffer.as_bytes()[at..].as_ptr().cast();
        Ok(())
    })
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_events_at_hand(usmbd: &Handle) -> u32 {
    usmbd.at_hand
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_map_area(
    usmbd: &mut Handle,
    start: &mut *mut c_void,
    length: &mut usize,
) -> c_int {
    answer(|| {
        if usmbd.area.is_none() {
            let parameters: MemoryParameters = usmbd.context.memory_parameters()?;
            let bytes = parameters.buffer_count as usize * parameters.buffer_size as usize;
            let context = usmbd.context.as_fd();
            let mapping = Mapping::new(context, parameters.area_offset, bytes, true)
                .and_then(Mapping::kept_from_children)
                .map_err(|error| Error::call("mmap of the registration area", error))?;
            usmbd.area = Some(mapping);
        }
        if let Some(area) = &usmbd.area {
            *length = area.length();
            *start = area.pointer(0, area.length()).as_ptr().cast();
        }
        Ok(())
    })
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_status(usmbd: &mut Handle, status: &mut StatusRecord) -> c_int {
    answer(|| {
        let page = match usmbd.status.take() {
            Some(page) => page,
            None => StatusPage::map(&usmbd.context)?,
        };
        let record = page.record();
        usmbd.status = Some(page);
        *status = record?;
        Ok(())
    })
}
