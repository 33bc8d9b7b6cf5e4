//! The sections about networks measure what they say, seen on small numbers; no time is judged.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// Labs and relays share the machine with as few others as possible.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The tables of one section.
#[track_caller]
fn tables(words: &[&str]) -> Vec<Value> {
    let bench = Path::new(env!("CARGO_BIN_EXE_quorate-bench"));
    let quorate = bench.with_file_name("quorate");
    assert!(
        quorate.is_file(),
        "there is no {}: cargo build --workspace --bins",
        quorate.display()
    );
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(bench)
        .args(["--quick", "--json"])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    drop(turn);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {stderr}");
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::from_value(report["tables"].take()).unwrap()
}

fn number(row: &Value, column: &str) -> f64 {
    let found = row[column].as_f64();
    found.unwrap_or_else(|| panic!("no `{column}` in {row}"))
}

#[test]
fn a_relay_carries_what_is_sent_and_its_memory_and_time_are_read() {
    let tables = tables(&["relay", "--circuits", "12"]);
    let memory = tables[0]["rows"].as_array().unwrap();
    assert_eq!(memory.len(), 2, "QUIC and TCP");
    for row in memory {
        assert_eq!(row["circuits"], 12.0);
        assert_eq!(row["parties"], 6.0);
        assert!(number(row, "idle MB") > number(row, "fresh MB"), "{row}");
    }
    let speed = tables[1]["rows"].as_array().unwrap();
    assert_eq!(speed.len(), 4, "one circuit and all, for each");
    assert!(speed.iter().all(|row| number(row, "Mbit/s") > 0.0));
}

#[test]
fn each_pair_is_timed_from_join_to_its_final_path() {
    let tables = tables(&["paths"]);
    let rows = tables[0]["rows"].as_array().unwrap();
    let last: Vec<_> = rows.iter().map(|r| &r["final path"]).collect();
    // A busy machine may be given up before the first pair is direct; the second never is.
    assert!(["direct", "relayed"].contains(&last[0].as_str().unwrap()));
    assert_eq!(last[1], "relayed", "{rows:?}");
    for row in rows {
        let steps = ["joined RTT", "keyed RTT", "first path RTT"];
        let times = steps.map(|s| number(row, s));
        assert!(times.is_sorted() && times[0] > 1.0, "{row}");
        assert!(number(row, "final path RTT") >= times[2], "{row}");
    }
}

#[test]
fn a_program_is_timed_at_a_distance_with_and_without_quorate() {
    let tables = tables(&["distances"]);
    let rows = tables[0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert!(number(&rows[0], "plain ms") >= 10.0, "{rows:?}");
}
