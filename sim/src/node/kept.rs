//! What has landed at a process in migrations that ended without making it an owner: as the driver keeps it, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use xfer_migrate_core::{GenerationKind, GenerationRecord, Item};
use xfer_transport_core::Time;

use super::{Habits, Node};
use crate::memory::{MemoryId, Use};
use crate::outside::Outside;

/// How long it is kept at most.
const KEPT_TIME_MAX: Duration = Duration::from_secs(600);

/// Items by the rank that sent them, and by name.
pub type Kept = BTreeMap<(u32, String), KeptItem>;

/// Memory in which some of an item has landed.
#[derive(Debug, Clone, Copy)]
pub struct KeptItem {
    version: u64,
    memory: MemoryId,
    until: Time,
}

impl Node {
    /// Keeps what has landed of `items` of `source` until `deadline`, by this process's clock; gives back the rest.
    pub(super) fn keep(
        &mut self,
        out: &mut Outside,
        source: u32,
        items: impl Iterator<Item = (Item, MemoryId)>,
        deadline: Time,
    ) {
        let now = self.local(out.now);
        let until = deadline.min(now.after(KEPT_TIME_MAX));
        for (item, memory) in items {
            let before = if until > now && !out.memory.known(memory).is_empty() {
                let kept = KeptItem { version: item.version, memory, until };
                self.kept.insert((source, item.name.to_string()), kept).map(|kept| kept.memory)
            } else {
                Some(memory)
            };
            before.into_iter().for_each(|memory| give_back(out, memory));
        }
    }

    /// What is kept of an item that `source` offers again, if it is the same one.
    pub(super) fn take_kept(&mut self, out: &mut Outside, source: u32, item: &Item) -> Option<MemoryId> {
        let kept = self.kept.remove(&(source, item.name.to_string()))?;
        let is_same = kept.version == item.version && out.memory.bytes(kept.memory).len() as u64 == item.bytes;
        if !is_same || kept.until <= self.local(out.now) {
            give_back(out, kept.memory);
            return None;
        }
        Some(kept.memory)
    }

    /// Makes room for what migrations to this process have asked for.
    pub(super) fn shrink_kept(&mut self, out: &mut Outside, habits: &Habits, asked_bytes: u64) {
        let all = habits.memory_bytes.get(&self.id.rank).copied().unwrap_or(u64::MAX);
        let spare_bytes = all.saturating_sub(asked_bytes);
        let bytes = |kept: &Kept, out: &Outside| -> u64 {
            kept.values().map(|kept| out.memory.bytes(kept.memory).len() as u64).sum()
        };
        while bytes(&self.kept, out) > spare_bytes {
            let first = self.kept.iter().min_by_key(|(name, kept)| (kept.until, *name)).map(|(name, _)| name.clone());
            let Some(kept) = first.and_then(|name| self.kept.remove(&name)) else { return };
            give_back(out, kept.memory);
        }
    }

    /// Gives back what came from `source`, or all of it.
    pub(super) fn forget_kept(&mut self, out: &mut Outside, source: Option<u32>) {
        self.kept.retain(|(rank, _), kept| {
            let stays = source.is_some_and(|source| source != *rank);
            if !stays {
                give_back(out, kept.memory);
            }
            stays
        });
    }

    /// A rank whose state has passed on, or that goes back to a checkpoint like all others, has nothing to come again with.
    pub(super) fn kept_after(&mut self, out: &mut Outside, record: &GenerationRecord) {
        match (record.kind, record.source) {
            (GenerationKind::Handoff, Some(source)) => self.forget_kept(out, Some(source.rank)),
            (GenerationKind::Restore, _) => self.forget_kept(out, None),
            _ => {}
        }
    }
}

/// What is still granted is being fenced just now.
pub(super) fn give_back(out: &mut Outside, memory: MemoryId) {
    if !matches!(out.memory.state(memory), Use::Granted(_)) {
        out.memory.set_use(memory, Use::Free);
    }
}
