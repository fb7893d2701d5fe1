//! What a source begins with.

use std::collections::BTreeSet;
use std::time::Duration;

use xfer_transport_core::{Deadline, PeerId, RateInterval, Time};

use crate::budget::Budget;
use crate::generation::GenerationRecord;
use crate::limits;
use crate::plan::PlanPolicy;

/// What a [`SourceSession`](super::SourceSession) begins with.
#[derive(Debug, Clone, Hash)]
pub struct SourceConfig {
    /// This process.
    pub source: PeerId,
    /// How many attempts it made before on the same generation.
    pub attempt: u32,
    /// The generation that is true now.
    pub base: GenerationRecord,
    /// The ranks that take over.
    pub targets: Vec<u32>,
    /// Who owns what afterwards: all shards by name, and the rank of each.
    pub owners_after: Vec<(String, u32)>,
    /// The moment after which this process may be gone.
    pub deadline: Deadline,
    /// What the link carries, as far as is known.
    pub rate: RateInterval,
    /// Kept free before the deadline, for verification, seals and the commit.
    pub reserve: Duration,
    /// Which of the items that can be computed again are sent all the same.
    pub policy: PlanPolicy,
}

/// Why a process can't leave like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceConfigError {
    /// Nobody takes over.
    #[error("nobody takes over: name at least one target")]
    NoTarget,
    /// There are too many targets.
    #[error("{targets} targets are too many; at most {} take over from one rank", limits::TARGETS_MAX)]
    TooManyTargets {
        /// How many there are.
        targets: usize,
    },
    /// A target is named twice.
    #[error("rank {rank} is named twice as a target")]
    DuplicateTarget {
        /// The target.
        rank: u32,
    },
    /// The process would take over from itself.
    #[error("rank {rank} leaves, and can't be a target")]
    TargetIsSource {
        /// The rank.
        rank: u32,
    },
    /// There are too many shards.
    #[error("{shards} shards are too many; at most {} have owners", limits::SHARDS_MAX)]
    TooManyShards {
        /// How many there are.
        shards: usize,
    },
    /// A shard is named twice.
    #[error("shard `{shard}` has two owners afterwards")]
    DuplicateShard {
        /// Its name.
        shard: String,
    },
    /// A shard's name is too long.
    #[error("the shard name `{shard}` has more than {} bytes", limits::SHARD_NAME_LEN_BYTES_MAX)]
    ShardName {
        /// The name.
        shard: String,
    },
    /// The process that leaves would own something afterwards.
    #[error("shard `{shard}` would belong to rank {rank}, which leaves")]
    OwnerLeaves {
        /// Its name.
        shard: String,
        /// The source's rank.
        rank: u32,
    },
}

impl SourceConfig {
    pub(super) fn budget(&self, now: Time) -> Budget {
        Budget { now, deadline: self.deadline, rate: self.rate, reserve: self.reserve }
    }

    pub(super) fn check(&self) -> Result<(), SourceConfigError> {
        if self.targets.is_empty() {
            return Err(SourceConfigError::NoTarget);
        }
        if self.targets.len() > limits::TARGETS_MAX {
            return Err(SourceConfigError::TooManyTargets { targets: self.targets.len() });
        }
        let mut ranks = BTreeSet::new();
        for rank in self.targets.iter().copied() {
            if rank == self.source.rank {
                return Err(SourceConfigError::TargetIsSource { rank });
            }
            if !ranks.insert(rank) {
                return Err(SourceConfigError::DuplicateTarget { rank });
            }
        }
        if self.owners_after.len() > limits::SHARDS_MAX {
            return Err(SourceConfigError::TooManyShards { shards: self.owners_after.len() });
        }
        let mut shards = BTreeSet::new();
        for (shard, rank) in &self.owners_after {
            if shard.len() > limits::SHARD_NAME_LEN_BYTES_MAX {
                return Err(SourceConfigError::ShardName { shard: shard.clone() });
            }
            if !shards.insert(shard) {
                return Err(SourceConfigError::DuplicateShard { shard: shard.clone() });
            }
            if *rank == self.source.rank {
                return Err(SourceConfigError::OwnerLeaves { shard: shard.clone(), rank: *rank });
            }
        }
        Ok(())
    }
}
