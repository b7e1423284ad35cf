// SPDX-License-Identifier: GPL-2.0-only

//! A context: everything behind one open fd.
//!
//! It works the same after fork, after SCM_RIGHTS passing, and from any thread; its authority is
//! that of its opener, and it belongs to the network namespace in which it was opened.

pub(crate) mod connection;
pub(crate) mod connector;
pub(crate) mod dispatch;
pub(crate) mod event_queue;
pub(crate) mod fetch;
pub(crate) mod limits;
pub(crate) mod listener;
mod observe;
pub(crate) mod pending;
pub(crate) mod plug;
pub(crate) mod registry;
mod ring;
pub(crate) mod route;
pub(crate) mod stats;
mod timer;

use crate::memory::{AreaSlot, StatusPage};
use crate::verbs::{self, opener_may_lock_memory, Net, SocketAddr};
use connection::Connection;
use connector::{Connector, MAX_CONNECTORS};
use event_queue::{Event, EventQueue, SlotOf};
use kernel::cred::Credential;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use listener::{ListenRequest, Listener};
use route::{Claims, Template};
use stats::{Counters, STATISTICS};
use usmbd_abi::command::MAX_TEMPLATES;
use usmbd_abi::memory as layout;
use usmbd_abi::status::Reason;
use usmbd_engine::Parameters;

/// Ports below are for those with CAP_NET_BIND_SERVICE.
const FIRST_FREE_PORT: u16 = 1024;
/// Listeners of one context at most.
const MAX_LISTENERS: usize = 16;

/// Everything behind one open fd.
#[pin_data]
pub(crate) struct Context {
    net: Net,
    /// Its credentials count, whoever calls.
    opener: ARef<Credential>,
    /// Whether the opener may listen on a port below 1024.
    may_bind_low_port: bool,
    /// Whether the opener may see and end everybody's connections in this network namespace.
    is_admin: bool,
    #[pin]
    queue: EventQueue,
    #[pin]
    inner: SpinLock<Inner>,
    /// Whose connections it wants.
    #[pin]
    claims: Claims,
    /// Number of the only connection, zero if there is none or several.
    only: Atomic<u64>,
    /// Bytes of lists that commands under way have in kernel memory.
    command_bytes: Atomic<usize>,
    /// The areas mapped through this context.
    #[pin]
    pub(crate) area: AreaSlot,
    #[pin]
    pub(crate) status_page: StatusPage,
}

struct Inner {
    parameters: Parameters,
    templates: Templates,
    at_most_one: bool,
    connections: Connections,
    count: usize,
    listeners: KVec<Arc<Listener>>,
    next_listener: u32,
    connectors: KVec<Arc<Connector>>,
    /// Why the context's only connection ended, once that was read; what it says is so while there is
    /// no other one.
    ended: Option<Reason>,
    /// What the connections counted whose end was read.
    past: Counters,
    closed: bool,
}

/// The table of a context's connections, by their numbers.
type Connections = RBTree<u64, Arc<Connection>>;

/// Room for one connection in the table of a context.
pub(crate) type Place = RBTreeNodeReservation<u64, Arc<Connection>>;

impl Inner {
    /// The number of the only connection, zero if there is none or several.
    fn only(&self) -> u64 {
        match self.connections.cursor_front() {
            Some(front) if self.count == 1 => *front.current().0,
            _ => 0,
        }
    }
}

/// A context's negotiate templates, by their numbers.
type Templates = [Option<Arc<Template>>; MAX_TEMPLATES as usize];

/// What poll() asks.
pub(crate) struct Readiness {
    /// An event waits.
    pub(crate) readable: bool,
    /// A command would not block. Not while connecting is all that the context does: so it can be
    /// waited for as with a socket.
    pub(crate) writable: bool,
    /// The end of the context's only connection is the next event.
    pub(crate) peer_gone: bool,
    /// That end was read.
    pub(crate) ended: Option<Reason>,
}

impl Context {
    /// A context for the file that is being opened by the current task.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn open(file: &File) -> Result<Arc<Self>> {
        let queue = EventQueue::new()?;
        let net = Net::of_current()?;
        let area = AreaSlot::new(file.cred().euid(), opener_may_lock_memory(file));
        let may_bind_low_port = net.opener_may_bind_low_port(file);
        let is_admin = net.opener_is_admin(file);
        let claims = Claims::new(verbs::opener_uid(file), is_admin);
        let status_page = StatusPage::new()?;
        let listeners = KVec::with_capacity(MAX_LISTENERS, GFP_KERNEL_ACCOUNT)?;
        let connectors = KVec::with_capacity(MAX_CONNECTORS, GFP_KERNEL_ACCOUNT)?;
        let context = Arc::pin_init(
            try_pin_init!(Self {
                net,
                opener: file.cred().into(),
                may_bind_low_port,
                is_admin,
                queue <- queue,
                inner <- new_spinlock!(Inner {
                    parameters: Parameters::default(),
                    templates: Templates::default(),
                    at_most_one: false,
                    connections: Connections::new(),
                    count: 0,
                    listeners,
                    next_listener: 1,
                    connectors,
                    ended: None,
                    past: Counters::default(),
                    closed: false,
                }, "usmbd_context"),
                claims <- claims,
                only: Atomic::new(0),
                command_bytes: Atomic::new(0),
                area <- area,
                status_page <- status_page,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        STATISTICS.contexts.add(1);
        Ok(context)
    }

    /// The last close: listeners and connects end, connections live on for as long as they have something to
    /// send, events are dropped.
    pub(crate) fn close(&self) {
        self.disclaim_all();
        let (listeners, connectors) = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            (
                core::mem::take(&mut inner.listeners),
                core::mem::take(&mut inner.connectors),
            )
        };
        for listener in &listeners {
            listener.close();
        }
        for connector in &connectors {
            connector.cancel();
        }
        let mut leaving = Connections::new();
        while let Some(connection) = self.move_connection(&mut leaving) {
            connection.detach();
        }
        // The receives of pieces that nobody will read are posted again: the peer may need the
        // credits to take what still lingers.
        let mut unread = self.queue.close();
        while let Some(event) = unread.pop() {
            if let Event::Piece {
                connection,
                receive,
                ..
            } = event
            {
                if let Some(connection) = leaving.get(&connection) {
                    connection.return_receives(&[receive]);
                }
            }
        }
        STATISTICS.contexts.add(-1);
    }

    /// Moves a connection to another table.
    fn move_connection(&self, table: &mut Connections) -> Option<Arc<Connection>> {
        let mut inner = self.inner.lock();
        let (number, connection) = {
            let front = inner.connections.cursor_front()?;
            let (number, connection) = front.current();
            (*number, connection.clone())
        };
        let node = inner.connections.remove_node(&number)?;
        drop(inner);
        table.insert(node);
        Some(connection)
    }

    pub(crate) fn queue(&self) -> &EventQueue {
        &self.queue
    }

    pub(crate) fn net(&self) -> &Net {
        &self.net
    }

    pub(crate) fn opener(&self) -> &ARef<Credential> {
        &self.opener
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.is_admin
    }

    pub(crate) fn parameters(&self) -> Parameters {
        self.inner.lock().parameters
    }

    /// Sets the parameters of connections accepted from now on.
    pub(crate) fn set_parameters(&self, parameters: Parameters) {
        self.inner.lock().parameters = parameters;
    }

    /// The negotiate templates, the one with the lowest number first.
    fn templates(&self) -> Templates {
        self.inner.lock().templates.clone()
    }

    /// Sets or clears one of the negotiate templates; `number` is below [`MAX_TEMPLATES`].
    pub(crate) fn set_template(&self, number: u32, template: Option<Arc<Template>>) {
        let mut template = template;
        if let Some(place) = self.inner.lock().templates.get_mut(number as usize) {
            core::mem::swap(place, &mut template);
        }
        // The old one is dropped here, unlocked.
        drop(template);
    }

    pub(crate) fn at_most_one(&self) -> bool {
        self.inner.lock().at_most_one
    }

    pub(crate) fn set_at_most_one(&self, at_most_one: bool) {
        self.inner.lock().at_most_one = at_most_one;
    }

    /// Queues an event whose slot was reserved, and wakes the reader.
    pub(crate) fn post(&self, event: Event) {
        self.queue.push(event);
        self.queue.wake();
    }

    /// Counts bytes of a command's lists.
    ///
    /// # Errors
    ///
    /// `EAGAIN` at the limit: transfers have to complete first.
    #[inline]
    pub(crate) fn reserve_command_bytes(&self, bytes: usize) -> Result {
        // Most messages have no lists.
        if bytes == 0 {
            return Ok(());
        }
        if self
            .command_bytes
            .fetch_add(bytes, Relaxed)
            .saturating_add(bytes)
            > limits::command_bytes()
        {
            self.release_command_bytes(bytes);
            return Err(EAGAIN);
        }
        Ok(())
    }

    /// Gives back what [`Self::reserve_command_bytes`] counted. Wakes those who wait for room, once
    /// there is some.
    pub(crate) fn release_command_bytes(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let before = self.command_bytes.fetch_sub(bytes, Relaxed);
        if !has_command_room(before) && has_command_room(before.saturating_sub(bytes)) {
            self.queue.wake();
        }
    }

    /// The connection with this number, if it is this context's and its end was not read yet.
    pub(crate) fn connection(&self, number: u64) -> Option<Arc<Connection>> {
        self.inner.lock().connections.get(&number).cloned()
    }

    /// Takes a connection in. Its events go to this context's queue from now on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBADF` if the context is being closed.
    pub(crate) fn adopt(&self, connection: &Arc<Connection>) -> Result {
        self.adopt_in(Place::new(GFP_KERNEL_ACCOUNT)?, connection)
    }

    /// As [`Self::adopt`], in a place that was made before; does not sleep.
    ///
    /// # Errors
    ///
    /// `EBADF` if the context is being closed.
    pub(crate) fn adopt_in(&self, place: Place, connection: &Arc<Connection>) -> Result {
        let node = place.into_node(connection.number(), connection.clone());
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            drop(node);
            return Err(EBADF);
        }
        inner.count = inner.count.saturating_add(1);
        inner.connections.insert(node);
        let count = inner.count;
        self.only.store(inner.only(), Relaxed);
        drop(inner);
        self.status_page
            .update(|page| page.connections = (count as u32).into());
        Ok(())
    }

    /// Lets a connection go whose end was read, for this reason, or that was never established here.
    pub(crate) fn forget(&self, connection: &Connection, reason: Option<Reason>) {
        let counters = connection.counters();
        let (node, count, last) = {
            let mut inner = self.inner.lock();
            let node = inner.connections.remove_node(&connection.number());
            if node.is_some() {
                inner.count = inner.count.saturating_sub(1);
                if reason.is_some() {
                    inner.past.include(&counters);
                    let is_end = inner.count == 0 && !self.expects_more(&inner);
                    inner.ended = reason.filter(|_| is_end);
                }
                self.only.store(inner.only(), Relaxed);
            }
            let last = inner
                .connections
                .cursor_front()
                .filter(|_| inner.count == 1);
            let last = last.map(|front| front.current().1.clone());
            (node, inner.count, last)
        };
        drop(node);
        if let Some(last) = last {
            last.publish_alone(self);
        }
        if reason.is_none() {
            // With one more connection on its way in, poll() may have said otherwise.
            self.queue.wake();
        }
        self.status_page
            .update(|page| page.connections = (count as u32).into());
    }

    /// Whether connections may come by themselves, so that the end of one is not the context's.
    fn expects_more(&self, inner: &Inner) -> bool {
        !inner.listeners.is_empty() || self.has_claims()
    }

    /// Changes the status page on behalf of a connection, if it is the context's only one, so that the
    /// page is about it.
    pub(crate) fn publish(&self, connection: u64, change: impl FnOnce(&mut layout::StatusPage)) {
        if self.only.load(Relaxed) == connection {
            self.status_page.update(change);
        }
    }

    /// Listens. The bind runs in a work item, since rdma_bind_addr() asks the capabilities of the
    /// *current* task, and it is the opener's that count.
    ///
    /// # Errors
    ///
    /// `EACCES` if the port is privileged and the opener is not; `EMFILE` at the limit; `ENOMEM`;
    /// `EAGAIN` if no event slots are free.
    pub(crate) fn listen(self: &Arc<Self>, request: ListenRequest) -> Result {
        let low = request.port < FIRST_FREE_PORT || request.iwarp_port < FIRST_FREE_PORT;
        if low && !self.may_bind_low_port {
            return Err(EACCES);
        }
        let listener = {
            let mut inner = self.inner.lock();
            let number = inner.next_listener;
            inner.next_listener = number.wrapping_add(1).max(1);
            number
        };
        let listener = Listener::new(self.clone(), listener, request)?;
        // LISTENING, and LISTENER_CHANGED for as long as the listener lives.
        self.queue.reserve(1, SlotOf::Command)?;
        let reserved = self.queue.reserve(1, SlotOf::Connection).and_then(|()| {
            let pushed = self
                .inner
                .lock()
                .listeners
                .push_within_capacity(listener.clone());
            pushed.map_err(|_| {
                self.queue.release(1, SlotOf::Connection);
                EMFILE
            })
        });
        if reserved.is_err() {
            self.queue.release(1, SlotOf::Command);
            return reserved;
        }
        listener.start();
        Ok(())
    }

    /// Takes a listener out, to be closed.
    pub(crate) fn take_listener(&self, number: u32) -> Option<Arc<Listener>> {
        let mut inner = self.inner.lock();
        let at = inner
            .listeners
            .iter()
            .position(|listener| listener.number() == number)?;
        inner.listeners.remove(at).ok()
    }

    /// What poll() and epoll ask.
    pub(crate) fn readiness(&self) -> Readiness {
        let (single, ended, connecting) = {
            let inner = self.inner.lock();
            let more = self.expects_more(&inner);
            let connecting = inner.count == 0 && !more && !inner.connectors.is_empty();
            if more {
                (false, None, connecting)
            } else {
                // Who asks for a connection waits for one.
                let ended = inner.ended.filter(|_| inner.count == 0 && !connecting);
                (inner.count == 1, ended, connecting)
            }
        };
        let head_is_end = self
            .queue
            .look(|view| matches!(view.head(), Some(Event::Disconnected { .. })));
        Readiness {
            readable: head_is_end.is_some(),
            writable: !connecting
                && self.queue.has_room()
                && has_command_room(self.command_bytes.load(Relaxed)),
            peer_gone: single && head_is_end == Some(true),
            ended,
        }
    }
}

/// Whether a quarter of the command bytes is free.
fn has_command_room(used: usize) -> bool {
    limits::has_room(used, limits::command_bytes())
}

/// The address of a LISTEN, for any family if it is none.
pub(crate) type ListenAddress = Option<SocketAddr>;
