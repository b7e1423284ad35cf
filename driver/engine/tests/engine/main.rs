// SPDX-License-Identifier: GPL-2.0-only

//! The engine against golden bytes, rule by rule, by the clock, and against
//! itself.

mod active;
mod back_to_back;
mod credits;
mod document;
mod exhaustive;
mod lifecycle;
mod pair;
mod played;
mod properties;
mod read_depths;
mod rules;
mod side;
mod timers;
mod traps;
mod vectors;
