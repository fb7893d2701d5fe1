//! A target's own items: memory for them, what arrived in it, and what was found to be whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xfer_transport_core::RemoteRegion;
use xfer_transport_core::landed::Landed;

use super::Violation;
use crate::item::{Item, ItemId};
use crate::seal::Leaf;

/// One sending of an item, as the source announced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Arrived {
    /// Which sending.
    pub(super) send: u32,
    /// The digest of what was read at the source.
    pub(super) crc32c: u32,
}

/// Where an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// There is no memory for it yet.
    Offered,
    /// It has memory. The latest sending that was found damaged, or 0.
    Granted { damaged_send: u32 },
    /// It arrived, and is being compared with its digest.
    Verifying(Arrived),
    /// It is there, whole and verified.
    Landed(Arrived),
}

#[derive(Debug, Clone, Hash)]
struct Entry {
    bytes: u64,
    version: u64,
    stage: Stage,
}

/// What to do about a message that says that an item was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnSent {
    /// Compare it with its digest.
    Verify,
    /// Say again that it landed.
    Repeat,
    /// Nothing: it is being looked at, or was found damaged.
    Known,
}

/// All items of a target.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Inbox {
    entries: BTreeMap<ItemId, Entry>,
    /// Offers whose memory is being allocated, oldest first.
    allocating: VecDeque<(u32, BTreeSet<ItemId>)>,
    /// What is yet to land: neither there, nor said not to be sent.
    to_land: BTreeSet<ItemId>,
    /// How many items are being compared with their digests.
    verifying: usize,
    /// The bytes of all items.
    bytes: u64,
}

impl Inbox {
    /// Takes in this target's items of one offer. What is to be allocated for them.
    pub(super) fn add<'a>(&mut self, sequence: u32, items: impl Iterator<Item = &'a Item>) -> Vec<(ItemId, u64)> {
        let mut added = Vec::new();
        for item in items {
            let entry = Entry { bytes: item.bytes, version: item.version, stage: Stage::Offered };
            self.entries.insert(item.id, entry);
            self.to_land.insert(item.id);
            self.bytes = self.bytes.saturating_add(item.bytes);
            added.push((item.id, item.bytes));
        }
        if !added.is_empty() {
            self.allocating.push_back((sequence, added.iter().map(|(item, _)| *item).collect()));
        }
        added
    }

    /// The bytes of all items together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is said to be there is of the oldest offer that waits for memory, and no longer than its items.
    pub(super) fn check_kept(&self, items: &[(ItemId, Landed)]) -> Result<(), Violation> {
        let (_, expected) =
            self.allocating.front().ok_or(Violation::Grants { reason: "nothing is being allocated" })?;
        let fits = |(item, landed): &(ItemId, Landed)| {
            let entry = self.entries.get(item).filter(|_| expected.contains(item));
            entry.is_some_and(|entry| landed.ranges().all(|(range, _)| range.end <= entry.bytes))
        };
        if items.iter().all(fits) {
            Ok(())
        } else {
            Err(Violation::Grants { reason: "what was kept is of other items than the oldest offer's, or longer" })
        }
    }

    /// Takes memory for the oldest offer that waits for some: that offer's sequence.
    pub(super) fn allocated(&mut self, grants: &[(ItemId, RemoteRegion)]) -> Result<u32, Violation> {
        let (sequence, expected) =
            self.allocating.front().ok_or(Violation::Grants { reason: "nothing is being allocated" })?;
        let sequence = *sequence;
        let granted: BTreeSet<ItemId> = grants.iter().map(|(item, _)| *item).collect();
        if granted != *expected || grants.len() != expected.len() {
            return Err(Violation::Grants { reason: "they are for other items than the oldest offer's" });
        }
        let fits = |(item, region): &(ItemId, RemoteRegion)| {
            self.entries.get(item).is_some_and(|entry| entry.bytes == region.len_bytes)
        };
        if !grants.iter().all(fits) {
            return Err(Violation::Grants { reason: "a region is not as long as its item" });
        }
        self.allocating.pop_front();
        for item in granted {
            if let Some(entry) = self.entries.get_mut(&item) {
                entry.stage = Stage::Granted { damaged_send: 0 };
            }
        }
        Ok(sequence)
    }

    /// The source says that all bytes of an item were applied here.
    pub(super) fn sent(
        &mut self,
        rank: u32,
        item: ItemId,
        version: u64,
        arrived: Arrived,
    ) -> Result<OnSent, Violation> {
        let entry = self.entries.get_mut(&item).ok_or(Violation::UnknownItem { item, rank })?;
        if entry.version != version {
            return Err(Violation::OtherContent { item });
        }
        match entry.stage {
            Stage::Granted { damaged_send } if arrived.send > damaged_send => {
                entry.stage = Stage::Verifying(arrived);
                self.verifying += 1;
                Ok(OnSent::Verify)
            }
            Stage::Granted { .. } => Ok(OnSent::Known),
            Stage::Verifying(known) | Stage::Landed(known) if arrived.send < known.send => Ok(OnSent::Known),
            Stage::Verifying(known) if known == arrived => Ok(OnSent::Known),
            Stage::Landed(known) if known == arrived => Ok(OnSent::Repeat),
            Stage::Verifying(_) | Stage::Landed(_) => Err(Violation::OtherContent { item }),
            Stage::Offered => Err(Violation::Item { what: "sent", item }),
        }
    }

    /// An item was compared with its digest: the sending that it was.
    pub(super) fn verified(&mut self, item: ItemId, crc32c: u32, ok: bool) -> Result<u32, Violation> {
        let wrong = Violation::Item { what: "verified", item };
        let Some(entry) = self.entries.get_mut(&item) else { return Err(wrong) };
        let Stage::Verifying(arrived) = entry.stage else { return Err(wrong) };
        if arrived.crc32c != crc32c {
            return Err(wrong);
        }
        self.verifying -= 1;
        if ok {
            entry.stage = Stage::Landed(arrived);
            self.to_land.remove(&item);
        } else {
            entry.stage = Stage::Granted { damaged_send: arrived.send };
        }
        Ok(arrived.send)
    }

    /// The source doesn't send these.
    pub(super) fn skip(&mut self, rank: u32, skipped: &[ItemId]) -> Result<(), Violation> {
        if let Some(item) = skipped.iter().find(|item| !self.entries.contains_key(item)) {
            return Err(Violation::UnknownItem { item: *item, rank });
        }
        for item in skipped {
            self.to_land.remove(item);
        }
        Ok(())
    }

    /// Whether nothing more can come: each item landed, or isn't sent.
    pub(super) fn is_complete(&self) -> bool {
        self.to_land.is_empty()
    }

    /// Whether an item is being compared with its digest.
    pub(super) fn is_verifying(&self) -> bool {
        self.verifying > 0
    }

    /// What landed, in the order of ids.
    pub(super) fn leaves(&self) -> Vec<Leaf> {
        let leaf = |(id, entry): (&ItemId, &Entry)| match entry.stage {
            Stage::Landed(arrived) => {
                Some(Leaf { id: *id, version: entry.version, bytes: entry.bytes, crc32c: arrived.crc32c })
            }
            _ => None,
        };
        self.entries.iter().filter_map(leaf).collect()
    }

    /// What didn't, in the order of ids.
    pub(super) fn missing(&self) -> Vec<ItemId> {
        let landed = |entry: &Entry| matches!(entry.stage, Stage::Landed(_));
        self.entries.iter().filter(|(_, entry)| !landed(entry)).map(|(item, _)| *item).collect()
    }
}

#[cfg(test)]
mod tests;
