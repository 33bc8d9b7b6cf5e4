//! `quorate contacts`: the people I know, by the names I gave them.
//!
//! On the screen the three kinds of names keep their places and their marks: `[petname]`, `"claimed"`,
//! DID. A claimed name that equals the petname of somebody else is pointed out.

use std::{path::Path, process::ExitCode};

use quorate_identity::{Code, Did, UnixTime};
use quorate_node::{
    Fault,
    files::{
        Contact, ContactError, Contacts, Home, MAX_CONTACTS_FILE_BYTES, read_bounded, write_new,
    },
};
use quorate_session::message::verify_card;
use serde_json::{Value, json};

use crate::{
    args::{ContactsAction, ContactsArgs, Global},
    command::{home, print_stdout},
    failure::Failure,
    invitation::{now, read_text},
    text,
};

pub fn run(global: &Global, args: ContactsArgs) -> Result<ExitCode, Failure> {
    let home = home(global)?;
    match args.action.unwrap_or(ContactsAction::List) {
        ContactsAction::List => list(global, &load(global, &home)?),
        ContactsAction::Add { name, who } => add(global, &home, &name, &who)?,
        ContactsAction::Show { name } => {
            let contacts = load(global, &home)?;
            let contact = find(&contacts, &name)?;
            show(global, &contacts, contact);
        }
        ContactsAction::Rename { name, to } => {
            change(global, &home, |c| c.rename(&name, &to))?;
            said(global, &format!("[{name}] is now [{to}]"));
        }
        ContactsAction::Remove { name } => {
            let gone = change(global, &home, |c| c.remove(&name))?;
            said(
                global,
                &format!("[{}] {} is forgotten", gone.name, gone.did),
            );
        }
        ContactsAction::Group {
            name,
            changes,
            minus,
        } => group(global, &home, &name, &changes, &minus)?,
        ContactsAction::Export { out } => export(global, &load(global, &home)?, out.as_deref())?,
        ContactsAction::Import { file } => import(global, &home, &file)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The contacts of this home; a damaged file was put aside, which is said.
pub fn load(global: &Global, home: &Home) -> Result<Contacts, Failure> {
    let (contacts, damaged) = Contacts::load(home)?;
    say_damaged(global, damaged.as_deref());
    Ok(contacts)
}

fn change<T>(
    global: &Global,
    home: &Home,
    change: impl FnOnce(&mut Contacts) -> Result<T, ContactError>,
) -> Result<T, Failure> {
    let (done, damaged) = Contacts::change(home, change)?;
    say_damaged(global, damaged.as_deref());
    Ok(done)
}

fn say_damaged(global: &Global, aside: Option<&Path>) {
    let Some(aside) = aside else { return };
    let text = format!(
        "the file of contacts was damaged; it is kept as {}",
        aside.display()
    );
    if global.json {
        text::say(json!({"schema": crate::report::schema("event"), "event": "note", "text": text}));
    } else {
        text::say(text::row("note", &text));
    }
}

fn said(global: &Global, line: &str) {
    if !global.quiet && !global.json {
        text::say(text::row("contacts", line));
    }
}

/// By petname or DID.
fn find<'c>(contacts: &'c Contacts, who: &str) -> Result<&'c Contact, Failure> {
    let found = match who.parse::<Did>() {
        Ok(did) => contacts.by_did(&did),
        Err(_) => contacts.by_name(who.trim_matches(['[', ']'])),
    };
    found.ok_or_else(|| Fault::from(ContactError::Unknown(who.into())).into())
}

fn add(global: &Global, home: &Home, name: &str, who: &str) -> Result<(), Failure> {
    let contact = if who.starts_with("did:") {
        Contact::new(name, parse_did(who)?, now())
    } else {
        from_card(name, who, now())?
    };
    let did = contact.did.clone();
    change(global, home, |contacts| {
        let known = contacts.by_did(&contact.did).cloned();
        match (known, &contact.claimed) {
            // A card for somebody I know by this name already is more about them, not somebody new.
            (Some(known), Some(claimed)) if known.name.eq_ignore_ascii_case(name) => {
                contacts.note_claim(&contact.did, claimed, contact.card.clone())
            }
            _ => contacts.insert(contact),
        }
    })?;
    if global.json {
        let contacts = load(global, home)?;
        if let Some(contact) = contacts.by_did(&did) {
            print_stdout(&document(&contacts, std::slice::from_ref(contact)).to_string());
        }
    }
    said(global, &format!("[{name}] {did}"));
    Ok(())
}

/// A DID as somebody typed it.
pub fn parse_did(text: &str) -> Result<Did, Failure> {
    text.trim()
        .parse()
        .map_err(|e: quorate_identity::Rejection| {
            Failure::new(e.code, format!("{:?}: {}", text::foreign(text), e.detail))
                .hint("ask that person for the DID that `quorate id show` prints")
        })
}

fn from_card(name: &str, file: &str, at: UnixTime) -> Result<Contact, Failure> {
    let path = Path::new(file);
    if file != "-" && !path.exists() {
        return Err(Failure::new(
            Code::Contact,
            format!("{:?} is neither a DID nor a file", text::foreign(file)),
        )
        .hint("give a DID such as did:key:z6Mk…, or the file of a card"));
    }
    let card_text = read_text(path)?;
    let card = verify_card(&card_text, at)?;
    let mut contact = Contact::new(name, card.issuer.clone(), at);
    contact.claimed = Some(card.subject.name.clone());
    contact.card = Some(card_text.trim().to_owned());
    Ok(contact)
}

fn list(global: &Global, contacts: &Contacts) {
    if global.json {
        print_stdout(&document(contacts, contacts.all()).to_string());
        return;
    }
    if contacts.all().is_empty() {
        said(
            global,
            "nobody yet; the other parties of a session become contacts",
        );
        return;
    }
    let widest = contacts.all().iter().map(|c| c.name.chars().count()).max();
    let width = widest.unwrap_or_default() + 2;
    for contact in contacts.all() {
        print_stdout(&format!(
            "{:<width$}  {}  {}",
            format!("[{}]", contact.name),
            contact.did,
            claim(contacts, contact)
        ));
    }
    for (group, members) in contacts.groups() {
        let members: Vec<_> = members.iter().map(|m| format!("[{m}]")).collect();
        print_stdout(&format!("@{group}  {}", members.join(" ")));
    }
}

/// What they call themselves, with a warning where it is the name of somebody else.
fn claim(contacts: &Contacts, contact: &Contact) -> String {
    let Some(claimed) = &contact.claimed else {
        return String::new();
    };
    let warning = contacts
        .imitates(claimed, &contact.did)
        .map_or_else(String::new, |other| format!("  (!) not your [{other}]"));
    format!("\"{}\"{warning}", text::foreign(claimed))
}

fn show(global: &Global, contacts: &Contacts, contact: &Contact) {
    if global.json {
        print_stdout(&document(contacts, std::slice::from_ref(contact)).to_string());
        return;
    }
    let row = |label: &str, text: &str| {
        print_stdout(&anstream::adapter::strip_str(&text::row(label, text)).to_string());
    };
    row("name", &format!("[{}]", contact.name));
    if let Some(by) = &contact.named_by {
        row(
            "",
            &format!("as {by} called them; `quorate contacts rename` makes it your word"),
        );
    }
    row("DID", contact.did.as_str());
    if contact.claimed.is_some() {
        row("calls itself", &claim(contacts, contact));
    }
    row(
        "card",
        if contact.card.is_some() {
            "yes: invitations can be sealed"
        } else {
            "none"
        },
    );
    row("since", &contact.since.rfc3339());
    for address in &contact.addresses {
        row("seen at", &text::foreign(address));
    }
}

fn document(contacts: &Contacts, shown: &[Contact]) -> Value {
    let entry = |c: &Contact| {
        json!({"name": c.name, "did": c.did, "claimed": c.claimed, "named_by": c.named_by, "card": c.card.is_some(),
            "since": c.since.rfc3339(),
            "imitates": c.claimed.as_ref().and_then(|claimed| contacts.imitates(claimed, &c.did))})
    };
    json!({"schema": crate::report::schema("contacts"), "contacts": shown.iter().map(entry).collect::<Vec<_>>(),
        "groups": contacts.groups()})
}

fn group(
    global: &Global,
    home: &Home,
    name: &str,
    changes: &[String],
    minus: &[String],
) -> Result<(), Failure> {
    let name = name.trim_start_matches('@');
    let mut add = Vec::new();
    for word in changes {
        let Some(who) = word.strip_prefix('+') else {
            return Err(Failure::new(
                Code::Usage,
                format!("{:?} is neither +NAME nor -NAME", text::foreign(word)),
            )
            .hint(format!("quorate contacts group {name} +{word}")));
        };
        add.push(who.to_owned());
    }
    let changed = !add.is_empty() || !minus.is_empty();
    if changed {
        change(global, home, |c| c.regroup(name, &add, minus))?;
    }
    let contacts = load(global, home)?;
    let members: Vec<_> = match contacts.members(name) {
        Ok(members) => members.into_iter().cloned().collect(),
        Err(_) if changed => Vec::new(),
        Err(e) => return Err(Fault::from(e).into()),
    };
    if global.json {
        print_stdout(&document(&contacts, &members).to_string());
    } else {
        for contact in &members {
            print_stdout(&format!("[{}]  {}", contact.name, contact.did));
        }
    }
    Ok(())
}

fn export(global: &Global, contacts: &Contacts, out: Option<&Path>) -> Result<(), Failure> {
    let bytes = contacts.to_bytes();
    let Some(out) = out else {
        print_stdout(String::from_utf8_lossy(&bytes).trim_end());
        return Ok(());
    };
    if !write_new(out, &bytes)? {
        return Err(
            Failure::new(Code::Disk, format!("{} exists already", out.display()))
                .hint("choose another name"),
        );
    }
    said(
        global,
        &format!("{} written to {}", contacts.all().len(), out.display()),
    );
    Ok(())
}

fn import(global: &Global, home: &Home, file: &Path) -> Result<(), Failure> {
    let content = read_bounded(file, MAX_CONTACTS_FILE_BYTES)?
        .ok_or_else(|| Failure::new(Code::Usage, format!("there is no file {}", file.display())))?;
    let other = Contacts::from_bytes(&content)
        .map_err(|why| Failure::new(Code::Format, format!("{}: {why}", file.display())))?;
    // A card is only worth its signature; where it came from says nothing.
    for contact in other.all() {
        let Some(card) = &contact.card else { continue };
        if verify_card(card, now())?.issuer != contact.did {
            return Err(Failure::new(
                Code::Format,
                format!("the card of {:?} is that of somebody else", contact.name),
            ));
        }
    }
    let new = change(global, home, |c| c.merge(other))?;
    if global.json {
        let contacts = load(global, home)?;
        let new: Vec<_> = new
            .iter()
            .filter_map(|n| contacts.by_name(n))
            .cloned()
            .collect();
        print_stdout(&document(&contacts, &new).to_string());
    }
    said(global, &format!("{} new: {}", new.len(), new.join(", ")));
    Ok(())
}
