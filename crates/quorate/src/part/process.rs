//! What a process that holds session keys asks of the operating system.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use quorate_identity::Code;
use quorate_node::party::Stop;
use tokio::sync::watch;

use crate::failure::Failure;

/// How long after Ctrl-C a second one is still taken for the same keystroke.
const DOUBLE_PRESS: Duration = Duration::from_millis(200);

/// Whether SIGHUP means nothing to this process.
static KEEPS_ON: AtomicBool = AtomicBool::new(false);

/// From now on the end of a terminal is no wish to stop.
pub fn keep_on_hangup() {
    KEEPS_ON.store(true, Ordering::Relaxed);
}

/// First signal: tell the others, stop, clean up. Second: clean up at once.
pub async fn watch_signals(stop: watch::Sender<Stop>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term), Ok(mut hup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return;
    };
    let mut wish = Stop::Gracefully;
    loop {
        tokio::select! {
            _ = int.recv() => {},
            _ = term.recv() => {},
            _ = hup.recv() => if KEEPS_ON.load(Ordering::Relaxed) { continue },
        }
        if stop.send(wish).is_err() {
            return;
        }
        wish = Stop::Now;
        tokio::time::sleep(DOUBLE_PRESS).await;
    }
}

/// Keys must not reach a core file or another process of this user. Every command begins with this: most of them read a key.
pub fn protect_memory() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(e) = setrlimit(Resource::Core, none) {
        tracing::warn!(%e, "core files could not be switched off");
    }
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%e, "this process may be inspected by others of the same user");
    }
}

/// Asks for SIGTERM when the process that started this one ends.
pub fn end_with_parent() -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    // It may have ended before the signal was asked for.
    if getppid() != parent {
        return Err(Failure::new(
            Code::Interrupted,
            "the process that started this one is gone",
        ));
    }
    Ok(())
}
