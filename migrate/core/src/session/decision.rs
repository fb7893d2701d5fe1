//! Which generation follows from the seals: everything that a target knows goes in, one record comes out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::generation::{GenerationKind, GenerationRecord, Root};
use crate::item::ItemId;
use crate::limits;
use crate::manifest::{Manifest, coverage};
use crate::message::{Cut, MigrationId};
use crate::planted::{self, Bug};
use crate::seal::Seal;

/// What one target knows when it proposes.
pub(super) struct Evidence<'a> {
    pub(super) migration: MigrationId,
    /// The target that proposes.
    pub(super) me: u32,
    pub(super) targets: &'a [u32],
    pub(super) owners_after: &'a [(String, u32)],
    pub(super) manifest: &'a Manifest,
    /// Seals by rank, as the store has them.
    pub(super) seals: &'a BTreeMap<u32, Seal>,
    /// Ranks that are gone, and how that was noticed; not the source.
    pub(super) gone: &'a BTreeMap<u32, String>,
    /// How it was noticed that the source is gone, if it is.
    pub(super) source_gone: Option<&'a str>,
}

impl Evidence<'_> {
    /// What follows while there is time. Nothing yet, as long as seals are to come, or if another target knows items
    /// that this one doesn't: it has to decide.
    pub(super) fn decide(&self) -> Option<GenerationRecord> {
        let sealed = |rank: &u32| self.seals.contains_key(rank) || planted::is(Bug::CommitWithoutSeals);
        let all_sealed = self.targets.iter().all(sealed);
        let whole = self.cut().is_none_or(|cut| self.is_whole(cut));
        (all_sealed && whole).then(|| self.decide_now())
    }

    /// What follows from what there is, and nothing more will come.
    ///
    /// Ownership passes with its bytes only if every target that takes over is there and has sealed, the source said
    /// what is complete, and whatever didn't land can be had again. Everything else goes back to a checkpoint.
    pub(super) fn decide_now(&self) -> GenerationRecord {
        let landed: BTreeSet<ItemId> = self.present_seals().flat_map(|seal| &seal.landed).copied().collect();
        let mut unreachable: BTreeSet<u32> = self.gone.keys().copied().collect();
        unreachable.insert(self.migration.source.rank);
        let coverage = coverage(self.manifest, &landed, &unreachable);
        let obstacles = self.obstacles(coverage.missing.len());
        let handoff = obstacles.is_empty();

        let reason = if !handoff {
            obstacles.join("; ")
        } else if coverage.recompute.is_empty() {
            format!("all {} items landed", landed.len())
        } else {
            format!("{} of {} items landed, the others are had again", landed.len(), self.manifest.len())
        };
        let name = |item: &ItemId| self.manifest.get(*item).map(|item| item.name.to_string());
        GenerationRecord {
            generation: self.migration.generation.saturating_add(1),
            base: self.migration.generation,
            kind: if handoff { GenerationKind::Handoff } else { GenerationKind::Restore },
            source: Some(self.migration.source),
            attempt: self.migration.attempt,
            owners: self.owners(),
            roots: self.present_seals().map(|seal| (seal.target.rank, seal.root)).collect::<Vec<(u32, Root)>>(),
            landed: landed.into_iter().collect(),
            recompute: if handoff { coverage.recompute } else { Vec::new() },
            missing: coverage.missing.iter().filter_map(name).take(limits::MISSING_NAMES_MAX).collect(),
            reason: crate::codec::cut(&reason, limits::REASON_LEN_BYTES_MAX).to_owned(),
            record: self.cut().map_or_else(Bytes::new, |cut| cut.record.clone()),
        }
    }

    /// Why ownership can't pass with its bytes; nothing when it can.
    fn obstacles(&self, missing: usize) -> Vec<String> {
        let mut obstacles = Vec::new();
        for rank in self.targets {
            if let Some(how) = self.gone.get(rank) {
                obstacles.push(format!("rank {rank} is gone ({how})"));
            } else if !self.seals.contains_key(rank) && !planted::is(Bug::CommitWithoutSeals) {
                obstacles.push(format!("rank {rank} did not seal in time"));
            }
        }
        match (self.cut(), self.source_gone) {
            (Some(cut), _) if self.is_whole(cut) => {}
            (Some(_), _) => obstacles.push(format!("rank {} was not offered every item", self.me)),
            // Whoever didn't seal may have known: that is obstacle enough.
            (None, _) if !obstacles.is_empty() => {}
            (None, Some(how)) => {
                let source = self.migration.source.rank;
                obstacles.push(format!("rank {source} was gone ({how}) before it had offered everything"));
            }
            (None, None) if planted::is(Bug::CommitWithoutCut) => {}
            (None, None) => obstacles.push("the deadline passed before everything was offered".to_owned()),
        }
        if missing > 0 && !planted::is(Bug::CommitWithoutAll) {
            obstacles.push(format!("lost: {missing} of {} items", self.manifest.len()));
        }
        obstacles
    }

    /// The owners afterwards. What would belong to a target that is gone goes to the one that proposes, which isn't:
    /// no shard is ever without an owner. A rank that has no part in this migration keeps what it owns, also when it
    /// can't be seen from here: a hand-over between others is no judgement on it.
    fn owners(&self) -> Vec<(String, u32)> {
        let has_part = |rank: u32| self.targets.contains(&rank) || planted::is(Bug::TakeFromBystanders);
        let is_lost = |rank: u32| has_part(rank) && self.gone.contains_key(&rank);
        let owner = |rank: u32| if is_lost(rank) { self.me } else { rank };
        self.owners_after.iter().map(|(shard, rank)| (shard.clone(), owner(*rank))).collect()
    }

    /// What the source said at the cut, if it reached any target.
    fn cut(&self) -> Option<&Cut> {
        self.seals.values().find_map(|seal| seal.cut.as_ref())
    }

    /// Whether this target knows all items.
    fn is_whole(&self, cut: &Cut) -> bool {
        self.manifest.len() == cut.total_items as usize || planted::is(Bug::CommitHalfKnown)
    }

    /// The seals of the targets that are there: what a process that is gone had, is gone too.
    fn present_seals(&self) -> impl Iterator<Item = &Seal> {
        self.seals.values().filter(|seal| !self.gone.contains_key(&seal.target.rank))
    }
}

#[cfg(test)]
mod tests;
