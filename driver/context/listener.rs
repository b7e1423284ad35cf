// SPDX-License-Identifier: GPL-2.0-only

//! A listener: one address and a backlog, made of one CM id per address family and kind of fabric,
//! each with its own port.
//!
//! A plain wildcard listen on port 445 would take TCP 445 as soon as an iWARP device exists; hence
//! the ids are restricted to their kind, and iWARP has a port of its own ([MS-SMBD] 1.9).

use super::connection::Connection;
use super::event_queue::{Event, SlotOf};
use super::limits::Places;
use super::{pending, registry, Context, ListenAddress};
use crate::verbs::{CmEvent, CmOwner, Device, Id, NodeKind, SocketAddr};
use crate::{compat, workqueue};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{global_lock, new_mutex, new_spinlock, Arc, ArcBorrow, Mutex, SpinLock};
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
    /// Whether connections go to those who have claimed them, or else by ticket.
    pub(crate) routes: bool,
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
    #[pin]
    notice: SpinLock<Notice>,
    /// The CLOSE_LISTENER that ends it.
    #[pin]
    end: SpinLock<Option<u64>>,
    /// Connections that are on their way to ACCEPT.
    waiting: Atomic<i32>,
    /// All that came here.
    places: Places,
    #[pin]
    work: Work<Listener>,
}

enum Ids {
    /// The work item has not run yet.
    Starting,
    Listening(KVec<Place>),
    Closed,
}

/// Where to listen: one address on one kind of device.
struct Place {
    address: SocketAddr,
    kind: NodeKind,
    /// None while no device of this kind has this address.
    id: Option<Id<Listener>>,
}

/// Devices that a listener serves.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Devices {
    pub(crate) infiniband: u16,
    pub(crate) iwarp: u16,
}

/// What LISTENER_CHANGED says. Its slot is the listener's own: one is queued at a time.
struct Notice {
    devices: Devices,
    /// What the reader knows.
    told: Option<Devices>,
    queued: bool,
    closed: bool,
}

global_lock! {
    // SAFETY: Initialised in `init`, before any listener can exist.
    unsafe(uninit) static LISTENERS: Mutex<KVec<Arc<Listener>>> = KVec::new();
}

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise this is the only call.
    unsafe { LISTENERS.init() };
}

/// A device came or goes: has all listeners follow.
pub(crate) fn devices_changed() {
    for listener in LISTENERS.lock().iter() {
        listener.start();
    }
}

impl_has_work! {
    impl HasWork<Self> for Listener { self.work }
}

impl WorkItem for Listener {
    type Pointer = Arc<Listener>;

    fn run(this: Arc<Listener>) {
        let starting = matches!(*this.ids.lock(), Ids::Starting);
        if starting {
            this.bind();
        } else {
            this.follow();
        }
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
        let places = Places::new()?;
        Arc::pin_init(
            pin_init!(Self {
                number,
                context,
                request,
                ids <- new_mutex!(Ids::Starting, "usmbd_listener"),
                notice <- new_spinlock!(Notice {
                    devices: Devices { infiniband: 0, iwarp: 0 },
                    told: None,
                    queued: false,
                    closed: false,
                }, "usmbd_listener_notice"),
                end <- new_spinlock!(None, "usmbd_listener_end"),
                waiting: Atomic::new(0),
                places,
                work <- new_work!("usmbd_listener"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether connections go to those who have claimed them.
    pub(crate) fn routes(&self) -> bool {
        self.request.routes
    }

    /// Has a work item bind, or follow the devices; LISTENING and LISTENER_CHANGED tell how it
    /// went.
    pub(crate) fn start(self: &Arc<Self>) {
        // If it waits already, that run will see what we saw.
        let _ = workqueue::enqueue(self.clone());
    }

    fn bind(self: &Arc<Self>) {
        let mut ids = self.ids.lock();
        if !matches!(*ids, Ids::Starting) {
            // Closed before it began: the context is gone, nobody waits for the event.
            return;
        }
        let listening = |status, listener| Event::Listening {
            user_data: self.request.user_data,
            status,
            listener,
        };
        // First, or it misses a device that comes meanwhile.
        let found = LISTENERS.lock().push(self.clone(), GFP_KERNEL);
        match found.map_err(Error::from).and_then(|()| self.make_places()) {
            Ok(places) => {
                // Under the lock, so that nothing of this listener comes behind LISTENER_CLOSED.
                self.context.post(listening(Status::Ok, self.number));
                self.tell(self.count(&places));
                *ids = Ids::Listening(places);
            }
            Err(error) => {
                *ids = Ids::Closed;
                drop(ids);
                // Some addresses may have been listened on for a moment.
                self.withdraw();
                // The context's reference; ours goes when the work item returns.
                drop(self.context.take_listener(self.number));
                self.context.post(listening(status_of(error), 0));
            }
        }
    }

    /// One place per family and kind. A kind without devices is no error, as long as one id
    /// listens.
    fn make_places(self: &Arc<Self>) -> Result<KVec<Place>> {
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
        let mut places = KVec::new();
        let mut failure = None;
        for address in addresses {
            for (kind, port) in kinds {
                let mut place = Place {
                    address: address.with_port(port),
                    kind,
                    id: None,
                };
                match self.make_id(&place) {
                    Ok(id) => place.id = Some(id),
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
                places.push(place, GFP_KERNEL)?;
            }
        }
        match failure {
            Some(error) if places.iter().all(|place| place.id.is_none()) => Err(error),
            _ => Ok(places),
        }
    }

    fn make_id(self: &Arc<Self>, place: &Place) -> Result<Id<Listener>> {
        let id = Id::listen(
            self.context.net(),
            self.clone(),
            &place.address,
            Some(place.kind),
            i32::from(self.request.backlog),
        );
        match id {
            // What rdma_cm says when somebody listens already and one of the two is a wildcard
            // (cma_check_port()).
            Err(error) if error == compat::EADDRNOTAVAIL && place.address.is_any() => {
                Err(compat::EADDRINUSE)
            }
            Ok(id) if self.is_lost(&id) => Err(ENODEV),
            id => id,
        }
    }

    /// Whether an id must go because its device does: the CM waits for that. (Ids without an
    /// address have no device of their own, and rdma_cm has them follow the devices.)
    fn is_lost(&self, id: &Id<Listener>) -> bool {
        !self.is_on_any() && id.device().is_none_or(|device| device.removing())
    }

    /// Whether it listens on any address, of both families or of one.
    fn is_on_any(&self) -> bool {
        let address = self.request.address.as_ref();
        address.is_none_or(SocketAddr::is_any)
    }

    /// Devices came or went: gives up what is lost, listens on what came, and tells.
    fn follow(self: &Arc<Self>) {
        let mut ids = self.ids.lock();
        let Ids::Listening(places) = &mut *ids else {
            return;
        };
        for place in places.iter_mut() {
            if place.id.as_ref().is_some_and(|id| self.is_lost(id)) {
                place.id = None;
            }
            if place.id.is_none() {
                // As before, if there is (still) no such device.
                place.id = self.make_id(place).ok();
            }
        }
        let devices = self.count(places);
        self.tell(devices);
    }

    fn count(&self, places: &[Place]) -> Devices {
        let count = |kind| {
            let count = if self.is_on_any() {
                Device::count_in(self.context.net(), kind)
            } else {
                let served = places.iter().filter(|place| place.kind == kind);
                served.filter(|place| place.id.is_some()).count()
            };
            u16::try_from(count).unwrap_or(u16::MAX)
        };
        Devices {
            infiniband: count(NodeKind::InfiniBandOrRoce),
            iwarp: count(NodeKind::Iwarp),
        }
    }

    /// Queues LISTENER_CHANGED, unless the reader knows or will find one.
    fn tell(self: &Arc<Self>, devices: Devices) {
        let mut notice = self.notice.lock();
        notice.devices = devices;
        self.post_notice(&mut notice);
    }

    fn post_notice(self: &Arc<Self>, notice: &mut Notice) {
        if !notice.closed && !notice.queued && notice.told != Some(notice.devices) {
            notice.queued = true;
            self.context.post(Event::ListenerChanged {
                listener: self.clone(),
            });
        }
    }

    /// What LISTENER_CHANGED says, at the time when it is read.
    pub(crate) fn devices(&self) -> Devices {
        let mut notice = self.notice.lock();
        notice.told = Some(notice.devices);
        notice.devices
    }

    /// LISTENER_CHANGED was read. Whether its slot stays the listener's; else it is to be released.
    pub(crate) fn notice_read(self: &Arc<Self>) -> bool {
        let mut notice = self.notice.lock();
        notice.queued = false;
        self.post_notice(&mut notice);
        !notice.closed
    }

    /// No LISTENER_CHANGED comes any more.
    fn end_notice(&self) {
        let queued = {
            let mut notice = self.notice.lock();
            if core::mem::replace(&mut notice.closed, true) {
                return;
            }
            notice.queued
        };
        if !queued {
            self.context.queue().release(1, SlotOf::Connection);
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

    /// One line for fdinfo.
    pub(crate) fn show(&self, out: &mut impl core::fmt::Write) -> core::fmt::Result {
        write!(out, "{} ", self.number)?;
        match &self.request.address {
            Some(address) => out.write_fmt(fmt!("{}", address.with_port(0)))?,
            None => out.write_str("any")?,
        }
        out.write_fmt(fmt!(
            " port={} iwarp_port={} waiting={} backlog={}\n",
            self.request.port,
            self.request.iwarp_port,
            self.waiting.load(Relaxed),
            self.request.backlog,
        ))
    }

    /// Ends the listener: no connection comes any more, and those not accepted are dropped.
    /// Sleeps until no handler of its ids runs.
    pub(crate) fn close(self: &Arc<Self>) {
        let ids = core::mem::replace(&mut *self.ids.lock(), Ids::Closed);
        // Unlocked: destroying an id waits for its handler.
        drop(ids);
        self.withdraw();
    }

    /// Its ids are gone: so are, now, its place in the table and the connections that nobody has
    /// accepted.
    fn withdraw(self: &Arc<Self>) {
        let own = {
            let mut listeners = LISTENERS.lock();
            let at = listeners
                .iter()
                .position(|listener| Arc::ptr_eq(listener, self));
            let own = at.and_then(|at| listeners.remove(at).ok());
            if listeners.is_empty() {
                // A static is never dropped: its memory goes here, or leaks with the module.
                *listeners = KVec::new();
            }
            own
        };
        drop(own);
        self.end_notice();
        pending::drop_all(self);
        registry::abandon(self);
    }

    /// Has something done, unless the listener was closed; it is not closed meanwhile.
    pub(crate) fn while_open(&self, action: impl FnOnce()) -> bool {
        let ids = self.ids.lock();
        let open = !matches!(*ids, Ids::Closed);
        if open {
            action();
        }
        open
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
        let incoming = match event {
            CmEvent::ConnectRequest(incoming) => incoming,
            CmEvent::DeviceRemoval => {
                // Not here, in its handler: the id is destroyed by the work item.
                Arc::from(this).start();
                return Ok(());
            }
            _ => return Ok(()),
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
