//! Commands about sessions that are on, or were.

use std::time::Duration;

use clap::Args as ClapArgs;

/// `quorate status`.
#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    /// Name of the session, or the beginning of its digest; without it, all of this home.
    pub session: Option<String>,
    /// Stay, and show every change until the session is over.
    #[arg(short, long)]
    pub watch: bool,
    /// Show the links only, as a table: path, round trip, bytes, and why the path is what it is.
    #[arg(long, conflicts_with = "watch")]
    pub links: bool,
}

/// `quorate leave`.
#[derive(Debug, ClapArgs)]
pub struct LeaveArgs {
    /// Name of the session, or the beginning of its digest; may be left out if only one is on.
    pub session: Option<String>,
}

/// `quorate cancel`.
#[derive(Debug, ClapArgs)]
pub struct CancelArgs {
    /// Name of the session, or the beginning of its digest.
    pub session: String,
    /// Why; all parties see it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// How long to look for the parties if you do not take part yourself: 30s, 5m.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = crate::text::parse_duration)]
    pub wait: Duration,
    /// All parties are on this machine: use loopback only.
    #[arg(long)]
    pub local: bool,
    /// Address of a party, such as /ip4/192.168.1.7/tcp/40123; repeat for more.
    #[arg(long, value_name = "ADDR")]
    pub at: Vec<String>,
}

/// `quorate clean`.
#[derive(Debug, ClapArgs)]
pub struct CleanArgs {
    /// Only say what there is; ends with exit code 1 if there is something.
    #[arg(long)]
    pub dry_run: bool,
    /// Also what is of use only to look back: how sessions ended, logs, damaged records.
    #[arg(long)]
    pub all: bool,
}
