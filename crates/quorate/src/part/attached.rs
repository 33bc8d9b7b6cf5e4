//! A second command for a session in which this home takes part already: it shows the first one's session and ends as it does.
//!
//! ```text
//! join ─ a session of this home under the same invitation? ─ no ─► take part
//!                            └ yes ─► shown, watched to its end, the same exit code      Ctrl-C: only this command ends
//! ```

use quorate_node::control::{Found, SessionStatus, running};
use std::process::ExitCode;
use tokio::sync::mpsc;

use super::{User, stopped};
use crate::{
    command::print_stdout,
    failure::Failure,
    standing::{Changes, conclude, document},
    text,
};

/// Changes that wait to be shown.
const QUEUE: usize = 16;

/// The session that this home takes part in under an invitation.
pub fn first(user: &User<'_>, digest: &str) -> Result<Option<Found>, Failure> {
    Ok(running(&user.home, digest)?)
}

/// Shows it until it ends.
pub async fn follow(
    user: &User<'_>,
    first: Found,
    private_args: bool,
) -> Result<ExitCode, Failure> {
    let process = first.about.process;
    user.show([text::row(
        "attached",
        &format!("you take part already, in process {process}: this shows it; its output is there; Ctrl-C ends only this"),
    )]);
    if private_args {
        user.show([text::row(
            "note",
            "the private arguments given here are not used: the first command's are",
        )]);
    }
    let (sender, mut shown) = mpsc::channel(QUEUE);
    let watching = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
        for status in first.watch()? {
            if sender.blocking_send(status?).is_err() {
                break;
            }
        }
        Ok(())
    });
    let mut changes = Changes::default();
    let mut last: Option<SessionStatus> = None;
    let mut stop = user.stop.clone();
    loop {
        let status = tokio::select! {
            status = shown.recv() => status,
            _ = stop.wait_for(|s| *s != quorate_node::party::Stop::No) => {
                user.show([text::row("detached", "the session goes on; see `quorate status`, end it with `quorate leave`")]);
                return Err(stopped());
            }
        };
        let Some(status) = status else { break };
        if user.global.json {
            print_stdout(&document(&status).to_string());
        } else {
            user.show(changes.since(&status));
        }
        last = Some(status);
    }
    if let Ok(Err(failure)) = watching.await {
        return Err(failure);
    }
    let code = conclude(last)?;
    user.show([text::row(
        "finished",
        "the program ended well, in the first command",
    )]);
    Ok(code)
}
