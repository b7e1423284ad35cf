// SPDX-License-Identifier: GPL-2.0-only

//! Fuzzes the command stream of `/dev/usmbd`, as root in a guest.
//!
//! Threads share contexts and do to them what processes can: batches of valid, nearly valid and wild
//! records, reads of any size, mmap, fork, dup, passing, close at any time. Peers are somebody
//! else's business (`usmbd-peer misbehave`): they find a listener on the default ports. What each
//! thread does follows from the seed and from what the driver answers. Checked is what can be seen:
//! whole records taken, well-formed batches of events, for each command one event, nothing lost,
//! messages in order.
//!
//! Exit status 0: all was well. 1: a rule was broken, and a line says which.

mod context;
mod random;
mod record;
mod sum;
mod sys;
mod worker;

use clap::Parser;
use context::Context;
use std::io::IoSlice;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};
use usmbd_abi::command::{Body, Listen, SetNegotiateTemplate, MODE_ROUTE};
use usmbd_abi::record::{Header, SocketAddress};
use usmbd_abi::smb2::DIALECT_311;
use worker::{Worker, World};
use zerocopy::IntoBytes;

const ROUTED_PORT: u16 = 446;
const ROUTED_IWARP_PORT: u16 = 5446;

#[derive(Parser)]
#[command(
    name = "usmbd-fuzz-device",
    about = "Fuzzes the commands of /dev/usmbd"
)]
struct Cli {
    /// Decides what is done.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Batches to write at most.
    #[arg(long, default_value_t = u64::MAX)]
    batches: u64,
    /// Seconds to run at most.
    #[arg(long, default_value_t = 60)]
    time: u64,
    #[arg(long, default_value_t = 4)]
    threads: u64,
    /// Seconds that the last events may take.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Keeps the sum of all runs.
    #[arg(long)]
    sum: Option<PathBuf>,
    /// A folder for each thread's last batch.
    #[arg(long)]
    log: Option<PathBuf>,
}

fn command<B: Body>(context: &Context, number: u64, body: &B, tail: &[u8]) -> std::io::Result<()> {
    let length = size_of::<Header>() + size_of::<B>() + tail.len();
    let header = Header {
        length: (length as u32).into(),
        opcode: B::OPCODE.into(),
        flags: 0.into(),
        user_data: number.into(),
    };
    context.expect(&header);
    let parts = [
        IoSlice::new(header.as_bytes()),
        IoSlice::new(body.as_bytes()),
        IoSlice::new(tail),
    ];
    let manner = sys::Manner {
        nowait: false,
        fault: false,
    };
    sys::write(context.fd(), &parts, manner).map(drop)
}

/// The listeners that peers find: one that hands over by ticket, on the default ports, and one that
/// routes, on the ports behind these, with a template for one of the dialects.
fn listen(context: &Context, world: &World) -> std::io::Result<()> {
    command(context, world.number(), &Listen::default(), &[])?;
    let response = record::template(DIALECT_311);
    let template = SetNegotiateTemplate {
        response_length: (response.len() as u32).into(),
        ..SetNegotiateTemplate::default()
    };
    command(context, world.number(), &template, &response)?;
    let routed = Listen {
        address: SocketAddress {
            port: ROUTED_PORT.into(),
            ..SocketAddress::default()
        },
        iwarp_port: ROUTED_IWARP_PORT.into(),
        mode: MODE_ROUTE.into(),
        ..Listen::default()
    };
    command(context, world.number(), &routed, &[])
}

fn run(cli: &Cli) -> std::io::Result<bool> {
    let patience = Duration::from_secs(cli.patience);
    let world = World::new(cli.seed, cli.batches, cli.log.clone(), patience)?;
    let world = Arc::new(world);
    sys::let_signals_interrupt();
    let steady = Context::open(world.number(), true)?;
    listen(&steady, &world)?;
    println!("listening; seed {}", cli.seed);

    let threads: Vec<_> = (0..cli.threads)
        .map(|thread| {
            let worker = Worker::new(world.clone(), thread);
            std::thread::spawn(move || worker.run())
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(cli.time);
    let mut buffer = vec![0; 65536];
    while !world.stop.load(Ordering::Relaxed) && Instant::now() < end {
        sys::poll(steady.fd(), libc::POLLIN, 20)?;
        world.read(&steady, &mut buffer, true, false);
        threads.iter().for_each(sys::interrupt);
    }
    world.stop.store(true, Ordering::Relaxed);
    while threads.iter().any(|thread| !thread.is_finished()) {
        threads.iter().for_each(sys::interrupt);
        std::thread::sleep(Duration::from_millis(20));
    }
    for thread in threads {
        if thread.join().is_err() {
            world.fault("a thread panicked".into());
        }
    }
    let contexts = std::mem::take(&mut *world.contexts.lock().unwrap());
    for context in contexts.iter().map(Arc::as_ref).chain([&steady]) {
        world.settle(context);
    }
    if let Some(path) = &cli.sum {
        world.sum.load(path);
        world.sum.store(path)?;
    }
    print!("{}", world.sum.report());
    let faults = world.faults.lock().unwrap();
    faults.iter().for_each(|what| println!("FAULT: {what}"));
    Ok(faults.is_empty())
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("usmbd-fuzz-device: {error}");
            ExitCode::FAILURE
        }
    }
}
