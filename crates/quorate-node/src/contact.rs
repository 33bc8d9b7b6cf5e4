//! The loop that drives the cores of first contact: lobby and post.
//!
//! ```text
//!   overlay ──links, frames──►┌──────┐──frames, closings──► overlay
//!    handle ──orders─────────►│ core │──events────────────► caller
//!     clock ─────────────────►└──────┘
//! ```
//! One input, then everything the core wants done, then sleep until the next input or the core's deadline.
//!
//! Limits: [`ORDER_QUEUE`] orders, [`EVENT_QUEUE`] events for the caller; while [`EVENT_BACKLOG`] more wait because it takes
//! none, nothing is read from the network. Everything made here is gone when the loop ends: it ends when its handle is
//! stopped or dropped, or when nobody takes events any more.

use std::collections::VecDeque;

use quorate_identity::{Code, UnixTime};
use quorate_session::{Closing, Contact, LinkId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{
    Fault,
    overlay::{Overlay, OverlayConfig, OverlayEvent},
    party::clock,
};

/// Orders waiting for the loop.
const ORDER_QUEUE: usize = 64;
/// Events waiting for the caller.
pub const EVENT_QUEUE: usize = 64;
/// Events held back while that queue is full.
const EVENT_BACKLOG: usize = 1024;

/// Something to do with the core.
type Order<C> = Box<dyn FnOnce(&mut C, UnixTime, std::time::Instant) + Send>;

/// What the loop itself tells.
pub(crate) enum Notice {
    /// The overlay listens on this address.
    Listening(String),
    /// A link is up, over this address.
    LinkUp(String),
    /// A relay does not let us in: its `PeerId`, why, and the same for a person.
    RelayRefused(String, Code, String),
    /// Something a person may want to know.
    Note(String),
}

/// Turns what core and loop tell into what the caller takes; `None` for what it need not know.
pub(crate) trait Told<C: Contact>: Send + Sized + 'static {
    fn event(event: C::Event) -> Option<Self>;
    fn notice(notice: Notice) -> Option<Self>;
}

/// The running loop, seen from outside.
pub(crate) struct Running<C: Contact> {
    orders: mpsc::Sender<Order<C>>,
    task: JoinHandle<()>,
}

impl<C: Contact + Send + 'static> Running<C> {
    /// Does something with the core and returns its answer; `None` when the loop has ended.
    pub async fn order<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut C, UnixTime, std::time::Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let order: Order<C> = Box::new(move |core, at, now| {
            // Nobody waits for the answer when the caller was dropped.
            let _ = answer.send(what(core, at, now));
        });
        self.orders.send(order).await.ok()?;
        answered.await.ok()
    }

    /// Sends what is queued, closes everything, and waits until it is gone.
    pub async fn stop(self) {
        drop(self.orders);
        let _ = self.task.await;
    }
}

/// Opens the overlay.
pub(crate) async fn open(
    config: OverlayConfig,
) -> Result<(Overlay, mpsc::Receiver<OverlayEvent>), Fault> {
    Overlay::start(config)
        .await
        .map_err(|e| Fault::new(Code::Port, format!("no overlay could be opened: {e}")))
}

/// Random bytes of the operating system.
pub(crate) fn random() -> Result<[u8; 32], Fault> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| {
        Fault::new(
            Code::Internal,
            format!("the system's random generator failed: {e}"),
        )
    })?;
    Ok(bytes)
}

/// Starts the loop.
pub(crate) fn run<C, E>(
    core: C,
    overlay: Overlay,
    incoming: mpsc::Receiver<OverlayEvent>,
) -> (Running<C>, mpsc::Receiver<E>)
where
    C: Contact + Send + 'static,
    E: Told<C>,
{
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    let (orders, taken) = mpsc::channel(ORDER_QUEUE);
    let shell = Loop {
        core,
        overlay,
        incoming,
        orders: taken,
        events,
        backlog: VecDeque::new(),
    };
    let task = tokio::spawn(shell.run());
    (Running { orders, task }, receiver)
}

struct Loop<C: Contact, E> {
    core: C,
    overlay: Overlay,
    incoming: mpsc::Receiver<OverlayEvent>,
    orders: mpsc::Receiver<Order<C>>,
    events: mpsc::Sender<E>,
    backlog: VecDeque<E>,
}

impl<C: Contact, E: Told<C>> Loop<C, E> {
    async fn run(mut self) {
        let events = self.events.clone();
        loop {
            self.drain();
            let due = self
                .core
                .poll_timeout()
                .map(|(at, _)| Instant::from_std(at));
            tokio::select! {
                event = self.incoming.recv(), if self.backlog.len() < EVENT_BACKLOG => match event {
                    Some(event) => self.on_overlay(event),
                    None => break,
                },
                order = self.orders.recv() => match order {
                    Some(order) => order(&mut self.core, clock::wall(), clock::now()),
                    None => break,
                },
                permit = events.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.backlog.pop_front() {
                        permit.send(event);
                    },
                    Err(_) => break,
                },
                () = sleep_or_never(due) => self.core.handle_timeout(clock::now()),
                () = events.closed() => break,
            }
        }
        self.drain();
        self.overlay.stop().await;
    }

    fn drain(&mut self) {
        while let Some((link, frame)) = self.core.poll_transmit() {
            if !self.overlay.send(link.0, frame) {
                // Its queue is full, or it is gone: over a new link it begins anew.
                self.overlay.drop_link(link.0);
            }
        }
        while let Some(Closing { link, ban }) = self.core.poll_close() {
            if ban {
                self.overlay.close_link(link.0);
            } else {
                self.overlay.drop_link(link.0);
            }
        }
        while let Some(event) = self.core.poll_event() {
            self.backlog.extend(E::event(event));
        }
    }

    fn on_overlay(&mut self, event: OverlayEvent) {
        let now = clock::now();
        match event {
            OverlayEvent::LinkUp {
                link,
                peer,
                address,
                ..
            } => match peer.parse() {
                Ok(peer) => {
                    self.backlog.extend(E::notice(Notice::LinkUp(address)));
                    self.core.handle_link_up(LinkId(link), peer, now);
                }
                // The overlay has Ed25519 identities only; anything else is none of ours.
                Err(_) => self.overlay.close_link(link),
            },
            OverlayEvent::Frame { link, bytes } => {
                self.core
                    .handle_frame(LinkId(link), &bytes, clock::wall(), now);
            }
            OverlayEvent::LinkDown { link } => self.core.handle_link_down(LinkId(link), now),
            OverlayEvent::Listening { address } => {
                self.backlog.extend(E::notice(Notice::Listening(address)));
            }
            // The address that it gives us is told as one that is listened on.
            OverlayEvent::Relay(_) | OverlayEvent::Gone { .. } | OverlayEvent::Reachable { .. } => {
            }
            OverlayEvent::RelayRefused { relay, code, text } => {
                let notice = Notice::RelayRefused(relay, code, text);
                self.backlog.extend(E::notice(notice));
            }
            OverlayEvent::Note(text) => self.backlog.extend(E::notice(Notice::Note(text))),
        }
    }
}

async fn sleep_or_never(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
