//! What the cores of first contact have in common: the lobby's host and applicant, the post's sender and receiver.
//!
//! ```text
//!   link up, frame, link down, time ──► core ──► frames to send, links to close, events
//! ```
//! The driver's law is that of the session: one change, then drain every `poll_*`, then sleep until `poll_timeout`.
//!
//! Limits: [`MAX_CONTACT_EVENTS`] waiting events, beyond which the oldest refusal is dropped; frames and closings wait only
//! until the driver drains them after the same call, and one call makes at most one per link.

use crate::{
    limits::{MAX_CONTACT_EVENTS, MAX_NOTE_CHARS},
    link::LinkId,
    message::is_unprintable,
    peer_id::PeerId,
};
use quorate_identity::{
    Code, Did, DidKeyResolver, Rejection, ResolvedDid, Resolver, UnixTime, json,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::VecDeque, time::Instant};

/// A core that speaks over links of one overlay.
pub trait Contact {
    /// What it tells its user.
    type Event;

    /// A link with `remote`, whose PeerId the transport authenticated, is up.
    fn handle_link_up(&mut self, link: LinkId, remote: PeerId, now: Instant);
    /// One whole frame arrived.
    fn handle_frame(&mut self, link: LinkId, bytes: &[u8], at: UnixTime, now: Instant);
    /// A link is gone.
    fn handle_link_down(&mut self, link: LinkId, now: Instant);
    /// Time passed.
    fn handle_timeout(&mut self, now: Instant);
    /// The next frame to send.
    fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)>;
    /// The next link to close, once what was sent on it is gone.
    fn poll_close(&mut self) -> Option<Closing>;
    /// The next thing to tell the user.
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// When [`handle_timeout`](Self::handle_timeout) has something to do, and what.
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;
}

/// A link that is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Which.
    pub link: LinkId,
    /// The other end misbehaved, so that it need not be let in again soon.
    pub ban: bool,
}

/// What a core wants done.
#[derive(Debug)]
pub(crate) struct Outbox<E> {
    pub transmits: VecDeque<(LinkId, Vec<u8>)>,
    pub closings: VecDeque<Closing>,
    events: VecDeque<E>,
}

impl<E> Outbox<E> {
    pub fn new() -> Self {
        Self {
            transmits: VecDeque::new(),
            closings: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub fn send(&mut self, link: LinkId, frame: &impl Serialize) {
        let bytes = serde_json::to_vec(frame);
        debug_assert!(
            bytes.is_ok(),
            "a frame holds strings, numbers and lists only"
        );
        self.transmits.push_back((link, bytes.unwrap_or_default()));
    }

    pub fn close(&mut self, link: LinkId, ban: bool) {
        self.closings.push_back(Closing { link, ban });
    }

    /// Queues an event; when nobody takes them, the oldest one that `droppable` allows makes room.
    pub fn tell(&mut self, event: E, droppable: impl Fn(&E) -> bool) {
        if self.events.len() >= MAX_CONTACT_EVENTS
            && let Some(oldest) = self.events.iter().position(droppable)
        {
            self.events.remove(oldest);
        }
        self.events.push_back(event);
    }

    pub fn poll_event(&mut self) -> Option<E> {
        self.events.pop_front()
    }
}

/// Reads one frame of a kind of its own, in its one form.
pub(crate) fn read_frame<F: Serialize + DeserializeOwned>(
    bytes: &[u8],
    max_bytes: usize,
    rule: &'static str,
) -> Result<F, Rejection> {
    if bytes.len() > max_bytes {
        let text = format!("a frame is larger than {} KiB", max_bytes / 1024);
        return Err(Rejection::new(Code::Limit, rule, text));
    }
    let value = json::parse_strict(bytes)?;
    let frame: F = serde_json::from_value(value.clone())
        .map_err(|e| Rejection::new(Code::Format, rule, format!("not a frame: {e}")))?;
    if serde_json::to_value(&frame).ok().as_ref() != Some(&value) {
        let text = "not a frame: not in its one form";
        return Err(Rejection::new(Code::Format, rule, text));
    }
    Ok(frame)
}

/// The keys of `did`, as far as this version can find them without asking anybody.
pub(crate) fn resolve(did: &Did) -> Result<ResolvedDid, Rejection> {
    DidKeyResolver.resolve(did).unwrap_or_else(|| {
        let text = format!("{did} cannot be resolved: only did:key is supported by this version");
        Err(Rejection::new(Code::DidResolve, "D3", text).about(did.clone()))
    })
}

/// A text of our own for the other end, within what it takes.
pub(crate) fn note(text: &str) -> String {
    let plain = text.chars().filter(|c| !is_unprintable(*c));
    plain.take(MAX_NOTE_CHARS).collect()
}
