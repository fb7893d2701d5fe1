//! How quickly bytes land, by the items that have.

use std::collections::VecDeque;
use std::time::Duration;

use xfer_transport_core::Time;

/// Over how much of the latest busy time landing is measured: long against a burst that has the processors to itself, short
/// against a notice.
const LANDING_TIME: Duration = Duration::from_millis(500);

/// The shortest busy time that landing is judged by: a few items, which come one by one. As long as less was seen than six of the
/// longer, it is a sixth of that: a hand-over that has only begun was hardly left alone for longer.
const LANDING_TIME_MIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(30)];
const LANDING_PARTS: u32 = 6;

/// How many of the largest items must have landed in a time that is judged: of those at its beginning and its end a part is missing.
const LANDING_ITEMS_MIN: u64 = 4;

/// Busy time between two marks, at least.
const MARK_TIME: Duration = Duration::from_millis(1);

/// How quickly bytes land: from the first one that leaves to the last digest that was compared, whatever is slowest between them.
/// Time in which nothing is under way doesn't count.
#[derive(Debug, Clone, Default)]
pub(super) struct Landing {
    /// Since when something is under way, without a break that was counted yet.
    since: Option<Time>,
    busy: Duration,
    bytes: u64,
    largest_bytes: u64,
    /// What was busy time, and what had landed, when an item landed; the oldest one is where measuring begins.
    pub(super) marks: VecDeque<Mark>,
}

/// Busy time, and what had landed by then.
type Mark = (Duration, u64);

impl Landing {
    pub(super) fn leaves(&mut self, now: Time) {
        if self.since.is_none() {
            self.since = Some(now);
            if self.marks.is_empty() {
                self.marks.push_back((Duration::ZERO, 0));
            }
        }
    }

    pub(super) fn landed(&mut self, bytes: u64, now: Time) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.largest_bytes = self.largest_bytes.max(bytes);
        // What is only learnt of by the commit was under way until then, too.
        let Some(since) = self.since.replace(now) else { return };
        self.busy += now.since(since);
        // Small items land by the thousand: of marks as close as that the last one is enough.
        let before = self.marks.len().checked_sub(2).map(|at| self.marks[at].0);
        if before.is_some_and(|before| self.busy.saturating_sub(before) < MARK_TIME) {
            self.marks.pop_back();
        }
        self.marks.push_back((self.busy, self.bytes));
        // The mark before the window stays: what landed since then landed within it.
        while self.marks.get(1).is_some_and(|(busy, _)| self.busy.saturating_sub(*busy) >= LANDING_TIME) {
            self.marks.pop_front();
        }
    }

    /// Nothing is under way any more.
    pub(super) fn rests(&mut self) {
        self.since = None;
    }

    /// Whether it was seen for as long as it is measured over.
    pub(super) fn is_long(&self) -> bool {
        self.busy >= LANDING_TIME
    }

    /// On the whole, lately.
    pub(super) fn mean_bytes_per_s(&self) -> Option<f64> {
        self.pace(self.marks.front()?, self.marks.back()?)
    }

    /// In the best of the shortest times that can be judged, lately. What was slower waited for threads to wake up, for memory that
    /// nobody had touched yet, and for the processor on which everything was described meanwhile: none of that is still to come.
    pub(super) fn best_bytes_per_s(&self) -> Option<f64> {
        let mut first = 0;
        let paces = self.marks.iter().filter_map(|last| {
            while self.marks.get(first + 1).is_some_and(|mark| self.pace(mark, last).is_some()) {
                first += 1;
            }
            self.pace(&self.marks[first], last)
        });
        paces.max_by(f64::total_cmp)
    }

    /// Bytes a second between two marks, if enough landed to judge by.
    fn pace(&self, first: &Mark, last: &Mark) -> Option<f64> {
        let (busy, bytes) = (last.0.saturating_sub(first.0), last.1.saturating_sub(first.1));
        let [shortest, longest] = LANDING_TIME_MIN;
        let is_enough = busy >= (self.busy / LANDING_PARTS).clamp(shortest, longest)
            && bytes >= self.largest_bytes.saturating_mul(LANDING_ITEMS_MIN);
        is_enough.then(|| bytes as f64 / busy.as_secs_f64())
    }
}
