// SPDX-License-Identifier: MIT OR Apache-2.0

//! An echo server: sends every message back to where it came from.
//!
//! It shows how a server of many connections in one context holds up its end of the flow control: a
//! message that the connection's send queue has no room for waits here until SEND_READY, without
//! keeping other connections waiting; a peer that sends and sends but does not receive is
//! disconnected before it fills our memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use usmbd::{
    Assembler, Batch, Connection, ConnectionId, Context, Device, Event, EventBuffer, Interest,
    ListenOptions, Parameters, Result, SendOptions, Ticket, Wait,
};

const USAGE: &str = "\
usage: echo [options] [address[:port]]

Echoes SMB Direct messages. Listens on all addresses, ports 445 and (iWARP) 5445, unless told.

  --iwarp-port N      port on iWARP
  --count N           end after N messages
  --per-connection    one context and one thread for each connection
  --max-message N     largest message to receive, bytes (default 1048576)
  --quiet             print nothing but errors";

struct Options {
    listen: ListenOptions,
    count: Option<u64>,
    per_connection: bool,
    max_message: u32,
    quiet: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("echo: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    stop::on_signals();
    match serve(&options) {
        Ok(count) => {
            if !options.quiet {
                println!("echo: {count} messages");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(
    mut arguments: impl Iterator<Item = String>,
) -> std::result::Result<Option<Options>, String> {
    let mut options = Options {
        listen: ListenOptions::default(),
        count: None,
        per_connection: false,
        max_message: 1 << 20,
        quiet: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or(format!("{argument} needs a value"))?
                .parse::<u64>()
                .map_err(|error| format!("{argument}: {error}"))
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--quiet" => options.quiet = true,
            "--per-connection" => options.per_connection = true,
            "--count" => options.count = Some(value()?),
            "--max-message" => {
                options.max_message = u32::try_from(value()?).map_err(|error| error.to_string())?;
            }
            "--iwarp-port" => {
                options.listen.iwarp_port =
                    u16::try_from(value()?).map_err(|error| error.to_string())?;
            }
            text if text.starts_with('-') => return Err(format!("{text} is no option")),
            text => {
                let iwarp_port = options.listen.iwarp_port;
                options.listen = if let Ok(address) = text.parse::<SocketAddr>() {
                    ListenOptions::at(address)
                } else {
                    let address: IpAddr = text
                        .parse()
                        .map_err(|_| format!("{text} is neither an address nor address:port"))?;
                    ListenOptions {
                        address: Some(address),
                        ..ListenOptions::default()
                    }
                };
                options.listen.iwarp_port = iwarp_port;
            }
        }
    }
    Ok(Some(options))
}

/// Messages echoed so far, and when enough is enough.
#[derive(Debug)]
struct Tally {
    echoed: AtomicU64,
    most: Option<u64>,
}

impl Tally {
    fn add(&self, more: u64) {
        self.echoed.fetch_add(more, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        let echoed = self.echoed.load(Ordering::Relaxed);
        stop::is_asked() || self.most.is_some_and(|most| echoed >= most)
    }
}

fn serve(options: &Options) -> Result<u64> {
    let context = Device::open()?;
    context.hello(Default::default())?;
    let tally = Arc::new(Tally {
        echoed: AtomicU64::new(0),
        most: options.count,
    });
    let mut server = Server::new(&context, options, tally.clone());
    server.batch.set_parameters(&parameters(options))?;
    server.batch.listen(&options.listen, 0)?;
    server.run()?;
    Ok(tally.echoed.load(Ordering::Relaxed))
}

fn parameters(options: &Options) -> Parameters {
    Parameters {
        max_fragmented_recv_size: options.max_message.max(128 << 10),
        ..Parameters::default()
    }
}

/// Serves what there is in one context.
struct Server<'c> {
    context: &'c Context,
    options: &'c Options,
    tally: Arc<Tally>,
    /// Commands that are to be submitted next; sends stand in `waiting` instead.
    batch: Batch<'static>,
    assembler: Assembler,
    /// Messages to be echoed, of the connections that have some, in the order of arrival.
    waiting: HashMap<ConnectionId, VecDeque<Vec<u8>>>,
    /// Connections whose send queue is full, or for whose commands the context has no room.
    blocked: HashSet<ConnectionId>,
    /// Whether this context ends with its connection.
    is_for_one: bool,
    is_over: bool,
}

/// Bytes of one connection's messages that may wait here.
const MOST_WAITING: usize = 64 << 20;
/// How often to look whether it is time to end.
const TICK: Duration = Duration::from_millis(200);

impl<'c> Server<'c> {
    fn new(context: &'c Context, options: &'c Options, tally: Arc<Tally>) -> Self {
        Self {
            context,
            options,
            tally,
            batch: Batch::new(),
            assembler: Assembler::new(),
            waiting: HashMap::new(),
            blocked: HashSet::new(),
            is_for_one: false,
            is_over: false,
        }
    }

    fn run(&mut self) -> Result<()> {
        let mut buffer = EventBuffer::new((1 << 20) + 4096);
        while !self.is_over && !self.tally.is_over() {
            self.submit()?;
            self.echo()?;
            let events = match buffer.read(self.context, Wait::No) {
                Err(error) if error.would_block() => {
                    // Room in a send queue is told by an event, so events are all to wait for. That
                    // the context has room for commands again is not: look now and then.
                    match self.context.poll(Interest::Readable, Some(TICK)) {
                        Err(error) if error.errno() != libc::EINTR => return Err(error),
                        Ok(readiness) if !readiness.readable => self.blocked.clear(),
                        _ => {}
                    }
                    continue;
                }
                other => other?,
            };
            for event in events {
                self.handle(event)?;
            }
        }
        self.drain(&mut buffer)
    }

    /// Submits commands that are no sends. What is refused concerns a connection that is gone.
    fn submit(&mut self) -> Result<()> {
        while !self.batch.is_empty() {
            match self.context.submit(&mut self.batch, Wait::No) {
                Err(error) if error.would_block() => break,
                Err(error) if is_gone(&error) => {
                    self.batch.drop_first();
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Sends what waits, many messages per call.
    fn echo(&mut self) -> Result<()> {
        let mut gone = Vec::new();
        for (connection, messages) in &mut self.waiting {
            if self.blocked.contains(connection) {
                continue;
            }
            let mut batch = Batch::new();
            let quiet = SendOptions {
                quiet: true,
                ..SendOptions::default()
            };
            for message in messages.iter() {
                batch.send_with(*connection, 0, quiet, &[message])?;
            }
            let mut taken = 0;
            while !batch.is_empty() {
                match self.context.submit(&mut batch, Wait::No) {
                    Ok(count) => taken += count,
                    Err(error) if error.would_block() => {
                        self.blocked.insert(*connection);
                        break;
                    }
                    Err(error) if is_gone(&error) => {
                        gone.push(*connection);
                        break;
                    }
                    Err(error) if error.errno() == libc::EMSGSIZE => {
                        self.batch.disconnect(*connection, 0)?;
                        gone.push(*connection);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            drop(batch);
            messages.drain(..taken);
            self.tally.add(taken as u64);
        }
        for connection in gone {
            self.drop_waiting(connection);
        }
        self.waiting.retain(|_, messages| !messages.is_empty());
        Ok(())
    }

    /// Nothing more is sent to it. What it sends comes until its end does.
    fn drop_waiting(&mut self, connection: ConnectionId) {
        self.waiting.remove(&connection);
        self.blocked.remove(&connection);
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.drop_waiting(connection);
        self.assembler.forget(connection);
    }

    fn handle(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Listening { outcome, .. } => {
                outcome.map_err(|failure| usmbd::Error::Failed {
                    what: "LISTEN",
                    failure,
                })?;
                self.say(format_args!("listening"));
            }
            Event::ConnectionReady(ready) if self.options.per_connection => {
                self.spawn(ready.ticket);
            }
            Event::ConnectionReady(ready) => self.batch.accept(ready.ticket, 0)?,
            Event::Accepted {
                connection,
                outcome,
                ..
            } => match outcome {
                Ok(established) => self.say(format_args!(
                    "connection {} from {:?} over {:?}",
                    connection.number(),
                    established.peer,
                    established.fabric
                )),
                Err(failure) => {
                    self.say(format_args!(
                        "connection {}: {failure}",
                        connection.number()
                    ));
                }
            },
            Event::PduReceived(piece) => {
                if let Some(message) = self.assembler.push(&piece)? {
                    let connection = message.connection;
                    let queue = self.waiting.entry(connection).or_default();
                    queue.push_back(message.payload.into_owned());
                    if queue.iter().map(Vec::len).sum::<usize>() > MOST_WAITING {
                        self.batch.disconnect(connection, 0)?;
                        self.drop_waiting(connection);
                    }
                }
            }
            Event::SendReady { connection } => {
                self.blocked.remove(&connection);
            }
            Event::Disconnected {
                connection, reason, ..
            } => {
                self.forget(connection);
                self.is_over |= self.is_for_one;
                self.say(format_args!(
                    "connection {} ended: {reason}",
                    connection.number()
                ));
            }
            _ => (),
        }
        Ok(())
    }

    /// Serves a connection in a context and a thread of its own.
    fn spawn(&self, ticket: Ticket) {
        let options = Options {
            listen: self.options.listen,
            ..*self.options
        };
        let tally = self.tally.clone();
        std::thread::spawn(move || {
            let result = Device::open().and_then(|context| {
                let mut server = Server::new(&context, &options, tally);
                server.is_for_one = true;
                server.batch.set_parameters(&parameters(&options))?;
                server.submit()?;
                let (connection, established) = Connection::accept(&context, ticket)?;
                server.say(format_args!(
                    "connection {} from {:?} over {:?}",
                    connection.id().number(),
                    established.peer,
                    established.fabric
                ));
                server.run()
            });
            if let Err(error) = result {
                eprintln!("echo: {error}");
            }
        });
    }

    /// At the end, gives what still waits some time to be sent.
    fn drain(&mut self, buffer: &mut EventBuffer) -> Result<()> {
        for _ in 0..10 {
            self.echo()?;
            if self.waiting.is_empty() {
                break;
            }
            let _ = self.context.poll(Interest::Readable, Some(TICK));
            match buffer.read(self.context, Wait::No) {
                Ok(events) => {
                    for event in events {
                        self.handle(event)?;
                    }
                }
                Err(error) if error.would_block() => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        if !self.options.quiet {
            println!("echo: {what}");
        }
    }
}

/// Whether a command was refused because its connection has ended.
fn is_gone(error: &usmbd::Error) -> bool {
    matches!(error.errno(), libc::ENOENT | libc::ENOTCONN)
}

/// SIGTERM and SIGINT end the server between two events.
mod stop {
    use super::{AtomicBool, Ordering};

    static ASKED: AtomicBool = AtomicBool::new(false);

    extern "C" fn ask(_: libc::c_int) {
        ASKED.store(true, Ordering::Relaxed);
    }

    pub fn on_signals() {
        let handler: extern "C" fn(libc::c_int) = ask;
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
            unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        }
    }

    pub fn is_asked() -> bool {
        ASKED.load(Ordering::Relaxed)
    }
}
