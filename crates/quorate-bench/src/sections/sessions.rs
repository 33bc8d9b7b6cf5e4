//! Many sessions in one process, one after the other: what stays behind.

use std::time::Instant;

use quorate_bench::{
    Outcome,
    process::{Process, Usage},
    table::{Aim, Cell, Table},
    world::{Computation, Until, World},
};
use quorate_node::program::{Builtin, PythonRuntime};

const PARTIES: usize = 3;
/// The program of each session: it ends at once.
const PROGRAM: &str = "print('done')\n";
/// Memory that an allocator may keep from one half of the sessions to the other.
const AIM_MEGABYTES: f64 = 4.0;
/// Parties of the largest session.
const MANY: usize = 25;

pub struct Options {
    pub python: PythonRuntime,
    pub sessions: usize,
}

pub async fn run(options: Options) -> Outcome<Vec<Table>> {
    let many = many_parties(&options).await?;
    Ok(vec![many_sessions(options).await?, many])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn many_sessions(options: Options) -> Outcome<Table> {
    let mut table = Table::new(
        "Sessions of three parties in one process, one after the other",
        &[
            "sessions",
            "RSS MB",
            "anonymous MB",
            "descriptors",
            "threads",
            "run files",
            "all files",
            "seconds",
        ],
    );
    let world = World::new(PARTIES, options.python)?;
    let computation = Computation::of("done.py", PROGRAM, &[])?;
    let start = Instant::now();
    let mut seen: Vec<Usage> = Vec::new();
    let step = (options.sessions / 10).max(1);
    for done in 0..=options.sessions {
        if done == 1 || (done > 0 && done % step == 0) {
            let usage = Process::own().usage()?;
            let files = world.files();
            let running = files.iter().filter(|f| f.iter().any(|part| part == "run"));
            table.row([
                Cell::Number(done as f64, 0),
                Cell::Number(usage.rss as f64 / 1e6, 1),
                Cell::Number(usage.anonymous as f64 / 1e6, 1),
                Cell::Number(usage.descriptors as f64, 0),
                Cell::Number(usage.threads as f64, 0),
                Cell::Number(running.count() as f64, 0),
                Cell::Number(files.len() as f64, 0),
                Cell::Number(start.elapsed().as_secs_f64(), 0),
            ]);
            seen.push(usage);
        }
        if done == options.sessions {
            break;
        }
        let parties = world.start(&computation, Until::Finished)?.end().await?;
        if let Some(failed) = parties.iter().find(|p| !p.is_success(PARTIES)) {
            return Err(format!("session {done}: {:?} {:?}", failed.outcome, failed.events).into());
        }
    }
    let (middle, last) = (seen[seen.len() / 2], seen[seen.len() - 1]);
    let growth = (last.anonymous as f64 - middle.anonymous as f64) / 1e6;
    table.aims.push(Aim::at_most(
        "memory growth in the second half",
        AIM_MEGABYTES,
        growth,
        "MB",
    ));
    let growth = last.descriptors as f64 - middle.descriptors as f64;
    table.aims.push(Aim::at_most(
        "descriptors more after the second half",
        0.0,
        growth,
        "",
    ));
    Ok(table)
}

async fn many_parties(options: &Options) -> Outcome<Table> {
    let mut table = Table::new(
        "`mean-income` by many parties on one machine",
        &[
            "parties",
            "join → ready s",
            "whole session s",
            "MB per party",
            "result",
        ],
    );
    let income = Builtin::find("mean-income").ok_or("it comes with quorate")?;
    for parties in [3, 5, 10, MANY] {
        let world = World::new(parties, options.python.clone())?;
        for (name, content) in income.demo_files {
            std::fs::write(world.folder().join(name), content)?;
        }
        let mut computation = Computation::of(income.file, income.source, income.public_args)?;
        computation.private_args =
            |index| vec!["--data".into(), format!("income-{}.csv", index % 3)];
        let running = world.start(&computation, Until::Finished)?;
        let begun = running.begun;
        let seen = running.end().await?;
        let whole = begun.elapsed().as_secs_f64();
        if let Some(failed) = seen.iter().find(|p| !p.is_success(parties)) {
            return Err(
                format!("{parties} parties: {:?} {}", failed.outcome, failed.stderr).into(),
            );
        }
        let ready = seen.iter().filter_map(|p| p.state("running")).max();
        let ready = ready.map_or(0.0, |at| (at - begun).as_secs_f64());
        let bytes: u64 = seen
            .iter()
            .filter_map(quorate_bench::world::Seen::finished)
            .map(|(_, b)| b)
            .sum();
        let lines: Vec<&str> = seen[0]
            .stdout
            .lines()
            .filter(|l| l.starts_with("mean") || l.starts_with("people"))
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        table.row([
            Cell::Number(parties as f64, 0),
            Cell::Number(ready, 2),
            Cell::Number(whole, 2),
            Cell::Number(bytes as f64 / parties as f64 / 1e6, 3),
            lines.join(", ").into(),
        ]);
    }
    Ok(table)
}
