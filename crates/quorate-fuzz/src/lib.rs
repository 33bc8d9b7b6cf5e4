//! What a fuzzer calls: a function per reader of outside bytes, and two that drive whole sessions.
//!
//! ```text
//! bytes ─► target ─► reader ─► refused: fine        a panic is a finding
//!                        └───► taken: what was taken must write itself again as it was read
//! bytes ─► session ─► events for three sessions ─► the invariants of the simulator hold after each
//! ```
//!
//! A target is a plain function, so that the same code runs under libFuzzer (`tests/fuzz/`, `cargo xtask fuzz`) and, on a
//! stable toolchain, over the inputs of `tests/fuzz/corpus/` and of all vectors (`tests/replay.rs`, in every test run).
//!
//! Limits: a target looks at [`MAX_INPUT_BYTES`] of its input. Security: nothing here is part of the product.
#![allow(
    clippy::panic,
    reason = "a target says with a panic that it found something"
)]

#[cfg(feature = "node")]
mod node;
mod readers;
mod schedule;
mod session;
mod signed;

/// Most bytes of an input that are looked at.
pub const MAX_INPUT_BYTES: usize = 300_000;

/// A function that a fuzzer calls with arbitrary bytes.
pub type Target = fn(&[u8]);

/// All targets with their names, which are those of the folders in `tests/fuzz/corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("json", readers::json),
    ("jws", readers::jws),
    ("did", readers::did),
    ("bundle", readers::bundle),
    ("source", readers::source),
    ("ticket", readers::ticket),
    ("frame", readers::frame),
    ("rendezvous", readers::rendezvous),
    ("stored", readers::stored),
    ("invitation", signed::invitation),
    ("join", signed::join),
    ("receipt", signed::receipt),
    ("statement", signed::statement),
    ("session", session::session),
    ("schedule", schedule::schedule),
    #[cfg(feature = "node")]
    ("guard_hello", node::guard_hello),
    #[cfg(feature = "node")]
    ("control", node::control),
];

/// Calls the target of this name.
pub fn call(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let Some((_, target)) = found else {
        panic!("there is no target {name}");
    };
    target(&data[..data.len().min(MAX_INPUT_BYTES)]);
}
