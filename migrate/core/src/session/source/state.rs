//! The states of a source.

use crate::session::state::states;

states! {
    /// Where a source is.
    ///
    /// ```text
    /// Offered --> Streaming --> Cut --> Finished     items are sent
    ///    '------------+----------'---------'
    ///                 |--> Expired                   the deadline passed: the targets decide
    ///                 '--> Withdrawing               it proposed to stay
    ///
    /// Committed, Restored, Withdrawn, Superseded     from all of these, as the store's next generation says
    /// ```
    pub enum SourceState {
        /// Not all targets have answered the first offer.
        Offered,
        /// Items are sent, and more may come.
        Streaming,
        /// Items are sent, and no more will come.
        Cut,
        /// All that is sent has landed.
        Finished,
        /// The deadline has passed; the targets decide.
        Expired,
        /// It proposed to stay, and waits for the store.
        Withdrawing,
        /// The targets own.
        Committed,
        /// The targets own, from a checkpoint.
        Restored,
        /// The source owns.
        Withdrawn,
        /// Another migration took this one's generation.
        Superseded,
        /// Nothing could be learnt; a generation that is seen later still counts.
        Failed,
    }

    on_granted(Offered => Streaming);
    on_cut(Offered | Streaming => Cut);
    on_finished(Cut => Finished);
    on_expired(Offered | Streaming | Cut | Finished => Expired);
    on_withdraw(Offered | Streaming | Cut | Finished | Expired => Withdrawing);
    on_committed(Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Committed);
    on_restored(Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Restored);
    on_withdrawn(Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Withdrawn);
    on_superseded(Offered | Streaming | Cut | Finished | Expired | Withdrawing | Failed => Superseded);
    on_failed(Expired | Withdrawing => Failed);
}

impl SourceState {
    /// Whether items may be on their way.
    pub(super) fn is_sending(self) -> bool {
        matches!(self, Self::Offered | Self::Streaming | Self::Cut | Self::Finished)
    }

    /// Whether a generation has ended it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Committed | Self::Restored | Self::Withdrawn | Self::Superseded)
    }
}
