//! What others do when a node leaves, in the same terms: scripts whose order knows less.

use xfer_migrate_core::ItemClass;

use crate::departure::Asset;
use crate::mode::{Mode, Shelf};
use crate::report::Expected;
use crate::script::{Kind, Script, Stock};

/// A policy that plans are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Baseline {
    /// Everything, in the order in which it lies there.
    Fifo,
    /// Everything, the smallest first.
    SizeUp,
    /// Everything, the largest first.
    SizeDown,
    /// What `state_dict` has: weights, master copy and moments, layer by layer; the open step is dropped.
    StateDict,
    /// Parameters and moments, layer by layer, the open step dropped: what Bamboo and Parcae move.
    LayerOrder,
    /// Everything by what each item saves per byte, as if each were worth something alone.
    ItemDensity,
    /// All that is irreplaceable is sent, and all that can be computed again is.
    RecomputeAll,
    /// The step is always finished first.
    DrainOnly,
    /// The last checkpoint.
    Checkpoint,
}

impl Baseline {
    /// All of them, with the words for them.
    pub const ALL: [(&'static str, Self); 9] = [
        ("fifo", Self::Fifo),
        ("size up", Self::SizeUp),
        ("size down", Self::SizeDown),
        ("state_dict", Self::StateDict),
        ("params + moments", Self::LayerOrder),
        ("item density", Self::ItemDensity),
        ("recompute all", Self::RecomputeAll),
        ("drain only", Self::DrainOnly),
        ("checkpoint", Self::Checkpoint),
    ];
}

impl Stock<'_> {
    /// What a baseline comes to over all rates and moments of death: its script knows neither.
    pub(crate) fn expect_baseline(&self, baseline: Baseline) -> Expected {
        match baseline {
            Baseline::DrainOnly => return self.expect(Mode::Drain, &mut Shelf::default()),
            Baseline::Checkpoint => return self.expect(Mode::Rollback, &mut Shelf::default()),
            _ => {}
        }
        let (orders, keeps_step) = self.orders(baseline);
        let script = self.script(Mode::Stop, orders, keeps_step);
        self.expect_script(&script)
    }

    /// What `script` comes to, whatever the rate turns out to be.
    fn expect_script(&self, script: &Script) -> Expected {
        let typical = self.outcome(script, self.departure.window.link.bytes_per_s, 1.0);
        let mut expected =
            Expected { mode: script.mode, loss_s: 0.0, bound_s: 0.0, p_rollback: 0.0, p_step_lost: 0.0, typical };
        for rate in &self.rates {
            for (death, likely) in &self.deaths {
                expected.add(likely / self.rates.len() as f64, self.outcome(script, *rate, *death));
            }
        }
        expected.bound_s = expected.loss_s;
        expected
    }

    fn orders(&self, baseline: Baseline) -> (Vec<Vec<usize>>, bool) {
        let assets = &self.departure.assets;
        let is_state = |asset: &Asset| matches!(asset.class, ItemClass::Parameter | ItemClass::OptimizerState);
        // Who doesn't know of copies elsewhere sends those too.
        let mut all = vec![Vec::new(); self.lines];
        for (place, asset) in assets.iter().enumerate() {
            if let Some(line) = self.departure.leaving.iter().position(|rank| asset.holders.contains(rank)) {
                all[line].push(place);
            }
        }
        let mut keeps_step = true;
        for order in &mut all {
            match baseline {
                Baseline::SizeUp => order.sort_by_key(|place| assets[*place].bytes),
                Baseline::SizeDown => order.sort_by_key(|place| std::cmp::Reverse(assets[*place].bytes)),
                Baseline::StateDict | Baseline::LayerOrder => {
                    keeps_step = false;
                    let derived = baseline == Baseline::StateDict;
                    order.retain(|place| {
                        let small = self.kinds[*place] == Kind::State;
                        small || (derived && is_state(&assets[*place]))
                    });
                }
                Baseline::ItemDensity => {
                    let worth = self.worths();
                    order.sort_by(|one, other| worth[*other].total_cmp(&worth[*one]));
                }
                Baseline::RecomputeAll => {
                    order.retain(|place| matches!(self.kinds[*place], Kind::State | Kind::Step));
                    order.sort_by_key(|place| self.kinds[*place] == Kind::Step);
                }
                Baseline::Fifo | Baseline::DrainOnly | Baseline::Checkpoint => {}
            }
        }
        (all, keeps_step)
    }

    /// What each asset saves per byte, taken alone.
    fn worths(&self) -> Vec<f64> {
        let progress = &self.departure.progress;
        let worth = |(place, asset): (usize, &Asset)| {
            let saves_s = match self.kinds[place] {
                Kind::State => progress.rollback_s + progress.reload_s,
                Kind::Step => progress.step_done_s,
                Kind::Computable | Kind::Elsewhere | Kind::Derived => 0.0,
            };
            saves_s / asset.bytes as f64
        };
        let mut worths: Vec<f64> = self.departure.assets.iter().enumerate().map(worth).collect();
        for operation in &self.departure.operations {
            for output in &operation.outputs {
                worths[*output] = operation.time_s / self.departure.assets[*output].bytes as f64;
            }
        }
        worths
    }
}
