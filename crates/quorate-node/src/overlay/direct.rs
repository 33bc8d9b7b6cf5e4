//! From a circuit to a direct connection: two parties that reach each other over a relay dial each other at the
//! same moment. A small libp2p behaviour with its connection handler.
//!
//! ```text
//!   lower PeerId                             over the circuit                              higher PeerId
//!   open /quorate/direct/1, "I am seen at …" ─────────────────────────────────────────────► a party? then
//!   round trip measured                      ◄──────────────────────────────── "I am seen at …"
//!   "now", half a round trip of waiting      ─────────────────────────────────────────────► dial
//!   dial                     ═════════ QUIC, from the listening sockets, both ways at once ═════════
//! ```
//! Both packets pass the own NAT before the other one arrives there, so each finds the way open. QUIC knows no
//! simultaneous open: whichever handshake comes through is a connection like others, and if both do, one of them
//! carries the session and the other one is closed as spare.
//!
//! Why not libp2p's DCUtR: see ADR 39. It tells own addresses to whoever opens a circuit, and dials whatever it is told.
//!
//! Limits: [`MAX_SEEN`] addresses in [`MAX_MESSAGE_BYTES`], [`EXCHANGE_WAIT`] for an exchange, [`MAX_EXCHANGES`] at a
//! time; [`MAX_TRIES`] with growing waits for each peer, until the own addresses change; who asks more often than
//! [`ANSWER_INTERVAL`] gets no answer.
//!
//! Security. Requires: that the overlay filters and rations addresses before it dials them. Provides: nobody but a
//! party of the session is told an address, or makes us dial one. Does not provide: that an address is the peer's; who
//! answers there proves its `PeerId`. Source: the idea is that of libp2p's DCUtR.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, future::BoxFuture,
    stream::FuturesUnordered,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint as Role, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, Stream, SubstreamProtocol, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::time::{sleep, timeout};

use super::address::relay_of;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/quorate/direct/1");
/// Addresses that one end tells the other.
pub const MAX_SEEN: usize = 8;
/// Longest message.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Time for one exchange, from the open stream to the dial.
const EXCHANGE_WAIT: Duration = Duration::from_secs(10);
/// Exchanges at a time.
const MAX_EXCHANGES: usize = 64;
/// Attempts for one peer; more follow when our own addresses change.
pub const MAX_TRIES: u32 = 5;
/// Wait after the first attempt; doubled after each.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// A peer that asks again sooner gets no answer.
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// What the behaviour tells the overlay.
#[derive(Debug)]
pub(super) enum Event {
    /// Dial this party now, at those of these addresses that are plausible.
    Dial {
        peer: PeerId,
        addresses: Vec<String>,
    },
}

/// What an exchange came to: the other end's addresses.
type Exchange = BoxFuture<'static, (PeerId, io::Result<Vec<String>>)>;

/// One peer that there is a connection with.
#[derive(Default)]
struct Peer {
    circuits: Vec<ConnectionId>,
    direct: usize,
    tries: u32,
    next: Option<Instant>,
    /// The circuit on which an exchange of ours is under way.
    busy: Option<ConnectionId>,
    answered: Option<Instant>,
}

impl Peer {
    fn due(&self) -> Option<(ConnectionId, Option<Instant>)> {
        let lacks = self.direct == 0 && self.busy.is_none() && self.tries < MAX_TRIES;
        let on = self.circuits.first().filter(|_| lacks)?;
        Some((*on, self.next))
    }

    fn ended(&mut self, now: Instant) {
        self.busy = None;
        self.tries += 1;
        self.next = Some(now + FIRST_WAIT * 2_u32.pow(self.tries.min(8) - 1));
    }
}

/// See the module's text.
pub(super) struct Behaviour {
    local: PeerId,
    parties: HashSet<PeerId>,
    seen: Vec<String>,
    peers: HashMap<PeerId, Peer>,
    running: FuturesUnordered<Exchange>,
    queue: VecDeque<ToSwarm<Event, Open>>,
}

impl Behaviour {
    pub fn new(local: PeerId) -> Self {
        Self {
            local,
            parties: HashSet::new(),
            seen: Vec::new(),
            peers: HashMap::new(),
            running: FuturesUnordered::new(),
            queue: VecDeque::new(),
        }
    }

    /// From now on these peers are parties, and no others.
    pub fn set_parties(&mut self, parties: HashSet<PeerId>, now: Instant) {
        self.parties = parties;
        self.open_due(now);
    }

    /// Whether this peer is one of the parties.
    pub fn is_party(&self, peer: &PeerId) -> bool {
        self.parties.contains(peer)
    }

    /// Whether a party is reached over a relay only.
    pub fn lacks_any(&self) -> bool {
        let mut all = self.peers.iter();
        all.any(|(peer, state)| {
            self.parties.contains(peer) && state.direct == 0 && !state.circuits.is_empty()
        })
    }

    /// Where others see us. What failed before is tried again if that is new.
    pub fn set_seen(&mut self, seen: Vec<String>, now: Instant) {
        let news = seen.iter().any(|at| !self.seen.contains(at));
        self.seen = seen;
        self.seen.truncate(MAX_SEEN);
        if news {
            for state in self.peers.values_mut() {
                state.tries = 0;
                // Not before the attempt that may have just ended has had its time.
                state.next = state.next.map(|at| at.min(now + FIRST_WAIT));
            }
        }
        self.open_due(now);
    }

    /// Begins the exchanges that are due.
    pub fn open_due(&mut self, now: Instant) {
        if self.seen.is_empty() {
            return;
        }
        for (peer, state) in &mut self.peers {
            let ours = self.local < *peer && self.parties.contains(peer);
            let Some((on, next)) = state.due().filter(|_| ours) else {
                continue;
            };
            if next.is_none_or(|at| at <= now) {
                state.busy = Some(on);
                self.queue.push_back(ToSwarm::NotifyHandler {
                    peer_id: *peer,
                    handler: NotifyHandler::One(on),
                    event: Open,
                });
            }
        }
    }

    /// When [`open_due`](Self::open_due) has something to do next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ours = self.peers.iter().filter(|(peer, _)| {
            !self.seen.is_empty() && self.local < **peer && self.parties.contains(*peer)
        });
        ours.filter_map(|(_, state)| state.due()?.1).min()
    }

    fn opened(&mut self, peer: PeerId, id: ConnectionId, stream: Stream, inbound: bool) {
        let now = Instant::now();
        let party = self.parties.contains(&peer);
        let ours = self.local < peer;
        let full = self.running.len() >= MAX_EXCHANGES;
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        // Dropping the stream ends it.
        if !party || inbound == ours || !state.circuits.contains(&id) {
            if state.busy == Some(id) && !inbound {
                state.ended(now);
            }
            return;
        }
        if inbound {
            let often = state
                .answered
                .is_some_and(|at| now.saturating_duration_since(at) < ANSWER_INTERVAL);
            if often || full || self.seen.is_empty() {
                return;
            }
            state.answered = Some(now);
        } else if full {
            return state.ended(now);
        }
        let seen = self.seen.join("\n");
        let exchange = async move {
            let exchange = async {
                if inbound {
                    answer(stream, seen).await
                } else {
                    ask(stream, seen).await
                }
            };
            let result = timeout(EXCHANGE_WAIT, exchange).await;
            (
                peer,
                result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            )
        };
        self.running.push(exchange.boxed());
    }

    fn exchanged(&mut self, peer: PeerId, result: io::Result<Vec<String>>, now: Instant) {
        let reached = match self.peers.get_mut(&peer) {
            Some(state) => {
                if self.local < peer {
                    state.ended(now);
                }
                state.direct > 0
            }
            None => return,
        };
        match result {
            Ok(addresses) if !reached && self.parties.contains(&peer) => {
                let dial = Event::Dial { peer, addresses };
                self.queue.push_back(ToSwarm::GenerateEvent(dial));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%peer, %error, "no direct connection could be agreed on"),
        }
    }
}

/// The lower end: tells, is told, and says when.
async fn ask(mut stream: Stream, seen: String) -> io::Result<Vec<String>> {
    let asked = Instant::now();
    write(&mut stream, seen.as_bytes()).await?;
    let theirs = addresses(read(&mut stream).await?)?;
    let trip = asked.elapsed();
    write(&mut stream, b"").await?;
    sleep(trip / 2).await;
    Ok(theirs)
}

/// The higher end.
async fn answer(mut stream: Stream, seen: String) -> io::Result<Vec<String>> {
    let theirs = addresses(read(&mut stream).await?)?;
    write(&mut stream, seen.as_bytes()).await?;
    if read(&mut stream).await?.is_empty() {
        Ok(theirs)
    } else {
        Err(malformed("something else than now"))
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| malformed("too long"))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn read(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_MESSAGE_BYTES {
        return Err(malformed("a message that is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The addresses of a message, one a line; what they mean is looked at by who dials them.
fn addresses(message: Vec<u8>) -> io::Result<Vec<String>> {
    let text = String::from_utf8(message).map_err(|_| malformed("no text"))?;
    let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if text.is_empty() || lines.len() > MAX_SEEN {
        return Err(malformed("no addresses, or too many"));
    }
    Ok(lines)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let now = Instant::now();
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                let state = self.peers.entry(new.peer_id).or_default();
                if relay_of(new.endpoint).is_some() {
                    state.circuits.push(new.connection_id);
                } else {
                    state.direct += 1;
                }
                self.open_due(now);
            }
            FromSwarm::ConnectionClosed(old) => {
                if let Some(state) = self.peers.get_mut(&old.peer_id) {
                    if relay_of(old.endpoint).is_some() {
                        state.circuits.retain(|id| *id != old.connection_id);
                        if state.busy == Some(old.connection_id) {
                            state.ended(now);
                        }
                    } else {
                        state.direct = state.direct.saturating_sub(1);
                        // What was lost may be had again.
                        state.tries = 0;
                    }
                    if state.circuits.is_empty() && state.direct == 0 {
                        self.peers.remove(&old.peer_id);
                    }
                }
                self.open_due(now);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, report: Report) {
        match report {
            Report::Opened { stream, inbound } => self.opened(peer, id, stream, inbound),
            Report::Failed => {
                if let Some(state) = self.peers.get_mut(&peer)
                    && state.busy == Some(id)
                {
                    state.ended(Instant::now());
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, Open>> {
        while let Poll::Ready(Some((peer, result))) = self.running.poll_next_unpin(cx) {
            self.exchanged(peer, result, Instant::now());
        }
        // Woken by the exchanges, or by the swarm: everything else is queued from its own calls.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The behaviour's only order to a handler: open a stream for an exchange.
#[derive(Debug)]
pub(super) struct Open;

/// What a handler reports.
#[derive(Debug)]
pub(super) enum Report {
    Opened { stream: Stream, inbound: bool },
    Failed,
}

/// The exchanges of one connection.
#[derive(Default)]
pub(super) struct Handler {
    open: bool,
    /// At most one of each kind: what comes before the last one was taken is dropped.
    inbound: Option<Stream>,
    outbound: Option<Stream>,
    failed: bool,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn on_behaviour_event(&mut self, _: Open) {
        self.open = true;
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Report>> {
        let taken = self.inbound.take().map(|stream| (stream, true));
        let taken = taken.or_else(|| self.outbound.take().map(|stream| (stream, false)));
        if let Some((stream, inbound)) = taken {
            let report = Report::Opened { stream, inbound };
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        if std::mem::take(&mut self.failed) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Report::Failed));
        }
        if std::mem::take(&mut self.open) {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: self.listen_protocol(),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => self.inbound = Some(protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => self.outbound = Some(protocol),
            ConnectionEvent::DialUpgradeError(_) => self.failed = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_a_bounded_number_of_addresses() {
        let many = |n: usize| {
            vec!["/ip4/192.0.2.7/udp/1/quic-v1"; n]
                .join("\n")
                .into_bytes()
        };
        assert_eq!(addresses(many(1)).map(|all| all.len()).ok(), Some(1));
        let most = addresses(many(MAX_SEEN)).map(|all| all.len());
        assert_eq!(most.ok(), Some(MAX_SEEN));
        for bad in [Vec::new(), many(MAX_SEEN + 1), vec![0xff, 0xfe]] {
            assert!(addresses(bad).is_err());
        }
    }

    #[test]
    fn attempts_wait_longer_each_time_and_come_to_an_end() {
        let begin = Instant::now();
        let mut peer = Peer::default();
        peer.circuits.push(ConnectionId::new_unchecked(1));
        let mut waits = Vec::new();
        let mut now = begin;
        while let Some((_, next)) = peer.due() {
            let at = next.unwrap_or(now);
            waits.push((at - now).as_secs());
            now = at;
            peer.ended(now);
        }
        assert_eq!(waits, [0, 2, 4, 8, 16]);
        peer.tries = 0;
        peer.direct = 1;
        assert_eq!(peer.due(), None, "there is a direct connection");
    }

    #[test]
    fn nobody_is_asked_but_parties_of_which_the_lower_end_asks() {
        let mut ids = [PeerId::random(), PeerId::random(), PeerId::random()];
        ids.sort_unstable();
        let [low, me, high] = ids;
        let now = Instant::now();
        let mut all = Behaviour::new(me);
        for (n, peer) in [low, high].into_iter().enumerate() {
            let state = all.peers.entry(peer).or_default();
            state.circuits.push(ConnectionId::new_unchecked(n));
        }
        all.set_seen(vec!["/ip4/192.0.2.7/udp/1/quic-v1".into()], now);
        assert!(all.queue.is_empty(), "strangers");
        all.set_parties(HashSet::from([low, high]), now);
        let asked: Vec<PeerId> = all
            .queue
            .iter()
            .map(|order| match order {
                ToSwarm::NotifyHandler { peer_id, .. } => *peer_id,
                other => unreachable!("{other:?}"),
            })
            .collect();
        assert_eq!(asked, [high]);
        all.open_due(now);
        assert_eq!(all.queue.len(), 1, "one exchange at a time");
    }
}
