//! Asking a person.

use std::io::{BufRead, IsTerminal, Write};

use quorate_identity::Code;

use crate::{args::Global, failure::Failure};

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64;

/// Asks on the terminal; only `y` or `yes` agrees. Without a terminal nobody can be asked.
pub fn ask(global: &Global, question: &str) -> Result<(), Failure> {
    let unasked = || {
        Failure::new(Code::Declined, "nobody could be asked whether to take part")
            .hint("look at it with `quorate verify`, then add -y to agree")
    };
    if global.no_input || !std::io::stderr().is_terminal() {
        return Err(unasked());
    }
    // The invitation itself may come on stdin, so the person is asked on the terminal.
    let tty = std::fs::File::open("/dev/tty").map_err(|_| unasked())?;
    let mut prompt = anstream::stderr();
    let _ = write!(prompt, "\n{question} [y]es / [n]o  ").and_then(|()| prompt.flush());
    let mut answer = String::new();
    let read =
        std::io::BufReader::new(std::io::Read::take(tty, MAX_ANSWER_BYTES)).read_line(&mut answer);
    match (read, answer.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(Failure::new(Code::Declined, "you declined")
            .hint("nothing was sent; run the command again to take part after all")),
    }
}
