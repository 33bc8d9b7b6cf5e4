//! Lanes between real overlays on loopback.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use quorate_node::overlay::{
    LaneReceiver, LaneSender, MAX_DATAGRAM_BYTES, Overlay, OverlayConfig, OverlayEvent, Purpose,
    Scope,
};
use tokio::{sync::mpsc::Receiver, time::timeout};
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_secs(20);

struct Node {
    overlay: Overlay,
    events: Receiver<OverlayEvent>,
}

async fn node(seed: u8, hints: Vec<String>) -> Node {
    let config = OverlayConfig {
        purpose: Purpose::Session,
        secret: Zeroizing::new([seed; 32]),
        scope: Scope::Local,
        beacon_key: random(),
        hints,
        reach: quorate_node::overlay::Reach::default(),
    };
    let (overlay, events) = Overlay::start(config).await.expect("loopback works");
    Node { overlay, events }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

impl Node {
    async fn until(&mut self, what: impl Fn(&OverlayEvent) -> bool) -> OverlayEvent {
        loop {
            let event = timeout(SOON, self.events.recv()).await.expect("in time");
            let event = event.expect("the overlay runs");
            if what(&event) {
                return event;
            }
        }
    }

    async fn until_up(&mut self) {
        self.until(|e| matches!(e, OverlayEvent::LinkUp { .. }))
            .await;
    }
}

/// Waits for a measured lane to `index`.
async fn ready(lanes: &LaneSender, index: u16) {
    let mut changed = lanes.changed();
    while lanes.state(index).is_none_or(|s| s.rtt.is_none()) {
        timeout(SOON, changed.changed()).await.unwrap().unwrap();
    }
}

async fn gone(lanes: &LaneSender, index: u16) {
    let mut changed = lanes.changed();
    while lanes.state(index).is_some() {
        timeout(SOON, changed.changed()).await.unwrap().unwrap();
    }
}

async fn received(lanes: &mut LaneReceiver) -> (u16, Vec<u8>) {
    let next = timeout(SOON, lanes.recv()).await.expect("in time");
    next.expect("lanes are there")
}

async fn two() -> (Node, Node) {
    let mut a = node(1, Vec::new()).await;
    let hint = a.overlay.addresses().into_iter().next().unwrap();
    let mut b = node(2, vec![hint]).await;
    a.until_up().await;
    b.until_up().await;
    (a, b)
}

#[tokio::test]
async fn a_lane_over_a_direct_connection_carries_datagrams_both_ways() {
    let (a, b) = two().await;
    let (to_b, mut from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    assert!(!to_b.send(2, b"early"), "the other side is not ready");
    let (to_a, mut from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    ready(&to_b, 2).await;
    ready(&to_a, 1).await;
    assert_eq!(to_b.state(2).unwrap().via, None);
    for n in 0..100_u8 {
        assert!(to_b.send(2, &[n; 1300]));
        assert_eq!(received(&mut from_a).await, (1, vec![n; 1300]));
        assert!(to_a.send(1, &[n; MAX_DATAGRAM_BYTES]));
        assert_eq!(
            received(&mut from_b).await,
            (2, vec![n; MAX_DATAGRAM_BYTES])
        );
    }
    a.overlay.stop().await;
    gone(&to_a, 1).await;
    assert!(from_b.recv().await.is_none(), "the overlay has ended");
    b.overlay.stop().await;
}

#[tokio::test]
async fn new_lanes_take_the_place_of_earlier_ones() {
    let (a, b) = two().await;
    let (old_b, mut old_from_b) = a.overlay.lanes(vec![(2, b.overlay.peer_id())]);
    let (to_a, _from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    ready(&old_b, 2).await;
    let (to_b, mut from_b) = a.overlay.lanes(vec![(5, b.overlay.peer_id())]);
    gone(&old_b, 2).await;
    assert!(!old_b.send(2, b"old"));
    assert!(old_from_b.recv().await.is_none());
    ready(&to_b, 5).await;
    ready(&to_a, 1).await;
    assert!(to_a.send(1, b"new"));
    assert_eq!(received(&mut from_b).await, (5, b"new".to_vec()));
}

#[tokio::test]
async fn somebody_outside_of_the_roster_gets_no_lane() {
    let (a, b) = two().await;
    let stranger = node(3, Vec::new()).await;
    let (to_b, _from_b) = a.overlay.lanes(vec![(2, stranger.overlay.peer_id())]);
    let (to_a, _from_a) = b.overlay.lanes(vec![(1, a.overlay.peer_id())]);
    // Longer than every retry.
    let opened = timeout(Duration::from_secs(3), ready(&to_b, 2)).await;
    assert!(opened.is_err());
    assert!(to_b.state(2).is_none());
    assert!(!to_b.send(2, b"nobody"));
    assert!(
        to_a.state(1).is_none_or(|s| s.rtt.is_none()),
        "never answered"
    );
}
