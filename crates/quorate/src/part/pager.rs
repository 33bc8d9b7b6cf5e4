//! A text on a person's screen, a page at a time: `$PAGER`, else `less`, else plainly.
//!
//! The pager gets the text on its standard input and the terminal as its output: standard output belongs to the
//! computation. A pager that fails has shown nothing, so the text is printed plainly then.
//!
//! Limits: [`END_WAIT`]. Security: the text is escaped already; `less` is kept from starting other programs.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use crate::text::say;

/// How long a pager may take to end once the user stopped the command.
const END_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// A pager that runs; dropped, it ends, and the terminal is as it was.
struct Pager {
    child: Child,
    terminal: File,
    before: Option<Termios>,
}

impl Pager {
    fn start() -> Option<Self> {
        let terminal = OpenOptions::new().write(true).open("/dev/tty").ok()?;
        let wish = std::env::var_os("PAGER").filter(|pager| !pager.is_empty());
        let mut command = Command::new(if wish.is_some() { "sh" } else { "less" });
        if let Some(pager) = wish {
            command.arg("-c").arg(pager);
        } else {
            // Ends by itself if all fits on the screen, and leaves what was shown there.
            command.env("LESS", "FX").env("LESSSECURE", "1");
            command.env_remove("LESSOPEN");
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(terminal.try_clone().ok()?)
            .spawn()
            .ok()?;
        let before = tcgetattr(&terminal).ok();
        Some(Self {
            child,
            terminal,
            before,
        })
    }

    /// Whether it showed the text.
    async fn show(&mut self, text: &str) -> bool {
        if let Some(mut input) = self.child.stdin.take() {
            // Whoever leaves early does not read to the end.
            let _ = input.write_all(text.as_bytes()).await;
        }
        self.child.wait().await.is_ok_and(|status| status.success())
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        let process = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(process) = process.and_then(Pid::from_raw) {
            // Asked to end, it leaves the terminal in order.
            let _ = kill_process(process, Signal::TERM);
            let asked = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) {
                if asked.elapsed() > END_WAIT {
                    let _ = self.child.start_kill();
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.terminal, OptionalActions::Drain, before);
        }
    }
}

/// Shows `text` until the person has left the pager. May be given up at any time.
pub async fn show(text: &str) {
    let shown = match Pager::start() {
        Some(mut pager) => pager.show(text).await,
        None => false,
    };
    // Where the question is asked: standard error may be a file.
    let terminal = || OpenOptions::new().write(true).open("/dev/tty").ok();
    if !shown && terminal().is_none_or(|mut terminal| terminal.write_all(text.as_bytes()).is_err())
    {
        for line in text.lines() {
            say(line);
        }
    }
}
