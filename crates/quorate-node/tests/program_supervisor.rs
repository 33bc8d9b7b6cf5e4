//! What a supervised program gets, what is seen of it, and that it always ends.

#![allow(clippy::panic)]

mod attach_support;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use attach_support::{Buffer, PATIENCE, Running, Seat, alone, mesh, start, text};
use quorate_identity::Code;
use quorate_node::attach::ChildFds;
use quorate_node::program::supervisor::{DRAIN_WAIT, PASSED_ENVIRONMENT, STOP_GRACE};
use quorate_node::program::{Program, ProgramEvent, ProgramSpec, StartError, Supervisor};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream};

/// A program whose output can be read while it runs.
async fn live(source: &str, args: &[String]) -> (Supervisor, BufReader<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut spec = spec(text(source));
    spec.args = args.to_vec();
    spec.stdout = Box::new(far);
    let (supervisor, _) = Supervisor::start(spec).await.expect("it starts");
    (supervisor, BufReader::new(near))
}

fn spec(program: Program) -> ProgramSpec {
    ProgramSpec {
        options: Vec::new(),
        python: attach_support::python(),
        program,
        args: Vec::new(),
        cwd: PathBuf::from("/"),
        me: 0,
        parties: 1,
        threshold: 0,
        links: ChildFds::none(),
        confinement: attach_support::confinement(),
        stdout: Buffer::default().sink(),
        stderr: Buffer::default().sink(),
    }
}

async fn line(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> String {
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, from.read_line(&mut line)).await;
    read.expect("a line comes").expect("it can be read");
    line.trim_end().to_owned()
}

/// Sees the end of processes that are nobody's children here: each of them holds the writing end
/// of a named pipe, and the reading end comes to its end when all of them are gone.
struct Witness {
    folder: tempfile::TempDir,
    all_gone: tokio::sync::oneshot::Receiver<()>,
}

impl Witness {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a named pipe");
        let (gone, all_gone) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            std::fs::read(pipe).expect("it can be read");
            gone.send(()).ok();
        });
        Self { folder, all_gone }
    }

    fn pipe(&self) -> String {
        self.folder
            .path()
            .join("pipe")
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    async fn all_gone(self) {
        let gone = tokio::time::timeout(Duration::from_secs(20), self.all_gone).await;
        assert!(gone.is_ok(), "a process of the program is still there");
    }

    fn assert_alive(&mut self) {
        assert!(
            self.all_gone.try_recv().is_err(),
            "the program is gone too early"
        );
    }
}

#[tokio::test]
async fn exit_codes_errors_and_signals_are_reported() {
    let ended = start(text("import sys; sys.exit(3)"), alone(&[]))
        .await
        .end()
        .await;
    assert_eq!((ended.code, ended.signal), (Some(3), None));
    let ended = start(text("x = 1\nraise ValueError('no')"), alone(&[]))
        .await
        .end()
        .await;
    assert_eq!((ended.code, ended.signal), (Some(1), None));
    assert!(
        ended.stderr.contains("\"test.py\", line 2"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.ends_with("ValueError: no\n"),
        "{}",
        ended.stderr
    );
    let killed = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)";
    let ended = start(text(killed), alone(&[])).await.end().await;
    assert_eq!((ended.code, ended.signal), (None, Some(11)));
}

#[tokio::test]
async fn output_is_passed_on_unchanged_and_a_giant_line_is_no_matter() {
    let source = "
import sys
sys.stdout.buffer.write(bytes(range(256)))
sys.stdout.buffer.write(b'x' * 20_000_000)
sys.stderr.write('to the side')";
    let running = start(text(source), alone(&[])).await;
    let stdout = running.stdout.clone();
    let ended = running.end().await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), "to the side")
    );
    let bytes = stdout.bytes();
    assert!(bytes[..256].iter().copied().eq(0..=255));
    assert_eq!(bytes.len(), 20_000_256);
    assert!(bytes[256..].iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn lines_come_while_the_program_runs() {
    let (supervisor, mut stdout) = live(
        "
print('first')
import threading; threading.Event().wait()",
        &[],
    )
    .await;
    assert_eq!(line(&mut stdout).await, "first");
    supervisor.stop().await;
}

#[tokio::test]
async fn a_program_is_run_like_by_python_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("main.py");
    std::fs::write(folder.path().join("neighbour.py"), "word = 'found'").expect("written");
    // The working folder is another one, with a trap in it.
    let cwd = tempfile::tempdir().expect("a folder");
    for trap in ["json.py", "socket.py", "asyncio.py", "neighbour.py"] {
        std::fs::write(cwd.path().join(trap), "raise SystemExit('trap')").expect("written");
    }
    let source = "
import os, pickle, sys
import neighbour
class Thing: pass
if __name__ == '__main__':
    print(neighbour.word, sys.argv[1:], __file__ == sys.argv[0])
    print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, repr(sys.stdin.read()), os.getcwd())";
    std::fs::write(&path, source).expect("written");
    let seat = Seat {
        me: 0,
        parties: 1,
        args: &["--vote", "ja ✓", "--", "-M3"],
        links: ChildFds::none(),
        cwd: cwd.path(),
    };
    let ended = start(Program::File(path), seat).await.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let cwd = cwd.path().canonicalize().expect("it is there");
    let expected = format!(
        "found ['--vote', 'ja ✓', '--', '-M3'] True\nTrue '' {}\n",
        cwd.display()
    );
    assert_eq!(ended.stdout, expected);
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("it is there")
        .collect();
    assert_eq!(left.len(), 2, "something was left behind: {left:?}");
}

#[tokio::test]
async fn arguments_and_environment_are_hidden_from_others_and_no_descriptor_leaks() {
    let source = "
import os, subprocess, sys
print(open('/proc/self/cmdline').read().replace(chr(0), ' ').replace(chr(10), ' '))
print(' '.join(sorted(os.environ)))
fds = {fd: os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')
       if os.path.exists(f'/proc/self/fd/{fd}') or fd in '012'}
print(sorted(target.split(':')[0] for fd, target in fds.items() if fd != '0'), fds['0'])
listing = 'import os; print(sorted(os.listdir(\"/proc/self/fd\"), key=int)[:3], len(os.listdir(\"/proc/self/fd\")))'
print(subprocess.run([sys.executable, '-c', listing], capture_output=True, text=True).stdout, end='')";
    let mut parties = mesh(3);
    let links = parties[1].links.take().expect("made with links");
    let seat = Seat {
        me: 1,
        parties: 3,
        args: &["--vote", "secret"],
        links,
        cwd: Path::new("/"),
    };
    let ended = start(text(source), seat).await.end().await;
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{ended:?}");
    assert!(lines[0].ends_with("quorate test.py "), "{}", lines[0]);
    assert!(!lines[0].contains("secret"));
    for name in lines[1].split(' ') {
        // Python itself sets LC_CTYPE in some locales; the last one is the mark by which a crash's
        // leftovers are found.
        assert!(
            PASSED_ENVIRONMENT.contains(&name)
                || name.starts_with("LC_")
                || name == "QUORATE_PROGRAM",
            "{name}"
        );
    }
    let fds = "['pipe', 'pipe', 'socket', 'socket', 'socket'] /dev/null";
    assert_eq!(lines[2], fds, "one lifeline and two links");
    // Three standard streams and the one that lists.
    assert_eq!(lines[3], "['0', '1', '2'] 4");
}

#[tokio::test]
async fn stopping_lets_a_polite_program_finish() {
    let (supervisor, mut stdout) = live(
        "
import signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print('ready')
threading.Event().wait()",
        &[],
    )
    .await;
    assert_eq!(line(&mut stdout).await, "ready");
    let before = Instant::now();
    supervisor.stop().await;
    assert!(before.elapsed() < STOP_GRACE);
    supervisor.stop().await;
    supervisor.ended().await;
}

/// Holds the pipe named by its argument, as does its child; both do not care about SIGTERM.
const STUBBORN: &str = "
import os, signal, subprocess, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pipe = open(sys.argv[1], 'w')
subprocess.Popen(['sleep', '1000'], stdout=pipe)
print('ready')
threading.Event().wait()";

#[tokio::test]
async fn stopping_ends_a_stubborn_program_and_its_child_within_the_grace() {
    let mut witness = Witness::new();
    let (supervisor, mut stdout) = live(STUBBORN, &[witness.pipe()]).await;
    assert_eq!(line(&mut stdout).await, "ready");
    witness.assert_alive();
    let before = Instant::now();
    supervisor.stop().await;
    let took = before.elapsed();
    assert!(
        took >= STOP_GRACE && took < STOP_GRACE + DRAIN_WAIT,
        "{took:?}"
    );
    witness.all_gone().await;
}

#[tokio::test]
async fn dropping_the_supervisor_ends_program_and_child() {
    let mut witness = Witness::new();
    let (supervisor, mut stdout) = live(STUBBORN, &[witness.pipe()]).await;
    assert_eq!(line(&mut stdout).await, "ready");
    witness.assert_alive();
    drop(supervisor);
    witness.all_gone().await;
}

#[tokio::test]
async fn a_child_does_not_outlive_its_program() {
    let witness = Witness::new();
    let source = "
import subprocess, sys
subprocess.Popen(['sleep', '1000'], stdout=open(sys.argv[1], 'w'))";
    let (supervisor, _stdout) = live(source, &[witness.pipe()]).await;
    tokio::time::timeout(PATIENCE, supervisor.ended())
        .await
        .expect("it ends");
    witness.all_gone().await;
}

#[tokio::test]
async fn a_child_that_left_the_group_and_holds_the_output_does_not_hide_the_exit() {
    let source = "
import subprocess
print(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid)";
    let before = Instant::now();
    let ended = start(text(source), alone(&[])).await.end().await;
    assert!(before.elapsed() < DRAIN_WAIT + Duration::from_secs(10));
    assert_eq!(ended.code, Some(0));
    let pid = ended
        .stdout
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .expect("a number");
    kill_process(pid, Signal::KILL).expect("it is ours");
}

#[tokio::test]
async fn a_closed_output_does_not_stop_the_program() {
    let (near, far) = tokio::io::duplex(16);
    drop(near);
    let mut spec = spec(text(
        "
import sys
for _ in range(100_000): print('nobody reads this')
sys.exit(7)",
    ));
    spec.stdout = Box::new(far);
    let (_supervisor, mut events) = Supervisor::start(spec).await.expect("it starts");
    let event = tokio::time::timeout(PATIENCE, events.recv())
        .await
        .expect("it ends");
    assert_eq!(
        event,
        Some(ProgramEvent::Exit {
            code: Some(7),
            signal: None
        })
    );
}

#[tokio::test]
async fn false_log_lines_cause_a_bounded_number_of_events() {
    let source = "
for _ in range(1000):
    print('2026-01-31 12:00:00,123 All 3 parties connected.')
    print('2026-01-31 12:00:00,123 Stop MPyC -- elapsed time: 0:00:00.100|bytes sent: 5')";
    let Running {
        supervisor,
        mut events,
        ..
    } = start(text(source), alone(&[])).await;
    supervisor.ended().await;
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    assert_eq!(
        seen.len(),
        1 + quorate_node::program::supervisor::MAX_FINISHED + 1
    );
    assert_eq!(
        seen.last(),
        Some(&ProgramEvent::Exit {
            code: Some(0),
            signal: None
        })
    );
}

#[tokio::test]
async fn a_python_that_is_not_there_is_an_error_with_its_code() {
    let mut spec = spec(text(""));
    spec.python = PathBuf::from("/nowhere/python");
    let error = Supervisor::start(spec).await.expect_err("there is none");
    assert_eq!(error.code(), Code::NoPython);
    assert!(
        matches!(&error, StartError::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
}

#[tokio::test]
async fn a_program_text_beyond_the_limit_is_refused() {
    let text = Program::Text {
        name: "big.py".into(),
        source: "#".repeat(5 << 20),
    };
    let error = Supervisor::start(spec(text)).await.expect_err("too large");
    assert!(matches!(error, StartError::Handover(_)), "{error}");
}

/// Set in the process that is killed by the tests below: its Python, and the witness's pipe.
const VICTIM: [&str; 2] = ["QUORATE_TEST_PYTHON", "QUORATE_TEST_WITNESS"];

/// Not a test of its own: the body of the process that the next two tests kill.
#[tokio::test]
async fn victim_of_the_next_tests() {
    let [Ok(python), Ok(pipe)] = VICTIM.map(std::env::var) else {
        return;
    };
    let mut spec = spec(text(STUBBORN));
    spec.python = PathBuf::from(python);
    spec.args = vec![pipe];
    spec.stdout = Box::new(tokio::io::stderr());
    let (supervisor, _events) = Supervisor::start(spec).await.expect("it starts");
    supervisor.ended().await;
}

fn victim(python: &Path, witness: &Witness) -> tokio::process::Child {
    let exe = std::env::current_exe().expect("this test knows itself");
    let python = python.to_str().expect("UTF-8").to_owned();
    tokio::process::Command::new(exe)
        .args(["--exact", "victim_of_the_next_tests", "--nocapture"])
        .envs(VICTIM.into_iter().zip([python, witness.pipe()]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

#[tokio::test]
async fn killing_quorate_leaves_no_program_and_no_child_of_it() {
    let mut witness = Witness::new();
    let mut victim = victim(&attach_support::python(), &witness);
    let mut stderr = BufReader::new(victim.stderr.take().expect("piped"));
    assert_eq!(line(&mut stderr).await, "ready");
    witness.assert_alive();
    victim.kill().await.expect("killed with SIGKILL");
    witness.all_gone().await;
}

#[tokio::test]
async fn killing_quorate_while_python_starts_leaves_none_either() {
    let (mut witness, starting) = (Witness::new(), Witness::new());
    // Takes the witness's pipe at once, long before the program can have armed its lifeline.
    let python = witness.folder.path().join("python");
    let script = format!(
        "#!/bin/sh\nexec 2>{}\n: >{}\nexec {} \"$@\"\n",
        witness.pipe(),
        starting.pipe(),
        attach_support::python().display()
    );
    std::fs::write(&python, script).expect("written");
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let mut victim = victim(&python, &witness);
    starting.all_gone().await;
    witness.assert_alive();
    victim.kill().await.expect("killed with SIGKILL");
    witness.all_gone().await;
}
