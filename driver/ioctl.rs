// SPDX-License-Identifier: GPL-2.0-only

//! The ioctl variant: the seven operations of the 2013 design, one directive a call, and the batch
//! that its review asked for. Only in a build with `make module IOCTL=1`, to be measured against
//! `write()` and `read()`; not an interface for programs.
//!
//! The node is `/dev/usmbd_ioctl`, which does all that `/dev/usmbd` does, too. A directive is
//! fetched with one copy, checked as a record is, by the same decoder, and carried out by the same
//! [`dispatch`]; its events go into the same queue. No lock is taken that a `write()` would not
//! take. `docs/performance.md` lays the path open.

pub(crate) mod directive;

use crate::chardev::{self, read};
use crate::context::event_queue::Event;
use crate::context::plug::Plug;
use crate::context::{dispatch, Context};
use crate::trace;
use directive::{Batch, Directive, Events};
use kernel::bindings;
use kernel::error::to_result;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::uaccess::{UserPtr, UserSlice};
use usmbd_abi::command::{
    Body, Command, Disconnect, Nop, RdmaRead, RdmaWrite, SendPdu, SetParameters, SetSessionId,
};
use usmbd_abi::record::{Header, HEADER_LENGTH};
use zerocopy::{FromZeros, IntoBytes};

/// # Safety
///
/// Called by the VFS with an open file of ours.
pub(crate) unsafe extern "C" fn ioctl(
    file: *mut bindings::file,
    operation: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: The file is open.
    let (context, flags) = unsafe { (chardev::context(file), (*file).f_flags) };
    let nowait = flags & bindings::O_NONBLOCK != 0;
    match carry_out(context, operation, argument as usize, nowait) {
        Ok(number) => c_long::try_from(number).unwrap_or(c_long::MAX),
        Err(error) => error.to_errno() as c_long,
    }
}

fn carry_out(
    context: ArcBorrow<'_, Context>,
    operation: u32,
    argument: usize,
    nowait: bool,
) -> Result<usize> {
    match operation {
        directive::SEND_PDU => single(context, argument, nowait, &[SendPdu::OPCODE]),
        directive::RDMA_READ_WRITE => {
            let opcodes = [RdmaRead::OPCODE, RdmaWrite::OPCODE];
            single(context, argument, nowait, &opcodes)
        }
        directive::NOP => single(context, argument, nowait, &[Nop::OPCODE]),
        directive::DISCONNECT => single(context, argument, nowait, &[Disconnect::OPCODE]),
        directive::SET_SESSION_ID => single(context, argument, nowait, &[SetSessionId::OPCODE]),
        directive::GET_EVENTS => get_events(context, argument, nowait),
        directive::BATCH => batch(&Arc::from(context), argument, nowait),
        directive::SET_PARAMETERS => set_parameters(&Arc::from(context), argument),
        directive::GET_MEMORY_PARAMETERS => get_memory_parameters(argument),
        _ => Err(ENOTTY),
    }
}

/// One directive, of one of these opcodes.
fn single(
    context: ArcBorrow<'_, Context>,
    address: usize,
    nowait: bool,
    opcodes: &[u16],
) -> Result<usize> {
    let directive: Directive = fetch(address)?;
    if !opcodes.contains(&directive.opcode.get()) {
        return Err(EINVAL);
    }
    // What it queues is posted when the call ends.
    let mut plug = Plug::default();
    take(&Arc::from(context), &directive, nowait, &mut plug)?;
    Ok(0)
}

/// Directives in order, as `write()` takes records: the first decides the call's error, a later
/// obstacle ends the batch short. Returns how many were taken.
fn batch(context: &Arc<Context>, address: usize, nowait: bool) -> Result<usize> {
    let batch: Batch = fetch(address)?;
    let count = batch.count.get();
    if batch.reserved.get() != 0 || count > directive::MAX_DIRECTIVES {
        return Err(EINVAL);
    }
    let mut at = batch.directives.get() as usize;
    let mut plug = Plug::default();
    for number in 0..count as usize {
        let taken = fetch(at)
            .and_then(|directive| take(context, &directive, nowait || number > 0, &mut plug));
        match taken {
            Ok(()) => {}
            Err(_) if number > 0 => return Ok(number),
            Err(error) => return Err(error),
        }
        at = at.wrapping_add(size_of::<Directive>());
    }
    Ok(count as usize)
}

/// Carries out one directive that was fetched.
fn take(context: &Arc<Context>, directive: &Directive, nowait: bool, plug: &mut Plug) -> Result {
    let mut header = Header {
        length: HEADER_LENGTH.into(),
        opcode: directive.opcode,
        flags: directive.flags,
        user_data: directive.user_data,
    };
    let result = checked(context, directive, &mut header, nowait, plug);
    trace::command(&header, &result);
    result
}

/// Checks a directive as the record that it would be.
fn checked(
    context: &Arc<Context>,
    directive: &Directive,
    header: &mut Header,
    nowait: bool,
    plug: &mut Plug,
) -> Result {
    let memory_length = directive.memory_length.get();
    let body_length = match directive.opcode.get() {
        SendPdu::OPCODE => size_of::<SendPdu>(),
        RdmaRead::OPCODE | RdmaWrite::OPCODE => size_of::<RdmaWrite>(),
        Disconnect::OPCODE => size_of::<Disconnect>(),
        SetSessionId::OPCODE => size_of::<SetSessionId>(),
        Nop::OPCODE => 0,
        _ => return Err(EINVAL),
    };
    header.length = HEADER_LENGTH
        .checked_add(body_length as u32)
        .and_then(|fixed| fixed.checked_add(memory_length))
        .ok_or(EINVAL)?
        .into();
    let body = directive.body.get(..body_length).ok_or(EINVAL)?;
    // As one number: a loop over bytes would be what is measured.
    let whole = u128::from_le_bytes(directive.body);
    let shift = body_length.saturating_mul(8) as u32;
    if whole.checked_shr(shift).unwrap_or(0) != 0 {
        return Err(EINVAL);
    }
    let decoded = Command::decode(header, body);
    let command = decoded.as_ref().map_err(|_| EINVAL)?;
    let (address, length) = (directive.memory.get() as usize, memory_length as usize);
    let mut memory = user_memory(address, length, bindings::ITER_SOURCE)?;
    // SAFETY: It is valid, a source by its making, and used only for the rest of this call.
    let memory = unsafe { IovIterSource::from_raw(&mut memory) };
    dispatch::command(context, header, command, memory, nowait, plug)
}

fn set_parameters(context: &Arc<Context>, address: usize) -> Result<usize> {
    const { assert!(size_of::<SetParameters>() == directive::PARAMETERS_LENGTH) };
    let body: SetParameters = fetch(address)?;
    let header = Header {
        length: HEADER_LENGTH
            .wrapping_add(directive::PARAMETERS_LENGTH as u32)
            .into(),
        opcode: SetParameters::OPCODE.into(),
        ..Header::default()
    };
    let command = Command::decode(&header, body.as_bytes()).map_err(|_| EINVAL)?;
    let mut nothing = user_memory(0, 0, bindings::ITER_SOURCE)?;
    // SAFETY: As in `checked`.
    let nothing = unsafe { IovIterSource::from_raw(&mut nothing) };
    let mut plug = Plug::default();
    dispatch::command(context, &header, &command, nothing, true, &mut plug)?;
    Ok(0)
}

/// Answers at once, as the 2013 operation did, with what the event would say.
fn get_memory_parameters(address: usize) -> Result<usize> {
    let event = Event::MemoryParameters { user_data: 0 };
    let mut record = dispatch::Record::new();
    dispatch::encode(&mut record, &event).ok_or(EINVAL)?;
    let body = record.bytes().get(HEADER_LENGTH as usize..);
    let body = body
        .filter(|body| body.len() == directive::MEMORY_PARAMETERS_LENGTH)
        .ok_or(EINVAL)?;
    UserSlice::new(UserPtr::from_addr(address), body.len())
        .writer()
        .write_slice(body)?;
    Ok(0)
}

/// Events in the form in which `read()` returns them.
fn get_events(context: ArcBorrow<'_, Context>, address: usize, nowait: bool) -> Result<usize> {
    let events: Events = fetch(address)?;
    let (address, length) = (events.address.get() as usize, events.length.get() as usize);
    let mut start = user_memory(address, length, bindings::ITER_DEST)?;
    let mut dest = user_memory(address, length, bindings::ITER_DEST)?;
    // SAFETY: Both are valid, destinations by their making, and used only for the rest of this call.
    let (start, dest) = unsafe {
        (
            IovIterDest::from_raw(&mut start),
            IovIterDest::from_raw(&mut dest),
        )
    };
    read::batch(context, start, dest, nowait)
}

/// Fetches an argument, with one copy.
fn fetch<T: FromZeros + zerocopy::FromBytes + IntoBytes>(address: usize) -> Result<T> {
    let mut value = T::new_zeroed();
    UserSlice::new(UserPtr::from_addr(address), size_of::<T>())
        .reader()
        .read_slice(value.as_mut_bytes())?;
    Ok(value)
}

/// An iterator over memory of the caller's.
fn user_memory(address: usize, length: usize, direction: u32) -> Result<bindings::iov_iter> {
    let mut iter = bindings::iov_iter::default();
    let address = UserPtr::from_addr(address).as_mut_ptr();
    // SAFETY: The iterator is ours to fill; the address is checked, here and when it is used.
    to_result(unsafe { bindings::import_ubuf(direction as i32, address, length, &mut iter) })?;
    Ok(iter)
}
