//! What it costs to do without an item.

use std::time::Duration;

use crate::item::ItemId;

/// What it costs to do without an item's bytes.
///
/// Costs are modular: `time` is what this one item takes once its inputs are there. What its inputs cost is said by
/// the inputs themselves, which must be in the manifest too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RecomputeCost {
    /// There is no other copy and no way to compute it again: without it, the job goes back to a checkpoint.
    Irreplaceable,
    /// It can be computed again.
    Compute {
        /// How long that takes at its target, once its inputs are there.
        time: Duration,
        /// The items it is computed from, whoever's target they are; empty when the target has all that is needed.
        from: Vec<ItemId>,
    },
    /// Another rank holds the same bytes. Then the link of the rank that leaves is not spent on them.
    Fetch {
        /// The rank that holds them.
        from: u32,
    },
}

impl RecomputeCost {
    /// What must be there before the item can be computed again.
    pub fn inputs(&self) -> &[ItemId] {
        match self {
            Self::Compute { from, .. } => from,
            Self::Irreplaceable | Self::Fetch { .. } => &[],
        }
    }

    /// How long it takes to compute it again: zero for what is fetched, `None` for what is irreplaceable.
    pub fn time(&self) -> Option<Duration> {
        match self {
            Self::Irreplaceable => None,
            Self::Compute { time, .. } => Some(*time),
            Self::Fetch { .. } => Some(Duration::ZERO),
        }
    }

    /// Whether only the bytes themselves will do.
    pub fn is_irreplaceable(&self) -> bool {
        matches!(self, Self::Irreplaceable)
    }
}
