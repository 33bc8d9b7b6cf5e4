//! `quorate verify`: is this genuine, what does it say, what does it prove, and what not?
//!
//! ```text
//! quorate1:…          bundle        ┐
//! compact JWS         invitation    ├─ one report
//! compact JWS         call, card, or any other signed statement
//! compact JWS, lines  statements of one session, as `receipt export --format jwt` writes them
//! {…}                 record
//! qrt1…, link         ticket: only its shape
//! quorate1s:…         sealed: nothing can be said before it is opened
//! ```
//! Works offline and without an identity; nothing is written.

mod lines;
mod statement;

use std::{path::Path, process::ExitCode};

use quorate_identity::{Code, peek_typ};
use quorate_session::{Record, SEALED_PREFIX, Ticket, limits::MAX_RECORD_BYTES};
use serde_json::json;

use crate::{
    args::{Global, VerifyArgs},
    command::print_stdout,
    failure::Failure,
    invitation::{Received, describe, read_up_to, received},
    part::{print_program, summary},
    record, text,
};

pub fn run(global: &Global, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let given = args.file.to_string_lossy();
    if !args.file.exists() && looks_like_a_ticket(&given) {
        return ticket(global, &given);
    }
    // One byte for a line end.
    let text = read_up_to(&args.file, MAX_RECORD_BYTES as u64 + 1)?;
    let text = text.trim();
    if text.starts_with(SEALED_PREFIX) {
        return Err(sealed(&args.file));
    }
    if text.starts_with('{') {
        let record = Record::parse(text.as_bytes())?;
        return judge(global, &record);
    }
    if looks_like_a_ticket(text) {
        return ticket(global, text);
    }
    if text.lines().count() > 1 {
        let record = lines::record(text)?;
        return judge(global, &record);
    }
    if text.starts_with("quorate1:") || is_invitation(text) {
        return invitation(global, &received(text)?, args.show_program);
    }
    statement::run(global, text)
}

/// Whether it should be read as a ticket at all; a damaged one is still one.
fn looks_like_a_ticket(text: &str) -> bool {
    let text = text.trim();
    let begins = text
        .get(..4)
        .is_some_and(|begin| begin.eq_ignore_ascii_case("qrt1"));
    begins || (text.contains("#qrt1") || text.contains("#QRT1"))
}

/// A credential that is neither a call nor a card is read as an invitation, whatever it is.
fn is_invitation(text: &str) -> bool {
    match peek_typ(text) {
        Ok("vc+jwt") => !matches!(
            statement::credential_type(text).as_deref(),
            Some("QuorateCall" | "QuorateCard")
        ),
        Ok(_) => false,
        // Its reader says what is wrong with it.
        Err(_) => true,
    }
}

/// A record that verifies, with what it lacks.
pub fn judge(global: &Global, record: &Record) -> Result<ExitCode, Failure> {
    let verdict = record.verify()?;
    if global.json {
        print_stdout(&record::report(record, &verdict).to_string());
    } else {
        print_lines(&record::describe(record, &verdict));
    }
    record::conclude(&verdict)
}

fn invitation(
    global: &Global,
    received: &Received,
    show_program: bool,
) -> Result<ExitCode, Failure> {
    let invitation = &received.invitation;
    if global.json {
        let report = json!({"schema": crate::report::schema("verification"), "kind": "invitation", "valid": true,
            "digest": invitation.digest(), "issuer": invitation.issuer, "key": invitation.key().thumbprint(),
            "secret": received.bundle.is_some(), "credential": &**invitation});
        print_stdout(&report.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    print_lines(&describe(invitation, None));
    let source = received.bundle.as_ref().and_then(|b| b.program.as_ref());
    if let Some(source) = source {
        let line = format!(
            "its source came along: {}; it is the one that was signed",
            summary(source)
        );
        print_lines(&[text::row("", &line)]);
    }
    match source {
        Some(source) if show_program => {
            print_program(source, &invitation.subject.program.entry);
        }
        None if show_program => {
            return Err(Failure::new(Code::Program, "no program came along").hint(
                "ask the organizer for it: quorate invite --send-program, or a copy of the file",
            ));
        }
        _ => {}
    }
    if received.bundle.is_none() && !global.quiet {
        text::say(
            "  note: this is the bare credential; to join, the whole file of the organizer is needed",
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn ticket(global: &Global, given: &str) -> Result<ExitCode, Failure> {
    let ticket = Ticket::parse(given)?;
    if global.json {
        let report = json!({"schema": crate::report::schema("verification"), "kind": "ticket", "valid": true,
            "ticket": ticket.encode(), "peer": ticket.peer(), "hints": ticket.hints()});
        print_stdout(&report.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![
        text::row("ticket", "complete, without typing errors"),
        text::row("inviter at", &ticket.peer().to_string()),
    ];
    lines.extend(
        ticket
            .hints()
            .iter()
            .map(|hint| text::row("", &text::foreign(hint))),
    );
    lines.push(text::row(
        "not proven",
        "who made it, and to what: `quorate join` asks the inviter, and shows it before you agree",
    ));
    print_lines(&lines);
    Ok(ExitCode::SUCCESS)
}

fn sealed(file: &Path) -> Failure {
    let text = format!(
        "{} is sealed: nothing can be said about it before it is opened",
        text::foreign(&file.to_string_lossy())
    );
    Failure::new(Code::Sealed, text)
        .hint("`quorate join` opens it, if it was sealed for you; the sender knows for whom it is")
}

pub(super) fn print_lines(lines: &[String]) {
    for line in lines {
        print_stdout(&anstream::adapter::strip_str(line).to_string());
    }
}
