//! `quorate invite`: sign who may compute what with whom, and take part.
//!
//! ```text
//! --with … --out FILE   a closed invitation in a file; whoever it is for joins the file
//! --seats N             a call and a ticket; the inviter admits, then everybody takes part
//! ```

mod admission;
mod lobby;
mod people;
mod terms;

use std::{io::Write, path::Path, process::ExitCode};

use quorate_identity::{Code, Verified};
use quorate_node::files::{Home, IdentityFile, write_atomic, write_new};
use quorate_session::Invitation;
use serde_json::json;

use crate::{
    args::{Global, InviteArgs},
    command::{contacts, home},
    failure::Failure,
    invitation,
    part::{Consent, Options, own_name, take_part, with_user},
    text,
};
use terms::Terms;

pub fn run(global: &Global, args: &InviteArgs) -> Result<ExitCode, Failure> {
    let terms = terms_of(args)?;
    match (&args.out, args.seats) {
        (Some(out), _) => to_file(global, &home(global)?, args, &terms, out),
        (None, Some(seats)) => with_seats(global, args, &terms, seats),
        (None, None) => Err(Failure::new(Code::Usage, "where should the invitation go?")
            .hint("add --out FILE, or invite with --seats N and hand out the ticket")),
    }
}

/// An open call: the inviter admits, and takes part itself.
fn with_seats(
    global: &Global,
    args: &InviteArgs,
    terms: &Terms,
    seats: u16,
) -> Result<ExitCode, Failure> {
    with_user(global, args.part.with_parent, async |mut user| {
        let name = own_name(&mut user, args.me.as_deref()).await?;
        let options = options_of(args, terms)?;
        let invited = lobby::fill_seats(&user, args, seats, terms, &options, &name).await?;
        take_part(&user, invited, options, Consent::Inviter).await
    })
}

/// The inviter's own part: its program is at hand, and what follows `--` is public.
fn options_of(args: &InviteArgs, terms: &Terms) -> Result<Options, Failure> {
    let mut options = Options::new(args.part.clone(), Vec::new())?;
    options.program = Some(terms.program.clone());
    let path = Path::new(&args.program);
    options.program_path = path.exists().then(|| path.to_owned());
    Ok(options)
}

fn terms_of(args: &InviteArgs) -> Result<Terms, Failure> {
    let mut terms = Terms::of_program(&args.program, &args.args, args.expires)?;
    terms.threshold = args.threshold;
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
        parties.push(people::party(
            &name.unwrap_or_else(|| "organizer".into()),
            &identity.key.did(),
        )?);
    }
    parties.extend(people::invited(&args.with, &known, parties.len())?);
    let (signed, bundle) = terms.sign(home, &identity, parties, args.hint.clone())?;
    write_out(out, format!("{}\n", bundle.encode()).as_bytes(), args.force)?;
    say_written(global, args, out, &signed);
    Ok(ExitCode::SUCCESS)
}

fn say_written(global: &Global, args: &InviteArgs, out: &Path, signed: &Verified<Invitation>) {
    if global.json {
        text::say(
            json!({"schema": crate::report::schema("event"), "event": "invited", "digest": signed.digest(),
            "out": out, "parties": signed.subject.parties.iter().map(|p| &p.did).collect::<Vec<_>>()}),
        );
    } else if !global.quiet {
        for line in invitation::describe(signed, None) {
            text::say(line);
        }
        text::say(text::row(
            "written",
            &format!(
                "{}   send it to the others, by any channel they trust for who is invited",
                out.display()
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
