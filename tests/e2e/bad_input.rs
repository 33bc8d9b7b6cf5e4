//! Bad input: each a named refusal with a cause, a next step and its exit code; nothing is sent.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use quorate_identity::{SigningKey, UnixTime, base64url, sign};
use quorate_session::{Bundle, Invitation, RendezvousSecret, message::PathPolicy};

use crate::world::{Ended, World, output, program, python};

/// Runs `join` on a file and checks that it ended without a packet: nothing in `run`, no roster.
fn join(world: &World, index: usize, file: &Path, extra: &[&str]) -> Ended {
    let mut command = world.join(index, file);
    command.args(extra);
    let ended = output(command);
    assert!(
        !ended.stderr.contains("waiting"),
        "it went on to wait for others:\n{}",
        ended.stderr
    );
    assert!(
        !ended.stderr.contains("reachable"),
        "it opened the network:\n{}",
        ended.stderr
    );
    ended
}

fn verify(world: &World, file: &Path) -> Ended {
    let mut command = world.quorate(0);
    command.arg("verify").arg(file);
    output(command)
}

fn bundle(file: &Path) -> Bundle {
    Bundle::parse(fs::read_to_string(file).unwrap().trim()).unwrap()
}

fn write(world: &World, name: &str, invitation: &str) -> std::path::PathBuf {
    let file = world.path(name);
    let bundle = Bundle {
        invitation: invitation.into(),
        secret: RendezvousSecret::new([7; 32]),
        hints: Vec::new(),
        program: None,
    };
    fs::write(&file, bundle.encode()).unwrap();
    file
}

/// The invitation of `file`, changed and signed again by its true organizer.
fn reissued(
    world: &World,
    file: &Path,
    change: impl FnOnce(&mut Invitation),
) -> std::path::PathBuf {
    let text = bundle(file).invitation;
    let payload = base64url::decode(text.split('.').nth(1).unwrap()).unwrap();
    let mut invitation: Invitation = serde_json::from_slice(&payload).unwrap();
    change(&mut invitation);
    let signed = sign(invitation, &organizer(world)).unwrap();
    let changed = Bundle {
        invitation: signed.text().to_string(),
        ..bundle(file)
    };
    let file = world.path("reissued.quorate");
    fs::write(&file, changed.encode()).unwrap();
    file
}

fn organizer(world: &World) -> SigningKey {
    let key = fs::read_to_string(world.home(0).join("data/identity/default.json")).unwrap();
    let key: serde_json::Value = serde_json::from_str(&key).unwrap();
    let seed = base64url::decode(key["seed"].as_str().unwrap()).unwrap();
    SigningKey::from_seed(&seed.try_into().unwrap())
}

#[test]
fn a_genuine_invitation_is_verified_offline_by_anybody() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let stranger = World::new(&["dana"]);
    let mut command = stranger.quorate(0);
    command.args(["verify", "--json"]).arg(&file);
    let ended = output(command);
    ended.assert_done();
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["valid"], true);
    assert_eq!(report["issuer"], world.dids[0].as_str());
    let from_stdin = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!(
            "{} verify - < {}",
            crate::world::QUORATE,
            file.display()
        ))
        .output()
        .unwrap();
    assert!(from_stdin.status.success());
}

#[test]
fn a01_a_forged_invitation() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let text = bundle(&file).invitation;
    let (input, _) = text.rsplit_once('.').unwrap();
    let forger = SigningKey::from_seed(&[9; 32]);
    let forged = format!(
        "{input}.{}",
        base64url::encode(&forger.sign_bytes(input.as_bytes()))
    );
    let file = write(&world, "forged.quorate", &forged);
    verify(&world, &file).assert_refused("E_SIG", 73);
    join(&world, 1, &file, &[]).assert_refused("E_SIG", 73);
}

#[test]
fn a07_a_tampered_invitation() {
    let world = World::three();
    let file = world.invite("secretsanta", &["4"]);
    let text = bundle(&file).invitation;
    let parts: Vec<_> = text.split('.').collect();
    let payload = String::from_utf8(base64url::decode(parts[1]).unwrap()).unwrap();
    let changed = payload
        .replace("\"threshold\"", "\"x\"")
        .replace("\"args\":[\"4\"]", "\"args\":[\"5\"]");
    assert_ne!(payload, changed);
    let tampered = format!(
        "{}.{}.{}",
        parts[0],
        base64url::encode(changed.as_bytes()),
        parts[2]
    );
    let file = write(&world, "tampered.quorate", &tampered);
    verify(&world, &file).assert_refused("E_SIG", 73);
    join(&world, 1, &file, &[]).assert_refused("E_SIG", 73);
}

#[test]
fn a05_expired_and_not_yet_valid_invitations() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let shift = |seconds: i64| {
        reissued(&world, &file, |i| {
            i.valid_from = i.valid_from.plus_seconds(seconds);
            i.valid_until = i.valid_until.plus_seconds(seconds);
            let time = &mut i.subject.time;
            for t in [&mut time.join_by, &mut time.start_by, &mut time.end_by] {
                *t = t.plus_seconds(seconds);
            }
        })
    };
    let week = 7 * 86_400;
    join(&world, 1, &shift(-week), &[]).assert_refused("E_TIME", 72);
    join(&world, 1, &shift(week), &[]).assert_refused("E_TIME", 72);
    // Valid as a credential, but the time to join has passed.
    let late = reissued(&world, &file, |i| {
        i.subject.time.join_by = UnixTime(i.valid_from.0 - 3600);
    });
    join(&world, 1, &late, &["--", "--vote", "yes"]).assert_refused("E_TIME", 72);
}

#[test]
fn a06_oversized_and_garbled_files() {
    let world = World::three();
    let file = world.path("x.quorate");
    fs::write(&file, vec![b'A'; 10_000_000]).unwrap();
    join(&world, 1, &file, &[]).assert_refused("E_FORMAT", 73);
    for content in [
        "",
        "quorate1:",
        "quorate1:AAAA",
        "hello",
        "a.b.c",
        "{}",
        "quorate1:!!!",
        "\u{202e}",
    ] {
        fs::write(&file, content).unwrap();
        join(&world, 1, &file, &[]).assert_refused("E_FORMAT", 73);
    }
    fs::write(&file, [0xff, 0xfe, 0, 1]).unwrap();
    join(&world, 1, &file, &[]).assert_refused("E_FORMAT", 73);
    join(&world, 1, &world.path("none.quorate"), &[]).assert_refused("E_USAGE", 2);
}

#[test]
fn a04_a_statement_of_another_type_is_no_invitation() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let text = bundle(&file).invitation;
    let parts: Vec<_> = text.split('.').collect();
    let header = String::from_utf8(base64url::decode(parts[0]).unwrap()).unwrap();
    let header = header.replace("vc+jwt", "quorate-join+jwt");
    let input = format!("{}.{}", base64url::encode(header.as_bytes()), parts[1]);
    let signed = format!(
        "{input}.{}",
        base64url::encode(&organizer(&world).sign_bytes(input.as_bytes()))
    );
    join(&world, 1, &write(&world, "t.quorate", &signed), &[]).assert_refused("E_HEADER", 73);
}

#[test]
fn a09_an_invitation_for_others() {
    let world = World::new(&["alba", "bo", "cleo", "dana"]);
    let three = world.path("three.quorate");
    let mut invite = world.quorate(0);
    invite
        .args(["invite", "vote", "--with"])
        .arg(format!("{},{}", world.dids[1], world.dids[2]))
        .arg("--out")
        .arg(&three);
    output(invite).assert_done();
    let ended = join(&world, 3, &three, &["--", "--vote", "yes"]);
    ended.assert_refused("E_NOT_INVITED", 73);
    assert!(ended.stderr.contains(&world.dids[3]), "{}", ended.stderr);
}

#[test]
fn a12_limits_and_a26_thresholds_are_refused_before_signing() {
    let world = World::three();
    let others = format!("{},{}", world.dids[1], world.dids[2]);
    let invite = |extra: &[&str]| {
        let mut command = world.quorate(0);
        command
            .args(["invite", "vote", "--force", "--out"])
            .arg(world.path("x.quorate"))
            .args(extra);
        output(command)
    };
    invite(&["--with", &others, "--expires", "365d"]).assert_refused("E_LIMIT", 73);
    invite(&["--with", &others, "--threshold", "0"]).assert_refused("E_THRESHOLD", 73);
    invite(&["--with", &others, "--threshold", "2"]).assert_refused("E_THRESHOLD", 73);
    invite(&["--with", &world.dids[1]]).assert_refused("E_THRESHOLD", 73);
    invite(&["--with", "did:key:z6Mk"]).assert_refused("did:key", 73);
    invite(&["--with", &format!("{others},{}", world.dids[1])]).assert_refused("E_FORMAT", 73);
    invite(&["--with", &others, "--", "-M3"]).assert_refused("E_", 2);
}

#[test]
fn a27_a_program_that_differs_is_refused_before_anything_is_installed() {
    let world = World::three();
    let slow = program("slow.py");
    let file = world.invite(slow.to_str().unwrap(), &[]);
    let mine = world.path("slow.py");
    fs::write(
        &mine,
        format!("{}\n# my own idea\n", fs::read_to_string(&slow).unwrap()),
    )
    .unwrap();
    let ended = join(&world, 1, &file, &["--program", mine.to_str().unwrap()]);
    ended.assert_refused("E_PROGRAM", 73);
    assert!(
        ended.stderr.matches("sha256:").count() >= 2,
        "both digests are shown:\n{}",
        ended.stderr
    );
    join(&world, 1, &file, &[]).assert_refused("E_PROGRAM", 73);
}

#[test]
fn a11_names_of_others_cannot_play_with_the_terminal() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let text = bundle(&file).invitation;
    let parts: Vec<_> = text.split('.').collect();
    let payload = String::from_utf8(base64url::decode(parts[1]).unwrap()).unwrap();
    for title in ["a\\u001b[2Jb", "a\u{202e}b", "a\\u0000b"] {
        let evil = payload.replace("\"title\":\"vote\"", &format!("\"title\":\"{title}\""));
        assert_ne!(evil, payload);
        let input = format!("{}.{}", parts[0], base64url::encode(evil.as_bytes()));
        let signed = format!(
            "{input}.{}",
            base64url::encode(&organizer(&world).sign_bytes(input.as_bytes()))
        );
        let ended = join(&world, 1, &write(&world, "evil.quorate", &signed), &[]);
        ended.assert_refused("E_FORMAT", 73);
        assert!(
            !ended.stderr.contains(['\u{1b}', '\u{202e}', '\0']),
            "{}",
            ended.stderr
        );
    }
    let homograph = reissued(&world, &file, |i| i.subject.title = "vоte".into());
    verify(&world, &homograph).assert_done();
}

#[test]
fn no_python_and_no_mpyc() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let mut command = world.quorate(1);
    command
        .arg("join")
        .arg(&file)
        .args(["--local", "--yes", "--", "--vote", "yes"]);
    command
        .env("PATH", world.folder.path())
        .env_remove("VIRTUAL_ENV");
    output(command).assert_refused("E_NO_PYTHON", 76);

    // An environment made without pip's packages has no MPyC.
    let bare = world.path("bare");
    let made = std::process::Command::new("python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&bare)
        .output()
        .unwrap();
    assert!(made.status.success());
    let mut command = world.quorate(1);
    command
        .arg("join")
        .arg(&file)
        .args(["--local", "--yes", "--python"])
        .arg(bare.join("bin/python"));
    let ended = output(command);
    ended.assert_refused("E_NO_MPYC", 76);
    assert!(
        ended.stderr.contains("pip install mpyc==0.11"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_unwritable_or_unsafe_folder() {
    let world = World::three();
    let mut command = std::process::Command::new(crate::world::QUORATE);
    command.args(["--home", "/proc/quorate", "id", "show"]);
    output(command).assert_refused("E_DISK", 76);

    let data = world.home(1).join("data/identity");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = world.quorate(1);
    command.args(["id", "new", "--replace"]);
    output(command).assert_refused("E_STATE", 76);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();

    let key = data.join("default.json");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = world.quorate(1);
    command.args(["id", "show"]);
    output(command).assert_refused("E_STATE", 76);
}

#[test]
fn nobody_to_ask_is_no_consent() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let mut command = world.quorate(1);
    command
        .arg("join")
        .arg(&file)
        .args(["--local", "--python"])
        .arg(python())
        .args(["--", "--vote", "yes"]);
    let ended = output(command);
    ended.assert_refused("E_DECLINED", 74);
    assert!(!ended.stderr.contains("waiting"), "{}", ended.stderr);
}

#[test]
fn an_invitation_is_not_overwritten_by_accident() {
    let world = World::three();
    let file = world.path("once.quorate");
    fs::write(&file, "precious").unwrap();
    let mut command = world.quorate(0);
    command
        .args(["invite", "vote", "--with"])
        .arg(world.dids[1..].join(","))
        .arg("--out")
        .arg(&file);
    output(command).assert_refused("E_DISK", 76);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn the_bare_credential_lacks_the_secret_to_join() {
    let world = World::three();
    let bare = world.path("bare.jwt");
    fs::write(&bare, bundle(&world.invite("vote", &[])).invitation).unwrap();
    verify(&world, &bare).assert_done();
    join(&world, 1, &bare, &[]).assert_refused("E_FORMAT", 73);
}

#[test]
fn arguments_that_would_override_the_signed_terms_are_refused_and_shown_whole() {
    let world = World::three();
    let file = world.invite("secretsanta", &["4"]);
    for words in [
        &["-T0"][..],
        &["4", "--thresh=0"],
        &["4", "-hT0"],
        &["-M1"],
        &["4", "-I", "1"],
    ] {
        let args: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let evil = reissued(&world, &file, |i| i.subject.program.args = args);
        join(&world, 1, &evil, &[]).assert_refused("E_THRESHOLD", 73);
        verify(&world, &evil).assert_refused("E_THRESHOLD", 73);
    }
    let long = "x".repeat(900);
    let shown = verify(
        &world,
        &reissued(&world, &file, |i| {
            i.subject.program.args = vec![long.clone(), "end".into()];
        }),
    );
    assert!(
        shown.stdout.contains(&long) && shown.stdout.contains("end"),
        "{}",
        shown.stdout
    );
}

#[test]
fn private_arguments_need_not_stand_in_the_list_of_processes() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let secret = world.path("vote.txt");
    fs::write(&secret, "--vote\nyes\n").unwrap();
    let joined = world.all_join(&file, |_, command| {
        command.arg("--private-args").arg(&secret);
    });
    for party in joined {
        let ended = party.end();
        ended.assert_done();
        assert!(ended.stdout.contains("yes 3, no 0"), "{}", ended.stdout);
    }
}

#[test]
fn stdin_is_one_thing_only() {
    let world = World::new(&["alba"]);
    let mut command = world.quorate(0);
    command.args(["join", "-", "--private-args", "-"]);
    command.stdin(fs::File::open(World::three().invite("vote", &[])).unwrap());
    output(command).assert_refused("E_USAGE", 2);
}

#[test]
fn a57_a_home_below_a_folder_of_everybody() {
    let world = World::new(&["alba"]);
    let open = world.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = std::process::Command::new(crate::world::QUORATE);
    command
        .arg("--home")
        .arg(open.join("home"))
        .args(["id", "show"])
        .env_remove("QUORATE_HOME");
    output(command).assert_refused("E_STATE", 76);
}

#[test]
fn what_a_user_allows_on_this_machine_goes_before_what_an_organizer_demands() {
    let world = World::three();
    let file = world.invite("vote", &[]);
    let relayed = reissued(&world, &file, |invitation| {
        invitation.subject.net.path = PathPolicy::Relay;
    });
    let refused = join(&world, 1, &relayed, &[]);
    refused.assert_refused("E_POLICY", 77);
    assert!(refused.stderr.contains("--local"), "{}", refused.stderr);
}

#[test]
fn a_port_that_another_program_has_and_an_address_that_is_none_are_named() {
    let world = World::three();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let relay = |args: &[&str]| {
        let mut command = world.quorate(0);
        command.args(["relay", "run"]).args(args);
        output(command)
    };
    let at = format!("/ip4/127.0.0.1/tcp/{port}");
    let refused = relay(&["--listen", &at, "--only", "--no-stun"]);
    refused.assert_refused("E_PORT", 76);
    relay(&["--external", "nowhere"]).assert_refused("E_ADDRESS", 76);
}
