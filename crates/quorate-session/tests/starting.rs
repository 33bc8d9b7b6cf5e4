//! A party that holds the start: nobody's program runs before it says so, and everybody sees for whom they wait.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::Table;
use quorate_identity::Code;
use quorate_session::{Pid, State};
use std::time::Duration;

/// Three parties; the first one holds the start, everything else is done.
fn held() -> Table {
    let mut table = Table::new(3);
    table.seats[0].session.hold_start();
    table.run();
    table.pass(Duration::from_secs(5));
    table
}

fn waits(table: &Table, index: usize) -> Vec<(u16, &'static str)> {
    let parties = table.seats[index].session.parties();
    let waits = parties
        .iter()
        .filter_map(|p| Some((p.pid.0, p.waiting_for?)));
    waits.collect()
}

#[test]
fn nobody_starts_before_the_holder_says_so_and_all_start_then() {
    let mut table = held();
    assert_eq!(table.states(), [State::Ready; 3]);
    assert!(table.seats[0].session.awaits_release());
    for index in [1, 2] {
        assert_eq!(waits(&table, index), [(0, "start")]);
        assert!(!table.seats[index].session.awaits_release());
    }
    let (at, now) = (table.at, table.now);
    table.seats[0].session.release_start(at, now);
    table.drain(0);
    table.pass(Duration::from_secs(1));
    assert_eq!(table.states(), [State::Running; 3]);
    table.assert_no_alarm();
}

#[test]
fn a_start_that_was_released_before_everybody_was_ready_is_not_held_any_more() {
    let mut table = Table::new(3);
    table.seats[0].session.hold_start();
    let (at, now) = (table.at, table.now);
    table.seats[0].session.release_start(at, now);
    table.pass(Duration::from_secs(5));
    assert_eq!(table.states(), [State::Running; 3]);
}

#[test]
fn a_holder_that_says_nothing_ends_the_session_when_the_time_to_start_is_over() {
    let mut table = held();
    let start_by = common::draft(3).time.start_by.0 - table.at.0;
    table.pass(Duration::from_secs(u64::try_from(start_by).unwrap() + 3));
    let (code, whom, detail) = table.failure(0);
    assert_eq!((code, whom), (Code::Time, Some(Pid(0))));
    assert_eq!(detail, "it was not started in time");
    for index in [1, 2] {
        let (code, whom, detail) = table.failure(index);
        assert_eq!(whom, Some(Pid(0)), "{detail}");
        assert!([Code::Time, Code::Missing].contains(&code), "{detail}");
    }
    table.assert_no_alarm();
}
