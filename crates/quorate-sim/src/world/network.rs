//! Overlay links and tunnels: what connects, what arrives, and what breaks.

use super::{REDIAL_MS, STRANGER, What, Wire, World};
use crate::{
    invariants::Invariant,
    liar::{carries_ready, without_own_joins},
    node::tunnels_fit,
    schedule::Liar,
};
use quorate_identity::Digest;
use quorate_session::{Frame, LinkId, LinkKind, Session, State};

impl World<'_> {
    pub(super) fn may_meet(&self, a: usize, b: usize) -> bool {
        if self.nodes[a].pid == self.nodes[b].pid {
            return false;
        }
        // In every other run each half of the honest parties sees one face of a twin only.
        let faces =
            matches!(self.schedule.liar, Some(Liar::Twins { .. })) && self.schedule.seed % 2 == 1;
        let hidden = |twin: usize, other: usize| {
            let face = usize::from(twin >= usize::from(self.schedule.parties));
            faces && !self.nodes[twin].honest && self.nodes[other].pid.index() % 2 != face
        };
        !hidden(a, b) && !hidden(b, a)
    }

    pub(super) fn dial(&mut self, a: usize, b: usize) {
        let open = |index: usize| {
            self.nodes[index]
                .session
                .as_ref()
                .is_some_and(|session| session.state() != State::Closed)
        };
        let linked = self
            .wires
            .values()
            .any(|wire| wire.ends == (a, b) && wire.roster.is_none());
        if !open(a) || !open(b) || linked || !self.may_meet(a, b) {
            return;
        }
        if self.is_cut_off(a) || self.is_cut_off(b) {
            return self.later(REDIAL_MS, What::Dial(a, b));
        }
        let link = self.wire(a, b, None);
        let peer = |index: usize| self.nodes[index].session.as_ref().map(Session::peer_id);
        let (Some(peer_a), Some(peer_b)) = (peer(a), peer(b)) else {
            return;
        };
        self.link_up(
            a,
            link,
            LinkKind::Overlay {
                local: peer_a,
                remote: peer_b,
            },
        );
        self.link_up(
            b,
            link,
            LinkKind::Overlay {
                local: peer_b,
                remote: peer_a,
            },
        );
    }

    pub(super) fn is_cut_off(&self, index: usize) -> bool {
        self.nodes
            .get(index)
            .is_some_and(|node| self.cut_off.contains(&node.pid))
    }

    pub(super) fn wire(&mut self, a: usize, b: usize, roster: Option<Digest>) -> u64 {
        let link = self.next_link;
        self.next_link += 1;
        self.wires.insert(
            link,
            Wire {
                ends: (a, b),
                roster,
                last_ms: (0, 0),
            },
        );
        link
    }

    pub(super) fn link_up(&mut self, index: usize, link: u64, kind: LinkKind) {
        let (now, at) = (self.now(), self.nodes[index].wall(self.now_ms));
        if let Some(session) = &mut self.nodes[index].session {
            session.handle_link_up(LinkId(link), kind, at, now);
        }
        self.drive(index);
    }

    pub(super) fn link_down(&mut self, link: u64, end: usize, life: u32) {
        if let Some(wire) = self.wires.get(&link)
            && wire.ends.0 != STRANGER
        {
            let (a, b) = wire.ends;
            let other = wire.other(end);
            self.wires.remove(&link);
            if other != STRANGER {
                self.later(
                    20,
                    What::Down {
                        link,
                        end: other,
                        life: self.nodes[other].life,
                    },
                );
                self.later(REDIAL_MS, What::Dial(a, b));
            }
        }
        let now = self.now();
        if end != STRANGER && self.nodes[end].life == life {
            if let Some(session) = &mut self.nodes[end].session {
                session.handle_link_down(LinkId(link), now);
            }
            self.drive(end);
        }
    }

    /// Removes a link; the end that did not ask for it hears of it a little later.
    pub(super) fn cut(&mut self, link: u64, by: Option<usize>) {
        let Some(wire) = self.wires.remove(&link) else {
            return;
        };
        for end in [wire.ends.0, wire.ends.1] {
            if end != STRANGER && Some(end) != by {
                let delay = 5 + self.below(200);
                self.later(
                    delay,
                    What::Down {
                        link,
                        end,
                        life: self.nodes[end].life,
                    },
                );
            }
        }
        let (a, b) = wire.ends;
        match wire.roster {
            _ if a == STRANGER || b == STRANGER => {}
            None => self.later(REDIAL_MS, What::Dial(a, b)),
            Some(roster) => self.later(REDIAL_MS, What::TunnelUp(a, b, roster)),
        }
    }

    pub(super) fn wires_of(&self, index: usize) -> Vec<u64> {
        let mine = |wire: &Wire| wire.ends.0 == index || wire.ends.1 == index;
        self.wires
            .iter()
            .filter(|(_, wire)| mine(wire))
            .map(|(link, _)| *link)
            .collect()
    }

    pub(super) fn send(&mut self, index: usize, link: LinkId, bytes: Vec<u8>) {
        self.mix(index as u64);
        self.mix(link.0);
        self.mix(bytes.len() as u64);
        let Some(wire) = self.wires.get(&link.0) else {
            return;
        };
        let (to, tunnel) = (wire.other(index), wire.roster.is_some());
        if to == STRANGER {
            return self.stranger_hears(index, link.0, &bytes);
        }
        let cut = self.is_cut_off(index) || self.is_cut_off(to);
        let net = self.schedule.net;
        let lost = self.below(1000) < net.loss_per_mille;
        let twice = self.below(1000) < net.duplicate_per_mille;
        // Tunnels carry a stream: what is sent arrives, or the stream breaks.
        if cut || (lost && !tunnel) {
            return;
        }
        self.post(link.0, to, bytes.clone(), tunnel || net.ordered);
        if twice && !tunnel {
            self.post(link.0, to, bytes, net.ordered);
        }
    }

    pub(super) fn post(&mut self, link: u64, to: usize, bytes: Vec<u8>, ordered: bool) {
        let net = self.schedule.net;
        let mut at_ms =
            self.now_ms + net.min_delay_ms + self.below(net.max_delay_ms - net.min_delay_ms + 1);
        if let Some(wire) = self.wires.get_mut(&link)
            && ordered
        {
            let last = if wire.ends.0 == to {
                &mut wire.last_ms.0
            } else {
                &mut wire.last_ms.1
            };
            at_ms = at_ms.max(*last);
            *last = at_ms;
        }
        self.later(at_ms - self.now_ms, What::Deliver { link, to, bytes });
    }

    pub(super) fn deliver(&mut self, link: u64, to: usize, bytes: &[u8]) {
        let Some(wire) = self.wires.get(&link) else {
            return;
        };
        let (tunnel, from) = (wire.roster.is_some(), wire.other(to));
        if self.is_cut_off(to) || self.is_cut_off(from) {
            return;
        }
        if let Some(roster) = wire.roster
            && Frame::parse(bytes).is_ok_and(|frame| carries_ready(&frame))
        {
            let (to, from) = (self.nodes[to].pid, self.nodes[from].pid);
            self.monitor.note_ready(roster, to, from);
        }
        let bytes = match self.schedule.liar {
            Some(Liar::Twins { .. }) if !self.nodes[to].honest => match Frame::parse(bytes) {
                Ok(frame) => without_own_joins(frame, &self.nodes[to].key).encode(),
                Err(_) => return,
            },
            Some(Liar::ReadyGossip { .. }) if !self.nodes[to].honest && tunnel => {
                self.gossip(to, bytes);
                bytes.to_vec()
            }
            _ => bytes.to_vec(),
        };
        let (now, at) = (self.now(), self.nodes[to].wall(self.now_ms));
        if let Some(session) = &mut self.nodes[to].session {
            session.handle_message(LinkId(link), &bytes, at, now);
        }
        self.drive(to);
    }

    pub(super) fn tunnel_up(&mut self, a: usize, b: usize, roster: Digest) {
        let stands = |index: usize| {
            self.nodes[index]
                .mesh
                .as_ref()
                .filter(|mesh| mesh.roster == roster)
        };
        let (Some(mesh_a), Some(mesh_b)) = (stands(a), stands(b)) else {
            return;
        };
        let (pid_a, pid_b) = (mesh_a.me, mesh_b.me);
        let exists = self
            .wires
            .values()
            .any(|wire| wire.ends == (a, b) && wire.roster == Some(roster));
        if exists || pid_a == pid_b {
            return;
        }
        if !tunnels_fit(mesh_a, mesh_b) {
            if self.nodes[a].honest && self.nodes[b].honest {
                let text = format!("{pid_a} and {pid_b} hold one roster and different keys");
                self.monitor
                    .violated(Invariant::OnlyRosterKeys, self.now_ms, text);
            }
            return;
        }
        if self.is_cut_off(a) || self.is_cut_off(b) {
            return self.later(REDIAL_MS, What::TunnelUp(a, b, roster));
        }
        let link = self.wire(a, b, Some(roster));
        self.link_up(a, link, LinkKind::Tunnel { roster, pid: pid_b });
        self.link_up(b, link, LinkKind::Tunnel { roster, pid: pid_a });
        for index in [a, b] {
            self.later(10, What::MeshReady(index, roster));
        }
    }

    pub(super) fn mesh_ready(&mut self, index: usize, roster: Digest) {
        let Some(mesh) = &self.nodes[index].mesh else {
            return;
        };
        let mine = |wire: &&Wire| wire.ends.0 == index || wire.ends.1 == index;
        let tunnels = self
            .wires
            .values()
            .filter(|wire| wire.roster == Some(roster))
            .filter(mine)
            .count();
        if mesh.roster != roster || self.nodes[index].ready_sent || tunnels < mesh.peers.len() {
            return;
        }
        self.nodes[index].ready_sent = true;
        self.monitor.note_working(roster, self.nodes[index].pid);
        let (now, at) = (self.now(), self.nodes[index].wall(self.now_ms));
        if let Some(session) = &mut self.nodes[index].session {
            session.handle_mesh_ready(roster, at, now);
        }
        self.drive(index);
    }

    pub(super) fn drop_tunnels_of(&mut self, index: usize) {
        for link in self.wires_of(index) {
            if self
                .wires
                .get(&link)
                .is_some_and(|wire| wire.roster.is_some())
            {
                self.cut(link, None);
            }
        }
    }
}
