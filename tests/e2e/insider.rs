//! Who is not party j does not become party j: not from outside, and not with a place of one's own.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::world::{QUORATE, Running, World, program, python};

/// The cheating party, built beside the tests.
fn insider() -> PathBuf {
    let path = Path::new(QUORATE)
        .parent()
        .unwrap()
        .join("examples/insider");
    assert!(path.exists(), "{} is built by `cargo test`", path.display());
    path
}

#[test]
fn a51_an_insider_that_claims_another_number_ends_the_session_for_all_and_gets_nothing() {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let honest = |index: usize| {
        let mut command = world.join(index, &file);
        command.arg("--program").arg(&slow);
        Running::start(command)
    };
    let (alba, cleo) = (honest(0), honest(2));
    let notes = world.path("notes");
    let mut cheat = Command::new(insider());
    cheat
        .arg(world.home(1))
        .arg(&file)
        .arg(&slow)
        .arg(python())
        .arg(program("insider.py"))
        .arg(&notes);
    let cheat = Running::start(cheat);

    for (party, name) in [(alba, "alba"), (cleo, "cleo")] {
        let ended = party.end();
        ended.assert_refused("E_PID_SPOOF", 73);
        assert!(
            ended.stderr.contains("bo (did:key:"),
            "{name}: {}",
            ended.stderr
        );
        let lie = ended.stderr.contains("claimed to be party 0");
        assert!(lie, "{name}: {}", ended.stderr);
        // Party 0 dials and may think itself connected; the one that was lied to must not.
        let connected = ended.stdout.contains("All 3 parties connected");
        assert!(name == "alba" || !connected, "{name}: {}", ended.stdout);
    }
    cheat.end();
    let notes = std::fs::read_to_string(&notes).unwrap();
    assert!(
        notes.contains("dialling as party 0"),
        "the attack did not take place"
    );
    assert!(
        !notes.contains("GOT"),
        "the insider was given something:\n{notes}"
    );
    world.assert_clean();
}

#[test]
fn a50_an_outsider_that_dials_every_port_gets_no_share_and_disturbs_nobody() {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &["200"]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&slow);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    for party in &joined {
        let said = party.stderr.text();
        let port = said
            .split("/ip4/127.0.0.1/tcp/")
            .nth(1)
            .and_then(|r| r.split('/').next())
            .expect("its port is shown");
        let got = outsider(port.parse().unwrap());
        // The overlay greets with the name of its handshake and then wants Noise.
        let greeting = String::from_utf8_lossy(&got).into_owned();
        assert!(
            got.len() <= 64 && (got.is_empty() || greeting.contains("/multistream/1.0.0")),
            "{greeting:?}"
        );
    }
    for party in joined {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("total 597"), "{}", ended.stdout);
    }
}

/// Says to a port what MPyC's party 0 would say, and gives everything that comes back.
fn outsider(port: u16) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut hello = 0u16.to_le_bytes().to_vec();
    hello.extend([0; 32]);
    stream.write_all(&hello).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        got.extend_from_slice(&buffer[..count]);
    }
    got
}
