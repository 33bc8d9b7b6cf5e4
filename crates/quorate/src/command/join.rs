//! `quorate join`: look at an invitation, agree, take part.

use std::{path::Path, process::ExitCode, time::Duration};

use quorate_identity::{CLOCK_SKEW_SECONDS, Code, SigningKey, Verified};
use quorate_node::{
    files::{IdentityFile, ProgramFiles},
    party::{self, EVENT_QUEUE, PartyConfig, Scope, Stop},
    program::{Builtin, PythonRuntime, builtin, check_private_args, python},
};
use quorate_session::{Bundle, Fingerprint, Invitation, Outcome, Pid, message::PathPolicy};
use tokio::sync::{mpsc, watch};

use crate::{
    args::{Global, JoinArgs},
    command::home,
    consent,
    failure::Failure,
    invitation::{describe, now, read_text, receive},
    report::Report,
    text,
};

/// How long after Ctrl-C a second one is still taken for the same keystroke.
const DOUBLE_PRESS: Duration = Duration::from_millis(200);

pub fn run(global: &Global, mut args: JoinArgs) -> Result<ExitCode, Failure> {
    protect_memory();
    if args.with_parent {
        end_with_parent()?;
    }
    check_stdin(&args)?;
    let home = home(global)?;
    let received = receive(&args.file)?;
    let invitation = received.invitation;
    let bundle = received.bundle.ok_or_else(|| {
        Failure::new(Code::Format, "this is only the signed part of an invitation: the secret to find the others is missing")
            .hint("ask the organizer for the whole file that `quorate invite` wrote")
    })?;
    let (identity, _) = IdentityFile::load_or_create(&home)?;
    let me = my_index(&invitation, &identity.key)?;
    if let Some(file) = &args.private_args {
        args.args = read_text(file)?.lines().map(str::to_owned).collect();
    }
    check_deadline(&invitation)?;
    check_paths(&invitation)?;
    check_private_args(&args.args)
        .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.hint()))?;
    let program = my_program(&invitation, args.program.as_deref())?;
    let runtime = runtime()?;
    let python = runtime.block_on(find_python(args.python.clone()))?;
    let mpyc = python
        .require_mpyc()
        .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))?
        .to_owned();

    if !global.quiet && !global.json {
        for line in describe(&invitation) {
            text::say(line);
        }
        text::say(text::row("yours", &yours(&python, &mpyc, &args)));
        text::say(text::row(
            "others see",
            "your DID, your name above, your network address; shares; what the program opens to all",
        ));
    }
    if !args.yes {
        consent::ask(global, "Take part?")?;
    }

    let config = PartyConfig {
        fingerprint: Fingerprint {
            quorate: env!("CARGO_PKG_VERSION").into(),
            mpyc,
            python: python.version.to_string(),
            word: python.word,
            program: program.digest(),
            env: None,
        },
        addresses: addresses(&bundle, &args),
        secret: bundle.secret,
        key: identity.key,
        program,
        python: python.path,
        private_args: args.args,
        working_folder: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        scope: if args.local { Scope::Local } else { Scope::Lan },
        check_own_program: true,
        home,
        stdout: Box::new(|| Box::new(tokio::io::stdout())),
        stderr: Box::new(|| Box::new(tokio::io::stderr())),
        invitation: invitation.clone(),
    };
    let report = Report::new(global, &invitation, me, args.local);
    let outcome = runtime.block_on(take_part(config, report, me));
    // The program's last output is flushed by now; nothing else may keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn take_part(
    config: PartyConfig,
    mut report: Report,
    me: usize,
) -> Result<ExitCode, Failure> {
    let invitation = config.invitation.clone();
    let (events, mut shown) = mpsc::channel(EVENT_QUEUE);
    let (stop, stopped) = watch::channel(Stop::No);
    let signals = tokio::spawn(watch_signals(stop));
    let run = tokio::spawn(party::run(config, events, stopped));
    while let Some(event) = shown.recv().await {
        report.show(&event);
    }
    signals.abort();
    let outcome = run
        .await
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))??;
    conclude(&invitation, &report, me, outcome)
}

/// First signal: tell the others, stop, clean up. Second: clean up at once.
async fn watch_signals(stop: watch::Sender<Stop>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term), Ok(mut hup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return;
    };
    let mut wish = Stop::Gracefully;
    loop {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
        if stop.send(wish).is_err() {
            return;
        }
        wish = Stop::Now;
        tokio::time::sleep(DOUBLE_PRESS).await;
    }
}

fn conclude(
    invitation: &Verified<Invitation>,
    report: &Report,
    me: usize,
    outcome: Outcome,
) -> Result<ExitCode, Failure> {
    match outcome {
        Outcome::Finished { exits, .. } => {
            report.finished(exits.iter().filter(|e| **e == Some(0)).count());
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Failed {
            code,
            whom,
            detail,
            receipts,
        } => {
            let mut failure = Failure::new(seen_from(code, whom, me), detail);
            if let Some(pid) = whom {
                let party = invitation.subject.parties.get(pid.index());
                let who = party.map_or_else(
                    || format!("party {pid}"),
                    |p| format!("{} ({})", text::foreign(&p.name), p.did),
                );
                failure = failure.note("who", who);
            }
            let effect = if report.ran() {
                "the program was stopped; no result came from this run"
            } else {
                "no program was started"
            };
            failure = failure.note("effect", effect);
            if !receipts.is_empty() {
                failure = failure.note(
                    "receipts",
                    format!("{} signed that it ended so", receipts.len()),
                );
            }
            Err(failure)
        }
    }
}

/// What another party's own trouble (its disk, its user, its Python) means here: it left.
fn seen_from(code: Code, whom: Option<Pid>, me: usize) -> Code {
    match (code.exit_code(), whom) {
        (76 | 74 | 130, Some(pid)) if pid.index() != me => Code::PartyLeft,
        _ => code,
    }
}

fn my_index(invitation: &Verified<Invitation>, key: &SigningKey) -> Result<usize, Failure> {
    let did = key.did();
    let parties = &invitation.subject.parties;
    parties.iter().position(|p| p.did == did).ok_or_else(|| {
        let invited: Vec<_> = parties.iter().map(|p| text::foreign(&p.name)).collect();
        Failure::new(
            Code::NotInvited,
            format!(
                "you are not one of the parties of {:?}",
                text::foreign(&invitation.subject.title)
            ),
        )
        .note("invited", invited.join(", "))
        .note("you are", did.to_string())
        .hint("give the organizer your DID, or use the identity that was invited with --home")
    })
}

/// What is read once cannot be two things.
fn check_stdin(args: &JoinArgs) -> Result<(), Failure> {
    let stdin = Path::new("-");
    if args.file != stdin || args.private_args.as_deref() != Some(stdin) {
        return Ok(());
    }
    let why = "stdin cannot be both the invitation and the private arguments";
    Err(Failure::new(Code::Usage, why).hint("put one of them into a file"))
}

fn check_deadline(invitation: &Verified<Invitation>) -> Result<(), Failure> {
    let late = now().0 - invitation.subject.time.join_by.0;
    if late <= CLOCK_SKEW_SECONDS {
        return Ok(());
    }
    Err(Failure::new(
        Code::Time,
        format!("the time to join ended {} ago", text::duration(late)),
    )
    .note("until", invitation.subject.time.join_by.rfc3339())
    .note("your clock", now().rfc3339()))
}

/// What the organizer demands and this version cannot do is refused, not ignored.
fn check_paths(invitation: &Verified<Invitation>) -> Result<(), Failure> {
    if invitation.subject.net.path != PathPolicy::Relay {
        return Ok(());
    }
    Err(Failure::new(
        Code::Version,
        "this invitation allows relayed paths only, which this version of quorate has not",
    )
    .hint("install a newer quorate, or ask the organizer to allow direct paths"))
}

/// The user's copy of the program, which must be the one of the invitation, byte for byte.
fn my_program(
    invitation: &Verified<Invitation>,
    path: Option<&Path>,
) -> Result<ProgramFiles, Failure> {
    let wanted = &invitation.subject.program;
    let program = match path {
        Some(path) => ProgramFiles::read(path, Some(&wanted.entry))?,
        None => builtin_program(&wanted.entry)?.ok_or_else(|| {
            Failure::new(
                Code::Program,
                format!(
                    "{:?} is not a program that quorate carries",
                    text::foreign(&wanted.entry)
                ),
            )
            .hint("point --program at your copy of it; quorate does not fetch programs")
        })?,
    };
    if program.digest() == wanted.manifest {
        return Ok(program);
    }
    Err(Failure::new(
        Code::Program,
        "your program is not the program of this session",
    )
    .note("invitation", wanted.manifest.to_string())
    .note("yours", program.digest().to_string()))
}

fn builtin_program(entry: &str) -> Result<Option<ProgramFiles>, Failure> {
    let found: Option<&Builtin> = builtin::ALL.iter().find(|b| b.file == entry);
    Ok(found
        .map(|b| ProgramFiles::embedded(b.file, b.source))
        .transpose()?)
}

async fn find_python(explicit: Option<std::path::PathBuf>) -> Result<PythonRuntime, Failure> {
    let search = python::Search::from_env(explicit);
    python::find(&search)
        .await
        .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))
}

fn yours(python: &PythonRuntime, mpyc: &str, args: &JoinArgs) -> String {
    let private = if args.args.is_empty() {
        String::new()
    } else {
        format!(
            "; {} private arguments stay on this machine",
            args.args.len()
        )
    };
    format!(
        "the same program ✓  Python {} with MPyC {mpyc} ✓{private}",
        python.version
    )
}

fn addresses(bundle: &Bundle, args: &JoinArgs) -> Vec<String> {
    bundle.hints.iter().chain(&args.at).cloned().collect()
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, format!("no runtime: {e}")))
}

/// Keys must not reach a core file or another process of this user.
fn protect_memory() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(e) = setrlimit(Resource::Core, none) {
        tracing::warn!(%e, "core files could not be switched off");
    }
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%e, "this process may be inspected by others of the same user");
    }
}

fn end_with_parent() -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    // It may have ended before the signal was asked for.
    if getppid() != parent {
        return Err(Failure::new(
            Code::Interrupted,
            "the process that started this one is gone",
        ));
    }
    Ok(())
}
