//! Who holds the reservations of a relay: no source more than its share.
//!
//! ```text
//!   reservation asked for ──► of this peer on this connection already? ──► renewed
//!                                └─ no: source below its share? ──► taken, until the connection closes
//! ```
//! A reservation lasts as long as a circuit may, so that one host could take all of them for a day. An IPv4 address,
//! or an IPv6 network of 64 bits, has one part in [`SHARES`]; a hospital behind one address has as many. This machine's
//! own processes (127.0.0.1) are not counted.
//!
//! Where the operator wrote a list, a reservation or a circuit is for peers only that proved a DID of it.
//!
//! Limits: the reservations of the relay, and a part of them per source.
//!
//! Security: provides that it takes [`SHARES`] sources to take all reservations. Does not provide anything against
//! somebody who has them.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use libp2p::{Multiaddr, PeerId};

use super::RelayLimits;
use crate::overlay::source::Source;

/// One source has one part in so many of the reservations.
const SHARES: u32 = 4;

/// The reservations by connection; clones are the same ones.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    share: usize,
    /// By peer and address of its end of the connection, which is how libp2p tells connections apart here.
    taken: HashMap<(PeerId, Multiaddr), Source>,
    /// Where there is a list: peers that proved a DID of it.
    let_in: Option<HashSet<PeerId>>,
}

impl Table {
    fn admits(&self, peer: &PeerId) -> bool {
        self.let_in.as_ref().is_none_or(|all| all.contains(peer))
    }
}

impl Places {
    /// For everybody, or for those that are let in.
    pub fn new(limits: &RelayLimits, listed: bool) -> Self {
        let share = usize::try_from(limits.reservations / SHARES).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(Table {
            share: share.max(1),
            taken: HashMap::new(),
            let_in: listed.then(HashSet::new),
        })))
    }

    /// What libp2p's relay asks last before it grants a reservation.
    pub fn reserving(&self) -> impl FnMut(PeerId, &Multiaddr, Instant) -> bool + Send + use<> {
        let places = self.clone();
        move |peer, address, _| places.reserve(peer, address)
    }

    /// The same for a circuit, which its other end has to have a reservation for.
    pub fn connecting(&self) -> impl FnMut(PeerId, &Multiaddr, Instant) -> bool + Send + use<> {
        let places = self.clone();
        move |peer, _, _| places.table().admits(&peer)
    }

    /// This peer proved a DID of the list, as long as it is connected.
    pub fn let_in(&self, peer: PeerId) {
        if let Some(all) = &mut self.table().let_in {
            all.insert(peer);
        }
    }

    /// Forgets who was let in and is not connected.
    pub fn keep(&self, is_connected: impl Fn(&PeerId) -> bool) {
        if let Some(all) = &mut self.table().let_in {
            all.retain(is_connected);
        }
    }

    fn reserve(&self, peer: PeerId, address: &Multiaddr) -> bool {
        let mut table = self.table();
        if !table.admits(&peer) {
            return false;
        }
        let place = (peer, address.clone());
        if table.taken.contains_key(&place) {
            return true;
        }
        let source = Source::of(address);
        // Whoever is on this machine could stop the relay as well.
        let counts = !matches!(source, Source::Ourselves | Source::Ip4(Ipv4Addr::LOCALHOST));
        let same = table.taken.values().filter(|other| **other == source);
        if counts && same.count() >= table.share {
            return false;
        }
        table.taken.insert(place, source);
        true
    }

    /// A connection is gone, and a reservation with it.
    pub fn closed(&self, peer: PeerId, address: &Multiaddr) {
        self.table().taken.remove(&(peer, address.clone()));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(reservations: u32) -> Places {
        Places::new(
            &RelayLimits {
                reservations,
                ..RelayLimits::default()
            },
            false,
        )
    }

    /// Reservations that peers get at these addresses.
    fn granted(places: &Places, addresses: impl Iterator<Item = String>) -> usize {
        let all = addresses.map(|text| text.parse::<Multiaddr>().expect("an address"));
        all.filter(|at| places.reserve(PeerId::random(), at))
            .count()
    }

    #[test]
    fn one_source_gets_a_quarter_of_the_reservations_at_most() {
        let places = places(128);
        let ip4 = |host: u8| (0..200).map(move |port| format!("/ip4/192.0.2.{host}/tcp/{port}"));
        assert_eq!(granted(&places, ip4(1)), 32);
        assert_eq!(granted(&places, ip4(2)), 32);
        let ip6 = (0..200).map(|host| format!("/ip6/2001:db8:0:7::{host:x}/udp/1/quic-v1"));
        assert_eq!(
            granted(&places, ip6),
            32,
            "a network of 64 bits is one source"
        );
    }

    #[test]
    fn a_renewal_takes_no_further_place_and_a_closed_connection_gives_its_back() {
        let places = places(4);
        let [here, there]: [Multiaddr; 2] = ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/2"]
            .map(|a| a.parse().expect("an address"));
        let [one, two] = [(); 2].map(|()| PeerId::random());
        assert!(places.reserve(one, &here) && places.reserve(one, &here));
        assert!(!places.reserve(two, &there));
        places.closed(one, &there);
        assert!(!places.reserve(two, &there), "another connection was meant");
        places.closed(one, &here);
        assert!(places.reserve(two, &there));
    }

    #[test]
    fn where_there_is_a_list_only_who_was_let_in_gets_anything_and_while_connected() {
        let places = Places::new(&RelayLimits::default(), true);
        let here: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().expect("an address");
        let [one, two] = [(); 2].map(|()| PeerId::random());
        let mut connecting = places.connecting();
        let now = Instant::now();
        assert!(!places.reserve(one, &here) && !connecting(one, &here, now));
        places.let_in(one);
        assert!(places.reserve(one, &here) && connecting(one, &here, now));
        assert!(!places.reserve(two, &here) && !connecting(two, &here, now));
        places.keep(|peer| *peer == two);
        assert!(!places.reserve(one, &here) && !connecting(one, &here, now));
    }

    #[test]
    fn the_smallest_relay_has_a_place_for_everybody_it_can_take() {
        let alone = std::iter::once("/ip4/192.0.2.1/tcp/1".to_owned());
        assert_eq!(granted(&places(1), alone), 1);
    }
}
