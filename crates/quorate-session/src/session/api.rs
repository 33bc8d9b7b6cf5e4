//! What goes in and out of a [`Session`](super::Session).

use crate::{PeerId, RendezvousSecret};
use crate::{
    keys::Psk,
    link::{LinkId, PeerAt},
    message::{Fingerprint, Invitation, Pid},
    record::Record,
    stored::Stored,
};
use quorate_identity::{Code, Did, Digest, Rejection, SigningKey, Verified};
use std::{fmt, net::Ipv6Addr};
use zeroize::Zeroizing;

/// What a session is made of.
pub struct Setup {
    /// The invitation, verified.
    pub invitation: Verified<Invitation>,
    /// The rendezvous secret of the bundle.
    pub secret: RendezvousSecret,
    /// The party's own key.
    pub key: SigningKey,
    /// What the party would run.
    pub fingerprint: Fingerprint,
    /// The record of an earlier start, if there is one.
    pub stored: Option<Stored>,
    /// Random bytes from the operating system.
    pub seed: [u8; 32],
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("invitation", &self.invitation.digest())
            .finish_non_exhaustive()
    }
}

/// Names one request to store something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistToken(pub u64);

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The user has not approved yet; nothing is sent.
    Invited,
    /// Waiting for joins.
    Joining,
    /// Waiting for confirms and key shares.
    Confirming,
    /// The mesh is being installed.
    Keyed,
    /// The own mesh works; waiting for the others'.
    Ready,
    /// The program runs.
    Running,
    /// The program ended, here or for all; receipts are exchanged.
    Closing,
    /// Over.
    Closed,
}

/// How far one party is, as we know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing heard.
    Invited,
    /// A link to it is proven.
    Linked,
    /// Its join counts.
    Joined,
    /// It confirmed our roster.
    Confirmed,
    /// The pair's key is agreed.
    Keyed,
    /// Its mesh works.
    Ready,
    /// Its program runs (known of ourselves only: that it is connected to all).
    Connected,
    /// Its program ended.
    Finished,
    /// Its receipt is held.
    Receipt,
}

/// One party, for display.
#[derive(Clone, Debug)]
pub struct PartyView {
    /// Position.
    pub pid: Pid,
    /// DID.
    pub did: Did,
    /// Name in the invitation.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// What we wait for from it.
    pub waiting_for: Option<&'static str>,
}

/// What the driver has to do or may show.
#[derive(Debug)]
pub enum Event {
    /// Resolve this DID; answer with `handle_resolved`.
    Resolve(Did),
    /// Store this record durably; answer with `handle_persisted`.
    Persist {
        /// For the answer.
        token: PersistToken,
        /// What to store; replaces the record before.
        record: Vec<u8>,
    },
    /// Keep this record of what was signed so far; answer with `handle_persisted`. Without room for it the session goes on.
    Keep {
        /// For the answer.
        token: PersistToken,
        /// What to keep; goes together with what is kept already ([`Record::merge`]).
        record: Box<Record>,
    },
    /// The state changed.
    State(State),
    /// A party got further, or back.
    Party {
        /// Which.
        pid: Pid,
        /// Where it is now.
        phase: Phase,
    },
    /// Connectivity information from a party, for the path agent.
    Signal {
        /// From whom.
        from: Pid,
        /// Opaque.
        data: Vec<u8>,
    },
    /// A party says that peers can be reached there; its word, and to be filtered before it is believed.
    Peers {
        /// The link over which it said so.
        link: LinkId,
        /// Whose link that is.
        party: Pid,
        /// Whom, and where.
        peers: Vec<PeerAt>,
    },
    /// Build this mesh.
    Install(Box<MeshPlan>),
    /// Stop the program and remove the mesh now.
    Uninstall,
    /// All are ready: start the program.
    Start,
    /// Something was refused; the session goes on.
    Refused {
        /// The link that brought it; none if it came out of a check of what is held.
        link: Option<LinkId>,
        /// Who it is from, where that is known.
        from: Option<Did>,
        /// Why.
        rejection: Rejection,
    },
    /// Proof that a party signed two contradicting statements; worth keeping.
    Evidence {
        /// Which party.
        pid: Pid,
        /// Both statements, compact JWS.
        statements: [String; 2],
    },
    /// Close this link.
    CloseLink {
        /// Which.
        link: LinkId,
        /// The other end misbehaved, so that its network peer need not be let in again soon. Not so when there is no room,
        /// when the handshake took too long, or when the session or mesh ends.
        ban: bool,
    },
    /// Something happened that cannot; please report.
    Alarm(String),
    /// The session is over.
    Closed(Outcome),
}

/// What to build the mesh from.
pub struct MeshPlan {
    /// The roster it is for.
    pub roster: Digest,
    /// Our position.
    pub me: Pid,
    /// Our WireGuard private key.
    pub secret: Zeroizing<[u8; 32]>,
    /// Our address.
    pub address: Ipv6Addr,
    /// MTU.
    pub mtu: u16,
    /// MPC port inside the tunnel.
    pub port: u16,
    /// Port of the control stream inside the tunnel.
    pub control_port: u16,
    /// The others.
    pub peers: Vec<PeerPlan>,
}

/// One other party of the mesh.
pub struct PeerPlan {
    /// Its position.
    pub pid: Pid,
    /// Its DID.
    pub did: Did,
    /// Its name.
    pub name: String,
    /// Its WireGuard public key.
    pub public: [u8; 32],
    /// The pair's pre-shared key.
    pub psk: Psk,
    /// Its address; also the only one it may use.
    pub address: Ipv6Addr,
    /// Its overlay identity.
    pub peer: PeerId,
}

impl fmt::Debug for MeshPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshPlan")
            .field("roster", &self.roster)
            .field("me", &self.me)
            .field("secret", &"(secret)")
            .field("address", &self.address)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPlan")
            .field("pid", &self.pid)
            .field("psk", &"(secret)")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What the program's supervisor reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramReport {
    /// It says that it is connected to all parties.
    Connected,
    /// It ended.
    Exited {
        /// Exit code.
        code: i32,
        /// The signal that killed it.
        signal: Option<i32>,
        /// Bytes it says it sent.
        bytes_sent: Option<u64>,
        /// How long it ran.
        elapsed_ms: u64,
        /// One line for people.
        note: String,
    },
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program ended with exit code 0 here, and no party said otherwise.
    Finished {
        /// Exit codes by position; `None` where a receipt is missing.
        exits: Vec<Option<i32>>,
        /// The receipts held, compact JWS.
        receipts: Vec<String>,
    },
    /// It did not.
    Failed {
        /// Why.
        code: Code,
        /// Who is at fault or missing.
        whom: Option<Pid>,
        /// Why, in words.
        detail: String,
        /// The receipts held, compact JWS.
        receipts: Vec<String>,
    },
}

/// The caller did something out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// `join` twice, or after the end.
    #[error("the session is not waiting for approval")]
    NotInvited,
    /// A cancel by somebody who did not sign the invitation.
    #[error("only the organizer can cancel")]
    NotIssuer,
    /// A cancel after the end.
    #[error("the session is over")]
    Over,
}

/// Fill of the queues and lists that others can make grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Most frames that waited at once.
    pub transmits: usize,
    /// Most events that waited at once.
    pub events: usize,
    /// Links held.
    pub links: usize,
    /// Statements that wait for a resolution.
    pub unresolved: usize,
    /// Signals kept for one party and direction.
    pub signals: usize,
    /// Confirms kept of one party.
    pub confirms: usize,
    /// Refused digests remembered.
    pub refused: usize,
}
