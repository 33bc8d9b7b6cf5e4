//! Random schedules: whatever happens to honest parties, the invariants hold.
#![allow(clippy::unwrap_used, clippy::panic)]

use quorate_identity::Code;
use quorate_session::Outcome;
use quorate_sim::{Schedule, failures_folder, minimise, run, save};
use std::collections::BTreeSet;

/// Schedules per test; four tests of them, so that two cores are busy.
const SCHEDULES: u64 = 550;

fn hold(first: u64) {
    let (mut finished, mut failed) = (0, BTreeSet::new());
    for seed in first..first + SCHEDULES {
        let schedule = Schedule::random(seed);
        let report = run(&schedule, &|_| {});
        if !report.violations.is_empty() {
            let smallest = minimise(&schedule, &|_| {});
            let path = save(&failures_folder(), &smallest).unwrap();
            let log = run(&smallest, &|_| {}).log.join("\n");
            panic!(
                "seed {seed}: {:?}\nsaved as {}\n{log}",
                report.violations,
                path.display()
            );
        }
        for outcome in report.outcomes.into_iter().flatten() {
            match outcome {
                Outcome::Finished { .. } => finished += 1,
                Outcome::Failed { code, .. } => {
                    failed.insert(code);
                }
            }
        }
    }
    // Otherwise the schedules would be too kind, or too cruel, to show anything.
    assert!(finished > SCHEDULES, "{finished} parties finished");
    let reached = [
        Code::Missing,
        Code::Equivocation,
        Code::Split,
        Code::PartyLeft,
        Code::Disk,
    ];
    for code in reached {
        assert!(failed.contains(&code), "{code} never happened: {failed:?}");
    }
}

#[test]
fn the_invariants_hold_in_the_first_quarter() {
    hold(0);
}

#[test]
fn the_invariants_hold_in_the_second_quarter() {
    hold(10_000);
}

#[test]
fn the_invariants_hold_in_the_third_quarter() {
    hold(20_000);
}

#[test]
fn the_invariants_hold_in_the_fourth_quarter() {
    hold(30_000);
}
