//! All items of a migration: parsed, acyclic, within limits, so that they can always be planned and judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cost::RecomputeCost;
use crate::item::{Item, ItemId};
use crate::limits;

/// Items whose ids and names are unique and whose inputs are all there.
///
/// They are kept in dependency order: whatever an item is computed from stands before it. A manifest only grows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Manifest {
    items: Vec<Item>,
    places: BTreeMap<ItemId, usize>,
    names: BTreeSet<Arc<str>>,
    total_bytes: u64,
}

/// Why items don't make a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Two items have one id.
    #[error("two items have the id {0}")]
    DuplicateId(ItemId),
    /// Two items have one name.
    #[error("two items are called `{0}`; names are unique over a migration")]
    DuplicateName(Arc<str>),
    /// A name is empty or too long.
    #[error("the name of item {id} has {len_bytes} bytes; it must have 1 to {}", limits::NAME_LEN_BYTES_MAX)]
    NameLength {
        /// The item.
        id: ItemId,
        /// Its name's length.
        len_bytes: usize,
    },
    /// An item has no bytes, or absurdly many.
    #[error("item `{name}` has {bytes} bytes; an item has 1 to {}, so leave empty tensors out", limits::ITEM_BYTES_MAX)]
    Size {
        /// The item.
        name: Arc<str>,
        /// Its length.
        bytes: u64,
    },
    /// There are too many items.
    #[error("{items} items are too many; a migration has at most {}: put small tensors together", limits::ITEMS_MAX)]
    TooManyItems {
        /// How many there would be.
        items: usize,
    },
    /// An item is computed from too many others.
    #[error("item `{name}` is computed from {inputs} items; at most {} are taken", limits::INPUTS_PER_ITEM_MAX)]
    TooManyInputs {
        /// The item.
        name: Arc<str>,
        /// How many it names.
        inputs: usize,
    },
    /// An item is computed from one that isn't there.
    #[error("item `{name}` is computed from item {input}, which is not in the manifest; add inputs first or together")]
    UnknownInput {
        /// The item.
        name: Arc<str>,
        /// Its missing input.
        input: ItemId,
    },
    /// An item is, over others or directly, computed from itself.
    #[error("item `{name}` is computed from itself, directly or over other items")]
    Cycle {
        /// An item on the circle.
        name: Arc<str>,
    },
}

impl Manifest {
    /// Checks `items` and puts them into dependency order.
    pub fn new(items: Vec<Item>) -> Result<Self, ManifestError> {
        let mut manifest = Self::default();
        manifest.extend(items)?;
        Ok(manifest)
    }

    /// Adds items, whose inputs may be among the earlier ones. On an error nothing is added.
    pub fn extend(&mut self, items: Vec<Item>) -> Result<(), ManifestError> {
        let total_bytes = self.check(&items)?;
        let ordered = self.order(items)?;
        for item in ordered {
            self.places.insert(item.id, self.items.len());
            self.names.insert(Arc::clone(&item.name));
            self.items.push(item);
        }
        self.total_bytes += total_bytes;
        Ok(())
    }

    /// All items, inputs before what is computed from them.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The item of an id.
    pub fn get(&self, id: ItemId) -> Option<&Item> {
        self.places.get(&id).map(|place| &self.items[*place])
    }

    /// The place of an item in [`Manifest::items`].
    pub(crate) fn place(&self, id: ItemId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// The items that `rank` takes over, in dependency order.
    pub fn of_target(&self, rank: u32) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.target == rank)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The length of all items in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Checks each of `added` by itself and against ids and names; the sum of their bytes.
    fn check(&self, added: &[Item]) -> Result<u64, ManifestError> {
        let items = self.items.len() + added.len();
        if items > limits::ITEMS_MAX {
            return Err(ManifestError::TooManyItems { items });
        }
        let mut ids = BTreeSet::new();
        let mut names = BTreeSet::new();
        let mut total_bytes = 0;
        for item in added {
            let name = || Arc::clone(&item.name);
            if item.name.is_empty() || item.name.len() > limits::NAME_LEN_BYTES_MAX {
                return Err(ManifestError::NameLength { id: item.id, len_bytes: item.name.len() });
            }
            if item.bytes == 0 || item.bytes > limits::ITEM_BYTES_MAX {
                return Err(ManifestError::Size { name: name(), bytes: item.bytes });
            }
            if self.places.contains_key(&item.id) || !ids.insert(item.id) {
                return Err(ManifestError::DuplicateId(item.id));
            }
            if self.names.contains(&item.name) || !names.insert(&*item.name) {
                return Err(ManifestError::DuplicateName(name()));
            }
            let inputs = item.cost.inputs().len();
            if inputs > limits::INPUTS_PER_ITEM_MAX {
                return Err(ManifestError::TooManyInputs { name: name(), inputs });
            }
            total_bytes += item.bytes;
        }
        Ok(total_bytes)
    }

    /// `added` in dependency order, otherwise as given: a depth-first walk with its own stack, because the depth is
    /// a peer's to choose.
    fn order(&self, added: Vec<Item>) -> Result<Vec<Item>, ManifestError> {
        let by_id: BTreeMap<ItemId, usize> = added.iter().enumerate().map(|(at, item)| (item.id, at)).collect();
        let mut marks = vec![Mark::Unseen; added.len()];
        let mut order = Vec::with_capacity(added.len());
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for root in 0..added.len() {
            if marks[root] == Mark::Unseen {
                marks[root] = Mark::Open;
                stack.push((root, 0));
            }
            while let Some((at, input)) = stack.pop() {
                let item = &added[at];
                let Some(id) = item.cost.inputs().get(input) else {
                    marks[at] = Mark::Done;
                    order.push(at);
                    continue;
                };
                stack.push((at, input + 1));
                match by_id.get(id) {
                    Some(next) => match marks[*next] {
                        Mark::Unseen => {
                            marks[*next] = Mark::Open;
                            stack.push((*next, 0));
                        }
                        Mark::Open => return Err(ManifestError::Cycle { name: Arc::clone(&added[*next].name) }),
                        Mark::Done => {}
                    },
                    None if self.places.contains_key(id) => {}
                    None => return Err(ManifestError::UnknownInput { name: Arc::clone(&item.name), input: *id }),
                }
            }
        }
        let mut slots: Vec<Option<Item>> = added.into_iter().map(Some).collect();
        Ok(order.into_iter().filter_map(|at| slots[at].take()).collect())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    /// On the way from the root to here: meeting it again closes a circle.
    Open,
    Done,
}

/// What is there without the bytes that didn't arrive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// What didn't land and can be had again, computed or fetched as its cost says; inputs come first.
    pub recompute: Vec<ItemId>,
    /// What is lost, in dependency order.
    pub missing: Vec<ItemId>,
}

/// Judges a manifest of which the items in `landed` arrived, while the ranks in `gone` can't be asked for anything.
///
/// An item is covered if it landed, if it can be computed from items that are all covered (whoever's target they
/// are: their owner computes them and sends them on), or if a rank that is still there holds a copy.
///
/// ```
/// use std::collections::BTreeSet;
/// use std::time::Duration;
/// use xfer_migrate_core::{GroupId, Item, ItemClass, ItemId, Manifest, RecomputeCost, coverage};
///
/// let item = |id, name: &str, cost| Item {
///     id: ItemId(id),
///     name: name.into(),
///     class: ItemClass::Parameter,
///     bytes: 4,
///     version: 1,
///     target: 0,
///     group: GroupId::ALONE,
///     cost,
/// };
/// let forward = RecomputeCost::Compute { time: Duration::from_millis(3), from: vec![ItemId(1)] };
/// let manifest = Manifest::new(vec![item(1, "w", RecomputeCost::Irreplaceable), item(2, "h", forward)])?;
///
/// let with_weights = coverage(&manifest, &BTreeSet::from([ItemId(1)]), &BTreeSet::new());
/// assert_eq!((with_weights.recompute, with_weights.missing), (vec![ItemId(2)], vec![]));
/// let with_nothing = coverage(&manifest, &BTreeSet::new(), &BTreeSet::new());
/// assert_eq!(with_nothing.missing, [ItemId(1), ItemId(2)]);
/// # Ok::<(), xfer_migrate_core::ManifestError>(())
/// ```
pub fn coverage(manifest: &Manifest, landed: &BTreeSet<ItemId>, gone: &BTreeSet<u32>) -> Coverage {
    let mut covered = vec![false; manifest.len()];
    let mut coverage = Coverage::default();
    for (at, item) in manifest.items().iter().enumerate() {
        let has = |id: &ItemId| manifest.place(*id).is_some_and(|place| covered[place]);
        covered[at] = if landed.contains(&item.id) {
            true
        } else {
            let again = match &item.cost {
                RecomputeCost::Irreplaceable => false,
                RecomputeCost::Compute { from, .. } => from.iter().all(has),
                RecomputeCost::Fetch { from } => !gone.contains(from),
            };
            let list = if again { &mut coverage.recompute } else { &mut coverage.missing };
            list.push(item.id);
            again
        };
    }
    coverage
}

#[cfg(test)]
mod tests;
