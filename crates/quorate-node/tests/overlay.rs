//! The overlay on loopback: discovery, links, frames, back-pressure, and hostile peers.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::HashMap, sync::Arc, time::Duration};

use libp2p::{PeerId, identity::Keypair};
use quorate_node::overlay::{
    LINK_QUEUE_BYTES, LINK_QUEUE_FRAMES, MAX_FRAME_BYTES, Overlay, OverlayConfig, OverlayEvent,
    Purpose, Scope,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc::Receiver},
    time::timeout,
};
use zeroize::Zeroizing;

/// Upper bound for everything that should happen soon.
const SOON: Duration = Duration::from_secs(30);

struct Node {
    overlay: Overlay,
    events: Receiver<OverlayEvent>,
    /// Links that are up: peer by link.
    up: HashMap<u64, String>,
    /// How many times each peer came up.
    ups: HashMap<String, usize>,
    notes: Vec<String>,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

impl Node {
    async fn start(beacon_key: [u8; 32], hints: Vec<String>) -> Self {
        Self::start_as(random(), beacon_key, hints).await
    }

    async fn start_as(seed: [u8; 32], beacon_key: [u8; 32], hints: Vec<String>) -> Self {
        let config = OverlayConfig {
            purpose: Purpose::Session,
            secret: Zeroizing::new(seed),
            scope: Scope::Local,
            beacon_key,
            hints,
            reach: quorate_node::overlay::Reach::default(),
        };
        let (overlay, events) = Overlay::start(config).await.expect("loopback works");
        Self {
            overlay,
            events,
            up: HashMap::new(),
            ups: HashMap::new(),
            notes: Vec::new(),
        }
    }

    /// The next event that is not about listening, with the books kept.
    async fn event(&mut self) -> OverlayEvent {
        loop {
            let event = timeout(SOON, self.events.recv())
                .await
                .unwrap_or_else(|_| panic!("nothing happened; notes: {:?}", self.notes))
                .expect("the overlay runs");
            match &event {
                OverlayEvent::LinkUp { link, peer, .. } => {
                    assert!(
                        !self.up.values().any(|p| p == peer),
                        "a second link to {peer}"
                    );
                    self.up.insert(*link, peer.clone());
                    *self.ups.entry(peer.clone()).or_default() += 1;
                }
                OverlayEvent::LinkDown { link } => {
                    assert!(self.up.remove(link).is_some(), "down without up");
                }
                OverlayEvent::Frame { link, .. } => {
                    assert!(self.up.contains_key(link), "a frame outside of a link");
                }
                OverlayEvent::Note(note) => self.notes.push(note.clone()),
                OverlayEvent::Listening { .. }
                | OverlayEvent::Gone { .. }
                | OverlayEvent::Relay(_)
                | OverlayEvent::RelayRefused { .. }
                | OverlayEvent::Reachable { .. } => continue,
            }
            return event;
        }
    }

    async fn until_up<const N: usize>(&mut self, peers: [&str; N]) {
        while !peers.iter().all(|peer| self.up.values().any(|p| p == peer)) {
            self.event().await;
        }
    }

    async fn until_down(&mut self, peer: &str) {
        while self.up.values().any(|p| p == peer) {
            self.event().await;
        }
    }

    async fn until_note(&mut self, part: &str) {
        while !self.notes.iter().any(|n| n.contains(part)) {
            self.event().await;
        }
    }

    async fn frame(&mut self) -> (String, Vec<u8>) {
        loop {
            if let OverlayEvent::Frame { link, bytes } = self.event().await {
                return (self.up[&link].clone(), bytes);
            }
        }
    }

    /// The TCP address on `127.0.0.1`, without the peer.
    fn tcp(&self) -> String {
        let all = self.overlay.addresses();
        let tcp = all.iter().find(|a| a.starts_with("/ip4/127.0.0.1/tcp/"));
        tcp.expect("it listens")
            .split("/p2p/")
            .next()
            .unwrap()
            .to_owned()
    }

    fn link(&self, peer: &str) -> u64 {
        let found = self.up.iter().find(|(_, p)| *p == peer);
        *found.expect("the link is up").0
    }

    fn id(&self) -> String {
        self.overlay.peer_id()
    }
}

/// Brings `a` and `b` together by their books.
async fn meet(a: &mut Node, b: &mut Node) {
    let (ida, idb) = (a.id(), b.id());
    tokio::join!(a.until_up([&idb]), b.until_up([&ida]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_parties_find_each_other_by_the_beacon_alone() {
    let key = random();
    let mut a = Node::start(key, vec![]).await;
    let mut b = Node::start(key, vec![]).await;
    let mut c = Node::start(key, vec![]).await;
    let (ida, idb, idc) = (a.id(), b.id(), c.id());
    tokio::join!(
        a.until_up([&idb, &idc]),
        b.until_up([&ida, &idc]),
        c.until_up([&ida, &idb]),
    );
    for node in [a, b, c] {
        assert!(node.ups.values().all(|n| *n == 1), "{:?}", node.ups);
        node.overlay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_alone_are_enough() {
    for transport in ["/tcp/", "/quic-v1"] {
        let mut a = Node::start(random(), vec![]).await;
        let with_peer: String = a
            .overlay
            .addresses()
            .into_iter()
            .find(|address| address.contains(transport))
            .expect("both transports listen");
        let without_peer = with_peer.split("/p2p/").next().unwrap().to_owned();
        let mut b = Node::start(random(), vec![with_peer]).await;
        meet(&mut a, &mut b).await;
        let mut c = Node::start(random(), vec![without_peer]).await;
        meet(&mut a, &mut c).await;
        assert_eq!((b.up.len(), c.up.len()), (1, 1));
        for node in [a, b, c] {
            node.overlay.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_whole_and_in_order_in_both_directions() {
    let mut a = Node::start(random(), vec![]).await;
    let mut b = Node::start(random(), a.overlay.addresses()).await;
    meet(&mut a, &mut b).await;
    let sizes = [1, 2, 1000, MAX_FRAME_BYTES, 3, MAX_FRAME_BYTES - 1];
    let frames: Vec<Vec<u8>> = (0_u8..)
        .zip(sizes)
        .map(|(n, size)| (0..251).map(|i| i ^ n).cycle().take(size).collect())
        .collect();
    let (to_b, to_a) = (a.link(&b.id()), b.link(&a.id()));
    for frame in &frames {
        assert!(a.overlay.send(to_b, frame.clone()));
        assert!(b.overlay.send(to_a, frame.clone()));
    }
    for frame in &frames {
        assert_eq!(b.frame().await, (a.id(), frame.clone()));
        assert_eq!(a.frame().await, (b.id(), frame.clone()));
    }
    a.overlay.stop().await;
    b.overlay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_a_wrong_size_are_refused_by_send() {
    let mut a = Node::start(random(), vec![]).await;
    let mut b = Node::start(random(), a.overlay.addresses()).await;
    meet(&mut a, &mut b).await;
    let link = a.link(&b.id());
    assert!(!a.overlay.send(link, vec![0; MAX_FRAME_BYTES + 1]));
    assert!(!a.overlay.send(link, vec![]));
    assert!(!a.overlay.send(link + 1, vec![1]), "no such link");
    assert!(a.overlay.send(link, vec![7]));
    assert_eq!(b.frame().await.1, [7]);
    a.overlay.stop().await;
    b.overlay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialling_at_the_same_time_makes_one_link() {
    for _ in 0..5 {
        let mut a = Node::start(random(), vec![]).await;
        let mut b = Node::start(random(), vec![]).await;
        for address in b.overlay.addresses() {
            a.overlay.dial(address);
        }
        for address in a.overlay.addresses() {
            b.overlay.dial(address);
        }
        meet(&mut a, &mut b).await;
        // A frame each way after a round trip: whatever else was dialled has been seen by then.
        for n in 0..3 {
            let (to_b, to_a) = (a.link(&b.id()), b.link(&a.id()));
            assert!(a.overlay.send(to_b, vec![n]));
            assert_eq!(b.frame().await.1, [n]);
            assert!(b.overlay.send(to_a, vec![n]));
            assert_eq!(a.frame().await.1, [n]);
        }
        assert_eq!(a.ups[&b.id()], 1);
        assert_eq!(b.ups[&a.id()], 1);
        a.overlay.stop().await;
        b.overlay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_peer_is_seen_and_its_successor_too() {
    let key = random();
    let mut a = Node::start(key, vec![]).await;
    let mut b = Node::start(key, vec![]).await;
    let mut c = Node::start(key, vec![]).await;
    let (ida, idb, idc) = (a.id(), b.id(), c.id());
    tokio::join!(
        a.until_up([&idb, &idc]),
        b.until_up([&ida, &idc]),
        c.until_up([&ida, &idb]),
    );
    // Stopping sends what is queued, even if that is much.
    let words = LINK_QUEUE_BYTES / MAX_FRAME_BYTES;
    for n in 0..words {
        assert!(c.overlay.send(
            c.link(&ida),
            vec![u8::try_from(n).unwrap(); MAX_FRAME_BYTES]
        ));
    }
    c.overlay.stop().await;
    for n in 0..words {
        let last = vec![u8::try_from(n).unwrap(); MAX_FRAME_BYTES];
        assert_eq!(a.frame().await, (idc.clone(), last));
    }
    tokio::join!(a.until_down(&idc), b.until_down(&idc));
    let mut c = Node::start(key, vec![]).await;
    let again = c.id();
    assert_ne!(again, idc);
    tokio::join!(
        a.until_up([&idb, &again]),
        b.until_up([&ida, &again]),
        c.until_up([&ida, &idb]),
    );
    assert_eq!(a.ups[&idb], 1, "the other link was not disturbed");
    for node in [a, b, c] {
        node.overlay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_beacon_key_learns_nothing() {
    let key = random();
    let mut stranger = Node::start(random(), vec![]).await;
    let mut a = Node::start(key, vec![]).await;
    let mut b = Node::start(key, vec![]).await;
    meet(&mut a, &mut b).await;
    let mut c = Node::start(key, vec![]).await;
    let (ida, idb, idc) = (a.id(), b.id(), c.id());
    tokio::join!(
        a.until_up([&idc]),
        b.until_up([&idc]),
        c.until_up([&ida, &idb])
    );
    // The stranger was there first and heard all that was sent; now it is asked what it noticed.
    stranger.overlay.dial("nonsense".into());
    stranger.until_note("nonsense").await;
    assert!(stranger.ups.is_empty());
    assert_eq!((a.ups.len(), b.ups.len(), c.ups.len()), (2, 2, 2));
    for node in [stranger, a, b, c] {
        node.overlay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_and_foreign_hints_are_noted() {
    let hints = [
        "garbage",
        "/ip4/192.0.2.1/tcp/4001",
        "/dns4/localhost/tcp/1",
    ];
    let mut a = Node::start(random(), hints.map(str::to_owned).to_vec()).await;
    for hint in hints {
        a.until_note(hint).await;
    }
    assert_eq!(a.notes.len(), hints.len());
    a.overlay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_pushes_back_and_disturbs_nobody() {
    let mut a = Node::start(random(), vec![]).await;
    let mut slow = Node::start(random(), a.overlay.addresses()).await;
    let mut other = Node::start(random(), a.overlay.addresses()).await;
    meet(&mut a, &mut slow).await;
    meet(&mut a, &mut other).await;
    let (to_slow, to_other) = (a.link(&slow.id()), a.link(&other.id()));

    // `slow` takes no events from here on. `other` answers each frame, which paces the loop.
    let mut accepted = 0;
    let mut refused = 0;
    for n in 0_u32.. {
        if refused > 100 {
            break;
        }
        assert!(accepted < 10_000, "no back-pressure");
        if a.overlay.send(to_slow, vec![9; 64 * 1024]) {
            accepted += 1;
            refused = 0;
        } else {
            refused += 1;
        }
        assert!(a.overlay.send(to_other, n.to_be_bytes().to_vec()));
        assert_eq!(other.frame().await.1, n.to_be_bytes());
    }
    assert!(accepted >= LINK_QUEUE_FRAMES, "{accepted}");

    // When it takes them again, everything that was accepted arrives.
    for _ in 0..accepted {
        assert_eq!(slow.frame().await.1.len(), 64 * 1024);
    }
    assert_eq!(a.ups[&slow.id()], 1);
    for node in [a, slow, other] {
        node.overlay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_link_sends_what_is_queued_and_goes_down_on_both_ends() {
    let mut a = Node::start(random(), vec![]).await;
    let mut b = Node::start(random(), a.overlay.addresses()).await;
    let mut c = Node::start(random(), a.overlay.addresses()).await;
    meet(&mut a, &mut b).await;
    meet(&mut a, &mut c).await;
    let link = a.link(&b.id());
    assert!(a.overlay.send(link, b"goodbye".to_vec()));
    a.overlay.close_link(link);
    assert!(!a.overlay.send(link, vec![1]));
    assert_eq!(b.frame().await.1, b"goodbye");
    let (ida, idb) = (a.id(), b.id());
    a.until_down(&idb).await;
    b.until_down(&ida).await;
    assert!(a.overlay.send(a.link(&c.id()), vec![1]));
    assert_eq!(c.frame().await.1, [1], "the other link is untouched");
    assert_eq!(a.ups[&idb], 1);
    for node in [a, b, c] {
        node.overlay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_is_dialled_until_somebody_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().unwrap().port();
    let a = Node::start(random(), vec![format!("/ip4/127.0.0.1/tcp/{port}")]).await;
    for _ in 0..4 {
        // Accepted and dropped at once: not a peer.
        timeout(SOON, listener.accept())
            .await
            .expect("dialled again")
            .expect("accepted");
    }
    a.overlay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_a_link_down_and_a_new_link() {
    let mut a = Node::start(random(), vec![]).await;
    let target = format!("127.0.0.1:{}", a.tcp().rsplit('/').next().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().unwrap().port();
    // A wire between the two that can be cut.
    let cut = Arc::new(Notify::new());
    let cutting = Arc::clone(&cut);
    let wire = tokio::spawn(async move {
        loop {
            let (mut one, _) = listener.accept().await.expect("accepted");
            let mut other = TcpStream::connect(&target).await.expect("connected");
            tokio::select! {
                _ = copy_bidirectional(&mut one, &mut other) => {}
                () = cutting.notified() => {}
            }
        }
    });
    let mut b = Node::start(random(), vec![format!("/ip4/127.0.0.1/tcp/{port}")]).await;
    let (ida, idb) = (a.id(), b.id());
    for run in 1..=3 {
        meet(&mut a, &mut b).await;
        assert_eq!((a.ups[&idb], b.ups[&ida]), (run, run));
        assert!(b.overlay.send(b.link(&ida), vec![7]));
        assert_eq!(a.frame().await.1, [7]);
        cut.notify_one();
        tokio::join!(a.until_down(&idb), b.until_down(&ida));
    }
    meet(&mut a, &mut b).await;
    a.overlay.stop().await;
    b.overlay.stop().await;
    wire.abort();
}

/// A peer whose old connection is not known to be dead yet comes back: the new link replaces the
/// old one, and down comes before up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_stream_of_the_same_peer_replaces_the_old_link() {
    let mut a = Node::start(random(), vec![]).await;
    let ida: PeerId = a.id().parse().unwrap();
    // Only the lower one opens streams, so the twins have to be the lower one.
    let seed = loop {
        let seed = random();
        let pair = Keypair::ed25519_from_bytes(seed).unwrap();
        if pair.public().to_peer_id() < ida {
            break seed;
        }
    };
    let mut first = Node::start_as(seed, random(), vec![a.tcp()]).await;
    meet(&mut a, &mut first).await;
    let id = first.id();
    let old = a.link(&id);
    let second = Node::start_as(seed, random(), vec![a.tcp()]).await;
    assert_eq!(second.id(), id);
    while a.ups[&id] < 2 {
        a.event().await;
    }
    assert_ne!(a.link(&id), old);
    first.until_down(&a.id()).await;
    for node in [first, second, a] {
        node.overlay.stop().await;
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = OverlayConfig {
        purpose: Purpose::Session,
        secret: Zeroizing::new([0xab; 32]),
        scope: Scope::Local,
        beacon_key: [0xcd; 32],
        hints: vec![],
        reach: quorate_node::overlay::Reach::default(),
    };
    let shown = format!("{config:?}");
    assert!(shown.contains("(secret)"));
    assert!(!shown.contains("171") && !shown.contains("205"), "{shown}");
}
