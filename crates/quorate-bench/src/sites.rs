//! The real program between sites of the lab, and the same computation over plain IP between the
//! same network namespaces.
//!
//! ```text
//!   quorate:  python ═ quorate join ─ TUN ─ emulator ─ TUN ─ quorate join ═ python      a relay helps
//!   plain:    python -P HOST:PORT … ─ TUN ─ emulator ─ TUN ─ python -P HOST:PORT …
//! ```
//! The lab stays between the runs; processes and folders are those of one run. Everything is gone
//! with the lab's own process, however it ends: it is the first of a PID namespace and its files
//! are in memory ([`quorate_lab::sandbox`]).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use quorate_lab::{
    Lab, LinkSpec, Nat, Plan, Site,
    plan::Between,
    scenario::{
        Relay, SessionPlan,
        process::Process,
        stage::{Stage, Tools},
    },
};
use serde_json::Value;

use crate::{Outcome, plain::parse_end};

/// Where the relay is: half way between any two other sites.
const MIDDLE: &str = "middle";
/// The region of all other sites.
const SOMEWHERE: &str = "somewhere";
/// The host with the relay.
pub const RELAY: &str = "relay";
/// Where plain MPyC listens.
const PORT: u16 = 11_365;
/// No run takes longer.
const PATIENCE: Duration = Duration::from_mins(3);
/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Sites of one host each, at the same distance from each other, and a relay half way.
pub fn plan(sites: &[(&str, Nat)], one_way_ms: f64) -> Plan {
    let mut all = vec![Site::new(RELAY, Nat::Open).region(MIDDLE)];
    all.extend(sites.iter().map(|(name, nat)| Site::new(*name, *nat)));
    Plan {
        seed: 1,
        sites: all,
        links: vec![Between {
            between: [MIDDLE.into(), SOMEWHERE.into()],
            with: LinkSpec::delay(one_way_ms / 2.0),
        }],
        elsewhere: LinkSpec::delay(one_way_ms),
    }
}

/// The relay of such a plan. Its limits are out of the way, so that the network is what is measured.
pub fn relay() -> Relay {
    Relay {
        host: RELAY.into(),
        arguments: vec!["--circuit-rate".into(), "0".into()],
        told: true,
    }
}

/// A program and who runs it.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Hosts, in the order of the parties.
    pub parties: &'a [&'a str],
    /// The program's text.
    pub source: &'a str,
    /// Its arguments, which all sign.
    pub args: &'a [&'a str],
}

/// What is left of a party's process.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What its program printed.
    pub stdout: String,
    /// What its MPyC said: milliseconds and bytes sent.
    pub finished: (u64, u64),
    /// The word for its last path to each other party.
    pub paths: BTreeMap<u64, String>,
}

/// A lab for one run after the other.
#[derive(Debug)]
pub struct Sites {
    lab: Option<Lab>,
    tools: Tools,
    folder: PathBuf,
    runs: u32,
}

impl Sites {
    /// Builds the lab; files of the runs go to `folder`.
    pub fn build(plan: Plan, tools: &Tools, folder: &Path) -> Outcome<Self> {
        Ok(Self {
            lab: Some(Lab::build(plan, None)?),
            tools: tools.clone(),
            folder: folder.to_owned(),
            runs: 0,
        })
    }

    /// The networks.
    pub fn lab(&self) -> Outcome<&Lab> {
        self.lab
            .as_ref()
            .ok_or_else(|| "a failed run took the lab".into())
    }

    /// From now on packets take so long from site to site.
    pub fn distance(&self, one_way_ms: f64) -> Outcome<()> {
        let lab = self.lab()?;
        lab.link(SOMEWHERE, SOMEWHERE, LinkSpec::delay(one_way_ms));
        lab.link(MIDDLE, SOMEWHERE, LinkSpec::delay(one_way_ms / 2.0));
        Ok(())
    }

    /// A new folder with the program in it, and where that is.
    fn prepare(&mut self, source: &str) -> Outcome<(PathBuf, PathBuf)> {
        self.runs += 1;
        let folder = self.folder.join(self.runs.to_string());
        let program = folder.join("programs/program.py");
        fs::create_dir_all(folder.join("programs"))?;
        fs::create_dir_all(folder.join("session/logs"))?;
        fs::write(&program, source)?;
        Ok((folder, program))
    }

    /// One session of `quorate join` processes, from their start to their end. The lab stays usable
    /// when it fails.
    pub fn session(&mut self, job: &Job<'_>) -> Outcome<Vec<Ended>> {
        let (folder, _) = self.prepare(job.source)?;
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        // Nothing is computed that anybody would have to protect.
        let agreed = words(if job.parties.len() < 3 {
            &["--no-privacy"]
        } else {
            &[]
        });
        let session = SessionPlan {
            parties: words(job.parties),
            program: "program.py".into(),
            public: words(job.args),
            invite: agreed.clone(),
            join: agreed,
            ..SessionPlan::default()
        };
        let lab = self.lab.take().ok_or("a failed run took the lab")?;
        let mut stage = Stage::set(
            lab,
            &self.tools,
            &[relay()],
            &session,
            &folder.join("session"),
            &folder.join("programs"),
        )?;
        for index in 0..job.parties.len() {
            stage.join(index)?;
        }
        let mut processes: Vec<Process> = stage
            .parties
            .iter_mut()
            .filter_map(|p| p.process.take())
            .collect();
        let Stage { lab, relays, .. } = stage;
        let done = await_ends(&mut processes);
        drop(relays);
        self.lab = Some(lab);
        done?;
        let ended = processes.iter().map(|process| {
            let events = process.events();
            let finished = events.iter().find_map(|(event, _)| finished(event));
            let paths = process.paths().into_iter();
            Ok(Ended {
                stdout: process.stdout(),
                finished: finished.ok_or("a program said no time")?,
                paths: paths.map(|(index, (word, _))| (index, word)).collect(),
            })
        });
        let ended = ended.collect::<Outcome<Vec<_>>>()?;
        fs::remove_dir_all(&folder)?;
        Ok(ended)
    }

    /// The same without quorate.
    pub fn plain(&mut self, job: &Job<'_>) -> Outcome<Vec<Ended>> {
        let python = self
            .tools
            .python
            .clone()
            .ok_or("no Python with MPyC: --python PATH")?;
        let (folder, program) = self.prepare(job.source)?;
        let lab = self.lab()?;
        let mut hosts = Vec::new();
        for name in job.parties {
            hosts.push(lab.host(name)?);
        }
        let mut processes = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let mut command = Command::new(&python);
            command.arg("-B").arg(&program).current_dir(&folder);
            for other in &hosts {
                let address = other.ipv4().ok_or("a host without IPv4")?;
                command.args(["-P", &format!("{address}:{PORT}")]);
            }
            command.args(["-I", &index.to_string()]).args(job.args);
            let logs = folder.join("session/logs");
            processes.push(Process::start(host, command, &logs, &host.name)?);
        }
        await_ends(&mut processes)?;
        let ended = processes.iter().map(|process| {
            // Where MPyC's log goes differs between its versions.
            let mut said = process.last_words(20);
            said.extend(process.stdout().lines().map(str::to_owned));
            let finished = said.iter().rev().find_map(|line| parse_end(line));
            Ok(Ended {
                stdout: process.stdout(),
                finished: finished.ok_or_else(|| format!("no time in {said:?}"))?,
                paths: BTreeMap::new(),
            })
        });
        let ended = ended.collect::<Outcome<Vec<_>>>()?;
        drop(processes);
        fs::remove_dir_all(&folder)?;
        Ok(ended)
    }
}

/// Waits until all have ended well and all that they said has been read.
fn await_ends(processes: &mut [Process]) -> Outcome<()> {
    let until = Instant::now() + PATIENCE;
    for index in 0..processes.len() {
        let status = loop {
            if let Some((status, _)) = processes[index].ended() {
                break status;
            }
            if Instant::now() > until {
                return Err(trouble("a party has not ended", processes));
            }
            std::thread::sleep(LOOK);
        };
        if !status.success() {
            return Err(trouble(&format!("party {index}: {status}"), processes));
        }
    }
    for process in processes {
        process.await_words();
    }
    Ok(())
}

/// A failure with what all parties said last.
pub fn trouble(what: &str, processes: &[Process]) -> Box<dyn std::error::Error + Send + Sync> {
    let mut parts = vec![what.to_owned()];
    for (index, process) in processes.iter().enumerate() {
        parts.push(format!("  {index}:"));
        let words = process.last_words(6).into_iter();
        parts.extend(words.map(|line| format!("    {line}")));
    }
    parts.join("\n").into()
}

fn finished(event: &Value) -> Option<(u64, u64)> {
    let number = |name| event.get(name).and_then(Value::as_u64);
    let is = event.get("event").and_then(Value::as_str) == Some("finished");
    is.then_some(())?;
    Some((number("elapsed_ms")?, number("bytes_sent")?))
}

/// The longest time that MPyC told of these parties, in milliseconds, and the mean of the bytes.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn slowest(ended: &[Ended]) -> (f64, f64) {
    let longest = ended.iter().map(|e| e.finished.0).max().unwrap_or(0);
    let bytes: u64 = ended.iter().map(|e| e.finished.1).sum();
    (longest as f64, bytes as f64 / ended.len().max(1) as f64)
}
