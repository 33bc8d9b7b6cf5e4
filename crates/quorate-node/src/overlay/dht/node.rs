//! A node by itself: keeps records and answers, and does nothing else. A relay serves the same beside its circuits.
//!
//! Limits: [`MAX_CONNECTIONS`] connections, [`MAX_CONNECTIONS_PER_PEER`] of one peer; those of the store.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, connection_limits,
    connection_limits::ConnectionLimits,
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::{sync::oneshot, task::JoinHandle, time::interval};
use zeroize::Zeroizing;

use super::behaviour::{Behaviour, Extent};
use crate::overlay::{OverlayError, Scope, address::Endpoint};

/// Connections at a time.
const MAX_CONNECTIONS: u32 = 512;
/// Connections with one peer.
const MAX_CONNECTIONS_PER_PEER: u32 = 4;
/// How often its figures are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What identify says that a node speaks.
const IDENTIFY_PROTOCOL: &str = "/quorate/1";

/// What a node is started with.
pub struct NodeConfig {
    /// Ed25519 seed of its identity.
    pub secret: Zeroizing<[u8; 32]>,
    /// Where other nodes may be.
    pub scope: Scope,
    /// Multiaddr text; port 0 lets the system choose.
    pub listen: Vec<String>,
    /// Other nodes, as multiaddr text with `/p2p/PEER`.
    pub nodes: Vec<String>,
}

/// How a node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// Where it listens, with `/p2p/PEER`.
    pub addresses: Vec<String>,
    /// Nodes that it knows.
    pub known: usize,
    /// Records that it keeps.
    pub kept: usize,
    /// Records that it refused.
    pub refused: u64,
}

/// A running node. Dropping it stops it.
#[derive(Debug)]
pub struct Node {
    status: Arc<Mutex<NodeStatus>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(NetworkBehaviour)]
struct Serving {
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    dht: Behaviour,
}

impl Node {
    /// Listens and serves.
    pub async fn start(config: NodeConfig) -> Result<Self, OverlayError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut swarm = network(config.secret, config.scope)?;
        for text in &config.listen {
            let refuse =
                |why: &dyn std::fmt::Display| OverlayError::Listen(format!("{text}: {why}"));
            let address: Multiaddr = text.parse().map_err(|e| refuse(&e))?;
            swarm.listen_on(address).map_err(|e| refuse(&e))?;
        }
        for text in &config.nodes {
            let refuse = |why: &str| OverlayError::Setup(format!("{text}: {why}"));
            let endpoint = Endpoint::parse(text, config.scope).map_err(refuse)?;
            let peer = endpoint
                .peer
                .ok_or_else(|| refuse("/p2p/PEER is missing"))?;
            swarm.behaviour_mut().dht.begin_with(peer, endpoint.address);
        }
        let status = Arc::default();
        let mut serving = Server {
            swarm,
            status: Arc::clone(&status),
        };
        for _ in &config.listen {
            serving.until_listening().await?;
        }
        let _ = serving.swarm.behaviour_mut().dht.kad().bootstrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serving.run(stopped));
        Ok(Self { status, stop, task })
    }

    /// How it stands.
    pub fn status(&self) -> NodeStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Closes its sockets and waits for that.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

fn network(secret: Zeroizing<[u8; 32]>, scope: Scope) -> Result<Swarm<Serving>, OverlayError> {
    let setup = |error: &dyn std::fmt::Display| OverlayError::Setup(error.to_string());
    let mut secret = secret;
    let key = Keypair::ed25519_from_bytes(secret.as_mut_slice()).map_err(|e| setup(&e))?;
    let limits = ConnectionLimits::default()
        .with_max_established(Some(MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));
    // Other nodes have to learn where this one listens.
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), key.public())
        .with_agent_version(String::new())
        .with_cache_size(0);
    Ok(SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(
            tcp::Config::new().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .map_err(|e| setup(&e))?
        .with_quic()
        .with_behaviour(|key| Serving {
            limits: connection_limits::Behaviour::new(limits),
            identify: identify::Behaviour::new(identify),
            dht: Behaviour::node(key.public().to_peer_id(), Extent::Within(scope)),
        })
        .map_err(|e| setup(&e))?
        .build())
}

struct Server {
    swarm: Swarm<Serving>,
    status: Arc<Mutex<NodeStatus>>,
}

impl Server {
    async fn until_listening(&mut self) -> Result<(), OverlayError> {
        loop {
            match self.swarm.select_next_some().await {
                event @ SwarmEvent::NewListenAddr { .. } => {
                    self.on_swarm(event);
                    return Ok(());
                }
                SwarmEvent::ListenerClosed { reason, .. } => {
                    return Err(OverlayError::Listen(format!("{reason:?}")));
                }
                event => self.on_swarm(event),
            }
        }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut look = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                _ = look.tick() => self.look(),
                _ = &mut stopped => return,
            }
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<ServingEvent>) {
        let me = *self.swarm.local_peer_id();
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                let address = address.with(Protocol::P2p(me)).to_string();
                self.change(|status| status.addresses.push(address));
            }
            SwarmEvent::Behaviour(ServingEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => self.on_identify(peer_id, &info),
            other => tracing::trace!(event = ?other, "a node"),
        }
    }

    /// What is refused leaves no event.
    fn look(&mut self) {
        let dht = &mut self.swarm.behaviour_mut().dht;
        let (known, (kept, refused)) = (dht.known(), dht.kept());
        self.change(|status| {
            (status.known, status.kept, status.refused) = (known, kept, refused);
        });
    }

    fn on_identify(&mut self, peer: PeerId, info: &identify::Info) {
        let dht = &mut self.swarm.behaviour_mut().dht;
        dht.heard_of(peer, &info.protocols, &info.listen_addrs);
    }

    fn change(&self, change: impl FnOnce(&mut NodeStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
