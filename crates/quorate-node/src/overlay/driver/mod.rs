//! The overlay's one task: it alone touches the swarm, the dialling table and the beacon.
//!
//! ```text
//!   swarm events ─┐
//!   ended links ──┤                     ┌─► dials that are due
//!   commands ─────┼─► one at a time ────┼─► announcements that are due
//!   beacons ──────┤                     └─► notes, as far as the caller takes them
//!   due times ────┘
//! ```
//! It never waits for the caller: links have tasks of their own, and what it wants to say itself
//! waits in an outbox of [`OUTBOX`] events, from which the oldest notes fall out first.

mod lanes;
mod learning;
mod links;
mod relaying;
#[cfg(test)]
mod tests;
mod upgrading;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    core::transport::ListenerId,
    identify, mdns,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{Id, JoinSet},
    time::{sleep_until, timeout, timeout_at},
};

use super::{
    Addresses, Command, OverlayConfig, OverlayError, OverlayEvent, Purpose, Reach, Relaying, Scope,
    address::{Endpoint, Way, relay_of},
    beacon::{Beacon, Sealer},
    dialing::{Attempt, Dialing, Failure, MAX_HINTS},
    direct,
    link::{CLOSE_GRACE, End, Links},
    names::Place,
    network::{Network, Node, NodeEvent, listen_addresses},
    pulse::Sign,
    stream,
};

/// Events of the overlay itself that wait for the caller.
const OUTBOX: usize = 64;
/// Refused peers that the caller is told about.
const MAX_REFUSAL_NOTES: u64 = 16;
/// A peer that broke the rules, or whose link the caller closed, is not let in for this long.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Of two peers that heard each other's beacon, the one that does not open streams waits this
/// long before it dials too.
const POLITE_WAIT: Duration = Duration::from_millis(300);
/// The first listen address must be known within this time.
const LISTEN_WAIT: Duration = Duration::from_secs(2);
/// After the first one, the others get this long: a family without addresses never reports any.
const LISTEN_REST: Duration = Duration::from_millis(250);
/// The swarm's tasks get this long to end after the swarm is gone.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// What the handle and the task share.
pub(super) struct Shared {
    pub links: Links,
    pub addresses: Addresses,
}

struct Link {
    peer: PeerId,
    connection: ConnectionId,
    task: Id,
    ended: Option<oneshot::Receiver<()>>,
    /// Dropped to end the task at once.
    cut: Option<oneshot::Sender<()>>,
    /// Closed by the caller, who does not want the peer back for a while.
    refused: bool,
    /// Its connection goes on without it.
    spared: bool,
}

/// The state of the task.
pub(super) struct Driver {
    swarm: Swarm<Node>,
    gone: mpsc::Receiver<()>,
    scope: Scope,
    protocol: StreamProtocol,
    /// If set, nobody else is dialled.
    only: Option<PeerId>,
    /// Whether peers that mDNS names are left to dial us: a lobby is looked for by its guests, and has no reason to
    /// call on every machine of the network.
    waits: bool,
    shared: Shared,
    events: mpsc::Sender<OverlayEvent>,
    orders: mpsc::Receiver<Command>,
    outbox: VecDeque<OverlayEvent>,
    dialing: Dialing,
    beacon: Option<Beacon>,
    /// Said once, while it goes on trying.
    beacon_failed: bool,
    listening: Vec<Endpoint>,
    links: HashMap<u64, Link>,
    by_peer: HashMap<PeerId, u64>,
    next_link: u64,
    tasks: JoinSet<End>,
    expected: usize,
    /// Peers refused for breaking the rules.
    refusals: u64,
    lanes: lanes::Lanes,
    relaying: relaying::RelayState,
    learning: learning::Rations,
    upgrading: upgrading::Upgrading,
}

impl Driver {
    /// Builds the swarm, listens, opens the beacon and takes the hints in.
    pub async fn start(
        config: OverlayConfig,
        shared: Shared,
        events: mpsc::Sender<OverlayEvent>,
        orders: mpsc::Receiver<Command>,
        now: Instant,
    ) -> Result<Self, OverlayError> {
        let OverlayConfig {
            secret,
            scope,
            purpose,
            beacon_key,
            hints,
            reach:
                Reach {
                    relays,
                    names,
                    relaying,
                    passes,
                    key,
                    ..
                },
        } = config;
        // A guest calls, and is not called.
        let reserve = relaying != Relaying::Never && !matches!(purpose, Purpose::Guest(_));
        let only = match &purpose {
            Purpose::Guest(peer) => {
                let peer: PeerId = peer
                    .parse()
                    .map_err(|_| OverlayError::Setup("the PeerId is not one".into()))?;
                Some(peer)
            }
            Purpose::Session | Purpose::Lobby | Purpose::Post => None,
        };
        let protocol = stream::protocol(&purpose);
        let beacon_key = zeroize::Zeroizing::new(beacon_key);
        let network = Network::build(secret, scope, protocol.clone(), only, key)?;
        let seed = || getrandom::u64().map_err(|e| OverlayError::Random(e.to_string()));
        let mut driver = Self {
            swarm: network.swarm,
            gone: network.gone,
            scope,
            protocol,
            only,
            waits: purpose == Purpose::Lobby,
            shared,
            events,
            orders,
            outbox: VecDeque::new(),
            dialing: Dialing::new(seed()?),
            beacon: None,
            beacon_failed: false,
            listening: Vec::new(),
            links: HashMap::new(),
            by_peer: HashMap::new(),
            next_link: 1,
            tasks: JoinSet::new(),
            expected: usize::MAX,
            refusals: 0,
            lanes: lanes::Lanes::default(),
            relaying: relaying::RelayState::new(relaying, names, reserve, seed()?),
            learning: learning::Rations::default(),
            upgrading: upgrading::Upgrading::default(),
        };
        if let Some(error) = network.without_mdns {
            driver.note(format!(
                "mDNS does not work here ({error}): parties in this network are not found by \
                 themselves; give an address with --at ADDRESS"
            ));
        }
        driver.listen().await?;
        let public = network.public.try_into_ed25519();
        let public = public.map_err(|e| OverlayError::Setup(e.to_string()))?;
        match Beacon::open(Sealer::new(&beacon_key, &public), seed()?, now) {
            Ok(beacon) => driver.beacon = Some(beacon),
            Err(error) => driver.note_no_beacon(&error),
        }
        if relaying == Relaying::Never {
            if !relays.is_empty() {
                tracing::debug!("relays are not used");
            }
        } else {
            driver.take_relays(&relays, now);
            driver.trust(&passes);
        }
        driver.take_hints(&hints, now);
        Ok(driver)
    }

    pub fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Listens everywhere the scope says and waits for the first addresses.
    async fn listen(&mut self) -> Result<(), OverlayError> {
        let mut waiting: Vec<ListenerId> = Vec::new();
        let mut why = "no network interface is up".to_owned();
        for address in listen_addresses(self.scope) {
            match self.swarm.listen_on(address.clone()) {
                Ok(listener) => waiting.push(listener),
                // Usual where there is no IPv6.
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        let mut deadline = tokio::time::Instant::now() + LISTEN_WAIT;
        while !waiting.is_empty() {
            let Ok(event) = timeout_at(deadline, self.swarm.select_next_some()).await else {
                break;
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    waiting.retain(|id| id != listener_id);
                    deadline = deadline.min(tokio::time::Instant::now() + LISTEN_REST);
                }
                SwarmEvent::ListenerClosed {
                    listener_id,
                    reason,
                    ..
                } => {
                    waiting.retain(|id| id != listener_id);
                    why = format!("{reason:?}");
                }
                _ => {}
            }
            self.on_swarm(event, Instant::now());
        }
        if self.listening.is_empty() {
            return Err(OverlayError::Listen(why));
        }
        Ok(())
    }

    fn take_hints(&mut self, hints: &[String], now: Instant) {
        for hint in hints.iter().take(MAX_HINTS) {
            self.take_hint(hint, now);
        }
        if hints.len() > MAX_HINTS {
            self.note(format!("only the first {MAX_HINTS} address hints are used"));
        }
    }

    /// Whether `peer` may be dialled at all.
    fn wants(&self, peer: &PeerId) -> bool {
        self.only.is_none_or(|only| only == *peer)
    }

    fn take_hint(&mut self, hint: &str, now: Instant) {
        let place = match Place::parse(hint, self.scope) {
            Ok(Place::Named(named)) => self.take_named_hint(&named, now).map(|()| None),
            Ok(Place::At(endpoint)) => Ok(Some(endpoint)),
            Err(why) => Err(why),
        };
        match place.transpose() {
            None => {}
            Some(Ok(endpoint)) if endpoint.peer.is_some_and(|peer| !self.wants(&peer)) => {
                self.note("an address of somebody else is left out".into());
            }
            Some(Ok(mut endpoint)) => {
                if endpoint.relay.is_some()
                    && let Err(why) = self.take_circuit(&endpoint, now)
                {
                    self.note(format!("the address of a circuit is not used: {why}"));
                    return;
                }
                // Whoever else answers there is hung up on before anything is said.
                endpoint.peer = endpoint.peer.or(self.only);
                if !self.dialing.hint(endpoint, now) {
                    self.note("there are too many addresses to dial; this one is left out".into());
                }
            }
            Some(Err(why)) => {
                let shown: String = hint.chars().take(80).collect();
                self.note(format!("the address {shown:?} is not used: {why}"));
            }
        }
    }

    /// Runs until the handle says stop, or is dropped, or nobody takes events any more.
    pub async fn run(mut self) {
        let events = self.events.clone();
        loop {
            let now = Instant::now();
            let node = self.swarm.behaviour_mut();
            node.lanes.open_due(now);
            node.direct.open_due(now);
            let lanes = &node.lanes;
            node.session.sweep(now, |peer, on| lanes.is_used(peer, on));
            self.relays_due(now);
            self.circuits_due(now);
            self.dial_due(now);
            self.announce_due(now).await;
            let due = self.next_due(now);
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event, Instant::now()),
                Some(ended) = self.tasks.join_next_with_id() => self.on_link_end(ended, Instant::now()),
                Some(found) = self.relaying.lookups.join_next() => self.on_looked_up(found, Instant::now()),
                ended = self.lanes.next_end() => self.on_lane_end(ended, Instant::now()),
                order = self.orders.recv() => match order {
                    Some(Command::Stop) | None => break,
                    Some(order) => self.on_command(order, Instant::now()),
                },
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.outbox.pop_front() {
                        permit.send(event);
                    },
                    Err(_) => break,
                },
                (heard, answer) = next_beacon(self.beacon.as_mut()) => {
                    self.on_beacon(heard.peer, heard.endpoints, answer, Instant::now());
                }
                () = sleep_until_or_never(due) => {}
                () = events.closed() => break,
            }
        }
        self.stop().await;
    }

    /// Lets the links send what is queued, then takes everything down.
    async fn stop(mut self) {
        self.beacon = None;
        self.lanes.close_all();
        self.shared.links.close_all();
        let deadline = tokio::time::Instant::now() + CLOSE_GRACE;
        while !self.tasks.is_empty() {
            tokio::select! {
                // The swarm has to run on, or nothing queued would leave.
                _ = self.swarm.select_next_some() => {}
                Some(_) = self.tasks.join_next() => {}
                () = sleep_until(deadline) => break,
            }
        }
        self.tasks.shutdown().await;
        drop(self.swarm);
        if timeout(STOP_WAIT, self.gone.recv()).await.is_err() {
            tracing::warn!("connections of the overlay did not end in time");
        }
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let beacon = self.beacon.as_ref().map(Beacon::due);
        let sweep = self.swarm.behaviour().session.poll_timeout();
        let lane = self.swarm.behaviour().lanes.poll_timeout();
        let direct = self.swarm.behaviour().direct.poll_timeout();
        let dial = self.dialing.poll_timeout();
        let relay = self.relaying.poll_timeout(now);
        [beacon, sweep, dial, lane, relay, direct]
            .into_iter()
            .flatten()
            .min()
    }

    // ---- dialling

    fn dial_due(&mut self, now: Instant) {
        while let Some(attempt) = self.dialing.poll_attempt(now) {
            let opts = dial_opts(&attempt);
            let connection = opts.connection_id();
            self.dialing.started(&attempt, connection, now);
            if let Err(error) = self.swarm.dial(opts) {
                self.dialing.failed(connection, failure(&error), now);
            }
        }
    }

    // ---- beacon

    async fn announce_due(&mut self, now: Instant) {
        let Some(beacon) = self.beacon.as_mut().filter(|b| b.due() <= now) else {
            return;
        };
        if self.links.len() >= self.expected {
            return beacon.rest(now);
        }
        // A send on a UDP socket does not wait in practice: the loopback queue is the receiver's.
        if let Err(error) = beacon.announce(&self.listening, now).await
            && !std::mem::replace(&mut self.beacon_failed, true)
        {
            self.note_no_beacon(&error);
        }
    }

    fn on_beacon(&mut self, peer: PeerId, heard: Vec<Endpoint>, answer: bool, now: Instant) {
        if self.swarm.behaviour().session.is_refused(&peer)
            || self.dialing.is_connected(&peer)
            || !self.wants(&peer)
        {
            return;
        }
        let delay = if self.peer_id() < peer {
            Duration::ZERO
        } else {
            POLITE_WAIT
        };
        self.dialing.learn(peer, heard, delay, now);
        if let Some(beacon) = self.beacon.as_mut().filter(|_| answer) {
            beacon.hurry(now);
        }
    }

    fn note_no_beacon(&mut self, error: &std::io::Error) {
        self.note(format!(
            "multicast on the loopback interface does not work here ({error}): parties on this \
             machine are not found by themselves; give an address with --at ADDRESS"
        ));
    }

    // ---- swarm

    fn on_swarm(&mut self, event: SwarmEvent<NodeEvent>, now: Instant) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_node(event, now),
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address, now),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_expired(&address),
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => self.on_listener_closed(listener_id, reason, now),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let relayed = relay_of(&endpoint).is_some();
                if !relayed {
                    self.on_connected(peer_id, connection_id, now);
                    self.on_direct(peer_id, connection_id, &endpoint);
                }
                self.dialing.connected(connection_id, peer_id, relayed);
                self.on_circuit_dialled(connection_id, true, now);
                self.show_ourselves();
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                endpoint,
                ..
            } => {
                // Closed by the peer, the stream still yields what arrived before its end.
                if cause.is_none() {
                    self.cut(connection_id);
                }
                self.on_relay_closed(&peer_id, connection_id, now);
                self.on_direct_closed(&peer_id, connection_id, now);
                self.hurry_circuits(now);
                let relayed = relay_of(&endpoint).is_some();
                self.dialing.closed(peer_id, relayed, now);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                tracing::debug!(%error, "a dial failed");
                self.on_relay_dial_failed(connection_id, now);
                self.on_circuit_dialled(connection_id, false, now);
                self.dialing.failed(connection_id, failure(&error), now);
            }
            other => tracing::trace!(event = ?other, "swarm"),
        }
    }

    fn on_node(&mut self, event: NodeEvent, now: Instant) {
        match event {
            NodeEvent::Session(event) => self.on_session(event, now),
            NodeEvent::Lanes(event) => self.on_lane(event),
            NodeEvent::Relay(event) => self.on_relay_event(&event),
            NodeEvent::Announce(done) => self.on_announcement(done),
            NodeEvent::Pass(done) => self.on_pass(done),
            NodeEvent::Pulse(pulse) => match pulse.sign {
                Sign::Answered(rtt) => self.on_relay_rtt(&pulse.peer, rtt),
                Sign::Silent(lasts) => self.on_silent(pulse.peer, pulse.connection, lasts, now),
            },
            NodeEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                info,
            }) if !info.protocols.contains(&self.protocol)
                && !self.relaying.table.is_known(&peer_id) =>
            {
                self.drop_connection(connection_id);
                self.refuse(peer_id, now);
            }
            NodeEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                info,
            }) => self.on_seen(peer_id, connection_id, &info.observed_addr, now),
            NodeEvent::Direct(direct::Event::Dial { peer, addresses }) => {
                self.dial_directly(peer, &addresses, now);
            }
            NodeEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.on_found(peer, &address, now);
                }
            }
            _ => {}
        }
    }

    /// mDNS is anybody's word: only plausible addresses of other machines are taken.
    fn on_found(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) {
        let Ok(endpoint) = Endpoint::of(address) else {
            return;
        };
        if endpoint.allowed(self.scope).is_err()
            || endpoint.relay.is_some()
            || endpoint.is_loopback()
            || peer == self.peer_id()
            || self.waits
            || !self.wants(&peer)
            || self.swarm.behaviour().session.is_refused(&peer)
        {
            return;
        }
        let delay = if self.peer_id() < peer {
            Duration::ZERO
        } else {
            POLITE_WAIT
        };
        self.dialing.learn(peer, [endpoint], delay, now);
    }

    fn on_listening(&mut self, address: &Multiaddr, now: Instant) {
        // Others could not dial a link-local address; it is not shown.
        let dialable = Endpoint::of(address).and_then(|e| e.allowed(self.scope).map(|()| e));
        let Ok(endpoint) = dialable else {
            return;
        };
        // Of circuits only what we dialled ourselves is shown, not what a relay says.
        if endpoint.relay.is_some() {
            return;
        }
        let text = self.with_peer(address);
        self.shared.addresses.add(text.clone());
        self.say(OverlayEvent::Listening { address: text });
        if endpoint.is_loopback()
            && let Some(beacon) = &mut self.beacon
        {
            beacon.hurry(now);
        }
        self.listening.push(endpoint);
        self.tell_seen(now);
    }

    fn on_expired(&mut self, address: &Multiaddr) {
        self.listening
            .retain(|endpoint| endpoint.address != *address);
        let text = self.with_peer(address);
        if self.shared.addresses.remove(&text) {
            self.say(OverlayEvent::Gone { address: text });
        }
    }

    fn with_peer(&self, address: &Multiaddr) -> String {
        format!("{address}/p2p/{}", self.swarm.local_peer_id())
    }

    fn on_session(&mut self, event: stream::Event, now: Instant) {
        match event {
            stream::Event::Opened {
                peer,
                connection,
                address,
                dialer,
                stream,
            } => self.on_opened(peer, connection, &address, dialer, stream, now),
            stream::Event::Violation {
                peer,
                connection,
                what,
            } => {
                // The closing may take long if the peer reads no more.
                self.cut(connection);
                self.refuse_aloud(peer, &format!("it {what}"), now);
            }
            stream::Event::Foreign { peer } => {
                tracing::debug!(%peer, "does not speak {}", self.protocol);
                self.refuse(peer, now);
            }
        }
    }

    fn refuse(&mut self, peer: PeerId, now: Instant) {
        let until = now + REFUSED_FOR;
        self.swarm.behaviour_mut().session.refuse(peer, until);
        self.dialing.refuse(peer, until);
    }

    /// Refuses and says so, but not so often that strangers could fill somebody's screen.
    fn refuse_aloud(&mut self, peer: PeerId, why: &str, now: Instant) {
        self.refuse(peer, now);
        self.refusals += 1;
        if self.refusals <= MAX_REFUSAL_NOTES {
            self.note(format!("the peer {peer} was refused: {why}"));
        }
        if self.refusals == MAX_REFUSAL_NOTES {
            self.note("further refused peers are not reported".into());
        }
        tracing::debug!(%peer, why, "refused");
    }

    // ---- commands

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Dial(address) => self.take_hint(&address, now),
            Command::CloseLink(link) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.refused = true;
                    // Now, not when the link has ended: nobody gets in meanwhile by being named again.
                    let peer = link.peer;
                    self.refuse(peer, now);
                }
            }
            Command::ExpectLinks(expected) => {
                self.expected = expected;
                if let Some(beacon) = &mut self.beacon {
                    beacon.hurry(now);
                }
            }
            Command::Learn(teller, peer, addresses) => {
                self.learn(teller, &peer, &addresses, now);
            }
            Command::Parties(peers) => self.set_parties(&peers, now),
            Command::PartyRelay(party, addresses) => self.take_party_relay(&party, &addresses, now),
            Command::Lanes(order) => self.set_lanes(order, now),
            Command::Stop => {}
        }
    }

    // ---- events to the caller

    fn note(&mut self, note: String) {
        self.say(OverlayEvent::Note(note));
    }

    fn say(&mut self, event: OverlayEvent) {
        if self.outbox.len() >= OUTBOX {
            let note = self
                .outbox
                .iter()
                .position(|e| matches!(e, OverlayEvent::Note(_)));
            self.outbox.remove(note.unwrap_or(0));
        }
        self.outbox.push_back(event);
    }
}

/// The remote address without `/p2p/…`.
fn shown(address: &Multiaddr) -> String {
    Endpoint::of(address).map_or_else(|_| address.to_string(), |e| e.address.to_string())
}

fn dial_opts(attempt: &Attempt) -> DialOpts {
    let Some(peer) = attempt.peer else {
        let address = attempt
            .addresses
            .first()
            .cloned()
            .unwrap_or_else(Multiaddr::empty);
        let opts = DialOpts::unknown_peer_id().address(address);
        return match attempt.way {
            Way::Tcp => opts.allocate_new_port().build(),
            Way::Quic | Way::Circuit => opts.build(),
        };
    };
    let opts = DialOpts::peer_id(peer)
        .addresses(attempt.addresses.clone())
        .condition(if attempt.second {
            // The table of targets knows what exists and what is under way.
            PeerCondition::Always
        } else {
            PeerCondition::DisconnectedAndNotDialing
        });
    match attempt.way {
        // From the listening port, two simultaneous dials would meet in one connection
        // (simultaneous open), which neither side can negotiate.
        Way::Tcp => opts.allocate_new_port().build(),
        // From the listening socket, so that no socket outside the scope is opened.
        Way::Quic | Way::Circuit => opts.build(),
    }
}

fn failure(error: &DialError) -> Failure {
    match error {
        DialError::LocalPeerId { .. } => Failure::Myself,
        DialError::DialPeerConditionFalse(_) => Failure::Needless,
        _ => Failure::Other,
    }
}

async fn next_beacon(beacon: Option<&mut Beacon>) -> (super::beacon::Announcement, bool) {
    match beacon {
        Some(beacon) => beacon.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_or_never(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
