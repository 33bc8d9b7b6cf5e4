//! The packet task: datagrams in, decrypted, into the stack; packets of the stack, encrypted, out.
//!
//! ```text
//!   socket ─ run of datagrams ─► sort ─► decrypt ─► source check ─► stack (under its lock)
//!   socket ◄─ runs of one size ─ encrypt ◄─ gate ◄─ outbound queue ◄─┘ answers at once
//! ```
//! gotatun's [`Tunn`] is the WireGuard protocol without any I/O. Driving it from one task keeps
//! batches together from the socket to the stack and back, which its own device, with a queue per
//! packet between five tasks, does not: measured on two cores it made two datagrams per system
//! call where this makes dozens.
//!
//! A tunnel is chosen by the datagram's source address, which a path agent has authenticated, so
//! WireGuard's roaming does not exist here; the keys decide whether the datagram is real. Where
//! several peers claim one address, which takes a forger among them, each of their tunnels is
//! asked: the keys decide whose the datagram is. A datagram that came over a lane has no address: the
//! overlay knows whose it is, and the keys decide again.
//!
//! The first packet of a peer after an outage lets the stack remind it of what is missing, see `netstack`.

use super::{
    MeshConfig, MeshPeer,
    lane::Lanes,
    limits::{
        HANDSHAKE_RETRY, HANDSHAKES_PER_SECOND, KEEPALIVE_SECONDS, MAX_DATAGRAM, MAX_SOCKET_ERRORS,
        PACKET_POOL, SEND_BATCH, SOCKET_ERROR_PAUSE, TUNNEL_TICK,
    },
    probe,
    socket::{MeshSocket, ReceiveBuffer, Run},
    table::{PathTable, Way},
};
use crate::netstack::Injector;
use bytes::BytesMut;
use gotatun::{
    noise::{TimerParams, Tunn, TunnResult, index_table::IndexTable, rate_limiter::RateLimiter},
    packet::{Ipv6, Packet, PacketBufPool, WgKind},
    tun::MtuWatcher,
    x25519::{PublicKey, StaticSecret},
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

/// A peer that was not heard of for this long was out of reach: probes and pings come every two seconds.
const OUTAGE: Duration = Duration::from_millis(2500);

/// The public half of a WireGuard key.
pub(super) fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// A STUN message for the path agents.
#[derive(Debug)]
pub(super) struct Stun {
    pub(super) bytes: Vec<u8>,
    pub(super) source: SocketAddr,
    pub(super) destination: Option<IpAddr>,
}

/// What the mesh task wants done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Complete a handshake, unless there is a fresh session.
    Handshake(u16),
    /// Send a probe through the tunnel.
    Probe(u16, probe::Content),
    /// Set the keepalive: the pair is up.
    KeepAlive(u16),
}

/// What the mesh task has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// There is a fresh session with this peer, as far as its initiator can tell.
    Shaken(u16),
    /// Something came out of the tunnel from this peer.
    Heard {
        index: u16,
        /// It was a probe, which the responder answers.
        probe: Option<probe::Content>,
    },
    /// The socket fails for good.
    Fatal(String),
}

/// A decrypted packet on its way to the stack; its buffer goes back to the pool.
#[derive(Debug)]
struct Decrypted(Packet);

impl AsRef<[u8]> for Decrypted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct Tunnel {
    tunn: Tunn,
    address: Ipv6Addr,
    /// This end starts handshakes; the other end never does.
    initiator: bool,
    /// When the peer was heard of the last time.
    heard: Instant,
}

/// The queues of the packet task.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) outbound: mpsc::Receiver<BytesMut>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) stun: mpsc::Sender<Stun>,
    pub(super) notes: mpsc::Sender<Note>,
    pub(super) lanes: Option<Lanes>,
}

/// See the module's text.
pub(super) struct Engine {
    address: Ipv6Addr,
    socket: Arc<MeshSocket>,
    table: Arc<PathTable>,
    stack: Injector,
    queues: Queues,
    tunnels: BTreeMap<u16, Tunnel>,
    limiter: Arc<RateLimiter>,
    pool: PacketBufPool,
    mtu: MtuWatcher,
    inbox: Vec<Decrypted>,
    outbox: Vec<(u16, Packet)>,
    run: Vec<u8>,
    errors: u32,
}

impl Engine {
    pub(super) fn new(
        config: &MeshConfig,
        socket: Arc<MeshSocket>,
        table: Arc<PathTable>,
        stack: Injector,
        queues: Queues,
    ) -> Self {
        let secret = StaticSecret::from(*config.secret);
        let public = PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND));
        let indices = IndexTable::from_os_rng();
        let tunnels = config.peers.iter().map(|peer| {
            let initiator = config.me < peer.index;
            let tunn = tunnel(&secret, peer, initiator, &indices, &limiter);
            let address = peer.address;
            let heard = Instant::now();
            (
                peer.index,
                Tunnel {
                    tunn,
                    address,
                    initiator,
                    heard,
                },
            )
        });
        Self {
            address: config.address,
            socket,
            table,
            stack,
            tunnels: tunnels.collect(),
            limiter,
            pool: PacketBufPool::new(PACKET_POOL),
            mtu: MtuWatcher::new(config.mtu),
            inbox: Vec::with_capacity(SEND_BATCH),
            outbox: Vec::with_capacity(SEND_BATCH),
            run: Vec::new(),
            errors: 0,
            queues,
        }
    }

    /// Runs until the mesh task is gone.
    pub(super) async fn run(mut self) {
        let socket = Arc::clone(&self.socket);
        let mut buffer = ReceiveBuffer::default();
        let mut packets = Vec::with_capacity(SEND_BATCH);
        let mut arrivals = Vec::with_capacity(SEND_BATCH);
        let mut stack_open = true;
        let mut ticks = interval(TUNNEL_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = socket.receive(&mut buffer) => match received {
                    Ok(runs) => {
                        self.errors = 0;
                        for run in runs {
                            self.sort(&run);
                        }
                        self.deliver();
                    }
                    Err(e) => self.note_error(&e).await,
                },
                n = self.queues.outbound.recv_many(&mut packets, SEND_BATCH), if stack_open => {
                    stack_open = n > 0;
                    for packet in packets.drain(..) {
                        self.encrypt(packet);
                    }
                }
                n = from_lanes(&mut self.queues.lanes, &mut arrivals) => {
                    if n == 0 {
                        // Replaced, or the overlay has ended.
                        self.queues.lanes = None;
                    }
                    for (index, datagram) in arrivals.drain(..) {
                        self.take_lane(index, &datagram);
                    }
                    self.deliver();
                }
                order = self.queues.orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => break,
                },
                _ = ticks.tick() => self.tick(),
            }
            self.transmit().await;
        }
        // The stack's last words: resets of open streams.
        self.collect();
        self.transmit().await;
    }

    // --- in ---

    fn sort(&mut self, run: &Run<'_>) {
        if run.is_empty() {
            self.table.counters.garbage.add(1);
        }
        let claims = self.table.sources(run.source);
        for datagram in run.datagrams() {
            if datagram.len() > MAX_DATAGRAM {
                self.table.counters.garbage.add(1);
            } else if is_stun(datagram) {
                self.pass_stun(datagram, run);
            } else if !is_wireguard(datagram) {
                self.table.counters.garbage.add(1);
            } else if let Some(claims) = &claims {
                self.decrypt(claims, datagram, run.source);
            } else {
                self.table.counters.unknown_source.add(1);
            }
        }
    }

    /// A datagram that came over the lane of this peer.
    fn take_lane(&mut self, index: u16, datagram: &[u8]) {
        if datagram.len() > MAX_DATAGRAM || !is_wireguard(datagram) {
            self.table.counters.garbage.add(1);
        } else if self.tunnels.contains_key(&index) {
            self.decrypt(&[index], datagram, lane_address(index));
        } else {
            self.table.counters.unknown_source.add(1);
        }
    }

    fn pass_stun(&self, datagram: &[u8], run: &Run<'_>) {
        let stun = Stun {
            bytes: datagram.to_vec(),
            source: run.source,
            destination: run.destination,
        };
        if self.queues.stun.try_send(stun).is_err() {
            self.table.counters.stun_overflow.add(1);
        }
    }

    fn copy(&self, datagram: &[u8]) -> Packet {
        let mut packet = self.pool.get();
        packet.truncate(0);
        packet.buf_mut().extend_from_slice(datagram);
        packet
    }

    /// A datagram from an address that these peers claim.
    fn decrypt(&mut self, claims: &[u16], datagram: &[u8], source: SocketAddr) {
        let mut first = match self.limiter.verify_packet(source, self.copy(datagram)) {
            Ok(kind) => Some(kind),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                // Back to where the datagram came from.
                let leads_back = |index: &&u16| matches!(self.table.way(**index), Some(Way::Direct(r)) if r.remote == source);
                let index = claims.iter().find(leads_back).or(claims.first());
                self.outbox
                    .extend(index.map(|index| (*index, cookie.into())));
                return;
            }
            Err(_) => {
                self.table.counters.undecryptable.add(1);
                return;
            }
        };
        for index in claims {
            // The first tunnel consumed it: the next one gets a copy.
            let kind = match first.take() {
                Some(kind) => kind,
                None => match self.copy(datagram).try_into_wg() {
                    Ok(kind) => kind,
                    Err(_) => break,
                },
            };
            if self.open(*index, kind) {
                self.table.count_received(*index, datagram.len());
                return;
            }
        }
        self.table.counters.undecryptable.add(1);
    }

    /// Lets the tunnel of `index` take a datagram. `false`: it is not sealed with the keys of that
    /// pair, which has changed nothing.
    fn open(&mut self, index: u16, kind: WgKind) -> bool {
        let Some(tunnel) = self.tunnels.get_mut(&index) else {
            return false;
        };
        let completes = matches!(kind, WgKind::HandshakeResp(_));
        if !tunnel.initiator && completes || tunnel.initiator && is_initiation(&kind) {
            // Handshakes of this pair go one way only.
            return false;
        }
        match tunnel.tunn.handle_incoming_packet(kind) {
            TunnResult::Done => {}
            TunnResult::Err(_) => return false,
            TunnResult::WriteToNetwork(answer) => {
                self.outbox.push((index, answer.into()));
                let queued = tunnel.tunn.get_queued_packets(&mut self.mtu);
                self.outbox.extend(queued.map(|kind| (index, kind.into())));
                if completes {
                    self.table.report_handshake(index, Instant::now());
                    self.note(Note::Shaken(index));
                }
            }
            TunnResult::WriteToTunnel(packet) => self.accept(index, packet),
        }
        true
    }

    /// A packet that came out of the tunnel of `index`.
    fn accept(&mut self, index: u16, packet: Packet) {
        if packet.is_empty() {
            return; // a keepalive
        }
        // Cuts the padding off; refuses what is not a whole IPv6 packet.
        let packet = Packet::<Ipv6>::try_from(packet)
            .ok()
            .map(Packet::into_bytes);
        let expected = self.tunnels.get(&index).map(|t| t.address);
        let Some(packet) = packet.filter(|p| probe::source(p) == expected) else {
            self.table.counters.spoofed.add(1);
            return;
        };
        if let Some(tunnel) = self.tunnels.get_mut(&index) {
            let now = Instant::now();
            let before = std::mem::replace(&mut tunnel.heard, now);
            if now.saturating_duration_since(before) >= OUTAGE {
                self.stack.remind(index);
            }
        }
        let probe = probe::parse(&packet);
        if probe.is_some() || !self.table.is_up(index) {
            self.note(Note::Heard { index, probe });
        }
        if probe.is_none() {
            self.inbox.push(Decrypted(packet));
        }
    }

    /// Hands the batch to the stack and takes what it answers.
    fn deliver(&mut self) {
        if !self.inbox.is_empty() {
            self.stack.inject(&mut self.inbox);
            self.collect();
        }
    }

    async fn note_error(&mut self, error: &io::Error) {
        // For example ECONNREFUSED: one peer is gone. Others are not, so go on.
        self.table.counters.receive_errors.add(1);
        self.errors = self.errors.saturating_add(1);
        if self.errors == MAX_SOCKET_ERRORS {
            self.note(Note::Fatal(format!("the UDP socket failed: {error}")));
        }
        tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
    }

    /// A note that finds no room is repeated by what caused it.
    fn note(&self, note: Note) {
        let _ = self.queues.notes.try_send(note);
    }

    // --- out ---

    fn collect(&mut self) {
        while self.outbox.len() < SEND_BATCH
            && let Ok(packet) = self.queues.outbound.try_recv()
        {
            self.encrypt(packet);
        }
    }

    /// The gate: nothing of the stack goes to a peer before the pair is up.
    fn encrypt(&mut self, packet: BytesMut) {
        let index = probe::destination(&packet).and_then(|a| self.table.by_address(a));
        match index.filter(|index| self.table.is_up(*index)) {
            Some(index) => self.enclose(index, packet),
            None => self.table.counters.not_up.add(1),
        }
    }

    fn enclose(&mut self, index: u16, packet: BytesMut) {
        let Some(tunnel) = self.tunnels.get_mut(&index) else {
            return;
        };
        let packet = Packet::from_bytes(packet);
        let sealed = tunnel
            .tunn
            .handle_outgoing_packet(packet, Some(&mut self.mtu));
        if let Some(sealed) = sealed {
            self.post(index, sealed);
        }
    }

    fn post(&mut self, index: u16, kind: WgKind) {
        let initiator = self.tunnels.get(&index).is_some_and(|t| t.initiator);
        if initiator || !is_initiation(&kind) {
            self.outbox.push((index, kind.into()));
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Handshake(index) => {
                let Some(tunnel) = self.tunnels.get_mut(&index) else {
                    return;
                };
                if tunnel.tunn.has_active_session() {
                    self.note(Note::Shaken(index));
                } else if let Some(first) = tunnel.tunn.format_handshake_initiation(false) {
                    self.post(index, first.into());
                }
            }
            Order::Probe(index, content) => {
                if let Some(address) = self.tunnels.get(&index).map(|t| t.address) {
                    self.enclose(index, probe::make(self.address, address, content));
                }
            }
            Order::KeepAlive(index) => {
                if let Some(tunnel) = self.tunnels.get_mut(&index) {
                    tunnel
                        .tunn
                        .set_persistent_keepalive(Some(KEEPALIVE_SECONDS));
                }
            }
        }
    }

    fn tick(&mut self) {
        self.limiter.try_reset_count();
        let due: Vec<(u16, WgKind)> = self
            .tunnels
            .iter_mut()
            .filter_map(|(index, tunnel)| {
                // An error means that a handshake or session has expired; the mesh task starts over.
                Some((*index, tunnel.tunn.update_timers().ok()??))
            })
            .collect();
        for (index, kind) in due {
            self.post(index, kind);
        }
    }

    /// Sends the outbox. Packets for one peer that follow each other and have one length go out as
    /// one run; a shorter one ends its run (UDP segmentation offload).
    async fn transmit(&mut self) {
        let mut run = std::mem::take(&mut self.run);
        let mut outbox = std::mem::take(&mut self.outbox);
        let mut rest = outbox.drain(..).peekable();
        while let Some((index, first)) = rest.next() {
            let length = first.len();
            let room = self.socket.max_run(length);
            let fits = |(to, next): &(u16, Packet)| *to == index && next.len() <= length;
            if room == 1 || !rest.peek().is_some_and(fits) {
                self.send(index, &first, None).await;
                continue;
            }
            run.clear();
            run.extend_from_slice(&first);
            let mut count = 1;
            while count < room
                && let Some((_, next)) = rest.next_if(fits)
            {
                run.extend_from_slice(&next);
                count += 1;
                if next.len() < length {
                    break;
                }
            }
            self.send(index, &run, Some(length)).await;
        }
        drop(rest);
        self.outbox = outbox;
        self.run = run;
    }

    async fn send(&self, index: u16, contents: &[u8], segment: Option<usize>) {
        let sent = match self.table.way(index) {
            Some(Way::Direct(route)) => self.socket.send(route, contents, segment).await.is_ok(),
            Some(Way::Lane) => self.send_over_lane(index, contents, segment),
            None => {
                self.table.counters.no_path.add(1);
                return;
            }
        };
        if sent {
            self.table.count_sent(index, contents.len());
        } else {
            self.table.counters.send_errors.add(1);
        }
    }

    fn send_over_lane(&self, index: u16, contents: &[u8], segment: Option<usize>) -> bool {
        let Some(lanes) = &self.queues.lanes else {
            return false;
        };
        let length = segment.unwrap_or(contents.len()).max(1);
        contents
            .chunks(length)
            .all(|datagram| lanes.out.send(index, datagram))
    }
}

/// What came over the lanes, at most a batch; never, without lanes. 0: they have ended.
async fn from_lanes(lanes: &mut Option<Lanes>, arrivals: &mut Vec<(u16, Vec<u8>)>) -> usize {
    match lanes {
        Some(lanes) => lanes.incoming.recv_many(arrivals, SEND_BATCH).await,
        None => std::future::pending().await,
    }
}

/// Stands for the lane of a peer where `WireGuard` counts handshakes per address: of the prefix whose
/// packets are discarded (RFC 6666), so no datagram comes from there.
fn lane_address(index: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, index), 1))
}

fn tunnel(
    secret: &StaticSecret,
    peer: &MeshPeer,
    initiator: bool,
    indices: &IndexTable,
    limiter: &Arc<RateLimiter>,
) -> Tunn {
    let public = PublicKey::from(peer.public);
    let mut tunn = Tunn::new(
        secret.clone(),
        public,
        Some(*peer.psk),
        None,
        indices.clone(),
        Arc::clone(limiter),
    );
    let never = Duration::from_hours(24 * 365);
    let defaults = TimerParams::default();
    tunn.dangerously_set_timer_params(if initiator {
        TimerParams {
            rekey_timeout: HANDSHAKE_RETRY..=HANDSHAKE_RETRY.mul_f32(1.2),
            ..defaults
        }
    } else {
        // Silence makes the other end start over.
        TimerParams {
            new_handshake_timeout: never..=never,
            ..defaults
        }
    });
    tunn
}

fn is_initiation(kind: &WgKind) -> bool {
    matches!(kind, WgKind::HandshakeInit(_))
}

/// RFC 8489, section 5: two zero bits, and the magic cookie.
fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= 20 && datagram[0] < 4 && datagram[4..8] == [0x21, 0x12, 0xa4, 0x42]
}

/// Message types 1 to 4, then three zero bytes. A STUN message never looks like that: its second
/// byte is the low half of a message type that quorate does not use with zero.
fn is_wireguard(datagram: &[u8]) -> bool {
    datagram.len() >= 32 && (1..=4).contains(&datagram[0]) && datagram[1..4] == [0, 0, 0]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netstack::{Stack, StackConfig};
    use quorate_path::Scope;
    use tokio::sync::oneshot;
    use zeroize::Zeroizing;

    fn address(index: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, index + 1)
    }

    /// Party 0 of a mesh of three.
    fn engine() -> (Engine, Stack) {
        let (engine, stack, _) = engine_and_notes(0);
        (engine, stack)
    }

    fn engine_and_notes(me: u16) -> (Engine, Stack, mpsc::Receiver<Note>) {
        let others = (0..3_u16).filter(move |index| *index != me);
        let peer = |index: u16| MeshPeer {
            index,
            public: public_key(&[u8::try_from(index).unwrap() + 1; 32]),
            psk: Zeroizing::new([9; 32]),
            address: address(index),
        };
        let config = MeshConfig {
            me,
            secret: Zeroizing::new([u8::try_from(me).unwrap() + 1; 32]),
            address: address(me),
            mtu: 1420,
            scope: Scope::Local,
            peers: others.clone().map(peer).collect(),
            reach: crate::wireguard::Reach::default(),
        };
        let (to_tunnel, outbound) = mpsc::channel(8);
        let stack_config = StackConfig {
            address: address(me),
            mtu: 1420,
            peers: others.map(|index| (index, address(index))).collect(),
            seed: 1,
        };
        let stack = Stack::start(&stack_config, to_tunnel);
        let socket = MeshSocket::bind(Scope::Local, oneshot::channel().0).unwrap();
        let peers = config.peers.iter().map(|p| (p.index, p.address));
        let table = Arc::new(PathTable::new(peers));
        let (notes, noted) = mpsc::channel(8);
        let queues = Queues {
            outbound,
            orders: mpsc::channel(8).1,
            stun: mpsc::channel(8).0,
            notes,
            lanes: None,
        };
        let injector = stack.injector();
        (
            Engine::new(&config, Arc::new(socket), table, injector, queues),
            stack,
            noted,
        )
    }

    fn packet(source: Ipv6Addr, next_header: u8) -> Packet {
        let mut bytes = probe::make(source, address(0), probe::Content::default());
        bytes[5] = 20;
        bytes[6] = next_header;
        bytes.resize(60, 0);
        Packet::from_bytes(bytes)
    }

    #[tokio::test]
    async fn what_comes_out_of_a_tunnel_carries_its_peers_address_or_is_dropped() {
        let (mut engine, _stack) = engine();
        engine.accept(1, packet(address(1), 6));
        assert_eq!(engine.inbox.len(), 1);
        // Peer 1 as peer 2, as us, as nobody; IPv4; cut short.
        for forged in [address(2), address(0), Ipv6Addr::UNSPECIFIED] {
            engine.accept(1, packet(forged, 6));
            engine.accept(1, packet(forged, 59));
        }
        engine.accept(1, Packet::from_bytes(BytesMut::from(&[0x45; 60][..])));
        engine.accept(1, Packet::from_bytes(BytesMut::from(&[0x60; 10][..])));
        assert_eq!(engine.inbox.len(), 1, "a forged packet went to the stack");
        assert_eq!(engine.table.dropped().spoofed, 8);
    }

    #[tokio::test]
    async fn padding_is_cut_off_before_the_stack_sees_a_packet() {
        let (mut engine, _stack) = engine();
        let mut padded = packet(address(1), 6);
        padded.buf_mut().resize(64, 0);
        engine.accept(1, padded);
        assert_eq!(engine.inbox[0].0.len(), 60);
    }

    #[tokio::test]
    async fn datagrams_without_the_keys_are_dropped_even_from_a_known_address() {
        let (mut engine, _stack) = engine();
        let source = SocketAddr::from(([127, 0, 0, 1], 9));
        for kind in 1..=4 {
            for length in [32, 64, 92, 148, 1452] {
                let mut datagram = vec![0x5a; length];
                datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
                engine.decrypt(&[1, 2], &datagram, source);
            }
        }
        assert_eq!(engine.table.dropped().undecryptable, 20);
        assert!(
            engine.inbox.is_empty() && engine.outbox.is_empty(),
            "something was answered"
        );
    }

    #[tokio::test]
    async fn a_peer_that_forges_anothers_address_first_does_not_keep_that_one_out() {
        let (mut other, _other_stack) = engine();
        let (mut engine, _stack, mut notes) = engine_and_notes(2);
        let source = SocketAddr::from(([127, 0, 0, 1], 9));
        // Party 1 has claimed the address of party 0 before it did itself.
        engine.table.add_source(source, 1);
        engine.table.add_source(source, 0);
        let claims = engine.table.sources(source).unwrap();
        other.obey(Order::Handshake(2));
        let (_, initiation) = other.outbox.pop().unwrap();
        engine.decrypt(&claims, &initiation, source);
        let (to, response) = engine.outbox.pop().expect("the handshake is answered");
        assert_eq!(to, 0);
        other.decrypt(&[1, 2], &response, source);
        // What comes next is data, also found among the claims.
        other.outbox.clear();
        other.obey(Order::Probe(2, probe::Content::default()));
        let (_, probe) = other.outbox.pop().expect("there is a session");
        engine.decrypt(&claims, &probe, source);
        assert_eq!(engine.table.dropped().undecryptable, 0);
        let heard = notes.try_recv();
        assert_eq!(
            heard,
            Ok(Note::Heard {
                index: 0,
                probe: Some(probe::Content::default())
            })
        );
    }

    #[tokio::test]
    async fn the_gate_stays_shut_until_the_pair_is_up() {
        let (mut engine, _stack) = engine();
        engine.encrypt(probe::make(
            address(0),
            address(1),
            probe::Content::default(),
        ));
        assert!(engine.outbox.is_empty());
        assert_eq!(engine.table.dropped().not_up, 1);
        engine.table.set_up(1);
        engine.encrypt(probe::make(
            address(0),
            address(1),
            probe::Content::default(),
        ));
        assert_eq!(
            engine.outbox.len(),
            1,
            "an up pair starts a handshake for its packet"
        );
        engine.encrypt(probe::make(
            address(0),
            address(7),
            probe::Content::default(),
        ));
        assert_eq!(engine.table.dropped().not_up, 2, "there is no party 7");
    }

    #[test]
    fn stun_and_wireguard_are_told_apart() {
        let mut binding = [0_u8; 32];
        binding[1] = 1;
        binding[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        assert!(is_stun(&binding) && !is_wireguard(&binding));
        let mut data = [0_u8; 32];
        data[0] = 4;
        assert!(is_wireguard(&data) && !is_stun(&data));
        for garbage in [&[][..], &[1, 0, 0], &[5; 40], &[1, 0, 0, 9, 0, 0, 0, 0]] {
            assert!(!is_stun(garbage) && !is_wireguard(garbage));
        }
    }
}
