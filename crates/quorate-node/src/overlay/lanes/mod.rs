//! Lanes: datagrams of the mesh over streams of the overlay, for pairs that have no better way.
//!
//! ```text
//!   send(index, datagram) ─► [LANE_QUEUE_BYTES, the oldest goes] ─► lane in use ═ stream ═► recv()
//!                                                                   spare lane  ═ stream ═►
//!   lower PeerId opens one lane on a direct connection and one on the circuit of each of up to
//!   MAX_CIRCUIT_LANES relays; each end sends on what it finds best, and takes from all
//! ```
//! Each lane is probed every [`PROBE_INTERVAL`], which gives its round-trip time and says that it is
//! alive. Best is: heard of lately, then direct, then the smallest round-trip time, with some
//! persistence. A lane that was silent for [`LANE_SILENCE`] is given up with its connection; long before
//! that, another one is in use if there is one. If all are silent for [`SILENT`], there is no lane as far as
//! the mesh is told, until one is heard of again.
//!
//! Of direct lanes and those over circuits there are only the ones that the policy of the session allows.
//!
//! Limits: [`LANE_QUEUE_BYTES`] wait per party, from which the oldest datagrams fall out;
//! [`RECEIVE_QUEUE`] datagrams wait for the receiver, beyond which the streams stand still;
//! datagrams of at most [`MAX_DATAGRAM_BYTES`].
//!
//! Security: requires the `PeerId`s of a roster that every party signed. Provides that only the holder
//! of that `PeerId` puts datagrams in under its index, whatever relay is in between, and that neither a
//! relay nor a party holds up the sender. Does not provide: that a datagram arrives, or once, or
//! in order; its content is protected by WireGuard.

mod behaviour;
mod carry;
mod wire;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use quorate_path::Policy;
use tokio::sync::{Notify, mpsc, watch};

pub(super) use behaviour::{Behaviour, Event};
pub(super) use carry::{Carrier, End};
pub use carry::{LANE_SILENCE, PROBE_INTERVAL};
pub use wire::MAX_DATAGRAM_BYTES;

/// Bytes waiting to be sent to one party.
pub const LANE_QUEUE_BYTES: usize = 512 * 1024;
/// Datagrams waiting for the receiver, of all parties together.
pub const RECEIVE_QUEUE: usize = 512;
/// Lanes over circuits per party: the one in use and a spare one over another relay.
pub const MAX_CIRCUIT_LANES: usize = 2;
/// Lanes of one party at a time, with those that are being replaced.
const MAX_LANES: usize = MAX_CIRCUIT_LANES + 2;
/// Probes of one lane that an answer is taken for.
const MAX_PROBES: usize = 8;
/// A lane that was not heard of for this long is used only for want of another.
const FRESH: Duration = Duration::from_millis(2500);
/// A party whose lanes all were not heard of for this long has none: several probes in a row were lost.
const SILENT: Duration = Duration::from_secs(4);
/// Another lane is used instead if its round trip is shorter by this much and by a fifth.
const WORTH_CHANGING: Duration = Duration::from_millis(5);

/// How a lane to a party goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneState {
    /// The relay in between, by its name or else its host; `None` over a direct connection. The
    /// name is the relay's own word.
    pub via: Option<String>,
    /// The latest round-trip time, once measured.
    pub rtt: Option<Duration>,
}

/// The sending end of all lanes.
#[derive(Clone)]
pub struct LaneSender(Arc<Shared>);

impl fmt::Debug for LaneSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneSender").finish_non_exhaustive()
    }
}

impl LaneSender {
    /// Queues a datagram for the party with this index; never waits. When the queue is full, the oldest
    /// ones are dropped. `false` when there is no lane, or the datagram is empty or larger than
    /// [`MAX_DATAGRAM_BYTES`].
    pub fn send(&self, index: u16, datagram: &[u8]) -> bool {
        if datagram.is_empty() || datagram.len() > MAX_DATAGRAM_BYTES {
            return false;
        }
        let parties = self.0.lock();
        let Some(lane) = parties.get(&index).and_then(|p| p.used.as_ref()) else {
            return false;
        };
        lane.queue().push(datagram);
        lane.ready.notify_one();
        true
    }

    /// The lane in use to this party; `None` when there is none, or none that answers.
    pub fn state(&self, index: u16) -> Option<LaneState> {
        let parties = self.0.lock();
        let party = parties.get(&index).filter(|p| !p.silent)?;
        let lane = party.used.as_ref()?;
        Some(LaneState {
            via: lane.via.clone(),
            rtt: lane.health().rtt,
        })
    }

    /// Changes whenever a party gets a lane, loses it, or another one comes into use, when the last one falls
    /// silent or is heard of again, and when a first round trip was measured.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

/// The receiving end of all lanes.
#[derive(Debug)]
pub struct LaneReceiver(mpsc::Receiver<(u16, Vec<u8>)>);

impl LaneReceiver {
    /// The next datagram with the index of its sender; `None` when the lanes were replaced or the overlay
    /// has ended. Cancel safe.
    pub async fn recv(&mut self) -> Option<(u16, Vec<u8>)> {
        self.0.recv().await
    }

    /// The queue itself, for who takes many at a time.
    pub(crate) fn into_inner(self) -> mpsc::Receiver<(u16, Vec<u8>)> {
        self.0
    }
}

/// What the overlay's task gets of a new set of lanes.
pub(super) struct Order {
    /// Index and `PeerId` text of every party.
    pub peers: Vec<(u16, String)>,
    pub policy: Policy,
    pub shared: Arc<Shared>,
    pub incoming: mpsc::Sender<(u16, Vec<u8>)>,
}

/// Both ends for the caller, and what the overlay's task needs to serve them.
pub(super) fn pair(policy: Policy, peers: Vec<(u16, String)>) -> (LaneSender, LaneReceiver, Order) {
    let (incoming, receiver) = mpsc::channel(RECEIVE_QUEUE);
    let shared = Arc::new(Shared::new(policy));
    let sender = LaneSender(Arc::clone(&shared));
    let order = Order {
        peers,
        policy,
        shared,
        incoming,
    };
    (sender, LaneReceiver(receiver), order)
}

/// The lanes of all parties, as the sender and the tasks of the lanes see them.
pub(super) struct Shared {
    policy: Policy,
    parties: Mutex<HashMap<u16, Party>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Party {
    lanes: Vec<Arc<Lane>>,
    used: Option<Arc<Lane>>,
    /// Nothing came over any of them lately.
    silent: bool,
}

/// One lane.
pub(super) struct Lane {
    id: u64,
    via: Option<String>,
    queue: Mutex<Queue>,
    /// Something is queued.
    ready: Notify,
    began: Instant,
    /// The latest probes without an answer, by what they carried.
    asked: Mutex<VecDeque<u64>>,
    health: Mutex<Health>,
}

#[derive(Clone, Copy)]
struct Health {
    heard: Instant,
    rtt: Option<Duration>,
}

impl Lane {
    fn new(id: u64, via: Option<String>, now: Instant) -> Self {
        Self {
            id,
            via,
            queue: Mutex::default(),
            ready: Notify::new(),
            began: now,
            asked: Mutex::default(),
            health: Mutex::new(Health {
                heard: now,
                rtt: None,
            }),
        }
    }

    /// What a probe of this moment carries.
    fn token(&self, now: Instant) -> [u8; 8] {
        let since = now.saturating_duration_since(self.began).as_nanos();
        let token = u64::try_from(since).unwrap_or(u64::MAX);
        let mut asked = self.asked();
        if asked.len() >= MAX_PROBES {
            asked.pop_front();
        }
        asked.push_back(token);
        token.to_be_bytes()
    }

    /// How long ago the probe left that this answers; `None` for what is no answer, or not the first one. So a peer
    /// makes us measure no more often than we ask.
    fn answered(&self, token: [u8; 8], now: Instant) -> Option<Duration> {
        let token = u64::from_be_bytes(token);
        let mut asked = self.asked();
        let at = asked.iter().position(|given| *given == token)?;
        // A late answer to an earlier one says nothing new.
        asked.drain(..=at);
        let since = now.saturating_duration_since(self.began);
        since.checked_sub(Duration::from_nanos(token))
    }

    fn asked(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Queue and health are whole after every statement, so a poisoned lock loses nothing.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Datagrams waiting for the stream.
#[derive(Default)]
struct Queue {
    datagrams: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Queue {
    /// Adds one, and drops the oldest ones for it if there is no room.
    fn push(&mut self, datagram: &[u8]) {
        self.bytes += datagram.len();
        self.datagrams.push_back(datagram.to_vec());
        while self.bytes > LANE_QUEUE_BYTES {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len();
        Some(datagram)
    }
}

impl Shared {
    fn new(policy: Policy) -> Self {
        Self {
            policy,
            parties: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Party>> {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lane; `None` when this party has too many, or may not have one like this.
    fn add(&self, index: u16, lane: Lane, now: Instant) -> Option<Arc<Lane>> {
        if !self.policy.allows(lane.via.is_some()) {
            return None;
        }
        let mut parties = self.lock();
        let party = parties.entry(index).or_default();
        if party.lanes.len() >= MAX_LANES {
            return None;
        }
        let lane = Arc::new(lane);
        party.lanes.push(Arc::clone(&lane));
        if party.choose(now) {
            self.tell();
        }
        Some(lane)
    }

    /// Takes a lane away; what is queued on it goes to the next one.
    fn remove(&self, index: u16, id: u64, now: Instant) {
        let mut parties = self.lock();
        let Some(party) = parties.get_mut(&index) else {
            return;
        };
        let Some(at) = party.lanes.iter().position(|l| l.id == id) else {
            return;
        };
        let gone = party.lanes.remove(at);
        if party.used.as_ref().is_some_and(|used| used.id == id) {
            party.used = None;
            party.choose(now);
            party.hand_over(&gone);
            self.tell();
        } else if party.choose(now) {
            self.tell();
        }
        if party.lanes.is_empty() {
            parties.remove(&index);
        }
    }

    /// Chooses the lane of a party anew, as time went by or something was measured.
    fn review(&self, index: u16, now: Instant) {
        let mut parties = self.lock();
        if parties.get_mut(&index).is_some_and(|p| p.choose(now)) {
            self.tell();
        }
    }

    /// When something came over this lane the last time.
    pub fn heard(&self, index: u16, id: u64) -> Option<Instant> {
        let parties = self.lock();
        let lanes = &parties.get(&index)?.lanes;
        let lane = lanes.iter().find(|lane| lane.id == id)?;
        Some(lane.health().heard)
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl Party {
    /// Puts the best lane into use; whether that is another one than before, or one that fell silent or is heard
    /// of again.
    fn choose(&mut self, now: Instant) -> bool {
        let another = self.take_best(now);
        let silence = |lane: &Arc<Lane>| now.saturating_duration_since(lane.health().heard);
        let silent = !self.lanes.iter().any(|lane| silence(lane) < SILENT);
        let fell = std::mem::replace(&mut self.silent, silent) != silent;
        another || fell
    }

    fn take_best(&mut self, now: Instant) -> bool {
        let best = self.lanes.iter().min_by_key(|lane| rank(lane, now));
        let Some(best) = best.cloned() else {
            return self.used.take().is_some();
        };
        let Some(used) = &self.used else {
            self.used = Some(best);
            return true;
        };
        if used.id == best.id {
            return false;
        }
        let ((stale, relayed, now_rtt), (b_stale, b_relayed, best_rtt)) =
            (rank(used, now), rank(&best, now));
        let same_kind = (stale, relayed) == (b_stale, b_relayed);
        let gain = now_rtt.saturating_sub(best_rtt);
        if same_kind && (gain < WORTH_CHANGING || gain < now_rtt / 5) {
            return false;
        }
        if let Some(old) = self.used.replace(best)
            && stale
        {
            self.hand_over(&old);
        }
        true
    }

    /// What waits on a lane that leads nowhere goes to the one in use.
    fn hand_over(&self, old: &Lane) {
        let Some(used) = &self.used else {
            return;
        };
        let waiting = std::mem::take(&mut *old.queue());
        let mut queue = used.queue();
        for datagram in waiting.datagrams {
            queue.push(&datagram);
        }
        used.ready.notify_one();
    }
}

/// Smaller is better.
fn rank(lane: &Lane, now: Instant) -> (bool, bool, Duration) {
    let health = *lane.health();
    let stale = now.saturating_duration_since(health.heard) > FRESH;
    // Not measured yet: behind those that are, but before nothing.
    let rtt = health.rtt.unwrap_or(LANE_SILENCE);
    (stale, lane.via.is_some(), rtt)
}

#[cfg(test)]
pub(super) mod tests;
