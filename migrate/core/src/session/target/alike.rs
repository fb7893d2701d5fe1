//! What a target still decides by: less, the further it has come.

use std::hash::{Hash, Hasher};

use super::{TargetSession, TargetState};

impl TargetSession {
    /// Feeds `hasher` with what this session's later answers depend on, once all outputs and events were taken. Two
    /// sessions that feed the same do the same from now on, apart from reasons in words, and as far as all peers are
    /// in one life. A search of all states needs to look at one of them only.
    pub fn hash_what_matters(&self, hasher: &mut impl Hasher) {
        (self.state, self.config.migration, self.config.me).hash(hasher);
        match self.state {
            // A proposal is made: what is left is to see what became of it, and whether it counts on this target's bytes.
            TargetState::Proposing => (self.proposed_at, &self.seal).hash(hasher),
            TargetState::Failed => self.seal.hash(hasher),
            _ if self.state.is_over() => {}
            TargetState::Sealed => {
                self.hash_evidence(hasher);
                self.seal.hash(hasher);
            }
            _ => {
                self.hash_evidence(hasher);
                (&self.config.base, self.config.memory_bytes, self.sequence).hash(hasher);
                (&self.inbox, &self.cut, self.fenced, self.fence_asked_at).hash(hasher);
            }
        }
    }

    /// What its decision is made from.
    fn hash_evidence(&self, hasher: &mut impl Hasher) {
        (&self.targets, &self.owners_after, &self.manifest, &self.seals, self.deadline).hash(hasher);
        self.gone.len().hash(hasher);
        self.gone.keys().for_each(|rank| rank.hash(hasher));
        // When the source was gone matters by how long the others' seals are waited for since then, and by nothing else.
        (self.source_gone.is_some(), self.seals_until()).hash(hasher);
    }
}
