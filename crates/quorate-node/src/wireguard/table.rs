//! The path table: where packets for a peer go, whose packets an address carries, and counters.
//!
//! The mesh task writes it, the packet task reads it.

use quorate_path::{Path, Reason};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// From where to where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) local: IpAddr,
    pub(super) remote: SocketAddr,
}

/// The way packets for a peer take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the socket.
    Direct(Route),
    /// Over the peer's lane.
    Lane,
}

/// The state of the link to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStats {
    /// The peer.
    pub index: u16,
    /// The path, in the fixed words.
    pub path: String,
    /// The relay, where the path is relayed.
    pub via: Option<String>,
    /// Why the path is what it is.
    pub reason: Reason,
    /// Whether the tunnel works.
    pub up: bool,
    /// Bytes of datagrams sent to the peer.
    pub tx: u64,
    /// Bytes of datagrams received from the peer.
    pub rx: u64,
    /// Time since the last handshake we know to be complete.
    pub last_handshake: Option<Duration>,
    /// Round trip through the tunnel; both ends know the same measurement.
    pub rtt: Option<Duration>,
}

/// Datagrams and packets that were dropped, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From an address no agent has authenticated.
    pub unknown_source: u64,
    /// Neither STUN nor WireGuard, empty or oversized.
    pub garbage: u64,
    /// From a known address, but not sealed with the keys of that pair.
    pub undecryptable: u64,
    /// Packets out of a tunnel whose source is not the overlay address of its peer.
    pub spoofed: u64,
    /// STUN messages for which the queue had no room.
    pub stun_overflow: u64,
    /// STUN messages that belong to no agent.
    pub stun_refused: u64,
    /// Claims on an address that another peer claimed before.
    pub source_conflict: u64,
    /// Packets for a peer whose tunnel is not up yet.
    pub not_up: u64,
    /// Packets for a peer without a path.
    pub no_path: u64,
    /// Datagrams the system did not take.
    pub send_errors: u64,
    /// Errors while receiving.
    pub receive_errors: u64,
}

/// A counter of [`Dropped`].
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) unknown_source: Counter,
    pub(super) garbage: Counter,
    pub(super) undecryptable: Counter,
    pub(super) spoofed: Counter,
    pub(super) stun_overflow: Counter,
    pub(super) stun_refused: Counter,
    pub(super) source_conflict: Counter,
    pub(super) not_up: Counter,
    pub(super) no_path: Counter,
    pub(super) send_errors: Counter,
    pub(super) receive_errors: Counter,
}

#[derive(Debug)]
struct Slot {
    address: Ipv6Addr,
    way: RwLock<Option<Way>>,
    up: AtomicBool,
    tx: Counter,
    rx: Counter,
    report: Mutex<Report>,
}

#[derive(Debug)]
struct Report {
    path: Path,
    reason: Reason,
    handshake: Option<Instant>,
    rtt: Option<Duration>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct PathTable {
    slots: BTreeMap<u16, Slot>,
    by_address: HashMap<Ipv6Addr, u16>,
    /// Who claims an address, in the order of the claims: usually one peer.
    sources: RwLock<HashMap<SocketAddr, Arc<[u16]>>>,
    pub(super) counters: Counters,
}

/// A poisoned lock means a panic elsewhere; what it guards here is never half-written.
macro_rules! open {
    ($lock:expr) => {
        $lock.unwrap_or_else(PoisonError::into_inner)
    };
}

impl PathTable {
    pub(super) fn new(peers: impl Iterator<Item = (u16, Ipv6Addr)>) -> Self {
        let slots: BTreeMap<u16, Slot> = peers
            .map(|(index, address)| {
                let report = Report {
                    path: Path::Down { since: None },
                    reason: Reason::Searching,
                    handshake: None,
                    rtt: None,
                };
                let slot = Slot {
                    address,
                    way: RwLock::new(None),
                    up: AtomicBool::new(false),
                    tx: Counter::default(),
                    rx: Counter::default(),
                    report: Mutex::new(report),
                };
                (index, slot)
            })
            .collect();
        let by_address = slots.iter().map(|(index, s)| (s.address, *index)).collect();
        Self {
            slots,
            by_address,
            sources: RwLock::new(HashMap::new()),
            counters: Counters::default(),
        }
    }

    /// The peer with this overlay address.
    pub(super) fn by_address(&self, address: Ipv6Addr) -> Option<u16> {
        self.by_address.get(&address).copied()
    }

    /// Where packets for this peer go.
    pub(super) fn way(&self, index: u16) -> Option<Way> {
        *open!(self.slots.get(&index)?.way.read())
    }

    pub(super) fn set_way(&self, index: u16, way: Way) {
        if let Some(slot) = self.slots.get(&index) {
            *open!(slot.way.write()) = Some(way);
        }
    }

    /// Packets for this peer do not go over its lane any more, until they are told to.
    pub(super) fn leave_lane(&self, index: u16) {
        if let Some(slot) = self.slots.get(&index) {
            open!(slot.way.write()).take_if(|way| *way == Way::Lane);
        }
    }

    /// The peers that packets from this address may belong to; keys decide between several.
    pub(super) fn sources(&self, address: SocketAddr) -> Option<Arc<[u16]>> {
        open!(self.sources.read()).get(&address).cloned()
    }

    /// Packets from `address` may be this peer's from now on. A peer can make its checks come from
    /// another one's address, so a claim takes nothing away from others.
    pub(super) fn add_source(&self, address: SocketAddr, index: u16) {
        let mut sources = open!(self.sources.write());
        let claims = sources.entry(address).or_default();
        if !claims.contains(&index) {
            if !claims.is_empty() {
                self.counters.source_conflict.add(1);
            }
            *claims = claims.iter().copied().chain([index]).collect();
        }
    }

    /// Packets from `address` are not this peer's any more.
    pub(super) fn remove_source(&self, address: SocketAddr, index: u16) {
        let mut sources = open!(self.sources.write());
        if let Some(claims) = sources.get_mut(&address) {
            *claims = claims.iter().copied().filter(|i| *i != index).collect();
            if claims.is_empty() {
                sources.remove(&address);
            }
        }
    }

    /// Whether data of this pair has been authenticated.
    pub(super) fn is_up(&self, index: u16) -> bool {
        self.slots
            .get(&index)
            .is_some_and(|s| s.up.load(Ordering::Acquire))
    }

    pub(super) fn set_up(&self, index: u16) {
        if let Some(slot) = self.slots.get(&index) {
            slot.up.store(true, Ordering::Release);
        }
    }

    pub(super) fn count_sent(&self, index: u16, bytes: usize) {
        if let Some(slot) = self.slots.get(&index) {
            slot.tx.add(bytes);
        }
    }

    pub(super) fn count_received(&self, index: u16, bytes: usize) {
        if let Some(slot) = self.slots.get(&index) {
            slot.rx.add(bytes);
        }
    }

    pub(super) fn report_path(&self, index: u16, path: Path, reason: Reason) {
        if let Some(slot) = self.slots.get(&index) {
            let mut report = open!(slot.report.lock());
            report.path = path;
            report.reason = reason;
        }
    }

    pub(super) fn report_handshake(&self, index: u16, at: Instant) {
        if let Some(slot) = self.slots.get(&index) {
            open!(slot.report.lock()).handshake = Some(at);
        }
    }

    pub(super) fn report_rtt(&self, index: u16, rtt: Option<Duration>) {
        if let Some(slot) = self.slots.get(&index) {
            open!(slot.report.lock()).rtt = rtt;
        }
    }

    pub(super) fn links(&self, now: Instant) -> Vec<LinkStats> {
        let stats = |(index, slot): (&u16, &Slot)| {
            let report = open!(slot.report.lock());
            LinkStats {
                index: *index,
                path: report.path.words(now),
                via: match &report.path {
                    Path::Relayed { via } => via.clone(),
                    _ => None,
                },
                reason: report.reason,
                up: slot.up.load(Ordering::Acquire),
                tx: slot.tx.value(),
                rx: slot.rx.value(),
                last_handshake: report.handshake.map(|at| now.saturating_duration_since(at)),
                rtt: report.rtt,
            }
        };
        self.slots.iter().map(stats).collect()
    }

    pub(super) fn dropped(&self) -> Dropped {
        let c = &self.counters;
        Dropped {
            unknown_source: c.unknown_source.value(),
            garbage: c.garbage.value(),
            undecryptable: c.undecryptable.value(),
            spoofed: c.spoofed.value(),
            stun_overflow: c.stun_overflow.value(),
            stun_refused: c.stun_refused.value(),
            source_conflict: c.source_conflict.value(),
            not_up: c.not_up.value(),
            no_path: c.no_path.value(),
            send_errors: c.send_errors.value(),
            receive_errors: c.receive_errors.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_claimed_by_several_peers() {
        let peers = [(1, Ipv6Addr::LOCALHOST), (2, Ipv6Addr::UNSPECIFIED)];
        let table = PathTable::new(peers.into_iter());
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        assert_eq!(table.sources(address), None);
        table.add_source(address, 1);
        assert_eq!(table.dropped().source_conflict, 0);
        for _ in 0..3 {
            table.add_source(address, 2);
        }
        assert_eq!(table.sources(address).as_deref(), Some(&[1, 2][..]));
        table.remove_source(address, 1);
        assert_eq!(table.sources(address).as_deref(), Some(&[2][..]));
        table.remove_source(address, 2);
        assert_eq!(table.sources(address), None);
        assert_eq!(table.dropped().source_conflict, 1);
    }
}
