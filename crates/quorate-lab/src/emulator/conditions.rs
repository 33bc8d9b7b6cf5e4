//! What happens to the packets of one path in one direction: when each arrives, or that it does not.
//!
//! Each path has a generator of its own, seeded by the lab's seed and the path's ends: what is lost
//! on one path does not depend on what happens on another.

use crate::plan::LinkSpec;

/// A path's conditions, in the units of the emulator: nanoseconds and parts of 2^32.
#[derive(Clone, Copy, Debug)]
struct Conditions {
    delay: u64,
    jitter: u64,
    /// Chance that loss begins, and that it goes on.
    loss_begins: u64,
    loss_goes_on: u64,
    duplicate: u64,
    reorder: bool,
    /// Nanoseconds per byte.
    per_byte: f64,
    queue: u64,
    mtu: usize,
    black_hole: bool,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // specs are checked: small and not negative
fn nanoseconds(milliseconds: f64) -> u64 {
    (milliseconds * 1e6) as u64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // see above
fn chance(of_one: f64) -> u64 {
    (of_one.clamp(0.0, 1.0) * 4_294_967_296.0) as u64
}

impl From<LinkSpec> for Conditions {
    fn from(spec: LinkSpec) -> Self {
        let loss = spec.loss_percent / 100.0;
        // Two states, good and bad (Gilbert): bad lasts `burst` packets and takes `loss` of all.
        let stay = 1.0 - 1.0 / spec.burst;
        let begin = if loss >= 1.0 {
            1.0
        } else {
            loss / (spec.burst * (1.0 - loss))
        };
        let independent = spec.burst <= 1.0;
        Self {
            delay: nanoseconds(spec.delay_ms),
            jitter: nanoseconds(spec.jitter_ms),
            loss_begins: chance(if independent { loss } else { begin }),
            loss_goes_on: chance(if independent { loss } else { stay }),
            duplicate: chance(spec.duplicate_percent / 100.0),
            reorder: spec.reorder,
            per_byte: if spec.rate_mbit > 0.0 {
                8000.0 / spec.rate_mbit
            } else {
                0.0
            },
            queue: nanoseconds(spec.queue_ms),
            mtu: usize::from(spec.mtu),
            black_hole: spec.black_hole,
        }
    }
}

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(u64),
    /// It arrives twice.
    Twice(u64, u64),
    /// Lost by chance.
    Lost,
    /// No room in the queue.
    Queue,
    /// The path is cut.
    Cut,
}

/// One path in one direction.
#[derive(Clone, Debug)]
pub struct Path {
    conditions: Conditions,
    random: u64,
    losing: bool,
    /// When the line is free again, and when the last packet arrives.
    free: u64,
    last: u64,
    /// Whether nothing passes.
    pub cut: bool,
}

impl Path {
    /// A path with these conditions; `seed` is its own.
    pub fn new(spec: LinkSpec, seed: u64) -> Self {
        Self {
            conditions: spec.into(),
            random: mixed(seed).max(1),
            losing: false,
            free: 0,
            last: 0,
            cut: false,
        }
    }

    /// Other conditions from now on.
    pub fn change(&mut self, spec: LinkSpec) {
        self.conditions = spec.into();
        self.losing = false;
    }

    /// The longest packet, if one of `length` is too long, and whether its sender is told.
    pub fn too_long(&self, length: usize) -> Option<(usize, bool)> {
        let mtu = self.conditions.mtu;
        (mtu > 0 && length > mtu).then_some((mtu, !self.conditions.black_hole))
    }

    /// How long it takes without jitter and queue.
    pub fn delay(&self) -> u64 {
        self.conditions.delay
    }

    /// What becomes of a packet of `length` bytes that enters at `now`.
    pub fn pass(&mut self, length: usize, now: u64) -> Fate {
        if self.cut {
            return Fate::Cut;
        }
        let c = self.conditions;
        let chance = if self.losing {
            c.loss_goes_on
        } else {
            c.loss_begins
        };
        self.losing = chance > 0 && self.draw() < chance;
        if self.losing {
            return Fate::Lost;
        }
        let mut at = now;
        if c.per_byte > 0.0 {
            let free = self.free.max(now);
            if free - now > c.queue {
                return Fate::Queue;
            }
            self.free = free + self.transmission(length);
            at = self.free;
        }
        let first = self.arrival(at);
        if c.duplicate > 0 && self.draw() < c.duplicate {
            let second = self.arrival(at);
            return Fate::Twice(first, second);
        }
        Fate::Arrives(first)
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // at most 64 KiB at no less than a bit per second
    fn transmission(&self, length: usize) -> u64 {
        (length as f64 * self.conditions.per_byte) as u64
    }

    fn arrival(&mut self, sent: u64) -> u64 {
        let c = self.conditions;
        let mut at = sent + c.delay;
        if c.jitter > 0 {
            let spread = self.wide_draw() % (2 * c.jitter + 1);
            at = (at + spread).saturating_sub(c.jitter).max(sent);
        }
        if !c.reorder {
            at = at.max(self.last);
            self.last = at;
        }
        at
    }

    fn draw(&mut self) -> u64 {
        self.wide_draw() >> 32
    }

    /// Xorshift (Marsaglia 2003): fast, and good enough to lose packets.
    fn wide_draw(&mut self) -> u64 {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Spreads neighbouring seeds (the finalizer of `SplitMix64`).
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn lost(spec: LinkSpec, seed: u64) -> Vec<bool> {
        let mut path = Path::new(spec, seed);
        (0..20_000)
            .map(|n| path.pass(100, n * 1000) == Fate::Lost)
            .collect()
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let spec = LinkSpec {
            loss_percent: 5.0,
            ..LinkSpec::default()
        };
        assert_eq!(lost(spec, 1), lost(spec, 1));
        assert_ne!(lost(spec, 1), lost(spec, 2));
    }

    #[test]
    fn loss_comes_as_often_as_asked_alone_or_in_bursts() {
        for (burst, expected_runs) in [(1.0, 950), (8.0, 125)] {
            let spec = LinkSpec {
                loss_percent: 5.0,
                burst,
                ..LinkSpec::default()
            };
            let lost = lost(spec, 3);
            let count = lost.iter().filter(|l| **l).count();
            assert!(
                (700..=1300).contains(&count),
                "{count} of 20000, burst {burst}"
            );
            let runs = lost.windows(2).filter(|w| !w[0] && w[1]).count();
            let near = expected_runs * 6 / 10..=expected_runs * 14 / 10;
            assert!(near.contains(&runs), "{runs} runs, burst {burst}");
        }
    }

    #[test]
    fn a_slow_link_spaces_packets_and_drops_what_its_queue_cannot_hold() {
        let spec = LinkSpec {
            rate_mbit: 1.0,
            queue_ms: 50.0,
            delay_ms: 10.0,
            ..LinkSpec::default()
        };
        let mut path = Path::new(spec, 1);
        let fates: Vec<Fate> = (0..10).map(|_| path.pass(1250, SECOND)).collect();
        // 1250 bytes take 10 ms; those that wait at most 50 ms get in.
        for (index, fate) in fates.iter().enumerate().take(6) {
            let at = SECOND + (index as u64 + 2) * 10_000_000;
            assert_eq!(*fate, Fate::Arrives(at));
        }
        assert_eq!(fates[6..], [Fate::Queue; 4]);
    }

    #[test]
    fn jitter_keeps_the_order_unless_told_otherwise() {
        let mut spec = LinkSpec {
            delay_ms: 20.0,
            jitter_ms: 10.0,
            ..LinkSpec::default()
        };
        let arrivals = |spec| {
            let mut path = Path::new(spec, 5);
            let times = (0..500).map(|n| match path.pass(100, n * 1_000_000) {
                Fate::Arrives(at) => {
                    let taken = at - n * 1_000_000;
                    assert!((10_000_000..=40_000_000).contains(&taken));
                    at
                }
                other => unreachable!("{other:?}"),
            });
            times.collect::<Vec<u64>>()
        };
        assert!(arrivals(spec).is_sorted());
        spec.reorder = true;
        assert!(!arrivals(spec).is_sorted());
    }

    #[test]
    fn a_cut_path_passes_nothing_until_it_is_mended() {
        let mut path = Path::new(LinkSpec::default(), 1);
        path.cut = true;
        assert_eq!(path.pass(10, 0), Fate::Cut);
        path.cut = false;
        assert_eq!(path.pass(10, 0), Fate::Arrives(0));
    }
}
