//! Who takes part, in which order: the session protocol `quorate/1` as a pure state machine.
//!
//! ```text
//! Verified<Invitation> ─► Session ─ join ─► Joining ─► Confirming ─► Keyed ─► Ready ─► Running ─► Closing ─► Closed
//!                                             ▲            │           │        │         │
//!                                             └─ a party joined again: give up the roster ┘
//! ```
//!
//! This crate has no clock, no socket, no file and no source of randomness: time comes with every call, randomness once as
//! a seed, and what has to be done in the world goes out as [`Event`]s and frames. See [`Session`] for the driver's law.
//!
//! Security. Requires: the transport authenticates PeerIds; the driver keeps what [`Event::Persist`] gives it and answers
//! honestly; tunnel links are reported only for addresses that WireGuard authenticated. Provides: nothing is installed
//! before every listed party confirmed the identical roster; every key in it is signed for this session and epoch by its
//! party's DID; a party's disagreement, absence or lie ends in a named refusal. Does not provide: correct inputs, or
//! protection from more than `t` parties who collude.

mod address;
mod bundle;
mod canceller;
mod checks;
mod contact;
pub mod control;
mod keys;
mod ledger;
pub mod limits;
mod link;
pub mod lobby;
mod manifest;
pub mod message;
mod peer_id;
pub mod post;
pub mod record;
pub mod relay;
pub mod relay_pass;
pub mod rendezvous;
mod roster;
mod seal;
mod session;
mod source;
mod statement;
mod stored;
mod ticket;
mod words;

pub use address::overlay_address;
pub use bundle::{Bundle, RendezvousSecret};
pub use canceller::{CancelEvent, CancelSetup, Canceller};
pub use checks::check_controllers;
pub use contact::{Closing, Contact};
pub use keys::Psk;
pub use link::{Frame, LinkId, LinkKind, PeerAt, hello_tag};
pub use manifest::{ContentDigest, ManifestEntry, check_path, manifest_digest};
pub use message::{
    Apply, Call, CallDraft, CallSubject, Card, Fingerprint, Invitation, InvitationDraft,
    InvitationSubject, PartyDraft, Pid,
};
pub use peer_id::PeerId;
pub use record::Record;
pub use roster::{Member, Roster};
pub use seal::{SEALED_PREFIX, SealSecret, open_bundle, seal_bundle};
#[cfg(feature = "broken-variants")]
#[doc(hidden)]
pub use session::Weakness;
pub use session::{
    Event, MeshPlan, Misuse, Outcome, PartyView, PeerPlan, PersistToken, Phase, ProgramReport,
    Session, Setup, State, Usage,
};
pub use source::ProgramSource;
pub use stored::{Closure, Stored};
pub use ticket::Ticket;
pub use words::{
    ADMISSION_WORDS, SAFETY_WORDS, admission_commitment, admission_words, safety_words,
};
