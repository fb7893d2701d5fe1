//! What has landed here in migrations that ended without making this process an owner: kept for the next attempt of the same rank.
//!
//! It is memory that nobody else needs, so it never costs anybody anything: it gives way to whatever is to land, and is freed at the
//! deadline of the rank that sent it, when that rank's state has passed on, or when a new attempt of it has been offered as a whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use xfer_migrate_core::Item;
use xfer_transport::{Landed, Region};
use xfer_transport_core::Time;

use crate::migrations::{View, lock};

/// How long it is kept at most: several times the longest notice of a spot machine, since a deadline is for a peer to say.
const KEPT_TIME_MAX: Duration = Duration::from_secs(600);

/// Items by the rank that sent them, and by name: a rank that was started again is another process with the same items.
#[derive(Default)]
pub(crate) struct Kept {
    items: HashMap<(u32, Arc<str>), KeptItem>,
    bytes: u64,
}

/// Memory of one item, and what has landed in it.
pub(crate) struct KeptItem {
    version: u64,
    region: Region,
    /// Where a user may still find it.
    view: Arc<Mutex<View>>,
    until: Time,
}

impl Kept {
    /// Keeps what has landed of `items`, which come from `source`, until `deadline`. No peer may write it any more once all fences that
    /// were asked for have been reached.
    pub(crate) fn keep(
        &mut self,
        source: u32,
        items: impl Iterator<Item = (Item, Region)>,
        view: &Arc<Mutex<View>>,
        (now, deadline): (Time, Time),
    ) {
        let until = deadline.min(now.after(KEPT_TIME_MAX));
        for (item, region) in items.filter(|(_, region)| until > now && !region.landed().is_empty()) {
            self.bytes += region.len_bytes();
            let kept = KeptItem { version: item.version, region, view: Arc::clone(view), until };
            let before = self.items.insert((source, item.name), kept);
            self.freed(before);
        }
    }

    /// What is kept of an item that `source` offers again. Of another version, or another length, it is of no use, and is freed.
    pub(crate) fn take(&mut self, source: u32, item: &Item) -> Option<KeptItem> {
        let kept = self.items.remove(&(source, Arc::clone(&item.name)))?;
        self.bytes -= kept.region.len_bytes();
        (kept.version == item.version && kept.region.len_bytes() == item.bytes).then_some(kept)
    }

    /// Frees as much as it takes to be within `bytes`, first what would be freed first.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        if self.bytes <= bytes {
            return;
        }
        let mut names: Vec<_> = self.items.iter().map(|(name, kept)| (kept.until, name.clone())).collect();
        names.sort_unstable();
        for (_, name) in names {
            if self.bytes <= bytes {
                return;
            }
            let kept = self.items.remove(&name);
            self.freed(kept);
        }
    }

    /// Frees what has had its time.
    pub(crate) fn expire(&mut self, now: Time) {
        self.free(|_, kept| kept.until <= now);
    }

    /// Frees what came from `source`.
    pub(crate) fn forget(&mut self, source: u32) {
        self.free(|rank, _| rank == source);
    }

    fn free(&mut self, is_over: impl Fn(u32, &KeptItem) -> bool) {
        let bytes = &mut self.bytes;
        self.items.retain(|(rank, _), kept| {
            let stays = !is_over(*rank, kept);
            *bytes -= if stays { 0 } else { kept.region.len_bytes() };
            stays
        });
    }

    fn freed(&mut self, kept: Option<KeptItem>) {
        self.bytes -= kept.map_or(0, |kept| kept.region.len_bytes());
    }
}

impl KeptItem {
    /// The memory, and what has landed in it, if nobody else has it: a user that still holds it may have other things there. Call it
    /// behind the fence of the attempt in which it landed, when nothing more can.
    pub(crate) fn claim(self, name: &str) -> Option<(Region, Landed)> {
        lock(&self.view).landed.remove(name);
        let landed = self.region.landed();
        (self.region.is_held_once() && !landed.is_empty()).then_some((self.region, landed))
    }
}

#[cfg(test)]
mod tests {
    use xfer_migrate_core::{GroupId, ItemClass, ItemId, RecomputeCost};

    use super::*;

    fn item(name: &str, version: u64, bytes: u64) -> Item {
        Item {
            id: ItemId(7),
            name: name.into(),
            class: ItemClass::Parameter,
            bytes,
            version,
            target: 0,
            group: GroupId::ALONE,
            cost: RecomputeCost::Irreplaceable,
        }
    }

    /// Memory in which 10 bytes have landed.
    fn region(bytes: u64) -> Region {
        let (region, mut landed) = (Region::from_vec(vec![7; bytes as usize]), Landed::default());
        landed.insert(0..10, region.slice(0..10).expect("it is as long").crc32c());
        assert_eq!(region.reclaim(&landed), 10);
        region
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    /// Keeps items of 100 bytes of `source` until the second `until`.
    fn keep(kept: &mut Kept, source: u32, names: &[&str], until: u64) {
        let items = names.iter().map(|name| (item(name, 3, 100), region(100)));
        kept.keep(source, items, &Arc::default(), (at(0), at(until)));
    }

    #[test]
    fn the_same_item_of_the_same_rank_is_there_and_another_version_or_length_is_freed() {
        let mut kept = Kept::default();
        keep(&mut kept, 1, &["a", "b", "c", "d"], 9);
        assert_eq!(kept.bytes, 400);
        assert!(kept.take(2, &item("a", 3, 100)).is_none(), "of another rank");
        let (region, landed) =
            kept.take(1, &item("a", 3, 100)).and_then(|found| found.claim("a")).expect("it is there");
        assert_eq!((region.len_bytes(), landed.bytes()), (100, 10));
        assert!(kept.take(1, &item("a", 3, 100)).is_none(), "it was taken");
        assert!(kept.take(1, &item("b", 4, 100)).is_none() && kept.take(1, &item("b", 3, 100)).is_none());
        assert!(kept.take(1, &item("c", 3, 99)).is_none() && kept.take(1, &item("c", 3, 100)).is_none());
        assert_eq!(kept.bytes, 100);
    }

    #[test]
    fn what_a_user_holds_or_has_written_over_is_not_taken_for_what_landed() {
        let (mut kept, held) = (Kept::default(), region(100));
        kept.keep(1, [(item("a", 3, 100), held.clone())].into_iter(), &Arc::default(), (at(0), at(9)));
        assert!(kept.take(1, &item("a", 3, 100)).and_then(|found| found.claim("a")).is_none());
        let view: Arc<Mutex<View>> = Arc::default();
        lock(&view).landed.insert("a".to_owned(), held.clone());
        kept.keep(1, [(item("a", 3, 100), held)].into_iter(), &view, (at(0), at(9)));
        let found = kept.take(1, &item("a", 3, 100)).expect("it is kept");
        assert!(found.claim("a").is_some() && lock(&view).landed.is_empty(), "the ended migration gives it up");
        let written = region(100);
        written.write_at(5, &[0]).expect("it is inside");
        kept.keep(1, [(item("a", 3, 100), written)].into_iter(), &view, (at(0), at(9)));
        assert_eq!(kept.bytes, 0, "nothing of it is known to have landed");
    }

    #[test]
    fn it_is_bounded_in_time_and_size() {
        let mut kept = Kept::default();
        keep(&mut kept, 1, &["late"], 9);
        keep(&mut kept, 2, &["soon", "soon too"], 5);
        keep(&mut kept, 3, &["over"], 0);
        keep(&mut kept, 4, &["endless"], 100_000);
        assert_eq!(kept.bytes, 400, "what comes after the deadline is not kept");
        kept.expire(at(4));
        assert_eq!(kept.bytes, 400);
        kept.shrink_to(399);
        assert!(
            kept.bytes == 300 && kept.items.contains_key(&(1, "late".into())),
            "what would be freed first goes first"
        );
        kept.expire(at(5));
        assert_eq!(kept.bytes, 200);
        kept.forget(1);
        assert!(kept.bytes == 100 && kept.items.contains_key(&(4, "endless".into())));
        kept.expire(at(600));
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn an_item_that_is_kept_again_takes_the_place_of_the_one_before() {
        let mut kept = Kept::default();
        keep(&mut kept, 1, &["a"], 9);
        keep(&mut kept, 1, &["a"], 9);
        assert_eq!(kept.bytes, 100);
        kept.shrink_to(0);
        assert!(kept.bytes == 0 && kept.items.is_empty());
    }
}
