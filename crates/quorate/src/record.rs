//! What a record says, for people and for programs: the same for `verify` and `receipt show`.

use std::process::ExitCode;

use quorate_identity::{Code, Verified};
use quorate_session::{
    Pid, Record,
    message::{Receipt, ReceiptOutcome},
    record::{Contradiction, PartyVerdict, RunVerdict, Standing, Verdict},
    safety_words,
};
use serde_json::{Value, json};

use crate::{failure::Failure, text};

/// The record line by line; every word of others escaped.
pub fn describe(record: &Record, verdict: &Verdict) -> Vec<String> {
    let subject = &verdict.invitation.subject;
    let title = text::foreign(&subject.title);
    let mut lines = vec![
        text::row("session", &format!("{title:?}   {}", meaning(verdict))),
        text::row("", &format!("digest {}", verdict.session)),
        text::row("record", &format!("digest {}", record.digest())),
        text::row("organizer", &organizer(verdict)),
        text::row(
            "program",
            &format!(
                "{}  {}",
                text::foreign(&subject.program.entry),
                subject.program.manifest
            ),
        ),
    ];
    for (index, arg) in subject.program.args.iter().enumerate() {
        let label = if index == 0 { "arguments" } else { "" };
        lines.push(text::row(label, &text::escaped(arg)));
    }
    if let Some(cancel) = &verdict.cancel {
        let said = format!(
            "by the organizer at {}: {}",
            cancel.iat.rfc3339(),
            text::foreign(&cancel.reason)
        );
        lines.push(text::row("cancelled", &said));
    }
    let runs = verdict.runs.len();
    for (index, run) in verdict.runs.iter().enumerate() {
        if runs > 1 {
            lines.push(text::row("run", &format!("{} of {runs}", index + 1)));
        }
        lines.extend(describe_run(verdict, run));
    }
    let missing: Vec<String> = missing(verdict);
    for (index, what) in missing.iter().enumerate() {
        lines.push(text::row(if index == 0 { "missing" } else { "" }, what));
    }
    lines.push(text::row("proven", proven(verdict)));
    lines.push(text::row(
        "not proven",
        "that the clocks of the signers were right; what the programs computed",
    ));
    lines
}

fn describe_run(verdict: &Verdict, run: &RunVerdict) -> Vec<String> {
    let mut lines = Vec::new();
    match (&run.roster, run.named) {
        (Some(roster), Some(_)) => {
            let words = safety_words(&roster.digest());
            lines.push(text::row(
                "roster",
                &format!("{} · made again from the joins", roster.digest()),
            ));
            lines.push(text::row("", &format!("words {}", words.join(" "))));
        }
        (None, Some(named)) => lines.push(text::row(
            "roster",
            &format!("{named} · named by all, joins are missing to make it again"),
        )),
        (_, None) => lines.push(text::row("roster", "nobody confirmed one")),
    }
    for (index, party) in run.parties.iter().enumerate() {
        let pid = Pid(u16::try_from(index).unwrap_or(u16::MAX));
        let who = verdict
            .did(pid)
            .map(ToString::to_string)
            .unwrap_or_default();
        let label = if index == 0 { "parties" } else { "" };
        let name = text::name(verdict.name(pid));
        lines.push(text::row(label, &format!("{index}  {name}  {who}")));
        lines.push(text::row("", &format!("   {}", signed(party))));
        for abort in &party.aborts {
            let note = format!(
                "   stopped at {}: {} {}",
                abort.iat.rfc3339(),
                abort.code.0,
                text::foreign(&abort.note)
            );
            lines.push(text::row("", &note));
        }
    }
    for contradiction in run.contradictions() {
        lines.push(text::row("contradiction", &contradiction.to_string()));
    }
    lines
}

fn signed(party: &PartyVerdict) -> String {
    let mark = |there: bool, what: &str| format!("{what} {}", if there { "✓" } else { "MISSING" });
    let mut parts = vec![
        mark(party.join.is_some(), "join"),
        mark(party.confirm.is_some(), "confirm"),
    ];
    if party.receipts.is_empty() {
        parts.push(mark(false, "receipt"));
    }
    parts.extend(
        party
            .receipts
            .iter()
            .map(|receipt| format!("receipt ✓ {}", outcome(receipt))),
    );
    parts.join(" · ")
}

/// How the run ended for one party, in words.
pub fn outcome(receipt: &Receipt) -> String {
    let how = match (receipt.outcome, receipt.exit) {
        (ReceiptOutcome::Done, _) => "done, exit 0".to_owned(),
        (ReceiptOutcome::Failed, Some(code)) => format!("its program failed, exit {code}"),
        (ReceiptOutcome::Failed, None) => "its program failed".to_owned(),
        (ReceiptOutcome::Aborted, _) => "aborted".to_owned(),
    };
    let (start, end) = (receipt.start, receipt.end);
    let took = text::duration(end.0.saturating_sub(start.0));
    let sent = receipt
        .bytes
        .map(|bytes| format!(", {} sent", text::bytes(bytes)));
    format!(
        "{how}, {} to {} ({took}){}",
        start.rfc3339(),
        end.rfc3339(),
        sent.unwrap_or_default()
    )
}

/// Who signed the invitation, with its name if it is a party.
pub fn organizer(verdict: &Verdict) -> String {
    let issuer = &verdict.invitation.issuer;
    let subject = &verdict.invitation.subject;
    match subject.parties.iter().find(|party| party.did == *issuer) {
        Some(party) => format!("{}  {issuer}", text::name(&party.name)),
        None => issuer.to_string(),
    }
}

/// How the session ended, in words.
pub fn meaning(verdict: &Verdict) -> &'static str {
    match verdict.standing() {
        Standing::Finished => "finished: all parties signed that they were done",
        Standing::Failed => "not finished: a party signed that its run failed or was aborted",
        Standing::Unfinished => "those who signed were done; receipts are missing",
        Standing::NotRun => "nobody signed that a program ran",
        Standing::Cancelled => "cancelled by the organizer before a program ran",
    }
}

fn proven(verdict: &Verdict) -> &'static str {
    if verdict.is_complete() {
        "every party signed the same roster and how its run ended; nothing was altered"
    } else {
        "what is here was signed by whom it says, for this session; nothing was altered"
    }
}

/// What is not in the record, each with who should have signed it.
pub fn missing(verdict: &Verdict) -> Vec<String> {
    let lack = |lack: &quorate_session::record::Lack| {
        let did = verdict
            .did(lack.pid)
            .map(ToString::to_string)
            .unwrap_or_default();
        format!(
            "{} of {} ({did})",
            lack.what,
            text::name(verdict.name(lack.pid))
        )
    };
    verdict.lacks().iter().map(lack).collect()
}

/// The report for programs.
pub fn report(record: &Record, verdict: &Verdict) -> Value {
    let missing: Vec<Value> = verdict
        .lacks()
        .iter()
        .map(|lack| json!({"index": lack.pid, "did": verdict.did(lack.pid), "what": lack.what}))
        .collect();
    let cancel = verdict
        .cancel
        .as_ref()
        .map(|cancel| json!({"reason": cancel.reason, "iat": cancel.iat}));
    json!({"schema": crate::report::schema("verification"), "kind": "record", "valid": true,
        "complete": verdict.is_complete(), "standing": verdict.standing().as_str(), "digest": record.digest(),
        "session": verdict.session, "title": verdict.invitation.subject.title, "issuer": verdict.invitation.issuer,
        "runs": verdict.runs.iter().map(|run| report_run(verdict, run)).collect::<Vec<_>>(),
        "missing": missing, "cancel": cancel})
}

fn report_run(verdict: &Verdict, run: &RunVerdict) -> Value {
    let party = |(index, party): (usize, &PartyVerdict)| {
        let pid = Pid(u16::try_from(index).unwrap_or(u16::MAX));
        let receipts: Vec<&Receipt> = party
            .receipts
            .iter()
            .map(|receipt: &Verified<Receipt>| &**receipt)
            .collect();
        let aborts: Vec<Value> = party.aborts.iter()
            .map(|abort| json!({"code": abort.code, "whom": abort.whom, "note": abort.note, "iat": abort.iat}))
            .collect();
        json!({"index": index, "did": verdict.did(pid), "name": verdict.name(pid), "join": party.join.is_some(),
            "confirm": party.confirm.is_some(), "receipts": receipts, "aborts": aborts})
    };
    let contradictions: Vec<String> = run
        .contradictions()
        .iter()
        .map(ToString::to_string)
        .collect();
    json!({"roster": run.named, "rebuilt": run.roster.is_some(),
        "parties": run.parties.iter().enumerate().map(party).collect::<Vec<_>>(),
        "contradictions": contradictions})
}

/// How a command ends that judged a record: what is missing or doubly signed is no success.
pub fn conclude(verdict: &Verdict) -> Result<ExitCode, Failure> {
    let contradictions = verdict
        .newest()
        .map(RunVerdict::contradictions)
        .unwrap_or_default();
    let liar = contradictions.iter().find_map(|found| match found {
        Contradiction::TwoReceipts(pid) => Some(*pid),
        _ => None,
    });
    if let Some(pid) = liar {
        let name = text::name(verdict.name(pid));
        let failure = Failure::new(
            Code::Equivocation,
            format!("{name} signed two different receipts of one run"),
        );
        let did = verdict
            .did(pid)
            .map(ToString::to_string)
            .unwrap_or_default();
        return Err(failure.note("who", did));
    }
    let missing = missing(verdict);
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let count = missing.len();
    let plural = if count == 1 { "" } else { "s" };
    let mut failure = Failure::new(
        Code::Record,
        format!("the record is not complete: {count} signature{plural} missing"),
    );
    for what in missing {
        failure = failure.note("missing", what);
    }
    Err(failure.hint("what is there is genuine; ask those who did not sign, or others for their copy: quorate receipt add FILE"))
}
