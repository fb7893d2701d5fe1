//! The fault matrix: every fault at every step of a hand-over, who stages it, and the one outcome that is required.
//!
//! The simulator, the tests of real processes and `docs/faults.md` read it here and nowhere else. A cell that nobody stages stands
//! here with its reason; one that is forgotten fails a test of this crate.
//!
//! | part | is |
//! |---|---|
//! | [`FAULTS`] | the matrix: 36 faults at 9 steps, with the simulator's outcomes |
//! | [`ROWS`] | what real processes are put through, over which transports |
//! | [`ABSENT`], [`ABSENT_OVER_SHM`], [`ABSENT_OVER_VERBS`] | what real processes are not put through, and why |
//! | [`document::markdown`] | all of it as a page |
#![forbid(unsafe_code)]

mod absent;
pub mod document;
mod matrix;
mod real;
pub mod step;

#[cfg(test)]
mod coverage;

use std::fmt;

pub use absent::{ABSENT, ABSENT_OVER_SHM, ABSENT_OVER_VERBS, Absent};
pub use matrix::{Cell, FAULTS, Fault, Mark, PAIRED, Simulated, VARIANTS};
pub use real::{Over, ROWS, Row};
pub use step::Step;

/// What must come of a fault, besides every promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Required {
    /// The targets own what the source owned.
    Commits,
    /// The source owns what it owned: it stays, or nothing was decided.
    RollsBack,
    /// The new owners have whole items only, and go back to a checkpoint for what is missing.
    Restores,
    /// What must not be is refused, in a sentence that contains these words; the simulator looks for no words.
    Refuses(&'static str),
    /// What can't be proven to be over is held back.
    Quarantines,
    /// Nobody can know: every process says so, in a sentence that contains these words, and nobody acts.
    Undecided(&'static str),
}

impl Required {
    /// The words for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commits => "commits",
            Self::RollsBack => "rolls back to source",
            Self::Restores => "expires with prefix",
            Self::Refuses(_) => "refuses by name",
            Self::Quarantines => "quarantines",
            Self::Undecided(_) => "says it can't know",
        }
    }
}

impl fmt::Display for Required {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The row of a fault.
pub fn fault(id: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.id == id)
}
