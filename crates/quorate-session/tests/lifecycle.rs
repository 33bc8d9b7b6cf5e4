//! Storing before sending, joining again, silence, and every way a session ends.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    START, Table, draft, epoch_now, invitation, invitation_of, key, secret, setup, sign_unchecked,
};
use quorate_identity::{Code, Did, DidKeyResolver, Rejection, Resolver, UnixMillis, UnixTime};
use quorate_session::{
    Event, Frame, LinkId, Outcome, Phase, Pid, ProgramReport, Session, State, Stored, limits,
    message::{Cancel, Receipt, ReceiptOutcome},
};
use std::time::{Duration, Instant};

#[test]
fn nothing_is_sent_and_nobody_is_asked_before_the_user_approved() {
    let mut session = Session::new(
        setup(&invitation(3), 0, None, 1),
        UnixTime(START),
        Instant::now(),
    )
    .unwrap();
    let now = Instant::now();
    let kind = quorate_session::LinkKind::Overlay {
        local: session.peer_id(),
        remote: session.peer_id(),
    };
    session.handle_link_up(LinkId(1), kind, UnixTime(START), now);
    assert!(session.poll_transmit().is_none());
    assert!(session.poll_timeout().is_none());
    while let Some(event) = session.poll_event() {
        assert!(matches!(event, Event::State(State::Invited)), "{event:?}");
    }
}

#[test]
fn a_join_is_sent_only_after_its_epoch_is_stored() {
    let invitation = invitation(3);
    let mut table = Table::empty();
    for index in 0..2 {
        table.seat(setup(
            &invitation,
            index,
            None,
            1 + u8::try_from(index).unwrap(),
        ));
    }
    table.seats[0].auto_persist = false;
    table.join(0);
    table.join(1);
    table.link(0, 1);
    table.run();
    let sent_join = |table: &Table| {
        table.seats[0]
            .seen
            .order
            .iter()
            .any(|what| what.contains("join"))
    };
    assert!(!sent_join(&table));
    let (token, record) = table.seats[0].seen.persists.pop_front().unwrap();
    assert_eq!(
        Stored::parse(&record).unwrap().epoch,
        UnixMillis(epoch_now())
    );
    let now = table.now;
    table.seats[0].session.handle_persisted(token, true, now);
    table.run();
    assert!(sent_join(&table));
}

#[test]
fn f27_what_cannot_be_stored_is_never_signed() {
    for nth in 0..2 {
        let mut table = Table::new(3);
        table.seats[0].auto_persist = false;
        if nth == 0 {
            table = Table::empty();
            for index in 0..3 {
                table.seat(setup(
                    &invitation(3),
                    index,
                    None,
                    1 + u8::try_from(index).unwrap(),
                ));
            }
            table.seats[0].auto_persist = false;
            for index in 0..3 {
                table.join(index);
            }
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                table.link(a, b);
            }
        }
        table.run();
        let (token, _) = table.seats[0].seen.persists.pop_front().unwrap();
        let now = table.now;
        table.seats[0].session.handle_persisted(token, false, now);
        table.run();
        assert_eq!(table.failure(0).0, Code::Disk);
        let word = if nth == 0 { "join" } else { "confirm" };
        assert!(
            !table.seats[0]
                .seen
                .order
                .iter()
                .any(|what| what.contains(word)),
            "{:?}",
            table.seats[0].seen.order
        );
    }
}

#[test]
fn a_confirm_follows_its_record_and_the_end_of_the_older_mesh() {
    let mut table = Table::new(3);
    table.run();
    let stored = table.kill(2);
    let again = rejoin(&mut table, 2, stored);
    table.run();
    assert_eq!(table.seats[again].session.state(), State::Running);
    let order = &table.seats[0].seen.order;
    let uninstall = order.iter().position(|what| what == "uninstall").unwrap();
    let persist = order
        .iter()
        .enumerate()
        .skip(uninstall)
        .find(|(_, what)| *what == "persist")
        .unwrap()
        .0;
    let confirm = order
        .iter()
        .enumerate()
        .skip(uninstall)
        .find(|(_, what)| what.contains("confirm"))
        .unwrap()
        .0;
    let install = order
        .iter()
        .enumerate()
        .skip(uninstall)
        .find(|(_, what)| *what == "install")
        .unwrap()
        .0;
    assert!(
        uninstall < persist && persist < confirm && persist < install,
        "{order:?}"
    );
    let record = Stored::parse(table.seats[0].last_record.as_deref().unwrap()).unwrap();
    assert_eq!(
        (record.runs, record.roster),
        (2, table.seats[0].session.roster())
    );
}

/// Party `index` starts anew after a crash and links to everybody alive.
fn rejoin(table: &mut Table, index: usize, stored: Option<Stored>) -> usize {
    let seed = 0x80 + u8::try_from(table.seats.len()).unwrap();
    let seat = table.seat(setup(&invitation(3), index, stored, seed));
    table.join(seat);
    for other in 0..seat {
        if table.seats[other].alive {
            table.link(seat, other);
        }
    }
    seat
}

#[test]
fn f01_f03_f04_a_party_that_restarts_in_any_phase_leads_to_one_new_roster() {
    for phase in 0..3 {
        let mut table = Table::new(3);
        match phase {
            0 => table.filter = Box::new(|_, _, frame| !matches!(frame, Frame::Statements { .. })),
            1 => table.filter = Box::new(|_, _, frame| !format!("{frame:?}").contains("kem")),
            _ => table.seats[1].auto_mesh = false,
        }
        table.run();
        let stored = table.kill(2);
        table.filter = Box::new(|_, _, _| true);
        table.seats[1].auto_mesh = true;
        let again = rejoin(&mut table, 2, stored);
        table.pass(Duration::from_secs(10));
        let states = table.states();
        assert_eq!(
            [states[0], states[1], states[again]],
            [State::Running; 3],
            "{phase}"
        );
        let roster = table.seats[0].session.roster();
        assert!(
            table.seats[1].session.roster() == roster
                && table.seats[again].session.roster() == roster
        );
        table.assert_no_alarm();
    }
}

#[test]
fn a_running_computation_is_given_up_when_a_party_joins_again() {
    let mut table = Table::new(3);
    table.run();
    let before = table.seats[0].session.roster();
    let stored = table.kill(2);
    rejoin(&mut table, 2, stored);
    table.run();
    assert_ne!(table.seats[0].session.roster(), before);
    assert_eq!(
        (
            table.seats[0].seen.uninstalls,
            table.seats[0].seen.installs,
            table.seats[0].seen.starts
        ),
        (1, 2, 2)
    );
}

#[test]
fn a_party_that_joined_too_often_is_refused_here_and_there() {
    let mut table = Table::new(3);
    table.run();
    let mut stored = table.kill(2);
    let mut seat = 2;
    for _ in 0..3 {
        seat = rejoin(&mut table, 2, stored);
        table.run();
        assert_eq!(table.seats[seat].session.state(), State::Running);
        stored = table.kill(seat);
    }
    let refused = Session::new(
        setup(&invitation(3), 2, stored, 3),
        UnixTime(START),
        table.now,
    )
    .err()
    .unwrap();
    assert_eq!(refused.code, Code::Limit);
    assert!(seat > 2);
    // With its record lost it tries; the others refuse the join.
    rejoin(&mut table, 2, None);
    table.run();
    assert!(
        table
            .refusals(0)
            .iter()
            .any(|code| matches!(code, Code::Limit | Code::Stale)),
        "{:?}",
        table.refusals(0)
    );
}

#[test]
fn a_tunnel_that_breaks_and_comes_again_is_not_a_leave() {
    let mut table = Table::new(3);
    table.run();
    table.cut_tunnels();
    table.pass(Duration::from_secs(5));
    assert_eq!(table.states(), [State::Running; 3]);
}

#[test]
fn f05_silence_of_a_running_party_stops_the_others_and_names_it() {
    let mut table = Table::new(3);
    table.run();
    table.pass(Duration::from_secs(30));
    assert_eq!(
        table.states(),
        [State::Running; 3],
        "pings keep a quiet session alive"
    );
    table.kill(2);
    table.pass(limits::PEER_SILENCE + Duration::from_secs(3));
    for index in 0..2 {
        let (code, whom, _) = table.failure(index);
        assert_eq!((code, whom), (Code::PartyLeft, Some(Pid(2))));
        assert_eq!(table.seats[index].seen.uninstalls, 1);
    }
}

#[test]
fn f25_a_pause_shorter_than_the_limit_is_waited_for() {
    let mut table = Table::new(3);
    table.run();
    let end = table.now + Duration::from_secs(10);
    table.filter = Box::new(|from, _, _| from != 2);
    table.pass(end - table.now);
    table.filter = Box::new(|_, _, _| true);
    table.pass(Duration::from_secs(10));
    assert_eq!(table.states(), [State::Running; 3]);
}

#[test]
fn a55_a_failing_program_stops_everybody_and_is_named() {
    let mut table = Table::new(3);
    table.run();
    table.exit(1, 3);
    table.pass(Duration::from_secs(3));
    for index in 0..3 {
        let (code, whom, detail) = table.failure(index);
        assert_eq!((code, whom), (Code::ProgramFailed, Some(Pid(1))));
        assert!(
            detail.contains("exit code 3") && detail.contains("ImportError"),
            "{detail}"
        );
        let Outcome::Failed { receipts, .. } = table.outcome(index) else {
            panic!("finished")
        };
        assert_eq!(receipts.len(), 3);
        let outcomes: Vec<ReceiptOutcome> =
            receipts.iter().map(|text| receipt(text).outcome).collect();
        assert_eq!(
            outcomes,
            [
                ReceiptOutcome::Aborted,
                ReceiptOutcome::Failed,
                ReceiptOutcome::Aborted
            ]
        );
    }
}

fn receipt(text: &str) -> Receipt {
    let parsed = quorate_identity::Unverified::<Receipt>::parse(text).unwrap();
    let keys = DidKeyResolver.resolve(parsed.issuer()).unwrap().unwrap();
    (*parsed.verify(&keys, UnixTime(START)).unwrap()).clone()
}

#[test]
fn receipts_say_what_ran_and_how_it_ended() {
    let mut table = Table::new(3);
    table.run();
    let now = table.now;
    table.seats[0]
        .session
        .handle_program(ProgramReport::Connected, UnixTime(START), now);
    table.drain(0);
    assert!(
        table.seats[0]
            .seen
            .phases
            .contains(&(Pid(0), Phase::Connected))
    );
    let roster = table.seats[0].session.roster().unwrap();
    table.pass(Duration::from_secs(4));
    for index in 0..3 {
        table.exit(index, 0);
    }
    table.pass(Duration::from_secs(1));
    let Outcome::Finished { receipts, .. } = table.outcome(2) else {
        panic!("failed")
    };
    for text in receipts {
        let receipt = receipt(text);
        assert_eq!(
            (receipt.roster, receipt.run, receipt.exit, receipt.bytes),
            (roster, 1, Some(0), Some(1000))
        );
        assert_eq!(
            (receipt.start, receipt.end),
            (UnixTime(START), UnixTime(START + 4))
        );
    }
}

#[test]
fn f06_a_party_killed_while_closing_leaves_a_missing_receipt_not_a_failure() {
    let mut table = Table::new(3);
    table.run();
    table.kill(2);
    table.exit(0, 0);
    table.exit(1, 0);
    table.pass(limits::PEER_SILENCE + limits::RECEIPT_WAIT + Duration::from_secs(3));
    for index in 0..2 {
        let Outcome::Finished { exits, receipts } = table.outcome(index) else {
            panic!("failed")
        };
        assert_eq!(*exits, [Some(0), Some(0), None]);
        assert_eq!(receipts.len(), 2);
    }
}

fn has_receipt(frame: &Frame) -> bool {
    let Frame::Statements { jws } = frame else {
        return false;
    };
    jws.iter()
        .any(|text| quorate_identity::peek_typ(text) == Ok("quorate-receipt+jwt"))
}

fn assert_finished(table: &Table, seat: usize, expected: &[Option<i32>]) {
    let Outcome::Finished { exits, .. } = table.outcome(seat) else {
        panic!("{:?}", table.outcome(seat))
    };
    assert_eq!(exits, expected);
}

#[test]
fn f06_a_party_that_comes_back_after_the_others_ended_keeps_nobody_waiting() {
    let mut table = Table::new(3);
    table.run();
    table.exit(0, 0);
    table.exit(1, 0);
    table.run();
    let stored = table.kill(2);
    let again = rejoin(&mut table, 2, stored);
    table.pass(Duration::from_secs(5));
    for index in 0..2 {
        assert_finished(&table, index, &[Some(0), Some(0), None]);
    }
    assert_eq!(table.failure(again).0, Code::Replay);
    let stored = Stored::parse(table.seats[again].last_record.as_deref().unwrap()).unwrap();
    assert_eq!(stored.closed, None, "others' receipts forbid nothing");
}

#[test]
fn f06_a_party_that_comes_back_after_one_other_ended_ends_the_run_for_all() {
    for receipt_first in [true, false] {
        let mut table = Table::new(3);
        table.run();
        if !receipt_first {
            // Party 1 hears of the new join before it hears that party 0 is done.
            table.filter = Box::new(|_, to, frame| to != 1 || !has_receipt(frame));
        }
        table.exit(0, 0);
        table.run();
        let stored = table.kill(2);
        let again = rejoin(&mut table, 2, stored);
        table.run();
        table.filter = Box::new(|_, _, _| true);
        table.pass(Duration::from_secs(25));
        assert_eq!(table.failure(again).0, Code::Replay, "{receipt_first}");
        let (code, whom, _) = table.failure(1);
        if receipt_first {
            assert_eq!((code, whom), (Code::PartyLeft, Some(Pid(2))));
        } else {
            assert_eq!(code, Code::Replay);
        }
        assert_finished(&table, 0, &[Some(0), None, None]);
    }
}

#[test]
fn a_party_whose_program_takes_longer_is_waited_for() {
    let mut table = Table::new(3);
    table.run();
    table.exit(0, 0);
    table.exit(1, 0);
    table.pass(Duration::from_mins(2));
    assert!(table.seats.iter().all(|seat| seat.seen.outcome.is_none()));
    table.exit(2, 0);
    table.pass(Duration::from_secs(2));
    assert!((0..3).all(|index| matches!(table.outcome(index), Outcome::Finished { .. })));
}

#[test]
fn f38_an_interrupt_stops_everybody_at_once() {
    for running in [false, true] {
        let mut table = Table::new(3);
        if !running {
            table.seats[1].auto_mesh = false;
        }
        table.run();
        let (at, now) = (table.at, table.now);
        table.seats[1]
            .session
            .abort(Code::Interrupted, None, "Ctrl-C", at, now);
        table.pass(Duration::from_secs(4));
        for index in 0..3 {
            assert_eq!(table.failure(index).0, Code::Interrupted);
            assert_eq!(table.seats[index].seen.uninstalls, 1);
        }
        assert_eq!(table.failure(0).1, Some(Pid(1)));
    }
}

#[test]
fn a_declined_invitation_sends_nothing() {
    let now = Instant::now();
    let mut session =
        Session::new(setup(&invitation(3), 0, None, 1), UnixTime(START), now).unwrap();
    session.abort(Code::Declined, None, "no", UnixTime(START), now);
    assert_eq!(session.state(), State::Closed);
    assert!(session.poll_transmit().is_none());
    assert!(session.join(UnixMillis(epoch_now()), now).is_err());
}

#[test]
fn f39_the_issuer_cancels_in_every_phase() {
    let mut draft = draft(3);
    draft.issuer = key(7).did();
    let invitation = quorate_identity::sign(
        draft.build([7; 16], [0x51; 32], &secret()).unwrap(),
        &key(7),
    )
    .unwrap();
    let cancel = Cancel {
        v: 1,
        iss: key(7).did(),
        inv: invitation.digest(),
        reason: "wrong year".into(),
        iat: UnixTime(START),
    };
    let cancel = sign_unchecked(&cancel, &key(7));
    for phase in 0..3 {
        let mut table = Table::with(&invitation, 3);
        match phase {
            0 => {
                table.filter = Box::new(
                    |_, _, frame| !matches!(frame, Frame::Statements { jws } if jws.len() == 1 && jws[0].len() > 4000),
                );
            }
            1 => table.seats[1].auto_mesh = false,
            _ => {}
        }
        table.run();
        table.filter = Box::new(|_, _, _| true);
        // The organizer is no party, but may speak: it reaches one party, which tells the others.
        let organizer = table.intrude(0, key(7), 70);
        table.hello(0, &organizer, &secret());
        let proof = table.proof(0, &organizer, invitation.digest());
        assert!(
            table.say(0, &organizer, &proof).is_empty(),
            "an issuer who is no party gets no statement"
        );
        table.say_statements(0, &organizer, &[&cancel]);
        table.pass(Duration::from_secs(3));
        for index in 0..3 {
            assert_eq!(table.failure(index).0, Code::Cancelled, "{phase}");
            let record = Stored::parse(table.seats[index].last_record.as_deref().unwrap()).unwrap();
            assert!(record.closed.is_some());
        }
    }
}

#[test]
fn a_mesh_that_never_works_ends_at_the_latest_start() {
    let mut table = Table::new(3);
    table.seats[2].auto_mesh = false;
    table.pass(Duration::from_secs(901));
    let (code, whom, detail) = table.failure(0);
    assert_eq!((code, whom), (Code::NoPath, Some(Pid(2))));
    assert!(detail.contains("party-2"));
}

#[test]
fn f40_the_latest_end_aborts_a_running_computation() {
    let mut table = Table::new(3);
    table.run();
    table.pass(Duration::from_secs(3603));
    assert_eq!(table.failure(0).0, Code::Time);
}

#[test]
fn f26_a_jump_of_the_wall_clock_has_no_effect_on_deadlines() {
    let mut table = Table::new(3);
    table.run();
    let now = table.now;
    for jump in [86_400, -86_400] {
        table.seats[0]
            .session
            .handle_timeout(UnixTime(START + jump), now);
        table.drain(0);
    }
    table.pass(Duration::from_secs(10));
    assert_eq!(table.states(), [State::Running; 3]);
}

#[test]
fn an_epoch_is_higher_than_any_before_and_a_clock_far_behind_is_named() {
    let mut stored = {
        let mut table = Table::new(3);
        table.run();
        Stored::parse(table.seats[0].last_record.as_deref().unwrap()).unwrap()
    };
    stored.epoch = UnixMillis(epoch_now() + 1000);
    let now = Instant::now();
    let mut session = Session::new(
        setup(&invitation(3), 0, Some(stored.clone()), 5),
        UnixTime(START),
        now,
    )
    .unwrap();
    session.join(UnixMillis(epoch_now()), now).unwrap();
    let record = std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        Event::Persist { record, .. } => Some(Stored::parse(&record).unwrap()),
        _ => None,
    });
    assert_eq!(record.unwrap().epoch, UnixMillis(epoch_now() + 1001));
    stored.epoch = UnixMillis(epoch_now() + 3_600_000);
    let mut session = Session::new(
        setup(&invitation(3), 0, Some(stored), 5),
        UnixTime(START),
        now,
    )
    .unwrap();
    session.join(UnixMillis(epoch_now()), now).unwrap();
    let outcome = std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        Event::Closed(outcome) => Some(outcome),
        _ => None,
    });
    assert!(matches!(
        outcome,
        Some(Outcome::Failed {
            code: Code::Clock,
            ..
        })
    ));
}

#[test]
fn signals_reach_the_party_they_are_for_and_wait_for_its_mesh() {
    let mut table = Table::new(3);
    table.seats[1].auto_mesh = false;
    table.run();
    let now = table.now;
    table.seats[0]
        .session
        .signal(Pid(1), b"candidate".to_vec(), now);
    table.run();
    assert_eq!(
        table.seats[1].seen.signals,
        [(Pid(0), b"candidate".to_vec())]
    );
    assert!(table.seats[2].seen.signals.is_empty());
    // A party that has no mesh yet gets it right after its own is installed.
    let mut table = Table::new(3);
    table.filter = Box::new(|_, to, frame| {
        to != 1 || !matches!(frame, Frame::Statements { jws } if format!("{jws:?}").len() > 3000)
    });
    table.run();
    table.assert_no_alarm();
}

#[test]
fn signals_are_bounded() {
    let mut table = Table::new(3);
    table.filter = Box::new(|_, _, _| false);
    let now = table.now;
    for n in 0..100_u8 {
        table.seats[0].session.signal(Pid(1), vec![n], now);
    }
    assert!(table.seats[0].session.usage().signals <= limits::MAX_SIGNALS);
}

#[test]
fn round_trips_are_measured_as_soon_as_a_tunnel_is_up() {
    let mut table = Table::new(3);
    table.seats[2].auto_mesh = false;
    table.run();
    let rtt = |table: &Table, pid| table.seats[0].session.rtt(Pid(pid));
    assert!(rtt(&table, 1).is_some());
    assert_eq!(rtt(&table, 2), None);
}

#[test]
fn a_did_that_needs_asking_is_waited_for_and_asked_again() {
    let mut table = Table::empty();
    for index in 0..3 {
        table.seat(setup(
            &invitation(3),
            index,
            None,
            1 + u8::try_from(index).unwrap(),
        ));
    }
    table.seats[0].auto_resolve = false;
    for index in 0..3 {
        table.join(index);
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        table.link(a, b);
    }
    table.run();
    assert_eq!(table.seats[0].session.state(), State::Joining);
    let answer = |table: &mut Table, did: &Did, ok: bool| {
        let result = if ok {
            DidKeyResolver.resolve(did).unwrap()
        } else {
            Err(Rejection::new(Code::DidResolve, "D1", "unreachable"))
        };
        let (at, now) = (table.at, table.now);
        table.seats[0].session.handle_resolved(did, result, at, now);
        table.drain(0);
    };
    let asked: Vec<Did> = table.seats[0].seen.resolves.drain(..).collect();
    assert_eq!(asked.len(), 3, "each once: {asked:?}");
    for did in &asked {
        answer(&mut table, did, *did != key(2).did());
    }
    table.pass(Duration::from_secs(8));
    assert_eq!(table.seats[0].session.state(), State::Joining);
    assert!(table.refusals(0).contains(&Code::DidResolve));
    table.pass(limits::RESOLVE_RETRY);
    assert_eq!(table.seats[0].seen.resolves.pop_front(), Some(key(2).did()));
    answer(&mut table, &key(2).did(), true);
    table.link(0, 2);
    table.pass(Duration::from_secs(8));
    assert_eq!(table.states(), [State::Running; 3]);
}

#[test]
fn larger_groups_agree_too() {
    for m in [5, 25] {
        let invitation = invitation_of(draft(m));
        let mut table = Table::with(&invitation, m);
        table.run();
        assert!(table.states().iter().all(|state| *state == State::Running));
        table.assert_no_alarm();
    }
}
