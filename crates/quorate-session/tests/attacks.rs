//! Attacks on membership and agreement, named after their entries in the catalogue of attacks: each ends in its named
//! refusal, and installs nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    START, Table, confirm, draft, epoch_now, forge_join, inv, invitation, invitation_of, key,
    refusal_of_new, resign_peer, secret, setup, sign_unchecked, statement_in, with_liar,
};
use quorate_identity::{Code, Digest, UnixTime, Verified, sign};
use quorate_session::{Frame, Pid, RendezvousSecret, Roster, State, Stored, message::Join};
use std::time::Duration;

#[test]
fn a09_a_party_that_is_not_listed_gets_no_session() {
    assert_eq!(
        refusal_of_new(setup(&invitation(3), 5, None, 1)),
        Code::NotInvited
    );
}

#[test]
fn a10_a_closed_session_cannot_be_joined_again() {
    let mut table = Table::new(3);
    table.run();
    for index in 0..3 {
        table.exit(index, 0);
    }
    table.pass(Duration::from_secs(2));
    let record = table.seats[1].last_record.clone().unwrap();
    let stored = Stored::parse(&record).unwrap();
    assert_eq!(
        refusal_of_new(setup(&invitation(3), 1, Some(stored), 9)),
        Code::Replay
    );
}

#[test]
fn a12_invitations_beyond_the_limits_are_refused() {
    let build = |draft: quorate_session::InvitationDraft| {
        draft.build([0; 16], [0; 32], &secret()).err().unwrap().code
    };
    let mut long = draft(3);
    long.valid_until = UnixTime(START + 10 * 365 * 24 * 3600);
    assert_eq!(build(long), Code::Limit);
    assert_eq!(build(draft(65)), Code::Limit);
    let mut many_keys = draft(40);
    many_keys.prss = Some(true);
    assert_eq!(build(many_keys), Code::Limit);
    assert!(
        draft(40)
            .build([0; 16], [0; 32], &secret())
            .is_ok_and(|built| !built.subject.mpc.prss)
    );
}

#[test]
fn a13_an_outsider_without_the_secret_gets_only_a_hello() {
    let mut table = Table::new(3);
    table.run();
    let outsider = table.intrude(0, key(9), 77);
    let answers = table.hello(0, &outsider, &RendezvousSecret::new([1; 32]));
    assert!(answers.is_empty());
    assert_eq!(table.refusals(0), [Code::NotMember]);
    assert!(table.seats[0].seen.closed_links.contains(&outsider.link));
}

#[test]
fn a13_an_outsider_with_a_leaked_bundle_gets_no_statement() {
    let mut table = Table::new(3);
    table.run();
    let outsider = table.intrude(0, key(9), 77);
    let answers = table.hello(0, &outsider, &secret());
    assert!(matches!(answers.as_slice(), [Frame::Proof { .. }]));
    let proof = table.proof(0, &outsider, invitation(3).digest());
    assert!(table.say(0, &outsider, &proof).is_empty());
    assert_eq!(table.refusals(0), [Code::NotMember]);
    assert!(table.seats[0].seen.closed_links.contains(&outsider.link));
    assert_eq!(table.states(), [State::Running; 3]);
}

#[test]
fn a13_a_proof_made_for_another_connection_is_refused() {
    let mut table = Table::new(3);
    let honest = table.intrude(0, key(1), 77);
    let proof = table.proof(0, &honest, invitation(3).digest());
    let thief = table.intrude(0, key(9), 78);
    table.hello(0, &thief, &secret());
    assert!(table.say(0, &thief, &proof).is_empty());
    assert_eq!(table.refusals(0), [Code::Peer]);
}

#[test]
fn a14_two_invitations_under_one_session_id_are_a_split_for_both() {
    let mut other = draft(3);
    other.title = "Something else".into();
    let (first, second) = (invitation(3), invitation_of(other));
    let mut table = Table::empty();
    table.seat(setup(&first, 1, None, 1));
    table.seat(setup(&second, 2, None, 2));
    table.join(0);
    table.join(1);
    table.link(0, 1);
    table.run();
    for index in 0..2 {
        let (code, _, detail) = table.failure(index);
        assert_eq!(code, Code::Split);
        assert!(
            detail.contains(&first.digest().to_string())
                && detail.contains(&second.digest().to_string())
        );
        assert_eq!(table.seats[index].seen.installs, 0);
        assert_eq!(
            table.seats[index].seen.evidence.len(),
            1,
            "what the organizer signed is kept"
        );
    }
}

#[test]
fn a14_a_member_that_only_claims_another_invitation_accuses_nobody() {
    let mut table = Table::new(3);
    let liar = table.intrude(0, key(2), 78);
    table.hello(0, &liar, &secret());
    let proof = table.proof(0, &liar, Digest([9; 32]));
    table.say(0, &liar, &proof);
    assert_eq!(table.refusals(0), []);
    let shown = Frame::Invitation {
        jws: invitation(3).text().to_string(),
    };
    table.say(0, &liar, &shown);
    assert_eq!(table.refusals(0), [Code::NotMember]);
    table.run();
    assert_eq!(table.states(), [State::Running; 3]);
}

#[test]
fn a15_a_join_whose_keys_were_swapped_is_not_signed() {
    let (mut table, liar) = with_liar();
    let mut join = forge_join(1, 50, epoch_now() + 5, inv());
    join.wg = forge_join(2, 51, epoch_now(), inv()).wg;
    resign_peer(&mut join, 50);
    // Signed by the liar's key under the victim's name, then under its own name with another's kid.
    let forged = sign_unchecked(&join, &key(2));
    let header = forged.split('.').next().unwrap();
    let genuine = sign_unchecked(&forge_join(1, 50, epoch_now() + 5, inv()), &key(1));
    let parts: Vec<&str> = genuine.split('.').collect();
    let swapped = format!(
        "{}.{}.{}",
        parts[0],
        forged.split('.').nth(1).unwrap(),
        parts[2]
    );
    assert!(!header.is_empty());
    table.say_statements(0, &liar, &[&forged, &swapped]);
    assert_eq!(table.refusals(0), [Code::Kid, Code::Sig]);
}

#[test]
fn a15_a_join_with_anothers_peer_id_is_refused() {
    let (mut table, liar) = with_liar();
    let mut join = forge_join(2, 60, epoch_now(), inv());
    join.peer = table.seats[1].session.peer_id();
    table.say_statements(0, &liar, &[&sign_unchecked(&join, &key(2))]);
    assert_eq!(table.refusals(0), [Code::Sig]);
}

#[test]
fn a16_a_changed_invitation_is_another_session() {
    let mut reordered = draft(3);
    reordered.parties.swap(1, 2);
    let changed = invitation_of(reordered);
    assert_ne!(changed.digest(), inv());
    let (mut table, liar) = with_liar();
    let join = forge_join(2, 60, epoch_now(), changed.digest());
    table.say_statements(0, &liar, &[&sign_unchecked(&join, &key(2))]);
    assert_eq!(table.refusals(0), [Code::Stale]);
    assert_eq!(table.seats[0].session.state(), State::Joining);
}

#[test]
fn a17_a_withheld_join_reaches_everybody_by_another_way() {
    let mut table = Table::new(4);
    // The organizer, 0, passes nothing of party 3 on to 1, and 3 has no link to 1.
    table.filter = Box::new(|from, to, _| !matches!((from, to), (0 | 3, 1) | (1, 3)));
    table.pass(Duration::from_secs(10));
    let agreed = table.seats[1].session.roster();
    assert!(agreed.is_some());
    assert!(
        table
            .seats
            .iter()
            .all(|seat| seat.session.roster() == agreed)
    );
}

#[test]
fn a17_a_join_that_never_comes_is_missing_by_name() {
    let mut table = Table::new(3);
    table.filter = Box::new(|from, to, _| from != 2 && to != 2);
    table.pass(Duration::from_secs(601));
    for index in 0..2 {
        let (code, whom, detail) = table.failure(index);
        assert_eq!((code, whom), (Code::Missing, Some(Pid(2))));
        assert!(detail.contains("party-2"), "{detail}");
        assert_eq!(table.seats[index].seen.installs, 0);
    }
}

#[test]
fn a18_a_second_instance_of_one_identity_stops_both() {
    let mut table = Table::new(3);
    table.filter = Box::new(|from, to, _| from != 0 && to != 0);
    table.run();
    let twin = table.seat(setup(&invitation(3), 1, None, 99));
    table.join(twin);
    table.link(twin, 1);
    table.run();
    assert_eq!(table.failure(1).0, Code::IdentityElsewhere);
    assert_eq!(table.failure(twin).0, Code::AlreadyJoined);
    assert_eq!(table.seats[1].seen.evidence.len(), 1);
}

#[test]
fn a18_an_older_join_of_our_own_before_a_crash_is_no_second_instance() {
    let mut table = Table::new(3);
    table.filter = Box::new(|from, to, _| from != 0 && to != 0);
    table.run();
    table.kill(1);
    let again = table.seat(setup(&invitation(3), 1, None, 99));
    table.join(again);
    table.link(again, 2);
    table.run();
    assert!(table.seats[again].seen.outcome.is_none());
    assert_eq!(table.seats[again].session.state(), State::Joining);
}

#[test]
fn a19_two_joins_of_one_epoch_are_kept_as_evidence_and_stop_everybody() {
    let (mut table, liar) = with_liar();
    let first = sign_unchecked(&forge_join(2, 60, epoch_now(), inv()), &key(2));
    let second = sign_unchecked(&forge_join(2, 61, epoch_now(), inv()), &key(2));
    table.say_statements(0, &liar, &[&first, &second]);
    table.run();
    for index in 0..2 {
        let (code, whom, _) = table.failure(index);
        assert_eq!((code, whom), (Code::Equivocation, Some(Pid(2))));
        assert_eq!(
            table.seats[index].seen.evidence,
            [[first.clone(), second.clone()]]
        );
        assert_eq!(table.seats[index].seen.installs, 0);
    }
}

#[test]
fn a20_a_copied_wireguard_key_keeps_the_roster_from_being_confirmed() {
    let (mut table, liar) = with_liar();
    let frames = table.say(
        0,
        &liar,
        &Frame::Want {
            digests: Vec::new(),
        },
    );
    assert!(frames.is_empty());
    let victim = joins_held(&mut table, &liar).remove(1);
    for field in ["wg", "ek", "n"] {
        let mut join = forge_join(2, 60, epoch_now() + field.len() as u64, inv());
        match field {
            "wg" => join.wg = victim.wg,
            "ek" => join.kem = victim.kem.clone(),
            _ => join.n = victim.n,
        }
        resign_peer(&mut join, 60);
        let (mut table, liar) = with_liar();
        table.say_statements(0, &liar, &[&sign_unchecked(&join, &key(2))]);
        table.run();
        assert!(
            table.refusals(0).contains(&Code::DuplicateKey),
            "{field}: {:?}",
            table.refusals(0)
        );
        assert_eq!(table.seats[0].session.state(), State::Joining);
        table.pass(Duration::from_secs(601));
        let (code, whom, _) = table.failure(0);
        assert_eq!((code, whom), (Code::DuplicateKey, None));
        assert_named(&table, 0, None);
        assert_named(&table, 1, Some(Pid(2)));
    }
}

/// Only whose key was copied knows by whom.
fn assert_named(table: &Table, seat: usize, expected: Option<Pid>) {
    let shown = table.seats[seat].seen.refused.iter();
    let mut duplicates = shown.filter(|(_, code, _)| *code == Code::DuplicateKey);
    let (from, _, detail) = duplicates.next().unwrap();
    assert_eq!(*from, expected.map(|pid| key(pid.index()).did()));
    assert!(detail.contains("1 and 2"), "{detail}");
}

/// The joins of the honest parties 0 and 1, asked for as a member may.
fn joins_held(table: &mut Table, member: &common::Outsider) -> Vec<Verified<Join>> {
    let mut joins = Vec::new();
    let again = table.intrude(0, member.key.clone(), 89);
    table.hello(0, &again, &secret());
    let proof = table.proof(0, &again, inv());
    let frames = table.say(0, &again, &proof);
    for frame in frames {
        let Frame::Have { digests } = frame else {
            continue;
        };
        for digest in digests {
            let answer = table.say(
                0,
                &again,
                &Frame::Want {
                    digests: vec![digest],
                },
            );
            joins.extend(statement_in::<Join>(&answer));
        }
    }
    joins.retain(|join| join.pid != Pid(2));
    joins.sort_by_key(|join| join.pid);
    joins
}

#[test]
fn a21_a_far_future_epoch_is_refused_and_its_owner_can_still_join() {
    let (mut table, liar) = with_liar();
    let far = sign_unchecked(&forge_join(2, 60, epoch_now() + 400_000, inv()), &key(2));
    table.say_statements(0, &liar, &[&far]);
    assert_eq!(table.refusals(0), [Code::Epoch]);
    let good = sign_unchecked(&forge_join(2, 61, epoch_now(), inv()), &key(2));
    table.say_statements(0, &liar, &[&good]);
    assert_eq!(table.seats[0].session.state(), State::Confirming);
}

#[test]
fn a22_a_join_of_another_session_or_an_older_epoch_is_stale() {
    let (mut table, liar) = with_liar();
    let foreign = sign_unchecked(&forge_join(2, 60, epoch_now(), Digest([9; 32])), &key(2));
    let newer = sign_unchecked(&forge_join(2, 61, epoch_now() + 2, inv()), &key(2));
    let older = sign_unchecked(&forge_join(2, 62, epoch_now() + 1, inv()), &key(2));
    table.say_statements(0, &liar, &[&foreign, &newer, &older]);
    assert_eq!(table.refusals(0), [Code::Stale, Code::Stale]);
    let held = table.seats[0].session.roster();
    table.say_statements(0, &liar, &[&older]);
    assert_eq!(table.seats[0].session.roster(), held);
}

#[test]
fn a23_a_confirm_of_another_roster_ends_in_a_mismatch_that_names_the_member() {
    let (mut table, liar) = with_liar();
    let own = forge_join(2, 60, epoch_now(), inv());
    let mut joins: Vec<Digest> = joins_held(&mut table, &liar)
        .iter()
        .map(Verified::digest)
        .collect();
    joins[1] = Digest([4; 32]);
    joins.push(sign(own.clone(), &key(2)).unwrap().digest());
    let confirm = confirm(Digest([5; 32]), joins, epoch_now());
    table.say_statements(0, &liar, &[&sign_unchecked(&own, &key(2)), &confirm]);
    table.pass(Duration::from_secs(901));
    let (code, whom, detail) = table.failure(0);
    assert_eq!((code, whom), (Code::RosterMismatch, Some(Pid(2))));
    assert!(detail.contains("another join of party 1"), "{detail}");
    assert_eq!(table.seats[0].seen.installs, 0);
}

#[test]
fn a24_an_old_confirm_does_not_count_after_a_rejoin() {
    let (mut table, liar) = with_liar();
    let first = sign(forge_join(2, 60, epoch_now(), inv()), &key(2)).unwrap();
    table.say_statements(0, &liar, &[first.text()]);
    table.run();
    let old_roster = table.seats[0].session.roster().unwrap();
    let mut joins: Vec<Digest> = joins_held(&mut table, &liar)
        .iter()
        .map(Verified::digest)
        .collect();
    joins.push(first.digest());
    let old = confirm(old_roster, joins, epoch_now());
    let second = sign(forge_join(2, 61, epoch_now() + 1, inv()), &key(2)).unwrap();
    table.say_statements(0, &liar, &[second.text(), &old]);
    table.run();
    assert_ne!(table.seats[0].session.roster().unwrap(), old_roster);
    assert!(table.refusals(0).contains(&Code::Stale));
    assert_eq!(table.seats[0].session.state(), State::Confirming);
}

#[test]
fn a25_confirming_two_rosters_never_leaves_two_active() {
    let (mut table, liar) = with_liar();
    // Party 2 shows 0 one join and 1 another, each of its own epoch, and cuts 0 off from 1.
    table.filter = Box::new(|_, _, _| false);
    let to_one = table.intrude_as_member(1, 2, 90);
    let known = joins_held(&mut table, &liar);
    for (seat, who, seed) in [(0, &liar, 60_u8), (1, &to_one, 61)] {
        let own = sign(
            forge_join(2, seed, epoch_now() + u64::from(seed), inv()),
            &key(2),
        )
        .unwrap();
        table.say_statements(seat, who, &[own.text()]);
        let roster = Roster::build(&inv(), &[&known[0], &known[1], &own]).unwrap();
        assert_eq!(table.seats[seat].session.roster(), Some(roster.digest()));
        let text = confirm(
            roster.digest(),
            roster.joins(),
            epoch_now() + u64::from(seed),
        );
        table.say_statements(seat, who, &[&text]);
    }
    assert!(table.seats.iter().all(|seat| seat.seen.installs == 0));
    table.filter = Box::new(|_, _, _| true);
    table.pass(Duration::from_secs(10));
    let rosters: Vec<_> = table
        .seats
        .iter()
        .map(|seat| seat.session.roster())
        .collect();
    assert_eq!(rosters[0], rosters[1], "the newer join wins at both");
    for seat in &table.seats {
        let installed = seat.seen.mesh.as_ref().map(|mesh| mesh.roster);
        assert!(
            installed.is_none() || installed == rosters[0],
            "all of one roster, or nobody"
        );
    }
}
