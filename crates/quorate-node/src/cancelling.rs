//! Telling the parties of a session that it is cancelled, by an organizer whose own part does not run.
//!
//! ```text
//! overlay of the session ─ links ─► Canceller (pure) ─► told{party} … ─► enough: all told, or [`AFTER_FIRST`] after one was,
//!                                                                        or nobody answers for `patience`
//! ```
//! A party that was told stops, and tells all others itself: they end without a word to us.
//!
//! Limits: [`AFTER_FIRST`], and those of overlay and links.
//!
//! Security: see `quorate_session::Canceller`.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use quorate_identity::{Code, DidKeyResolver, Resolver, SigningKey, Verified};
use quorate_session::{
    CancelEvent, CancelSetup, Canceller, Invitation, LinkId, PeerId, Pid, RendezvousSecret,
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{
    Fault,
    overlay::{Overlay, OverlayConfig, OverlayEvent},
    party::{Scope, clock},
};

/// How long others are looked for after one party was told: it tells them itself.
pub const AFTER_FIRST: Duration = Duration::from_secs(3);

/// What a cancel needs.
pub struct CancelConfig {
    /// The organizer's key.
    pub key: SigningKey,
    /// What is withdrawn.
    pub invitation: Verified<Invitation>,
    /// The secret that went with it.
    pub secret: RendezvousSecret,
    /// Addresses to try.
    pub addresses: Vec<String>,
    /// Why, in words.
    pub reason: String,
    /// Which networks may be used.
    pub scope: Scope,
    /// Through which relays.
    pub reach: crate::overlay::Reach,
    /// How long parties are looked for.
    pub patience: Duration,
}

/// Who heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancelled {
    /// The signed cancel.
    pub statement: String,
    /// Parties that said that they have it.
    pub told: Vec<Pid>,
    /// Parties that did not say so to us; they may have heard it from others.
    pub untold: Vec<Pid>,
}

/// Tells whoever can be reached. `kept` gets the signed cancel before anybody hears of it; `stop` ends the search.
pub async fn cancel(
    config: CancelConfig,
    kept: impl FnOnce(&str) -> Result<(), Fault>,
    stop: impl Future<Output = ()>,
) -> Result<Cancelled, Fault> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| {
        Fault::new(
            Code::Internal,
            format!("the system's random generator failed: {e}"),
        )
    })?;
    let parties = &config.invitation.subject.parties;
    let resolved = parties
        .iter()
        .filter_map(|party| DidKeyResolver.resolve(&party.did)?.ok());
    let reach = config.reach.shown_by(&config.key);
    let setup = CancelSetup {
        parties: resolved.collect(),
        invitation: config.invitation.clone(),
        secret: RendezvousSecret::new(*config.secret.as_bytes()),
        key: config.key,
        reason: config.reason,
        seed: *seed,
    };
    let mut canceller = Canceller::new(setup, clock::wall(), clock::now())?;
    kept(canceller.text())?;
    let overlay = OverlayConfig {
        secret: Zeroizing::new(*canceller.overlay_secret()),
        scope: config.scope.into(),
        beacon_key: config.secret.derive("beacon"),
        hints: config.addresses,
        reach: reach.with_relays_of(&config.invitation.subject.rendezvous.relays),
        purpose: crate::overlay::Purpose::Session,
    };
    let (overlay, events) = Overlay::start(overlay)
        .await
        .map_err(|e| Fault::new(Code::Port, format!("no overlay could be opened: {e}")))?;
    overlay.expect_links(parties.len());
    search(&mut canceller, &overlay, events, config.patience, stop).await;
    overlay.stop().await;
    Ok(Cancelled {
        statement: canceller.text().to_owned(),
        told: canceller.told().iter().copied().collect(),
        untold: canceller.untold(),
    })
}

async fn search(
    canceller: &mut Canceller,
    overlay: &Overlay,
    mut events: mpsc::Receiver<OverlayEvent>,
    patience: Duration,
    stop: impl Future<Output = ()>,
) {
    let mut end = Instant::now() + patience;
    tokio::pin!(stop);
    while !canceller.untold().is_empty() {
        while let Some((link, frame)) = canceller.poll_transmit() {
            // What finds no room is said again.
            overlay.send(link.0, frame);
        }
        while let Some(event) = canceller.poll_event() {
            match event {
                CancelEvent::Told(_) => end = end.min(Instant::now() + AFTER_FIRST),
                CancelEvent::Refused(rejection) => tracing::info!(%rejection, "refused"),
                CancelEvent::CloseLink { link, ban: true } => overlay.close_link(link.0),
                CancelEvent::CloseLink { link, ban: false } => overlay.drop_link(link.0),
            }
        }
        let repeat = canceller.poll_timeout().map_or(end, |(at, _)| at);
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => hear(canceller, overlay, event),
                None => return,
            },
            () = tokio::time::sleep_until(repeat.into()) => canceller.handle_timeout(clock::wall(), clock::now()),
            () = tokio::time::sleep_until(end.into()) => return,
            () = &mut stop => return,
        }
    }
}

fn hear(canceller: &mut Canceller, overlay: &Overlay, event: OverlayEvent) {
    let (at, now) = (clock::wall(), clock::now());
    match event {
        OverlayEvent::LinkUp { link, peer, .. } => match peer.parse::<PeerId>() {
            Ok(remote) => canceller.handle_link_up(LinkId(link), remote, at, now),
            Err(_) => overlay.close_link(link),
        },
        OverlayEvent::Frame { link, bytes } => {
            canceller.handle_message(LinkId(link), &bytes, at, now);
        }
        OverlayEvent::LinkDown { link } => canceller.handle_link_down(LinkId(link), now),
        OverlayEvent::Listening { .. }
        | OverlayEvent::Gone { .. }
        | OverlayEvent::Relay(_)
        | OverlayEvent::Reachable { .. }
        | OverlayEvent::RelayRefused { .. }
        | OverlayEvent::Note(_) => {}
    }
}
