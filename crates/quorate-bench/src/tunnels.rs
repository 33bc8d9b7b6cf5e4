//! Streams from program socket to program socket: guard, TCP/IP stack, WireGuard and UDP between
//! them; and their plain counterparts.
//!
//! ```text
//!   near ═ pair ═ guard ─ stack ─ WireGuard ─ UDP on loopback ─ WireGuard ─ stack ─ guard ═ pair ═ far
//! ```
//! The far ends of the pairs are used by threads with blocking calls, as programs do.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use quorate_node::{
    attach::Attach,
    wireguard::{Mesh, MeshConfig, MeshEvent, MeshPeer, Reach},
};
use quorate_path::Scope;
use quorate_session::limits::MTU_RANGE;
use tokio::{sync::mpsc, task::JoinSet};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::{Outcome, process::Process};

/// Bytes of one write and read of a program.
const CHUNK: usize = 128 * 1024;
/// Where the first link listens inside the tunnel.
const FIRST_PORT: u16 = 11_365;

/// A byte stream with blocking calls.
pub trait Stream: std::io::Read + std::io::Write + Send + Sized + 'static {
    /// Nothing more is written.
    fn finish(&self);
}

impl Stream for UnixStream {
    fn finish(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

impl Stream for TcpStream {
    fn finish(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

/// A mesh of two.
pub struct Tunnel {
    ends: [Arc<Mesh>; 2],
    tasks: JoinSet<()>,
    next_port: u16,
}

impl Tunnel {
    /// Starts both ends; they find each other over loopback.
    pub async fn open() -> Outcome<Self> {
        let secrets: [[u8; 32]; 2] = [crate::world::random()?, crate::world::random()?];
        let psk = crate::world::random()?;
        let (zero, zero_events) = Mesh::start(config(0, &secrets, psk)).await?;
        let (one, one_events) = Mesh::start(config(1, &secrets, psk)).await?;
        let ends = [Arc::new(zero), Arc::new(one)];
        let mut tasks = JoinSet::new();
        tasks.spawn(carry_signals(0, zero_events, Arc::clone(&ends[1])));
        tasks.spawn(carry_signals(1, one_events, Arc::clone(&ends[0])));
        Ok(Self {
            ends,
            tasks,
            next_port: FIRST_PORT,
        })
    }

    /// One more link between the programs of the two: their ends.
    pub async fn link(&mut self) -> Outcome<(UnixStream, UnixStream)> {
        let port = self.next_port;
        self.next_port += 1;
        let (from, near, near_events) = Attach::prepare(0, 2)?;
        let (to, far, far_events) = Attach::prepare(1, 2)?;
        let mut listener = self.ends[1].listener(port);
        self.tasks.spawn(async move {
            let _events = far_events;
            if let Ok((stream, peer)) = listener.accept().await {
                let _ = to.run_inbound(peer, stream).await;
            }
        });
        let mesh = Arc::clone(&self.ends[0]);
        self.tasks.spawn(async move {
            let _events = near_events;
            let connect = || {
                let mesh = Arc::clone(&mesh);
                async move { mesh.connect(1, port).await }
            };
            let _ = from.run_outbound(1, connect).await;
        });
        let end = |links: quorate_node::attach::ChildFds| -> Outcome<UnixStream> {
            let mut ends = links.into_iter();
            let (_, end): (u16, OwnedFd) = ends.next().ok_or("a link has an end")?;
            Ok(end.into())
        };
        let (mut near, mut far) = (end(near)?, end(far)?);
        // The number of the dialling party, as MPyC sends it.
        let dialled = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
            near.write_all(&0_u16.to_le_bytes())?;
            far.read_exact(&mut [0; 2])?;
            Ok((near, far))
        });
        Ok(dialled.await??)
    }

    /// Packets and datagrams that both ends dropped.
    pub fn dropped(&self) -> String {
        format!("{:?} {:?}", self.ends[0].dropped(), self.ends[1].dropped())
    }

    /// Ends both ends.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
        for end in self.ends {
            if let Ok(mesh) = Arc::try_unwrap(end) {
                mesh.stop().await;
            }
        }
    }
}

fn config(me: u16, secrets: &[[u8; 32]; 2], psk: [u8; 32]) -> MeshConfig {
    let address = |i: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, i + 1);
    let other = 1 - me;
    let theirs = StaticSecret::from(secrets[usize::from(other)]);
    MeshConfig {
        me,
        secret: Zeroizing::new(secrets[usize::from(me)]),
        address: address(me),
        // What every invitation asks for.
        mtu: *MTU_RANGE.start(),
        scope: Scope::Local,
        peers: vec![MeshPeer {
            index: other,
            public: PublicKey::from(&theirs).to_bytes(),
            psk: Zeroizing::new(psk),
            address: address(other),
        }],
        reach: Reach::default(),
    }
}

async fn carry_signals(from: u16, mut events: mpsc::Receiver<MeshEvent>, to: Arc<Mesh>) {
    while let Some(event) = events.recv().await {
        if let MeshEvent::Signal { data, .. } = event {
            to.handle_signal(from, data);
        }
    }
}

/// A plain pair of Unix sockets.
pub fn unix_pair() -> Outcome<(UnixStream, UnixStream)> {
    Ok(UnixStream::pair()?)
}

/// A plain TCP connection over loopback, without delays, as MPyC's.
pub fn tcp_pair() -> Outcome<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// How fast, and at which cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Rate {
    /// Gigabits of payload per second, all streams together.
    pub gigabits: f64,
    /// Processor seconds of this process per 10⁹ bytes: both ends, and the threads that play the
    /// programs.
    pub cpu_per_gigabyte: f64,
}

/// Sends `bytes` through each stream at the same time.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn bulk<S: Stream>(streams: Vec<(S, S)>, bytes: usize) -> Outcome<Rate> {
    let total = streams.len() * bytes;
    let cpu = Process::own().cpu()?;
    let start = Instant::now();
    let mut threads = Vec::new();
    for (mut near, mut far) in streams {
        threads.push(thread::spawn(move || -> std::io::Result<usize> {
            let chunk = vec![0x5a; CHUNK];
            let mut left = bytes;
            while left > 0 {
                let length = left.min(CHUNK);
                near.write_all(&chunk[..length])?;
                left -= length;
            }
            near.finish();
            // Stays open until the other end has everything.
            near.read_exact(&mut [0])?;
            Ok(0)
        }));
        threads.push(thread::spawn(move || -> std::io::Result<usize> {
            let mut chunk = vec![0; CHUNK];
            let mut count = 0;
            while count < bytes {
                match far.read(&mut chunk)? {
                    0 => break,
                    n => count += n,
                }
            }
            far.write_all(&[1])?;
            Ok(count)
        }));
    }
    let mut arrived = 0;
    for thread in threads {
        arrived += thread.join().map_err(|_| "a program's thread failed")??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = Process::own().cpu()?.saturating_sub(cpu).as_secs_f64();
    if arrived != total {
        return Err(format!("{arrived} of {total} bytes arrived").into());
    }
    Ok(Rate {
        gigabits: total as f64 * 8.0 / seconds / 1e9,
        cpu_per_gigabyte: cpu / (total as f64 / 1e9),
    })
}

/// The times of `count` round trips of `size` bytes.
pub fn round_trips<S: Stream>(
    (mut near, mut far): (S, S),
    size: usize,
    count: usize,
) -> Outcome<Vec<Duration>> {
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let mut bytes = vec![0; size];
        for _ in 0..count {
            far.read_exact(&mut bytes)?;
            far.write_all(&bytes)?;
        }
        Ok(())
    });
    let mut bytes = vec![7; size];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        near.write_all(&bytes)?;
        near.read_exact(&mut bytes)?;
        times.push(start.elapsed());
    }
    echo.join().map_err(|_| "the echo failed")??;
    Ok(times)
}
