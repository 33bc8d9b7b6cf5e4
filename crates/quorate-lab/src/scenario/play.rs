//! Plays a scenario: starts the parties, does the faults, waits for the end and judges it.

use super::{
    Action, End, Phase, Scenario, hidden,
    process::Process,
    stage::{Stage, Tools},
};
use crate::{Context as _, Lab, Outcome, nat::Reach};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(30);
/// How long `status` may take to say what is expected.
const STANDING_PATIENCE: Duration = Duration::from_secs(20);

/// How a scenario ended.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is not as expected; empty is good.
    pub wrong: Vec<String>,
    /// What happened, for people.
    pub told: Vec<String>,
    /// Each pair of parties: names, the path at both ends, what the oracle says.
    pub pairs: Vec<Pair>,
    /// From the first start until every pair had a path.
    pub usable: Option<Duration>,
    /// All in all.
    pub taken: Duration,
}

/// One pair of parties at the end.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Their names.
    pub names: [String; 2],
    /// The word for the path and the reason, at each end.
    pub paths: [(String, String); 2],
    /// What the oracle says.
    pub oracle: Option<Reach>,
    /// Whether TCP leads from one to the other although UDP does not.
    pub by_tcp: bool,
}

impl Pair {
    /// What the ends agree on, if they do.
    pub fn reach(&self) -> Option<Reach> {
        let of = |(word, _): &(String, String)| match word.as_str() {
            w if w.starts_with("direct") || w == "local" => Some(Reach::Direct),
            w if w.starts_with("relayed") => Some(Reach::Relay),
            _ => None,
        };
        let [one, other] = [of(&self.paths[0]), of(&self.paths[1])];
        one.filter(|_| one == other)
    }

    /// Whether it is as the oracle says. Where UDP is blocked, a party in the open is reached by TCP
    /// all the same, which is better than the oracle, whose word is about UDP.
    pub fn holds(&self) -> bool {
        let seen = self.reach();
        seen == self.oracle || (self.by_tcp && seen == Some(Reach::Direct))
    }

    /// In one cell.
    pub fn shown(&self) -> String {
        if self.by_tcp && self.reach() == Some(Reach::Direct) {
            return "tcp".into();
        }
        match (self.reach(), self.oracle) {
            (Some(seen), expected) if expected.is_none_or(|e| e == seen) => seen.to_string(),
            (Some(seen), _) => format!("{seen}!"),
            (None, _) if self.paths.iter().any(|p| p.0.is_empty()) => "–!".into(),
            (None, _) => "down!".into(),
        }
    }
}

struct Play<'a> {
    scenario: &'a Scenario,
    stage: Stage,
    begun: Instant,
    deadline: Instant,
    last_fault: Option<Instant>,
    verdict: Verdict,
}

/// Plays it in a new lab whose files are in `folder`. `keep` is called before anything is taken away.
pub fn play(
    scenario: &Scenario,
    tools: &Tools,
    folder: &Path,
    beside: &Path,
    keep: impl FnOnce(&Stage, &Verdict),
) -> Outcome<Verdict> {
    fs::create_dir_all(folder).during(folder.display())?;
    let capture = folder.join("lines.pcap");
    let lab = Lab::build(scenario.lab.clone(), Some(&capture))?;
    let stage = Stage::set(
        lab,
        tools,
        &scenario.relays,
        &scenario.session,
        folder,
        beside,
    )?;
    let begun = Instant::now();
    let mut play = Play {
        scenario,
        stage,
        begun,
        deadline: begun + Duration::from_secs_f64(scenario.expect.within_seconds),
        last_fault: None,
        verdict: Verdict::default(),
    };
    for ask in &scenario.asks {
        let wrong = play.stage.ask_as_planned(ask)?;
        play.verdict.wrong.extend(wrong);
        play.tell(&format!("{}: quorate {}", ask.host, ask.words.join(" ")));
    }
    play.start()?;
    for fault in &scenario.faults {
        play.await_phase(fault.after, fault.seconds)?;
        play.tell(&format!("{:?}", fault.does));
        play.does(&fault.does)?;
        play.last_fault = Some(Instant::now());
    }
    play.finish()?;
    play.judge(&capture);
    play.verdict.taken = play.begun.elapsed();
    let Play { stage, verdict, .. } = play;
    keep(&stage, &verdict);
    Ok(verdict)
}

impl Play<'_> {
    fn tell(&mut self, what: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        self.verdict.told.push(format!("{at:7.2} s  {what}"));
    }

    fn start(&mut self) -> Outcome<()> {
        for index in 0..self.stage.parties.len() {
            let party = &mut self.stage.parties[index];
            let late = self.scenario.session.late.get(&party.name).copied();
            party.due = self.begun + Duration::from_secs_f64(late.unwrap_or(0.0));
        }
        self.look()
    }

    /// Starts who is due.
    fn look(&mut self) -> Outcome<()> {
        let now = Instant::now();
        for index in 0..self.stage.parties.len() {
            let party = &self.stage.parties[index];
            if party.process.is_none() && party.due <= now {
                self.stage.join(index)?;
            }
        }
        Ok(())
    }

    fn sleep(&mut self) -> Outcome<()> {
        std::thread::sleep(LOOK);
        self.look()
    }

    fn over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn all(&mut self, mut done: impl FnMut(&mut Process) -> bool) -> bool {
        let mut parties = self.stage.parties.iter_mut();
        parties.all(|p| p.process.as_mut().is_some_and(&mut done))
    }

    /// Waits until every party is so far, or ended, and then some more.
    fn await_phase(&mut self, phase: Phase, seconds: f64) -> Outcome<()> {
        let far = |p: &mut Process| {
            phase == Phase::Started || p.reached(phase).is_some() || p.ended().is_some()
        };
        while !self.all(far) && !self.over() {
            self.sleep()?;
        }
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < until && !self.over() {
            self.sleep()?;
        }
        Ok(())
    }

    fn does(&mut self, action: &Action) -> Outcome<()> {
        let lab = &self.stage.lab;
        match action {
            Action::Cut {
                site,
                other,
                one_way: true,
            } => lab.cut(Some(site), other.as_deref(), true),
            Action::Cut { site, other, .. } => lab.cut_both(site, other.as_deref(), true),
            Action::Mend { site, other } => lab.cut_both(site, other.as_deref(), false),
            Action::Reboot { site } => lab.reboot(site),
            Action::Expire { site, seconds } => lab.expire(site, *seconds),
            Action::Readdress { site } => lab.readdress(site).map(drop),
            Action::Carry { host, site } => lab.carry(host, site),
            Action::Link {
                between: [a, b],
                with,
            } => {
                lab.link(a, b, *with);
                Ok(())
            }
            Action::Line { site, with } => lab.line(site, *with),
            Action::Kill { host } => {
                self.stage.process(host)?.kill();
                Ok(())
            }
            Action::Restart { host } => self.stage.restart(host),
            Action::Sleep { host } => self.signal(host, Signal::STOP),
            Action::Wake { host } => self.signal(host, Signal::CONT),
            Action::Interrupt { host } => self.signal(host, Signal::INT),
        }
    }

    fn signal(&mut self, host: &str, signal: Signal) -> Outcome<()> {
        self.stage.process(host)?.signal(signal);
        Ok(())
    }

    /// Lets everything settle, ends the program of `hold`, and waits for all to end.
    fn finish(&mut self) -> Outcome<()> {
        if self.scenario.session.hold {
            let settle = self.scenario.session.settle_seconds;
            self.await_phase(Phase::Running, settle)?;
            let expect = &self.scenario.expect;
            if expect.oracle || !expect.paths.is_empty() {
                self.await_paths()?;
            }
            self.note_pairs();
            if expect.agreed {
                let wrong = self.disagreements()?;
                self.verdict.wrong.extend(wrong);
            }
            self.await_standing()?;
            let seen = hidden::at_relays(self.scenario, &mut self.stage);
            self.verdict.wrong.extend(seen);
            fs::write(self.stage.over(), "").during("ending the program")?;
        }
        while !self.all(|p| p.ended().is_some()) && !self.over() {
            self.sleep()?;
        }
        if !self.scenario.session.hold {
            self.note_pairs();
        }
        let readies = self
            .stage
            .parties
            .iter()
            .map(|p| p.process.as_ref()?.reached(Phase::Ready));
        let last = readies
            .collect::<Option<Vec<_>>>()
            .and_then(|r| r.into_iter().max());
        self.verdict.usable = last.map(|at| at - self.begun);
        Ok(())
    }

    /// Paths become better over time: waits until they are as expected, or time is over.
    fn await_paths(&mut self) -> Outcome<()> {
        // The end needs some time too.
        let patience = self
            .deadline
            .duration_since(Instant::now().min(self.deadline))
            / 2;
        let until = Instant::now() + patience;
        while Instant::now() < until && !self.all(|p| p.ended().is_some()) {
            self.note_pairs();
            if self.wrong_paths().is_empty() {
                self.tell("every pair is as expected");
                break;
            }
            self.sleep()?;
        }
        Ok(())
    }

    /// Waits until `status` says what is expected of how messages are exchanged, and of who relays.
    fn await_standing(&mut self) -> Outcome<()> {
        let expect = &self.scenario.expect;
        if expect.overlay.is_empty() && expect.serving.is_none() {
            return Ok(());
        }
        let until = Instant::now() + STANDING_PATIENCE;
        loop {
            let wrong = self.wrong_standing()?;
            if wrong.is_empty() || Instant::now() > until || self.over() {
                self.verdict.wrong.extend(wrong);
                return Ok(());
            }
            for _ in 0..10 {
                self.sleep()?;
            }
        }
    }

    fn wrong_standing(&self) -> Outcome<Vec<String>> {
        let names: Vec<&String> = self.stage.parties.iter().map(|p| &p.name).collect();
        let place = |name: &str| names.iter().position(|n| *n == name);
        let expect = &self.scenario.expect;
        let mut wrong = Vec::new();
        for name in &names {
            let status = self.stage.status(name)?;
            let list = |member| status.get(member).and_then(Value::as_array);
            if let Some(expected) = &expect.serving {
                let parties = list("parties").into_iter().flatten();
                let serving = parties.filter(|p| p.get("relays").is_some());
                let serving = serving.filter_map(|p| p.get("name")?.as_str());
                let serving: Vec<&str> = serving.collect();
                if serving != *expected {
                    wrong.push(format!("status of {name}: {serving:?} relay for others"));
                }
            }
            for (pair, expected) in &expect.overlay {
                let ends: Vec<Option<usize>> = pair.split_whitespace().map(place).collect();
                if !ends.contains(&place(name)) {
                    continue;
                }
                let end = |link: &Value, of| {
                    let index = link.get(of).and_then(Value::as_u64)?;
                    usize::try_from(index).ok()
                };
                let is_pair = |link: &&Value| {
                    let both = [end(link, "a"), end(link, "b")];
                    both.iter().all(|e| ends.contains(e))
                };
                let link = list("links").into_iter().flatten().find(is_pair);
                let word = link.and_then(|l| l.get("overlay")?.as_str());
                if word != Some(expected) {
                    wrong.push(format!("status of {name}: {pair}: messages go {word:?}"));
                }
            }
        }
        Ok(wrong)
    }

    fn note_pairs(&mut self) {
        let parties = &self.stage.parties;
        let paths = parties
            .iter()
            .map(|p| p.process.as_ref().map(Process::paths).unwrap_or_default());
        let paths: Vec<_> = paths.collect();
        let to = |from: usize, to: usize| {
            let key = u64::try_from(to).unwrap_or_default();
            paths[from].get(&key).cloned().unwrap_or_default()
        };
        let mut pairs = Vec::new();
        for i in 0..parties.len() {
            for j in i + 1..parties.len() {
                let names = [parties[i].name.clone(), parties[j].name.clone()];
                pairs.push(Pair {
                    oracle: self.scenario.lab.reach(&names[0], &names[1]),
                    by_tcp: self.scenario.lab.meets_by_tcp(&names[0], &names[1]),
                    paths: [to(i, j), to(j, i)],
                    names,
                });
            }
        }
        self.verdict.pairs = pairs;
    }

    /// Pairs of which the two ends show different words in `status --json`.
    fn disagreements(&self) -> Outcome<Vec<String>> {
        let mut said: BTreeMap<(u64, u64), BTreeSet<String>> = BTreeMap::new();
        for party in &self.stage.parties {
            for link in self.stage.links(&party.name)? {
                let end = |name| link.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX);
                let path = link.get("path").and_then(Value::as_str).unwrap_or_default();
                let via = link.get("via").and_then(Value::as_str).unwrap_or_default();
                let words = said.entry((end("a"), end("b"))).or_default();
                words.insert(format!("{path} {via}"));
            }
        }
        let differ = said.iter().filter(|(_, words)| words.len() > 1);
        let differ = differ.map(|((a, b), words)| format!("status of {a}–{b} differs: {words:?}"));
        let m = self.stage.parties.len();
        let expected = m * (m - 1) / 2;
        let missing = (said.len() != expected)
            .then(|| format!("status shows {} pairs of {expected}", said.len()));
        Ok(differ.chain(missing).collect())
    }

    fn wrong_paths(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for pair in &self.verdict.pairs {
            let shown = |expected: &str| {
                let [(a, why_a), (b, why_b)] = &pair.paths;
                let [one, other] = &pair.names;
                format!(
                    "{one}–{other}: expected {expected}, {one} says `{a}` ({why_a}), {other} says `{b}` ({why_b})"
                )
            };
            if self.scenario.expect.oracle && !pair.holds() {
                let expected = pair.oracle.map(|r| r.to_string()).unwrap_or_default();
                wrong.push(shown(&expected));
            }
            let [a, b] = &pair.names;
            let paths = &self.scenario.expect.paths;
            let expected = paths
                .get(&format!("{a} {b}"))
                .or_else(|| paths.get(&format!("{b} {a}")));
            if let Some(expected) = expected {
                let (path, why) = match expected.split_once(", ") {
                    Some((path, why)) => (path, Some(why)),
                    None => (expected.as_str(), None),
                };
                let fits = |(word, reason): &(String, String)| {
                    word.starts_with(path) && why.is_none_or(|why| why == reason)
                };
                if !pair.paths.iter().all(fits) {
                    wrong.push(shown(expected));
                }
            }
        }
        wrong
    }

    fn judge(&mut self, capture: &Path) {
        let mut wrong = self.wrong_paths();
        let expect = &self.scenario.expect;
        let mut last_end = self.begun;
        let mut outcomes = Vec::new();
        for party in &mut self.stage.parties {
            let name = &party.name;
            let Some(process) = &mut party.process else {
                wrong.push(format!("{name} was never started"));
                continue;
            };
            let Some((status, at)) = process.ended() else {
                wrong.push(format!(
                    "{name} has not ended; its last words:\n      {}",
                    process.last_words(4).join("\n      ")
                ));
                continue;
            };
            last_end = last_end.max(at);
            if process.was_killed() {
                continue;
            }
            outcomes.push(status.success());
            let fits = match expect.outcome {
                End::Finished => status.success(),
                End::Aborted => !status.success(),
                End::Either => true,
            };
            if !fits {
                let said = process.last_words(4).join("\n      ");
                wrong.push(format!("{name} ended with {status}:\n      {said}"));
            }
            let codes = process.codes();
            let named = expect.codes.is_empty() || expect.codes.iter().any(|c| codes.contains(c));
            if !status.success() && !named {
                wrong.push(format!(
                    "{name} names {codes:?}, none of {:?}",
                    expect.codes
                ));
            }
            if expect.exit.is_some_and(|code| status.code() != Some(code)) {
                wrong.push(format!("{name} ended with {status}"));
            }
            let unsaid = expect.says.iter().filter(|words| !process.said(words));
            wrong.extend(unsaid.map(|words| {
                let last = process.last_words(4).join("\n      ");
                format!("{name} does not say `{words}`:\n      {last}")
            }));
            if status.success() {
                let stdout = process.stdout();
                if let Some(output) = expect.output.as_ref().filter(|o| !stdout.contains(*o)) {
                    wrong.push(format!("{name} prints no `{output}`: {stdout}"));
                }
                wrong.extend(pause(name, &stdout, expect.pause_seconds));
            }
        }
        if outcomes.windows(2).any(|w| w[0] != w[1]) {
            wrong.push("some finished and some did not".into());
        }
        if let Some(fault) = self.last_fault.filter(|_| expect.end_seconds > 0.0) {
            let taken = last_end.saturating_duration_since(fault).as_secs_f64();
            if taken > expect.end_seconds {
                wrong.push(format!("the end came {taken:.1} s after the last fault"));
            }
        }
        wrong.extend(self.forwarded_wrongly());
        wrong.extend(hidden::on_lines(self.scenario, &self.stage, capture));
        self.verdict.wrong.extend(wrong);
        let states: Vec<String> = self.stage.parties.iter().map(said).collect();
        for state in &states {
            self.tell(state);
        }
    }

    /// What routers did that they were not to do: ports that nobody should have asked for, or that were not given back.
    fn forwarded_wrongly(&mut self) -> Vec<String> {
        let mappers = self.stage.lab.mappers();
        let granted: Vec<(String, usize)> = mappers
            .map(|(site, mapper)| (site.to_owned(), mapper.granted()))
            .collect();
        for (site, ports) in &granted {
            self.tell(&format!("{site}'s router forwarded {ports} ports"));
        }
        let any = granted.iter().any(|(_, ports)| *ports > 0);
        let mut wrong = Vec::new();
        if self
            .scenario
            .expect
            .forwarded
            .is_some_and(|expected| expected != any)
        {
            wrong.push(format!("routers forwarded: {granted:?}"));
        }
        let mut parties = self.stage.parties.iter();
        // Who was killed could not give anything back.
        if parties.any(|p| p.process.as_ref().is_some_and(Process::was_killed)) {
            return wrong;
        }
        for (site, mapper) in self.stage.lab.mappers() {
            let held = mapper.held().into_iter();
            wrong.extend(held.map(|what| format!("{site}'s router still forwards {what}")));
        }
        wrong
    }
}

fn said(party: &super::stage::Party) -> String {
    let mut text = party.name.clone();
    if let Some(process) = &party.process {
        let _ = write!(text, ": {}", process.stdout().lines().last().unwrap_or("–"));
    }
    text
}

/// The longest round that the program of `hold` tells, if it is too long.
fn pause(name: &str, stdout: &str, most: f64) -> Option<String> {
    let after = stdout.split("longest round ").nth(1)?;
    let seconds: f64 = after.split(' ').next()?.parse().ok()?;
    (most > 0.0 && seconds > most).then(|| format!("{name} stood still for {seconds} s"))
}

/// Copies what is left of a scenario to where it stays.
pub fn save(folder: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to).during(to.display())?;
    for entry in fs::read_dir(folder).during(folder.display())?.flatten() {
        let (from, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "homes" {
            continue; // Keys stay where they were made.
        }
        if from.is_dir() {
            save(&from, &target)?;
        } else if from.is_file() {
            fs::copy(&from, &target).during(from.display())?;
        }
    }
    Ok(())
}
