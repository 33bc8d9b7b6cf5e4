//! A small Internet: two parties with their agents and gatherers, a STUN server with two ports, a
//! channel for signals over a relay, and address translators with the mapping and filtering of
//! RFC 4787, as Linux does them.

use quorate_path::{
    Agent, AgentConfig, Candidate, Gatherer, Lane, Mapping, Path, PathEvent, Policy, Reason, Scope,
    candidates, stun,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// How a party is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Open,
    FullCone,
    Addr,
    Port,
    NoInput,
    Sym,
    CgPort,
    CgSym,
    Blocked,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::FullCone,
        Self::Addr,
        Self::Port,
        Self::NoInput,
        Self::Sym,
        Self::CgPort,
        Self::CgSym,
        Self::Blocked,
    ];

    /// The translators from inside to outside.
    fn chain(self) -> Vec<Self> {
        match self {
            Self::Open => vec![],
            Self::CgPort => vec![Self::Port, Self::Port],
            Self::CgSym => vec![Self::Port, Self::Sym],
            other => vec![other],
        }
    }
}

const ENTRY_LIFE: Duration = Duration::from_secs(30);
const PORT: u16 = 40_000;
/// What operating systems give a packet.
const DEFAULT_HOPS: u8 = 64;
/// Routers between the last translator of one party and the first one of the other.
const BACKBONE_HOPS: usize = 6;

/// One translator.
struct Nat {
    kind: Kind,
    outside: Ipv4Addr,
    /// Inner address (and destination, where each has its own) to outer port.
    out: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    /// Outer port and remote address of connections from inside, to the inner address.
    open: BTreeMap<(u16, SocketAddr), SocketAddr>,
    /// Connections from outside that the translator took for its own, until when.
    own: BTreeMap<(u16, SocketAddr), Instant>,
    /// When a connection with a port of its own was last used.
    used: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    next: u16,
    /// A port that it was asked to forward, and to where.
    forwards: Option<(u16, SocketAddr)>,
    /// Connections from outside through that port.
    forwarded: BTreeSet<(SocketAddr, SocketAddr)>,
}

impl Nat {
    fn new(kind: Kind, outside: Ipv4Addr) -> Self {
        Self {
            kind,
            outside,
            out: BTreeMap::new(),
            open: BTreeMap::new(),
            own: BTreeMap::new(),
            used: BTreeMap::new(),
            next: 50_000,
            forwards: None,
            forwarded: BTreeSet::new(),
        }
    }

    fn fresh(&mut self) -> u16 {
        self.next += 7;
        self.next
    }

    fn outward(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> Option<SocketAddr> {
        if self.kind == Kind::Blocked {
            return None;
        }
        if let Some((port, _)) = self.forwards
            && self.forwarded.contains(&(from, to))
        {
            return Some(SocketAddr::from((self.outside, port)));
        }
        let idle = self
            .used
            .get(&(from, to))
            .is_some_and(|at| *at + ENTRY_LIFE < now);
        if idle && self.kind == Kind::NoInput {
            if let Some(port) = self.out.remove(&(from, Some(to))) {
                self.open.remove(&(port, to));
            }
            self.open.remove(&(from.port(), to));
        }
        self.used.insert((from, to), now);
        let taken = |port| self.own.get(&(port, to)).is_some_and(|until| *until > now);
        let key = match self.kind {
            Kind::Sym => (from, Some(to)),
            // Another connection sits on the port: this one gets a port of its own.
            Kind::NoInput if !self.open.contains_key(&(from.port(), to)) && taken(from.port()) => {
                (from, Some(to))
            }
            Kind::NoInput if self.out.contains_key(&(from, Some(to))) => (from, Some(to)),
            _ => (from, None),
        };
        let port = match self.out.get(&key) {
            Some(port) => *port,
            None if key.1.is_some() => self.fresh(),
            None => from.port(),
        };
        self.out.insert(key, port);
        self.open.insert((port, to), from);
        Some(SocketAddr::from((self.outside, port)))
    }

    fn inward(&mut self, from: SocketAddr, port: u16, now: Instant) -> Option<SocketAddr> {
        if let Some(inner) = self.open.get(&(port, from)) {
            return Some(*inner);
        }
        if let Some((_, inner)) = self.forwards.filter(|(forwarded, _)| *forwarded == port) {
            self.forwarded.insert((inner, from));
            return Some(inner);
        }
        let by_ip = || {
            let same =
                |((p, r), _): &(&(u16, SocketAddr), &SocketAddr)| *p == port && r.ip() == from.ip();
            self.open.iter().find(same).map(|(_, inner)| *inner)
        };
        let any = || {
            self.open
                .iter()
                .find(|((p, _), _)| *p == port)
                .map(|(_, i)| *i)
        };
        match self.kind {
            Kind::FullCone => any(),
            Kind::Addr => by_ip(),
            Kind::NoInput => {
                self.own.insert((port, from), now + ENTRY_LIFE);
                None
            }
            _ => None,
        }
    }

    fn reboot(&mut self) {
        self.out.clear();
        self.open.clear();
        self.own.clear();
        self.forwards = None;
        self.forwarded.clear();
        self.next += 1000;
    }
}

struct Party {
    agent: Agent,
    gatherer: Gatherer,
    address: SocketAddr,
    nats: Vec<Nat>,
    paths: Vec<(Path, Reason)>,
    /// When the first check to a translated address of the other end left.
    first_punch: Option<Instant>,
    direct_at: Option<Instant>,
    /// When it last heard a check of the peer, or used the lane.
    heard: Instant,
    /// Both addresses the operating system knows of are told at this time.
    scan: Option<Instant>,
    /// It tells others than its own addresses.
    lies: bool,
    /// What its router says that it forwards.
    mapped: Option<Mapping>,
}

enum Message {
    Packet {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Signal(usize, Vec<u8>),
}

pub struct World {
    pub now: Instant,
    begin: Instant,
    parties: [Party; 2],
    way: Duration,
    to_relay: [Duration; 2],
    /// How much longer the signals of each end take.
    signals_late: [Duration; 2],
    travelling: BTreeMap<(Instant, u64), Message>,
    count: u64,
    lane: Option<String>,
    pub packets: usize,
    pub signals: usize,
    pub checks: usize,
    pub victim: usize,
    /// Percent.
    pub loss: u64,
    /// Whether signals get lost.
    pub mute: bool,
    dice: u64,
    outage: Duration,
}

const STUN: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), 4002),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), 4003),
];
const VICTIM: Ipv4Addr = Ipv4Addr::new(66, 66, 66, 66);

impl World {
    pub fn new(a: Kind, b: Kind) -> Self {
        Self::with_policy(a, b, Policy::Any)
    }

    pub fn with_policy(a: Kind, b: Kind, policy: Policy) -> Self {
        let now = Instant::now();
        let party = |index: u8, kind: Kind| {
            let chain = kind.chain();
            let depth = u8::try_from(chain.len()).unwrap();
            let inside = match depth {
                0 => Ipv4Addr::new(20 + index, 0, 0, 1),
                _ => Ipv4Addr::new(192, 168, index, 2),
            };
            let address = SocketAddr::from((inside, PORT + u16::from(index)));
            let outside = |level: u8| match depth - level {
                1 => Ipv4Addr::new(20 + index, 0, 0, 1),
                _ => Ipv4Addr::new(100, 64, index, 2),
            };
            let nats = chain
                .iter()
                .zip(0..)
                .map(|(k, level)| Nat::new(*k, outside(level)));
            let config = AgentConfig {
                seed: Zeroizing::new([index + 1; 32]),
                controlling: index == 0,
                scope: Scope::Lan,
                policy,
            };
            let mut gatherer = Gatherer::new(Zeroizing::new([index + 9; 32]), Scope::Lan, now);
            gatherer.set_servers(&STUN, now);
            Party {
                agent: Agent::new(config, now),
                gatherer,
                address,
                nats: nats.collect(),
                paths: Vec::new(),
                first_punch: None,
                direct_at: None,
                heard: now,
                scan: Some(now),
                lies: false,
                mapped: None,
            }
        };
        let way = Duration::from_millis(40);
        let mut world = Self {
            now,
            begin: now,
            parties: [party(0, a), party(1, b)],
            way,
            to_relay: [way; 2],
            signals_late: [Duration::ZERO; 2],
            travelling: BTreeMap::new(),
            count: 0,
            lane: None,
            packets: 0,
            signals: 0,
            checks: 0,
            victim: 0,
            loss: 0,
            mute: false,
            dice: 42,
            outage: Duration::ZERO,
        };
        world.set_lane(Some("relay"));
        world
    }

    pub fn set_delays(&mut self, way: Duration, to_relay: [Duration; 2]) {
        self.way = way;
        self.to_relay = to_relay;
    }

    pub fn set_signals_late(&mut self, late: [Duration; 2]) {
        self.signals_late = late;
    }

    pub fn set_lane(&mut self, via: Option<&str>) {
        self.lane = via.map(str::to_owned);
        for party in &mut self.parties {
            let lane = self.lane.clone().map(|via| Lane { via: Some(via) });
            party.agent.set_lane(lane, self.now);
        }
    }

    pub fn path(&self, end: usize) -> Path {
        self.parties[end].agent.path().clone()
    }

    pub fn paths(&self, end: usize) -> &[(Path, Reason)] {
        &self.parties[end].paths
    }

    pub fn reasons(&self) -> [Reason; 2] {
        [
            self.parties[0].agent.reason(),
            self.parties[1].agent.reason(),
        ]
    }

    pub fn direct_after(&self, end: usize) -> Option<Duration> {
        Some(self.parties[end].direct_at? - self.begin)
    }

    /// Between the first checks of the two ends to translated addresses.
    pub fn start_skew(&self) -> Duration {
        let [a, b] = [0, 1].map(|end: usize| self.parties[end].first_punch.unwrap());
        a.max(b) - a.min(b)
    }

    /// Longest time during which a party used a direct path that did not work.
    pub fn longest_outage(&self) -> Duration {
        self.outage
    }

    /// The translators forget.
    pub fn reboot(&mut self, end: usize) {
        for nat in &mut self.parties[end].nats {
            nat.reboot();
        }
    }

    /// The outermost translator gets another public address and forgets everything, which nobody is told.
    pub fn readdress(&mut self, end: usize) {
        self.reboot(end);
        if let Some(nat) = self.parties[end].nats.last_mut() {
            let [a, b, c, d] = nat.outside.octets();
            nat.outside = Ipv4Addr::new(a, b, c, d + 1);
        }
    }

    /// The outermost translator has the public address back that it had before [`readdress`](Self::readdress).
    pub fn address_back(&mut self, end: usize) {
        self.reboot(end);
        if let Some(nat) = self.parties[end].nats.last_mut() {
            let [a, b, c, d] = nat.outside.octets();
            nat.outside = Ipv4Addr::new(a, b, c, d - 1);
        }
    }

    /// Where the party is seen from outside.
    pub fn public(&self, end: usize) -> IpAddr {
        let party = &self.parties[end];
        let outermost = party.nats.last();
        outermost.map_or(party.address.ip(), |nat| nat.outside.into())
    }

    /// The party gets another own address, which it notices within two seconds.
    pub fn roam(&mut self, end: usize) {
        let party = &mut self.parties[end];
        let SocketAddr::V4(old) = party.address else {
            return;
        };
        let [a, b, c, d] = old.ip().octets();
        party.address = SocketAddr::from((Ipv4Addr::new(a, b, c, d + 1), old.port()));
        for nat in &mut party.nats {
            nat.reboot();
        }
        party.scan = Some(self.now + Duration::from_secs(2));
    }

    /// Each translator takes the other's port for its own, as after a start that was not simultaneous.
    pub fn poison(&mut self) {
        let outer = [0, 1].map(|end: usize| {
            SocketAddr::new(
                self.parties[end].nats[0].outside.into(),
                self.parties[end].address.port(),
            )
        });
        for end in 0..2 {
            let until = self.now + ENTRY_LIFE;
            let key = (outer[end].port(), outer[1 - end]);
            self.parties[end].nats[0].own.insert(key, until);
        }
    }

    /// The first party's router forwards `port` to it from now on.
    pub fn map_port(&mut self, port: u16) {
        let party = &mut self.parties[0];
        let nat = &mut party.nats[0];
        nat.forwards = Some((port, party.address));
        party.mapped = Some(Mapping {
            base: party.address,
            seen: SocketAddr::from((nat.outside, port)),
        });
    }

    /// The first party's router says that it forwards a port of a victim.
    pub fn map_lie(&mut self) {
        let party = &mut self.parties[0];
        party.mapped = Some(Mapping {
            base: party.address,
            seen: SocketAddr::from((VICTIM, 7)),
        });
    }

    /// The second party offers addresses of a victim.
    pub fn lie(&mut self) {
        let victims = (1..=16).map(|port| Candidate::host(SocketAddr::from((VICTIM, port))));
        let agent = &mut self.parties[1].agent;
        agent.set_local(victims.collect(), true, quorate_path::Nat::None, self.now);
        self.parties[1].lies = true;
    }

    fn post(&mut self, at: Instant, message: Message) {
        self.count += 1;
        self.travelling.insert((at, self.count), message);
    }

    fn is_lost(&mut self) -> bool {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % 100 < self.loss
    }

    /// A packet leaves a party: through its translators at once, then one way.
    fn send(&mut self, end: usize, to: SocketAddr, bytes: Vec<u8>, hops: u8) {
        self.packets += 1;
        let party = &mut self.parties[end];
        let mut from = party.address;
        for nat in &mut party.nats {
            match nat.outward(from, to, self.now) {
                Some(outer) => from = outer,
                None => return,
            }
        }
        if usize::from(hops) <= self.parties[end].nats.len() + BACKBONE_HOPS {
            return;
        }
        if to.ip() == IpAddr::V4(VICTIM) {
            self.victim += 1;
        }
        if !self.is_lost() {
            self.post(self.now + self.way, Message::Packet { from, to, bytes });
        }
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if STUN.contains(&to) {
            let answer = stun::answer(bytes, from).unwrap();
            let (at, bytes) = (self.now + self.way, answer);
            return self.post(
                at,
                Message::Packet {
                    from: to,
                    to: from,
                    bytes,
                },
            );
        }
        for party in &mut self.parties {
            let outside = party
                .nats
                .last()
                .map_or(party.address.ip(), |n| n.outside.into());
            if to.ip() != outside {
                continue;
            }
            let mut inner = to;
            for nat in party.nats.iter_mut().rev() {
                match nat.inward(from, inner.port(), self.now) {
                    Some(next) => inner = next,
                    None => return,
                }
            }
            if inner != party.address {
                return;
            }
            if party.agent.accepts(bytes) {
                if party.agent.handle_packet(bytes, from, inner, self.now) {
                    party.heard = self.now;
                }
            } else {
                party.gatherer.handle_answer(bytes, from, inner, self.now);
            }
        }
    }

    fn tell_addresses(&mut self, end: usize) {
        let party = &mut self.parties[end];
        if party.scan.is_some_and(|at| at <= self.now) {
            if self.now > self.begin {
                party.gatherer.restart(self.now);
            }
            party.scan = None;
        }
        if party.scan.is_none() && !party.lies {
            let hosts = [Candidate::host(party.address)];
            let all = candidates(&hosts, &party.gatherer, party.mapped);
            let (complete, nat) = (party.gatherer.is_complete(), party.gatherer.nat());
            party.agent.set_local(all, complete, nat, self.now);
        }
    }

    fn drain(&mut self) {
        for end in 0..2 {
            self.tell_addresses(end);
            while let Some(event) = self.parties[end].agent.poll_event() {
                if let PathEvent::Changed { path, reason } = event {
                    if matches!(path, Path::Direct { .. }) {
                        self.parties[end].direct_at = Some(self.now);
                        self.parties[end].heard = self.now;
                    }
                    self.parties[end].paths.push((path, reason));
                }
            }
            while let Some((server, bytes)) = self.parties[end].gatherer.poll_transmit(self.now) {
                self.send(end, server, bytes, DEFAULT_HOPS);
            }
            while let Some(packet) = self.parties[end].agent.poll_transmit() {
                self.checks += 1;
                let other = &self.parties[1 - end];
                let outside = other.nats.last().map(|n| IpAddr::from(n.outside));
                if packet.hops.is_none() && outside == Some(packet.destination.ip()) {
                    self.parties[end].first_punch.get_or_insert(self.now);
                }
                // An address that the system does not have any more cannot be sent from.
                if packet.source == self.parties[end].address {
                    let hops = packet.hops.unwrap_or(DEFAULT_HOPS);
                    self.send(end, packet.destination, packet.contents, hops);
                }
            }
            while let Some(bytes) = self.parties[end].agent.poll_signal(self.now) {
                self.signals += 1;
                if self.mute {
                    continue;
                }
                let late = self.signals_late[end];
                let at = self.now + self.to_relay[0] + self.to_relay[1] + late;
                self.post(at, Message::Signal(1 - end, bytes));
            }
            let party = &self.parties[end];
            if matches!(party.agent.path(), Path::Direct { .. }) {
                self.outage = self.outage.max(self.now - party.heard.max(self.begin));
            }
        }
    }

    /// Lets `time` pass, each thing at its own moment.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.drain();
            let mut next = until;
            for party in &mut self.parties {
                next = party
                    .agent
                    .poll_timeout()
                    .map_or(next, |(at, _)| next.min(at));
                next = party
                    .gatherer
                    .poll_timeout()
                    .map_or(next, |at| next.min(at));
                next = party.scan.map_or(next, |at| next.min(at));
            }
            next = self
                .travelling
                .keys()
                .next()
                .map_or(next, |(at, _)| next.min(*at));
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.travelling.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                match entry.remove() {
                    Message::Packet { from, to, bytes } => self.arrive(from, to, &bytes),
                    Message::Signal(end, bytes) => {
                        self.parties[end]
                            .agent
                            .handle_signal(&bytes, self.now)
                            .unwrap();
                    }
                }
            }
            for party in &mut self.parties {
                party.agent.handle_timeout(self.now);
                party.gatherer.handle_timeout(self.now);
            }
        }
    }
}
