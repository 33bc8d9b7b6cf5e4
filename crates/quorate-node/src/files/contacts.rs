//! Contacts: the people I know, by the names I gave them.
//!
//! Three things say who somebody is, and they are never mixed:
//!
//! ```text
//! petname   sud                 I chose it; unique here; what I type
//! claimed   "Clinique Sud"      what they call themselves; anybody may claim anything
//! DID       did:key:z6Mk…       what they prove
//! ```
//!
//! A petname that came with somebody's invitation and not from me says whose word it was (`named_by`).
//! Nothing that comes from outside changes a petname or takes one that exists.
//!
//! The file `data/contacts.json` is private, replaced atomically, and changed under a lock, since a
//! session may end while another command writes. A damaged file is put aside, not deleted.
//!
//! Limits: [`MAX_CONTACTS`], [`MAX_GROUPS`], [`MAX_CONTACT_ADDRESSES`], [`MAX_PETNAME_CHARS`],
//! [`MAX_CONTACTS_FILE_BYTES`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use quorate_identity::{Code, Did, UnixTime};
use serde::{Deserialize, Serialize};

use super::{Home, MAX_NAME_CHARS, atomic::disk, put_aside, read_bounded, write_atomic};
use crate::Fault;

/// Most contacts of one user.
pub const MAX_CONTACTS: usize = 1024;
/// Most groups of one user.
pub const MAX_GROUPS: usize = 64;
/// Most addresses that are remembered of one contact.
pub const MAX_CONTACT_ADDRESSES: usize = 8;
/// Longest petname, in characters.
pub const MAX_PETNAME_CHARS: usize = 32;
/// Largest file of contacts that is read, in bytes.
pub const MAX_CONTACTS_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Largest card that is kept, in bytes.
const MAX_CARD_BYTES: usize = 8 * 1024;
/// Longest address that is kept, in bytes.
const MAX_ADDRESS_BYTES: usize = 512;
/// Version of the file.
const FILE_VERSION: u8 = 1;

/// Somebody I know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// The name I know them by.
    pub name: String,
    /// Their DID.
    pub did: Did,
    /// What they call themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// Whose word the petname is, if it is not mine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_by: Option<Did>,
    /// Their contact card, as signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// Since when I know them.
    pub since: UnixTime,
    /// Where they were reached last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

impl Contact {
    /// A contact of which only the DID is known.
    pub fn new(name: impl Into<String>, did: Did, since: UnixTime) -> Self {
        Self {
            name: name.into(),
            did,
            claimed: None,
            named_by: None,
            card: None,
            since,
            addresses: Vec::new(),
        }
    }
}

/// All contacts and groups of one user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contacts {
    contacts: Vec<Contact>,
    groups: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    contacts: Vec<Contact>,
    groups: BTreeMap<String, BTreeSet<String>>,
}

/// Why a change of the contacts is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// No contact of this name.
    #[error("there is no contact {0:?}")]
    Unknown(String),
    /// No group of this name.
    #[error("there is no group @{0}")]
    UnknownGroup(String),
    /// The name is somebody else's.
    #[error("{0:?} is the name of another contact")]
    Taken(String),
    /// The DID has a name already.
    #[error("{did} is already your contact {name:?}")]
    Known {
        /// The DID.
        did: Did,
        /// Its petname.
        name: String,
    },
    /// The text cannot be a petname.
    #[error(
        "{0:?} cannot be a name here: 1 to {MAX_PETNAME_CHARS} letters, digits or -_. are, beginning with a letter or digit"
    )]
    BadName(String),
    /// A limit is reached.
    #[error("{0}")]
    Full(String),
}

impl From<ContactError> for Fault {
    fn from(error: ContactError) -> Self {
        let hint = match &error {
            ContactError::Unknown(_) => "see `quorate contacts`",
            ContactError::UnknownGroup(_) => "make it: quorate contacts group NAME +a +b",
            ContactError::Taken(_) => "choose another name, or rename that contact first",
            ContactError::Known { .. } => "use that name, or change it: quorate contacts rename",
            ContactError::BadName(_) => "choose a short name such as sud or anna-lab7",
            ContactError::Full(_) => "remove contacts that you do not need",
        };
        Fault::new(Code::Contact, error.to_string()).hint(hint)
    }
}

impl Contacts {
    fn path(home: &Home) -> PathBuf {
        home.data().join("contacts.json")
    }

    /// The contacts of this home, and where a damaged file was put, if there was one.
    pub fn load(home: &Home) -> Result<(Self, Option<PathBuf>), Fault> {
        let path = Self::path(home);
        let Some(content) = read_bounded(&path, MAX_CONTACTS_FILE_BYTES)? else {
            return Ok((Self::default(), None));
        };
        match Self::from_bytes(&content) {
            Ok(contacts) => Ok((contacts, None)),
            Err(why) => {
                tracing::warn!(%why, "the contacts are damaged");
                Ok((Self::default(), Some(put_aside(&path)?)))
            }
        }
    }

    /// Changes the stored contacts; no other command changes them meanwhile. Tells where a damaged
    /// file was put.
    pub fn change<T, E: Into<Fault>>(
        home: &Home,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<(T, Option<PathBuf>), Fault> {
        Home::ensure(home.data())?;
        let _lock = lock(home)?;
        let (mut contacts, damaged) = Self::load(home)?;
        let before = contacts.clone();
        let done = change(&mut contacts).map_err(Into::into)?;
        if contacts != before {
            write_atomic(&Self::path(home), &contacts.to_bytes())?;
        }
        Ok((done, damaged))
    }

    /// The file form, which is also what `export` writes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            v: FILE_VERSION,
            contacts: self.contacts.clone(),
            groups: self.groups.clone(),
        };
        let mut bytes = serde_json::to_vec_pretty(&wire).expect("contacts are plain JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the file form; every name, length and number is checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if wire.v != FILE_VERSION {
            return Err(format!("version {} is not known", wire.v));
        }
        let mut contacts = Self::default();
        for contact in wire.contacts {
            contacts.insert(contact).map_err(|e| e.to_string())?;
        }
        for (group, members) in wire.groups {
            contacts
                .regroup(&group, &Vec::from_iter(members), &[])
                .map_err(|e| e.to_string())?;
        }
        Ok(contacts)
    }

    /// All contacts, in the order of their names.
    pub fn all(&self) -> &[Contact] {
        &self.contacts
    }

    /// All groups with the names of their members.
    pub fn groups(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.groups
    }

    /// The contact that I call `name`, whatever the case of the letters.
    pub fn by_name(&self, name: &str) -> Option<&Contact> {
        self.contacts.iter().find(|c| same(&c.name, name))
    }

    /// The contact with this DID.
    pub fn by_did(&self, did: &Did) -> Option<&Contact> {
        self.contacts.iter().find(|c| c.did == *did)
    }

    /// The contacts of a group.
    pub fn members(&self, group: &str) -> Result<Vec<&Contact>, ContactError> {
        let members = self
            .groups
            .get(&group.to_lowercase())
            .ok_or_else(|| ContactError::UnknownGroup(group.into()))?;
        Ok(members.iter().filter_map(|m| self.by_name(m)).collect())
    }

    /// The petname of somebody else that `claimed` equals: whoever claims it may want to be taken for
    /// them.
    pub fn imitates(&self, claimed: &str, did: &Did) -> Option<&str> {
        let other = |c: &&Contact| c.did != *did && look_alike(&c.name, claimed);
        self.contacts.iter().find(other).map(|c| c.name.as_str())
    }

    /// Adds a contact.
    pub fn insert(&mut self, contact: Contact) -> Result<(), ContactError> {
        check_petname(&contact.name)?;
        self.check_free(&contact.name)?;
        if let Some(known) = self.by_did(&contact.did) {
            return Err(ContactError::Known {
                did: known.did.clone(),
                name: known.name.clone(),
            });
        }
        if self.contacts.len() >= MAX_CONTACTS {
            return Err(ContactError::Full(format!(
                "there are {MAX_CONTACTS} contacts already"
            )));
        }
        check_extras(&contact)?;
        let at = self
            .contacts
            .partition_point(|c| c.name.to_lowercase() < contact.name.to_lowercase());
        self.contacts.insert(at, contact);
        Ok(())
    }

    /// Remembers somebody under the name that another person gave them, made fit and free: nothing
    /// that exists is changed. Gives the name they have now.
    pub fn remember(&mut self, mut contact: Contact) -> Result<&str, ContactError> {
        if self.by_did(&contact.did).is_none() {
            contact.name = self.free_name(&contact.name);
            self.insert(contact.clone())?;
        }
        self.by_did(&contact.did)
            .map(|c| c.name.as_str())
            .ok_or(ContactError::Unknown(contact.name))
    }

    /// Keeps what a contact calls itself now, and its card if there is a new one.
    pub fn note_claim(
        &mut self,
        did: &Did,
        claimed: &str,
        card: Option<String>,
    ) -> Result<(), ContactError> {
        let contact = self
            .contacts
            .iter_mut()
            .find(|c| c.did == *did)
            .ok_or_else(|| ContactError::Unknown(did.to_string()))?;
        let mut changed = contact.clone();
        changed.claimed = Some(claimed.to_owned());
        changed.card = card.or(changed.card);
        check_extras(&changed)?;
        *contact = changed;
        Ok(())
    }

    /// Gives a contact another name; it is my word from now on.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), ContactError> {
        check_petname(to)?;
        let mut contact = self
            .by_name(from)
            .cloned()
            .ok_or_else(|| ContactError::Unknown(from.into()))?;
        if !same(&contact.name, to) {
            self.check_free(to)?;
        }
        self.contacts.retain(|c| c.did != contact.did);
        for members in self.groups.values_mut() {
            if members.remove(&contact.name) {
                members.insert(to.into());
            }
        }
        contact.name = to.into();
        contact.named_by = None;
        self.insert(contact)
    }

    /// Forgets a contact, also in the groups.
    pub fn remove(&mut self, name: &str) -> Result<Contact, ContactError> {
        let at = self
            .contacts
            .iter()
            .position(|c| same(&c.name, name))
            .ok_or_else(|| ContactError::Unknown(name.into()))?;
        let gone = self.contacts.remove(at);
        for members in self.groups.values_mut() {
            members.remove(&gone.name);
        }
        self.groups.retain(|_, members| !members.is_empty());
        Ok(gone)
    }

    /// Adds contacts to a group and takes others out; a group without members is gone.
    pub fn regroup(
        &mut self,
        group: &str,
        add: &[String],
        remove: &[String],
    ) -> Result<(), ContactError> {
        check_petname(group)?;
        let group = group.to_lowercase();
        let mut members = self.groups.get(&group).cloned().unwrap_or_default();
        for name in add {
            let contact = self
                .by_name(name)
                .ok_or_else(|| ContactError::Unknown(name.clone()))?;
            members.insert(contact.name.clone());
        }
        for name in remove {
            let contact = self
                .by_name(name)
                .ok_or_else(|| ContactError::Unknown(name.clone()))?;
            members.remove(&contact.name);
        }
        if members.is_empty() {
            self.groups.remove(&group);
            return Ok(());
        }
        if !self.groups.contains_key(&group) && self.groups.len() >= MAX_GROUPS {
            return Err(ContactError::Full(format!(
                "there are {MAX_GROUPS} groups already"
            )));
        }
        self.groups.insert(group, members);
        Ok(())
    }

    /// Takes over what is new in `other`; what is here stays as it is. Gives the new names.
    pub fn merge(&mut self, other: Self) -> Result<Vec<String>, ContactError> {
        let mut names = BTreeMap::new();
        let mut new = Vec::new();
        for contact in other.contacts {
            let theirs = contact.name.clone();
            let known = self.by_did(&contact.did).is_some();
            let name = self.remember(contact)?.to_owned();
            if !known {
                new.push(name.clone());
            }
            names.insert(theirs, name);
        }
        for (group, members) in other.groups {
            let members: Vec<_> = members
                .iter()
                .filter_map(|m| names.get(m).cloned())
                .collect();
            self.regroup(&group, &members, &[])?;
        }
        Ok(new)
    }

    fn check_free(&self, name: &str) -> Result<(), ContactError> {
        match self.by_name(name) {
            Some(_) => Err(ContactError::Taken(name.into())),
            None => Ok(()),
        }
    }

    /// `wish` made a petname that is free: `sud`, `sud-2`, …
    fn free_name(&self, wish: &str) -> String {
        let base = petname_of(wish);
        let numbered = (2_u32..).map(|n| format!("{base}-{n}"));
        std::iter::once(base.clone())
            .chain(numbered)
            .find(|name| self.by_name(name).is_none())
            .unwrap_or(base)
    }
}

/// Others change the contacts one after the other; the lock goes with the file descriptor.
fn lock(home: &Home) -> Result<File, Fault> {
    let path = home.data().join("contacts.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| disk(&path, "cannot be opened", &e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| disk(&path, "cannot be locked", &e.into()))?;
    Ok(file)
}

fn same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

/// Alike to the eye of somebody in a hurry: letters and digits only, whatever their case.
fn look_alike(a: &str, b: &str) -> bool {
    let core = |text: &str| -> String {
        text.chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase)
            .collect()
    };
    core(a) == core(b)
}

/// What can be typed as a name without being taken for something else.
pub fn check_petname(name: &str) -> Result<(), ContactError> {
    let fits = (1..=MAX_PETNAME_CHARS).contains(&name.chars().count())
        && name.starts_with(char::is_alphanumeric)
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || ['-', '_', '.'].contains(&c));
    fits.then_some(())
        .ok_or_else(|| ContactError::BadName(name.into()))
}

/// A petname made of the words of somebody else: plain lower-case ASCII, so that it cannot look like
/// another one by its script.
pub fn petname_of(words: &str) -> String {
    // Room for a number behind it.
    const KEPT: usize = MAX_PETNAME_CHARS - 6;
    let mut name = String::new();
    for c in words.chars().take(4 * MAX_PETNAME_CHARS) {
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(KEPT);
    let name = name.trim_end_matches('-');
    if name.is_empty() {
        "somebody".into()
    } else {
        name.into()
    }
}

fn check_extras(contact: &Contact) -> Result<(), ContactError> {
    let full = |what: &str| {
        Err(ContactError::Full(format!(
            "{what} of {:?} is too long",
            contact.name
        )))
    };
    if contact
        .claimed
        .as_ref()
        .is_some_and(|c| c.chars().count() > MAX_NAME_CHARS)
    {
        return full("what is claimed");
    }
    if contact
        .card
        .as_ref()
        .is_some_and(|c| c.len() > MAX_CARD_BYTES)
    {
        return full("the card");
    }
    let addresses = &contact.addresses;
    if addresses.len() > MAX_CONTACT_ADDRESSES
        || addresses.iter().any(|a| a.len() > MAX_ADDRESS_BYTES)
    {
        return full("the list of addresses");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn did(seed: u8) -> Did {
        quorate_identity::SigningKey::from_seed(&[seed; 32]).did()
    }

    fn contact(name: &str, seed: u8) -> Contact {
        Contact::new(name, did(seed), UnixTime(1))
    }

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::below(folder.path());
        (folder, home)
    }

    #[test]
    fn what_is_stored_is_read_back_and_private() {
        let (_folder, home) = home();
        Contacts::change(&home, |c| {
            c.insert(contact("sud", 1))?;
            c.insert(contact("ost", 2))?;
            c.regroup("Registry", &["SUD".into(), "ost".into()], &[])
        })
        .unwrap();
        let (contacts, damaged) = Contacts::load(&home).unwrap();
        assert_eq!(damaged, None);
        assert_eq!(contacts.by_name("Sud").unwrap().did, did(1));
        let members: Vec<_> = contacts
            .members("registry")
            .unwrap()
            .iter()
            .map(|c| c.name.clone())
            .collect();
        assert_eq!(members, ["ost", "sud"]);
        let mode = std::fs::metadata(Contacts::path(&home))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_its_content_kept() {
        let (_folder, home) = home();
        Contacts::change(&home, |c| c.insert(contact("sud", 1))).unwrap();
        let path = Contacts::path(&home);
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            good.replace("\"v\": 1", "\"v\": 2"),
            good.replace("\"name\"", "\"nom\""),
            good.replace("\"sud\"", "\"-sud\""),
            good.replace('}', ""),
            good.replace("\"groups\": {}", "\"groups\": {\"g\": [\"nobody\"]}"),
        ] {
            assert_ne!(bad, good);
            std::fs::write(&path, &bad).unwrap();
            let (contacts, damaged) = Contacts::load(&home).unwrap();
            assert!(contacts.all().is_empty());
            let kept = damaged.unwrap();
            assert_eq!(std::fs::read_to_string(kept).unwrap(), bad);
            assert!(!path.exists());
        }
    }

    #[test]
    fn nothing_takes_a_name_that_exists() {
        let mut contacts = Contacts::default();
        contacts.insert(contact("sud", 1)).unwrap();
        assert_eq!(
            contacts.insert(contact("SUD", 2)),
            Err(ContactError::Taken("SUD".into()))
        );
        assert!(matches!(
            contacts.insert(contact("other", 1)),
            Err(ContactError::Known { .. })
        ));
        assert_eq!(contacts.remember(contact("Sud", 2)).unwrap(), "sud-2");
        assert_eq!(
            contacts.remember(contact("renamed", 1)).unwrap(),
            "sud",
            "a known DID keeps its name"
        );
        assert_eq!(
            contacts.remember(contact("сud\u{202e}", 3)).unwrap(),
            "ud",
            "only plain ASCII is taken over"
        );
        assert_eq!(contacts.remember(contact("医院", 4)).unwrap(), "somebody");
    }

    #[test]
    fn names_that_could_be_taken_for_something_else_are_refused() {
        let mut contacts = Contacts::default();
        let long = "x".repeat(MAX_PETNAME_CHARS + 1);
        for bad in [
            "",
            "-a",
            "+a",
            "@a",
            "a b",
            "a,b",
            "a=b",
            "did:key:z6",
            "a\u{202e}b",
            "a\n",
            &long,
        ] {
            assert_eq!(
                contacts.insert(contact(bad, 1)),
                Err(ContactError::BadName(bad.into()))
            );
        }
        contacts.insert(contact("süd_1.b-c", 1)).unwrap();
    }

    #[test]
    fn a_claimed_name_that_is_somebody_elses_petname_is_seen() {
        let mut contacts = Contacts::default();
        contacts.insert(contact("noord-hospital", 1)).unwrap();
        assert_eq!(
            contacts.imitates("Noord Hospital", &did(2)),
            Some("noord-hospital")
        );
        assert_eq!(contacts.imitates("Noord Hospital", &did(1)), None);
        assert_eq!(contacts.imitates("Noord", &did(2)), None);
    }

    #[test]
    fn renaming_and_removing_keep_the_groups_right() {
        let mut contacts = Contacts::default();
        contacts.insert(contact("a", 1)).unwrap();
        contacts.insert(contact("b", 2)).unwrap();
        contacts
            .regroup("g", &["a".into(), "b".into()], &[])
            .unwrap();
        contacts.rename("a", "c").unwrap();
        assert_eq!(
            contacts.rename("c", "b"),
            Err(ContactError::Taken("b".into()))
        );
        contacts.rename("c", "C").unwrap();
        contacts.remove("b").unwrap();
        let members: Vec<_> = contacts
            .members("g")
            .unwrap()
            .iter()
            .map(|c| c.name.clone())
            .collect();
        assert_eq!(members, ["C"]);
        contacts.remove("C").unwrap();
        assert_eq!(
            contacts.members("g"),
            Err(ContactError::UnknownGroup("g".into()))
        );
    }

    #[test]
    fn merging_adds_and_never_changes() {
        let mut mine = Contacts::default();
        mine.insert(contact("sud", 1)).unwrap();
        let mut other = Contacts::default();
        other.insert(contact("sud", 2)).unwrap();
        other.insert(contact("dus", 1)).unwrap();
        other
            .regroup("g", &["sud".into(), "dus".into()], &[])
            .unwrap();
        assert_eq!(mine.merge(other).unwrap(), ["sud-2"]);
        assert_eq!(mine.by_name("sud").unwrap().did, did(1));
        let members: Vec<_> = mine
            .members("g")
            .unwrap()
            .iter()
            .map(|c| c.name.clone())
            .collect();
        assert_eq!(members, ["sud", "sud-2"]);
    }

    #[test]
    fn there_is_a_limit_to_contacts() {
        let mut contacts = Contacts::default();
        for n in 0..MAX_CONTACTS {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let did = quorate_identity::SigningKey::from_seed(&seed).did();
            contacts
                .insert(Contact::new(format!("c{n}"), did, UnixTime(1)))
                .unwrap();
        }
        assert!(matches!(
            contacts.insert(contact("more", 9)),
            Err(ContactError::Full(_))
        ));
    }

    #[test]
    fn two_commands_at_once_lose_nothing() {
        let (_folder, home) = home();
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let home = &home;
                scope.spawn(move || {
                    Contacts::change(home, |c| c.insert(contact(&format!("c{n}"), n))).unwrap();
                });
            }
        });
        assert_eq!(Contacts::load(&home).unwrap().0.all().len(), 8);
    }
}
