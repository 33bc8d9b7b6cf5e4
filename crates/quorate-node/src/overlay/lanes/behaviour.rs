//! Which connections carry a lane: a small libp2p behaviour.
//!
//! ```text
//!   lower PeerId                                         higher PeerId
//!   a direct connection, or a circuit over a new relay
//!   open /quorate/lane/1  ────────────────────────────►  accept, or keep until the roster is known
//! ```
//! The lower `PeerId` opens, and opens again [`RETRY`] after a lane ended. A stream of a peer that is not
//! (yet) in the roster waits unread, one per connection, because the other side may know the
//! roster a moment earlier.
//!
//! Limits: one lane per connection; per peer one direct and [`MAX_CIRCUIT_LANES`] over circuits. What the policy
//! forbids is neither opened nor accepted.

use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint as Role, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, Stream, ToSwarm,
    },
};

use quorate_path::Policy;

use super::MAX_CIRCUIT_LANES;
use crate::overlay::{
    address::relay_of,
    streams::{Handler, Open, Report},
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/quorate/lane/1");
/// A lane that ended, or was not accepted, is opened again after this time.
const RETRY: Duration = Duration::from_millis(500);

/// What the behaviour tells the overlay.
#[derive(Debug)]
pub(in crate::overlay) enum Event {
    /// A lane to this peer of the roster is open.
    Opened {
        peer: PeerId,
        index: u16,
        connection: ConnectionId,
        /// The relay in between.
        relay: Option<PeerId>,
        stream: Stream,
    },
}

enum State {
    /// May be used from then on.
    Idle(Instant),
    Asked,
    /// Opened by the peer, who is not in the roster yet.
    Parked(Stream),
    Open,
}

struct Connection {
    id: ConnectionId,
    relay: Option<PeerId>,
    state: State,
}

impl Connection {
    fn is_used(&self) -> bool {
        matches!(self.state, State::Asked | State::Open)
    }
}

/// The lanes of all peers.
pub(in crate::overlay) struct Behaviour {
    local: PeerId,
    roster: HashMap<PeerId, u16>,
    policy: Policy,
    connections: HashMap<PeerId, Vec<Connection>>,
    queue: VecDeque<ToSwarm<Event, Open>>,
}

impl Behaviour {
    pub fn new(local: PeerId) -> Self {
        Self {
            local,
            roster: HashMap::new(),
            policy: Policy::Any,
            connections: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// From now on these peers have lanes where the policy allows them, and no others.
    pub fn set_roster(&mut self, roster: HashMap<PeerId, u16>, policy: Policy, now: Instant) {
        self.roster = roster;
        self.policy = policy;
        let mut opened = Vec::new();
        for (peer, connections) in &mut self.connections {
            let Some(&index) = self.roster.get(peer) else {
                continue;
            };
            for on in connections {
                if !policy.allows(on.relay.is_some()) {
                    if matches!(on.state, State::Parked(_)) {
                        on.state = State::Idle(now);
                    }
                } else if matches!(on.state, State::Parked(_))
                    && let State::Parked(stream) = std::mem::replace(&mut on.state, State::Open)
                {
                    opened.push(Event::Opened {
                        peer: *peer,
                        index,
                        connection: on.id,
                        relay: on.relay,
                        stream,
                    });
                }
            }
        }
        let events = opened.into_iter().map(ToSwarm::GenerateEvent);
        self.queue.extend(events);
        self.open_due(now);
    }

    /// The lane on this connection has ended.
    pub fn ended(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        if let Some(on) = self.connection(peer, connection)
            && matches!(on.state, State::Open)
        {
            on.state = State::Idle(now + RETRY);
        }
    }

    /// Whether a lane is on this connection, or asked for.
    pub fn is_used(&self, peer: &PeerId, connection: ConnectionId) -> bool {
        let all = self.connections.get(peer);
        all.is_some_and(|all| all.iter().any(|c| c.id == connection && c.is_used()))
    }

    /// Whether this peer has a place among the parties.
    pub fn is_party(&self, peer: &PeerId) -> bool {
        self.roster.contains_key(peer)
    }

    /// The relays over which there are circuits to this peer.
    pub fn relays_to(&self, peer: &PeerId) -> Vec<PeerId> {
        let all = self.connections.get(peer).into_iter().flatten();
        all.filter_map(|c| c.relay).collect()
    }

    /// Opens the lanes that are due.
    pub fn open_due(&mut self, now: Instant) {
        for (peer, connections) in &mut self.connections {
            if self.local >= *peer || !self.roster.contains_key(peer) {
                continue;
            }
            while let Some(at) = next(connections, self.policy, now) {
                connections[at].state = State::Asked;
                self.queue.push_back(ToSwarm::NotifyHandler {
                    peer_id: *peer,
                    handler: NotifyHandler::One(connections[at].id),
                    event: Open,
                });
            }
        }
    }

    /// When [`open_due`](Self::open_due) has something to do next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ours = self.connections.iter();
        let ours = ours.filter(|(p, _)| self.local < **p && self.roster.contains_key(*p));
        ours.filter_map(|(_, all)| {
            let at = all.iter().filter(|on| wanted(all, self.policy, on));
            at.filter_map(|on| match on.state {
                State::Idle(at) => Some(at),
                _ => None,
            })
            .min()
        })
        .min()
    }

    fn connection(&mut self, peer: PeerId, id: ConnectionId) -> Option<&mut Connection> {
        let all = self.connections.get_mut(&peer)?;
        all.iter_mut().find(|c| c.id == id)
    }

    fn opened(&mut self, peer: PeerId, id: ConnectionId, stream: Stream, inbound: bool) {
        let index = self.roster.get(&peer).copied();
        let theirs = peer < self.local;
        let policy = self.policy;
        let Some(on) = self.connection(peer, id) else {
            return;
        };
        // A second stream, one that was ours to open, or that nobody may use, is closed by dropping it.
        let allowed = theirs && policy.allows(on.relay.is_some());
        if inbound && (!allowed || matches!(on.state, State::Open)) {
            return;
        }
        let Some(index) = index else {
            if inbound {
                on.state = State::Parked(stream);
            }
            return;
        };
        on.state = State::Open;
        let relay = on.relay;
        self.queue.push_back(ToSwarm::GenerateEvent(Event::Opened {
            peer,
            index,
            connection: id,
            relay,
            stream,
        }));
    }
}

/// Whether a lane on `candidate` is missing.
fn wanted(all: &[Connection], policy: Policy, candidate: &Connection) -> bool {
    let idle = matches!(candidate.state, State::Idle(_));
    if !idle || !policy.allows(candidate.relay.is_some()) {
        return false;
    }
    let mut used = all.iter().filter(|c| c.is_used());
    match candidate.relay {
        None => !used.any(|c| c.relay.is_none()),
        relay => {
            !used.clone().any(|c| c.relay == relay)
                && used.filter(|c| c.relay.is_some()).count() < MAX_CIRCUIT_LANES
        }
    }
}

/// The connection on which a lane is to be opened now.
fn next(all: &[Connection], policy: Policy, now: Instant) -> Option<usize> {
    let due = |on: &Connection| matches!(on.state, State::Idle(at) if at <= now);
    all.iter().position(|on| due(on) && wanted(all, policy, on))
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
        Ok(Handler::new(PROTOCOL, true))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new(PROTOCOL, true))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                let now = Instant::now();
                let all = self.connections.entry(new.peer_id).or_default();
                all.push(Connection {
                    id: new.connection_id,
                    relay: relay_of(new.endpoint),
                    state: State::Idle(now),
                });
                self.open_due(now);
            }
            FromSwarm::ConnectionClosed(old) => {
                if let Some(all) = self.connections.get_mut(&old.peer_id) {
                    all.retain(|c| c.id != old.connection_id);
                    if all.is_empty() {
                        self.connections.remove(&old.peer_id);
                    }
                }
                self.open_due(Instant::now());
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, report: Report) {
        match report {
            Report::Opened { stream, inbound } => self.opened(peer, id, stream, inbound),
            Report::Failed { .. } => {
                if let Some(on) = self.connection(peer, id)
                    && matches!(on.state, State::Asked)
                {
                    on.state = State::Idle(Instant::now() + RETRY);
                }
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, Open>> {
        // Woken by the swarm, or by the overlay's task after its own calls.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
#[cfg(test)]
mod tests {
    use libp2p::{core::ConnectedPoint, swarm::behaviour::ConnectionEstablished};

    use super::*;

    const DIRECT: usize = 0;
    const CIRCUIT: usize = 1;

    /// The connections on which a lane is asked for, of a direct one and a circuit, under this policy.
    fn asked_for(policy: Policy) -> Vec<usize> {
        let mut ids = [PeerId::random(), PeerId::random()];
        ids.sort_unstable();
        let [local, peer] = ids;
        let mut lanes = Behaviour::new(local);
        let circuit = format!("/ip4/192.0.2.7/tcp/1/p2p/{local}/p2p-circuit/p2p/{peer}");
        for (id, address) in [(DIRECT, "/ip4/192.0.2.8/tcp/1"), (CIRCUIT, &circuit)] {
            let endpoint = ConnectedPoint::Dialer {
                address: address.parse().expect("an address"),
                role_override: Role::Dialer,
                port_use: PortUse::Reuse,
            };
            lanes.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: peer,
                connection_id: ConnectionId::new_unchecked(id),
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: id,
            }));
        }
        let roster = HashMap::from([(peer, 1)]);
        lanes.set_roster(roster, policy, Instant::now());
        let asked = lanes.queue.drain(..).filter_map(|order| match order {
            ToSwarm::NotifyHandler {
                handler: NotifyHandler::One(id),
                ..
            } => [DIRECT, CIRCUIT]
                .into_iter()
                .find(|n| ConnectionId::new_unchecked(*n) == id),
            _ => None,
        });
        let asked = asked.collect();
        let later = lanes.poll_timeout();
        assert_eq!(later, None, "what is forbidden is not tried again");
        asked
    }

    #[test]
    fn lanes_are_opened_on_connections_that_the_policy_allows() {
        assert_eq!(asked_for(Policy::Any), [DIRECT, CIRCUIT]);
        assert_eq!(asked_for(Policy::Direct), [DIRECT]);
        assert_eq!(asked_for(Policy::Relay), [CIRCUIT]);
    }
}
