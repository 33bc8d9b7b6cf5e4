//! From joins to receipts: what happens when everybody is honest.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Table, invitation, keys_agree, setup};
use quorate_session::{Frame, Outcome, Phase, Pid, State, limits::ASK_WAIT};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

#[test]
fn three_parties_agree_run_and_hold_all_receipts() {
    let mut table = Table::new(3);
    table.run();
    assert_eq!(table.states(), [State::Running; 3]);
    let meshes: Vec<_> = table
        .seats
        .iter()
        .map(|seat| seat.seen.mesh.as_ref().unwrap())
        .collect();
    for a in 0..3 {
        assert_eq!(meshes[a].roster, meshes[0].roster);
        assert_eq!(table.seats[a].seen.starts, 1);
        for b in 0..3 {
            assert_eq!(keys_agree(meshes[a], meshes[b]), a != b);
        }
    }
    for index in 0..3 {
        table.exit(index, 0);
    }
    table.pass(Duration::from_secs(2));
    for index in 0..3 {
        let Outcome::Finished { exits, receipts } = table.outcome(index) else {
            panic!("failed")
        };
        assert_eq!(*exits, [Some(0); 3]);
        assert_eq!(receipts.len(), 3);
        assert_eq!(table.seats[index].seen.uninstalls, 1);
        let mut states = table.seats[index].seen.states.clone();
        states.dedup();
        assert_eq!(
            states,
            [
                State::Invited,
                State::Joining,
                State::Confirming,
                State::Keyed,
                State::Ready,
                State::Running,
                State::Closing,
                State::Closed
            ]
        );
        assert!(
            table.seats[index]
                .seen
                .phases
                .contains(&(Pid(2), Phase::Receipt))
        );
    }
    table.assert_no_alarm();
}

/// Texts of statements on their way to each party, and to whom they go.
fn watch_statements(table: &mut Table) -> Rc<RefCell<BTreeMap<(usize, String), usize>>> {
    let counts = Rc::new(RefCell::new(BTreeMap::new()));
    let seen = Rc::clone(&counts);
    table.filter = Box::new(move |_, to, frame| {
        if let Frame::Statements { jws } = frame {
            for text in jws {
                *seen.borrow_mut().entry((to, text.clone())).or_default() += 1;
            }
        }
        true
    });
    counts
}

#[test]
fn in_a_large_group_nobody_is_sent_a_statement_by_everybody() {
    const PARTIES: usize = 12;
    let mut table = Table::empty();
    let invitation = invitation(PARTIES);
    for index in 0..PARTIES {
        let seed = 0x10 + u8::try_from(index).unwrap();
        table.seat(setup(&invitation, index, None, seed));
    }
    let counts = watch_statements(&mut table);
    // Everybody has signed its join before the first link is there.
    for index in 0..PARTIES {
        table.join(index);
    }
    for a in 0..PARTIES {
        for b in a + 1..PARTIES {
            table.link(a, b);
        }
    }
    table.pass(Duration::from_secs(1));
    assert_eq!(table.states(), [State::Running; PARTIES]);
    let counts = counts.borrow();
    let most = counts.values().max().unwrap();
    let sum: usize = counts.values().sum();
    // Its author sends a statement unasked, and one other may have announced it meanwhile.
    assert!(
        *most <= 3,
        "one statement was sent to one party {most} times"
    );
    assert!(sum <= 2 * counts.len(), "{sum} for {}", counts.len());
}

#[test]
fn whoever_announces_and_does_not_deliver_is_not_waited_for() {
    let mut table = Table::empty();
    let invitation = invitation(4);
    for index in 0..4 {
        let seed = 0x10 + u8::try_from(index).unwrap();
        table.seat(setup(&invitation, index, None, seed));
        table.join(index);
    }
    // Party 1 announces what it has to everybody and sends nothing but its own handshake.
    table.filter =
        Box::new(|from, _, frame| from != 1 || !matches!(frame, Frame::Statements { .. }));
    for (a, b) in [(1, 2), (1, 3), (2, 3)] {
        table.link(a, b);
    }
    table.run();
    // What party 0 lacks is announced by party 1 first; party 2 has it too, a moment later.
    for (a, b) in [(0, 1), (0, 2)] {
        table.link(a, b);
        table.run();
    }
    assert!(
        phase_of(&table, 0, 3) < Phase::Joined,
        "it came without asking"
    );
    table.pass(ASK_WAIT);
    assert!(
        phase_of(&table, 0, 3) >= Phase::Joined,
        "party 1 held it up"
    );
    table.assert_no_alarm();
}

fn phase_of(table: &Table, at: usize, of: usize) -> Phase {
    table.seats[at].session.parties()[of].phase
}
