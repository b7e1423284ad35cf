// SPDX-License-Identifier: GPL-2.0-only

//! Commands of operators, and the ABI's view of connections.

use super::{fabric, socket_address};
use crate::context::connection::{Connection, PhaseShown};
use crate::context::event_queue::{Event, SlotOf};
use crate::context::stats::Counters;
use crate::context::{registry, Context};
use crate::verbs::uid_as_seen_by;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::command::{self, QueryStatistics};
use usmbd_abi::event::{self, ConnectionInfo, MAX_LISTED};
use zerocopy::IntoBytes;

/// # Errors
///
/// `ENOENT` for a connection that is not this context's; `EAGAIN` if no answer slot is free, or if
/// connections come too fast to be counted; `ENOMEM`.
pub(super) fn query_statistics(
    context: &Context,
    body: &QueryStatistics,
    user_data: u64,
) -> Result {
    let connection = body.connection.get();
    let counters = match connection {
        0 => context.statistics()?,
        number => context.connection(number).ok_or(ENOENT)?.counters(),
    };
    let counters = KBox::new(counters, GFP_KERNEL_ACCOUNT)?;
    context.queue().reserve(1, SlotOf::Answer)?;
    context.post(Event::Statistics {
        user_data,
        connection,
        counters,
    });
    Ok(())
}

/// # Errors
///
/// `EPERM` if the opener is no admin; `EAGAIN` if no answer slot is free, or if it would have to wait
/// for the table and `nowait` is set; `ENOMEM`.
pub(super) fn list_connections(
    context: &Context,
    body: &command::ListConnections,
    user_data: u64,
    nowait: bool,
) -> Result {
    if !context.is_admin() {
        return Err(EPERM);
    }
    let most = MAX_LISTED as usize;
    let mut entries: KVec<u8> =
        KVec::with_capacity(most * size_of::<ConnectionInfo>(), GFP_KERNEL_ACCOUNT)?;
    let mut count = 0u32;
    let left = registry::list(context.net(), body.after.get(), nowait, |connection| {
        if count == MAX_LISTED {
            return Ok(false);
        }
        let info = info(context, connection);
        entries.extend_from_slice(info.as_bytes(), GFP_KERNEL_ACCOUNT)?;
        count = count.saturating_add(1);
        Ok(true)
    })?;
    context.queue().reserve(1, SlotOf::Answer)?;
    context.post(Event::Connections {
        user_data,
        count,
        left,
        entries,
    });
    Ok(())
}

/// # Errors
///
/// `EPERM` if the opener is no admin; `ENOENT` if there is no such connection in this network
/// namespace; `EAGAIN` if it would have to wait for the table and `nowait` is set.
pub(super) fn drop_connection(context: &Context, body: &command::Drop, nowait: bool) -> Result {
    if !context.is_admin() {
        return Err(EPERM);
    }
    registry::find(context.net(), body.connection.get(), nowait)?.drop_by_operator();
    Ok(())
}

/// A connection as the asker may see it.
fn info(asker: &Context, connection: &Arc<Connection>) -> ConnectionInfo {
    let now = connection.snapshot();
    let mut info = ConnectionInfo {
        connection: connection.number().into(),
        phase: phase(now.phase).into(),
        fabric: fabric(connection.fabric()).into(),
        local: socket_address(connection.local()),
        peer: socket_address(connection.peer()),
        device: [0; 32],
        uid: uid_as_seen_by(asker.opener(), now.opener.as_deref()).into(),
        send_credits: now.send_credits.into(),
        receive_credits: u16::try_from(now.receive_credits)
            .unwrap_or(u16::MAX)
            .into(),
        memory: (now.memory as u64).into(),
        counters: counters(&now.counters),
    };
    // The last byte stays zero, however long the name is.
    let (_, room) = info.device.split_last_mut().unwrap_or((&mut 0, &mut []));
    for (place, byte) in room.iter_mut().zip(connection.device().name().to_bytes()) {
        *place = *byte;
    }
    info
}

fn phase(phase: PhaseShown) -> u32 {
    match phase {
        PhaseShown::Negotiating => event::PHASE_NEGOTIATING,
        PhaseShown::Routing => event::PHASE_ROUTING,
        PhaseShown::Offered => event::PHASE_OFFERED,
        PhaseShown::Serving => event::PHASE_SERVING,
        PhaseShown::Lingering => event::PHASE_LINGERING,
        PhaseShown::Draining => event::PHASE_DRAINING,
        PhaseShown::Connecting => event::PHASE_CONNECTING,
    }
}

pub(super) fn counters(counters: &Counters) -> event::Counters {
    event::Counters {
        pdus_sent: counters.pdus_sent.into(),
        pdus_received: counters.pdus_received.into(),
        messages_sent: counters.messages_sent.into(),
        messages_received: counters.messages_received.into(),
        message_bytes_sent: counters.message_bytes_sent.into(),
        message_bytes_received: counters.message_bytes_received.into(),
        rdma_reads: counters.rdma_reads.into(),
        rdma_read_bytes: counters.rdma_read_bytes.into(),
        rdma_writes: counters.rdma_writes.into(),
        rdma_write_bytes: counters.rdma_write_bytes.into(),
        remote_invalidations: counters.remote_invalidations.into(),
    }
}
