//! When new owners will go on: the parts of a hand-over that are still to come, each at a pace that was measured here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use xfer_transport_core::{RateInterval, Time};

use crate::takeover::{Forwards, TakeOver, TakeOvers};

/// How many of the latest answers count.
const ANSWERS: usize = 9;

/// Over how much of the latest busy time landing is measured: long against a burst that has the processors to itself, short
/// against a notice.
const LANDING_TIME: Duration = Duration::from_millis(500);

/// Busy time before which landing isn't judged: the first items are small, and wait for memory and for threads to wake up.
const LANDING_TIME_MIN: Duration = Duration::from_millis(50);

/// From which part of a limit on, what lands is taken to be as little as it is because of that.
const LIMITED: f64 = 0.7;

/// Questions to the store, one after the other, between the last digest and the news of the commit: the seal, the other
/// seals, the generation as it is, and the new one.
const STORE_TURNS: u32 = 4;

/// How quickly this process, and whoever it talked to, does things.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    digested_bytes: u64,
    digested_in: Duration,
    /// From telling a target that an item is written to hearing that it landed.
    answers: VecDeque<Duration>,
    store: Duration,
    landing: Landing,
    /// The same, for each target by itself.
    landing_at: BTreeMap<u32, Landing>,
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
#[derive(Debug, Clone, Default)]
pub(crate) struct Left {
    /// Until the last byte is there, at the middle of the rate.
    pub(crate) stream: Duration,
    /// What the links carry, if that is known.
    pub(crate) rate: Option<RateInterval>,
    /// Bytes that are to land, by who takes them over: on their way, written but not compared yet, or still to leave.
    pub(crate) bytes: BTreeMap<u32, u64>,
    /// What may leave this process, in bytes per second, if that is limited.
    pub(crate) limit: Option<u64>,
    /// What becomes of forwards, by who takes them over.
    pub(crate) forwards: BTreeMap<u32, Forwards>,
}

/// Parts of a hand-over, in order, and how many seconds each takes.
pub(crate) type Parts = Vec<(&'static str, f64)>;

/// By what factors things take longer than in the middle.
#[derive(Debug, Clone, Copy)]
struct Case {
    bytes: f64,
    hears: f64,
    work: f64,
}

const MIDDLE: Case = Case { bytes: 1.0, hears: 1.0, work: 1.0 };

/// A rank that computes hears when what it is at is done. Of two of them the later one counts, which waits for two thirds of that on
/// the average and for all of it at most.
const HEARS_LATEST: f64 = 1.5;

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

    /// Something is under way to `target` from `now` on.
    pub(crate) fn leaves(&mut self, target: u32, now: Time) {
        self.landing.leaves(now);
        self.landing_at.entry(target).or_default().leaves(now);
    }

    /// An item of so many bytes landed at `target`; `more` says whether others are under way, and whether any are to that one.
    pub(crate) fn landed(&mut self, target: u32, bytes: u64, now: Time, more: (bool, bool)) {
        let at = self.landing_at.entry(target).or_default();
        for (landing, more) in [(&mut self.landing, more.0), (at, more.1)] {
            landing.landed(bytes, now);
            if !more {
                landing.since = None;
            }
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

    /// How long `left` takes to land, digests and all, in seconds. What was seen of all of it together says more than what was seen of a
    /// part. Each target takes what is its own, however little there is for the others; but not where all share what may leave here.
    fn landing_s(&self, left: &Left) -> f64 {
        let all = left.bytes.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
        let Some(landing) = self.landing_bytes_per_s() else {
            return self.digest_bytes_per_s().map_or(0.0, |rate| all as f64 / rate);
        };
        let together_s = all as f64 / landing;
        if left.limit.is_some_and(|limit| landing > LIMITED * limit as f64) {
            return together_s;
        }
        let alone = left.bytes.iter().filter_map(|(target, bytes)| {
            let landing = self.landing_at.get(target)?.bytes_per_s()?;
            Some(*bytes as f64 / landing)
        });
        alone.fold(together_s, f64::max)
    }

    /// From the last byte's arrival to the news of the commit, if digests keep up with the link: the middle answer of a
    /// target, and the store's.
    pub(crate) fn commit(&self) -> Duration {
        let mut answers: Vec<Duration> = self.answers.iter().copied().collect();
        answers.sort_unstable();
        let answer = answers.get(answers.len() / 2).copied().unwrap_or_default();
        answer + self.store * STORE_TURNS
    }

    /// The parts from the beginning, `so_far` ago, to when the last new owner goes on.
    pub(crate) fn parts_s(&self, so_far: Duration, left: &Left, take_over: &TakeOvers) -> Parts {
        self.parts_in(MIDDLE, so_far, left, take_over)
    }

    /// The soonest and the latest moment at which that is to be expected: at the ends of the rate's interval, with the news heard at once
    /// or as late as can be, and with work that is as slow as it was lately. In seconds from the beginning.
    pub(crate) fn range_s(&self, so_far: Duration, left: &Left, take_over: &TakeOvers) -> (f64, f64) {
        let slower = |of: fn(RateInterval) -> u64| {
            let rate = left.rate.filter(|rate| of(*rate) > 0);
            rate.map_or(1.0, |rate| rate.low.midpoint(rate.high) as f64 / of(rate) as f64)
        };
        let soonest = Case { bytes: slower(|rate| rate.high), hears: 0.0, work: 1.0 };
        let latest = Case { bytes: slower(|rate| rate.low), hears: HEARS_LATEST, work: take_over.slower.max(1.0) };
        let sum_s = |case| self.parts_in(case, so_far, left, take_over).iter().map(|(_, seconds)| seconds).sum();
        (sum_s(soonest), sum_s(latest))
    }

    fn parts_in(&self, case: Case, so_far: Duration, left: &Left, take_over: &TakeOvers) -> Parts {
        let stream_s = left.stream.as_secs_f64() * case.bytes;
        let landed_s = self.landing_s(left) * case.bytes;
        let verify_s = (landed_s - stream_s).max(0.0);
        let commit_s = self.commit().as_secs_f64();
        let decided_s = stream_s + verify_s + commit_s;
        let ends = take_over.owners.iter().map(|owner| {
            let forwards = left.forwards.get(&owner.rank).copied().unwrap_or_default();
            owner.after_s(decided_s, forwards, case)
        });
        let last = ends.max_by(|one, other| (one.0 + one.1).total_cmp(&(other.0 + other.1)));
        // Who says nothing of new owners knows what they compute all the same.
        let most = || left.forwards.values().map(|forwards| forwards.compute).max().unwrap_or_default();
        let (take_over_s, compute_s) = last.unwrap_or_else(|| (0.0, most().as_secs_f64()));
        vec![
            ("describe", so_far.as_secs_f64()),
            ("stream", stream_s),
            ("verify", verify_s),
            ("commit", commit_s),
            ("take over", take_over_s),
            ("compute again", compute_s),
        ]
    }
}

impl TakeOver {
    /// How long it takes over, and how long it computes again, from the commit on, which is `decided_s` from now.
    fn after_s(&self, decided_s: f64, forwards: Forwards, case: Case) -> (f64, f64) {
        let work_s = |work: Duration| work.as_secs_f64() * case.work;
        let idle_s = decided_s - work_s(self.busy);
        let heard_s = if idle_s < 0.0 { self.hears.as_secs_f64() * case.hears } else { 0.0 };
        let meanwhile = (self.meanwhile + self.graph * forwards.sent).saturating_sub(self.prepared);
        let late_s = (work_s(meanwhile) - idle_s.max(0.0)).max(0.0);
        let after_s = work_s(self.after + self.bind * forwards.sent);
        let compute_s = work_s(self.again * forwards.again);
        (heard_s + late_s + after_s, compute_s)
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

    fn only(owner: TakeOver) -> TakeOvers {
        TakeOvers { owners: vec![owner], slower: 1.0 }
    }

    #[test]
    fn each_part_has_what_was_measured_of_it() {
        let mut pace = Pace::new(2 * MS);
        pace.digested(1_000_000, 10 * MS);
        [5, 1, 3].into_iter().for_each(|ms| pace.answered(ms * MS));
        let forwards = [(4, Forwards { sent: 2, again: 1, compute: 70 * MS })].into();
        let left = Left { stream: 100 * MS, rate: None, bytes: [(4, 30_000_000)].into(), forwards, ..Left::default() };
        let owner = TakeOver {
            rank: 4,
            meanwhile: 40 * MS,
            after: 9 * MS,
            graph: 10 * MS,
            bind: MS,
            again: 81 * MS,
            ..TakeOver::default()
        };
        let parts = pace.parts_s(20 * MS, &left, &only(owner));
        let names: Vec<&str> = parts.iter().map(|(part, _)| *part).collect();
        assert_eq!(names, ["describe", "stream", "verify", "commit", "take over", "compute again"]);
        // Digests at 100 MB/s are 200 ms behind the link; an answer of 3 ms and four turns of the store follow.
        for (part, expected) in [("verify", 0.2), ("commit", 0.011), ("take over", 0.011), ("compute again", 0.081)] {
            assert!((seconds(&parts, part) - expected).abs() < 1e-9, "{part}: {parts:?}");
        }
    }

    #[test]
    fn the_owner_that_is_last_counts() {
        let forwards = [(0, Forwards { sent: 0, again: 2, compute: 50 * MS }), (2, Forwards::default())].into();
        let left = Left { forwards, ..Left::default() };
        let owner = |rank, after| TakeOver { rank, after, again: 25 * MS, ..TakeOver::default() };
        let parts_s = |first, second| {
            let owners = vec![owner(0, first), owner(2, second)];
            let parts = Pace::default().parts_s(Duration::ZERO, &left, &TakeOvers { owners, slower: 1.0 });
            (seconds(&parts, "take over"), seconds(&parts, "compute again"))
        };
        assert_eq!(parts_s(5 * MS, 20 * MS), (0.005, 0.05));
        assert_eq!(parts_s(5 * MS, 60 * MS), (0.06, 0.0));
        let parts = Pace::default().parts_s(Duration::ZERO, &left, &TakeOvers::default());
        assert_eq!(seconds(&parts, "compute again"), 0.05, "known without a word about owners");
    }

    #[test]
    fn who_has_work_of_its_own_hears_later_and_prepares_nothing() {
        let owner =
            TakeOver { busy: 30 * MS, prepared: 2 * MS, hears: 6 * MS, meanwhile: 42 * MS, ..TakeOver::default() };
        let part = |stream| {
            let left = Left { stream, ..Left::default() };
            seconds(&Pace::default().parts_s(Duration::ZERO, &left, &only(owner)), "take over")
        };
        assert!((part(20 * MS) - 0.046).abs() < 1e-9, "all is still to do, and the news wait");
        assert!((part(50 * MS) - 0.02).abs() < 1e-9, "it had half of the time that it needs");
        assert_eq!(part(90 * MS), 0.0);
    }

    #[test]
    fn the_range_is_as_wide_as_the_rate_and_the_work_of_late() {
        let owner = TakeOver { busy: 900 * MS, hears: 20 * MS, after: 10 * MS, ..TakeOver::default() };
        let rate = Some(RateInterval { low: 50, high: 150 });
        let left = Left { stream: 300 * MS, rate, ..Left::default() };
        let owners = TakeOvers { owners: vec![owner], slower: 2.0 };
        let (soonest_s, latest_s) = Pace::default().range_s(Duration::ZERO, &left, &owners);
        assert!((soonest_s - 0.21).abs() < 1e-9, "{soonest_s}");
        assert!((latest_s - 0.65).abs() < 1e-9, "{latest_s}");
        let unknown = Left { rate: Some(RateInterval { low: 0, high: 0 }), ..left };
        assert!(Pace::default().range_s(Duration::ZERO, &unknown, &owners).1.is_finite());
    }

    fn at(ms: u32) -> Time {
        Time::ZERO.after(ms * MS)
    }

    #[test]
    fn what_lands_says_more_than_what_is_digested() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.digested(1_000_000, MS);
        let left = Left { stream: 10 * MS, bytes: [(0, 1_000_000)].into(), ..Left::default() };
        let verify_s = |pace: &Pace| seconds(&pace.parts_s(Duration::ZERO, &left, &TakeOvers::default()), "verify");
        assert_eq!(verify_s(&pace), 0.0, "digests keep up with the link");
        pace.leaves(0, at(0));
        pace.landed(0, 100_000, at(20), (true, true));
        pace.landed(0, 400_000, at(50), (false, false));
        // Half a megabyte in 50 ms: one takes 100, of which the link is 10.
        assert!((verify_s(&pace) - 0.09).abs() < 1e-9, "{pace:?}");
    }

    #[test]
    fn what_is_left_for_one_target_lands_no_sooner_because_the_other_has_its_own() {
        let mut pace = Pace::new(Duration::ZERO);
        for target in [0, 2] {
            pace.leaves(target, at(0));
        }
        pace.landed(0, 100_000, at(100), (true, false));
        pace.landed(2, 100_000, at(100), (false, false));
        let verify_s = |bytes: &[(u32, u64)], limit| {
            let left = Left { bytes: bytes.iter().copied().collect(), limit, ..Left::default() };
            seconds(&pace.parts_s(Duration::ZERO, &left, &TakeOvers::default()), "verify")
        };
        assert!((verify_s(&[(0, 50_000), (2, 50_000)], None) - 0.05).abs() < 1e-9, "side by side");
        assert!((verify_s(&[(0, 100_000)], None) - 0.1).abs() < 1e-9, "a megabyte a second each");
        assert!((verify_s(&[(0, 100_000)], Some(2_000_000)) - 0.05).abs() < 1e-9, "one has what both shared");
        assert!((verify_s(&[(0, 100_000)], Some(9_000_000)) - 0.1).abs() < 1e-9, "that limit is far");
        assert!((verify_s(&[(7, 100_000)], None) - 0.05).abs() < 1e-9, "nothing is known of that one");
    }

    #[test]
    fn time_without_anything_under_way_is_not_slow_and_old_bursts_are_forgotten() {
        let mut pace = Pace::default();
        let rate = RateInterval { low: 50_000, high: 350_000 };
        pace.leaves(0, at(0));
        pace.landed(0, 1_000, at(25), (false, false));
        assert_eq!(pace.landing_bytes_per_s(), None, "too little to judge by");
        assert_eq!(pace.landing_within(rate), rate);
        pace.leaves(0, at(60_000));
        pace.landed(0, 1_000, at(60_025), (false, false));
        assert_eq!(pace.landing_bytes_per_s(), Some(40_000.0));
        assert_eq!(pace.landing_within(rate), RateInterval { low: 10_000, high: 70_000 }, "a fifth of the middle");
        assert_eq!(pace.landing_within(RateInterval { low: 1, high: 2 }), RateInterval { low: 1, high: 2 });
        pace.leaves(0, at(70_000));
        for tick in 1..=20 {
            pace.landed(0, 100, at(70_000 + 50 * tick), (true, true));
        }
        assert_eq!(pace.landing_bytes_per_s(), Some(2_000.0));
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
