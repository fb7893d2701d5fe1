//! What has landed at a process in migrations that ended without making it an owner: kept for the next attempt of the same rank.
//!
//! It is memory that nobody else needs, so it never costs anybody anything: it gives way to whatever is to land, and is freed at the
//! deadline of the rank that sent it, when that rank's state has passed on, or when a new attempt of it has been offered as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use xfer_transport_core::Time;

use crate::limits::KEPT_TIME_MAX;
use crate::{GenerationKind, GenerationRecord, Item};

/// Items by the rank that sent them, and by name: a rank that was started again is another process with the same items. `M` is whatever
/// stands for an item's memory; what is freed is given to the `free` of the call that frees it.
#[derive(Debug, Clone)]
pub struct Kept<M> {
    items: BTreeMap<(u32, Arc<str>), KeptItem<M>>,
    bytes: u64,
}

#[derive(Debug, Clone)]
struct KeptItem<M> {
    version: u64,
    bytes: u64,
    memory: M,
    until: Time,
}

impl<M> Default for Kept<M> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), bytes: 0 }
    }
}

impl<M> Kept<M> {
    /// Keeps what has landed of an item that comes from `source`, until `deadline`. No peer may write it any more once all fences that
    /// were asked for have been reached.
    pub fn keep(
        &mut self,
        source: u32,
        item: &Item,
        memory: M,
        (now, deadline): (Time, Time),
        mut free: impl FnMut(M),
    ) {
        let until = deadline.min(now.after(KEPT_TIME_MAX));
        if until <= now {
            return free(memory);
        }
        self.bytes += item.bytes;
        let kept = KeptItem { version: item.version, bytes: item.bytes, memory, until };
        if let Some(before) = self.items.insert((source, Arc::clone(&item.name)), kept) {
            self.bytes -= before.bytes;
            free(before.memory);
        }
    }

    /// What is kept of an item that `source` offers again. What is of another version, or another length, or has had its time, is of no
    /// use, and is freed.
    pub fn take(&mut self, source: u32, item: &Item, now: Time, mut free: impl FnMut(M)) -> Option<M> {
        let kept = self.items.remove(&(source, Arc::clone(&item.name)))?;
        self.bytes -= kept.bytes;
        if kept.version == item.version && kept.bytes == item.bytes && kept.until > now {
            return Some(kept.memory);
        }
        free(kept.memory);
        None
    }

    /// Frees as much as it takes to be within `bytes`, first what would be freed first.
    pub fn shrink_to(&mut self, bytes: u64, mut free: impl FnMut(M)) {
        if self.bytes <= bytes {
            return;
        }
        let mut names: Vec<_> = self.items.iter().map(|(name, kept)| (kept.until, name.clone())).collect();
        names.sort_unstable();
        for (_, name) in names {
            if self.bytes <= bytes {
                return;
            }
            self.remove(&name, &mut free);
        }
    }

    /// Frees what has had its time.
    pub fn expire(&mut self, now: Time, free: impl FnMut(M)) {
        self.free_if(|_, kept| kept.until <= now, free);
    }

    /// Frees what came from `source`.
    pub fn forget(&mut self, source: u32, free: impl FnMut(M)) {
        self.free_if(|rank, _| rank == source, free);
    }

    /// Frees what nobody comes again with once `record` counts: a rank whose state has passed on, or all that go back to a checkpoint.
    pub fn settle(&mut self, record: &GenerationRecord, free: impl FnMut(M)) {
        match (record.kind, record.source) {
            (GenerationKind::Handoff, Some(source)) => self.forget(source.rank, free),
            (GenerationKind::Restore, _) => self.shrink_to(0, free),
            _ => {}
        }
    }

    fn free_if(&mut self, is_over: impl Fn(u32, &KeptItem<M>) -> bool, mut free: impl FnMut(M)) {
        let over = self.items.iter().filter(|((rank, _), kept)| is_over(*rank, kept));
        let over: Vec<_> = over.map(|(name, _)| name.clone()).collect();
        over.iter().for_each(|name| self.remove(name, &mut free));
    }

    fn remove(&mut self, name: &(u32, Arc<str>), free: &mut impl FnMut(M)) {
        if let Some(kept) = self.items.remove(name) {
            self.bytes -= kept.bytes;
            free(kept.memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{GroupId, ItemClass, ItemId, RecomputeCost};

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

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    /// Keeps items of 100 bytes of `source` until the second `until`; which were freed meanwhile.
    fn keep(kept: &mut Kept<String>, source: u32, names: &[&str], until: u64) -> Vec<String> {
        let mut freed = Vec::new();
        for name in names {
            let memory = format!("{source}/{name}");
            kept.keep(source, &item(name, 3, 100), memory, (at(0), at(until)), |memory| freed.push(memory));
        }
        freed
    }

    #[test]
    fn the_same_item_of_the_same_rank_is_there_and_another_version_or_length_is_freed() {
        let (mut kept, mut freed) = (Kept::default(), Vec::new());
        assert!(keep(&mut kept, 1, &["a", "b", "c", "d"], 9).is_empty());
        assert_eq!(kept.bytes, 400);
        let mut take = |source, item: &Item| kept.take(source, item, at(0), |memory| freed.push(memory));
        assert!(take(2, &item("a", 3, 100)).is_none(), "of another rank");
        assert_eq!(take(1, &item("a", 3, 100)).as_deref(), Some("1/a"));
        assert!(take(1, &item("a", 3, 100)).is_none(), "it was taken");
        assert!(take(1, &item("b", 4, 100)).is_none() && take(1, &item("b", 3, 100)).is_none());
        assert!(take(1, &item("c", 3, 99)).is_none() && take(1, &item("c", 3, 100)).is_none());
        assert_eq!(kept.bytes, 100);
        assert!(kept.take(1, &item("d", 3, 100), at(9), |memory| freed.push(memory)).is_none(), "it has had its time");
        assert_eq!(freed, ["1/b", "1/c", "1/d"]);
    }

    #[test]
    fn it_is_bounded_in_time_and_size() {
        let (mut kept, mut freed) = (Kept::default(), Vec::new());
        keep(&mut kept, 1, &["late"], 9);
        keep(&mut kept, 2, &["soon", "soon too"], 5);
        assert_eq!(keep(&mut kept, 3, &["over"], 0), ["3/over"]);
        keep(&mut kept, 4, &["endless"], 100_000);
        assert_eq!(kept.bytes, 400, "what comes after the deadline is not kept");
        let mut free = |memory| freed.push(memory);
        kept.expire(at(4), &mut free);
        assert_eq!(kept.bytes, 400);
        kept.shrink_to(399, &mut free);
        assert!(
            kept.bytes == 300 && kept.items.contains_key(&(1, "late".into())),
            "what would be freed first goes first"
        );
        kept.expire(at(5), &mut free);
        assert_eq!(kept.bytes, 200);
        kept.forget(1, &mut free);
        assert!(kept.bytes == 100 && kept.items.contains_key(&(4, "endless".into())));
        kept.expire(at(600), &mut free);
        assert_eq!(kept.bytes, 0);
        assert_eq!(freed, ["2/soon", "2/soon too", "1/late", "4/endless"]);
    }

    #[test]
    fn an_item_that_is_kept_again_takes_the_place_of_the_one_before() {
        let mut kept = Kept::default();
        keep(&mut kept, 1, &["a"], 9);
        assert_eq!(keep(&mut kept, 1, &["a"], 9), ["1/a"]);
        assert_eq!(kept.bytes, 100);
        kept.shrink_to(0, drop);
        assert!(kept.bytes == 0 && kept.items.is_empty());
    }
}
