//! `quorate doctor`: this machine and its network, each thing with its remedy.

mod with;

use std::{path::Path, process::ExitCode};

use quorate_identity::Code;
use quorate_node::{
    Finding, Verdict, doctor,
    files::{Home, write_new},
    overlay::{Scope, check_relay},
    program::python::Search,
};
use serde_json::{Value, json};

use crate::{
    args::{DoctorArgs, Global},
    command::{home, print_stdout},
    failure::Failure,
    findings,
    part::reach,
    report::schema,
    text,
};

pub fn run(global: &Global, args: DoctorArgs) -> Result<ExitCode, Failure> {
    let home = home(global)?;
    let relays = reach::named_or_kept(&args.relay, &home)?;
    for relay in &relays {
        check_relay(relay, Scope::Lan).map_err(|why| {
            let text = format!("{} is no relay's address: {why}", text::foreign(relay));
            Failure::new(Code::Usage, text)
        })?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    let python = Search::from_env(args.python);
    let mut found = runtime.block_on(look(&home, &python, &relays));
    // What is about a person stays out of the bundle.
    let report = document(&found);
    if let Some(path) = &args.bundle {
        write(path, &report)?;
    }
    if let Some(party) = &args.with {
        found.extend(with::party(&home, party));
    }
    if global.json {
        print_stdout(&document(&found).to_string());
    } else {
        for (n, relay) in relays.iter().enumerate() {
            text::say(text::row(
                &format!("relay {}", n + 1),
                &text::foreign(relay),
            ));
        }
        findings::say(&found);
        if let Some(path) = &args.bundle {
            text::say(text::row("written", &path.display().to_string()));
        }
    }
    Ok(ExitCode::from(exit_code(&found)))
}

async fn look(home: &Home, python: &Search, relays: &[String]) -> Vec<Finding> {
    let (mut found, network) = tokio::join!(doctor::machine(home, python), doctor::network(relays));
    found.extend(network);
    found
}

fn worst(found: &[Finding]) -> Verdict {
    let verdicts = found.iter().map(|f| f.verdict);
    verdicts.max().unwrap_or(Verdict::Ok)
}

/// The code of the first failure; warnings are no failure.
fn exit_code(found: &[Finding]) -> u8 {
    let failed = found.iter().find(|f| f.verdict == Verdict::Fail);
    failed.map_or(0, |f| match f.id {
        "python" => Code::NoPython.exit_code(),
        "clock" => Code::Clock.exit_code(),
        id if doctor::NETWORK.contains(&id) || id == "with" => Code::NoPath.exit_code(),
        _ => Code::State.exit_code(),
    })
}

fn document(found: &[Finding]) -> Value {
    let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    let all: Vec<Value> = found.iter().map(findings::document).collect();
    json!({"schema": schema("doctor"), "version": env!("CARGO_PKG_VERSION"), "system": system,
        "worst": worst(found).as_str(), "findings": all})
}

fn write(path: &Path, report: &Value) -> Result<(), Failure> {
    let text = format!("{report:#}\n");
    if write_new(path, text.as_bytes())? {
        return Ok(());
    }
    let text = format!("{} is there already", path.display());
    Err(Failure::new(Code::Disk, text).hint("choose another name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_what_failed() {
        let warn = Finding::warn("nat", "a", "b");
        assert_eq!(exit_code(std::slice::from_ref(&warn)), 0);
        assert_eq!(worst(&[Finding::ok("tcp", "a"), warn]), Verdict::Warn);
        for (id, code) in [("relay", 71), ("python", 76), ("folders", 76)] {
            assert_eq!(exit_code(&[Finding::fail(id, "a", "b")]), code);
        }
    }
}
