//! `quorate invite`: what can be written.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, ValueEnum};

use super::PartArgs;

const EXAMPLES: &str = "\
Examples:
  quorate invite income.py --seats 3 -- --year 2026      whoever you give the ticket to may ask for a seat
  quorate invite income.py --with sud,@registry          people you know: they run `quorate join`
  quorate invite mpyc:secretsanta --with bo=did:key:z6Mk…,cleo=did:key:z6Mk… --out friday.quorate";

#[derive(Debug, ClapArgs)]
#[command(before_help = EXAMPLES)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub struct InviteArgs {
    /// `mpyc:NAME` for a program carried in quorate (secretsanta, mean-income, vote), a Python file,
    /// or a folder with a `main.py`. With `--engine exec` it is a file or folder, and may be left
    /// out: then the first word after `--` is the program's file.
    #[arg(required_unless_present = "engine")]
    pub program: Option<String>,
    /// The others: names of contacts, groups of them, DIDs, or names that you give here (`sud=did:key:z6Mk…`).
    /// Repeat, or separate by commas; the order is the order of the parties.
    #[arg(
        long,
        value_name = "NAME|@GROUP|[NAME=]DID,…",
        value_delimiter = ',',
        required_unless_present = "seats",
        conflicts_with = "seats"
    )]
    pub with: Vec<String>,
    /// Parties in all, you included. Whoever has the ticket may ask for a seat; you admit each one.
    #[arg(long, value_name = "N")]
    pub seats: Option<u16>,
    /// Write the invitation to this file instead of taking part now; `-` for stdout. It is sealed if
    /// you have the cards of all. Else it is not public: it lets its readers see who is invited.
    #[arg(long, value_name = "FILE", conflicts_with = "seats")]
    pub out: Option<PathBuf>,
    /// Write the invitation readable for whoever gets the file, even if you have the cards of all.
    #[arg(long, requires = "out")]
    pub plain: bool,
    /// What you call yourself in the invitation.
    #[arg(long, value_name = "NAME")]
    pub me: Option<String>,
    /// Title of the session.
    #[arg(long, value_name = "TITLE")]
    pub name: Option<String>,
    /// How long the others may take to join: 90s, 30m, 2h, 7d.
    #[arg(long, default_value = "2h", value_name = "TIME", value_parser = crate::text::parse_duration)]
    pub expires: Duration,
    /// How many parties may pool what they see and still learn nothing: 1 up to below half.
    #[arg(long, value_name = "T")]
    pub threshold: Option<u16>,
    /// What runs the program: `mpyc` for Python with MPyC; `exec` to start it as it is, with the
    /// words after `--`, where {index} {n} {threshold} {hosts_file} {listen} {peer:K} are replaced.
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<EngineName>,
    /// Send the program's source along: whoever joins without a copy of their own is shown it before
    /// they agree, and runs exactly that.
    #[arg(long)]
    pub send_program: bool,
    /// Stay after the run: you are asked for another program for the same people (who stay with
    /// `join --hold`), until you press Enter.
    #[arg(long, conflicts_with_all = ["out", "detach"])]
    pub hold: bool,
    /// Only sign; do not take part.
    #[arg(long, requires = "out")]
    pub issuer_only: bool,
    /// Addresses at which a party can be reached, put into the file as hints.
    #[arg(long, value_name = "ADDR")]
    pub hint: Vec<String>,
    /// Let no party's data pass through a relay: whoever cannot be reached directly cannot take part. Relays
    /// then only help parties to find each other.
    #[arg(long, help_heading = "Network")]
    pub direct_only: bool,
    /// Replace FILE if it exists.
    #[arg(long)]
    pub force: bool,
    /// Show the ticket as a QR code too.
    #[arg(long, value_enum, default_value_t = QrWhen::Auto, value_name = "WHEN", help_heading = "Seats")]
    pub qr: QrWhen,
    /// Write the QR code of the ticket to this PNG file.
    #[arg(long, value_name = "FILE", help_heading = "Seats", requires = "seats")]
    pub qr_file: Option<PathBuf>,
    /// Admit without being asked, for scripts: `all`, or `[NAME=]DID`; repeat for more.
    #[arg(
        long,
        value_name = "all|[NAME=]DID",
        help_heading = "Seats",
        requires = "seats"
    )]
    pub admit: Vec<String>,
    #[command(flatten)]
    pub part: PartArgs,
    /// Arguments of the program that all parties see and sign.
    #[arg(last = true, value_name = "PUBLIC ARGS")]
    pub args: Vec<String>,
}

/// What runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// Python with MPyC.
    Mpyc,
    /// The program itself.
    Exec,
}

/// When the QR code is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QrWhen {
    /// On terminals.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
