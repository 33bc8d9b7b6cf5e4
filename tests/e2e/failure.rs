//! One party disappears: the others stop, say who, clean up, and can start again.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Running, World, program};

/// All stop within this time after a party's node was killed.
const ALL_STOP: Duration = Duration::from_secs(20);

fn running_world() -> (World, std::path::PathBuf, Vec<Running>) {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let joined = join_slow(&world, &file);
    (world, file, joined)
}

fn join_slow(world: &World, file: &std::path::Path) -> Vec<Running> {
    let slow = program("slow.py");
    let joined = world.all_join(file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    joined
}

fn assert_others_name_bo(joined: Vec<Running>, code: &str, killed: Instant) {
    for (index, party) in joined.into_iter().enumerate() {
        let ended =
            party.end_within(ALL_STOP.saturating_sub(killed.elapsed()) + Duration::from_secs(5));
        if index == 1 {
            continue;
        }
        ended.assert_refused(code, 75);
        assert!(ended.stderr.contains("bo (did:key:"), "{}", ended.stderr);
    }
    assert!(
        killed.elapsed() < ALL_STOP,
        "the others took {:?} to stop",
        killed.elapsed()
    );
}

#[test]
fn f05_a_killed_node_is_noticed_named_and_cleaned_up_and_a_rerun_works() {
    let (world, file, joined) = running_world();
    let killed = Instant::now();
    joined[1].signal(Signal::KILL);
    assert_others_name_bo(joined, "E_PARTY_LEFT", killed);
    crate::world::eventually("no program outlives its killed node", || {
        world.program_processes().is_empty()
    });

    let again = join_slow(&world, &file);
    for party in &again {
        party.signal(Signal::INT);
    }
    for party in again {
        party.end();
    }
    // The run folder that the killed node left was swept by its next start.
    world.assert_clean();
}

#[test]
fn a55_a_killed_program_stops_all_and_its_party_is_named() {
    let (world, _, joined) = running_world();
    let bo = world.home(1).to_string_lossy().into_owned();
    let victim = world
        .processes()
        .into_iter()
        .find(|(_, line)| line.contains(&bo) && line.contains("/program/"))
        .map(|(pid, _)| Pid::from_raw(i32::try_from(pid).unwrap()).unwrap())
        .expect("the program of bo runs");
    let killed = Instant::now();
    kill_process(victim, Signal::KILL).unwrap();
    assert_others_name_bo(joined, "E_PROGRAM_FAILED", killed);
    world.assert_clean();
}

#[test]
fn a55_a_program_that_fails_stops_all_and_its_party_is_named() {
    let world = World::three();
    let file = world.path("fails.py");
    // Fails at bo only, after all are connected, while the others wait for its share.
    std::fs::write(&file, concat!(
        "import sys\nfrom mpyc.runtime import mpc\n\n\nasync def main():\n    await mpc.start()\n",
        "    if mpc.pid == 1:\n        sys.exit('secret words of bo')\n    secint = mpc.SecInt()\n",
        "    await mpc.output(mpc.sum(mpc.input(secint(1))))\n    await mpc.shutdown()\n\n\nmpc.run(main())\n",
    )).unwrap();
    let invitation = world.invite(file.to_str().unwrap(), &[]);
    let joined = world.all_join(&invitation, |_, command| {
        command.arg("--program").arg(&file);
    });
    for (index, party) in joined.into_iter().enumerate() {
        let ended = party.end();
        ended.assert_refused("E_PROGRAM_FAILED", 75);
        assert!(ended.stderr.contains("bo (did:key:"), "{}", ended.stderr);
        let told = ended.stderr.contains("secret words");
        assert_eq!(
            told,
            index == 1,
            "what a program prints stays on its machine"
        );
    }
    world.assert_clean();
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let (world, _, joined) = running_world();
    joined[0].signal(Signal::STOP);
    joined[2].signal(Signal::STOP);
    joined[1].signal(Signal::INT);
    joined[1].stderr.wait_for("ended");
    joined[1].signal(Signal::INT);
    for party in [0, 2] {
        joined[party].signal(Signal::CONT);
    }
    for party in joined {
        party.end();
    }
    world.assert_clean();
}

#[test]
fn f29_a_damaged_record_is_put_aside_and_the_session_works() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let sessions = world.home(1).join("state/sessions");
    std::fs::create_dir_all(&sessions).unwrap();
    let invitation = std::fs::read_to_string(&file).unwrap();
    let digest = quorate_identity::Unverified::<quorate_session::Invitation>::parse(
        &quorate_session::Bundle::parse(invitation.trim())
            .unwrap()
            .invitation,
    )
    .unwrap()
    .digest();
    std::fs::write(sessions.join(format!("{digest}.json")), b"{\"v\":").unwrap();
    let joined = world.all_join(&file, |_, command| {
        command.args(["--", "--vote", "no"]);
    });
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
    assert!(sessions.join(format!("{digest}.damaged")).exists());
}
