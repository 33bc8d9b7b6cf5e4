//! A process on a host: what it says, line by line, and how it ends.

use crate::{Context as _, Host, Outcome};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::Phase;

/// Lines kept of one process.
const MAX_LINES: usize = 100_000;

/// How long the last words of an ended process may take.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

/// Signs shown of a line.
const MAX_SHOWN: usize = 400;

/// A line and when it came.
#[derive(Clone, Debug)]
struct Line {
    at: Instant,
    text: String,
    event: Option<Value>,
}

type Lines = Arc<Mutex<Vec<Line>>>;

/// A running or ended process. It is killed with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
    ended: Option<(ExitStatus, Instant)>,
    killed: bool,
}

impl Process {
    /// Starts it on a host. What it says also goes to `NAME.out` and `NAME.err` in `logs`.
    pub fn start(host: &Host, mut command: Command, logs: &Path, name: &str) -> Outcome<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = host.namespace.spawn(&mut command)?;
        let open = |suffix| {
            File::options()
                .create(true)
                .append(true)
                .open(logs.join(format!("{name}.{suffix}")))
                .during("a log")
        };
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = [
            collect(child.stdout.take(), &stdout, open("out")?),
            collect(child.stderr.take(), &stderr, open("err")?),
        ];
        Ok(Self {
            child,
            stdout,
            stderr,
            readers: readers.into_iter().flatten().collect(),
            ended: None,
            killed: false,
        })
    }

    /// How it ended and when, if it did.
    pub fn ended(&mut self) -> Option<(ExitStatus, Instant)> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .ok()
                .flatten()
                .map(|s| (s, Instant::now()));
        }
        self.ended
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until all that an ended process said has been read; not for ever, since somebody else may
    /// have inherited its streams.
    pub fn await_words(&self) {
        let until = Instant::now() + LAST_WORDS_WAIT;
        while Instant::now() < until && !self.readers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the lab killed it.
    pub fn was_killed(&self) -> bool {
        self.killed
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.killed = true;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            let _ = kill_process(id, signal);
        }
    }

    /// All that it wrote to stdout.
    pub fn stdout(&self) -> String {
        let lines = lock(&self.stdout);
        lines.iter().map(|l| l.text.clone() + "\n").collect()
    }

    /// The last lines on stderr.
    pub fn last_words(&self, count: usize) -> Vec<String> {
        let lines = lock(&self.stderr);
        // Addresses are long and say nothing of why something ended.
        let telling = |l: &&Line| !l.text.contains("\"event\":\"listening\"");
        let texts: Vec<&Line> = lines.iter().filter(telling).collect();
        let last = texts[texts.len().saturating_sub(count)..].iter();
        last.map(|l| l.text.chars().take(MAX_SHOWN).collect())
            .collect()
    }

    /// Whether these words were in a line on stderr.
    pub fn said(&self, words: &str) -> bool {
        lock(&self.stderr).iter().any(|l| l.text.contains(words))
    }

    /// The first event, on either stream, that `wanted` gives something for.
    pub fn find<T>(&self, wanted: impl Fn(&Value) -> Option<T>) -> Option<(T, Instant)> {
        [&self.stderr, &self.stdout].into_iter().find_map(|stream| {
            lock(stream).iter().find_map(|l| {
                let value = wanted(l.event.as_ref()?)?;
                Some((value, l.at))
            })
        })
    }

    /// Everything that it said as JSON on stderr, in its order, and when.
    pub fn events(&self) -> Vec<(Value, Instant)> {
        let lines = lock(&self.stderr);
        let events = lines.iter().filter_map(|l| Some((l.event.clone()?, l.at)));
        events.collect()
    }

    /// When it was first at least this far.
    pub fn reached(&self, phase: Phase) -> Option<Instant> {
        let found = self.find(|event| (phase_of(event)? >= phase).then_some(()));
        found.map(|((), at)| at)
    }

    /// The word for the path to each other party, and the reason, as last said.
    pub fn paths(&self) -> BTreeMap<u64, (String, String)> {
        let mut paths = BTreeMap::new();
        let mut put = |link: &Value| {
            let index = link.get("index").and_then(Value::as_u64);
            let word = |name| link.get(name).and_then(Value::as_str).unwrap_or_default();
            if let Some(index) = index {
                let said: &mut (String, String) = paths.entry(index).or_default();
                word("path").clone_into(&mut said.0);
                // The summary of the mesh has no reasons: those that were told before stand.
                if link.get("reason").is_some() {
                    word("reason").clone_into(&mut said.1);
                }
            }
        };
        for line in lock(&self.stderr).iter() {
            let Some(event) = &line.event else { continue };
            match event.get("event").and_then(Value::as_str) {
                Some("mesh") => {
                    let links = event.get("links").and_then(Value::as_array);
                    links.into_iter().flatten().for_each(&mut put);
                }
                Some("path") => put(event),
                _ => {}
            }
        }
        paths
    }

    /// An address in what it said last about them.
    pub fn address(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let lines = lock(&self.stderr);
        lines.iter().rev().find_map(|l| {
            let addresses = l.event.as_ref()?.get("addresses")?.as_array()?;
            let mut texts = addresses.iter().filter_map(Value::as_str);
            texts.find(|a| wanted(a)).map(str::to_owned)
        })
    }

    /// All codes of refusals that it named.
    pub fn codes(&self) -> Vec<String> {
        let lines = lock(&self.stderr);
        let texts = lines.iter().flat_map(|l| {
            let words = l
                .text
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            words
                .filter(|w| w.starts_with("E_"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        texts.collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn phase_of(event: &Value) -> Option<Phase> {
    let word = |name| event.get(name).and_then(Value::as_str);
    match (word("event")?, word("state")) {
        ("listening", _) | ("state", Some("joining")) => Some(Phase::Joining),
        ("state", Some("confirming")) => Some(Phase::Confirming),
        ("state", Some("keyed")) => Some(Phase::Keyed),
        ("state", Some("ready")) => Some(Phase::Ready),
        ("program", Some("connected")) => Some(Phase::Running),
        ("state", Some("closing")) | ("finished", _) => Some(Phase::Closing),
        _ => None,
    }
}

fn lock(lines: &Lines) -> MutexGuard<'_, Vec<Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a stream to its end in a thread of its own.
fn collect(
    stream: Option<impl Read + Send + 'static>,
    lines: &Lines,
    mut log: File,
) -> Option<JoinHandle<()>> {
    let kept = Arc::clone(lines);
    let stream = stream?;
    Some(std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let _ = log.write_all(&bytes);
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            let event = text
                .starts_with('{')
                .then(|| serde_json::from_str(&text).ok());
            let line = Line {
                at: Instant::now(),
                event: event.flatten(),
                text,
            };
            let mut kept = lock(&kept);
            if kept.len() < MAX_LINES {
                kept.push(line);
            }
            drop(kept);
            bytes.clear();
        }
    }))
}
