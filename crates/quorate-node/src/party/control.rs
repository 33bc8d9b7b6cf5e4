//! Control streams: one TCP stream per pair inside the tunnel, carrying the session's frames.
//!
//! ```text
//! lower index ── connect [peer]:control_port ──► higher index      (again after a loss, with a pause)
//!      u32 length, big endian │ frame        both ways
//! ```
//!
//! Requires: the mesh names the peer of a stream by its tunnel address, which WireGuard has
//! authenticated. Provides: whole frames, in order, at most [`MAX_FRAME_BYTES`] each; a slow peer
//! holds up nobody else. A stream that ends is not a party that left: the session judges by silence.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_session::{LinkId, limits::MAX_FRAME_BYTES};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};

use crate::wireguard::Mesh;

/// Frames waiting to be written to one peer.
const OUTGOING_FRAMES: usize = 64;
/// Pause before a lost stream is dialled again.
const REDIAL_PAUSE: Duration = Duration::from_millis(500);
/// Link ids of control streams start here; those of the overlay count from zero.
const FIRST_LINK: u64 = 1 << 63;

/// What happens on control streams.
pub(super) enum ControlEvent {
    /// A stream to `peer` is up; frames for it go into `outgoing`.
    Up {
        link: LinkId,
        peer: u16,
        outgoing: mpsc::Sender<Vec<u8>>,
    },
    /// A frame came in.
    Frame { link: LinkId, bytes: Vec<u8> },
    /// The stream ended.
    Down { link: LinkId },
}

/// All control streams of one mesh.
pub(super) struct ControlStreams {
    tasks: JoinSet<()>,
}

impl ControlStreams {
    /// Listens for the parties below `me` and dials those above, on `port`.
    pub fn start(
        mesh: &Arc<Mesh>,
        me: u16,
        peers: impl Iterator<Item = u16>,
        port: u16,
        events: &mpsc::Sender<ControlEvent>,
    ) -> Self {
        let ids = Arc::new(AtomicU64::new(FIRST_LINK));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(
            Arc::clone(mesh),
            me,
            port,
            Arc::clone(&ids),
            events.clone(),
        ));
        for peer in peers.filter(|peer| *peer > me) {
            tasks.spawn(dial(
                Arc::clone(mesh),
                peer,
                port,
                Arc::clone(&ids),
                events.clone(),
            ));
        }
        Self { tasks }
    }

    /// Ends all streams and waits for their tasks.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(
    mesh: Arc<Mesh>,
    me: u16,
    port: u16,
    ids: Arc<AtomicU64>,
    events: mpsc::Sender<ControlEvent>,
) {
    let mut listener = mesh.listener(port);
    let mut streams = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            return;
        };
        while streams.try_join_next().is_some() {}
        // Who dials is fixed, so that two parties never hold two streams for one purpose.
        if peer < me {
            streams.spawn(carry(stream, peer, next(&ids), events.clone()));
        }
    }
}

async fn dial(
    mesh: Arc<Mesh>,
    peer: u16,
    port: u16,
    ids: Arc<AtomicU64>,
    events: mpsc::Sender<ControlEvent>,
) {
    loop {
        if let Ok(stream) = mesh.connect(peer, port).await {
            carry(stream, peer, next(&ids), events.clone()).await;
        }
        tokio::time::sleep(REDIAL_PAUSE).await;
    }
}

fn next(ids: &AtomicU64) -> LinkId {
    LinkId(ids.fetch_add(1, Ordering::Relaxed))
}

async fn carry(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    peer: u16,
    link: LinkId,
    events: mpsc::Sender<ControlEvent>,
) {
    let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
    if events
        .send(ControlEvent::Up {
            link,
            peer,
            outgoing,
        })
        .await
        .is_err()
    {
        return;
    }
    let (reader, writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read_frames(reader, link, &events) => ended,
        ended = write_frames(writer, frames) => ended,
    };
    tracing::debug!(peer, ?ended, "control stream ended");
    let _ = events.send(ControlEvent::Down { link }).await;
}

async fn read_frames(
    mut reader: impl AsyncRead + Unpin,
    link: LinkId,
    events: &mpsc::Sender<ControlEvent>,
) -> std::io::Result<()> {
    loop {
        let length = reader.read_u32().await? as usize;
        if length > MAX_FRAME_BYTES {
            return Err(std::io::Error::other("a frame is too large"));
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).await?;
        if events
            .send(ControlEvent::Frame { link, bytes })
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}

async fn write_frames(
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Vec<u8>>,
) -> std::io::Result<()> {
    while let Some(frame) = frames.recv().await {
        let length = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
        writer.write_all(&length.to_be_bytes()).await?;
        writer.write_all(&frame).await?;
        writer.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    async fn started(
        stream: tokio::io::DuplexStream,
    ) -> (mpsc::Receiver<ControlEvent>, mpsc::Sender<Vec<u8>>) {
        let (events, mut receiver) = mpsc::channel(16);
        tokio::spawn(async move { carry(stream, 1, LinkId(7), events).await });
        match receiver.recv().await {
            Some(ControlEvent::Up {
                outgoing, peer: 1, ..
            }) => (receiver, outgoing),
            _ => panic!("no link came up"),
        }
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order() {
        let (a, b) = tokio::io::duplex(16);
        let (mut at_a, to_b) = started(a).await;
        let (mut at_b, to_a) = started(b).await;
        to_b.send(b"first".to_vec()).await.unwrap();
        to_b.send(vec![9; 1000]).await.unwrap();
        to_a.send(Vec::new()).await.unwrap();
        for expected in [b"first".to_vec(), vec![9; 1000]] {
            assert!(
                matches!(at_b.recv().await, Some(ControlEvent::Frame { bytes, .. }) if bytes == expected)
            );
        }
        assert!(
            matches!(at_a.recv().await, Some(ControlEvent::Frame { bytes, .. }) if bytes.is_empty())
        );
        drop(to_b);
        assert!(matches!(
            at_b.recv().await,
            Some(ControlEvent::Down { link: LinkId(7) })
        ));
    }

    #[tokio::test]
    async fn an_oversized_length_ends_the_stream_without_an_allocation() {
        let (a, mut b) = tokio::io::duplex(64);
        let (mut at_a, _to_b) = started(a).await;
        b.write_u32(u32::MAX).await.unwrap();
        assert!(matches!(at_a.recv().await, Some(ControlEvent::Down { .. })));
    }
}
