//! What helps the mesh to reach the parties: lanes over the overlay, STUN servers at the relays, and
//! which paths are allowed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use quorate_identity::{Code, UnixTime};
use quorate_path::Policy;
use quorate_session::{MeshPlan, Pid, State, message::PathPolicy};

use super::Machine;
use crate::{overlay::KnownRelay, party::Scope, wireguard::Reach};

/// Relays whose STUN servers are asked; the overlay holds reservations at fewer.
const MAX_STUN_RELAYS: usize = 8;
/// How long a path of the one kind that the invitation allows is looked for.
const NO_PATH_AFTER: Duration = Duration::from_mins(1);

impl Machine {
    /// What the mesh of this plan may use. Lanes of the mesh before end.
    pub(super) fn reach(&self, plan: &MeshPlan) -> Reach {
        let policy = self.policy();
        // On one machine there is always a direct path, and none that is as fast.
        let lanes = (self.config.scope != Scope::Local || policy == Policy::Relay).then(|| {
            let peers = plan.peers.iter().map(|p| (p.pid.0, p.peer.to_string()));
            self.overlay.lanes_under(policy, peers.collect()).into()
        });
        Reach {
            policy,
            stun: self.stun_servers(),
            lanes,
            map_ports: self.config.reach.map_ports,
        }
    }

    fn policy(&self) -> Policy {
        match self.config.invitation.subject.net.path {
            PathPolicy::Any => Policy::Any,
            PathPolicy::Direct => Policy::Direct,
            PathPolicy::Relay => Policy::Relay,
        }
    }

    /// Ends the session if the invitation allows one kind of path only, and a party cannot be reached by
    /// any of that kind. Where all kinds are allowed the deadlines of the session end the wait.
    pub(super) fn give_up_unreachable(&mut self, at: UnixTime, now: Instant) {
        let (policy, state) = (self.policy(), self.session.state());
        let waits = matches!(state, State::Keyed | State::Ready);
        let Some(installed) = self.installed.as_ref().filter(|i| waits && !i.announced) else {
            return;
        };
        if policy == Policy::Any || now.saturating_duration_since(installed.since) < NO_PATH_AFTER {
            return;
        }
        let Some(link) = installed.mesh.links().into_iter().find(|link| !link.up) else {
            return;
        };
        let why = self.in_words(link.index, link.reason);
        let note = format!("no path that the invitation allows: {why}");
        self.session
            .abort(Code::NoPath, Some(Pid(link.index)), &note, at, now);
    }

    /// Takes what the overlay knows about a relay.
    pub(super) fn note_relay(&mut self, relay: KnownRelay) {
        tracing::debug!(?relay, "relay");
        let known = self.stun.contains_key(&relay.peer);
        if relay.stun.is_empty() || !known && self.stun.len() >= MAX_STUN_RELAYS {
            return;
        }
        let before = self.stun.insert(relay.peer, relay.stun.clone());
        if before != Some(relay.stun)
            && let Some(installed) = &self.installed
        {
            installed.mesh.stun_servers(self.stun_servers());
        }
    }

    /// Those of all relays; the first of each before the second of any, because the mesh asks a few.
    pub(super) fn stun_servers(&self) -> Vec<SocketAddr> {
        let most = self.stun.values().map(Vec::len).max().unwrap_or(0);
        let nth = |n: usize| self.stun.values().filter_map(move |s| s.get(n).copied());
        (0..most).flat_map(nth).collect()
    }
}
