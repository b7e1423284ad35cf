// SPDX-License-Identifier: GPL-2.0-only

//! What one listener and one context may have, as the operator set it when the module was loaded.

use super::listener::Listener;
use crate::compat;
use crate::verbs::total_pages;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;

/// Least connections of a listener, where memory decides.
const LEAST_CONNECTIONS: usize = 64;
/// An idle connection takes about a ninth of this.
const MEMORY_OF_CONNECTION: usize = 1 << 20;
/// Bounds of the others. One RDMA command with lists of the greatest length must fit.
const MOST_EVENTS: u32 = 1 << 20;
const LEAST_EVENTS: u32 = 1 << 10;
const LEAST_COMMANDS: u32 = 16;
const LEAST_COMMAND_KIB: u32 = 128;

/// What the operator set.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Connections of a listener, accepted or not; zero for one for each MiB of memory.
    pub(crate) connections: u32,
    /// Events of a context's connections and listeners that are queued or due.
    pub(crate) events: u32,
    /// Those of commands, which come on top.
    pub(crate) commands: u32,
    /// KiB of lists of transfers under way, of a context.
    pub(crate) command_kib: u32,
}

static CONNECTIONS: Atomic<usize> = Atomic::new(0);
static EVENTS: Atomic<usize> = Atomic::new(0);
static COMMANDS: Atomic<usize> = Atomic::new(0);
static COMMAND_BYTES: Atomic<usize> = Atomic::new(0);

/// Takes the settings over; before there is any context.
pub(crate) fn set(settings: &Settings) {
    let by_memory = total_pages()
        .saturating_mul(PAGE_SIZE)
        .checked_div(MEMORY_OF_CONNECTION)
        .unwrap_or(0)
        .max(LEAST_CONNECTIONS);
    let connections = match settings.connections {
        0 => by_memory,
        number => number as usize,
    };
    let events = settings.events.clamp(LEAST_EVENTS, MOST_EVENTS);
    let commands = settings.commands.clamp(LEAST_COMMANDS, events);
    let command_kib = settings.command_kib.max(LEAST_COMMAND_KIB) as usize;
    CONNECTIONS.store(connections, Relaxed);
    EVENTS.store(events as usize, Relaxed);
    COMMANDS.store(commands as usize, Relaxed);
    COMMAND_BYTES.store(command_kib.saturating_mul(1 << 10), Relaxed);
}

/// Slots that connections and listeners of one context can have committed.
pub(crate) fn events() -> usize {
    EVENTS.load(Relaxed)
}

/// Slots that commands of one context can have committed: a flood of commands whose events nobody
/// reads must not take the slots that connections live on, nor many connections those of commands.
pub(crate) fn commands() -> usize {
    COMMANDS.load(Relaxed)
}

/// Bytes of lists of one context's transfers.
pub(crate) fn command_bytes() -> usize {
    COMMAND_BYTES.load(Relaxed)
}

/// Whether a quarter of `limit` is free.
pub(crate) fn has_room(used: usize, limit: usize) -> bool {
    used <= (limit >> 2).saturating_mul(3)
}

/// Connections that a listener has, and those that it had and that are not gone.
pub(crate) struct Places(Arc<Atomic<usize>>);

impl Places {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Arc::new(Atomic::new(0), GFP_KERNEL_ACCOUNT)?))
    }
}

/// One connection of a listener's, as long as this exists.
pub(crate) struct Place(Arc<Atomic<usize>>);

impl Place {
    /// # Errors
    ///
    /// `ECONNREFUSED` if the listener has as many as it may.
    pub(crate) fn of(listener: &Listener) -> Result<Self> {
        let place = Self(listener.places().0.clone());
        // Dropping it counts down again.
        if place.0.fetch_add(1, Relaxed) >= CONNECTIONS.load(Relaxed) {
            return Err(compat::ECONNREFUSED);
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
