//! Where a connection comes from, as limits count it: an IPv4 address, or an IPv6 network of 64 bits.
//!
//! Security: a host has as many addresses of such a network as it likes, so that counting addresses would count nothing.

use std::net::{IpAddr, Ipv4Addr};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// One source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// This process: not counted.
    Ourselves,
    Ip4(Ipv4Addr),
    /// The first 64 bits.
    Ip6(u64),
}

impl Source {
    /// Of a peer that is connected from there.
    pub fn of(address: &Multiaddr) -> Self {
        let ip = match address.iter().next() {
            Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
            Some(Protocol::Ip6(ip)) => IpAddr::V6(ip).to_canonical(),
            _ => return Self::Ourselves,
        };
        match ip {
            IpAddr::V4(ip) => Self::Ip4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                let words = [a, b, c, d].map(u64::from);
                Self::Ip6(words.into_iter().fold(0, |all, word| all << 16 | word))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ip6_network_is_one_source() {
        let of = |text: &str| Source::of(&text.parse().expect("a multiaddr"));
        assert_eq!(
            of("/ip6/2001:db8:0:7::1/tcp/1"),
            of("/ip6/2001:db8:0:7:ffff::2/udp/2/quic-v1")
        );
        assert_ne!(
            of("/ip6/2001:db8:0:7::1/tcp/1"),
            of("/ip6/2001:db8:0:8::1/tcp/1")
        );
        assert_eq!(
            of("/ip6/::ffff:192.0.2.1/tcp/1"),
            Source::Ip4(Ipv4Addr::new(192, 0, 2, 1))
        );
        assert_ne!(
            of("/ip4/192.0.2.2/tcp/1"),
            Source::Ip4(Ipv4Addr::new(192, 0, 2, 1))
        );
    }
}
