//! The libp2p swarm: transports, behaviours and their limits.
//!
//! TCP with noise and yamux, QUIC with TLS 1.3; circuits over relays with noise and yamux inside, so that a relay
//! carries ciphertext between the same authenticated `PeerId`s. Identify says our protocols and nothing else:
//! no agent name, no listen addresses, and what peers say about theirs is not kept. Pulses find
//! dead connections. mDNS runs under [`Scope::Lan`] only.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, connection_limits,
    connection_limits::ConnectionLimits,
    identify,
    identity::{Keypair, PublicKey},
    mdns, noise, relay,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
    tcp,
};
use quorate_identity::SigningKey;
use quorate_session::limits::MAX_LOBBY_LINKS;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{
    OverlayError, Scope,
    address::{Endpoint, Transport},
    admission, announce, direct,
    exchange::Exchange,
    lanes,
    multiplex::{MAX_STREAMS_DIALLED, Multiplexing},
    pass, pulse, stream,
};

/// Established connections opened by others.
pub const MAX_INCOMING: u32 = 128;
// A lobby or a post that is full chooses which link makes room; it must get to see the newcomer.
const _: () = assert!(MAX_LOBBY_LINKS < MAX_INCOMING as usize);
/// Established connections opened by us, whatever others have opened.
pub const MAX_OUTGOING: u32 = 96;
/// Established connections with one peer.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 6;
/// Connections in their handshake, opened by others.
pub const MAX_PENDING_INCOMING: u32 = 64;
/// Connections in their handshake, opened by us.
pub const MAX_PENDING_OUTGOING: u32 = 64;
/// Incoming streams of a connection in protocol negotiation.
const MAX_NEGOTIATING_STREAMS: usize = 8;
/// A handshake must be complete within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two identify exchanges; nothing in them changes.
const IDENTIFY_INTERVAL: Duration = Duration::from_hours(1);
/// mDNS asks again after this time.
const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(15);
/// QUIC flow control: unread bytes of one stream and of one connection. A relay's circuits share a connection: several of
/// them may stand still before all do.
const QUIC_STREAM_WINDOW: u32 = 512 * 1024;
const QUIC_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Protocol family in identify; equal for every session and program.
const IDENTIFY_PROTOCOL: &str = "/quorate/1";

/// All behaviours of the overlay.
#[derive(NetworkBehaviour)]
pub(super) struct Node {
    limits: connection_limits::Behaviour,
    admission: admission::Behaviour,
    pub session: stream::Behaviour,
    pub lanes: lanes::Behaviour,
    pub announce: Exchange<announce::Answer>,
    pub pass: Exchange<pass::Answer>,
    pub direct: direct::Behaviour,
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    pulse: pulse::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// A swarm that does not listen yet.
pub(super) struct Network {
    pub swarm: Swarm<Node>,
    pub public: PublicKey,
    /// Yields `None` once the swarm and all its tasks are gone.
    pub gone: mpsc::Receiver<()>,
    /// Why there is no mDNS although the scope asks for it.
    pub without_mdns: Option<io::Error>,
}

impl Network {
    /// Builds the swarm with the identity of `seed`; relays that ask may be shown the DID of `key`.
    pub fn build(
        seed: Zeroizing<[u8; 32]>,
        scope: Scope,
        protocol: StreamProtocol,
        only: Option<PeerId>,
        key: Option<Arc<SigningKey>>,
    ) -> Result<Self, OverlayError> {
        let mut seed = seed;
        let keypair = Keypair::ed25519_from_bytes(seed.as_mut_slice()).map_err(setup)?;
        let public = keypair.public();
        let (mdns, without_mdns) = multicast_dns(&public, scope);
        let of = public.clone();
        let node = move |relay| Node {
            limits: connection_limits::Behaviour::new(limits()),
            admission: admission::Behaviour::default(),
            session: stream::Behaviour::new(of.to_peer_id(), scope, protocol, only),
            lanes: lanes::Behaviour::new(of.to_peer_id()),
            announce: announce::asking(),
            pass: pass::showing(of.to_peer_id(), key),
            direct: direct::Behaviour::new(of.to_peer_id()),
            relay,
            identify: identify::Behaviour::new(identify_config(of)),
            pulse: pulse::Behaviour::default(),
            mdns: mdns.into(),
        };
        let (alive, gone) = mpsc::channel(1);
        let swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(
                tcp::Config::new().nodelay(true),
                noise::Config::new,
                Multiplexing::direct,
            )
            .map_err(setup)?
            .with_quic_config(|mut config| {
                // What nobody reads is bounded by the window of the connection, whoever dialled.
                config.max_concurrent_stream_limit = MAX_STREAMS_DIALLED;
                config.max_stream_data = QUIC_STREAM_WINDOW;
                config.max_connection_data = QUIC_CONNECTION_WINDOW;
                config
            })
            .with_relay_client(noise::Config::new, Multiplexing::in_circuits)
            .map_err(setup)?
            .with_behaviour(|_, relay| node(relay))
            .map_err(setup)?
            .with_swarm_config(|_| swarm_config(alive))
            .with_connection_timeout(HANDSHAKE_TIMEOUT)
            .build();
        Ok(Self {
            swarm,
            public,
            gone,
            without_mdns,
        })
    }
}

fn setup(error: impl std::fmt::Display) -> OverlayError {
    OverlayError::Setup(error.to_string())
}

/// There is no limit for both directions together: incoming connections would count against our
/// own dials.
fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_established_incoming(Some(MAX_INCOMING))
        .with_max_established_outgoing(Some(MAX_OUTGOING))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        .with_max_pending_outgoing(Some(MAX_PENDING_OUTGOING))
}

pub(super) fn identify_config(public: PublicKey) -> identify::Config {
    identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), public)
        .with_agent_version(String::new())
        .with_interval(IDENTIFY_INTERVAL)
        .with_hide_listen_addrs(true)
        .with_cache_size(0)
}

/// The default with a tokio executor, except that the end of its tasks can be awaited.
fn swarm_config(alive: mpsc::Sender<()>) -> swarm::Config {
    swarm::Config::with_executor(move |task| {
        let alive = alive.clone();
        tokio::spawn(async move {
            let _alive = alive;
            task.await;
        });
    })
    .with_idle_connection_timeout(stream::SESSION_WAIT)
    .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
}

fn multicast_dns(
    public: &PublicKey,
    scope: Scope,
) -> (Option<mdns::tokio::Behaviour>, Option<io::Error>) {
    if scope == Scope::Local {
        return (None, None);
    }
    let config = mdns::Config {
        query_interval: MDNS_QUERY_INTERVAL,
        ..mdns::Config::default()
    };
    match mdns::tokio::Behaviour::new(config, public.to_peer_id()) {
        Ok(behaviour) => (Some(behaviour), None),
        Err(error) => (None, Some(error)),
    }
}

/// What to listen on; the system chooses the ports.
pub(super) fn listen_addresses(scope: Scope) -> Vec<Multiaddr> {
    let hosts: [IpAddr; 2] = match scope {
        Scope::Local => [
            std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ],
        Scope::Lan => [
            std::net::Ipv4Addr::UNSPECIFIED.into(),
            std::net::Ipv6Addr::UNSPECIFIED.into(),
        ],
    };
    let both = [Transport::Tcp, Transport::Quic];
    hosts
        .into_iter()
        .flat_map(|host| both.map(|transport| Endpoint::new(host, 0, transport, None).address))
        .collect()
}
