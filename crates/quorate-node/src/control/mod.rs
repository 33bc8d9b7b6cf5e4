//! The way in for this home's user while a session is on: what it shows, and what it can be told.
//!
//! ```text
//! run/<command>-<random>/  0700, locked     session.json  which session this is, also after a crash
//!                                           control       Unix socket 0600: requests and answers, see `wire`
//!
//! Control ── Board ◄── update ── lobby, then party::run          (who takes part writes how it stands)
//!    │         └──────► status, watch ──► clients
//!    └──── commands ──► leave, cancel ──► lobby, then party::run
//! ```
//!
//! [`Control::open`] is called by whoever begins: a lobby with free seats, or `party::run` itself. The lobby hands its
//! `Control` on in `PartyConfig`, so that one socket serves the whole life of a session.
//!
//! Security: see `server`. The socket gives nobody more than the user has anyway.

mod client;
mod ended;
mod server;
mod status;
mod wire;

use std::path::Path;

use tokio::sync::mpsc;

pub use client::{
    ANSWER_WAIT, About, Found, MAX_ABOUT_BYTES, MAX_SESSIONS, Watch, running, sessions,
};
pub use ended::{KEPT_FOR, MAX_ENDED, MAX_ENDED_BYTES, forget, keep, list};
pub use server::{
    Board, CLOSE_WAIT, COMMAND_QUEUE, Command, MAX_CLIENTS, REQUEST_WAIT, Reply, WATCH_GAP,
    WRITE_WAIT,
};
pub use status::{EndStatus, Life, LinkStatus, PartyStatus, Role, SessionStatus, seen_from};
pub use wire::{Answer, CONTROL_VERSION, MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, Request};

use crate::{
    Fault,
    files::{Home, RunFolder, write_atomic},
};

/// Name of the socket in the run folder.
pub const SOCKET: &str = "control";
/// Name of the note about the session in the run folder.
pub const ABOUT: &str = "session.json";

/// The run folder of one session with its control socket.
#[derive(Debug)]
pub struct Control {
    folder: RunFolder,
    board: Board,
    commands: mpsc::Receiver<Command>,
    server: server::Server,
}

impl Control {
    /// Makes the run folder and listens in it. Needs a tokio runtime.
    pub fn open(home: &Home, status: SessionStatus) -> Result<Self, Fault> {
        let folder = RunFolder::create(home, "session")?;
        let about = About {
            v: CONTROL_VERSION,
            session: status.session.clone(),
            digest: status.digest.clone(),
            process: status.process,
            started: status.started.clone(),
        };
        let board = Board::new(status);
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        // The socket is there before the note that says so.
        let owner = rustix::process::geteuid().as_raw();
        let server = server::Server::start(folder.path(), &board, sender, owner)?;
        write_about(folder.path(), &about)?;
        Ok(Self {
            folder,
            board,
            commands,
            server,
        })
    }

    /// Another session begins in this folder: a call became an invitation.
    pub fn become_session(&self, status: SessionStatus) -> Result<(), Fault> {
        let about = About {
            v: CONTROL_VERSION,
            session: status.session.clone(),
            digest: status.digest.clone(),
            process: status.process,
            started: status.started.clone(),
        };
        self.board.update(|now| *now = status);
        write_about(self.folder.path(), &about)
    }

    /// Where to write how the session stands.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The run folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The next thing that the user wants.
    pub async fn command(&mut self) -> Option<Command> {
        self.commands.recv().await
    }

    /// Removes the run folder, says that all is clean, and ends.
    pub async fn close(self) -> Result<(), Fault> {
        let removed = self.folder.remove();
        self.board.update(|status| status.state = Life::Clean);
        self.server.close().await;
        removed
    }
}

fn write_about(folder: &Path, about: &About) -> Result<(), Fault> {
    let bytes = serde_json::to_vec(about).unwrap_or_default();
    write_atomic(&folder.join(ABOUT), &bytes)
}
