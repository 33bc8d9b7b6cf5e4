//! Whether the other end of a connection still answers: the protocol `/ipfs/ping/1.0.0`, asked often.
//!
//! ```text
//!   every PULSE_INTERVAL: 32 random bytes ──────────────► the same bytes back
//!                         ◄────────────── Answered(round trip)
//!   no answer: Silent(for how long), every second until there is one
//! ```
//! A network that changed takes a connection with it and tells neither end: QUIC of libp2p does not follow an address that
//! moved, and TCP waits for minutes. libp2p's own ping forgives the first failure and gives the next stream ten seconds,
//! which is longer than a session waits for a party. Here the owner hears how long there was no answer, and decides: what
//! else arrived from there counts as well. Time in which this process stood still is no silence of the other end, so the
//! seconds are counted in which it could have heard an answer.
//!
//! Limits: one stream each way; a new one of the peer replaces the one before. A peer without this protocol is never
//! reported.
//!
//! Security. Requires: the connection is authenticated. Provides: an answer carries what was asked, so that nobody is nearer
//! than it is. Does not provide: that a peer answers as fast as it could.
//!
//! Source: libp2p specifications, "ping".

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, future::BoxFuture,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint as Role, transport::PortUse, upgrade::ReadyUpgrade},
    ping::PROTOCOL_NAME,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, Stream, StreamUpgradeError, SubstreamProtocol, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::time::{Sleep, sleep};

/// Time between an answer and the next question.
pub const PULSE_INTERVAL: Duration = Duration::from_secs(1);
/// How often a silence is reported while it lasts.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a question.
const PING_BYTES: usize = 32;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It was answered within this time.
    Answered(Duration),
    /// It has not been answered for this long.
    Silent(Duration),
}

/// A sign of one connection.
#[derive(Debug)]
pub(super) struct Event {
    pub peer: PeerId,
    pub connection: ConnectionId,
    pub sign: Sign,
}

/// Asks and answers on every connection.
#[derive(Default)]
pub(super) struct Behaviour {
    queue: VecDeque<Event>,
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Role,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, sign: Sign) {
        self.queue.push_back(Event {
            peer,
            connection,
            sign,
        });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, Infallible>> {
        // Woken by the swarm: everything is queued from its own calls.
        match self.queue.pop_front() {
            Some(event) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            None => Poll::Pending,
        }
    }
}

/// What goes on with our questions.
enum Asking {
    /// A stream is to be opened when the time has come.
    Due,
    Opening,
    Idle(Stream),
    Asked(BoxFuture<'static, io::Result<Stream>>),
    /// The peer does not know the protocol.
    Never,
}

/// The questions and answers of one connection.
pub(super) struct Handler {
    asking: Asking,
    answering: Option<BoxFuture<'static, io::Result<Stream>>>,
    /// When the next question is due.
    next: Pin<Box<Sleep>>,
    /// When the present question left.
    left: Instant,
    /// How long there has been no answer, and when that is reported next.
    silent: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Handler {
    fn new() -> Self {
        Self {
            asking: Asking::Due,
            answering: None,
            next: Box::pin(sleep(Duration::ZERO)),
            left: Instant::now(),
            silent: None,
        }
    }

    fn wait(&mut self) {
        let at = tokio::time::Instant::now() + PULSE_INTERVAL;
        self.next.as_mut().reset(at);
    }

    fn expect(&mut self) {
        self.left = Instant::now();
        self.silent
            .get_or_insert_with(|| (Duration::ZERO, Box::pin(sleep(REPORT_INTERVAL))));
    }

    fn poll_asking(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Sign>> {
        loop {
            let due = |next: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>| {
                next.is_elapsed() || next.as_mut().poll(cx).is_ready()
            };
            match std::mem::replace(&mut self.asking, Asking::Opening) {
                Asking::Due if due(&mut self.next, cx) => {
                    self.expect();
                    return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                        protocol: self.listen_protocol(),
                    });
                }
                Asking::Idle(stream) if due(&mut self.next, cx) => {
                    self.expect();
                    self.asking = Asking::Asked(ask(stream).boxed());
                }
                Asking::Asked(mut question) => match question.poll_unpin(cx) {
                    Poll::Pending => {
                        self.asking = Asking::Asked(question);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(stream)) => {
                        self.asking = Asking::Idle(stream);
                        self.silent = None;
                        self.wait();
                        let sign = Sign::Answered(self.left.elapsed());
                        return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(sign));
                    }
                    Poll::Ready(Err(_)) => {
                        self.asking = Asking::Due;
                        self.wait();
                    }
                },
                other => {
                    self.asking = other;
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Option<Sign> {
        let (lasts, report) = self.silent.as_mut()?;
        if report.as_mut().poll(cx).is_pending() {
            return None;
        }
        *lasts += REPORT_INTERVAL;
        let at = tokio::time::Instant::now() + REPORT_INTERVAL;
        report.as_mut().reset(at);
        // So that it wakes us.
        let _ = report.as_mut().poll(cx);
        Some(Sign::Silent(*lasts))
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Sign;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL_NAME), ())
    }

    fn on_behaviour_event(&mut self, order: Infallible) {
        match order {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Sign>> {
        while let Some(answering) = &mut self.answering {
            match answering.poll_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(stream)) => self.answering = Some(answer(stream).boxed()),
                Poll::Ready(Err(_)) => self.answering = None,
            }
        }
        if let Poll::Ready(event) = self.poll_asking(cx) {
            return Poll::Ready(event);
        }
        match self.poll_silence(cx) {
            Some(sign) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(sign)),
            None => Poll::Pending,
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.answering = Some(answer(stream).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.left = Instant::now();
                self.asking = Asking::Asked(ask(stream).boxed());
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                if matches!(error, StreamUpgradeError::<Infallible>::NegotiationFailed) {
                    self.asking = Asking::Never;
                    self.silent = None;
                } else {
                    self.asking = Asking::Due;
                    self.wait();
                }
            }
            _ => {}
        }
    }
}

/// Comes back when the question was answered.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<S> {
    let mut question = [0; PING_BYTES];
    getrandom::fill(&mut question).map_err(io::Error::other)?;
    stream.write_all(&question).await?;
    stream.flush().await?;
    let mut answer = [0; PING_BYTES];
    stream.read_exact(&mut answer).await?;
    if answer == question {
        Ok(stream)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Comes back when one question was answered.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<S> {
    let mut question = [0; PING_BYTES];
    stream.read_exact(&mut question).await?;
    stream.write_all(&question).await?;
    stream.flush().await?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::lanes::tests::Duplex;

    #[tokio::test]
    async fn a_question_is_answered_with_what_it_said() {
        let (one, other) = tokio::io::duplex(64);
        let (asked, answered) = tokio::join!(ask(Duplex::from(one)), answer(Duplex::from(other)));
        assert!(asked.is_ok() && answered.is_ok());
    }

    #[tokio::test]
    async fn another_answer_is_none() {
        let (one, other) = tokio::io::duplex(64);
        let mut other = Duplex::from(other);
        let forged = async {
            let mut question = [0; PING_BYTES];
            other.read_exact(&mut question).await?;
            question[0] ^= 1;
            other.write_all(&question).await
        };
        let (asked, forged) = tokio::join!(ask(Duplex::from(one)), forged);
        assert!(forged.is_ok());
        assert_eq!(
            asked.err().map(|e| e.kind()),
            Some(io::ErrorKind::InvalidData)
        );
    }
}
