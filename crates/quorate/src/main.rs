//! The command line of quorate: reads arguments, prints, exits. Nothing else in the workspace does.
//!
//! stdout belongs to the computation and to `--json`; everything quorate says goes to stderr.

mod args;
mod command;
mod consent;
mod failure;
mod findings;
mod invitation;
mod part;
mod qr;
mod record;
mod report;
mod standing;
mod text;
mod waiting;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Args, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    part::protect_memory();
    let args = Args::parse_from(args::with_minus(std::env::args_os()));
    text::choose_colour(args.global.color);
    let global = args.global;
    if let Err(failure) = start_logging(&global) {
        return failure.print(&global);
    }
    let Some(command) = args.command else {
        text::say(command::welcome());
        command::status::mention(&global);
        return ExitCode::SUCCESS;
    };
    let done = match command {
        Command::Demo(args) => command::demo::run(&global, args),
        Command::Id(args) => command::id::run(&global, args),
        Command::Again(args) => command::again::again(&global, args),
        Command::Run(args) => command::again::run(&global, args),
        Command::Contacts(args) => command::contacts::run(&global, args),
        Command::Invite(args) => command::invite::run(&global, &args),
        Command::Join(args) => command::join::run(&global, args),
        Command::Status(args) => command::status::run(&global, &args),
        Command::Leave(args) => command::leave::run(&global, &args),
        Command::Cancel(args) => command::cancel::run(&global, &args),
        Command::Clean(args) => command::clean::run(&global, &args),
        Command::Receipt(args) => command::receipt::run(&global, args),
        Command::Doctor(args) => command::doctor::run(&global, args),
        Command::Relay(args) => command::relay::run(&global, args),
        Command::Verify(args) => command::verify::run(&global, &args),
        Command::Background => command::background::run(&global),
        Command::Completions(args) => command::manual::completions(&args),
        Command::Man(args) => command::manual::man(&global, &args),
        Command::Version => Ok(command::version::run(&global)),
    };
    match done {
        Ok(code) => code,
        Err(failure) => failure.print(&global),
    }
}

/// Diagnostics go to stderr or a file, at the level of `RUST_LOG` or `-v`; nothing by default.
fn start_logging(global: &args::Global) -> Result<(), Failure> {
    use tracing_subscriber::{EnvFilter, fmt};
    let level = match global.verbose {
        0 => "off",
        1 => "quorate=info,quorate_node=info",
        2 => "quorate=debug,quorate_node=debug,quorate_session=debug,quorate_path=debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = fmt().with_env_filter(filter).with_ansi(false);
    match &global.log_file {
        None => builder.with_writer(std::io::stderr).init(),
        Some(path) => {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|e| {
                    Failure::new(
                        quorate_identity::Code::Disk,
                        format!("{} cannot be opened: {e}", path.display()),
                    )
                })?;
            builder.with_writer(std::sync::Mutex::new(file)).init();
        }
    }
    Ok(())
}
