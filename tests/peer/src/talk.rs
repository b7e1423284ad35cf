// SPDX-License-Identifier: GPL-2.0-only

//! `talk`: messages of somebody else's making, one step per line of standard input, one line of
//! answer each:
//!
//! - `send HEX`: sends this message, as far as credits allow, and the rest meanwhile; answers `sent`
//! - `receive`: answers with the next message, in hexadecimal digits
//! - `idle SECONDS`: keeps the connection alive; it must not end; answers `idle`
//! - `end`: waits for the end; answers `ended` and how
//! - `disconnect`: disconnects in order; answers `ended` and how
//!
//! Says `connected` first. What does not work ends it. Between the steps the connection lives, unless
//! it is to be still.

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::target::{Parameters, Target};
use std::io::{BufRead, Write};
use std::sync::mpsc::{channel, Receiver, TryRecvError};
use std::time::Duration;

/// How long the connection has its way before the next step is looked for.
const TURN: Duration = Duration::from_millis(20);

fn bytes_of(text: &str) -> Result<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
        _ => None,
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes.ok_or_else(|| Error::Different("not hexadecimal".into()))
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Does one step, and says what came of it.
fn step(connection: &mut Connection, line: &str) -> Result<String> {
    let (name, value) = line.split_once(' ').unwrap_or((line, ""));
    match name {
        "send" => {
            connection.send(bytes_of(value)?)?;
            Ok("sent".into())
        }
        "receive" => Ok(hex_of(&connection.receive()?.bytes)),
        "idle" => {
            let seconds = value.parse();
            let seconds = seconds.map_err(|_| Error::Different("not a number".into()))?;
            connection.idle(Duration::from_secs_f32(seconds))?;
            Ok("idle".into())
        }
        "end" => Ok(format!("ended: {}", connection.await_end()?)),
        "disconnect" => {
            connection.endpoint.disconnect()?;
            Ok(format!("ended: {}", connection.await_end()?))
        }
        _ => Error::different(format!("no such step: {name:?}")),
    }
}

/// Lines of standard input, from a thread that waits for them.
fn lines() -> Receiver<String> {
    let (to, from) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(|line| line.ok()) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    from
}

/// Talks over one connection until standard input ends; returns the number of steps.
pub fn run(target: &Target, parameters: Parameters, still: bool) -> Result<u32> {
    let mut connection = Connection::connect(target, parameters)?;
    let say = |text: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush())
    };
    let failed = |error: std::io::Error| Error::Different(format!("standard streams: {error}"));
    say("connected").map_err(failed)?;
    let mut steps = 0;
    let lines = lines();
    loop {
        match lines.try_recv() {
            Ok(line) => {
                let answer = step(&mut connection, line.trim())?;
                say(&answer).map_err(failed)?;
                steps += 1;
            }
            Err(TryRecvError::Disconnected) => return Ok(steps),
            Err(TryRecvError::Empty) if still => std::thread::sleep(TURN),
            Err(TryRecvError::Empty) => match connection.idle(TURN) {
                Ok(()) => {}
                // Some step will ask for it.
                Err(Error::Ended(_)) => std::thread::sleep(TURN),
                Err(other) => return Err(other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_digits_are_the_same() {
        assert_eq!(bytes_of("00ff41").unwrap(), [0, 255, 0x41]);
        assert_eq!(hex_of(&[0, 255, 0x41]), "00ff41");
        assert!(bytes_of("0").is_err());
        assert!(bytes_of("0g").is_err());
    }
}
