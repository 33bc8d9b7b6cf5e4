//! The mesh task: drives the path agents, starts handshakes, decides when a pair is up.
//!
//! ```text
//!   lower end:  Idle ── path ──► Handshaking ── done ──► Probing ── heard ──► Up
//!   higher end: Idle ───────────────────────────────────────────── heard ──► Up
//! ```
//! One task, one `select!`: signals, STUN messages, notes of the packet tasks and timers come in
//! here and nowhere else.

use super::{
    MeshConfig, MeshError, MeshEvent, MeshPeer, addresses, ago,
    limits::{
        ADDRESS_SCAN, EVENT_BACKLOG, HANDSHAKE_ROUND, KEEPALIVE_SECONDS, PROBE_REPEAT, REKEY_CHECK,
        SEND_BATCH, STUN_QUEUE,
    },
    probe,
    socket::MeshSocket,
    table::{PathTable, Route},
    transport::{self, Decrypted, Factory, FromStack, Heard, MeshDevice, Stun, ToStack},
};
use bytes::BytesMut;
use quorate_path::{Agent, AgentConfig, Credentials, Path, PathEvent, Scope};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Notes and probes between the packet tasks and this one: a few per peer.
const NOTES: usize = 256;

/// What the mesh's handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    Signal { from: u16, data: Vec<u8> },
    Stop,
}

/// The queues a driver is connected to.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) to_stack: mpsc::Sender<Decrypted>,
    pub(super) from_stack: mpsc::Receiver<BytesMut>,
    pub(super) events: mpsc::Sender<MeshEvent>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) up: watch::Sender<BTreeSet<u16>>,
}

/// Where a pair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Idle,
    Handshaking,
    /// The handshake is done; the next probe is due then.
    Probing(Instant),
    /// The next look at the age of the key is due then.
    Up(Instant),
}

struct Peer {
    agent: Agent,
    public: [u8; 32],
    address: Ipv6Addr,
    /// This end starts handshakes: its index is the lower one.
    initiator: bool,
    link: Link,
    /// A handshake task of this peer is running.
    busy: bool,
}

/// See the module's text.
pub(super) struct Driver {
    address: Ipv6Addr,
    scope: Scope,
    peers: BTreeMap<u16, Peer>,
    device: Arc<MeshDevice>,
    socket: Arc<MeshSocket>,
    table: Arc<PathTable>,
    stun: mpsc::Receiver<Stun>,
    heard: mpsc::Receiver<Heard>,
    fatal: mpsc::Receiver<String>,
    probes: mpsc::Sender<BytesMut>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<MeshEvent>,
    backlog: VecDeque<MeshEvent>,
    up: watch::Sender<BTreeSet<u16>>,
    handshakes: JoinSet<(u16, bool)>,
    next_scan: Instant,
}

impl Driver {
    /// Builds device and agents; nothing is sent before [`Driver::run`].
    pub(super) async fn start(
        config: MeshConfig,
        socket: Arc<MeshSocket>,
        table: Arc<PathTable>,
        channels: Channels,
    ) -> Result<Self, MeshError> {
        let (stun_sender, stun) = mpsc::channel(STUN_QUEUE);
        let (fatal_sender, fatal) = mpsc::channel(1);
        let (heard_sender, heard) = mpsc::channel(NOTES);
        let (probes, probe_queue) = mpsc::channel(NOTES);
        let factory = Factory {
            socket: Arc::clone(&socket),
            table: Arc::clone(&table),
            stun: stun_sender,
            fatal: fatal_sender,
        };
        let to_stack = ToStack {
            stack: channels.to_stack,
            heard: heard_sender,
            table: Arc::clone(&table),
        };
        let from_stack = FromStack {
            stack: channels.from_stack,
            probes: probe_queue,
            table: Arc::clone(&table),
            batch: Vec::with_capacity(SEND_BATCH),
            mtu: config.mtu,
        };
        let now = Instant::now();
        let mut peers = BTreeMap::new();
        let mut device_peers = Vec::new();
        for peer in &config.peers {
            let initiator = config.me < peer.index;
            device_peers.push(transport::device_peer(peer, initiator));
            peers.insert(peer.index, Peer::new(peer, initiator, config.scope, now)?);
        }
        let device =
            transport::build(&config.secret, factory, to_stack, from_stack, device_peers).await?;
        Ok(Self {
            address: config.address,
            scope: config.scope,
            peers,
            device: Arc::new(device),
            socket,
            table,
            stun,
            heard,
            fatal,
            probes,
            commands: channels.commands,
            events: channels.events,
            backlog: VecDeque::new(),
            up: channels.up,
            handshakes: JoinSet::new(),
            next_scan: now,
        })
    }

    /// Runs until it is told to stop or the mesh's handle is gone, then ends the device.
    pub(super) async fn run(mut self) {
        let events = self.events.clone();
        loop {
            let now = Instant::now();
            self.handle_time(now);
            self.drain().await;
            let wake = self.wake();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Signal { from, data }) => self.handle_signal(from, &data),
                    Some(Command::Stop) | None => break,
                },
                Some(stun) = self.stun.recv() => self.handle_stun(&stun),
                Some(heard) = self.heard.recv() => self.handle_heard(heard).await,
                Some(done) = self.handshakes.join_next() => {
                    if let Ok((index, complete)) = done {
                        self.handle_handshake(index, complete).await;
                    }
                }
                Some(what) = self.fatal.recv() => self.tell(MeshEvent::Fatal(what)),
                Ok(room) = events.reserve(), if !self.backlog.is_empty() => {
                    if let Some(event) = self.backlog.pop_front() {
                        room.send(event);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        self.end().await;
    }

    async fn end(mut self) {
        self.handshakes.shutdown().await;
        if let Some(device) = Arc::into_inner(self.device) {
            device.stop().await;
        }
    }

    // --- what comes in ---

    fn handle_signal(&mut self, from: u16, data: &[u8]) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if let Err(refusal) = peer.agent.handle_signal(data, Instant::now()) {
            tracing::debug!(from, %refusal, "signal refused");
        }
    }

    fn handle_stun(&mut self, stun: &Stun) {
        let local = stun.destination.unwrap_or(match self.scope {
            Scope::Local => Ipv4Addr::LOCALHOST.into(),
            Scope::Lan => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        });
        let destination = SocketAddr::new(local, self.socket.port());
        let now = Instant::now();
        let mut agents = self.peers.values_mut().map(|p| &mut p.agent);
        let owner = agents.find(|agent| agent.accepts(&stun.bytes));
        let taken = owner
            .is_some_and(|agent| agent.handle_packet(&stun.bytes, stun.source, destination, now));
        if !taken {
            self.table.counters.stun_refused.add(1);
        }
    }

    async fn handle_heard(&mut self, heard: Heard) {
        let (index, probe) = match heard {
            Heard::Probe(index) => (index, true),
            Heard::Data(index) => (index, false),
        };
        let Some(peer) = self.peers.get_mut(&index) else {
            return;
        };
        let first = !matches!(peer.link, Link::Up(_));
        if first {
            peer.link = Link::Up(Instant::now() + REKEY_CHECK);
            let public = peer.public;
            transport::keep_alive(&self.device, &public, KEEPALIVE_SECONDS).await;
            self.note_handshake(index).await;
            self.table.set_up(index);
        }
        if probe && !self.peers[&index].initiator {
            self.probe(index);
        }
        if first {
            self.up.send_modify(|up| {
                up.insert(index);
            });
            self.tell(MeshEvent::Up { index });
        }
    }

    async fn handle_handshake(&mut self, index: u16, complete: bool) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&index) else {
            return;
        };
        peer.busy = false;
        match peer.link {
            Link::Handshaking if complete => peer.link = Link::Probing(now),
            Link::Handshaking => {
                peer.link = Link::Idle;
                if peer.agent.path().is_up() {
                    self.shake_hands(index);
                }
            }
            _ => {}
        }
        if complete {
            self.note_handshake(index).await;
        }
    }

    /// Everything that is due.
    fn handle_time(&mut self, now: Instant) {
        if self.next_scan <= now {
            self.next_scan = now + ADDRESS_SCAN;
            let port = self.socket.port();
            for candidate in addresses::host_candidates(self.scope, port, self.socket.has_ipv6()) {
                for peer in self.peers.values_mut() {
                    peer.agent.add_local(candidate.clone(), now);
                }
            }
        }
        let indices: Vec<u16> = self.peers.keys().copied().collect();
        for index in indices {
            let Some(peer) = self.peers.get_mut(&index) else {
                continue;
            };
            if peer.agent.poll_timeout().is_some_and(|(at, _)| at <= now) {
                peer.agent.handle_timeout(now);
                self.table.report_rtt(index, peer.agent.rtt());
            }
            match peer.link {
                Link::Probing(at) if at <= now => {
                    peer.link = Link::Probing(now + PROBE_REPEAT);
                    self.probe(index);
                }
                Link::Up(at) if at <= now => {
                    peer.link = Link::Up(now + REKEY_CHECK);
                    if peer.initiator {
                        self.shake_hands(index);
                    }
                }
                _ => {}
            }
        }
    }

    // --- what goes out ---

    /// Does what the agents want: events first, so that a source is known before it is answered.
    async fn drain(&mut self) {
        let indices: Vec<u16> = self.peers.keys().copied().collect();
        for index in indices {
            while let Some(event) = self
                .peers
                .get_mut(&index)
                .and_then(|p| p.agent.poll_event())
            {
                self.obey(index, event);
            }
            let now = Instant::now();
            while let Some(data) = self
                .peers
                .get_mut(&index)
                .and_then(|p| p.agent.poll_signal(now))
            {
                self.tell(MeshEvent::Signal { to: index, data });
            }
            while let Some(packet) = self
                .peers
                .get_mut(&index)
                .and_then(|p| p.agent.poll_transmit())
            {
                let route = Route {
                    local: packet.source.ip(),
                    remote: packet.destination,
                };
                if self
                    .socket
                    .send(route, &packet.contents, None)
                    .await
                    .is_err()
                {
                    self.table.counters.send_errors.add(1);
                }
            }
        }
    }

    fn obey(&mut self, index: u16, event: PathEvent) {
        match event {
            PathEvent::Source(address) => {
                self.table.add_source(address, index);
                // The peer may have chosen its path already: its handshake is answered to where
                // its checks come from, until this end has a path too.
                if self.table.route(index).is_none() {
                    let local = match address.ip() {
                        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                    };
                    let remote = address;
                    self.table.set_route(index, Route { local, remote });
                }
            }
            PathEvent::Changed { path, reason } => {
                if let Path::Direct { local, remote, .. } = &path {
                    let route = Route {
                        local: local.ip(),
                        remote: *remote,
                    };
                    // A path that is down keeps its last route: sending costs nothing and it may
                    // work again before the agent knows.
                    self.table.set_route(index, route);
                    self.table.add_source(*remote, index);
                    self.shake_hands(index);
                }
                tracing::debug!(index, %path, %reason, "path");
                self.table.report_path(index, path.clone());
                self.tell(MeshEvent::Path {
                    index,
                    path,
                    reason,
                });
            }
        }
    }

    /// Starts a handshake, if it is ours to start. With a fresh session it ends at once.
    fn shake_hands(&mut self, index: u16) {
        let Some(peer) = self.peers.get_mut(&index) else {
            return;
        };
        if !peer.initiator || peer.busy {
            return;
        }
        peer.busy = true;
        if peer.link == Link::Idle {
            peer.link = Link::Handshaking;
        }
        let device = Arc::clone(&self.device);
        let public = peer.public;
        self.handshakes.spawn(async move {
            let complete = transport::handshake(&device, &public, HANDSHAKE_ROUND).await;
            (index, complete)
        });
    }

    fn probe(&mut self, index: u16) {
        if let Some(peer) = self.peers.get(&index) {
            // A full queue means that probes are on their way.
            let _ = self
                .probes
                .try_send(probe::make(self.address, peer.address));
        }
    }

    async fn note_handshake(&mut self, index: u16) {
        let Some(public) = self.peers.get(&index).map(|p| p.public) else {
            return;
        };
        if let Some(at) = transport::last_handshake(&self.device, &public).await {
            tracing::debug!(index, ago = ?ago(at), "handshake");
            self.table.report_handshake(index, at);
        }
    }

    /// Queues an event for the owner; `run` delivers as fast as the owner takes.
    fn tell(&mut self, event: MeshEvent) {
        if self.backlog.len() >= EVENT_BACKLOG {
            let signal = |e: &MeshEvent| matches!(e, MeshEvent::Signal { .. });
            let oldest = self.backlog.iter().position(signal).unwrap_or(0);
            self.backlog.remove(oldest);
        }
        self.backlog.push_back(event);
    }

    fn wake(&mut self) -> Instant {
        let mut wake = self.next_scan;
        for peer in self.peers.values_mut() {
            if let Some((at, _)) = peer.agent.poll_timeout() {
                wake = wake.min(at);
            }
            if let Link::Probing(at) | Link::Up(at) = peer.link {
                wake = wake.min(at);
            }
        }
        wake
    }
}

impl Peer {
    fn new(
        peer: &MeshPeer,
        initiator: bool,
        scope: Scope,
        now: Instant,
    ) -> Result<Self, MeshError> {
        let config = AgentConfig {
            credentials: credentials()?,
            controlling: initiator,
            scope,
        };
        Ok(Self {
            agent: Agent::new(config, now),
            public: peer.public,
            address: peer.address,
            initiator,
            link: Link::Idle,
            busy: false,
        })
    }
}

/// Fresh STUN credentials: 48 bits of user fragment, 192 of password.
fn credentials() -> Result<Credentials, MeshError> {
    let mut bytes = zeroize::Zeroizing::new([0_u8; 30]);
    getrandom::fill(&mut *bytes).map_err(|e| MeshError::Random(e.to_string()))?;
    let (ufrag, password) = bytes.split_at(6);
    Credentials::new(ice_text(ufrag), ice_text(password))
        .map_err(|e| MeshError::Random(e.to_string()))
}

/// Six bits per character, in the alphabet of RFC 8445.
fn ice_text(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift) as usize & 63]))
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

/// Eight bytes of the operating system.
pub(super) fn random_u64() -> Result<u64, MeshError> {
    getrandom::u64().map_err(|e| MeshError::Random(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn credentials_are_long_and_never_the_same() {
        assert_eq!(ice_text(&[0, 0, 0, 255, 255, 255]), "AAAA////");
        let texts: BTreeSet<String> = (0..100)
            .map(|_| format!("{:?}", credentials().unwrap()))
            .collect();
        assert_eq!(texts.len(), 100);
        assert!(REKEY_CHECK < Duration::from_mins(2));
    }
}
