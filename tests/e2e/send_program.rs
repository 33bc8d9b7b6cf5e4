//! A program that comes along with its invitation: seen before it is agreed to, run as it was seen, gone afterwards.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use quorate_session::{Bundle, ProgramSource};

use crate::{
    first_contact::ticket,
    pty::{self, Terminal, shows_times},
    world::{Ended, QUORATE, Running, World, output, program, python},
};

/// Text that would clear the screen, hide a line behind a comment, and turn its direction.
const HOSTILE: &str = "# \u{1b}[2J\u{1b}[H\u{202e}fine\n";

/// A folder with a program of two files, one of them with text that tries to deceive.
fn folder(world: &World) -> PathBuf {
    let folder = world.path("joint");
    fs::create_dir(&folder).unwrap();
    let marker = fs::read_to_string(program("marker.py")).unwrap();
    let text = marker.replace("from mpyc", "import pathlib\nimport words\nfrom mpyc");
    let text = text.replace(
        "    print('all",
        "    print(words.SAID, oct(pathlib.Path(__file__).parent.stat().st_mode & 0o777))\n    print('all",
    );
    fs::write(folder.join("main.py"), text).unwrap();
    fs::write(
        folder.join("words.py"),
        format!("{HOSTILE}SAID = 'as sent'\n"),
    )
    .unwrap();
    folder
}

fn digest_of(folder: &Path) -> String {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let (main, words) = (read("main.py"), read("words.py"));
    let files = [("main.py", &main[..]), ("words.py", &words[..])];
    ProgramSource::new(files).unwrap().digest().to_string()
}

/// An `invite` of party 0 that stays on this machine.
fn invite(world: &World, program: &Path, extra: &[&str]) -> Command {
    let mut command = world.quorate(0);
    command
        .arg("invite")
        .arg(program)
        .args(["--send-program", "--local", "--me", "noord", "--python"])
        .arg(python())
        .args(extra);
    command
}

fn ran_as_sent(ended: &Ended) {
    ended.assert_done();
    for said in ["as sent 0o700", "all received True"] {
        assert!(ended.stdout.contains(said), "{}", ended.stdout);
    }
}

#[test]
fn a59_with_a_ticket_nobody_runs_a_sent_program_that_they_neither_saw_nor_know() {
    let world = World::three();
    let folder = folder(&world);
    let digest = digest_of(&folder);
    let inviter = Running::start(invite(&world, &folder, &["--seats", "3", "--admit", "all"]));
    let ticket = PathBuf::from(ticket(&inviter));
    let join = |index: usize, extra: &[&str]| {
        let mut command = world.join(index, &ticket);
        command.args(["--me", "guest"]).args(extra);
        command
    };
    let unseen = output(join(1, &[]));
    unseen.assert_refused("E_DECLINED", 74);
    assert!(unseen.stderr.contains(&digest), "{}", unseen.stderr);
    let other = format!("sha256:{}", "0".repeat(64));
    output(join(1, &["--accept-program", &other])).assert_refused("E_DECLINED", 74);
    // Who names a copy of their own gets that one judged, and never the one that came along.
    let own = program("marker.py");
    output(join(1, &["--program", own.to_str().unwrap()])).assert_refused("E_PROGRAM", 73);
    assert!(!inviter.stderr.text().contains("asks"));

    let parties = [
        Running::start(join(1, &["--accept-program", &digest])),
        Running::start(join(2, &["--program", folder.to_str().unwrap()])),
    ];
    ran_as_sent(&inviter.end());
    for party in parties {
        ran_as_sent(&party.end());
    }
    world.assert_clean();
}

/// An invitation in a file, with the program of `folder` in it.
fn to_file(world: &World, folder: &Path) -> (PathBuf, Ended) {
    let file = world.path("joint.quorate");
    let others = format!("sud={},ost={}", world.dids[1], world.dids[2]);
    let mut command = world.quorate(0);
    command
        .arg("invite")
        .arg(folder)
        .args([
            "--send-program",
            "--me",
            "noord",
            "--with",
            &others,
            "--out",
        ])
        .arg(&file);
    let written = output(command);
    written.assert_done();
    (file, written)
}

/// A person at a terminal whose pager prints.
fn person(world: &World, index: usize, words: &[&str]) -> Terminal {
    pty::person(world, index, words, ("PAGER", "cat"))
}

#[test]
fn a_person_sees_the_sent_program_before_the_question_and_as_often_as_they_like() {
    let world = World::three();
    let folder = folder(&world);
    let (file, written) = to_file(&world, &folder);
    assert!(
        written.stderr.contains("its source goes along (2 files"),
        "{}",
        written.stderr
    );

    let (python, path) = (python(), file.clone());
    let words = [
        "join",
        path.to_str().unwrap(),
        "--local",
        "--python",
        python.to_str().unwrap(),
    ];
    let mut no = person(&world, 1, &words);
    shows_times(&no, "[v]iew it again", 1);
    no.type_in("n\n");
    let (_, shown) = no.end();
    assert!(shown.contains("E_DECLINED"), "{shown}");
    assert!(shown.contains(r"\u{1b}[2J\u{1b}[H\u{202e}fine"), "{shown}");
    assert!(!shown.contains('\u{202e}'));
    let text = shown.find("SAID = 'as sent'").expect("the second file");
    let question = shown.find("Take part?").expect("the question");
    assert!(text < question && shown.find("== main.py").unwrap() < question);

    let mut yes = person(&world, 1, &words);
    shows_times(&yes, "[v]iew it again", 1);
    yes.type_in("v\n");
    shows_times(&yes, "[v]iew it again", 2);
    shows_times(&yes, "SAID = 'as sent'", 2);
    yes.type_in("y\n");
    let digest = digest_of(&folder);
    let ends: Vec<_> = [0, 2]
        .map(|index| {
            let mut command = world.join(index, &file);
            command.args(["--accept-program", &digest]);
            Running::start(command)
        })
        .into_iter()
        .map(Running::end)
        .collect();
    ends.iter().for_each(ran_as_sent);
    let (status, shown) = yes.end();
    assert!(
        status.success() && shown.contains("as sent 0o700"),
        "{shown}"
    );
    world.assert_clean();
    // Nothing of it stays on the machine of who joined.
    let kept = walk(&world.home(1));
    let names_it = |path: &PathBuf| path.ends_with("words.py");
    assert!(!kept.iter().any(names_it), "{kept:?}");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a59_a_source_that_was_changed_on_the_way_is_refused_and_verify_shows_the_right_one() {
    let world = World::three();
    let folder = folder(&world);
    let (file, _) = to_file(&world, &folder);
    let show = |file: &Path| {
        let mut command = world.quorate(1);
        command.arg("verify").arg(file).arg("--show-program");
        output(command)
    };
    let shown = show(&file);
    shown.assert_done();
    assert!(
        shown.stdout.contains("SAID = 'as sent'"),
        "{}",
        shown.stdout
    );
    assert!(!shown.stdout.contains('\u{1b}'));

    let mut bundle = Bundle::parse(&fs::read_to_string(&file).unwrap()).unwrap();
    let evil = [("main.py", &b"import os"[..]), ("words.py", &b""[..])];
    bundle.program = Some(ProgramSource::new(evil).unwrap());
    fs::write(&file, bundle.encode()).unwrap();
    show(&file).assert_refused("E_PROGRAM", 73);
    let mut command = world.join(1, &file);
    command.args(["--accept-program", &digest_of(&folder)]);
    output(command).assert_refused("E_PROGRAM", 73);
    bundle.program = None;
    fs::write(&file, bundle.encode()).unwrap();
    show(&file).assert_refused("E_PROGRAM", 73);
}

#[test]
fn a_sent_program_comes_by_post_too_and_again() {
    let world = World::new(&["noord", "sud", "ost"]);
    let folder = folder(&world);
    let digest = digest_of(&folder);
    let with = format!("sud={},ost={}", world.dids[1], world.dids[2]);
    let join = |index: usize| {
        let mut command = world.quorate(index);
        command
            .args([
                "join",
                "-y",
                "--local",
                "--from",
                &world.dids[0],
                "--accept-program",
                &digest,
            ])
            .arg("--python")
            .arg(python());
        Running::start(command)
    };
    let first = [
        Running::start(invite(&world, &folder, &["--with", &with])),
        join(1),
        join(2),
    ];
    for party in first {
        ran_as_sent(&party.end());
    }
    let mut again = world.quorate(0);
    again
        .args(["again", "--send-program", "--local", "--python"])
        .arg(python());
    let second = [Running::start(again), join(1), join(2)];
    for party in second {
        ran_as_sent(&party.end());
    }
    world.assert_clean();
}

#[test]
fn what_cannot_be_looked_at_is_not_sent() {
    let world = World::three();
    let refused = |content: &[u8], code: &str| {
        let file = world.path("large.py");
        fs::write(&file, content).unwrap();
        let ended = output(invite(&world, &file, &["--seats", "3", "--admit", "all"]));
        ended.assert_refused(code, 73);
        assert!(!ended.stderr.contains("quorate join"), "{}", ended.stderr);
        assert!(ended.stderr.contains("--send-program"), "{}", ended.stderr);
    };
    refused(&vec![b'#'; 128 * 1024], "E_LIMIT");
    refused(b"\x7fELF\xff\xfe", "E_PROGRAM");
}

#[test]
fn ctrl_c_while_the_program_is_shown_ends_the_command_and_its_pager() {
    let world = World::three();
    let folder = folder(&world);
    let (file, _) = to_file(&world, &folder);
    // As `less` does: it keeps the terminal to itself and ignores the key.
    let pager = world.path("pager");
    fs::write(
        &pager,
        "trap '' INT\nstty -echo -icanon\ncat\necho shown\nread key < /dev/tty\n",
    )
    .unwrap();
    let home = world.home(1);
    let words = [
        QUORATE,
        "--home",
        home.to_str().unwrap(),
        "join",
        file.to_str().unwrap(),
        "--local",
        "--python",
        python().to_str().unwrap(),
    ]
    .map(str::to_owned);
    let mut person = Terminal::start(&words, |command| {
        command
            .env_remove("QUORATE_HOME")
            .env("PAGER", format!("sh {}", pager.display()));
    });
    shows_times(&person, "shown", 1);
    person.type_in("\u{3}");
    let (_, text) = person.end();
    assert!(text.contains("E_INTERRUPTED"), "{text}");
    assert!(!text.contains("[v]iew"), "{text}");
    world.assert_clean();
}

#[test]
fn a_pager_that_fails_has_shown_nothing() {
    let world = World::three();
    let folder = folder(&world);
    let (file, _) = to_file(&world, &folder);
    let home = world.home(1);
    let words = [
        QUORATE,
        "--home",
        home.to_str().unwrap(),
        "join",
        file.to_str().unwrap(),
        "--local",
        "--python",
        python().to_str().unwrap(),
    ]
    .map(str::to_owned);
    let mut person = Terminal::start(&words, |command| {
        command
            .env_remove("QUORATE_HOME")
            .env("PAGER", "/nowhere/pager");
    });
    shows_times(&person, "SAID = 'as sent'", 1);
    shows_times(&person, "[v]iew it again", 1);
    person.type_in("n\n");
    assert!(person.end().1.contains("E_DECLINED"));
}
