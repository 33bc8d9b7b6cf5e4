//! A relay as a stranger sees it: can it be reached, what does it say, does it carry a circuit.
//!
//! ```text
//!   reach:  dial ─► the relay's PeerId proven ─► announcement, round trip of a ping
//!   carry:  a ── reserve ──► relay ◄── connect to a ── b;   b ═══ bytes ═══► a ── count ──► b
//! ```
//! Each probe has identities of its own, made for it and forgotten.
//!
//! Limits: [`PROBE_WAIT`] for reaching, reserving and connecting each; [`CARRY_WAIT`] for the bytes.
//!
//! Security: the relay is not trusted; everything it sends is bounded by libp2p's codecs, the
//! announcement's limits, and the waits. Provides: that the answer is the named peer's.

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, future::BoxFuture,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    core::{Endpoint as Role, transport::PortUse, upgrade::ReadyUpgrade},
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, DialError,
        FromSwarm, NetworkBehaviour, NotifyHandler, Stream, SubstreamProtocol, SwarmEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
    tcp, yamux,
};
use quorate_session::relay::Announcement;
use tokio::time::{timeout, timeout_at};

use super::{
    OverlayError, Scope,
    address::Endpoint,
    announce::{self, told},
    exchange::Exchange,
};

/// Time to reach a relay, to reserve, and to connect through it, each.
pub const PROBE_WAIT: Duration = Duration::from_secs(10);
/// Time for the bytes of a test circuit.
pub const CARRY_WAIT: Duration = Duration::from_secs(20);
/// After the first address of a relay, the others get this long.
const ADDRESSES_REST: Duration = Duration::from_millis(100);
/// Time for closing what was opened.
const CLOSE_WAIT: Duration = Duration::from_millis(500);
/// The protocol of the bytes.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/quorate/probe/1");
/// Time between two pings of a probe.
const PING_INTERVAL: Duration = Duration::from_millis(200);
/// Most bytes that the receiving end of a probe takes.
pub(super) const MAX_PROBE_BYTES: u64 = 64 * 1024 * 1024;

/// A relay that answered.
#[derive(Debug, Clone)]
pub struct Reached {
    /// Its `PeerId`, proven.
    pub peer: String,
    /// Time until the connection was up.
    pub took: Duration,
    /// Round trip of a ping.
    pub rtt: Option<Duration>,
    /// What it says it is, or why it does not.
    pub announcement: Result<Announcement, String>,
}

/// A circuit that carried bytes.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Time until the reservation was granted.
    pub reserved: Duration,
    /// Time until the circuit's two ends were connected.
    pub connected: Duration,
    /// Round trip of a ping through the circuit.
    pub rtt: Option<Duration>,
    /// What the relay says it is reachable at, without `/p2p/…`.
    pub addresses: Vec<String>,
    /// How long it says a circuit lasts.
    pub seconds: Option<u64>,
    /// How many bytes it says a circuit carries.
    pub bytes: Option<u64>,
    /// Time for the bytes that were sent, until the other end had all.
    pub carried: Duration,
}

/// Dials `address`, a multiaddr with or without `/p2p/…`, and asks what is there.
pub async fn reach(address: &str) -> Result<Reached, String> {
    let address = parse(address)?;
    let mut swarm = probe().map_err(|e| e.to_string())?;
    let start = Instant::now();
    swarm.dial(address).map_err(|e| dial_failure(&e))?;
    let mut reached: Option<Reached> = None;
    let mut asked = None;
    let mut said = false;
    let all = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished {
                    peer_id,
                    connection_id,
                    ..
                } => {
                    swarm.behaviour_mut().announce.ask(peer_id, connection_id);
                    asked = Some((peer_id, connection_id));
                    reached = Some(Reached {
                        peer: peer_id.to_string(),
                        took: start.elapsed(),
                        rtt: None,
                        announcement: Err("it does not say what it is".into()),
                    });
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => {
                    return Err(dial_failure(&error));
                }
                SwarmEvent::ConnectionClosed { .. } => return Ok(()),
                SwarmEvent::Behaviour(ProbeEvent::Ping(event)) => {
                    if let (Ok(rtt), Some(reached)) = (event.result, &mut reached) {
                        reached.rtt = Some(rtt);
                    }
                }
                SwarmEvent::Behaviour(ProbeEvent::Announce(done))
                    if asked == Some((done.peer, done.connection)) =>
                {
                    if let Some(reached) = &mut reached {
                        reached.announcement = told(done);
                        said = true;
                    }
                }
                _ => {}
            }
            if said && reached.as_ref().is_some_and(|r| r.rtt.is_some()) {
                return Ok(());
            }
        }
    };
    let ended = timeout(PROBE_WAIT, all).await;
    close(&mut swarm).await;
    match ended {
        Ok(Err(why)) => Err(why),
        _ => reached.ok_or_else(|| "no answer".to_owned()),
    }
}

/// Tells the other ends, which would wait for a time-out of QUIC otherwise.
pub(super) async fn close(swarm: &mut Swarm<Probe>) {
    let peers: Vec<PeerId> = swarm.connected_peers().copied().collect();
    for peer in peers {
        let _ = swarm.disconnect_peer_id(peer);
    }
    let closed = async {
        while swarm.network_info().num_peers() > 0 {
            swarm.select_next_some().await;
        }
    };
    let _ = timeout(CLOSE_WAIT, closed).await;
}

/// Reserves at the relay, connects through it and sends `bytes` bytes over the circuit.
pub async fn carry(relay: &str, bytes: u64) -> Result<Carried, String> {
    let relay = parse(relay)?;
    let Some(Protocol::P2p(_)) = relay.iter().last() else {
        return Err("the address does not end with the relay's /p2p/…".into());
    };
    let through = relay.with(Protocol::P2pCircuit);
    let mut receiver = probe().map_err(|e| e.to_string())?;
    let start = Instant::now();
    let listening = receiver.listen_on(through.clone());
    listening.map_err(|e| e.to_string())?;
    let (addresses, limit) = reservation(&mut receiver).await?;
    let reserved = start.elapsed();
    let target = *receiver.local_peer_id();
    let (done, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let serve = async {
            loop {
                receiver.select_next_some().await;
            }
        };
        tokio::select! {
            () = serve => {}
            _ = ended => {}
        }
        close(&mut receiver).await;
    });
    let mut sender = probe().map_err(|e| e.to_string())?;
    let circuit = through.with(Protocol::P2p(target));
    let sent = send_through(&mut sender, circuit, target, bytes).await;
    close(&mut sender).await;
    drop(done);
    let _ = serving.await;
    let (connected, rtt, carried) = sent?;
    Ok(Carried {
        reserved,
        connected,
        rtt,
        addresses,
        seconds: limit.0,
        bytes: limit.1,
        carried,
    })
}

/// Addresses of the relay; seconds and bytes of a circuit, if it says so.
pub(super) type Granted = (Vec<String>, (Option<u64>, Option<u64>));

/// Waits for the relay's answer.
pub(super) async fn reservation(swarm: &mut Swarm<Probe>) -> Result<Granted, String> {
    let mut addresses = Vec::new();
    let mut limits = None;
    let mut until = Instant::now() + PROBE_WAIT;
    while let Ok(event) = timeout_at(until.into(), swarm.select_next_some()).await {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                let plain: Multiaddr = address
                    .iter()
                    .take_while(|part| !matches!(part, Protocol::P2p(_)))
                    .collect();
                addresses.push(plain.to_string());
            }
            SwarmEvent::Behaviour(ProbeEvent::Relay(
                relay::client::Event::ReservationReqAccepted { limit, .. },
            )) => {
                let seconds = limit.and_then(|l| l.duration()).map(|d| d.as_secs());
                let bytes = limit.and_then(|l| l.data_in_bytes());
                limits = Some((seconds, bytes));
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(dial_failure(&error)),
            SwarmEvent::ListenerClosed { reason, .. } => {
                let why = reason
                    .err()
                    .map_or("it was closed".into(), |e| e.to_string());
                return Err(format!("no reservation: {why}"));
            }
            SwarmEvent::ListenerError { error, .. } => {
                return Err(format!("no reservation: {error}"));
            }
            _ => {}
        }
        if limits.is_some() && !addresses.is_empty() {
            // The others follow at once.
            until = until.min(Instant::now() + ADDRESSES_REST);
        }
    }
    let limits = limits.ok_or("no answer to the reservation")?;
    Ok((addresses, limits))
}

async fn send_through(
    swarm: &mut Swarm<Probe>,
    circuit: Multiaddr,
    target: PeerId,
    bytes: u64,
) -> Result<(Duration, Option<Duration>, Duration), String> {
    let start = Instant::now();
    swarm.dial(circuit).map_err(|e| dial_failure(&e))?;
    let mut connected = None;
    let mut rtt = None;
    let mut sending: Option<ConnectionId> = None;
    let steps = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished {
                    peer_id,
                    connection_id,
                    ..
                } if peer_id == target => {
                    connected = Some((start.elapsed(), Instant::now()));
                    sending = Some(connection_id);
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => {
                    return Err(dial_failure(&error));
                }
                SwarmEvent::ConnectionClosed { peer_id, cause, .. } if peer_id == target => {
                    let why = cause.map_or("closed".to_owned(), |e| e.to_string());
                    return Err(format!("the circuit was cut: {why}"));
                }
                SwarmEvent::Behaviour(ProbeEvent::Ping(event)) if event.peer == target => {
                    if let (Ok(time), Some(connection)) = (event.result, sending.take()) {
                        rtt = Some(time);
                        connected = connected.map(|(took, _)| (took, Instant::now()));
                        let load = &mut swarm.behaviour_mut().load;
                        load.send(target, connection, bytes);
                    }
                }
                SwarmEvent::Behaviour(ProbeEvent::Load(sent)) => {
                    sent.result?;
                    let (took, began) = connected.unwrap_or((start.elapsed(), Instant::now()));
                    return Ok((took, rtt, began.elapsed()));
                }
                _ => {}
            }
        }
    };
    match timeout(PROBE_WAIT + CARRY_WAIT, steps).await {
        Ok(result) => result,
        Err(_) if connected.is_some() => Err("the circuit carries too little".into()),
        Err(_) => Err("no connection through it".into()),
    }
}

pub(super) fn parse(address: &str) -> Result<Multiaddr, String> {
    let endpoint = Endpoint::parse(address, Scope::Lan)?;
    let address = endpoint.address;
    Ok(match endpoint.peer {
        Some(peer) => address.with(Protocol::P2p(peer)),
        None => address,
    })
}

/// The address and its sibling of the other transport at the same port: TCP beside QUIC.
pub fn both_transports(address: &str) -> Result<[String; 2], String> {
    let endpoint = Endpoint::parse(address, Scope::Lan)?;
    Ok([
        super::address::Transport::Quic,
        super::address::Transport::Tcp,
    ]
    .map(|transport| {
        let address = Endpoint::new(endpoint.ip, endpoint.port, transport, None).address;
        match endpoint.peer {
            Some(peer) => address.with(Protocol::P2p(peer)).to_string(),
            None => address.to_string(),
        }
    }))
}

/// IP address, port, and whether it is TCP.
pub fn parts(address: &str) -> Result<(std::net::IpAddr, u16, bool), String> {
    let endpoint = Endpoint::parse(address, Scope::Lan)?;
    let tcp = endpoint.transport == super::address::Transport::Tcp;
    Ok((endpoint.ip, endpoint.port, tcp))
}

/// IP address and port of an address to listen on, which may be unspecified.
pub fn listening_parts(address: &str) -> Result<(std::net::IpAddr, u16), &'static str> {
    let address: Multiaddr = address.parse().map_err(|_| "not a multiaddr")?;
    let endpoint = Endpoint::of(&address)?;
    match endpoint.peer {
        Some(_) => Err("nothing may follow the port"),
        None => Ok((endpoint.ip, endpoint.port)),
    }
}

/// What an error of several layers says in the end.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Why a dial failed, in words.
pub(super) fn dial_failure(error: &DialError) -> String {
    match error {
        DialError::WrongPeerId { obtained, .. } => {
            format!("somebody else answers there: {obtained}")
        }
        DialError::Transport(tried) => {
            let innermost = tried.iter().map(|(_, error)| root_cause(error));
            innermost.last().unwrap_or_else(|| "no answer".into())
        }
        other => other.to_string(),
    }
}

#[derive(NetworkBehaviour)]
pub(super) struct Probe {
    relay: relay::client::Behaviour,
    announce: Exchange<announce::Answer>,
    pub load: LoadTest,
    ping: ping::Behaviour,
}

fn probe() -> Result<Swarm<Probe>, OverlayError> {
    swarm(PING_INTERVAL, PROBE_WAIT)
}

/// A probe that pings so often, and whose connections last so long without a stream.
pub(super) fn swarm(ping: Duration, idle: Duration) -> Result<Swarm<Probe>, OverlayError> {
    // Two providers are in the dependency tree; an error only says that one is chosen already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let setup = |e: &dyn std::fmt::Display| OverlayError::Setup(e.to_string());
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| OverlayError::Random(e.to_string()))?;
    let keypair = Keypair::ed25519_from_bytes(&mut seed).map_err(|e| setup(&e))?;
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::new().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .map_err(|e| setup(&e))?
        .with_quic()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(|e| setup(&e))?
        .with_behaviour(|_, relay| Probe {
            relay,
            announce: announce::asking(),
            load: LoadTest::default(),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(ping)),
        })
        .map_err(|e| setup(&e))?
        .with_swarm_config(|c| c.with_idle_connection_timeout(idle))
        .with_connection_timeout(PROBE_WAIT)
        .build();
    Ok(swarm)
}

/// Bytes in one direction of a connection, then their count back.
#[derive(Default)]
pub(super) struct LoadTest {
    queue: VecDeque<ToSwarm<Sent, u64>>,
}

/// The bytes arrived, or why not.
type Arrived = Result<(), String>;

/// How sending ended.
#[derive(Debug)]
pub(super) struct Sent {
    /// Over a connection with it.
    pub peer: PeerId,
    /// Whether all arrived.
    pub result: Arrived,
}

impl LoadTest {
    /// Sends bytes over a connection; [`Sent`] says how that ended.
    pub fn send(&mut self, peer: PeerId, connection: ConnectionId, bytes: u64) {
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: bytes,
        });
    }
}

impl NetworkBehaviour for LoadTest {
    type ConnectionHandler = LoadHandler;
    type ToSwarm = Sent;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<LoadHandler, ConnectionDenied> {
        Ok(LoadHandler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<LoadHandler, ConnectionDenied> {
        Ok(LoadHandler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, result: Arrived) {
        let sent = Sent { peer, result };
        self.queue.push_back(ToSwarm::GenerateEvent(sent));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Sent, u64>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[derive(Default)]
pub(super) struct LoadHandler {
    open: bool,
    bytes: u64,
    work: Option<BoxFuture<'static, Option<Arrived>>>,
    failed: Option<Arrived>,
}

impl ConnectionHandler for LoadHandler {
    type FromBehaviour = u64;
    type ToBehaviour = Arrived;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn on_behaviour_event(&mut self, bytes: u64) {
        self.open = true;
        self.bytes = bytes;
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Arrived>> {
        if std::mem::take(&mut self.open) {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: self.listen_protocol(),
            });
        }
        if let Some(work) = &mut self.work
            && let Poll::Ready(done) = work.poll_unpin(cx)
        {
            self.work = None;
            self.failed = done;
        }
        match self.failed.take() {
            Some(done) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(done)),
            None => Poll::Pending,
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => self.work = Some(receive(protocol).map(|_| None).boxed()),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => {
                let sent = send(protocol, self.bytes);
                let sent = sent.map(|r| Some(r.map_err(|e| e.to_string())));
                self.work = Some(sent.boxed());
            }
            ConnectionEvent::DialUpgradeError(error) => {
                let _: &libp2p::swarm::StreamUpgradeError<Infallible> = &error.error;
                self.failed = Some(Err(error.error.to_string()));
            }
            _ => {}
        }
    }
}

async fn send(mut stream: Stream, bytes: u64) -> std::io::Result<()> {
    let chunk = [0x71; 16 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(chunk.len() as u64);
        let part = usize::try_from(now).unwrap_or(chunk.len());
        stream.write_all(&chunk[..part]).await?;
        left -= now;
    }
    stream.flush().await?;
    stream.close().await?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).await?;
    if u64::from_be_bytes(count) == bytes {
        return Ok(());
    }
    Err(std::io::Error::other("bytes were lost in the circuit"))
}

async fn receive(mut stream: Stream) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut count = 0_u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            _ if count > MAX_PROBE_BYTES => return Ok(()),
            n => count += n as u64,
        }
    }
    stream.write_all(&count.to_be_bytes()).await?;
    stream.close().await
}
