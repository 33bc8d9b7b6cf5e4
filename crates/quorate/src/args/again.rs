//! `quorate again` and `quorate run`: what can be written.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::PartArgs;

const AGAIN_EXAMPLES: &str = "\
Examples:
  quorate again                       the last session: same people, same program, new keys
  quorate again income-2026           that one; the others run `quorate join`
  quorate again -ost +west            other people";

const RUN_EXAMPLES: &str = "\
Examples:
  quorate run income-2026 other.py -- 5     another program, same people (who held, or run `quorate join`)
  quorate run income-2026 mpyc:vote         one that quorate carries
  quorate join friday.quorate --hold        stay after a run, to be asked for the next program";

#[derive(Debug, ClapArgs)]
#[command(before_help = AGAIN_EXAMPLES)]
pub struct AgainArgs {
    /// The session (the last one without a name), then `+NAME` for who comes in and `-NAME` for who
    /// stays away: names of contacts, groups or DIDs.
    #[arg(value_name = "SESSION] [+NAME] [-NAME", num_args = 0..)]
    pub words: Vec<String>,
    /// The same as `-NAME`, also for names of one letter that is an option.
    #[arg(long, value_name = "NAME")]
    pub minus: Vec<String>,
    /// List the sessions that can be done again.
    #[arg(long)]
    pub list: bool,
    /// How long the others may take to join: 90s, 30m, 2h, 7d; as before without it.
    #[arg(long, value_name = "TIME", value_parser = crate::text::parse_duration)]
    pub expires: Option<Duration>,
    /// Send the program's source along: whoever joins without a copy of their own is shown it before
    /// they agree, and runs exactly that.
    #[arg(long)]
    pub send_program: bool,
    #[command(flatten)]
    pub part: PartArgs,
    /// Other public arguments of the program than before.
    #[arg(last = true, value_name = "PUBLIC ARGS")]
    pub args: Vec<String>,
}

#[derive(Debug, ClapArgs)]
#[command(before_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// The session whose people are asked.
    pub session: String,
    /// The program, as for `quorate invite`.
    pub program: String,
    /// How long the others may take to join: 90s, 30m, 2h, 7d; as before without it.
    #[arg(long, value_name = "TIME", value_parser = crate::text::parse_duration)]
    pub expires: Option<Duration>,
    /// Send the program's source along: whoever joins without a copy of their own is shown it before
    /// they agree, and runs exactly that.
    #[arg(long)]
    pub send_program: bool,
    #[command(flatten)]
    pub part: PartArgs,
    /// Arguments of the program that all parties see and sign.
    #[arg(last = true, value_name = "PUBLIC ARGS")]
    pub args: Vec<String>,
}
