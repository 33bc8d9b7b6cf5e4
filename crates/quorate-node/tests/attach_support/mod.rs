//! Real Python, real MPyC, and a tunnel that is a piece of memory.

#![allow(dead_code, clippy::panic)]

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_node::attach::{Attach, ChildFds, GuardEvent, LinkCount};
use quorate_node::program::supervisor::Sink;
use quorate_node::program::{
    Confinement, Network, Program, ProgramEvent, ProgramSpec, Supervisor, confine,
};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

/// Nothing here takes this long; a test that hangs fails instead.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The Python of an environment with MPyC 0.11 and uvloop, made once per machine with pip.
pub fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(make_environment).clone()
}

fn make_environment() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    );
    let folder = cache.join("quorate");
    std::fs::create_dir_all(&folder).expect("the cache folder can be made");
    let lock = std::fs::File::create(folder.join("venv.lock")).expect("the lock can be made");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("the lock locks");
    let python = folder.join("venv/bin/python");
    let check = "import mpyc, uvloop, sys; sys.exit(mpyc.__version__ != '0.11')";
    let usable = || {
        Command::new(&python)
            .args(["-c", check, "--no-log"])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if !usable() {
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(folder.join("venv")));
        run(Command::new(&python).args(["-m", "pip", "install", "mpyc==0.11", "uvloop"]));
        assert!(
            usable(),
            "the environment {} does not work",
            python.display()
        );
    }
    python
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .expect("the command starts; Python 3.10 or newer is needed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Somewhere to write that can be read afterwards.
#[derive(Clone, Default)]
pub struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub fn sink(&self) -> Sink {
        Box::new(self.clone())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no writer panicked").clone()
    }
}

impl AsyncWrite for Buffer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        part: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0
            .lock()
            .expect("no writer panicked")
            .extend_from_slice(part);
        Poll::Ready(Ok(part.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One started program with what it printed.
pub struct Running {
    pub supervisor: Supervisor,
    pub events: mpsc::Receiver<ProgramEvent>,
    pub stdout: Buffer,
    pub stderr: Buffer,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub events: Vec<ProgramEvent>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The output without MPyC's log.
    pub fn result(&self) -> Vec<&str> {
        self.stdout.lines().filter(|line| !is_log(line)).collect()
    }
}

fn is_log(line: &str) -> bool {
    line.len() > 24
        && line.starts_with("20")
        && line.as_bytes()[4] == b'-'
        && line.as_bytes()[19] == b','
}

impl Running {
    /// Wait for the end.
    pub async fn end(mut self) -> Ended {
        let mut events = Vec::new();
        let all = async {
            while let Some(event) = self.events.recv().await {
                events.push(event);
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, all).await;
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        assert!(
            in_time.is_ok(),
            "the program does not end: {events:?}\n{stdout}\n{stderr}"
        );
        let Some(&ProgramEvent::Exit { code, signal }) = events.last() else {
            panic!("no exit: {events:?}");
        };
        Ended {
            code,
            signal,
            events,
            stdout,
            stderr,
        }
    }
}

/// Who a program is and what it gets.
pub struct Seat<'a> {
    pub me: u16,
    pub parties: u16,
    pub args: &'a [&'a str],
    pub links: ChildFds,
    pub cwd: &'a Path,
}

/// A program that computes alone.
pub fn alone(args: &[&'static str]) -> Seat<'static> {
    let args = Box::leak(args.to_vec().into_boxed_slice());
    Seat {
        me: 0,
        parties: 1,
        args,
        links: ChildFds::none(),
        cwd: Path::new("/"),
    }
}

/// Start `program` in the test environment.
pub async fn start(program: Program, seat: Seat<'_>) -> Running {
    start_confined(program, seat, confinement()).await
}

/// The same with limits of its own.
pub async fn start_confined(program: Program, seat: Seat<'_>, confinement: Confinement) -> Running {
    let (stdout, stderr) = (Buffer::default(), Buffer::default());
    let spec = ProgramSpec {
        options: Vec::new(),
        python: python(),
        program,
        args: seat.args.iter().map(ToString::to_string).collect(),
        cwd: seat.cwd.to_owned(),
        me: seat.me,
        parties: seat.parties,
        threshold: seat.parties.saturating_sub(1) / 2,
        links: seat.links,
        confinement,
        stdout: stdout.sink(),
        stderr: stderr.sink(),
    };
    let (supervisor, events) = Supervisor::start(spec).await.expect("the program starts");
    Running {
        supervisor,
        events,
        stdout,
        stderr,
    }
}

/// As in a real session: no network where the machine allows that, and a limit on memory.
pub fn confinement() -> Confinement {
    let network = match confine::probe() {
        Ok(()) => Network::None,
        Err(_) => Network::Machine,
    };
    Confinement {
        network,
        memory: Some(confine::default_memory()),
    }
}

/// A program given as text.
pub fn text(source: &str) -> Program {
    Program::Text {
        name: "test.py".into(),
        source: source.into(),
    }
}

/// A guard with its program's ends and its events.
pub struct Guarded {
    pub attach: Attach,
    pub links: Option<ChildFds>,
    pub events: mpsc::Receiver<GuardEvent>,
}

/// Guards of `m` parties, connected by tunnels that are pieces of memory.
pub fn mesh(m: u16) -> Vec<Guarded> {
    let parties: Vec<_> = (0..m)
        .map(|me| {
            let (attach, links, events) = Attach::prepare(me, m).expect("sockets can be made");
            Guarded {
                attach,
                links: Some(links),
                events,
            }
        })
        .collect();
    for low in 0..m {
        for high in low + 1..m {
            let from = parties[usize::from(low)].attach.clone();
            let to = parties[usize::from(high)].attach.clone();
            let mut tries = 0;
            let connect = move || {
                tries += 1;
                // The first try fails, as if the peer's guard were not there yet.
                let reached = (tries > 1).then(|| to.clone());
                async move {
                    let to = reached.ok_or(io::ErrorKind::ConnectionRefused)?;
                    let (near, far) = tokio::io::duplex(64 * 1024);
                    tokio::spawn(async move { to.run_inbound(low, far).await });
                    Ok(near)
                }
            };
            tokio::spawn(async move { from.run_outbound(high, connect).await });
        }
    }
    parties
}

/// What one party of a whole session saw.
pub struct Party {
    pub ended: Ended,
    pub guard: Vec<GuardEvent>,
    pub counters: Vec<LinkCount>,
}

/// Run `program` with one list of arguments per party.
pub async fn session(program: &Program, args: &[Vec<&str>], cwd: &Path) -> Vec<Party> {
    let m = u16::try_from(args.len()).expect("few parties");
    let mut parties = mesh(m);
    let mut running = Vec::new();
    for (me, party) in (0..m).zip(&mut parties) {
        let links = party.links.take().expect("made with links");
        let seat = Seat {
            me,
            parties: m,
            args: &args[usize::from(me)],
            links,
            cwd,
        };
        running.push(start(program.clone(), seat).await);
    }
    let mut result = Vec::new();
    for (running, mut party) in running.into_iter().zip(parties) {
        let ended = running.end().await;
        let mut guard = Vec::new();
        // Each link says that it was connected and that it was closed.
        while guard.len() < 2 * usize::from(m - 1) {
            let event = tokio::time::timeout(PATIENCE, party.events.recv()).await;
            let Ok(Some(event)) = event else {
                panic!("links stay open: {guard:?} {ended:?}")
            };
            guard.push(event);
        }
        result.push(Party {
            ended,
            guard,
            counters: party.attach.counters(),
        });
    }
    result
}
