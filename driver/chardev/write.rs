// SPDX-License-Identifier: GPL-2.0-only

//! One write(): a batch of commands, taken in order.

use crate::context::plug::Plug;
use crate::context::{dispatch, fetch, Context};
use crate::trace;
use kernel::iov::IovIterSource;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::command::{Command, Layout, MAX_BODY_LENGTH};
use usmbd_abi::record::{Header, HEADER_LENGTH};
use zerocopy::IntoBytes;

/// Commands of one write() at most, so that a call ends; the caller writes the rest.
const MAX_COMMANDS: usize = 4096;

/// Takes the records that `source` holds. Returns the bytes of those taken.
///
/// # Errors
///
/// What the first record got; a later obstacle ends the batch short.
pub(super) fn batch(
    context: &Arc<Context>,
    source: &mut IovIterSource<'_>,
    nowait: bool,
) -> Result<usize> {
    let mut taken = 0usize;
    // What the batch queues is posted when it ends.
    let mut plug = Plug::default();
    // Bodies are fetched to here, one behind the other.
    let mut place = [0; MAX_BODY_LENGTH];
    for number in 0..MAX_COMMANDS {
        if source.is_empty() {
            break;
        }
        // Only the first record may wait: the caller learns of what was taken before it.
        match one(context, source, &mut place, nowait || number > 0, &mut plug) {
            Ok(length) => taken = taken.saturating_add(length),
            Err(_) if number > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Takes one record. Each byte is fetched once: header and body into private memory, the tail by
/// whoever needs it.
fn one(
    context: &Arc<Context>,
    source: &mut IovIterSource<'_>,
    place: &mut [u8; MAX_BODY_LENGTH],
    nowait: bool,
    plug: &mut Plug,
) -> Result<usize> {
    let available = source.len();
    let mut header = Header::default();
    if available < HEADER_LENGTH as usize {
        return Err(EINVAL);
    }
    fetch::exact(source, header.as_mut_bytes())?;
    let result = checked(context, &header, available, source, place, nowait, plug);
    trace::command(&header, &result);
    result.map(|()| header.length.get() as usize)
}

fn checked(
    context: &Arc<Context>,
    header: &Header,
    available: usize,
    source: &mut IovIterSource<'_>,
    place: &mut [u8; MAX_BODY_LENGTH],
    nowait: bool,
    plug: &mut Plug,
) -> Result {
    let layout = Layout::of(header).map_err(|_| EINVAL)?;
    if header.length.get() as usize > available {
        return Err(EINVAL);
    }
    let body = place.get_mut(..layout.body_length).ok_or(EINVAL)?;
    fetch::exact(source, body)?;
    // Where it stands: moving it would cost as much as decoding it.
    let decoded = Command::decode_body(header, &layout, body);
    let command = decoded.as_ref().map_err(|_| EINVAL)?;
    let before = source.len();
    dispatch::command(context, header, command, source, nowait, plug)?;
    // The tail, whatever was read of it, is done with.
    let read = before.saturating_sub(source.len());
    let unread = (layout.tail_length as usize).saturating_sub(read);
    if unread > 0 {
        source.advance(unread);
    }
    Ok(())
}
