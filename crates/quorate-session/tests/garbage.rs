//! Frames that were changed on their way: each ends in an answer, none in a panic or in a wrong mesh.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Table, keys_agree};
use quorate_session::{Frame, LinkId};
use std::{cell::RefCell, rc::Rc};

/// Every frame of an honest run with its receiver, and the bytes that were sent.
fn frames_of_an_honest_run() -> Vec<(usize, Vec<u8>)> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let mut table = Table::new(3);
    let sink = Rc::clone(&seen);
    table.filter = Box::new(move |_, to, frame: &Frame| {
        sink.borrow_mut().push((to, frame.encode()));
        true
    });
    table.run();
    drop(table);
    Rc::try_unwrap(seen).unwrap().into_inner()
}

#[test]
fn a07_flipped_bits_never_panic_and_never_change_what_is_agreed() {
    let frames = frames_of_an_honest_run();
    assert!(frames.len() > 10);
    for (n, (to, bytes)) in frames.iter().enumerate() {
        for part in 0..3 {
            let mut table = Table::new(3);
            let mut changed = bytes.clone();
            let position = (part * changed.len() / 3 + n * 7) % changed.len();
            changed[position] ^= 1 << (n % 7);
            for link in 1..=3 {
                let (at, now) = (table.at, table.now);
                table.seats[*to]
                    .session
                    .handle_message(LinkId(link), &changed, at, now);
                table.drain(*to);
            }
            table.run();
            table.assert_no_alarm();
            let meshes: Vec<_> = table
                .seats
                .iter()
                .filter_map(|seat| seat.seen.mesh.as_ref())
                .collect();
            for a in &meshes {
                assert!(meshes.iter().all(|b| a.me == b.me || keys_agree(a, b)));
            }
        }
    }
}

#[test]
fn frames_that_are_delivered_again_are_harmless() {
    let frames = frames_of_an_honest_run();
    let mut table = Table::new(3);
    table.run();
    let roster = table.seats[0].session.roster();
    for (to, bytes) in frames {
        for link in 1..=3 {
            let (at, now) = (table.at, table.now);
            table.seats[to]
                .session
                .handle_message(LinkId(link), &bytes, at, now);
            table.drain(to);
        }
    }
    table.run();
    assert_eq!(table.seats[0].session.roster(), roster);
    table.assert_no_alarm();
}
