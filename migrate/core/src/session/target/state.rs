//! The states of a target.

use crate::session::state::states;

states! {
    /// Where a target is.
    ///
    /// ```text
    /// Idle --> Receiving --> Cut                     items land
    ///   '---------+-----------'
    ///             |--> Refused                       it can't or won't take part
    ///             '--> Fencing --> Sealed            nothing more can land
    ///                     '-----------'--> Proposing
    ///
    /// Committed, Restored, Withdrawn, Superseded     from all of these, as the store's next generation says
    /// ```
    pub enum TargetState {
        /// Nothing was offered yet.
        Idle,
        /// Items land, and more may be offered.
        Receiving,
        /// Items land, and no more will be offered.
        Cut,
        /// Memory is being fenced; what arrived is still being verified.
        Fencing,
        /// Nothing more can land; the other seals are waited for.
        Sealed,
        /// It proposed a generation, and waits for the store.
        Proposing,
        /// The targets own.
        Committed,
        /// The targets own, from a checkpoint.
        Restored,
        /// The source owns.
        Withdrawn,
        /// Another migration took this one's generation.
        Superseded,
        /// It doesn't take part.
        Refused,
        /// Nothing could be decided here; a generation that is seen later still counts.
        Failed,
    }

    on_offer(Idle | Receiving => Receiving, Cut => Cut);
    on_cut(Receiving => Cut);
    on_refuse(Idle | Receiving | Cut => Refused);
    on_fence(Receiving | Cut => Fencing);
    on_seal(Fencing => Sealed);
    on_propose(Fencing | Sealed => Proposing);
    on_committed(Sealed | Proposing | Failed => Committed);
    on_restored(Idle | Receiving | Cut | Fencing | Sealed | Proposing | Failed => Restored);
    on_withdrawn(Idle | Receiving | Cut | Fencing | Sealed | Proposing | Failed => Withdrawn);
    on_superseded(Idle | Receiving | Cut | Fencing | Sealed | Proposing | Failed => Superseded);
    on_failed(Idle | Receiving | Cut | Fencing | Sealed | Proposing => Failed);
}

impl TargetState {
    /// Whether items may still land.
    pub(super) fn is_receiving(self) -> bool {
        matches!(self, Self::Receiving | Self::Cut)
    }

    /// Whether it has ended, and nothing can change that.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Committed | Self::Restored | Self::Withdrawn | Self::Superseded | Self::Refused)
    }
}
