//! What a path carries, as measured while it was busy; an interval, not a point.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Time;

/// Busy time that makes one sample. Long against scheduling noise, short against a notice of two minutes.
const SAMPLE_TIME: Duration = Duration::from_millis(50);

/// Samples that are kept: one second of busy time.
const SAMPLES: usize = 20;

/// What a path can be expected to carry, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateInterval {
    /// What to count on, in bytes per second.
    pub low: u64,
    /// What it may reach, in bytes per second.
    pub high: u64,
}

impl RateInterval {
    /// What is left of it under a limit; `None` is no limit.
    #[must_use]
    pub fn limited(self, bytes_per_s: Option<u64>) -> Self {
        let most = bytes_per_s.unwrap_or(u64::MAX);
        Self { low: self.low.min(most), high: self.high.min(most) }
    }
}

/// Measures acknowledged bytes against busy time. Time in which nothing was under way is not counted: an idle path
/// is not a slow one.
#[derive(Debug, Clone, Default)]
pub struct RateMeter {
    samples: VecDeque<u64>,
    /// Since when the path is busy without a break that was counted yet.
    busy_since: Option<Time>,
    sample_busy: Duration,
    sample_bytes: u64,
}

impl RateMeter {
    /// Something is under way from `now` on (again).
    pub fn busy(&mut self, now: Time) {
        self.busy_since.get_or_insert(now);
    }

    /// `bytes` were acknowledged at `now`.
    pub fn acknowledged(&mut self, bytes: u64, now: Time) {
        self.sample_bytes = self.sample_bytes.saturating_add(bytes);
        self.advance(now);
    }

    /// Nothing is under way from `now` on.
    pub fn idle(&mut self, now: Time) {
        self.advance(now);
        self.busy_since = None;
    }

    fn advance(&mut self, now: Time) {
        let Some(since) = self.busy_since else { return };
        self.sample_busy += now.since(since);
        self.busy_since = Some(now);
        if self.sample_busy >= SAMPLE_TIME {
            let rate = u128::from(self.sample_bytes) * 1_000_000_000 / self.sample_busy.as_nanos();
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(u64::try_from(rate).unwrap_or(u64::MAX));
            self.sample_busy = Duration::ZERO;
            self.sample_bytes = 0;
        }
    }

    /// The rate of the last second of busy time: its second lowest and second highest samples, so that one hiccup
    /// doesn't decide. `None` before the first sample.
    pub fn interval(&self) -> Option<RateInterval> {
        let mut sorted: Vec<u64> = self.samples.iter().copied().collect();
        sorted.sort_unstable();
        let outlier = usize::from(sorted.len() >= 4);
        Some(RateInterval { low: *sorted.get(outlier)?, high: *sorted.get(sorted.len() - 1 - outlier)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn unknown_before_it_was_busy_for_a_sample() {
        let mut meter = RateMeter::default();
        meter.busy(at(0));
        meter.acknowledged(1 << 20, at(49));
        assert_eq!(meter.interval(), None);
    }

    #[test]
    fn idle_time_is_not_slowness() {
        let mut meter = RateMeter::default();
        for burst in 0..10 {
            let start = burst * 60_000;
            meter.busy(at(start));
            meter.acknowledged(10_000, at(start + 100));
            meter.idle(at(start + 100));
        }
        assert_eq!(meter.interval(), Some(RateInterval { low: 100_000, high: 100_000 }));
    }

    #[test]
    fn of_four_samples_the_lowest_and_the_highest_are_left_out() {
        let mut meter = RateMeter::default();
        meter.busy(at(0));
        for (tick, bytes) in (1..).zip([1_000, 2_000, 3_000, 4_000]) {
            meter.acknowledged(bytes, at(tick * 50));
            let all = RateInterval { low: 20_000, high: bytes * 20 };
            let expected = if tick < 4 { all } else { RateInterval { low: 40_000, high: 60_000 } };
            assert_eq!(meter.interval(), Some(expected), "after {tick} samples");
        }
    }

    #[test]
    fn one_hiccup_does_not_decide_but_a_trend_does() {
        let mut meter = RateMeter::default();
        meter.busy(at(0));
        for tick in 1..=20_u64 {
            let bytes = if tick == 7 { 0 } else { 5_000 };
            meter.acknowledged(bytes, at(tick * 50));
        }
        assert_eq!(meter.interval(), Some(RateInterval { low: 100_000, high: 100_000 }));
        for tick in 21..=40_u64 {
            meter.acknowledged(500, at(tick * 50));
        }
        assert_eq!(meter.interval(), Some(RateInterval { low: 10_000, high: 10_000 }));
    }
}
