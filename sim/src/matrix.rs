//! The fault matrix in the simulator: every fault at every step is staged, and must end as the matrix requires.

mod pairs;
mod stage;

use xfer_faults::{Fault, Required, Simulated, VARIANTS};
use xfer_migrate_core::GenerationKind;

use crate::step::Step;
use crate::world::{Outcome, run};

pub use pairs::{Pair, pairs};

/// What became of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Nothing, if all variants did what is required.
    pub wrong: Option<String>,
}

/// All cells that are staged, with what is required of them.
pub fn staged() -> impl Iterator<Item = (&'static Fault, Step, Required)> {
    xfer_faults::FAULTS.iter().flat_map(|fault| {
        fault.at_steps().filter_map(move |(step, cell)| match cell.simulated {
            Simulated::Ends(required) => Some((fault, step, required)),
            Simulated::Absent(_) => None,
        })
    })
}

/// Runs all variants of a cell.
pub fn judge(fault: &Fault, step: Step, required: Required) -> Verdict {
    let wrong = (0..VARIANTS).find_map(|variant| {
        let outcome = run(stage::scenario(fault.id, step, variant), false);
        wrong_with(&outcome, step, required).map(|how| format!("variant {variant}: {how}"))
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
        Required::Undecided(_) => ended(outcome).is_none(),
        Required::Restores => ended(outcome) == Some(GenerationKind::Restore),
        Required::Refuses(_) => seen.rejects + seen.refusals + seen.violations > 0,
        Required::Quarantines => seen.quarantines > 0,
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
    fn a_cell_that_does_something_else_is_found() {
        assert!(judge(&xfer_faults::FAULTS[0], Step::Bulk, Required::Quarantines).wrong.is_some());
    }
}
