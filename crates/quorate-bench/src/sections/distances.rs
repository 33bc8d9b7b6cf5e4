//! Whole programs of three parties at three sites: through quorate, and by plain MPyC over
//! IP between the same network namespaces, at several distances.
//!
//! The two take turns. What is compared is time by MPyC's own clock, from all connected to the end,
//! of the slowest party. `secretsanta` draws again at random; here each party's stirs come from a
//! generator with a known seed, so that every run has the same rounds.

use std::{collections::BTreeSet, path::Path};

use quorate_bench::{
    Outcome,
    sample::percentile,
    sites::{self, Job, Sites, slowest},
    table::{Aim, Cell, Table},
};
use quorate_lab::{Nat, scenario::stage::Tools};
use quorate_node::program::Builtin;

/// One way, from site to site, and how often a program is run there.
const DISTANCES_MS: [(f64, usize); 4] = [(0.0, 3), (10.0, 2), (40.0, 1), (90.0, 1)];
/// How much longer a program may take where it mostly waits for the network.
const AIM_RATIO: f64 = 1.05;
const PARTIES: [&str; 3] = ["one", "two", "three"];

pub struct Options {
    /// Instead of the numbers above.
    pub runs: Option<usize>,
    /// One distance and less work: to see that it works.
    pub quick: bool,
    /// Only the programs whose names begin with this.
    pub only: String,
}

struct Case {
    name: &'static str,
    source: String,
    args: Vec<&'static str>,
    /// Whether it mostly waits for the network.
    waits: bool,
}

pub fn run(options: &Options, tools: &Tools, folder: &Path) -> Outcome<Vec<Table>> {
    let mut table = Table::new(
        "Programs of three parties at three sites (median; times by MPyC's own clock)",
        &[
            "program",
            "one way ms",
            "runs",
            "MB per party",
            "plain ms",
            "quorate ms",
            "ratio",
            "paths",
        ],
    );
    let cases = cases(options.quick)?;
    let plan = sites::plan(&PARTIES.map(|name| (name, Nat::Open)), 0.0);
    let mut sites = Sites::build(plan, tools, folder)?;
    let distances: &[(f64, usize)] = if options.quick {
        &[(10.0, 1)]
    } else {
        &DISTANCES_MS
    };
    for (distance, runs) in distances {
        sites.distance(*distance)?;
        let wanted = |c: &&Case| c.name.starts_with(&options.only);
        for case in cases.iter().filter(wanted) {
            let runs = options.runs.unwrap_or(*runs);
            measure(case, *distance, runs, &mut sites, &mut table)?;
        }
    }
    Ok(vec![table])
}

fn cases(quick: bool) -> Outcome<Vec<Case>> {
    let santa = Builtin::find("secretsanta").ok_or("it comes with quorate")?;
    let schur = include_str!("../../programs/schur.py");
    let case = |name, source, args: &[&'static str], waits| Case {
        name,
        source,
        args: args.to_vec(),
        waits,
    };
    let santa = |name, persons| Ok::<_, String>(case(name, seeded(santa.source)?, persons, true));
    Ok(if quick {
        vec![santa("secretsanta 3", &["3"])?]
    } else {
        vec![
            santa("secretsanta 8", &["8"])?,
            case("schur 20000 16", schur.into(), &["20000", "16"], false),
        ]
    })
}

/// The same program with the same stirs in every run.
fn seeded(source: &str) -> Result<String, String> {
    let import = "from mpyc.runtime import mpc\n";
    let stir = "random.SystemRandom()";
    if !source.contains(import) || source.matches(stir).count() != 1 {
        return Err("the program draws in another way than this section knows".into());
    }
    let seeded = format!("{import}\nSTIRS = random.Random(mpc.pid)\n");
    Ok(source.replace(import, &seeded).replace(stir, "STIRS"))
}

fn measure(
    case: &Case,
    distance: f64,
    runs: usize,
    sites: &mut Sites,
    table: &mut Table,
) -> Outcome<()> {
    let job = Job {
        parties: &PARTIES,
        source: &case.source,
        args: &case.args,
    };
    let (mut plain, mut ours, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    let mut kinds = BTreeSet::new();
    for _ in 0..runs {
        let without = sites.plain(&job)?;
        let with = sites.session(&job)?;
        if results(&without[0].stdout) != results(&with[0].stdout) {
            return Err(format!("{}: the results differ", case.name).into());
        }
        let paths = with.iter().flat_map(|e| e.paths.values());
        kinds.extend(paths.map(|word| word.split(" via ").next().unwrap_or(word).to_owned()));
        plain.push(slowest(&without).0);
        let (elapsed, sent) = slowest(&with);
        ours.push(elapsed);
        bytes = sent;
    }
    let (plain, ours) = (percentile(&mut plain, 50), percentile(&mut ours, 50));
    let runs = u32::try_from(runs)?;
    table.row([
        case.name.into(),
        Cell::Number(distance, 0),
        Cell::Number(runs.into(), 0),
        Cell::Number(bytes / 1e6, 2),
        Cell::Number(plain, 0),
        Cell::Number(ours, 0),
        Cell::Number(ours / plain, 3),
        kinds.into_iter().collect::<Vec<_>>().join(", ").into(),
    ]);
    if case.waits && distance > 0.0 {
        let what = format!("{} at {distance} ms one way, against plain IP", case.name);
        table
            .aims
            .push(Aim::at_most(&what, AIM_RATIO, ours / plain, "×"));
    }
    Ok(())
}

/// What the program printed, without MPyC's log, whose lines begin with the date and the time.
fn results(stdout: &str) -> Vec<&str> {
    let log = |line: &&str| {
        let mut words = line.split(' ');
        let date = words.next().is_some_and(|w| w.matches('-').count() == 2);
        date && words.next().is_some_and(|w| w.matches(':').count() == 2)
    };
    stdout.lines().filter(|line| !log(line)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_program_still_draws_where_this_section_replaces_it() {
        let santa = Builtin::find("secretsanta").unwrap();
        let source = seeded(santa.source).unwrap();
        assert!(source.contains("STIRS.shuffle(columns)"), "{source}");
        assert!(!source.contains("SystemRandom"));
    }
}
