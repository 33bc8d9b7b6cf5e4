//! The mesh with real sockets on loopback: it comes up, carries streams, keeps strangers and
//! liars out, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod mesh_world;

use mesh_world::{PATIENCE, World, address, config, public};
use quorate_node::{
    netstack::TunnelStream,
    wireguard::{Dropped, Mesh, MeshConfig, MeshError},
};
use quorate_path::{Candidate, Scope};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    time::timeout,
};
use zeroize::Zeroizing;

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
        // The path agent names a path a moment after the first packets took it.
        let named = async {
            while mesh.links().iter().any(|link| link.path == "down") {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, named)
            .await
            .expect("every path has a name");
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
async fn a_session_beyond_loopback_uses_the_machines_other_addresses() {
    // Packets between addresses of one machine never leave it.
    let interfaces = if_addrs::get_if_addrs().unwrap();
    let offers = |i: &if_addrs::Interface| {
        Candidate::host((i.ip(), 1).into())
            .admit(Scope::Lan)
            .is_ok()
    };
    if !interfaces.iter().any(offers) {
        return; // a machine with loopback only has nothing to offer here
    }
    let mut configs = vec![config(0, 2), config(1, 2)];
    for config in &mut configs {
        config.scope = Scope::Lan;
    }
    let mut world = World::of(configs).await;
    world.all_up().await;
    let (mut near, mut far) = stream(&world, 0, 1).await;
    echo_once(&mut near, &mut far).await;
    assert_eq!(world.meshes[0].links()[0].path, "local");
    drop((near, far));
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

/// One stream from party `from` to party `to`, both ends.
async fn stream(world: &World, from: u16, to: u16) -> (TunnelStream, TunnelStream) {
    let mut listener = world.meshes[usize::from(to)].listener(PORT);
    let connect = world.meshes[usize::from(from)].connect(to, PORT);
    let both = timeout(PATIENCE, async { tokio::join!(connect, listener.accept()) });
    let (near, far) = both.await.expect("connected in time");
    let (far, peer) = far.unwrap();
    assert_eq!(peer, from);
    (near.unwrap(), far)
}

async fn echo_once(near: &mut TunnelStream, far: &mut TunnelStream) {
    let exchange = async {
        near.write_all(b"still here").await.unwrap();
        let mut got = [0; 10];
        far.read_exact(&mut got).await.unwrap();
        far.write_all(&got).await.unwrap();
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"still here");
    };
    timeout(PATIENCE, exchange)
        .await
        .expect("an exchange in time");
}

/// Bytes without a pattern that a lost, doubled or shifted segment would repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_arrive_as_they_were_sent() {
    let mut world = World::new(2).await;
    world.all_up().await;
    let (mut near, mut far) = stream(&world, 0, 1).await;
    let sent = noise(64 << 20);
    let expected = Sha256::digest(&sent);
    let sender = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        near
    });
    let mut hash = Sha256::new();
    let mut total = 0;
    let mut chunk = vec![0; 1 << 16];
    loop {
        let length = timeout(PATIENCE, far.read(&mut chunk))
            .await
            .expect("progress")
            .unwrap();
        if length == 0 {
            break;
        }
        total += length;
        hash.update(&chunk[..length]);
    }
    assert_eq!(total, 64 << 20);
    assert_eq!(hash.finalize(), expected);
    drop((sender.await.unwrap(), far));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_half_of_a_stream_closes_by_itself() {
    let mut world = World::new(2).await;
    world.all_up().await;
    let (mut near, mut far) = stream(&world, 0, 1).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut question = String::new();
    timeout(PATIENCE, far.read_to_string(&mut question))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(question, "question");
    // The other half still works, also after a while and for more than one buffer of data.
    let answer = noise(3 << 20);
    let copy = answer.clone();
    let writer = tokio::spawn(async move {
        far.write_all(&copy).await.unwrap();
        far.shutdown().await.unwrap();
        far
    });
    let mut got = Vec::new();
    timeout(PATIENCE, near.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert!(got == answer, "{} of {} bytes", got.len(), answer.len());
    assert!(
        near.write_all(b"x").await.is_err(),
        "the closed half took data"
    );
    drop(writer.await.unwrap());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_dropped_after_its_shutdown_delivers_what_was_written() {
    let mut world = World::new(2).await;
    world.all_up().await;
    let (mut near, mut far) = stream(&world, 1, 0).await;
    near.write_all(b"last words").await.unwrap();
    near.shutdown().await.unwrap();
    drop(near);
    let mut got = String::new();
    timeout(PATIENCE, far.read_to_string(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, "last words");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_at_once_all_find_their_listener() {
    let mut world = World::new(3).await;
    world.all_up().await;
    let mut listener = world.meshes[0].listener(PORT);
    let mut connects = tokio::task::JoinSet::new();
    for from in [1_u16, 2] {
        for number in 0..20_u8 {
            let mesh = std::sync::Arc::clone(&world.meshes[usize::from(from)]);
            connects.spawn(async move {
                let mut stream = mesh.connect(0, PORT).await.unwrap();
                stream.write_all(&[number]).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut nothing = Vec::new();
                stream.read_to_end(&mut nothing).await.unwrap();
            });
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let accepted = timeout(PATIENCE, listener.accept())
            .await
            .expect("all are accepted");
        let (mut stream, peer) = accepted.unwrap();
        let mut number = [0];
        stream.read_exact(&mut number).await.unwrap();
        assert!(
            seen.insert((peer, number[0])),
            "{peer} {number:?} came twice"
        );
        stream.shutdown().await.unwrap();
    }
    assert_eq!(seen.len(), 40);
    while let Some(done) = timeout(PATIENCE, connects.join_next()).await.unwrap() {
        done.unwrap();
    }
    drop(listener);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_listening_is_a_refusal() {
    let mut world = World::new(2).await;
    world.all_up().await;
    let refused = world.meshes[0].connect(1, PORT).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let unknown = world.meshes[0].connect(7, PORT);
    assert!(
        timeout(PATIENCE, unknown)
            .await
            .expect("named timeout")
            .is_err()
    );
    world.stop().await;
}

// --- strangers and liars ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_packets_change_nothing() {
    let mut world = World::new(2).await;
    world.all_up().await;
    let (mut near, mut far) = stream(&world, 0, 1).await;
    let target = ("127.0.0.1", world.meshes[0].port());
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut initiation = [0x5a; 148];
    initiation[..4].copy_from_slice(&[1, 0, 0, 0]);
    let mut data = vec![0x5a; 1452];
    data[..4].copy_from_slice(&[4, 0, 0, 0]);
    let mut binding = vec![0x5a; 120];
    binding[..8].copy_from_slice(&[0, 1, 0, 100, 0x21, 0x12, 0xa4, 0x42]);
    let oversized = vec![4; 60_000];
    let odd = [&[][..], &[0], &[1, 0, 0, 0], &[0xff; 1500], &oversized];
    let wellformed = [&initiation[..], &data, &binding];
    for _ in 0..300 {
        for datagram in odd.iter().chain(&wellformed) {
            stranger.send_to(datagram, target).await.unwrap();
        }
        echo_once(&mut near, &mut far).await;
    }
    let dropped = world.meshes[0].dropped();
    assert!(
        dropped.unknown_source > 0 && dropped.garbage > 0,
        "{dropped:?}"
    );
    assert!(
        dropped.stun_refused + dropped.stun_overflow > 0,
        "{dropped:?}"
    );
    let mut answer = [0; 2000];
    assert!(
        stranger.try_recv(&mut answer).is_err(),
        "the stranger got an answer"
    );
    drop((near, far));
    world.stop().await;
}

/// A world of two in which party 1 is made by `change`; tells whether they came up, and what
/// party 0 dropped.
async fn odd_pair(change: impl FnOnce(&mut MeshConfig)) -> (bool, Dropped) {
    let mut odd = config(1, 2);
    change(&mut odd);
    let world = World::of(vec![config(0, 2), odd]).await;
    let mut up = world.up[0].clone();
    // Honest pairs take a few milliseconds; this has several retries of a handshake.
    let came_up = timeout(Duration::from_secs(3), up.wait_for(|up| !up.is_empty())).await;
    let came_up = came_up.is_ok();
    let path = world.meshes[0].links()[0].path.clone();
    assert_eq!(path, "local", "only the keys may stand between them");
    let refused = world.meshes[0].dropped();
    let connect = timeout(Duration::from_millis(500), world.meshes[0].connect(1, PORT));
    assert!(connect.await.is_err(), "a stream went through");
    world.stop().await;
    (came_up, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_never_connects() {
    let (came_up, _) = odd_pair(|c| c.secret = Zeroizing::new([66; 32])).await;
    assert!(!came_up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pre_shared_key_never_connects() {
    let (came_up, dropped) = odd_pair(|c| c.peers[0].psk = Zeroizing::new([66; 32])).await;
    assert!(!came_up);
    // The responder's answer reached the initiator and did not open.
    assert!(dropped.undecryptable > 0, "{dropped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_with_somebody_elses_overlay_address_are_dropped_and_counted() {
    // Party 1 holds the right keys but sends as party 2, in a mesh of three.
    let mut liar = config(1, 3);
    liar.address = address(2);
    for peer in &mut liar.peers {
        if peer.index == 2 {
            peer.address = address(1);
        }
    }
    let world = World::of(vec![config(0, 3), liar, config(2, 3)]).await;
    let mut up = world.up[0].clone();
    timeout(PATIENCE, up.wait_for(|up| up.contains(&2)))
        .await
        .expect("the honest pair")
        .unwrap();
    // The answer to party 0's probes comes out of tunnel 1 with the address of party 2.
    let counted = async {
        while world.meshes[0].dropped().spoofed == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted)
        .await
        .expect("the lie is counted");
    assert!(!world.up[0].borrow().contains(&1), "the liar came up");
    let (mut near, mut far) = stream(&world, 0, 2).await;
    echo_once(&mut near, &mut far).await;
    drop((near, far));
    world.stop().await;
}

#[tokio::test]
async fn a_mesh_that_contradicts_itself_is_refused() {
    let refused = async |change: fn(&mut MeshConfig)| {
        let mut config = config(0, 3);
        change(&mut config);
        matches!(Mesh::start(config).await, Err(MeshError::Config(_)))
    };
    assert!(refused(|c| c.peers.clear()).await);
    assert!(refused(|c| c.mtu = 600).await);
    assert!(refused(|c| c.peers[0].index = 0).await);
    assert!(refused(|c| c.peers[0].address = c.peers[1].address).await);
    assert!(refused(|c| c.peers[0].address = c.address).await);
    assert!(refused(|c| c.peers[0].public = c.peers[1].public).await);
    assert!(refused(|c| c.peers[0].public = public(0)).await);
}

// --- ends ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_mesh_leaves_no_socket_and_no_task() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let open = |port: u16| {
        let table = std::fs::read_to_string("/proc/self/net/udp").unwrap();
        table.contains(&format!(" 0100007F:{port:04X} "))
    };
    let before = tasks();
    let mut world = World::new(3).await;
    world.all_up().await;
    let ports: Vec<u16> = world.meshes.iter().map(|m| m.port()).collect();
    assert!(
        ports.iter().all(|p| open(*p)),
        "the check would see an open socket"
    );
    let (near, far) = stream(&world, 0, 1).await;
    let mut listener = world.meshes[2].listener(PORT);
    world.stop().await;
    assert!(!ports.iter().any(|p| open(*p)), "a socket is still open");
    // The runtime strikes a task off its list a moment after whoever joined it is woken.
    let struck_off = async {
        while tasks() > before {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, struck_off)
        .await
        .expect("no task is left");
    // What outlived the mesh ends in errors, not in silence.
    let (mut near, mut far) = (near, far);
    let mut byte = [0];
    assert!(
        timeout(PATIENCE, near.read_exact(&mut byte))
            .await
            .unwrap()
            .is_err()
    );
    assert!(
        timeout(PATIENCE, far.write_all(&byte))
            .await
            .unwrap()
            .is_err()
    );
    assert!(timeout(PATIENCE, listener.accept()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanishes_does_not_hurt_the_others() {
    let mut world = World::new(3).await;
    world.all_up().await;
    let (mut near, mut far) = stream(&world, 0, 1).await;
    let (mut lost, gone) = stream(&world, 0, 2).await;
    // The socket of party 2 closes without a word; whoever sends to it is refused by the system.
    let mesh = std::sync::Arc::try_unwrap(world.meshes.pop().unwrap()).unwrap();
    let port = mesh.port();
    std::mem::forget(gone);
    mesh.stop().await;
    assert!(
        UdpSocket::bind(("127.0.0.1", port)).await.is_ok(),
        "the port is free again"
    );
    for _ in 0..200 {
        let _ = lost.write(b"into the void").await;
        echo_once(&mut near, &mut far).await;
    }
    drop((near, far, lost));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_is_merely_dropped_ends_too() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let (mesh, events) = Mesh::start(config(0, 2)).await.unwrap();
    assert!(tasks() > before);
    drop((mesh, events));
    let ended = async {
        while tasks() > before {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("no task is left");
}

#[test]
fn a_process_frozen_for_twelve_seconds_keeps_its_streams() {
    let (to_frozen, orders) = std::sync::mpsc::channel::<Duration>();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // Party 1 lives on a thread of its own, which stands still when it is told to, as a process
    // does under SIGSTOP: packets pile up in its socket.
    let (handles, frozen) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mesh, events) = Mesh::start(config(1, 2)).await.unwrap();
            let mesh = std::sync::Arc::new(mesh);
            let mut listener = mesh.listener(PORT);
            handles
                .send((std::sync::Arc::clone(&mesh), events))
                .unwrap();
            drop(mesh);
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.unwrap();
                if let Ok(time) = orders.try_recv() {
                    std::thread::sleep(time);
                }
            }
        });
    });
    let (one, one_events) = frozen.recv().unwrap();
    runtime.block_on(async {
        let (zero, zero_events) = Mesh::start(config(0, 2)).await.unwrap();
        let zero = std::sync::Arc::new(zero);
        mesh_world::bring(1, one_events, std::sync::Arc::downgrade(&zero));
        mesh_world::bring(0, zero_events, std::sync::Arc::downgrade(&one));
        let mut stream = timeout(PATIENCE, zero.connect(1, PORT))
            .await
            .unwrap()
            .unwrap();
        let mut byte = [1];
        stream.write_all(&byte).await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        let start = Instant::now();
        to_frozen.send(Duration::from_secs(12)).unwrap();
        stream.write_all(&byte).await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        for next in 0..100_u8 {
            stream.write_all(&[next]).await.unwrap();
            timeout(PATIENCE, stream.read_exact(&mut byte))
                .await
                .expect("it goes on")
                .unwrap();
            assert_eq!(byte[0], next);
        }
        assert!(
            start.elapsed() > Duration::from_secs(11),
            "it was not frozen"
        );
        assert!(
            start.elapsed() < Duration::from_secs(16),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(zero.links()[0].path, "local");
        drop(stream);
        drop(one);
    });
    drop(runtime);
    thread.join().unwrap();
}
