//! The swarm of a relay: carries circuits between parties that cannot reach each other.
//!
//! ```text
//!   party A ── reserve ──► relay ◄── connect to A ── party B        (circuit relay v2: hop, stop)
//!   party A ◄═════════ circuit: two streams, copied ═════════► party B
//!   anybody ── /quorate/relay/1 ──► what this relay is and carries
//! ```
//! What a circuit carries is a connection of its own, with the handshake of its two ends: the relay
//! sees ciphertext.
//!
//! How libp2p's relay is set up, and why:
//! * its limits per address and time are off: the parties of one building share an address. Totals,
//!   connections per address and circuits per peer are bounded instead;
//! * a circuit has no limit of bytes unless one is asked for, and lasts [`RelayLimits::circuit_seconds`];
//!   its rate is limited by [`throttle`](super::throttle);
//! * a party whose network changed comes back on a new connection while the old one is not known to be dead: with its new
//!   reservation the older connections are closed, or circuits to it would be asked for on them;
//! * reservations last as long as a circuit may, because libp2p counts a renewal as one more and
//!   would refuse it on a relay that is full. One ends at once when its connection does;
//! * where only [`Guests`] may use it, others lose their connection right after its handshake;
//! * it offers its service whatever addresses it knows, and names [`RelayConfig::external`] to
//!   clients, or what it listens on.
//!
//! Limits: [`RelayLimits`], those of `swarm`, `places` and `memory`; a connection that carries nothing is closed
//! after [`IDLE_WAIT`], one that does not answer after [`SILENCE`].
//!
//! Security. Requires: nothing of those who connect. Provides: bounded cost per peer and source (an IPv4
//! address, or an IPv6 network of 64 bits), bounded memory; no content, DID or address in what is logged above
//! debug. Does not provide: protection of availability from somebody with many addresses.

mod guests;
mod memory;
mod places;
mod swarm;

pub use guests::Guests;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    identity::Keypair,
    multiaddr::Protocol,
    relay,
    swarm::{Config as SwarmConfig, ConnectionId, ListenError, SwarmEvent},
};
use quorate_identity::Did;
use quorate_session::relay::{Access, Announcement, Limits, Load};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, sleep_until, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    OverlayError, address::Endpoint, announce, pulse::Sign, relay_probe::root_cause,
    throttle::Meter,
};
use crate::party::clock;
use places::Places;
use swarm::{Node, NodeEvent, behaviours, reachable_at, transport};

/// Incoming streams of a connection in protocol negotiation.
const MAX_NEGOTIATING_STREAMS: usize = 16;
/// A connection without reservation, circuit or other stream is closed after this time.
const IDLE_WAIT: Duration = Duration::from_secs(20);
/// A connection that does not answer for this long is closed.
const SILENCE: Duration = Duration::from_secs(8);
/// How often the rate is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// The first listen address must be known within this time.
const LISTEN_WAIT: Duration = Duration::from_secs(2);
/// After the first one, the others get this long.
const LISTEN_REST: Duration = Duration::from_millis(250);
/// Connections get this long to close at the end.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Orders that wait for the relay's task.
const ORDER_QUEUE: usize = 4;

/// What a relay carries at most. Zero means "no such limit" where [`Limits`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Circuits at a time.
    pub circuits: u32,
    /// Circuits of one peer at a time, as either end.
    pub circuits_per_peer: u32,
    /// Reservations at a time.
    pub reservations: u32,
    /// Connections that one source may open.
    pub connections_per_address: u32,
    /// How long a circuit lasts.
    pub circuit_seconds: u32,
    /// Bytes of a circuit, both directions together; zero: no limit.
    pub circuit_bytes: u64,
    /// Bits per second of one direction of a circuit; zero: no limit.
    pub circuit_bits_per_second: u64,
    /// Bits per second of all circuits together; zero: no limit.
    pub total_bits_per_second: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl RelayLimits {
    /// Those of a relay whose operator says nothing else.
    pub const DEFAULT: Self = Self {
        circuits: 256,
        circuits_per_peer: 32,
        reservations: 128,
        connections_per_address: 64,
        circuit_seconds: 24 * 3600,
        circuit_bytes: 0,
        circuit_bits_per_second: 50_000_000,
        total_bits_per_second: 0,
    };

    pub(super) fn announced(&self) -> Limits {
        Limits {
            circuits: self.circuits,
            reservations: self.reservations,
            circuit_seconds: self.circuit_seconds,
            circuit_bytes: self.circuit_bytes,
            circuit_bits_per_second: self.circuit_bits_per_second,
            total_bits_per_second: self.total_bits_per_second,
        }
    }
}

/// One address to listen on.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Multiaddr text; port 0 lets the system choose.
    pub address: String,
    /// Whether the relay must not start without it.
    pub required: bool,
}

/// An address that others reach the relay at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum External {
    /// This host, at every port that is listened on.
    Host(IpAddr),
    /// Exactly this multiaddr.
    Address(String),
}

/// What a relay is started with.
pub struct RelayConfig {
    /// Ed25519 seed of its identity.
    pub secret: Zeroizing<[u8; 32]>,
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// What it is reachable at; if empty, the addresses listened on.
    pub external: Vec<External>,
    /// What it carries.
    pub limits: RelayLimits,
    /// What its operator calls it.
    pub name: Option<String>,
    /// UDP ports that answer STUN; none or two.
    pub stun: Vec<u16>,
    /// The DIDs that it serves; everybody without a list.
    pub allow: Option<HashSet<Did>>,
    /// Who may use it; if not set, everybody.
    pub guests: Option<Guests>,
}

impl std::fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayConfig")
            .field("secret", &"(secret)")
            .field("listen", &self.listen)
            .field("external", &self.external)
            .field("limits", &self.limits)
            .field("listed", &self.allow.as_ref().map(HashSet::len))
            .finish_non_exhaustive()
    }
}

/// Why a relay refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RelayRefusal {
    /// A connection: too many, or too many from there.
    Connection,
    /// A reservation: all are taken.
    Reservation,
    /// A circuit: all are taken, or those of this peer.
    Circuit,
    /// A circuit to somebody who has no reservation here.
    NoReservation,
    /// A pass: by somebody who is not on the list, or not in order.
    Pass,
    /// Something else, such as a message that makes no sense.
    Other,
}

impl RelayRefusal {
    /// All of them, in the order of [`RelayStatus::refused`].
    pub const ALL: [Self; 6] = [
        Self::Connection,
        Self::Reservation,
        Self::Circuit,
        Self::NoReservation,
        Self::Pass,
        Self::Other,
    ];

    /// Its word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Reservation => "reservation",
            Self::Circuit => "circuit",
            Self::NoReservation => "no_reservation",
            Self::Pass => "pass",
            Self::Other => "other",
        }
    }
}

/// How a relay stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// Connections at present.
    pub connections: u32,
    /// Peers with a reservation at present.
    pub reservations: u32,
    /// Circuits at present.
    pub circuits: u32,
    /// Reservations that were granted, without renewals.
    pub reservations_total: u64,
    /// Circuits that were granted.
    pub circuits_total: u64,
    /// Bytes that were read from peers.
    pub bytes_total: u64,
    /// Bits per second over the last seconds.
    pub bits_per_second: u64,
    /// What was refused, in the order of [`RelayRefusal::ALL`].
    pub refused: [u64; RelayRefusal::ALL.len()],
    /// Whether it takes nothing new any more.
    pub draining: bool,
    /// What it is reachable at, as multiaddr text with `/p2p/…`.
    pub addresses: Vec<String>,
}

#[derive(Clone)]
struct Shared {
    status: Arc<Mutex<RelayStatus>>,
    meter: Arc<Meter>,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut RelayStatus) -> T) -> T {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn status(&self) -> RelayStatus {
        let mut status = self.change(|s| s.clone());
        status.bytes_total = self.meter.bytes();
        status
    }
}

enum Order {
    Drain(Duration, oneshot::Sender<()>),
    Stop,
}

/// A running relay. Dropping it stops it without waiting.
pub struct RelayNode {
    peer: String,
    shared: Shared,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for RelayNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayNode")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl RelayNode {
    /// Listens and serves.
    pub async fn start(config: RelayConfig) -> Result<Self, OverlayError> {
        // Two providers are in the dependency tree; an error only says that one is chosen already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let limits = config.limits;
        let shared = Shared {
            status: Arc::default(),
            meter: Arc::new(Meter::new(
                limits.circuit_bits_per_second,
                limits.total_bits_per_second,
                clock::now(),
            )),
        };
        let (orders, receiver) = mpsc::channel(ORDER_QUEUE);
        let mut driver = Driver::new(config, shared.clone(), receiver)?;
        driver.listening().await?;
        let peer = driver.swarm.local_peer_id().to_string();
        Ok(Self {
            peer,
            shared,
            orders,
            task: tokio::spawn(driver.run()),
        })
    }

    /// The relay's `PeerId`, `12D3Koo…`.
    pub fn peer_id(&self) -> &str {
        &self.peer
    }

    /// How it stands.
    pub fn status(&self) -> RelayStatus {
        self.shared.status()
    }

    /// Reads [`status`](Self::status) from elsewhere.
    pub fn watch(&self) -> impl Fn() -> RelayStatus + Send + Sync + Clone + 'static {
        let shared = self.shared.clone();
        move || shared.status()
    }

    /// Takes nothing new, and waits until the last circuit is closed, at most for `wait`.
    pub async fn drain(&self, wait: Duration) {
        let (done, ended) = oneshot::channel();
        if self.orders.send(Order::Drain(wait, done)).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// Whether its task is gone, which it is by a fault only.
    pub fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Closes all connections and waits for that.
    pub async fn stop(self) {
        let _ = self.orders.send(Order::Stop).await;
        let _ = self.task.await;
    }
}

struct Driver {
    swarm: Swarm<Node>,
    shared: Shared,
    orders: mpsc::Receiver<Order>,
    external: Vec<External>,
    listening: Vec<(ListenerId, Multiaddr)>,
    /// The connections of each peer, the latest last.
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    places: Places,
    /// Peers that hold a reservation.
    reserved: HashSet<PeerId>,
    /// Circuits by their two ends; libp2p may tell the end of one twice.
    circuits: HashMap<(PeerId, PeerId), u32>,
    measured: (Instant, u64),
    measure: Interval,
    draining: Option<(tokio::time::Instant, oneshot::Sender<()>)>,
}

impl Driver {
    fn new(
        config: RelayConfig,
        shared: Shared,
        orders: mpsc::Receiver<Order>,
    ) -> Result<Self, OverlayError> {
        let mut secret = config.secret;
        let keypair = Keypair::ed25519_from_bytes(secret.as_mut_slice()).map_err(setup)?;
        let announcement = Announcement {
            name: config.name,
            stun: config.stun,
            limits: config.limits.announced(),
            load: Load::default(),
            access: if config.allow.is_some() || config.guests.is_some() {
                Access::Listed
            } else {
                Access::Open
            },
            at: clock::wall(),
        };
        let encoded = announcement.encode();
        encoded.map_err(|refusal| OverlayError::Setup(refusal.detail))?;
        let source = source(announcement, shared.clone());
        let list = config.allow.map(Arc::new);
        let places = Places::new(&config.limits, list.is_some());
        let node = behaviours(
            &keypair,
            &config.limits,
            &places,
            list,
            config.guests,
            source,
        );
        let transport = transport(&keypair, &config.limits, Arc::clone(&shared.meter))?;
        let local = keypair.public().to_peer_id();
        let swarm_config = SwarmConfig::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_WAIT)
            .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS);
        let mut swarm = Swarm::new(transport, node, local, swarm_config);
        swarm
            .behaviour_mut()
            .relay
            .set_status(Some(relay::Status::Enable));
        for listen in &config.listen {
            let at = |why: &dyn std::fmt::Display| format!("{}: {why}", listen.address);
            let address: Result<Multiaddr, _> = listen.address.parse();
            let address = address.map_err(|e| OverlayError::Listen(at(&e)))?;
            Endpoint::of(&address).map_err(|e| OverlayError::Listen(at(&e)))?;
            match swarm.listen_on(address) {
                Ok(_) => {}
                Err(e) => {
                    let why = at(&root_cause(&e));
                    if listen.required {
                        return Err(OverlayError::Listen(why));
                    }
                    tracing::warn!("not listening on {why}");
                }
            }
        }
        let mut measure = interval(MEASURE_EVERY);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            swarm,
            shared,
            orders,
            external: config.external,
            listening: Vec::new(),
            connections: HashMap::new(),
            places,
            reserved: HashSet::new(),
            circuits: HashMap::new(),
            measured: (clock::now(), 0),
            measure,
            draining: None,
        })
    }

    /// Waits for the first addresses.
    async fn listening(&mut self) -> Result<(), OverlayError> {
        let mut until = tokio::time::Instant::now() + LISTEN_WAIT;
        while let Ok(event) = timeout_at(until, self.swarm.select_next_some()).await {
            if matches!(event, SwarmEvent::NewListenAddr { .. }) {
                until = until.min(tokio::time::Instant::now() + LISTEN_REST);
            }
            self.handle(event);
        }
        if self.listening.is_empty() {
            return Err(OverlayError::Listen("none of the addresses works".into()));
        }
        Ok(())
    }

    async fn run(mut self) {
        loop {
            let deadline = self.draining.as_ref().map(|(at, _)| *at);
            let late = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle(event),
                order = self.orders.recv() => match order {
                    Some(Order::Drain(wait, done)) => self.drain(wait, done),
                    Some(Order::Stop) | None => break,
                },
                _ = self.measure.tick() => self.measure(),
                () = late => self.drained(),
            }
            if self.draining.is_some() && self.circuits.is_empty() {
                self.drained();
            }
        }
        self.close().await;
    }

    fn drain(&mut self, wait: Duration, done: oneshot::Sender<()>) {
        let relay = &mut self.swarm.behaviour_mut().relay;
        relay.set_status(Some(relay::Status::Disable));
        self.shared.change(|s| s.draining = true);
        self.draining = Some((tokio::time::Instant::now() + wait, done));
    }

    fn drained(&mut self) {
        if let Some((_, done)) = self.draining.take() {
            let _ = done.send(());
        }
    }

    async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let until = tokio::time::Instant::now() + CLOSE_WAIT;
        while self.swarm.network_info().num_peers() > 0
            && timeout_at(until, self.swarm.select_next_some())
                .await
                .is_ok()
        {}
    }

    fn measure(&mut self) {
        let swarm = &self.swarm;
        self.places.keep(|peer| swarm.is_connected(peer));
        let (then, before) = self.measured;
        let (now, bytes) = (clock::now(), self.shared.meter.bytes());
        let ms = now.saturating_duration_since(then).as_millis().max(1);
        let bits = u128::from(bytes - before) * 8 * 1000 / ms;
        self.measured = (now, bytes);
        let bits = u64::try_from(bits).unwrap_or(u64::MAX);
        self.shared.change(|s| s.bits_per_second = bits);
    }

    fn handle(&mut self, event: SwarmEvent<NodeEvent>) {
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                tracing::debug!("listening on {address}");
                self.listening.push((listener_id, address));
                self.name_addresses();
            }
            SwarmEvent::ExpiredListenAddr {
                listener_id,
                address,
            } => {
                let gone = (listener_id, address);
                self.listening.retain(|known| *known != gone);
                self.name_addresses();
            }
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                tracing::warn!("a listener was closed");
                self.listening.retain(|(id, _)| *id != listener_id);
                self.name_addresses();
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } => {
                let all = self.connections.entry(peer_id).or_default();
                all.push(connection_id);
                self.count_connections();
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                num_established,
                endpoint,
                ..
            } => {
                if let Some(all) = self.connections.get_mut(&peer_id) {
                    all.retain(|id| *id != connection_id);
                }
                self.places.closed(peer_id, endpoint.get_remote_address());
                if num_established == 0 {
                    self.places.keep(|other| *other != peer_id);
                    self.connections.remove(&peer_id);
                    self.reserved.remove(&peer_id);
                    self.circuits
                        .retain(|(a, b), _| *a != peer_id && *b != peer_id);
                    self.count();
                }
                self.count_connections();
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                if matches!(error, ListenError::Denied { .. }) {
                    self.refuse(RelayRefusal::Connection);
                }
                tracing::debug!("an incoming connection failed: {error}");
            }
            SwarmEvent::Behaviour(NodeEvent::Relay(event)) => self.relayed(event),
            SwarmEvent::Behaviour(NodeEvent::Pulse(pulse)) => {
                if matches!(pulse.sign, Sign::Silent(lasts) if lasts >= SILENCE) {
                    tracing::debug!("a connection does not answer");
                    self.swarm.close_connection(pulse.connection);
                }
            }
            SwarmEvent::Behaviour(NodeEvent::Pass(done)) => {
                if let Ok(Err(refusal)) = done.result {
                    tracing::debug!("a pass was refused: {}", refusal.code);
                    self.refuse(RelayRefusal::Pass);
                }
            }
            _ => {}
        }
    }

    fn relayed(&mut self, event: relay::Event) {
        use relay::Event as E;
        match event {
            E::ReservationReqAccepted {
                src_peer_id,
                renewed,
            } => {
                self.reserved.insert(src_peer_id);
                if !renewed {
                    self.shared.change(|s| s.reservations_total += 1);
                    self.close_older(&src_peer_id);
                }
            }
            E::ReservationReqDenied { .. } => self.refuse(RelayRefusal::Reservation),
            E::ReservationTimedOut { src_peer_id } => {
                self.reserved.remove(&src_peer_id);
            }
            E::CircuitReqDenied { status, .. } => self.refuse(match status {
                relay::StatusCode::ResourceLimitExceeded => RelayRefusal::Circuit,
                relay::StatusCode::NoReservation => RelayRefusal::NoReservation,
                _ => RelayRefusal::Other,
            }),
            E::CircuitReqAccepted {
                src_peer_id,
                dst_peer_id,
            } => {
                *self.circuits.entry((src_peer_id, dst_peer_id)).or_default() += 1;
                self.shared.change(|s| s.circuits_total += 1);
            }
            E::CircuitClosed {
                src_peer_id,
                dst_peer_id,
                error,
            } => {
                if let Some(error) = error {
                    tracing::debug!("a circuit ended: {error}");
                }
                let pair = (src_peer_id, dst_peer_id);
                if let Some(count) = self.circuits.get_mut(&pair) {
                    *count -= 1;
                    if *count == 0 {
                        self.circuits.remove(&pair);
                    }
                }
            }
            other => tracing::debug!("relay: {other:?}"),
        }
        self.count();
    }

    fn close_older(&mut self, peer: &PeerId) {
        let Some((_, older)) = self.connections.get(peer).and_then(|all| all.split_last()) else {
            return;
        };
        for connection in older {
            self.swarm.close_connection(*connection);
        }
    }

    fn refuse(&self, why: RelayRefusal) {
        tracing::debug!("refused a {}", why.as_str());
        let at = RelayRefusal::ALL.iter().position(|r| *r == why);
        self.shared.change(|s| {
            if let Some(count) = at.and_then(|at| s.refused.get_mut(at)) {
                *count += 1;
            }
        });
    }

    fn count(&self) {
        let reservations = u32::try_from(self.reserved.len()).unwrap_or(u32::MAX);
        let circuits = self.circuits.values().sum();
        self.shared.change(|s| {
            s.reservations = reservations;
            s.circuits = circuits;
        });
    }

    fn count_connections(&self) {
        let info = self.swarm.network_info();
        let connections = info.connection_counters().num_established();
        self.shared.change(|s| s.connections = connections);
    }

    /// Tells libp2p and our status what the relay is reachable at.
    fn name_addresses(&mut self) {
        let wanted = reachable_at(&self.external, self.listening.iter().map(|(_, a)| a));
        let known: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        for gone in known.iter().filter(|a| !wanted.contains(a)) {
            self.swarm.remove_external_address(gone);
        }
        for new in wanted.iter().filter(|a| !known.contains(a)) {
            self.swarm.add_external_address(new.clone());
        }
        let local = *self.swarm.local_peer_id();
        let named = wanted.into_iter().map(|a| a.with(Protocol::P2p(local)));
        let named = named.map(|a| a.to_string()).collect();
        self.shared.change(|s| s.addresses = named);
    }
}

fn source(announcement: Announcement, shared: Shared) -> announce::Source {
    Arc::new(move || {
        let status = shared.status();
        let now = Announcement {
            load: Load {
                circuits: status.circuits,
                reservations: status.reservations,
                bits_per_second: status.bits_per_second,
            },
            at: clock::wall(),
            ..announcement.clone()
        };
        // Checked at the start; what changes since are numbers.
        now.encode().unwrap_or_default()
    })
}

fn setup(error: impl std::fmt::Display) -> OverlayError {
    OverlayError::Setup(error.to_string())
}
