//! What can be written on the command line.

mod again;
mod contacts;
mod doctor;
mod execution;
mod invite;
mod join;
mod life;
mod manual;
mod minus;
mod part;
mod receipt;
mod relay;
mod start;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use again::{AgainArgs, RunArgs};
pub use contacts::{ContactsAction, ContactsArgs};
pub use doctor::DoctorArgs;
pub use execution::{AttachMode, ExecutionArgs, Isolate, Memory};
pub use invite::{EngineName, InviteArgs, QrWhen};
pub use join::JoinArgs;
pub use life::{CancelArgs, CleanArgs, LeaveArgs, StatusArgs};
pub use manual::{CompletionsArgs, ManArgs};
pub use minus::with_minus;
pub use part::PartArgs;
pub use receipt::{ExportFormat, ReceiptAction, ReceiptArgs};
pub use relay::{RelayAction, RelayArgs, RelayRunArgs};
pub use start::{StartWhen, parse_start};

/// Secure multiparty computation between people who name each other by DID.
///
/// An organizer signs an invitation, every party signs the same roster, fresh WireGuard keys make a
/// private mesh, and each party's program runs on it. Nothing is left behind.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, max_term_width = 100, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  quorate demo                                   three parties on this machine, a real computation
  quorate invite mpyc:secretsanta --seats 3      hand out a ticket, admit who asks, compute
  quorate join qrt1q9w7m-4tz0h-…                 ask for a seat with a ticket
  quorate again                                  the same people once more";

/// Options of every command.
#[derive(Debug, ClapArgs)]
pub struct Global {
    /// Keep everything below this folder instead of the XDG places.
    #[arg(
        long,
        global = true,
        env = "QUORATE_HOME",
        value_name = "DIR",
        help_heading = "Everywhere"
    )]
    pub home: Option<PathBuf>,
    /// Report as JSON: one document on stdout, or events (one a line) on stderr while waiting.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Say more; twice for details, three times for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub verbose: u8,
    /// Say only what went wrong.
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// Colour on stderr.
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto, value_name = "WHEN", help_heading = "Everywhere")]
    pub color: Colour,
    /// Write diagnostics to this file instead of stderr.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub log_file: Option<PathBuf>,
    /// Never ask; what would be asked is refused unless -y says yes.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub no_input: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On terminals, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a computation between parties on this machine, each a process of its own.
    Demo(DemoArgs),
    /// Show, make, export or import your identity.
    Id(IdArgs),
    /// Sign an invitation to a computation, and take part.
    Invite(InviteArgs),
    /// Take part in a computation.
    Join(JoinArgs),
    /// Compute again with the same people, or with some of them.
    Again(AgainArgs),
    /// Run another program with the people of a session.
    Run(RunArgs),
    /// The people you know, by the names that you gave them.
    Contacts(ContactsArgs),
    /// Show the sessions that are on, and how the last ones ended.
    Status(StatusArgs),
    /// Leave a session: it ends for all parties.
    Leave(LeaveArgs),
    /// Withdraw an invitation that you signed: nobody computes under it.
    Cancel(CancelArgs),
    /// Find and remove what commands that were killed left behind.
    Clean(CleanArgs),
    /// Check offline what somebody gave you: an invitation, ticket, card, receipt or record.
    Verify(VerifyArgs),
    /// Take part as another process decided.
    #[command(hide = true)]
    Background,
    /// What was signed in ended sessions: list, show, export.
    Receipt(ReceiptArgs),
    /// Look at this machine and its network: what works, what does not, and what to do.
    Doctor(DoctorArgs),
    /// Carry sessions between parties that cannot reach each other, or look at a relay that does.
    Relay(RelayArgs),
    /// Print the completions of a shell, made of this command line.
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands.
    Man(ManArgs),
    /// Print the version of quorate and of what it speaks.
    Version,
}

#[derive(Debug, ClapArgs)]
pub struct DemoArgs {
    /// `secretsanta`, `mean-income`, `vote`, or a file or folder with an MPyC program.
    #[arg(default_value = "mpyc:secretsanta")]
    pub program: String,
    /// Number of parties.
    #[arg(short = 'm', long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=16))]
    pub parties: u16,
    /// Python with MPyC to use; without it, a private environment is made if none is found.
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Arguments of the program, the same for all parties.
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct IdArgs {
    #[command(subcommand)]
    pub action: Option<IdAction>,
}

#[derive(Debug, Subcommand)]
pub enum IdAction {
    /// Print your DID; makes an identity at first use (the default).
    Show,
    /// Make an identity.
    New {
        /// What you call yourself; others see it beside your DID.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Replace the identity there is. It cannot be brought back without an export.
        #[arg(long)]
        replace: bool,
    },
    /// Print your contact card, which is public: your DID, your name and the key to seal invitations to.
    Card {
        /// What the card calls you; the name of your identity without it.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Write it to this file.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write the secret key file, to move it to another machine.
    Export {
        /// Where to; the file is made private (0600) and must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Use the key of an exported file.
    Import {
        /// The exported file.
        file: PathBuf,
        /// Replace the identity there is.
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// A file, a ticket, or `-` for stdin.
    #[arg(value_name = "FILE|TICKET|-")]
    pub file: PathBuf,
    /// Print the program that came along in the file of an invitation, every line of it.
    #[arg(long)]
    pub show_program: bool,
}
