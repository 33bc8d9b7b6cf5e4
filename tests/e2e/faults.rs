//! Faults of the catalogue on real processes: kills, full and broken disks, taken ports, signals, leftovers.
//!
//! What needs a certain moment of the protocol is in the tests of the session core and in the simulator.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    life::running_world,
    world::{Ended, QUORATE, Running, World, eventually, output, program, python},
};

/// A dead party is noticed within 15 s, and all stop within 5 s more; the machine may be busy.
const NOTICED: Duration = Duration::from_secs(30);
/// An end that a party tells the others takes 5 s; the machine may be busy.
const ALL_STOP: Duration = Duration::from_secs(15);

fn vote(world: &World, index: usize, file: &Path) -> Running {
    let mut command = world.join(index, file);
    command.args(["--", "--vote", "yes"]);
    Running::start(command)
}

fn slow(world: &World, index: usize, file: &Path) -> Running {
    let mut command = world.join(index, file);
    command.arg("--program").arg(program("slow.py"));
    Running::start(command)
}

fn clean(world: &World, index: usize, args: &[&str]) -> Ended {
    let mut command = world.quorate(index);
    command.arg("clean").args(args);
    output(command)
}

/// The record of the only session of a home.
fn record(world: &World, index: usize) -> PathBuf {
    let sessions = fs::read_dir(world.home(index).join("state/sessions")).unwrap();
    let records = sessions.flatten().map(|e| e.path());
    let mut json = records.filter(|p| p.extension().is_some_and(|x| x == "json"));
    json.next().expect("there is a record")
}

#[test]
fn f01_a_party_killed_while_joining_comes_back_and_all_complete() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let alba = vote(&world, 0, &file);
    let bo = vote(&world, 1, &file);
    alba.stderr.wait_for("joined       bo");
    bo.signal(Signal::KILL);
    assert_eq!(bo.end().code, None);
    let parties = [alba, vote(&world, 1, &file), vote(&world, 2, &file)];
    for party in parties {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("yes 3, no 0"), "{}", ended.stdout);
    }
    world.assert_clean();
}

#[test]
fn f02_f03_f04_a_party_killed_while_the_roster_is_agreed_comes_back_and_all_complete() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let alba = vote(&world, 0, &file);
    let bo = vote(&world, 1, &file);
    alba.stderr.wait_for("joined       bo");
    let cleo = vote(&world, 2, &file);
    alba.stderr.wait_for("joined       cleo");
    // Whatever cleo has sent by now, nobody gets further than its next statement.
    cleo.signal(Signal::STOP);
    bo.signal(Signal::KILL);
    assert_eq!(bo.end().code, None);
    let again = vote(&world, 1, &file);
    alba.stderr.wait_for("waiting");
    cleo.signal(Signal::CONT);
    for party in [alba, again, cleo] {
        party.end().assert_done();
    }
    world.assert_clean();
}

#[test]
fn f07_to_f11_the_organizer_killed_while_running_is_noticed_and_named_as_any_party() {
    let (world, _, joined) = running_world();
    let killed = Instant::now();
    joined[0].signal(Signal::KILL);
    for party in joined.into_iter().skip(1) {
        let ended = party.end_within(NOTICED);
        ended.assert_refused("E_PARTY_LEFT", 75);
        assert!(ended.stderr.contains("alba (did:key:"), "{}", ended.stderr);
    }
    assert!(killed.elapsed() < NOTICED);
    clean(&world, 0, &[]).assert_done();
    world.assert_clean();
}

#[test]
fn f07_to_f11_an_organizer_who_only_signed_is_not_needed_any_more() {
    let world = World::new(&["org", "alba", "bo", "cleo"]);
    let file = world.path("x.quorate");
    let parties: Vec<_> = (1..4)
        .map(|i| format!("{}={}", world.names[i], world.dids[i]))
        .collect();
    let mut invite = world.quorate(0);
    invite
        .args([
            "invite",
            "vote",
            "--issuer-only",
            "--with",
            &parties.join(","),
            "--out",
        ])
        .arg(&file);
    output(invite).assert_done();
    fs::remove_dir_all(world.home(0)).unwrap();
    let joined: Vec<_> = (1..4).map(|index| vote(&world, index, &file)).collect();
    for party in joined {
        party.end().assert_done();
    }
}

#[test]
fn f15_f29_f32_all_killed_at_once_start_again_with_one_of_them_from_an_older_backup() {
    let world = World::three();
    let file = world.invite(program("slow.py").to_str().unwrap(), &["100"]);
    let bo = slow(&world, 1, &file);
    bo.stderr.wait_for("waiting");
    let backup = fs::read(record(&world, 1)).unwrap();
    let joined = [slow(&world, 0, &file), bo, slow(&world, 2, &file)];
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    for party in &joined {
        party.signal(Signal::KILL);
    }
    for party in joined {
        assert_eq!(party.end().code, None);
    }
    eventually("no program outlives its killed node", || {
        world.program_processes().is_empty()
    });

    let mut status = world.quorate(2);
    status.arg("status");
    let status = output(status);
    assert!(
        status.stderr.contains("killed: process"),
        "{}",
        status.stderr
    );
    let dry = clean(&world, 2, &["--dry-run"]);
    assert_eq!(dry.code, Some(1), "{}", dry.stderr);
    assert!(
        dry.stderr.contains("folder of a killed command"),
        "{}",
        dry.stderr
    );
    clean(&world, 2, &[]).assert_done();
    let dry = clean(&world, 2, &["--dry-run"]);
    dry.assert_done();
    assert!(dry.stderr.contains("nothing is left"), "{}", dry.stderr);

    // bo's state comes from a backup, alba's folder holds something of somebody else.
    fs::write(record(&world, 1), backup).unwrap();
    let foreign = world.home(0).join("run/foreign");
    fs::create_dir(&foreign).unwrap();
    let again: Vec<_> = (0..3).map(|index| slow(&world, index, &file)).collect();
    again[0].stdout.wait_for("first round done");
    let mut status = world.quorate(0);
    status.args(["status", "--json"]);
    let status = output(status);
    assert!(status.stdout.contains("\"run\":2"), "{}", status.stdout);
    for (index, party) in again.into_iter().enumerate() {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("total"), "{}", ended.stdout);
        // bo's backup knows of no run.
        let knows = index != 1;
        assert_eq!(
            ended.stderr.contains("run 1 of this session was lost"),
            knows,
            "{}",
            ended.stderr
        );
        assert_eq!(
            ended.stderr.contains("slow.py · run 2"),
            knows,
            "{}",
            ended.stderr
        );
    }
    assert!(foreign.exists(), "a folder that is not ours was removed");
    fs::remove_dir(foreign).unwrap();
    world.assert_clean();
}

#[test]
fn f24_a_cloned_home_is_refused_as_a_second_instance_and_the_first_is_told() {
    let world = World::new(&["alba", "bo", "cleo", "twin"]);
    let file = world.path("x.quorate");
    let others = format!("bo={},cleo={}", world.dids[1], world.dids[2]);
    let mut invite = world.quorate(0);
    invite
        .args(["invite", "vote", "--me", "alba", "--with", &others, "--out"])
        .arg(&file);
    output(invite).assert_done();
    fs::remove_dir_all(world.home(3)).unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .args([world.home(1), world.home(3)])
        .status();
    assert!(copied.unwrap().success());
    // Alone with the first, and where another party has met the first already.
    for accompanied in [false, true] {
        let alba = accompanied.then(|| vote(&world, 0, &file));
        let bo = vote(&world, 1, &file);
        match &alba {
            Some(alba) => alba.stderr.wait_for("joined       bo"),
            None => bo.stderr.wait_for("waiting"),
        }
        let twin = vote(&world, 3, &file);
        twin.end().assert_refused("E_ALREADY_JOINED", 73);
        let first = bo.end();
        first.assert_refused("E_IDENTITY_ELSEWHERE", 73);
        assert!(!first.stdout.contains("yes"), "{}", first.stdout);
        let rejected = world.home(1).join("state/rejected");
        let kept = fs::read_dir(rejected).unwrap().count();
        assert_eq!(kept, 1, "both joins are kept as evidence");
        if let Some(alba) = alba {
            alba.signal(Signal::INT);
            alba.end();
        }
        world.assert_clean();
    }
}

/// Runs a command in a mount namespace of its own after `prepare`, a shell script with the home as `$1`.
fn in_namespace(home: &Path, prepare: &str, rest: &[&str]) -> Option<Command> {
    let can = Command::new("unshare")
        .args(["-Urm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    can.ok().filter(|o| o.status.success())?;
    let mut command = Command::new("unshare");
    command
        .args(["-Urm", "sh", "-c"])
        .arg(format!("set -e; {prepare}; shift; exec \"$@\""))
        .arg("sh")
        .arg(home)
        .arg(QUORATE)
        .arg("--home")
        .arg(home)
        .args(rest)
        .env_remove("QUORATE_HOME")
        .stdin(std::process::Stdio::null());
    Some(command)
}

fn join_args<'a>(file: &'a Path, python: &'a Path) -> Vec<&'a str> {
    let (file, python) = (file.to_str().unwrap(), python.to_str().unwrap());
    vec![
        "join", file, "--local", "--yes", "--python", python, "--", "--vote", "yes",
    ]
}

#[test]
fn f27_a_full_disk_ends_the_join_with_a_named_refusal_and_nothing_is_signed() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let python = python();
    // The folder without room, and whether there is any at the beginning: a note fits, a program does not.
    for (folder, fill) in [("state", true), ("run", true), ("run", false)] {
        let fill = if fill { "" } else { "exit 0;" };
        let prepare = format!(
            "mkdir -p \"$1/{folder}\"; mount -t tmpfs -o size=4k,mode=700 none \"$1/{folder}\"; \
             (mkdir -p \"$1/{folder}/sessions\"; {fill} dd if=/dev/zero of=\"$1/{folder}/fill\" bs=4k 2>/dev/null || true)"
        );
        let Some(command) = in_namespace(&world.home(1), &prepare, &join_args(&file, &python))
        else {
            return;
        };
        let alba = vote(&world, 0, &file);
        alba.stderr.wait_for("waiting");
        let bo = Running::start(command);
        let cleo = (!fill.is_empty()).then(|| vote(&world, 2, &file));
        let ended = bo.end();
        ended.assert_refused("E_DISK", 76);
        let joined = alba.stderr.text().contains("joined       bo");
        assert!(
            !(folder == "state" && joined),
            "its join went out although it was not stored"
        );
        for party in [Some(alba), cleo].into_iter().flatten() {
            party.signal(Signal::INT);
            party.end();
        }
    }
    world.assert_clean();
}

#[test]
fn f28_a_read_only_or_replaced_state_folder_is_refused_and_a_missing_one_is_made() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let python = python();
    let prepare = "mkdir -p \"$1/state\"; mount --bind \"$1/state\" \"$1/state\"; mount -o remount,bind,ro \"$1/state\"";
    if let Some(command) = in_namespace(&world.home(1), prepare, &join_args(&file, &python)) {
        output(command).assert_refused("E_DISK", 76);
    }
    let _ = fs::remove_dir_all(world.home(1).join("state"));
    fs::write(world.home(1).join("state"), b"").unwrap();
    let ended = vote(&world, 1, &file).end();
    assert_eq!(ended.code, Some(76), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint:"), "{}", ended.stderr);
    fs::remove_file(world.home(1).join("state")).unwrap();
    let joined: Vec<_> = (0..3).map(|index| vote(&world, index, &file)).collect();
    for party in joined {
        party.end().assert_done();
    }
    world.assert_clean();
}

#[test]
fn f29_a_bit_flipped_record_is_put_aside_and_the_session_works() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let bo = vote(&world, 1, &file);
    bo.stderr.wait_for("waiting");
    bo.signal(Signal::KILL);
    bo.end();
    let path = record(&world, 1);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x80;
    fs::write(&path, bytes).unwrap();
    let joined: Vec<_> = (0..3).map(|index| vote(&world, index, &file)).collect();
    for (index, party) in joined.into_iter().enumerate() {
        let ended = party.end();
        ended.assert_done();
        assert_eq!(
            ended.stderr.contains("was damaged"),
            index == 1,
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn f31_ports_that_are_taken_are_not_needed() {
    let taken = (
        TcpListener::bind("127.0.0.1:11365").or_else(|_| TcpListener::bind("127.0.0.1:0")),
        UdpSocket::bind("0.0.0.0:51820").or_else(|_| UdpSocket::bind("0.0.0.0:0")),
    );
    let world = World::three();
    let file = world.invite("vote", &[]);
    let joined: Vec<_> = (0..3).map(|index| vote(&world, index, &file)).collect();
    for party in joined {
        party.end().assert_done();
    }
    drop(taken);
}

#[test]
fn f37_a_process_without_descriptors_ends_with_a_named_refusal() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let python = python();
    for limit in ["12", "20", "28"] {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("ulimit -n {limit}; exec \"$@\""))
            .arg("sh")
            .arg(QUORATE)
            .arg("--home")
            .arg(world.home(1))
            .args(join_args(&file, &python));
        let party = Running::start(command);
        // With enough of them it waits for the others, as it should.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) && !party.has_ended() {
            if party.stderr.text().contains("waiting") {
                party.signal(Signal::INT);
                break;
            }
            std::thread::yield_now();
        }
        let ended = party.end();
        assert!(
            !ended.stderr.contains("panicked"),
            "{limit}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains("hint:"), "{limit}: {}", ended.stderr);
        assert!(
            [76, 130].contains(&ended.code.unwrap_or(0)),
            "{limit}: {}",
            ended.stderr
        );
    }
    clean(&world, 1, &[]).assert_done();
    world.assert_clean();
}

#[test]
fn f38_sigterm_and_sighup_end_the_session_for_all_as_ctrl_c_does() {
    for signal in [Signal::TERM, Signal::HUP] {
        let (world, _, joined) = running_world();
        let begun = Instant::now();
        joined[2].signal(signal);
        for (index, party) in joined.into_iter().enumerate() {
            let ended = party.end_within(ALL_STOP);
            if index == 2 {
                ended.assert_refused("E_INTERRUPTED", 130);
                continue;
            }
            ended.assert_refused("E_PARTY_LEFT", 75);
            assert!(ended.stderr.contains("cleo (did:key:"), "{}", ended.stderr);
        }
        assert!(begun.elapsed() < ALL_STOP);
        world.assert_clean();
    }
}

#[test]
fn f05_a_child_that_a_killed_quorate_could_not_stop_is_found_and_ended_by_clean_and_no_other() {
    let world = World::three();
    let forking = program("forking.py");
    let file = world.invite(forking.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&forking);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    let child = |party: &Running| -> i32 {
        let text = party.stdout.text();
        let number = text.lines().find_map(|l| l.strip_prefix("child ")).unwrap();
        number.trim().parse().unwrap()
    };
    let (orphan, others) = (child(&joined[1]), child(&joined[0]));
    let alive = |number: i32| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    joined[1].signal(Signal::KILL);
    eventually("the program of the killed node ends", || {
        world.program_processes().len() <= 2
    });
    let dry = clean(&world, 1, &["--dry-run"]);
    assert_eq!(dry.code, Some(1));
    assert!(
        dry.stderr.contains(&format!("process {orphan} ")),
        "{}",
        dry.stderr
    );
    assert!(alive(orphan), "a dry run ends nothing");
    clean(&world, 1, &[]).assert_done();
    assert!(!alive(orphan));
    assert!(
        alive(others),
        "the process of a session that goes on, or of another home, was ended"
    );
    clean(&world, 1, &["--dry-run"]).assert_done();
    for party in joined {
        party.signal(Signal::INT);
        party.end();
    }
    for index in [0, 2] {
        clean(&world, index, &[]).assert_done();
    }
    assert!(!alive(others));
    world.assert_clean();
}
