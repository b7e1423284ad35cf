// SPDX-License-Identifier: GPL-2.0-only

//! `pester`: a peer that breaks no rule, and makes as much work as it can.

use crate::connection::Connection;
use crate::error::Result;
use crate::target::{Parameters, Target};
use clap::ValueEnum;
use std::time::Instant;

/// With what.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum How {
    /// Long messages in the shortest fragments there are, both ways.
    Fragments,
    /// PDUs without payload that ask for an answer.
    Keepalives,
    /// Connections that come, negotiate, and go.
    Connects,
    /// The first fragment of a message, and nothing more.
    Open,
}

/// Bytes of the shortest PDU that may be asked for.
const SHORTEST: u32 = 128;

/// Pesters until `end`; how often it did what it does.
pub fn run(target: &Target, parameters: Parameters, how: How, end: Instant) -> Result<u64> {
    let mut parameters = parameters;
    if matches!(how, How::Fragments) {
        parameters.max_send_size = SHORTEST;
        parameters.max_receive_size = SHORTEST;
    }
    let mut times = 0;
    while Instant::now() < end {
        let mut connection = Connection::connect(target, parameters)?;
        match how {
            How::Fragments => {
                let size = connection.max_fragmented_send_size.min(100_000);
                while Instant::now() < end {
                    connection.ask(vec![1; size as usize])?;
                    times += 1;
                }
            }
            How::Keepalives => {
                connection.keep_asking(end.saturating_duration_since(Instant::now()))?;
                times += 1;
            }
            How::Connects => {
                connection.disconnect()?;
                times += 1;
                continue;
            }
            How::Open => {
                let header = crate::wire::DataHeader {
                    credits_requested: parameters.credits,
                    remaining: connection.max_fragmented_send_size - 100,
                    ..Default::default()
                };
                connection.send_raw(&header.encode(&[1; 100]))?;
                connection.idle(end.saturating_duration_since(Instant::now()))?;
                times += 1;
            }
        }
        connection.disconnect()?;
    }
    Ok(times)
}
