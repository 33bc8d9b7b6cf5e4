//! Post: invitations to people one knows, handed over when both are online.
//!
//! ```text
//! sender, with an offer for each of some DIDs      receiver, with its contacts
//!   hello{tags} ───────────────────────────────►    tag_i = HMAC(K_i, "offer" ‖ both DIDs ‖ both PeerIds)
//!      one per offer, filled up with random ones    no tag of a contact ─► silence
//!   ◄─────────────────────────────── mine{tag}      HMAC(K, "answer" ‖ …): only this contact can check it
//!   offer{text} ───────────────────────────────►    the contact signed it, it is for me
//!   ◄───────────────────────────── taken{digest}
//! K_i = HKDF-SHA256(X25519(my key, contact's key), info "quorate/1/post" ‖ both DIDs in order)
//! ```
//! [`Sender`] and [`Receiver`] are pure: no clock, no socket, no randomness but a seed.
//!
//! Limits: [`MAX_OFFERS`](crate::limits::MAX_OFFERS), [`MAX_CONTACTS`](crate::limits::MAX_CONTACTS), one hello and one offer
//! per link, a few frames per link.
//!
//! Security. Requires: the transport authenticated the PeerIds, which are fresh. Provides: whoever is not a contact gets
//! silence from a receiver, and from a sender tags that look random and differ for every pair of PeerIds; both ends prove
//! their DID to each other and to nobody else, without signing anything that could be shown around; nothing can be carried
//! to another connection. Does not provide: hiding from a contact that one is online when it has an offer; protection of
//! who knows whom from somebody who steals a key later and recorded the (encrypted) links.

mod frame;
mod pair;
mod receiver;
mod sender;

pub use frame::Frame;
pub use receiver::{ReceiveEvent, Receiver};
pub use sender::{SendEvent, Sender};

/// The key of the beacon by which everybody who uses the post finds each other on one machine. It is no secret.
pub fn beacon_key() -> [u8; 32] {
    quorate_identity::Digest::of("quorate/1/post-beacon", b"").0
}
