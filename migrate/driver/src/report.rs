//! What a migration did, in figures: for a summary line, for people and for JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use xfer_migrate_core::ItemClass;
use xfer_transport_core::Time;

/// What one class of items cost on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moved {
    /// Items that reached their target, verified.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds during which at least one item of the class was on its way; 0 at a target, which can't tell.
    pub busy_s: f64,
}

/// One migration as one side saw it.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// "source" or "target".
    pub side: &'static str,
    /// The generation that ended it, once one did.
    pub generation: Option<u64>,
    /// "handoff", "restore" or "withdrawn", once it ended.
    pub verdict: Option<&'static str>,
    /// Why, in words.
    pub reason: String,
    /// What moved, by class.
    pub moved: BTreeMap<&'static str, Moved>,
    /// The items in the order in which they left or landed.
    pub order: Vec<String>,
    /// What the planner chose not to send.
    pub skipped: Vec<String>,
    /// What the planner said last, in words.
    pub plan: String,
    /// At a source that said so, in which way it leaves: the word for a [`Mode`](xfer_plan::Mode).
    pub mode: Option<&'static str>,
    /// Why, in words.
    pub why: String,
    /// At a source, what it expected when nothing more was offered: the parts from the beginning to when the last new owner goes
    /// on, and how many seconds each takes. All of them were measured before: nothing is taken from a table.
    pub resume_parts_s: Vec<(&'static str, f64)>,
    /// At a source, the soonest and the latest moment at which that was to be expected, in seconds from the beginning.
    pub predicted_range_s: Option<(f64, f64)>,
    /// How long the same parts took. A source knows those up to the decision, a target that has said that it goes on those after it.
    pub measured_parts_s: Vec<(&'static str, f64)>,
    /// Bytes by the backend that carried them.
    pub path: BTreeMap<String, u64>,
    /// Bytes of what moved that were there from an earlier attempt, and not sent again.
    pub kept_bytes: u64,
    /// Chunks that had to be sent twice.
    pub retried_chunks: u64,
    /// Phases in seconds, in order: name and how long it took.
    pub phases_s: Vec<(&'static str, f64)>,
}

impl Report {
    /// All bytes that moved.
    pub fn moved_bytes(&self) -> u64 {
        self.moved.values().map(|moved| moved.bytes).sum()
    }

    /// All items that moved.
    pub fn moved_items(&self) -> u64 {
        self.moved.values().map(|moved| moved.items).sum()
    }

    /// When the last new owner was to go on, in seconds from the beginning: all of [`Report::resume_parts_s`].
    pub fn predicted_s(&self) -> Option<f64> {
        let parts = &self.resume_parts_s;
        (!parts.is_empty()).then(|| parts.iter().map(|(_, seconds)| seconds).sum())
    }

    /// The report as a JSON object; all times in seconds, all sizes in bytes.
    pub fn to_json(&self) -> String {
        let moved: serde_json::Map<String, serde_json::Value> = self
            .moved
            .iter()
            .map(|(class, moved)| {
                let figures =
                    serde_json::json!({ "items": moved.items, "bytes": moved.bytes, "seconds": moved.busy_s });
                ((*class).to_owned(), figures)
            })
            .collect();
        let named = |parts: &[(&'static str, f64)]| -> serde_json::Map<String, serde_json::Value> {
            parts.iter().map(|(part, seconds)| ((*part).to_owned(), (*seconds).into())).collect()
        };
        serde_json::json!({
            "side": self.side,
            "generation": self.generation,
            "verdict": self.verdict,
            "reason": self.reason,
            "moved": moved,
            "moved_bytes": self.moved_bytes(),
            "order": self.order,
            "skipped": self.skipped,
            "plan": { "mode": self.mode, "why": self.why, "table": self.plan },
            "predicted_s": self.predicted_s(),
            "predicted_range_s": self.predicted_range_s.map(|(soonest_s, latest_s)| [soonest_s, latest_s]),
            "resume_parts_s": named(&self.resume_parts_s),
            "measured_parts_s": named(&self.measured_parts_s),
            "path": self.path,
            "kept_bytes": self.kept_bytes,
            "retried_chunks": self.retried_chunks,
            "phases_s": named(&self.phases_s),
        })
        .to_string()
    }
}

impl fmt::Display for Report {
    /// The summary line of a migration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total_s: f64 = self.phases_s.iter().map(|(_, seconds)| seconds).sum();
        write!(
            f,
            "{} {}: {} items, {:.1} MB in {:.3} s",
            self.side,
            self.verdict.unwrap_or("open"),
            self.moved_items(),
            self.moved_bytes() as f64 / 1e6,
            total_s
        )?;
        for (path, bytes) in &self.path {
            write!(f, ", {:.1} MB over {path}", *bytes as f64 / 1e6)?;
        }
        if self.kept_bytes > 0 {
            write!(f, ", {:.1} MB were there", self.kept_bytes as f64 / 1e6)?;
        }
        if let Some(generation) = self.generation {
            write!(f, ", generation {generation}")?;
        }
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        Ok(())
    }
}

/// The moments at which the phases of a migration ended.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    start: Time,
    ends: BTreeMap<&'static str, Time>,
}

impl Timeline {
    pub(crate) fn new(start: Time) -> Self {
        Self { start, ends: BTreeMap::new() }
    }

    pub(crate) fn start(&self) -> Time {
        self.start
    }

    /// The phase ended at `now`, if it has not before.
    pub(crate) fn end(&mut self, phase: &'static str, now: Time) {
        self.ends.entry(phase).or_insert(now);
    }

    /// The phase goes on at least until `now`.
    pub(crate) fn reach(&mut self, phase: &'static str, now: Time) {
        self.ends.insert(phase, now);
    }

    /// Each phase in order, from its beginning to its end.
    pub(crate) fn phases(&self) -> Vec<(&'static str, Time, Time)> {
        let mut ends: Vec<_> = self.ends.iter().map(|(phase, at)| (*at, *phase)).collect();
        ends.sort_unstable();
        let starts = std::iter::once(self.start).chain(ends.iter().map(|(at, _)| *at));
        ends.iter().zip(starts).map(|((at, phase), start)| (*phase, start, *at)).collect()
    }

    /// Each phase in order, and how many seconds after the end of the one before it ended.
    pub(crate) fn phases_s(&self) -> Vec<(&'static str, f64)> {
        self.phases().into_iter().map(|(phase, start, end)| (phase, end.since(start).as_secs_f64())).collect()
    }
}

/// When the parts of a hand-over ended, as its source saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    /// When nothing more was offered.
    pub(crate) cut: Option<Time>,
    /// When the latest item was written.
    pub(crate) written: Option<Time>,
    /// When the latest one was known to have landed.
    pub(crate) landed: Option<Time>,
}

impl Ends {
    /// What each part took of a hand-over that began at `start` and was decided at `decided`; nothing if it was never cut.
    pub(crate) fn parts_s(&self, start: Time, decided: Time) -> Vec<(&'static str, f64)> {
        let Some(cut) = self.cut else { return Vec::new() };
        let written = self.written.map_or(cut, |at| at.max(cut));
        let landed = self.landed.map_or(written, |at| at.max(written));
        let part = |end: Time, begin: Time| end.since(begin).as_secs_f64();
        vec![
            ("describe", part(cut, start)),
            ("stream", part(written, cut)),
            ("verify", part(landed, written)),
            ("commit", part(decided, landed)),
        ]
    }
}

/// When a class of items was on its way: overlapping transfers count once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy {
    under_way: BTreeMap<&'static str, (u32, Time)>,
    total: BTreeMap<&'static str, Duration>,
}

impl Busy {
    pub(crate) fn start(&mut self, class: ItemClass, now: Time) {
        let (count, since) = self.under_way.entry(class.name()).or_insert((0, now));
        if *count == 0 {
            *since = now;
        }
        *count += 1;
    }

    pub(crate) fn end(&mut self, class: ItemClass, now: Time) {
        let class = class.name();
        let Some((count, since)) = self.under_way.get_mut(class) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            *self.total.entry(class).or_default() += now.since(*since);
        }
    }

    /// How long so far, what is under way at `now` included.
    pub(crate) fn seconds(&self, class: &str, now: Time) -> f64 {
        let over = self.total.get(class).copied().unwrap_or_default();
        let open = self.under_way.get(class).filter(|(count, _)| *count > 0).map(|(_, since)| now.since(*since));
        (over + open.unwrap_or_default()).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn phases_follow_each_other_in_the_order_of_their_ends() {
        let mut timeline = Timeline::new(at(1));
        timeline.reach("stream", at(5));
        timeline.end("grant", at(2));
        timeline.end("grant", at(9));
        timeline.reach("stream", at(6));
        assert_eq!(timeline.phases_s(), [("grant", 1.0), ("stream", 4.0)]);
    }

    #[test]
    fn measured_parts_follow_each_other_from_the_beginning_to_the_decision() {
        let mut ends = Ends::default();
        assert_eq!(ends.parts_s(at(0), at(9)), [], "it was never cut");
        (ends.cut, ends.written, ends.landed) = (Some(at(4)), Some(at(3)), Some(at(6)));
        let parts = [("describe", 3.0), ("stream", 0.0), ("verify", 2.0), ("commit", 3.0)];
        assert_eq!(ends.parts_s(at(1), at(9)), parts, "all was written before the cut");
        ends.written = Some(at(7));
        assert_eq!(ends.parts_s(at(1), at(9)), [("describe", 3.0), ("stream", 3.0), ("verify", 0.0), ("commit", 2.0)]);
    }

    #[test]
    fn overlapping_transfers_of_a_class_count_once() {
        let mut busy = Busy::default();
        busy.start(ItemClass::Saved, at(0));
        busy.start(ItemClass::Saved, at(1));
        busy.end(ItemClass::Saved, at(2));
        busy.end(ItemClass::Saved, at(3));
        busy.start(ItemClass::Saved, at(10));
        busy.end(ItemClass::Saved, at(11));
        assert_eq!(busy.seconds("saved", at(11)), 4.0);
        assert_eq!(busy.seconds("gradient", at(11)), 0.0);
        busy.start(ItemClass::Saved, at(20));
        assert_eq!(busy.seconds("saved", at(22)), 6.0, "what is still under way counts");
    }
}
