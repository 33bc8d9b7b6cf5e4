//! The post on a table: senders, receivers, and others who would like to be one of them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod common;

use common::{START, draft, key};
use quorate_identity::{B64, Code, Did, SigningKey, UnixTime, sign};
use quorate_session::{
    Bundle, Closing, Contact, InvitationDraft, LinkId, PeerId, RendezvousSecret, SealSecret,
    limits::{
        DELIVERY_WAIT, MAX_CONTACTS, MAX_LOBBY_LINKS, MAX_OFFERS, MAX_OFFERS_PER_CONTACT,
        MAX_POST_FRAMES, SLOWEST_LINK,
    },
    message::card,
    post::{Frame, ReceiveEvent, Receiver, SendEvent, Sender},
    seal_bundle,
};
use std::time::{Duration, Instant};

const AT: UnixTime = UnixTime(START);
const LINK: LinkId = LinkId(1);

fn peer(seed: u8) -> PeerId {
    PeerId::of(&SigningKey::from_seed(&[seed; 32]).public())
}

fn bundle_of(draft: InvitationDraft, issuer: usize) -> Bundle {
    let invitation = draft.build([6; 16], [5; 32], &common::secret()).unwrap();
    let signed = sign(invitation, &key(issuer)).unwrap();
    Bundle {
        invitation: signed.text().to_string(),
        secret: common::secret(),
        hints: vec![],
        program: None,
    }
}

/// An invitation by `key(0)` for `key(0)`, `key(1)`, `key(2)`.
fn bundle() -> Bundle {
    bundle_of(draft(3), 0)
}

fn sender_of(offers: Vec<(Did, String)>) -> Sender {
    Sender::new(&key(0), offers, peer(100), [1; 32]).unwrap()
}

fn sender(to: &[usize]) -> Sender {
    sender_of(
        to.iter()
            .map(|n| (key(*n).did(), bundle().encode()))
            .collect(),
    )
}

fn receiver(n: usize, contacts: &[usize]) -> Receiver {
    let contacts: Vec<Did> = contacts.iter().map(|n| key(*n).did()).collect();
    Receiver::new(&key(n), &contacts, peer(101)).unwrap().0
}

fn events<C: Contact>(core: &mut C) -> Vec<C::Event> {
    std::iter::from_fn(|| core.poll_event()).collect()
}

fn frames<C: Contact>(core: &mut C) -> Vec<Frame> {
    let bytes = std::iter::from_fn(|| core.poll_transmit());
    bytes
        .map(|(_, bytes)| Frame::parse(&bytes).unwrap())
        .collect()
}

fn say<C: Contact>(core: &mut C, frame: &Frame, now: Instant) {
    core.handle_frame(LINK, &frame.encode(), AT, now);
}

/// Lets two cores talk over one link until both are silent.
fn talk(sender: &mut Sender, receiver: &mut Receiver, now: Instant) {
    loop {
        let (out, back) = (frames(sender), frames(receiver));
        if out.is_empty() && back.is_empty() {
            return;
        }
        for frame in out {
            say(receiver, &frame, now);
        }
        for frame in back {
            say(sender, &frame, now);
        }
    }
}

fn meet(sender: &mut Sender, receiver: &mut Receiver) -> Instant {
    let now = Instant::now();
    sender.handle_link_up(LINK, peer(101), now);
    receiver.handle_link_up(LINK, peer(100), now);
    talk(sender, receiver, now);
    now
}

#[test]
fn a_contact_gets_its_invitation_and_the_sender_knows() {
    let (mut sender, mut receiver) = (sender(&[1, 2]), receiver(1, &[5, 0, 6]));
    meet(&mut sender, &mut receiver);
    let got = events(&mut receiver);
    let [
        ReceiveEvent::Offer {
            from, bundle: held, ..
        },
    ] = &got[..]
    else {
        panic!("{got:?}")
    };
    assert_eq!((from, held.encode()), (&key(0).did(), bundle().encode()));
    let told = events(&mut sender);
    assert!(
        matches!(&told[..], [SendEvent::Found { .. }, SendEvent::Delivered { did }] if *did == key(1).did())
    );
    assert_eq!(sender.waiting(), [key(2).did()]);
}

#[test]
fn two_invitations_for_one_contact_are_both_delivered() {
    let mut other = draft(3);
    other.title = "another".into();
    let did = key(1).did();
    let mut sender = sender_of(vec![
        (did.clone(), bundle().encode()),
        (did, bundle_of(other, 0).encode()),
    ]);
    let mut receiver = receiver(1, &[0]);
    meet(&mut sender, &mut receiver);
    assert_eq!(events(&mut receiver).len(), 2);
    assert!(matches!(
        events(&mut sender).last(),
        Some(SendEvent::AllDelivered)
    ));
}

#[test]
fn a_sealed_invitation_is_opened() {
    let ek = SealSecret::of(&key(1)).public();
    let card = card(
        key(1).did(),
        "sud".into(),
        ek,
        [1; 16],
        AT,
        AT.plus_seconds(60),
    )
    .unwrap();
    let sealed = seal_bundle(&bundle(), &[&card.subject], [2; 32]).unwrap();
    let mut sender = sender_of(vec![(key(1).did(), sealed)]);
    let mut receiver = receiver(1, &[0]);
    meet(&mut sender, &mut receiver);
    assert!(
        matches!(&events(&mut receiver)[..], [ReceiveEvent::Offer { bundle: held, .. }] if held.encode() == bundle().encode())
    );
}

#[test]
fn whoever_is_no_contact_learns_nothing_from_a_receiver() {
    let (mut sender, mut receiver) = (sender(&[1]), receiver(1, &[5, 6]));
    meet(&mut sender, &mut receiver);
    assert!(
        events(&mut receiver).is_empty() && receiver.poll_close().is_none(),
        "silence"
    );
    assert!(events(&mut sender).is_empty());
    // Somebody with the DID but not the key of a contact.
    let mut receiver = self::receiver(1, &[0]);
    let now = Instant::now();
    receiver.handle_link_up(LINK, peer(100), now);
    say(
        &mut receiver,
        &Frame::Hello {
            tags: vec![B64([7; 16]); 64],
        },
        now,
    );
    assert!(frames(&mut receiver).is_empty());
}

/// The key of a pair is the same in both directions; the tags are not.
#[test]
fn one_identity_that_sends_and_waits_does_not_take_itself_for_its_contact() {
    let mut sender = sender(&[1]);
    let mut receiver = receiver(0, &[1]);
    meet(&mut sender, &mut receiver);
    assert!(events(&mut sender).is_empty() && events(&mut receiver).is_empty());
}

#[test]
fn tags_differ_on_every_link_and_do_not_show_how_many_there_are() {
    let now = Instant::now();
    let mut tags = vec![];
    for (n, to) in [&[1][..], &[1, 2], &[1]].iter().enumerate() {
        let mut sender = sender(to);
        sender.handle_link_up(LINK, peer(u8::try_from(n).unwrap()), now);
        match &frames(&mut sender)[..] {
            [Frame::Hello { tags: sent }] => {
                assert_eq!(sent.len(), 8);
                tags.extend(sent.clone());
            }
            other => panic!("{other:?}"),
        }
    }
    let number = tags.len();
    tags.sort();
    tags.dedup();
    // The random ones come from one seed here, so that they repeat; what is derived does not.
    assert!(tags.len() >= number - 13, "{} of {number}", tags.len());
}

/// A stranger between two contacts passes on all that it hears.
#[test]
fn what_is_carried_to_another_connection_is_not_answered() {
    let (mut sender, mut receiver) = (sender(&[1]), receiver(1, &[0]));
    let now = Instant::now();
    let between = peer(66);
    sender.handle_link_up(LINK, between, now);
    receiver.handle_link_up(LINK, between, now);
    for frame in frames(&mut sender) {
        say(&mut receiver, &frame, now);
    }
    assert!(
        frames(&mut receiver).is_empty(),
        "the tag names other PeerIds"
    );
    // An answer of an honest link, shown on another one.
    let (mut other, mut honest) = (self::sender(&[1]), self::receiver(1, &[0]));
    other.handle_link_up(LINK, peer(101), now);
    honest.handle_link_up(LINK, peer(100), now);
    for frame in frames(&mut other) {
        say(&mut honest, &frame, now);
    }
    for frame in frames(&mut honest) {
        say(&mut sender, &frame, now);
    }
    assert!(frames(&mut sender).is_empty(), "no offer");
    assert!(
        matches!(&events(&mut sender)[..], [SendEvent::Refused(why)] if why.code == Code::Peer)
    );
    assert_eq!(
        sender.poll_close(),
        Some(Closing {
            link: LINK,
            ban: true
        })
    );
}

/// What a receiver makes of an offer by its contact `key(0)`.
fn offered(text: String) -> (Vec<ReceiveEvent>, Vec<Frame>) {
    let (mut sender, mut receiver) = (sender_of(vec![(key(1).did(), text)]), receiver(1, &[0]));
    let now = Instant::now();
    sender.handle_link_up(LINK, peer(101), now);
    receiver.handle_link_up(LINK, peer(100), now);
    for _ in 0..2 {
        for frame in frames(&mut sender) {
            say(&mut receiver, &frame, now);
        }
        for frame in frames(&mut receiver) {
            say(&mut sender, &frame, now);
        }
    }
    (events(&mut receiver), frames(&mut sender))
}

#[test]
fn a_contact_cannot_offer_what_is_not_its_own_not_for_us_or_too_late() {
    let mut foreign = draft(3);
    foreign.issuer = key(2).did();
    let mut without = draft(3);
    without.parties[1].did = key(7).did();
    let mut wrong_secret = bundle();
    wrong_secret.secret = RendezvousSecret::new([1; 32]);
    let (input, _) = bundle()
        .invitation
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let mut forged = bundle();
    forged.invitation = format!(
        "{input}.{}",
        quorate_identity::base64url::encode(&key(3).sign_bytes(input.as_bytes()))
    );
    for (text, code) in [
        (bundle_of(foreign, 2).encode(), Code::Peer),
        (bundle_of(without, 0).encode(), Code::NotInvited),
        (wrong_secret.encode(), Code::Format),
        (forged.encode(), Code::Sig),
        ("quorate1:AAAA".to_owned(), Code::Format),
        (String::new(), Code::Format),
    ] {
        let (told, _) = offered(text);
        assert!(
            matches!(&told[..], [ReceiveEvent::Refused(why)] if why.code == code && why.whom == Some(key(0).did())),
            "{code}: {told:?}"
        );
    }
    let (mut sender, mut receiver) = (sender(&[1]), receiver(1, &[0]));
    let now = Instant::now();
    sender.handle_link_up(LINK, peer(101), now);
    receiver.handle_link_up(LINK, peer(100), now);
    let late = draft(3).time.join_by.plus_seconds(1);
    for _ in 0..2 {
        for frame in frames(&mut sender) {
            receiver.handle_frame(LINK, &frame.encode(), late, now);
        }
        for frame in frames(&mut receiver) {
            say(&mut sender, &frame, now);
        }
    }
    assert!(
        matches!(&events(&mut receiver)[..], [ReceiveEvent::Refused(why)] if why.code == Code::Time)
    );
    assert!(
        sign(
            draft(3).build([0; 16], [0; 32], &common::secret()).unwrap(),
            &key(0)
        )
        .is_ok()
    );
}

#[test]
fn an_offer_by_a_stranger_and_frames_out_of_order_are_refused() {
    let now = Instant::now();
    let hello = Frame::Hello {
        tags: vec![B64([7; 16]); 8],
    };
    let offer = Frame::Offer {
        text: bundle().encode(),
    };
    for (before, frame) in [
        (None, offer.clone()),
        (Some(hello.clone()), offer),
        (Some(hello.clone()), hello),
        (None, Frame::Mine { tag: B64([0; 16]) }),
    ] {
        let mut receiver = receiver(1, &[0]);
        receiver.handle_link_up(LINK, peer(66), now);
        for frame in before.iter().chain([&frame]) {
            say(&mut receiver, frame, now);
        }
        assert_eq!(
            receiver.poll_close(),
            Some(Closing {
                link: LINK,
                ban: true
            }),
            "{frame:?}"
        );
        assert!(matches!(
            &events(&mut receiver)[..],
            [ReceiveEvent::Refused(_)]
        ));
    }
    let mut sender = sender(&[1]);
    sender.handle_link_up(LINK, peer(66), now);
    say(
        &mut sender,
        &Frame::Taken {
            digest: quorate_identity::Digest([0; 32]),
        },
        now,
    );
    assert!(matches!(&events(&mut sender)[..], [SendEvent::Refused(_)]));
    assert_eq!(sender.waiting().len(), 1);
}

#[test]
fn a_flood_ends_its_link_on_both_sides() {
    let now = Instant::now();
    let (mut sender, mut receiver) = (sender(&[1]), receiver(1, &[0]));
    sender.handle_link_up(LINK, peer(66), now);
    receiver.handle_link_up(LINK, peer(66), now);
    for _ in 0..=MAX_POST_FRAMES {
        say(
            &mut sender,
            &Frame::Hello {
                tags: vec![B64([7; 16]); 8],
            },
            now,
        );
    }
    assert!(
        matches!(&events(&mut sender)[..], [SendEvent::Refused(why)] if why.code == Code::Overflow)
    );
    receiver.handle_frame(LINK, b"\xff", AT, now);
    assert!(receiver.poll_close().is_some());
}

#[test]
fn a_long_offer_has_the_time_that_a_slow_link_needs() {
    // White space behind a bundle says nothing and is carried all the same.
    let long = bundle().encode() + &" ".repeat(20 * SLOWEST_LINK);
    let mut sender = sender_of(vec![(key(1).did(), long)]);
    let mut receiver = receiver(1, &[0]);
    let now = Instant::now();
    sender.handle_link_up(LINK, peer(101), now);
    receiver.handle_link_up(LINK, peer(100), now);
    for frame in frames(&mut sender) {
        say(&mut receiver, &frame, now);
    }
    for frame in frames(&mut receiver) {
        say(&mut sender, &frame, now);
    }
    assert_eq!(frames(&mut sender).len(), 1);
    let (due, _) = sender.poll_timeout().unwrap();
    assert_eq!(due, now + DELIVERY_WAIT + Duration::from_secs(20));
}

#[test]
fn an_offer_that_is_not_acknowledged_is_made_again_and_shown_once() {
    let (mut sender, mut receiver) = (sender(&[1]), receiver(1, &[0]));
    let now = Instant::now();
    sender.handle_link_up(LINK, peer(101), now);
    receiver.handle_link_up(LINK, peer(100), now);
    for frame in frames(&mut sender) {
        say(&mut receiver, &frame, now);
    }
    for frame in frames(&mut receiver) {
        say(&mut sender, &frame, now);
    }
    for frame in frames(&mut sender) {
        say(&mut receiver, &frame, now);
    }
    // The acknowledgement is lost.
    assert_eq!(frames(&mut receiver).len(), 1);
    let (due, _) = sender.poll_timeout().unwrap();
    assert_eq!(due, now + DELIVERY_WAIT);
    sender.handle_timeout(due);
    assert_eq!(
        sender.poll_close(),
        Some(Closing {
            link: LINK,
            ban: false
        })
    );
    sender.handle_link_down(LINK, due);
    receiver.handle_link_down(LINK, due);
    meet(&mut sender, &mut receiver);
    assert_eq!(events(&mut receiver).len(), 1, "shown once");
    assert!(matches!(
        events(&mut sender).last(),
        Some(SendEvent::AllDelivered)
    ));
}

#[test]
fn contacts_offers_and_links_are_bounded() {
    let did = key(1).did();
    let offers = vec![(did.clone(), String::new()); MAX_OFFERS + 1];
    assert!(Sender::new(&key(0), offers, peer(100), [1; 32]).is_err());
    let contacts = vec![did.clone(); MAX_CONTACTS + 1];
    assert!(Receiver::new(&key(0), &contacts, peer(100)).is_err());
    let now = Instant::now();
    let (mut sender, mut receiver) = (sender(&[1]), receiver(1, &[0]));
    for n in 0..2 * MAX_LOBBY_LINKS as u64 {
        sender.handle_link_up(LinkId(n), peer(9), now);
        receiver.handle_link_up(LinkId(n), peer(9), now);
    }
    let closed = |core: &mut dyn FnMut() -> Option<Closing>| std::iter::from_fn(core).count();
    assert_eq!(closed(&mut || sender.poll_close()), MAX_LOBBY_LINKS);
    assert_eq!(closed(&mut || receiver.poll_close()), MAX_LOBBY_LINKS);
    // One whose key is not in its DID cannot be recognized, and is named.
    let web: Did = "did:web:uni.example".parse().unwrap();
    let (_, unknown) = Receiver::new(&key(0), &[did, web.clone()], peer(100)).unwrap();
    assert_eq!(unknown, [web]);
}

#[test]
fn one_contact_cannot_show_any_number_of_invitations() {
    let mut receiver = receiver(1, &[0]);
    let offer = |receiver: &mut Receiver, n: usize| {
        let mut terms = draft(3);
        terms.title = format!("invitation {n}");
        let text = bundle_of(terms, 0).encode();
        let mut sender = sender_of(vec![(key(1).did(), text)]);
        meet(&mut sender, receiver);
        receiver.handle_link_down(LINK, Instant::now());
        events(receiver)
    };
    for n in 0..MAX_OFFERS_PER_CONTACT {
        let told = offer(&mut receiver, n);
        assert!(
            matches!(&told[..], [ReceiveEvent::Offer { .. }]),
            "{told:?}"
        );
    }
    // What was shown before is acknowledged again, and costs nothing.
    assert!(offer(&mut receiver, 0).is_empty());
    let told = offer(&mut receiver, MAX_OFFERS_PER_CONTACT);
    assert!(
        matches!(&told[..], [ReceiveEvent::Refused(why)] if why.code == Code::Limit),
        "{told:?}"
    );
}
