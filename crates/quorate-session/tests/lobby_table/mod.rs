//! A table of one host and its applicants: real cores, links in memory, full control over what is delivered and when time
//! passes, and attackers who say what they like.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test binaries"
)]

use super::common::{START, draft, key};

use quorate_identity::{
    B64, Did, DidKeyResolver, Rejection, Resolver, SigningKey, UnixTime, Verified, sign,
};
use quorate_session::{
    Apply, Bundle, Call, CallDraft, Closing, Contact, Invitation, LinkId, PartyDraft, PeerId,
    ProgramSource, RendezvousSecret, Ticket,
    lobby::{Applicant, ApplicantEvent, ApplicantId, Frame, Host, HostEvent},
    message::{PROTOCOL_VERSION, close},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

pub const AT: UnixTime = UnixTime(START);

pub fn peer(seed: u8) -> PeerId {
    PeerId::of(&SigningKey::from_seed(&[seed; 32]).public())
}

pub fn host_peer() -> PeerId {
    peer(200)
}

/// The inviter is `key(0)`; applicants are `key(1)`, `key(2)`, …
pub fn call_draft(seats: u16) -> CallDraft {
    let mut terms = draft(1);
    terms.parties.truncate(1);
    let apply_by = terms.time.join_by.plus_seconds(-60);
    CallDraft {
        terms,
        seats,
        name: "Noord Hospital".into(),
        peer: host_peer(),
        apply_by,
    }
}

pub fn call(seats: u16) -> Verified<Call> {
    sign(call_draft(seats).build([7; 16]).unwrap(), &key(0)).unwrap()
}

/// A call for the program that this is the source of; `main.py` is started.
pub fn call_of(seats: u16, source: &ProgramSource) -> Verified<Call> {
    let mut draft = call_draft(seats);
    draft.terms.program.manifest = source.digest();
    draft.terms.program.entry = "main.py".into();
    sign(draft.build([7; 16]).unwrap(), &key(0)).unwrap()
}

pub fn source(text: &str) -> ProgramSource {
    ProgramSource::new([("main.py", text.as_bytes())]).unwrap()
}

pub fn ticket(call: &Verified<Call>) -> Ticket {
    Ticket::new(host_peer(), &call.digest(), &[]).unwrap()
}

pub fn party(did: &Did, name: &str) -> PartyDraft {
    let keys = DidKeyResolver.resolve(did).unwrap().unwrap();
    PartyDraft {
        did: did.clone(),
        name: name.into(),
        keys: keys.keys.iter().map(|k| k.key.thumbprint()).collect(),
    }
}

pub fn secret() -> RendezvousSecret {
    RendezvousSecret::new([0x77; 32])
}

/// The closed invitation for the inviter and `others`.
pub fn closed(call: &Verified<Call>, others: &[Did]) -> Invitation {
    let mut parties = vec![party(&call.issuer, "noord")];
    parties.extend(
        others
            .iter()
            .enumerate()
            .map(|(i, did)| party(did, &format!("party-{i}"))),
    );
    close(call, parties, vec![], [8; 16], [9; 32], &secret(), AT).unwrap()
}

pub fn bundle_of(invitation: &str) -> String {
    let bundle = Bundle {
        invitation: invitation.into(),
        secret: secret(),
        hints: vec![],
        program: None,
    };
    bundle.encode()
}

pub fn bundle(call: &Verified<Call>, others: &[Did]) -> String {
    bundle_of(sign(closed(call, others), &key(0)).unwrap().text())
}

/// One applicant at the table.
pub struct Seat {
    pub core: Applicant,
    pub peer: PeerId,
    pub link: Option<LinkId>,
    pub events: Vec<ApplicantEvent>,
}

pub struct Table {
    pub host: Host,
    pub call: Verified<Call>,
    pub events: Vec<HostEvent>,
    pub seats: Vec<Seat>,
    /// What the host sent to links that no applicant core holds.
    pub strangers: BTreeMap<LinkId, Vec<Frame>>,
    pub closed: Vec<Closing>,
    pub next: u64,
    pub now: Instant,
    pub at: UnixTime,
}

impl Table {
    pub fn new(seats: u16) -> Self {
        Self::of(call(seats), None)
    }

    pub fn with_program(seats: u16, source: &ProgramSource) -> Self {
        Self::of(call_of(seats, source), Some(source))
    }

    fn of(call: Verified<Call>, program: Option<&ProgramSource>) -> Self {
        let now = Instant::now();
        Self {
            host: Host::new(call.clone(), program, [1; 32], AT, now).unwrap(),
            call,
            events: vec![],
            seats: vec![],
            strangers: BTreeMap::new(),
            closed: vec![],
            next: 1,
            now,
            at: AT,
        }
    }

    /// A lobby whose inviter knows these.
    #[allow(dead_code)] // not every test file has contacts
    pub fn knowing(seats: u16, contacts: impl IntoIterator<Item = Did>) -> Self {
        let mut table = Self::new(seats);
        let host = Host::new(table.call.clone(), None, [1; 32], AT, table.now).unwrap();
        table.host = host.knowing(contacts);
        table
    }

    pub fn sit(&mut self, key: SigningKey, peer: PeerId) -> usize {
        let seed = [u8::try_from(self.seats.len()).unwrap(); 32];
        let core = Applicant::new(key, ticket(&self.call), peer, seed);
        self.seats.push(Seat {
            core,
            peer,
            link: None,
            events: vec![],
        });
        self.seats.len() - 1
    }

    /// An applicant with `key(n)` and a PeerId of its own.
    pub fn newcomer(&mut self, n: usize) -> usize {
        self.sit(key(n), peer(u8::try_from(100 + n).unwrap()))
    }

    pub fn connect(&mut self, seat: usize) {
        let link = LinkId(self.next);
        self.next += 1;
        self.seats[seat].link = Some(link);
        let remote = self.seats[seat].peer;
        self.host.handle_link_up(link, remote, self.now);
        self.seats[seat]
            .core
            .handle_link_up(link, host_peer(), self.now);
        self.run();
    }

    pub fn cut(&mut self, seat: usize) {
        let link = self.seats[seat].link.take().unwrap();
        self.host.handle_link_down(link, self.now);
        self.seats[seat].core.handle_link_down(link, self.now);
        self.run();
    }

    /// A link of somebody who speaks by hand.
    pub fn stranger(&mut self, remote: PeerId) -> LinkId {
        let link = LinkId(self.next);
        self.next += 1;
        self.strangers.insert(link, vec![]);
        self.host.handle_link_up(link, remote, self.now);
        self.run();
        link
    }

    pub fn say(&mut self, link: LinkId, frame: &Frame) {
        self.bytes(link, &frame.encode());
    }

    pub fn bytes(&mut self, link: LinkId, bytes: &[u8]) {
        self.host.handle_frame(link, bytes, self.at, self.now);
        self.run();
    }

    /// Delivers until nobody has anything to say.
    pub fn run(&mut self) {
        loop {
            let mut quiet = true;
            while let Some((link, bytes)) = self.host.poll_transmit() {
                quiet = false;
                if let Some(seat) = self.seats.iter_mut().find(|s| s.link == Some(link)) {
                    seat.core.handle_frame(link, &bytes, self.at, self.now);
                } else if let Some(heard) = self.strangers.get_mut(&link) {
                    heard.push(Frame::parse(&bytes).unwrap());
                }
            }
            for seat in &mut self.seats {
                while let Some((link, bytes)) = seat.core.poll_transmit() {
                    quiet = false;
                    assert_eq!(Some(link), seat.link);
                    self.host.handle_frame(link, &bytes, self.at, self.now);
                }
                while let Some(event) = seat.core.poll_event() {
                    seat.events.push(event);
                }
            }
            while let Some(event) = self.host.poll_event() {
                self.events.push(event);
            }
            if quiet {
                break;
            }
        }
        let mut cut = vec![];
        while let Some(closing) = self.host.poll_close() {
            self.closed.push(closing);
            cut.push(closing.link);
        }
        for seat in &mut self.seats {
            while let Some(closing) = seat.core.poll_close() {
                cut.push(closing.link);
            }
        }
        for link in cut {
            self.host.handle_link_down(link, self.now);
            for seat in self.seats.iter_mut().filter(|s| s.link == Some(link)) {
                seat.link = None;
                seat.core.handle_link_down(link, self.now);
            }
        }
        while let Some(event) = self.host.poll_event() {
            self.events.push(event);
        }
        for seat in &mut self.seats {
            while let Some(event) = seat.core.poll_event() {
                seat.events.push(event);
            }
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.at = self.at.plus_seconds(i64::try_from(time.as_secs()).unwrap());
        self.host.handle_timeout(self.now);
        for seat in &mut self.seats {
            seat.core.handle_timeout(self.now);
        }
        self.run();
    }

    pub fn apply(&mut self, seat: usize, name: &str) {
        self.apply_with(seat, name, None);
    }

    pub fn apply_with(&mut self, seat: usize, name: &str, card: Option<String>) {
        let (at, now) = (self.at, self.now);
        self.seats[seat].core.apply(name.into(), card, at, now);
        self.run();
    }

    /// Sits, connects, applies.
    pub fn ask(&mut self, n: usize) -> usize {
        let seat = self.newcomer(n);
        self.connect(seat);
        self.apply(seat, &format!("party {n}"));
        seat
    }

    pub fn applied(&self) -> Vec<ApplicantId> {
        let ids = self.events.iter().filter_map(|e| match e {
            HostEvent::Applied { id, .. } => Some(*id),
            _ => None,
        });
        ids.collect()
    }

    pub fn seal(&mut self) {
        let text = bundle(&self.call, &self.host.admitted());
        self.host.seal(&text, self.now).unwrap();
        self.run();
    }

    pub fn refused(&self) -> Vec<&Rejection> {
        let all = self.events.iter().filter_map(|e| match e {
            HostEvent::Refused(rejection) => Some(rejection),
            _ => None,
        });
        all.collect()
    }

    pub fn invitation(&self, seat: usize) -> Option<&Verified<Invitation>> {
        self.seats[seat].events.iter().find_map(|e| match e {
            ApplicantEvent::Invitation { invitation, .. } => Some(&**invitation),
            _ => None,
        })
    }

    pub fn ended(&self, seat: usize) -> Option<&Rejection> {
        self.seats[seat].events.iter().find_map(|e| match e {
            ApplicantEvent::Declined(why) | ApplicantEvent::Closed(why) => Some(why),
            _ => None,
        })
    }

    pub fn words(&self, seat: usize) -> Vec<[&'static str; 3]> {
        let all = self.seats[seat].events.iter().filter_map(|e| match e {
            ApplicantEvent::Asked { words } => Some(*words),
            _ => None,
        });
        all.collect()
    }
}

/// An application as `key(n)` would sign it for these two ends.
pub fn application(call: &Verified<Call>, n: usize, local: PeerId, remote: PeerId) -> Apply {
    Apply {
        v: PROTOCOL_VERSION,
        iss: key(n).did(),
        call: call.digest(),
        name: "somebody".into(),
        local,
        remote,
        n: B64([3; 16]),
        card: None,
        iat: AT,
        exp: AT.plus_seconds(60),
    }
}

pub fn apply_frame(claims: Apply, n: usize) -> Frame {
    let jws = sign(claims, &key(n)).unwrap().text().to_string();
    Frame::Apply { jws }
}

pub fn find(call: &Verified<Call>) -> Frame {
    Frame::Find {
        call: B64(ticket(call).call()),
    }
}
