//! Parties as STUN servers for each other: who is reached directly, and is of the public network, sees us as a relay's
//! server would.
//!
//! ```text
//!   this mesh's socket ── plain Binding request ──► the other one's, over a path that checks have proven
//!                      ◄── "your packets come from …" ──
//! ```
//! With it a NAT that gives a new port to each destination is recognized although one relay is left, or none. The answer
//! comes from the socket that carries the tunnel: no port is opened for it.
//!
//! Limits: [`MAX_PARTY_SERVERS`] parties are asked besides relays; of each party [`ANSWER_BURST`] questions at once and one
//! per [`ANSWER_PAUSE`] are answered; [`MAX_ANSWERS`] answers wait.
//!
//! Security. Provides: an answer goes only to an address from which a peer's authenticated check came, so that the socket is
//! silent towards everybody else, and is never larger than its question. Does not provide: that a party says the truth
//! about what it sees; its word is a candidate that has to be proven.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use quorate_path::limits::MAX_STUN_SERVERS;

use crate::overlay::is_public;

/// Parties that are asked.
pub(super) const MAX_PARTY_SERVERS: usize = 2;
/// Questions of one party that are answered at once.
const ANSWER_BURST: u32 = 8;
/// Time in which one more is.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);
/// Answers that wait for the socket.
pub(super) const MAX_ANSWERS: usize = 32;

/// Who is asked, and who is answered.
#[derive(Debug, Default)]
pub(super) struct Observers {
    relays: Vec<SocketAddr>,
    parties: BTreeMap<u16, SocketAddr>,
    answered: BTreeMap<u16, Allowance>,
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    filled: Instant,
}

impl Observers {
    /// The servers of relays.
    pub fn set_relays(&mut self, servers: &[SocketAddr]) {
        self.relays = servers.to_vec();
    }

    /// The direct path to a party, or none; whether that may change who is asked.
    pub fn set_path(&mut self, index: u16, remote: Option<SocketAddr>) -> bool {
        let public = remote.filter(|remote| is_public(remote.ip()));
        let before = match public {
            Some(remote) => self.parties.insert(index, remote),
            None => self.parties.remove(&index),
        };
        before != public
    }

    /// Whom to ask. A party at an address that is `ours` is behind the same NAT, and does not see what it does.
    pub fn servers(&self, ours: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
        let relays = self
            .relays
            .iter()
            .take(MAX_STUN_SERVERS - MAX_PARTY_SERVERS);
        let parties = self.parties.values().filter(|at| !ours(at.ip()));
        let all = relays.chain(parties.take(MAX_PARTY_SERVERS));
        all.copied().collect()
    }

    /// Whether a question of this party may be answered now.
    pub fn may_answer(&mut self, index: u16, now: Instant) -> bool {
        let allowance = self.answered.entry(index).or_insert(Allowance {
            left: ANSWER_BURST,
            filled: now,
        });
        while allowance.left < ANSWER_BURST && now >= allowance.filled + ANSWER_PAUSE {
            allowance.left += 1;
            allowance.filled += ANSWER_PAUSE;
        }
        if allowance.left == ANSWER_BURST {
            allowance.filled = now;
        }
        let left = allowance.left.checked_sub(1);
        allowance.left = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn parties_of_the_public_network_are_asked_after_relays_and_few_of_them() {
        let mut all = Observers::default();
        assert!(all.set_path(1, Some(at("198.51.100.1:7"))));
        assert!(!all.set_path(1, Some(at("198.51.100.1:7"))));
        assert!(!all.set_path(2, Some(at("192.168.1.2:7"))), "on one LAN");
        assert!(!all.set_path(3, Some(at("100.64.0.9:7"))), "in one CGN");
        for index in 4..20 {
            all.set_path(index, Some(at(&format!("198.51.100.{index}:7"))));
        }
        let relay = at("203.0.113.9:4002");
        all.set_relays(&[relay; 40]);
        let servers = all.servers(|_| false);
        assert_eq!(servers.len(), MAX_STUN_SERVERS);
        assert_eq!(servers[0], relay);
        assert_eq!(servers[14..], [at("198.51.100.1:7"), at("198.51.100.4:7")]);
        let hairpin = at("198.51.100.1:0").ip();
        assert_eq!(all.servers(|ip| ip == hairpin)[14], at("198.51.100.4:7"));
        assert!(all.set_path(4, None));
        assert!(!all.servers(|_| false).contains(&at("198.51.100.4:7")));
    }

    #[test]
    fn a_flood_of_questions_gets_a_bounded_number_of_answers() {
        let now = Instant::now();
        let mut all = Observers::default();
        let answers = |all: &mut Observers, index, now| {
            (0..1000).filter(|_| all.may_answer(index, now)).count()
        };
        assert_eq!(answers(&mut all, 1, now), ANSWER_BURST as usize);
        assert_eq!(answers(&mut all, 2, now), ANSWER_BURST as usize);
        let later = now + ANSWER_PAUSE * 3;
        assert_eq!(answers(&mut all, 1, later), 3);
        let long = later + Duration::from_hours(1);
        assert_eq!(answers(&mut all, 1, long), ANSWER_BURST as usize);
    }
}
