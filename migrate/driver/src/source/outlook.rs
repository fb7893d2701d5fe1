//! What a migration from this process has still to do, what it is worth, and where there is room for it.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use xfer_migrate_core::{GroupId, ItemId};
use xfer_plan::manifest::{Live, Prospect};
use xfer_plan::{Choice, Handling, Mode, Progress};
use xfer_transport_core::{Measured, RateInterval, Time};

use super::SourceRun;
use crate::driver::Context;
use crate::forecast::Left;
use crate::migrations::{OfferError, lock};
use crate::takeover::{Forwards, forwards};

/// What a link is taken to carry until the first bytes show it: from 1 to 10 Gb/s, as spot machines have.
const RATE_UNKNOWN: RateInterval = RateInterval { low: 125_000_000, high: 1_250_000_000 };

impl SourceRun {
    /// What targets have room for.
    pub(crate) fn rooms_are(&mut self, rooms: Vec<(u32, u64)>) {
        self.rooms = rooms;
        self.show_room();
    }

    /// What of it isn't taken by what was offered.
    pub(super) fn show_room(&self) {
        let mut taken: BTreeMap<u32, u64> = BTreeMap::new();
        for (item, _) in self.items.values() {
            let sum = taken.entry(item.target).or_default();
            *sum = sum.saturating_add(item.bytes);
        }
        let left = |(rank, bytes): &(u32, u64)| (*rank, bytes.saturating_sub(taken.get(rank).copied().unwrap_or(0)));
        lock(&self.outgoing.view).room = self.rooms.iter().map(left).collect();
    }

    /// Says in the report when training will go on. Made at the cut: only then is it known what there is to send.
    pub(super) fn predict(&self, context: &Context, now: Time) {
        let Some(planned) = self.planned else { return };
        let planned = planned.after(self.session.plan().sent).since(now);
        let (so_far, left) = (now.since(self.timeline.start()), self.left(context, planned));
        tracing::debug!(migration = %self.migration, ?left, pace = ?self.pace, "predicted");
        let mut view = lock(&self.outgoing.view);
        view.report.resume_parts_s = self.pace.parts_s(so_far, &left, &self.take_over);
        view.report.predicted_range_s = Some(self.pace.range_s(so_far, &left, &self.take_over));
    }

    /// What is still to come by the latest plan, which takes `planned` for it.
    fn left(&self, context: &Context, planned: Duration) -> Left {
        let plan = self.session.plan();
        let waiting = plan.order.iter().filter(|item| !self.under_way.contains(item) && !self.landed.contains(item));
        let mut bytes = BTreeMap::new();
        for (item, _) in waiting.chain(&self.under_way).filter_map(|item| self.items.get(item)) {
            *bytes.entry(item.target).or_default() += self.session.missing_bytes(item.id).unwrap_or(item.bytes);
        }
        let (link, limit) = (measured(context, &self.targets), context.endpoint.egress_limit());
        Left { planned, link, bytes, limit, forwards: self.forwards() }
    }

    /// What becomes of forwards by the latest plan.
    fn forwards(&self) -> BTreeMap<u32, Forwards> {
        let kept: HashSet<ItemId> = self.session.plan().recompute.iter().copied().collect();
        forwards(self.session.manifest().items().iter().map(|item| (item, kept.contains(&item.id))))
    }

    /// All that is offered, as a file that `xfer plan --manifest` reads.
    pub(crate) fn manifest(&self, context: &Context, now: Time, progress: Progress) -> String {
        let (meanwhile, after) = self.take_over.most(&self.forwards());
        let handling =
            Handling { meanwhile_s: meanwhile.as_secs_f64(), after_s: after.as_secs_f64(), ..Handling::default() };
        xfer_plan::manifest::write(
            self.session.manifest(),
            &self.live(context, now, progress, handling),
            self.group_names(),
        )
    }

    /// Which of the ways that are open loses least, if all that is offered and `prospects` leave.
    pub(crate) fn weigh(
        &self,
        context: &Context,
        now: Time,
        progress: Progress,
        handling: Handling,
        open: &[Mode],
        prospects: Vec<Prospect>,
    ) -> Result<Option<Choice>, OfferError> {
        let live = self.live(context, now, progress, handling);
        let departure = xfer_plan::manifest::departure(self.session.manifest(), &live, self.group_names(), prospects);
        let departure = departure.map_err(|error| OfferError::Plan(error.to_string()))?;
        xfer_plan::choose(&departure, open).map_err(|error| OfferError::Plan(error.to_string()))
    }

    fn group_names(&self) -> impl Fn(GroupId) -> String {
        let names: BTreeMap<u32, &str> = self.groups.iter().map(|(name, group)| (group.0, name.as_str())).collect();
        move |group| names.get(&group.0).map_or_else(|| format!("group {}", group.0), |name| (*name).to_owned())
    }

    fn live(&self, context: &Context, now: Time, progress: Progress, handling: Handling) -> Live {
        let rate = rate(context, &self.targets);
        Live {
            leaving: self.migration.source.rank,
            notice_s: self.deadline.left(now).as_secs_f64(),
            rate: (rate.low as f64, rate.high as f64),
            progress,
            handling: Handling {
                digest_bytes_per_s: self.pace.digest_bytes_per_s(),
                commit_s: self.pace.commit().as_secs_f64(),
                ..handling
            },
            memory_bytes: self.rooms.clone(),
        }
    }
}

/// What the links to all targets can be expected to carry together.
pub(super) fn rate(context: &Context, targets: &[u32]) -> RateInterval {
    let limit = context.endpoint.egress_limit();
    measured(context, targets).map_or_else(|| RATE_UNKNOWN.limited(limit), |measured| measured.expected(limit))
}

/// What was measured of them, as far as they were busy.
pub(super) fn measured(context: &Context, targets: &[u32]) -> Option<Measured> {
    let measured = targets.iter().filter_map(|rank| context.endpoint.measured(context.endpoint.peer(*rank)?));
    measured.reduce(Measured::and)
}
