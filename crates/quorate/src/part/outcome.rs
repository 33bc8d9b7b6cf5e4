//! How a session ended, in the words of the command line.

use std::process::ExitCode;

use quorate_identity::Verified;
use quorate_node::control::seen_from;
use quorate_session::{Invitation, Outcome};

use crate::{failure::Failure, report::Report, text};

/// Says how it ended and gives the exit code.
pub fn conclude(
    invitation: &Verified<Invitation>,
    report: &Report,
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
            let mut failure = Failure::new(seen_from(code, whom, report.me()), detail);
            if let Some(pid) = whom {
                let party = invitation.subject.parties.get(pid.index());
                let who = party.map_or_else(
                    || format!("party {pid}"),
                    |p| format!("{} ({})", text::name(&p.name), p.did),
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
