//! `quorate join`: look at an invitation, agree, take part.
//!
//! What is joined is recognised by its form: a ticket or a link with one, or a file with an invitation
//! (`-` for stdin), which may hold a ticket as well, or the name of a session that stopped here. Without any, it is the
//! session in which this user was killed, or else invitations of contacts are looked for.

use std::{path::Path, process::ExitCode};

use quorate_identity::Code;
use quorate_session::{SEALED_PREFIX, SealSecret, Ticket, open_bundle};

use crate::{
    args::{Global, JoinArgs},
    failure::Failure,
    invitation::{read_text, received},
    part::{
        Consent, Invited, Options, User, apply, collect, own_name, returning, take_part,
        take_part_and_hold, with_user,
    },
};

/// Characters of which a ticket has more, so that a shorter text is taken for the name of a file.
const SHORTEST_TICKET: usize = 40;

/// What somebody wants to join.
enum What {
    Ticket(Ticket),
    Invitation(Box<Invited>),
}

pub fn run(global: &Global, args: JoinArgs) -> Result<ExitCode, Failure> {
    check_stdin(&args)?;
    let with_parent = args.part.with_parent;
    with_user(global, with_parent, async |mut user| {
        let what = args.what.as_deref().map(|w| read(w, &user)).transpose()?;
        let mut options = Options::new(&user.home, args.part, args.args)?;
        options.program_path = args.program;
        options.patience = args.wait;
        options.accept = args.accept_program;
        let (invited, consent) = match what {
            None => {
                let invited = collect(&user, &options, args.from.as_deref()).await?;
                (invited, Consent::Ask)
            }
            Some(What::Invitation(invited)) => (*invited, Consent::Ask),
            Some(What::Ticket(ticket)) => {
                let name = own_name(&mut user, args.me.as_deref()).await?;
                Box::pin(apply(&user, ticket, &mut options, name)).await?
            }
        };
        returning::complete(&user, &invited, &mut options)?;
        if args.hold {
            return Box::pin(take_part_and_hold(&user, invited, options, consent)).await;
        }
        take_part(&user, invited, options, consent).await
    })
}

/// Recognises what was written behind `join`.
fn read(what: &Path, user: &User<'_>) -> Result<What, Failure> {
    let words = what.to_string_lossy();
    if what != Path::new("-") && !what.exists() && looks_like_ticket(&words) {
        return Ok(What::Ticket(Ticket::parse(&words)?));
    }
    if !what.exists()
        && let Some(invited) = returning::named(user, &words)?
    {
        return Ok(What::Invitation(Box::new(invited)));
    }
    let text = read_text(what)?;
    if looks_like_ticket(text.trim()) {
        return Ok(What::Ticket(Ticket::parse(&text)?));
    }
    let received = if text.trim().starts_with(SEALED_PREFIX) {
        received(&open_bundle(&text, &SealSecret::of(&user.identity.key))?.encode())?
    } else {
        received(&text)?
    };
    let bundle = received.bundle.ok_or_else(|| {
        Failure::new(Code::Format, "this is only the signed part of an invitation: the secret to find the others is missing")
            .hint("ask the organizer for the whole file that `quorate invite` wrote")
    })?;
    Ok(What::Invitation(Box::new(Invited {
        invitation: received.invitation,
        bundle,
        claims: Vec::new(),
        delivery: None,
        control: None,
        program: None,
    })))
}

/// A ticket, also one with typing errors, but neither a path nor an invitation.
fn looks_like_ticket(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("qrt") || lower.starts_with("https://") {
        return true;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ' ';
    text.len() >= SHORTEST_TICKET && text.chars().all(plain)
}

/// What is read once cannot be two things.
fn check_stdin(args: &JoinArgs) -> Result<(), Failure> {
    let stdin = Path::new("-");
    if args.what.as_deref() != Some(stdin) || args.part.private_args.as_deref() != Some(stdin) {
        return Ok(());
    }
    let why = "stdin cannot be both the invitation and the private arguments";
    Err(Failure::new(Code::Usage, why).hint("put one of them into a file"))
}

#[cfg(test)]
mod tests {
    use super::looks_like_ticket;

    #[test]
    fn tickets_are_told_from_files_and_invitations() {
        for ticket in [
            "qrt1q9w7m-4tz0h",
            "QRT1ABC",
            "https://quorate.org/j#qrt1abc",
            "grt1q9w7m4tz0hq9w7m4tz0hq9w7m4tz0hq9w7m4tz0h",
        ] {
            assert!(looks_like_ticket(ticket), "{ticket}");
        }
        for other in [
            "friday.quorate",
            "./x",
            "quorate1:AAAA",
            "eyJhbGciOiJFZERTQSJ9.eyJhbGciOiJFZERTQSJ9.eyJhbGciOiJFZERTQSJ9",
            "friday",
        ] {
            assert!(!looks_like_ticket(other), "{other}");
        }
    }
}
