//! Relays that are known by name.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use libp2p::PeerId;
use quorate_node::overlay::{Names, Teller};

use super::{Start, relay};

/// The address of a relay with a name in place of the IP address.
fn named(address: &str, host: &str) -> String {
    address.replacen("/ip4/127.0.0.1", &format!("/dns4/{host}"), 1)
}

#[tokio::test]
async fn a_relay_is_known_by_name_and_a_hint_over_it_leads_to_where_it_is() {
    let (relay, address) = relay("north").await;
    // As the system knows it.
    let name = named(&address, "localhost");
    let mut b = Start::over(&[&name]).go().await;
    b.reserved(1).await;
    let hint = format!("{name}/p2p-circuit/p2p/{}", b.overlay.peer_id());
    let hints = vec![hint];
    let start = Start {
        hints,
        ..Start::over(&[&name])
    };
    let mut a = start.go().await;
    let (_, peer, at) = a.up().await;
    assert_eq!(peer, b.overlay.peer_id());
    assert!(at.starts_with("/ip4/127.0.0.1/tcp/"), "{at}");
    assert!(at.contains("/p2p-circuit"), "{at}");
    b.up().await;
    // Others are told where it is, not what it is called.
    let told: Vec<String> = b.circuits();
    assert_eq!(
        told,
        [format!("{address}/p2p-circuit/p2p/{}", b.overlay.peer_id())]
    );
    while a.relays[0].stun.is_empty() {
        a.event().await;
    }
    assert!(a.relays[0].stun.iter().all(|s| s.ip().is_loopback()));
    assert_eq!(a.relays[0].address, address);
    drop(relay);
}

#[tokio::test]
async fn a_relay_that_moved_is_found_by_its_name_and_names_without_answer_hold_up_nobody() {
    let (_relay, address) = relay("north").await;
    let (_other, written) = relay("south").await;
    let moved = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&moved);
    let names = Names::by(move |host| {
        let now = Arc::clone(&now);
        Box::pin(async move {
            match &host[..] {
                "moves.localhost" if now.load(Ordering::Relaxed) => Ok(vec![[127, 0, 0, 1].into()]),
                // Nobody listens there.
                "moves.localhost" => Ok(vec![[127, 0, 0, 9].into()]),
                "gone.localhost" => Err("no such name".into()),
                _ => std::future::pending().await,
            }
        })
    });
    let other = |host: &str| format!("/dns4/{host}/tcp/1/p2p/{}", PeerId::random());
    let (silent, gone) = (other("silent.localhost"), other("gone.localhost"));
    let all = [
        &silent[..],
        &gone,
        &named(&address, "moves.localhost"),
        &written,
    ];
    let start = Start {
        names,
        ..Start::over(&all)
    };
    let mut a = start.go().await;
    a.reserved(1).await;
    assert_eq!(
        a.relays.iter().find(|r| r.reserved).unwrap().address,
        written
    );
    a.noted("moves.localhost cannot be reached").await;
    a.noted("the name gone.localhost is not found: no such name. See what `getent")
        .await;
    moved.store(true, Ordering::Relaxed);
    a.reserved(2).await;
    assert!(a.relays.iter().any(|r| r.reserved && r.address == address));
    a.noted("no answer about the name silent.localhost within 5 s")
        .await;
}

#[tokio::test]
async fn a48_names_in_the_word_of_others_are_never_looked_up() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let names = Names::by(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(vec![[127, 0, 0, 1].into()]) })
    });
    let start = Start {
        names,
        ..Start::default()
    };
    let mut a = start.go().await;
    let (relay, party) = (PeerId::random().to_string(), PeerId::random().to_string());
    let direct = "/dns4/victim.localhost/tcp/80".to_owned();
    let through = format!("/dns4/victim.localhost/tcp/80/p2p/{relay}/p2p-circuit");
    let all = vec![
        direct.clone(),
        through.clone(),
        format!("{through}/p2p/{party}"),
    ];
    a.overlay.parties(vec![party.clone()]);
    for teller in [Teller::Party(1), Teller::Record(1)] {
        a.overlay.learn(teller, party.clone(), all.clone());
    }
    a.overlay.party_relay(party.clone(), all.clone());
    // An unsigned hint may name none either.
    a.overlay.dial(direct);
    a.noted("only names of relays are looked up").await;
    a.overlay.dial(format!("{through}/p2p/{party}"));
    a.noted("neither you nor the invitation names this relay")
        .await;
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
