//! The side of the post that has invitations to hand over.
//!
//! Limits and security: see the module.

use super::{
    Frame,
    pair::{Mine, PairKey, Says, same},
};
use crate::{
    contact::{Closing, Contact, Outbox},
    limits::{
        DELIVERY_WAIT, MAX_LOBBY_LINKS, MAX_OFFER_CHARS, MAX_OFFERS, MAX_POST_FRAMES,
        OFFER_TAGS_STEP, SLOWEST_LINK,
    },
    link::LinkId,
    peer_id::PeerId,
};
use chacha20::ChaCha20Rng;
use quorate_identity::{B64, Code, Did, Digest, Rejection, SigningKey, UnixTime};
use rand_core::{Rng, SeedableRng};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What the sender is told.
#[derive(Clone, Debug)]
pub enum SendEvent {
    /// The receiver of an offer is there.
    Found {
        /// Who.
        did: Did,
    },
    /// It has its invitation.
    Delivered {
        /// Who.
        did: Did,
    },
    /// All have theirs.
    AllDelivered,
    /// Something was refused; the post goes on.
    Refused(Rejection),
}

struct Offer {
    did: Did,
    pair: PairKey,
    text: String,
    digest: Digest,
    delivered: bool,
}

struct Link {
    remote: PeerId,
    since: Instant,
    frames: u32,
    /// The offer that was handed over on it, and when.
    offered: Option<(usize, Instant)>,
}

/// The side of the post that has invitations to hand over.
pub struct Sender {
    local: PeerId,
    rng: ChaCha20Rng,
    offers: Vec<Offer>,
    links: BTreeMap<LinkId, Link>,
    out: Outbox<SendEvent>,
}

/// Name of an offered text.
pub(super) fn offer_digest(text: &str) -> Digest {
    Digest::of("quorate/1/offer", text.as_bytes())
}

impl Sender {
    /// Offers a bundle, plain or sealed, to each of these DIDs. `local` is our PeerId in the overlay.
    pub fn new(
        key: &SigningKey,
        offers: Vec<(Did, String)>,
        local: PeerId,
        seed: [u8; 32],
    ) -> Result<Self, Rejection> {
        if offers.len() > MAX_OFFERS || offers.iter().any(|(_, text)| text.len() > MAX_OFFER_CHARS)
        {
            let text = format!("more than {MAX_OFFERS} invitations, or one that is too long");
            return Err(Rejection::new(Code::Limit, "F9", text));
        }
        let offers = offers
            .into_iter()
            .map(|(did, text)| {
                Ok(Offer {
                    pair: PairKey::new(key, &did)?,
                    digest: offer_digest(&text),
                    did,
                    text,
                    delivered: false,
                })
            })
            .collect::<Result<_, Rejection>>()?;
        Ok(Self {
            local,
            rng: ChaCha20Rng::from_seed(seed),
            offers,
            links: BTreeMap::new(),
            out: Outbox::new(),
        })
    }

    /// Whose invitation was not handed over yet.
    pub fn waiting(&self) -> Vec<Did> {
        let waiting = self.offers.iter().filter(|offer| !offer.delivered);
        waiting.map(|offer| offer.did.clone()).collect()
    }

    fn tell(&mut self, event: SendEvent) {
        self.out.tell(event, |e| matches!(e, SendEvent::Refused(_)));
    }

    /// One tag per offer and random ones, in random order: neither number nor place says anything.
    fn greet(&mut self, link: LinkId, remote: &PeerId) {
        let offers = self.offers.iter().filter(|offer| !offer.delivered);
        let mut tags: Vec<B64<16>> = offers
            .map(|offer| {
                offer
                    .pair
                    .tag(Says::Offer, Mine::Sender, &self.local, remote)
            })
            .collect();
        while tags.is_empty() || !tags.len().is_multiple_of(OFFER_TAGS_STEP) {
            let mut tag = B64([0; 16]);
            self.rng.fill_bytes(&mut tag.0);
            tags.push(tag);
        }
        // Tags are as good as random, so their own order is one.
        tags.sort();
        self.out.send(link, &Frame::Hello { tags });
    }

    fn take(&mut self, id: LinkId, frame: &Frame, now: Instant) -> Result<(), Rejection> {
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        match frame {
            // Another sender; it has nothing for us here.
            Frame::Hello { .. } => Ok(()),
            Frame::Mine { tag } if link.offered.is_none() => {
                let (local, remote) = (self.local, link.remote);
                let found = self.offers.iter().position(|offer| {
                    !offer.delivered
                        && same(
                            &offer.pair.tag(Says::Answer, Mine::Sender, &local, &remote),
                            tag,
                        )
                });
                let Some(index) = found else {
                    let text = "an answer by nobody that something is waiting for";
                    return Err(Rejection::new(Code::Peer, "F9", text));
                };
                let did = self.offers[index].did.clone();
                self.offer(id, index, now);
                self.tell(SendEvent::Found { did });
                Ok(())
            }
            Frame::Taken { digest } => {
                let index = link.offered.map(|(index, _)| index);
                let offer = index.and_then(|index| self.offers.get_mut(index));
                let Some(offer) = offer.filter(|offer| offer.digest == *digest) else {
                    let text = "an answer to something that was not offered";
                    return Err(Rejection::new(Code::Format, "F9", text));
                };
                let did = offer.did.clone();
                if !std::mem::replace(&mut offer.delivered, true) {
                    self.go_on(id, did, now);
                }
                Ok(())
            }
            _ => Err(Rejection::new(
                Code::Format,
                "F9",
                "a frame came out of order",
            )),
        }
    }

    /// After one delivery: the next offer to the same DID, and the news.
    fn go_on(&mut self, link: LinkId, did: Did, now: Instant) {
        let waiting = || self.offers.iter().enumerate().filter(|(_, o)| !o.delivered);
        let all = waiting().next().is_none();
        let next = waiting()
            .find(|(_, offer)| offer.did == did)
            .map(|(index, _)| index);
        if let Some(index) = next {
            self.offer(link, index, now);
        }
        self.tell(SendEvent::Delivered { did });
        if all {
            self.tell(SendEvent::AllDelivered);
        }
    }

    fn offer(&mut self, id: LinkId, index: usize, now: Instant) {
        if let (Some(link), Some(offer)) = (self.links.get_mut(&id), self.offers.get(index)) {
            link.offered = Some((index, now));
            let text = offer.text.clone();
            self.out.send(id, &Frame::Offer { text });
        }
    }

    fn stuck(&self) -> impl Iterator<Item = (Instant, LinkId)> {
        let links = self.links.iter();
        links.filter_map(|(id, link)| {
            let (index, at) = link.offered?;
            let offer = self.offers.get(index).filter(|offer| !offer.delivered)?;
            let arrives = Duration::from_secs((offer.text.len() / SLOWEST_LINK) as u64);
            Some((at + DELIVERY_WAIT + arrives, *id))
        })
    }
}

impl Contact for Sender {
    type Event = SendEvent;

    fn handle_link_up(&mut self, link: LinkId, remote: PeerId, now: Instant) {
        if self.links.len() >= MAX_LOBBY_LINKS {
            let idle = self.links.iter().filter(|(_, link)| link.offered.is_none());
            let oldest = idle.min_by_key(|(_, link)| link.since).map(|(id, _)| *id);
            let Some(oldest) = oldest else {
                self.out.close(link, false);
                return;
            };
            self.links.remove(&oldest);
            self.out.close(oldest, false);
        }
        let state = Link {
            remote,
            since: now,
            frames: 0,
            offered: None,
        };
        self.links.insert(link, state);
        self.greet(link, &remote);
    }

    fn handle_frame(&mut self, link: LinkId, bytes: &[u8], _: UnixTime, now: Instant) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.frames = state.frames.saturating_add(1);
        let taken = if state.frames > MAX_POST_FRAMES {
            let text = "sends more frames than the post needs";
            Err(Rejection::new(Code::Overflow, "F9", text))
        } else {
            Frame::parse(bytes).and_then(|frame| self.take(link, &frame, now))
        };
        if let Err(rejection) = taken {
            self.links.remove(&link);
            self.out.close(link, true);
            self.tell(SendEvent::Refused(rejection));
        }
    }

    fn handle_link_down(&mut self, link: LinkId, _: Instant) {
        self.links.remove(&link);
    }

    fn handle_timeout(&mut self, now: Instant) {
        let stuck: Vec<LinkId> = self
            .stuck()
            .filter(|(at, _)| *at <= now)
            .map(|(_, link)| link)
            .collect();
        for link in stuck {
            self.links.remove(&link);
            self.out.close(link, false);
        }
    }

    fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.out.transmits.pop_front()
    }

    fn poll_close(&mut self) -> Option<Closing> {
        self.out.closings.pop_front()
    }

    fn poll_event(&mut self) -> Option<SendEvent> {
        self.out.poll_event()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let first = self.stuck().map(|(at, _)| at).min()?;
        Some((first, "an invitation that was not acknowledged"))
    }
}
