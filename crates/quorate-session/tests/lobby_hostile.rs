//! The lobby on a table with hosts and applicants who do not keep to the protocol.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod common;
mod lobby_table;

use common::key;
use quorate_identity::{
    B64, Code, Did, Digest, MAX_STATEMENT_BYTES, Rejection, SigningKey, Unverified, Verified,
    base64url, sign,
};
use quorate_session::{
    Apply, Bundle, Call, Closing, Contact, Invitation, LinkId, PeerId, RendezvousSecret, Ticket,
    limits::{
        APPLICATION_INTERVAL, MAX_APPLICATIONS, MAX_LOBBY_ANSWERS, MAX_LOBBY_FRAMES,
        MAX_LOBBY_LINKS, MAX_PROGRAM_SOURCE_BYTES,
    },
    lobby::{Applicant, ApplicantEvent, Frame, Host, HostEvent},
    message::CodeText,
};
use std::time::Instant;

use lobby_table::*;

// ---- what an applicant does not accept

/// What an applicant says to a host that serves `jws` (and nothing else).
fn served(jws: &str) -> Rejection {
    let mut applicant = Applicant::new(key(1), ticket(&call(3)), peer(101), [1; 32]);
    let now = Instant::now();
    applicant.handle_link_up(LinkId(1), host_peer(), now);
    let frame = Frame::Call {
        jws: jws.into(),
        commit: Digest([0; 32]),
        program: None,
    };
    applicant.handle_frame(LinkId(1), &frame.encode(), AT, now);
    let mut events: Vec<ApplicantEvent> = std::iter::from_fn(|| applicant.poll_event()).collect();
    assert!(applicant.poll_close().is_some(), "the link is closed");
    assert!(
        !events
            .iter()
            .any(|e| matches!(e, ApplicantEvent::Call { .. }))
    );
    // Whatever a person would say now, nothing leaves.
    while applicant.poll_transmit().is_some() {}
    applicant.apply("me".into(), None, AT, now);
    assert!(applicant.poll_transmit().is_none());
    match events.pop() {
        Some(ApplicantEvent::Closed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_that_the_ticket_does_not_name_is_refused() {
    let other = sign(call_draft(4).build([7; 16]).unwrap(), &key(0)).unwrap();
    let why = served(other.text());
    assert_eq!((why.code, why.rule), (Code::Call, "F6"));
}

#[test]
fn the_same_terms_by_another_issuer_are_refused() {
    let mut draft = call_draft(3);
    draft.terms.issuer = key(9).did();
    draft.terms.parties = vec![party(&key(9).did(), "noord")];
    let other = sign(draft.build([7; 16]).unwrap(), &key(9)).unwrap();
    assert_eq!(served(other.text()).code, Code::Call);
}

#[test]
fn a_call_with_a_changed_signature_is_refused() {
    let call = call(3);
    let (input, _) = call.text().rsplit_once('.').unwrap();
    let forged = format!(
        "{input}.{}",
        base64url::encode(&key(9).sign_bytes(input.as_bytes()))
    );
    assert_eq!(served(&forged).code, Code::Sig);
}

/// Somebody copies a call and makes a ticket with its own PeerId.
#[test]
fn a_call_of_another_lobby_is_refused_under_a_ticket_for_this_one() {
    let call = call(3);
    let thief = peer(66);
    let ticket = Ticket::new(thief, &call.digest(), &[]).unwrap();
    let mut applicant = Applicant::new(key(1), ticket, peer(101), [1; 32]);
    let now = Instant::now();
    applicant.handle_link_up(LinkId(1), thief, now);
    let frame = Frame::Call {
        jws: call.text().to_string(),
        commit: Digest([0; 32]),
        program: None,
    };
    applicant.handle_frame(LinkId(1), &frame.encode(), AT, now);
    let last = std::iter::from_fn(|| applicant.poll_event()).last();
    assert!(
        matches!(last, Some(ApplicantEvent::Closed(why)) if why.code == Code::Call && why.rule == "F6")
    );
}

#[test]
fn other_statements_and_expired_calls_are_refused() {
    let invitation = sign(closed(&call(3), &[key(1).did(), key(2).did()]), &key(0)).unwrap();
    assert_eq!(served(invitation.text()).code, Code::Format);
    assert_eq!(served("a.b").code, Code::Format);

    let call = call(3);
    let mut applicant = Applicant::new(key(1), ticket(&call), peer(101), [1; 32]);
    let now = Instant::now();
    applicant.handle_link_up(LinkId(1), host_peer(), now);
    let frame = Frame::Call {
        jws: call.text().to_string(),
        commit: Digest([0; 32]),
        program: None,
    };
    let late = call.subject.time.apply_by.plus_seconds(301);
    applicant.handle_frame(LinkId(1), &frame.encode(), late, now);
    let last = std::iter::from_fn(|| applicant.poll_event()).last();
    assert!(matches!(last, Some(ApplicantEvent::Closed(why)) if why.code == Code::Time));
}

#[test]
fn an_applicant_talks_to_the_tickets_peer_only() {
    let mut applicant = Applicant::new(key(1), ticket(&call(3)), peer(101), [1; 32]);
    let now = Instant::now();
    applicant.handle_link_up(LinkId(1), peer(77), now);
    assert!(applicant.poll_transmit().is_none());
    let closing = applicant.poll_close().unwrap();
    assert_eq!((closing.link, closing.ban), (LinkId(1), true));
    applicant.handle_frame(LinkId(1), &Frame::Admitted { place: 0 }.encode(), AT, now);
    assert!(applicant.poll_event().is_none());
}

/// An admitted applicant at the table, and what happens when the host sends this bundle.
fn answer_to(make: impl FnOnce(&Verified<Call>) -> String) -> Rejection {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    let other = table.ask(2);
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    let link = table.seats[seat].link.unwrap();
    let text = make(&table.call);
    let frame = Frame::Bundle { text };
    table.seats[seat]
        .core
        .handle_frame(link, &frame.encode(), AT, table.now);
    assert!(
        table.seats[seat].core.poll_transmit().is_none(),
        "no acknowledgement"
    );
    table.run();
    assert!(table.invitation(seat).is_none());
    assert!(table.ended(other).is_none());
    table.ended(seat).expect("it ended").clone()
}

#[test]
fn an_invitation_with_other_terms_is_refused_with_what_differs() {
    type Change = fn(&mut Invitation);
    let changes: [(&str, Change); 12] = [
        ("the title", |i| i.subject.title.push('!')),
        ("the purpose", |i| i.subject.purpose = "other".into()),
        ("the number of parties", |i| {
            i.subject.parties.push(i.subject.parties[0].clone());
            i.subject.parties[3].did = key(5).did();
            i.subject.mpc.m = 4;
        }),
        ("the engine", |i| i.subject.mpc.version = "9.9".into()),
        ("the program", |i| {
            i.subject.program.entry = "other.py".into();
        }),
        ("the public arguments", |i| {
            i.subject.program.args.push("-x".into());
        }),
        ("the network", |i| i.subject.net.port += 1),
        ("the policy", |i| i.subject.policy.rejoin = 0),
        ("a deadline", |i| {
            i.subject.time.join_by = i.subject.time.join_by.plus_seconds(1);
        }),
        ("replace this call", |i| i.subject.supersedes = None),
        ("the inviter takes part", |i| {
            i.subject.parties[0] = i.subject.parties[2].clone_as(&key(6).did());
        }),
        ("you are not one", |i| {
            i.subject.parties[1] = i.subject.parties[2].clone_as(&key(7).did());
        }),
    ];
    for (what, change) in changes {
        let why = answer_to(|call| {
            let mut invitation = closed(call, &[key(1).did(), key(2).did()]);
            change(&mut invitation);
            bundle_of(sign(invitation, &key(0)).unwrap().text())
        });
        assert_eq!((why.code, why.rule), (Code::Call, "F8"), "{what}");
        assert!(why.detail.contains(what), "{what}: {}", why.detail);
    }
}

trait CloneAs {
    fn clone_as(&self, did: &Did) -> Self;
}

impl CloneAs for quorate_session::message::InvitedParty {
    fn clone_as(&self, did: &Did) -> Self {
        Self {
            did: did.clone(),
            ..self.clone()
        }
    }
}

#[test]
fn an_invitation_with_a_lower_threshold_is_refused_by_name() {
    let mut table = Table::new(5);
    let seats: Vec<usize> = (1..5).map(|n| table.ask(n)).collect();
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    let mut invitation = closed(&table.call, &table.host.admitted());
    assert_eq!(invitation.subject.mpc.t, 2);
    invitation.subject.mpc.t = 1;
    let text = bundle_of(sign(invitation, &key(0)).unwrap().text());
    let link = table.seats[seats[0]].link.unwrap();
    let now = table.now;
    table.seats[seats[0]]
        .core
        .handle_frame(link, &Frame::Bundle { text }.encode(), AT, now);
    table.run();
    assert!(
        table
            .ended(seats[0])
            .unwrap()
            .detail
            .contains("the threshold")
    );
}

#[test]
fn an_invitation_of_somebody_else_or_with_another_secret_is_refused() {
    let why = answer_to(|call| {
        let mut invitation = closed(call, &[key(1).did(), key(2).did()]);
        invitation.issuer = key(9).did();
        bundle_of(sign(invitation, &key(9)).unwrap().text())
    });
    assert!(
        why.code == Code::Call && why.detail.contains("somebody else"),
        "{why}"
    );
    let why = answer_to(|call| {
        let invitation = sign(closed(call, &[key(1).did(), key(2).did()]), &key(0)).unwrap();
        let bundle = Bundle {
            invitation: invitation.text().to_string(),
            secret: RendezvousSecret::new([1; 32]),
            hints: vec![],
            program: None,
        };
        bundle.encode()
    });
    assert!(
        why.code == Code::Call && why.detail.contains("secret"),
        "{why}"
    );
    assert_eq!(answer_to(|_| "quorate1:AAAA".into()).code, Code::Format);
}

#[test]
fn a_host_that_reveals_something_else_is_not_believed() {
    let call = call(3);
    let mut applicant = Applicant::new(key(1), ticket(&call), peer(101), [1; 32]);
    let now = Instant::now();
    applicant.handle_link_up(LinkId(1), host_peer(), now);
    let frames = [
        Frame::Call {
            jws: call.text().to_string(),
            commit: quorate_session::admission_commitment(&B64([1; 32])),
            program: None,
        },
        Frame::Heard {
            reveal: B64([2; 32]),
        },
    ];
    applicant.handle_frame(LinkId(1), &frames[0].encode(), AT, now);
    applicant.apply("me".into(), None, AT, now);
    applicant.handle_frame(LinkId(1), &frames[1].encode(), AT, now);
    let events: Vec<_> = std::iter::from_fn(|| applicant.poll_event()).collect();
    assert!(
        !events
            .iter()
            .any(|e| matches!(e, ApplicantEvent::Asked { .. }))
    );
    assert!(matches!(events.last(), Some(ApplicantEvent::Closed(why)) if why.code == Code::Call));
}

#[test]
fn answers_out_of_order_end_the_application() {
    let frames = [
        Frame::Heard {
            reveal: B64([2; 32]),
        },
        Frame::Admitted { place: 0 },
        Frame::Bundle {
            text: bundle(&call(3), &[key(1).did(), key(2).did()]),
        },
        Frame::Leave {},
        Frame::Find { call: B64([0; 16]) },
    ];
    for frame in frames {
        let mut applicant = Applicant::new(key(1), ticket(&call(3)), peer(101), [1; 32]);
        let now = Instant::now();
        applicant.handle_link_up(LinkId(1), host_peer(), now);
        applicant.handle_frame(LinkId(1), &frame.encode(), AT, now);
        let last = std::iter::from_fn(|| applicant.poll_event()).last();
        assert!(
            matches!(last, Some(ApplicantEvent::Closed(why)) if why.code == Code::Format),
            "{frame:?}"
        );
    }
}

// ---- what a host does not accept

#[test]
fn an_application_from_another_connection_is_refused() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    // Signed by key(1) for its own link, carried to another by somebody who got hold of it.
    let link = table.stranger(peer(66));
    table.say(link, &find(&call));
    table.say(
        link,
        &apply_frame(application(&call, 1, peer(101), host_peer()), 1),
    );
    assert_eq!(
        (table.refused()[0].code, table.refused()[0].rule),
        (Code::Peer, "F7")
    );
    // Made for another lobby.
    let link = table.stranger(peer(101));
    table.say(link, &find(&call));
    table.say(
        link,
        &apply_frame(application(&call, 1, peer(101), peer(66)), 1),
    );
    assert_eq!(table.refused()[1].code, Code::Peer);
    assert_eq!(table.applied(), []);
    assert!(table.closed.iter().all(|c| c.ban));
}

#[test]
fn an_application_for_another_call_or_with_a_wrong_key_is_refused() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    let good = || application(&call, 1, peer(101), host_peer());
    let mut other_call = good();
    other_call.call = Digest([1; 32]);
    let signed = |claims: Apply| sign(claims, &key(1)).unwrap().text().to_string();
    let genuine = signed(good());
    let (input, _) = genuine.rsplit_once('.').unwrap();
    let forged = format!(
        "{input}.{}",
        base64url::encode(&key(2).sign_bytes(input.as_bytes()))
    );
    for (jws, code) in [
        (signed(other_call), Code::Call),
        (forged, Code::Sig),
        (table.call.text().to_string(), Code::Header),
        ("x".into(), Code::Format),
    ] {
        let link = table.stranger(peer(101));
        table.say(link, &find(&call));
        table.say(link, &Frame::Apply { jws });
        assert_eq!(table.refused().last().unwrap().code, code);
    }
    assert_eq!(table.applied(), []);
    assert!(Unverified::<Apply>::parse(&genuine).is_ok());
}

#[test]
fn two_places_cannot_apply_with_one_identity() {
    let mut table = Table::new(3);
    let first = table.ask(1);
    let second = table.sit(key(1), peer(150));
    table.connect(second);
    table.apply(second, "me again");
    assert_eq!(table.ended(second).unwrap().code, Code::AlreadyJoined);
    assert!(table.ended(first).is_none());
    assert_eq!(table.applied().len(), 1);
    let own = table.sit(key(0), peer(151));
    table.connect(own);
    table.apply(own, "the inviter");
    assert_eq!(table.ended(own).unwrap().code, Code::AlreadyJoined);
}

#[test]
fn one_link_makes_one_application() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    let link = table.stranger(peer(101));
    table.say(link, &find(&call));
    table.say(
        link,
        &apply_frame(application(&call, 1, peer(101), host_peer()), 1),
    );
    table.say(
        link,
        &apply_frame(application(&call, 2, peer(101), host_peer()), 2),
    );
    assert_eq!(table.refused()[0].code, Code::Format);
    assert_eq!(
        table.applied().len(),
        1,
        "the words of a second one could be chosen"
    );
    assert!(
        table
            .events
            .iter()
            .any(|e| matches!(e, HostEvent::Left { .. }))
    );
}

#[test]
fn a_thousand_applications_leave_a_bounded_lobby() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    let mut declined = 0;
    for n in 0..1000_u32 {
        let mut seed = [9; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let key = SigningKey::from_seed(&seed);
        let local = PeerId::of(&key.public());
        let link = table.stranger(local);
        table.say(link, &find(&call));
        let mut claims = application(&call, 1, local, host_peer());
        claims.iss = key.did();
        let jws = sign(claims, &key).unwrap().text().to_string();
        table.say(link, &Frame::Apply { jws });
        let limit = |f: &Frame| {
            matches!(
                f,
                Frame::Declined {
                    code: CodeText(Code::Limit),
                    ..
                }
            )
        };
        declined += usize::from(table.strangers[&link].iter().any(limit));
        assert!(table.host.waiting() <= MAX_APPLICATIONS);
    }
    assert_eq!(table.applied().len(), MAX_APPLICATIONS);
    assert_eq!(declined, 1000 - MAX_APPLICATIONS);
    // Answering one makes room for an honest one.
    table.host.refuse(table.applied()[0], "no").unwrap();
    table.run();
    table.pass(APPLICATION_INTERVAL);
    let seat = table.ask(1);
    assert!(!table.words(seat).is_empty());
}

/// Each with an identity of its own, gone as soon as a person could look.
#[test]
fn applications_that_come_and_go_fill_no_screen() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    let knock = |table: &mut Table, n: u32| {
        let mut seed = [8; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let key = SigningKey::from_seed(&seed);
        let local = PeerId::of(&key.public());
        let link = table.stranger(local);
        table.say(link, &find(&call));
        let mut claims = application(&call, 1, local, host_peer());
        claims.iss = key.did();
        let jws = sign(claims, &key).unwrap().text().to_string();
        table.say(link, &Frame::Apply { jws });
        table.host.handle_link_down(link, table.now);
        table.run();
    };
    for n in 0..200 {
        knock(&mut table, n);
    }
    assert_eq!(table.applied().len(), MAX_APPLICATIONS);
    table.pass(3 * APPLICATION_INTERVAL);
    for n in 200..300 {
        knock(&mut table, n);
    }
    assert_eq!(table.applied().len(), MAX_APPLICATIONS + 3);
}

#[test]
fn readers_are_pushed_out_by_readers_and_never_push_out_an_applicant() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    let applicant = table.ask(1);
    let reader = table.newcomer(2);
    table.connect(reader);
    for n in 0..MAX_LOBBY_LINKS {
        let link = table.stranger(peer(u8::try_from(n).unwrap()));
        table.say(link, &find(&call));
    }
    assert!(table.seats[reader].link.is_none(), "pushed out");
    assert!(table.seats[applicant].link.is_some());
    // Whoever comes again is served again.
    table.connect(reader);
    table.apply(reader, "sud");
    assert_eq!(table.applied().len(), 2);
}

#[test]
fn an_outsider_who_asks_for_the_invitation_gets_nothing() {
    let mut table = Table::new(3);
    table.ask(1);
    table.ask(2);
    let call = table.call.clone();
    let outsider = table.stranger(peer(66));
    table.say(outsider, &find(&call));
    let silent = table.stranger(peer(67));
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.seal();
    let inv = table.invitation(0).unwrap().digest();
    for link in [outsider, silent] {
        table.say(link, &Frame::Taken { inv });
        let bundle = |f: &Frame| matches!(f, Frame::Bundle { .. });
        assert!(!table.strangers[&link].iter().any(bundle));
    }
    // One with an identity of its own that was not admitted.
    let late = table.ask(3);
    assert_eq!(table.ended(late).unwrap().code, Code::Full);
    assert!(table.invitation(late).is_none());
    // And one that shows the application of an admitted one.
    let thief = table.stranger(peer(68));
    table.say(thief, &find(&call));
    table.say(
        thief,
        &apply_frame(application(&call, 1, peer(101), host_peer()), 1),
    );
    assert!(
        !table.strangers[&thief]
            .iter()
            .any(|f| matches!(f, Frame::Bundle { .. }))
    );
}

#[test]
fn garbage_ends_its_link_and_nothing_else() {
    let mut table = Table::new(3);
    let honest = table.ask(1);
    let call = table.call.clone();
    let garbage: [&[u8]; 6] = [
        b"",
        b"{}",
        b"\xff\xfe",
        b"[[[[[[[[[[[[[[[[[[[[[",
        br#"{"t":"find"}"#,
        &vec![b' '; 20_000],
    ];
    for bytes in garbage {
        let link = table.stranger(peer(66));
        table.bytes(link, bytes);
        assert_eq!(table.closed.last(), Some(&Closing { link, ban: true }));
    }
    for frame in [
        Frame::Admitted { place: 0 },
        Frame::Taken {
            inv: Digest([0; 32]),
        },
        find(&call),
    ] {
        let link = table.stranger(peer(66));
        table.say(link, &find(&call));
        table.say(link, &frame);
        assert_eq!(
            table.closed.last(),
            Some(&Closing { link, ban: true }),
            "{frame:?}"
        );
    }
    let link = table.stranger(peer(66));
    table.say(link, &Frame::Find { call: B64([1; 16]) });
    assert_eq!(table.refused().last().unwrap().code, Code::Call);
    assert!(
        table.strangers[&link].is_empty(),
        "the call is not shown to whoever has no ticket"
    );
    assert!(table.seats[honest].link.is_some());
}

#[test]
fn a_flood_of_frames_ends_the_link() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    table.ask(2);
    let link = table.seats[seat].link.unwrap();
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.seal();
    let inv = table.invitation(seat).unwrap().digest();
    for _ in 0..=MAX_LOBBY_FRAMES {
        table.say(link, &Frame::Taken { inv });
    }
    assert_eq!(table.refused().last().unwrap().code, Code::Overflow);
    let delivered = table
        .events
        .iter()
        .filter(|e| matches!(e, HostEvent::Delivered { .. }));
    assert_eq!(delivered.count(), 2, "each once");
}

#[test]
fn an_application_before_the_call_was_asked_for_is_refused() {
    let mut table = Table::new(3);
    let call = table.call.clone();
    let link = table.stranger(peer(101));
    let apply = apply_frame(application(&call, 1, peer(101), host_peer()), 1);
    table.say(link, &apply);
    assert_eq!(table.refused()[0].code, Code::Format);
    assert_eq!(table.applied(), []);
}

#[test]
fn an_answer_to_another_invitation_is_refused() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    table.ask(2);
    for id in table.applied() {
        table.host.admit(id).unwrap();
    }
    table.run();
    let link = table.seats[seat].link.unwrap();
    let text = bundle(&table.call, &table.host.admitted());
    table.host.seal(&text, table.now).unwrap();
    while table.host.poll_transmit().is_some() {}
    let inv = Digest([9; 32]);
    table.say(link, &Frame::Taken { inv });
    assert_eq!(table.refused()[0].detail, "an answer to another invitation");
    assert!(
        !table
            .events
            .iter()
            .any(|e| matches!(e, HostEvent::Delivered { .. }))
    );
}

#[test]
fn a_host_that_floods_is_left() {
    let mut table = Table::new(3);
    let seat = table.ask(1);
    table.host.admit(table.applied()[0]).unwrap();
    table.run();
    let link = table.seats[seat].link.unwrap();
    let now = table.now;
    for _ in 0..=MAX_LOBBY_ANSWERS {
        let frame = Frame::Admitted { place: 0 };
        table.seats[seat]
            .core
            .handle_frame(link, &frame.encode(), AT, now);
    }
    table.run();
    assert_eq!(table.ended(seat).unwrap().code, Code::Overflow);
}

#[test]
fn a59_a_source_that_is_not_the_called_program_ends_the_application() {
    let (good, other) = (source("print(1)"), source("print(2)"));
    let now = Instant::now();
    let opened = |source| Host::new(call_of(3, &good), Some(source), [1; 32], AT, now);
    assert_eq!(opened(&other).unwrap_err().code, Code::Program);
    assert!(opened(&good).is_ok());
    let mut long = good.to_cbor();
    long.resize(MAX_PROGRAM_SOURCE_BYTES + 1, b' ');
    for (bytes, code) in [
        (other.to_cbor(), Code::Program),
        (good.to_cbor()[1..].to_vec(), Code::Format),
        (b"print(1)".to_vec(), Code::Format),
        (Vec::new(), Code::Format),
        (long, Code::Limit),
    ] {
        let call = call_of(3, &good);
        let mut applicant = Applicant::new(key(1), ticket(&call), peer(101), [1; 32]);
        applicant.handle_link_up(LinkId(1), host_peer(), now);
        let frame = Frame::Call {
            jws: call.text().to_string(),
            commit: Digest([0; 32]),
            program: Some(base64url::encode(&bytes)),
        };
        applicant.handle_frame(LinkId(1), &frame.encode(), AT, now);
        let last = std::iter::from_fn(|| applicant.poll_event()).last();
        assert!(
            matches!(&last, Some(ApplicantEvent::Closed(why)) if why.code == code),
            "{code}: {last:?}"
        );
    }
}

#[test]
fn the_largest_source_goes_through_a_frame_with_the_largest_call() {
    let mut frame = Frame::Call {
        jws: "x".repeat(MAX_STATEMENT_BYTES),
        commit: Digest([0; 32]),
        program: Some(base64url::encode(&vec![0; MAX_PROGRAM_SOURCE_BYTES])),
    };
    assert!(Frame::parse(&frame.encode()).is_ok());
    if let Frame::Call { program, .. } = &mut frame {
        *program = Some("A".repeat(MAX_PROGRAM_SOURCE_BYTES * 4 / 3 + 4));
    }
    assert_eq!(Frame::parse(&frame.encode()).unwrap_err().code, Code::Limit);
}
