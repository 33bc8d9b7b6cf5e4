//! How this party takes part: shared by the commands that lead into a session.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{ExecutionArgs, StartWhen};

/// What only this party decides; nothing of it is told to the others.
#[derive(Debug, Clone, ClapArgs)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub struct PartArgs {
    /// Python with MPyC to use.
    #[arg(long, value_name = "PATH", help_heading = "Taking part")]
    pub python: Option<PathBuf>,
    /// Agree without being asked.
    #[arg(short, long, help_heading = "Taking part")]
    pub yes: bool,
    /// All parties are on this machine: use loopback only.
    #[arg(long, help_heading = "Taking part")]
    pub local: bool,
    /// Address of another party, such as /ip4/192.168.1.7/tcp/40123; repeat for more.
    #[arg(long, value_name = "ADDR", help_heading = "Taking part")]
    pub at: Vec<String>,
    /// Relay to be reachable through, such as /ip4/203.0.113.9/udp/4001/quic-v1/p2p/12D3Koo… or
    /// /dns4/relay.example.org/tcp/4001/p2p/12D3Koo…; repeat for more.
    /// Without it: QUORATE_RELAY, or else the lines of the file `relays` beside your contacts. Who invites also
    /// names them to the others.
    #[arg(long, value_name = "ADDR", help_heading = "Network")]
    pub relay: Vec<String>,
    /// Relay like --relay that serves listed DIDs only, and may learn yours: which sessions you are in, when, and with whom
    /// it cannot see, but who you are it can. Repeat for more. A line of the file `relays` that ends in `pass` says the same.
    #[arg(long, value_name = "ADDR", help_heading = "Network")]
    pub relay_pass: Vec<String>,
    /// Use no relay at all, whoever names one, and be none for the other parties.
    #[arg(long, conflicts_with_all = ["relay", "relay_pass", "own_relays"], help_heading = "Network")]
    pub no_relay: bool,
    /// Use your own relays only, not those that the inviter or other parties name, and be none for them.
    #[arg(long, help_heading = "Network")]
    pub own_relays: bool,
    /// Do not ask your router to let the other parties in at a port (PCP, NAT-PMP, UPnP) while the session lasts.
    #[arg(long, help_heading = "Network")]
    pub no_port_mapping: bool,
    /// Node that keeps where you are for the others to look up, such as another `quorate relay run`; repeat for more.
    /// Without it: the lines of the file `network` beside your contacts. Relays in use are such nodes anyway.
    #[arg(long, value_name = "ADDR", help_heading = "Network")]
    pub network: Vec<String>,
    /// Your private arguments, one a line, in a file (`-` for stdin): unlike those on the command
    /// line, other users of this machine cannot see them in the list of processes.
    #[arg(long, value_name = "FILE", help_heading = "Taking part")]
    pub private_args: Option<PathBuf>,
    /// Take part in the background, once you agreed; `quorate status` shows it, `quorate leave` ends it.
    #[arg(long, help_heading = "Taking part")]
    pub detach: bool,
    /// Compute although nothing protects the inputs: with two parties, or with threshold 0, every
    /// party learns all of them.
    #[arg(long, help_heading = "Taking part")]
    pub no_privacy: bool,
    /// When your party lets the program start, once everybody is ready: `when-full` (at once), `ask`,
    /// or a time: 20m from now, or 2026-11-22T16:00:00Z.
    #[arg(long, default_value = "when-full", value_name = "when-full|ask|AT", value_parser = super::parse_start, help_heading = "Taking part")]
    pub start: StartWhen,
    #[command(flatten)]
    pub execution: ExecutionArgs,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    pub with_parent: bool,
}
