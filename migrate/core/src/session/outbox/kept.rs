//! What targets have kept of items from an earlier attempt: said by them, compared here, and not sent again.

use xfer_transport_core::landed::Landed;

use super::{Entry, Outbox, Stage};
use crate::item::ItemId;
use crate::planted::{self, Bug};
use crate::session::Violation;

/// What came of comparing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::session) enum Found {
    /// All of it is there: whose it is, which sending of it this counts as, and the checksum of its bytes here.
    All { target: u32, send: u32, crc32c: u32 },
    /// Some of it is missing, and is sent when its turn comes.
    Rest,
    /// It is not sent any more.
    TooLate,
}

impl Outbox {
    /// `target` says what it has of items that it has not granted memory for yet. All of it is checked before any of it
    /// is taken. What comes later than the grant is not needed.
    pub(in crate::session) fn keep(&mut self, target: u32, items: &[(ItemId, Landed)]) -> Result<(), Violation> {
        for (item, kept) in items {
            let entry = self.of_target(*item, target)?;
            if kept.ranges().any(|(range, _)| range.end > entry.bytes) {
                return Err(Violation::Grants { reason: "what was kept of an item is longer than it is" });
            }
        }
        for (item, kept) in items {
            let is_news = |entry: &&Entry| entry.granted.is_none() && entry.stage == Stage::Waiting;
            if self.entries.get(*item).filter(is_news).is_some() {
                self.weigh(*item, kept.clone());
            }
        }
        Ok(())
    }

    /// The next item to compare with what its target has of it; one at a time, since it takes as long as reading it.
    pub(in crate::session) fn next_to_compare(&mut self) -> Option<(ItemId, Landed)> {
        while self.comparing.is_none() {
            let item = self.to_compare.pop_front()?;
            if let Some(entry) = self.entries.get(item).filter(|entry| entry.stage == Stage::Comparing) {
                self.comparing = Some(item);
                return Some((item, entry.kept.clone()));
            }
        }
        None
    }

    /// The item was compared: so much of it is at its target.
    pub(in crate::session) fn compared(&mut self, item: ItemId, there: Landed) -> Result<Found, Violation> {
        let entry = self.entries.get(item).filter(|_| self.comparing == Some(item));
        let wrong = Violation::Item { what: "compared", item };
        let Some(entry) = entry.filter(|entry| there.ranges().all(|(range, _)| range.end <= entry.bytes)) else {
            return Err(wrong);
        };
        self.comparing = None;
        let (bytes, target, is_open) = (entry.bytes, entry.target, entry.stage == Stage::Comparing);
        if !is_open {
            return Ok(Found::TooLate);
        }
        let there = if planted::is(Bug::BelieveKept) { entry.kept.clone() } else { there };
        let whole = there.whole(bytes);
        self.weigh(item, there);
        let stage = if whole.is_some() { Stage::Applied } else { Stage::Waiting };
        let mut send = 0;
        self.update(item, |entry| {
            entry.stage = stage;
            // Its checksum is told as after a write.
            entry.sends += u32::from(whole.is_some());
            send = entry.sends;
        });
        Ok(whole.map_or(Found::Rest, |crc32c| Found::All { target, send, crc32c }))
    }

    /// Whether an item is being compared.
    pub(in crate::session) fn is_comparing(&self) -> bool {
        self.comparing.is_some()
    }

    /// Nothing of it counts as being there: it is sent as a whole.
    pub(super) fn forget(&mut self, item: ItemId) {
        if self.entries.get(item).is_some_and(|entry| !entry.kept.is_empty()) {
            self.weigh(item, Landed::default());
        }
    }

    fn weigh(&mut self, item: ItemId, kept: Landed) {
        let mut reweighed = false;
        self.update(item, |entry| {
            let missing_bytes = entry.bytes.saturating_sub(kept.bytes());
            reweighed = missing_bytes != entry.missing_bytes;
            (entry.kept, entry.missing_bytes) = (kept, missing_bytes);
        });
        self.reweighed |= reweighed;
    }

    /// How many bytes of an item its target doesn't have, as far as is known.
    pub(in crate::session) fn missing_bytes(&self, item: ItemId) -> Option<u64> {
        self.entries.get(item).map(|entry| entry.missing_bytes)
    }

    /// Whether an item weighs something else since this was asked last.
    pub(in crate::session) fn is_reweighed(&self) -> bool {
        self.reweighed
    }

    /// All that items weigh was seen.
    pub(in crate::session) fn weighed(&mut self) {
        self.reweighed = false;
    }
}
