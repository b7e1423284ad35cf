// SPDX-License-Identifier: GPL-2.0-only

//! Connection management: listening, and the life of one connection.
//!
//! C header: [`include/rdma/rdma_cm.h`](srctree/include/rdma/rdma_cm.h)

mod active;

use super::{ffi, Device, Net, SocketAddr};
use core::{
    cell::{Cell, UnsafeCell},
    marker::PhantomData,
    ptr::NonNull,
};
use kernel::{
    error::{from_err_ptr, to_result},
    ffi::{c_int, c_void},
    prelude::*,
    str::CStrExt,
    sync::{Arc, ArcBorrow, UniqueArc},
    types::ForeignOwnable,
};

pub(crate) use active::Resolved;

/// Which devices an id takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// InfiniBand and RoCE.
    InfiniBandOrRoce,
    /// iWARP.
    Iwarp,
}

impl NodeKind {
    fn node_type(self) -> Result<u8> {
        let node_type = match self {
            Self::InfiniBandOrRoce => ffi::RDMA_NODE_IB_CA,
            Self::Iwarp => ffi::RDMA_NODE_RNIC,
        };
        Ok(u8::try_from(node_type)?)
    }
}

/// What the CM tells about an id.
pub(crate) enum CmEvent<'a> {
    /// A listener's: a peer wants to connect.
    ConnectRequest(Incoming<'a>),
    /// An address of the peer's was resolved, and the device is known that leads there.
    AddressResolved(Resolved<'a>),
    /// So was the route.
    RouteResolved(Resolved<'a>),
    /// Neither; no other event comes.
    NotResolved(Error),
    /// Both sides have agreed. Data may have come before. The parameters are the peer's answer, on
    /// the side that connected.
    Established(PeerParam<'a>),
    /// The peer, or we, ended the connection; the queue pair is in the error state.
    Disconnected,
    /// The connection did not come about.
    Failed(CmFailure),
    /// The device goes away: the id must be destroyed soon, but not in the handler.
    DeviceRemoval,
    /// Something that nobody needs to know.
    Other,
}

/// Why a connection did not come about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CmFailure {
    /// The peer said no, or nobody listens there.
    Rejected,
    /// The peer did not answer.
    Unreachable,
    /// Something went wrong on this side.
    Error,
}

/// Who gets the events of an [`Id`].
pub(crate) trait CmOwner: Send + Sync + 'static {
    /// Takes one event; on a worker, or for [`CmEvent::DeviceRemoval`] in the context of whoever
    /// removes the device. May sleep. Events of one id come one at a time.
    ///
    /// The result matters for [`CmEvent::ConnectRequest`] only: with an error, the core refuses the
    /// peer, unless the new id was adopted and is kept. Of other events it is ignored.
    fn cm_event(this: ArcBorrow<'_, Self>, event: CmEvent<'_>) -> Result;
}

/// An id's reference to its owner; dropping it gives the reference back.
///
/// # Invariants
///
/// `pointer` is an `Arc<T>`'s foreign form and one reference; `give_back` is for the same `T`.
struct Owner {
    pointer: *mut c_void,
    give_back: unsafe fn(*mut c_void),
}

impl Owner {
    fn new<T: CmOwner>(owner: Arc<T>) -> Self {
        // INVARIANT: Both are of `T`.
        Self {
            pointer: owner.into_foreign(),
            give_back: drop_owner::<T>,
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: The reference is ours, by the type invariants.
        unsafe { (self.give_back)(self.pointer) };
    }
}

/// A CM id and its owner, shared by [`Id`] and the queue pair on it.
///
/// # Invariants
///
/// - `id` is valid until `drop`, and then is ours to destroy unless `left_to_core`.
/// - `owner` is the id's context. It is accessed only inside the id's handler, and exclusively.
pub(super) struct RawId {
    id: NonNull<ffi::rdma_cm_id>,
    /// Dropped after the id was destroyed: until then the handler borrows it.
    owner: UnsafeCell<Owner>,
    left_to_core: bool,
}

// SAFETY: CM functions may be called from any thread, and the owner is `Send + Sync`.
unsafe impl Send for RawId {}
// SAFETY: As above.
unsafe impl Sync for RawId {}

impl RawId {
    pub(super) fn as_ptr(&self) -> *mut ffi::rdma_cm_id {
        self.id.as_ptr()
    }

    fn new(
        slot: UniqueArc<core::mem::MaybeUninit<Self>>,
        id: NonNull<ffi::rdma_cm_id>,
        owner: Owner,
    ) -> Arc<Self> {
        // INVARIANT: By the two callers.
        slot.write(Self {
            id,
            owner: UnsafeCell::new(owner),
            left_to_core: false,
        })
        .into()
    }
}

impl Drop for RawId {
    fn drop(&mut self) {
        if !self.left_to_core {
            // SAFETY: Valid and ours to destroy, by the type invariants; a queue pair on it would
            // hold a reference to `self`. The handler is not called any more then, or the core has
            // promised to destroy it (a handler's error return), and then we are in the last call.
            unsafe { ffi::rdma_destroy_id(self.as_ptr()) };
        }
    }
}

/// # Safety
///
/// `owner` came from `Arc::<T>::into_foreign` and is not used afterwards.
unsafe fn drop_owner<T: CmOwner>(owner: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(owner) });
}

/// A CM id, with one reference to its owner.
///
/// Dropping it destroys it, after the queue pair on it if there is one, and waits for its handler:
/// never drop the last of the two inside that handler, or under a lock that it takes. (Dropping a
/// just adopted id inside the listener's handler is fine: the core destroys it then.)
pub(crate) struct Id<T: CmOwner> {
    raw: Arc<RawId>,
    _owner: PhantomData<Arc<T>>,
}

/// What goes along when a connection is made or accepted.
#[derive(Clone, Copy, Default)]
pub(crate) struct ConnParam<'a> {
    /// RDMA reads of the peer that we serve at a time.
    pub(crate) responder_resources: u8,
    /// RDMA reads that we have under way at a time.
    pub(crate) initiator_depth: u8,
    /// How often the fabric tries again.
    pub(crate) retry_count: u8,
    /// How often it does when the receiver was not ready; 7 is for ever.
    pub(crate) rnr_retry_count: u8,
    /// For the peer's CM.
    pub(crate) private_data: &'a [u8],
}

impl ConnParam<'_> {
    fn to_raw(self) -> Result<ffi::rdma_conn_param> {
        Ok(ffi::rdma_conn_param {
            private_data: self.private_data.as_ptr().cast(),
            private_data_len: u8::try_from(self.private_data.len())?,
            responder_resources: self.responder_resources,
            initiator_depth: self.initiator_depth,
            flow_control: 1,
            retry_count: self.retry_count,
            rnr_retry_count: self.rnr_retry_count,
            ..Default::default()
        })
    }
}

impl<T: CmOwner> Id<T> {
    /// A new id in a network namespace, for addresses of one family only, and for devices of one
    /// kind or of all.
    fn create(net: &Net, owner: Arc<T>, kind: Option<NodeKind>) -> Result<Self> {
        let slot = UniqueArc::new_uninit(GFP_KERNEL)?;
        let owner = Owner::new(owner);
        // SAFETY: The namespace is valid; the context is what `handler::<T>` expects, and its
        // reference lives as long as the id.
        let id = from_err_ptr(unsafe {
            ffi::__rdma_create_kernel_id(
                net.as_ptr(),
                Some(handler::<T>),
                owner.pointer,
                ffi::rdma_ucm_port_space_RDMA_PS_TCP,
                ffi::ib_qp_type_IB_QPT_RC,
                c"usmbd".as_char_ptr(),
            )
        })?;
        // INVARIANT: The id is new, and `owner` its context.
        let raw = RawId::new(slot, NonNull::new(id).ok_or(ENOMEM)?, owner);

        // SAFETY: Here and below, the id is valid, and not bound yet.
        to_result(unsafe { ffi::rdma_set_afonly(raw.as_ptr(), 1) })?;
        if let Some(kind) = kind {
            // SAFETY: As above.
            to_result(unsafe { ffi::rdma_restrict_node_type(raw.as_ptr(), kind.node_type()?) })?;
        }
        Ok(Self::from_raw(raw))
    }

    /// Listens on `address`, on devices of one kind or of all.
    ///
    /// The CM asks the *calling task* for `CAP_NET_BIND_SERVICE` when the port is below 1024, so
    /// call this from a worker after a check of one's own.
    pub(crate) fn listen(
        net: &Net,
        owner: Arc<T>,
        address: &SocketAddr,
        kind: Option<NodeKind>,
        backlog: i32,
    ) -> Result<Self> {
        let id = Self::create(net, owner, kind)?;
        let mut storage = address.to_storage();
        // SAFETY: The id is valid, and the storage a complete `sockaddr_storage`.
        to_result(unsafe { ffi::rdma_bind_addr(id.raw.as_ptr(), storage.as_mut_ptr()) })?;
        // SAFETY: The id is valid and bound.
        to_result(unsafe { ffi::rdma_listen(id.raw.as_ptr(), backlog) })?;
        Ok(id)
    }

    fn from_raw(raw: Arc<RawId>) -> Self {
        Self {
            raw,
            _owner: PhantomData,
        }
    }

    pub(super) fn raw(&self) -> &Arc<RawId> {
        &self.raw
    }

    /// The device that the id is on, when we know it. A listener's has one if it has an address.
    pub(crate) fn device(&self) -> Option<Arc<Device>> {
        // SAFETY: The id is valid. The core sets the device when it is bound, which it was before
        // it got here, or by a connect request.
        Device::of(unsafe { (*self.raw.as_ptr()).device })
    }

    /// Accepts the connection; inside the handler of its CONNECT_REQUEST, which holds the lock that
    /// the CM wants held.
    pub(crate) fn accept(&self, param: &ConnParam<'_>) -> Result {
        let mut raw = param.to_raw()?;
        // SAFETY: The id is valid and its handler locked; the CM copies the parameters.
        to_result(unsafe { ffi::rdma_accept(self.raw.as_ptr(), &mut raw) })
    }

    /// Ends the connection; the queue pair goes to the error state, and DISCONNECTED follows.
    pub(crate) fn disconnect(&self) -> Result {
        // SAFETY: The id is valid.
        to_result(unsafe { ffi::rdma_disconnect(self.raw.as_ptr()) })
    }
}

/// An id that is on a device, in its handler.
///
/// # Invariants
///
/// `id` is valid and bound, and its handler is running in this thread as long as this lives.
pub(crate) struct Bound<'a> {
    id: NonNull<ffi::rdma_cm_id>,
    _handler: PhantomData<&'a ()>,
}

impl Bound<'_> {
    /// The device, when we know it.
    pub(crate) fn device(&self) -> Option<Arc<Device>> {
        // SAFETY: Valid by the type invariants.
        Device::of(unsafe { (*self.id.as_ptr()).device })
    }

    /// The port of the device.
    pub(crate) fn port(&self) -> u32 {
        // SAFETY: Valid by the type invariants.
        unsafe { (*self.id.as_ptr()).port_num }
    }

    /// Our address.
    pub(crate) fn local(&self) -> SocketAddr {
        // SAFETY: Valid by the type invariants, and bound; a bound address does not change while
        // the handler runs.
        unsafe { SocketAddr::from_storage(&raw const (*self.id.as_ptr()).route.addr.src_addr) }
    }

    /// The peer's address.
    pub(crate) fn peer(&self) -> SocketAddr {
        // SAFETY: Valid by the type invariants; the address was set before its event was told.
        unsafe { SocketAddr::from_storage(&raw const (*self.id.as_ptr()).route.addr.dst_addr) }
    }

    /// Makes `owner` the one who gets the id's events from now on; the caller keeps the reference.
    fn direct_to<C: CmOwner>(&self, owner: &Owner) {
        let id = self.id.as_ptr();
        // SAFETY: Valid by the type invariants. The core reads both fields only to call the
        // handler, with the mutex held that this thread holds now.
        unsafe { (*id).context = owner.pointer };
        // SAFETY: As above.
        unsafe { (*id).event_handler = Some(handler::<C>) };
    }
}

/// What a peer said when it connected or accepted.
#[derive(Clone, Copy)]
pub(crate) struct PeerParam<'a>(&'a ffi::rdma_conn_param);

impl PeerParam<'_> {
    /// In a request: RDMA reads of ours that the peer serves at a time. In an answer: it depends on
    /// the provider.
    pub(crate) fn initiator_depth(&self) -> u8 {
        self.0.initiator_depth
    }

    /// In a request: RDMA reads that the peer has under way at a time. In an answer: it depends on
    /// the provider.
    pub(crate) fn responder_resources(&self) -> u8 {
        self.0.responder_resources
    }

    /// What the peer sent along; on InfiniBand and RoCE with padding behind it.
    pub(crate) fn private_data(&self) -> &[u8] {
        let length = usize::from(self.0.private_data_len);
        if length == 0 || self.0.private_data.is_null() {
            return &[];
        }
        // SAFETY: The event's private data has that many bytes and lives as long as the event,
        // which the parameters are borrowed from.
        unsafe { core::slice::from_raw_parts(self.0.private_data.cast(), length) }
    }
}

/// A peer that wants to connect: the listener's new child, which nobody owns yet.
pub(crate) struct Incoming<'a> {
    bound: Bound<'a>,
    param: PeerParam<'a>,
    adopted: &'a Cell<Option<Arc<RawId>>>,
}

impl Incoming<'_> {
    /// Makes `owner` the owner of the connection: from now on it gets its events.
    pub(crate) fn adopt<C: CmOwner>(self, owner: Arc<C>) -> Result<Id<C>> {
        let slot = UniqueArc::new_uninit(GFP_KERNEL)?;
        let owner = Owner::new(owner);
        self.bound.direct_to::<C>(&owner);
        // INVARIANT: The child is not destroyed by the core unless the listener's handler returns
        // an error, which it does not for an adopted id that is kept. `owner` is its context.
        let raw = RawId::new(slot, self.bound.id, owner);
        self.adopted.set(Some(raw.clone()));
        Ok(Id::from_raw(raw))
    }

    /// Where it is.
    pub(crate) fn bound(&self) -> &Bound<'_> {
        &self.bound
    }

    /// What the peer asks for.
    pub(crate) fn param(&self) -> PeerParam<'_> {
        self.param
    }
}

/// What the CM calls.
///
/// # Safety
///
/// `id` is valid, its handler is locked, and its context is an `Arc<T>`'s foreign form; or, for
/// CONNECT_REQUEST, that of its listener, whose handler is locked as well. `event` is valid.
unsafe extern "C" fn handler<T: CmOwner>(
    id: *mut ffi::rdma_cm_id,
    event: *mut ffi::rdma_cm_event,
) -> c_int {
    let Some(id) = NonNull::new(id) else { return 0 };
    // SAFETY: The context's reference is dropped only after the id that owns it was destroyed, for
    // which the core waits for the handler. A child's id is fresh, and its listener is locked.
    let owner = unsafe { <Arc<T> as ForeignOwnable>::borrow((*id.as_ptr()).context) };
    // SAFETY: Valid by the safety requirements.
    let kind = unsafe { (*event).event };

    // INVARIANT: By the contract of this function, and bound for the events that get it.
    let bound = Bound {
        id,
        _handler: PhantomData,
    };
    // SAFETY: Valid by the safety requirements, and of this type, or not read, for all events but
    // those of datagrams, which this port space does not have. `ManuallyDrop` is transparent.
    let param = PeerParam(unsafe { &*(&raw const (*event).param.conn).cast() });
    // Who handed the id over is borrowed as `owner` until the end of this function.
    let former = Cell::new(None);

    let event = match kind {
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_CONNECT_REQUEST => {
            return connect_request(owner, bound, param);
        }
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_ADDR_RESOLVED => {
            CmEvent::AddressResolved(Resolved::new(bound, &former))
        }
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_ROUTE_RESOLVED => {
            CmEvent::RouteResolved(Resolved::new(bound, &former))
        }
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_ADDR_ERROR
        | ffi::rdma_cm_event_type_RDMA_CM_EVENT_ROUTE_ERROR => {
            // SAFETY: Valid by the safety requirements.
            let error = to_result(unsafe { (*event).status }).err();
            CmEvent::NotResolved(error.unwrap_or(EIO))
        }
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_ESTABLISHED => CmEvent::Established(param),
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_DISCONNECTED => CmEvent::Disconnected,
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_REJECTED => CmEvent::Failed(CmFailure::Rejected),
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_UNREACHABLE => {
            CmEvent::Failed(CmFailure::Unreachable)
        }
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_CONNECT_ERROR => CmEvent::Failed(CmFailure::Error),
        ffi::rdma_cm_event_type_RDMA_CM_EVENT_DEVICE_REMOVAL => CmEvent::DeviceRemoval,
        _ => CmEvent::Other,
    };
    // A non-zero return would have the core destroy the id, which its `Id` does.
    let _ = T::cm_event(owner, event);
    // Not used below, so its reference may go.
    drop(former);
    0
}

/// Offers a new connection to the listener's owner; a non-zero return destroys it.
fn connect_request<T: CmOwner>(
    owner: ArcBorrow<'_, T>,
    bound: Bound<'_>,
    param: PeerParam<'_>,
) -> c_int {
    let adopted = Cell::new(None);
    let incoming = Incoming {
        bound,
        param,
        adopted: &adopted,
    };
    let result = T::cm_event(owner, CmEvent::ConnectRequest(incoming));
    let error = result
        .err()
        .unwrap_or(crate::compat::ECONNREFUSED)
        .to_errno();
    let Some(raw) = adopted.take() else {
        return error;
    };
    match Arc::into_unique_or_drop(raw) {
        // Nobody kept it. We are in its handler, so the core must destroy it. INVARIANT: We return
        // an error, so it does.
        Some(mut raw) => {
            raw.left_to_core = true;
            error
        }
        // Its `Id` or its queue pair is alive, and destroys it in its own time.
        None => 0,
    }
}
