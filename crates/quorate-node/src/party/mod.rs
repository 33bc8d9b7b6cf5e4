//! One party's part of one session: the thin shell around the pure session core.
//!
//! ```text
//!            overlay ──frames──►┌─────────┐──Install──► mesh ──signals──► overlay
//!    control streams ──frames──►│ Session │──Start────► program + guard
//!   program and guard ─reports─►│ (pure)  │──Persist──► files
//!          clock, stop ────────►└─────────┘──Closed───► outcome
//! ```
//!
//! The law of the loop: one input, then drain everything the core wants done, then sleep until the
//! next input or the core's deadline. The core decides; this module obeys and reports.
//!
//! Everything made for the session (overlay, sockets, mesh, program, run folder) is owned here and
//! gone when [`run`] returns, however it ends.

mod control;
mod event;
mod machine;
mod program;

use std::{path::PathBuf, sync::Arc};

use quorate_identity::{SigningKey, UnixTime, Verified};
use quorate_session::{Fingerprint, Invitation, Outcome, RendezvousSecret};
use tokio::sync::{mpsc, watch};

pub use event::{LinkReport, PartyEvent, Rendezvous};

use crate::{
    Fault,
    control::Control,
    files::{Home, ProgramFiles},
    program::{Confinement, supervisor::Sink},
};

/// Events waiting to be shown; a slow screen does not hold up the session, later ones are dropped then.
pub const EVENT_QUEUE: usize = 1024;

/// Which networks a session may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This machine only: loopback addresses, no packet leaves.
    Local,
    /// Every network this machine is in.
    Lan,
}

impl From<Scope> for crate::overlay::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Local => Self::Local,
            Scope::Lan => Self::Lan,
        }
    }
}

/// Makes the place where one run's output goes.
pub type SinkMaker = Box<dyn Fn() -> Sink + Send + Sync>;

/// What one party brings into a session.
pub struct PartyConfig {
    /// Its long-term key.
    pub key: SigningKey,
    /// What it was invited to, and agreed to.
    pub invitation: Verified<Invitation>,
    /// The secret that came with the invitation.
    pub secret: RendezvousSecret,
    /// Addresses to try: hints of the invitation and those the user gave.
    pub addresses: Vec<String>,
    /// What it says about its own runtime and program.
    pub fingerprint: Fingerprint,
    /// The program, as hashed.
    pub program: ProgramFiles,
    /// The Python that runs it, if its engine is MPyC.
    pub python: Option<PathBuf>,
    /// Private arguments, after the public ones.
    pub private_args: Vec<String>,
    /// Working folder of the program when it has none of its own.
    pub working_folder: PathBuf,
    /// Which networks may be used.
    pub scope: Scope,
    /// Through which relays the other parties are reached, those of the invitation besides.
    pub reach: crate::overlay::Reach,
    /// Nodes that keep rendezvous records, besides the relays.
    pub network: Vec<String>,
    /// Whether the own program must give this party's own number before anything leaves. The other
    /// parties never rely on it: their guards check again.
    pub check_own_program: bool,
    /// Where state and run folders are.
    pub home: Home,
    /// What this home calls the session.
    pub name: String,
    /// The run folder and control socket of a lobby that came before; without one the session opens its own.
    pub control: Option<Control>,
    /// Where a detached session writes what it says, for its status.
    pub log: Option<PathBuf>,
    /// How the program is run on this machine.
    pub execution: Execution,
    /// Where the program's standard output goes, for each run anew.
    pub stdout: SinkMaker,
    /// Where its standard error goes.
    pub stderr: SinkMaker,
}

/// How a party's own program is run: nothing that the others have to agree on.
#[derive(Debug, Clone, Default)]
pub struct Execution {
    /// What the program may use of this machine.
    pub confinement: Confinement,
    /// When it may start.
    pub start: Start,
}

/// When a party lets the program start, once everybody is ready. It withholds its own ready until then.
#[derive(Debug, Clone, Default)]
pub enum Start {
    /// At once.
    #[default]
    WhenFull,
    /// Not before this time.
    At(UnixTime),
    /// When this becomes true.
    Ask(watch::Receiver<bool>),
}

/// How the user wants it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    No,
    /// Tell the others, stop, clean up.
    Gracefully,
    /// Clean up at once, tell nobody.
    Now,
}

/// Takes part in the session until it has ended.
///
/// `events` gets what is worth showing; `stop` is the user's wish to end it. Returns the outcome
/// that the protocol reached, or the fault of this machine that made it impossible to take part.
pub async fn run(
    config: PartyConfig,
    events: mpsc::Sender<PartyEvent>,
    stop: watch::Receiver<Stop>,
) -> Result<Outcome, Fault> {
    // Boxed: the loop's state is large, and the caller may keep it in a future of its own.
    let machine = Box::pin(machine::Machine::start(config, events)).await?;
    Box::pin(machine.run(stop)).await
}

/// Notes that the user of this home cancelled an invitation, so that its own part cannot begin any more.
pub fn note_cancelled(home: &Home, invitation: &Verified<Invitation>) -> Result<(), Fault> {
    machine::note_cancelled(home, invitation.digest())
}

/// The clock of the shell: the cores get time only from here.
pub(crate) mod clock {
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use quorate_identity::{UnixMillis, UnixTime};

    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    pub(crate) fn wall_millis() -> UnixMillis {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn wall() -> UnixTime {
        wall_millis().seconds()
    }
}

/// A mesh shared with the tasks that use its streams.
type SharedMesh = Arc<crate::wireguard::Mesh>;
