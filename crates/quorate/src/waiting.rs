//! What is shown while a command waits for people: a living line on a terminal, elsewhere one line per
//! change and one now and then.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{args::Global, report::schema, text};

/// How often the living line moves.
const SPIN: Duration = Duration::from_millis(500);
/// How often a wait is said again where no line can live.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// One wait at a time.
pub struct Waiting<'g> {
    global: &'g Global,
    hint_after: Duration,
    current: Option<Wait>,
}

struct Wait {
    label: String,
    what: String,
    hint: String,
    since: Instant,
    said: Instant,
    spinner: Option<ProgressBar>,
}

impl<'g> Waiting<'g> {
    /// Waits that say what can be done once they took `hint_after`.
    pub fn new(global: &'g Global, hint_after: Duration) -> Self {
        Self {
            global,
            hint_after,
            current: None,
        }
    }

    /// Begins to wait for `what`; the one before is over.
    pub fn begin(&mut self, label: &str, what: &str, hint: &str) {
        self.end();
        let now = Instant::now();
        let mut wait = Wait {
            label: label.into(),
            what: what.into(),
            hint: hint.into(),
            since: now,
            said: now,
            spinner: None,
        };
        self.say(&wait);
        let lines = !self.global.quiet && !self.global.json;
        if lines && std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{msg} · {elapsed} {spinner}");
            let spinner = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
                .with_message(text::row(label, what));
            spinner.enable_steady_tick(SPIN);
            wait.spinner = Some(spinner);
        }
        self.current = Some(wait);
    }

    /// The wait is over.
    pub fn end(&mut self) {
        if let Some(spinner) = self.current.take().and_then(|w| w.spinner) {
            spinner.finish_and_clear();
        }
    }

    /// Says something else in between.
    pub fn aside(&self, say: impl FnOnce()) {
        match self.current.as_ref().and_then(|w| w.spinner.as_ref()) {
            Some(spinner) => spinner.suspend(say),
            None => say(),
        }
    }

    /// Ends when it is time to say the wait again, which it then did. May be given up at any time.
    pub async fn tick(&mut self) {
        let Some(wait) = &self.current else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until((wait.said + HEARTBEAT).into()).await;
        if let Some(mut wait) = self.current.take() {
            wait.said = Instant::now();
            let shown = self.line(&wait);
            match &wait.spinner {
                Some(spinner) => spinner.set_message(shown),
                None => self.say(&wait),
            }
            self.current = Some(wait);
        }
    }

    fn say(&self, wait: &Wait) {
        let seconds = wait.since.elapsed().as_secs();
        if self.global.json {
            text::say(
                json!({"schema": schema("event"), "event": "waiting-for-people", "for": wait.what, "seconds": seconds}),
            );
        } else if !self.global.quiet && !std::io::stderr().is_terminal() {
            text::say(self.line(wait));
        }
    }

    fn line(&self, wait: &Wait) -> String {
        let waited = wait.since.elapsed();
        let mut parts = vec![wait.what.clone()];
        if waited >= HEARTBEAT && wait.spinner.is_none() {
            let seconds = i64::try_from(waited.as_secs()).unwrap_or(i64::MAX);
            parts.push(text::duration(seconds));
        }
        if waited >= self.hint_after {
            parts.push(wait.hint.clone());
        }
        text::row(&wait.label, &parts.join(" · "))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
