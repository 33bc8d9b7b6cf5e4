//! `quorate clean`: find and remove what killed commands left.

use std::process::ExitCode;

use quorate_identity::Code;
use quorate_node::files::{Kind, Leftover, leftovers};
use serde_json::json;

use crate::{
    args::{CleanArgs, Global},
    command::{home, print_stdout},
    failure::Failure,
    invitation::now,
    report::schema,
    text,
};

/// Exit code of `--dry-run` when there is something.
const SOMETHING_LEFT: u8 = 1;

pub fn run(global: &Global, args: &CleanArgs) -> Result<ExitCode, Failure> {
    let found = leftovers(&home(global)?, args.all, now())?;
    let mut left = Vec::new();
    let mut reports = Vec::new();
    for thing in &found {
        let removed = if args.dry_run {
            Ok(false)
        } else {
            thing.remove()
        };
        let (word, why) = match &removed {
            Ok(true) => ("removed", String::new()),
            Ok(false) if args.dry_run => ("found", String::new()),
            Ok(false) => ("in use", String::new()),
            Err(fault) => ("kept", format!("   {fault}")),
        };
        reports.push(json!({"kind": thing.kind, "path": thing.path, "process": thing.process, "removed": matches!(removed, Ok(true))}));
        if !global.json && !global.quiet {
            text::say(text::row(
                word,
                &format!("{}{}", line(thing), text::foreign(&why)),
            ));
        }
        if removed.is_err() {
            left.push(line(thing));
        }
    }
    if global.json {
        print_stdout(
            &json!({"schema": schema("clean"), "dry_run": args.dry_run, "found": reports})
                .to_string(),
        );
    } else if !global.quiet && found.is_empty() {
        text::say(text::row(
            "clean",
            "nothing is left of commands that were killed",
        ));
    }
    if !left.is_empty() {
        return Err(Failure::new(
            Code::Disk,
            format!("{} of {} could not be removed", left.len(), found.len()),
        )
        .note("left", left.join(", "))
        .hint("make the folders writable, then run it again"));
    }
    Ok(ExitCode::from(if args.dry_run && !found.is_empty() {
        SOMETHING_LEFT
    } else {
        0
    }))
}

fn line(thing: &Leftover) -> String {
    let what = match thing.kind {
        Kind::RunFolder => "folder of a killed command",
        Kind::Process => "program without its quorate",
        Kind::Lock => "lock of a session that left no record",
        Kind::HalfWritten => "file that was being written",
        Kind::OldRecord => "record of a session that is long over",
        Kind::Issued => "invitation that has ended",
        Kind::Damaged => "damaged record, put aside",
        Kind::Ended => "how a session ended",
        Kind::Log => "log of a detached session",
    };
    let process = thing
        .process
        .map_or(String::new(), |number| format!("process {number}  "));
    let path = thing.path.as_ref().map_or(String::new(), |path| {
        text::foreign(&path.display().to_string())
    });
    format!("{what}   {process}{path}")
}
