// SPDX-License-Identifier: MIT OR Apache-2.0

//! Commands of the C API.

use super::{answer, slice, Handle};
use crate::abi::command;
use crate::abi::memory::{BufferDescriptorV1, MemoryRange};
use crate::connection::{ConnectionId, Token};
use crate::listener::{ListenerId, Ticket};
use crate::registration::MemoryHandle;
use crate::routing::{ClientGuid, SessionId, TemplateId};
use crate::{Error, Presumption, Result, SendOptions};
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_set_parameters(
    usmbd: &mut Handle,
    parameters: &command::SetParameters,
) -> c_int {
    answer(|| usmbd.submit(|batch| batch.record("SET_PARAMETERS", 0, *parameters)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_listen(
    usmbd: &mut Handle,
    listen: &command::Listen,
    user_data: u64,
) -> c_int {
    answer(|| usmbd.submit(|batch| batch.record("LISTEN", user_data, *listen)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_close_listener(usmbd: &mut Handle, listener: u32, user_data: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.close_listener(ListenerId::new(listener), user_data)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_accept(usmbd: &mut Handle, ticket: &[u8; 16], user_data: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.accept(Ticket::new(*ticket), user_data)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_reject(usmbd: &mut Handle, ticket: &[u8; 16]) -> c_int {
    answer(|| usmbd.submit(|batch| batch.reject(Ticket::new(*ticket))))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_connect(
    usmbd: &mut Handle,
    connect: &command::Connect,
    user_data: u64,
) -> c_int {
    answer(|| usmbd.submit(|batch| batch.record("CONNECT", user_data, *connect)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_disconnect(usmbd: &mut Handle, connection: u64, user_data: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.disconnect(ConnectionId::new(connection), user_data)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_nop(usmbd: &mut Handle, user_data: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.nop(user_data)))
}

/// See `usmbd.h`.
///
/// # Safety
///
/// `presumptions` and `response` must have as many entries and bytes as it says.
#[no_mangle]
pub unsafe extern "C" fn usmbd_set_negotiate_template(
    usmbd: &mut Handle,
    number: u32,
    presumptions: *const Presumption,
    presumption_count: usize,
    response: *const c_void,
    response_length: usize,
) -> c_int {
    answer(|| {
        let template = TemplateId::new(number).ok_or(Error::Refused("templates are 0 to 3"))?;
        // SAFETY: by the contract.
        let presumptions = unsafe { slice(presumptions, presumption_count) };
        // SAFETY: by the contract.
        let response = unsafe { slice(response.cast::<u8>(), response_length) };
        usmbd.submit(|batch| {
            if response.is_empty() && presumptions.is_empty() {
                batch.clear_negotiate_template(template)
            } else {
                batch.set_negotiate_template(template, presumptions, response)
            }
        })
    })
}

fn session(number: u64) -> Result<SessionId> {
    SessionId::new(number).ok_or(Error::Refused("session 0 does not exist"))
}

fn client(guid: &[u8; 16]) -> Result<ClientGuid> {
    ClientGuid::new(*guid).ok_or(Error::Refused("a ClientGuid is not all zero"))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_set_session_id(usmbd: &mut Handle, session_id: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.set_session_id(session(session_id)?)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_clear_session_id(usmbd: &mut Handle, session_id: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.clear_session_id(session(session_id)?)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_set_client_guid(usmbd: &mut Handle, guid: &[u8; 16]) -> c_int {
    answer(|| usmbd.submit(|batch| batch.set_client_guid(client(guid)?)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_clear_client_guid(usmbd: &mut Handle, guid: &[u8; 16]) -> c_int {
    answer(|| usmbd.submit(|batch| batch.clear_client_guid(client(guid)?)))
}

/// See `usmbd.h`.
///
/// # Safety
///
/// See [`Batch::register_raw`](crate::Batch::register_raw).
#[no_mangle]
pub unsafe extern "C" fn usmbd_register_memory(
    usmbd: &mut Handle,
    start: *mut c_void,
    length: usize,
    user_data: u64,
) -> c_int {
    answer(|| {
        let start = NonNull::new(start.cast()).ok_or(Error::Refused("no memory is at NULL"))?;
        // SAFETY: by the contract.
        usmbd.submit(|batch| unsafe { batch.register_raw(start, length, user_data) })
    })
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_unregister_memory(
    usmbd: &mut Handle,
    handle: u32,
    user_data: u64,
) -> c_int {
    answer(|| usmbd.submit(|batch| batch.unregister_memory(MemoryHandle::new(handle), user_data)))
}

/// A connection, or none for zero.
fn some(connection: u64) -> Option<ConnectionId> {
    (connection != 0).then(|| ConnectionId::new(connection))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_query_statistics(
    usmbd: &mut Handle,
    connection: u64,
    user_data: u64,
) -> c_int {
    answer(|| usmbd.submit(|batch| batch.query_statistics(some(connection), user_data)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_list_connections(usmbd: &mut Handle, after: u64, user_data: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.list_connections(some(after), user_data)))
}

/// See `usmbd.h`.
#[no_mangle]
pub extern "C" fn usmbd_drop(usmbd: &mut Handle, connection: u64) -> c_int {
    answer(|| usmbd.submit(|batch| batch.drop_connection(ConnectionId::new(connection))))
}

/// What the flags of both kinds of SEND_PDU say.
fn send_options(flags: u16, token: u32) -> Result<SendOptions> {
    if flags & !(command::QUIET | command::INVALIDATE) != 0 {
        return Err(Error::Refused("flags are USMBD_QUIET and USMBD_INVALIDATE"));
    }
    let invalidate = flags & command::INVALIDATE != 0;
    if !invalidate && token != 0 {
        return Err(Error::Refused("a token without the flag USMBD_INVALIDATE"));
    }
    Ok(SendOptions {
        quiet: flags & command::QUIET != 0,
        invalidate: invalidate.then_some(Token(token)),
    })
}

/// See `usmbd.h`.
///
/// # Safety
///
/// `parts` must have `count` entries, each valid for reads.
#[no_mangle]
pub unsafe extern "C" fn usmbd_send(
    usmbd: &mut Handle,
    connection: u64,
    user_data: u64,
    flags: u16,
    token: u32,
    parts: *const libc::iovec,
    count: usize,
) -> c_int {
    answer(|| {
        let options = send_options(flags, token)?;
        // SAFETY: by the contract.
        let parts: Vec<&[u8]> = unsafe { slice(parts, count) }
            .iter()
            .map(|part| {
                // SAFETY: by the contract.
                unsafe { slice(part.iov_base.cast_const().cast::<u8>(), part.iov_len) }
            })
            .collect();
        usmbd.submit(|batch| {
            batch.send_with(ConnectionId::new(connection), user_data, options, &parts)
        })
    })
}

/// See `usmbd.h`.
///
/// # Safety
///
/// `ranges` must have `count` entries.
#[no_mangle]
pub unsafe extern "C" fn usmbd_send_ranges(
    usmbd: &mut Handle,
    connection: u64,
    user_data: u64,
    flags: u16,
    token: u32,
    ranges: *const MemoryRange,
    count: usize,
) -> c_int {
    answer(|| {
        let options = send_options(flags, token)?;
        // SAFETY: by the contract.
        let ranges = unsafe { slice(ranges, count) };
        usmbd.submit(|batch| {
            batch.send_ranges(ConnectionId::new(connection), user_data, options, ranges)
        })
    })
}

/// What both transfers have in common.
///
/// # Safety
///
/// `ranges` and `descriptors` must have as many entries as it says.
unsafe fn transfer(
    usmbd: &Handle,
    connection: u64,
    user_data: u64,
    flags: u16,
    ranges: (*const MemoryRange, usize),
    descriptors: (*const BufferDescriptorV1, usize),
    is_write: bool,
) -> c_int {
    answer(|| {
        if flags & !command::QUIET != 0 {
            return Err(Error::Refused("a flag that RDMA commands do not have"));
        }
        // SAFETY: by the contract.
        let ranges = unsafe { slice(ranges.0, ranges.1) };
        // SAFETY: by the contract.
        let descriptors = unsafe { slice(descriptors.0, descriptors.1) };
        let connection = ConnectionId::new(connection);
        let quiet = flags & command::QUIET != 0;
        usmbd.submit(|batch| {
            if is_write {
                batch.rdma_write(connection, user_data, quiet, ranges, descriptors)
            } else {
                batch.rdma_read(connection, user_data, quiet, ranges, descriptors)
            }
        })
    })
}

/// See `usmbd.h`.
///
/// # Safety
///
/// `ranges` and `descriptors` must have as many entries as it says.
#[no_mangle]
pub unsafe extern "C" fn usmbd_rdma_read(
    usmbd: &mut Handle,
    connection: u64,
    user_data: u64,
    flags: u16,
    ranges: *const MemoryRange,
    range_count: usize,
    descriptors: *const BufferDescriptorV1,
    descriptor_count: usize,
) -> c_int {
    let (ranges, descriptors) = ((ranges, range_count), (descriptors, descriptor_count));
    // SAFETY: by the contract.
    unsafe {
        transfer(
            usmbd,
            connection,
            user_data,
            flags,
            ranges,
            descriptors,
            false,
        )
    }
}

/// See `usmbd.h`.
///
/// # Safety
///
/// `ranges` and `descriptors` must have as many entries as it says.
#[no_mangle]
pub unsafe extern "C" fn usmbd_rdma_write(
    usmbd: &mut Handle,
    connection: u64,
    user_data: u64,
    flags: u16,
    ranges: *const MemoryRange,
    range_count: usize,
    descriptors: *const BufferDescriptorV1,
    descriptor_count: usize,
) -> c_int {
    let (ranges, descriptors) = ((ranges, range_count), (descriptors, descriptor_count));
    // SAFETY: by the contract.
    unsafe {
        transfer(
            usmbd,
            connection,
            user_data,
            flags,
            ranges,
            descriptors,
            true,
        )
    }
}
