//! What a path carries, as measured while it was busy; an interval, not a point.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Time;

/// Busy time that makes one sample. Long against scheduling noise, short against a notice of two minutes.
const SAMPLE_TIME: Duration = Duration::from_millis(50);

/// Samples that are kept: one second of busy time.
const SAMPLES: usize = 20;

/// With fewer samples than that, what was measured may have been all beginning: threads woke up, and memory was touched for the
/// first time. In twelve hand-overs on a shared machine, links then carried 0.55 to 4.3 times what their one or two samples had said.
const SAMPLES_ENOUGH: usize = 4;

/// From which part of a limit on, in percent, what is measured is as little as it is because of that limit.
const LIMITED_PERCENT: u128 = 70;

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

/// What was measured of one path or of several together, and by how many samples of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// What was measured.
    pub rate: RateInterval,
    /// By how many samples, of the path with the fewest.
    pub samples: usize,
}

impl Measured {
    /// Both at the same time.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let rate = RateInterval {
            low: self.rate.low.saturating_add(other.rate.low),
            high: self.rate.high.saturating_add(other.rate.high),
        };
        Self { rate, samples: self.samples.min(other.samples) }
    }

    /// What is to be expected under a limit in bytes per second; `None` is no limit. One sample says as little of what comes as
    /// that it is from a quarter to four times as much, and two that it is from a half of the lower to twice the higher one. At
    /// its limit a path is as steady as that.
    #[must_use]
    pub fn expected(self, limit: Option<u64>) -> RateInterval {
        let samples = self.samples.clamp(1, SAMPLES_ENOUGH) as u128;
        let enough = SAMPLES_ENOUGH as u128;
        let (low, high) = (u128::from(self.rate.low), u128::from(self.rate.high));
        let is_limited = limit.is_some_and(|limit| high * 100 >= u128::from(limit) * LIMITED_PERCENT);
        let widened = |rate| u64::try_from(rate).unwrap_or(u64::MAX);
        let low = if is_limited { low } else { low * samples / enough };
        RateInterval { low: widened(low), high: widened(high * enough / samples) }.limited(limit)
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

    /// The same, with the number of samples that it is from.
    pub fn measured(&self) -> Option<Measured> {
        Some(Measured { rate: self.interval()?, samples: self.samples.len() })
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
    fn the_first_samples_say_little_of_what_comes() {
        let mut meter = RateMeter::default();
        meter.busy(at(0));
        for (tick, expected) in [(1, (250, 4000)), (2, (500, 2000)), (3, (750, 1333)), (4, (1000, 1000))] {
            meter.acknowledged(50, at(tick * 50));
            let (low, high) = expected;
            let measured = meter.measured().expect("it was busy for a sample");
            assert_eq!(measured.expected(None), RateInterval { low, high }, "after {tick} samples");
            assert_eq!(measured.expected(Some(900)), RateInterval { low: 900, high: 900 }, "a limit is no accident");
            assert_eq!(measured.expected(Some(1428)).low, 1000, "nor is what is near it");
            assert_eq!(measured.expected(Some(1429)), RateInterval { low, high: high.min(1429) });
        }
    }

    #[test]
    fn paths_together_are_as_well_known_as_the_one_that_is_known_least() {
        let one = Measured { rate: RateInterval { low: 10, high: 30 }, samples: 20 };
        let other = Measured { rate: RateInterval { low: 4, high: u64::MAX }, samples: 2 };
        let both = one.and(other);
        assert_eq!(both, Measured { rate: RateInterval { low: 14, high: u64::MAX }, samples: 2 });
        assert_eq!(both.expected(None), RateInterval { low: 7, high: u64::MAX });
        assert_eq!(one.expected(None), one.rate);
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
