//! `quorate relay` and `quorate doctor` as an operator and a user meet them.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    first_contact::ticket,
    json::Schemas,
    world::{Ended, QUORATE, Running, World, eventually, output, python},
};

/// `quorate` with a home of its own.
fn quorate(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(QUORATE);
    command
        .env_remove("QUORATE_HOME")
        .env_remove("QUORATE_RELAY")
        .arg("--home")
        .arg(home)
        .args(args);
    command
}

/// A port that is free for TCP and UDP, and below those that the system gives to others meanwhile.
fn free_port() -> u16 {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    loop {
        let drawn = DRAWN.fetch_add(7, Ordering::Relaxed) + std::process::id();
        let port = u16::try_from(20_000 + drawn % 12_000).unwrap();
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if is_free {
            return port;
        }
    }
}

fn relay_on(home: &Path, port: u16) -> Command {
    let (tcp, quic) = (
        format!("/ip4/127.0.0.1/tcp/{port}"),
        format!("/ip4/127.0.0.1/udp/{port}/quic-v1"),
    );
    let args = [
        "--json",
        "relay",
        "run",
        "--only",
        "--listen",
        &tcp,
        "--listen",
        &quic,
        "--stun",
        "0,0",
        "--metrics",
        "127.0.0.1:0",
        "--name",
        "Test Ost",
        "--drain",
        "2s",
    ];
    quorate(home, &args)
}

/// A relay that runs, and what it printed at its start.
fn started(home: &Path, port: u16) -> (Running, Value) {
    let relay = Running::start(relay_on(home, port));
    relay.stdout.wait_for("\n");
    let line = relay.stdout.text();
    (relay, serde_json::from_str(&line).unwrap())
}

fn page(url: &str, path: &str) -> String {
    let host = url.strip_prefix("http://").unwrap();
    let host = host.strip_suffix("/metrics").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn check(home: &Path, address: &str) -> Ended {
    output(quorate(home, &["--json", "relay", "check", address]))
}

#[test]
fn a_relay_runs_is_found_good_and_ends_when_it_is_told_to() {
    let (schemas, home) = (Schemas::load(), tempfile::tempdir().unwrap());
    let port = free_port();
    let (relay, line) = started(home.path(), port);
    schemas.fits(&line.to_string());
    let address = line["addresses"][0].as_str().unwrap();
    let peer = line["peer"].as_str().unwrap();
    assert!(address.ends_with(peer), "{line}");
    let key = home.path().join("data/relay/key.json");
    let mode = fs::metadata(key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let user = tempfile::tempdir().unwrap();
    let checked = check(user.path(), address);
    checked.assert_done();
    let report = schemas.fits(&checked.stdout);
    assert_eq!(report["usable"], true, "{report}");
    assert_eq!(report["name"], "Test Ost");
    // The lines for people say the same.
    let lines = output(quorate(user.path(), &["relay", "check", address]));
    lines.assert_done();
    for word in ["circuit", "answers STUN", "give to users", "\"Test Ost\""] {
        assert!(lines.stderr.contains(word), "{word}: {}", lines.stderr);
    }
    assert!(lines.stdout.is_empty());

    let metrics = line["metrics"].as_str().unwrap();
    let numbers = page(metrics, "/metrics");
    assert!(
        numbers.contains("\nquorate_relay_circuits_total 2\n"),
        "{numbers}"
    );
    assert!(page(metrics, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(!numbers.contains("12D3Koo") && !numbers.contains("127.0.0.1"));

    // Another relay at the same place is refused, whatever its key is.
    let other = tempfile::tempdir().unwrap();
    let refused = output(relay_on(other.path(), port));
    assert_eq!(refused.code, Some(76), "{}", refused.stderr);
    let why = schemas.fits(refused.stderr.lines().last().unwrap());
    assert_eq!(why["code"], "E_PORT");
    assert!(why["detail"].as_str().unwrap().contains("in use"), "{why}");

    relay.signal(Signal::TERM);
    let ended = relay.end_within(Duration::from_secs(10));
    ended.assert_done();
    let said = schemas.fits(ended.stderr.lines().last().unwrap());
    assert_eq!(said["event"], "relay-draining");
    assert!(!ended.stderr.contains("did:"), "{}", ended.stderr);

    let gone = check(user.path(), address);
    assert_eq!(gone.code, Some(71), "{}", gone.stderr);
    assert_eq!(schemas.fits(&gone.stdout)["reachable"], false);
    output(quorate(user.path(), &["relay", "check", address])).assert_refused("E_NO_PATH", 71);

    // It keeps its key, and so its address.
    let (relay, again) = started(home.path(), port);
    assert_eq!(again["addresses"], line["addresses"]);
    relay.signal(Signal::INT);
    relay.end_within(Duration::from_secs(10)).assert_done();
}

/// How many reservations a relay has granted.
fn reservations(line: &Value) -> u32 {
    let metrics = page(line["metrics"].as_str().unwrap(), "/metrics");
    let total = "quorate_relay_reservations_total ";
    let total = metrics.lines().find_map(|l| l.strip_prefix(total));
    total.unwrap().parse().unwrap()
}

#[test]
fn parties_meet_at_a_relay_whose_name_is_in_the_invitation() {
    let home = tempfile::tempdir().unwrap();
    let (relay, line) = started(home.path(), free_port());
    let address = line["addresses"][0].as_str().unwrap();
    let name = address.replacen("/ip4/127.0.0.1", "/dns4/localhost", 1);
    assert!(name.starts_with("/dns4/localhost/"), "{address}");

    let world = World::new(&["noord", "sud", "ost"]);
    let file = world.invite_with(&["--relay", &name], "mpyc:secretsanta", &["3"]);
    let start = |index| Running::start(world.join(index, &file));
    let waiting = [start(0), start(1)];
    eventually("both have a place at the relay", || {
        reservations(&line) >= 2
    });
    let last = start(2);
    for party in waiting.into_iter().chain([last]) {
        let ended = party.end();
        ended.assert_done();
        assert!(!ended.stderr.contains("is not used"), "{}", ended.stderr);
    }

    // A ticket has the address: nobody looks up a name because a ticket says so.
    let before = reservations(&line);
    let mut invite = world.quorate(0);
    invite
        .args(["invite", "mpyc:secretsanta", "--local", "--seats", "3"])
        .args(["--admit", "all", "--relay", &name, "--python"])
        .arg(python())
        .args(["--", "3"]);
    let inviter = Running::start(invite);
    let mut verify = world.quorate(1);
    verify.args(["--json", "verify", &ticket(&inviter)]);
    let verified = output(verify);
    verified.assert_done();
    let hint = format!("{address}/p2p-circuit");
    assert!(verified.stdout.contains(&hint), "{}", verified.stdout);
    eventually("the lobby has a place", || reservations(&line) > before);
    inviter.signal(Signal::INT);
    inviter.end();
    relay.signal(Signal::TERM);
    relay.end_within(Duration::from_secs(10)).assert_done();
}

#[test]
fn a_service_is_printed_with_the_options_that_were_checked() {
    let home = tempfile::tempdir().unwrap();
    let unit = output(quorate(
        home.path(),
        &[
            "relay",
            "install-service",
            "--",
            "--listen",
            "443",
            "--name",
            "K O",
        ],
    ));
    unit.assert_done();
    for line in [
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    ] {
        assert!(
            unit.stdout.lines().any(|l| l == line),
            "{line}:\n{}",
            unit.stdout
        );
    }
    assert!(
        unit.stdout
            .contains("relay run --listen 443 --name \"K O\"\n")
    );
    let file = home.path().join("relay.service");
    let path = file.to_str().unwrap();
    output(quorate(
        home.path(),
        &["-q", "relay", "install-service", "--write", path],
    ))
    .assert_done();
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("CapabilityBoundingSet=\n")
    );
    let args = ["relay", "install-service", "--", "--circuits", "0"];
    output(quorate(home.path(), &args)).assert_refused("E_USAGE", 2);
}

#[test]
fn wrong_addresses_of_relays_are_refused_with_a_next_step() {
    let home = tempfile::tempdir().unwrap();
    for address in ["relay.example", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1"] {
        output(quorate(home.path(), &["relay", "check", address])).assert_refused("E_USAGE", 2);
    }
    // A name that leads nowhere, or to where no name may lead.
    let peer = "12D3KooWDFXiHd5vZo96K6Z27XH74URUXMRKPHAzwxyj5u6ptkcg";
    let there = format!("/dns4/localhost/tcp/4001/p2p/{peer}");
    let led = output(quorate(home.path(), &["relay", "check", &there]));
    led.assert_refused("E_NO_PATH", 71);
    for words in [
        "the name localhost leads to 127.0.0.1",
        "getent ahosts localhost",
    ] {
        assert!(led.stderr.contains(words), "{words}: {}", led.stderr);
    }
    let no_name = format!("/dns4/127.1/tcp/4001/p2p/{peer}");
    output(quorate(home.path(), &["relay", "check", &no_name])).assert_refused("E_USAGE", 2);
    let args = ["relay", "run", "--only", "--listen", "/ip4/127.0.0.1/udp/1"];
    output(quorate(home.path(), &args)).assert_refused("E_ADDRESS", 76);
    let args = ["relay", "run", "--port", "0", "--metrics", "0.0.0.0:0"];
    output(quorate(home.path(), &args)).assert_refused("E_ADDRESS", 76);
}

#[test]
fn the_doctor_names_what_is_wrong_and_its_report_names_nobody() {
    let (schemas, home) = (Schemas::load(), tempfile::tempdir().unwrap());
    let user = tempfile::tempdir().unwrap();
    let (relay, line) = started(home.path(), free_port());
    let address = line["addresses"][0].as_str().unwrap();
    let interpreter = python();
    let bundle = user.path().join("report.json");
    let doctor = |more: &[&str]| {
        let mut command = quorate(user.path(), &["doctor", "--relay", address, "--python"]);
        command.arg(&interpreter).args(more);
        output(command)
    };
    let found = doctor(&["--json", "--bundle", bundle.to_str().unwrap()]);
    found.assert_done();
    let report = schemas.fits(&found.stdout);
    let verdict = |id: &str| {
        let all = report["findings"].as_array().unwrap();
        let one = all.iter().find(|f| f["id"] == id);
        one.unwrap_or_else(|| panic!("no {id}: {report}"))["verdict"].clone()
    };
    for id in ["python", "folders", "relay", "udp", "tcp", "clock", "nat"] {
        assert_eq!(verdict(id), "ok", "{id}: {report:#}");
    }
    let written = fs::read_to_string(&bundle).unwrap();
    schemas.fits(&written);
    for secret in [
        "127.0.0.1",
        "12D3Koo",
        "did:",
        user.path().to_str().unwrap(),
    ] {
        assert!(!written.contains(secret), "{secret}: {written}");
    }
    assert_eq!(
        fs::metadata(&bundle).unwrap().permissions().mode() & 0o777,
        0o600
    );
    doctor(&["--bundle", bundle.to_str().unwrap()]).assert_refused("E_DISK", 76);

    // Nobody is there to compute with, and then the relay is gone as well.
    let alone = doctor(&["--with", "ost"]);
    assert_eq!(alone.code, Some(71), "{}", alone.stderr);
    assert!(
        alone.stderr.contains("no session with ost is on"),
        "{}",
        alone.stderr
    );
    relay.signal(Signal::TERM);
    relay.end_within(Duration::from_secs(10)).assert_done();
    let gone = doctor(&[]);
    assert_eq!(gone.code, Some(71), "{}", gone.stderr);
    assert!(
        gone.stderr.contains("relay 1 cannot be reached"),
        "{}",
        gone.stderr
    );
}
