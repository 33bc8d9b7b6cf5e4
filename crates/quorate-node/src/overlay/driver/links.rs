//! The links of the overlay's task: from an open stream to the end of what it carried.
//!
//! A peer has at most one link. A new one ends the old one first, so that the caller hears of them one
//! after the other.

use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use tokio::{
    sync::oneshot,
    task::{Id, JoinError},
};

use super::{
    super::{
        OverlayEvent,
        address::Endpoint,
        link::{End, Task},
    },
    Driver, Link, shown,
};

/// A connection with a relay that does not answer for this long is closed, unless a lane over it is heard of: a party is
/// given up after 13 s of silence, and within them another connection, a reservation and circuits have to follow.
const RELAY_SILENCE: Duration = Duration::from_secs(5);
/// The same for other connections. A slow line may have a megabyte on its way before the answer.
const SILENCE: Duration = Duration::from_secs(12);

impl Driver {
    pub(super) fn on_opened(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        address: &Multiaddr,
        dialer: bool,
        stream: libp2p::Stream,
        now: Instant,
    ) {
        let previous = self
            .by_peer
            .get(&peer)
            .copied()
            .and_then(|old| self.supersede(old, now));
        let link = self.next_link;
        self.next_link += 1;
        if dialer && let Ok(endpoint) = Endpoint::of(address) {
            // What was dialled on purpose is known already; what libp2p dialled for us is news.
            self.dialing.learn(peer, [endpoint], Duration::ZERO, now);
        }
        let (ended, after) = oneshot::channel();
        let (cutter, cut) = oneshot::channel();
        let up = OverlayEvent::LinkUp {
            link,
            peer: peer.to_string(),
            address: shown(address),
            dialer,
        };
        let task = Task {
            link,
            stream,
            up,
            events: self.events.clone(),
            previous,
            ended,
            cut,
        };
        let task = self.tasks.spawn(task.start(&self.shared.links)).id();
        let entry = Link {
            peer,
            connection,
            task,
            ended: Some(after),
            cut: Some(cutter),
            refused: false,
            spared: false,
        };
        self.links.insert(link, entry);
        self.by_peer.insert(peer, link);
        self.dialing.link_changed(peer, now);
    }

    /// Ends the link that a new one of the same peer replaces; returns when it will have ended.
    fn supersede(&mut self, link: u64, now: Instant) -> Option<oneshot::Receiver<()>> {
        self.shared.links.close(link);
        let old = self.links.get_mut(&link)?;
        let (peer, connection, ended) = (old.peer, old.connection, old.ended.take());
        let node = self.swarm.behaviour_mut();
        if node.lanes.is_used(&peer, connection) {
            // The session moved to a better connection; the lane stays until it has moved too.
            node.session.reuse(peer, connection, now);
            old.spared = true;
        } else {
            self.drop_connection(connection);
        }
        ended
    }

    /// Closes a connection and ends the link it may carry at once.
    pub(super) fn drop_connection(&mut self, connection: ConnectionId) {
        self.swarm.close_connection(connection);
        self.cut(connection);
    }

    /// A question on this connection has not been answered for this long.
    pub(super) fn on_silent(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        lasts: Duration,
        now: Instant,
    ) {
        let most = if self.relaying.table.is_known(&peer) {
            RELAY_SILENCE
        } else {
            SILENCE
        };
        let heard = |lanes: &super::lanes::Lanes| lanes.silence(&peer, connection, now);
        if lasts < most || heard(&self.lanes).is_some_and(|lane| lane < most) {
            return;
        }
        tracing::debug!(%peer, ?lasts, "a connection is silent");
        self.give_up(peer, connection, now);
    }

    /// Closes a connection that leads nowhere any more; its way is tried last for a while.
    pub(super) fn give_up(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        let address = self.swarm.behaviour().session.address(&peer, connection);
        let way = address.and_then(|address| Endpoint::of(address).ok());
        if let Some(way) = way.map(|endpoint| endpoint.way()) {
            self.dialing.shun(peer, way, now);
        }
        self.drop_connection(connection);
    }

    pub(super) fn cut(&mut self, connection: ConnectionId) {
        for link in self
            .links
            .values_mut()
            .filter(|l| l.connection == connection)
        {
            link.cut = None;
        }
    }

    pub(super) fn on_link_end(&mut self, ended: Result<(Id, End), JoinError>, now: Instant) {
        let (task, end) = match ended {
            Ok((task, end)) => (task, Some(end)),
            Err(error) => (error.id(), None),
        };
        let Some(link) = self
            .links
            .iter()
            .find(|(_, l)| l.task == task)
            .map(|(link, _)| *link)
        else {
            return;
        };
        let Some(old) = self.links.remove(&link) else {
            return;
        };
        self.shared.links.close(link);
        if !old.spared {
            self.swarm.close_connection(old.connection);
        }
        if self.by_peer.get(&old.peer) == Some(&link) {
            self.by_peer.remove(&old.peer);
            self.dialing.link_changed(old.peer, now);
        }
        tracing::debug!(link, ?end, "link ended");
        match end {
            Some(End::Violation(error)) => {
                self.refuse_aloud(old.peer, &error.to_string(), now);
            }
            Some(End::Stalled) => {
                self.note(format!("the peer {} took no data any more", old.peer));
            }
            _ if old.refused => self.refuse(old.peer, now),
            _ => {}
        }
        if let Some(beacon) = &mut self.beacon {
            beacon.hurry(now);
        }
    }
}
