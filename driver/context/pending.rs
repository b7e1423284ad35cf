// SPDX-License-Identifier: GPL-2.0-only

//! Connections that wait for somebody with their ticket.
//!
//! A ticket is 128 random bits: who has it may take the connection, once.

use super::connection::Connection;
use super::listener::Listener;
use kernel::bindings;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{global_lock, Arc};

pub(crate) type Ticket = [u8; 16];

global_lock! {
    // SAFETY: Initialised in `init`, before any listener can exist.
    unsafe(uninit) static PENDING: SpinLock<Option<RBTree<Ticket, Arc<Connection>>>> = None;
}

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise this is the only call.
    unsafe { PENDING.init() };
}

/// Memory for one entry, got before a lock is taken.
pub(crate) struct Reservation(RBTreeNode<Ticket, Arc<Connection>>);

impl Reservation {
    /// A new ticket for `connection`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(connection: &Arc<Connection>) -> Result<(Self, Ticket)> {
        let mut ticket: Ticket = [0; 16];
        // SAFETY: The memory is valid for as many bytes.
        unsafe { bindings::get_random_bytes(ticket.as_mut_ptr().cast(), ticket.len()) };
        let node = RBTreeNode::new(ticket, connection.clone(), GFP_KERNEL_ACCOUNT)?;
        Ok((Self(node), ticket))
    }

    /// From now on the ticket is good.
    pub(crate) fn offer(self) {
        let replaced = PENDING
            .lock()
            .get_or_insert_with(RBTree::new)
            .insert(self.0);
        // Two equal tickets do not happen in 128 random bits; if they do, the older one loses.
        drop(replaced);
    }
}

/// Takes the connection that has this ticket, and its entry: offering it again needs no memory.
pub(crate) fn take(ticket: &Ticket) -> Option<(Arc<Connection>, Reservation)> {
    let mut guard = PENDING.lock();
    let pending = guard.as_mut()?;
    let connection = pending.get(ticket)?.clone();
    let entry = pending.remove_node(ticket)?;
    Some((connection, Reservation(entry)))
}

/// Disconnects all that wait for ACCEPT on this listener.
pub(crate) fn drop_all(listener: &Arc<Listener>) {
    loop {
        let node = {
            let mut guard = PENDING.lock();
            let Some(pending) = guard.as_mut() else {
                return;
            };
            let found = pending
                .iter()
                .find(|(_, connection)| connection.is_of(listener))
                .map(|(ticket, _)| *ticket);
            match found {
                Some(ticket) => pending.remove_node(&ticket),
                None => return,
            }
        };
        if let Some(node) = node {
            node.to_key_value().1.disconnect();
        }
    }
}
