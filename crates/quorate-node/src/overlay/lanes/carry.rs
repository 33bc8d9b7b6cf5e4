//! The task of one lane: its queue to the stream, the stream to the receiver, probes in between.
//!
//! ```text
//!   queue ─► batch of at most 64 KiB ─► write, flush        read ─► datagram ─► receiver
//!   every PROBE_INTERVAL a probe, ahead of the queue                probe ─► answer
//! ```
//! Silence counts from the last byte of any kind, so that a busy lane with late answers is alive.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    FRESH, Lane, SILENT, Shared,
    wire::{BUFFER_BYTES, Item, MAX_DATAGRAM_BYTES, Malformed, put, take},
};

/// Time between two probes of a lane.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A lane on which nothing at all arrived for this long is given up.
pub const LANE_SILENCE: Duration = Duration::from_secs(6);
/// A batch that takes longer to write ends the lane.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a lane ended.
#[derive(Debug)]
pub(in crate::overlay) enum End {
    /// The peer closed it, or its connection went away.
    Remote,
    /// We closed it.
    Local,
    /// Nothing arrived any more, or nothing could be written.
    Silent,
    /// The peer wrote what no lane carries.
    Violation(Malformed),
}

/// One lane as its task needs it.
pub(in crate::overlay) struct Carrier<S> {
    pub stream: S,
    pub id: u64,
    pub index: u16,
    /// The relay in between.
    pub via: Option<String>,
    pub shared: Arc<Shared>,
    pub incoming: mpsc::Sender<(u16, Vec<u8>)>,
    /// Ends the lane when its other end is dropped.
    pub cut: oneshot::Receiver<()>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Carrier<S> {
    /// Carries until one of the two ends it.
    pub async fn run(self) -> End {
        let Self {
            stream,
            id,
            index,
            via,
            shared,
            incoming,
            cut,
        } = self;
        let now = Instant::now();
        let Some(lane) = shared.add(index, Lane::new(id, via, now), now) else {
            return End::Local;
        };
        let signs = Signs::default();
        let (reader, writer) = stream.split();
        let end = tokio::select! {
            end = read(reader, index, &lane, &signs, &shared, &incoming) => end,
            end = write(writer, index, &lane, &signs, &shared) => end,
            end = silence(&lane, index, &shared) => end,
            _ = cut => End::Local,
        };
        shared.remove(index, id, Instant::now());
        end
    }
}

/// What reader and writer have to tell each other.
#[derive(Default)]
struct Signs {
    /// The latest probe of the peer; older ones need no answer.
    to_answer: Mutex<Option<[u8; 8]>>,
    /// An answer is to be sent.
    wake: Notify,
}

impl Signs {
    fn lock(&self) -> MutexGuard<'_, Option<[u8; 8]>> {
        self.to_answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read<R: AsyncRead + Unpin>(
    mut stream: R,
    index: u16,
    lane: &Lane,
    signs: &Signs,
    shared: &Shared,
    incoming: &mpsc::Sender<(u16, Vec<u8>)>,
) -> End {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) | Err(_) => return End::Remote,
            Ok(more) => filled += more,
        }
        let now = Instant::now();
        lane.health().heard = now;
        let mut rest = &buffer[..filled];
        loop {
            match take(&mut rest) {
                Ok(None) => break,
                Ok(Some(Item::Datagram(datagram))) => {
                    // A receiver that does not take them stops this stream, and with it the sender.
                    if incoming.send((index, datagram.to_vec())).await.is_err() {
                        return End::Local;
                    }
                }
                Ok(Some(Item::Probe(token))) => {
                    *signs.lock() = Some(token);
                    signs.wake.notify_one();
                }
                Ok(Some(Item::Answer(token))) => {
                    if let Some(rtt) = lane.answered(token, now) {
                        measured(lane, index, shared, rtt, now);
                    }
                }
                Err(malformed) => return End::Violation(malformed),
            }
        }
        let left = rest.len();
        let from = filled - left;
        buffer.copy_within(from..filled, 0);
        filled = left;
    }
}

fn measured(lane: &Lane, index: u16, shared: &Shared, rtt: Duration, now: Instant) {
    let first = {
        let mut health = lane.health();
        // Smoothed as TCP does, so that one late answer moves nothing.
        let before = health.rtt;
        health.rtt = Some(before.map_or(rtt, |old| (old * 7 + rtt) / 8));
        before.is_none()
    };
    shared.review(index, now);
    if first {
        shared.tell();
    }
}

async fn write<W: AsyncWrite + Unpin>(
    mut stream: W,
    index: u16,
    lane: &Lane,
    signs: &Signs,
    shared: &Shared,
) -> End {
    let mut batch = Vec::with_capacity(BUFFER_BYTES);
    let mut probes = interval(PROBE_INTERVAL);
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = lane.ready.notified() => {}
            () = signs.wake.notified() => {}
            _ = probes.tick() => {
                let now = Instant::now();
                shared.review(index, now);
                put(&Item::Probe(lane.token(now)), &mut batch);
            }
        }
        // Until nothing is left: one wake-up may stand for many datagrams.
        loop {
            let token = signs.lock().take();
            if let Some(token) = token {
                put(&Item::Answer(token), &mut batch);
            }
            fill(&mut batch, lane);
            if batch.is_empty() {
                break;
            }
            let all = async {
                stream.write_all(&batch).await?;
                stream.flush().await
            };
            match timeout(WRITE_TIMEOUT, all).await {
                Ok(Ok(())) => batch.clear(),
                Ok(Err(_)) => return End::Remote,
                Err(_) => return End::Silent,
            }
        }
    }
}

/// Moves datagrams from the queue to the batch, as many as fit.
fn fill(batch: &mut Vec<u8>, lane: &Lane) {
    let mut queue = lane.queue();
    while batch.len() + MAX_DATAGRAM_BYTES + 2 <= BUFFER_BYTES {
        let Some(datagram) = queue.pop() else {
            return;
        };
        put(&Item::Datagram(&datagram), batch);
    }
}

/// Ends when nothing arrived for too long; before that, another lane is chosen in time, whatever the writer waits for.
async fn silence(lane: &Lane, index: u16, shared: &Shared) -> End {
    loop {
        let (now, heard) = (Instant::now(), lane.health().heard);
        let steps = [FRESH, SILENT, LANE_SILENCE];
        let Some(next) = steps.into_iter().find(|step| heard + *step > now) else {
            return End::Silent;
        };
        // What was due before may have changed something.
        shared.review(index, now);
        sleep_until((heard + next).into()).await;
    }
}
