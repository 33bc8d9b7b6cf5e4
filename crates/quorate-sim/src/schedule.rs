//! Schedules: everything that decides a run, as data that can be generated, shrunk, saved and replayed.

use crate::world::run;
use chacha20::ChaCha20Rng;
use quorate_session::Session;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Everything that decides a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Seed of every random choice inside the run.
    pub seed: u64,
    /// Number of parties.
    pub parties: u16,
    /// How overlay links behave.
    pub net: Net,
    /// When each party starts, in milliseconds.
    pub start_ms: Vec<u64>,
    /// How far each party's wall clock is off, in seconds.
    pub skew_seconds: Vec<i64>,
    /// How long the program runs, in milliseconds.
    pub program_ms: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Who lies.
    pub liar: Option<Liar>,
}

/// How overlay links behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Shortest delay of a frame, in milliseconds.
    pub min_delay_ms: u64,
    /// Longest delay of a frame, in milliseconds.
    pub max_delay_ms: u64,
    /// Frames keep their order.
    pub ordered: bool,
    /// Frames lost, per thousand.
    pub loss_per_mille: u64,
    /// Frames delivered twice, per thousand.
    pub duplicate_per_mille: u64,
}

/// Something that goes wrong and is healed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// When it is healed, in milliseconds.
    pub heal_ms: u64,
    /// What.
    pub what: FaultKind,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FaultKind {
    /// This party is cut off from all others.
    Partition {
        /// Which.
        party: u16,
    },
    /// It dies, and starts again when healed.
    Crash {
        /// Which.
        party: u16,
        /// Its record is lost too.
        lose_record: bool,
    },
    /// It cannot store.
    DiskFull {
        /// Which.
        party: u16,
    },
    /// Storing takes until the fault is healed.
    SlowDisk {
        /// Which.
        party: u16,
    },
    /// Control streams inside the tunnels break once.
    TunnelsBreak,
    /// Its program fails, if it runs then.
    ProgramFails {
        /// Which.
        party: u16,
    },
    /// It never starts.
    NeverStarts {
        /// Which.
        party: u16,
    },
}

/// Who lies, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Liar {
    /// The organizer gives half of the parties another invitation with the same session id.
    TwoInvitations,
    /// A member joins twice at once and shows each half of the others one face, so that it confirms two rosters.
    Twins {
        /// Which.
        party: u16,
        /// Both joins carry one epoch.
        same_epoch: bool,
    },
    /// Somebody with the bundle, who is not listed.
    Outsider,
    /// A member signs confirms without end.
    Flooder {
        /// Which.
        party: u16,
    },
    /// A member hands readies, which it got in its tunnels, to others outside of them.
    ReadyGossip {
        /// Which.
        party: u16,
    },
}

fn below(rng: &mut ChaCha20Rng, bound: u64) -> u64 {
    rng.next_u64() % bound
}

fn chance(rng: &mut ChaCha20Rng, percent: u64) -> bool {
    below(rng, 100) < percent
}

impl Schedule {
    /// A calm run: nothing goes wrong, nobody lies.
    pub fn calm(seed: u64, parties: u16) -> Self {
        let count = usize::from(parties);
        Self {
            seed,
            parties,
            net: Net {
                min_delay_ms: 1,
                max_delay_ms: 20,
                ordered: true,
                loss_per_mille: 0,
                duplicate_per_mille: 0,
            },
            start_ms: vec![0; count],
            skew_seconds: vec![0; count],
            program_ms: 2000,
            faults: Vec::new(),
            liar: None,
        }
    }

    /// A random schedule.
    pub fn random(seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let rng = &mut rng;
        let parties = if chance(rng, 80) { 3 } else { 4 };
        let mut schedule = Self::calm(seed, parties);
        let max_delay_ms = [5, 50, 400][usize::try_from(below(rng, 3)).unwrap_or(0)];
        schedule.net = Net {
            min_delay_ms: 1,
            max_delay_ms,
            ordered: chance(rng, 60),
            loss_per_mille: if chance(rng, 50) { below(rng, 200) } else { 0 },
            duplicate_per_mille: if chance(rng, 50) { below(rng, 200) } else { 0 },
        };
        for start in &mut schedule.start_ms {
            *start = if chance(rng, 30) {
                below(rng, 30_000)
            } else {
                below(rng, 500)
            };
        }
        for skew in &mut schedule.skew_seconds {
            *skew = i64::try_from(below(rng, 21)).unwrap_or(0) - 10;
        }
        schedule.program_ms = 200 + below(rng, 6000);
        for _ in 0..below(rng, 4) {
            schedule.faults.push(random_fault(rng, parties));
        }
        if chance(rng, 35) {
            schedule.liar = Some(random_liar(rng, parties));
        }
        schedule
    }

    /// Whether every party has to finish.
    pub fn must_finish(&self) -> bool {
        self.faults
            .iter()
            .all(|fault| fault.what == FaultKind::TunnelsBreak)
            && self
                .liar
                .as_ref()
                .is_none_or(|liar| *liar == Liar::Outsider)
    }
}

fn random_fault(rng: &mut ChaCha20Rng, parties: u16) -> Fault {
    let party = u16::try_from(below(rng, u64::from(parties))).unwrap_or(0);
    let at_ms = if chance(rng, 70) {
        below(rng, 8000)
    } else {
        below(rng, 60_000)
    };
    let what = match below(rng, 12) {
        0..=1 => FaultKind::Partition { party },
        2..=5 => FaultKind::Crash {
            party,
            lose_record: chance(rng, 40),
        },
        6 => FaultKind::DiskFull { party },
        7..=8 => FaultKind::SlowDisk { party },
        9 => FaultKind::TunnelsBreak,
        10 => FaultKind::ProgramFails { party },
        _ => FaultKind::NeverStarts { party },
    };
    Fault {
        at_ms,
        heal_ms: at_ms + 100 + below(rng, 25_000),
        what,
    }
}

fn random_liar(rng: &mut ChaCha20Rng, parties: u16) -> Liar {
    let party = u16::try_from(below(rng, u64::from(parties))).unwrap_or(0);
    match below(rng, 6) {
        0 => Liar::TwoInvitations,
        1..=2 => Liar::Twins {
            party,
            same_epoch: chance(rng, 50),
        },
        3 => Liar::Outsider,
        4 => Liar::Flooder { party },
        _ => Liar::ReadyGossip { party },
    }
}

/// Takes away, one by one, what the violation does not need.
pub fn minimise(schedule: &Schedule, prepare: &dyn Fn(&mut Session)) -> Schedule {
    let fails = |candidate: &Schedule| !run(candidate, prepare).violations.is_empty();
    let mut smallest = schedule.clone();
    let mut index = 0;
    while index < smallest.faults.len() {
        let mut candidate = smallest.clone();
        candidate.faults.remove(index);
        if fails(&candidate) {
            smallest = candidate;
        } else {
            index += 1;
        }
    }
    let calm = Schedule::calm(smallest.seed, smallest.parties);
    let simpler: [fn(&mut Schedule, &Schedule); 4] = [
        |schedule, _| schedule.liar = None,
        |schedule, calm| schedule.net = calm.net,
        |schedule, calm| schedule.start_ms.clone_from(&calm.start_ms),
        |schedule, calm| schedule.skew_seconds.clone_from(&calm.skew_seconds),
    ];
    for simplify in simpler {
        let mut candidate = smallest.clone();
        simplify(&mut candidate, &calm);
        if fails(&candidate) {
            smallest = candidate;
        }
    }
    smallest
}

/// Where failing schedules are kept.
pub fn failures_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/failures")
}

/// Saves a schedule under its seed; the path.
pub fn save(folder: &Path, schedule: &Schedule) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("schedule-{}.json", schedule.seed));
    fs::write(&path, serde_json::to_vec_pretty(schedule)?)?;
    Ok(path)
}

/// Reads a saved schedule.
pub fn load(path: &Path) -> io::Result<Schedule> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
