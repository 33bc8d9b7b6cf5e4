//! The TCP/IP stack by itself: two of them joined in memory, by a wire that may lose packets.
#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::BytesMut;
use quorate_node::netstack::{
    Stack, StackConfig, TunnelStream,
    limits::{
        MAX_ORPHANS_PER_PEER, MAX_SOCKETS, MAX_STREAMS_PER_PEER, PACKET_QUEUE, STREAM_BUFFER,
    },
};
use std::{
    io::ErrorKind,
    net::Ipv6Addr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 80;

struct Wire {
    stacks: [Stack; 2],
    _pumps: JoinSet<()>,
}

fn address(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, index + 1)
}

/// Two stacks; packet number `n` in each direction arrives if `arrives(n)`.
fn joined(arrives: fn(usize) -> bool) -> Wire {
    let make = |me: u16| {
        let (out, packets) = mpsc::channel(PACKET_QUEUE);
        let config = StackConfig {
            address: address(me),
            mtu: 1420,
            peers: vec![(1 - me, address(1 - me))],
            seed: u64::from(me) + 0x1234_5678_9abc,
        };
        (Stack::start(&config, out), packets)
    };
    let ((zero, from_zero), (one, from_one)) = (make(0), make(1));
    let mut pumps = JoinSet::new();
    for (mut packets, to) in [(from_zero, one.injector()), (from_one, zero.injector())] {
        pumps.spawn(async move {
            let mut batch: Vec<BytesMut> = Vec::new();
            let mut number = 0;
            while packets.recv_many(&mut batch, 64).await > 0 {
                batch.retain(|_| {
                    number += 1;
                    arrives(number)
                });
                to.inject(&mut batch);
            }
        });
    }
    Wire {
        stacks: [zero, one],
        _pumps: pumps,
    }
}

async fn stream(wire: &Wire) -> (TunnelStream, TunnelStream) {
    let mut listener = wire.stacks[1].listener(PORT);
    let both = async { tokio::join!(wire.stacks[0].connect(1, PORT), listener.accept()) };
    let (near, far) = timeout(PATIENCE, both).await.expect("connected in time");
    (near.unwrap(), far.unwrap().0)
}

/// Writes until nothing more is taken; the number of bytes taken.
async fn fill(stream: &mut TunnelStream) -> usize {
    let chunk = vec![1; 64 * 1024];
    let mut total = 0;
    while let Ok(taken) = timeout(Duration::from_millis(500), stream.write(&chunk)).await {
        total += taken.unwrap();
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_waits_for_a_reader_who_does_not_read() {
    let wire = joined(|_| true);
    let (mut near, mut far) = stream(&wire).await;
    let taken = fill(&mut near).await;
    assert!(taken >= STREAM_BUFFER, "only {taken} bytes were taken");
    assert!(
        taken <= 2 * STREAM_BUFFER,
        "{taken} bytes are held for nobody"
    );
    // Reading makes room again, and everything is there.
    let mut got = vec![0; taken];
    timeout(PATIENCE, far.read_exact(&mut got))
        .await
        .expect("data flows again")
        .unwrap();
    assert!(
        timeout(PATIENCE, near.write(&[1; 1000]))
            .await
            .expect("room again")
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_a_stream_goes_on_when_its_peer_is_heard_of_again() {
    static CUT: AtomicBool = AtomicBool::new(false);
    let wire = joined(|_| !CUT.load(Ordering::Relaxed));
    let (mut near, mut far) = stream(&wire).await;
    near.write_all(b"before").await.unwrap();
    let mut got = [0; 6];
    far.read_exact(&mut got).await.unwrap();
    // Sent again after one second and after three, and then after seven.
    let began = Instant::now();
    CUT.store(true, Ordering::Relaxed);
    near.write_all(b"during").await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    CUT.store(false, Ordering::Relaxed);
    wire.stacks[1].injector().remind(0);
    timeout(PATIENCE, far.read_exact(&mut got))
        .await
        .expect("sent again")
        .unwrap();
    assert_eq!(&got, b"during");
    assert!(began.elapsed() < Duration::from_secs(6), "TCP's own timer");
    // The stream is none the worse for it.
    wire.stacks[0].injector().remind(1);
    far.write_all(b"answer").await.unwrap();
    near.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_packets_are_sent_again() {
    let wire = joined(|number| number % 97 != 0);
    let (mut near, mut far) = stream(&wire).await;
    let sent: Vec<u8> = (0..2_000_000_u32)
        .flat_map(u32::to_le_bytes)
        .take(2_000_000)
        .collect();
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        near.write_all(&copy).await.unwrap();
        near.shutdown().await.unwrap();
        near
    });
    let mut got = Vec::new();
    let all = far.read_to_end(&mut got);
    timeout(4 * PATIENCE, all)
        .await
        .expect("all of it")
        .unwrap();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    drop(writer.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_read_long_after_both_ends_closed_is_still_there() {
    let wire = joined(|_| true);
    let (mut near, mut far) = stream(&wire).await;
    far.write_all(b"late").await.unwrap();
    // The end that closes first keeps TCP's TIME-WAIT, ten seconds in this stack.
    near.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    timeout(PATIENCE, far.read_to_end(&mut nothing))
        .await
        .unwrap()
        .unwrap();
    far.shutdown().await.unwrap();
    drop(far);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut got = String::new();
    timeout(PATIENCE, near.read_to_string(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_leaves_with_unread_data_resets_the_writer() {
    let wire = joined(|_| true);
    let (mut near, far) = stream(&wire).await;
    fill(&mut near).await;
    drop(far);
    let chunk = [0; 1000];
    let until_error = async { while near.write(&chunk).await.is_ok() {} };
    timeout(PATIENCE, until_error)
        .await
        .expect("the writer hears of it");
    let mut byte = [0];
    let error = near.read_exact(&mut byte).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_gets_a_bounded_number_of_streams() {
    let wire = joined(|_| true);
    let mut listener = wire.stacks[1].listener(PORT);
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS_PER_PEER {
        let both = async { tokio::join!(wire.stacks[0].connect(1, PORT), listener.accept()) };
        let (near, far) = timeout(PATIENCE, both).await.unwrap();
        streams.push((near.unwrap(), far.unwrap()));
    }
    let more = wire.stacks[0].connect(1, PORT).await.unwrap_err();
    assert_eq!(more.kind(), ErrorKind::QuotaExceeded);
    streams.pop();
    let both = async { tokio::join!(wire.stacks[0].connect(1, PORT), listener.accept()) };
    let (near, far) = timeout(PATIENCE, both).await.expect("room again");
    assert!(near.is_ok() && far.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_listener_replaces_the_first() {
    let wire = joined(|_| true);
    let mut first = wire.stacks[1].listener(PORT);
    let mut second = wire.stacks[1].listener(PORT);
    assert!(
        timeout(PATIENCE, first.accept())
            .await
            .expect("it ends")
            .is_err()
    );
    drop(first); // must not close the port of the second
    let both = async { tokio::join!(wire.stacks[0].connect(1, PORT), second.accept()) };
    let (near, far) = timeout(PATIENCE, both).await.unwrap();
    assert!(near.is_ok() && far.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_foreign_packets_are_ignored() {
    let wire = joined(|_| true);
    let (mut near, mut far) = stream(&wire).await;
    let injector = wire.stacks[1].injector();
    let mut foreign = vec![0; 60];
    foreign[0] = 0x60;
    foreign[5] = 20;
    foreign[6] = 6;
    foreign[8..24].copy_from_slice(&address(7).octets());
    foreign[24..40].copy_from_slice(&address(1).octets());
    let mut cut = foreign.clone();
    cut[8..24].copy_from_slice(&address(0).octets());
    let mut batch: Vec<Vec<u8>> = vec![Vec::new(), vec![0x60], vec![0xff; 1420], foreign];
    batch.extend((40..60).map(|length| cut[..length].to_vec()));
    injector.inject(&mut batch);
    near.write_all(b"fine").await.unwrap();
    let mut got = [0; 4];
    timeout(PATIENCE, far.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&got, b"fine");
}

#[tokio::test]
async fn a_segment_behind_another_header_is_not_taken() {
    let (out, mut packets) = mpsc::channel(PACKET_QUEUE);
    let config = StackConfig {
        address: address(0),
        mtu: 1420,
        peers: vec![(1, address(1))],
        seed: 7,
    };
    let stack = Stack::start(&config, out);
    let _listener = stack.listener(PORT);
    let plain = syn(address(1), address(0), 5000);
    let mut hidden = syn(address(1), address(0), 5001);
    // Hop-by-hop options, padded (RFC 8200, section 4.3).
    hidden[5] += 8;
    hidden[6] = 0;
    hidden.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
    stack.injector().inject(&mut vec![hidden]);
    assert!(packets.try_recv().is_err(), "answered");
    stack.injector().inject(&mut vec![plain]);
    assert!(packets.try_recv().is_ok(), "a plain one is answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_stack_ends_its_streams() {
    let wire = joined(|_| true);
    let (mut near, far) = stream(&wire).await;
    let Wire {
        stacks: [zero, one],
        _pumps,
    } = wire;
    timeout(PATIENCE, one.stop()).await.expect("it stops");
    let mut byte = [0];
    let reset = timeout(PATIENCE, near.read_exact(&mut byte))
        .await
        .expect("the peer hears of it");
    assert_eq!(reset.unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(far);
    timeout(PATIENCE, zero.stop()).await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusing_many_streams_leaves_room_for_the_next() {
    let wire = joined(|_| true);
    let mut listener = wire.stacks[1].listener(PORT);
    // More than the stack has sockets: what was refused must not keep one.
    for number in 0..MAX_SOCKETS + 50 {
        let both = async { tokio::join!(wire.stacks[0].connect(1, PORT), listener.accept()) };
        let (near, far) = timeout(PATIENCE, both)
            .await
            .unwrap_or_else(|_| panic!("stream {number} got no answer"));
        let mut near = near.unwrap_or_else(|e| panic!("stream {number}: {e}"));
        drop(far.unwrap());
        let mut byte = [0];
        let end = timeout(PATIENCE, near.read_exact(&mut byte)).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_ends_its_half_holds_a_bounded_number_of_dropped_streams() {
    let wire = joined(|_| true);
    let mut listener = wire.stacks[1].listener(PORT);
    let mut held = Vec::new();
    for _ in 0..2 * MAX_ORPHANS_PER_PEER {
        let both = async { tokio::join!(wire.stacks[0].connect(1, PORT), listener.accept()) };
        let (near, far) = timeout(PATIENCE, both).await.unwrap();
        let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
        far.shutdown().await.unwrap();
        let mut nothing = Vec::new();
        let end = timeout(PATIENCE, near.read_to_end(&mut nothing)).await;
        end.expect("the end arrives").unwrap();
        drop(far);
        held.push(near);
    }
    // The first half was reset, oldest first; the others wait for the peer as TCP has it.
    let (reset, waiting) = held.split_at_mut(MAX_ORPHANS_PER_PEER);
    for near in reset {
        let until_error = async { while near.write(&[1]).await.is_ok() {} };
        timeout(PATIENCE, until_error)
            .await
            .expect("a reset stream takes nothing more");
    }
    for near in waiting {
        near.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_one_peer_only_begins_leave_room_for_others() {
    // The peer's answers never arrive, so none of its connections is established.
    let (out, mut packets) = mpsc::channel(PACKET_QUEUE);
    let config = StackConfig {
        address: address(1),
        mtu: 1420,
        peers: vec![(0, address(0)), (2, address(2))],
        seed: 7,
    };
    let (out_two, mut from_two) = mpsc::channel(PACKET_QUEUE);
    let victim = Stack::start(&config, out);
    let _listener = victim.listener(PORT);
    let injector = victim.injector();
    for port in 0..200_u16 {
        injector.inject(&mut vec![syn(address(0), address(1), 5000 + port)]);
    }
    let friend = Stack::start(
        &StackConfig {
            address: address(2),
            mtu: 1420,
            peers: vec![(1, address(1))],
            seed: 8,
        },
        out_two,
    );
    let to_friend = friend.injector();
    let pumps = async {
        loop {
            tokio::select! {
                Some(packet) = packets.recv() => to_friend.inject(&mut vec![packet]),
                Some(packet) = from_two.recv() => injector.inject(&mut vec![packet]),
            }
        }
    };
    let connected = async {
        tokio::select! {
            stream = friend.connect(1, PORT) => stream,
            () = pumps => unreachable!(),
        }
    };
    let stream = timeout(PATIENCE, connected).await.expect("an answer");
    assert!(stream.is_ok(), "{stream:?}");
}

/// The first segment of a connection to [`PORT`], without options. Checksums are not looked at.
fn syn(source: Ipv6Addr, destination: Ipv6Addr, port: u16) -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[0] = 0x60;
    packet[5] = 20;
    packet[6] = 6;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&destination.octets());
    packet[40..42].copy_from_slice(&port.to_be_bytes());
    packet[42..44].copy_from_slice(&PORT.to_be_bytes());
    packet[47] = 1; // sequence number
    packet[52] = 5 << 4; // header of five words
    packet[53] = 2; // SYN
    packet[54] = 0xff; // window
    packet
}
