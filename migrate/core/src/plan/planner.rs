//! The items of a manifest in the order in which they would leave: sorted once, asked at every change.

use std::collections::BTreeMap;

use super::blocks::Block;
use super::ship::{Choice, Computing, Piece};
use super::{Load, Plan, PlanPolicy, nanos, steady};
use crate::budget::Budget;
use crate::cost::RecomputeCost;
use crate::item::{GroupId, Item};
use crate::manifest::Manifest;
use crate::planted::{self, Bug};

/// How an item stands when a plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Here; to be sent or not.
    Open,
    /// Here; the plan before sends it.
    Planned,
    /// On its way, or there.
    Sent,
    /// Not sent any more, whatever the plan says.
    GivenUp,
}

impl Standing {
    fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::Planned)
    }
}

/// Plans one manifest again and again. The order is fixed when the planner is made; a plan is made in linear time.
#[derive(Debug, Clone, Default, Hash)]
pub struct Planner {
    /// What each item weighs on the link, by place.
    bytes: Vec<u64>,
    /// The places of what is irreplaceable, smallest first.
    irreplaceable: Vec<usize>,
    /// What can be computed again, as groups of falling density.
    groups: Vec<Group>,
    /// All of it, in dependency order.
    computable: Vec<usize>,
}

#[derive(Debug, Clone, Hash)]
struct Group {
    /// The places of its items, in dependency order.
    places: Vec<usize>,
    /// A number for the rank that takes its first item over: a group's items have one target.
    target: usize,
}

impl Planner {
    /// Sorts the items of `manifest`.
    pub fn new(manifest: &Manifest) -> Self {
        Self::with(manifest, |item| item.bytes)
    }

    /// Sorts the items of `manifest`, of which only so many bytes each are to be sent: at least one, or its standing is
    /// [`Standing::Sent`].
    pub fn with(manifest: &Manifest, bytes: impl Fn(&Item) -> u64) -> Self {
        let items = manifest.items();
        let bytes: Vec<u64> = items.iter().map(bytes).collect();
        let places = |keep: fn(&RecomputeCost) -> bool| {
            items.iter().enumerate().filter(move |(_, item)| keep(&item.cost)).map(|(place, _)| place)
        };
        let mut irreplaceable: Vec<usize> = places(RecomputeCost::is_irreplaceable).collect();
        irreplaceable.sort_by_key(|place| (bytes[*place], items[*place].id));
        let computable = places(|cost| !cost.is_irreplaceable()).collect();
        let mut groups = groups(items, &bytes, places(|cost| matches!(cost, RecomputeCost::Compute { .. })));
        if planted::is(Bug::CheapestFirst) {
            groups.reverse();
        }
        Self { bytes, irreplaceable, groups, computable }
    }

    /// Plans what is open of `manifest`, the one that this planner was made for, behind `bytes_ahead` that are on their
    /// way and keep their order.
    pub fn plan(
        &self,
        manifest: &Manifest,
        budget: &Budget,
        policy: PlanPolicy,
        bytes_ahead: u64,
        standing: impl Fn(&Item) -> Standing,
    ) -> Plan {
        let items = manifest.items();
        let standings: Vec<Standing> = items.iter().map(standing).collect();
        let is_open = |place: &&usize| standings[**place].is_open();
        let load = |place: usize| Load { item: &items[place], bytes: self.bytes[place] };
        let irreplaceable = self.irreplaceable.iter().filter(is_open).map(|place| load(*place));
        let mut sent: Vec<Load<'_>> = irreplaceable.collect();
        let needed = sent.iter().fold(bytes_ahead, |sum, load| sum.saturating_add(load.bytes));

        let open = self.groups.iter().filter_map(|group| Some((group.piece(items, &self.bytes, &standings)?, group)));
        let (pieces, groups): (Vec<Piece>, Vec<&Group>) = open.unzip();
        let is_planned = |group: &&Group| group.places.iter().any(|place| standings[*place] == Standing::Planned);
        let before: Vec<bool> = groups.iter().map(is_planned).collect();
        let choice = ship(&pieces, &before, budget, policy, needed);
        let mut is_sent = vec![false; items.len()];
        for (group, _) in groups.iter().zip(&choice.sent).filter(|(_, sent)| **sent) {
            for place in group.places.iter().filter(is_open) {
                is_sent[*place] = true;
                sent.push(load(*place));
            }
        }
        let kept = self.computable.iter().filter(is_open).filter(|place| !is_sent[**place]);
        let kept: Vec<Load<'_>> = kept.map(|place| load(*place)).collect();
        Plan::of(&sent, &kept, budget, bytes_ahead, &choice)
    }
}

impl Group {
    /// What is open of it, and what that saves: all that the group saves, since the rest of it is there or coming. None
    /// if nothing is open, or if the group can't become whole any more.
    fn piece(&self, items: &[Item], bytes: &[u64], standings: &[Standing]) -> Option<Piece> {
        let mut piece = Piece { target: self.target, bytes: 0, saves_ns: 0 };
        let mut open = false;
        for place in &self.places {
            match standings[*place] {
                Standing::GivenUp => return None,
                Standing::Sent => {}
                Standing::Open | Standing::Planned => {
                    open = true;
                    piece.bytes = piece.bytes.saturating_add(bytes[*place]);
                }
            }
            piece.saves_ns = piece.saves_ns.saturating_add(saves_ns(&items[*place]));
        }
        open.then_some(piece)
    }
}

/// The groups of the items at `places`, densest first.
fn groups(items: &[Item], bytes: &[u64], places: impl Iterator<Item = usize>) -> Vec<Group> {
    let mut groups: Vec<(Block, usize)> = Vec::new();
    let mut numbers: BTreeMap<u32, usize> = BTreeMap::new();
    let mut place_of: BTreeMap<GroupId, usize> = BTreeMap::new();
    for place in places {
        let item = &items[place];
        let new = groups.len();
        let at = match item.group {
            GroupId::ALONE => new,
            group => *place_of.entry(group).or_insert(new),
        };
        if at == new {
            let number = numbers.len();
            groups.push((Block::default(), *numbers.entry(item.target).or_insert(number)));
        }
        let block = &mut groups[at].0;
        block.parcels.push(place);
        block.bytes = block.bytes.saturating_add(bytes[place]);
        block.saves_ns = block.saves_ns.saturating_add(saves_ns(item));
    }
    // A stable sort: what is alike in all of this keeps its dependency order.
    groups.sort_by(|(one, _), (other, _)| one.before(other));
    groups.into_iter().map(|(block, target)| Group { places: block.parcels, target }).collect()
}

fn saves_ns(item: &Item) -> u64 {
    item.cost.time().map_or(0, nanos)
}

fn ship(pieces: &[Piece], before: &[bool], budget: &Budget, policy: PlanPolicy, needed_bytes: u64) -> Choice {
    // What would be late at the low rate isn't counted on.
    let room_bytes = budget.bytes_low().saturating_sub(needed_bytes);
    match policy {
        PlanPolicy::Threshold => steady::choose(pieces, before, budget.rate, room_bytes, Computing::Beside),
        PlanPolicy::SendThenCompute => steady::choose(pieces, before, budget.rate, room_bytes, Computing::After),
        PlanPolicy::ShipAll => {
            let bytes = pieces.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.bytes));
            let end_ns = nanos(crate::budget::time_for(bytes, budget.rate_middle()));
            Choice { sent: vec![true; pieces.len()], end_ns, sent_ns: end_ns, bound_ns: end_ns }
        }
    }
}
