// SPDX-License-Identifier: GPL-2.0-only

//! An SMB Direct peer on rdma-core, initiator and acceptor, for conformance tests of any other.
//!
//! Exit status 0: all was as expected. 1: something was not, and a line says what. 2: wrong usage.

mod bench;
mod connection;
mod content;
mod crowd;
mod echo;
mod error;
mod ksmbd;
mod misbehave;
mod pester;
mod placement;
mod player;
mod raw;
mod script;
mod serve;
mod talk;
mod target;
mod vectors;
mod verbs;
mod wire;

use clap::{Args, Parser, Subcommand};
use error::{Error, Result};
use player::Side;
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
    /// Play bytes, and tell how the other side takes them; see src/script.rs for the steps.
    Raw {
        #[command(flatten)]
        target: TargetArguments,
        /// Listen on this address (and port, which must be said), and play it to who connects.
        #[arg(long)]
        accept: bool,
        #[arg(required = true)]
        steps: Vec<String>,
    },
    /// Play vectors of vectors/, and tell the verdict of each.
    Vectors {
        #[command(flatten)]
        target: TargetArguments,
        /// Listen on this address (and port, which must be said), and play them to who connects.
        #[arg(long)]
        accept: bool,
        #[arg(long)]
        group: String,
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// By how much this machine is slower than what the vectors' times are meant for.
        #[arg(long, default_value_t = 1)]
        slowness: u32,
    },
    /// List the groups of vectors, and what the upper layer is to be told for each.
    Groups,
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
    /// Connect again and again, do anything with the connections, right or wrong, and leave.
    Misbehave {
        #[command(flatten)]
        target: TargetArguments,
        #[arg(long, default_value_t = 4)]
        connections: u32,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u32,
        /// Begin with SMB2 NEGOTIATE and SESSION_SETUP, for a listener that routes.
        #[arg(long)]
        smb: bool,
    },
    /// Keep all rules, and make as much work as possible.
    Pester {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        #[arg(long, value_enum)]
        how: pester::How,
        #[arg(long, default_value_t = 1)]
        connections: u32,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Have many connections at a time that do nothing.
    Crowd {
        #[command(flatten)]
        target: TargetArguments,
        #[command(flatten)]
        parameters: ParameterArguments,
        #[arg(long, default_value_t = 1000)]
        count: u32,
        /// Negotiate, and then be silent; else be silent at once.
        #[arg(long)]
        negotiate: bool,
        /// Seconds to stay after the last came.
        #[arg(long, default_value_t = 0)]
        seconds: u64,
        /// Threads that connect side by side.
        #[arg(long, default_value_t = 4)]
        threads: u32,
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

fn side(accept: bool) -> Side {
    match accept {
        true => Side::Acceptor,
        false => Side::Initiator,
    }
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
        Command::Raw {
            target,
            accept,
            steps,
        } => {
            raw::run(&target.target(), side(accept), target.timeout(), &steps)?;
            Ok(format!("raw: {} steps", steps.len()))
        }
        Command::Vectors {
            target,
            accept,
            group,
            only,
            slowness,
        } => {
            let play = vectors::Play {
                side: side(accept),
                group,
                only,
                timeout: target.timeout(),
                slowness,
            };
            match vectors::run(&target.target(), &play)? {
                (passed, 0) => Ok(format!("vectors: {passed} passed")),
                (_, failed) => Error::different(format!("{failed} failed")),
            }
        }
        Command::Groups => {
            let groups = vectors::groups()?;
            let lines = groups
                .iter()
                .map(|group| format!("{} {}", group.name, group.conditions));
            Ok(lines.collect::<Vec<_>>().join("\n"))
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
        Command::Misbehave {
            target,
            connections,
            seconds,
            seed,
            smb,
        } => {
            let end = start + Duration::from_secs(seconds);
            let timeout = target.timeout();
            let lives = together(connections, |index| {
                let seed = seed.wrapping_add(index.wrapping_mul(1_000_003));
                let manners = misbehave::Manners { seed, end, smb };
                Ok(misbehave::run(&target.target(), timeout, manners))
            })?;
            let (made, tried) = lives
                .iter()
                .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            Ok(format!(
                "misbehave: {made} of {tried} connections negotiated"
            ))
        }
        Command::Pester {
            target,
            parameters,
            how,
            connections,
            seconds,
        } => {
            let parameters = target.parameters(&parameters);
            let end = start + Duration::from_secs(seconds);
            let times = together(connections, |_| {
                pester::run(&target.target(), parameters, how, end)
            })?;
            let times: u64 = times.iter().sum();
            Ok(format!("pester: {how:?} {times} times"))
        }
        Command::Crowd {
            target,
            parameters,
            count,
            negotiate,
            seconds,
            threads,
        } => {
            let parameters = target.parameters(&parameters);
            let time = Duration::from_secs(seconds);
            let came = together(threads, |_| {
                let share = count / threads;
                Ok(crowd::run(
                    &target.target(),
                    parameters,
                    share,
                    negotiate,
                    time,
                ))
            })?;
            let came: u32 = came.iter().sum();
            Ok(format!("crowd: {came} of {count} came in"))
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
