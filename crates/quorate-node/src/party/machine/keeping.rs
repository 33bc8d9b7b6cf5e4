//! What stays on disk after a session: receipts, evidence, and the record against replay.

use std::{path::Path, time::Duration};

use quorate_session::{Pid, limits::MAX_VALIDITY_SECONDS};

use super::{Machine, show};
use crate::{
    files::{Home, write_atomic},
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

    /// Receipts are the record that stays: with the invitation, anybody can check them later.
    pub(super) fn keep_receipts(&self, receipts: &[String]) {
        if receipts.is_empty() {
            return;
        }
        let folder = self.config.home.data().join("receipts");
        let file = folder.join(format!("{}.json", self.config.invitation.digest()));
        let record = serde_json::json!({"v": 1, "invitation": &**self.config.invitation.text(), "receipts": receipts});
        let kept =
            Home::ensure(&folder).and_then(|()| write_atomic(&file, record.to_string().as_bytes()));
        let event = match kept {
            Ok(()) => PartyEvent::Receipts {
                file: file.display().to_string(),
            },
            Err(fault) => PartyEvent::Note {
                text: fault.to_string(),
            },
        };
        show(&self.events, event);
    }
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
