//! Three people on one machine: a home folder each, and processes whose output can be waited for.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// Nothing here takes this long on any machine; a test that hangs fails instead.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The binary under test.
pub const QUORATE: &str = env!("CARGO_BIN_EXE_quorate");

/// The Python of an environment with MPyC 0.11, made once per machine by the demo's own code.
pub fn python() -> PathBuf {
    static PYTHON: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    PYTHON
        .get_or_init(|| {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
                PathBuf::from,
            );
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                use quorate_node::program::{environment, python};
                let search = python::Search::from_env(None);
                let base = python::find(&search)
                    .await
                    .expect("Python 3.9 or newer is needed: sudo apt install python3 python3-venv");
                let data = cache.join("quorate/e2e");
                environment::prepare(&data, &base, |_| {})
                    .await
                    .expect("MPyC can be installed with pip")
                    .path
            })
        })
        .clone()
}

/// The folder with the programs of these tests.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/e2e/programs")
        .join(name)
        .canonicalize()
        .unwrap()
}

/// People with a home folder and a DID each.
pub struct World {
    pub folder: tempfile::TempDir,
    pub names: Vec<String>,
    pub dids: Vec<String>,
}

impl World {
    pub fn new(names: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("quorate-e2e-")
            .tempdir()
            .unwrap();
        let mut world = Self {
            folder,
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            dids: Vec::new(),
        };
        for index in 0..names.len() {
            let shown = world
                .quorate(index)
                .args(["--quiet", "id", "show"])
                .output()
                .unwrap();
            assert!(shown.status.success(), "{shown:?}");
            world
                .dids
                .push(String::from_utf8(shown.stdout).unwrap().trim().to_owned());
        }
        world
    }

    pub fn three() -> Self {
        Self::new(&["alba", "bo", "cleo"])
    }

    pub fn home(&self, index: usize) -> PathBuf {
        self.folder.path().join(&self.names[index])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The binary with the home of one party.
    pub fn quorate(&self, index: usize) -> Command {
        let mut command = Command::new(QUORATE);
        command
            .arg("--home")
            .arg(self.home(index))
            .env_remove("QUORATE_HOME")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Party 0 invites the others.
    pub fn invite(&self, program: &str, public: &[&str]) -> PathBuf {
        self.invite_with(&[], program, public)
    }

    /// As [`invite`](Self::invite), with more options.
    pub fn invite_with(&self, options: &[&str], program: &str, public: &[&str]) -> PathBuf {
        let file = self.path(&format!("{}.quorate", fastrand(self.folder.path())));
        let others: Vec<_> = (1..self.names.len())
            .map(|i| format!("{}={}", self.names[i], self.dids[i]))
            .collect();
        let mut command = self.quorate(0);
        command
            .args([
                "--quiet",
                "invite",
                program,
                "--me",
                &self.names[0],
                "--with",
                &others.join(","),
            ])
            .args(options)
            .arg("--out")
            .arg(&file);
        let invited = command.arg("--").args(public).output().unwrap();
        assert!(
            invited.status.success(),
            "{}",
            String::from_utf8_lossy(&invited.stderr)
        );
        file
    }

    /// A `join` that agrees and stays on this machine.
    pub fn join(&self, index: usize, file: &Path) -> Command {
        let mut command = self.quorate(index);
        command
            .arg("join")
            .arg(file)
            .args(["--local", "--yes", "--python"])
            .arg(python());
        command
    }

    /// Everybody joins with the same extra options.
    pub fn all_join(&self, file: &Path, extra: impl Fn(usize, &mut Command)) -> Vec<Running> {
        (0..self.names.len())
            .map(|index| {
                let mut command = self.join(index, file);
                extra(index, &mut command);
                Running::start(command)
            })
            .collect()
    }

    /// Processes whose command line names this world's folder.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = self.folder.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&mark) && pid != std::process::id() {
                found.push((pid, line));
            }
        }
        found
    }

    /// The processes of programs: Python running a copy in a run folder.
    pub fn program_processes(&self) -> Vec<u32> {
        self.processes()
            .into_iter()
            .filter(|(_, line)| line.contains("/run/") && line.contains("/program/"))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Nothing runs, and no run folder is left.
    pub fn assert_clean(&self) {
        eventually("no process of the session is left", || {
            self.processes().is_empty()
        });
        for index in 0..self.names.len() {
            let run = self.home(index).join("run");
            let left: Vec<_> = fs::read_dir(&run)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .collect();
            assert!(left.is_empty(), "left in {}: {left:?}", run.display());
        }
    }
}

/// A name that is not taken yet in `folder`.
fn fastrand(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// Waits until `condition` holds; looks often, because nothing tells when a process is gone.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "did not happen: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a process printed, as it comes.
#[derive(Clone, Default)]
pub struct Printed(Arc<(Mutex<String>, Condvar)>);

impl Printed {
    fn collect(self, mut from: impl Read + Send + 'static) {
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let (text, changed) = &*self.0;
                text.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
                changed.notify_all();
            }
        });
    }

    /// Waits until all that was printed is here. Something that outlives the process may keep the pipe open: a moment is enough.
    fn wait_for_end(&self) {
        let start = Instant::now();
        // The reader holds the only other reference.
        while Arc::strong_count(&self.0) > 1 && start.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits until `word` was printed.
    pub fn wait_for(&self, word: &str) {
        let (text, changed) = &*self.0;
        let (text, waited) = changed
            .wait_timeout_while(text.lock().unwrap(), PATIENCE, |t| !t.contains(word))
            .unwrap();
        assert!(!waited.timed_out(), "{word:?} was not printed:\n{text}");
    }
}

/// A process that is killed if the test ends before it.
pub struct Running {
    child: Child,
    pub stdout: Printed,
    pub stderr: Printed,
}

/// How a process ended and what it printed.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (Printed::default(), Printed::default());
        stdout.clone().collect(child.stdout.take().unwrap());
        stderr.clone().collect(child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, without waiting for it.
    pub fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end, at most `patience`.
    pub fn end_within(mut self, patience: Duration) -> Ended {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if start.elapsed() > patience => {
                    panic!(
                        "still running after {patience:?}:\n{}\n{}",
                        self.stdout.text(),
                        self.stderr.text()
                    )
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        self.stdout.wait_for_end();
        self.stderr.wait_for_end();
        Ended {
            code: status.code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    pub fn end(self) -> Ended {
        self.end_within(PATIENCE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says that a test could not do its work on this machine, and why.
pub fn untested(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "not tested: {why}");
}

/// Runs a command to its end.
pub fn output(mut command: Command) -> Ended {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Ended {
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

impl Ended {
    /// Ended well.
    #[track_caller]
    pub fn assert_done(&self) {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
    }

    /// Ended with this code, which it said, and with a next step.
    #[track_caller]
    pub fn assert_refused(&self, code: &str, exit: i32) {
        assert!(
            self.stderr.contains(code),
            "{code} is not in:\n{}",
            self.stderr
        );
        assert_eq!(self.code, Some(exit), "{}", self.stderr);
        assert!(
            self.stderr.contains("hint:"),
            "no next step in:\n{}",
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Inodes of this machine's TCP sockets, by line of `/proc/net/tcp*`.
pub fn tcp_inodes() -> Vec<u64> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|path| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .lines()
                .skip(1)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|line| line.split_whitespace().nth(9)?.parse().ok())
        .collect()
}

/// Inodes of the sockets that a process holds.
pub fn socket_inodes(pid: u32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries
        .flatten()
        .filter_map(|e| fs::read_link(e.path()).ok())
        .filter_map(|link| {
            link.to_string_lossy()
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}
