// SPDX-License-Identifier: GPL-2.0-only

//! A FIFO of fixed capacity: what is pushed in completion context must not need memory.

use kernel::prelude::*;

/// A FIFO whose memory is there before anything is pushed.
///
/// # Invariants
///
/// `len <= slots.len()`, and `head < slots.len()` unless that is zero; the `len` slots from `head`
/// on, modulo the length, are `Some`, the others `None`.
pub(crate) struct Ring<T> {
    /// A long one's memory is not contiguous: no user can ask for more of that than there is.
    slots: KVVec<Option<T>>,
    head: usize,
    len: usize,
}

impl<T> Ring<T> {
    /// A FIFO that holds nothing and has no memory.
    pub(crate) const fn empty() -> Self {
        // INVARIANT: There are no slots.
        Self {
            slots: KVVec::new(),
            head: 0,
            len: 0,
        }
    }

    /// A FIFO for `capacity` values.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn with_capacity(capacity: usize) -> Result<Self> {
        let mut slots = KVVec::with_capacity(capacity, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..capacity {
            slots.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        // INVARIANT: All slots are `None`.
        Ok(Self {
            slots,
            head: 0,
            len: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.slots.len().saturating_mul(size_of::<Option<T>>())
    }

    /// Slot number of the value at `position`, counted from the head.
    fn slot(&self, position: usize) -> usize {
        let slot = self.head.wrapping_add(position);
        // Both summands are below the capacity, so one subtraction does what a modulo would.
        if slot >= self.slots.len() {
            slot.wrapping_sub(self.slots.len())
        } else {
            slot
        }
    }

    /// Adds a value at the end; gives it back if the ring is full.
    #[inline]
    pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
        let slot = self.slot(self.len);
        match self.slots.get_mut(slot) {
            Some(place @ None) => {
                *place = Some(value);
                self.len = self.len.wrapping_add(1);
                Ok(())
            }
            // Full, by the type invariants.
            _ => Err(value),
        }
    }

    /// Puts a value that was popped back to the front; gives it back if the ring is full.
    pub(crate) fn push_front(&mut self, value: T) -> Result<(), T> {
        let head = match self.head {
            0 => self.slots.len().wrapping_sub(1),
            head => head.wrapping_sub(1),
        };
        match self.slots.get_mut(head) {
            Some(place @ None) => {
                *place = Some(value);
                self.head = head;
                self.len = self.len.wrapping_add(1);
                Ok(())
            }
            // Full, by the type invariants.
            _ => Err(value),
        }
    }

    /// The oldest value was taken from its slot: the next one is the oldest now.
    fn step(&mut self) {
        self.head = self.slot(1);
        self.len = self.len.wrapping_sub(1);
    }

    /// Takes the oldest value.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let value = self.slots.get_mut(self.head)?.take();
        self.step();
        value
    }

    /// Drops up to `count` of the oldest values where they stand; `last` has the last word on each,
    /// and may take it.
    pub(crate) fn drain(&mut self, count: usize, mut last: impl FnMut(&mut Option<T>)) {
        let mut left = count;
        // Up to the end of the memory, and then from its beginning on.
        for _ in 0..2 {
            let behind = self.slots.len().saturating_sub(self.head);
            let now = behind.min(self.len).min(left);
            let end = self.head.wrapping_add(now);
            for slot in self.slots.get_mut(self.head..end).unwrap_or_default() {
                last(slot);
                if slot.is_some() {
                    drop(slot.take());
                }
            }
            self.head = self.slot(now);
            self.len = self.len.wrapping_sub(now);
            left = left.wrapping_sub(now);
        }
    }

    /// Moves the oldest value to `place`, if it is `wanted`; says whether it is.
    pub(crate) fn pop_into(
        &mut self,
        place: &mut Option<T>,
        wanted: impl FnOnce(&T) -> bool,
    ) -> bool {
        if self.len == 0 {
            return false;
        }
        let Some(slot) = self.slots.get_mut(self.head) else {
            return false;
        };
        if !slot.as_ref().is_some_and(wanted) {
            return false;
        }
        // First, so that the value is not moved by way of a third place.
        *place = None;
        *place = slot.take();
        self.step();
        true
    }

    /// The oldest value.
    pub(crate) fn front(&self) -> Option<&T> {
        if self.len == 0 {
            return None;
        }
        self.slots.get(self.head)?.as_ref()
    }

    /// The oldest value.
    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        if self.len == 0 {
            return None;
        }
        self.slots.get_mut(self.head)?.as_mut()
    }

    /// The slots from `position` on, counted from the oldest value, as far as they are filled and
    /// neighbours in memory.
    pub(crate) fn run_from(&self, position: usize) -> &[Option<T>] {
        let filled = self.len.saturating_sub(position);
        let run = self.slots.get(self.slot(position)..).unwrap_or_default();
        run.get(..filled).unwrap_or(run)
    }

    /// The values, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len).map_while(|position| self.slots.get(self.slot(position))?.as_ref())
    }

    /// Moves everything into `larger`, which must be empty and hold at least as much; afterwards
    /// `larger` is the old memory.
    pub(crate) fn grow_into(&mut self, larger: &mut Self) {
        while let Some(value) = self.pop() {
            // The larger one has room by the caller's promise.
            if larger.push(value).is_err() {
                break;
            }
        }
        core::mem::swap(self, larger);
    }
}
