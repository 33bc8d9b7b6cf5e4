//! How many connections one address may open to us: a small libp2p behaviour without a protocol.
//!
//! ```text
//!   incoming ─► counted by IP address or relay ─► handshake ─► established ─► closed ─► given back
//!                    └─ too many: refused            └─ failed ─► given back
//! ```
//! A `PeerId` costs nothing, so limits per peer alone would let one stranger take all places for
//! incoming connections.
//!
//! Limits: [`MAX_INCOMING_PER_ADDRESS`], [`MAX_INCOMING_PER_IP6_NETWORK`] for a /64, and [`MAX_INCOMING_FROM_LOOPBACK`] for loopback, which
//! all parties on one machine share. Behind a circuit there is no address to count: what one relay
//! brings is counted together, up to [`MAX_INCOMING_PER_RELAY`]. Connections that we dialled are not counted.
//!
//! Security: provides that a host needs as many addresses as it wants to multiply these limits
//! with, and in IPv6 as many networks. Does not provide protection from a host that has them; our
//! own dials have places that no incoming connection can take.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint as Role, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm,
        dummy,
    },
};

use super::address::{Endpoint, relay_in};

/// Connections, in their handshake or established, that one remote IP address may open to us.
pub const MAX_INCOMING_PER_ADDRESS: usize = 16;
/// The same for an IPv6 network of 64 bits, which one host can fill with addresses of its own, and
/// which all parties in one building may share.
pub const MAX_INCOMING_PER_IP6_NETWORK: usize = 64;
/// The same for loopback addresses.
pub const MAX_INCOMING_FROM_LOOPBACK: usize = 64;
/// The same for circuits of one relay; a relay that brings strangers leaves room for other ways in.
pub const MAX_INCOMING_PER_RELAY: usize = 96;

#[derive(Debug, thiserror::Error)]
#[error("too many connections from {0:?}")]
struct TooMany(Source);

/// Where a connection comes from, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Address(IpAddr),
    Relay(PeerId),
}

impl Source {
    fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Address(ip) => Some(ip),
            Self::Relay(_) => None,
        }
    }
}

/// Counts incoming connections by source.
pub(super) struct Behaviour {
    incoming: HashMap<ConnectionId, Source>,
    per_address: usize,
    per_ip6_network: usize,
    from_loopback: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            incoming: HashMap::new(),
            per_address: MAX_INCOMING_PER_ADDRESS,
            per_ip6_network: MAX_INCOMING_PER_IP6_NETWORK,
            from_loopback: MAX_INCOMING_FROM_LOOPBACK,
        }
    }
}

impl Behaviour {
    /// With other limits, those of a relay.
    pub fn with_limits(per_address: usize, per_ip6_network: usize) -> Self {
        Self {
            incoming: HashMap::new(),
            per_address,
            per_ip6_network,
            from_loopback: per_address,
        }
    }

    fn admit_circuit(&mut self, connection: ConnectionId, relay: PeerId) -> Result<(), TooMany> {
        let source = Source::Relay(relay);
        let same = self.incoming.values().filter(|other| **other == source);
        if same.count() >= MAX_INCOMING_PER_RELAY {
            return Err(TooMany(source));
        }
        self.incoming.insert(connection, source);
        Ok(())
    }

    fn admit(&mut self, connection: ConnectionId, remote: &Multiaddr) -> Result<(), TooMany> {
        // What is no address of ours to dial, and cannot come in either, shares one count.
        let ip = Endpoint::of(remote).map_or(Ipv4Addr::UNSPECIFIED.into(), |e| e.ip);
        let ip = ip.to_canonical();
        let limit = if ip.is_loopback() {
            self.from_loopback
        } else {
            self.per_address
        };
        let addresses = || self.incoming.values().filter_map(|other| other.ip());
        let same = addresses().filter(|other| *other == ip);
        let near = addresses();
        let near =
            near.filter(|other| ip6_network(*other).is_some_and(|n| Some(n) == ip6_network(ip)));
        if same.count() >= limit || near.count() >= self.per_ip6_network {
            return Err(TooMany(Source::Address(ip)));
        }
        self.incoming.insert(connection, Source::Address(ip));
        Ok(())
    }

    fn gone(&mut self, connection: ConnectionId) {
        self.incoming.remove(&connection);
    }
}

/// The first 64 bits of an IPv6 address.
fn ip6_network(ip: IpAddr) -> Option<u128> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(u128::from(ip) >> 64),
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        match relay_in(local) {
            Some(relay) => self.admit_circuit(connection, relay),
            None => self.admit(connection, remote),
        }
        .map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(failed) => self.gone(failed.connection_id),
            FromSwarm::ConnectionClosed(closed) => self.gone(closed.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets connections `ids` from `address` in; returns how many came in.
    fn admitted(counts: &mut Behaviour, ids: std::ops::Range<usize>, address: &str) -> usize {
        let address: Multiaddr = address.parse().expect("an address");
        ids.filter(|id| {
            let connection = ConnectionId::new_unchecked(*id);
            counts.admit(connection, &address).is_ok()
        })
        .count()
    }

    #[test]
    fn one_address_has_a_bounded_number_of_connections_whatever_its_ports() {
        let mut counts = Behaviour::default();
        let all = [
            ("/ip4/192.168.0.7/tcp/1", MAX_INCOMING_PER_ADDRESS),
            ("/ip4/192.168.0.7/udp/2/quic-v1", 0),
            ("/ip6/::ffff:192.168.0.7/tcp/3", 0),
            ("/ip4/192.168.0.8/tcp/1", MAX_INCOMING_PER_ADDRESS),
            ("/ip4/127.0.0.1/tcp/1", MAX_INCOMING_FROM_LOOPBACK),
            ("/ip6/::1/udp/1/quic-v1", MAX_INCOMING_FROM_LOOPBACK),
            ("/memory/1", MAX_INCOMING_PER_ADDRESS),
            ("/memory/2", 0),
        ];
        for (n, (address, expected)) in all.into_iter().enumerate() {
            let ids = 100 * n..100 * (n + 1);
            assert_eq!(admitted(&mut counts, ids, address), expected, "{address}");
        }
    }

    #[test]
    fn one_ip6_network_has_a_bounded_number_of_connections_whatever_its_addresses() {
        let mut counts = Behaviour::default();
        let mut all = 0;
        for n in 0..100 {
            let address = format!("/ip6/2001:db8:0:7::{n:x}/tcp/1");
            all += admitted(&mut counts, 2 * n..2 * n + 2, &address);
        }
        assert_eq!(all, MAX_INCOMING_PER_IP6_NETWORK);
        let other = "/ip6/2001:db8:0:8::1/tcp/1";
        assert_eq!(
            admitted(&mut counts, 300..400, other),
            MAX_INCOMING_PER_ADDRESS
        );
    }

    #[test]
    fn what_one_relay_brings_is_bounded_and_takes_nothing_from_others() {
        let mut counts = Behaviour::default();
        let (one, other) = (PeerId::random(), PeerId::random());
        let circuits = |counts: &mut Behaviour, ids: std::ops::Range<usize>, relay: PeerId| {
            let id = ConnectionId::new_unchecked;
            ids.filter(|n| counts.admit_circuit(id(*n), relay).is_ok())
                .count()
        };
        assert_eq!(circuits(&mut counts, 0..500, one), MAX_INCOMING_PER_RELAY);
        assert_eq!(circuits(&mut counts, 500..510, other), 10);
        assert_eq!(
            admitted(&mut counts, 600..610, "/ip4/192.168.0.7/tcp/1"),
            10
        );
        counts.gone(ConnectionId::new_unchecked(3));
        assert_eq!(circuits(&mut counts, 700..800, one), 1);
    }

    #[test]
    fn what_is_gone_makes_room() {
        let mut counts = Behaviour::default();
        let address = "/ip4/192.168.0.7/tcp/1";
        assert_eq!(
            admitted(&mut counts, 0..100, address),
            MAX_INCOMING_PER_ADDRESS
        );
        counts.gone(ConnectionId::new_unchecked(3));
        // One that was never let in.
        counts.gone(ConnectionId::new_unchecked(99));
        assert_eq!(admitted(&mut counts, 100..200, address), 1);
    }
}
