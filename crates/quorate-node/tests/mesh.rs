//! The mesh with real sockets on loopback: it comes up, carries streams, keeps strangers and
//! liars out, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod mesh_world;

use mesh_world::{PATIENCE, World};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const PORT: u16 = 11_365;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_parties_come_up_and_all_pairs_talk_both_ways() {
    let mut world = World::new(3).await;
    world.all_up().await;
    for from in 0..3_u16 {
        for to in 0..3_u16 {
            if from == to {
                continue;
            }
            let mut listener = world.meshes[usize::from(to)].listener(PORT);
            let connect = world.meshes[usize::from(from)].connect(to, PORT);
            let (out, accepted) =
                timeout(PATIENCE, async { tokio::join!(connect, listener.accept()) })
                    .await
                    .expect("connected");
            let (mut out, (mut inside, peer)) = (out.unwrap(), accepted.unwrap());
            assert_eq!((peer, inside.peer(), out.peer()), (from, from, to));
            out.write_all(b"there").await.unwrap();
            inside.write_all(b"and back").await.unwrap();
            let mut there = [0; 5];
            inside.read_exact(&mut there).await.unwrap();
            let mut back = [0; 8];
            out.read_exact(&mut back).await.unwrap();
            assert_eq!((&there, &back), (b"there", b"and back"));
        }
    }
    for mesh in &world.meshes {
        for link in mesh.links() {
            assert!(link.up && link.path == "local", "{link:?}");
            assert!(
                link.tx > 0 && link.rx > 0 && link.last_handshake.is_some(),
                "{link:?}"
            );
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_starting_at_once_always_connect_quickly() {
    let mut slowest = Duration::ZERO;
    for _ in 0..30 {
        let start = Instant::now();
        let mut world = World::new(2).await;
        world.all_up().await;
        slowest = slowest.max(start.elapsed());
        world.stop().await;
    }
    // A lost race of two initiations would cost one retry of five seconds.
    assert!(
        slowest < Duration::from_secs(4),
        "the slowest of 30 took {slowest:?}"
    );
}
