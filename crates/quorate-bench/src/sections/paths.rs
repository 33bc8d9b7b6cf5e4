//! How long it takes from `join` until two parties can compute, and until their path is the best
//! they can get, by what stands between them and the Internet.
//!
//! Each pair is a session of its own in a lab of its own, with real `quorate join` processes that
//! start at the same moment: sessions with many parties would compete for the processors, and
//! routers that were used before remember ports.
//!
//! ```text
//!   join ─► joined ─► keyed ─► first path ─► usable (every party is ready) ─► final path
//! ```
//! The last two may change places: a pair whose first path is the best one is usable after it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use quorate_bench::{
    Outcome,
    sample::{millis, percentile},
    sites,
    table::{Cell, Table},
};
use quorate_lab::{
    Lab, Nat,
    nat::Reach,
    scenario::{
        Phase, SessionPlan,
        process::Process,
        stage::{Stage, Tools},
    },
};
use serde_json::Value;

/// What the pairs are made of.
const KINDS: [Nat; 6] = [
    Nat::Open,
    Nat::FullCone,
    Nat::Port,
    Nat::Sym,
    Nat::CarrierPort,
    Nat::UdpBlock,
];
/// From site to site; the relay is half way.
const ONE_WAY_MS: f64 = 40.0;
/// How long a pair may take until it is usable.
const PATIENCE: Duration = Duration::from_mins(1);
/// A pair that has not its final path so long after that will not get it.
const BEST_WAIT: Duration = Duration::from_secs(20);
/// How long two parties may take to part.
const END_WAIT: Duration = Duration::from_secs(15);
/// How often the processes are looked at; the times are those of their words.
const LOOK: Duration = Duration::from_millis(10);

pub struct Options {
    pub runs: usize,
    /// Two pairs at a short distance: to see that it works.
    pub quick: bool,
}

/// Times after the start of `join`, for the later of the two parties, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    listening: f64,
    joined: f64,
    keyed: f64,
    first_path: f64,
    usable: f64,
    final_path: f64,
}

/// One session.
struct Run {
    times: Times,
    first: String,
    last: String,
}

pub fn run(options: &Options, tools: &Tools, folder: &Path) -> Outcome<Vec<Table>> {
    let mut table = Table::new(
        "From `join` to a path, by pair of NATs (sessions of two; RTT is that between the two sites)",
        &[
            "pair",
            "RTT ms",
            "listening ms",
            "joined RTT",
            "keyed RTT",
            "first path RTT",
            "usable RTT",
            "final path RTT",
            "usable ms",
            "final path ms",
            "first path",
            "final path",
        ],
    );
    let mut pairs = Vec::new();
    for (index, one) in KINDS.into_iter().enumerate() {
        pairs.extend(KINDS[index..].iter().map(|other| [one, *other]));
    }
    let mut distance = ONE_WAY_MS;
    if options.quick {
        pairs = vec![[Nat::Open, Nat::Open], [Nat::Sym, Nat::Port]];
        distance = 10.0;
    } else {
        // What of it is no waiting for the network.
        measure([Nat::Open; 2], 0.0, options, tools, folder, &mut table)?;
        measure([Nat::Sym; 2], 0.0, options, tools, folder, &mut table)?;
    }
    for pair in pairs {
        measure(pair, distance, options, tools, folder, &mut table)?;
    }
    Ok(vec![table])
}

fn measure(
    pair: [Nat; 2],
    one_way_ms: f64,
    options: &Options,
    tools: &Tools,
    folder: &Path,
    table: &mut Table,
) -> Outcome<()> {
    let mut runs = Vec::new();
    for _ in 0..options.runs {
        let here = folder.join("pair");
        let run = one(pair, one_way_ms, tools, &here);
        let run = run.map_err(|e| format!("{}–{}: {e}", pair[0], pair[1]))?;
        fs::remove_dir_all(&here)?;
        runs.push(run);
    }
    let median = |of: fn(&Times) -> f64| {
        let mut all: Vec<f64> = runs.iter().map(|r| of(&r.times)).collect();
        percentile(&mut all, 50)
    };
    let rtt = 2.0 * one_way_ms;
    let trips = |of: fn(&Times) -> f64| {
        if rtt > 0.0 {
            Cell::Number(median(of) / rtt, 1)
        } else {
            Cell::Nothing
        }
    };
    let words = |of: fn(&Run) -> &String| {
        let mut all: Vec<&str> = runs.iter().map(|r| of(r).as_str()).collect();
        all.sort_unstable();
        all.dedup();
        all.join(" / ")
    };
    table.row([
        format!("{}–{}", pair[0], pair[1]).into(),
        Cell::Number(rtt, 0),
        Cell::Number(median(|t| t.listening), 0),
        trips(|t| t.joined),
        trips(|t| t.keyed),
        trips(|t| t.first_path),
        trips(|t| t.usable),
        trips(|t| t.final_path),
        Cell::Number(median(|t| t.usable), 0),
        Cell::Number(median(|t| t.final_path), 0),
        words(|r| &r.first).into(),
        words(|r| &r.last).into(),
    ]);
    Ok(())
}

/// A lab with a relay and two sites, and one session in it.
fn one(pair: [Nat; 2], one_way_ms: f64, tools: &Tools, folder: &Path) -> Outcome<Run> {
    let plan = sites::plan(&[("one", pair[0]), ("other", pair[1])], one_way_ms);
    let direct =
        plan.reach("one", "other") == Some(Reach::Direct) || plan.meets_by_tcp("one", "other");
    let session = SessionPlan {
        parties: vec!["one".into(), "other".into()],
        hold: true,
        invite: vec!["--no-privacy".into()],
        join: vec!["--no-privacy".into()],
        ..SessionPlan::default()
    };
    let lab = Lab::build(plan, None)?;
    fs::create_dir_all(folder)?;
    let mut stage = Stage::set(lab, tools, &[sites::relay()], &session, folder, folder)?;
    let begun = Instant::now();
    stage.join(0)?;
    stage.join(1)?;
    let over = stage.over();
    let taken = stage.parties.iter_mut().filter_map(|p| p.process.take());
    let mut processes: Vec<Process> = taken.collect();
    let mut until = begun + PATIENCE;
    let mut was_usable = false;
    loop {
        let usable = processes.iter().all(|p| state(p, "running").is_some());
        let best = processes.iter().all(|p| {
            let last = paths(p).pop();
            last.is_some_and(|(word, _)| word.starts_with("direct") || !direct)
        });
        if usable && best {
            break;
        }
        if usable && !was_usable {
            was_usable = true;
            until = Instant::now() + BEST_WAIT;
        }
        if processes.iter_mut().any(|p| p.ended().is_some()) {
            return Err(sites::trouble("a party ended", &processes));
        }
        if Instant::now() > until {
            if usable {
                break; // the table shows which path it is
            }
            return Err(sites::trouble("not usable in time", &processes));
        }
        std::thread::sleep(LOOK);
    }
    let run = seen(&processes, begun)?;
    fs::write(over, "")?;
    let until = Instant::now() + END_WAIT;
    while !processes.iter_mut().all(|p| p.ended().is_some()) {
        if Instant::now() > until {
            return Err(sites::trouble("the session does not end", &processes));
        }
        std::thread::sleep(LOOK);
    }
    Ok(run)
}

fn seen(processes: &[Process], begun: Instant) -> Outcome<Run> {
    let later = |of: &dyn Fn(&Process) -> Option<Instant>, what: &str| -> Outcome<f64> {
        let all: Option<Vec<Instant>> = processes.iter().map(of).collect();
        let last = all.and_then(|all| all.into_iter().max());
        let last = last.ok_or_else(|| sites::trouble(&format!("never {what}"), processes))?;
        Ok(millis(last.saturating_duration_since(begun)))
    };
    let first = |p: &Process| Some(paths(p).first()?.clone());
    let last = |p: &Process| paths(p).pop();
    let times = Times {
        listening: later(&|p| p.reached(Phase::Joining), "listening")?,
        joined: later(&|p| p.reached(Phase::Confirming), "joined")?,
        keyed: later(&|p| p.reached(Phase::Keyed), "keyed")?,
        first_path: later(&|p| Some(first(p)?.1), "a path")?,
        usable: later(&|p| state(p, "running"), "running")?,
        final_path: later(&|p| Some(last(p)?.1), "a path")?,
    };
    // The word of the end that is later there, as the time is.
    let word = |of: &dyn Fn(&Process) -> Option<(String, Instant)>| {
        let found = processes.iter().filter_map(of);
        let word = found.max_by_key(|(_, at)| *at).map(|(word, _)| word);
        shown(&word.unwrap_or_default())
    };
    Ok(Run {
        times,
        first: word(&first),
        last: word(&last),
    })
}

/// The kind of a path, without the name of the relay.
fn shown(word: &str) -> String {
    word.split(" via ").next().unwrap_or_default().to_owned()
}

fn state(process: &Process, name: &str) -> Option<Instant> {
    let is = |event: &Value| event["event"] == "state" && event["state"] == name;
    let found = process.find(|event| is(event).then_some(()));
    found.map(|((), at)| at)
}

/// The paths to the other party that carried something, and when each began.
fn paths(process: &Process) -> Vec<(String, Instant)> {
    let mut paths: Vec<(String, Instant)> = Vec::new();
    for (event, at) in process.events() {
        let word = match event["event"].as_str() {
            Some("path") => event["path"].as_str(),
            Some("mesh") => event["links"][0]["path"].as_str(),
            _ => None,
        };
        let carries = |w: &&str| {
            let kind = ["direct", "local", "relayed"];
            kind.iter().any(|k| w.starts_with(k))
        };
        let Some(word) = word.filter(carries) else {
            continue;
        };
        if paths
            .last()
            .is_none_or(|(last, _)| shown(last) != shown(word))
        {
            paths.push((word.to_owned(), at));
        }
    }
    paths
}
