//! Bugs that can be compiled in on purpose, to see whether the simulator finds them.

xfer_transport_core::bugs! {
    /// A bug of the migration.
    enum Bug {
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
        /// The source takes for true what a target says that it has kept.
        BelieveKept,
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
}
