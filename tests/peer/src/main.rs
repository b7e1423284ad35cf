// SPDX-License-Identifier: GPL-2.0-only

//! An SMB Direct initiator on rdma-core, for conformance tests of any acceptor.
//!
//! Exit status 0: all was as expected. 1: something was not, and a line says what. 2: wrong usage.

mod bench;
mod connection;
mod content;
mod echo;
mod error;
mod ksmbd;
mod placement;
mod raw;
mod serve;
mod talk;
mod target;
mod verbs;
mod wire;

use clap::{Args, Parser, Subcommand};
use error::{Error, Result};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use target::{Parameters, Target};

#[derive(Parser)]
#[command(name = "usmbd-peer", about = "An SMB Direct peer for tests")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where to, and how long to wait.
#[derive(Args, Clone)]
struct TargetArguments {
    /// Address of the server, numeric; a link-local one with %interface.
    address: String,
    /// Port; by default 445, and 5445 on iWARP.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Address of our own to connect from.
    #[arg(long)]
    source: Option<String>,
    /// Seconds that any single wait may last.
    #[arg(long, env = "USMBD_PEER_TIMEOUT", default_value_t = 60)]
    timeout: u64,
}

/// Our side's parameters; the defaults are cifs.ko's, but for 1 MiB messages.
#[derive(Args, Clone)]
struct ParameterArguments {
    #[arg(long, default_value_t = 255, value_parser = clap::value_parser!(u16).range(1..=255))]
    credits: u16,
    #[arg(long, default_value_t = 1364, value_parser = clap::value_parser!(u32).range(128..=65536))]
    max_send: u32,
    #[arg(long, default_value_t = 1364, value_parser = clap::value_parser!(u32).range(128..=65536))]
    max_receive: u32,
    #[arg(long, default_value_t = 1 << 20)]
    max_fragmented: u32,
}

#[derive(Subcommand)]
enum Command {
    /// Send messages, expect them back.
    Echo {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "1,100,1340,1341,65536,131072,1048576"
        )]
        sizes: Vec<u32>,
        /// Rounds over all sizes.
        #[arg(long, default_value_t = 1)]
        count: u32,
        #[arg(long, default_value_t = 1)]
        connections: u32,
        /// Messages on the way at once.
        #[arg(long, default_value_t = 1)]
        depth: usize,
        #[arg(long, default_value_t = 1)]
        seed: u32,
    },
    /// Have our memory read and written by the server.
    Placement {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        #[arg(long, value_delimiter = ',', default_value = "write,read")]
        operations: Vec<placement::Operation>,
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "1,7,4096,65536,1048576,8388608"
        )]
        sizes: Vec<u32>,
        /// Descriptors per request.
        #[arg(long, value_delimiter = ',', default_value = "1,2,16")]
        descriptors: Vec<u32>,
        /// Ranges of the server's area per request.
        #[arg(long, value_delimiter = ',', default_value = "1,3")]
        ranges: Vec<u32>,
        /// Rounds over all combinations.
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Registrations that the descriptors lie in.
        #[arg(long, default_value_t = 2)]
        regions: u32,
        /// The server uses QUIET for RDMA_WRITE.
        #[arg(long)]
        quiet: bool,
        /// The server writes transfer and answer in two calls.
        #[arg(long)]
        separate: bool,
        /// Check remote invalidation instead.
        #[arg(long)]
        invalidate: bool,
        /// Do this wrong, once, and check how it ends.
        #[arg(long)]
        fault: Option<placement::Fault>,
        #[arg(long, default_value_t = 1)]
        connections: u32,
        #[arg(long, default_value_t = 1)]
        seed: u32,
    },
    /// Play bytes, and tell how the other side takes them; see src/raw.rs for the steps.
    Raw {
        #[command(flatten)]
        target: TargetArguments,
        #[arg(required = true)]
        steps: Vec<String>,
    },
    /// Ask for something that makes the server send, and take it.
    Take {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        /// The request, as text.
        #[arg(long, default_value = "E")]
        request: String,
        /// Messages that have to come, of these sizes, each with content of the next seed.
        #[arg(long, value_delimiter = ',')]
        sizes: Vec<u32>,
        #[arg(long, default_value_t = 1)]
        seed: u32,
        /// Take nothing for so many seconds before.
        #[arg(long, default_value_t = 0)]
        pause: u64,
        /// The server has to disconnect afterwards.
        #[arg(long)]
        end: bool,
    },
    /// Hold a connection for some seconds; it must not end.
    Hold {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        #[arg(long, default_value_t = 1)]
        connections: u32,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// The connection has to end within these seconds instead.
        #[arg(long)]
        end: bool,
    },
    /// Send messages that standard input has, and tell what comes; see src/talk.rs.
    Talk {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        /// Between the steps take nothing that comes, and grant nothing.
        #[arg(long)]
        still: bool,
    },
    /// SMB2 NEGOTIATE with a real server.
    Ksmbd {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
    },
    /// The far side of measurements; see src/bench.rs.
    BenchTarget {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        /// Bytes of memory that the server may read and write.
        #[arg(long, default_value_t = 1 << 20)]
        memory: usize,
        #[arg(long, default_value_t = 1)]
        connections: u32,
    },
    /// Echo to ourselves: accept so many connections, then end.
    ServeEcho {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        #[arg(long, default_value_t = 1)]
        connections: u32,
    },
}

impl TargetArguments {
    fn target(&self) -> Target {
        Target {
            host: self.address.clone(),
            source: self.source.clone(),
            port: self.port,
        }
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
    fn parameters(&self, arguments: &ParameterArguments) -> Parameters {
        Parameters {
            credits: arguments.credits,
            max_send_size: arguments.max_send,
            max_receive_size: arguments.max_receive,
            max_fragmented_size: arguments.max_fragmented,
            timeout: self.timeout(),
        }
    }
}

/// Runs `work` in `count` threads, and gathers what they return; each gets its number.
fn together<T: Send>(count: u32, work: impl Fn(u32) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = &work;
    let results: Vec<Result<T>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<T>>| {
            thread
                .join()
                .unwrap_or_else(|_| Error::different("a thread panicked"))
        };
        threads.into_iter().map(join).collect()
    });
    for (index, result) in results.iter().enumerate() {
        if let Err(error) = result {
            eprintln!("connection {index}: {error}");
        }
    }
    results.into_iter().collect()
}

fn run(command: Command) -> Result<String> {
    let start = Instant::now();
    match command {
        Command::Echo {
            target,
            parameters,
            sizes,
            count,
            connections,
            depth,
            seed,
        } => {
            let parameters = target.parameters(&parameters);
            let bytes = together(connections, |index| {
                let seed = seed.wrapping_add(index.wrapping_mul(1_000_003));
                let echo = echo::Echo {
                    sizes: sizes.clone(),
                    count,
                    depth,
                    seed,
                };
                echo::run(&target.target(), parameters, &echo)
            })?;
            let sum: u64 = bytes.iter().sum();
            let time = start.elapsed().as_secs_f64();
            Ok(format!(
                "echo: {sum} bytes over {connections} connections in {time:.2} s"
            ))
        }
        Command::Placement {
            target,
            parameters,
            operations,
            sizes,
            descriptors,
            ranges,
            count,
            regions,
            quiet,
            separate,
            invalidate,
            fault,
            connections,
            seed,
        } => {
            let parameters = target.parameters(&parameters);
            let placement = placement::Placement {
                operations,
                sizes,
                descriptors,
                ranges,
                count,
                regions,
                quiet,
                separate,
                seed,
            };
            if let Some(fault) = fault {
                let end = placement::fault(&target.target(), parameters, &placement, fault)?;
                return Ok(format!("placement: {fault:?}: {end}"));
            }
            let counts = together(connections, |index| {
                let placement = placement::Placement {
                    seed: seed.wrapping_add(index * 10007),
                    ..placement.clone()
                };
                if invalidate {
                    placement::invalidation(&target.target(), parameters, &placement)
                } else {
                    placement::run(&target.target(), parameters, &placement)
                }
            })?;
            Ok(format!(
                "placement: {} transfers",
                counts.iter().sum::<u32>()
            ))
        }
        Command::Raw { target, steps } => {
            raw::run(&target.target(), target.timeout(), &steps)?;
            Ok(format!("raw: {} steps", steps.len()))
        }
        Command::Take {
            target,
            parameters,
            request,
            sizes,
            seed,
            pause,
            end,
        } => {
            let parameters = target.parameters(&parameters);
            let take = echo::Take {
                request: request.into_bytes(),
                sizes,
                seed,
                pause,
                end,
            };
            let bytes = echo::take_messages(&target.target(), parameters, &take)?;
            Ok(format!("take: {bytes} bytes"))
        }
        Command::Hold {
            target,
            parameters,
            connections,
            seconds,
            end,
        } => {
            let parameters = target.parameters(&parameters);
            let time = Duration::from_secs(seconds);
            let ends = together(connections, |_| {
                echo::hold(&target.target(), parameters, time, end)
            })?;
            Ok(format!("hold: {}", ends.join(", ")))
        }
        Command::Talk {
            target,
            parameters,
            still,
        } => {
            let steps = talk::run(&target.target(), target.parameters(&parameters), still)?;
            Ok(format!("talk: {steps} steps"))
        }
        Command::Ksmbd { target, parameters } => {
            ksmbd::run(&target.target(), target.parameters(&parameters))
        }
        Command::BenchTarget {
            target,
            parameters,
            memory,
            connections,
        } => {
            let parameters = target.parameters(&parameters);
            let counts = together(connections, |_| {
                bench::run(&target.target(), parameters, memory)
            })?;
            let sum: u64 = counts.iter().sum();
            Ok(format!("bench-target: {sum} messages"))
        }
        Command::ServeEcho {
            target,
            parameters,
            connections,
        } => {
            let port = if target.port == 0 { 445 } else { target.port };
            let parameters = target.parameters(&parameters);
            serve::run(&target.address, port, parameters, connections)?;
            Ok(format!("serve-echo: {connections} connections"))
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("usmbd-peer: {error}");
            ExitCode::FAILURE
        }
    }
}
