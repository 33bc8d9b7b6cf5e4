//! The lanes of the overlay's task: who has one, on which connection, and what follows from its end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{PeerId, swarm::ConnectionId};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
};

use super::{
    super::lanes::{Carrier, End, Event, Order, Shared},
    Driver,
};

/// A lane that the peer misused is not opened again for this long.
const MISUSED_FOR: Duration = Duration::from_secs(30);

/// The lanes that are open, and for whom.
#[derive(Default)]
pub(super) struct Lanes {
    current: Option<Current>,
    open: HashMap<u64, Open>,
    next: u64,
    tasks: JoinSet<(u64, End)>,
}

/// The two ends that the caller holds.
struct Current {
    shared: std::sync::Arc<Shared>,
    incoming: mpsc::Sender<(u16, Vec<u8>)>,
}

struct Open {
    peer: PeerId,
    index: u16,
    connection: ConnectionId,
    relay: Option<PeerId>,
    /// Dropped to end the lane.
    cut: Option<oneshot::Sender<()>>,
}

impl Lanes {
    /// The next lane that ended; never while there is none.
    pub async fn next_end(&mut self) -> Result<(u64, End), JoinError> {
        match self.tasks.join_next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// How long ago something came over a lane on this connection, or over this relay; `None` without such a lane.
    pub fn silence(
        &self,
        peer: &PeerId,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<Duration> {
        let shared = &self.current.as_ref()?.shared;
        let there = |o: &&(&u64, &Open)| o.1.connection == connection || o.1.relay == Some(*peer);
        let lanes = self.open.iter();
        let lanes = lanes.filter(|o| there(&o));
        let heard = lanes.filter_map(|(id, open)| shared.heard(open.index, *id));
        heard.map(|at| now.saturating_duration_since(at)).min()
    }

    /// Ends all lanes, without waiting for them.
    pub fn close_all(&mut self) {
        self.current = None;
        for lane in self.open.values_mut() {
            lane.cut = None;
        }
    }
}

impl Driver {
    /// A new set of lanes takes the place of the one before.
    pub(super) fn set_lanes(&mut self, order: Order, now: Instant) {
        self.lanes.close_all();
        let Order {
            peers,
            policy,
            shared,
            incoming,
        } = order;
        let mut roster = HashMap::new();
        for (index, peer) in peers {
            match peer.parse::<PeerId>() {
                Ok(peer) if peer != self.peer_id() => {
                    roster.insert(peer, index);
                }
                _ => tracing::warn!(index, "no lane is possible to such a PeerId"),
            }
        }
        self.lanes.current = Some(Current { shared, incoming });
        self.want_circuits(roster.keys().copied(), policy, now);
        for party in roster.keys() {
            // Whatever somebody said before it was known.
            let session = &mut self.swarm.behaviour_mut().session;
            session.remove_foreign_relay(party);
            self.relaying.table.remove_foreign(party);
        }
        self.swarm
            .behaviour_mut()
            .lanes
            .set_roster(roster, policy, now);
    }

    pub(super) fn on_lane(&mut self, event: Event) {
        let Event::Opened {
            peer,
            index,
            connection,
            relay,
            stream,
        } = event;
        let Some(current) = &self.lanes.current else {
            // The caller is gone; the stream ends by being dropped.
            return;
        };
        let id = self.lanes.next;
        self.lanes.next += 1;
        let (cutter, cut) = oneshot::channel();
        let via = relay.map(|relay| self.relaying.table.name(&relay));
        tracing::debug!(index, %peer, ?via, "a lane is open");
        let carrier = Carrier {
            stream,
            id,
            index,
            via,
            shared: std::sync::Arc::clone(&current.shared),
            incoming: current.incoming.clone(),
            cut,
        };
        self.lanes
            .tasks
            .spawn(async move { (id, carrier.run().await) });
        let open = Open {
            peer,
            index,
            connection,
            relay,
            cut: Some(cutter),
        };
        self.lanes.open.insert(id, open);
    }

    pub(super) fn on_lane_end(&mut self, ended: Result<(u64, End), JoinError>, now: Instant) {
        // Lanes are aborted only when everything ends.
        let Ok((id, end)) = ended else {
            return;
        };
        let Some(open) = self.lanes.open.remove(&id) else {
            return;
        };
        tracing::debug!(peer = %open.peer, ?end, "a lane ended");
        let node = self.swarm.behaviour_mut();
        match end {
            End::Violation(malformed) => {
                // The rest of the connection goes on: a party may have a broken mesh and say so.
                let until = now + MISUSED_FOR;
                node.lanes.ended(open.peer, open.connection, until);
                self.note(format!(
                    "the peer {} misused its lane: {malformed}",
                    open.peer
                ));
            }
            End::Silent => {
                node.lanes.ended(open.peer, open.connection, now);
                self.give_up(open.peer, open.connection, now);
                if let Some(relay) = open.relay {
                    self.on_silent_circuit(open.peer, relay, now);
                }
            }
            End::Remote | End::Local => node.lanes.ended(open.peer, open.connection, now),
        }
    }
}
