//! One migration to a process: its session, the memory that it granted, and what becomes of that memory.

use std::collections::{BTreeMap, BTreeSet};

use xfer_migrate_core::session::{Event, Input, Output, TargetConfig, TargetSession, TargetState};
use xfer_migrate_core::{Body, GenerationKind, GenerationRecord, ItemId, MigrationId};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{RegionId, RemoteRegion, Time};

use super::kept::give_back;
use super::{Ending, Habits, Node, Work};
use crate::client::Ask;
use crate::memory::{MemoryId, Use};
use crate::outside::Outside;
use crate::shard::{Shard, content, item_name};
use crate::step::Step;
use crate::store::StoreHost;

/// One migration to a process.
#[derive(Debug)]
pub struct TargetRun {
    /// The production session.
    pub session: TargetSession,
    memory: BTreeMap<ItemId, MemoryId>,
    asked_bytes: u64,
    /// What the source may still write into.
    grants: BTreeMap<ItemId, RegionId>,
    fenced: bool,
    /// What was compared with its digest and found right.
    landed: BTreeSet<ItemId>,
}

impl TargetRun {
    /// Whether it has come to rest.
    pub fn rests(&self) -> bool {
        self.session.state().is_over() || self.session.state() == TargetState::Failed
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.session.poll_timeout()
    }
}

impl Node {
    pub(super) fn begin_target(&mut self, out: &mut Outside, habits: &Habits, migration: MigrationId) {
        let in_use: u64 = self.targets.values().map(|run| run.asked_bytes).sum();
        let all = habits.memory_bytes.get(&self.id.rank).copied().unwrap_or(u64::MAX);
        let config = TargetConfig {
            me: self.id,
            migration,
            base: self.generation.clone(),
            memory_bytes: all.saturating_sub(in_use),
        };
        let mut session = TargetSession::new(config);
        if let Some(deadline) = self.leaving {
            let _ = session.handle(self.local(out.now), Input::Notice { deadline });
        }
        let run = TargetRun {
            session,
            memory: BTreeMap::new(),
            asked_bytes: 0,
            grants: BTreeMap::new(),
            fenced: false,
            landed: BTreeSet::new(),
        };
        self.targets.insert(migration, run);
    }

    /// Whatever comes for a migration that is over comes too late to matter.
    pub(super) fn tell_target(&mut self, out: &mut Outside, now: Time, migration: MigrationId, input: Input) {
        let Some(run) = self.targets.get_mut(&migration) else { return };
        let name = input.name();
        if let Err(violation) = run.session.handle(now, input) {
            self.refused(out, name, &violation);
        }
    }

    pub(super) fn allocated(
        &mut self,
        out: &mut Outside,
        now: Time,
        migration: MigrationId,
        memory: Option<Vec<(ItemId, MemoryId, RemoteRegion, Landed)>>,
    ) {
        let Some(memory) = memory else {
            self.forget_kept(out, None);
            let reason = "out of memory".to_owned();
            self.tell_target(out, now, migration, Input::AllocationFailed { reason });
            return;
        };
        let grants = memory.iter().map(|(item, _, remote, _)| (*item, *remote)).collect();
        let there = memory.iter().filter(|(.., landed)| !landed.is_empty());
        let kept: Vec<_> = there.map(|(item, .., landed)| (*item, landed.clone())).collect();
        let fenced = self.targets.get(&migration).is_none_or(|run| run.fenced);
        for (item, place, remote, _) in memory {
            if fenced {
                // Nobody has heard of these grants.
                self.endpoint.revoke(out, remote.id);
                out.memory.set_use(place, Use::Free);
            } else if let Some(run) = self.targets.get_mut(&migration) {
                run.memory.insert(item, place);
                run.grants.insert(item, remote.id);
                out.checks.placed(migration, item, place);
            }
        }
        if !kept.is_empty() {
            self.tell_target(out, now, migration, Input::Kept { items: kept });
        }
        self.tell_target(out, now, migration, Input::Allocated { grants });
    }

    pub(super) fn turn_target(
        &mut self,
        out: &mut Outside,
        store: &mut StoreHost,
        habits: &Habits,
        migration: MigrationId,
    ) {
        let now = self.local(out.now);
        let Some(mut run) = self.targets.remove(&migration) else { return };
        if run.session.poll_timeout().is_some_and(|at| at <= now) {
            run.session.handle_timeout(now);
        }
        while let Some(output) = run.session.poll_output(now) {
            self.perform_as_target(out, store, habits, &mut run, output);
        }
        let mut over = None;
        while let Some(event) = run.session.poll_event() {
            over = self.note_as_target(out, &mut run, event).or(over);
        }
        match over {
            None => _ = self.targets.insert(migration, run),
            Some(ending) => self.target_is_over(out, habits, run, ending),
        }
    }

    fn perform_as_target(
        &mut self,
        out: &mut Outside,
        store: &mut StoreHost,
        habits: &Habits,
        run: &mut TargetRun,
        output: Output,
    ) {
        let migration = run.session.migration();
        match output {
            Output::Send { to, message } => {
                if let Some(peer) = self.endpoint.peer(to) {
                    if let Body::Landed { item, .. } = message.body {
                        out.checks.says_landed(&out.memory, migration, item, self.id);
                    }
                    self.say(out, peer, &message);
                }
            }
            Output::Allocate { items } => {
                self.reach(out, Step::Register);
                run.asked_bytes += items.iter().map(|(_, bytes)| bytes).sum::<u64>();
                let mut wanted = Vec::new();
                for (id, bytes) in items {
                    let item = run.session.manifest().get(id);
                    wanted.push((id, bytes, item.and_then(|item| self.take_kept(out, migration.source.rank, item))));
                }
                let others: u64 = self.targets.values().map(|run| run.asked_bytes).sum();
                self.shrink_kept(out, habits, others + run.asked_bytes);
                self.run(out, Work::Allocate(migration, wanted));
            }
            Output::Verify { item, crc32c } => {
                self.reach(out, Step::Verify);
                if let Some(memory) = run.memory.get(&item) {
                    self.run(out, Work::Verify(migration, item, *memory, crc32c));
                }
            }
            Output::FenceAll => {
                run.fenced = true;
                let regions = std::mem::take(&mut run.grants).into_values().collect();
                self.run(out, Work::Fence(migration, regions));
            }
            Output::PublishSeal { key, seal } => {
                out.note(self.id, "store", || format!("seals {} items at {key}", seal.landed.len()));
                out.checks.sealed(&out.memory, &seal, &run.memory);
                self.clients.ask(out, store, Ask::Publish(Box::new(seal)));
            }
            Output::WatchSeals { keys } => {
                for key in keys {
                    self.clients.ask(out, store, Ask::WatchSeal { migration, key });
                }
            }
            Output::Propose { record } => {
                out.note(self.id, "store", || format!("proposes {}: {}", record.kind, record.reason));
                self.reach(out, Step::Commit);
                self.clients.ask(out, store, Ask::Propose(Box::new(record)));
            }
            Output::Compare { .. } | Output::Write { .. } | Output::Withdraw { .. } => {
                out.checks.fail("P4", "a target was told to act as a source".to_owned());
            }
        }
    }

    fn note_as_target(&mut self, out: &mut Outside, run: &mut TargetRun, event: Event) -> Option<Ending> {
        match event {
            Event::Committed { record } | Event::Restored { record } | Event::Withdrawn { record } => {
                Some(Ending::Record(record))
            }
            Event::Superseded { .. } => Some(Ending::Superseded),
            Event::Refused { reason, .. } => {
                out.checks.refusal_named();
                Some(Ending::Refused(reason))
            }
            Event::Failed { reason } => {
                self.end(out, run.session.migration(), Ending::Failed(reason));
                None
            }
            other => {
                match other {
                    Event::Landed { item } => _ = run.landed.insert(item),
                    // What was not offered to this process by now isn't wanted from it any more.
                    Event::Cut => self.forget_kept(out, Some(run.session.migration().source.rank)),
                    _ => {}
                }
                out.note(self.id, "event", || format!("{other:?}"));
                None
            }
        }
    }

    fn target_is_over(&mut self, out: &mut Outside, habits: &Habits, mut run: TargetRun, ending: Ending) {
        let migration = run.session.migration();
        self.clients.forget(migration);
        for region in std::mem::take(&mut run.grants).into_values() {
            self.endpoint.revoke(out, region);
        }
        let may_come_again = match &ending {
            Ending::Record(record) => record.kind == GenerationKind::Withdrawn,
            Ending::Superseded | Ending::Refused(_) => true,
            Ending::Failed(_) => false,
        };
        let record = match &ending {
            Ending::Record(record) if record.kind != GenerationKind::Withdrawn => Some(record.clone()),
            _ => None,
        };
        self.end(out, migration, ending);
        if let Some(record) = record {
            self.take_over(out, habits, &mut run, &record);
        }
        if may_come_again {
            let mut memory = std::mem::take(&mut run.memory);
            let items = run.session.manifest().items().iter();
            let items = items.filter_map(|item| Some((item.clone(), memory.remove(&item.id)?)));
            self.keep(out, migration.source.rank, items, run.session.deadline().0);
        }
        run.memory.into_values().for_each(|memory| give_back(out, memory));
    }

    /// A byte changes by itself, of an item that has arrived and was not compared with its digest yet.
    pub fn decay(&self, out: &mut Outside) {
        let arrived =
            self.targets.values().flat_map(|run| run.memory.iter().map(move |(item, memory)| (run, *item, *memory)));
        let mut open = arrived.filter(|(run, item, memory)| {
            matches!(out.memory.state(*memory), Use::Granted(_)) && !run.landed.contains(item)
        });
        if let Some((_, _, memory)) = open.next() {
            let mut bytes = out.memory.bytes(memory).to_vec();
            if let Some(byte) = bytes.first_mut() {
                *byte ^= 1;
            }
            out.memory.overwrite(memory, bytes);
            out.checks.decayed(memory);
        }
    }

    /// Owns what the record says, from what landed, from what can be computed, or from a checkpoint.
    fn take_over(&mut self, out: &mut Outside, habits: &Habits, run: &mut TargetRun, record: &GenerationRecord) {
        let me = self.id.rank;
        let mine: Vec<String> = record
            .owners
            .iter()
            .filter(|(name, rank)| *rank == me && !self.shards.contains_key(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in mine {
            if record.kind == GenerationKind::Restore {
                self.load_shard(out, habits, &name, 1);
                continue;
            }
            let items = run.session.manifest().items();
            let version =
                items.iter().find(|item| item.name.starts_with(&format!("{name}/"))).map_or(1, |item| item.version);
            let mut parts = Vec::new();
            for part in &habits.parts[&name] {
                let wanted = item_name(&name, part.name);
                let found = items.iter().find(|item| *item.name == *wanted);
                let landed =
                    found.filter(|item| record.landed.contains(&item.id)).and_then(|item| run.memory.remove(&item.id));
                let memory = match landed {
                    Some(memory) => {
                        out.memory.set_use(memory, Use::Owned);
                        memory
                    }
                    None => out.memory.add(self.id, content(&name, part.name, version, part.bytes), Use::Owned),
                };
                parts.push((part.clone(), memory));
            }
            let shard = Shard { version, parts };
            out.checks.unharmed(&out.memory, self.id, &name, &shard);
            self.shards.insert(name, shard);
        }
        self.train(out);
    }
}
