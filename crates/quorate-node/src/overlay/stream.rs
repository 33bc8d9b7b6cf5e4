//! One session stream per peer: a small libp2p behaviour with its connection handler.
//!
//! ```text
//!   lower PeerId                                   higher PeerId
//!   connection established (by either)             connection established
//!   open /quorate/session/1  ───────────────────►  accept
//!   Opened                                         Opened
//!   further connections to the same peer stay without a stream and are closed after a while
//! ```
//! The lower `PeerId` alone opens, so both ends always agree which connection carries the link,
//! also when both dialled at once. A connection carries one session stream in its life: when the
//! stream ends, the connection is closed, and what comes next is a new connection. Both ends
//! therefore see the same links, and no frame is lost inside a link that stays up.
//!
//! Why not libp2p's request-response: it opens a stream and waits a round trip per frame, picks any
//! connection of the peer, and keeps no order; here a frame costs its bytes, the order is the
//! stream's, and back-pressure is the stream's flow control.
//!
//! Limits: one stream per connection (a second one, or one opened by the wrong side, is a
//! violation and closes the connection); a connection without one is closed after
//! [`SESSION_WAIT`]; [`MAX_REFUSED`] refused peers remembered.
//!
//! Security: requires that the connection is authenticated (noise or TLS binds the `PeerId`).
//! Provides that nothing outside the scope is dialled, as a last check behind the dialling table.
//! Does not provide any statement about who the peer is.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint as Role, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
        FromSwarm, NetworkBehaviour, NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol,
        ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};

use super::{Purpose, Scope, address::Endpoint};

/// The protocol of the streams of each purpose.
pub(super) fn protocol(purpose: &Purpose) -> StreamProtocol {
    StreamProtocol::new(match purpose {
        Purpose::Session => "/quorate/session/1",
        Purpose::Lobby | Purpose::Guest(_) => "/quorate/lobby/1",
        Purpose::Post => "/quorate/post/1",
    })
}

/// Refused peers remembered at a time; beyond it the one that would be let in first is forgotten.
const MAX_REFUSED: usize = 256;

/// A connection must carry a session stream within this time, or it is closed.
pub const SESSION_WAIT: Duration = Duration::from_secs(10);

/// What the behaviour tells the overlay.
#[derive(Debug)]
pub(super) enum Event {
    /// The session stream with this peer is open; an older one of the same peer is superseded.
    Opened {
        peer: PeerId,
        connection: ConnectionId,
        address: Multiaddr,
        dialer: bool,
        stream: Stream,
    },
    /// The peer broke the rules above; its connection is being closed.
    Violation {
        peer: PeerId,
        connection: ConnectionId,
        what: &'static str,
    },
    /// The peer does not speak our protocol; its connection is being closed.
    Foreign { peer: PeerId },
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(&'static str);

struct Connection {
    id: ConnectionId,
    address: Multiaddr,
    dialer: bool,
    /// A session stream was asked for or accepted on it.
    used: bool,
    /// Closed then, unless it is used by that time.
    deadline: Instant,
}

#[derive(Default)]
struct Peer {
    connections: Vec<Connection>,
    /// The connection that carries the session stream, or was asked to.
    session: Option<ConnectionId>,
}

/// One session stream per peer.
pub(super) struct Behaviour {
    local: PeerId,
    scope: Scope,
    protocol: StreamProtocol,
    /// If set, no other peer is let in.
    only: Option<PeerId>,
    peers: HashMap<PeerId, Peer>,
    refused: HashMap<PeerId, Instant>,
    queue: VecDeque<ToSwarm<Event, Open>>,
}

impl Behaviour {
    pub fn new(
        local: PeerId,
        scope: Scope,
        protocol: StreamProtocol,
        only: Option<PeerId>,
    ) -> Self {
        Self {
            local,
            scope,
            protocol,
            only,
            peers: HashMap::new(),
            refused: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// Accepts no connection with `peer` before `until`.
    pub fn refuse(&mut self, peer: PeerId, until: Instant) {
        let now = Instant::now();
        self.refused.retain(|_, until| *until > now);
        if self.refused.len() >= MAX_REFUSED
            && let Some(first) = self
                .refused
                .iter()
                .min_by_key(|(_, t)| **t)
                .map(|(p, _)| *p)
        {
            self.refused.remove(&first);
        }
        self.refused.insert(peer, until);
    }

    /// Whether connections with `peer` are refused at present.
    pub fn is_refused(&self, peer: &PeerId) -> bool {
        self.refused
            .get(peer)
            .is_some_and(|until| *until > Instant::now())
    }

    /// Closes connections that carry no session in time: spare ones, and those that a stranger
    /// keeps busy with something else. Those that `is_needed` without one stay.
    pub fn sweep(&mut self, now: Instant, is_needed: impl Fn(&PeerId, ConnectionId) -> bool) {
        for (peer, state) in &mut self.peers {
            for idle in state
                .connections
                .iter_mut()
                .filter(|c| !c.used && c.deadline <= now)
            {
                if is_needed(peer, idle.id) {
                    idle.deadline = now + SESSION_WAIT;
                    continue;
                }
                // Said once; the connection leaves the table when it is closed.
                idle.used = true;
                self.queue.push_back(ToSwarm::CloseConnection {
                    peer_id: *peer,
                    connection: CloseConnection::One(idle.id),
                });
            }
        }
    }

    /// When [`sweep`](Self::sweep) has something to do next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let all = self.peers.values().flat_map(|p| &p.connections);
        all.filter(|c| !c.used).map(|c| c.deadline).min()
    }

    fn admit(&self, peer: &PeerId) -> Result<Handler, ConnectionDenied> {
        if self.is_refused(peer) {
            return Err(ConnectionDenied::new(Refused("this peer was refused")));
        }
        if self.only.is_some_and(|only| only != *peer) {
            return Err(ConnectionDenied::new(Refused(
                "this peer is not the one looked for",
            )));
        }
        Ok(Handler::new(self.protocol.clone()))
    }

    /// Asks for the session stream on the oldest fresh connection, if opening is ours to do.
    fn open(&mut self, peer: PeerId) {
        if self.local >= peer {
            return;
        }
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        if state.session.is_some() {
            return;
        }
        let Some(fresh) = state.connections.iter_mut().find(|c| !c.used) else {
            return;
        };
        fresh.used = true;
        state.session = Some(fresh.id);
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(fresh.id),
            event: Open,
        });
    }

    fn close(&mut self, peer: PeerId, connection: ConnectionId) {
        self.queue.push_back(ToSwarm::CloseConnection {
            peer_id: peer,
            connection: CloseConnection::One(connection),
        });
    }

    fn violation(&mut self, peer: PeerId, connection: ConnectionId, what: &'static str) {
        self.close(peer, connection);
        self.tell(Event::Violation {
            peer,
            connection,
            what,
        });
    }

    fn tell(&mut self, event: Event) {
        self.queue.push_back(ToSwarm::GenerateEvent(event));
    }

    fn opened(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream, inbound: bool) {
        if inbound && self.local < peer {
            return self.violation(peer, connection, "opened a stream that is ours to open");
        }
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(on) = state.connections.iter_mut().find(|c| c.id == connection) else {
            return;
        };
        on.used = true;
        let (address, dialer) = (on.address.clone(), on.dialer);
        state.session = Some(connection);
        self.tell(Event::Opened {
            peer,
            connection,
            address,
            dialer,
            stream,
        });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(&peer)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Role,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        for address in addresses {
            Endpoint::of(address)
                .and_then(|endpoint| endpoint.allowed(self.scope))
                .map_err(|why| ConnectionDenied::new(Refused(why)))?;
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(&peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                let state = self.peers.entry(new.peer_id).or_default();
                state.connections.push(Connection {
                    id: new.connection_id,
                    address: new.endpoint.get_remote_address().clone(),
                    dialer: new.endpoint.is_dialer(),
                    used: false,
                    deadline: Instant::now() + SESSION_WAIT,
                });
                self.open(new.peer_id);
            }
            FromSwarm::ConnectionClosed(old) => {
                if let Some(state) = self.peers.get_mut(&old.peer_id) {
                    state.connections.retain(|c| c.id != old.connection_id);
                    if state.session == Some(old.connection_id) {
                        state.session = None;
                    }
                    if state.connections.is_empty() {
                        self.peers.remove(&old.peer_id);
                    }
                }
                self.open(old.peer_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, report: Report) {
        match report {
            Report::Opened { stream, inbound } => self.opened(peer, id, stream, inbound),
            Report::Second => self.violation(peer, id, "opened a second session stream"),
            Report::Failed { foreign } => {
                self.close(peer, id);
                if foreign {
                    self.tell(Event::Foreign { peer });
                }
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, Open>> {
        // Woken by the swarm: everything is queued from its own calls.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The behaviour's only order to a handler: open the session stream.
#[derive(Debug)]
pub(super) struct Open;

/// What a handler reports.
#[derive(Debug)]
pub(super) enum Report {
    Opened { stream: Stream, inbound: bool },
    Second,
    Failed { foreign: bool },
}

/// The session stream of one connection.
pub(super) struct Handler {
    protocol: StreamProtocol,
    open: bool,
    had_stream: bool,
    reports: VecDeque<Report>,
}

impl Handler {
    fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            open: false,
            had_stream: false,
            reports: VecDeque::new(),
        }
    }

    fn opened(&mut self, stream: Stream, inbound: bool) {
        if self.had_stream {
            // Said once: after it the behaviour closes the connection.
            if !self.reports.iter().any(|r| matches!(r, Report::Second)) {
                self.reports.push_back(Report::Second);
            }
            return;
        }
        self.had_stream = true;
        self.reports.push_back(Report::Opened { stream, inbound });
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn on_behaviour_event(&mut self, _: Open) {
        self.open = true;
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Report>> {
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
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
            }) => self.opened(protocol, true),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => self.opened(protocol, false),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                let foreign = matches!(error, StreamUpgradeError::<Infallible>::NegotiationFailed);
                self.reports.push_back(Report::Failed { foreign });
            }
            _ => {}
        }
    }
}
