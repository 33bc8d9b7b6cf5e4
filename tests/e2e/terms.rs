//! Terms that protect nothing, keys that everybody has, and a start that waits for a person.

use quorate_identity::SigningKey;

use crate::{
    pty::Terminal,
    world::{Ended, Running, World, output},
};

/// `invite` of party 0 with these options.
fn invite(world: &World, with: &str, extra: &[&str]) -> (std::path::PathBuf, Ended) {
    let file = world.path("terms.quorate");
    let mut command = world.quorate(0);
    command.args(["invite", "mpyc:secretsanta", "--me", "alba", "--with", with]);
    command.arg("--out").arg(&file).args(extra);
    (file, output(command))
}

#[test]
fn a26_two_parties_are_refused_by_organizer_and_invitee_unless_both_know() {
    let world = World::new(&["alba", "bo"]);
    let with = format!("bo={}", world.dids[1]);
    let (file, refused) = invite(&world, &with, &[]);
    refused.assert_refused("E_THRESHOLD", 73);
    assert!(refused.stderr.contains("NO PRIVACY"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--no-privacy"),
        "{}",
        refused.stderr
    );
    assert!(!file.exists());

    let (file, signed) = invite(&world, &with, &["--no-privacy", "--", "3"]);
    signed.assert_done();
    assert!(
        signed.stderr.contains("NOTHING protects the inputs"),
        "{}",
        signed.stderr
    );
    let unaware = output(world.join(1, &file));
    unaware.assert_refused("E_THRESHOLD", 73);
    assert!(unaware.stderr.contains("NO PRIVACY"), "{}", unaware.stderr);
    assert!(!unaware.stderr.contains("reachable"), "{}", unaware.stderr);

    let joined = world.all_join(&file, |_, command| {
        command.arg("--no-privacy");
    });
    for party in joined {
        party.end().assert_done();
    }
    world.assert_clean();
}

#[test]
fn a26_a_threshold_of_zero_among_three_needs_the_same_word() {
    let world = World::three();
    let with = format!("bo={},cleo={}", world.dids[1], world.dids[2]);
    let (_, refused) = invite(&world, &with, &["--threshold", "0"]);
    refused.assert_refused("E_THRESHOLD", 73);
    let (_, signed) = invite(&world, &with, &["--threshold", "0", "--no-privacy"]);
    signed.assert_done();
}

#[test]
fn keys_whose_secrets_are_public_are_refused_as_party_and_as_oneself() {
    let world = World::three();
    for public in [
        // RFC 8032, section 7.1, test 1
        "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw".to_owned(),
        SigningKey::from_seed(&[0; 32]).did().to_string(),
        SigningKey::from_seed(&[1; 32]).did().to_string(),
    ] {
        let with = format!("bo={},eve={public}", world.dids[1]);
        let (file, refused) = invite(&world, &with, &[]);
        refused.assert_refused("E_KEY", 73);
        assert!(refused.stderr.contains("is public"), "{}", refused.stderr);
        assert!(!file.exists());
    }
}

#[test]
fn the_program_starts_when_the_person_says_so_and_the_others_see_for_whom_they_wait() {
    let world = World::three();
    let file = world.invite("secretsanta", &["3"]);
    let others: Vec<_> = [1, 2]
        .map(|index| Running::start(world.join(index, &file)))
        .into();
    let join = world.join(0, &file);
    let words = std::iter::once(join.get_program()).chain(join.get_args());
    let words = words.map(|w| w.to_str().unwrap().to_owned());
    let words: Vec<_> = words.chain(["--start".into(), "ask".into()]).collect();
    let mut alba = Terminal::start(&words, |command| {
        command.env_remove("QUORATE_HOME");
    });
    alba.wait_for("the question", |shown| {
        shown.contains("Start now?").then_some(())
    });
    for party in &others {
        party.stderr.wait_for("for alba · start");
        assert!(!party.stderr.text().contains("running"));
    }
    alba.type_in("no\n");
    alba.wait_for("the question again", |shown| {
        (shown.matches("Start now?").count() > 1).then_some(())
    });
    alba.type_in("y\n");
    let (status, shown) = alba.end();
    assert!(status.success(), "{shown}");
    for party in others {
        party.end().assert_done();
    }
}

#[test]
fn a_start_at_a_time_waits_for_it_and_asking_needs_a_terminal() {
    let world = World::three();
    let file = world.invite("secretsanta", &["3"]);
    let mut nobody = world.join(0, &file);
    nobody.args(["--start", "ask"]);
    output(nobody).assert_refused("E_USAGE", 2);

    let begun = std::time::Instant::now();
    let joined = world.all_join(&file, |index, command| {
        if index == 1 {
            command.args(["--start", "8s"]);
        }
    });
    for party in joined {
        party.end().assert_done();
    }
    assert!(begun.elapsed().as_secs() >= 7, "it did not wait");
}

#[test]
fn a54_always_isolated_or_not_at_all_and_the_person_is_told_which() {
    let world = World::three();
    let file = world.invite("secretsanta", &["3"]);
    let joined = world.all_join(&file, |index, command| {
        command.args(["--isolate", ["always", "auto", "never"][index]]);
    });
    let told: Vec<_> = joined.into_iter().map(Running::end).collect();
    for ended in &told {
        ended.assert_done();
    }
    assert!(told[0].stderr.contains("the program gets none"));
    assert!(told[2].stderr.contains("can use this machine's network"));
    let mut small = world.join(0, &file);
    small.args(["--memory", "1MiB"]);
    assert_eq!(output(small).code, Some(2));
}
