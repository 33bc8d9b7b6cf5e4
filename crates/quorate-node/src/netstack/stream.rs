//! A TCP stream through the tunnel, as tokio sees it.

use super::{Shared, core::Core, limits::STREAM_BUFFER};
use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{RecvError, State},
};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When more than this was waiting, reading it may have opened the window enough to tell the peer.
const WINDOW_NEWS: usize = STREAM_BUFFER / 4;

/// A stream to one peer. Each half closes by itself: `shutdown` ends ours, end of file the
/// peer's. Dropping it after `shutdown` delivers what was written, unless unread data shows that
/// the peer believes in a reader. Dropping it in any other state resets the connection: what was
/// not sent yet is lost.
#[derive(Debug)]
pub struct TunnelStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
    peer: u16,
    /// The peer ended its half; remembered because the socket forgets it at the end.
    finished: bool,
}

impl TunnelStream {
    pub(super) fn connect(shared: &Arc<Shared>, peer: u16, port: u16) -> io::Result<Self> {
        let mut core = shared.lock();
        let handle = core.connect(peer, port)?;
        shared.flush(&mut core);
        drop(core);
        Ok(Self::adopt(shared, handle, peer))
    }

    pub(super) fn adopt(shared: &Arc<Shared>, handle: SocketHandle, peer: u16) -> Self {
        Self {
            shared: Arc::clone(shared),
            handle,
            peer,
            finished: false,
        }
    }

    /// The index of the peer at the other end.
    pub fn peer(&self) -> u16 {
        self.peer
    }

    /// Waits until the peer has answered.
    pub(super) async fn established(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut core = self.shared.lock();
            let closed = core.is_closed();
            let socket = core.socket(self.handle);
            match socket.state() {
                _ if closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    fn read(&mut self, core: &mut Core, buf: &mut ReadBuf<'_>) -> Result<usize, RecvError> {
        if let Some(saved) = core.saved(self.handle) {
            if saved.is_empty() {
                return Err(RecvError::Finished);
            }
            let length = saved.len().min(buf.remaining());
            buf.put_slice(&saved[..length]);
            saved.drain(..length);
            return Ok(length);
        }
        let socket = core.socket(self.handle);
        let mut total = 0;
        // Twice at most: a ring has two stretches.
        while buf.remaining() > 0 && socket.can_recv() {
            total += socket.recv(|data| {
                let length = data.len().min(buf.remaining());
                buf.put_slice(&data[..length]);
                (length, length)
            })?;
        }
        if total == 0 {
            socket.recv(|_| (0, ()))?;
        }
        Ok(total)
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.finished || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let shared = Arc::clone(&this.shared);
        let mut core = shared.lock();
        let waiting = core.socket(this.handle).recv_queue();
        match this.read(&mut core, buf) {
            Ok(0) => {
                core.socket(this.handle).register_recv_waker(cx.waker());
                Poll::Pending
            }
            Ok(_) => {
                if waiting > WINDOW_NEWS {
                    shared.flush(&mut core);
                }
                Poll::Ready(Ok(()))
            }
            Err(RecvError::Finished) => {
                this.finished = true;
                Poll::Ready(Ok(()))
            }
            Err(RecvError::InvalidState) => Poll::Ready(Err(broken(&core))),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut core = self.shared.lock();
        let socket = core.socket(self.handle);
        match socket.send_slice(data) {
            Ok(0) => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            Ok(length) => {
                self.shared.flush(&mut core);
                Poll::Ready(Ok(length))
            }
            Err(_) => Poll::Ready(Err(if socket.is_open() {
                io::ErrorKind::BrokenPipe.into()
            } else {
                broken(&core)
            })),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Written data is on its way; TCP, not the caller, keeps it until it is acknowledged.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.shared.lock();
        core.socket(self.handle).close();
        self.shared.flush(&mut core);
        Poll::Ready(Ok(()))
    }
}

fn broken(core: &Core) -> io::Error {
    if core.is_closed() {
        io::ErrorKind::NotConnected.into()
    } else {
        io::ErrorKind::ConnectionReset.into()
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        core.abandon(self.handle);
        self.shared.flush(&mut core);
        // The task removes the socket once TCP is done with it.
        self.shared.kick.notify_one();
    }
}
