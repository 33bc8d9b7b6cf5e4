//! `quorate receipt`: the records of ended sessions, kept in this home.

mod html;

use std::{path::Path, process::ExitCode};

use quorate_identity::{Code, UnixTime};
use quorate_node::files::{Listed, Records, write_new};
use quorate_session::{Record, limits::MAX_RECORD_BYTES, record::Verdict};
use serde_json::{Value, json};

use crate::{
    args::{ExportFormat, Global, ReceiptAction, ReceiptArgs},
    command::{home, print_stdout, verify},
    failure::Failure,
    invitation::read_up_to,
    record, text,
};

/// Fewest characters of a digest that name a session.
const SHORTEST_PREFIX: usize = 4;
/// Most sessions that a refusal names.
const MAX_NAMED: usize = 8;

pub fn run(global: &Global, args: ReceiptArgs) -> Result<ExitCode, Failure> {
    let records = Records::of(&home(global)?);
    match args.action.unwrap_or(ReceiptAction::List) {
        ReceiptAction::List => list(global, &records),
        ReceiptAction::Show { session } => {
            let kept = find(&records, session.as_deref())?;
            if !global.json && !global.quiet {
                text::say(text::row("file", &kept.file.display().to_string()));
            }
            verify::judge(global, &kept.record?)
        }
        ReceiptAction::Export {
            session,
            format,
            out,
        } => {
            let kept = find(&records, session.as_deref())?;
            export(global, &kept.record?, format, out.as_deref())
        }
        ReceiptAction::Add { file } => add(global, &records, &file),
    }
}

/// One record that verifies, and when it ended.
struct Entry {
    verdict: Verdict,
    ended: Option<UnixTime>,
}

fn judged(listed: &Listed) -> Result<Entry, Failure> {
    let record = match &listed.record {
        Ok(record) => record,
        Err(fault) => return Err(Failure::new(fault.code, fault.to_string())),
    };
    let verdict = record.verify()?;
    if verdict.session != listed.session {
        return Err(Failure::new(
            Code::Record,
            "this is the record of another session",
        ));
    }
    let run = verdict.newest();
    let receipts = run
        .into_iter()
        .flat_map(|run| run.receipts().map(|(_, r)| r.end));
    let aborts = run
        .into_iter()
        .flat_map(|run| run.aborts().map(|(_, a)| a.iat));
    let ended = receipts
        .chain(aborts)
        .chain(verdict.cancel.iter().map(|c| c.iat))
        .max();
    Ok(Entry { verdict, ended })
}

fn list(global: &Global, records: &Records) -> Result<ExitCode, Failure> {
    let mut entries: Vec<(Listed, Result<Entry, Failure>)> = records
        .list()?
        .into_iter()
        .map(|listed| {
            let entry = judged(&listed);
            (listed, entry)
        })
        .collect();
    entries.sort_by_key(|(_, entry)| entry.as_ref().ok().and_then(|entry| entry.ended));
    if global.json {
        let entries: Vec<Value> = entries
            .iter()
            .map(|(listed, entry)| entry_json(listed, entry))
            .collect();
        let report = json!({"schema": crate::report::schema("records"), "records": entries});
        print_stdout(&report.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() && !global.quiet {
        text::say("  no session has ended here yet");
    }
    for (listed, entry) in &entries {
        print_stdout(&entry_line(listed, entry));
    }
    Ok(ExitCode::SUCCESS)
}

fn entry_line(listed: &Listed, entry: &Result<Entry, Failure>) -> String {
    let digest = listed.session.short();
    match entry {
        Ok(Entry { verdict, ended }) => {
            let when = ended.map_or_else(|| "-".to_owned(), UnixTime::rfc3339);
            let title = text::foreign(&verdict.invitation.subject.title);
            let (signed, all) = counts(verdict);
            format!(
                "{digest}  {when:<20}  {:<10}  receipts {signed}/{all}  {title}",
                verdict.standing()
            )
        }
        Err(failure) => format!(
            "{digest}  {:<20}  {:<10}  {}",
            "-",
            failure.code(),
            text::foreign(failure.detail())
        ),
    }
}

fn counts(verdict: &Verdict) -> (usize, usize) {
    let parties = verdict.newest().map_or(&[][..], |run| &run.parties[..]);
    let signed = parties
        .iter()
        .filter(|party| !party.receipts.is_empty())
        .count();
    (signed, verdict.invitation.subject.parties.len())
}

fn entry_json(listed: &Listed, entry: &Result<Entry, Failure>) -> Value {
    let file = listed.file.display().to_string();
    match entry {
        Ok(Entry { verdict, ended }) => {
            let (signed, all) = counts(verdict);
            json!({"session": listed.session, "title": verdict.invitation.subject.title,
                "standing": verdict.standing().as_str(), "complete": verdict.is_complete(),
                "receipts": signed, "parties": all, "ended": ended, "file": file})
        }
        Err(failure) => {
            json!({"session": listed.session, "file": file, "code": failure.code().as_str(),
            "detail": failure.detail()})
        }
    }
}

/// The record that `wanted` names: a title, a name made of it, or a digest or its beginning. Without: the last one.
fn find(records: &Records, wanted: Option<&str>) -> Result<Listed, Failure> {
    let all = records.list()?;
    let Some(wanted) = wanted else {
        let last = all
            .into_iter()
            .max_by_key(|listed| judged(listed).ok().and_then(|entry| entry.ended));
        return last.ok_or_else(|| {
            Failure::new(Code::NoSession, "no session has ended here yet")
                .hint("a record is kept when a session ends in which you took part")
        });
    };
    let mut found: Vec<Listed> = all
        .into_iter()
        .filter(|listed| is_named(listed, wanted))
        .collect();
    if found.len() > 1 {
        let names: Vec<String> = found
            .iter()
            .take(MAX_NAMED)
            .map(|listed| listed.session.to_string())
            .collect();
        return Err(Failure::new(
            Code::NoSession,
            format!(
                "{} sessions are called {:?}",
                found.len(),
                text::foreign(wanted)
            ),
        )
        .note("digests", names.join(", "))
        .hint("give the beginning of a digest"));
    }
    found.pop().ok_or_else(|| {
        Failure::new(
            Code::NoSession,
            format!("there is no record of {:?} here", text::foreign(wanted)),
        )
        .hint("see quorate receipt list")
    })
}

fn is_named(listed: &Listed, wanted: &str) -> bool {
    let digest = listed.session.to_string();
    if wanted.len() >= SHORTEST_PREFIX && digest.starts_with(wanted) {
        return true;
    }
    let Ok(entry) = judged(listed) else {
        return false;
    };
    let title = &entry.verdict.invitation.subject.title;
    title == wanted || name_of(title) == name_of(wanted)
}

/// A title as a word to type: `Income 2026` is `income-2026`.
fn name_of(title: &str) -> String {
    let words = title
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

fn export(
    global: &Global,
    record: &Record,
    format: ExportFormat,
    out: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let verdict = record.verify()?;
    let content = match format {
        ExportFormat::Json => String::from_utf8_lossy(&record.encode()).into_owned(),
        ExportFormat::Jwt => statements(record),
        ExportFormat::Html => html::page(record, &verdict),
    };
    let Some(out) = out else {
        print_stdout(&content);
        return Ok(ExitCode::SUCCESS);
    };
    if !write_new(out, format!("{content}\n").as_bytes())? {
        return Err(
            Failure::new(Code::Disk, format!("{} exists already", out.display()))
                .hint("choose another name"),
        );
    }
    if !global.quiet {
        text::say(text::row("written", &out.display().to_string()));
        if !verdict.is_complete() {
            let missing = record::missing(&verdict).join(", ");
            text::say(text::row("note", &format!("not complete: {missing}")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The statements of the last run, one a line, the invitation first.
fn statements(record: &Record) -> String {
    let mut lines = vec![record.invitation.as_str()];
    if let Some(run) = record.runs.last() {
        let lists = [&run.joins, &run.confirms, &run.receipts, &run.aborts];
        lines.extend(lists.into_iter().flatten().map(String::as_str));
    }
    lines.extend(record.cancel.as_deref());
    lines.join("\n")
}

fn add(global: &Global, records: &Records, file: &Path) -> Result<ExitCode, Failure> {
    let text = read_up_to(file, MAX_RECORD_BYTES as u64 + 1)?;
    let copy = Record::parse(text.trim().as_bytes())?;
    let session = copy.verify()?.session;
    let Some(ours) = records.load(&session)? else {
        return Err(Failure::new(
            Code::NoSession,
            "this is the record of a session that has no record here",
        )
        .note("session", session.to_string())
        .hint("look at it with quorate verify; only records of own sessions are kept"));
    };
    let merged = ours.merge(&copy)?;
    let news = merged != ours;
    if news {
        records.keep(&session, &merged)?;
    }
    if !global.json && !global.quiet {
        let said = if news {
            "the record has more signatures now"
        } else {
            "the record had all of it already"
        };
        text::say(text::row("added", said));
    }
    verify::judge(global, &merged)
}
