//! STUN answers on two UDP ports: parties learn how their NAT shows them.
//!
//! One relay with two ports shows whether a NAT gives a new port per destination, and, by an answer from the port that
//! was not asked, whether it lets that in. An answer goes where its question came from and is never larger, so nobody
//! can aim more at somebody else than they send.
//!
//! Limits: [`ANSWERS_PER_SECOND`] per socket, with as many in a burst; datagrams of at most
//! [`MAX_DATAGRAM`] bytes are looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quorate_identity::Code;
use quorate_path::stun;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{net::UdpSocket, task::JoinSet};

use crate::{Fault, party::clock};

/// Answers of one socket in a second.
const ANSWERS_PER_SECOND: u64 = 2000;
/// Larger datagrams are cut, and refused as what they are then.
const MAX_DATAGRAM: usize = 512;
/// Pause after a datagram could not be read.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// How often two families are tried to get one port number, where the system chooses it.
const PORT_TRIES: usize = 8;

/// Two ports that answer, until it is dropped.
#[derive(Debug)]
pub(super) struct StunServer {
    /// The two port numbers.
    pub ports: Vec<u16>,
    answers: Arc<AtomicU64>,
    /// Ended with the server.
    _tasks: JoinSet<()>,
}

impl StunServer {
    /// Binds both ports at every host; port 0 lets the system choose.
    pub fn start(hosts: &BTreeSet<IpAddr>, ports: [u16; 2]) -> Result<Self, Fault> {
        let answers = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let [(one, here), (two, there)] = [bind_all(hosts, ports[0])?, bind_all(hosts, ports[1])?];
        for (host, first) in &here {
            let second = there.get(host);
            let mut serve_at = |socket: &Arc<UdpSocket>, other: Option<(&Arc<UdpSocket>, u16)>| {
                let other = other.map(|(socket, port)| (Arc::clone(socket), port));
                tasks.spawn(serve(Arc::clone(socket), other, Arc::clone(&answers)));
            };
            serve_at(first, second.map(|second| (second, two)));
            if let Some(second) = second {
                serve_at(second, Some((first, one)));
            }
        }
        Ok(Self {
            ports: vec![one, two],
            answers,
            _tasks: tasks,
        })
    }

    /// Counts the answers.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.answers)
    }
}

/// The sockets of one port number, by host.
type Bound = (u16, BTreeMap<IpAddr, Arc<UdpSocket>>);

fn bind_all(hosts: &BTreeSet<IpAddr>, port: u16) -> Result<Bound, Fault> {
    let mut failure = None;
    for _ in 0..PORT_TRIES {
        match bind_at(hosts, port) {
            Ok(bound) => return Ok(bound),
            Err(e) => failure = Some(e),
        }
        if port != 0 {
            break;
        }
    }
    let why = failure.map_or_else(|| "no address".to_owned(), |e| e.to_string());
    let text = format!("UDP port {port} for STUN cannot be used: {why}");
    Err(Fault::new(Code::Port, text).hint("choose two others with --stun, or none with --no-stun"))
}

/// One port number at all hosts. IPv6 may be missing on a machine, IPv4 may not where it is asked for.
fn bind_at(hosts: &BTreeSet<IpAddr>, port: u16) -> std::io::Result<Bound> {
    let mut sockets = BTreeMap::new();
    let mut number = port;
    for host in hosts {
        match bind(SocketAddr::new(*host, number)) {
            Ok(socket) => {
                number = socket.local_addr()?.port();
                sockets.insert(*host, Arc::new(socket));
            }
            Err(e) if host.is_ipv6() && !sockets.is_empty() && is_missing(&e) => {}
            Err(e) => return Err(e),
        }
    }
    if sockets.is_empty() {
        return Err(std::io::ErrorKind::AddrNotAvailable.into());
    }
    Ok((number, sockets))
}

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    UdpSocket::from_std(socket.into())
}

/// Answers at `socket`; `other` is the socket of the other port at the same host.
async fn serve(
    socket: Arc<UdpSocket>,
    other: Option<(Arc<UdpSocket>, u16)>,
    answers: Arc<AtomicU64>,
) {
    let mut buffer = [0; MAX_DATAGRAM];
    let mut allowance = Allowance::new(clock::now());
    loop {
        let Some((length, from)) = taken(socket.recv_from(&mut buffer).await).await else {
            continue;
        };
        let other_port = other.as_ref().map(|(_, port)| *port);
        let Some((answer, elsewhere)) = stun::respond(&buffer[..length], from, other_port) else {
            continue;
        };
        let by = match &other {
            Some((other, _)) if elsewhere => other,
            _ => &socket,
        };
        // What does not leave at once is not worth waiting for.
        if allowance.take(clock::now()) && by.try_send_to(&answer, from).is_ok() {
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What was read. An error, such as a port that was unreachable for an earlier answer, takes its time: it may be
/// for good.
async fn taken<T>(read: std::io::Result<T>) -> Option<T> {
    if read.is_err() {
        tokio::time::sleep(ERROR_PAUSE).await;
    }
    read.ok()
}

/// How many more answers may leave.
struct Allowance {
    left: u64,
    since: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            left: ANSWERS_PER_SECOND,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since).as_micros();
        let grown = u64::try_from(elapsed).unwrap_or(u64::MAX) / (1_000_000 / ANSWERS_PER_SECOND);
        if grown > 0 {
            self.left = self.left.saturating_add(grown).min(ANSWERS_PER_SECOND);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn both_ports_say_where_a_question_came_from_and_stay_silent_to_anything_else() {
        let hosts = BTreeSet::from([IpAddr::from(Ipv4Addr::LOCALHOST)]);
        let server = StunServer::start(&hosts, [0, 0]).unwrap();
        assert_ne!(server.ports[0], server.ports[1]);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 2048];
        for port in &server.ports {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            for garbage in [&[][..], &[0; 1], &[0xff; 1400]] {
                socket.send_to(garbage, to).await.unwrap();
            }
            let question = stun::Request::new([7; 12]).encode();
            socket.send_to(&question, to).await.unwrap();
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!(from, to);
            assert!(length <= question.len());
            let told = stun::parse_response(&buffer[..length]).unwrap();
            assert_eq!(told, ([7; 12], socket.local_addr().unwrap()));
        }
        assert_eq!(server.counter().load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_answer_comes_from_the_other_port_when_that_is_asked_for() {
        let hosts = BTreeSet::from([IpAddr::from(Ipv4Addr::LOCALHOST)]);
        let server = StunServer::start(&hosts, [0, 0]).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 2048];
        let [one, two] = server.ports[..] else {
            unreachable!("two ports")
        };
        for (asked, other) in [(one, two), (two, one)] {
            let question = stun::Request::new([9; 12]).from_other_port().encode();
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, asked));
            socket.send_to(&question, to).await.unwrap();
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!(from.port(), other);
            assert!(length <= question.len());
            let answer = stun::parse_answer(&buffer[..length]).unwrap();
            assert_eq!(answer.seen, socket.local_addr().unwrap());
            assert_eq!(answer.other_port, Some(other));
        }
    }

    #[tokio::test]
    async fn errors_without_end_are_no_busy_loop() {
        let began = Instant::now();
        for _ in 0..5 {
            let error = std::io::Error::from(std::io::ErrorKind::NotConnected);
            assert_eq!(taken::<()>(Err(error)).await, None);
        }
        assert!(began.elapsed() >= 5 * ERROR_PAUSE);
        assert_eq!(taken(Ok(7)).await, Some(7));
    }

    #[test]
    fn answers_are_bounded_in_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let in_a = |allowance: &mut Allowance, now| {
            (0..10_000).filter(|_| allowance.take(now)).count() as u64
        };
        assert_eq!(in_a(&mut allowance, start), ANSWERS_PER_SECOND);
        let later = start + Duration::from_millis(500);
        assert_eq!(in_a(&mut allowance, later), ANSWERS_PER_SECOND / 2);
    }
}
