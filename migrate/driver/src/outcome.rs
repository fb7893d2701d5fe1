//! How a migration ended, in the caller's names.

use bytes::Bytes;
use thiserror::Error;
use xfer_migrate_core::{GenerationKind, GenerationRecord, ItemId};

/// What the store's new generation says; the same on every rank that took part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What became of the hand-over.
    pub kind: OutcomeKind,
    /// The generation that is true now.
    pub generation: u64,
    /// The rank that was to leave.
    pub source: u32,
    /// Who owns what from now on: (name of a shard, rank).
    pub owners: Vec<(String, u32)>,
    /// The items that reached their target, over all targets.
    pub landed: Vec<String>,
    /// What must be computed again, inputs first.
    pub recompute: Vec<String>,
    /// What is lost.
    pub missing: Vec<String>,
    /// Why, in words.
    pub reason: String,
    /// What the source wrote at the cut.
    pub record: Bytes,
}

/// What became of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// The targets own the source's shards.
    Handoff,
    /// The targets own the source's shards, and must restore them from a checkpoint.
    Restore,
    /// Nothing changed: the notice was withdrawn.
    Withdrawn,
}

impl OutcomeKind {
    /// The word for it in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handoff => "handoff",
            Self::Restore => "restore",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Why a migration ended without an outcome that can be acted on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// The store can't be reached, so nobody can know who owns what.
    #[error("nothing can be decided about the migration from rank {source_rank}: {reason}")]
    StoreLost {
        /// The rank that was to leave.
        source_rank: u32,
        /// What the store said.
        reason: String,
    },
    /// A target refused it.
    #[error("rank {by} refused the migration from rank {source_rank}: {reason}")]
    Refused {
        /// The rank that was to leave.
        source_rank: u32,
        /// Who refused.
        by: u32,
        /// Why.
        reason: String,
    },
    /// It was superseded or abandoned before anything was decided.
    #[error("the migration from rank {source_rank} ended without a decision: {reason}")]
    Abandoned {
        /// The rank that was to leave.
        source_rank: u32,
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// Reads `record` with the names of the manifest that it is about.
    pub(crate) fn new(record: &GenerationRecord, source: u32, name: impl Fn(ItemId) -> String) -> Option<Self> {
        let kind = match record.kind {
            GenerationKind::Handoff => OutcomeKind::Handoff,
            GenerationKind::Restore => OutcomeKind::Restore,
            GenerationKind::Withdrawn => OutcomeKind::Withdrawn,
            GenerationKind::Initial => return None,
        };
        Some(Self {
            kind,
            generation: record.generation,
            source,
            owners: record.owners.clone(),
            landed: record.landed.iter().map(|id| name(*id)).collect(),
            recompute: record.recompute.iter().map(|id| name(*id)).collect(),
            missing: record.missing.clone(),
            reason: record.reason.clone(),
            record: record.record.clone(),
        })
    }
}
