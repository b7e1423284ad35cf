// SPDX-License-Identifier: GPL-2.0-only

//! Lists that mostly have one entry, which stands in them and costs no memory of its own.

use kernel::prelude::*;
use zerocopy::FromZeros;

/// See the module's documentation.
pub(crate) struct Few<T> {
    first: Option<T>,
    /// Not there rather than empty: it is looked at when it is dropped.
    others: Option<KVec<T>>,
}

impl<T> Few<T> {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            others: None,
        }
    }

    /// Appends what `make` makes, where it stays.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline(always)]
    pub(crate) fn push(&mut self, make: impl FnOnce() -> T) -> Result {
        if self.first.is_some() {
            return self.push_other(make());
        }
        self.first = Some(make());
        Ok(())
    }

    #[cold]
    fn push_other(&mut self, value: T) -> Result {
        let others = self.others.get_or_insert_with(KVec::new);
        Ok(others.push(value, GFP_KERNEL_ACCOUNT)?)
    }

    /// The first one, and those behind it, if there are any.
    #[inline]
    pub(crate) fn parts(&self) -> Option<(&T, Option<&[T]>)> {
        Some((self.first.as_ref()?, self.others.as_deref()))
    }

    /// The one at `index`.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        match index.checked_sub(1) {
            None => self.first.as_ref(),
            Some(index) => self.others.as_ref()?.get(index),
        }
    }

    /// Whether `is` says so of all.
    #[inline]
    pub(crate) fn all(&self, is: impl Fn(&T) -> bool) -> bool {
        self.first.as_ref().is_none_or(&is)
            && match &self.others {
                None => true,
                Some(others) => others.iter().all(is),
            }
    }
}

impl<T: FromZeros + Copy> Few<T> {
    /// Fills an empty list with `count` entries, each of which is zero before `fill` gets it: the
    /// first where it stays.
    ///
    /// # Errors
    ///
    /// As `fill` says; `ENOMEM`.
    #[inline]
    pub(crate) fn fill(&mut self, count: usize, mut fill: impl FnMut(&mut T) -> Result) -> Result {
        fill(self.first.insert(T::new_zeroed()))?;
        if count > 1 {
            self.fill_others(count, fill)?;
        }
        Ok(())
    }

    #[cold]
    fn fill_others(&mut self, count: usize, mut fill: impl FnMut(&mut T) -> Result) -> Result {
        let mut others = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 1..count {
            let mut entry = T::new_zeroed();
            fill(&mut entry)?;
            // There is room for all of them.
            others.push_within_capacity(entry).map_err(|_| ENOMEM)?;
        }
        self.others = Some(others);
        Ok(())
    }
}
