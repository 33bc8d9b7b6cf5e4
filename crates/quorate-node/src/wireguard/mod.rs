//! The mesh of one session: WireGuard tunnels to every peer, over one UDP socket, with the TCP/IP
//! stack of [`crate::netstack`] inside.
//!
//! ```text
//!   streams ─► netstack ─► gate ─► WireGuard (encrypt) ─► path table ─► UDP socket ─► network
//!   streams ◄─ netstack ◄────────── WireGuard (decrypt) ◄─ known source? ◄─┐
//!                                   path agents ◄────────── STUN ◄─────────┴─ UDP socket
//! ```
//! How a pair comes up, with the lower index on the left:
//! ```text
//!   signals both ways (MeshEvent::Signal / handle_signal), STUN checks both ways
//!   path found ─ handshake initiation ───────────────►
//!              ◄──────────────── handshake response ─
//!              ─ probe (encrypted) ──────────────────►  up: data from the lower end decrypted
//!   up         ◄────────────────── probe (encrypted) ─
//! ```
//! Only the lower index initiates, so two first packets never meet (handshake glare). The higher
//! index sends nothing into the tunnel before it decrypted something from it: the gate drops it.
//! The keepalive is set at both ends once the pair is up. A probe is an IPv6 packet without
//! content (next header 59); it proves that both ends derived the same keys, pre-shared key
//! included, which the responder of a handshake does not know otherwise.
//!
//! **Paths.** WireGuard never sees an address here, so its roaming cannot move a path. The path
//! table maps a peer to what its agent chose: an address, or the peer's lane over the overlay. Only
//! addresses that an agent has authenticated are accepted as sources, the rest is dropped and counted
//! ([`Mesh::dropped`]). A pair begins on the lane and moves to a direct path once that is proven, or
//! back; each way is open for what is still on it, so nothing is lost by moving. Our own
//! addresses are looked at every two seconds, and STUN servers are asked what they see of them. Meanwhile the
//! router may be asked to forward the socket's port; that is told to the peers once a STUN server saw the same address.
//!
//! **Security.** Requires that signals come from the peer they name, and that keys and pre-shared
//! keys were agreed by all parties. Provides confidentiality and authenticity between exactly the
//! keys of the roster, and that a packet from peer *j* carries *j*'s overlay address (allowed
//! addresses are single addresses). Does not hide who talks to whom from the network. A peer that
//! forges the source address of another peer takes nothing from it: an address may be claimed by
//! several, and the keys decide whose a datagram is. It costs one look per claim and datagram.
//!
//! **Lifetime.** Errors of the socket never end the mesh: they are counted, and after many in a
//! row reported as [`MeshEvent::Fatal`]. [`Mesh::stop`] returns when all tasks have ended and the
//! socket is closed.
//!
//! Source: the WireGuard paper (Donenfeld 2017); RFC 8445 for the paths.

mod addresses;
mod driver;
mod engine;
mod lane;
mod observers;
mod probe;
mod round_trip;
mod socket;
mod table;

pub use lane::{LaneOut, Lanes};
pub use table::{Dropped, LinkStats};

use self::{
    driver::{Command, Driver},
    engine::Engine,
    socket::MeshSocket,
    table::PathTable,
};
use crate::netstack::{self, Listener, Stack, StackConfig, TunnelStream};
use quorate_path::{Path, Policy, Reason, Scope};
use std::{
    collections::BTreeSet,
    fmt, io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use zeroize::Zeroizing;

/// Every bound of the mesh, by name.
pub mod limits {
    use std::time::Duration;

    /// Peers of one mesh.
    pub const MAX_PEERS: usize = 64;
    /// Smallest size of a packet in the tunnel: what IPv6 asks for.
    pub const MIN_MTU: u16 = 1280;
    /// Largest size of a packet in the tunnel, so that it fits a packet buffer with its envelope.
    pub const MAX_MTU: u16 = 4000;
    /// Largest datagram looked at.
    pub const MAX_DATAGRAM: usize = 4096;
    /// STUN messages waiting for the mesh task; more are dropped and counted.
    pub const STUN_QUEUE: usize = 256;
    /// Signals and other commands waiting for the mesh task; more are dropped, signals repeat.
    pub const COMMAND_QUEUE: usize = 256;
    /// Events waiting for the owner of the mesh.
    pub const EVENT_QUEUE: usize = 256;
    /// Events held back while that queue is full; then the oldest signal goes, it is repeated.
    pub const EVENT_BACKLOG: usize = 1024;
    /// Orders to the packet task and notes from it: a few per peer.
    pub const NOTE_QUEUE: usize = 256;
    /// Packets encrypted in one go.
    pub const SEND_BATCH: usize = 256;
    /// Buffers kept for received packets.
    pub const PACKET_POOL: usize = 512;
    /// How often WireGuard's timers are looked at.
    pub const TUNNEL_TICK: Duration = Duration::from_millis(250);
    /// Handshake messages per second and address that are answered without a cookie: two for each
    /// of the most peers a mesh may have, who may all share one address (one machine, one NAT).
    pub const HANDSHAKES_PER_SECOND: u64 = 128;
    /// Bytes sent with one system call (the limit of UDP itself, less the headers).
    pub const MAX_SEND_BYTES: usize = 65_000;
    /// Bytes asked of the system for the socket's two buffers.
    pub const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
    /// Errors of the socket in a row after which the mesh is reported broken.
    pub const MAX_SOCKET_ERRORS: u32 = 100;
    /// Pause after an error of the socket, so that a lasting one does not burn the processor.
    pub const SOCKET_ERROR_PAUSE: Duration = Duration::from_millis(10);
    /// Keepalive of a pair that is up, in seconds.
    pub const KEEPALIVE_SECONDS: u16 = 15;
    /// First repetition of an unanswered handshake initiation.
    pub const HANDSHAKE_RETRY: Duration = Duration::from_secs(1);
    /// How often a handshake that is not complete is asked for again; WireGuard repeats it faster,
    /// but gives up after 90 s.
    pub const HANDSHAKE_ROUND: Duration = Duration::from_secs(5);
    /// Own addresses that are offered; the rest of a signal is for what servers see of them.
    pub const MAX_HOST_ADDRESSES: usize = 10;
    /// Largest packet inside a tunnel that leaves this machine: with the envelope (32 bytes) and the
    /// headers of UDP and IPv6 (48 bytes) it fits links of 1,280 bytes, the least that IPv6 allows,
    /// so no router has to split it or to tell us that it did not.
    pub const SAFE_MTU: u16 = 1184;
    /// How often the lower end measures the round trip through the tunnel.
    pub const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(2);
    /// A new measurement replaces the one that is shown if it differs by more than this part...
    pub const ROUND_TRIP_STEP: f64 = 0.15;
    /// ... or after this time.
    pub const ROUND_TRIP_AGE: Duration = Duration::from_secs(20);
    /// Pause between two probes that were not answered.
    pub const PROBE_REPEAT: Duration = Duration::from_millis(200);
    /// How often the age of the session key is looked at; WireGuard decides whether to renew it.
    pub const REKEY_CHECK: Duration = Duration::from_secs(30);
    /// How often the machine's addresses are looked at for changes.
    pub const ADDRESS_SCAN: Duration = Duration::from_secs(2);
    /// How long `stop` waits for the socket to close.
    pub const CLOSE_WAIT: Duration = Duration::from_secs(5);
}

/// One peer of the mesh.
pub struct MeshPeer {
    /// Its index in the roster.
    pub index: u16,
    /// Its WireGuard key.
    pub public: [u8; 32],
    /// The pre-shared key of this pair.
    pub psk: Zeroizing<[u8; 32]>,
    /// Its overlay address.
    pub address: Ipv6Addr,
}

impl fmt::Debug for MeshPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MeshPeer({}, {}, psk (secret))",
            self.index, self.address
        )
    }
}

/// What a mesh is made of.
pub struct MeshConfig {
    /// Own index.
    pub me: u16,
    /// Own WireGuard key.
    pub secret: Zeroizing<[u8; 32]>,
    /// Own overlay address.
    pub address: Ipv6Addr,
    /// Largest packet inside the tunnel.
    pub mtu: u16,
    /// Where the peers may be.
    pub scope: Scope,
    /// Everybody else.
    pub peers: Vec<MeshPeer>,
    /// What helps to reach them.
    pub reach: Reach,
}

/// What helps to reach the peers beyond the own addresses.
#[derive(Debug, Default)]
pub struct Reach {
    /// Which paths are allowed.
    pub policy: Policy,
    /// STUN servers that are asked for our addresses as others see them.
    pub stun: Vec<SocketAddr>,
    /// Lanes to the peers.
    pub lanes: Option<Lanes>,
    /// Whether the router may be asked to forward a port; see [`crate::portmap`].
    pub map_ports: bool,
}

impl fmt::Debug for MeshConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshConfig")
            .field("me", &self.me)
            .field("secret", &"(secret)")
            .field("address", &self.address)
            .field("mtu", &self.mtu)
            .field("scope", &self.scope)
            .field("peers", &self.peers)
            .field("reach", &self.reach)
            .finish()
    }
}

impl MeshConfig {
    fn check(&self) -> Result<(), MeshError> {
        let refuse = |why| Err(MeshError::Config(why));
        if self.peers.is_empty() || self.peers.len() > limits::MAX_PEERS {
            return refuse("the number of peers is out of range");
        }
        if !(limits::MIN_MTU..=limits::MAX_MTU).contains(&self.mtu) {
            return refuse("the MTU is out of range");
        }
        let mut indices = BTreeSet::from([self.me]);
        let mut addresses = BTreeSet::from([self.address]);
        let mut keys = BTreeSet::from([engine::public_key(&self.secret)]);
        for peer in &self.peers {
            if !indices.insert(peer.index) {
                return refuse("two parties have one index");
            }
            if !addresses.insert(peer.address) {
                return refuse("two parties have one address");
            }
            if !keys.insert(peer.public) {
                return refuse("two parties have one key");
            }
        }
        Ok(())
    }
}

/// Why a mesh could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The configuration contradicts itself.
    #[error("the mesh cannot be made: {0}")]
    Config(&'static str),
    /// The UDP socket could not be opened.
    #[error("no UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// No random bytes from the operating system.
    #[error("no random bytes from the operating system: {0}")]
    Random(String),
}

/// What the owner of a mesh has to know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MeshEvent {
    /// Bring this to the peer, over a channel that is proven to be the peer's.
    Signal {
        /// For whom.
        to: u16,
        /// At most [`quorate_path::limits::MAX_SIGNAL_BYTES`].
        data: Vec<u8>,
    },
    /// The path to a peer changed.
    Path {
        /// Which peer.
        index: u16,
        /// The path now.
        path: Path,
        /// Why.
        reason: Reason,
    },
    /// Data authenticated with the keys of this pair has come from the peer for the first time:
    /// the tunnel works, and streams to and from this peer do.
    Up {
        /// Which peer.
        index: u16,
    },
    /// The mesh cannot go on; stop it.
    Fatal(String),
}

/// The mesh of one session.
#[derive(Debug)]
pub struct Mesh {
    stack: Stack,
    table: Arc<PathTable>,
    commands: mpsc::Sender<Command>,
    up: watch::Receiver<BTreeSet<u16>>,
    driver: JoinHandle<()>,
    engine: JoinHandle<()>,
    closed: oneshot::Receiver<()>,
    port: u16,
}

impl Mesh {
    /// Opens the socket, starts WireGuard, the stack and the search for paths. Obey the events
    /// until the mesh is stopped.
    #[expect(
        clippy::unused_async,
        reason = "it needs a runtime, and callers await it"
    )]
    pub async fn start(
        mut config: MeshConfig,
    ) -> Result<(Self, mpsc::Receiver<MeshEvent>), MeshError> {
        config.check()?;
        if config.scope != Scope::Local {
            config.mtu = config.mtu.min(limits::SAFE_MTU);
        }
        let lanes = config.reach.lanes.take();
        let lane_out = lanes.as_ref().map(|lanes| Arc::clone(&lanes.out));
        let (closing, closed) = oneshot::channel();
        let socket = MeshSocket::bind(config.scope, closing).map_err(MeshError::Socket)?;
        let port = socket.port();
        let table = Arc::new(PathTable::new(
            config.peers.iter().map(|p| (p.index, p.address)),
        ));
        let stack_config = StackConfig {
            address: config.address,
            mtu: config.mtu,
            peers: config.peers.iter().map(|p| (p.index, p.address)).collect(),
            seed: driver::random_u64()?,
        };
        let (to_tunnel, outbound) = mpsc::channel(netstack::limits::PACKET_QUEUE);
        let (events, receiver) = mpsc::channel(limits::EVENT_QUEUE);
        let (commands, command_queue) = mpsc::channel(limits::COMMAND_QUEUE);
        let (order_sender, orders) = mpsc::channel(limits::NOTE_QUEUE);
        let (note_sender, notes) = mpsc::channel(limits::NOTE_QUEUE);
        let (stun_sender, stun) = mpsc::channel(limits::STUN_QUEUE);
        let (up_sender, up) = watch::channel(BTreeSet::new());
        let driver_queues = driver::Queues {
            commands: command_queue,
            events,
            up: up_sender,
            orders: order_sender,
            stun,
            notes,
            lane_changes: lane_out.as_ref().map(|out| out.changed()),
        };
        let engine_queues = engine::Queues {
            outbound,
            orders,
            stun: stun_sender,
            notes: note_sender,
            lanes,
        };
        let socket = Arc::new(socket);
        let driver = Driver::new(
            &config,
            Arc::clone(&socket),
            Arc::clone(&table),
            lane_out,
            driver_queues,
        )?;
        let stack = Stack::start(&stack_config, to_tunnel);
        let injector = stack.injector();
        let engine = Engine::new(&config, socket, Arc::clone(&table), injector, engine_queues);
        let mesh = Self {
            stack,
            table,
            commands,
            up,
            driver: tokio::spawn(driver.run()),
            engine: tokio::spawn(engine.run()),
            closed,
            port,
        };
        Ok((mesh, receiver))
    }

    /// Hands over a signal that came from a peer. Never waits; what finds no room is dropped, the
    /// peer repeats it.
    pub fn handle_signal(&self, from: u16, data: Vec<u8>) {
        if data.len() <= quorate_path::limits::MAX_SIGNAL_BYTES {
            let _ = self.commands.try_send(Command::Signal { from, data });
        }
    }

    /// The STUN servers that are asked from now on.
    pub fn stun_servers(&self, servers: Vec<SocketAddr>) {
        let _ = self.commands.try_send(Command::Stun(servers));
    }

    /// Takes connections of peers to `port`, each with the index of the peer.
    pub fn listener(&self, port: u16) -> Listener {
        self.stack.listener(port)
    }

    /// Opens a stream to a peer. Waits for the tunnel first, at most
    /// [`netstack::limits::CONNECT_TIMEOUT`], then as long again for the answer.
    pub async fn connect(&self, peer: u16, port: u16) -> io::Result<TunnelStream> {
        let mut up = self.up.clone();
        let tunnel = up.wait_for(|up| up.contains(&peer));
        match tokio::time::timeout(netstack::limits::CONNECT_TIMEOUT, tunnel).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(io::ErrorKind::NotConnected.into()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        self.stack.connect(peer, port).await
    }

    /// The state of the link to each peer, by index.
    pub fn links(&self) -> Vec<LinkStats> {
        self.table.links(Instant::now())
    }

    /// Datagrams that were dropped, by why.
    pub fn dropped(&self) -> Dropped {
        self.table.dropped()
    }

    /// The UDP port in use.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends everything and waits until all tasks have ended and the socket is closed.
    pub async fn stop(self) {
        self.stack.stop().await;
        let _ = self.commands.send(Command::Stop).await;
        let _ = self.driver.await;
        let _ = self.engine.await;
        if tokio::time::timeout(limits::CLOSE_WAIT, self.closed)
            .await
            .is_err()
        {
            tracing::error!("the socket of the mesh was not closed in time");
        }
    }
}
