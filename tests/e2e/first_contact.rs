//! First contact: from a line of text to a session, between people who never met.

use std::{path::PathBuf, process::Command, time::Duration};

use crate::{
    pty::{self, Terminal, shows, shows_times},
    world::{Ended, Running, World, program, python},
};

/// An `invite --seats` that stays on this machine.
fn invite(world: &World, index: usize, seats: usize, extra: &[&str]) -> Command {
    let mut command = world.quorate(index);
    command
        .args(["invite", "mpyc:secretsanta", "--local", "--python"])
        .arg(python())
        .args([
            "--seats",
            &seats.to_string(),
            "--name",
            "income-2026",
            "--me",
            "Noord Hospital",
        ])
        .args(extra);
    command
}

/// A `join` with a ticket that agrees.
fn join(world: &World, index: usize, ticket: &str) -> Command {
    let mut command = world.join(index, &PathBuf::from(ticket));
    command.args(["--me", &format!("Clinique {}", world.names[index])]);
    command
}

/// The ticket as the inviter's screen shows it.
pub fn ticket(inviter: &Running) -> String {
    inviter.stderr.wait_for("https://quorate.org/j#qrt1");
    let text = inviter.stderr.text();
    let line = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("quorate join "));
    line.unwrap_or_else(|| panic!("no ticket in:\n{text}"))
        .to_owned()
}

fn safety_words(ended: &Ended) -> String {
    let line = ended.stderr.lines().find(|l| l.contains("safety words"));
    let line = line.unwrap_or_else(|| panic!("not sealed:\n{}", ended.stderr));
    line.split("safety words")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

/// The result of the program: who gives to whom.
fn lots(ended: &Ended) -> Vec<&str> {
    let lots: Vec<_> = ended
        .stdout
        .lines()
        .filter(|l| l.starts_with("3 ["))
        .collect();
    assert_eq!(lots.len(), 1, "{}", ended.stdout);
    lots
}

/// Everybody joins the inviter's call and it ends well, with the same words for all.
fn computes(names: &[&str]) {
    let world = World::new(names);
    let inviter = Running::start(invite(
        &world,
        0,
        names.len(),
        &["--admit", "all", "--", "3"],
    ));
    let ticket = ticket(&inviter);
    let joining: Vec<_> = (1..names.len())
        .map(|index| Running::start(join(&world, index, &ticket)))
        .collect();
    let ended = inviter.end();
    ended.assert_done();
    let words = safety_words(&ended);
    assert_eq!(words.split('-').count(), 12);
    assert!(
        ended
            .stderr
            .contains(&format!("waiting      1/{} ", names.len())),
        "{}",
        ended.stderr
    );
    for party in joining {
        let joined = party.end();
        joined.assert_done();
        assert_eq!(safety_words(&joined), words);
        assert_eq!(lots(&joined), lots(&ended));
        assert!(
            joined
                .stderr
                .contains("someone who calls themselves \"Noord Hospital\""),
            "{}",
            joined.stderr
        );
        let asked = joined
            .stderr
            .lines()
            .find(|l| l.contains("asked        words:"))
            .unwrap();
        let words = asked
            .split("words: ")
            .nth(1)
            .unwrap()
            .split("   ")
            .next()
            .unwrap();
        assert!(
            ended.stderr.contains(&format!("words: {words}")),
            "{words} is not at the inviter:\n{}",
            ended.stderr
        );
    }
    world.assert_clean();
}

#[test]
fn three_strangers_compute_with_a_ticket() {
    computes(&["noord", "sud", "ost"]);
}

#[test]
fn five_strangers_compute_with_a_ticket() {
    computes(&["noord", "sud", "ost", "west", "mid"]);
}

#[test]
fn f01_typing_errors_in_a_ticket_are_found_before_the_network() {
    let world = World::three();
    let inviter = Running::start(invite(&world, 0, 3, &["--admit", "all"]));
    let ticket = ticket(&inviter);
    let last = ticket.chars().last().unwrap();
    let other = if last == 'q' { 'p' } else { 'q' };
    let changed = format!("{}{other}", &ticket[..ticket.len() - 1]);
    for bad in [
        changed,
        ticket[..ticket.len() - 3].to_owned(),
        ticket.replacen("qrt1", "qrt2", 1),
        ticket.replacen("qrt1", "grt1", 1),
    ] {
        let started = std::time::Instant::now();
        let refused = crate::world::output(join(&world, 1, &bad));
        refused.assert_refused("E_TICKET", 2);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    // The other forms of the same ticket are good ones: capitals, as in a QR code, and the link.
    let text = inviter.stderr.text();
    let link = text
        .lines()
        .map(str::trim)
        .find(|l| l.starts_with("https://"))
        .unwrap();
    let forms = [ticket.to_uppercase().replace('-', ""), link.to_owned()];
    let joining: Vec<_> = forms
        .iter()
        .zip(1..)
        .map(|(form, index)| Running::start(join(&world, index, form)))
        .collect();
    inviter.end().assert_done();
    for party in joining {
        party.end().assert_done();
    }
}

#[test]
fn an_inviter_who_is_gone_is_given_up_and_what_was_tried_is_said() {
    let world = World::three();
    let inviter = Running::start(invite(&world, 0, 3, &["--admit", "all"]));
    let ticket = ticket(&inviter);
    inviter.signal(rustix::process::Signal::INT);
    inviter.end();
    let mut command = join(&world, 1, &ticket);
    command.args(["--wait", "2s", "--at", "/ip4/127.0.0.1/tcp/9"]);
    let started = std::time::Instant::now();
    let refused = crate::world::output(command);
    refused.assert_refused("E_NO_PATH", 71);
    assert!(started.elapsed() < Duration::from_secs(20));
    for tried in [
        "tried        the ticket names no address",
        "--at         /ip4/127.0.0.1/tcp/9",
        "searched     the beacon of this machine",
        "--wait 30m",
    ] {
        assert!(refused.stderr.contains(tried), "{}", refused.stderr);
    }
}

#[test]
fn parties_of_a_file_are_waited_for_as_long_as_the_user_says_and_only_until_one_is_found() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let mut command = world.join(1, &file);
    command.args(["--wait", "2s", "--", "--vote", "yes"]);
    let refused = crate::world::output(command);
    refused.assert_refused("E_NO_PATH", 71);
    assert!(
        refused.stderr.contains("none of the other parties"),
        "{}",
        refused.stderr
    );
    // The same invitation is good for another try; whoever met somebody is not given up any more.
    let early: Vec<_> = (0..2)
        .map(|index| {
            let mut command = world.join(index, &file);
            command.args(["--wait", "15s", "--", "--vote", "yes"]);
            Running::start(command)
        })
        .collect();
    for party in &early {
        party.stderr.wait_for("joined");
        // The wait for cleo alone is said again after half a minute.
        party
            .stderr
            .wait_for("waiting      for cleo · connection · 3");
    }
    let mut command = world.join(2, &file);
    command.args(["--", "--vote", "no"]);
    Running::start(command).end().assert_done();
    for party in early {
        party.end().assert_done();
    }
    world.assert_clean();
}

#[test]
fn only_the_listed_are_admitted_and_others_are_told() {
    let world = World::new(&["noord", "sud", "ost", "wrong"]);
    let sud = format!("south={}", world.dids[1]);
    let inviter = Running::start(invite(
        &world,
        0,
        3,
        &["--admit", &sud, "--admit", &world.dids[2]],
    ));
    let ticket = ticket(&inviter);
    let wrong = Running::start(join(&world, 3, &ticket)).end();
    wrong.assert_refused("E_NOT_ADMITTED", 74);
    let sud = Running::start(join(&world, 1, &ticket));
    let ost = Running::start(join(&world, 2, &ticket));
    let ended = inviter.end();
    ended.assert_done();
    assert!(
        ended.stderr.contains("admitted     [south]"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("refused      \"Clinique wrong\""),
        "{}",
        ended.stderr
    );
    sud.end().assert_done();
    ost.end().assert_done();
    // There is no seat any more, and the lobby is gone.
    world.assert_clean();
}

#[test]
fn ctrl_c_of_the_inviter_tells_everybody_who_waits() {
    let world = World::three();
    let inviter = Running::start(invite(&world, 0, 3, &["--admit", "all"]));
    let ticket = ticket(&inviter);
    let waiting = Running::start(join(&world, 1, &ticket));
    inviter.stderr.wait_for("admitted     [clinique-bo]");
    waiting.stderr.wait_for("you have a seat");
    inviter.signal(rustix::process::Signal::INT);
    let ended = inviter.end_within(Duration::from_secs(15));
    ended.assert_refused("E_INTERRUPTED", 130);
    waiting
        .end_within(Duration::from_secs(15))
        .assert_refused("E_CANCELLED", 75);
    world.assert_clean();
}

#[test]
fn an_applicant_who_leaves_gives_the_seat_back() {
    let world = World::new(&["noord", "sud", "ost", "west"]);
    let inviter = Running::start(invite(&world, 0, 3, &["--admit", "all"]));
    let ticket = ticket(&inviter);
    let leaving = Running::start(join(&world, 1, &ticket));
    leaving.stderr.wait_for("you have a seat");
    leaving.signal(rustix::process::Signal::INT);
    leaving
        .end_within(Duration::from_secs(15))
        .assert_refused("E_INTERRUPTED", 130);
    inviter.stderr.wait_for("left         \"Clinique sud\"");
    let others: Vec<_> = [2, 3]
        .map(|i| Running::start(join(&world, i, &ticket)))
        .into();
    let ended = inviter.end();
    ended.assert_done();
    assert!(
        !ended.stderr.contains("joined       clinique-sud"),
        "{}",
        ended.stderr
    );
    for party in others {
        party.end().assert_done();
    }
}

#[test]
fn two_calls_at_once_do_not_mix() {
    let world = World::new(&["noord", "sud", "ost", "west", "mid", "far"]);
    let one = Running::start(invite(&world, 0, 3, &["--admit", "all", "--", "3"]));
    let two = Running::start(invite(&world, 3, 3, &["--admit", "all", "--", "4"]));
    let tickets = [ticket(&one), ticket(&two)];
    assert_ne!(tickets[0], tickets[1]);
    let joining: Vec<_> = [(1, 0), (4, 1), (2, 0), (5, 1)]
        .map(|(who, call): (usize, usize)| {
            (call, Running::start(join(&world, who, &tickets[call])))
        })
        .into();
    let ends = [one.end(), two.end()];
    for (call, party) in joining {
        let ended = party.end();
        ended.assert_done();
        assert_eq!(safety_words(&ended), safety_words(&ends[call]));
    }
    assert_ne!(safety_words(&ends[0]), safety_words(&ends[1]));
}

#[test]
fn a27_a_program_that_differs_is_refused_before_asking_for_a_seat() {
    let world = World::three();
    let slow = program("slow.py");
    let mut command = world.quorate(0);
    command
        .arg("invite")
        .arg(&slow)
        .args([
            "--local", "--seats", "3", "--admit", "all", "--me", "Noord", "--python",
        ])
        .arg(python());
    let inviter = Running::start(command);
    let ticket = ticket(&inviter);
    let mut other = join(&world, 1, &ticket);
    other.arg("--program").arg(program("marker.py"));
    crate::world::output(other).assert_refused("E_PROGRAM", 73);
    crate::world::output(join(&world, 1, &ticket)).assert_refused("E_PROGRAM", 73);
    assert!(
        !inviter.stderr.text().contains("asks"),
        "nothing was told about the applicant"
    );
    inviter.signal(rustix::process::Signal::INT);
    inviter.end().assert_refused("E_INTERRUPTED", 130);
}

#[test]
fn nobody_to_ask_is_no_admission() {
    let world = World::three();
    let ended = crate::world::output(invite(&world, 0, 3, &[]));
    ended.assert_refused("E_DECLINED", 74);
    assert!(ended.stderr.contains("--admit"), "{}", ended.stderr);
}

fn person(world: &World, index: usize, words: &[&str]) -> Terminal {
    pty::person(world, index, words, ("USER", "anna"))
}

#[test]
fn people_at_terminals_admit_rename_refuse_and_agree() {
    let world = World::new(&["noord", "sud", "ost", "wrong"]);
    let python = python();
    let python = python.to_str().unwrap();
    let mut noord = person(
        &world,
        0,
        &[
            "invite",
            "mpyc:secretsanta",
            "--seats",
            "3",
            "--local",
            "--python",
            python,
            "--",
            "3",
        ],
    );
    shows(&noord, "What do you call yourself?");
    noord.type_in("Noord Hospital\n");
    shows(&noord, "https://quorate.org/j#qrt1");
    // A QR code is drawn for a person.
    shows(&noord, "█▄▄▄▄▄▄▄█");
    let ticket = noord.wait_for("the ticket", |shown| {
        let mut lines = shown.lines();
        lines
            .find_map(|l| l.trim().strip_prefix("quorate join "))
            .map(str::to_owned)
    });
    // What is typed before a question is no answer to it.
    noord.type_in("y\n");

    let mut wrong = person(
        &world,
        3,
        &[
            "join", &ticket, "--local", "--python", python, "--me", "Sud",
        ],
    );
    shows(&wrong, "Ask for a seat?");
    wrong.type_in("y\n");
    // The question says whom it is about by more than a name, which anybody can choose.
    shows(&noord, &format!("Admit \"Sud\"  {}", world.dids[3]));
    shows(&noord, "as [sud]?");
    noord.type_in("\n");
    shows(&wrong, "E_NOT_ADMITTED");

    let mut sud = person(
        &world,
        1,
        &[
            "join",
            &ticket,
            "--local",
            "--python",
            python,
            "--me",
            "Clinique Sud",
        ],
    );
    shows(&sud, "Ask for a seat?");
    sud.type_in("y\n");
    shows(
        &noord,
        &format!("Admit \"Clinique Sud\"  {}", world.dids[1]),
    );
    shows(&noord, "as [clinique-sud]?");
    // Another one arrives while the person thinks.
    let mut ost = person(
        &world,
        2,
        &[
            "join",
            &ticket,
            "--local",
            "--python",
            python,
            "--me",
            "Klinik Ost",
        ],
    );
    shows(&ost, "Ask for a seat?");
    ost.type_in("y\n");
    shows(&noord, "asks         \"Klinik Ost\"");
    noord.type_in("not a name\n");
    shows(&noord, "cannot be a name");
    // Asked, shown again below the second application, asked again after the name.
    shows_times(&noord, "as [clinique-sud]?", 3);
    noord.type_in("sud\n");
    shows(&noord, "admitted     [sud]");
    shows(&noord, "as [klinik-ost]?");
    noord.type_in("sud\n");
    shows(&noord, "is somebody else");
    shows_times(&noord, "as [klinik-ost]?", 2);
    noord.type_in("ost\n");
    shows(&noord, "admitted     [ost]");

    // Each is asked once more, because the other is new to them.
    shows(&sud, "Take part with \"ost\"?");
    sud.type_in("y\n");
    shows(&ost, "Take part with \"sud\"?");
    ost.type_in("yes\n");
    let words = [&noord, &sud, &ost].map(|terminal| {
        terminal.wait_for("safety words", |shown| {
            let line = shown.lines().find(|l| l.contains("safety words"))?;
            line.split("safety words")
                .nth(1)?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        })
    });
    assert_eq!(words[0], words[1]);
    assert_eq!(words[1], words[2]);
    for terminal in [noord, sud, ost] {
        shows(&terminal, "finished");
    }
}
