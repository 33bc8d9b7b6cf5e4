//! The beacon: how parties on one machine find each other without any server.
//!
//! ```text
//!   nonce (24) ‖ XChaCha20-Poly1305(key, "quorate/1/beacon", plain (64)) = 104 bytes
//!   plain = version (1) ‖ Ed25519 public key (32) ‖ 8 × [kind (1) ‖ port (2)] ‖ zeros
//!   kind  = 0 none, 1 ip4 tcp, 2 ip4 quic, 3 ip6 tcp, 4 ip6 quic
//! ```
//! Sent to a multicast group on the loopback interface, TTL 0: at the start, when a listen address
//! appears, in answer to a peer not seen lately, then every [`INTERVAL`] while links are missing.
//!
//! Limits: datagrams of exactly 104 bytes, [`RATE`] per second looked at, [`MAX_SEEN`] peers
//! remembered; own announcements at least [`MIN_GAP`] apart.
//!
//! Security: requires that `beacon_key` is known to the invited only. Provides that others on the
//! machine learn that a quorate party runs, and nothing else, and can point nobody anywhere: an
//! address is a port, the host is always loopback. A replayed beacon names a port that may be
//! someone else's by now; the dial then fails because the `PeerId` cannot be proven there. Does
//! not provide: who the party is, and availability against a flood by a local user (then hints).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use libp2p::{
    PeerId,
    identity::{PublicKey, ed25519},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{
    address::{Endpoint, Transport},
    dialing::Jitter,
};

/// Group and port: administratively scoped, below the range of ports given out by systems.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 113, 82);
const PORT: u16 = 27_182;

/// Time between two announcements while links are missing, give or take a quarter.
const INTERVAL: Duration = Duration::from_secs(3);
/// Two announcements are at least this far apart.
const MIN_GAP: Duration = Duration::from_millis(50);
/// The beacon of one peer is answered at most this often.
const ANSWER_GAP: Duration = Duration::from_secs(2);
/// Datagrams looked at per second, also the burst; the rest waits in the system and is dropped.
const RATE: u32 = 128;
/// Peers remembered for [`ANSWER_GAP`].
const MAX_SEEN: usize = 128;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const PLAIN_BYTES: usize = 64;
const SEALED_BYTES: usize = NONCE_BYTES + PLAIN_BYTES + TAG_BYTES;
const MAX_ENDPOINTS: usize = 8;
const ASSOCIATED: &[u8] = b"quorate/1/beacon";
const KEY_END: usize = 33;

/// What a beacon says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub peer: PeerId,
    pub endpoints: Vec<Endpoint>,
}

/// Seals announcements and opens those of the others.
pub(super) struct Sealer {
    cipher: XChaCha20Poly1305,
    public: [u8; 32],
    own: PeerId,
}

impl Sealer {
    pub fn new(key: &[u8; 32], public: &ed25519::PublicKey) -> Self {
        Self {
            cipher: XChaCha20Poly1305::new(key.into()),
            public: public.to_bytes(),
            own: PublicKey::from(public.clone()).to_peer_id(),
        }
    }

    /// The datagram that announces `endpoints`; those not on loopback are left out.
    fn seal(&self, endpoints: &[Endpoint], nonce: [u8; NONCE_BYTES]) -> Option<Vec<u8>> {
        let mut plain = [0; PLAIN_BYTES];
        plain[0] = VERSION;
        plain[1..KEY_END].copy_from_slice(&self.public);
        let slots = plain[KEY_END..].chunks_exact_mut(3).take(MAX_ENDPOINTS);
        let kinds = endpoints
            .iter()
            .filter_map(|e| kind(e).map(|kind| (kind, e.port)));
        for (slot, (kind, port)) in slots.zip(kinds) {
            slot[0] = kind;
            slot[1..].copy_from_slice(&port.to_be_bytes());
        }
        let payload = Payload {
            msg: &plain,
            aad: ASSOCIATED,
        };
        let sealed = self
            .cipher
            .encrypt(XNonce::from_slice(&nonce), payload)
            .ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// What `datagram` announces; `None` for anything not sealed under our key, and for our own.
    fn open(&self, datagram: &[u8]) -> Option<Announcement> {
        if datagram.len() != SEALED_BYTES {
            return None;
        }
        let (nonce, sealed) = datagram.split_at(NONCE_BYTES);
        let payload = Payload {
            msg: sealed,
            aad: ASSOCIATED,
        };
        let plain = self
            .cipher
            .decrypt(XNonce::from_slice(nonce), payload)
            .ok()?;
        let (&version, rest) = plain.split_first()?;
        let (public, slots) = rest.split_at_checked(KEY_END - 1)?;
        if version != VERSION {
            return None;
        }
        let public = ed25519::PublicKey::try_from_bytes(public).ok()?;
        let peer = PublicKey::from(public).to_peer_id();
        if peer == self.own {
            return None;
        }
        let endpoints = slots
            .chunks_exact(3)
            .take(MAX_ENDPOINTS)
            .filter_map(endpoint)
            .collect();
        Some(Announcement { peer, endpoints })
    }
}

const LOOPBACK_4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// All an address in a beacon can be: one of two loopback addresses and one of two transports.
const KINDS: [(IpAddr, Transport); 4] = [
    (LOOPBACK_4, Transport::Tcp),
    (LOOPBACK_4, Transport::Quic),
    (LOOPBACK_6, Transport::Tcp),
    (LOOPBACK_6, Transport::Quic),
];

fn kind(endpoint: &Endpoint) -> Option<u8> {
    if endpoint.relay.is_some() {
        return None;
    }
    let index = KINDS
        .iter()
        .position(|kind| *kind == (endpoint.ip, endpoint.transport))?;
    u8::try_from(index + 1).ok()
}

fn endpoint(slot: &[u8]) -> Option<Endpoint> {
    let [kind, high, low] = *slot else {
        return None;
    };
    let port = u16::from_be_bytes([high, low]);
    let (ip, transport) = *KINDS.get(usize::from(kind).checked_sub(1)?)?;
    (port != 0).then(|| Endpoint::new(ip, port, transport, None))
}

/// A token bucket: [`RATE`] per second.
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self {
            tokens: RATE,
            filled: now,
        }
    }

    /// Takes one token, or says when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if now.saturating_duration_since(self.filled) >= Duration::from_secs(1) {
            self.tokens = RATE;
            self.filled = now;
        }
        self.tokens = self
            .tokens
            .checked_sub(1)
            .ok_or(self.filled + Duration::from_secs(1))?;
        Ok(())
    }
}

/// The beacon with its sockets.
pub(super) struct Beacon {
    sealer: Sealer,
    receiver: UdpSocket,
    sender: UdpSocket,
    due: Instant,
    last: Option<Instant>,
    /// While the rate is used up, nothing is read before this time.
    paused: Option<Instant>,
    bucket: Bucket,
    seen: HashMap<PeerId, Instant>,
    jitter: Jitter,
}

impl Beacon {
    /// Opens the sockets. An error means that this system has no multicast on loopback.
    pub fn open(sealer: Sealer, seed: u64, now: Instant) -> io::Result<Self> {
        Ok(Self {
            sealer,
            receiver: receiver()?,
            sender: sender()?,
            due: now,
            last: None,
            paused: None,
            bucket: Bucket::new(now),
            seen: HashMap::new(),
            jitter: Jitter::new(seed),
        })
    }

    /// Wants an announcement soon.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self
            .due
            .min(self.last.map_or(now, |last| last + MIN_GAP))
            .max(now);
    }

    /// When [`announce`](Self::announce) is next due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Sends an announcement and plans the next one.
    pub async fn announce(&mut self, endpoints: &[Endpoint], now: Instant) -> io::Result<()> {
        self.last = Some(now);
        self.due = now + self.jitter.around(INTERVAL);
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        if let Some(datagram) = self.sealer.seal(endpoints, nonce) {
            let group = SocketAddr::V4(SocketAddrV4::new(GROUP, PORT));
            self.sender.send_to(&datagram, group).await?;
        }
        Ok(())
    }

    /// Puts the next announcement off, because no link is missing.
    pub fn rest(&mut self, now: Instant) {
        self.due = now + self.jitter.around(INTERVAL);
    }

    /// The next genuine announcement of somebody else, with whether it deserves an answer.
    /// Cancel safe: nothing is lost between two datagrams.
    pub async fn next(&mut self) -> (Announcement, bool) {
        let mut buffer = [0; SEALED_BYTES + 1];
        loop {
            if let Some(until) = self.paused {
                tokio::time::sleep_until(until.into()).await;
                self.paused = None;
            }
            let received = self.receiver.recv_from(&mut buffer).await;
            let now = Instant::now();
            if let Err(until) = self.bucket.take(now) {
                self.paused = Some(until);
            }
            // An error here is one datagram's (or a full pause's worth of them), not the socket's.
            let Ok((length, source)) = received else {
                self.paused = Some(now + MIN_GAP);
                continue;
            };
            if !source.ip().is_loopback() {
                continue;
            }
            if let Some(announcement) = self.sealer.open(&buffer[..length]) {
                let answer = self.is_news(announcement.peer, now);
                return (announcement, answer);
            }
        }
    }

    fn is_news(&mut self, peer: PeerId, now: Instant) -> bool {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < ANSWER_GAP;
        if self.seen.get(&peer).is_some_and(fresh) {
            return false;
        }
        self.seen.retain(|_, at| fresh(at));
        if self.seen.len() < MAX_SEEN {
            self.seen.insert(peer, now);
        }
        true
    }
}

/// The socket that hears the group, on the loopback interface only.
fn receiver() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    // BSD systems share multicast ports by this option; on Linux it would allow one user only.
    #[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
    socket.set_reuse_port(true)?;
    // Bound to the group, a unix system hands over nothing that was sent to another address.
    let host = if cfg!(windows) {
        Ipv4Addr::UNSPECIFIED
    } else {
        GROUP
    };
    socket.bind(&SocketAddrV4::new(host, PORT).into())?;
    socket.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// The socket that speaks to the group, out of the loopback interface and no further.
fn sender() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(0)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;
    use proptest::prelude::*;

    use super::*;
    use crate::overlay::Scope;

    fn sealer(key: u8, seed: u8) -> Sealer {
        let pair = Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes");
        let public = pair.public().try_into_ed25519().expect("Ed25519");
        Sealer::new(&[key; 32], &public)
    }

    fn endpoints() -> Vec<Endpoint> {
        [
            "/ip4/127.0.0.1/tcp/1025",
            "/ip4/127.0.0.1/udp/65535/quic-v1",
            "/ip6/::1/tcp/7",
            "/ip6/::1/udp/8/quic-v1",
        ]
        .map(|text| Endpoint::parse(text, Scope::Local).expect("valid"))
        .to_vec()
    }

    #[test]
    fn holders_of_the_key_read_each_other() {
        let (a, b) = (sealer(1, 10), sealer(1, 11));
        let datagram = a.seal(&endpoints(), [9; NONCE_BYTES]).expect("sealed");
        assert_eq!(datagram.len(), SEALED_BYTES);
        let read = b.open(&datagram).expect("same key");
        assert_eq!(read.peer, a.own);
        assert_eq!(read.endpoints, endpoints());
        assert_eq!(a.open(&datagram), None, "one's own beacon says nothing");
    }

    #[test]
    fn another_key_or_a_changed_byte_reads_nothing() {
        let (a, b, stranger) = (sealer(1, 10), sealer(1, 11), sealer(2, 12));
        let datagram = a.seal(&endpoints(), [9; NONCE_BYTES]).expect("sealed");
        assert_eq!(stranger.open(&datagram), None);
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert_eq!(b.open(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn the_identity_and_the_ports_are_not_in_the_clear() {
        let a = sealer(1, 10);
        let datagram = a.seal(&endpoints(), [9; NONCE_BYTES]).expect("sealed");
        assert!(
            !datagram
                .windows(8)
                .any(|w| a.public.windows(8).any(|p| p == w))
        );
    }

    #[test]
    fn only_loopback_addresses_fit() {
        let foreign = Endpoint::parse("/ip4/192.168.1.7/tcp/5", Scope::Lan).expect("valid");
        let (a, b) = (sealer(1, 10), sealer(1, 11));
        let datagram = a.seal(&[foreign], [9; NONCE_BYTES]).expect("sealed");
        assert_eq!(b.open(&datagram).expect("genuine").endpoints, []);
    }

    #[test]
    fn a_flood_is_cut_at_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        let passed = (0..10 * RATE).filter(|_| bucket.take(now).is_ok()).count();
        assert_eq!(passed, RATE as usize);
        let next = bucket.take(now).expect_err("empty");
        assert!(bucket.take(next).is_ok());
    }

    proptest! {
        #[test]
        fn garbage_reads_as_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert_eq!(sealer(1, 10).open(&bytes), None);
        }
    }
}
