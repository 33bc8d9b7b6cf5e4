//! The mesh task: drives the path agents, starts handshakes, decides when a pair is up.
//!
//! ```text
//!   lower end:  Idle ── path ──► Handshaking ── done ──► Probing ── heard ──► Up
//!   higher end: Idle ───────────────────────────────────────────── heard ──► Up
//! ```
//! One task, one `select!`: signals, STUN messages, notes of the packet tasks and timers come in
//! here and nowhere else.

use super::{
    MeshConfig, MeshError, MeshEvent, MeshPeer, addresses,
    engine::{Note, Order, Stun},
    limits::{ADDRESS_SCAN, EVENT_BACKLOG, HANDSHAKE_ROUND, PROBE_REPEAT, REKEY_CHECK},
    socket::MeshSocket,
    table::{PathTable, Route},
};
use quorate_path::{Agent, AgentConfig, Credentials, Path, PathEvent, Scope};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};
use tokio::sync::{mpsc, watch};

/// What the mesh's handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    Signal { from: u16, data: Vec<u8> },
    Stop,
}

/// The queues of the mesh task.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<MeshEvent>,
    pub(super) up: watch::Sender<BTreeSet<u16>>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) stun: mpsc::Receiver<Stun>,
    pub(super) notes: mpsc::Receiver<Note>,
}

/// Where a pair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Idle,
    /// A handshake is on its way; it is asked for again then.
    Handshaking(Instant),
    /// The handshake is done; the next probe is due then.
    Probing(Instant),
    /// The next look at the age of the key is due then.
    Up(Instant),
}

struct Peer {
    agent: Agent,
    /// This end starts handshakes: its index is the lower one.
    initiator: bool,
    link: Link,
}

/// See the module's text.
pub(super) struct Driver {
    scope: Scope,
    peers: BTreeMap<u16, Peer>,
    socket: Arc<MeshSocket>,
    table: Arc<PathTable>,
    queues: Queues,
    backlog: VecDeque<MeshEvent>,
    next_scan: Instant,
}

impl Driver {
    /// Builds the agents; nothing is sent before [`Driver::run`].
    pub(super) fn new(
        config: &MeshConfig,
        socket: Arc<MeshSocket>,
        table: Arc<PathTable>,
        queues: Queues,
    ) -> Result<Self, MeshError> {
        let now = Instant::now();
        let peer = |peer: &MeshPeer| {
            let initiator = config.me < peer.index;
            Ok((peer.index, Peer::new(initiator, config.scope, now)?))
        };
        Ok(Self {
            scope: config.scope,
            peers: config.peers.iter().map(peer).collect::<Result<_, _>>()?,
            socket,
            table,
            queues,
            backlog: VecDeque::new(),
            next_scan: now,
        })
    }

    /// Runs until it is told to stop or the mesh's handle is gone. The packet task ends with it.
    pub(super) async fn run(mut self) {
        let events = self.queues.events.clone();
        loop {
            let now = Instant::now();
            self.handle_time(now);
            self.drain().await;
            let wake = self.wake();
            tokio::select! {
                command = self.queues.commands.recv() => match command {
                    Some(Command::Signal { from, data }) => self.handle_signal(from, &data),
                    Some(Command::Stop) | None => break,
                },
                Some(stun) = self.queues.stun.recv() => self.handle_stun(&stun),
                Some(note) = self.queues.notes.recv() => self.handle_note(note),
                Ok(room) = events.reserve(), if !self.backlog.is_empty() => {
                    if let Some(event) = self.backlog.pop_front() {
                        room.send(event);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
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

    fn handle_note(&mut self, note: Note) {
        match note {
            Note::Fatal(what) => self.tell(MeshEvent::Fatal(what)),
            Note::Shaken(index) => {
                if let Some(peer) = self.peers.get_mut(&index)
                    && let Link::Handshaking(_) = peer.link
                {
                    peer.link = Link::Probing(Instant::now());
                }
            }
            Note::Heard { index, probe } => self.handle_heard(index, probe),
        }
    }

    fn handle_heard(&mut self, index: u16, probe: bool) {
        let Some(peer) = self.peers.get_mut(&index) else {
            return;
        };
        let now = Instant::now();
        let first = !matches!(peer.link, Link::Up(_));
        let answers = probe && !peer.initiator;
        if first {
            peer.link = Link::Up(now + REKEY_CHECK);
            self.table.set_up(index);
            self.order(Order::KeepAlive(index));
        }
        if answers {
            // The peer initiated, so this is also how we learn that its handshake is complete.
            self.table.report_handshake(index, now);
            self.order(Order::Probe(index));
        }
        if first {
            self.queues.up.send_modify(|up| {
                up.insert(index);
            });
            self.tell(MeshEvent::Up { index });
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
                Link::Handshaking(at) if at <= now => {
                    peer.link = Link::Handshaking(now + HANDSHAKE_ROUND);
                    self.order(Order::Handshake(index));
                }
                Link::Probing(at) if at <= now => {
                    peer.link = Link::Probing(now + PROBE_REPEAT);
                    self.order(Order::Probe(index));
                }
                Link::Up(at) if at <= now => {
                    peer.link = Link::Up(now + REKEY_CHECK);
                    if peer.initiator {
                        self.order(Order::Handshake(index));
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

    /// Starts the first handshake, if it is ours to start.
    fn shake_hands(&mut self, index: u16) {
        if let Some(peer) = self.peers.get_mut(&index)
            && peer.initiator
            && peer.link == Link::Idle
        {
            peer.link = Link::Handshaking(Instant::now() + HANDSHAKE_ROUND);
            self.order(Order::Handshake(index));
        }
    }

    /// A full queue means that the same orders are in it; all are repeated until they have an
    /// effect, and the keepalive is one of several reasons for packets to flow.
    fn order(&self, order: Order) {
        let _ = self.queues.orders.try_send(order);
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
            if let Link::Handshaking(at) | Link::Probing(at) | Link::Up(at) = peer.link {
                wake = wake.min(at);
            }
        }
        wake
    }
}

impl Peer {
    fn new(initiator: bool, scope: Scope, now: Instant) -> Result<Self, MeshError> {
        let config = AgentConfig {
            credentials: credentials()?,
            controlling: initiator,
            scope,
        };
        Ok(Self {
            agent: Agent::new(config, now),
            initiator,
            link: Link::Idle,
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
