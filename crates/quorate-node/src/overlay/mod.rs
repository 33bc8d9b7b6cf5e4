//! The overlay: how parties find each other and exchange session frames, on libp2p.
//!
//! ```text
//!            hints ─┐                                      ┌─► Listening, LinkUp, Frame,
//!   beacon (loopback)┼─► dialling ─► connection ─► stream ─► link     LinkDown, Relay, Note
//!    mDNS (scope lan)┘   (TCP, QUIC; noise, TLS 1.3; yamux)  └─◄ send, close_link, drop_link, dial
//!    relays ──► reservations ─► circuits, which are connections like others ─► direct ones, where both ends can
//! ```
//! A *link* is one connected peer that speaks the protocol of the same [`Purpose`]: at most one per
//! `PeerId`, however many connections there are. Frames arrive whole, in order, at most once; what was
//! queued when a link goes down may be lost. A peer that comes back is a new link.
//!
//! Limits: every queue, list, size and time is a named constant in this module tree. Frames of at
//! most [`MAX_FRAME_BYTES`]; [`LINK_QUEUE_FRAMES`] frames and [`LINK_QUEUE_BYTES`] bytes wait per
//! link; [`EVENT_QUEUE`] events wait for the caller, who must take them or the links stand still.
//!
//! Security. Requires: an identity seed used for this session only, a beacon key known to the
//! invited only. Provides: confidentiality and integrity towards the named `PeerId`; under
//! [`Scope::Local`] no packet to anything but loopback; nothing about the session's purpose, DIDs
//! or software is said to peers, mDNS or others on the machine; bounded cost per hostile peer
//! and per remote address.
//! Does not provide: who a peer is (the session proves that), secrecy of the `PeerId` and the
//! listen addresses on the local network under [`Scope::Lan`] (mDNS shows both).

mod address;
mod admission;
mod announce;
mod beacon;
pub mod dht;
mod dialing;
mod direct;
mod driver;
mod exchange;
mod frame;
mod lanes;
mod link;
mod multiplex;
mod muxer;
mod names;
mod network;
mod pass;
mod pulse;
pub mod relay_crowd;
mod relay_node;
pub mod relay_probe;
mod relays;
mod source;
mod stream;
mod streams;
mod throttle;
mod unread;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use quorate_identity::{Code, SigningKey};
use quorate_path::Policy;
use tokio::{
    sync::{mpsc, mpsc::error::TrySendError},
    task::JoinHandle,
};
use zeroize::Zeroizing;

pub use admission::{
    MAX_INCOMING_FROM_LOOPBACK, MAX_INCOMING_PER_ADDRESS, MAX_INCOMING_PER_IP6_NETWORK,
    MAX_INCOMING_PER_RELAY,
};
pub use direct::{MAX_SEEN, MAX_TRIES};
pub use frame::{FRAME_TIMEOUT, MAX_FRAME_BYTES};
pub use lanes::{
    LANE_QUEUE_BYTES, LANE_SILENCE, LaneReceiver, LaneSender, LaneState, MAX_CIRCUIT_LANES,
    MAX_DATAGRAM_BYTES, PROBE_INTERVAL, RECEIVE_QUEUE,
};
pub use link::{CLOSE_GRACE, LINK_QUEUE_BYTES, LINK_QUEUE_FRAMES};
pub use multiplex::MAX_STREAMS;
pub use names::{MAX_LOOKUPS, MAX_PER_FAMILY, Names, RESOLVE_WAIT};
pub use relay_node::{
    External, Guests, Listen, RelayConfig, RelayLimits, RelayNode, RelayRefusal, RelayStatus,
};
pub use relays::{KnownRelay, MAX_OWN_RELAYS, MAX_PARTY_RELAYS, MAX_RESERVATIONS};
pub use stream::SESSION_WAIT;

pub(crate) use address::is_public;
use link::Links;

/// Events waiting for the caller; a frame counts as one.
pub const EVENT_QUEUE: usize = 64;
/// Relays of the session that come before one's own.
const SHARED_FIRST: usize = MAX_RESERVATIONS - 1;
/// Commands waiting for the overlay's task.
const COMMAND_QUEUE: usize = 1024;

/// Where the overlay listens and dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This machine: loopback only, no mDNS.
    Local,
    /// The networks this machine is in: all interfaces, mDNS.
    Lan,
}

/// What an overlay is for. Peers with another purpose are not linked, so that neither side has to
/// make sense of the other's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The parties of a session.
    Session,
    /// The lobby of an open call.
    Lobby,
    /// A guest of the lobby of this `PeerId`, which talks to nobody else.
    Guest(String),
    /// Delivery of invitations between people who know each other.
    Post,
}

/// Which relays an overlay uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Relaying {
    /// Those it was started with, and those in the addresses of peers.
    #[default]
    Any,
    /// Those it was started with only.
    OwnOnly,
    /// None.
    Never,
}

/// Through which relays somebody can be reached, and reaches others.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Relays to be reachable through, as multiaddr text with `/p2p/RELAY`; of the user or of a signed invitation, as
    /// their names are looked up.
    pub relays: Vec<String>,
    /// Where.
    pub names: Names,
    /// Which relays may be used at all.
    pub relaying: Relaying,
    /// Whether the router may be asked to forward ports to this party.
    pub map_ports: bool,
    /// Those of the relays that may learn the own DID, because the user said so, if they ask for it.
    pub passes: Vec<String>,
    /// The key of that DID.
    pub key: Option<Arc<SigningKey>>,
}

impl Reach {
    /// As somebody whose DID the named relays may learn.
    #[must_use]
    pub fn shown_by(mut self, key: &SigningKey) -> Self {
        self.key = (!self.passes.is_empty()).then(|| Arc::new(key.clone()));
        self
    }

    /// With what the session names: its first relays come first, because the other parties have reservations there too.
    /// Where only own relays may be used, or none, nothing is added.
    #[must_use]
    pub fn with_relays_of(&self, session: &[String]) -> Self {
        let mut reach = self.clone();
        if self.relaying != Relaying::Any {
            return reach;
        }
        let (first, rest) = session.split_at(session.len().min(SHARED_FIRST));
        let all = first.iter().chain(&self.relays).chain(rest);
        reach.relays = all.fold(Vec::new(), |mut relays, relay| {
            if !relays.contains(relay) {
                relays.push(relay.clone());
            }
            relays
        });
        reach
    }
}

/// Whether this is the address of a relay as it is written for `--relay`, and may be dialled in `scope`.
pub fn check_relay(address: &str, scope: Scope) -> Result<(), &'static str> {
    match names::Place::parse(address, scope)? {
        names::Place::At(endpoint) => relays::check(&endpoint),
        names::Place::Named(named) => relays::check(named.shape()),
    }
    .map(|_| ())
}

/// Whether this is an address, with or without a name in it, that may be dialled in `scope`.
pub(crate) fn check_address(address: &str, scope: Scope) -> Result<(), &'static str> {
    names::Place::parse(address, scope).map(|_| ())
}

/// The address of a relay with IP addresses in place of a name, those of IPv4 first; itself, if there is no name in it.
pub(crate) async fn written_out(
    address: &str,
    names: &Names,
    scope: Scope,
) -> Result<Vec<String>, String> {
    let named = match names::Place::parse(address, scope)? {
        names::Place::At(_) => return Ok(vec![address.trim().to_owned()]),
        names::Place::Named(named) => named,
    };
    let mut found = names.find(&named, scope).await?;
    found.sort_by_key(|endpoint| endpoint.ip.is_ipv6());
    Ok(found.iter().map(address::Endpoint::text).collect())
}

/// What an overlay is started with.
pub struct OverlayConfig {
    /// Ed25519 seed of this session's libp2p identity; to be used once.
    pub secret: Zeroizing<[u8; 32]>,
    /// Where to listen and dial.
    pub scope: Scope,
    /// With whom to speak.
    pub purpose: Purpose,
    /// Seals the loopback beacon; derived from the rendezvous secret.
    pub beacon_key: [u8; 32],
    /// Addresses to dial, as multiaddr text with or without `/p2p/…`.
    pub hints: Vec<String>,
    /// Relays; of those named, the first ones that work are used.
    pub reach: Reach,
}

impl fmt::Debug for OverlayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayConfig")
            .field("secret", &"(secret)")
            .field("scope", &self.scope)
            .field("purpose", &self.purpose)
            .field("beacon_key", &"(secret)")
            .field("hints", &self.hints)
            .field("reach", &self.reach)
            .finish()
    }
}

/// Who says where a peer can be reached; each has a ration of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Teller {
    /// The party with this index in the invitation, over a link.
    Party(u16),
    /// The record of this party, which it signed, at a rendezvous.
    Record(u16),
    /// The party with this `PeerId`, about itself.
    Peer(libp2p::PeerId),
}

/// What the overlay tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayEvent {
    /// A link is up. The number is never used again.
    LinkUp {
        /// Names the link in [`Overlay::send`] and the other events.
        link: u64,
        /// The `PeerId`, `12D3Koo…`, proven by the connection's handshake.
        peer: String,
        /// The remote address, as multiaddr text.
        address: String,
        /// Whether we dialled.
        dialer: bool,
    },
    /// One whole frame arrived.
    Frame {
        /// On which link.
        link: u64,
        /// Its content, 1 to [`MAX_FRAME_BYTES`] bytes.
        bytes: Vec<u8>,
    },
    /// A link is gone; nothing more arrives on it.
    LinkDown {
        /// Which one.
        link: u64,
    },
    /// The overlay listens on this address.
    Listening {
        /// Multiaddr text with `/p2p/…`.
        address: String,
    },
    /// The overlay does not listen on this address any more.
    Gone {
        /// As it was in [`Listening`](Self::Listening).
        address: String,
    },
    /// Something about a relay changed: its reservation, what it says about itself, or its first
    /// round-trip time on a connection.
    Relay(KnownRelay),
    /// A party connected to this address of the machine, which is one of the public network: others can do so too.
    Reachable {
        /// The own address, which no NAT changed on the way.
        ip: IpAddr,
    },
    /// A relay of the user or of the session does not let us in.
    RelayRefused {
        /// Its `PeerId`.
        relay: String,
        /// Why.
        code: Code,
        /// The same for a person.
        text: String,
    },
    /// Something a person may want to know; never needed for the program's logic.
    Note(String),
}

/// Why an overlay could not start.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The operating system gave no random numbers.
    #[error("the system's random generator failed: {0}")]
    Random(String),
    /// The seed or the transports could not be used.
    #[error("the overlay could not be set up: {0}")]
    Setup(String),
    /// No address could be listened on.
    #[error("no address to listen on: {0}")]
    Listen(String),
}

enum Command {
    Dial(String),
    CloseLink(u64),
    ExpectLinks(usize),
    Lanes(lanes::Order),
    Learn(Teller, String, Vec<String>),
    Parties(Vec<String>),
    PartyRelay(String, Vec<String>),
    Stop,
}

/// A running overlay. Dropping it stops it as well, without waiting.
pub struct Overlay {
    peer: String,
    links: Links,
    addresses: Addresses,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Overlay {
    /// Listens, starts the discovery and dials the hints.
    pub async fn start(
        config: OverlayConfig,
    ) -> Result<(Self, mpsc::Receiver<OverlayEvent>), OverlayError> {
        // Two providers are in the dependency tree; an error only says that one is chosen already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let (commands, orders) = mpsc::channel(COMMAND_QUEUE);
        let shared = driver::Shared {
            links: Links::default(),
            addresses: Addresses::default(),
        };
        let (links, addresses) = (shared.links.clone(), shared.addresses.clone());
        // It holds the swarm while it is made: too much for the stack of whoever waits for it.
        let driver = driver::Driver::start(config, shared, events, orders, Instant::now());
        let driver = Box::pin(driver).await?;
        let peer = driver.peer_id().to_string();
        let task = tokio::spawn(driver.run());
        let overlay = Self {
            peer,
            links,
            addresses,
            commands,
            task,
        };
        Ok((overlay, receiver))
    }

    /// Queues one frame on a link. `false` when the link is gone or its queue is full, or when the
    /// frame is empty or larger than [`MAX_FRAME_BYTES`]; the frame is not sent then.
    pub fn send(&self, link: u64, frame: Vec<u8>) -> bool {
        self.links.send(link, frame)
    }

    /// The addresses listened on, each with `/p2p/…`.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.list()
    }

    /// The `PeerId` of this overlay, `12D3Koo…`.
    pub fn peer_id(&self) -> String {
        self.peer.clone()
    }

    /// Closes a link after what is queued was sent. The peer may come again, and is dialled again
    /// if its address is known: for want of room, or when it was too slow.
    pub fn drop_link(&self, link: u64) {
        self.links.close(link);
    }

    /// Closes a link after what is queued was sent, and refuses that peer for a while.
    pub fn close_link(&self, link: u64) {
        // Sending ends now, even if the command has to wait.
        if self.links.close(link) {
            self.command(Command::CloseLink(link));
        }
    }

    /// Dials one more address, at once and again until a link exists. Invalid ones end in a
    /// [`OverlayEvent::Note`].
    pub fn dial(&self, multiaddr: String) {
        self.command(Command::Dial(multiaddr));
    }

    /// Somebody who is allowed to says that `peer` can be reached there. What is plausible is dialled until there is a
    /// direct connection, and forgotten after failures. Addresses of this machine are plausible under
    /// [`Scope::Local`] only. New addresses of each teller are taken at a bounded rate.
    pub fn learn(&self, teller: Teller, peer: String, addresses: Vec<String>) {
        self.command(Command::Learn(teller, peer, addresses));
    }

    /// These peers, and no others, are parties of the session. Where one is reached over a relay only, both ends tell each
    /// other where they are seen, and dial each other at the same moment.
    pub fn parties(&self, peers: Vec<String>) {
        self.command(Command::Parties(peers));
    }

    /// A party says that it is a relay for the parties at these addresses, which end in `/p2p/RELAY/p2p-circuit`. It is used
    /// after own relays. Of each party one relay is used, the one it named last.
    pub fn party_relay(&self, party: String, addresses: Vec<String>) {
        self.command(Command::PartyRelay(party, addresses));
    }

    /// How many links make the beacon fall silent; without this call it never does.
    pub fn expect_links(&self, links: usize) {
        self.command(Command::ExpectLinks(links));
    }

    /// Lanes of every kind for the datagrams of the mesh to these parties: index in the roster, `PeerId` text. They
    /// take the place of earlier lanes, which end.
    pub fn lanes(&self, peers: Vec<(u16, String)>) -> (LaneSender, LaneReceiver) {
        self.lanes_under(Policy::Any, peers)
    }

    /// As [`lanes`](Self::lanes), of the kinds that the policy allows: no datagram takes another one.
    pub fn lanes_under(
        &self,
        policy: Policy,
        peers: Vec<(u16, String)>,
    ) -> (LaneSender, LaneReceiver) {
        let (sender, receiver, order) = lanes::pair(policy, peers);
        // It must not be lost, however many addresses are told at this moment.
        if let Err(TrySendError::Full(order)) = self.commands.try_send(Command::Lanes(order)) {
            let commands = self.commands.clone();
            tokio::spawn(async move { commands.send(order).await });
        }
        (sender, receiver)
    }

    /// Sends what is queued, closes all links and sockets, and waits until they are gone.
    pub async fn stop(self) {
        let _ = self.commands.send(Command::Stop).await;
        let _ = self.task.await;
    }

    fn command(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::warn!("the overlay does not take more commands");
        }
    }
}

/// The list of listen addresses, shared by the handle and the overlay's task.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<Vec<String>>>);

impl Addresses {
    fn list(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add(&self, address: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&address) {
            all.push(address);
        }
    }

    /// Whether it was there.
    fn remove(&self, address: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        all.retain(|a| a != address);
        all.len() < before
    }
}
