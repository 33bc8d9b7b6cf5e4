//! The questions, one module each.

pub mod dht;
pub mod idle;
pub mod programs;
pub mod sessions;
pub mod setup;
pub mod statements;
pub mod throughput;
