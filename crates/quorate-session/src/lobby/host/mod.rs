//! The inviter's side of the lobby.
//!
//! ```text
//! link:       Up ─ find ─► Reading ─ apply ─► Applied(id) ─ link gone ─► (waiting: forgotten · admitted: seat kept a while)
//! applicant:  Waiting ─ admit ─► Admitted(place) ─ seal ─► bundle sent ─ taken ─► delivered
//!                └─ refuse ─► declined, its DID is not heard again
//! ```
//! The host signs nothing here: the call was signed before, the closed invitation is signed by the caller.
//!
//! Limits: see the module; whoever only reads can be pushed out by others when there is no room, whoever has applied
//! cannot. Security: see the module.

mod events;
mod frames;

pub use events::{ApplicantId, HostEvent, Misuse};

use super::Frame;
use crate::{
    bundle::Bundle,
    contact::{Closing, Contact, Outbox, note},
    limits::{
        APPLICATION_INTERVAL, DELIVERY_WAIT, LOBBY_FIND_WAIT, LOBBY_READ_WAIT, MAX_APPLICATIONS,
        MAX_CONTACT_APPLICATIONS, MAX_CONTACTS, MAX_LOBBY_FRAMES, MAX_LOBBY_LINKS,
        MAX_REFUSED_APPLICANTS, MAX_UNPROVEN_FRAME_BYTES, SEAT_KEPT,
    },
    link::LinkId,
    message::{Call, CodeText, Invitation},
    peer_id::PeerId,
    source::ProgramSource,
};
use chacha20::ChaCha20Rng;
use quorate_identity::{
    B64, Code, Did, Digest, Rejection, UnixTime, Unverified, Verified, base64url,
};
use rand_core::SeedableRng;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

#[derive(Debug)]
struct Link {
    remote: PeerId,
    since: Instant,
    frames: u32,
    state: LinkState,
}

#[derive(Debug)]
enum LinkState {
    /// Nothing was asked yet.
    Up,
    /// The call was sent, with a commitment to this.
    Reading(B64<32>),
    /// It applied.
    Applied(ApplicantId),
    /// Nothing more is expected of it.
    Done,
}

#[derive(Debug)]
struct Seat {
    did: Did,
    link: Option<LinkId>,
    /// Its place, once admitted.
    place: Option<u16>,
    /// Without a link since then.
    gone: Option<Instant>,
    /// The bundle is on its way since then.
    sent: Option<Instant>,
    delivered: bool,
}

/// The closed invitation as it is sent.
#[derive(Debug)]
struct Sealed {
    text: String,
    inv: Digest,
}

/// The inviter's side of a lobby.
#[derive(Debug)]
pub struct Host {
    call: Verified<Call>,
    prefix: [u8; 16],
    program: Option<String>,
    rng: ChaCha20Rng,
    links: BTreeMap<LinkId, Link>,
    seats: BTreeMap<ApplicantId, Seat>,
    next: u32,
    refused: VecDeque<Did>,
    sealed: Option<Sealed>,
    closed: bool,
    deadline: Instant,
    /// Whom the inviter knows: they have places and turns of their own.
    contacts: BTreeSet<Did>,
    /// Applications that may still come at once.
    strangers: Turns,
    known: Turns,
    all_told: bool,
    out: Outbox<HostEvent>,
}

impl Host {
    /// A lobby for `call`, which names our PeerId. `program` goes out with the call, and must be what the call names.
    pub fn new(
        call: Verified<Call>,
        program: Option<&ProgramSource>,
        seed: [u8; 32],
        at: UnixTime,
        now: Instant,
    ) -> Result<Self, Rejection> {
        if let Some(program) = program {
            program.check(&call.subject.program)?;
        }
        let left = call.subject.time.apply_by.0.saturating_sub(at.0);
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&call.digest().0[..16]);
        Ok(Self {
            prefix,
            program: program.map(|source| base64url::encode(&source.to_cbor())),
            rng: ChaCha20Rng::from_seed(seed),
            links: BTreeMap::new(),
            seats: BTreeMap::new(),
            next: 1,
            refused: VecDeque::new(),
            sealed: None,
            closed: false,
            deadline: now + Duration::from_secs(u64::try_from(left).unwrap_or(0)),
            contacts: BTreeSet::new(),
            strangers: Turns::new(MAX_APPLICATIONS, now),
            known: Turns::new(MAX_CONTACT_APPLICATIONS, now),
            all_told: false,
            out: Outbox::new(),
            call,
        })
    }

    /// Names the inviter's contacts: however many strangers ask, they are heard. Nobody learns who they are.
    #[must_use]
    pub fn knowing(mut self, contacts: impl IntoIterator<Item = Did>) -> Self {
        self.contacts = contacts.into_iter().take(MAX_CONTACTS).collect();
        self
    }

    /// The call.
    pub fn call(&self) -> &Verified<Call> {
        &self.call
    }

    /// DIDs that have a seat, in the order of their admission.
    pub fn admitted(&self) -> Vec<Did> {
        let mut all: Vec<&Seat> = self.seats.values().filter(|s| s.place.is_some()).collect();
        all.sort_by_key(|seat| seat.place);
        all.into_iter().map(|seat| seat.did.clone()).collect()
    }

    /// Applications that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.seats.values().filter(|s| s.place.is_none()).count()
    }

    /// Gives an applicant a seat.
    pub fn admit(&mut self, id: ApplicantId) -> Result<(), Misuse> {
        if self.closed || self.sealed.is_some() {
            return Err(Misuse::Closed);
        }
        let taken: Vec<u16> = self.seats.values().filter_map(|s| s.place).collect();
        let free = self.call.subject.free_seats();
        let place = (0..u16::try_from(free).unwrap_or(u16::MAX)).find(|p| !taken.contains(p));
        let seat = self.seats.get_mut(&id).ok_or(Misuse::Unknown)?;
        if seat.place.is_some() {
            return Ok(());
        }
        let place = place.ok_or(Misuse::Full)?;
        seat.place = Some(place);
        if let Some(link) = seat.link {
            self.out.send(link, &Frame::Admitted { place });
        }
        self.tell(HostEvent::Admitted { id, place });
        if taken.len() + 1 == free {
            self.tell(HostEvent::Full);
        }
        Ok(())
    }

    /// Refuses an applicant that waits, or takes its seat away before the lobby is sealed. Its DID is not heard again.
    pub fn refuse(&mut self, id: ApplicantId, why: &str) -> Result<(), Misuse> {
        if self.sealed.is_some() {
            return Err(Misuse::Closed);
        }
        let seat = self.seats.remove(&id).ok_or(Misuse::Unknown)?;
        if self.refused.len() >= MAX_REFUSED_APPLICANTS {
            self.refused.pop_front();
        }
        self.refused.push_back(seat.did);
        if let Some(link) = seat.link {
            self.decline(link, Code::NotAdmitted, why, true);
        }
        Ok(())
    }

    /// Sends the closed invitation to everybody who has a seat, and declines everybody else. Refused if the lobby is over, or
    /// if the invitation does not replace this call or names others than those who have a seat: somebody may have left since
    /// it was made, and the lobby then goes on.
    pub fn seal(&mut self, bundle: &str, now: Instant) -> Result<(), Rejection> {
        let wrong = |what: &str| Err(Rejection::new(Code::Call, "F8", what));
        if self.closed || self.sealed.is_some() {
            return wrong("the lobby is closed already");
        }
        let parsed = Unverified::<Invitation>::parse(&Bundle::parse(bundle)?.invitation)?;
        let invitation = &parsed.claims_unproven().subject;
        if invitation.supersedes != Some(self.call.digest()) {
            return wrong("the closed invitation does not replace this call");
        }
        let listed = invitation.parties.iter().map(|party| &party.did);
        let guests: BTreeSet<&Did> = listed.filter(|did| **did != self.call.issuer).collect();
        let admitted = self.seats.values().filter(|seat| seat.place.is_some());
        if guests != admitted.map(|seat| &seat.did).collect() {
            return wrong("the closed invitation names others than those who have a seat");
        }
        self.sealed = Some(Sealed {
            text: bundle.trim().to_owned(),
            inv: parsed.digest(),
        });
        let waiting: Vec<ApplicantId> = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.place.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.drop_waiting(id, Code::Full, "all seats are taken");
        }
        let readers: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| matches!(link.state, LinkState::Reading(_)))
            .map(|(id, _)| *id)
            .collect();
        for link in readers {
            self.decline(link, Code::Full, "all seats are taken", false);
        }
        let admitted: Vec<ApplicantId> = self.seats.keys().copied().collect();
        for id in admitted {
            self.deliver(id, now);
        }
        self.note_all_delivered();
        Ok(())
    }

    /// Ends the lobby: everybody who still waits for something is told why.
    pub fn close(&mut self, code: Code, why: &str) {
        self.closed = true;
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            let told = match &self.links[&link].state {
                LinkState::Applied(_) => self.sealed.is_none(),
                LinkState::Reading(_) => true,
                LinkState::Up | LinkState::Done => false,
            };
            if told {
                self.decline(link, code, why, false);
            } else {
                self.out.close(link, false);
            }
        }
        if self.sealed.is_none() {
            self.seats.clear();
        }
    }

    fn tell(&mut self, event: HostEvent) {
        self.out.tell(event, |e| matches!(e, HostEvent::Refused(_)));
    }

    fn decline(&mut self, link: LinkId, code: Code, why: &str, ban: bool) {
        let frame = Frame::Declined {
            code: CodeText(code),
            note: note(why),
        };
        self.out.send(link, &frame);
        self.out.close(link, ban);
        if let Some(state) = self.links.get_mut(&link) {
            state.state = LinkState::Done;
        }
    }

    fn drop_waiting(&mut self, id: ApplicantId, code: Code, why: &str) {
        let Some(seat) = self.seats.remove(&id) else {
            return;
        };
        if let Some(link) = seat.link {
            self.decline(link, code, why, false);
        }
        self.tell(HostEvent::Left { id, did: seat.did });
    }

    fn deliver(&mut self, id: ApplicantId, now: Instant) {
        let (Some(sealed), Some(seat)) = (&self.sealed, self.seats.get_mut(&id)) else {
            return;
        };
        if let Some(link) = seat.link {
            let text = sealed.text.clone();
            seat.sent = Some(now);
            self.out.send(link, &Frame::Bundle { text });
        }
    }

    fn note_all_delivered(&mut self) {
        if self.sealed.is_some() && !self.all_told && self.seats.values().all(|s| s.delivered) {
            self.all_told = true;
            self.tell(HostEvent::AllDelivered);
        }
    }

    /// Closes a link for what it brought.
    fn expel(&mut self, link: LinkId, rejection: Rejection, now: Instant) {
        self.tell(HostEvent::Refused(rejection));
        self.out.close(link, true);
        self.lose(link, now);
        self.links.remove(&link);
    }

    /// Whoever was at the end of `link` is not there any more.
    fn lose(&mut self, link: LinkId, now: Instant) {
        let Some(LinkState::Applied(id)) = self.links.get(&link).map(|l| &l.state) else {
            return;
        };
        let id = *id;
        let Some(seat) = self.seats.get_mut(&id).filter(|s| s.link == Some(link)) else {
            return;
        };
        if seat.place.is_some() {
            seat.link = None;
            seat.sent = None;
            seat.gone = Some(now);
        } else {
            self.free(id);
        }
    }

    fn free(&mut self, id: ApplicantId) {
        if let Some(seat) = self.seats.remove(&id) {
            self.tell(HostEvent::Left { id, did: seat.did });
        }
    }

    /// The link that may be pushed out: the oldest one that has not applied.
    fn make_room(&mut self) -> bool {
        if self.links.len() < MAX_LOBBY_LINKS {
            return true;
        }
        let idle = self
            .links
            .iter()
            .filter(|(_, link)| !matches!(link.state, LinkState::Applied(_)))
            .min_by_key(|(_, link)| link.since)
            .map(|(id, _)| *id);
        if let Some(link) = idle {
            self.links.remove(&link);
            self.out.close(link, false);
        }
        idle.is_some()
    }

    /// What is due, with its time.
    fn due(&self) -> impl Iterator<Item = (Instant, Due)> {
        let open = !self.closed && self.sealed.is_none();
        let links = self.links.iter();
        let silent = links.filter_map(|(id, link)| {
            let wait = match link.state {
                LinkState::Up => LOBBY_FIND_WAIT,
                LinkState::Reading(_) => LOBBY_READ_WAIT,
                LinkState::Applied(_) | LinkState::Done => return None,
            };
            Some((link.since + wait, Due::Silent(*id)))
        });
        let seats = self.seats.iter();
        let gone = seats.clone().filter_map(move |(id, seat)| {
            let gone = seat.gone.filter(|_| open)?;
            Some((gone + SEAT_KEPT, Due::Gone(*id)))
        });
        let stuck = seats.filter_map(|(_, seat)| {
            let sent = seat.sent.filter(|_| !seat.delivered)?;
            Some((sent + DELIVERY_WAIT, Due::Stuck(seat.link?)))
        });
        let end = open.then_some((self.deadline, Due::End));
        silent.chain(gone).chain(stuck).chain(end)
    }
}

/// How many applications may come at once; one more after each [`APPLICATION_INTERVAL`].
#[derive(Debug)]
struct Turns {
    most: usize,
    left: usize,
    since: Instant,
}

impl Turns {
    fn new(most: usize, now: Instant) -> Self {
        Self {
            most,
            left: most,
            since: now,
        }
    }

    /// Whether one more application may be shown to a person now.
    fn take(&mut self, now: Instant) -> bool {
        while self.left < self.most && self.since + APPLICATION_INTERVAL <= now {
            self.left += 1;
            self.since += APPLICATION_INTERVAL;
        }
        if self.left == self.most {
            self.since = now;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

/// Something that time brings.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// A link that asked for nothing, or over which nobody applied.
    Silent(LinkId),
    /// Somebody with a seat did not come back.
    Gone(ApplicantId),
    /// The bundle was not acknowledged.
    Stuck(LinkId),
    /// Nobody can apply any more.
    End,
}

impl Contact for Host {
    type Event = HostEvent;

    fn handle_link_up(&mut self, link: LinkId, remote: PeerId, now: Instant) {
        if self.closed || !self.make_room() {
            self.out.close(link, false);
            return;
        }
        let state = Link {
            remote,
            since: now,
            frames: 0,
            state: LinkState::Up,
        };
        self.links.insert(link, state);
    }

    fn handle_frame(&mut self, link: LinkId, bytes: &[u8], at: UnixTime, now: Instant) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.frames = state.frames.saturating_add(1);
        let overflow = |text| Err(Rejection::new(Code::Overflow, "F5", text));
        let taken = if state.frames > MAX_LOBBY_FRAMES {
            overflow("sends more frames than an application needs")
        } else if bytes.len() > MAX_UNPROVEN_FRAME_BYTES {
            overflow("sends a larger frame than an application needs")
        } else {
            Frame::parse(bytes).and_then(|frame| self.take(link, frame, at, now))
        };
        if let Err(rejection) = taken {
            self.expel(link, rejection, now);
        }
    }

    fn handle_link_down(&mut self, link: LinkId, now: Instant) {
        self.lose(link, now);
        self.links.remove(&link);
    }

    fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<Due> = self
            .due()
            .filter(|(at, _)| *at <= now)
            .map(|(_, due)| due)
            .collect();
        for due in due {
            match due {
                Due::Silent(link) | Due::Stuck(link) => {
                    self.lose(link, now);
                    self.links.remove(&link);
                    self.out.close(link, false);
                }
                Due::Gone(id) => self.free(id),
                Due::End => {
                    self.close(Code::Time, "nobody can apply any more");
                    let text = "the seats were not filled in time";
                    self.tell(HostEvent::Closed(Rejection::new(Code::Time, "F7", text)));
                }
            }
        }
    }

    fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.out.transmits.pop_front()
    }

    fn poll_close(&mut self) -> Option<Closing> {
        self.out.closings.pop_front()
    }

    fn poll_event(&mut self) -> Option<HostEvent> {
        self.out.poll_event()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let first = self.due().min_by_key(|(at, _)| *at)?;
        let what = match first.1 {
            Due::Silent(_) => "a link that asks for nothing",
            Due::Gone(_) => "a seat whose owner is gone",
            Due::Stuck(_) => "an invitation that was not acknowledged",
            Due::End => "the end of applications",
        };
        Some((first.0, what))
    }
}
