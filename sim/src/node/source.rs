//! One migration from a process: its session, its items and its writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::session::{Event, Input, Output, SourceConfig, SourceSession, SourceState};
use xfer_migrate_core::{Body, GenerationKind, Item, ItemId, Message, MigrationId};
use xfer_transport_core::integrity;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::path::Cause;
use xfer_transport_core::{Deadline, Measured, PeerId, RateInterval, RemoteRegion, Time};

use super::{Ending, Habits, Node, Work};
use crate::client::Ask;
use crate::endpoint::WriteFailure;
use crate::memory::MemoryId;
use crate::outside::Outside;
#[cfg(feature = "planted")]
use crate::planted::sources_are_trusted;
use crate::shard::{item, item_name};
use crate::step::Step;
use crate::store::StoreHost;

/// What a link is taken to carry until the first bytes show it.
const RATE_UNKNOWN: RateInterval = RateInterval { low: 500_000, high: 5_000_000 };

/// What travels with the cut.
pub const RECORD: &[u8] = b"step 41";

/// Whether nobody reads a source again after it was written: a bug that can be planted.
#[cfg(not(feature = "planted"))]
const fn sources_are_trusted() -> bool {
    false
}

/// One migration from a process.
#[derive(Debug)]
pub struct SourceRun {
    /// The production session.
    pub session: SourceSession,
    deadline: Deadline,
    targets: Vec<u32>,
    /// Where each shard goes.
    moves: BTreeMap<String, u32>,
    items: BTreeMap<ItemId, (Item, MemoryId)>,
    names: BTreeMap<String, ItemId>,
    writes: BTreeMap<ItemId, Writing>,
    /// What targets had of items, where they have said so: nothing until that was compared.
    found: BTreeMap<ItemId, Option<Landed>>,
    told: Option<RateInterval>,
    /// For the order of what leaves: which items have memory, which have left once, whose targets are gone.
    granted: BTreeSet<ItemId>,
    left: BTreeSet<ItemId>,
    gone: BTreeSet<u32>,
    over: bool,
}

/// One item's write: its gaps, one after the other.
#[derive(Debug)]
struct Writing {
    /// The gap that is written now.
    write: u64,
    part: (u64, u64),
    to: PeerId,
    remote: RemoteRegion,
    /// Gaps that are still to be written.
    left: Vec<(u64, u64)>,
    /// What is there, and what was written, with checksums.
    there: Vec<(u64, u64, u32)>,
    bytes: u64,
}

impl SourceRun {
    fn is_writing(&self, item: ItemId, write: u64) -> bool {
        self.writes.get(&item).is_some_and(|writing| writing.write == write)
    }

    /// Whether a generation has ended it.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it has come to rest.
    pub fn rests(&self) -> bool {
        self.over || self.session.state() == SourceState::Failed
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        if self.over { None } else { self.session.poll_timeout() }
    }
}

impl Node {
    /// Begins to hand over what this process owns. `false` if it can't.
    pub fn hand_over(&mut self, out: &mut Outside, habits: &Habits, targets: &[u32], left: Duration) -> bool {
        let now = self.local(out.now);
        if self.source.as_ref().is_some_and(|run| !run.rests()) {
            self.leave_by(out, left);
            return false;
        }
        let deadline = Deadline::after(now, left);
        let mut moves = BTreeMap::new();
        let mut owners_after = self.generation.owners.clone();
        for (shard, rank) in &mut owners_after {
            if *rank == self.id.rank && !targets.is_empty() {
                *rank = targets[moves.len() % targets.len()];
                moves.insert(shard.clone(), *rank);
            }
        }
        let config = SourceConfig {
            source: self.id,
            attempt: self.attempts,
            base: self.generation.clone(),
            targets: targets.to_vec(),
            owners_after,
            deadline,
            rate: RATE_UNKNOWN,
            reserve: habits.reserve,
            policy: habits.policy,
        };
        self.attempts += 1;
        let session = match SourceSession::new(now, config) {
            Ok(session) => session,
            Err(error) => {
                out.note(self.id, "user", || format!("can't hand over: {error}"));
                return false;
            }
        };
        let migration = session.migration();
        out.note(self.id, "user", || format!("hands over to {targets:?} within {left:?}"));
        out.checks.begun(migration, targets, &moves);
        self.source = Some(SourceRun {
            session,
            deadline,
            targets: targets.to_vec(),
            moves,
            items: BTreeMap::new(),
            names: BTreeMap::new(),
            writes: BTreeMap::new(),
            found: BTreeMap::new(),
            told: None,
            granted: BTreeSet::new(),
            left: BTreeSet::new(),
            gone: BTreeSet::new(),
            over: false,
        });
        self.offer(out, false);
        self.leave_by(out, left);
        self.reach(out, Step::Notice);
        if migration.attempt > 0 || migration.generation > 0 || self.id.incarnation > 1 {
            self.reach(out, Step::Resume);
        }
        true
    }

    /// Offers what doesn't change until the cut, or, when training has stopped, the rest.
    pub fn offer(&mut self, out: &mut Outside, late: bool) {
        let now = self.local(out.now);
        let Some(run) = self.source.as_mut().filter(|run| !run.over) else { return };
        let mut added: Vec<(Item, MemoryId)> = Vec::new();
        for (name, target) in &run.moves {
            let Some(shard) = self.shards.get(name) else { continue };
            for (part, memory) in shard.parts.iter().filter(|(part, _)| part.late == late) {
                let id = ItemId((run.items.len() + added.len()) as u64);
                let find = |input: &str| {
                    let fresh = added.iter().find(|(item, _)| *item.name == *input).map(|(item, _)| item.id);
                    fresh.or_else(|| run.names.get(input).copied()).unwrap_or(id)
                };
                added.push((item(name, part, shard.version, *target, id, find), *memory));
            }
        }
        if added.is_empty() {
            return;
        }
        let items = added.iter().map(|(item, _)| item.clone()).collect();
        match run.session.handle(now, Input::Items(items)) {
            Ok(()) => {
                for (item, memory) in added {
                    out.checks.offered(run.session.migration(), &item, out.memory.bytes(memory));
                    run.names.insert(item.name.to_string(), item.id);
                    run.items.insert(item.id, (item, memory));
                }
            }
            Err(violation) => self.refused(out, "items", &violation),
        }
    }

    /// Training has stopped, and nothing more is added.
    pub fn cut(&mut self, out: &mut Outside) {
        let now = self.local(out.now);
        let Some(run) = self.source.as_mut().filter(|run| !run.over) else { return };
        match run.session.handle(now, Input::Cut { record: Bytes::from_static(RECORD) }) {
            Ok(()) => {
                out.checks.cut(run.session.migration());
                self.reach(out, Step::Delta);
            }
            Err(violation) => self.refused(out, "cut", &violation),
        }
    }

    /// The notice is withdrawn.
    pub fn stay(&mut self, out: &mut Outside) {
        let now = self.local(out.now);
        self.leaving = None;
        let input = Input::Withdraw { reason: "the notice was withdrawn".to_owned() };
        self.tell_source(out, now, input);
    }

    /// What is being sent, or is still to be sent, changes under the transport's hands; or between two attempts, what was offered.
    pub fn change_source(&mut self, out: &mut Outside) {
        if let Some(run) = self.source.as_ref().filter(|run| run.over && self.leaving.is_some()) {
            let is_free = |memory: &MemoryId| {
                let was_offered = run.items.values().any(|(_, offered)| offered == memory);
                was_offered && !self.reading.values().any(|(_, read)| read == memory)
            };
            let mut parts = self.shards.iter().flat_map(|(name, shard)| {
                shard.parts.iter().map(move |(part, memory)| (item_name(name, part.name), shard.version, *memory))
            });
            if let Some((name, version, memory)) = parts.find(|(.., memory)| is_free(memory)) {
                let changed: Vec<u8> = out.memory.bytes(memory).iter().map(|byte| !byte).collect();
                out.checks.changed_between((name, version), memory, &changed);
                out.memory.overwrite(memory, changed);
            }
            return;
        }
        let Some(run) = self.source.as_ref().filter(|run| !run.over) else { return };
        let being_sent = run.writes.values().filter_map(|writing| self.reading.get(&writing.write)).next();
        let to_be_sent = || run.items.iter().find(|(item, _)| !run.left.contains(item));
        let item = being_sent.map(|(item, _)| *item).or_else(|| to_be_sent().map(|(item, _)| *item));
        let Some((item, memory)) = item.and_then(|item| run.items.get(&item)) else { return };
        let changed: Vec<u8> = out.memory.bytes(*memory).iter().map(|byte| !byte).collect();
        out.checks.changed(run.session.migration(), item, *memory, &changed);
        out.memory.overwrite(*memory, changed);
    }

    pub(super) fn tell_source(&mut self, out: &mut Outside, now: Time, input: Input) {
        let Some(run) = self.source.as_mut().filter(|run| !run.over) else { return };
        match &input {
            Input::Message { message: Message { migration, body: Body::Kept { items } }, .. }
                if *migration == run.session.migration() =>
            {
                let news = items.iter().filter(|(item, _)| !run.granted.contains(item));
                run.found.extend(news.map(|(item, _)| (*item, None)));
            }
            Input::Message { message: Message { migration, body: Body::Grants { grants, .. } }, .. }
                if *migration == run.session.migration() =>
            {
                // What is to be compared first can't leave yet.
                let ready = grants.iter().filter(|(item, _)| run.found.get(item) != Some(&None));
                run.granted.extend(ready.map(|(item, _)| *item));
            }
            Input::PeerGone { peer, .. } => _ = run.gone.insert(peer.rank),
            _ => {}
        }
        let name = input.name();
        if let Err(violation) = run.session.handle(now, input) {
            self.refused(out, name, &violation);
        }
    }

    pub(super) fn written(&mut self, out: &mut Outside, now: Time, write: u64, result: Result<u32, WriteFailure>) {
        let Some((item, memory)) = self.reading.get(&write).copied() else { return };
        let result = match result {
            Ok(crc32c) => match self.next_gap(out, item, memory, write, crc32c) {
                Some(result) => result,
                None => return,
            },
            Err(failure) => Err(failure),
        };
        let failure = match result {
            // Each chunk was sound when it left. That all of them are of one moment shows when they are read again.
            Ok(crc32c) => return self.run(out, Work::Compare(write, memory, crc32c)),
            Err(failure) => failure,
        };
        if failure.fenced {
            self.reading.remove(&write);
        }
        let Some(run) = self.source.as_mut().filter(|run| run.is_writing(item, write)) else { return };
        run.writes.remove(&item);
        let retry = matches!(failure.cause, Cause::Damaged { .. });
        self.tell_source(out, now, Input::WriteFailed { item, retry, reason: format!("{:?}", failure.cause) });
    }

    /// Begins to write one gap of an item; its number, if it could begin.
    fn begin_gap(
        &mut self,
        out: &mut Outside,
        item: ItemId,
        memory: MemoryId,
        (to, remote, part): (PeerId, RemoteRegion, (u64, u64)),
        deadline: Deadline,
    ) -> Option<u64> {
        self.next_write += 1;
        let write = self.next_write;
        out.note(self.id, "xfer", || format!("write {write}: item {item} to {to}, from {} to {}", part.0, part.1));
        self.reading.insert(write, (item, memory));
        let begun = self.endpoint.write(out, to, (memory, part), remote, Some(deadline), write);
        if !begun {
            self.reading.remove(&write);
        }
        begun.then_some(write)
    }

    /// A gap of an item was written: begins with the next one. With the last one, the checksum of the whole item; or why there
    /// is no next one.
    fn next_gap(
        &mut self,
        out: &mut Outside,
        item: ItemId,
        memory: MemoryId,
        write: u64,
        crc32c: u32,
    ) -> Option<Result<u32, WriteFailure>> {
        let run = self.source.as_mut().filter(|run| run.is_writing(item, write));
        // The write of a migration that is over is compared, and counts for nothing.
        let Some(run) = run else { return Some(Ok(crc32c)) };
        let deadline = run.deadline;
        let Some(writing) = run.writes.get_mut(&item) else { return Some(Ok(crc32c)) };
        let (start, end) = writing.part;
        writing.bytes += end - start;
        writing.there.push((start, end, crc32c));
        let Some(part) = writing.left.pop() else {
            writing.there.sort_unstable();
            let parts = writing.there.iter().map(|(start, end, crc32c)| (*crc32c, end - start));
            return Some(Ok(integrity::combine(parts)));
        };
        let (to, remote) = (writing.to, writing.remote);
        self.reading.remove(&write);
        let next = self.begin_gap(out, item, memory, (to, remote, part), deadline);
        let Some(next) = next else {
            self.reading.insert(write, (item, memory));
            return Some(Err(WriteFailure { cause: Cause::Gone, fenced: true }));
        };
        if let Some(writing) = self.source.as_mut().and_then(|run| run.writes.get_mut(&item)) {
            (writing.write, writing.part) = (next, part);
        }
        None
    }

    /// An item was compared with what its target has kept.
    pub(super) fn found(&mut self, out: &mut Outside, now: Time, migration: MigrationId, item: ItemId, there: Landed) {
        let Some(run) = self.source.as_mut().filter(|run| run.session.migration() == migration) else { return };
        let bytes = run.items.get(&item).map_or(0, |(item, _)| item.bytes);
        run.granted.insert(item);
        if there.whole(bytes).is_some() {
            // It needs not leave.
            run.left.insert(item);
        }
        out.checks.found(&there);
        run.found.insert(item, Some(there.clone()));
        self.tell_source(out, now, Input::Compared { item, there });
    }

    /// What was written was compared with what is there now.
    pub(super) fn compared(&mut self, out: &mut Outside, now: Time, write: u64, crc32c: u32, unchanged: bool) {
        let Some((item, _)) = self.reading.remove(&write) else { return };
        let Some(run) = self.source.as_mut().filter(|run| run.is_writing(item, write)) else { return };
        let Some(writing) = run.writes.remove(&item) else { return };
        out.checks.counted(self.id, writing.bytes);
        let input = if unchanged || sources_are_trusted() {
            Input::Written { item, crc32c }
        } else {
            out.checks.change_noticed();
            Input::WriteFailed { item, retry: true, reason: "its memory changed while it was sent".to_owned() }
        };
        self.tell_source(out, now, input);
    }

    pub(super) fn turn_source(&mut self, out: &mut Outside, store: &mut StoreHost) {
        let now = self.local(out.now);
        let Some(mut run) = self.source.take() else { return };
        if run.over && run.writes.is_empty() {
            self.source = Some(run);
            return;
        }
        let measured = run.targets.iter().filter_map(|rank| self.endpoint.measured(*rank));
        let rate = measured.reduce(Measured::and).map(|measured| measured.expected(None));
        if let Some(rate) = rate.filter(|_| rate != run.told && !run.over) {
            run.told = Some(rate);
            let _ = run.session.handle(now, Input::Rate(rate));
        }
        if run.session.poll_timeout().is_some_and(|at| at <= now) {
            run.session.handle_timeout(now);
        }
        while let Some(output) = run.session.poll_output(now) {
            self.perform_as_source(out, store, &mut run, now, output);
        }
        let mut over = None;
        while let Some(event) = run.session.poll_event() {
            over = self.note_as_source(out, &mut run, event).or(over);
        }
        let migration = run.session.migration();
        if over.is_some() {
            run.over = true;
        }
        self.source = Some(run);
        if let Some(ending) = over {
            self.source_is_over(out, migration, ending);
        }
    }

    fn perform_as_source(
        &mut self,
        out: &mut Outside,
        store: &mut StoreHost,
        run: &mut SourceRun,
        now: Time,
        output: Output,
    ) {
        match output {
            Output::Send { to, message } => match self.endpoint.peer(to) {
                Some(peer) => {
                    self.say(out, peer, &message);
                }
                None => {
                    run.gone.insert(to);
                    let peer = PeerId { rank: to, incarnation: 0 };
                    let _ = run.session.handle(now, Input::PeerGone { peer, reason: "it is not connected".into() });
                }
            },
            Output::Compare { item, kept } => {
                if let Some((_, memory)) = run.items.get(&item) {
                    self.run(out, Work::Find(run.session.migration(), item, *memory, kept));
                }
            }
            Output::Write { item, to, remote, there } => {
                self.check_order(out, run, now, item);
                check_rest(out, run, item, &there);
                run.left.insert(item);
                let (Some(peer), Some((_, memory))) = (self.endpoint.peer(to), run.items.get(&item)) else {
                    let reason = format!("rank {to} is not connected");
                    let _ = run.session.handle(now, Input::WriteFailed { item, retry: false, reason });
                    return;
                };
                let memory = *memory;
                let mut left: Vec<(u64, u64)> =
                    there.missing(0..remote.len_bytes).into_iter().map(|gap| (gap.start, gap.end)).collect();
                left.reverse();
                let Some(part) = left.pop() else {
                    return out.checks.fail("P17", format!("item {item} is there, and is written"));
                };
                let there = there.ranges().map(|(range, crc32c)| (range.start, range.end, crc32c)).collect();
                let write = self.begin_gap(out, item, memory, (peer, remote, part), run.deadline);
                match write {
                    Some(write) => {
                        let writing = Writing { write, part, to: peer, remote, left, there, bytes: 0 };
                        run.writes.insert(item, writing);
                    }
                    None => {
                        let reason = "it can't begin".to_owned();
                        let _ = run.session.handle(now, Input::WriteFailed { item, retry: false, reason });
                    }
                }
            }
            Output::Withdraw { item } => {
                if let Some(write) = run.writes.get(&item).map(|writing| writing.write) {
                    self.run(out, Work::Cancel(write));
                }
            }
            Output::Propose { record } => {
                out.note(self.id, "store", || format!("proposes {}: {}", record.kind, record.reason));
                out.checks.proposed_by_source(self.id, &record);
                self.clients.ask(out, store, Ask::Propose(Box::new(record)));
            }
            other => out.checks.fail("P4", format!("a source was told to act as a target: {other:?}")),
        }
    }

    /// What leaves is the most valuable of what can leave, and nothing begins after the deadline.
    fn check_order(&self, out: &mut Outside, run: &SourceRun, now: Time, item: ItemId) {
        if now >= run.session.deadline().0 {
            out.checks.fail("P6", format!("item {item} begins to leave after the deadline"));
        }
        if run.over || run.left.contains(&item) {
            return;
        }
        let order = &run.session.plan().order;
        let Some(place) = order.iter().position(|planned| *planned == item) else { return };
        let before = order[..place].iter().find(|before| {
            let goes = run.items.get(before).is_some_and(|(item, _)| !run.gone.contains(&item.target));
            run.granted.contains(before) && !run.left.contains(before) && goes
        });
        if let Some(before) = before {
            out.checks
                .fail("P7", format!("item {item} leaves before item {before}, which is worth more and could leave"));
        }
    }

    fn note_as_source(&mut self, out: &mut Outside, run: &mut SourceRun, event: Event) -> Option<Ending> {
        match event {
            Event::Planned { verdict } => {
                out.note(self.id, "event", || format!("planned: {verdict}"));
                out.checks.planned(&run.session);
                None
            }
            Event::Committed { record } | Event::Restored { record } | Event::Withdrawn { record } => {
                Some(Ending::Record(record))
            }
            Event::Superseded { .. } => Some(Ending::Superseded),
            Event::Failed { reason } => {
                self.end(out, run.session.migration(), Ending::Failed(reason));
                None
            }
            Event::Landed { item } => {
                out.checks.landed_at_source(&out.memory, run.session.migration(), item);
                None
            }
            Event::Refused { by, reason } => {
                out.checks.refusal_named();
                out.note(self.id, "event", || format!("rank {by} refuses: {reason}"));
                None
            }
            other => {
                out.note(self.id, "event", || format!("{other:?}"));
                None
            }
        }
    }

    fn source_is_over(&mut self, out: &mut Outside, migration: MigrationId, ending: Ending) {
        let passed = matches!(&ending, Ending::Record(record) if record.kind != GenerationKind::Withdrawn);
        let moved: Vec<String> = self.source.iter().flat_map(|run| run.moves.keys().cloned()).collect();
        self.end(out, migration, ending);
        if passed {
            for shard in moved {
                self.drop_shard(out, &shard);
            }
        } else {
            // It stays, unharmed, and goes on with its training; but not as long as it has to leave.
            for (name, shard) in &self.shards {
                out.checks.unharmed(&out.memory, self.id, name, shard);
            }
            if self.leaving.is_none() {
                self.train(out);
            }
        }
    }
}

/// What was found to be at its target is not sent again: an item leaves for the first time without it.
fn check_rest(out: &mut Outside, run: &SourceRun, item: ItemId, there: &Landed) {
    let found = run.found.get(&item).cloned().flatten().unwrap_or_default();
    if !run.left.contains(&item) && found != *there {
        out.checks.fail("P17", format!("{} bytes of item {item} are there, and are sent again", found.bytes()));
    }
}
