// SPDX-License-Identifier: GPL-2.0-only

//! Whose a new connection is, by its first messages: claims of ClientGuids and sessions, and the
//! templates that answer NEGOTIATE so that a client tells its session.
//!
//! A claim is about the listeners of its context's network namespace that have the same opener's
//! uid, or about all of them if its own opener has CAP_NET_ADMIN there. Among claims that could take
//! the same connection there is one owner of an id: a second one is refused. A claim of the
//! listener's own uid goes before an administrator's, so nobody can keep another's clients away by
//! being first.

use super::{timer, Context};
use crate::verbs::Net;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{global_lock, new_spinlock, Arc, SpinLock};
use usmbd_abi::command::Presumption;
use usmbd_abi::smb2::{self, Malformed, NegotiateRequest};

/// Claims of one context at most.
const MAX_CLAIMS: usize = 1024;

/// What a client shows of itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// ClientGuid, in NEGOTIATE.
    ClientGuid([u8; 16]),
    /// SessionId, in SESSION_SETUP; not zero.
    SessionId(u64),
}

/// Whose listeners a claim is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Uid(u32),
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// The network namespace, which the claim's context holds.
    net: usize,
    identity: Identity,
    scope: Scope,
}

global_lock! {
    // SAFETY: Initialised in `init`, before any context can exist.
    unsafe(uninit) static CLAIMS: SpinLock<Option<RBTree<Key, Arc<Context>>>> = None;
}

/// Prepares the table.
///
/// # Safety
///
/// Must be called exactly once, in module init.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise this is the only call.
    unsafe { CLAIMS.init() };
}

/// Whose claims a context's are, and which.
#[pin_data]
pub(crate) struct Claims {
    uid: u32,
    is_admin: bool,
    #[pin]
    own: SpinLock<Own>,
}

struct Own {
    identities: RBTree<Identity, ()>,
    count: usize,
}

impl Claims {
    /// None yet, for a context whose opener is this.
    pub(crate) fn new(uid: u32, is_admin: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            uid,
            is_admin,
            own <- new_spinlock!(Own {
                identities: RBTree::new(),
                count: 0,
            }, "usmbd_claims"),
        })
    }

    /// The scopes that its claims stand in.
    fn scopes(&self) -> impl Iterator<Item = Scope> {
        let all = self.is_admin.then_some(Scope::All);
        Iterator::chain(core::iter::once(Scope::Uid(self.uid)), all)
    }

    fn key(&self, net: &Net, identity: Identity, scope: Scope) -> Key {
        Key {
            net: net.number(),
            identity,
            scope,
        }
    }
}

impl Context {
    /// Claims connections that show this identity.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is claimed already, by whomever; `ENOSPC` at the limit; `ENOMEM`.
    pub(crate) fn claim(self: &Arc<Self>, identity: Identity) -> Result {
        let own_node = RBTreeNode::new(identity, (), GFP_KERNEL_ACCOUNT)?;
        let mut nodes = KVec::with_capacity(2, GFP_KERNEL_ACCOUNT)?;
        for scope in self.claims.scopes() {
            let key = self.claims.key(&self.net, identity, scope);
            let node = RBTreeNode::new(key, self.clone(), GFP_KERNEL_ACCOUNT)?;
            nodes.push(node, GFP_KERNEL_ACCOUNT)?;
        }
        let mut own = self.claims.own.lock();
        let mut claims = CLAIMS.lock();
        let table = claims.get_or_insert_with(RBTree::new);
        let taken = self.claims.scopes().any(|scope| {
            let key = self.claims.key(&self.net, identity, scope);
            table.get(&key).is_some()
        });
        // What is refused is dropped after the locks, in the reverse of the order above.
        if taken {
            return Err(EEXIST);
        }
        if own.count >= MAX_CLAIMS {
            return Err(ENOSPC);
        }
        while let Some(node) = nodes.pop() {
            table.insert(node);
        }
        own.identities.insert(own_node);
        own.count = own.count.saturating_add(1);
        Ok(())
    }

    /// Ends a claim.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it is not this context's.
    pub(crate) fn disclaim(&self, identity: Identity) -> Result {
        let mut own = self.claims.own.lock();
        let node = own.identities.remove_node(&identity).ok_or(ENOENT)?;
        own.count = own.count.saturating_sub(1);
        self.forget_claim(identity);
        drop(own);
        drop(node);
        Ok(())
    }

    /// Whether it has any claims.
    pub(super) fn has_claims(&self) -> bool {
        self.claims.own.lock().count > 0
    }

    /// The context ends, and its claims with it.
    pub(crate) fn disclaim_all(&self) {
        let first = || {
            let own = self.claims.own.lock();
            let cursor = own.identities.cursor_front()?;
            Some(*cursor.current().0)
        };
        while let Some(identity) = first() {
            // Nobody but us takes them away by now.
            let _ = self.disclaim(identity);
        }
    }

    fn forget_claim(&self, identity: Identity) {
        let mut claims = CLAIMS.lock();
        let Some(table) = claims.as_mut() else { return };
        for scope in self.claims.scopes() {
            // Not the last reference of the context: the caller has one.
            drop(table.remove_node(&self.claims.key(&self.net, identity, scope)));
        }
    }

    /// Whose connection is it that shows this identity to a listener of this context.
    fn claimant(&self, identity: Identity) -> Option<Arc<Context>> {
        let claims = CLAIMS.lock();
        let table = claims.as_ref()?;
        let of = |scope| table.get(&self.claims.key(&self.net, identity, scope));
        of(Scope::Uid(self.claims.uid))
            .or_else(|| of(Scope::All))
            .cloned()
    }
}

/// A whole NEGOTIATE response, and what a request must have for it to be the right one.
pub(crate) struct Template {
    response: KVec<u8>,
    dialect: u16,
    presumptions: KVec<Presumption>,
}

impl Template {
    /// A template.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the response is not a NEGOTIATE response that could be sent; `ENOMEM`.
    pub(crate) fn new(response: KVec<u8>, presumptions: KVec<Presumption>) -> Result<Arc<Self>> {
        let dialect = smb2::template_dialect(&response).map_err(|_| EINVAL)?;
        Ok(Arc::new(
            Self {
                response,
                dialect,
                presumptions,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    fn fits(&self, request: &NegotiateRequest<'_>) -> bool {
        request.offers(self.dialect) && self.presumptions.iter().all(|one| request.fulfils(one))
    }

    /// The response to a request.
    fn answer(&self, request: &NegotiateRequest<'_>) -> Result<KVec<u8>, Stop> {
        let mut response = KVec::new();
        response
            .extend_from_slice(&self.response, GFP_KERNEL)
            .map_err(|_| Stop::NoMemory)?;
        smb2::answer(&mut response, request, timer::file_time())?;
        Ok(response)
    }
}

/// What becomes of a connection after one of its first messages.
pub(crate) enum Route {
    /// It is this context's.
    Claimed(Arc<Context>),
    /// Only after NEGOTIATE: this is the answer, from this template; SESSION_SETUP is to follow.
    Answer(u32, KVec<u8>),
    /// Whoever has the ticket.
    Ticket,
}

/// Why there is no way for a connection.
pub(crate) enum Stop {
    /// This is not how an SMB client begins.
    NotRoutable,
    /// `ENOMEM`.
    NoMemory,
}

impl From<Malformed> for Stop {
    fn from(_: Malformed) -> Self {
        Stop::NotRoutable
    }
}

/// The first message that came to a listener of `context`: the client's guid, and what to do.
///
/// # Errors
///
/// [`Stop`] if it is not NEGOTIATE.
pub(crate) fn negotiate(context: &Context, message: &[u8]) -> Result<([u8; 16], Route), Stop> {
    let request = NegotiateRequest::parse(message)?;
    let client_guid = request.body.client_guid;
    if let Some(owner) = context.claimant(Identity::ClientGuid(client_guid)) {
        return Ok((client_guid, Route::Claimed(owner)));
    }
    for (number, template) in (0..).zip(context.templates()) {
        match template {
            Some(template) if template.fits(&request) => {
                let answer = template.answer(&request)?;
                return Ok((client_guid, Route::Answer(number, answer)));
            }
            _ => {}
        }
    }
    Ok((client_guid, Route::Ticket))
}

/// The message behind a NEGOTIATE that a template answered: its session, and what to do.
///
/// # Errors
///
/// [`Stop`] if it is not SESSION_SETUP.
pub(crate) fn session_setup(context: &Context, message: &[u8]) -> Result<(u64, Route), Stop> {
    let session_id = smb2::session_id(message)?;
    let owner = match session_id {
        0 => None,
        _ => context.claimant(Identity::SessionId(session_id)),
    };
    Ok((session_id, owner.map_or(Route::Ticket, Route::Claimed)))
}
