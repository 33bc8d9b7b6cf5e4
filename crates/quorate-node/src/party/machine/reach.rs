//! What helps the mesh to reach the parties: lanes over the overlay, STUN servers at the relays, and
//! which paths are allowed.

use std::net::SocketAddr;

use quorate_path::Policy;
use quorate_session::{MeshPlan, message::PathPolicy};

use super::Machine;
use crate::{overlay::KnownRelay, party::Scope, wireguard::Reach};

/// Relays whose STUN servers are asked; the overlay holds reservations at fewer.
const MAX_STUN_RELAYS: usize = 8;

impl Machine {
    /// What the mesh of this plan may use. Lanes of the mesh before end.
    pub(super) fn reach(&self, plan: &MeshPlan) -> Reach {
        let policy = match self.config.invitation.subject.net.path {
            PathPolicy::Any => Policy::Any,
            PathPolicy::Direct => Policy::Direct,
            PathPolicy::Relay => Policy::Relay,
        };
        // On one machine there is always a direct path, and none that is as fast.
        let lanes = (self.config.scope != Scope::Local || policy == Policy::Relay).then(|| {
            let peers = plan.peers.iter().map(|p| (p.pid.0, p.peer.to_string()));
            self.overlay.lanes(peers.collect()).into()
        });
        Reach {
            policy,
            stun: self.stun_servers(),
            lanes,
        }
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
    fn stun_servers(&self) -> Vec<SocketAddr> {
        let most = self.stun.values().map(Vec::len).max().unwrap_or(0);
        let nth = |n: usize| self.stun.values().filter_map(move |s| s.get(n).copied());
        (0..most).flat_map(nth).collect()
    }
}
