//! `quorate join`: what can be written.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::PartArgs;

const EXAMPLES: &str = "\
Examples:
  quorate join qrt1q9w7m-4tz0h-…                     ask for a seat with a ticket
  quorate join friday.quorate --program ./income.py  take part in what a file invites you to
  quorate join -- --data /srv/income.csv             an invitation of a contact; what follows -- stays here";

#[derive(Debug, ClapArgs)]
#[command(before_help = EXAMPLES)]
pub struct JoinArgs {
    /// A ticket, a link with one, or the file of an invitation; `-` for stdin; or the name of a session
    /// that stopped here and can be joined again. Without it, the session you were in when your computer
    /// failed, or else invitations of your contacts.
    #[arg(value_name = "TICKET|LINK|FILE|SESSION")]
    pub what: Option<PathBuf>,
    /// Look for invitations of this contact only, or of the owner of this DID.
    #[arg(long, value_name = "NAME|DID", conflicts_with = "what")]
    pub from: Option<String>,
    /// How long to look before giving up: for the inviter of a ticket or for invitations of contacts
    /// (1m without it), for the other parties of a file (until nobody may join any more).
    #[arg(long, value_name = "TIME", value_parser = crate::text::parse_duration)]
    pub wait: Option<std::time::Duration>,
    /// Stay after the run: the same inviter may ask for another program, and you are asked again.
    #[arg(long)]
    pub hold: bool,
    /// Your copy of the program, if it is not carried in quorate.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Take a program that came along without being shown it, if this is its digest: for scripts, with
    /// -y. Repeat for more.
    #[arg(long, value_name = "sha256:HEX", value_parser = crate::part::parse_digest)]
    pub accept_program: Vec<quorate_session::ContentDigest>,
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
