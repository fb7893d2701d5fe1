//! The arena: memory of this process that can be shared, handed out in pieces.
//!
//! Few segments serve many regions, since each costs a descriptor here and a mapping at every peer that reads it. What is
//! given back is handed out again; a segment goes when nothing of it is in use, unless it is the last.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ALIGN_BYTES, MemoryError, Region, Segment};
use crate::limits::ARENA_SEGMENT_BYTES;

static ARENA: Arena = Arena(Mutex::new(Vec::new()));

struct Arena(Mutex<Vec<Held>>);

/// A segment, and what of it is free: start → length.
struct Held {
    segment: Arc<Segment>,
    free: BTreeMap<u64, u64>,
}

/// A piece that is in use.
struct Piece {
    arena: &'static Arena,
    segment: u64,
    at: u64,
    len_bytes: u64,
}

pub(super) fn allocate(len_bytes: u64) -> Result<Region, MemoryError> {
    ARENA.allocate(len_bytes)
}

/// The segment that holds `len` bytes from `start`, and where, if they lie in the arena: a tensor that was made there
/// comes back as a bare pointer.
pub(super) fn find(start: *const u8, len_bytes: u64) -> Option<(Arc<Segment>, u64)> {
    ARENA.find(start, len_bytes)
}

/// Bytes of the arena that are in use.
pub(super) fn in_use_bytes() -> u64 {
    let held = ARENA.lock();
    held.iter().map(|held| held.segment.len_bytes() - held.free.values().sum::<u64>()).sum()
}

impl Arena {
    fn find(&self, start: *const u8, len_bytes: u64) -> Option<(Arc<Segment>, u64)> {
        let held = self.lock();
        held.iter().find_map(|Held { segment, .. }| {
            let at = (start as u64).checked_sub(segment.at(0).as_ptr() as u64)?;
            let end = at.checked_add(len_bytes)?;
            (end <= segment.len_bytes()).then(|| (Arc::clone(segment), at))
        })
    }

    fn allocate(&'static self, len_bytes: u64) -> Result<Region, MemoryError> {
        let padded = len_bytes.max(1).checked_next_multiple_of(ALIGN_BYTES as u64);
        let padded = padded.filter(|len| isize::try_from(*len).is_ok()).ok_or(MemoryError::TooLong(len_bytes))?;
        let failed = |error: io::Error| MemoryError::NotShared { len_bytes, errno: error.raw_os_error().unwrap_or(0) };
        let (segment, at) = self.take(padded).map_err(failed)?;
        let piece = Piece { arena: self, segment: segment.id(), at, len_bytes: padded };
        segment.reserve(at, padded).map_err(failed)?;
        segment.clear(at, padded);
        Ok(Region::of_segment(segment, at, len_bytes, Box::new(piece)))
    }

    fn take(&self, len_bytes: u64) -> io::Result<(Arc<Segment>, u64)> {
        let mut held = self.lock();
        for Held { segment, free } in held.iter_mut() {
            let Some((at, free_bytes)) =
                free.iter().find(|(_, free)| **free >= len_bytes).map(|(at, free)| (*at, *free))
            else {
                continue;
            };
            free.remove(&at);
            if free_bytes > len_bytes {
                free.insert(at + len_bytes, free_bytes - len_bytes);
            }
            return Ok((Arc::clone(segment), at));
        }
        let segment = Arc::new(Segment::create(len_bytes.max(ARENA_SEGMENT_BYTES))?);
        let mut free = BTreeMap::new();
        if segment.len_bytes() > len_bytes {
            free.insert(len_bytes, segment.len_bytes() - len_bytes);
        }
        held.push(Held { segment: Arc::clone(&segment), free });
        Ok((segment, 0))
    }

    fn give_back(&self, id: u64, mut at: u64, mut len_bytes: u64) {
        let mut held = self.lock();
        let Some(index) = held.iter().position(|held| held.segment.id() == id) else { return };
        let Held { segment, free } = &mut held[index];
        if let Some((&before, &free_bytes)) = free.range(..at).next_back()
            && before + free_bytes == at
        {
            (at, len_bytes) = (before, free_bytes + len_bytes);
        }
        if let Some(after) = free.remove(&(at + len_bytes)) {
            len_bytes += after;
        }
        free.insert(at, len_bytes);
        if len_bytes == segment.len_bytes() && held.len() > 1 {
            held.swap_remove(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.arena.give_back(self.segment, self.at, self.len_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> &'static Arena {
        Box::leak(Box::new(Arena(Mutex::default())))
    }

    /// Every free range of every segment.
    fn free(arena: &Arena) -> Vec<Vec<(u64, u64)>> {
        arena.lock().iter().map(|held| held.free.iter().map(|(at, len)| (*at, *len)).collect()).collect()
    }

    #[test]
    fn pieces_are_zeroed_aligned_apart_and_handed_out_again() {
        let arena = arena();
        let page = ALIGN_BYTES as u64;
        let regions: Vec<Region> = [1, page, page + 1, 0].map(|len| arena.allocate(len).unwrap()).into();
        for (byte, region) in regions.iter().enumerate() {
            assert!(region.is_shared() && (region.as_ptr() as usize).is_multiple_of(ALIGN_BYTES));
            assert_eq!(region.copy_to_vec(), vec![0; region.len_bytes() as usize]);
            region.write_at(0, &vec![byte as u8 + 1; region.len_bytes() as usize]).unwrap();
        }
        for (byte, region) in regions.iter().enumerate() {
            assert!(region.copy_to_vec().iter().all(|found| *found == byte as u8 + 1), "no other piece wrote into it");
        }
        assert_eq!(free(arena), [[(5 * page, ARENA_SEGMENT_BYTES - 5 * page)]]);
        let [first, second, third, fourth]: [Region; 4] = regions.try_into().unwrap();
        drop((second, first));
        assert_eq!(free(arena)[0][0], (0, 2 * page), "neighbours that are free are one");
        let again = arena.allocate(2 * page).unwrap();
        assert_eq!(again.copy_to_vec(), vec![0; 2 * ALIGN_BYTES], "what is handed out again is zeroed again");
        drop((third, again, fourth));
        assert_eq!(free(arena), [[(0, ARENA_SEGMENT_BYTES)]]);
    }

    #[test]
    fn a_pointer_into_the_arena_is_known_again_and_no_other() {
        let arena = arena();
        let region = arena.allocate(10_000).unwrap();
        let (segment, at) = arena.find(region.as_ptr().wrapping_add(5_000), 5_000).unwrap();
        assert_eq!(segment.at(at).as_ptr(), region.as_ptr().wrapping_add(5_000));
        assert!(arena.find(region.as_ptr(), ARENA_SEGMENT_BYTES + 1).is_none(), "longer than the segment");
        let other = Region::allocate(10_000).unwrap();
        assert!(arena.find(other.as_ptr(), 1).is_none());
    }

    #[test]
    fn what_is_larger_than_a_segment_has_one_of_its_own_that_goes_with_it() {
        let arena = arena();
        let small = arena.allocate(1).unwrap();
        let large = arena.allocate(ARENA_SEGMENT_BYTES + 1).unwrap();
        assert_eq!(free(arena).len(), 2);
        let tail = large.slice(ARENA_SEGMENT_BYTES..ARENA_SEGMENT_BYTES + 1).unwrap();
        drop(large);
        assert_eq!(free(arena).len(), 2, "a slice keeps it");
        drop(tail);
        assert_eq!(free(arena).len(), 1);
        drop(small);
        assert_eq!(free(arena).len(), 1, "one is kept");
        assert!(matches!(arena.allocate(u64::MAX), Err(MemoryError::TooLong(_))));
        let too_much = arena.allocate(isize::MAX as u64 - 4096).unwrap_err();
        assert!(too_much.to_string().starts_with("no shared memory for"), "{too_much}");
    }
}
