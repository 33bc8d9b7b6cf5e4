//! Each invariant sees a deliberately broken session; the same schedule with a sound session is clean.
#![allow(clippy::unwrap_used, clippy::panic)]

use quorate_session::{Session, Weakness};
use quorate_sim::{Fault, FaultKind, Invariant, Liar, Schedule, load, minimise, run, save};

fn weakened(weakness: Weakness) -> impl Fn(&mut Session) {
    move |session| session.weaken(weakness)
}

/// Runs variants of a schedule until the broken session violates `invariant`; the sound one never may.
fn caught(
    weakness: Weakness,
    invariant: Invariant,
    schedules: impl Iterator<Item = Schedule>,
) -> Schedule {
    for schedule in schedules {
        let sound = run(&schedule, &|_| {});
        assert_eq!(sound.violations, [], "{schedule:?}");
        let broken = run(&schedule, &weakened(weakness));
        if broken
            .violations
            .iter()
            .any(|violation| violation.invariant == invariant)
        {
            return schedule;
        }
    }
    panic!("{weakness:?} was not caught by {invariant:?}");
}

fn with(seed: u64, faults: &[Fault], liar: Option<Liar>) -> Schedule {
    Schedule {
        faults: faults.to_vec(),
        liar,
        program_ms: 20_000,
        ..Schedule::calm(seed, 3)
    }
}

fn crash(at_ms: u64, heal_ms: u64) -> Fault {
    Fault {
        at_ms,
        heal_ms,
        what: FaultKind::Crash {
            party: 2,
            lose_record: false,
        },
    }
}

#[test]
fn i1_one_roster_sees_an_old_mesh_that_is_kept() {
    let schedules = (0..20).map(|seed| with(seed, &[crash(6000, 7000)], None));
    caught(Weakness::KeepOldRoster, Invariant::OneRoster, schedules);
}

#[test]
fn i2_only_roster_keys_sees_keys_that_are_kept() {
    let schedules = (0..20).map(|seed| with(seed, &[crash(6000, 7000)], None));
    caught(
        Weakness::KeepOldRoster,
        Invariant::OnlyRosterKeys,
        schedules,
    );
}

#[test]
fn i3_barrier_sees_an_install_without_confirms() {
    let twins = Liar::Twins {
        party: 2,
        same_epoch: false,
    };
    let schedules = (0..20).map(|seed| with(seed, &[], Some(twins.clone())));
    caught(Weakness::SkipConfirmBarrier, Invariant::Barrier, schedules);
}

#[test]
fn i3_barrier_sees_a_confirm_that_was_sent_before_it_was_stored() {
    let slow = Fault {
        at_ms: 100,
        heal_ms: 20_000,
        what: FaultKind::SlowDisk { party: 1 },
    };
    let schedules = (0..20).map(|seed| with(seed, std::slice::from_ref(&slow), None));
    caught(Weakness::SkipPersist, Invariant::Barrier, schedules);
}

#[test]
fn i3_barrier_sees_a_start_on_a_ready_from_outside_the_tunnel() {
    // A ready that takes two short ways overtakes one that takes a long one.
    let gossip = Liar::ReadyGossip { party: 2 };
    let schedules = (0..60).map(|seed| {
        let mut schedule = with(seed, &[], Some(gossip.clone()));
        schedule.net.max_delay_ms = 400;
        schedule
    });
    caught(
        Weakness::AcceptReadyFromOverlay,
        Invariant::Barrier,
        schedules,
    );
}

#[test]
fn i5_progress_sees_a_party_that_waits_for_ever() {
    let never = Fault {
        at_ms: 0,
        heal_ms: 1,
        what: FaultKind::NeverStarts { party: 1 },
    };
    caught(
        Weakness::NoTimeout,
        Invariant::Progress,
        std::iter::once(with(1, &[never], None)),
    );
}

#[test]
fn i6_one_seed_gives_one_trace_unless_a_hash_map_decides() {
    for seed in 0..30 {
        let schedule = Schedule::random(seed);
        let (first, second) = (run(&schedule, &|_| {}), run(&schedule, &|_| {}));
        assert_eq!(
            (first.hash, first.steps),
            (second.hash, second.steps),
            "seed {seed}"
        );
    }
    let schedule = Schedule::calm(5, 4);
    let hash = || run(&schedule, &weakened(Weakness::NondeterministicOrder)).hash;
    let first = hash();
    assert!(
        (0..20).any(|_| hash() != first),
        "the broken variant is not seen"
    );
}

#[test]
fn i7_bounds_see_a_member_whose_confirms_are_all_kept() {
    let schedule = with(1, &[], Some(Liar::Flooder { party: 2 }));
    caught(
        Weakness::LeakQueue,
        Invariant::Bounded,
        std::iter::once(schedule),
    );
}

#[test]
fn i8_no_alarm_sees_a_session_that_calls_the_possible_impossible() {
    let mut schedule = Schedule::calm(1, 3);
    schedule.net.duplicate_per_mille = 300;
    caught(
        Weakness::AlarmOnRepeat,
        Invariant::NoAlarm,
        std::iter::once(schedule),
    );
}

#[test]
fn a_failing_schedule_is_shrunk_saved_and_replays() {
    let noise = Fault {
        at_ms: 3000,
        heal_ms: 3500,
        what: FaultKind::TunnelsBreak,
    };
    let mut schedule = with(3, &[noise, crash(6000, 7000)], None);
    schedule.net.duplicate_per_mille = 50;
    let broken = weakened(Weakness::KeepOldRoster);
    let smallest = minimise(&schedule, &broken);
    assert_eq!(smallest.faults, [crash(6000, 7000)]);
    assert_eq!(smallest.net, Schedule::calm(3, 3).net);
    let folder = std::env::temp_dir().join(format!("quorate-sim-{}", std::process::id()));
    let path = save(&folder, &smallest).unwrap();
    let again = load(&path).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let (first, second) = (run(&smallest, &broken), run(&again, &broken));
    assert_eq!(first.hash, second.hash);
    assert_eq!(first.violations, second.violations);
    assert!(!first.violations.is_empty());
}
