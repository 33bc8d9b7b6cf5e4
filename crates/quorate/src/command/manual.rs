//! `quorate man` and `quorate completions`: made of the command line itself, so that they say what it takes.
//!
//! ```text
//! args ─► clap's description of them ─┬─► roff: quorate.1, quorate-invite.1, quorate-contacts-add.1, …
//!                                     └─► a script for bash, zsh, fish, elvish or PowerShell
//! ```
//! Both work without an identity and read nothing of this user.

use std::{io::Write, process::ExitCode};

use clap::CommandFactory;
use clap_complete::generate;
use clap_mangen::Man;
use quorate_identity::Code;
use quorate_node::files::write_atomic;

use crate::{
    args::{Args, CompletionsArgs, Global, ManArgs},
    failure::Failure,
    text,
};

/// The name that is typed.
const NAME: &str = "quorate";

/// Prints the completions of a shell.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut Args::command(), NAME, &mut script);
    print(&script)
}

/// Prints the manual page of quorate, or writes those of all commands.
pub fn man(global: &Global, args: &ManArgs) -> Result<ExitCode, Failure> {
    let pages = pages()?;
    let Some(folder) = &args.out else {
        return print(&pages[0].1);
    };
    std::fs::create_dir_all(folder).map_err(|e| {
        let why = format!("{} cannot be made: {e}", folder.display());
        Failure::new(Code::Disk, why)
    })?;
    for (name, page) in &pages {
        write_atomic(&folder.join(name), page)?;
    }
    if !global.quiet && !global.json {
        let what = format!("{} pages in {}", pages.len(), folder.display());
        text::say(text::row("written", &text::foreign(&what)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Name and text of each page; that of quorate itself comes first.
fn pages() -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut command = Args::command();
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, NAME, &mut pages)?;
    Ok(pages)
}

fn add_pages(
    command: &clap::Command,
    name: &str,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Failure> {
    let mut page = Vec::new();
    // A command that was built knows its whole name, `quorate-contacts-add`, which heads the page.
    Man::new(command.clone())
        .render(&mut page)
        .map_err(|e| Failure::new(Code::Internal, format!("no page for {name}: {e}")))?;
    pages.push((format!("{name}.1"), page));
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        add_pages(inner, &format!("{name}-{}", inner.get_name()), pages)?;
    }
    Ok(())
}

/// To stdout, whole. A reader that closed its end early is not a failure of ours.
fn print(bytes: &[u8]) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            let why = format!("stdout cannot be written: {e}");
            Err(Failure::new(Code::Disk, why))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::{Command, ValueEnum};
    use clap_complete::Shell;

    /// Every command that people see, with its full name.
    fn visible(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
        found.push((name.to_owned(), command.clone()));
        for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            visible(inner, &format!("{name}-{}", inner.get_name()), found);
        }
    }

    fn commands() -> Vec<(String, Command)> {
        let mut root = Args::command();
        root.build();
        let mut found = Vec::new();
        visible(&root, NAME, &mut found);
        assert!(found.len() > 20, "{}", found.len());
        found
    }

    #[test]
    fn every_command_and_every_option_says_what_it_is_for() {
        for (name, command) in commands() {
            assert!(command.get_about().is_some(), "{name} says nothing");
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                let help = arg.get_help().or(arg.get_long_help());
                let said = help.is_some_and(|help| help.to_string().len() > 5);
                assert!(said, "{name} {} says nothing", arg.get_id());
            }
        }
    }

    #[test]
    fn every_command_has_a_page_with_every_option_of_its_own() {
        let pages = pages().unwrap();
        let commands = commands();
        let names: Vec<String> = commands.iter().map(|(n, _)| format!("{n}.1")).collect();
        let written: Vec<&String> = pages.iter().map(|(name, _)| name).collect();
        assert_eq!(written, names.iter().collect::<Vec<_>>());
        for ((name, command), (_, page)) in commands.iter().zip(&pages) {
            let page = String::from_utf8(page.clone()).unwrap();
            assert!(
                page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
                "{name}"
            );
            let plain = page.replace('\\', "");
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                if let Some(long) = arg.get_long() {
                    assert!(plain.contains(&format!("--{long}")), "{name} --{long}");
                }
            }
        }
        assert!(!names.iter().any(|name| name.contains("background")));
    }

    #[test]
    fn every_shell_completes_commands_and_options() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            generate(*shell, &mut Args::command(), NAME, &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["invite", "send-program", "contacts", "export"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
