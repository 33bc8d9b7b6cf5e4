//! Candidates: addresses a peer may be reached at, and which of them are taken seriously.
//!
//! A candidate comes from the peer and is therefore a claim: it decides where we send packets.
//! [`Candidate::admit`] refuses addresses that cannot be a peer (unspecified, multicast,
//! broadcast, IPv6 link-local without its zone, and loopback unless the session is local), and the
//! agent paces what it sends to the rest. Source: RFC 8445, sections 5.1 and 5.1.2.

use crate::{Refusal, limits::MAX_CANDIDATES};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};
use zeroize::Zeroizing;

/// Where the peers of a session may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All parties on this machine: loopback addresses only.
    Local,
    /// Parties anywhere, in any network; never loopback.
    Lan,
}

/// How an address was learnt (RFC 8445, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateKind {
    /// An address of one of the machine's own interfaces.
    Host,
    /// The address a STUN server saw.
    ServerReflexive,
    /// A port a router forwards to us on request.
    PortMapped,
}

impl CandidateKind {
    /// Type preference of RFC 8445, section 5.1.2.2: own before mapped.
    fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::PortMapped => 105,
            Self::ServerReflexive => 100,
        }
    }
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::ServerReflexive => "server-reflexive",
            Self::PortMapped => "port-mapped",
        })
    }
}

/// One address a party may be reached at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// How it was learnt.
    pub kind: CandidateKind,
    /// Where to send.
    pub address: SocketAddr,
    /// Priority of RFC 8445, section 5.1.2; the offering end computes it.
    pub priority: u32,
    /// The own address it is sent from. Stays on this machine: it would tell inner addresses.
    #[serde(skip)]
    pub base: Option<SocketAddr>,
}

impl Candidate {
    /// An address of an own interface.
    pub fn host(address: SocketAddr) -> Self {
        Self::new(CandidateKind::Host, address, None)
    }

    /// The address a STUN server saw for packets from `base`.
    pub fn server_reflexive(address: SocketAddr, base: SocketAddr) -> Self {
        Self::new(CandidateKind::ServerReflexive, address, Some(base))
    }

    /// A port that a router forwards to `base`.
    pub fn port_mapped(address: SocketAddr, base: SocketAddr) -> Self {
        Self::new(CandidateKind::PortMapped, address, Some(base))
    }

    fn new(kind: CandidateKind, address: SocketAddr, base: Option<SocketAddr>) -> Self {
        let family = if address.is_ipv6() { 65_535 } else { 65_534 };
        let priority = (kind.preference() << 24) | (family << 8) | 255;
        Self {
            kind,
            address,
            priority,
            base,
        }
    }

    /// Whether packets may be sent there, in a session of this `scope`.
    pub fn admit(&self, scope: Scope) -> Result<(), Refusal> {
        let refuse = |why| Err(Refusal::Address(self.address, why));
        if let Err(why) = admit_address(self.address, scope) {
            return refuse(why);
        }
        if self.priority == 0 || self.priority >= 1 << 31 {
            return refuse("its priority is out of range");
        }
        Ok(())
    }
}

/// Whether `address` can be a peer's at all, in a session of this `scope`.
pub(crate) fn admit_address(address: SocketAddr, scope: Scope) -> Result<(), &'static str> {
    let ip = address.ip().to_canonical();
    if address.port() == 0 {
        return Err("its port is zero");
    }
    if ip.is_unspecified() {
        return Err("it is the unspecified address");
    }
    if ip.is_multicast() {
        return Err("it is a multicast address");
    }
    match ip {
        IpAddr::V4(v4) if v4.is_broadcast() => return Err("it is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => return Err("it is in 0.0.0.0/8"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            return Err("a link-local address means nothing without its zone");
        }
        _ => {}
    }
    match (ip.is_loopback(), scope) {
        (true, Scope::Lan) => Err("loopback is for sessions on one machine only"),
        (false, Scope::Local) => Err("this session stays on this machine"),
        _ => Ok(()),
    }
}

/// Whether packets from anywhere on the Internet can be sent to `ip`: not if it is private, shared by a carrier's
/// customers (100.64.0.0/10), of this machine or link, or of no unicast use. Source: RFC 6890, RFC 6598.
/// Networks for documentation count as public, so that laboratories can use them.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let protocols = a == 192 && b == 0 && c == 0;
            let benchmarks = a == 198 && (b == 18 || b == 19);
            !(a == 0
                || a >= 224
                || shared
                || protocols
                || benchmarks
                || v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local())
        }
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    }
}

/// Keeps what [`Candidate::admit`] admits: each address once, the best first, at most
/// [`MAX_CANDIDATES`].
pub fn filter(mut candidates: Vec<Candidate>, scope: Scope) -> Vec<Candidate> {
    candidates.retain(|c| c.admit(scope).is_ok());
    candidates.sort_by(|a, b| {
        (b.priority, a.address)
            .partial_cmp(&(a.priority, b.address))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let known = kept.iter().any(|k| k.address == candidate.address);
        if !known && kept.len() < MAX_CANDIDATES {
            kept.push(candidate);
        }
    }
    kept
}

/// Short-term STUN credentials of one end towards one peer, of one round (RFC 8445, section 5.3).
#[derive(Clone)]
pub struct Credentials {
    pub(crate) ufrag: String,
    pub(crate) password: Zeroizing<String>,
}

impl Credentials {
    /// Checks length and alphabet: 4 to 32 characters of user fragment, 22 to 64 of password,
    /// letters, digits, `+` and `/` (RFC 8445, section 5.3; 22 characters carry 128 bits).
    pub fn new(ufrag: String, password: String) -> Result<Self, Refusal> {
        let password = Zeroizing::new(password);
        let ice_char = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
        if !(4..=32).contains(&ufrag.len()) || !ufrag.chars().all(ice_char) {
            return Err(Refusal::Credentials("user fragment"));
        }
        if !(22..=64).contains(&password.len()) || !password.chars().all(ice_char) {
            return Err(Refusal::Credentials("password"));
        }
        Ok(Self { ufrag, password })
    }

    /// Those of a round: 48 bits of user fragment, 192 of password, from a seed that the caller
    /// drew from the operating-system generator for this peer and mesh.
    pub(crate) fn derive(seed: &[u8; 32], round: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"quorate/1/ice");
        hash.update(seed);
        hash.update(round.to_be_bytes());
        let digest: Zeroizing<[u8; 32]> = Zeroizing::new(hash.finalize().into());
        let (ufrag, rest) = digest.split_at(6);
        Self {
            ufrag: ice_text(ufrag),
            password: Zeroizing::new(ice_text(&rest[..24])),
        }
    }
}

/// Six bits per character, in the alphabet of RFC 8445.
fn ice_text(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift) as usize & 63]))
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, (secret))", self.ufrag)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(text: &str) -> Candidate {
        Candidate::host(text.parse().unwrap())
    }

    #[test]
    fn addresses_that_cannot_be_a_peer_are_refused() {
        for text in [
            "0.0.0.0:5",
            "0.1.2.3:5",
            "[::]:5",
            "224.0.0.251:5353",
            "[ff02::fb]:5353",
            "255.255.255.255:9",
            "[fe80::1]:9",
            "127.0.0.1:9",
            "[::1]:9",
            "[::ffff:127.0.0.1]:9",
            "[::ffff:224.0.0.1]:9",
            "192.168.1.7:0",
        ] {
            assert!(host(text).admit(Scope::Lan).is_err(), "{text} was admitted");
        }
        for text in ["192.168.1.7:9", "192.0.2.2:9", "[fd00::2]:9", "8.8.8.8:53"] {
            assert_eq!(host(text).admit(Scope::Lan), Ok(()), "{text} was refused");
        }
    }

    #[test]
    fn addresses_that_the_internet_does_not_reach_are_not_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.2",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.7.7",
            "172.31.0.1",
            "192.0.0.2",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::ffff:10.0.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(
                !is_public(text.parse().unwrap()),
                "{text} is no public address"
            );
        }
        for text in [
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "2001:db8::1",
        ] {
            assert!(
                is_public(text.parse().unwrap()),
                "{text} is a public address"
            );
        }
    }

    #[test]
    fn a_local_session_takes_loopback_only() {
        assert_eq!(host("127.0.0.1:9").admit(Scope::Local), Ok(()));
        assert!(host("192.168.1.7:9").admit(Scope::Local).is_err());
    }

    #[test]
    fn the_filter_bounds_deduplicates_and_ranks() {
        let reflexive = Candidate::server_reflexive(
            "8.8.8.8:1".parse().unwrap(),
            "10.0.0.1:1".parse().unwrap(),
        );
        let mut all = vec![reflexive.clone(), host("10.0.0.1:1")];
        all.push(host("10.0.0.1:1"));
        all.push(host("127.0.0.1:1"));
        let kept = filter(all, Scope::Lan);
        assert_eq!(kept, [host("10.0.0.1:1"), reflexive]);

        let many = (1..200).map(|i| host(&format!("10.0.1.{i}:7"))).collect();
        assert_eq!(filter(many, Scope::Lan).len(), MAX_CANDIDATES);
    }

    #[test]
    fn a_candidate_keeps_its_inner_address_to_itself() {
        let reflexive = Candidate::server_reflexive(
            "8.8.8.8:1".parse().unwrap(),
            "10.0.0.1:1".parse().unwrap(),
        );
        let text = serde_json::to_string(&reflexive).unwrap();
        assert!(!text.contains("10.0.0.1"), "{text}");
    }

    #[test]
    fn credentials_differ_with_seed_and_round() {
        assert_eq!(ice_text(&[0, 0, 0, 255, 255, 255]), "AAAA////");
        let one = Credentials::derive(&[1; 32], 0);
        assert!(Credentials::new(one.ufrag.clone(), String::clone(&one.password)).is_ok());
        assert_eq!((one.ufrag.len(), one.password.len()), (8, 32));
        for other in [
            Credentials::derive(&[1; 32], 1),
            Credentials::derive(&[2; 32], 0),
        ] {
            assert_ne!(one.ufrag, other.ufrag);
            assert_ne!(*one.password, *other.password);
        }
    }

    #[test]
    fn credentials_are_checked_and_not_printed() {
        assert!(Credentials::new("ab".into(), "x".repeat(24)).is_err());
        assert!(Credentials::new("abcd".into(), "x".repeat(21)).is_err());
        assert!(Credentials::new("ab:d".into(), "x".repeat(24)).is_err());
        let good = Credentials::new("abcd".into(), "verysecretverysecret12".into()).unwrap();
        assert!(!format!("{good:?}").contains("verysecret"));
    }
}
