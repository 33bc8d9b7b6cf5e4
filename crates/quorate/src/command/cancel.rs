//! `quorate cancel`: withdraw an invitation, whether this user takes part or only signed it.

use std::process::ExitCode;

use quorate_identity::Code;
use quorate_node::{
    cancelling::{self, CancelConfig, Cancelled},
    control::{self, Found, Role},
    files::{Home, Issued, issued, keep_cancel},
    overlay::Reach,
    party::{Scope, Stop, note_cancelled},
};
use quorate_session::Pid;
use serde_json::json;

use crate::{
    args::{CancelArgs, Global},
    command::home,
    failure::Failure,
    invitation::now,
    part::with_user,
    standing::{is_meant, short},
    text,
};

pub fn run(global: &Global, args: &CancelArgs) -> Result<ExitCode, Failure> {
    let home = home(global)?;
    let mut found = find(&home, &args.session);
    if let Some(session) = running(&home, &args.session, !found.is_empty())? {
        let watch = session.watch_end()?;
        session.cancel(&args.reason)?;
        // The command ends when the session has.
        for status in watch {
            status?;
        }
        say(
            global,
            &session.about.digest,
            &[],
            &[],
            "the parties were told by your own part of it",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let Some(issued) = found.pop() else {
        return Err(Failure::new(
            Code::NoSession,
            format!(
                "no invitation {:?} of yours is valid now",
                text::foreign(&args.session)
            ),
        )
        .hint("only who signed an invitation can cancel it; a party can leave: quorate leave"));
    };
    if !found.is_empty() {
        return Err(
            Failure::new(Code::Usage, "several invitations of yours have this name")
                .note(
                    "they are",
                    found
                        .iter()
                        .chain([&issued])
                        .map(|i| i.invitation.digest().to_string())
                        .collect::<Vec<_>>()
                        .join(", "),
                )
                .hint("give the beginning of the digest instead"),
        );
    }
    with_user(global, false, async |user| {
        let mut stop = user.stop.clone();
        let config = CancelConfig {
            key: user.identity.key.clone(),
            invitation: issued.invitation.clone(),
            secret: quorate_session::RendezvousSecret::new(*issued.secret.as_bytes()),
            addresses: issued.hints.iter().chain(&args.at).cloned().collect(),
            reason: args.reason.clone(),
            scope: if args.local { Scope::Local } else { Scope::Lan },
            reach: Reach::default(),
            patience: args.wait,
        };
        let stopped = async move {
            let _ = stop.wait_for(|s| *s != Stop::No).await;
        };
        let keep = |cancel: &str| keep_cancel(&user.home, &issued, cancel);
        note_cancelled(&user.home, &issued.invitation)?;
        let done = Box::pin(cancelling::cancel(config, keep, stopped)).await?;
        conclude(global, &issued, &done)
    })
}

/// The session on this home that is to be cancelled: one that this user called for. One of somebody else only if nothing of
/// the user's own has that name; it then refuses.
fn running(home: &Home, name: &str, own: bool) -> Result<Option<Found>, Failure> {
    let meant: Vec<Found> = control::sessions(home)?
        .into_iter()
        .filter(|s| s.alive && is_meant(name, &s.about.session, &s.about.digest))
        .collect();
    let signed: Vec<String> = issued(home, now())
        .iter()
        .map(|i| i.invitation.digest().to_string())
        .collect();
    // A call is in no list of what was signed for a session; its process knows.
    let mine = |s: &Found| {
        signed.contains(&s.about.digest) || s.status().is_ok_and(|s| s.role != Role::Party)
    };
    let (mut mine, others): (Vec<_>, Vec<_>) = meant.into_iter().partition(mine);
    if mine.len() > 1 {
        let digests: Vec<_> = mine.iter().map(|s| short(&s.about.digest)).collect();
        return Err(
            Failure::new(Code::Usage, "several sessions of yours are on")
                .note("they are", digests.join(", "))
                .hint("give the beginning of the digest instead"),
        );
    }
    let other = others.into_iter().next().filter(|_| !own);
    Ok(mine.pop().or(other))
}

fn conclude(global: &Global, issued: &Issued, done: &Cancelled) -> Result<ExitCode, Failure> {
    let names = |pids: &[Pid]| -> Vec<String> {
        let parties = &issued.invitation.subject.parties;
        let name = |pid: &Pid| parties.get(pid.index()).map(|p| text::name(&p.name));
        pids.iter().filter_map(name).collect()
    };
    let (told, untold) = (names(&done.told), names(&done.untold));
    if told.is_empty() && !untold.is_empty() {
        let digest = issued.invitation.digest().to_string();
        return Err(Failure::new(Code::NoPath, "no party could be reached; the cancel is signed and kept")
            .note("parties", untold.join(", "))
            .hint(format!("whoever takes part later goes on until told: run it again, for longer:   quorate cancel {} --wait 10m", short(&digest))));
    }
    let line = "told, and they tell the others they are connected with";
    say(
        global,
        &issued.invitation.digest().to_string(),
        &told,
        &untold,
        line,
    );
    Ok(ExitCode::SUCCESS)
}

fn say(global: &Global, digest: &str, told: &[String], untold: &[String], line: &str) {
    if global.json {
        text::say(
            json!({"schema": crate::report::schema("event"), "event": "cancelled", "digest": digest,
            "told": told, "untold": untold}),
        );
    } else if !global.quiet {
        let told = if told.is_empty() {
            String::new()
        } else {
            format!("{} ", told.join(", "))
        };
        text::say(text::row(
            "cancelled",
            &format!("{} · {told}{line}", short(digest)),
        ));
        if !untold.is_empty() {
            text::say(text::row(
                "not heard",
                &format!(
                    "{}   (run it again if one of them is still waiting)",
                    untold.join(", ")
                ),
            ));
        }
    }
}

fn find(home: &Home, name: &str) -> Vec<Issued> {
    let mut all = issued(home, now());
    all.retain(|i| {
        is_meant(
            name,
            &i.invitation.subject.title,
            &i.invitation.digest().to_string(),
        )
    });
    all
}
