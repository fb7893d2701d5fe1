//! One migration from this process: its session, its memory and its writes.

mod outlook;
mod rest;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;

use xfer_migrate_core::session::{Event, Input, Output, SourceConfig, SourceConfigError, SourceSession, SourceState};
use xfer_migrate_core::{GenerationRecord, GroupId, Item, ItemId, MigrationId, PlanPolicy, RecomputeCost};
use xfer_transport::{Landed, Region, TransferError, TransferHandle, Transferred};
use xfer_transport_core::{Deadline, Measured, PeerId, RateInterval, RemoteRegion, Time};

use self::outlook::{measured, rate};
use crate::driver::{Context, Job};
use crate::forecast::Pace;
use crate::migrations::{OfferError, Outgoing, Shared, View, lock};
use crate::outcome::{MigrationError, Outcome};
use crate::report::{Busy, Ends, Moved, Timeline};
use crate::rescue::{Cost, HandOver, Rescue};
use crate::takeover::TakeOvers;
use crate::trace::{Ended, Trace, Trip};

/// Kept free before the deadline, for digests, seals and the commit: a few round trips, and the machine may be gone early.
const RESERVE: Duration = Duration::from_millis(250);

/// One migration from this process.
pub(crate) struct SourceRun {
    migration: MigrationId,
    session: SourceSession,
    deadline: Deadline,
    targets: Vec<u32>,
    outgoing: Outgoing,
    names: HashMap<String, ItemId>,
    groups: HashMap<String, GroupId>,
    items: HashMap<ItemId, (Item, Region)>,
    /// The transfers of each item that is written.
    writes: HashMap<ItemId, Vec<TransferHandle>>,
    told: Option<RateInterval>,
    /// When the latest plan was made.
    planned: Option<Time>,
    pace: Pace,
    /// When a target was told that an item is written.
    told_at: HashMap<ItemId, Time>,
    take_over: TakeOvers,
    /// What targets have room for, in bytes, where they have said so.
    rooms: Vec<(u32, u64)>,
    /// How many items the plan in the report is about.
    planned_items: usize,
    moved: BTreeMap<&'static str, Moved>,
    /// What has left and neither landed nor failed.
    under_way: HashSet<ItemId>,
    landed: HashSet<ItemId>,
    busy: Busy,
    timeline: Timeline,
    ends: Ends,
    trips: Vec<Trip>,
    /// Where an item's latest trip is in `trips`.
    trip_of: HashMap<ItemId, usize>,
    over: bool,
    /// Whether its end was told.
    told_end: bool,
}

impl SourceRun {
    pub(crate) fn new(
        context: &Context,
        shared: &Arc<Shared>,
        migration: MigrationId,
        generation: &GenerationRecord,
        hand_over: HandOver,
        now: Time,
    ) -> Result<Self, SourceConfigError> {
        let deadline = Deadline::after(now, hand_over.time_left);
        let targets = hand_over.targets.clone();
        let config = SourceConfig {
            source: migration.source,
            attempt: migration.attempt,
            base: generation.clone(),
            targets: hand_over.targets,
            owners_after: hand_over.owners_after,
            deadline,
            rate: rate(context, &targets),
            reserve: RESERVE,
            // A target computes once the layers are its own: before the commit it has nothing to compute with.
            policy: PlanPolicy::SendThenCompute,
        };
        let session = SourceSession::new(now, config)?;
        let view = Arc::new(Mutex::new(View::default()));
        lock(&view).report.side = "source";
        Ok(Self {
            migration,
            session,
            deadline,
            targets,
            outgoing: Outgoing { jobs: shared.jobs.clone(), view, bell: Arc::clone(&shared.bell) },
            names: HashMap::new(),
            groups: HashMap::new(),
            items: HashMap::new(),
            writes: HashMap::new(),
            told: None,
            planned: None,
            pace: Pace::new(context.store_answers_in),
            told_at: HashMap::new(),
            take_over: TakeOvers::default(),
            rooms: Vec::new(),
            planned_items: 0,
            moved: BTreeMap::new(),
            under_way: HashSet::new(),
            landed: HashSet::new(),
            busy: Busy::default(),
            timeline: Timeline::new(now),
            ends: Ends::default(),
            trips: Vec::new(),
            trip_of: HashMap::new(),
            over: false,
            told_end: false,
        })
    }

    pub(crate) fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }

    /// Whether another one must wait for it. One that could not learn how it ended holds up nobody: if it was decided
    /// after all, the next one is refused by the store's generation.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.over && self.session.state() != SourceState::Failed
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        (!self.over).then(|| self.session.poll_timeout()).flatten()
    }

    pub(crate) fn offer(&mut self, now: Time, rescues: Vec<Rescue>) -> Result<(), OfferError> {
        let numbered = self.number(rescues)?;
        let items = numbered.iter().map(|(item, _)| item.clone()).collect();
        self.session.handle(now, Input::Items(items)).map_err(OfferError::Refused)?;
        for (item, region) in numbered {
            self.names.insert(item.name.to_string(), item.id);
            self.items.insert(item.id, (item, region));
        }
        self.show_room();
        Ok(())
    }

    pub(crate) fn cut(
        &mut self,
        context: &Context,
        now: Time,
        record: Bytes,
        take_over: TakeOvers,
    ) -> Result<(), OfferError> {
        self.session.handle(now, Input::Cut { record }).map_err(OfferError::Refused)?;
        self.timeline.end("cut", now);
        self.take_over = take_over;
        self.ends.cut = Some(now);
        self.predict(context, now);
        Ok(())
    }

    pub(crate) fn withdraw(&mut self, now: Time) -> Result<(), OfferError> {
        let reason = "the notice was withdrawn".to_owned();
        self.session.handle(now, Input::Withdraw { reason }).map_err(OfferError::Refused)
    }

    pub(crate) fn deadline_moved(&mut self, now: Time, deadline: Deadline) {
        self.deadline = self.deadline.min(deadline);
        self.input(now, Input::Notice { deadline });
    }

    pub(crate) fn input(&mut self, now: Time, input: Input) {
        if let Err(violation) = self.session.handle(now, input) {
            tracing::warn!(migration = %self.migration, %violation, "ignored");
        }
    }

    /// Which attempt this is: what comes late of an earlier one is about other items.
    pub(crate) fn migration(&self) -> MigrationId {
        self.migration
    }

    pub(crate) fn written(
        &mut self,
        context: &Context,
        now: Time,
        item: ItemId,
        result: Result<Transferred, TransferError>,
    ) {
        self.writes.remove(&item);
        let Some((about, region)) = self.items.get(&item) else { return };
        self.busy.end(about.class, now);
        match result {
            // Each chunk was sound when it left. That all of them are of one moment only shows when they are read again: a training
            // loop that writes meanwhile would leave half a step.
            Ok(moved) => {
                let (migration, region, crc32c) = (self.migration, region.clone(), moved.crc32c);
                let endpoint = context.endpoint.clone();
                let compared = move |unchanged, took| Some(Job::Compared { migration, item, moved, unchanged, took });
                let otherwise = compared.clone();
                let compare = move || {
                    let began = endpoint.now();
                    let unchanged = region.crc32c() == crc32c;
                    compared(unchanged, endpoint.now().since(began))
                };
                context.memory_worker.run(compare, move |_| otherwise(false, Duration::ZERO));
            }
            Err(error) => {
                let retry = matches!(error, TransferError::Damaged { .. });
                self.under_way.remove(&item);
                self.input(now, Input::WriteFailed { item, retry, reason: error.to_string() });
            }
        }
    }

    /// What was written was compared with what is there now.
    pub(crate) fn compared(&mut self, now: Time, item: ItemId, moved: &Transferred, unchanged: bool, took: Duration) {
        self.timeline.reach("stream", now);
        self.ends.written = Some(now);
        if let Some((about, _)) = self.items.get(&item) {
            self.pace.digested(about.bytes, took);
            self.told_at.insert(item, now);
        }
        let mut view = lock(&self.outgoing.view);
        for (backend, bytes) in &moved.over {
            *view.report.path.entry(backend.to_string()).or_default() += bytes;
        }
        view.report.retried_chunks += u64::from(moved.retried_chunks);
        drop(view);
        if unchanged {
            self.input(now, Input::Written { item, crc32c: moved.crc32c });
        } else {
            self.under_way.remove(&item);
            let reason = "its memory changed while it was sent; protect it again after every update".to_owned();
            self.input(now, Input::WriteFailed { item, retry: true, reason });
        }
    }

    /// Lets time pass, and does what the session says until it says nothing more.
    pub(crate) fn turn(&mut self, context: &Context, now: Time) {
        if self.over && self.writes.is_empty() {
            return;
        }
        self.measure(context, now);
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        while let Some(output) = self.session.poll_output(now) {
            self.perform(context, now, output);
        }
        while let Some(event) = self.session.poll_event() {
            self.note(now, event);
        }
        let mut view = lock(&self.outgoing.view);
        view.report.moved.clone_from(&self.moved);
        view.report.phases_s = self.timeline.phases_s();
        if view.outcome.is_some() && !self.told_end {
            self.told_end = true;
            context.ended(|| Ended { report: view.report.clone(), trace: self.trace() });
        }
    }

    fn trace(&self) -> Trace {
        Trace { source: self.migration.source.rank, phases: self.timeline.phases(), trips: self.trips.clone() }
    }

    /// Gives items numbers, and their inputs and groups too.
    fn number(&mut self, rescues: Vec<Rescue>) -> Result<Vec<(Item, Region)>, OfferError> {
        let mut fresh: HashMap<&str, ItemId> = HashMap::new();
        for (index, rescue) in rescues.iter().enumerate() {
            let id = ItemId((self.items.len() + index) as u64);
            if self.names.contains_key(&rescue.name) || fresh.insert(&rescue.name, id).is_some() {
                return Err(OfferError::DuplicateName(rescue.name.clone()));
            }
        }
        let known = |name: &str| fresh.get(name).or_else(|| self.names.get(name)).copied();
        let mut costs = Vec::with_capacity(rescues.len());
        for rescue in &rescues {
            costs.push(match &rescue.cost {
                Cost::Irreplaceable => RecomputeCost::Irreplaceable,
                Cost::Compute { time, from } => {
                    let input = |input: &String| {
                        known(input)
                            .ok_or_else(|| OfferError::UnknownInput { item: rescue.name.clone(), input: input.clone() })
                    };
                    RecomputeCost::Compute { time: *time, from: from.iter().map(input).collect::<Result<_, _>>()? }
                }
            });
        }
        let first = self.items.len();
        let items = rescues.into_iter().zip(costs).enumerate().map(|(index, (rescue, cost))| {
            let item = Item {
                id: ItemId((first + index) as u64),
                name: rescue.name.into(),
                class: rescue.class,
                bytes: rescue.region.len_bytes(),
                version: rescue.version,
                target: rescue.target,
                group: self.group(rescue.group),
                cost,
            };
            (item, rescue.region)
        });
        Ok(items.collect())
    }

    fn group(&mut self, name: String) -> GroupId {
        if name.is_empty() {
            return GroupId::ALONE;
        }
        let next = GroupId(self.groups.len() as u32 + 1);
        *self.groups.entry(name).or_insert(next)
    }

    /// Tells the session what its links carry, when that is measured anew.
    fn measure(&mut self, context: &Context, now: Time) {
        let landing = |measured: Measured| Measured { rate: self.pace.landing_within(measured.rate), ..measured };
        let limit = context.endpoint.egress_limit();
        let rate = measured(context, &self.targets).map(|measured| landing(measured).expected(limit));
        if let Some(rate) = rate.filter(|_| rate != self.told) {
            self.told = Some(rate);
            self.input(now, Input::Rate(rate));
        }
    }

    fn perform(&mut self, context: &Context, now: Time, output: Output) {
        match output {
            Output::Send { to, message } => match context.endpoint.peer(to) {
                Some(peer) => context.send(peer, &message),
                None => {
                    let peer = PeerId { rank: to, incarnation: 0 };
                    self.input(now, Input::PeerGone { peer, reason: "it is not connected".into() });
                }
            },
            Output::Compare { item, kept } => self.compare(context, item, kept),
            Output::Write { item, to, remote, there } => self.write(context, now, item, (to, remote, there)),
            Output::Withdraw { item } => {
                if let Some(writes) = self.writes.get(&item).cloned() {
                    // The fence takes a round trip; how it ends is told by the write's own end.
                    let cancel = move || {
                        writes.iter().for_each(|write| drop(write.cancel()));
                        None
                    };
                    context.memory_worker.run(cancel, |_| None);
                }
            }
            Output::Propose { record } => context.propose(record),
            Output::Allocate { .. }
            | Output::Verify { .. }
            | Output::FenceAll
            | Output::PublishSeal { .. }
            | Output::WatchSeals { .. } => tracing::error!(?output, "a source was told to act as a target"),
        }
    }

    fn write(&mut self, context: &Context, now: Time, item: ItemId, (to, remote, there): (u32, RemoteRegion, Landed)) {
        let (Some(peer), Some((about, region))) = (context.endpoint.peer(to), self.items.get(&item)) else {
            self.input(now, Input::WriteFailed { item, retry: false, reason: format!("rank {to} is not connected") });
            return;
        };
        self.timeline.end("first byte", now);
        self.busy.start(about.class, now);
        self.pace.leaves(about.target, now);
        self.under_way.insert(item);
        self.trip_of.insert(item, self.trips.len());
        self.trips.push(Trip {
            name: about.name.to_string(),
            class: about.class.name(),
            to,
            bytes: about.bytes - there.bytes(),
            left: Some(now),
            landed: None,
        });
        let (jobs, migration): (mpsc::Sender<Job>, _) = (context.jobs.clone(), self.migration);
        let done = move |result| {
            // A driver that has ended waits for no write.
            let _ = jobs.send(Job::Written { migration, item, result });
        };
        let writes = rest::write(&context.endpoint, peer, (region, remote, &there), self.deadline, Box::new(done));
        self.writes.insert(item, writes);
    }

    /// Reads what a target says that it has of an item.
    fn compare(&mut self, context: &Context, item: ItemId, kept: Landed) {
        let (migration, endpoint) = (self.migration, context.endpoint.clone());
        let region = self.items.get(&item).map(|(_, region)| region.clone());
        let compare = move || {
            let began = endpoint.now();
            let there = region.map(|region| region.all().matching(&kept, 0)).unwrap_or_default();
            Some(Job::Found { migration, item, there, took: endpoint.now().since(began) })
        };
        let nothing = move |_| Some(Job::Found { migration, item, there: Landed::default(), took: Duration::ZERO });
        context.memory_worker.run(compare, nothing);
    }

    /// So much of an item is at its target.
    pub(crate) fn found(&mut self, now: Time, item: ItemId, there: Landed, took: Duration) {
        self.pace.digested(there.bytes(), took);
        self.input(now, Input::Compared { item, there });
    }

    fn note(&mut self, now: Time, event: Event) {
        match event {
            Event::Planned { verdict } => {
                let plan = self.session.plan();
                let (rate, sent, kept) = (self.told, plan.order.len(), plan.recompute.len());
                tracing::debug!(migration = %self.migration, ?verdict, ?rate, sent, kept, "planned");
                let mut view = lock(&self.outgoing.view);
                self.planned = Some(now);
                // Later plans are about what is left; people want to see the one about everything.
                if plan.rows.len() >= self.planned_items {
                    self.planned_items = plan.rows.len();
                    view.report.plan = plan.to_string();
                }
                view.report.skipped = plan.recompute.iter().map(|id| self.name(*id)).collect();
            }
            Event::Granted => self.timeline.end("grants", now),
            Event::Landed { item } => {
                if let Some(told_at) = self.told_at.remove(&item) {
                    self.pace.answered(now.since(told_at));
                }
                self.under_way.remove(&item);
                // What was there has not come over the link.
                let came = self.session.missing_bytes(item).filter(|bytes| *bytes > 0);
                if let Some(((about, _), bytes)) = self.items.get(&item).zip(came) {
                    let target = |other: &ItemId| self.items.get(other).map(|(item, _)| item.target);
                    let more = self.under_way.iter().any(|other| target(other) == Some(about.target));
                    self.pace.landed(about.target, bytes, now, (!self.under_way.is_empty(), more));
                }
                self.ends.landed = Some(now);
                self.count(now, item);
            }
            Event::Committed { record } | Event::Restored { record } | Event::Withdrawn { record } => {
                self.timeline.end("decision", now);
                // The store may be quicker than the targets' own word.
                record.landed.iter().for_each(|item| self.count(now, *item));
                let parts = self.ends.parts_s(self.timeline.start(), now);
                lock(&self.outgoing.view).report.measured_parts_s = parts;
                let outcome = Outcome::new(&record, self.migration.source.rank, |id| self.name(id));
                self.end(outcome.ok_or_else(|| self.abandoned("the store went back to its first generation")));
            }
            Event::Superseded { record } => {
                self.end(Err(self.abandoned(&format!("generation {} came first", record.generation))));
            }
            // Not over: a generation that is seen later still counts.
            Event::Failed { reason } => {
                let source_rank = self.migration.source.rank;
                lock(&self.outgoing.view).conclude(Err(MigrationError::StoreLost { source_rank, reason }));
            }
            Event::Refused { by, reason } => tracing::warn!(migration = %self.migration, by, reason, "refused"),
            Event::TargetLost { rank, reason } => {
                tracing::warn!(migration = %self.migration, rank, reason, "target lost")
            }
            Event::Expired => tracing::warn!(migration = %self.migration, "the deadline passed before a decision"),
            Event::Damaged { item } => {
                self.under_way.remove(&item);
                tracing::warn!(item = self.name(item), "arrived damaged; sent again");
            }
            Event::Cut | Event::Sealed { .. } => {}
        }
    }

    /// An item landed, as its target or the store says: whoever is first counts.
    fn count(&mut self, now: Time, item: ItemId) {
        let Some((about, _)) = self.items.get(&item).filter(|_| self.landed.insert(item)) else { return };
        let moved = self.moved.entry(about.class.name()).or_default();
        moved.items += 1;
        moved.bytes += about.bytes;
        moved.busy_s = self.busy.seconds(about.class.name(), now);
        if let Some(trip) = self.trip_of.get(&item) {
            self.trips[*trip].landed = Some(now);
        }
        let kept_bytes = about.bytes - self.session.missing_bytes(item).unwrap_or(about.bytes);
        let report = &mut lock(&self.outgoing.view).report;
        report.order.push(about.name.to_string());
        report.kept_bytes += kept_bytes;
    }

    fn name(&self, id: ItemId) -> String {
        self.items.get(&id).map_or_else(|| id.to_string(), |(item, _)| item.name.to_string())
    }

    fn abandoned(&self, reason: &str) -> MigrationError {
        MigrationError::Abandoned { source_rank: self.migration.source.rank, reason: reason.to_owned() }
    }

    fn end(&mut self, outcome: Result<Outcome, MigrationError>) {
        self.over = true;
        let mut view = lock(&self.outgoing.view);
        view.report.moved.clone_from(&self.moved);
        view.report.phases_s = self.timeline.phases_s();
        view.conclude(outcome);
    }
}
