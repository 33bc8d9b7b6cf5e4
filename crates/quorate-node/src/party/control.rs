//! Control streams: one TCP stream per pair inside the tunnel, carrying the session's frames.
//!
//! ```text
//! lower index ── connect [peer]:control_port ──► higher index      (again after a loss, with a pause)
//!      u32 length, big endian │ frame        both ways
//! ```
//!
//! One stream per peer: a new one replaces the one before, whose `Down` comes before the new `Up`,
//! at most once per [`REDIAL_PAUSE`]. So a member holds one link of the session and one queue of
//! ours, however often it dials.
//!
//! Requires: the mesh names the peer of a stream by its tunnel address, which WireGuard has
//! authenticated. Provides: whole frames, in order, at most [`MAX_FRAME_BYTES`] each; a slow peer
//! holds up nobody else, and what exceeds [`OUTGOING_BYTES`] for it is dropped. A stream that ends is not a party that left: the session judges by silence.

use std::{
    collections::{HashMap, VecDeque},
    io,
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
    time::{Instant, sleep, sleep_until},
};

use crate::wireguard::Mesh;

/// Frames on their way from the session's loop to one stream's task, which takes them at once.
const OUTGOING_FRAMES: usize = 64;
/// Bytes waiting to be written to one peer.
const OUTGOING_BYTES: usize = 1024 * 1024;
/// Pause before a lost stream is dialled again, and the least time between two streams of a peer.
const REDIAL_PAUSE: Duration = Duration::from_millis(500);
/// Streams of one peer that wait to replace its present one; more are reset.
const WAITING_STREAMS: usize = 1;
/// How long what is queued may still be written once the session has closed the link.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
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
    let mut lanes = Lanes::new(ids, events);
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            return;
        };
        // Who dials is fixed, so that two parties never hold two streams for one purpose.
        if peer < me {
            lanes.take(peer, stream);
        }
    }
}

/// The accepted streams: one task for each peer that has dialled, which carries one stream at a
/// time. The mesh knows the peers, so there are no more tasks than parties.
struct Lanes<S> {
    ids: Arc<AtomicU64>,
    events: mpsc::Sender<ControlEvent>,
    of_peer: HashMap<u16, mpsc::Sender<S>>,
    tasks: JoinSet<()>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Lanes<S> {
    fn new(ids: Arc<AtomicU64>, events: mpsc::Sender<ControlEvent>) -> Self {
        Self {
            ids,
            events,
            of_peer: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Carries `stream` in place of the one before. Never waits.
    fn take(&mut self, peer: u16, stream: S) {
        let lane = self.of_peer.entry(peer).or_insert_with(|| {
            let (lane, streams) = mpsc::channel(WAITING_STREAMS);
            let (ids, events) = (Arc::clone(&self.ids), self.events.clone());
            self.tasks.spawn(take_turns(streams, peer, ids, events));
            lane
        });
        if lane.try_send(stream).is_err() {
            tracing::debug!(peer, "a control stream too many was reset");
        }
    }
}

async fn take_turns<S: AsyncRead + AsyncWrite + Send + Unpin>(
    mut streams: mpsc::Receiver<S>,
    peer: u16,
    ids: Arc<AtomicU64>,
    events: mpsc::Sender<ControlEvent>,
) {
    let mut replacement = None;
    loop {
        let stream = match replacement.take() {
            Some(stream) => stream,
            None => match streams.recv().await {
                Some(stream) => stream,
                None => return,
            },
        };
        let next_turn = Instant::now() + REDIAL_PAUSE;
        let replaced = async {
            match streams.recv().await {
                Some(stream) => stream,
                None => std::future::pending().await,
            }
        };
        replacement = carry(stream, peer, next(&ids), &events, replaced).await;
        sleep_until(next_turn).await;
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
            let never = std::future::pending::<()>();
            carry(stream, peer, next(&ids), &events, never).await;
        }
        sleep(REDIAL_PAUSE).await;
    }
}

fn next(ids: &AtomicU64) -> LinkId {
    LinkId(ids.fetch_add(1, Ordering::Relaxed))
}

/// Carries one stream until it ends or is replaced; returns what replaces it. Each `Up` has its
/// `Down`.
async fn carry<T>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    peer: u16,
    link: LinkId,
    events: &mpsc::Sender<ControlEvent>,
    replaced: impl Future<Output = T>,
) -> Option<T> {
    let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
    let up = ControlEvent::Up {
        link,
        peer,
        outgoing,
    };
    if events.send(up).await.is_err() {
        return None;
    }
    let (reader, writer) = tokio::io::split(stream);
    let (ended, replacement) = tokio::select! {
        ended = read_frames(reader, link, events) => (ended, None),
        ended = write_frames(writer, frames) => (ended, None),
        replacement = replaced => (Ok(()), Some(replacement)),
    };
    let replaced = replacement.is_some();
    tracing::debug!(peer, ?ended, replaced, "control stream ended");
    let _ = events.send(ControlEvent::Down { link }).await;
    replacement
}

async fn read_frames(
    mut reader: impl AsyncRead + Unpin,
    link: LinkId,
    events: &mpsc::Sender<ControlEvent>,
) -> io::Result<()> {
    loop {
        let length = reader.read_u32().await? as usize;
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::other("a frame is too large"));
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

/// Takes frames from the loop at once, also while one is being written, so that what waits for a
/// peer that does not read is bounded in bytes. Ends soon after the loop has dropped its sender.
async fn write_frames(
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut backlog = Backlog::default();
    let mut closing = None;
    loop {
        let next = match backlog.pop() {
            Some(frame) => Some(frame),
            None => frames.recv().await,
        };
        let Some(frame) = next else {
            return writer.shutdown().await;
        };
        let writing = write_frame(&mut writer, &frame);
        tokio::pin!(writing);
        loop {
            tokio::select! {
                written = &mut writing => break written?,
                more = frames.recv(), if closing.is_none() => match more {
                    Some(more) => backlog.push(more, frame.len()),
                    None => closing = Some(Instant::now() + CLOSE_GRACE),
                },
                () = at(closing) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    writer.write_all(&length.to_be_bytes()).await?;
    writer.write_all(frame).await?;
    writer.flush().await
}

/// Frames that wait for one peer.
#[derive(Default)]
struct Backlog {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Backlog {
    /// Keeps `frame`, unless there is no room for it next to `in_hand` bytes that are being
    /// written: then it is lost, and the session announces again what it holds.
    fn push(&mut self, frame: Vec<u8>, in_hand: usize) {
        // An empty frame costs its place in the queue.
        let cost = frame.len().max(size_of::<Vec<u8>>());
        if self.bytes + in_hand + cost > OUTGOING_BYTES {
            tracing::debug!("a frame for a peer that does not read was dropped");
            return;
        }
        self.bytes += cost;
        self.frames.push_back(frame);
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len().max(size_of::<Vec<u8>>());
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    async fn started(
        stream: tokio::io::DuplexStream,
    ) -> (mpsc::Receiver<ControlEvent>, mpsc::Sender<Vec<u8>>) {
        let (events, mut receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let never = std::future::pending::<()>();
            carry(stream, 1, LinkId(7), &events, never).await
        });
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

    async fn soon(receiver: &mut mpsc::Receiver<ControlEvent>) -> Option<ControlEvent> {
        let next = tokio::time::timeout(10 * REDIAL_PAUSE, receiver.recv());
        next.await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_stream_of_a_peer_replaces_the_one_before() {
        let (events, mut receiver) = mpsc::channel(16);
        let mut lanes = Lanes::new(Arc::new(AtomicU64::new(FIRST_LINK)), events);
        let mut far_ends = Vec::new();
        let mut links = Vec::new();
        let mut queues = Vec::new();
        for _ in 0..5 {
            let (near, far) = tokio::io::duplex(64);
            lanes.take(3, near);
            far_ends.push(far);
            if let Some(old) = links.last().copied() {
                assert!(
                    matches!(soon(&mut receiver).await, Some(ControlEvent::Down { link }) if link == old),
                    "the stream before is still up"
                );
            }
            let Some(ControlEvent::Up {
                link,
                peer: 3,
                outgoing,
            }) = soon(&mut receiver).await
            else {
                panic!("the new stream did not come up");
            };
            links.push(link);
            queues.push(outgoing);
        }
        let last = far_ends.pop().unwrap();
        for mut replaced in far_ends {
            assert!(replaced.read_u8().await.is_err(), "a replaced one is open");
        }
        // The last one works, and other peers have a stream of their own.
        let (mut at_far, _to_near) = started(last).await;
        let to_far = queues.pop().unwrap();
        to_far.send(vec![5]).await.unwrap();
        assert!(
            matches!(at_far.recv().await, Some(ControlEvent::Frame { bytes, .. }) if bytes == [5])
        );
        let (near, _far) = tokio::io::duplex(64);
        lanes.take(4, near);
        assert!(matches!(
            soon(&mut receiver).await,
            Some(ControlEvent::Up { peer: 4, .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_streams_gets_few_turns() {
        let (events, mut receiver) = mpsc::channel(64);
        let mut lanes = Lanes::new(Arc::new(AtomicU64::new(FIRST_LINK)), events);
        let mut kept = Vec::new();
        let begin = Instant::now();
        let mut ups = 0;
        while begin.elapsed() < 4 * REDIAL_PAUSE {
            let (near, far) = tokio::io::duplex(64);
            lanes.take(3, near);
            kept.push(far);
            sleep(Duration::from_millis(1)).await;
            while let Ok(event) = receiver.try_recv() {
                ups += usize::from(matches!(event, ControlEvent::Up { .. }));
            }
        }
        assert!((2..=5).contains(&ups), "{ups} links for one peer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_holds_a_bounded_number_of_bytes() {
        let (a, b) = tokio::io::duplex(64);
        let (_at_a, to_b) = started(a).await;
        let size = MAX_FRAME_BYTES;
        for _ in 0..100 {
            to_b.send(vec![1; size]).await.unwrap();
        }
        // The last one taken out of the channel is judged before the stream is read.
        sleep(Duration::from_millis(1)).await;
        drop(to_b);
        let (mut at_b, _to_a) = started(b).await;
        let mut arrived = 0;
        while let Some(ControlEvent::Frame { bytes, .. }) = at_b.recv().await {
            arrived += bytes.len();
        }
        assert_eq!(arrived, OUTGOING_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_link_ends_although_its_peer_does_not_read() {
        let (a, _b) = tokio::io::duplex(64);
        let (mut at_a, to_b) = started(a).await;
        to_b.send(vec![1; 1000]).await.unwrap();
        drop(to_b);
        let down = tokio::time::timeout(2 * CLOSE_GRACE, at_a.recv()).await;
        assert!(matches!(down, Ok(Some(ControlEvent::Down { .. }))));
    }
}
