//! What must hold after every step, and what must have happened in the end.

use crate::node::Node;
use quorate_identity::Digest;
use quorate_session::{Pid, State, limits};
use std::collections::{BTreeMap, BTreeSet};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// I1: the meshes of honest parties are of one roster at every instant.
    OneRoster,
    /// I2: no packet to or from a key outside the current roster, and nothing of the session to somebody outside.
    OnlyRosterKeys,
    /// I3: nobody installs before every other honest party stored that roster, nor starts before every other's mesh works.
    Barrier,
    /// I5: in the end everybody runs or is closed with a reason, and without faults everybody finishes.
    Progress,
    /// I7: queues stay within their limits.
    Bounded,
    /// I8: nothing happens that cannot.
    NoAlarm,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When, in milliseconds.
    pub at_ms: u64,
    /// What was seen.
    pub detail: String,
}

/// What the world has to remember to judge.
#[derive(Default)]
pub(crate) struct Monitor {
    pub violations: Vec<Violation>,
    /// Who stored which roster.
    stored: BTreeMap<Digest, BTreeSet<Pid>>,
    /// Whose mesh of which roster worked.
    working: BTreeMap<Digest, BTreeSet<Pid>>,
    /// Who got whose ready through their tunnel: receiver, then sender.
    readies: BTreeSet<(Digest, Pid, Pid)>,
}

impl Monitor {
    pub fn violated(&mut self, invariant: Invariant, at_ms: u64, detail: impl Into<String>) {
        // The first of each kind is what a person reads; more would only cost memory.
        if !self
            .violations
            .iter()
            .any(|seen| seen.invariant == invariant)
        {
            self.violations.push(Violation {
                invariant,
                at_ms,
                detail: detail.into(),
            });
        }
    }

    pub fn note_stored(&mut self, roster: Digest, pid: Pid) {
        self.stored.entry(roster).or_default().insert(pid);
    }

    pub fn note_working(&mut self, roster: Digest, pid: Pid) {
        self.working.entry(roster).or_default().insert(pid);
    }

    pub fn note_ready(&mut self, roster: Digest, to: Pid, from: Pid) {
        self.readies.insert((roster, to, from));
    }

    /// I3 at the moment of an install.
    pub fn check_install(&mut self, at_ms: u64, me: Pid, roster: Digest, honest: &BTreeSet<Pid>) {
        let stored = self.stored.get(&roster).cloned().unwrap_or_default();
        if let Some(missing) = honest.difference(&stored).next() {
            let text = format!("{me} installs a roster that {missing} has not stored");
            self.violated(Invariant::Barrier, at_ms, text);
        }
    }

    /// I3 at the moment of a start.
    pub fn check_start(&mut self, at_ms: u64, me: Pid, roster: Digest, honest: &BTreeSet<Pid>) {
        let working = self.working.get(&roster).cloned().unwrap_or_default();
        for other in honest.iter().filter(|pid| **pid != me) {
            if !working.contains(other) || !self.readies.contains(&(roster, me, *other)) {
                let text = format!(
                    "{me} starts before the mesh of {other} worked and said so through its tunnel"
                );
                self.violated(Invariant::Barrier, at_ms, text);
            }
        }
    }

    /// I1, I2 and I7 after a step.
    pub fn check_step(&mut self, at_ms: u64, nodes: &[Node]) {
        let honest = nodes.iter().filter(|node| node.honest);
        let meshes: BTreeSet<Digest> = honest
            .filter_map(|node| node.mesh.as_ref())
            .map(|mesh| mesh.roster)
            .collect();
        if meshes.len() > 1 {
            self.violated(
                Invariant::OneRoster,
                at_ms,
                format!("{} rosters are installed at once", meshes.len()),
            );
        }
    }

    /// I2 and I7 of one party after a step.
    pub fn check_node(&mut self, at_ms: u64, node: &Node) {
        let Some(session) = &node.session else { return };
        if !node.honest {
            return;
        }
        if let Some(mesh) = &node.mesh
            && session.state() != State::Closed
            && session.roster() != Some(mesh.roster)
        {
            let text = format!(
                "{} accepts the keys of a roster that it does not hold",
                node.pid
            );
            self.violated(Invariant::OnlyRosterKeys, at_ms, text);
        }
        let usage = session.usage();
        let within = usage.transmits <= limits::MAX_TRANSMITS
            && usage.events <= limits::MAX_EVENTS
            && usage.links <= limits::MAX_LINKS
            && usage.unresolved <= limits::MAX_UNRESOLVED
            && usage.signals <= limits::MAX_SIGNALS
            && usage.confirms <= limits::MAX_CONFIRMS_PER_PARTY
            && usage.refused <= limits::MAX_REFUSED_DIGESTS;
        if !within {
            self.violated(
                Invariant::Bounded,
                at_ms,
                format!("{}: {usage:?}", node.pid),
            );
        }
    }
}
