//! What of some memory peers have written and was verified there: ranges, and the checksum of each.
//!
//! It belongs to the memory and not to who wrote it. So what has landed outlives a sender that dies, and a later life of it, or
//! another holder of the same bytes, is told what is there and sends the rest. Whoever is told compares the checksums with
//! those of its own bytes: other bytes of the same name are not taken for these.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader};
use crate::integrity;
use crate::limits::LANDED_RANGES_MAX;

/// Bytes of one range in a message.
const RANGE_BYTES: usize = 20;

/// What has landed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Landed {
    /// By where they start. They don't overlap.
    parts: BTreeMap<u64, Part>,
    /// Writes that have begun.
    open: Vec<Open>,
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    end: u64,
    crc32c: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Open {
    id: u64,
    range: Range<u64>,
    /// Another write of some of these bytes was under way at the same time: nobody knows whose are there.
    is_spoilt: bool,
}

impl Landed {
    /// Somebody begins to write `range`: until that is finished, nothing is known of what is there.
    pub fn begin(&mut self, range: Range<u64>) -> u64 {
        self.forget(&range);
        let id = self.next;
        self.next += 1;
        let mut is_spoilt = false;
        for open in self.open.iter_mut().filter(|open| overlap(&open.range, &range)) {
            (open.is_spoilt, is_spoilt) = (true, true);
        }
        self.open.push(Open { id, range, is_spoilt });
        id
    }

    /// The write `id` is over, with its bytes verified, or with nothing known.
    pub fn finish(&mut self, id: u64, crc32c: Option<u32>) {
        let Some(at) = self.open.iter().position(|open| open.id == id) else { return };
        let open = self.open.swap_remove(at);
        if let Some(crc32c) = crc32c.filter(|_| !open.is_spoilt) {
            self.insert(open.range, crc32c);
        }
    }

    /// Bytes of `range` may have changed.
    pub fn forget(&mut self, range: &Range<u64>) {
        while let Some(start) = self.overlapping(range) {
            // The checksum of a part says nothing of a part of it.
            self.parts.remove(&start);
        }
        let opens = self.open.iter_mut().filter(|open| overlap(&open.range, range));
        opens.for_each(|open| open.is_spoilt = true);
    }

    /// The bytes of `range` are there, and have this checksum.
    pub fn insert(&mut self, range: Range<u64>, crc32c: u32) {
        while let Some(start) = self.overlapping(&range) {
            self.parts.remove(&start);
        }
        if range.is_empty() {
            return;
        }
        if self.parts.len() >= LANDED_RANGES_MAX {
            self.join();
        }
        // What isn't noted is sent again, and nothing worse.
        if self.parts.len() < LANDED_RANGES_MAX {
            self.parts.insert(range.start, Part { end: range.end, crc32c });
        }
    }

    fn overlapping(&self, range: &Range<u64>) -> Option<u64> {
        let before = self.parts.range(..range.end).next_back();
        before.filter(|(start, part)| overlap(&(**start..part.end), range)).map(|(start, _)| *start)
    }

    /// What is known now, without the writes that are under way, and with those that follow each other as one.
    #[must_use]
    pub fn known(&self) -> Self {
        let mut known = Self { parts: self.parts.clone(), ..Self::default() };
        known.join();
        known
    }

    /// Makes one of those that follow each other.
    fn join(&mut self) {
        let mut joined: BTreeMap<u64, Part> = BTreeMap::new();
        for (start, part) in std::mem::take(&mut self.parts) {
            match joined.iter_mut().next_back() {
                Some((first, before)) if before.end == start => {
                    let lengths = [(before.crc32c, before.end - first), (part.crc32c, part.end - start)];
                    *before = Part { end: part.end, crc32c: integrity::combine(lengths) };
                }
                _ => _ = joined.insert(start, part),
            }
        }
        self.parts = joined;
    }

    /// What is there, in order, with the checksum of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (Range<u64>, u32)> {
        self.parts.iter().map(|(start, part)| (*start..part.end, part.crc32c))
    }

    /// How many bytes are there.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(start, part)| part.end - start).sum()
    }

    /// The checksum of the first `len_bytes` bytes, if they are what is there: all of them, and nothing else.
    pub fn whole(&self, len_bytes: u64) -> Option<u32> {
        let known = self.known();
        let mut ranges = known.ranges();
        let only = ranges.next().filter(|(range, _)| *range == (0..len_bytes));
        only.filter(|_| ranges.next().is_none()).map(|(_, crc32c)| crc32c)
    }

    /// Whether nothing is known to be there.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// What of `within` is not there, in order.
    pub fn missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut at = within.start;
        let mut gaps = Vec::new();
        for (range, _) in self.ranges() {
            let end = range.start.min(within.end);
            if end > at {
                gaps.push(at..end);
            }
            at = at.max(range.end);
        }
        if at < within.end {
            gaps.push(at..within.end);
        }
        gaps
    }

    /// For a message: what follows each other is one, and writes under way are left out.
    pub fn encode(&self) -> Bytes {
        let joined = self.known();
        let mut bytes = BytesMut::with_capacity(2 + joined.parts.len() * RANGE_BYTES);
        bytes.put_u16_le(joined.parts.len() as u16);
        for (range, crc32c) in joined.ranges() {
            bytes.put_u64_le(range.start);
            bytes.put_u64_le(range.end);
            bytes.put_u32_le(crc32c);
        }
        bytes.freeze()
    }

    /// Reads what [`Landed::encode`] wrote, which is all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.count("ranges", LANDED_RANGES_MAX, RANGE_BYTES)?;
        let (mut parts, mut least) = (BTreeMap::new(), 0);
        for _ in 0..count {
            let (start, end, crc32c) = (reader.u64("start")?, reader.u64("end")?, reader.u32("checksum")?);
            if start < least || end <= start {
                return Err(DecodeError::Unknown { what: "range that ends at", number: end });
            }
            parts.insert(start, Part { end, crc32c });
            least = end;
        }
        reader.end()?;
        Ok(Self { parts, ..Self::default() })
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::integrity::crc32c;

    fn ranges(landed: &Landed) -> Vec<Range<u64>> {
        landed.ranges().map(|(range, _)| range).collect()
    }

    #[test]
    fn what_was_finished_is_there_and_what_was_not_is_missing() {
        let mut landed = Landed::default();
        let [first, second, third] = [0..10, 10..20, 30..40].map(|range| landed.begin(range));
        landed.finish(first, Some(1));
        landed.finish(second, None);
        landed.finish(third, Some(3));
        assert_eq!(ranges(&landed), [0..10, 30..40]);
        assert_eq!(landed.missing(0..50), [10..30, 40..50]);
        assert_eq!(landed.missing(5..35), std::slice::from_ref(&(10..30)));
        assert_eq!(landed.missing(32..40), []);
        assert_eq!(landed.bytes(), 20);
    }

    #[test]
    fn what_is_there_as_a_whole_has_a_checksum_and_nothing_less_has() {
        let mut landed = Landed::default();
        assert_eq!((landed.is_empty(), landed.whole(10)), (true, None));
        landed.insert(0..4, crc32c(&[7; 4]));
        landed.insert(6..10, crc32c(&[9; 4]));
        assert_eq!((landed.is_empty(), landed.whole(10)), (false, None), "with a hole");
        landed.insert(4..6, crc32c(&[8; 2]));
        assert_eq!(landed.whole(10), Some(crc32c(&[7, 7, 7, 7, 8, 8, 9, 9, 9, 9])));
        assert_eq!((landed.whole(9), landed.whole(11)), (None, None), "of another length");
    }

    #[test]
    fn a_write_that_begins_or_a_change_takes_the_whole_of_what_it_touches() {
        let mut landed = Landed::default();
        landed.insert(0..10, 1);
        landed.insert(10..20, 2);
        landed.insert(20..30, 3);
        let id = landed.begin(15..16);
        assert_eq!(ranges(&landed), [0..10, 20..30]);
        landed.finish(id, Some(4));
        assert_eq!(ranges(&landed), [0..10, 15..16, 20..30]);
        landed.forget(&(0..21));
        assert_eq!(ranges(&landed), []);
    }

    #[test]
    fn of_two_writes_at_once_nobody_knows_whose_bytes_are_there() {
        let mut landed = Landed::default();
        let (first, second, beside) = (landed.begin(0..10), landed.begin(5..15), landed.begin(15..20));
        landed.finish(second, Some(2));
        landed.finish(first, Some(1));
        landed.finish(beside, Some(3));
        assert_eq!(ranges(&landed), std::slice::from_ref(&(15..20)));
        let changed = landed.begin(0..10);
        landed.forget(&(9..10));
        landed.finish(changed, Some(1));
        assert_eq!(ranges(&landed), std::slice::from_ref(&(15..20)));
    }

    #[test]
    fn it_is_bounded_and_what_follows_each_other_counts_once() {
        let mut landed = Landed::default();
        for at in 0..LANDED_RANGES_MAX as u64 {
            landed.insert(at..at + 1, crc32c(&[7]));
        }
        landed.insert(1 << 40..(1 << 40) + 1, 5);
        let whole = vec![7; LANDED_RANGES_MAX];
        let end = LANDED_RANGES_MAX as u64;
        assert_eq!(landed.ranges().collect::<Vec<_>>(), [(0..end, crc32c(&whole)), (1 << 40..(1 << 40) + 1, 5)]);
        for at in 0..LANDED_RANGES_MAX as u64 {
            landed.insert((1 << 41) + 2 * at..(1 << 41) + 2 * at + 1, 0);
        }
        assert_eq!(landed.ranges().count(), LANDED_RANGES_MAX, "more is not noted");
        assert_eq!(Landed::decode(&landed.encode()), Ok(landed.known()));
        let count = (LANDED_RANGES_MAX as u16 + 1).to_le_bytes();
        assert!(matches!(Landed::decode(&count), Err(DecodeError::TooMany { .. })));
    }

    #[test]
    fn ranges_that_overlap_or_are_empty_are_errors() {
        let encoded = |ranges: &[(u64, u64)]| {
            let mut bytes = (ranges.len() as u16).to_le_bytes().to_vec();
            for (start, end) in ranges {
                bytes.extend([&start.to_le_bytes()[..], &end.to_le_bytes(), &[0; 4]].concat());
            }
            bytes
        };
        assert!(Landed::decode(&encoded(&[(0, 5), (5, 6)])).is_ok());
        for ranges in [&[(0, 5), (4, 6)][..], &[(3, 3)], &[(4, 3)], &[(5, 6), (0, 1)]] {
            assert!(Landed::decode(&encoded(ranges)).is_err(), "{ranges:?}");
        }
        assert!(Landed::decode(&[&encoded(&[])[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_there_is_there(
            writes in proptest::collection::vec((0_usize..64, 1_usize..32, any::<u8>(), any::<bool>()), 1..40)
        ) {
            let (mut memory, mut landed) = (vec![0_u8; 96], Landed::default());
            for (start, len, byte, whole) in writes {
                let id = landed.begin(start as u64..(start + len) as u64);
                memory[start..start + if whole { len } else { len / 2 }].fill(byte);
                landed.finish(id, whole.then(|| crc32c(&memory[start..start + len])));
                let told = Landed::decode(&landed.encode()).unwrap();
                for (range, sum) in landed.ranges().chain(told.ranges()) {
                    prop_assert_eq!(sum, crc32c(&memory[range.start as usize..range.end as usize]));
                }
                let missing: u64 = told.missing(0..96).iter().map(|gap| gap.end - gap.start).sum();
                prop_assert_eq!(missing + told.bytes(), 96);
            }
        }

        #[test]
        fn garbage_is_an_error_or_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(landed) = Landed::decode(&bytes) {
                prop_assert_eq!(Landed::decode(&landed.encode()).map(|again| again.bytes()), Ok(landed.bytes()));
            }
        }
    }
}
