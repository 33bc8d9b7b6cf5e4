//! What applicants say: finding the call, applying, acknowledging, leaving.
//!
//! Whatever is forged, malformed or out of order is an error, which ends its link; what is honest and cannot be granted is
//! declined with a reason.

use super::{ApplicantId, Host, HostEvent, LinkState, Seat};
use crate::{
    contact::resolve,
    limits::{MAX_APPLICATIONS, MAX_CONTACT_APPLICATIONS},
    link::LinkId,
    lobby::Frame,
    message::{Apply, Card, verify_card},
    words::{admission_commitment, admission_words},
};
use quorate_identity::{B64, Code, Did, Digest, Rejection, UnixTime, Unverified, Verified};
use rand_core::Rng;
use std::time::Instant;

impl Host {
    pub(super) fn take(
        &mut self,
        link: LinkId,
        frame: Frame,
        at: UnixTime,
        now: Instant,
    ) -> Result<(), Rejection> {
        let unexpected = |what: &str| {
            let text = format!("{what} came out of order");
            Err(Rejection::new(Code::Format, "F5", text))
        };
        let Some(state) = self.links.get(&link).map(|l| &l.state) else {
            return Ok(());
        };
        match (frame, state) {
            // What was sent before the answer arrived.
            (_, LinkState::Done) => Ok(()),
            (Frame::Find { call }, LinkState::Up) => self.show(link, call, at),
            (Frame::Apply { jws }, LinkState::Reading(reveal)) => {
                let reveal = *reveal;
                self.hear(link, &jws, reveal, at, now)
            }
            (Frame::Taken { inv }, LinkState::Applied(id)) => {
                let id = *id;
                self.acknowledge(id, inv)
            }
            (Frame::Leave {}, LinkState::Applied(id)) => {
                let id = *id;
                if self.sealed.is_none() {
                    self.free(id);
                }
                self.out.close(link, false);
                Ok(())
            }
            (Frame::Leave {}, _) => {
                self.out.close(link, false);
                Ok(())
            }
            (Frame::Find { .. }, _) => unexpected("a second request for the call"),
            (Frame::Apply { .. }, _) => unexpected("an application"),
            _ => unexpected("a frame"),
        }
    }

    fn show(&mut self, link: LinkId, call: B64<16>, at: UnixTime) -> Result<(), Rejection> {
        if call.0 != self.prefix {
            let text = "somebody asks for another call";
            return Err(Rejection::new(Code::Call, "F6", text));
        }
        // Whoever has a seat and no invitation yet is known by its application only, and is served after the deadline too.
        let over = self.closed || at > self.call.subject.time.apply_by;
        if over && !self.owes_invitation() {
            self.decline(link, Code::Time, "nobody can apply any more", false);
            return Ok(());
        }
        let mut reveal = B64([0; 32]);
        self.rng.fill_bytes(&mut reveal.0);
        let frame = Frame::Call {
            jws: self.call.text().to_string(),
            commit: admission_commitment(&reveal),
            program: self.program.clone(),
        };
        self.out.send(link, &frame);
        if let Some(state) = self.links.get_mut(&link) {
            state.state = LinkState::Reading(reveal);
        }
        Ok(())
    }

    fn owes_invitation(&self) -> bool {
        let mut seats = self.seats.values();
        seats.any(|seat| seat.place.is_some() && !seat.delivered)
    }

    /// An application: forged ones end the link, honest ones that cannot be granted are declined with a reason.
    fn hear(
        &mut self,
        link: LinkId,
        jws: &str,
        reveal: B64<32>,
        at: UnixTime,
        now: Instant,
    ) -> Result<(), Rejection> {
        let Some(remote) = self.links.get(&link).map(|l| l.remote) else {
            return Ok(());
        };
        let application = Unverified::<Apply>::parse(jws)?;
        let claims = application.claims_unproven();
        let did = claims.iss.clone();
        if claims.call != self.call.digest() {
            let text = "the application is for another call";
            return Err(Rejection::new(Code::Call, "F7", text).about(did));
        }
        if claims.local != remote || claims.remote != self.call.subject.peer {
            let text = "the application was made for another connection";
            return Err(Rejection::new(Code::Peer, "F7", text).about(did));
        }
        // A DID that cannot be resolved here is no fault of the applicant.
        let keys = match resolve(&did) {
            Ok(keys) => keys,
            Err(rejection) => {
                self.decline(link, rejection.code, &rejection.detail, false);
                return Ok(());
            }
        };
        let verified = application.verify(&keys, at).and_then(|application| {
            let card = application.card.as_deref();
            let card = card.map(|text| own_card(text, &did, at)).transpose()?;
            Ok((application, card.map(Box::new)))
        });
        let (application, card) = match verified {
            Ok(verified) => verified,
            // A clock that is wrong and a card that ran out are no malice.
            Err(rejection) if rejection.code == Code::Time => {
                self.decline(link, Code::Time, &rejection.detail, false);
                return Ok(());
            }
            Err(rejection) => return Err(rejection),
        };
        if let Some((code, why, ban)) = self.obstacle(&did, at) {
            self.decline(link, code, why, ban);
            return Ok(());
        }
        let back = self.seats.iter().find(|(_, seat)| seat.did == did);
        if let Some(id) = back.map(|(id, _)| *id) {
            self.out.send(link, &Frame::Heard { reveal });
            self.welcome_back(id, link, now);
            return Ok(());
        }
        let turns = if self.contacts.contains(&did) {
            &mut self.known
        } else {
            &mut self.strangers
        };
        if !turns.take(now) {
            let text = "too many ask at once; try again later";
            self.decline(link, Code::Limit, text, false);
            return Ok(());
        }
        self.out.send(link, &Frame::Heard { reveal });
        let id = ApplicantId(self.next);
        self.next = self.next.saturating_add(1);
        let seat = Seat {
            did: did.clone(),
            link: Some(link),
            place: None,
            gone: None,
            sent: None,
            delivered: false,
        };
        self.seats.insert(id, seat);
        if let Some(state) = self.links.get_mut(&link) {
            state.state = LinkState::Applied(id);
        }
        self.tell(HostEvent::Applied {
            id,
            did,
            name: application.name.clone(),
            words: admission_words(&self.call.digest(), &application.digest(), &reveal),
            card,
        });
        Ok(())
    }

    /// Why the holder of `did` cannot wait for an answer, and whether it need not come back.
    fn obstacle(&self, did: &Did, at: UnixTime) -> Option<(Code, &'static str, bool)> {
        let known = self.seats.values().find(|seat| seat.did == *did);
        let taken = self.seats.values().filter(|s| s.place.is_some()).count();
        if *did == self.call.issuer {
            return Some((
                Code::AlreadyJoined,
                "this is the inviter's own identity",
                true,
            ));
        }
        if let Some(seat) = known {
            let text = "this identity asks from another place already";
            return seat
                .link
                .is_some()
                .then_some((Code::AlreadyJoined, text, false));
        }
        if self.refused.contains(did) {
            return Some((Code::NotAdmitted, "the inviter did not admit you", true));
        }
        if self.closed || at > self.call.subject.time.apply_by {
            return Some((Code::Time, "nobody can apply any more", false));
        }
        if self.sealed.is_some() || taken >= self.call.subject.free_seats() {
            return Some((Code::Full, "all seats are taken", false));
        }
        let more = if self.contacts.contains(did) {
            MAX_CONTACT_APPLICATIONS
        } else {
            0
        };
        if self.waiting() >= MAX_APPLICATIONS + more {
            let text = "too many wait for an answer already; try again later";
            return Some((Code::Limit, text, false));
        }
        None
    }

    /// Somebody with a seat is there again, over a new link that it proved to be its own.
    fn welcome_back(&mut self, id: ApplicantId, link: LinkId, now: Instant) {
        let Some(seat) = self.seats.get_mut(&id) else {
            return;
        };
        seat.link = Some(link);
        seat.gone = None;
        let place = seat.place;
        if let Some(state) = self.links.get_mut(&link) {
            state.state = LinkState::Applied(id);
        }
        if let Some(place) = place {
            self.out.send(link, &Frame::Admitted { place });
        }
        self.deliver(id, now);
    }

    fn acknowledge(&mut self, id: ApplicantId, inv: Digest) -> Result<(), Rejection> {
        let (Some(sealed), Some(seat)) = (&self.sealed, self.seats.get_mut(&id)) else {
            let text = "an answer to something that was not sent";
            return Err(Rejection::new(Code::Format, "F5", text));
        };
        if inv != sealed.inv {
            let text = "an answer to another invitation";
            return Err(Rejection::new(Code::Format, "F5", text).about(seat.did.clone()));
        }
        if !std::mem::replace(&mut seat.delivered, true) {
            let did = seat.did.clone();
            self.tell(HostEvent::Delivered { id, did });
            self.note_all_delivered();
        }
        Ok(())
    }
}

/// A card that belongs to the applicant itself.
fn own_card(text: &str, did: &Did, at: UnixTime) -> Result<Verified<Card>, Rejection> {
    let card = verify_card(text, at)?;
    if card.issuer == *did {
        return Ok(card);
    }
    let text = "the card is that of another DID";
    Err(Rejection::new(Code::Kid, "F7", text).about(did.clone()))
}
