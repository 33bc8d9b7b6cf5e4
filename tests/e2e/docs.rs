//! The documents say what the program does.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use quorate_identity::Code;

use crate::world::{QUORATE, World, output, python};

fn read(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).unwrap()
}

/// The lines of the `console` block that begins with this command.
fn transcript(document: &str, command: &str) -> Vec<String> {
    let start = format!("```console\n$ {command}\n");
    let mut blocks = document.split(&start).skip(1);
    let block = blocks
        .find(|block| !block.starts_with(['$', '`']))
        .expect("the transcript is there");
    let block = block.split("\n```").next().unwrap();
    block.lines().map(str::to_owned).collect()
}

/// A line without what differs from run to run: DIDs, addresses, digests, times and numbers of bytes.
fn shape(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let varies = word.starts_with("did:key:")
            || word.starts_with("/ip4/")
            || word.ends_with('…')
            || word.parse::<f64>().is_ok()
            || word.len() == 43;
        if varies { "~" } else { word }
    });
    words
        .collect::<Vec<_>>()
        .join(" ")
        .replace("~ kB", "~ B")
        .replace("~ s ", "~ ms ")
}

#[test]
fn the_run_in_the_readme_is_what_the_demo_prints() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(QUORATE);
    command
        .arg("--home")
        .arg(home.path())
        .args(["demo", "--python"])
        .arg(python())
        .env_remove("QUORATE_HOME");
    let ended = output(command);
    ended.assert_done();
    let written: Vec<String> = transcript(&read("README.md"), "cargo run --release -- demo")
        .iter()
        .map(|l| shape(l))
        .collect();
    for line in ended.stderr.lines().map(shape) {
        assert!(
            written.contains(&line),
            "{line:?} is not in README.md:\n{written:#?}"
        );
    }
    // The program's own lines begin with a date, or are its result.
    let quorate: BTreeSet<String> = ended.stderr.lines().map(shape).collect();
    let program = |l: &String| l.starts_with("20") || l.starts_with("~ [");
    for line in written.iter().filter(|l| !program(l)) {
        assert!(
            quorate.contains(line),
            "README.md says {line:?}, the demo does not:\n{quorate:#?}"
        );
    }
}

#[test]
fn the_join_in_the_readme_is_what_a_join_prints() {
    let world = World::three();
    let file = world.invite("secretsanta", &["4"]);
    let joined = world.all_join(&file, |_, _| {});
    let written: Vec<String> = transcript(&read("README.md"), "quorate join friday.quorate")
        .iter()
        .map(|l| shape(l))
        .collect();
    let label = |line: &str| {
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let labels: BTreeSet<String> = written.iter().map(|l| label(l)).collect();
    for party in joined {
        let ended = party.end();
        ended.assert_done();
        for line in ended
            .stderr
            .lines()
            .map(shape)
            .filter(|l| !l.starts_with("waiting"))
        {
            assert!(
                labels.contains(&label(&line)),
                "{line:?} has no line like it in README.md"
            );
        }
    }
}

#[test]
fn the_table_of_refusal_codes_is_that_of_the_code() {
    let document = read("docs/protocol.md");
    let table = document
        .split("<!-- codes:begin -->")
        .nth(1)
        .and_then(|t| t.split("<!-- codes:end -->").next());
    let rows: Vec<&str> = table
        .expect("the table is marked")
        .lines()
        .filter(|l| l.starts_with("| E_"))
        .collect();
    let expected: Vec<String> = Code::ALL
        .iter()
        .map(|c| {
            format!(
                "| {c} | {} | {} | {} |",
                c.exit_code(),
                c.meaning(),
                c.next_step()
            )
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn every_rule_that_a_refusal_names_is_in_the_protocol() {
    let document = read("docs/protocol.md");
    let mut named = BTreeSet::new();
    for name in ["quorate-identity", "quorate-session"] {
        collect_rules(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("..")
                .join(name)
                .join("src"),
            &mut named,
        );
    }
    assert!(named.len() > 20, "{named:?}");
    for rule in named {
        let forms = [
            format!("| {rule} |"),
            format!("| {rule}."),
            format!("### {rule} "),
        ];
        let there = forms.iter().any(|form| document.contains(form));
        assert!(there, "rule {rule} is not in docs/protocol.md");
    }
}

/// Texts such as `"S5"` that stand as the second argument of a refusal.
fn collect_rules(folder: &Path, named: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            collect_rules(&entry.path(), named);
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        for word in text.split('"') {
            let is_rule = word.len() >= 2
                && word.len() <= 3
                && word.starts_with(|c: char| "CDJKRSTV".contains(c))
                && word[1..].bytes().all(|b| b.is_ascii_digit());
            if is_rule {
                named.insert(word.to_owned());
            }
        }
    }
}

#[test]
fn every_limit_in_the_protocol_exists_and_every_limit_of_the_session_is_there() {
    let document = read("docs/protocol.md");
    let rows = document
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split('`').next());
    let listed: BTreeSet<&str> = rows
        .filter(|n| {
            n.bytes()
                .all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
        })
        .collect();
    let mut sources = String::new();
    collect_sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        &mut sources,
    );
    for name in &listed {
        assert!(
            sources.contains(&format!("const {name}:")),
            "{name} is no limit any more"
        );
    }
    let limits = read("crates/quorate-session/src/limits.rs");
    for name in limits
        .lines()
        .filter_map(|l| l.strip_prefix("pub const ")?.split(':').next())
    {
        assert!(listed.contains(name), "{name} is not in docs/protocol.md");
    }
}

fn collect_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            collect_sources(&entry.path(), sources);
        } else if entry.path().extension().is_some_and(|e| e == "rs") {
            sources.push_str(&fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Attacks and faults that this version answers to. Others of the catalogue need relays or did:web.
fn catalogue() -> Vec<String> {
    let attacks = (1..=33)
        .chain(41..=44)
        .chain(50..=60)
        .map(|n| format!("a{n:02}"));
    let faults = (1..=19).chain(21..=40).chain([43]);
    attacks.chain(faults.map(|n| format!("f{n:02}"))).collect()
}

#[test]
fn every_attack_and_fault_of_the_catalogue_has_a_test_named_after_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = String::new();
    for folder in ["crates", "tests"] {
        collect_sources(&root.join(folder), &mut sources);
    }
    let tests: Vec<&str> = sources
        .split("#[test]")
        .chain(sources.split("#[tokio::test"))
        .filter_map(|after| after.split_once("fn ")?.1.split('(').next())
        .collect();
    // `f01_f03_a_party_…` and `f01_to_f05_…` name several.
    let number = |word: &str| (word.len() == 3).then(|| word[1..].parse::<u8>().ok())?;
    let named = |id: &str| {
        tests.iter().any(|test| {
            let mut words = test.split('_').peekable();
            let mut last = None;
            while let Some(word) = words.next() {
                let range = word == "to";
                let word = if range {
                    words.next().unwrap_or_default()
                } else {
                    word
                };
                let (Some(from), Some(to)) = (last.or(number(word)), number(word)) else {
                    return false;
                };
                let from = if range { from } else { to };
                if word[..1] == id[..1] && number(id).is_some_and(|n| (from..=to).contains(&n)) {
                    return true;
                }
                last = Some(to);
            }
            false
        })
    };
    let missing: Vec<_> = catalogue().into_iter().filter(|id| !named(id)).collect();
    assert!(missing.is_empty(), "no test is named after {missing:?}");
}
