//! The choice between lanes, their queues, and one lane over a pipe.

use std::time::{Duration, Instant};

use super::*;

fn shared() -> Shared {
    Shared::new(Policy::Any)
}

fn lane(id: u64, via: Option<&str>, now: Instant) -> Lane {
    Lane::new(id, via.map(str::to_owned), now)
}

fn used(shared: &Shared) -> Option<u64> {
    let parties = shared.lock();
    parties.get(&1)?.used.as_ref().map(|l| l.id)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn the_oldest_datagrams_go_when_the_queue_is_full() {
    let mut queue = Queue::default();
    let size = 1000;
    let fit = LANE_QUEUE_BYTES / size;
    for n in 0..fit + 10 {
        let mut datagram = vec![0; size];
        datagram[..8].copy_from_slice(&n.to_be_bytes());
        queue.push(&datagram);
    }
    assert_eq!(queue.datagrams.len(), fit);
    let first = queue.pop().expect("full");
    assert_eq!(first[..8], 10_usize.to_be_bytes(), "the first ten are gone");
    while queue.pop().is_some() {}
    assert_eq!(queue.bytes, 0);
}

#[test]
fn a_direct_lane_comes_before_a_relayed_one_and_a_live_one_before_a_silent_one() {
    let (shared, now) = (shared(), Instant::now());
    let a = shared.add(1, lane(1, Some("a"), now), now).expect("room");
    a.health().rtt = Some(millis(1));
    assert_eq!(used(&shared), Some(1));
    let direct = shared.add(1, lane(2, None, now), now).expect("room");
    assert_eq!(used(&shared), Some(2), "even before it was measured");
    let later = now + FRESH + millis(1);
    a.health().heard = later;
    shared.review(1, later);
    assert_eq!(used(&shared), Some(1), "the direct one is silent");
    direct.health().heard = later;
    shared.review(1, later);
    assert_eq!(used(&shared), Some(2));
    shared.remove(1, 2, later);
    assert_eq!(used(&shared), Some(1));
    shared.remove(1, 1, later);
    assert_eq!(used(&shared), None);
    assert!(shared.lock().is_empty());
}

#[test]
fn a_party_whose_lanes_are_all_silent_has_none_until_one_is_heard_of_again() {
    let (shared, now) = (Arc::new(shared()), Instant::now());
    let sender = LaneSender(Arc::clone(&shared));
    shared.add(1, lane(1, Some("a"), now), now).expect("room");
    let b = shared.add(1, lane(2, Some("b"), now), now).expect("room");
    let mut changed = sender.changed();
    changed.mark_unchanged();
    let via = || sender.state(1).and_then(|s| s.via);
    let later = now + SILENT;
    b.health().heard = now + millis(2000);
    shared.review(1, later);
    assert_eq!(via().as_deref(), Some("b"), "the first one is silent");
    shared.review(1, later + millis(2000));
    assert_eq!(sender.state(1), None);
    assert!(changed.has_changed().expect("open"), "it is told");
    assert!(sender.send(1, &[1]), "what costs nothing may still arrive");
    changed.mark_unchanged();
    b.health().heard = later + millis(3000);
    shared.review(1, later + millis(3000));
    assert_eq!(via().as_deref(), Some("b"));
    assert!(changed.has_changed().expect("open"));
}

#[test]
fn no_lane_comes_into_use_that_the_policy_forbids() {
    let now = Instant::now();
    for (policy, allowed) in [(Policy::Direct, 1), (Policy::Relay, 2)] {
        let shared = Arc::new(Shared::new(policy));
        let sender = LaneSender(Arc::clone(&shared));
        let direct = shared.add(1, lane(1, None, now), now);
        let relayed = shared.add(1, lane(2, Some("a"), now), now);
        assert_eq!(
            (direct.is_some(), relayed.is_some()),
            (allowed == 1, allowed == 2)
        );
        assert_eq!(used(&shared), Some(allowed));
        assert!(sender.send(1, &[1]));
        shared.remove(1, allowed, now);
        assert!(!sender.send(1, &[2]), "{policy:?}: nothing else carries it");
    }
}

#[test]
fn a_slightly_faster_relay_is_no_reason_to_change() {
    let (shared, now) = (shared(), Instant::now());
    let a = shared.add(1, lane(1, Some("a"), now), now).expect("room");
    let b = shared.add(1, lane(2, Some("b"), now), now).expect("room");
    a.health().rtt = Some(millis(80));
    b.health().rtt = Some(millis(70));
    shared.review(1, now);
    assert_eq!(used(&shared), Some(1));
    b.health().rtt = Some(millis(40));
    shared.review(1, now);
    assert_eq!(used(&shared), Some(2));
}

#[test]
fn what_waits_on_a_dead_lane_leaves_on_the_next_one_in_order() {
    let (shared, now) = (Arc::new(shared()), Instant::now());
    let sender = LaneSender(Arc::clone(&shared));
    assert!(!sender.send(1, &[1]), "no lane yet");
    shared.add(1, lane(1, Some("a"), now), now).expect("room");
    let spare = shared.add(1, lane(2, Some("b"), now), now).expect("room");
    assert!(sender.send(1, &[1]));
    assert!(sender.send(1, &[2]));
    shared.remove(1, 1, now);
    assert_eq!(spare.queue().pop(), Some(vec![1]));
    assert_eq!(spare.queue().pop(), Some(vec![2]));
    assert_eq!(sender.state(1).and_then(|s| s.via).as_deref(), Some("b"));
}

#[test]
fn sizes_and_numbers_are_bounded() {
    let (shared, now) = (Arc::new(shared()), Instant::now());
    let sender = LaneSender(Arc::clone(&shared));
    for id in 0..10 {
        let added = shared.add(1, lane(id, Some("a"), now), now).is_some();
        assert_eq!(added, id < MAX_LANES as u64);
    }
    assert!(sender.send(1, &[0; MAX_DATAGRAM_BYTES]));
    assert!(!sender.send(1, &[0; MAX_DATAGRAM_BYTES + 1]));
    assert!(!sender.send(1, &[]));
    assert!(!sender.send(2, &[0]), "nobody");
}

#[test]
fn changes_are_told() {
    let (shared, now) = (Arc::new(shared()), Instant::now());
    let sender = LaneSender(Arc::clone(&shared));
    let mut changed = sender.changed();
    assert!(!changed.has_changed().expect("open"));
    shared.add(1, lane(1, None, now), now).expect("room");
    assert!(changed.has_changed().expect("open"));
    changed.mark_unchanged();
    shared.review(1, now);
    assert!(!changed.has_changed().expect("open"), "nothing happened");
    shared.remove(1, 1, now);
    assert!(changed.has_changed().expect("open"));
}

#[test]
fn an_answer_counts_once_and_only_for_a_probe_that_was_sent() {
    let now = Instant::now();
    let lane = lane(1, None, now);
    assert_eq!(lane.answered([0; 8], now), None, "nothing was asked");
    let probes: Vec<[u8; 8]> = (1..=MAX_PROBES as u64 + 2)
        .map(|n| lane.token(now + millis(n)))
        .collect();
    let later = now + millis(100);
    assert_eq!(lane.answered(probes[1], later), None, "too old");
    assert_eq!(lane.answered(probes[3], later), Some(millis(96)));
    assert_eq!(lane.answered(probes[3], later), None, "the second time");
    assert_eq!(lane.answered(probes[2], later), None, "an earlier one");
    assert_eq!(lane.answered([0xff; 8], later), None, "never sent");
    assert_eq!(lane.answered(probes[4], later), Some(millis(95)));
}

#[tokio::test]
async fn a_lane_carries_datagrams_and_measures_its_round_trip() {
    let (left, right) = tokio::io::duplex(4096);
    let mut ends = Vec::new();
    for (index, stream) in [(7, left), (8, right)] {
        let (sender, receiver, order) = pair(Policy::Any, Vec::new());
        let (cut, cutting) = tokio::sync::oneshot::channel();
        let carrier = Carrier {
            stream: Duplex::from(stream),
            id: 1,
            index,
            via: None,
            shared: order.shared,
            incoming: order.incoming,
            cut: cutting,
        };
        ends.push((sender, receiver, cut, tokio::spawn(carrier.run())));
    }
    let (mut b, a) = (ends.pop().expect("two"), ends.pop().expect("two"));
    let mut changed = a.0.changed();
    while a.0.state(7).is_none_or(|s| s.rtt.is_none()) {
        changed.changed().await.expect("open");
    }
    for n in 0..200_u8 {
        assert!(a.0.send(7, &[n; 1400]));
        let (from, datagram) = b.1.recv().await.expect("open");
        assert_eq!((from, datagram), (8, vec![n; 1400]));
    }
    drop(a.2);
    assert!(matches!(a.3.await, Ok(End::Local)));
    assert!(matches!(b.3.await, Ok(End::Remote)));
    assert!(b.0.state(8).is_none());
    assert!(a.1.0.is_empty());
}

/// A tokio stream as one of futures.
pub struct Duplex(
    tokio::io::ReadHalf<tokio::io::DuplexStream>,
    tokio::io::WriteHalf<tokio::io::DuplexStream>,
);

impl From<tokio::io::DuplexStream> for Duplex {
    fn from(stream: tokio::io::DuplexStream) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self(read, write)
    }
}

impl futures::AsyncRead for Duplex {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut [u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let mut read = tokio::io::ReadBuf::new(buf);
        let polled =
            tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut self.0), cx, &mut read);
        polled.map_ok(|()| read.filled().len())
    }
}

impl futures::AsyncWrite for Duplex {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(std::pin::Pin::new(&mut self.1), cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(std::pin::Pin::new(&mut self.1), cx)
    }

    fn poll_close(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut self.1), cx)
    }
}
