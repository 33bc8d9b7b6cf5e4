//! What is known about one session at one moment, in the form in which it is shown and sent.
//!
//! ```text
//! open ─ all signed one roster ─► sealed ─ own mesh works ─► connected ─ all ready ─► running ─► finished ─► clean
//!   └──────────────┴──────────────────┴──────────────────────────┴─ an abort ──────────────────► aborted ──► clean
//! ```
//!
//! Limits: as many parties as an invitation may list; texts are those of the invitation, which are bounded.
//!
//! Security: holds nothing secret. Names and titles are other people's words: whoever prints them escapes them.

use quorate_identity::{Code, UnixTime, Verified};
use quorate_session::{Invitation, Pid, State};
use serde::{Deserialize, Serialize};

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// Seats are free, or not every party has signed yet.
    Open,
    /// Every party signed the same roster; the mesh is being built.
    Sealed,
    /// The own mesh reaches all parties; the others' are awaited.
    Connected,
    /// The program runs, or receipts are exchanged.
    Running,
    /// The program ended well.
    Finished,
    /// It ended in another way.
    Aborted,
    /// It ended, and everything that was made for it is removed.
    Clean,
}

impl Life {
    /// What a state of the protocol means for people.
    pub fn of(state: State) -> Self {
        match state {
            State::Invited | State::Joining | State::Confirming => Self::Open,
            State::Keyed => Self::Sealed,
            State::Ready => Self::Connected,
            State::Running | State::Closing | State::Closed => Self::Running,
        }
    }

    /// The word that is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Connected => "connected",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
            Self::Clean => "clean",
        }
    }

    /// Whether the session goes on.
    pub fn is_on(self) -> bool {
        !matches!(self, Self::Finished | Self::Aborted | Self::Clean)
    }
}

/// What this home's user is in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes part.
    Party,
    /// Takes part, and signed the invitation.
    Organizer,
    /// Signed the invitation, and does not take part.
    Issuer,
}

/// One party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyStatus {
    /// Its position.
    pub index: u16,
    /// Its name in the invitation.
    pub name: String,
    /// Its DID.
    pub did: String,
    /// How far it is: `seat` (nobody yet), `asked`, `admitted`, or a phase of the protocol.
    pub state: String,
    /// Whether it is this home's user.
    #[serde(default, skip_serializing_if = "is_false")]
    pub you: bool,
    /// What is waited for from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Whether it serves the other parties as a relay.
    #[serde(default, skip_serializing_if = "is_false")]
    pub relays: bool,
}

/// One pair of parties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The lower position.
    pub a: u16,
    /// The higher position.
    pub b: u16,
    /// The word for the path.
    pub path: String,
    /// Who forwards, where the path is relayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Round trip in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Bytes of datagrams sent to the other end.
    pub tx: u64,
    /// Bytes of datagrams received from it.
    pub rx: u64,
    /// The word for why the path is what it is.
    pub reason: String,
    /// The same as a sentence.
    pub detail: String,
    /// Since when the path is what it is.
    pub since: String,
    /// How the two parties exchange the session's messages: `direct` or `relayed`; none while they do so over others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
}

/// How a session ended here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndStatus {
    /// When.
    pub at: String,
    /// Exit code of the command that took part.
    pub exit: u8,
    /// The refusal code; none when it finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why, in words.
    pub detail: String,
    /// Position of who is at fault or missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whom: Option<u16>,
    /// Parties whose signed receipt is held.
    pub receipts: u16,
}

/// One session as its own process sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// What this home calls it.
    pub session: String,
    /// Its title in the invitation.
    pub title: String,
    /// Digest of the invitation, or of the call while seats are free.
    pub digest: String,
    /// Where it is in its life.
    pub state: Life,
    /// The step of the protocol.
    pub phase: String,
    /// Which run of the program this is, from 1; 0 before the first.
    pub run: u32,
    /// What this home's user is in it.
    pub role: Role,
    /// DID of who signed the invitation.
    pub organizer: String,
    /// The program's name.
    pub program: String,
    /// When this process began to take part.
    pub started: String,
    /// When the current wait ends at the latest.
    pub expires: String,
    /// The safety words of the roster, once all signed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// The process that takes part.
    pub process: u32,
    /// Where a detached session writes what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The parties, by position.
    pub parties: Vec<PartyStatus>,
    /// The links of this party.
    pub links: Vec<LinkStatus>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<EndStatus>,
}

impl SessionStatus {
    /// The status of a session that begins: nothing is known of the other parties yet. `me` is this user's position, none
    /// for an organizer who does not take part.
    pub fn of(
        name: &str,
        invitation: &Verified<Invitation>,
        me: Option<Pid>,
        at: UnixTime,
    ) -> Self {
        let subject = &invitation.subject;
        let own_did = me.and_then(|pid| subject.parties.get(pid.index()));
        let role = match own_did {
            None => Role::Issuer,
            Some(party) if party.did == invitation.issuer => Role::Organizer,
            Some(_) => Role::Party,
        };
        let parties = subject
            .parties
            .iter()
            .zip(0..)
            .map(|(party, index)| PartyStatus {
                index,
                name: party.name.clone(),
                did: party.did.to_string(),
                state: "invited".into(),
                you: me == Some(Pid(index)),
                waiting_for: None,
                relays: false,
            });
        Self {
            session: name.into(),
            title: subject.title.clone(),
            digest: invitation.digest().to_string(),
            state: Life::Open,
            phase: "invited".into(),
            run: 0,
            role,
            organizer: invitation.issuer.to_string(),
            program: subject.program.entry.clone(),
            started: at.rfc3339(),
            expires: subject.time.join_by.rfc3339(),
            words: Vec::new(),
            process: std::process::id(),
            log: None,
            parties: parties.collect(),
            links: Vec::new(),
            end: None,
        }
    }

    /// Names of the parties that are waited for, with what for.
    pub fn waits(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parties
            .iter()
            .filter_map(|p| Some((p.name.as_str(), p.waiting_for.as_deref()?)))
    }
}

/// What another party's own trouble (its disk, its user, its Python) means here: it left.
pub fn seen_from(code: Code, whom: Option<Pid>, me: Pid) -> Code {
    match (code.exit_code(), whom) {
        (76 | 74 | 130, Some(pid)) if pid != me => Code::PartyLeft,
        _ => code,
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A session of nobody, for tests of what carries it.
    pub fn status() -> SessionStatus {
        SessionStatus {
            session: "income-2026".into(),
            title: "income".into(),
            digest: "d".into(),
            state: Life::Open,
            phase: "joining".into(),
            run: 0,
            role: Role::Party,
            organizer: "did:key:z6Mk".into(),
            program: "income.py".into(),
            started: "2026-11-22T14:00:00Z".into(),
            expires: "2026-11-22T16:00:00Z".into(),
            words: Vec::new(),
            process: 1,
            log: None,
            parties: Vec::new(),
            links: Vec::new(),
            end: None,
        }
    }

    #[test]
    fn another_partys_own_trouble_is_its_leaving() {
        let me = Pid(0);
        assert_eq!(seen_from(Code::Disk, Some(Pid(1)), me), Code::PartyLeft);
        assert_eq!(seen_from(Code::Disk, Some(me), me), Code::Disk);
        assert_eq!(
            seen_from(Code::Equivocation, Some(Pid(1)), me),
            Code::Equivocation
        );
    }
}
