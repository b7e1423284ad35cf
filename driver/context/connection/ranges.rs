// SPDX-License-Identifier: GPL-2.0-only

//! The local ranges of a command: what an RDMA read fills, and what an RDMA write or a message
//! takes its bytes from.
//!
//! They are cut into the scatter/gather entries of work requests from front to end. Their memory is
//! registered in front of the first one.

use super::link::SEND_SGE;
use super::send::{Kind, Posted, SendQueue};
use super::{timer, Connection, State};
use crate::context::{fetch, Context};
use crate::few::Few;
use crate::memory::{Caller, Claim, DeviceBuffer, Range};
use crate::verbs::Sge;
use kernel::iov::IovIterSource;
use kernel::prelude::*;
use kernel::sync::Arc;
use usmbd_abi::memory::MemoryRange;
use zerocopy::{FromZeros, IntoBytes};

/// Milliseconds after which a buffer is looked at again that another connection registers.
const REGISTRATION_RETRY: u64 = 1;

/// See the module's documentation.
pub(super) struct Ranges {
    list: Few<Range>,
    length: u32,
    /// Whole ranges that are taken, and bytes of the next.
    at: usize,
    within: u32,
    /// Bytes that are taken.
    taken: u32,
    /// See [`Self::is_registered`].
    registered: bool,
    /// Whether their keys are of one use, and have to be invalidated.
    keys_of_one_use: bool,
    /// Of these, the ones that are invalidated: of whole ranges, and regions of the next.
    invalidated: usize,
    region_invalidated: usize,
}

/// What can stand in a [`List`].
pub(super) trait Linked: Sized {
    /// The next one in the list it stands in.
    fn next(&mut self) -> &mut Option<KBox<Self>>;
}

/// What is done with, to be dropped where that may sleep: the memory that it refers to may be the
/// last of its area or registration.
pub(crate) struct List<T: Linked>(Option<KBox<T>>);

impl<T: Linked> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Linked> List<T> {
    pub(super) fn push(&mut self, mut item: KBox<T>) {
        core::mem::swap(&mut self.0, item.next());
        // What stands here now is what stood in `item`: nothing. To say so saves looking.
        core::mem::forget(self.0.replace(item));
    }
}

impl<T: Linked> Drop for List<T> {
    fn drop(&mut self) {
        // One by one: a chain of drops would use the stack.
        while let Some(mut item) = self.0.take() {
            core::mem::swap(&mut self.0, item.next());
        }
    }
}

/// A posted registration of a buffer: its last work request.
pub(super) struct Registration(Arc<DeviceBuffer>);

impl Registration {
    pub(super) fn complete(self, success: bool) {
        self.0.registered(success);
    }
}

/// What became of an attempt to post something.
pub(super) enum Progress {
    /// All of it is in the chain.
    Posted,
    /// No slot is free, or no room in the chain.
    Full,
    /// Another connection registers one of its buffers.
    Wait,
    /// A work request could not be built, which no input can bring about.
    Failed,
}

impl Ranges {
    /// None yet; `sink` as in [`AreaSlot::resolve`](crate::memory::AreaSlot::resolve).
    pub(super) fn new(connection: &Connection, sink: bool) -> Self {
        Self {
            list: Few::new(),
            length: 0,
            at: 0,
            within: 0,
            taken: 0,
            registered: false,
            keys_of_one_use: sink && connection.device().reads_need_remote_write(),
            invalidated: 0,
            region_invalidated: 0,
        }
    }

    /// What the caller's ranges name; all as in
    /// [`AreaSlot::resolve`](crate::memory::AreaSlot::resolve), whose errors these are.
    #[inline]
    pub(super) fn resolve(
        &mut self,
        connection: &Connection,
        context: &Context,
        caller: &mut Caller,
        named: &Few<MemoryRange>,
        sink: bool,
        fits: impl FnOnce(u32) -> Result,
    ) -> Result {
        let (device, list) = (connection.device(), &mut self.list);
        self.length = context
            .area
            .resolve(caller, device, named, sink, fits, list)?;
        self.registered = list.all(|range| range.buffer.is_registered());
        Ok(())
    }

    /// Bytes of all of them.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Bytes that are not taken yet.
    pub(super) fn left(&self) -> u32 {
        self.length.saturating_sub(self.taken)
    }

    /// Bytes of a list of a command that have to be counted for so many entries: the first stands in
    /// the command.
    pub(super) fn list_bytes(entries: u16) -> usize {
        usize::from(entries.saturating_sub(1)).saturating_mul(size_of::<MemoryRange>())
    }

    /// Takes the next bytes, `most` at most, as far as the entries go. Returns the entries filled
    /// and the bytes in them; none if an entry could not be made, which no input can bring about.
    pub(super) fn take(&mut self, most: u32, sges: &mut [Sge]) -> Option<(usize, u32)> {
        let (count, bytes, at, within) = self.cut(most, sges)?;
        (self.at, self.within) = (at, within);
        self.taken = self.taken.saturating_add(bytes);
        Some((count, bytes))
    }

    /// Takes all bytes at once, if none is taken yet and one key covers them all, as it mostly does.
    #[inline]
    pub(super) fn take_whole(&mut self) -> Option<Sge> {
        let (range, None) = self.list.parts()? else {
            return None;
        };
        if self.taken > 0 {
            return None;
        }
        let sge = range.buffer.sge(range.offset, range.length)?;
        if sge.length < self.length {
            return None;
        }
        self.taken = self.length;
        Some(sge)
    }

    /// Bytes that [`Self::take`] would take.
    pub(super) fn reach(&self, most: u32, entries: usize) -> Option<u32> {
        let mut sges = [Sge::default(); SEND_SGE];
        let (_, bytes, ..) = self.cut(most, sges.get_mut(..entries)?)?;
        Some(bytes)
    }

    /// Entries filled, bytes in them, and where the next begin.
    #[inline(always)]
    fn cut(&self, most: u32, sges: &mut [Sge]) -> Option<(usize, u32, usize, u32)> {
        let most = most.min(self.left());
        let (mut at, mut within) = (self.at, self.within);
        let (mut count, mut bytes) = (0usize, 0u32);
        for place in sges {
            if bytes == most {
                break;
            }
            let range = self.list.get(at)?;
            let left = range.length.saturating_sub(within);
            let wanted = left.min(most.saturating_sub(bytes));
            *place = range
                .buffer
                .sge(range.offset.checked_add(within)?, wanted)?;
            count = count.wrapping_add(1);
            bytes = bytes.saturating_add(place.length);
            within = within.saturating_add(place.length);
            if within == range.length {
                at = at.wrapping_add(1);
                within = 0;
            }
        }
        (bytes > 0).then_some((count, bytes, at, within))
    }

    /// The next key of one use that has to be invalidated, when all is posted.
    #[cold]
    pub(super) fn next_key(&mut self) -> Option<u32> {
        while let Some(range) = self.list.get(self.invalidated) {
            if let Some(key) = range.buffer.one_use_key(self.region_invalidated) {
                self.region_invalidated = self.region_invalidated.saturating_add(1);
                return Some(key);
            }
            self.invalidated = self.invalidated.saturating_add(1);
            self.region_invalidated = 0;
        }
        None
    }

    /// Whether keys of one use are still to be invalidated.
    pub(super) fn has_keys(&self) -> bool {
        self.keys_of_one_use && self.has_keys_left()
    }

    #[cold]
    fn has_keys_left(&self) -> bool {
        let (mut at, mut region) = (self.invalidated, self.region_invalidated);
        while let Some(range) = self.list.get(at) {
            if range.buffer.one_use_key(region).is_some() {
                return true;
            }
            (at, region) = (at.saturating_add(1), 0);
        }
        false
    }

    /// Whether all is registered, or will be before the work requests that use it.
    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    /// Sees to it that all is registered for connection `number`, in the chain if need be. If there
    /// was room for one more work request in the chain before, there is afterwards.
    #[cold]
    pub(super) fn register(&mut self, number: u64, kind: Kind, send: &mut SendQueue) -> Progress {
        let mut at = 0usize;
        while let Some(range) = self.list.get(at) {
            match register(range, number, kind, send) {
                Progress::Posted => {}
                progress => return progress,
            }
            at = at.wrapping_add(1);
        }
        self.registered = true;
        Progress::Posted
    }
}

/// Sees to it that a range is registered; if it was not before, there is room for one more work
/// request afterwards.
fn register(range: &Range, number: u64, kind: Kind, send: &mut SendQueue) -> Progress {
    if range.buffer.is_registered() {
        return Progress::Posted;
    }
    let regions = range.buffer.region_count();
    if send.room() < regions.saturating_add(1) {
        return Progress::Full;
    }
    match range.buffer.claim(number) {
        Claim::Ready => return Progress::Posted,
        Claim::Wait => return Progress::Wait,
        Claim::Yours => {}
    }
    for index in 0..regions {
        let last = index.saturating_add(1) == regions;
        let (wr_id, signalled) = send.number(last, 0);
        let pushed = range
            .buffer
            .push_registration(index, &mut send.chain, wr_id, signalled);
        let posted = if last {
            Posted::Registration(Registration(range.buffer.clone()), kind)
        } else {
            Posted::Part(kind)
        };
        if pushed.is_err() || send.remember(posted).is_err() {
            range.buffer.registered(false);
            return Progress::Failed;
        }
        send.rdma_slots = send.rdma_slots.saturating_sub(1);
    }
    Progress::Posted
}

/// Fetches `count` entries, at least one, to an empty list; the ABI bounds the count.
#[inline]
pub(super) fn fetch_list<T: FromZeros + IntoBytes + zerocopy::FromBytes + Copy>(
    source: &mut IovIterSource<'_>,
    count: u16,
    list: &mut Few<T>,
) -> Result {
    list.fill(count.into(), |entry| {
        fetch::exact(source, entry.as_mut_bytes())
    })
}

impl Connection {
    /// Something could not be posted now: looks again when it may be possible.
    pub(super) fn hold(&self, state: &mut State, progress: Progress) {
        match progress {
            // A completion makes room.
            Progress::Posted | Progress::Full => {}
            Progress::Wait => {
                state.retry_at = Some(timer::after(timer::now(), REGISTRATION_RETRY));
            }
            Progress::Failed => {
                let reason = usmbd_engine::Reason::ProviderError;
                state.engine.handle_provider_error(reason, timer::now());
            }
        }
    }
}
