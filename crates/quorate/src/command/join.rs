//! `quorate join`: look at an invitation, agree, take part.

use std::{path::Path, process::ExitCode};

use quorate_identity::Code;

use crate::{
    args::{Global, JoinArgs},
    failure::Failure,
    invitation::receive,
    part::{Invited, Options, take_part, with_user},
};

pub fn run(global: &Global, args: JoinArgs) -> Result<ExitCode, Failure> {
    check_stdin(&args)?;
    let with_parent = args.part.with_parent;
    with_user(global, with_parent, async |user| {
        let invited = from_file(&args.file)?;
        let mut options = Options::new(args.part, args.args)?;
        options.program_path = args.program;
        take_part(&user, invited, options).await
    })
}

/// The invitation of a file, with the secret that belongs to it.
fn from_file(path: &Path) -> Result<Invited, Failure> {
    let received = receive(path)?;
    let bundle = received.bundle.ok_or_else(|| {
        Failure::new(Code::Format, "this is only the signed part of an invitation: the secret to find the others is missing")
            .hint("ask the organizer for the whole file that `quorate invite` wrote")
    })?;
    Ok(Invited {
        invitation: received.invitation,
        bundle,
        claims: Vec::new(),
    })
}

/// What is read once cannot be two things.
fn check_stdin(args: &JoinArgs) -> Result<(), Failure> {
    let stdin = Path::new("-");
    if args.file != stdin || args.part.private_args.as_deref() != Some(stdin) {
        return Ok(());
    }
    let why = "stdin cannot be both the invitation and the private arguments";
    Err(Failure::new(Code::Usage, why).hint("put one of them into a file"))
}
