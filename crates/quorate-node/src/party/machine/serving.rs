//! A party that can be reached from outside is a relay for the other parties of its session.
//!
//! ```text
//!   a party connected to a public address of this machine ─► a relay of its own starts, on ports of its own
//!        ─► "/…/p2p/RELAY/p2p-circuit" among the own addresses of `peers` frames ─► the others reserve there
//! ```
//! It is a relay like any other, with an identity of its own, except that only parties of the session are let in. What
//! others reserve there comes after the relays that users named. Whoever uses own relays only, or none, neither serves nor
//! is served; nor does a session that does not allow all kinds of paths.
//!
//! Limits: [`LIMITS`]; addresses of one relay per party, and of [`MAX_PARTY_RELAYS`](crate::overlay::MAX_PARTY_RELAYS) parties.
//!
//! Security. Provides: a party's word about its own relay is taken over its own link only. Does not provide: that a party
//! carries what it is given; as a relay it sees who talks to whom and how much, and no content.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use quorate_identity::Code;
use quorate_session::{LinkId, PeerAt, PeerId, Pid, message::PathPolicy};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::{Machine, show};
use crate::{
    Fault,
    overlay::{External, Guests, Listen, RelayConfig, RelayLimits, Relaying, Teller},
    party::{PartyEvent, Scope},
    relay::{Relay, RelayOptions},
};

/// What a party carries for the others of its session.
pub const LIMITS: RelayLimits = RelayLimits {
    circuits: 256,
    circuits_per_peer: 128,
    reservations: 64,
    connections_per_address: 64,
    circuit_seconds: 24 * 3600,
    circuit_bytes: 0,
    circuit_bits_per_second: 50_000_000,
    total_bits_per_second: 100_000_000,
};
/// The end of an address at which a party is a relay.
const RELAYS_HERE: &str = "/p2p-circuit";

/// The relay of this party, and who else is one.
#[derive(Default)]
pub(super) struct Serving {
    guests: Guests,
    relay: OwnRelay,
    /// The parties and their overlay identities, as last told to the overlay.
    identities: BTreeSet<(Pid, PeerId)>,
    /// Links of the overlay: with whom, and whether no relay is in between.
    links: BTreeMap<LinkId, (PeerId, bool)>,
    /// Parties that said that they are relays.
    serve: BTreeSet<PeerId>,
}

#[derive(Default)]
enum OwnRelay {
    #[default]
    None,
    Starting(JoinHandle<Result<Relay, Fault>>),
    Running(Relay),
}

impl Serving {
    /// Comes back once when the relay runs, or could not be started.
    pub async fn started(&mut self) -> Result<Relay, Fault> {
        let OwnRelay::Starting(task) = &mut self.relay else {
            return std::future::pending().await;
        };
        let started = task.await;
        self.relay = OwnRelay::None;
        started.unwrap_or_else(|e| Err(Fault::new(Code::Internal, e.to_string())))
    }

    /// Where this party is a relay, for the others.
    pub fn addresses(&self) -> Vec<String> {
        let OwnRelay::Running(relay) = &self.relay else {
            return Vec::new();
        };
        let all = relay.status().addresses.into_iter();
        all.map(|address| format!("{address}{RELAYS_HERE}"))
            .collect()
    }

    pub fn link_up(&mut self, link: LinkId, peer: PeerId, address: &str) {
        let direct = !address.contains("/p2p-circuit");
        self.links.insert(link, (peer, direct));
    }

    pub fn link_down(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// Whether the overlay's link with a party needs no relay; none without a link.
    pub fn is_direct(&self, pid: Pid) -> Option<bool> {
        let of = |peer: &PeerId| self.identities.contains(&(pid, *peer));
        let all = self.links.values().filter(|(peer, _)| of(peer));
        all.map(|(_, direct)| *direct).max()
    }

    /// Whether a party is a relay for the others; `me` is this one.
    pub fn serves(&self, pid: Pid, me: Pid) -> bool {
        if pid == me {
            return matches!(self.relay, OwnRelay::Running(_));
        }
        let mut all = self.serve.iter();
        all.any(|peer| self.identities.contains(&(pid, *peer)))
    }

    /// Ends the relay.
    pub async fn stop(self) {
        match self.relay {
            OwnRelay::None => {}
            OwnRelay::Starting(task) => {
                if let Ok(Ok(relay)) = task.await {
                    relay.stop().await;
                }
            }
            OwnRelay::Running(relay) => relay.stop().await,
        }
    }
}

impl Machine {
    /// Tells the overlay and the relay who the parties are, when that changed.
    pub(super) fn note_identities(&mut self) {
        let identities = self.session.identities();
        if identities == self.serving.identities {
            return;
        }
        let peers: Vec<String> = identities.iter().map(|(_, p)| p.to_string()).collect();
        self.serving.guests.set(peers.iter().map(String::as_str));
        self.serving.identities = identities;
        // Where all data goes over relays, nobody needs to know where anybody is.
        if self.config.invitation.subject.net.path != PathPolicy::Relay {
            self.overlay.parties(peers);
        }
    }

    /// A party reached this machine: others can, too.
    pub(super) fn on_reachable(&mut self, ip: IpAddr) {
        let allowed = self.config.scope != Scope::Local
            && self.config.reach.relaying == Relaying::Any
            && self.config.invitation.subject.net.path == PathPolicy::Any
            && self.config.invitation.subject.parties.len() > 2;
        if allowed && matches!(self.serving.relay, OwnRelay::None) {
            let guests = self.serving.guests.clone();
            self.serving.relay = OwnRelay::Starting(tokio::spawn(start(ip, guests)));
        }
    }

    pub(super) fn on_relay_started(&mut self, started: Result<Relay, Fault>) {
        match started {
            Ok(relay) => {
                self.serving.relay = OwnRelay::Running(relay);
                self.stands_otherwise();
                self.tell_addresses();
                let text = "this machine can be reached from outside: it relays for the other parties of this \
                            session (not with --no-relay or --own-relays)";
                show(&self.events, PartyEvent::Note { text: text.into() });
            }
            Err(fault) => tracing::debug!(%fault, "no relay for the other parties"),
        }
    }

    /// Takes where a party says that it and its neighbours are.
    pub(super) fn learn(&mut self, link: LinkId, party: Pid, peers: Vec<PeerAt>) {
        let teller = self.serving.links.get(&link).map(|(peer, _)| *peer);
        let relayed = self.config.invitation.subject.net.path == PathPolicy::Any
            && self.config.reach.relaying == Relaying::Any;
        for at in peers {
            let (relays, addresses): (Vec<String>, Vec<String>) = at
                .addresses
                .into_iter()
                .partition(|a| a.ends_with(RELAYS_HERE));
            let itself = teller == Some(at.peer);
            if itself && relays.is_empty() && self.serving.serve.remove(&at.peer)
                || itself && !relays.is_empty() && self.serving.serve.insert(at.peer)
            {
                self.stands_otherwise();
            }
            if itself && relayed && !relays.is_empty() {
                self.overlay.party_relay(at.peer.to_string(), relays);
            }
            let teller = Teller::Party(party.0);
            self.overlay.learn(teller, at.peer.to_string(), addresses);
        }
    }
}

/// A relay on ports of its own at one address of this machine.
async fn start(ip: IpAddr, guests: Guests) -> Result<Relay, Fault> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(secret.as_mut()).map_err(|e| {
        Fault::new(
            Code::Internal,
            format!("the system's random generator failed: {e}"),
        )
    })?;
    let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
    let listen = ["tcp/0", "udp/0/quic-v1"].map(|port| Listen {
        address: format!("/{family}/{ip}/{port}"),
        required: false,
    });
    let node = RelayConfig {
        secret,
        listen: listen.into(),
        external: vec![External::Host(ip)],
        limits: LIMITS,
        name: None,
        stun: Vec::new(),
        allow: None,
        guests: Some(guests),
    };
    let options = RelayOptions {
        node,
        stun: None,
        metrics: None,
    };
    Relay::start(options).await
}
