//! Members that lie, flood or replay, and parties that come back at a bad moment: nobody is led astray, nobody waits for
//! ever, and nobody is blamed on somebody else's word.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    Outsider, START, Table, epoch_now, forge_join, invitation, key, setup, sign_unchecked,
};
use quorate_identity::{B64, Code, Digest, UnixMillis, UnixTime};
use quorate_session::{
    Frame, Phase, Pid, RendezvousSecret, Session, State, Stored, limits,
    message::{Abort, Cancel, CodeText},
};
use std::time::Duration;

fn inv() -> Digest {
    invitation(3).digest()
}

/// Parties 0 and 1, linked and joined; party 2 is driven by hand over a link to seat 0.
fn with_liar() -> (Table, Outsider) {
    let mut table = Table::empty();
    for index in 0..2 {
        let seed = 0x10 + u8::try_from(index).unwrap();
        table.seat(setup(&invitation(3), index, None, seed));
    }
    table.link(0, 1);
    table.join(0);
    table.join(1);
    table.run();
    let liar = table.intrude_as_member(0, 2, 60);
    (table, liar)
}

fn join(who: usize, epoch: u64) -> String {
    sign_unchecked(&forge_join(who, 60, epoch, inv()), &key(who))
}

fn abort(who: usize, epoch: u64, code: Code, whom: Option<Pid>) -> String {
    let abort = Abort {
        v: 1,
        iss: key(who).did(),
        inv: inv(),
        roster: None,
        epoch: UnixMillis(epoch),
        code: CodeText(code),
        whom,
        note: "says so".into(),
        iat: UnixTime(START),
    };
    sign_unchecked(&abort, &key(who))
}

fn record(table: &Table, seat: usize) -> Stored {
    Stored::parse(table.seats[seat].last_record.as_deref().unwrap()).unwrap()
}

#[test]
fn a_claim_without_proof_is_a_leave_of_the_one_who_claims_and_forbids_nothing() {
    for code in [Code::Cancelled, Code::Equivocation, Code::Split] {
        let (mut table, liar) = with_liar();
        let join = join(2, epoch_now());
        let abort = abort(2, epoch_now(), code, Some(Pid(1)));
        table.say_statements(0, &liar, &[&join, &abort]);
        table.run();
        let (shown, whom, detail) = table.failure(0);
        assert_eq!((shown, whom), (Code::PartyLeft, Some(Pid(2))));
        assert!(detail.contains(code.as_str()), "{detail}");
        let stored = record(&table, 0);
        assert_eq!(stored.closed, None);
        let again = setup(&invitation(3), 0, Some(stored), 9);
        assert!(Session::new(again, table.at, table.now).is_ok());
    }
}

#[test]
fn an_abort_that_blames_a_position_nobody_has_names_its_signer() {
    let (mut table, liar) = with_liar();
    let join = join(2, epoch_now());
    let abort = abort(2, epoch_now(), Code::ProgramFailed, Some(Pid(900)));
    table.say_statements(0, &liar, &[&join, &abort]);
    let (code, whom, _) = table.failure(0);
    assert_eq!((code, whom), (Code::ProgramFailed, Some(Pid(2))));
}

#[test]
fn an_abort_reaches_those_who_never_heard_of_its_issuer_whichever_came_first() {
    for abort_first in [false, true] {
        let (mut table, liar) = with_liar();
        let (join, abort) = (
            join(2, epoch_now()),
            abort(2, epoch_now(), Code::ProgramFailed, Some(Pid(2))),
        );
        let order = if abort_first {
            [&abort, &join]
        } else {
            [&join, &abort]
        };
        for text in order {
            table.say_statements(0, &liar, &[text]);
        }
        table.run();
        for seat in 0..2 {
            let (code, whom, _) = table.failure(seat);
            assert_eq!((code, whom), (Code::ProgramFailed, Some(Pid(2))));
        }
    }
}

#[test]
fn an_own_abort_reaches_a_party_that_lost_the_join_before_it() {
    let mut table = Table::empty();
    for index in 0..2 {
        let seed = 0x30 + u8::try_from(index).unwrap();
        table.seat(setup(&invitation(3), index, None, seed));
        table.join(index);
    }
    table.link(0, 1);
    let mut join_lost = false;
    table.filter = Box::new(move |from, _, frame| {
        let has_join = matches!(frame, Frame::Have { .. })
            || matches!(frame, Frame::Statements { .. }) && !join_lost;
        join_lost |= from == 0 && matches!(frame, Frame::Statements { .. });
        !(from == 0 && has_join)
    });
    table.run();
    table.filter = Box::new(|_, _, _| true);
    let (at, now) = (table.at, table.now);
    table.seats[0]
        .session
        .abort(Code::Interrupted, None, "stopped", at, now);
    table.run();
    assert_eq!(table.failure(1).0, Code::Interrupted);
}

/// `count` joins of party 2 that all claim one epoch.
fn many_joins(count: u16) -> Vec<String> {
    let one = |n: u16| {
        let mut join = forge_join(2, 60, epoch_now() + 2, inv());
        join.n = B64([u8::try_from(n % 256).unwrap(); 16]);
        join.iat = UnixTime(START - i64::from(n / 256));
        sign_unchecked(&join, &key(2))
    };
    (0..count).map(one).collect()
}

#[test]
fn evidence_against_one_party_is_kept_once_also_while_closing() {
    let joins = many_joins(80);
    for running in [false, true] {
        let mut table = Table::new(3);
        if running {
            table.run();
            assert_eq!(table.states(), [State::Running; 3]);
        } else {
            table.cut(1);
        }
        let liar = table.intrude_as_member(0, 2, 60);
        table.filter = Box::new(|_, _, _| false);
        for chunk in joins.chunks(40) {
            let texts: Vec<&str> = chunk.iter().map(String::as_str).collect();
            table.say_statements(0, &liar, &texts);
        }
        assert_eq!(table.seats[0].seen.evidence.len(), 1);
        table.pass(Duration::from_secs(3));
        assert_eq!(table.failure(0).0, Code::Equivocation);
    }
}

#[test]
fn a_second_cancel_is_not_passed_on() {
    let mut table = Table::new(3);
    table.run();
    let organizer = table.intrude_as_member(1, 0, 60);
    let cancel = |reason: &str| {
        let cancel = Cancel {
            v: 1,
            iss: key(0).did(),
            inv: inv(),
            reason: reason.into(),
            iat: UnixTime(START),
        };
        sign_unchecked(&cancel, &key(0))
    };
    table.say_statements(1, &organizer, &[&cancel("one"), &cancel("two")]);
    table.run();
    for seat in &table.seats {
        let sent = seat
            .seen
            .order
            .iter()
            .filter(|what| what.contains("cancel"));
        assert!(sent.count() <= 4, "one per link, tunnels included");
    }
    assert_eq!(table.failure(2).0, Code::Cancelled);
}

#[test]
fn a_join_that_has_expired_is_kept_to_oneself_and_costs_nobody_a_link() {
    let four = invitation(4);
    let mut table = Table::empty();
    for index in 0..2 {
        let seed = 0x10 + u8::try_from(index).unwrap();
        table.seat(setup(&four, index, None, seed));
        table.join(index);
    }
    table.link(0, 1);
    table.run();
    let liar = table.intrude_as_member(0, 2, 60);
    let mut short = forge_join(2, 60, epoch_now(), four.digest());
    short.exp = UnixTime(START + 1);
    table.say_statements(0, &liar, &[&sign_unchecked(&short, &key(2))]);
    table.pass(Duration::from_secs(305));
    let late = table.seat(setup(&four, 3, None, 77));
    table.join(late);
    table.link(late, 0);
    table.link(late, 1);
    table.pass(Duration::from_mins(1));
    assert_eq!(table.refusals(late), []);
    assert_eq!(table.seats[late].seen.closed_links, []);
}

#[test]
fn a_second_instance_that_stops_takes_those_along_who_had_turned_to_it() {
    let mut table = Table::new(3);
    table.run();
    let stored = record(&table, 1);
    let twin = table.seat(setup(&invitation(3), 1, Some(stored), 99));
    // The first instance does not hear of the second before the others gave up their roster for it.
    table.filter = Box::new(|from, to, _| to != 1 || !matches!(from, 0 | 2));
    table.seats[0].auto_mesh = false;
    table.join(twin);
    table.link(twin, 0);
    table.link(twin, 2);
    table.run();
    table.link(twin, 1);
    table.pass(Duration::from_secs(5));
    assert_eq!(table.failure(1).0, Code::IdentityElsewhere);
    for seat in [0, 2, twin] {
        let (code, whom, _) = table.failure(seat);
        assert_eq!((code, whom), (Code::AlreadyJoined, Some(Pid(1))), "{seat}");
    }
}

#[test]
fn what_an_earlier_start_saw_aborted_cannot_be_replayed_to_stop_the_next() {
    let (mut table, liar) = with_liar();
    let old = [
        join(2, epoch_now()),
        abort(2, epoch_now(), Code::Interrupted, Some(Pid(2))),
    ];
    table.say_statements(0, &liar, &[&old[0], &old[1]]);
    assert_eq!(table.failure(0).0, Code::Interrupted);
    let stored = record(&table, 0);

    let mut table = Table::empty();
    table.seat(setup(&invitation(3), 0, Some(stored), 3));
    table.join(0);
    let replayer = table.intrude_as_member(0, 1, 61);
    table.say_statements(0, &replayer, &[&old[0], &old[1]]);
    assert_eq!(table.refusals(0), [Code::Stale, Code::Stale]);
    assert_eq!(table.seats[0].session.state(), State::Joining);
    // Its next join counts.
    table.say_statements(0, &replayer, &[&join(2, epoch_now() + 1)]);
    assert_eq!(table.refusals(0).len(), 2);
}

#[test]
fn a_party_that_did_not_stop_is_still_believed_after_our_own_restart() {
    let mut table = Table::new(3);
    table.run();
    let stored = table.kill(0);
    let again = table.seat(setup(&invitation(3), 0, stored, 99));
    table.join(again);
    table.link(again, 1);
    table.link(again, 2);
    table.run();
    assert_eq!(table.seats[again].session.state(), State::Running);
}

#[test]
fn a_member_that_keeps_sending_outdated_statements_is_cut_off_one_that_sends_some_is_not() {
    let (mut table, liar) = with_liar();
    table.say_statements(0, &liar, &[&join(2, epoch_now() + 1000)]);
    let old = |n: u64| join(2, epoch_now() + n);
    for n in 0..16 {
        table.say_statements(0, &liar, &[&old(n)]);
    }
    assert_eq!(table.refusals(0), [Code::Stale; 16]);
    for n in 16..31 {
        table.say_statements(0, &liar, &[&old(n)]);
    }
    assert_eq!(table.seats[0].seen.closed_links, []);
    table.say_statements(0, &liar, &[&old(31)]);
    assert_eq!(table.seats[0].seen.closed_links, [liar.link]);
    assert_eq!(table.refusals(0).last(), Some(&Code::Overflow));
}

#[test]
fn strangers_who_take_all_places_keep_no_party_out_and_are_not_banned_for_it() {
    let mut table = Table::empty();
    for index in 0..2 {
        let seed = 0x10 + u8::try_from(index).unwrap();
        table.seat(setup(&invitation(3), index, None, seed));
        table.join(index);
    }
    let places = u8::try_from(limits::MAX_UNPROVEN_LINKS).unwrap();
    let strangers: Vec<_> = (0..places)
        .map(|n| table.intrude(0, key(9), 100 + n).link)
        .collect();
    let honest = table.link(0, 1);
    table.run();
    let seen = &table.seats[0].seen;
    assert_eq!(seen.closed_links, [strangers[0]], "the oldest makes room");
    assert_eq!(seen.banned, []);
    assert!(!table.seats[1].seen.closed_links.contains(&honest));
    assert!(
        table.seats[0]
            .seen
            .phases
            .contains(&(Pid(1), Phase::Joined))
    );
}

#[test]
fn a_stranger_gets_few_and_small_frames_looked_at() {
    let mut table = Table::new(3);
    let ping = Frame::Ping { n: 1 };
    let chatty = table.intrude(0, key(9), 100);
    for _ in 0..limits::MAX_UNTAGGED_FRAMES {
        table.say(0, &chatty, &ping);
    }
    assert_eq!(table.seats[0].seen.closed_links, []);
    table.say(0, &chatty, &ping);
    let large = table.intrude(0, key(9), 101);
    table.say_bytes(0, &large, &vec![b' '; limits::MAX_UNPROVEN_FRAME_BYTES + 1]);
    assert_eq!(table.seats[0].seen.closed_links, [chatty.link, large.link]);
    assert_eq!(table.seats[0].seen.banned, [chatty.link, large.link]);
    assert_eq!(table.refusals(0), [Code::Overflow, Code::Overflow]);
}

#[test]
fn only_who_misbehaves_is_banned() {
    let mut table = Table::new(3);
    let slow = table.intrude(0, key(9), 100);
    table.pass(limits::HANDSHAKE_TIMEOUT + Duration::from_secs(1));
    assert!(table.seats[0].seen.closed_links.contains(&slow.link));
    assert_eq!(table.seats[0].seen.banned, []);
    let liar = table.intrude(0, key(9), 101);
    table.hello(0, &liar, &RendezvousSecret::new([1; 32]));
    assert_eq!(table.seats[0].seen.banned, [liar.link]);
}

#[test]
fn a_party_gets_no_fifth_link_and_is_not_banned_for_it() {
    let (mut table, _first) = with_liar();
    for seed in 90..93 {
        table.intrude_as_member(0, 2, seed);
    }
    assert!(table.refusals(0).is_empty());
    let fifth = table.intrude_as_member(0, 2, 93);
    assert_eq!(table.refusals(0), [Code::Overflow]);
    assert!(table.seats[0].seen.closed_links.contains(&fifth.link));
    assert!(table.seats[0].seen.banned.is_empty());
}
