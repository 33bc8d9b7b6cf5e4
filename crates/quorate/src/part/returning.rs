//! Coming back to a session that this user took part in.
//!
//! ```text
//! take part ─► taken ─ the process was killed ─► `join` or `again` takes part again      (asked, as ever)
//!                └ ended in order ─ finished, cancelled, distrusted ─► forgotten
//!                                 └ otherwise ─► left ─► `join SESSION`, until the session ends by its own times
//! ```
//! Whoever came with a ticket has no file to come back with, and the seats are closed: what leads back is kept here.
//!
//! Security. Requires: the folders are private to this user. Provides: what is read back is verified as if it had just come;
//! private arguments that were typed are in no file.

use std::path::{Path, PathBuf};

use quorate_identity::{Digest, Verified};
use quorate_node::{
    control::running,
    files::{Inbox, SessionMemory, is_closed},
};
use quorate_session::{Bundle, Invitation};

use super::{Invited, Options, User};
use crate::{
    failure::Failure,
    invitation::{now, read_text, received},
    text,
};

/// From now on this user takes part, also if this process is killed.
pub fn begin(
    user: &User<'_>,
    invitation: &Verified<Invitation>,
    bundle: &Bundle,
) -> Result<(), Failure> {
    let taken = Inbox::taken(&user.home);
    taken.forget_ended(now())?;
    Inbox::left(&user.home).forget_ended(now())?;
    Ok(taken.keep(&invitation.digest(), &bundle.encode())?)
}

/// This invitation was given to nobody.
pub fn undo(user: &User<'_>, invitation: &Verified<Invitation>) {
    if let Err(fault) = Inbox::taken(&user.home).remove(&invitation.digest()) {
        tracing::warn!(%fault, "an invitation that nobody has is not put away");
    }
}

/// The session ended here in order. Gives whether it can be joined again.
pub fn settle(user: &User<'_>, invitation: &Verified<Invitation>, bundle: &str) -> bool {
    let digest = invitation.digest();
    // Another process of this home may take part in it.
    if matches!(running(&user.home, &digest.to_string()), Ok(Some(_))) {
        return false;
    }
    let again = !is_closed(&user.home, &digest) && invitation.subject.time.join_by > now();
    let left = Inbox::left(&user.home);
    let settled = if again {
        left.keep(&digest, bundle)
    } else {
        left.remove(&digest)
    };
    let settled = settled
        .and_then(|()| Inbox::taken(&user.home).remove(&digest))
        .and_then(|()| Inbox::of(&user.home).remove(&digest));
    if let Err(fault) = settled {
        tracing::warn!(%fault, "the invitation of a session that ended is not put away");
    }
    again
}

/// The sessions whose process was killed here, and that are not over by their own times.
pub fn killed(user: &User<'_>) -> Result<Vec<Invited>, Failure> {
    let mut found = Vec::new();
    for (digest, text) in Inbox::taken(&user.home).all(|fault| user.leave_out(&fault))? {
        if running(&user.home, &digest.to_string())?.is_none() && !is_closed(&user.home, &digest) {
            found.extend(invited(&text));
        }
    }
    Ok(found)
}

/// The killed session with this invitation.
pub fn killed_one(user: &User<'_>, digest: &Digest) -> Result<Option<Invited>, Failure> {
    let mut all = killed(user)?.into_iter();
    Ok(all.find(|invited| invited.invitation.digest() == *digest))
}

/// The session that this home calls `name`, if its invitation is still here.
pub fn named(user: &User<'_>, name: &str) -> Result<Option<Invited>, Failure> {
    let Ok(memory) = SessionMemory::find(&user.home, name) else {
        return Ok(None);
    };
    let home = &user.home;
    for shelf in [Inbox::taken(home), Inbox::left(home), Inbox::of(home)] {
        let kept = shelf.find(&memory.digest)?;
        if let Some(invited) = kept.as_deref().and_then(invited) {
            return Ok(Some(invited));
        }
    }
    Ok(None)
}

fn invited(text: &str) -> Option<Invited> {
    let received = received(text).ok()?;
    let bundle = received.bundle?;
    let invited = Invited {
        invitation: received.invitation,
        bundle,
        claims: Vec::new(),
        delivery: None,
        control: None,
        program: None,
    };
    (invited.invitation.subject.time.end_by > now()).then_some(invited)
}

/// Adds to `options` what this user decided when they took part before: where the program is, and, in the same session, the
/// file of the private arguments.
pub fn complete(user: &User<'_>, invited: &Invited, options: &mut Options) -> Result<(), Failure> {
    let invitation = &invited.invitation;
    let digest = invitation.digest();
    let known = SessionMemory::all(&user.home)?;
    let of = |digest: Option<Digest>| known.iter().find(|m| Some(m.digest) == digest);
    let (own, before) = (of(Some(digest)), of(invitation.subject.supersedes));
    let entry = invitation.subject.program.entry.as_str();
    let path = own
        .or(before)
        .and_then(|memory| program_of(memory, entry))
        .filter(|_| invited.bundle.program.is_none());
    if options.program.is_none() && options.program_path.is_none() {
        options.program_path = path;
    }
    let Some(own) = own else { return Ok(()) };
    if !options.private_args.is_empty() || options.private_args_file.is_some() {
        return Ok(());
    }
    if let Some(file) = &own.private_args {
        options.private_args = read_text(file)?.lines().map(str::to_owned).collect();
        options.private_args_file = Some(file.clone());
    } else if Inbox::taken(&user.home).find(&digest)?.is_some() {
        user.show([text::row(
            "note",
            "private arguments that were typed are not kept: if there were any, give them again after --",
        )]);
    }
    Ok(())
}

/// Where the program with this entry is on this machine. Whether it is the one that was agreed is looked at as always.
fn program_of(memory: &SessionMemory, entry: &str) -> Option<PathBuf> {
    let path = Path::new(&memory.program);
    let holds = path.file_name().is_some_and(|name| name == entry) || path.join(entry).is_file();
    (path.is_absolute() && holds).then(|| path.to_owned())
}
