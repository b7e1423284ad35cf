// SPDX-License-Identifier: GPL-2.0-only

//! A context with connections to `usmbd-peer bench-target`, which this program starts on the client's
//! side.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use usmbd::{
    Area, Batch, BufferDescriptorV1, ConnectionId, Context, Device, Event, EventBuffer, Interest,
    ListenOptions, Parameters, Wait,
};
use zerocopy::FromBytes;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long anything may take before a measurement is given up.
const LIMIT: Duration = Duration::from_secs(600);

/// A connection, and memory of its peer's.
pub struct Remote {
    pub id: ConnectionId,
    pub memory: BufferDescriptorV1,
}

/// Where the peers come from, and what they have.
#[derive(Clone)]
pub struct Peers {
    pub address: String,
    pub connections: u32,
    pub memory: usize,
    pub credits: u16,
    /// Largest PDU, of both sides.
    pub pdu: u32,
}

pub struct Session {
    pub context: Context,
    pub remotes: Vec<Remote>,
    events: EventBuffer,
    peer: Option<Child>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut batch = Batch::new();
        for remote in &self.remotes {
            let _ = batch.disconnect(remote.id, 0);
        }
        let _ = self.context.submit_all(&mut batch);
        if let Some(mut peer) = self.peer.take() {
            let _ = peer.wait();
        }
    }
}

impl Session {
    /// Without connections.
    pub fn alone(node: &Path) -> Result<Self> {
        Ok(Self {
            context: Device::open_path(node)?,
            remotes: Vec::new(),
            events: EventBuffer::new(1 << 20),
            peer: None,
        })
    }

    /// Listens, starts the peers, and takes their connections.
    pub fn with_peers(node: &Path, peers: &Peers) -> Result<Self> {
        let mut this = Self::alone(node)?;
        let parameters = Parameters {
            receive_credit_max: peers.credits.into(),
            send_credit_target: peers.credits.into(),
            max_send_size: peers.pdu,
            max_receive_size: peers.pdu,
            max_fragmented_recv_size: 2 << 20,
            ..Parameters::default()
        };
        let options = ListenOptions {
            backlog: 512,
            ..ListenOptions::default()
        };
        let mut batch = Batch::new();
        batch.set_parameters(&parameters)?;
        batch.listen(&options, 0)?;
        this.context.submit_all(&mut batch)?;
        this.peer = Some(
            Command::new("nsenter")
                .args(["--net=/run/netns/client", "usmbd-peer", "bench-target"])
                .arg(&peers.address)
                .args(["--timeout", &LIMIT.as_secs().to_string()])
                .args(["--memory", &peers.memory.to_string()])
                .args(["--connections", &peers.connections.to_string()])
                .args(["--credits", &peers.credits.to_string()])
                .args(["--max-send", &peers.pdu.to_string()])
                .args(["--max-receive", &peers.pdu.to_string()])
                .args(["--max-fragmented", "2097152"])
                // Ours is for results.
                .stdout(Stdio::null())
                .spawn()?,
        );
        let end = Instant::now() + LIMIT;
        while this.remotes.len() < peers.connections as usize {
            this.take(end)?;
        }
        Ok(this)
    }

    /// One read() of the events by which connections come.
    fn take(&mut self, end: Instant) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        if !self.context.poll(Interest::Readable, Some(left))?.readable {
            return Err("the peers do not come".into());
        }
        let mut batch = Batch::new();
        for event in self.events.read(&self.context, Wait::Yes)? {
            match event {
                Event::Listening { outcome, .. } => {
                    outcome?;
                }
                Event::ConnectionReady(ready) => batch.accept(ready.ticket, 0)?,
                Event::PduReceived(piece) => {
                    let memory = BufferDescriptorV1::read_from_bytes(piece.payload)
                        .map_err(|_| "the peer's first message is no descriptor")?;
                    self.remotes.push(Remote {
                        id: piece.connection,
                        memory,
                    });
                }
                Event::Disconnected { .. } => return Err("a peer has gone".into()),
                _ => {}
            }
        }
        self.context.submit_all(&mut batch)?;
        Ok(())
    }

    /// Maps the area.
    pub fn area(&self) -> Result<Area> {
        let parameters = self.context.memory_parameters()?;
        Ok(Area::map(&self.context, &parameters)?)
    }

    /// One read(), which waits: how many events came that [`Self::drain`] would count.
    pub fn take_completions(&mut self) -> Result<usize> {
        let mut count = 0;
        for event in self.events.read(&self.context, Wait::Yes)? {
            count += counted(&event)?;
        }
        Ok(count)
    }

    /// Reads events until `count` have come that complete a command, or that have a message's last
    /// byte; the others do not count.
    pub fn drain(&mut self, mut count: usize) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while count > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if !self.context.poll(Interest::Readable, Some(left))?.readable {
                return Err("events do not come".into());
            }
            count = count.saturating_sub(self.take_completions()?);
        }
        Ok(())
    }

    /// That no event waits.
    pub fn none_left(&self) -> Result<()> {
        match self.context.read(&mut [0; 4096], Wait::No) {
            Err(usmbd::Error::WouldBlock) => Ok(()),
            _ => Err("more events than were caused".into()),
        }
    }

    /// Waits until nothing is under way any more: all that is left to happen has happened.
    pub fn settle(&self) {
        std::thread::sleep(Duration::from_millis(60));
    }
}

fn counted(event: &Event<'_>) -> Result<usize> {
    match event {
        Event::NopDone { .. } => Ok(1),
        Event::PduSent { outcome, .. } => outcome.map(|()| 1).map_err(|failure| failure.into()),
        Event::RdmaComplete { outcome, .. } => outcome.map(|_| 1).map_err(|failure| failure.into()),
        Event::PduReceived(piece) => Ok(piece.is_last().into()),
        Event::Disconnected { .. } => Err("the connection has ended".into()),
        _ => Ok(0),
    }
}
