//! Which relays to connect with, where to have reservations, and which one to use next.
//!
//! ```text
//!   waiting ──due──► dialing ──► connected ──► asked ──► held (renewed by libp2p)
//!      ▲ backoff        │failed      ▲ backoff   │refused   │lost
//!      └────────────────┴── closed ──┴───────────┴──────────┘
//! ```
//! A relay is *own* (named by the user or the session; reservations are made there) or *foreign* (met in
//! somebody's address; used for circuits to that peer only). Of the own ones the first
//! [`MAX_RESERVATIONS`] that work are held, in the order they were named; when one fails, the next one takes its
//! place, and the failed one is tried again with growing waits.
//!
//! No I/O and no clock in here; `now` comes last.
//!
//! Limits: [`MAX_OWN_RELAYS`], [`MAX_FOREIGN_RELAYS`], [`MAX_RELAY_ADDRESSES`] of each.
//!
//! Security: a relay is never trusted. What it says about itself is bounded and shown as its word; the
//! addresses it says we have are not used. STUN goes to own relays only.

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, core::transport::ListenerId, multiaddr::Protocol, swarm::ConnectionId,
};
use quorate_session::relay::{Announcement, Limits};

use super::{
    address::Endpoint,
    dialing::{BACKOFF_FIRST, BACKOFF_MAX, Jitter},
};

/// Relays named by the user or the session.
pub const MAX_OWN_RELAYS: usize = 8;
/// Relays met in addresses of peers.
pub const MAX_FOREIGN_RELAYS: usize = 8;
/// Addresses of one relay.
const MAX_RELAY_ADDRESSES: usize = 6;
/// Relays with a reservation of ours.
pub const MAX_RESERVATIONS: usize = 3;
/// A relay on which a lane fell silent comes last in the choice for this long.
const SUSPECT_FOR: Duration = Duration::from_secs(30);
/// Round-trip time that counts for a relay before it is measured.
const UNKNOWN_RTT: Duration = Duration::from_millis(500);

/// How it stands with a relay, as the overlay's caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRelay {
    /// Its `PeerId`.
    pub peer: String,
    /// What it calls itself; its own word.
    pub name: Option<String>,
    /// The first of its addresses, with `/p2p/…`.
    pub address: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Whether peers can reach us through it.
    pub reserved: bool,
    /// The latest round-trip time.
    pub rtt: Option<Duration>,
    /// Where it answers STUN, as far as it said. Of a relay that only somebody's address names, nothing.
    pub stun: Vec<SocketAddr>,
    /// What it carries at most, as far as it said.
    pub limits: Option<Limits>,
}

/// What the overlay should do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Connect with the relay at any of these.
    Dial {
        relay: PeerId,
        addresses: Vec<Multiaddr>,
    },
    /// Listen on this circuit address.
    Reserve { relay: PeerId, address: Multiaddr },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected, and not to be before its time.
    Waiting,
    Dialing(ConnectionId),
    /// Connected; a reservation is not to be asked for before its time.
    Connected,
    Asked(ListenerId),
    Held(ListenerId),
}

struct Relay {
    peer: PeerId,
    endpoints: Vec<Endpoint>,
    own: bool,
    connections: Vec<ConnectionId>,
    state: State,
    due: Instant,
    failures: u32,
    rtt: Option<Duration>,
    said: Option<Announcement>,
    suspect: Option<Instant>,
    /// It was shown who we are, or did not ask, since the connection began.
    settled: bool,
}

impl Relay {
    fn back_off(&mut self, jitter: &mut Jitter, now: Instant) {
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.due = now + jitter.around(doubled.min(BACKOFF_MAX));
    }

    fn status(&self) -> KnownRelay {
        let first = self.endpoints.first();
        KnownRelay {
            peer: self.peer.to_string(),
            name: self.said.as_ref().and_then(|said| said.name.clone()),
            address: first.map_or_else(String::new, |e| {
                e.address.clone().with(Protocol::P2p(self.peer)).to_string()
            }),
            connected: !self.connections.is_empty(),
            reserved: matches!(self.state, State::Held(_)),
            rtt: self.rtt,
            stun: self.stun(),
            limits: self.said.as_ref().map(|said| said.limits),
        }
    }

    /// Its STUN ports at each of its hosts. They are asked again and again: so they are only those that the user or
    /// the session named, and no party can make others send to an address of its choice.
    fn stun(&self) -> Vec<SocketAddr> {
        if !self.own {
            return Vec::new();
        }
        let mut hosts = Vec::new();
        for endpoint in &self.endpoints {
            if !hosts.contains(&endpoint.ip) {
                hosts.push(endpoint.ip);
            }
        }
        let ports = self.said.iter().flat_map(|said| &said.stun);
        ports
            .flat_map(|port| hosts.iter().map(|host| SocketAddr::new(*host, *port)))
            .collect()
    }
}

/// The `PeerId` of the relay at a direct address.
pub(super) fn check(endpoint: &Endpoint) -> Result<PeerId, &'static str> {
    if endpoint.relay.is_some() {
        return Err("a relay cannot be reached through another one");
    }
    let peer = endpoint.peer;
    peer.ok_or("the address of a relay must end in /p2p/PEER")
}

/// The table of relays.
pub(super) struct Relays {
    all: Vec<Relay>,
    /// Those that may learn the user's DID; nothing is asked of them before that is settled.
    trusted: HashSet<PeerId>,
    /// Whether others should be able to reach us through relays.
    reserve: bool,
    jitter: Jitter,
}

impl Relays {
    pub fn new(reserve: bool, seed: u64) -> Self {
        Self {
            all: Vec::new(),
            trusted: HashSet::new(),
            reserve,
            jitter: Jitter::new(seed),
        }
    }

    /// Adds an own relay, or an address of it; it must say the `PeerId` to expect.
    pub fn add_own(&mut self, endpoint: Endpoint, now: Instant) -> Result<PeerId, &'static str> {
        let peer = check(&endpoint)?;
        let own = self.all.iter().filter(|r| r.own && r.peer != peer).count();
        if own >= MAX_OWN_RELAYS {
            return Err("there are too many relays");
        }
        self.add(peer, endpoint, true, now);
        Ok(peer)
    }

    /// Notes the relay of a circuit that leads to somebody. The second one is a relay that
    /// had to make room.
    pub fn add_foreign(
        &mut self,
        circuit: &Endpoint,
        now: Instant,
    ) -> Result<(PeerId, Option<PeerId>), &'static str> {
        let (Some(peer), Some(endpoint)) = (circuit.relay, circuit.of_relay()) else {
            return Err("not a circuit");
        };
        if self.is_known(&peer) {
            self.add(peer, endpoint, false, now);
            return Ok((peer, None));
        }
        let foreign = self.all.iter().filter(|r| !r.own).count();
        let mut gone = None;
        if foreign >= MAX_FOREIGN_RELAYS {
            let idle = |r: &Relay| !r.own && r.connections.is_empty();
            let at = self.all.iter().position(idle);
            let at = at.ok_or("too many relays of others are in use")?;
            gone = Some(self.all.remove(at).peer);
        }
        self.add(peer, endpoint, false, now);
        Ok((peer, gone))
    }

    /// Forgets a relay that only somebody's address named.
    pub fn remove_foreign(&mut self, peer: &PeerId) {
        self.all.retain(|r| r.own || r.peer != *peer);
    }

    fn add(&mut self, peer: PeerId, mut endpoint: Endpoint, own: bool, now: Instant) {
        endpoint.peer = None;
        if let Some(known) = self.look_mut(&peer) {
            // Whoever names a foreign relay has no say in where an own one is.
            if own && !known.own {
                known.endpoints.clear();
            }
            let allowed = own || !known.own;
            if allowed
                && !known.endpoints.contains(&endpoint)
                && known.endpoints.len() < MAX_RELAY_ADDRESSES
            {
                known.endpoints.push(endpoint);
            }
            known.own |= own;
            return;
        }
        self.all.push(Relay {
            peer,
            endpoints: vec![endpoint],
            own,
            connections: Vec::new(),
            state: State::Waiting,
            due: now,
            failures: 0,
            rtt: None,
            said: None,
            suspect: None,
            settled: false,
        });
    }

    /// These may learn the user's DID.
    pub fn trust(&mut self, relays: impl IntoIterator<Item = PeerId>) {
        self.trusted.extend(relays);
    }

    pub fn is_trusted(&self, peer: &PeerId) -> bool {
        self.trusted.contains(peer)
    }

    /// Whether this relay, with which there is a connection, has to be shown who we are first.
    pub fn owes_pass(&self, peer: &PeerId) -> bool {
        self.look(peer).is_some_and(|r| !self.is_settled(r))
    }

    /// That was done, or is not needed.
    pub fn settled(&mut self, peer: &PeerId) {
        if let Some(relay) = self.look_mut(peer) {
            relay.settled = true;
        }
    }

    fn is_settled(&self, relay: &Relay) -> bool {
        relay.settled || !self.trusted.contains(&relay.peer)
    }

    pub fn is_known(&self, peer: &PeerId) -> bool {
        self.look(peer).is_some()
    }

    pub fn is_own(&self, peer: &PeerId) -> bool {
        self.look(peer).is_some_and(|r| r.own)
    }

    /// How a relay is named to people: by its host, and by its own word, which could be anybody's name, in quotes before it.
    pub fn name(&self, peer: &PeerId) -> String {
        let Some(relay) = self.look(peer) else {
            return peer.to_string();
        };
        // The same one at both ends of a pair that knows the same addresses, in whatever order.
        let host = relay.endpoints.iter().map(|e| e.ip).min();
        let host = host.map_or_else(|| peer.to_string(), |ip| ip.to_string());
        match relay.said.as_ref().and_then(|said| said.name.as_deref()) {
            // A quote in it must not end the quotes around it.
            Some(name) => format!("\"{}\" ({host})", name.replace('"', "'")),
            None => host,
        }
    }

    pub fn status(&self, peer: &PeerId) -> Option<KnownRelay> {
        self.look(peer).map(Relay::status)
    }

    /// The circuits that lead to `me`, over all relays with a reservation.
    pub fn circuits_to(&self, me: PeerId) -> Vec<Endpoint> {
        let held = self.all.iter();
        let held = held.filter(|r| matches!(r.state, State::Held(_)));
        held.flat_map(|r| r.endpoints.iter().map(|e| e.through(r.peer, Some(me))))
            .collect()
    }

    /// Connected relays to try for a circuit to `peer`, the best first.
    pub fn ways_to(&self, peer: PeerId, now: Instant) -> Vec<Endpoint> {
        let mut connected: Vec<&Relay> = self
            .all
            .iter()
            .filter(|r| !r.connections.is_empty() && r.peer != peer && self.is_settled(r))
            .collect();
        connected.sort_by_key(|r| {
            let suspect = r.suspect.is_some_and(|until| until > now);
            (suspect, !r.own, r.rtt.unwrap_or(UNKNOWN_RTT))
        });
        let ways = connected.into_iter();
        ways.filter_map(|r| Some(r.endpoints.first()?.through(r.peer, Some(peer))))
            .collect()
    }

    /// What is due.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if !self.reserve {
            return None;
        }
        let connected = self.all.iter().find(|r| {
            r.own
                && r.state == State::Connected
                && r.due <= now
                && !r.connections.is_empty()
                && self.is_settled(r)
        });
        if let Some(relay) = connected {
            let endpoint = relay.endpoints.first()?;
            let address = endpoint.through(relay.peer, None).address;
            return Some(Action::Reserve {
                relay: relay.peer,
                address,
            });
        }
        if self.busy(now) >= MAX_RESERVATIONS {
            return None;
        }
        let waiting = |r: &&mut Relay| r.own && r.state == State::Waiting && r.due <= now;
        let relay = self.all.iter_mut().find(waiting)?;
        Some(Action::Dial {
            relay: relay.peer,
            addresses: relay.endpoints.iter().map(|e| e.address.clone()).collect(),
        })
    }

    /// When [`poll`](Self::poll) has something next.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if !self.reserve {
            return None;
        }
        let full = self.busy(now) >= MAX_RESERVATIONS;
        let own = self.all.iter().filter(|r| r.own);
        own.filter(|r| match r.state {
            State::Waiting => !full,
            State::Connected => self.is_settled(r),
            _ => false,
        })
        .map(|r| r.due)
        .min()
    }

    /// Relays that hold a place among those with reservations.
    fn busy(&self, now: Instant) -> usize {
        let own = self.all.iter().filter(|r| r.own);
        own.filter(|r| match r.state {
            State::Waiting => false,
            State::Connected => r.due <= now,
            State::Dialing(_) | State::Asked(_) | State::Held(_) => true,
        })
        .count()
    }

    pub fn dialing(&mut self, peer: &PeerId, connection: ConnectionId) {
        if let Some(relay) = self.look_mut(peer) {
            relay.state = State::Dialing(connection);
        }
    }

    /// A dial failed; the relay that was meant.
    pub fn failed(&mut self, connection: ConnectionId, now: Instant) -> Option<PeerId> {
        let Self { all, jitter, .. } = self;
        let relay = all
            .iter_mut()
            .find(|r| r.state == State::Dialing(connection))?;
        relay.state = if relay.connections.is_empty() {
            State::Waiting
        } else {
            State::Connected
        };
        relay.back_off(jitter, now);
        Some(relay.peer)
    }

    /// A direct connection with `peer` exists; whether that is a relay.
    pub fn connected(&mut self, peer: &PeerId, connection: ConnectionId, now: Instant) -> bool {
        let Some(relay) = self.look_mut(peer) else {
            return false;
        };
        relay.connections.push(connection);
        if matches!(relay.state, State::Waiting | State::Dialing(_)) {
            relay.state = State::Connected;
            relay.due = now;
        }
        true
    }

    /// A connection is gone; whether it was the last one with a relay.
    pub fn closed(&mut self, peer: &PeerId, connection: ConnectionId, now: Instant) -> bool {
        let Self { all, jitter, .. } = self;
        let Some(relay) = all.iter_mut().find(|r| r.peer == *peer) else {
            return false;
        };
        let before = relay.connections.len();
        relay.connections.retain(|c| *c != connection);
        if !relay.connections.is_empty() || before == 0 {
            return false;
        }
        if matches!(relay.state, State::Held(_)) {
            relay.failures = 0;
        }
        relay.state = State::Waiting;
        relay.rtt = None;
        relay.settled = false;
        relay.back_off(jitter, now);
        true
    }

    pub fn asked(&mut self, peer: &PeerId, listener: ListenerId) {
        if let Some(relay) = self.look_mut(peer) {
            relay.state = State::Asked(listener);
        }
    }

    /// The relay took our reservation; whether it is a new one.
    pub fn reserved(&mut self, peer: &PeerId) -> bool {
        let Some(relay) = self.look_mut(peer) else {
            return false;
        };
        let State::Asked(listener) = relay.state else {
            return false;
        };
        relay.state = State::Held(listener);
        relay.failures = 0;
        true
    }

    /// A reservation was refused or has ended: the relay, and whether it was held.
    pub fn lost(&mut self, listener: ListenerId, now: Instant) -> Option<(PeerId, bool)> {
        let Self { all, jitter, .. } = self;
        let relay = all
            .iter_mut()
            .find(|r| matches!(r.state, State::Asked(l) | State::Held(l) if l == listener))?;
        let held = matches!(relay.state, State::Held(_));
        relay.state = if relay.connections.is_empty() {
            State::Waiting
        } else {
            State::Connected
        };
        relay.back_off(jitter, now);
        Some((relay.peer, held))
    }

    /// A round trip was measured; whether it is the first one of this connection.
    pub fn measured(&mut self, peer: &PeerId, rtt: Duration) -> bool {
        let relay = self.look_mut(peer);
        relay.is_some_and(|relay| relay.rtt.replace(rtt).is_none())
    }

    /// What a relay said about itself; whether that is something new.
    pub fn said(&mut self, peer: &PeerId, said: Announcement) -> bool {
        let Some(relay) = self.look_mut(peer) else {
            return false;
        };
        let news = relay.said.as_ref().is_none_or(|old| {
            (&old.name, &old.stun, &old.limits) != (&said.name, &said.stun, &said.limits)
        });
        relay.said = Some(said);
        news
    }

    /// A lane over this relay fell silent.
    pub fn suspect(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.look_mut(peer) {
            relay.suspect = Some(now + SUSPECT_FOR);
        }
    }

    fn look(&self, peer: &PeerId) -> Option<&Relay> {
        self.all.iter().find(|r| r.peer == *peer)
    }

    fn look_mut(&mut self, peer: &PeerId) -> Option<&mut Relay> {
        self.all.iter_mut().find(|r| r.peer == *peer)
    }
}

#[cfg(test)]
mod tests {
    use quorate_identity::UnixTime;
    use quorate_session::relay::{Access, Load};

    use super::*;
    use crate::overlay::Scope;

    fn endpoint(port: u16, peer: PeerId) -> Endpoint {
        Endpoint::parse(
            &format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"),
            Scope::Local,
        )
        .expect("valid")
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn five(now: Instant) -> (Relays, Vec<PeerId>) {
        let mut relays = Relays::new(true, 7);
        let peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
        for (peer, port) in peers.iter().zip(4001..) {
            relays.add_own(endpoint(port, *peer), now).expect("room");
        }
        (relays, peers)
    }

    /// Dials and reserves whatever is due, and everything works.
    fn settle(relays: &mut Relays, next: &mut usize, now: Instant) -> Vec<PeerId> {
        let mut held = Vec::new();
        while let Some(action) = relays.poll(now) {
            match action {
                Action::Dial { relay, .. } => {
                    *next += 1;
                    relays.dialing(&relay, id(*next));
                    assert!(relays.connected(&relay, id(*next), now));
                }
                Action::Reserve { relay, .. } => {
                    relays.asked(&relay, ListenerId::next());
                    assert!(relays.reserved(&relay));
                    assert!(!relays.reserved(&relay), "renewed only");
                    held.push(relay);
                }
            }
        }
        held
    }

    #[test]
    fn three_reservations_are_held_and_the_next_relay_takes_the_place_of_a_dead_one() {
        let now = Instant::now();
        let (mut relays, peers) = five(now);
        let mut next = 0;
        assert_eq!(settle(&mut relays, &mut next, now), peers[..3]);
        assert_eq!(relays.poll_timeout(now), None);
        let me = PeerId::random();
        assert_eq!(relays.circuits_to(me).len(), 3);
        assert!(relays.closed(&peers[1], id(2), now));
        assert_eq!(settle(&mut relays, &mut next, now), peers[3..4]);
        let over: Vec<_> = relays.circuits_to(me).iter().map(|e| e.relay).collect();
        assert_eq!(over, [Some(peers[0]), Some(peers[2]), Some(peers[3])]);
    }

    #[test]
    fn a_relay_that_refuses_makes_room_and_is_asked_again_with_growing_waits() {
        let now = Instant::now();
        let mut relays = Relays::new(true, 7);
        let peer = PeerId::random();
        relays.add_own(endpoint(1, peer), now).expect("room");
        relays.dialing(&peer, id(1));
        relays.connected(&peer, id(1), now);
        let (mut at, mut waits) = (now, Vec::new());
        for _ in 0..8 {
            assert!(matches!(relays.poll(at), Some(Action::Reserve { .. })));
            let listener = ListenerId::next();
            relays.asked(&peer, listener);
            assert_eq!(relays.lost(listener, at), Some((peer, false)));
            assert_eq!(relays.busy(at), 0, "others have a turn");
            assert_eq!(relays.poll(at), None);
            let due = relays.poll_timeout(at).expect("again");
            waits.push(due - at);
            at = due;
        }
        assert!(waits[3] > waits[0] * 2);
        assert!(waits.iter().all(|w| *w <= BACKOFF_MAX * 5 / 4));
    }

    #[test]
    fn foreign_relays_are_bounded_and_never_asked_for_a_reservation() {
        let now = Instant::now();
        let mut relays = Relays::new(true, 7);
        let mut gone = 0;
        for _ in 0..100 {
            let (relay, peer) = (PeerId::random(), PeerId::random());
            let circuit = endpoint(5, relay).through(relay, Some(peer));
            let (_, out) = relays.add_foreign(&circuit, now).expect("room");
            gone += usize::from(out.is_some());
        }
        assert_eq!(gone, 100 - MAX_FOREIGN_RELAYS);
        assert_eq!(relays.poll(now), None);
        let own = PeerId::random();
        relays.add_own(endpoint(1, own), now).expect("room");
        let elsewhere = endpoint(2, own).through(own, Some(PeerId::random()));
        relays.add_foreign(&elsewhere, now).expect("known");
        let known = &relays.look(&own).expect("known").endpoints;
        assert_eq!(known.len(), 1, "nobody else has a say in where it is");
        assert_eq!(known[0].port, 1);
    }

    #[test]
    fn stun_is_asked_of_own_relays_and_only_where_the_user_or_the_session_said() {
        let now = Instant::now();
        let mut relays = Relays::new(true, 7);
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let said = |host: &str| {
            let text = format!("/ip4/{host}/tcp/4001/p2p/{relay}");
            Endpoint::parse(&text, Scope::Lan).expect("valid")
        };
        let told = said("192.0.2.53").through(relay, Some(peer));
        relays.add_foreign(&told, now).expect("room");
        relays.connected(&relay, id(1), now);
        let announcement = Announcement {
            name: None,
            stun: vec![53, 123],
            limits: Limits {
                circuits: 1,
                reservations: 1,
                circuit_seconds: 1,
                circuit_bytes: 0,
                circuit_bits_per_second: 0,
                total_bits_per_second: 0,
            },
            load: Load::default(),
            access: Access::Open,
            at: UnixTime(0),
        };
        assert!(relays.said(&relay, announcement));
        assert_eq!(relays.status(&relay).expect("known").stun, []);
        relays.add_own(said("192.0.2.7"), now).expect("room");
        relays.add_foreign(&told, now).expect("known");
        let asked = relays.status(&relay).expect("known").stun.into_iter();
        let asked: Vec<String> = asked.map(|server| server.to_string()).collect();
        assert_eq!(asked, ["192.0.2.7:53", "192.0.2.7:123"]);
    }

    #[test]
    fn the_nearest_relay_comes_first_and_one_that_failed_comes_last() {
        let now = Instant::now();
        let (mut relays, peers) = five(now);
        settle(&mut relays, &mut 0, now);
        for (peer, rtt) in peers.iter().zip([30, 10, 20]) {
            relays.measured(peer, Duration::from_millis(rtt));
        }
        let order = |relays: &Relays, at| -> Vec<PeerId> {
            let ways = relays.ways_to(PeerId::random(), at).into_iter();
            ways.filter_map(|w| w.relay).collect()
        };
        assert_eq!(order(&relays, now), [peers[1], peers[2], peers[0]]);
        relays.suspect(&peers[1], now);
        assert_eq!(order(&relays, now), [peers[2], peers[0], peers[1]]);
        let later = now + SUSPECT_FOR;
        assert_eq!(order(&relays, later)[0], peers[1]);
    }

    #[test]
    fn a_relays_own_name_is_quoted_and_stands_beside_its_host() {
        let now = Instant::now();
        let mut relays = Relays::new(true, 7);
        let peer = PeerId::random();
        relays.add_own(endpoint(1, peer), now).expect("room");
        assert_eq!(relays.name(&peer), "127.0.0.1");
        let said = |name: &str| {
            let limits = crate::overlay::RelayLimits::DEFAULT.announced();
            Announcement {
                name: Some(name.into()),
                stun: Vec::new(),
                limits,
                load: Load::default(),
                access: Access::Open,
                at: UnixTime(0),
            }
        };
        assert!(relays.said(&peer, said("Klinik Ost")));
        assert_eq!(relays.name(&peer), "\"Klinik Ost\" (127.0.0.1)");
        // What would read like something of ours stays inside the quotes.
        relays.said(&peer, said("[sud]\" (203.0.113.9)"));
        assert_eq!(relays.name(&peer), "\"[sud]' (203.0.113.9)\" (127.0.0.1)");
    }

    #[test]
    fn a_relay_must_be_named_with_its_peer_id_and_directly() {
        let now = Instant::now();
        let mut relays = Relays::new(true, 7);
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let mut nameless = endpoint(1, relay);
        nameless.peer = None;
        assert!(relays.add_own(nameless, now).is_err());
        let behind = endpoint(1, relay).through(relay, Some(peer));
        assert!(relays.add_own(behind, now).is_err());
        for n in 0..20 {
            let added = relays.add_own(endpoint(1, PeerId::random()), now).is_ok();
            assert_eq!(added, n < MAX_OWN_RELAYS);
        }
    }
}
