//! The lab itself: its NATs, its lines, that it needs no root, and that nothing stays.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const LAB: &str = env!("CARGO_BIN_EXE_quorate-lab");
/// Exit code where the machine forbids something.
const CANNOT_RUN: i32 = 78;
/// Somebody without rights: the user `nobody`.
const NOBODY: &str = "65534";

/// Labs of this file run one after the other, but for those that mean to run beside another.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lab(words: &[&str]) -> Output {
    let output = Command::new(LAB).args(words).stdin(Stdio::null()).output();
    output.unwrap()
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_pair_of_nats_is_direct_or_relayed_as_the_table_says() {
    let _alone = alone();
    assert_done(&lab(&["oracle", "--delay-ms", "40", "--runs", "2"]));
}

#[test]
fn delays_losses_cuts_routers_and_moves_are_as_asked_for() {
    let _alone = alone();
    assert_done(&lab(&["measure"]));
}

#[test]
fn two_labs_run_side_by_side() {
    let _alone = alone();
    let start = || {
        Command::new(LAB)
            .args(["oracle", "--delay-ms", "20"])
            .stdout(Stdio::piped())
            .spawn()
    };
    let (one, other) = (start().unwrap(), start().unwrap());
    assert_done(&one.wait_with_output().unwrap());
    assert_done(&other.wait_with_output().unwrap());
}

#[test]
fn an_ordinary_user_runs_it_or_is_told_what_is_missing() {
    let _alone = alone();
    let root = fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap()
        == 0;
    if !root {
        return assert_done(&lab(&["oracle"]));
    }
    // The build folder of root is closed to others.
    let folder = Path::new("/tmp").join(format!("quorate-lab-test-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("quorate-lab");
    fs::copy(LAB, &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(&program)
        .arg("oracle")
        .current_dir("/")
        .output();
    fs::remove_dir_all(&folder).unwrap();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(CANNOT_RUN) {
        assert!(said.contains("sudo "), "no remedy is named: {said}");
        println!("not run as an ordinary user: {said}");
    } else {
        assert_done(&output);
    }
}

/// Processes that were started by this lab; the dead that nobody waited for have no environment.
fn of_lab(outside: u32) -> Vec<String> {
    let marker = format!("QUORATE_LAB_OUTSIDE={outside}");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let marked = processes.filter(|p| {
        let environment = fs::read(p.path().join("environ")).unwrap_or_default();
        environment
            .split(|b| *b == 0)
            .any(|v| v == marker.as_bytes())
    });
    marked
        .map(|p| p.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn kill_9_leaves_nothing() {
    let _alone = alone();
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    let interfaces = || {
        let text = fs::read_to_string("/proc/net/dev").unwrap();
        let names = text.lines().filter_map(|l| l.split_once(':'));
        names
            .map(|(name, _)| name.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let before = (mounts(), interfaces());
    let mut child = Command::new(LAB)
        .args(["oracle", "--runs", "1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("built in"), "{first}");
    assert!(
        !of_lab(child.id()).is_empty(),
        "the lab is not found while it runs"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !of_lab(child.id()).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", of_lab(child.id()));
        std::thread::yield_now();
    }
    assert_eq!((mounts(), interfaces()), before);
}

#[test]
fn every_scenario_of_the_tests_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lab");
    let files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let scenarios: Vec<_> = files
        .filter(|f| f.extension().is_some_and(|e| e == "toml"))
        .collect();
    assert!(scenarios.len() > 10, "{scenarios:?}");
    for file in scenarios {
        quorate_lab::scenario::Scenario::read(&file).unwrap();
    }
}
