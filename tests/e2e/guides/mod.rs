//! The guides in `docs/guides/` are run as they are written: machines of a LAN, a person at each terminal.
//!
//! A block that begins with ```` ```console ```` is what one person sees. `noord$ COMMAND` is typed into a shell of
//! the machine `noord`; the lines below have to appear in this order. `⏎` at the end of a line: what stands after the
//! question was typed. `^C` at the beginning of a line is that key. A block ```` ```console noord ```` goes on with what runs
//! on that machine. `noord2$` is another terminal of `noord`. What a block with `file=NAME` holds is put into that file on
//! every machine, or on `on=MACHINE`.
//!
//! `<!-- in tests/lab/NAME.toml -->` puts the machines onto the networks of that scenario instead.
//!
//! `**noord → send `FILE` to sud and ost.**` copies a file; `<!-- expired on noord: FILE → NEW -->` makes one that no
//! command makes; `<!-- never on noord: TEXT -->` says what the terminal of `noord` has not shown.
//!
//! What differs from run to run is not compared: numbers, and any text for `…`. A ticket or DID in the guide stands for
//! the one that appears there, everywhere in the guide.

mod journeys;
mod prepared;
mod transcript;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    lab::Networks,
    lan::Lan,
    pty::Terminal,
    world::{QUORATE, eventually, python},
};
use transcript::{Expectation, Names, Step, host_of, steps};

/// What a journey may cost the people in it.
struct Budget {
    commands: usize,
    consents: usize,
    messages: usize,
}

/// The machines of one guide and what runs on them.
struct Stage {
    folder: tempfile::TempDir,
    place: Place,
    machines: Vec<String>,
    running: BTreeMap<String, (Terminal, usize)>,
    names: Names,
}

/// What connects the machines.
enum Place {
    Lan(Lan),
    Lab(Networks),
}

impl Stage {
    fn new(place: Place) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("quorate-guide-")
            .tempdir()
            .unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(QUORATE, bin.join("quorate")).unwrap();
        Self {
            folder,
            place,
            machines: Vec::new(),
            running: BTreeMap::new(),
            names: Names::default(),
        }
    }

    /// The home folder of a machine's person, which is also where they are.
    fn home(&self, machine: &str) -> PathBuf {
        let home = self.folder.path().join(machine);
        fs::create_dir_all(&home).unwrap();
        home
    }

    fn run(&mut self, step: Step, known: &[String]) {
        match step {
            Step::File {
                name,
                machine,
                content,
            } => {
                let content = self.names.fill(&content);
                for machine in machine.map_or_else(|| known.to_vec(), |m| vec![m]) {
                    let path = self.home(&machine).join(&name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, &content).unwrap();
                }
            }
            Step::Command { machine, command } => self.start(&machine, &command),
            Step::Line {
                machine,
                expectation,
            } => self.expect(&machine, &expectation),
            Step::Interrupt { machine } => self.terminal(&machine).0.type_in("\x03"),
            Step::Send { from, file, to } => {
                self.settle(&from);
                for machine in to {
                    let copy = self.home(&machine).join(&file);
                    fs::copy(self.home(&from).join(&file), copy).unwrap();
                }
            }
            Step::Prepare {
                how,
                machine,
                from,
                to,
            } => {
                self.settle(&machine);
                prepared::prepare(&how, &self.home(&machine), &from, &to);
            }
            Step::Never { machine, text } => {
                let shown = self.terminal(&machine).0.shown();
                assert!(!shown.contains(&text), "{machine} shows {text:?}:\n{shown}");
            }
        }
    }

    /// Waits until what runs on a machine has ended.
    fn settle(&mut self, machine: &str) {
        if let Some((mut before, _)) = self.running.remove(machine) {
            let (_, shown) = before.end();
            assert!(!shown.contains("panicked"), "{machine}:\n{shown}");
        }
    }

    fn start(&mut self, terminal: &str, command: &str) {
        self.settle(terminal);
        let command = self.names.fill(command);
        let machine = host_of(terminal);
        if !self.machines.iter().any(|m| m == machine) {
            self.machines.push(machine.to_owned());
        }
        let index = self.machines.iter().position(|m| m == machine).unwrap();
        let home = self.home(machine);
        let path = format!(
            "{}:{}:{}",
            self.folder.path().join("bin").display(),
            python().parent().unwrap().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut words = match &self.place {
            Place::Lan(lan) => lan.enter(index),
            Place::Lab(networks) => networks.enter(machine),
        };
        words.extend(["sh".into(), "-c".into(), command]);
        let started = Terminal::start(&words, |process| {
            process
                .current_dir(&home)
                .env("HOME", &home)
                .env("PATH", path)
                .env("PAGER", "cat");
            for variable in [
                "QUORATE_HOME",
                "XDG_RUNTIME_DIR",
                "XDG_DATA_HOME",
                "XDG_STATE_HOME",
                "RUST_LOG",
            ] {
                process.env_remove(variable);
            }
        });
        self.running.insert(terminal.to_owned(), (started, 0));
    }

    fn terminal(&mut self, machine: &str) -> &mut (Terminal, usize) {
        self.running
            .get_mut(machine)
            .unwrap_or_else(|| panic!("nothing runs on {machine}"))
    }

    fn expect(&mut self, machine: &str, expectation: &Expectation) {
        let (terminal, read) = self.running.get_mut(machine).expect("something runs there");
        let names = &mut self.names;
        let what = format!("{machine}: {}", expectation.text);
        let next = terminal.wait_for(&what, |shown| {
            expectation
                .find(&shown[*read..], names)
                .map(|end| *read + end)
        });
        *read = next;
        if let Some(keys) = &expectation.typed {
            terminal.type_in(&format!("{keys}\n"));
        }
    }

    /// Waits for all that runs, and looks for what is left.
    fn finish(mut self) {
        let terminals: Vec<String> = self.running.keys().cloned().collect();
        for terminal in terminals {
            self.settle(&terminal);
        }
        let mark = self.folder.path().to_string_lossy().into_owned();
        eventually("no process of the guide is left", || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            !processes
                .filter_map(|p| fs::read(p.path().join("environ")).ok())
                .any(|e| String::from_utf8_lossy(&e).contains(&format!("HOME={mark}")))
        });
        for machine in &self.machines {
            let run = self.home(machine).join(".local/state/quorate/run");
            let left: Vec<_> = fs::read_dir(&run).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "left on {machine}: {left:?}");
        }
    }
}

/// The networks that a guide is set in, where it is not one LAN: `<!-- in tests/lab/NAME.toml -->`.
fn networks(guide: &str) -> Option<&str> {
    let after = guide.split("<!-- in tests/lab/").nth(1)?;
    after.split(".toml -->").next()
}

/// Runs a guide and counts what it asked of people.
fn run(name: &str, budget: &Budget) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/guides")
        .join(name);
    let text = fs::read_to_string(&path).unwrap();
    let steps = steps(&text);
    let mut machines: Vec<String> = Vec::new();
    for step in &steps {
        if let Step::Command { machine, .. } = step
            && !machines.iter().any(|m| m == host_of(machine))
        {
            machines.push(host_of(machine).to_owned());
        }
    }
    let spent = transcript::spent(&text, &steps);
    assert!(
        spent.commands <= budget.commands
            && spent.consents <= budget.consents
            && spent.messages <= budget.messages,
        "{name} asks more of people than it may: {spent:?}"
    );
    let place = match networks(&text) {
        None => Place::Lan(Lan::new(machines.len(), &[])),
        Some(name) => Place::Lab(Networks::up(name, machines.len())),
    };
    let mut stage = Stage::new(place);
    for step in steps {
        stage.run(step, &machines);
    }
    stage.finish();
}
