//! Openers: packets that open the own NATs towards the peer and die on the way to its NATs.
//!
//! ```text
//!   party ──► own NAT ──► own carrier's NAT ──► … router: no hops left        peer's NAT
//! ```
//! A NAT lets answers in from where something went out to. Some take a packet that comes in *before* that for a
//! connection to themselves, and then send ours from another port (see the agent). A packet with few hops makes the
//! entry in our NATs without being seen by the peer's. Both ends send theirs as soon as they know a translated address
//! of the other, and say afterwards that they know it; checks begin when both have said so. So no check arrives
//! before the way is open, however late one end is.
//!
//! Limits: [`MAX_OPENERS`] in one round, [`OPENER_HOPS`] hops each.
//!
//! Security: an opener is an empty STUN indication (RFC 8489, section 5): nothing answers it, and it does not travel
//! far enough to bother whoever a hostile peer names.

use super::{Agent, Transmit};
use crate::{
    Candidate, CandidateKind,
    limits::{MAX_OPENERS, OPENER_HOPS},
};
use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
};

/// A Binding indication without attributes: type, length, magic cookie, transaction.
const INDICATION: [u8; 20] = [
    0x00, 0x11, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Those of one round.
#[derive(Debug, Default)]
pub(super) struct Openers {
    sent: BTreeSet<(SocketAddr, SocketAddr)>,
    waiting: VecDeque<Transmit>,
}

impl Openers {
    fn open(&mut self, source: SocketAddr, destination: SocketAddr) {
        if self.sent.len() < MAX_OPENERS && self.sent.insert((source, destination)) {
            self.waiting.push_back(Transmit {
                source,
                destination,
                contents: INDICATION.to_vec(),
                hops: Some(OPENER_HOPS),
            });
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.waiting.pop_front()
    }
}

impl Agent {
    /// Opens the own NATs towards all translated addresses that the peer told in this round.
    pub(super) fn open_ways(&mut self) {
        let Some(remote) = &self.remote else { return };
        if self.has_begun() {
            return;
        }
        let translated = |c: &&Candidate| c.kind != CandidateKind::Host && c.address.is_ipv4();
        let host = |c: &&Candidate| c.kind == CandidateKind::Host && c.address.is_ipv4();
        for to in remote.candidates.iter().filter(translated) {
            for from in self.local.iter().filter(host) {
                self.openers.open(from.address, to.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openers_are_sent_once_each_and_not_without_end() {
        let mut openers = Openers::default();
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        for port in (1..100).chain(1..100) {
            openers.open(address(7), address(port));
        }
        let all: Vec<Transmit> = std::iter::from_fn(|| openers.poll_transmit()).collect();
        assert_eq!(all.len(), MAX_OPENERS);
        let short = |t: &Transmit| t.hops == Some(OPENER_HOPS) && t.contents == INDICATION;
        assert!(all.iter().all(short));
    }
}
