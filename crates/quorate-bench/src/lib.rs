//! What quorate costs, measured; and whole sessions in numbers, as tests.
//!
//! ```text
//! world     parties with keys, homes and an invitation; a session of them in this process
//! tunnels   two ends of a mesh with guards: program socket to program socket
//! plain     MPyC without quorate, over loopback TCP: what the programs are compared with
//! sites     the real program between sites of the lab, and the same over plain IP
//! process   processor time, memory, descriptors and threads, from /proc
//! sample    medians and rates
//! table     results as Markdown and JSON
//! ```
//! Every figure has its plain counterpart measured in the same run on the same machine; ratios of
//! such pairs say more than the figures. The method is in `docs/benchmarks.md`.

pub mod plain;
pub mod process;
pub mod sample;
pub mod sites;
pub mod table;
pub mod tunnels;
pub mod world;

/// What goes wrong here ends the measurement: it would mean nothing.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
