//! Three shells: everybody has an identity, one invites, all join.

use crate::world::{World, program, socket_inodes, tcp_inodes};

#[test]
fn three_joins_compute_the_same_result_from_private_files() {
    let world = World::three();
    let files = [
        "year,income\n2026,1000\n2026,3000\n",
        "year,income\n2026,2000\n2025,7\n",
        "year,income\n2026,4000\n",
    ];
    for (name, content) in world.names.iter().zip(files) {
        std::fs::write(world.path(&format!("{name}.csv")), content).unwrap();
    }
    let file = world.invite("mean-income", &["--year", "2026"]);
    let joined = world.all_join(&file, |index, command| {
        command
            .arg("--")
            .arg("--data")
            .arg(world.path(&format!("{}.csv", world.names[index])));
    });
    for party in joined {
        let ended = party.end();
        ended.assert_done();
        assert!(
            ended.stdout.contains("people 4\nmean income 2026: 2500\n"),
            "{}",
            ended.stdout
        );
        assert!(
            ended.stderr.contains("sealed       3/3"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains("receipts 3/3"), "{}", ended.stderr);
        assert!(
            !ended.stdout.contains("sealed"),
            "stdout belongs to the computation"
        );
    }
    world.assert_clean();
}

#[test]
fn the_program_has_no_tcp_port_while_it_runs() {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    let programs = world.program_processes();
    assert_eq!(programs.len(), 3, "{:?}", world.processes());
    let tcp = tcp_inodes();
    for pid in programs {
        let held = socket_inodes(pid);
        assert!(
            !held.is_empty(),
            "the program's links are sockets, so this look must find some"
        );
        assert!(
            held.iter().all(|inode| !tcp.contains(inode)),
            "a TCP socket belongs to the program"
        );
    }
    for party in &joined {
        party.signal(rustix::process::Signal::INT);
    }
    for party in joined {
        party.end();
    }
    world.assert_clean();
}

#[test]
fn ctrl_c_of_one_is_a_clean_abort_for_all() {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    joined[1].signal(rustix::process::Signal::INT);
    for (index, party) in joined.into_iter().enumerate() {
        let ended = party.end_within(std::time::Duration::from_secs(20));
        if index == 1 {
            ended.assert_refused("E_INTERRUPTED", 130);
        } else {
            ended.assert_refused("E_PARTY_LEFT", 75);
            assert!(ended.stderr.contains("bo (did:key:"), "{}", ended.stderr);
        }
    }
    world.assert_clean();
}

#[test]
fn a_party_is_waited_for_by_name_and_may_come_late() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let early: Vec<_> = (0..2)
        .map(|index| {
            let mut command = world.join(index, &file);
            command.args(["--", "--vote", "yes"]);
            crate::world::Running::start(command)
        })
        .collect();
    early[0].stderr.wait_for("joined       bo");
    assert!(
        early[0]
            .stderr
            .text()
            .contains("waiting      for bo, cleo · connection"),
        "{}",
        early[0].stderr.text()
    );
    let mut late = world.join(2, &file);
    late.args(["--", "--vote", "no"]);
    let late = crate::world::Running::start(late);
    for party in early.into_iter().chain([late]) {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("yes 2, no 1"), "{}", ended.stdout);
    }
}
