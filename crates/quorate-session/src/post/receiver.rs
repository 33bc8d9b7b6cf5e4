//! The side of the post that waits for invitations of its contacts.
//!
//! Limits and security: see the module. Keys of pairs are made once; a hello costs one HMAC per contact.

use super::{
    Frame,
    pair::{Mine, PairKey, Says},
    sender::offer_digest,
};
use crate::{
    bundle::Bundle,
    contact::{Closing, Contact, Outbox, resolve},
    limits::{MAX_CONTACTS, MAX_LOBBY_LINKS, MAX_OFFERS_PER_CONTACT, MAX_POST_FRAMES, MAX_TAKEN},
    link::LinkId,
    message::{Invitation, check_envelope},
    peer_id::PeerId,
    seal::{SEALED_PREFIX, SealSecret, open_bundle},
};
use quorate_identity::{
    B64, Code, Did, Digest, Rejection, SigningKey, UnixTime, Unverified, Verified,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

/// What the receiver is told.
#[derive(Clone, Debug)]
pub enum ReceiveEvent {
    /// An invitation: a contact issued and signed it, it is valid, and we are one of its parties.
    Offer {
        /// The contact.
        from: Did,
        /// The bundle, opened if it was sealed.
        bundle: Box<Bundle>,
        /// The invitation in it.
        invitation: Box<Verified<Invitation>>,
    },
    /// Something that a contact or somebody else sent was refused.
    Refused(Rejection),
}

struct Link {
    remote: PeerId,
    since: Instant,
    frames: u32,
    greeted: bool,
    /// The contact that proved itself, by number.
    contact: Option<usize>,
}

/// The side of the post that waits for invitations of its contacts.
pub struct Receiver {
    me: Did,
    seal: SealSecret,
    local: PeerId,
    contacts: Vec<(Did, PairKey)>,
    links: BTreeMap<LinkId, Link>,
    taken: VecDeque<Digest>,
    /// Invitations shown, by number of the contact.
    shown: BTreeMap<usize, usize>,
    out: Outbox<ReceiveEvent>,
}

impl Receiver {
    /// Waits for invitations of `contacts`; those whose key is not in the DID itself cannot be recognized and are returned.
    pub fn new(
        key: &SigningKey,
        contacts: &[Did],
        local: PeerId,
    ) -> Result<(Self, Vec<Did>), Rejection> {
        if contacts.len() > MAX_CONTACTS {
            let text = format!("more than {MAX_CONTACTS} contacts");
            return Err(Rejection::new(Code::Limit, "F9", text));
        }
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        let me = key.did();
        for did in contacts.iter().filter(|did| **did != me) {
            match PairKey::new(key, did) {
                Ok(pair) => known.push((did.clone(), pair)),
                Err(_) => unknown.push(did.clone()),
            }
        }
        let receiver = Self {
            me,
            seal: SealSecret::of(key),
            local,
            contacts: known,
            links: BTreeMap::new(),
            taken: VecDeque::new(),
            shown: BTreeMap::new(),
            out: Outbox::new(),
        };
        Ok((receiver, unknown))
    }

    fn tell(&mut self, event: ReceiveEvent) {
        self.out
            .tell(event, |e| matches!(e, ReceiveEvent::Refused(_)));
    }

    fn take(&mut self, id: LinkId, frame: Frame, at: UnixTime) -> Result<(), Rejection> {
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        match frame {
            Frame::Hello { tags } if !link.greeted => {
                link.greeted = true;
                self.recognize(id, &tags);
                Ok(())
            }
            Frame::Offer { text } => match link.contact {
                Some(contact) => self.read(id, contact, &text, at),
                None => Err(Rejection::new(
                    Code::NotMember,
                    "F9",
                    "an offer by a stranger",
                )),
            },
            _ => Err(Rejection::new(
                Code::Format,
                "F9",
                "a frame came out of order",
            )),
        }
    }

    /// Answers the first contact whose tag is there; nobody else gets an answer.
    fn recognize(&mut self, id: LinkId, tags: &[B64<16>]) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let tags: BTreeSet<&B64<16>> = tags.iter().collect();
        let (local, remote) = (self.local, link.remote);
        let found = self.contacts.iter().position(|(_, pair)| {
            tags.contains(&pair.tag(Says::Offer, Mine::Receiver, &remote, &local))
        });
        if let Some(contact) = found {
            link.contact = Some(contact);
            let tag = self.contacts[contact]
                .1
                .tag(Says::Answer, Mine::Receiver, &remote, &local);
            self.out.send(id, &Frame::Mine { tag });
        }
    }

    fn read(
        &mut self,
        id: LinkId,
        contact: usize,
        text: &str,
        at: UnixTime,
    ) -> Result<(), Rejection> {
        let from = self.contacts[contact].0.clone();
        let digest = offer_digest(text);
        if !self.taken.contains(&digest) {
            if self.shown.get(&contact).copied().unwrap_or(0) >= MAX_OFFERS_PER_CONTACT {
                let text =
                    format!("a contact offers more than {MAX_OFFERS_PER_CONTACT} invitations");
                return Err(Rejection::new(Code::Limit, "F9", text).about(from));
            }
            let (bundle, invitation) = self
                .open(&from, text, at)
                .map_err(|r| r.about(from.clone()))?;
            if self.taken.len() >= MAX_TAKEN {
                self.taken.pop_front();
            }
            self.taken.push_back(digest);
            *self.shown.entry(contact).or_default() += 1;
            self.tell(ReceiveEvent::Offer {
                from,
                bundle: Box::new(bundle),
                invitation: Box::new(invitation),
            });
        }
        self.out.send(id, &Frame::Taken { digest });
        Ok(())
    }

    fn open(
        &self,
        from: &Did,
        text: &str,
        at: UnixTime,
    ) -> Result<(Bundle, Verified<Invitation>), Rejection> {
        let bundle = if text.trim_start().starts_with(SEALED_PREFIX) {
            open_bundle(text, &self.seal)?
        } else {
            Bundle::parse(text)?
        };
        let invitation = Unverified::<Invitation>::parse(&bundle.invitation)?;
        if invitation.issuer() != from {
            let text = "a contact offers an invitation of somebody else";
            return Err(Rejection::new(Code::Peer, "F9", text));
        }
        check_envelope(invitation.claims_unproven())?;
        let invitation = invitation.verify(&resolve(from)?, at)?;
        if invitation.subject.pid_of(&self.me).is_none() {
            let text = "a contact offers an invitation that is not for us";
            return Err(Rejection::new(Code::NotInvited, "F9", text));
        }
        if bundle.secret.commitment() != invitation.subject.rendezvous.sc {
            let text = "the bundle's secret is not the one that the invitation names";
            return Err(Rejection::new(Code::Format, "F9", text));
        }
        if let Some(source) = &bundle.program {
            source.check(&invitation.subject.program)?;
        }
        if at > invitation.subject.time.join_by {
            let text = "a contact offers an invitation that nobody can join any more";
            return Err(Rejection::new(Code::Time, "F9", text));
        }
        Ok((bundle, invitation))
    }
}

impl Contact for Receiver {
    type Event = ReceiveEvent;

    fn handle_link_up(&mut self, link: LinkId, remote: PeerId, now: Instant) {
        if self.links.len() >= MAX_LOBBY_LINKS {
            let idle = self.links.iter().filter(|(_, link)| link.contact.is_none());
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
            greeted: false,
            contact: None,
        };
        self.links.insert(link, state);
    }

    fn handle_frame(&mut self, link: LinkId, bytes: &[u8], at: UnixTime, _: Instant) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.frames = state.frames.saturating_add(1);
        let taken = if state.frames > MAX_POST_FRAMES {
            let text = "sends more frames than the post needs";
            Err(Rejection::new(Code::Overflow, "F9", text))
        } else {
            Frame::parse(bytes).and_then(|frame| self.take(link, frame, at))
        };
        if let Err(rejection) = taken {
            self.links.remove(&link);
            self.out.close(link, true);
            self.tell(ReceiveEvent::Refused(rejection));
        }
    }

    fn handle_link_down(&mut self, link: LinkId, _: Instant) {
        self.links.remove(&link);
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.out.transmits.pop_front()
    }

    fn poll_close(&mut self) -> Option<Closing> {
        self.out.closings.pop_front()
    }

    fn poll_event(&mut self) -> Option<ReceiveEvent> {
        self.out.poll_event()
    }

    /// Silent links cost little and may belong to a sender that has something later; they are pushed out by new ones.
    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }
}
