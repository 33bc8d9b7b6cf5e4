//! The relays of the overlay's task: connections and reservations, circuits to parties that need one, and
//! what is told about it.
//!
//! ```text
//!   own relays, then those of parties
//!              ──► connection ──► reservation (up to 3) ──► addresses RELAY/p2p-circuit/p2p/ME
//!                      └─► announcement, pings ──► OverlayEvent::Relay
//!   party of the roster without a direct connection ──► circuits over two relays, one lane on each
//! ```
//! Where the session allows no data over relays there are no circuits for lanes; where it allows none beside them,
//! there are circuits beside a direct connection too.
//!
//! The lower `PeerId` dials the circuits of lanes, so that both ends do not dial at once; a party that nothing leads to for
//! [`POLITE_WAIT`] is dialled by the other one too, which may know better how things stand since its own network changed.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    super::{
        OverlayEvent, Relaying, Scope, Teller,
        address::Endpoint,
        announce::{Answer, told},
        dialing::MAX_HINTS,
        exchange::{Done, Silence},
        lanes::MAX_CIRCUIT_LANES,
        names::{Named, Names, Place},
        pass,
        relays::{Action, MAX_RELAY_ADDRESSES, Relays},
    },
    Driver,
};
use libp2p::{
    PeerId,
    core::transport::ListenerId,
    multiaddr::Protocol,
    relay::client,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use quorate_identity::Code;
use quorate_path::Policy;
use quorate_session::relay::Access;
use tokio::task::{JoinError, JoinSet};

/// Time between two looks at which parties lack a circuit.
const CIRCUIT_INTERVAL: Duration = Duration::from_millis(500);
/// A relay over which a party could not be reached is not tried for it for this long.
const AVOIDED_FOR: Duration = Duration::from_secs(2);
/// How long the higher `PeerId` leaves it to the other one to dial.
const POLITE_WAIT: Duration = Duration::from_secs(1);
/// A relay that has not said yes or no to a circuit by then holds up no other try: it may wait for a connection that is
/// dead.
const CIRCUIT_PATIENCE: Duration = Duration::from_secs(3);
/// Circuits to one party that are asked for at a time.
const MAX_ASKED: usize = 2;
/// Pairs of party and relay that are avoided at a time; beyond it the oldest are tried again.
const MAX_AVOIDED: usize = 256;
/// Relays whose refusals the caller is told about.
const MAX_RELAY_NOTES: u32 = 16;

/// What the overlay's task knows about relays.
pub(super) struct RelayState {
    pub table: Relays,
    pub how: Relaying,
    names: Names,
    /// Own relays whose names are being looked up.
    pub lookups: JoinSet<LookedUp>,
    /// Circuits over an own relay to somebody, wherever that relay is.
    hints: Vec<(PeerId, PeerId)>,
    /// Parties to which lanes are wanted, and since when nothing leads there.
    parties: HashMap<PeerId, Option<Instant>>,
    /// Lanes over circuits are wanted beside a direct connection too, because no other ones are allowed.
    circuits_only: bool,
    next_look: Option<Instant>,
    circuits: HashMap<ConnectionId, Asked>,
    avoided: HashMap<(PeerId, PeerId), Instant>,
    /// Relays about which somebody was told that they do not work, until they do.
    noted: HashSet<PeerId>,
    notes: u32,
    /// The circuit addresses shown per relay.
    shown: HashMap<PeerId, Vec<String>>,
}

/// A relay, and where its names lead, or why that is not known.
type LookedUp = (PeerId, Result<Vec<Endpoint>, String>);

/// A circuit that is asked for.
struct Asked {
    peer: PeerId,
    relay: PeerId,
    since: Instant,
}

impl RelayState {
    pub fn new(how: Relaying, names: Names, reserve: bool, seed: u64) -> Self {
        Self {
            table: Relays::new(reserve, seed),
            how,
            names,
            lookups: JoinSet::new(),
            hints: Vec::new(),
            parties: HashMap::new(),
            circuits_only: false,
            next_look: None,
            circuits: HashMap::new(),
            avoided: HashMap::new(),
            noted: HashSet::new(),
            notes: 0,
            shown: HashMap::new(),
        }
    }

    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let table = self.table.poll_timeout(now);
        [table, self.next_look].into_iter().flatten().min()
    }
}

impl Driver {
    /// Takes the relays that the user or the session named.
    pub(super) fn take_relays(&mut self, relays: &[String], now: Instant) {
        for text in relays {
            let table = &mut self.relaying.table;
            let added = Place::parse(text, self.scope).and_then(|place| match place {
                Place::At(endpoint) => table.add_own(endpoint, now),
                Place::Named(named) => table.add_named(named, now),
            });
            match added {
                Ok(relay) if relay == self.peer_id() => {}
                Ok(relay) => self.swarm.behaviour_mut().session.add_own_relay(relay),
                Err(why) => {
                    let shown: String = text.chars().take(80).collect();
                    self.note(format!("the relay {shown:?} is not used: {why}"));
                }
            }
        }
    }

    /// These relays may be shown the user's DID, if they ask for one.
    pub(super) fn trust(&mut self, relays: &[String]) {
        let places = relays.iter().map(|text| Place::parse(text, self.scope));
        let peers: Vec<PeerId> = places.filter_map(|p| p.ok()?.peer()).collect();
        self.relaying.table.trust(peers);
    }

    /// Whether a circuit may be used, and its relay with it.
    pub(super) fn take_circuit(
        &mut self,
        circuit: &Endpoint,
        now: Instant,
    ) -> Result<(), &'static str> {
        let relay = circuit.relay.ok_or("not a circuit")?;
        match self.relaying.how {
            Relaying::Never => return Err("relays are not used here"),
            Relaying::OwnOnly if !self.relaying.table.is_own(&relay) => {
                return Err("only own relays are used here");
            }
            Relaying::OwnOnly | Relaying::Any => {}
        }
        if relay == self.peer_id() {
            return Err("it leads through ourselves");
        }
        let node = self.swarm.behaviour();
        if !self.relaying.table.is_own(&relay) {
            // Whoever tells an address can name anybody as its relay.
            if node.session.is_refused(&relay) {
                return Err("its relay was refused");
            }
            if node.lanes.is_party(&relay) {
                return Err("its relay is a party of the session");
            }
        }
        let (relay, gone) = self.relaying.table.add_foreign(circuit, now)?;
        if let Some(gone) = gone {
            self.swarm
                .behaviour_mut()
                .session
                .remove_foreign_relay(&gone);
        }
        // This changes nothing for own ones.
        self.swarm.behaviour_mut().session.add_foreign_relay(relay);
        Ok(())
    }

    /// Takes the relay that a party says it is.
    pub(super) fn take_party_relay(&mut self, party: &str, addresses: &[String], now: Instant) {
        let Ok(party) = party.parse::<PeerId>() else {
            return;
        };
        if self.relaying.how != Relaying::Any || !self.swarm.behaviour().direct.is_party(&party) {
            return;
        }
        let mut named = None;
        for text in addresses.iter().take(MAX_RELAY_ADDRESSES) {
            let Ok(circuit) = Endpoint::parse(text, self.scope) else {
                continue;
            };
            let (Some(relay), None, Some(endpoint)) =
                (circuit.relay, circuit.peer, circuit.of_relay())
            else {
                continue;
            };
            let of_this_machine = circuit.is_loopback() && self.scope != Scope::Local;
            let node = self.swarm.behaviour();
            let unfit = relay == self.peer_id()
                || node.session.is_refused(&relay)
                || node.direct.is_party(&relay);
            // A party is one relay.
            if of_this_machine || unfit || named.is_some_and(|other| other != relay) {
                continue;
            }
            if !self.relaying.table.has(&relay, &endpoint)
                && !self.learning.take(Teller::Peer(party), now)
            {
                break;
            }
            match self.relaying.table.add_of_party(party, endpoint, now) {
                Ok(_) => named = Some(relay),
                Err(why) => tracing::debug!(%party, why, "the relay of a party is not used"),
            }
        }
        if named.is_some() {
            let relays = self.relaying.table.of_parties();
            self.swarm.behaviour_mut().session.set_party_relays(relays);
        }
    }

    /// Connects and reserves what is due.
    pub(super) fn relays_due(&mut self, now: Instant) {
        while let Some(action) = self.relaying.table.poll(now) {
            match action {
                Action::LookUp { relay, names } => {
                    self.relaying.table.looking_up(&relay, now);
                    let (resolver, scope) = (self.relaying.names.clone(), self.scope);
                    self.relaying.lookups.spawn(async move {
                        let found = resolver.find_all(&names, scope).await;
                        (relay, found)
                    });
                }
                Action::Dial { relay, addresses } => {
                    // All at once: where UDP is blocked, only TCP answers.
                    let opts = DialOpts::peer_id(relay)
                        .addresses(addresses)
                        .condition(PeerCondition::Always)
                        .build();
                    let connection = opts.connection_id();
                    self.relaying.table.dialing(&relay, connection);
                    if let Err(error) = self.swarm.dial(opts) {
                        tracing::debug!(%relay, %error, "a relay cannot be dialled");
                        self.relaying.table.failed(connection, now);
                    }
                }
                Action::Reserve { relay, address } => match self.swarm.listen_on(address) {
                    Ok(listener) => self.relaying.table.asked(&relay, listener),
                    Err(error) => {
                        tracing::warn!(%relay, %error, "no reservation can be asked for");
                        let never = ListenerId::next();
                        self.relaying.table.asked(&relay, never);
                        self.relaying.table.lost(never, now);
                    }
                },
            }
        }
    }

    /// A hint that goes over an own relay by its name. The name itself is not looked up: where the relay is, is known
    /// from whoever may name it.
    pub(super) fn take_named_hint(
        &mut self,
        named: &Named,
        now: Instant,
    ) -> Result<(), &'static str> {
        let shape = named.shape();
        let (Some(relay), Some(peer)) = (shape.relay, shape.peer.or(self.only)) else {
            return Err("only names of relays are looked up");
        };
        if !self.relaying.table.is_own(&relay) {
            return Err("neither you nor the invitation names this relay");
        }
        if !self.wants(&peer) {
            return Err("it leads to somebody else");
        }
        let hints = &mut self.relaying.hints;
        if !hints.contains(&(relay, peer)) {
            if hints.len() >= MAX_HINTS {
                return Err("there are too many addresses to dial");
            }
            hints.push((relay, peer));
        }
        self.renew_hints(&relay, now);
        Ok(())
    }

    /// Circuits over this relay lead to where it is now.
    fn renew_hints(&mut self, relay: &PeerId, now: Instant) {
        let endpoints = self.relaying.table.endpoints(relay);
        for (over, peer) in &self.relaying.hints {
            let all: Vec<Endpoint> = endpoints
                .iter()
                .map(|e| e.through(*relay, Some(*peer)))
                .collect();
            if over == relay && !all.is_empty() {
                self.dialing.hint_over(*relay, *peer, all, now);
            }
        }
    }

    /// It is known, or not, where the names of a relay lead.
    pub(super) fn on_looked_up(&mut self, found: Result<LookedUp, JoinError>, now: Instant) {
        let Ok((relay, found)) = found else {
            return;
        };
        if let Err(why) = &found {
            self.note_relay(relay, &format!("a relay is not used: {why}"));
        }
        self.relaying.table.looked_up(&relay, found.ok(), now);
        self.renew_hints(&relay, now);
    }

    // ---- what happens with relays

    pub(super) fn on_relay_dial_failed(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(relay) = self.relaying.table.failed(connection, now) {
            let name = self.relaying.table.name(&relay);
            self.note_relay(relay, &format!("the relay {name} cannot be reached"));
        }
    }

    pub(super) fn on_relay_closed(
        &mut self,
        relay: &PeerId,
        connection: ConnectionId,
        now: Instant,
    ) {
        if self.relaying.table.closed(relay, connection, now) {
            self.hide_circuits(*relay);
            self.tell_relay(relay);
        }
    }

    pub(super) fn on_relay_event(&mut self, event: &client::Event) {
        if let client::Event::ReservationReqAccepted { relay_peer_id, .. } = event
            && self.relaying.table.reserved(relay_peer_id)
        {
            let relay = *relay_peer_id;
            self.relaying.noted.remove(&relay);
            self.show_circuits(relay);
            self.tell_relay(&relay);
        }
    }

    pub(super) fn on_listener_closed(
        &mut self,
        listener: ListenerId,
        why: Result<(), std::io::Error>,
        now: Instant,
    ) {
        let Some((relay, held)) = self.relaying.table.lost(listener, now) else {
            return;
        };
        self.hide_circuits(relay);
        if held {
            self.tell_relay(&relay);
        } else {
            let name = self.relaying.table.name(&relay);
            let why = why.err().map_or_else(String::new, |e| format!(": {e}"));
            self.note_relay(relay, &format!("the relay {name} does not take us{why}"));
        }
    }

    pub(super) fn on_relay_rtt(&mut self, relay: &PeerId, rtt: Duration) {
        if self.relaying.table.measured(relay, rtt) {
            self.tell_relay(relay);
        }
    }

    /// A direct connection exists; a relay is asked what it says about itself.
    pub(super) fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        if self.relaying.table.connected(&peer, connection, now) {
            let owes = self.relaying.table.owes_pass(&peer);
            let node = self.swarm.behaviour_mut();
            node.announce.ask(peer, connection);
            if owes {
                node.pass.ask(peer, connection);
            }
        }
    }

    /// A relay was shown who we are, or did not ask.
    pub(super) fn on_pass(&mut self, done: Done<pass::Answer>) {
        let relay = done.peer;
        let name = self.relaying.table.name(&relay);
        match done.result {
            Ok(Ok(())) | Err(Silence::Foreign) => {}
            Ok(Err(refusal)) => {
                let why = format!("{}: {}", refusal.code, refusal.code.meaning());
                let text = format!("the relay {name} does not let us in: {why}");
                if self.is_news(relay) {
                    self.refused_by(relay, refusal.code, text);
                }
            }
            Err(Silence::NoAnswer) => tracing::debug!(%relay, "no answer to a pass"),
        }
        // Without a pass it says so itself when a place is asked for.
        self.relaying.table.settled(&relay);
    }

    pub(super) fn on_announcement(&mut self, done: Done<Answer>) {
        let relay = done.peer;
        match told(done) {
            Ok(said) => {
                let listed = said.access == Access::Listed;
                if !self.relaying.table.said(&relay, said) {
                    return;
                }
                self.tell_relay(&relay);
                let table = &self.relaying.table;
                let strange = table.is_own(&relay) && !table.is_trusted(&relay);
                if listed && strange && self.relaying.notes < MAX_RELAY_NOTES {
                    self.relaying.notes += 1;
                    let name = self.relaying.table.name(&relay);
                    let text = format!(
                        "the relay {name} serves only whom its operator listed ({}): if you are, name it with --relay-pass, \
                         and it learns your DID",
                        Code::NotListed
                    );
                    self.refused_by(relay, Code::NotListed, text);
                }
            }
            // It is used all the same: it carries or it does not.
            Err(why) => tracing::debug!(%relay, why, "no announcement"),
        }
    }

    fn tell_relay(&mut self, relay: &PeerId) {
        if let Some(status) = self.relaying.table.status(relay) {
            self.say(OverlayEvent::Relay(status));
        }
    }

    fn refused_by(&mut self, relay: PeerId, code: Code, text: String) {
        let relay = relay.to_string();
        self.say(OverlayEvent::RelayRefused { relay, code, text });
    }

    /// Says once that a relay does not work, until it works again.
    fn note_relay(&mut self, relay: PeerId, text: &str) {
        if self.is_news(relay) {
            self.note(text.to_owned());
        }
    }

    /// Whether it is to be said that a relay does not work: once, until it works again.
    fn is_news(&mut self, relay: PeerId) -> bool {
        let known = self.relaying.table.is_own(&relay);
        let news =
            known && self.relaying.noted.insert(relay) && self.relaying.notes < MAX_RELAY_NOTES;
        self.relaying.notes += u32::from(news);
        news
    }

    fn show_circuits(&mut self, relay: PeerId) {
        let me = self.peer_id();
        let all = self.relaying.table.circuits_to(me);
        let texts: Vec<String> = all
            .into_iter()
            .filter(|c| c.relay == Some(relay))
            .map(|c| c.address.with(Protocol::P2p(me)).to_string())
            .collect();
        for text in &texts {
            self.shared.addresses.add(text.clone());
            self.say(OverlayEvent::Listening {
                address: text.clone(),
            });
        }
        self.relaying.shown.insert(relay, texts);
    }

    fn hide_circuits(&mut self, relay: PeerId) {
        for text in self.relaying.shown.remove(&relay).unwrap_or_default() {
            self.shared.addresses.remove(&text);
        }
    }

    // ---- circuits for lanes

    /// Lanes are wanted to these peers from now on, over circuits as far as the policy allows them.
    pub(super) fn want_circuits(
        &mut self,
        parties: impl Iterator<Item = PeerId>,
        policy: Policy,
        now: Instant,
    ) {
        let wanted = parties.filter(|_| policy.allows(true));
        self.relaying.parties = wanted.map(|peer| (peer, None)).collect();
        self.relaying.circuits_only = !policy.allows(false);
        self.relaying.avoided.clear();
        self.relaying.next_look = Some(now);
    }

    /// Looks again soon which parties lack a circuit.
    pub(super) fn hurry_circuits(&mut self, now: Instant) {
        if self.relaying.next_look.is_some() {
            self.relaying.next_look = Some(now);
        }
    }

    /// Dials circuits to parties that have no direct connection, over relays they have none over yet.
    pub(super) fn circuits_due(&mut self, now: Instant) {
        if self.relaying.next_look.is_none_or(|at| at > now) {
            return;
        }
        if self.relaying.parties.is_empty() || self.relaying.how == Relaying::Never {
            self.relaying.next_look = None;
            return;
        }
        self.relaying.next_look = Some(now + CIRCUIT_INTERVAL);
        self.relaying.avoided.retain(|_, until| *until > now);
        let parties: Vec<PeerId> = self.relaying.parties.keys().copied().collect();
        for peer in parties {
            if self.is_ours_to_dial(peer, now)
                && let Some(circuit) = self.next_circuit(peer, now)
            {
                self.dial_circuit(peer, &circuit, now);
            }
        }
    }

    fn is_ours_to_dial(&mut self, peer: PeerId, now: Instant) -> bool {
        let reached = self.swarm.is_connected(&peer);
        let Some(lost) = self.relaying.parties.get_mut(&peer) else {
            return false;
        };
        if reached {
            *lost = None;
        }
        let since = if reached {
            now
        } else {
            *lost.get_or_insert(now)
        };
        self.peer_id() < peer || now.saturating_duration_since(since) >= POLITE_WAIT
    }

    fn next_circuit(&self, peer: PeerId, now: Instant) -> Option<Endpoint> {
        if self.dialing.is_connected(&peer) && !self.relaying.circuits_only {
            return None;
        }
        let asked = self.relaying.circuits.values().filter(|c| c.peer == peer);
        let patient = |c: &Asked| now.saturating_duration_since(c.since) < CIRCUIT_PATIENCE;
        if asked.clone().count() >= MAX_ASKED || asked.clone().any(patient) {
            return None;
        }
        let over = self.swarm.behaviour().lanes.relays_to(&peer);
        if over.len() >= MAX_CIRCUIT_LANES {
            return None;
        }
        let ways = self.relaying.table.ways_to(peer, now).into_iter();
        let learnt = self.dialing.circuits_to(peer).cloned();
        ways.chain(learnt).find(|way| {
            way.relay.is_some_and(|relay| {
                !over.contains(&relay) && !self.relaying.avoided.contains_key(&(peer, relay))
            })
        })
    }

    fn dial_circuit(&mut self, peer: PeerId, circuit: &Endpoint, now: Instant) {
        let Some(relay) = circuit.relay else {
            return;
        };
        let opts = DialOpts::peer_id(peer)
            .addresses(vec![circuit.address.clone()])
            .condition(PeerCondition::Always)
            .build();
        let connection = opts.connection_id();
        tracing::debug!(%peer, %relay, "a circuit is dialled");
        match self.swarm.dial(opts) {
            Ok(()) => {
                let asked = Asked {
                    peer,
                    relay,
                    since: now,
                };
                self.relaying.circuits.insert(connection, asked);
            }
            Err(error) => {
                tracing::debug!(%peer, %relay, %error, "a circuit cannot be dialled");
                self.avoid(peer, relay, now);
            }
        }
    }

    fn avoid(&mut self, peer: PeerId, relay: PeerId, now: Instant) {
        let avoided = &mut self.relaying.avoided;
        if avoided.len() >= MAX_AVOIDED {
            avoided.clear();
        }
        avoided.insert((peer, relay), now + AVOIDED_FOR);
    }

    /// A dial came to its end; if it was for a circuit of a lane, the next one may follow.
    pub(super) fn on_circuit_dialled(&mut self, connection: ConnectionId, ok: bool, now: Instant) {
        if let Some(Asked { peer, relay, .. }) = self.relaying.circuits.remove(&connection) {
            if !ok {
                self.avoid(peer, relay, now);
            }
            self.hurry_circuits(now);
        }
    }

    /// A lane over this circuit fell silent.
    pub(super) fn on_silent_circuit(&mut self, peer: PeerId, relay: PeerId, now: Instant) {
        self.relaying.table.suspect(&relay, now);
        self.avoid(peer, relay, now);
        self.hurry_circuits(now);
    }
}
