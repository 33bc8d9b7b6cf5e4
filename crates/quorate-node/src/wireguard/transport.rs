//! gotatun's four transports: datagrams in and out, packets in and out.
//!
//! gotatun ends its tasks when a transport returns an error, so none of these ever does: what
//! cannot be sent is dropped and counted, as the network would.

use super::{
    limits::{HANDSHAKE_RETRY, MAX_DATAGRAM, MAX_SOCKET_ERRORS, SEND_BATCH, SOCKET_ERROR_PAUSE},
    probe,
    socket::{MeshSocket, ReceiveBuffer, Run},
    table::{self, PathTable, Route},
};
use bytes::BytesMut;
use gotatun::{
    device::{Device, Peer},
    noise::TimerParams,
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
    udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams},
    x25519::{PublicKey, StaticSecret},
};
use ipnetwork::{IpNetwork, Ipv6Network};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The WireGuard device of a mesh.
pub(super) type MeshDevice = Device<(Factory, ToStack, FromStack)>;

/// A decrypted packet on its way to the stack.
#[derive(Debug)]
pub(super) struct Decrypted(Packet);

impl AsRef<[u8]> for Decrypted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A STUN message for the path agents.
#[derive(Debug)]
pub(super) struct Stun {
    pub(super) bytes: Vec<u8>,
    pub(super) source: SocketAddr,
    pub(super) destination: Option<IpAddr>,
}

/// The public half of a WireGuard key.
pub(super) fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// What gotatun is told about a peer. `initiator`: this end starts handshakes with it.
pub(super) fn device_peer(peer: &super::MeshPeer, initiator: bool) -> Peer {
    let never = Duration::from_hours(24 * 365);
    let defaults = TimerParams::default();
    let timers = if initiator {
        TimerParams {
            rekey_timeout: HANDSHAKE_RETRY..=HANDSHAKE_RETRY.mul_f32(1.2),
            ..defaults
        }
    } else {
        // Silence makes the other end start over; two ends doing so would meet.
        TimerParams {
            new_handshake_timeout: never..=never,
            ..defaults
        }
    };
    let network = IpNetwork::V6(Ipv6Network::from(peer.address));
    Peer::new(PublicKey::from(peer.public))
        .with_endpoint(table::endpoint(peer.index))
        .with_allowed_ip(network)
        .with_preshared_key(*peer.psk)
        .dangerously_with_timer_params(timers)
}

// --- datagrams ---

/// Hands out the one socket whenever gotatun asks for one.
#[derive(Debug)]
pub(super) struct Factory {
    pub(super) socket: Arc<MeshSocket>,
    pub(super) table: Arc<PathTable>,
    pub(super) stun: mpsc::Sender<Stun>,
    /// Told once when the socket fails for good.
    pub(super) fatal: mpsc::Sender<String>,
}

impl UdpTransportFactory for Factory {
    type Send = DatagramSend;
    type Recv = DatagramReceive;

    async fn bind(
        &mut self,
        _: &UdpTransportFactoryParams,
    ) -> io::Result<(DatagramSend, DatagramReceive)> {
        let send = DatagramSend {
            socket: Arc::clone(&self.socket),
            table: Arc::clone(&self.table),
        };
        let receive = DatagramReceive {
            socket: Arc::clone(&self.socket),
            table: Arc::clone(&self.table),
            stun: self.stun.clone(),
            fatal: self.fatal.clone(),
            errors: 0,
        };
        Ok((send, receive))
    }
}

/// Encrypted packets to peers.
#[derive(Clone, Debug)]
pub(super) struct DatagramSend {
    socket: Arc<MeshSocket>,
    table: Arc<PathTable>,
}

impl DatagramSend {
    fn route(&self, endpoint: SocketAddr) -> Option<(u16, Route)> {
        let index = table::peer_of(endpoint)?;
        let route = self.table.route(index);
        if route.is_none() {
            self.table.counters.no_path.add(1);
        }
        Some((index, route?))
    }

    async fn send(&self, endpoint: SocketAddr, contents: &[u8], segment: Option<usize>) {
        let Some((index, route)) = self.route(endpoint) else {
            return;
        };
        match self.socket.send(route, contents, segment).await {
            Ok(()) => self.table.count_sent(index, contents.len()),
            Err(_) => self.table.counters.send_errors.add(1),
        }
    }
}

impl UdpSend for DatagramSend {
    type SendManyBuf = Vec<u8>;

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.send(destination, &packet, None).await;
        Ok(())
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        SEND_BATCH
    }

    /// Packets for one peer that follow each other and have one length go out as one run; a
    /// shorter one ends its run (UDP segmentation offload).
    async fn send_many_to(
        &self,
        run: &mut Vec<u8>,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let mut rest = packets.drain(..).peekable();
        while let Some((first, endpoint)) = rest.next() {
            let length = first.len();
            let room = self.socket.max_run(length);
            let fits = |(next, to): &(Packet, SocketAddr)| *to == endpoint && next.len() <= length;
            if room == 1 || !rest.peek().is_some_and(fits) {
                self.send(endpoint, &first, None).await;
                continue;
            }
            run.clear();
            run.extend_from_slice(&first);
            let mut count = 1;
            while count < room
                && let Some((next, _)) = rest.next_if(fits)
            {
                run.extend_from_slice(&next);
                count += 1;
                if next.len() < length {
                    break;
                }
            }
            self.send(endpoint, run, Some(length)).await;
        }
        Ok(())
    }
}

/// Encrypted packets from peers; STUN is sorted out on the way.
#[derive(Debug)]
pub(super) struct DatagramReceive {
    socket: Arc<MeshSocket>,
    table: Arc<PathTable>,
    stun: mpsc::Sender<Stun>,
    fatal: mpsc::Sender<String>,
    errors: u32,
}

impl UdpRecv for DatagramReceive {
    type RecvManyBuf = ReceiveBuffer;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        // gotatun reads through `recv_many_from`; this is for whoever does not.
        let mut buffer = ReceiveBuffer::default();
        let mut packets = Vec::new();
        loop {
            self.recv_many_from(&mut buffer, pool, &mut packets).await?;
            if let Some(first) = packets.drain(..).next() {
                return Ok(first);
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut ReceiveBuffer,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let socket = Arc::clone(&self.socket);
        while packets.is_empty() {
            let error = match socket.receive(buffer).await {
                Ok(runs) => {
                    self.errors = 0;
                    for run in runs {
                        self.sort(&run, pool, packets);
                    }
                    continue;
                }
                Err(e) => e,
            };
            // For example ECONNREFUSED: a peer is gone. Others are not, so go on.
            self.table.counters.receive_errors.add(1);
            self.errors = self.errors.saturating_add(1);
            if self.errors == MAX_SOCKET_ERRORS {
                let _ = self
                    .fatal
                    .try_send(format!("the UDP socket failed: {error}"));
            }
            tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
        }
        Ok(())
    }
}

impl DatagramReceive {
    fn sort(&self, run: &Run<'_>, pool: &PacketBufPool, packets: &mut Vec<(Packet, SocketAddr)>) {
        if run.is_empty() {
            self.table.counters.garbage.add(1);
        }
        let peer = self.table.source(run.source);
        for datagram in run.datagrams() {
            if datagram.len() > MAX_DATAGRAM {
                self.table.counters.garbage.add(1);
            } else if is_stun(datagram) {
                self.pass_stun(datagram, run);
            } else if !is_wireguard(datagram) {
                self.table.counters.garbage.add(1);
            } else if let Some(index) = peer {
                self.table.count_received(index, datagram.len());
                let mut packet = pool.get();
                packet.truncate(0);
                packet.buf_mut().extend_from_slice(datagram);
                packets.push((packet, table::endpoint(index)));
            } else {
                self.table.counters.unknown_source.add(1);
            }
        }
    }

    fn pass_stun(&self, datagram: &[u8], run: &Run<'_>) {
        let stun = Stun {
            bytes: datagram.to_vec(),
            source: run.source,
            destination: run.destination,
        };
        if self.stun.try_send(stun).is_err() {
            self.table.counters.stun_overflow.add(1);
        }
    }
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

// --- packets ---

/// Something was decrypted that came from this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A probe; the higher index answers it.
    Probe(u16),
    /// Any other packet.
    Data(u16),
}

/// Decrypted packets for the stack.
#[derive(Debug)]
pub(super) struct ToStack {
    pub(super) stack: mpsc::Sender<Decrypted>,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) table: Arc<PathTable>,
}

impl IpSend for ToStack {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let packet = packet.into_bytes();
        let Some(index) = probe::source(&packet).and_then(|a| self.table.by_address(a)) else {
            return Ok(());
        };
        if probe::is_probe(&packet) {
            // A lost note is repaired by the next probe.
            let _ = self.heard.try_send(Heard::Probe(index));
            return Ok(());
        }
        if !self.table.is_up(index) {
            let _ = self.heard.try_send(Heard::Data(index));
        }
        // Closed only when the mesh ends.
        let _ = self.stack.send(Decrypted(packet)).await;
        Ok(())
    }
}

/// Packets of the stack, and the mesh task's own probes. This is the gate: nothing of the stack
/// goes to a peer before the pair is up.
#[derive(Debug)]
pub(super) struct FromStack {
    pub(super) stack: mpsc::Receiver<BytesMut>,
    pub(super) probes: mpsc::Receiver<BytesMut>,
    pub(super) table: Arc<PathTable>,
    pub(super) batch: Vec<BytesMut>,
    pub(super) mtu: u16,
}

impl IpRecv for FromStack {
    async fn recv<'a>(
        &'a mut self,
        _: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        self.batch.clear();
        tokio::select! {
            Some(probe) = self.probes.recv() => self.batch.push(probe),
            n = self.stack.recv_many(&mut self.batch, SEND_BATCH) => {
                if n == 0 {
                    // The stack has ended; an error would end the device before `stop` does.
                    std::future::pending::<()>().await;
                }
            }
        }
        let table = &*self.table;
        let open = move |packet: &BytesMut| {
            let index = probe::destination(packet).and_then(|a| table.by_address(a));
            let open = probe::is_probe(packet) || index.is_some_and(|i| table.is_up(i));
            if !open {
                table.counters.not_up.add(1);
            }
            open
        };
        let packets = self.batch.drain(..).filter(open);
        Ok(packets.filter_map(|p| Packet::from_bytes(p).try_into_ip().ok()))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}

/// Builds the device. It starts without peers, then gets the key, which starts its tasks, then the
/// peers: adding peers to a device that has no key does not start anything.
pub(super) async fn build(
    secret: &[u8; 32],
    factory: Factory,
    to_stack: ToStack,
    from_stack: FromStack,
    peers: Vec<Peer>,
) -> Result<MeshDevice, super::MeshError> {
    let failed = |e: gotatun::device::Error| super::MeshError::Device(e.to_string());
    let device = gotatun::device::build()
        .with_udp(factory)
        .with_ip_pair(to_stack, from_stack)
        .build()
        .await
        .map_err(failed)?;
    device
        .set_private_key(StaticSecret::from(*secret))
        .await
        .map_err(failed)?;
    device.add_peers(peers).await.map_err(failed)?;
    Ok(device)
}

/// Sets the keepalive of a peer.
pub(super) async fn keep_alive(device: &MeshDevice, public: &[u8; 32], seconds: u16) {
    let key = PublicKey::from(*public);
    let set = device.write(async |device| {
        device
            .modify_peer(&key, |peer| peer.set_keepalive(Some(seconds)))
            .await
    });
    if let Err(e) = set.await {
        tracing::warn!("no keepalive: {e}");
    }
}

/// Completes a handshake unless there is a fresh session. `false`: not within `wait`.
pub(super) async fn handshake(device: &MeshDevice, public: &[u8; 32], wait: Duration) -> bool {
    let key = PublicKey::from(*public);
    let done = tokio::time::timeout(wait, device.force_handshake(&key)).await;
    matches!(done, Ok(Ok(())))
}

/// When the last handshake with a peer was completed, as gotatun sees it.
pub(super) async fn last_handshake(device: &MeshDevice, public: &[u8; 32]) -> Option<Instant> {
    let key = PublicKey::from(*public);
    let peers = device.peers().await;
    let peer = peers.into_iter().find(|p| p.peer.public_key == key)?;
    Instant::now().checked_sub(peer.stats.last_handshake?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
