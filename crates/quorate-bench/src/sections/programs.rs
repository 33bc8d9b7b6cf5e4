//! Whole programs: by three quorate parties, and by plain MPyC over loopback TCP.
//!
//! The two take turns, so that what else the machine does hits both. Programs that draw at random
//! do more or less work from run to run; they are compared by time per byte sent.

use std::{path::PathBuf, time::Duration};

use quorate_bench::{
    Outcome, plain,
    sample::{millis, percentile},
    table::{Aim, Cell, Table},
    world::{Computation, Seen, Until, World},
};
use quorate_node::program::{Builtin, PythonRuntime};

const PARTIES: usize = 3;
/// How much longer `secretsanta 8` may take.
const AIM_RATIO: f64 = 1.15;

pub struct Options {
    pub python: PythonRuntime,
    pub runs: usize,
    /// Only the programs whose names begin with this.
    pub only: String,
}

struct Case {
    name: &'static str,
    source: &'static str,
    args: &'static [&'static str],
    /// Its work differs from run to run.
    random: bool,
    aim: Option<f64>,
}

/// All runs of one side.
#[derive(Default)]
struct Side {
    elapsed: Vec<f64>,
    wall: Vec<f64>,
    bytes: f64,
}

impl Side {
    fn add(&mut self, finished: &[(u64, u64)], wall: Duration) {
        let slowest = finished.iter().map(|(ms, _)| *ms).max().unwrap_or(0);
        self.elapsed.push(number(slowest));
        self.wall.push(millis(wall));
        self.bytes += number(finished.iter().map(|(_, bytes)| bytes).sum::<u64>())
            / number(finished.len() as u64);
    }

    fn per_megabyte(&self) -> f64 {
        self.elapsed.iter().sum::<f64>() / (self.bytes / 1e6)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn number(value: u64) -> f64 {
    value as f64
}

pub async fn run(options: Options) -> Outcome<Vec<Table>> {
    let santa = Builtin::find("secretsanta").ok_or("it comes with quorate")?;
    let cases = [
        Case {
            name: "secretsanta 8",
            source: santa.source,
            args: &["8"],
            random: true,
            aim: Some(AIM_RATIO),
        },
        Case {
            name: "schur 20000 16",
            source: include_str!("../../programs/schur.py"),
            args: &["20000", "16"],
            random: false,
            aim: None,
        },
        Case {
            name: "blocks 8 4",
            source: include_str!("../../programs/blocks.py"),
            args: &["8", "4"],
            random: false,
            aim: None,
        },
    ];
    let mut table = Table::new(
        "Programs of three parties (median; times by MPyC's own clock, from all connected to the end)",
        &[
            "program",
            "runs",
            "MB per party",
            "plain ms",
            "quorate ms",
            "ratio",
            "ratio per byte",
            "plain whole ms",
            "quorate whole ms",
        ],
    );
    for case in cases.iter().filter(|c| c.name.starts_with(&options.only)) {
        measure(case, &options, &mut table).await?;
    }
    Ok(vec![table])
}

async fn measure(case: &Case, options: &Options, table: &mut Table) -> Outcome<()> {
    let world = World::new(PARTIES, options.python.clone())?;
    let computation = Computation::of("program.py", case.source, case.args)?;
    let file: PathBuf = world.folder().join("plain.py");
    std::fs::write(&file, case.source)?;
    let args: Vec<String> = case.args.iter().map(ToString::to_string).collect();
    let (mut plain_side, mut ours) = (Side::default(), Side::default());
    for _ in 0..options.runs {
        let run = plain::run(&options.python.path, &file, &args, PARTIES).await?;
        plain_side.add(&run.finished, run.wall);
        let seen = world.start(&computation, Until::Finished)?.end().await?;
        let finished: Vec<_> = seen.iter().filter_map(Seen::finished).collect();
        if finished.len() != PARTIES || !seen.iter().all(|s| s.is_success(PARTIES)) {
            let why: Vec<_> = seen.iter().map(|s| (&s.outcome, &s.stderr)).collect();
            return Err(format!("{} failed: {why:?}", case.name).into());
        }
        if !case.random && result(&seen[0].stdout) != result(&run.stdout) {
            return Err(format!("{}: the results differ", case.name).into());
        }
        ours.add(&finished, program_time(&seen)?);
    }
    let runs = u32::try_from(options.runs)?;
    let (plain_ms, our_ms) = (
        percentile(&mut plain_side.elapsed.clone(), 50),
        percentile(&mut ours.elapsed.clone(), 50),
    );
    let per_byte = ours.per_megabyte() / plain_side.per_megabyte();
    table.row([
        case.name.into(),
        Cell::Number(runs.into(), 0),
        Cell::Number(ours.bytes / f64::from(runs) / 1e6, 2),
        Cell::Number(plain_ms, 0),
        Cell::Number(our_ms, 0),
        Cell::Number(our_ms / plain_ms, 2),
        Cell::Number(per_byte, 2),
        Cell::Number(percentile(&mut plain_side.wall, 50), 0),
        Cell::Number(percentile(&mut ours.wall, 50), 0),
    ]);
    if let Some(limit) = case.aim {
        let what = format!("{} against plain TCP, per byte", case.name);
        table.aims.push(Aim::at_most(&what, limit, per_byte, "×"));
    }
    Ok(())
}

/// What the program printed, without MPyC's log, whose lines begin with the date.
fn result(stdout: &str) -> Vec<&str> {
    let log = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    stdout.lines().filter(|line| !log(line)).collect()
}

/// From the first party that was ready for its program to the last whose program ended.
fn program_time(seen: &[Seen]) -> Outcome<Duration> {
    let begun = seen.iter().filter_map(|s| s.state("running")).min();
    let ended = seen.iter().filter_map(|s| s.state("closing")).max();
    let (begun, ended) = begun.zip(ended).ok_or("a program never ran")?;
    Ok(ended.saturating_duration_since(begun))
}
