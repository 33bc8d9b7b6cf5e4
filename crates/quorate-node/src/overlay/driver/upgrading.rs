//! Direct connections to parties that are reached over a relay, and whether parties reach this machine.
//!
//! ```text
//!   relays and parties see us at … ──┐
//!   own listen addresses ────────────┴─► direct::Behaviour ◄── circuit to a party ──► direct::Behaviour
//!                                              │ addresses of the party                     │
//!                                              └─► filter, ration ─► dial (QUIC) ◄──────────┘
//! ```
//! A relay that we are connected with over TCP does not see our QUIC socket. While that is all, and a party is reached over
//! a relay only, one relay is dialled over QUIC too.
//!
//! A new direct connection takes over the session stream and the lane by itself: both prefer one.
//!
//! Limits: [`MAX_OBSERVERS`], [`MAX_REACHED`]; what is dialled is rationed together with all addresses that others name.
//!
//! Security: an observer's word about our address is told to parties only, and they dial it: a relay can make parties send
//! the beginning of a handshake somewhere, as parties themselves can ([`learning`](super::learning)).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{
    super::{
        OverlayEvent, Scope, Teller,
        address::{Endpoint, Transport, Way, is_public},
        direct::MAX_SEEN,
    },
    Driver,
    learning::plausible_of,
};

/// Peers whose word about our address is kept.
const MAX_OBSERVERS: usize = 4;
/// Own addresses that are known to be reached.
const MAX_REACHED: usize = 4;

/// What the overlay's task knows about direct connections.
#[derive(Default)]
pub(super) struct Upgrading {
    /// Where others see our QUIC socket, the latest last.
    observed: VecDeque<(PeerId, Multiaddr)>,
    /// Connections that came to us from the public network without our help, and to which address.
    inbound: HashMap<ConnectionId, (PeerId, Option<IpAddr>)>,
    /// Parties that we dialled at the same moment as they dialled us.
    dialled: HashSet<PeerId>,
    reached: Vec<IpAddr>,
    /// Relays that were dialled over QUIC so that they see us.
    shown_to: HashSet<PeerId>,
}

impl Driver {
    /// The parties of the session.
    pub(super) fn set_parties(&mut self, peers: &[String], now: Instant) {
        let me = self.peer_id();
        let parties = peers.iter().filter_map(|peer| peer.parse().ok());
        let parties: HashSet<PeerId> = parties.filter(|peer| *peer != me).collect();
        self.upgrading.dialled.retain(|peer| parties.contains(peer));
        let node = self.swarm.behaviour_mut();
        for party in &parties {
            // Whatever somebody said before it was known.
            node.session.remove_foreign_relay(party);
            self.relaying.table.remove_foreign(party);
        }
        self.learning.keep(&parties);
        node.direct.set_parties(parties, now);
        self.look_who_reached_us();
        self.show_ourselves();
    }

    /// Lets a relay see our QUIC socket, if that is of use and none does.
    pub(super) fn show_ourselves(&mut self) {
        if !self.upgrading.observed.is_empty() || !self.swarm.behaviour().direct.lacks_any() {
            return;
        }
        let relays = self.relaying.table.over_quic().into_iter();
        let mut relays = relays.filter(|(relay, _)| !self.upgrading.shown_to.contains(relay));
        let Some((relay, addresses)) = relays.next() else {
            return;
        };
        self.upgrading.shown_to.insert(relay);
        let opts = DialOpts::peer_id(relay)
            .addresses(addresses)
            .condition(PeerCondition::Always)
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%relay, %error, "a relay cannot be dialled over QUIC");
        }
    }

    /// A direct connection exists.
    pub(super) fn on_direct(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let ConnectedPoint::Listener {
            local_addr,
            send_back_addr,
        } = endpoint
        else {
            return;
        };
        let (Ok(here), Ok(there)) = (Endpoint::of(local_addr), Endpoint::of(send_back_addr)) else {
            return;
        };
        // A packet of ours to the same place may have opened a firewall for this connection. We dial TCP from other ports.
        let helped = here.transport == Transport::Quic
            && (self.upgrading.dialled.contains(&peer)
                || self.dialing.knows_address(&peer, &there));
        if is_public(there.ip) && !helped {
            // A QUIC listener does not know; the peer will say which address it dialled.
            let ip = Some(here.ip).filter(|ip| is_public(*ip));
            self.upgrading.inbound.insert(connection, (peer, ip));
            self.look_who_reached_us();
        }
    }

    pub(super) fn on_direct_closed(
        &mut self,
        peer: &PeerId,
        connection: ConnectionId,
        now: Instant,
    ) {
        self.upgrading.inbound.remove(&connection);
        if !self.swarm.is_connected(peer) {
            self.upgrading.shown_to.remove(peer);
            let before = self.upgrading.observed.len();
            self.upgrading.observed.retain(|(by, _)| by != peer);
            if self.upgrading.observed.len() != before {
                self.tell_seen(now);
            }
        }
    }

    /// Says once per address that parties reach it.
    fn look_who_reached_us(&mut self) {
        let node = self.swarm.behaviour();
        let by_parties = self.upgrading.inbound.values();
        let by_parties = by_parties.filter(|(peer, _)| node.direct.is_party(peer));
        let mut new: Vec<IpAddr> = Vec::new();
        for ip in by_parties.filter_map(|(_, ip)| ip.as_ref()) {
            let known = self.upgrading.reached.len() + new.len();
            if known < MAX_REACHED && !self.upgrading.reached.contains(ip) && !new.contains(ip) {
                new.push(*ip);
            }
        }
        for ip in new {
            self.upgrading.reached.push(ip);
            self.say(OverlayEvent::Reachable { ip });
        }
    }

    /// A peer says from where our packets come.
    pub(super) fn on_seen(
        &mut self,
        by: PeerId,
        connection: ConnectionId,
        at: &Multiaddr,
        now: Instant,
    ) {
        let believed =
            self.relaying.table.is_known(&by) || self.swarm.behaviour().direct.is_party(&by);
        let Ok(seen) = Endpoint::of(at) else {
            return;
        };
        let ours = is_public(seen.ip) && self.listening.iter().any(|e| e.ip == seen.ip);
        if let Some((_, to @ None)) = self.upgrading.inbound.get_mut(&connection)
            && ours
        {
            *to = Some(seen.ip);
            self.look_who_reached_us();
        }
        let own = seen.way() == Way::Quic
            && seen.allowed(self.scope).is_ok()
            && (self.scope == Scope::Local || is_public(seen.ip));
        if !believed || !own {
            return;
        }
        let observed = &mut self.upgrading.observed;
        observed.retain(|(other, _)| *other != by);
        if observed.len() >= MAX_OBSERVERS {
            observed.pop_front();
        }
        observed.push_back((by, seen.address));
        self.tell_seen(now);
    }

    /// What parties are told: where others see us, the latest first, then where we listen.
    pub(super) fn tell_seen(&mut self, now: Instant) {
        let observed = self.upgrading.observed.iter().rev().map(|(_, at)| at);
        let local = self.scope == Scope::Local;
        let own = self.listening.iter();
        let own = own.filter(|e| e.way() == Way::Quic && (local || !e.is_loopback()));
        let mut seen: Vec<String> = Vec::new();
        for address in observed.chain(own.map(|e| &e.address)) {
            let text = address.to_string();
            if seen.len() < MAX_SEEN && !seen.contains(&text) {
                seen.push(text);
            }
        }
        self.swarm.behaviour_mut().direct.set_seen(seen, now);
    }

    /// A party said where it is seen, and dials us at this moment.
    pub(super) fn dial_directly(&mut self, peer: PeerId, addresses: &[String], now: Instant) {
        let refused = self.swarm.behaviour().session.is_refused(&peer);
        if refused || !self.wants(&peer) || self.dialing.is_connected(&peer) {
            return;
        }
        let mut plausible = Vec::new();
        for text in addresses.iter().take(MAX_SEEN) {
            let endpoint = plausible_of(peer, text, self.scope);
            let Some(endpoint) = endpoint.filter(|e| e.way() == Way::Quic) else {
                continue;
            };
            if !self.learning.take(Teller::Peer(peer), now) {
                tracing::debug!(%peer, "too many addresses are told");
                break;
            }
            plausible.push(endpoint.address);
        }
        if plausible.is_empty() {
            return;
        }
        tracing::debug!(%peer, addresses = plausible.len(), "a party is dialled as it dials us");
        self.upgrading.dialled.insert(peer);
        // All at once, from the listening socket: the packets have to leave now.
        let opts = DialOpts::peer_id(peer)
            .addresses(plausible)
            .condition(PeerCondition::Always)
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%peer, %error, "a party cannot be dialled");
        }
    }
}
