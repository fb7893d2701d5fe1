//! The driver's thread: jobs in, sessions in the middle, doing out.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::session::Input;
use xfer_migrate_core::store::records::GENERATION_KEY;
use xfer_migrate_core::{Body, GenerationRecord, ItemId, Message, MigrationId, Seal};
use xfer_plan::manifest::Prospect;
use xfer_plan::{Choice, Handling, Mode, Progress};
use xfer_transport::{Channel, Endpoint, Incoming as FromPeer, Landed, PeerEvent, TransferError, Transferred};
use xfer_transport_core::{Deadline, PeerId, Time};

use crate::generations;
use crate::kept::Kept;
use crate::migrations::{HandOverError, MigrationsConfig, OfferError, Outgoing, Shared, StartError};
use crate::pause;
use crate::rescue::{HandOver, Rescue};
use crate::rooms;
use crate::source::SourceRun;
use crate::store::Store;
use crate::takeover::TakeOvers;
use crate::target::{Allocated, TargetRun};
use crate::trace::Ended;
use crate::worker::Worker;

/// The channel of session messages on every endpoint.
pub(crate) const CHANNEL: Channel = Channel(2);

/// How long the loop sleeps when no session has a timer.
const IDLE: Duration = Duration::from_millis(500);

/// How many migrations to this process may be under way: each holds memory, and more than a few at once is a mistake.
const TARGETS_MAX: usize = 64;

/// Everything that can happen to the driver.
pub(crate) enum Job {
    FromPeer(FromPeer),
    PeerEvent(PeerEvent),
    HandOver {
        /// In which generation it was prepared, if anybody said so.
        generation: Option<u64>,
        hand_over: HandOver,
        items: Vec<Rescue>,
        answer: SyncSender<Result<Outgoing, HandOverError>>,
    },
    Offer {
        items: Vec<Rescue>,
        answer: SyncSender<Result<(), OfferError>>,
    },
    Cut {
        record: Bytes,
        take_over: TakeOvers,
        answer: SyncSender<Result<(), OfferError>>,
    },
    Manifest {
        progress: Progress,
        answer: SyncSender<Result<String, OfferError>>,
    },
    Weigh {
        progress: Progress,
        handling: Handling,
        open: Vec<Mode>,
        prospects: Vec<Prospect>,
        answer: SyncSender<Result<Option<Choice>, OfferError>>,
    },
    Withdraw {
        answer: SyncSender<Result<(), OfferError>>,
    },
    DeadlineMoved {
        time_left: Duration,
    },
    Written {
        migration: MigrationId,
        item: ItemId,
        result: Result<Transferred, TransferError>,
    },
    /// An item's memory was read again after it had been written.
    Compared {
        migration: MigrationId,
        item: ItemId,
        moved: Transferred,
        unchanged: bool,
        /// What reading it took.
        took: Duration,
    },
    /// What a target has kept of an item was compared with its bytes here.
    Found {
        migration: MigrationId,
        item: ItemId,
        there: Landed,
        /// What reading it took.
        took: Duration,
    },
    /// The notice for this process was taken back.
    Stay,
    Allocated {
        migration: MigrationId,
        memory: Result<Vec<Allocated>, String>,
    },
    Verified {
        migration: MigrationId,
        item: ItemId,
        crc32c: u32,
        ok: bool,
    },
    Fenced {
        migration: MigrationId,
    },
    SealSeen {
        migration: MigrationId,
        seal: Seal,
    },
    /// What the targets of a migration from here have room for, as far as they have said so.
    Rooms {
        migration: MigrationId,
        rooms: Vec<(u32, u64)>,
    },
    /// Generations that were found, or made by a proposal, oldest first; or why the store could not be asked.
    Generations(Result<Vec<GenerationRecord>, String>),
    StoreLost {
        reason: String,
    },
    Stop,
}

/// What both kinds of runs do things with.
pub(crate) struct Context {
    pub(crate) endpoint: Endpoint,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) jobs: Sender<Job>,
    /// Memory, digests and fences.
    pub(crate) memory_worker: Worker,
    /// Compare-and-swap and seals.
    pub(crate) store_worker: Worker,
    /// Who wants to know of migrations that have ended.
    ended: Option<Sender<Ended>>,
    /// What a question to the store took when this process began.
    pub(crate) store_answers_in: Duration,
    /// How many bytes others may hand over to this process at once.
    pub(crate) memory_limit_bytes: u64,
}

struct Driver {
    context: Context,
    shared: Weak<Shared>,
    generation: GenerationRecord,
    attempts: u32,
    /// When this process has to be gone, if anybody said so.
    leaving: Option<Deadline>,
    source: Option<SourceRun>,
    targets: HashMap<MigrationId, TargetRun>,
    /// What ended migrations have left here.
    kept: Kept,
}

/// Starts the threads of `shared`.
pub(crate) fn start(
    endpoint: &Endpoint,
    store: Arc<dyn Store>,
    shared: &Arc<Shared>,
    queue: Receiver<Job>,
    config: MigrationsConfig,
) -> Result<(), StartError> {
    let (version, generation) = generations::first(&*store)?;
    let asked = endpoint.now();
    store.get(GENERATION_KEY)?;
    let store_answers_in = endpoint.now().since(asked);
    rooms::publish(&*store, endpoint.id().rank, config.memory_limit_bytes)?;
    shared.state().generation = Some(generation.clone());

    forward(endpoint.subscribe(CHANNEL), &shared.jobs, "xfer-migrate-in", Job::FromPeer)?;
    forward(endpoint.events(), &shared.jobs, "xfer-migrate-up", Job::PeerEvent)?;
    generations::watch(Arc::clone(&store), shared, version, generation.generation)?;
    let worker = |name| Worker::start(name, shared.jobs.clone());
    let driver = Driver {
        context: Context {
            endpoint: endpoint.clone(),
            store,
            jobs: shared.jobs.clone(),
            memory_worker: worker("xfer-migrate-mem")?,
            store_worker: worker("xfer-migrate-kv")?,
            ended: config.ended.clone(),
            store_answers_in,
            memory_limit_bytes: config.memory_limit_bytes,
        },
        shared: Arc::downgrade(shared),
        generation,
        attempts: 0,
        leaving: None,
        source: None,
        targets: HashMap::new(),
        kept: Kept::default(),
    };
    thread::Builder::new().name("xfer-migrate".into()).spawn(move || driver.run(&queue))?;
    Ok(())
}

/// Passes what a subscription says on to the driver, as long as it is there.
fn forward<T: Send + 'static>(
    from: Receiver<T>,
    to: &Sender<Job>,
    name: &str,
    job: impl Fn(T) -> Job + Send + 'static,
) -> io::Result<()> {
    let to = to.clone();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        for said in from {
            if to.send(job(said)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

impl Driver {
    /// Takes a job, lets the sessions decide, does what they say; or tells them that time has passed.
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let now = self.context.endpoint.now();
            let wake = self.next_timeout().map_or(IDLE, |at| at.since(now).min(IDLE));
            match queue.recv_timeout(wake) {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(job) => self.handle(job),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let Some(shared) = self.shared.upgrade() else { return };
            self.turn();
            shared.bell.ring();
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        let targets = self.targets.values().filter_map(TargetRun::poll_timeout);
        targets.chain(self.source.as_ref().and_then(SourceRun::poll_timeout)).min()
    }

    /// Lets time pass in all sessions, and does what they say until they say nothing more.
    fn turn(&mut self) {
        let now = self.context.endpoint.now();
        if let Some(source) = &mut self.source {
            source.turn(&self.context, now);
        }
        self.kept.expire(now, drop);
        let all_bytes = self.taken_bytes();
        for target in self.targets.values_mut() {
            let others_bytes = all_bytes - target.memory_bytes();
            target.turn(&self.context, &mut self.kept, others_bytes, now);
        }
        for (_, target) in self.targets.extract_if(|_, target| target.is_over()) {
            target.leave(&mut self.kept, now);
        }
    }

    fn handle(&mut self, job: Job) {
        let now = self.context.endpoint.now();
        match job {
            Job::FromPeer(FromPeer { from, payload }) => self.receive(now, from, &payload),
            Job::PeerEvent(PeerEvent::Down { peer, reason }) => {
                self.tell_all(now, &Input::PeerGone { peer, reason: reason.to_string() });
            }
            // A life that comes up is announced by its own messages.
            Job::PeerEvent(_) => {}
            Job::HandOver { generation, hand_over, items, answer } => {
                let known = self.generation.generation;
                let begun = match generation.filter(|prepared| *prepared != known) {
                    Some(prepared) => Err(HandOverError::Outdated { prepared, known }),
                    None => self.hand_over(now, hand_over, items),
                };
                // A caller that waits no longer finds the migration as `Migrations::outgoing`.
                let _ = answer.send(begun);
            }
            Job::Offer { items, answer } => {
                let _ = answer.send(self.with_source(|source| source.offer(now, items)));
            }
            Job::Cut { record, take_over, answer } => {
                let (source, context) = (self.source.as_mut(), &self.context);
                let cut = source.map_or(Err(OfferError::Closed), |source| source.cut(context, now, record, take_over));
                let _ = answer.send(cut);
            }
            Job::Manifest { progress, answer } => {
                let context = &self.context;
                let text = self.source.as_ref().map(|source| source.manifest(context, now, progress));
                let _ = answer.send(text.ok_or(OfferError::Closed));
            }
            Job::Weigh { progress, handling, open, prospects, answer } => {
                let context = &self.context;
                let choice = self.source.as_mut().map_or(Err(OfferError::Closed), |source| {
                    source.weigh(context, now, progress, handling, &open, prospects)
                });
                let _ = answer.send(choice);
            }
            Job::Withdraw { answer } => {
                self.leaving = None;
                let _ = answer.send(self.with_source(|source| source.withdraw(now)));
            }
            Job::DeadlineMoved { time_left } => self.leave_by(now, Deadline::after(now, time_left)),
            // Items are numbered anew in each migration: a write of an earlier one must not count for this one's.
            Job::Written { migration, item, result } => {
                if let Some(source) = self.source.as_mut().filter(|source| source.migration() == migration) {
                    source.written(&self.context, now, item, result);
                }
            }
            Job::Compared { migration, item, moved, unchanged, took } => {
                if let Some(source) = self.source.as_mut().filter(|source| source.migration() == migration) {
                    source.compared(now, item, &moved, unchanged, took);
                }
            }
            Job::Rooms { migration, rooms } => {
                if let Some(source) = self.source.as_mut().filter(|source| source.migration() == migration) {
                    source.rooms_are(rooms);
                }
            }
            Job::Found { migration, item, there, took } => {
                if let Some(source) = self.source.as_mut().filter(|source| source.migration() == migration) {
                    source.found(now, item, there, took);
                }
            }
            Job::Stay => self.leaving = None,
            Job::Allocated { migration, memory } => {
                if memory.is_err() {
                    // The system has none left: whoever asks next is to find some.
                    self.kept.shrink_to(0, drop);
                }
                self.with_target(migration, |target| target.allocated(now, memory));
            }
            Job::Verified { migration, item, crc32c, ok } => {
                self.with_target(migration, |target| target.verified(now, item, crc32c, ok));
            }
            Job::Fenced { migration } => self.with_target(migration, |target| target.input(now, Input::Fenced)),
            Job::SealSeen { migration, seal } => {
                self.with_target(migration, |target| target.input(now, Input::SealSeen { seal }));
            }
            Job::Generations(Ok(records)) => records.into_iter().for_each(|record| self.generation_is(now, record)),
            Job::StoreLost { reason } | Job::Generations(Err(reason)) => {
                self.tell_all(now, &Input::StoreLost { reason });
            }
            Job::Stop => {}
        }
    }

    fn receive(&mut self, now: Time, from: PeerId, payload: &[u8]) {
        let message = match Message::decode(payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(peer = %from, %error, "dropped a message that makes no sense");
                return;
            }
        };
        let migration = message.migration;
        if migration.source == self.context.endpoint.id() {
            if let Some(source) = &mut self.source {
                source.input(now, Input::Message { from, message });
            }
            return;
        }
        // A later offer of a migration that isn't there is of one that has ended, and must not begin it again.
        let is_first = matches!(&message.body, Body::Offer(offer) if offer.sequence == 0);
        if is_first && !self.targets.contains_key(&migration) {
            self.begin_target(now, migration, from);
        }
        self.with_target(migration, |target| target.input(now, Input::Message { from, message }));
    }

    fn begin_target(&mut self, now: Time, migration: MigrationId, from: PeerId) {
        let Some(shared) = self.shared.upgrade() else { return };
        if from != migration.source || self.targets.len() >= TARGETS_MAX {
            tracing::warn!(peer = %from, %migration, "dropped an offer: not its source, or too many migrations at once");
            return;
        }
        // The offer may be quicker than the news of the generation that it is based on.
        if migration.generation > self.generation.generation {
            match generations::since(&*self.context.store, self.generation.generation) {
                Ok(records) => records.into_iter().for_each(|record| self.generation_is(now, record)),
                Err(reason) => tracing::warn!(reason, "the store was not read again for an offer"),
            }
        }
        // What is kept gives way, so it takes nothing from anybody.
        let available_bytes = self.context.memory_limit_bytes.saturating_sub(self.taken_bytes());
        let mut run = TargetRun::new(&self.context, &shared, migration, self.generation.clone(), available_bytes, now);
        if let Some(deadline) = self.leaving {
            run.input(now, Input::Notice { deadline });
        }
        shared.state().incoming = Some(run.incoming());
        self.targets.insert(migration, run);
    }

    /// What migrations to this process take of its memory.
    fn taken_bytes(&self) -> u64 {
        self.targets.values().map(TargetRun::memory_bytes).sum()
    }

    fn hand_over(&mut self, now: Time, hand_over: HandOver, items: Vec<Rescue>) -> Result<Outgoing, HandOverError> {
        let shared = self.shared.upgrade().ok_or(HandOverError::Closed)?;
        if self.source.as_ref().is_some_and(SourceRun::is_under_way) {
            return Err(HandOverError::UnderWay);
        }
        let me = self.context.endpoint.id();
        let deadline = Deadline::after(now, hand_over.time_left);
        let migration = MigrationId { source: me, generation: self.generation.generation, attempt: self.attempts };
        self.attempts += 1;
        let targets = hand_over.targets.clone();
        let mut run = SourceRun::new(&self.context, &shared, migration, &self.generation, hand_over, now)?;
        let store = Arc::clone(&self.context.store);
        let ask = move || Some(Job::Rooms { migration, rooms: rooms::of(&*store, &targets) });
        self.context.store_worker.run(ask, |_| None);
        if !items.is_empty() {
            run.offer(now, items)?;
        }
        self.leave_by(now, deadline);
        let outgoing = run.outgoing();
        shared.state().outgoing = Some(outgoing.clone());
        self.source = Some(run);
        Ok(outgoing)
    }

    /// This process has to go: a migration from it hurries, and none to it begins.
    fn leave_by(&mut self, now: Time, deadline: Deadline) {
        self.leaving = Some(deadline);
        if let Some(source) = &mut self.source {
            source.deadline_moved(now, deadline);
        }
        for target in self.targets.values_mut() {
            target.input(now, Input::Notice { deadline });
        }
    }

    fn generation_is(&mut self, now: Time, record: GenerationRecord) {
        if record.generation > self.generation.generation {
            self.generation = record.clone();
            if let Some(shared) = self.shared.upgrade() {
                shared.state().generation = Some(record.clone());
            }
        }
        self.kept.settle(&record, drop);
        self.tell_all(now, &Input::GenerationSeen { record });
    }

    fn tell_all(&mut self, now: Time, input: &Input) {
        if let Some(source) = &mut self.source {
            source.input(now, input.clone());
        }
        for target in self.targets.values_mut() {
            target.input(now, input.clone());
        }
    }

    fn with_source(&mut self, ask: impl FnOnce(&mut SourceRun) -> Result<(), OfferError>) -> Result<(), OfferError> {
        self.source.as_mut().map_or(Err(OfferError::Closed), ask)
    }

    /// Whatever comes for a migration that is over comes too late to matter.
    fn with_target(&mut self, migration: MigrationId, tell: impl FnOnce(&mut TargetRun)) {
        if let Some(target) = self.targets.get_mut(&migration) {
            tell(target);
        }
    }
}

impl Context {
    /// A migration has ended here; `what` it was is put together only if anybody asked.
    pub(crate) fn ended(&self, what: impl FnOnce() -> Ended) {
        if let Some(ended) = &self.ended {
            // Whoever asked may be gone by now.
            let _ = ended.send(what());
        }
    }

    pub(crate) fn send(&self, to: PeerId, message: &Message) {
        if let Err(error) = self.endpoint.send(to, CHANNEL, message.encode()) {
            // The session learns of a peer that is gone by its own event.
            tracing::debug!(peer = %to, %error, "a message was not sent");
        }
    }

    /// Replaces the store's generation by `record` if it still is the one that `record` is based on, and tells what the store then holds.
    pub(crate) fn propose(&self, record: GenerationRecord) {
        let (store, rank) = (Arc::clone(&self.store), self.endpoint.id().rank);
        let propose = move || {
            pause::at("propose", rank);
            Some(Job::Generations(generations::propose(&*store, record)))
        };
        self.store_worker.run(propose, |reason| Some(Job::Generations(Err(reason))));
    }
}
