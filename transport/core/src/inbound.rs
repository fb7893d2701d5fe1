//! What a receiver knows of the transfers of one peer: which chunk may land, and which never again.
//!
//! A chunk may arrive twice, over two links, when the first was thought lost. Only one link at a time may write it,
//! the one with the sender's latest attempt: what becomes of that attempt the sender will hear. Once the chunk is
//! verified, none may; and once its transfer is over, nothing of that transfer is written ever again. A link may have several
//! chunks under way, where a device brings them.

use std::collections::{BTreeMap, HashMap};

use crate::frame::FrameHeader;
use crate::limits::{CHUNKS_ARRIVING_PER_LINK_MAX, TRANSFERS_PER_PEER_MAX};
use crate::path::{LinkId, TransferId};
use crate::planted::{self, Bug};

/// Transfers and chunks that arrive from one peer.
#[derive(Debug, Default)]
pub struct Inbound {
    live: HashMap<TransferId, Live>,
    over: IdSet,
    /// What the links are writing just now; a few entries.
    claims: Vec<(LinkId, Claim)>,
}

#[derive(Debug, Default)]
struct Live {
    /// Offset → checksum of what was verified there.
    applied: HashMap<u64, u32>,
}

/// A chunk that a link writes, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its transfer.
    pub transfer: TransferId,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub len_bytes: u32,
    /// Which of the sender's attempts it is.
    pub attempt: u8,
}

/// What becomes of an arriving chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It is written. The link in `displaced` was writing it before and must stop first.
    Place {
        /// The link whose copy is not wanted any more.
        displaced: Option<LinkId>,
    },
    /// It is there already: thrown away and acknowledged again.
    Applied {
        /// Checksum of what lies there.
        crc32c: u32,
    },
    /// Its transfer is over, or a later attempt is being written: thrown away.
    Over,
    /// The peer has more transfers under way than it may, or more chunks on one link.
    TooMany,
    /// The link is writing this chunk already.
    Twice,
}

impl Inbound {
    /// A chunk begins to arrive on `link`. One that is to be placed is claimed until [`Self::applied`] or [`Self::abandoned`].
    pub fn begin(&mut self, link: LinkId, claim: Claim) -> Begin {
        let Claim { transfer, offset, attempt, .. } = claim;
        if self.over.contains(transfer.0) && !planted::is(Bug::AcceptAfterEnd) {
            return Begin::Over;
        }
        let too_many = self.live.len() >= TRANSFERS_PER_PEER_MAX;
        match self.live.get(&transfer) {
            None if too_many => return Begin::TooMany,
            None => _ = self.live.insert(transfer, Live::default()),
            Some(live) => {
                if let Some(crc32c) = live.applied.get(&offset).filter(|_| !planted::is(Bug::AcceptDuplicate)) {
                    return Begin::Applied { crc32c: *crc32c };
                }
            }
        }
        let other = self.claims.iter().position(|(_, other)| other.overlaps(&claim));
        if let Some((of, known)) = other.and_then(|at| self.claims.get(at)) {
            if *of == link {
                return Begin::Twice;
            }
            if known.attempt > attempt {
                return Begin::Over;
            }
        }
        if self.claims.iter().filter(|(of, _)| *of == link).count() >= CHUNKS_ARRIVING_PER_LINK_MAX {
            return Begin::TooMany;
        }
        let displaced = other.map(|at| self.claims.swap_remove(at).0);
        self.claims.push((link, claim));
        Begin::Place { displaced }
    }

    /// The chunk that `link` was writing has landed with this checksum, which is the right one. `false`: the link
    /// had been displaced, so this says nothing about the bytes that lie there.
    pub fn applied(&mut self, link: LinkId, claim: &Claim, crc32c: u32) -> bool {
        if !self.abandoned(link, claim) {
            return false;
        }
        let Some(live) = self.live.get_mut(&claim.transfer) else { return false };
        live.applied.insert(claim.offset, crc32c);
        true
    }

    /// `link` writes this chunk no more: damaged, or revoked. `false`: it had been displaced.
    pub fn abandoned(&mut self, link: LinkId, claim: &Claim) -> bool {
        let at = self.claims.iter().position(|(of, known)| *of == link && known == claim);
        at.map(|at| self.claims.swap_remove(at)).is_some()
    }

    /// `link` writes nothing more.
    pub fn link_lost(&mut self, link: LinkId) {
        self.claims.retain(|(of, _)| *of != link);
    }

    /// Ends `transfer` for good, and names the links that are writing it and must stop.
    pub fn fence(&mut self, transfer: TransferId) -> Vec<LinkId> {
        self.forget(transfer);
        if planted::is(Bug::FenceLeavesLinks) {
            return Vec::new();
        }
        let (stop, keep) = self.claims.iter().partition(|(_, claim)| claim.transfer == transfer);
        self.claims = keep;
        let stop: Vec<(LinkId, Claim)> = stop;
        stop.into_iter().map(|(link, _)| link).collect()
    }

    /// The sender knows that `transfer` is complete. A late second copy of one of its chunks lands nowhere.
    pub fn ended(&mut self, transfer: TransferId) -> Vec<LinkId> {
        self.fence(transfer)
    }

    /// Transfers that are under way.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    fn forget(&mut self, transfer: TransferId) {
        self.live.remove(&transfer);
        self.over.insert(transfer.0);
    }
}

impl Claim {
    /// The chunk that `header` begins.
    pub fn of(header: &FrameHeader) -> Self {
        let FrameHeader { offset, len_bytes, attempt, .. } = *header;
        Self { transfer: TransferId(header.transfer), offset, len_bytes, attempt }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.transfer == other.transfer
            && self.offset < other.offset.saturating_add(u64::from(other.len_bytes).max(1))
            && other.offset < self.offset.saturating_add(u64::from(self.len_bytes).max(1))
    }
}

/// Numbers that were mostly handed out in order, kept as ranges: as many as there are transfers still under way.
#[derive(Debug, Default)]
struct IdSet {
    /// First → last, both included; ranges neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
}

impl IdSet {
    /// How many gaps are remembered; an honest peer has at most one per transfer under way.
    const RANGES_MAX: usize = 2 * TRANSFERS_PER_PEER_MAX;

    fn contains(&self, id: u64) -> bool {
        self.ranges.range(..=id).next_back().is_some_and(|(_, last)| id <= *last)
    }

    fn insert(&mut self, id: u64) {
        if self.contains(id) {
            return;
        }
        let (mut first, mut last) = (id, id);
        let before = self.ranges.range(..id).next_back().map(|(first, last)| (*first, *last));
        if let Some((start, end)) = before
            && end.checked_add(1) == Some(id)
        {
            first = start;
        }
        if let Some(after) = id.checked_add(1)
            && let Some(end) = self.ranges.remove(&after)
        {
            last = end;
        }
        self.ranges.insert(first, last);
        if self.ranges.len() > Self::RANGES_MAX {
            self.close_lowest_gap();
        }
    }

    /// Forgets the oldest gap by declaring it over: refuses what may be live rather than admit what may be over.
    fn close_lowest_gap(&mut self) {
        if let Some((first, _)) = self.ranges.pop_first()
            && let Some((_, last)) = self.ranges.pop_first()
        {
            self.ranges.insert(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: LinkId = LinkId(0);
    const B: LinkId = LinkId(1);
    const T: TransferId = TransferId(1);

    fn chunk(transfer: TransferId, offset: u64, attempt: u8) -> Claim {
        Claim { transfer, offset, len_bytes: 10, attempt }
    }

    #[test]
    fn the_second_copy_of_a_chunk_displaces_the_first() {
        let mut inbound = Inbound::default();
        let (first, second) = (chunk(T, 0, 0), chunk(T, 0, 1));
        assert_eq!(inbound.begin(A, first), Begin::Place { displaced: None });
        assert_eq!(inbound.begin(B, second), Begin::Place { displaced: Some(A) });
        assert!(!inbound.applied(A, &first, 1), "a displaced link can't vouch for the bytes");
        assert!(inbound.applied(B, &second, 2));
        assert_eq!(inbound.begin(A, first), Begin::Applied { crc32c: 2 });
    }

    #[test]
    fn an_early_copy_that_comes_late_displaces_nothing() {
        let mut inbound = Inbound::default();
        let late = chunk(T, 0, 1);
        assert_eq!(inbound.begin(B, late), Begin::Place { displaced: None });
        assert_eq!(inbound.begin(A, chunk(T, 0, 0)), Begin::Over);
        assert!(inbound.applied(B, &late, 2));
    }

    #[test]
    fn a_link_may_write_several_chunks_and_none_of_them_twice() {
        let mut inbound = Inbound::default();
        let (first, second) = (chunk(T, 0, 0), chunk(T, 10, 0));
        assert_eq!(inbound.begin(A, first), Begin::Place { displaced: None });
        assert_eq!(inbound.begin(A, second), Begin::Place { displaced: None });
        assert_eq!(inbound.begin(A, chunk(T, 10, 1)), Begin::Twice);
        assert!(inbound.applied(A, &second, 1) && inbound.applied(A, &first, 1), "in any order");
        assert!(!inbound.abandoned(A, &first), "each ends once");
    }

    #[test]
    fn a_displaced_copy_says_nothing_about_a_later_one_on_its_link() {
        let mut inbound = Inbound::default();
        let attempts = [0, 1, 2].map(|attempt| chunk(T, 0, attempt));
        inbound.begin(A, attempts[0]);
        inbound.begin(B, attempts[1]);
        assert_eq!(inbound.begin(A, attempts[2]), Begin::Place { displaced: Some(B) });
        assert!(!inbound.applied(A, &attempts[0], 1));
        assert!(inbound.applied(A, &attempts[2], 1));
    }

    #[test]
    fn chunks_of_one_link_are_limited_from_both_sides() {
        let mut inbound = Inbound::default();
        let most = CHUNKS_ARRIVING_PER_LINK_MAX as u64;
        for index in 0..most {
            assert_eq!(inbound.begin(A, chunk(T, 10 * index, 0)), Begin::Place { displaced: None });
        }
        assert_eq!(inbound.begin(A, chunk(T, 10 * most, 0)), Begin::TooMany);
        assert_eq!(inbound.begin(B, chunk(T, 10 * most, 0)), Begin::Place { displaced: None });
        inbound.link_lost(A);
        assert_eq!(inbound.begin(A, chunk(T, 0, 0)), Begin::Place { displaced: None });
        assert!(inbound.abandoned(B, &chunk(T, 10 * most, 0)), "another link is not touched");
    }

    #[test]
    fn after_the_fence_nothing_of_the_transfer_lands() {
        let mut inbound = Inbound::default();
        let (fenced, other) = (chunk(T, 0, 0), chunk(TransferId(2), 0, 0));
        inbound.begin(A, fenced);
        inbound.begin(B, other);
        assert_eq!(inbound.fence(T), [A]);
        assert!(!inbound.applied(A, &fenced, 1));
        assert_eq!(inbound.begin(A, chunk(T, 10, 0)), Begin::Over);
        assert!(inbound.applied(B, &other, 1), "another transfer is not touched");
    }

    #[test]
    fn a_fence_may_come_before_the_first_chunk() {
        let mut inbound = Inbound::default();
        assert!(inbound.fence(T).is_empty());
        assert_eq!(inbound.begin(A, chunk(T, 0, 0)), Begin::Over);
    }

    #[test]
    fn a_damaged_chunk_may_come_again() {
        let mut inbound = Inbound::default();
        inbound.begin(A, chunk(T, 0, 0));
        assert!(inbound.abandoned(A, &chunk(T, 0, 0)));
        assert_eq!(inbound.begin(A, chunk(T, 0, 0)), Begin::Place { displaced: None });
    }

    #[test]
    fn a_link_that_was_displaced_has_nothing_to_abandon() {
        let mut inbound = Inbound::default();
        let claim = chunk(T, 0, 0);
        assert!(!inbound.abandoned(A, &claim), "it writes nothing");
        inbound.begin(A, claim);
        // The same attempt over another link: the sender has lost the first one.
        assert_eq!(inbound.begin(B, claim), Begin::Place { displaced: Some(A) });
        assert!(!inbound.abandoned(A, &claim));
        assert!(inbound.abandoned(B, &claim));
    }

    #[test]
    fn transfers_under_way_are_counted() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.live(), 0);
        inbound.begin(A, chunk(T, 0, 0));
        inbound.begin(A, chunk(T, 10, 0));
        inbound.begin(B, chunk(TransferId(2), 0, 0));
        assert_eq!(inbound.live(), 2);
        inbound.ended(T);
        assert_eq!(inbound.live(), 1);
    }

    #[test]
    fn of_more_gaps_than_are_remembered_the_oldest_is_closed() {
        let mut set = IdSet::default();
        // Every second number: each is a range of its own.
        let most = IdSet::RANGES_MAX as u64;
        (0..most).for_each(|index| set.insert(2 * index));
        assert_eq!((set.ranges.len(), set.contains(1)), (IdSet::RANGES_MAX, false));
        set.insert(2 * most);
        assert_eq!(set.ranges.len(), IdSet::RANGES_MAX);
        assert!(set.contains(1), "what may have been live is over");
        assert!(set.contains(0) && set.contains(2) && set.contains(2 * most));
        assert!(!set.contains(3) && !set.contains(2 * most - 1), "all other gaps stay");
    }

    #[test]
    fn transfers_under_way_are_limited_from_both_sides() {
        let mut inbound = Inbound::default();
        for id in 0..TRANSFERS_PER_PEER_MAX as u64 {
            let claim = chunk(TransferId(id), 0, 0);
            assert_eq!(inbound.begin(A, claim), Begin::Place { displaced: None });
            inbound.abandoned(A, &claim);
        }
        let one_more = chunk(TransferId(u64::MAX), 0, 0);
        assert_eq!(inbound.begin(A, one_more), Begin::TooMany);
        inbound.ended(TransferId(0));
        assert_eq!(inbound.begin(A, one_more), Begin::Place { displaced: None });
    }

    proptest! {
        #[test]
        fn ids_are_a_set(ids in proptest::collection::vec(0_u64..64, 0..200)) {
            let mut set = IdSet::default();
            let mut model = BTreeSet::new();
            for id in ids {
                set.insert(id);
                model.insert(id);
                for probe in 0..64 {
                    prop_assert_eq!(set.contains(probe), model.contains(&probe));
                }
            }
            let gaps = model.iter().filter(|id| !model.contains(&(**id + 1))).count();
            prop_assert_eq!(set.ranges.len(), gaps);
        }
    }

    #[test]
    fn the_ends_of_the_number_line_are_ids_too() {
        let mut set = IdSet::default();
        for id in [u64::MAX, 0, u64::MAX - 1] {
            set.insert(id);
            assert!(set.contains(id));
        }
        assert!(!set.contains(1));
    }
}
