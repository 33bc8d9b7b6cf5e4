//! Small statistics: times of a call, percentiles, medians.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// How long one batch of calls should take at least, so that reading the clock does not count.
const BATCH: Duration = Duration::from_millis(10);
/// Batches of one measurement; their median counts.
const BATCHES: usize = 31;

/// The median time of one call, over batches of calls.
pub fn time_of<T>(mut call: impl FnMut() -> T) -> Duration {
    let mut calls = 1_u32;
    loop {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        if start.elapsed() >= BATCH {
            break;
        }
        calls = calls.saturating_mul(2);
    }
    let batch = |_| {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        start.elapsed() / calls
    };
    let mut times: Vec<Duration> = (0..BATCHES).map(batch).collect();
    percentile(&mut times, 50)
}

/// The value below which `percent` of the samples lie.
pub fn percentile<T: PartialOrd + Copy + Default>(samples: &mut [T], percent: usize) -> T {
    samples.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let last = samples.len().saturating_sub(1);
    samples
        .get(last * percent / 100)
        .copied()
        .unwrap_or_default()
}

/// Milliseconds as a number.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Microseconds as a number.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_in_order() {
        let mut samples = [5, 1, 4, 2, 3];
        assert_eq!(percentile(&mut samples, 50), 3);
        assert_eq!(percentile(&mut samples, 100), 5);
        assert_eq!(percentile(&mut samples, 0), 1);
        assert_eq!(percentile::<u8>(&mut [], 50), 0);
    }
}
