//! `quorate-bench`: measures what quorate costs and prints tables.
//!
//! ```sh
//! cargo build --release -p quorate && cargo run --release -p quorate-bench -- all
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)] // it is made to print

mod sections;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use quorate_bench::{Outcome, process, table::Table, world};
use sections::{dht, idle, programs, sessions, setup, statements, throughput};
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
    /// In the section `programs`, only those whose names begin with this.
    #[arg(long, default_value = "")]
    program: String,
    /// A Python with MPyC 0.11; otherwise an environment is made once.
    #[arg(long)]
    python: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Everything.
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
}

fn main() -> ExitCode {
    let args = Args::parse();
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
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(measure(&args, &traffic));
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args, traffic: &setup::Traffic) -> Outcome<()> {
    let machine = process::machine();
    let wants = |section| args.sections.contains(&section) || args.sections.contains(&Section::All);
    if cfg!(debug_assertions) {
        eprintln!("warning: not a release build; the figures mean nothing");
    }
    if !args.json {
        println!("{machine}\n");
    }
    let mut tables = Vec::new();
    let mut done = |new: Vec<Table>| {
        if !args.json {
            for table in &new {
                println!("{}", table.markdown());
            }
        }
        tables.extend(new);
    };
    let runs =
        |full: usize, quick: usize| args.runs.unwrap_or(if args.quick { quick } else { full });
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
    if args.json {
        let tables: Vec<_> = tables.iter().map(Table::json).collect();
        println!(
            "{}",
            serde_json::json!({"machine": machine, "tables": tables})
        );
    }
    Ok(())
}
