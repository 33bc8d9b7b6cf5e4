//! The lobby of an open call over the real network.
//!
//! ```text
//! inviter    host(call, secret) ─► ticket ─► Applied ─ admit ─► Full ─ seal(bundle) ─► Delivered … AllDelivered
//! applicant  guest(ticket) ─► Found ─► Call ─ apply(name) ─► Asked ─► Admitted ─► Invitation
//! ```
//! The inviter is found by the ticket's loopback beacon, by mDNS in [`Scope::Lan`](crate::overlay::Scope::Lan), by the addresses in the ticket and by
//! those the user gives. What is said over the links, and all limits of it, is in [`quorate_session::lobby`].
//!
//! Security. Requires: `overlay_secret` is fresh and kept in this process. Provides: an applicant connects to the ticket's
//! PeerId and to nobody else. Does not provide: that it stays hidden who connects to whom; the network sees addresses.

mod guest;
mod host;
mod own_address;

pub use guest::{ApplicantConfig, ApplicantEvent, ApplicantHandle, apply};
pub use host::{HostConfig, HostEvent, HostHandle, host, peer_of};
pub use quorate_session::lobby::{ApplicantId, Misuse};
