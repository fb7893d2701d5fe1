//! When new owners will go on: the parts of a hand-over that are still to come, each at a pace that was measured here.

use std::collections::VecDeque;
use std::time::Duration;

/// How many of the latest answers count.
const ANSWERS: usize = 9;

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
}

/// What is still to come once everything is offered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Left {
    /// Until the last byte is there.
    pub(crate) stream: Duration,
    /// What is computed after that.
    pub(crate) compute: Duration,
    /// Bytes that have not been digested.
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
        let digests_s = self.digest_bytes_per_s().map_or(0.0, |rate| left.bytes as f64 / rate);
        let verify_s = (digests_s - stream_s).max(0.0);
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
