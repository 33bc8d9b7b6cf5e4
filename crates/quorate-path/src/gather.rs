//! Gathering: asks every STUN server from which address our packets come, and concludes what kind
//! of address translator (NAT), if any, is in between.
//!
//! ```text
//!   set_servers ─► ask all (again after 0.25, 0.5, 1 s) ─► complete ─ 20 s ─► ask all again ─► …
//!                        answers: base ─► seen               mappings(), nat()
//! ```
//! One server alone tells an address; two different ones, or two ports of one, tell whether each
//! destination gets a port of its own (*endpoint-dependent mapping*, RFC 4787, section 4.1): such a
//! NAT can be reached only by who does not filter, so the other end has to be told. Asking again
//! keeps the mapping alive and notices when it changed.
//!
//! **Limits.** [`MAX_STUN_SERVERS`] servers, one question in flight each, [`STUN_TRIES`] datagrams of
//! 44 bytes per question. **Security.** An answer counts only if it came from the server that was
//! asked and carries the transaction of the question, which is derived from a secret seed. A server
//! may lie; the lie is a candidate like those of the peer: filtered, and useless unless it answers
//! authenticated checks.
//!
//! A router may also forward a port on request. What it says is a claim like any other, so it becomes a candidate only
//! if a server saw our packets come from the same public address ([`candidates`]): a router that names a stranger's
//! address would otherwise send the checks of all peers there.
//!
//! Source: RFC 8445, section 5.1.1; RFC 4787; RFC 8489.

use crate::{
    Candidate, Scope,
    candidate::{admit_address, is_public},
    limits::{
        MAX_STUN_SERVERS, STUN_FIRST_TIMEOUT, STUN_GRACE, STUN_PATIENCE, STUN_REFRESH, STUN_TRIES,
    },
    stun::{self, Request, Transaction},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// What is between this machine and the STUN servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// Not asked, or too few answers to tell.
    #[default]
    Unknown,
    /// Nothing: servers see our own address.
    None,
    /// A NAT that uses one port for all destinations.
    Independent,
    /// A NAT that uses a new port for each destination.
    Dependent,
    /// Something that lets no UDP through: no server answers.
    Blocked,
}

/// What one server saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// Our own address, at which the answer arrived.
    pub base: SocketAddr,
    /// The address the server saw.
    pub seen: SocketAddr,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    question: Option<Question>,
    answer: Option<Mapping>,
    /// The answer belongs to the present cycle.
    fresh: bool,
}

#[derive(Debug)]
struct Question {
    transaction: Transaction,
    asked: Instant,
    sent: u32,
    next: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub struct Gatherer {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
    scope: Scope,
    servers: Vec<Server>,
    /// When the present cycle began.
    began: Instant,
    /// Slowest answer of the present cycle.
    slowest: Option<Duration>,
    complete: bool,
    nat: Nat,
    /// Cycles without any answer, in a row.
    silent: u32,
}

impl Gatherer {
    /// A gatherer without servers, which is complete. `seed` comes from the operating-system
    /// generator.
    pub fn new(seed: Zeroizing<[u8; 32]>, scope: Scope, now: Instant) -> Self {
        Self {
            seed,
            counter: 0,
            scope,
            servers: Vec::new(),
            began: now,
            slowest: None,
            complete: true,
            nat: Nat::Unknown,
            silent: 0,
        }
    }

    /// Asks these servers from now on. What cannot be a server's address is left out.
    pub fn set_servers(&mut self, addresses: &[SocketAddr], now: Instant) {
        let mut wanted: Vec<SocketAddr> = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let room = wanted.len() < MAX_STUN_SERVERS && !wanted.contains(&address);
            if room && admit_address(address, self.scope).is_ok() {
                wanted.push(address);
            }
        }
        let same = wanted.len() == self.servers.len()
            && self.servers.iter().all(|s| wanted.contains(&s.address));
        if same {
            return;
        }
        self.servers.retain(|s| wanted.contains(&s.address));
        for address in wanted {
            if !self.servers.iter().any(|s| s.address == address) {
                self.servers.push(Server {
                    address,
                    question: None,
                    answer: None,
                    fresh: false,
                });
            }
        }
        // What other servers saw stands meanwhile.
        let known = self.servers.iter().any(|s| s.answer.is_some());
        self.complete = known || self.servers.is_empty();
        self.ask_all(now);
    }

    /// Forgets what was seen and asks anew: the machine's own addresses changed.
    pub fn restart(&mut self, now: Instant) {
        for server in &mut self.servers {
            server.answer = None;
        }
        self.nat = Nat::Unknown;
        self.silent = 0;
        self.complete = self.servers.is_empty();
        self.ask_all(now);
    }

    /// Asks again ahead of time: a path fell silent, so what servers see may have changed.
    pub fn refresh(&mut self, now: Instant) {
        let lately = now.saturating_duration_since(self.began) < STUN_GRACE;
        if self.is_settled() && !lately {
            self.ask_all(now);
        }
    }

    fn ask_all(&mut self, now: Instant) {
        self.began = now;
        self.slowest = None;
        for at in 0..self.servers.len() {
            let transaction = self.transaction();
            if let Some(server) = self.servers.get_mut(at) {
                server.fresh = false;
                server.question = Some(Question {
                    transaction,
                    asked: now,
                    sent: 0,
                    next: now,
                });
            }
        }
    }

    fn transaction(&mut self) -> Transaction {
        let mut hash = Sha256::new();
        hash.update(b"quorate/1/stun");
        hash.update(*self.seed);
        hash.update(self.counter.to_be_bytes());
        self.counter += 1;
        let digest: [u8; 32] = hash.finalize().into();
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&digest[..12]);
        transaction
    }

    /// Takes an answer that came from `source` to our own address `base`. `false`: to no question
    /// of ours.
    pub fn handle_answer(
        &mut self,
        bytes: &[u8],
        source: SocketAddr,
        base: SocketAddr,
        now: Instant,
    ) -> bool {
        let Ok((transaction, seen)) = stun::parse_response(bytes) else {
            return false;
        };
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let asked = |s: &&mut Server| {
            let open = s.question.as_ref().map(|q| q.transaction);
            s.address == source && open == Some(transaction)
        };
        let Some(server) = self.servers.iter_mut().find(asked) else {
            return false;
        };
        let Some(question) = server.question.take() else {
            return false;
        };
        let took = now.saturating_duration_since(question.asked);
        if admit_address(seen, self.scope).is_ok() {
            server.answer = Some(Mapping { base, seen });
            server.fresh = true;
            self.slowest = self.slowest.max(Some(took));
        }
        self.conclude(now);
        true
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_cycle().is_some_and(|at| at <= now) {
            self.ask_all(now);
        }
        self.conclude(now);
    }

    /// The next datagram to send, and to which server.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        for server in &mut self.servers {
            let Some(question) = &mut server.question else {
                continue;
            };
            if question.next <= now && question.sent < STUN_TRIES {
                let pause = STUN_FIRST_TIMEOUT * (1 << question.sent.min(8));
                question.sent += 1;
                question.next = now + pause;
                return Some((server.address, Request::new(question.transaction).encode()));
            }
        }
        None
    }

    /// When to call [`Gatherer::handle_timeout`] again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let questions = self.servers.iter().filter_map(|s| s.question.as_ref());
        let resend = questions
            .filter(|q| q.sent < STUN_TRIES)
            .map(|q| q.next)
            .min();
        let done = (!self.is_settled()).then(|| self.settles_at());
        [resend, done, self.next_cycle()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether waiting for more answers is of no use.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What is in between, as far as known.
    pub fn nat(&self) -> Nat {
        self.nat
    }

    /// What the servers saw, each combination once; addresses that are our own are left out.
    pub fn mappings(&self) -> BTreeSet<Mapping> {
        let answers = self.servers.iter().filter_map(|s| s.answer);
        answers.filter(|m| m.seen != m.base).collect()
    }

    /// Whether there are servers.
    pub fn asks(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Whether servers saw our packets come from addresses of that family, but none from this one.
    pub fn sees_others_than(&self, ip: IpAddr) -> bool {
        let alike = |m: &Mapping| m.seen.is_ipv4() == ip.is_ipv4();
        let seen = self.servers.iter().filter_map(|s| s.answer.as_ref());
        !self.saw(ip) && seen.into_iter().any(alike)
    }

    /// Whether a server saw our packets come from this address, whatever their port.
    pub fn saw(&self, ip: IpAddr) -> bool {
        let mut answers = self.servers.iter().filter_map(|s| s.answer);
        answers.any(|m| m.seen.ip().to_canonical() == ip.to_canonical())
    }

    fn is_settled(&self) -> bool {
        self.servers.iter().all(|s| s.question.is_none())
    }

    /// When the open questions of this cycle are given up.
    fn settles_at(&self) -> Instant {
        match self.slowest {
            Some(slowest) => self.began + (slowest * 3).max(STUN_GRACE).min(STUN_PATIENCE),
            None => self.began + STUN_PATIENCE,
        }
    }

    fn next_cycle(&self) -> Option<Instant> {
        (!self.servers.is_empty() && self.is_settled()).then(|| self.began + STUN_REFRESH)
    }

    fn conclude(&mut self, now: Instant) {
        if self.servers.is_empty() {
            self.complete = true;
            self.nat = Nat::Unknown;
            return;
        }
        if !self.is_settled() && now >= self.settles_at() {
            for server in &mut self.servers {
                server.question = None;
            }
            // Its servers may be gone for other reasons, so one silent cycle is not enough once
            // there were answers.
            self.silent += 1;
        }
        if !self.is_settled() {
            return;
        }
        if self.servers.iter().any(|s| s.fresh) {
            self.silent = 0;
        }
        self.nat = self.judge();
        self.complete = true;
    }

    fn judge(&self) -> Nat {
        let fresh: Vec<Mapping> = self
            .servers
            .iter()
            .filter(|s| s.fresh)
            .filter_map(|s| s.answer)
            .collect();
        // IPv4 is where the trouble is; IPv6 counts where nothing else answers.
        let v4: Vec<Mapping> = fresh.iter().filter(|m| m.seen.is_ipv4()).copied().collect();
        let answers = if v4.is_empty() { fresh } else { v4 };
        let (Some(first), count) = (answers.first(), answers.len()) else {
            let known = self.servers.iter().any(|s| s.answer.is_some());
            return if known && self.silent < 3 {
                self.nat
            } else {
                Nat::Blocked
            };
        };
        if answers.iter().all(|m| m.seen == m.base) {
            Nat::None
        } else if answers
            .iter()
            .any(|m| m.base == first.base && m.seen != first.seen)
        {
            Nat::Dependent
        } else if count > 1 {
            Nat::Independent
        } else if self.nat == Nat::Dependent {
            Nat::Dependent
        } else {
            Nat::Unknown
        }
    }
}

/// What can be offered to a peer: own addresses, the port that a router says it forwards (`mapped`: where, and to
/// which own address), and what servers saw of the own addresses.
pub fn candidates(
    hosts: &[Candidate],
    gatherer: &Gatherer,
    mapped: Option<Mapping>,
) -> Vec<Candidate> {
    let mut candidates = hosts.to_vec();
    if let Some(Mapping { base, seen }) = mapped.filter(|m| is_ours(m.seen, gatherer))
        && hosts.iter().any(|c| c.address == base)
        && !hosts.iter().any(|c| c.address == seen)
    {
        candidates.push(Candidate::port_mapped(seen, base));
    }
    let mut rank = 0;
    for Mapping { base, seen } in gatherer.mappings() {
        let known = candidates.iter().any(|c| c.address == seen);
        if !known && hosts.iter().any(|c| c.address == base) {
            let mut candidate = Candidate::server_reflexive(seen, base);
            candidate.priority -= rank << 9;
            rank += 1;
            candidates.push(candidate);
        }
    }
    candidates
}

/// Whether what a router says may be told to others.
fn is_ours(outside: SocketAddr, gatherer: &Gatherer) -> bool {
    is_public(outside.ip())
        && gatherer.saw(outside.ip())
        && admit_address(outside, gatherer.scope).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::CandidateKind;

    const BASE: &str = "192.168.1.2:5000";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn gatherer(servers: &[&str], now: Instant) -> Gatherer {
        let mut gatherer = Gatherer::new(Zeroizing::new([7; 32]), Scope::Lan, now);
        let servers: Vec<SocketAddr> = servers.iter().map(|s| address(s)).collect();
        gatherer.set_servers(&servers, now);
        gatherer
    }

    /// Answers everything that is asked, seen through `nat`.
    fn serve(
        g: &mut Gatherer,
        now: Instant,
        nat: impl Fn(SocketAddr) -> Option<SocketAddr>,
    ) -> usize {
        let mut count = 0;
        while let Some((server, bytes)) = g.poll_transmit(now) {
            count += 1;
            if let Some(seen) = nat(server) {
                let answer = stun::answer(&bytes, seen).unwrap();
                assert!(g.handle_answer(&answer, server, address(BASE), now));
            }
        }
        count
    }

    const TWO: [&str; 2] = ["203.0.113.9:4002", "203.0.113.9:4003"];

    #[test]
    fn one_port_for_all_and_one_port_for_each_are_told_apart() {
        let now = Instant::now();
        let mut g = gatherer(&TWO, now);
        assert!(!g.is_complete());
        serve(&mut g, now, |_| Some(address("198.51.100.1:7000")));
        assert!(g.is_complete());
        assert_eq!(g.nat(), Nat::Independent);
        assert_eq!(g.mappings().len(), 1);

        let mut g = gatherer(&TWO, now);
        serve(&mut g, now, |s| {
            Some(SocketAddr::new(
                address("198.51.100.1:0").ip(),
                s.port() + 9,
            ))
        });
        assert_eq!(g.nat(), Nat::Dependent);
        assert_eq!(g.mappings().len(), 2);

        let mut g = gatherer(&TWO, now);
        serve(&mut g, now, |_| Some(address(BASE)));
        assert_eq!(g.nat(), Nat::None);
        assert!(g.mappings().is_empty());

        let mut g = gatherer(&TWO[..1], now);
        serve(&mut g, now, |_| Some(address("198.51.100.1:7000")));
        assert_eq!(g.nat(), Nat::Unknown);
    }

    #[test]
    fn a_mapped_port_is_offered_only_at_an_address_that_a_server_saw() {
        let now = Instant::now();
        let base = address(BASE);
        let hosts = [Candidate::host(base)];
        let offered = |seen: &str, g: &Gatherer| {
            let seen = address(seen);
            let all = candidates(&hosts, g, Some(Mapping { base, seen }));
            all.iter().any(|c| c.kind == CandidateKind::PortMapped)
        };
        let mut g = gatherer(&TWO, now);
        assert!(!offered("198.51.100.1:6000", &g), "nobody has seen it yet");
        serve(&mut g, now, |_| Some(address("198.51.100.1:7000")));
        assert!(offered("198.51.100.1:6000", &g));
        assert!(!offered("198.51.100.2:6000", &g), "a stranger's address");
        assert!(!offered("198.51.100.1:0", &g));
        let elsewhere = Mapping {
            base: address("192.168.1.9:5000"),
            seen: address("198.51.100.1:6000"),
        };
        assert_eq!(candidates(&hosts, &g, Some(elsewhere)).len(), 2);
        // The port that servers see is the one that is forwarded: one candidate, of the better kind.
        let seen = address("198.51.100.1:7000");
        let kinds: Vec<CandidateKind> = candidates(&hosts, &g, Some(Mapping { base, seen }))
            .iter()
            .map(|c| c.kind)
            .collect();
        assert_eq!(kinds, [CandidateKind::Host, CandidateKind::PortMapped]);

        // Behind a carrier's NAT whose server is the carrier's: not public, so of no use to others.
        let mut g = gatherer(&TWO, now);
        serve(&mut g, now, |_| Some(address("100.64.0.2:7000")));
        assert!(!offered("100.64.0.2:6000", &g));
    }

    #[test]
    fn silence_is_udp_blocked_after_a_bounded_number_of_questions() {
        let begin = Instant::now();
        let mut g = gatherer(&TWO, begin);
        let (mut now, mut sent) = (begin, 0);
        while !g.is_complete() {
            sent += serve(&mut g, now, |_| None);
            now = g.poll_timeout().unwrap();
            g.handle_timeout(now);
        }
        assert!(now - begin <= STUN_PATIENCE, "{:?}", now - begin);
        assert_eq!(sent, 2 * STUN_TRIES as usize);
        assert_eq!(g.nat(), Nat::Blocked);
    }

    #[test]
    fn a_dead_server_holds_nothing_up() {
        let begin = Instant::now();
        let mut g = gatherer(
            &["203.0.113.9:4002", "203.0.113.9:4003", "203.0.113.7:1"],
            begin,
        );
        let nat = |s: SocketAddr| (s.port() > 1).then(|| address("198.51.100.1:7000"));
        let mut now = begin;
        while !g.is_complete() {
            serve(&mut g, now, nat);
            now = g.poll_timeout().unwrap();
            g.handle_timeout(now);
        }
        assert!(now - begin <= STUN_GRACE, "{:?}", now - begin);
        assert_eq!(g.nat(), Nat::Independent);
    }

    #[test]
    fn a_mapping_that_changed_is_noticed_and_a_lost_server_forgets_nothing_at_once() {
        let mut now = Instant::now();
        let mut g = gatherer(&TWO, now);
        serve(&mut g, now, |_| Some(address("198.51.100.1:7000")));
        now = g.poll_timeout().unwrap();
        g.handle_timeout(now);
        assert!(
            g.is_complete(),
            "the last result stands while it is refreshed"
        );
        serve(&mut g, now, |_| Some(address("198.51.100.5:7100")));
        let seen: Vec<SocketAddr> = g.mappings().iter().map(|m| m.seen).collect();
        assert_eq!(seen, [address("198.51.100.5:7100")]);
        for _ in 0..2 {
            now += STUN_REFRESH;
            g.handle_timeout(now);
            serve(&mut g, now, |_| None);
            now += STUN_PATIENCE;
            g.handle_timeout(now);
        }
        assert_eq!((g.nat(), g.mappings().len()), (Nat::Independent, 1));
    }

    #[test]
    fn a45_answers_nobody_asked_for_are_not_taken() {
        let now = Instant::now();
        let mut g = gatherer(&TWO, now);
        let (server, bytes) = g.poll_transmit(now).unwrap();
        let seen = address("198.51.100.1:7000");
        let answer = stun::answer(&bytes, seen).unwrap();
        let (base, other) = (address(BASE), address("203.0.113.66:4002"));
        assert!(
            !g.handle_answer(&answer, other, base, now),
            "another source"
        );
        let mut forged = answer.clone();
        forged[12] ^= 1;
        assert!(
            !g.handle_answer(&forged, server, base, now),
            "another transaction"
        );
        assert!(g.handle_answer(&answer, server, base, now));
        assert!(!g.handle_answer(&answer, server, base, now), "a repetition");
    }

    #[test]
    fn a48_a_server_cannot_make_us_offer_what_is_no_peers_address() {
        let now = Instant::now();
        for lie in [
            "127.0.0.1:9",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "0.0.0.0:9",
            "1.2.3.4:0",
        ] {
            let mut g = gatherer(&TWO, now);
            serve(&mut g, now, |_| Some(address(lie)));
            assert!(g.mappings().is_empty(), "{lie} was taken");
        }
        let g = gatherer(&["127.0.0.1:9", "224.0.0.1:9"], now);
        assert!(g.servers.is_empty());
        let many: Vec<SocketAddr> = (1..60)
            .map(|i| SocketAddr::from(([9, 9, 9, 9], i)))
            .collect();
        let mut g = gatherer(&[], now);
        g.set_servers(&many, now);
        assert_eq!(g.servers.len(), MAX_STUN_SERVERS);
    }
}
