//! Against routers on loopback: well-behaved, old, silent, garbling, lying.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use std::{
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CARRIERS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

/// A loopback address of this test's own: the protocols have fixed ports.
fn router_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = u16::try_from(std::process::id() % 16_000)
        .unwrap()
        .to_be_bytes();
    Ipv4Addr::new(127, 64 + high, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn way(gateway: Ipv4Addr) -> Way {
    Way {
        gateway,
        own: Ipv4Addr::LOCALHOST,
    }
}

fn wish() -> Wish {
    Wish {
        transport: Transport::Udp,
        port: NonZeroU16::new(40_123).unwrap(),
    }
}

fn forwarding(gateway: Ipv4Addr) -> Forwarding {
    Forwarding::with(wish(), Arc::new(move || Some(way(gateway))))
}

async fn settled(forwarding: &Forwarding) -> Standing {
    let mut standing = forwarding.standing();
    *standing.wait_for(|s| *s != Standing::Asking).await.unwrap()
}

/// What a router of PCP and NAT-PMP does.
#[derive(Clone, Copy)]
struct Habits {
    pcp: bool,
    outside: Ipv4Addr,
    lifetime: u32,
}

const GOOD: Habits = Habits {
    pcp: true,
    outside: OUTSIDE,
    lifetime: 600,
};

/// The lifetimes that were asked for, in order.
type Asked = Arc<Mutex<Vec<u32>>>;

/// Answers until the test is over.
async fn router(at: Ipv4Addr, habits: Habits) -> Asked {
    let socket = UdpSocket::bind((at, crab_nat::GATEWAY_PORT)).await.unwrap();
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut bytes = [0; 1100];
        loop {
            let (count, from) = socket.recv_from(&mut bytes).await.unwrap();
            let answer = answer(&bytes[..count], habits, &noted);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    asked
}

fn answer(request: &[u8], habits: Habits, asked: &Asked) -> Vec<u8> {
    let number = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().unwrap());
    let granted = |wanted: u32| {
        asked.lock().unwrap().push(wanted);
        if wanted == 0 { 0 } else { habits.lifetime }
    };
    match (request[0], request[1]) {
        (2, 1) if habits.pcp => {
            assert_eq!(request.len(), 60);
            let mut answer = request.to_vec();
            answer[1] |= 0x80;
            answer[4..8].copy_from_slice(&granted(number(4)).to_be_bytes());
            answer[8..24].fill(0);
            answer[44..60].copy_from_slice(&habits.outside.to_ipv6_mapped().octets());
            answer
        }
        (2, _) => vec![0, request[1] | 0x80, 0, 1, 0, 0, 0, 9],
        (0, 0) => [&[0, 128, 0, 0, 0, 0, 0, 9][..], &habits.outside.octets()].concat(),
        (0, op) => {
            assert_eq!(request.len(), 12);
            let lifetime = granted(number(8));
            let mut answer = vec![0, op | 0x80, 0, 0, 0, 0, 0, 9];
            answer.extend_from_slice(&request[4..6]);
            let port = if lifetime == 0 { [0, 0] } else { [0xab, 0xcd] };
            answer.extend_from_slice(&port);
            answer.extend_from_slice(&lifetime.to_be_bytes());
            answer
        }
        other => panic!("an unknown request {other:?}"),
    }
}

#[tokio::test]
async fn a_router_of_pcp_forwards_a_port_and_gets_it_back() {
    let at = router_address();
    let asked = router(at, GOOD).await;
    let forwarding = forwarding(at);
    let expected = Forwarded {
        outside: SocketAddrV4::new(OUTSIDE, 40_123),
        inside: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_123),
        method: Method::Pcp,
    };
    assert_eq!(settled(&forwarding).await, Standing::Forwarded(expected));
    forwarding.stop().await;
    assert_eq!(
        *asked.lock().unwrap(),
        [900, 0],
        "asked for, then given back"
    );
}

#[tokio::test]
async fn a_router_of_nat_pmp_does_as_well() {
    let at = router_address();
    let asked = router(at, Habits { pcp: false, ..GOOD }).await;
    let forwarding = forwarding(at);
    let Standing::Forwarded(forwarded) = settled(&forwarding).await else {
        panic!("nothing is forwarded");
    };
    assert_eq!(forwarded.outside, SocketAddrV4::new(OUTSIDE, 0xabcd));
    assert_eq!(forwarded.method, Method::NatPmp);
    forwarding.stop().await;
    assert_eq!(*asked.lock().unwrap(), [900, 0]);
}

/// A keeper that is driven by hand.
fn keeper(at: Ipv4Addr) -> (Keeper, watch::Receiver<Standing>, watch::Sender<()>) {
    let (told, standing) = watch::channel(Standing::Asking);
    let (stop, stopped) = watch::channel(());
    let keeper = Keeper {
        wish: wish(),
        look: Arc::new(move || Some(way(at))),
        told,
        stopped,
        hurry: Arc::default(),
        lease: None,
        pause: RETRY_FIRST,
    };
    (keeper, standing, stop)
}

#[tokio::test]
async fn a_lease_is_renewed_after_half_of_it_and_not_given_back_in_between() {
    for pcp in [true, false] {
        let at = router_address();
        let asked = router(at, Habits { pcp, ..GOOD }).await;
        let (mut keeper, standing, _stop) = keeper(at);
        let mut told = Vec::new();
        for _ in 0..3 {
            let begun = Instant::now();
            let next = keeper.try_once(Some(way(at))).await.unwrap();
            let half = Duration::from_secs(u64::from(GOOD.lifetime) / 2);
            let (least, most) = (begun + half, Instant::now() + half);
            assert!((least..=most).contains(&next), "{:?}", next - begun);
            told.push(*standing.borrow());
        }
        assert!(matches!(told[0], Standing::Forwarded(_)), "{told:?}");
        assert!(told.iter().all(|t| *t == told[0]), "{told:?}");
        assert_eq!(*asked.lock().unwrap(), [900; 3]);
        keeper.lease.take().unwrap().remove().await;
        assert_eq!(*asked.lock().unwrap(), [900, 900, 900, 0]);
    }
}

#[tokio::test]
async fn a_renewal_of_upnp_keeps_the_port_and_a_router_that_falls_silent_keeps_its_lease() {
    let at = router_address();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let refuses = Arc::clone(&broken);
    let asked = upnp(at, format!("http://{at}:5000/root.xml"), move |request| {
        if refuses.load(Ordering::Relaxed) {
            (500, "<errorCode>501</errorCode>".into())
        } else {
            good_upnp(request)
        }
    })
    .await;
    let (mut keeper, standing, _stop) = keeper(at);
    keeper.try_once(Some(way(at))).await.unwrap();
    let first = *standing.borrow();
    let Standing::Forwarded(forwarded) = first else {
        panic!("nothing is forwarded");
    };
    keeper.try_once(Some(way(at))).await.unwrap();
    assert_eq!(*standing.borrow(), first);
    broken.store(true, Ordering::Relaxed);
    let next = keeper.try_once(Some(way(at))).await.unwrap();
    assert!(next <= Instant::now() + RENEW_AGAIN);
    assert_eq!(*standing.borrow(), first, "it is still forwarded");
    broken.store(false, Ordering::Relaxed);
    keeper.lease.take().unwrap().remove().await;
    let port = format!(
        "<NewExternalPort>{}</NewExternalPort>",
        forwarded.outside.port()
    );
    let asked = asked.lock().unwrap();
    let removals = asked.iter().filter(|r| r.contains("#DeletePortMapping"));
    let removals: Vec<_> = removals.collect();
    assert_eq!(removals.len(), 1);
    assert!(removals[0].contains(&port));
}

#[tokio::test]
async fn what_is_of_no_use_is_given_back_at_once() {
    for (habits, obstacle) in [
        (
            Habits {
                outside: CARRIERS,
                ..GOOD
            },
            Obstacle::Carrier(Method::Pcp),
        ),
        (
            Habits {
                outside: Ipv4Addr::LOCALHOST,
                ..GOOD
            },
            Obstacle::Carrier(Method::Pcp),
        ),
        (
            Habits {
                outside: Ipv4Addr::BROADCAST,
                pcp: false,
                ..GOOD
            },
            Obstacle::Carrier(Method::NatPmp),
        ),
    ] {
        let at = router_address();
        let asked = router(at, habits).await;
        assert_eq!(ask(way(at), wish()).await.unwrap_err(), obstacle);
        assert_eq!(*asked.lock().unwrap(), [900, 0]);
    }
    // A lease of a second is over before it is renewed. The search for UPnP finds nothing either.
    let at = router_address();
    let asked = router(
        at,
        Habits {
            lifetime: 1,
            ..GOOD
        },
    )
    .await;
    assert_eq!(ask(way(at), wish()).await.unwrap_err(), Obstacle::TooShort);
    assert_eq!(*asked.lock().unwrap(), [900, 0]);
}

#[tokio::test]
async fn a_public_address_needs_no_router() {
    let way = Way {
        gateway: router_address(),
        own: OUTSIDE,
    };
    assert_eq!(ask(way, wish()).await.unwrap_err(), Obstacle::NotNeeded);
}

#[tokio::test]
async fn a_silent_router_is_given_up_in_bounded_time_and_holds_no_end_up() {
    let at = router_address();
    let _silent = UdpSocket::bind((at, crab_nat::GATEWAY_PORT)).await.unwrap();
    let begun = Instant::now();
    let stopped = forwarding(at);
    assert_eq!(*stopped.standing().borrow(), Standing::Asking);
    sleep(Duration::from_millis(50)).await;
    stopped.stop().await;
    let took = begun.elapsed();
    assert!(took < ANSWER_AT_END + REMOVE_WAIT, "{took:?}");

    let begun = Instant::now();
    assert_eq!(ask(way(at), wish()).await.unwrap_err(), Obstacle::NoAnswer);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test]
async fn garbage_from_a_router_is_no_port() {
    let at = router_address();
    let socket = UdpSocket::bind((at, crab_nat::GATEWAY_PORT)).await.unwrap();
    let (mut bytes, mut dice) = ([0; 1100], 7_u64);
    let mut outcomes = Vec::new();
    for round in 0..300 {
        let answering = async {
            loop {
                let (count, from) = socket.recv_from(&mut bytes).await.unwrap();
                let mut answer: Vec<u8> = (0..round * 3)
                    .map(|_| {
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        dice.to_be_bytes()[0]
                    })
                    .collect();
                // Half of them begin as an answer would.
                if round % 2 == 0 {
                    let head = [bytes[0], bytes[1] | 0x80, 0, 0];
                    let most = answer.len().min(head.len());
                    answer[..most].copy_from_slice(&head[..most]);
                }
                assert!(count <= 60);
                socket.send_to(&answer, from).await.unwrap();
            }
        };
        tokio::select! {
            asked = pcp::ask(way(at), wish(), None) => outcomes.push(asked.map(drop)),
            () = answering => {}
        }
    }
    assert_eq!(outcomes.len(), 300);
    assert!(outcomes.iter().all(Result::is_err));
}

/// A router of UPnP: its search and its web server, which answers what `say` says.
async fn upnp(
    at: Ipv4Addr,
    location: String,
    say: impl Fn(&str) -> (u16, String) + Send + 'static,
) -> Arc<Mutex<Vec<String>>> {
    let search = UdpSocket::bind((at, 1900)).await.unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 2048];
        loop {
            let (count, from) = search.recv_from(&mut bytes).await.unwrap();
            assert!(bytes[..count].starts_with(b"M-SEARCH * HTTP/1.1\r\n"));
            let answer = format!("HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n");
            search.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    let server = TcpListener::bind((at, 5000)).await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut request = String::new();
            let mut piece = [0; 4096];
            // Requests of the module end with their envelope or, without one, with an empty line.
            while !(request.ends_with("</s:Envelope>\r\n")
                || request.starts_with("GET") && request.ends_with("\r\n\r\n"))
            {
                let count = stream.read(&mut piece).await.unwrap();
                assert!(count > 0, "{request}");
                request.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            }
            let (status, body) = say(&request);
            noted.lock().unwrap().push(request);
            let answer = format!(
                "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            // Who asked may have read enough.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    asked
}

const DESCRIPTION: &str = "<root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL></service></serviceList></device></root>";

fn good_upnp(request: &str) -> (u16, String) {
    if request.starts_with("GET /root.xml ") {
        (200, DESCRIPTION.into())
    } else if request.contains("#GetExternalIPAddress") {
        (
            200,
            format!("<x><NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress></x>"),
        )
    } else if request.contains("<NewExternalPort>40123</NewExternalPort>")
        && request.contains("#AddPortMapping")
    {
        (500, "<errorCode>718</errorCode>".into())
    } else {
        (200, "<x/>".into())
    }
}

#[tokio::test]
async fn a_router_of_upnp_forwards_a_free_port_and_gets_it_back() {
    let at = router_address();
    let asked = upnp(at, format!("http://{at}:5000/root.xml"), good_upnp).await;
    let forwarding = forwarding(at);
    let Standing::Forwarded(forwarded) = settled(&forwarding).await else {
        panic!("nothing is forwarded");
    };
    assert_eq!(forwarded.method, Method::Upnp);
    assert_eq!(*forwarded.outside.ip(), OUTSIDE);
    assert_ne!(forwarded.outside.port(), 40_123, "somebody else has that");
    forwarding.stop().await;
    let asked = asked.lock().unwrap();
    let port = format!(
        "<NewExternalPort>{}</NewExternalPort>",
        forwarded.outside.port()
    );
    let added = asked.iter().rev().nth(1).unwrap();
    assert!(
        added.contains("#AddPortMapping") && added.contains(&port),
        "{added}"
    );
    assert!(added.contains("<NewInternalClient>127.0.0.1</NewInternalClient>"));
    assert!(added.contains("<NewLeaseDuration>900</NewLeaseDuration>"));
    let removed = asked.last().unwrap();
    assert!(
        removed.contains("#DeletePortMapping") && removed.contains(&port),
        "{removed}"
    );
}

#[tokio::test]
async fn a_router_of_upnp_that_forwards_for_ever_or_lies_forwards_nothing() {
    type Say = fn(&str) -> (u16, String);
    let cases: [(Say, Obstacle); 4] = [
        (
            |r| match good_upnp(r) {
                (500, _) => (500, "<errorCode>725</errorCode>".into()),
                other => other,
            },
            Obstacle::ForEverOnly,
        ),
        (
            |r| match good_upnp(r) {
                (200, text) if text.contains("NewExternal") => (
                    200,
                    "<NewExternalIPAddress>localhost</NewExternalIPAddress>".into(),
                ),
                other => other,
            },
            Obstacle::Garbled,
        ),
        // Elements without end, and more than is read.
        (|_| (200, "<service><a>".repeat(5_000)), Obstacle::NoAnswer),
        (
            |_| (200, "a".repeat(http::MAX_ANSWER_BYTES)),
            Obstacle::NoAnswer,
        ),
    ];
    for (say, obstacle) in cases {
        let at = router_address();
        upnp(at, format!("http://{at}:5000/root.xml"), say).await;
        assert_eq!(ask(way(at), wish()).await.unwrap_err(), obstacle);
    }
}

#[tokio::test]
async fn a_router_of_upnp_sends_nobody_elsewhere() {
    let (at, victim) = (router_address(), router_address());
    let asked = upnp(victim, format!("http://{victim}:5000/root.xml"), good_upnp).await;
    let search = UdpSocket::bind((at, 1900)).await.unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 2048];
        let (_, from) = search.recv_from(&mut bytes).await.unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nLOCATION: http://{victim}:5000/root.xml\r\n\r\n");
        search.send_to(answer.as_bytes(), from).await.unwrap();
    });
    assert_eq!(igd::find(way(at)).await, None);
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn a_port_is_given_back_when_its_runtime_is_gone() {
    let at = router_address();
    let routers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let asked = routers.block_on(router(at, GOOD));
    let ours = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let forwarding = ours.block_on(async {
        let forwarding = forwarding(at);
        settled(&forwarding).await;
        forwarding
    });
    // As when an error ends everything: nobody stops it, and no task runs any more.
    drop(ours);
    assert_eq!(*asked.lock().unwrap(), [900, 0]);
    drop(forwarding);
}

#[tokio::test]
async fn another_way_to_another_router_asks_that_one() {
    let (first, second) = (router_address(), router_address());
    let (at_first, at_second) = (router(first, GOOD).await, router(second, GOOD).await);
    let moved = Arc::new(Mutex::new(first));
    let look = Arc::clone(&moved);
    let forwarding = Forwarding::with(wish(), Arc::new(move || Some(way(*look.lock().unwrap()))));
    settled(&forwarding).await;
    *moved.lock().unwrap() = second;
    let asked = |asked: &Asked| asked.lock().unwrap().clone();
    let deadline = Instant::now() + WAY_LOOK * 4;
    while asked(&at_second).is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        asked(&at_first),
        [900, 0],
        "given back before the new one was asked"
    );
    assert_eq!(asked(&at_second), [900]);
    forwarding.stop().await;
    assert_eq!(asked(&at_second), [900, 0]);
}
