//! The Internet between the sites: one thread that carries packets between TUN devices.
//!
//! ```text
//! TUN ─ read ─► longest prefix ─► path of (from, to): cut? lost? queue, delay, jitter ─► heap ─ write ─► TUN
//!                                        └ too long: fragments, or an ICMP message back
//! ```
//!
//! What a path does to packets is in [`conditions`]; all of it can be changed while it runs
//! ([`Control`]). Packets are read and written whole, so loss and rate act on what hosts send.
//!
//! Limits: [`MAX_QUEUED_PACKETS`], [`MAX_QUEUED_BYTES`], `capture::MAX_CAPTURE_BYTES`.

pub mod capture;
pub mod conditions;
pub mod packet;

use crate::{Context as _, Outcome, plan::LinkSpec};
use capture::Capture;
use conditions::{Fate, Path};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    fs::File,
    io::{Read as _, Write as _},
    net::IpAddr,
    num::NonZeroU64,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};

/// Packets under way at once.
pub const MAX_QUEUED_PACKETS: usize = 1_000_000;
/// Bytes under way at once.
pub const MAX_QUEUED_BYTES: usize = 512 << 20;
/// Packets read from one device before the next one's turn.
const TURN: usize = 64;
/// Routers between any two sites.
const ROUTERS: u8 = 6;
/// Longest packet that a TUN device gives.
const MAX_PACKET: usize = 65_536;
/// Nothing to do is looked at this often.
const IDLE_NANOSECONDS: u64 = 1_000_000_000;

/// An addresses' range: the network's bits, left-aligned, and how many count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bits: u128,
    length: u32,
    ipv6: bool,
}

impl Prefix {
    /// The range of addresses that begin like this one.
    pub fn new(address: IpAddr, length: u32) -> Self {
        let (bits, ipv6) = aligned(address);
        let length = length.min(if ipv6 { 128 } else { 32 });
        Self {
            bits: bits & mask(length),
            length,
            ipv6,
        }
    }

    /// Exactly this address.
    pub fn host(address: IpAddr) -> Self {
        Self::new(address, 128)
    }

    /// Whether it is one of IPv4.
    pub fn is_ipv4(self) -> bool {
        !self.ipv6
    }

    fn holds(self, (bits, ipv6): (u128, bool)) -> bool {
        self.ipv6 == ipv6 && bits & mask(self.length) == self.bits
    }
}

fn mask(length: u32) -> u128 {
    match length {
        0 => 0,
        n => u128::MAX << (128 - n.min(128)),
    }
}

fn aligned(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, false),
        IpAddr::V6(v6) => (u128::from(v6), true),
    }
}

/// A device at the edge of the emulated network.
#[derive(Debug)]
pub struct Port {
    /// Its TUN device.
    pub device: File,
    /// Where it is.
    pub region: String,
    /// Addresses behind it.
    pub prefixes: Vec<Prefix>,
}

/// What decides how long packets between two regions take.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Decides every loss and jitter.
    pub seed: u64,
    /// From region, to region.
    pub links: BTreeMap<(String, String), LinkSpec>,
    /// Elsewhere.
    pub elsewhere: LinkSpec,
}

impl Weather {
    fn between(&self, from: &str, to: &str) -> LinkSpec {
        let key = (from.to_owned(), to.to_owned());
        self.links.get(&key).copied().unwrap_or(self.elsewhere)
    }
}

/// A change while it runs. Ports are numbers in the order they were given.
#[derive(Clone, Debug)]
pub enum Control {
    /// Conditions from one region to another, in this direction.
    Link(String, String, LinkSpec),
    /// Conditions of everything from and to one port.
    Line(usize, LinkSpec),
    /// Cuts or mends the paths from one port to another; `None` is all.
    Cut {
        /// Where packets come from.
        from: Option<usize>,
        /// Where they go.
        to: Option<usize>,
        /// Whether nothing passes.
        cut: bool,
    },
    /// The addresses behind a port are these from now on.
    Readdress(usize, Vec<Prefix>),
    /// Makes captured packets visible in the file, and says when that is done.
    Flush(SyncSender<()>),
    /// Ends.
    Stop,
}

/// What was counted so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets read.
    pub packets: AtomicU64,
    /// Lost by chance.
    pub lost: AtomicU64,
    /// Dropped by full queues.
    pub queue: AtomicU64,
    /// On cut paths.
    pub cut: AtomicU64,
    /// To addresses nobody has.
    pub no_route: AtomicU64,
    /// Longer than a link takes.
    pub too_long: AtomicU64,
}

/// The running emulator. It ends with this value.
#[derive(Debug)]
pub struct Emulator {
    controls: Arc<Mutex<Vec<Control>>>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Starts it between these ports.
    pub fn start(ports: Vec<Port>, weather: Weather, capture: Option<Capture>) -> Outcome<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let wake = Arc::new(eventfd(0, flags).during("an eventfd")?);
        let controls = Arc::default();
        let counters = Arc::<Counters>::default();
        let network = Network::new(
            ports,
            weather,
            capture,
            Arc::clone(&controls),
            Arc::clone(&wake),
            Arc::clone(&counters),
        );
        let thread = std::thread::Builder::new()
            .name("emulator".into())
            .spawn(move || network.run())
            .during("the emulator's thread")?;
        Ok(Self {
            controls,
            wake,
            counters,
            thread: Some(thread),
        })
    }

    /// Changes something, at once.
    pub fn control(&self, control: Control) {
        let mut controls = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        controls.push(control);
        drop(controls);
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    /// Makes every packet captured so far visible in the file.
    pub fn flush(&self) {
        let (done, awaited) = sync_channel(1);
        self.control(Control::Flush(done));
        let _ = awaited.recv();
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.control(Control::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet under way; the order is that of arrival.
struct Underway {
    at: u64,
    sequence: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl PartialEq for Underway {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Underway {}

impl PartialOrd for Underway {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Underway {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

struct Network {
    ports: Vec<Port>,
    weather: Weather,
    capture: Option<Capture>,
    controls: Arc<Mutex<Vec<Control>>>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
    /// From `i` to `j` at `i * ports + j`.
    paths: Vec<Path>,
    /// Longest prefix first.
    routes: Vec<(Prefix, usize)>,
    known: HashMap<IpAddr, Option<usize>>,
    underway: BinaryHeap<Reverse<Underway>>,
    queued_bytes: usize,
    sequence: u64,
    begun: Instant,
}

impl Network {
    fn new(
        ports: Vec<Port>,
        weather: Weather,
        capture: Option<Capture>,
        controls: Arc<Mutex<Vec<Control>>>,
        wake: Arc<OwnedFd>,
        counters: Arc<Counters>,
    ) -> Self {
        let mut network = Self {
            paths: Vec::with_capacity(ports.len() * ports.len()),
            ports,
            weather,
            capture,
            controls,
            wake,
            counters,
            routes: Vec::new(),
            known: HashMap::new(),
            underway: BinaryHeap::new(),
            queued_bytes: 0,
            sequence: 0,
            begun: Instant::now(),
        };
        for from in &network.ports {
            for to in &network.ports {
                let spec = network.weather.between(&from.region, &to.region);
                let number = network.paths.len() as u64;
                let seed = network.weather.seed.rotate_left(32) ^ number;
                network.paths.push(Path::new(spec, seed));
            }
        }
        network.route();
        network
    }

    fn route(&mut self) {
        self.known.clear();
        self.routes.clear();
        for (index, port) in self.ports.iter().enumerate() {
            self.routes
                .extend(port.prefixes.iter().map(|p| (*p, index)));
        }
        self.routes
            .sort_by_key(|(prefix, _)| Reverse(prefix.length));
    }

    fn run(mut self) {
        prefer_this_thread();
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            self.deliver();
            if !self.await_something() {
                return;
            }
            for index in 0..self.ports.len() {
                self.read(index, &mut buffer);
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn deliver(&mut self) {
        let now = self.now();
        while self.underway.peek().is_some_and(|Reverse(p)| p.at <= now) {
            let Some(Reverse(packet)) = self.underway.pop() else {
                return;
            };
            self.queued_bytes -= packet.bytes.len();
            // A device that takes nothing drops, like any line.
            let _ = (&self.ports[packet.to].device).write(&packet.bytes);
        }
    }

    /// Sleeps until a packet comes or is due; false when it is over.
    fn await_something(&mut self) -> bool {
        let now = self.now();
        let due = self
            .underway
            .peek()
            .map(|Reverse(p)| p.at.saturating_sub(now));
        let wait = due.unwrap_or(IDLE_NANOSECONDS).min(IDLE_NANOSECONDS);
        let timeout = Timespec {
            tv_sec: i64::try_from(wait / 1_000_000_000).unwrap_or_default(),
            tv_nsec: i64::try_from(wait % 1_000_000_000).unwrap_or_default(),
        };
        let wake = Arc::clone(&self.wake);
        let mut polled: Vec<PollFd<'_>> = self
            .ports
            .iter()
            .map(|p| PollFd::from_borrowed_fd(p.device.as_fd(), PollFlags::IN))
            .collect();
        polled.push(PollFd::new(&wake, PollFlags::IN));
        let _ = poll(&mut polled, Some(&timeout));
        let woken = polled.last().is_some_and(|p| !p.revents().is_empty());
        drop(polled);
        if !woken {
            return true;
        }
        let _ = rustix::io::read(&*wake, &mut [0_u8; 8]);
        let controls = {
            let mut waiting = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        controls.into_iter().all(|c| self.obey(c))
    }

    fn obey(&mut self, control: Control) -> bool {
        let count = self.ports.len();
        match control {
            Control::Link(from, to, spec) => {
                for (index, path) in self.paths.iter_mut().enumerate() {
                    let (a, b) = (index / count, index % count);
                    if self.ports[a].region == from && self.ports[b].region == to {
                        path.change(spec);
                    }
                }
                self.weather.links.insert((from, to), spec);
            }
            Control::Line(port, spec) => {
                for (index, path) in self.paths.iter_mut().enumerate() {
                    if index / count == port || index % count == port {
                        path.change(spec);
                    }
                }
            }
            Control::Cut { from, to, cut } => {
                for (index, path) in self.paths.iter_mut().enumerate() {
                    let meant = |end: Option<usize>, is| end.is_none_or(|e| e == is);
                    if meant(from, index / count) && meant(to, index % count) {
                        path.cut = cut;
                    }
                }
            }
            Control::Readdress(port, prefixes) => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.prefixes = prefixes;
                }
                self.route();
            }
            Control::Flush(done) => {
                if let Some(capture) = &mut self.capture {
                    capture.flush();
                }
                let _ = done.try_send(());
            }
            Control::Stop => return false,
        }
        true
    }

    fn read(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..TURN {
            let Ok(length) = (&self.ports[from].device).read(buffer) else {
                return;
            };
            if length == 0 {
                return;
            }
            self.packet(from, &mut buffer[..length]);
        }
    }

    fn packet(&mut self, from: usize, bytes: &mut [u8]) {
        count(&self.counters.packets);
        let to = packet::destination(bytes).and_then(|d| self.port_of(d));
        // Who has no hops left is not told: nobody here asks for that.
        let Some(to) = to.filter(|_| packet::take_hops(bytes, ROUTERS)) else {
            return count(&self.counters.no_route);
        };
        if let Some(capture) = &mut self.capture {
            capture.packet(bytes);
        }
        let path = from * self.ports.len() + to;
        let Some((mtu, told)) = self.paths[path].too_long(bytes.len()) else {
            return self.pass(path, to, bytes);
        };
        count(&self.counters.too_long);
        match packet::too_long(bytes, mtu) {
            packet::TooLong::Fragments(pieces) => {
                for piece in pieces {
                    self.pass(path, to, &piece);
                }
            }
            packet::TooLong::Tell(message) if told => {
                let at = self.now() + 2 * self.paths[path].delay();
                self.queue(at, from, message);
            }
            packet::TooLong::Tell(_) | packet::TooLong::Drop => {}
        }
    }

    fn port_of(&mut self, address: IpAddr) -> Option<usize> {
        if let Some(known) = self.known.get(&address) {
            return *known;
        }
        let bits = aligned(address);
        let found = self.routes.iter().find(|(prefix, _)| prefix.holds(bits));
        let port = found.map(|(_, port)| *port);
        // Programs may try any number of addresses; those with a port are few.
        if port.is_some() {
            self.known.insert(address, port);
        }
        port
    }

    fn pass(&mut self, path: usize, to: usize, bytes: &[u8]) {
        let now = self.now();
        match self.paths[path].pass(bytes.len(), now) {
            Fate::Arrives(at) => self.queue(at, to, bytes.to_vec()),
            Fate::Twice(first, second) => {
                self.queue(first, to, bytes.to_vec());
                self.queue(second, to, bytes.to_vec());
            }
            Fate::Lost => count(&self.counters.lost),
            Fate::Queue => count(&self.counters.queue),
            Fate::Cut => count(&self.counters.cut),
        }
    }

    fn queue(&mut self, at: u64, to: usize, bytes: Vec<u8>) {
        let full = self.underway.len() >= MAX_QUEUED_PACKETS
            || self.queued_bytes + bytes.len() > MAX_QUEUED_BYTES;
        if full {
            return count(&self.counters.queue);
        }
        self.queued_bytes += bytes.len();
        self.sequence += 1;
        self.underway.push(Reverse(Underway {
            at,
            sequence: self.sequence,
            to,
            bytes,
        }));
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Late packets are wrong packets: wake this thread exactly, and first where that is allowed.
fn prefer_this_thread() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    // Real-time priority is for the machine's root only; without it nothing is wrong but the tail.
    let _ = std::process::Command::new("chrt")
        .args(["--fifo", "--pid", "10", &thread])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_families_do_not_mix() {
        let v4 = |text: [u8; 4]| IpAddr::from(text);
        let net = Prefix::new(v4([198, 51, 100, 0]), 24);
        let host = Prefix::host(v4([198, 51, 100, 7]));
        assert!(net.holds(aligned(v4([198, 51, 100, 7]))));
        assert!(host.holds(aligned(v4([198, 51, 100, 7]))));
        assert!(!host.holds(aligned(v4([198, 51, 100, 8]))));
        assert!(!net.holds(aligned(v4([198, 51, 101, 7]))));
        let same_bits = IpAddr::from([0xc633, 0x6407, 0, 0, 0, 0, 0, 0]);
        assert!(!net.holds(aligned(same_bits)));
        assert!(Prefix::new(v4([1, 2, 3, 4]), 0).holds(aligned(v4([9, 9, 9, 9]))));
        assert!(host.length > net.length);
    }
}
