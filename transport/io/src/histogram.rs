//! How long things took, counted in buckets: cheap enough for every transfer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many buckets there are: up to 1 µs, 2 µs, 4 µs ... 134 s, and one for all that took longer.
const BUCKETS: usize = 29;

/// Durations in buckets, each twice as wide as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

/// A histogram that is being filled.
#[derive(Debug, Default)]
pub(crate) struct HistogramCounters {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Each bucket: the longest duration that it counts (`None`: any), and how many there were.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.counts.iter().enumerate().map(|(index, count)| (longest(index), *count))
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All durations together, each rounded down to microseconds.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// The bound of the bucket that the `share` quantile (0 to 1) lies in: at least that share of all durations were no longer.
    /// `None` where nothing was counted, or where it lies beyond the last bound.
    pub fn at_most(&self, share: f64) -> Option<Duration> {
        let wanted = (share.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64;
        let mut seen = 0;
        let mut buckets = self.buckets();
        buckets
            .find(|(_, count)| {
                seen += count;
                seen >= wanted.max(1)
            })?
            .0
    }
}

impl HistogramCounters {
    pub(crate) fn count(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(took)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Histogram {
        Histogram { counts: self.counts.each_ref().map(|count| count.load(Relaxed)), sum_us: self.sum_us.load(Relaxed) }
    }
}

/// The longest duration that a bucket counts.
fn longest(bucket: usize) -> Option<Duration> {
    (bucket + 1 < BUCKETS).then(|| Duration::from_micros(1 << bucket))
}

/// The first bucket whose bound is no less than `took`.
fn bucket(took: Duration) -> usize {
    // Rounded up: a duration just over a bound belongs to the next bucket.
    let us = took.as_nanos().div_ceil(1000).max(1);
    (us.next_power_of_two().trailing_zeros() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        for index in 0..BUCKETS - 1 {
            let bound = longest(index).expect("all but the last have one");
            assert_eq!(bucket(bound), index);
            assert_eq!(bucket(bound + Duration::from_nanos(1)), index + 1);
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let counters = HistogramCounters::default();
        assert_eq!(counters.snapshot().at_most(0.5), None, "nothing was counted");
        for us in [3, 3, 3, 900] {
            counters.count(Duration::from_micros(us));
        }
        let histogram = counters.snapshot();
        assert_eq!((histogram.count(), histogram.sum()), (4, Duration::from_micros(909)));
        assert_eq!(histogram.at_most(0.75), Some(Duration::from_micros(4)));
        assert_eq!(histogram.at_most(0.99), Some(Duration::from_micros(1024)));
        counters.count(Duration::from_secs(1000));
        assert_eq!(counters.snapshot().at_most(1.0), None, "longer than the last bound");
    }
}
