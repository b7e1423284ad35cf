// SPDX-License-Identifier: GPL-2.0-only

//! Holds back what one write() brings about, so that all of it is done once: what it queues on a
//! connection is posted in one chain with one doorbell (an RDMA write and the message that follows
//! it, or many messages), also where a batch goes to and fro between connections; and who reads the
//! context's events is woken once.

use super::connection::Connection;
use super::Context;
use crate::memory::Caller;
use kernel::sync::Arc;

/// Connections held back at a time; one more posts them all.
const MOST: usize = 8;

/// What is held back. Dropping it does it all.
#[derive(Default)]
pub(crate) struct Plug {
    /// Connections on which something is queued and not posted, and no gaps between them.
    connections: [Option<Arc<Connection>>; MOST],
    /// Whose events wait to be announced.
    queued: Option<Arc<Context>>,
    /// Whose memory the call's commands name.
    pub(super) caller: Caller,
}

impl Plug {
    /// Something was queued on `connection` and not posted.
    #[inline]
    pub(super) fn hold(&mut self, connection: &Arc<Connection>) {
        for place in &mut self.connections {
            match place {
                Some(held) if Arc::ptr_eq(held, connection) => return,
                Some(_) => {}
                None => {
                    *place = Some(connection.clone());
                    return;
                }
            }
        }
        self.pull();
        if let Some(first) = self.connections.first_mut() {
            *first = Some(connection.clone());
        }
    }

    fn find(&self, is: impl Fn(&Arc<Connection>) -> bool) -> Option<&Arc<Connection>> {
        for place in &self.connections {
            match place {
                Some(held) if is(held) => return Some(held),
                Some(_) => {}
                None => break,
            }
        }
        None
    }

    /// Whether something of `connection`'s is held back: room in its queues may be had by
    /// [`Self::pull`].
    pub(super) fn holds(&self, connection: &Arc<Connection>) -> bool {
        self.find(|held| Arc::ptr_eq(held, connection)).is_some()
    }

    /// The connection that is held back and has this number.
    pub(super) fn held(&self, number: u64) -> Option<Arc<Connection>> {
        self.find(|held| held.number() == number).cloned()
    }

    /// Posts what is held back.
    pub(super) fn pull(&mut self) {
        for place in &mut self.connections {
            let Some(connection) = place.take() else {
                break;
            };
            connection.post_queued();
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
