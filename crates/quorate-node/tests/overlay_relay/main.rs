//! Overlays that meet over relays only: links, lanes, fail-over, and relays and peers that misbehave.
//!
//! Everybody listens on loopback, but nobody knows anybody's direct address unless a test says so: the beacon keys
//! differ, and there is no mDNS in local scope.

#![allow(clippy::unwrap_used, clippy::panic)]

mod names;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p::{PeerId, identity::Keypair};
use quorate_identity::{Did, SigningKey};
use quorate_node::{
    overlay::{
        KnownRelay, LaneReceiver, LaneSender, Listen, MAX_FRAME_BYTES, Names, Overlay,
        OverlayConfig, OverlayEvent, Purpose, Reach, RelayConfig, RelayLimits, RelayRefusal,
        Relaying, Scope,
    },
    relay::{Relay, RelayOptions},
};
use quorate_path::Policy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::Receiver,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

/// Upper bound for everything that should happen soon.
const SOON: Duration = Duration::from_secs(30);
/// How the relay that calls itself north is named to people.
const NORTH: &str = "\"north\" (127.0.0.1)";

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// A relay on loopback with one TCP address.
async fn relay(name: &str) -> (Relay, String) {
    relay_with(name, RelayLimits::default()).await
}

async fn relay_with(name: &str, limits: RelayLimits) -> (Relay, String) {
    relay_for(name, limits, None).await
}

async fn relay_for(
    name: &str,
    limits: RelayLimits,
    allow: Option<HashSet<Did>>,
) -> (Relay, String) {
    let options = RelayOptions {
        node: RelayConfig {
            secret: Zeroizing::new(random()),
            listen: vec![Listen {
                address: "/ip4/127.0.0.1/tcp/0".into(),
                required: true,
            }],
            external: Vec::new(),
            limits,
            name: Some(name.into()),
            stun: Vec::new(),
            allow,
            guests: None,
        },
        stun: Some([0, 0]),
        metrics: None,
    };
    let relay = Relay::start(options).await.expect("loopback works");
    let address = relay.status().addresses[0].clone();
    (relay, address)
}

struct Node {
    overlay: Overlay,
    events: Receiver<OverlayEvent>,
    relays: Vec<KnownRelay>,
    notes: Vec<String>,
    /// The link that came up last.
    last_link: u64,
}

struct Start {
    seed: [u8; 32],
    hints: Vec<String>,
    relays: Vec<String>,
    relaying: Relaying,
    /// Relays that may learn whose key this is.
    passes: Vec<String>,
    key: Option<Arc<SigningKey>>,
    names: Names,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            seed: random(),
            hints: Vec::new(),
            relays: Vec::new(),
            relaying: Relaying::Any,
            passes: Vec::new(),
            key: None,
            names: Names::default(),
        }
    }
}

impl Start {
    fn over(relays: &[&str]) -> Self {
        Self {
            relays: relays.iter().map(|r| (*r).to_owned()).collect(),
            ..Self::default()
        }
    }

    async fn go(self) -> Node {
        let config = OverlayConfig {
            purpose: Purpose::Session,
            secret: Zeroizing::new(self.seed),
            scope: Scope::Local,
            beacon_key: random(),
            hints: self.hints,
            reach: Reach {
                relays: self.relays,
                relaying: self.relaying,
                map_ports: false,
                passes: self.passes,
                key: self.key,
                names: self.names,
            },
        };
        let (overlay, events) = Overlay::start(config).await.expect("loopback works");
        Node {
            overlay,
            events,
            relays: Vec::new(),
            notes: Vec::new(),
            last_link: 0,
        }
    }
}

impl Node {
    async fn event(&mut self) -> OverlayEvent {
        let event = timeout(SOON, self.events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("nothing happened; {:?}", self.notes));
        let event = event.expect("the overlay runs");
        match &event {
            OverlayEvent::Relay(status) => {
                self.relays.retain(|r| r.peer != status.peer);
                self.relays.push(status.clone());
            }
            OverlayEvent::RelayRefused { text, .. } => self.notes.push(text.clone()),
            OverlayEvent::Note(note) => self.notes.push(note.clone()),
            OverlayEvent::LinkUp { link, .. } => self.last_link = *link,
            _ => {}
        }
        event
    }

    async fn until(&mut self, what: impl Fn(&OverlayEvent) -> bool) -> OverlayEvent {
        loop {
            let event = self.event().await;
            if what(&event) {
                return event;
            }
        }
    }

    /// Waits for reservations at so many relays.
    async fn reserved(&mut self, relays: usize) {
        while self.relays.iter().filter(|r| r.reserved).count() < relays {
            self.event().await;
        }
    }

    async fn up(&mut self) -> (u64, String, String) {
        let up = |e: &OverlayEvent| matches!(e, OverlayEvent::LinkUp { .. });
        match self.until(up).await {
            OverlayEvent::LinkUp {
                link,
                peer,
                address,
                ..
            } => (link, peer, address),
            _ => unreachable!("waited for"),
        }
    }

    async fn frame(&mut self) -> Vec<u8> {
        let frame = |e: &OverlayEvent| matches!(e, OverlayEvent::Frame { .. });
        match self.until(frame).await {
            OverlayEvent::Frame { bytes, .. } => bytes,
            _ => unreachable!("waited for"),
        }
    }

    /// Waits for a note that says this.
    async fn noted(&mut self, word: &str) {
        while !self.notes.iter().any(|note| note.contains(word)) {
            self.event().await;
        }
    }

    /// The circuit addresses that lead here.
    fn circuits(&self) -> Vec<String> {
        let all = self.overlay.addresses().into_iter();
        all.filter(|a| a.contains("/p2p-circuit/")).collect()
    }

    fn direct(&self) -> String {
        let all = self.overlay.addresses().into_iter();
        let mut tcp = all.filter(|a| a.contains("/tcp/") && !a.contains("/p2p-circuit"));
        tcp.next().expect("listens on TCP")
    }
}

/// Two overlays with a link over a circuit; the first one has the lower `PeerId`.
async fn two_over(relays: &[&str]) -> (Node, Node) {
    let (mut a, mut b) = (
        Start::over(relays).go().await,
        Start::over(relays).go().await,
    );
    let id = |node: &Node| node.overlay.peer_id().parse::<PeerId>().unwrap();
    if id(&a) > id(&b) {
        std::mem::swap(&mut a, &mut b);
    }
    a.reserved(relays.len()).await;
    b.reserved(relays.len()).await;
    a.overlay.dial(b.circuits()[0].clone());
    let (_, peer, address) = a.up().await;
    assert_eq!(peer, b.overlay.peer_id());
    assert!(address.contains("/p2p-circuit"), "{address}");
    let (_, peer, address) = b.up().await;
    assert_eq!(peer, a.overlay.peer_id());
    assert!(address.contains("/p2p-circuit"), "{address}");
    (a, b)
}

async fn measured(lanes: &LaneSender, index: u16) -> Option<String> {
    let mut changed = lanes.changed();
    loop {
        if let Some(state) = lanes.state(index).filter(|s| s.rtt.is_some()) {
            return state.via;
        }
        timeout(SOON, changed.changed()).await.unwrap().unwrap();
    }
}

async fn received(lanes: &mut LaneReceiver) -> (u16, Vec<u8>) {
    let next = timeout(SOON, lanes.recv()).await.expect("in time");
    next.expect("lanes are there")
}

/// How long it takes until a datagram arrives, sent again and again as WireGuard would.
async fn arrives(from: &LaneSender, to: u16, at: &mut LaneReceiver, mark: u8) -> Duration {
    let began = Instant::now();
    loop {
        from.send(to, &[mark; 100]);
        match timeout(Duration::from_millis(100), at.recv()).await {
            Ok(Some((_, datagram))) if datagram == [mark; 100] => return began.elapsed(),
            Ok(Some((_, datagram))) => {
                let old = datagram.first().is_some_and(|m| datagram == [*m; 100]);
                assert!(old, "nobody sent {datagram:?}");
            }
            Err(_) => assert!(began.elapsed() < SOON, "nothing arrived"),
            Ok(None) => panic!("no lanes any more"),
        }
    }
}

#[tokio::test]
async fn a_link_over_a_circuit_carries_frames_and_the_relay_is_told_about() {
    let (relay, address) = relay("north").await;
    let (mut a, mut b) = two_over(&[&address]).await;
    while a.relays[0].name.is_none() || a.relays[0].rtt.is_none() {
        a.event().await;
    }
    let known = &a.relays[0];
    assert_eq!(known.name.as_deref(), Some("north"));
    assert_eq!(
        (&known.peer[..], &known.address),
        (relay.peer_id(), &address)
    );
    let ports: Vec<u16> = known.stun.iter().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports, relay.stun_ports());
    assert!(known.stun.iter().all(|s| s.ip().is_loopback()));
    let large = vec![7; MAX_FRAME_BYTES];
    let link = 1;
    assert!(a.overlay.send(link, large.clone()));
    assert_eq!(b.frame().await, large);
    assert_eq!(relay.status().circuits, 1);
    a.overlay.stop().await;
    b.until(|e| matches!(e, OverlayEvent::LinkDown { .. }))
        .await;
}

/// Somebody with the identity `n`, who shows it to relays of `passes` only.
fn somebody(n: u8, relays: &[&str], passes: &[&str]) -> Start {
    Start {
        passes: passes.iter().map(|r| (*r).to_owned()).collect(),
        key: Some(Arc::new(SigningKey::from_seed(&[n; 32]))),
        ..Start::over(relays)
    }
}

#[tokio::test]
async fn a_relay_with_a_list_serves_only_who_proves_a_did_of_it() {
    let listed = (1..=2).map(|n| SigningKey::from_seed(&[n; 32]).did());
    let limits = RelayLimits::default();
    let (relay, address) = relay_for("ours", limits, Some(listed.collect())).await;
    let all = [&address[..]];
    let mut one = somebody(1, &all, &all).go().await;
    let mut two = somebody(2, &all, &all).go().await;
    one.reserved(1).await;
    two.reserved(1).await;
    one.overlay.dial(two.circuits()[0].clone());
    one.up().await;

    // Somebody else who proves a DID, and somebody listed who does not want to be known.
    let mut outsider = somebody(3, &all, &all).go().await;
    outsider.noted("E_NOT_LISTED").await;
    outsider.noted("does not let us in").await;
    let mut quiet = somebody(1, &all, &[]).go().await;
    quiet.noted("--relay-pass").await;
    // Neither gets a circuit to whoever is there, although it knows the way.
    for node in [&mut outsider, &mut quiet] {
        node.overlay.dial(two.circuits()[0].clone());
    }
    let refused = |relay: &Relay, why: RelayRefusal| {
        let at = RelayRefusal::ALL.iter().position(|r| *r == why);
        relay.status().refused[at.expect("one of them")]
    };
    let twice = async {
        while refused(&relay, RelayRefusal::Circuit) < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, twice).await.expect("both were refused");
    assert!(refused(&relay, RelayRefusal::Pass) >= 1);
    assert!(refused(&relay, RelayRefusal::Reservation) >= 1);
    assert_eq!(
        (relay.status().reservations, relay.status().circuits),
        (2, 1)
    );
    for node in [&outsider, &quiet] {
        assert!(node.relays.iter().all(|r| !r.reserved));
        assert_eq!(node.last_link, 0);
    }
}

#[tokio::test]
async fn an_open_relay_is_shown_no_did_and_serves_those_who_would_show_one() {
    let (relay, address) = relay("north").await;
    let all = [&address[..]];
    let mut node = somebody(1, &all, &all).go().await;
    node.reserved(1).await;
    assert_eq!(relay.status().reservations, 1);
    assert!(node.notes.is_empty(), "{:?}", node.notes);
}

#[tokio::test]
async fn a_lane_over_a_circuit_carries_datagrams_and_names_its_relay() {
    let (_relay, address) = relay("north").await;
    let (a, b) = two_over(&[&address]).await;
    let (to_b, mut from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    let (to_a, mut from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    assert_eq!(measured(&to_b, 2).await.as_deref(), Some(NORTH));
    assert_eq!(measured(&to_a, 1).await.as_deref(), Some(NORTH));
    for n in 0..100_u8 {
        assert!(to_b.send(2, &[n; 1400]));
        assert_eq!(received(&mut from_a).await, (1, vec![n; 1400]));
        assert!(to_a.send(1, &[n; 1400]));
        assert_eq!(received(&mut from_b).await, (2, vec![n; 1400]));
    }
}

/// Waits for a circuit over each: the spare one is there, too.
async fn both_carry(first: &Relay, second: &Relay) {
    let ready = async {
        while first.status().circuits == 0 || second.status().circuits == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, ready).await.expect("a spare circuit");
}

#[tokio::test]
async fn f13_another_relay_carries_within_ten_seconds_when_one_dies() {
    let (first, one) = relay("one").await;
    let (second, two) = relay("two").await;
    let (a, b) = two_over(&[&one, &two]).await;
    let (to_b, _from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    let (_to_a, mut from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    let via = measured(&to_b, 2).await.expect("over a relay");
    arrives(&to_b, 2, &mut from_a, 1).await;
    both_carry(&first, &second).await;
    let (dying, left) = if via.starts_with("\"one\"") {
        (first, "\"two\" (127.0.0.1)")
    } else {
        (second, "\"one\" (127.0.0.1)")
    };
    dying.stop().await;
    let gap = arrives(&to_b, 2, &mut from_a, 2).await;
    assert!(gap < Duration::from_secs(10), "{gap:?}");
    let mut changed = to_b.changed();
    while to_b.state(2).is_none_or(|s| s.via.as_deref() != Some(left)) {
        timeout(SOON, changed.changed()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn f13_another_relay_carries_within_ten_seconds_when_one_falls_silent() {
    let (first, one) = relay("one").await;
    let (second, two) = relay("two").await;
    let (ice_one, ice_two) = (Freezer::before(&one).await, Freezer::before(&two).await);
    let (a, b) = two_over(&[&ice_one.address, &ice_two.address]).await;
    let (to_b, _from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    let (_to_a, mut from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    let via = measured(&to_b, 2).await.expect("over a relay");
    arrives(&to_b, 2, &mut from_a, 1).await;
    both_carry(&first, &second).await;
    let dying = if via.starts_with("\"one\"") {
        &ice_one
    } else {
        &ice_two
    };
    dying.frozen.store(true, Ordering::Relaxed);
    let gap = arrives(&to_b, 2, &mut from_a, 2).await;
    assert!(gap < Duration::from_secs(10), "{gap:?}");
}

/// Lets the networks of some of two parties change, the one with the lower `PeerId` first in the list.
async fn is_back_after_a_change(of: [bool; 2]) {
    let (_relay, address) = relay("north").await;
    let ways = [
        Freezer::before(&address).await,
        Freezer::before(&address).await,
    ];
    let mut ends = Vec::new();
    for way in ways {
        let mut node = Start::over(&[&way.address]).go().await;
        node.reserved(1).await;
        ends.push((node.overlay.peer_id().parse::<PeerId>().unwrap(), node, way));
    }
    ends.sort_by_key(|(peer, ..)| *peer);
    let (_, b, to_b_way) = ends.pop().unwrap();
    let (_, mut a, to_a_way) = ends.pop().unwrap();
    a.overlay.dial(b.circuits()[0].clone());
    a.up().await;
    let (to_b, mut from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    let (to_a, mut from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    arrives(&to_b, 2, &mut from_a, 1).await;
    arrives(&to_a, 1, &mut from_b, 1).await;
    for (way, changes) in [to_a_way, to_b_way].iter().zip(of) {
        if changes {
            way.change_network();
        }
    }
    let gap = arrives(&to_b, 2, &mut from_a, 2).await;
    assert!(gap < Duration::from_secs(10), "{gap:?}");
    arrives(&to_a, 1, &mut from_b, 2).await;
    // Signals of the path agents go over the session's link.
    while !a.overlay.send(a.last_link, b"still there".to_vec()) {
        a.up().await;
    }
}

#[tokio::test]
async fn f20_the_party_that_dials_is_back_over_the_relay_when_its_network_changed() {
    is_back_after_a_change([true, false]).await;
}

#[tokio::test]
async fn f20_the_party_that_is_dialled_is_back_over_the_relay_when_its_network_changed() {
    is_back_after_a_change([false, true]).await;
}

#[tokio::test]
async fn f20_two_parties_are_back_over_the_relay_when_both_networks_changed() {
    is_back_after_a_change([true, true]).await;
}

#[tokio::test]
async fn a39_a_relay_that_changes_what_it_carries_is_left_for_another_one() {
    let (first, one) = relay("one").await;
    let (second, two) = relay("two").await;
    let (bad_one, bad_two) = (Freezer::before(&one).await, Freezer::before(&two).await);
    let (mut a, b) = two_over(&[&bad_one.address, &bad_two.address]).await;
    let (to_b, _from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    let (_to_a, mut from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    let via = measured(&to_b, 2).await.expect("over a relay");
    arrives(&to_b, 2, &mut from_a, 1).await;
    both_carry(&first, &second).await;
    let bad = if via.starts_with("\"one\"") {
        &bad_one
    } else {
        &bad_two
    };
    bad.garbles.store(true, Ordering::Relaxed);
    let gap = arrives(&to_b, 2, &mut from_a, 2).await;
    assert!(gap < Duration::from_secs(10), "{gap:?}");
    // The session comes back too, if it went that way, and to nobody else.
    while !a.overlay.send(a.last_link, b"still there".to_vec()) {
        let (_, peer, _) = a.up().await;
        assert_eq!(peer, b.overlay.peer_id());
    }
}

#[tokio::test]
async fn the_session_and_the_lane_move_to_a_direct_connection() {
    let (relay, address) = relay("north").await;
    let (mut a, mut b) = two_over(&[&address]).await;
    let (to_b, _from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    let (to_a, mut from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    assert_eq!(measured(&to_b, 2).await.as_deref(), Some(NORTH));
    b.overlay.dial(a.direct());
    let (link, _, now_at) = a.up().await;
    assert!(!now_at.contains("/p2p-circuit"), "{now_at}");
    let (_, _, now_at) = b.up().await;
    assert!(!now_at.contains("/p2p-circuit"), "{now_at}");
    assert!(a.overlay.send(link, b"moved".to_vec()));
    assert_eq!(b.frame().await, b"moved");
    for (lanes, index) in [(&to_b, 2), (&to_a, 1)] {
        let mut changed = lanes.changed();
        while lanes.state(index).is_none_or(|s| s.via.is_some()) {
            timeout(SOON, changed.changed()).await.unwrap().unwrap();
        }
    }
    arrives(&to_b, 2, &mut from_a, 1).await;
    assert!(relay.status().circuits <= 1);
}

#[tokio::test]
async fn where_only_direct_ways_are_allowed_the_first_lane_is_a_direct_one() {
    let (_relay, address) = relay("north").await;
    let (a, b) = two_over(&[&address]).await;
    let peers = |index, node: &Node| vec![(index, node.overlay.peer_id())];
    let (to_b, _from_b) = a.overlay.lanes_under(Policy::Direct, peers(2, &b));
    let (to_a, _from_a) = b.overlay.lanes_under(Policy::Direct, peers(1, &a));
    b.overlay.dial(a.direct());
    assert_eq!(measured(&to_b, 2).await, None);
    assert_eq!(measured(&to_a, 1).await, None);
}

#[tokio::test]
async fn where_only_relays_are_allowed_two_on_one_machine_use_one() {
    let (relay, address) = relay("north").await;
    let (mut a, mut b) = (
        Start::over(&[&address]).go().await,
        Start::over(&[&address]).go().await,
    );
    a.reserved(1).await;
    b.reserved(1).await;
    a.overlay.dial(b.direct());
    let (_, _, at) = a.up().await;
    assert!(!at.contains("/p2p-circuit"), "{at}");
    b.up().await;
    let peers = |index, node: &Node| vec![(index, node.overlay.peer_id())];
    let (to_b, _from_b) = a.overlay.lanes_under(Policy::Relay, peers(2, &b));
    let (to_a, mut from_a) = b.overlay.lanes_under(Policy::Relay, peers(1, &a));
    assert_eq!(measured(&to_b, 2).await.as_deref(), Some(NORTH));
    assert_eq!(measured(&to_a, 1).await.as_deref(), Some(NORTH));
    arrives(&to_b, 2, &mut from_a, 1).await;
    assert_eq!(relay.status().circuits, 1);
}

#[tokio::test]
async fn a40_a_wrong_peer_behind_a_circuit_is_never_linked() {
    let (relay, address) = relay("north").await;
    let mut b = Start::over(&[&address]).go().await;
    b.reserved(1).await;
    let wanted = PeerId::random();
    // Somebody claims that the wanted peer is at b's circuit, and that the relay is another one.
    let circuit = format!("{address}/p2p-circuit/p2p/{wanted}");
    let other = address.replace(relay.peer_id(), &PeerId::random().to_string());
    let mut a = Start {
        hints: vec![
            circuit,
            format!("{other}/p2p-circuit/p2p/{}", b.overlay.peer_id()),
        ],
        ..Start::over(&[&address])
    }
    .go()
    .await;
    a.reserved(1).await;
    let up = |e: &OverlayEvent| matches!(e, OverlayEvent::LinkUp { .. });
    let linked = timeout(Duration::from_secs(4), a.until(up)).await;
    assert!(linked.is_err(), "{linked:?}");
}

#[tokio::test]
async fn only_own_relays_are_used_where_that_is_asked_for() {
    let (_relay, own) = relay("own").await;
    let (foreign, theirs) = relay("theirs").await;
    let mut b = Start::over(&[&theirs, &own]).go().await;
    b.reserved(2).await;
    let over = |relay: &str| {
        let mut all = b.circuits().into_iter();
        all.find(|c| c.starts_with(relay)).expect("reserved")
    };
    let mut a = Start {
        hints: vec![over(&theirs)],
        relaying: Relaying::OwnOnly,
        ..Start::over(&[&own])
    }
    .go()
    .await;
    a.until(|e| matches!(e, OverlayEvent::Note(n) if n.contains("only own relays")))
        .await;
    assert_eq!(foreign.status().connections, 1, "b's only");
    a.overlay.dial(over(&own));
    a.up().await;
    let mut never = Start {
        hints: vec![over(&own)],
        relaying: Relaying::Never,
        ..Start::over(&[&own])
    }
    .go()
    .await;
    never
        .until(|e| matches!(e, OverlayEvent::Note(n) if n.contains("relays are not used")))
        .await;
    assert!(never.circuits().is_empty());
}

#[tokio::test]
async fn a_relay_of_somebody_else_is_used_when_it_is_in_an_address() {
    let (_relay, theirs) = relay("theirs").await;
    let mut b = Start::over(&[&theirs]).go().await;
    b.reserved(1).await;
    let mut a = Start {
        hints: b.circuits(),
        ..Start::default()
    }
    .go()
    .await;
    let (_, peer, _) = a.up().await;
    assert_eq!(peer, b.overlay.peer_id());
    assert!(a.circuits().is_empty(), "no reservation is made there");
}

#[tokio::test]
async fn a_full_relay_is_said_to_be_and_the_next_one_is_taken() {
    let limits = RelayLimits {
        reservations: 1,
        ..RelayLimits::default()
    };
    let (_small, full) = relay_with("small", limits).await;
    let (_other, free) = relay("other").await;
    let mut first = Start::over(&[&full]).go().await;
    first.reserved(1).await;
    let mut second = Start::over(&[&full, &free]).go().await;
    second.reserved(1).await;
    assert!(second.circuits().iter().all(|c| c.starts_with(&free)));
    while !second.notes.iter().any(|n| n.contains("does not take us")) {
        second.event().await;
    }
}

#[tokio::test]
async fn a_relay_that_comes_late_is_found_late() {
    // Below those that the system gives to others meanwhile.
    let number = |random: [u8; 32]| 20_000 + u16::from_be_bytes([random[0], random[1]]) % 12_000;
    let at = loop {
        let port = number(random());
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            break port;
        }
    };
    let secret = random();
    let mut seed = secret;
    let peer = Keypair::ed25519_from_bytes(&mut seed[..]).unwrap();
    let peer = peer.public().to_peer_id();
    let address = format!("/ip4/127.0.0.1/tcp/{at}/p2p/{peer}");
    let mut a = Start::over(&[&address]).go().await;
    a.until(|e| matches!(e, OverlayEvent::Note(n) if n.contains("cannot be reached")))
        .await;
    let options = RelayOptions {
        node: RelayConfig {
            secret: Zeroizing::new(secret),
            listen: vec![Listen {
                address: format!("/ip4/127.0.0.1/tcp/{at}"),
                required: true,
            }],
            external: Vec::new(),
            limits: RelayLimits::default(),
            name: None,
            stun: Vec::new(),
            allow: None,
            guests: None,
        },
        stun: None,
        metrics: None,
    };
    let _relay = Relay::start(options).await.expect("loopback works");
    a.reserved(1).await;
}

/// A TCP proxy before a relay that can stop passing anything on, without closing anything, or change what it passes on.
struct Freezer {
    address: String,
    frozen: Arc<AtomicBool>,
    garbles: Arc<AtomicBool>,
    /// Connections from before the last change of the network pass nothing on.
    changes: Arc<AtomicUsize>,
}

impl Freezer {
    async fn before(relay: &str) -> Self {
        let port: u16 = relay.split('/').nth(4).unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let frozen = Arc::new(AtomicBool::new(false));
        let garbles = Arc::new(AtomicBool::new(false));
        let changes = Arc::new(AtomicUsize::new(0));
        let flags = [Arc::clone(&frozen), Arc::clone(&garbles)];
        let of = Arc::clone(&changes);
        tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                let since = (of.load(Ordering::Relaxed), Arc::clone(&of));
                let outer = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (inner_read, inner_write) = inner.into_split();
                let (outer_read, outer_write) = outer.into_split();
                let (flags, since) = (flags.clone(), since.clone());
                tokio::spawn(pass(inner_read, outer_write, flags.clone(), since.clone()));
                tokio::spawn(pass(outer_read, inner_write, flags, since));
            }
        });
        let address = relay.replacen(&format!("/tcp/{port}/"), &format!("/tcp/{own}/"), 1);
        Self {
            address,
            frozen,
            garbles,
            changes,
        }
    }

    /// What is connected is dead from now on, and neither end is told.
    fn change_network(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    [frozen, garbles]: [Arc<AtomicBool>; 2],
    (since, changes): (usize, Arc<AtomicUsize>),
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        while frozen.load(Ordering::Relaxed) || changes.load(Ordering::Relaxed) > since {
            sleep(Duration::from_millis(50)).await;
        }
        if garbles.load(Ordering::Relaxed) {
            buffer[read - 1] ^= 1;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
