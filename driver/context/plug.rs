// SPDX-License-Identifier: GPL-2.0-only

//! Holds back what one write() queues on a connection, so that all of it is posted in one chain with
//! one doorbell: an RDMA write and the message that follows it, or many messages.

use super::connection::Connection;
use kernel::sync::Arc;

/// The connection whose commands are held back, if any. One at a time: commands for another
/// connection post those of the one before. Dropping it posts them, too.
#[derive(Default)]
pub(crate) struct Plug(Option<Arc<Connection>>);

impl Plug {
    /// Something was queued on `connection` and not posted.
    pub(super) fn hold(&mut self, connection: &Arc<Connection>) {
        if self.holds(connection) {
            return;
        }
        self.pull();
        self.0 = Some(connection.clone());
    }

    /// Whether something of `connection`'s is held back: room in its queues may be had by
    /// [`Self::pull`].
    pub(super) fn holds(&self, connection: &Arc<Connection>) -> bool {
        matches!(&self.0, Some(held) if Arc::ptr_eq(held, connection))
    }

    /// Posts what is held back.
    pub(super) fn pull(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.post_queued();
        }
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.pull();
    }
}
