//! Rendezvous: how the parties of one session find each other through nodes that must not learn who they are.
//!
//! ```text
//! S, sid, party i, hour b ─HKDF─► sk (Ed25519), k (AEAD)         at the nodes: SHA-256("quorate/1/rdv" pk) ─► value
//!   value = pk  seq  exp  sig_sk  nonce  XChaCha20-Poly1305_k(whereabouts, padded)
//!   whereabouts = JWS by the party's DID: PeerId, addresses, digest of the join, hour, seq
//!
//!   party i ── put ──► nodes ◄── get ── party j:  outer check ─► open ─► DID signature ─► highest seq ─► dial
//! ```
//! The keys of each hour are unrelated for whoever does not hold the secret. Nodes check hash, signature, time, size and
//! `seq` ([`check_value`], [`may_replace`]), so that an outsider can neither write nor overwrite a record. A party of the
//! session can: it holds the secret. That hides others from those who do not find them otherwise, and cannot mislead
//! anybody, since only the DID's signature is believed.
//!
//! [`Seeker`] decides when to publish and when to look. Nothing here talks to a network.
//!
//! Security. Requires: the secret is known to the invited only; clocks are within five minutes. Provides: no DID, session
//! id, purpose or address is visible to nodes; a record of another party, session or hour is never used; an address that
//! is used was signed by the party's DID. Does not provide: that nodes answer, or that they do not see which network
//! addresses ask for which (unlinkable) key.
//!
//! Source: docs/protocol.md, S13; RFC 5869, RFC 8032, draft-irtf-cfrg-xchacha.

mod seeker;
mod slot;
mod value;

pub use seeker::{Kept, Seeker, SeekerEvent, SeekerOrder, SeekerSetup, Tally};
pub use slot::Slot;
pub use value::{Stamp, check_value, may_replace};

use crate::limits::RENDEZVOUS_HOUR_SECONDS;
use quorate_identity::UnixTime;

/// The hour since 1970.
pub fn hour_of(at: UnixTime) -> u64 {
    u64::try_from(at.0 / RENDEZVOUS_HOUR_SECONDS).unwrap_or(0)
}
