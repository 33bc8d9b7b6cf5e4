//! How a program gets its links, and the guard on them (attach mode `unix`).
//!
//! For each other party there is one pair of connected Unix sockets. One end goes to the program
//! ([`ChildFds`], see `program::Supervisor`), the other stays here and is spliced to a stream
//! inside the WireGuard tunnel. There is no port and no name in the file system: no other process
//! can reach the program at all.
//!
//! ```text
//!   program of party i                      guard of party i             tunnel     guard of party j > i
//!   dial j ──────── pair ──────► reads 2 bytes: are they i?  ── connect ──────►  from i? first time? i < j?
//!                                no: OwnProgram, nothing leaves                  reads 2 bytes: are they i?
//!                                yes: bytes of i ── splice ──────────────────►   no: Spoof, nothing delivered
//!                                                                                yes: ── pair ──► program of j
//! ```
//!
//! The lower party dials, as in MPyC: party `i` accepts from parties below `i` and opens to those
//! above it. The first two bytes on a new MPyC connection are the number of the dialling party,
//! little-endian.
//!
//! Security: *requires* that the caller names the peer of a tunnel stream truthfully (its address
//! inside WireGuard, bound to its key by the roster). *Provides*: the program hears party `j` on
//! link `j` only, exactly one connection per party and run, and no byte before the number in it
//! was checked. *Does not provide* protection against what an authenticated party sends on its
//! own link.
//!
//! Limits: [`PID_WAIT`], [`OPEN_WAIT`], [`OPEN_RETRY`], [`COPY_BUFFER`]; two buffers per link;
//! events in a queue of [`EVENT_QUEUE`].

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_identity::Code;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};

mod loopback;
mod splice;

pub use loopback::{Loopback, Places, REFUSAL_PAUSE, of_program};
pub use splice::COPY_BUFFER;
use splice::splice;

/// How long a peer may take to send its number on a new tunnel stream.
pub const PID_WAIT: Duration = Duration::from_secs(10);
/// How long opening a tunnel stream is tried after the program dialled.
pub const OPEN_WAIT: Duration = Duration::from_secs(30);
/// The pause between two tries to open a tunnel stream.
pub const OPEN_RETRY: Duration = Duration::from_millis(200);
/// Events that may wait for the caller.
pub const EVENT_QUEUE: usize = 64;

/// The program's ends of the links, by party.
#[derive(Debug)]
pub struct ChildFds(Vec<(u16, OwnedFd)>);

impl ChildFds {
    /// No links: a program that computes alone.
    pub fn none() -> Self {
        Self(Vec::new())
    }
}

impl FromIterator<(u16, OwnedFd)> for ChildFds {
    fn from_iter<I: IntoIterator<Item = (u16, OwnedFd)>>(links: I) -> Self {
        Self(links.into_iter().collect())
    }
}

impl IntoIterator for ChildFds {
    type Item = (u16, OwnedFd);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// What the guard saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardEvent {
    /// The link to this party carries bytes.
    Connected {
        /// The other party.
        peer: u16,
    },
    /// An authenticated party claimed to be another one. Nothing was delivered. The session ends.
    Spoof {
        /// Who it is.
        peer: u16,
        /// Who it says it is.
        claimed: u16,
    },
    /// Our own program claimed to be another party. Nothing was sent.
    OwnProgram {
        /// The party it dialled.
        peer: u16,
        /// Who it says it is.
        claimed: u16,
    },
    /// A stream was refused. The first few are reported, all are counted.
    Refused {
        /// The party at its other end.
        peer: u16,
        /// Why.
        why: Refusal,
    },
    /// A link ended.
    Closed {
        /// The other party, and the bytes that were carried.
        total: LinkCount,
        /// Whether the tunnel stream failed, rather than one of the two programs ending it.
        lost: bool,
    },
}

/// Bytes carried on the link to one party, the two bytes of its number included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCount {
    /// The other party.
    pub peer: u16,
    /// Bytes of our program sent into the tunnel.
    pub tx: u64,
    /// Bytes from the tunnel given to our program.
    pub rx: u64,
}

/// Why a stream was not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a party, or oneself.
    #[error("party {0} is not another party of this session")]
    NoSuchParty(u16),
    /// A higher party dialled, or we were told to dial a lower one.
    #[error("the lower party dials; party {0} has it the wrong way round")]
    WrongWay(u16),
    /// The link of this party is in use or was used.
    #[error("party {0} has its connection already")]
    Again(u16),
    /// No number came in time.
    #[error("party {0} connected but did not say its number")]
    Silent(u16),
    /// The number was another party's.
    #[error("party {peer} claimed to be party {claimed}")]
    Spoof {
        /// Who it is.
        peer: u16,
        /// Who it says it is.
        claimed: u16,
    },
    /// Our own program gave another party's number.
    #[error("the program on this machine claimed to be party {0}")]
    OwnProgram(u16),
    /// Our own program ended before it dialled.
    #[error("the program ended before it connected to party {0}")]
    ProgramEnded(u16),
    /// Our own program does not listen.
    #[error("the program on this machine does not listen for party {0}")]
    ProgramSilent(u16),
    /// The peer's guard could not be reached in time.
    #[error("party {0} could not be reached inside the mesh")]
    NotReached(u16),
    /// The session is being closed.
    #[error("the links are closed")]
    Closed,
}

impl Refusal {
    /// The refusal code for reports.
    pub fn code(self) -> Code {
        match self {
            Self::Spoof { .. } => Code::PidSpoof,
            Self::NoSuchParty(_) | Self::WrongWay(_) | Self::Again(_) => Code::Peer,
            Self::Silent(_) | Self::NotReached(_) => Code::PartyLeft,
            Self::OwnProgram(_) | Self::ProgramEnded(_) | Self::ProgramSilent(_) => {
                Code::ProgramFailed
            }
            Self::Closed => Code::Cancelled,
        }
    }
}

/// The links of one run. Clones share them.
#[derive(Clone, Debug)]
pub struct Attach(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    me: u16,
    /// By party; `None` at our own place.
    links: Vec<Option<Link>>,
    events: mpsc::Sender<GuardEvent>,
    refused: AtomicU64,
    closed: watch::Sender<bool>,
    /// Whether our own program's number is checked before anything leaves.
    own_checked: AtomicBool,
}

#[derive(Debug)]
struct Link {
    /// Our end; taken by the one connection of this run.
    end: Mutex<Option<UnixStream>>,
    tx: AtomicU64,
    rx: AtomicU64,
}

impl Attach {
    /// Make the links of party `me` among `m` parties. Needs a tokio runtime.
    ///
    /// Give the [`ChildFds`] to the program, each stream that the tunnel's listener accepts to
    /// [`Attach::run_inbound`], and call [`Attach::run_outbound`] once for each higher party.
    pub fn prepare(me: u16, m: u16) -> io::Result<(Self, ChildFds, mpsc::Receiver<GuardEvent>)> {
        let mut links = Vec::with_capacity(m.into());
        let mut child = Vec::with_capacity(m.into());
        for peer in 0..m {
            if peer == me {
                links.push(None);
                continue;
            }
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let end = Mutex::new(Some(UnixStream::from_std(ours)?));
            links.push(Some(Link {
                end,
                tx: AtomicU64::new(0),
                rx: AtomicU64::new(0),
            }));
            child.push((peer, theirs.into()));
        }
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let (closed, _) = watch::channel(false);
        let inner = Inner {
            me,
            links,
            events,
            refused: AtomicU64::new(0),
            own_checked: AtomicBool::new(true),
            closed,
        };
        Ok((Self(Arc::new(inner)), ChildFds(child), receiver))
    }

    /// Guard and carry a stream that authenticated party `peer` opened to us. Ends with the link.
    pub async fn run_inbound<S>(&self, peer: u16, stream: S) -> Result<LinkCount, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let result = match self.take(peer, peer < self.0.me) {
            Ok((link, end)) => {
                self.until_closed(self.inbound(peer, link, end, stream))
                    .await
            }
            Err(why) => Err(why),
        };
        self.report(peer, result).await
    }

    /// Wait for our program to dial party `peer`, check its number, open a tunnel stream with
    /// `connect` (tried again until [`OPEN_WAIT`]), and carry it. Ends with the link.
    pub async fn run_outbound<S, C, F>(&self, peer: u16, connect: C) -> Result<LinkCount, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        C: FnMut() -> F,
        F: Future<Output = io::Result<S>>,
    {
        let result = match self.take(peer, peer > self.0.me) {
            Ok((link, end)) => {
                self.until_closed(self.outbound(peer, link, end, connect))
                    .await
            }
            Err(why) => Err(why),
        };
        self.report(peer, result).await
    }

    /// Carry a stream that party `peer` opened to us on to a program that listens at `dial`, which
    /// is tried until [`OPEN_WAIT`]. For engines that dial either way and give no number: that the
    /// stream is party `peer`'s is known from the tunnel. Ends with the link.
    pub async fn carry_in<S>(
        &self,
        peer: u16,
        stream: S,
        dial: SocketAddrV4,
    ) -> Result<LinkCount, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let result = match self.take(peer, peer != self.0.me) {
            Ok((link, _)) => {
                let carried = async {
                    let open = keep_trying(|| TcpStream::connect(dial));
                    let open = tokio::time::timeout(OPEN_WAIT, open).await;
                    let program = open.map_err(|_| Refusal::ProgramSilent(peer))?;
                    Ok(self.carry(peer, link, program, stream).await)
                };
                self.until_closed(carried).await
            }
            Err(why) => Err(why),
        };
        self.report(peer, result).await
    }

    /// Carry a connection that our program opened for party `peer` on a stream opened with `connect`.
    /// The counterpart of [`Attach::carry_in`].
    pub async fn carry_out<S, C, F>(
        &self,
        peer: u16,
        program: TcpStream,
        connect: C,
    ) -> Result<LinkCount, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        C: FnMut() -> F,
        F: Future<Output = io::Result<S>>,
    {
        let result = match self.take(peer, peer != self.0.me) {
            Ok((link, _)) => {
                let carried = async {
                    let open = tokio::time::timeout(OPEN_WAIT, keep_trying(connect)).await;
                    let stream = open.map_err(|_| Refusal::NotReached(peer))?;
                    Ok(self.carry(peer, link, program, stream).await)
                };
                self.until_closed(carried).await
            }
            Err(why) => Err(why),
        };
        self.report(peer, result).await
    }

    async fn carry<S>(&self, peer: u16, link: &Link, mut program: TcpStream, stream: S) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        program.set_nodelay(true).ok();
        self.tell(GuardEvent::Connected { peer }).await;
        let lost = splice(program.split(), stream, &link.tx, &link.rx)
            .await
            .is_err();
        let count = link.count(peer);
        Ended { count, lost }
    }

    /// Let our own program give any number. No other party relies on that check, its own guard does
    /// it again; tests play a cheating party with it.
    pub fn trust_own_program(&self) {
        self.0.own_checked.store(false, Ordering::Relaxed);
    }

    /// The bytes carried so far, one entry per other party in order.
    pub fn counters(&self) -> Vec<LinkCount> {
        let links = self.0.links.iter().zip(0..);
        links
            .filter_map(|(link, peer)| Some(link.as_ref()?.count(peer)))
            .collect()
    }

    /// How many streams were refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// End all links now, and refuse new ones.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
        for link in self.0.links.iter().flatten() {
            link.take();
        }
    }

    /// Claim the link of `peer`, which only the first connection of a run can.
    fn take(&self, peer: u16, right_way: bool) -> Result<(&Link, UnixStream), Refusal> {
        let link = self.0.links.get(usize::from(peer)).and_then(Option::as_ref);
        let link = link.ok_or(Refusal::NoSuchParty(peer))?;
        if !right_way {
            return Err(Refusal::WrongWay(peer));
        }
        let closed = *self.0.closed.borrow();
        let end = link.take().ok_or(if closed {
            Refusal::Closed
        } else {
            Refusal::Again(peer)
        })?;
        Ok((link, end))
    }

    async fn until_closed(
        &self,
        link: impl Future<Output = Result<Ended, Refusal>>,
    ) -> Result<Ended, Refusal> {
        let mut closed = self.0.closed.subscribe();
        tokio::select! {
            result = link => result,
            _ = closed.wait_for(|closed| *closed) => Err(Refusal::Closed),
        }
    }

    async fn inbound<S>(
        &self,
        peer: u16,
        link: &Link,
        mut end: UnixStream,
        mut stream: S,
    ) -> Result<Ended, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut number = [0; 2];
        match tokio::time::timeout(PID_WAIT, stream.read_exact(&mut number)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(Refusal::Silent(peer)),
        }
        let claimed = u16::from_le_bytes(number);
        if claimed != peer {
            return Err(Refusal::Spoof { peer, claimed });
        }
        self.tell(GuardEvent::Connected { peer }).await;
        if end.write_all(&number).await.is_ok() {
            link.rx.fetch_add(2, Ordering::Relaxed);
        }
        let lost = splice(end.split(), stream, &link.tx, &link.rx)
            .await
            .is_err();
        Ok(Ended {
            count: link.count(peer),
            lost,
        })
    }

    async fn outbound<S, C, F>(
        &self,
        peer: u16,
        link: &Link,
        mut end: UnixStream,
        connect: C,
    ) -> Result<Ended, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        C: FnMut() -> F,
        F: Future<Output = io::Result<S>>,
    {
        let mut number = [0; 2];
        // Without a limit: the program may have much to do before it dials.
        end.read_exact(&mut number)
            .await
            .map_err(|_| Refusal::ProgramEnded(peer))?;
        let claimed = u16::from_le_bytes(number);
        if claimed != self.0.me && self.0.own_checked.load(Ordering::Relaxed) {
            return Err(Refusal::OwnProgram(claimed));
        }
        let open = tokio::time::timeout(OPEN_WAIT, keep_trying(connect));
        let mut stream = open.await.map_err(|_| Refusal::NotReached(peer))?;
        self.tell(GuardEvent::Connected { peer }).await;
        let lost = match stream.write_all(&number).await {
            Ok(()) => {
                link.tx.fetch_add(2, Ordering::Relaxed);
                splice(end.split(), stream, &link.tx, &link.rx)
                    .await
                    .is_err()
            }
            Err(_) => true,
        };
        Ok(Ended {
            count: link.count(peer),
            lost,
        })
    }

    /// Turn the end of a link into an event and the caller's result.
    async fn report(
        &self,
        peer: u16,
        result: Result<Ended, Refusal>,
    ) -> Result<LinkCount, Refusal> {
        let event = match result {
            Ok(Ended { count, lost }) => GuardEvent::Closed { total: count, lost },
            Err(Refusal::Closed) => return Err(Refusal::Closed),
            Err(Refusal::Spoof { peer, claimed }) => GuardEvent::Spoof { peer, claimed },
            Err(Refusal::OwnProgram(claimed)) => GuardEvent::OwnProgram { peer, claimed },
            Err(why) => GuardEvent::Refused { peer, why },
        };
        if let Err(why) = result {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer, %why, "a stream to the program was refused");
        }
        if matches!(event, GuardEvent::Refused { .. }) {
            // A peer can cause as many of these as it likes; they must not fill the queue.
            if self.0.events.capacity() > EVENT_QUEUE / 2 {
                self.0.events.try_send(event).ok();
            }
        } else {
            self.tell(event).await;
        }
        result.map(|ended| ended.count)
    }

    async fn tell(&self, event: GuardEvent) {
        // Nobody listening any more means that the session is over.
        self.0.events.send(event).await.ok();
    }
}

/// How a carried link ended.
#[derive(Clone, Copy)]
struct Ended {
    count: LinkCount,
    lost: bool,
}

impl Link {
    fn take(&self) -> Option<UnixStream> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn count(&self, peer: u16) -> LinkCount {
        let (tx, rx) = (
            self.tx.load(Ordering::Relaxed),
            self.rx.load(Ordering::Relaxed),
        );
        LinkCount { peer, tx, rx }
    }
}

/// Call `connect` until it succeeds; the caller sets the limit.
async fn keep_trying<S, C, F>(mut connect: C) -> S
where
    C: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
{
    loop {
        match connect().await {
            Ok(stream) => return stream,
            Err(error) => tracing::debug!(%error, "the peer's guard is not reachable yet"),
        }
        tokio::time::sleep(OPEN_RETRY).await;
    }
}
