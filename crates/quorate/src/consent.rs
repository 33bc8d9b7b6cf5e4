//! Asking a person, on the terminal and nowhere else.
//!
//! A question never blocks: while a person thinks, the session, other questions' causes and Ctrl-C go
//! on. What was typed before a question was shown answers nothing: it is thrown away.
//!
//! Limits: [`MAX_ANSWER_BYTES`]; a longer line is no answer.

use std::{
    fs::OpenOptions,
    io::{IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
};

use quorate_identity::Code;
use rustix::{fs::OFlags, termios};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

use crate::{args::Global, failure::Failure, text};

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 256;

/// The terminal of the person who started the command.
pub struct Terminal(Receiver);

impl Terminal {
    /// The terminal, unless nobody may be asked (`--no-input`), nobody would see what is asked about
    /// (`--quiet`, `--json`), or nobody is there. Stdin is not used:
    /// the invitation itself may come on it. Must be called inside the runtime.
    pub fn open(global: &Global) -> Option<Self> {
        let unseen = global.quiet || global.json;
        if global.no_input || unseen || !std::io::stderr().is_terminal() {
            return None;
        }
        // A description of its own, so that making it non-blocking changes nothing for the shell.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let tty = OpenOptions::new()
            .read(true)
            .custom_flags(flags.cast_signed())
            .open("/dev/tty")
            .ok()?;
        // A terminal is read like a pipe: what is there, or later.
        Receiver::from_file_unchecked(tty).ok().map(Self)
    }

    /// Shows `question` and waits for a line. `None` is the end of input, or no readable answer.
    /// May be given up at any time.
    pub async fn ask(&mut self, question: &str) -> Option<String> {
        let _ = termios::tcflush(&self.0, termios::QueueSelector::IFlush);
        let mut prompt = anstream::stderr();
        let _ = write!(prompt, "{question}").and_then(|()| prompt.flush());
        let mut line = Vec::new();
        while line.len() <= MAX_ANSWER_BYTES {
            let mut chunk = [0; MAX_ANSWER_BYTES];
            let count = self.0.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
            line.extend_from_slice(&chunk[..count]);
            if let Some(end) = line.iter().position(|b| *b == b'\n') {
                line.truncate(end);
                return String::from_utf8(line).ok().map(|l| l.trim().to_owned());
            }
        }
        None
    }

    /// A question where only `y` or `yes` agrees.
    pub async fn agrees(&mut self, question: &str) -> bool {
        let answer = self.ask(&format!("\n{question} [y]es / [n]o  ")).await;
        is_yes(answer.as_deref().unwrap_or_default())
    }
}

/// Shows an open question once more, below what was printed since.
pub fn show_again(question: &str) {
    let mut prompt = anstream::stderr();
    let _ = write!(prompt, "{question}").and_then(|()| prompt.flush());
}

/// Whether an answer is a clear yes.
pub fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

/// Asks on the terminal; only `y` or `yes` agrees. Without a terminal nobody can be asked.
pub async fn ask(global: &Global, question: &str) -> Result<(), Failure> {
    let Some(mut terminal) = Terminal::open(global) else {
        return Err(
            Failure::new(Code::Declined, "nobody could be asked whether to take part")
                .hint("look at it with `quorate verify`, then add -y to agree; or ask without --quiet, --json and --no-input"),
        );
    };
    if terminal.agrees(&text::escaped(question)).await {
        return Ok(());
    }
    Err(Failure::new(Code::Declined, "you declined")
        .hint("nothing was sent; run the command again to take part after all"))
}
