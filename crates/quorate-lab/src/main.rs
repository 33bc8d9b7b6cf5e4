//! `quorate-lab`: NATs, regions and faults on one machine.
//!
//! Exit codes: 0 as expected, 1 not as expected, 2 wrong arguments, 78 the lab cannot run here.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a tool for developers talks to them

use clap::{Args as ClapArgs, Parser, Subcommand};
use quorate_lab::{
    Context as _, Lab, Nat, Outcome, matrix, measure, oracle, sandbox,
    scenario::{
        Scenario,
        play::{self, Verdict},
        stage::{Stage, Tools},
    },
};
use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// The lab cannot run on this machine.
const CANNOT_RUN: u8 = 78;

/// A laboratory of NATs, regions and faults in network namespaces of this machine, without root.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what the lab needs of this machine, and what is missing.
    Check,
    /// Measures whether delays, losses, cuts and routers of the lab are as asked for.
    Measure,
    /// Probes every pair of NATs with plain UDP and compares with the table.
    Oracle {
        /// Delay between any two sites, one way.
        #[arg(long, default_value_t = 40.0)]
        delay_ms: f64,
        /// How often.
        #[arg(long, default_value_t = 1)]
        runs: u32,
        /// Decides every random thing.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Builds a scenario's lab and its relays, says how to enter each host, one JSON object a line,
    /// and holds everything until standard input ends.
    Up {
        /// The scenario; its session is not run.
        file: PathBuf,
        #[command(flatten)]
        running: Running,
    },
    /// Plays scenarios, one after the other.
    Run {
        /// Their files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        running: Running,
    },
    /// A session with a party behind each kind of NAT: every pair must be as the table says.
    Matrix {
        /// How often.
        #[arg(long, default_value_t = 1)]
        runs: u64,
        /// These kinds only.
        #[arg(long, value_delimiter = ',')]
        kinds: Vec<Nat>,
        /// Two parties behind each kind.
        #[arg(long)]
        twice: bool,
        /// Tell each party where those before it are, as by hand, so that nobody is looked for.
        #[arg(long)]
        introduce: bool,
        /// Without those on one LAN and behind one carrier.
        #[arg(long)]
        no_groups: bool,
        /// Delay between any two sites, one way.
        #[arg(long, default_value_t = 40.0)]
        delay_ms: f64,
        #[command(flatten)]
        running: Running,
    },
}

/// How sessions are run.
#[derive(ClapArgs)]
struct Running {
    /// The binary under test; the one beside this program without it.
    #[arg(long, value_name = "PATH")]
    quorate: Option<PathBuf>,
    /// Python with MPyC.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Stay at the end, with all networks and files, and say how to look inside.
    #[arg(long)]
    keep: bool,
    /// Where logs and captures of what went wrong are put.
    #[arg(long, value_name = "FOLDER", default_value = "lab-failures")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if matches!(args.command, Command::Check) {
        return check();
    }
    if let Err(trouble) = sandbox::enter() {
        eprintln!("error: {trouble}");
        return ExitCode::from(CANNOT_RUN);
    }
    let done = match args.command {
        Command::Check => Ok(true),
        Command::Measure => measured(),
        Command::Oracle {
            delay_ms,
            runs,
            seed,
        } => probe(delay_ms, runs, seed),
        Command::Up { file, running } => up(&file, &running),
        Command::Run { files, running } => run(&files, &running),
        Command::Matrix {
            runs,
            kinds,
            twice,
            no_groups,
            introduce,
            delay_ms,
            running,
        } => {
            let kinds = if kinds.is_empty() {
                Nat::TABLE.to_vec()
            } else {
                kinds
            };
            let scenarios = (1..=runs).map(|run| {
                let mut scenario = matrix::scenario(&kinds, twice, !no_groups, delay_ms, run);
                scenario.session.introduce = introduce;
                scenario
            });
            every_pair(&scenarios.collect::<Vec<_>>(), &running)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("error: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> ExitCode {
    let needs = sandbox::needs();
    for need in &needs {
        match &need.missing {
            None => println!("ok       {}", need.what),
            Some(why) => println!("missing  {}\n         {why}", need.what),
        }
    }
    if needs.iter().all(|n| n.missing.is_none()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(CANNOT_RUN)
    }
}

fn probe(delay_ms: f64, runs: u32, seed: u64) -> Outcome<bool> {
    let begun = Instant::now();
    let lab = Lab::build(oracle::plan(&Nat::TABLE, delay_ms, seed), None)?;
    println!(
        "{} hosts at {} sites, {delay_ms} ms one way, built in {} ms",
        lab.hosts().len(),
        lab.plan().sites.len(),
        begun.elapsed().as_millis()
    );
    let mut all_hold = true;
    for run in 1..=runs {
        let cells = oracle::probe(&lab, &Nat::TABLE)?;
        let wrong = cells.iter().filter(|c| !c.holds()).count();
        println!("\n{}", oracle::table(&Nat::TABLE, &cells));
        println!(
            "run {run}: {} cells, {wrong} not as the table says",
            cells.len()
        );
        all_hold &= wrong == 0;
    }
    Ok(all_hold)
}

fn measured() -> Outcome<bool> {
    let findings = measure::run()?;
    for finding in &findings {
        println!(
            "{}  {:40} {}, expected {}",
            if finding.holds { "ok   " } else { "WRONG" },
            finding.what,
            finding.seen,
            finding.expected
        );
    }
    Ok(findings.iter().all(|f| f.holds))
}

fn run(files: &[PathBuf], running: &Running) -> Outcome<bool> {
    let tools = Tools::find(running.quorate.clone(), running.python.clone())?;
    let folder = sandbox::folder()?;
    let mut all_good = true;
    for (index, file) in files.iter().enumerate() {
        let scenario = Scenario::read(file)?;
        let beside = std::fs::canonicalize(file).during(file.display())?;
        let beside = beside.parent().unwrap_or(Path::new("/")).to_owned();
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        println!("{name}: {}", scenario.title);
        let here = folder.join(index.to_string());
        let verdict = play(&scenario, &tools, &here, &beside, running)?;
        for line in &verdict.told {
            println!("  {line}");
        }
        all_good &= say(&verdict, &here, &running.out.join(name))?;
    }
    Ok(all_good)
}

fn up(file: &Path, running: &Running) -> Outcome<bool> {
    let tools = Tools::find(running.quorate.clone(), running.python.clone())?;
    let folder = sandbox::folder()?;
    let mut scenario = Scenario::read(file)?;
    scenario.session.parties.clear();
    let lab = Lab::build(scenario.lab, None)?;
    let stage = Stage::set(
        lab,
        &tools,
        &scenario.relays,
        &scenario.session,
        &folder,
        &folder,
    )?;
    for host in stage.lab.hosts() {
        let words = sandbox::way_in(host.namespace.descriptor());
        let relay = stage.relay_addresses(&host.name);
        println!(
            "{}",
            serde_json::json!({"host": host.name, "enter": words.join(" "), "relay": relay})
        );
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(true)
}

fn every_pair(scenarios: &[Scenario], running: &Running) -> Outcome<bool> {
    let tools = Tools::find(running.quorate.clone(), running.python.clone())?;
    let folder = sandbox::folder()?;
    let mut good = 0;
    for (index, scenario) in scenarios.iter().enumerate() {
        let here = folder.join(index.to_string());
        let verdict = play(scenario, &tools, &here, &here, running)?;
        println!(
            "\n{}",
            matrix::table(&scenario.session.parties, &verdict.pairs)
        );
        let usable = verdict.usable.map_or_else(
            || "never".into(),
            |u| format!("after {:.1} s", u.as_secs_f64()),
        );
        println!(
            "run {}: {} pairs, usable {usable}, {:.1} s in all",
            index + 1,
            verdict.pairs.len(),
            verdict.taken.as_secs_f64()
        );
        let name = format!("matrix-{}", index + 1);
        good += usize::from(say(&verdict, &here, &running.out.join(name))?);
    }
    println!("{good} of {} runs as the table says", scenarios.len());
    Ok(good == scenarios.len())
}

fn play(
    scenario: &Scenario,
    tools: &Tools,
    folder: &Path,
    beside: &Path,
    running: &Running,
) -> Outcome<Verdict> {
    play::play(scenario, tools, folder, beside, |stage, _| {
        if running.keep {
            stay(stage, folder);
        }
    })
}

/// Says how it ended, and saves what shows why.
fn say(verdict: &Verdict, folder: &Path, out: &Path) -> Outcome<bool> {
    let good = verdict.wrong.is_empty();
    for wrong in &verdict.wrong {
        println!("  WRONG  {wrong}");
    }
    if good {
        println!("  ok in {:.1} s", verdict.taken.as_secs_f64());
    } else {
        play::save(folder, out)?;
        println!("  logs and captures are in {}", out.display());
    }
    std::fs::remove_dir_all(folder).during(folder.display())?;
    Ok(good)
}

/// Says how to enter the hosts, and waits for Enter or the end of standard input.
fn stay(stage: &Stage, folder: &Path) {
    println!("\nThe lab stays. A shell on a host, from another terminal of this user:");
    for host in stage.lab.hosts() {
        let words = sandbox::way_in(host.namespace.descriptor());
        println!("  {:12} {}", host.name, words.join(" "));
    }
    println!("Files are in {}. Enter ends the lab.", folder.display());
    let _ = std::io::stdin().read(&mut [0]);
}
