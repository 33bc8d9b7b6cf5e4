//! F27: a disk that is full at each write in turn, and a machine without memory or descriptors (F37).
//!
//! The home of one party lies on a file system of its own with room for one thing more in each round: once counted in files
//! (every folder and file that is made is the one that fails, in some round), once in pages (every write).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use quorate_session::{Record, Stored};
use rustix::process::Signal;

use crate::world::{Ended, QUORATE, Running, World, program, python, untested};

/// A home does not even fit: this round says nothing.
const NO_ROOM_AT_ALL: i32 = 99;
/// More rounds than any session writes files or pages.
const MAX_ROUNDS: usize = 64;
/// An end that a party tells the others takes 5 s; the machine may be busy.
const ALL_STOP: Duration = Duration::from_secs(30);

fn can_mount() -> bool {
    let can = Command::new("unshare")
        .args(["-Urm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    can.is_ok_and(|o| o.status.success())
}

fn vote(world: &World, index: usize, file: &Path) -> Running {
    let mut command = world.join(index, file);
    command.args(["--", "--vote", "yes"]);
    Running::start(command)
}

/// A `join` of bo whose home is a copy on a file system with these `options`. What it leaves is copied to `left`.
fn cramped(world: &World, file: &Path, options: &str, left: &Path) -> Running {
    let script = format!(
        "cp -a \"$1\" \"$2.copy\"; mount -t tmpfs -o mode=700,{options} none \"$1\"; \
         cp -a \"$2.copy/.\" \"$1/\" 2>/dev/null || exit {NO_ROOM_AT_ALL}; \
         home=$1; left=$2; shift 2; \"$@\"; code=$?; cp -a \"$home\" \"$left\"; exit $code"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-Urm", "sh", "-c", &script, "sh"])
        .arg(world.home(1))
        .arg(left)
        .arg(QUORATE)
        .arg("--home")
        .arg(world.home(1))
        .arg("join")
        .arg(file)
        .args(["--local", "--yes", "--python"])
        .arg(python())
        .args(["--", "--vote", "yes"])
        .env_remove("QUORATE_HOME")
        .stdin(Stdio::null());
    Running::start(command)
}

/// The only file of JSON in a folder of a home.
fn only_json(home: &Path, folder: &str) -> Option<Vec<u8>> {
    let entries = fs::read_dir(home.join(folder)).into_iter();
    let files = entries.flatten().flatten().map(|e| e.path());
    let mut json = files.filter(|p| p.extension().is_some_and(|x| x == "json"));
    Some(fs::read(json.next()?).unwrap())
}

/// The state of its only session in a home.
fn stored(home: &Path) -> Option<Stored> {
    let bytes = only_json(home, "state/sessions")?;
    Some(Stored::parse(&bytes).expect("whole, or not there"))
}

/// The record of its only session in a home.
fn kept(home: &Path) -> Option<Record> {
    let bytes = only_json(home, "data/receipts")?;
    Some(Record::parse(bytes.trim_ascii_end()).expect("whole, or not there"))
}

/// How one round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    NoRoom,
    /// Before anything was said to the others.
    Silent,
    /// After bo's join went out.
    Joined,
    /// All computed, but bo could not keep everything.
    Told,
    Done,
}

/// One session with a disk for bo that has so much room.
fn round(options: &str, room: usize) -> Round {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let others = [vote(&world, 0, &file), vote(&world, 2, &file)];
    others[0].stderr.wait_for("joined       cleo");
    let left = world.path("left");
    let bo = cramped(&world, &file, options, &left).end();
    if bo.code == Some(NO_ROOM_AT_ALL) {
        return Round::NoRoom;
    }
    let done = bo.code == Some(0);
    if !done {
        bo.assert_refused("E_DISK", 76);
    }
    for party in &others {
        if !done && !party.has_ended() {
            party.signal(Signal::INT);
        }
    }
    let others: Vec<Ended> = others.into_iter().map(|p| p.end_within(ALL_STOP)).collect();
    let joined = others[0].stderr.contains("joined       bo");
    let stored = stored(&left);
    // What was signed was stored before: the join's epoch, the confirmed roster.
    if joined {
        let stored = stored
            .as_ref()
            .expect("its join went out although nothing was stored");
        assert!(stored.epoch.0 > 0, "{options}: {stored:?}");
    }
    for index in [0, 2] {
        let Some(record) = kept(&world.home(index)) else {
            continue;
        };
        let runs = record.verify().unwrap().runs;
        let confirmed = runs.iter().any(|run| run.parties[1].confirm.is_some());
        let roster = stored.as_ref().and_then(|s| s.roster);
        assert!(
            !confirmed || runs.iter().any(|run| run.digest() == roster),
            "{options}: bo confirmed a roster that it had not stored"
        );
    }
    for ended in &others {
        assert_eq!(ended.code == Some(0), done, "{options}: {}", ended.stderr);
    }
    let told = bo.stderr.contains("No space left on device");
    match (done, told) {
        (true, false) => Round::Done,
        // It says so, and the others have the record: nothing that counts is lost.
        (true, true) => Round::Told,
        (false, _) => {
            assert!(bo.stderr.contains("hint:"), "{}", bo.stderr);
            if joined && room.is_multiple_of(2) {
                comes_back(&world, &file, &left);
            }
            if joined { Round::Joined } else { Round::Silent }
        }
    }
}

/// With room again, the same home takes part as if nothing had been.
fn comes_back(world: &World, file: &Path, left: &Path) {
    fs::remove_dir_all(world.home(1)).unwrap();
    fs::rename(left, world.home(1)).unwrap();
    let all: Vec<_> = (0..3).map(|index| vote(world, index, file)).collect();
    for party in all {
        party.end().assert_done();
    }
}

/// Rounds with more and more room, until all fits; what was seen on the way.
fn rounds(first: usize, options: impl Fn(usize) -> String) -> Vec<Round> {
    let mut seen = Vec::new();
    for room in first..first + MAX_ROUNDS {
        let round = round(&options(room), room);
        seen.push(round);
        if seen.ends_with(&[Round::Done, Round::Done]) {
            return seen;
        }
    }
    panic!("there was never room enough: {seen:?}");
}

#[test]
fn f27_whichever_file_cannot_be_made_nothing_is_signed_that_was_not_stored() {
    if !can_mount() {
        untested("no file system can be mounted here");
        return;
    }
    let world = World::three();
    // The folder itself is one, and all that is in it.
    let there = count(&world.home(1));
    let seen = rounds(there, |room| format!("nr_inodes={room}"));
    let times = |what| seen.iter().filter(|round| **round == what).count();
    assert!(
        times(Round::Silent) >= 5 && times(Round::Joined) >= 1,
        "{seen:?}"
    );
    assert!(times(Round::Told) >= 1, "{seen:?}");
}

#[test]
fn f27_whichever_page_cannot_be_written_nothing_is_signed_that_was_not_stored() {
    if !can_mount() {
        untested("no file system can be mounted here");
        return;
    }
    let seen = rounds(1, |room| format!("size={}k", 4 * room));
    let times = |what| seen.iter().filter(|round| **round == what).count();
    assert!(
        times(Round::Silent) >= 3 && times(Round::Told) >= 1,
        "{seen:?}"
    );
}

fn count(folder: &Path) -> usize {
    let below = |path: PathBuf| if path.is_dir() { count(&path) } else { 1 };
    let entries = fs::read_dir(folder).unwrap().flatten();
    1 + entries.map(|entry| below(entry.path())).sum::<usize>()
}

/// Three parties with a program that wants too much at bo.
fn hungry(what: &str, limit: impl Fn(&World, &Path) -> Command) -> Vec<Ended> {
    let world = World::three();
    let hungry = program("hungry.py");
    let file = world.invite(hungry.to_str().unwrap(), &[what, "1"]);
    let joined: Vec<_> = (0..3)
        .map(|index| {
            let mut command = if index == 1 {
                limit(&world, &file)
            } else {
                world.join(index, &file)
            };
            command.arg("--program").arg(&hungry);
            Running::start(command)
        })
        .collect();
    let ended = joined.into_iter().map(|p| p.end_within(ALL_STOP)).collect();
    world.assert_clean();
    ended
}

#[test]
fn f37_a_program_that_its_memory_limit_ends_is_named_to_all() {
    let ended = hungry("memory", |world, file| {
        let mut command = world.join(1, file);
        command.args(["--memory", "400MiB"]);
        command
    });
    for party in ended {
        party.assert_refused("E_PROGRAM_FAILED", 75);
        assert!(party.stderr.contains("bo (did:key:"), "{}", party.stderr);
        assert!(
            party.stderr.contains("out of memory: it wanted more"),
            "{}",
            party.stderr
        );
        assert!(!party.stdout.contains("sum"), "{}", party.stdout);
    }
}

#[test]
fn f37_a_program_that_the_system_kills_for_memory_is_named_to_all() {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    // What the kernel does when memory runs out, to the largest process.
    let bo = world.home(1).to_str().unwrap().to_owned();
    let program = world.processes().into_iter().find(|(_, line)| {
        line.contains(&bo) && line.contains("/program/") && line.contains("/run/")
    });
    let (number, _) = program.expect("bo's program runs");
    let number = rustix::process::Pid::from_raw(i32::try_from(number).unwrap()).unwrap();
    rustix::process::kill_process(number, Signal::KILL).unwrap();
    for party in joined {
        let ended = party.end_within(ALL_STOP);
        ended.assert_refused("E_PROGRAM_FAILED", 75);
        assert!(ended.stderr.contains("bo (did:key:"), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("runs out of memory"),
            "{}",
            ended.stderr
        );
    }
    world.assert_clean();
}

/// A `join` of bo with so few descriptors.
fn poor(world: &World, file: &Path, descriptors: u32) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {descriptors}; exec \"$@\""))
        .arg("sh")
        .arg(QUORATE)
        .arg("--home")
        .arg(world.home(1))
        .arg("join")
        .arg(file)
        .args(["--local", "--yes", "--python"])
        .arg(python())
        .env_remove("QUORATE_HOME")
        .stdin(Stdio::null());
    command
}

#[test]
fn f37_a_program_without_descriptors_is_named_to_all() {
    let ended = hungry("files", |world, file| poor(world, file, 256));
    for party in ended {
        party.assert_refused("E_PROGRAM_FAILED", 75);
        assert!(party.stderr.contains("bo (did:key:"), "{}", party.stderr);
    }
}

#[test]
fn f37_with_too_few_descriptors_a_session_ends_by_name_wherever_they_run_out() {
    let mut worked = false;
    for descriptors in (16..=64).step_by(6) {
        let world = World::three();
        let file = world.invite("vote", &[]);
        let others = [vote(&world, 0, &file), vote(&world, 2, &file)];
        others[0].stderr.wait_for("joined       cleo");
        let mut command = poor(&world, &file, descriptors);
        command.args(["--", "--vote", "yes"]);
        let begun = Instant::now();
        let bo = Running::start(command).end_within(ALL_STOP);
        assert!(
            !bo.stderr.contains("panicked"),
            "{descriptors}: {}",
            bo.stderr
        );
        // How many are open at once depends on who is dialled when: only the last try has to work.
        let done = bo.code == Some(0);
        worked = done;
        if !done {
            assert!(bo.stderr.contains("hint:"), "{descriptors}: {}", bo.stderr);
            assert!(begun.elapsed() < ALL_STOP);
        }
        for party in others {
            if !done {
                // Whoever was not told waits for bo, as it should.
                let told = Instant::now();
                while !party.has_ended() && told.elapsed() < Duration::from_millis(300) {
                    std::thread::yield_now();
                }
                if !party.has_ended() {
                    party.signal(Signal::INT);
                }
            }
            let ended = party.end_within(ALL_STOP);
            // The result may be out when bo fails; the others have it then.
            assert!(
                ended.code == Some(0) || !done && ended.code.is_some(),
                "{descriptors}: {}",
                ended.stderr
            );
        }
    }
    assert!(worked, "64 are enough for three parties");
}
