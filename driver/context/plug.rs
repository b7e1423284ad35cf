// SPDX-License-Identifier: GPL-2.0-only

//! Holds back what one write() brings about, so that all of it is done once: what it queues on a
//! connection is posted in one chain with one doorbell (an RDMA write and the message that follows
//! it, or many messages), also where a batch goes to and fro between connections; and who reads the
//! context's events is woken once.

use super::connection::Connection;
use super::Context;
use kernel::sync::Arc;

/// Connections held back at a time; one more posts them all.
const MOST: usize = 8;

/// What is held back. Dropping it does it all.
#[derive(Default)]
pub(crate) struct Plug {
    /// Connections on which something is queued and not posted: the first `count`.
    connections: [Option<Arc<Connection>>; MOST],
    count: usize,
    /// Whose events wait to be announced.
    queued: Option<Arc<Context>>,
}

impl Plug {
    /// Something was queued on `connection` and not posted.
    pub(super) fn hold(&mut self, connection: &Arc<Connection>) {
        if self.holds(connection) {
            return;
        }
        if self.count == MOST {
            self.pull();
        }
        if let Some(place) = self.connections.get_mut(self.count) {
            *place = Some(connection.clone());
            self.count = self.count.saturating_add(1);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.iter().take(self.count).flatten()
    }

    /// Whether something of `connection`'s is held back: room in its queues may be had by
    /// [`Self::pull`].
    pub(super) fn holds(&self, connection: &Arc<Connection>) -> bool {
        self.all().any(|held| Arc::ptr_eq(held, connection))
    }

    /// The connection that is held back and has this number.
    pub(super) fn held(&self, number: u64) -> Option<Arc<Connection>> {
        self.all().find(|held| held.number() == number).cloned()
    }

    /// Posts what is held back.
    pub(super) fn pull(&mut self) {
        let count = core::mem::take(&mut self.count);
        for place in self.connections.iter_mut().take(count) {
            if let Some(connection) = place.take() {
                connection.post_queued();
            }
        }
    }

    /// An event was queued, and nobody was woken.
    pub(super) fn announce(&mut self, context: &Arc<Context>) {
        self.queued.get_or_insert_with(|| context.clone());
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.pull();
        if let Some(context) = self.queued.take() {
            context.queue().wake();
        }
    }
}
