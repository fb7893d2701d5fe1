//! Something about each item, by its number: sorted, in one piece of memory.

use crate::item::ItemId;

/// A map from items. Drivers number items from 0, so an item mostly lies at its own number; others are searched.
#[derive(Debug, Clone, Hash)]
pub(super) struct Entries<T> {
    sorted: Vec<(ItemId, T)>,
}

impl<T> Entries<T> {
    /// Adds or replaces. Quick for items that come in the order of their numbers.
    pub(super) fn insert(&mut self, item: ItemId, entry: T) {
        match self.find(item) {
            Ok(at) => self.sorted[at].1 = entry,
            Err(at) => self.sorted.insert(at, (item, entry)),
        }
    }

    pub(super) fn get(&self, item: ItemId) -> Option<&T> {
        self.find(item).ok().map(|at| &self.sorted[at].1)
    }

    pub(super) fn get_mut(&mut self, item: ItemId) -> Option<&mut T> {
        self.find(item).ok().map(|at| &mut self.sorted[at].1)
    }

    /// In the order of items.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ItemId, &T)> {
        self.sorted.iter().map(|(item, entry)| (*item, entry))
    }

    /// In the order of items.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ItemId, &mut T)> {
        self.sorted.iter_mut().map(|(item, entry)| (*item, entry))
    }

    /// Where it is, or would be.
    fn find(&self, item: ItemId) -> Result<usize, usize> {
        let own = usize::try_from(item.0).unwrap_or(usize::MAX);
        match self.sorted.get(own) {
            Some((found, _)) if *found == item => Ok(own),
            _ if self.sorted.last().is_none_or(|(last, _)| *last < item) => Err(self.sorted.len()),
            _ => self.sorted.binary_search_by_key(&item, |(found, _)| *found),
        }
    }
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { sorted: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_map_that_it_looks_like(items in prop::collection::vec((0_u64..40, any::<u8>()), 0..60)) {
            let (mut entries, mut map) = (Entries::default(), BTreeMap::new());
            for (item, value) in items {
                entries.insert(ItemId(item), value);
                map.insert(ItemId(item), value);
            }
            prop_assert!(entries.iter().map(|(item, value)| (item, *value)).eq(map.iter().map(|(item, value)| (*item, *value))));
            for item in (0..41).map(ItemId) {
                prop_assert_eq!(entries.get(item), map.get(&item));
                prop_assert_eq!(entries.get_mut(item).copied(), map.get(&item).copied());
            }
        }
    }
}
