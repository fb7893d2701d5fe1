//! Two faults in one hand-over: the second one, during what the first has set off, is where protocols break.

use std::time::Duration;

use xfer_faults::{PAIRED, VARIANTS};

use super::stage;
use crate::happening::When;
use crate::scenario::Scenario;
use crate::step::Step;
use crate::world::run;

/// Two faults at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The fault that comes first.
    pub first: &'static str,
    /// The one that comes a moment later.
    pub second: &'static str,
    /// When.
    pub step: Step,
}

/// All pairs at all steps.
pub fn pairs() -> impl Iterator<Item = Pair> {
    let two =
        PAIRED.iter().enumerate().flat_map(|(at, first)| PAIRED[at + 1..].iter().map(move |second| (*first, *second)));
    two.flat_map(|(first, second)| Step::ALL.into_iter().map(move |step| Pair { first, second, step }))
}

impl Pair {
    /// What is wrong with it: a promise that is broken in any variant, or an end that is not one of the three.
    pub fn wrong(self) -> Option<String> {
        (0..VARIANTS).find_map(|variant| {
            let outcome = run(self.scenario(variant), false);
            outcome.broken.map(|broken| format!("variant {variant}: {broken}"))
        })
    }

    fn scenario(self, variant: u64) -> Scenario {
        let numbers = [self.first, self.second].map(|fault| fault[1..].parse().unwrap_or(0_u64));
        let seed = 1_000_000 + numbers[0] * 100_000 + numbers[1] * 1000 + self.step as u64 * 10 + variant;
        let mut scenario = stage::base(self.step, seed);
        for (at, fault) in [self.first, self.second].into_iter().enumerate() {
            let later = Duration::from_millis(7 * variant + 1) * at as u32;
            let when = move |more: Duration| When::On(self.step, None, later + more);
            stage::add(&mut scenario, fault, self.step, variant, &when);
        }
        scenario
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_fifteen_pairs_at_nine_steps() {
        assert_eq!(pairs().count(), 15 * 9);
    }
}
