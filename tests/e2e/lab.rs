//! Sessions on the networks of `quorate-lab`: NATs, firewalls, distances, and what goes wrong there.
//!
//! What happens and how it has to end stands in `tests/lab/*.toml`; a test plays one file. Play it by
//! hand with `cargo run -p quorate-lab -- run tests/lab/FILE.toml`, add `--keep` to look inside.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use crate::world::{QUORATE, python};

/// Scenarios have deadlines, so they share the machine with as few others as possible.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The lab's program lies beside the one under test.
fn program() -> PathBuf {
    let lab = Path::new(QUORATE).with_file_name("quorate-lab");
    assert!(
        lab.is_file(),
        "there is no {}: cargo build --workspace --bins",
        lab.display()
    );
    lab
}

#[track_caller]
fn assert_done(words: &[&str]) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let failures = std::env::temp_dir().join("quorate-lab-failures");
    let ended = Command::new(program())
        .args(words)
        .args(["--quorate", QUORATE, "--python"])
        .arg(python())
        .arg("--out")
        .arg(failures)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    drop(turn);
    assert!(
        ended.status.success(),
        "{}\n{}\n{}",
        ended.status,
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

#[track_caller]
fn assert_plays(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/lab/{name}.toml"));
    assert_done(&["run", file.to_str().unwrap()]);
}

#[test]
fn three_machines_on_one_lan_of_the_lab() {
    assert_plays("lan");
}

#[test]
fn a_relay_is_reached_from_behind_every_firewall() {
    assert_plays("relay");
}
