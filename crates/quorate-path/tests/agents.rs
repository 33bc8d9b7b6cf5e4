//! Two agents on a network in memory: they find each other, keep, lose and regain the path.
#![allow(clippy::unwrap_used)]

use quorate_path::{
    Agent, AgentConfig, Candidate, How, Nat, Path, PathEvent, Policy, Reason, Refusal, Scope,
    limits::{MAX_CHECK_SOURCES, MAX_CHECKS_PER_WINDOW, MAX_ROUND_STEP, MAX_SIGNALS_PER_WINDOW},
};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

const DELAY: Duration = Duration::from_millis(10);

/// What travels, with the time it arrives and the end it arrives at.
enum Message {
    Packet {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Signal(Vec<u8>),
}

struct End {
    agent: Agent,
    addresses: Vec<SocketAddr>,
    events: Vec<PathEvent>,
}

struct World {
    now: Instant,
    ends: [End; 2],
    travelling: VecDeque<(Instant, usize, Message)>,
    /// Packets to these addresses vanish.
    dead: Vec<SocketAddr>,
    signals: bool,
    packets: usize,
}

fn agent(seed: u8, controlling: bool, scope: Scope, now: Instant) -> Agent {
    let config = AgentConfig {
        seed: Zeroizing::new([seed; 32]),
        controlling,
        scope,
        policy: Policy::Any,
    };
    Agent::new(config, now)
}

fn hosts(addresses: &[SocketAddr]) -> Vec<Candidate> {
    addresses.iter().map(|a| Candidate::host(*a)).collect()
}

fn end(seed: u8, controlling: bool, scope: Scope, addresses: &[&str], now: Instant) -> End {
    let mut agent = agent(seed, controlling, scope, now);
    let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    agent.set_local(hosts(&addresses), true, Nat::Unknown, now);
    End {
        agent,
        addresses,
        events: Vec::new(),
    }
}

impl World {
    fn new(scope: Scope, left: &[&str], right: &[&str]) -> Self {
        let now = Instant::now();
        Self {
            now,
            ends: [
                end(1, true, scope, left, now),
                end(2, false, scope, right, now),
            ],
            travelling: VecDeque::new(),
            dead: Vec::new(),
            signals: true,
            packets: 0,
        }
    }

    fn drain(&mut self) {
        for i in 0..2 {
            let end = &mut self.ends[i];
            while let Some(event) = end.agent.poll_event() {
                end.events.push(event);
            }
            while let Some(packet) = end.agent.poll_transmit() {
                self.packets += 1;
                if !self.dead.contains(&packet.destination) && !self.dead.contains(&packet.source) {
                    let message = Message::Packet {
                        from: packet.source,
                        to: packet.destination,
                        bytes: packet.contents,
                    };
                    self.travelling
                        .push_back((self.now + DELAY, 1 - i, message));
                }
            }
            while let Some(bytes) = end.agent.poll_signal(self.now) {
                if self.signals {
                    self.travelling
                        .push_back((self.now + DELAY, 1 - i, Message::Signal(bytes)));
                }
            }
        }
    }

    /// Lets `time` pass, each thing at its own moment.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.drain();
            let mut next = until;
            for end in &mut self.ends {
                next = end
                    .agent
                    .poll_timeout()
                    .map_or(next, |(at, _)| next.min(at));
            }
            next = self
                .travelling
                .front()
                .map_or(next, |(at, ..)| next.min(*at));
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next.max(self.now);
            while self
                .travelling
                .front()
                .is_some_and(|(at, ..)| *at <= self.now)
            {
                let (_, i, message) = self.travelling.pop_front().unwrap();
                let end = &mut self.ends[i];
                match message {
                    Message::Signal(bytes) => end.agent.handle_signal(&bytes, self.now).unwrap(),
                    Message::Packet { from, to, bytes } if end.addresses.contains(&to) => {
                        end.agent.handle_packet(&bytes, from, to, self.now);
                    }
                    Message::Packet { .. } => {}
                }
            }
            for end in &mut self.ends {
                end.agent.handle_timeout(self.now);
            }
        }
    }

    fn direct(&self, i: usize) -> (SocketAddr, SocketAddr, How) {
        match self.ends[i].agent.path() {
            Path::Direct { local, remote, how } => (*local, *remote, *how),
            other => unreachable!("end {i} has {other:?}"),
        }
    }
}

#[test]
fn two_ends_on_one_network_become_direct_within_a_second() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    world.run(Duration::from_secs(1));
    let (local, remote, how) = world.direct(0);
    assert_eq!(
        (local, remote),
        ("10.0.0.1:7".parse().unwrap(), "10.0.0.2:7".parse().unwrap())
    );
    assert_eq!(how, How::Plain);
    assert_eq!(world.direct(1).1, local);
    for end in &world.ends {
        let first = end.events.iter().find_map(|e| match e {
            PathEvent::Changed { reason, .. } => Some(*reason),
            _ => None,
        });
        assert_eq!(first, Some(Reason::Untranslated));
    }
}

#[test]
fn the_peers_address_is_known_as_a_source_before_the_path_is_reported() {
    let mut world = World::new(Scope::Local, &["127.0.0.1:7"], &["127.0.0.1:8"]);
    world.run(Duration::from_secs(1));
    for (i, end) in world.ends.iter().enumerate() {
        let remote = world.ends[1 - i].addresses[0];
        assert_eq!(end.events.first(), Some(&PathEvent::Source(remote)));
        assert_eq!(end.agent.path().to_string(), "local");
    }
}

#[test]
fn an_unreachable_address_does_not_hinder_a_reachable_one() {
    let mut world = World::new(
        Scope::Lan,
        &["10.0.0.1:7", "172.16.0.1:7"],
        &["10.0.0.2:7", "172.16.0.2:7"],
    );
    world.dead = vec!["10.0.0.1:7".parse().unwrap(), "10.0.0.2:7".parse().unwrap()];
    world.run(Duration::from_secs(3));
    assert_eq!(world.direct(0).1, "172.16.0.2:7".parse().unwrap());
    assert_eq!(world.direct(1).1, "172.16.0.1:7".parse().unwrap());
}

#[test]
fn lost_signals_are_repeated_until_the_peer_has_them_and_then_stop() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    world.signals = false;
    world.run(Duration::from_secs(5));
    assert!(!world.ends[0].agent.path().is_up());
    world.signals = true;
    world.run(Duration::from_secs(4));
    assert!(world.ends.iter().all(|e| e.agent.path().is_up()));
    world.run(Duration::from_secs(30));
    let now = world.now + Duration::from_secs(30);
    assert!(
        world
            .ends
            .iter_mut()
            .all(|e| e.agent.poll_signal(now).is_none())
    );
}

#[test]
fn a_twelve_second_outage_keeps_the_path() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    world.run(Duration::from_secs(30));
    world.dead = vec!["10.0.0.2:7".parse().unwrap()];
    world.run(Duration::from_secs(12));
    world.dead.clear();
    world.run(Duration::from_secs(20));
    for end in &world.ends {
        let changes = end
            .events
            .iter()
            .filter(|e| matches!(e, PathEvent::Changed { .. }));
        assert_eq!(
            changes.count(),
            1,
            "the path was reported lost: {:?}",
            end.events
        );
    }
}

#[test]
fn a_long_outage_is_reported_and_the_path_comes_back() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    world.run(Duration::from_secs(10));
    world.dead = vec!["10.0.0.2:7".parse().unwrap()];
    world.run(Duration::from_secs(90));
    for end in &world.ends {
        assert!(matches!(end.agent.path(), Path::Down { since: Some(_) }));
        let last = end.events.last().unwrap();
        assert!(matches!(
            last,
            PathEvent::Changed {
                reason: Reason::NoAnswer,
                ..
            }
        ));
    }
    world.dead.clear();
    world.run(Duration::from_secs(40));
    for end in &world.ends {
        let last = end.events.last().unwrap();
        assert!(
            matches!(
                last,
                PathEvent::Changed {
                    path: Path::Direct { .. },
                    ..
                }
            ),
            "{last:?}"
        );
    }
}

#[test]
fn addresses_that_never_answer_cost_a_bounded_number_of_packets() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7", "8.8.8.8:53"]);
    world.dead = world.ends[1].addresses.clone();
    world.run(Duration::from_mins(1));
    assert!(world.packets < 400, "{} packets in a minute", world.packets);
}

#[test]
fn a_check_without_the_password_leaves_no_trace() {
    let now = Instant::now();
    let mut honest = end(1, true, Scope::Lan, &["10.0.0.1:7"], now);
    let mut other = end(2, false, Scope::Lan, &["10.0.0.2:7"], now);
    let mut stranger = end(3, false, Scope::Lan, &["10.0.0.3:7"], now);
    let to_honest = other.agent.poll_signal(now).unwrap();
    honest.agent.handle_signal(&to_honest, now).unwrap();
    // The stranger knows the user fragments but not the password.
    let signal = String::from_utf8(honest.agent.poll_signal(now).unwrap()).unwrap();
    let password = signal.split("\"password\":\"").nth(1).unwrap();
    let guessed = signal.replace(&password[..32], &"guess".repeat(7)[..32]);
    stranger
        .agent
        .handle_signal(guessed.as_bytes(), now)
        .unwrap();
    stranger
        .agent
        .handle_timeout(now + Duration::from_millis(50));
    let check = stranger.agent.poll_transmit().unwrap();
    let source = "10.0.0.3:7".parse().unwrap();
    assert!(!honest.agent.accepts(&check.contents));
    assert!(
        !honest
            .agent
            .handle_packet(&check.contents, source, honest.addresses[0], now)
    );
    assert_eq!(honest.agent.poll_event(), None);
    // The same check with the right password is taken: the test would notice a broken check.
    other.agent.handle_signal(signal.as_bytes(), now).unwrap();
    other.agent.handle_timeout(now + Duration::from_millis(50));
    let check = other.agent.poll_transmit().unwrap();
    assert!(honest.agent.handle_packet(
        &check.contents,
        other.addresses[0],
        honest.addresses[0],
        now
    ));
    assert_eq!(
        honest.agent.poll_event(),
        Some(PathEvent::Source(other.addresses[0]))
    );
}

#[test]
fn garbage_and_floods_are_dropped() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    let (here, there) = (world.ends[0].addresses[0], world.ends[1].addresses[0]);
    let signal = world.ends[0].agent.poll_signal(world.now).unwrap();
    world.ends[1]
        .agent
        .handle_signal(&signal, world.now)
        .unwrap();
    world.ends[1]
        .agent
        .handle_timeout(world.now + Duration::from_millis(50));
    let check = world.ends[1].agent.poll_transmit().unwrap().contents;
    let honest = &mut world.ends[0].agent;
    // The last eight bytes are the FINGERPRINT attribute, which the HMAC does not cover.
    for length in 0..check.len() - 8 {
        assert!(!honest.handle_packet(&check[..length], there, here, world.now));
        let mut flipped = check.clone();
        flipped[length] ^= 0x55;
        assert!(!honest.handle_packet(&flipped, there, here, world.now));
    }
    assert!(!honest.handle_packet(&vec![0; 70_000], there, here, world.now));
    let loopback = "127.0.0.1:7".parse().unwrap();
    assert!(!honest.handle_packet(&check, loopback, here, world.now));

    let taken = (0..2 * MAX_CHECKS_PER_WINDOW)
        .filter(|_| honest.handle_packet(&check, there, here, world.now))
        .count();
    assert_eq!(taken, MAX_CHECKS_PER_WINDOW as usize);
}

#[test]
fn checks_from_addresses_without_number_are_not_answered() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    let (here, there) = (world.ends[0].addresses[0], world.ends[1].addresses[0]);
    let signal = world.ends[0].agent.poll_signal(world.now).unwrap();
    let peer = &mut world.ends[1].agent;
    peer.handle_signal(&signal, world.now).unwrap();
    peer.handle_timeout(world.now + Duration::from_millis(50));
    let check = peer.poll_transmit().unwrap().contents;
    let signal = world.ends[1].agent.poll_signal(world.now).unwrap();
    let honest = &mut world.ends[0].agent;
    honest.handle_signal(&signal, world.now).unwrap();
    let mut now = world.now;
    let mut taken = 0;
    for port in 1000..2000 {
        now += Duration::from_millis(10);
        let source = SocketAddr::new(there.ip(), port);
        taken += u64::from(honest.handle_packet(&check, source, here, now));
    }
    assert_eq!(taken, MAX_CHECK_SOURCES);
    // Those that are known are heard as before.
    now += Duration::from_secs(1);
    let known = SocketAddr::new(there.ip(), 1000);
    assert!(honest.handle_packet(&check, known, here, now));
    assert!(honest.handle_packet(&check, there, here, now));
}

#[test]
fn a_flood_of_signals_is_refused() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    let signal = world.ends[1].agent.poll_signal(world.now).unwrap();
    let honest = &mut world.ends[0].agent;
    for _ in 0..MAX_SIGNALS_PER_WINDOW {
        assert_eq!(honest.handle_signal(&signal, world.now), Ok(()));
    }
    assert_eq!(
        honest.handle_signal(&signal, world.now),
        Err(Refusal::RateLimited)
    );
    assert_eq!(
        honest.handle_signal(&signal, world.now + Duration::from_secs(11)),
        Ok(())
    );
}

#[test]
fn a_round_far_ahead_is_refused_and_one_behind_changes_nothing() {
    let mut world = World::new(Scope::Lan, &["10.0.0.1:7"], &["10.0.0.2:7"]);
    let signal = world.ends[1].agent.poll_signal(world.now).unwrap();
    let text = String::from_utf8(signal.clone()).unwrap();
    let of_round = |round: u32| text.replace("\"round\":0", &format!("\"round\":{round}"));
    let honest = &mut world.ends[0].agent;
    let far = MAX_ROUND_STEP + 1;
    assert_eq!(
        honest.handle_signal(of_round(far).as_bytes(), world.now),
        Err(Refusal::Round(far))
    );
    assert_eq!(
        honest.handle_signal(of_round(7).as_bytes(), world.now),
        Ok(())
    );
    assert_eq!(honest.round(), 7);
    assert_eq!(honest.handle_signal(&signal, world.now), Ok(()));
    assert_eq!(honest.round(), 7);
}
