//! What somebody sees who records everything between the parties.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::world::{QUORATE, World, program, python};

/// What `programs/marker.py` sends through its shares' stream.
const MARKER: &[u8] = b"PLAINTEXT-OF-A-SHARE-";

/// Runs commands in a network namespace of their own and gives what they said and every frame.
pub fn recorded(world: &World, commands: &Value) -> (Value, Vec<Vec<u8>>) {
    let out = world.path("frames");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/capture.py");
    let mut child = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--fork",
            "--kill-child",
            "python3",
        ])
        .arg(script)
        .arg(&out)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare of util-linux is needed: sudo apt install util-linux");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(commands.to_string().as_bytes())
        .unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(
        ended.status.success(),
        "the recording failed; where user namespaces are forbidden: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    );
    let content = fs::read(&out).unwrap();
    let mut frames = Vec::new();
    let mut rest = content.as_slice();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = tail;
    }
    (serde_json::from_slice(&ended.stdout).unwrap(), frames)
}

pub fn contains(frame: &[u8], words: &[u8]) -> bool {
    frame.windows(words.len()).any(|w| w == words)
}

/// One datagram or segment: protocol number, ports, payload. Loopback frames have an Ethernet header.
fn transport(frame: &[u8]) -> Option<(u8, u16, u16, &[u8])> {
    let ip = frame.get(14..)?;
    let (protocol, header) = match frame.get(12..14)? {
        [0x08, 0x00] => (*ip.get(9)?, usize::from(ip.first()? & 15) * 4),
        [0x86, 0xdd] => (*ip.get(6)?, 40),
        _ => return None,
    };
    let segment = ip.get(header..)?;
    let port = |at: usize| {
        Some(u16::from_be_bytes([
            *segment.get(at)?,
            *segment.get(at + 1)?,
        ]))
    };
    let data = match protocol {
        17 => 8,
        6 => usize::from(segment.get(12)? >> 4) * 4,
        _ => 0,
    };
    Some((protocol, port(0)?, port(2)?, segment.get(data..)?))
}

fn is_wireguard(payload: &[u8]) -> bool {
    matches!(payload, [1..=4, 0, 0, 0, ..])
}

fn is_stun(payload: &[u8]) -> bool {
    payload.len() >= 20 && payload[0] < 4 && payload[4..8] == [0x21, 0x12, 0xa4, 0x42]
}

#[test]
fn a_recording_holds_no_share_no_name_and_no_did() {
    let world = World::three();
    let marker = program("marker.py");
    let file = world.invite(
        marker.to_str().unwrap(),
        &["public-argument-of-the-program"],
    );
    let join = |index: usize| {
        json!([
            QUORATE,
            "--home",
            world.home(index),
            "join",
            file,
            "--local",
            "--yes",
            "--python",
            python(),
            "--program",
            marker
        ])
    };
    let (ended, frames) = recorded(&world, &json!([join(0), join(1), join(2)]));
    for party in ended.as_array().unwrap() {
        assert_eq!(party["code"], 0, "{}", party["said"]);
        assert!(
            party["said"]
                .as_str()
                .unwrap()
                .contains("all received True"),
            "{}",
            party["said"]
        );
    }
    for frame in &frames {
        for secret in [
            MARKER,
            b"did:key",
            b"marker.py",
            b"public-argument",
            b"alba",
            b"quorate/1/",
        ] {
            assert!(
                !contains(frame, secret),
                "{:?} crossed the loopback in the clear",
                String::from_utf8_lossy(secret)
            );
        }
    }
    let datagrams: Vec<_> = frames
        .iter()
        .filter_map(|f| transport(f))
        .filter(|t| t.0 == 17)
        .collect();
    let mesh: std::collections::BTreeSet<u16> = datagrams
        .iter()
        .filter(|t| is_wireguard(t.3))
        .flat_map(|t| [t.1, t.2])
        .collect();
    assert_eq!(mesh.len(), 3, "each party has one WireGuard port");
    let on_mesh = || {
        datagrams
            .iter()
            .filter(|t| mesh.contains(&t.1) || mesh.contains(&t.2))
    };
    assert!(
        on_mesh().all(|t| is_wireguard(t.3) || is_stun(t.3)),
        "something else on a WireGuard port"
    );
    let carried: usize = on_mesh().filter(|t| t.3[0] == 4).map(|t| t.3.len()).sum();
    assert!(
        carried > 2 * 6 * MARKER.len() * 8,
        "the shares went another way: {carried} bytes on the mesh"
    );
}

#[test]
fn the_recording_would_show_plain_mpyc() {
    let world = World::new(&["alba"]);
    let (ended, frames) = recorded(&world, &json!([[python(), program("marker.py"), "-M3"]]));
    assert_eq!(ended[0]["code"], 0, "{}", ended[0]["said"]);
    assert!(
        frames.iter().any(|f| contains(f, MARKER)),
        "this test could not see a share if there was one"
    );
}
