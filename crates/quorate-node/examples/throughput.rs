//! What the mesh costs: throughput and round trip of a stream through the tunnel, next to plain
//! TCP on loopback, in one run on one machine.
//!
//! ```sh
//! cargo run --release -p quorate-node --example throughput [MEBIBYTES]
//! ```
//! Both ends, with all encryption, share this machine's processors.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use quorate_node::wireguard::{Mesh, MeshConfig, MeshEvent, MeshPeer, Reach};
use quorate_path::Scope;
use std::{
    net::Ipv6Addr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::Receiver,
};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const CHUNK: usize = 128 * 1024;
const ROUND_TRIPS: usize = 2000;

fn secret(index: u16) -> [u8; 32] {
    [u8::try_from(index).unwrap() + 1; 32]
}

fn config(me: u16) -> MeshConfig {
    let address = |i: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, i + 1);
    let other = 1 - me;
    MeshConfig {
        me,
        secret: Zeroizing::new(secret(me)),
        address: address(me),
        mtu: 1420,
        scope: Scope::Local,
        peers: vec![MeshPeer {
            index: other,
            public: PublicKey::from(&StaticSecret::from(secret(other))).to_bytes(),
            psk: Zeroizing::new([5; 32]),
            address: address(other),
        }],
        reach: Reach::default(),
    }
}

fn carry(from: u16, mut events: Receiver<MeshEvent>, to: Arc<Mesh>) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let MeshEvent::Signal { data, .. } = event {
                to.handle_signal(from, data);
            }
        }
    });
}

async fn bulk<A, B>(mut from: A, mut to: B, bytes: usize) -> f64
where
    A: AsyncWrite + Unpin + Send + 'static,
    B: AsyncRead + Unpin + Send + 'static,
{
    let start = Instant::now();
    let sender = tokio::spawn(async move {
        let chunk = vec![0x5a; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let length = left.min(CHUNK);
            from.write_all(&chunk[..length]).await.unwrap();
            left -= length;
        }
        from.shutdown().await.unwrap();
        from
    });
    let receiver = tokio::spawn(async move {
        let mut chunk = vec![0; CHUNK];
        let mut total = 0;
        loop {
            let length = to.read(&mut chunk).await.unwrap();
            if length == 0 {
                return total;
            }
            total += length;
        }
    });
    assert_eq!(receiver.await.unwrap(), bytes, "every byte arrives");
    let seconds = start.elapsed().as_secs_f64();
    drop(sender.await.unwrap());
    bytes as f64 * 8.0 / seconds / 1e9
}

/// The middle of all round trips of one byte.
async fn round_trip<A, B>(mut near: A, mut far: B) -> Duration
where
    A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let echo = tokio::spawn(async move {
        let mut byte = [0];
        while far.read_exact(&mut byte).await.is_ok() {
            far.write_all(&byte).await.unwrap();
        }
    });
    let times = tokio::spawn(async move {
        let mut byte = [7];
        let mut times = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let start = Instant::now();
            near.write_all(&byte).await.unwrap();
            near.read_exact(&mut byte).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        times[ROUND_TRIPS / 2]
    });
    let middle = times.await.unwrap();
    echo.await.unwrap();
    middle
}

async fn plain() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

#[tokio::main]
async fn main() {
    let mebibytes = std::env::args().nth(1).and_then(|a| a.parse().ok());
    let bytes = mebibytes.unwrap_or(512_usize) << 20;

    let (near, far) = plain().await;
    println!("plain TCP   {:6.2} Gbit/s", bulk(near, far, bytes).await);
    let (near, far) = plain().await;
    let plain_rtt = round_trip(near, far).await;

    let (zero, zero_events) = Mesh::start(config(0)).await.unwrap();
    let (one, one_events) = Mesh::start(config(1)).await.unwrap();
    let (zero, one) = (Arc::new(zero), Arc::new(one));
    carry(0, zero_events, Arc::clone(&one));
    carry(1, one_events, Arc::clone(&zero));
    let mut listener = one.listener(7);
    for _ in 0..3 {
        let (near, far) = tokio::join!(zero.connect(1, 7), listener.accept());
        let rate = bulk(near.unwrap(), far.unwrap().0, bytes).await;
        println!("the tunnel  {rate:6.2} Gbit/s");
    }
    let (near, far) = tokio::join!(zero.connect(1, 7), listener.accept());
    let rtt = round_trip(near.unwrap(), far.unwrap().0).await;
    let added = rtt.saturating_sub(plain_rtt);
    println!("round trip  {plain_rtt:?} plain, {rtt:?} in the tunnel, {added:?} added");
    println!("dropped     {:?} {:?}", zero.dropped(), one.dropped());
}
