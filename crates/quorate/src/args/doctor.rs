//! `quorate doctor`: what can be written.

use std::path::PathBuf;

use clap::Args as ClapArgs;

const EXAMPLES: &str = "\
Examples:
  quorate doctor                         this machine and its network
  quorate doctor --with ost              also how the session with ost stands
  quorate doctor --bundle report.json    for a bug report: no address, name or DID in it";

#[derive(Debug, ClapArgs)]
#[command(before_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Look also at what sessions that are on say about this party: a name, or a DID.
    #[arg(long, value_name = "PARTY")]
    pub with: Option<String>,
    /// Relay to look with; may be given more than once. Without it: `QUORATE_RELAY`, or the file `relays`.
    #[arg(long, value_name = "ADDR")]
    pub relay: Vec<String>,
    /// Python to look at.
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Write the report there, redacted; the file must not exist.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}
