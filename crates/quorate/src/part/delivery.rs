//! Handing an invitation over to those it is for, while the inviter already waits for them.

use quorate_identity::Verified;
use quorate_node::post::{self, SendConfig, SendEvent, SendHandle};
use quorate_session::{Bundle, Invitation};
use tokio::sync::mpsc;

use super::{Options, User};
use crate::{failure::Failure, text};

/// The post of one invitation. Dropping it ends it.
pub struct Delivery {
    handle: Option<SendHandle>,
    events: mpsc::Receiver<SendEvent>,
    names: Vec<(quorate_identity::Did, String)>,
}

/// News of a delivery: an event for programs, a line for people.
pub struct News {
    pub did: quorate_identity::Did,
    pub line: String,
}

impl Delivery {
    /// Begins to look for the other parties.
    pub async fn begin(
        user: &User<'_>,
        invitation: &Verified<Invitation>,
        bundle: &Bundle,
        options: &Options,
    ) -> Result<Self, Failure> {
        let me = user.identity.key.did();
        let others = invitation.subject.parties.iter().filter(|p| p.did != me);
        let names: Vec<_> = others.map(|p| (p.did.clone(), p.name.clone())).collect();
        let text = bundle.encode();
        let (handle, events) = post::send(SendConfig {
            key: user.identity.key.clone(),
            offers: names
                .iter()
                .map(|(did, _)| (did.clone(), text.clone()))
                .collect(),
            scope: options.overlay_scope(),
            at: options.at.clone(),
            reach: options.reach.clone(),
        })
        .await?;
        Ok(Self {
            handle: Some(handle),
            events,
            names,
        })
    }

    /// The next thing worth saying; never ends once everything is delivered. May be given up at any time.
    pub async fn news(&mut self) -> News {
        while self.handle.is_some() {
            match self.events.recv().await {
                Some(SendEvent::Delivered { did }) => {
                    let name = self.names.iter().find(|(d, _)| *d == did);
                    let name = name.map_or("somebody", |(_, name)| name.as_str());
                    let line =
                        text::row("sent", &format!("{} has the invitation", text::name(name)));
                    return News { did, line };
                }
                Some(SendEvent::AllDelivered) | None => self.handle = None,
                Some(SendEvent::Note(note)) => tracing::info!(%note, "post"),
                Some(SendEvent::Refused(rejection)) => {
                    tracing::info!(code = %rejection.code, detail = %rejection.detail, "refused by the post");
                }
                Some(_) => {}
            }
        }
        std::future::pending().await
    }

    /// Waits until everybody has it.
    pub async fn until_delivered(&mut self, user: &User<'_>) -> Result<(), Failure> {
        for _ in 0..self.names.len() {
            let news = self.news().await;
            user.event("sent", &[("did", news.did.to_string().into())]);
            user.show([news.line]);
        }
        Ok(())
    }

    /// Ends it, and waits until everything is gone.
    pub async fn stop(self) {
        if let Some(handle) = self.handle {
            handle.stop().await;
        }
    }
}
