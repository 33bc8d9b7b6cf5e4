//! Asking a relay what it is, and answering that: the protocol `/quorate/relay/1`.
//!
//! ```text
//!   ask(peer) ── stream ──►  relay: source() ── the announcement, end ──► Told(peer, announcement)
//! ```
//! Limits: [`MAX_ANSWERS`] answers at a time on a connection, more streams are dropped; a stream
//! takes [`ANNOUNCE_WAIT`] at most; what is read is bounded by `MAX_ANNOUNCEMENT_BYTES`.
//!
//! Security. Requires: the connection is authenticated. Provides: an announcement of exactly this
//! peer, or a refusal. Does not provide: that it is true.

use std::{
    collections::VecDeque,
    convert::Infallible,
    option,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, future,
    future::BoxFuture, stream::FuturesUnordered,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{
        Endpoint as Role,
        transport::PortUse,
        upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, Stream, SubstreamProtocol, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use quorate_session::{
    limits::MAX_ANNOUNCEMENT_BYTES,
    relay::{self, Announcement},
};
use tokio::time::timeout;

/// Time for one announcement, from the open stream to its end.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(5);
/// Answers that are being written on one connection.
const MAX_ANSWERS: usize = 2;
/// Questions that wait on one connection.
const MAX_QUESTIONS: usize = 2;

/// Makes the bytes of an announcement, whenever somebody asks.
pub(super) type Source = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// What came of a question.
#[derive(Debug)]
pub(super) struct Told {
    pub peer: PeerId,
    /// On which connection.
    pub connection: ConnectionId,
    /// The announcement, or why there is none.
    pub answer: Result<Announcement, String>,
}

/// Asks, and answers where there is something to say.
pub(super) struct Behaviour {
    source: Option<Source>,
    queue: VecDeque<ToSwarm<Told, Ask>>,
}

impl Behaviour {
    /// For a relay: answers with what `source` makes.
    pub fn answering(source: Source) -> Self {
        Self {
            source: Some(source),
            queue: VecDeque::new(),
        }
    }

    /// For everybody else.
    pub fn asking() -> Self {
        Self {
            source: None,
            queue: VecDeque::new(),
        }
    }

    /// Asks the peer at the other end of a connection; [`Told`] follows unless it is closed.
    pub fn ask(&mut self, peer: PeerId, connection: ConnectionId) {
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Ask,
        });
    }

    fn handler(&self) -> Handler {
        Handler {
            source: self.source.clone(),
            questions: 0,
            work: FuturesUnordered::new(),
            answers: 0,
            reports: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Told;

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

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        answer: Result<Announcement, String>,
    ) {
        self.queue.push_back(ToSwarm::GenerateEvent(Told {
            peer,
            connection,
            answer,
        }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Told, Ask>> {
        // Woken by the swarm: everything is queued from its own calls.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The behaviour's only order to a handler.
#[derive(Debug)]
pub(super) struct Ask;

/// The end of one stream.
enum Done {
    Answered,
    Told(Result<Announcement, String>),
}

/// The announcements of one connection.
pub(super) struct Handler {
    source: Option<Source>,
    questions: usize,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    answers: usize,
    reports: VecDeque<Result<Announcement, String>>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Ask;
    type ToBehaviour = Result<Announcement, String>;
    type InboundProtocol = Offer;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.source.is_some().then(protocol)), ())
    }

    fn on_behaviour_event(&mut self, _: Ask) {
        self.questions = (self.questions + 1).min(MAX_QUESTIONS);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        while let Poll::Ready(Some(done)) = self.work.poll_next_unpin(cx) {
            match done {
                Done::Answered => self.answers -= 1,
                Done::Told(answer) => self.reports.push_back(answer),
            }
        }
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        if self.questions > 0 {
            self.questions -= 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(protocol()), ()),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => {
                if let Some(source) = &self.source
                    && self.answers < MAX_ANSWERS
                {
                    self.answers += 1;
                    let answer = timeout(ANNOUNCE_WAIT, write(protocol, source()));
                    self.work.push(answer.map(|_| Done::Answered).boxed());
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => self.work.push(
                timeout(ANNOUNCE_WAIT, read(protocol))
                    .map(|told| {
                        Done::Told(told.unwrap_or_else(|_| Err("it does not answer".to_owned())))
                    })
                    .boxed(),
            ),
            ConnectionEvent::DialUpgradeError(_) => {
                let why = "it does not say what it is".to_owned();
                self.reports.push_back(Err(why));
            }
            _ => {}
        }
    }
}

fn protocol() -> StreamProtocol {
    StreamProtocol::new(relay::PROTOCOL)
}

async fn write(mut stream: Stream, bytes: Vec<u8>) -> std::io::Result<()> {
    stream.write_all(&bytes).await?;
    stream.close().await
}

async fn read(stream: Stream) -> Result<Announcement, String> {
    let mut bytes = Vec::new();
    let mut bounded = stream.take(MAX_ANNOUNCEMENT_BYTES as u64 + 1);
    let read = bounded.read_to_end(&mut bytes).await;
    read.map_err(|e| format!("its announcement broke off: {e}"))?;
    Announcement::parse(&bytes).map_err(|refusal| refusal.detail)
}

/// The protocol, where there is something to say.
#[derive(Debug, Clone)]
pub(super) struct Offer(Option<StreamProtocol>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl<C> InboundUpgrade<C> for Offer {
    type Output = C;
    type Error = Infallible;
    type Future = future::Ready<Result<C, Infallible>>;

    fn upgrade_inbound(self, stream: C, _: StreamProtocol) -> Self::Future {
        future::ready(Ok(stream))
    }
}
