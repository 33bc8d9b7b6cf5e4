//! `quorate again` and `quorate run`: the same people once more, with the same program or another.
//!
//! It is a new session in every respect: new keys, a new signed invitation that names the one before,
//! brought to the others by post. Nobody takes part without being asked again. If the last one is still on and only this
//! user's process was killed, `again` comes back to it instead.

use std::{path::Path, process::ExitCode, time::Duration};

use quorate_identity::{Code, Did};
use quorate_node::files::{Contacts, SessionMemory};
use quorate_session::PartyDraft;
use serde_json::json;

use crate::{
    args::{AgainArgs, Global, PartArgs, RunArgs},
    command::{
        home,
        invite::{Terms, invited, party, send_and_take_part},
        print_stdout,
    },
    consent::Terminal,
    failure::Failure,
    part::{
        Consent, Invited, Options, User, called, came_back, own_name, reach, returning, take_part,
        with_user,
    },
    text,
};

pub fn again(global: &Global, args: AgainArgs) -> Result<ExitCode, Failure> {
    if args.list {
        return list(global);
    }
    let change = Change::parse(&args.words, args.minus)?;
    with_user(global, args.part.with_parent, async |mut user| {
        let memory = remembered(&user, change.session.as_deref())?;
        if !change.is_one() && args.args.is_empty() {
            // The others wait for this user in the session itself, not in a new one.
            if let Some(killed) = returning::killed_one(&user, &memory.digest)? {
                return come_back(&user, killed, args.part).await;
            }
        }
        let public = if args.args.is_empty() {
            &memory.args
        } else {
            &args.args
        };
        let mut terms = terms(&user, &memory, &memory.program, public, args.expires)?;
        terms.send_program = args.send_program;
        let contacts = user.contacts()?;
        let parties = change.apply(&mut user, &memory, &contacts).await?;
        let started = start(&user, &memory, terms, parties, args.part, &memory.program);
        Box::pin(started).await
    })
}

/// Takes part again in a session in which the process of this user was killed.
async fn come_back(user: &User<'_>, killed: Invited, part: PartArgs) -> Result<ExitCode, Failure> {
    let whose = called(user, &killed.invitation.issuer)?;
    user.show([came_back(&killed, &whose)]);
    let mut options = Options::new(&user.home, part, Vec::new())?;
    returning::complete(user, &killed, &mut options)?;
    take_part(user, killed, options, Consent::Ask).await
}

/// After a session: asks for another program for the same people, until there is none. Ends with the result of the last run.
pub async fn hold(
    user: &mut User<'_>,
    part: &PartArgs,
    mut done: ExitCode,
) -> Result<ExitCode, Failure> {
    while let Some(memory) = SessionMemory::all(&user.home)?.into_iter().next() {
        let Some(mut terminal) = Terminal::open(user.global) else {
            return Err(
                Failure::new(Code::Declined, "nobody could be asked for another program").hint(
                    format!(
                        "leave out --hold, then: quorate run {} PROGRAM",
                        memory.name
                    ),
                ),
            );
        };
        let question = "\nAnother program for the same people? Write it with its public arguments, or press Enter to end:  ";
        let asked = user.unless_stopped(async { Ok(terminal.ask(question).await) });
        let Ok(Some(answer)) = asked.await else {
            return Ok(done);
        };
        drop(terminal);
        let mut words = answer.split_whitespace().map(str::to_owned);
        let Some(program) = words.next() else {
            return Ok(done);
        };
        let next = Next {
            program,
            args: words.filter(|word| word != "--").collect(),
            expires: None,
            send_program: false,
        };
        done = match Box::pin(next.run(user, &memory, part.clone())).await {
            Ok(code) => code,
            Err(failure) if failure.is_the_users() => return Err(failure),
            Err(failure) => failure.print(user.global),
        };
    }
    Ok(done)
}

/// Another program for the people of a session.
struct Next {
    program: String,
    args: Vec<String>,
    expires: Option<Duration>,
    send_program: bool,
}

impl Next {
    async fn run(
        self,
        user: &mut User<'_>,
        memory: &SessionMemory,
        part: PartArgs,
    ) -> Result<ExitCode, Failure> {
        let mut terms = terms(user, memory, &self.program, &self.args, self.expires)?;
        terms.send_program = self.send_program;
        let contacts = user.contacts()?;
        let parties = Change::default().apply(user, memory, &contacts).await?;
        let started = start(user, memory, terms, parties, part, &self.program);
        Box::pin(started).await
    }
}

pub fn run(global: &Global, args: RunArgs) -> Result<ExitCode, Failure> {
    with_user(global, args.part.with_parent, async |mut user| {
        let memory = remembered(&user, Some(&args.session))?;
        let next = Next {
            program: args.program,
            args: args.args,
            expires: args.expires,
            send_program: args.send_program,
        };
        next.run(&mut user, &memory, args.part).await
    })
}

fn list(global: &Global) -> Result<ExitCode, Failure> {
    let all = SessionMemory::all(&home(global)?)?;
    if global.json {
        let sessions: Vec<_> = all
            .iter()
            .map(|m| json!({"name": m.name, "title": m.title, "program": m.program, "digest": m.digest,
                "inviter": m.inviter, "agreed": m.agreed.rfc3339(),
                "parties": m.parties.iter().map(|p| json!({"name": p.name, "did": p.did})).collect::<Vec<_>>()}))
            .collect();
        print_stdout(
            &json!({"schema": crate::report::schema("sessions"), "sessions": sessions}).to_string(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    for memory in &all {
        let names: Vec<_> = memory.parties.iter().map(|p| text::name(&p.name)).collect();
        print_stdout(&format!(
            "{}  {}  {}  {}",
            memory.name,
            memory.agreed.rfc3339(),
            text::foreign(&memory.program),
            names.join(", ")
        ));
    }
    if all.is_empty() && !global.quiet {
        text::say(text::row("sessions", "none yet"));
    }
    Ok(ExitCode::SUCCESS)
}

fn remembered(user: &User<'_>, name: Option<&str>) -> Result<SessionMemory, Failure> {
    if let Some(name) = name {
        return Ok(SessionMemory::find(&user.home, name)?);
    }
    SessionMemory::all(&user.home)?
        .into_iter()
        .next()
        .ok_or_else(|| {
            Failure::new(
                Code::NoSession,
                "there was no session yet that could be done again",
            )
            .hint("begin one: quorate invite PROGRAM --seats N")
        })
}

/// The terms of before; the title counts on, so that the names of the sessions stay apart everywhere.
fn terms(
    user: &User<'_>,
    memory: &SessionMemory,
    program: &str,
    args: &[String],
    expires: Option<Duration>,
) -> Result<Terms, Failure> {
    let expires = expires.unwrap_or(Duration::from_secs(memory.expires_seconds));
    let mut terms = match &memory.executable {
        Some(entry) if program == memory.program => {
            let words: Vec<String> = [std::slice::from_ref(entry), args].concat();
            Terms::of_executable(Some(program), &words, expires)?
        }
        _ => Terms::of_program(program, args, expires)?,
    };
    terms.title = memory.next_title(&user.home);
    terms.threshold = Some(memory.threshold);
    terms.supersedes = Some(memory.digest);
    Ok(terms)
}

async fn start(
    user: &User<'_>,
    memory: &SessionMemory,
    mut terms: Terms,
    parties: Vec<PartyDraft>,
    mut part: PartArgs,
    program: &str,
) -> Result<ExitCode, Failure> {
    // With other people the threshold of before may not fit; then it is the default again.
    if parties.len() != memory.parties.len() {
        terms.threshold = None;
    }
    terms.no_privacy = part.no_privacy;
    if part.private_args.is_none() {
        part.private_args.clone_from(&memory.private_args);
    }
    let named = !part.relay.is_empty() || !part.relay_pass.is_empty();
    let mut options = Options::new(&user.home, part, Vec::new())?;
    if !named {
        let scope = options.overlay_scope();
        reach::remember(&mut options.reach, &memory.relays, scope);
    }
    let terms = terms.reachable(&options.reach);
    options.program = Some(terms.program.clone());
    let path = Path::new(program);
    options.program_path = path.exists().then(|| path.to_owned());
    let names: Vec<_> = parties.iter().map(|p| text::name(&p.name)).collect();
    user.show([text::row(
        "again",
        &format!(
            "{} → {}   {}",
            memory.name,
            text::foreign(&terms.title),
            names.join(", ")
        ),
    )]);
    send_and_take_part(user, &terms, parties, options).await
}

/// Who else, who not.
#[derive(Debug, Default)]
struct Change {
    session: Option<String>,
    add: Vec<String>,
    remove: Vec<String>,
}

impl Change {
    /// Whether somebody comes or goes.
    fn is_one(&self) -> bool {
        !self.add.is_empty() || !self.remove.is_empty()
    }

    fn parse(words: &[String], remove: Vec<String>) -> Result<Self, Failure> {
        let mut change = Self {
            remove,
            ..Self::default()
        };
        for word in words {
            match word.strip_prefix('+') {
                Some(name) => change.add.push(name.into()),
                None if change.session.is_none() => change.session = Some(word.clone()),
                None => {
                    return Err(Failure::new(
                        Code::Usage,
                        format!("{:?} is a second session", text::foreign(word)),
                    )
                    .hint("people are written +NAME or -NAME"));
                }
            }
        }
        Ok(change)
    }

    /// The parties: me first, those of before in their order, then the new ones.
    async fn apply(
        &self,
        user: &mut User<'_>,
        memory: &SessionMemory,
        contacts: &Contacts,
    ) -> Result<Vec<PartyDraft>, Failure> {
        let me = user.identity.key.did();
        let mine = memory.parties.iter().find(|p| p.did == me);
        let name = match mine {
            Some(party) => party.name.clone(),
            None => own_name(user, None).await?,
        };
        let mut parties = vec![party(&name, &me)?];
        let mut gone = Vec::new();
        for word in &self.remove {
            gone.extend(Self::whom(word, memory, contacts)?);
        }
        for old in memory
            .parties
            .iter()
            .filter(|p| p.did != me && !gone.contains(&p.did))
        {
            let name = contacts.by_did(&old.did).map_or(&old.name, |c| &c.name);
            parties.push(party(name, &old.did)?);
        }
        for new in invited(&self.add, contacts, parties.len())? {
            if parties.iter().all(|p| p.did != new.did) {
                parties.push(new);
            }
        }
        Ok(parties)
    }

    /// Parties of before that `word` names: by my name for them, by the invitation's, or by DID.
    fn whom(word: &str, memory: &SessionMemory, contacts: &Contacts) -> Result<Vec<Did>, Failure> {
        let group = word
            .strip_prefix('@')
            .and_then(|g| contacts.members(g).ok());
        if let Some(members) = group {
            return Ok(members.into_iter().map(|c| c.did.clone()).collect());
        }
        let known = contacts.by_name(word).map(|c| c.did.clone());
        let listed = memory.parties.iter().find(|p| {
            Some(&p.did) == known.as_ref()
                || p.did.as_str() == word
                || (known.is_none() && p.name == word)
        });
        if let Some(party) = listed {
            return Ok(vec![party.did.clone()]);
        }
        let names: Vec<_> = memory.parties.iter().map(|p| text::name(&p.name)).collect();
        Err(Failure::new(
            Code::Contact,
            format!("{:?} was no party of {}", text::foreign(word), memory.name),
        )
        .note("parties", names.join(", ")))
    }
}
