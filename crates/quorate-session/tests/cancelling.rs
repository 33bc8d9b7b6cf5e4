//! The organizer cancels: as a party of the session, and as somebody who only signed the invitation.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Outsider, START, Table, draft, key, proof_of, secret, setup};
use quorate_identity::{Code, DidKeyResolver, ResolvedDid, Resolver, UnixTime, Verified, sign};
use quorate_session::{
    CancelEvent, CancelSetup, Canceller, Closure, Event, Frame, Invitation, LinkId, LinkKind,
    Misuse, Pid, Session, State, Stored, hello_tag,
};
use std::time::{Duration, Instant};

/// An invitation that party 0 signed.
fn own_invitation() -> Verified<Invitation> {
    let mut draft = draft(3);
    draft.issuer = key(0).did();
    signed_by(draft, 0)
}

fn signed_by(draft: quorate_session::InvitationDraft, index: usize) -> Verified<Invitation> {
    sign(
        draft.build([7; 16], [0x51; 32], &secret()).unwrap(),
        &key(index),
    )
    .unwrap()
}

fn resolved(invitation: &Verified<Invitation>) -> Vec<ResolvedDid> {
    let parties = &invitation.subject.parties;
    let keys = |did| DidKeyResolver.resolve(did).unwrap().unwrap();
    parties.iter().map(|party| keys(&party.did)).collect()
}

fn canceller(invitation: &Verified<Invitation>, issuer: usize, now: Instant) -> Canceller {
    let setup = CancelSetup {
        invitation: invitation.clone(),
        secret: secret(),
        key: key(issuer),
        reason: "wrong year".into(),
        parties: resolved(invitation),
        seed: [0x77; 32],
    };
    Canceller::new(setup, UnixTime(START), now).unwrap()
}

/// Links a canceller to one seat and lets both talk until neither says anything.
fn talk(table: &mut Table, seat: usize, canceller: &mut Canceller, id: u64) -> Vec<CancelEvent> {
    let (at, now) = (table.at, table.now);
    let link = LinkId((1 << 21) | id);
    let remote = table.seats[seat].session.peer_id();
    let who = Outsider {
        link,
        peer: canceller.peer_id(),
        key: key(9),
    };
    canceller.handle_link_up(link, remote, at, now);
    let kind = LinkKind::Overlay {
        local: remote,
        remote: who.peer,
    };
    table.seats[seat]
        .session
        .handle_link_up(link, kind, at, now);
    loop {
        let said: Vec<_> = std::iter::from_fn(|| canceller.poll_transmit()).collect();
        if said.is_empty() {
            break;
        }
        for (_, bytes) in said {
            for frame in table.say_bytes(seat, &who, &bytes) {
                canceller.handle_message(link, &frame.encode(), at, now);
            }
        }
    }
    std::iter::from_fn(|| canceller.poll_event()).collect()
}

/// Lets a session get as far as `phase`: 0 joining, 1 the mesh not working yet, 2 running.
fn table_in(phase: usize, invitation: &Verified<Invitation>) -> Table {
    let mut table = Table::with(invitation, 3);
    match phase {
        0 => {
            let short = |frame: &Frame| !matches!(frame, Frame::Statements { jws } if jws.iter().any(|j| j.len() > 2000));
            table.filter = Box::new(move |_, _, frame| short(frame));
        }
        1 => table.seats[1].auto_mesh = false,
        _ => {}
    }
    table.run();
    table.filter = Box::new(|_, _, _| true);
    table
}

fn assert_all_cancelled(table: &Table) {
    for index in 0..3 {
        let (code, _, detail) = table.failure(index);
        assert_eq!(code, Code::Cancelled);
        assert!(detail.contains("wrong year"), "{detail}");
        let record = table.seats[index].last_record.as_deref().unwrap();
        let closed = Stored::parse(record).unwrap().closed;
        assert_eq!(closed, Some(Closure::Cancelled));
    }
    table.assert_no_alarm();
}

#[test]
fn f39_the_organizer_who_is_a_party_cancels_in_every_phase_and_all_stop() {
    let invitation = own_invitation();
    for phase in 0..3 {
        let mut table = table_in(phase, &invitation);
        let (at, now) = (table.at, table.now);
        let session = &mut table.seats[0].session;
        session.cancel("wrong year", at, now).unwrap();
        table.drain(0);
        table.pass(Duration::from_secs(3));
        assert_all_cancelled(&table);
    }
}

#[test]
fn f39_an_organizer_who_is_no_party_reaches_one_party_and_all_stop() {
    let mut draft = draft(3);
    draft.issuer = key(7).did();
    let invitation = signed_by(draft, 7);
    for phase in 0..3 {
        let mut table = table_in(phase, &invitation);
        let mut canceller = canceller(&invitation, 7, table.now);
        let events = talk(&mut table, 1, &mut canceller, 1);
        assert!(
            events
                .iter()
                .any(|e| matches!(e, CancelEvent::Told(Pid(1)))),
            "{events:?}"
        );
        table.pass(Duration::from_secs(3));
        assert_all_cancelled(&table);
        assert_eq!(canceller.untold(), [Pid(0), Pid(2)]);
    }
}

#[test]
fn f39_an_organizer_whose_own_part_does_not_run_cancels_too() {
    let invitation = own_invitation();
    let mut table = Table::with(&invitation, 3);
    table.run();
    table.kill(0);
    let mut canceller = canceller(&invitation, 0, table.now);
    talk(&mut table, 2, &mut canceller, 1);
    table.pass(Duration::from_secs(3));
    for index in [1, 2] {
        assert_eq!(table.failure(index).0, Code::Cancelled);
    }
    assert_eq!(canceller.untold(), [Pid(1)]);
}

#[test]
fn a32_only_the_organizer_can_cancel() {
    let invitation = own_invitation();
    let mut table = Table::with(&invitation, 3);
    table.run();
    let (at, now) = (table.at, table.now);
    let refused = table.seats[1].session.cancel("no", at, now);
    assert_eq!(refused, Err(Misuse::NotIssuer));
    table.drain(1);
    assert_eq!(table.states(), [State::Running; 3]);
    let setup = CancelSetup {
        invitation: invitation.clone(),
        secret: secret(),
        key: key(1),
        reason: String::new(),
        parties: resolved(&invitation),
        seed: [1; 32],
    };
    let refused = Canceller::new(setup, at, now).err().unwrap();
    assert_eq!(refused.code, Code::NotIssuer);
}

#[test]
fn a_cancelled_session_cannot_be_joined_or_cancelled_again() {
    let invitation = own_invitation();
    let now = Instant::now();
    let mut session = Session::new(setup(&invitation, 0, None, 1), UnixTime(START), now).unwrap();
    session.cancel("too early", UnixTime(START), now).unwrap();
    let record = std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        Event::Persist { record, .. } => Some(record),
        _ => None,
    });
    assert_eq!(session.state(), State::Closed);
    let again = session.cancel("twice", UnixTime(START), now);
    assert_eq!(again, Err(Misuse::Over));
    let stored = Stored::parse(&record.unwrap()).unwrap();
    let code = common::refusal_of_new(setup(&invitation, 0, Some(stored), 2));
    assert_eq!(code, Code::Replay);
}

#[test]
fn whoever_does_not_prove_to_be_a_party_hears_no_cancel() {
    let invitation = own_invitation();
    let now = Instant::now();
    let at = UnixTime(START);
    let frames = |canceller: &mut Canceller| -> Vec<Frame> {
        std::iter::from_fn(|| canceller.poll_transmit())
            .map(|(_, bytes)| Frame::parse(&bytes).unwrap())
            .collect()
    };
    let stranger = key(8);
    let peer = quorate_session::PeerId::of(&stranger.public());

    // Without the secret: hello only, then closed.
    let mut without = canceller(&invitation, 0, now);
    without.handle_link_up(LinkId(1), peer, at, now);
    assert!(matches!(frames(&mut without)[..], [Frame::Hello { .. }]));
    let wrong = quorate_session::RendezvousSecret::new([9; 32]);
    let tag = hello_tag(&wrong, &peer, &without.peer_id());
    without.handle_message(LinkId(1), &Frame::Hello { tag }.encode(), at, now);
    assert!(frames(&mut without).is_empty());
    let closed = std::iter::from_fn(|| without.poll_event())
        .any(|e| matches!(e, CancelEvent::CloseLink { ban: true, .. }));
    assert!(closed);

    // With the secret, but no party: a proof is asked for and refused.
    let mut with = canceller(&invitation, 0, now);
    with.handle_link_up(LinkId(1), peer, at, now);
    let tag = hello_tag(&secret(), &peer, &with.peer_id());
    with.handle_message(LinkId(1), &Frame::Hello { tag }.encode(), at, now);
    let proof = proof_of(&invitation, &stranger, peer, with.peer_id());
    with.handle_message(LinkId(1), &proof.encode(), at, now);
    let said = frames(&mut with);
    assert!(
        !said.iter().any(|f| matches!(f, Frame::Statements { .. })),
        "{said:?}"
    );
    let refused = std::iter::from_fn(|| with.poll_event()).find_map(|e| match e {
        CancelEvent::Refused(rejection) => Some(rejection.code),
        _ => None,
    });
    assert_eq!(refused, Some(Code::NotMember));

    // Garbage of every kind never panics.
    let mut garbage = canceller(&invitation, 0, now);
    garbage.handle_link_up(LinkId(1), peer, at, now);
    let deep = vec![b'['; 70_000];
    for bytes in [&b""[..], b"{", b"\xff\xff", &deep] {
        garbage.handle_message(LinkId(1), bytes, at, now);
    }
}
