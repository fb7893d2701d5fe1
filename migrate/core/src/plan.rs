//! What to send before the deadline, in which order, and what will become of the rest.

#[cfg(test)]
mod oracle;
mod table;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::{Budget, time_for};
use crate::cost::RecomputeCost;
use crate::item::{GroupId, Item, ItemClass, ItemId};
use crate::manifest::Manifest;
use crate::planted::{self, Bug};

/// Which of the items that can be computed again are sent all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PlanPolicy {
    /// Those with which everything is there soonest, when the link and the targets' compute work side by side.
    #[default]
    Threshold,
    /// All of them, as far as the deadline allows: nothing is computed again that could have been sent.
    ShipAll,
}

/// What will become of what, counting on the low end of the rate's interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is sent, first things first.
    pub order: Vec<ItemId>,
    /// What isn't sent on purpose, inputs first.
    pub recompute: Vec<ItemId>,
    /// What will become of what.
    pub verdict: Verdict,
    /// The plan for people: what is sent in its order, then what isn't.
    pub rows: Vec<PlanRow>,
}

/// One item of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRow {
    /// The item.
    pub id: ItemId,
    /// What the framework calls it.
    pub name: Arc<str>,
    /// What kind of thing it is.
    pub class: ItemClass,
    /// Its length in bytes.
    pub bytes: u64,
    /// What having it saves: none where only the bytes will do.
    pub saves: Option<Duration>,
    /// When it is there; none when it isn't sent.
    pub arrives: Option<Arrival>,
}

/// When an item is there, counted from the moment of planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// At the high end of the rate's interval.
    pub soonest: Duration,
    /// At the low end.
    pub latest: Duration,
}

impl Plan {
    /// Plans all of `manifest`.
    pub fn new(manifest: &Manifest, budget: &Budget, policy: PlanPolicy) -> Self {
        Self::of_open(manifest, budget, policy, 0, |_| true)
    }

    /// Plans those items of `manifest` that are `open`, behind `bytes_ahead` that are on their way and keep their
    /// order.
    pub fn of_open(
        manifest: &Manifest,
        budget: &Budget,
        policy: PlanPolicy,
        bytes_ahead: u64,
        open: impl Fn(&Item) -> bool,
    ) -> Self {
        let open: Vec<&Item> = manifest.items().iter().filter(|item| open(item)).collect();
        let mut irreplaceable: Vec<&Item> = open.iter().copied().filter(|item| item.cost.is_irreplaceable()).collect();
        irreplaceable.sort_by_key(|item| (item.bytes, item.id));
        let groups = groups(&open);

        let needed = irreplaceable.iter().fold(bytes_ahead, |sum, item| sum.saturating_add(item.bytes));
        let choice = match policy {
            PlanPolicy::Threshold => threshold(&groups, budget, needed),
            PlanPolicy::ShipAll => vec![true; groups.len()],
        };
        let chosen = groups.iter().zip(&choice).filter(|(_, ship)| **ship).flat_map(|(group, _)| &group.items);
        let sent: Vec<&Item> = irreplaceable.iter().chain(chosen).copied().collect();

        let order: Vec<ItemId> = sent.iter().map(|item| item.id).collect();
        let recompute = without(&open, &order);
        let verdict = verdict(&sent, &recompute, budget, bytes_ahead);
        let rows = rows(&sent, &recompute, budget, bytes_ahead);
        Self { order, recompute: recompute.iter().map(|item| item.id).collect(), verdict, rows }
    }
}

/// Items that are worth something only together.
struct Group<'a> {
    items: Vec<&'a Item>,
    bytes: u64,
    /// The nanoseconds that it takes to compute all of them again.
    saves_ns: u64,
}

impl Group<'_> {
    /// Most seconds saved per byte first; among equals the shorter one, which is worth something sooner.
    fn before(&self, other: &Self) -> Ordering {
        let ours = u128::from(self.saves_ns) * u128::from(other.bytes);
        let theirs = u128::from(other.saves_ns) * u128::from(self.bytes);
        if planted::is(Bug::CheapestFirst) {
            return ours.cmp(&theirs);
        }
        theirs.cmp(&ours).then(self.bytes.cmp(&other.bytes))
    }
}

/// The groups of what can be computed again, in the order in which they would leave.
fn groups<'a>(open: &[&'a Item]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places: BTreeMap<GroupId, usize> = BTreeMap::new();
    for item in open {
        let RecomputeCost::Compute { time, .. } = &item.cost else { continue };
        let new = groups.len();
        let place = match item.group {
            GroupId::ALONE => new,
            group => *places.entry(group).or_insert(new),
        };
        if place == new {
            groups.push(Group { items: Vec::new(), bytes: 0, saves_ns: 0 });
        }
        let group = &mut groups[place];
        group.items.push(item);
        group.bytes = group.bytes.saturating_add(item.bytes);
        group.saves_ns = group.saves_ns.saturating_add(nanos(*time));
    }
    // A stable sort: what is alike in all of this keeps its dependency order.
    groups.sort_by(Group::before);
    groups
}

/// Which groups to send so that everything is there soonest.
///
/// Once the irreplaceable is there, the link sends some groups while the targets compute the others: two unrelated
/// machines. Its relaxation is solved by a threshold on seconds saved per byte, where both machines end together. So
/// groups are taken from the top as long as each brings that end nearer; whole groups instead of fractions cost at
/// most one group's time on its faster machine. What would be late at the low rate isn't counted on.
fn threshold(groups: &[Group<'_>], budget: &Budget, needed_bytes: u64) -> Vec<bool> {
    let rate = budget.rate_middle();
    let mut room_bytes = budget.bytes_low().saturating_sub(needed_bytes);
    let mut send_bytes: u64 = 0;
    let mut compute_ns = groups.iter().fold(0_u64, |sum, group| sum.saturating_add(group.saves_ns));
    let mut end_ns = compute_ns;
    let take = |group: &Group<'_>| {
        if group.bytes > room_bytes {
            return false;
        }
        let send_with = send_bytes + group.bytes;
        let compute_without = compute_ns.saturating_sub(group.saves_ns);
        let end_with = nanos(time_for(send_with, rate)).max(compute_without);
        if end_with >= end_ns {
            return false;
        }
        (send_bytes, compute_ns, end_ns) = (send_with, compute_without, end_with);
        room_bytes -= group.bytes;
        true
    };
    groups.iter().map(take).collect()
}

/// Those of `open` that aren't in `order`.
fn without<'a>(open: &[&'a Item], order: &[ItemId]) -> Vec<&'a Item> {
    let mut sent = order.to_vec();
    sent.sort_unstable();
    open.iter().copied().filter(|item| sent.binary_search(&item.id).is_err()).collect()
}

fn verdict(sent: &[&Item], recompute: &[&Item], budget: &Budget, bytes_ahead: u64) -> Verdict {
    let window_bytes = budget.bytes_low();
    let mut arrived_bytes = bytes_ahead;
    let mut needed_bytes = bytes_ahead;
    let mut lost = 0;
    let mut shed: Vec<&Item> =
        recompute.iter().copied().filter(|item| item.cost.time() > Some(Duration::ZERO)).collect();
    for item in sent {
        arrived_bytes = arrived_bytes.saturating_add(item.bytes);
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

fn rows(sent: &[&Item], recompute: &[&Item], budget: &Budget, bytes_ahead: u64) -> Vec<PlanRow> {
    let row = |item: &Item, arrives| PlanRow {
        id: item.id,
        name: Arc::clone(&item.name),
        class: item.class,
        bytes: item.bytes,
        saves: item.cost.time(),
        arrives,
    };
    let mut bytes = bytes_ahead;
    let arriving = sent.iter().map(|item| {
        bytes = bytes.saturating_add(item.bytes);
        let (soonest, latest) = (time_for(bytes, budget.rate.high), time_for(bytes, budget.rate.low));
        row(item, Some(Arrival { soonest, latest }))
    });
    arriving.chain(recompute.iter().map(|item| row(item, None))).collect()
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
