//! How a call stands while its seats are free, for `quorate status`; the same socket then serves the session.
//!
//! ```text
//! you        admitted            in the order of the closed invitation
//! bo         admitted
//! "Sud"      asked               waits for the inviter
//! (free)     seat
//! ```

use quorate_identity::{Code, Did, Verified};
use quorate_node::{
    control::{self, Control, EndStatus, Life, PartyStatus, Role, SessionStatus},
    files::{Home, SessionMemory},
};
use quorate_session::{limits::MAX_PARTIES, message::Call};

use crate::{failure::Failure, invitation::now};

/// What is shown in the place of a name that nobody has yet.
const FREE: &str = "(free)";

/// Opens the socket of a call.
pub fn open(home: &Home, call: &Verified<Call>) -> Result<Control, Failure> {
    let subject = &call.subject;
    let status = SessionStatus {
        session: SessionMemory::next_name(home, &subject.title),
        title: subject.title.clone(),
        digest: call.digest().to_string(),
        state: Life::Open,
        phase: "seats".into(),
        run: 0,
        role: Role::Organizer,
        organizer: call.issuer.to_string(),
        program: subject.program.entry.clone(),
        started: now().rfc3339(),
        expires: subject.time.apply_by.rfc3339(),
        words: Vec::new(),
        process: std::process::id(),
        log: None,
        parties: Vec::new(),
        links: Vec::new(),
        end: None,
    };
    Ok(Control::open(home, status)?)
}

/// Who sits where: those with a seat, those who asked, and the seats that are free.
pub fn parties<'a>(
    me: Option<(&'a str, &'a Did)>,
    admitted: impl Iterator<Item = (&'a str, &'a Did)>,
    asked: impl Iterator<Item = (&'a str, &'a Did)>,
    seats: usize,
) -> Vec<PartyStatus> {
    let one = |(name, did): (&str, &Did), state: &str, you: bool| PartyStatus {
        index: 0,
        name: name.into(),
        did: did.to_string(),
        state: state.into(),
        you,
        waiting_for: None,
        relays: false,
    };
    let mut all: Vec<PartyStatus> = me.into_iter().map(|me| one(me, "admitted", true)).collect();
    all.extend(admitted.map(|guest| one(guest, "admitted", false)));
    let free = seats.saturating_sub(all.len());
    all.extend(asked.map(|applicant| one(applicant, "asked", false)));
    all.extend((0..free).map(|_| PartyStatus {
        index: 0,
        name: FREE.into(),
        did: String::new(),
        state: "seat".into(),
        you: false,
        waiting_for: None,
        relays: false,
    }));
    all.truncate(MAX_PARTIES);
    for (party, index) in all.iter_mut().zip(0..) {
        party.index = index;
    }
    all
}

/// The call is over without a session: says why, and removes what was made for it.
pub async fn close(home: &Home, desk: Control, why: &Failure) {
    let code: Code = why.code();
    let end = EndStatus {
        at: now().rfc3339(),
        exit: code.exit_code(),
        code: Some(code.as_str().into()),
        detail: why.detail().into(),
        whom: None,
        receipts: 0,
    };
    desk.board().update(|status| {
        status.state = Life::Aborted;
        status.end = Some(end);
    });
    let mut last = desk.board().now();
    last.state = Life::Clean;
    if let Err(fault) = control::keep(home, &last) {
        tracing::warn!(%fault, "how the call ended is not kept for `quorate status`");
    }
    if let Err(fault) = desk.close().await {
        tracing::warn!(%fault, "what was made for the call is not removed");
    }
}
