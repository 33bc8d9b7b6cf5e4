//! The lobby on a table: honest people, declined ones, lost links, deadlines.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod common;
mod lobby_table;

use common::key;
use quorate_identity::{Code, Rejection, sign};
use quorate_session::{
    Closing, Contact, LinkId,
    limits::{
        APPLICATION_INTERVAL, DELIVERY_WAIT, LOBBY_CALL_WAIT, LOBBY_FIND_WAIT, LOBBY_READ_WAIT,
        LOBBY_RETRY_WAIT, MAX_APPLICATIONS, MAX_CONTACT_APPLICATIONS, SEAT_KEPT, SEAT_SAID_WAIT,
    },
    lobby::{Applicant, ApplicantEvent, ApplicantId, Frame, HostEvent, Misuse},
    message::{Card, CodeText, card},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lobby_table::*;

fn whole_way(parties: u16) {
    let mut table = Table::new(parties);
    let seats: Vec<usize> = (1..usize::from(parties)).map(|n| table.ask(n)).collect();
    for (n, id) in table.applied().into_iter().enumerate() {
        table.host.admit(id).unwrap();
        table.run();
        let full = table.events.iter().any(|e| matches!(e, HostEvent::Full));
        assert_eq!(
            full,
            n + 2 == usize::from(parties),
            "full with the last seat"
        );
    }
    table.seal();
    for (n, seat) in seats.iter().enumerate() {
        let invitation = table.invitation(*seat).expect("delivered");
        assert_eq!(invitation.subject.parties.len(), usize::from(parties));
        assert_eq!(invitation.subject.supersedes, Some(table.call.digest()));
        let admitted = |e: &ApplicantEvent| matches!(e, ApplicantEvent::Admitted { place } if usize::from(*place) == n);
        assert!(table.seats[*seat].events.iter().any(admitted));
    }
    let delivered = table
        .events
        .iter()
        .filter(|e| matches!(e, HostEvent::Delivered { .. }))
        .count();
    assert_eq!(delivered, usize::from(parties) - 1);
    assert!(matches!(table.events.last(), Some(HostEvent::AllDelivered)));
    assert_eq!(table.refused(), Vec::<&Rejection>::new());
}

#[test]
fn three_and_five_parties_get_from_a_ticket_to_the_same_invitation() {
    whole_way(3);
    whole_way(5);
}

#[test]
fn both_sides_show_the_same_words_and_no_two_applications_have_the_same() {
    let mut table = Table::new(5);
    let seats: Vec<usize> = (1..5).map(|n| table.ask(n)).collect();
    let shown: Vec<[&str; 3]> = table
        .events
        .iter()
        .filter_map(|e| match e {
            HostEvent::Applied { words, .. } => Some(*words),
            _ => None,
        })
        .collect();
    let seen: Vec<[&str; 3]> = seats.iter().flat_map(|s| table.words(*s)).collect();
    assert_eq!(shown, seen);
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn nothing_about_the_applicant_is_said_before_a_person_agreed() {
    let mut table = Table::with_program(3, &source("print(1)"));
    let seat = table.newcomer(1);
    table.connect(seat);
    let ApplicantEvent::Call { call, program } = &table.seats[seat].events[1] else {
        panic!("{:?}", table.seats[seat].events);
    };
    assert_eq!(call.subject.name, "Noord Hospital");
    assert_eq!(*program, Some(source("print(1)")));
    assert_eq!(table.applied(), []);
    table.apply(seat, "Clinique Sud");
    assert_eq!(table.applied().len(), 1);
}

#[test]
fn the_card_of_an_application_is_verified_and_must_be_its_own() {
    let own = |n: usize| {
        let until = AT.plus_seconds(3600);
        let ek = x_wing_key();
        let card: Card = card(key(n).did(), "sud".into(), ek, [1; 16], AT, until).unwrap();
        sign(card, &key(n)).unwrap().text().to_string()
    };
    let mut table = Table::new(3);
    let seat = table.newcomer(1);
    table.connect(seat);
    table.apply_with(seat, "sud", Some(own(1)));
    assert!(
        matches!(&table.events[0], HostEvent::Applied { card: Some(card), .. } if card.issuer == key(1).did())
    );
    let thief = table.newcomer(2);
    table.connect(thief);
    table.apply_with(thief, "sud", Some(own(1)));
    assert_eq!(table.refused()[0].code, Code::Kid);
    assert_eq!(table.applied().len(), 1);
}

fn x_wing_key() -> [u8; 1216] {
    use x_wing::{Decapsulator, KeyExport};
    x_wing::DecapsulationKey::from([5; 32])
        .encapsulation_key()
        .to_bytes()
        .0
}

// ---- people and time

#[test]
fn a_declined_applicant_is_told_and_its_identity_is_not_heard_again() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    table
        .host
        .refuse(table.applied()[0], "we do not know you")
        .unwrap();
    table.run();
    let why = table.ended(seat).unwrap();
    assert_eq!(
        (why.code, why.detail.as_str()),
        (Code::NotAdmitted, "we do not know you")
    );
    assert_eq!(why.whom, Some(key(0).did()));
    let again = table.sit(key(1), peer(150));
    table.connect(again);
    table.apply(again, "another name");
    assert_eq!(table.ended(again).unwrap().code, Code::NotAdmitted);
    assert_eq!(table.applied().len(), 1, "nobody is asked twice");
}

#[test]
fn a_refusal_cannot_claim_that_something_else_went_wrong() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    let link = table.seats[seat].link.unwrap();
    let frame = Frame::Declined {
        code: CodeText(Code::Sig),
        note: String::new(),
    };
    let now = table.now;
    table.seats[seat]
        .core
        .handle_frame(link, &frame.encode(), AT, now);
    table.run();
    assert_eq!(table.ended(seat).unwrap().code, Code::NotAdmitted);
}

#[test]
fn more_are_not_admitted_than_there_are_seats() {
    let mut table = Table::new(3);
    for n in 1..=4 {
        table.ask(n);
    }
    let ids = table.applied();
    table.host.admit(ids[0]).unwrap();
    table.host.admit(ids[2]).unwrap();
    assert_eq!(table.host.admit(ids[2]), Ok(()), "twice is once");
    assert_eq!(table.host.admit(ids[1]), Err(Misuse::Full));
    assert_eq!(table.host.admit(ApplicantId(99)), Err(Misuse::Unknown));
    assert_eq!(table.host.admitted(), [key(1).did(), key(3).did()]);
    table.seal();
    for seat in [1, 3] {
        assert_eq!(
            table.ended(seat).unwrap().code,
            Code::Full,
            "the others are told"
        );
    }
    assert_eq!(table.host.admit(ids[1]), Err(Misuse::Closed));
}

#[test]
fn whoever_leaves_frees_its_seat() {
    let mut table = Table::new(3);
    let first = table.ask(1);
    table.ask(2);
    let ids = table.applied();
    table.host.admit(ids[0]).unwrap();
    table.host.admit(ids[1]).unwrap();
    table.run();
    table.seats[first].core.leave();
    table.run();
    assert!(matches!(table.events.last(), Some(HostEvent::Left { id, .. }) if *id == ids[0]));
    table.ask(3);
    let id = *table.applied().last().unwrap();
    table.host.admit(id).unwrap();
    assert_eq!(
        table.host.admitted(),
        [key(3).did(), key(2).did()],
        "the place is used again"
    );
}

#[test]
fn a_lost_link_costs_no_seat_if_its_owner_comes_back_in_time() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    table.ask(2);
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    table.cut(seat);
    table.pass(SEAT_KEPT / 2);
    assert_eq!(table.host.admitted().len(), 2);
    table.seal();
    assert!(table.invitation(seat).is_none());
    table.connect(seat);
    assert!(
        table.invitation(seat).is_some(),
        "asked again without a person, and delivered"
    );
    assert_eq!(
        table.words(seat).len(),
        1,
        "no new words for a person to compare"
    );
    assert_eq!(table.applied().len(), 2, "nobody was asked again");
    assert!(matches!(table.events.last(), Some(HostEvent::AllDelivered)));
}

#[test]
fn a_seat_without_its_owner_is_freed_and_a_waiting_application_is_forgotten() {
    let mut table = Table::new(3);
    let (admitted, waiting) = (table.ask(1), table.ask(2));
    let ids = table.applied();
    table.host.admit(ids[0]).unwrap();
    table.run();
    table.cut(waiting);
    assert!(matches!(table.events.last(), Some(HostEvent::Left { id, .. }) if *id == ids[1]));
    table.cut(admitted);
    assert!(matches!(
        table.seats[admitted].events.last(),
        Some(ApplicantEvent::Lost)
    ));
    table.pass(SEAT_KEPT);
    assert!(matches!(table.events.last(), Some(HostEvent::Left { id, .. }) if *id == ids[0]));
    table.connect(admitted);
    assert_eq!(table.applied().len(), 3, "it asks anew");
}

#[test]
fn an_invitation_that_is_not_acknowledged_is_sent_again_over_a_new_link() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    let other = table.ask(2);
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    let link = table.seats[seat].link.unwrap();
    let text = bundle(&table.call, &table.host.admitted());
    table.host.seal(&text, table.now).unwrap();
    // What was sent is lost.
    while table.host.poll_transmit().is_some() {}
    table.pass(DELIVERY_WAIT);
    assert!(table.closed.contains(&Closing { link, ban: false }));
    for seat in [seat, other] {
        table.connect(seat);
        assert!(table.invitation(seat).is_some());
    }
}

#[test]
fn a_host_that_is_silent_is_tried_again() {
    let mut applicant = Applicant::new(key(1), ticket(&call(3)), peer(101), [1; 32]);
    let now = Instant::now();
    applicant.handle_link_up(LinkId(1), host_peer(), now);
    assert_eq!(applicant.poll_timeout().unwrap().0, now + LOBBY_CALL_WAIT);
    applicant.handle_timeout(now + LOBBY_CALL_WAIT);
    assert_eq!(
        applicant.poll_close(),
        Some(Closing {
            link: LinkId(1),
            ban: false
        })
    );
    let events: Vec<_> = std::iter::from_fn(|| applicant.poll_event()).collect();
    assert!(matches!(
        events[..],
        [ApplicantEvent::Found, ApplicantEvent::Lost]
    ));
}

#[test]
fn a_link_that_asks_for_nothing_is_closed() {
    let mut table = Table::new(3);
    let link = table.stranger(peer(66));
    table.pass(LOBBY_FIND_WAIT);
    assert_eq!(table.closed, [Closing { link, ban: false }]);
}

#[test]
fn the_deadline_of_the_call_ends_the_lobby_for_all() {
    let mut table = Table::new(3);
    let (waiting, admitted) = (table.ask(1), table.ask(2));
    table.host.admit(table.applied()[1]).unwrap();
    table.run();
    let left = table.call.subject.time.apply_by.0 - AT.0;
    table.pass(Duration::from_secs(u64::try_from(left).unwrap()));
    for seat in [waiting, admitted] {
        assert_eq!(table.ended(seat).unwrap().code, Code::Time);
    }
    assert!(
        table
            .events
            .iter()
            .any(|e| matches!(e, HostEvent::Closed(why) if why.code == Code::Time))
    );
    assert_eq!(table.host.poll_timeout(), None);
}

#[test]
fn an_applicant_does_not_wait_for_ever_for_a_host_that_is_gone() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    table.cut(seat);
    let left = table.call.subject.time.apply_by.0 - AT.0 + 300;
    table.pass(Duration::from_secs(u64::try_from(left).unwrap()));
    assert_eq!(table.ended(seat).unwrap().code, Code::Time);
    assert_eq!(table.seats[seat].core.poll_timeout(), None);
}

#[test]
fn a_host_that_closes_tells_everybody() {
    let mut table = Table::new(3);
    let (waiting, admitted, reading) = (table.ask(1), table.ask(2), table.newcomer(3));
    table.connect(reading);
    table.host.admit(table.applied()[1]).unwrap();
    table.run();
    table.host.close(Code::Cancelled, "the inviter gave up");
    table.run();
    for seat in [waiting, admitted, reading] {
        assert_eq!(table.ended(seat).unwrap().code, Code::Cancelled);
        assert!(table.seats[seat].link.is_none());
    }
    let late = table.newcomer(4);
    table.connect(late);
    assert!(table.seats[late].link.is_none());
}

#[test]
fn a_host_seals_only_what_replaces_its_call_and_names_everybody_admitted() {
    let mut table = Table::new(3);
    table.ask(1);
    table.ask(2);
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    let now = table.now;
    let other = sign(call_draft(3).build([1; 16]).unwrap(), &key(0)).unwrap();
    let foreign = bundle(&other, &[key(1).did(), key(2).did()]);
    let without = bundle(&table.call, &[key(1).did(), key(3).did()]);
    for text in [foreign, without] {
        assert_eq!(table.host.seal(&text, now).unwrap_err().code, Code::Call);
    }
}

#[test]
fn somebody_who_leaves_before_the_seal_stops_it_and_the_lobby_goes_on() {
    let mut table = Table::new(3);
    let (first, second) = (table.ask(1), table.ask(2));
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    let made = bundle(&table.call, &table.host.admitted());
    table.seats[second].core.leave();
    table.run();
    let refused = table.host.seal(&made, table.now).unwrap_err();
    assert_eq!((refused.code, refused.rule), (Code::Call, "F8"));
    table.run();
    assert!(table.invitation(first).is_none());
    let third = table.ask(3);
    let id = *table.applied().last().unwrap();
    table.host.admit(id).unwrap();
    table.run();
    assert!(matches!(table.events.last(), Some(HostEvent::Full)));
    table.seal();
    assert!(table.invitation(first).is_some() && table.invitation(third).is_some());
    let text = bundle(&table.call, &table.host.admitted());
    assert!(table.host.seal(&text, table.now).is_err(), "once");
}

#[test]
fn a_closed_lobby_seals_nothing() {
    let mut table = Table::new(3);
    table.ask(1);
    table.ask(2);
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    let text = bundle(&table.call, &table.host.admitted());
    table.host.close(Code::Cancelled, "the inviter gave up");
    let refused = table.host.seal(&text, table.now).unwrap_err();
    assert_eq!((refused.code, refused.rule), (Code::Call, "F8"));
}

#[test]
fn whoever_has_a_seat_gets_its_invitation_after_the_deadline_too() {
    let mut table = Table::new(3);
    let (seat, other) = (table.ask(1), table.ask(2));
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    table.cut(seat);
    table.seal();
    assert!(table.invitation(other).is_some());
    let left = table.call.subject.time.apply_by.0 - AT.0 + 1;
    table.pass(Duration::from_secs(u64::try_from(left).unwrap()));
    // Somebody new is told that it is too late.
    let late = table.ask(3);
    assert_eq!(table.ended(late).unwrap().code, Code::Time);
    table.connect(seat);
    assert!(table.invitation(seat).is_some());
    let later = table.ask(4);
    assert_eq!(table.ended(later).unwrap().code, Code::Time);
}

#[test]
fn whoever_reads_too_long_loses_its_link_and_can_come_back() {
    let mut table = Table::new(3);
    let (reader, waiting) = (table.newcomer(1), table.ask(2));
    table.connect(reader);
    table.pass(LOBBY_READ_WAIT / 2);
    assert!(table.seats[reader].link.is_some());
    table.pass(LOBBY_READ_WAIT / 2);
    assert!(table.seats[reader].link.is_none());
    assert!(table.seats[waiting].link.is_some(), "a person decides");
    table.connect(reader);
    table.apply(reader, "sud");
    assert_eq!(table.applied().len(), 2);
}

#[test]
fn an_applicant_that_is_one_too_many_comes_back() {
    let mut table = Table::new(3);
    for n in 0..MAX_APPLICATIONS {
        table.ask(1 + n);
    }
    let seat = table.ask(50);
    let busy =
        |e: &ApplicantEvent| matches!(e, ApplicantEvent::Busy(why) if why.code == Code::Limit);
    assert!(table.seats[seat].events.iter().any(busy));
    assert!(table.ended(seat).is_none());
    table.host.refuse(table.applied()[0], "no").unwrap();
    table.run();
    table.connect(seat);
    assert!(table.words(seat).is_empty(), "not at once");
    table.pass(LOBBY_RETRY_WAIT.max(APPLICATION_INTERVAL));
    assert_eq!(table.words(seat).len(), 1);
    assert_eq!(table.applied().len(), MAX_APPLICATIONS + 1);
}

#[test]
fn strangers_cannot_take_the_places_or_the_turns_of_contacts() {
    let mut table = Table::knowing(
        3,
        (50..=50 + MAX_CONTACT_APPLICATIONS).map(|n| key(n).did()),
    );
    for n in 0..MAX_APPLICATIONS {
        table.ask(1 + n);
    }
    let stranger = table.ask(40);
    assert!(table.words(stranger).is_empty());
    for n in 0..MAX_CONTACT_APPLICATIONS {
        let contact = table.ask(50 + n);
        assert_eq!(table.words(contact).len(), 1, "contact {n} was not heard");
    }
    assert_eq!(
        table.host.waiting(),
        MAX_APPLICATIONS + MAX_CONTACT_APPLICATIONS
    );
    let one_more = table.ask(50 + MAX_CONTACT_APPLICATIONS);
    assert!(table.words(one_more).is_empty(), "contacts are bounded too");
    // Refusing a stranger makes room for one of those who wait outside.
    table.host.refuse(table.applied()[0], "no").unwrap();
    table.run();
    assert!(table.host.waiting() < MAX_APPLICATIONS + MAX_CONTACT_APPLICATIONS);
}

#[test]
fn whoever_lost_its_seat_is_shown_the_words_that_the_inviter_sees() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    table.host.admit(table.applied()[0]).unwrap();
    table.run();
    table.cut(seat);
    table.pass(SEAT_KEPT);
    table.connect(seat);
    table.pass(SEAT_SAID_WAIT);
    let Some(HostEvent::Applied { id, words, .. }) = table.events.last() else {
        panic!("{:?}", table.events.last());
    };
    let (id, words) = (*id, *words);
    assert_eq!(table.words(seat)[1..], [words]);
    table.host.admit(id).unwrap();
    table.run();
    let admitted = table.seats[seat].events.iter();
    let admitted = admitted.filter(|e| matches!(e, ApplicantEvent::Admitted { .. }));
    assert_eq!(admitted.count(), 2);
}

#[test]
fn a_wrong_clock_and_an_old_card_are_declined_and_not_banned() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    let mut ahead = application(&call, 1, peer(101), host_peer());
    ahead.iat = AT.plus_seconds(400);
    ahead.exp = AT.plus_seconds(460);
    let mut old = application(&call, 2, peer(102), host_peer());
    let (from, until) = (AT.plus_seconds(-9000), AT.plus_seconds(-4000));
    let ek = x_wing_key();
    let ran_out: Card = card(key(2).did(), "sud".into(), ek, [1; 16], from, until).unwrap();
    old.card = Some(sign(ran_out, &key(2)).unwrap().text().to_string());
    let mut late = application(&call, 3, peer(103), host_peer());
    late.iat = AT.plus_seconds(-500);
    late.exp = AT.plus_seconds(-400);
    for (n, claims) in [(1, ahead), (2, old), (3, late)] {
        let link = table.stranger(peer(100 + u8::try_from(n).unwrap()));
        table.say(link, &find(&call));
        table.say(link, &apply_frame(claims, n));
        let said = table.strangers[&link].last();
        assert!(
            matches!(
                said,
                Some(Frame::Declined {
                    code: CodeText(Code::Time),
                    ..
                })
            ),
            "{said:?}"
        );
        assert!(table.closed.contains(&Closing { link, ban: false }));
    }
    assert_eq!(table.refused(), Vec::<&Rejection>::new());
    assert_eq!(table.applied(), []);
}
