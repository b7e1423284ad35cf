// SPDX-License-Identifier: GPL-2.0-only

//! What the driver did: since it was loaded (`statistics` in debugfs), and on each connection.

use core::fmt::{self, Write};
use kernel::sync::atomic::{Atomic, Relaxed};

macro_rules! counters {
    (module { $($(#[$doc:meta])* $name:ident,)* }
     connection { $($(#[$connection_doc:meta])* $connection:ident,)* }) => {
        /// Counters over all connections of the module.
        pub(crate) struct Statistics {
            $($(#[$doc])* pub(crate) $name: Counter,)*
            $($(#[$connection_doc])* $connection: Counter,)*
        }

        /// The module's counters.
        pub(crate) static STATISTICS: Statistics = Statistics {
            $($name: Counter(Atomic::new(0)),)*
            $($connection: Counter(Atomic::new(0)),)*
        };

        impl Statistics {
            /// Writes one `name value` line for each counter.
            fn show(&self, out: &mut impl Write) -> fmt::Result {
                $(writeln!(out, "{} {}", stringify!($name), self.$name.get())?;)*
                $(writeln!(out, "{} {}", stringify!($connection), self.$connection.get())?;)*
                Ok(())
            }
        }

        /// Counters of one connection, plain numbers under its lock; or sums of such.
        #[derive(Clone, Copy, Default)]
        pub(crate) struct Counters {
            $($(#[$connection_doc])* pub(crate) $connection: u64,)*
        }

        impl Counters {
            $(
                /// Counts it here and for the module.
                pub(super) fn $connection(&mut self, value: u32) {
                    self.$connection = self.$connection.wrapping_add(value.into());
                    STATISTICS.$connection.add(value.into());
                }
            )*

            /// Adds another's counters to these.
            pub(super) fn include(&mut self, other: &Self) {
                $(self.$connection = self.$connection.wrapping_add(other.$connection);)*
            }

            /// Writes ` name=value` for each counter.
            pub(super) fn show(&self, out: &mut impl Write) -> fmt::Result {
                $(write!(out, " {}={}", stringify!($connection), self.$connection)?;)*
                Ok(())
            }
        }
    };
}

/// A number that many CPUs count up and now and then down.
pub(crate) struct Counter(Atomic<i64>);

impl Counter {
    /// Adds `value`.
    pub(crate) fn add(&self, value: i64) {
        self.0.add(value, Relaxed);
    }

    /// The sum so far.
    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

counters! {
    module {
        /// Open contexts.
        contexts,
        /// Connections that have resources on a device.
        connections,
        /// Of these, the ones whose context was closed and that still send.
        lingering,
        /// Connections accepted so far.
        connections_accepted,
        /// Connections made by CONNECT so far.
        connections_made,
        /// Connections that a peer's breach of the protocol ended.
        protocol_errors,
    }
    connection {
        /// PDUs sent, without content or with.
        pdus_sent,
        /// PDUs received.
        pdus_received,
        /// Messages sent whole.
        messages_sent,
        /// Messages received whole.
        messages_received,
        /// Bytes of messages sent.
        message_bytes_sent,
        /// Bytes of messages received.
        message_bytes_received,
        /// RDMA_READ commands completed.
        rdma_reads,
        /// Bytes of these.
        rdma_read_bytes,
        /// RDMA_WRITE commands completed.
        rdma_writes,
        /// Bytes of these.
        rdma_write_bytes,
        /// Messages that invalidated a key of the peer.
        remote_invalidations,
    }
}

/// Shows [`STATISTICS`].
pub(crate) fn show(_: &(), out: &mut fmt::Formatter<'_>) -> fmt::Result {
    STATISTICS.show(out)
}
