//! What must hold, whatever happens.
//!
//! - A generation has one record, and follows the one before it (there are never two).
//! - A hand-off counts only on bytes that are whole where they are needed, and on what follows from them; every target
//!   has sealed, and its root is the digest of its memory; the source has stopped for good.
//! - No byte is written at a target after its seal, and none of what an earlier attempt has left there.
//! - Who is told of an end is told of the record that the store holds, and never of two.
//! - At most one process acts as owner of a shard in one generation, and no source acts beside those who got its bytes.
//! - Every shard has exactly one owner in every generation, and none whose death was known to those who decided.
//! - An honest peer's message is never refused, and nobody acts for the other side.
//! - Who took part in a hand-over obeys its own generation, not one that followed it.
//! - At rest, who took part has ended as the store says; without a generation, it says that it failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use xfer_migrate_core::seal::{Leaf, root, seal_key};
use xfer_migrate_core::session::{SourceState, TargetState};
use xfer_migrate_core::{Body, GenerationKind, GenerationRecord, ItemId, Message, MigrationId, RecomputeCost, Seal};

use crate::world::{BASE, Content, SOURCES, TARGETS, World, content_of};

/// What was broken, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(String);

impl Broken {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

fn demand(holds: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(what())) }
}

/// What a target says of an item is so.
pub(crate) fn said(world: &World, s: usize, t: usize, message: &Message) -> Result<(), Broken> {
    let Body::Landed { item, .. } = message.body else { return Ok(()) };
    let pair = world.pair(s, t);
    demand(pair.seal.is_none(), || format!("item {item} lands at rank {} after its seal", TARGETS[t]))?;
    let whole = pair.memory.get(&item) == Some(&Content::Whole);
    demand(whole, || format!("item {item} landed at rank {} with other bytes", TARGETS[t]))
}

/// The first write of an item in an attempt leaves out what of it was there before.
pub(crate) fn writes(world: &World, s: usize, t: usize, item: ItemId, left_out: u64) -> Result<(), Broken> {
    let there = world.pair(s, t).there.get(&item).copied().unwrap_or(0);
    let right = there == left_out;
    demand(right, || format!("{there} bytes of item {item} are there, and {left_out} are not sent again"))
}

/// A seal is about memory that nobody writes any more, and its root is the digest of that memory.
pub(crate) fn sealed(world: &World, s: usize, t: usize, seal: &Seal) -> Result<(), Broken> {
    let pair = world.pair(s, t);
    let Some(session) = &pair.session else { return Err(Broken::new("a seal comes from nowhere")) };
    let mut leaves = Vec::new();
    for id in &seal.landed {
        let whole = pair.memory.get(id) == Some(&Content::Whole);
        demand(whole, || format!("rank {} seals item {id}, which is not whole there", TARGETS[t]))?;
        let Some(item) = session.manifest().get(*id) else { return Err(Broken::new("what is sealed was not offered")) };
        leaves.push(Leaf { id: *id, version: item.version, bytes: item.bytes, crc32c: content_of(*id) });
    }
    demand(seal.root == root(&leaves), || format!("the root of rank {} is not that of its memory", TARGETS[t]))
}

/// Who is told of an end is told of the generation that the store holds.
pub(crate) fn obeys(world: &World, record: &GenerationRecord, rank: u32) -> Result<(), Broken> {
    let held = world.store.generation(record.generation);
    demand(held.is_some_and(|held| **held == *record), || {
        format!("rank {rank} obeys a generation {} that the store never held", record.generation)
    })
}

/// What a generation says when it becomes true. `world` is as it was just before.
pub(crate) fn decision(world: &World, record: &GenerationRecord) -> Result<(), Broken> {
    let before = world.store.current();
    let shards = |record: &GenerationRecord| -> BTreeSet<String> {
        record.owners.iter().map(|(shard, _)| shard.clone()).collect()
    };
    let complete = shards(record) == shards(before) && record.owners.len() == before.owners.len();
    demand(complete, || format!("generation {} leaves a shard without an owner, or gives it two", record.generation))?;
    let source = SOURCES.iter().position(|rank| record.source.is_some_and(|source| source.rank == *rank));
    let Some(s) = source else { return Err(Broken::new("a generation is about a rank that doesn't leave")) };
    if record.kind == GenerationKind::Withdrawn {
        return demand(record.owners == before.owners, || "a withdrawal changes owners".to_owned());
    }
    let leaves = record.owners.iter().all(|(_, owner)| *owner != SOURCES[s]);
    demand(leaves, || format!("rank {} owns what it has left", SOURCES[s]))?;
    if record.kind == GenerationKind::Handoff { handoff(world, s, record) } else { Ok(()) }
}

fn handoff(world: &World, s: usize, record: &GenerationRecord) -> Result<(), Broken> {
    let source = &world.sources[s];
    demand(source.has_cut, || format!("rank {} hands off while its training goes on", SOURCES[s]))?;
    demand(record.missing.is_empty(), || "a hand-off names what is missing".to_owned())?;
    let manifest = source.session.manifest();
    let mut there: BTreeSet<ItemId> = BTreeSet::new();
    for id in &record.landed {
        let target = manifest.get(*id).map(|item| item.target);
        let t = TARGETS.iter().position(|rank| Some(*rank) == target).unwrap_or(0);
        // Memory of a target that has died since its seal is gone, which nobody could know.
        let whole = !world.targets[t].alive || world.pair(s, t).memory.get(id) == Some(&Content::Whole);
        demand(whole, || format!("item {id} is counted on and is not there"))?;
        there.insert(*id);
    }
    for id in &record.recompute {
        let cost = manifest.get(*id).map(|item| item.cost.clone());
        let Some(RecomputeCost::Compute { from, .. }) = cost else {
            return Err(Broken(format!("item {id} is to be computed, and can't be")));
        };
        demand(from.iter().all(|input| there.contains(input)), || format!("item {id} comes before its inputs"))?;
        there.insert(*id);
    }
    demand(there.len() == manifest.len(), || "a hand-off doesn't cover everything".to_owned())?;
    let migration = source.session.migration();
    let roots: BTreeMap<u32, _> = record.roots.iter().copied().collect();
    for rank in source.heirs.iter().copied() {
        let seal = world.store.seal(&seal_key(migration, rank));
        let same = seal.is_some_and(|seal| roots.get(&rank) == Some(&seal.root));
        demand(same, || format!("the root of rank {rank} is not the one that it sealed"))?;
    }
    Ok(())
}

/// What holds in every state.
pub(crate) fn always(world: &World) -> Result<(), Broken> {
    let mut acting: BTreeMap<&str, Vec<(u64, u32, bool)>> = BTreeMap::new();
    for (s, source) in world.sources.iter().enumerate().filter(|(_, source)| source.alive) {
        let rank = SOURCES[s];
        let base = source.session.migration().generation;
        let record = match (source.session.state().is_over(), &source.end) {
            (true, Some(end)) => Some(&**end),
            (false, _) if !source.has_cut => world.store.generation(base).map(|record| &**record),
            _ => None,
        };
        for (shard, _) in record.into_iter().flat_map(|record| &record.owners).filter(|(_, owner)| *owner == rank) {
            let generation = record.map_or(base, |record| record.generation);
            acting.entry(shard).or_default().push((generation, rank, false));
        }
    }
    for (s, t) in world.places() {
        let pair = world.pair(s, t);
        if let (Some(TargetState::Committed | TargetState::Restored), Some(end)) = (pair.state(), &pair.end) {
            let handed = pair.state() == Some(TargetState::Committed);
            let source = end.source.map(|source| source.rank);
            let of_source = world.store.generation(end.base).into_iter().flat_map(|base| base.owners.iter());
            let taken: BTreeSet<&str> =
                of_source.filter(|(_, owner)| Some(*owner) == source).map(|(shard, _)| shard.as_str()).collect();
            for (shard, _) in end.owners.iter().filter(|(_, owner)| *owner == TARGETS[t]) {
                if taken.contains(shard.as_str()) {
                    acting.entry(shard).or_default().push((end.generation, TARGETS[t], handed));
                }
            }
        }
    }
    for (shard, actors) in acting {
        for (at, (generation, rank, handed)) in actors.iter().enumerate() {
            for (other_generation, other, other_handed) in &actors[at + 1..] {
                let same = generation == other_generation && rank != other;
                demand(!same, || format!("ranks {rank} and {other} both own `{shard}` in generation {generation}"))?;
                // Bytes were handed over: then the one who had them must have stopped before.
                let beside = rank != other && (*handed || *other_handed) && generation != other_generation;
                demand(!beside, || format!("ranks {rank} and {other} act for `{shard}` at the same time"))?;
            }
        }
    }
    Ok(())
}

/// Who took part has ended by the generation that ended his migration, also when others have followed it since.
fn as_decided(world: &World) -> Result<(), Broken> {
    let ends = |migration: MigrationId| world.store.history().iter().find(|record| record.ends(migration));
    for (s, source) in world.sources.iter().enumerate().filter(|(_, source)| source.alive) {
        let end = ends(source.session.migration()).zip(source.end.as_ref());
        let same = end.is_none_or(|(decided, end)| decided.generation == end.generation);
        demand(same, || format!("source {} obeys another generation than its own", SOURCES[s]))?;
    }
    for (s, t) in world.places() {
        let pair = world.pair(s, t);
        let Some(session) = &pair.session else { continue };
        let end = ends(session.migration()).zip(pair.end.as_ref());
        let same = end.is_none_or(|(decided, end)| decided.generation == end.generation);
        demand(same, || format!("target {} obeys another generation than its migration's", TARGETS[t]))?;
    }
    Ok(())
}

/// What holds when nothing is bound to happen any more; how it ended, in words.
pub(crate) fn at_rest(world: &World) -> Result<String, Broken> {
    let latest = world.store.current();
    let mut failed = 0;
    for (s, source) in world.sources.iter().enumerate().filter(|(_, source)| source.alive) {
        let state = source.session.state();
        let settled = state.is_over() || state == SourceState::Failed;
        demand(settled, || format!("source {} rests in {}", SOURCES[s], state.name()))?;
        let decided = latest.generation > source.session.migration().generation;
        demand(!decided || state.is_over(), || format!("source {} never hears what was decided", SOURCES[s]))?;
        demand(source.writes.is_empty(), || format!("a write of source {} never ends", SOURCES[s]))?;
        failed += usize::from(!state.is_over());
    }
    for (s, t) in world.places() {
        let pair = world.pair(s, t);
        let Some(session) = &pair.session else { continue };
        let state = session.state();
        let settled = state.is_over() || matches!(state, TargetState::Failed | TargetState::Idle);
        demand(settled, || format!("target {} rests in {}", TARGETS[t], state.name()))?;
        let decided = latest.generation > session.migration().generation;
        demand(!decided || state.is_over(), || format!("target {} never hears what was decided", TARGETS[t]))?;
        let open = !pair.fenced && !pair.memory.is_empty();
        demand(!open, || format!("target {} ended with memory that can be written", TARGETS[t]))?;
        failed += usize::from(state == TargetState::Failed);
    }
    as_decided(world)?;
    let decided =
        world.store.history()[1..].iter().map(|record| record.kind.name()).collect::<Vec<_>>().join(", then ");
    if !decided.is_empty() {
        return Ok(decided);
    }
    demand(latest.generation == BASE, || "a generation is skipped".to_owned())?;
    let lives = world.sources.iter().any(|source| source.alive);
    Ok(match (lives, failed) {
        (true, _) => "nothing decided: who lives says that it failed, and the source owns".to_owned(),
        (false, 0) => "nothing decided: nobody who took part lives".to_owned(),
        (false, _) => "nothing decided: the source is dead, and targets say that they failed".to_owned(),
    })
}
