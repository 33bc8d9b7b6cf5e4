//! Three machines on one LAN: namespaces with a bridge between them, no `--local`.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use crate::world::{QUORATE, Running, World, python};

/// The namespaces, gone with this value.
struct Lan {
    holder: Child,
    open: Option<ChildStdin>,
    machines: Vec<String>,
}

impl Lan {
    fn new(machines: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/lan.sh");
        let mut holder = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--net",
                "--fork",
                "--kill-child",
                "sh",
            ])
            .arg(script)
            .arg(machines.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux is needed: sudo apt install util-linux");
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let pids: Vec<String> = lines.map_while(Result::ok).take(machines).collect();
        assert_eq!(
            pids.len(),
            machines,
            "no namespaces: sudo apt install iproute2; where they are forbidden: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        );
        Self {
            open: holder.stdin.take(),
            holder,
            machines: pids,
        }
    }

    /// A command on one of the machines.
    fn on(&self, machine: usize, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.machines[machine],
            "-U",
            "-n",
            "--preserve-credentials",
        ]);
        command
            .args(words)
            .env_remove("QUORATE_HOME")
            .stdin(Stdio::null());
        command
    }

    fn join(&self, world: &World, index: usize, file: &Path, extra: &[&str]) -> Command {
        let home = world.home(index);
        let python: PathBuf = python();
        let mut command = self.on(
            index,
            &[
                QUORATE,
                "--home",
                home.to_str().unwrap(),
                "join",
                file.to_str().unwrap(),
            ],
        );
        command
            .args(["--yes", "--python"])
            .arg(python)
            .args(extra)
            .args(["--", "--vote", "yes"]);
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Its end is the end of every process that holds a namespace.
        drop(self.open.take());
        let _ = self.holder.wait();
    }
}

#[track_caller]
fn assert_voted(parties: Vec<Running>) {
    for party in parties {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("yes 3, no 0"), "{}", ended.stdout);
        let mesh = ended
            .stderr
            .lines()
            .find(|l| l.trim_start().starts_with("mesh"))
            .unwrap_or_default();
        assert_eq!(mesh.matches(" direct").count(), 2, "{}", ended.stderr);
    }
}

#[test]
fn three_machines_find_each_other_by_mdns_and_meet_directly() {
    let world = World::three();
    let lan = Lan::new(3);
    let file = world.invite("vote", &[]);
    let parties = (0..3)
        .map(|index| Running::start(lan.join(&world, index, &file, &[])))
        .collect();
    assert_voted(parties);
    world.assert_clean();
}

#[test]
fn where_mdns_is_blocked_one_address_is_enough() {
    let world = World::three();
    let lan = Lan::new(3);
    for machine in 0..3 {
        // Nothing that is addressed to everybody gets out.
        let blocked = lan
            .on(
                machine,
                &["ip", "route", "add", "unreachable", "224.0.0.0/4"],
            )
            .status()
            .unwrap();
        assert!(blocked.success());
        let multicast = lan
            .on(
                machine,
                &[
                    "ip", "-6", "route", "del", "ff00::/8", "dev", "eth0", "table", "local",
                ],
            )
            .status();
        drop(multicast);
    }
    let file = world.invite("vote", &[]);
    let first = Running::start(lan.join(&world, 0, &file, &[]));
    first.stderr.wait_for("reachable");
    let said = first.stderr.text();
    let address = said
        .split_whitespace()
        .find(|w| w.starts_with("/ip4/10.77.0.1/"))
        .expect("its LAN address is shown");
    let parties =
        (1..3).map(|index| Running::start(lan.join(&world, index, &file, &["--at", address])));
    assert_voted(parties.chain([first]).collect());
    world.assert_clean();
}
