//! Programs that want more of the machine than they may have.

#![allow(clippy::panic, clippy::unwrap_used)]

mod attach_support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use attach_support::{Buffer, Ended, Guarded, PATIENCE, Running, Seat, mesh, start_confined, text};
use quorate_node::attach::ChildFds;
use quorate_node::program::supervisor::OUT_OF_MEMORY;
use quorate_node::program::{Confinement, Network, ProgramSpec, Supervisor, confine};
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

/// Tells what it can reach, who it is, and what it can do with files.
const EXPLORER: &str = "
import errno, os, socket, sys
port, folder = int(sys.argv[1]), sys.argv[2]
for target in ('127.0.0.1', port), ('192.0.2.1', 80), ('::1', port), ('2001:db8::1', 80):
    try:
        socket.create_connection(target, 2)
        print('reached', target)
    except OSError as why:
        print(errno.errorcode.get(why.errno, why.errno))
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))
    print('sent')
except OSError as why:
    print(errno.errorcode.get(why.errno, why.errno))
print(os.getuid(), os.getgid())
with open(os.path.join(folder, 'note'), 'w') as note:
    note.write('written')
print(os.stat(os.path.join(folder, 'note')).st_uid)
print(os.readlink('/proc/self/ns/net'))
";

/// Waits for its end together with a child.
const PAIR: &str = "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print(os.readlink('/proc/self/ns/net'), flush=True)
time.sleep(600)
";

/// The system's own Python: everybody can run it.
fn system_python() -> PathBuf {
    let found = ["/usr/bin/python3", "/usr/local/bin/python3"];
    let found = found.iter().map(Path::new).find(|p| p.exists());
    found.expect("a system Python: apt install python3").into()
}

async fn start(source: &str, args: Vec<String>, confinement: Confinement) -> Running {
    let (stdout, stderr) = (Buffer::default(), Buffer::default());
    let spec = ProgramSpec {
        options: Vec::new(),
        python: system_python(),
        program: text(source),
        args,
        cwd: PathBuf::from("/"),
        me: 0,
        parties: 1,
        threshold: 0,
        links: ChildFds::none(),
        confinement,
        stdout: stdout.sink(),
        stderr: stderr.sink(),
    };
    let (supervisor, events) = Supervisor::start(spec).await.expect("it starts");
    Running {
        supervisor,
        events,
        stdout,
        stderr,
    }
}

fn isolated() -> Confinement {
    Confinement {
        network: Network::None,
        memory: Some(confine::default_memory()),
    }
}

async fn explore(confinement: Confinement) -> (Ended, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let args = vec![port.to_string(), folder.path().to_str().unwrap().to_owned()];
    let ended = start(EXPLORER, args, confinement).await.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let note = std::fs::read_to_string(folder.path().join("note")).unwrap();
    assert_eq!(note, "written");
    (ended, listener)
}

/// Whether a process is in this network namespace, which keeps it alive.
fn is_used(namespace: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|p| std::fs::read_link(p.path().join("ns/net")).ok())
        .any(|found| found.as_os_str() == namespace)
}

async fn isolation_holds() {
    let own = std::fs::read_link("/proc/thread-self/ns/net").ok();
    let uid = rustix::process::getuid().as_raw().to_string();
    let who = format!("{uid} {}", rustix::process::getgid().as_raw());

    let (ended, listener) = explore(isolated()).await;
    let lines: Vec<_> = ended.stdout.lines().collect();
    // An IPv6 address without an interface is "not available", an IPv4 one is "unreachable".
    let no_route = |line: &&str| ["ENETUNREACH", "EADDRNOTAVAIL"].contains(line);
    assert!(lines[..5].iter().all(no_route), "{ended:?}");
    assert_eq!(lines[5], who, "{ended:?}");
    assert_eq!(lines[6], uid, "{ended:?}");
    assert_ne!(own.as_deref(), Some(Path::new(lines[7])), "{ended:?}");
    assert!(!is_used(lines[7]), "the namespace is left");
    assert!(listener.accept().is_err(), "something came through");

    // The same program outside reaches the listener, so the test above can fail.
    let (ended, listener) = explore(Confinement::default()).await;
    assert!(ended.stdout.starts_with("reached"), "{ended:?}");
    assert!(listener.accept().is_ok());

    let running = start(PAIR, Vec::new(), isolated()).await;
    let begun = std::time::Instant::now();
    while running.stdout.text().lines().count() < 2 {
        assert!(begun.elapsed() < PATIENCE, "{}", running.stderr.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let namespace = running.stdout.text().lines().next().unwrap().to_owned();
    assert!(is_used(&namespace));
    running.supervisor.stop().await;
    while is_used(&namespace) {
        assert!(begun.elapsed() < PATIENCE, "the child outlived the group");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a54_a_program_gets_no_route_and_keeps_files_and_user() {
    if let Err(why) = confine::probe() {
        // Such a machine runs programs with its network and says so; see the test below.
        assert!(!rustix::process::geteuid().is_root(), "{why}");
        return;
    }
    isolation_holds().await;
}

/// Not a test of its own: what the next test runs as another user.
#[tokio::test]
async fn body_of_the_ordinary_user() {
    if std::env::var_os(ORDINARY).is_some() {
        // As quorate does before it holds keys; the program itself must become inspectable again.
        let behaviour = rustix::process::DumpableBehavior::NotDumpable;
        rustix::process::set_dumpable_behavior(behaviour).unwrap();
        isolation_holds().await;
    }
}

const ORDINARY: &str = "QUORATE_TEST_ORDINARY";
/// No user has it, and it is not the number that stands for unmapped users.
const NOBODY: u32 = 54321;

#[test]
fn a54_the_same_holds_for_an_ordinary_user_without_any_capability() {
    if !rustix::process::geteuid().is_root() {
        return; // then the test above was that of an ordinary user
    }
    // The user must be able to reach the binary.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let binary = folder.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let run = |name: &str| {
        let mut command = Command::new(&binary);
        command.args(["--exact", name, "--nocapture"]);
        command.env(ORDINARY, "1").env("TMPDIR", "/tmp");
        command.current_dir("/").uid(NOBODY).gid(NOBODY);
        command.output().unwrap()
    };
    let output = run("body_of_the_ordinary_user");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn a53_a_program_that_wants_more_memory_than_it_may_have_ends_with_an_error() {
    let source = "
import sys
print('began')
try:
    data = bytearray(1 << 30)
except MemoryError:
    sys.exit('too much')
print('got it')";
    for network in [Network::Machine, Network::None] {
        if network == Network::None && confine::probe().is_err() {
            continue;
        }
        let memory = Some(512 << 20);
        let ended = start(source, Vec::new(), Confinement { network, memory })
            .await
            .end()
            .await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("too much"), "{ended:?}");
        let memory = Some(2 << 30);
        let ended = start(source, Vec::new(), Confinement { network, memory })
            .await
            .end()
            .await;
        assert!(ended.stdout.contains("got it"), "{ended:?}");
    }
}

/// Waits for a value of party 0 that never comes whole.
const WAITING: &str = "
from mpyc.runtime import mpc
mpc.run(mpc.start())
print('connected')
secint = mpc.SecInt()
print(mpc.run(mpc.output(mpc.input(secint(1), senders=0))))
mpc.run(mpc.shutdown())";

/// Real MPyC as party 1 of 2 behind the real guard, and the tunnel's end of the attacker, party 0.
async fn victim(memory: u64, uvloop: &'static [&'static str]) -> (Running, DuplexStream, Guarded) {
    let mut victim = mesh(2).pop().expect("two parties");
    let args = [&["--no-prss"], uvloop].concat();
    let seat = Seat {
        me: 1,
        parties: 2,
        args: &args,
        links: victim.links.take().expect("made with links"),
        cwd: Path::new("/"),
    };
    let confinement = Confinement {
        memory: Some(memory),
        ..attach_support::confinement()
    };
    let running = start_confined(text(WAITING), seat, confinement).await;
    let (mut attacker, near) = duplex(1 << 20);
    let guard = victim.attach.clone();
    tokio::spawn(async move { guard.run_inbound(0, near).await });
    // Its number, and the header of a message of 4 GiB.
    attacker.write_all(&0_u16.to_le_bytes()).await.unwrap();
    attacker.write_all(&1_i64.to_le_bytes()).await.unwrap();
    attacker.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let begun = std::time::Instant::now();
    while !running.stdout.text().contains("connected") {
        assert!(begun.elapsed() < PATIENCE, "{}", running.stderr.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (running, attacker, victim)
}

#[tokio::test]
async fn a53_an_endless_body_ends_the_program_by_name_and_not_the_machine() {
    for uvloop in [&[][..], &["--no-uvloop"]] {
        let memory = 256 << 20;
        let (running, mut attacker, _guard) = victim(memory, uvloop).await;
        let flood = async {
            let chunk = vec![0; 1 << 20];
            while attacker.write_all(&chunk).await.is_ok() {}
        };
        let (ended, ()) = tokio::join!(running.end(), flood);
        assert_eq!(ended.code, Some(OUT_OF_MEMORY), "{ended:?}");
        assert!(ended.stderr.contains("a party sent more"), "{ended:?}");
    }
}

#[tokio::test]
async fn a53_a_length_of_4_gib_and_a_trickle_take_no_memory_and_end_when_quorate_says() {
    let (running, mut attacker, guard) = victim(256 << 20, &[]).await;
    for _ in 0..3 {
        attacker.write_all(&[0]).await.unwrap();
    }
    let begun = std::time::Instant::now();
    while guard.attach.counters()[0].rx < 2 + 12 + 3 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = format!("/proc/{}/status", running.supervisor.pid());
    let status = std::fs::read_to_string(status).unwrap();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib: u64 = resident
        .and_then(|r| r.split_whitespace().next()?.parse().ok())
        .expect("it says how much memory it uses");
    assert!(kib < 200 << 10, "{kib} KiB");
    // What the session does at `endBy`, and at any other end.
    running.supervisor.stop().await;
    assert!(running.end().await.code != Some(0));
}
