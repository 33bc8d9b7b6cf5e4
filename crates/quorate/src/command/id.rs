//! `quorate id`: the long-term identity of this user.

use std::{path::Path, process::ExitCode};

use quorate_identity::Code;
use quorate_node::files::{Home, IdentityFile, MAX_NAME_CHARS, read_bounded, write_new};
use serde_json::json;

use crate::{
    args::{Global, IdAction, IdArgs},
    command::{home, print_stdout},
    failure::Failure,
    part::card_of,
    text,
};

/// Largest file that `import` reads, in bytes.
const MAX_IMPORT_BYTES: u64 = 4096;

pub fn run(global: &Global, args: IdArgs) -> Result<ExitCode, Failure> {
    let home = home(global)?;
    match args.action.unwrap_or(IdAction::Show) {
        IdAction::Show => {
            let (identity, made) = IdentityFile::load_or_create(&home)?;
            show(global, &home, &identity, made);
        }
        IdAction::New { name, replace } => {
            check_name(name.as_deref())?;
            let identity = IdentityFile::generate(name)?;
            store(&home, &identity, replace)?;
            show(global, &home, &identity, true);
        }
        IdAction::Card { name, out } => card(&home, name, out.as_deref())?,
        IdAction::Export { out } => {
            let (identity, _) = IdentityFile::load_or_create(&home)?;
            if !write_new(&out, &identity.to_bytes())? {
                return Err(exists(&out));
            }
            text::say(format_args!(
                "{} holds your secret key: whoever has it can act as you. Delete it when it is moved.",
                out.display()
            ));
        }
        IdAction::Import { file, replace } => {
            let content = read_bounded(&file, MAX_IMPORT_BYTES)?
                .map(zeroize::Zeroizing::new)
                .ok_or_else(|| {
                    Failure::new(Code::Usage, format!("there is no file {}", file.display()))
                })?;
            let identity = IdentityFile::from_bytes(&content)
                .map_err(|why| Failure::new(Code::State, format!("{}: {why}", file.display())))?;
            store(&home, &identity, replace)?;
            show(global, &home, &identity, false);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the own card, or writes it down. It is public.
fn card(home: &Home, name: Option<String>, out: Option<&Path>) -> Result<(), Failure> {
    check_name(name.as_deref())?;
    let (identity, _) = IdentityFile::load_or_create(home)?;
    let name = name.or(identity.name).ok_or_else(|| {
        Failure::new(Code::Usage, "what should the card call you?")
            .hint("quorate id card --name NAME")
    })?;
    let card = card_of(&identity.key, &name)?;
    match out {
        None => print_stdout(&card),
        Some(out) if write_new(out, format!("{card}\n").as_bytes())? => {}
        Some(out) => return Err(exists(out)),
    }
    Ok(())
}

fn store(home: &Home, identity: &IdentityFile, replace: bool) -> Result<(), Failure> {
    if replace {
        return Ok(identity.replace(home)?);
    }
    if identity.save_new(home)? {
        return Ok(());
    }
    let old = IdentityFile::load(home)?
        .map(|i| i.key.did().to_string())
        .unwrap_or_default();
    Err(Failure::new(Code::State, "there is an identity already")
        .note("identity", old)
        .hint(
            "add --replace to give it up (export it first), or choose another folder with --home",
        ))
}

fn exists(path: &Path) -> Failure {
    Failure::new(Code::Disk, format!("{} exists already", path.display()))
        .hint("choose another name")
}

fn check_name(name: Option<&str>) -> Result<(), Failure> {
    match name {
        Some(n) if n.is_empty() || n.chars().count() > MAX_NAME_CHARS || n != text::name(n) => {
            Err(Failure::new(
                Code::Usage,
                format!("a name is 1 to {MAX_NAME_CHARS} plain characters"),
            ))
        }
        _ => Ok(()),
    }
}

fn show(global: &Global, home: &Home, identity: &IdentityFile, made: bool) {
    let did = identity.key.did();
    if global.json {
        print_stdout(
            &json!({"schema": crate::report::schema("identity"), "did": did, "name": identity.name,
            "thumbprint": identity.key.public().thumbprint(), "new": made})
            .to_string(),
        );
        return;
    }
    print_stdout(did.as_str());
    if made && !global.quiet {
        text::say(format_args!(
            "  new identity, kept in {}",
            home.data().display()
        ));
    }
}
