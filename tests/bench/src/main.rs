// SPDX-License-Identifier: GPL-2.0-only

//! What usmbd costs, measured in a guest; see docs/performance.md. Prints one JSON object a line.

mod calls;
#[path = "../../../driver/ioctl/directive.rs"]
#[expect(dead_code, reason = "the driver needs all of it")]
mod directive;
mod equality;
mod interface;
mod marks;
mod requests;
mod scale;
mod session;
mod transport;

use clap::{Parser, Subcommand};
use session::Peers;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "usmbd-bench", about = "What usmbd costs")]
struct Cli {
    /// The device node.
    #[arg(long, default_value = usmbd::DEVICE_PATH)]
    node: PathBuf,
    /// Address of the server, to which the peers connect.
    #[arg(long, default_value = "10.9.0.1")]
    address: String,
    /// Fewer rounds.
    #[arg(long)]
    quick: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Instructions of each command, by each way to hand it over.
    Interface,
    /// Work, memory and instructions among many connections.
    Scale,
    /// Reads and writes of a file on the share, to be counted and traced.
    Requests {
        file: PathBuf,
        /// What serves it, for the report.
        #[arg(long)]
        server: String,
        /// Number of the first window.
        #[arg(long, default_value_t = 1)]
        first: u32,
    },
    /// Operations a second on one connection.
    Transport {
        operation: transport::Operation,
        #[arg(long)]
        size: usize,
        #[arg(long, default_value_t = 64)]
        depth: usize,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let peers = Peers {
        address: cli.address,
        connections: 1,
        memory: 1 << 20,
        credits: 255,
        pdu: 1364,
    };
    let result = match cli.command {
        Command::Interface => interface::run(&cli.node, &peers, cli.quick),
        Command::Scale => {
            // As many as the driver has by default: its memory is what is asked.
            let peers = Peers {
                credits: 64,
                memory: 4096,
                ..peers
            };
            scale::run(&cli.node, &peers, cli.quick)
        }
        Command::Requests {
            file,
            server,
            first,
        } => requests::run(&file, &server, first),
        Command::Transport {
            operation,
            size,
            depth,
            seconds,
        } => {
            let time = Duration::from_secs_f64(seconds);
            // A PDU of perftest's size, not cut in two.
            let peers = Peers { pdu: 4096, ..peers };
            transport::run(&cli.node, &peers, operation, size, depth, time)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("usmbd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
