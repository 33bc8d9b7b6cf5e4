//! Bytes as a schedule of the simulator: who starts when, what breaks, who lies.

use quorate_sim::{Fault, FaultKind, Liar, Net, Schedule, run};

/// Numbers out of the input; zero when it is used up.
struct Numbers<'a>(std::slice::Iter<'a, u8>);

impl Numbers<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        let high = u64::from(self.0.next().copied().unwrap_or(0));
        let low = u64::from(self.0.next().copied().unwrap_or(0));
        (high << 8 | low) % bound
    }

    fn party(&mut self) -> u16 {
        u16::try_from(self.below(3)).unwrap_or(0)
    }
}

/// Runs the schedule that the input describes; no invariant may be violated.
pub fn schedule(data: &[u8]) {
    let mut numbers = Numbers(data.iter());
    let schedule = read(&mut numbers);
    let report = run(&schedule, &|_| {});
    assert!(
        report.violations.is_empty(),
        "{:?}\n{schedule:?}\n{}",
        report.violations,
        report.log.join("\n")
    );
}

fn read(numbers: &mut Numbers<'_>) -> Schedule {
    let mut schedule = Schedule::calm(numbers.below(1 << 16), 3);
    schedule.net = Net {
        min_delay_ms: 1,
        max_delay_ms: 1 + numbers.below(400),
        ordered: numbers.below(2) == 0,
        loss_per_mille: numbers.below(200),
        duplicate_per_mille: numbers.below(200),
    };
    for start in &mut schedule.start_ms {
        *start = numbers.below(30_000);
    }
    for skew in &mut schedule.skew_seconds {
        *skew = i64::try_from(numbers.below(21)).unwrap_or(0) - 10;
    }
    schedule.program_ms = 200 + numbers.below(6000);
    let faults = numbers.below(5);
    schedule.faults = (0..faults).map(|_| fault(numbers)).collect();
    schedule.liar = liar(numbers);
    schedule
}

fn fault(numbers: &mut Numbers<'_>) -> Fault {
    let party = numbers.party();
    let at_ms = numbers.below(60_000);
    let heal_ms = at_ms + 100 + numbers.below(25_000);
    let what = match numbers.below(8) {
        0 => FaultKind::Partition { party },
        1 => FaultKind::Crash {
            party,
            lose_record: false,
        },
        2 => FaultKind::Crash {
            party,
            lose_record: true,
        },
        3 => FaultKind::DiskFull { party },
        4 => FaultKind::SlowDisk { party },
        5 => FaultKind::TunnelsBreak,
        6 => FaultKind::ProgramFails { party },
        _ => FaultKind::NeverStarts { party },
    };
    Fault {
        at_ms,
        heal_ms,
        what,
    }
}

fn liar(numbers: &mut Numbers<'_>) -> Option<Liar> {
    let party = numbers.party();
    match numbers.below(8) {
        0 => Some(Liar::TwoInvitations),
        1 => Some(Liar::Twins {
            party,
            same_epoch: true,
        }),
        2 => Some(Liar::Twins {
            party,
            same_epoch: false,
        }),
        3 => Some(Liar::Outsider),
        4 => Some(Liar::Flooder { party }),
        5 => Some(Liar::ReadyGossip { party }),
        _ => None,
    }
}
