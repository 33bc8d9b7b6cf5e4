//! Which addresses the overlay may dial, listen on and show.
//!
//! ```text
//!   /ip4|ip6/…/tcp/PORT [/p2p/PEER]                        direct
//!   /ip4|ip6/…/udp/PORT/quic-v1 [/p2p/PEER]                direct
//!   one of both /p2p/RELAY/p2p-circuit [/p2p/PEER]         over a relay
//! ```
//! Names (`/dns4`) are refused here: whoever could name one would make us ask for it. Those of relays that the user or the
//! invitation names are looked up, see `names`.
//!
//! Security: provides that under [`Scope::Local`] nothing but loopback is ever dialled, whoever
//! named the address (a hint, a beacon, the caller), relays included. Does not provide: any meaning of the
//! peer id in a hint beyond "expect this one"; identity is proven by the session.

use std::net::{IpAddr, Ipv4Addr};

use libp2p::{
    core::ConnectedPoint,
    multiaddr::{Multiaddr, PeerId, Protocol},
};

use super::Scope;

/// Longest accepted address text.
pub(super) const MAX_ADDRESS_BYTES: usize = 256;

/// The two transports of the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Quic,
}

/// The ways to a peer, which are tried one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    Quic,
    Circuit,
}

/// One dialable address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Without the trailing `/p2p/PEER`.
    pub address: Multiaddr,
    /// Host of the peer, or of the relay.
    pub ip: IpAddr,
    pub port: u16,
    pub transport: Transport,
    /// The relay in between, at that host.
    pub relay: Option<PeerId>,
    pub peer: Option<PeerId>,
}

impl Endpoint {
    /// Takes `address` apart; anything but the shapes above is refused with a reason.
    pub fn of(address: &Multiaddr) -> Result<Self, &'static str> {
        let mut parts = address.iter();
        let ip = match parts.next() {
            Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
            Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
            Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => {
                return Err("only names of relays that you or the invitation names are looked up");
            }
            _ => return Err("must begin with /ip4/… or /ip6/…"),
        };
        let (transport, port) = match parts.next() {
            Some(Protocol::Tcp(port)) => (Transport::Tcp, port),
            Some(Protocol::Udp(port)) => match parts.next() {
                Some(Protocol::QuicV1) => (Transport::Quic, port),
                _ => return Err("after /udp/PORT only /quic-v1 is spoken"),
            },
            _ => return Err("after the IP address must come /tcp/PORT or /udp/PORT/quic-v1"),
        };
        let peer = match parts.next() {
            None => None,
            Some(Protocol::P2p(peer)) => Some(peer),
            Some(_) => return Err("only /p2p/PEER may follow the port"),
        };
        let direct = Self::new(ip, port, transport, peer);
        let (relay, peer) = match (peer, parts.next()) {
            (_, None) => return Ok(direct),
            (Some(relay), Some(Protocol::P2pCircuit)) => match parts.next() {
                None => (relay, None),
                Some(Protocol::P2p(peer)) => (relay, Some(peer)),
                Some(_) => return Err("only /p2p/PEER may follow /p2p-circuit"),
            },
            (_, Some(_)) => return Err("only /p2p-circuit may follow /p2p/PEER"),
        };
        if parts.next().is_some() {
            return Err("nothing may follow /p2p-circuit/p2p/PEER");
        }
        if peer == Some(relay) {
            return Err("a relay cannot be reached through itself");
        }
        Ok(direct.through(relay, peer))
    }

    /// Puts a direct endpoint together from parts that are already typed.
    pub fn new(ip: IpAddr, port: u16, transport: Transport, peer: Option<PeerId>) -> Self {
        let base = Multiaddr::from(ip);
        let address = match transport {
            Transport::Tcp => base.with(Protocol::Tcp(port)),
            Transport::Quic => base.with(Protocol::Udp(port)).with(Protocol::QuicV1),
        };
        Self {
            address,
            ip,
            port,
            transport,
            relay: None,
            peer,
        }
    }

    /// The circuit to `peer` over the relay that is at this direct endpoint.
    pub fn through(&self, relay: PeerId, peer: Option<PeerId>) -> Self {
        let address = self.address.clone();
        Self {
            address: address
                .with(Protocol::P2p(relay))
                .with(Protocol::P2pCircuit),
            relay: Some(relay),
            peer,
            ..self.clone()
        }
    }

    /// All of it, with the peer that is expected.
    pub fn text(&self) -> String {
        match self.peer {
            Some(peer) => self.address.clone().with(Protocol::P2p(peer)).to_string(),
            None => self.address.to_string(),
        }
    }

    /// The relay of a circuit, as an endpoint of its own.
    pub fn of_relay(&self) -> Option<Self> {
        let relay = self.relay?;
        Some(Self::new(self.ip, self.port, self.transport, Some(relay)))
    }

    pub fn way(&self) -> Way {
        match (self.relay, self.transport) {
            (Some(_), _) => Way::Circuit,
            (None, Transport::Tcp) => Way::Tcp,
            (None, Transport::Quic) => Way::Quic,
        }
    }

    /// Parses text from outside and checks that `scope` allows dialling it.
    pub fn parse(text: &str, scope: Scope) -> Result<Self, &'static str> {
        if text.len() > MAX_ADDRESS_BYTES {
            return Err("the address is longer than 256 bytes");
        }
        let address: Multiaddr = text.trim().parse().map_err(|_| "not a multiaddr")?;
        let endpoint = Self::of(&address)?;
        endpoint.allowed(scope)?;
        Ok(endpoint)
    }

    /// Whether `scope` allows dialling this endpoint.
    pub fn allowed(&self, scope: Scope) -> Result<(), &'static str> {
        if self.port == 0 {
            return Err("port 0 cannot be dialled");
        }
        let ip = self.ip.to_canonical();
        if scope == Scope::Local && !ip.is_loopback() {
            return Err("only loopback addresses are dialled in local scope");
        }
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err("not the address of one machine");
        }
        if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err("link-local addresses need a zone, which an address text cannot carry");
        }
        Ok(())
    }

    pub fn is_loopback(&self) -> bool {
        self.ip.to_canonical().is_loopback()
    }
}

/// Whether an address is of the public network: neither of a network that many have, nor of this machine alone.
/// Addresses for documentation count: laboratories are made of them.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // Behind a carrier's NAT (RFC 6598).
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            let odd = ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast();
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared || odd)
        }
        // Global unicast (RFC 4291).
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

/// The relay in between, for a connection over a circuit.
pub(super) fn relay_of(endpoint: &ConnectedPoint) -> Option<PeerId> {
    // On both sides the own end of the circuit begins with the relay's address.
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => relay_in(address),
        ConnectedPoint::Listener { local_addr, .. } => relay_in(local_addr),
    }
}

/// The relay that an address goes through.
pub(super) fn relay_in(address: &Multiaddr) -> Option<PeerId> {
    let mut relay = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => relay = Some(peer),
            Protocol::P2pCircuit => return relay,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_those_that_one_machine_has_alone() {
        for text in ["198.51.100.7", "8.8.8.8", "100.128.0.1", "2001:db8::7"] {
            assert!(is_public(text.parse().expect(text)), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.2",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.254",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(text.parse().expect(text)), "{text}");
        }
    }

    #[test]
    fn the_four_shapes_are_understood() {
        for (text, transport, port) in [
            ("/ip4/127.0.0.1/tcp/4001", Transport::Tcp, 4001),
            ("/ip6/::1/tcp/7", Transport::Tcp, 7),
            ("/ip4/127.0.0.1/udp/4001/quic-v1", Transport::Quic, 4001),
            ("/ip6/::1/udp/65535/quic-v1", Transport::Quic, 65535),
        ] {
            let endpoint = Endpoint::parse(text, Scope::Local).expect(text);
            assert_eq!((endpoint.transport, endpoint.port), (transport, port));
            assert_eq!(endpoint.address.to_string(), text);
            assert_eq!(endpoint.peer, None);
        }
    }

    #[test]
    fn a_circuit_names_the_relay_and_the_peer_behind_it() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        for base in ["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/udp/4001/quic-v1"] {
            let address = format!("{base}/p2p/{relay}/p2p-circuit");
            let text = format!("{address}/p2p/{peer}");
            let endpoint = Endpoint::parse(&text, Scope::Local).expect("valid");
            assert_eq!(
                (endpoint.relay, endpoint.peer, endpoint.way()),
                (Some(relay), Some(peer), Way::Circuit)
            );
            assert_eq!(endpoint.address.to_string(), address);
            let at = endpoint.of_relay().expect("a circuit");
            assert_eq!((at.peer, at.relay), (Some(relay), None));
            assert_eq!(at.address.to_string(), base);
            assert_eq!(at.through(relay, Some(peer)), endpoint);
            let open = Endpoint::parse(&address, Scope::Local).expect("valid");
            assert_eq!(open.peer, None);
        }
        for text in [
            format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{relay}"),
            format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/tcp/2"),
            format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}/p2p-circuit"),
            format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p/{peer}"),
            format!("/ip4/10.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}"),
            format!("/p2p/{relay}/p2p-circuit/p2p/{peer}"),
        ] {
            assert!(Endpoint::parse(&text, Scope::Local).is_err(), "{text}");
        }
    }

    #[test]
    fn a_peer_id_is_split_off() {
        let peer = PeerId::random();
        let text = format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}");
        let endpoint = Endpoint::parse(&text, Scope::Local).expect("valid");
        assert_eq!(endpoint.peer, Some(peer));
        assert_eq!(endpoint.address.to_string(), "/ip4/127.0.0.1/tcp/4001");
    }

    #[test]
    fn other_shapes_and_foreign_addresses_are_refused() {
        let long = format!("/ip4/127.0.0.1/tcp/1{}", " ".repeat(MAX_ADDRESS_BYTES));
        for text in [
            "",
            "127.0.0.1:4001",
            "/ip4/127.0.0.1",
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/127.0.0.1/tcp/99999",
            "/ip4/127.0.0.1/udp/1",
            "/ip4/127.0.0.1/tcp/1/ws",
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/dns4/localhost/tcp/1",
            "/ip4/127.0.0.1/tcp/1/p2p-circuit",
            long.as_str(),
        ] {
            assert!(Endpoint::parse(text, Scope::Local).is_err(), "{text}");
        }
        for text in [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.1/tcp/1",
            "/ip4/255.255.255.255/tcp/1",
            "/ip6/ff02::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
        ] {
            assert!(Endpoint::parse(text, Scope::Lan).is_err(), "{text}");
        }
        assert!(Endpoint::parse("/ip4/192.168.1.7/tcp/1", Scope::Lan).is_ok());
    }
}
