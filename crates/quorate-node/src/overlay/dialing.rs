//! Whom to dial next, and when: hints and learnt addresses with their backoff.
//!
//! ```text
//!   waiting ──due──► pending ──failed──► waiting (doubled, at most BACKOFF_MAX)
//!                       └─connected─► resting while a connection to that peer exists
//!                                        └─closed─► waiting (from BACKOFF_FIRST when there was a link)
//! ```
//! A *target* is a hint (kept for ever, it may come alive late) or a peer with learnt addresses
//! (forgotten after [`MAX_FAILURES`] failures in a row). QUIC and TCP addresses and circuits of a target
//! are dialled one after the other, [`STAGGER`] apart, and only as long as there is no connection. QUIC comes first: it finds
//! out what size of packet a network lets through, where TCP may stall for ever on a line that swallows long ones. A way on
//! which a connection fell silent comes last for [`SHUNNED_FOR`].
//! While there is one over a relay only, direct addresses are still tried. Two targets that lead to the same peer do not wait
//! for each other's end: an address where nobody answers, of a ticket for instance, holds up the relay by [`BACKOFF_FIRST`].
//!
//! No I/O and no clock in here; `now` comes last.
//!
//! Limits: [`MAX_HINTS`] hints, [`MAX_PEERS`] learnt peers with [`MAX_ADDRESSES`] addresses each.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

use super::address::{Endpoint, Way};

/// Hints kept; the bundle has at most 8, the rest is for addresses given later.
pub const MAX_HINTS: usize = 16;
/// Peers whose addresses are remembered.
pub const MAX_PEERS: usize = 128;
/// Addresses remembered per peer.
const MAX_ADDRESSES: usize = 16;
/// Wait after the first failure.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Longest wait between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Head start of one transport before the other is dialled too.
const STAGGER: Duration = Duration::from_millis(300);
/// A learnt peer is forgotten after so many failures in a row.
const MAX_FAILURES: u32 = 8;
/// How long a way to a peer on which a connection fell silent comes last.
const SHUNNED_FOR: Duration = Duration::from_mins(2);

/// Small random differences in waiting times, so that parties do not move in step. Not secret.
pub(super) struct Jitter(u64);

impl Jitter {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// `about`, at most a quarter shorter or longer.
    pub fn around(&mut self, about: Duration) -> Duration {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let permille = 750 + u32::try_from(self.0 % 501).unwrap_or(250);
        about * permille / 1000
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Hint(usize),
    Peer(PeerId),
}

/// One dial the overlay should make now.
#[derive(Debug)]
pub(super) struct Attempt {
    key: Key,
    pub peer: Option<PeerId>,
    pub addresses: Vec<Multiaddr>,
    pub way: Way,
    /// Another way to this target is being dialled already, or exists over a relay.
    pub second: bool,
}

/// Why a dial failed, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The address leads to ourselves.
    Myself,
    /// There is a connection to that peer already, so nothing is wrong.
    Needless,
    /// Anything else.
    Other,
}

struct Target {
    /// Whom it leads to, once known.
    peer: Option<PeerId>,
    endpoints: VecDeque<Endpoint>,
    due: Instant,
    failures: u32,
    /// The ways dialled in this round, while others are still to come.
    tried: Vec<Way>,
    pending: bool,
    /// A dial to its peer by another target was under way when this one was to be dialled.
    held_up: bool,
    /// A hint that leads to ourselves, or whose peer was refused.
    dead: bool,
    /// The way on which a connection fell silent, and until when it comes last.
    shunned: Option<(Way, Instant)>,
}

impl Target {
    fn new(endpoint: Endpoint, due: Instant) -> Self {
        Self {
            peer: endpoint.peer,
            endpoints: VecDeque::from([endpoint]),
            due,
            failures: 0,
            tried: Vec::new(),
            pending: false,
            held_up: false,
            dead: false,
            shunned: None,
        }
    }

    fn has(&self, way: Way) -> bool {
        self.endpoints.iter().any(|e| e.way() == way)
    }

    /// The way that comes next in this round.
    fn next_way(&self, reached: Reached) -> Option<Way> {
        let ways: &[Way] = match reached {
            Reached::Not => &[Way::Quic, Way::Tcp, Way::Circuit],
            Reached::OverRelay => &[Way::Quic, Way::Tcp],
            Reached::Directly => &[],
        };
        let ways = ways.iter().copied();
        let mut left = ways.filter(|way| self.has(*way) && !self.tried.contains(way));
        let first = left.next()?;
        match self.shunned {
            Some((shunned, _)) if shunned == first => Some(left.next().unwrap_or(first)),
            _ => Some(first),
        }
    }

    fn back_off(&mut self, jitter: &mut Jitter, now: Instant) {
        self.held_up = false;
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(10));
        self.failures = (self.failures + 1).min(self.most_failures());
        self.tried.clear();
        self.due = now + jitter.around(doubled.min(BACKOFF_MAX));
    }

    /// A peer that is behind a relay now may come to have a direct way later.
    fn most_failures(&self) -> u32 {
        if self.has(Way::Circuit) {
            MAX_FAILURES - 1
        } else {
            MAX_FAILURES
        }
    }

    fn start_over(&mut self, jitter: &mut Jitter, now: Instant) {
        self.failures = 0;
        self.held_up = false;
        self.tried.clear();
        self.due = now + jitter.around(BACKOFF_FIRST);
    }
}

/// How a peer is connected with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Not,
    OverRelay,
    Directly,
}

/// Connections with one peer.
#[derive(Clone, Copy, Default)]
struct Connections {
    direct: usize,
    relayed: usize,
}

/// The table of targets.
pub(super) struct Dialing {
    hints: Vec<Target>,
    peers: HashMap<PeerId, Target>,
    pending: HashMap<ConnectionId, Key>,
    connections: HashMap<PeerId, Connections>,
    jitter: Jitter,
}

impl Dialing {
    pub fn new(seed: u64) -> Self {
        Self {
            hints: Vec::new(),
            peers: HashMap::new(),
            pending: HashMap::new(),
            connections: HashMap::new(),
            jitter: Jitter::new(seed),
        }
    }

    /// Adds a hint, due at once. `false` when there are too many; a known one is due again.
    pub fn hint(&mut self, endpoint: Endpoint, now: Instant) -> bool {
        if let Some(known) = self
            .hints
            .iter_mut()
            .find(|t| t.endpoints.contains(&endpoint))
        {
            known.failures = 0;
            known.due = known.due.min(now);
            return true;
        }
        if self.hints.len() >= MAX_HINTS {
            return false;
        }
        self.hints.push(Target::new(endpoint, now));
        true
    }

    /// As [`hint`](Self::hint), for the circuits to `peer` over `relay`, which take the place of earlier ones.
    pub fn hint_over(
        &mut self,
        relay: PeerId,
        peer: PeerId,
        circuits: Vec<Endpoint>,
        now: Instant,
    ) -> bool {
        let over = |t: &&mut Target| {
            let mut all = t.endpoints.iter();
            all.all(|e| (e.relay, e.peer) == (Some(relay), Some(peer)))
        };
        let circuits = VecDeque::from(circuits);
        if let Some(known) = self.hints.iter_mut().find(over) {
            if known.endpoints != circuits {
                known.endpoints = circuits;
                known.failures = 0;
                known.due = known.due.min(now);
            }
            return true;
        }
        let Some(first) = circuits.front() else {
            return false;
        };
        if self.hints.len() >= MAX_HINTS {
            return false;
        }
        let mut target = Target::new(first.clone(), now);
        target.endpoints = circuits;
        self.hints.push(target);
        true
    }

    /// Remembers addresses of `peer`, due after `delay` if they tell something new; what a hint
    /// says already is left to the hint.
    pub fn learn(
        &mut self,
        peer: PeerId,
        endpoints: impl IntoIterator<Item = Endpoint>,
        delay: Duration,
        now: Instant,
    ) {
        for mut endpoint in endpoints {
            endpoint.peer = Some(peer);
            let hinted = self.hints.iter().filter(|t| t.peer == Some(peer));
            if hinted
                .flat_map(|t| &t.endpoints)
                .any(|e| e.address == endpoint.address)
            {
                continue;
            }
            if let Some(target) = self.peers.get_mut(&peer) {
                if !target.endpoints.contains(&endpoint) {
                    target.endpoints.push_front(endpoint);
                    target.endpoints.truncate(MAX_ADDRESSES);
                    target.failures = 0;
                    target.due = target.due.min(now + delay);
                }
                continue;
            }
            if self.peers.len() >= MAX_PEERS && !self.forget_one() {
                return;
            }
            self.peers.insert(peer, Target::new(endpoint, now + delay));
        }
    }

    /// Makes room by forgetting the peer that failed most often.
    fn forget_one(&mut self) -> bool {
        let worst = self
            .peers
            .iter()
            .filter(|(_, t)| t.failures > 0 && !t.pending)
            .max_by_key(|(_, t)| t.failures)
            .map(|(peer, _)| *peer);
        worst.is_some_and(|peer| self.peers.remove(&peer).is_some())
    }

    /// Whether there is a direct connection to `peer`.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.reached(peer) == Reached::Directly
    }

    /// Whether this address of `peer` is in the table.
    pub fn knows(&self, peer: &PeerId, endpoint: &Endpoint) -> bool {
        let mut targets = self.hints.iter().chain(self.peers.get(peer));
        targets.any(|t| t.peer == Some(*peer) && t.endpoints.contains(endpoint))
    }

    /// Whether this is an address of `peer` in the table, whatever is said about who is expected there.
    pub fn knows_address(&self, peer: &PeerId, endpoint: &Endpoint) -> bool {
        let targets = self.hints.iter().chain(self.peers.get(peer));
        let mut all = targets.flat_map(|t| &t.endpoints);
        all.any(|e| e.address == endpoint.address)
    }

    /// Circuits that lead to `peer`, as hinted or learnt.
    pub fn circuits_to(&self, peer: PeerId) -> impl Iterator<Item = &Endpoint> {
        let targets = self.hints.iter().chain(self.peers.values());
        targets
            .filter(move |t| t.peer == Some(peer))
            .flat_map(|t| t.endpoints.iter().filter(|e| e.relay.is_some()))
    }

    fn reached(&self, peer: &PeerId) -> Reached {
        match self.connections.get(peer) {
            None => Reached::Not,
            Some(Connections { direct: 0, .. }) => Reached::OverRelay,
            Some(_) => Reached::Directly,
        }
    }

    fn reached_by(&self, target: &Target) -> Reached {
        target.peer.map_or(Reached::Not, |peer| self.reached(&peer))
    }

    /// The next dial that is due.
    pub fn poll_attempt(&mut self, now: Instant) -> Option<Attempt> {
        let key = self
            .idle()
            .find(|(_, t)| t.due <= now)
            .map(|(key, _)| key)?;
        if let Some(target) = self.target(key) {
            target.shunned = target.shunned.filter(|(_, until)| *until > now);
        }
        let target = self.look(key)?;
        let reached = self.reached_by(target);
        let way = target.next_way(reached)?;
        let of_way = target.endpoints.iter().filter(|e| e.way() == way);
        let expected = matches!(key, Key::Peer(_)) || target.expects_peer();
        Some(Attempt {
            key,
            peer: target.peer.filter(|_| expected),
            second: !target.tried.is_empty() || target.held_up || reached != Reached::Not,
            addresses: of_way.map(|e| e.address.clone()).collect(),
            way,
        })
    }

    /// `attempt` was handed to the network as `connection`.
    pub fn started(&mut self, attempt: &Attempt, connection: ConnectionId, now: Instant) {
        self.pending.insert(connection, attempt.key);
        let Some(reached) = self.look(attempt.key).map(|t| self.reached_by(t)) else {
            return;
        };
        if let Some(target) = self.target(attempt.key) {
            target.tried.push(attempt.way);
            if target.next_way(reached).is_some() {
                target.due = now + STAGGER;
            } else {
                target.pending = true;
            }
        }
    }

    /// A dial failed.
    pub fn failed(&mut self, connection: ConnectionId, failure: Failure, now: Instant) {
        let Some(key) = self.pending.remove(&connection) else {
            return;
        };
        let others = self.pending.values().any(|k| *k == key);
        let reached = self.look(key).map_or(Reached::Not, |t| self.reached_by(t));
        let Some((target, jitter)) = self.target_and_jitter(key) else {
            return;
        };
        match failure {
            Failure::Myself => target.dead = true,
            Failure::Needless => {
                target.pending = others;
                target.held_up = reached == Reached::Not;
                target.tried.clear();
                target.due = now + jitter.around(BACKOFF_FIRST);
            }
            // Another way of this round is still to come or under way.
            Failure::Other if !target.tried.is_empty() && target.next_way(reached).is_some() => {
                target.due = now;
            }
            Failure::Other if others => {}
            Failure::Other => {
                target.pending = false;
                target.back_off(jitter, now);
            }
        }
        let gone = target.dead || target.failures >= MAX_FAILURES;
        if let (Key::Peer(peer), true) = (key, gone) {
            self.peers.remove(&peer);
        }
    }

    /// A connection with `peer` exists, dialled by either side.
    pub fn connected(&mut self, connection: ConnectionId, peer: PeerId, relayed: bool) {
        let counts = self.connections.entry(peer).or_default();
        if relayed {
            counts.relayed += 1;
        } else {
            counts.direct += 1;
        }
        if let Some(key) = self.pending.remove(&connection) {
            let others = self.pending.values().any(|k| *k == key);
            if let Some(target) = self.target(key) {
                target.peer = Some(peer);
                target.pending = others;
                target.tried.clear();
            }
        }
    }

    /// A connection with `peer` is gone. Until a link existed that counts as a failure.
    pub fn closed(&mut self, peer: PeerId, relayed: bool, now: Instant) {
        let Some(counts) = self.connections.get_mut(&peer) else {
            return;
        };
        let count = if relayed {
            &mut counts.relayed
        } else {
            &mut counts.direct
        };
        *count = count.saturating_sub(1);
        let same_left = *count > 0;
        let gone = counts.direct + counts.relayed == 0;
        if gone {
            self.connections.remove(&peer);
        }
        if same_left || (relayed && !gone) {
            return;
        }
        let (jitter, targets) = self.leading_to(peer);
        for target in targets {
            target.back_off(jitter, now);
        }
        if self
            .peers
            .get(&peer)
            .is_some_and(|t| t.failures >= MAX_FAILURES)
        {
            self.peers.remove(&peer);
        }
    }

    /// A connection with `peer` on this way fell silent.
    pub fn shun(&mut self, peer: PeerId, way: Way, now: Instant) {
        for target in self.leading_to(peer).1 {
            target.shunned = Some((way, now + SHUNNED_FOR));
        }
    }

    /// A link with `peer` came up or went down: what is dialled next starts from short waits.
    pub fn link_changed(&mut self, peer: PeerId, now: Instant) {
        let (jitter, targets) = self.leading_to(peer);
        for target in targets {
            target.start_over(jitter, now);
        }
    }

    /// `peer` is not to be dialled before `until`; its learnt addresses are forgotten.
    pub fn refuse(&mut self, peer: PeerId, until: Instant) {
        self.peers.remove(&peer);
        for hint in self.hints.iter_mut().filter(|t| t.peer == Some(peer)) {
            hint.due = hint.due.max(until);
        }
    }

    /// When [`poll_attempt`](Self::poll_attempt) has something next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.idle().map(|(_, target)| target.due).min()
    }

    /// Targets that wait for their time: no connection but over a relay, nothing pending.
    fn idle(&self) -> impl Iterator<Item = (Key, &Target)> {
        let hints = self
            .hints
            .iter()
            .enumerate()
            .map(|(i, t)| (Key::Hint(i), t));
        let peers = self.peers.iter().map(|(peer, t)| (Key::Peer(*peer), t));
        hints.chain(peers).filter(|(_, t)| {
            let reached = self.reached_by(t);
            !t.dead && !t.pending && t.next_way(reached).is_some()
        })
    }

    fn look(&self, key: Key) -> Option<&Target> {
        match key {
            Key::Hint(index) => self.hints.get(index),
            Key::Peer(peer) => self.peers.get(&peer),
        }
    }

    fn target(&mut self, key: Key) -> Option<&mut Target> {
        self.target_and_jitter(key).map(|(target, _)| target)
    }

    fn target_and_jitter(&mut self, key: Key) -> Option<(&mut Target, &mut Jitter)> {
        let target = match key {
            Key::Hint(index) => self.hints.get_mut(index),
            Key::Peer(peer) => self.peers.get_mut(&peer),
        };
        target.map(|target| (target, &mut self.jitter))
    }

    fn leading_to(
        &mut self,
        peer: PeerId,
    ) -> (&mut Jitter, impl Iterator<Item = &mut Target> + use<'_>) {
        let all = self.hints.iter_mut().chain(self.peers.values_mut());
        (&mut self.jitter, all.filter(move |t| t.peer == Some(peer)))
    }
}

impl Target {
    /// A hint with `/p2p/…` expects that peer; one without takes whoever answers, also later
    /// when somebody else answers there.
    fn expects_peer(&self) -> bool {
        self.endpoints.iter().any(|e| e.peer.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::Scope;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::parse(text, Scope::Local).expect("a valid address")
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn a_hint_is_dialled_at_once_and_again_with_growing_waits() {
        let now = Instant::now();
        let mut table = Dialing::new(7);
        assert!(table.hint(endpoint("/ip4/127.0.0.1/tcp/9"), now));
        let mut at = now;
        let mut waits = Vec::new();
        for n in 0..12 {
            let attempt = table.poll_attempt(at).expect("due");
            table.started(&attempt, id(n), at);
            assert!(table.poll_attempt(at + LONG).is_none(), "one at a time");
            table.failed(id(n), Failure::Other, at);
            let due = table.poll_timeout().expect("hints stay");
            assert!(table.poll_attempt(at).is_none(), "before its time");
            waits.push(due - at);
            at = due;
        }
        assert!(waits[0] <= BACKOFF_FIRST * 5 / 4);
        assert!(waits[3] > waits[0] * 2);
        assert!(waits.iter().all(|w| *w <= BACKOFF_MAX * 5 / 4));
    }

    #[test]
    fn a_connected_peer_is_left_alone_until_its_last_connection_is_gone() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut table = Dialing::new(7);
        table.hint(endpoint("/ip4/127.0.0.1/tcp/9"), now);
        let attempt = table.poll_attempt(now).expect("due");
        table.started(&attempt, id(1), now);
        table.connected(id(1), peer, false);
        table.connected(id(2), peer, false);
        table.learn(
            peer,
            [endpoint("/ip4/127.0.0.1/tcp/9")],
            Duration::ZERO,
            now,
        );
        assert_eq!(table.poll_timeout(), None);
        table.closed(peer, false, now);
        assert_eq!(table.poll_timeout(), None);
        table.closed(peer, false, now);
        assert!(table.poll_attempt(now + LONG).is_some());
    }

    #[test]
    fn both_transports_are_tried_one_after_the_other() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut table = Dialing::new(7);
        let both = [
            endpoint("/ip4/127.0.0.1/tcp/9"),
            endpoint("/ip4/127.0.0.1/udp/9/quic-v1"),
        ];
        table.learn(peer, both, Duration::ZERO, now);
        let first = table.poll_attempt(now).expect("due");
        assert_eq!(first.peer, Some(peer));
        assert_eq!(first.addresses.len(), 1);
        table.started(&first, id(1), now);
        assert!(table.poll_attempt(now).is_none());
        let second = table.poll_attempt(now + STAGGER).expect("the other one");
        assert_ne!(second.way, first.way);
        table.started(&second, id(2), now + STAGGER);
        assert!(table.poll_attempt(now + LONG).is_none());
        table.failed(id(1), Failure::Other, now + STAGGER);
        assert!(
            table.poll_attempt(now + LONG).is_none(),
            "QUIC is still pending"
        );
        table.failed(id(2), Failure::Other, now + STAGGER);
        assert!(table.poll_attempt(now + LONG).is_some());
    }

    #[test]
    fn an_address_where_nobody_answers_does_not_hold_up_another_one_of_the_same_peer() {
        let now = Instant::now();
        let (peer, relay) = (PeerId::random(), PeerId::random());
        let mut table = Dialing::new(7);
        for way in [
            "udp/9/quic-v1".to_owned(),
            format!("tcp/7/p2p/{relay}/p2p-circuit"),
        ] {
            table.hint(endpoint(&format!("/ip4/127.0.0.1/{way}/p2p/{peer}")), now);
        }
        let silent = table.poll_attempt(now).expect("due");
        table.started(&silent, id(1), now);
        let circuit = table.poll_attempt(now).expect("due");
        assert!(!circuit.second, "it is left to the first one to begin with");
        table.started(&circuit, id(2), now);
        table.failed(id(2), Failure::Needless, now);
        let due = table.poll_timeout().expect("it comes again");
        assert!(due <= now + BACKOFF_FIRST * 5 / 4);
        let circuit = table.poll_attempt(due).expect("due");
        assert!(circuit.second && circuit.way == Way::Circuit);
        // Where the first one has led to the peer, the second one is not needed.
        table.started(&circuit, id(3), due);
        table.connected(id(1), peer, false);
        table.failed(id(3), Failure::Needless, due);
        table.closed(peer, false, due);
        let again = table.poll_attempt(due + LONG).expect("due");
        assert!(!again.second);
    }

    #[test]
    fn a_way_on_which_a_connection_fell_silent_comes_last_for_a_while() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut table = Dialing::new(7);
        let both = [
            endpoint("/ip4/127.0.0.1/tcp/9"),
            endpoint("/ip4/127.0.0.1/udp/9/quic-v1"),
        ];
        table.learn(peer, both, Duration::ZERO, now);
        let way = |table: &mut Dialing, at| table.poll_attempt(at).expect("due").way;
        assert_eq!(way(&mut table, now), Way::Quic);
        table.shun(peer, Way::Quic, now);
        assert_eq!(way(&mut table, now), Way::Tcp);
        let first = table.poll_attempt(now).expect("due");
        table.started(&first, id(1), now);
        assert_eq!(way(&mut table, now + STAGGER), Way::Quic, "but it is tried");
        table.failed(id(1), Failure::Other, now);
        let second = table.poll_attempt(now + STAGGER).expect("due");
        table.started(&second, id(2), now);
        table.failed(id(2), Failure::Other, now);
        assert_eq!(way(&mut table, now + SHUNNED_FOR), Way::Quic);
    }

    #[test]
    fn behind_a_relay_direct_addresses_are_still_tried() {
        let now = Instant::now();
        let (peer, relay) = (PeerId::random(), PeerId::random());
        let mut table = Dialing::new(7);
        let direct = endpoint("/ip4/127.0.0.1/udp/9/quic-v1");
        let circuit = endpoint(&format!(
            "/ip4/127.0.0.1/tcp/7/p2p/{relay}/p2p-circuit/p2p/{peer}"
        ));
        table.learn(peer, [circuit.clone(), direct], Duration::ZERO, now);
        let ways: Vec<_> = (0..2)
            .map(|n| {
                let at = now + STAGGER * n;
                let attempt = table.poll_attempt(at).expect("due");
                table.started(&attempt, id(n as usize), at);
                attempt.way
            })
            .collect();
        assert_eq!(ways, [Way::Quic, Way::Circuit]);
        table.connected(id(1), peer, true);
        table.failed(id(0), Failure::Other, now);
        for n in 2..40 {
            let due = table.poll_timeout().expect("goes on");
            let attempt = table.poll_attempt(due).expect("due");
            assert_eq!((attempt.way, attempt.second), (Way::Quic, true));
            table.started(&attempt, id(n), due);
            table.failed(id(n), Failure::Other, due);
        }
        table.connected(id(99), peer, false);
        assert_eq!(table.poll_timeout(), None, "nothing better to be had");
        table.closed(peer, false, now);
        assert_eq!(table.poll_attempt(now + LONG).expect("due").way, Way::Quic);
        table.closed(peer, true, now);
        assert_eq!(
            table.circuits_to(peer).next(),
            Some(&circuit),
            "not forgotten"
        );
    }

    #[test]
    fn the_first_transport_failing_brings_the_second_forward() {
        let now = Instant::now();
        let mut table = Dialing::new(7);
        let both = [
            endpoint("/ip4/127.0.0.1/tcp/9"),
            endpoint("/ip4/127.0.0.1/udp/9/quic-v1"),
        ];
        table.learn(PeerId::random(), both, Duration::ZERO, now);
        let first = table.poll_attempt(now).expect("due");
        table.started(&first, id(1), now);
        table.failed(id(1), Failure::Other, now);
        let second = table.poll_attempt(now).expect("at once");
        assert_ne!(second.way, first.way);
    }

    #[test]
    fn learnt_peers_are_bounded_and_forgotten_hints_to_ourselves_are_dropped() {
        let now = Instant::now();
        let mut table = Dialing::new(7);
        for _ in 0..2 * MAX_PEERS {
            table.learn(
                PeerId::random(),
                [endpoint("/ip4/127.0.0.1/tcp/9")],
                LONG,
                now,
            );
        }
        assert_eq!(table.peers.len(), MAX_PEERS);

        let mut table = Dialing::new(7);
        let peer = PeerId::random();
        let many = (1..100).map(|port| endpoint(&format!("/ip4/127.0.0.1/tcp/{port}")));
        table.learn(peer, many, Duration::ZERO, now);
        assert_eq!(table.peers[&peer].endpoints.len(), MAX_ADDRESSES);
        let mut at = now;
        for n in 0..MAX_FAILURES as usize {
            let attempt = table.poll_attempt(at).expect("due");
            table.started(&attempt, id(n), at);
            table.failed(id(n), Failure::Other, at);
            at += LONG;
        }
        assert!(table.peers.is_empty());

        table.hint(endpoint("/ip4/127.0.0.1/tcp/9"), now);
        let attempt = table.poll_attempt(now).expect("due");
        table.started(&attempt, id(99), now);
        table.failed(id(99), Failure::Myself, now);
        assert_eq!(table.poll_timeout(), None);
    }

    #[test]
    fn hints_are_bounded() {
        let now = Instant::now();
        let mut table = Dialing::new(7);
        for port in 1..=MAX_HINTS {
            assert!(table.hint(endpoint(&format!("/ip4/127.0.0.1/tcp/{port}")), now));
        }
        assert!(
            table.hint(endpoint("/ip4/127.0.0.1/tcp/1"), now),
            "known already"
        );
        assert!(!table.hint(endpoint("/ip4/127.0.0.1/tcp/999"), now));
    }
}
