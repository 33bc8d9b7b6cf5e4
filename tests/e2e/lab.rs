//! Sessions on the networks of `quorate-lab`: NATs, firewalls, distances, and what goes wrong there.
//!
//! What happens and how it has to end stands in `tests/lab/*.toml`; a test plays one file. Play it by
//! hand with `cargo run -p quorate-lab -- run tests/lab/FILE.toml`, add `--keep` to look inside.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

use crate::world::{QUORATE, python};

/// Scenarios have deadlines, so they share the machine with as few others as possible.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The lab's program lies beside the one under test.
fn program() -> PathBuf {
    let lab = Path::new(QUORATE).with_file_name("quorate-lab");
    assert!(
        lab.is_file(),
        "there is no {}: cargo build --workspace --bins",
        lab.display()
    );
    lab
}

fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/lab/{name}.toml"))
}

/// The networks of a scenario, for commands that a test starts itself. They are gone with this value.
pub struct Networks {
    holder: Child,
    open: Option<ChildStdin>,
    ways: BTreeMap<String, Vec<String>>,
}

impl Networks {
    /// Those of `tests/lab/NAME.toml`, with `hosts` hosts.
    pub fn up(name: &str, hosts: usize) -> Self {
        let mut holder = Command::new(program())
            .arg("up")
            .arg(scenario(name))
            .args(["--quorate", QUORATE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let open = holder.stdin.take();
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let said: Vec<Value> = lines
            .map_while(Result::ok)
            .take(hosts)
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect();
        assert_eq!(said.len(), hosts, "the lab says why on stderr");
        let ways = said.iter().map(|host| {
            let name = host["host"].as_str().unwrap().to_owned();
            (name, words(host["enter"].as_str().unwrap()))
        });
        Self {
            ways: ways.collect(),
            holder,
            open,
        }
    }

    /// The words that bring a command onto a host.
    pub fn enter(&self, host: &str) -> Vec<String> {
        self.ways[host].clone()
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        drop(self.open.take());
        let _ = self.holder.wait();
    }
}

/// What a shell makes of a line.
fn words(line: &str) -> Vec<String> {
    let script = format!("echo {line}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

#[track_caller]
fn assert_done(words: &[&str]) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    assert_done_beside_others(words);
}

#[track_caller]
fn assert_done_beside_others(words: &[&str]) {
    let failures = std::env::temp_dir().join("quorate-lab-failures");
    let ended = Command::new(program())
        .args(words)
        .args(["--quorate", QUORATE, "--python"])
        .arg(python())
        .arg("--out")
        .arg(failures)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        ended.status.success(),
        "{}\n{}\n{}",
        ended.status,
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

#[track_caller]
fn assert_plays(name: &str) {
    assert_done(&["run", scenario(name).to_str().unwrap()]);
}

#[track_caller]
fn assert_plays_beside_others(name: &str) {
    assert_done_beside_others(&["run", scenario(name).to_str().unwrap()]);
}

#[test]
fn three_machines_on_one_lan_of_the_lab() {
    assert_plays("lan");
}

#[test]
fn a_relay_is_reached_from_behind_every_firewall() {
    assert_plays("relay");
}

#[test]
fn f12_another_relay_takes_over_while_the_parties_look_for_each_other() {
    assert_plays("f12-relay-dies-while-joining");
}

#[test]
fn f13_another_relay_takes_over_under_a_running_session() {
    assert_plays("f13-relay-dies-while-running");
}

#[test]
fn f14_where_nothing_leads_to_the_others_it_is_said_what_was_tried() {
    assert_plays("f14-nobody-to-ask");
}

#[test]
fn f14_on_one_lan_a_dead_relay_is_not_needed() {
    assert_plays("f14-lan-without-relay");
}

#[test]
fn f16_who_is_cut_off_before_signing_comes_back_and_takes_part() {
    assert_plays("f16-partition-heals");
}

#[test]
fn f17_all_stop_when_one_is_cut_off_and_run_again_afterwards() {
    assert_plays("f17-partition-while-running");
}

#[test]
fn f18_nobody_stays_half_alive_when_one_is_heard_by_nobody() {
    assert_plays("f18-one-way-partition");
}

#[test]
fn f19_a_session_survives_a_router_that_forgets_everything() {
    assert_plays("f19-router-restarts");
}

#[test]
fn f20_a_session_survives_another_public_address_at_one_site_or_two() {
    assert_plays("f20-one-address-changes");
    assert_plays("f20-both-addresses-change");
}

#[test]
fn f21_behind_each_kind_of_nat_a_party_is_direct_or_relayed_as_the_table_says() {
    let kinds = "open,port,sym,cg-pp,tcp443,v6fw";
    assert_done(&["matrix", "--kinds", kinds, "--no-groups"]);
}

#[test]
fn f22_lost_late_and_doubled_packets_only_cost_time() {
    assert_plays("f22-loss-5");
}

#[test]
fn f23_a_slow_line_carries_a_session() {
    assert_plays("f23-one-megabit");
}

#[test]
fn f23_a_small_mtu_carries_a_session() {
    assert_plays("f23-mtu-1280");
}

#[test]
fn f23_a_network_that_swallows_long_packets_carries_a_session() {
    assert_plays("f23-black-hole");
}

#[test]
fn f33_no_capability_is_needed() {
    assert_plays("f33-no-privileges");
}

#[test]
fn f34_no_ipv6_is_needed() {
    assert_plays("f34-no-ipv6");
}

#[test]
fn f35_where_udp_is_blocked_a_relay_on_tcp_443_carries_the_session() {
    assert_plays("f35-udp-blocked");
}

#[test]
fn f36_no_name_has_to_be_resolved() {
    assert_plays("f36-no-dns");
}

#[test]
fn a_port_that_a_router_maps_makes_direct_what_would_be_relayed() {
    assert_plays("mapped");
}

#[test]
fn a_port_that_a_router_behind_a_carrier_maps_is_given_back() {
    assert_plays("mapped-behind-a-carrier");
}

#[test]
fn no_router_is_asked_against_the_users_word() {
    assert_plays("mapped-switched-off");
}

#[test]
fn messages_leave_the_relay_for_a_direct_connection_and_outlive_it() {
    assert_plays("direct-messages");
}

#[test]
fn without_any_relay_a_party_in_the_open_relays_for_the_others() {
    assert_plays("party-relays");
}

#[test]
fn where_only_direct_paths_are_allowed_a_pair_that_can_be_direct_is() {
    assert_plays("direct-only");
}

/// It waits a minute and needs no processor meanwhile, so it takes no turn of its own.
#[test]
fn where_only_direct_paths_are_allowed_a_pair_without_one_ends_the_session_and_no_relay_carries_it()
{
    assert_plays_beside_others("direct-only-fails-closed");
}

#[test]
fn what_passes_between_the_sites_names_nobody_and_nothing() {
    assert_plays("hidden");
}
