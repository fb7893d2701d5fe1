//! What a source still decides by: less, the further it has come.

use std::hash::{Hash, Hasher};

use super::{SourceSession, SourceState};

impl SourceSession {
    /// Feeds `hasher` with what this session's later answers depend on, once all outputs and events were taken. Two
    /// sessions that feed the same do the same from now on, apart from reasons in words, and as far as all peers are
    /// in one life. A search of all states needs to look at one of them only.
    pub fn hash_what_matters(&self, hasher: &mut impl Hasher) {
        (self.state, self.migration).hash(hasher);
        let writes = self.outbox.posted().next().is_some() || self.outbox.is_comparing();
        match self.state {
            _ if self.state.is_sending() || (writes && !self.state.is_over()) => {
                (&self.targets, &self.manifest, &self.outbox).hash(hasher);
                (self.config.deadline, self.config.rate, self.planned_rate, self.sequence).hash(hasher);
                (&self.config.base, &self.config.owners_after, self.proposed_at).hash(hasher);
            }
            SourceState::Expired => (self.config.deadline, &self.config.base).hash(hasher),
            SourceState::Withdrawing => self.proposed_at.hash(hasher),
            _ => {}
        }
    }
}
