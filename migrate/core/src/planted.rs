//! Bugs that can be compiled in on purpose, to see whether the simulator finds them.
//!
//! Without the feature `planted`, which nothing that ships turns on, every question is answered with a constant "no".

/// A bug of the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A target proposes before the others have sealed.
    CommitWithoutSeals,
    /// Whoever proposes takes what ranks own that have no part in it.
    TakeFromBystanders,
    /// Items that are lost are no obstacle to a hand-over.
    CommitWithoutAll,
    /// A target decides that doesn't know all items.
    CommitHalfKnown,
    /// A hand-over needs no word of what is all.
    CommitWithoutCut,
    /// A target seals memory that can still be written.
    SealBeforeFence,
    /// A message of a process that has no part in the migration counts.
    ListenToStrangers,
    /// An item counts as landed whatever its digest is.
    LandUnverified,
    /// The source says that its targets have everything.
    SourceCommits,
    /// What is worth least leaves first.
    LastFirst,
    /// A swap wins over whatever version is there.
    SwapAnyVersion,
    /// What saves least leaves first.
    CheapestFirst,
    /// The store answers before what it answers for is on the disk.
    AnswerBeforeDurable,
}

/// Whether this bug is planted here.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use planted::{is, plant};

#[cfg(feature = "planted")]
mod planted {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    impl Bug {
        /// All bugs of the migration.
        pub const ALL: [Self; 13] = [
            Self::CommitWithoutSeals,
            Self::TakeFromBystanders,
            Self::CommitWithoutAll,
            Self::CommitHalfKnown,
            Self::CommitWithoutCut,
            Self::SealBeforeFence,
            Self::ListenToStrangers,
            Self::LandUnverified,
            Self::SourceCommits,
            Self::LastFirst,
            Self::SwapAnyVersion,
            Self::CheapestFirst,
            Self::AnswerBeforeDurable,
        ];
    }

    /// Plants a bug, or none, for everything that runs on this thread from now on.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted here.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
