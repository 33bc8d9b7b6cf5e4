//! What is kept of a session: what was agreed to, and the people who took part in it.

use std::path::Path;

use quorate_identity::{Did, Verified};
use quorate_node::{
    files::{Contact, Contacts, MemoryOfParty, SessionMemory},
    program::builtin,
};
use quorate_session::{Invitation, message::Engine};

use super::{Options, User, reach};
use crate::{failure::Failure, invitation::now, text};

/// What a person said about themselves before the session.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    pub did: Did,
    /// What they call themselves.
    pub name: String,
    /// Their card, if they sent one.
    pub card: Option<String>,
}

/// Keeps what `again` needs, under a name that is told.
pub fn keep_session(
    user: &User<'_>,
    invitation: &Verified<Invitation>,
    options: &Options,
) -> Result<String, Failure> {
    let subject = &invitation.subject;
    let parties = subject.parties.iter().map(|p| MemoryOfParty {
        did: p.did.clone(),
        name: p.name.clone(),
    });
    let seconds = subject.time.join_by.0 - invitation.valid_from.0;
    let mut memory = SessionMemory::new(
        subject.title.clone(),
        invitation.digest(),
        invitation.issuer.clone(),
        parties.collect(),
        subject.mpc.t,
        program_name(&subject.program.entry, options),
        subject.program.args.clone(),
        u64::try_from(seconds).unwrap_or_default(),
        options.private_args_file.clone(),
        now(),
    );
    memory.relays = reach::to_remember(&options.reach, &subject.rendezvous.relays);
    if subject.mpc.engine() == Some(Engine::Exec) {
        memory.executable = Some(subject.program.entry.clone());
    }
    Ok(memory.keep(&user.home)?)
}

/// How the program can be named again: where it is on this machine, or as one that quorate carries.
fn program_name(entry: &str, options: &Options) -> String {
    let absolute = |path: &Path| std::path::absolute(path).ok()?.to_str().map(str::to_owned);
    let named = options.program_path.as_deref().and_then(absolute);
    named.unwrap_or_else(|| {
        let builtin = builtin::ALL.iter().find(|b| b.file == entry);
        builtin.map_or_else(|| entry.to_owned(), |b| format!("mpyc:{}", b.name))
    })
}

/// The other parties are contacts from now on, by the names of the invitation; what is known of them
/// already stays. They proved their DIDs, nothing else: what they claim is kept as a claim.
pub fn keep_people(user: &User<'_>, invitation: &Verified<Invitation>, claims: &[Claim]) {
    let me = user.identity.key.did();
    let mine = invitation.issuer == me;
    let kept = Contacts::change(&user.home, |contacts| {
        let mut new = Vec::new();
        for party in invitation.subject.parties.iter().filter(|p| p.did != me) {
            let known = contacts.by_did(&party.did).is_some();
            let mut contact = Contact::new(&party.name, party.did.clone(), now());
            contact.named_by = (!mine).then(|| invitation.issuer.clone());
            let name = contacts.remember(contact)?.to_owned();
            if !known {
                new.push(name);
            }
            if let Some(claim) = claims.iter().find(|c| c.did == party.did) {
                contacts.note_claim(&claim.did, &claim.name, claim.card.clone())?;
            }
        }
        Ok::<_, quorate_node::files::ContactError>(new)
    });
    // The session is over and was good: that nobody could be remembered is worth a line, not a failure.
    match kept {
        Ok((new, _)) if new.is_empty() => {}
        Ok((new, _)) => {
            let names: Vec<_> = new.iter().map(|n| format!("[{n}]")).collect();
            user.event("contacts", &[("names", new.clone().into())]);
            user.show([text::row(
                "contacts",
                &format!("kept: {}   see `quorate contacts`", names.join(" ")),
            )]);
        }
        Err(fault) => user.note(&format!("the others are not in your contacts: {fault}")),
    }
}
