//! From joins to receipts: what happens when everybody is honest.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Table, keys_agree};
use quorate_session::{Outcome, Phase, Pid, State};
use std::time::Duration;

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
