//! yamux with bounded windows: the streams of our TCP connections and of those inside circuits.
//!
//! ```text
//!   noise ──► Counted: headers of frames ──► yamux ──► Stream ──► libp2p
//!                └── came ──► Budget of all connections ◄── read, closed
//! ```
//! libp2p's own wrapper of yamux lets only the number of streams be set. A window of yamux grows while its
//! stream is read quickly, up to a gibibyte per connection, and what came is kept until it is read. Here
//! windows grow by [`Windows::growth`] in all, and a [`Budget`] bounds what all connections hold.
//!
//! Limits: [`Windows`]; a frame of more than [`MAX_FRAME_BYTES`] ends its connection.
//!
//! Security. Requires: the connection is authenticated, so that a doomed one is its peer's own. Provides:
//! bounded memory. Source: yamux's specification, "Framing" and "Flow control".

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use futures::{AsyncRead, AsyncWrite, future};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use yamux::{Connection, ConnectionError, Mode};

use super::unread::{Account, Budget};

/// Largest frame that is read; whoever speaks to us sends 16 KiB at most.
const MAX_FRAME_BYTES: usize = yamux::DEFAULT_CREDIT as usize;
/// Bytes of a frame's header.
const HEADER: usize = 12;
/// The frame that carries data, and the flag of one that opens a stream.
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const SYN: u8 = 1;

/// How much may wait on one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// Streams, of either end.
    pub streams: u32,
    /// Bytes by which the windows of all its streams may grow beyond 256 KiB each.
    pub growth: u32,
}

/// What new connections are made with.
#[derive(Clone, Debug)]
pub(super) struct Config {
    yamux: yamux::Config,
    budget: Budget,
}

impl Config {
    pub fn new(windows: Windows, budget: Budget) -> Self {
        let streams = windows.streams as usize;
        let all = streams * yamux::DEFAULT_CREDIT as usize + windows.growth as usize;
        let mut yamux = yamux::Config::default();
        // In this order: neither may be out of proportion to the other at any time.
        yamux.set_max_connection_receive_window(None);
        yamux.set_max_num_streams(streams);
        yamux.set_max_connection_receive_window(Some(all));
        Self { yamux, budget }
    }

    fn muxer<C: AsyncRead + AsyncWrite + Unpin>(self, inner: C, mode: Mode) -> Muxer<C> {
        let account = Arc::new(self.budget.connection());
        let counted = Counted {
            inner,
            frames: Frames::default(),
            account: Arc::clone(&account),
        };
        Muxer {
            connection: Connection::new(counted, self.yamux, mode),
            account,
            waiting: VecDeque::new(),
            waker: None,
        }
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = future::Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, connection: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(self.muxer(connection, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = future::Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, connection: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(self.muxer(connection, Mode::Client)))
    }
}

/// One connection with its streams.
pub(super) struct Muxer<C> {
    connection: Connection<Counted<C>>,
    account: Arc<Account>,
    /// Streams that came while libp2p did not ask for any; yamux bounds how many there are.
    waiting: VecDeque<Stream>,
    waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn wrap(&self, inner: yamux::Stream) -> Stream {
        let id = inner.id().val();
        self.account.opened(id);
        Stream {
            inner,
            id,
            account: Arc::clone(&self.account),
        }
    }

    /// Drives the connection until a stream comes.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match ready!(self.connection.poll_next_inbound(cx)) {
            Some(Ok(stream)) => Poll::Ready(Ok(self.wrap(stream))),
            Some(Err(error)) => Poll::Ready(Err(failure(error))),
            None => Poll::Ready(Err(failure(ConnectionError::Closed))),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::Substream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.next(cx);
        if next.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(self.connection.poll_new_outbound(cx));
        Poll::Ready(stream.map(|s| self.wrap(s)).map_err(failure))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(failure)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = ready!(self.next(cx))?;
        self.waiting.push_back(stream);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        // There may be more; others run in between.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn failure(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// One stream; what it holds unread is forgotten with it.
pub(super) struct Stream {
    inner: yamux::Stream,
    id: u32,
    account: Arc<Account>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.account.closed(self.id);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        self.account.read(self.id, read);
        Poll::Ready(Ok(read))
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

/// A connection whose frames are counted as they come in.
struct Counted<C> {
    inner: C,
    frames: Frames,
    account: Arc<Account>,
}

impl<C> Counted<C> {
    fn alive(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.account.is_doomed(cx) {
            return Err(io::Error::other("more waits unread than there is room for"));
        }
        Ok(())
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        let this = &mut *self;
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        this.frames.take(&buffer[..read], &this.account)?;
        Poll::Ready(Ok(read))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A peer that does not read what we send is not read from: this is where a doomed one is met.
        self.alive(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Where in the sequence of frames the bytes that come in are.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER],
    filled: usize,
    /// Bytes of the present frame's body that are still to come.
    body: usize,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], account: &Account) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.body.min(bytes.len());
            self.body -= skipped;
            bytes = &bytes[skipped..];
            let some = (HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + some].copy_from_slice(&bytes[..some]);
            self.filled += some;
            bytes = &bytes[some..];
            if self.filled == HEADER {
                self.filled = 0;
                self.body = Self::begin(&self.header, account)?;
            }
        }
        Ok(())
    }

    /// Counts a frame; returns how long its body is.
    fn begin(header: &[u8; HEADER], account: &Account) -> io::Result<usize> {
        let [_, kind, _, flags, a, b, c, d, rest @ ..] = *header;
        let stream = u32::from_be_bytes([a, b, c, d]);
        if flags & SYN != 0 && (kind == DATA || kind == WINDOW_UPDATE) {
            account.opened(stream);
        }
        if kind != DATA {
            return Ok(0);
        }
        let length = usize::try_from(u32::from_be_bytes(rest)).unwrap_or(usize::MAX);
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::other("a frame is larger than a window"));
        }
        account.came(stream, length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use libp2p::core::muxing::StreamMuxerExt as _;
    use std::{future::poll_fn, time::Duration};
    use tokio::time::timeout;

    const KIB: usize = 1024;
    const WINDOWS: Windows = Windows {
        streams: 8,
        growth: 512 * 1024,
    };

    type End = Muxer<tokio_pipe::Pipe>;

    /// A pipe in memory with the traits of `futures`.
    mod tokio_pipe {
        use super::*;
        use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

        pub struct Pipe(pub DuplexStream);

        impl AsyncRead for Pipe {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }

        impl AsyncWrite for Pipe {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, bytes)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }

            fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
    }

    /// Who dialled, and the other end with `budget`.
    fn pair(budget: &Budget) -> (End, End) {
        let (near, far) = tokio::io::duplex(64 * KIB);
        let unbounded = Budget::new(usize::MAX);
        (
            Config::new(WINDOWS, unbounded).muxer(tokio_pipe::Pipe(near), Mode::Client),
            Config::new(WINDOWS, budget.clone()).muxer(tokio_pipe::Pipe(far), Mode::Server),
        )
    }

    /// Drives a connection until it fails.
    async fn drive(mut muxer: End) -> io::Error {
        loop {
            match poll_fn(|cx| muxer.poll_unpin(cx)).await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    #[tokio::test]
    async fn what_nobody_reads_is_counted_until_it_is_read_or_dropped() {
        let budget = Budget::new(usize::MAX);
        let (mut near, mut far) = pair(&budget);
        let mut sending = poll_fn(|cx| near.poll_outbound_unpin(cx))
            .await
            .expect("a stream");
        tokio::spawn(drive(near));
        sending
            .write_all(&vec![7; 100 * KIB])
            .await
            .expect("a window");
        sending.flush().await.expect("sent");
        let mut read = poll_fn(|cx| far.poll_inbound_unpin(cx))
            .await
            .expect("a stream");
        tokio::spawn(drive(far));
        let held = async {
            while budget.held() < 100 * KIB {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), held)
            .await
            .expect("all came");
        let mut some = vec![0; 60 * KIB];
        read.read_exact(&mut some).await.expect("it is there");
        assert_eq!(budget.held(), 40 * KIB);
        drop(read);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn who_fills_the_budget_with_what_nobody_reads_loses_its_connection_alone() {
        let budget = Budget::new(600 * KIB);
        let (quiet, served) = pair(&budget);
        let quiet = (tokio::spawn(drive(quiet)), tokio::spawn(drive(served)));
        let (mut near, far) = pair(&budget);
        let far = tokio::spawn(drive(far));
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(
                poll_fn(|cx| near.poll_outbound_unpin(cx))
                    .await
                    .expect("a stream"),
            );
        }
        tokio::spawn(drive(near));
        for stream in &mut streams {
            // The last ones fail, or wait for a window that never comes.
            let sent = async {
                let _ = stream.write_all(&vec![7; 200 * KIB]).await;
                let _ = stream.flush().await;
            };
            let _ = timeout(Duration::from_secs(5), sent).await;
        }
        let ended = timeout(Duration::from_secs(20), far)
            .await
            .expect("it ends");
        let why = ended.expect("no panic").to_string();
        assert!(why.contains("waits unread"), "{why}");
        assert!(!quiet.0.is_finished() && !quiet.1.is_finished());
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn frames_are_counted_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        let mut frame = |kind: u8, flags: u8, stream: u32, length: u32, body: usize| {
            bytes.extend([0, kind, 0, flags]);
            bytes.extend(stream.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![9; body]);
        };
        frame(WINDOW_UPDATE, SYN, 1, 1000, 0);
        frame(DATA, 0, 1, 30, 30);
        frame(2, SYN, 0, 77, 0);
        frame(DATA, SYN, 3, 5, 5);
        frame(DATA, 0, 9, 40, 40);
        for step in 1..bytes.len() {
            let budget = Budget::new(1000);
            let account = budget.connection();
            let mut frames = Frames::default();
            for part in bytes.chunks(step) {
                frames.take(part, &account).expect("within limits");
            }
            assert_eq!((budget.held(), frames.filled, frames.body), (35, 0, 0));
        }
        let huge = [0, DATA, 0, 0, 0, 0, 0, 1, 0, 4, 0, 1];
        let budget = Budget::new(1000);
        assert!(Frames::default().take(&huge, &budget.connection()).is_err());
    }
}
