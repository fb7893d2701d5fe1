//! What a caller hands over: named memory, what it is, and what it costs to do without it.

use std::time::Duration;

use xfer_migrate_core::ItemClass;
use xfer_transport::Region;

/// One thing worth rescuing. Names are unique over a migration; the core's numbers never leave this crate.
#[derive(Debug, Clone)]
pub struct Rescue {
    /// What it is called, by the framework.
    pub name: String,
    /// What kind of thing it is.
    pub class: ItemClass,
    /// Its bytes. They must not change before the migration ends, or the item arrives damaged.
    pub region: Region,
    /// The rank it goes to.
    pub target: u32,
    /// Which content this is: the optimizer step, usually.
    pub version: u64,
    /// Items of one group are worth something only together; empty for none.
    pub group: String,
    /// What it costs to do without it.
    pub cost: Cost,
}

/// What it costs to do without an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cost {
    /// There is no other copy and no way to compute it again.
    Irreplaceable,
    /// It can be computed again at its target.
    Compute {
        /// How long that takes there.
        time: Duration,
        /// The items it is computed from, by name; empty when the target has all that is needed.
        from: Vec<String>,
    },
}

/// A hand-over as it begins.
#[derive(Debug, Clone)]
pub struct HandOver {
    /// The ranks that take over.
    pub targets: Vec<u32>,
    /// Who owns what afterwards: (name of a shard, rank).
    pub owners_after: Vec<(String, u32)>,
    /// How long this process has to live.
    pub time_left: Duration,
}
