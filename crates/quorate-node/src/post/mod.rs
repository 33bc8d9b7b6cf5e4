//! The post over the real network: invitations for people one knows, handed over when both are online.
//!
//! ```text
//! send(offers)       ─► Found ─► Delivered … AllDelivered
//! receive(contacts)  ─► Offer, Offer, …
//! ```
//! Both ends find each other by a beacon on one machine, whose key everybody knows, by mDNS in
//! [`Scope::Lan`](crate::overlay::Scope), and by addresses that the user gives. What is said over the links, and all
//! limits of it, is in [`quorate_session::post`].
//!
//! Security. Provides: overlay identities are fresh for every start, so nothing on the network says who waits or sends.
//! Does not provide: that others on this machine or network do not see that somebody uses the post.

mod receive;
mod send;

pub use receive::{ReceiveConfig, ReceiveEvent, ReceiveHandle, receive};
pub use send::{SendConfig, SendEvent, SendHandle, send};
