//! Contacts: petnames, claimed names and DIDs, and what becomes of the parties of a session.

use std::process::Command;

use serde_json::Value;

use crate::world::{Ended, World, output};

/// `quorate contacts …` of one person.
fn contacts(world: &World, index: usize, words: &[&str]) -> Ended {
    let mut command = world.quorate(index);
    command.arg("contacts").args(words);
    output(command)
}

fn json(mut command: Command) -> Value {
    command.arg("--json");
    let ended = output(command);
    ended.assert_done();
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stdout))
}

fn names(list: &Value) -> Vec<&str> {
    let all = list["contacts"].as_array().unwrap();
    all.iter().map(|c| c["name"].as_str().unwrap()).collect()
}

fn listed(world: &World, index: usize) -> Value {
    let mut command = world.quorate(index);
    command.arg("contacts");
    json(command)
}

#[test]
fn a_contact_is_named_shown_renamed_grouped_and_forgotten() {
    let world = World::three();
    contacts(&world, 0, &["add", "sud", &world.dids[1]]).assert_done();
    contacts(&world, 0, &["add", "ost", &world.dids[2]]).assert_done();
    contacts(&world, 0, &["group", "registry", "+sud", "+ost"]).assert_done();
    contacts(&world, 0, &["rename", "sud", "south"]).assert_done();
    let list = contacts(&world, 0, &[]);
    list.assert_done();
    let lines: Vec<&str> = list.stdout.lines().map(str::trim_end).collect();
    let wanted = [
        format!("[ost]    {}", world.dids[2]),
        format!("[south]  {}", world.dids[1]),
        "@registry  [ost] [south]".to_owned(),
    ];
    assert_eq!(lines, wanted);
    contacts(&world, 0, &["group", "@registry", "-ost"]).assert_done();
    let group = contacts(&world, 0, &["group", "registry"]);
    assert_eq!(group.stdout, format!("[south]  {}\n", world.dids[1]));
    contacts(&world, 0, &["remove", "south"]).assert_done();
    assert_eq!(names(&listed(&world, 0)), ["ost"]);
    assert_eq!(listed(&world, 0)["groups"], serde_json::json!({}));
}

#[test]
fn a_name_means_one_person() {
    let world = World::three();
    contacts(&world, 0, &["add", "sud", &world.dids[1]]).assert_done();
    contacts(&world, 0, &["add", "SUD", &world.dids[2]]).assert_refused("E_CONTACT", 2);
    contacts(&world, 0, &["add", "other", &world.dids[1]]).assert_refused("E_CONTACT", 2);
    contacts(&world, 0, &["add", "a,b", &world.dids[2]]).assert_refused("E_CONTACT", 2);
    contacts(&world, 0, &["rename", "nobody", "x"]).assert_refused("E_CONTACT", 2);
    contacts(&world, 0, &["group", "nothing"]).assert_refused("E_CONTACT", 2);
    contacts(&world, 0, &["add", "west", "did:key:z6MkBroken"]).assert_refused("E_KEY", 73);
    contacts(&world, 0, &["add", "west", "no-such-file"]).assert_refused("E_CONTACT", 2);
    assert_eq!(names(&listed(&world, 0)), ["sud"]);
}

#[test]
fn an_export_is_taken_over_without_changing_what_is_there() {
    let world = World::three();
    contacts(&world, 0, &["add", "sud", &world.dids[1]]).assert_done();
    contacts(&world, 0, &["add", "ost", &world.dids[2]]).assert_done();
    contacts(&world, 0, &["group", "g", "+sud", "+ost"]).assert_done();
    let file = world.path("contacts.export");
    let file = file.to_str().unwrap();
    contacts(&world, 0, &["export", "--out", file]).assert_done();
    contacts(&world, 1, &["add", "sud", &world.dids[0]]).assert_done();
    contacts(&world, 1, &["add", "mine", &world.dids[2]]).assert_done();
    contacts(&world, 1, &["import", file]).assert_done();
    let list = listed(&world, 1);
    assert_eq!(names(&list), ["mine", "sud", "sud-2"]);
    assert_eq!(list["contacts"][1]["did"], world.dids[0].as_str());
    assert_eq!(list["groups"]["g"], serde_json::json!(["mine", "sud-2"]));
    std::fs::write(world.path("bad"), "{\"v\":1}").unwrap();
    let bad = world.path("bad");
    contacts(&world, 1, &["import", bad.to_str().unwrap()]).assert_refused("E_FORMAT", 73);
}

#[test]
fn f29_damaged_contacts_are_put_aside_and_said() {
    let world = World::three();
    contacts(&world, 0, &["add", "sud", &world.dids[1]]).assert_done();
    let file = world.home(0).join("data/contacts.json");
    std::fs::write(&file, "{").unwrap();
    let list = contacts(&world, 0, &[]);
    list.assert_done();
    assert!(
        list.stderr.contains("contacts.json.damaged"),
        "{}",
        list.stderr
    );
    assert_eq!(
        std::fs::read_to_string(world.home(0).join("data/contacts.json.damaged")).unwrap(),
        "{"
    );
}

#[test]
fn an_invitation_names_contacts_groups_and_strangers() {
    let world = World::new(&["alba", "bo", "cleo", "dina"]);
    contacts(&world, 0, &["add", "sud", &world.dids[1]]).assert_done();
    contacts(&world, 0, &["add", "ost", &world.dids[2]]).assert_done();
    contacts(&world, 0, &["group", "registry", "+sud", "+ost"]).assert_done();
    let invite = |with: &str| {
        let mut command = world.quorate(0);
        command.args(["invite", "mpyc:secretsanta", "--out", "-", "--with", with]);
        output(command)
    };
    let west = format!("west={}", world.dids[3]);
    let made = invite(&format!("ost,@registry,{west}"));
    made.assert_done();
    let rows: Vec<_> = made
        .stderr
        .lines()
        .filter(|l| l.contains("did:key:"))
        .skip(1)
        .collect();
    let wanted = [
        ("0", "organizer", 0),
        ("1", "ost", 2),
        ("2", "sud", 1),
        ("3", "west", 3),
    ];
    assert_eq!(rows.len(), wanted.len(), "{}", made.stderr);
    for (row, (index, name, who)) in rows.iter().zip(wanted) {
        let words: Vec<_> = row.split_whitespace().take(3).collect();
        assert_eq!(words, [index, name, &world.dids[who]]);
    }
    invite("sud,nobody").assert_refused("E_CONTACT", 2);
    invite("@nothing,sud").assert_refused("E_CONTACT", 2);
    invite("sud,sud,ost").assert_refused("E_FORMAT", 73);
}

#[test]
fn the_parties_of_a_session_become_contacts_and_nobody_loses_a_name() {
    let world = World::three();
    // To cleo, somebody else is "bo".
    let stranger = World::new(&["x"]);
    contacts(&world, 2, &["add", "bo", &stranger.dids[0]]).assert_done();
    contacts(&world, 1, &["add", "boss", &world.dids[0]]).assert_done();
    let file = world.invite("secretsanta", &["3"]);
    let mut cleo_saw = String::new();
    let mut words = Vec::new();
    for (index, party) in world.all_join(&file, |_, _| {}).into_iter().enumerate() {
        let ended = party.end();
        ended.assert_done();
        let sealed = ended
            .stderr
            .lines()
            .find(|l| l.contains("safety words"))
            .unwrap();
        words.push(sealed.to_owned());
        if index == 2 {
            cleo_saw = ended.stderr;
        }
    }
    assert_eq!(words[0], words[1]);
    assert_eq!(words[1], words[2]);
    assert!(cleo_saw.contains("(!) not your contact [bo]"), "{cleo_saw}");
    assert_eq!(names(&listed(&world, 0)), ["bo", "cleo"]);
    assert_eq!(
        names(&listed(&world, 1)),
        ["boss", "cleo"],
        "a petname is not overwritten"
    );
    let cleos = listed(&world, 2);
    assert_eq!(names(&cleos), ["alba", "bo", "bo-2"]);
    assert_eq!(cleos["contacts"][1]["did"], stranger.dids[0].as_str());
    assert_eq!(cleos["contacts"][2]["named_by"], world.dids[0].as_str());
    for index in 0..3 {
        let memory = world.home(index).join("data/sessions/secretsanta.json");
        let memory: Value = serde_json::from_slice(&std::fs::read(memory).unwrap()).unwrap();
        assert_eq!(memory["parties"][2]["did"], world.dids[2].as_str());
        assert_eq!(memory["program"], "mpyc:secretsanta");
    }
}
