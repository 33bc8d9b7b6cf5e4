//! A router that forwards ports on request, as many at home do: PCP and NAT-PMP, with packet rules behind the answers.
//!
//! ```text
//!   host ── MAP udp 40123 for 900 s ──► 192.168.1.1:5351 ──► nft: outer port ─► host:40123, for 900 s
//!   host ◄── outer address and port ──                        (a lease of 0 s takes the rule away)
//! ```
//! One lease per host, transport and inner port; a nonce of PCP has to be the same for renewal and end. What a host
//! asks for is its own address only. Source: RFC 6887, RFC 6886.

use crate::{Context as _, Namespace, Outcome};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Where routers are asked.
const PORT: u16 = 5351;
/// How often the thread looks whether the lab ends.
const LOOK: Duration = Duration::from_millis(100);
/// Longest lease that is granted, in seconds.
const LONGEST: u32 = 3600;
/// Not authorized, in both protocols.
const REFUSED: u8 = 2;
/// The version is not spoken, in both protocols.
const OTHER_VERSION: u8 = 1;

/// The newest protocol that a router speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaks {
    /// PCP, and NAT-PMP to those who know no better.
    Pcp,
    /// NAT-PMP alone.
    NatPmp,
    /// Nothing, but it does not say so either: questions are taken and never answered.
    Silent,
}

/// What the rules of such a router have besides those of its NAT.
pub const RULES: &str = r#"table ip mapper {
  map of_udp { type inet_service : ipv4_addr . inet_service; flags timeout; }
  map of_tcp { type inet_service : ipv4_addr . inet_service; flags timeout; }
  chain arriving { type nat hook prerouting priority dstnat;
    iifname "wan" meta l4proto udp dnat ip to udp dport map @of_udp
    iifname "wan" meta l4proto tcp dnat ip to tcp dport map @of_tcp
  }
}
"#;

/// A port that is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    outer: u16,
    nonce: Option<[u8; 12]>,
    until: Instant,
}

/// Transport, host, inner port.
type Key = (&'static str, Ipv4Addr, u16);

/// What is forwarded, and how much ever was.
#[derive(Debug, Default)]
struct Book {
    leases: BTreeMap<Key, Lease>,
    granted: usize,
}

/// The running service of one router.
#[derive(Debug)]
pub struct Mapper {
    namespace: Arc<Namespace>,
    book: Arc<Mutex<Book>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mapper {
    /// Answers on the LAN of a router that was told [`RULES`].
    pub fn start(namespace: Arc<Namespace>, inner: Ipv4Addr, speaks: Speaks) -> Outcome<Self> {
        let socket = namespace.udp((inner, PORT).into())?;
        socket.set_nonblocking(false).during("a socket")?;
        socket.set_read_timeout(Some(LOOK)).during("a socket")?;
        let (book, over) = (
            Arc::<Mutex<Book>>::default(),
            Arc::new(AtomicBool::new(false)),
        );
        let service = Service {
            namespace: Arc::clone(&namespace),
            book: Arc::clone(&book),
            speaks,
            begun: Instant::now(),
        };
        let ending = Arc::clone(&over);
        let thread = std::thread::spawn(move || service.run(&socket, &ending));
        Ok(Self {
            namespace,
            book,
            over,
            thread: Some(thread),
        })
    }

    /// How many ports were ever forwarded.
    pub fn granted(&self) -> usize {
        lock(&self.book).granted
    }

    /// What is forwarded now, in words.
    pub fn held(&self) -> Vec<String> {
        let book = lock(&self.book);
        let now = Instant::now();
        let held = book.leases.iter().filter(|(_, lease)| lease.until > now);
        held.map(|((transport, host, port), _)| format!("{transport} to {host}:{port}"))
            .collect()
    }

    /// Forgets everything: the router restarts.
    pub fn forget(&self) -> Outcome<()> {
        lock(&self.book).leases.clear();
        self.namespace
            .nft("flush map ip mapper of_udp\nflush map ip mapper of_tcp\n")
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is asked for.
#[derive(Debug)]
struct Request {
    key: Key,
    wanted: u16,
    seconds: u32,
    nonce: Option<[u8; 12]>,
}

struct Service {
    namespace: Arc<Namespace>,
    book: Arc<Mutex<Book>>,
    speaks: Speaks,
    begun: Instant,
}

impl Service {
    fn run(&self, socket: &UdpSocket, over: &AtomicBool) {
        let mut bytes = [0; 1100];
        while !over.load(Ordering::Relaxed) {
            let Ok((count, from)) = socket.recv_from(&mut bytes) else {
                continue;
            };
            let SocketAddr::V4(host) = from else { continue };
            if let Some(answer) = self.answer(&bytes[..count], *host.ip()) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn answer(&self, request: &[u8], host: Ipv4Addr) -> Option<Vec<u8>> {
        match request.first()? {
            _ if self.speaks == Speaks::Silent => None,
            2 if self.speaks == Speaks::Pcp => self.pcp(request, host),
            0 => self.nat_pmp(request, host),
            _ => {
                let mut answer = vec![0, request.get(1)? | 0x80, 0, OTHER_VERSION];
                answer.extend_from_slice(&self.epoch());
                Some(answer)
            }
        }
    }

    fn epoch(&self) -> [u8; 4] {
        u32::try_from(self.begun.elapsed().as_secs())
            .unwrap_or(u32::MAX)
            .to_be_bytes()
    }

    fn pcp(&self, request: &[u8], host: Ipv4Addr) -> Option<Vec<u8>> {
        if request.len() != 60 || request[1] != 1 {
            return None;
        }
        let transport = match request[36] {
            17 => "udp",
            6 => "tcp",
            _ => return None,
        };
        let claimed = request[8..24] == host.to_ipv6_mapped().octets();
        let asked = Request {
            key: (transport, host, number(request, 40)?),
            wanted: number(request, 42)?,
            seconds: u32::from_be_bytes(request[4..8].try_into().ok()?),
            nonce: Some(request[24..36].try_into().ok()?),
        };
        let granted = self.grant(&asked).filter(|_| claimed);
        let mut answer = request.to_vec();
        answer[1] |= 0x80;
        answer[8..24].fill(0);
        answer[8..12].copy_from_slice(&self.epoch());
        match granted {
            Some((outer, port, seconds)) => {
                answer[4..8].copy_from_slice(&seconds.to_be_bytes());
                answer[42..44].copy_from_slice(&port.to_be_bytes());
                answer[44..60].copy_from_slice(&outer.to_ipv6_mapped().octets());
            }
            None => answer[3] = REFUSED,
        }
        Some(answer)
    }

    fn nat_pmp(&self, request: &[u8], host: Ipv4Addr) -> Option<Vec<u8>> {
        let op = *request.get(1)?;
        let mut answer = vec![0, op | 0x80, 0, 0];
        answer.extend_from_slice(&self.epoch());
        let transport = match op {
            0 => {
                answer.extend_from_slice(&self.outer()?.octets());
                return Some(answer);
            }
            1 => "udp",
            2 => "tcp",
            _ => return None,
        };
        let asked = Request {
            key: (transport, host, number(request, 4)?),
            wanted: number(request, 6)?,
            seconds: u32::from_be_bytes(request.get(8..12)?.try_into().ok()?),
            nonce: None,
        };
        answer.extend_from_slice(&asked.key.2.to_be_bytes());
        if let Some((_, port, seconds)) = self.grant(&asked) {
            let port = if seconds == 0 { 0 } else { port };
            answer.extend_from_slice(&port.to_be_bytes());
            answer.extend_from_slice(&seconds.to_be_bytes());
        } else {
            answer[3] = REFUSED;
            answer.extend_from_slice(&[0; 6]);
        }
        Some(answer)
    }

    /// Makes, renews or ends a lease, and the rule of it. Gives the outer address and port, and for how long.
    fn grant(&self, asked: &Request) -> Option<(Ipv4Addr, u16, u32)> {
        let outer = self.outer()?;
        let (transport, host, inner) = asked.key;
        let mut book = lock(&self.book);
        let now = Instant::now();
        book.leases.retain(|_, lease| lease.until > now);
        let known = book.leases.get(&asked.key).cloned();
        if known
            .as_ref()
            .is_some_and(|known| known.nonce != asked.nonce)
        {
            return None;
        }
        let taken = |port: u16| {
            let mut others = book.leases.iter().filter(|(key, _)| **key != asked.key);
            others.any(|(key, lease)| key.0 == transport && lease.outer == port)
        };
        let port = match &known {
            Some(known) => known.outer,
            None => (asked.wanted.max(1024)..=u16::MAX).find(|port| !taken(*port))?,
        };
        // Adding what is there already is no error, so that removing it is none either.
        let place = format!("element ip mapper of_{transport} {{ {port}");
        let aim = format!(": {host} . {inner} }}");
        let mut rules = format!("add {place} {aim}\ndelete {place} }}\n");
        let seconds = asked.seconds.min(LONGEST);
        if seconds > 0 {
            let _ = writeln!(rules, "add {place} timeout {seconds}s {aim}");
        }
        self.namespace.nft(&rules).ok()?;
        if seconds == 0 {
            book.leases.remove(&asked.key);
        } else {
            book.granted += usize::from(known.is_none());
            let lease = Lease {
                outer: port,
                nonce: asked.nonce,
                until: now + Duration::from_secs(seconds.into()),
            };
            book.leases.insert(asked.key, lease);
        }
        Some((outer, port, seconds))
    }

    /// The router's address outside, which may change.
    fn outer(&self) -> Option<Ipv4Addr> {
        let words = ["ip", "-o", "-4", "addr", "show", "dev", "wan"];
        let shown = self.namespace.run(&words, "").ok()?;
        let mut words = shown.split_whitespace();
        words.find(|word| *word == "inet")?;
        words.next()?.split('/').next()?.parse().ok()
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
