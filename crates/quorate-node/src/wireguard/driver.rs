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
    lane::LaneOut,
    limits::{
        ADDRESS_SCAN, EVENT_BACKLOG, HANDSHAKE_ROUND, PROBE_REPEAT, REKEY_CHECK,
        ROUND_TRIP_INTERVAL,
    },
    observers::{MAX_ANSWERS, Observers},
    probe,
    round_trip::RoundTrip,
    socket::MeshSocket,
    table::{PathTable, Route, Way},
};
use crate::portmap::{Forwarding, Standing, Transport, Wish};
use quorate_path::{
    Agent, AgentConfig, Candidate, Gatherer, Lane, Mapping, Nat, Path, PathEvent, Policy, Reason,
    Scope, candidates, stun,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Instant,
};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

/// What the mesh's handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    Signal { from: u16, data: Vec<u8> },
    Stun(Vec<SocketAddr>),
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
    pub(super) lane_changes: Option<watch::Receiver<u64>>,
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
    /// Its path was a direct one last.
    direct: bool,
    round_trip: RoundTrip,
}

/// What the agents were told of the own addresses last.
#[derive(Default, PartialEq)]
struct Told {
    candidates: Vec<Candidate>,
    complete: bool,
    nat: Nat,
}

/// See the module's text.
pub(super) struct Driver {
    scope: Scope,
    policy: Policy,
    peers: BTreeMap<u16, Peer>,
    socket: Arc<MeshSocket>,
    table: Arc<PathTable>,
    queues: Queues,
    backlog: VecDeque<MeshEvent>,
    lanes: Option<Arc<dyn LaneOut>>,
    gatherer: Gatherer,
    observers: Observers,
    /// Answers to questions of parties, and the way back.
    answers: VecDeque<(Route, Vec<u8>)>,
    hosts: Vec<Candidate>,
    told: Told,
    next_scan: Instant,
    /// Whether the router may be asked for a port, and what came of it.
    map_ports: bool,
    forwarding: Option<Forwarding>,
    standing: Option<watch::Receiver<Standing>>,
}

impl Driver {
    /// Builds the agents; nothing is sent before [`Driver::run`].
    pub(super) fn new(
        config: &MeshConfig,
        socket: Arc<MeshSocket>,
        table: Arc<PathTable>,
        lanes: Option<Arc<dyn LaneOut>>,
        queues: Queues,
    ) -> Result<Self, MeshError> {
        let now = Instant::now();
        let peer = |peer: &MeshPeer| Ok((peer.index, Peer::new(config, peer.index, now)?));
        let mut gatherer = Gatherer::new(seed()?, config.scope, now);
        gatherer.set_servers(&config.reach.stun, now);
        let mut observers = Observers::default();
        observers.set_relays(&config.reach.stun);
        let told = config.reach.policy != Policy::Relay && config.scope != Scope::Local;
        Ok(Self {
            scope: config.scope,
            policy: config.reach.policy,
            peers: config.peers.iter().map(peer).collect::<Result<_, _>>()?,
            socket,
            table,
            queues,
            backlog: VecDeque::new(),
            lanes,
            gatherer,
            observers,
            answers: VecDeque::new(),
            hosts: Vec::new(),
            told: Told::default(),
            next_scan: now,
            map_ports: config.reach.map_ports && told,
            forwarding: None,
            standing: None,
        })
    }

    /// Runs until it is told to stop or the mesh's handle is gone. The packet task ends with it.
    pub(super) async fn run(mut self) {
        let events = self.queues.events.clone();
        self.look_at_lanes();
        self.ask_router();
        loop {
            let now = Instant::now();
            self.handle_time(now);
            self.drain().await;
            let wake = self.wake();
            tokio::select! {
                command = self.queues.commands.recv() => match command {
                    Some(Command::Signal { from, data }) => self.handle_signal(from, &data),
                    Some(Command::Stun(servers)) => {
                        self.observers.set_relays(&servers);
                        self.choose_servers(Instant::now());
                        self.ask_router();
                    }
                    Some(Command::Stop) | None => break,
                },
                () = changed(&mut self.queues.lane_changes) => self.look_at_lanes(),
                // The addresses are told at the top.
                () = changed(&mut self.standing) => {}
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
        if let Some(forwarding) = self.forwarding.take() {
            forwarding.stop().await;
        }
    }

    /// Asks the router to forward our port, if that is wanted, and of use: without a STUN server nobody would confirm
    /// what it says.
    fn ask_router(&mut self) {
        if !self.map_ports || self.forwarding.is_some() || !self.gatherer.asks() {
            return;
        }
        if let Some(port) = NonZeroU16::new(self.socket.port()) {
            let forwarding = Forwarding::start(Wish {
                transport: Transport::Udp,
                port,
            });
            self.standing = Some(forwarding.standing());
            self.forwarding = Some(forwarding);
        }
    }

    /// What the router says that it forwards to our socket.
    fn mapped(&self) -> Option<Mapping> {
        let standing = *self.standing.as_ref()?.borrow();
        match standing {
            Standing::Forwarded(forwarded) => Some(Mapping {
                base: forwarded.inside.into(),
                seen: forwarded.outside.into(),
            }),
            Standing::Asking | Standing::Not(_) => None,
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
        let plain = stun::answered(&stun.bytes).is_some();
        if plain
            && self
                .gatherer
                .handle_answer(&stun.bytes, stun.source, destination, now)
        {
            return;
        }
        if self.observe(stun, now) {
            return;
        }
        let mut agents = self.peers.values_mut().map(|p| &mut p.agent);
        let owner = agents.find(|agent| agent.accepts(&stun.bytes));
        let taken = owner
            .is_some_and(|agent| agent.handle_packet(&stun.bytes, stun.source, destination, now));
        if !taken {
            self.table.counters.stun_refused.add(1);
        }
    }

    /// Answers a plain question, if it comes over a path that a party has proven; whether it was one.
    fn observe(&mut self, stun: &Stun, now: Instant) -> bool {
        let Some(answer) = stun::answer(&stun.bytes, stun.source) else {
            return false;
        };
        let peers = self.table.sources(stun.source);
        let mut peers = peers.iter().flat_map(|all| all.iter());
        if !peers.any(|index| self.observers.may_answer(*index, now)) {
            return false;
        }
        if self.answers.len() < MAX_ANSWERS {
            let local = stun.destination.unwrap_or(unspecified(stun.source));
            let remote = stun.source;
            self.answers.push_back((Route { local, remote }, answer));
        }
        true
    }

    /// Asks relays, and parties that are reached.
    fn choose_servers(&mut self, now: Instant) {
        let seen = self.gatherer.mappings();
        let hosts = &self.hosts;
        let ours = |ip| {
            seen.iter().any(|m| m.seen.ip() == ip) || hosts.iter().any(|c| c.address.ip() == ip)
        };
        let servers = self.observers.servers(ours);
        self.gatherer.set_servers(&servers, now);
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

    fn handle_heard(&mut self, index: u16, probe: Option<probe::Content>) {
        let Some(peer) = self.peers.get_mut(&index) else {
            return;
        };
        let now = Instant::now();
        let first = !matches!(peer.link, Link::Up(_));
        let mut answer = None;
        if let Some(content) = probe {
            if peer.initiator {
                peer.round_trip.handle_answer(content, now);
            } else {
                // The peer initiated, so this is also how we learn that its handshake is complete.
                answer = Some(content);
                peer.round_trip.adopt(content);
            }
            self.table.report_rtt(index, peer.round_trip.shown());
        }
        if first {
            peer.link = Link::Up(now + REKEY_CHECK);
            self.table.set_up(index);
            self.order(Order::KeepAlive(index));
        }
        if let Some(content) = answer {
            self.table.report_handshake(index, now);
            self.order(Order::Probe(index, content));
        }
        if first {
            self.queues.up.send_modify(|up| {
                up.insert(index);
            });
            self.tell(MeshEvent::Up { index });
        }
    }

    /// Tells the agents which lanes there are.
    fn look_at_lanes(&mut self) {
        let Some(lanes) = &self.lanes else { return };
        let now = Instant::now();
        for (index, peer) in &mut self.peers {
            let lane = lanes.state(*index).map(|lane| Lane { via: lane.via });
            peer.agent.set_lane(lane, now);
        }
    }

    /// Tells the agents the own addresses, if there is anything new about them.
    fn tell_addresses(&mut self, now: Instant) {
        let mapped = self.mapped();
        let told = Told {
            candidates: candidates(&self.hosts, &self.gatherer, mapped),
            complete: self.gatherer.is_complete(),
            nat: self.gatherer.nat(),
        };
        if told == self.told {
            return;
        }
        for peer in self.peers.values_mut() {
            peer.agent
                .set_local(told.candidates.clone(), told.complete, told.nat, now);
        }
        if let (Some(forwarding), Some(mapped)) = (&self.forwarding, mapped)
            && self.gatherer.sees_others_than(mapped.seen.ip())
        {
            // The router has another address now, or a STUN server lies.
            forwarding.hurry();
        }
        tracing::debug!(addresses = told.candidates.len(), nat = ?told.nat, "own addresses");
        self.told = told;
    }

    /// Everything that is due.
    fn handle_time(&mut self, now: Instant) {
        if self.next_scan <= now {
            self.next_scan = now + ADDRESS_SCAN;
            let port = self.socket.port();
            let hosts = addresses::host_candidates(self.scope, port, self.socket.has_ipv6());
            if hosts != self.hosts {
                if !self.hosts.is_empty() {
                    self.gatherer.restart(now);
                }
                self.hosts = hosts;
            }
        }
        if self.gatherer.poll_timeout().is_some_and(|at| at <= now) {
            self.gatherer.handle_timeout(now);
        }
        self.tell_addresses(now);
        let indices: Vec<u16> = self.peers.keys().copied().collect();
        for index in indices {
            let Some(peer) = self.peers.get_mut(&index) else {
                continue;
            };
            if peer.agent.poll_timeout().is_some_and(|(at, _)| at <= now) {
                peer.agent.handle_timeout(now);
            }
            let measure = peer.initiator && matches!(peer.link, Link::Up(_));
            if measure && let Some(content) = peer.round_trip.ask(now) {
                self.order(Order::Probe(index, content));
            }
            let Some(peer) = self.peers.get_mut(&index) else {
                continue;
            };
            match peer.link {
                Link::Handshaking(at) if at <= now => {
                    peer.link = Link::Handshaking(now + HANDSHAKE_ROUND);
                    self.order(Order::Handshake(index));
                }
                Link::Probing(at) if at <= now => {
                    peer.link = Link::Probing(now + PROBE_REPEAT);
                    let content = peer.round_trip.begin(now);
                    self.order(Order::Probe(index, content));
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
        while let Some((server, bytes)) = self.gatherer.poll_transmit(Instant::now()) {
            let route = Route {
                local: unspecified(server),
                remote: server,
            };
            // A server of a family that this machine does not have is no server.
            let _ = self.socket.send(route, &bytes, None).await;
        }
        while let Some((route, answer)) = self.answers.pop_front() {
            // What does not leave is asked for again.
            let _ = self.socket.send(route, &answer, None).await;
        }
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
                let sent = match packet.hops {
                    Some(hops) => self.socket.send_near(route, &packet.contents, hops),
                    None => self.socket.send(route, &packet.contents, None).await,
                };
                if sent.is_err() {
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
                if self.table.way(index).is_none() {
                    let local = unspecified(address);
                    let remote = address;
                    self.table
                        .set_way(index, Way::Direct(Route { local, remote }));
                }
            }
            PathEvent::Gone(address) => self.table.remove_source(address, index),
            PathEvent::Changed { path, reason } => self.take_path(index, path, reason),
        }
    }

    fn take_path(&mut self, index: u16, path: Path, reason: Reason) {
        let direct = matches!(path, Path::Direct { .. });
        if let (Some(peer), Some(forwarding)) = (self.peers.get_mut(&index), &self.forwarding) {
            if peer.direct && !direct {
                // A router that restarted has forgotten the port.
                forwarding.hurry();
            }
            peer.direct = direct;
        }
        match &path {
            Path::Direct { local, remote, .. } => {
                let route = Route {
                    local: local.ip(),
                    remote: *remote,
                };
                self.table.set_way(index, Way::Direct(route));
                self.table.add_source(*remote, index);
                self.shake_hands(index);
            }
            Path::Relayed { .. } => {
                self.table.set_way(index, Way::Lane);
                self.shake_hands(index);
            }
            // A path that is down keeps its last route: sending costs nothing and it may work again
            // before the agent knows. Where not every way is allowed a lane is left: the next one may
            // be of the other kind.
            Path::Down { .. } => {
                if self.policy != Policy::Any {
                    self.table.leave_lane(index);
                }
            }
        }
        let remote = match &path {
            Path::Direct { remote, .. } => Some(*remote),
            _ => None,
        };
        if self.observers.set_path(index, remote) {
            self.choose_servers(Instant::now());
        }
        if !direct {
            self.gatherer.refresh(Instant::now());
        }
        if let Some(peer) = self.peers.get_mut(&index) {
            peer.round_trip.path_changed(Instant::now());
        }
        tracing::debug!(index, %path, %reason, "path");
        self.table.report_path(index, path.clone(), reason);
        self.tell(MeshEvent::Path {
            index,
            path,
            reason,
        });
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
        if let Some(at) = self.gatherer.poll_timeout() {
            wake = wake.min(at);
        }
        for peer in self.peers.values_mut() {
            if let Some((at, _)) = peer.agent.poll_timeout() {
                wake = wake.min(at);
            }
            if peer.initiator && matches!(peer.link, Link::Up(_)) {
                wake = wake.min(peer.round_trip.next());
            }
            if let Link::Handshaking(at) | Link::Probing(at) | Link::Up(at) = peer.link {
                wake = wake.min(at);
            }
        }
        wake
    }
}

impl Peer {
    fn new(config: &MeshConfig, index: u16, now: Instant) -> Result<Self, MeshError> {
        let initiator = config.me < index;
        let agent = AgentConfig {
            seed: seed()?,
            controlling: initiator,
            scope: config.scope,
            policy: config.reach.policy,
        };
        Ok(Self {
            agent: Agent::new(agent, now),
            initiator,
            link: Link::Idle,
            direct: false,
            round_trip: RoundTrip::new(now + ROUND_TRIP_INTERVAL),
        })
    }
}

/// Comes back when what is watched changed; never, if nothing is.
async fn changed<T>(watched: &mut Option<watch::Receiver<T>>) {
    if let Some(changes) = watched {
        if changes.changed().await.is_ok() {
            return;
        }
        *watched = None;
    }
    std::future::pending::<()>().await;
}

/// Leaves the own address to the system.
fn unspecified(to: SocketAddr) -> IpAddr {
    match to.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// 256 bits of the operating system.
fn seed() -> Result<Zeroizing<[u8; 32]>, MeshError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|e| MeshError::Random(e.to_string()))?;
    Ok(seed)
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
    fn seeds_are_never_the_same() {
        let seeds: BTreeSet<[u8; 32]> = (0..100).map(|_| *seed().unwrap()).collect();
        assert_eq!(seeds.len(), 100);
        assert!(REKEY_CHECK < Duration::from_mins(2));
    }
}
