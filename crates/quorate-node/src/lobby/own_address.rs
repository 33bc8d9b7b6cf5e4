//! Which of our addresses go into a ticket.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use quorate_session::limits::MAX_TICKET_HINTS;

/// The address others most likely reach us by comes first: that of the interface which leads out, by QUIC, then by TCP.
/// Loopback addresses help nobody who does not hear the beacon anyway.
/// A circuit takes one of the places: it works where no direct address does.
pub(super) fn hints(listening: &[String], circuit: Option<String>) -> Vec<String> {
    let outgoing = outgoing_ip();
    let mut found: Vec<(u8, String)> = listening
        .iter()
        .filter(|text| !text.contains("/p2p-circuit"))
        .filter_map(|text| {
            let address = text.split("/p2p/").next()?;
            let mut parts = address.split('/').skip(1);
            let family = parts.next()?;
            let ip: IpAddr = parts.next()?.parse().ok()?;
            if ip.is_loopback() {
                return None;
            }
            let rank = u8::from(Some(ip) != outgoing) * 4
                + u8::from(family != "ip4") * 2
                + u8::from(!address.ends_with("/quic-v1"));
            Some((rank, address.to_owned()))
        })
        .collect();
    found.sort();
    found.truncate(MAX_TICKET_HINTS - usize::from(circuit.is_some()));
    let direct = found.into_iter().map(|(_, address)| address);
    direct.chain(circuit).collect()
}

/// The address that packets to the world would come from. Connecting a UDP socket sends nothing.
fn outgoing_ip() -> Option<IpAddr> {
    // TEST-NET-1 (RFC 5737): routed like the world, belongs to nobody.
    let anywhere = SocketAddr::from(([192, 0, 2, 1], 9));
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(anywhere).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_stays_out_and_quic_over_ip4_comes_first() {
        let listening = [
            "/ip4/127.0.0.1/tcp/1/p2p/x",
            "/ip6/2001:db8::9/tcp/4/p2p/x",
            "/ip4/203.0.113.9/tcp/2/p2p/x",
            "/ip4/203.0.113.9/udp/3/quic-v1/p2p/x",
            "/ip4/198.51.100.7/tcp/4001/p2p/r/p2p-circuit/p2p/x",
            "nonsense",
        ]
        .map(str::to_owned);
        let expected = ["/ip4/203.0.113.9/udp/3/quic-v1", "/ip4/203.0.113.9/tcp/2"];
        assert_eq!(hints(&listening, None), expected);
        assert!(hints(&listening[..1], None).is_empty());
        let circuit = "/ip4/198.51.100.7/tcp/4001/p2p/r/p2p-circuit".to_owned();
        let shared = [expected[0].to_owned(), circuit.clone()];
        assert_eq!(hints(&listening, Some(circuit)), shared);
    }
}
