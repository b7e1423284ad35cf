// SPDX-License-Identifier: GPL-2.0-only

//! `echo`: messages of seeded content have to come back as they were.

use crate::connection::Connection;
use crate::content::{difference, pattern};
use crate::error::{End, Error, Result};
use crate::target::{Parameters, Target};
use std::collections::VecDeque;
use std::time::Duration;

/// How much to send.
#[derive(Clone, Debug)]
pub struct Echo {
    pub sizes: Vec<u32>,
    pub count: u32,
    pub depth: usize,
    pub seed: u32,
}

/// An echo request of the test servers: 'E' and anything.
fn request(seed: u32, size: u32) -> Vec<u8> {
    let mut bytes = pattern(seed, size as usize);
    bytes[0] = b'E';
    bytes
}

/// Each size `count` times over one connection, `depth` messages on the way; returns the bytes.
pub fn run(target: &Target, parameters: Parameters, echo: &Echo) -> Result<u64> {
    let mut connection = Connection::connect(target, parameters)?;
    let all = (0..echo.count).flat_map(|_| echo.sizes.iter().copied());
    let mut unanswered: VecDeque<(u32, u32)> = VecDeque::new();
    let mut total = 0;
    for (index, size) in all.enumerate() {
        if unanswered.len() >= echo.depth {
            total += take(&mut connection, &mut unanswered)?;
        }
        let seed = echo.seed.wrapping_add(index as u32);
        connection.send(request(seed, size))?;
        unanswered.push_back((seed, size));
    }
    while !unanswered.is_empty() {
        total += take(&mut connection, &mut unanswered)?;
    }
    connection.disconnect()?;
    Ok(total)
}

fn take(connection: &mut Connection, unanswered: &mut VecDeque<(u32, u32)>) -> Result<u64> {
    let message = connection.receive()?;
    let Some((seed, size)) = unanswered.pop_front() else {
        return Error::different("an answer to no request");
    };
    match difference(&request(seed, size), &message.bytes) {
        Some(text) => Error::different(format!("echo of {size} bytes, seed {seed}: {text}")),
        None => Ok(u64::from(size)),
    }
}

/// What to ask for and to take.
#[derive(Clone, Debug)]
pub struct Take {
    pub request: Vec<u8>,
    pub sizes: Vec<u32>,
    pub seed: u32,
    pub pause: u64,
    pub end: bool,
}

/// Takes messages that the server sends by itself; returns the bytes.
pub fn take_messages(target: &Target, parameters: Parameters, take: &Take) -> Result<u64> {
    let mut connection = Connection::connect(target, parameters)?;
    connection.send(take.request.clone())?;
    connection.flush()?;
    std::thread::sleep(Duration::from_secs(take.pause));
    for (index, size) in take.sizes.iter().enumerate() {
        let content = pattern(take.seed.wrapping_add(index as u32), *size as usize);
        if let Some(text) = difference(&content, &connection.receive()?.bytes) {
            return Error::different(format!("message {index} of {size} bytes: {text}"));
        }
    }
    if take.end {
        return match connection.receive() {
            Err(Error::Ended(End::Disconnect)) => Ok(total(&take.sizes)),
            Err(other) => Err(other),
            Ok(message) => {
                Error::different(format!("{} bytes instead of an end", message.bytes.len()))
            }
        };
    }
    connection.disconnect()?;
    Ok(total(&take.sizes))
}

fn total(sizes: &[u32]) -> u64 {
    sizes.iter().map(|size| u64::from(*size)).sum()
}

/// Holds a connection; says how it ended.
pub fn hold(
    target: &Target,
    parameters: Parameters,
    time: Duration,
    expect_end: bool,
) -> Result<String> {
    let mut connection = Connection::connect(target, parameters)?;
    println!("holding");
    match connection.idle(time) {
        Ok(()) if expect_end => Err(Error::Timeout("the connection's end".into())),
        Ok(()) => connection.disconnect().map(|()| "held".into()),
        Err(Error::Ended(end)) if expect_end => Ok(end.to_string()),
        Err(other) => Err(other),
    }
}
