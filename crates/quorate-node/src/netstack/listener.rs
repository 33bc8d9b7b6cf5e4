//! A listening port of the stack.

use super::{Shared, stream::TunnelStream};
use smoltcp::iface::SocketHandle;
use std::{io, sync::Arc};
use tokio::sync::mpsc;

/// Takes connections of peers to one port. Closes the port when dropped.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    port: u16,
    generation: u64,
    accepted: mpsc::Receiver<(SocketHandle, u16)>,
}

impl Listener {
    pub(super) fn open(shared: &Arc<Shared>, port: u16) -> Self {
        let (accepted, generation) = shared.lock().listen(port);
        Self {
            shared: Arc::clone(shared),
            port,
            generation,
            accepted,
        }
    }

    /// The next connection, with the index of the peer it comes from. Fails when the stack has
    /// stopped or another listener took the port.
    pub async fn accept(&mut self) -> io::Result<(TunnelStream, u16)> {
        let next = self.accepted.recv().await;
        let (handle, peer) = next.ok_or(io::ErrorKind::NotConnected)?;
        Ok((TunnelStream::adopt(&self.shared, handle, peer), peer))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepted.close();
        let mut core = self.shared.lock();
        core.close_port(self.port, Some(self.generation));
        while let Ok((handle, _)) = self.accepted.try_recv() {
            core.abandon(handle);
        }
        self.shared.flush(&mut core);
        self.shared.kick.notify_one();
    }
}
