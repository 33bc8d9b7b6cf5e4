//! Again: people who know each other, without tickets or files.

use std::{path::Path, process::Command, time::Duration};

use crate::{
    pty::Terminal,
    world::{Ended, QUORATE, Running, World, eventually, output, python},
};

/// A command of one person that takes part on this machine.
fn command(world: &World, index: usize, words: &[&str]) -> Command {
    let mut command = world.quorate(index);
    let end = words.iter().position(|w| *w == "--").unwrap_or(words.len());
    let (before, after) = words.split_at(end);
    command
        .args(before)
        .args(["--local", "--python"])
        .arg(python())
        .args(after);
    command
}

fn start(world: &World, index: usize, words: &[&str]) -> Running {
    Running::start(command(world, index, words))
}

/// Everybody knows everybody by name.
fn acquainted(names: &[&str]) -> World {
    let world = World::new(names);
    for index in 0..names.len() {
        for (other, name) in names
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
        {
            let mut add = world.quorate(index);
            add.args(["contacts", "add", name, &world.dids[other]]);
            output(add).assert_done();
        }
    }
    world
}

fn sessions(world: &World, index: usize) -> Vec<String> {
    let mut list = world.quorate(index);
    list.args(["again", "--list"]);
    let ended = output(list);
    ended.assert_done();
    let first = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    ended.stdout.lines().map(first).collect()
}

fn all_done(parties: Vec<Running>) -> Vec<Ended> {
    let ended: Vec<_> = parties.into_iter().map(Running::end).collect();
    for party in &ended {
        party.assert_done();
        assert!(party.stderr.contains("safety words"), "{}", party.stderr);
    }
    ended
}

#[test]
fn contacts_are_invited_without_a_file_and_then_again_with_others() {
    let world = acquainted(&["noord", "sud", "ost", "west"]);
    let invite = [
        "invite",
        "mpyc:secretsanta",
        "--with",
        "sud,ost",
        "--name",
        "income-2026",
        "--me",
        "noord",
    ];
    let ended = all_done(vec![
        start(&world, 0, &invite),
        start(&world, 1, &["join", "-y"]),
        start(&world, 2, &["join", "-y"]),
    ]);
    assert!(
        ended[0]
            .stderr
            .contains("sent         sud has the invitation"),
        "{}",
        ended[0].stderr
    );
    assert!(
        ended[1].stderr.contains("1 invitation from [noord]"),
        "{}",
        ended[1].stderr
    );
    for index in 0..3 {
        assert_eq!(sessions(&world, index), ["income-2026"]);
        let inbox = world.home(index).join("data/inbox");
        let left = std::fs::read_dir(inbox).into_iter().flatten().count();
        assert_eq!(left, 0, "an invitation that was used lies around");
    }

    // Another session of the same people, begun by its name.
    all_done(vec![
        start(&world, 0, &["again", "income-2026"]),
        start(&world, 1, &["join", "-y", "--from", "noord"]),
        start(&world, 2, &["join", "-y"]),
    ]);
    assert_eq!(sessions(&world, 0), ["income-2026-2", "income-2026"]);
    assert_eq!(sessions(&world, 1), ["income-2026-2", "income-2026"]);

    // The last one with other people.
    let mut change = world.quorate(0);
    change
        .args(["again", "-ost", "+west", "--local", "--python"])
        .arg(python());
    let ended = all_done(vec![
        Running::start(change),
        start(&world, 1, &["join", "-y"]),
        start(&world, 3, &["join", "-y"]),
    ]);
    assert!(
        ended[0]
            .stderr
            .contains("income-2026-2 → income-2026-3   noord, sud, west"),
        "{}",
        ended[0].stderr
    );
    assert_eq!(sessions(&world, 3), ["income-2026-3"]);
    assert_eq!(sessions(&world, 2), ["income-2026-2", "income-2026"]);
    world.assert_clean();
}

#[test]
fn what_cannot_be_done_again_says_why() {
    let world = acquainted(&["noord", "sud", "ost"]);
    let again = |words: &[&str]| output(command(&world, 0, words));
    again(&["again"]).assert_refused("E_NO_SESSION", 2);
    again(&["again", "nothing"]).assert_refused("E_NO_SESSION", 2);
    again(&["run", "nothing", "mpyc:vote"]).assert_refused("E_NO_SESSION", 2);
    let file = world.invite("secretsanta", &["3"]);
    for party in world.all_join(&file, |_, _| {}) {
        party.end().assert_done();
    }
    again(&["again", "-west"]).assert_refused("E_CONTACT", 2);
    again(&["again", "+west"]).assert_refused("E_CONTACT", 2);
    again(&["again", "one", "two"]).assert_refused("E_USAGE", 2);
}

#[test]
fn a_stranger_is_not_heard_and_nobody_waits_for_ever() {
    let world = World::three();
    output(command(&world, 1, &["join", "-y"])).assert_refused("E_CONTACT", 2);
    let mut add = world.quorate(1);
    add.args(["contacts", "add", "friend", &world.dids[2]]);
    output(add).assert_done();
    let with = format!("bo={},cleo={}", world.dids[1], world.dids[2]);
    let inviter = start(
        &world,
        0,
        &[
            "invite",
            "mpyc:secretsanta",
            "--with",
            &with,
            "--me",
            "alba",
        ],
    );
    inviter.stderr.wait_for("sending");
    let refused = output(command(&world, 1, &["join", "-y", "--wait", "4s"]));
    refused.assert_refused("E_NO_PATH", 71);
    assert!(!inviter.stderr.text().contains("bo has the invitation"));
    // Whoever names the DID of the inviter is asked about its invitation.
    let alba = world.dids[0].clone();
    let joining = [1, 2].map(|index| start(&world, index, &["join", "-y", "--from", &alba]));
    inviter.end().assert_done();
    for party in joining {
        party.end().assert_done();
    }
}

#[test]
fn an_invitation_that_was_declined_waits_for_another_look() {
    let world = acquainted(&["noord", "sud", "ost"]);
    let inviter = start(
        &world,
        0,
        &[
            "invite",
            "mpyc:secretsanta",
            "--with",
            "sud,ost",
            "--me",
            "noord",
        ],
    );
    let ost = start(&world, 2, &["join", "-y"]);
    // Nobody can be asked here, so this is a no.
    output(command(&world, 1, &["join"])).assert_refused("E_DECLINED", 74);
    inviter.stderr.wait_for("sud has the invitation");
    let sud = start(&world, 1, &["join", "-y"]);
    all_done(vec![inviter, sud, ost]);
}

#[test]
fn a_held_session_runs_another_program_after_asking_again() {
    let world = acquainted(&["noord", "sud", "ost"]);
    let inviter = start(
        &world,
        0,
        &[
            "invite",
            "mpyc:secretsanta",
            "--with",
            "sud,ost",
            "--name",
            "lab",
            "--me",
            "noord",
        ],
    );
    let holding = [1, 2].map(|index| start(&world, index, &["join", "-y", "--hold"]));
    inviter.end().assert_done();
    for party in &holding {
        party.stderr.wait_for("holding");
    }
    let run = start(&world, 0, &["run", "lab", "mpyc:secretsanta", "--", "2"]);
    run.end().assert_done();
    for party in &holding {
        party.stdout.wait_for("2 [1, 0]");
        eventually("it holds again", || {
            party.stderr.text().matches("holding").count() == 2
        });
    }
    // It follows the session of before; `run` may name the first one again.
    let run = start(&world, 0, &["again"]);
    run.end().assert_done();
    for party in holding {
        eventually("it holds again", || {
            party.stderr.text().matches("holding").count() == 3
        });
        party.signal(rustix::process::Signal::INT);
        let ended = party.end_within(Duration::from_secs(15));
        ended.assert_done();
        assert_eq!(ended.stderr.matches("safety words").count(), 3);
    }
    world.assert_clean();
}

#[test]
fn an_inviter_who_holds_names_the_next_program_at_the_prompt() {
    let world = acquainted(&["noord", "sud", "ost"]);
    let (home, python) = (world.home(0), python());
    let (home, python) = (home.to_str().unwrap(), python.to_str().unwrap());
    let words = [
        QUORATE,
        "--home",
        home,
        "invite",
        "mpyc:secretsanta",
        "--with",
        "sud,ost",
        "--me",
        "noord",
        "--hold",
        "--local",
        "--python",
        python,
    ];
    let mut inviter = Terminal::start(&words.map(str::to_owned), |command| {
        command.env_remove("QUORATE_HOME");
    });
    let holding = [1, 2].map(|index| start(&world, index, &["join", "-y", "--hold"]));
    let asked = |inviter: &Terminal, times: usize| {
        inviter.wait_for("the next question", |text| {
            let count = text.matches("Another program for the same people?").count();
            (count == times).then_some(())
        });
    };
    asked(&inviter, 1);
    inviter.type_in("mpyc:nothing\r");
    asked(&inviter, 2);
    for party in &holding {
        party.stderr.wait_for("holding");
    }
    inviter.type_in("mpyc:secretsanta 2\r");
    for party in &holding {
        party.stdout.wait_for("2 [1, 0]");
    }
    asked(&inviter, 3);
    inviter.type_in("\r");
    assert_eq!(inviter.end().0.code(), Some(0));
    for party in holding {
        eventually("it holds", || {
            party.stderr.text().matches("holding").count() == 2
        });
        party.signal(rustix::process::Signal::INT);
        party.end_within(Duration::from_secs(15)).assert_done();
    }
    world.assert_clean();
}

#[test]
fn a_person_chooses_between_two_invitations() {
    let world = acquainted(&["noord", "sud", "ost", "west"]);
    let with = ["sud,west", "sud,west"];
    let one = start(
        &world,
        0,
        &[
            "invite",
            "mpyc:secretsanta",
            "--with",
            with[0],
            "--name",
            "first",
            "--me",
            "noord",
        ],
    );
    let two = start(
        &world,
        2,
        &[
            "invite",
            "mpyc:secretsanta",
            "--with",
            with[1],
            "--name",
            "second",
            "--me",
            "ost",
        ],
    );
    one.stderr.wait_for("sending");
    two.stderr.wait_for("sending");
    let home = world.home(1);
    let python = python();
    let words = [
        QUORATE,
        "--home",
        home.to_str().unwrap(),
        "join",
        "--local",
        "--python",
        python.to_str().unwrap(),
    ];
    let mut sud = Terminal::start(&words.map(str::to_owned), |command| {
        command.env_remove("QUORATE_HOME").env_remove("RUST_LOG");
    });
    let shown = sud.wait_for("both", |shown| {
        shown.contains("Which one? [1-2]").then(|| shown.to_owned())
    });
    let second = shown
        .lines()
        .find(|l| l.contains("\"second\" from [ost]"))
        .unwrap();
    let number = second.split_whitespace().next().unwrap();
    sud.type_in(&format!("{number}\n"));
    sud.wait_for("the question", |shown| {
        shown.contains("Take part?").then_some(())
    });
    sud.type_in("y\n");
    let west = start(&world, 3, &["join", "-y", "--from", "ost"]);
    two.end().assert_done();
    west.end().assert_done();
    let (status, shown) = sud.end();
    assert!(status.success(), "{shown}");
    one.signal(rustix::process::Signal::INT);
    one.end().assert_refused("E_INTERRUPTED", 130);
}

#[test]
fn a_file_is_sealed_to_the_cards_of_all() {
    let world = World::three();
    for index in [1, 2] {
        let card = world.path(&format!("{}.card", world.names[index]));
        let mut make = world.quorate(index);
        make.args([
            "id",
            "card",
            "--name",
            &format!("Dr {}", world.names[index]),
            "--out",
        ])
        .arg(&card);
        output(make).assert_done();
        let mut add = world.quorate(0);
        add.args(["contacts", "add", &world.names[index]])
            .arg(&card);
        output(add).assert_done();
    }
    let file = world.path("sealed.quorate");
    let mut invite = world.quorate(0);
    invite
        .args(["invite", "mpyc:secretsanta", "--with", "bo,cleo", "--out"])
        .arg(&file);
    let made = output(invite);
    made.assert_done();
    assert!(
        made.stderr.contains("sealed: only the parties can open it"),
        "{}",
        made.stderr
    );
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("quorate1s:"), "{text}");
    let stranger = World::new(&["x"]);
    output(stranger.join(0, &file)).assert_refused("E_SEALED", 73);
    for party in world.all_join(&file, |_, _| {}) {
        party.end().assert_done();
    }
    // What the card claims is kept as a claim.
    let mut show = world.quorate(0);
    show.args(["contacts", "show", "bo"]);
    let shown = output(show);
    assert!(shown.stdout.contains("\"Dr bo\""), "{}", shown.stdout);
    assert!(Path::new(&file).exists());
}
