//! The post over real loopback sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_identity::{Did, DidKeyResolver, Resolver, SigningKey, UnixTime, sign};
use quorate_node::{
    overlay::Scope,
    post::{
        ReceiveConfig, ReceiveEvent, ReceiveHandle, SendConfig, SendEvent, SendHandle, receive,
        send,
    },
};
use quorate_session::{
    Bundle, ContentDigest, InvitationDraft, PartyDraft, RendezvousSecret,
    message::{Program, SameController, Times},
};
use tokio::{sync::mpsc::Receiver, time::timeout};

const SOON: Duration = Duration::from_mins(1);

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn wall() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime(i64::try_from(since.as_secs()).unwrap())
}

fn identity() -> SigningKey {
    SigningKey::from_seed(&random())
}

fn party(did: &Did) -> PartyDraft {
    let keys = DidKeyResolver.resolve(did).unwrap().unwrap();
    PartyDraft {
        did: did.clone(),
        name: "party".into(),
        keys: keys.keys.iter().map(|k| k.key.thumbprint()).collect(),
    }
}

/// An invitation by `key` for itself and `others`.
fn bundle(key: &SigningKey, others: &[Did]) -> Bundle {
    let now = wall();
    let until = |minutes: i64| now.plus_seconds(60 * minutes);
    let mut parties = vec![party(&key.did())];
    parties.extend(others.iter().map(party));
    let draft = InvitationDraft {
        issuer: key.did(),
        title: "again".into(),
        purpose: String::new(),
        supersedes: None,
        parties,
        threshold: None,
        zero_threshold: false,
        prss: None,
        program: Program {
            manifest: ContentDigest::of(b"program"),
            entry: "income.py".into(),
            args: vec![],
            env: None,
        },
        engine: quorate_session::message::Engine::Mpyc,
        mpyc: "0.11".into(),
        python: "3.10".into(),
        word: 64,
        port: 11365,
        valid_from: now,
        valid_until: until(60),
        time: Times {
            join_by: until(20),
            start_by: until(30),
            end_by: until(60),
        },
        relays: vec![],
        path: quorate_session::message::PathPolicy::Any,
        same_controller: SameController::Refuse,
        rejoin: 3,
    };
    let secret = RendezvousSecret::new(random());
    let invitation = draft.build(random(), random(), &secret).unwrap();
    Bundle {
        invitation: sign(invitation, key).unwrap().text().to_string(),
        secret,
        hints: vec![],
        program: None,
    }
}

async fn waits(
    key: &SigningKey,
    contacts: &[Did],
    at: Vec<String>,
) -> (ReceiveHandle, Receiver<ReceiveEvent>) {
    let config = ReceiveConfig {
        reach: quorate_node::overlay::Reach::default(),
        key: key.clone(),
        contacts: contacts.to_vec(),
        scope: Scope::Local,
        at,
    };
    receive(config).await.unwrap()
}

async fn offers(
    key: &SigningKey,
    bundle: &Bundle,
    to: &[Did],
) -> (SendHandle, Receiver<SendEvent>) {
    let config = SendConfig {
        reach: quorate_node::overlay::Reach::default(),
        key: key.clone(),
        offers: to
            .iter()
            .map(|did| (did.clone(), bundle.encode()))
            .collect(),
        scope: Scope::Local,
        at: vec![],
    };
    send(config).await.unwrap()
}

async fn offer(events: &mut Receiver<ReceiveEvent>) -> (Did, Box<Bundle>) {
    loop {
        match timeout(SOON, events.recv())
            .await
            .expect("nothing came")
            .unwrap()
        {
            ReceiveEvent::Offer { from, bundle, .. } => return (from, bundle),
            ReceiveEvent::Refused(why) => panic!("{why}"),
            ReceiveEvent::Listening { .. }
            | ReceiveEvent::RelayRefused { .. }
            | ReceiveEvent::Note(_) => {}
        }
    }
}

async fn all_delivered(events: &mut Receiver<SendEvent>) {
    loop {
        match timeout(SOON, events.recv())
            .await
            .expect("nothing came")
            .unwrap()
        {
            SendEvent::AllDelivered => return,
            SendEvent::Refused(why) => panic!("{why}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contacts_that_wait_and_contacts_that_come_later_get_their_invitation() {
    let (noord, sud, ost) = (identity(), identity(), identity());
    let others = [sud.did(), ost.did()];
    let (early, mut early_events) = waits(&sud, &[noord.did()], vec![]).await;
    let bundle = bundle(&noord, &others);
    let (sender, mut sent) = offers(&noord, &bundle, &others).await;
    let (from, got) = offer(&mut early_events).await;
    assert_eq!((from, got.encode()), (noord.did(), bundle.encode()));
    let (late, mut late_events) = waits(&ost, &[sud.did(), noord.did()], vec![]).await;
    offer(&mut late_events).await;
    all_delivered(&mut sent).await;
    assert_eq!(sender.waiting().await, []);
    early.stop().await;
    late.stop().await;
    sender.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_leads_to_the_sender_too() {
    let (noord, sud) = (identity(), identity());
    let bundle = bundle(&noord, &[sud.did(), identity().did()]);
    let (sender, mut sent) = offers(&noord, &bundle, &[sud.did()]).await;
    let (receiver, mut events) = waits(&sud, &[noord.did()], sender.addresses().to_vec()).await;
    offer(&mut events).await;
    all_delivered(&mut sent).await;
    receiver.stop().await;
    sender.stop().await;
}

/// A stranger who uses the post on the same machine is met and told nothing; a contact is served at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_on_the_same_machine_learn_nothing() {
    let (noord, sud, eve) = (identity(), identity(), identity());
    let bundle = bundle(&noord, &[sud.did(), identity().did()]);
    // Eve lists everybody as a contact and has offers for everybody; nobody lists Eve.
    let everybody = [noord.did(), sud.did()];
    let (eve_waits, mut eve_hears) = waits(&eve, &everybody, vec![]).await;
    let foreign = self::bundle(&eve, &everybody);
    let (eve_sends, mut eve_sent) = offers(&eve, &foreign, &everybody).await;
    let (receiver, mut events) = waits(&sud, &[noord.did()], eve_sends.addresses().to_vec()).await;
    let (sender, mut sent) = offers(&noord, &bundle, &[sud.did()]).await;
    assert_eq!(offer(&mut events).await.0, noord.did());
    all_delivered(&mut sent).await;
    assert_eq!(eve_sends.waiting().await.len(), 2);
    for handle in [eve_waits, receiver] {
        handle.stop().await;
    }
    eve_sends.stop().await;
    sender.stop().await;
    while let Some(event) = eve_hears.recv().await {
        assert!(!matches!(event, ReceiveEvent::Offer { .. }));
    }
    while let Some(event) = eve_sent.recv().await {
        assert!(!matches!(
            event,
            SendEvent::Found { .. } | SendEvent::Delivered { .. }
        ));
    }
}
