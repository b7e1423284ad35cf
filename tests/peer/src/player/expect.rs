// SPDX-License-Identifier: GPL-2.0-only

//! What has to come, and whether it did.

use super::{hex_of, Next, Player, FILLER};
use crate::error::{End, Error, Result};
use crate::script::{Ending, Pattern, Window};
use crate::wire::{DataHeader, HEADER_LENGTH, RESPONSE_REQUESTED};
use std::time::{Duration, Instant};

impl Player {
    /// Length and RemainingDataLength of all the fragments of the next message, whose content is
    /// checked; nothing may come between them.
    pub(super) fn whole_message(&mut self) -> Result<Vec<(u32, u32)>> {
        let mut fragments: Vec<(u32, u32)> = Vec::new();
        loop {
            let (header, payload) = self.data()?;
            if header.length == 0 && header.remaining == 0 {
                if fragments.is_empty() {
                    continue;
                }
                return Error::different("an empty message between fragments");
            }
            if let Some(at) = payload.iter().position(|byte| *byte != FILLER) {
                return Error::different(format!("other content at {at} of {}", hex_of(&payload)));
            }
            if let Some((_, to_come)) = fragments.last() {
                if header.length + header.remaining != *to_come {
                    return Error::different(format!(
                        "{} bytes and {} to come, of {to_come}",
                        header.length, header.remaining
                    ));
                }
            }
            fragments.push((header.length, header.remaining));
            if header.remaining == 0 {
                return Ok(fragments);
            }
        }
    }

    pub(super) fn expect(&mut self, pattern: &Pattern) -> Result<()> {
        let bytes = self.message()?;
        if !pattern.matches(&bytes) {
            return Error::different(format!("got {}", hex_of(&bytes)));
        }
        self.note("answered as it should be");
        Ok(())
    }

    pub(super) fn expect_payload(&mut self, pattern: &Pattern) -> Result<()> {
        let mut bytes = self.message()?;
        while bytes.len() == HEADER_LENGTH {
            bytes = self.message()?;
        }
        let (_, payload) = DataHeader::decode(&bytes, u32::MAX)?;
        if !pattern.matches(payload) {
            return Error::different(format!("got a payload {}", hex_of(payload)));
        }
        Ok(())
    }

    pub(super) fn expect_answer(&mut self) -> Result<()> {
        let (header, _) = self.data()?;
        let took = self.elapsed();
        if header.flags != 0 || header.credits_granted == 0 || header.length != 0 {
            return Error::different(format!("{header:?}"));
        }
        if took > self.promptly {
            return Error::different(format!("only after {} ms", took.as_millis()));
        }
        self.note(format!("answered after {} ms", took.as_millis()));
        Ok(())
    }

    pub(super) fn expect_granted(&mut self, credits: u32) -> Result<()> {
        while self.granted < credits {
            let (header, _) = self.data()?;
            if header.length != 0 {
                return Error::different(format!("{header:?}, with {} granted", self.granted));
            }
        }
        self.note(format!("{} credits granted", self.granted));
        Ok(())
    }

    /// Whether a moment is in the window; time goes slower on slow machines, never faster.
    pub(super) fn check_time(&self, window: Window, took: Duration) -> Result<()> {
        let from = Duration::from_millis(window.from);
        let to = Duration::from_millis(window.to) * self.slowness;
        if (from..=to).contains(&took) {
            return Ok(());
        }
        Error::different(format!(
            "after {} ms, and not {} to {}",
            took.as_millis(),
            window.from,
            to.as_millis()
        ))
    }

    pub(super) fn expect_probe(&mut self, window: Window) -> Result<()> {
        let limit = self.since + Duration::from_millis(window.to) * self.slowness;
        loop {
            let bytes = match self.next(limit + Duration::from_secs(1))? {
                Next::Message(bytes) => bytes,
                Next::End(end) => return Err(Error::Ended(end)),
                Next::Nothing => return Err(Error::Timeout("a keepalive".into())),
            };
            let took = self.elapsed();
            let (header, _) = DataHeader::decode(&bytes, u32::MAX)?;
            if header.length != 0 || header.remaining != 0 {
                return Error::different(format!("{header:?}"));
            }
            if header.flags == RESPONSE_REQUESTED {
                self.note(format!("asked after {} ms", took.as_millis()));
                self.since = Instant::now();
                return self.check_time(window, took);
            }
        }
    }

    pub(super) fn expect_end(
        &mut self,
        wanted: Ending,
        window: Option<Window>,
        ours: bool,
    ) -> Result<()> {
        let wait = match window {
            Some(window) => Duration::from_millis(window.to) * self.slowness,
            None if ours => self.timeout,
            None => self.promptly,
        };
        let limit = self.since + wait;
        let limit = limit.max(Instant::now() + Duration::from_millis(200));
        loop {
            match self.next(limit)? {
                Next::Message(bytes) if ours || bytes.len() == HEADER_LENGTH => {}
                Next::Message(bytes) => return Error::different(format!("got {}", hex_of(&bytes))),
                Next::End(end) => {
                    let took = self.elapsed();
                    let is_wanted = match wanted {
                        Ending::Orderly => end == End::Disconnect,
                        Ending::Error => matches!(end, End::QueuePair(_)),
                        Ending::Any => true,
                    };
                    if !is_wanted {
                        return Err(Error::Ended(end));
                    }
                    if !ours {
                        self.note(format!("{end} after {} ms", took.as_millis()));
                    }
                    return match window {
                        Some(window) => self.check_time(window, took),
                        None => Ok(()),
                    };
                }
                Next::Nothing => return Err(Error::Timeout("the connection's end".into())),
            }
        }
    }

    pub(super) fn expect_silence(&mut self, time: Duration) -> Result<()> {
        let limit = Instant::now() + time;
        loop {
            match self.next(limit)? {
                Next::Message(bytes) if bytes.len() == HEADER_LENGTH => {}
                Next::Message(bytes) => return Error::different(format!("got {}", hex_of(&bytes))),
                Next::End(end) => return Err(Error::Ended(end)),
                Next::Nothing => {
                    self.note(format!("silent for {} ms", time.as_millis()));
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn show(&mut self) -> Result<()> {
        loop {
            match self.next(Instant::now() + self.timeout)? {
                Next::Message(bytes) if bytes.len() == HEADER_LENGTH => continue,
                Next::Message(bytes) => println!("shown: {}", hex_of(&bytes)),
                Next::End(end) => println!("shown: {end}"),
                Next::Nothing => println!("shown: nothing"),
            }
            return Ok(());
        }
    }

    pub(super) fn expect_refusal(&mut self) -> Result<()> {
        match self.establish() {
            Err(Error::Event { event, .. }) if event == "RDMA_CM_EVENT_REJECTED" => {
                self.note("refused");
                Ok(())
            }
            Err(other) => Err(other),
            Ok(()) => Error::different("a connection"),
        }
    }

    pub(super) fn expect_private_data(&mut self, wanted: &[u8]) -> Result<()> {
        let bytes = self.endpoint.private_data();
        match bytes.strip_prefix(wanted) {
            Some(rest) if rest.iter().all(|byte| *byte == 0) => {
                self.note("private data as it should be");
                Ok(())
            }
            _ => Error::different(format!("private data {}", hex_of(&bytes))),
        }
    }

    pub(super) fn expect_smb2(&mut self, wanted: &[u8], invalidates: bool) -> Result<()> {
        let (mut header, mut payload) = self.data()?;
        while header.length == 0 {
            (header, payload) = self.data()?;
        }
        if header.remaining != 0 || payload != wanted {
            return Error::different(format!("{header:?} and {}", hex_of(&payload)));
        }
        let key = invalidates.then_some(self.offered()?.key());
        if !self.is_iwarp() && self.invalidated != key {
            return Error::different(format!(
                "invalidates {:x?}, and not {key:x?}",
                self.invalidated
            ));
        }
        self.note(match invalidates {
            true => "answered, our key invalidated",
            false => "answered, nothing invalidated",
        });
        Ok(())
    }

    pub(super) fn expect_placed(&mut self, length: usize) -> Result<()> {
        let memory = self.offered()?;
        let bytes = memory.region.read(0, memory.length);
        let wanted = |at| if at < length { FILLER } else { 0 };
        let other = bytes
            .iter()
            .enumerate()
            .find(|(at, byte)| **byte != wanted(*at));
        if let Some((at, byte)) = other {
            return Error::different(format!("byte {at} is {byte:#04x}"));
        }
        self.note(format!("{length} bytes placed"));
        Ok(())
    }
}
