//! What the demo shows of the parties' reports.

use quorate_identity::Code;
use serde_json::Value;

use super::parties::{Party, Plan};
use crate::{args::Global, failure::Failure, text};

/// Lines of a party's own error output that are kept for a failure.
const KEPT_LINES: usize = 20;

/// Gathers the reports of all parties into one story.
pub struct Progress {
    json: bool,
    quiet: bool,
    names: Vec<&'static str>,
    program: String,
    verified: Vec<bool>,
    meshes: Vec<Option<Vec<Value>>>,
    errors: Vec<Option<Value>>,
    ended: Vec<Option<Value>>,
    stderr: Vec<Vec<String>>,
    headlined: bool,
}

impl Progress {
    pub fn new(global: &Global, parties: &[Party], plan: &Plan) -> Self {
        let m = parties.len();
        let mut program = plan
            .builtin
            .map_or_else(|| plan.program.clone(), |b| format!("mpyc:{}", b.name));
        let defaults = plan.builtin.map_or(&[][..], |b| b.public_args);
        let args: Vec<&str> = if plan.args.is_empty() {
            defaults.to_vec()
        } else {
            plan.args.iter().map(String::as_str).collect()
        };
        for arg in args {
            program = format!("{program} {arg}");
        }
        Self {
            json: global.json,
            quiet: global.quiet,
            names: parties.iter().map(|p| p.name).collect(),
            program: text::foreign(&program),
            verified: vec![false; m],
            meshes: vec![None; m],
            errors: vec![None; m],
            ended: vec![None; m],
            stderr: vec![Vec::new(); m],
            headlined: false,
        }
    }

    pub fn identities(&self, parties: &[Party]) {
        for (index, party) in parties.iter().enumerate() {
            let label = if index == 0 { "identities" } else { "" };
            self.say(text::row(
                label,
                &format!("{:<5} {}", party.name, party.did),
            ));
        }
    }

    /// One line of a party's stderr: an event, or its program's own error output.
    pub fn line(&mut self, index: usize, line: &str) {
        let event = serde_json::from_str::<Value>(line)
            .ok()
            .filter(|v| v.get("schema").is_some());
        let Some(event) = event else {
            let kept = &mut self.stderr[index];
            if kept.len() < KEPT_LINES {
                kept.push(line.to_owned());
            }
            return;
        };
        if self.json {
            let mut event = event.clone();
            if let Value::Object(members) = &mut event {
                members.insert("party".into(), self.names[index].into());
            }
            text::say(event);
        }
        self.event(index, event);
    }

    fn event(&mut self, index: usize, event: Value) {
        match event
            .get("event")
            .and_then(Value::as_str)
            .unwrap_or_default()
        {
            // A party that waits for the others has verified the invitation and its program.
            "state" => self.accepted(index),
            "mesh" => {
                self.meshes[index] = event.get("links").and_then(Value::as_array).cloned();
                self.mesh();
            }
            "error" => self.errors[index] = Some(event),
            "ended" => self.ended[index] = Some(event),
            "refused" | "note" => {
                let detail = event
                    .get("detail")
                    .or(event.get("text"))
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                self.say(text::row(
                    "note",
                    &format!("{}: {}", self.names[index], text::foreign(detail)),
                ));
            }
            _ => {}
        }
    }

    fn accepted(&mut self, index: usize) {
        if std::mem::replace(&mut self.verified[index], true) || !self.verified.iter().all(|v| *v) {
            return;
        }
        let m = self.names.len();
        let others = self.names[1..].join(", ");
        self.say(text::row(
            "invitation",
            &format!(
                "signed by {}, accepted by {others}   verified {m}/{m}",
                self.names[0]
            ),
        ));
    }

    /// The mesh is shown once, when all parties have measured their links.
    fn mesh(&mut self) {
        if self.headlined || self.meshes.iter().any(Option::is_none) {
            return;
        }
        self.headlined = true;
        let mut pairs = Vec::new();
        for (a, links) in self.meshes.iter().flatten().enumerate() {
            for link in links {
                let b = link
                    .get("index")
                    .and_then(Value::as_u64)
                    .and_then(|b| usize::try_from(b).ok());
                let Some(b) = b.filter(|b| *b > a && *b < self.names.len()) else {
                    continue;
                };
                let rtt = link.get("rtt_us").and_then(Value::as_u64);
                let rtt = rtt.map_or_else(
                    || "?".into(),
                    |us| format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
                );
                pairs.push(format!("{}–{} {rtt}", self.names[a], self.names[b]));
            }
        }
        self.say(text::row(
            "mesh",
            &format!(
                "{}   WireGuard, userspace, no root, no open TCP port",
                pairs.join("   ")
            ),
        ));
        let m = self.names.len();
        self.say(text::row(
            "program",
            &format!("{}   threshold {} of {m}\n", self.program, (m - 1) / 2),
        ));
    }

    /// The end of the story, good or bad.
    pub fn conclude(&self, exits: &[Option<i32>]) -> Result<(), Failure> {
        if exits.iter().all(|e| *e == Some(0)) {
            self.finished();
            return Ok(());
        }
        // Who merely saw another leave has less to say than the one at fault.
        let rank = |index: &usize| match self.code(*index) {
            Some(Code::PartyLeft | Code::Left) => 3,
            Some(_) if self.blames_itself(*index) => 0,
            Some(_) => 1,
            None if exits[*index] == Some(0) => 4,
            None => 2,
        };
        let worst = (0..self.names.len()).min_by_key(rank).unwrap_or(0);
        let code = self.code(worst).unwrap_or(Code::Internal);
        let field = |name: &str| {
            self.errors[worst]
                .as_ref()
                .and_then(|e| e.get(name)?.as_str())
                .map(str::to_owned)
        };
        let detail =
            field("detail").unwrap_or_else(|| format!("its process ended with {:?}", exits[worst]));
        let mut failure = Failure::new(code, format!("{}: {detail}", self.names[worst]));
        if let Some(who) = self.errors[worst]
            .as_ref()
            .and_then(|e| e.get("notes")?.get("who")?.as_str())
        {
            failure = failure.note("who", text::foreign(who));
        }
        for line in &self.stderr[worst] {
            failure = failure.note("stderr", text::foreign(line));
        }
        Err(match field("hint") {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }

    fn blames_itself(&self, index: usize) -> bool {
        let who = self.errors[index]
            .as_ref()
            .and_then(|e| e.get("notes")?.get("who")?.as_str());
        who.is_some_and(|who| who.split(' ').next() == Some(self.names[index]))
    }

    fn code(&self, index: usize) -> Option<Code> {
        self.errors[index]
            .as_ref()?
            .get("code")?
            .as_str()?
            .parse()
            .ok()
    }

    fn finished(&self) {
        let number = |name: &str| self.ended[0].as_ref().and_then(|e| e.get(name)?.as_u64());
        let mut parts = Vec::new();
        if let Some(ms) = number("elapsed_ms") {
            parts.push(format!("in {}", text::elapsed(ms)));
        }
        if let Some(bytes) = number("bytes_sent") {
            parts.push(format!("{} sent by {}", text::bytes(bytes), self.names[0]));
        }
        let receipts = self
            .ended
            .iter()
            .flatten()
            .filter_map(|e| e.get("receipts")?.as_u64())
            .min()
            .unwrap_or(0);
        parts.push(format!("receipts {receipts}/{}", self.names.len()));
        self.say(format!("\n{}", text::row("finished", &parts.join(" · "))));
    }

    /// The last lines, once everything is removed.
    pub fn farewell(&self) {
        let m = self.names.len();
        self.say(text::row(
            "cleaned",
            &format!(
                "{m} identities, their keys, sockets and folders are removed; nothing is left"
            ),
        ));
        self.say(format_args!(
            "\nNext: do it with others   quorate id show          on each machine\n                          quorate invite {} --with NAME=DID,… --out friday.quorate",
            self.program.split(' ').next().unwrap_or("mpyc:secretsanta")
        ));
    }

    fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet && !self.json {
            text::say(line);
        }
    }
}
