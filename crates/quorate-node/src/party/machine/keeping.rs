//! What stays on disk after a session: its record, evidence, and the state against replay.

use std::{path::Path, time::Duration};

use quorate_identity::{Code, Digest};
use quorate_session::{Pid, Record, limits::MAX_VALIDITY_SECONDS};
use tokio::sync::mpsc;

use super::{Machine, show};
use crate::{
    Fault,
    files::{Home, Records, write_atomic},
    party::PartyEvent,
};

impl Machine {
    /// Two contradicting statements of one signer are proof; they are kept for people to look at.
    pub(super) fn keep_evidence(&self, pid: Pid, statements: &[String; 2]) {
        let folder = self.config.home.state().join("rejected");
        let file = folder.join(format!(
            "{}-party-{pid}.jws",
            self.config.invitation.digest()
        ));
        let kept = Home::ensure(&folder)
            .and_then(|()| write_atomic(&file, statements.join("\n").as_bytes()));
        let event = match kept {
            Ok(()) => PartyEvent::Evidence {
                file: file.display().to_string(),
            },
            Err(fault) => PartyEvent::Note {
                text: fault.to_string(),
            },
        };
        show(&self.events, event);
    }

    /// Keeps the record, with what earlier starts of this session left; whether that worked. A full disk is told and ends
    /// nothing: the others keep their copies.
    pub(super) async fn keep_record(&mut self, record: Record) -> bool {
        let records = self.records.clone();
        let session = self.config.invitation.digest();
        let earlier = self.earlier.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let record = match earlier {
                Some(earlier) => earlier.merge(&record)?,
                None => record,
            };
            records.keep(&session, &record)
        });
        let why = match kept.await {
            Ok(Ok(file)) => {
                self.kept = Some(file);
                return true;
            }
            Ok(Err(fault)) => fault.to_string(),
            Err(panicked) => panicked.to_string(),
        };
        let text = format!("the record of this session could not be kept: {why}");
        show(&self.events, PartyEvent::Note { text });
        false
    }

    /// Tells where the record is, if there is one.
    pub(super) fn show_record(&self) {
        if let Some(file) = &self.kept {
            let file = file.display().to_string();
            show(&self.events, PartyEvent::Receipts { file });
        }
    }
}

/// The record of earlier starts of this session. One that is damaged, or not genuine, is put aside.
pub(super) fn earlier_record(
    records: &Records,
    session: &Digest,
    events: &mpsc::Sender<PartyEvent>,
) -> Result<Option<Record>, Fault> {
    let judged = records.load(session).and_then(|record| {
        let Some(record) = record else {
            return Ok(None);
        };
        if record.verify()?.session == *session {
            return Ok(Some(record));
        }
        Err(Fault::new(
            Code::Record,
            "it is the record of another session",
        ))
    });
    let why = match judged {
        Ok(record) => return Ok(record),
        Err(fault) => fault,
    };
    let aside = records.put_aside(session)?;
    let text = format!(
        "the record that was kept of this session is not usable ({why}); it is now {}",
        aside.display()
    );
    show(events, PartyEvent::Note { text });
    Ok(None)
}

/// Removes records of sessions whose invitation cannot be valid any more.
pub(super) fn forget_old_records(folder: &Path) {
    let lifetime = Duration::from_secs(MAX_VALIDITY_SECONDS.unsigned_abs() + 86_400);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|m| m.modified()).ok();
        let age = modified.and_then(|m| m.elapsed().ok()).unwrap_or_default();
        if age > lifetime {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
