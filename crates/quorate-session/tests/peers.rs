//! Parties tell each other where they are: who found one finds all, and nobody outside learns anything.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Table, invitation, setup};
use quorate_session::{Frame, LinkId, PeerAt, limits};
use std::{cell::Cell, rc::Rc, time::Duration};

fn at(n: usize) -> Vec<String> {
    vec![format!("/ip4/192.0.2.{n}/tcp/4001")]
}

/// A party in the middle that the others are linked with, and they with nobody else.
fn star(m: usize) -> Table {
    let invitation = invitation(m);
    let mut table = Table::empty();
    for index in 0..m {
        let seed = 0x10 + u8::try_from(index).unwrap();
        table.seat(setup(&invitation, index, None, seed));
    }
    for index in 1..m {
        table.link(0, index);
    }
    for index in 0..m {
        table.join(index);
    }
    for index in 0..m {
        let now = table.now;
        table.seats[index].session.set_addresses(at(index), now);
    }
    table
}

fn told(table: &Table, index: usize) -> Vec<PeerAt> {
    let mut told = table.seats[index].seen.peers.clone();
    told.sort_by_key(|at| at.addresses.clone());
    told.dedup();
    told
}

#[test]
fn whoever_found_one_party_hears_of_all_others_and_nothing_goes_round() {
    let mut table = star(4);
    table.run();
    table.pass(Duration::from_secs(4));
    for index in 1..4 {
        let others = told(&table, index);
        let expected: Vec<PeerAt> = (0..4)
            .filter(|other| *other != index)
            .map(|other| PeerAt {
                peer: table.seats[other].session.peer_id(),
                addresses: at(other),
            })
            .collect();
        assert_eq!(others, expected, "party {index}");
    }
    let before: Vec<usize> = table.seats.iter().map(|s| s.seen.peers.len()).collect();
    table.pass(Duration::from_secs(20));
    let after: Vec<usize> = table.seats.iter().map(|s| s.seen.peers.len()).collect();
    assert_eq!(before, after, "nothing is said again that did not change");
    let now = table.now;
    table.seats[2].session.set_addresses(at(22), now);
    table.pass(Duration::from_secs(4));
    for index in [0, 1, 3] {
        assert!(told(&table, index).iter().any(|p| p.addresses == at(22)));
    }
}

#[test]
fn a_party_that_is_somewhere_else_all_the_time_makes_others_talk_seldom() {
    let mut table = star(4);
    table.run();
    table.pass(Duration::from_secs(4));
    let told = Rc::new(Cell::new(0));
    let count = Rc::clone(&told);
    table.filter = Box::new(move |from, to, frame| {
        let passed_on = from == 0 && to == 1 && matches!(frame, Frame::Peers { .. });
        count.set(count.get() + u32::from(passed_on));
        true
    });
    for second in 0..60 {
        let now = table.now;
        table.seats[2].session.set_addresses(at(100 + second), now);
        table.pass(Duration::from_secs(1));
    }
    let most = limits::PEERS_NEWS + 60 / 10 + 1;
    assert!((3..=most).contains(&told.get()), "{}", told.get());
    // What it said last arrives all the same.
    table.pass(limits::PEERS_NEWS_INTERVAL + Duration::from_secs(2));
    let last = &table.seats[1].seen.peers;
    assert!(last.iter().any(|p| p.addresses == at(159)));
}

#[test]
fn nothing_is_told_before_a_link_is_proven() {
    let mut table = star(3);
    table.filter = Box::new(|from, _, frame| {
        assert!(!matches!(frame, Frame::Peers { .. }), "told by {from}");
        // The handshake never ends.
        !matches!(frame, Frame::Proof { .. })
    });
    table.run();
    table.pass(Duration::from_secs(5));
    // Nor is anything taken from somebody who proved nothing.
    let frame = Frame::Peers {
        own: at(1),
        others: Vec::new(),
    };
    let (now, wall) = (table.now, table.at);
    let session = &mut table.seats[0].session;
    session.handle_message(LinkId(1), &frame.encode(), wall, now);
    table.drain(0);
    assert!(table.seats[0].seen.peers.is_empty());
}

#[test]
fn a48_a_flood_of_addresses_over_one_link_is_heard_now_and_then() {
    let mut table = star(3);
    table.run();
    table.pass(Duration::from_secs(4));
    let before = table.seats[0].seen.peers.len();
    for n in 0..100 {
        let frame = Frame::Peers {
            own: at(n),
            others: Vec::new(),
        };
        let (now, wall) = (table.now, table.at);
        let session = &mut table.seats[0].session;
        session.handle_message(LinkId(1), &frame.encode(), wall, now);
        table.drain(0);
    }
    assert_eq!(table.seats[0].seen.peers.len(), before + 1);
}

#[test]
fn of_news_that_arrive_together_after_a_stall_the_last_one_counts() {
    let mut table = star(3);
    table.run();
    table.pass(Duration::from_secs(4));
    let before = table.seats[0].seen.peers.len();
    for n in [31, 32, 33] {
        let frame = Frame::Peers {
            own: at(n),
            others: Vec::new(),
        };
        let (now, wall) = (table.now, table.at);
        let session = &mut table.seats[0].session;
        session.handle_message(LinkId(1), &frame.encode(), wall, now);
        table.drain(0);
    }
    table.pass(Duration::from_secs(4));
    let heard = &table.seats[0].seen.peers[before..];
    let heard: Vec<_> = heard.iter().map(|p| p.addresses.clone()).collect();
    assert_eq!(heard, [at(31), at(33)]);
    // And it is what the others are told.
    assert!(told(&table, 2).iter().any(|p| p.addresses == at(33)));
}

#[test]
fn more_than_fits_is_refused_and_never_sent() {
    let one = PeerAt {
        peer: star(3).seats[0].session.peer_id(),
        addresses: at(1),
    };
    let too_many = Frame::Peers {
        own: Vec::new(),
        others: vec![one.clone(); limits::MAX_PARTIES + 1],
    };
    let too_long = Frame::Peers {
        own: vec!["x".repeat(limits::MAX_ADDRESS_BYTES + 1)],
        others: Vec::new(),
    };
    let too_wide = Frame::Peers {
        own: Vec::new(),
        others: vec![PeerAt {
            addresses: vec![String::new(); limits::MAX_PEER_ADDRESSES + 1],
            ..one
        }],
    };
    for frame in [too_many, too_long, too_wide] {
        assert!(Frame::parse(&frame.encode()).is_err());
    }
    let mut table = star(3);
    let mut many: Vec<String> = (0..100).flat_map(at).collect();
    many.insert(0, "x".repeat(limits::MAX_ADDRESS_BYTES + 1));
    let now = table.now;
    table.seats[1].session.set_addresses(many, now);
    table.run();
    table.pass(Duration::from_secs(4));
    let said = &told(&table, 0)[0].addresses;
    assert_eq!(said.len(), limits::MAX_PEER_ADDRESSES);
}
