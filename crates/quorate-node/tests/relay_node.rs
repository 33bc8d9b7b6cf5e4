//! A real relay on loopback: what it carries, where its limits are, and that nobody can disturb it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _,
    future::{poll_fn, select_all},
    pin_mut,
};
use libp2p::{
    Multiaddr, Transport as _,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox},
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
    identity::Keypair,
    noise, tcp, yamux,
};
use quorate_node::{
    Verdict,
    overlay::{
        Listen, RelayConfig, RelayLimits, RelayRefusal,
        relay_probe::{carry, reach},
    },
    relay::{Relay, RelayOptions, check},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_secs(40);
const MIB: u64 = 1024 * 1024;

fn unlimited() -> RelayLimits {
    RelayLimits {
        circuit_bits_per_second: 0,
        ..RelayLimits::default()
    }
}

/// A relay on loopback, its TCP address and its QUIC address.
async fn relay(limits: RelayLimits) -> (Relay, String, String) {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(secret.as_mut()).unwrap();
    let listen = |address: &str| Listen {
        address: address.into(),
        required: true,
    };
    let options = RelayOptions {
        node: RelayConfig {
            secret,
            listen: vec![
                listen("/ip4/127.0.0.1/tcp/0"),
                listen("/ip4/127.0.0.1/udp/0/quic-v1"),
            ],
            external: Vec::new(),
            limits,
            name: Some("a relay".into()),
            stun: Vec::new(),
            allow: None,
            guests: None,
        },
        stun: Some([0, 0]),
        metrics: None,
    };
    let relay = Relay::start(options).await.expect("loopback works");
    let of = |word: &str| {
        let all = relay.status().addresses;
        all.into_iter().find(|a| a.contains(word)).unwrap()
    };
    let (tcp, quic) = (of("/tcp/"), of("/quic-v1"));
    (relay, tcp, quic)
}

fn refused(relay: &Relay, why: RelayRefusal) -> u64 {
    let at = RelayRefusal::ALL.iter().position(|r| *r == why).unwrap();
    relay.status().refused[at]
}

/// Waits for a circuit.
async fn circuit(relay: &Relay) {
    let open = async {
        while relay.status().circuits == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, open).await.expect("a circuit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_carries_megabytes_over_tcp_and_over_quic() {
    let (relay, tcp, quic) = relay(unlimited()).await;
    for address in [tcp, quic] {
        // libp2p's own limit would cut at 128 KiB.
        let carried = carry(&address, 4 * MIB).await.expect(&address);
        assert_eq!(carried.seconds, Some(24 * 3600));
        assert_eq!(carried.bytes.unwrap_or(0), 0, "no limit of bytes");
        assert!(carried.rtt.is_some() && !carried.addresses.is_empty());
    }
    let status = relay.status();
    assert_eq!((status.circuits_total, status.reservations_total), (2, 2));
    assert!(status.bytes_total > 8 * MIB, "{}", status.bytes_total);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_and_all_together_are_no_faster_than_configured() {
    let eight = 8_000_000;
    let one = RelayLimits {
        circuit_bits_per_second: eight,
        ..RelayLimits::default()
    };
    let all = RelayLimits {
        circuit_bits_per_second: 0,
        total_bits_per_second: eight,
        ..RelayLimits::default()
    };
    for limits in [one, all] {
        let (relay, tcp, _) = relay(limits).await;
        // A megabyte a second, less what one burst lets pass.
        let carried = carry(&tcp, 2 * MIB).await.expect("it is slow, not cut");
        assert!(
            carried.carried >= Duration::from_millis(1800),
            "{:?} with {limits:?}",
            carried.carried
        );
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_beyond_the_limits_is_refused_and_counted() {
    let (relay, tcp, _) = relay(RelayLimits {
        reservations: 1,
        circuit_bits_per_second: 4_000_000,
        ..RelayLimits::default()
    })
    .await;
    // Four seconds, and the second one asks meanwhile.
    let (slow, second) = tokio::join!(carry(&tcp, 2 * MIB), async {
        circuit(&relay).await;
        carry(&tcp, 1).await
    });
    slow.expect("the one that has the reservation");
    let why = second.expect_err("all reservations are taken");
    assert!(why.starts_with("no reservation"), "{why}");
    assert!(refused(&relay, RelayRefusal::Reservation) >= 1);
    // A connection that is closed gives its reservation back.
    let again = async { while carry(&tcp, 1).await.is_err() {} };
    timeout(SOON, again).await.expect("room again");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_bytes_or_time_cuts_the_circuit() {
    let (small, tcp, _) = relay(RelayLimits {
        circuit_bytes: 256 * 1024,
        ..unlimited()
    })
    .await;
    assert!(carry(&tcp, 64 * 1024).await.is_ok());
    carry(&tcp, 2 * MIB)
        .await
        .expect_err("more than it carries");
    small.stop().await;
    let (short, tcp, _) = relay(RelayLimits {
        circuit_seconds: 2,
        circuit_bits_per_second: 800_000,
        ..RelayLimits::default()
    })
    .await;
    let began = Instant::now();
    carry(&tcp, 2 * MIB)
        .await
        .expect_err("it lasts two seconds");
    assert!(began.elapsed() < Duration::from_secs(15));
    short.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_gets_no_more_connections_than_configured() {
    let (relay, tcp, _) = relay(RelayLimits {
        connections_per_address: 3,
        ..RelayLimits::default()
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.extend(connect(&tcp).await);
    }
    // Whoever got through the handshake is closed right afterwards.
    let refusals = async {
        while refused(&relay, RelayRefusal::Connection) < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while open.len() > 3 {
            let closed = select_all(
                open.iter_mut()
                    .map(|m| poll_fn(|cx| m.poll_unpin(cx)).boxed()),
            );
            let at = closed.await.1;
            drop(open.swap_remove(at));
        }
    };
    timeout(SOON, refusals).await.expect("three of six");
    assert_eq!(open.len(), 3);
    assert_eq!(refused(&relay, RelayRefusal::Connection), 3);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_found_good_and_its_impostor_is_named() {
    let (relay, tcp, quic) = relay(unlimited()).await;
    let checked = check(&tcp).await.expect("an address");
    assert!(checked.reachable && checked.usable);
    let announced = checked.announcement.expect("it says what it is");
    assert_eq!(announced.stun, relay.stun_ports());
    let good = checked.findings.iter();
    let good = good.filter(|f| f.verdict == Verdict::Ok).map(|f| f.id);
    let good: Vec<&str> = good.collect();
    for id in ["tcp", "load", "clock", "stun", "circuit", "also"] {
        assert!(good.contains(&id), "{id}: {:?}", checked.findings);
    }
    // a40: who answers has to be the peer that the address names.
    let other = Keypair::generate_ed25519().public().to_peer_id();
    for address in [tcp, quic] {
        let place = address.rsplit_once('/').unwrap().0;
        let why = reach(&format!("{place}/{other}")).await;
        let why = why.expect_err("another peer");
        assert!(why.contains(relay.peer_id()), "{why}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_drains_takes_nothing_new_and_lets_circuits_end() {
    let (relay, tcp, _) = relay(RelayLimits {
        circuit_bits_per_second: 4_000_000,
        ..RelayLimits::default()
    })
    .await;
    let (carried, ()) = tokio::join!(carry(&tcp, MIB), async {
        circuit(&relay).await;
        relay.drain(SOON).await;
        assert_eq!(relay.status().circuits, 0);
    });
    carried.expect("it may end");
    assert!(relay.status().draining);
    carry(&tcp, 1).await.expect_err("nothing new is taken");
    let ended = timeout(Duration::from_secs(5), relay.stop()).await;
    ended.expect("nothing holds it up");
}

/// A connection of somebody who speaks only the transport, and so can say anything.
async fn connect(address: &str) -> Option<StreamMuxerBox> {
    let mut transport = tcp::tokio::Transport::new(tcp::Config::new())
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&Keypair::generate_ed25519()).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let address: Multiaddr = address.split("/p2p/").next().unwrap().parse().unwrap();
    let how = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let dial = transport.dial(address, how).expect("a TCP address");
    let (_, muxer) = timeout(SOON, dial).await.expect("soon").ok()?;
    Some(muxer)
}

/// Does `work` while the connection is driven; `None` when the connection ends first.
async fn drive<T>(muxer: &mut StreamMuxerBox, work: impl Future<Output = T>) -> Option<T> {
    pin_mut!(work);
    let both = poll_fn(|cx| {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(cx) {
            return std::task::Poll::Ready(Some(done));
        }
        muxer.poll_unpin(cx).map(|_| None)
    });
    timeout(SOON, both).await.expect("soon")
}

async fn open(muxer: &mut StreamMuxerBox) -> Option<SubstreamBox> {
    let opened = poll_fn(|cx| {
        if let std::task::Poll::Ready(stream) = muxer.poll_outbound_unpin(cx) {
            return std::task::Poll::Ready(stream.ok());
        }
        muxer.poll_unpin(cx).map(|_| None)
    });
    timeout(Duration::from_secs(3), opened).await.ok().flatten()
}

/// A line of multistream-select: length, text, newline.
fn line_of(text: &str) -> Vec<u8> {
    let mut line = vec![u8::try_from(text.len() + 1).unwrap()];
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a49_garbage_floods_and_oversized_messages_disturb_no_circuit() {
    let (relay, tcp, quic) = relay(unlimited()).await;
    let port = |address: &str| -> u16 {
        let mut parts = address.split('/').skip(4);
        parts.next().unwrap().parse().unwrap()
    };
    // Bytes that are no handshake, on every port.
    let at = SocketAddr::from(([127, 0, 0, 1], port(&tcp)));
    let mut kept = Vec::new();
    for n in 0..40_u8 {
        let mut stream = TcpStream::connect(at).await.expect("it listens");
        let _ = stream.write_all(&[n; 4096]).await;
        kept.push(stream);
    }
    drop(kept);
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let ports = relay.stun_ports().into_iter().chain([port(&quic)]);
    for port in ports {
        for n in 0..200_u8 {
            let _ = udp.send_to(&[n; 1200], ("127.0.0.1", port)).await;
        }
    }
    // As many streams as the relay takes.
    let mut muxer = connect(&tcp).await.expect("it lets us in");
    let mut streams = Vec::new();
    while streams.len() < 10_000 {
        let Some(mut stream) = open(&mut muxer).await else {
            break;
        };
        let greeting = line_of("/multistream/1.0.0");
        let written = drive(&mut muxer, async {
            stream.write_all(&greeting).await?;
            stream.flush().await
        });
        if !matches!(written.await, Some(Ok(()))) {
            break;
        }
        streams.push(stream);
    }
    assert!(streams.len() < 10_000, "all streams were taken");
    drop((streams, muxer));
    // A message of a gibibyte, and one that is none, to each protocol.
    for protocol in ["/libp2p/circuit/relay/0.2.0/hop", "/quorate/relay/1"] {
        for message in [&[0x80, 0x80, 0x80, 0x80, 0x04][..], &[0x05, 1, 2, 3, 4, 5]] {
            let mut muxer = connect(&tcp).await.expect("it lets us in");
            let mut stream = open(&mut muxer).await.expect("a stream");
            let said = drive(&mut muxer, async {
                for line in ["/multistream/1.0.0", protocol] {
                    stream.write_all(&line_of(line)).await?;
                }
                stream.write_all(message).await?;
                // What comes back until the relay ends the stream is bounded.
                let mut answer = Vec::new();
                (&mut stream).take(4096).read_to_end(&mut answer).await
            });
            assert!(
                said.await
                    .is_none_or(|n| n.is_err() || n.is_ok_and(|n| n < 4096))
            );
        }
    }
    // Who behaves is served as before.
    carry(&tcp, MIB).await.expect("over TCP");
    carry(&quic, MIB).await.expect("over QUIC");
    relay.stop().await;
}
