//! A deterministic world for the session core: one clock, one seed, a hostile network.
//!
//! ```text
//! Schedule (seed, parties, network, faults, liar) ─ run ─► Report (violations, outcomes, trace hash)
//!      ▲                                                      │ a violation
//!      └────────── replay ◄── tests/failures/*.json ◄─ minimise ◄┘
//! ```
//!
//! Every party is a real [`Session`](quorate_session::Session), driven by the law that its documentation states. Frames on
//! overlay links are delayed, reordered, duplicated, lost or cut off; tunnels exist only between meshes that know each
//! other's keys. Parties start late, crash with or without their record, and cannot always store. A liar is a real session
//! whose frames the world tampers with, or a stranger who holds the bundle.
//!
//! After every step the invariants are looked at (see [`Invariant`]). A run is a pure function of its schedule, so a saved
//! schedule replays.

mod invariants;
mod liar;
mod node;
mod schedule;
pub mod setting;
mod world;

pub use invariants::{Invariant, Violation};
pub use schedule::{Fault, FaultKind, Liar, Net, Schedule, failures_folder, load, minimise, save};
pub use world::{Report, run};
