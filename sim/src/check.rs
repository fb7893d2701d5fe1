//! The promises as invariants, looked at after every event; the first one that is broken ends the run.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use xfer_migrate_core::seal::{Leaf, root};
use xfer_migrate_core::session::SourceSession;
use xfer_migrate_core::store::Version;
use xfer_migrate_core::{GenerationKind, GenerationRecord, Item, ItemId, MigrationId, RecomputeCost, Seal};
use xfer_transport_core::integrity::crc32c;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::limits::FENCE_TIMEOUT;
use xfer_transport_core::message::RejectReason;
use xfer_transport_core::path::{Cause, End, Path};
use xfer_transport_core::{Lane, PeerId, RegionId, Time};

use crate::memory::{Memory, MemoryId, Transfer, Use};
use crate::node::RECORD;
use crate::shard::{Shard, content};

/// How long a transfer may outlast its deadline: its fence, and a moment to hear of it.
const TRANSFER_GRACE: Duration = Duration::from_millis(1000 + 100);

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its number.
    pub promise: &'static str,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.how)
    }
}

/// How a transfer ended, and what it was about.
#[derive(Debug)]
pub struct Ended<'a> {
    /// What was read.
    pub source: MemoryId,
    /// Which bytes of it: where they begin and end.
    pub part: (u64, u64),
    /// Where it went.
    pub region: RegionId,
    /// How it ended.
    pub end: &'a End,
}

/// What was seen on the side, for those who stage a fault and want to know what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Connections that were refused by name.
    pub rejects: u64,
    /// Refusals to take part, and to talk to a store of another life.
    pub refusals: u64,
    /// Inputs of sessions that were refused by name.
    pub violations: u64,
    /// Transfers that ended in quarantine.
    pub quarantines: u64,
    /// Transfers that were fenced.
    pub fences: u64,
    /// Transfers that ended well.
    pub done: u64,
    /// Sources that were found to have changed while they were sent.
    pub changes: u64,
    /// Bytes that were not sent again, since their targets had kept them.
    pub kept_bytes: u64,
}

/// Everything that checkers have to remember.
#[derive(Debug, Default)]
pub struct Checks {
    broken: Option<Broken>,
    /// What was seen on the side.
    pub seen: Seen,
    ended: HashSet<Transfer>,
    /// Transfers of which nothing may be written any more.
    fenced: HashSet<Transfer>,
    grants: HashMap<RegionId, MemoryId>,
    offered: HashMap<MigrationId, BTreeMap<ItemId, Item>>,
    placed: HashMap<(MigrationId, ItemId), MemoryId>,
    moves: HashMap<MigrationId, BTreeMap<String, u32>>,
    targets: HashMap<MigrationId, Vec<u32>>,
    cut: HashSet<MigrationId>,
    seals: HashMap<(MigrationId, u32), Seal>,
    /// Every generation that was true, in order.
    pub history: Vec<GenerationRecord>,
    changed: HashSet<MemoryId>,
    /// What an item holds, if its source was changed.
    contents: HashMap<(MigrationId, ItemId), Vec<u8>>,
    /// What parts of which version may hold since somebody has changed them, besides what they had.
    variants: HashMap<(String, u64), Vec<Vec<u8>>>,
    decayed: HashSet<MemoryId>,
    resumed: HashMap<u32, Time>,
    done_bytes: HashMap<PeerId, u64>,
    told_bytes: HashMap<PeerId, u64>,
    /// What a lane may have posted.
    pub window_bytes: u64,
}

impl Checks {
    /// A promise is broken.
    pub fn fail(&mut self, promise: &'static str, how: String) {
        self.broken.get_or_insert(Broken { promise, how });
    }

    /// The promise that was broken first.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    fn demand(&mut self, promise: &'static str, holds: bool, how: impl FnOnce() -> String) {
        if !holds {
            self.fail(promise, how());
        }
    }

    // What is remembered.

    /// Memory was granted under this name.
    pub fn granted(&mut self, region: RegionId, memory: MemoryId) {
        self.grants.insert(region, memory);
    }

    /// Everything that was ever granted.
    pub fn grants(&self) -> impl Iterator<Item = (RegionId, MemoryId)> {
        let sorted: BTreeMap<RegionId, MemoryId> =
            self.grants.iter().map(|(region, memory)| (*region, *memory)).collect();
        sorted.into_iter()
    }

    /// A migration to `targets` begins, and moves these shards.
    pub fn begun(&mut self, migration: MigrationId, targets: &[u32], moves: &BTreeMap<String, u32>) {
        self.moves.insert(migration, moves.clone());
        self.targets.insert(migration, targets.to_vec());
        self.offered.entry(migration).or_default();
    }

    /// A source has offered an item that holds `bytes`.
    pub fn offered(&mut self, migration: MigrationId, item: &Item, bytes: &[u8]) {
        let (shard, part) = item.name.split_once('/').unwrap_or((&item.name, ""));
        let right = self.is_right(shard, part, item.version, bytes);
        self.demand("P5", right, || format!("`{}` is offered with other bytes than it should have", item.name));
        if bytes != content(shard, part, item.version, item.bytes) {
            self.contents.insert((migration, item.id), bytes.to_vec());
        }
        self.offered.entry(migration).or_default().insert(item.id, item.clone());
    }

    /// A source has cut.
    pub fn cut(&mut self, migration: MigrationId) {
        self.cut.insert(migration);
    }

    /// A target has memory for an item.
    pub fn placed(&mut self, migration: MigrationId, item: ItemId, memory: MemoryId) {
        self.placed.insert((migration, item), memory);
    }

    /// The bytes of an item that has not landed were changed behind the transport's back: from now on these are right.
    pub fn changed(&mut self, migration: MigrationId, item: &Item, memory: MemoryId, bytes: &[u8]) {
        self.changed.insert(memory);
        self.contents.insert((migration, item.id), bytes.to_vec());
        self.variants.entry((item.name.to_string(), item.version)).or_default().push(bytes.to_vec());
    }

    /// The bytes of an item were changed when it was not being handed over, without another version: from now on these are right, too.
    pub fn changed_between(&mut self, (name, version): (String, u64), memory: MemoryId, bytes: &[u8]) {
        self.changed.insert(memory);
        self.variants.entry((name, version)).or_default().push(bytes.to_vec());
    }

    /// A source was found to have changed while it was sent.
    pub fn change_noticed(&mut self) {
        self.seen.changes += 1;
    }

    /// A byte that had arrived was changed by nobody.
    pub fn decayed(&mut self, memory: MemoryId) {
        self.decayed.insert(memory);
    }

    /// A process that was stopped goes on: what it was to do meanwhile is not late.
    pub fn resumed(&mut self, rank: u32, now: Time) {
        self.resumed.insert(rank, now);
    }

    /// A connection was refused by name.
    pub fn refused(&mut self, _: RejectReason) {
        self.seen.rejects += 1;
    }

    /// A store of another life was refused by name.
    pub fn refuses_store(&mut self) {
        self.seen.refusals += 1;
    }

    /// P13: a store that was started again with its journal holds all that it had answered for.
    pub fn store_kept(&mut self, answered_for: Version, latest: Version) {
        self.demand("P13", latest >= answered_for, || {
            format!("the store had answered for {answered_for}, and was started again with {latest}")
        });
    }

    /// A rank refuses to take part, and says why.
    pub fn refusal_named(&mut self) {
        self.seen.refusals += 1;
    }

    /// A session refused an input, and said why.
    pub fn violation_named(&mut self) {
        self.seen.violations += 1;
    }

    // P1: after the end of a transfer no byte of its source is read and none of its destination written.

    /// A chunk's bytes are read.
    pub fn source_read(&mut self, memory: &Memory, source: MemoryId) {
        let state = memory.state(source);
        self.demand("P1", state == Use::Owned, || format!("a source is read that is {state:?}"));
    }

    /// A chunk's bytes are about to land.
    pub fn lands(&mut self, transfer: Transfer, at: PeerId) {
        let late = self.fenced.contains(&transfer);
        self.demand("P1", !late, || {
            format!("bytes of transfer {} from {} land at {at} after its end", transfer.id.0, transfer.from)
        });
    }

    // P2: every transfer ends once, and in time. P3: what is done is there, and what is there is right.

    /// A transfer has ended.
    pub fn transfer_ended(
        &mut self,
        now: Time,
        memory: &Memory,
        transfer: Transfer,
        about: &Ended<'_>,
        begun: Time,
        deadline: Option<Time>,
    ) {
        let is_first = self.ended.insert(transfer);
        self.demand("P2", is_first, || format!("transfer {} of {} ended twice", transfer.id.0, transfer.from));
        if let Some(deadline) = deadline {
            let awake = self.resumed.get(&transfer.from.rank).copied().unwrap_or(Time::ZERO);
            let bound = deadline.max(awake).max(begun).after(TRANSFER_GRACE);
            self.demand("P2", now <= bound, || format!("a transfer with a deadline at {deadline} ended at {now}"));
        }
        match about.end {
            End::Done { crc32c: whole, len_bytes, over, .. } => {
                self.seen.done += 1;
                self.fenced.insert(transfer);
                let part = about.part.0 as usize..about.part.1 as usize;
                let source = &memory.bytes(about.source)[part.clone()];
                let carried: u64 = over.iter().map(|(_, bytes)| bytes).sum();
                self.demand("P17", carried == *len_bytes && *len_bytes == source.len() as u64, || {
                    format!("{carried} bytes were carried of {len_bytes} that are done of {}", source.len())
                });
                *self.done_bytes.entry(transfer.from).or_default() += len_bytes;
                if self.changed.contains(&about.source) {
                    return;
                }
                let right = crc32c(source) == *whole;
                self.demand("P3", right, || "a transfer is done with another checksum than its bytes have".to_owned());
                if let Some(place) = self.grants.get(&about.region)
                    && matches!(memory.state(*place), Use::Granted(_) | Use::Fenced)
                    && !self.decayed.contains(place)
                {
                    let same = &memory.bytes(*place)[part] == source;
                    self.demand("P3", same, || "a transfer is done, and other bytes are at its destination".to_owned());
                }
            }
            End::Failed { cause: Cause::Refused(_), fenced: true } => {
                self.seen.refusals += 1;
                self.fenced.insert(transfer);
            }
            End::Failed { fenced: true, .. } => {
                self.seen.fences += 1;
                self.fenced.insert(transfer);
            }
            End::Failed { fenced: false, .. } => self.seen.quarantines += 1,
        }
    }

    /// A source was told that an item landed.
    pub fn landed_at_source(&mut self, memory: &Memory, migration: MigrationId, item: ItemId) {
        self.is_there(memory, "P3", migration, item);
    }

    /// A target says that an item landed.
    pub fn says_landed(&mut self, memory: &Memory, migration: MigrationId, item: ItemId, at: PeerId) {
        self.is_there(memory, "P3", migration, item);
        let sealed = self.seals.contains_key(&(migration, at.rank));
        self.demand("P6", !sealed, || format!("item {item} landed at {at} after its seal"));
    }

    fn is_there(&mut self, memory: &Memory, promise: &'static str, migration: MigrationId, item: ItemId) {
        let Some(offered) = self.offered.get(&migration).and_then(|items| items.get(&item)) else {
            return self.fail(promise, format!("item {item} landed and was never offered"));
        };
        let Some(place) = self.placed.get(&(migration, item)) else {
            return self.fail(promise, format!("item {item} landed and has no memory"));
        };
        // Memory that was given back by an end that is known there and not here says nothing any more.
        if matches!(memory.state(*place), Use::Owned | Use::Free) {
            return;
        }
        let (shard, part) = offered.name.split_once('/').unwrap_or((&offered.name, ""));
        let right = match self.contents.get(&(migration, item)) {
            Some(changed) => memory.bytes(*place) == changed,
            None => memory.bytes(*place) == content(shard, part, offered.version, offered.bytes),
        };
        let name = offered.name.clone();
        self.demand(promise, right, || format!("item `{name}` counts as landed, and other bytes are there"));
    }

    /// A target says what it has kept of an item.
    pub fn kept(&mut self, memory: &Memory, place: MemoryId, kept: &Landed) {
        let there = self.decayed.contains(&place) || matching(memory.bytes(place), kept) == *kept;
        self.demand("P3", there, || "bytes are said to have been kept, and others are there".to_owned());
    }

    /// A source has compared what a target has kept of an item with its own bytes.
    pub fn found(&mut self, there: &Landed) {
        self.seen.kept_bytes += there.bytes();
    }

    // P6: what is sealed is there, whole, and nothing can change it.

    /// A target seals.
    pub fn sealed(&mut self, memory: &Memory, seal: &Seal, places: &BTreeMap<ItemId, MemoryId>) {
        let rank = seal.target.rank;
        let open = places.values().any(|place| matches!(memory.state(*place), Use::Granted(_)));
        self.demand("P1", !open, || format!("rank {rank} seals memory that can still be written"));
        let mut leaves = Vec::new();
        for item in &seal.landed {
            self.is_there(memory, "P6", seal.migration, *item);
            let offered = self.offered.get(&seal.migration).and_then(|items| items.get(item));
            if let Some((item, place)) = offered.zip(places.get(item)) {
                let bytes = memory.bytes(*place);
                leaves.push(Leaf { id: item.id, version: item.version, bytes: item.bytes, crc32c: crc32c(bytes) });
            }
        }
        self.demand("P6", root(&leaves) == seal.root, || format!("the root of rank {rank} is not that of its bytes"));
        self.seals.insert((seal.migration, rank), seal.clone());
    }

    // P4 and P5: generations follow each other one by one; each says who owns what, and only what its migration moves
    // changes hands.

    /// A source proposes.
    pub fn proposed_by_source(&mut self, source: PeerId, record: &GenerationRecord) {
        let stays = record.kind == GenerationKind::Withdrawn;
        self.demand("P5", stays, || format!("{source} proposes a {} of what it owns itself", record.kind));
    }

    /// The store holds another generation.
    pub fn decided(&mut self, memory: &Memory, record: &GenerationRecord) {
        let before = self.history.last().cloned();
        self.history.push(record.clone());
        let (Some(before), Some(source)) = (before, record.source) else { return };
        let follows = record.base == before.generation && record.generation == before.generation + 1;
        self.demand("P4", follows, || {
            format!("generation {} on {} came after {}", record.generation, record.base, before.generation)
        });
        let migration = MigrationId { source, generation: record.base, attempt: record.attempt };
        let Some(moves) = self.moves.get(&migration).cloned() else {
            return self.fail("P4", format!("a generation ends a migration that never was: {migration}"));
        };
        let targets = self.targets.get(&migration).cloned().unwrap_or_default();
        let names = |record: &GenerationRecord| -> BTreeSet<String> {
            record.owners.iter().map(|(name, _)| name.clone()).collect()
        };
        let complete = names(&before) == names(record) && record.owners.len() == names(record).len();
        self.demand("P4", complete, || "a shard has no owner, or two".to_owned());
        for (name, rank) in &record.owners {
            let was = before.owners.iter().find(|(shard, _)| shard == name).map(|(_, rank)| *rank);
            let moved = moves.contains_key(name) && record.kind != GenerationKind::Withdrawn;
            // What a target owned that died in a hand-over comes from the checkpoint, with all the rest.
            let restored = record.kind == GenerationKind::Restore
                && was.is_some_and(|was| targets.contains(&was))
                && targets.contains(rank);
            self.demand("P4", moved || restored || was == Some(*rank), || {
                format!("{} takes `{name}` from rank {was:?}, which its migration does not move", record.kind)
            });
            self.demand("P4", !moved || *rank != source.rank, || format!("`{name}` stays with the rank that left"));
        }
        if record.kind == GenerationKind::Handoff {
            self.handed_over(memory, migration, record);
        }
    }

    /// P3 and P6: a hand-over counts only on bytes that are there and on what follows from them, and on all of it.
    fn handed_over(&mut self, memory: &Memory, migration: MigrationId, record: &GenerationRecord) {
        self.demand("P6", self.cut.contains(&migration), || {
            "a hand-over before the source said what is all".to_owned()
        });
        self.demand("P6", record.record == RECORD && record.missing.is_empty(), || {
            "a hand-over without the record of the cut, or with something missing".to_owned()
        });
        let mut there: BTreeSet<ItemId> = BTreeSet::new();
        for item in &record.landed {
            self.is_there(memory, "P6", migration, *item);
            there.insert(*item);
        }
        let items = self.offered.get(&migration).cloned().unwrap_or_default();
        for id in &record.recompute {
            let inputs = items.get(id).map(|item| &item.cost);
            let computable = matches!(inputs, Some(RecomputeCost::Compute { from, .. }) if from.iter().all(|input| there.contains(input)));
            self.demand("P6", computable, || format!("item {id} is to be computed, and can't be"));
            there.insert(*id);
        }
        let all: BTreeSet<ItemId> = items.keys().copied().collect();
        self.demand("P6", there == all, || format!("a hand-over of {} items that covers {}", all.len(), there.len()));
        for (rank, found) in &record.roots {
            let sealed = self.seals.get(&(migration, *rank)).map(|seal| seal.root);
            self.demand("P6", sealed == Some(*found), || format!("the root of rank {rank} is not the one it sealed"));
        }
        let targets: BTreeSet<u32> = items.values().map(|item| item.target).collect();
        let sealed: BTreeSet<u32> = record.roots.iter().map(|(rank, _)| *rank).collect();
        self.demand("P6", targets.is_subset(&sealed), || "a hand-over without the seal of a target".to_owned());
    }

    /// A process was told that this record is true.
    pub fn obeyed(&mut self, process: PeerId, record: &GenerationRecord) {
        let was_true = self.history.contains(record);
        self.demand("P4", was_true, || format!("{process} obeys a generation {} that never was", record.generation));
    }

    /// A process was told that its migration has come to nothing.
    pub fn superseded(&mut self, process: PeerId, migration: MigrationId) {
        let end = self.history.iter().find(|record| record.ends(migration)).map(|record| record.generation);
        self.demand("P4", end.is_none(), || format!("{process} gives up what generation {end:?} has decided"));
    }

    /// P5: what a process owns has the bytes that it should have.
    pub fn unharmed(&mut self, memory: &Memory, owner: PeerId, name: &str, shard: &Shard) {
        for (part, place) in &shard.parts {
            let right = self.is_right(name, part.name, shard.version, memory.bytes(*place));
            self.demand("P5", right, || format!("`{name}/{}` of {owner} has other bytes than it should", part.name));
        }
    }

    /// Whether a part of a shard has the bytes that it should have, all of one moment.
    fn is_right(&self, shard: &str, part: &str, version: u64, bytes: &[u8]) -> bool {
        let changed = self.variants.get(&(format!("{shard}/{part}"), version));
        bytes == content(shard, part, version, bytes.len() as u64)
            || changed.is_some_and(|variants| variants.iter().any(|variant| variant == bytes))
    }

    // P7: what is worth most comes first.

    /// A source has a new plan.
    pub fn planned(&mut self, session: &SourceSession) {
        let manifest = session.manifest();
        let items: Vec<&Item> = session.plan().order.iter().filter_map(|id| manifest.get(*id)).collect();
        let first = items.iter().take_while(|item| item.cost.is_irreplaceable()).count();
        let none_later = items[first..].iter().all(|item| !item.cost.is_irreplaceable());
        self.demand("P7", none_later, || "something irreplaceable leaves after what can be computed".to_owned());
        let bytes = |item: &Item| session.missing_bytes(item.id).unwrap_or(item.bytes);
        let smallest_first = items[..first].is_sorted_by_key(|item| (bytes(item), item.id));
        self.demand("P7", smallest_first, || "what is irreplaceable does not leave smallest first".to_owned());
        let saves = |item: &Item| item.cost.time().map_or(0, |time| time.as_nanos());
        let densest_first = items[first..]
            .windows(2)
            .all(|pair| saves(pair[0]) * u128::from(bytes(pair[1])) >= saves(pair[1]) * u128::from(bytes(pair[0])));
        self.demand("P7", densest_first, || "what saves less a byte leaves first".to_owned());
    }

    // P8: what is under way is bounded.

    /// A chunk was posted.
    pub fn posted(&mut self, path: &Path, by: PeerId) {
        for lane in Lane::ALL {
            let bytes = path.posted_bytes(lane);
            self.demand("P8", bytes <= self.window_bytes, || format!("{by} has {bytes} bytes posted in lane {lane}"));
        }
    }

    // P17: what is counted is what was done.

    /// A process's user was told that so many bytes were written.
    pub fn counted(&mut self, process: PeerId, bytes: u64) {
        *self.told_bytes.entry(process).or_default() += bytes;
    }

    /// Nothing is under way any more at `process`: its paths' books are empty, and users were told of all that was done.
    pub fn at_rest(&mut self, process: PeerId) {
        let done = self.done_bytes.get(&process).copied().unwrap_or_default();
        let told = self.told_bytes.get(&process).copied().unwrap_or_default();
        self.demand("P17", told <= done, || format!("{process} counts {told} bytes, and wrote {done}"));
    }
}

/// What of `landed` has the checksums that `bytes` have there.
pub fn matching(bytes: &[u8], landed: &Landed) -> Landed {
    let mut there = Landed::default();
    for (range, sum) in landed.ranges() {
        let part = bytes.get(range.start as usize..range.end as usize);
        if part.is_some_and(|part| crc32c(part) == sum) {
            there.insert(range, sum);
        }
    }
    there
}

const _: () = assert!(TRANSFER_GRACE.as_millis() > FENCE_TIMEOUT.as_millis());
