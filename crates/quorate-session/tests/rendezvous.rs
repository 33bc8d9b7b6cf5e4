//! Parties that find each other through nodes which nobody trusts: a shelf of records instead of a network.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod common;

use common::{START, draft, invitation_of, key, secret};
use proptest::prelude::*;
use quorate_identity::{
    B64, Code, DidKeyResolver, Digest, Rejection, Resolver, SigningKey, UnixTime, Verified, sign,
};
use quorate_session::{
    Invitation, PeerId, Pid, RendezvousSecret,
    limits::{
        LOOKUP_WAIT_LAST, MAX_LOOKUPS, MAX_PUBLISHED_ADDRESSES, MAX_RENDEZVOUS_ANSWERS,
        NEXT_HOUR_SECONDS, PUBLISH_WAIT_LAST, RENDEZVOUS_LIFETIME_SECONDS, RENDEZVOUS_PLAIN_BYTES,
        RENDEZVOUS_VALUE_BYTES, REPUBLISH_INTERVAL,
    },
    message::{PROTOCOL_VERSION, Whereabouts},
    rendezvous::{
        Kept, Seeker, SeekerEvent, SeekerOrder, SeekerSetup, Slot, Stamp, check_value, hour_of,
        may_replace,
    },
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const AT: UnixTime = UnixTime(START + 1000);
const ADDRESS: &str = "/ip4/203.0.113.5/udp/4001/quic-v1";

fn peer(index: usize) -> PeerId {
    PeerId::of(&SigningKey::from_seed(&[0x70 + u8::try_from(index).unwrap(); 32]).public())
}

fn slot(pid: u16, at: UnixTime) -> Slot {
    Slot::derive(&secret(), &B64([0x51; 32]), Pid(pid), hour_of(at))
}

const NONCE: [u8; 24] = [3; 24];

fn claims(index: usize, at: UnixTime) -> Whereabouts {
    Whereabouts {
        v: PROTOCOL_VERSION,
        iss: key(index).did(),
        sid: B64([0x51; 32]),
        hour: hour_of(at),
        seq: u64::try_from(at.0).unwrap() * 1000,
        peer: peer(index),
        addr: vec![ADDRESS.into()],
        join: Digest([9; 32]),
        iat: at,
        exp: at.plus_seconds(RENDEZVOUS_LIFETIME_SECONDS),
    }
}

/// The value that party `index` publishes at `at`.
fn value(index: usize, at: UnixTime) -> Vec<u8> {
    let signed = sign(claims(index, at), &key(index)).unwrap();
    slot(u16::try_from(index).unwrap(), at).seal(&signed, &NONCE)
}

/// The DHT: what nodes keep, by its key, and what hostile nodes add to every answer.
#[derive(Default)]
struct Shelf {
    kept: BTreeMap<[u8; 32], Vec<u8>>,
    /// Nothing is kept and nothing honest is said.
    down: bool,
    /// Nobody named those who keep it.
    unnamed: bool,
    lies: Vec<Vec<u8>>,
    gets: usize,
    puts: usize,
}

impl Shelf {
    fn put(&mut self, key: [u8; 32], value: Vec<u8>, at: UnixTime) -> Result<(), Rejection> {
        check_value(&key, &value, at)?;
        if let Some(old) = self.kept.get(&key) {
            may_replace(old, &value)?;
        }
        self.kept.insert(key, value);
        Ok(())
    }
}

struct Party {
    seeker: Seeker,
    found: Vec<(Pid, PeerId, Vec<String>)>,
    refused: Vec<Rejection>,
}

struct World {
    invitation: Verified<Invitation>,
    at: UnixTime,
    begun: Instant,
    now: Instant,
    parties: Vec<Party>,
    shelf: Shelf,
}

impl World {
    fn new(m: usize) -> Self {
        let invitation = invitation_of(draft(m));
        let now = Instant::now();
        let mut world = Self {
            invitation,
            at: AT,
            begun: now,
            now,
            parties: Vec::new(),
            shelf: Shelf::default(),
        };
        for index in 0..m {
            let seeker = world.seeker(index);
            world.parties.push(Party {
                seeker,
                found: Vec::new(),
                refused: Vec::new(),
            });
        }
        world
    }

    fn seeker(&self, index: usize) -> Seeker {
        let setup = SeekerSetup {
            invitation: &self.invitation.subject,
            secret: &secret(),
            key: key(index),
            me: Pid(u16::try_from(index).unwrap()),
            seed: [u8::try_from(index).unwrap(); 32],
        };
        Seeker::new(setup, self.now)
    }

    fn here(&mut self, index: usize, address: &str) {
        let addresses = [address.to_owned()];
        let now = self.now;
        let seeker = &mut self.parties[index].seeker;
        seeker.here(peer(index), &addresses, Digest([9; 32]), now);
    }

    /// Does what party `index` wants done until it waits.
    fn serve(&mut self, index: usize) {
        let Self {
            at,
            now,
            parties,
            shelf,
            ..
        } = self;
        let Party {
            seeker,
            found,
            refused,
        } = &mut parties[index];
        seeker.handle_timeout(*at, *now);
        loop {
            let mut idle = true;
            while let Some(order) = seeker.poll_order() {
                idle = false;
                match order {
                    SeekerOrder::Put { id, key, value, .. } => {
                        shelf.puts += 1;
                        let kept = !shelf.down && shelf.put(key, value, *at).is_ok();
                        let kept = Kept {
                            nodes: usize::from(kept),
                            by_named: kept && !shelf.unnamed,
                        };
                        seeker.handle_stored(id, kept, *now);
                    }
                    SeekerOrder::Get { id, key } => {
                        shelf.gets += 1;
                        let honest = shelf.kept.get(&key).filter(|_| !shelf.down);
                        for value in shelf.lies.iter().chain(honest) {
                            refused.extend(seeker.handle_answer(id, value, *at).err());
                        }
                        seeker.handle_looked_up(id, *now);
                    }
                }
            }
            while let Some(event) = seeker.poll_event() {
                idle = false;
                match event {
                    SeekerEvent::Found {
                        pid,
                        peer,
                        addresses,
                    } => found.push((pid, peer, addresses)),
                    SeekerEvent::Resolve(did) => {
                        let answer = DidKeyResolver.resolve(&did).unwrap();
                        seeker.handle_resolved(&did, answer, *at);
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    /// Lets time pass from one due moment to the next.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            for index in 0..self.parties.len() {
                self.serve(index);
            }
            let due = self.parties.iter().filter_map(|p| p.seeker.poll_timeout());
            let Some(next) = due.min().filter(|due| *due <= until) else {
                break;
            };
            self.pass(next.max(self.now + Duration::from_millis(1)) - self.now);
        }
        self.pass(until - self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let whole = (self.now - self.begun).as_secs();
        self.at = AT.plus_seconds(i64::try_from(whole).unwrap());
    }

    fn found(&self, index: usize) -> Vec<u16> {
        let mut pids: Vec<u16> = self.parties[index].found.iter().map(|f| f.0.0).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

#[test]
fn everybody_finds_everybody_and_nobody_looks_for_who_is_linked() {
    let mut world = World::new(5);
    for index in 0..5 {
        world.here(index, ADDRESS);
    }
    world.run(Duration::from_secs(10));
    for index in 0..5 {
        let others: Vec<u16> = (0..5).filter(|pid| usize::from(*pid) != index).collect();
        assert_eq!(world.found(index), others);
        for pid in others {
            world.parties[index]
                .seeker
                .linked(Pid(pid), true, world.now);
        }
    }
    let (gets, puts) = (world.shelf.gets, world.shelf.puts);
    world.run(Duration::from_hours(2));
    assert_eq!((world.shelf.gets, world.shelf.puts), (gets, puts));
    // One comes back under another address: it is found again by who lost it.
    world.parties[0].seeker.linked(Pid(4), false, world.now);
    world.here(4, "/ip4/198.51.100.7/tcp/4001");
    world.parties[4].seeker.linked(Pid(0), false, world.now);
    world.run(Duration::from_secs(10));
    let last = world.parties[0].found.last().unwrap();
    assert_eq!(
        (last.0, last.2[0].as_str()),
        (Pid(4), "/ip4/198.51.100.7/tcp/4001")
    );
}

#[test]
fn the_hour_changes_without_anybody_being_lost() {
    let mut world = World::new(3);
    world.here(0, ADDRESS);
    // Party 0 published in one hour; those who come at any time later find it.
    for minutes in [1_u64, 30, 12, 4, 60, 61] {
        world.run(Duration::from_mins(minutes));
        world.parties[1].seeker = world.seeker(1);
        world.parties[1].found.clear();
        world.run(Duration::from_secs(1));
        assert_eq!(world.found(1), [0], "after {minutes} more minutes");
    }
}

#[test]
fn a_record_is_published_for_the_next_hour_when_that_is_near() {
    let mut world = World::new(3);
    world.here(0, ADDRESS);
    let left = 3600 - AT.0.rem_euclid(3600) - NEXT_HOUR_SECONDS;
    world.run(Duration::from_secs(u64::try_from(left).unwrap() - 5));
    let next = slot(0, AT.plus_seconds(3600)).locator();
    assert!(!world.shelf.kept.contains_key(&next));
    world.run(Duration::from_secs(10));
    assert!(world.shelf.kept.contains_key(&next));
}

#[test]
fn a42_a_record_that_only_unnamed_nodes_keep_is_given_out_again() {
    let mut world = World::new(3);
    world.shelf.unnamed = true;
    world.here(0, ADDRESS);
    world.run(Duration::from_mins(5));
    let puts = world.shelf.puts;
    assert!((5..30).contains(&puts), "{puts}");
    assert_eq!(world.parties[0].seeker.tally().kept.nodes, 1);
    world.shelf.unnamed = false;
    world.run(PUBLISH_WAIT_LAST * 2);
    let puts = world.shelf.puts;
    world.run(Duration::from_mins(5));
    assert_eq!(world.shelf.puts, puts, "a named one keeps it now");
}

#[test]
fn nothing_is_tried_without_pause_when_no_node_answers() {
    let mut world = World::new(3);
    world.shelf.down = true;
    world.here(0, ADDRESS);
    world.run(Duration::from_mins(30));
    let tally = world.parties[0].seeker.tally().clone();
    assert_eq!(tally.kept, Kept::default());
    assert!((30..60).contains(&tally.not_kept), "{tally:?}");
    let rounds = 30 * 60 / LOOKUP_WAIT_LAST.as_secs();
    let most = u32::try_from(2 * 3 * rounds * 2).unwrap();
    assert!(tally.looked_up > 100 && tally.looked_up < most, "{tally:?}");
    // Back again, it takes one of the longest waits.
    world.shelf.down = false;
    world.here(1, ADDRESS);
    world.run(LOOKUP_WAIT_LAST * 2);
    assert_eq!(world.found(0), [1]);
}

#[test]
fn an_order_that_is_never_answered_is_given_up() {
    let invitation = invitation_of(draft(64));
    let now = Instant::now();
    let setup = SeekerSetup {
        invitation: &invitation.subject,
        secret: &secret(),
        key: key(0),
        me: Pid(0),
        seed: [1; 32],
    };
    let mut seeker = Seeker::new(setup, now);
    let mut now = now;
    let mut asked = 0;
    for _ in 0..200 {
        seeker.handle_timeout(AT, now);
        let mut batch = 0;
        while let Some(order) = seeker.poll_order() {
            assert!(matches!(order, SeekerOrder::Get { .. }));
            batch += 1;
        }
        assert!(batch <= MAX_LOOKUPS + 2, "{batch} at once");
        asked += batch;
        now = seeker.poll_timeout().unwrap();
    }
    assert!(asked > 63 * 3, "every party has its turn: {asked}");
}

#[test]
fn a41_false_old_oversized_and_ten_thousand_answers_are_refused_and_bounded() {
    let mut world = World::new(3);
    let mut old = value(1, AT.plus_seconds(-2400));
    let fresh = value(1, AT);
    let mut lies = vec![
        Vec::new(),
        vec![0; 10_000_000],
        vec![7; RENDEZVOUS_VALUE_BYTES],
    ];
    lies.push(old.clone());
    old[40..48].copy_from_slice(&u64::MAX.to_be_bytes());
    lies.push(old);
    lies.push(value(0, AT));
    for at in [0, 33, 47, 60, 120, 500, RENDEZVOUS_VALUE_BYTES - 1] {
        let mut forged = fresh.clone();
        forged[at] ^= 1;
        lies.push(forged);
    }
    world.shelf.lies = lies;
    world.shelf.kept.insert(slot(1, AT).locator(), fresh);
    world.run(Duration::from_secs(1));
    assert_eq!(world.found(0), [1], "the true one is among the false ones");
    assert_eq!(world.parties[0].found.len(), 1);
    assert!(world.parties[0].refused.len() >= 13);

    // Ten thousand before the true one: it is not reached, and the cost stays that of twenty.
    let mut world = World::new(3);
    world.shelf.lies = vec![vec![7; RENDEZVOUS_VALUE_BYTES]; 10_000];
    world.run(Duration::from_secs(1));
    let tally = world.parties[0].seeker.tally();
    let most = u32::try_from(2 * 3 * MAX_RENDEZVOUS_ANSWERS).unwrap();
    assert_eq!((tally.answers, tally.refused), (most, most));
    assert!(world.parties[0].found.is_empty());
}

#[test]
fn a43_nobody_without_the_secret_writes_or_overwrites_a_record() {
    let mut shelf = Shelf::default();
    let place = slot(1, AT).locator();
    shelf.put(place, value(1, AT), AT).unwrap();
    let outsider = RendezvousSecret::new([0xbb; 32]);
    let other = Slot::derive(&outsider, &B64([0x51; 32]), Pid(1), hour_of(AT));
    let signed = sign(claims(1, AT.plus_seconds(9)), &key(1)).unwrap();
    let foreign = other.seal(&signed, &NONCE);
    assert_eq!(shelf.put(place, foreign, AT).unwrap_err().code, Code::Key);
    let mut altered = value(1, AT.plus_seconds(9));
    altered[200] ^= 1;
    assert_eq!(shelf.put(place, altered, AT).unwrap_err().code, Code::Sig);
    let older = value(1, AT.plus_seconds(-9));
    assert_eq!(shelf.put(place, older, AT).unwrap_err().code, Code::Stale);
    assert_eq!(shelf.kept[&place], value(1, AT));
    // The same once more is no harm, and a newer one of the owner is taken.
    shelf.put(place, value(1, AT), AT).unwrap();
    shelf.put(place, value(1, AT.plus_seconds(9)), AT).unwrap();
}

#[test]
fn a43_an_insider_who_writes_for_another_party_is_not_believed() {
    let mut world = World::new(3);
    // Party 2 holds the secret, so the nodes take what it writes into the place of party 1.
    let place = slot(1, AT);
    let mut own = claims(2, AT);
    own.peer = peer(2);
    let signed = sign(own, &key(2)).unwrap();
    let forged = place.seal(&signed, &NONCE);
    world.shelf.put(place.locator(), forged, AT).unwrap();
    world.run(Duration::from_secs(1));
    assert!(world.parties[0].found.is_empty());
    let refused = &world.parties[0].refused[0];
    assert_eq!((refused.code, refused.rule), (Code::Kid, "S13.8"));
    // Nor does a signed text help whose envelope is made to look newer.
    let signed = sign(claims(1, AT.plus_seconds(-60)), &key(1)).unwrap();
    let stamp = Stamp {
        seq: signed.seq + 60_000,
        exp: signed.exp,
    };
    let forged = place.seal_text(signed.text(), stamp, &NONCE);
    world.shelf.kept.insert(place.locator(), forged);
    world.run(Duration::from_secs(10));
    assert!(world.parties[0].found.is_empty());
    assert!(world.parties[0].refused.iter().any(|r| r.rule == "S13.9"));
}

#[test]
fn a44_records_of_another_hour_or_session_are_not_used() {
    // As it is, a record does not even belong to the key.
    let later = AT.plus_seconds(3600);
    let stale = check_value(&slot(1, later).locator(), &value(1, AT), AT).unwrap_err();
    assert_eq!(stale.code, Code::Key);
    let did = key(1).did();
    // An insider of two sessions seals old whereabouts anew.
    let mut other_session = claims(1, AT);
    other_session.sid = B64([0x52; 32]);
    let mut other_hour = claims(1, AT);
    other_hour.hour -= 1;
    for claims in [other_session, other_hour] {
        let signed = sign(claims, &key(1)).unwrap();
        let value = slot(1, AT).seal(&signed, &NONCE);
        let refused = slot(1, AT).open(&did, &value, AT).unwrap_err();
        assert_eq!((refused.code, refused.rule), (Code::Stale, "S13.9"));
    }
    // After its time it is refused by nodes and by readers.
    let after = AT.plus_seconds(RENDEZVOUS_LIFETIME_SECONDS + 301);
    let refused = check_value(&slot(1, AT).locator(), &value(1, AT), after).unwrap_err();
    assert_eq!((refused.code, refused.rule), (Code::Time, "S13.3"));
}

#[test]
fn what_is_sealed_for_nobody_here_is_refused() {
    let did = key(1).did();
    let stamp = Stamp { seq: 1, exp: AT };
    let refused = |value: &[u8]| {
        let refused = slot(1, AT).open(&did, value, AT).unwrap_err();
        (refused.code, refused.rule)
    };
    // Who holds the signing key of the place and not the other one cannot be: bytes changed before they were signed.
    let short = slot(1, AT).seal_text("", stamp, &NONCE);
    assert_eq!(refused(&short).0, Code::Format);
    let behind = format!("a.b.c{}x", "\0".repeat(1500));
    assert_eq!(
        refused(&slot(1, AT).seal_text(&behind, stamp, &NONCE)).0,
        Code::Format
    );
    assert_eq!(refused(&value(0, AT)), (Code::Key, "S13.2"));
}

#[test]
fn whereabouts_beyond_their_limits_are_refused() {
    let refused = |change: &dyn Fn(&mut Whereabouts)| {
        let mut claims = claims(1, AT);
        change(&mut claims);
        let refused = sign(claims, &key(1)).unwrap_err();
        (refused.code, refused.rule)
    };
    let long = |c: &mut Whereabouts| c.exp = c.iat.plus_seconds(RENDEZVOUS_LIFETIME_SECONDS + 1);
    assert_eq!(refused(&long), (Code::Time, "S13.6"));
    let many = |c: &mut Whereabouts| c.addr = vec!["/".into(); MAX_PUBLISHED_ADDRESSES + 1];
    assert_eq!(refused(&many), (Code::Limit, "S13.7"));
    let large = |c: &mut Whereabouts| c.addr = vec![format!("/{}", "x".repeat(256))];
    assert_eq!(refused(&large), (Code::Limit, "S13.7"));
    for text in ["", "ip4", "/ip4/a b", "/ip4/\u{202e}"] {
        let odd = |c: &mut Whereabouts| c.addr = vec![text.into()];
        assert_eq!(refused(&odd), (Code::Format, "S13.7"), "{text:?}");
    }
}

#[test]
fn what_a_key_that_is_not_pinned_signs_is_not_used() {
    let mut draft = draft(3);
    draft.parties[1].keys = vec![key(5).public().thumbprint()];
    let mut world = World::new(3);
    world.invitation = invitation_of(draft);
    world.parties[0].seeker = world.seeker(0);
    world.here(1, ADDRESS);
    world.run(Duration::from_secs(5));
    assert!(world.found(0).is_empty());
    let tally = world.parties[0].seeker.tally();
    assert_eq!(tally.last_refusal.as_ref().unwrap().rule, "S13.8");
}

#[test]
fn addresses_that_do_not_fit_are_left_out_from_the_end() {
    let mut world = World::new(3);
    let relay = |n: usize| {
        format!(
            "/ip4/203.0.113.{n}/udp/4001/quic-v1/p2p/{}/p2p-circuit",
            peer(3)
        )
    };
    let many: Vec<String> = (0..20).map(relay).collect();
    let now = world.now;
    let seeker = &mut world.parties[1].seeker;
    seeker.here(peer(1), &many, Digest([9; 32]), now);
    world.run(Duration::from_secs(5));
    let found = &world.parties[0].found[0].2;
    assert!(
        (4..=MAX_PUBLISHED_ADDRESSES).contains(&found.len()),
        "{}",
        found.len()
    );
    assert_eq!(found[..], many[..found.len()]);
}

#[test]
fn keys_of_hours_parties_and_sessions_have_nothing_in_common() {
    let mut seen = std::collections::BTreeSet::new();
    for pid in 0..4 {
        for hour in 0..4 {
            for (secret, sid) in [(1, 1), (1, 2), (2, 1)] {
                let secret = RendezvousSecret::new([secret; 32]);
                let slot = Slot::derive(&secret, &B64([sid; 32]), Pid(pid), hour);
                assert!(seen.insert(slot.locator()));
                assert!(!format!("{slot:?}").contains("51"));
            }
        }
    }
    // Two values of one party share nothing but what nodes have to see.
    let signed = sign(claims(1, AT), &key(1)).unwrap();
    let sealed = |seed| slot(1, AT).seal(&signed, &[seed; 24]);
    let (one, two) = (sealed(1), sealed(2));
    assert_eq!(one.len(), RENDEZVOUS_VALUE_BYTES);
    let same = one[136..].iter().zip(&two[136..]).filter(|(a, b)| a == b);
    assert!(same.count() < RENDEZVOUS_PLAIN_BYTES / 32);
}

#[test]
fn a_record_that_stays_is_published_again_before_it_expires() {
    let mut world = World::new(3);
    world.here(0, ADDRESS);
    world.run(Duration::from_secs(5));
    let place = slot(0, AT).locator();
    let first = world.shelf.kept[&place].clone();
    world.run(REPUBLISH_INTERVAL);
    let second = world.shelf.kept[&place].clone();
    assert!(second != first && may_replace(&second, &first).is_err());
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer(
        key in proptest::collection::vec(any::<u8>(), 0..64),
        value in proptest::collection::vec(any::<u8>(), 0..3000),
        at in any::<i64>(),
    ) {
        let _ = check_value(&key, &value, UnixTime(at));
        let _ = may_replace(&value, &key);
    }

    #[test]
    fn no_changed_byte_is_taken(at in 0..RENDEZVOUS_VALUE_BYTES, bit in 0..8_u8) {
        let mut changed = value(1, AT);
        changed[at] ^= 1 << bit;
        let did = key(1).did();
        prop_assert!(slot(1, AT).open(&did, &changed, AT).is_err());
    }

    #[test]
    fn any_sealed_text_ends_in_an_answer(text in ".{0,1600}", seq in 0..1_795_349_800_000_u64) {
        let stamp = Stamp { seq, exp: AT };
        let value = slot(1, AT).seal_text(&text, stamp, &NONCE);
        prop_assert!(check_value(&slot(1, AT).locator(), &value, AT).is_ok());
        prop_assert!(slot(1, AT).open(&key(1).did(), &value, AT).is_err());
    }
}
