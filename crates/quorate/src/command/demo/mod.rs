//! `quorate demo`: a whole session on one machine, each party a process of its own.
//!
//! The demo takes no short cut: it runs this same binary once per party and command, with a home
//! folder each, and shows what those processes report.

mod parties;
mod progress;

use std::{path::PathBuf, process::ExitCode};

use quorate_identity::Code;
use quorate_node::{
    files::{Home, RunFolder},
    program::{Builtin, PythonRuntime, environment, python},
};

use self::{
    parties::{Party, Plan},
    progress::Progress,
};
use crate::{
    args::{DemoArgs, Global},
    command::home,
    failure::Failure,
    text,
};

/// What the parties are called.
const NAMES: [&str; 16] = [
    "alba", "bo", "cleo", "dana", "eli", "fay", "gus", "hana", "ivo", "juno", "kai", "lou", "mira",
    "nils", "olga", "pim",
];

pub fn run(global: &Global, args: DemoArgs) -> Result<ExitCode, Failure> {
    // One thread starts the parties and stays: they end when their starter does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, format!("no runtime: {e}")))?;
    let done = runtime.block_on(demo(global, args));
    runtime.shutdown_background();
    done
}

async fn demo(global: &Global, args: DemoArgs) -> Result<ExitCode, Failure> {
    let home = home(global)?;
    let m = usize::from(args.parties);
    if !global.quiet && !global.json {
        text::say(format_args!(
            "quorate {} · {m} parties on this machine, real MPyC, real signatures and WireGuard, nothing leaves it\n",
            env!("CARGO_PKG_VERSION")
        ));
    }
    Home::ensure(home.data())?;
    let python = python_with_mpyc(global, &home, args.python.clone()).await?;
    let folder = RunFolder::create(&home, "demo")?;
    let plan = plan(&folder, &args, python.path)?;
    let result = play(global, &plan, &folder, m).await;
    let removed = folder.remove();
    let progress = result?;
    removed?;
    progress.farewell();
    Ok(ExitCode::SUCCESS)
}

async fn play(
    global: &Global,
    plan: &Plan,
    folder: &RunFolder,
    m: usize,
) -> Result<Progress, Failure> {
    let mut parties = Vec::new();
    for name in &NAMES[..m] {
        parties.push(Party::new(name, folder.path()).await?);
    }
    let mut progress = Progress::new(global, &parties, plan);
    progress.identities(&parties);
    let invitation = parties::invite(plan, &parties, folder.path()).await?;
    parties::run_all(plan, &parties, &invitation, &mut progress).await?;
    Ok(progress)
}

fn plan(folder: &RunFolder, args: &DemoArgs, python: PathBuf) -> Result<Plan, Failure> {
    let builtin = Builtin::find(args.program.strip_prefix("mpyc:").unwrap_or(&args.program));
    let data = folder.path().join("data");
    Home::ensure(&data)?;
    for (name, content) in builtin.map_or(&[][..], |b| b.demo_files) {
        quorate_node::files::write_atomic(&data.join(name), content.as_bytes())?;
    }
    Ok(Plan {
        program: args.program.clone(),
        builtin,
        args: args.args.clone(),
        python,
        data,
    })
}

/// A Python with MPyC: the user's own, or else a private environment that is made once.
async fn python_with_mpyc(
    global: &Global,
    home: &Home,
    explicit: Option<PathBuf>,
) -> Result<PythonRuntime, Failure> {
    let given = explicit.is_some();
    let search = python::Search::from_env(explicit);
    let found = python::find(&search)
        .await
        .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))?;
    // The demo's numbers are those of this MPyC; another one might behave differently.
    if found.mpyc.as_deref() == Some(python::MPYC_VERSION) {
        return Ok(found);
    }
    if given {
        let missing = python::PythonError::NoMpyc { python: found.path };
        return Err(Failure::new(missing.code(), missing.to_string()).hint(missing.fix()));
    }
    let quiet = global.quiet || global.json;
    let into = home.data().join("python");
    environment::prepare(home.data(), &found, |step| {
        if !quiet && step == environment::Step::Creating {
            text::say(text::row(
                "python",
                &format!(
                    "{} has no MPyC {}: making a private environment in {}",
                    found.path.display(),
                    python::MPYC_VERSION,
                    into.display()
                ),
            ));
        }
    })
    .await
    .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))
}
