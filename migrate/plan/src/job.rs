//! A training job that is known by its shape, and what is at stake when some of its nodes leave.

use std::collections::BTreeSet;

use xfer_migrate_core::ItemClass;
use xfer_migrate_core::plan::Computing;

use crate::copies::Copies;
use crate::departure::{Asset, Departure, DepartureError, Handling, Operation, Progress, Window};
use crate::law::{KillLaw, LinkEstimate};
use crate::limits;
use crate::shape::{Device, Shape, Tensor};

/// A pipeline-parallel job in bf16 with an fp32 master copy and Adam, seen in the middle of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The model.
    pub shape: Shape,
    /// What computes, on each node.
    pub device: Device,
    /// How many of these a node has.
    pub devices: u64,
    /// Nodes of one pipeline, each a stage.
    pub nodes: u32,
    /// How many of them leave, in the middle of the pipeline.
    pub leaves: u32,
    /// Pipelines that train on different data.
    pub replicas: u32,
    /// How far state is divided among replicas: 0 not, 1 the master copy and Adam's moments.
    pub zero: u8,
    /// What a neighbour keeps of every stage's state while training runs.
    pub copies: Copies,
    /// Sequences of a microbatch.
    pub batch: u64,
    /// Microbatches of a step.
    pub microbatches: u64,
    /// The part of the step that is done.
    pub done: f64,
    /// Bytes of a gradient.
    pub gradient_bytes: u64,
    /// What a surviving node can take over, in bytes; none if that is no question. Who is offered more refuses.
    pub memory_bytes: Option<u64>,
    /// Whether there is a place outside the job that takes what no survivor has room for.
    pub spill: bool,
    /// The work since the last checkpoint, in seconds.
    pub rollback_s: f64,
    /// What reading a checkpoint takes, in seconds.
    pub reload_s: f64,
    /// The time and the link that there are.
    pub window: Window,
}

/// Why there is no such job.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// A number makes no sense.
    #[error("{what} is {value}; it must be {range}")]
    Number {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        range: String,
    },
    /// Nobody is left to take over.
    #[error(
        "{} and nobody takes over: name a place to spill to, or leave with fewer",
        if *nodes == 1 { "the only node leaves".to_owned() } else { format!("all {nodes} nodes leave") }
    )]
    NobodyStays {
        /// How many there are.
        nodes: u32,
    },
    /// The parts don't hold together.
    #[error(transparent)]
    Departure(#[from] DepartureError),
}

/// The rank of the place outside the job.
pub const SPILL_RANK: u32 = u32::MAX;

/// Bytes of an Adam parameter's fp32 master copy, and of each moment.
const STATE_BYTES: u64 = 4;

/// The description of a forward that its replay needs, in bytes: as xfer.torch writes it for a transformer block.
const META_BYTES: u64 = 20_000;

/// The state of a random stream, in bytes: as PyTorch keeps it.
const RNG_BYTES: u64 = 5056;

impl Job {
    /// The job that the options of the command line start from.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            device: Device::KNOWN[0].1,
            devices: 1,
            nodes: 3,
            leaves: 1,
            replicas: 1,
            zero: 0,
            copies: Copies::None,
            batch: 1,
            microbatches: 64,
            done: 0.5,
            gradient_bytes: 4,
            memory_bytes: None,
            spill: false,
            rollback_s: 900.0,
            reload_s: 60.0,
            window: Window {
                notice_s: 30.0,
                detect_s: 0.5,
                reserve_s: 0.25,
                link: LinkEstimate { bytes_per_s: 1.15e9, spread: 0.3 },
                law: KillLaw::AtDeadline,
                computing: Computing::After,
            },
        }
    }

    /// The ranks that leave.
    pub fn leaving(&self) -> std::ops::Range<u32> {
        let first = (self.nodes - self.leaves) / 2;
        first..first + self.leaves
    }

    /// How long a step takes, in seconds: microbatches one after the other, and the pipeline filling and draining.
    pub fn step_s(&self) -> f64 {
        let layers = self.shape.layers.div_ceil(u64::from(self.nodes)) as f64;
        let forward_s = layers * self.shape.forward_s(self.batch, self.device, self.devices);
        // A backward is two forwards.
        (self.microbatches + u64::from(self.nodes) - 1) as f64 * 3.0 * forward_s
    }

    /// What is at stake when its nodes leave.
    pub fn departure(&self) -> Result<Departure, JobError> {
        self.check()?;
        self.check_count()?;
        let step_s = self.step_s();
        let mut builder = Builder { job: self, assets: Vec::new(), operations: Vec::new() };
        for rank in self.leaving() {
            let first = builder.assets.len();
            builder.add_stage(rank)?;
            builder.keep_copies(rank, first);
        }
        let staying = f64::from(self.nodes - self.leaves);
        let progress = Progress {
            step_done_s: step_s * self.done,
            step_left_s: step_s * (1.0 - self.done),
            // Where nobody stays, others of the same number take over from where it was spilled to.
            slowdown: if staying > 0.0 { f64::from(self.nodes) / staying } else { 1.0 },
            rollback_s: self.rollback_s,
            reload_s: self.reload_s,
            redo: true,
        };
        let Builder { assets, operations, .. } = builder;
        let leaving = self.leaving().collect();
        let targets: BTreeSet<u32> =
            assets.iter().map(|asset| asset.target).filter(|rank| *rank != SPILL_RANK).collect();
        let memory_bytes =
            self.memory_bytes.iter().flat_map(|bytes| targets.iter().map(|rank| (*rank, *bytes))).collect();
        let (window, handling) = (self.window, Handling::default());
        Ok(Departure { assets, operations, leaving, progress, window, handling, memory_bytes }.check()?)
    }

    /// Whether all that leaves can be planned, counted before any of it is made: deep pipelines have forwards by the million.
    fn check_count(&self) -> Result<(), DepartureError> {
        let per_tensor = |tensors: Vec<Tensor>| 5 * tensors.len() as u64;
        let (block, saved) = (per_tensor(self.shape.block()), self.shape.saved(self.batch).len() as u64 + 2);
        let ends = per_tensor(self.shape.entry()) + per_tensor(self.shape.exit());
        let of_stage = |rank: u32| {
            let layers = layers_of(self, rank);
            (layers.end - layers.start) * (block + saved * self.in_flight(rank)) + ends + 1
        };
        let count = self.leaving().map(of_stage).sum::<u64>() as usize;
        let max = limits::ASSETS_MAX;
        if count > max { Err(DepartureError::TooMany { what: "assets", count, max }) } else { Ok(()) }
    }

    /// Forwards that wait for their backward at a stage, as 1F1B has them there.
    fn in_flight(&self, rank: u32) -> u64 {
        if self.done > 0.0 { u64::from(self.nodes - rank).min(self.microbatches) } else { 0 }
    }

    fn check(&self) -> Result<(), JobError> {
        let Shape { layers, hidden, ffn, heads, kv_heads, vocabulary, sequence, .. } = self.shape;
        // Products of these stay within 64 bits.
        for (what, value, most) in [
            ("the number of layers", layers, 4096),
            ("the width", hidden, 1 << 20),
            ("the width of the MLP", ffn, 1 << 22),
            ("the number of heads", heads, hidden),
            ("the number of key heads", kv_heads, heads),
            ("the vocabulary", vocabulary, 1 << 22),
            ("the sequence", sequence, 1 << 22),
            ("the microbatch", self.batch, 4096),
            ("the number of microbatches", self.microbatches, 1 << 20),
            ("the number of devices", self.devices, 1024),
            ("the number of nodes", u64::from(self.nodes), layers.min(limits::RANKS_MAX as u64)),
            ("the number of leaving nodes", u64::from(self.leaves), u64::from(self.nodes)),
            ("the number of replicas", u64::from(self.replicas), limits::RANKS_MAX as u64),
            ("the bytes of a gradient", self.gradient_bytes, 8),
        ] {
            if value == 0 || value > most {
                let range = format!("from 1 to {most}");
                return Err(JobError::Number { what, value: value.to_string(), range });
            }
        }
        for (what, value) in
            [("the part of the step that is done", self.done), ("the ZeRO stage", f64::from(self.zero))]
        {
            if !(0.0..=1.0).contains(&value) {
                return Err(JobError::Number { what, value: value.to_string(), range: "from 0 to 1".into() });
            }
        }
        for (what, value) in [
            ("the device's operations per second", self.device.flops_per_s),
            ("the device's memory rate", self.device.memory_bytes_per_s),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(JobError::Number { what, value: value.to_string(), range: "more than 0".into() });
            }
        }
        if self.leaves == self.nodes && self.replicas == 1 && !self.spill {
            return Err(JobError::NobodyStays { nodes: self.nodes });
        }
        Ok(())
    }
}

struct Builder<'a> {
    job: &'a Job,
    assets: Vec<Asset>,
    operations: Vec<Operation>,
}

impl Builder<'_> {
    /// Everything of one stage that leaves.
    fn add_stage(&mut self, rank: u32) -> Result<(), JobError> {
        let job = self.job;
        let layers = layers_of(job, rank);
        let mut given: Option<usize> = None;
        for layer in layers.clone() {
            let target = self.target(rank, layer);
            let mut tensors = Vec::new();
            if layer == 0 {
                tensors.extend(job.shape.entry());
            }
            tensors.extend(job.shape.block());
            if layer + 1 == job.shape.layers {
                tensors.extend(job.shape.exit());
            }
            self.add_state(rank, layer, target, &tensors);
        }
        for microbatch in 0..job.in_flight(rank) {
            for layer in layers.clone() {
                let target = self.target(rank, layer);
                let input = given.filter(|_| layer > layers.start);
                given = Some(self.add_forward(rank, layer, microbatch, target, input));
            }
        }
        self.add(format!("stage.{rank}.cursor"), ItemClass::Meta, 1024, vec![rank], self.target(rank, layers.start));
        Ok(())
    }

    /// Of what was added from `first` on, the next rank has what was copied by now: the first tensors of a step go first.
    fn keep_copies(&mut self, rank: u32, first: usize) {
        let keeper = (rank + 1) % self.job.nodes;
        let is_state = |asset: &Asset| {
            matches!(asset.class, ItemClass::Parameter | ItemClass::OptimizerState) && asset.holders == [rank]
        };
        let state = &mut self.assets[first..];
        let all = state.iter().filter(|asset| is_state(asset)).map(|asset| asset.bytes).sum::<u64>() as f64;
        let mut left = all * self.job.copied();
        for asset in state.iter_mut().filter(|asset| is_state(asset)) {
            left -= asset.bytes as f64;
            if left < -0.5 || keeper == rank {
                return;
            }
            asset.holders.push(keeper);
        }
    }

    /// Who takes a layer over: the survivors next to the run of ranks that leave, half of it each.
    fn target(&self, rank: u32, layer: u64) -> u32 {
        let job = self.job;
        let leaving = job.leaving();
        let (left, right) = (leaving.start.checked_sub(1), Some(leaving.end).filter(|rank| *rank < job.nodes));
        let all = layers_of(job, leaving.start).start..layers_of(job, leaving.end - 1).end;
        let first_half = layer < all.start + (all.end - all.start).div_ceil(2);
        let neighbour = if first_half { left.or(right) } else { right.or(left) };
        // Without a survivor in the pipeline, the same stage of the next pipeline takes over, or the place to spill to.
        let whole_pipeline = || if job.replicas > 1 { replica_of(job, rank, 1) } else { SPILL_RANK };
        let target = neighbour.unwrap_or_else(whole_pipeline);
        let room = job.memory_bytes.unwrap_or(u64::MAX);
        let before = if first_half { layer - all.start } else { all.end - 1 - layer };
        let per_layer = self.layer_bytes();
        if job.spill && (before + 1).saturating_mul(per_layer) > room { SPILL_RANK } else { target }
    }

    /// What a layer takes of a node's memory: bf16 weights, gradients, master copy and moments.
    fn layer_bytes(&self) -> u64 {
        let elements: u64 = self.job.shape.block().iter().map(|(_, elements)| elements).sum();
        elements * (2 + self.job.gradient_bytes + 3 * STATE_BYTES)
    }

    fn add_state(&mut self, rank: u32, layer: u64, target: u32, tensors: &[Tensor]) {
        let job = self.job;
        let replicas: Vec<u32> = (0..job.replicas).map(|replica| replica_of(job, rank, replica)).collect();
        // With ZeRO each replica has its own part of the optimizer's state; ours is the one that is at stake.
        let divided = job.zero >= 1;
        let (holders, share) = if divided { (vec![rank], u64::from(job.replicas)) } else { (replicas.clone(), 1) };
        for (name, elements) in tensors {
            let name = format!("layers.{layer}.{name}");
            let part = elements.div_ceil(share);
            let master =
                self.add(format!("{name}/master"), ItemClass::Parameter, part * STATE_BYTES, holders.clone(), target);
            for moment in ["exp_avg", "exp_avg_sq"] {
                let bytes = part * STATE_BYTES;
                self.add(format!("{name}/{moment}"), ItemClass::OptimizerState, bytes, holders.clone(), target);
            }
            let weights = self.add(name.clone(), ItemClass::Parameter, elements * 2, replicas.clone(), target);
            if !divided {
                self.add_operation(format!("cast {name}"), 0.0, weights, vec![master]);
            }
            self.add(
                format!("{name}/gradient"),
                ItemClass::Gradient,
                elements * job.gradient_bytes,
                vec![rank],
                target,
            );
        }
    }

    /// What a forward in flight has saved; the place of its output, which the next layer is given.
    fn add_forward(&mut self, rank: u32, layer: u64, microbatch: u64, target: u32, given: Option<usize>) -> usize {
        let job = self.job;
        let name = |part: &str| format!("layers.{layer}.forward.{microbatch}.{part}");
        self.add(name("rng"), ItemClass::Rng, RNG_BYTES, vec![rank], target);
        let meta = self.add(name("meta"), ItemClass::Meta, META_BYTES, vec![rank], target);
        // It is made along with anything that is made again.
        self.add_operation(name("describe"), 1e-6, meta, Vec::new());
        let mut input = given;
        for saved in job.shape.saved(job.batch) {
            let place = self.add(name(saved.name), ItemClass::Saved, saved.bytes, vec![rank], target);
            self.assets[place].needs = vec![meta];
            let time_s = saved.time_s(job.device, job.devices);
            self.add_operation(format!("run {}", name(saved.name)), time_s, place, input.into_iter().collect());
            input = Some(place);
        }
        input.unwrap_or(meta)
    }

    fn add(&mut self, name: String, class: ItemClass, bytes: u64, holders: Vec<u32>, target: u32) -> usize {
        self.assets.push(Asset { name, class, bytes, version: 1, holders, target, needs: Vec::new() });
        self.assets.len() - 1
    }

    fn add_operation(&mut self, name: String, time_s: f64, output: usize, inputs: Vec<usize>) {
        self.operations.push(Operation { name, time_s, outputs: vec![output], inputs });
    }
}

/// The layers of a stage: as even as possible, the longer ones first.
fn layers_of(job: &Job, rank: u32) -> std::ops::Range<u64> {
    let (nodes, rank) = (u64::from(job.nodes), u64::from(rank));
    let (each, more) = (job.shape.layers / nodes, job.shape.layers % nodes);
    let start = rank * each + rank.min(more);
    start..start + each + u64::from(rank < more)
}

/// The rank of the same stage in another pipeline.
fn replica_of(job: &Job, rank: u32, replica: u32) -> u32 {
    replica * job.nodes + rank
}
