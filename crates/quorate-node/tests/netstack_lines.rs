//! The TCP/IP stack over long, narrow and lossy lines, in the time of a paused clock: nothing here depends on how fast the
//! machine is.
#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::BytesMut;
use quorate_node::netstack::{Injector, Stack, StackConfig, limits::PACKET_QUEUE};
use std::{collections::VecDeque, net::Ipv6Addr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

const PORT: u16 = 80;
const MTU: u16 = 1420;

/// One direction.
#[derive(Clone, Copy)]
struct Line {
    one_way: Duration,
    /// Bits per second, and how long a packet may wait for its turn.
    rate: Option<(f64, Duration)>,
    /// Of a thousand packets, in no order.
    lost: u64,
    /// First and last of those that do not arrive, from 1.
    without: (u64, u64),
}

const fn line(one_way_ms: u64) -> Line {
    Line {
        one_way: Duration::from_millis(one_way_ms),
        rate: None,
        lost: 0,
        without: (0, 0),
    }
}

impl Line {
    const fn rate(mut self, megabits: f64, queue_ms: u64) -> Self {
        self.rate = Some((megabits * 1e6, Duration::from_millis(queue_ms)));
        self
    }

    const fn lost(mut self, of_thousand: u64) -> Self {
        self.lost = of_thousand;
        self
    }

    const fn without(mut self, numbers: std::ops::RangeInclusive<u64>) -> Self {
        self.without = (*numbers.start(), *numbers.end());
        self
    }

    async fn carry(self, mut packets: mpsc::Receiver<BytesMut>, to: Injector) {
        let mut way: VecDeque<(Instant, BytesMut)> = VecDeque::new();
        let mut free = Instant::now();
        let mut dice = 42_u64;
        let mut number = 0;
        let mut batch = Vec::new();
        loop {
            let due = way.front().map(|(at, _)| *at);
            tokio::select! {
                biased;
                () = async { sleep_until(due.unwrap()).await }, if due.is_some() => {
                    let now = Instant::now();
                    while way.front().is_some_and(|(at, _)| *at <= now) {
                        batch.extend(way.pop_front().map(|(_, packet)| packet));
                    }
                    to.inject(&mut batch);
                }
                packet = packets.recv() => {
                    let Some(packet) = packet else { return };
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    number += 1;
                    if (self.without.0..=self.without.1).contains(&number) {
                        continue;
                    }
                    let now = Instant::now();
                    free = free.max(now);
                    if let Some((rate, queue)) = self.rate {
                        if free - now > queue {
                            continue;
                        }
                        let bits = 8.0 * f64::from(u32::try_from(packet.len()).unwrap());
                        free += Duration::from_secs_f64(bits / rate);
                    }
                    if (dice >> 33) % 1000 >= self.lost {
                        way.push_back((free + self.one_way, packet));
                    }
                }
            }
        }
    }
}

struct Wire {
    stacks: [Stack; 2],
    _lines: JoinSet<()>,
}

fn joined(there: Line, back: Line) -> Wire {
    let address = |index: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, index + 1);
    let make = |me: u16| {
        let (out, packets) = mpsc::channel(PACKET_QUEUE);
        let config = StackConfig {
            address: address(me),
            mtu: MTU,
            peers: vec![(1 - me, address(1 - me))],
            seed: u64::from(me) + 0x1234_5678_9abc,
        };
        (Stack::start(&config, out), packets)
    };
    let ((zero, from_zero), (one, from_one)) = (make(0), make(1));
    let mut lines = JoinSet::new();
    lines.spawn(there.carry(from_zero, one.injector()));
    lines.spawn(back.carry(from_one, zero.injector()));
    Wire {
        stacks: [zero, one],
        _lines: lines,
    }
}

/// How long `bytes` take from the first end to the second, until the last one is read.
async fn seconds(there: Line, bytes: usize) -> f64 {
    let back = Line {
        without: (0, 0),
        ..there
    };
    let wire = joined(there, back);
    let mut listener = wire.stacks[1].listener(PORT);
    let both = async { tokio::join!(wire.stacks[0].connect(1, PORT), listener.accept()) };
    let (near, far) = timeout(Duration::from_mins(1), both).await.unwrap();
    let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
    let begin = Instant::now();
    let data: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near
    });
    let mut got = vec![0; bytes];
    far.read_exact(&mut got).await.unwrap();
    let took = begin.elapsed().as_secs_f64();
    assert!(got == data, "other bytes arrived");
    drop(writer.await.unwrap());
    took
}

const MB: usize = 1 << 20;

/// Megabits per second.
async fn speed(line: Line, bytes: usize) -> f64 {
    let took = seconds(line, bytes).await;
    8e-6 * f64::from(u32::try_from(bytes).unwrap()) / took
}

#[tokio::test(start_paused = true)]
async fn a_long_line_is_filled_as_far_as_the_window_goes() {
    let speed = speed(line(40), 20 * MB).await;
    assert!(speed > 80.0, "{speed}");
}

#[tokio::test(start_paused = true)]
async fn a_narrow_line_with_a_short_queue_is_used_for_the_most_part() {
    for (megabits, one_way, queue, least) in [
        (50.0, 40, 50, 0.65),
        (100.0, 10, 20, 0.7),
        (10.0, 1, 50, 0.85),
    ] {
        let narrow = line(one_way).rate(megabits, queue);
        let part = speed(narrow, 20 * MB).await / megabits;
        assert!(part > least, "{part:.2} of {megabits}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_packets_cost_what_congestion_control_wants_and_no_time_outs() {
    // The square root formula of TCP (RFC 5348, section 3.1, without time-outs): 1.22 segments for each round trip, by
    // the root of the loss.
    for (of_thousand, bytes) in [(1, 10 * MB), (10, 4 * MB), (50, MB)] {
        let share = f64::from(u32::try_from(of_thousand).unwrap()) / 1000.0;
        let formula = 1.22 / share.sqrt() * f64::from(MTU) * 8e-6 / 0.08;
        let part = speed(line(40).lost(of_thousand), bytes).await / formula;
        assert!(part > 0.7, "{part:.2} of {formula:.1} Mbit/s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_end_of_a_message_is_noticed_within_a_few_round_trips() {
    let took = seconds(line(40).without(9..=10), 10_000).await;
    assert!(took < 0.9, "{took} s");
}
