//! Attacks on the agreed terms and on keys, named after their entries in the catalogue of attacks: each ends in its
//! named refusal, and installs nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    START, Table, confirm, draft, epoch_now, fingerprint, forge_join, inv, invitation,
    invitation_of, key, refusal_of_new, resign_peer, secret, setup, sign_unchecked, with_liar,
};
use quorate_identity::{B64, Code, Digest, UnixMillis, UnixTime};
use quorate_session::{
    ContentDigest, Frame, Outcome, Pid, Session, State,
    message::{Abort, Cancel, CodeText, Kem, Ready},
};
use std::time::{Duration, Instant};

#[test]
fn a26_a_draft_without_protection_is_refused() {
    let build = |draft: quorate_session::InvitationDraft| {
        draft.build([0; 16], [0; 32], &secret()).err().unwrap().code
    };
    assert_eq!(build(draft(2)), Code::Threshold);
    for t in [0, 2] {
        let mut unsafe_draft = draft(3);
        unsafe_draft.threshold = Some(t);
        assert_eq!(build(unsafe_draft), Code::Threshold);
    }
}

#[test]
fn a27_a_party_with_another_program_or_runtime_is_refused() {
    let mut own = setup(&invitation(3), 1, None, 1);
    own.fingerprint.program = ContentDigest::of(b"changed");
    assert_eq!(refusal_of_new(own), Code::Program);
    let mut word = setup(&invitation(3), 1, None, 1);
    word.fingerprint.word = 32;
    assert_eq!(refusal_of_new(word), Code::Runtime);

    for (fp, code) in [
        (
            quorate_session::Fingerprint {
                mpyc: "0.10".into(),
                ..fingerprint()
            },
            Code::Runtime,
        ),
        (
            quorate_session::Fingerprint {
                quorate: "1.0.0".into(),
                ..fingerprint()
            },
            Code::Version,
        ),
        (
            quorate_session::Fingerprint {
                program: ContentDigest::of(b"x"),
                ..fingerprint()
            },
            Code::Program,
        ),
        (
            quorate_session::Fingerprint {
                env: Some(ContentDigest::of(b"x")),
                ..fingerprint()
            },
            Code::Program,
        ),
    ] {
        let (mut table, liar) = with_liar();
        let mut join = forge_join(2, 60, epoch_now(), inv());
        join.fp = fp;
        table.say_statements(0, &liar, &[&sign_unchecked(&join, &key(2))]);
        assert_eq!(table.refusals(0), [code]);
        assert_eq!(table.seats[0].session.state(), State::Joining);
    }
    let (mut table, liar) = with_liar();
    let mut join = forge_join(2, 60, epoch_now(), inv());
    join.fp.python = "3.9.2".into();
    table.say_statements(0, &liar, &[&sign_unchecked(&join, &key(2))]);
    assert_eq!(
        table.seats[0].session.state(),
        State::Confirming,
        "Python may differ"
    );
}

#[test]
fn a28_one_domain_behind_too_many_parties_is_refused() {
    let mut draft = draft(3);
    draft.parties[1].did = "did:web:uni.example:a".parse().unwrap();
    draft.parties[2].did = "did:web:uni.example:b".parse().unwrap();
    assert_eq!(
        refusal_of_new(setup(&invitation_of(draft.clone()), 0, None, 1)),
        Code::Controller
    );
    draft.same_controller = quorate_session::message::SameController::Allow;
    assert!(
        Session::new(
            setup(&invitation_of(draft), 0, None, 1),
            UnixTime(START),
            Instant::now()
        )
        .is_ok()
    );
}

#[test]
fn a29_a_join_without_the_hybrid_kem_is_refused() {
    for alg in [None, Some("X25519")] {
        let (mut table, liar) = with_liar();
        let mut join = forge_join(2, 60, epoch_now(), inv());
        match alg {
            None => join.kem = None,
            Some(alg) => join.kem.as_mut().unwrap().alg = alg.into(),
        }
        table.say_statements(0, &liar, &[&sign_unchecked(&join, &key(2))]);
        assert_eq!(table.refusals(0), [Code::Pq]);
    }
}

#[test]
fn a30_weak_keys_in_a_join_are_refused() {
    let mut low_order = forge_join(2, 60, epoch_now(), inv());
    low_order.wg = B64([0; 32]);
    resign_peer(&mut low_order, 60);
    let mut above_modulus = forge_join(2, 60, epoch_now(), inv());
    above_modulus.kem.as_mut().unwrap().ek.0[..3].fill(0xff);
    for join in [low_order, above_modulus] {
        let (mut table, liar) = with_liar();
        table.say_statements(0, &liar, &[&sign_unchecked(&join, &key(2))]);
        assert_eq!(table.refusals(0), [Code::Key]);
    }
}

/// Party 2 as victim of a hand-driven party 0: returns the table (seats: 1, 2), the liar, and the current roster.
fn with_lying_encapsulator() -> (Table, common::Outsider, Digest) {
    let invitation = invitation(3);
    let mut table = Table::empty();
    for (seat, index) in [1, 2].into_iter().enumerate() {
        table.seat(setup(
            &invitation,
            index,
            None,
            0x20 + u8::try_from(index).unwrap(),
        ));
        table.join(seat);
    }
    table.link(0, 1);
    table.run();
    let liar = table.intrude_as_member(1, 0, 88);
    let join = sign_unchecked(&forge_join(0, 60, epoch_now(), inv()), &key(0));
    table.say_statements(1, &liar, &[&join]);
    table.run();
    let roster = table.seats[1].session.roster().unwrap();
    (table, liar, roster)
}

fn kem(roster: Digest, to: u16, ct: &[u8; 1120]) -> Kem {
    Kem {
        v: 1,
        iss: key(0).did(),
        inv: inv(),
        roster,
        to: Pid(to),
        ct: B64(*ct),
        iat: UnixTime(START),
    }
}

#[test]
fn a31_key_shares_that_do_not_fit_are_refused() {
    let (mut table, liar, roster) = with_lying_encapsulator();
    let for_itself = sign_unchecked(&kem(roster, 0, &[7; 1120]), &key(0));
    let beyond = sign_unchecked(&kem(roster, 9, &[7; 1120]), &key(0));
    let mut altered = sign_unchecked(&kem(roster, 2, &[7; 1120]), &key(0));
    let good = altered.clone();
    let middle = altered.len() / 2;
    altered.replace_range(
        middle..=middle,
        if &altered[middle..=middle] == "A" {
            "B"
        } else {
            "A"
        },
    );
    table.say_statements(1, &liar, &[&for_itself, &beyond, &altered]);
    let refusals = table.refusals(1);
    assert_eq!(refusals[..2], [Code::Kem, Code::Kem]);
    assert!(
        matches!(refusals[2], Code::Sig | Code::Format),
        "{refusals:?}"
    );
    let second = sign_unchecked(&kem(roster, 2, &[8; 1120]), &key(0));
    table.say_statements(1, &liar, &[&good, &second]);
    assert_eq!(
        table.refusals(1).last(),
        Some(&Code::Kem),
        "one share per pair and roster"
    );
    assert_eq!(table.seats[1].seen.installs, 0);
}

#[test]
fn a31_a_share_of_low_order_is_refused_and_named_at_the_deadline() {
    let (mut table, liar, roster) = with_lying_encapsulator();
    let mut ct = [7; 1120];
    ct[1088..].fill(0);
    table.say_statements(1, &liar, &[&sign_unchecked(&kem(roster, 2, &ct), &key(0))]);
    assert_eq!(table.refusals(1).last(), Some(&Code::Key));
    assert_eq!(table.seats[1].seen.installs, 0);
}

#[test]
fn a31_a_share_of_another_roster_is_not_used() {
    let (mut table, liar, _) = with_lying_encapsulator();
    table.say_statements(
        1,
        &liar,
        &[&sign_unchecked(
            &kem(Digest([3; 32]), 2, &[7; 1120]),
            &key(0),
        )],
    );
    table.pass(Duration::from_secs(901));
    assert_eq!(table.seats[1].seen.installs, 0);
    assert_eq!(table.failure(1).0, Code::Missing);
}

#[test]
fn a32_only_the_issuer_cancels_and_only_parties_abort() {
    let (mut table, liar) = with_liar();
    let cancel = Cancel {
        v: 1,
        iss: key(2).did(),
        inv: inv(),
        reason: "no".into(),
        iat: UnixTime(START),
    };
    let abort = Abort {
        v: 1,
        iss: key(9).did(),
        inv: inv(),
        roster: None,
        epoch: UnixMillis(epoch_now()),
        code: CodeText(Code::Left),
        whom: None,
        note: String::new(),
        iat: UnixTime(START),
    };
    table.say_statements(
        0,
        &liar,
        &[
            &sign_unchecked(&cancel, &key(2)),
            &sign_unchecked(&abort, &key(9)),
        ],
    );
    assert_eq!(table.refusals(0), [Code::NotIssuer, Code::NotIssuer]);
    assert_eq!(table.seats[0].session.state(), State::Joining);
}

#[test]
fn a33_a_flood_of_confirms_is_capped_and_its_member_named_and_cut_off() {
    let (mut table, liar) = with_liar();
    let texts: Vec<String> = (0..60_u8)
        .map(|n| confirm(Digest([n; 32]), vec![Digest([n; 32]); 3], epoch_now()))
        .collect();
    for text in &texts {
        table.say_statements(0, &liar, &[text]);
    }
    let overflow: Vec<_> = table.seats[0]
        .seen
        .refused
        .iter()
        .filter(|(_, code, _)| *code == Code::Overflow)
        .collect();
    assert!(
        overflow
            .iter()
            .all(|(from, _, _)| *from == Some(key(2).did()))
    );
    assert!(!overflow.is_empty());
    assert!(
        table.seats[0].session.usage().confirms <= quorate_session::limits::MAX_CONFIRMS_PER_PARTY
    );
    assert!(table.seats[0].seen.closed_links.contains(&liar.link));
    assert_eq!(table.seats[0].session.state(), State::Joining);
}

#[test]
fn a33_too_many_frames_close_the_link() {
    let (mut table, liar) = with_liar();
    for _ in 0..600 {
        table.say(
            0,
            &liar,
            &Frame::Have {
                digests: Vec::new(),
            },
        );
    }
    assert_eq!(table.refusals(0), [Code::Overflow]);
    assert!(table.seats[0].seen.closed_links.contains(&liar.link));
}

#[test]
fn a_ready_outside_the_tunnel_does_not_count() {
    let mut table = Table::new(3);
    table.seats[2].auto_mesh = false;
    table.run();
    let roster = table.seats[0].session.roster().unwrap();
    let member = table.intrude_as_member(0, 2, 88);
    let ready = Ready {
        v: 1,
        iss: key(2).did(),
        inv: inv(),
        roster,
        iat: UnixTime(START),
    };
    table.say_statements(0, &member, &[&sign_unchecked(&ready, &key(2))]);
    assert!(table.refusals(0).contains(&Code::NotMember));
    assert_eq!(table.seats[0].seen.starts, 0);
}

#[test]
fn a_peer_whose_clock_is_far_off_is_told_so_with_the_measured_skew() {
    let mut table = Table::new(3);
    let member = table.intrude(0, key(2), 88);
    table.hello(0, &member, &secret());
    let at = table.at;
    table.at = UnixTime(START + 7200);
    let proof = table.proof(0, &member, inv());
    table.at = at;
    table.say(0, &member, &proof);
    let (_, code, detail) = table.seats[0].seen.refused.last().unwrap();
    assert_eq!(*code, Code::Clock);
    assert!(detail.contains("7200"), "{detail}");
}

#[test]
fn garbage_on_a_proven_link_is_refused_until_it_is_closed() {
    let (mut table, liar) = with_liar();
    for n in 0..20_u8 {
        table.say_bytes(0, &liar, &[n; 40]);
    }
    assert!(table.seats[0].seen.closed_links.contains(&liar.link));
    let codes = table.refusals(0);
    assert!(
        codes[..codes.len() - 1]
            .iter()
            .all(|code| *code == Code::Format)
    );
    assert_eq!(codes.last(), Some(&Code::Overflow));
    assert_eq!(table.seats[0].session.state(), State::Joining);
}

#[test]
fn an_outcome_is_reported_once_and_nothing_is_said_afterwards() {
    let mut table = Table::new(3);
    table.run();
    let now = table.now;
    table.seats[0]
        .session
        .abort(Code::Interrupted, None, "stopped", UnixTime(START), now);
    table.pass(Duration::from_secs(5));
    assert!(matches!(
        table.outcome(0),
        Outcome::Failed {
            code: Code::Interrupted,
            ..
        }
    ));
    assert_eq!(
        table.seats[0]
            .seen
            .order
            .iter()
            .filter(|what| *what == "closed")
            .count(),
        1
    );
    let said = table.seats[0].seen.order.len();
    let late = table.intrude(0, key(1), 91);
    table.hello(0, &late, &secret());
    table.pass(Duration::from_mins(1));
    assert_eq!(table.seats[0].seen.order.len(), said);
    assert!(table.seats[0].session.poll_timeout().is_none());
}
