//! One session stream per peer: a small libp2p behaviour.
//!
//! ```text
//!   lower PeerId                                   higher PeerId
//!   connection established (by either)             connection established
//!   open /quorate/session/1  ───────────────────►  accept
//!   Opened                                         Opened
//!   further connections to the same peer stay without a stream and are closed after a while
//!   on a circuit, and a direct connection comes: open there; the stream on the circuit ends
//! ```
//! The lower `PeerId` alone opens, so both ends always agree which connection carries the link,
//! also when both dialled at once. A connection carries one session stream in its life: when the
//! stream ends, the connection is closed, and what comes next is a new connection. Both ends
//! therefore see the same links, and no frame is lost inside a link that stays up. The one exception is a
//! circuit that was left for a direct connection and stays for its lane: it may carry a session again.
//!
//! Connections with relays may stay without one: with our own always, as they are left to the behaviours that use them; with
//! those of parties, where we dialled; with a relay that somebody's address named, where we dialled and while a circuit over
//! it is there or asked for. Anybody can name anybody as a relay, so that such a name lets nobody in who was refused.
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
    collections::{HashMap, HashSet, VecDeque},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{ConnectedPoint, Endpoint as Role, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, Stream, ToSwarm,
    },
};

use super::{
    Purpose, Scope,
    address::{Endpoint, relay_in, relay_of},
    streams::{Handler, Open, Report},
};

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

/// What a connection has carried.
#[derive(Clone, Copy, Debug)]
enum Carried {
    Nothing,
    /// Its one stream.
    Stream,
    /// What breaks the rules.
    TooMuch,
}

struct Connection {
    id: ConnectionId,
    address: Multiaddr,
    dialer: bool,
    /// The relay in between.
    relay: Option<PeerId>,
    /// A session stream was asked for or accepted on it.
    used: bool,
    carried: Carried,
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
    /// Relays that the user or the session named.
    own_relays: HashSet<PeerId>,
    /// Relays that parties say they are.
    party_relays: HashSet<PeerId>,
    /// Relays that addresses of peers named.
    foreign_relays: HashSet<PeerId>,
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
            own_relays: HashSet::new(),
            party_relays: HashSet::new(),
            foreign_relays: HashSet::new(),
            refused: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// This peer is a relay of ours; it is let in, and a session is not expected of it.
    pub fn add_own_relay(&mut self, peer: PeerId) {
        self.foreign_relays.remove(&peer);
        self.own_relays.insert(peer);
    }

    /// These are the relays of parties; no session is expected of them where we dialled.
    pub fn set_party_relays(&mut self, relays: HashSet<PeerId>) {
        self.party_relays = relays;
    }

    /// Somebody's address says that this peer is a relay; no session is expected of it while it serves as one.
    pub fn add_foreign_relay(&mut self, peer: PeerId) {
        if !self.own_relays.contains(&peer) {
            self.foreign_relays.insert(peer);
        }
    }

    /// This peer counts as a foreign relay no more.
    pub fn remove_foreign_relay(&mut self, peer: &PeerId) {
        self.foreign_relays.remove(peer);
    }

    /// The session on this connection went elsewhere, and the connection stays: it may carry one again.
    pub fn reuse(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        let all = self.peers.get_mut(&peer).map(|p| &mut p.connections);
        let Some(on) = all.and_then(|all| all.iter_mut().find(|c| c.id == connection)) else {
            return;
        };
        on.used = false;
        on.carried = Carried::Nothing;
        on.deadline = now + SESSION_WAIT;
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
        let all = self.peers.values().flat_map(|state| &state.connections);
        let carrying: HashSet<PeerId> = all.filter_map(|c| c.relay).collect();
        let others = self.peers.iter_mut();
        for (peer, state) in others.filter(|(peer, _)| !self.own_relays.contains(peer)) {
            let carries = self.foreign_relays.contains(peer) && carrying.contains(peer)
                || self.party_relays.contains(peer);
            for idle in state
                .connections
                .iter_mut()
                .filter(|c| !c.used && c.deadline <= now)
            {
                if is_needed(peer, idle.id) || carries && idle.dialer {
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
        let others = self.peers.iter();
        let others = others.filter(|(peer, _)| !self.own_relays.contains(peer));
        let all = others.flat_map(|(_, p)| &p.connections);
        all.filter(|c| !c.used).map(|c| c.deadline).min()
    }

    fn admit(&self, peer: &PeerId, dialled: bool) -> Result<Handler, ConnectionDenied> {
        if self.own_relays.contains(peer) {
            return Ok(Handler::new(self.protocol.clone(), true));
        }
        if self.is_refused(peer) {
            return Err(ConnectionDenied::new(Refused("this peer was refused")));
        }
        // A relay dials nobody.
        let as_relay = dialled && self.is_relay_of_others(peer);
        if self.is_unwanted(peer) && !as_relay {
            return Err(ConnectionDenied::new(Refused(
                "this peer is not the one looked for",
            )));
        }
        Ok(Handler::new(self.protocol.clone(), true))
    }

    /// A circuit over this relay is asked for: what we dialled to it may wait that long.
    fn will_carry(&mut self, relay: &PeerId, now: Instant) {
        let state = self.peers.get_mut(relay);
        let all = state
            .map(|state| &mut state.connections)
            .into_iter()
            .flatten();
        for on in all.filter(|c| c.dialer) {
            on.deadline = now + SESSION_WAIT;
        }
    }

    /// The address at the other end of a connection, as far as it is known.
    pub fn address(&self, peer: &PeerId, connection: ConnectionId) -> Option<&Multiaddr> {
        let all = &self.peers.get(peer)?.connections;
        let on = all.iter().find(|c| c.id == connection)?;
        Some(&on.address)
    }

    /// Whether this connection may serve as one with a relay.
    fn may_serve(&self, peer: &PeerId, id: ConnectionId) -> bool {
        let all = self.peers.get(peer).map(|state| &state.connections);
        let dialled = || all.is_some_and(|all| all.iter().any(|c| c.id == id && c.dialer));
        self.own_relays.contains(peer) || self.is_relay_of_others(peer) && dialled()
    }

    fn is_relay_of_others(&self, peer: &PeerId) -> bool {
        self.foreign_relays.contains(peer) || self.party_relays.contains(peer)
    }

    fn is_unwanted(&self, peer: &PeerId) -> bool {
        self.only.is_some_and(|only| only != *peer)
    }

    /// Asks for the session stream on the oldest fresh connection, a direct one if there is one, if
    /// opening is ours to do. From a circuit the session moves to a direct connection.
    fn open(&mut self, peer: PeerId) {
        if self.local >= peer || self.is_unwanted(&peer) {
            return;
        }
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let all = &mut state.connections;
        let on = all.iter().find(|c| Some(c.id) == state.session);
        let on_circuit = on.is_some_and(|c| c.relay.is_some());
        // Where both ends dialled at the same moment, one of two direct connections is enough.
        let moving = || all.iter().any(|c| c.used && c.relay.is_none());
        if state.session.is_some() && (!on_circuit || moving()) {
            return;
        }
        let fresh = all.iter().position(|c| !c.used && c.relay.is_none());
        let fresh = fresh.or_else(|| all.iter().position(|c| !c.used && !on_circuit));
        let Some(fresh) = fresh.and_then(|at| all.get_mut(at)) else {
            return;
        };
        fresh.used = true;
        if !on_circuit {
            state.session = Some(fresh.id);
        }
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
        if self.is_unwanted(&peer) {
            // A relay that is let in although somebody else is looked for; dropping the stream ends it.
            return;
        }
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(on) = state.connections.iter_mut().find(|c| c.id == connection) else {
            return;
        };
        let what = match on.carried {
            Carried::Nothing if inbound && self.local < peer => {
                "opened a stream that is ours to open"
            }
            Carried::Nothing => "",
            Carried::Stream => "opened a second session stream",
            // Said once: the connection is being closed.
            Carried::TooMuch => return,
        };
        if !what.is_empty() {
            on.carried = Carried::TooMuch;
            return self.violation(peer, connection, what);
        }
        on.used = true;
        on.carried = Carried::Stream;
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
        self.admit(&peer, false)
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
            if let Some(relay) = relay_in(address) {
                self.will_carry(&relay, Instant::now());
            }
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
        self.admit(&peer, true)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                let state = self.peers.entry(new.peer_id).or_default();
                state.connections.push(Connection {
                    id: new.connection_id,
                    address: far_end(new.endpoint),
                    relay: relay_of(new.endpoint),
                    dialer: new.endpoint.is_dialer(),
                    used: false,
                    carried: Carried::Nothing,
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
            Report::Failed { .. } if self.may_serve(&peer, id) => {
                // It is no party as well; the connection goes on serving as a relay's.
                let Some(state) = self.peers.get_mut(&peer) else {
                    return;
                };
                if state.session == Some(id) {
                    state.session = None;
                }
                for on in state.connections.iter_mut().filter(|c| c.id == id) {
                    on.used = false;
                    on.deadline = Instant::now() + SESSION_WAIT;
                }
            }
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

/// The address at the other end; of a circuit that was opened to us, the relay's, as the peer's is not known.
fn far_end(endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } if relay_of(endpoint).is_some() => {
            local_addr.clone()
        }
        _ => endpoint.get_remote_address().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour(only: Option<PeerId>) -> Behaviour {
        let protocol = protocol(&Purpose::Session);
        Behaviour::new(PeerId::random(), Scope::Local, protocol, only)
    }

    /// Lets a connection be there that carries no session; returns its number.
    fn connect(to: &mut Behaviour, peer: PeerId, relay: Option<PeerId>, dialer: bool) -> usize {
        let all = to.peers.values();
        let id = all.map(|state| state.connections.len()).sum();
        to.peers
            .entry(peer)
            .or_default()
            .connections
            .push(Connection {
                id: ConnectionId::new_unchecked(id),
                address: Multiaddr::empty(),
                dialer,
                relay,
                used: false,
                carried: Carried::Nothing,
                deadline: Instant::now(),
            });
        id
    }

    /// Connections that a sweep closes.
    fn swept(from: &mut Behaviour) -> Vec<usize> {
        from.sweep(Instant::now(), |_, _| false);
        let closed = from.queue.drain(..).filter_map(|order| match order {
            ToSwarm::CloseConnection {
                connection: CloseConnection::One(id),
                ..
            } => (0..10).find(|n| ConnectionId::new_unchecked(*n) == id),
            _ => None,
        });
        let mut closed: Vec<usize> = closed.collect();
        closed.sort_unstable();
        closed
    }

    #[test]
    fn who_was_refused_is_not_let_in_because_somebody_names_it_as_a_relay() {
        let mut all = behaviour(None);
        let peer = PeerId::random();
        all.refuse(peer, Instant::now() + Duration::from_mins(1));
        all.add_foreign_relay(peer);
        assert!(all.admit(&peer, true).is_err() && all.admit(&peer, false).is_err());
        all.add_own_relay(peer);
        assert!(all.admit(&peer, true).is_ok(), "the user's word counts");
    }

    #[test]
    fn a_foreign_relay_is_let_in_beside_the_one_looked_for_where_we_dial_it_only() {
        let mut all = behaviour(Some(PeerId::random()));
        let peer = PeerId::random();
        assert!(all.admit(&peer, true).is_err());
        all.add_foreign_relay(peer);
        assert!(all.admit(&peer, true).is_ok() && all.admit(&peer, false).is_err());
        all.remove_foreign_relay(&peer);
        assert!(all.admit(&peer, true).is_err());
    }

    #[test]
    fn a_foreign_relay_is_swept_unless_we_dialled_it_and_it_carries_something() {
        let mut all = behaviour(None);
        let [own, carrying, idle, party] = [(); 4].map(|()| PeerId::random());
        all.add_own_relay(own);
        all.add_foreign_relay(carrying);
        all.add_foreign_relay(idle);
        connect(&mut all, own, None, true);
        let dialled = connect(&mut all, carrying, None, true);
        let accepted = connect(&mut all, carrying, None, false);
        let useless = connect(&mut all, idle, None, true);
        let circuit = connect(&mut all, party, Some(carrying), true);
        assert_eq!(swept(&mut all), [accepted, useless, circuit]);
        all.peers.remove(&party);
        for on in &mut all.peers.get_mut(&carrying).expect("there").connections {
            on.deadline = Instant::now();
        }
        assert_eq!(swept(&mut all), [dialled], "its circuit is gone");
    }

    #[test]
    fn a_foreign_relay_is_kept_until_the_circuit_that_is_asked_for_is_there() {
        let mut all = behaviour(None);
        let relay = PeerId::random();
        all.add_foreign_relay(relay);
        connect(&mut all, relay, None, true);
        all.will_carry(&relay, Instant::now());
        assert_eq!(swept(&mut all), [0; 0]);
    }
}
