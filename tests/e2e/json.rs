//! What `--json` prints is what the schemas of `schemas/v1` say: real commands, a whole run, refusals.

use crate::world::{Ended, Running, World, output, program};
use jsonschema::{Registry, Validator};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/v1")
}

/// A validator per schema, by `$id`.
pub struct Schemas(BTreeMap<String, Validator>);

impl Schemas {
    pub fn load() -> Self {
        let files = fs::read_dir(folder()).unwrap().flatten().map(|f| f.path());
        let files = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let schemas: Vec<Value> = files
            .map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
            .collect();
        let id = |schema: &Value| schema["$id"].as_str().unwrap().to_owned();
        let registry = schemas
            .iter()
            .fold(Registry::new(), |registry, schema| {
                registry.add(id(schema), schema.clone()).unwrap()
            })
            .prepare()
            .unwrap();
        let build = |schema: &Value| {
            let options = jsonschema::options().with_registry(&registry);
            (id(schema), options.build(schema).unwrap())
        };
        Self(schemas.iter().map(build).collect())
    }

    /// One printed object: it names its schema, and fits it.
    #[track_caller]
    pub fn fits(&self, text: &str) -> Value {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let name = value["schema"]
            .as_str()
            .unwrap_or_else(|| panic!("it names no schema: {text}"));
        let schema = self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("there is no {name}"));
        if let Err(why) = schema.validate(&value) {
            panic!(
                "{name} at {:?}: {why}\n{value:#}",
                why.instance_path().to_string()
            );
        }
        value
    }

    /// Every line of a stream that quorate wrote.
    #[track_caller]
    fn lines(&self, text: &str) -> Vec<Value> {
        text.lines().map(|line| self.fits(line)).collect()
    }
}

/// Names of schemas that the program's sources name.
fn named(folder: &Path, names: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).unwrap().flatten().map(|f| f.path()) {
        if path.is_dir() {
            named(&path, names);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let after = text.split("schema(\"").skip(1);
            names.extend(after.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
}

#[test]
fn every_schema_that_the_program_names_is_there() {
    let mut names = BTreeSet::new();
    named(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut names,
    );
    assert!(names.len() >= 6, "{names:?}");
    for name in names {
        let file = folder().join(format!("{name}.schema.json"));
        assert!(file.exists(), "there is no {}", file.display());
    }
}

fn run(mut command: Command) -> Ended {
    command.arg("--json");
    output(command)
}

/// The name of an object's schema, without where it begins and ends.
fn name(value: &Value) -> &str {
    let id = value["schema"].as_str().unwrap();
    id.rsplit('/').next().unwrap().trim_end_matches(".json")
}

#[test]
fn reports_of_commands_fit_their_schemas() {
    let (schemas, world) = (Schemas::load(), World::three());
    let file = world.invite("secretsanta", &["4"]);
    let commands: &[(&str, &[&str])] = &[
        ("version", &["version"]),
        ("identity", &["id", "show"]),
        ("identity", &["id"]),
        ("contacts", &["contacts", "list"]),
        ("verification", &["verify"]),
        ("sessions", &["again", "--list"]),
        ("clean", &["clean", "--dry-run"]),
    ];
    for (wanted, args) in commands {
        let mut command = world.quorate(0);
        command.args(*args);
        if *wanted == "verification" {
            command.arg(&file);
        }
        let ended = run(command);
        ended.assert_done();
        let report = schemas.fits(&ended.stdout);
        assert_eq!(name(&report), *wanted);
        schemas.lines(&ended.stderr);
    }
}

#[test]
fn refusals_fit_their_schema_and_end_with_the_exit_code_they_name() {
    let (schemas, world) = (Schemas::load(), World::three());
    let file = world.invite("secretsanta", &["4"]);
    let cut = world.path("cut.quorate");
    fs::write(&cut, &fs::read(&file).unwrap()[..200]).unwrap();
    let command = |index: usize, args: &[&str], file: Option<&Path>| {
        let mut command = world.quorate(index);
        command.args(args).args(file);
        command
    };
    let missing = world.path("nothing.quorate");
    let other = program("marker.py");
    let mut changed = world.join(1, &file);
    changed.arg("--program").arg(other);
    let cases = [
        command(1, &["verify"], Some(&cut)),
        command(1, &["verify"], Some(&missing)),
        command(1, &["join", "--local", "-y"], Some(&cut)),
        command(1, &["join", "--local"], Some(&file)),
        command(1, &["id", "import"], Some(&cut)),
        command(0, &["contacts", "remove", "nobody"], None),
        changed,
    ];
    let mut codes = BTreeSet::new();
    for case in cases {
        let shown = format!("{case:?}");
        let ended = run(case);
        let lines = schemas.lines(&ended.stderr);
        let last = lines.last().unwrap_or_else(|| panic!("{shown}: {ended:?}"));
        assert_eq!(name(last), "error", "{shown}");
        assert_eq!(last["exit"].as_i64(), ended.code.map(i64::from), "{shown}");
        assert!(ended.stdout.is_empty(), "{shown}: {}", ended.stdout);
        codes.insert(last["code"].as_str().unwrap().to_owned());
    }
    assert!(codes.len() >= 4, "{codes:?}");
}

/// What the parties of a run print, with the kinds of events.
fn events(schemas: &Schemas, joined: Vec<Running>) -> (Vec<Ended>, BTreeSet<String>) {
    let ended: Vec<Ended> = joined.into_iter().map(Running::end).collect();
    let mut kinds = BTreeSet::new();
    for one in &ended {
        for line in schemas.lines(&one.stderr) {
            kinds.insert(line["event"].as_str().unwrap().to_owned());
        }
    }
    (ended, kinds)
}

#[test]
fn the_events_of_a_whole_run_fit_their_schema() {
    let (schemas, world) = (Schemas::load(), World::three());
    let file = world.invite("secretsanta", &["4"]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--json");
    });
    let (ended, kinds) = events(&schemas, joined);
    ended.iter().for_each(Ended::assert_done);
    for kind in [
        "session", "state", "party", "path", "roster", "mesh", "program", "receipts", "ended",
    ] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
}

#[test]
fn the_events_of_a_failed_run_fit_their_schema() {
    let (schemas, world) = (Schemas::load(), World::three());
    let failing = world.path("fails.py");
    fs::write(
        &failing,
        "import sys\nfrom mpyc.runtime import mpc\nmpc.run(mpc.start())\nsys.exit(3)\n",
    )
    .unwrap();
    let file = world.invite(failing.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--json").arg("--program").arg(&failing);
    });
    let (ended, kinds) = events(&schemas, joined);
    for one in &ended {
        assert_eq!(one.code, Some(75), "{}", one.stderr);
    }
    assert!(kinds.contains("error"), "{kinds:?}");
}

#[test]
fn a_first_contact_is_told_as_events_that_fit() {
    let (schemas, world) = (Schemas::load(), World::three());
    let mut invite = world.quorate(0);
    invite
        .args([
            "--json",
            "invite",
            "mpyc:secretsanta",
            "--seats",
            "3",
            "--admit",
            "all",
        ])
        .args(["--me", "Noord", "--local", "--python"])
        .arg(crate::world::python());
    let inviter = Running::start(invite);
    let whole = |line: &str| line.contains("\"event\":\"ticket\"") && line.ends_with('}');
    crate::world::eventually("the ticket's line is printed", || {
        inviter.stderr.text().lines().any(whole)
    });
    let text = inviter.stderr.text();
    let line = text
        .lines()
        .find(|l| l.contains("\"event\":\"ticket\""))
        .unwrap();
    let ticket = schemas.fits(line)["ticket"].as_str().unwrap().to_owned();
    let joining = [1, 2].map(|index| {
        let mut join = world.join(index, Path::new(&ticket));
        join.args(["--json", "--me", &world.names[index]]);
        Running::start(join)
    });
    let told = |ended: &Ended| {
        ended.assert_done();
        let lines = schemas.lines(&ended.stderr);
        let events = lines
            .iter()
            .map(|l| l["event"].as_str().unwrap().to_owned());
        events.collect::<BTreeSet<_>>()
    };
    let events = told(&inviter.end());
    for event in [
        "ticket",
        "applied",
        "seated",
        "invitation",
        "session",
        "roster",
        "contacts",
    ] {
        assert!(events.contains(event), "{event} was not told: {events:?}");
    }
    for party in joining {
        let events = told(&party.end());
        for event in [
            "found",
            "call",
            "asked",
            "admitted",
            "invitation",
            "session",
            "roster",
        ] {
            assert!(events.contains(event), "{event} was not told: {events:?}");
        }
    }
}

#[test]
fn status_fits_its_schema_in_every_state_and_after_the_end() {
    let (schemas, world) = (Schemas::load(), World::three());
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let join = |index: usize| {
        let mut command = world.join(index, &file);
        command.arg("--program").arg(&slow);
        Running::start(command)
    };
    let status = |index: usize, args: &[&str]| {
        let mut command = world.quorate(index);
        command.arg("status").args(args);
        let ended = run(command);
        ended.assert_done();
        schemas.lines(&ended.stdout)
    };
    assert!(status(0, &[]).is_empty());
    let first = join(0);
    first.stderr.wait_for("reachable");
    crate::world::eventually("the session can be asked", || !status(0, &[]).is_empty());
    assert_eq!(status(0, &[])[0]["state"], "open");
    let others = [join(1), join(2)];
    for party in others.iter().chain([&first]) {
        party.stdout.wait_for("first round done");
    }
    let running = status(0, &[]);
    assert_eq!(running[0]["state"], "running");
    assert_eq!(running[0]["links"].as_array().unwrap().len(), 2);
    let mut watch = world.quorate(1);
    watch.args(["status", "--watch", "--json"]);
    let watch = Running::start(watch);
    crate::world::eventually("the watch has begun", || watch.stdout.text().contains('\n'));
    let mut leave = world.quorate(2);
    leave.arg("leave");
    run(leave).assert_done();
    let watched = schemas.lines(&watch.end().stdout);
    assert_eq!(watched.last().unwrap()["end"]["code"], "E_LEFT");
    for party in others.into_iter().chain([first]) {
        schemas_of_error(&party.end());
    }
    for index in 0..3 {
        let ended = status(index, &[]);
        assert_eq!(ended[0]["state"], "clean", "{ended:?}");
        assert!(
            ended[0]["end"]["exit"]
                .as_u64()
                .is_some_and(|exit| exit > 0)
        );
    }
}

/// A party that was left.
fn schemas_of_error(ended: &Ended) {
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
}

#[test]
fn receipts_and_records_fit_their_schemas() {
    let (schemas, world) = (Schemas::load(), World::three());
    let file = world.invite("secretsanta", &["3"]);
    let ended: Vec<Ended> = world
        .all_join(&file, |_, _| {})
        .into_iter()
        .map(Running::end)
        .collect();
    ended.iter().for_each(Ended::assert_done);
    let receipt = |args: &[&str]| {
        let mut command = world.quorate(1);
        command.arg("receipt").args(args);
        let ended = run(command);
        ended.assert_done();
        ended.stdout
    };
    let list = schemas.fits(&receipt(&["list"]));
    assert_eq!(name(&list), "records");
    let listed = list["records"].as_array().unwrap();
    assert_eq!(listed.len(), 1);
    let digest = listed[0]["session"].as_str().unwrap().to_owned();
    let shown = schemas.fits(&receipt(&["show", &digest]));
    assert_eq!(name(&shown), "verification");
    // The record is a text of its own: canonical JSON that names no schema.
    let record: Value =
        serde_json::from_str(&receipt(&["export", &digest, "--format", "json"])).unwrap();
    let schema = &schemas.0["https://quorate.org/schemas/v1/record.json"];
    assert!(schema.validate(&record).is_ok(), "{record:#}");
}
