//! `quorate-lab`: NATs, regions and faults on one machine.
//!
//! Exit codes: 0 as expected, 1 not as expected, 2 wrong arguments, 78 the lab cannot run here.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a tool for developers talks to them

use clap::{Parser, Subcommand};
use quorate_lab::{Lab, Nat, Outcome, measure, oracle, sandbox};
use std::{process::ExitCode, time::Instant};

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
