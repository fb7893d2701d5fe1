//! A process of the job: its endpoint, its clients of the store, and the sessions that it runs.
//!
//! What `xfer-migrate` does with threads is done here in virtual time: one driver that takes jobs in order, a worker for
//! memory beside it, and the store's clients.

mod kept;
mod source;
mod target;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::session::Input;
use xfer_migrate_core::{Body, GenerationKind, GenerationRecord, ItemId, Message, MigrationId, PlanPolicy};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, RegionId, RemoteRegion, Time};

use crate::check::matching;
use crate::client::{Ask, Clients, Told};
use crate::endpoint::{Endpoint, News};
use crate::memory::{MemoryId, Use};
use crate::outside::{Event, Outside};
use crate::shard::{Part, Shard, content};
use crate::step::Step;
use crate::store::StoreHost;

pub use kept::Kept;
pub use source::{RECORD, SourceRun};
pub use target::TargetRun;

/// How many messages of a process are remembered, to be said again.
const SAID_AGAIN: usize = 8;

/// Something that a process's worker does beside its driver.
#[derive(Debug, Clone)]
pub enum Work {
    /// Memory for items, granted to the source: what was kept of them, or new.
    Allocate(MigrationId, Vec<(ItemId, u64, Option<MemoryId>)>),
    /// Compares an item with its digest.
    Verify(MigrationId, ItemId, MemoryId, u32),
    /// Revokes grants.
    Fence(MigrationId, Vec<RegionId>),
    /// Compares a source with what was read of it while it was written.
    Compare(u64, MemoryId, u32),
    /// Compares an item with what its target has kept.
    Find(MigrationId, ItemId, MemoryId, Landed),
    /// Cancels a write.
    Cancel(u64),
}

/// Something that the driver takes in.
#[derive(Debug, Clone)]
enum Job {
    News(News),
    Told(Told),
    Allocated(MigrationId, Option<Vec<(ItemId, MemoryId, RemoteRegion, Landed)>>),
    Found(MigrationId, ItemId, Landed),
    Verified(MigrationId, ItemId, u32, bool),
    Compared(u64, u32, bool),
    Fenced(MigrationId),
}

/// How a migration ended for one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As the record says.
    Record(GenerationRecord),
    /// Another migration took its generation.
    Superseded,
    /// A target refused.
    Refused(String),
    /// Nothing could be decided here.
    Failed(String),
}

/// What is the same for all processes of a world.
#[derive(Debug, Clone)]
pub struct Habits {
    /// The parts of each shard.
    pub parts: BTreeMap<String, Vec<Part>>,
    /// Which items are sent that could be computed again.
    pub policy: PlanPolicy,
    /// What each rank has for others' migrations.
    pub memory_bytes: BTreeMap<u32, u64>,
    /// Kept free before a deadline.
    pub reserve: Duration,
}

/// A process of the job.
#[derive(Debug)]
pub struct Node {
    /// Who it is.
    pub id: PeerId,
    /// Whether it lives.
    pub alive: bool,
    /// Its end of all connections.
    pub endpoint: Endpoint,
    /// Its clients of the store.
    pub clients: Clients,
    /// The ownership that is true, as far as it has heard.
    pub generation: GenerationRecord,
    /// Its migration to others.
    pub source: Option<SourceRun>,
    /// Others' migrations to it.
    pub targets: BTreeMap<MigrationId, TargetRun>,
    /// What ended migrations have left here.
    pub kept: Kept,
    /// What it owns.
    pub shards: BTreeMap<String, Shard>,
    /// How migrations ended for it.
    pub endings: Vec<(MigrationId, Ending)>,
    /// Whether it has to leave.
    pub leaving: Option<Deadline>,
    /// What happened while it was stopped.
    pub deferred: Vec<Event>,
    jobs: VecDeque<Job>,
    /// An offer for which the store is read again; the driver waits for it.
    parked: Option<(PeerId, Message)>,
    attempts: u32,
    next_write: u64,
    /// Memory that is read by writes that are not over.
    reading: BTreeMap<u64, (ItemId, MemoryId)>,
    /// Memory to give back, once it is read no more.
    afterwards: Vec<MemoryId>,
    worker_free_at: Time,
    wake_at: Option<Time>,
    /// What its sessions said last, of whatever migration.
    said: VecDeque<(u32, Bytes)>,
}

impl Node {
    /// A process that has just begun.
    pub fn new(id: PeerId, endpoint: Endpoint, client: u64, generation: GenerationRecord) -> Self {
        Self {
            id,
            alive: true,
            endpoint,
            clients: Clients::new(id, client, generation.generation),
            generation,
            source: None,
            targets: BTreeMap::new(),
            kept: Kept::default(),
            shards: BTreeMap::new(),
            endings: Vec::new(),
            leaving: None,
            deferred: Vec::new(),
            jobs: VecDeque::new(),
            parked: None,
            attempts: 0,
            next_write: 0,
            reading: BTreeMap::new(),
            afterwards: Vec::new(),
            worker_free_at: Time::ZERO,
            wake_at: None,
            said: VecDeque::new(),
        }
    }

    /// Its clock.
    pub fn local(&self, now: Time) -> Time {
        self.endpoint.local(now)
    }

    fn world(&self, local: Time) -> Time {
        Time::from_nanos(local.as_nanos().saturating_sub(self.endpoint.clock.as_nanos() as u64))
    }

    /// Takes in everything that is there to be taken in, lets sessions act, and plans the next look at the clock.
    pub fn turn(&mut self, out: &mut Outside, store: &mut StoreHost, habits: &Habits) {
        loop {
            while let Some(news) = self.endpoint.news.pop_front() {
                self.jobs.push_back(Job::News(news));
            }
            while let Some(told) = self.clients.poll_told() {
                match told {
                    Told::Read(answer) => self.unpark(out, habits, answer),
                    told => self.jobs.push_back(Job::Told(told)),
                }
            }
            if self.parked.is_some() {
                break;
            }
            if let Some(job) = self.jobs.pop_front() {
                self.handle(out, store, habits, job);
            }
            self.turn_sessions(out, store, habits);
            if self.jobs.is_empty() && self.endpoint.news.is_empty() && self.parked.is_none() {
                break;
            }
        }
        self.plan_wake(out);
    }

    fn turn_sessions(&mut self, out: &mut Outside, store: &mut StoreHost, habits: &Habits) {
        self.turn_source(out, store);
        let migrations: Vec<MigrationId> = self.targets.keys().copied().collect();
        for migration in migrations {
            self.turn_target(out, store, habits, migration);
        }
        self.tidy_up(out);
    }

    fn plan_wake(&mut self, out: &mut Outside) {
        let sessions = self.source.as_ref().and_then(SourceRun::poll_timeout).into_iter();
        let sessions = sessions.chain(self.targets.values().filter_map(TargetRun::poll_timeout));
        let sessions = sessions.filter(|_| self.parked.is_none()).map(|at| self.world(at)).min();
        let next = [sessions, self.endpoint.poll_timeout(), self.clients.poll_timeout()].into_iter().flatten().min();
        let Some(next) = next else { return };
        // At least a moment later: a timer that is due at once again would stop time.
        let next = next.max(out.now.after(Duration::from_micros(1)));
        if self.wake_at.is_none_or(|planned| planned <= out.now || next < planned) {
            self.wake_at = Some(next);
            out.schedule(next, Event::Wake(self.id));
        }
    }

    /// Its timers may be due.
    pub fn wake(&mut self, out: &mut Outside, store: &mut StoreHost, habits: &Habits) {
        if self.wake_at.is_some_and(|planned| planned > out.now) {
            return;
        }
        self.wake_at = None;
        if self.endpoint.poll_timeout().is_some_and(|at| at <= out.now) {
            self.endpoint.on_timers(out);
        }
        self.clients.on_timers(out, store);
        self.turn(out, store, habits);
    }

    /// Its worker has time for `work`.
    pub fn work_done(&mut self, out: &mut Outside, store: &mut StoreHost, habits: &Habits, work: Work) {
        match work {
            Work::Allocate(migration, items) => {
                let failing = &mut out.failing_allocations[self.id.rank as usize];
                let memory = if *failing > 0 {
                    *failing -= 1;
                    None
                } else {
                    Some(self.allocate(out, migration.source, items))
                };
                self.jobs.push_back(Job::Allocated(migration, memory));
            }
            Work::Verify(migration, item, memory, crc32c) => {
                let ok = xfer_transport_core::integrity::crc32c(out.memory.bytes(memory)) == crc32c;
                self.jobs.push_back(Job::Verified(migration, item, crc32c, ok));
            }
            Work::Fence(migration, regions) => {
                for region in regions {
                    self.endpoint.revoke(out, region);
                }
                self.jobs.push_back(Job::Fenced(migration));
            }
            Work::Compare(write, memory, crc32c) => {
                let unchanged = xfer_transport_core::integrity::crc32c(out.memory.bytes(memory)) == crc32c;
                self.jobs.push_back(Job::Compared(write, crc32c, unchanged));
            }
            Work::Find(migration, item, memory, kept) => {
                let there = matching(out.memory.bytes(memory), &kept);
                self.jobs.push_back(Job::Found(migration, item, there));
            }
            Work::Cancel(write) => self.endpoint.cancel(out, write),
        }
        self.turn(out, store, habits);
    }

    fn allocate(
        &mut self,
        out: &mut Outside,
        source: PeerId,
        items: Vec<(ItemId, u64, Option<MemoryId>)>,
    ) -> Vec<(ItemId, MemoryId, RemoteRegion, Landed)> {
        let place = |(item, bytes, kept): (ItemId, u64, Option<MemoryId>)| {
            let memory = kept.unwrap_or_else(|| out.memory.add(self.id, vec![0; bytes as usize], Use::Fenced));
            let landed = out.memory.known(memory);
            if !landed.is_empty() {
                out.checks.kept(&out.memory, memory, &landed);
            }
            (item, memory, self.endpoint.grant(out, memory, source), landed)
        };
        items.into_iter().map(place).collect()
    }

    /// Gives the worker something to do; it does one thing after the other.
    fn run(&mut self, out: &mut Outside, work: Work) {
        let takes = out.work_delay + out.random.within(out.work_delay);
        self.worker_free_at = self.worker_free_at.max(out.now).after(takes);
        let at = self.worker_free_at;
        out.schedule(at, Event::Done { process: self.id, work });
    }

    /// The worker is busy with something else.
    pub fn keep_busy(&mut self, now: Time, time: Duration) {
        self.worker_free_at = self.worker_free_at.max(now).after(time);
    }

    fn handle(&mut self, out: &mut Outside, store: &mut StoreHost, habits: &Habits, job: Job) {
        let now = self.local(out.now);
        match job {
            Job::News(News::Message { from, payload }) => match Message::decode(&payload) {
                Ok(message) => self.receive(out, store, habits, from, message),
                Err(error) => out.note(self.id, "hear", || format!("nonsense from {from}: {error}")),
            },
            Job::News(News::Down { peer, reason }) => {
                self.tell_all(out, now, &Input::PeerGone { peer, reason });
            }
            Job::News(News::Written { write, result }) => self.written(out, now, write, result),
            Job::News(News::Released { write }) => {
                self.reading.remove(&write);
            }
            Job::Told(Told::Seal(migration, seal)) => self.tell_target(out, now, migration, Input::SealSeen { seal }),
            Job::Told(Told::Generations(records) | Told::Decided(Ok(records))) => {
                records.into_iter().for_each(|record| self.generation_is(out, now, record));
            }
            Job::Told(Told::Lost(reason) | Told::Decided(Err(reason))) => {
                self.tell_all(out, now, &Input::StoreLost { reason });
            }
            Job::Told(Told::Read(_)) => {}
            Job::Allocated(migration, memory) => self.allocated(out, now, migration, memory),
            Job::Found(migration, item, there) => self.found(out, now, migration, item, there),
            Job::Verified(migration, item, crc32c, ok) => {
                self.tell_target(out, now, migration, Input::Verified { item, crc32c, ok });
            }
            Job::Compared(write, crc32c, unchanged) => self.compared(out, now, write, crc32c, unchanged),
            Job::Fenced(migration) => self.tell_target(out, now, migration, Input::Fenced),
        }
    }

    fn receive(&mut self, out: &mut Outside, store: &mut StoreHost, habits: &Habits, from: PeerId, message: Message) {
        let now = self.local(out.now);
        let migration = message.migration;
        out.note(self.id, "hear", || format!("{} from {from}", in_words(&message.body)));
        if migration.source == self.id {
            self.tell_source(out, now, Input::Message { from, message });
            return;
        }
        let is_first = matches!(&message.body, Body::Offer(offer) if offer.sequence == 0);
        if is_first && !self.targets.contains_key(&migration) && from == migration.source {
            // The offer may be quicker than the news of the generation that it is based on.
            if migration.generation > self.generation.generation {
                self.parked = Some((from, message));
                self.clients.ask(out, store, Ask::Read(self.generation.generation));
                return;
            }
            self.begin_target(out, habits, migration);
        }
        self.tell_target(out, now, migration, Input::Message { from, message });
    }

    fn unpark(&mut self, out: &mut Outside, habits: &Habits, answer: Result<Vec<GenerationRecord>, String>) {
        let Some((from, message)) = self.parked.take() else { return };
        let now = self.local(out.now);
        for record in answer.into_iter().flatten() {
            self.generation_is(out, now, record);
        }
        self.begin_target(out, habits, message.migration);
        self.tell_target(out, now, message.migration, Input::Message { from, message });
    }

    fn generation_is(&mut self, out: &mut Outside, now: Time, record: GenerationRecord) {
        if record.generation > self.generation.generation {
            out.note(self.id, "store", || format!("generation {} is true: {}", record.generation, record.kind));
            self.generation = record.clone();
        }
        self.kept_after(out, &record);
        self.tell_all(out, now, &Input::GenerationSeen { record });
        self.let_go_of_what_was_taken(out);
    }

    /// A record can take shards from a rank that was taken for dead in a hand-over to it: it does not own them any more.
    fn let_go_of_what_was_taken(&mut self, out: &mut Outside) {
        if self.generation.kind == GenerationKind::Restore {
            let me = self.id.rank;
            let lost: Vec<String> = self.shards.keys().cloned().collect();
            for shard in lost {
                if !self.generation.owners.iter().any(|(name, rank)| *name == shard && *rank == me)
                    && self.source.as_ref().is_none_or(|run| run.is_over())
                {
                    self.drop_shard(out, &shard);
                }
            }
        }
    }

    fn tell_all(&mut self, out: &mut Outside, now: Time, input: &Input) {
        self.tell_source(out, now, input.clone());
        let migrations: Vec<MigrationId> = self.targets.keys().copied().collect();
        for migration in migrations {
            self.tell_target(out, now, migration, input.clone());
        }
    }

    /// Something that the session does not take is refused by name and changes nothing.
    fn refused(&self, out: &mut Outside, name: &'static str, violation: &xfer_migrate_core::session::Violation) {
        out.checks.violation_named();
        out.note(self.id, "hear", || format!("ignored, {name}: {violation}"));
    }

    /// Sends a session's message.
    fn say(&mut self, out: &mut Outside, to: PeerId, message: &Message) {
        out.note(self.id, "say", || format!("{} to {to}", in_words(&message.body)));
        let payload = message.encode();
        self.said.push_back((to.rank, payload.clone()));
        if self.said.len() > SAID_AGAIN {
            self.said.pop_front();
        }
        self.endpoint.send(out, to, payload);
    }

    /// Says once more what was said last, of whatever migration it was.
    pub fn say_again(&mut self, out: &mut Outside) {
        for (rank, payload) in self.said.clone() {
            if let Some(peer) = self.endpoint.peer(rank) {
                self.endpoint.send(out, peer, payload);
            }
        }
    }

    /// This process has to leave.
    pub fn leave_by(&mut self, out: &mut Outside, left: Duration) {
        let now = self.local(out.now);
        let deadline = Deadline::after(now, left);
        self.leaving = Some(deadline);
        self.tell_all(out, now, &Input::Notice { deadline });
    }

    // What it owns.

    /// Begins to own a shard whose bytes are a checkpoint's, or computed.
    pub fn load_shard(&mut self, out: &mut Outside, habits: &Habits, name: &str, version: u64) {
        let shard = Shard::new(&mut out.memory, self.id, name, version, &habits.parts[name]);
        self.shards.insert(name.to_owned(), shard);
    }

    /// Doesn't own a shard any more. Its memory is free once nothing reads it.
    fn drop_shard(&mut self, out: &mut Outside, name: &str) {
        if let Some(shard) = self.shards.remove(name) {
            self.afterwards.extend(shard.parts.into_iter().map(|(_, memory)| memory));
        }
        self.tidy_up(out);
    }

    /// Trains one step: what it owns has other bytes afterwards, unless some of it is still being read.
    fn train(&mut self, out: &mut Outside) {
        let reading: Vec<MemoryId> = self.reading.values().map(|(_, memory)| *memory).collect();
        for (name, shard) in &mut self.shards {
            if shard.parts.iter().any(|(_, memory)| reading.contains(memory)) {
                continue;
            }
            shard.version += 1;
            for (part, memory) in &shard.parts {
                out.memory.overwrite(*memory, content(name, part.name, shard.version, part.bytes));
            }
        }
    }

    /// Gives back what is read no more.
    fn tidy_up(&mut self, out: &mut Outside) {
        let reading = &self.reading;
        self.afterwards.retain(|memory| {
            let is_read = reading.values().any(|(_, read)| read == memory);
            if !is_read {
                out.memory.set_use(*memory, Use::Free);
            }
            is_read
        });
    }

    fn end(&mut self, out: &mut Outside, migration: MigrationId, ending: Ending) {
        out.note(self.id, "event", || match &ending {
            Ending::Record(record) => format!("{}: {}", record.kind, record.reason),
            Ending::Superseded => "superseded".to_owned(),
            Ending::Refused(reason) => format!("refused: {reason}"),
            Ending::Failed(reason) => format!("failed: {reason}"),
        });
        match &ending {
            Ending::Record(record) => out.checks.obeyed(self.id, record),
            Ending::Superseded => out.checks.superseded(self.id, migration),
            Ending::Refused(_) | Ending::Failed(_) => {}
        }
        self.endings.push((migration, ending));
    }

    /// Whether all its sessions have come to rest.
    pub fn rests(&self) -> bool {
        self.source.as_ref().is_none_or(SourceRun::rests) && self.targets.values().all(TargetRun::rests)
    }

    /// A moment of the protocol was reached here.
    fn reach(&self, out: &mut Outside, step: Step) {
        out.reach(step, self.id);
    }
}

fn in_words(body: &Body) -> String {
    match body {
        Body::Offer(offer) => format!("offer {} of {} items", offer.sequence, offer.items.len()),
        Body::Kept { items } => {
            let bytes: u64 = items.iter().map(|(_, landed)| landed.bytes()).sum();
            format!("kept {bytes} bytes of {} items", items.len())
        }
        Body::Grants { sequence, grants } => format!("grants {sequence} for {} items", grants.len()),
        Body::Refuse { refusal } => format!("refuse: {refusal}"),
        Body::Sent { item, send, .. } => format!("sent {item}, time {send}"),
        Body::Landed { item, .. } => format!("landed {item}"),
        Body::Damaged { item, .. } => format!("damaged {item}"),
        Body::Cut(cut) => format!("cut after {} items", cut.total_items),
        Body::Finished { skipped } => format!("finished, {} not sent", skipped.len()),
        Body::Deadline { time_left } => format!("deadline in {time_left:?}"),
    }
}
