//! What a session puts into its record, when it is stored, and what a party that comes back does with it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Table, alter, draft, invitation, invitation_of, key, setup};
use quorate_identity::{Code, sign};
use quorate_session::{
    Pid, Record, limits,
    message::Cancel,
    record::{Lack, Standing, Verdict},
};
use std::time::Duration;

fn finished() -> Record {
    let mut table = Table::new(3);
    table.run();
    table.pass(Duration::from_secs(4));
    for index in 0..3 {
        table.exit(index, 0);
    }
    table.pass(Duration::from_secs(2));
    table.seats[0].kept.clone().unwrap()
}

fn lacks(verdict: &Verdict) -> Vec<(u16, &'static str)> {
    let pair = |lack: &Lack| (lack.pid.0, lack.what);
    verdict.lacks().iter().map(pair).collect()
}

#[test]
fn nothing_is_recorded_before_the_own_join_is_out() {
    let mut table = Table::empty();
    table.seat(setup(&invitation(3), 0, None, 1));
    assert!(table.seats[0].session.record().is_none());
    table.join(0);
    let record = table.seats[0].session.record().unwrap();
    let verdict = record.verify().unwrap();
    assert_eq!(verdict.standing(), Standing::NotRun);
    assert_eq!(verdict.newest().unwrap().digest(), None);
    assert_eq!(lacks(&verdict).len(), 8, "all but the own join");
}

#[test]
fn a_run_that_was_aborted_is_recorded_with_who_stopped_it() {
    let mut table = Table::new(3);
    table.run();
    let (at, now) = (table.at, table.now);
    table.seats[1]
        .session
        .abort(Code::Interrupted, Some(Pid(1)), "Ctrl-C", at, now);
    table.pass(Duration::from_secs(4));
    let records: Vec<Record> = table
        .seats
        .iter()
        .map(|s| s.kept.clone().unwrap())
        .collect();
    assert!(records.iter().all(|record| *record == records[0]));
    let verdict = records[0].verify().unwrap();
    assert_eq!(verdict.standing(), Standing::Failed);
    assert!(verdict.is_complete(), "{:?}", verdict.lacks());
    let aborts: Vec<_> = verdict.newest().unwrap().aborts().collect();
    let [(pid, abort)] = aborts[..] else {
        panic!("{}", aborts.len())
    };
    assert_eq!(
        (pid, abort.code.0, abort.note.as_str()),
        (Pid(1), Code::Interrupted, "Ctrl-C")
    );
    let mut changed = records[0].clone();
    changed.runs[0].aborts[0] = alter(&changed.runs[0].aborts[0], 2);
    assert_eq!(changed.verify().err().unwrap().code, Code::Sig);
}

#[test]
fn a_session_that_was_cancelled_is_recorded_with_the_cancel() {
    let mut table = Table::new(3);
    table.run();
    let cancel = Cancel {
        v: 1,
        iss: key(0).did(),
        inv: invitation(3).digest(),
        reason: "wrong year".into(),
        iat: table.at,
    };
    let cancel = sign(cancel, &key(0)).unwrap();
    let organizer = table.intrude_as_member(1, 0, 90);
    table.say_statements(1, &organizer, &[cancel.text()]);
    table.pass(Duration::from_secs(4));
    let record = table.seats[2].kept.clone().unwrap();
    let verdict = record.verify().unwrap();
    assert_eq!(verdict.cancel.as_ref().unwrap().reason, "wrong year");
    assert_eq!(verdict.standing(), Standing::Failed, "the run was on");
    let mut changed = record.clone();
    changed.cancel = Some(alter(cancel.text(), 2));
    assert_eq!(changed.verify().err().unwrap().code, Code::Sig);
}

#[test]
fn f06_the_own_receipt_is_stored_before_it_is_sent() {
    let mut table = Table::new(3);
    table.run();
    table.seats[0].auto_keep = false;
    table.exit(0, 0);
    table.pass(Duration::from_secs(4));
    let sent = |table: &Table| {
        table.seats[0]
            .seen
            .order
            .iter()
            .any(|what| what.contains("receipt"))
    };
    assert!(!sent(&table));
    let (token, record) = table.seats[0].seen.keeps.pop_back().unwrap();
    let verdict = record.verify().unwrap();
    assert_eq!(lacks(&verdict), [(1, "receipt"), (2, "receipt")]);
    let now = table.now;
    table.seats[0].session.handle_persisted(token, true, now);
    table.drain(0);
    assert!(sent(&table));
    table.exit(1, 0);
    table.exit(2, 0);
    table.pass(Duration::from_secs(2));
    assert!((0..3).all(|i| matches!(table.outcome(i), quorate_session::Outcome::Finished { exits, .. } if *exits == [Some(0); 3])));
}

#[test]
fn f27_a_receipt_that_cannot_be_stored_is_sent_all_the_same() {
    for answer in [Some(false), None] {
        let mut table = Table::new(3);
        table.run();
        table.seats[0].auto_keep = false;
        table.exit(0, 0);
        let (token, _) = table.seats[0].seen.keeps.pop_back().unwrap();
        match answer {
            Some(ok) => {
                let now = table.now;
                table.seats[0].session.handle_persisted(token, ok, now);
            }
            None => table.pass(limits::PERSIST_TIMEOUT + Duration::from_secs(1)),
        }
        table.exit(1, 0);
        table.exit(2, 0);
        table.pass(Duration::from_secs(2));
        for index in 0..3 {
            let quorate_session::Outcome::Finished { exits, .. } = table.outcome(index) else {
                panic!("{:?}", table.outcome(index))
            };
            assert_eq!(*exits, [Some(0); 3]);
        }
    }
}

/// Parties 0 and 1 are done; party 2 was done too, and was killed before its receipt left the machine.
fn killed_while_closing() -> (Table, quorate_session::Stored, Record) {
    let mut table = Table::new(3);
    table.run();
    table.exit(0, 0);
    table.exit(1, 0);
    table.filter = Box::new(|from, _, _| from != 2);
    table.exit(2, 0);
    table.run();
    let stored = table.kill(2).unwrap();
    let record = table.seats[2].kept.clone().unwrap();
    table.filter = Box::new(|_, _, _| true);
    (table, stored, record)
}

#[test]
fn f06_a_party_that_is_back_in_time_gives_its_receipt_and_takes_the_others() {
    let (mut table, stored, record) = killed_while_closing();
    let again = setup(&invitation(3), 2, Some(stored), 77);
    let seat = table.seat_again(again, &record);
    table.join(seat);
    table.link(seat, 0);
    table.link(seat, 1);
    table.pass(Duration::from_secs(3));
    let whole = table.seats[0].kept.clone().unwrap();
    assert!(whole.verify().unwrap().is_complete());
    for index in [0, 1, seat] {
        let quorate_session::Outcome::Finished { exits, .. } = table.outcome(index) else {
            panic!("{:?}", table.outcome(index))
        };
        assert_eq!(*exits, [Some(0); 3]);
        assert_eq!(table.seats[index].kept.as_ref(), Some(&whole));
    }
    let said = table.seats[seat].seen.order.join(" ");
    assert!(!said.contains("kem") && !said.contains("abort"), "{said}");
    assert_eq!(table.seats[seat].seen.installs, 0);
    table.assert_no_alarm();
}

#[test]
fn f06_a_party_that_is_back_too_late_ends_with_the_receipts_it_has() {
    let (mut table, stored, record) = killed_while_closing();
    table.pass(limits::PEER_SILENCE + limits::RECEIPT_WAIT + Duration::from_secs(3));
    let left = table.seats[0].kept.clone().unwrap().verify().unwrap();
    assert_eq!(
        lacks(&left),
        [(2, "receipt")],
        "the record lists what is missing"
    );

    let again = setup(&invitation(3), 2, Some(stored), 77);
    let seat = table.seat_again(again, &record);
    table.join(seat);
    table.pass(limits::SETTLE_WAIT + Duration::from_secs(1));
    let kept = table.seats[seat].kept.clone().unwrap();
    let whole = kept.merge(table.seats[0].kept.as_ref().unwrap()).unwrap();
    assert!(
        whole.verify().unwrap().is_complete(),
        "both copies together"
    );
    let stored = table.seats[seat].last_record.as_deref().unwrap();
    let stored = quorate_session::Stored::parse(stored).unwrap();
    assert_eq!(stored.closed, Some(quorate_session::Closure::Finished));
}

#[test]
fn f06_an_interrupt_while_settling_takes_nobodys_end_away() {
    let (mut table, stored, record) = killed_while_closing();
    let again = setup(&invitation(3), 2, Some(stored), 77);
    let seat = table.seat_again(again, &record);
    table.join(seat);
    table.link(seat, 0);
    let (at, now) = (table.at, table.now);
    table.seats[seat]
        .session
        .abort(Code::Interrupted, None, "Ctrl-C", at, now);
    table.drain(seat);
    let said = table.seats[seat].seen.order.join(" ");
    assert!(!said.contains("abort"), "{said}");
    table.pass(Duration::from_secs(25));
    for index in [0, 1, seat] {
        assert!(matches!(
            table.outcome(index),
            quorate_session::Outcome::Finished { .. }
        ));
    }
}

#[test]
fn a_record_of_a_run_that_was_not_done_leads_to_a_new_start() {
    let mut table = Table::new(3);
    table.run();
    let stored = table.kill(2).unwrap();
    let record = table.seats[2].kept.clone().unwrap();
    let again = setup(&invitation(3), 2, Some(stored.clone()), 77);
    let seat = table.seat_again(again, &record);
    table.join(seat);
    table.link(seat, 0);
    table.link(seat, 1);
    table.pass(Duration::from_secs(3));
    assert_eq!(
        table.seats[seat].session.state(),
        quorate_session::State::Running
    );

    let closed = quorate_session::Stored {
        closed: Some(quorate_session::Closure::Finished),
        ..stored.clone()
    };
    let refused = quorate_session::Session::resume(
        setup(&invitation(3), 2, Some(closed), 1),
        &finished(),
        table.at,
        table.now,
    );
    assert_eq!(refused.err().unwrap().code, Code::Replay);
    let mut other = draft(3);
    other.title = "Another one".into();
    let refused = quorate_session::Session::resume(
        setup(&invitation_of(other), 2, Some(stored), 1),
        &finished(),
        table.at,
        table.now,
    );
    assert_eq!(refused.err().unwrap().code, Code::Stale);
}
