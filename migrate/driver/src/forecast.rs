//! When new owners will go on: the parts of a hand-over that are still to come, each at a pace that was measured here.

mod landing;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use xfer_transport_core::{Measured, RateInterval, Time};

use self::landing::Landing;
use crate::takeover::{Forwards, TakeOver, TakeOvers};

/// How many of the latest answers count.
const ANSWERS: usize = 9;

/// From which part of a limit on, what lands is taken to be as little as it is because of that.
const LIMITED: f64 = 0.7;

/// Below which part of an even share of what lands a target is slow by itself.
const FAR_BEHIND: f64 = 0.5;

/// By which part of it the same thing takes more or less time when it is done again and nothing disturbs it: the middle of the runs of
/// `frontier_bench.py` lies so far from the others where all is known, the rate by a limit and the rest by its smallness.
const SCATTER: f64 = 0.05;

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

/// What is still to come once everything is offered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Left {
    /// Until the last byte is there, by the latest plan: what counts as long as nothing is measured.
    pub(crate) planned: Duration,
    /// What was measured of the links, if anything was.
    pub(crate) link: Option<Measured>,
    /// Bytes that are to land, by who takes them over: on their way, written but not compared yet, or still to leave.
    pub(crate) bytes: BTreeMap<u32, u64>,
    /// What may leave this process, in bytes per second, if that is limited.
    pub(crate) limit: Option<u64>,
    /// What becomes of forwards, by who takes them over.
    pub(crate) forwards: BTreeMap<u32, Forwards>,
}

/// Parts of a hand-over, in order, and how many seconds each takes.
pub(crate) type Parts = Vec<(&'static str, f64)>;

/// How bytes come, and by what factors other things take longer than in the middle.
#[derive(Debug, Clone, Copy)]
struct Case {
    bytes: Bytes,
    hears: f64,
    work: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// Landing as when that went best, over links that carry as much as that, if it is within what was measured of them.
    Likely,
    /// The same, over links that carry the most.
    Soonest,
    /// Landing as on the whole, over links that carry the least.
    Latest,
}

const MIDDLE: Case = Case { bytes: Bytes::Likely, hears: 1.0, work: 1.0 };

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
                landing.rests();
            }
        }
    }

    /// How many bytes land in a second, if all goes well; none before that can be judged.
    pub(crate) fn landing_bytes_per_s(&self) -> Option<f64> {
        self.landing.best_bytes_per_s()
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
    /// part, since targets take turns. But one that is far behind the others is what all wait for in the end, once it was seen for long
    /// enough, and if it isn't what may leave here that all share.
    fn landing_s(&self, left: &Left, bytes: Bytes) -> f64 {
        let all = left.all_bytes();
        let pace = |landing: &Landing| match bytes {
            Bytes::Likely | Bytes::Soonest => landing.best_bytes_per_s(),
            Bytes::Latest => landing.mean_bytes_per_s(),
        };
        let Some(landing) = pace(&self.landing) else {
            return self.digest_bytes_per_s().map_or(0.0, |rate| all as f64 / rate);
        };
        let together_s = all as f64 / landing;
        if left.limit.is_some_and(|limit| landing > LIMITED * limit as f64) {
            return together_s;
        }
        let far_behind = FAR_BEHIND * landing / self.landing_at.len() as f64;
        let alone = left.bytes.iter().filter_map(|(target, bytes)| {
            let landing = self.landing_at.get(target).filter(|landing| landing.is_long())?;
            let alone = pace(landing).filter(|pace| *pace < far_behind)?;
            Some(*bytes as f64 / alone)
        });
        alone.fold(together_s, f64::max)
    }

    /// How long the links take to carry `left`, in seconds.
    fn stream_s(&self, left: &Left, bytes: Bytes) -> f64 {
        let expected = |link: Measured| (link.expected(left.limit), link.rate.low);
        let Some((link, measured_low)) = left.link.map(expected).filter(|(link, _)| link.low > 0) else {
            return left.planned.as_secs_f64();
        };
        let (low, high) = (link.low as f64, link.high.max(link.low) as f64);
        let carried = match bytes {
            Bytes::Likely => self.landing_bytes_per_s().map_or(low.midpoint(high), |landing| landing.clamp(low, high)),
            Bytes::Soonest => high,
            // A beginning may hide how quick links are, and is as slow as they get.
            Bytes::Latest => (measured_low as f64).clamp(low, high),
        };
        left.all_bytes() as f64 / carried
    }

    /// From the last byte's arrival to the news of the commit: the quickest of a target's latest answers, since the others have
    /// waited for digests of other items, and the store's.
    pub(crate) fn commit(&self) -> Duration {
        self.answers.iter().min().copied().unwrap_or_default() + self.store * STORE_TURNS
    }

    /// The parts from the beginning, `so_far` ago, to when the last new owner goes on.
    pub(crate) fn parts_s(&self, so_far: Duration, left: &Left, take_over: &TakeOvers) -> Parts {
        self.parts_in(MIDDLE, so_far, left, take_over)
    }

    /// The soonest and the latest moment at which that is to be expected: at the ends of the rate's interval, with bytes that land as
    /// when that went best or as on the whole, with the news heard at once or as late as can be, with work that is as slow as it was
    /// lately, and with what scatters anyway. In seconds from the beginning.
    pub(crate) fn range_s(&self, so_far: Duration, left: &Left, take_over: &TakeOvers) -> (f64, f64) {
        let soonest = Case { bytes: Bytes::Soonest, hears: 0.0, work: 1.0 };
        let latest = Case { bytes: Bytes::Latest, hears: HEARS_LATEST, work: take_over.slower.max(1.0) };
        let to_come_s = |case| -> f64 {
            let parts = self.parts_in(case, Duration::ZERO, left, take_over);
            parts.iter().map(|(_, seconds)| seconds).sum()
        };
        let so_far_s = so_far.as_secs_f64();
        (so_far_s + to_come_s(soonest) * (1.0 - SCATTER), so_far_s + to_come_s(latest) * (1.0 + SCATTER))
    }

    fn parts_in(&self, case: Case, so_far: Duration, left: &Left, take_over: &TakeOvers) -> Parts {
        let stream_s = self.stream_s(left, case.bytes);
        let verify_s = (self.landing_s(left, case.bytes) - stream_s).max(0.0);
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

impl Left {
    fn all_bytes(&self) -> u64 {
        self.bytes.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
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

    fn measured(low: u64, high: u64) -> Measured {
        Measured { rate: RateInterval { low, high }, samples: 20 }
    }

    #[test]
    fn each_part_has_what_was_measured_of_it() {
        let mut pace = Pace::new(2 * MS);
        pace.digested(1_000_000, 10 * MS);
        [5, 3, 9].into_iter().for_each(|ms| pace.answered(ms * MS));
        let forwards = [(4, Forwards { sent: 2, again: 1, compute: 70 * MS })].into();
        let left = Left { planned: 100 * MS, bytes: [(4, 30_000_000)].into(), forwards, ..Left::default() };
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
        let part = |planned| {
            let left = Left { planned, ..Left::default() };
            seconds(&Pace::default().parts_s(Duration::ZERO, &left, &only(owner)), "take over")
        };
        assert!((part(20 * MS) - 0.046).abs() < 1e-9, "all is still to do, and the news wait");
        assert!((part(50 * MS) - 0.02).abs() < 1e-9, "it had half of the time that it needs");
        assert_eq!(part(90 * MS), 0.0);
    }

    #[test]
    fn the_range_is_as_wide_as_the_rate_and_the_work_of_late() {
        let owner = TakeOver { busy: 900 * MS, hears: 20 * MS, after: 10 * MS, ..TakeOver::default() };
        let link = Some(measured(50, 150));
        let left = Left { link, bytes: [(0, 30)].into(), ..Left::default() };
        let owners = TakeOvers { owners: vec![owner], slower: 2.0 };
        let (soonest_s, latest_s) = Pace::default().range_s(7 * MS, &left, &owners);
        assert!((soonest_s - 0.007 - 0.95 * 0.21).abs() < 1e-9, "{soonest_s}");
        assert!((latest_s - 0.007 - 1.05 * 0.65).abs() < 1e-9, "{latest_s}");
        let nothing = Left { link: Some(measured(0, 0)), planned: 300 * MS, ..left };
        assert!(Pace::default().range_s(Duration::ZERO, &nothing, &owners).1.is_finite());
    }

    fn at(ms: u32) -> Time {
        Time::ZERO.after(ms * MS)
    }

    /// Eight items of so many bytes together land.
    fn lands(pace: &mut Pace, target: u32, bytes: u64, ms: u32, more: (bool, bool)) {
        (0..7).for_each(|_| pace.landed(target, bytes / 8, at(ms), (true, true)));
        pace.landed(target, bytes / 8, at(ms), more);
    }

    #[test]
    fn what_lands_says_more_than_what_is_digested() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.digested(1_000_000, MS);
        let left = Left { planned: 10 * MS, bytes: [(0, 1_000_000)].into(), ..Left::default() };
        let verify_s = |pace: &Pace| seconds(&pace.parts_s(Duration::ZERO, &left, &TakeOvers::default()), "verify");
        assert_eq!(verify_s(&pace), 0.0, "digests keep up with the link");
        pace.leaves(0, at(0));
        lands(&mut pace, 0, 100_000, 25, (true, true));
        lands(&mut pace, 0, 375_000, 50, (false, false));
        // 375 kB in 25 ms: a megabyte takes 67, of which the link is 10.
        assert!((verify_s(&pace) - (1.0 / 15.0 - 0.01)).abs() < 1e-9, "{pace:?}");
    }

    #[test]
    fn what_went_slowly_at_first_is_not_what_is_to_come_but_may_be() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.leaves(0, at(0));
        for (bytes, ms) in [(1_000, 50), (20_000, 70), (40_000, 90), (9_000, 100)] {
            lands(&mut pace, 0, bytes, ms, (true, true));
        }
        // 40 kB in 20 ms; what came in the 10 after that are too few items.
        assert!((pace.landing_bytes_per_s().expect("it was long enough") - 2e6).abs() < 1e-6, "{pace:?}");
        let left = Left { bytes: [(0, 70_000)].into(), ..Left::default() };
        let (soonest_s, latest_s) = pace.range_s(Duration::ZERO, &left, &TakeOvers::default());
        assert!((soonest_s - 0.95 * 0.035).abs() < 1e-9, "{soonest_s}");
        assert!((latest_s - 1.05 * 0.1).abs() < 1e-9, "{latest_s}");
    }

    #[test]
    fn links_carry_what_lands_as_far_as_that_is_within_what_was_measured_of_them() {
        let mut pace = Pace::new(Duration::ZERO);
        let stream_ms = |pace: &Pace, low, high| {
            let left = Left { link: Some(measured(low, high)), bytes: [(0, 1_000_000)].into(), ..Left::default() };
            (1e3 * pace.stream_s(&left, Bytes::Likely)).round()
        };
        assert_eq!(stream_ms(&pace, 5_000_000, 15_000_000), 100.0, "the middle, as long as nothing has landed");
        pace.leaves(0, at(0));
        lands(&mut pace, 0, 400_000, 50, (false, false));
        assert_eq!(stream_ms(&pace, 5_000_000, 15_000_000), 125.0);
        assert_eq!(stream_ms(&pace, 10_000_000, 15_000_000), 100.0, "landing is behind the links");
        assert_eq!(stream_ms(&pace, 1_000_000, 4_000_000), 250.0, "a burst that the links can't keep up");
    }

    #[test]
    fn a_single_sample_is_the_least_that_links_carry_and_hides_how_quick_they_are() {
        let one = Measured { samples: 1, ..measured(1_000_000, 1_000_000) };
        let left = |limit| Left { link: Some(one), limit, bytes: [(0, 1_000_000)].into(), ..Left::default() };
        let ms = |limit, bytes| (1e3 * Pace::default().stream_s(&left(limit), bytes)).round();
        let of = |limit| [Bytes::Soonest, Bytes::Likely, Bytes::Latest].map(|bytes| ms(limit, bytes));
        assert_eq!(of(None), [250.0, 471.0, 1000.0]);
        assert_eq!(of(Some(1_000_000)), [1000.0; 3], "a limit explains it");
    }

    #[test]
    fn the_longer_bytes_land_the_longer_is_what_they_are_judged_by() {
        let mut pace = Pace::default();
        pace.leaves(0, at(0));
        lands(&mut pace, 0, 8_000, 80, (true, true));
        lands(&mut pace, 0, 16_000, 100, (true, true));
        assert_eq!(pace.landing_bytes_per_s(), Some(800_000.0), "20 ms of 100");
        lands(&mut pace, 0, 8_000, 300, (true, true));
        assert_eq!(pace.landing_bytes_per_s(), Some(240_000.0), "30 ms of 300 at least");
    }

    #[test]
    fn a_few_large_items_say_nothing_of_how_bytes_land() {
        let mut pace = Pace::default();
        pace.leaves(0, at(0));
        (1..=3).for_each(|item| pace.landed(0, 1_000, at(40 * item), (true, true)));
        assert_eq!(pace.landing_bytes_per_s(), None, "the fourth may be there but for its last byte");
        pace.landed(0, 1_000, at(160), (true, true));
        assert_eq!(pace.landing_bytes_per_s(), Some(25_000.0));
    }

    #[test]
    fn a_thousand_small_items_are_a_few_marks() {
        let mut pace = Pace::default();
        pace.leaves(0, at(0));
        for tick in 0..=1_000 {
            pace.landed(0, 7, Time::ZERO.after(tick * MS / 10), (true, true));
        }
        assert!(pace.landing.marks.len() <= 202, "{}", pace.landing.marks.len());
        assert!((pace.landing_bytes_per_s().expect("it was long enough") - 70_000.0).abs() < 5_000.0, "{pace:?}");
    }

    #[test]
    fn a_target_that_is_far_behind_is_what_all_wait_for() {
        let mut pace = Pace::new(Duration::ZERO);
        for target in [0, 2] {
            pace.leaves(target, at(0));
        }
        lands(&mut pace, 0, 20_000, 100, (true, true));
        lands(&mut pace, 2, 180_000, 100, (true, true));
        let early = Left { bytes: [(0, 100_000)].into(), ..Left::default() };
        assert!((pace.landing_s(&early, Bytes::Likely) - 0.05).abs() < 1e-9, "it may not have had its turn");
        for (target, bytes, more) in [(0, 80_000, (true, false)), (2, 720_000, (false, false))] {
            lands(&mut pace, target, bytes, 500, more);
        }
        let landing_s = |bytes: &[(u32, u64)], limit| {
            let left = Left { bytes: bytes.iter().copied().collect(), limit, ..Left::default() };
            pace.landing_s(&left, Bytes::Likely)
        };
        // Two megabytes a second together, of which the first has a tenth.
        assert!((landing_s(&[(2, 100_000)], None) - 0.05).abs() < 1e-9, "it has all of it when it is alone");
        assert!((landing_s(&[(0, 20_000), (2, 180_000)], None) - 0.1).abs() < 1e-9, "side by side");
        assert!((landing_s(&[(0, 100_000)], None) - 0.5).abs() < 1e-9, "it is no quicker when it is alone");
        assert!((landing_s(&[(0, 100_000)], Some(2_000_000)) - 0.05).abs() < 1e-9, "it gets what both have shared");
        assert!((landing_s(&[(0, 100_000)], Some(9_000_000)) - 0.5).abs() < 1e-9, "that limit is far");
        assert!((landing_s(&[(7, 100_000)], None) - 0.05).abs() < 1e-9, "nothing is known of that one");
    }

    #[test]
    fn time_without_anything_under_way_is_not_slow_and_old_bursts_are_forgotten() {
        let mut pace = Pace::default();
        let rate = RateInterval { low: 50_000, high: 350_000 };
        pace.leaves(0, at(0));
        lands(&mut pace, 0, 200, 4, (false, false));
        assert_eq!(pace.landing_bytes_per_s(), None, "too little to judge by");
        assert_eq!(pace.landing_within(rate), rate);
        pace.leaves(0, at(60_000));
        lands(&mut pace, 0, 200, 60_006, (false, false));
        assert_eq!(pace.landing_bytes_per_s(), Some(40_000.0), "the two together are long enough");
        assert_eq!(pace.landing_within(rate), RateInterval { low: 10_000, high: 70_000 }, "a fifth of the middle");
        assert_eq!(pace.landing_within(RateInterval { low: 1, high: 2 }), RateInterval { low: 1, high: 2 });
        pace.leaves(0, at(70_000));
        for tick in 1..=20 {
            lands(&mut pace, 0, 800, 70_000 + 50 * tick, (true, true));
        }
        assert_eq!(pace.landing_bytes_per_s(), Some(16_000.0));
        assert_eq!(pace.landing.mean_bytes_per_s(), Some(16_000.0));
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
