// SPDX-License-Identifier: GPL-2.0-only

//! The side that connects: from an address to a connection.
//!
//! An id that resolves belongs to somebody who knows only where it shall lead. When the route is
//! known, and with it the device, it is handed over to the connection that was made for that device.

use super::{Bound, CmOwner, ConnParam, Id, NodeKind, Owner};
use crate::verbs::{ffi, Net, SocketAddr};
use core::{cell::Cell, ptr};
use kernel::{error::to_result, prelude::*, sync::Arc};

impl<T: CmOwner> Id<T> {
    /// An id to connect by, on devices of one kind or of all.
    pub(crate) fn open(net: &Net, owner: Arc<T>, kind: Option<NodeKind>) -> Result<Self> {
        Self::create(net, owner, kind)
    }

    /// Begins to look for the way to `peer`, from our address `local` if there is one.
    /// [`AddressResolved`] or [`NotResolved`] follows.
    ///
    /// [`AddressResolved`]: super::CmEvent::AddressResolved
    /// [`NotResolved`]: super::CmEvent::NotResolved
    pub(crate) fn resolve(
        &self,
        peer: &SocketAddr,
        local: Option<&SocketAddr>,
        milliseconds: usize,
    ) -> Result {
        let mut peer = peer.to_storage();
        let mut local = local.map(|local| local.to_storage());
        let local = local
            .as_mut()
            .map_or(ptr::null_mut(), |local| local.as_mut_ptr());
        // SAFETY: The id is valid, and the storages are complete; the CM copies them. Ours may be
        // null.
        to_result(unsafe {
            ffi::rdma_resolve_addr(self.raw().as_ptr(), local, peer.as_mut_ptr(), milliseconds)
        })
    }

    /// Connects; inside the handler of [`RouteResolved`](super::CmEvent::RouteResolved), which
    /// holds the lock that the CM wants held. [`Established`] or [`Failed`] follows.
    ///
    /// [`Established`]: super::CmEvent::Established
    /// [`Failed`]: super::CmEvent::Failed
    pub(crate) fn connect(&self, param: &ConnParam<'_>) -> Result {
        let mut raw = param.to_raw()?;
        // SAFETY: The id is valid and its handler locked; the CM copies the parameters.
        to_result(unsafe { ffi::rdma_connect_locked(self.raw().as_ptr(), &mut raw) })
    }
}

/// An id that knows its device, and perhaps the route.
pub(crate) struct Resolved<'a> {
    bound: Bound<'a>,
    former: &'a Cell<Option<Owner>>,
}

impl<'a> Resolved<'a> {
    /// `former` is dropped when nothing of the handler's owner is borrowed any more.
    pub(super) fn new(bound: Bound<'a>, former: &'a Cell<Option<Owner>>) -> Self {
        Self { bound, former }
    }

    /// Where it is.
    pub(crate) fn bound(&self) -> &Bound<'_> {
        &self.bound
    }

    /// Goes on with the route; [`RouteResolved`](super::CmEvent::RouteResolved) or
    /// [`NotResolved`](super::CmEvent::NotResolved) follows.
    pub(crate) fn resolve_route(&self, milliseconds: usize) -> Result {
        // SAFETY: Valid by the type invariants of `Bound`.
        to_result(unsafe { ffi::rdma_resolve_route(self.bound.id.as_ptr(), milliseconds) })
    }

    /// Makes `owner` the owner of `id`, which must be the one of this event: it gets the events
    /// from now on.
    ///
    /// # Errors
    ///
    /// The id itself if it is another one.
    pub(crate) fn hand_over<T: CmOwner, C: CmOwner>(
        self,
        id: Id<T>,
        owner: Arc<C>,
    ) -> Result<Id<C>, Id<T>> {
        if id.raw().as_ptr() != self.bound.id.as_ptr() {
            return Err(id);
        }
        let Id { raw, .. } = id;
        let mut owner = Owner::new(owner);
        self.bound.direct_to::<C>(&owner);
        // SAFETY: We are in the id's handler, by the type invariants of `Bound`, so by those of
        // `RawId` nobody else accesses this.
        core::mem::swap(unsafe { &mut *raw.owner.get() }, &mut owner);
        self.former.set(Some(owner));
        Ok(Id::from_raw(raw))
    }
}
