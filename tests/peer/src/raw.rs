// SPDX-License-Identifier: GPL-2.0-only

//! `raw`: plays bytes, right or wrong ones, and tells how the other side takes them.
//!
//! A script is a list of steps, one argument each:
//!
//! - `send:HEX`, `send:HEX+N`: a message of these bytes, and N more (0x41) behind them
//! - `N*send:HEX`: the same N times, without waiting
//! - `negotiate`: cifs.ko's Negotiate Request, and a response of success
//! - `expect:HEX`: the next message is this; `..` stands for any byte, a last `*` for any rest
//! - `expect-payload:HEX`: the next message that is not empty carries this
//! - `expect-messages:N`: N messages, whatever they are
//! - `expect-disconnect`, `expect-error`, `expect-end`: an orderly end, a failed work request,
//!   or either of them; empty messages before it are passed over
//! - `expect-silence:MS`: no message and no end for so long; empty messages are passed over
//! - `wait:MS`, `disconnect`, `break`: sleep, disconnect in order, end the queue pair silently

use crate::error::{End, Error, Result};
use crate::target::{open, private_data, Target};
use crate::verbs::{status_name, Completion, Endpoint, Listener, QueueSizes, Region};
use crate::wire::{DataHeader, NegotiateRequest, NegotiateResponse, DATA_OFFSET, HEADER_LENGTH};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SLOTS: usize = 256;
const SLOT_SIZE: usize = 8192;
const SEND: u64 = 1 << 32;
const FLUSHED: u32 = 5;
/// MaxReceiveSize and MaxSendSize of cifs.ko, which `negotiate` says.
const SIZE: u32 = 1364;

/// What came next.
enum Next {
    Message(Vec<u8>),
    End(End),
    Nothing,
}

struct Player {
    receives: Region,
    sends: Region,
    sent: usize,
    messages: VecDeque<Vec<u8>>,
    end: Option<End>,
    flushed: bool,
    timeout: Duration,
    endpoint: Endpoint,
}

/// Which side the script is of.
#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    /// Ours connects.
    Initiator,
    /// Ours listens on the target's address, and accepts one connection.
    Acceptor,
}

/// The next connection to this address.
fn next(target: &Target, timeout: Duration) -> Result<Endpoint> {
    let listener = Listener::new(&target.host, target.port)?;
    println!("listening on {} port {}", target.host, target.port);
    listener
        .next(timeout)?
        .ok_or(Error::Timeout("no connection came".into()))
}

/// Plays a script over one connection.
pub fn run(target: &Target, side: Side, timeout: Duration, steps: &[String]) -> Result<()> {
    let endpoint = match side {
        Side::Initiator => open(target, timeout)?,
        Side::Acceptor => next(target, timeout)?,
    };
    let sizes = QueueSizes {
        sends: 2 * SLOTS as u32,
        receives: 2 * SLOTS as u32,
    };
    endpoint.create_queue_pair(sizes)?;
    let mut player = Player {
        receives: endpoint.register(SLOTS * SLOT_SIZE, false)?,
        sends: endpoint.register(SLOTS * SLOT_SIZE, false)?,
        sent: 0,
        messages: VecDeque::new(),
        end: None,
        flushed: false,
        timeout,
        endpoint,
    };
    for slot in 0..SLOTS {
        player.post_receive(slot)?;
    }
    match side {
        Side::Initiator => player
            .endpoint
            .connect(&private_data(&player.endpoint), timeout)?,
        Side::Acceptor => player.endpoint.accept(timeout)?,
    }
    for (index, step) in steps.iter().enumerate() {
        player.step(step).map_err(|error| {
            Error::Different(format!("step {} ({}): {error}", index + 1, shorten(step)))
        })?;
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::Different(format!("not a number: {text:?}")))
}

/// Bytes of hexadecimal digits, blanks between them allowed; `None` for "any byte".
fn pattern_of(text: &str) -> Result<Vec<Option<u8>>> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| match pair {
        ['.', '.'] => Ok(None),
        [high, low] => {
            let value = high
                .to_digit(16)
                .zip(low.to_digit(16))
                .map(|(h, l)| (h * 16 + l) as u8);
            value.map(Some).ok_or(())
        }
        _ => Err(()),
    });
    let bytes: std::result::Result<_, ()> = pairs.collect();
    bytes.map_err(|()| Error::Different(format!("not hexadecimal: {:?}", shorten(text))))
}

/// `HEX` or `HEX+N`.
fn bytes_of(text: &str) -> Result<Vec<u8>> {
    let (hex, more) = text.split_once('+').unwrap_or((text, "0"));
    let pattern = pattern_of(hex)?;
    let bytes: Option<Vec<u8>> = pattern.into_iter().collect();
    let mut bytes = bytes.ok_or(Error::Different("cannot send 'any byte'".into()))?;
    bytes.resize(bytes.len() + number::<usize>(more)?, 0x41);
    Ok(bytes)
}

fn hex_of(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .take(64)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "{text}{} ({} bytes)",
        if bytes.len() > 64 { "..." } else { "" },
        bytes.len()
    )
}

/// Does `bytes` look like `text`, as `expect:` says it?
fn matches(text: &str, bytes: &[u8]) -> Result<bool> {
    let (text, open) = text
        .strip_suffix('*')
        .map_or((text, false), |text| (text, true));
    let pattern = pattern_of(text)?;
    let enough = if open {
        bytes.len() >= pattern.len()
    } else {
        bytes.len() == pattern.len()
    };
    Ok(enough
        && pattern
            .iter()
            .zip(bytes)
            .all(|(want, is)| want.is_none_or(|want| want == *is)))
}

impl Player {
    fn post_receive(&self, slot: usize) -> Result<()> {
        self.endpoint
            .post_receive(slot as u64, &self.receives, slot * SLOT_SIZE, SLOT_SIZE)
    }

    fn step(&mut self, step: &str) -> Result<()> {
        if let Some((times, rest)) = step.split_once('*').filter(|(_, r)| r.starts_with("send:")) {
            let bytes = bytes_of(&rest[5..])?;
            return (0..number::<u32>(times)?).try_for_each(|_| self.send(&bytes));
        }
        let (name, value) = step.split_once(':').unwrap_or((step, ""));
        match name {
            "send" => self.send(&bytes_of(value)?),
            "negotiate" => self.negotiate(),
            "expect" => self.expect(value),
            "expect-payload" => self.expect_payload(value),
            "expect-messages" => {
                (0..number::<u32>(value)?).try_for_each(|_| self.message().map(|_| ()))
            }
            "expect-disconnect" => self.expect_end(|end| *end == End::Disconnect),
            "expect-error" => self.expect_end(|end| matches!(end, End::QueuePair(_))),
            "expect-end" => self.expect_end(|_| true),
            "expect-silence" => self.expect_silence(Duration::from_millis(number(value)?)),
            "wait" => {
                std::thread::sleep(Duration::from_millis(number(value)?));
                Ok(())
            }
            "disconnect" => self.endpoint.disconnect(),
            "break" => self.endpoint.break_queue_pair(),
            _ => Error::different("no such step"),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let slot = self.sent % SLOTS;
        self.sent += 1;
        self.sends.write(slot * SLOT_SIZE, bytes);
        self.endpoint
            .post_send(SEND, &self.sends, slot * SLOT_SIZE, bytes.len(), None)
    }

    fn negotiate(&mut self) -> Result<()> {
        let request = NegotiateRequest {
            credits_requested: 255,
            preferred_send_size: SIZE,
            max_receive_size: SIZE,
            max_fragmented_size: 1 << 20,
        };
        self.send(&request.encode())?;
        NegotiateResponse::decode(&self.message()?, SIZE).map(|_| ())
    }

    /// What comes next, at most until `end`.
    fn next(&mut self, end: Instant) -> Result<Next> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Next::Message(message));
            }
            if let Some(end) = &self.end {
                return Ok(Next::End(end.clone()));
            }
            if Instant::now() >= end {
                return Ok(Next::Nothing);
            }
            self.poll(end)?;
        }
    }

    fn poll(&mut self, end: Instant) -> Result<()> {
        // After a flush, only the event is of interest; completions would not let us sleep.
        let left = end.saturating_duration_since(Instant::now());
        let completions = self.endpoint.poll(left)?;
        self.complete(&completions)?;
        if completions.is_empty() {
            self.end = self.end.take().or_else(|| self.endpoint.ended());
            if self.end.is_some() {
                // What came before the end may have come after the look at it.
                let last = self.endpoint.poll(Duration::ZERO)?;
                self.complete(&last)?;
            } else if self.flushed && Instant::now() >= end {
                self.end = Some(End::QueuePair(status_name(FLUSHED)));
            }
        }
        Ok(())
    }

    fn complete(&mut self, completions: &[Completion]) -> Result<()> {
        for completion in completions {
            match completion.status {
                0 if completion.id & SEND != 0 => {}
                0 => {
                    let slot = completion.id as usize;
                    let bytes = self
                        .receives
                        .read(slot * SLOT_SIZE, completion.length as usize);
                    self.messages.push_back(bytes);
                    if self.end.is_none() {
                        self.post_receive(slot)?;
                    }
                }
                FLUSHED => self.flushed = true,
                status => self.end = Some(End::QueuePair(status_name(status))),
            }
        }
        Ok(())
    }

    fn message(&mut self) -> Result<Vec<u8>> {
        match self.next(Instant::now() + self.timeout)? {
            Next::Message(bytes) => Ok(bytes),
            Next::End(end) => Err(Error::Ended(end)),
            Next::Nothing => Err(Error::Timeout("a message".into())),
        }
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        let bytes = self.message()?;
        if matches(text, &bytes)? {
            return Ok(());
        }
        Error::different(format!("got {}", hex_of(&bytes)))
    }

    fn expect_payload(&mut self, text: &str) -> Result<()> {
        let mut bytes = self.message()?;
        while bytes.len() == HEADER_LENGTH {
            bytes = self.message()?;
        }
        let (_, payload) = DataHeader::decode(&bytes, u32::MAX)?;
        if matches(text, payload)? {
            return Ok(());
        }
        Error::different(format!(
            "got {} behind {DATA_OFFSET} bytes",
            hex_of(payload)
        ))
    }

    fn expect_end(&mut self, wanted: impl Fn(&End) -> bool) -> Result<()> {
        let limit = Instant::now() + self.timeout;
        loop {
            match self.next(limit)? {
                Next::Message(bytes) if bytes.len() == HEADER_LENGTH => {}
                Next::Message(bytes) => return Error::different(format!("got {}", hex_of(&bytes))),
                Next::End(end) if wanted(&end) => return Ok(()),
                Next::End(end) => return Err(Error::Ended(end)),
                Next::Nothing => return Err(Error::Timeout("the connection's end".into())),
            }
        }
    }

    fn expect_silence(&mut self, time: Duration) -> Result<()> {
        let limit = Instant::now() + time;
        loop {
            match self.next(limit)? {
                Next::Message(bytes) if bytes.len() == HEADER_LENGTH => {}
                Next::Message(bytes) => return Error::different(format!("got {}", hex_of(&bytes))),
                Next::End(end) => return Err(Error::Ended(end)),
                Next::Nothing => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_takes_blanks_and_more() {
        assert_eq!(bytes_of("FF 00 0a+2").unwrap(), [0xff, 0, 10, 0x41, 0x41]);
        assert!(bytes_of("F").is_err());
        assert!(bytes_of("..").is_err());
        assert!(bytes_of("zz").is_err());
    }

    #[test]
    fn matches_knows_any_byte_and_any_rest() {
        assert!(matches("01..03", &[1, 9, 3]).unwrap());
        assert!(!matches("01..03", &[1, 9, 4]).unwrap());
        assert!(!matches("01", &[1, 2]).unwrap());
        assert!(matches("01*", &[1, 2]).unwrap());
        assert!(!matches("0102*", &[1]).unwrap());
    }
}
