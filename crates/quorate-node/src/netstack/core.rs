//! The stack under its lock: interface, sockets, listening ports, and who owns which socket.

use super::{
    StackConfig,
    device::{Outbound, Packets, Single},
    limits::{
        ACCEPT_QUEUE, CONNECT_TIMEOUT, FIRST_EPHEMERAL_PORT, LINGER, LISTEN_POOL, MAX_HALF_OPEN,
        MAX_HALF_OPEN_PER_PEER, MAX_ORPHANS_PER_PEER, MAX_SOCKETS, MAX_STREAMS_PER_PEER,
        STREAM_BUFFER,
    },
    recovery::Pieces,
    segment::{ACK, Flow, IPV6_HEADER, SYN, Segment, TCP, with_acknowledgement},
};
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, Socket, SocketBuffer, State},
    time::Instant as StackTime,
    wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint},
};
use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::Ipv6Addr,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

const ICMPV6: u8 = 58;
const TCP_HEADER: u8 = 20;
/// Acknowledgements of the same that make a TCP send what follows at once (RFC 5681, section 3.2), after a first one that
/// may tell another window than before and does not count then.
const DUPLICATES: usize = 4;

/// One listening port.
struct Port {
    accepted: mpsc::Sender<(SocketHandle, u16)>,
    waiting: Vec<SocketHandle>,
    /// Tells a listener that was replaced from the one that replaced it.
    generation: u64,
}

/// A stream's socket.
#[derive(Default)]
struct Entry {
    peer: u16,
    /// What was not read when both ends had finished; the socket forgets it in TIME-WAIT.
    saved: Option<Vec<u8>>,
}

/// A socket whose stream is gone.
struct Orphan {
    /// Unknown for a socket that never had a connection.
    peer: Option<u16>,
    /// Until when TCP may still be busy with it.
    until: Instant,
}

/// See the module's text.
pub(crate) struct Core {
    start: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    out: Outbound,
    address: Ipv6Addr,
    peers: HashMap<Ipv6Addr, u16>,
    ports: HashMap<u16, Port>,
    streams: HashMap<SocketHandle, Entry>,
    orphans: HashMap<SocketHandle, Orphan>,
    next_port: u16,
    generation: u64,
    /// Until when the task sleeps; `None`: until it is woken.
    task_wakes: Option<Instant>,
    closed: bool,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("streams", &self.streams.len())
            .field("orphans", &self.orphans.len())
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(config: &StackConfig, mut out: Outbound) -> Self {
        let mut settings = Config::new(HardwareAddress::Ip);
        settings.random_seed = config.seed;
        let mut interface = Interface::new(settings, &mut out, StackTime::ZERO);
        interface.update_ip_addrs(|addresses| {
            // Prefix 0: every peer is on the link. WireGuard decides who that is.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv6(config.address), 0));
        });
        let span = u16::MAX - FIRST_EPHEMERAL_PORT;
        let offset = u16::try_from((config.seed >> 32) % u64::from(span)).unwrap_or(0);
        Self {
            start: Instant::now(),
            interface,
            sockets: SocketSet::new(Vec::new()),
            out,
            address: config.address,
            peers: config.peers.iter().map(|(i, a)| (*a, *i)).collect(),
            ports: HashMap::new(),
            streams: HashMap::new(),
            orphans: HashMap::new(),
            next_port: FIRST_EPHEMERAL_PORT + offset,
            generation: 0,
            task_wakes: None,
            closed: false,
        }
    }

    fn now(&self) -> StackTime {
        let micros = self.start.elapsed().as_micros();
        StackTime::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Takes in a batch of packets, then sends and tidies up.
    pub(super) fn poll(&mut self, packets: &mut impl Packets) {
        let now = self.now();
        self.interface.poll_maintenance(now);
        while packets.advance() {
            let packet = packets.packet();
            if !self.admits(packet) {
                continue;
            }
            let opens = is_syn(packet);
            match Segment::parse(packet) {
                Some(segment) => self.take_segment(&segment, packet, now),
                None => self.take(packet, 1, now),
            }
            if opens {
                // The next packet may open one more connection and needs a socket for it.
                self.serve_ports();
            }
        }
        let time = self.start.elapsed();
        while let Some(pieces) = self.out.recovery.next_due(time) {
            self.take_pieces(pieces, now);
        }
        self.out.recovery.handle_timeout(time);
        self.egress();
        self.serve_ports();
        self.save_finished();
        self.bury();
    }

    /// A segment for TCP, after what it acknowledges was counted and what it shows to be lost was sent again.
    fn take_segment(&mut self, segment: &Segment<'_>, packet: &[u8], now: StackTime) {
        let verdict = self.out.recovery.heard(segment, self.start.elapsed());
        if let Some(pieces) = verdict.pieces {
            self.take_pieces(pieces, now);
        }
        match verdict.instead {
            _ if !verdict.deliver => {}
            Some(other) => self.take(&with_acknowledgement(packet, other), 1, now),
            None => self.take(packet, 1, now),
        }
        if let Some(duplicate) = verdict.reduce {
            for _ in 0..DUPLICATES {
                self.take(&duplicate, 1, now);
            }
        }
    }

    fn take_pieces(&mut self, mut pieces: Pieces, now: StackTime) {
        while let Some(piece) = pieces.next() {
            self.take(piece, 1, now);
        }
    }

    /// One packet for the stack, and how often the answer to it is sent.
    fn take(&mut self, packet: &[u8], answers: usize, now: StackTime) {
        let mut device = Single {
            packet: Some(packet),
            out: &mut self.out,
            answers,
        };
        self.interface
            .poll_ingress_single(now, &mut device, &mut self.sockets);
    }

    /// Acknowledges to a peer that was out of reach what arrived of each of its streams, as often as makes its TCP send
    /// the rest at once.
    ///
    /// Only the socket knows the numbers. It acknowledges when a segment comes that no end of the stream can have sent: one
    /// that begins a connection and answers what was never said. Such a segment changes nothing (RFC 9293, section
    /// 3.10.7.4). Of two numbers that are half of all apart, one is ahead of what was sent.
    pub(super) fn remind(&mut self, peer: u16) {
        let now = self.now();
        let streams = self
            .streams
            .iter()
            .map(|(handle, entry)| (*handle, entry.peer));
        let of_peer = streams.filter(|(_, of)| *of == peer);
        let handles: Vec<SocketHandle> = of_peer.map(|(handle, _)| handle).collect();
        for handle in handles {
            let socket = self.sockets.get::<Socket<'_>>(handle);
            let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint())
            else {
                continue;
            };
            if !matches!(
                socket.state(),
                State::Established | State::CloseWait | State::FinWait1 | State::FinWait2
            ) {
                continue;
            }
            for number in [0, 1 << 31] {
                let segment = impossible(remote, local, number);
                self.take(&segment, DUPLICATES, now);
            }
        }
    }

    /// Only packets between a peer's address and our own pass. WireGuard has already bound the
    /// source to the key; what is left is a peer that sends to somebody else's address.
    fn admits(&self, packet: &[u8]) -> bool {
        let address = |at: usize| -> Option<Ipv6Addr> {
            let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(bytes.into())
        };
        packet.len() >= IPV6_HEADER
            && packet[0] >> 4 == 6
            // Other headers before TCP's are for routers, and would hide a segment from what reads it here.
            && [TCP, ICMPV6].contains(&packet[6])
            && address(8).is_some_and(|source| self.peers.contains_key(&source))
            && address(24) == Some(self.address)
    }

    /// Sends what the sockets have ready, as far as the queue has room.
    pub(crate) fn egress(&mut self) {
        let now = self.now();
        self.out.repeat_lost();
        while self
            .interface
            .poll_egress(now, &mut self.out, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
    }

    /// How long the task may sleep, and whether it has to wait for room in the outbound queue.
    pub(super) fn plan(&mut self) -> (Option<Duration>, bool) {
        let blocked = self.out.take_blocked();
        let wait = self.wait();
        self.task_wakes = wait.map(|wait| Instant::now() + wait);
        (wait, blocked)
    }

    fn wait(&mut self) -> Option<Duration> {
        let now = self.now();
        let timer = self.interface.poll_delay(now, &self.sockets);
        let timer = timer.map(|wait| Duration::from_micros(wait.total_micros()));
        let due = self.out.recovery.next_timeout();
        let due = due.map(|at| at.saturating_sub(self.start.elapsed()));
        let linger = self.orphans.values().map(|orphan| orphan.until).min();
        let linger = linger.map(|at| at.saturating_duration_since(Instant::now()));
        [timer, due, linger].into_iter().flatten().min()
    }

    /// Whether a timer is due before the task wakes by itself.
    pub(crate) fn task_is_late(&mut self) -> bool {
        if self.out.take_blocked() {
            return true;
        }
        match (self.wait(), self.task_wakes) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(wait), Some(wakes)) => Instant::now() + wait < wakes,
        }
    }

    // --- streams ---

    /// The socket of a stream.
    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Data of a stream whose socket has already forgotten it.
    pub(crate) fn saved(&mut self, handle: SocketHandle) -> Option<&mut Vec<u8>> {
        self.streams.get_mut(&handle)?.saved.as_mut()
    }

    /// Whether the whole stack has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Begins a connection.
    pub(crate) fn connect(&mut self, peer: u16, port: u16) -> io::Result<SocketHandle> {
        let remote = self.peers.iter().find(|(_, index)| **index == peer);
        let Some(remote) = remote.map(|(address, _)| *address) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such peer"));
        };
        if self.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if self.is_crowded(peer) {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "too many streams",
            ));
        }
        let local = self.free_port();
        let mut socket = new_socket();
        let local = IpListenEndpoint {
            addr: Some(IpAddress::Ipv6(self.address)),
            port: local,
        };
        let remote = IpEndpoint::new(IpAddress::Ipv6(remote), port);
        socket
            .connect(self.interface.context(), remote, local)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))?;
        let handle = self.sockets.add(socket);
        self.streams.insert(handle, Entry { peer, saved: None });
        Ok(handle)
    }

    fn is_crowded(&self, peer: u16) -> bool {
        self.sockets.iter().count() >= MAX_SOCKETS
            || sockets_of(peer, &self.streams, &self.orphans, &self.sockets) >= MAX_STREAMS_PER_PEER
    }

    fn free_port(&mut self) -> u16 {
        let taken: HashSet<u16> = self
            .streams
            .keys()
            .chain(self.orphans.keys())
            .filter_map(|h| self.sockets.get::<Socket<'_>>(*h).local_endpoint())
            .map(|e| e.port)
            .collect();
        // MAX_SOCKETS is far below the number of ports, so one is free.
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
            if !taken.contains(&port) && !self.ports.contains_key(&port) {
                return port;
            }
        }
    }

    /// The stream of this socket is gone. If its end was told to the peer, what it wrote is still
    /// delivered, within limits; otherwise nobody waits for a proper end, and the peer is told at
    /// once, so that refusing a stream costs no socket.
    pub(crate) fn abandon(&mut self, handle: SocketHandle) {
        let Some(Entry { peer, .. }) = self.streams.remove(&handle) else {
            return;
        };
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        // Nobody will read what came: the peer has to know, as with any TCP.
        let unread = socket.recv_queue() > 0 && socket.state() != State::TimeWait;
        let unfinished = matches!(
            socket.state(),
            State::SynSent | State::SynReceived | State::Established | State::CloseWait
        );
        let mut until = Instant::now();
        if unread || unfinished {
            socket.abort();
        } else {
            until += LINGER;
        }
        self.orphan(handle, Some(peer), until);
    }

    /// Keeps a socket until TCP is done with it. A peer has at most [`MAX_ORPHANS_PER_PEER`] of
    /// them: the one with the least time left makes room.
    fn orphan(&mut self, handle: SocketHandle, peer: Option<u16>, until: Instant) {
        let mine = |orphan: &Orphan| peer.is_some() && orphan.peer == peer;
        if self.orphans.values().filter(|o| mine(o)).count() >= MAX_ORPHANS_PER_PEER {
            let all = self.orphans.iter().filter(|(_, orphan)| mine(orphan));
            if let Some(oldest) = all.min_by_key(|(_, o)| o.until).map(|(handle, _)| *handle) {
                self.orphans.remove(&oldest);
                let socket = self.sockets.get_mut::<Socket<'_>>(oldest);
                if let Some(flow) = flow(socket) {
                    self.out.recovery.forget(&flow);
                }
                socket.abort();
                self.egress();
                // A reset for which there was no room is sent when the peer speaks next.
                self.sockets.remove(oldest);
            }
        }
        self.orphans.insert(handle, Orphan { peer, until });
    }

    /// Copies unread data out of sockets that are about to forget it.
    fn save_finished(&mut self) {
        for (handle, entry) in &mut self.streams {
            let socket = self.sockets.get_mut::<Socket<'_>>(*handle);
            if socket.state() == State::TimeWait {
                let saved = entry.saved.get_or_insert_default();
                let mut data = vec![0; socket.recv_queue()];
                let length = socket.recv_slice(&mut data).unwrap_or(0);
                saved.extend_from_slice(&data[..length]);
            }
        }
    }

    fn bury(&mut self) {
        let sockets = &mut self.sockets;
        let now = Instant::now();
        let mut resets = false;
        self.orphans.retain(|handle, orphan| {
            let socket = sockets.get_mut::<Socket<'_>>(*handle);
            if socket.is_open() && orphan.until <= now {
                socket.abort();
                resets = true;
            }
            let done = is_done(socket);
            if done {
                sockets.remove(*handle);
            }
            !done
        });
        if resets {
            self.egress();
        }
    }

    // --- listening ports ---

    /// Opens a port; the number tells this opening from a later one.
    pub(super) fn listen(&mut self, port: u16) -> (mpsc::Receiver<(SocketHandle, u16)>, u64) {
        self.generation += 1;
        let generation = self.generation;
        let (accepted, queue) = mpsc::channel(ACCEPT_QUEUE);
        self.close_port(port, None);
        if !self.closed {
            let waiting = Vec::new();
            self.ports.insert(
                port,
                Port {
                    accepted,
                    waiting,
                    generation,
                },
            );
            self.serve_ports();
        }
        (queue, generation)
    }

    /// Closes a port, if it is still the opening with this number.
    pub(super) fn close_port(&mut self, port: u16, generation: Option<u64>) {
        let current = self.ports.get(&port).map(|p| p.generation);
        if current.is_none() || generation.is_some_and(|g| Some(g) != current) {
            return;
        }
        if let Some(port) = self.ports.remove(&port) {
            for handle in port.waiting {
                self.refuse(handle);
            }
        }
    }

    /// Resets a connection that no stream has.
    fn refuse(&mut self, handle: SocketHandle) {
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        let peer = remote_peer(socket, &self.peers);
        socket.abort();
        self.orphan(handle, peer, Instant::now());
    }

    /// Hands established connections to their listeners and keeps sockets waiting for the next.
    fn serve_ports(&mut self) {
        let mut total = self.sockets.iter().count();
        let mut refused = Vec::new();
        let mut half_open: HashMap<u16, usize> = HashMap::new();
        for (number, port) in &mut self.ports {
            let mut idle = 0;
            let mut waiting = Vec::with_capacity(port.waiting.len());
            for handle in port.waiting.drain(..) {
                let socket = self.sockets.get_mut::<Socket<'_>>(handle);
                let peer = remote_peer(socket, &self.peers);
                match (socket.state(), peer) {
                    (State::Listen, _) => {
                        idle += 1;
                        waiting.push(handle);
                    }
                    (State::SynReceived, Some(peer)) => {
                        let of_peer = half_open.entry(peer).or_default();
                        *of_peer += 1;
                        if *of_peer > MAX_HALF_OPEN_PER_PEER {
                            refused.push(handle);
                        } else {
                            waiting.push(handle);
                        }
                    }
                    (State::Established | State::CloseWait, Some(peer)) => {
                        let owned = sockets_of(peer, &self.streams, &self.orphans, &self.sockets);
                        if owned >= MAX_STREAMS_PER_PEER
                            || port.accepted.try_send((handle, peer)).is_err()
                        {
                            refused.push(handle);
                        } else {
                            self.sockets.get_mut::<Socket<'_>>(handle).set_timeout(None);
                            self.streams.insert(handle, Entry { peer, saved: None });
                        }
                    }
                    _ => refused.push(handle),
                }
            }
            while idle < LISTEN_POOL && waiting.len() < MAX_HALF_OPEN && total < MAX_SOCKETS {
                let mut socket = new_socket();
                socket.set_timeout(Some(CONNECT_TIMEOUT.into()));
                if socket.listen(*number).is_err() {
                    break;
                }
                waiting.push(self.sockets.add(socket));
                idle += 1;
                total += 1;
            }
            port.waiting = waiting;
        }
        for handle in refused {
            self.refuse(handle);
        }
    }

    /// Ends everything: streams fail from now on, listeners return.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.ports.clear();
        for (_, socket) in self.sockets.iter_mut() {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            socket.abort();
        }
        self.egress();
    }
}

fn new_socket() -> Socket<'static> {
    // Zeroed memory that is not touched costs nothing, so idle sockets are cheap.
    let buffer = || SocketBuffer::new(vec![0; STREAM_BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_congestion_control(CongestionControl::Cubic);
    socket
}

/// How many sockets a peer occupies, with those that TCP is not done with yet.
fn sockets_of(
    peer: u16,
    streams: &HashMap<SocketHandle, Entry>,
    orphans: &HashMap<SocketHandle, Orphan>,
    sockets: &SocketSet<'_>,
) -> usize {
    let streams = streams.values().filter(|entry| entry.peer == peer);
    let orphans = orphans.iter().filter(|(handle, orphan)| {
        orphan.peer == Some(peer) && !is_done(sockets.get::<Socket<'_>>(**handle))
    });
    streams.count() + orphans.count()
}

/// Whether TCP has nothing more to do. A reset that could not be sent yet still has its endpoint.
fn is_done(socket: &Socket<'_>) -> bool {
    !socket.is_open() && socket.remote_endpoint().is_none()
}

fn remote_peer(socket: &Socket<'_>, peers: &HashMap<Ipv6Addr, u16>) -> Option<u16> {
    let IpAddress::Ipv6(address) = socket.remote_endpoint()?.addr;
    peers.get(&address).copied()
}

fn flow(socket: &Socket<'_>) -> Option<Flow> {
    let (local, remote) = (socket.local_endpoint()?, socket.remote_endpoint()?);
    let IpAddress::Ipv6(address) = remote.addr;
    let mut flow = [0; 20];
    flow[..16].copy_from_slice(&address.octets());
    flow[16..18].copy_from_slice(&remote.port.to_be_bytes());
    flow[18..].copy_from_slice(&local.port.to_be_bytes());
    Some(flow)
}

/// A segment that belongs to an established stream by its addresses and ports, and by nothing else.
fn impossible(from: IpEndpoint, to: IpEndpoint, number: u32) -> Vec<u8> {
    let (IpAddress::Ipv6(source), IpAddress::Ipv6(destination)) = (from.addr, to.addr);
    let mut packet = Vec::with_capacity(IPV6_HEADER + usize::from(TCP_HEADER));
    packet.extend_from_slice(&[0x60, 0, 0, 0, 0, TCP_HEADER, TCP, 64]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(&from.port.to_be_bytes());
    packet.extend_from_slice(&to.port.to_be_bytes());
    packet.extend_from_slice(&0_u32.to_be_bytes());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(&[TCP_HEADER << 2, SYN | ACK, 0, 0, 0, 0, 0, 0]);
    packet
}

fn is_syn(packet: &[u8]) -> bool {
    packet.get(6) == Some(&TCP)
        && packet
            .get(IPV6_HEADER + 13)
            .is_some_and(|flags| flags & (SYN | ACK) == SYN)
}
