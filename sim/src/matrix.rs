//! The fault matrix: every fault at every step, with the outcome that is required of it.

mod pairs;
mod stage;
mod table;

use std::fmt;

use xfer_migrate_core::GenerationKind;

use crate::step::Step;
use crate::world::{Outcome, run};

pub use pairs::{PAIRED, Pair, pairs};
pub use table::{FAULTS, Fault};

/// Runs of each cell, with other lengths, delays and connections.
pub const VARIANTS: u64 = 3;

/// Who stages a cell beside the simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Only the simulator.
    Simulator,
    /// Real processes, too.
    Real,
}

/// What is required of a cell, besides every promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Required {
    /// The targets own what the source owned.
    Commits,
    /// The source owns what it owned: it stays, or nothing was decided.
    RollsBack,
    /// The new owners go back to a checkpoint, and the record says what is missing and why.
    Restores,
    /// What must not be is refused, and the refusal says what and who.
    Refuses,
    /// What can't be proven to be over is held back.
    Quarantines,
    /// There is no such backend, kind of memory or journal yet.
    Later,
}

impl Required {
    /// The words for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commits => "commits",
            Self::RollsBack => "rolls back to source",
            Self::Restores => "expires with prefix",
            Self::Refuses => "refuses by name",
            Self::Quarantines => "quarantines",
            Self::Later => "later",
        }
    }
}

impl fmt::Display for Required {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One fault at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Who stages it.
    pub place: Where,
    /// What is required.
    pub required: Required,
}

/// What became of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Nothing, if all variants did what is required.
    pub wrong: Option<String>,
}

/// Runs all variants of a cell.
pub fn judge(fault: &Fault, step: Step, cell: Cell) -> Verdict {
    let wrong = (0..VARIANTS).find_map(|variant| {
        let outcome = run(stage::scenario(fault.id, step, variant), false);
        wrong_with(&outcome, step, cell.required).map(|how| format!("variant {variant}: {how}"))
    });
    Verdict { wrong }
}

/// What is wrong with an outcome of which this was required.
fn wrong_with(outcome: &Outcome, step: Step, required: Required) -> Option<String> {
    if let Some(broken) = &outcome.broken {
        return Some(broken.to_string());
    }
    if !outcome.steps.contains(&step) {
        return Some(format!("the step {step} was never reached"));
    }
    let seen = &outcome.seen;
    let is_so = match required {
        Required::Commits => ended(outcome) == Some(GenerationKind::Handoff),
        Required::RollsBack => matches!(ended(outcome), None | Some(GenerationKind::Withdrawn)),
        Required::Restores => ended(outcome) == Some(GenerationKind::Restore),
        Required::Refuses => seen.rejects + seen.refusals + seen.violations > 0,
        Required::Quarantines => seen.quarantines > 0,
        Required::Later => true,
    };
    (!is_so).then(|| format!("{required} is required, and it {}", observed(outcome)))
}

/// What the store held last before all healed, if that was decided in the run.
fn ended(outcome: &Outcome) -> Option<GenerationKind> {
    outcome.history[1..outcome.decided].last().map(|record| record.kind)
}

/// An outcome in words.
pub fn observed(outcome: &Outcome) -> String {
    let end = match ended(outcome) {
        None => "decided nothing",
        Some(GenerationKind::Handoff) => "commits",
        Some(GenerationKind::Restore) => "expires with prefix",
        Some(GenerationKind::Withdrawn | GenerationKind::Initial) => "rolls back",
    };
    let seen = &outcome.seen;
    format!(
        "{end}, with {} refusals, {} in quarantine",
        seen.rejects + seen.refusals + seen.violations,
        seen.quarantines
    )
}

/// What each variant of a cell does, for whoever fills in the table.
pub fn observe(fault: &Fault, step: Step) -> Vec<String> {
    let variants = (0..VARIANTS).map(|variant| run(stage::scenario(fault.id, step, variant), false));
    variants
        .map(|outcome| match &outcome.broken {
            Some(broken) => broken.to_string(),
            None if !outcome.steps.contains(&step) => format!("never reached; {}", observed(&outcome)),
            None => observed(&outcome),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_as_many_cells_as_it_says() {
        let cells: Vec<Cell> = FAULTS.iter().flat_map(|fault| fault.cells.iter().flatten()).copied().collect();
        let real = cells.iter().filter(|cell| cell.place == Where::Real).count();
        assert_eq!((FAULTS.len(), cells.len(), real), (36, 236, 147));
    }

    #[test]
    fn a_cell_that_does_something_else_is_found() {
        let fault = &FAULTS[0];
        let cell = Cell { place: Where::Simulator, required: Required::Quarantines };
        assert!(judge(fault, Step::Bulk, cell).wrong.is_some());
    }
}
