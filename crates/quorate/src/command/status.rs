//! `quorate status`: what is on, and how the last sessions ended.

use std::process::ExitCode;

use quorate_identity::Code;
use quorate_node::control::{self, Found, SessionStatus};

use crate::{
    args::{Global, StatusArgs},
    command::{home, print_stdout},
    failure::Failure,
    standing::{Changes, block, choose, conclude, document, is_meant, links},
    text,
};

/// Ended sessions that are shown when nobody asked for one of them.
const SHOWN_ENDED: usize = 5;

pub fn run(global: &Global, args: &StatusArgs) -> Result<ExitCode, Failure> {
    if args.watch {
        return watch(global, args.session.as_deref());
    }
    let home = home(global)?;
    let wanted = |session: &str, digest: &str| {
        let name = args.session.as_deref();
        name.is_none_or(|name| is_meant(name, session, digest))
    };
    let mut on = Vec::new();
    let mut dead = Vec::new();
    for found in control::sessions(&home)? {
        if !wanted(&found.about.session, &found.about.digest) {
            continue;
        }
        // A session that ends while it is asked is found among the ended ones.
        match found.alive.then(|| found.status()) {
            Some(Ok(status)) => on.push(status),
            Some(Err(_)) => {}
            None => dead.push(found),
        }
    }
    let running: Vec<&str> = on.iter().map(|s| s.digest.as_str()).collect();
    let ended: Vec<SessionStatus> = control::list(&home)
        .into_iter()
        .filter(|s| wanted(&s.session, &s.digest) && !running.contains(&s.digest.as_str()))
        .collect();
    if on.is_empty()
        && ended.is_empty()
        && dead.is_empty()
        && let Some(name) = &args.session
    {
        let why = format!("no session {:?} is known here", text::name(name));
        return Err(Failure::new(Code::NoSession, why));
    }
    let ended = ended.iter().take(if args.session.is_some() {
        ended.len()
    } else {
        SHOWN_ENDED
    });
    if global.json {
        on.iter()
            .chain(ended)
            .for_each(|s| print_stdout(&document(s).to_string()));
        return Ok(ExitCode::SUCCESS);
    }
    for status in &on {
        let lines = if args.links {
            links(status)
        } else {
            block(status)
        };
        lines.into_iter().for_each(text::say);
    }
    for status in ended.filter(|_| !args.links) {
        block(status).into_iter().for_each(text::say);
    }
    for found in &dead {
        text::say(left_behind(found));
    }
    if on.is_empty() {
        text::say(text::row("now", "no session is on"));
    }
    Ok(ExitCode::SUCCESS)
}

fn left_behind(found: &Found) -> String {
    let line = format!(
        "killed: process {} is gone, what it made is still there   (quorate clean removes it; quorate join takes part again)",
        found.about.process
    );
    text::row(&text::foreign(&found.about.session), &line)
}

fn watch(global: &Global, name: Option<&str>) -> Result<ExitCode, Failure> {
    let found = choose(&home(global)?, name)?;
    let mut changes = Changes::default();
    let mut last = None;
    for status in found.watch()? {
        let status = status?;
        if global.json {
            print_stdout(&document(&status).to_string());
        } else {
            changes.since(&status).into_iter().for_each(text::say);
        }
        last = Some(status);
    }
    let code = conclude(last)?;
    if !global.json {
        text::say(text::row("finished", "the program ended well"));
    }
    Ok(code)
}

/// What `quorate` alone adds when a session is on; silent if that cannot be known.
pub fn mention(global: &Global) {
    let Ok(home) = home(global) else { return };
    let sessions = control::sessions(&home).unwrap_or_default();
    for status in sessions
        .iter()
        .filter(|s| s.alive)
        .filter_map(|s| s.status().ok())
    {
        text::say("");
        block(&status).into_iter().for_each(text::say);
    }
}
