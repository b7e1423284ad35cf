// SPDX-License-Identifier: GPL-2.0-only

//! `crowd`: many connections at a time that do nothing.

use crate::connection::Connection;
use crate::error::Result;
use crate::target::{open, private_data, Parameters, Target};
use crate::verbs::{Endpoint, QueueSizes};
use std::time::Duration;

/// A member of the crowd; kept until all leave.
enum Member {
    /// Connected, and never negotiates.
    Silent { _endpoint: Endpoint },
    /// Negotiated, and never says anything.
    Idle { _connection: Box<Connection> },
}

fn silent(target: &Target, timeout: Duration) -> Result<Member> {
    let endpoint = open(target, timeout)?;
    endpoint.create_queue_pair(QueueSizes {
        sends: 1,
        receives: 1,
    })?;
    endpoint.connect(&private_data(&endpoint), timeout)?;
    Ok(Member::Silent {
        _endpoint: endpoint,
    })
}

/// Connects `count` times, and stays for `time` after the last; how many came in.
pub fn run(
    target: &Target,
    parameters: Parameters,
    count: u32,
    negotiate: bool,
    time: Duration,
) -> u32 {
    let mut members = Vec::new();
    for _ in 0..count {
        // Refused ones are no error: the other side has its limits.
        members.extend(if negotiate {
            Connection::connect(target, parameters)
                .map(|connection| Member::Idle {
                    _connection: Box::new(connection),
                })
                .ok()
        } else {
            silent(target, parameters.timeout).ok()
        });
    }
    std::thread::sleep(time);
    members.len() as u32
}
