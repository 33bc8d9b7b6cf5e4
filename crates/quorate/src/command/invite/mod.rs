//! `quorate invite`: sign who may compute what with whom, and take part.
//!
//! ```text
//! --with …              a closed invitation, brought to its parties by post
//! --with … --out FILE   a closed invitation in a file; whoever it is for joins the file
//! --seats N             a call and a ticket; the inviter admits, then everybody takes part
//! ```

mod admission;
mod lobby;
mod people;
mod seats;
mod terms;

use std::{io::Write, path::Path, process::ExitCode};

use quorate_identity::{Code, Verified};
use quorate_node::files::{Contacts, Home, IdentityFile, write_atomic, write_new};
use quorate_session::{
    Bundle, Invitation, PartyDraft,
    message::{PathPolicy, verify_card},
    seal_bundle,
};
use serde_json::json;

use crate::{
    args::{EngineName, Global, InviteArgs},
    command::{again, contacts, home},
    failure::Failure,
    invitation,
    part::{
        Consent, Delivery, Invited, Options, User, card_of, check_machine, own_name, privacy,
        reach, readiness, sending_line, take_part, with_user,
    },
    text,
};

pub use people::{invited, party};
pub use terms::{Terms, random};

pub fn run(global: &Global, args: &InviteArgs) -> Result<ExitCode, Failure> {
    let terms = terms_of(args)?;
    match (&args.out, args.seats) {
        (Some(out), _) => to_file(global, &home(global)?, args, &terms, out),
        (None, Some(seats)) => with_seats(global, args, &terms, seats),
        (None, None) => by_post(global, args, &terms),
    }
}

/// A closed invitation that goes to the others directly; the inviter takes part itself.
fn by_post(global: &Global, args: &InviteArgs, terms: &Terms) -> Result<ExitCode, Failure> {
    with_user(global, args.part.with_parent, async |mut user| {
        let name = own_name(&mut user, args.me.as_deref()).await?;
        let mut parties = vec![party(&name, &user.identity.key.did())?];
        parties.extend(invited(&args.with, &user.contacts()?, parties.len())?);
        let options = options_of(&user, args, terms)?;
        let terms = terms.reachable(&options.reach);
        let done = send_and_take_part(&user, &terms, parties, options).await;
        hold_after(&mut user, args, done).await
    })
}

/// With `--hold`, the inviter is asked for another program; one bad run ends nothing.
async fn hold_after(
    user: &mut User<'_>,
    args: &InviteArgs,
    done: Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let done = match done {
        Err(failure) if args.hold && !failure.is_the_users() => failure.print(user.global),
        done => done?,
    };
    if args.hold {
        return Box::pin(again::hold(user, &args.part, done)).await;
    }
    Ok(done)
}

/// Signs an invitation of `parties`, brings it to them by post and takes part.
pub async fn send_and_take_part(
    user: &User<'_>,
    terms: &Terms,
    parties: Vec<PartyDraft>,
    mut options: Options,
) -> Result<ExitCode, Failure> {
    let terms = terms.reachable(&options.reach);
    check_machine(user, &terms.signed_program(), terms.engine, &mut options).await?;
    let (invitation, bundle) = terms.sign(&user.home, &user.identity, parties, Vec::new())?;
    user.show(invitation::describe(&invitation, None));
    user.show(bundle.program.as_ref().map(sending_line));
    user.show([text::row(
        "sending",
        "to each of them directly; they run:   quorate join   (you are one of their contacts, or: quorate join --from YOUR-DID)",
    )]);
    let mut delivery = Delivery::begin(user, &invitation, &bundle, &options).await?;
    if options.detach {
        // What goes on in the background does not know the post.
        user.unless_stopped(delivery.until_delivered(user)).await?;
    }
    user.event(
        "invitation",
        &[
            ("digest", invitation.digest().to_string().into()),
            ("from", invitation.issuer.to_string().into()),
        ],
    );
    let invited = Invited {
        invitation,
        bundle,
        claims: Vec::new(),
        delivery: Some(delivery),
        control: None,
        program: None,
    };
    take_part(user, invited, options, Consent::Inviter).await
}

/// An open call: the inviter admits, and takes part itself.
fn with_seats(
    global: &Global,
    args: &InviteArgs,
    terms: &Terms,
    seats: u16,
) -> Result<ExitCode, Failure> {
    readiness::check_arguments(terms.engine, &terms.public_args, seats.into())?;
    privacy::check_terms(seats.into(), terms.threshold, terms.no_privacy)?;
    with_user(global, args.part.with_parent, async |mut user| {
        let name = own_name(&mut user, args.me.as_deref()).await?;
        let mut options = options_of(&user, args, terms)?;
        let terms = &terms.reachable(&options.reach);
        check_machine(&user, &terms.signed_program(), terms.engine, &mut options).await?;
        let filled = lobby::fill_seats(&user, args, seats, terms, &options, &name);
        let invited = Box::pin(filled).await?;
        let done = take_part(&user, invited, options, Consent::Inviter).await;
        hold_after(&mut user, args, done).await
    })
}

/// The inviter's own part: its program is at hand, and what follows `--` is public.
fn options_of(user: &User<'_>, args: &InviteArgs, terms: &Terms) -> Result<Options, Failure> {
    let mut options = Options::new(&user.home, args.part.clone(), Vec::new())?;
    options.program = Some(terms.program.clone());
    let path = args.program.as_ref().or(args.args.first()).map(Path::new);
    options.program_path = path.filter(|p| p.exists()).map(Path::to_owned);
    Ok(options)
}

fn terms_of(args: &InviteArgs) -> Result<Terms, Failure> {
    let mut terms = match (args.engine, &args.program) {
        (Some(EngineName::Exec), program) => {
            Terms::of_executable(program.as_deref(), &args.args, args.expires)?
        }
        (_, Some(program)) => Terms::of_program(program, &args.args, args.expires)?,
        (_, None) => {
            return Err(Failure::new(Code::Usage, "which program?")
                .hint("name it: quorate invite income.py …"));
        }
    };
    terms.threshold = args.threshold;
    terms.no_privacy = args.part.no_privacy;
    if args.direct_only {
        terms.path = PathPolicy::Direct;
    }
    terms.send_program = args.send_program;
    if let Some(title) = &args.name {
        terms.title.clone_from(title);
    }
    Ok(terms)
}

/// Signs it and writes it down; who it is for gets it some other way.
fn to_file(
    global: &Global,
    home: &Home,
    args: &InviteArgs,
    terms: &Terms,
    out: &Path,
) -> Result<ExitCode, Failure> {
    let (identity, _) = IdentityFile::load_or_create(home)?;
    let known = contacts::load(global, home)?;
    let mut parties = Vec::new();
    if !args.issuer_only {
        let name = args.me.clone().or(identity.name.clone());
        parties.push(party(
            &name.unwrap_or_else(|| "organizer".into()),
            &identity.key.did(),
        )?);
    }
    parties.extend(invited(&args.with, &known, parties.len())?);
    let terms = terms.reachable(&reach::of(&args.part, home)?);
    let (signed, bundle) = terms.sign(home, &identity, parties, args.hint.clone())?;
    let sealed = if args.plain {
        None
    } else {
        sealed(&identity, &known, &signed, &bundle)?
    };
    let text = sealed.clone().unwrap_or_else(|| bundle.encode());
    write_out(out, format!("{text}\n").as_bytes(), args.force)?;
    say_written(global, args, out, (&signed, &bundle), sealed.is_some());
    Ok(ExitCode::SUCCESS)
}

/// The bundle sealed to all parties, if the cards of all others are known; mine I can make.
fn sealed(
    identity: &IdentityFile,
    contacts: &Contacts,
    signed: &Verified<Invitation>,
    bundle: &Bundle,
) -> Result<Option<String>, Failure> {
    let me = identity.key.did();
    let mut cards = Vec::new();
    for party in &signed.subject.parties {
        let text = if party.did == me {
            Some(card_of(&identity.key, &party.name)?)
        } else {
            contacts.by_did(&party.did).and_then(|c| c.card.clone())
        };
        // A card that expired is as good as none.
        let card = text.and_then(|text| verify_card(&text, invitation::now()).ok());
        let Some(card) = card.filter(|c| c.issuer == party.did) else {
            return Ok(None);
        };
        cards.push(card);
    }
    let subjects: Vec<_> = cards.iter().map(|c| &c.subject).collect();
    Ok(Some(seal_bundle(bundle, &subjects, random()?)?))
}

fn say_written(
    global: &Global,
    args: &InviteArgs,
    out: &Path,
    (signed, bundle): (&Verified<Invitation>, &Bundle),
    sealed: bool,
) {
    if global.json {
        text::say(
            json!({"schema": crate::report::schema("event"), "event": "invited", "digest": signed.digest(),
            "out": out, "parties": signed.subject.parties.iter().map(|p| &p.did).collect::<Vec<_>>()}),
        );
    } else if !global.quiet {
        let program = bundle.program.as_ref().map(sending_line);
        for line in invitation::describe(signed, None)
            .into_iter()
            .chain(program)
        {
            text::say(line);
        }
        text::say(text::row(
            "written",
            &format!(
                "{}   {}",
                out.display(),
                if sealed {
                    "sealed: only the parties can open it; send it by any channel"
                } else {
                    "send it to the others, by any channel they trust for who is invited"
                }
            ),
        ));
        let next = if args.issuer_only {
            "the parties"
        } else {
            "everybody, you too"
        };
        text::say(text::row(
            "next",
            &format!("{next}:   quorate join {}", out.display()),
        ));
    }
}

fn write_out(path: &Path, content: &[u8], force: bool) -> Result<(), Failure> {
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return out
            .write_all(content)
            .and_then(|()| out.flush())
            .map_err(|e| Failure::new(Code::Disk, format!("stdout cannot be written: {e}")));
    }
    if force {
        return Ok(write_atomic(path, content)?);
    }
    if write_new(path, content)? {
        return Ok(());
    }
    Err(
        Failure::new(Code::Disk, format!("{} exists already", path.display()))
            .hint("choose another name, or add --force"),
    )
}
