//! Three machines on one LAN: namespaces with a bridge between them, no `--local`.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use crate::world::{QUORATE, Running, World, python};

/// The namespaces, gone with this value.
pub struct Lan {
    holder: Child,
    open: Option<ChildStdin>,
    machines: Vec<String>,
}

impl Lan {
    pub fn new(machines: usize, extra: &[&str]) -> Self {
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
            .args(extra)
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

    /// The words that bring a command onto one of the machines.
    pub fn enter(&self, machine: usize) -> Vec<String> {
        let pid = &self.machines[machine];
        ["nsenter", "-t", pid, "-U", "-n", "--preserve-credentials"]
            .map(str::to_owned)
            .to_vec()
    }

    /// A command on one of the machines.
    fn on(&self, machine: usize, words: &[&str]) -> Command {
        let enter = self.enter(machine);
        let mut command = Command::new(&enter[0]);
        command
            .args(&enter[1..])
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
    let lan = Lan::new(3, &[]);
    let file = world.invite("vote", &[]);
    let parties = (0..3)
        .map(|index| Running::start(lan.join(&world, index, &file, &[])))
        .collect();
    assert_voted(parties);
    world.assert_clean();
}

/// The address that a party shows for `--at`.
fn address(party: &Running, machine: usize) -> String {
    party.stderr.wait_for("(for --at");
    let said = party.stderr.text();
    let own = format!("/ip4/10.77.0.{}/", machine + 1);
    said.split_whitespace()
        .find(|w| w.starts_with(&own))
        .expect("its LAN address is shown")
        .to_owned()
}

#[test]
fn where_mdns_is_blocked_addresses_bring_them_together() {
    let world = World::three();
    let lan = Lan::new(3, &["quiet"]);
    let file = world.invite("vote", &[]);
    let first = Running::start(lan.join(&world, 0, &file, &[]));
    let at_first = address(&first, 0);
    let second = Running::start(lan.join(&world, 1, &file, &["--at", &at_first]));
    let at_second = address(&second, 1);
    first.stderr.wait_for("joined       bo");
    let third =
        Running::start(lan.join(&world, 2, &file, &["--at", &at_first, "--at", &at_second]));
    assert_voted(vec![first, second, third]);
    world.assert_clean();
}
