//! When a party publishes its whereabouts and when it looks for the others'.
//!
//! ```text
//!                  here(addresses)                        linked(pid, true)
//!   own place:  idle ─────────────► due ─ Put ─► kept ─ REPUBLISH_INTERVAL ─► due
//!                                    ▲             └ everybody is linked: idle
//!                                    └─ failed: wait, doubled each time
//!   each other: due ─ Get × 3 (b, b-1, b+1) ─► over ─► waiting (doubled each time) ─► due
//!                 ▲                 └ answer ─► checked, higher seq ─► Found
//!                 └──────────────────────────────────────── link lost
//! ```
//! The driver does what [`poll_order`](Seeker::poll_order) and [`poll_event`](Seeker::poll_event) say and answers each
//! order: [`handle_stored`](Seeker::handle_stored), or any number of [`handle_answer`](Seeker::handle_answer) and one
//! [`handle_looked_up`](Seeker::handle_looked_up). An order that is not answered counts as failed after [`ORDER_WAIT`].
//!
//! Limits: [`MAX_LOOKUPS`] gets under way, [`MAX_RENDEZVOUS_ANSWERS`] answers looked at per get. Nothing here grows with what
//! nodes say: of each party one set of addresses is kept, and as many unresolved answers as one get may bring.

use super::{
    hour_of,
    slot::{News, Slot},
};
use crate::{
    bundle::RendezvousSecret,
    limits::{
        LOOKUP_WAIT_FIRST, LOOKUP_WAIT_LAST, MAX_LOOKUPS, MAX_PUBLISHED_ADDRESSES,
        MAX_RENDEZVOUS_ANSWERS, NEXT_HOUR_SECONDS, ORDER_WAIT, PUBLISH_DELAY, PUBLISH_WAIT_FIRST,
        PUBLISH_WAIT_LAST, RENDEZVOUS_HOUR_SECONDS, REPUBLISH_INTERVAL,
    },
    message::{InvitationSubject, InvitedParty, Pid, Whereabouts},
    peer_id::PeerId,
};
use chacha20::ChaCha20Rng;
use quorate_identity::{
    B64, Code, Did, Digest, Rejection, ResolvedDid, SigningKey, UnixTime, Unverified, Verified,
};
use rand_core::{Rng, SeedableRng};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

/// What a seeker is made of.
pub struct SeekerSetup<'a> {
    /// The session.
    pub invitation: &'a InvitationSubject,
    /// Its secret.
    pub secret: &'a RendezvousSecret,
    /// The own long-term key.
    pub key: SigningKey,
    /// The own position.
    pub me: Pid,
    /// Randomness.
    pub seed: [u8; 32],
}

/// What the network is to do.
#[derive(Clone, PartialEq, Eq)]
pub enum SeekerOrder {
    /// Store `value` under `key` until `expires`.
    Put {
        /// Names the order in its answer.
        id: u64,
        /// Where.
        key: [u8; 32],
        /// What.
        value: Vec<u8>,
        /// Until when.
        expires: UnixTime,
    },
    /// Look `key` up.
    Get {
        /// Names the order in its answers.
        id: u64,
        /// Where.
        key: [u8; 32],
    },
}

impl fmt::Debug for SeekerOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { id, .. } => write!(f, "Put({id})"),
            Self::Get { id, .. } => write!(f, "Get({id})"),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeekerEvent {
    /// A party said where it is.
    Found {
        /// Which one.
        pid: Pid,
        /// Its overlay identity.
        peer: PeerId,
        /// Its addresses, the best first.
        addresses: Vec<String>,
    },
    /// The keys of this DID are needed: see [`Seeker::handle_resolved`].
    Resolve(Did),
}

/// Who says that they keep a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// How many nodes.
    pub nodes: usize,
    /// Whether one of those that the user or the invitation named is among them.
    pub by_named: bool,
}

/// What was done so far, to be told when nobody is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Who keeps the own record, at its last publication.
    pub kept: Kept,
    /// Publications that no node took.
    pub not_kept: u32,
    /// Lookups that ended.
    pub looked_up: u32,
    /// Answers that were looked at.
    pub answers: u32,
    /// Answers that were refused.
    pub refused: u32,
    /// Why the last of them was.
    pub last_refusal: Option<Rejection>,
}

/// Publishes one party's whereabouts and looks for the others.
pub struct Seeker {
    secret: RendezvousSecret,
    sid: B64<32>,
    key: SigningKey,
    me: Pid,
    rng: ChaCha20Rng,
    own: Option<Own>,
    seq: u64,
    others: BTreeMap<Pid, Other>,
    keys: BTreeMap<Did, ResolvedDid>,
    under_way: BTreeMap<u64, Pending>,
    next_id: u64,
    orders: VecDeque<SeekerOrder>,
    events: VecDeque<SeekerEvent>,
    tally: Tally,
}

/// What is published.
struct Own {
    peer: PeerId,
    addresses: Vec<String>,
    join: Digest,
    due: Instant,
    failures: u32,
    /// The last hour that it was published for.
    until_hour: u64,
}

/// One other party.
struct Other {
    party: InvitedParty,
    linked: bool,
    due: Instant,
    failures: u32,
    /// Gets under way.
    gets: usize,
    /// The highest `seq` that was believed.
    seq: u64,
    /// Answers that wait for the keys of their signer.
    unresolved: Vec<Unverified<Whereabouts>>,
}

struct Pending {
    until: Instant,
    what: What,
}

enum What {
    Put,
    Get { slot: Box<Slot>, answers: usize },
}

impl Seeker {
    /// One that looks for everybody at once, and publishes after [`here`](Self::here).
    pub fn new(setup: SeekerSetup<'_>, now: Instant) -> Self {
        let SeekerSetup {
            invitation,
            secret,
            key,
            me,
            seed,
        } = setup;
        let pids = (0..=u16::MAX).map(Pid);
        let other = |party: &InvitedParty| Other {
            party: party.clone(),
            linked: false,
            due: now,
            failures: 0,
            gets: 0,
            seq: 0,
            unresolved: Vec::new(),
        };
        let others = pids
            .zip(&invitation.parties)
            .filter(|(pid, _)| *pid != me)
            .map(|(pid, party)| (pid, other(party)))
            .collect();
        Self {
            secret: secret.clone(),
            sid: invitation.sid,
            key,
            me,
            rng: ChaCha20Rng::from_seed(seed),
            own: None,
            seq: 0,
            others,
            keys: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next_id: 1,
            orders: VecDeque::new(),
            events: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Where this party can be reached now, the best address first. Published soon if it changed.
    pub fn here(&mut self, peer: PeerId, addresses: &[String], join: Digest, now: Instant) {
        let addresses: Vec<String> = addresses
            .iter()
            .take(MAX_PUBLISHED_ADDRESSES)
            .cloned()
            .collect();
        let same = |own: &Own| (own.peer, &own.addresses, own.join) == (peer, &addresses, join);
        if self.own.as_ref().is_some_and(same) {
            return;
        }
        self.own = Some(Own {
            peer,
            addresses,
            join,
            due: now + PUBLISH_DELAY,
            failures: 0,
            until_hour: 0,
        });
    }

    /// Whether there is a link to a party that was proven. Who is linked is not looked for.
    pub fn linked(&mut self, pid: Pid, linked: bool, now: Instant) {
        let Some(other) = self.others.get_mut(&pid) else {
            return;
        };
        if std::mem::replace(&mut other.linked, linked) && !linked {
            other.failures = 0;
            other.due = now;
        }
    }

    /// Forgets the waits: the network is another one.
    pub fn hurry(&mut self, now: Instant) {
        for other in self.others.values_mut() {
            other.failures = 0;
            other.due = other.due.min(now);
        }
        if let Some(own) = &mut self.own {
            own.failures = 0;
            own.due = own.due.min(now + PUBLISH_DELAY);
        }
    }

    /// What was done so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What the network is to do next.
    pub fn poll_order(&mut self) -> Option<SeekerOrder> {
        self.orders.pop_front()
    }

    /// What came of it.
    pub fn poll_event(&mut self) -> Option<SeekerEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = self.own.as_ref().filter(|_| self.is_needed());
        let has_room = self.gets() < MAX_LOOKUPS;
        let others = self.others.values().filter(|o| has_room && o.is_idle());
        let waits = self.under_way.values().map(|pending| pending.until);
        own.map(|own| own.due)
            .into_iter()
            .chain(others.map(|other| other.due))
            .chain(waits)
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, at: UnixTime, now: Instant) {
        let late: Vec<u64> = self
            .under_way
            .iter()
            .filter(|(_, pending)| pending.until <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            match self.under_way.get(&id).map(|pending| &pending.what) {
                Some(What::Put) => self.handle_stored(id, Kept::default(), now),
                _ => self.handle_looked_up(id, now),
            }
        }
        self.publish(at, now);
        self.look(at, now);
    }

    /// Who keeps what order `id` gave them. Nodes that nobody named may say so and lie: until a named one keeps it, it is
    /// given out again.
    pub fn handle_stored(&mut self, id: u64, kept: Kept, now: Instant) {
        if !matches!(self.under_way.get(&id), Some(p) if matches!(p.what, What::Put)) {
            return;
        }
        self.under_way.remove(&id);
        let Some(own) = &mut self.own else { return };
        if kept.nodes > 0 {
            self.tally.kept = kept;
        } else {
            self.tally.not_kept = self.tally.not_kept.saturating_add(1);
        }
        if kept.by_named {
            own.failures = 0;
            return;
        }
        let wait = backed_off(PUBLISH_WAIT_FIRST, PUBLISH_WAIT_LAST, own.failures);
        own.failures = own.failures.saturating_add(1);
        own.due = own.due.min(now + around(wait, &mut self.rng));
    }

    /// A node gave `value` for order `id`. What is refused is counted, and told for those who log.
    pub fn handle_answer(&mut self, id: u64, value: &[u8], at: UnixTime) -> Result<(), Rejection> {
        let Some(Pending {
            what: What::Get { slot, answers },
            ..
        }) = self.under_way.get_mut(&id)
        else {
            return Ok(());
        };
        if *answers >= MAX_RENDEZVOUS_ANSWERS {
            return Ok(());
        }
        *answers += 1;
        self.tally.answers = self.tally.answers.saturating_add(1);
        let pid = slot.pid();
        let opened = match self.others.get(&pid) {
            Some(other) => slot.open(&other.party.did, value, at),
            None => return Ok(()),
        };
        let taken = opened.and_then(|parsed| self.take(pid, parsed, at));
        taken.inspect_err(|rejection| {
            self.tally.refused = self.tally.refused.saturating_add(1);
            self.tally.last_refusal = Some(rejection.clone());
        })
    }

    /// No more answers come for order `id`.
    pub fn handle_looked_up(&mut self, id: u64, now: Instant) {
        let Some(What::Get { slot, .. }) = self.under_way.get(&id).map(|p| &p.what) else {
            return;
        };
        let pid = slot.pid();
        self.under_way.remove(&id);
        self.tally.looked_up = self.tally.looked_up.saturating_add(1);
        let Some(other) = self.others.get_mut(&pid) else {
            return;
        };
        other.gets = other.gets.saturating_sub(1);
        if other.gets == 0 {
            let wait = backed_off(LOOKUP_WAIT_FIRST, LOOKUP_WAIT_LAST, other.failures);
            other.failures = other.failures.saturating_add(1);
            other.due = now + around(wait, &mut self.rng);
        }
    }

    /// The keys of `did`, or why there are none.
    pub fn handle_resolved(
        &mut self,
        did: &Did,
        answer: Result<ResolvedDid, Rejection>,
        at: UnixTime,
    ) {
        let found = self.others.iter_mut().find(|(_, o)| o.party.did == *did);
        let Some((pid, other)) = found else { return };
        let (pid, waiting) = (*pid, std::mem::take(&mut other.unresolved));
        match answer {
            Ok(keys) => {
                self.keys.insert(did.clone(), keys);
                for parsed in waiting {
                    if let Err(rejection) = self.take(pid, parsed, at) {
                        self.tally.refused = self.tally.refused.saturating_add(1);
                        self.tally.last_refusal = Some(rejection);
                    }
                }
            }
            Err(rejection) => self.tally.last_refusal = Some(rejection),
        }
    }

    /// Believes whereabouts that are newer than any before, once their signature was checked.
    fn take(
        &mut self,
        pid: Pid,
        parsed: Unverified<Whereabouts>,
        at: UnixTime,
    ) -> Result<(), Rejection> {
        let Some(other) = self.others.get_mut(&pid) else {
            return Ok(());
        };
        if parsed.claims_unproven().seq <= other.seq {
            // What is known already, from another node.
            return Ok(());
        }
        let Some(keys) = self.keys.get(&other.party.did) else {
            if other.unresolved.is_empty() {
                let did = other.party.did.clone();
                self.events.push_back(SeekerEvent::Resolve(did));
            }
            if other.unresolved.len() < MAX_RENDEZVOUS_ANSWERS {
                other.unresolved.push(parsed);
            }
            return Ok(());
        };
        let whereabouts = parsed.verify(keys, at)?;
        if !is_pinned(&other.party, &whereabouts) {
            let text = "the whereabouts are signed with a key that the invitation does not list";
            return Err(Rejection::new(Code::Kid, "S13.8", text).about(other.party.did.clone()));
        }
        other.seq = whereabouts.seq;
        other.failures = 0;
        self.events.push_back(SeekerEvent::Found {
            pid,
            peer: whereabouts.peer,
            addresses: whereabouts.addr.clone(),
        });
        Ok(())
    }

    /// While somebody is missing, others may look for us.
    fn is_needed(&self) -> bool {
        self.others.values().any(|other| !other.linked)
    }

    fn gets(&self) -> usize {
        let is_get = |pending: &&Pending| matches!(pending.what, What::Get { .. });
        self.under_way.values().filter(is_get).count()
    }

    fn publish(&mut self, at: UnixTime, now: Instant) {
        let needed = self.is_needed();
        let Some(own) = self.own.as_mut().filter(|own| needed && own.due <= now) else {
            return;
        };
        own.due = now + REPUBLISH_INTERVAL;
        let hour = hour_of(at);
        let left = RENDEZVOUS_HOUR_SECONDS - at.0.rem_euclid(RENDEZVOUS_HOUR_SECONDS);
        own.until_hour = if left <= NEXT_HOUR_SECONDS {
            hour + 1
        } else {
            // The next hour is published for as soon as it is near.
            let until = u64::try_from(left - NEXT_HOUR_SECONDS).unwrap_or(0);
            own.due = own.due.min(now + Duration::from_secs(until));
            hour
        };
        let clock = u64::try_from(at.0).unwrap_or(0).saturating_mul(1000);
        for hour in hour..=own.until_hour {
            self.seq = clock.max(self.seq + 1);
            let slot = Slot::derive(&self.secret, &self.sid, self.me, hour);
            let news = News {
                seq: self.seq,
                peer: own.peer,
                addresses: &own.addresses,
                join: own.join,
            };
            let value = match slot.publish(&news, &self.key, &mut self.rng, at) {
                Ok(value) => value,
                Err(rejection) => {
                    self.tally.last_refusal = Some(rejection);
                    return;
                }
            };
            let id = self.next_id;
            self.next_id += 1;
            let what = What::Put;
            let until = now + ORDER_WAIT;
            self.under_way.insert(id, Pending { until, what });
            self.orders.push_back(SeekerOrder::Put {
                id,
                key: slot.locator(),
                value,
                expires: at.plus_seconds(crate::limits::RENDEZVOUS_LIFETIME_SECONDS),
            });
        }
    }

    fn look(&mut self, at: UnixTime, now: Instant) {
        let mut room = MAX_LOOKUPS.saturating_sub(self.gets());
        let hour = hour_of(at);
        let mut due: Vec<(Instant, Pid)> = self
            .others
            .iter()
            .filter(|(_, other)| other.is_idle() && other.due <= now)
            .map(|(pid, other)| (other.due, *pid))
            .collect();
        // Who waits longest comes first, or the last parties of a large group would never be looked for.
        due.sort_unstable();
        for (_, pid) in due {
            if room == 0 {
                return;
            }
            for hour in [hour, hour.saturating_sub(1), hour + 1] {
                room = room.saturating_sub(1);
                let slot = Slot::derive(&self.secret, &self.sid, pid, hour);
                let id = self.next_id;
                self.next_id += 1;
                let key = slot.locator();
                let slot = Box::new(slot);
                let what = What::Get { slot, answers: 0 };
                let until = now + ORDER_WAIT;
                self.under_way.insert(id, Pending { until, what });
                self.orders.push_back(SeekerOrder::Get { id, key });
                if let Some(other) = self.others.get_mut(&pid) {
                    other.gets += 1;
                }
            }
            // What is known already is told again in each round: whoever dials may have given it up.
            if let Some(other) = self.others.get_mut(&pid) {
                other.seq = other.seq.saturating_sub(1);
            }
        }
    }
}

impl fmt::Debug for Seeker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seeker")
            .field("me", &self.me)
            .field("under_way", &self.under_way.len())
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

impl Other {
    fn is_idle(&self) -> bool {
        !self.linked && self.gets == 0
    }
}

fn is_pinned(party: &InvitedParty, whereabouts: &Verified<Whereabouts>) -> bool {
    party.keys.contains(&whereabouts.key().thumbprint())
}

fn backed_off(first: Duration, last: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(10)).min(last)
}

/// `wait`, give or take a quarter: parties that started together do not ask together for ever.
fn around(wait: Duration, rng: &mut ChaCha20Rng) -> Duration {
    let quarter = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) / 4;
    wait.saturating_sub(Duration::from_millis(quarter))
        + Duration::from_millis(u64::from(rng.next_u32()) % (2 * quarter + 1))
}
