//! Short exchanges, one per stream: a libp2p behaviour for protocols in which one end asks and the other one answers.
//!
//! ```text
//!   ask(peer, connection) ── stream ──► the function for our streams ──► Done(peer, connection, result)
//!   a stream of the peer, where we serve ──► the function for theirs ──► Done, if it says so
//! ```
//! What is said is in those functions; they run in the task of the swarm.
//!
//! Limits: [`EXCHANGE_WAIT`] for one; [`MAX_ANSWERS`] at a time and [`MAX_SERVED`] in all
//! of a connection are served, more streams are dropped.
//!
//! Security. Requires: the connection is authenticated. Provides: what a result says was said by this peer.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint as Role, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, Stream, ToSwarm,
    },
};
use tokio::time::timeout;

use super::streams::{Handler, Open, Report};

/// Time for one exchange, from the open stream to its end.
const EXCHANGE_WAIT: Duration = Duration::from_secs(5);
/// Exchanges that are served on one connection at a time.
const MAX_ANSWERS: usize = 2;
/// Exchanges that are served on one connection in all.
const MAX_SERVED: usize = 64;

/// Why an exchange has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The peer does not speak the protocol.
    Foreign,
    /// It does not answer, or not in time.
    NoAnswer,
}

/// What came of an exchange.
#[derive(Debug)]
pub(super) struct Done<T> {
    pub peer: PeerId,
    /// On which connection.
    pub connection: ConnectionId,
    pub result: Result<T, Silence>,
}

type Asking<T> = dyn Fn(PeerId, Stream) -> BoxFuture<'static, T> + Send;
type Serving<T> = dyn Fn(PeerId, Stream) -> BoxFuture<'static, Option<T>> + Send;
type Work<T> = BoxFuture<'static, (ConnectionId, bool, Option<Done<T>>)>;

#[derive(Default)]
struct Served {
    now: usize,
    all: usize,
}

/// The exchanges of one protocol.
pub(super) struct Exchange<T> {
    protocol: StreamProtocol,
    asking: Option<Box<Asking<T>>>,
    serving: Option<Box<Serving<T>>>,
    served: HashMap<ConnectionId, Served>,
    queue: VecDeque<ToSwarm<Done<T>, Open>>,
    work: FuturesUnordered<Work<T>>,
}

impl<T: fmt::Debug + Send + 'static> Exchange<T> {
    /// One that neither asks nor serves.
    pub fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            asking: None,
            serving: None,
            served: HashMap::new(),
            queue: VecDeque::new(),
            work: FuturesUnordered::new(),
        }
    }

    /// Does this on streams of ours.
    pub fn asking<F>(mut self, ask: impl Fn(PeerId, Stream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.asking = Some(Box::new(move |peer, stream| ask(peer, stream).boxed()));
        self
    }

    /// Does this on streams of others.
    pub fn serving<F>(mut self, serve: impl Fn(PeerId, Stream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        self.serving = Some(Box::new(move |peer, stream| serve(peer, stream).boxed()));
        self
    }

    /// Asks the peer at the other end of a connection; [`Done`] follows unless it is closed.
    pub fn ask(&mut self, peer: PeerId, connection: ConnectionId) {
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Open,
        });
    }

    fn handler(&self) -> Handler {
        Handler::new(self.protocol.clone(), self.serving.is_some())
    }

    fn begin(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream, inbound: bool) {
        let result = if inbound {
            let served = self.served.entry(connection).or_default();
            let Some(serve) = &self.serving else {
                return;
            };
            if served.now >= MAX_ANSWERS || served.all >= MAX_SERVED {
                return;
            }
            served.now += 1;
            served.all += 1;
            timeout(EXCHANGE_WAIT, serve(peer, stream))
                .map(|done| done.ok().flatten().map(Ok))
                .boxed()
        } else {
            let Some(ask) = &self.asking else {
                return;
            };
            timeout(EXCHANGE_WAIT, ask(peer, stream))
                .map(|done| Some(done.map_err(|_| Silence::NoAnswer)))
                .boxed()
        };
        let done = result.map(move |result| {
            let done = result.map(|result| Done {
                peer,
                connection,
                result,
            });
            (connection, inbound, done)
        });
        self.work.push(done.boxed());
    }
}

impl<T: fmt::Debug + Send + 'static> NetworkBehaviour for Exchange<T> {
    type ConnectionHandler = Handler;
    type ToSwarm = Done<T>;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.served.remove(&closed.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        report: Report,
    ) {
        match report {
            Report::Opened { stream, inbound } => self.begin(peer, connection, stream, inbound),
            Report::Failed { foreign } => {
                let why = if foreign {
                    Silence::Foreign
                } else {
                    Silence::NoAnswer
                };
                self.queue.push_back(ToSwarm::GenerateEvent(Done {
                    peer,
                    connection,
                    result: Err(why),
                }));
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Done<T>, Open>> {
        if let Some(next) = self.queue.pop_front() {
            return Poll::Ready(next);
        }
        while let Poll::Ready(Some((connection, served, done))) = self.work.poll_next_unpin(cx) {
            if served && let Some(served) = self.served.get_mut(&connection) {
                served.now -= 1;
            }
            if let Some(done) = done {
                return Poll::Ready(ToSwarm::GenerateEvent(done));
            }
        }
        // Woken by the work, or by the swarm: everything else is queued from its own calls.
        Poll::Pending
    }
}
