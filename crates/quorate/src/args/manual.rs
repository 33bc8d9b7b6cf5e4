//! `quorate man` and `quorate completions`: what can be written.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap_complete::Shell;

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  quorate completions bash > ~/.local/share/bash-completion/completions/quorate
  quorate completions zsh > \"${fpath[1]}/_quorate\"
  quorate completions fish > ~/.config/fish/completions/quorate.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  quorate man --out ~/.local/share/man/man1     then: man quorate-invite
  quorate man | man -l -";

#[derive(Debug, ClapArgs)]
#[command(before_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell that the script is for.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

#[derive(Debug, ClapArgs)]
#[command(before_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// Write the pages of all commands into this folder instead of printing the first one.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
