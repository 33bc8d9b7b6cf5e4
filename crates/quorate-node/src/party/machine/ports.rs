//! The overlay's ports at the router, so that parties which know each other's addresses meet without a relay.
//!
//! ```text
//!   a STUN server is known ─► ask the router for the QUIC port and the TCP port ─► its public address
//!        told to the others ◄── a STUN server sees our packets come from there ◄──────┘
//! ```
//! What the router says is told to nobody until a STUN server of the session confirms it, as for the mesh's port.
//! Everything happens in a task of its own and is bounded there; the ports are given back at the end.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use quorate_session::message::PathPolicy;
use tokio::{net::UdpSocket, sync::watch, task::JoinHandle};

use super::Machine;
use crate::{
    party::Scope,
    portmap::{Forwarding, Standing, Transport, Wish},
    relay::ask_stun,
};

/// STUN servers that are asked whether an address is ours.
const WITNESSES: usize = 4;

/// The ports that the overlay listens on, as the router lets others in at them.
pub(super) struct Ports {
    addresses: watch::Receiver<Vec<String>>,
    /// Dropped, it ends the task.
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Ports {
    /// Asks for the ports in these addresses of the own overlay.
    fn start(listening: &[String], peer: &str, witnesses: Vec<SocketAddr>) -> Self {
        let (told, addresses) = watch::channel(Vec::new());
        let (stop, stopped) = watch::channel(());
        let forwardings = [Transport::Udp, Transport::Tcp]
            .into_iter()
            .filter_map(|transport| {
                let port = listening.iter().find_map(|a| port_of(a, transport))?;
                Some((transport, Forwarding::start(Wish { transport, port })))
            });
        let keeper = Keeper {
            forwardings: forwardings.collect(),
            peer: peer.to_owned(),
            witnesses,
            told,
        };
        Self {
            addresses,
            stop,
            task: tokio::spawn(keeper.run(stopped)),
        }
    }

    /// Waits for other addresses than before.
    pub(super) async fn changed(ports: Option<&mut Self>) {
        if let Some(ports) = ports
            && ports.addresses.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Gives the ports back.
    pub(super) async fn stop(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

struct Keeper {
    forwardings: Vec<(Transport, Forwarding)>,
    peer: String,
    witnesses: Vec<SocketAddr>,
    told: watch::Sender<Vec<String>>,
}

impl Keeper {
    async fn run(self, mut stopped: watch::Receiver<()>) {
        let mut standings: Vec<_> = self.forwardings.iter().map(|(_, f)| f.standing()).collect();
        loop {
            let confirming = self.confirmed();
            tokio::select! {
                biased;
                _ = stopped.changed() => break,
                addresses = confirming => {
                    self.told.send_if_modified(|told| {
                        let news = *told != addresses;
                        *told = addresses;
                        news
                    });
                }
            }
            let mut changes: FuturesUnordered<_> =
                standings.iter_mut().map(watch::Receiver::changed).collect();
            tokio::select! {
                biased;
                _ = stopped.changed() => break,
                Some(Ok(())) = changes.next() => {}
                // None of them says anything more.
                else => break,
            }
        }
        let given_back = self.forwardings.into_iter().map(|(_, f)| f.stop());
        futures::future::join_all(given_back).await;
    }

    /// The addresses outside that a STUN server sees as well.
    async fn confirmed(&self) -> Vec<String> {
        let mut seen: Option<Vec<IpAddr>> = None;
        let mut addresses = Vec::new();
        for (transport, forwarding) in &self.forwardings {
            let standing = *forwarding.standing().borrow();
            let Standing::Forwarded(forwarded) = standing else {
                continue;
            };
            let seen = match &seen {
                Some(seen) => seen,
                None => seen.insert(self.seen().await),
            };
            if seen.contains(&IpAddr::V4(*forwarded.outside.ip())) {
                let (ip, port) = (forwarded.outside.ip(), forwarded.outside.port());
                let part = match transport {
                    Transport::Udp => format!("udp/{port}/quic-v1"),
                    Transport::Tcp => format!("tcp/{port}"),
                };
                addresses.push(format!("/ip4/{ip}/{part}/p2p/{}", self.peer));
            }
        }
        addresses
    }

    /// Our address as STUN servers see it.
    async fn seen(&self) -> Vec<IpAddr> {
        let mut seen = Vec::new();
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else {
            return seen;
        };
        for witness in self.witnesses.iter().take(WITNESSES) {
            if let Ok(address) = ask_stun(&socket, *witness).await {
                seen.push(address.ip().to_canonical());
                break;
            }
        }
        seen
    }
}

/// The port in `/ip4/…/udp/PORT/quic-v1/…` or `/ip4/…/tcp/PORT/…`, if it is one of this transport.
fn port_of(address: &str, transport: Transport) -> Option<NonZeroU16> {
    let mut parts = address.strip_prefix("/ip4/")?.split('/').skip(1);
    let word = match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    (parts.next()? == word && !address.contains("/p2p-circuit")).then_some(())?;
    parts.next()?.parse().ok()
}

impl Machine {
    /// Asks the router for the overlay's ports, once somebody is known who can confirm what it says.
    pub(super) fn ask_router(&mut self) {
        let wanted = self.config.reach.map_ports
            && self.config.scope != Scope::Local
            && self.config.invitation.subject.net.path != PathPolicy::Relay;
        let witnesses: Vec<SocketAddr> = self
            .stun_servers()
            .into_iter()
            .filter(SocketAddr::is_ipv4)
            .collect();
        if wanted && self.ports.is_none() && !witnesses.is_empty() {
            let (listening, peer) = (self.overlay.addresses(), self.overlay.peer_id());
            self.ports = Some(Ports::start(&listening, &peer, witnesses));
        }
    }

    /// The overlay's addresses at the router.
    pub(super) fn mapped_addresses(&self) -> Vec<String> {
        let ports = self.ports.as_ref();
        ports
            .map(|p| p.addresses.borrow().clone())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_that_the_overlay_listens_on_are_found_in_its_addresses() {
        let (udp, tcp) = (Transport::Udp, Transport::Tcp);
        let quic = "/ip4/192.168.1.2/udp/40001/quic-v1/p2p/12D3KooW";
        assert_eq!(port_of(quic, udp), NonZeroU16::new(40_001));
        assert_eq!(port_of(quic, tcp), None);
        let plain = "/ip4/192.168.1.2/tcp/40002/p2p/12D3KooW";
        assert_eq!(port_of(plain, tcp), NonZeroU16::new(40_002));
        for none in [
            "/ip6/fd00::2/tcp/40002",
            "/ip4/203.0.113.9/tcp/4001/p2p/12D3KooW/p2p-circuit/p2p/12D3KooX",
            "/ip4/192.168.1.2/tcp/0",
            "/ip4/192.168.1.2",
            "",
        ] {
            assert_eq!(port_of(none, tcp), None, "{none}");
        }
    }
}
