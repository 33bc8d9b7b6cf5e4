//! Which sockets an overlay opens, read from the system: under `Scope::Local` nothing but
//! loopback, and nothing at all after `stop`. Alone in its file, because it looks at the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use quorate_node::overlay::{Overlay, OverlayConfig, OverlayEvent, Purpose, Scope};
use tokio::{sync::mpsc::Receiver, time::timeout};
use zeroize::Zeroizing;

/// The group of the loopback beacon.
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 255, 113, 82));

async fn start(seed: u8, key: u8, hints: Vec<String>) -> (Overlay, Receiver<OverlayEvent>) {
    let config = OverlayConfig {
        purpose: Purpose::Session,
        secret: Zeroizing::new([seed; 32]),
        scope: Scope::Local,
        beacon_key: [key; 32],
        hints,
        reach: quorate_node::overlay::Reach::default(),
    };
    Overlay::start(config).await.expect("loopback works")
}

async fn up(events: &mut Receiver<OverlayEvent>) {
    let link = async { while !matches!(events.recv().await, Some(OverlayEvent::LinkUp { .. })) {} };
    timeout(Duration::from_secs(30), link)
        .await
        .expect("a link");
}

/// Inodes of this process's sockets.
fn own_sockets() -> HashSet<String> {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    links
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| {
            let text = target.to_string_lossy().into_owned();
            Some(text.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect()
}

/// Local address, remote address and inode of every internet socket in `table`.
fn rows(table: &str) -> Vec<(IpAddr, IpAddr, String)> {
    let text = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
    let rows = text.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (address(fields[1]), address(fields[2]), fields[9].to_owned())
    });
    rows.collect()
}

/// `0100007F:1F90` and its longer sister, as the kernel writes them.
fn address(text: &str) -> IpAddr {
    let hex = text.split(':').next().unwrap();
    let words = hex.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).unwrap(), 16).unwrap();
        word.to_ne_bytes()
    });
    let bytes: Vec<u8> = words.flatten().collect();
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).unwrap()).into(),
    }
}

/// This process's internet sockets.
fn internet_sockets() -> Vec<(IpAddr, IpAddr, String)> {
    let own = own_sockets();
    let tables = ["tcp", "tcp6", "udp", "udp6"];
    let all = tables.into_iter().flat_map(rows);
    all.filter(|(_, _, inode)| own.contains(inode)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_scope_opens_loopback_sockets_only_and_stop_closes_them() {
    let before = internet_sockets().len();
    let (a, mut events_a) = start(1, 1, vec![]).await;
    let quic: Vec<String> = a
        .addresses()
        .into_iter()
        .filter(|x| x.contains("quic"))
        .collect();
    let tcp: Vec<String> = a
        .addresses()
        .into_iter()
        .filter(|x| x.contains("/tcp/"))
        .collect();
    assert!(!quic.is_empty() && !tcp.is_empty());
    let (b, mut events_b) = start(2, 2, quic).await;
    let (c, mut events_c) = start(3, 3, tcp).await;
    let (d, mut events_d) = start(4, 1, vec![]).await;
    for _ in 0..3 {
        up(&mut events_a).await;
    }
    up(&mut events_b).await;
    up(&mut events_c).await;
    up(&mut events_d).await;

    let open = internet_sockets();
    assert!(open.len() > before + 8, "the tables were read: {open:?}");
    for (local, remote, _) in &open {
        assert!(
            local.is_loopback() || *local == GROUP,
            "{local} -> {remote}"
        );
        let unconnected = remote.is_unspecified();
        assert!(unconnected || remote.is_loopback(), "{local} -> {remote}");
    }

    for overlay in [a, b, c, d] {
        overlay.stop().await;
    }
    // QUIC's sockets are closed by tasks of their own, which end just after the swarm.
    let gone = async {
        while internet_sockets().len() > before {
            tokio::task::yield_now().await;
        }
    };
    let gone = timeout(Duration::from_secs(10), gone).await;
    assert!(gone.is_ok(), "left open: {:?}", internet_sockets());
}
