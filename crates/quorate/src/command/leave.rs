//! `quorate leave`: end a session that this home takes part in.

use std::process::ExitCode;

use quorate_identity::Code;

use crate::{
    args::{Global, LeaveArgs},
    command::home,
    failure::Failure,
    standing::{choose, short},
    text,
};

pub fn run(global: &Global, args: &LeaveArgs) -> Result<ExitCode, Failure> {
    let found = choose(&home(global)?, args.session.as_deref())?;
    let watch = found.watch_end()?;
    found.leave()?;
    let mut last = None;
    for status in watch {
        last = Some(status?);
    }
    let code = last.and_then(|s| s.end).and_then(|end| end.code);
    // It may have ended for another reason a moment before.
    if let Some(code) = code.filter(|code| code != Code::Left.as_str()) {
        text::say(text::row(
            "note",
            &format!("the session had ended already: {code}"),
        ));
    }
    if !global.quiet {
        let session = text::foreign(&found.about.session);
        let line = format!(
            "{session} ({}): the others were told, everything is removed",
            short(&found.about.digest)
        );
        text::say(text::row("left", &line));
    }
    Ok(ExitCode::SUCCESS)
}
