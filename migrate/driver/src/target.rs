//! One migration to this process: its session, the memory that it granted, and what landed there.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use xfer_migrate_core::session::{Event, Input, Output, TargetConfig, TargetSession};
use xfer_migrate_core::{GenerationRecord, ItemId, MigrationId, Seal};
use xfer_transport::{Endpoint, Grant, Region};
use xfer_transport_core::{PeerId, Time};

use crate::driver::{Context, Job};
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
    /// What the source may still write into; emptied by the fence.
    grants: HashMap<ItemId, Grant>,
    fenced: bool,
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
            grants: HashMap::new(),
            fenced: false,
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

    /// What it holds for items that landed or may land.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.values().map(Region::len_bytes).sum()
    }

    pub(crate) fn input(&mut self, now: Time, input: Input) {
        if let Err(violation) = self.session.handle(now, input) {
            tracing::warn!(migration = %self.migration, %violation, "ignored");
        }
    }

    pub(crate) fn allocated(&mut self, now: Time, memory: Result<Vec<(ItemId, Region, Grant)>, String>) {
        match memory {
            Ok(memory) => {
                let grants = memory.iter().map(|(item, _, grant)| (*item, grant.remote())).collect();
                // After the fence nothing may be granted any more: then these grants end here, before anybody heard of them.
                if !self.fenced {
                    for (item, region, grant) in memory {
                        self.memory.insert(item, region);
                        self.grants.insert(item, grant);
                    }
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

    /// Lets time pass, and does what the session says until it says nothing more.
    pub(crate) fn turn(&mut self, context: &Context, now: Time) {
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        while let Some(output) = self.session.poll_output(now) {
            self.perform(context, now, output);
        }
        while let Some(event) = self.session.poll_event() {
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

    fn perform(&mut self, context: &Context, now: Time, output: Output) {
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
                let endpoint = context.endpoint.clone();
                let allocate = move || {
                    pause::at("register", rank);
                    Some(Job::Allocated { migration, memory: allocate(&endpoint, migration.source, items) })
                };
                context
                    .memory_worker
                    .run(allocate, move |reason| Some(Job::Allocated { migration, memory: Err(reason) }));
            }
            Output::Verify { item, crc32c } => {
                let region = self.memory.get(&item).cloned();
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
            Output::Write { .. } | Output::Withdraw { .. } => {
                tracing::error!(?output, "a target was told to act as a source");
            }
        }
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
                let manifest = self.session.manifest();
                let name = |id| manifest.get(id).map_or_else(|| id.to_string(), |item| item.name.to_string());
                let outcome = Outcome::new(&record, self.migration.source.rank, name);
                self.end(outcome.ok_or_else(|| self.abandoned("the store went back to its first generation")));
            }
            Event::Superseded { record } => {
                self.end(Err(self.abandoned(&format!("generation {} came first", record.generation))));
            }
            Event::Refused { by, reason } => {
                let source_rank = self.migration.source.rank;
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

/// Memory for each item, granted to the source. The source waits for it, so its pages come as its bytes do.
fn allocate(
    endpoint: &Endpoint,
    source: PeerId,
    items: Vec<(ItemId, u64)>,
) -> Result<Vec<(ItemId, Region, Grant)>, String> {
    let allocate = |(item, len_bytes)| {
        let region = Region::reserve(len_bytes).map_err(|error| error.to_string())?;
        let grant = endpoint.grant(&region, source).map_err(|error| error.to_string())?;
        Ok((item, region, grant))
    };
    items.into_iter().map(allocate).collect()
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
