//! What `xfer plan` is asked: a job by its shape or its manifest, a link, a notice.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use xfer::config::parse;
use xfer_plan::{
    Computing, Copies, Departure, Device, Family, Job, KillLaw, LinkEstimate, Shape, Window, limits, manifest,
};

use crate::failure::Failure;

/// Options of `xfer plan`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) further: Option<Further>,
    #[command(flatten)]
    pub(crate) job: JobOptions,
    #[command(flatten)]
    pub(crate) window: WindowOptions,
    /// Plans what a running job wrote into this file, instead of a model.
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub(crate) manifest: Option<PathBuf>,
    /// Writes JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes a page that draws the plan, which needs nothing beside it.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// What else can be asked.
#[derive(Subcommand)]
pub(crate) enum Further {
    /// Compares plans with what others do, over many jobs, links, notices and replicas, or over a trace of preemptions.
    Sweep(Box<super::sweep::Options>),
}

/// The job.
#[derive(Args, Clone)]
pub(crate) struct JobOptions {
    /// gpt3-1.3b, gpt3-6.7b, gpt3-13b, gpt3-175b, llama3-8b, llama3-70b, or custom with --layers and --hidden.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Layers of the model.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count)]
    layers: Option<u64>,
    /// Width of the model.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count)]
    hidden: Option<u64>,
    /// Width inside the MLP [default: four times --hidden].
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count)]
    ffn: Option<u64>,
    /// Attention heads [default: one for each 128 of --hidden].
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count)]
    heads: Option<u64>,
    /// Heads of keys and values, where they are grouped.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count)]
    kv_heads: Option<u64>,
    /// Words of the vocabulary.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count)]
    vocabulary: Option<u64>,
    /// Whether the MLP of a custom model is gated, as in Llama.
    #[arg(long)]
    gated: bool,
    /// Tokens of a sequence.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count)]
    pub(crate) seq: Option<u64>,
    /// Stages of the pipeline, each on a node.
    #[arg(long, allow_hyphen_values = true, value_name = "N", default_value_t = 3)]
    pub(crate) nodes: u32,
    /// How many neighbouring nodes leave.
    #[arg(long, allow_hyphen_values = true, value_name = "N", default_value_t = 1)]
    pub(crate) leaves: u32,
    /// Data-parallel replicas: what they have needn't be sent.
    #[arg(long, allow_hyphen_values = true, value_name = "N", default_value_t = 1)]
    pub(crate) dp: u32,
    /// ZeRO stage: 1 divides master copy and moments among replicas.
    #[arg(long, allow_hyphen_values = true, value_name = "STAGE", default_value_t = 0)]
    pub(crate) zero: u8,
    /// What each node's neighbour keeps of it while training runs: none, gradients (and applies the optimizer to them) or state.
    #[arg(long, value_name = "WHAT", default_value = "none", value_parser = copies)]
    replicate: Copies,
    /// a100, h100, v100, t4 or cpu.
    #[arg(long, value_name = "NAME", default_value = "a100")]
    gpu: String,
    /// What such a device achieves, in TFLOP/s, instead of what is known of it.
    #[arg(long, allow_hyphen_values = true, value_name = "N")]
    tflops: Option<f64>,
    /// How many of them a node has.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count, default_value_t = 1)]
    gpus: u64,
    /// Sequences of a microbatch.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count, default_value_t = 1)]
    batch: u64,
    /// Microbatches of a step.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count, default_value_t = 64)]
    microbatches: u64,
    /// The part of the step that is done when the notice comes.
    #[arg(long, allow_hyphen_values = true, value_name = "PART", default_value_t = 0.5)]
    done: f64,
    /// Bytes of a gradient: 4 where they are accumulated in fp32, else 2.
    #[arg(long, allow_hyphen_values = true, value_name = "N", value_parser = count, default_value_t = 4)]
    grad_bytes: u64,
    /// What a surviving node can take over, as 40GB.
    #[arg(long, allow_hyphen_values = true, value_name = "SIZE", value_parser = parse::size)]
    memory: Option<u64>,
    /// There is a place outside the job for what no survivor has room for.
    #[arg(long)]
    spill: bool,
}

/// The time and the link.
#[derive(Args, Clone)]
pub(crate) struct WindowOptions {
    /// From the notice to the deadline [default: 30s, or what the manifest says].
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) notice: Option<Duration>,
    /// The link of each node, as 10Gbps [default: 10Gbps, or what the manifest says].
    #[arg(long, allow_hyphen_values = true, value_name = "RATE", value_parser = parse::link_rate)]
    pub(crate) link: Option<f64>,
    /// The part of the link's rate that arrives as payload.
    #[arg(long, allow_hyphen_values = true, value_name = "PART", default_value_t = 0.92)]
    efficiency: f64,
    /// How far the rate may be off: the standard deviation of its logarithm.
    #[arg(long, allow_hyphen_values = true, value_name = "S", default_value_t = 0.3)]
    spread: f64,
    /// When machines die: deadline, uniform (any time before it) or early (one in ten, mostly at once).
    #[arg(long, value_name = "LAW", default_value = "deadline", value_parser = law)]
    law: KillLaw,
    /// When new owners compute what isn't sent: after (everything sent is theirs, as xfer.torch does) or beside.
    #[arg(long, value_name = "WHEN", default_value = "after", value_parser = computing)]
    compute: Computing,
    /// Until the notice is heard and the first byte leaves.
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", value_parser = parse::duration, default_value = "500ms")]
    detect: Duration,
    /// Kept free before the deadline for the commit.
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", value_parser = parse::duration, default_value = "250ms")]
    reserve: Duration,
    /// The work since the last checkpoint [default: 15m, or what the manifest says].
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", value_parser = parse::duration)]
    rollback: Option<Duration>,
    /// What reading a checkpoint takes [default: 1m, or what the manifest says].
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", value_parser = parse::duration)]
    reload: Option<Duration>,
}

impl Options {
    /// What is to be planned.
    pub(crate) fn departure(&self) -> Result<Departure, Failure> {
        self.window.check()?;
        match &self.manifest {
            Some(file) => {
                let mut departure = manifest::read(&bounded(file)?)
                    .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
                self.window.apply(&mut departure);
                Ok(departure)
            }
            None => self.job.job(&self.window)?.departure().map_err(Failure::usage),
        }
    }

    /// What is planned, in words.
    pub(crate) fn title(&self) -> String {
        match (&self.manifest, &self.job.model) {
            (Some(file), _) => file.display().to_string(),
            (None, Some(model)) => format!("{model}, {} of {} nodes leave", self.job.leaves, self.job.nodes),
            (None, None) => String::new(),
        }
    }
}

impl JobOptions {
    /// The job that these options describe.
    pub(crate) fn job(&self, window: &WindowOptions) -> Result<Job, Failure> {
        let mut job = Job::new(self.shape()?);
        let known = Device::KNOWN.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(&self.gpu));
        let Some((_, mut device)) = known else {
            let names = Device::KNOWN.map(|(name, _)| name).join(", ");
            return Err(Failure::usage(format!("no device is called `{}`; there are {names}", self.gpu)));
        };
        if let Some(tflops) = self.tflops {
            if !(tflops.is_finite() && tflops > 0.0) {
                return Err(Failure::usage(format!("--tflops is {tflops}; it must be more than 0")));
            }
            device.flops_per_s = tflops * 1e12;
        }
        job.device = device;
        (job.devices, job.nodes, job.leaves) = (self.gpus, self.nodes, self.leaves);
        (job.replicas, job.zero, job.copies) = (self.dp, self.zero, self.replicate);
        (job.batch, job.microbatches, job.done) = (self.batch, self.microbatches, self.done);
        (job.gradient_bytes, job.memory_bytes, job.spill) = (self.grad_bytes, self.memory, self.spill);
        job.window = window.window(30.0, 1.25e9);
        job.rollback_s = window.rollback.map_or(job.rollback_s, |time| time.as_secs_f64());
        job.reload_s = window.reload.map_or(job.reload_s, |time| time.as_secs_f64());
        Ok(job)
    }

    fn shape(&self) -> Result<Shape, Failure> {
        let known = || Shape::known().into_iter().map(|shape| shape.name).collect::<Vec<_>>().join(", ");
        let Some(name) = &self.model else {
            return Err(Failure::usage(format!("say --model NAME or --manifest FILE; models are {}, custom", known())));
        };
        let mut shape = match Shape::named(name) {
            Some(shape) => shape,
            None if name == "custom" => self.custom()?,
            None => {
                let what = format!("no model is called `{name}`; there are {} and custom", known());
                return Err(Failure::usage(what));
            }
        };
        for (option, field) in [
            (self.layers, &mut shape.layers),
            (self.hidden, &mut shape.hidden),
            (self.ffn, &mut shape.ffn),
            (self.heads, &mut shape.heads),
            (self.kv_heads, &mut shape.kv_heads),
            (self.vocabulary, &mut shape.vocabulary),
            (self.seq, &mut shape.sequence),
        ] {
            *field = option.unwrap_or(*field);
        }
        Ok(shape)
    }

    fn custom(&self) -> Result<Shape, Failure> {
        let (Some(layers), Some(hidden)) = (self.layers, self.hidden) else {
            return Err(Failure::usage("a custom model needs --layers and --hidden"));
        };
        let heads = self.heads.unwrap_or_else(|| (hidden / 128).max(1));
        Ok(Shape {
            name: "custom".into(),
            family: if self.gated { Family::Llama } else { Family::Gpt },
            layers,
            hidden,
            ffn: hidden.saturating_mul(4),
            heads,
            kv_heads: heads,
            vocabulary: 50_257,
            sequence: 2048,
        })
    }
}

impl WindowOptions {
    fn check(&self) -> Result<(), Failure> {
        for (option, value, most) in [("--efficiency", self.efficiency, 1.0), ("--spread", self.spread, 3.0)] {
            if !(0.0..=most).contains(&value) {
                return Err(Failure::usage(format!("{option} is {value}; it must be from 0 to {most}")));
            }
        }
        Ok(())
    }

    /// The window, where nothing else says how long the notice is and what the link carries.
    pub(crate) fn window(&self, notice_s: f64, link_bytes_per_s: f64) -> Window {
        let link = self.link.unwrap_or(link_bytes_per_s) * self.efficiency;
        Window {
            notice_s: self.notice.map_or(notice_s, |time| time.as_secs_f64()),
            detect_s: self.detect.as_secs_f64(),
            reserve_s: self.reserve.as_secs_f64(),
            link: LinkEstimate { bytes_per_s: link, spread: self.spread },
            law: self.law,
            computing: self.compute,
        }
    }

    /// Replaces what was said on the command line.
    fn apply(&self, departure: &mut Departure) {
        let window = &mut departure.window;
        window.law = self.law;
        window.computing = self.compute;
        if let Some(notice) = self.notice {
            window.notice_s = notice.as_secs_f64();
        }
        if let Some(link) = self.link {
            window.link = LinkEstimate { bytes_per_s: link * self.efficiency, spread: self.spread };
        }
        if let Some(rollback) = self.rollback {
            departure.progress.rollback_s = rollback.as_secs_f64();
        }
        if let Some(reload) = self.reload {
            departure.progress.reload_s = reload.as_secs_f64();
        }
    }
}

/// A file of a length that can be expected.
pub(crate) fn bounded(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let most = limits::MANIFEST_LEN_BYTES_MAX as u64;
    let read = File::open(file).and_then(|open| open.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|cause| Failure::failed(format!("can't read {}: {cause}", file.display())))?;
    if bytes.len() as u64 > most {
        return Err(Failure::failed(format!("{} is longer than {most} bytes", file.display())));
    }
    Ok(bytes)
}

fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("it must be a whole number from 0 to {}", u64::MAX))
}

fn law(text: &str) -> Result<KillLaw, String> {
    let known = KillLaw::ALL.into_iter().find(|(name, _)| *name == text);
    known.map(|(_, law)| law).ok_or_else(|| "there are deadline, uniform and early".to_owned())
}

fn copies(text: &str) -> Result<Copies, String> {
    let known = Copies::ALL.into_iter().find(|(name, _)| *name == text);
    known.map(|(_, copies)| copies).ok_or_else(|| "there are none, gradients and state".to_owned())
}

fn computing(text: &str) -> Result<Computing, String> {
    match text {
        "after" => Ok(Computing::After),
        "beside" => Ok(Computing::Beside),
        _ => Err("there are after and beside".to_owned()),
    }
}
