//! The life of a session as its user sees and steers it: status, leave, cancel, a second join, the control socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{Ended, Running, World, eventually, output, program, untested};

/// All stop within this time after an abort or cancel; the bar is 5 s, the machine may be busy.
const ALL_STOP: Duration = Duration::from_secs(15);

/// Three parties in a program that goes on until it is stopped.
pub fn running_world() -> (World, PathBuf, Vec<Running>) {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    (world, file, joined)
}

fn command(world: &World, index: usize, args: &[&str]) -> Ended {
    let mut command = world.quorate(index);
    command.args(args);
    output(command)
}

/// The lines of `status --json`.
fn status(world: &World, index: usize) -> Vec<Value> {
    let shown = command(world, index, &["status", "--json"]);
    shown.assert_done();
    let lines = shown.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The control sockets of a home.
fn sockets(world: &World, index: usize) -> Vec<PathBuf> {
    let run = world.home(index).join("run");
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    entries
        .map(|e| e.path().join("control"))
        .filter(|p| p.exists())
        .collect()
}

#[test]
fn status_shows_every_state_of_a_session_and_how_it_ended() {
    let world = World::three();
    assert!(status(&world, 0).is_empty());
    let file = world.invite("vote", &[]);
    let mut first = world.join(0, &file);
    first.args(["--", "--vote", "yes"]);
    let first = Running::start(first);
    first.stderr.wait_for("waiting      for bo, cleo");
    let open = status(&world, 0).remove(0);
    assert_eq!(open["state"], "open");
    assert_eq!(open["role"], "organizer");
    assert_eq!(open["schema"], "https://quorate.org/schemas/v1/status.json");
    assert_eq!(open["parties"][0]["you"], true);
    assert_eq!(open["parties"][1]["waiting_for"], "connection");
    assert_eq!(open["parties"][1]["did"], world.dids[1]);

    let watching = Running::start({
        let mut command = world.quorate(0);
        command.args(["status", "--watch", "--json"]);
        command
    });
    watching.stdout.wait_for("\"state\":\"open\"");
    let others: Vec<_> = [1, 2]
        .map(|index| {
            let mut command = world.join(index, &file);
            command.args(["--", "--vote", "no"]);
            Running::start(command)
        })
        .into();
    for party in others.into_iter().chain([first]) {
        party.end().assert_done();
    }
    let watched = watching.end();
    watched.assert_done();
    let seen: Vec<Value> = watched
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let last = seen.last().unwrap();
    assert_eq!(
        (&last["state"], &last["end"]["exit"]),
        (&"clean".into(), &0.into())
    );
    assert_eq!(last["end"]["receipts"], 3);
    assert_eq!(last["run"], 1);

    let ended = status(&world, 2).remove(0);
    assert_eq!(
        (&ended["state"], &ended["role"]),
        (&"clean".into(), &"party".into())
    );
    let shown = command(&world, 1, &["status"]);
    shown.assert_done();
    assert!(
        shown.stderr.contains("finished · vote.py · run 1"),
        "{}",
        shown.stderr
    );
    assert!(shown.stdout.is_empty(), "stdout is for --json");
    command(&world, 1, &["status", "nonesuch"]).assert_refused("E_NO_SESSION", 2);
    world.assert_clean();
}

#[test]
fn status_of_a_running_session_shows_links_with_bytes_and_quorate_alone_mentions_it() {
    let (world, _, joined) = running_world();
    let running = status(&world, 1).remove(0);
    assert_eq!(running["state"], "running");
    assert_eq!(running["words"].as_array().unwrap().len(), 12);
    assert!(
        joined[1].stderr.text().contains(
            &running["words"]
                .as_array()
                .unwrap()
                .iter()
                .map(|w| w.as_str().unwrap())
                .collect::<Vec<_>>()
                .join("-")
        )
    );
    let links = running["links"].as_array().unwrap();
    let ends: Vec<_> = links
        .iter()
        .map(|l| (l["a"].as_u64().unwrap(), l["b"].as_u64().unwrap()))
        .collect();
    assert_eq!(ends, [(0, 1), (1, 2)]);
    for link in links {
        assert!(
            link["tx"].as_u64().unwrap() > 0 && link["rx"].as_u64().unwrap() > 0,
            "{link}"
        );
        assert!(link["rtt_ms"].as_f64().unwrap() >= 0.0);
        assert_eq!(link["path"], "local");
    }
    let alone = command(&world, 1, &[]);
    assert!(
        alone.stderr.contains("running · slow.py · run 1"),
        "{}",
        alone.stderr
    );
    for party in &joined {
        party.signal(Signal::INT);
    }
    for party in joined {
        party.end();
    }
    world.assert_clean();
}

#[test]
fn leave_ends_the_session_for_all_within_seconds_and_names_who_left() {
    let (world, _, joined) = running_world();
    let begun = Instant::now();
    command(&world, 1, &["leave"]).assert_done();
    for (index, party) in joined.into_iter().enumerate() {
        let ended = party.end_within(ALL_STOP);
        ended.assert_refused("E_LEFT", 75);
        assert!(
            ended.stderr.contains("bo (did:key:"),
            "party {index}: {}",
            ended.stderr
        );
    }
    assert!(begun.elapsed() < ALL_STOP);
    world.assert_clean();
    command(&world, 1, &["leave"]).assert_refused("E_NO_SESSION", 2);
}

#[test]
fn f39_an_organizer_who_takes_part_cancels_a_running_session() {
    let (world, file, joined) = running_world();
    let begun = Instant::now();
    command(&world, 1, &["cancel", "slow"]).assert_refused("E_NOT_ISSUER", 73);
    command(&world, 0, &["cancel", "slow", "--reason", "wrong year"]).assert_done();
    for party in joined {
        let ended = party.end_within(ALL_STOP);
        ended.assert_refused("E_CANCELLED", 75);
        assert!(ended.stderr.contains("wrong year"), "{}", ended.stderr);
    }
    assert!(begun.elapsed() < ALL_STOP, "{:?}", begun.elapsed());
    let mut again = world.join(2, &file);
    again.arg("--program").arg(program("slow.py"));
    output(again).assert_refused("E_REPLAY", 72);
    world.assert_clean();
}

#[test]
fn f39_an_organizer_whose_part_does_not_run_cancels_while_others_wait() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let waiting: Vec<_> = [1, 2]
        .map(|index| {
            let mut command = world.join(index, &file);
            command.args(["--", "--vote", "yes"]);
            Running::start(command)
        })
        .into();
    for (party, other) in waiting.iter().zip(["cleo", "bo"]) {
        party.stderr.wait_for(&format!("joined       {other}"));
    }
    let done = command(&world, 0, &["cancel", "vote", "--local", "--wait", "60s"]);
    done.assert_done();
    for party in waiting {
        party.end_within(ALL_STOP).assert_refused("E_CANCELLED", 75);
    }
    let mut late = world.join(0, &file);
    late.args(["--", "--vote", "yes"]);
    output(late).assert_refused("E_REPLAY", 72);
    command(&world, 1, &["cancel", "vote", "--local"]).assert_refused("E_NO_SESSION", 2);
    world.assert_clean();
}

#[test]
fn cancel_takes_the_session_that_its_user_signed_and_not_one_of_the_same_name() {
    let world = World::three();
    let slow = program("slow.py");
    // bo and cleo are in a session of alba's, which they call `slow`; bo signs another one of that title.
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    let mut own = world.quorate(1);
    let with = format!("alba={},cleo={}", world.dids[0], world.dids[2]);
    own.arg("invite")
        .arg(&slow)
        .args(["--me", "bo", "--with", &with, "--out"]);
    own.arg(world.path("own.quorate"));
    output(own).assert_done();
    let cancel = ["cancel", "slow", "--local", "--wait", "1s"];
    // Nobody is in bo's own one yet; alba's goes on.
    command(&world, 1, &cancel).assert_refused("E_NO_PATH", 71);
    assert!(!joined.iter().any(Running::has_ended));
    command(&world, 0, &cancel).assert_done();
    for party in joined {
        party.end_within(ALL_STOP).assert_refused("E_CANCELLED", 75);
    }
}

#[test]
fn a_session_that_is_stopped_hangs_nobody_who_asks_it() {
    let (world, file, joined) = running_world();
    let mut twin = world.join(1, &file);
    twin.arg("--program").arg(program("slow.py"));
    let twin = Running::start(twin);
    twin.stderr.wait_for("attached");
    let begun = Instant::now();
    joined[1].signal(Signal::STOP);
    let leave = command(&world, 1, &["leave"]);
    leave.assert_refused("E_NO_SESSION", 2);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let attached = twin.end_within(Duration::from_secs(40));
    attached.assert_refused("E_NO_SESSION", 2);
    for stderr in [&leave.stderr, &attached.stderr] {
        assert!(stderr.contains("is stopped"), "{stderr}");
        assert!(stderr.contains("kill -CONT"), "{stderr}");
    }
    joined[1].signal(Signal::CONT);
    for party in joined {
        party.signal(Signal::INT);
        party.end();
    }
}

#[test]
fn a_cancel_that_reaches_nobody_says_so_and_is_kept() {
    let world = World::three();
    world.invite("vote", &[]);
    let done = command(&world, 0, &["cancel", "vote", "--local", "--wait", "1s"]);
    done.assert_refused("E_NO_PATH", 71);
    assert!(done.stderr.contains("bo, cleo"), "{}", done.stderr);
}

#[test]
fn f30_a_second_join_of_the_same_session_attaches_to_the_first() {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &["60"]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    joined[1].stdout.wait_for("first round done");
    let mut twin = world.join(1, &file);
    twin.arg("--program").arg(&slow);
    let twin = Running::start(twin);
    twin.stderr.wait_for("attached");
    // Ctrl-C on a third one ends only that one.
    let third = Running::start({
        let mut third = world.join(1, &file);
        third.arg("--program").arg(&slow);
        third
    });
    third.stderr.wait_for("running");
    third.signal(Signal::INT);
    assert_eq!(third.end().code, Some(130));
    for party in joined {
        party.end().assert_done();
    }
    let ended = twin.end();
    ended.assert_done();
    assert!(ended.stdout.is_empty(), "the output is the first command's");
    world.assert_clean();
}

#[test]
fn f30_an_attached_join_ends_with_the_exit_code_of_the_first() {
    let (world, file, joined) = running_world();
    let twin = Running::start({
        let mut twin = world.join(2, &file);
        twin.arg("--program").arg(program("slow.py"));
        twin
    });
    twin.stderr.wait_for("attached");
    joined[0].signal(Signal::INT);
    let mut codes = Vec::new();
    for party in joined.into_iter().chain([twin]) {
        codes.push(party.end_within(ALL_STOP).code.unwrap());
    }
    assert_eq!(codes, [130, 75, 75, 75]);
    world.assert_clean();
}

/// Sends bytes to a control socket and reads until it closes, or until `patience` is over.
fn ask(socket: &Path, bytes: &[u8], patience: Duration) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a56_the_control_socket_is_private_strict_bounded_and_never_blocks_the_session() {
    let (world, _, joined) = running_world();
    let socket = sockets(&world, 0).remove(0);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&socket), mode(socket.parent().unwrap())),
        (0o600, 0o700)
    );
    let wait = Duration::from_secs(20);
    for (request, code) in [
        (&b"nonsense\n"[..], "E_FORMAT"),
        (b"{\"v\":1,\"do\":\"status\",\"x\":1}\n", "E_FORMAT"),
        (b"{\"v\":9,\"do\":\"status\"}\n", "E_VERSION"),
        (&[b'x'; 5000], "E_LIMIT"),
    ] {
        let answer = ask(&socket, request, wait);
        assert!(answer.contains(code), "{answer}");
    }
    // Clients that say nothing, and clients that never read, fill the places for a moment only.
    let silent: Vec<_> = (0..12)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    eventually("there is room again", || {
        ask(&socket, b"{\"v\":1,\"do\":\"status\"}\n", wait).contains("\"state\":\"running\"")
    });
    drop(silent);
    let deaf: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"{\"v\":1,\"do\":\"watch\"}\n").unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert!(line.contains("running"), "{line}");
            stream
        })
        .collect();
    command(&world, 0, &["leave"]).assert_done();
    drop(deaf);
    for party in joined {
        party.end_within(ALL_STOP).assert_refused("E_LEFT", 75);
    }
    world.assert_clean();
}

/// A Python that other users may run too.
fn system_python() -> &'static str {
    let system = "/usr/bin/python3";
    if Path::new(system).exists() {
        system
    } else {
        "python3"
    }
}

#[test]
fn a56_another_user_gets_no_answer_from_the_control_socket() {
    // Another user is somebody whose number the kernel tells apart: in a user namespace with two of them, where it is allowed.
    let allowed = Command::new("unshare")
        .args(["--user", "--map-root-user", "--map-auto", "true"])
        .status()
        .is_ok_and(|s| s.success());
    let (world, _, joined) = running_world();
    let socket = sockets(&world, 0).remove(0);
    let root = rustix::process::geteuid().is_root();
    if root || allowed {
        // The folders are opened for the test only, so that the socket's own check is what refuses.
        for folder in socket
            .ancestors()
            .skip(1)
            .take_while(|f| f.starts_with(world.folder.path()))
        {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.sendall(b'{\"v\":1,\"do\":\"status\"}\\n')\nprint('answer', s.recv(10))";
        let mut other = if root {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            setpriv
        } else {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user", "--map-auto", "--setuid", "1"]);
            unshare
        };
        let asked = other
            .args([system_python(), "-c", script])
            .arg(&socket)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        // It is closed before, while or after the request is written.
        let cut = ["ConnectionResetError", "BrokenPipeError"];
        let complaint = String::from_utf8_lossy(&asked.stderr);
        let refused =
            said.contains("answer b''") || cut.iter().any(|error| complaint.contains(error));
        assert!(refused, "{said}{}", String::from_utf8_lossy(&asked.stderr));
        assert_eq!(status(&world, 0)[0]["state"], "running");
    } else {
        // The test of the control server plays the stranger's part the other way round, on every machine.
        untested(
            "no second user can be had here, neither root nor subordinate users: only the server's own test has seen it",
        );
    }
    for party in &joined {
        party.signal(Signal::INT);
    }
    for party in joined {
        party.end();
    }
}

/// Starts a join in the background and gives its process.
fn detach(world: &World, index: usize, file: &Path, rest: &[&str]) -> u32 {
    let mut join = world.join(index, file);
    join.arg("--detach").args(rest);
    let said = output(join);
    said.assert_done();
    assert!(said.stderr.contains("quorate leave"), "{}", said.stderr);
    let number = said
        .stderr
        .split("in the background, process ")
        .nth(1)
        .unwrap();
    number.split_whitespace().next().unwrap().parse().unwrap()
}

/// The only file with this extension in the logs of a home.
fn log(world: &World, index: usize, extension: &str) -> PathBuf {
    let entries = std::fs::read_dir(world.home(index).join("state/logs")).unwrap();
    let mut paths = entries.flatten().map(|e| e.path());
    paths
        .find(|p| p.extension().is_some_and(|x| x == extension))
        .unwrap()
}

#[test]
fn a_detached_join_takes_part_without_terminal_arguments_or_environment_that_tell_its_input() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let processes: Vec<u32> = (0..2)
        .map(|index| detach(&world, index, &file, &["--", "--vote", "yes"]))
        .collect();
    for process in &processes {
        for what in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{process}/{what}")).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&bytes).contains("--vote"),
                "{what}"
            );
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(*process).unwrap()).unwrap();
        let session = rustix::process::getsid(Some(pid)).unwrap();
        assert_eq!(session, pid, "it leads a session of its own");
        // The end of a terminal is no wish to stop.
        rustix::process::kill_process(pid, Signal::HUP).unwrap();
    }
    assert_eq!(status(&world, 0)[0]["process"], processes[0]);
    let watching = Running::start({
        let mut command = world.quorate(1);
        command.args(["status", "--watch"]);
        command
    });
    watching.stderr.wait_for("waiting for connection");
    let cleo = Running::start({
        let mut command = world.join(2, &file);
        command.args(["--", "--vote", "no"]);
        command
    });
    cleo.end().assert_done();
    watching.end().assert_done();
    for index in 0..2 {
        let (said, result) = (log(&world, index, "log"), log(&world, index, "out"));
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        eventually("the result is in the file", || {
            text(&result).contains("yes 2, no 1")
        });
        eventually("the log has its end", || text(&said).contains("finished"));
        for path in [said, result] {
            assert_eq!(
                std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
    world.assert_clean();
}

#[test]
fn a_detached_join_is_left_from_another_terminal_and_one_that_cannot_begin_says_why() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    detach(&world, 1, &file, &["--", "--vote", "yes"]);
    command(&world, 1, &["leave"]).assert_done();
    assert_eq!(status(&world, 1)[0]["end"]["code"], "E_LEFT");
    world.assert_clean();
    std::fs::remove_dir_all(world.home(2).join("run")).ok();
    std::fs::write(world.home(2).join("run"), b"").unwrap();
    let mut join = world.join(2, &file);
    join.args(["--detach", "--", "--vote", "yes"]);
    let ended = output(join);
    assert_eq!(ended.code, Some(76), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint:"), "{}", ended.stderr);
}
