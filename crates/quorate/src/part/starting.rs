//! `--start`: the program starts at once, at a time, or when the person says so.
//!
//! The question is on the terminal while events go on: neither holds up the other.

use quorate_identity::Code;
use quorate_node::party::{PartyEvent, Start};
use tokio::{sync::watch, task::JoinHandle};

use super::User;
use crate::{
    args::StartWhen,
    consent::{Terminal, is_yes},
    failure::Failure,
};

/// Asks the person once everybody is ready.
pub struct Starter {
    terminal: Option<Terminal>,
    yes: watch::Sender<bool>,
    asking: Option<JoinHandle<()>>,
}

/// What the session is told, and who will ask, if somebody has to.
pub fn start(user: &User<'_>, when: StartWhen) -> Result<(Start, Option<Starter>), Failure> {
    match when {
        StartWhen::Full => Ok((Start::WhenFull, None)),
        StartWhen::At(time) => Ok((Start::At(time), None)),
        StartWhen::Ask => {
            let terminal = Terminal::open(user.global).ok_or_else(|| {
                Failure::new(
                    Code::Usage,
                    "nobody can be asked when to start: there is no terminal",
                )
                .hint("use --start when-full, or --start with a time")
            })?;
            let (yes, said) = watch::channel(false);
            let starter = Starter {
                terminal: Some(terminal),
                yes,
                asking: None,
            };
            Ok((Start::Ask(said), Some(starter)))
        }
    }
}

impl Starter {
    /// From the moment on when only this party's start is awaited, the person is asked.
    pub fn look_at(&mut self, event: &PartyEvent) {
        match event {
            PartyEvent::Program { state, .. } if state == "held" => {
                if let Some(terminal) = self.terminal.take() {
                    self.asking = Some(tokio::spawn(ask(terminal, self.yes.clone())));
                }
            }
            PartyEvent::Program { .. } => self.stop(),
            PartyEvent::State { state } if state == "closing" => self.stop(),
            _ => {}
        }
    }

    /// The question has no answer any more.
    fn stop(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks until the answer is yes, or the terminal is gone; then the deadline ends the wait.
async fn ask(mut terminal: Terminal, yes: watch::Sender<bool>) {
    let question = "\nEverybody is ready. Start now? [y]es / Ctrl-C leaves  ";
    while let Some(answer) = terminal.ask(question).await {
        if is_yes(&answer) {
            yes.send_replace(true);
            return;
        }
    }
}
