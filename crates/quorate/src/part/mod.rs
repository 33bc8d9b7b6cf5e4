//! One person's part in one session: the same for every command that leads into one.
//!
//! ```text
//! join FILE ─┐
//! join TICKET┤                  check me, deadline        show, ask
//! join       ┼─ invitation ──►  program, Python   ──►  (unless agreed) ──► party::run ──► exit code
//! invite     ┤   + bundle
//! again, run ┘
//! ```
//!
//! One wish to stop (Ctrl-C, SIGTERM, SIGHUP) serves all phases: before the session it ends the
//! command, in the session it is passed on, so that the others are told.

mod applying;
mod attached;
mod card;
mod collecting;
mod delivery;
mod detached;
mod machine;
mod memory;
mod outcome;
mod own_name;
mod pager;
pub mod privacy;
mod process;
pub mod reach;
pub mod readiness;
pub mod returning;
mod sent;
mod starting;
mod unreached;

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use quorate_identity::{Code, Verified};
use quorate_node::{
    Fault,
    control::Control,
    files::{Contacts, Home, IdentityFile, Inbox, ProgramFiles},
    overlay::{self, Reach},
    party::{self, EVENT_QUEUE, Execution, PartyConfig, Scope, Stop},
};
use quorate_session::{
    Bundle, ContentDigest, Invitation, Outcome,
    message::{Engine, Program},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use crate::{
    args::{ExecutionArgs, Global, PartArgs, StartWhen},
    command::{contacts, home},
    failure::Failure,
    invitation::{People, describe, people_lines, read_text},
    report::{self, Report, schema},
    text,
};

pub use applying::apply;
pub use card::{card_of, own_card};
pub use collecting::{called, came_back, collect};
pub use delivery::Delivery;
pub use detached::Orders;
pub use memory::Claim;
pub use own_name::own_name;
pub use process::{keep_on_hangup, protect_memory};
pub use readiness::Prepared;
use sent::{Sent, agree};
pub use sent::{parse_digest, print as print_program, sending_line, source_of, summary};
use starting::Starter;
use unreached::{Patience, Sought};

/// How long the runtime may take to let go of what it still holds.
const LET_GO: Duration = Duration::from_secs(1);

/// What this party decided on its command line.
#[derive(Clone)]
pub struct Options {
    /// Where its copy of the program is, if quorate does not carry it.
    pub program_path: Option<PathBuf>,
    /// Its copy of the program, where it is at hand already.
    pub program: Option<ProgramFiles>,
    pub python: Option<PathBuf>,
    pub yes: bool,
    pub scope: Scope,
    /// Addresses to try.
    pub at: Vec<String>,
    /// Through which relays.
    pub reach: Reach,
    /// Nodes that keep where this party is, besides the relays.
    pub network: Vec<String>,
    pub private_args: Vec<String>,
    /// How the program is run here.
    pub execution: ExecutionArgs,
    /// The user knows that nothing protects the inputs.
    pub no_privacy: bool,
    /// When the program may start.
    pub start: StartWhen,
    /// How long somebody is looked for, if the user said so.
    pub patience: Option<Duration>,
    /// Programs that may come along and be run unseen.
    pub accept: Vec<ContentDigest>,
    /// The file that they came from.
    pub private_args_file: Option<PathBuf>,
    /// Whether to take part in the background.
    pub detach: bool,
    /// Where a process in the background writes what it says.
    pub log: Option<PathBuf>,
}

impl Options {
    /// Reads the options; the private arguments come from `args` or from the file that was named.
    pub fn new(home: &Home, part: PartArgs, args: Vec<String>) -> Result<Self, Failure> {
        let reach = reach::of(&part, home)?;
        let network = reach::network(&part, home)?;
        let private_args = match &part.private_args {
            Some(file) => read_text(file)?.lines().map(str::to_owned).collect(),
            None => args,
        };
        let file = part.private_args.filter(|f| *f != Path::new("-"));
        Ok(Self {
            private_args_file: file.and_then(|f| std::path::absolute(f).ok()),
            program_path: None,
            program: None,
            python: part.python,
            yes: part.yes,
            scope: if part.local { Scope::Local } else { Scope::Lan },
            at: part.at,
            reach,
            network,
            private_args,
            execution: part.execution,
            detach: part.detach,
            log: None,
            no_privacy: part.no_privacy,
            start: part.start,
            patience: None,
            accept: Vec::new(),
        })
    }
}

impl Options {
    /// Where overlays listen and dial.
    pub fn overlay_scope(&self) -> overlay::Scope {
        match self.scope {
            Scope::Local => overlay::Scope::Local,
            Scope::Lan => overlay::Scope::Lan,
        }
    }

    /// Whether a program of this digest may be run unseen.
    fn accepts(&self, digest: ContentDigest) -> bool {
        self.accept.contains(&digest)
    }
}

/// The person at this command: who they are, where their files are, and whether they want to stop.
pub struct User<'g> {
    pub global: &'g Global,
    pub home: Home,
    pub identity: IdentityFile,
    pub stop: watch::Receiver<Stop>,
}

impl User<'_> {
    /// What `work` gives, unless the user stops the command before.
    pub async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s != Stop::No) => Err(stopped()),
            done = work => done,
        }
    }

    /// One event for programs; people get lines.
    pub fn event(&self, name: &str, members: &[(&str, Value)]) {
        if !self.global.json {
            return;
        }
        let mut event = json!({"schema": schema("event"), "event": name});
        for (key, value) in members {
            event[*key] = value.clone();
        }
        text::say(event);
    }

    /// Something to know.
    pub fn note(&self, note: &str) {
        self.event("note", &[("text", note.into())]);
        self.show([text::row("note", &text::foreign(note))]);
    }

    /// A relay does not let the user in.
    pub fn relay_refused(&self, relay: &str, code: Code, text: &str) {
        let code = code.as_str();
        let members = [("relay", relay), ("code", code), ("text", text)];
        self.event("relay-refused", &members.map(|(k, v)| (k, v.into())));
        self.show([text::row("note", &text::foreign(text))]);
    }

    /// Says that a kept invitation cannot be read, and goes on with the others.
    fn leave_out(&self, why: &Fault) {
        self.note(&format!("a kept invitation is left out: {}", why.detail));
    }

    /// The people this user knows.
    pub fn contacts(&self) -> Result<Contacts, Failure> {
        contacts::load(self.global, &self.home)
    }

    /// Shows lines to people; `--quiet` and `--json` have none.
    pub fn show(&self, lines: impl IntoIterator<Item = String>) {
        if !self.global.quiet && !self.global.json {
            lines.into_iter().for_each(text::say);
        }
    }
}

/// The user stopped the command before a session began.
pub fn stopped() -> Failure {
    Failure::new(Code::Interrupted, "stopped by the user")
}

/// Makes what every waiting command needs (identity, runtime, signals), runs `work`
/// and lets go of everything.
pub fn with_user<'g, F>(
    global: &'g Global,
    with_parent: bool,
    work: impl FnOnce(User<'g>) -> F,
) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<ExitCode, Failure>> + 'g,
{
    if with_parent {
        process::end_with_parent()?;
    }
    let home = home(global)?;
    let (identity, _) = IdentityFile::load_or_create(&home)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, format!("no runtime: {e}")))?;
    let (wish, stop) = watch::channel(Stop::No);
    runtime.spawn(process::watch_signals(wish));
    let user = User {
        global,
        home,
        identity,
        stop,
    };
    // Boxed: it holds the states of all phases.
    let done = runtime.block_on(Box::pin(work(user)));
    // The program's last output is flushed by now; nothing else may keep the process alive.
    runtime.shutdown_timeout(LET_GO);
    done
}

/// An invitation that verified, with the means to find the others.
pub struct Invited {
    pub invitation: Verified<Invitation>,
    pub bundle: Bundle,
    /// What the parties said about themselves on the way here.
    pub claims: Vec<Claim>,
    /// The post that brings it to the others, if this user invited them.
    pub delivery: Option<Delivery>,
    /// The control socket of the lobby that it came from.
    pub control: Option<Control>,
    /// The program that came along with the call, which was agreed to.
    pub program: Option<ProgramFiles>,
}

/// What the user agreed to already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Nothing yet: they are asked, unless `-y` was given.
    Ask,
    /// The terms, not knowing who else takes part: they are asked again if there is a new face.
    Terms,
    /// Everything: they wrote it.
    Inviter,
}

/// Finds what the program needs on this machine, and says it with what the others will see.
async fn show_machine(
    user: &User<'_>,
    (program, engine): (&Program, Engine),
    options: &Options,
    others_see: &str,
) -> Result<(Prepared, machine::Confined), Failure> {
    let (prepared, confined) = machine_for(user, (program, engine), options).await?;
    user.show([
        text::row("yours", &prepared.line(options.private_args.len())),
        confined.line.clone(),
        text::row("others see", others_see),
    ]);
    if let (true, Some(warning)) = (user.global.json, &confined.warning) {
        report::note(warning);
    }
    Ok((prepared, confined))
}

/// Whether this machine can run the program, before others are troubled. A program that can be isolated now will be, or it
/// will not run.
pub async fn check_machine(
    user: &User<'_>,
    program: &Program,
    engine: Engine,
    options: &mut Options,
) -> Result<(), Failure> {
    let (_, confined) = machine_for(user, (program, engine), options).await?;
    confined.hold(&mut options.execution);
    Ok(())
}

async fn machine_for(
    user: &User<'_>,
    (program, engine): (&Program, Engine),
    options: &Options,
) -> Result<(Prepared, machine::Confined), Failure> {
    let prepared = user
        .unless_stopped(Prepared::find(program, engine, options))
        .await?;
    let confined = machine::confined(&options.execution, engine)?;
    Ok((prepared, confined))
}

/// From an invitation to the end of its session.
pub async fn take_part(
    user: &User<'_>,
    invited: Invited,
    mut options: Options,
    consent: Consent,
) -> Result<ExitCode, Failure> {
    let Invited {
        invitation,
        bundle,
        claims,
        delivery,
        control,
        program,
    } = invited;
    options.program = options.program.or(program);
    privacy::check_keys([&user.identity.key.did()])?;
    let me = readiness::my_index(&invitation, &user.identity.key)?;
    if let Some(first) = attached::first(user, &invitation.digest().to_string())? {
        return attached::follow(user, first, !options.private_args.is_empty()).await;
    }
    privacy::check_invitation(&invitation, options.no_privacy)?;
    let (mpc, args) = (&invitation.subject.mpc, &invitation.subject.program.args);
    let engine = mpc.engine().unwrap_or_default();
    readiness::check_arguments(engine, args, mpc.m.into())?;
    // Whoever was in it when they were killed may have a receipt to give, also later.
    if Inbox::taken(&user.home)
        .find(&invitation.digest())?
        .is_none()
    {
        readiness::check_deadline(invitation.subject.time.join_by)?;
    }
    readiness::check_scope(invitation.subject.net.path, options.scope)?;
    readiness::check_policy(invitation.subject.net.path)?;
    let people = People {
        contacts: user.contacts()?,
        me: user.identity.key.did(),
    };
    if options.detach && options.start == StartWhen::Ask {
        let why = "nobody can be asked when to start in the background";
        return Err(
            Failure::new(Code::Usage, why).hint("give --start a time, or leave out --detach")
        );
    }
    let (start, starter) = starting::start(user, options.start)?;
    let new_faces = people.new_faces(&invitation);
    let wanted = &invitation.subject.program;
    let sent = Sent::look_for(bundle.program.as_ref(), wanted, &options)?;
    options.program = options.program.or(sent.as_ref().map(|s| s.files.clone()));
    let (prepared, confined) = match consent {
        Consent::Ask => {
            user.show(describe(&invitation, Some(&people)));
            user.show(sent.as_ref().map(|s| s.line(&options)));
            let others_see = "your DID, your name above, your network address; shares; what the program opens to all";
            show_machine(
                user,
                (&invitation.subject.program, engine),
                &options,
                others_see,
            )
            .await?
        }
        Consent::Terms | Consent::Inviter => {
            machine_for(user, (&invitation.subject.program, engine), &options).await?
        }
    };
    if consent == Consent::Terms && !new_faces.is_empty() {
        user.show(people_lines(&invitation, &people));
    }
    let asks = match consent {
        Consent::Ask => Some("Take part?".to_owned()),
        Consent::Terms if !new_faces.is_empty() => {
            Some(format!("Take part with {}?", new_faces.join(", ")))
        }
        Consent::Terms | Consent::Inviter => None,
    };
    if let Some(question) = asks {
        user.unless_stopped(agree(user, sent.as_ref(), &options, &question))
            .await?;
    }
    confined.hold(&mut options.execution);
    if options.detach {
        let digest = invitation.digest().to_string();
        let python = prepared
            .python
            .as_ref()
            .map(|(python, _)| python.path.as_path());
        let program = &prepared.program;
        let invited = (&bundle, claims.as_slice());
        return detached::start(user, &digest, invited, program, python, &options).await;
    }
    let name = memory::keep_session(user, &invitation, &options)?;
    user.event(
        "session",
        &[
            ("name", name.clone().into()),
            ("digest", invitation.digest().to_string().into()),
        ],
    );
    let patience = options.patience.map(|limit| {
        let sought = Sought {
            cause: "none of the other parties could be reached",
            source: "the invitation",
            addresses: &bundle.hints,
            question: "have they run `quorate join`?",
        };
        (limit, sought.not_found(limit, &options))
    });
    returning::begin(user, &invitation, &bundle)?;
    let relays = options.reach.relays.clone();
    let kept = Zeroizing::new(bundle.encode());
    let ended = invitation.clone();
    let config = PartyConfig {
        fingerprint: prepared.fingerprint(),
        addresses: bundle.hints.iter().chain(&options.at).cloned().collect(),
        secret: bundle.secret,
        key: user.identity.key.clone(),
        program: prepared.program,
        python: prepared.python.map(|(python, _)| python.path),
        private_args: options.private_args,
        working_folder: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        scope: options.scope,
        reach: options.reach,
        network: options.network,
        check_own_program: true,
        home: user.home.clone(),
        name: name.clone(),
        control,
        log: options.log,
        execution: Execution {
            confinement: confined.confinement,
            start,
        },
        stdout: Box::new(|| Box::new(tokio::io::stdout())),
        stderr: Box::new(|| Box::new(tokio::io::stderr())),
        invitation,
    };
    let patience = Patience::new(patience, relays, &user.stop);
    let done = run(user, config, (me, &claims), (delivery, starter), patience).await;
    let again = returning::settle(user, &ended, &kept);
    done.map_err(|failure| {
        let line = format!("while the others do the same:   quorate join {name}");
        if again {
            failure.note("again", line)
        } else {
            failure
        }
    })
}

async fn run(
    user: &User<'_>,
    config: PartyConfig,
    (me, claims): (usize, &[Claim]),
    (mut delivery, mut starter): (Option<Delivery>, Option<Starter>),
    (mut patience, stop): (Patience, watch::Receiver<Stop>),
) -> Result<ExitCode, Failure> {
    let local = config.scope == Scope::Local;
    let invitation = config.invitation.clone();
    let mut report = Report::new(user.global, &invitation, me, local);
    let (events, mut shown) = mpsc::channel(EVENT_QUEUE);
    let run = tokio::spawn(party::run(config, events, stop));
    loop {
        tokio::select! {
            event = shown.recv() => match event {
                Some(event) => {
                    if let Some(starter) = &mut starter {
                        starter.look_at(&event);
                    }
                    patience.look_at(&event, report.me().0);
                    report.show(&event);
                }
                None => break,
            },
            news = news(&mut delivery) => {
                user.event("sent", &[("did", news.did.to_string().into())]);
                report.aside(&news.line);
            }
            () = patience.step() => {}
        }
    }
    if let Some(delivery) = delivery {
        delivery.stop().await;
    }
    let outcome = run
        .await
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))??;
    if let (Some(failure), Outcome::Failed { .. }) = (patience.ended_it(), &outcome) {
        return Err(failure);
    }
    if report.sealed() {
        memory::keep_people(user, &invitation, claims);
    }
    outcome::conclude(&invitation, &report, outcome)
}

async fn news(delivery: &mut Option<Delivery>) -> delivery::News {
    match delivery {
        Some(delivery) => delivery.news().await,
        None => std::future::pending().await,
    }
}

/// Takes part, then stays: the same inviter may ask for another program, and the user is asked again
/// each time. Ctrl-C ends it with the result of the last run.
pub async fn take_part_and_hold(
    user: &User<'_>,
    mut invited: Invited,
    options: Options,
    mut consent: Consent,
) -> Result<ExitCode, Failure> {
    let mut chain = BTreeSet::new();
    let mut options = options;
    loop {
        let inviter = invited.invitation.issuer.clone();
        let program = invited.invitation.subject.program.manifest;
        chain.insert(invited.invitation.digest());
        let done = match take_part(user, invited, options.clone(), consent).await {
            Err(failure) if failure.is_the_users() => return Err(failure),
            // One bad run ends nothing: the next one may be asked for because of it.
            Err(failure) => failure.print(user.global),
            Ok(code) => code,
        };
        invited = match collecting::next_of(user, &options, &inviter, &chain).await {
            Ok(next) => next,
            Err(failure) if failure.is_the_users() => return Ok(done),
            Err(failure) => return Err(failure),
        };
        if invited.invitation.subject.program.manifest != program {
            // The copy was one of the program of before.
            options.program_path = None;
            options.program = None;
        }
        consent = Consent::Ask;
    }
}
