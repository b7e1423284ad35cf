// SPDX-License-Identifier: GPL-2.0-only

//! Safe wrappers of rdma_cm and of the verbs.
//!
//! What the fabric does comes in through two traits, [`CmOwner`] and [`CompletionOwner`]; everything
//! else is an object that gives back in `Drop` what it took. The rules that Rust's types do not
//! carry:
//!
//! - Objects are dropped in process context, in any order: a queue pair keeps its completion queue,
//!   its CM id and its device, so the C side always sees the right order. The device is gone only
//!   when every object on it is ([`DeviceUse`]).
//! - The last [`Id`] or [`QueuePair`] of a CM id is not dropped inside that id's own handler, nor
//!   under a lock that the handler takes: `rdma_destroy_id()` waits for the handler.
//! - Memory that a posted work request names stays where it is until that request completed.

mod address;
mod chain;
mod cm;
mod completion_queue;
mod device;
mod dma;
pub(crate) mod ffi;
mod memory_region;
mod net;
mod queue_pair;
mod user_pages;

pub(crate) use self::{
    address::SocketAddr,
    chain::{Chain, Sge},
    cm::{
        Bound, CmEvent, CmFailure, CmOwner, ConnParam, Id, Incoming, NodeKind, PeerParam, Resolved,
    },
    completion_queue::{CompletionOwner, CompletionQueue, Polled, WorkCompletion, WorkStatus},
    device::{Client, ClientEvents, Device, DeviceUse, Fabric},
    dma::{total_pages, Direction, DmaBuffer, Mapping, PageList, SharedBuffer, SharedMemory},
    memory_region::{Access, MemoryRegion},
    net::{opener_uid, uid_as_seen_by, Net},
    queue_pair::{Capacity, QueuePair, Receive, ReceiveTable},
    user_pages::{opener_may_lock_memory, Hold, PinnedCount, UserPages},
};
