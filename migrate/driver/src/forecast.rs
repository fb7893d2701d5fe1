//! When new owners will go on: the parts of a hand-over that are still to come, each at a pace that was measured here.

use std::collections::VecDeque;
use std::time::Duration;

use xfer_transport_core::{RateInterval, Time};

/// How many of the latest answers count.
const ANSWERS: usize = 9;

/// Over how much of the latest busy time landing is measured: long against a burst that has the processors to itself, short
/// against a notice.
const LANDING_TIME: Duration = Duration::from_millis(500);

/// Busy time before which landing isn't judged: the first items are small, and wait for memory and for threads to wake up.
const LANDING_TIME_MIN: Duration = Duration::from_millis(50);

/// Questions to the store, one after the other, between the last digest and the news of the commit: the seal, the other
/// seals, the generation as it is, and the new one.
const STORE_TURNS: u32 = 4;

/// What the caller's own side of taking over costs the new owner that has most to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// What it does while bytes still come, as far as there is time: make layers, build graphs.
    pub meanwhile: Duration,
    /// What it does once the layers are its own.
    pub after: Duration,
}

/// How quickly this process, and whoever it talked to, does things.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    digested_bytes: u64,
    digested_in: Duration,
    /// From telling a target that an item is written to hearing that it landed.
    answers: VecDeque<Duration>,
    store: Duration,
    landing: Landing,
}

/// How quickly bytes land: from the first one that leaves to the last digest that was compared, whatever is slowest between them.
/// Time in which nothing is under way doesn't count.
#[derive(Debug, Clone, Default)]
struct Landing {
    /// Since when something is under way, without a break that was counted yet.
    since: Option<Time>,
    busy: Duration,
    bytes: u64,
    /// What was busy time, and what had landed, when an item landed; the oldest one is where measuring begins.
    marks: VecDeque<(Duration, u64)>,
}

/// What is still to come once everything is offered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Left {
    /// Until the last byte is there.
    pub(crate) stream: Duration,
    /// What is computed after that.
    pub(crate) compute: Duration,
    /// Bytes that are to land: on their way, written but not compared yet, or still to leave.
    pub(crate) bytes: u64,
}

impl Pace {
    /// `store` is what a question to the store takes.
    pub(crate) fn new(store: Duration) -> Self {
        Self { store, ..Self::default() }
    }

    pub(crate) fn digested(&mut self, bytes: u64, took: Duration) {
        self.digested_bytes = self.digested_bytes.saturating_add(bytes);
        self.digested_in += took;
    }

    pub(crate) fn answered(&mut self, took: Duration) {
        if self.answers.len() == ANSWERS {
            self.answers.pop_front();
        }
        self.answers.push_back(took);
    }

    /// How many bytes are digested in a second; none if none were.
    pub(crate) fn digest_bytes_per_s(&self) -> Option<f64> {
        let seconds = self.digested_in.as_secs_f64();
        (seconds > 0.0).then(|| self.digested_bytes as f64 / seconds)
    }

    /// Something is under way from `now` on.
    pub(crate) fn leaves(&mut self, now: Time) {
        self.landing.leaves(now);
    }

    /// An item of so many bytes landed; `more` says whether others are under way.
    pub(crate) fn landed(&mut self, bytes: u64, now: Time, more: bool) {
        self.landing.landed(bytes, now);
        if !more {
            self.landing.since = None;
        }
    }

    /// How many bytes land in a second; none before that can be judged.
    pub(crate) fn landing_bytes_per_s(&self) -> Option<f64> {
        self.landing.bytes_per_s()
    }

    /// What a link that carries `rate` brings, digests and all: as much less as landing was slower than the middle of it.
    pub(crate) fn landing_within(&self, rate: RateInterval) -> RateInterval {
        let middle = rate.low.midpoint(rate.high) as f64;
        match self.landing_bytes_per_s() {
            Some(landing) if landing < middle => {
                let part = |end: u64| (end as f64 * landing / middle) as u64;
                RateInterval { low: part(rate.low), high: part(rate.high) }
            }
            _ => rate,
        }
    }

    /// From the last byte's arrival to the news of the commit, if digests keep up with the link: the middle answer of a
    /// target, and the store's.
    pub(crate) fn commit(&self) -> Duration {
        let mut answers: Vec<Duration> = self.answers.iter().copied().collect();
        answers.sort_unstable();
        let answer = answers.get(answers.len() / 2).copied().unwrap_or_default();
        answer + self.store * STORE_TURNS
    }

    /// The parts from the beginning, `so_far` ago, to when the last new owner goes on, in seconds.
    pub(crate) fn parts_s(&self, so_far: Duration, left: Left, take_over: TakeOver) -> Vec<(&'static str, f64)> {
        let stream_s = left.stream.as_secs_f64();
        // What was seen of all of it together says more than what was seen of a part.
        let landing = self.landing_bytes_per_s().or_else(|| self.digest_bytes_per_s());
        let landed_s = landing.map_or(0.0, |rate| left.bytes as f64 / rate);
        let verify_s = (landed_s - stream_s).max(0.0);
        let in_time = left.stream + Duration::from_secs_f64(verify_s.min(1e9)) + self.commit();
        let late = take_over.meanwhile.saturating_sub(in_time);
        vec![
            ("describe", so_far.as_secs_f64()),
            ("stream", stream_s),
            ("verify", verify_s),
            ("commit", self.commit().as_secs_f64()),
            ("take over", (late + take_over.after).as_secs_f64()),
            ("compute again", left.compute.as_secs_f64()),
        ]
    }
}

impl Landing {
    fn leaves(&mut self, now: Time) {
        if self.since.is_none() {
            self.since = Some(now);
            if self.marks.is_empty() {
                self.marks.push_back((Duration::ZERO, 0));
            }
        }
    }

    fn landed(&mut self, bytes: u64, now: Time) {
        self.bytes = self.bytes.saturating_add(bytes);
        // What is only learnt of by the commit was under way until then, too.
        let Some(since) = self.since.replace(now) else { return };
        self.busy += now.since(since);
        self.marks.push_back((self.busy, self.bytes));
        // The mark before the window stays: what landed since then landed within it.
        while self.marks.get(1).is_some_and(|(busy, _)| self.busy.saturating_sub(*busy) >= LANDING_TIME) {
            self.marks.pop_front();
        }
    }

    fn bytes_per_s(&self) -> Option<f64> {
        let (busy, bytes) = self.marks.front()?;
        let busy = self.busy.saturating_sub(*busy);
        (busy >= LANDING_TIME_MIN).then(|| (self.bytes - bytes) as f64 / busy.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn seconds(parts: &[(&'static str, f64)], of: &str) -> f64 {
        parts.iter().find(|(part, _)| *part == of).expect("it is a part").1
    }

    #[test]
    fn each_part_has_what_was_measured_of_it() {
        let mut pace = Pace::new(2 * MS);
        pace.digested(1_000_000, 10 * MS);
        [5, 1, 3].into_iter().for_each(|ms| pace.answered(ms * MS));
        let left = Left { stream: 100 * MS, compute: 70 * MS, bytes: 30_000_000 };
        let take_over = TakeOver { meanwhile: 40 * MS, after: 9 * MS };
        let parts = pace.parts_s(20 * MS, left, take_over);
        let names: Vec<&str> = parts.iter().map(|(part, _)| *part).collect();
        assert_eq!(names, ["describe", "stream", "verify", "commit", "take over", "compute again"]);
        // Digests at 100 MB/s are 200 ms behind the link; an answer of 3 ms and four turns of the store follow.
        for (part, expected) in [("verify", 0.2), ("commit", 0.011), ("take over", 0.009), ("compute again", 0.07)] {
            assert!((seconds(&parts, part) - expected).abs() < 1e-9, "{part}: {parts:?}");
        }
    }

    fn at(ms: u32) -> Time {
        Time::ZERO.after(ms * MS)
    }

    #[test]
    fn what_lands_says_more_than_what_is_digested() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.digested(1_000_000, MS);
        let left = Left { stream: 10 * MS, compute: Duration::ZERO, bytes: 1_000_000 };
        let verify_s = |pace: &Pace| seconds(&pace.parts_s(Duration::ZERO, left, TakeOver::default()), "verify");
        assert_eq!(verify_s(&pace), 0.0, "digests keep up with the link");
        pace.leaves(at(0));
        pace.landed(100_000, at(20), true);
        pace.landed(400_000, at(50), false);
        // Half a megabyte in 50 ms: one takes 100, of which the link is 10.
        assert!((verify_s(&pace) - 0.09).abs() < 1e-9, "{pace:?}");
    }

    #[test]
    fn time_without_anything_under_way_is_not_slow_and_old_bursts_are_forgotten() {
        let mut pace = Pace::default();
        let rate = RateInterval { low: 50_000, high: 350_000 };
        pace.leaves(at(0));
        pace.landed(1_000, at(25), false);
        assert_eq!(pace.landing_bytes_per_s(), None, "too little to judge by");
        assert_eq!(pace.landing_within(rate), rate);
        pace.leaves(at(60_000));
        pace.landed(1_000, at(60_025), false);
        assert_eq!(pace.landing_bytes_per_s(), Some(40_000.0));
        assert_eq!(pace.landing_within(rate), RateInterval { low: 10_000, high: 70_000 }, "a fifth of the middle");
        assert_eq!(pace.landing_within(RateInterval { low: 1, high: 2 }), RateInterval { low: 1, high: 2 });
        pace.leaves(at(70_000));
        for tick in 1..=20 {
            pace.landed(100, at(70_000 + 50 * tick), true);
        }
        assert_eq!(pace.landing_bytes_per_s(), Some(2_000.0));
    }

    #[test]
    fn what_is_done_meanwhile_counts_only_where_there_is_no_time_for_it() {
        let take_over = TakeOver { meanwhile: 40 * MS, after: MS };
        let part = |stream| {
            let left = Left { stream, ..Left::default() };
            seconds(&Pace::new(Duration::ZERO).parts_s(Duration::ZERO, left, take_over), "take over")
        };
        assert!((part(Duration::ZERO) - 0.041).abs() < 1e-9);
        assert!((part(15 * MS) - 0.026).abs() < 1e-9);
        assert!((part(50 * MS) - 0.001).abs() < 1e-9);
    }

    #[test]
    fn what_was_never_measured_costs_nothing_and_old_answers_are_forgotten() {
        assert_eq!(Pace::default().commit(), Duration::ZERO);
        assert_eq!(Pace::default().digest_bytes_per_s(), None);
        let mut pace = Pace::default();
        pace.answered(99 * MS);
        (0..ANSWERS).for_each(|_| pace.answered(MS));
        assert_eq!(pace.answers.iter().max(), Some(&MS));
    }
}
