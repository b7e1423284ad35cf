// SPDX-License-Identifier: GPL-2.0-only

//! The steps that [`raw`](crate::raw) and [`vectors`](crate::vectors) play.
//!
//! A step is a name and mostly a value, `name:value` as an argument and `name value` as a line.
//! What goes out:
//!
//! - `send HEX`, `send HEX+N`: a message of these bytes, and N more (0x41) behind them
//! - `N*send HEX`: the same N times, without waiting
//! - `negotiate`: connecting, cifs.ko's Negotiate Request with 1 MiB messages, and a response of
//!   success; accepting, a valid request, ksmbd's response with 1 MiB messages, and the wait for the
//!   first credits
//! - `credit N`: an empty message that grants N
//! - `alive`: a message of 64 bytes (0x41) that grants two credits, which has to come back
//! - `disconnect`, `break`: disconnect in order, end the queue pair silently
//! - `leave`: disconnect in order, and see that end
//! - `wait MS`: sleep
//! - `memory N`, `memory-of-a N`: from now on the other side can reach N bytes of ours, all zero or all
//!   0x41; on RoCE with a key that it can invalidate
//! - `smb2 HEX`: a message of these bytes, where `<offset>` stands for the address and `<token>` for the
//!   key of that memory
//! - `private HEX`, `depths IRD ORD`: what goes along with the connect or accept, before it is made
//!
//! What has to come:
//!
//! - `expect HEX`: the next message is this; `..` stands for any byte, a last `*` for any rest
//! - `expect-payload HEX`: the next message that is not empty carries this
//! - `expect-messages N`: N messages, whatever they are
//! - `message N`: a whole message of N bytes (0x41), with nothing between its fragments
//! - `fragments LENGTH/REMAINING...`: exactly these, with that content
//! - `smb2-plain HEX`, `smb2-invalidated HEX`: a message of these bytes, which invalidates nothing or our
//!   key (siw does not tell which)
//! - `placed N`: of the memory so many bytes are 0x41 now, and the rest is zero
//! - `answer`: an empty message with no flag and a credit in it, at once
//! - `granted N`: credits, until they are N in all since the beginning
//! - `probe MIN-MAX`: an empty message that asks for a response, so many milliseconds after the last
//!   message of ours, or after the connection was there
//! - `expect-silence MS`: no message and no end for so long; empty messages are passed over
//! - `expect-disconnect`, `expect-error`, `expect-end`: an orderly end, a failed work request, or
//!   either of them; empty messages before it are passed over. With `MIN-MAX`: in that time, as for
//!   `probe`
//! - `refused`: the other side's connection manager wants no connection
//! - `show`: what comes next, whatever it is, is printed; empty messages are passed over
//! - `private-data HEX`: this came with the connect request or its answer; zeroes may follow

use crate::error::{Error, Result};
use std::time::Duration;

/// Bytes where some may be anything, and perhaps more behind them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    bytes: Vec<Option<u8>>,
    is_open: bool,
}

/// From when until when, in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    pub from: u64,
    pub to: u64,
}

/// Which ends are meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    Orderly,
    Error,
    Any,
}

/// Bytes, or what is known only when there is memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Part {
    Bytes(Vec<u8>),
    Offset,
    Token,
}

/// One step; the module says what each does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    Send { times: u32, bytes: Vec<u8> },
    Negotiate,
    Credit(u16),
    Alive,
    Disconnect,
    Break,
    Leave,
    Wait(Duration),
    Memory { length: usize, content: u8 },
    Smb2(Vec<Part>),
    Smb2Answer { bytes: Vec<u8>, invalidates: bool },
    Placed(usize),
    Private(Vec<u8>),
    Depths(u8, u8),
    Expect(Pattern),
    ExpectPayload(Pattern),
    ExpectMessages(u32),
    Message(usize),
    Fragments(Vec<(u32, u32)>),
    Answer,
    Granted(u32),
    Probe(Window),
    Silence(Duration),
    End(Ending, Option<Window>),
    Refused,
    Show,
    PrivateData(Vec<u8>),
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.trim()
        .parse()
        .map_err(|_| Error::Different(format!("not a number: {text:?}")))
}

/// Two numbers with something between them.
fn pair<T: std::str::FromStr>(text: &str, between: char) -> Result<(T, T)> {
    match text.trim().split_once(between) {
        Some((one, other)) => Ok((number(one)?, number(other)?)),
        None => Error::different(format!("not two numbers: {text:?}")),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Hexadecimal digits, blanks between them allowed; `None` for "any byte".
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

/// Hexadecimal digits with `<offset>` and `<token>` between them.
fn parts_of(text: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (index, piece) in text.split('<').enumerate() {
        let mut hex = piece;
        if index > 0 {
            let (name, rest) = piece.split_once('>').unwrap_or((piece, ""));
            parts.push(match name {
                "offset" => Part::Offset,
                "token" => Part::Token,
                _ => return Error::different(format!("not a part: {:?}", shorten(name))),
            });
            hex = rest;
        }
        parts.push(Part::Bytes(bytes_of(hex)?));
    }
    Ok(parts)
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (hex, is_open) = text
            .strip_suffix('*')
            .map_or((text, false), |hex| (hex, true));
        let bytes = pattern_of(hex)?;
        Ok(Self { bytes, is_open })
    }

    /// Whether these bytes look like it.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let enough = if self.is_open {
            bytes.len() >= self.bytes.len()
        } else {
            bytes.len() == self.bytes.len()
        };
        let mut pairs = self.bytes.iter().zip(bytes);
        enough && pairs.all(|(want, is)| want.is_none_or(|want| want == *is))
    }
}

impl Window {
    fn parse(text: &str) -> Result<Self> {
        let (from, to) = pair(text, '-')?;
        Ok(Self { from, to })
    }
}

impl Step {
    /// `name:value`.
    pub fn from_argument(text: &str) -> Result<Self> {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        Self::parse(name, value)
    }

    /// `name value`.
    pub fn from_line(text: &str) -> Result<Self> {
        let text = text.trim();
        let (name, value) = text.split_once(' ').unwrap_or((text, ""));
        Self::parse(name, value)
    }

    fn parse(name: &str, value: &str) -> Result<Self> {
        let milliseconds = || number(value).map(Duration::from_millis);
        let end = |ending| {
            let window = match value {
                "" => None,
                value => Some(Window::parse(value)?),
            };
            Ok(Self::End(ending, window))
        };
        if let Some((times, "send")) = name.split_once('*') {
            return Ok(Self::Send {
                times: number(times)?,
                bytes: bytes_of(value)?,
            });
        }
        Ok(match name {
            "send" => Self::Send {
                times: 1,
                bytes: bytes_of(value)?,
            },
            "negotiate" => Self::Negotiate,
            "credit" => Self::Credit(number(value)?),
            "alive" => Self::Alive,
            "disconnect" => Self::Disconnect,
            "break" => Self::Break,
            "leave" => Self::Leave,
            "wait" => Self::Wait(milliseconds()?),
            "memory" => Self::Memory {
                length: number(value)?,
                content: 0,
            },
            "memory-of-a" => Self::Memory {
                length: number(value)?,
                content: 0x41,
            },
            "smb2" => Self::Smb2(parts_of(value)?),
            "smb2-plain" => Self::Smb2Answer {
                bytes: bytes_of(value)?,
                invalidates: false,
            },
            "smb2-invalidated" => Self::Smb2Answer {
                bytes: bytes_of(value)?,
                invalidates: true,
            },
            "placed" => Self::Placed(number(value)?),
            "private" => Self::Private(bytes_of(value)?),
            "depths" => {
                let (responder, initiator) = pair(value, ' ')?;
                Self::Depths(responder, initiator)
            }
            "expect" => Self::Expect(Pattern::parse(value)?),
            "expect-payload" => Self::ExpectPayload(Pattern::parse(value)?),
            "expect-messages" => Self::ExpectMessages(number(value)?),
            "message" => Self::Message(number(value)?),
            "fragments" => {
                let all = value.split_whitespace().map(|one| pair(one, '/'));
                Self::Fragments(all.collect::<Result<_>>()?)
            }
            "answer" => Self::Answer,
            "granted" => Self::Granted(number(value)?),
            "probe" => Self::Probe(Window::parse(value)?),
            "expect-silence" => Self::Silence(milliseconds()?),
            "expect-disconnect" => return end(Ending::Orderly),
            "expect-error" => return end(Ending::Error),
            "expect-end" => return end(Ending::Any),
            "refused" => Self::Refused,
            "show" => Self::Show,
            "private-data" => Self::PrivateData(bytes_of(value)?),
            _ => return Error::different(format!("no such step: {:?}", shorten(name))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_blanks_and_more() {
        assert_eq!(bytes_of("FF 00 0a+2").unwrap(), [0xff, 0, 10, 0x41, 0x41]);
        assert!(bytes_of("F").is_err());
        assert!(bytes_of("..").is_err());
        assert!(bytes_of("zz").is_err());
    }

    #[test]
    fn patterns_know_any_byte_and_any_rest() {
        let matches = |text: &str, bytes: &[u8]| Pattern::parse(text).unwrap().matches(bytes);
        assert!(matches("01..03", &[1, 9, 3]));
        assert!(!matches("01..03", &[1, 9, 4]));
        assert!(!matches("01", &[1, 2]));
        assert!(matches("01*", &[1, 2]));
        assert!(!matches("0102*", &[1]));
    }

    #[test]
    fn an_argument_and_a_line_say_the_same() {
        for (argument, line) in [
            ("3*send:00 01+2", "3*send 00 01+2"),
            ("expect-end", "expect-end"),
            (
                "expect-disconnect:4800-7000",
                "  expect-disconnect 4800-7000",
            ),
            ("fragments:1340/620 620/0", "fragments 1340/620 620/0"),
            ("depths:8 1", "depths 8 1"),
        ] {
            let step = Step::from_argument(argument).unwrap();
            assert_eq!(step, Step::from_line(line).unwrap(), "{line}");
        }
        assert!(Step::from_line("expect-disconnect 5").is_err());
        assert!(Step::from_line("sent 00").is_err());
    }
}
