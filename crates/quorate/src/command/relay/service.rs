//! `quorate relay install-service`.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::ExitCode};

use clap::Parser as _;
use quorate_identity::Code;
use quorate_node::relay::{DEFAULT_UNIT_PATH, SERVICE, UnitOptions, unit};

use crate::{
    args::{Args, Command, Global, RelayAction, RelayArgs, RelayRunArgs},
    command::print_stdout,
    failure::Failure,
    text,
};

/// Ports below need a capability.
const FIRST_FREE_PORT: u16 = 1024;

pub fn run(global: &Global, write: Option<&Path>, run: &[String]) -> Result<ExitCode, Failure> {
    let args = understood(run)?;
    let binary = std::env::current_exe()
        .map_err(|e| Failure::new(Code::Internal, format!("where am I? {e}")))?;
    let text = unit(&UnitOptions {
        binary: &binary,
        arguments: run,
        low_port: needs_low_port(&args),
        drain_seconds: args.drain.as_secs(),
        memory_bytes: super::run::limits(&args).memory_bytes(),
    });
    let Some(path) = write else {
        print_stdout(text.trim_end());
        return Ok(ExitCode::SUCCESS);
    };
    let cannot = |e: std::io::Error| {
        Failure::new(
            Code::Disk,
            format!("{} cannot be written: {e}", path.display()),
        )
        .hint(format!(
            "sudo quorate relay install-service --write {}",
            path.display()
        ))
    };
    std::fs::write(path, text).map_err(cannot)?;
    // A unit is public; systemd complains about others.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(cannot)?;
    if !global.quiet {
        text::say(text::row("written", &path.display().to_string()));
        if path == Path::new(DEFAULT_UNIT_PATH) {
            let next = format!("systemctl daemon-reload && systemctl enable --now {SERVICE}");
            text::say(text::row("next", &next));
            let next = format!("journalctl -u {SERVICE}   shows the addresses to give to users");
            text::say(text::row("then", &next));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The options as `relay run` will understand them.
fn understood(run: &[String]) -> Result<RelayRunArgs, Failure> {
    let line = ["quorate", "relay", "run"].map(str::to_owned);
    let parsed = Args::try_parse_from(line.iter().chain(run)).map_err(|e| {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default();
        let first = first.trim_start_matches("error: ").to_owned();
        Failure::new(Code::Usage, first).hint("see quorate relay run --help")
    })?;
    match parsed.command {
        Some(Command::Relay(RelayArgs {
            action: RelayAction::Run(args),
        })) => Ok(*args),
        _ => Err(Failure::new(
            Code::Usage,
            "these are not options of relay run",
        )),
    }
}

fn needs_low_port(args: &RelayRunArgs) -> bool {
    let low = |port: u16| port > 0 && port < FIRST_FREE_PORT;
    let listened = args.listen.iter().filter_map(|text| {
        let port = text.parse().ok();
        port.or_else(|| Some(quorate_node::relay::listen_at(text).ok()?.1))
    });
    low(args.port) || listened.chain(args.stun.into_iter().flatten()).any(low)
}
