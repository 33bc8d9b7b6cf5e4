//! Which path is used, and why it is that one.
//!
//! ```text
//!   direct, answers ───────────────────────────────► Direct
//!   direct, silent for 5.5 s, or none ─┬─ a lane ──► Relayed      a silent one is still checked,
//!                                      └─ no lane ─► Direct while it is not given up, then Down
//! ```
//! Both ends decide by the same facts: a path answers in both directions or in none, and each told
//! the other what its NAT does. So they agree within moments. The lane is used at once; the direct
//! path takes over as soon as it is proven. What is in flight on the other path still arrives, as
//! `WireGuard` sees no addresses here.

use super::{Agent, Direct, Start};
use crate::{
    CandidateKind, How, Lane, Nat, Path, PathEvent, Policy, Reason, Whose,
    limits::{DIRECT_SILENCE, ROUND_FIRST, ROUND_LAST, ROUND_TRIES, SEARCH},
};
use is::IceConnectionState;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

impl Agent {
    /// The checks nominated this pair of addresses.
    pub(super) fn take_direct(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        old: bool,
        now: Instant,
    ) {
        if old && self.direct.as_ref().is_none_or(|d| !d.old) {
            return;
        }
        if !old {
            self.before = None;
        }
        // The checks fall back on another pair when the one in use is given up: its answers may be as old. Only what these
        // checks found first is known to answer.
        let before = self.direct.as_ref().filter(|d| d.old == old);
        let alive = before.map_or(now, |d| d.alive);
        let known = before.filter(|d| d.old).and_then(|d| d.known);
        if alive == now {
            self.failed = false;
            self.halted = false;
            self.retry = None;
            self.next_round = None;
            self.next_pause = ROUND_FIRST;
            self.tries = 0;
        }
        self.direct = Some(Direct {
            local,
            remote,
            old,
            answers: self.answers(old).unwrap_or(0),
            alive,
            known,
        });
    }

    fn answers(&self, old: bool) -> Option<u64> {
        let ice = if old {
            self.before.as_ref()?
        } else {
            &self.ice
        };
        ice.nominated_pair_responses_received()
    }

    /// Round trip of the last answered check on the direct path.
    pub fn rtt(&self) -> Option<Duration> {
        let direct = self.direct.as_ref()?;
        let ice = if direct.old {
            self.before.as_ref()?
        } else {
            &self.ice
        };
        ice.nominated_pair_rtt()
    }

    /// Decides on the path and tells a change.
    pub(super) fn choose(&mut self, now: Instant) {
        let silent = self.watch_direct(now);
        let silent = !self.follow(now) && silent;
        if silent && self.direct.as_ref().is_some_and(|d| !d.old) {
            // Both ends notice by themselves; whoever is first, the other follows.
            self.begin_round(self.round.saturating_add(1), now);
        }
        let policy = self.config.policy;
        let lane = self.lane.clone();
        let lane = lane.filter(|lane| policy.allows(lane.via.is_some()));
        let direct = self.direct.as_ref().filter(|_| !silent || lane.is_none());
        let (path, reason) = match (direct, lane) {
            (Some(direct), _) => self.describe(direct),
            (None, Some(Lane { via })) => (Path::Relayed { via }, self.why_not_direct(now)),
            (None, None) => {
                let since = match &self.path {
                    Path::Down { since } => *since,
                    _ => Some(now),
                };
                (Path::Down { since }, self.why_not_direct(now))
            }
        };
        if let (Path::Direct { how, .. }, Some(direct)) = (&path, &mut self.direct) {
            direct.known = Some((*how, reason));
        }
        self.plan_next(now);
        let told_again = reason != self.reason && !matches!(path, Path::Direct { .. });
        if path != self.path || told_again {
            self.path = path.clone();
            self.events.push_back(PathEvent::Changed { path, reason });
        }
        self.reason = reason;
    }

    /// Whether the direct path has fallen silent. One whose addresses are given up is gone.
    fn watch_direct(&mut self, now: Instant) -> bool {
        let Some(old) = self.direct.as_ref().map(|d| d.old) else {
            return false;
        };
        let answers = self.answers(old);
        let Some(direct) = &mut self.direct else {
            return false;
        };
        match answers {
            Some(answers) if answers != direct.answers => {
                direct.answers = answers;
                direct.alive = now;
                false
            }
            Some(_) => now.saturating_duration_since(direct.alive) >= DIRECT_SILENCE,
            None => {
                self.direct = None;
                self.before = None;
                false
            }
        }
    }

    /// When the choice may become another one by the mere passing of time.
    pub(super) fn next_choice(&self) -> Option<Instant> {
        let silence = self
            .direct
            .as_ref()
            .filter(|d| !d.old)
            .map(|d| d.alive + DIRECT_SILENCE);
        let awaited = !self.halted && (!self.failed || self.lane.is_some());
        let search = match self.start {
            Start::Begun(at) if self.direct.is_none() && awaited => Some(at + SEARCH),
            _ => None,
        };
        [silence, search].into_iter().flatten().min()
    }

    /// When to try again, if there is no direct path: soon where nothing else works, seldom where there is
    /// a lane, and then from the start, which the controlling end proposes.
    fn plan_next(&mut self, now: Instant) {
        let search_is_over =
            matches!(self.start, Start::Begun(at) if now.saturating_duration_since(at) >= SEARCH);
        if self.direct.is_none() && search_is_over {
            self.failed = true;
        }
        if self.direct.is_some() || self.config.policy == Policy::Relay {
            return;
        }
        if self.lane.is_none() {
            self.halted = false;
            let dead = self.ice.state() == IceConnectionState::Disconnected;
            if dead && self.retry.is_none() {
                self.retry = Some(now + self.retry_pause);
            }
        } else if search_is_over && !self.halted {
            // Silence at both ends, so that a NAT that took a check for its own forgets it.
            self.halted = true;
            if self.config.controlling {
                self.next_round = Some(now + self.next_pause);
                self.tries += 1;
                if self.tries >= ROUND_TRIES {
                    self.next_pause = (self.next_pause * 2).min(ROUND_LAST);
                }
            }
        }
    }

    pub(super) fn why_not_direct(&self, now: Instant) -> Reason {
        if self.config.policy == Policy::Relay {
            return Reason::RelayOnly;
        }
        let theirs = self.remote.as_ref().map_or(Nat::Unknown, |r| r.nat);
        let at = |nat: Nat| Whose::of(self.nat == nat, theirs == nat);
        if let Some(whose) = at(Nat::Blocked) {
            return Reason::UdpBlocked(whose);
        }
        let searching = match self.start {
            Start::Begun(at) => now.saturating_duration_since(at) < SEARCH,
            _ => true,
        };
        if searching && !self.failed {
            return Reason::Searching;
        }
        match at(Nat::Dependent) {
            // A round that has just begun: nothing new is known yet.
            None if self.remote.is_none() => self.reason,
            Some(whose) => Reason::EndpointDependent(whose),
            None if self.config.policy == Policy::Direct => Reason::DirectOnly,
            None => Reason::NoAnswer,
        }
    }

    fn describe(&self, direct: &Direct) -> (Path, Reason) {
        if let (true, Some((how, reason))) = (direct.old, direct.known) {
            return (direct_path(direct, how), reason);
        }
        let (local, remote) = (direct.local, direct.remote);
        let offered = |c: &&crate::Candidate| c.kind == CandidateKind::Host;
        let own_machine = self
            .local
            .iter()
            .filter(offered)
            .any(|c| c.address.ip() == remote.ip());
        // Each end is translated if the other sees it at an address that is not its own. A peer
        // that has just begun a new round has not told its addresses again yet.
        let seen = self.mapped.get(&(local, remote)).copied();
        let own = seen.is_some_and(|seen| seen != local);
        let peer = match &self.remote {
            Some(r) => !r
                .candidates
                .iter()
                .filter(offered)
                .any(|c| c.address == remote),
            None => false,
        };
        if own_machine || remote.ip().is_loopback() {
            return (direct_path(direct, How::Local), Reason::Untranslated);
        }
        let (how, reason) = match (own, peer) {
            (false, false) => (How::Plain, Reason::Untranslated),
            (true, false) => (How::Plain, Reason::Reachable(Whose::Peer)),
            (false, true) => (How::Plain, Reason::Reachable(Whose::Own)),
            (true, true) => match self.mapped_at(seen, remote) {
                Some(whose) => (How::Plain, Reason::PortMapped(whose)),
                None => (How::HolePunched, Reason::HolePunched),
            },
        };
        (direct_path(direct, how), reason)
    }

    /// At which end the path goes through a port that a router forwards: both ends know what both offered.
    fn mapped_at(&self, own: Option<SocketAddr>, peer: SocketAddr) -> Option<Whose> {
        let forwarded = |list: &[crate::Candidate], address: SocketAddr| {
            let is =
                |c: &crate::Candidate| c.kind == CandidateKind::PortMapped && c.address == address;
            list.iter().any(is)
        };
        let theirs = self.remote.as_ref();
        Whose::of(
            own.is_some_and(|own| forwarded(&self.local, own)),
            theirs.is_some_and(|remote| forwarded(&remote.candidates, peer)),
        )
    }
}

fn direct_path(direct: &Direct, how: How) -> Path {
    Path::Direct {
        local: direct.local,
        remote: direct.remote,
        how,
    }
}
