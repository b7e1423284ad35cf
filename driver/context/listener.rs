// SPDX-License-Identifier: GPL-2.0-only

//! A listener: one address and a backlog, made of one CM id per address family and kind of fabric,
//! each with its own port.
//!
//! A plain wildcard listen on port 445 would take TCP 445 as soon as an iWARP device exists; hence
//! the ids are restricted to their kind, and iWARP has a port of its own ([MS-SMBD] 1.9).

use super::connection::Connection;
use super::event_queue::Event;
use super::{pending, Context, ListenAddress};
use crate::verbs::{CmEvent, CmOwner, Id, NodeKind, SocketAddr};
use crate::{compat, workqueue};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_mutex, new_spinlock, Arc, ArcBorrow, Mutex, SpinLock};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};
use usmbd_abi::status::Status;

/// What LISTEN asks for.
pub(crate) struct ListenRequest {
    pub(crate) user_data: u64,
    /// Where to listen; none for every address of both families. Its port is not used.
    pub(crate) address: ListenAddress,
    /// Port on InfiniBand and RoCE.
    pub(crate) port: u16,
    /// Port on iWARP.
    pub(crate) iwarp_port: u16,
    /// Connections that may wait for ACCEPT.
    pub(crate) backlog: u16,
}

/// See the module's documentation.
#[pin_data]
pub(crate) struct Listener {
    number: u32,
    context: Arc<Context>,
    request: ListenRequest,
    #[pin]
    ids: Mutex<Ids>,
    /// The CLOSE_LISTENER that ends it.
    #[pin]
    end: SpinLock<Option<u64>>,
    /// Connections that are on their way to ACCEPT.
    waiting: Atomic<i32>,
    #[pin]
    work: Work<Listener>,
}

enum Ids {
    /// The work item has not run yet.
    Starting,
    Listening(#[expect(dead_code, reason = "held until it is dropped")] KVec<Id<Listener>>),
    Closed,
}

impl_has_work! {
    impl HasWork<Self> for Listener { self.work }
}

impl WorkItem for Listener {
    type Pointer = Arc<Listener>;

    fn run(this: Arc<Listener>) {
        this.bind();
        this.finish();
    }
}

impl Listener {
    /// A listener that does not listen yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        context: Arc<Context>,
        number: u32,
        request: ListenRequest,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                number,
                context,
                request,
                ids <- new_mutex!(Ids::Starting, "usmbd_listener"),
                end <- new_spinlock!(None, "usmbd_listener_end"),
                waiting: Atomic::new(0),
                work <- new_work!("usmbd_listener"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Has the bind done, by a work item; LISTENING tells how it went.
    pub(crate) fn start(self: &Arc<Self>) {
        // A listener is started once, so it cannot be waiting already.
        let _ = workqueue::enqueue(self.clone());
    }

    fn bind(self: &Arc<Self>) {
        let mut ids = self.ids.lock();
        if !matches!(*ids, Ids::Starting) {
            // Bound before; or closed before it began: the context is gone, nobody waits for the
            // event.
            return;
        }
        let (status, number) = match self.make_ids() {
            Ok(made) => {
                *ids = Ids::Listening(made);
                (Status::Ok, self.number)
            }
            Err(error) => {
                *ids = Ids::Closed;
                (status_of(error), 0)
            }
        };
        drop(ids);
        if number == 0 {
            // The context's reference; ours goes when the work item returns.
            drop(self.context.take_listener(self.number));
        }
        self.context.post(Event::Listening {
            user_data: self.request.user_data,
            status,
            listener: number,
        });
    }

    /// One id per family and kind. A kind without devices is no error, as long as one id listens.
    fn make_ids(self: &Arc<Self>) -> Result<KVec<Id<Listener>>> {
        let any = [SocketAddr::v4([0; 4], 0), SocketAddr::v6([0; 16], 0, 0, 0)];
        let one;
        let addresses: &[SocketAddr] = match &self.request.address {
            Some(address) => {
                one = [*address];
                &one
            }
            None => &any,
        };
        let kinds = [
            (NodeKind::InfiniBandOrRoce, self.request.port),
            (NodeKind::Iwarp, self.request.iwarp_port),
        ];
        let mut ids = KVec::new();
        let mut failure = None;
        for address in addresses {
            for (kind, port) in kinds {
                let id = Id::listen(
                    self.context.net(),
                    self.clone(),
                    &address.with_port(port),
                    Some(kind),
                    i32::from(self.request.backlog),
                );
                // What rdma_cm says when somebody listens already and one of the two is a wildcard
                // (cma_check_port()).
                let id = match id {
                    Err(error) if error == compat::EADDRNOTAVAIL && address.is_any() => {
                        Err(compat::EADDRINUSE)
                    }
                    id => id,
                };
                match id {
                    Ok(id) => ids.push(id, GFP_KERNEL_ACCOUNT)?,
                    // No device of this kind has this address, or there is no IPv6.
                    Err(error)
                        if error == ENODEV
                            || error == compat::EADDRNOTAVAIL
                            || error == compat::EAFNOSUPPORT =>
                    {
                        failure = failure.or(Some(error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        match failure {
            Some(error) if ids.is_empty() => Err(error),
            _ => Ok(ids),
        }
    }

    /// Has the listener closed, by its work item, for the command with this `user_data`;
    /// LISTENER_CLOSED tells when it is. Its event slot is reserved.
    pub(crate) fn end(self: &Arc<Self>, user_data: u64) {
        *self.end.lock() = Some(user_data);
        // If it waits already, it will see what was stored.
        let _ = workqueue::enqueue(self.clone());
    }

    fn finish(self: &Arc<Self>) {
        let Some(user_data) = self.end.lock().take() else {
            return;
        };
        self.close();
        self.context.post(Event::ListenerClosed {
            user_data,
            listener: self.number,
        });
    }

    /// Ends the listener: no connection comes any more, and those not accepted are dropped.
    /// Sleeps until no handler of its ids runs.
    pub(crate) fn close(self: &Arc<Self>) {
        let ids = core::mem::replace(&mut *self.ids.lock(), Ids::Closed);
        // Unlocked: destroying an id waits for its handler.
        drop(ids);
        pending::drop_all(self);
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.ids.lock(), Ids::Closed)
    }

    /// Counts one more connection on its way to ACCEPT; false if the backlog is full.
    fn admit(&self) -> bool {
        if self.waiting.fetch_add(1, Relaxed) < i32::from(self.request.backlog) {
            return true;
        }
        self.release();
        false
    }

    /// A connection is no longer on its way to ACCEPT.
    pub(crate) fn release(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

impl CmOwner for Listener {
    fn cm_event(this: ArcBorrow<'_, Self>, event: CmEvent<'_>) -> Result {
        let CmEvent::ConnectRequest(incoming) = event else {
            // A listener's ids have no other events that matter: devices that come and go are
            // followed by rdma_cm itself.
            return Ok(());
        };
        if !this.admit() {
            return Err(compat::ECONNREFUSED);
        }
        let listener = Arc::from(this);
        let result = Connection::incoming(&listener, incoming);
        if result.is_err() {
            listener.release();
        }
        result
    }
}

fn status_of(error: Error) -> Status {
    if error == compat::EADDRINUSE {
        Status::AddressInUse
    } else if error == ENODEV || error == compat::EADDRNOTAVAIL || error == compat::EAFNOSUPPORT {
        Status::AddressNotAvailable
    } else if error == ENOMEM {
        Status::NoMemory
    } else {
        Status::Provider
    }
}
