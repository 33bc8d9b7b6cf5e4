//! The only I/O of quorate: overlay, WireGuard, attach modes, programs and files.
//!
//! The pure cores (`quorate-session`, `quorate-path`) decide; this crate obeys and reports.
//! libp2p types stay inside [`overlay`], gotatun types inside [`wireguard`], smoltcp types
//! inside [`netstack`].

pub mod attach;
pub mod cancelling;
mod contact;
pub mod control;
pub mod doctor;
mod fault;
pub mod files;
mod finding;
pub mod lobby;
pub mod netstack;
pub mod overlay;
pub mod party;
pub mod portmap;
pub mod post;
pub mod program;
pub mod relay;
pub mod wireguard;

pub use fault::Fault;
pub use finding::{Finding, Verdict};
