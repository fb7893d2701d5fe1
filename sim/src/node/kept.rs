//! What has landed at a process in migrations that ended without making it an owner: as the driver keeps it, in virtual time.

use xfer_migrate_core::{GenerationRecord, Item};
use xfer_transport_core::Time;

use super::{Habits, Node};
use crate::memory::{MemoryId, Use};
use crate::outside::Outside;

/// What is kept, as memory of the simulator's.
pub type Kept = xfer_migrate_core::Kept<MemoryId>;

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
        for (item, memory) in items {
            if out.memory.known(memory).is_empty() {
                give_back(out, memory);
            } else {
                self.kept.keep(source, &item, memory, (now, deadline), |memory| give_back(out, memory));
            }
        }
    }

    /// What is kept of an item that `source` offers again, if it is the same one.
    pub(super) fn take_kept(&mut self, out: &mut Outside, source: u32, item: &Item) -> Option<MemoryId> {
        let now = self.local(out.now);
        self.kept.take(source, item, now, |memory| give_back(out, memory))
    }

    /// Makes room for what migrations to this process have asked for.
    pub(super) fn shrink_kept(&mut self, out: &mut Outside, habits: &Habits, asked_bytes: u64) {
        let all = habits.memory_bytes.get(&self.id.rank).copied().unwrap_or(u64::MAX);
        self.kept.shrink_to(all.saturating_sub(asked_bytes), |memory| give_back(out, memory));
    }

    /// Gives back what came from `source`, or all of it.
    pub(super) fn forget_kept(&mut self, out: &mut Outside, source: Option<u32>) {
        let free = |memory| give_back(out, memory);
        match source {
            Some(source) => self.kept.forget(source, free),
            None => self.kept.shrink_to(0, free),
        }
    }

    /// What nobody comes again with after `record` is given back.
    pub(super) fn kept_after(&mut self, out: &mut Outside, record: &GenerationRecord) {
        self.kept.settle(record, |memory| give_back(out, memory));
    }
}

/// What is still granted is being fenced just now.
pub(super) fn give_back(out: &mut Outside, memory: MemoryId) {
    if !matches!(out.memory.state(memory), Use::Granted(_)) {
        out.memory.set_use(memory, Use::Free);
    }
}
