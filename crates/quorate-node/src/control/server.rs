//! The control socket of one session: who may ask, and how an answer never holds up the session.
//!
//! ```text
//! accept ─ own user? ─ no ─► closed without an answer
//!             └ yes ─ room? ─ no ─► refused E_LIMIT ─ else a task: one line in 5 s ─► answer ─► closed
//! ```
//!
//! Limits: [`MAX_CLIENTS`], [`REQUEST_WAIT`], [`WRITE_WAIT`], [`WATCH_GAP`], [`COMMAND_QUEUE`], [`CLOSE_WAIT`].
//!
//! Security. Requires: the folder of the socket is 0700 and ours. Provides: only processes of this user get an answer (the
//! kernel tells who is at the other end); a client that does not read loses its own connection, nothing else.

use std::{
    fs::File,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quorate_identity::{Code, Rejection};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
};

use super::{Answer, MAX_REQUEST_BYTES, Request, SOCKET, SessionStatus};
use crate::Fault;

/// Clients served at a time.
pub const MAX_CLIENTS: usize = 8;
/// How long a client may take to send its request.
pub const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to read an answer.
pub const WRITE_WAIT: Duration = Duration::from_secs(5);
/// Shortest pause between two lines to a client that watches.
pub const WATCH_GAP: Duration = Duration::from_millis(200);
/// Commands that wait for the session.
pub const COMMAND_QUEUE: usize = 8;
/// How long those who watch may take to read the end.
pub const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest path that fits the address of a Unix socket on every system.
const MAX_SOCKET_PATH: usize = 100;

/// What a user wants of a running session.
#[derive(Debug)]
pub enum Command {
    /// This party leaves.
    Leave(Reply),
    /// The organizer cancels.
    Cancel {
        /// Why, in words.
        reason: String,
        /// For the answer.
        reply: Reply,
    },
}

/// Where the answer to a command goes.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Result<(), Rejection>>);

impl Reply {
    /// Answers; nobody may listen any more.
    pub fn send(self, result: Result<(), Rejection>) {
        let _ = self.0.send(result);
    }
}

/// Where a session writes how it stands.
#[derive(Debug, Clone)]
pub struct Board(Arc<watch::Sender<SessionStatus>>);

impl Board {
    pub(super) fn new(status: SessionStatus) -> Self {
        Self(Arc::new(watch::Sender::new(status)))
    }

    /// Changes what is shown; those who watch hear of it if something differs.
    pub fn update(&self, change: impl FnOnce(&mut SessionStatus)) {
        self.0.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    /// How the session stands.
    pub fn now(&self) -> SessionStatus {
        self.0.borrow().clone()
    }
}

/// The tasks behind the socket; they end with it.
#[derive(Debug)]
pub(super) struct Server {
    accepting: AbortHandle,
    clients: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

impl Server {
    /// Listens in `folder`, for processes of the user `owner`.
    pub fn start(
        folder: &Path,
        board: &Board,
        commands: mpsc::Sender<Command>,
        owner: u32,
    ) -> Result<Self, Fault> {
        let fault = |e: std::io::Error| {
            let text = format!(
                "{} cannot be used as a control socket: {e}",
                folder.join(SOCKET).display()
            );
            Fault::new(Code::Disk, text)
        };
        let listener = with_short_path(folder, |path| {
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        })
        .map_err(fault)?;
        let clients = Arc::new(tokio::sync::Mutex::new(JoinSet::new()));
        let desk = Desk {
            board: board.clone(),
            commands,
            owner,
            room: Arc::new(Semaphore::new(MAX_CLIENTS)),
        };
        let accepting = tokio::spawn(accept(listener, desk, Arc::clone(&clients))).abort_handle();
        Ok(Self { accepting, clients })
    }

    /// Ends; those who watch get the last line first.
    pub async fn close(self) {
        self.accepting.abort();
        let mut clients = self.clients.lock().await;
        let all_read = async { while clients.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_WAIT, all_read).await;
        clients.abort_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The clients' tasks end with their set, which the accepting task and this share.
        self.accepting.abort();
    }
}

/// What every client's task needs.
#[derive(Clone)]
struct Desk {
    board: Board,
    commands: mpsc::Sender<Command>,
    owner: u32,
    room: Arc<Semaphore>,
}

async fn accept(listener: UnixListener, desk: Desk, clients: Arc<tokio::sync::Mutex<JoinSet<()>>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let ours = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == desk.owner);
        if !ours {
            tracing::warn!("another user asked at the control socket and got no answer");
            continue;
        }
        let mut clients = clients.lock().await;
        while clients.try_join_next().is_some() {}
        let desk = desk.clone();
        if let Ok(place) = Arc::clone(&desk.room).try_acquire_owned() {
            clients.spawn(async move {
                serve(stream, desk).await;
                drop(place);
            });
        } else {
            let full = Rejection::new(Code::Limit, "N14", "too many ask at once");
            // One small line into an empty buffer: it fits, or the client goes without.
            let _ = stream.try_write(&Answer::of(Err(full)).line());
        }
    }
}

async fn serve(mut stream: UnixStream, desk: Desk) {
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut limited = BufReader::new(reader.take(MAX_REQUEST_BYTES as u64 + 1));
    let read = tokio::time::timeout(REQUEST_WAIT, limited.read_until(b'\n', &mut line)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return;
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    let (reply, answered) = oneshot::channel();
    let reply = Reply(reply);
    let command = match Request::parse(&line) {
        Ok(Request::Status { .. }) => {
            write(&mut writer, &Answer::status(desk.board.now())).await;
            return;
        }
        Ok(Request::Watch { .. }) => return watch_board(&mut writer, &desk.board).await,
        Ok(Request::Leave { .. }) => Command::Leave(reply),
        Ok(Request::Cancel { reason, .. }) => Command::Cancel { reason, reply },
        Err(rejection) => {
            write(&mut writer, &Answer::of(Err(rejection))).await;
            return;
        }
    };
    let over = || Rejection::new(Code::NoSession, "N14", "the session is over");
    let result = match desk.commands.try_send(command) {
        Ok(()) => answered.await.unwrap_or_else(|_| Err(over())),
        Err(_) => Err(over()),
    };
    write(&mut writer, &Answer::of(result)).await;
}

/// Every change, with a pause between, until the session is clean. What changes in the pause is seen in the next line.
async fn watch_board(writer: &mut (impl tokio::io::AsyncWrite + Unpin), board: &Board) {
    let mut changes = board.0.subscribe();
    loop {
        let status = changes.borrow_and_update().clone();
        let last = status.state == super::Life::Clean;
        if !write(writer, &Answer::status(status)).await || last || changes.changed().await.is_err()
        {
            return;
        }
        if changes.borrow().state.is_on() {
            tokio::time::sleep(WATCH_GAP).await;
        }
    }
}

/// Whether the client took it in time.
async fn write(writer: &mut (impl tokio::io::AsyncWrite + Unpin), answer: &Answer) -> bool {
    let line = answer.line();
    let written = tokio::time::timeout(WRITE_WAIT, writer.write_all(&line)).await;
    matches!(written, Ok(Ok(())))
}

/// Hands a path of the socket in `folder` that is short enough for its address: where the folder's own path is too long,
/// one through an open descriptor of the folder.
pub(super) fn with_short_path<T>(
    folder: &Path,
    then: impl FnOnce(&Path) -> std::io::Result<T>,
) -> std::io::Result<T> {
    use std::os::fd::AsRawFd;
    let path = folder.join(SOCKET);
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return then(&path);
    }
    let open = File::open(folder)?;
    then(&PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())).join(SOCKET))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::{CONTROL_VERSION, status::tests::status};

    /// What this process is answered by a session of `owner`.
    async fn asked_as_a_stranger_to(owner: u32, request: &Request) -> (Vec<u8>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::new(status());
        let (sender, mut commands) = mpsc::channel(1);
        let server = Server::start(folder.path(), &board, sender, owner).unwrap();
        let mut stream = UnixStream::connect(folder.path().join(SOCKET))
            .await
            .unwrap();
        // It may be closed before all is written; that is an answer too.
        let _ = stream.write_all(&request.line()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let heard = commands.try_recv().is_ok();
        server.close().await;
        (answer, heard)
    }

    /// The kernel says who asks, so another user is whoever it says is not the owner. Seen from the session of another user,
    /// this process is one: no privilege is needed to be somebody's stranger.
    #[tokio::test]
    async fn a56_a_process_of_another_user_gets_no_answer_and_no_command_through() {
        let me = rustix::process::geteuid().as_raw();
        let ask = Request::Status { v: CONTROL_VERSION };
        let (answer, _) = asked_as_a_stranger_to(me, &ask).await;
        assert!(!answer.is_empty(), "its owner is answered");
        for other in [me.wrapping_add(1), me ^ 0x8000_0000, u32::MAX - 1] {
            for request in [&ask, &Request::Leave { v: CONTROL_VERSION }] {
                let (answer, heard) = asked_as_a_stranger_to(other, request).await;
                assert!(
                    answer.is_empty() && !heard,
                    "user {me} was heard by one of {other}"
                );
            }
        }
    }
}
