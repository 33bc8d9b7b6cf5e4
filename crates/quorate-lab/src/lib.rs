//! A laboratory of NATs, regions and faults on one machine, without root.
//!
//! ```text
//!  host ─┐                                                        ┌─ host
//!  host ─┴ LAN ─ gateway (nftables) ─ TUN ─┐          ┌─ TUN ─ gateway ─ LAN
//!                                          │ emulator │
//!                   relay, in the open ─ TUN ─┘  │  └─ TUN ─ carrier-grade NAT ─┬─ gateway ─ host
//!                                       delay, jitter, loss,                    └─ gateway ─ host
//!                                       rate, queue, MTU, cuts
//! ```
//!
//! Each host, gateway and carrier-grade NAT is a network namespace without a name, held by a file
//! descriptor of this process: when the process ends, however it ends, the kernel takes everything
//! away. One thread, the [`emulator`], is the Internet between them.
//!
//! The whole lab runs in a user namespace of its own, so that it needs no root ([`sandbox`]). No
//! namespace of it has an interface that leads outside, so no packet can leave.
//!
//! Security: *provides*: no packet reaches the machine's own networks. *Does not provide*:
//! protection of the machine's files from the programs that the lab runs.

pub mod emulator;
pub mod lab;
pub mod mapper;
pub mod matrix;
pub mod measure;
pub mod namespace;
pub mod nat;
pub mod oracle;
pub mod plan;
pub mod probe;
pub mod sandbox;
pub mod scenario;
mod trouble;

pub use lab::{Host, Lab};
pub use namespace::Namespace;
pub use nat::Nat;
pub use plan::{LinkSpec, Plan, Site};
pub use trouble::{Context, Outcome, Trouble};
