//! Three sessions under an arbitrary sequence of events: two bytes are one event, its kind and its argument.
//!
//! Frames are delivered late, twice, in another order, damaged or never; links come and go; time passes; records are
//! stored late or not; parties crash and start again; programs end. After each event the invariants of the simulator are
//! looked at: no alarm, bounded queues, one roster, nobody installs a roster that another has not stored, nobody starts
//! before every mesh works.

use quorate_identity::{Digest, UnixMillis, UnixTime};
use quorate_session::{
    Event, LinkId, LinkKind, MeshPlan, Outcome, PersistToken, Pid, ProgramReport, Record, Session,
    Setup, State, Stored, limits,
};
use quorate_sim::setting::{START, fingerprint, invitation_of, party_key, resolve, secret};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

const PARTIES: usize = 3;
/// Events of one input.
const MAX_EVENTS: usize = 400;
/// Frames that one delivery of everything hands over.
const MAX_DELIVERIES: usize = 3000;
/// Links that are up at a time.
const MAX_WIRES: usize = 24;

/// Runs the events that the input describes.
pub fn session(data: &[u8]) {
    play(data);
}

fn play(data: &[u8]) -> Hall {
    let mut hall = Hall::open();
    for event in data.chunks_exact(2).take(MAX_EVENTS) {
        hall.happen(event[0], event[1]);
        hall.check();
    }
    hall
}

/// One party.
struct Node {
    session: Session,
    /// Starts so far: makes each start's seed another one.
    life: u8,
    record: Option<Vec<u8>>,
    /// Its disk answers by itself.
    quick_disk: bool,
    waiting: VecDeque<(PersistToken, Vec<u8>)>,
    mesh: Option<MeshPlan>,
    stored: BTreeSet<Digest>,
}

/// A link between two parties.
struct Wire {
    ends: [usize; 2],
    roster: Option<Digest>,
    /// Receiver and bytes.
    frames: VecDeque<(usize, Vec<u8>)>,
}

struct Hall {
    began: Instant,
    now: Instant,
    nodes: Vec<Node>,
    wires: BTreeMap<u64, Wire>,
    next_link: u64,
    /// Who said of which roster that its mesh works.
    working: BTreeSet<(Digest, usize)>,
    finished: BTreeSet<usize>,
}

impl Hall {
    fn open() -> Self {
        let now = Instant::now();
        let mut hall = Self {
            began: now,
            now,
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            next_link: 1,
            working: BTreeSet::new(),
            finished: BTreeSet::new(),
        };
        for index in 0..PARTIES {
            let session = hall.start(index, 0, None);
            hall.nodes.push(Node {
                session: session.expect("the setting is in order"),
                life: 0,
                record: None,
                quick_disk: true,
                waiting: VecDeque::new(),
                mesh: None,
                stored: BTreeSet::new(),
            });
        }
        for index in 0..PARTIES {
            hall.join(index);
        }
        hall
    }

    fn at(&self) -> UnixTime {
        let passed = (self.now - self.began).as_secs();
        UnixTime(START.saturating_add_unsigned(passed))
    }

    fn start(&self, index: usize, life: u8, stored: Option<Stored>) -> Option<Session> {
        let pid = u16::try_from(index).unwrap_or(0);
        let setup = Setup {
            invitation: invitation_of(3, false),
            secret: secret(),
            key: party_key(pid),
            fingerprint: fingerprint(),
            stored,
            seed: [life
                .wrapping_mul(8)
                .wrapping_add(0x10 + u8::try_from(index).unwrap_or(0)); 32],
        };
        Session::new(setup, self.at(), self.now).ok()
    }

    fn join(&mut self, index: usize) {
        let passed = u64::try_from((self.now - self.began).as_millis()).unwrap_or(0);
        let at = UnixMillis(START.unsigned_abs() * 1000 + passed);
        let _ = self.nodes[index].session.join(at, self.now);
        self.settle(index);
    }

    fn happen(&mut self, kind: u8, argument: u8) {
        let index = usize::from(argument) % PARTIES;
        match kind % 16 {
            0 | 1 => self.deliver_one(argument),
            2 | 3 => self.deliver_all(),
            4 => self.link_up(index, (index + 1 + usize::from(argument >> 7)) % PARTIES),
            5 => self.on_wire(argument, |_, wire| drop(wire.frames.pop_front())),
            6 => self.on_wire(argument, |_, wire| {
                let first = wire.frames.front().cloned();
                wire.frames.extend(first);
            }),
            7 => self.on_wire(argument, |_, wire| {
                wire.frames.rotate_left(wire.frames.len().min(1));
            }),
            8 => self.on_wire(argument, damage),
            9 => {
                if let Some(link) = self.pick(argument) {
                    self.cut(link);
                }
            }
            10 => self.pass(Duration::from_millis(50 * u64::from(argument))),
            11 => self.pass(Duration::from_secs(u64::from(argument))),
            12 => self.disk(index, argument),
            13 => self.connect_tunnels(),
            14 => self.program(index, argument),
            _ => self.trouble(index, argument),
        }
    }

    fn pick(&self, argument: u8) -> Option<u64> {
        let count = self.wires.len();
        let at = usize::from(argument).checked_rem(count)?;
        self.wires.keys().nth(at).copied()
    }

    fn on_wire(&mut self, argument: u8, change: impl FnOnce(u8, &mut Wire)) {
        if let Some(wire) = self
            .pick(argument)
            .and_then(|link| self.wires.get_mut(&link))
        {
            change(argument, wire);
        }
    }

    fn deliver_one(&mut self, argument: u8) {
        if let Some(link) = self.pick(argument) {
            self.deliver(link);
        }
    }

    /// Delivers everything, in the order of the links, until nothing moves.
    fn deliver_all(&mut self) {
        for _ in 0..MAX_DELIVERIES {
            let waiting = self.wires.iter().find(|(_, wire)| !wire.frames.is_empty());
            let Some(link) = waiting.map(|(link, _)| *link) else {
                return;
            };
            self.deliver(link);
        }
    }

    fn deliver(&mut self, link: u64) {
        let frame = self
            .wires
            .get_mut(&link)
            .and_then(|wire| wire.frames.pop_front());
        if let Some((to, bytes)) = frame {
            let (at, now) = (self.at(), self.now);
            self.nodes[to]
                .session
                .handle_message(LinkId(link), &bytes, at, now);
            self.settle(to);
        }
    }

    fn link_up(&mut self, a: usize, b: usize) {
        if a == b || self.wires.len() >= MAX_WIRES {
            return;
        }
        let peers = [a, b].map(|index| self.nodes[index].session.peer_id());
        let link = self.new_wire([a, b], None);
        for (end, local, remote) in [(a, peers[0], peers[1]), (b, peers[1], peers[0])] {
            let kind = LinkKind::Overlay { local, remote };
            let (at, now) = (self.at(), self.now);
            self.nodes[end]
                .session
                .handle_link_up(LinkId(link), kind, at, now);
            self.settle(end);
        }
    }

    fn new_wire(&mut self, ends: [usize; 2], roster: Option<Digest>) -> u64 {
        let link = self.next_link;
        self.next_link += 1;
        let frames = VecDeque::new();
        self.wires.insert(
            link,
            Wire {
                ends,
                roster,
                frames,
            },
        );
        link
    }

    fn cut(&mut self, link: u64) {
        let Some(wire) = self.wires.remove(&link) else {
            return;
        };
        for end in wire.ends {
            self.nodes[end]
                .session
                .handle_link_down(LinkId(link), self.now);
            self.settle(end);
        }
    }

    /// Time passes, in the steps that the sessions ask for.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..64 {
            let due = self
                .nodes
                .iter()
                .filter_map(|node| node.session.poll_timeout());
            let next = due.map(|(at, _)| at).min().unwrap_or(end);
            self.now = next.clamp(self.now, end);
            for index in 0..PARTIES {
                let (at, now) = (self.at(), self.now);
                self.nodes[index].session.handle_timeout(at, now);
                self.settle(index);
            }
            if self.now >= end {
                return;
            }
            self.now = (self.now + Duration::from_millis(20)).min(end);
        }
        self.now = end;
    }

    fn disk(&mut self, index: usize, argument: u8) {
        let node = &mut self.nodes[index];
        if argument & 0x80 != 0 {
            node.quick_disk = !node.quick_disk;
        }
        if let Some((token, record)) = node.waiting.pop_front() {
            self.store(index, token, record, argument & 0x40 == 0);
        }
    }

    fn store(&mut self, index: usize, token: PersistToken, record: Vec<u8>, works: bool) {
        let node = &mut self.nodes[index];
        if works {
            let stored = Stored::parse(&record).expect("a session writes records that it can read");
            node.stored.extend(stored.roster);
            node.record = Some(record);
        }
        node.session.handle_persisted(token, works, self.now);
        self.settle(index);
    }

    /// Tunnels between meshes that know each other's keys, and the word that they work.
    fn connect_tunnels(&mut self) {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let (Some(one), Some(other)) = (&self.nodes[a].mesh, &self.nodes[b].mesh) else {
                continue;
            };
            let roster = one.roster;
            let up = self
                .wires
                .values()
                .any(|wire| wire.ends == [a, b] && wire.roster == Some(roster));
            if up || !fit(one, other) || self.wires.len() >= MAX_WIRES {
                continue;
            }
            let pids = [one.me, other.me];
            let link = self.new_wire([a, b], Some(roster));
            for (end, pid) in [(a, pids[1]), (b, pids[0])] {
                let kind = LinkKind::Tunnel { roster, pid };
                let (at, now) = (self.at(), self.now);
                self.nodes[end]
                    .session
                    .handle_link_up(LinkId(link), kind, at, now);
                self.settle(end);
            }
        }
        for index in 0..PARTIES {
            let Some(roster) = self.nodes[index].mesh.as_ref().map(|mesh| mesh.roster) else {
                continue;
            };
            let mine = |wire: &&Wire| wire.ends.contains(&index) && wire.roster == Some(roster);
            if self.wires.values().filter(mine).count() == PARTIES - 1 {
                self.working.insert((roster, index));
                let (at, now) = (self.at(), self.now);
                self.nodes[index].session.handle_mesh_ready(roster, at, now);
                self.settle(index);
            }
        }
    }

    fn program(&mut self, index: usize, argument: u8) {
        let report = match argument >> 5 {
            0 => ProgramReport::Connected,
            code => ProgramReport::Exited {
                code: i32::from(code > 5),
                signal: (code == 7).then_some(9),
                bytes_sent: Some(u64::from(argument)),
                elapsed_ms: 100,
                note: "\u{1b}[2Ja program says anything\u{202e}".into(),
            },
        };
        let (at, now) = (self.at(), self.now);
        self.nodes[index].session.handle_program(report, at, now);
        self.settle(index);
    }

    /// A party stops, or crashes and starts again with its record.
    fn trouble(&mut self, index: usize, argument: u8) {
        if argument & 0xe0 == 0xe0 {
            let (at, now) = (self.at(), self.now);
            let code = quorate_identity::Code::Interrupted;
            self.nodes[index]
                .session
                .abort(code, None, "stopped", at, now);
            return self.settle(index);
        }
        let stored = self.nodes[index].record.as_deref();
        let stored = stored.map(|record| Stored::parse(record).expect("a record of its own"));
        let life = self.nodes[index].life + 1;
        let Some(session) = self.start(index, life, stored).filter(|_| life < 30) else {
            return;
        };
        let links = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.ends.contains(&index));
        for link in links.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.cut(link);
        }
        let node = &mut self.nodes[index];
        (node.session, node.life) = (session, life);
        node.mesh = None;
        node.waiting.clear();
        self.join(index);
    }

    /// Does what a session wants done.
    fn settle(&mut self, index: usize) {
        loop {
            while let Some(event) = self.nodes[index].session.poll_event() {
                self.handle(index, event);
            }
            let Some((link, bytes)) = self.nodes[index].session.poll_transmit() else {
                return;
            };
            if let Some(wire) = self.wires.get_mut(&link.0) {
                let to = wire.ends[usize::from(wire.ends[0] == index)];
                if wire.frames.len() < 256 {
                    wire.frames.push_back((to, bytes));
                }
            }
        }
    }

    fn handle(&mut self, index: usize, event: Event) {
        let (at, now) = (self.at(), self.now);
        let node = &mut self.nodes[index];
        match event {
            Event::Resolve(did) => node.session.handle_resolved(&did, resolve(&did), at, now),
            Event::Persist { token, record } if node.quick_disk => {
                self.store(index, token, record, true);
            }
            Event::Persist { token, record } => node.waiting.push_back((token, record)),
            Event::Keep { token, record } => {
                let read = Record::parse(&record.encode()).expect("a record reads its own bytes");
                read.verify().expect("what a session keeps is genuine");
                let ok = node.quick_disk;
                node.session.handle_persisted(token, ok, now);
            }
            Event::Install(plan) => {
                for (other, node) in self.nodes.iter().enumerate() {
                    let stored = node.stored.contains(&plan.roster);
                    assert!(
                        stored,
                        "{index} installs a roster that {other} has not stored"
                    );
                }
                self.nodes[index].mesh = Some(*plan);
            }
            Event::Uninstall => {
                node.mesh = None;
                let tunnels = self
                    .wires
                    .iter()
                    .filter(|(_, wire)| wire.roster.is_some() && wire.ends.contains(&index));
                for link in tunnels.map(|(link, _)| *link).collect::<Vec<_>>() {
                    self.cut(link);
                }
            }
            Event::Start => {
                let roster = node
                    .mesh
                    .as_ref()
                    .expect("a program starts on a mesh")
                    .roster;
                for other in 0..PARTIES {
                    let works = self.working.contains(&(roster, other));
                    assert!(works, "{index} starts before the mesh of {other} works");
                }
            }
            Event::CloseLink { link, .. } => self.cut(link.0),
            Event::Alarm(text) => panic!("{index}: {text}"),
            Event::Closed(outcome) => {
                node.mesh = None;
                if matches!(outcome, Outcome::Finished { .. }) {
                    self.finished.insert(index);
                }
            }
            Event::State(_)
            | Event::Party { .. }
            | Event::Signal { .. }
            | Event::Peers { .. }
            | Event::Refused { .. }
            | Event::Evidence { .. } => {}
        }
    }

    fn check(&self) {
        let rosters = self.nodes.iter().filter_map(|node| node.mesh.as_ref());
        let rosters: BTreeSet<Digest> = rosters.map(|mesh| mesh.roster).collect();
        assert!(rosters.len() <= 1, "two rosters are installed at once");
        for (index, node) in self.nodes.iter().enumerate() {
            let usage = node.session.usage();
            let within = usage.transmits <= limits::MAX_TRANSMITS
                && usage.events <= limits::MAX_EVENTS
                && usage.links <= limits::MAX_LINKS
                && usage.unresolved <= limits::MAX_UNRESOLVED
                && usage.signals <= limits::MAX_SIGNALS
                && usage.confirms <= limits::MAX_CONFIRMS_PER_PARTY
                && usage.refused <= limits::MAX_REFUSED_DIGESTS;
            assert!(within, "{index}: {usage:?}");
            let closed = node.session.state() == State::Closed;
            assert!(
                !closed || node.mesh.is_none(),
                "{index} is closed and keeps its mesh"
            );
        }
    }
}

/// Flips a bit of the first frame, where the argument says.
fn damage(argument: u8, wire: &mut Wire) {
    if let Some((_, bytes)) = wire.frames.front_mut() {
        let at = usize::from(argument) * bytes.len() / 256;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << (argument % 7);
        }
    }
}

/// Whether WireGuard would work between two meshes: one roster, each has the other's key, one pre-shared key.
fn fit(one: &MeshPlan, other: &MeshPlan) -> bool {
    let public = |plan: &MeshPlan| {
        let secret = x25519_dalek::StaticSecret::from(*plan.secret);
        x25519_dalek::PublicKey::from(&secret).to_bytes()
    };
    let peer = |plan: &MeshPlan, pid: Pid| {
        let peer = plan.peers.iter().find(|peer| peer.pid == pid);
        peer.map(|peer| (peer.public, *peer.psk))
    };
    let (theirs, ours) = (peer(one, other.me), peer(other, one.me));
    let keys_fit = theirs.is_some_and(|(key, _)| key == public(other))
        && ours.is_some_and(|(key, _)| key == public(one));
    keys_fit && one.roster == other.roster && theirs.map(|(_, psk)| psk) == ours.map(|(_, psk)| psk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a fuzzer would only ever see sessions that wait.
    #[test]
    fn inputs_of_the_corpus_reach_the_end_of_a_session() {
        let calm = include_bytes!("../../../tests/fuzz/corpus/session/finishes");
        assert_eq!(play(calm).finished.len(), PARTIES);
        let crash = include_bytes!("../../../tests/fuzz/corpus/session/crash-and-rejoin");
        let hall = play(crash);
        assert_eq!(hall.finished.len(), PARTIES);
        assert!(
            hall.nodes
                .iter()
                .any(|node| node.life > 0 && node.stored.len() > 1)
        );
    }
}
