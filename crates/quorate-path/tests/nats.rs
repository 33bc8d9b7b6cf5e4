//! Two agents behind address translators of every kind, in a small simulated Internet: who has to
//! become direct does, who cannot stays relayed, and both ends say the same.
#![allow(clippy::unwrap_used, clippy::panic)]

mod internet;

use internet::{Kind, World};
use quorate_path::{
    How, Path, Reason, Whose,
    limits::{DIRECT_SILENCE, MAX_CANDIDATES, MAX_UNANSWERED, ROUND_FIRST},
};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Pairs that only a relay can connect: a new port per destination at one end, and at the other
/// one that filters by port or does the same.
fn needs_relay(a: Kind, b: Kind) -> bool {
    let dependent = |kind| matches!(kind, Kind::Sym | Kind::CgSym);
    let filters = |kind| !matches!(kind, Kind::Open | Kind::FullCone | Kind::Addr);
    dependent(a) && filters(b) || dependent(b) && filters(a)
}

#[test]
fn every_pair_of_nats_is_direct_where_it_can_be_and_relayed_elsewhere() {
    for a in Kind::ALL {
        for b in Kind::ALL {
            let mut world = World::new(a, b);
            world.run(20 * SECOND);
            let paths = [world.path(0), world.path(1)];
            let cell = format!("{a:?} x {b:?}: {paths:?} {:?}", world.reasons());
            if needs_relay(a, b) || a == Kind::Blocked || b == Kind::Blocked {
                let via = Some("relay".to_owned());
                assert!(
                    paths
                        .iter()
                        .all(|p| *p == Path::Relayed { via: via.clone() }),
                    "{cell}"
                );
                let dependent = |kind| matches!(kind, Kind::Sym | Kind::CgSym);
                let blocked = Whose::of(a == Kind::Blocked, b == Kind::Blocked);
                let expected = match blocked {
                    Some(whose) => Reason::UdpBlocked(whose),
                    None => {
                        Reason::EndpointDependent(Whose::of(dependent(a), dependent(b)).unwrap())
                    }
                };
                assert_eq!(world.reasons()[0], expected, "{cell}");
            } else {
                assert!(
                    paths.iter().all(|p| matches!(p, Path::Direct { .. })),
                    "{cell}"
                );
                let punched = a != Kind::Open && b != Kind::Open;
                let how = if punched {
                    How::HolePunched
                } else {
                    How::Plain
                };
                assert!(
                    paths
                        .iter()
                        .all(|p| matches!(p, Path::Direct { how: h, .. } if *h == how)),
                    "{cell}"
                );
            }
            let [own, other] = world.reasons();
            assert_eq!(own.sentence("a", "b"), other.sentence("b", "a"), "{cell}");
        }
    }
}

#[test]
fn a_mapped_port_makes_direct_what_needs_a_relay_otherwise() {
    for (kind, other) in [
        (Kind::Port, Kind::Sym),
        (Kind::Sym, Kind::Sym),
        (Kind::Sym, Kind::Port),
        (Kind::Port, Kind::CgSym),
    ] {
        // The same port as outside, which STUN servers see too, or another one; at once, or late.
        for (port, late) in [(40_000, 0), (41_234, 0), (41_234, 4), (40_000, 25)] {
            let mut world = World::new(kind, other);
            world.run(late * SECOND);
            world.map_port(port);
            world.run(40 * SECOND);
            let cell = format!("{kind:?} x {other:?}, port {port} after {late} s");
            for end in 0..2 {
                assert!(
                    matches!(
                        world.path(end),
                        Path::Direct {
                            how: How::Plain,
                            ..
                        }
                    ),
                    "{cell}: {:?} {:?}",
                    world.path(end),
                    world.reasons()
                );
            }
            assert_eq!(
                world.reasons(),
                [
                    Reason::PortMapped(Whose::Own),
                    Reason::PortMapped(Whose::Peer)
                ],
                "{cell}"
            );
        }
    }
}

#[test]
fn a_router_that_names_a_stranger_sends_nothing_there() {
    let mut world = World::new(Kind::Port, Kind::Sym);
    world.map_lie();
    world.run(60 * SECOND);
    assert_eq!(world.victim, 0);
    assert!(matches!(world.path(0), Path::Relayed { .. }));
}

#[test]
fn the_lane_is_used_before_anything_else_and_left_when_a_direct_path_is_proven() {
    let mut world = World::new(Kind::Port, Kind::Port);
    world.run(10 * SECOND);
    for end in 0..2 {
        let paths = world.paths(end);
        assert!(
            matches!(
                paths.first(),
                Some((Path::Relayed { .. }, Reason::Searching))
            ),
            "{paths:?}"
        );
        assert!(
            matches!(paths.last(), Some((Path::Direct { .. }, _))),
            "{paths:?}"
        );
        assert_eq!(paths.len(), 2, "{paths:?}");
    }
    // Gathering, three signals and two checks, at 80 ms for a round trip to anybody.
    let direct = world.direct_after(0).unwrap();
    assert!(direct < Duration::from_millis(1500), "{direct:?}");
}

#[test]
fn the_start_is_simultaneous_on_long_and_short_ways() {
    for (way, to_relay) in [
        (5, [5, 5]),
        (20, [150, 10]),
        (40, [20, 60]),
        (200, [200, 190]),
        (400, [400, 30]),
    ] {
        let mut world = World::new(Kind::NoInput, Kind::NoInput);
        world.set_delays(
            Duration::from_millis(way),
            to_relay.map(Duration::from_millis),
        );
        world.run(20 * SECOND);
        let skew = world.start_skew();
        assert!(
            matches!(world.path(0), Path::Direct { .. })
                && matches!(world.path(1), Path::Direct { .. }),
            "{way} ms, {to_relay:?}: {:?} {:?}, skew {skew:?}",
            world.path(0),
            world.path(1)
        );
        assert!(skew < Duration::from_millis(way), "{skew:?} at {way} ms");
    }
}

#[test]
fn the_start_need_not_be_simultaneous_when_both_opened_their_nats_before() {
    for late in [[0, 700], [700, 0]] {
        for (a, b) in [
            (Kind::NoInput, Kind::NoInput),
            (Kind::Port, Kind::NoInput),
            (Kind::NoInput, Kind::CgPort),
        ] {
            let mut world = World::new(a, b);
            world.set_signals_late(late.map(Duration::from_millis));
            world.run(20 * SECOND);
            let paths = [world.path(0), world.path(1)];
            let direct = |p: &Path| matches!(p, Path::Direct { .. });
            assert!(paths.iter().all(direct), "{a:?} x {b:?}: {paths:?}");
        }
    }
}

#[test]
fn a_start_that_failed_is_tried_again_after_the_nat_forgot() {
    let mut world = World::new(Kind::NoInput, Kind::NoInput);
    world.poison();
    world.run(20 * SECOND);
    assert!(
        matches!(world.path(0), Path::Relayed { .. }),
        "the test prevents nothing"
    );
    world.run(ROUND_FIRST + 20 * SECOND);
    for end in 0..2 {
        assert!(
            matches!(world.path(end), Path::Direct { .. }),
            "{:?}",
            world.path(end)
        );
    }
}

#[test]
fn relayed_pairs_stay_relayed_and_cost_little() {
    let mut world = World::new(Kind::Sym, Kind::Port);
    world.run(60 * SECOND);
    let begin = world.packets;
    world.run(600 * SECOND);
    for end in 0..2 {
        let (relayed, changes) = (world.path(end), world.paths(end).len());
        assert!(matches!(relayed, Path::Relayed { .. }), "{relayed:?}");
        assert_eq!(
            changes,
            2,
            "searching, then the reason: {:?}",
            world.paths(end)
        );
    }
    let packets = world.packets - begin;
    assert!(packets < 1000, "{packets} packets in ten minutes");
}

#[test]
fn f19_a_rebooted_nat_costs_a_few_seconds() {
    for (a, b) in [
        (Kind::Port, Kind::Port),
        (Kind::FullCone, Kind::Addr),
        (Kind::Open, Kind::Sym),
    ] {
        let mut world = World::new(a, b);
        world.run(20 * SECOND);
        world.reboot(1);
        world.run(15 * SECOND);
        for end in 0..2 {
            assert!(
                world.path(end).is_up(),
                "{a:?} {b:?}: {:?}",
                world.path(end)
            );
        }
        let outage = world.longest_outage();
        assert!(outage <= DIRECT_SILENCE + SECOND, "{a:?} {b:?}: {outage:?}");
        world.run(100 * SECOND);
        assert!(
            matches!(world.path(0), Path::Direct { .. }),
            "{a:?} {b:?}: {:?}",
            world.path(0)
        );
    }
}

#[test]
fn f20_a_changed_address_costs_a_few_seconds() {
    for (a, b) in [
        (Kind::Port, Kind::Port),
        (Kind::Open, Kind::Open),
        (Kind::Sym, Kind::Open),
    ] {
        for who in [vec![0], vec![1], vec![0, 1]] {
            let mut world = World::new(a, b);
            world.run(20 * SECOND);
            for end in &who {
                world.roam(*end);
            }
            world.run(15 * SECOND);
            for end in 0..2 {
                let path = world.path(end);
                assert!(
                    matches!(path, Path::Direct { .. }),
                    "{a:?} {b:?} {who:?}: {path:?}"
                );
            }
            let outage = world.longest_outage();
            assert!(outage <= 7 * SECOND, "{a:?} {b:?} {who:?}: {outage:?}");
        }
    }
}

#[test]
fn f20_a_public_address_that_changes_takes_the_lane_along_and_both_come_back() {
    for (a, b) in [
        (Kind::Port, Kind::Port),
        (Kind::Port, Kind::NoInput),
        (Kind::FullCone, Kind::Addr),
        (Kind::Open, Kind::Port),
    ] {
        for who in [vec![1], vec![0, 1]] {
            let mut world = World::new(a, b);
            world.run(20 * SECOND);
            let before = [0, 1].map(|end| world.paths(end).len());
            for end in &who {
                world.readdress(*end);
            }
            // The relay was reached from that address too: until the overlay has noticed, no signal arrives, and what the
            // lane says of itself is old.
            world.mute = true;
            world.run(4 * SECOND);
            world.set_lane(None);
            world.run(5 * SECOND);
            world.mute = false;
            world.set_lane(Some("relay"));
            world.run(SECOND);
            for (end, before) in before.into_iter().enumerate() {
                assert!(world.path(end).is_up(), "{a:?} {b:?} {who:?}");
                // A path whose checks are not answered is not taken for another one.
                let since = &world.paths(end)[before..];
                let wrong = since.iter().find(|(path, reason)| {
                    matches!(
                        path,
                        Path::Direct {
                            how: How::Plain,
                            ..
                        }
                    ) && a != Kind::Open
                        && matches!(reason, Reason::Reachable(_))
                });
                assert_eq!(wrong, None, "{a:?} {b:?} {who:?}");
            }
            world.run(50 * SECOND);
            for end in 0..2 {
                let path = world.path(end);
                assert!(
                    matches!(path, Path::Direct { .. }),
                    "{a:?} {b:?} {who:?}: {path:?}"
                );
            }
        }
    }
}

#[test]
fn f20_who_can_be_reached_follows_a_peer_whose_public_address_changed() {
    for (a, b, who) in [
        (Kind::Port, Kind::Open, 0),
        (Kind::Open, Kind::Port, 1),
        (Kind::Sym, Kind::Open, 0),
        (Kind::NoInput, Kind::FullCone, 0),
        (Kind::FullCone, Kind::CgPort, 1),
    ] {
        let mut world = World::new(a, b);
        world.run(20 * SECOND);
        world.readdress(who);
        // The overlay is as dead as the path.
        world.mute = true;
        world.set_lane(None);
        world.run(6 * SECOND);
        let moved = world.public(who);
        for end in 0..2 {
            let path = world.path(end);
            let Path::Direct { remote, .. } = path else {
                panic!("{a:?} {b:?}: {path:?}");
            };
            assert_eq!(remote.ip() == moved, end != who, "{a:?} {b:?} {path:?}");
        }
        // And it stays there, with one search at most.
        let changes = world.paths(1 - who).len();
        world.mute = false;
        world.set_lane(Some("relay"));
        world.run(60 * SECOND);
        assert!(world.paths(1 - who).len() <= changes + 1, "{a:?} {b:?}");
        assert!(matches!(world.path(who), Path::Direct { .. }));
    }
}

#[test]
fn f20_a_peer_that_returns_to_its_first_public_address_is_followed_back() {
    for (a, b, who) in [
        (Kind::Port, Kind::Open, 0),
        (Kind::Open, Kind::Port, 1),
        (Kind::NoInput, Kind::FullCone, 0),
    ] {
        let mut world = World::new(a, b);
        world.run(20 * SECOND);
        let first = world.public(who);
        world.mute = true;
        world.set_lane(None);
        for _ in 0..3 {
            world.readdress(who);
            world.run(6 * SECOND);
            assert_follows(&world, 1 - who, world.public(who));
            world.address_back(who);
            world.run(6 * SECOND);
            assert_follows(&world, 1 - who, first);
            assert!(matches!(world.path(who), Path::Direct { .. }));
        }
    }
}

fn assert_follows(world: &World, end: usize, address: std::net::IpAddr) {
    let path = world.path(end);
    assert!(
        matches!(path, Path::Direct { remote, .. } if remote.ip() == address),
        "not at {address}: {path:?}"
    );
}

#[test]
fn a_lane_that_is_lost_and_found_moves_the_path() {
    let mut world = World::new(Kind::Sym, Kind::Sym);
    world.run(10 * SECOND);
    world.set_lane(None);
    world.run(SECOND);
    assert!(
        matches!(world.path(0), Path::Down { since: Some(_) }),
        "{:?}",
        world.path(0)
    );
    world.set_lane(Some("other"));
    world.run(SECOND);
    assert_eq!(world.path(1).to_string(), "relayed via other");
}

#[test]
fn f22_a_fifth_of_the_packets_lost_does_not_shake_a_direct_path() {
    let mut world = World::new(Kind::Port, Kind::FullCone);
    world.loss = 20;
    world.run(30 * SECOND);
    assert!(
        matches!(world.path(0), Path::Direct { .. }),
        "{:?}",
        world.path(0)
    );
    let before = world.paths(0).len();
    world.run(600 * SECOND);
    let moves = world.paths(0).len() - before;
    assert!(moves <= 6, "{moves} moves in ten minutes");
}

#[test]
fn what_the_parties_agreed_on_is_kept() {
    use quorate_path::Policy;
    let mut relay = World::with_policy(Kind::Open, Kind::Open, Policy::Relay);
    relay.run(20 * SECOND);
    assert_eq!(relay.path(0).to_string(), "relayed via relay");
    assert_eq!(relay.reasons()[1], Reason::RelayOnly);
    assert_eq!(
        (relay.signals, relay.checks),
        (0, 0),
        "addresses were told, or looked for"
    );
    relay.set_lane(None);
    relay.run(SECOND);
    assert!(matches!(relay.path(0), Path::Down { .. }));

    let mut direct = World::with_policy(Kind::Sym, Kind::Port, Policy::Direct);
    direct.run(60 * SECOND);
    for end in 0..2 {
        assert!(
            direct.paths(end).iter().all(|(p, _)| !p.is_up()),
            "{:?}",
            direct.paths(end)
        );
    }
    assert_eq!(direct.reasons()[0], Reason::EndpointDependent(Whose::Own));
}

#[test]
fn a48_candidates_of_a_victim_cost_it_little() {
    let mut world = World::new(Kind::Open, Kind::Open);
    world.lie();
    world.run(120 * SECOND);
    // Three rounds, each with one question per candidate and what repeats it.
    let most = 3 * MAX_CANDIDATES * MAX_UNANSWERED;
    assert!(
        world.victim <= most,
        "{} packets in two minutes",
        world.victim
    );
    assert!(world.victim > 0, "the test reaches nobody");
}
