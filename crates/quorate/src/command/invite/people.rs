//! Who is invited: names of contacts, groups, DIDs, and names given on the command line.

use quorate_identity::{Code, Did, DidKeyResolver, Resolver};
use quorate_node::{
    Fault,
    files::{ContactError, Contacts, MAX_NAME_CHARS},
};
use quorate_session::PartyDraft;

use crate::{command::contacts::parse_did, failure::Failure, text};

/// The people that `words` name, in their order, each once. Names that are not given come from the
/// contacts, then from the position (`first` is that of the first word).
pub fn invited(
    words: &[String],
    contacts: &Contacts,
    first: usize,
) -> Result<Vec<PartyDraft>, Failure> {
    let mut parties: Vec<PartyDraft> = Vec::new();
    for word in words.iter().map(|w| w.trim()) {
        for (name, did) in people_of(word, contacts)? {
            // A group may hold somebody who is named beside it.
            if word.starts_with('@') && parties.iter().any(|p| p.did == did) {
                continue;
            }
            let name = name.unwrap_or_else(|| format!("party-{}", first + parties.len()));
            parties.push(party(&name, &did)?);
        }
    }
    Ok(parties)
}

fn people_of(word: &str, contacts: &Contacts) -> Result<Vec<(Option<String>, Did)>, Failure> {
    if let Some(group) = word.strip_prefix('@') {
        let members = contacts.members(group).map_err(Fault::from)?;
        let named = members
            .iter()
            .map(|c| (Some(c.name.clone()), c.did.clone()));
        return Ok(named.collect());
    }
    if let Some((name, did)) = word.split_once('=') {
        return Ok(vec![(Some(name.trim().to_owned()), parse_did(did)?)]);
    }
    if word.starts_with("did:") {
        let did = parse_did(word)?;
        let name = contacts.by_did(&did).map(|c| c.name.clone());
        return Ok(vec![(name, did)]);
    }
    match contacts.by_name(word) {
        Some(contact) => Ok(vec![(Some(contact.name.clone()), contact.did.clone())]),
        None => Err(Fault::from(ContactError::Unknown(word.into()))
            .hint(format!(
                "give the DID: {0}=did:key:z6Mk…, or remember it: quorate contacts add {0} DID",
                text::foreign(word)
            ))
            .into()),
    }
}

/// A party of the invitation, with the keys that its DID has.
pub fn party(name: &str, did: &Did) -> Result<PartyDraft, Failure> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name != text::name(name) {
        return Err(Failure::new(
            Code::Usage,
            format!("a party's name is 1 to {MAX_NAME_CHARS} plain characters"),
        ));
    }
    let keys = DidKeyResolver.resolve(did).ok_or_else(|| {
        Failure::new(
            Code::DidResolve,
            format!("{did} cannot be resolved: only did:key is supported by this version"),
        )
    })??;
    let keys = keys.keys.iter().map(|k| k.key.thumbprint()).collect();
    Ok(PartyDraft {
        did: did.clone(),
        name: name.into(),
        keys,
    })
}
