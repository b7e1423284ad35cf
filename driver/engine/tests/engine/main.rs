// SPDX-License-Identifier: GPL-2.0-only

//! The engine against golden bytes, rule by rule, by the clock, and against
//! itself.

mod lifecycle;
mod pair;
mod rules;
mod side;
mod timers;
mod vectors;
