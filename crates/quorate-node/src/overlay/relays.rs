//! Which relays to connect with, where to have reservations, and which one to use next.
//!
//! ```text
//!   waiting ──due──► (looked up ──►) dialing ──► connected ──► asked ──► held (renewed by libp2p)
//!      ▲ backoff        │failed      ▲ backoff   │refused   │lost
//!      └────────────────┴── closed ──┴───────────┴──────────┘
//! ```
//! A relay is *own* (named by the user or the session; reservations are made there), *of a party* (which serves the
//! others of its session) or *foreign* (met in somebody's address; used for circuits to that peer only). Of the own ones
//! the first [`MAX_RESERVATIONS`] that work are held, in the order they were named; when one fails, the next one takes its
//! place, and the failed one is tried again with growing waits. Places that own relays leave free are for those of parties.
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
    address::{Endpoint, Way},
    dialing::{BACKOFF_FIRST, BACKOFF_MAX, Jitter},
    names::Named,
};

/// Relays named by the user or the session.
pub const MAX_OWN_RELAYS: usize = 8;
/// Relays met in addresses of peers.
pub const MAX_FOREIGN_RELAYS: usize = 8;
/// Parties whose relays are used.
pub const MAX_PARTY_RELAYS: usize = 4;
/// Addresses of one relay.
pub(super) const MAX_RELAY_ADDRESSES: usize = 6;
/// Relays with a reservation of ours.
pub const MAX_RESERVATIONS: usize = 3;
/// A relay whose name is not found sooner gives its place to the next one meanwhile.
const LOOKUP_HOLDS: Duration = Duration::from_secs(1);
/// A relay is dialled within this time after its name was looked up, or the name is looked up again.
const FRESH_FOR: Duration = Duration::from_secs(10);
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
    /// Find out where these names of a relay lead.
    LookUp { relay: PeerId, names: Vec<Named> },
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
    /// Where its names lead is being asked since then.
    LookedUp(Instant),
    Dialing(ConnectionId),
    /// Connected; a reservation is not to be asked for before its time.
    Connected,
    Asked(ListenerId),
    Held(ListenerId),
}

struct Relay {
    peer: PeerId,
    /// Where it is: as it was written, and where its names led the last time.
    endpoints: Vec<Endpoint>,
    written: Vec<Endpoint>,
    names: Vec<Named>,
    /// What the names said last counts for a dial until then.
    fresh: Option<Instant>,
    own: bool,
    /// The party that serves as this relay.
    of: Option<PeerId>,
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
    fn new(peer: PeerId, now: Instant) -> Self {
        Self {
            peer,
            endpoints: Vec::new(),
            written: Vec::new(),
            names: Vec::new(),
            fresh: None,
            own: false,
            of: None,
            connections: Vec::new(),
            state: State::Waiting,
            due: now,
            failures: 0,
            rtt: None,
            said: None,
            suspect: None,
            settled: false,
        }
    }

    /// Whether its names have to be looked up before it is dialled.
    fn is_stale(&self, now: Instant) -> bool {
        !self.names.is_empty() && self.fresh.is_none_or(|until| until <= now)
    }

    /// Whether we want to be reachable through it.
    fn reserves(&self) -> bool {
        self.own || self.of.is_some()
    }

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

    /// Adds a name of an own relay.
    pub fn add_named(&mut self, named: Named, now: Instant) -> Result<PeerId, &'static str> {
        let peer = check(named.shape())?;
        let own = self.all.iter().filter(|r| r.own && r.peer != peer).count();
        if own >= MAX_OWN_RELAYS {
            return Err("there are too many relays");
        }
        let relay = self.entry(peer, true, now);
        if !relay.names.contains(&named) && relay.names.len() < MAX_RELAY_ADDRESSES {
            relay.names.push(named);
        }
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
        let foreign = self.all.iter().filter(|r| !r.reserves()).count();
        let mut gone = None;
        if foreign >= MAX_FOREIGN_RELAYS {
            let idle = |r: &Relay| !r.reserves() && r.connections.is_empty();
            let at = self.all.iter().position(idle);
            let at = at.ok_or("too many relays of others are in use")?;
            gone = Some(self.all.remove(at).peer);
        }
        self.add(peer, endpoint, false, now);
        Ok((peer, gone))
    }

    /// Forgets a relay that only somebody's address named.
    pub fn remove_foreign(&mut self, peer: &PeerId) {
        self.all.retain(|r| r.reserves() || r.peer != *peer);
    }

    /// Adds an address of the relay that `party` says it is. What that party named before is a foreign relay from then on.
    pub fn add_of_party(
        &mut self,
        party: PeerId,
        endpoint: Endpoint,
        now: Instant,
    ) -> Result<PeerId, &'static str> {
        let peer = check(&endpoint)?;
        if self.is_own(&peer) {
            return Ok(peer);
        }
        let parties = self
            .all
            .iter()
            .filter(|r| r.of.is_some_and(|of| of != party));
        if parties.count() >= MAX_PARTY_RELAYS {
            return Err("there are too many relays of parties");
        }
        if self
            .look(&peer)
            .is_some_and(|r| r.of.is_some_and(|of| of != party))
        {
            return Err("it is the relay of another party");
        }
        for before in self.all.iter_mut().filter(|r| r.of == Some(party)) {
            before.of = None;
        }
        self.add(peer, endpoint, false, now);
        if let Some(relay) = self.look_mut(&peer) {
            if matches!(relay.state, State::Waiting | State::Connected) {
                relay.due = relay.due.min(now);
            }
            relay.of = Some(party);
        }
        Ok(peer)
    }

    fn add(&mut self, peer: PeerId, mut endpoint: Endpoint, own: bool, now: Instant) {
        endpoint.peer = None;
        let relay = self.entry(peer, own, now);
        // Whoever names a foreign relay has no say in where an own one is.
        let allowed = own || !relay.own;
        if !allowed || relay.endpoints.len() >= MAX_RELAY_ADDRESSES {
            return;
        }
        if own && !relay.written.contains(&endpoint) {
            relay.written.push(endpoint.clone());
        }
        if !relay.endpoints.contains(&endpoint) {
            relay.endpoints.push(endpoint);
        }
    }

    /// The relay to which an address is added.
    fn entry(&mut self, peer: PeerId, own: bool, now: Instant) -> &mut Relay {
        let at = self.all.iter().position(|r| r.peer == peer);
        let at = at.unwrap_or_else(|| {
            self.all.push(Relay::new(peer, now));
            self.all.len() - 1
        });
        let relay = &mut self.all[at];
        if own && !relay.own {
            relay.endpoints.clear();
        }
        relay.own |= own;
        relay
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

    /// Whether this address of a relay is known.
    pub fn has(&self, peer: &PeerId, endpoint: &Endpoint) -> bool {
        let known = self.look(peer).map(|r| &r.endpoints);
        known.is_some_and(|all| all.iter().any(|e| e.address == endpoint.address))
    }

    /// The relays that parties say they are.
    pub fn of_parties(&self) -> HashSet<PeerId> {
        let all = self.all.iter().filter(|r| r.of.is_some());
        all.map(|r| r.peer).collect()
    }

    /// How a relay is named to people: by its host, and by its own word, which could be anybody's name, in quotes before it.
    pub fn name(&self, peer: &PeerId) -> String {
        let Some(relay) = self.look(peer) else {
            return peer.to_string();
        };
        // The same one at both ends of a pair that knows the same addresses, in whatever order.
        let name = relay.names.iter().map(|named| &named.host).min();
        let host = relay.endpoints.iter().map(|e| e.ip).min();
        let host = match (name, host) {
            (Some(name), _) => name.clone(),
            (None, Some(ip)) => ip.to_string(),
            (None, None) => peer.to_string(),
        };
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

    /// Where connected relays can be dialled over QUIC.
    pub fn over_quic(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let connected = self.all.iter().filter(|r| !r.connections.is_empty());
        let all = connected.map(|r| {
            let quic = r.endpoints.iter().filter(|e| e.way() == Way::Quic);
            (r.peer, quic.map(|e| e.address.clone()).collect::<Vec<_>>())
        });
        all.filter(|(_, quic)| !quic.is_empty()).collect()
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
            r.reserves()
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
        let room = self.room(now);
        let waiting = |r: &&Relay| room(r) && r.state == State::Waiting && r.due <= now;
        let mut all = self.all.iter();
        let relay = all.find(|r| r.own && waiting(r));
        let relay = relay.or_else(|| self.all.iter().find(waiting))?;
        if relay.is_stale(now) {
            return Some(Action::LookUp {
                relay: relay.peer,
                names: relay.names.clone(),
            });
        }
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
        let room = self.room(now);
        let all = self.all.iter().filter(|r| r.reserves());
        all.filter_map(|r| match r.state {
            State::Waiting if room(r) => Some(r.due),
            State::Connected if self.is_settled(r) => Some(r.due),
            // It holds its place no longer then.
            State::LookedUp(since) => Some(since + LOOKUP_HOLDS).filter(|at| *at > now),
            _ => None,
        })
        .min()
    }

    /// Which relays may have a reservation besides those that have one. Own ones have their places whatever parties
    /// offer.
    fn room(&self, now: Instant) -> impl Fn(&Relay) -> bool + use<> {
        let own = self.busy(now, |r| r.own);
        let all = own + self.busy(now, |r| !r.own && r.of.is_some());
        move |relay| {
            if relay.own {
                own < MAX_RESERVATIONS
            } else {
                relay.of.is_some() && all < MAX_RESERVATIONS
            }
        }
    }

    /// Relays of one kind that hold a place among those with reservations.
    fn busy(&self, now: Instant, kind: impl Fn(&Relay) -> bool) -> usize {
        let all = self.all.iter().filter(|r| kind(r));
        all.filter(|r| match r.state {
            State::Waiting => false,
            State::LookedUp(since) => now < since + LOOKUP_HOLDS,
            State::Connected => r.due <= now,
            State::Dialing(_) | State::Asked(_) | State::Held(_) => true,
        })
        .count()
    }

    /// The names of a relay are being looked up.
    pub fn looking_up(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.look_mut(peer) {
            relay.state = State::LookedUp(now);
        }
    }

    /// Where its names lead, if that is known. What they said before is used where it is not.
    pub fn looked_up(&mut self, peer: &PeerId, found: Option<Vec<Endpoint>>, now: Instant) {
        let Self { all, jitter, .. } = self;
        let Some(relay) = all.iter_mut().find(|r| r.peer == *peer) else {
            return;
        };
        if let Some(found) = found {
            let mut endpoints = relay.written.clone();
            for mut endpoint in found {
                endpoint.peer = None;
                if !endpoints.contains(&endpoint) && endpoints.len() < MAX_RELAY_ADDRESSES {
                    endpoints.push(endpoint);
                }
            }
            relay.endpoints = endpoints;
        }
        if matches!(relay.state, State::LookedUp(_)) {
            relay.state = State::Waiting;
            if relay.endpoints.is_empty() {
                relay.back_off(jitter, now);
            } else {
                relay.fresh = Some(now + FRESH_FOR);
            }
        }
    }

    /// Where an own relay is.
    pub fn endpoints(&self, peer: &PeerId) -> &[Endpoint] {
        self.look(peer).map_or(&[], |r| &r.endpoints)
    }

    pub fn dialing(&mut self, peer: &PeerId, connection: ConnectionId) {
        if let Some(relay) = self.look_mut(peer) {
            relay.state = State::Dialing(connection);
            relay.fresh = None;
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
        if matches!(
            relay.state,
            State::Waiting | State::LookedUp(_) | State::Dialing(_)
        ) {
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
mod tests;
