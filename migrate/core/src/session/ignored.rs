//! A count that nobody decides by: two sessions that differ only in it are alike.

use std::hash::{Hash, Hasher};

/// How many inputs came too late to matter. For reports alone, so it has no part in a session's hash: otherwise a
/// search of all states would tell sessions apart that do the same for ever.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ignored(u64);

impl Ignored {
    pub(super) fn one_more(&mut self) {
        self.0 += 1;
    }

    pub(super) fn count(self) -> u64 {
        self.0
    }
}

impl Hash for Ignored {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn it_counts_and_does_not_tell_sessions_apart() {
        let (none, mut two) = (Ignored::default(), Ignored::default());
        two.one_more();
        two.one_more();
        assert_eq!((none.count(), two.count()), (0, 2));
        let hasher = RandomState::new();
        assert_eq!(hasher.hash_one(none), hasher.hash_one(two));
    }
}
