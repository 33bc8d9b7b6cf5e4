//! Reading and showing an invitation: the same for `verify` and `join`.

use std::{
    io::Read,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use quorate_identity::{Code, Did, DidKeyResolver, Resolver, UnixTime, Unverified, Verified};
use quorate_node::{files::Contacts, program::check_user_args};
use quorate_session::{
    Bundle, Invitation,
    message::{Call, Engine, Mpc, Program},
};

use crate::{failure::Failure, text};

/// Largest file that is read as an invitation, in bytes.
const MAX_INPUT_BYTES: u64 = 352 * 1024;

/// The wall clock.
pub fn now() -> UnixTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// An invitation whose signature holds, with what came along with it unsigned.
pub struct Received {
    pub invitation: Verified<Invitation>,
    /// The rendezvous secret and address hints; a bare invitation has none.
    pub bundle: Option<Bundle>,
}

/// Verifies an invitation that came as text, in whatever way.
pub fn received(text: &str) -> Result<Received, Failure> {
    let text = text.trim();
    let (jws, bundle) = if text.starts_with("quorate1:") {
        let bundle = Bundle::parse(text)?;
        (bundle.invitation.clone(), Some(bundle))
    } else {
        (text.to_owned(), None)
    };
    let invitation = verify(&jws)?;
    if let Some(source) = bundle.as_ref().and_then(|b| b.program.as_ref()) {
        source.check(&invitation.subject.program)?;
    }
    Ok(Received { invitation, bundle })
}

/// Checks a bare invitation (compact JWS) against its issuer's keys and the clock.
fn verify(jws: &str) -> Result<Verified<Invitation>, Failure> {
    let unverified = Unverified::<Invitation>::parse(jws)?;
    let issuer = unverified.issuer().clone();
    let keys = DidKeyResolver.resolve(&issuer).ok_or_else(|| {
        Failure::new(
            Code::DidResolve,
            format!("{issuer} cannot be resolved: only did:key is supported by this version"),
        )
    })??;
    let invitation = unverified.verify(&keys, now())?;
    let engine = invitation.subject.mpc.engine().unwrap_or_default();
    check_args(&invitation.subject.program, engine, &invitation.issuer)?;
    Ok(invitation)
}

/// Public arguments that would override the signed terms are a trick of whoever signed them. Other
/// engines than MPyC know nothing of its options.
pub fn check_args(program: &Program, engine: Engine, by: &Did) -> Result<(), Failure> {
    if engine != Engine::Mpyc {
        return Ok(());
    }
    check_user_args(&program.args).map_err(|refusal| {
        Failure::new(
            Code::Threshold,
            format!("the invitation's program arguments contradict its terms: {refusal}"),
        )
        .note("by", by.to_string())
        .hint("do not take part; ask the organizer why it is there")
    })
}

/// A small text file, or stdin for `-`.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    read_up_to(path, MAX_INPUT_BYTES)
}

/// A text file of at most `limit` bytes, or stdin for `-`.
pub fn read_up_to(path: &Path, limit: u64) -> Result<String, Failure> {
    let mut content = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limit + 1)
            .read_to_end(&mut content)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut content))
    };
    read.map_err(|e| {
        Failure::new(
            Code::Usage,
            format!("{} cannot be read: {e}", path.display()),
        )
        .hint("give the file, or - for stdin")
    })?;
    if content.len() as u64 > limit {
        return Err(Failure::new(
            Code::Format,
            format!("{} is larger than {} KiB", path.display(), limit / 1024),
        ));
    }
    String::from_utf8(content)
        .map_err(|_| Failure::new(Code::Format, format!("{} is not text", path.display())))
}

/// Whose eyes look at an invitation: petnames are the reader's own, so they stand in brackets beside
/// what the organizer wrote, never instead of it.
pub struct People {
    pub contacts: Contacts,
    pub me: Did,
}

impl People {
    /// The parties that are neither the reader, nor the inviter, nor contacts.
    pub fn new_faces(&self, invitation: &Verified<Invitation>) -> Vec<String> {
        let parties = invitation.subject.parties.iter();
        let new = parties.filter(|p| {
            p.did != self.me && p.did != invitation.issuer && self.contacts.by_did(&p.did).is_none()
        });
        new.map(|p| format!("\"{}\"", text::name(&p.name)))
            .collect()
    }

    /// What a reader should know about a party (or the issuer) that somebody else called `name`.
    pub fn mark(&self, name: &str, did: &Did) -> String {
        if *did == self.me {
            return "   (you)".into();
        }
        if let Some(contact) = self.contacts.by_did(did) {
            return format!("   [{}]", contact.name);
        }
        match self.contacts.imitates(name, did) {
            Some(other) => format!("   (!) not your contact [{other}]"),
            None => "   not in your contacts".into(),
        }
    }
}

/// What the invitation says, line by line; every word of the organizer escaped.
pub fn describe(invitation: &Verified<Invitation>, people: Option<&People>) -> Vec<String> {
    let subject = &invitation.subject;
    let issuer_name = subject
        .parties
        .iter()
        .find(|p| p.did == invitation.issuer)
        .map_or(String::new(), |p| format!("{}  ", text::name(&p.name)));
    let left = subject.time.join_by.0 - now().0;
    let mut lines = vec![
        text::row(
            "invitation",
            &format!(
                "{:?} from {issuer_name}{}",
                text::foreign(&subject.title),
                invitation.issuer
            ),
        ),
        text::row(
            "",
            &format!(
                "signature valid · join within {} · digest {}",
                text::duration(left),
                invitation.digest()
            ),
        ),
    ];
    lines.extend(program_lines(&subject.program, &subject.mpc));
    lines.push(text::row(
        "parties",
        &format!("{}, {}", subject.mpc.m, threshold_line(subject.mpc.t)),
    ));
    lines.extend(party_lines(invitation, people));
    lines
}

/// Who takes part, for somebody who knows the rest already.
pub fn people_lines(invitation: &Verified<Invitation>, people: &People) -> Vec<String> {
    let mut lines = vec![text::row(
        "parties",
        &format!("{}, and nobody else can join", invitation.subject.mpc.m),
    )];
    lines.extend(party_lines(invitation, Some(people)));
    lines
}

fn party_lines<'i>(
    invitation: &'i Verified<Invitation>,
    people: Option<&'i People>,
) -> impl Iterator<Item = String> + 'i {
    let mark = move |name: &str, did: &Did| people.map_or_else(String::new, |p| p.mark(name, did));
    let parties = invitation.subject.parties.iter().enumerate();
    parties.map(move |(index, party)| {
        text::row(
            "",
            &format!(
                "{index}  {}  {}{}",
                text::name(&party.name),
                party.did,
                mark(&party.name, &party.did)
            ),
        )
    })
}

/// What the ticket's call says, line by line. Nobody is listed in it: the closed invitation will be.
pub fn describe_call(call: &Verified<Call>, people: &People) -> Vec<String> {
    let subject = &call.subject;
    let left = subject.time.apply_by.0 - now().0;
    let from = match people.contacts.by_did(&call.issuer) {
        Some(contact) => format!("[{}], who calls themselves", contact.name),
        None => "someone who calls themselves".into(),
    };
    let mark = people.mark(&subject.name, &call.issuer);
    let mut lines = vec![
        text::row(
            "invitation",
            &format!(
                "{:?} from {from} \"{}\"  {}{mark}",
                text::foreign(&subject.title),
                text::name(&subject.name),
                call.issuer
            ),
        ),
        text::row(
            "",
            &format!(
                "signature valid · it is what the ticket names · apply within {}",
                text::duration(left)
            ),
        ),
    ];
    lines.extend(program_lines(&subject.program, &subject.mpc));
    let who = if subject.party {
        "the inviter and "
    } else {
        ""
    };
    lines.push(text::row(
        "parties",
        &format!(
            "{} ({who}{} whom the inviter admits), {}",
            subject.mpc.m,
            subject.free_seats(),
            threshold_line(subject.mpc.t)
        ),
    ));
    lines
}

/// The program and its public arguments.
pub fn program_lines(program: &Program, mpc: &Mpc) -> Vec<String> {
    let mut lines = vec![text::row(
        "program",
        &format!(
            "{}  {}   {}",
            text::foreign(&program.entry),
            short(&program.manifest.to_string()),
            engine(mpc)
        ),
    )];
    // Every argument on a line of its own, and whole: nothing can hide behind another one.
    for (index, arg) in program.args.iter().enumerate() {
        lines.push(text::row(
            if index == 0 { "arguments" } else { "" },
            &text::escaped(arg),
        ));
    }
    lines
}

/// The threshold and what it means.
pub fn threshold_line(t: u16) -> String {
    format!("threshold {t}: {}", meaning_of_threshold(t))
}

/// What runs the program.
fn engine(mpc: &Mpc) -> String {
    match mpc.engine() {
        Some(Engine::Exec) => "started as it is (engine exec)".into(),
        _ => format!("MPyC {}", mpc.version),
    }
}

fn meaning_of_threshold(t: u16) -> String {
    match t {
        0 => "NOTHING protects the inputs".into(),
        1 => "no single party learns another's input".into(),
        t => format!("no {t} parties together learn another's input"),
    }
}

/// The beginning and end of a digest, for a line on a screen.
pub fn short(digest: &str) -> String {
    match digest.split_once(':') {
        Some((name, hex)) if hex.len() > 12 => {
            format!("{name} {}…{}", &hex[..4], &hex[hex.len() - 4..])
        }
        _ => digest.to_owned(),
    }
}
