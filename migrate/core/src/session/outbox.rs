//! The source's items on their way: granted, posted within a window, applied, landed, or given up.

mod entries;
mod kept;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xfer_transport_core::RemoteRegion;
use xfer_transport_core::landed::Landed;

use entries::Entries;
pub(super) use kept::Found;

use super::Violation;
use crate::item::{Item, ItemId};
use crate::limits;
use crate::plan::Standing;
use crate::planted::{self, Bug};

/// Where an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// Here; to be sent when its turn comes and there is memory for it.
    Waiting,
    /// What its target has kept of it is to be compared with what is here.
    Comparing,
    /// Given to the transport.
    Posted,
    /// All its bytes were applied at the target, which checks them.
    Applied,
    /// There, whole and verified.
    Landed,
    /// Not sent any more.
    GivenUp,
}

#[derive(Debug, Clone, Hash)]
struct Entry {
    target: u32,
    bytes: u64,
    irreplaceable: bool,
    granted: Option<RemoteRegion>,
    /// What its target has of it: as it says, and once that was compared, as it is.
    kept: Landed,
    /// What the next write of it carries, or the one that is under way.
    missing_bytes: u64,
    stage: Stage,
    /// How often it was posted.
    sends: u32,
    /// Its place in the order; none while the plan doesn't send it.
    place: Option<usize>,
}

/// What became of an item that has to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It is.
    Queued,
    /// It isn't, and the job can do without it.
    GivenUp,
    /// It isn't, and the job can't do without it.
    Lost,
}

/// All items of a source, and the window of those that are posted.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Outbox {
    entries: Entries<Entry>,
    tally: Tally,
    /// What is still to be compared, and what is being compared.
    to_compare: VecDeque<ItemId>,
    comparing: Option<ItemId>,
    /// Whether an item weighs something else than it did.
    reweighed: bool,
}

/// What follows from the entries, kept up with them: it is asked for at every step.
#[derive(Debug, Clone, Default, Hash)]
struct Tally {
    /// What may be posted now: waiting, in the order, and granted.
    ready: BTreeSet<(usize, ItemId)>,
    /// What is waiting, in the order, and has no memory yet.
    ungranted: BTreeSet<(usize, ItemId)>,
    posted_items: usize,
    posted_bytes: u64,
    /// For each target, how many items are yet to land there.
    to_land: BTreeMap<u32, usize>,
}

impl Outbox {
    pub(super) fn add(&mut self, item: &Item) {
        let entry = Entry {
            target: item.target,
            bytes: item.bytes,
            irreplaceable: item.cost.is_irreplaceable(),
            granted: None,
            kept: Landed::default(),
            missing_bytes: item.bytes,
            stage: Stage::Waiting,
            sends: 0,
            place: None,
        };
        self.tally.add(item.id, &entry);
        self.entries.insert(item.id, entry);
    }

    /// Takes memory for items of `target`. All of it is checked before any of it is taken.
    pub(super) fn grant(&mut self, target: u32, grants: &[(ItemId, RemoteRegion)]) -> Result<(), Violation> {
        for (item, region) in grants {
            let entry = self.of_target(*item, target)?;
            if entry.bytes != region.len_bytes {
                return Err(Violation::Grants { reason: "a region is not as long as its item" });
            }
            if entry.granted.is_some_and(|granted| granted != *region) {
                return Err(Violation::Grants { reason: "an item was granted other memory before" });
            }
        }
        for (item, region) in grants {
            self.update(*item, |entry| {
                let is_news = entry.granted.replace(*region).is_none();
                if is_news && entry.stage == Stage::Waiting && !entry.kept.is_empty() {
                    entry.stage = Stage::Comparing;
                }
            });
            if self.entries.get(*item).is_some_and(|entry| entry.stage == Stage::Comparing) {
                self.to_compare.push_back(*item);
            }
        }
        Ok(())
    }

    /// What isn't in `order` is not sent any more, unless it is posted already.
    pub(super) fn set_order(&mut self, order: &[ItemId]) {
        self.entries.iter_mut().for_each(|(_, entry)| entry.place = None);
        let mut queues = [Vec::new(), Vec::new()];
        for (place, item) in order.iter().enumerate() {
            let Some(entry) = self.entries.get_mut(*item) else { continue };
            entry.place = Some(place);
            if entry.stage == Stage::Waiting {
                queues[usize::from(entry.granted.is_some())].push((place, *item));
            }
        }
        let mut to_land: BTreeMap<u32, usize> = BTreeMap::new();
        for (_, entry) in self.entries.iter().filter(|(_, entry)| entry.is_to_land()) {
            *to_land.entry(entry.target).or_default() += 1;
        }
        // They come sorted, and sets of sorted things are made at once, not one by one.
        let [ungranted, ready] = queues.map(|queue| queue.into_iter().collect());
        (self.tally.ungranted, self.tally.ready, self.tally.to_land) = (ungranted, ready, to_land);
    }

    /// The next item to post, if the window has room for it: where, and to whom.
    ///
    /// While what comes before it waits for memory, an item may go ahead so that the link isn't idle, but only one at a
    /// time: a whole window of them would be in the way once that memory is there.
    pub(super) fn post(&mut self) -> Option<(ItemId, u32, RemoteRegion, Landed)> {
        let ready = &self.tally.ready;
        let next = *if planted::is(Bug::LastFirst) { ready.last() } else { ready.first() }?;
        let (_, item) = next;
        let entry = self.entries.get(item)?;
        let (target, remote, there) = (entry.target, entry.granted?, entry.kept.clone());
        let out_of_turn = self.tally.ungranted.first().is_some_and(|before| *before < next);
        if !self.tally.has_room(if out_of_turn { u64::MAX } else { entry.missing_bytes }) {
            return None;
        }
        self.update(item, |entry| {
            entry.stage = Stage::Posted;
            entry.sends += 1;
        });
        Some((item, target, remote, there))
    }

    /// A posted item was applied: whose it is, and which sending of it this was.
    pub(super) fn applied(&mut self, item: ItemId) -> Result<(u32, u32), Violation> {
        let entry = self.posted_entry(item, "written")?;
        let applied = (entry.target, entry.sends);
        self.update(item, |entry| entry.stage = Stage::Applied);
        Ok(applied)
    }

    /// A posted item did not arrive.
    pub(super) fn failed(&mut self, item: ItemId, retry: bool) -> Result<Again, Violation> {
        self.posted_entry(item, "write failed")?;
        Ok(self.again(item, retry))
    }

    /// `target` verified a sending of an item. Says whether that is news.
    pub(super) fn landed(&mut self, target: u32, item: ItemId, send: u32) -> Result<bool, Violation> {
        let entry = self.of_target(item, target)?;
        match entry.stage {
            Stage::Applied if entry.sends == send => {
                self.update(item, |entry| entry.stage = Stage::Landed);
                Ok(true)
            }
            Stage::Landed if entry.sends == send => Ok(false),
            _ => Err(Violation::Item { what: "landed", item }),
        }
    }

    /// `target` found a sending of an item damaged. Nothing when that is known.
    pub(super) fn damaged(&mut self, target: u32, item: ItemId, send: u32) -> Result<Option<Again>, Violation> {
        let entry = self.of_target(item, target)?;
        match entry.stage {
            Stage::Applied if entry.sends == send => Ok(Some(self.again(item, true))),
            Stage::Waiting | Stage::GivenUp if send <= entry.sends => Ok(None),
            _ if send < entry.sends => Ok(None),
            _ => Err(Violation::Item { what: "damaged", item }),
        }
    }

    /// Gives up what `target` doesn't have yet and isn't posted.
    pub(super) fn give_up_target(&mut self, target: u32) {
        for (item, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.target == target) {
            if matches!(entry.stage, Stage::Waiting | Stage::Comparing | Stage::Applied) {
                self.tally.remove(item, entry);
                entry.stage = Stage::GivenUp;
                self.tally.add(item, entry);
            }
        }
    }

    /// Whether nothing is yet to land at `target`.
    pub(super) fn is_finished(&self, target: u32) -> bool {
        !self.tally.to_land.contains_key(&target)
    }

    /// What `target` doesn't get as things are, in the order of ids.
    pub(super) fn skipped(&self, target: u32) -> Vec<ItemId> {
        let skipped = |entry: &Entry| entry.target == target && entry.stage != Stage::Landed && !entry.is_to_land();
        self.entries.iter().filter(|(_, entry)| skipped(entry)).map(|(item, _)| item).collect()
    }

    /// How an item stands for a plan.
    pub(super) fn standing(&self, item: ItemId) -> Standing {
        let Some(entry) = self.entries.get(item) else { return Standing::GivenUp };
        match (entry.stage, entry.place) {
            (Stage::Waiting | Stage::Comparing, _) if entry.missing_bytes == 0 => Standing::Sent,
            (Stage::Waiting | Stage::Comparing, None) => Standing::Open,
            (Stage::Waiting | Stage::Comparing, Some(_)) => Standing::Planned,
            (Stage::Posted | Stage::Applied | Stage::Landed, _) => Standing::Sent,
            (Stage::GivenUp, _) => Standing::GivenUp,
        }
    }

    /// What is posted, in the order of ids.
    pub(super) fn posted(&self) -> impl Iterator<Item = ItemId> {
        self.entries.iter().filter(|(_, entry)| entry.stage == Stage::Posted).map(|(item, _)| item)
    }

    /// What is posted, in bytes that are to be carried.
    pub(super) fn posted_bytes(&self) -> u64 {
        self.tally.posted_bytes
    }

    fn again(&mut self, item: ItemId, retry: bool) -> Again {
        let mut again = Again::GivenUp;
        // What is there was written over in part, or isn't what it was said to be.
        self.forget(item);
        self.update(item, |entry| {
            if retry && entry.sends < limits::SENDS_PER_ITEM_MAX {
                entry.stage = Stage::Waiting;
                again = Again::Queued;
            } else {
                entry.stage = Stage::GivenUp;
                again = if entry.irreplaceable { Again::Lost } else { Again::GivenUp };
            }
        });
        again
    }

    fn update(&mut self, item: ItemId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(item) {
            self.tally.remove(item, entry);
            change(entry);
            self.tally.add(item, entry);
        }
    }

    fn posted_entry(&self, item: ItemId, what: &'static str) -> Result<&Entry, Violation> {
        let entry = self.entries.get(item).filter(|entry| entry.stage == Stage::Posted);
        entry.ok_or(Violation::Item { what, item })
    }

    fn of_target(&self, item: ItemId, target: u32) -> Result<&Entry, Violation> {
        let entry = self.entries.get(item).filter(|entry| entry.target == target);
        entry.ok_or(Violation::UnknownItem { item, rank: target })
    }
}

impl Entry {
    /// Its place in the order, if its turn is still to come.
    fn waiting_at(&self) -> Option<usize> {
        self.place.filter(|_| self.stage == Stage::Waiting)
    }

    fn is_to_land(&self) -> bool {
        match self.stage {
            // Of what its target has, only that has to be said.
            Stage::Waiting => self.place.is_some() || self.missing_bytes == 0,
            Stage::Comparing | Stage::Posted | Stage::Applied => true,
            Stage::Landed | Stage::GivenUp => false,
        }
    }
}

impl Tally {
    /// An item larger than the whole window travels alone.
    fn has_room(&self, bytes: u64) -> bool {
        let fits = self.posted_items < limits::WINDOW_ITEMS_MAX
            && self.posted_bytes.saturating_add(bytes) <= limits::WINDOW_BYTES_MAX;
        self.posted_items == 0 || fits
    }

    fn queue_of(&mut self, entry: &Entry) -> &mut BTreeSet<(usize, ItemId)> {
        if entry.granted.is_some() { &mut self.ready } else { &mut self.ungranted }
    }

    fn add(&mut self, item: ItemId, entry: &Entry) {
        if let Some(place) = entry.waiting_at() {
            self.queue_of(entry).insert((place, item));
        }
        if entry.stage == Stage::Posted {
            self.posted_items += 1;
            self.posted_bytes += entry.missing_bytes;
        }
        if entry.is_to_land() {
            *self.to_land.entry(entry.target).or_default() += 1;
        }
    }

    /// Takes back what [`Tally::add`] did for the same entry.
    fn remove(&mut self, item: ItemId, entry: &Entry) {
        if let Some(place) = entry.waiting_at() {
            self.queue_of(entry).remove(&(place, item));
        }
        if entry.stage == Stage::Posted {
            self.posted_items -= 1;
            self.posted_bytes -= entry.missing_bytes;
        }
        if entry.is_to_land()
            && let Some(count) = self.to_land.get_mut(&entry.target)
        {
            *count -= 1;
            if *count == 0 {
                self.to_land.remove(&entry.target);
            }
        }
    }
}

#[cfg(test)]
mod tests;
