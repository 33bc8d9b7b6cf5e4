//! What helps the mesh to reach the parties: lanes over the overlay, and which paths are allowed.

use quorate_path::Policy;
use quorate_session::{MeshPlan, message::PathPolicy};

use super::Machine;
use crate::{party::Scope, wireguard::Reach};

impl Machine {
    /// What the mesh of this plan may use. Lanes of the mesh before end.
    pub(super) fn reach(&self, plan: &MeshPlan) -> Reach {
        let policy = match self.config.invitation.subject.net.path {
            PathPolicy::Any => Policy::Any,
            PathPolicy::Direct => Policy::Direct,
            PathPolicy::Relay => Policy::Relay,
        };
        // On one machine there is always a direct path, and none that is as fast.
        let lanes = (self.config.scope != Scope::Local).then(|| {
            let peers = plan.peers.iter().map(|p| (p.pid.0, p.peer.to_string()));
            self.overlay.lanes(peers.collect()).into()
        });
        Reach {
            policy,
            stun: Vec::new(),
            lanes,
        }
    }
}
