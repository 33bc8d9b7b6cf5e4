//! TCP inside the tunnel without root: a TCP/IP stack of our own between WireGuard and the
//! streams that programs and sessions use.
//!
//! ```text
//!  TunnelStream ─ poll_write ─► socket buffer ─► segments ─► outbound queue ─► WireGuard
//!  TunnelStream ◄─ poll_read ── socket buffer ◄─ segments ◄─ Injector ◄─────── WireGuard
//! ```
//! Whoever has something for the stack does it at once, under the stack's lock: WireGuard's task
//! injects a batch of packets, a stream that writes sends its segments, so nothing waits for a
//! task switch. One task per mesh keeps the timers: it sleeps until one is due, a stream asks for
//! it, or the outbound queue has room again; it never polls on a schedule.
//!
//! **Back-pressure.** When the outbound queue is full no segment is made, so data stays in socket
//! buffers and writers wait. When a reader is slow the receive window closes and the peer waits.
//!
//! **Outages.** TCP's own timeout is off for established streams: a frozen process or a lost path
//! may last until the session layer calls it a leave. A peer that never answers a SYN ends after
//! [`limits::CONNECT_TIMEOUT`]. TCP waits twice as long after each loss, so that a stream would stand still for as long again
//! as the outage was. When a peer is heard of again, [`Injector::remind`] says a few times what arrived of its streams, to
//! which its TCP answers at once with what is missing.
//!
//! **Security.** Requires that the packets handed in were decrypted and that their source address
//! belongs to the key they came from (WireGuard with /128 allowed addresses). Provides streams
//! whose remote index is that source address. The TCP checksum of received segments is not
//! verified: each packet passed the AEAD of WireGuard, which is stronger; it is still computed on
//! the way out, for stacks that do verify it. A peer may have [`limits::MAX_STREAMS_PER_PEER`]
//! streams, with those that were dropped and are not over yet; more are reset. No peer can fill
//! [`limits::MAX_SOCKETS`] alone: a stream that is refused is reset at once.
//!
//! Source: RFC 9293 (TCP), RFC 5681 (fast retransmit), RFC 9438 (CUBIC), as implemented by smoltcp.

mod core;
mod device;
mod listener;
mod recovery;
mod segment;
mod stream;

pub use listener::Listener;
pub use stream::TunnelStream;

use self::{
    core::Core,
    device::{Ingress, Outbound},
};
use bytes::BytesMut;
use std::{
    io,
    net::Ipv6Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

/// Every bound of the stack, by name.
pub mod limits {
    use std::time::Duration;

    /// Bytes of the send buffer and of the receive buffer of one stream.
    pub const STREAM_BUFFER: usize = 2 * 1024 * 1024;
    /// Streams one peer may have open towards us, and we towards it; dropped streams count until
    /// TCP is done with them.
    pub const MAX_STREAMS_PER_PEER: usize = 64;
    /// Dropped streams of one peer that TCP may still be busy with; the oldest is reset.
    pub const MAX_ORPHANS_PER_PEER: usize = 32;
    /// Sockets of the whole stack, whatever their state.
    pub const MAX_SOCKETS: usize = 1024;
    /// Sockets that wait for a connection on one port at a time.
    pub const LISTEN_POOL: usize = 4;
    /// Connections on one port that have begun but are not established.
    pub const MAX_HALF_OPEN: usize = 64;
    /// Of these, by one peer, on all ports; more are reset.
    pub const MAX_HALF_OPEN_PER_PEER: usize = 24;
    /// Connections nobody has accepted yet, per port; more are reset.
    pub const ACCEPT_QUEUE: usize = 64;
    /// How long a connection may take to be established.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// How long a refused connection is tried again: the peer's listener may be a moment later.
    pub const REFUSED_GRACE: Duration = Duration::from_secs(2);
    /// Pause between two such tries.
    pub const REFUSED_PAUSE: Duration = Duration::from_millis(50);
    /// How long data of a stream that was shut down and dropped may wait for the peer's acknowledgement.
    pub const LINGER: Duration = Duration::from_secs(30);
    /// Packets on their way from the stack to WireGuard.
    pub const PACKET_QUEUE: usize = 1024;
    /// First port of our own ends of connections.
    pub const FIRST_EPHEMERAL_PORT: u16 = 49_152;
}

/// The addresses of a stack.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Own overlay address.
    pub address: Ipv6Addr,
    /// Largest IP packet.
    pub mtu: u16,
    /// Peers by index.
    pub peers: Vec<(u16, Ipv6Addr)>,
    /// Seed of sequence numbers and ports, from the operating system.
    pub seed: u64,
}

/// What streams, listeners and the stack's task share.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Mutex<Core>,
    /// A stream changed something the task has to act on.
    kick: Notify,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic under the lock would be a bug of ours; the streams still end in an error.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what the sockets have ready and wakes the task if it sleeps for too long now.
    pub(crate) fn flush(&self, core: &mut Core) {
        core.egress();
        if core.task_is_late() {
            self.kick.notify_one();
        }
    }
}

/// One TCP/IP stack and its task.
#[derive(Debug)]
pub struct Stack {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Stack {
    /// Starts the stack. `outbound` takes the packets for peers; its bound is the stack's
    /// back-pressure. Packets of peers come in through [`Stack::injector`].
    pub fn start(config: &StackConfig, outbound: mpsc::Sender<BytesMut>) -> Self {
        let device = Outbound::new(outbound.clone(), config.mtu);
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(config, device)),
            kick: Notify::new(),
        });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(Arc::clone(&shared), outbound, stopped));
        Self { shared, stop, task }
    }

    /// The way in for packets of peers.
    pub fn injector(&self) -> Injector {
        Injector(Arc::clone(&self.shared))
    }

    /// Takes connections to `port` from any peer. A second listener on the same port replaces
    /// the first, whose `accept` then fails.
    pub fn listener(&self, port: u16) -> Listener {
        Listener::open(&self.shared, port)
    }

    /// Opens a stream to `port` of the peer with this index.
    pub async fn connect(&self, peer: u16, port: u16) -> io::Result<TunnelStream> {
        let deadline = tokio::time::Instant::now() + limits::CONNECT_TIMEOUT;
        let grace = tokio::time::Instant::now() + limits::REFUSED_GRACE;
        loop {
            let stream = TunnelStream::connect(&self.shared, peer, port)?;
            match tokio::time::timeout_at(deadline, stream.established()).await {
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(Ok(())) => return Ok(stream),
                Ok(Err(e)) if tokio::time::Instant::now() >= grace => return Err(e),
                Ok(Err(_)) => tokio::time::sleep(limits::REFUSED_PAUSE).await,
            }
        }
    }

    /// Resets every stream, closes every listener and waits until the task has ended.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// The way into a stack for decrypted packets.
#[derive(Clone, Debug)]
pub struct Injector(Arc<Shared>);

impl Injector {
    /// Takes a batch of IP packets in; the answers are in the outbound queue when this returns.
    pub fn inject<F: AsRef<[u8]>>(&self, batch: &mut Vec<F>) {
        let mut core = self.0.lock();
        core.poll(&mut Ingress::new(batch));
        if core.task_is_late() {
            self.0.kick.notify_one();
        }
    }
}

impl Injector {
    /// A peer was out of reach and is heard of again: lets it send what is missing of its streams.
    pub fn remind(&self, peer: u16) {
        self.0.lock().remind(peer);
    }
}

async fn run(
    shared: Arc<Shared>,
    outbound: mpsc::Sender<BytesMut>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut nothing: Vec<BytesMut> = Vec::new();
    loop {
        let (wait, blocked) = {
            let mut core = shared.lock();
            core.poll(&mut Ingress::new(&mut nothing));
            core.plan()
        };
        tokio::select! {
            biased;
            // An error means that the handle is gone: nobody can use the stack any more.
            _ = stopped.wait_for(|stop| *stop) => break,
            () = shared.kick.notified() => {}
            _ = outbound.reserve(), if blocked => {}
            () = sleep(wait), if !blocked => {}
        }
    }
    shared.lock().close();
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
