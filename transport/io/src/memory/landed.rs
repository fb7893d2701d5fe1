//! What of a region has landed, and what of a source is missing there.

use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};

use xfer_transport_core::landed::Landed;

use super::{Region, Slice};

impl Region {
    /// What of it peers have written and was verified here, with checksums. It stays known when they are gone and their
    /// grants over, until something else is written there by a peer or by [`Region::write_at`]; whoever writes through
    /// [`Region::as_ptr`] must not rely on it any more.
    ///
    /// Told to another life of the sender, or to another holder of the same bytes, it is what that end needs not send:
    /// [`crate::Endpoint::write_rest`].
    pub fn landed(&self) -> Landed {
        self.lock_landed().known()
    }

    /// Memory that outlived its process, such as a mapped file: each range of `landed` whose bytes still have their checksum
    /// counts as landed here. Reads them all. Returns how many bytes these are.
    pub fn reclaim(&self, landed: &Landed) -> u64 {
        let mut bytes = 0;
        for (range, crc32c) in landed.ranges() {
            let intact = self.slice(range.clone()).filter(|slice| slice.crc32c() == crc32c);
            if let Some(slice) = intact {
                bytes += slice.len_bytes();
                self.lock_landed().insert(range, crc32c);
            }
        }
        bytes
    }

    pub(super) fn lock_landed(&self) -> MutexGuard<'_, Landed> {
        self.0.landed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slice {
    /// What of it is missing at `at` of a remote region of which `landed` is there: nothing is said to be there whose checksum
    /// isn't that of these bytes. Reads all that is said to be there. The ranges are of this slice, in order.
    pub fn missing(&self, landed: &Landed, at: u64) -> Vec<Range<u64>> {
        self.matching(landed, at).missing(0..self.len_bytes())
    }

    /// What of it is there, likewise: the ranges of this slice, with their checksums.
    pub fn matching(&self, landed: &Landed, at: u64) -> Landed {
        let mut there = Landed::default();
        for (range, crc32c) in landed.ranges() {
            let ours = range.start.checked_sub(at).zip(range.end.checked_sub(at)).map(|(start, end)| start..end);
            let part = ours.and_then(|range| Some((range.clone(), self.slice(range)?)));
            if let Some((range, _)) = part.filter(|(_, part)| part.crc32c() == crc32c) {
                there.insert(range, crc32c);
            }
        }
        there
    }

    /// A peer begins to write it.
    pub(crate) fn begin_to_write(&self) -> Writing {
        Writing { id: self.region.lock_landed().begin(self.range()), region: self.region.clone() }
    }
}

/// A write that has begun. Nothing is known of what it wrote unless it is finished.
#[derive(Debug)]
pub(crate) struct Writing {
    region: Region,
    id: u64,
}

impl Writing {
    /// All is there, and has this checksum.
    pub(crate) fn finish(self, crc32c: u32) {
        self.region.lock_landed().finish(self.id, Some(crc32c));
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.region.lock_landed().finish(self.id, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_has_the_same_bytes_is_not_missing() {
        let (source, there) = (Region::from_vec((0..100).collect()), Region::from_vec((0..100).collect()));
        for (start, end) in [(10, 30), (30, 40), (60, 70)] {
            let part = there.slice(start..end).unwrap();
            part.begin_to_write().finish(part.crc32c());
        }
        drop(there.slice(35..65).unwrap().begin_to_write());
        assert_eq!(there.landed().missing(0..100), [0..10, 30..100]);
        assert_eq!(source.all().missing(&there.landed(), 0), [0..10, 30..100]);
        assert_eq!(source.slice(5..50).unwrap().missing(&there.landed(), 5), [0..5, 25..45]);
        let matching = source.slice(5..50).unwrap().matching(&there.landed(), 5);
        assert_eq!(matching.ranges().collect::<Vec<_>>(), [(5..25, there.slice(10..30).unwrap().crc32c())]);
        // Only what is there as a whole counts.
        assert_eq!(source.slice(15..50).unwrap().missing(&there.landed(), 15), std::slice::from_ref(&(0..35)));
        source.write_at(29, &[0]).unwrap();
        assert_eq!(source.all().missing(&there.landed(), 0), std::slice::from_ref(&(0..100)), "other bytes");
    }

    #[test]
    fn what_outlived_its_process_counts_while_its_bytes_are_the_same() {
        let first = Region::from_vec((0..100).collect());
        for (start, end) in [(0, 10), (20, 30)] {
            let part = first.slice(start..end).unwrap();
            part.begin_to_write().finish(part.crc32c());
        }
        let (landed, again) = (first.landed(), Region::from_vec((0..100).collect()));
        assert_eq!((again.reclaim(&landed), again.landed()), (20, landed.clone()));
        again.write_at(5, &[0]).unwrap();
        assert_eq!(again.landed().bytes(), 10, "what was written over is not known any more");
        let damaged = Region::from_vec(vec![0; 25]);
        assert_eq!(damaged.reclaim(&landed), 0);
    }
}
