//! Meshes whose parties have lanes to each other: used at once, left for a direct path, taken again
//! when that is gone, and never against what the parties agreed on.
#![allow(clippy::unwrap_used, clippy::panic)]

mod mesh_world;

use mesh_world::{PATIENCE, World, config};
use quorate_node::{
    overlay::LaneState,
    wireguard::{LaneOut, Lanes, MeshConfig},
};
use quorate_path::{Policy, stun};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

const PORT: u16 = 4000;

/// Lanes in memory: what one end sends comes to the other.
#[derive(Debug)]
struct Wire {
    me: u16,
    to: BTreeMap<u16, mpsc::Sender<(u16, Vec<u8>)>>,
    state: Arc<Mutex<Option<LaneState>>>,
    changes: watch::Sender<u64>,
    /// Datagrams that were given to a relay.
    relayed: AtomicUsize,
}

impl LaneOut for Wire {
    fn send(&self, index: u16, datagram: &[u8]) -> bool {
        let state = self.state.lock().unwrap().clone();
        if state.as_ref().is_some_and(|lane| lane.via.is_some()) {
            self.relayed.fetch_add(1, Ordering::Relaxed);
        }
        state.is_some()
            && self.to[&index]
                .try_send((self.me, datagram.to_vec()))
                .is_ok()
    }

    fn state(&self, _: u16) -> Option<LaneState> {
        self.state.lock().unwrap().clone()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Two parties with lanes between them, and a switch for these.
struct Pair {
    world: World,
    switch: Arc<Mutex<Option<LaneState>>>,
    wires: Vec<Arc<Wire>>,
}

fn via(name: Option<&str>) -> LaneState {
    LaneState {
        via: name.map(str::to_owned),
        rtt: None,
    }
}

async fn pair(lane: LaneState, policy: Policy, change: impl Fn(&mut MeshConfig)) -> Pair {
    let (configs, switch, wires) = two(lane, policy, change);
    let world = World::of(configs).await;
    Pair {
        world,
        switch,
        wires,
    }
}

type Parts = (
    Vec<MeshConfig>,
    Arc<Mutex<Option<LaneState>>>,
    Vec<Arc<Wire>>,
);

fn two(lane: LaneState, policy: Policy, change: impl Fn(&mut MeshConfig)) -> Parts {
    let switch = Arc::new(Mutex::new(Some(lane)));
    let queues: Vec<_> = (0..2).map(|_| mpsc::channel(4096)).collect();
    let senders: Vec<_> = queues.iter().map(|(sender, _)| sender.clone()).collect();
    let mut wires = Vec::new();
    let mut configs = Vec::new();
    for (me, (_, incoming)) in (0..2_u16).zip(queues) {
        let other = 1 - me;
        let wire = Arc::new(Wire {
            me,
            to: BTreeMap::from([(other, senders[usize::from(other)].clone())]),
            state: Arc::clone(&switch),
            changes: watch::Sender::new(0),
            relayed: AtomicUsize::new(0),
        });
        let mut config = config(me, 2);
        config.reach.policy = policy;
        config.reach.lanes = Some(Lanes {
            out: Arc::clone(&wire) as Arc<dyn LaneOut>,
            incoming,
        });
        change(&mut config);
        wires.push(wire);
        configs.push(config);
    }
    (configs, switch, wires)
}

impl Pair {
    fn switch(&self, lane: Option<LaneState>) {
        *self.switch.lock().unwrap() = lane;
        for wire in &self.wires {
            wire.changes.send_modify(|n| *n += 1);
        }
    }

    async fn path(&self, word: &str) {
        let there = async {
            let other = |path: &str| !path.starts_with(word);
            while self.world.meshes.iter().any(|m| other(&m.links()[0].path)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(PATIENCE, there).await.is_ok();
        let links = self.world.meshes[0].links();
        assert!(in_time, "no path {word}: {links:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_without_a_gap_while_its_path_moves() {
    let mut pair = pair(via(Some("relay")), Policy::Any, |_| {}).await;
    pair.world.all_up().await;
    pair.path("local").await;
    let mut listener = pair.world.meshes[1].listener(PORT);
    let mut near = pair.world.meshes[0].connect(1, PORT).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let expected = sent.clone();
    let reading = tokio::spawn(async move {
        let mut got = vec![0; expected.len()];
        far.read_exact(&mut got).await.unwrap();
        assert!(got == expected, "bytes were lost or changed");
        far
    });
    for (i, part) in sent.chunks(100_000).enumerate() {
        near.write_all(part).await.unwrap();
        // The lane goes and comes: the direct path carries on.
        pair.switch((i % 2 == 0).then(|| via(Some("other"))));
    }
    drop(timeout(PATIENCE, reading).await.unwrap().unwrap());
    drop((near, listener));
    pair.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_may_use_relays_only_tells_no_address_and_uses_nothing_else() {
    let mut pair = pair(via(Some("relay.example")), Policy::Relay, |_| {}).await;
    pair.world.all_up().await;
    pair.path("relayed via relay.example").await;
    let mut listener = pair.world.meshes[1].listener(PORT);
    let mut near = pair.world.meshes[0].connect(1, PORT).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    near.write_all(b"over the lane").await.unwrap();
    let mut got = [0; 13];
    far.read_exact(&mut got).await.unwrap();
    let link = pair.world.meshes[0].links().remove(0);
    assert_eq!(link.reason.code(), "relay-only");
    assert_eq!(link.via.as_deref(), Some("relay.example"));
    // A stream straight to the peer is no relay.
    pair.switch(Some(via(None)));
    pair.path("down since").await;
    drop((near, far, listener));
    pair.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_may_use_direct_paths_only_gives_nothing_to_a_relay() {
    let (configs, switch, wires) = two(via(None), Policy::Direct, |_| {});
    let world = World::without_signals(configs).await;
    let mut pair = Pair {
        world,
        switch,
        wires,
    };
    pair.world.all_up().await;
    pair.path("direct").await;
    let mut listener = pair.world.meshes[1].listener(PORT);
    let mut near = pair.world.meshes[0].connect(1, PORT).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    // The stream straight to the peer is gone; one over a relay is there.
    pair.switch(Some(via(Some("relay"))));
    let refused = |at: usize| pair.world.meshes[at].dropped().no_path;
    let down = async {
        let word = |at: usize| pair.world.meshes[at].links().remove(0).path;
        while (0..2).any(|at| !word(at).starts_with("down")) {
            sleep(Duration::from_millis(5)).await;
        }
        near.write_all(b"for nobody's relay").await.unwrap();
        while refused(0) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = timeout(PATIENCE, down).await.is_ok();
    let relayed = || pair.wires[0].relayed.load(Ordering::Relaxed);
    assert!(in_time, "{} datagrams went over the relay", relayed());
    // What was on its way when the lane changed is counted; nothing comes after it.
    let (before, dropped) = (relayed(), refused(0));
    let more = async {
        while refused(0) == dropped {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, more).await.is_ok(), "it is sent again");
    assert_eq!(relayed(), before);
    // It goes on where it may.
    pair.switch(Some(via(None)));
    pair.path("direct").await;
    drop((near, far, listener));
    pair.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_show_one_round_trip() {
    let mut pair = pair(via(Some("relay")), Policy::Any, |_| {}).await;
    pair.world.all_up().await;
    let same = async {
        loop {
            let [a, b] = [0, 1].map(|i: usize| pair.world.meshes[i].links()[0].rtt);
            if a.is_some() && a == b {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, same)
        .await
        .expect("one measurement at both ends");
    pair.world.stop().await;
}

/// A STUN server on loopback that answers with one address to everybody.
async fn stun_server(seen: impl Fn(SocketAddr) -> SocketAddr + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            if let Some(answer) = stun::answer(&buffer[..length], seen(from)) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stun_servers_are_asked_over_the_socket_of_the_mesh() {
    let (told, mut asked) = mpsc::unbounded_channel();
    let server = stun_server(move |from| {
        let _ = told.send(from.port());
        from
    })
    .await;
    let mut pair = pair(via(Some("relay")), Policy::Any, |config| {
        config.reach.stun = vec![server];
    })
    .await;
    pair.world.all_up().await;
    pair.path("local").await;
    let ports: Vec<u16> = pair.world.meshes.iter().map(|m| m.port()).collect();
    for _ in 0..2 {
        let port = timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
        assert!(
            ports.contains(&port),
            "asked from {port}, the meshes have {ports:?}"
        );
    }
    pair.world.stop().await;
}
