//! Reading a guide: its blocks as steps, its lines as patterns.

use std::collections::BTreeMap;

/// One thing to do or to see.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Put this into a file, on one machine or on all.
    File {
        name: String,
        machine: Option<String>,
        content: String,
    },
    /// Type a command into the shell.
    Command { machine: String, command: String },
    /// See a line, and type an answer to it.
    Line {
        machine: String,
        expectation: Expectation,
    },
    /// Press Ctrl-C.
    Interrupt { machine: String },
    /// Hand a file to others.
    Send {
        from: String,
        file: String,
        to: Vec<String>,
    },
    /// What time or an attacker makes of a file, as no command does.
    Prepare {
        how: String,
        machine: String,
        from: String,
        to: String,
    },
    /// Nothing that a terminal shows, so far, has this text in it.
    Never { machine: String, text: String },
}

/// The line that says which file goes from whom to whom.
fn sending(line: &str) -> Option<Step> {
    let (from, rest) = line.strip_prefix("**")?.split_once(" → send `")?;
    let (file, rest) = rest.split_once("` to ")?;
    let to = rest.trim_end_matches(['*', '.']).replace(" and ", ", ");
    Some(Step::Send {
        from: from.into(),
        file: file.into(),
        to: to.split(", ").map(str::to_owned).collect(),
    })
}

/// `<!-- HOW on MACHINE: FROM → TO -->`
fn preparation(line: &str) -> Option<Step> {
    let (how, rest) = line.strip_prefix("<!-- ")?.split_once(" on ")?;
    let (machine, rest) = rest.strip_suffix(" -->")?.split_once(": ")?;
    let (from, to) = rest.split_once(" → ")?;
    Some(Step::Prepare {
        how: how.into(),
        machine: machine.into(),
        from: from.into(),
        to: to.into(),
    })
}

/// `<!-- never on MACHINE: TEXT -->`
fn absence(line: &str) -> Option<Step> {
    let rest = line.strip_prefix("<!-- never on ")?;
    let (machine, text) = rest.strip_suffix(" -->")?.split_once(": ")?;
    Some(Step::Never {
        machine: machine.into(),
        text: text.into(),
    })
}

/// A line that has to appear, and what is typed then.
#[derive(Debug, PartialEq)]
pub struct Expectation {
    pub text: String,
    pub typed: Option<String>,
}

/// What a guide asks of people.
#[derive(Debug)]
pub struct Spent {
    pub commands: usize,
    pub consents: usize,
    pub messages: usize,
}

/// A prompt: `machine$ command`, or `machine2$ command` in another terminal of it.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (machine, command) = line.split_once("$ ")?;
    let host = host_of(machine);
    let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase());
    plain.then_some((machine, command))
}

/// The machine that a terminal belongs to.
pub fn host_of(terminal: &str) -> &str {
    terminal.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// The steps of all blocks, in the order of the text.
pub fn steps(guide: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            let step = sending(line).or_else(|| absence(line));
            steps.extend(step.or_else(|| preparation(line)));
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let words: Vec<&str> = kind.split_whitespace().collect();
        let value = |key: &str| {
            let found = words.iter().find_map(|w| w.strip_prefix(key));
            found.map(str::to_owned)
        };
        if let Some(name) = value("file=") {
            let content = format!("{}\n", block.join("\n"));
            let machine = value("on=");
            steps.push(Step::File {
                name,
                machine,
                content,
            });
        } else if words.first() == Some(&"console") {
            read_console(words.get(1).copied(), &block, &mut steps);
        }
    }
    steps
}

fn read_console(machine: Option<&str>, block: &[&str], steps: &mut Vec<Step>) {
    let mut machine = machine.map(str::to_owned);
    let mut block = block.iter().peekable();
    while let Some(line) = block.next() {
        if let Some((on, command)) = prompt(line) {
            let mut command = command.to_owned();
            // A backslash at the end goes on in the next line, as in a shell.
            while command.ends_with('\\') {
                command.pop();
                command.push_str(block.next().expect("a line after a backslash").trim_start());
            }
            machine = Some(on.to_owned());
            let machine = on.to_owned();
            steps.push(Step::Command { machine, command });
            continue;
        }
        let machine = machine.clone().expect("a console block names its machine");
        if line.starts_with("^C") {
            steps.push(Step::Interrupt {
                machine: machine.clone(),
            });
            // The terminal shows the key, and behind it what the program says.
            if *line != "^C" {
                let expectation = Expectation::read(line);
                steps.push(Step::Line {
                    machine,
                    expectation,
                });
            }
        } else if !line.trim().is_empty() && line.trim() != "…" {
            let expectation = Expectation::read(line);
            steps.push(Step::Line {
                machine,
                expectation,
            });
        }
    }
}

/// Counts commands, answers to questions and messages: a message is a line that says `→ send`.
pub fn spent(guide: &str, steps: &[Step]) -> Spent {
    let commands = steps.iter().filter(|s| matches!(s, Step::Command { .. }));
    let consents = steps
        .iter()
        .filter(|s| matches!(s, Step::Line { expectation, .. } if expectation.typed.is_some()));
    Spent {
        commands: commands.count(),
        consents: consents.count(),
        messages: guide.lines().filter(|l| l.contains("→ send")).count(),
    }
}

impl Expectation {
    fn read(line: &str) -> Self {
        let Some(asked) = line.strip_suffix('⏎') else {
            return Self {
                text: line.trim().to_owned(),
                typed: None,
            };
        };
        let (question, answer) = asked
            .rsplit_once("  ")
            .expect("two spaces between a question and its answer");
        Self {
            text: question.trim().to_owned(),
            typed: Some(answer.trim().to_owned()),
        }
    }

    /// Where the first match in `shown` ends. A question need not end its line.
    pub fn find(&self, shown: &str, names: &mut Names) -> Option<usize> {
        let mut start = 0;
        for line in shown.split_inclusive('\n') {
            let complete = line.ends_with('\n');
            let wanted = complete || self.typed.is_some();
            if wanted && names.matches(&self.text, line, self.typed.is_none()) {
                return Some(start + line.len());
            }
            start += line.len();
        }
        None
    }
}

/// Tickets and DIDs of this run by the ones that the guide shows.
#[derive(Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// A command or a file with this run's names in it. The longest come first: an address has the name of a relay in it.
    pub fn fill(&self, text: &str) -> String {
        let mut filled = text.to_owned();
        let mut names: Vec<_> = self.0.iter().collect();
        names.sort_by_key(|(shown, _)| std::cmp::Reverse(shown.len()));
        for (shown, actual) in names {
            filled = filled.replace(shown, actual);
        }
        filled
    }

    /// Whether `line` is what the guide's `pattern` says; learns its names if so.
    fn matches(&mut self, pattern: &str, line: &str, whole: bool) -> bool {
        let mut learnt = self.0.clone();
        let wanted: Vec<&str> = pattern.split_whitespace().collect();
        let there: Vec<&str> = line.split_whitespace().collect();
        let matched = match_words(&wanted, &there, whole, &mut learnt);
        if matched {
            self.0 = learnt;
        }
        matched
    }
}

fn match_words(
    wanted: &[&str],
    there: &[&str],
    whole: bool,
    names: &mut BTreeMap<String, String>,
) -> bool {
    let Some((first, rest)) = wanted.split_first() else {
        return there.is_empty() || !whole;
    };
    if *first == "…" {
        return (0..=there.len()).any(|skip| {
            let mut tried = names.clone();
            let found = match_words(rest, &there[skip..], whole, &mut tried);
            if found {
                *names = tried;
            }
            found
        });
    }
    let Some((word, others)) = there.split_first() else {
        return false;
    };
    match_word(first, word, names) && match_words(rest, others, whole, names)
}

/// Words that name something of this run alone.
const NAMES: &[&str] = &[
    "qrt1",
    "did:key:",
    "https://quorate.org/",
    "/ip4/",
    "12D3KooW",
];

fn match_word(wanted: &str, there: &str, names: &mut BTreeMap<String, String>) -> bool {
    if let Some((wanted, there)) = wanted.strip_prefix('(').zip(there.strip_prefix('(')) {
        return match_word(wanted, there, names);
    }
    if let Some((wanted, there)) = wanted.strip_suffix(')').zip(there.strip_suffix(')')) {
        return match_word(wanted, there, names);
    }
    if let Some(kind) = NAMES.iter().find(|kind| wanted.starts_with(**kind)) {
        return there.starts_with(kind)
            && same_way(wanted, there)
            && names
                .entry(wanted.to_owned())
                .or_insert_with(|| there.to_owned())
                == there;
    }
    let mut pieces = wanted.split('…').map(shape);
    let there = shape(there);
    let Some(first) = pieces.next() else {
        return there.is_empty();
    };
    let Some(mut rest) = there.strip_prefix(&first) else {
        return false;
    };
    let mut last = None;
    for piece in pieces {
        let Some(at) = rest.find(&piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
        last = Some(piece);
    }
    rest.is_empty() || last.is_some_and(|piece| piece.is_empty())
}

/// Whether two addresses of relays have the same protocols.
fn same_way(wanted: &str, there: &str) -> bool {
    let ways = wanted.split_once("/p2p/").zip(there.split_once("/p2p/"));
    ways.is_none_or(|((wanted, _), (there, _))| {
        wanted.contains('…') || shape(wanted) == shape(there)
    })
}

/// A word without its numbers: `1.25` and `980` are both `0`.
fn shape(word: &str) -> String {
    let mut shape = String::new();
    for c in word.chars() {
        let number = c.is_ascii_digit();
        let inside = matches!(c, '.' | ':' | ',') && shape.ends_with('0');
        if number && !shape.ends_with('0') {
            shape.push('0');
        } else if !number && !inside {
            shape.push(c);
        }
    }
    shape
}

#[test]
fn lines_match_but_for_numbers_names_and_dots() {
    let mut names = Names::default();
    assert!(names.matches(
        "finished 38 s · receipts 3/3",
        "  finished   7 s · receipts 3/3\n",
        true
    ));
    assert!(!names.matches("finished 38 s", "finished 38 s more", true));
    assert!(names.matches("mesh … local", "mesh a–b 1.2 ms local", true));
    assert!(names.matches("quorate join qrt1abc", "quorate join qrt1xyz", true));
    assert!(!names.matches("join qrt1abc", "join qrt1other", true));
    assert_eq!(
        names.fill("quorate join qrt1abc --x"),
        "quorate join qrt1xyz --x"
    );
    assert!(names.matches("relay 12D3KooWa", "relay 12D3KooWz", true));
    assert!(names.matches(
        "address /ip4/1/p2p/12D3KooWa",
        "address /ip4/2/p2p/12D3KooWz",
        true
    ));
    assert!(!names.matches(
        "/ip4/1/tcp/1/p2p/12D3KooWa",
        "/ip4/1/udp/1/p2p/12D3KooWz",
        true
    ));
    assert_eq!(
        names.fill("check /ip4/1/p2p/12D3KooWa"),
        "check /ip4/2/p2p/12D3KooWz"
    );
    assert!(names.matches("sha256 4be7…91c0", "sha256 4be7…91c0", true));
    assert!(names.matches("kept…", "kept-in-a-folder", true));
    assert!(!names.matches("error: x", "error: y", true));
}

#[test]
fn blocks_become_steps() {
    let guide = "text\n<!-- never on bo: did: -->\n```console\nbo$ quorate join \\\n  x\n  invitation  a\nTake part? [y]es / [n]o  y⏎\n^C\nbo2$ true\n```\n```csv file=a.csv on=bo\n1\n```\n";
    let steps = steps(guide);
    let machine = || "bo".to_owned();
    let line = |text: &str, typed: Option<&str>| Step::Line {
        machine: machine(),
        expectation: Expectation {
            text: text.into(),
            typed: typed.map(str::to_owned),
        },
    };
    assert_eq!(
        steps,
        [
            Step::Never {
                machine: machine(),
                text: "did:".into()
            },
            Step::Command {
                machine: machine(),
                command: "quorate join x".into()
            },
            line("invitation  a", None),
            line("Take part? [y]es / [n]o", Some("y")),
            Step::Interrupt { machine: machine() },
            Step::Command {
                machine: "bo2".into(),
                command: "true".into()
            },
            Step::File {
                name: "a.csv".into(),
                machine: Some(machine()),
                content: "1\n".into()
            },
        ]
    );
    assert_eq!(spent(guide, &steps).consents, 1);
    assert_eq!(host_of("bo2"), "bo");
}
