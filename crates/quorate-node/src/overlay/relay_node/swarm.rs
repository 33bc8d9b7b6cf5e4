//! What the relay's swarm is made of: transports that are read at the meter's rates, behaviours and
//! their limits, and the addresses that it names.

use std::{collections::HashSet, sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, PeerId, Transport as _, connection_limits,
    connection_limits::ConnectionLimits,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    identify,
    identity::Keypair,
    noise, quic, relay,
    swarm::NetworkBehaviour,
    tcp,
};
use quorate_identity::Did;

use super::{
    External, RelayLimits,
    guests::{self, Guests},
    memory::{MAX_STREAMS_BESIDE, QUIC_CONNECTION_WINDOW, UNREAD_BYTES},
    places::Places,
    setup,
};
use crate::overlay::{
    OverlayError, Scope,
    address::Endpoint,
    admission, announce, dht,
    exchange::Exchange,
    muxer,
    network::identify_config,
    pass, pulse,
    throttle::{Meter, Throttled},
    unread::Budget,
};

/// Connections in their handshake, opened by others.
const MAX_PENDING: u32 = 128;
/// Connections with one peer.
const MAX_CONNECTIONS_PER_PEER: u32 = 8;
/// A handshake must be complete within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// QUIC flow control: unread bytes of one stream; of a connection it is [`QUIC_CONNECTION_WINDOW`]. A relay's circuits share
/// a connection: several of them may stand still before all do.
const QUIC_STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes by which the windows of one TCP connection may grow in all.
const WINDOW_GROWTH: u32 = 2 * 1024 * 1024;
/// Streams of one connection, whatever is configured.
const MOST_STREAMS: u32 = 4096;

/// All behaviours of a relay. It is a node of the DHT too, and asks no other node: a relay dials nobody.
#[derive(NetworkBehaviour)]
pub(super) struct Node {
    limits: connection_limits::Behaviour,
    admission: admission::Behaviour,
    guests: guests::Behaviour,
    pub relay: relay::Behaviour,
    announce: Exchange<announce::Answer>,
    pass: Exchange<pass::Answer>,
    pub dht: dht::Behaviour,
    identify: identify::Behaviour,
    pulse: pulse::Behaviour,
}

/// What others are told to reach the relay at: what the operator named, or what is listened on
/// without loopback, unless there is nothing else.
pub(super) fn reachable_at<'a>(
    external: &[External],
    listening: impl Iterator<Item = &'a Multiaddr>,
) -> Vec<Multiaddr> {
    let listening: Vec<Endpoint> = listening
        .filter_map(|a| Endpoint::of(a).ok())
        .filter(|e| e.allowed(Scope::Lan).is_ok())
        .collect();
    let mut wanted: Vec<Multiaddr> = Vec::new();
    let mut add = |address: Multiaddr| {
        if !wanted.contains(&address) {
            wanted.push(address);
        }
    };
    if external.is_empty() {
        let beyond = listening.iter().any(|e| !e.is_loopback());
        let named = listening.iter().filter(|e| e.is_loopback() != beyond);
        named.for_each(|e| add(e.address.clone()));
        return wanted;
    }
    for named in external {
        match named {
            External::Address(text) => text.parse().into_iter().for_each(&mut add),
            External::Host(ip) => listening
                .iter()
                .filter(|e| e.ip.is_ipv4() == ip.is_ipv4())
                .for_each(|e| add(Endpoint::new(*ip, e.port, e.transport, None).address)),
        }
    }
    wanted
}

/// The behaviours, set up as the module's text says.
pub(super) fn behaviours(
    keypair: &Keypair,
    limits: &RelayLimits,
    places: &Places,
    list: Option<Arc<HashSet<Did>>>,
    guests: Option<Guests>,
    source: announce::Source,
) -> Node {
    let local = keypair.public().to_peer_id();
    let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let duration = Duration::from_secs(limits.circuit_seconds.max(1).into());
    let config = relay::Config {
        max_reservations: size(limits.reservations),
        max_reservations_per_peer: 1,
        reservation_duration: duration,
        reservation_rate_limiters: vec![Box::new(places.reserving())],
        max_circuits: size(limits.circuits),
        // libp2p refuses beyond one more than this.
        max_circuits_per_peer: size(limits.circuits_per_peer).saturating_sub(1),
        max_circuit_duration: duration,
        max_circuit_bytes: limits.circuit_bytes,
        circuit_src_rate_limiters: vec![Box::new(places.connecting())],
    };
    let per_address = size(limits.connections_per_address);
    let connections = ConnectionLimits::default()
        .with_max_established_incoming(Some(limits.connections()))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
        .with_max_pending_incoming(Some(MAX_PENDING))
        // A relay dials nobody.
        .with_max_pending_outgoing(Some(0));
    Node {
        limits: connection_limits::Behaviour::new(connections),
        // A host has as many addresses of an IPv6 network as it likes.
        admission: admission::Behaviour::with_limits(per_address, per_address),
        guests: guests::Behaviour::new(guests),
        relay: relay::Behaviour::new(local, config),
        announce: announce::answering(source),
        pass: pass::demanding(local, list, {
            let places = places.clone();
            move |peer| places.let_in(peer)
        }),
        dht: dht::Behaviour::node(local, dht::Extent::Named),
        identify: identify::Behaviour::new(identify_config(keypair.public())),
        pulse: pulse::Behaviour::default(),
    }
}

/// TCP with noise and yamux, QUIC with TLS 1.3; every stream is read at the meter's rates.
pub(super) fn transport(
    keypair: &Keypair,
    limits: &RelayLimits,
    meter: Arc<Meter>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, OverlayError> {
    let streams = limits.circuits_per_peer.saturating_add(MAX_STREAMS_BESIDE);
    let windows = muxer::Windows {
        streams: streams.min(MOST_STREAMS),
        growth: WINDOW_GROWTH,
    };
    let yamux = muxer::Config::new(windows, Budget::new(UNREAD_BYTES));
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).map_err(setup)?)
        .multiplex(yamux)
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = HANDSHAKE_TIMEOUT;
    config.max_concurrent_stream_limit = streams;
    config.max_stream_data = QUIC_STREAM_WINDOW;
    config.max_connection_data = QUIC_CONNECTION_WINDOW;
    let quic = quic::tokio::Transport::new(config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(quic
        .or_transport(tcp)
        .map(move |either, _| {
            let (peer, muxer) = either.into_inner();
            let throttled = Throttled::new(muxer, Arc::clone(&meter));
            (peer, StreamMuxerBox::new(throttled))
        })
        .boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::swarm::ConnectionId;

    fn addresses(external: &[External], listening: &[&str]) -> Vec<String> {
        let listening: Vec<Multiaddr> = listening
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect();
        reachable_at(external, listening.iter())
            .iter()
            .map(Multiaddr::to_string)
            .collect()
    }

    #[test]
    fn loopback_is_named_only_where_there_is_nothing_else() {
        let loopback = "/ip4/127.0.0.1/tcp/4001";
        let all = [loopback, "/ip4/192.0.2.1/tcp/4001", "/ip6/fe80::1/tcp/4001"];
        assert_eq!(addresses(&[], &all), ["/ip4/192.0.2.1/tcp/4001"]);
        assert_eq!(addresses(&[], &[loopback]), [loopback]);
    }

    #[test]
    fn one_ip6_network_has_the_places_of_one_address() {
        let key = Keypair::generate_ed25519();
        let limits = RelayLimits::default();
        let source: announce::Source = Arc::new(Vec::new);
        let places = Places::new(&limits, false);
        let mut node = behaviours(&key, &limits, &places, None, None, source);
        let local: Multiaddr = "/ip6/2001:db8::1/tcp/4001".parse().expect("an address");
        let admitted = (0..300).filter(|n| {
            let remote = format!("/ip6/2001:db8:0:7::{n:x}/tcp/1");
            let remote = remote.parse().expect("an address");
            let id = ConnectionId::new_unchecked(*n);
            let admission = &mut node.admission;
            admission
                .handle_pending_inbound_connection(id, &local, &remote)
                .is_ok()
        });
        let places = usize::try_from(limits.connections_per_address);
        assert_eq!(Ok(admitted.count()), places);
    }

    #[test]
    fn an_external_host_is_named_with_the_ports_of_its_family() {
        let listening = [
            "/ip4/10.0.0.2/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/10.0.0.2/udp/4001/quic-v1",
            "/ip6/::1/tcp/4001",
        ];
        let host = External::Host("192.0.2.9".parse().expect("an address"));
        let exact = External::Address("/ip4/192.0.2.9/tcp/443".into());
        assert_eq!(
            addresses(&[host, exact], &listening),
            [
                "/ip4/192.0.2.9/tcp/4001",
                "/ip4/192.0.2.9/udp/4001/quic-v1",
                "/ip4/192.0.2.9/tcp/443",
            ]
        );
    }
}
