//! Parties that meet over a relay and come to a direct connection; parties that are relays for each other, and for nobody
//! else.
//!
//! Everybody listens on loopback, but nobody knows anybody's direct address: the beacon keys differ, and there is no mDNS
//! in local scope.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use libp2p::PeerId;
use quorate_node::{
    overlay::{
        Guests, Listen, Overlay, OverlayConfig, OverlayEvent, Purpose, Reach, RelayConfig,
        RelayLimits, Relaying, Scope,
    },
    relay::{Relay, RelayOptions},
};
use tokio::{sync::mpsc::Receiver, time::timeout};
use zeroize::Zeroizing;

/// Upper bound for everything that should happen soon.
const SOON: Duration = Duration::from_secs(30);
/// How long it is watched that something does not happen which takes milliseconds.
const WATCHED: Duration = Duration::from_secs(2);

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// A relay on loopback, for everybody or for guests.
async fn relay(guests: Option<Guests>) -> (Relay, String) {
    let options = RelayOptions {
        node: RelayConfig {
            secret: Zeroizing::new(random()),
            listen: vec![Listen {
                address: "/ip4/127.0.0.1/tcp/0".into(),
                required: true,
            }],
            external: Vec::new(),
            limits: RelayLimits::default(),
            name: None,
            stun: Vec::new(),
            allow: None,
            guests,
        },
        stun: None,
        metrics: None,
    };
    let relay = Relay::start(options).await.expect("loopback works");
    let address = relay.status().addresses[0].clone();
    (relay, address)
}

struct Node {
    overlay: Overlay,
    events: Receiver<OverlayEvent>,
}

impl Node {
    async fn start(relays: &[&str], relaying: Relaying) -> Self {
        let config = OverlayConfig {
            purpose: Purpose::Session,
            secret: Zeroizing::new(random()),
            scope: Scope::Local,
            beacon_key: random(),
            hints: Vec::new(),
            reach: Reach {
                relays: relays.iter().map(|r| (*r).to_owned()).collect(),
                relaying,
                ..Reach::default()
            },
        };
        let (overlay, events) = Overlay::start(config).await.expect("loopback works");
        Self { overlay, events }
    }

    fn id(&self) -> PeerId {
        self.overlay.peer_id().parse().unwrap()
    }

    async fn until(&mut self, what: impl Fn(&OverlayEvent) -> bool) -> OverlayEvent {
        let event = async {
            loop {
                let event = self.events.recv().await.expect("the overlay runs");
                if what(&event) {
                    return event;
                }
            }
        };
        timeout(SOON, event).await.expect("it happens soon")
    }

    async fn reserved(&mut self) {
        self.until(|e| matches!(e, OverlayEvent::Relay(relay) if relay.reserved))
            .await;
    }

    /// Waits for a link, and says whether it is over a circuit.
    async fn up(&mut self) -> (u64, bool) {
        let up = |e: &OverlayEvent| matches!(e, OverlayEvent::LinkUp { .. });
        match self.until(up).await {
            OverlayEvent::LinkUp { link, address, .. } => (link, address.contains("/p2p-circuit")),
            _ => unreachable!("waited for"),
        }
    }

    fn circuits(&self) -> Vec<String> {
        let all = self.overlay.addresses().into_iter();
        all.filter(|a| a.contains("/p2p-circuit/")).collect()
    }
}

/// Two overlays with a link over a circuit; the first one has the lower `PeerId`.
async fn two_over(relay: &str) -> (Node, Node) {
    let mut a = Node::start(&[relay], Relaying::Any).await;
    let mut b = Node::start(&[relay], Relaying::Any).await;
    if a.id() > b.id() {
        std::mem::swap(&mut a, &mut b);
    }
    a.reserved().await;
    b.reserved().await;
    a.overlay.dial(b.circuits()[0].clone());
    assert!(a.up().await.1 && b.up().await.1, "over the circuit");
    (a, b)
}

fn make_parties(a: &Node, b: &Node) {
    a.overlay.parties(vec![b.overlay.peer_id()]);
    b.overlay.parties(vec![a.overlay.peer_id()]);
}

#[tokio::test]
async fn parties_on_a_circuit_come_to_a_direct_connection_that_outlives_the_relay() {
    let (relay, address) = relay(None).await;
    let (mut a, mut b) = two_over(&address).await;
    make_parties(&a, &b);
    let (to_b, over_circuit) = a.up().await;
    assert!(!over_circuit, "a new link, directly");
    let (to_a, over_circuit) = b.up().await;
    assert!(!over_circuit);
    relay.stop().await;
    for n in 0..20 {
        assert!(a.overlay.send(to_b, vec![n; 100]));
        assert!(b.overlay.send(to_a, vec![n; 200]));
        let frame = |n: u8, length| move |e: &OverlayEvent| matches!(e, OverlayEvent::Frame { bytes, .. } if *bytes == vec![n; length]);
        b.until(frame(n, 100)).await;
        a.until(frame(n, 200)).await;
    }
}

#[tokio::test]
async fn who_is_no_party_learns_no_address_over_a_circuit() {
    let (_relay, address) = relay(None).await;
    // The one that asks takes the other one for a party, and is none itself.
    let (mut a, mut b) = two_over(&address).await;
    a.overlay.parties(vec![b.overlay.peer_id()]);
    b.overlay.parties(vec![PeerId::random().to_string()]);
    assert!(timeout(WATCHED, a.up()).await.is_err());
    // And the other way round.
    a.overlay.parties(Vec::new());
    b.overlay.parties(vec![a.overlay.peer_id()]);
    assert!(timeout(WATCHED, b.up()).await.is_err());
    make_parties(&a, &b);
    assert!(!a.up().await.1);
}

#[tokio::test]
async fn a_relay_of_a_party_carries_for_parties_and_for_nobody_else() {
    let guests = Guests::default();
    let (relay, at) = relay(Some(guests.clone())).await;
    let serving = Node::start(&[], Relaying::Any).await;
    let mut a = Node::start(&[], Relaying::Any).await;
    let mut b = Node::start(&[], Relaying::Any).await;
    let id = |node: &Node| node.overlay.peer_id();
    let all = [id(&serving), id(&a), id(&b)];
    guests.set(all.iter().map(String::as_str));
    let here = format!("{at}/p2p-circuit");
    for node in [&a, &b] {
        node.overlay.parties(vec![id(&serving)]);
        node.overlay.party_relay(id(&serving), vec![here.clone()]);
    }
    a.reserved().await;
    b.reserved().await;
    a.overlay.dial(b.circuits()[0].clone());
    assert!(a.up().await.1 && b.up().await.1, "over the party's relay");
    let status = relay.status();
    assert_eq!((status.reservations, status.circuits), (2, 1));

    // Somebody who knows the address and both PeerIds.
    let mut outsider = Node::start(&[&at], Relaying::Any).await;
    assert!(timeout(WATCHED, outsider.reserved()).await.is_err());
    outsider.overlay.dial(a.circuits()[0].clone());
    assert!(timeout(WATCHED, outsider.up()).await.is_err());
    assert!(outsider.circuits().is_empty());
    let status = relay.status();
    assert_eq!((status.reservations, status.circuits), (2, 1));
    assert!(status.refused[0] > 0, "its connections were refused");
}

#[tokio::test]
async fn a_relay_is_taken_from_parties_only_and_not_where_own_ones_are_asked_for() {
    let (relay, at) = relay(None).await;
    let here = format!("{at}/p2p-circuit");
    let stranger = PeerId::random().to_string();
    let mut any = Node::start(&[], Relaying::Any).await;
    let own = Node::start(&[], Relaying::OwnOnly).await;
    let never = Node::start(&[], Relaying::Never).await;
    any.overlay
        .party_relay(stranger.clone(), vec![here.clone()]);
    for node in [&own, &never] {
        node.overlay.parties(vec![stranger.clone()]);
        node.overlay
            .party_relay(stranger.clone(), vec![here.clone()]);
    }
    assert!(timeout(WATCHED, any.reserved()).await.is_err());
    assert_eq!(relay.status().connections, 0);
    any.overlay.parties(vec![stranger.clone()]);
    // What is no relay's address, another machine's, or the party itself is left out.
    let odd = [
        at.clone(),
        format!("{here}/p2p/{stranger}"),
        format!("/ip4/192.0.2.7/tcp/1/p2p/{}/p2p-circuit", PeerId::random()),
        format!("/ip4/127.0.0.1/tcp/1/p2p/{stranger}/p2p-circuit"),
        "x".repeat(300),
    ];
    any.overlay.party_relay(stranger.clone(), odd.into());
    any.overlay.party_relay(stranger, vec![here]);
    any.reserved().await;
    assert_eq!(relay.status().reservations, 1);
}
