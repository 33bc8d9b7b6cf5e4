//! Candidates: addresses a peer may be reached at, and which of them are taken seriously.
//!
//! A candidate comes from the peer and is therefore a claim: it decides where we send packets.
//! [`Candidate::admit`] refuses addresses that cannot be a peer (unspecified, multicast,
//! broadcast, IPv6 link-local without its zone, and loopback unless the session is local), and the
//! agent paces what it sends to the rest. Source: RFC 8445, sections 5.1 and 5.1.2.

use crate::{
    Refusal,
    limits::{MAX_CANDIDATES, MAX_VIA_BYTES},
};
use serde::{Deserialize, Serialize};
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
    /// Parties anywhere that can be reached directly; never loopback.
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
    /// A relay that forwards to us.
    Relayed,
}

impl CandidateKind {
    /// Type preference of RFC 8445, section 5.1.2.2: direct before mapped before relayed.
    fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::PortMapped => 105,
            Self::ServerReflexive => 100,
            Self::Relayed => 2,
        }
    }
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::ServerReflexive => "server-reflexive",
            Self::PortMapped => "port-mapped",
            Self::Relayed => "relayed",
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
    /// Name of the relay, for relayed candidates only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The own address it is sent from. Stays on this machine: it would tell inner addresses.
    #[serde(skip)]
    pub base: Option<SocketAddr>,
}

impl Candidate {
    /// An address of an own interface.
    pub fn host(address: SocketAddr) -> Self {
        Self::new(CandidateKind::Host, address, None, None)
    }

    /// The address a STUN server saw for packets from `base`.
    pub fn server_reflexive(address: SocketAddr, base: SocketAddr) -> Self {
        Self::new(CandidateKind::ServerReflexive, address, Some(base), None)
    }

    /// A port that a router forwards to `base`.
    pub fn port_mapped(address: SocketAddr, base: SocketAddr) -> Self {
        Self::new(CandidateKind::PortMapped, address, Some(base), None)
    }

    /// An address of the relay `via`.
    pub fn relayed(address: SocketAddr, via: String) -> Self {
        Self::new(CandidateKind::Relayed, address, None, Some(via))
    }

    fn new(
        kind: CandidateKind,
        address: SocketAddr,
        base: Option<SocketAddr>,
        via: Option<String>,
    ) -> Self {
        let family = if address.is_ipv6() { 65_535 } else { 65_534 };
        let priority = (kind.preference() << 24) | (family << 8) | 255;
        Self {
            kind,
            address,
            priority,
            via,
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
        if self.via.as_ref().is_some_and(|v| v.len() > MAX_VIA_BYTES) {
            return refuse("its relay's name is too long");
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

/// Short-term STUN credentials of one end towards one peer (RFC 8445, section 5.3).
///
/// The caller draws them from the operating-system generator, fresh for each peer and mesh.
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
    fn a_local_session_takes_loopback_only() {
        assert_eq!(host("127.0.0.1:9").admit(Scope::Local), Ok(()));
        assert!(host("192.168.1.7:9").admit(Scope::Local).is_err());
    }

    #[test]
    fn the_filter_bounds_deduplicates_and_ranks() {
        let relay = Candidate::relayed("9.9.9.9:1".parse().unwrap(), "relay".into());
        let reflexive = Candidate::server_reflexive(
            "8.8.8.8:1".parse().unwrap(),
            "10.0.0.1:1".parse().unwrap(),
        );
        let mut all = vec![relay.clone(), reflexive.clone(), host("10.0.0.1:1")];
        all.push(host("10.0.0.1:1"));
        all.push(host("127.0.0.1:1"));
        let kept = filter(all, Scope::Lan);
        assert_eq!(kept, [host("10.0.0.1:1"), reflexive, relay]);

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
    fn credentials_are_checked_and_not_printed() {
        assert!(Credentials::new("ab".into(), "x".repeat(24)).is_err());
        assert!(Credentials::new("abcd".into(), "x".repeat(21)).is_err());
        assert!(Credentials::new("ab:d".into(), "x".repeat(24)).is_err());
        let good = Credentials::new("abcd".into(), "verysecretverysecret12".into()).unwrap();
        assert!(!format!("{good:?}").contains("verysecret"));
    }
}
