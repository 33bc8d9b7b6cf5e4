//! Who found one finds all: parties tell each other where they and their neighbours can be reached.
//!
//! ```text
//! own addresses ──┐
//! A says "I am at …" over its own link ──┴─► peers{own, others} ─► every other party with a proven link
//! peers from a party ─► Event::Peers ─► the driver may look there
//! ```
//! Passed on is only what a party said of itself over its own link, so nothing goes round in circles; a party
//! that is told of another one dials it, and then hears from itself where it is.
//!
//! Limits: [`MAX_PEER_ADDRESSES`] and [`MAX_PARTIES`] per frame; told at most every [`PEERS_INTERVAL`], and only what
//! changed; heard at most every [`PEERS_HEARD_INTERVAL`] from one link, of what comes sooner the last one. After [`PEERS_NEWS`] changes what a party says is
//! reason to tell others every [`PEERS_NEWS_INTERVAL`] only: each of its small frames becomes a large one to everybody.
//!
//! Security: requires that the driver filters addresses before it dials them. Provides: only parties with a
//! proven link learn addresses. Does not provide: that an address is true; who answers there proves its PeerId, and then
//! its DID.

use super::{Event, Session, Stage};
use crate::{
    limits::{
        MAX_ADDRESS_BYTES, MAX_PARTIES, MAX_PEER_ADDRESSES, PEERS_DELAY, PEERS_HEARD_INTERVAL,
        PEERS_INTERVAL, PEERS_NEWS, PEERS_NEWS_INTERVAL,
    },
    link::{Frame, LinkId, PeerAt, Proven},
    message::Pid,
    peer_id::PeerId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// What is known and was told.
#[derive(Default)]
pub(super) struct Peers {
    own: Vec<String>,
    /// What each neighbour said of itself, and when.
    said: BTreeMap<LinkId, (Vec<String>, Instant)>,
    /// What came too soon after the one before, the newest of each neighbour: nobody says it again.
    early: BTreeMap<LinkId, (Vec<String>, Vec<PeerAt>)>,
    told: BTreeMap<LinkId, Frame>,
    told_at: Option<Instant>,
    /// News of each party, over whichever link.
    news: BTreeMap<Pid, News>,
    due: Option<Instant>,
}

/// How often a party said something new of itself.
struct News {
    count: u32,
    /// When the next ones are passed on, at the earliest.
    next: Instant,
    /// Some wait for that.
    waits: bool,
}

impl Peers {
    pub fn timeout(&self) -> Option<Instant> {
        let early = self.early.keys().filter_map(|link| self.heard_again(*link));
        self.due.into_iter().chain(early).min()
    }

    /// When this neighbour is heard again; at any time if it said nothing yet.
    fn heard_again(&self, link: LinkId) -> Option<Instant> {
        let (_, at) = self.said.get(&link)?;
        Some(*at + PEERS_HEARD_INTERVAL)
    }

    pub fn forget(&mut self, link: LinkId) {
        self.said.remove(&link);
        self.early.remove(&link);
        self.told.remove(&link);
    }

    pub fn hurry(&mut self, now: Instant) {
        self.hurry_from(now, now);
    }

    /// Tells others soon, but not before `from`.
    fn hurry_from(&mut self, from: Instant, now: Instant) {
        let earliest = self.told_at.map_or(now, |at| at + PEERS_INTERVAL);
        let at = earliest.max(now + PEERS_DELAY).max(from);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A party said something new of itself.
    fn hear_news(&mut self, party: Pid, now: Instant) {
        let news = self.news.entry(party).or_insert(News {
            count: 0,
            next: now,
            waits: false,
        });
        news.count = news.count.saturating_add(1);
        if news.waits && news.next <= now {
            // They were passed on then.
            news.next += PEERS_NEWS_INTERVAL;
            news.waits = false;
        }
        let from = if news.count > PEERS_NEWS && now < news.next {
            // What is passed on then is what it said last.
            news.waits = true;
            news.next
        } else {
            news.next = now + PEERS_NEWS_INTERVAL;
            now
        };
        self.hurry_from(from, now);
    }
}

impl Session {
    /// Where this party can be reached, as multiaddr text; replaces what was said before. Of too many addresses the
    /// first ones are told.
    pub fn set_addresses(&mut self, addresses: Vec<String>, now: Instant) {
        let mut own = addresses;
        own.retain(|address| address.len() <= MAX_ADDRESS_BYTES);
        own.truncate(MAX_PEER_ADDRESSES);
        if self.peers.own != own {
            self.peers.own = own;
            self.peers.hurry(now);
        }
    }

    /// The overlay identities of the other parties, as far as they are known: those that they signed in their joins, and those
    /// that proved on a link to be one.
    pub fn identities(&self) -> BTreeSet<(Pid, PeerId)> {
        let signed = self
            .others()
            .filter_map(|pid| Some((pid, self.ledger.join(pid)?.peer)));
        let proven = self.links.values();
        let proven = proven.filter_map(|link| Some((link.pid()?, link.remote_peer()?)));
        signed
            .chain(proven)
            .filter(|(pid, _)| *pid != self.me)
            .collect()
    }

    /// A party said where it is, and where those are that it is linked with.
    pub(super) fn handle_peers(
        &mut self,
        link: LinkId,
        own: Vec<String>,
        others: Vec<PeerAt>,
        now: Instant,
    ) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        let (Some(&Proven::Party(party)), Some(remote)) = (entry.proven(), entry.remote_peer())
        else {
            return;
        };
        if self.peers.heard_again(link).is_some_and(|at| at > now) {
            self.peers.early.insert(link, (own, others));
            return;
        }
        let heard = self.peers.said.get(&link);
        let news = heard.is_none_or(|(before, _)| *before != own);
        self.peers.said.insert(link, (own.clone(), now));
        if news {
            self.peers.hear_news(party, now);
        }
        let me = self.peer_id();
        let itself = PeerAt {
            peer: remote,
            addresses: own,
        };
        let mut peers: Vec<PeerAt> = others;
        peers.push(itself);
        peers.retain(|at| at.peer != me && !at.addresses.is_empty());
        if !peers.is_empty() {
            self.emit(Event::Peers { link, party, peers });
        }
    }

    /// Takes in what came too soon, when its time has come.
    pub(super) fn hear_early(&mut self, now: Instant) {
        let peers = &self.peers;
        let over = |link: &LinkId| peers.heard_again(*link).is_none_or(|at| at <= now);
        let due: Vec<LinkId> = peers.early.keys().copied().filter(over).collect();
        for link in due {
            if let Some((own, others)) = self.peers.early.remove(&link) {
                self.handle_peers(link, own, others, now);
            }
        }
    }

    /// Tells every neighbour what is new to it, when that is due.
    pub(super) fn tell_peers(&mut self, now: Instant) {
        if self.peers.due.is_none_or(|at| at > now) {
            return;
        }
        self.peers.due = None;
        if matches!(self.stage, Stage::Closing(_) | Stage::Closed) {
            return;
        }
        self.peers.told_at = Some(now);
        let parties = self.links.iter().filter_map(|(id, link)| {
            let party = matches!(link.proven(), Some(Proven::Party(_)));
            Some((*id, link.remote_peer().filter(|_| party)?))
        });
        let parties: Vec<_> = parties.collect();
        for (link, remote) in &parties {
            let mut others: Vec<PeerAt> = Vec::new();
            for (other, peer) in &parties {
                let said = self.peers.said.get(other);
                if peer == remote || others.iter().any(|at| at.peer == *peer) {
                    continue;
                }
                if let Some((addresses, _)) = said.filter(|(a, _)| !a.is_empty()) {
                    others.push(PeerAt {
                        peer: *peer,
                        addresses: addresses.clone(),
                    });
                }
            }
            others.truncate(MAX_PARTIES);
            let own = self.peers.own.clone();
            let frame = Frame::Peers { own, others };
            let nothing = matches!(&frame, Frame::Peers { own, others } if own.is_empty() && others.is_empty());
            if nothing || self.peers.told.get(link) == Some(&frame) {
                continue;
            }
            if self.try_transmit(*link, &frame) {
                self.peers.told.insert(*link, frame);
            } else {
                self.peers.hurry(now);
            }
        }
    }
}
