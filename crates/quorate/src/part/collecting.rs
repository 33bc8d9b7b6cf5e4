//! `join` without a word: invitations of people I know, which wait where they are or lie here already.
//!
//! ```text
//! killed while in it, else
//! kept from before, else   ─► one: it is shown and asked about    several: which one?    none in time: E_NO_PATH
//! post of contacts
//! ```
//! An invitation that came is kept until its time to join is over or its session ended: its
//! sender was told that it is here, and does not send it twice.

use std::{collections::BTreeSet, time::Duration};

use quorate_identity::{Code, Did, Digest, Verified};
use quorate_node::{
    files::Inbox,
    party::Stop,
    post::{self, ReceiveConfig, ReceiveEvent},
};
use quorate_session::{Bundle, Invitation, limits};
use tokio::time::{Instant, sleep_until};

use super::{
    Invited, Options, User,
    returning::killed,
    stopped,
    unreached::{LOOKING, Refusals},
};
use crate::{
    command::contacts::parse_did,
    consent::Terminal,
    failure::Failure,
    invitation::{now, received},
    text,
    waiting::Waiting,
};

/// After the first invitation, others may arrive for so long.
const GRACE: Duration = Duration::from_millis(1500);
/// After this long without an invitation, the next step is said too.
const HINT_AFTER: Duration = Duration::from_secs(20);

/// Whose invitations are looked at.
enum From {
    Contacts,
    One(Did),
}

impl From {
    fn is(&self, invited: &Invited) -> bool {
        match self {
            Self::Contacts => true,
            Self::One(did) => invited.invitation.issuer == *did,
        }
    }
}

/// The invitation to join: of `from` or of any contact, waited for with the user's patience.
pub async fn collect(
    user: &User<'_>,
    options: &Options,
    from: Option<&str>,
) -> Result<Invited, Failure> {
    let patience = options.patience.unwrap_or(LOOKING);
    let killed = killed(user)?;
    let from = match from_whom(user, from) {
        // Coming back needs no contact.
        Err(_) if from.is_none() && !killed.is_empty() => From::Contacts,
        from => from?,
    };
    let mut found: Vec<Invited> = killed.into_iter().filter(|i| from.is(i)).collect();
    let back = !found.is_empty();
    if !back {
        found = kept(user, &from)?;
    }
    if found.is_empty() {
        found = wait(user, options, &from, patience).await?;
    }
    let chosen = match found.len() {
        1 => 0,
        _ => choose(user, &found).await?,
    };
    let invited = found.swap_remove(chosen);
    let whose = called(user, &invited.invitation.issuer)?;
    user.show([if back {
        came_back(&invited, &whose)
    } else {
        text::row("waiting", &format!("1 invitation from {whose}"))
    }]);
    Ok(invited)
}

/// The line for a session whose process was killed.
pub fn came_back(invited: &Invited, whose: &str) -> String {
    let title = text::foreign(&invited.invitation.subject.title);
    let line = format!("{title:?} from {whose}: you took part when your process was killed");
    text::row("back to", &line)
}

/// The next invitation of an inviter that follows one of `chain`.
pub async fn next_of(
    user: &User<'_>,
    options: &Options,
    inviter: &Did,
    chain: &BTreeSet<Digest>,
) -> Result<Invited, Failure> {
    let mut waiting = Waiting::new(user.global, HINT_AFTER);
    waiting.begin(
        "holding",
        "for another program of the same people",
        "Ctrl-C ends it",
    );
    let (handle, mut events) = post::receive(ReceiveConfig {
        key: user.identity.key.clone(),
        contacts: vec![inviter.clone()],
        scope: options.overlay_scope(),
        at: options.at.clone(),
        reach: options.reach.clone(),
    })
    .await?;
    let mut stop = user.stop.clone();
    let next = loop {
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s != Stop::No) => break Err(stopped()),
            event = events.recv() => event,
            () = waiting.tick() => continue,
        };
        match event {
            None => break Err(Failure::new(Code::Internal, "the post ended")),
            Some(ReceiveEvent::Offer {
                bundle, invitation, ..
            }) => {
                keep(user, &bundle, &invitation)?;
                let follows = invitation.subject.supersedes;
                if follows.is_some_and(|digest| chain.contains(&digest)) {
                    break Ok(invited(*bundle, *invitation));
                }
                waiting.aside(|| user.note("another invitation waits: `quorate join` shows it"));
            }
            Some(_) => {}
        }
    };
    waiting.end();
    handle.stop().await;
    next
}

fn from_whom(user: &User<'_>, from: Option<&str>) -> Result<From, Failure> {
    let contacts = user.contacts()?;
    match from {
        Some(did) if did.starts_with("did:") => Ok(From::One(parse_did(did)?)),
        Some(name) => match contacts.by_name(name) {
            Some(contact) => Ok(From::One(contact.did.clone())),
            None => Err(Failure::new(
                Code::Contact,
                format!("there is no contact {:?}", text::name(name)),
            )),
        },
        None if contacts.all().is_empty() => Err(Failure::new(
            Code::Contact,
            "you have no contacts, so nobody's invitation is taken without a ticket or a file",
        )
        .hint("join with a ticket or a file, or: quorate contacts add NAME DID")),
        None => Ok(From::Contacts),
    }
}

/// What came before and can still be joined.
fn kept(user: &User<'_>, from: &From) -> Result<Vec<Invited>, Failure> {
    let mut usable = Vec::new();
    let inbox = Inbox::of(&user.home);
    for (digest, text) in inbox.all(|fault| user.leave_out(&fault))? {
        let received = received(&text).ok();
        let fresh = received.and_then(|r| Some(invited(r.bundle?, r.invitation)));
        match fresh.filter(|i| i.invitation.subject.time.join_by > now()) {
            Some(invited) => usable.push(invited),
            None => inbox.remove(&digest)?,
        }
    }
    usable.retain(|invited| from.is(invited));
    Ok(usable)
}

async fn wait(
    user: &User<'_>,
    options: &Options,
    from: &From,
    patience: Duration,
) -> Result<Vec<Invited>, Failure> {
    let contacts = match from {
        From::One(did) => vec![did.clone()],
        From::Contacts => {
            let contacts = user.contacts()?;
            let all = contacts.all().iter().map(|c| c.did.clone());
            all.take(limits::MAX_CONTACTS).collect()
        }
    };
    let mut waiting = Waiting::new(user.global, HINT_AFTER);
    waiting.begin(
        "looking",
        "for invitations of your contacts",
        "is `quorate invite` or `quorate again` running there? Ctrl-C stops",
    );
    let (handle, mut events) = post::receive(ReceiveConfig {
        key: user.identity.key.clone(),
        contacts,
        scope: options.overlay_scope(),
        at: options.at.clone(),
        reach: options.reach.clone(),
    })
    .await?;
    let mut stop = user.stop.clone();
    let mut until = Instant::now() + patience;
    let mut found: Vec<Invited> = Vec::new();
    let mut refusals = Refusals::default();
    let ended = loop {
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s != Stop::No) => break Err(stopped()),
            event = events.recv() => event,
            () = sleep_until(until) => break Ok(()),
            () = waiting.tick() => continue,
        };
        match event {
            None => break Err(Failure::new(Code::Internal, "the post ended")),
            Some(ReceiveEvent::Offer {
                bundle, invitation, ..
            }) => {
                keep(user, &bundle, &invitation)?;
                if found.is_empty() {
                    until = until.min(Instant::now() + GRACE);
                }
                if found
                    .iter()
                    .all(|i| i.invitation.digest() != invitation.digest())
                {
                    found.push(invited(*bundle, *invitation));
                }
            }
            Some(ReceiveEvent::RelayRefused { relay, code, text }) => {
                waiting.aside(|| user.relay_refused(&relay, code, &text));
                refusals.add(relay, code);
            }
            Some(_) => {}
        }
    };
    waiting.end();
    handle.stop().await;
    ended?;
    if found.is_empty() {
        let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
        let failure = Failure::new(
            Code::NoPath,
            format!("no invitation came within {}", text::duration(seconds)),
        )
        .hint("is `quorate invite` or `quorate again` running there, in the same network? Wait longer: --wait 30m");
        return Err(refusals.explain(failure, &options.reach.relays));
    }
    Ok(found)
}

fn invited(bundle: Bundle, invitation: Verified<Invitation>) -> Invited {
    Invited {
        invitation,
        bundle,
        claims: Vec::new(),
        delivery: None,
        control: None,
        program: None,
    }
}

fn keep(
    user: &User<'_>,
    bundle: &Bundle,
    invitation: &Verified<Invitation>,
) -> Result<(), Failure> {
    user.event(
        "offer",
        &[
            ("digest", invitation.digest().to_string().into()),
            ("from", invitation.issuer.to_string().into()),
            ("title", invitation.subject.title.clone().into()),
        ],
    );
    Ok(Inbox::of(&user.home).keep(&invitation.digest(), &bundle.encode())?)
}

/// `[noord]`, or the DID of somebody without a petname.
pub fn called(user: &User<'_>, did: &Did) -> Result<String, Failure> {
    let contacts = user.contacts()?;
    Ok(contacts
        .by_did(did)
        .map_or_else(|| did.to_string(), |c| format!("[{}]", c.name)))
}

/// Which of several; by number.
async fn choose(user: &User<'_>, found: &[Invited]) -> Result<usize, Failure> {
    let mut lines = vec![text::row(
        "waiting",
        &format!("{} invitations", found.len()),
    )];
    for (number, invited) in found.iter().enumerate() {
        let subject = &invited.invitation.subject;
        let from = called(user, &invited.invitation.issuer)?;
        lines.push(text::row(
            "",
            &format!(
                "{}  {:?} from {from}",
                number + 1,
                text::foreign(&subject.title)
            ),
        ));
    }
    user.show(lines);
    let Some(mut terminal) = Terminal::open(user.global) else {
        return Err(Failure::new(Code::Usage, "there are several invitations")
            .hint("say whose: quorate join --from NAME"));
    };
    let question = format!("\nWhich one? [1-{}]  ", found.len());
    let answer = user
        .unless_stopped(async { Ok(terminal.ask(&question).await) })
        .await?;
    let number = answer.and_then(|a| a.parse::<usize>().ok());
    number
        .and_then(|n| n.checked_sub(1))
        .filter(|n| *n < found.len())
        .ok_or_else(|| Failure::new(Code::Declined, "no invitation was chosen"))
}
