//! `quorate demo`, as a newcomer runs it.

use std::{fs, process::Command};

use crate::world::{Ended, QUORATE, output, program, python};

fn demo(home: &std::path::Path, args: &[&str]) -> Ended {
    let mut command = Command::new(QUORATE);
    command
        .arg("--home")
        .arg(home)
        .arg("demo")
        .args(args)
        .env_remove("QUORATE_HOME");
    output(command)
}

fn assert_nothing_left(home: &std::path::Path) {
    let mark = home.to_string_lossy().into_owned();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        assert!(own || !line.contains(&mark), "still running: {line}");
    }
    for name in fs::read_dir(home).unwrap().flatten().map(|e| e.file_name()) {
        assert!(
            ["data", "run"].iter().any(|n| name == *n),
            "left: {}",
            name.display()
        );
    }
    assert_eq!(
        fs::read_dir(home.join("run")).unwrap().count(),
        0,
        "a run folder is left"
    );
    for name in fs::read_dir(home.join("data"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
    {
        assert_eq!(name, "python", "left in the data folder");
    }
}

/// A permutation without a fixed point, as the program prints it: `4 [3, 0, 1, 2]`.
fn is_derangement(line: &str) -> bool {
    let Some((n, list)) = line.split_once(' ') else {
        return false;
    };
    let Ok(n) = n.parse::<usize>() else {
        return false;
    };
    let list: Vec<usize> = list
        .trim_matches(['[', ']'])
        .split(", ")
        .filter_map(|x| x.parse().ok())
        .collect();
    let mut sorted = list.clone();
    sorted.sort_unstable();
    sorted == (0..n).collect::<Vec<_>>() && list.iter().enumerate().all(|(i, x)| i != *x)
}

#[test]
fn three_parties_draw_lots_and_leave_nothing() {
    let home = tempfile::tempdir().unwrap();
    let ended = demo(home.path(), &[]);
    ended.assert_done();
    let dids: std::collections::BTreeSet<_> = ended
        .stderr
        .split_whitespace()
        .filter(|w| w.starts_with("did:key:z6Mk"))
        .collect();
    assert_eq!(dids.len(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("verified 3/3"), "{}", ended.stderr);
    assert!(ended.stderr.contains("receipts 3/3"), "{}", ended.stderr);
    let mesh = ended
        .stderr
        .lines()
        .find(|l| l.trim_start().starts_with("mesh"))
        .expect("the mesh is shown");
    for pair in ["alba–bo", "alba–cleo", "bo–cleo"] {
        let rtt = mesh
            .split(pair)
            .nth(1)
            .and_then(|r| r.split_whitespace().next())
            .expect(pair);
        assert!(rtt.parse::<f64>().is_ok_and(|ms| ms > 0.0), "{mesh}");
    }
    let lots: Vec<_> = ended.stdout.lines().filter(|l| l.contains('[')).collect();
    assert_eq!(lots.len(), 3, "{}", ended.stdout);
    assert!(lots.iter().all(|l| is_derangement(l)), "{lots:?}");
    assert_nothing_left(home.path());
}

#[test]
fn other_programs_give_the_results_of_their_data() {
    let home = tempfile::tempdir().unwrap();
    let python = python();
    let python = python.to_str().unwrap();
    let income = demo(home.path(), &["mean-income", "--python", python]);
    income.assert_done();
    assert!(
        income
            .stdout
            .contains("people 19\nmean income 2026: 31575\n"),
        "{}",
        income.stdout
    );
    let vote = demo(home.path(), &["vote", "-m", "5", "--python", python]);
    vote.assert_done();
    assert!(vote.stdout.contains("yes 3, no 2"), "{}", vote.stdout);
    assert!(vote.stderr.contains("receipts 5/5"), "{}", vote.stderr);
}

#[test]
fn a_program_that_fails_is_named_with_what_it_said_and_cleaned_up() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("broken.py");
    fs::write(
        &file,
        "import sys\nsys.exit('no such thing as a free lunch')\n",
    )
    .unwrap();
    let ended = demo(
        home.path(),
        &[
            file.to_str().unwrap(),
            "--python",
            python().to_str().unwrap(),
        ],
    );
    ended.assert_refused("E_PROGRAM_FAILED", 75);
    assert!(ended.stderr.contains("free lunch"), "{}", ended.stderr);
    fs::remove_file(file).unwrap();
    assert_nothing_left(home.path());
}

#[test]
fn a_file_of_the_user_runs_too() {
    let home = tempfile::tempdir().unwrap();
    let slow = program("slow.py");
    let ended = demo(
        home.path(),
        &[
            slow.to_str().unwrap(),
            "--python",
            python().to_str().unwrap(),
            "--",
            "3",
        ],
    );
    ended.assert_done();
    assert!(ended.stdout.contains("total 6"), "{}", ended.stdout);
}
