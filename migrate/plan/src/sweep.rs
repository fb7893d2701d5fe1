//! Plans against baselines, over many jobs, links, notices, laws and replicas.

use xfer_migrate_core::plan::BlocksError;

use crate::baseline::Baseline;
use crate::copies::{Copies, Standing};
use crate::departure::Departure;
use crate::job::{Job, JobError};
use crate::law::{KillLaw, LinkEstimate};
use crate::mode::Mode;
use crate::report::{Expected, Planned, plan};
use crate::script::Stock;
use crate::shape::Shape;

/// What is varied. Each combination is a cell.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Models, and how many nodes each runs on.
    pub shapes: Vec<(Shape, u32)>,
    /// Links, in bits per second.
    pub links_bits_per_s: Vec<f64>,
    /// Notices, in seconds.
    pub notices_s: Vec<f64>,
    /// When machines die.
    pub laws: Vec<KillLaw>,
    /// Replicas, and the ZeRO stage.
    pub replicas: Vec<(u32, u8)>,
}

/// The part of a link's rate that arrives as payload.
const EFFICIENCY: f64 = 0.92;

/// One combination, and what everybody comes to in it.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The model.
    pub shape: String,
    /// Its nodes.
    pub nodes: u32,
    /// In bits per second.
    pub link_bits_per_s: f64,
    /// In seconds.
    pub notice_s: f64,
    /// When machines die.
    pub law: KillLaw,
    /// Replicas, and the ZeRO stage.
    pub replicas: (u32, u8),
    /// The plan's mode.
    pub mode: Mode,
    /// How much more it loses than any plan must.
    pub gap: f64,
    /// What everybody comes to.
    pub comparison: Comparison,
}

/// What standing copies cost and save in one combination of a model, a link and a notice.
#[derive(Debug, Clone)]
pub struct CopiesCell {
    /// The model.
    pub shape: String,
    /// Its nodes.
    pub nodes: u32,
    /// In bits per second.
    pub link_bits_per_s: f64,
    /// In seconds.
    pub notice_s: f64,
    /// What is copied.
    pub copies: Copies,
    /// What that costs.
    pub standing: Standing,
    /// What a step takes without it, in seconds.
    pub step_s: f64,
    /// What a departure is expected to come to with it.
    pub with: Expected,
    /// Likewise without.
    pub without: Expected,
}

impl CopiesCell {
    /// How many departures of a node there have to be in a day of training for it to save more than it costs; none if it never does.
    pub fn pays_from_per_day(&self) -> Option<f64> {
        let saved_s = self.without.loss_s - self.with.loss_s;
        (saved_s > 0.0).then(|| self.standing.step_cost_s / self.step_s * 86_400.0 / saved_s)
    }
}

/// What everybody comes to in one departure.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The plan.
    pub plan: Expected,
    /// Each baseline.
    pub baselines: Vec<(Baseline, Expected)>,
    /// Who knows the rate and the moment of death beforehand loses this, in seconds.
    pub clairvoyant_s: f64,
}

/// Why a sweep can't be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// There is no such job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Its parcels can't be ordered.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
}

impl Sweep {
    /// Everything that the documentation's tables are about.
    pub fn full() -> Self {
        let nodes = [
            ("gpt3-1.3b", 3),
            ("gpt3-6.7b", 3),
            ("gpt3-13b", 3),
            ("gpt3-175b", 16),
            ("llama3-8b", 3),
            ("llama3-70b", 8),
        ];
        Self {
            shapes: nodes.into_iter().filter_map(|(name, nodes)| Some((Shape::named(name)?, nodes))).collect(),
            links_bits_per_s: vec![5e9, 10e9, 25e9, 100e9, 400e9],
            notices_s: vec![25.0, 30.0, 120.0],
            laws: KillLaw::ALL.map(|(_, law)| law).to_vec(),
            replicas: vec![(1, 0), (2, 0), (2, 1), (8, 0), (8, 1)],
        }
    }

    /// A few cells of each kind, for tests.
    pub fn reduced() -> Self {
        let full = Self::full();
        Self {
            shapes: full.shapes.into_iter().filter(|(shape, _)| shape.layers <= 40).collect(),
            links_bits_per_s: vec![10e9, 100e9],
            notices_s: vec![30.0],
            laws: full.laws,
            replicas: vec![(1, 0), (2, 0), (8, 1)],
        }
    }

    /// Standing copies of either kind for each model without replicas, on machines that live until the deadline.
    pub fn copies(&self) -> Result<Vec<CopiesCell>, SweepError> {
        let mut cells = Vec::new();
        for (shape, nodes) in &self.shapes {
            for link_bits_per_s in &self.links_bits_per_s {
                for notice_s in &self.notices_s {
                    let mut job = Job { nodes: *nodes, ..Job::new(shape.clone()) };
                    job.window.link.bytes_per_s = link_bits_per_s / 8.0 * EFFICIENCY;
                    job.window.notice_s = *notice_s;
                    let without = *plan(&job.departure()?)?.expected();
                    for copies in [Copies::Gradients, Copies::State] {
                        job.copies = copies;
                        cells.push(CopiesCell {
                            shape: shape.name.clone(),
                            nodes: *nodes,
                            link_bits_per_s: *link_bits_per_s,
                            notice_s: *notice_s,
                            copies,
                            standing: job.standing(),
                            step_s: job.step_s(),
                            with: *plan(&job.departure()?)?.expected(),
                            without,
                        });
                    }
                }
            }
        }
        Ok(cells)
    }

    /// All cells.
    pub fn run(&self) -> Result<Vec<Cell>, SweepError> {
        let mut cells = Vec::new();
        for (shape, nodes) in &self.shapes {
            for replicas in &self.replicas {
                let mut job = Job { nodes: *nodes, ..Job::new(shape.clone()) };
                (job.replicas, job.zero) = *replicas;
                let departure = job.departure()?;
                for link_bits_per_s in &self.links_bits_per_s {
                    for notice_s in &self.notices_s {
                        for law in &self.laws {
                            let mut departure = departure.clone();
                            let link = &mut departure.window.link;
                            *link = LinkEstimate { bytes_per_s: link_bits_per_s / 8.0 * EFFICIENCY, ..*link };
                            (departure.window.notice_s, departure.window.law) = (*notice_s, *law);
                            let (planned, comparison) = compare(&departure)?;
                            cells.push(Cell {
                                shape: shape.name.clone(),
                                nodes: *nodes,
                                link_bits_per_s: *link_bits_per_s,
                                notice_s: *notice_s,
                                law: *law,
                                replicas: *replicas,
                                mode: planned.expected().mode,
                                gap: planned.gap(),
                                comparison,
                            });
                        }
                    }
                }
            }
        }
        Ok(cells)
    }
}

/// What everybody comes to in one departure.
pub fn compare(departure: &Departure) -> Result<(Planned, Comparison), BlocksError> {
    let planned = plan(departure)?;
    let stock = Stock::new(departure)?;
    let baselines =
        Baseline::ALL.into_iter().map(|(_, baseline)| (baseline, stock.expect_baseline(baseline))).collect();
    let comparison = Comparison { plan: *planned.expected(), baselines, clairvoyant_s: stock.clairvoyant_loss_s() };
    Ok((planned, comparison))
}

impl Comparison {
    /// The best of all baselines.
    pub fn best_baseline_s(&self) -> f64 {
        self.baselines.iter().map(|(_, expected)| expected.loss_s).fold(f64::INFINITY, f64::min)
    }

    /// Whether a baseline does better than the plan, beyond what rounding does.
    pub fn is_beaten(&self) -> bool {
        self.plan.loss_s > self.best_baseline_s() * (1.0 + 1e-9) + 1e-6
    }
}
