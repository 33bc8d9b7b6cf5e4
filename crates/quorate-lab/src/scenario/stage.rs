//! The processes of a scenario: relays and parties, each on its host with a home folder of its own.

use super::{Ask, Relay, SessionPlan, process::Process};
use crate::{Context as _, Lab, Outcome, Trouble};
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// A program that computes rounds until a file appears.
const HOLD: &str = include_str!("hold.py");
/// How long a relay may take to listen.
const RELAY_PATIENCE: Duration = Duration::from_secs(20);

/// What the lab starts.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The binary under test.
    pub quorate: PathBuf,
    /// Python with MPyC, if not the one that quorate finds.
    pub python: Option<PathBuf>,
}

impl Tools {
    /// What was asked for, or what lies beside this program and in the cache of the tests.
    pub fn find(quorate: Option<PathBuf>, python: Option<PathBuf>) -> Outcome<Self> {
        let beside = env::current_exe()
            .ok()
            .and_then(|p| p.parent().map(|f| f.join("quorate")));
        let quorate = quorate
            .or(beside.filter(|p| p.is_file()))
            .ok_or_else(|| {
                Trouble::new("no `quorate` beside this program: cargo build --workspace --bins, or --quorate PATH")
            })?;
        let quorate = fs::canonicalize(&quorate).during(quorate.display())?;
        Ok(Self {
            quorate,
            python: python.or_else(cached_python),
        })
    }
}

/// The same command without a capability, and without a way to get one.
fn without_capabilities(command: &Command) -> Command {
    let mut less = Command::new("setpriv");
    less.args(["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => less.env(name, value),
            None => less.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        less.current_dir(folder);
    }
    less
}

/// The environment that the end-to-end tests make once per machine.
fn cached_python() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let folder = cache.or_else(home)?.join("quorate/e2e/python");
    let environments = fs::read_dir(folder).ok()?.flatten();
    let mut pythons = environments.map(|e| e.path().join("bin/python3"));
    pythons.find(|p| p.is_file())
}

/// Waits until a party has such an address.
fn address_of(party: &Party, wanted: impl Fn(&str) -> bool) -> Outcome<String> {
    let begun = Instant::now();
    while begun.elapsed() < RELAY_PATIENCE {
        let process = party.process.as_ref();
        if let Some(address) = process.and_then(|p| p.address(&wanted)) {
            return Ok(address);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Trouble::new(format!(
        "{} has no address that others can be told",
        party.name
    )))
}

/// All links in a report, however it is nested.
fn links_in(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(members) => match members.get("links").and_then(Value::as_array) {
            Some(links) => links.clone(),
            None => members.values().flat_map(links_in).collect(),
        },
        Value::Array(items) => items.iter().flat_map(links_in).collect(),
        _ => Vec::new(),
    }
}

/// A party's part.
#[derive(Debug)]
pub struct Party {
    /// The name of its host.
    pub name: String,
    /// Its DID.
    pub did: String,
    /// When it starts, and what runs.
    pub due: Instant,
    /// Its process, once it was started.
    pub process: Option<Process>,
}

/// A relay that runs.
#[derive(Debug)]
pub struct RelayProcess {
    plan: Relay,
    /// Its process.
    pub process: Process,
    addresses: Vec<String>,
}

/// A lab with processes in it.
#[derive(Debug)]
pub struct Stage {
    /// The processes end before their networks: fields are dropped in this order.
    pub parties: Vec<Party>,
    /// The relays.
    pub relays: Vec<RelayProcess>,
    /// The networks.
    pub lab: Lab,
    tools: Tools,
    session: SessionPlan,
    folder: PathBuf,
    beside: PathBuf,
}

impl Stage {
    /// Relays that listen, parties with a DID, and a signed invitation. `folder` is empty, and
    /// `beside` is where programs are.
    pub fn set(
        lab: Lab,
        tools: &Tools,
        relays: &[Relay],
        session: &SessionPlan,
        folder: &Path,
        beside: &Path,
    ) -> Outcome<Self> {
        let mut stage = Self {
            parties: Vec::new(),
            relays: Vec::new(),
            lab,
            tools: tools.clone(),
            session: session.clone(),
            folder: folder.to_owned(),
            beside: beside.to_owned(),
        };
        fs::create_dir_all(stage.logs()).during("a folder for logs")?;
        fs::write(folder.join("hold.py"), HOLD).during("a program")?;
        for relay in relays {
            let process = stage.relay(relay)?;
            stage.relays.push(process);
        }
        for name in &session.parties {
            let shown = stage.ask(name, &["--quiet", "id", "show"])?;
            stage.parties.push(Party {
                name: name.clone(),
                did: shown.trim().to_owned(),
                due: Instant::now(),
                process: None,
            });
        }
        if !stage.parties.is_empty() {
            stage.invite()?;
        }
        Ok(stage)
    }

    /// Where what the processes say is kept.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// The file that ends the program of `hold`.
    pub fn over(&self) -> PathBuf {
        self.folder.join("over")
    }

    fn home(&self, name: &str) -> PathBuf {
        self.folder.join("homes").join(name)
    }

    fn quorate(&self, name: &str) -> Command {
        let mut command = Command::new(&self.tools.quorate);
        let home = self.home(name);
        command
            .arg("--home")
            .arg(&home)
            .env_remove("QUORATE_HOME")
            .env("HOME", &home)
            .current_dir(&self.folder);
        command
    }

    /// Runs a command of one host's person to its end.
    pub fn ask(&self, name: &str, words: &[&str]) -> Outcome<String> {
        let host = self.lab.host(name)?;
        let mut command = self.quorate(name);
        command.args(words);
        let output = host.namespace.within(|| command.output())?;
        let output = output.during(format_args!("quorate {}", words.join(" ")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Trouble::new(format!(
            "{name}: quorate {}: {}\n{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    /// What `status --json` of a party says.
    pub fn status(&self, name: &str) -> Outcome<Value> {
        let text = self.ask(name, &["--json", "status"])?;
        serde_json::from_str(&text).during(format_args!("{name}: status"))
    }

    /// The links of each party as `status --json` shows them, by positions.
    pub fn links(&self, name: &str) -> Outcome<Vec<Value>> {
        Ok(links_in(&self.status(name)?))
    }

    /// Runs a command and says what is not as expected.
    pub fn ask_as_planned(&self, ask: &Ask) -> Outcome<Vec<String>> {
        let host = self.lab.host(&ask.host)?;
        let mut command = self.quorate(&ask.host);
        for word in &ask.words {
            command.arg(self.filled(word)?);
        }
        let shown = format!("{}: quorate {}", ask.host, ask.words.join(" "));
        let output = host.namespace.within(|| command.output())?.during(&shown)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let mut wrong = Vec::new();
        if output.status.code() != Some(ask.exit) {
            wrong.push(format!("{shown}: {}\n{said}", output.status));
        }
        let unsaid = ask.says.iter().filter(|s| !said.contains(*s));
        wrong.extend(unsaid.map(|s| format!("{shown}: says no `{s}`:\n{said}")));
        Ok(wrong)
    }

    /// `{relay WORD}` becomes an address, `{python}` the Python of the parties.
    fn filled(&self, word: &str) -> Outcome<String> {
        if word == "{python}" {
            let python = self.tools.python.as_deref();
            let python = python.unwrap_or(Path::new("python3"));
            return Ok(python.display().to_string());
        }
        let Some(wanted) = word
            .strip_prefix("{relay ")
            .and_then(|w| w.strip_suffix('}'))
        else {
            return Ok(word.to_owned());
        };
        let mut addresses = self.relays.iter().flat_map(|r| &r.addresses);
        let found = addresses.find(|a| a.contains(wanted)).cloned();
        found.ok_or_else(|| Trouble::new(format!("no relay has an address with `{wanted}`")))
    }

    fn relay(&self, plan: &Relay) -> Outcome<RelayProcess> {
        let host = self.lab.host(&plan.host)?;
        let mut command = self.quorate(&plan.host);
        command.args(["--json", "relay", "run"]);
        for address in &host.addresses {
            command.args(["--external", &address.to_string()]);
        }
        command.args(&plan.arguments);
        let mut process = Process::start(host, command, &self.logs(), &plan.host)?;
        let begun = Instant::now();
        let addresses = loop {
            let listens = |event: &Value| {
                let found = event.get("addresses")?.as_array()?;
                let texts = found.iter().filter_map(Value::as_str).map(str::to_owned);
                Some(texts.collect::<Vec<_>>())
            };
            if let Some((addresses, _)) = process.find(listens) {
                break addresses;
            }
            if process.ended().is_some() || begun.elapsed() > RELAY_PATIENCE {
                return Err(Trouble::new(format!(
                    "the relay on {} does not listen:\n{}",
                    plan.host,
                    process.last_words(10).join("\n")
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let own: Vec<String> = host.addresses.iter().map(|a| format!("/{a}/")).collect();
        let outer = |a: &String| own.iter().any(|o| a.contains(o));
        Ok(RelayProcess {
            plan: plan.clone(),
            process,
            addresses: addresses.into_iter().filter(outer).collect(),
        })
    }

    /// The addresses of the relay on a host.
    pub fn relay_addresses(&self, host: &str) -> &[String] {
        let relay = self.relays.iter().find(|r| r.plan.host == host);
        relay.map_or(&[], |r| &r.addresses)
    }

    /// The relays' addresses, as arguments.
    fn told(&self) -> Vec<String> {
        let relays = self.relays.iter().filter(|r| r.plan.told);
        let addresses = relays.flat_map(|r| &r.addresses);
        addresses
            .flat_map(|a| ["--relay".to_owned(), a.clone()])
            .collect()
    }

    fn invitation(&self) -> PathBuf {
        self.folder.join("session.quorate")
    }

    fn program(&self) -> String {
        let beside = self.beside.join(&self.session.program);
        if self.session.hold {
            self.folder.join("hold.py").display().to_string()
        } else if beside.is_file() {
            beside.display().to_string()
        } else {
            self.session.program.clone()
        }
    }

    fn invite(&self) -> Outcome<()> {
        let (first, others) = self
            .parties
            .split_first()
            .ok_or_else(|| Trouble::new("no parties"))?;
        let with: Vec<_> = others
            .iter()
            .map(|p| format!("{}={}", p.name, p.did))
            .collect();
        let (program, with) = (self.program(), with.join(","));
        let file = self.invitation().display().to_string();
        let told = self.told();
        let mut words = vec!["--quiet", "invite", &program, "--me", &first.name];
        words.extend(["--with", &with, "--out", &file]);
        words.extend(told.iter().chain(&self.session.invite).map(String::as_str));
        words.push("--");
        words.extend(self.session.public.iter().map(String::as_str));
        self.ask(&first.name, &words).map(drop)
    }

    /// The addresses at the relay of those that started before; without a relay, where the first one listens.
    fn introductions(&self, index: usize) -> Outcome<Vec<String>> {
        let earlier = self.parties.iter().take(index);
        let mut earlier = earlier.filter(|_| self.session.introduce);
        if !self.relays.is_empty() {
            let circuit = |party| address_of(party, |a| a.contains("/p2p-circuit/"));
            return earlier.map(circuit).collect();
        }
        let Some(first) = earlier.next() else {
            return Ok(Vec::new());
        };
        let host = self.lab.host(&first.name)?;
        let own: Vec<String> = host
            .addresses
            .iter()
            .map(|a| format!("/{a}/tcp/"))
            .collect();
        let outer = |a: &str| own.iter().any(|o| a.contains(o));
        address_of(first, outer).map(|address| vec![address])
    }

    /// Seconds between rounds of `hold`: a round of many parties is many messages.
    fn pace(&self) -> &'static str {
        if self.parties.len() > 5 { "1.0" } else { "0.2" }
    }

    /// Starts a party, or starts it again.
    pub fn join(&mut self, index: usize) -> Outcome<()> {
        let name = self.parties[index].name.clone();
        let host = self.lab.host(&name)?;
        let mut command = self.quorate(&name);
        if self.session.unprivileged {
            command = without_capabilities(&command);
        }
        command
            .arg("--json")
            .arg("join")
            .arg(self.invitation())
            .arg("--yes");
        if let Some(python) = &self.tools.python {
            command.arg("--python").arg(python);
        }
        let program = self.program();
        if Path::new(&program).is_file() {
            command.args(["--program", &program]);
        }
        for address in self.introductions(index)? {
            command.args(["--at", &address]);
        }
        command.args(self.told()).args(&self.session.join).arg("--");
        if self.session.hold {
            command.arg("--until").arg(self.over());
            command.args(["--every", self.pace()]);
        }
        command.args(&self.session.private);
        let process = Process::start(host, command, &self.logs(), &name)?;
        self.parties[index].process = Some(process);
        Ok(())
    }

    /// What runs on a host: a party's process or a relay's.
    pub fn process(&mut self, host: &str) -> Outcome<&mut Process> {
        let parties = self.parties.iter_mut().filter(|p| p.name == host);
        let relays = self.relays.iter_mut().filter(|r| r.plan.host == host);
        parties
            .filter_map(|p| p.process.as_mut())
            .chain(relays.map(|r| &mut r.process))
            .next()
            .ok_or_else(|| Trouble::new(format!("nothing runs on {host}")))
    }

    /// Starts again what ran on a host.
    pub fn restart(&mut self, host: &str) -> Outcome<()> {
        if let Some(index) = self.parties.iter().position(|p| p.name == host) {
            return self.join(index);
        }
        let index = self.relays.iter().position(|r| r.plan.host == host);
        let index = index.ok_or_else(|| Trouble::new(format!("nothing ran on {host}")))?;
        self.relays[index].process.kill();
        self.relays[index] = self.relay(&self.relays[index].plan.clone())?;
        Ok(())
    }
}
