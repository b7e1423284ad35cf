// SPDX-License-Identifier: MIT OR Apache-2.0

//! Userspace SMB Direct: the library over `/dev/usmbd`.
//!
//! A server opens the device and gets a [`Context`]: everything behind one file descriptor, its
//! listeners, its connections and its queue of events. Commands go in as a [`Batch`], events come
//! out through an [`EventBuffer`]; nothing else crosses but the memory that [`Area`] maps for RDMA
//! transfers and the [`StatusPage`].
//!
//! ```no_run
//! use usmbd::{Batch, Device, Event, EventBuffer, ListenOptions, Wait};
//!
//! # fn main() -> usmbd::Result<()> {
//! let context = Device::open()?;
//! let mut batch = Batch::new();
//! batch.listen(&ListenOptions::default(), 1)?;
//! context.submit_all(&mut batch)?;
//! let mut buffer = EventBuffer::default();
//! loop {
//!     for event in buffer.read(&context, Wait::Yes)? {
//!         match event {
//!             Event::ConnectionReady(ready) => batch.accept(ready.ticket, 2)?,
//!             Event::PduReceived(piece) if piece.is_whole() => {
//!                 let payload = piece.payload.to_vec();
//!                 batch.send_owned(piece.connection, 3, Default::default(), payload)?;
//!             }
//!             _ => (),
//!         }
//!     }
//!     context.submit_all(&mut batch)?;
//! }
//! # }
//! ```
//!
//! (That loop is a sketch: it ignores messages in pieces and stops at the first error. The example
//! `echo` is a whole server.)
//!
//! # Two kinds of failure
//!
//! An [`Error`] says that this call was malformed or impossible; nothing of it happened. What the
//! peer or the fabric did arrives as an event that carries a [`Failure`] or an [`EndReason`].
//!
//! # Threads, fork, passed descriptors
//!
//! Everything here is `Send` and `Sync` where its methods take `&self`. One reader at a time keeps
//! the events of a connection in order. A [`Context`] works unchanged in a child after fork() and in a
//! process that received its descriptor; an [`Area`] does not: it belongs to the process that
//! mapped it.

#![deny(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn)]
#![deny(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]

pub use usmbd_abi as abi;

mod address;
mod batch;
#[expect(unsafe_code, reason = "C has pointers")]
pub mod capi;
mod connect;
mod connection;
mod device;
mod error;
mod events;
mod listener;
mod memory;
mod message;
#[expect(unsafe_code, reason = "the device writes memory that a caller names")]
mod registration;
mod routing;
mod statistics;
#[expect(unsafe_code, reason = "all system calls stand here")]
mod sys;

pub use abi::command::{Presumption, ANY_ID};
pub use abi::event::Counters;
pub use abi::memory::{BufferDescriptorV1, MemoryRange, Negotiated};
pub use batch::{Batch, SendOptions, MAX_PARTS};
pub use connect::ConnectOptions;
pub use connection::{Connection, ConnectionId, Established, Fabric, Parameters, Token};
pub use device::{Context, Device, Features, Interest, Readiness, Wait, DEVICE_PATH};
pub use error::{EndReason, Error, Failure, Result};
pub use events::{Event, EventBuffer, Events, MemoryParameters, Piece};
pub use listener::{ListenOptions, Listener, ListenerId, Mode, Ready, Ticket};
pub use memory::{Area, Attached, ConnectionStatus, Lease, State, StatusPage, StatusSnapshot};
pub use message::{Assembler, Message};
pub use registration::{MemoryHandle, OwnMemory, Registered};
pub use routing::{Answered, Claim, ClientGuid, Routed, SessionId, TemplateId, Unclaimed};
pub use statistics::{ConnectionInfo, ConnectionList, Phase};
