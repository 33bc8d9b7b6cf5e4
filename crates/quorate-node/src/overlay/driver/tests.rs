//! The overlay's task, called directly: what it does with single events and commands.

use quorate_path::Policy;
use zeroize::Zeroizing;

use super::{learning::LEARN_BURST, *};
use crate::overlay::{Teller, lanes as lane};

async fn driver() -> (Driver, mpsc::Receiver<OverlayEvent>) {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("random");
    let config = OverlayConfig {
        secret: Zeroizing::new(seed),
        scope: Scope::Local,
        purpose: Purpose::Session,
        beacon_key: seed,
        hints: Vec::new(),
        reach: Reach::default(),
    };
    let shared = Shared {
        links: Links::default(),
        addresses: Addresses::default(),
    };
    let (events, receiver) = mpsc::channel(64);
    let (_, orders) = mpsc::channel(1);
    let driver = Driver::start(config, shared, events, orders, Instant::now());
    (driver.await.expect("loopback works"), receiver)
}

fn addresses(n: u32) -> Vec<String> {
    let ports = 1000 + n * 16..1016 + n * 16;
    ports
        .map(|port| format!("/ip4/127.0.0.1/tcp/{port}"))
        .collect()
}

#[tokio::test]
async fn an_address_that_is_gone_is_not_told_any_more() {
    let (mut driver, _events) = driver().await;
    let address = driver.listening[0].address.clone();
    let text = driver.with_peer(&address);
    assert!(driver.shared.addresses.list().contains(&text));
    driver.outbox.clear();
    driver.on_expired(&address);
    assert!(!driver.shared.addresses.list().contains(&text));
    let gone = OverlayEvent::Gone { address: text };
    assert!(driver.outbox.contains(&gone), "{:?}", driver.outbox);
    // Once.
    driver.outbox.clear();
    driver.on_expired(&address);
    assert!(driver.outbox.is_empty());
}

#[tokio::test]
async fn a_party_that_somebody_named_as_a_relay_is_no_way_to_others() {
    let (mut driver, _events) = driver().await;
    let now = Instant::now();
    let (party, other) = (PeerId::random(), PeerId::random());
    let circuit = format!("/ip4/127.0.0.1/tcp/1/p2p/{party}/p2p-circuit/p2p/{other}");
    let circuit = Endpoint::parse(&circuit, Scope::Local).expect("valid");
    driver
        .take_circuit(&circuit, now)
        .expect("nothing against it");
    driver.on_connected(party, ConnectionId::new_unchecked(77), now);
    assert_eq!(driver.relaying.table.ways_to(other, now).len(), 1);
    let (_sender, _receiver, order) = lane::pair(Policy::Any, vec![(1, party.to_string())]);
    driver.set_lanes(order, now);
    assert!(driver.relaying.table.ways_to(other, now).is_empty());
    assert!(driver.take_circuit(&circuit, now).is_err());
}

#[tokio::test]
async fn a48_who_tells_too_much_takes_nothing_away_from_others() {
    let (mut driver, _events) = driver().await;
    let now = Instant::now();
    let knows = |driver: &Driver, peer: PeerId, n: u32| {
        let last = addresses(n).pop().expect("some");
        let mut endpoint = Endpoint::parse(&last, Scope::Local).expect("valid");
        endpoint.peer = Some(peer);
        driver.dialing.knows(&peer, &endpoint)
    };
    let flood = Teller::Party(1);
    for n in 0..LEARN_BURST / 16 {
        let peer = PeerId::random().to_string();
        driver.learn(flood, &peer, &addresses(n), now);
    }
    let told: Vec<String> = addresses(100).split_off(15);
    for (teller, heard) in [
        (flood, false),
        (Teller::Record(1), true),
        (Teller::Party(2), true),
    ] {
        let peer = PeerId::random();
        driver.learn(teller, &peer.to_string(), &told, now);
        assert_eq!(knows(&driver, peer, 100), heard, "{teller:?}");
    }
}
