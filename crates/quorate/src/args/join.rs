//! `quorate join`: what can be written.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::PartArgs;

const EXAMPLES: &str = "\
Examples:
  quorate join qrt1q9w7m-4tz0h-…                     ask for a seat with a ticket
  quorate join friday.quorate --program ./income.py  take part in what a file invites you to
  quorate join qrt1… -- --data /srv/income.csv       what follows -- stays on this machine";

#[derive(Debug, ClapArgs)]
#[command(before_help = EXAMPLES)]
pub struct JoinArgs {
    /// A ticket, a link with one, or the file of an invitation; `-` for stdin.
    #[arg(value_name = "TICKET|LINK|FILE")]
    pub what: PathBuf,
    /// Your copy of the program, if it is not carried in quorate.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// What you call yourself when you ask for a seat.
    #[arg(long, value_name = "NAME")]
    pub me: Option<String>,
    #[command(flatten)]
    pub part: PartArgs,
    /// Your private arguments of the program; they stay on this machine.
    #[arg(
        last = true,
        value_name = "PRIVATE ARGS",
        conflicts_with = "private_args"
    )]
    pub args: Vec<String>,
}
