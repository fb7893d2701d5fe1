//! Memory in which something has landed, as it is kept for a next attempt.

use std::sync::{Arc, Mutex};

use xfer_transport::{Landed, Region};

use crate::migrations::{View, lock};

/// What has landed here in migrations that ended without making this process an owner.
pub(crate) type Kept = xfer_migrate_core::Kept<KeptMemory>;

/// Memory of one item, and what has landed in it.
pub(crate) struct KeptMemory {
    region: Region,
    /// Where a user may still find it.
    view: Arc<Mutex<View>>,
}

impl KeptMemory {
    /// Memory that `view` shows, if something is known to have landed in it.
    pub(crate) fn of(region: Region, view: &Arc<Mutex<View>>) -> Option<Self> {
        (!region.landed().is_empty()).then(|| Self { region, view: Arc::clone(view) })
    }

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
    use super::*;

    /// Memory in which 10 bytes have landed.
    fn region(bytes: u64) -> Region {
        let (region, mut landed) = (Region::from_vec(vec![7; bytes as usize]), Landed::default());
        landed.insert(0..10, region.slice(0..10).expect("it is as long").crc32c());
        assert_eq!(region.reclaim(&landed), 10);
        region
    }

    fn claim(region: Region, view: &Arc<Mutex<View>>) -> Option<(Region, Landed)> {
        KeptMemory::of(region, view)?.claim("a")
    }

    #[test]
    fn what_landed_is_there() {
        let (region, landed) = claim(region(100), &Arc::default()).expect("it is there");
        assert_eq!((region.len_bytes(), landed.bytes()), (100, 10));
    }

    #[test]
    fn what_a_user_holds_or_has_written_over_is_not_taken_for_what_landed() {
        let held = region(100);
        assert!(claim(held.clone(), &Arc::default()).is_none());
        let view: Arc<Mutex<View>> = Arc::default();
        lock(&view).landed.insert("a".to_owned(), held.clone());
        assert!(claim(held, &view).is_some() && lock(&view).landed.is_empty(), "the ended migration gives it up");
        let written = region(100);
        written.write_at(5, &[0]).expect("it is inside");
        assert!(KeptMemory::of(written, &Arc::default()).is_none(), "nothing of it is known to have landed");
    }
}
