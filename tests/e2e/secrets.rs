//! Where secrets must not be: logs, arguments, environments, files that others may get, packets.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use quorate_identity::base64url;
use quorate_session::Bundle;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    capture::{contains, recorded},
    world::{QUORATE, World, program, python},
};

/// A private argument, which nobody but its party may see.
const PRIVATE: &str = "private-argument-7715";

/// The ways in which 32 secret bytes are likely to be written down.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex = secret.iter().fold(String::new(), |mut hex, b| {
        let _ = write!(hex, "{b:02x}");
        hex
    });
    let list: Vec<String> = secret.iter().map(u8::to_string).collect();
    vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        base64url::encode(secret).into_bytes(),
        base64url::encode(secret)
            .replace('-', "+")
            .replace('_', "/")
            .into_bytes(),
        list.join(", ").into_bytes(),
        list.join(",").into_bytes(),
    ]
}

/// All secrets that a test can know: the parties' keys, the secret of the bundle, a private argument.
fn secrets(world: &World, bundle: &Path) -> Vec<Vec<u8>> {
    let mut secrets = vec![PRIVATE.as_bytes().to_vec()];
    for index in 0..world.names.len() {
        let file = fs::read(world.home(index).join("data/identity/default.json")).unwrap();
        let key: Value = serde_json::from_slice(&file).unwrap();
        let seed = base64url::decode(key["seed"].as_str().unwrap()).unwrap();
        assert_eq!(seed.len(), 32);
        secrets.extend(forms(&seed));
    }
    let bundle = Bundle::parse(&fs::read_to_string(bundle).unwrap()).unwrap();
    secrets.extend(forms(bundle.secret.as_bytes()));
    secrets
}

#[track_caller]
fn assert_free(of: &[Vec<u8>], place: &str, content: &[u8]) {
    for secret in of {
        assert!(
            !contains(content, secret),
            "{place} holds a secret: {}",
            String::from_utf8_lossy(secret)
        );
    }
}

fn all_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => all_files(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// Every file of the world but the keys, the bundle and the file with the private argument.
fn assert_files_free(world: &World, secrets: &[Vec<u8>], but: &[&Path]) {
    let mut files = Vec::new();
    all_files(world.folder.path(), &mut files);
    for file in files {
        // The organizer keeps what it signed, with the secret by which a cancel finds the parties.
        let kept = file
            .parent()
            .is_some_and(|folder| folder.ends_with("state/issued"));
        let key = file.ends_with("data/identity/default.json");
        if kept || key {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        } else if !but.contains(&file.as_path()) {
            let content = fs::read(&file).unwrap_or_default();
            assert_free(secrets, &file.display().to_string(), &content);
        }
    }
}

fn private_args(world: &World) -> PathBuf {
    let file = world.path("private-args");
    fs::write(&file, format!("{PRIVATE}\n")).unwrap();
    file
}

#[test]
fn a58_no_secret_is_in_logs_or_files_or_packets_of_a_run() {
    let world = World::three();
    let marker = program("marker.py");
    let bundle = world.invite(marker.to_str().unwrap(), &[]);
    let private = private_args(&world);
    let join = |index: usize| {
        json!([
            QUORATE,
            "-vvv",
            "--log-file",
            world.path(&format!("{index}.log")),
            "--home",
            world.home(index),
            "join",
            bundle,
            "--local",
            "--yes",
            "--python",
            python(),
            "--program",
            marker,
            "--private-args",
            private
        ])
    };
    let (ended, frames) = recorded(&world, &json!([join(0), join(1), join(2)]));
    let secrets = secrets(&world, &bundle);
    for (index, party) in ended.as_array().unwrap().iter().enumerate() {
        assert_eq!(party["code"], 0, "{}", party["said"]);
        assert_free(
            &secrets,
            "what a party said",
            party["said"].as_str().unwrap().as_bytes(),
        );
        let log = fs::read(world.path(&format!("{index}.log"))).unwrap();
        assert!(log.len() > 10_000, "the log says little: {}", log.len());
    }
    for frame in &frames {
        assert_free(&secrets, "a packet", frame);
    }
    assert_files_free(&world, &secrets, &[&bundle, &private]);
}

#[test]
fn a58_no_secret_is_in_arguments_or_environment_and_memory_is_not_dumped() {
    let world = World::three();
    let slow = program("slow.py");
    let bundle = world.invite(slow.to_str().unwrap(), &[]);
    let private = world.path("private-args");
    fs::write(&private, format!("1000000\n{PRIVATE}\n")).unwrap();
    let joined = world.all_join(&bundle, |_, command| {
        command
            .arg("--program")
            .arg(&slow)
            .arg("--private-args")
            .arg(&private);
    });
    for party in &joined {
        party.stdout.wait_for("first round done");
    }
    let secrets = secrets(&world, &bundle);
    let processes = world.processes();
    assert!(
        processes.len() >= 6,
        "three nodes and three programs: {processes:?}"
    );
    for (pid, _) in &processes {
        for name in ["cmdline", "environ"] {
            // What cannot be read by us is no leak to others either.
            let content = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            assert_free(&secrets, &format!("/proc/{pid}/{name}"), &content);
        }
    }
    for party in &joined {
        let limits = fs::read_to_string(format!("/proc/{}/limits", party.pid())).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size"));
        let words: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(words[4], "0", "a crash would write a core file");
    }
    for party in &joined {
        party.signal(Signal::INT);
    }
    for party in joined {
        party.end();
    }
    assert_files_free(&world, &secrets, &[&bundle, &private]);
    world.assert_clean();
}

#[test]
fn a58_commands_that_read_a_key_without_a_session_leave_no_core_file_either() {
    let world = World::new(&["alba"]);
    let mut verify = world.quorate(0);
    verify
        .args(["verify", "-"])
        .stdin(std::process::Stdio::piped());
    let mut child = verify
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let core = || {
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size"));
        core.unwrap().split_whitespace().nth(4).map(str::to_owned)
    };
    crate::world::eventually("it switches core files off", || {
        core().as_deref() == Some("0")
    });
    // What is not dumpable belongs to root, whoever runs it; among root's processes the two cannot be told apart.
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a58_a_secret_would_be_found() {
    let world = World::new(&["alba", "bo", "cleo"]);
    let bundle = world.invite("vote", &[]);
    let secrets = secrets(&world, &bundle);
    let content = fs::read(world.home(1).join("data/identity/default.json")).unwrap();
    assert!(secrets.iter().any(|s| contains(&content, s)));
}
