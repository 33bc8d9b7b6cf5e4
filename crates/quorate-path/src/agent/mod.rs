//! The agent: one per peer, finds and keeps the path.
//!
//! A *round* is one search for a direct path, with credentials of its own (an ICE restart):
//! ```text
//!   controlling (lower index)                              controlled
//!     | signal{round, host candidates} <──────────────────> |   checks of host candidates begin
//!     | signal{all candidates, complete} <────────────────> |
//!     | signal{go} ───────────────────────────────────────► |   its checks begin at once
//!     |   half a round trip of signals later: ours begin    |
//!     | checks ◄──────────────────────────────────────────► |   Direct on both, or a later round
//! ```
//! **Why the start is simultaneous.** Some NATs take a packet that comes in before anything went out for a connection
//! to themselves, and then send ours from another port. So translated addresses are checked only when both ends know
//! each other's and opened their NATs (see `opener`), and the first packets cross on the way: they start within less
//! than the one-way delay of each other, as long as signals travel equally long both ways.
//!
//! **What is used.** See `choice`: a direct path that answers, else the lane, else nothing. A new round begins when own
//! addresses change, when a direct path falls silent (the old round's checks go on until the new one has a path), and
//! now and then while a pair is relayed. The peer follows: a signal of a higher round replaces what was before.
//!
//! The driver calls one of the methods that take `now`, then drains `poll_event` (and obeys it),
//! `poll_transmit` and `poll_signal`, then sleeps until `poll_timeout`. Events come before
//! packets on purpose: a `Source` must be known before the peer hears our answer and sends data.

mod budget;
mod choice;
mod moved;
mod opener;
mod transmit;

pub use transmit::Transmit;

use crate::{
    Candidate, CandidateKind, Credentials, How, Lane, Nat, Path, PathEvent, Policy, Reason,
    Refusal, Scope,
    candidate::{admit_address, filter},
    limits::{
        CHECK_INTERVAL, CHECK_WINDOW, FIRST_CHECK_TIMEOUT, MAX_CHECK_BYTES, MAX_CHECKS_PER_WINDOW,
        MAX_PAIRS, MAX_REMOTE_CANDIDATES, MAX_ROUND_STEP, MAX_SIGNALS_PER_WINDOW, MAX_SOURCES,
        MAX_START_DELAY, MAX_UNANSWERED, PACE, PACE_LOCAL, RETRY_FIRST, RETRY_LAST, ROUND_FIRST,
        ROUND_PAUSE, SIGNAL_PAUSE, SIGNAL_REPEAT, SIGNAL_WINDOW, START_PATIENCE,
    },
    signal::Signal,
};
use budget::Budget;
use is::{
    IceAgent, IceAgentEvent, IceConnectionState, IceCreds, Protocol,
    stun::{StunMessage, StunPacket},
};
use opener::Openers;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// What an agent is made of.
pub struct AgentConfig {
    /// Where the credentials of all rounds come from: drawn by the caller from the
    /// operating-system generator, for this peer and mesh alone.
    pub seed: Zeroizing<[u8; 32]>,
    /// Whether this end chooses the path: the lower index does.
    pub controlling: bool,
    /// Where the peer may be.
    pub scope: Scope,
    /// Which paths are allowed.
    pub policy: Policy,
}

/// What the peer told in this round.
#[derive(Debug)]
struct Remote {
    ufrag: String,
    list: u32,
    complete: bool,
    nat: Nat,
    candidates: Vec<Candidate>,
    /// The version of our list that it has.
    seen: Option<u32>,
    /// It said that its checks began.
    gone: bool,
    /// When its first signal of this round came.
    since: Instant,
}

/// The simultaneous start of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Not everything is known yet.
    Waiting,
    /// Agreed on: then.
    At(Instant),
    /// Checks of all addresses began then.
    Begun(Instant),
}

/// The direct path that was nominated last.
#[derive(Debug)]
struct Direct {
    local: SocketAddr,
    remote: SocketAddr,
    /// It was found in the round before the present one, whose checks still go on.
    old: bool,
    /// Answers so far, and when the last one came.
    answers: u64,
    alive: Instant,
    /// What kind of path it is and why; kept while a new round knows nothing of the peer yet.
    known: Option<(How, Reason)>,
}

/// Finds and keeps the path to one peer.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of their own, of which every combination happens"
)]
pub struct Agent {
    config: AgentConfig,
    born: Instant,
    /// The checks of this round, and of the one before while its path is the one in use.
    ice: IceAgent,
    before: Option<IceAgent>,
    round: u32,
    round_began: Instant,
    credentials: Credentials,

    local: Vec<Candidate>,
    list: u32,
    complete: bool,
    nat: Nat,
    /// Own addresses were told to the agent, so there is something to signal.
    told: bool,

    remote: Option<Remote>,
    remote_count: usize,
    start: Start,
    openers: Openers,
    /// The peer's last stamp and when it came; the round trip of signals.
    echo: Option<(u64, Instant)>,
    signal_rtt: Option<Duration>,
    signal_at: Option<Instant>,
    signalled: Option<Instant>,

    sources: VecDeque<SocketAddr>,
    /// What the peer saw as our address, by own and its address.
    mapped: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    direct: Option<Direct>,
    elsewhere: Option<moved::Elsewhere>,
    /// The peer was followed to another address in this round.
    moved: bool,
    lane: Option<Lane>,
    path: Path,
    reason: Reason,
    /// A search came to nothing since the last direct path.
    failed: bool,

    retry: Option<Instant>,
    retry_pause: Duration,
    next_round: Option<Instant>,
    next_pause: Duration,
    /// Searches that came to nothing since the last direct path.
    tries: u32,
    /// This round's search is over, and its checks with it.
    halted: bool,
    signals: Budget,
    checks: Budget,
    events: VecDeque<PathEvent>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("round", &self.round)
            .field("path", &self.path)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent without candidates; tell it own addresses, then exchange signals.
    pub fn new(config: AgentConfig, now: Instant) -> Self {
        let credentials = Credentials::derive(&config.seed, 0);
        let mut agent = Self {
            ice: checks(&config, &credentials),
            before: None,
            round: 0,
            round_began: now,
            credentials,
            config,
            born: now,
            local: Vec::new(),
            list: 0,
            complete: false,
            nat: Nat::Unknown,
            told: false,
            remote: None,
            remote_count: 0,
            start: Start::Waiting,
            openers: Openers::default(),
            echo: None,
            signal_rtt: None,
            signal_at: None,
            signalled: None,
            sources: VecDeque::new(),
            mapped: BTreeMap::new(),
            direct: None,
            elsewhere: None,
            moved: false,
            lane: None,
            path: Path::Down { since: None },
            reason: Reason::Searching,
            failed: false,
            retry: None,
            retry_pause: RETRY_FIRST,
            next_round: None,
            next_pause: ROUND_FIRST,
            tries: 0,
            halted: false,
            signals: Budget::new(SIGNAL_WINDOW, MAX_SIGNALS_PER_WINDOW, now),
            checks: Budget::new(CHECK_WINDOW, MAX_CHECKS_PER_WINDOW, now),
            events: VecDeque::new(),
        };
        agent.reason = agent.why_not_direct(now);
        agent.step(now);
        agent
    }

    // --- what is told ---

    /// Tells all own addresses: what can be offered to the peer, whether more are being gathered,
    /// and what is in between. Own addresses that are gone end the paths that used them.
    pub fn set_local(
        &mut self,
        candidates: Vec<Candidate>,
        complete: bool,
        nat: Nat,
        now: Instant,
    ) {
        if self.config.policy == Policy::Relay {
            return;
        }
        let mut candidates = filter(candidates, self.config.scope);
        if nat == Nat::Dependent {
            self.keep_known_ports(&mut candidates);
        }
        let is_in = |list: &[Candidate], c: &Candidate| list.iter().any(|k| same(k, c));
        let lost = self.local.iter().any(|c| !is_in(&candidates, c));
        let gained: Vec<Candidate> = candidates
            .iter()
            .filter(|c| !is_in(&self.local, c))
            .cloned()
            .collect();
        let same_rest = complete == self.complete && nat == self.nat;
        if self.told && !lost && gained.is_empty() && same_rest {
            return;
        }
        self.told = true;
        self.list = self.list.wrapping_add(1);
        self.local = candidates;
        self.complete = complete;
        self.nat = nat;
        if let Some(direct) = &self.direct
            && !self.owns(direct.local)
        {
            self.direct = None;
            self.before = None;
            self.restart(now);
        } else if (lost || !gained.is_empty()) && self.direct.is_none() && self.has_begun() {
            self.restart(now);
        } else {
            self.offer_all();
            if lost {
                self.withdraw();
            }
            self.signal_soon(now);
        }
        self.consider_start(now);
        self.step(now);
    }

    /// Such a NAT maps anew all the time; its address counts, a change of port is no news.
    fn keep_known_ports(&self, candidates: &mut Vec<Candidate>) {
        let known = |c: &Candidate| {
            let alike = |k: &&Candidate| {
                k.kind == CandidateKind::ServerReflexive
                    && k.address.ip() == c.address.ip()
                    && k.base == c.base
            };
            self.local.iter().find(alike).cloned()
        };
        let mut kept: Vec<Candidate> = Vec::new();
        for candidate in candidates.drain(..) {
            let candidate = match candidate.kind {
                CandidateKind::ServerReflexive => known(&candidate).unwrap_or(candidate),
                _ => candidate,
            };
            if !kept.iter().any(|k| same(k, &candidate)) {
                kept.push(candidate);
            }
        }
        *candidates = kept;
    }

    /// Adds the own addresses to the checks. Translated ones are sent from their base, which is there
    /// already, so only the peer needs to know them.
    fn offer_all(&mut self) {
        for candidate in &mut self.local {
            if candidate.kind == CandidateKind::Host
                && let Ok(host) = is::Candidate::host(candidate.address, Protocol::Udp)
                && let Some(added) = self.ice.add_local_candidate(host)
            {
                // What the checks go by; the peer has to rank the pair alike.
                candidate.priority = added.prio();
            }
        }
        self.open_ways();
    }

    fn owns(&self, address: SocketAddr) -> bool {
        let host = |c: &&Candidate| c.kind == CandidateKind::Host;
        self.local.iter().filter(host).any(|c| c.address == address)
    }

    /// Takes own addresses that are gone out of the checks.
    fn withdraw(&mut self) {
        let gone: Vec<is::Candidate> = self
            .ice
            .local_candidates()
            .filter(|c| c.kind() == is::CandidateKind::Host && !self.owns(c.addr()))
            .collect();
        for candidate in &gone {
            self.ice.invalidate_candidate(candidate);
        }
    }

    /// Tells whether there is a lane to the peer, and over which relay it goes.
    pub fn set_lane(&mut self, lane: Option<Lane>, now: Instant) {
        if lane != self.lane {
            self.lane = lane;
            self.step(now);
        }
    }

    /// Takes a signal of the peer.
    pub fn handle_signal(&mut self, bytes: &[u8], now: Instant) -> Result<(), Refusal> {
        if !self.signals.spend(now) {
            return Err(Refusal::RateLimited);
        }
        let signal = Signal::parse(bytes, self.config.scope)?;
        if self.config.policy == Policy::Relay {
            return Ok(());
        }
        if signal.round < self.round {
            // It follows when it reads ours.
            self.signal_soon(now);
            return Ok(());
        }
        if signal.round > self.round {
            if signal.round - self.round > MAX_ROUND_STEP {
                return Err(Refusal::Round(signal.round));
            }
            self.begin_round(signal.round, now);
        }
        self.take_signal(signal, now);
        self.consider_start(now);
        if !self.halted {
            self.ice.handle_timeout(now);
        }
        self.step(now);
        Ok(())
    }

    fn take_signal(&mut self, signal: Signal, now: Instant) {
        let ours = self.credentials.ufrag.as_str();
        let seen = (signal.have.as_deref() == Some(ours)).then_some(signal.seen);
        self.echo = Some((signal.stamp, now));
        if let Some((stamp, held)) = signal.echo.filter(|_| seen.is_some()) {
            let trip = self.micros(now).checked_sub(stamp.saturating_add(held));
            self.signal_rtt = trip.map(Duration::from_micros).or(self.signal_rtt);
        }
        let ufrag = &signal.credentials.ufrag;
        if self.remote.as_ref().is_none_or(|r| r.ufrag != *ufrag) {
            if self.remote.is_some() {
                // Another mesh of the peer: nothing of the one before counts.
                self.renew();
            }
            self.ice.set_remote_credentials(IceCreds {
                ufrag: ufrag.clone(),
                pass: String::clone(&signal.credentials.password),
            });
            self.remote = Some(Remote {
                ufrag: ufrag.clone(),
                list: signal.list.wrapping_sub(1),
                complete: false,
                nat: Nat::Unknown,
                candidates: Vec::new(),
                seen: None,
                gone: false,
                since: now,
            });
        }
        let Some(remote) = &mut self.remote else {
            return;
        };
        // The peer repeats itself until it reads in our signal that we know this.
        let news = remote.list != signal.list || remote.gone != signal.go;
        remote.list = signal.list;
        remote.complete = signal.complete;
        remote.nat = signal.nat;
        remote.candidates = signal.candidates;
        remote.seen = seen;
        remote.gone |= signal.go;
        let go = signal.go && !self.config.controlling && self.start == Start::Waiting;
        if go {
            self.begin(now);
        }
        self.open_ways();
        self.add_remote();
        if self.is_acknowledged() {
            self.signal_at = None;
        }
        if news || !self.is_acknowledged() {
            self.signal_soon(now);
        }
    }

    /// The peer has everything we told.
    fn is_acknowledged(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| {
            remote.seen == Some(self.list) && (self.start == Start::Waiting || remote.gone)
        })
    }

    // --- rounds ---

    /// Begins a round of our own accord, unless one began just now.
    fn restart(&mut self, now: Instant) {
        let lately = now.saturating_duration_since(self.round_began) < ROUND_PAUSE;
        if self.remote.is_none() || (lately && self.round > 0) {
            // The peer has not answered to this round yet: it learns the news in it.
            self.renew();
            self.signal_soon(now);
        } else {
            self.begin_round(self.round.saturating_add(1), now);
        }
    }

    fn begin_round(&mut self, round: u32, now: Instant) {
        self.round = round;
        self.round_began = now;
        self.credentials = Credentials::derive(&self.config.seed, round);
        self.next_round = None;
        self.signal_rtt = None;
        self.renew();
        self.signal_soon(now);
    }

    /// Starts the checks of this round over; those of a path in use go on beside them.
    fn renew(&mut self) {
        let fresh = checks(&self.config, &self.credentials);
        let ended = std::mem::replace(&mut self.ice, fresh);
        match &mut self.direct {
            Some(direct) if !direct.old => {
                direct.old = true;
                self.before = Some(ended);
            }
            Some(_) => {}
            None => self.before = None,
        }
        self.offer_all();
        self.remote = None;
        self.remote_count = 0;
        self.start = Start::Waiting;
        self.openers = Openers::default();
        self.moved = false;
        self.halted = false;
        self.retry = None;
        self.retry_pause = RETRY_FIRST;
    }

    fn has_begun(&self) -> bool {
        matches!(self.start, Start::Begun(_))
    }

    /// Fixes the start of this round, if it is time.
    fn consider_start(&mut self, now: Instant) {
        if let Start::At(at) = self.start
            && at <= now
        {
            self.begin(now);
        }
        let (Some(remote), Start::Waiting) = (&self.remote, self.start) else {
            return;
        };
        let translated = |list: &[Candidate]| list.iter().any(|c| c.kind != CandidateKind::Host);
        let ready = self.complete && remote.complete && remote.seen == Some(self.list);
        let patience = self.patience(remote);
        if self.config.controlling && (ready || patience <= now) {
            let delay = if translated(&self.local) || translated(&remote.candidates) {
                self.signal_rtt.unwrap_or_default() / 2
            } else {
                Duration::ZERO
            };
            self.start = Start::At(now + delay.min(MAX_START_DELAY));
            self.signal_at = Some(now);
            self.consider_start(now);
        } else if patience <= now {
            self.begin(now);
        }
    }

    /// When the start happens without agreement.
    fn patience(&self, remote: &Remote) -> Instant {
        let factor = if self.config.controlling { 1 } else { 2 };
        remote.since + START_PATIENCE * factor
    }

    fn begin(&mut self, now: Instant) {
        self.start = Start::Begun(now);
        self.add_remote();
        self.ice.handle_timeout(now);
    }

    /// Checks what the peer offers: translated addresses only after the start.
    fn add_remote(&mut self) {
        let begun = self.has_begun();
        let Some(remote) = &self.remote else { return };
        for candidate in &remote.candidates {
            let kind = match candidate.kind {
                CandidateKind::Host => is::CandidateKind::Host,
                _ if !begun => continue,
                _ => is::CandidateKind::ServerReflexive,
            };
            // Under a name of its own after the peer was followed.
            let known = self
                .ice
                .remote_candidates()
                .any(|c| c.addr() == candidate.address && (c.kind() == kind || self.moved));
            if known || self.remote_count >= MAX_REMOTE_CANDIDATES {
                continue;
            }
            self.ice.add_remote_candidate(is::Candidate::from_parts(
                self.remote_count.to_string(),
                1,
                Protocol::Udp,
                candidate.priority,
                candidate.address,
                kind,
                None,
                None,
                None,
            ));
            self.remote_count += 1;
        }
    }

    // --- packets and time ---

    /// Whether this STUN message carries our credentials. Use it to find the agent of a message
    /// that came in on a shared socket.
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        bytes.len() <= MAX_CHECK_BYTES
            && StunMessage::parse(bytes).is_ok_and(|m| {
                let old = |before: &IceAgent| before.accepts_message(&m);
                self.ice.accepts_message(&m) || self.before.as_ref().is_some_and(old)
            })
    }

    /// Takes a STUN message. `false`: not ours, over the limit, or from an impossible address.
    pub fn handle_packet(
        &mut self,
        bytes: &[u8],
        source: SocketAddr,
        destination: SocketAddr,
        now: Instant,
    ) -> bool {
        if bytes.len() > MAX_CHECK_BYTES || admit_address(source, self.config.scope).is_err() {
            return false;
        }
        let Ok(message) = StunMessage::parse(bytes) else {
            return false;
        };
        let ours = self.ice.accepts_message(&message);
        let ice = match &mut self.before {
            _ if ours => &mut self.ice,
            Some(before) if before.accepts_message(&message) => before,
            _ => return false,
        };
        if !self.checks.spend(now) || moved::is_one_source_too_many(ice, &message, source) {
            return false;
        }
        if message.is_successful_binding_response()
            && let Some(seen) = message.mapped_address()
        {
            if self.mapped.len() >= MAX_SOURCES {
                self.mapped.pop_first();
            }
            self.mapped.insert((destination, source), seen);
        }
        let packet = StunPacket {
            proto: Protocol::Udp,
            source,
            destination,
            message,
        };
        let (check, old) = (packet.message, !ours);
        let taken = ice.handle_packet(now, packet);
        if taken {
            self.note_check(&check, source, old, now);
        }
        self.step(now);
        taken
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_round.is_some_and(|at| at <= now) {
            self.next_round = None;
            self.begin_round(self.round.saturating_add(1), now);
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            if self.ice.state() == IceConnectionState::Disconnected {
                self.ice.recreate_candidate_pairs();
                self.retry_pause = (self.retry_pause * 2).min(RETRY_LAST);
            }
        }
        self.consider_start(now);
        if !self.halted {
            self.ice.handle_timeout(now);
        }
        if let Some(before) = &mut self.before {
            before.handle_timeout(now);
        }
        self.step(now);
    }

    /// The signal the peer still has to get, if it is time for it.
    pub fn poll_signal(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.signal_at? > now || !self.told {
            return None;
        }
        self.signal_at = (!self.is_acknowledged()).then(|| now + SIGNAL_REPEAT);
        self.signalled = Some(now);
        let held = |at: Instant| micros(now.saturating_duration_since(at));
        let signal = Signal {
            round: self.round,
            credentials: self.credentials.clone(),
            have: self.remote.as_ref().map(|r| r.ufrag.clone()),
            list: self.list,
            seen: self.remote.as_ref().map_or(0, |r| r.list),
            complete: self.complete,
            nat: self.nat,
            stamp: self.micros(now),
            echo: self.echo.map(|(stamp, at)| (stamp, held(at))),
            go: self.start != Start::Waiting,
            candidates: self.local.clone(),
        };
        Some(signal.encode())
    }

    /// The next STUN message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let old = |before: &mut Option<IceAgent>| before.as_mut()?.poll_transmit();
        if let Some(opener) = self.openers.poll_transmit() {
            return Some(opener);
        }
        let transmit = match self.ice.poll_transmit() {
            Some(transmit) => transmit,
            None => old(&mut self.before)?,
        };
        Some(Transmit {
            source: transmit.source,
            destination: transmit.destination,
            contents: transmit.contents.to_vec(),
            hops: None,
        })
    }

    /// When to call [`Agent::handle_timeout`] again, and for what.
    pub fn poll_timeout(&mut self) -> Option<(Instant, &'static str)> {
        let check = self.ice.poll_timeout().filter(|_| !self.halted);
        let check = check.map(|at| (at, "check"));
        let old = self.before.as_mut().and_then(IceAgent::poll_timeout);
        let old = old.map(|at| (at, "check of the old path"));
        let signal = self
            .signal_at
            .filter(|_| self.told)
            .map(|at| (at, "signal"));
        let retry = self.retry.map(|at| (at, "retry"));
        let round = self.next_round.map(|at| (at, "round"));
        let start = match (self.start, &self.remote) {
            (Start::At(at), _) => Some((at, "start")),
            (Start::Waiting, Some(remote)) => Some((self.patience(remote), "start")),
            _ => None,
        };
        let choice = self.next_choice().map(|at| (at, "choice of a path"));
        [check, old, signal, retry, round, start, choice]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// The next thing this agent found out.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// The path in use.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why it is that one.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Which search for a direct path this is, from 0.
    pub fn round(&self) -> u32 {
        self.round
    }

    fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.born))
    }

    fn signal_soon(&mut self, now: Instant) {
        let soon = self.signalled.map_or(now, |at| now.max(at + SIGNAL_PAUSE));
        self.signal_at = Some(self.signal_at.map_or(soon, |at| at.min(soon)));
    }

    /// Takes what the checks found out, then decides on the path.
    fn step(&mut self, now: Instant) {
        self.take_events(now);
        self.choose(now);
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            self.take_event(&event, false, now);
        }
        while let Some(event) = self.before.as_mut().and_then(IceAgent::poll_event) {
            self.take_event(&event, true, now);
        }
    }

    fn take_event(&mut self, event: &IceAgentEvent, old: bool, now: Instant) {
        match event {
            IceAgentEvent::DiscoveredRecv { source, .. } => self.add_source(*source),
            IceAgentEvent::NominatedSend {
                source,
                destination,
                ..
            } => self.take_direct(*source, *destination, old, now),
            // The choice looks at the state itself.
            IceAgentEvent::IceConnectionStateChange(_) | IceAgentEvent::IceRestart(_) => {}
        }
    }

    fn add_source(&mut self, source: SocketAddr) {
        if self.sources.contains(&source) {
            return;
        }
        if self.sources.len() >= MAX_SOURCES
            && let Some(oldest) = self.sources.pop_front()
        {
            self.events.push_back(PathEvent::Gone(oldest));
        }
        self.sources.push_back(source);
        self.events.push_back(PathEvent::Source(source));
    }
}

/// The checks of one round.
fn checks(config: &AgentConfig, credentials: &Credentials) -> IceAgent {
    let mut ice = IceAgent::new(IceCreds {
        ufrag: credentials.ufrag.clone(),
        pass: String::clone(&credentials.password),
    });
    ice.set_controlling(config.controlling);
    ice.set_max_candidate_pairs(MAX_PAIRS);
    ice.set_initial_stun_rto(FIRST_CHECK_TIMEOUT);
    ice.set_max_stun_rto(CHECK_INTERVAL);
    ice.set_max_stun_retransmits(MAX_UNANSWERED);
    ice.set_timing_advance(match config.scope {
        Scope::Local => PACE_LOCAL,
        Scope::Lan => PACE,
    });
    ice
}

fn same(a: &Candidate, b: &Candidate) -> bool {
    (a.kind, a.address, a.base) == (b.kind, b.address, b.base)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
