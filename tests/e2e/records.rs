//! Records: what every party keeps of a session, and what another person can prove with it on another machine.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

use crate::world::{Ended, QUORATE, World, output, program};

/// A session of three that went well, under this title.
fn finished(title: &str) -> World {
    let world = World::three();
    let file = world.path("session.quorate");
    let others: Vec<_> = (1..3)
        .map(|i| format!("{}={}", world.names[i], world.dids[i]))
        .collect();
    let mut invite = world.quorate(0);
    invite
        .args([
            "--quiet",
            "invite",
            "secretsanta",
            "--me",
            "alba",
            "--name",
            title,
            "--with",
        ])
        .arg(others.join(","))
        .arg("--out")
        .arg(&file)
        .args(["--", "3"]);
    output(invite).assert_done();
    for party in world.all_join(&file, |_, _| {}) {
        party.end().assert_done();
    }
    world
}

fn record_file(world: &World, index: usize) -> PathBuf {
    let folder = world.home(index).join("data/receipts");
    let mut files = fs::read_dir(folder).unwrap().flatten().map(|e| e.path());
    let file = files.next().unwrap();
    assert!(files.next().is_none(), "one session, one record");
    file
}

/// Somebody on another machine, with nothing but the file.
fn stranger(world: &World, args: &[&str]) -> Ended {
    let home = world.path("elsewhere");
    let mut command = Command::new(QUORATE);
    command
        .arg("--home")
        .arg(&home)
        .args(args)
        .env_remove("QUORATE_HOME");
    let ended = output(command);
    assert!(
        !home.exists(),
        "verifying leaves nothing and makes no identity"
    );
    ended
}

fn receipt(world: &World, index: usize, args: &[&str]) -> Ended {
    let mut command = world.quorate(index);
    command.arg("receipt").args(args);
    output(command)
}

#[test]
fn every_party_keeps_the_same_record_and_anybody_can_verify_it_elsewhere() {
    let world = finished("Income <script>alert(1)</script> 2026");
    let records: Vec<Vec<u8>> = (0..3)
        .map(|i| fs::read(record_file(&world, i)).unwrap())
        .collect();
    assert!(records.iter().all(|record| *record == records[0]));

    let file = record_file(&world, 1);
    let verified = stranger(&world, &["verify", file.to_str().unwrap()]);
    verified.assert_done();
    for words in [
        "finished: all parties signed",
        "made again from the joins",
        "receipt ✓ done, exit 0",
        "not proven",
    ] {
        assert!(
            verified.stdout.contains(words),
            "{words:?} is not in:\n{}",
            verified.stdout
        );
    }
    for did in &world.dids {
        assert!(verified.stdout.contains(did.as_str()));
    }
    let report = stranger(&world, &["verify", "--json", file.to_str().unwrap()]);
    report.assert_done();
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["kind"], "record");
    assert_eq!(report["complete"], true);
    assert_eq!(
        report["runs"][0]["parties"][2]["receipts"][0]["outcome"],
        "done"
    );

    // What one wants to hand on: everything, the statements for other tools, or a page.
    let (json, jwt, html) = (
        world.path("r.json"),
        world.path("r.jwt"),
        world.path("r.html"),
    );
    for (form, out) in [("json", &json), ("jwt", &jwt), ("html", &html)] {
        receipt(
            &world,
            2,
            &["export", "--format", form, "--out", out.to_str().unwrap()],
        )
        .assert_done();
        let again = receipt(
            &world,
            2,
            &["export", "--format", form, "--out", out.to_str().unwrap()],
        );
        again.assert_refused("E_DISK", 76);
    }
    assert_eq!(fs::read(&json).unwrap(), records[0]);
    stranger(&world, &["verify", json.to_str().unwrap()]).assert_done();
    let lines = stranger(&world, &["verify", jwt.to_str().unwrap()]);
    lines.assert_done();
    assert!(lines.stdout.contains("finished: all parties signed"));
    assert_eq!(fs::read_to_string(&jwt).unwrap().lines().count(), 1 + 3 * 3);

    let page = fs::read_to_string(&html).unwrap();
    assert!(!page.contains("<script"), "{page}");
    assert!(
        page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{page}"
    );
    for forbidden in [
        "http:", "https:", "src=", "href=", "onload", "@import", "url(",
    ] {
        assert!(!page.contains(forbidden), "{forbidden} is in the page");
    }
    assert!(page.contains("default-src 'none'"));

    let listed = receipt(&world, 0, &[]);
    listed.assert_done();
    assert!(
        listed.stdout.contains("finished") && listed.stdout.contains("receipts 3/3"),
        "{}",
        listed.stdout
    );
    let listed = receipt(&world, 0, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let session = listed["records"][0]["session"].as_str().unwrap().to_owned();
    for name in [
        session.as_str(),
        &session[..6],
        "income-script-alert-1-script-2026",
    ] {
        let shown = receipt(&world, 0, &["show", name]);
        shown.assert_done();
        assert!(shown.stdout.contains("words "), "{}", shown.stdout);
    }
    receipt(&world, 0, &["show", "nothing"]).assert_refused("E_NO_SESSION", 2);
    assert_eq!(
        fs::read(record_file(&world, 0)).unwrap(),
        records[0],
        "looking changes nothing"
    );
}

#[test]
fn a60_an_altered_incomplete_or_doubled_record_is_refused_by_name() {
    let world = finished("Income 2026");
    let whole: Value = serde_json::from_slice(&fs::read(record_file(&world, 0)).unwrap()).unwrap();
    let verify = |record: &Value| {
        let file = world.path("changed.json");
        // Members of a JSON value are written in their order here, which is the order of the canonical form.
        fs::write(&file, record.to_string()).unwrap();
        stranger(&world, &["verify", file.to_str().unwrap()])
    };
    verify(&whole).assert_done();

    let mut changed = whole.clone();
    changed["runs"][0]["receipts"]
        .as_array_mut()
        .unwrap()
        .remove(1);
    let ended = verify(&changed);
    ended.assert_refused("E_RECORD", 73);
    assert!(ended.stderr.contains("receipt of bo"), "{}", ended.stderr);
    assert!(ended.stdout.contains("receipt MISSING"), "{}", ended.stdout);

    let mut changed = whole.clone();
    let text = changed["runs"][0]["receipts"][2]
        .as_str()
        .unwrap()
        .to_owned();
    let (content, signature) = text.rsplit_once('.').unwrap();
    let altered = format!("{content}.B{}", &signature[1..]);
    changed["runs"][0]["receipts"][2] = if altered == text {
        format!("{content}.C{}", &signature[1..])
    } else {
        altered
    }
    .into();
    verify(&changed).assert_refused("E_SIG", 73);

    let mut changed = whole.clone();
    let twice = changed["runs"][0]["receipts"][0].clone();
    changed["runs"][0]["receipts"]
        .as_array_mut()
        .unwrap()
        .insert(0, twice);
    let ended = verify(&changed);
    ended.assert_refused("E_RECORD", 73);
    assert!(ended.stderr.contains("stands twice"), "{}", ended.stderr);

    let other = finished("Another one");
    let foreign: Value =
        serde_json::from_slice(&fs::read(record_file(&other, 0)).unwrap()).unwrap();
    let mut changed = whole.clone();
    changed["runs"][0]["receipts"][0] = foreign["runs"][0]["receipts"][0].clone();
    verify(&changed).assert_refused("E_STALE", 73);

    let old = serde_json::json!({"v": 1, "invitation": whole["invitation"], "receipts": whole["runs"][0]["receipts"]});
    let ended = verify(&old);
    ended.assert_refused("E_RECORD", 73);
    assert!(ended.stderr.contains("older form"), "{}", ended.stderr);

    // A copy that lacks something is made whole by another party's.
    let mine = record_file(&world, 0);
    let mut lacking = whole.clone();
    lacking["runs"][0]["receipts"]
        .as_array_mut()
        .unwrap()
        .remove(1);
    fs::write(&mine, lacking.to_string()).unwrap();
    receipt(&world, 0, &["show"]).assert_refused("E_RECORD", 73);
    let theirs = record_file(&world, 2);
    receipt(&world, 0, &["add", theirs.to_str().unwrap()]).assert_done();
    receipt(&world, 0, &["show"]).assert_done();
    assert_eq!(fs::read(&mine).unwrap(), fs::read(&theirs).unwrap());
    let foreign = record_file(&other, 0);
    receipt(&world, 0, &["add", foreign.to_str().unwrap()]).assert_refused("E_NO_SESSION", 2);
}

#[test]
fn a_session_that_was_stopped_leaves_a_record_that_says_who_stopped_it() {
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
    for party in joined {
        party.end();
    }
    let shown = receipt(&world, 0, &["show"]);
    assert!(
        shown.stdout.contains("E_INTERRUPTED"),
        "{}\n{}",
        shown.stdout,
        shown.stderr
    );
    assert!(
        shown.stdout.contains("receipt ✓ aborted"),
        "{}",
        shown.stdout
    );
    let listed = receipt(&world, 0, &["list"]);
    assert!(listed.stdout.contains("failed"), "{}", listed.stdout);
}

#[test]
fn verify_says_of_each_thing_what_it_is_and_what_is_not_proven() {
    let world = finished("Income 2026");
    let whole: Value = serde_json::from_slice(&fs::read(record_file(&world, 0)).unwrap()).unwrap();
    let alone = world.path("alone.jwt");
    for (list, kind) in [
        ("joins", "join"),
        ("confirms", "confirm"),
        ("receipts", "receipt"),
    ] {
        fs::write(&alone, whole["runs"][0][list][1].as_str().unwrap()).unwrap();
        let ended = stranger(&world, &["verify", alone.to_str().unwrap()]);
        ended.assert_done();
        assert!(
            ended
                .stdout
                .contains(&format!("{kind}, signed by {}", world.dids[1])),
            "{}",
            ended.stdout
        );
        assert!(ended.stdout.contains("not proven"), "{}", ended.stdout);
    }
    let sealed = world.path("sealed.quorate");
    fs::write(&sealed, "quorate1s:AAAA").unwrap();
    stranger(&world, &["verify", sealed.to_str().unwrap()]).assert_refused("E_SEALED", 73);
    stranger(&world, &["verify", "qrt1qyw508-d6qej"]).assert_refused("E_TICKET", 2);
    let two = world.path("two.jwt");
    let receipts = &whole["runs"][0]["receipts"];
    let lines = format!(
        "{}\n{}\n",
        receipts[0].as_str().unwrap(),
        receipts[1].as_str().unwrap()
    );
    fs::write(&two, lines).unwrap();
    stranger(&world, &["verify", two.to_str().unwrap()]).assert_refused("E_RECORD", 73);
    let large = world.path("large.json");
    fs::write(&large, vec![b'['; 5 << 20]).unwrap();
    stranger(&world, &["verify", large.to_str().unwrap()]).assert_refused("E_FORMAT", 73);
}

#[test]
fn f06_a_party_killed_while_closing_gives_its_receipt_when_it_is_back() {
    // Its program is done; the others' programs take longer, so it waits for their receipts when it is killed.
    let world = World::three();
    let uneven = world.path("uneven.py");
    let script = "import sys, time\nfrom mpyc.runtime import mpc\n\nasync def main():\n    await mpc.start()\n    await mpc.output(mpc.input(mpc.SecInt()(1)))\n    print('computed', flush=True)\n    await mpc.shutdown()\n    if mpc.pid != 1:\n        time.sleep(12)\n\nmpc.run(main())\n";
    fs::write(&uneven, script).unwrap();
    let file = world.invite(uneven.to_str().unwrap(), &[]);
    let joined = world.all_join(&file, |_, command| {
        command.arg("--program").arg(&uneven);
    });
    joined[1].stderr.wait_for("exchanging receipts");
    crate::world::eventually("the own receipt is kept", || {
        let Ok(files) = fs::read_dir(world.home(1).join("data/receipts")) else {
            return false;
        };
        files.flatten().any(|file| {
            let record = fs::read(file.path()).unwrap_or_default();
            serde_json::from_slice::<Value>(&record).is_ok_and(|record| {
                record["runs"][0]["receipts"]
                    .as_array()
                    .is_some_and(|r| r.len() == 1)
            })
        })
    });
    joined[1].signal(rustix::process::Signal::KILL);
    let shown = receipt(&world, 1, &["show"]);
    shown.assert_refused("E_RECORD", 73);
    assert!(shown.stderr.contains("receipt of alba"), "{}", shown.stderr);
    let mut again = world.join(1, &file);
    again.arg("--program").arg(&uneven);
    let again = crate::world::Running::start(again);
    again.end().assert_done();
    for (index, party) in joined.into_iter().enumerate() {
        if index != 1 {
            party.end().assert_done();
        }
    }
    let records: Vec<Vec<u8>> = (0..3)
        .map(|i| fs::read(record_file(&world, i)).unwrap())
        .collect();
    assert!(records.iter().all(|record| *record == records[0]));
    receipt(&world, 1, &["show"]).assert_done();
}
