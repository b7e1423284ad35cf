// SPDX-License-Identifier: GPL-2.0-only

//! `serve-echo`: the smallest server, on rdma_cm, so that the peer can be tested against itself.

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::target::Parameters;
use crate::verbs::{Endpoint, Listener};
use std::time::{Duration, Instant};

/// Echoes to `connections` connections, one thread each, then returns.
pub fn run(host: &str, port: u16, parameters: Parameters, connections: u32) -> Result<()> {
    let listener = Listener::new(host, port)?;
    println!("listening on {host} port {port}");
    let mut threads = Vec::new();
    let mut end = Instant::now() + parameters.timeout;
    while threads.len() < connections as usize {
        if let Some(endpoint) = listener.next(Duration::from_secs(1))? {
            threads.push(std::thread::spawn(move || {
                if let Err(error) = serve(endpoint, parameters) {
                    println!("connection: {error}");
                }
            }));
            end = Instant::now() + parameters.timeout;
        } else if Instant::now() > end {
            return Err(Error::Timeout("no connection came".into()));
        }
    }
    for thread in threads {
        if thread.join().is_err() {
            return Error::different("a thread panicked");
        }
    }
    Ok(())
}

fn serve(endpoint: Endpoint, parameters: Parameters) -> Result<()> {
    let mut connection = Connection::accept(endpoint, parameters)?;
    loop {
        let message = match connection.receive() {
            Err(Error::Ended(end)) => {
                println!("{end}");
                return Ok(());
            }
            other => other?,
        };
        if message.bytes == b"D" {
            return connection.disconnect();
        }
        connection.send(message.bytes)?;
    }
}
