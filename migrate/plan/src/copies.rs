//! Standing copies: state that a neighbour keeps while training runs, so that it isn't at stake when a node leaves; and what that costs
//! in every step.

use crate::job::Job;

/// What every stage sends its neighbour in each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copies {
    /// Nothing.
    #[default]
    None,
    /// Its gradients, to which the neighbour applies the same optimizer: a shadow of master copy and moments.
    Gradients,
    /// Master copy and moments, as the optimizer has left them.
    State,
}

/// What standing copies cost while nothing happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// What the largest stage sends in a step, in bytes.
    pub bytes: u64,
    /// The part of a step for which that keeps its link busy, at the expected rate; more than 1 where a step is too short for it.
    pub link_busy: f64,
    /// By how much a step is longer, in seconds: what the link can't do beside it, and the shadow's optimizer.
    pub step_cost_s: f64,
    /// What each node keeps of its neighbour, in bytes.
    pub memory_bytes: u64,
}

/// Bytes of master copy and moments, for each parameter.
const STATE_BYTES: u64 = 12;

impl Copies {
    /// All of them, with the words for them.
    pub const ALL: [(&'static str, Self); 3] =
        [("none", Self::None), ("gradients", Self::Gradients), ("state", Self::State)];
}

impl Job {
    /// What its standing copies cost.
    pub fn standing(&self) -> Standing {
        let parameters = self.stage_parameters();
        let (bytes, moved_bytes) = match self.copies {
            Copies::None => (0, 0),
            // The shadow reads and writes all of it once a step, as the optimizer does.
            Copies::Gradients => {
                (parameters * self.gradient_bytes, parameters * (2 * STATE_BYTES + self.gradient_bytes))
            }
            Copies::State => (parameters * STATE_BYTES, 0),
        };
        let (copy_s, step_s) = (self.copy_s(bytes), self.step_s());
        let optimizer_s = moved_bytes as f64 / self.device.memory_bytes_per_s / self.devices as f64;
        Standing {
            bytes,
            link_busy: copy_s / step_s,
            step_cost_s: (copy_s - step_s).max(0.0) + optimizer_s,
            memory_bytes: if self.copies == Copies::None { 0 } else { parameters * STATE_BYTES },
        }
    }

    /// The part of its neighbour's state that a node has by now: what the last step has left travels while this one runs.
    pub(crate) fn copied(&self) -> f64 {
        let bytes = self.standing().bytes;
        let copy_s = self.copy_s(bytes);
        match self.copies {
            Copies::None => 0.0,
            _ if copy_s <= 0.0 => 1.0,
            _ => (self.done * self.step_s() / copy_s).min(1.0),
        }
    }

    fn copy_s(&self, bytes: u64) -> f64 {
        if bytes == 0 { 0.0 } else { bytes as f64 / self.window.link.bytes_per_s }
    }

    /// The parameters of the first stage, which has the embedding and at least as many layers as any other.
    fn stage_parameters(&self) -> u64 {
        let sum = |tensors: Vec<(&str, u64)>| tensors.iter().map(|(_, elements)| elements).sum::<u64>();
        self.shape.layers.div_ceil(u64::from(self.nodes)) * sum(self.shape.block()) + sum(self.shape.entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plan;
    use crate::shape::Shape;

    fn job(copies: Copies) -> Job {
        let mut job = Job { copies, ..Job::new(Shape::named("gpt3-6.7b").expect("known")) };
        // 100 Gb/s: over ten, a copy of all state takes twice as long as a step.
        job.window.link.bytes_per_s = 11.5e9;
        job
    }

    #[test]
    fn what_a_neighbour_keeps_is_not_at_stake_and_costs_its_share_of_every_step() {
        let planned = |job: &Job| plan(&job.departure().expect("a departure")).expect("it can be ordered");
        let [none, gradients, state] = Copies::ALL.map(|(_, copies)| planned(&job(copies)));
        assert!(none.state_bytes > 20_000_000_000, "a third of 6.9 billion parameters, 12 bytes each");
        for copied in [&gradients, &state] {
            assert!(copied.state_bytes < 10_000_000, "tables and cursors: {}", copied.state_bytes);
            assert!(copied.expected().p_rollback < 1e-9 && copied.expected().loss_s < none.expected().loss_s);
        }
        let [none, gradients, state] = Copies::ALL.map(|(_, copies)| job(copies).standing());
        assert_eq!((none.bytes, none.link_busy, none.step_cost_s, none.memory_bytes), (0, 0.0, 0.0, 0));
        assert_eq!(state.bytes, 3 * gradients.bytes, "fp32 gradients against a master copy and two moments");
        assert!(state.link_busy > gradients.link_busy && gradients.link_busy > 0.0);
        assert!(gradients.step_cost_s > 0.0, "the shadow's optimizer");
    }

    #[test]
    fn a_copy_that_is_still_on_its_way_leaves_the_rest_at_stake() {
        let mut slow = job(Copies::State);
        slow.window.link.bytes_per_s = slow.standing().bytes as f64 / slow.step_s();
        assert!((slow.copied() - 0.5).abs() < 1e-9, "half of a step, and it takes a whole one");
        let at_stake = plan(&slow.departure().expect("a departure")).expect("it can be ordered").state_bytes;
        let all = plan(&job(Copies::None).departure().expect("a departure")).expect("it can be ordered").state_bytes;
        assert!((0.3..0.7).contains(&(at_stake as f64 / all as f64)), "{at_stake} of {all}");
        slow.window.link.bytes_per_s /= 4.0;
        assert!(slow.standing().step_cost_s > 2.9 * slow.step_s(), "a step waits for its copy");
    }

    #[test]
    fn a_copy_at_a_neighbour_that_leaves_too_is_none() {
        let two = Job { nodes: 4, leaves: 2, ..job(Copies::State) };
        let departure = two.departure().expect("a departure");
        let at_stake = |rank: u32| {
            departure.assets.iter().filter(|asset| asset.holders == [rank]).map(|asset| asset.bytes).sum::<u64>()
        };
        let copied = |rank: u32| departure.assets.iter().any(|asset| asset.holders == [rank, rank + 1]);
        assert!(copied(1) && copied(2));
        assert!(at_stake(1) > 0, "gradients, at least");
        let carried = departure.assets.iter().filter(|asset| departure.carrier(asset) == Some(1)).count();
        assert!(carried > departure.assets.iter().filter(|asset| departure.carrier(asset) == Some(2)).count());
    }
}
