//! The session of one party: the state machine that all other modules of this crate serve.
//!
//! ```text
//! Invited ─ join ─► Joining ─ all joins, checks C1-C10 ─► Confirming ─ all confirms and shares ─► Keyed ─ mesh ready ─►
//! Ready ─ all readies ─► Running ─ own program ended ─► Closing ─ receipts ─► Closed
//! any state ─ abort, cancel, deadline, silence, evidence of a lie ─► (Closing ─►) Closed
//! Invited ─ join, after a crash with the own receipt signed ─► Settling ─ receipts ─► Closed
//! ```
//!
//! **The driver's law**: one mutation, then drain `poll_event` and `poll_transmit` until `None`, then sleep until
//! `poll_timeout`. An event that asks something (`Resolve`, `Persist`) is answered by the matching `handle_*`.
//!
//! Where what is: `driving` the public calls, `links` handshake and frames, `statements` what arrives signed, `agreement`
//! roster, confirm and keys, `running` mesh, program and receipts, `closing` how it ends, `recording` what stays of it,
//! `settling` what is left to do after a crash while it ended.

mod agreement;
mod api;
mod asking;
pub(crate) mod closing;
mod driving;
mod links;
mod peers;
mod recording;
mod running;
mod settling;
mod statements;
mod views;

pub use api::{
    Event, MeshPlan, Misuse, Outcome, PartyView, PeerPlan, PersistToken, Phase, ProgramReport,
    Setup, State, Usage,
};

use crate::{
    RendezvousSecret,
    keys::EpochKeys,
    ledger::Ledger,
    link::{Link, LinkId},
    message::{Fingerprint, Invitation, Pid, Receipt},
    stored::Stored,
};
use agreement::Agreement;
use asking::Asked;
use chacha20::ChaCha20Rng;
use closing::Closing;
use quorate_identity::{Did, Digest, Rejection, ResolvedDid, SigningKey, UnixTime, Verified};
use recording::HeldRun;
use running::Mesh;
use settling::Settling;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

/// One party's part in one session.
pub struct Session {
    invitation: Verified<Invitation>,
    inv: Digest,
    me: Pid,
    secret: RendezvousSecret,
    key: SigningKey,
    fingerprint: Fingerprint,
    keys: EpochKeys,
    rng: ChaCha20Rng,
    stored: Stored,
    stage: Stage,
    /// What the record says of the roster that was held last.
    run: Option<HeldRun>,
    /// The own receipt while it is being stored, before it is sent.
    unsent_receipt: Option<Verified<Receipt>>,
    ledger: Ledger,
    links: BTreeMap<LinkId, Link>,
    peers: peers::Peers,
    resolutions: BTreeMap<Did, Resolution>,
    /// Statements whose issuer is being resolved, with the link that brought them.
    unresolved: VecDeque<(LinkId, String)>,
    /// Announced statements that are on their way.
    asked: BTreeMap<Digest, Asked>,
    held: BTreeMap<PersistToken, Held>,
    next_token: u64,
    signals_out: BTreeMap<Pid, VecDeque<Vec<u8>>>,
    signals_in: BTreeMap<Pid, VecDeque<(Digest, Vec<u8>)>>,
    /// The last check that kept a roster from being confirmed.
    obstacle: Option<Rejection>,
    phases: BTreeMap<Pid, Phase>,
    reported: Option<State>,
    deadlines: Deadlines,
    clock: (UnixTime, Instant),
    resync_at: Option<Instant>,
    /// The user has not said yet that the program may start.
    start_held: bool,
    /// New statements of others, and when they are announced.
    news: BTreeSet<Digest>,
    news_at: Option<Instant>,
    events: VecDeque<Event>,
    transmits: VecDeque<(LinkId, Vec<u8>)>,
    transmit_bytes: usize,
    /// Highest fill of the bounded queues, for the simulator.
    usage: Usage,
    #[cfg(feature = "broken-variants")]
    weaknesses: BTreeSet<Weakness>,
}

/// Where the session is, with the data that exists only there.
enum Stage {
    Invited,
    Joining,
    Confirming(Box<Agreement>),
    Meshed(Box<Agreement>, Box<Mesh>),
    Closing(Box<Closing>),
    Settling(Settling),
    Closed,
}

/// The deadlines of the invitation on the monotonic clock, so that a clock jump has no effect.
struct Deadlines {
    join: Instant,
    start: Instant,
    end: Instant,
}

/// What is known about a DID's keys.
enum Resolution {
    Asked,
    Known {
        keys: ResolvedDid,
        since: Instant,
    },
    /// It did not resolve; asked again at this time.
    Failed {
        retry_at: Instant,
    },
}

/// What is sent once a record is stored.
struct Held {
    what: HeldWhat,
    deadline: Instant,
}

#[derive(Clone, Copy)]
enum HeldWhat {
    Join {
        iat: UnixTime,
    },
    Confirm {
        roster: Digest,
        iat: UnixTime,
    },
    /// The own receipt; it is sent even if it cannot be stored.
    Receipt,
    /// Only worth storing; nothing waits for it.
    Nothing,
}

/// Deliberate faults, to show that the simulator's invariants see them. Never part of the product.
#[cfg(feature = "broken-variants")]
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weakness {
    /// Installs without the others' confirms.
    SkipConfirmBarrier,
    /// Keeps the mesh of a roster that was given up.
    KeepOldRoster,
    /// Sends before it stored.
    SkipPersist,
    /// Believes a ready that did not come through the tunnel, or from its issuer.
    AcceptReadyFromOverlay,
    /// Takes joins of other sessions and with others' keys.
    NoJoinCheck,
    /// Keeps whatever members sign.
    LeakQueue,
    /// Never gives up waiting.
    NoTimeout,
    /// Lets the order of a hash map decide what is sent first.
    NondeterministicOrder,
    /// Takes a repeated statement for something that cannot happen.
    AlarmOnRepeat,
}

impl Session {
    /// Makes a deliberate fault; see [`Weakness`].
    #[cfg(feature = "broken-variants")]
    #[doc(hidden)]
    pub fn weaken(&mut self, weakness: Weakness) {
        self.weaknesses.insert(weakness);
        self.ledger.uncapped |= weakness == Weakness::LeakQueue;
    }

    #[cfg(feature = "broken-variants")]
    fn is_weak(&self, weakness: Weakness) -> bool {
        self.weaknesses.contains(&weakness)
    }
}

/// Whether a deliberate fault is on; always false in the product, where the whole condition compiles away.
macro_rules! weak {
    ($session:expr, $weakness:ident) => {{
        #[cfg(feature = "broken-variants")]
        {
            $session.is_weak(crate::session::Weakness::$weakness)
        }
        #[cfg(not(feature = "broken-variants"))]
        {
            false
        }
    }};
}
use weak;
