//! Showing a DID to a relay with a list, and asking for one: the protocol `/quorate/relay-pass/1`.
//!
//! ```text
//!   party, on a connection with a relay that its user named for it         relay with a list
//!   ask ── stream ──► challenge ──► pass ──► "ok": reservation and circuits ──► places.let_in
//! ```
//! What is said, and how it is judged, is in `quorate_session::relay_pass`.
//!
//! Limits: those of [`exchange`](super::exchange) and of the session's module.
//!
//! Security. Requires: the connection is authenticated; the list is what the operator wrote. Provides: a party's DID goes to
//! the named relays only, and a relay lets nobody in who did not prove a DID of its list on a connection of that PeerId.

use std::{collections::HashSet, sync::Arc};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, StreamProtocol, swarm::Stream};
use quorate_identity::{Code, Did, Rejection, SigningKey};
use quorate_session::{
    PeerId as Pid,
    limits::{MAX_PASS_ANSWER_BYTES, MAX_PASS_BYTES},
    relay_pass::{self, Asked, CHALLENGE_BYTES, read_verdict, verdict},
};

use super::exchange::Exchange;
use crate::party::clock;

/// Let in, or why not.
pub(super) type Answer = Result<(), Rejection>;

const PROTOCOL: StreamProtocol = StreamProtocol::new(relay_pass::PROTOCOL);

/// For a party: shows the DID of `key`, if there is one.
pub(super) fn showing(local: PeerId, key: Option<Arc<SigningKey>>) -> Exchange<Answer> {
    let exchange = Exchange::new(PROTOCOL);
    let Some(key) = key else {
        return exchange;
    };
    exchange.asking(move |relay, stream| show(local, relay, Arc::clone(&key), stream))
}

/// For a relay: whoever proves a DID of the list is `let_in`. Without a list nothing is asked.
pub(super) fn demanding(
    local: PeerId,
    list: Option<Arc<HashSet<Did>>>,
    let_in: impl Fn(PeerId) + Send + Sync + 'static,
) -> Exchange<Answer> {
    let exchange = Exchange::new(PROTOCOL);
    let Some(list) = list else {
        return exchange;
    };
    let let_in = Arc::new(let_in);
    exchange.serving(move |client, stream| {
        let (list, let_in) = (Arc::clone(&list), Arc::clone(&let_in));
        async move {
            let mut stream = stream;
            let answer = demand(local, client, &list, &mut stream).await;
            if answer.is_ok() {
                // Before the client knows, so that it is not too early with what it wants.
                let_in(client);
            }
            let word = verdict(&answer);
            // Who does not read it is let in all the same.
            let _ = stream.write_all(word.as_bytes()).await;
            let _ = stream.close().await;
            Some(answer.map(drop))
        }
    })
}

async fn show(local: PeerId, relay: PeerId, key: Arc<SigningKey>, mut stream: Stream) -> Answer {
    let mut challenge = [0; CHALLENGE_BYTES];
    stream
        .read_exact(&mut challenge)
        .await
        .map_err(|e| broken(&e))?;
    let asked = asked(local, relay, challenge)?;
    let text = asked.answer(&key, clock::wall())?;
    stream
        .write_all(text.as_bytes())
        .await
        .map_err(|e| broken(&e))?;
    stream.close().await.map_err(|e| broken(&e))?;
    read_verdict(&read(stream, MAX_PASS_ANSWER_BYTES).await?)
}

async fn demand(
    local: PeerId,
    client: PeerId,
    list: &HashSet<Did>,
    stream: &mut Stream,
) -> Result<Did, Rejection> {
    let mut challenge = [0; CHALLENGE_BYTES];
    getrandom::fill(&mut challenge)
        .map_err(|e| Rejection::new(Code::Internal, "S14", format!("no random bytes: {e}")))?;
    stream.write_all(&challenge).await.map_err(|e| broken(&e))?;
    stream.flush().await.map_err(|e| broken(&e))?;
    let bytes = read(stream, MAX_PASS_BYTES).await?;
    let asked = asked(client, local, challenge)?;
    asked.check(&bytes, |did| list.contains(did), clock::wall())
}

fn asked(
    client: PeerId,
    relay: PeerId,
    challenge: [u8; CHALLENGE_BYTES],
) -> Result<Asked, Rejection> {
    let pid = |peer: PeerId| peer.to_string().parse::<Pid>();
    Ok(Asked {
        client: pid(client)?,
        relay: pid(relay)?,
        challenge,
    })
}

/// All bytes up to the end of the other direction, one more than `most` at most.
async fn read(stream: impl futures::AsyncRead + Unpin, most: usize) -> Result<Vec<u8>, Rejection> {
    let mut bytes = Vec::new();
    let mut bounded = stream.take(most as u64 + 1);
    bounded
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| broken(&e))?;
    Ok(bytes)
}

fn broken(error: &std::io::Error) -> Rejection {
    Rejection::new(Code::Peer, "S14", format!("it broke off: {error}"))
}
