//! Looking for the others, and being found, through nodes that keep rendezvous records.
//!
//! The nodes are the relays in use and those that the user or the invitation names. It goes on beside all other ways of
//! finding each other, is needed by none of them, and its faults are notes.

use std::{net::IpAddr, time::Instant};

use quorate_identity::UnixTime;
use quorate_session::{
    Pid, Session,
    limits::MAX_PUBLISHED_ADDRESSES,
    rendezvous::{Kept, Seeker, SeekerEvent, SeekerOrder, SeekerSetup},
};
use tokio::sync::mpsc;

use super::{Machine, clock, resolve, show};
use crate::{
    Fault,
    overlay::{
        Relaying, Teller,
        dht::{Answer, Dht, DhtConfig},
    },
    party::{PartyConfig, PartyEvent, Rendezvous},
};

/// The seeker of one session, and the swarm that carries out its orders.
pub(super) struct Seeking {
    seeker: Seeker,
    dht: Dht,
    answers: mpsc::Receiver<Answer>,
    /// Nodes that were named.
    named: usize,
    /// Nodes that there is a connection to.
    connected: usize,
}

impl Seeking {
    /// Begins to look for everybody, if any node is named.
    pub fn start(config: &PartyConfig, session: &Session) -> Result<Option<Self>, Fault> {
        let rendezvous = &config.invitation.subject.rendezvous;
        let mut nodes = config.network.clone();
        if config.reach.relaying == Relaying::Any {
            nodes.extend(rendezvous.bootstrap.iter().cloned());
        }
        nodes.extend(config.reach.with_relays_of(&rendezvous.relays).relays);
        if nodes.is_empty() {
            return Ok(None);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| {
            let text = format!("the system's random generator failed: {e}");
            Fault::new(quorate_identity::Code::Internal, text)
        })?;
        let setup = SeekerSetup {
            invitation: &config.invitation.subject,
            secret: &config.secret,
            key: config.key.clone(),
            me: session.me(),
            seed,
        };
        let named = nodes.len();
        let scope = config.scope.into();
        let names = config.reach.names.clone();
        let config = DhtConfig {
            scope,
            nodes,
            names,
        };
        let (dht, answers) = Dht::start(&config).map_err(|e| {
            let text = format!("nodes of the DHT cannot be asked: {e}");
            Fault::new(quorate_identity::Code::Port, text)
        })?;
        Ok(Some(Self {
            seeker: Seeker::new(setup, clock::now()),
            dht,
            answers,
            named,
            connected: 0,
        }))
    }

    /// The next thing a node did.
    pub async fn answer(seeking: Option<&mut Self>) -> Option<Answer> {
        match seeking {
            Some(seeking) => seeking.answers.recv().await,
            None => std::future::pending().await,
        }
    }

    /// When it has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.seeker.poll_timeout()
    }

    /// Closes its sockets.
    pub async fn stop(self) {
        self.dht.stop().await;
    }

    fn status(&self) -> Rendezvous {
        let tally = self.seeker.tally();
        Rendezvous {
            named: self.named,
            connected: self.connected,
            kept_by: tally.kept.nodes,
            looked_up: tally.looked_up,
            answers: tally.answers,
            refused: tally.refused,
        }
    }
}

impl Machine {
    /// Where this party is, for those who look for it: what is reachable from anywhere first.
    pub(super) fn publish_addresses(&mut self, told: &[String]) {
        let peer = self.session.peer_id();
        let (Some(seeking), Some(join)) = (&mut self.seeking, self.session.join_digest()) else {
            return;
        };
        let end = format!("/p2p/{peer}");
        let mut addresses: Vec<String> = told
            .iter()
            .map(|address| address.strip_suffix(&end).unwrap_or(address).to_owned())
            .collect();
        addresses.sort_by_key(|address| rank(address));
        addresses.truncate(MAX_PUBLISHED_ADDRESSES);
        seeking.seeker.here(peer, &addresses, join, clock::now());
    }

    /// Tells the seeker who is linked.
    pub(super) fn note_links(&mut self) {
        let Some(seeking) = &mut self.seeking else {
            return;
        };
        let linked = self.session.linked();
        let now = clock::now();
        for (pid, _) in (0..).zip(&self.config.invitation.subject.parties) {
            seeking
                .seeker
                .linked(Pid(pid), linked.contains(&Pid(pid)), now);
        }
    }

    pub(super) fn on_answer(&mut self, answer: Answer, at: UnixTime, now: Instant) {
        let Some(seeking) = &mut self.seeking else {
            return;
        };
        let seeker = &mut seeking.seeker;
        match answer {
            Answer::Stored { id, kept } => seeker.handle_stored(id, kept, now),
            Answer::Value { id, value } => {
                if let Err(rejection) = seeker.handle_answer(id, &value, at) {
                    tracing::debug!(%rejection, "what a node gave is not used");
                }
            }
            Answer::LookedUp { id, .. } => seeker.handle_looked_up(id, now),
            Answer::Known { connected, .. } => {
                // The first one after none: what was not kept or found before may be now.
                if connected > 0 && seeking.connected == 0 && seeker.tally().looked_up > 0 {
                    seeker.hurry(now);
                }
                seeking.connected = connected;
            }
            Answer::Note(text) => show(&self.events, PartyEvent::Note { text }),
        }
    }

    /// Does what the seeker wants done.
    pub(super) fn seek(&mut self) {
        let Some(seeking) = &mut self.seeking else {
            return;
        };
        let (at, now) = (clock::wall(), clock::now());
        if seeking.poll_timeout().is_some_and(|due| due <= now) {
            seeking.seeker.handle_timeout(at, now);
        }
        while let Some(event) = seeking.seeker.poll_event() {
            match event {
                SeekerEvent::Found {
                    pid,
                    peer,
                    addresses,
                } => {
                    tracing::debug!(party = pid.0, ?addresses, "found through a node");
                    let teller = Teller::Record(pid.0);
                    self.overlay.learn(teller, peer.to_string(), addresses);
                }
                SeekerEvent::Resolve(did) => {
                    seeking.seeker.handle_resolved(&did, resolve(&did), at);
                }
            }
        }
        while let Some(order) = seeking.seeker.poll_order() {
            let id = match &order {
                SeekerOrder::Put { id, .. } | SeekerOrder::Get { id, .. } => *id,
            };
            let taken = match order {
                SeekerOrder::Put { id, key, value, .. } => seeking.dht.put(id, key, value),
                SeekerOrder::Get { id, key } => seeking.dht.get(id, key),
            };
            if !taken {
                seeking.seeker.handle_stored(id, Kept::default(), now);
                seeking.seeker.handle_looked_up(id, now);
            }
        }
        let status = seeking.status();
        if self.sought != Some(status) {
            self.sought = Some(status);
            show(&self.events, PartyEvent::Rendezvous(status));
        }
    }
}

/// Public addresses before circuits, and both before those of the own networks.
fn rank(address: &str) -> u8 {
    if address.contains("/p2p-circuit") {
        return 1;
    }
    let ip = address.split('/').nth(2).and_then(|text| text.parse().ok());
    match ip {
        Some(IpAddr::V4(ip)) if !(ip.is_private() || ip.is_loopback() || ip.is_link_local()) => 0,
        // Global unicast (RFC 4291).
        Some(IpAddr::V6(ip)) if ip.segments()[0] & 0xe000 == 0x2000 => 0,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reachable_from_anywhere_comes_first() {
        let mut all = [
            "/ip4/192.168.1.7/tcp/4001",
            "/ip4/203.0.113.5/udp/4001/quic-v1/p2p/12D3/p2p-circuit",
            "/ip6/2001:db8::7/tcp/4001",
            "/ip6/fd00::7/tcp/4001",
            "/ip4/198.51.100.7/tcp/4001",
        ];
        all.sort_by_key(|address| rank(address));
        assert_eq!(all.map(rank), [0, 0, 1, 2, 2]);
    }
}
