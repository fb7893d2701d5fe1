//! What new owners have to do before they go on, beside waiting for bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use xfer_migrate_core::{GroupId, Item, ItemId, RecomputeCost};

/// What taking over costs one new owner, by what the caller has measured of such work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TakeOver {
    /// Whose work it is.
    pub rank: u32,
    /// How long from now on it has work of its own, whatever comes.
    pub busy: Duration,
    /// How much of what it does meanwhile, graphs included, it can have done already.
    pub prepared: Duration,
    /// How long news wait for it, on the average, as long as it has.
    pub hears: Duration,
    /// What it does while it waits for the rest, as far as there is time: make layers.
    pub meanwhile: Duration,
    /// What it does once the layers are its own: load them, compute what was not offered.
    pub after: Duration,
    /// The same as `meanwhile`, for each group that is sent: build its graph.
    pub graph: Duration,
    /// The same as `after`, for each group that is sent: put tensors into that graph.
    pub bind: Duration,
    /// What it computes for each group, or single item, that is not sent.
    pub again: Duration,
}

/// All new owners, and how far the caller's figures are to be trusted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TakeOvers {
    /// Each of them.
    pub owners: Vec<TakeOver>,
    /// By what factor work has been slower lately than was taken for it: 1 if it was not.
    pub slower: f64,
}

impl TakeOvers {
    /// What the owner that has most to do does while bytes come, and afterwards, if all that was offered is sent to it: one that
    /// has work of its own does all of it afterwards, and hears of it late.
    pub(crate) fn most(&self, forwards: &BTreeMap<u32, Forwards>) -> (Duration, Duration) {
        let of = |owner: &TakeOver| {
            let groups = forwards.get(&owner.rank).map_or(0, |forwards| forwards.sent + forwards.again);
            let meanwhile = (owner.meanwhile + owner.graph * groups).saturating_sub(owner.prepared);
            let after = owner.after + owner.bind * groups;
            if owner.busy.is_zero() { (meanwhile, after) } else { (Duration::ZERO, owner.hears + meanwhile + after) }
        };
        self.owners.iter().map(of).max_by_key(|(meanwhile, after)| *meanwhile + *after).unwrap_or_default()
    }
}

/// What becomes of operations, such as forwards, whose results were offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Forwards {
    /// Groups that are sent.
    pub(crate) sent: u32,
    /// Groups, and single items, that are computed again.
    pub(crate) again: u32,
    /// How long that takes by what was said when they were offered: what sending them would save.
    pub(crate) compute: Duration,
}

struct Operation<'a> {
    target: u32,
    is_group: bool,
    time: Duration,
    kept: bool,
    from: &'a [ItemId],
}

/// What becomes of the operations behind `items`, by the rank that takes them over; with each item, whether it is kept back.
pub(crate) fn forwards<'a>(items: impl Iterator<Item = (&'a Item, bool)>) -> BTreeMap<u32, Forwards> {
    let mut operations: Vec<Operation<'a>> = Vec::new();
    let mut groups: HashMap<GroupId, usize> = HashMap::new();
    for (item, kept) in items {
        let RecomputeCost::Compute { time, from } = &item.cost else { continue };
        let (new, is_group) = (operations.len(), item.group != GroupId::ALONE);
        let at = if is_group { *groups.entry(item.group).or_insert(new) } else { new };
        if at == new {
            operations.push(Operation { target: item.target, is_group, time: Duration::ZERO, kept: false, from });
        }
        operations[at].time += *time;
        operations[at].kept |= kept;
    }
    let mut found: BTreeMap<u32, Forwards> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.is_group && !operation.kept) {
        found.entry(operation.target).or_default().sent += 1;
    }
    // What is made from the same things is made at once: a layer's output, and what its forward saves. Groups first.
    let mut again: Vec<&Operation<'_>> = operations.iter().filter(|operation| operation.kept).collect();
    again.sort_by_key(|operation| (!operation.is_group, std::cmp::Reverse(operation.time)));
    let mut made: HashSet<&[ItemId]> = HashSet::new();
    for operation in again {
        if !operation.from.is_empty() && !made.insert(operation.from) {
            continue;
        }
        let of_target = found.entry(operation.target).or_default();
        of_target.again += 1;
        of_target.compute += operation.time;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfer_migrate_core::ItemClass;

    const MS: Duration = Duration::from_millis(1);

    fn item(id: u64, class: ItemClass, target: u32, group: u32, ms: u32, from: &[u64]) -> Item {
        Item {
            id: ItemId(id),
            name: format!("item {id}").into(),
            class,
            bytes: 1,
            version: 1,
            target,
            group: GroupId(group),
            cost: RecomputeCost::Compute { time: ms * MS, from: from.iter().copied().map(ItemId).collect() },
        }
    }

    #[test]
    fn a_group_is_sent_when_all_of_it_is_and_computed_again_otherwise() {
        let (meta, saved) = (ItemClass::Meta, ItemClass::Saved);
        let items = [
            (item(1, meta, 0, 1, 1, &[]), false),
            (item(2, saved, 0, 1, 9, &[]), false),
            (item(3, meta, 2, 2, 1, &[]), false),
            (item(4, saved, 2, 2, 9, &[]), true),
        ];
        let found = forwards(items.iter().map(|(item, kept)| (item, *kept)));
        assert_eq!(found[&0], Forwards { sent: 1, again: 0, compute: Duration::ZERO });
        assert_eq!(found[&2], Forwards { sent: 0, again: 1, compute: 10 * MS });
    }

    #[test]
    fn who_is_busy_does_all_of_it_afterwards() {
        let forwards = [(2, Forwards { sent: 1, again: 1, compute: Duration::ZERO })].into();
        let owner = |rank, busy| TakeOver {
            rank,
            busy,
            prepared: MS,
            hears: 3 * MS,
            meanwhile: 11 * MS,
            after: MS,
            graph: 5 * MS,
            bind: 2 * MS,
            again: MS,
        };
        let most = |busy| {
            let owners = vec![owner(0, Duration::ZERO), owner(2, busy)];
            TakeOvers { owners, slower: 1.0 }.most(&forwards)
        };
        assert_eq!(most(Duration::ZERO), (20 * MS, 5 * MS));
        assert_eq!(most(MS), (Duration::ZERO, 28 * MS));
        assert_eq!(TakeOvers::default().most(&forwards), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn what_one_operation_makes_is_computed_once() {
        let items = [
            (item(1, ItemClass::Boundary, 2, 0, 30, &[7, 8]), true),
            (item(2, ItemClass::Saved, 0, 1, 20, &[7, 8]), true),
            (item(3, ItemClass::Boundary, 2, 0, 30, &[8, 9]), true),
            (item(4, ItemClass::Saved, 2, 0, 5, &[]), true),
            (item(5, ItemClass::Saved, 2, 0, 5, &[]), true),
        ];
        let found = forwards(items.iter().map(|(item, kept)| (item, *kept)));
        assert_eq!(found[&0], Forwards { sent: 0, again: 1, compute: 20 * MS }, "its output comes with it");
        assert_eq!(
            found[&2],
            Forwards { sent: 0, again: 3, compute: 40 * MS },
            "nobody knows that the last two belong together"
        );
    }
}
