//! `cargo xtask test`: sets up what the checks need and passes every one of them.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a tool for developers talks to them

mod fuzz;
mod generate;
mod invariants;
mod setup;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

const HELP: &str = "\
cargo xtask COMMAND

  test         set up and run everything below; what CI runs
  setup        install what the checks need
  lint         formatting, clippy, documentation, licences, architecture
  unit         all tests of the workspace
  interop      compare with other DID implementations (its own lock file)
  invariants   the architecture's invariants alone
  vectors      make schemas/v1/vectors again from its fixed seeds
  fuzz NAME S  search with libFuzzer for S seconds (60), in one target or, without a name, in each
  codes        write the table of refusal codes into docs/protocol.md";

type Step = (&'static str, fn(&Path) -> Result<(), String>);

const LINT: &[Step] = &[
    ("formatting", format),
    ("clippy", clippy),
    ("architecture", invariants::check),
    ("documentation", documentation),
    ("licences and sources", deny),
];
const UNIT: &[Step] = &[("tests", unit)];
const INTEROP: &[Step] = &[("interoperability", interop)];
const SETUP: &[Step] = &[("set-up", setup::run)];

fn main() -> ExitCode {
    let root = root();
    let steps: Vec<Step> = match env::args().nth(1).as_deref() {
        Some("test") => [SETUP, LINT, UNIT, INTEROP].concat(),
        Some("setup") => SETUP.to_vec(),
        Some("lint") => LINT.to_vec(),
        Some("unit") => UNIT.to_vec(),
        Some("interop") => INTEROP.to_vec(),
        Some("invariants") => vec![("architecture", invariants::check)],
        Some("vectors") => vec![("vectors", generate::vectors)],
        Some("fuzz") => vec![("fuzzing", fuzz::run)],
        Some("codes") => vec![("codes", generate::codes)],
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    let mut failed = 0;
    let mut passed = 0;
    for (name, step) in steps {
        println!("== {name}");
        let start = Instant::now();
        match step(&root) {
            Ok(()) => {
                passed += 1;
                println!("== {name}: ok in {} s", start.elapsed().as_secs());
            }
            Err(why) => {
                failed += 1;
                println!("== {name}: FAILED: {why}");
                // Later steps build on the first; the rest are worth seeing all at once.
                if name == "set-up" {
                    break;
                }
            }
        }
    }
    println!("checks: {passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The workspace's folder. Cargo tells it at run time; what was compiled in may be the folder of
/// another clone that shares the build cache.
fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package
        .join("../..")
        .canonicalize()
        .expect("the package lies in its workspace")
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

fn format(root: &Path) -> Result<(), String> {
    run(cargo(root).args(["fmt", "--all", "--check"]))
}

fn clippy(root: &Path) -> Result<(), String> {
    run(cargo(root).args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

fn documentation(root: &Path) -> Result<(), String> {
    run(cargo(root).env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--quiet",
    ]))
}

fn deny(root: &Path) -> Result<(), String> {
    let deny = setup::cargo_deny().ok_or("cargo-deny is missing; run `cargo xtask setup`")?;
    run(Command::new(deny).current_dir(root).args([
        "--locked",
        "--log-level",
        "error",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}

fn unit(root: &Path) -> Result<(), String> {
    run(cargo(root).args(["test", "--locked", "--workspace", "--no-fail-fast"]))
}

fn interop(root: &Path) -> Result<(), String> {
    run(cargo(root).args([
        "test",
        "--locked",
        "--manifest-path",
        "tests/interop/Cargo.toml",
    ]))
}

/// Runs a command to its end, its output on ours.
/// Where programs are looked for: also in the administrators' folders, which are not on every user's path. What makes
/// networks is there, and needs no administrator inside a namespace of one's own.
fn path() -> OsString {
    let own = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&own).collect();
    for more in ["/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !folders.contains(&more) {
            folders.push(more);
        }
    }
    env::join_paths(folders).unwrap_or(own)
}

fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let status = command
        .env("PATH", path())
        .stdin(Stdio::null())
        .status()
        .map_err(|e| format!("{shown}: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{shown}: {status}"))
    }
}
