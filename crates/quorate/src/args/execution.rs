//! How this party runs the program: nothing that the others have to agree on.

use clap::{Args as ClapArgs, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::text;

/// What the program may use of this machine.
#[derive(Debug, Clone, ClapArgs, Serialize, Deserialize)]
pub struct ExecutionArgs {
    /// Run the program without a network of its own: it reaches the other parties and nothing else.
    /// `auto` does so where the machine allows it, and says where it does not.
    #[arg(long, value_enum, default_value_t = Isolate::Auto, value_name = "WHEN", help_heading = "Taking part")]
    pub isolate: Isolate,
    /// How the program reaches its links: `unix`, sockets that it inherits (MPyC); `loopback`, ports
    /// of 127.0.0.1 (engine exec).
    #[arg(long, value_enum, default_value_t = AttachMode::Auto, value_name = "MODE", help_heading = "Taking part")]
    pub attach: AttachMode,
    /// Most memory of the program, such as 4GiB or 512MiB, or `none`; three quarters of the
    /// machine's by default.
    #[arg(long, value_name = "SIZE", value_parser = text::parse_memory, help_heading = "Taking part")]
    pub memory: Option<Memory>,
}

/// When to take the network away from the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Isolate {
    /// Or do not take part.
    Always,
    /// Where the machine allows it.
    Auto,
    /// Never.
    Never,
}

/// How the program reaches its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum AttachMode {
    /// As its engine needs it.
    Auto,
    /// Inherited sockets.
    Unix,
    /// Ports on 127.0.0.1.
    Loopback,
}

/// A limit on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// No limit.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}
