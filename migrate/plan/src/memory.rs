//! What targets have room for, and what modes would bring them.

use crate::mode::Mode;
use crate::script::{Kind, Stock};

/// A target that has too little room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The target.
    pub rank: u32,
    /// What it has room for.
    pub room_bytes: u64,
    /// What it would be offered at least.
    pub needed_bytes: u64,
}

impl Stock<'_> {
    /// Whether a target refuses what `mode` needs it to take.
    pub(crate) fn is_refused(&self, mode: Mode) -> bool {
        self.short.iter().any(|(short, _)| *short == mode)
    }

    /// For each mode the targets that have too little room for what can't be done without in it.
    pub(crate) fn shortages(&self) -> Vec<(Mode, Shortage)> {
        let modes = [Mode::Drain, Mode::Overlap, Mode::Stop, Mode::DropStep];
        let short = |mode| self.rooms(mode).into_iter().map(move |shortage| (mode, shortage));
        modes.into_iter().flat_map(short).filter(|(_, room)| room.needed_bytes > room.room_bytes).collect()
    }

    /// What targets can take together behind what can't be done without in `mode`; none where one's room isn't known.
    pub(crate) fn spare_bytes(&self, mode: Mode) -> Option<u64> {
        let rooms = self.rooms(mode);
        let spare = |room: &Shortage| room.room_bytes.saturating_sub(room.needed_bytes);
        (rooms.len() == self.targets).then(|| rooms.iter().map(spare).fold(0, u64::saturating_add))
    }

    /// Each target whose room is known, and what can't be done without in `mode`.
    fn rooms(&self, mode: Mode) -> Vec<Shortage> {
        let departure = self.departure;
        let mut rooms = Vec::new();
        for (rank, room_bytes) in &departure.memory_bytes {
            let here = |place: &usize| departure.assets[*place].target == *rank;
            let state = self.state.iter().flatten().copied().filter(here);
            let step = (0..self.lines).flat_map(|line| self.wanted(mode, line)).filter(here);
            let elsewhere = (0..departure.assets.len()).filter(|place| {
                let asset = &departure.assets[*place];
                asset.target == *rank && self.kinds[*place] == Kind::Elsewhere && !asset.holders.contains(rank)
            });
            let needed_bytes = self.bytes_of(&mut state.chain(step).chain(elsewhere));
            if departure.assets.iter().any(|asset| asset.target == *rank) {
                rooms.push(Shortage { rank: *rank, room_bytes: *room_bytes, needed_bytes });
            }
        }
        rooms
    }
}
