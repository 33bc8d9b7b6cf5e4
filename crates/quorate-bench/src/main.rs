//! `quorate-bench`: measures what quorate costs and prints tables.
//!
//! ```sh
//! cargo build --release -p quorate && cargo run --release -p quorate-bench -- all
//! ```
//! The sections `paths`, `lines` and `distances` run in the lab: this program starts again in
//! namespaces of its own for them, and with other sections beside them nothing would be as it is.
#![allow(clippy::print_stdout, clippy::print_stderr)] // it is made to print

mod sections;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use quorate_bench::{Outcome, process, table::Table, world};
use quorate_lab::{sandbox, scenario::stage::Tools};
use sections::{
    dht, distances, idle, lines, paths, programs, relay, sessions, setup, statements, throughput,
};
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _};

/// Measures what quorate costs, next to the same thing without it.
#[derive(Parser)]
struct Args {
    /// What to measure.
    #[arg(required = true)]
    sections: Vec<Section>,
    /// Print one JSON object instead of Markdown.
    #[arg(long)]
    json: bool,
    /// Few repetitions: to see that it works, not for figures.
    #[arg(long)]
    quick: bool,
    /// Sessions of the section `sessions`.
    #[arg(long, default_value_t = 1000)]
    sessions: usize,
    /// Repetitions of one measurement, where it has any.
    #[arg(long)]
    runs: Option<usize>,
    /// Numbers of parties in the section `setup`.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 5, 10, 25])]
    parties: Vec<usize>,
    /// Numbers of nodes in the section `dht`.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 5000])]
    nodes: Vec<usize>,
    /// Numbers of circuits in the section `relay`.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 500, 1000])]
    circuits: Vec<usize>,
    /// In the sections `programs` and `distances`, only those whose names begin with this.
    #[arg(long, default_value = "")]
    program: String,
    /// A Python with MPyC 0.11; otherwise an environment is made once.
    #[arg(long)]
    python: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Everything but what runs in the lab.
    All,
    /// Signing, verifying, rosters, key agreement.
    Statements,
    /// From joining to ready, by number of parties.
    Setup,
    /// Streams through the mesh.
    Throughput,
    /// Whole programs against plain MPyC.
    Programs,
    /// A waiting node, and the start of the command line.
    Idle,
    /// Lookups of rendezvous records, by number of nodes.
    Dht,
    /// Many sessions in one process, many parties in one session.
    Sessions,
    /// A relay: memory per circuit, throughput, processor time.
    Relay,
    /// From `join` to usable and to the final path, by pair of NATs. In the lab.
    Paths,
    /// One stream between two sites, direct and relayed. In the lab.
    Lines,
    /// Whole programs at several distances. In the lab.
    Distances,
}

impl Section {
    fn is_in_the_lab(self) -> bool {
        matches!(self, Self::Paths | Self::Lines | Self::Distances)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let in_the_lab = args.sections.iter().filter(|s| s.is_in_the_lab()).count();
    let result = match in_the_lab {
        0 => here(&args),
        n if n == args.sections.len() => lab(&args),
        _ => Err("`paths`, `lines` and `distances` run in the lab, without other sections".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The sections that need nothing but this machine.
fn here(args: &Args) -> Outcome<()> {
    let traffic = setup::Traffic::default();
    let subscriber = tracing_subscriber::registry().with(traffic.clone());
    let logged = std::env::var("RUST_LOG").is_ok().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_filter(tracing_subscriber::EnvFilter::from_default_env())
    });
    let subscriber = subscriber.with(logged);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        eprintln!("error: there is another subscriber");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(measure(args, &traffic));
    runtime.shutdown_background();
    result
}

/// The sections in the lab: processes of the real program in network namespaces.
fn lab(args: &Args) -> Outcome<()> {
    if !sandbox::inside() {
        // Inside nothing can be downloaded.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(world::mpyc(args.python.clone()))?;
    }
    sandbox::enter()?;
    let tools = Tools::find(None, args.python.clone())?;
    let folder = sandbox::folder()?;
    let mut report = Report::new(args);
    for section in &args.sections {
        report.add(match section {
            Section::Paths => {
                let options = paths::Options {
                    runs: args.runs(1, 1),
                    quick: args.quick,
                };
                paths::run(&options, &tools, &folder)?
            }
            Section::Lines => {
                let options = lines::Options {
                    runs: args.runs(2, 1),
                    quick: args.quick,
                };
                lines::run(&options, &tools, &folder)?
            }
            _ => {
                let options = distances::Options {
                    runs: args.runs,
                    quick: args.quick,
                    only: args.program.clone(),
                };
                distances::run(&options, &tools, &folder)?
            }
        });
    }
    report.end();
    Ok(())
}

impl Args {
    /// How often something is measured.
    fn runs(&self, full: usize, quick: usize) -> usize {
        self.runs.unwrap_or(if self.quick { quick } else { full })
    }
}

/// What is printed: tables one by one, or one JSON object at the end.
struct Report {
    json: bool,
    machine: String,
    tables: Vec<Table>,
}

impl Report {
    fn new(args: &Args) -> Self {
        let machine = process::machine();
        if cfg!(debug_assertions) {
            eprintln!("warning: not a release build; the figures mean nothing");
        }
        if !args.json {
            println!("{machine}\n");
        }
        Self {
            json: args.json,
            machine,
            tables: Vec::new(),
        }
    }

    fn add(&mut self, new: Vec<Table>) {
        if !self.json {
            for table in &new {
                println!("{}", table.markdown());
            }
        }
        self.tables.extend(new);
    }

    fn end(self) {
        if self.json {
            let tables: Vec<_> = self.tables.iter().map(Table::json).collect();
            println!(
                "{}",
                serde_json::json!({"machine": self.machine, "tables": tables})
            );
        }
    }
}

async fn measure(args: &Args, traffic: &setup::Traffic) -> Outcome<()> {
    let wants = |section| args.sections.contains(&section) || args.sections.contains(&Section::All);
    let mut report = Report::new(args);
    let mut done = |new: Vec<Table>| report.add(new);
    let runs = |full, quick| args.runs(full, quick);
    if wants(Section::Statements) {
        done(tokio::task::spawn_blocking(statements::run).await??);
    }
    if wants(Section::Throughput) {
        let megabytes = if args.quick { 200 } else { 1000 };
        let options = throughput::Options {
            megabytes,
            runs: runs(5, 1),
        };
        done(throughput::run(options).await?);
    }
    if wants(Section::Dht) {
        let options = dht::Options {
            sizes: args.nodes.clone(),
            lookups: runs(50, 5),
        };
        done(dht::run(options).await?);
    }
    if wants(Section::Relay) {
        let options = relay::Options {
            sizes: args.circuits.clone(),
            megabytes: if args.quick { 10 } else { 1000 },
            quick: args.quick,
        };
        done(relay::run(options).await?);
    }
    let needs_python = [
        Section::Setup,
        Section::Programs,
        Section::Idle,
        Section::Sessions,
    ];
    if needs_python.into_iter().any(wants) {
        let python = world::mpyc(args.python.clone()).await?;
        if wants(Section::Setup) {
            let options = setup::Options {
                python: python.clone(),
                sizes: args.parties.clone(),
                runs: runs(15, 3),
                traffic: traffic.clone(),
            };
            done(setup::run(options).await?);
        }
        if wants(Section::Programs) {
            let options = programs::Options {
                only: args.program.clone(),
                python: python.clone(),
                runs: runs(11, 2),
            };
            done(programs::run(options).await?);
        }
        if wants(Section::Idle) {
            let options = idle::Options {
                python: python.clone(),
            };
            done(tokio::task::spawn_blocking(move || idle::run(&options)).await??);
        }
        if wants(Section::Sessions) {
            let sessions = if args.quick { 20 } else { args.sessions };
            done(sessions::run(sessions::Options { python, sessions }).await?);
        }
    }
    report.end();
    Ok(())
}
