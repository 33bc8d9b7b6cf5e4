//! Own addresses as host candidates.

use super::limits::MAX_HOST_ADDRESSES;
use quorate_path::{Candidate, Scope};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The addresses this machine can be reached at, best first, for a socket on `port`.
pub(super) fn host_candidates(scope: Scope, port: u16, ipv6: bool) -> Vec<Candidate> {
    let ips: Vec<IpAddr> = match scope {
        Scope::Local => vec![Ipv4Addr::LOCALHOST.into()],
        // Without a list of interfaces there are no host candidates; other kinds may still come.
        Scope::Lan => if_addrs::get_if_addrs()
            .unwrap_or_default()
            .iter()
            .map(if_addrs::Interface::ip)
            .filter(|ip| ipv6 || ip.is_ipv4())
            .collect(),
    };
    let candidates = ips
        .into_iter()
        .map(|ip| Candidate::host(SocketAddr::new(ip, port)))
        .collect();
    let mut candidates = quorate_path::filter(candidates, scope);
    // Room is left for what servers see of them.
    candidates.truncate(MAX_HOST_ADDRESSES);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_session_offers_loopback_and_a_wider_one_never_does() {
        let local = host_candidates(Scope::Local, 7, false);
        assert_eq!(
            local,
            [Candidate::host(SocketAddr::from(([127, 0, 0, 1], 7)))]
        );
        let wider = host_candidates(Scope::Lan, 7, true);
        assert!(wider.iter().all(|c| !c.address.ip().is_loopback()));
    }
}
