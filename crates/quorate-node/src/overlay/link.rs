//! Links: the registry that `send` looks into, and the task that carries one link.
//!
//! ```text
//!   send ─► [queue: 64 frames, 4 MiB] ─► writer ═ stream ═ reader ─► [events: 64] ─► the caller
//! ```
//! Back-pressure is the stream's: a caller that takes no events stops the readers, which fills the
//! peer's window, which stops its writer, which fills its queue, and there `send` says `false`.
//! Each link has its own queue and task, so one that is stuck holds up no other.
//!
//! Closing from our side lets the queue drain for at most [`CLOSE_GRACE`] and delivers no more
//! frames; the peer reads to the end and closes its side, which tells that nothing was lost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _,
    io::{ReadHalf, WriteHalf},
};
use libp2p::swarm::Stream;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{
    OverlayEvent,
    frame::{self, FrameError, MAX_FRAME_BYTES},
};

/// Frames waiting to be sent on one link.
pub const LINK_QUEUE_FRAMES: usize = 64;
/// Bytes waiting to be sent on one link.
pub const LINK_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// A link that is closed from our side may still send what is queued for this long.
pub const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The sending ends of all links, shared by the handle and the overlay's task.
#[derive(Clone, Default)]
pub(super) struct Links(Arc<Mutex<HashMap<u64, Sender>>>);

struct Sender {
    queue: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    /// Dropped with the sender, which starts the closing time.
    _cut: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared {
    queued_bytes: AtomicUsize,
    closed: AtomicBool,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Sender>> {
        // The map is whole after every statement, so a poisoned lock loses nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `frame`; `false` when the link is gone, its queue is full or the size is not allowed.
    pub fn send(&self, link: u64, frame: Vec<u8>) -> bool {
        let bytes = frame.len();
        if bytes == 0 || bytes > MAX_FRAME_BYTES {
            return false;
        }
        let links = self.lock();
        let Some(sender) = links.get(&link) else {
            return false;
        };
        // Only this function adds, under the lock, so check and addition cannot be split.
        let queued = &sender.shared.queued_bytes;
        if queued.load(Ordering::Acquire) + bytes > LINK_QUEUE_BYTES {
            return false;
        }
        queued.fetch_add(bytes, Ordering::AcqRel);
        let sent = sender.queue.try_send(frame).is_ok();
        if !sent {
            queued.fetch_sub(bytes, Ordering::AcqRel);
        }
        sent
    }

    /// Closes one link; what is queued may still go out. `false` when there is no such link.
    pub fn close(&self, link: u64) -> bool {
        let sender = self.lock().remove(&link);
        if let Some(sender) = &sender {
            sender.shared.closed.store(true, Ordering::Release);
        }
        sender.is_some()
    }

    /// Closes all links.
    pub fn close_all(&self) {
        for (_, sender) in self.lock().drain() {
            sender.shared.closed.store(true, Ordering::Release);
        }
    }

    /// Registers a link and returns its receiving end.
    fn add(&self, link: u64) -> Outgoing {
        let (queue, frames) = mpsc::channel(LINK_QUEUE_FRAMES);
        let (cut, closing) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let sender = Sender {
            queue,
            shared: Arc::clone(&shared),
            _cut: cut,
        };
        self.lock().insert(link, sender);
        Outgoing {
            frames,
            closing,
            shared,
        }
    }
}

/// The task's end of a link's queue.
struct Outgoing {
    frames: mpsc::Receiver<Vec<u8>>,
    closing: oneshot::Receiver<()>,
    shared: Arc<Shared>,
}

/// How a link ended.
#[derive(Debug)]
pub(super) enum End {
    /// The peer closed it, or the connection went away.
    Remote,
    /// We closed it.
    Local,
    /// Its connection was taken away by us.
    Cut,
    /// The peer broke the rules of frames.
    Violation(FrameError),
    /// The peer takes no data any more.
    Stalled,
}

/// One link as its task needs it.
pub(super) struct Task {
    pub link: u64,
    pub stream: Stream,
    pub up: OverlayEvent,
    pub events: mpsc::Sender<OverlayEvent>,
    /// Ends when the previous link of the same peer has said its `LinkDown`.
    pub previous: Option<oneshot::Receiver<()>>,
    /// Dropped when this link has said its `LinkDown`.
    pub ended: oneshot::Sender<()>,
    /// Ends the link at once when its other end is dropped. yamux does not wake the streams of a
    /// connection that is closed from this side.
    pub cut: oneshot::Receiver<()>,
}

impl Task {
    /// Makes the link sendable and returns the future that carries it.
    pub fn start(self, links: &Links) -> impl Future<Output = End> + Send + 'static {
        let outgoing = links.add(self.link);
        let links = links.clone();
        async move {
            let Self {
                link,
                stream,
                up,
                events,
                previous,
                ended,
                cut,
            } = self;
            if let Some(previous) = previous {
                let _ = previous.await;
            }
            // A caller that dropped its receiver wants no links any more.
            if events.send(up).await.is_err() {
                return End::Local;
            }
            let end = tokio::select! {
                end = carry(link, stream, outgoing, &events) => end,
                _ = cut => End::Cut,
            };
            links.close(link);
            let _ = events.send(OverlayEvent::LinkDown { link }).await;
            drop(ended);
            end
        }
    }
}

async fn carry(
    link: u64,
    stream: Stream,
    outgoing: Outgoing,
    events: &mpsc::Sender<OverlayEvent>,
) -> End {
    let Outgoing {
        frames,
        closing,
        shared,
    } = outgoing;
    let (reader, writer) = stream.split();
    let grace = async {
        let _ = closing.await;
        sleep(CLOSE_GRACE).await;
    };
    let reading = read(link, reader, &shared, events);
    tokio::pin!(reading);
    tokio::select! {
        end = &mut reading => end,
        Err(end) = write(writer, frames, &shared) => end,
        () = grace => End::Local,
    }
}

async fn read(
    link: u64,
    mut stream: ReadHalf<Stream>,
    shared: &Shared,
    events: &mpsc::Sender<OverlayEvent>,
) -> End {
    loop {
        let frame = frame::read(&mut stream).await;
        let closed = shared.closed.load(Ordering::Acquire);
        match frame {
            Ok(Some(_)) if closed => {}
            Ok(Some(bytes)) => {
                if events
                    .send(OverlayEvent::Frame { link, bytes })
                    .await
                    .is_err()
                {
                    return End::Local;
                }
            }
            _ if closed => return End::Local,
            Ok(None) | Err(FrameError::Io(_) | FrameError::Truncated) => return End::Remote,
            Err(error @ (FrameError::Size(_) | FrameError::Timeout)) => {
                return End::Violation(error);
            }
        }
    }
}

/// Ends with `Ok` after everything queued was written and our side is closed.
async fn write(
    mut stream: WriteHalf<Stream>,
    mut frames: mpsc::Receiver<Vec<u8>>,
    shared: &Shared,
) -> Result<(), End> {
    while let Some(frame) = frames.recv().await {
        let written = frame::write(&mut stream, &frame).await;
        shared.queued_bytes.fetch_sub(frame.len(), Ordering::AcqRel);
        written.map_err(|error| match error {
            FrameError::Timeout => End::Stalled,
            _ => End::Remote,
        })?;
    }
    stream.close().await.map_err(|_| End::Remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_in_frames_and_in_bytes() {
        let links = Links::default();
        let _small = links.add(1);
        let sent = (0..1000).filter(|_| links.send(1, vec![0; 10])).count();
        assert_eq!(sent, LINK_QUEUE_FRAMES);

        let _large = links.add(2);
        let sent = (0..1000)
            .filter(|_| links.send(2, vec![0; MAX_FRAME_BYTES]))
            .count();
        assert_eq!(sent, LINK_QUEUE_BYTES / MAX_FRAME_BYTES);
        assert!(!links.send(2, vec![0]), "not one byte more");
    }

    #[tokio::test]
    async fn what_was_written_makes_room() {
        let links = Links::default();
        let mut outgoing = links.add(1);
        while links.send(1, vec![0; MAX_FRAME_BYTES]) {}
        // The writer's two steps.
        let frame = outgoing.frames.recv().await.expect("queued");
        assert!(!links.send(1, vec![0; MAX_FRAME_BYTES]), "not written yet");
        outgoing
            .shared
            .queued_bytes
            .fetch_sub(frame.len(), Ordering::AcqRel);
        assert!(links.send(1, vec![0; MAX_FRAME_BYTES]));
    }

    #[tokio::test]
    async fn a_closed_link_takes_nothing_more_but_gives_what_it_has() {
        let links = Links::default();
        let mut outgoing = links.add(1);
        assert!(links.send(1, vec![7]));
        assert!(links.close(1));
        assert!(!links.send(1, vec![8]));
        assert!(!links.close(1));
        assert_eq!(outgoing.frames.recv().await, Some(vec![7]));
        assert_eq!(outgoing.frames.recv().await, None);
        assert!(outgoing.shared.closed.load(Ordering::Acquire));
    }

    #[test]
    fn sizes_outside_the_limits_are_not_queued() {
        let links = Links::default();
        let _outgoing = links.add(1);
        assert!(!links.send(1, Vec::new()));
        assert!(!links.send(1, vec![0; MAX_FRAME_BYTES + 1]));
        assert!(!links.send(2, vec![1]));
    }
}
