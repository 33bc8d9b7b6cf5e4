//! The agent: one per peer, finds and keeps the path.
//!
//! ```text
//!            add_local / handle_signal / handle_packet / handle_timeout
//!                                  |
//!   Down(None) --first answer--> Direct --better answer--> Direct
//!                                  |  ^
//!                        no answer |  | answers again (retries with growing pauses)
//!                                  v  |
//!                               Down(since)
//! ```
//! The driver calls one of the methods above the line, then drains `poll_event` (and obeys it),
//! `poll_transmit` and `poll_signal`, then sleeps until `poll_timeout`. Events come before
//! packets on purpose: a `Source` must be known before the peer hears our answer and sends data.

use crate::{
    Candidate, CandidateKind, Credentials, How, Path, PathEvent, Reason, Refusal, Scope,
    candidate::{admit_address, filter},
    limits::{
        CHECK_INTERVAL, CHECK_WINDOW, FIRST_CHECK_TIMEOUT, MAX_CANDIDATES, MAX_CHECK_BYTES,
        MAX_CHECKS_PER_WINDOW, MAX_PAIRS, MAX_REMOTE_CANDIDATES, MAX_SIGNALS_PER_WINDOW,
        MAX_SOURCES, MAX_UNANSWERED, PACE, PACE_LOCAL, RETRY_FIRST, RETRY_LAST, SIGNAL_PAUSE,
        SIGNAL_REPEAT, SIGNAL_WINDOW,
    },
    signal::Signal,
};
use is::{
    IceAgent, IceAgentEvent, IceConnectionState, IceCreds, Protocol,
    stun::{StunMessage, StunPacket},
};
use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// What an agent is made of.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Fresh credentials of this end towards this peer.
    pub credentials: Credentials,
    /// Whether this end chooses the path: the lower index does.
    pub controlling: bool,
    /// Where the peer may be.
    pub scope: Scope,
}

/// A STUN message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which own address.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// The bytes of the datagram.
    pub contents: Vec<u8>,
}

/// A counter that starts again with each window.
#[derive(Debug)]
struct Budget {
    start: Instant,
    used: u32,
    window: Duration,
    limit: u32,
}

impl Budget {
    fn new(window: Duration, limit: u32, now: Instant) -> Self {
        Self {
            start: now,
            used: 0,
            window,
            limit,
        }
    }

    fn spend(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.start) >= self.window {
            self.start = now;
            self.used = 0;
        }
        self.used = self.used.saturating_add(1);
        self.used <= self.limit
    }
}

/// Finds and keeps the path to one peer.
#[derive(Debug)]
pub struct Agent {
    ice: IceAgent,
    credentials: Credentials,
    scope: Scope,
    local: Vec<Candidate>,
    remote: Vec<Candidate>,
    /// User fragment of the peer whose signal was taken last.
    peer: Option<String>,
    /// The peer showed that it has our credentials.
    acknowledged: bool,
    /// Something the peer does not know yet; sent at `signal_at`.
    signal_at: Option<Instant>,
    sources: BTreeSet<SocketAddr>,
    path: Path,
    retry: Option<Instant>,
    retry_pause: Duration,
    signals: Budget,
    checks: Budget,
    events: VecDeque<PathEvent>,
}

impl Agent {
    /// An agent without candidates; add them, then exchange signals.
    pub fn new(config: AgentConfig, now: Instant) -> Self {
        let mut ice = IceAgent::new(IceCreds {
            ufrag: config.credentials.ufrag.clone(),
            pass: String::clone(&config.credentials.password),
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
        let mut agent = Self {
            ice,
            credentials: config.credentials,
            scope: config.scope,
            local: Vec::new(),
            remote: Vec::new(),
            peer: None,
            acknowledged: false,
            signal_at: None,
            sources: BTreeSet::new(),
            path: Path::Down { since: None },
            retry: None,
            retry_pause: RETRY_FIRST,
            signals: Budget::new(SIGNAL_WINDOW, MAX_SIGNALS_PER_WINDOW, now),
            checks: Budget::new(CHECK_WINDOW, MAX_CHECKS_PER_WINDOW, now),
            events: VecDeque::new(),
        };
        agent.ice.handle_timeout(now);
        agent.take_events(now);
        agent
    }

    /// Offers one more own address. `false`: not taken, it is known, of no use or one too many.
    pub fn add_local(&mut self, mut candidate: Candidate, now: Instant) -> bool {
        let known = self.local.iter().any(|c| c.address == candidate.address);
        if known || self.local.len() >= MAX_CANDIDATES || candidate.admit(self.scope).is_err() {
            return false;
        }
        let base = candidate.base.unwrap_or(candidate.address);
        let made = match candidate.kind {
            CandidateKind::Host => is::Candidate::host(candidate.address, Protocol::Udp),
            CandidateKind::ServerReflexive | CandidateKind::PortMapped => {
                is::Candidate::server_reflexive(candidate.address, base, Protocol::Udp)
            }
            CandidateKind::Relayed => {
                is::Candidate::relayed(candidate.address, base, Protocol::Udp)
            }
        };
        let Ok(made) = made else { return false };
        let Some(added) = self.ice.add_local_candidate(made) else {
            return false;
        };
        candidate.priority = added.prio();
        self.local.push(candidate);
        self.acknowledged = false;
        self.signal_soon(now);
        self.ice.handle_timeout(now);
        self.take_events(now);
        true
    }

    /// Takes a signal of the peer.
    pub fn handle_signal(&mut self, bytes: &[u8], now: Instant) -> Result<(), Refusal> {
        if !self.signals.spend(now) {
            return Err(Refusal::RateLimited);
        }
        let signal = Signal::parse(bytes, self.scope)?;
        if self.peer.as_deref() != Some(signal.credentials.ufrag.as_str()) {
            self.peer = Some(signal.credentials.ufrag.clone());
            self.ice.set_remote_credentials(IceCreds {
                ufrag: signal.credentials.ufrag.clone(),
                pass: String::clone(&signal.credentials.password),
            });
            // The peer repeats itself until it reads its own fragment in our signal.
            self.signal_soon(now);
        }
        self.acknowledged = signal.have.as_deref() == Some(self.credentials.ufrag.as_str());
        if !self.acknowledged {
            self.signal_soon(now);
        }
        self.add_remote(&signal.candidates);
        self.ice.handle_timeout(now);
        self.take_events(now);
        Ok(())
    }

    fn add_remote(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            let known = self.remote.iter().any(|c| c.address == candidate.address);
            if known || self.remote.len() >= MAX_REMOTE_CANDIDATES {
                continue;
            }
            let kind = match candidate.kind {
                CandidateKind::Host => is::CandidateKind::Host,
                CandidateKind::ServerReflexive | CandidateKind::PortMapped => {
                    is::CandidateKind::ServerReflexive
                }
                CandidateKind::Relayed => is::CandidateKind::Relayed,
            };
            self.ice.add_remote_candidate(is::Candidate::from_parts(
                self.remote.len().to_string(),
                1,
                Protocol::Udp,
                candidate.priority,
                candidate.address,
                kind,
                None,
                None,
                None,
            ));
            self.remote.push(candidate.clone());
        }
    }

    /// Whether this STUN message carries our credentials. Use it to find the agent of a message
    /// that came in on a shared socket.
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        bytes.len() <= MAX_CHECK_BYTES
            && StunMessage::parse(bytes).is_ok_and(|m| self.ice.accepts_message(&m))
    }

    /// Takes a STUN message. `false`: not ours, over the limit, or from an impossible address.
    pub fn handle_packet(
        &mut self,
        bytes: &[u8],
        source: SocketAddr,
        destination: SocketAddr,
        now: Instant,
    ) -> bool {
        if bytes.len() > MAX_CHECK_BYTES || admit_address(source, self.scope).is_err() {
            return false;
        }
        let Ok(message) = StunMessage::parse(bytes) else {
            return false;
        };
        if !self.ice.accepts_message(&message) || !self.checks.spend(now) {
            return false;
        }
        if !self.sources.contains(&source) && self.sources.len() >= MAX_SOURCES {
            return false;
        }
        let packet = StunPacket {
            proto: Protocol::Udp,
            source,
            destination,
            message,
        };
        let taken = self.ice.handle_packet(now, packet);
        self.take_events(now);
        taken
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            if self.ice.state() == IceConnectionState::Disconnected {
                self.ice.recreate_candidate_pairs();
                self.retry_later(now);
            }
        }
        self.ice.handle_timeout(now);
        self.take_events(now);
    }

    /// The signal the peer still has to get, if it is time for it.
    pub fn poll_signal(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.signal_at? > now || self.local.is_empty() {
            return None;
        }
        self.signal_at = (!self.acknowledged).then(|| now + SIGNAL_REPEAT);
        let signal = Signal {
            credentials: self.credentials.clone(),
            have: self.peer.clone(),
            candidates: filter(self.local.clone(), self.scope),
        };
        Some(signal.encode())
    }

    /// The next STUN message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.ice.poll_transmit()?;
        Some(Transmit {
            source: transmit.source,
            destination: transmit.destination,
            contents: transmit.contents.to_vec(),
        })
    }

    /// When to call [`Agent::handle_timeout`] again, and for what.
    pub fn poll_timeout(&mut self) -> Option<(Instant, &'static str)> {
        let check = self.ice.poll_timeout().map(|at| (at, "check"));
        let signal = self
            .signal_at
            .filter(|_| !self.local.is_empty())
            .map(|at| (at, "signal"));
        let retry = self.retry.map(|at| (at, "retry"));
        [check, signal, retry]
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

    /// Round trip of the last answered check on the path in use.
    pub fn rtt(&self) -> Option<Duration> {
        self.ice.nominated_pair_rtt()
    }

    fn signal_soon(&mut self, now: Instant) {
        let soon = if self.peer.is_none() && self.signal_at.is_none() {
            now
        } else {
            now + SIGNAL_PAUSE
        };
        self.signal_at = Some(self.signal_at.map_or(soon, |at| at.min(soon)));
    }

    fn retry_later(&mut self, now: Instant) {
        self.retry = Some(now + self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(RETRY_LAST);
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            match event {
                IceAgentEvent::DiscoveredRecv { source, .. } => {
                    if self.sources.insert(source) {
                        self.events.push_back(PathEvent::Source(source));
                    }
                }
                IceAgentEvent::NominatedSend {
                    source,
                    destination,
                    ..
                } => self.take_path(source, destination),
                IceAgentEvent::IceConnectionStateChange(state) => self.take_state(state, now),
                IceAgentEvent::IceRestart(_) => {}
            }
        }
    }

    fn take_path(&mut self, local: SocketAddr, remote: SocketAddr) {
        let reason = match &self.path {
            Path::Down { since: None } => Reason::FirstAnswer,
            Path::Down { since: Some(_) } => Reason::AnswersAgain,
            _ => Reason::BetterAnswer,
        };
        let path = self.describe(local, remote);
        self.retry = None;
        self.retry_pause = RETRY_FIRST;
        if path != self.path {
            self.path = path.clone();
            self.events.push_back(PathEvent::Changed { path, reason });
        }
    }

    fn describe(&self, local: SocketAddr, remote: SocketAddr) -> Path {
        let offered = self.remote.iter().find(|c| c.address == remote);
        if let Some(relay) = offered.filter(|c| c.kind == CandidateKind::Relayed) {
            let via = relay.via.clone().unwrap_or_else(|| remote.to_string());
            return Path::Relayed { via };
        }
        let own = self
            .local
            .iter()
            .any(|c| c.kind == CandidateKind::Host && c.address.ip() == remote.ip());
        let how = if own || remote.ip().is_loopback() {
            How::Local
        } else if offered.is_some_and(|c| c.kind == CandidateKind::Host) {
            How::Plain
        } else {
            How::HolePunched
        };
        Path::Direct { local, remote, how }
    }

    fn take_state(&mut self, state: IceConnectionState, now: Instant) {
        let lost = match state {
            IceConnectionState::Checking => self.path.is_up(),
            IceConnectionState::Disconnected => {
                if self.retry.is_none() {
                    self.retry_later(now);
                }
                self.path.is_up()
            }
            _ => false,
        };
        if lost {
            self.path = Path::Down { since: Some(now) };
            self.events.push_back(PathEvent::Changed {
                path: self.path.clone(),
                reason: Reason::NoAnswer,
            });
        }
    }
}
