//! The questions, one module each.

pub mod dht;
pub mod distances;
pub mod idle;
pub mod lines;
pub mod paths;
pub mod programs;
pub mod relay;
pub mod sessions;
pub mod setup;
pub mod statements;
pub mod throughput;
