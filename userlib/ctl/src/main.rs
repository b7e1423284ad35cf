// SPDX-License-Identifier: MIT OR Apache-2.0

//! usmbdctl: see and end the SMB Direct connections of this host.
//!
//! It speaks to `/dev/usmbd` as everybody does: opens it, writes a command, reads the answer. So it
//! sees the network namespace that it runs in, and may do what its own credentials allow.
//!
//! Exit status 0: done. 1: not possible, and a line on standard error says why. 2: wrong usage.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod failure;
mod report;

use clap::{Parser, Subcommand};
use failure::Failure;
use serde_json::{json, Map, Value};
use std::io::{self, Write};
use std::process::ExitCode;
use usmbd::abi::event::Counters;
use usmbd::{Batch, ConnectionId, ConnectionInfo, Context, Device, Features};

/// See and end the SMB Direct connections of this network namespace.
#[derive(Parser)]
#[command(name = "usmbdctl", version, arg_required_else_help = true)]
struct Arguments {
    /// Say it in JSON, one value on one line; numbers are in bytes and PDUs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One line for each connection.
    List,
    /// Counters: of one connection, or the sums over all that there are.
    Statistics {
        /// Number of a connection, from `list`.
        connection: Option<u64>,
    },
    /// Disconnect connections; what they have not sent is lost.
    Drop {
        /// Numbers of connections, from `list`.
        #[arg(required = true)]
        connections: Vec<u64>,
    },
    /// The driver's version and limits.
    Limits,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("usmbdctl: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let context = Device::open()?;
    match &arguments.command {
        Command::List => {
            let connections = list(&context)?;
            if arguments.json {
                print(&Value::from_iter(
                    connections.iter().map(report::connection),
                ))
            } else {
                print(&report::Table::of_connections(&connections))
            }
        }
        Command::Statistics { connection } => {
            let counters = statistics(list(&context)?, *connection)?;
            print_members(arguments, report::counters(&counters))
        }
        Command::Drop { connections } => drop_connections(&context, connections),
        Command::Limits => print_members(arguments, limits(&context)?),
    }
}

fn list(context: &Context) -> Result<Vec<ConnectionInfo>, Failure> {
    context
        .connections()
        .map_err(|error| Failure::of_operator("list connections", error))
}

/// Counters of the connection with this number, or the sums.
fn statistics(all: Vec<ConnectionInfo>, number: Option<u64>) -> Result<Counters, Failure> {
    let mut chosen = all
        .iter()
        .filter(|info| number.is_none_or(|number| info.connection.number() == number));
    match number {
        None => Ok(chosen.fold(Counters::default(), |sum, info| {
            report::sum(&sum, &info.counters)
        })),
        Some(number) => chosen
            .next()
            .map(|info| info.counters)
            .ok_or(Failure::NoConnection(number)),
    }
}

/// Drops all that it can, and says which it could not.
fn drop_connections(context: &Context, numbers: &[u64]) -> Result<(), Failure> {
    let mut last = Ok(());
    for number in numbers {
        let mut batch = Batch::new();
        let dropped = batch
            .drop_connection(ConnectionId::new(*number))
            .and_then(|()| context.submit_all(&mut batch));
        if let Err(error) = dropped {
            // What went before is told now, the last one by the caller.
            if let Err(failure) = std::mem::replace(&mut last, Ok(())) {
                let failure: Failure = failure;
                eprintln!("usmbdctl: {failure}");
            }
            last = Err(Failure::of_drop(*number, error));
        }
    }
    last
}

/// What the driver says of itself, and what the ABI fixes.
fn limits(context: &Context) -> Result<Map<String, Value>, Failure> {
    use usmbd::abi::command;
    let (version, _) = context.hello(Features::default())?;
    let memory = context.memory_parameters()?;
    let members = [
        (
            "version",
            json!(format!("{}.{}", version >> 16, version & 0xffff)),
        ),
        ("area_buffers", json!(memory.buffer_count)),
        ("area_buffer_bytes", json!(memory.buffer_size)),
        ("message_bytes", json!(command::MAX_PAYLOAD_LENGTH)),
        ("ranges", json!(command::MAX_RANGES)),
        ("descriptors", json!(command::MAX_DESCRIPTORS)),
        (
            "registration_bytes",
            json!(command::MAX_REGISTRATION_LENGTH),
        ),
        ("backlog", json!(command::MAX_BACKLOG)),
        ("templates", json!(command::MAX_TEMPLATES)),
        ("template_bytes", json!(command::MAX_TEMPLATE_LENGTH)),
    ];
    Ok(members
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect())
}

fn print_members(arguments: &Arguments, members: Map<String, Value>) -> Result<(), Failure> {
    if arguments.json {
        print(&Value::Object(members))
    } else {
        print(&report::Table::of_members(&members))
    }
}

/// Writes to standard output. A reader that has seen enough is no failure.
fn print(what: &dyn std::fmt::Display) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{what}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::Output),
    }
}
