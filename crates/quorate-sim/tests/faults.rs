//! Faults of the catalogue that need several parties, a network and time, named after their entries.
#![allow(clippy::unwrap_used, clippy::panic)]

use quorate_identity::Code;
use quorate_session::Outcome;
use quorate_sim::{Fault, FaultKind, Report, Schedule, run};

fn ran(program_ms: u64, faults: Vec<Fault>) -> Report {
    let report = run(
        &Schedule {
            faults,
            program_ms,
            ..Schedule::calm(11, 3)
        },
        &|_| {},
    );
    assert_eq!(report.violations, [], "{}", report.log.join("\n"));
    report
}

fn crash(party: u16, at_ms: u64, heal_ms: u64, lose_record: bool) -> Fault {
    Fault {
        at_ms,
        heal_ms,
        what: FaultKind::Crash { party, lose_record },
    }
}

fn assert_all_finished(report: &Report) {
    for outcome in &report.outcomes {
        let Some(Outcome::Finished { exits, .. }) = outcome else {
            panic!("{outcome:?}\n{}", report.log.join("\n"))
        };
        assert_eq!(*exits, [Some(0); 3]);
    }
}

fn codes(report: &Report) -> Vec<Code> {
    let code = |outcome: &Option<Outcome>| match outcome {
        Some(Outcome::Failed { code, .. }) => *code,
        other => panic!("{other:?}\n{}", report.log.join("\n")),
    };
    report.outcomes.iter().map(code).collect()
}

#[test]
fn f01_to_f05_a_party_that_crashes_at_any_moment_and_comes_back_finishes_with_the_others() {
    for at_ms in (50..6000).step_by(350) {
        for lose_record in [false, true] {
            assert_all_finished(&ran(
                15_000,
                vec![crash(1, at_ms, at_ms + 900, lose_record)],
            ));
        }
    }
}

#[test]
fn f02_a_party_that_dies_between_storing_and_confirming_takes_part_again() {
    let slow = Fault {
        at_ms: 0,
        heal_ms: 4000,
        what: FaultKind::SlowDisk { party: 2 },
    };
    assert_all_finished(&ran(2000, vec![slow, crash(2, 4030, 5000, false)]));
}

#[test]
fn f15_all_parties_that_crash_at_once_agree_on_one_new_roster() {
    for at_ms in [300, 1500, 4000] {
        let all =
            (0..3).map(|party| crash(party, at_ms, at_ms + 500 + u64::from(party) * 200, false));
        assert_all_finished(&ran(3000, all.collect()));
    }
}

#[test]
fn f16_a_partition_before_confirming_that_heals_in_time_only_delays() {
    let partition = |heal_ms| Fault {
        at_ms: 0,
        heal_ms,
        what: FaultKind::Partition { party: 1 },
    };
    assert_all_finished(&ran(2000, vec![partition(60_000)]));
    let report = ran(2000, vec![partition(120_000)]);
    assert_eq!(codes(&report), [Code::Missing; 3]);
}

#[test]
fn f17_a_partition_of_a_running_session_stops_everybody() {
    let partition = Fault {
        at_ms: 8000,
        heal_ms: 60_000,
        what: FaultKind::Partition { party: 1 },
    };
    let report = ran(40_000, vec![partition]);
    assert_eq!(codes(&report), [Code::PartyLeft; 3]);
}

#[test]
fn f25_a_short_partition_of_a_running_session_is_survived() {
    let partition = Fault {
        at_ms: 8000,
        heal_ms: 16_000,
        what: FaultKind::Partition { party: 1 },
    };
    assert_all_finished(&ran(30_000, vec![partition]));
}

#[test]
fn f22_loss_duplicates_and_reordering_of_a_fifth_only_delay() {
    for seed in 0..20 {
        let mut schedule = Schedule::calm(seed, 3);
        schedule.net.loss_per_mille = 200;
        schedule.net.duplicate_per_mille = 200;
        schedule.net.max_delay_ms = 400;
        schedule.net.ordered = false;
        let report = run(&schedule, &|_| {});
        assert_eq!(report.violations, []);
        assert_all_finished(&report);
    }
}
