//! The table of relays: places, order, limits.

use quorate_identity::UnixTime;
use quorate_session::relay::{Access, Load};

use super::*;
use crate::overlay::Scope;

fn endpoint(port: u16, peer: PeerId) -> Endpoint {
    Endpoint::parse(
        &format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"),
        Scope::Local,
    )
    .expect("valid")
}

fn id(n: usize) -> ConnectionId {
    ConnectionId::new_unchecked(n)
}

fn five(now: Instant) -> (Relays, Vec<PeerId>) {
    let mut relays = Relays::new(true, 7);
    let peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
    for (peer, port) in peers.iter().zip(4001..) {
        relays.add_own(endpoint(port, *peer), now).expect("room");
    }
    (relays, peers)
}

/// Dials and reserves whatever is due, and everything works.
fn settle(relays: &mut Relays, next: &mut usize, now: Instant) -> Vec<PeerId> {
    let mut held = Vec::new();
    while let Some(action) = relays.poll(now) {
        match action {
            Action::LookUp { relay, .. } => unreachable!("{relay} has no name"),
            Action::Dial { relay, .. } => {
                *next += 1;
                relays.dialing(&relay, id(*next));
                assert!(relays.connected(&relay, id(*next), now));
            }
            Action::Reserve { relay, .. } => {
                relays.asked(&relay, ListenerId::next());
                assert!(relays.reserved(&relay));
                assert!(!relays.reserved(&relay), "renewed only");
                held.push(relay);
            }
        }
    }
    held
}

#[test]
fn three_reservations_are_held_and_the_next_relay_takes_the_place_of_a_dead_one() {
    let now = Instant::now();
    let (mut relays, peers) = five(now);
    let mut next = 0;
    assert_eq!(settle(&mut relays, &mut next, now), peers[..3]);
    assert_eq!(relays.poll_timeout(now), None);
    let me = PeerId::random();
    assert_eq!(relays.circuits_to(me).len(), 3);
    assert!(relays.closed(&peers[1], id(2), now));
    assert_eq!(settle(&mut relays, &mut next, now), peers[3..4]);
    let over: Vec<_> = relays.circuits_to(me).iter().map(|e| e.relay).collect();
    assert_eq!(over, [Some(peers[0]), Some(peers[2]), Some(peers[3])]);
}

#[test]
fn a_relay_that_refuses_makes_room_and_is_asked_again_with_growing_waits() {
    let now = Instant::now();
    let mut relays = Relays::new(true, 7);
    let peer = PeerId::random();
    relays.add_own(endpoint(1, peer), now).expect("room");
    relays.dialing(&peer, id(1));
    relays.connected(&peer, id(1), now);
    let (mut at, mut waits) = (now, Vec::new());
    for _ in 0..8 {
        assert!(matches!(relays.poll(at), Some(Action::Reserve { .. })));
        let listener = ListenerId::next();
        relays.asked(&peer, listener);
        assert_eq!(relays.lost(listener, at), Some((peer, false)));
        assert_eq!(relays.busy(at, |r| r.own), 0, "others have a turn");
        assert_eq!(relays.poll(at), None);
        let due = relays.poll_timeout(at).expect("again");
        waits.push(due - at);
        at = due;
    }
    assert!(waits[3] > waits[0] * 2);
    assert!(waits.iter().all(|w| *w <= BACKOFF_MAX * 5 / 4));
}

#[test]
fn foreign_relays_are_bounded_and_never_asked_for_a_reservation() {
    let now = Instant::now();
    let mut relays = Relays::new(true, 7);
    let mut gone = 0;
    for _ in 0..100 {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let circuit = endpoint(5, relay).through(relay, Some(peer));
        let (_, out) = relays.add_foreign(&circuit, now).expect("room");
        gone += usize::from(out.is_some());
    }
    assert_eq!(gone, 100 - MAX_FOREIGN_RELAYS);
    assert_eq!(relays.poll(now), None);
    let own = PeerId::random();
    relays.add_own(endpoint(1, own), now).expect("room");
    let elsewhere = endpoint(2, own).through(own, Some(PeerId::random()));
    relays.add_foreign(&elsewhere, now).expect("known");
    let known = &relays.look(&own).expect("known").endpoints;
    assert_eq!(known.len(), 1, "nobody else has a say in where it is");
    assert_eq!(known[0].port, 1);
}

#[test]
fn stun_is_asked_of_own_relays_and_only_where_the_user_or_the_session_said() {
    let now = Instant::now();
    let mut relays = Relays::new(true, 7);
    let (relay, peer) = (PeerId::random(), PeerId::random());
    let said = |host: &str| {
        let text = format!("/ip4/{host}/tcp/4001/p2p/{relay}");
        Endpoint::parse(&text, Scope::Lan).expect("valid")
    };
    let told = said("192.0.2.53").through(relay, Some(peer));
    relays.add_foreign(&told, now).expect("room");
    relays.connected(&relay, id(1), now);
    let announcement = Announcement {
        name: None,
        stun: vec![53, 123],
        limits: Limits {
            circuits: 1,
            reservations: 1,
            circuit_seconds: 1,
            circuit_bytes: 0,
            circuit_bits_per_second: 0,
            total_bits_per_second: 0,
        },
        load: Load::default(),
        access: Access::Open,
        at: UnixTime(0),
    };
    assert!(relays.said(&relay, announcement));
    assert_eq!(relays.status(&relay).expect("known").stun, []);
    relays.add_own(said("192.0.2.7"), now).expect("room");
    relays.add_foreign(&told, now).expect("known");
    let asked = relays.status(&relay).expect("known").stun.into_iter();
    let asked: Vec<String> = asked.map(|server| server.to_string()).collect();
    assert_eq!(asked, ["192.0.2.7:53", "192.0.2.7:123"]);
}

#[test]
fn relays_of_parties_take_the_places_that_own_ones_leave_free() {
    let now = Instant::now();
    let (mut relays, peers) = five(now);
    let mut next = 0;
    settle(&mut relays, &mut next, now);
    let [party, relay] = [(); 2].map(|()| PeerId::random());
    let at = endpoint(6000, relay);
    relays.add_of_party(party, at.clone(), now).expect("room");
    assert_eq!(settle(&mut relays, &mut next, now), [], "own ones have all");
    // All own ones die, one after the other.
    let mut held = Vec::new();
    for (peer, connection) in peers.iter().zip(1..) {
        relays.closed(peer, id(connection), now);
        held.extend(settle(&mut relays, &mut next, now));
    }
    assert_eq!(held, [peers[3], peers[4], relay]);
    assert_eq!(relays.of_parties(), HashSet::from([relay]));
    // They come back, and are not kept waiting by it.
    let later = now + BACKOFF_MAX * 2;
    assert_eq!(settle(&mut relays, &mut next, later), peers[..3]);
}

#[test]
fn a_party_is_one_relay_and_a_few_parties_are() {
    let now = Instant::now();
    let mut relays = Relays::new(true, 7);
    let [party, first, second] = [(); 3].map(|()| PeerId::random());
    for relay in [first, second] {
        relays
            .add_of_party(party, endpoint(1, relay), now)
            .expect("room");
    }
    assert_eq!(relays.of_parties(), HashSet::from([second]));
    let other = PeerId::random();
    let taken = relays.add_of_party(other, endpoint(1, second), now);
    assert!(taken.is_err(), "it is the relay of another party");
    let more = (0..20).filter(|_| {
        let (party, relay) = (PeerId::random(), PeerId::random());
        relays.add_of_party(party, endpoint(1, relay), now).is_ok()
    });
    assert_eq!(more.count(), MAX_PARTY_RELAYS - 1);
    assert!(!relays.is_own(&second));
}

#[test]
fn the_nearest_relay_comes_first_and_one_that_failed_comes_last() {
    let now = Instant::now();
    let (mut relays, peers) = five(now);
    settle(&mut relays, &mut 0, now);
    for (peer, rtt) in peers.iter().zip([30, 10, 20]) {
        relays.measured(peer, Duration::from_millis(rtt));
    }
    let order = |relays: &Relays, at| -> Vec<PeerId> {
        let ways = relays.ways_to(PeerId::random(), at).into_iter();
        ways.filter_map(|w| w.relay).collect()
    };
    assert_eq!(order(&relays, now), [peers[1], peers[2], peers[0]]);
    relays.suspect(&peers[1], now);
    assert_eq!(order(&relays, now), [peers[2], peers[0], peers[1]]);
    let later = now + SUSPECT_FOR;
    assert_eq!(order(&relays, later)[0], peers[1]);
}

#[test]
fn a_relays_own_name_is_quoted_and_stands_beside_its_host() {
    let now = Instant::now();
    let mut relays = Relays::new(true, 7);
    let peer = PeerId::random();
    relays.add_own(endpoint(1, peer), now).expect("room");
    assert_eq!(relays.name(&peer), "127.0.0.1");
    let said = |name: &str| {
        let limits = crate::overlay::RelayLimits::DEFAULT.announced();
        Announcement {
            name: Some(name.into()),
            stun: Vec::new(),
            limits,
            load: Load::default(),
            access: Access::Open,
            at: UnixTime(0),
        }
    };
    assert!(relays.said(&peer, said("Klinik Ost")));
    assert_eq!(relays.name(&peer), "\"Klinik Ost\" (127.0.0.1)");
    // What would read like something of ours stays inside the quotes.
    relays.said(&peer, said("[sud]\" (203.0.113.9)"));
    assert_eq!(relays.name(&peer), "\"[sud]' (203.0.113.9)\" (127.0.0.1)");
}

#[test]
fn a_relay_must_be_named_with_its_peer_id_and_directly() {
    let now = Instant::now();
    let mut relays = Relays::new(true, 7);
    let (relay, peer) = (PeerId::random(), PeerId::random());
    let mut nameless = endpoint(1, relay);
    nameless.peer = None;
    assert!(relays.add_own(nameless, now).is_err());
    let behind = endpoint(1, relay).through(relay, Some(peer));
    assert!(relays.add_own(behind, now).is_err());
    for n in 0..20 {
        let added = relays.add_own(endpoint(1, PeerId::random()), now).is_ok();
        assert_eq!(added, n < MAX_OWN_RELAYS);
    }
}

// ---- relays by name

fn named(host: &str, peer: PeerId) -> Named {
    let text = format!("/dns4/{host}/tcp/4001/p2p/{peer}");
    Named::parse(&text).expect("valid").expect("a name")
}

fn at(ip: &str) -> Vec<Endpoint> {
    let text = format!("/ip4/{ip}/tcp/4001");
    vec![Endpoint::parse(&text, Scope::Lan).expect("valid")]
}

fn dialled(relays: &mut Relays, now: Instant) -> Vec<String> {
    match relays.poll(now) {
        Some(Action::Dial { addresses, .. }) => addresses.iter().map(ToString::to_string).collect(),
        other => unreachable!("{other:?}"),
    }
}

fn is_looked_up(relays: &mut Relays, now: Instant) -> Option<PeerId> {
    match relays.poll(now) {
        Some(Action::LookUp { relay, .. }) => {
            relays.looking_up(&relay, now);
            Some(relay)
        }
        _ => None,
    }
}

#[test]
fn a_name_is_looked_up_before_each_dial_and_a_changed_address_is_dialled_next() {
    let now = Instant::now();
    let (mut relays, peer) = (Relays::new(true, 7), PeerId::random());
    relays
        .add_named(named("a.example", peer), now)
        .expect("room");
    assert_eq!(is_looked_up(&mut relays, now), Some(peer));
    assert_eq!(relays.poll(now), None, "not before the answer");
    relays.looked_up(&peer, Some(at("192.0.2.1")), now);
    assert_eq!(dialled(&mut relays, now), ["/ip4/192.0.2.1/tcp/4001"]);
    relays.dialing(&peer, id(1));
    assert_eq!(relays.failed(id(1), now), Some(peer));
    assert_eq!(relays.name(&peer), "a.example");

    let later = now + Duration::from_secs(1);
    assert_eq!(is_looked_up(&mut relays, later), Some(peer));
    relays.looked_up(&peer, Some(at("192.0.2.2")), later);
    assert_eq!(dialled(&mut relays, later), ["/ip4/192.0.2.2/tcp/4001"]);
    relays.dialing(&peer, id(2));
    relays.connected(&peer, id(2), later);
    assert!(relays.closed(&peer, id(2), later));

    // What is known goes on counting when the resolver is out of order.
    let last = later + Duration::from_secs(2);
    assert_eq!(is_looked_up(&mut relays, last), Some(peer));
    relays.looked_up(&peer, None, last);
    assert_eq!(dialled(&mut relays, last), ["/ip4/192.0.2.2/tcp/4001"]);
    // Not for ever: nobody had room for it meanwhile.
    let late = last + FRESH_FOR;
    assert_eq!(is_looked_up(&mut relays, late), Some(peer));
}

#[test]
fn names_that_are_not_found_keep_no_place_from_others() {
    let now = Instant::now();
    let mut relays = Relays::new(true, 7);
    let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
    for peer in &peers {
        relays
            .add_named(named("slow.example", *peer), now)
            .expect("room");
    }
    let other = PeerId::random();
    relays.add_own(endpoint(1, other), now).expect("room");
    for peer in &peers {
        assert_eq!(is_looked_up(&mut relays, now), Some(*peer));
    }
    assert_eq!(relays.poll(now), None);
    let soon = now + LOOKUP_HOLDS;
    assert_eq!(relays.poll_timeout(now), Some(soon));
    assert_eq!(dialled(&mut relays, soon), ["/ip4/127.0.0.1/tcp/1"]);
    relays.dialing(&other, id(9));
    // One that is not found at all waits longer and longer.
    relays.looked_up(&peers[0], None, soon);
    assert_eq!(relays.poll(soon), None);
    assert!(relays.poll_timeout(soon).is_some_and(|at| at > soon));
}

#[test]
fn what_is_written_out_stays_beside_what_a_name_says_and_others_add_nothing() {
    let now = Instant::now();
    let (mut relays, peer) = (Relays::new(true, 7), PeerId::random());
    // Somebody's word before the user's own.
    let circuit = endpoint(666, peer).through(peer, None);
    relays.add_foreign(&circuit, now).expect("room");
    relays
        .add_named(named("a.example", peer), now)
        .expect("room");
    relays
        .add_named(named("b.example", peer), now)
        .expect("room");
    relays.add_own(endpoint(1, peer), now).expect("room");
    relays.add_foreign(&circuit, now).expect("known");
    assert_eq!(
        relays
            .poll(now)
            .map(|a| matches!(a, Action::LookUp { names, .. } if names.len() == 2)),
        Some(true)
    );
    relays.looking_up(&peer, now);
    let many: Vec<Endpoint> = (1..100).flat_map(|n| at(&format!("192.0.2.{n}"))).collect();
    relays.looked_up(&peer, Some(many), now);
    let all = dialled(&mut relays, now);
    assert_eq!(all.len(), MAX_RELAY_ADDRESSES);
    assert_eq!(
        all[..2],
        ["/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/4001"]
    );
    relays.looked_up(&peer, Some(Vec::new()), now);
    assert_eq!(dialled(&mut relays, now), ["/ip4/127.0.0.1/tcp/1"]);
    assert_eq!(relays.name(&peer), "a.example");
    // Connected by the relay's own doing while the answer is awaited.
    relays.looking_up(&peer, now);
    relays.connected(&peer, id(1), now);
    relays.looked_up(&peer, None, now);
    assert!(matches!(relays.poll(now), Some(Action::Reserve { .. })));
}
