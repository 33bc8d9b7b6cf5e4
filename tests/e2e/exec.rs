//! The engine `exec`: a program that dials and listens by itself, on loopback ports of quorate.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::world::{Ended, Running, World, eventually, output, program};

/// Invites all to the exchange program, as one writes it.
fn invite(world: &World, words: &[&str]) -> (PathBuf, Ended) {
    let file = world.path("exec.quorate");
    let with = format!("bo={},cleo={}", world.dids[1], world.dids[2]);
    let mut command = world.quorate(0);
    command.args([
        "invite", "--engine", "exec", "--me", "alba", "--with", &with,
    ]);
    command.arg("--out").arg(&file).arg("--");
    command.arg(program("exchange.py")).args(words);
    (file, output(command))
}

const WORDS: [&str; 8] = [
    "--id",
    "{index}",
    "--peers",
    "{hosts_file}",
    "--listen",
    "{listen}",
    "--of",
    "{n}",
];

fn join(world: &World, index: usize, file: &Path, number: &str) -> Running {
    let mut command = world.join(index, file);
    command.arg("--program").arg(program("exchange.py"));
    command.args(["--", number]);
    Running::start(command)
}

#[test]
fn three_programs_exchange_numbers_by_tcp_and_nothing_is_left() {
    let world = World::three();
    let (file, invited) = invite(&world, &WORDS);
    invited.assert_done();
    assert!(invited.stderr.contains("engine exec"), "{}", invited.stderr);
    let joined = ["5", "70", "600"].iter().enumerate();
    let joined: Vec<_> = joined.map(|(i, n)| join(&world, i, &file, n)).collect();
    for party in joined {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("total 675"), "{}", ended.stdout);
        assert!(ended.stderr.contains("by loopback"), "{}", ended.stderr);
        // Eight bytes and one number byte at most, to two parties.
        assert!(ended.stderr.contains("B sent"), "{}", ended.stderr);
    }
    world.assert_clean();
}

#[test]
fn again_starts_the_executable_again_with_its_words_and_finds_it_where_it_was() {
    let world = World::three();
    let numbers = ["5", "70", "600"];
    for (index, number) in numbers.iter().enumerate() {
        std::fs::write(world.path(&format!("number-{index}")), number).unwrap();
        for other in (0..3).filter(|other| *other != index) {
            let mut add = world.quorate(index);
            add.args(["contacts", "add", &world.names[other], &world.dids[other]]);
            output(add).assert_done();
        }
    }
    let local = |index: usize, words: &[&str]| {
        let mut command = world.quorate(index);
        command.args(words).args(["--local", "--yes"]);
        command
    };
    let mut invite = local(0, &["invite", "--engine", "exec", "--with", "bo,cleo"]);
    invite.args(["--me", "alba", "--name", "numbers", "--private-args"]);
    invite.arg(world.path("number-0")).arg("--");
    invite.arg(program("exchange.py")).args(WORDS);
    let mut parties = vec![Running::start(invite)];
    for (index, number) in numbers.iter().enumerate().skip(1) {
        let mut join = local(index, &["join"]);
        join.arg("--program").arg(program("exchange.py"));
        join.args(["--", number]);
        parties.push(Running::start(join));
    }
    let totals = |parties: Vec<Running>, total: &str| {
        for party in parties {
            let ended = party.end();
            ended.assert_done();
            assert!(
                ended.stdout.contains(total),
                "{}{}",
                ended.stdout,
                ended.stderr
            );
        }
    };
    totals(parties, "total 675");
    // Neither program nor words are given again; private input is, by whoever typed it.
    let mut parties = vec![Running::start(local(0, &["again"]))];
    for (index, number) in [(1, "71"), (2, "601")] {
        let mut join = local(index, &["join"]);
        join.args(["--", number]);
        parties.push(Running::start(join));
    }
    totals(parties, "total 677");
    let mut list = world.quorate(1);
    list.args(["again", "--list"]);
    let listed = output(list).stdout;
    assert!(
        listed.contains("numbers ") && listed.contains("numbers-2 "),
        "{listed}"
    );
    world.assert_clean();
}

#[test]
fn a_program_that_cannot_be_started_or_fails_ends_all_by_name() {
    let world = World::three();
    let (file, invited) = invite(&world, &WORDS);
    invited.assert_done();
    // Bo gives no number: its program ends with an error.
    let joined = ["5", "bad", "600"].iter().enumerate();
    let joined: Vec<_> = joined.map(|(i, n)| join(&world, i, &file, n)).collect();
    for party in joined {
        let ended = party.end();
        ended.assert_refused("E_PROGRAM_FAILED", 75);
        assert!(ended.stderr.contains("bo (did:key:"), "{}", ended.stderr);
    }
    world.assert_clean();
}

#[test]
fn wrong_places_and_modes_are_refused_before_anything_is_sent() {
    let world = World::three();
    let (_, refused) = invite(&world, &["{peer:3}"]);
    refused.assert_refused("E_ENGINE", 76);
    let (file, invited) = invite(&world, &WORDS);
    invited.assert_done();
    for (option, value) in [("--attach", "unix"), ("--isolate", "always")] {
        let mut command = world.join(1, &file);
        command.arg("--program").arg(program("exchange.py"));
        let ended = output({
            command.args([option, value]);
            command
        });
        ended.assert_refused("E_ENGINE", 76);
        assert!(!ended.stderr.contains("reachable"), "{}", ended.stderr);
    }
}

#[test]
fn an_executable_that_came_along_is_started_from_its_private_copy() {
    let world = World::three();
    let (file, invited) = {
        let file = world.path("sent.quorate");
        let with = format!("bo={},cleo={}", world.dids[1], world.dids[2]);
        let mut command = world.quorate(0);
        command.args([
            "invite",
            "--engine",
            "exec",
            "--send-program",
            "--me",
            "alba",
        ]);
        command
            .args(["--with", &with, "--out"])
            .arg(&file)
            .arg("--");
        command.arg(program("exchange.py")).args(WORDS);
        (file, output(command))
    };
    invited.assert_done();
    let source = std::fs::read(program("exchange.py")).unwrap();
    let source = quorate_session::ProgramSource::new([("exchange.py", &source[..])]).unwrap();
    let digest = source.digest().to_string();
    let joined = ["5", "70", "600"]
        .iter()
        .enumerate()
        .map(|(index, number)| {
            let mut command = world.join(index, &file);
            command.args(["--accept-program", &digest, "--", number]);
            Running::start(command)
        });
    for party in joined.collect::<Vec<_>>() {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("total 675"), "{}", ended.stdout);
    }
    world.assert_clean();
}

#[test]
fn f05_what_the_executable_of_a_killed_quorate_started_is_found_and_ended_by_clean() {
    let world = World::three();
    let executable = program("waiting.sh");
    let file = world.path("exec.quorate");
    let with = format!("bo={},cleo={}", world.dids[1], world.dids[2]);
    let mut invite = world.quorate(0);
    invite.args(["invite", "--engine", "exec", "--me", "alba"]);
    invite.args(["--with", &with, "--out"]).arg(&file).arg("--");
    invite.arg(&executable);
    output(invite).assert_done();
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&executable);
    });
    for party in &joined {
        party.stdout.wait_for("waiting");
    }
    let child = |party: &Running| -> u32 {
        let text = party.stdout.text();
        let number = text.lines().find_map(|l| l.strip_prefix("child ")).unwrap();
        number.trim().parse().unwrap()
    };
    let alive = |number: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let (orphan, others) = (child(&joined[1]), child(&joined[0]));
    joined[1].signal(Signal::KILL);
    eventually("the executable of the killed quorate ends", || {
        world.program_processes().len() <= 2
    });
    let mut clean = world.quorate(1);
    clean.arg("clean");
    output(clean).assert_done();
    assert!(!alive(orphan), "its child goes on");
    assert!(alive(others), "the child of a session that goes on");
    for party in joined {
        party.signal(Signal::INT);
        party.end();
    }
    assert!(!alive(others));
    world.assert_clean();
}
