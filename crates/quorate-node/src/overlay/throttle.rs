//! How fast a relay reads: a wrapper around the streams of its connections.
//!
//! ```text
//!   peer ──► stream ──► own bucket, common bucket ──► libp2p-relay ──► stream ──► other peer
//!                          └ empty: not read for a moment; yamux and QUIC pass the pressure on
//! ```
//! libp2p's relay has a limit of time and of bytes for a circuit and none of rate. A circuit is two
//! streams, one on the connection of either end, and each direction of it is read from exactly one
//! of them. So a limit on reading a stream is a limit on one direction of a circuit, and a limit on
//! reading all streams is one on everything that is carried. What the relay's other protocols read
//! is counted too; next to a circuit it is nothing.
//!
//! Limits: a bucket holds what passes in [`BURST`], and at least [`MIN_BURST_BYTES`].
//!
//! Security: provides that a circuit, and all together, carry no more than was configured, with
//! memory bounded by the windows of the connections. Does not provide fairness between circuits
//! when the common bucket is what limits them.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use tokio::time::Sleep;

/// What a bucket holds, as time at its rate.
const BURST: Duration = Duration::from_millis(50);
/// What a bucket holds at least.
const MIN_BURST_BYTES: u64 = 16 * 1024;
/// Least that is waited for, so that slow streams are not read byte by byte.
const QUANTUM_BYTES: u64 = 2 * 1024;
/// Shortest pause of a stream whose bucket is empty.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// A token bucket of bytes.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    capacity: u64,
    level: u64,
    filled: Instant,
}

impl Bucket {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        let burst = u128::from(bytes_per_second) * BURST.as_millis() / 1000;
        let capacity = u64::try_from(burst)
            .unwrap_or(u64::MAX)
            .max(MIN_BURST_BYTES);
        Self {
            bytes_per_second,
            capacity,
            level: capacity,
            filled: now,
        }
    }

    /// Takes up to `want` bytes, or says how long to wait for some.
    fn take(&mut self, want: u64, now: Instant) -> Result<u64, Duration> {
        let elapsed = now.saturating_duration_since(self.filled);
        let grown = u128::from(self.bytes_per_second) * elapsed.as_nanos() / 1_000_000_000;
        if grown > 0 {
            let grown = u64::try_from(grown).unwrap_or(u64::MAX);
            self.level = self.level.saturating_add(grown).min(self.capacity);
            self.filled = now;
        }
        let least = want.min(QUANTUM_BYTES);
        if self.level >= least {
            let granted = want.min(self.level);
            self.level -= granted;
            return Ok(granted);
        }
        let missing = u128::from(least - self.level) * 1_000_000_000;
        let wait = missing.div_ceil(u128::from(self.bytes_per_second.max(1)));
        let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
        Err(wait.max(MIN_PAUSE))
    }

    fn give_back(&mut self, bytes: u64) {
        self.level = self.level.saturating_add(bytes).min(self.capacity);
    }
}

/// What all streams of a relay have in common: the limits, and how much was read.
#[derive(Debug)]
pub(super) struct Meter {
    stream_bytes_per_second: Option<u64>,
    total: Option<Mutex<Bucket>>,
    bytes: AtomicU64,
}

impl Meter {
    /// Limits in bits per second; zero is no limit.
    pub fn new(stream_bits: u64, total_bits: u64, now: Instant) -> Self {
        let rate = |bits: u64| (bits > 0).then(|| (bits / 8).max(1));
        Self {
            stream_bytes_per_second: rate(stream_bits),
            total: rate(total_bits).map(|rate| Mutex::new(Bucket::new(rate, now))),
            bytes: AtomicU64::new(0),
        }
    }

    /// Bytes that were read from streams so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn with_total<T>(&self, other: T, act: impl FnOnce(&mut Bucket) -> T) -> T {
        match &self.total {
            None => other,
            Some(total) => act(&mut total.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// A connection whose streams are read at the meter's rates.
pub(super) struct Throttled {
    inner: StreamMuxerBox,
    meter: Arc<Meter>,
}

impl Throttled {
    pub fn new(inner: StreamMuxerBox, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }

    fn stream(&self, inner: SubstreamBox) -> Stream {
        let rate = self.meter.stream_bytes_per_second;
        Stream {
            inner,
            own: rate.map(|rate| Bucket::new(rate, Instant::now())),
            meter: Arc::clone(&self.meter),
            pause: None,
        }
    }
}

impl StreamMuxer for Throttled {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.stream(stream)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.stream(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// One stream that is read at the meter's rates.
pub(super) struct Stream {
    inner: SubstreamBox,
    own: Option<Bucket>,
    meter: Arc<Meter>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// Bytes that may be read now, up to `want`.
    fn take(&mut self, want: u64, now: Instant) -> Result<u64, Duration> {
        let own = match &mut self.own {
            Some(own) => own.take(want, now)?,
            None => want,
        };
        match self.meter.with_total(Ok(own), |t| t.take(own, now)) {
            Ok(granted) => {
                if let Some(bucket) = &mut self.own {
                    bucket.give_back(own - granted);
                }
                Ok(granted)
            }
            Err(wait) => {
                if let Some(bucket) = &mut self.own {
                    bucket.give_back(own);
                }
                Err(wait)
            }
        }
    }

    fn give_back(&mut self, bytes: u64) {
        if let Some(own) = &mut self.own {
            own.give_back(bytes);
        }
        self.meter.with_total((), |t| t.give_back(bytes));
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let granted = loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.take(buffer.len() as u64, Instant::now()) {
                Ok(granted) => break granted,
                Err(wait) => self.pause = Some(Box::pin(tokio::time::sleep(wait))),
            }
        };
        // Never more than the buffer's length, which is a usize.
        let room = usize::try_from(granted)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut buffer[..room]);
        let used = match &read {
            Poll::Ready(Ok(bytes)) => *bytes as u64,
            _ => 0,
        };
        self.give_back(granted - used);
        self.meter.bytes.fetch_add(used, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass in `time` when a stream asks again as soon as it may.
    fn passed(bucket: &mut Bucket, start: Instant, time: Duration, want: u64) -> u64 {
        let mut now = start;
        let mut bytes = 0;
        while now < start + time {
            match bucket.take(want, now) {
                Ok(granted) => bytes += granted,
                Err(wait) => now += wait,
            }
        }
        bytes
    }

    #[test]
    fn a_bucket_lets_pass_its_rate_and_one_burst() {
        let start = Instant::now();
        for rate in [1_000, 100_000, 6_250_000, 1_000_000_000] {
            let mut bucket = Bucket::new(rate, start);
            let burst = bucket.capacity;
            let bytes = passed(&mut bucket, start, Duration::from_secs(20), 8192);
            let expected = 20 * rate + burst;
            assert!(bytes <= expected + QUANTUM_BYTES, "{bytes} of {expected}");
            assert!(bytes >= expected - expected / 10, "{bytes} of {expected}");
        }
    }

    #[test]
    fn an_idle_bucket_saves_no_more_than_one_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100_000, start);
        let later = start + Duration::from_hours(1);
        let bytes = passed(&mut bucket, later, Duration::from_secs(1), 8192);
        assert!(bytes <= 100_000 + bucket.capacity + QUANTUM_BYTES);
    }

    #[test]
    fn what_was_not_read_is_not_counted() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1000, now);
        let granted = bucket.take(4096, now).expect("full");
        bucket.give_back(granted);
        bucket.give_back(u64::MAX);
        assert_eq!(bucket.level, bucket.capacity);
        // A reader that wants nothing never waits.
        bucket.level = 0;
        assert_eq!(bucket.take(0, now), Ok(0));
    }

    #[test]
    fn no_limit_means_no_bucket() {
        let meter = Meter::new(0, 0, Instant::now());
        assert!(meter.total.is_none() && meter.stream_bytes_per_second.is_none());
        let slow = Meter::new(1, 1, Instant::now());
        assert_eq!(slow.stream_bytes_per_second, Some(1));
    }
}
