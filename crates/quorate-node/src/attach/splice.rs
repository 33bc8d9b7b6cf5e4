//! Carrying bytes between a program's socket and a tunnel stream.
//!
//! Each direction reads into one buffer of [`COPY_BUFFER`] bytes and writes it out before it
//! reads again: a slow receiver slows the sender down, and nothing piles up here. The end of one
//! direction is passed on as a half-close; the other direction goes on.
//!
//! The two sides are not alike. A program that closes its socket, or dies, has simply ended its
//! side. A tunnel stream that fails is a lost link, and ends both directions at once.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The size of each copy buffer; one per direction and link.
pub const COPY_BUFFER: usize = 64 * 1024;

/// Carry both directions until both have ended. `Err` is a failure of the tunnel stream.
pub(super) async fn splice<R, W, S>(
    program: (R, W),
    tunnel: S,
    tx: &AtomicU64,
    rx: &AtomicU64,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (program_read, program_write) = program;
    let (tunnel_read, tunnel_write) = tokio::io::split(tunnel);
    tokio::try_join!(
        to_tunnel(program_read, tunnel_write, tx),
        to_program(tunnel_read, program_write, rx),
    )?;
    Ok(())
}

async fn to_tunnel(
    mut program: impl AsyncRead + Unpin,
    mut tunnel: impl AsyncWrite + Unpin,
    tx: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        // A program that died with unread bytes shows as an error here: the same as its end.
        let count = program.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return tunnel.shutdown().await;
        }
        tunnel.write_all(&buffer[..count]).await?;
        tunnel.flush().await?;
        tx.fetch_add(count as u64, Ordering::Relaxed);
    }
}

async fn to_program(
    mut tunnel: impl AsyncRead + Unpin,
    mut program: impl AsyncWrite + Unpin,
    rx: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        let count = tunnel.read(&mut buffer).await?;
        if count == 0 {
            // The program may be gone already; then there is nobody to tell.
            program.shutdown().await.ok();
            return Ok(());
        }
        if program.write_all(&buffer[..count]).await.is_err() {
            return Ok(());
        }
        rx.fetch_add(count as u64, Ordering::Relaxed);
    }
}
