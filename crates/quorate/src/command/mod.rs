//! One module per command.

pub mod again;
pub mod background;
pub mod cancel;
pub mod clean;
pub mod contacts;
pub mod demo;
pub mod doctor;
pub mod id;
pub mod invite;
pub mod join;
pub mod leave;
pub mod manual;
pub mod receipt;
pub mod relay;
pub mod status;
pub mod verify;
pub mod version;

use std::io::Write;

use quorate_node::files::Home;

use crate::{args::Global, failure::Failure};

/// The folders of this user, or those of `--home`.
pub fn home(global: &Global) -> Result<Home, Failure> {
    Ok(match &global.home {
        Some(folder) => Home::below(folder),
        None => Home::of_user()?,
    })
}

/// One line of a report to stdout. A reader that closed its end early is not a failure of ours.
pub fn print_stdout(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// What `quorate` alone prints.
pub fn welcome() -> &'static str {
    "\
quorate: secure multiparty computation between people who name each other by DID

  quorate demo        three parties on this machine, a real computation
  quorate invite      ask others to compute with you: strangers with a ticket, contacts by name
  quorate join        take part: with a ticket, a file, or what a contact sent
  quorate again       the same people once more
  quorate status      what is on, and how the last sessions ended
  quorate verify      check what somebody gave you
  quorate receipt     what was signed in ended sessions

  example   quorate demo
  more      quorate --help"
}
