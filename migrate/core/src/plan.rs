//! What to send before the deadline, in which order, and what will become of the rest.

mod blocks;
mod flow;
#[cfg(test)]
mod oracle;
mod planner;
mod ship;
mod steady;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::{Budget, time_for};
use crate::item::{Item, ItemClass, ItemId};
use crate::manifest::Manifest;

pub use blocks::{Block, BlocksError, Parcel, best_saved_ns, blocks};
pub use planner::{Planner, Standing};
pub use ship::{Choice, Computing, Ladder, Link, Piece, choose};

/// Which of the items that can be computed again are sent all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PlanPolicy {
    /// Those with which everything is there soonest, when the link and the targets' compute work side by side.
    #[default]
    Threshold,
    /// Those that the link carries in less time than their targets need to compute them, when they compute only once
    /// ownership has passed.
    SendThenCompute,
    /// All of them, as far as the deadline allows: nothing is computed again that could have been sent.
    ShipAll,
}

/// What will become of what, counting on the low end of the rate's interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Everything arrives.
    Fits {
        /// What is left of the window then.
        spare: Duration,
    },
    /// Everything that only the bytes can bring arrives; the rest is computed again.
    Sheds {
        /// How many items that is.
        recompute: usize,
        /// How long it takes, one after the other.
        time: Duration,
    },
    /// Some of what only the bytes can bring doesn't arrive. It is sent all the same: estimates err.
    Loses {
        /// How many items that is.
        irreplaceable: usize,
        /// How many bytes too many there are.
        bytes_short: u64,
    },
}

/// The order in which items leave, and what becomes of those that don't.
///
/// What is irreplaceable comes first, as one group, because losing one of it costs as much as losing all; inside,
/// the smallest first, so that tables and cursors are there early. Then come groups by the seconds they save per
/// byte. That order is best at every moment at which the link may die, and does not depend on the link's rate; the
/// rate only decides where the order ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What is sent, first things first.
    pub order: Vec<ItemId>,
    /// What isn't sent on purpose, inputs first.
    pub recompute: Vec<ItemId>,
    /// What will become of what.
    pub verdict: Verdict,
    /// When everything is there, sent or computed, at the middle rate and counted from the moment of planning.
    pub ready: Duration,
    /// When everything that is sent is there, likewise: what is left until `ready` is computing.
    pub sent: Duration,
    /// What of that comes behind the last irreplaceable byte.
    pub end: Duration,
    /// No choice of what to send comes below that, even if groups could be sent in part.
    pub bound: Duration,
    /// The plan for people: what is sent in its order, then what isn't.
    pub rows: Vec<PlanRow>,
}

/// One item of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlanRow {
    /// The item.
    pub id: ItemId,
    /// What the framework calls it.
    pub name: Arc<str>,
    /// What kind of thing it is.
    pub class: ItemClass,
    /// How many bytes of it are to be sent: its length, less what its target has of it.
    pub bytes: u64,
    /// What having it saves: none where only the bytes will do.
    pub saves: Option<Duration>,
    /// When it is there; none when it isn't sent.
    pub arrives: Option<Arrival>,
}

/// When an item is there, counted from the moment of planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// At the high end of the rate's interval.
    pub soonest: Duration,
    /// At the low end.
    pub latest: Duration,
}

/// An item, and what it weighs on the link.
#[derive(Debug, Clone, Copy)]
struct Load<'a> {
    item: &'a Item,
    bytes: u64,
}

impl Plan {
    /// Plans all of `manifest`.
    pub fn new(manifest: &Manifest, budget: &Budget, policy: PlanPolicy) -> Self {
        Planner::new(manifest).plan(manifest, budget, policy, 0, |_| Standing::Open)
    }

    /// How much later than its bound the plan ends, as a part of its end: 0 is proven to be best.
    pub fn gap(&self) -> f64 {
        let end = self.end.as_secs_f64();
        if end > 0.0 { (end - self.bound.as_secs_f64()) / end } else { 0.0 }
    }

    /// The plan that sends `sent` and leaves out `kept`.
    fn of(sent: &[Load<'_>], kept: &[Load<'_>], budget: &Budget, bytes_ahead: u64, choice: &Choice) -> Self {
        let irreplaceable = sent.iter().filter(|load| load.item.cost.is_irreplaceable());
        let needed_bytes = irreplaceable.fold(bytes_ahead, |sum, load| sum.saturating_add(load.bytes));
        let needed = time_for(needed_bytes, budget.rate_middle());
        let ids = |loads: &[Load<'_>]| loads.iter().map(|load| load.item.id).collect();
        Self {
            order: ids(sent),
            recompute: ids(kept),
            verdict: verdict(sent, kept, budget, bytes_ahead),
            ready: needed.saturating_add(Duration::from_nanos(choice.end_ns)),
            sent: needed.saturating_add(Duration::from_nanos(choice.sent_ns)),
            end: Duration::from_nanos(choice.end_ns),
            bound: Duration::from_nanos(choice.bound_ns),
            rows: rows(sent, kept, budget, bytes_ahead),
        }
    }
}

fn verdict(sent: &[Load<'_>], recompute: &[Load<'_>], budget: &Budget, bytes_ahead: u64) -> Verdict {
    let window_bytes = budget.bytes_low();
    let mut arrived_bytes = bytes_ahead;
    let mut needed_bytes = bytes_ahead;
    let mut lost = 0;
    let left_out = recompute.iter().map(|load| load.item);
    let mut shed: Vec<&Item> = left_out.filter(|item| item.cost.time() > Some(Duration::ZERO)).collect();
    for Load { item, bytes } in sent {
        arrived_bytes = arrived_bytes.saturating_add(*bytes);
        let late = arrived_bytes > window_bytes;
        if item.cost.is_irreplaceable() {
            needed_bytes = arrived_bytes;
            lost += usize::from(late);
        } else if late {
            shed.push(item);
        }
    }
    if lost > 0 {
        return Verdict::Loses { irreplaceable: lost, bytes_short: needed_bytes - window_bytes };
    }
    if !shed.is_empty() {
        let time = shed.iter().filter_map(|item| item.cost.time()).fold(Duration::ZERO, Duration::saturating_add);
        return Verdict::Sheds { recompute: shed.len(), time };
    }
    Verdict::Fits { spare: budget.window().saturating_sub(time_for(arrived_bytes, budget.rate.low)) }
}

fn rows(sent: &[Load<'_>], recompute: &[Load<'_>], budget: &Budget, bytes_ahead: u64) -> Vec<PlanRow> {
    let row = |Load { item, bytes }: &Load<'_>, arrives| PlanRow {
        id: item.id,
        name: Arc::clone(&item.name),
        class: item.class,
        bytes: *bytes,
        saves: item.cost.time(),
        arrives,
    };
    let mut bytes = bytes_ahead;
    let arriving = sent.iter().map(|load| {
        bytes = bytes.saturating_add(load.bytes);
        let (soonest, latest) = (time_for(bytes, budget.rate.high), time_for(bytes, budget.rate.low));
        row(load, Some(Arrival { soonest, latest }))
    });
    arriving.chain(recompute.iter().map(|load| row(load, None))).collect()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits { spare } => write!(f, "fits: everything arrives, with {} to spare", table::seconds(*spare)),
            Self::Sheds { recompute, time } => {
                write!(f, "sheds: {} computed again, in {}", table::items(*recompute), table::seconds(*time))
            }
            Self::Loses { irreplaceable, bytes_short } => write!(
                f,
                "loses: {} that only the bytes can bring late, {} too many; sent all the same",
                table::items(*irreplaceable),
                table::bytes(*bytes_short)
            ),
        }
    }
}

#[cfg(test)]
mod tests;
