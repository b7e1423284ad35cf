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
use usmbd_abi::command::{Body, Listen};
use usmbd_abi::record::Header;
use worker::{Worker, World};
use zerocopy::IntoBytes;

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

/// The listener that peers find.
fn listen(context: &Context, number: u64) -> std::io::Result<()> {
    let header = Header {
        length: 56.into(),
        opcode: Listen::OPCODE.into(),
        flags: 0.into(),
        user_data: number.into(),
    };
    context.expect(&header);
    let body = Listen::default();
    let parts = [
        IoSlice::new(header.as_bytes()),
        IoSlice::new(body.as_bytes()),
    ];
    sys::write(
        context.fd(),
        &parts,
        sys::Manner {
            nowait: false,
            fault: false,
        },
    )?;
    Ok(())
}

fn run(cli: &Cli) -> std::io::Result<bool> {
    let patience = Duration::from_secs(cli.patience);
    let world = Arc::new(World::new(cli.seed, cli.batches, cli.log.clone(), patience));
    sys::let_signals_interrupt();
    let steady = Context::open(world.number(), true)?;
    listen(&steady, world.number())?;
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
