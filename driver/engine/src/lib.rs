// SPDX-License-Identifier: GPL-2.0-only

//! SMB Direct ([MS-SMBD]) as a sans-I/O state machine.
//!
//! One [`Connection`] per SMB Direct connection. Bytes, completions and time go
//! in through `handle_*`; what to do, what to tell the upper layer and when to
//! come back come out of [`Connection::poll_action`], [`Connection::poll_event`]
//! and [`Connection::poll_timeout`]. The crate owns no clock, lock, allocator,
//! thread or buffer, and no input can make it panic.
//!
//! It compiles unchanged in two worlds: in the kernel under Kbuild, and on a
//! host under cargo, where its tests run.

// Kbuild adds no_std by itself.
#![cfg_attr(not(kernel), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
// What a peer sends ends up in this arithmetic: nothing here may wrap without
// saying so, and nothing may panic.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::multiple_unsafe_ops_per_block,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used
)]

mod connection;
mod credits;
mod parameters;
pub mod read_depth;
mod reason;
mod reassembly;
mod repr;
mod timer;
pub mod wire;

pub use connection::{
    Action, Connection, Event, Message, MessageError, NotReady, Outlook, Received, Role, State,
    Transmit,
};
pub use parameters::{Negotiated, ParameterError, Parameters};
pub use reason::Reason;
pub use reassembly::Piece;
pub use timer::Time;
