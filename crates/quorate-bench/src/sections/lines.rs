//! How fast one stream between two sites is: direct, through a relay, and plain TCP between the same
//! network namespaces.
//!
//! The program is the same everywhere, `programs/bulk.py`: it takes the socket that MPyC has for the
//! link, which is one of quorate's (attach unix) or a TCP connection, and moves bytes with blocking
//! calls. For the relayed stream the lab cuts the line between the two sites, so that both ways are
//! equally long and plain TCP finds it mended again.

use std::path::Path;

use quorate_bench::{
    Outcome,
    sample::percentile,
    sites::{self, Ended, Job, Sites},
    table::{Cell, Table},
};
use quorate_lab::{Nat, scenario::stage::Tools};

/// One way, from site to site.
const DISTANCES_MS: [f64; 3] = [0.0, 10.0, 40.0];
/// Seconds that count, and seconds before them, in which TCP finds out how fast it may be.
const SECONDS: [&str; 2] = ["4", "2"];

/// Runs over the relay until one of them must have come to its end; the others are counted.
const ATTEMPTS: u32 = 4;

pub struct Options {
    pub runs: usize,
    /// One distance and a second: to see that it works.
    pub quick: bool,
}

pub fn run(options: &Options, tools: &Tools, folder: &Path) -> Outcome<Vec<Table>> {
    let mut table = Table::new(
        "One stream between two sites (median)",
        &[
            "one way ms",
            "path",
            "runs",
            "stalled",
            "plain TCP Mbit/s",
            "quorate Mbit/s",
            "ratio",
        ],
    );
    let (distances, args): (&[f64], _) = if options.quick {
        (&[10.0], ["0.5", "0.5"])
    } else {
        (&DISTANCES_MS, SECONDS)
    };
    let plan = sites::plan(&[("one", Nat::Open), ("other", Nat::Open)], 0.0);
    let mut sites = Sites::build(plan, tools, folder)?;
    let job = Job {
        parties: &["one", "other"],
        source: include_str!("../../programs/bulk.py"),
        args: &args,
    };
    for distance in distances {
        sites.distance(*distance)?;
        let (mut plain, mut direct, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
        let mut stalled = 0;
        for _ in 0..options.runs {
            plain.push(rate(&sites.plain(&job)?)?);
            direct.push(over("direct", &sites.session(&job)?)?);
            sites.lab()?.cut_both("one", Some("other"), true)?;
            stalled += over_relay(&mut sites, &job, &mut relayed)?;
            sites.lab()?.cut_both("one", Some("other"), false)?;
        }
        let plain = percentile(&mut plain, 50);
        let all = [("direct", direct, 0), ("relayed", relayed, stalled)];
        for (path, mut rates, stalled) in all {
            let ours = percentile(&mut rates, 50);
            let runs = u32::try_from(options.runs)?;
            table.row([
                Cell::Number(*distance, 0),
                path.into(),
                Cell::Number(runs.into(), 0),
                Cell::Number(stalled.into(), 0),
                Cell::Number(plain, 0),
                Cell::Number(ours, 0),
                Cell::Number(ours / plain, 2),
            ]);
        }
    }
    Ok(vec![table])
}

/// One more rate over the relay, and how many runs came to nothing before it.
fn over_relay(sites: &mut Sites, job: &Job<'_>, rates: &mut Vec<f64>) -> Outcome<u32> {
    for stalled in 0..ATTEMPTS {
        match sites.session(job).and_then(|ended| over("relayed", &ended)) {
            Ok(rate) => {
                rates.push(rate);
                return Ok(stalled);
            }
            Err(why) if stalled + 1 == ATTEMPTS => return Err(why),
            Err(why) => eprintln!("once more: {why}"),
        }
    }
    Ok(ATTEMPTS)
}

/// The rate, if both ends had such a path.
fn over(path: &str, ended: &[Ended]) -> Outcome<f64> {
    let mut words = ended.iter().flat_map(|e| e.paths.values());
    if let Some(other) = words.find(|w| !w.starts_with(path)) {
        return Err(format!("the stream was to be {path}, and is {other}").into());
    }
    rate(ended)
}

fn rate(ended: &[Ended]) -> Outcome<f64> {
    let stdout = ended.first().map_or("", |e| e.stdout.as_str());
    let words = stdout.split("megabits per second ").nth(1);
    let word = words.and_then(|w| w.split_whitespace().next());
    let rate = word.and_then(|w| w.parse().ok());
    rate.ok_or_else(|| format!("the program says no rate: {stdout}").into())
}
