// SPDX-License-Identifier: GPL-2.0-only

//! What can be seen of a context: its statistics, and its text in fdinfo.

use super::connection::Connection;
use super::listener::Listener;
use super::stats::Counters;
use super::{limits, Context, MAX_LISTENERS};
use crate::memory::BUFFER_COUNT;
use core::fmt::{self, Write};
use kernel::prelude::*;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;

/// Connections that fdinfo shows at most.
const MAX_SHOWN: usize = 64;
/// Attempts to get memory for all connections while more and more come.
const ATTEMPTS: usize = 8;

impl Context {
    /// The connections of this context at one moment, and what those counted that it had before. No
    /// connection is in both, or in none.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EAGAIN` if connections come too fast.
    fn all_connections(&self) -> Result<(KVVec<Arc<Connection>>, Counters)> {
        let mut wanted = self.inner.lock().count;
        for _ in 0..ATTEMPTS {
            let mut all = KVVec::with_capacity(wanted, GFP_KERNEL_ACCOUNT)?;
            let inner = self.inner.lock();
            if inner.count <= all.capacity() {
                for connection in inner.connections.values() {
                    // Its capacity was compared just now.
                    let _ = all.push_within_capacity(connection.clone());
                }
                return Ok((all, inner.past));
            }
            wanted = inner.count.saturating_mul(2);
        }
        Err(EAGAIN)
    }

    /// The listeners of this context at one moment.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn all_listeners(&self) -> Result<KVec<Arc<Listener>>> {
        let mut all = KVec::with_capacity(MAX_LISTENERS, GFP_KERNEL_ACCOUNT)?;
        for listener in &self.inner.lock().listeners {
            // There are no more.
            let _ = all.push_within_capacity(listener.clone());
        }
        Ok(all)
    }

    /// The sums over the connections that the context has and had.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EAGAIN`.
    pub(crate) fn statistics(&self) -> Result<Counters> {
        let (all, mut sum) = self.all_connections()?;
        for connection in &all {
            sum.include(&connection.counters());
        }
        Ok(sum)
    }

    /// Text for fdinfo.
    pub(crate) fn show(&self, out: &mut impl Write) -> fmt::Result {
        let (committed, commands) = self.queue.committed();
        out.write_fmt(fmt!(
            "events-queued:\t{}\nevent-slots:\t{} ({} for commands)\ncommand-bytes:\t{} of {}\narea-buffers:\t{} of {}\n",
            self.queue.len(),
            committed,
            commands,
            self.command_bytes.load(Relaxed),
            limits::command_bytes(),
            self.area.buffers(),
            BUFFER_COUNT,
        ))?;
        // Without memory for the lists there is nothing to show.
        for listener in &self.all_listeners().map_err(|_| fmt::Error)? {
            out.write_str("listener:\t")?;
            listener.show(out)?;
        }
        let (all, _) = self.all_connections().map_err(|_| fmt::Error)?;
        out.write_fmt(fmt!("connections:\t{}\n", all.len()))?;
        for connection in all.iter().take(MAX_SHOWN) {
            out.write_str("connection:\t")?;
            connection.show(out)?;
        }
        Ok(())
    }
}
