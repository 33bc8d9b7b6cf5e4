//! What the guard lets through, and what it does not.

#![allow(clippy::panic)]

mod attach_support;

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use attach_support::{PATIENCE, Seat, mesh, start, text};
use quorate_identity::Code;
use quorate_node::attach::{
    Attach, COPY_BUFFER, ChildFds, EVENT_QUEUE, GuardEvent, LinkCount, Refusal,
};
use quorate_node::program::ProgramEvent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// A guard, and the program's ends of its links as the program would use them.
struct Bench {
    attach: Attach,
    program: Vec<Option<UnixStream>>,
    events: mpsc::Receiver<GuardEvent>,
}

fn bench(me: u16, m: u16) -> Bench {
    let (attach, links, events) = Attach::prepare(me, m).expect("sockets can be made");
    let mut program: Vec<_> = (0..m).map(|_| None).collect();
    for (peer, end) in links {
        let end = StdStream::from(end);
        end.set_nonblocking(true).expect("a socket");
        program[usize::from(peer)] = Some(UnixStream::from_std(end).expect("a socket"));
    }
    Bench {
        attach,
        program,
        events,
    }
}

impl Bench {
    fn program(&mut self, peer: usize) -> UnixStream {
        self.program[peer].take().expect("not taken yet")
    }

    /// Accept a stream from `peer`; the other end of it.
    fn accept(&self, peer: u16, room: usize) -> (DuplexStream, Linked) {
        let (near, far) = duplex(room);
        let attach = self.attach.clone();
        (
            near,
            tokio::spawn(async move { attach.run_inbound(peer, far).await }),
        )
    }

    /// Open a stream to `peer` when the program dials; its far end, once it is open.
    fn open(&self, peer: u16) -> (mpsc::UnboundedReceiver<DuplexStream>, Linked) {
        let (opened, receiver) = mpsc::unbounded_channel();
        let attach = self.attach.clone();
        let connect = move || {
            let (near, far) = duplex(1024);
            let opened = opened.clone();
            async move {
                opened
                    .send(far)
                    .map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(near)
            }
        };
        (
            receiver,
            tokio::spawn(async move { attach.run_outbound(peer, connect).await }),
        )
    }

    async fn event(&mut self) -> GuardEvent {
        tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event comes")
            .expect("the guard is there")
    }
}

type Linked = tokio::task::JoinHandle<Result<LinkCount, Refusal>>;

async fn result(linked: Linked) -> Result<LinkCount, Refusal> {
    tokio::time::timeout(PATIENCE, linked)
        .await
        .expect("the link ends")
        .expect("no panic")
}

async fn all(mut from: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.expect("it ends");
    bytes
}

#[tokio::test]
async fn a_party_with_its_own_number_is_carried_both_ways_and_counted() {
    let mut bench = bench(2, 3);
    let (mut tunnel, linked) = bench.accept(1, 1024);
    // In two pieces, as a network may deliver it.
    tunnel.write_all(&[1]).await.expect("carried");
    tokio::task::yield_now().await;
    tunnel
        .write_all(&[0, b'k', b'e', b'y'])
        .await
        .expect("carried");
    let mut program = bench.program(1);
    let mut got = [0; 5];
    program.read_exact(&mut got).await.expect("delivered");
    assert_eq!(got, [1, 0, b'k', b'e', b'y']);
    assert_eq!(bench.event().await, GuardEvent::Connected { peer: 1 });
    program.write_all(b"answer").await.expect("carried");
    drop(program);
    assert_eq!(all(&mut tunnel).await, b"answer");
    drop(tunnel);
    let total = LinkCount {
        peer: 1,
        tx: 6,
        rx: 5,
    };
    assert_eq!(result(linked).await, Ok(total));
    assert_eq!(
        bench.event().await,
        GuardEvent::Closed { total, lost: false }
    );
    assert_eq!(
        bench.attach.counters(),
        [
            LinkCount {
                peer: 0,
                tx: 0,
                rx: 0
            },
            total
        ]
    );
}

#[tokio::test]
async fn a_party_with_another_number_is_a_spoof_and_nothing_is_delivered() {
    for claimed in [0_u16, 2, 3, 256, 65535] {
        let mut bench = bench(2, 3);
        let (mut tunnel, linked) = bench.accept(1, 1024);
        let mut bytes = claimed.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"keys and more");
        tunnel.write_all(&bytes).await.expect("the room suffices");
        let refusal = Refusal::Spoof { peer: 1, claimed };
        assert_eq!(result(linked).await, Err(refusal));
        assert_eq!(refusal.code(), Code::PidSpoof);
        assert_eq!(bench.event().await, GuardEvent::Spoof { peer: 1, claimed });
        assert_eq!(all(bench.program(1)).await, b"");
        assert_eq!(
            bench.attach.counters()[1],
            LinkCount {
                peer: 1,
                tx: 0,
                rx: 0
            }
        );
    }
}

#[tokio::test]
async fn a52_higher_parties_strangers_and_second_connections_are_refused_and_counted() {
    let mut bench = bench(1, 3);
    let refused = [
        (2, Refusal::WrongWay(2)),
        (1, Refusal::NoSuchParty(1)),
        (3, Refusal::NoSuchParty(3)),
    ];
    for (peer, why) in refused {
        let (tunnel, linked) = bench.accept(peer, 64);
        assert_eq!(result(linked).await, Err(why));
        assert_eq!(bench.event().await, GuardEvent::Refused { peer, why });
        assert_eq!(all(tunnel).await, b"");
    }
    let (_, wrong_way) = bench.open(0);
    assert_eq!(result(wrong_way).await, Err(Refusal::WrongWay(0)));
    bench.event().await;

    let (mut first, linked) = bench.accept(0, 64);
    first.write_all(&[0, 0]).await.expect("carried");
    assert_eq!(bench.event().await, GuardEvent::Connected { peer: 0 });
    let (second, again) = bench.accept(0, 64);
    assert_eq!(result(again).await, Err(Refusal::Again(0)));
    assert_eq!(all(second).await, b"");
    assert_eq!(bench.attach.refused(), 5);
    // The first one is not disturbed, and its end does not make room for another.
    first.write_all(b"x").await.expect("carried");
    drop(first);
    assert_eq!(all(bench.program(0)).await, [0, 0, b'x']);
    assert_eq!(
        result(linked).await,
        Ok(LinkCount {
            peer: 0,
            tx: 0,
            rx: 3
        })
    );
    let (_tunnel, again) = bench.accept(0, 64);
    assert_eq!(result(again).await, Err(Refusal::Again(0)));
}

#[tokio::test(start_paused = true)]
async fn a_party_that_does_not_say_its_number_is_refused_in_time() {
    let mut bench = bench(2, 3);
    let (mut tunnel, linked) = bench.accept(0, 64);
    tunnel.write_all(&[0]).await.expect("carried");
    assert_eq!(result(linked).await, Err(Refusal::Silent(0)));
    let (tunnel, linked) = bench.accept(1, 64);
    drop(tunnel);
    assert_eq!(result(linked).await, Err(Refusal::Silent(1)));
    assert_eq!(all(bench.program(0)).await, b"");
}

#[tokio::test]
async fn our_own_program_has_to_give_our_number_before_anything_leaves() {
    let mut bench = bench(1, 3);
    let (mut opened, linked) = bench.open(2);
    bench
        .program(2)
        .write_all(&[0, 0, b'x'])
        .await
        .expect("a socket");
    assert_eq!(result(linked).await, Err(Refusal::OwnProgram(0)));
    assert_eq!(
        bench.event().await,
        GuardEvent::OwnProgram {
            peer: 2,
            claimed: 0
        }
    );
    assert!(opened.try_recv().is_err(), "a tunnel stream was opened");
}

#[tokio::test]
async fn a_stream_is_opened_when_the_program_dials_and_not_before() {
    let mut bench = bench(0, 2);
    let (mut opened, linked) = bench.open(1);
    let mut program = bench.program(1);
    program.write_all(&[0]).await.expect("a socket");
    tokio::task::yield_now().await;
    assert!(opened.try_recv().is_err());
    program.write_all(&[0, 7]).await.expect("a socket");
    let mut tunnel = opened.recv().await.expect("it is opened");
    // A half-close passes, and the other direction goes on.
    program.shutdown().await.expect("a socket");
    assert_eq!(all(&mut tunnel).await, [0, 0, 7]);
    tunnel.write_all(b"late").await.expect("carried");
    drop(tunnel);
    assert_eq!(all(program).await, b"late");
    assert_eq!(
        result(linked).await,
        Ok(LinkCount {
            peer: 1,
            tx: 3,
            rx: 4
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_cannot_be_reached_ends_the_tries() {
    let mut bench = bench(0, 2);
    let attach = bench.attach.clone();
    let never = || async { Err::<DuplexStream, _>(io::ErrorKind::ConnectionRefused.into()) };
    bench.program(1).write_all(&[0, 0]).await.expect("a socket");
    let result = attach.run_outbound(1, never).await;
    assert_eq!(result, Err(Refusal::NotReached(1)));
    assert_eq!(result.expect_err("as above").code(), Code::PartyLeft);
}

#[tokio::test]
async fn a_program_that_ends_before_it_dials_is_said_so() {
    let mut bench = bench(0, 2);
    let (_opened, linked) = bench.open(1);
    drop(bench.program(1));
    assert_eq!(result(linked).await, Err(Refusal::ProgramEnded(1)));
}

#[tokio::test]
async fn a_program_that_does_not_read_slows_its_peer_down() {
    let mut bench = bench(1, 2);
    let (mut tunnel, linked) = bench.accept(0, 1024);
    tunnel.write_all(&[0, 0]).await.expect("carried");
    let piece = vec![7; COPY_BUFFER];
    let mut written = 2;
    // Until nothing moves any more; a socket pair holds some hundred kilobytes.
    while let Ok(count) =
        tokio::time::timeout(Duration::from_millis(300), tunnel.write(&piece)).await
    {
        written += count.expect("carried");
        assert!(
            written < 4 << 20,
            "{written} bytes were taken and nobody reads"
        );
    }
    // All of it arrives as soon as somebody does.
    drop(tunnel);
    assert_eq!(all(bench.program(0)).await.len(), written);
    assert_eq!(
        result(linked).await,
        Ok(LinkCount {
            peer: 0,
            tx: 0,
            rx: written as u64
        })
    );
}

#[tokio::test]
async fn a_lost_tunnel_is_reported_as_lost() {
    /// Delivers the number, then fails.
    struct Failing(&'static [u8]);
    impl tokio::io::AsyncRead for Failing {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if self.0.is_empty() {
                return std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            buffer.put_slice(&self.0[..1]);
            self.0 = &self.0[1..];
            std::task::Poll::Ready(Ok(()))
        }
    }
    let mut bench = bench(1, 2);
    let stream = tokio::io::join(Failing(&[0, 0, 9]), tokio::io::sink());
    let total = LinkCount {
        peer: 0,
        tx: 0,
        rx: 3,
    };
    assert_eq!(bench.attach.clone().run_inbound(0, stream).await, Ok(total));
    assert_eq!(bench.event().await, GuardEvent::Connected { peer: 0 });
    assert_eq!(
        bench.event().await,
        GuardEvent::Closed { total, lost: true }
    );
}

#[tokio::test]
async fn closing_ends_every_link_and_refuses_new_ones() {
    let mut bench = bench(1, 3);
    let (mut tunnel, inbound) = bench.accept(0, 64);
    tunnel.write_all(&[0, 0]).await.expect("carried");
    let (_opened, outbound) = bench.open(2);
    bench.event().await;
    bench.attach.close();
    assert_eq!(result(inbound).await, Err(Refusal::Closed));
    assert_eq!(result(outbound).await, Err(Refusal::Closed));
    let (_tunnel, late) = bench.accept(0, 64);
    assert_eq!(result(late).await, Err(Refusal::Closed));
    assert_eq!(all(bench.program(2)).await, b"");
}

#[tokio::test]
async fn a_flood_of_refused_streams_does_not_hide_a_spoof() {
    let mut bench = bench(2, 3);
    for _ in 0..10 * EVENT_QUEUE {
        let (_tunnel, linked) = bench.accept(2, 64);
        assert_eq!(result(linked).await, Err(Refusal::NoSuchParty(2)));
    }
    let (mut tunnel, linked) = bench.accept(1, 64);
    tunnel.write_all(&[0, 0]).await.expect("carried");
    assert!(result(linked).await.is_err());
    assert_eq!(bench.attach.refused(), 10 * EVENT_QUEUE as u64 + 1);
    let mut seen = 0;
    while bench.event().await
        != (GuardEvent::Spoof {
            peer: 1,
            claimed: 0,
        })
    {
        seen += 1;
        assert!(seen <= EVENT_QUEUE / 2);
    }
}

/// A program that dials under another number than its own.
const LIAR: &str = "
import sys
import mpyc.asyncoro
from mpyc.runtime import mpc
claimed = int(sys.argv[1])
def connection_made(self, transport):
    self.transport = transport
    if self.peer_pid is not None:
        transport.write(claimed.to_bytes(2, 'little') + bytes(100))
        self.runtime.set_protocol(self.peer_pid, self)
mpyc.asyncoro.MessageExchanger.connection_made = connection_made
mpc.run(mpc.start())";

const HONEST: &str = "
from mpyc.runtime import mpc
mpc.run(mpc.start())
print('connected')
mpc.run(mpc.shutdown())";

#[tokio::test]
async fn an_insider_with_a_quorate_of_its_own_is_caught_by_the_guard_of_the_other() {
    let mut victim = mesh(3).pop().expect("three parties");
    let links = victim.links.take().expect("made with links");
    let seat = Seat {
        me: 2,
        parties: 3,
        args: &[],
        links,
        cwd: Path::new("/"),
    };
    let honest = start(text(HONEST), seat).await;

    // Party 1 runs real MPyC whose links lead straight into the tunnel, and claims to be party 0.
    let (to_victim, end) = UnixStream::pair().expect("a pair");
    let (_to_zero, other) = UnixStream::pair().expect("a pair");
    let fds = [(2, end), (0, other)].map(|(peer, end)| {
        let end = end.into_std().expect("a socket");
        (peer, end.into())
    });
    let links: ChildFds = fds.into_iter().collect();
    let seat = Seat {
        me: 1,
        parties: 3,
        args: &["0"],
        links,
        cwd: Path::new("/"),
    };
    let liar = start(text(LIAR), seat).await;

    let verdict = victim.attach.run_inbound(1, to_victim);
    let verdict = tokio::time::timeout(PATIENCE, verdict)
        .await
        .expect("it is judged");
    assert_eq!(
        verdict,
        Err(Refusal::Spoof {
            peer: 1,
            claimed: 0
        })
    );
    let event = victim.events.recv().await.expect("the guard is there");
    assert_eq!(
        event,
        GuardEvent::Spoof {
            peer: 1,
            claimed: 0
        }
    );
    assert!(victim.attach.counters().iter().all(|count| count.rx == 0));
    liar.supervisor.stop().await;
    honest.supervisor.stop().await;
    assert!(!honest.end().await.stdout.contains("connected"));
}

#[tokio::test]
async fn an_insider_whose_program_lies_is_caught_by_its_own_guard() {
    let mut parties = mesh(2);
    let links = parties[0].links.take().expect("made with links");
    let seat = Seat {
        me: 0,
        parties: 2,
        args: &["1"],
        links,
        cwd: Path::new("/"),
    };
    let liar = start(text(LIAR), seat).await;
    let event = tokio::time::timeout(PATIENCE, parties[0].events.recv()).await;
    let expected = GuardEvent::OwnProgram {
        peer: 1,
        claimed: 1,
    };
    assert_eq!(event.expect("in time"), Some(expected));
    assert!(
        parties[1]
            .attach
            .counters()
            .iter()
            .all(|count| count.rx == 0)
    );
    liar.supervisor.stop().await;
}

#[tokio::test]
async fn a_connected_program_has_no_socket_that_anybody_else_can_reach() {
    let source = "
import asyncio
from mpyc.runtime import mpc
async def main():
    await mpc.start()
    await asyncio.Event().wait()
mpc.run(main())";
    for uvloop in [&[][..], &["--no-uvloop"]] {
        let mut parties = mesh(3);
        let mut running = Vec::new();
        for (me, party) in (0..3).zip(&mut parties) {
            let links = party.links.take().expect("made with links");
            let seat = Seat {
                me,
                parties: 3,
                args: uvloop,
                links,
                cwd: Path::new("/"),
            };
            running.push(start(text(source), seat).await);
        }
        for program in &mut running {
            let event = tokio::time::timeout(PATIENCE, program.events.recv()).await;
            assert_eq!(
                event.expect("in time"),
                Some(ProgramEvent::Connected { parties: 3 })
            );
            let pid = program.supervisor.pid();
            let sockets = sockets_of(pid);
            // The lifeline and two links; uvloop and asyncio keep a pair of their own.
            assert!(sockets.len() >= 3, "{sockets:?}");
            for table in [
                "tcp", "tcp6", "udp", "udp6", "udplite", "raw", "raw6", "packet",
            ] {
                for line in in_both_networks(pid, table) {
                    let inode = line.split_whitespace().nth(9).unwrap_or_default();
                    assert!(!sockets.contains(&inode.to_owned()), "{line}");
                }
            }
            let table = in_both_networks(pid, "unix");
            let own = table
                .iter()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let own: Vec<_> = own
                .filter(|columns| sockets.contains(&columns[6].to_owned()))
                .collect();
            assert_eq!(
                own.len(),
                sockets.len(),
                "a socket that is not a Unix socket"
            );
            for columns in own {
                assert_eq!(columns[3], "00000000", "it listens: {columns:?}");
                assert_eq!(columns.len(), 7, "it has a name: {columns:?}");
            }
        }
        for program in running {
            program.supervisor.stop().await;
        }
    }
}

/// The lines of a table of sockets, each once: a program without a network has its links from our
/// network namespace, and what it made itself is in its own.
fn in_both_networks(pid: u32, table: &str) -> std::collections::BTreeSet<String> {
    let read = |process: &str| {
        let table = std::fs::read_to_string(format!("/proc/{process}/net/{table}"));
        table.unwrap_or_default()
    };
    let (theirs, ours) = (read(&pid.to_string()), read("self"));
    let lines = theirs.lines().skip(1).chain(ours.lines().skip(1));
    lines.map(str::to_owned).collect()
}

/// The inode numbers of a process's sockets.
fn sockets_of(pid: u32) -> Vec<String> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the program runs")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}
