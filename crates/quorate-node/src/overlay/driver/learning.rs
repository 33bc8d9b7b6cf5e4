//! Addresses that others name: parties of the session, about themselves and their neighbours.
//!
//! Limits: [`MAX_ADDRESSES_TOLD`] addresses of one peer at a time; of each teller [`LEARN_BURST`] addresses at once and
//! [`LEARN_PER_SECOND`] in the long run are looked at, so that nobody uses up what others may tell.
//!
//! Security: provides that nobody who may tell addresses can make us call at many places, at this machine's own
//! services, or at more than one machine with one packet. Does not provide that we call nobody who wants no calls: a
//! party can name any host; what arrives there is the beginning of a handshake, seldom and given up soon.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use libp2p::PeerId;

use super::{
    super::{Scope, Teller, address::Endpoint},
    Driver, POLITE_WAIT,
};

/// Addresses of one peer that are looked at when somebody tells them.
const MAX_ADDRESSES_TOLD: usize = 16;
/// New addresses of one teller that are looked at in a burst.
pub(super) const LEARN_BURST: u32 = 512;
/// And in the long run.
const LEARN_PER_SECOND: u32 = 16;

/// What each teller may still tell; there are no more of them than parties, three times.
#[derive(Default)]
pub(super) struct Rations(HashMap<Teller, Bucket>);

impl Rations {
    /// Forgets peers that are no parties any more.
    pub fn keep(&mut self, parties: &HashSet<PeerId>) {
        self.0.retain(|teller, _| match teller {
            Teller::Peer(peer) => parties.contains(peer),
            Teller::Party(_) | Teller::Record(_) => true,
        });
    }

    /// Whether one more address may be looked at.
    pub fn take(&mut self, teller: Teller, now: Instant) -> bool {
        let bucket = self.0.entry(teller).or_insert_with(|| Bucket::new(now));
        bucket.take(now)
    }
}

/// A token bucket.
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self {
            tokens: LEARN_BURST,
            filled: now,
        }
    }

    pub fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            let more = more.saturating_mul(LEARN_PER_SECOND);
            self.tokens = self.tokens.saturating_add(more).min(LEARN_BURST);
            self.filled += Duration::from_secs(seconds);
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

impl Driver {
    /// Takes in what is plausible of the addresses that somebody told of `peer`.
    pub(super) fn learn(&mut self, teller: Teller, peer: &str, addresses: &[String], now: Instant) {
        let Ok(peer) = peer.parse::<PeerId>() else {
            return;
        };
        let refused = self.swarm.behaviour().session.is_refused(&peer);
        if peer == self.peer_id() || !self.wants(&peer) || refused {
            return;
        }
        let known = |driver: &Self, endpoint: &Endpoint| driver.dialing.knows(&peer, endpoint);
        let mut plausible = Vec::new();
        for text in addresses.iter().take(MAX_ADDRESSES_TOLD) {
            let Some(endpoint) = plausible_of(peer, text, self.scope) else {
                continue;
            };
            if known(self, &endpoint) {
                continue;
            }
            if !self.learning.take(teller, now) {
                tracing::debug!(?teller, %peer, "too many addresses are told");
                break;
            }
            if endpoint.relay.is_some() && self.take_circuit(&endpoint, now).is_err() {
                continue;
            }
            plausible.push(endpoint);
        }
        // Both ends are told of each other at the same time.
        let delay = if self.peer_id() < peer {
            Duration::ZERO
        } else {
            POLITE_WAIT
        };
        self.dialing.learn(peer, plausible, delay, now);
        self.hurry_circuits(now);
    }
}

/// The address in `text`, if `peer` can be there.
pub(super) fn plausible_of(peer: PeerId, text: &str, scope: Scope) -> Option<Endpoint> {
    let mut endpoint = Endpoint::parse(text, scope).ok()?;
    let of_another = endpoint.peer.is_some_and(|other| other != peer);
    // A host of a circuit is the relay's; none of this machine is a relay for others.
    let of_this_machine = endpoint.is_loopback() && scope != Scope::Local;
    endpoint.peer = Some(peer);
    (!of_another && !of_this_machine).then_some(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a48_addresses_of_this_machine_of_groups_and_of_others_are_not_plausible() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let refused = [
            "/ip4/127.0.0.1/tcp/22".to_owned(),
            "/ip4/127.8.9.1/udp/53/quic-v1".into(),
            "/ip6/::1/tcp/22".into(),
            "/ip6/::ffff:127.0.0.1/tcp/22".into(),
            format!("/ip4/127.0.0.1/tcp/22/p2p/{other}/p2p-circuit/p2p/{peer}"),
            "/ip4/0.0.0.0/tcp/22".into(),
            "/ip4/224.0.0.1/udp/53/quic-v1".into(),
            "/ip4/255.255.255.255/udp/53/quic-v1".into(),
            "/ip6/ff02::1/udp/53/quic-v1".into(),
            "/ip6/fe80::1/tcp/22".into(),
            "/ip4/192.0.2.7/tcp/0".into(),
            "/dns4/victim.example/tcp/80".into(),
            format!("/ip4/192.0.2.7/tcp/1/p2p/{other}"),
            format!("/ip4/192.0.2.7/tcp/1/p2p/{other}/p2p-circuit/p2p/{other}"),
        ];
        for text in refused {
            assert_eq!(plausible_of(peer, &text, Scope::Lan), None, "{text}");
        }
        let taken = [
            "/ip4/192.0.2.7/tcp/1".to_owned(),
            format!("/ip4/192.0.2.7/udp/1/quic-v1/p2p/{peer}"),
            format!("/ip4/192.0.2.7/tcp/1/p2p/{other}/p2p-circuit/p2p/{peer}"),
        ];
        for text in taken {
            let endpoint = plausible_of(peer, &text, Scope::Lan).expect("plausible");
            assert_eq!(endpoint.peer, Some(peer));
        }
        let local = plausible_of(peer, "/ip4/192.0.2.7/tcp/1", Scope::Local);
        assert_eq!(local, None, "nothing but loopback in local scope");
    }

    #[test]
    fn a48_a_flood_of_addresses_is_cut_at_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        let taken = |bucket: &mut Bucket, at| (0..100_000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, now), LEARN_BURST as usize);
        let later = now + Duration::from_secs(10);
        assert_eq!(taken(&mut bucket, later), 10 * LEARN_PER_SECOND as usize);
        let long = later + Duration::from_hours(1);
        assert_eq!(taken(&mut bucket, long), LEARN_BURST as usize);
    }
}
