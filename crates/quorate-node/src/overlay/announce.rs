//! Asking a relay what it is, and answering that: the protocol `/quorate/relay/1`.
//!
//! ```text
//!   ask(peer) ── stream ──►  relay: source() ── the announcement, end ──► Done(peer, announcement)
//! ```
//! Limits: those of [`exchange`](super::exchange); what is read is bounded by `MAX_ANNOUNCEMENT_BYTES`.
//!
//! Security. Requires: the connection is authenticated. Provides: an announcement of exactly this
//! peer, or a refusal. Does not provide: that it is true.

use std::sync::Arc;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{StreamProtocol, swarm::Stream};
use quorate_session::{
    limits::MAX_ANNOUNCEMENT_BYTES,
    relay::{self, Announcement},
};

use super::exchange::{Done, Exchange, Silence};

/// Makes the bytes of an announcement, whenever somebody asks.
pub(super) type Source = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// The announcement, or why there is none.
pub(super) type Answer = Result<Announcement, String>;

/// For everybody but relays.
pub(super) fn asking() -> Exchange<Answer> {
    Exchange::new(StreamProtocol::new(relay::PROTOCOL)).asking(|_, stream| read(stream))
}

/// For a relay: answers with what `source` makes.
pub(super) fn answering(source: Source) -> Exchange<Answer> {
    Exchange::new(StreamProtocol::new(relay::PROTOCOL)).serving(move |_, stream| {
        let bytes = source();
        async move {
            // Who does not read it does not want it.
            let _ = write(stream, bytes).await;
            None
        }
    })
}

/// What was said, or why nothing.
pub(super) fn told(done: Done<Answer>) -> Answer {
    done.result.unwrap_or_else(|silence| {
        Err(match silence {
            Silence::Foreign => "it does not say what it is".to_owned(),
            Silence::NoAnswer => "it does not answer".to_owned(),
        })
    })
}

async fn write(mut stream: Stream, bytes: Vec<u8>) -> std::io::Result<()> {
    stream.write_all(&bytes).await?;
    stream.close().await
}

async fn read(stream: Stream) -> Answer {
    let mut bytes = Vec::new();
    let mut bounded = stream.take(MAX_ANNOUNCEMENT_BYTES as u64 + 1);
    let read = bounded.read_to_end(&mut bytes).await;
    read.map_err(|e| format!("its announcement broke off: {e}"))?;
    Announcement::parse(&bytes).map_err(|refusal| refusal.detail)
}
