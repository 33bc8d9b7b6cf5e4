//! What hostile peers can do to an overlay: nothing beyond costing it their own connection.
//!
//! The hostile side is made of libp2p's transport alone, so that it can say anything.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{net::SocketAddr, task::Poll, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::poll_fn};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox},
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
    identity::Keypair,
    noise, tcp, yamux,
};
use quorate_node::overlay::{
    MAX_FRAME_BYTES, MAX_INCOMING_FROM_LOOPBACK, MAX_STREAMS, Overlay, OverlayConfig, OverlayEvent,
    Purpose, SESSION_WAIT, Scope,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket},
    sync::{
        mpsc::{self, Receiver},
        oneshot,
    },
    time::timeout,
};
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_secs(40);
const SESSION: &str = "/quorate/session/1";

struct Node {
    overlay: Overlay,
    events: Receiver<OverlayEvent>,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

impl Node {
    async fn start(beacon_key: [u8; 32], hints: Vec<String>) -> Self {
        let config = OverlayConfig {
            purpose: Purpose::Session,
            secret: Zeroizing::new(random()),
            scope: Scope::Local,
            beacon_key,
            hints,
            reach: quorate_node::overlay::Reach::default(),
        };
        let (overlay, events) = Overlay::start(config).await.expect("loopback works");
        Self { overlay, events }
    }

    async fn until<T>(&mut self, mut wanted: impl FnMut(OverlayEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the overlay runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        timeout(SOON, search).await.expect("it happens soon")
    }

    async fn link_with(&mut self, wanted: &str) -> u64 {
        self.until(|event| match event {
            OverlayEvent::LinkUp { link, peer, .. } if peer == wanted => Some(link),
            _ => None,
        })
        .await
    }

    async fn down(&mut self, wanted: u64) {
        self.until(|event| (event == OverlayEvent::LinkDown { link: wanted }).then_some(()))
            .await;
    }

    async fn note(&mut self, part: &str) {
        self.until(|event| match event {
            OverlayEvent::Note(note) if note.contains(part) => Some(()),
            _ => None,
        })
        .await;
    }

    async fn frame(&mut self, wanted: &[u8]) {
        self.until(|event| match event {
            OverlayEvent::Frame { bytes, .. } if bytes == wanted => Some(()),
            OverlayEvent::LinkDown { link } => panic!("link {link} went down"),
            _ => None,
        })
        .await;
    }

    fn tcp(&self) -> Multiaddr {
        let all = self.overlay.addresses();
        let text = all.iter().find(|a| a.starts_with("/ip4/127.0.0.1/tcp/"));
        text.expect("it listens")
            .split("/p2p/")
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// A new identity on this side of our `PeerId`.
    fn keypair(&self, side: &Side) -> Keypair {
        let own: PeerId = self.overlay.peer_id().parse().unwrap();
        loop {
            let keypair = Keypair::generate_ed25519();
            let opens = keypair.public().to_peer_id() < own;
            if opens == matches!(side, Side::Opener) {
                return keypair;
            }
        }
    }

    fn port(&self, part: &str) -> SocketAddr {
        let all = self.overlay.addresses();
        let text = all
            .iter()
            .find(|a| a.starts_with(&format!("/ip4/127.0.0.1/{part}/")));
        let port = text.expect("it listens").split('/').nth(4).unwrap();
        format!("127.0.0.1:{port}").parse().unwrap()
    }
}

/// Two honest overlays with a link between them, the first as the victim.
async fn honest() -> (Node, Node, u64, u64) {
    let mut victim = Node::start(random(), vec![]).await;
    let mut friend = Node::start(random(), vec![victim.tcp().to_string()]).await;
    let (id_victim, id_friend) = (victim.overlay.peer_id(), friend.overlay.peer_id());
    let (to_friend, to_victim) =
        tokio::join!(victim.link_with(&id_friend), friend.link_with(&id_victim));
    (victim, friend, to_friend, to_victim)
}

/// Whether the honest link still carries frames, and a newcomer can still come in.
async fn undisturbed(mut victim: Node, mut friend: Node, to_friend: u64, to_victim: u64) {
    assert!(victim.overlay.send(to_friend, b"still here".to_vec()));
    friend.frame(b"still here").await;
    assert!(friend.overlay.send(to_victim, b"me too".to_vec()));
    victim.frame(b"me too").await;
    let mut newcomer = Node::start(random(), victim.overlay.addresses()).await;
    let id = newcomer.overlay.peer_id();
    let id_victim = victim.overlay.peer_id();
    tokio::join!(victim.link_with(&id), newcomer.link_with(&id_victim));
    for node in [victim, friend, newcomer] {
        node.overlay.stop().await;
    }
}

/// A connection that obeys nobody.
struct Hostile {
    peer: PeerId,
    keypair: Keypair,
    /// Asks the connection's task for one more stream.
    wanted: mpsc::UnboundedSender<oneshot::Sender<SubstreamBox>>,
}

/// Which end of the `PeerId` order the hostile peer takes.
enum Side {
    /// It is the one that opens session streams.
    Opener,
    /// It is the one that waits for them.
    Waiter,
}

impl Hostile {
    async fn connect(victim: &Node, side: Side) -> Self {
        let keypair = victim.keypair(&side);
        Self::connect_as(victim, &keypair).await
    }

    async fn connect_as(victim: &Node, keypair: &Keypair) -> Self {
        Self::try_connect(victim, keypair)
            .await
            .expect("it lets us in")
    }

    /// `None` when the victim ends the connection before the handshake is complete.
    async fn try_connect(victim: &Node, keypair: &Keypair) -> Option<Self> {
        let victim_id: PeerId = victim.overlay.peer_id().parse().unwrap();
        let mut transport = tcp::tokio::Transport::new(tcp::Config::new())
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let how = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let dial = transport.dial(victim.tcp(), how).expect("a TCP address");
        let (peer, muxer) = timeout(SOON, dial).await.expect("soon").ok()?;
        assert_eq!(peer, victim_id);
        let (wanted, wishes) = mpsc::unbounded_channel();
        tokio::spawn(keep_open(muxer, wishes));
        Some(Self {
            peer: keypair.public().to_peer_id(),
            keypair: keypair.clone(),
            wanted,
        })
    }

    /// Opens a raw stream; `None` once the victim closed the connection.
    async fn open(&self) -> Option<SubstreamBox> {
        let (sender, stream) = oneshot::channel();
        self.wanted.send(sender).ok()?;
        timeout(SOON, stream).await.expect("soon").ok()
    }

    /// Opens a stream and negotiates the session protocol on it.
    async fn session(&self) -> SubstreamBox {
        let mut stream = self.open().await.expect("a stream");
        for line in ["/multistream/1.0.0", SESSION] {
            stream.write_all(&line_of(line)).await.unwrap();
        }
        stream.flush().await.unwrap();
        for line in ["/multistream/1.0.0", SESSION] {
            let expected = line_of(line);
            let mut answer = vec![0; expected.len()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, expected);
        }
        stream
    }
}

/// Runs the connection: opens what is wished for, accepts and ignores what the victim opens.
async fn keep_open(
    mut muxer: StreamMuxerBox,
    mut wishes: mpsc::UnboundedReceiver<oneshot::Sender<SubstreamBox>>,
) {
    let mut accepted = Vec::new();
    let mut wish = None;
    poll_fn(move |cx| {
        while let Poll::Ready(Ok(stream)) = muxer.poll_inbound_unpin(cx) {
            accepted.push(stream);
        }
        loop {
            if wish.is_none() {
                match wishes.poll_recv(cx) {
                    Poll::Ready(Some(next)) => wish = Some(next),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            match muxer.poll_outbound_unpin(cx) {
                Poll::Ready(Ok(stream)) => {
                    let _ = wish.take().expect("there is a wish").send(stream);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        muxer.poll_unpin(cx).map(|_| ())
    })
    .await;
}

/// Waits until the victim ends the stream or the connection.
async fn thrown_out(mut stream: SubstreamBox) {
    let end = async {
        let mut sink = [0; 1024];
        while !matches!(stream.read(&mut sink).await, Ok(0) | Err(_)) {}
    };
    timeout(SOON, end).await.expect("soon");
}

/// A line of multistream-select: length, text, newline.
fn line_of(text: &str) -> Vec<u8> {
    let mut line = vec![u8::try_from(text.len() + 1).unwrap()];
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_one_mebibyte_ends_that_link_only() {
    let (mut victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Opener).await;
    let mut stream = hostile.session().await;
    let link = victim.link_with(&hostile.peer.to_string()).await;
    let frame = vec![7; 1024 * 1024];
    let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
    stream.write_all(&length).await.unwrap();
    // The victim may cut us off at any time from here.
    let _ = timeout(SOON, stream.write_all(&frame)).await.expect("soon");
    victim.down(link).await;
    victim.note(&hostile.peer.to_string()).await;
    thrown_out(stream).await;
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_frame_is_not_delivered() {
    let (mut victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Opener).await;
    let mut stream = hostile.session().await;
    let link = victim.link_with(&hostile.peer.to_string()).await;
    stream.write_all(&[0, 0, 0, 3, 1, 2, 3]).await.unwrap();
    stream.write_all(&[0, 0, 1, 0, 9, 9]).await.unwrap();
    stream.close().await.unwrap();
    victim.frame(&[1, 2, 3]).await;
    let next = victim.until(|event| match event {
        OverlayEvent::Frame { .. } | OverlayEvent::LinkDown { .. } => Some(event),
        _ => None,
    });
    assert_eq!(next.await, OverlayEvent::LinkDown { link });
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_session_stream_is_a_violation() {
    let (mut victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Opener).await;
    let first = hostile.session().await;
    let link = victim.link_with(&hostile.peer.to_string()).await;
    let _second = hostile.session().await;
    let (mut noted, mut down) = (false, false);
    victim
        .until(|event| {
            noted |= matches!(&event, OverlayEvent::Note(n) if n.contains("second session stream"));
            down |= event == OverlayEvent::LinkDown { link };
            (noted && down).then_some(())
        })
        .await;
    thrown_out(first).await;
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_link_was_closed_is_not_let_in_again() {
    let (mut victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Opener).await;
    let stream = hostile.session().await;
    let link = victim.link_with(&hostile.peer.to_string()).await;
    victim.overlay.close_link(link);
    victim.down(link).await;
    thrown_out(stream).await;
    // Not either when somebody names it as a relay.
    let (relay, other) = (&hostile.peer, PeerId::random());
    let circuit = format!("/ip4/127.0.0.1/tcp/9/p2p/{relay}/p2p-circuit/p2p/{other}");
    victim.overlay.dial(circuit);
    victim.note("its relay was refused").await;
    let again = Hostile::connect_as(&victim, &hostile.keypair).await;
    // The handshake proves who it is; after that, there is no stream to be had.
    if let Some(mut stream) = again.open().await {
        let _ = stream.write_all(&line_of("/multistream/1.0.0")).await;
        let _ = stream.write_all(&line_of(SESSION)).await;
        let _ = stream.flush().await;
        thrown_out(stream).await;
    }
    assert!(again.open().await.is_none(), "the connection is closed");
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_link_was_dropped_may_come_again() {
    let (mut victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Opener).await;
    let stream = hostile.session().await;
    let link = victim.link_with(&hostile.peer.to_string()).await;
    victim.overlay.drop_link(link);
    assert!(!victim.overlay.send(link, vec![1]), "it is closed at once");
    // It ends its half too, so that the end does not wait for CLOSE_GRACE.
    thrown_out(stream).await;
    victim.down(link).await;
    let again = Hostile::connect_as(&victim, &hostile.keypair).await;
    let _stream = again.session().await;
    let new = victim.link_with(&hostile.peer.to_string()).await;
    assert_ne!(new, link);
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_session_stream_is_closed() {
    let (victim, friend, to_friend, to_victim) = honest().await;
    // One never opens its stream; the other never answers ours.
    let silent = Hostile::connect(&victim, Side::Opener).await;
    let deaf = Hostile::connect(&victim, Side::Waiter).await;
    let both = async { tokio::join!(silent.wanted.closed(), deaf.wanted.closed()) };
    let limit = 2 * SESSION_WAIT;
    timeout(limit, both).await.expect("both are closed in time");
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dials_us_and_opens_many_streams_loses_its_connection() {
    let (mut victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Opener).await;
    // With a link, so that the connection is not closed for being idle.
    let _session = hostile.session().await;
    let link = victim.link_with(&hostile.peer.to_string()).await;
    let mut unread = Vec::new();
    for _ in 0..=MAX_STREAMS {
        let Some(mut stream) = hostile.open().await else {
            break;
        };
        // The beginning of a line: a whole one would be answered and forgotten.
        let _ = stream.write_all(&[19]).await;
        let _ = stream.flush().await;
        unread.push(stream);
    }
    let closed = timeout(SESSION_WAIT, hostile.wanted.closed());
    closed.await.expect("nothing more is kept for it");
    victim.down(link).await;
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_take_all_places_and_none_of_our_dials() {
    let victim = Node::start(random(), vec![]).await;
    let mut kept = Vec::new();
    let mut refused = 0;
    // Each one with a link, so that none of them is closed for being idle.
    for _ in 0..MAX_INCOMING_FROM_LOOPBACK + 4 {
        let keypair = victim.keypair(&Side::Opener);
        match Hostile::try_connect(&victim, &keypair).await {
            Some(hostile) => {
                let stream = hostile.session().await;
                kept.push((hostile, stream));
            }
            None => refused += 1,
        }
    }
    assert_eq!(kept.len(), MAX_INCOMING_FROM_LOOPBACK);
    assert_eq!(refused, 4);
    // What we dial ourselves still comes up.
    let mut victim = victim;
    let mut friend = Node::start(random(), vec![]).await;
    victim.overlay.dial(friend.tcp().to_string());
    let (id_victim, id_friend) = (victim.overlay.peer_id(), friend.overlay.peer_id());
    tokio::join!(victim.link_with(&id_friend), friend.link_with(&id_victim));
    // A place that is given back is free again.
    kept.pop();
    let keypair = victim.keypair(&Side::Opener);
    let again = async {
        while Hostile::try_connect(&victim, &keypair).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, again).await.expect("room again");
    victim.overlay.stop().await;
    friend.overlay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_side_may_not_open() {
    let (mut victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Waiter).await;
    let stream = hostile.session().await;
    victim.note("ours to open").await;
    thrown_out(stream).await;
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_cost_the_peer_its_connection() {
    let (victim, friend, to_friend, to_victim) = honest().await;
    let hostile = Hostile::connect(&victim, Side::Opener).await;
    let mut streams = Vec::new();
    while streams.len() < 10_000 {
        let Some(mut stream) = hostile.open().await else {
            break;
        };
        let greeting = line_of("/multistream/1.0.0");
        if stream.write_all(&greeting).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        streams.push(stream);
    }
    assert!(streams.len() < 10_000, "all streams were taken");
    undisturbed(victim, friend, to_friend, to_victim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_disturbs_nobody() {
    let (victim, friend, to_friend, to_victim) = honest().await;
    let mut kept = Vec::new();
    for _ in 0..40 {
        let mut tcp = TcpStream::connect(victim.port("tcp"))
            .await
            .expect("it listens");
        let _ = tcp.write_all(&random::<4096>()).await;
        kept.push(tcp);
    }
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    for _ in 0..200 {
        let _ = udp.send_to(&random::<1200>(), victim.port("udp")).await;
    }
    undisturbed(victim, friend, to_friend, to_victim).await;
    drop(kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_beacons_disturbs_nobody() {
    let key = random();
    let mut a = Node::start(key, vec![]).await;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    let here = std::net::Ipv4Addr::LOCALHOST;
    socket.set_multicast_if_v4(&here).unwrap();
    let group: SocketAddr = "239.255.113.82:27182".parse().unwrap();
    for size in (0..200).cycle().take(2000) {
        let garbage: Vec<u8> = random::<200>()[..size].to_vec();
        let _ = socket.send_to(&garbage, &group.into());
    }
    // The flood uses the rate up; what is announced after it is still found.
    let mut b = Node::start(key, vec![]).await;
    let (ida, idb) = (a.overlay.peer_id(), b.overlay.peer_id());
    let (to_b, _) = tokio::join!(a.link_with(&idb), b.link_with(&ida));
    assert!(a.overlay.send(to_b, vec![5; MAX_FRAME_BYTES]));
    b.frame(&vec![5; MAX_FRAME_BYTES]).await;
    a.overlay.stop().await;
    b.overlay.stop().await;
}
