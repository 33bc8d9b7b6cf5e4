//! The side of the lobby that holds a ticket.
//!
//! ```text
//! Finding ─ call verified ─► Reading ─ apply() ─► Asking ─ heard ─► Asked ─ admitted ─► Admitted ─ bundle ─► Invited
//!    ▲                          │                   │                │          │
//!    └── the link is lost: found again, asked again over the new link ◄─────────┘        declined, expired ─► Over
//! ```
//! Limits: [`MAX_LOBBY_ANSWERS`] frames per link, [`LOBBY_CALL_WAIT`] for the call, [`LOBBY_ANSWER_WAIT`] for each other answer that no person has to give; at most
//! until the call's deadlines. A host that has too much to do is asked again after [`LOBBY_RETRY_WAIT`]. Security: see the module. Any breach by the host ends the application: the host is
//! authenticated by the ticket, so it is not somebody else's doing.

use super::Frame;
use crate::{
    bundle::Bundle,
    contact::{Closing, Contact, Outbox, resolve},
    limits::{
        APPLY_LIFETIME_SECONDS, LOBBY_ANSWER_WAIT, LOBBY_CALL_WAIT, LOBBY_RETRY_WAIT,
        MAX_LOBBY_ANSWERS, SEAT_SAID_WAIT,
    },
    link::LinkId,
    message::{
        Apply, Call, CodeText, Invitation, PROTOCOL_VERSION, check_call_envelope, check_closed,
    },
    peer_id::PeerId,
    source::ProgramSource,
    ticket::Ticket,
    words::{ADMISSION_WORDS, admission_commitment, admission_words},
};
use chacha20::ChaCha20Rng;
use quorate_identity::{
    B64, CLOCK_SKEW_SECONDS, Code, Digest, Rejection, SigningKey, UnixTime, Unverified, Verified,
    base64url, sign,
};
use rand_core::{Rng, SeedableRng};
use std::time::{Duration, Instant};

/// What the applicant is told.
#[derive(Clone, Debug)]
pub enum ApplicantEvent {
    /// The inviter's lobby is reached.
    Found,
    /// The link to it is lost; it is looked for again.
    Lost,
    /// This is what the ticket points at. Nothing was told about us yet.
    Call {
        /// The call, verified.
        call: Box<Verified<Call>>,
        /// The program's source, if it came along: it is the one that the call names.
        program: Option<ProgramSource>,
    },
    /// The inviter sees our application, with these words.
    Asked {
        /// The inviter sees the same ones.
        words: [&'static str; ADMISSION_WORDS],
    },
    /// We have a seat.
    Admitted {
        /// How many were admitted before.
        place: u16,
    },
    /// The closed invitation: verified, with the terms of the call, and we are in it.
    Invitation {
        /// The bundle it came in.
        bundle: Box<Bundle>,
        /// The invitation.
        invitation: Box<Verified<Invitation>>,
    },
    /// Too many ask the inviter at present; it is asked again soon.
    Busy(Rejection),
    /// The inviter said no; it is over.
    Declined(Rejection),
    /// It is over for another reason.
    Closed(Rejection),
}

/// What a person decided to ask with.
#[derive(Clone, Debug)]
struct Wish {
    name: String,
    card: Option<String>,
}

/// What happened on the present link.
#[derive(Debug)]
struct Host {
    link: LinkId,
    frames: u32,
    commit: Option<Digest>,
    application: Option<Digest>,
    heard: bool,
    /// An answer that needs no person must come by then.
    answer_by: Option<Instant>,
    /// Nothing is asked before this time.
    ask_at: Option<Instant>,
    /// The words of an application by somebody who had a seat: to be compared if the seat is not said to be kept by then.
    words: Option<([&'static str; ADMISSION_WORDS], Instant)>,
}

/// The side of a lobby that holds a ticket.
#[derive(Debug)]
pub struct Applicant {
    key: SigningKey,
    ticket: Ticket,
    local: PeerId,
    rng: ChaCha20Rng,
    host: Option<Host>,
    call: Option<Verified<Call>>,
    wish: Option<Wish>,
    place: Option<u16>,
    invited: Option<Digest>,
    /// The inviter had too much to do; it is asked again at this time.
    again: Option<Instant>,
    over: bool,
    /// The call's deadline: for admission, then for the session to begin.
    deadline: Option<Instant>,
    out: Outbox<ApplicantEvent>,
}

impl Applicant {
    /// Looks for the call of `ticket`; `local` is our PeerId in the overlay.
    pub fn new(key: SigningKey, ticket: Ticket, local: PeerId, seed: [u8; 32]) -> Self {
        Self {
            key,
            ticket,
            local,
            rng: ChaCha20Rng::from_seed(seed),
            host: None,
            call: None,
            wish: None,
            place: None,
            invited: None,
            again: None,
            over: false,
            deadline: None,
            out: Outbox::new(),
        }
    }

    /// Asks for a seat, now or when the lobby is reached again. To be called after a person read the call.
    pub fn apply(&mut self, name: String, card: Option<String>, at: UnixTime, now: Instant) {
        self.wish = Some(Wish { name, card });
        self.ask(at, now);
    }

    /// Gives up; the inviter is told.
    pub fn leave(&mut self) {
        if let Some(host) = self.host.take() {
            self.out.send(host.link, &Frame::Leave {});
            self.out.close(host.link, false);
        }
        self.over = true;
    }

    fn tell(&mut self, event: ApplicantEvent) {
        self.out.tell(event, |e| {
            matches!(
                e,
                ApplicantEvent::Found | ApplicantEvent::Lost | ApplicantEvent::Busy(_)
            )
        });
    }

    fn end(&mut self, event: ApplicantEvent, ban: bool) {
        if let Some(host) = self.host.take() {
            self.out.close(host.link, ban);
        }
        self.over = true;
        self.tell(event);
    }

    /// Signs and sends an application, if there is a wish, a verified call and a link that has not seen one.
    fn ask(&mut self, at: UnixTime, now: Instant) {
        let (Some(wish), Some(call), Some(host)) = (&self.wish, &self.call, &mut self.host) else {
            return;
        };
        if host.commit.is_none() || host.application.is_some() || self.over {
            return;
        }
        let mut n = B64([0; 16]);
        self.rng.fill_bytes(&mut n.0);
        let claims = Apply {
            v: PROTOCOL_VERSION,
            iss: self.key.did(),
            call: call.digest(),
            name: wish.name.clone(),
            local: self.local,
            remote: self.ticket.peer(),
            n,
            card: wish.card.clone(),
            iat: at,
            exp: at.plus_seconds(APPLY_LIFETIME_SECONDS),
        };
        match sign(claims, &self.key) {
            Ok(signed) => {
                host.application = Some(signed.digest());
                host.answer_by = Some(now + LOBBY_ANSWER_WAIT);
                let jws = signed.text().to_string();
                self.out.send(host.link, &Frame::Apply { jws });
            }
            Err(rejection) => self.end(ApplicantEvent::Closed(rejection), false),
        }
    }

    fn take(&mut self, frame: Frame, at: UnixTime, now: Instant) -> Result<(), Rejection> {
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        let (applied, heard) = (host.application, host.heard);
        match frame {
            Frame::Call {
                jws,
                commit,
                program,
            } if host.commit.is_none() => {
                host.commit = Some(commit);
                host.answer_by = None;
                self.read_call(&jws, program.as_deref(), at, now)?;
                self.ask(at, now);
            }
            Frame::Heard { reveal } if !heard => {
                let (Some(application), Some(commit)) = (applied, host.commit) else {
                    return Err(unexpected());
                };
                if admission_commitment(&reveal) != commit {
                    let text = "the inviter reveals something else than it had committed to";
                    return Err(Rejection::new(Code::Call, "F7", text));
                }
                host.heard = true;
                host.answer_by = None;
                if let Some(call) = &self.call {
                    let words = admission_words(&call.digest(), &application, &reveal);
                    // Whoever has a seat already was compared before; only the link is new.
                    if self.place.is_some() {
                        host.words = Some((words, now + SEAT_SAID_WAIT));
                    } else {
                        self.tell(ApplicantEvent::Asked { words });
                    }
                }
            }
            Frame::Admitted { place } if heard => {
                host.words = None;
                self.note_seat(place, at, now);
            }
            Frame::Bundle { text } if heard && self.place.is_some() => {
                self.read_bundle(&text, at)?;
            }
            Frame::Declined { code, note } => {
                let rejection = declined(code, note).about_issuer(self.call.as_ref());
                if rejection.code == Code::Limit {
                    self.come_back(rejection, now);
                    return Ok(());
                }
                self.end(ApplicantEvent::Declined(rejection), false);
            }
            _ => return Err(unexpected()),
        }
        Ok(())
    }

    /// Too many ask at present: that passes.
    fn come_back(&mut self, rejection: Rejection, now: Instant) {
        self.again = Some(now + LOBBY_RETRY_WAIT);
        if let Some(host) = self.host.take() {
            self.out.close(host.link, false);
        }
        self.tell(ApplicantEvent::Busy(rejection));
    }

    /// Asks for the call over the present link.
    fn find(&mut self, now: Instant) {
        if let Some(host) = &mut self.host {
            host.ask_at = None;
            host.answer_by = Some(now + LOBBY_CALL_WAIT);
            let call = B64(self.ticket.call());
            self.out.send(host.link, &Frame::Find { call });
        }
    }

    fn note_seat(&mut self, place: u16, at: UnixTime, now: Instant) {
        if let Some(call) = &self.call {
            self.deadline = Some(instant(call.subject.time.join_by, at, now));
        }
        if self.place.replace(place) != Some(place) {
            self.tell(ApplicantEvent::Admitted { place });
        }
    }

    fn read_call(
        &mut self,
        jws: &str,
        program: Option<&str>,
        at: UnixTime,
        now: Instant,
    ) -> Result<(), Rejection> {
        let wrong = |what: &str| Err(Rejection::new(Code::Call, "F6", what));
        let call = Unverified::<Call>::parse(jws)?;
        if !self.ticket.names(&call.digest()) {
            return wrong("the inviter serves another call than the one that the ticket names");
        }
        if self
            .call
            .as_ref()
            .is_some_and(|held| held.digest() != call.digest())
        {
            return wrong("the inviter serves another call than before");
        }
        if call.claims_unproven().subject.peer != self.ticket.peer() {
            return wrong("the call was signed for another lobby");
        }
        check_call_envelope(call.claims_unproven())?;
        let issuer = call.issuer().clone();
        let call = call.verify(&resolve(&issuer)?, at)?;
        if at > call.subject.time.apply_by.plus_seconds(CLOCK_SKEW_SECONDS) && self.place.is_none()
        {
            let text = format!(
                "one could apply until {}",
                call.subject.time.apply_by.rfc3339()
            );
            return Err(Rejection::new(Code::Time, "F6", text).about(issuer));
        }
        let program = match program {
            None => None,
            Some(text) => {
                let source = ProgramSource::from_cbor(&base64url::decode(text)?)?;
                source.check(&call.subject.program)?;
                Some(source)
            }
        };
        if self.call.is_none() {
            self.deadline = Some(instant(call.subject.time.apply_by, at, now));
            self.call = Some(call.clone());
            let call = Box::new(call);
            self.tell(ApplicantEvent::Call { call, program });
        }
        Ok(())
    }

    fn read_bundle(&mut self, text: &str, at: UnixTime) -> Result<(), Rejection> {
        let Some(call) = &self.call else {
            return Err(unexpected());
        };
        let bundle = Bundle::parse(text)?;
        let invitation = Unverified::<Invitation>::parse(&bundle.invitation)?;
        let issuer = invitation.issuer().clone();
        let invitation = invitation.verify(&resolve(&issuer)?, at)?;
        check_closed(call, &invitation, &self.key.did())?;
        if bundle.secret.commitment() != invitation.subject.rendezvous.sc {
            let text = "the bundle's secret is not the one that the invitation names";
            return Err(Rejection::new(Code::Call, "F8", text).about(issuer));
        }
        let inv = invitation.digest();
        if self.invited.is_some_and(|held| held != inv) {
            let text = "the inviter sends a second, different invitation";
            return Err(Rejection::new(Code::Call, "F8", text).about(issuer));
        }
        if let Some(host) = &self.host {
            self.out.send(host.link, &Frame::Taken { inv });
        }
        if self.invited.replace(inv).is_none() {
            self.deadline = None;
            let (bundle, invitation) = (Box::new(bundle), Box::new(invitation));
            self.tell(ApplicantEvent::Invitation { bundle, invitation });
        }
        Ok(())
    }

    fn answer_by(&self) -> Option<Instant> {
        self.host.as_ref().and_then(|host| host.answer_by)
    }
}

impl Contact for Applicant {
    type Event = ApplicantEvent;

    fn handle_link_up(&mut self, link: LinkId, remote: PeerId, now: Instant) {
        if remote != self.ticket.peer() || self.over {
            self.out.close(link, remote != self.ticket.peer());
            return;
        }
        self.host = Some(Host {
            link,
            frames: 0,
            commit: None,
            application: None,
            heard: false,
            answer_by: None,
            ask_at: self.again.take().filter(|at| *at > now),
            words: None,
        });
        if self.host.as_ref().is_some_and(|host| host.ask_at.is_none()) {
            self.find(now);
        }
        self.tell(ApplicantEvent::Found);
    }

    fn handle_frame(&mut self, link: LinkId, bytes: &[u8], at: UnixTime, now: Instant) {
        let Some(host) = self.host.as_mut().filter(|host| host.link == link) else {
            return;
        };
        host.frames = host.frames.saturating_add(1);
        let taken = if host.frames > MAX_LOBBY_ANSWERS {
            let text = "the inviter sends more frames than a lobby needs";
            Err(Rejection::new(Code::Overflow, "F5", text))
        } else {
            Frame::parse(bytes).and_then(|frame| self.take(frame, at, now))
        };
        if let Err(rejection) = taken {
            self.end(ApplicantEvent::Closed(rejection), true);
        }
    }

    fn handle_link_down(&mut self, link: LinkId, _: Instant) {
        if self.host.as_ref().is_some_and(|host| host.link == link) {
            self.host = None;
            self.tell(ApplicantEvent::Lost);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.over {
            return;
        }
        let host = self.host.as_mut();
        if host.is_some_and(|host| host.ask_at.is_some_and(|at| at <= now)) {
            self.find(now);
        }
        let words = self.host.as_mut().and_then(|host| {
            host.words
                .take_if(|(_, at)| *at <= now)
                .map(|(words, _)| words)
        });
        if let Some(words) = words {
            // The seat was given away meanwhile: a person looks at us anew.
            self.place = None;
            self.tell(ApplicantEvent::Asked { words });
        }
        if self.answer_by().is_some_and(|by| by <= now)
            && let Some(host) = self.host.take()
        {
            // It may be an old connection that nobody serves any more; a new one is tried.
            self.out.close(host.link, false);
            self.tell(ApplicantEvent::Lost);
        }
        if self.deadline.is_some_and(|by| by <= now) {
            let text = match self.place {
                None => "the inviter did not answer in time",
                Some(_) => "the inviter did not send the invitation in time",
            };
            let rejection = Rejection::new(Code::Time, "F7", text);
            self.end(ApplicantEvent::Closed(rejection), false);
        }
    }

    fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.out.transmits.pop_front()
    }

    fn poll_close(&mut self) -> Option<Closing> {
        self.out.closings.pop_front()
    }

    fn poll_event(&mut self) -> Option<ApplicantEvent> {
        self.out.poll_event()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.over {
            return None;
        }
        let answer = self.answer_by().map(|at| (at, "an answer of the inviter"));
        let deadline = self.deadline.map(|at| (at, "the end of the call"));
        let host = self.host.as_ref();
        let ask = host.and_then(|host| Some((host.ask_at?, "asking the inviter again")));
        let words = host.and_then(|host| Some((host.words?.1, "the word that the seat is kept")));
        [answer, deadline, ask, words]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }
}

fn unexpected() -> Rejection {
    Rejection::new(
        Code::Format,
        "F5",
        "the inviter sends something out of order",
    )
}

/// A refusal by the inviter: its words, under a code that an inviter may use.
fn declined(CodeText(code): CodeText, note: String) -> Rejection {
    let code = match code {
        Code::Full
        | Code::AlreadyJoined
        | Code::Time
        | Code::Limit
        | Code::Cancelled
        | Code::DidResolve => code,
        _ => Code::NotAdmitted,
    };
    let note = if note.is_empty() {
        "the inviter did not admit you".into()
    } else {
        note
    };
    Rejection::new(code, "F7", note)
}

trait AboutIssuer {
    fn about_issuer(self, call: Option<&Verified<Call>>) -> Self;
}

impl AboutIssuer for Rejection {
    fn about_issuer(self, call: Option<&Verified<Call>>) -> Self {
        match call {
            Some(call) => self.about(call.issuer.clone()),
            None => self,
        }
    }
}

/// When the wall clock will show `deadline`, if it shows `at` now; another clock may be ahead by as much as is allowed.
fn instant(deadline: UnixTime, at: UnixTime, now: Instant) -> Instant {
    let left = deadline
        .plus_seconds(CLOCK_SKEW_SECONDS)
        .0
        .saturating_sub(at.0);
    now + Duration::from_secs(u64::try_from(left).unwrap_or(0))
}
