//! One migration to this process: its session, the memory that it granted, and what landed there.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use xfer_migrate_core::session::{Event, Input, Output, TargetConfig, TargetSession};
use xfer_migrate_core::{GenerationKind, GenerationRecord, Item, ItemId, MigrationId, Seal};
use xfer_transport::{Endpoint, Grant, Landed, Region};
use xfer_transport_core::{PeerId, Time};

use crate::driver::{Context, Job};
use crate::kept::{Kept, KeptMemory};
use crate::migrations::{Incoming, Shared, View, lock};
use crate::outcome::{MigrationError, Outcome};
use crate::pause;
use crate::report::{Moved, Timeline};
use crate::store::{Store, Swap, Version};
use crate::trace::{Ended, Trace, Trip};
use crate::watch::{WATCH, look};

/// One migration to this process.
pub(crate) struct TargetRun {
    migration: MigrationId,
    session: TargetSession,
    incoming: Incoming,
    memory: HashMap<ItemId, Region>,
    /// What was asked for, for items that landed or may land.
    asked_bytes: u64,
    /// What the source may still write into; emptied by the fence.
    grants: HashMap<ItemId, Grant>,
    fenced: bool,
    /// How many bytes of an item came from the source, by the time it was compared.
    received: HashMap<ItemId, u64>,
    /// Whether it ended in such a way that its source may try again, with the same items.
    may_come_again: bool,
    moved: BTreeMap<&'static str, Moved>,
    timeline: Timeline,
    trips: Vec<Trip>,
    over: Arc<AtomicBool>,
    /// Whether its end was told.
    told_end: bool,
}

impl TargetRun {
    pub(crate) fn new(
        context: &Context,
        shared: &Arc<Shared>,
        migration: MigrationId,
        base: GenerationRecord,
        memory_bytes: u64,
        now: Time,
    ) -> Self {
        let config = TargetConfig { me: context.endpoint.id(), migration, base, memory_bytes };
        let view = Arc::new(Mutex::new(View::default()));
        lock(&view).report.side = "target";
        Self {
            migration,
            session: TargetSession::new(config),
            incoming: Incoming { source: migration.source.rank, view, bell: Arc::clone(&shared.bell) },
            memory: HashMap::new(),
            asked_bytes: 0,
            grants: HashMap::new(),
            fenced: false,
            received: HashMap::new(),
            may_come_again: false,
            moved: BTreeMap::new(),
            timeline: Timeline::new(now),
            trips: Vec::new(),
            told_end: false,
            over: Arc::new(AtomicBool::new(false)),
        }
    }

    pub(crate) fn incoming(&self) -> Incoming {
        self.incoming.clone()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.session.poll_timeout()
    }

    /// What it takes for items that landed or may land.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.asked_bytes
    }

    /// Gives what has landed to `kept`, if its source may come again with it.
    pub(crate) fn leave(mut self, kept: &mut Kept, now: Time) {
        // Mostly the fence has ended them.
        self.grants.clear();
        if !self.may_come_again {
            return;
        }
        let (source, until) = (self.migration.source.rank, self.session.deadline().0);
        for item in self.session.manifest().items() {
            let region = self.memory.remove(&item.id);
            if let Some(memory) = region.and_then(|region| KeptMemory::of(region, &self.incoming.view)) {
                kept.keep(source, item, memory, (now, until), drop);
            }
        }
    }

    pub(crate) fn input(&mut self, now: Time, input: Input) {
        if let Err(violation) = self.session.handle(now, input) {
            tracing::warn!(migration = %self.migration, %violation, "ignored");
        }
    }

    pub(crate) fn allocated(&mut self, now: Time, memory: Result<Vec<Allocated>, String>) {
        match memory {
            Ok(memory) => {
                let grants = memory.iter().map(|of| (of.item, of.grant.remote())).collect();
                let there = memory.iter().filter(|of| !of.landed.is_empty());
                let items: Vec<_> = there.map(|of| (of.item, of.landed.clone())).collect();
                // After the fence nothing may be granted any more: then these grants end here, before anybody heard of them.
                if !self.fenced {
                    for Allocated { item, region, grant, .. } in memory {
                        self.memory.insert(item, region);
                        self.grants.insert(item, grant);
                    }
                }
                if !items.is_empty() {
                    self.input(now, Input::Kept { items });
                }
                self.input(now, Input::Allocated { grants });
            }
            Err(reason) => self.input(now, Input::AllocationFailed { reason }),
        }
    }

    pub(crate) fn verified(&mut self, now: Time, item: ItemId, crc32c: u32, ok: bool) {
        self.timeline.reach("stream", now);
        self.input(now, Input::Verified { item, crc32c, ok });
    }

    /// Lets time pass, and does what the session says until it says nothing more. `kept` and other migrations, which take
    /// `others_bytes`, share this process's memory with it.
    pub(crate) fn turn(&mut self, context: &Context, kept: &mut Kept, others_bytes: u64, now: Time) {
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        while let Some(output) = self.session.poll_output(now) {
            self.perform(context, kept, others_bytes, now, output);
        }
        while let Some(event) = self.session.poll_event() {
            // What was not offered to this process by now isn't wanted from it any more.
            if event == Event::Cut {
                kept.forget(self.migration.source.rank, drop);
            }
            self.note(now, event);
        }
        let mut view = lock(&self.incoming.view);
        let me = context.endpoint.id().rank;
        let mine = self.session.manifest().items().iter().filter(|item| item.target == me);
        if mine.clone().count() != view.items.len() {
            view.items = mine.cloned().collect();
        }
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

    fn perform(&mut self, context: &Context, kept: &mut Kept, others_bytes: u64, now: Time, output: Output) {
        let migration = self.migration;
        let rank = context.endpoint.id().rank;
        match output {
            Output::Send { to, message } => {
                // Only ever to the source; if it is gone, the session learns that by its own event.
                if let Some(peer) = context.endpoint.peer(to) {
                    context.send(peer, &message);
                }
            }
            Output::Allocate { items } => {
                self.asked_bytes += items.iter().map(|(_, bytes)| bytes).sum::<u64>();
                let wanted = self.wanted(items, kept, now);
                let spare_bytes =
                    context.memory_limit_bytes.saturating_sub(others_bytes).saturating_sub(self.asked_bytes);
                kept.shrink_to(spare_bytes, drop);
                let endpoint = context.endpoint.clone();
                let allocate = move || {
                    pause::at("register", rank);
                    Some(Job::Allocated { migration, memory: allocate(&endpoint, migration.source, wanted) })
                };
                context
                    .memory_worker
                    .run(allocate, move |reason| Some(Job::Allocated { migration, memory: Err(reason) }));
            }
            Output::Verify { item, crc32c } => {
                let region = self.memory.get(&item).cloned();
                if let Some(grant) = self.grants.get(&item) {
                    self.received.insert(item, grant.received());
                }
                let verified = move |ok| Some(Job::Verified { migration, item, crc32c, ok });
                let verify = move || {
                    pause::at("verify", rank);
                    verified(region.is_some_and(|region| region.crc32c() == crc32c))
                };
                // What nobody has verified isn't there: it is asked for again.
                context.memory_worker.run(verify, move |_| verified(false));
            }
            Output::FenceAll => {
                self.fenced = true;
                let grants = std::mem::take(&mut self.grants);
                let fence = move || {
                    drop(grants);
                    Some(Job::Fenced { migration })
                };
                // Without the proof that nobody writes any more there is nothing to seal: others decide.
                context.memory_worker.run(fence, |_| None);
            }
            Output::PublishSeal { key, seal } => {
                let store = Arc::clone(&context.store);
                let publish = move || match publish(&*store, &key, &seal) {
                    Ok(seal) => Some(Job::SealSeen { migration, seal }),
                    Err(reason) => Some(Job::StoreLost { reason }),
                };
                context.store_worker.run(publish, |reason| Some(Job::StoreLost { reason }));
            }
            Output::WatchSeals { keys } => {
                for key in keys {
                    self.watch_seal(context, now, key);
                }
            }
            Output::Propose { record } => context.propose(record),
            Output::Compare { .. } | Output::Write { .. } | Output::Withdraw { .. } => {
                tracing::error!(?output, "a target was told to act as a source");
            }
        }
    }

    /// What is kept of each item, which is this migration's from now on.
    fn wanted(&self, items: Vec<(ItemId, u64)>, kept: &mut Kept, now: Time) -> Vec<Wanted> {
        let manifest = self.session.manifest();
        let mut kept_of = |item: &Item| {
            let found = kept.take(self.migration.source.rank, item, now, drop)?;
            Some((Arc::clone(&item.name), found))
        };
        items.into_iter().map(|(id, bytes)| (id, bytes, manifest.get(id).and_then(&mut kept_of))).collect()
    }

    fn watch_seal(&mut self, context: &Context, now: Time, key: String) {
        let (store, jobs, over) = (Arc::clone(&context.store), context.jobs.clone(), Arc::clone(&self.over));
        let migration = self.migration;
        let watch = move || {
            while !over.load(Ordering::Relaxed) {
                match seal_at(&*store, &key) {
                    Ok(Some(seal)) => {
                        let _ = jobs.send(Job::SealSeen { migration, seal });
                        return;
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        if jobs.send(Job::StoreLost { reason }).is_err() {
                            return;
                        }
                        thread::sleep(WATCH);
                    }
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("xfer-seal".into()).spawn(watch) {
            self.input(now, Input::StoreLost { reason: format!("no thread to watch for seals: {error}") });
        }
    }

    fn note(&mut self, now: Time, event: Event) {
        match event {
            Event::Granted => self.timeline.end("grants", now),
            Event::Landed { item } => {
                let Some(about) = self.session.manifest().get(item) else { return };
                let moved = self.moved.entry(about.class.name()).or_default();
                moved.items += 1;
                moved.bytes += about.bytes;
                let received = self.received.get(&item).copied().unwrap_or(about.bytes);
                let kept_bytes = about.bytes.saturating_sub(received);
                self.trips.push(Trip {
                    name: about.name.to_string(),
                    class: about.class.name(),
                    to: about.target,
                    bytes: about.bytes,
                    left: None,
                    landed: Some(now),
                });
                let mut view = lock(&self.incoming.view);
                view.report.order.push(about.name.to_string());
                view.report.kept_bytes += kept_bytes;
                if let Some(region) = self.memory.get(&item) {
                    view.landed.insert(about.name.to_string(), region.clone());
                }
            }
            Event::Cut => self.timeline.end("cut", now),
            Event::Sealed { landed, missing } => {
                self.timeline.end("seal", now);
                tracing::debug!(migration = %self.migration, landed, missing, "sealed");
            }
            Event::Committed { record } | Event::Restored { record } | Event::Withdrawn { record } => {
                self.timeline.end("decision", now);
                self.may_come_again = record.kind == GenerationKind::Withdrawn;
                let manifest = self.session.manifest();
                let name = |id| manifest.get(id).map_or_else(|| id.to_string(), |item| item.name.to_string());
                let outcome = Outcome::new(&record, self.migration.source.rank, name);
                self.end(outcome.ok_or_else(|| self.abandoned("the store went back to its first generation")));
            }
            Event::Superseded { record } => {
                self.may_come_again = record.kind != GenerationKind::Restore;
                self.end(Err(self.abandoned(&format!("generation {} came first", record.generation))));
            }
            Event::Refused { by, reason } => {
                let source_rank = self.migration.source.rank;
                self.may_come_again = true;
                self.end(Err(MigrationError::Refused { source_rank, by, reason }));
            }
            // Not over: a generation that is seen later still counts.
            Event::Failed { reason } => {
                let source_rank = self.migration.source.rank;
                lock(&self.incoming.view).conclude(Err(MigrationError::StoreLost { source_rank, reason }));
            }
            Event::Damaged { item } => tracing::warn!(%item, "arrived damaged"),
            Event::Planned { .. } | Event::TargetLost { .. } | Event::Expired => {}
        }
    }

    fn abandoned(&self, reason: &str) -> MigrationError {
        MigrationError::Abandoned { source_rank: self.migration.source.rank, reason: reason.to_owned() }
    }

    fn end(&mut self, outcome: Result<Outcome, MigrationError>) {
        self.over.store(true, Ordering::Relaxed);
        let mut view = lock(&self.incoming.view);
        view.report.moved.clone_from(&self.moved);
        view.report.phases_s = self.timeline.phases_s();
        view.conclude(outcome);
    }
}

/// An item that is to land, its length, and what is kept of it.
type Wanted = (ItemId, u64, Option<(Arc<str>, KeptMemory)>);

/// Memory that was granted for an item, and what of it is there already.
pub(crate) struct Allocated {
    item: ItemId,
    region: Region,
    grant: Grant,
    landed: Landed,
}

/// Memory for each item, granted to the source: what an earlier attempt has left, or new memory. The source waits for it, so its pages
/// come as its bytes do.
fn allocate(endpoint: &Endpoint, source: PeerId, wanted: Vec<Wanted>) -> Result<Vec<Allocated>, String> {
    let allocate = |(item, len_bytes, kept): Wanted| {
        let (region, landed) = match kept.and_then(|(name, kept)| kept.claim(&name)) {
            Some(claimed) => claimed,
            None => (Region::reserve(len_bytes).map_err(|error| error.to_string())?, Landed::default()),
        };
        let grant = endpoint.grant(&region, source).map_err(|error| error.to_string())?;
        Ok(Allocated { item, region, grant, landed })
    };
    wanted.into_iter().map(allocate).collect()
}

/// Creates the seal, or finds the one that an earlier call has created.
fn publish(store: &dyn Store, key: &str, seal: &Seal) -> Result<Seal, String> {
    match store.compare_and_swap(key, Version::ABSENT, seal.encode()).map_err(|error| error.to_string())? {
        Swap::Won(_) => Ok(seal.clone()),
        Swap::Lost(found) => Seal::decode(&found.value).map_err(|error| error.to_string()),
    }
}

fn seal_at(store: &dyn Store, key: &str) -> Result<Option<Seal>, String> {
    match look(store, key, Version::ABSENT).map_err(|error| error.to_string())? {
        Some(found) => Seal::decode(&found.value).map(Some).map_err(|error| error.to_string()),
        None => Ok(None),
    }
}
