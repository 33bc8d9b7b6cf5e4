//! Which addresses the overlay may dial, listen on and show.
//!
//! Only four shapes exist here: `/ip4|ip6/…/tcp/PORT` and `/ip4|ip6/…/udp/PORT/quic-v1`, each with
//! or without `/p2p/PEER` at the end. Names (`/dns4`) and relay circuits are refused: resolving a
//! name would ask a third party, and there is no relay in this version.
//!
//! Security: provides that under [`Scope::Local`] nothing but loopback is ever dialled, whoever
//! named the address (a hint, a beacon, the caller). Does not provide: any meaning of the peer id
//! in a hint beyond "expect this one"; identity is proven by the session.

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

/// One dialable address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Without the trailing `/p2p/…`.
    pub address: Multiaddr,
    pub ip: IpAddr,
    pub port: u16,
    pub transport: Transport,
    pub peer: Option<PeerId>,
}

impl Endpoint {
    /// Takes `address` apart; anything but the four shapes is refused with a reason.
    pub fn of(address: &Multiaddr) -> Result<Self, &'static str> {
        let mut parts = address.iter();
        let ip = match parts.next() {
            Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
            Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
            Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => {
                return Err("names are not resolved, write the IP address");
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
        if parts.next().is_some() {
            return Err("nothing may follow /p2p/PEER");
        }
        Ok(Self::new(ip, port, transport, peer))
    }

    /// Puts an endpoint together from parts that are already typed.
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
            peer,
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

/// The relay in between, for a connection over a circuit.
pub(super) fn relay_of(endpoint: &ConnectedPoint) -> Option<PeerId> {
    // On both sides the own end of the circuit begins with the relay's address.
    let address = match endpoint {
        ConnectedPoint::Dialer { address, .. } => address,
        ConnectedPoint::Listener { local_addr, .. } => local_addr,
    };
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
