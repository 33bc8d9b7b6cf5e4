//! Coming back: what a killed process, a stopped session and a session in the background leave to their user.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};
use serde_json::Value;

use crate::{
    first_contact::ticket,
    world::{Ended, Running, World, eventually, output, program, python},
};

/// All stop within this time; the machine may be busy.
const NOTICED: Duration = Duration::from_secs(30);

fn command(world: &World, index: usize, words: &[&str]) -> Command {
    let mut command = world.quorate(index);
    command.args(words);
    command
}

fn run(world: &World, index: usize, words: &[&str]) -> Ended {
    output(command(world, index, words))
}

/// A `join` of whatever, on this machine.
fn join(world: &World, index: usize, what: &[&str]) -> Running {
    let mut join = command(world, index, &["join"]);
    join.args(what)
        .args(["--local", "--yes", "--python"])
        .arg(python());
    Running::start(join)
}

/// An `invite --seats 3` of a program that goes on for so many rounds.
fn invite(world: &World, rounds: &str, extra: &[&str]) -> Running {
    let mut invite = command(world, 0, &["invite"]);
    invite
        .arg(program("slow.py"))
        .args(["--local", "--python"])
        .arg(python())
        .args(["--seats", "3", "--name", "income-2026", "--me", "noord"])
        .args(extra)
        .args(["--", rounds]);
    Running::start(invite)
}

fn status(world: &World, index: usize) -> Vec<Value> {
    let ended = run(world, index, &["status", "--json"]);
    let lines = ended.stdout.lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Files with bundles in a folder of a home.
fn bundles(world: &World, index: usize, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.home(index).join(folder));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect()
}

/// Inviter and guests in a run of the program.
fn strangers(rounds: &str) -> (World, Vec<Running>) {
    let world = World::new(&["noord", "sud", "ost"]);
    let inviter = invite(&world, rounds, &["--admit", "all", "--yes"]);
    let ticket = ticket(&inviter);
    let slow = program("slow.py");
    let slow = slow.to_str().unwrap();
    let mut all = vec![inviter];
    for index in 1..3 {
        let name = &world.names[index];
        all.push(join(
            &world,
            index,
            &[&ticket, "--me", name, "--program", slow],
        ));
    }
    for party in &all {
        party.stdout.wait_for("first round done");
    }
    (world, all)
}

#[test]
fn f05_a_guest_killed_in_a_session_of_a_ticket_comes_back_without_it_and_the_others_with_its_name()
{
    let (world, all) = strangers("100");
    let kept = bundles(&world, 1, "state/taken");
    assert_eq!(kept.len(), 1, "{kept:?}");
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kept[0]), 0o600);
    all[1].signal(Signal::KILL);
    for (index, party) in all.into_iter().enumerate() {
        let ended = party.end_within(NOTICED);
        if index != 1 {
            ended.assert_refused("E_PARTY_LEFT", 75);
            assert!(
                ended.stderr.contains("quorate join income-2026"),
                "{}",
                ended.stderr
            );
            assert!(bundles(&world, index, "state/taken").is_empty());
        }
    }
    // The one that was killed needs no name, no ticket and no path of the program.
    let back = [
        join(&world, 0, &["income-2026"]),
        join(&world, 1, &[]),
        join(&world, 2, &["income-2026"]),
    ];
    for (index, party) in back.into_iter().enumerate() {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("total"), "{}", ended.stdout);
        let said = ended.stderr.contains("when your process was killed");
        assert_eq!(said, index == 1, "{}", ended.stderr);
        // It is over: nothing leads back to it.
        for folder in ["state/taken", "state/left", "data/inbox"] {
            assert!(bundles(&world, index, folder).is_empty(), "{folder}");
        }
    }
    let ended = join(&world, 1, &["income-2026"]).end();
    assert_ne!(ended.code, Some(0), "{}", ended.stderr);
    run(&world, 1, &["clean"]).assert_done();
    world.assert_clean();
}

#[test]
fn f07_an_inviter_killed_in_its_session_comes_back_with_again_to_the_same_one() {
    let (world, all) = strangers("100");
    let digest = status(&world, 0)[0]["digest"].clone();
    all[0].signal(Signal::KILL);
    for party in all.into_iter().skip(1) {
        party.end_within(NOTICED).assert_refused("E_PARTY_LEFT", 75);
    }
    let mut again = command(&world, 0, &["again", "--local", "--yes", "--python"]);
    again.arg(python());
    let again = Running::start(again);
    again.stderr.wait_for("back to");
    let others = [1, 2].map(|index| join(&world, index, &["income-2026"]));
    others[0].stdout.wait_for("first round done");
    assert_eq!(status(&world, 0)[0]["digest"], digest);
    for party in others.into_iter().chain([again]) {
        party.end().assert_done();
    }
    run(&world, 0, &["clean"]).assert_done();
    world.assert_clean();
}

#[test]
fn f07_an_inviter_killed_after_the_seats_were_filled_can_still_cancel() {
    let (world, mut all) = strangers("100000");
    // Stopped, so that they do not notice before they are told.
    let inviter = all.remove(0);
    inviter.signal(Signal::KILL);
    inviter.end();
    let cancel = run(
        &world,
        0,
        &["cancel", "income-2026", "--local", "--wait", "20s"],
    );
    cancel.assert_done();
    for party in all {
        party.end_within(NOTICED).assert_refused("E_CANCELLED", 75);
    }
    for index in 1..3 {
        let left = bundles(&world, index, "state/left");
        assert!(
            left.is_empty(),
            "a cancelled session cannot be joined again: {left:?}"
        );
    }
}

#[test]
fn without_mpyc_no_ticket_is_shown() {
    let world = World::new(&["noord"]);
    let mut invite = command(&world, 0, &["invite", "vote", "--seats", "3", "--local"]);
    invite.args(["--admit", "all", "--python", "/bin/false"]);
    let ended = output(invite);
    assert_eq!(ended.code, Some(76), "{}", ended.stderr);
    assert!(!ended.stderr.contains("qrt1"), "{}", ended.stderr);
}

#[test]
fn a_call_is_shown_by_status_and_ended_by_leave_and_by_cancel() {
    for (word, code) in [("leave", "E_LEFT"), ("cancel", "E_CANCELLED")] {
        let world = World::new(&["noord", "sud"]);
        let inviter = invite(&world, "3", &["--admit", "all", "--yes"]);
        let ticket = ticket(&inviter);
        let slow = program("slow.py");
        let guest = join(
            &world,
            1,
            &[&ticket, "--me", "Sud", "--program", slow.to_str().unwrap()],
        );
        guest.stderr.wait_for("you have a seat");
        eventually("the seat is shown", || {
            let now = &status(&world, 0)[0];
            let states: Vec<_> = now["parties"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p["state"].as_str().unwrap())
                .collect();
            states == ["admitted", "admitted", "seat"]
        });
        let now = &status(&world, 0)[0];
        assert_eq!(now["state"], "open");
        assert_eq!(now["role"], "organizer");
        assert_eq!(now["parties"][1]["did"], world.dids[1].as_str());
        let shown = run(&world, 0, &["status"]);
        assert!(shown.stderr.contains("(free)"), "{}", shown.stderr);
        let words: &[&str] = if word == "leave" {
            &["leave"]
        } else {
            &["cancel", "income-2026"]
        };
        run(&world, 0, words).assert_done();
        inviter.end_within(NOTICED).assert_refused(code, 75);
        guest.end_within(NOTICED).assert_refused("E_CANCELLED", 75);
        assert_eq!(status(&world, 0)[0]["end"]["code"], code);
        world.assert_clean();
    }
}

#[test]
fn clean_all_spares_the_log_of_a_session_in_the_background_until_it_has_ended() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let mut detached = world.join(1, &file);
    detached.args(["--detach", "--", "--vote", "yes"]);
    output(detached).assert_done();
    let logs = || bundles(&world, 1, "state/logs").len();
    assert_eq!(logs(), 2);
    run(&world, 1, &["clean", "--all"]).assert_done();
    assert_eq!(logs(), 2, "what the session still writes was removed");
    run(&world, 1, &["leave"]).assert_done();
    eventually("its process is gone", || world.processes().is_empty());
    run(&world, 1, &["clean", "--all"]).assert_done();
    assert_eq!(logs(), 0);
}

#[test]
fn whoever_stops_waiting_for_a_session_in_the_background_leaves_no_process() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    // Whoever makes a run folder waits for this lock.
    let folder = world.home(1).join("run");
    let _ = fs::DirBuilder::new().mode(0o700).create(&folder);
    let held = fs::File::open(&folder).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let mut join = world.join(1, &file);
    join.args(["--detach", "--", "--vote", "yes"]);
    let join = Running::start(join);
    eventually("the second process is there", || {
        world
            .processes()
            .iter()
            .any(|(_, line)| line.contains("background"))
    });
    let begun = Instant::now();
    join.signal(Signal::INT);
    join.end_within(NOTICED)
        .assert_refused("E_INTERRUPTED", 130);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(world.processes(), Vec::new());
}
