//! Calls, cards and applications at their limits, and other statements in their place.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod common;
mod lobby_table;

use common::key;
use lobby_table::{AT, application, call, call_draft, host_peer, peer};
use quorate_identity::{Code, Rejection, Statement, Unverified, sign};
use quorate_session::{
    Apply, Call, CallSubject, Card, SealSecret,
    limits::{MAX_CARD_BYTES, MAX_CARD_SECONDS, MAX_VALIDITY_SECONDS},
    message::{card, close, verify_card},
};

fn refusal<T: std::fmt::Debug>(result: Result<T, Rejection>) -> (Code, &'static str) {
    let why = result.unwrap_err();
    (why.code, why.rule)
}

#[test]
fn calls_beyond_their_limits_are_refused() {
    for seats in [0, 1, 65] {
        assert!(call_draft(seats).build([7; 16]).is_err(), "{seats}");
    }
    let mut late = call_draft(3);
    late.apply_by = late.terms.time.join_by.plus_seconds(1);
    assert_eq!(refusal(late.build([7; 16])), (Code::Time, "F2"));
    let mut long = call_draft(3);
    long.terms.valid_until = long.terms.valid_from.plus_seconds(MAX_VALIDITY_SECONDS + 1);
    assert_eq!(refusal(long.build([7; 16])), (Code::Limit, "F2"));
    let mut short = call_draft(3);
    short.terms.valid_until = short.terms.time.end_by.plus_seconds(-1);
    assert_eq!(refusal(short.build([7; 16])), (Code::Time, "F2"));
    let mut guests = call_draft(3);
    guests.terms.parties.push(guests.terms.parties[0].clone());
    assert_eq!(refusal(guests.build([7; 16])), (Code::Format, "F2"));
    let good = call_draft(3).build([7; 16]).unwrap();
    let mut seats = good.clone();
    seats.subject.mpc.m = 65;
    assert_eq!(refusal(seats.check()), (Code::Limit, "F2"));
    let mut name = good.clone();
    name.subject.name = "x\u{202e}".into();
    assert_eq!(refusal(name.check()).0, Code::Format);
    let mut threshold = good;
    threshold.subject.mpc.t = 2;
    assert_eq!(refusal(threshold.check()).0, Code::Threshold);
}

#[test]
fn a_call_without_the_inviter_has_a_seat_more_for_others() {
    let with = call_draft(4).build([7; 16]).unwrap();
    let mut draft = call_draft(4);
    draft.terms.parties.clear();
    let without = draft.build([7; 16]).unwrap();
    assert_eq!(
        (with.subject.free_seats(), without.subject.free_seats()),
        (3, 4)
    );
}

#[test]
fn the_closed_invitation_has_the_terms_of_its_call_and_all_of_its_seats() {
    let call = call(3);
    let secret = common::secret();
    assert!(close(&call, vec![], vec![], [1; 16], [2; 32], &secret, AT).is_err());
}

#[test]
fn cards_beyond_their_limits_are_refused() {
    let ek = SealSecret::of(&key(1)).public();
    let make = |ek: [u8; 1216], seconds: i64| {
        card(
            key(1).did(),
            "sud".into(),
            ek,
            [1; 16],
            AT,
            AT.plus_seconds(seconds),
        )
    };
    assert!(make(ek, MAX_CARD_SECONDS).is_ok());
    assert_eq!(refusal(make(ek, MAX_CARD_SECONDS + 1)), (Code::Limit, "F3"));
    assert_eq!(refusal(make([0xff; 1216], 60)), (Code::Key, "F3"));
    let mut low = ek;
    low[1184..].fill(0);
    assert_eq!(refusal(make(low, 60)), (Code::Key, "F3"));
    let mut other = make(ek, 60).unwrap();
    other.subject.seal.alg = "X25519".into();
    assert_eq!(refusal(other.check()), (Code::Pq, "F3"));

    let signed = sign(make(ek, 60).unwrap(), &key(1)).unwrap();
    assert_eq!(
        verify_card(&format!(" {}\n", signed.text()), AT)
            .unwrap()
            .issuer,
        key(1).did()
    );
    assert_eq!(
        refusal(verify_card(signed.text(), AT.plus_seconds(400))).0,
        Code::Time
    );
}

#[test]
fn applications_beyond_their_limits_are_refused() {
    let good = || application(&call(3), 1, peer(101), host_peer());
    assert!(good().check().is_ok());
    let mut long = good();
    long.exp = long.iat.plus_seconds(121);
    assert_eq!(refusal(long.check()), (Code::Time, "F4"));
    let mut backwards = good();
    backwards.exp = backwards.iat.plus_seconds(-1);
    assert_eq!(refusal(backwards.check()), (Code::Time, "F4"));
    let mut heavy = good();
    heavy.card = Some("x".repeat(MAX_CARD_BYTES + 1));
    assert_eq!(refusal(heavy.check()), (Code::Limit, "F4"));
    let mut version = good();
    version.v = 2;
    assert_eq!(refusal(version.check()).0, Code::Version);
}

#[test]
fn a02_no_statement_of_first_contact_is_taken_for_another() {
    let call = call(3);
    let apply = sign(application(&call, 1, peer(101), host_peer()), &key(1)).unwrap();
    let ek = SealSecret::of(&key(0)).public();
    let card = card(
        key(0).did(),
        "n".into(),
        ek,
        [1; 16],
        AT,
        AT.plus_seconds(60),
    )
    .unwrap();
    let card = sign(card, &key(0)).unwrap();
    let invitation = common::invitation(3);
    for text in [apply.text(), card.text(), invitation.text()] {
        assert!(Unverified::<Call>::parse(text).is_err());
    }
    for text in [apply.text(), call.text(), invitation.text()] {
        assert!(Unverified::<Card>::parse(text).is_err());
    }
    for text in [call.text(), card.text()] {
        assert_eq!(
            refusal(Unverified::<Apply>::parse(text)),
            (Code::Header, "J5")
        );
    }
    assert_eq!(
        <CallSubject as quorate_identity::Subject>::TYPE,
        "QuorateCall"
    );
}
